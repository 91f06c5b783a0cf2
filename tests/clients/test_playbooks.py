"""Announced changes, pause and resume, and the commands about playbooks, against a service that acts."""

import json
import subprocess

import pytest

from service import ACCOUNT, KEYTRAIL, Service, run, wait_for

EVERYONE = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Owner",
                "Effect": "Allow",
                "Action": "kms:*",
                "Resource": "*",
                "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            },
            {"Sid": "Everyone", "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"},
        ],
    }
)


@pytest.fixture
def service(tmp_path):
    with Service(tmp_path / "data", "--enforce").init() as service:
        yield service
    done = service.verify()
    assert done.returncode == 0, done.stdout + done.stderr


def keytrail(service, *arguments, check=True, **options):
    return run(KEYTRAIL, *arguments, "--data", service.folder, check=check, **options)


def policy(service, key):
    return service.client().get_key_policy(KeyId=key)["Policy"]


def incidents(service):
    lines = keytrail(service, "incident", "list").stdout.splitlines()[1:]
    return [line.split()[0] for line in lines]


def shown(service, incident):
    return keytrail(service, "incident", "show", incident).stdout


def reports(service, kind):
    """What the log holds of the responder's own reports."""
    found = service.sql("SELECT request_parameters FROM events WHERE event_name = 'ReportResponder' ORDER BY seq")
    rows = [json.loads(row["request_parameters"]) for row in found]
    return [row for row in rows if row["kind"] == kind]


def test_what_somebody_else_announced_is_left_alone_and_nothing_else_is(service):
    admin, engineer = service.client(), service.client("engineer")
    announced, other = (admin.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    people = ["--credentials", service.people["engineer"].credentials, "--by", "engineer"]
    work = ["--ticket", "CHG-7", "--key", announced, "--operation", "PutKeyPolicy", "--window", "1h"]
    refused = keytrail(service, "change", "announce", *work, *people, check=False)
    assert refused.returncode != 0 and "AccessDenied" in refused.stderr, "who may use keys may not announce"
    done = keytrail(service, "change", "announce", *work)
    change = done.stdout.split()[1]
    assert "(seq " in done.stdout
    listed = keytrail(service, "change", "list").stdout
    assert change in listed and "CHG-7" in listed and "under way" in listed

    engineer.put_key_policy(KeyId=announced, Policy=EVERYONE)
    (incident,) = wait_for("the incident", lambda: incidents(service))
    text = wait_for("what was planned", lambda: (t := shown(service, incident)) and "restore_key_policy" in t and t)
    assert "announced: CHG-7" in text
    why = keytrail(service, "playbook", "explain", incident).stdout
    assert "announced" in why and "hold" in why and "CHG-7" in why and "key-policy-public" in why
    assert policy(service, announced) == EVERYONE, "the announced policy stays"

    before = policy(service, other)
    engineer.put_key_policy(KeyId=other, Policy=EVERYONE)
    wait_for("the policy of before", lambda: policy(service, other) == before)
    assert policy(service, announced) == EVERYONE
    keytrail(service, "change", "withdraw", change, "--reason", "done")
    assert "over" in keytrail(service, "change", "list").stdout


def test_a_paused_responder_holds_until_it_is_resumed_and_the_log_knows(service):
    admin, engineer = service.client(), service.client("engineer")
    key = admin.create_key()["KeyMetadata"]["Arn"]
    before = policy(service, key)
    assert "paused    no" in keytrail(service, "responder", "status").stdout
    keytrail(service, "responder", "pause", "--reason", "migration", "--by", "ann")
    again = keytrail(service, "responder", "pause", "--reason", "again", check=False)
    assert again.returncode != 0 and "paused already" in again.stderr
    status = keytrail(service, "responder", "status").stdout
    assert "by ann: migration" in status and "mode      enforce" in status
    engineer.put_key_policy(KeyId=key, Policy=EVERYONE)
    ready = lambda: any("ready" in shown(service, one) for one in incidents(service))
    wait_for("the plan", ready)
    assert policy(service, key) == EVERYONE
    wait_for("the log", lambda: [row["by"] for row in reports(service, "pause")] == ["ann"])
    wait_for("the rule that sees it", lambda: service.sql("SELECT 1 FROM alerts WHERE rule_id = 'responder-paused'"))
    keytrail(service, "responder", "resume", "--reason", "done", "--by", "bob")
    wait_for("the policy of before", lambda: policy(service, key) == before)
    nothing = keytrail(service, "responder", "reset", "--by", "ann", check=False)
    assert nothing.returncode != 0 and "not tripped" in nothing.stderr


def test_playbooks_are_checked_tested_and_promoted(service):
    assert run(KEYTRAIL, "playbook", "test").stdout.splitlines()[-1].endswith(", 0 failed")
    check = run(KEYTRAIL, "playbook", "check").stdout
    assert "0 warnings" in check.splitlines()[-1], check
    rules = service.folder / "rules"
    file = rules / "playbooks" / "credential-misuse.toml"
    text = file.read_text()
    file.write_text(text.replace('["denied-burst",', '["no-such-rule",', 1))
    assert "rule no-such-rule is not in this folder" in run(KEYTRAIL, "playbook", "check", rules).stdout
    file.write_text(text.replace('action = "quarantine_principal", target', 'action = "disable_key", target', 1))
    failed = run(KEYTRAIL, "playbook", "test", rules, check=False)
    assert failed.returncode == 1 and "FAIL  credential-misuse" in failed.stdout
    file.write_text(text.replace("cooldown", "cool_down", 1))
    broken = run(KEYTRAIL, "playbook", "check", rules, check=False)
    assert broken.returncode != 0 and "credential-misuse.toml" in broken.stderr
    file.write_text(text)

    answers = keytrail(service, "playbook", "explain", "denied-burst").stdout
    assert "credential-misuse v1" in answers and "quarantine_principal" in answers
    assert "no playbook answers" in keytrail(service, "playbook", "explain", "key-disabled").stdout
    promote = ["playbook", "promote", "credential-misuse", "--to"]
    asked = keytrail(service, *promote, "observe", stdin=subprocess.DEVNULL, check=False)
    assert asked.returncode != 0 and "give --yes" in asked.stderr
    done = keytrail(service, *promote, "observe", "--yes", "--by", "ann")
    assert "in 30 days of 0 alerts" in done.stdout
    listed = keytrail(service, "playbook", "list").stdout
    (line,) = [line for line in listed.splitlines() if line.startswith("credential-misuse")]
    assert line.split()[2:5] == ["enforce", "observe", "observe"]
    wait_for("the log", lambda: [row["subject"] for row in reports(service, "promote")] == ["credential-misuse"])
    (loaded,) = reports(service, "playbooks")
    assert set(json.loads(loaded["detail"])) >= {"credential-misuse", "key-policy-public"}
    file.write_text(text.replace('mode = "enforce"', 'mode = "observe"', 1))
    ceiling = keytrail(service, *promote, "enforce", "--yes", check=False)
    assert ceiling.returncode != 0 and "the most that" in ceiling.stderr
    file.write_text(text)
