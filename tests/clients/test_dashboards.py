"""The dashboards: Grafana's own types accept them, and each panel's SQL draws something through the PostgreSQL wire, in the
simple protocol as Grafana's data source speaks it."""

import datetime
import json

import psycopg
import pytest

import grafana
from service import wait_for
from sql_server import SqlServer
from test_queries import act
from workplace import INSTALLED, need

# Drawn only while something stands open: the responder closes it.
QUIET = {("posture", "Policies open to everyone")}
# Columns that a panel draws over time.
DRAWN = {"int4", "int8", "float8", "numeric"}


@pytest.fixture(scope="module")
def grafanas(tmp_path_factory):
    """A connection of Grafana's kind to a service in which things have happened."""
    server = SqlServer(tmp_path_factory.mktemp("dashboards"))
    server.service.flags.append("--enforce")
    with server:
        act(server.service)
        restored = "SELECT 1 AS one FROM events WHERE actor_class = 'responder' AND event_name = 'RestoreKeyPolicy'"
        wait_for("the responder", lambda: server.service.sql(restored))
        with psycopg.connect(**server.parameters(), cursor_factory=psycopg.ClientCursor) as connection:
            yield connection


@pytest.mark.parametrize("name, panel", grafana.panels(), ids=lambda part: part if isinstance(part, str) else part["title"])
def test_a_panel_draws(grafanas, name, panel):
    now = datetime.datetime.now(datetime.UTC)
    since, until = ((now + datetime.timedelta(days=days)).isoformat(timespec="milliseconds") for days in (-1, 1))
    (target,) = panel["targets"]
    cursor = grafanas.execute(grafana.expand(target["rawSql"], since, until, key="%"))
    rows, columns = cursor.fetchall(), [column.name for column in cursor.description]
    assert rows or (name, panel["title"]) in QUIET
    if target["format"] == "time_series":
        types = [grafanas.adapters.types.get(column.type_code).name for column in cursor.description]
        assert columns[0] == "time" and types[0] in DRAWN and types[-1] in DRAWN
        assert columns[1:-1] in ([], ["metric"])
    if panel["type"] == "stat":
        assert len(rows) == 1 and rows[0][0] is not None


def test_grafanas_types_accept_them(tmp_path):
    need("node")
    assert len(grafana.DASHBOARDS) >= 6
    assert grafana.problems(tmp_path, INSTALLED / "node") == ""


def test_uids_and_titles_are_their_own():
    boards = [json.loads(path.read_text()) for path in grafana.DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
