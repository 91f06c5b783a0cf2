"""SQL written for CloudTrail Lake and Athena, over HTTP: the view `cloudtrail`."""

import pytest

from service import ACCOUNT, REGION, wait_for
from sql_server import SqlServer
from test_sql_http import rows


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("sql")) as server:
        app, kms = server.service.client("app"), server.service.client()
        kms.describe_key(KeyId=server.key)
        with pytest.raises(app.exceptions.ClientError):
            app.schedule_key_deletion(KeyId=server.key)
        # An answered call reaches the trail a moment later.
        denied = "SELECT seq FROM events WHERE event_name = 'ScheduleKeyDeletion'"
        wait_for("the refused call in the trail", lambda: server.service.sql(denied))
        yield server


def test_a_hunt_of_cloudtrail_lake(server):
    """Capitals, a struct's members, times without a zone; labels as Lake gives them."""
    hunt = """
        SELECT userIdentity.arn, eventName, sourceIPAddress, count(*) AS calls FROM cloudtrail
        WHERE eventSource = 'kms.amazonaws.com' AND errorCode LIKE '%AccessDenied%'
          AND eventTime > '2020-01-01 00:00:00' AND eventTime < '2099-01-01 00:00:00'
        GROUP BY userIdentity.arn, eventName, sourceIPAddress ORDER BY calls DESC"""
    [denied] = rows(server, hunt)
    assert denied == {"arn": f"arn:aws:iam::{ACCOUNT}:user/app", "eventname": "ScheduleKeyDeletion", "sourceipaddress": "127.0.0.1", "calls": 1}


def test_a_query_of_athena(server):
    query = """
        SELECT eventtime, useridentity.username, json_extract_scalar(requestparameters, '$.description') AS description
        FROM cloudtrail WHERE eventname = 'CreateKey' AND useridentity.type = 'IAMUser' ORDER BY eventtime"""
    assert [row["description"] for row in rows(server, query)] == ["one", "two"]
    members = "SELECT element_at(requestParameters, 'description') AS d, element_at(requestParameters, 'no') AS n FROM cloudtrail WHERE eventName = 'CreateKey' AND requestParameters LIKE '%two%'"
    assert rows(server, members) == [{"d": "two", "n": None}]


def test_the_columns(server):
    columns = (
        "eventtime, eventname, eventsource, awsregion, sourceipaddress, useragent, errorcode, errormessage, requestid, eventid, readonly,"
        " eventtype, recipientaccountid, requestparameters, responseelements, additionaleventdata, resources, useridentity"
    )
    found = rows(server, f"SELECT {columns} FROM cloudtrail WHERE eventname = 'ScheduleKeyDeletion'")[0]
    assert list(found) == columns.replace(" ", "").split(",")
    assert (found["awsregion"], found["recipientaccountid"], found["readonly"]) == (REGION, ACCOUNT, False)
    assert found["resources"] == [{"arn": server.key, "accountid": ACCOUNT, "type": "AWS::KMS::Key"}]
    who = found["useridentity"]
    assert set(who) == {"type", "principalid", "arn", "accountid", "accesskeyid", "username", "invokedby"}
    assert (who["type"], who["username"], who["accountid"]) == ("IAMUser", "app", ACCOUNT)
    unnested = "SELECT r.resource.arn AS arn, count(*) AS n FROM (SELECT unnest(resources) AS resource FROM cloudtrail) r GROUP BY 1 ORDER BY n DESC LIMIT 1"
    assert rows(server, unnested)[0]["arn"] == server.key


def test_through_postgresqls_door_too(server):
    shown = server.psql("SELECT useridentity.arn FROM cloudtrail WHERE errorcode LIKE '%AccessDenied%'").stdout.strip()
    assert shown == f"arn:aws:iam::{ACCOUNT}:user/app"
    assert server.psql("\\d cloudtrail").returncode == 0
    assert server.psql("SELECT * FROM cloudtrail LIMIT 1").returncode == 0
