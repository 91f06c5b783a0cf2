"""The dashboards: Grafana's own types accept them."""

import json

import grafana
from workplace import INSTALLED, need


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
