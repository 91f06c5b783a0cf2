"""Incidents as people deal with them: command line, HTTP, the link of a mail, export, and what the log has of it."""

import csv
import hashlib
import hmac
import http.client
import io
import json
import sqlite3
import ssl
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import jsonschema
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from authority import Authority
from browser import Browser
from service import ACCOUNT, KEYTRAIL, Service, run, wait_for

PUBLIC = "https://soc.example.org/keytrail"


class Stage:
    """An enforcing service with the listener, and an incident about the engineer's deletion of a key."""

    def __init__(self, folder):
        self.service = Service(folder / "data", "--enforce").init()
        with open(self.service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
            file.write(f'\n[responder.http]\nlisten = "127.0.0.1:0"\npublic_url = "{PUBLIC}"\n')
        self.token = self.incident("user", "add", "alice", "--mail", "alice@example.org").stdout.strip()

    def __enter__(self):
        self.service.start()
        self.base = f"http://{self.service.ready['incidents']}"
        admin = self.service.client()
        self.key = admin.create_key(Description="wanted dead")["KeyMetadata"]["Arn"]
        engineer = self.service.client("engineer")
        blob = engineer.encrypt(KeyId=self.key, Plaintext=b"x", EncryptionContext={"tenant": "a"})["CiphertextBlob"]
        self.decrypt = lambda: engineer.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "a"})
        engineer.schedule_key_deletion(KeyId=self.key, PendingWindowInDays=7)
        who = f"arn:aws:iam::{ACCOUNT}:user/engineer"
        self.id = wait_for("the incident", lambda: [one["id"] for one in self.listed() if one["principal"] == who])[0]
        return self

    def __exit__(self, *_):
        self.service.stop()

    def incident(self, *arguments, check=True):
        return run(KEYTRAIL, "incident", *arguments, "--data", self.service.folder, check=check)

    def listed(self, *flags):
        return [json.loads(line) for line in self.incident("list", "--json", *flags).stdout.splitlines()]

    def shown(self, id=None):
        return json.loads(self.incident("show", id or self.id, "--json").stdout)

    def state(self):
        return self.shown()["summary"]["state"]

    def http(self, method, path, body=None, token=None, raw=None, **headers):
        token = self.token if token is None else token
        data = raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
        request = urllib.request.Request(self.base + path, data=data, method=method, headers=headers)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.headers, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def link(self, expires=None, reopened=0, id=None):
        """As docs/responder.md describes it, made by a stranger who has the key."""
        id, expires = id or self.id, expires or int(time.time()) + 3600
        key = bytes.fromhex((self.service.folder / "incident-link.key").read_text())
        message = b"keytrail incident link v1"
        for field in (id, "ack", str(expires), str(reopened)):
            message += struct.pack(">I", len(field)) + field.encode()
        return f"/i/{id}/ack?e={expires}&n={reopened}&m={hmac.new(key, message, hashlib.sha256).hexdigest()}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with Stage(tmp_path_factory.mktemp("incident")) as stage:
        yield stage


def digests(incident, entries):
    """The links of a timeline, computed as docs/responder.md says."""
    before = bytes(32)
    for entry in entries:
        message = b"keytrail incident entry v1" + before
        for field in (incident, str(entry["number"]), str(entry["at_us"]), entry["kind"], entry["text"]):
            message += struct.pack(">I", len(field.encode())) + field.encode()
        before = hashlib.sha256(message).digest()
        yield before.hex()


def test_it_is_contained_when_the_log_says_so_and_the_exposure_is_kept(stage):
    wait_for("containment", lambda: stage.shown()["summary"]["contained_us"])
    exposure = stage.shown()["exposure"]
    assert exposure["complete"] and exposure["firstSeq"] <= exposure["lastSeq"]
    assert "EXPOSURE" in stage.incident("show", stage.id).stdout
    # The timeline follows, as it is in nobody's way.
    wait_for("the timeline in the log", lambda: {"GetUsage", "RecordIncident"} <= {row["event_name"] for row in stage.service.sql(
        "SELECT DISTINCT event_name FROM events WHERE actor_class = 'responder' AND action_id IS NULL AND error_code IS NULL")})
    # Nothing of that made an alert.
    rules = {row["rule_id"] for row in stage.service.sql("SELECT rule_id FROM alerts")}
    assert "responder-without-action" not in rules, rules


