"""The circuit breaker of a running service: trips, stays tripped over a restart, and is reset by two people with codes."""

import re

from service import KEYTRAIL, run, wait_for
from test_guarded_action import PLAYBOOK, Office, refused

# The same, and nobody is asked.
SWIFT = PLAYBOOK.replace(', approval = { quorum = 2, ttl = "30m", on_expiry = "escalate" }', "")
# What ships: one more in an hour trips.
DISABLES_MAX = 3


def test_two_people_reset_a_tripped_breaker(tmp_path):
    office = Office(tmp_path, SWIFT)
    folder = ["--data", office.service.folder]

    def status():
        return run(KEYTRAIL, "responder", "status", *folder).stdout

    with office.service:
        refused(run(KEYTRAIL, "responder", "reset", *folder, check=False), "is not tripped")
        for _ in range(DISABLES_MAX):
            key = office.switch_rotation_off()
            wait_for("the key disabled", lambda: office.state(key) == "Disabled")
        held = office.switch_rotation_off()
        wait_for("the breaker to trip", lambda: "tripped   the whole responder" in status())
        assert office.state(held) == "Enabled"
    with office.service:
        assert "tripped   the whole responder: " in status(), "a restart resets nothing"
        said = run(KEYTRAIL, "responder", "reset", *folder, "--by", "carol").stdout
        request = wait_for("the request", lambda: re.search("request (A-.*)", status()))[1]
        assert "two people must agree" in said
        refused(office.mallory.says("approval", "approve", request), "it is about this principal")
        assert "1 of 2 approvals" in office.alice.says("approval", "approve", request).stdout
        refused(office.alice.says("approval", "approve", request), "has approved it already")
        assert "tripped   the whole responder" in status()
        assert "2 of 2 approvals" in office.bob.says("approval", "approve", request).stdout
        wait_for("the reset", lambda: "tripped   no" in status())
        key = office.switch_rotation_off()
        wait_for("the key disabled", lambda: office.state(key) == "Disabled")
        assert office.state(held) == "Enabled", "what was held is for people"
        refused(office.bob.says("approval", "approve", request), "it was used")
    done = office.service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr
