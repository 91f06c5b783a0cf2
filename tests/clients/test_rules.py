"""The shipped rules over six weeks of labelled traffic, and the commands with which rules are tuned.

The bar: every attack found, each as one incident, and at most three high or critical alerts a day on days without attacks
among 200 principals: fourteen in which rules learn, and fourteen in which they know. The rules were tuned on the first
seed, and have not seen the second.
"""

import collections
import json
import shutil

import pytest

from service import KEYTRAIL, ROOT, run

ACCOUNT = "111122223333"
RULES = ROOT / "rules"
SEEDS = [21, 20261127]
HIGH = ("high", "critical")


class Traffic:
    """An import of generated traffic, and the rules over it."""

    def __init__(self, folder, seed):
        self.labels, self.data = folder / "traffic" / "labels.jsonl", folder / "data"
        shape = ["--days", 42, "--attacks-from", 28, "--principals", 200, "--events-per-day", 2000, "--attacks"]
        run(KEYTRAIL, "generate", "--out", folder / "traffic", "--seed", seed, *shape)
        run(KEYTRAIL, "init", "--data", self.data, "--account", ACCOUNT)
        run(KEYTRAIL, "import", "cloudtrail", folder / "traffic", "--data", self.data, "--name", "traffic")

    def rules(self, command, *flags, rules=RULES):
        """The JSON lines that a command prints."""
        done = run(KEYTRAIL, "rules", command, "--data", self.data, "--rules", rules, "--json", *flags)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def alerts(self, *flags, rules=RULES):
        *alerts, summary = self.rules("backtest", *flags, rules=rules)
        assert summary["alerts"] == len(alerts)
        return alerts


@pytest.fixture(scope="module", params=SEEDS)
def traffic(request, tmp_path_factory):
    return Traffic(tmp_path_factory.mktemp(f"seed-{request.param}"), request.param)


@pytest.fixture(scope="module")
def other_rules(tmp_path_factory):
    """The rules as a site changes them: fewer refusals are a burst."""
    folder = tmp_path_factory.mktemp("rules") / "rules"
    shutil.copytree(RULES, folder)
    (folder / "params.toml").write_text("[denied-burst]\nlimit = 3\n")
    return folder


def test_the_bar_is_reached(traffic):
    [score] = traffic.rules("score", "--labels", traffic.labels)
    print(json.dumps(score, indent=1))
    missed = [kind for kind, own in score["kinds"].items() if own["found"] < own["attacks"]]
    spread = [kind for kind, own in score["kinds"].items() if own["incidentsMax"] != 1]
    assert len(score["kinds"]) >= 33 and not missed and not spread
    assert score["benignDays"] == 28 and score["benignHighMax"] <= 3
    # What is one incident is not everything: no two attacks share one.
    assert score["attacksPerIncidentMax"] == 1


def test_a_range_gives_the_alerts_of_the_whole_that_lie_in_it(traffic):
    alerts = traffic.alerts()
    assert len({alert["alertId"] for alert in alerts}) == len(alerts)
    middle = sorted(alert["firstEventMicros"] for alert in alerts)[len(alerts) // 2]
    time = run("date", "-u", "-d", f"@{middle // 1_000_000}", "+%Y-%m-%dT%H:%M:%SZ").stdout.strip()
    begin = middle // 1_000_000 * 1_000_000
    late = {alert["alertId"]: alert["severity"] for alert in traffic.alerts("--from", time)}
    assert late == {alert["alertId"]: alert["severity"] for alert in alerts if alert["lastEventMicros"] >= begin}
    early = {alert["alertId"] for alert in traffic.alerts("--to", time)}
    # As it was known then: a bucket is judged when it is over and the lateness too.
    settled = begin - 10 * 60 * 1_000_000
    assert early >= {alert["alertId"] for alert in alerts if alert["lastEventMicros"] < settled}
    assert not early & {alert["alertId"] for alert in alerts if alert["firstEventMicros"] >= begin}


def test_calibration_says_what_other_values_would_have_done(traffic, other_rules):
    rows = traffic.rules("calibrate", "--rule", "denied-burst")
    limits = [row for row in rows if row["param"] == "limit"]
    counts = [row["alerts"] for row in limits]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 0
    [in_force] = [row for row in limits if row["inForce"]]
    assert in_force["value"] == 10
    for value, rules in ((10, RULES), (3, other_rules)):
        raised = traffic.alerts("--rule", "denied-burst", rules=rules)
        [row] = [row for row in limits if row["value"] == value]
        assert (row["alerts"], row["high"]) == (len(raised), sum(alert["severity"] in HIGH for alert in raised))
    assert traffic.rules("calibrate", "--rule", "rotation-off") == [], "posture looks at the state, not at a range"


def test_a_difference_is_what_a_change_gains_and_loses(traffic, other_rules):
    done = run(KEYTRAIL, "rules", "diff", RULES, other_rules, "--data", traffic.data, "--json")
    changes = [json.loads(line) for line in done.stdout.splitlines()]
    changed = collections.Counter((change["change"], change["alert"]["ruleId"]) for change in changes)
    old = {alert["alertId"] for alert in traffic.alerts("--rule", "denied-burst")}
    new = {alert["alertId"] for alert in traffic.alerts("--rule", "denied-burst", rules=other_rules)}
    assert changed["gained", "denied-burst"] == len(new - old) > 0
    assert {rule for _, rule in changed} == {"denied-burst"} and changed["lost", "denied-burst"] == len(old - new)


def test_rules_are_explained_and_what_they_cover_is_listed():
    explained = run(KEYTRAIL, "rules", "explain", "denied-burst", "--rules", RULES).stdout
    assert "denied >= 10" in explained and "error_code" in explained and "TableScan: events" in explained
    layer = json.loads(run(KEYTRAIL, "rules", "coverage", RULES).stdout)
    scores = {technique["techniqueID"]: technique["score"] for technique in layer["techniques"]}
    assert layer["domain"] == "enterprise-attack" and scores["T1485"] >= 5 and "T1098.003" in scores
    controls = run(KEYTRAIL, "rules", "coverage", "--controls", RULES).stdout
    assert [line.split()[-1] for line in controls.splitlines() if line.startswith("KMS.4 ")] == ["rotation-off"]
    assert " 0 warnings" in run(KEYTRAIL, "rules", "lint", RULES).stdout


def test_a_remark_fails_the_lint(tmp_path):
    run(KEYTRAIL, "rules", "new", "without-words", "--rules", tmp_path / "rules")
    rule = tmp_path / "rules" / "kms" / "without-words.sql"
    rule.write_text("".join(line for line in rule.read_text().splitlines(True) if not line.startswith("-- title")))
    done = run(KEYTRAIL, "rules", "lint", tmp_path / "rules", check=False)
    assert done.returncode == 1 and "warn" in done.stdout and "without-words.sql" in done.stdout