def test_people_deal_with_it_on_the_command_line(stage):
    assert stage.incident("ack", stage.id, "--by", "bob\n\x1b[31m").stdout.split()[0] == stage.id
    assert stage.shown()["summary"]["acknowledged_by"] == "bob[31m"
    stage.incident("assign", stage.id, "carol", "--by", "bob")
    stage.incident("note", stage.id, "<b>looked</b> at it")
    shown = stage.shown()
    assert shown["summary"]["assignee"] == "carol"
    by_default = [entry["text"] for entry in shown["timeline"] if "looked" in entry["text"]]
    assert "uid " in by_default[0] and by_default[0].endswith(": <b>looked</b> at it"), by_default
    for bad in (["note", stage.id, " "], ["note", "I-000000000000", "x"], ["close", stage.id, "--reason", "because"],
                ["reopen", stage.id], ["merge", stage.id, stage.id]):
        assert stage.incident(*bad, check=False).returncode != 0, bad
    stage.incident("close", stage.id, "--reason", "authorised_by_owner", "--text", "ticket 7", "--by", "carol")
    assert stage.state() == "resolved" and [one["id"] for one in stage.listed("--state", "resolved")] == [stage.id]
    stage.incident("reopen", stage.id, "--by", "carol")
    assert wait_for("containment again", lambda: stage.state() == "contained")


def test_a_dead_action_is_retried_without_a_second_effect_or_dropped(stage):
    outbox = lambda *arguments, check=True: run(KEYTRAIL, "outbox", *arguments, "--data", stage.service.folder, check=check)
    listed = lambda: [json.loads(line) for line in outbox("list", "--json").stdout.splitlines()]
    action = next(one for one in listed() if one["kind"] == "cancel_key_deletion" and one["state"] == "done")
    effects = lambda: [row["repeat_of"] is None for row in stage.service.sql(
        f"SELECT repeat_of FROM events WHERE action_id = '{action['id']}' AND error_code IS NULL ORDER BY seq")]
    wait_for("the call in the log", lambda: effects() == [True])
    before = stage.shown()["timeline"]
    for bad in (["retry", action["id"]], ["drop", action["id"], "--reason", "no"], ["retry", "0" * 64], ["drop", "0" * 64, "--reason", "no"],
                ["drop", action["id"], "--reason", " "], ["drop", action["id"], "--reason", "x" * 201], ["drop", action["id"]]):
        refused = outbox(*bad, check=False)
        assert refused.returncode != 0 and refused.stderr, bad
    assert stage.shown()["timeline"] == before
    # As if no answer had come for an hour, though the call had landed.
    with sqlite3.connect(stage.service.folder / "responder.db", timeout=30) as store:
        store.execute("UPDATE actions SET state = 'dead', changed = NULL, log_seq = NULL WHERE id = ?", [action["id"]])
    assert action["id"][:16] in outbox("list", "--state", "dead").stdout
    outbox("retry", action["id"][:12], "--by", "bob", "--reason", "the network is back")
    retried = lambda: next(one for one in listed() if one["id"] == action["id"])
    wait_for("its end", lambda: retried()["state"] == "done")
    assert "tried again by bob: the network is back" in stage.incident("show", stage.id).stdout
    wait_for("the repeat in the log, without effect", lambda: effects() == [True, False])
    wait_for("containment again", lambda: stage.state() == "contained")


