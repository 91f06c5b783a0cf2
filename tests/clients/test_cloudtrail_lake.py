"""CloudTrail Lake's query operations with boto3, as hunting scripts call them: StartQuery and its kin, at the trail's HTTP door."""

import configparser
import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from service import ACCOUNT, REGION
from sql_server import SLOW, SqlServer

# Any store's id means the one log that there is.
STORE = "0199b000-f852-4e8f-8bd1-bcf6c1111111"
ADMIN = f"arn:aws:iam::{ACCOUNT}:user/administrator"
ROLE = """
[roles.cloudtrail]
timeout = "1m"
rows_max = 5000
connections_max = 2
tables = ["cloudtrail", "events"]
"""


class Lake(SqlServer):
    def __init__(self, folder, role=ROLE):
        super().__init__(folder)
        with open(self.service.folder / "sql-users.toml", "a", encoding="utf-8") as file:
            file.write(role)

    def lake(self, who="administrator", **changes):
        person, file = self.service.people[who], configparser.ConfigParser()
        file.read(person.credentials)
        names = dict(file[person.profile])
        return boto3.client(
            "cloudtrail",
            region_name=REGION,
            endpoint_url=f"https://{self.service.ready['http']}",
            verify=str(self.authority.pem),
            config=Config(retries={"max_attempts": 2}),
            **(names | changes),
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Lake(tmp_path_factory.mktemp("lake")) as server:
        yield server


@pytest.fixture(scope="module")
def lake(server):
    return server.lake()


def started(lake, statement):
    """Once there is room: a query that was cancelled holds its place until it has ended."""
    while True:
        try:
            return lake.start_query(QueryStatement=statement)["QueryId"]
        except lake.exceptions.MaxConcurrentQueriesException:
            time.sleep(0.1)


def ended(lake, query, **more):
    """As scripts wait: until the query is in no state that goes on."""
    while True:
        told = lake.describe_query(QueryId=query, **more)
        if told["QueryStatus"] not in ("QUEUED", "RUNNING"):
            return told
        time.sleep(0.1)


def rows(lake, statement):
    query = started(lake, statement)
    told = ended(lake, query)
    assert told["QueryStatus"] == "FINISHED", told
    found = []
    for page in pages(lake, QueryId=query):
        found += [{name: value for column in row for name, value in column.items()} for row in page["QueryResultRows"]]
    return found


def pages(lake, **asked):
    while True:
        page = lake.get_query_results(**asked)
        yield page
        if "NextToken" not in page:
            return
        asked["NextToken"] = page["NextToken"]


def refused(call, **asked):
    with pytest.raises(ClientError) as caught:
        call(**asked)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_hunt_runs(server, lake):
    hunt = f"""
        SELECT eventTime, eventName, userIdentity.arn, errorCode, element_at(requestParameters, 'description') AS description
        FROM {STORE} WHERE eventSource = 'kms.amazonaws.com' AND eventName = 'CreateKey' AND eventTime > '2020-01-01 00:00:00'
        ORDER BY eventTime"""
    found = rows(lake, hunt)
    assert [row["description"] for row in found] == ["one", "two"]
    assert (found[0]["eventName"], found[0]["arn"], found[0]["errorCode"]) == ("CreateKey", ADMIN, "")
    # As CloudTrail Lake shows times.
    assert len(found[0]["eventTime"]) == len("2026-01-05 12:00:00.000") and found[0]["eventTime"][10] == " "


def test_what_is_told_of_a_query(server, lake):
    statement = f"SELECT count(*) AS n FROM {STORE}"
    query = started(lake, statement)
    told = ended(lake, query, EventDataStore=f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:eventdatastore/{STORE}")
    assert (told["QueryId"], told["QueryString"], told["QueryStatus"]) == (query, statement, "FINISHED")
    statistics = told["QueryStatistics"]
    assert statistics["EventsMatched"] == 1 and statistics["ExecutionTimeInMillis"] >= 0
    assert abs(statistics["CreationTime"].timestamp() - time.time()) < 3_600
    result = lake.get_query_results(QueryId=query)
    assert result["QueryStatistics"] == {"ResultsCount": 1, "TotalResultsCount": 1, "BytesScanned": 0}
    assert int(result["QueryResultRows"][0][0]["n"]) > 0
    listed = lake.list_queries(EventDataStore=STORE, QueryStatus="FINISHED")["Queries"]
    assert query in [one["QueryId"] for one in listed]
    assert lake.list_queries(EventDataStore=STORE, QueryStatus="TIMED_OUT")["Queries"] == []


def test_rows_come_in_pages_and_queries_too(lake):
    query = started(lake, "SELECT value FROM generate_series(1, 2500) ORDER BY value")
    assert ended(lake, query)["QueryStatus"] == "FINISHED"
    sizes = [len(page["QueryResultRows"]) for page in pages(lake, QueryId=query)]
    assert sizes == [1000, 1000, 500]
    page = lake.get_query_results(QueryId=query, MaxQueryResults=7)
    assert page["QueryStatistics"]["ResultsCount"] == 7 and page["QueryStatistics"]["TotalResultsCount"] == 2500
    second = lake.get_query_results(QueryId=query, MaxQueryResults=7, NextToken=page["NextToken"])
    assert second["QueryResultRows"][0] == [{"value": "8"}]
    one = lake.list_queries(EventDataStore=STORE, MaxResults=1)
    other = lake.list_queries(EventDataStore=STORE, MaxResults=1, NextToken=one["NextToken"])
    assert one["Queries"][0]["QueryId"] == query and other["Queries"][0]["QueryId"] != query


def test_a_query_is_cancelled(lake):
    query = started(lake, SLOW)
    assert lake.get_query_results(QueryId=query)["QueryStatus"] == "RUNNING"
    assert lake.cancel_query(QueryId=query)["QueryStatus"] == "CANCELLED"
    assert ended(lake, query)["QueryStatus"] == "CANCELLED"
    assert lake.get_query_results(QueryId=query)["QueryResultRows"] == []
    assert refused(lake.cancel_query, QueryId=query)[0] == "InactiveQueryException"


def test_so_many_run_at_once(lake):
    running = [started(lake, SLOW) for _ in range(2)]
    assert refused(lake.start_query, QueryStatement="SELECT 1")[0] == "MaxConcurrentQueriesException"
    for query in running:
        lake.cancel_query(QueryId=query)
    assert rows(lake, "SELECT 1 AS one") == [{"one": "1"}]


def test_a_query_that_fails_says_why(lake):
    query = started(lake, "SELECT value FROM generate_series(1, 6000)")
    told = ended(lake, query)
    assert told["QueryStatus"] == "FAILED" and "5000 rows" in told["ErrorMessage"]
    assert lake.get_query_results(QueryId=query)["ErrorMessage"] == told["ErrorMessage"]


@pytest.mark.parametrize(
    "operation, asked, code",
    [
        ("start_query", {"QueryStatement": "SELEC 1"}, "InvalidQueryStatementException"),
        ("start_query", {"QueryStatement": f"SELECT nothing FROM {STORE}"}, "InvalidQueryStatementException"),
        ("start_query", {"QueryStatement": f"DELETE FROM {STORE}"}, "InvalidQueryStatementException"),
        # Not one of the role's tables.
        ("start_query", {"QueryStatement": "SELECT * FROM records"}, "InvalidQueryStatementException"),
        ("start_query", {"QueryStatement": "SELECT 1 --" + "x" * 9_990}, "InvalidQueryStatementException"),
        ("start_query", {"QueryStatement": "SELECT 1", "DeliveryS3Uri": "s3://bucket/prefix"}, "UnsupportedOperationException"),
        ("start_query", {"QueryAlias": "dashboards"}, "UnsupportedOperationException"),
        ("describe_query", {"QueryId": STORE}, "QueryIdNotFoundException"),
        ("describe_query", {"QueryAlias": "dashboards"}, "InvalidParameterException"),
        ("get_query_results", {"QueryId": STORE}, "QueryIdNotFoundException"),
        ("cancel_query", {"QueryId": STORE}, "QueryIdNotFoundException"),
        ("list_queries", {"EventDataStore": STORE, "NextToken": "nothing"}, "InvalidNextTokenException"),
        ("list_queries", {"EventDataStore": STORE, "QueryStatus": "ASLEEP"}, "InvalidQueryStatusException"),
        ("list_queries", {"EventDataStore": STORE, "StartTime": 2, "EndTime": 1}, "InvalidDateRangeException"),
        ("list_queries", {"EventDataStore": "what? no"}, "EventDataStoreARNInvalidException"),
        ("list_event_data_stores", {}, "UnknownOperationException"),
    ],
)
def test_errors_have_awss_names(lake, operation, asked, code):
    assert refused(getattr(lake, operation), **asked)[0] == code


def test_who_may_call_is_the_key_services_to_say(server, lake):
    # No policy of the application speaks of cloudtrail.
    code, message = refused(server.lake("app").start_query, QueryStatement="SELECT 1")
    assert code == "AccessDeniedException" and "cloudtrail:StartQuery" in message
    wrong = server.lake(aws_secret_access_key="wrong" * 8)
    assert refused(wrong.start_query, QueryStatement="SELECT 1")[0] == "InvalidSignatureException"
    unknown = server.lake(aws_access_key_id="AKIAUNKNOWNUNKNOWN00")
    assert refused(unknown.list_queries, EventDataStore=STORE)[0] == "UnrecognizedClientException"
    # A session, with its token.
    session = server.service.client(service="sts").get_session_token()["Credentials"]
    keys = {"aws_access_key_id": session["AccessKeyId"], "aws_secret_access_key": session["SecretAccessKey"]}
    assert rows(server.lake(**keys, aws_session_token=session["SessionToken"]), "SELECT 1 AS one") == [{"one": "1"}]
    assert refused(server.lake(**keys).start_query, QueryStatement="SELECT 1")[0] == "UnrecognizedClientException"


def test_each_call_and_each_query_is_in_the_log(server, lake):
    marker = "SELECT 'a-marked-query' AS marker"
    query = started(lake, marker)
    ended(lake, query)
    calls = server.service.sql(
        "SELECT event_name, principal_arn, json_get_str(request_parameters, 'queryStatement') AS statement, error_code FROM events"
        " WHERE event_source = 'cloudtrail.amazonaws.com' ORDER BY seq"
    )
    mine = [call for call in calls if call["statement"] == marker]
    assert [(call["event_name"], call["principal_arn"], call["error_code"]) for call in mine] == [("StartQuery", ADMIN, None)]
    assert {"DescribeQuery", "GetQueryResults", "CancelQuery", "ListQueries"} <= {call["event_name"] for call in calls}
    runs = server.recorded(f"json_get_str(request_parameters, 'queryId') = '{query}'")
    assert [run["event_name"] for run in runs] == ["RunQuery", "EndQuery"]
    assert '"door":"api"' in runs[0]["request_parameters"] and ADMIN in runs[0]["request_parameters"]


def test_without_the_role_nobody_comes_in(tmp_path):
    with Lake(tmp_path, role="") as server:
        code, message = refused(server.lake().start_query, QueryStatement="SELECT 1")
        assert code == "AccessDeniedException" and "no role" in message
