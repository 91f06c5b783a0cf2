"""SQL over PostgreSQL's protocol with psql: what it shows, what is refused, how queries end, what the log says of them."""

import base64
import hashlib
import json
import signal
import socket
import ssl
import subprocess

import pytest

from authority import Authority
from service import KEYTRAIL, run, wait_for
from sql_server import PASSWORD, SLOW, SqlServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("sql")) as server:
        yield server


def digest(folder):
    """Every file that no running part writes to by itself."""
    kept = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {"journal", "checkpoints", "tiles", "run"} & set(path.relative_to(folder).parts):
            if not path.name.startswith(("kms.db", "trail.db", "responder.db")):
                kept[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return kept


def test_queries_are_answered(server):
    [name, count] = server.psql("SELECT event_name, count(*) FROM events WHERE event_name = 'CreateKey' GROUP BY 1").stdout.strip().split("|")
    assert (name, int(count)) == ("CreateKey", 2)
    assert server.psql("SELECT 1 AS a; SELECT 'x;y' AS b -- ;").stdout.split() == ["1", "x;y"]
    assert server.psql("", "-- nothing", ";").returncode == 0
    assert server.psql("SELECT true, NULL, 1.5::float8, DATE '2026-01-05'").stdout.strip() == "t||1.5|2026-01-05"
    shown = server.psql("SELECT event_time FROM events WHERE event_name = 'CreateKey' LIMIT 1").stdout
    assert shown.strip().endswith("+00")


def test_the_channel_is_bound_and_secure(server):
    shown = server.psql("\\conninfo", channel_binding="require").stdout
    assert "SSL connection" in shown and "alice" in shown
    plain = server.psql("SELECT 1", check=False, sslmode="disable")
    assert plain.returncode == 2 and "this server speaks TLS only" in plain.stderr


def test_who_may_not_come_in(server):
    for user, password in [("alice", "wrong"), ("mallory", PASSWORD), ("alice", "")]:
        done = server.psql("SELECT 1", check=False, user=user, password=password)
        assert done.returncode == 2 and "1" not in done.stdout.split()
        assert password == "" or f'password authentication failed for user "{user}"' in done.stderr
    other = server.psql("SELECT 1", check=False, dbname="postgres")
    assert 'database "postgres" does not exist' in other.stderr


# The findings of the wrappers that ship with the wire crates, and their kin.
FORGERIES = [
    "INSERT INTO events SELECT * FROM events",
    "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events",
    "EXPLAIN INSERT INTO events SELECT * FROM events",
    "UPDATE events SET seq = 1",
    "DELETE FROM events",
    "TRUNCATE events",
    "COPY events TO '/tmp/keytrail-stolen.csv'",
    "COPY events TO STDOUT",
    "COPY events FROM STDIN",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://bucket/stolen/'",
    "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'http://127.0.0.1:9/t.json'",
    "COPY events TO 's3://bucket/stolen.parquet'",
    "CREATE TABLE t (a int)",
    "CREATE TABLE t AS SELECT * FROM events",
    "CREATE TEMP TABLE t (a int)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION dblink",
    "CREATE USER eve",
    "DROP TABLE events",
    "DROP SCHEMA public CASCADE",
    "ALTER TABLE events ADD COLUMN a int",
    "SET datafusion.execution.batch_size = 1",
    "SET datafusion.catalog.information_schema = false",
    "RESET datafusion.execution.batch_size",
    "SHOW datafusion.execution.batch_size",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SET transaction_read_only = off",
    "PREPARE p AS INSERT INTO events SELECT * FROM events",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM \"/etc/passwd\"",
    "SELECT * FROM 'file:///etc/passwd'",
    "SELECT * FROM 'http://127.0.0.1:9/t.parquet'",
    "SELECT * FROM \"http://127.0.0.1:9/t.csv\"",
    "SELECT * FROM 's3://bucket/t.parquet'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT * INTO t FROM events",
    "WITH gone AS (DELETE FROM events RETURNING *) SELECT * FROM gone",
    "GRANT ALL ON events TO alice",
    "DO $$ BEGIN END $$",
    "CALL f()",
    "LISTEN a",
    "NOTIFY a",
    "LOCK TABLE events",
    "VACUUM",
    "DECLARE c CURSOR WITH HOLD FOR INSERT INTO events SELECT * FROM events",
]


@pytest.mark.parametrize("statement", FORGERIES)
def test_what_changes_or_reads_anything_else_is_refused(server, statement):
    before = digest(server.service.folder)
    done = server.psql(statement, check=False)
    assert done.returncode != 0 and "ERROR" in done.stderr and done.stdout == "", done.stdout + done.stderr
    assert "XX000" not in done.stderr, done.stderr
    assert digest(server.service.folder) == before
    assert server.psql("SELECT 1").stdout.strip() == "1"


def test_errors_say_what_and_where(server):
    for statement, code, text in [
        ("SELECT no_such FROM events", "42703", 'column "no_such" does not exist'),
        ("SELECT * FROM no_such", "42P01", 'relation "no_such" does not exist'),
        ("SELECT no_such(1)", "42883", "no_such"),
        ("SELECT 1 +", "42601", "syntax error"),
        ("INSERT INTO events VALUES (1)", "25006", "only answers queries"),
        ("SELECT to_char(now(), '%Y')", "42000", "to_char"),
        ("SELECT current_setting('no.such')", "42704", "no.such"),
    ]:
        done = server.psql(statement, check=False)
        assert text in done.stderr, (statement, done.stderr)
        assert code in done.stderr, (statement, done.stderr)
    done = server.psql("SELECT 1,\n no_such FROM events", check=False)
    assert "LINE 2:  no_such FROM events" in done.stderr, done.stderr


def test_settings_and_transactions(server):
    commands = [
        "BEGIN", "SAVEPOINT a", "SELECT 1", "RELEASE a", "COMMIT", "DISCARD ALL", "RESET ALL", "DEALLOCATE ALL",
        "SET application_name = 'reports'", "SHOW application_name", "SET statement_timeout = '5s'",
        "SELECT current_setting('statement_timeout')", "SHOW transaction_isolation", "SHOW server_version",
    ]
    shown = server.psql(*commands).stdout.split("\n")
    assert [line for line in shown if line in ("1", "reports", "5s", "16.6")] == ["1", "reports", "5s", "16.6"]
    failed = server.psql("BEGIN; SELECT no_such; SELECT 1", check=False)
    assert "1" not in failed.stdout.split()
    aborted = subprocess.run(
        ["psql", server.dsn(), "-X", "-At"], input="BEGIN;\nSELECT no_such;\nSELECT 1;\nROLLBACK;\nSELECT 2;\n", text=True, capture_output=True
    )
    assert "current transaction is aborted" in aborted.stderr and aborted.stdout.split()[-1] == "2"


def test_functions_answer_as_postgresqls(server):
    def one(expression):
        return server.psql(f"SELECT {expression}").stdout.strip()

    assert one("version()").startswith("PostgreSQL 16.6 (Keytrail ")
    assert one("current_user") == "alice" and one("session_user") == "alice"
    assert one("current_database()") == "keytrail" and one("current_schema()") == "public"
    assert one("current_setting('server_version')") == "16.6" and one("current_setting('no.such', true)") == ""
    assert one("to_char(TIMESTAMP '2026-03-05 14:07:09', 'YYYY-MM-DD HH24:MI:SS')") == "2026-03-05 14:07:09"
    assert one("pg_size_pretty(10485760)") == "10 MB"
    assert one("quote_ident('a b')") == '"a b"' and one("quote_literal('it''s')") == "'it''s'"
    assert one("has_table_privilege('events', 'SELECT')") == "t" and one("has_table_privilege('events', 'INSERT')") == "f"


@pytest.mark.parametrize("command", ["\\d", "\\dt", "\\dt+", "\\dv", "\\d events", "\\d+ events", "\\dn", "\\du", "\\df", "\\l", "\\di", "\\dp"])
def test_psql_describes(server, command):
    done = server.psql(command, check=False)
    assert done.returncode == 0, done.stderr
    if command in ("\\d", "\\dt", "\\dt+"):
        assert "public|events|table" in done.stdout
    if command in ("\\d events", "\\d+ events"):
        assert "event_time|timestamp with time zone" in done.stdout
    if command == "\\du":
        assert "alice" in done.stdout


def test_a_role_sees_its_tables_and_has_its_limits(server):
    assert server.psql("SELECT count(*) > 0 FROM events", user="grace").stdout.strip() == "t"
    assert server.psql("\\dt", user="grace").stdout.strip().count("\n") == 0
    done = server.psql("SELECT * FROM keys", check=False, user="grace")
    assert 'relation "keys" does not exist' in done.stderr
    assert "more than 5 rows" in server.psql("SELECT * FROM events", check=False, user="grace").stderr
    # Its own half second holds whatever the client asks for.
    done = server.psql("SET statement_timeout = '1h'", SLOW, check=False, user="grace")
    assert "statement timeout" in done.stderr


def test_what_would_be_answered_wrongly_is_refused(server):
    for pattern, matches in (("a/_b", "a_b"), ("a//b", "a/b"), ("///_", "/_"), ("a/%%", "a%xyz")):
        assert server.psql(f"SELECT '{matches}' LIKE '{pattern}' ESCAPE '/'").stdout.strip() == "t", pattern
    assert server.psql("SELECT 'axb' LIKE 'a/_b' ESCAPE '/', 'ab' LIKE 'a//b' ESCAPE '/'").stdout.strip() == "f|f"
    for query in ("ARRAY(SELECT seq FROM events)", "json_build_object('a', 1)", "(SELECT json_build_object('a', event_id) FROM events LIMIT 1)", "repeat('x', 2000000000)"):
        refused = server.psql(f"SELECT {query}", check=False)
        assert "ERROR" in refused.stderr and not refused.stdout.strip(), query


def test_a_deadline_and_a_cancel_end_a_query(server):
    done = server.psql("SET statement_timeout = 200", SLOW, check=False)
    assert "57014" in done.stderr and "statement timeout" in done.stderr
    marked = f"{SLOW} AND 'cancelled' <> ''"
    running = subprocess.Popen(["psql", server.dsn(), "-X", "-c", marked], stderr=subprocess.PIPE, text=True)
    wait_for("the query to be recorded", lambda: [row for row in server.recorded() if "cancelled" in row["request_parameters"]])
    running.send_signal(signal.SIGINT)
    assert "canceling statement due to user request" in running.communicate(timeout=60)[1]
    ended = [json.loads(row["request_parameters"]) for row in server.recorded() if row["event_name"] == "EndQuery"]
    assert {"deadline", "cancelled"} <= {end["outcome"] for end in ended}


def test_each_query_is_in_the_log(server):
    marked = "SELECT seq AS marked_query FROM events WHERE event_name = 'CreateKey'"
    server.psql(marked, application_name="an analyst")
    rows = server.recorded()
    run_query = [json.loads(row["request_parameters"]) for row in rows if row["event_name"] == "RunQuery"]
    [begun] = [query for query in run_query if query["statement"] == marked]
    assert (begun["user"], begun["door"], begun["application"]) == ("alice", "postgres", "an analyst")
    assert begun["statementSha256"] == hashlib.sha256(marked.encode()).hexdigest()
    assert begun["clientAddress"].startswith("127.0.0.1:")
    ends = [json.loads(row["request_parameters"]) for row in rows if row["event_name"] == "EndQuery"]
    [end] = [end for end in ends if end["queryId"] == begun["queryId"]]
    assert (end["outcome"], end["rows"]) == ("ok", 2) and end["durationMicros"] > 0
    # What was refused is there, too.
    server.psql("INSERT INTO events SELECT 'marked'", check=False)
    rows = server.recorded()
    [begun] = [json.loads(row["request_parameters"]) for row in rows if "INSERT INTO events SELECT 'marked'" in row["request_parameters"]]
    [end] = [json.loads(row["request_parameters"]) for row in rows if row["event_name"] == "EndQuery" and begun["queryId"] in row["request_parameters"]]
    assert end["outcome"] == "refused"


def test_the_shell_is_recorded_while_the_node_runs(server):
    server.service.sql("SELECT 1 AS from_the_shell")
    begun = [json.loads(row["request_parameters"]) for row in server.recorded() if row["event_name"] == "RunQuery"]
    [begun] = [query for query in begun if query["statement"] == "SELECT 1 AS from_the_shell"]
    assert begun["door"] == "shell" and "uid" in begun["user"]


def message(kind, body):
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def shouted(server, *messages):
    """Everything that the server says to a client that sends all of this without waiting for an answer."""
    with socket.create_connection((server.host, int(server.port)), timeout=60) as plain:
        plain.sendall(message(b"", (80877103).to_bytes(4, "big")))
        assert plain.recv(1) == b"S"
        context = ssl.create_default_context(cafile=server.authority.pem)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            tls.sendall(b"".join(messages))
            return b"".join(iter(lambda: tls.recv(4096), b""))


START_UP = message(b"", (196608).to_bytes(4, "big") + b"user\0alice\0\0")
QUERY = message(b"Q", b"SELECT 'not logged in'\0")


def test_a_failed_login_runs_nothing(server):
    first = b"n,,n=,r=abcdefgh"
    first = message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first)
    last = message(b"p", b"c=biws,r=abcdefgh,p=" + base64.b64encode(bytes(32)))
    said = shouted(server, START_UP, first, last, QUERY)
    assert b"28P01" in said and b"not logged in" not in said
    assert b"08P01" in shouted(server, START_UP, QUERY)
    assert not [row for row in server.recorded() if "not logged in" in row["request_parameters"]]