def test_the_log_has_the_timeline_and_a_changed_one_is_found(stage):
    def complete():
        shown = stage.shown()
        return shown["recorded_through"] == len(shown["timeline"]) and shown
    shown = wait_for("the log to have it all", complete)
    assert list(digests(stage.id, shown["timeline"])) == [entry["digest"] for entry in shown["timeline"]]
    checked = wait_for("the check", lambda: stage.incident("check", check=False).stdout)
    assert "agrees" in checked and "FAULT" not in checked, checked
    told = stage.service.sql("SELECT request_parameters FROM events WHERE event_name = 'RecordIncident' ORDER BY seq")
    numbers = [entry["number"] for row in told for entry in json.loads(row["request_parameters"])["entries"]
               if json.loads(row["request_parameters"])["incidentId"] == stage.id]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))


def test_export_is_an_ocsf_incident_finding_and_a_csv(stage, tmp_path):
    stage.incident("export", stage.id, "--out", tmp_path / "one.json")
    finding = json.loads((tmp_path / "one.json").read_text())
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=finding["metadata"]["version"]))
    checker = jsonschema.Draft202012Validator(
        schema.get_class_schema(class_name=schema.lookup_class_name_from_uid(class_uid=2005), profiles=[]))
    errors = [f"{error.json_path}: {error.message[:200]}" for error in checker.iter_errors(finding)]
    assert not errors, "\n".join(errors)
    assert finding["metadata"]["uid"] == stage.id and finding["finding_info_list"]
    stage.incident("export", stage.id, "--out", tmp_path / "one.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "one.csv").read_bytes().decode())))
    assert [row["digest"] for row in rows] == [entry["digest"] for entry in stage.shown()["timeline"]][: len(rows)]
    assert stage.incident("export", stage.id, "--out", tmp_path / "one.csv", check=False).returncode != 0, "not over it"
    assert stage.incident("export", stage.id, "--out", tmp_path / "one.txt", check=False).returncode != 0


def test_the_table_in_sql_has_the_marks(stage):
    rows = stage.service.sql(f"SELECT * FROM incidents WHERE incident_id = '{stage.id}'")
    assert rows[0]["assignee"] == "carol" and rows[0]["reopenings"] >= 1 and rows[0]["exposure"]


def test_http_needs_a_token_and_says_who_it_was(stage):
    for token in ("", "kti_wrong", stage.token[:-1], stage.token + "x", "x" * 5_000):
        status, headers, body = stage.http("GET", "/v1/incidents", token=token)
        assert status == 401 and stage.token not in body, token
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    status, _, body = stage.http("POST", f"/v1/incidents/{stage.id}/note", {"text": "<script>alert(1)</script>"})
    assert status == 200
    texts = [entry["text"] for entry in json.loads(body)["timeline"]]
    assert "alice: <script>alert(1)</script>" in texts
    assert stage.http("GET", "/v1/incidents?state=contained")[0] == 200
    assert stage.token not in (stage.service.folder / "incident-users.toml").read_text()


def test_hostile_bodies_are_refused(stage):
    path = f"/v1/incidents/{stage.id}"
    before = stage.shown()["timeline"]
    for raw, status in ((b"x" * 20_000, 413), (b"[" * 10_000, 400), (b"\xff\xfe", 400), (b'{"text": 7}', 400),
                        (b'{"text": "a", "by": "root"}', 400), (b'{"text": "\\u0000"}', 400)):
        assert stage.http("POST", f"{path}/note", raw=raw)[0] == status, raw[:40]
    for path in ("/", "/v1", "/v1/incidents/../..", "/v1/incidents/%00", "/i/", "/i/x/ack/ack", f"/v1/incidents/{'x' * 900}"):
        assert stage.http("GET", path)[0] in (400, 403, 404), path
    assert stage.http("PUT", "/v1/incidents")[0] == 405
    assert stage.shown()["timeline"] == before


def test_a_mails_link_acknowledges_once_by_post_alone(stage):
    # The key is made when the first link is judged.
    stage.http("GET", f"/i/{stage.id}/ack?e=1&n=0&m=00", token="")
    reopened = stage.shown()["summary"]["reopenings"]
    link = stage.link(reopened=reopened)

    def seen():
        # How far the log has it by now goes on by itself.
        return {name: value for name, value in stage.shown().items() if name != "recorded_through"}

    before = seen()
    for _ in range(3):
        status, headers, page = stage.http("GET", link, token="")
        assert status == 200 and headers["Content-Type"].startswith("text/html"), page
        assert "<script" not in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert seen() == before, "scanners follow links"
    altered = [link.replace("&m=", "&m=0"), link[:-1] + ("0" if link[-1] != "0" else "1"), link.replace(stage.id, "I-000000000000"),
               link.replace("?e=", "?e=9"), link + "&n=0", stage.link(reopened=reopened + 1).replace(f"n={reopened + 1}", f"n={reopened}")]
    for other in altered:
        assert stage.http("POST", other, token="")[0] == 403, other
    assert stage.http("POST", stage.link(expires=int(time.time()) - 1, reopened=reopened), token="")[0] == 410
    assert stage.http("POST", stage.link(reopened=reopened + 1), token="")[0] == 409
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(stage.http("POST", link, token="")[0])) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(replies) == [200] + [410] * 7, "a link works once"
    assert stage.shown()["summary"]["acknowledged_by"] == "the link of a mail"


