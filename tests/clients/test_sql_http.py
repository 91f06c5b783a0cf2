"""SQL over HTTP: every form of answer, who may not ask, what is refused, how queries end, what the log says of them."""

import base64
import csv
import hashlib
import http.client
import io
import json
import socket
import ssl
import subprocess

import pyarrow.ipc
import pytest

from service import wait_for
from sql_server import PASSWORD, SLOW, SqlServer
from test_sql_psql import FORGERIES, digest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("sql")) as server:
        yield server


def connect(server):
    """A connection as a careful client makes it."""
    host, port = server.service.ready["http"].rsplit(":", 1)
    context = ssl.create_default_context(cafile=server.authority.pem)
    return http.client.HTTPSConnection(host, int(port), context=context, timeout=60)


def headers(user="alice", password=PASSWORD, **more):
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}", "Content-Type": "application/json", "User-Agent": "a script"} | more


def ask(server, query, form="jsonl", **who):
    """Status, headers and body of one query."""
    connection = connect(server)
    try:
        connection.request("POST", "/v1/sql", json.dumps({"query": query, "format": form}), headers(**who))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def rows(server, query, **who):
    status, _, body = ask(server, query, **who)
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def error(server, query, **who):
    status, kind, body = ask(server, query, **who)
    assert status != 200 and kind["content-type"] == "application/json", body
    return status, json.loads(body)["error"]


CREATED = "SELECT seq, event_time, event_name, error_code FROM events WHERE event_name = 'CreateKey' ORDER BY seq"


def test_json_lines(server):
    status, kind, body = ask(server, CREATED)
    assert status == 200 and kind["content-type"] == "application/x-ndjson" and kind["cache-control"] == "no-store"
    found = [json.loads(line) for line in body.splitlines()]
    assert [(row["event_name"], row["error_code"]) for row in found] == [("CreateKey", None)] * 2
    assert ask(server, "SELECT seq FROM events WHERE false")[::2] == (200, b"")


