"""The sqllogictest files that need no log, through PostgreSQL's protocol and over HTTP: every door answers the same."""

import json
import pathlib
import re

import psycopg
import pytest

from sql_server import SqlServer
from test_sql_http import ask

FOLDER = pathlib.Path(__file__).parents[2] / "crates/trail/src/query/slt"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with SqlServer(tmp_path_factory.mktemp("logic")) as server:
        yield server


def records(text):
    """Kind (`query` or `error`), statement, and the rows or the pattern expected."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, rest = block.partition("\n")
        if head.startswith("query "):
            sql, _, expected = rest.partition("\n----")
            yield "query", sql, expected.strip().splitlines()
        else:
            yield "error", rest, head.removeprefix("statement error").strip()


FILES = sorted(FOLDER.glob("values*.slt"))
ALL = [record for file in FILES for record in records(file.read_text())]


def text(value):
    """As the files have values: NULL and nothing are words."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return str(value)
    return str(value) or "(empty)"


def test_there_are_files():
    assert len(ALL) > 40


def test_through_postgresqls_protocol(server):
    with psycopg.connect(**server.parameters(), autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        for kind, sql, expected in ALL:
            if kind == "query":
                rows = cursor.execute(sql).fetchall()
                assert [" ".join(map(text, row)) for row in rows] == expected, sql
            else:
                with pytest.raises(psycopg.Error):
                    cursor.execute(sql)


def test_over_http(server):
    for kind, sql, expected in ALL:
        status, _, body = ask(server, sql)
        if kind == "query":
            assert status == 200, (sql, body)
            rows = [json.loads(line) for line in body.splitlines()]
            assert [" ".join(map(text, row.values())) for row in rows] == expected, sql
        else:
            assert status == 400, sql