def test_a_mails_link_assigns_notes_and_closes_by_the_pages_forms(stage, tmp_path):
    reopened = stage.shown()["summary"]["reopenings"]
    link = stage.link(expires=int(time.time()) + 7200, reopened=reopened)
    post = lambda deed, **fields: stage.http("POST", link.replace("/ack?", f"/{deed}?"), token="", raw=urllib.parse.urlencode(fields).encode())
    for fields, status in (({"text": ""}, 400), ({"text": "a", "by": "root"}, 400), ({"text": "x" * 20_000}, 413)):
        assert post("note", **fields)[0] == status, fields
    assert post("reopen", text="")[0] == post("undo")[0] == post("approve")[0] == 404
    assert stage.http("GET", link.replace("/ack?", "/close?"), token="")[0] == 405
    forged = link.replace("/ack?", "/close?").replace("&m=", "&m=0")
    assert stage.http("POST", forged, token="", raw=b"reason=test&text=")[0] == 403
    status, _, page = post("assign", assignee="carol <script>")
    assert status == 200 and "carol &lt;script&gt;" in page and "<script" not in page
    # As a person does it: the page, its form, its button.
    with Browser(tmp_path / "profile", reaches="127.0.0.1") as browser:
        browser.call("Page.navigate", url=stage.base + link)
        browser.wait("document.title === 'Deal with this incident'")
        deeds = "Array.from(document.forms, form => form.action.split('?')[0].split('/').pop()).join()"
        assert browser.evaluate(deeds) == "ack,note,close,merge"
        browser.picture(tmp_path / "link.png")
        browser.evaluate("document.querySelector('form[action^=note] input').value = 'looked <b>at</b> it & closed it'")
        browser.evaluate("document.querySelector('form[action^=note] button').click()")
        browser.wait("document.title === 'Noted'")
        browser.evaluate("document.querySelector('form[action^=close] select').value = 'benign'")
        browser.evaluate("document.querySelector('form[action^=close] button').click()")
        browser.wait("document.title === 'Closed'")
        assert browser.evaluate("document.forms.length") == 0
    summary = stage.shown()["summary"]
    assert (summary["state"], summary["resolution"], summary["resolved_by"]) == ("resolved", "benign", "the link of a mail")
    texts = [entry["text"] for entry in stage.shown()["timeline"]]
    assert "assigned to carol <script> by the link of a mail" in texts
    assert "the link of a mail: looked <b>at</b> it & closed it" in texts and "closed as benign by the link of a mail" in texts
    assert post("merge", into="I-000000000000")[0] == 409, "a closed incident's link is over"
    stage.incident("reopen", stage.id, "--by", "carol")


