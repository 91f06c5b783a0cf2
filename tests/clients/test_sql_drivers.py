"""SQL over PostgreSQL's protocol with the drivers that programs use: psycopg, psycopg2, SQLAlchemy, pgx, lib/pq, pgjdbc."""

import datetime
import json
import os

import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy

from service import run
from sql_server import PASSWORD, SLOW, SqlServer
from workplace import INSTALLED, TESTS, need


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("drivers")) as server:
        yield server


def program(command, **environment):
    done = run(*command, env=os.environ | environment, timeout=300)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_psycopg(server):
    with psycopg.connect(**server.parameters(channel_binding="require")) as connection:
        hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        query = "SELECT event_name, event_time, seq, read_only FROM events WHERE event_name = %s AND event_time > %s AND seq > %s"
        rows = connection.execute(query, ("CreateKey", hour_ago, 0)).fetchall()
        assert len(rows) == 2 and rows[0][0] == "CreateKey" and rows[0][1].tzinfo is not None
        binary = connection.execute(query, ("CreateKey", hour_ago, 0), binary=True).fetchall()
        assert binary == rows
        for _ in range(7):
            assert connection.execute("SELECT %s::int + 1", (41,), prepare=True).fetchone() == (42,)
        values = "SELECT true, 1.5::float8, NULL::text, DATE '2026-01-05', 'ü'::text, 7::bigint"
        assert connection.execute(values, binary=True).fetchone() == (True, 1.5, None, datetime.date(2026, 1, 5), "ü", 7)


@pytest.mark.parametrize("binary", [False, True])
def test_a_named_cursor_of_psycopg(server, binary):
    with psycopg.connect(**server.parameters()) as connection:
        with connection.cursor(name="my cursor", binary=binary) as cursor:
            cursor.execute("SELECT value FROM generate_series(1, %s)" % 250)
            cursor.itersize = 100
            assert cursor.fetchone() == (1,)
            assert [row[0] for row in cursor] == list(range(2, 251))
        with connection.cursor(name="second") as cursor:
            cursor.execute("SELECT seq FROM events")
            assert len(cursor.fetchmany(2)) == 2
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO events SELECT * FROM events")
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            with connection.cursor(name="back", scrollable=True) as cursor:
                cursor.execute("SELECT 1")


def test_psycopg_is_cancelled_and_goes_on(server):
    with psycopg.connect(**server.parameters(), autocommit=True) as connection:
        connection.execute("SET statement_timeout = 300")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(SLOW)
        connection.execute("RESET statement_timeout")
        with connection.pipeline():
            results = [connection.execute("SELECT %s::int", (n,)) for n in range(5)]
        assert [result.fetchone()[0] for result in results] == list(range(5))


def test_psycopg2(server):
    with psycopg2.connect(**server.parameters()) as connection:
        with connection.cursor(cursor_factory=psycopg2.extras.DictCursor) as cursor:
            cursor.execute("SELECT event_name, event_time FROM events WHERE event_name = %s", ("CreateKey",))
            rows = cursor.fetchall()
            assert len(rows) == 2 and rows[0]["event_time"].tzinfo is not None
        with connection.cursor("named") as cursor:
            cursor.itersize = 10
            cursor.execute("SELECT value FROM generate_series(1, 25)")
            assert sum(1 for _ in cursor) == 25


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_connects_and_reflects(server, driver):
    query = {"sslmode": "verify-full", "sslrootcert": str(server.authority.pem)}
    url = sqlalchemy.URL.create(f"postgresql+{driver}", "alice", PASSWORD, server.host, int(server.port), "keytrail", query)
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT count(*) FROM events WHERE event_name = :name"), {"name": "CreateKey"})
        assert found.scalar_one() == 2
        with connection.begin_nested():
            assert connection.execute(sqlalchemy.text("SELECT 1")).scalar_one() == 1
    inspector = sqlalchemy.inspect(engine)
    assert "public" in inspector.get_schema_names()
    assert {"events", "keys", "alerts"} <= set(inspector.get_table_names())
    columns = {column["name"]: column["type"] for column in inspector.get_columns("events")}
    assert isinstance(columns["event_time"], sqlalchemy.types.DateTime) and columns["event_time"].timezone
    assert isinstance(columns["seq"], sqlalchemy.types.BigInteger)
    assert inspector.get_pk_constraint("events")["constrained_columns"] == []
    assert inspector.get_foreign_keys("events") == [] and inspector.get_indexes("events") == []
    metadata = sqlalchemy.MetaData()
    events = sqlalchemy.Table("events", metadata, autoload_with=engine)
    with engine.connect() as connection:
        chosen = sqlalchemy.select(events.c.event_name).where(events.c.event_name == "CreateKey").limit(1)
        assert connection.execute(chosen).scalar_one() == "CreateKey"
    engine.dispose()