def test_csv(server):
    status, kind, body = ask(server, CREATED, "csv")
    assert status == 200 and kind["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(body.decode())))
    assert [row["event_name"] for row in found] == ["CreateKey"] * 2
    assert ask(server, "SELECT seq FROM events WHERE false", "csv")[2] == b"seq\n"


@pytest.mark.parametrize("query", [CREATED, f"{CREATED} LIMIT 0", "SELECT * FROM generate_series(1, 20000)"])
def test_arrow(server, query):
    status, kind, body = ask(server, query, "arrow")
    assert status == 200 and kind["content-type"] == "application/vnd.apache.arrow.stream"
    table = pyarrow.ipc.open_stream(body).read_all()
    expected = rows(server, query)
    assert table.num_rows == len(expected)
    if expected and "seq" in expected[0]:
        assert table.column("seq").to_pylist() == [row["seq"] for row in expected]


def test_a_bare_text_is_a_query(server):
    connection = connect(server)
    plain = headers() | {"Content-Type": "text/plain", "Accept": "text/csv"}
    for _ in range(2):  # Both on one connection.
        connection.request("POST", "/v1/sql", "SELECT 1 AS a, 'ü' AS b".encode(), plain)
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == (200, "a,b\n1,ü\n")
    connection.close()


def test_curl(server):
    """As the documentation shows it."""
    url = f"https://{server.service.ready['http']}/v1/sql"
    flags = ["-sS", "--cacert", server.authority.pem, "-H", "content-type: text/plain", "--data-binary", "SELECT 7 AS n"]
    done = subprocess.run(["curl", *flags, "--user", f"alice:{PASSWORD}", url], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"n": 7}


def test_who_may_not_come_in(server):
    for user, password in [("alice", "wrong"), ("mallory", PASSWORD), ("alice", ""), ("", ""), ("al\x1b[31mice", "x" * 5000)]:
        status, kind, body = ask(server, "SELECT 1", user=user, password=password)
        assert status == 401 and kind["www-authenticate"].startswith("Basic"), body
        assert json.loads(body)["error"]["code"] == "28P01" and b"\x1b" not in body
    connection = connect(server)
    connection.request("POST", "/v1/sql", '{"query": "SELECT 1"}', {"Content-Type": "application/json"})
    assert connection.getresponse().status == 401


def test_clear_text_is_refused(server):
    host, port = server.service.ready["http"].rsplit(":", 1)
    plain = http.client.HTTPConnection(host, int(port), timeout=60)
    plain.request("POST", "/v1/sql", '{"query": "SELECT 1 AS secret"}', headers())
    answer = plain.getresponse()
    body = answer.read()
    assert answer.status == 400 and b"speaks TLS only" in body and b"secret" not in body


def test_what_is_no_query_is_refused(server):
    for method, path, body, more, status in [
        ("GET", "/v1/sql", None, {}, 405),
        ("POST", "/", "{}", {}, 404),
        ("POST", "/v1/sql", "{", {}, 400),
        ("POST", "/v1/sql", '{"query": "SELECT 1", "format": "xml"}', {}, 400),
        ("POST", "/v1/sql", "query=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/v1/sql", '{"query": "SELECT 1"}', {"Origin": "https://evil.example"}, 403),
        ("POST", "/v1/sql", "x" * 500_000, {}, 413),
        ("POST", "/v1/sql", json.dumps({"query": "SELECT '" + "x" * 70_000 + "'"}), {}, 400),
    ]:
        connection = connect(server)
        connection.request(method, path, body, headers(**more))
        assert connection.getresponse().status == status, (method, path, body and body[:40])
        connection.close()


# There are no settings here: SHOW reads the engine's own, as in the shell.
PROBES = [probe for probe in FORGERIES if not probe.startswith("SHOW")]


@pytest.mark.parametrize("statement", [*PROBES, "SELECT 1; DROP TABLE events", "BEGIN", "DISCARD ALL"])
def test_what_changes_or_reads_anything_else_is_refused(server, statement):
    before = digest(server.service.folder)
    status, said = error(server, statement)
    assert status in (400, 403) and said["code"] != "XX000", said
    assert digest(server.service.folder) == before


def test_errors_say_what_and_where(server):
    status, said = error(server, "SELECT no_such FROM events")
    assert (status, said["code"], said["position"]) == (400, "42703", 8)
    status, said = error(server, "SELECT * FROM no_such")
    assert (status, said["code"]) == (400, "42P01")
    status, said = error(server, "INSERT INTO events VALUES (1)")
    assert (status, said["code"]) == (403, "25006")
    status, said = error(server, "SELECT useridentity FROM cloudtrail", form="csv")
    assert (status, said["code"]) == (400, "0A000")


def test_a_role_sees_its_tables_and_has_its_limits(server):
    assert rows(server, "SELECT count(*) > 0 AS some FROM events", user="grace") == [{"some": True}]
    assert error(server, "SELECT * FROM keys", user="grace")[1]["code"] == "42P01"
    assert error(server, "SELECT * FROM cloudtrail", user="grace")[1]["code"] == "42P01"
    assert error(server, "SELECT * FROM events", user="grace")[1]["code"] == "54000"
    status, said = error(server, SLOW, user="grace")
    assert (status, said["code"]) == (504, "57014") and "timeout" in said["message"]


# Rows come first, then one that cannot be computed.
LATE = "SELECT 1 / (30000 - value) AS late FROM generate_series(1, 40000)"


def test_an_error_after_the_first_rows_is_visible(server):
    lines = ask(server, LATE)[2].splitlines()
    assert len(lines) > 1000 and json.loads(lines[0]) == {"late": 0}
    assert json.loads(lines[-1])["error"]["code"] == "22000"
    for form in ("csv", "arrow"):
        with pytest.raises(http.client.IncompleteRead):
            ask(server, LATE, form)


def ends(server, marked):
    """How the queries ended that have this in their text."""
    found = [json.loads(row["request_parameters"]) for row in server.recorded()]
    begun = {query["queryId"] for query in found if marked in query.get("statement", "")}
    return [query for query in found if "outcome" in query and query["queryId"] in begun]


@pytest.mark.parametrize(
    "name, query", [("silent", SLOW), ("streaming", "SELECT repeat('x', 1000) AS x, value FROM generate_series(1, 900000)")]
)
def test_going_away_ends_the_query(server, name, query):
    marked = f"{query} -- {name} and gone"
    connection = connect(server)
    connection.request("POST", "/v1/sql", json.dumps({"query": marked}), headers())
    if name == "streaming":
        assert connection.getresponse().read(10)
    else:
        wait_for("the query to be recorded", lambda: [row for row in server.recorded() if "silent and gone" in row["request_parameters"]])
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_for("the query to end", lambda: ends(server, f"{name} and gone"))
    assert [end["outcome"] for end in ends(server, f"{name} and gone")] == ["abandoned"]


def test_each_query_is_in_the_log(server):
    marked = "SELECT seq AS marked_over_http FROM events WHERE event_name = 'CreateKey'"
    _, kind, _ = ask(server, marked)
    found = [json.loads(row["request_parameters"]) for row in server.recorded()]
    [begun] = [query for query in found if query.get("statement") == marked]
    assert (begun["user"], begun["door"], begun["application"]) == ("alice", "http", "a script")
    assert begun["statementSha256"] == hashlib.sha256(marked.encode()).hexdigest()
    assert begun["clientAddress"].startswith("127.0.0.1:") and begun["queryId"] == kind["x-keytrail-query-id"]
    [end] = ends(server, "marked_over_http")
    assert (end["outcome"], end["rows"]) == ("ok", 2)
    error(server, "INSERT INTO events SELECT 'marked over http'")
    assert [end["outcome"] for end in ends(server, "marked over http")] == ["refused"]
