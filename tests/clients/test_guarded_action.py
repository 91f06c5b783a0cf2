"""A playbook's step that people must agree to, against the real key service: two persons with codes, once; and each misuse."""

import base64
import json
import secrets

import pytest

from service import ACCOUNT, KEYTRAIL, Person, Service, run, wait_for
from test_identity import code, this_step

# A rule that no shipped playbook answers: what is done about it is this one's alone.
PLAYBOOK = """
id = "agreed"
version = 1
mode = "enforce"
title = "Disable a key whose rotation was switched off, if two people agree"
steps = [{ action = "disable_key", approval = { quorum = 2, ttl = "30m", on_expiry = "escalate" } }]

[match]
rules = ["rotation-disabled"]
min_severity = "low"
provenance = ["authenticated_allowed"]
"""
ADMINISTRATOR = """
[[user]]
account = "{account}"
name = "{name}"
policies = ["AdministratorAccess"]

[[access_key]]
id = "{key}"
secret = "{secret}"
account = "{account}"
user = "{name}"

[[mfa_device]]
account = "{account}"
name = "{name}-phone"
user = "{name}"
seed = "{seed}"
"""


class Administrator:
    """With a device; each of its codes is good once, and a step early or late."""

    def __init__(self, service, name):
        self.service, self.name, self.last = service, name, 0
        self.seed = base64.b32encode(secrets.token_bytes(20)).decode()
        self.key, self.secret = f"AKIA{name.upper():0>16}", secrets.token_hex(20)
        self.arn = f"arn:aws:iam::{ACCOUNT}:user/{name}"
        self.profile = service.folder.parent / name
        lines = f"[default]\naws_access_key_id = {self.key}\naws_secret_access_key = {self.secret}\n"
        self.profile.write_text(lines, encoding="utf-8")
        service.people[name] = Person(name, self.profile)
        with open(service.folder / "identities.toml", "a", encoding="utf-8") as file:
            facts = {"account": ACCOUNT, "name": name, "key": self.key, "secret": self.secret, "seed": self.seed}
            file.write(ADMINISTRATOR.format(**facts))

    def fresh(self):
        wait_for("a new code", lambda: this_step() + 1 > self.last)
        self.last = max(self.last + 1, this_step() - 1)
        return code(self.seed, self.last)

    def says(self, *words):
        """`keytrail ... --mfa-serial`, with a code from standard input."""
        person = ["--data", self.service.folder, "--credentials", self.profile]
        factor = ["--mfa-serial", f"arn:aws:iam::{ACCOUNT}:mfa/{self.name}-phone"]
        return run(KEYTRAIL, *words, *person, *factor, check=False, input=f"{self.fresh()}\n")

    def agrees(self, incident):
        return self.says("incident", "approve", incident)


class Office:
    def __init__(self, folder, playbook=PLAYBOOK):
        self.service = Service(folder / "data", "--enforce").init()
        self.alice, self.bob, self.mallory = (Administrator(self.service, name) for name in ("alice", "bob", "mallory"))
        playbooks = self.service.folder / "rules" / "playbooks"
        playbooks.mkdir(parents=True, exist_ok=True)
        (playbooks / "agreed.toml").write_text(playbook, encoding="utf-8")

    def incident(self, *words):
        return run(KEYTRAIL, "incident", *words, "--data", self.service.folder).stdout

    def action(self, incident, key):
        actions = json.loads(self.incident("show", incident, "--json"))["actions"]
        return next((one for one in actions if one["target"] == key), None)

    def waiting(self):
        listed = run(KEYTRAIL, "approval", "list", "--data", self.service.folder).stdout
        return {line.split()[-1]: line.split()[0] for line in listed.splitlines()[1:]}

    def switch_rotation_off(self):
        """Mallory does, of a new key."""
        mallory = self.service.client("mallory")
        key = mallory.create_key()["KeyMetadata"]["Arn"]
        mallory.enable_key_rotation(KeyId=key)
        mallory.disable_key_rotation(KeyId=key)
        return key

    def attack(self):
        """The key, the incident, and the request that waits for people."""
        key = self.switch_rotation_off()
        request = wait_for("people to be asked", lambda: self.waiting().get(key))
        listed = [json.loads(line) for line in self.incident("list", "--json").splitlines()]
        (incident,) = [one["id"] for one in listed if one["principal"] == self.mallory.arn]
        wait_for("the request on the timeline", lambda: request in self.incident("show", incident))
        assert self.action(incident, key)["state"] == "awaiting_approval"
        return key, incident, request

    def state(self, key):
        return self.service.client().describe_key(KeyId=key)["KeyMetadata"]["KeyState"]


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    office = Office(tmp_path_factory.mktemp("guarded"))
    with office.service:
        yield office
    done = office.service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


def refused(done, why):
    assert done.returncode != 0 and why in done.stderr, done.stdout + done.stderr


def test_two_people_agree_and_it_is_done_once(office):
    key, incident, request = office.attack()
    refused(office.mallory.agrees(incident), "it is about this principal")
    assert "1 of 2 approvals" in office.alice.agrees(incident).stdout
    refused(office.alice.agrees(incident), "has approved it already")
    assert office.state(key) == "Enabled", "one is not enough"
    assert "2 of 2 approvals" in office.bob.agrees(incident).stdout
    wait_for("the key disabled", lambda: office.state(key) == "Disabled")
    wait_for("the action's end", lambda: office.action(incident, key)["state"] == "done")

    # The request is used up: neither the incident nor the request itself takes it again.
    refused(office.bob.agrees(incident), "nothing of incident")
    refused(office.bob.says("approval", "approve", request), "it was used")
    query = (
        "SELECT event_name, principal_arn FROM events WHERE error_code IS NULL AND repeat_of IS NULL AND "
        f"(json_get_str(additional, 'approvalRequestId') = '{request}' AND read_only = false "
        f"OR event_name = 'DisableKey' AND key_arn = '{key}') ORDER BY seq"
    )
    responder = f"arn:aws:iam::{ACCOUNT}:keytrail/responder"
    session = f"arn:aws:iam::{ACCOUNT}:user/"
    wait_for("all of it in the log", lambda: len(office.service.sql(query)) >= 5)
    assert [(row["event_name"], row["principal_arn"]) for row in office.service.sql(query)] == [
        ("OpenApprovalRequest", responder),
        ("Approve", session + "alice"),
        ("Approve", session + "bob"),
        ("ConsumeApprovalRequest", responder),
        ("DisableKey", responder),
    ]


def test_agreement_is_to_the_key_as_it_was_when_people_were_asked(office):
    key, incident, request = office.attack()
    assert "1 of 2 approvals" in office.alice.says("approval", "approve", request).stdout
    kms = office.service.client()
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    kms.put_key_policy(KeyId=key, Policy=json.dumps(policy | {"Id": "changed between"}))
    refused(office.bob.agrees(incident), "its target has changed since it was asked for")
    action = office.action(incident, key)
    assert action["state"] == "awaiting_approval" and office.state(key) == "Enabled", action