def test_strangers_send_little(server):
    assert b"is not taken, the limit is 16384" in shouted(server, START_UP, b"Q" + (1 << 30).to_bytes(4, "big"))
    with socket.create_connection((server.host, int(server.port)), timeout=60) as connection:
        connection.sendall((1 << 30).to_bytes(4, "big") + (196608).to_bytes(4, "big"))
        connection.shutdown(socket.SHUT_WR)
        assert b"this server speaks TLS only" in connection.recv(1000)


def test_a_user_taken_out_is_out(server):
    server.add_user("leaver")
    with subprocess.Popen(["psql", server.dsn(user="leaver"), "-X", "-At"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as open_one:
        open_one.stdin.write("SELECT 1;\n")
        open_one.stdin.flush()
        assert open_one.stdout.readline().strip() == "1"
        run(KEYTRAIL, "sql-user", "remove", "leaver", "--data", server.service.folder)
        _, stderr = open_one.communicate("SELECT 2;\n", timeout=60)
        assert "may not run SQL any more" in stderr
    assert server.psql("SELECT 1", check=False, user="leaver").returncode == 2


def test_a_bad_certificate_stops_the_start(tmp_path):
    server = SqlServer(tmp_path)
    other = Authority(tmp_path, "other")
    other.make("stranger")
    (tmp_path / "server.key").write_bytes((tmp_path / "stranger.key").read_bytes())
    command = [KEYTRAIL, "up", "--data", server.service.folder, "--listen", "127.0.0.1:0"]
    done = run(*command, check=False, timeout=120)
    assert done.returncode != 0 and "use certificate and key" in done.stderr and "ready" not in done.stdout
    (tmp_path / "server.pem").write_text("not PEM")
    done = run(*command, check=False, timeout=120)
    assert done.returncode != 0 and "find PEM" in done.stderr
