"""`keytrail canary`: a touch of what is planted pages, and the self-test goes the whole way."""

import json
import os
import stat
import urllib.request

import boto3
import pytest
from botocore.exceptions import ClientError

from service import KEYTRAIL, REGION, Service, run, wait_for


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("canary") / "data", "--enforce", "--health", "127.0.0.1:0").init() as service:
        yield service


def canary(service, *arguments, check=True):
    return run(KEYTRAIL, "canary", arguments[0], "--data", service.folder, *arguments[1:], check=check)


def alerts(service):
    """Severity and group of each alert about a canary."""
    rows = service.sql("SELECT * FROM alerts WHERE rule_id = 'canary-touched'")
    return [(row["severity"], json.dumps(row)) for row in rows]


def rule_hash(service):
    found = service.sql("SELECT hash FROM rules WHERE id = 'canary-touched'")
    return found[0]["hash"] if found else None


def test_a_canary_key_pages_at_the_first_look(service):
    before = wait_for("the rules", lambda: rule_hash(service))
    text = canary(service, "key", "--alias", "alias/finance/root").stdout
    arn = text.split()[0]
    wait_for("the rule with it", lambda: rule_hash(service) != before)
    assert not alerts(service)
    service.client("app").describe_key(KeyId="alias/finance/root")
    wait_for("the alert", lambda: any(severity == "critical" and arn in touched for severity, touched in alerts(service)))
    incident = wait_for("the incident", lambda: service.sql("SELECT * FROM incidents WHERE severity = 'critical'"))
    assert "canary" in incident[0]["title"]
    assert arn in canary(service, "list").stdout


def test_a_canary_credential_pages_though_it_may_do_nothing(service, tmp_path):
    before = rule_hash(service)
    out = tmp_path / "credentials"
    text = canary(service, "credential", "--out", out).stdout
    wait_for("the rule with it", lambda: rule_hash(service) != before)
    assert stat.S_IMODE(os.stat(out).st_mode) == 0o600
    lines = dict(line.split(" = ") for line in out.read_text().splitlines() if " = " in line)
    assert lines["aws_secret_access_key"] not in text
    kms = boto3.client("kms", region_name=REGION, endpoint_url=service.endpoint, **lines)

    def refused():
        with pytest.raises(ClientError) as error:
            kms.list_keys()
        return error.value.response["Error"]["Code"] == "AccessDeniedException"

    wait_for("the user", refused)
    wait_for("the alert", lambda: any(lines["aws_access_key_id"] in touched for _, touched in alerts(service)))
    again = canary(service, "credential", "--out", out, check=False)
    assert again.returncode != 0 and "exists" in again.stderr


def test_the_self_test_is_detected_contained_and_given_back(service):
    first = json.loads(canary(service, "self-test", "--json").stdout)
    assert first["outcome"] == "passed", first
    assert all(first[stage] > 0 for stage in ("detectedMicros", "containedMicros", "undoneMicros"))
    second = json.loads(canary(service, "self-test", "--json").stdout)
    assert second["outcome"] == "passed", second
    states = service.sql("SELECT state, severity FROM incidents WHERE principal LIKE '%keytrail-self-test'")
    assert states and all(one["state"] == "resolved" and one["severity"] == "low" for one in states)
    assert stat.S_IMODE(os.stat(service.folder / "self-test").st_mode) == 0o600


def test_its_times_are_metrics(service):
    responder = service.ready["health"].split(",")[2]
    told = urllib.request.urlopen(f"http://{responder}/metrics").read().decode()
    assert "keytrail_self_test_ok 1" in told
    assert 'keytrail_self_test_seconds{stage="contained"}' in told
    assert "keytrail_detection_latency_seconds_count" in told and "keytrail_containment_latency_seconds_sum" in told


def test_a_name_is_taken_once(service):
    odd = canary(service, "credential", "--user", "keytrail-self-test", "--out", service.folder / "twice", check=False)
    assert odd.returncode != 0 and "already" in odd.stderr


def test_the_self_test_goes_on_by_itself(tmp_path):
    service = Service(tmp_path / "data", "--enforce").init()
    with open(service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write('\n[responder]\nself_test_every = "1s"\n')
    with service:
        assert json.loads(canary(service, "self-test", "--json").stdout)["outcome"] == "passed"
        calls = "SELECT count(*) AS calls FROM events WHERE user_name = 'keytrail-self-test' AND event_name = 'ListKeys'"
        before = service.sql(calls)[0]["calls"]
        wait_for("two more", lambda: service.sql(calls)[0]["calls"] >= before + 2)