def test_pgx_and_lib_pq_as_grafana_uses_them(server):
    need("go")
    window = "event_time BETWEEN '2020-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'"
    group = "floor(extract(epoch from event_time)/300)*300"
    series = f"SELECT {group} AS \"time\", event_name AS metric, count(*) AS value FROM events WHERE {window} GROUP BY 1, 2 ORDER BY 1"
    table = "SELECT event_name FROM events WHERE event_name = 'CreateKey' LIMIT 1"
    url = f"postgres://alice:{PASSWORD.replace(' ', '%20')}@{server.host}:{server.port}/keytrail"
    url += f"?sslmode=verify-full&sslrootcert={server.authority.pem}"
    told = program([INSTALLED / "go/sql"], DSN=url, SERIES=series, TABLE=table)
    assert told["pgx.results"] == told["pq.results"] == "2"
    assert told["pgx.series_columns"] == "[time metric value]"
    # double precision or numeric, text, bigint
    assert told["pgx.series_oids"] in ("[701 25 20]", "[1700 25 20]")
    assert int(told["pgx.series_rows"]) > 0 and told["pq.rows"] == "true"
    assert told["pgx.table"] == told["pgx.parameters"] == told["pq.parameters"] == "CreateKey"
    assert told["pgx.error"] == "42703 8" and told["pq.insert"] == "25006"
    assert told["pgx.recent"] == "true" and told["pgx.sum"] == "42"


# What Grafana's query editor asks.
GRAFANA = [
    "SELECT 1",
    "SELECT current_setting('server_version_num')::int/100 as version",
    "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'",
    """SELECT
        CASE WHEN
              quote_ident(table_schema) IN (
                SELECT
                  CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
                FROM
                  generate_series(
                    array_lower(string_to_array(current_setting('search_path'),','),1),
                    array_upper(string_to_array(current_setting('search_path'),','),1)
                  ) as i,
                  string_to_array(current_setting('search_path'),',') s
              )
          THEN quote_ident(table_name)
          ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
        END AS "table"
        FROM information_schema.tables
        WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
        ORDER BY 1""",
    "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\" FROM information_schema.columns WHERE quote_ident(table_name) = 'events'",
]


@pytest.mark.parametrize("query", GRAFANA, ids=range(len(GRAFANA)))
def test_grafanas_editor(server, query):
    with psycopg.connect(**server.parameters(), autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        rows = cursor.execute(query).fetchall()
        if "information_schema.columns" in query:
            assert ("event_time", "timestamp with time zone") in rows
        if "information_schema.tables" in query:
            assert [row for row in rows if "events" in row[0]]


def test_pgjdbc(server):
    need("java")
    url = f"jdbc:postgresql://{server.host}:{server.port}/keytrail"
    environment = {"SQL_URL": url, "SQL_USER": "alice", "SQL_PASSWORD": PASSWORD, "SQL_CA": str(server.authority.pem)}
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{INSTALLED}/java/*", TESTS / "java/Sql.java"]
    told = program(command, SLOW=SLOW, **environment)
    assert told["product"] == "PostgreSQL 16" and told["row"] == "CreateKey true true"
    assert "public" in told["schemas"] and told["catalogs"] == "[keytrail]" and told["table_types"] == "true"
    assert "events" in told["tables"] and "keys" in told["tables"]
    assert "event_time" in told["columns"] and told["types"] == "[timestamptz]"
    assert told["primary_keys"] == told["indexes"] == told["imported_keys"] == "[]"
    assert told["type_info"] == told["functions"] == told["function_columns"] == "true"
    assert told["procedures"] == told["exported_keys"] == told["best_row"] == told["views"] == "[]" and told["udts"] == "54001"
    assert told["all_tables"] == told["all_columns"] == "true"
    assert told["client_info"] == told["keywords"] == "true" and told["name_length"] == "63"
    assert (told["refused"], told["timeout"], told["cursor"]) == ("25006", "57014", "25")


def test_what_parameters_stand_for_is_in_the_log(server):
    with psycopg.connect(**server.parameters(), autocommit=True) as connection:
        connection.execute("SELECT seq FROM events WHERE event_name = %t AND seq > %t AND %t::text IS NULL", ("RecordMe", 7, None))
        connection.execute("SELECT seq FROM events WHERE event_name = %t AND seq > %b", ("RecordMe", 7))
    begun = [json.loads(row["request_parameters"]) for row in server.recorded() if row["event_name"] == "RunQuery"]
    text, binary = [query for query in begun if "RecordMe" in query.get("parameters", [])]
    assert (text["parameters"], text["parameterCount"]) == (["RecordMe", "7", None], 3)
    name, number = binary["parameters"]
    assert name == "RecordMe" and int(number.removeprefix("\\x"), 16) == 7