def test_undo_says_who_and_the_stopped_service_still_tells(stage):
    stage.incident("undo", stage.id, "--by", "dave")
    shown = stage.shown()
    assert (shown["summary"]["state"], shown["summary"]["resolution"]) == ("resolved", "undone")
    assert shown["summary"]["resolved_by"] == "dave"
    stage.service.stop()
    stage.incident("reopen", stage.id, "--by", "erin")
    stage.incident("note", stage.id, "written while nothing ran", "--by", "erin")
    checked = stage.incident("check", stage.id).stdout
    assert "agrees" in checked, checked
    assert stage.service.verify().returncode == 0


def test_what_was_closed_long_ago_leaves_and_the_log_still_agrees(stage):
    folder = stage.service.folder
    stage.incident("close", stage.id, "--reason", "benign", "--by", "erin")
    whole = stage.shown()
    with open(folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write('\n[responder]\nkeep = "34d"\n')
    refused = run(KEYTRAIL, "config", "check", folder / "keytrail.toml", check=False)
    assert refused.returncode != 0 and "at least 35d" in refused.stderr, refused.stderr
    (folder / "keytrail.toml").write_text((folder / "keytrail.toml").read_text().replace('"34d"', '"36d"'))
    with sqlite3.connect(folder / "responder.db") as store:
        store.execute("UPDATE incidents SET resolved_us = resolved_us - 37 * 86400 * 1000000 WHERE id = ?", [stage.id])
    with stage.service:
        # What comes of its closing may be told after that entry.
        left = wait_for("what leaves", lambda: stage.shown()["timeline"][0]["kind"] == "leaves" and stage.shown())
        assert left["timeline"][0]["number"] > whole["timeline"][-1]["number"]
        assert left["summary"]["resolution"] == "benign" and left["actions"] == whole["actions"]
        checked = wait_for("the check", lambda: "agrees; those before" in stage.incident("check", check=False).stdout)
        assert checked and "FAULT" not in stage.incident("check").stdout
        told = stage.service.sql("SELECT request_parameters FROM events WHERE event_name = 'RecordIncident'")
        assert any("closed for longer than 36 days" in row["request_parameters"] for row in told)
    # Whoever makes a timeline look as if its beginning had left is contradicted.
    with sqlite3.connect(folder / "responder.db") as store:
        store.execute("DROP TRIGGER timeline_no_update")
        store.execute("UPDATE timeline SET text = 'closed for longer than 400 days' WHERE kind = 'leaves'")
    assert "FAULT" in stage.incident("check", check=False).stdout


def test_beyond_loopback_it_needs_tls_and_over_tls_it_answers(tmp_path):
    authority = Authority(tmp_path)
    authority.make("server")
    service = Service(tmp_path / "data").init()
    file = service.folder / "keytrail.toml"
    plain = file.read_text()
    file.write_text(plain + '\n[responder.http]\nlisten = "0.0.0.0:0"\n')
    refused = run(KEYTRAIL, "config", "check", file, check=False)
    assert refused.returncode != 0 and "tls" in refused.stderr, refused.stderr
    tls = f'tls = {{ cert_file = "{tmp_path}/server.pem", key_file = "{tmp_path}/server.key" }}'
    file.write_text(plain + f'\n[responder.http]\nlisten = "127.0.0.1:0"\n{tls}\n')
    token = run(KEYTRAIL, "incident", "user", "add", "bob", "--data", service.folder).stdout.strip()
    with service:
        request = urllib.request.Request(f"https://{service.ready['incidents']}/v1/incidents")
        request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cafile=str(authority.pem))
        with urllib.request.urlopen(request, timeout=30, context=context) as reply:
            assert json.loads(reply.read()) == {"incidents": []}
        with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
            urllib.request.urlopen(f"http://{service.ready['incidents']}/v1/incidents", timeout=30)
