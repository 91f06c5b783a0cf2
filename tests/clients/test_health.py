"""Liveness, readiness and metrics of all three parts, as an orchestrator and Prometheus read them."""

import json
import re
import urllib.error
import urllib.request

import pytest

from service import KEYTRAIL, Service, run, wait_for

SAMPLE = re.compile(r"([a-z_]+)(\{[^}]*\})? (\S+)$")


def fetch(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(address):
    """Samples by name and labels; every line must be one that Prometheus reads."""
    status, text = fetch(address, "/metrics")
    assert status == 200
    samples = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            name, labels, value = SAMPLE.match(line).groups()
            samples[name + (labels or "")] = float(value)
    return samples


@pytest.fixture
def running(tmp_path):
    with Service(tmp_path / "data", "--health", "127.0.0.1:0").init() as service:
        yield service


def test_each_part_is_alive_ready_and_counts(running):
    kms, trail, responder = running.ready["health"].split(",")
    for part in kms, trail, responder:
        assert fetch(part, "/livez") == (200, "ok\n")
        assert fetch(part, "/readyz") == (200, "ok\n")
        assert fetch(part, "/")[0] == 404
    key = running.client().create_key()["KeyMetadata"]["KeyId"]
    with pytest.raises(running.client().exceptions.ClientError):
        running.client("nobody").describe_key(KeyId=key)

    counted = metrics(kms)
    assert counted['keytrail_kms_calls_total{operation="CreateKey",code="OK"}'] == 1
    assert counted['keytrail_kms_calls_total{operation="DescribeKey",code="AccessDenied"}'] == 1
    # Ours, and those of the node's own parts.
    assert counted["keytrail_kms_call_seconds_count"] == counted['keytrail_kms_call_seconds_bucket{le="+Inf"}'] >= 2
    assert counted["keytrail_kms_keys"] == 1 and counted["keytrail_disk_free_bytes"] > 0
    wait_for("a checkpoint", lambda: metrics(kms)["keytrail_log_signed_records"] >= counted["keytrail_log_durable_records"])
    judged = counted["keytrail_log_durable_records"]
    wait_for("the rules", lambda: metrics(trail)["keytrail_trail_judged_records"] >= judged)
    assert metrics(trail)["keytrail_trail_rules"] > 5
    # Whoever grants themselves a key is an incident, which the responder counts.
    arn = running.client(service="sts").get_caller_identity()["Arn"]
    running.client().create_grant(KeyId=key, GranteePrincipal=arn, Operations=["Decrypt"])
    wait_for("the incident", lambda: metrics(responder).get('keytrail_responder_incidents{state="open"}'))
    responding = metrics(responder)
    assert responding["keytrail_responder_keys_disabled_hour"] == 0
    assert responding["keytrail_responder_keys_disabled_hour_max"] == 3
    assert responding["keytrail_responder_actions_held"] == responding["keytrail_responder_alerts_refused_total"] == 0
    severities = {name: value for name, value in responding.items() if name.startswith("keytrail_responder_incidents_open")}
    assert len(severities) == 5 and sum(severities.values()) >= 1, severities
    assert responding["keytrail_responder_outbox_oldest_seconds"] >= 0
    assert responding["keytrail_acknowledgement_latency_seconds_count"] == 0
    listed = run(KEYTRAIL, "incident", "list", "--json", "--data", running.folder).stdout.splitlines()
    for incident in map(json.loads, listed):
        run(KEYTRAIL, "incident", "ack", incident["id"], "--data", running.folder)
    assert metrics(responder)["keytrail_acknowledgement_latency_seconds_count"] >= len(listed) >= 1
    for incident in map(json.loads, listed):
        run(KEYTRAIL, "incident", "close", incident["id"], "--reason", "benign", "--data", running.folder)
    closed = metrics(responder)
    assert all(closed[name] <= value for name, value in severities.items()) and closed != responding
    assert not any(key in fetch(part, "/metrics")[1] for part in (kms, trail, responder)), "no key is named"


def test_methods_other_than_get_are_refused(running):
    kms = running.ready["health"].split(",")[0]
    request = urllib.request.Request(f"http://{kms}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 405
