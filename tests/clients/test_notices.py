"""Notices as their receivers see them: golden payloads against schemas, and mail to servers that are not ours.

The golden files are what the responder writes, byte for byte (crates/responder/tests/golden); here they meet the rules of
those who read them. Deliveries go through `keytrail notices test` and through a whole service.
"""

import contextlib
import email
import email.policy
import http.server
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading

import adaptive_cards
import dkim
import jsonschema
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

import typescript
from authority import Authority
from service import KEYTRAIL, ROOT, Service, run, wait_for
from test_mail import free_port, schedule_deletion
from workplace import INSTALLED, need

GOLDEN = ROOT / "crates/responder/tests/golden"
SCHEMAS = pathlib.Path(__file__).parent / "schemas"
INCIDENTS = ["early", "first", "update", "escalation", "resolved", "hostile"]
ALL = INCIDENTS + ["page", "heartbeat"]


def golden(name, kind):
    return json.loads((GOLDEN / f"{name}.{kind}.json").read_text(encoding="utf-8"))


def validator(name):
    schema = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def published_card_schema():
    """Microsoft's schema of Adaptive Cards 1.4. It does not know `msteams`, which is Teams' own."""
    text = (pathlib.Path(adaptive_cards.__file__).parent / "schemas" / "schema-1.4.json").read_text(encoding="utf-8")
    return jsonschema.Draft6Validator(json.loads(text))


def size(payload):
    return len(json.dumps(payload, ensure_ascii=False).encode())


@pytest.mark.parametrize("name", ALL + ["acknowledged"])
def test_pagerduty_takes_the_event(name):
    event = golden(name, "pagerduty")
    assert "routing_key" not in event, "a secret in a file"
    event["routing_key"] = "0123456789abcdef0123456789abcdef"
    validator("pagerduty-events-v2.json").validate(event)
    assert size(event) <= 512 * 1024


def test_pagerduty_knows_all_notices_of_an_incident_as_one_alert():
    events = {name: golden(name, "pagerduty") for name in INCIDENTS + ["acknowledged"]}
    assert len({event["dedup_key"] for event in events.values()}) == 1
    actions = {name: event["event_action"] for name, event in events.items()}
    assert actions["first"] == actions["update"] == actions["escalation"] == "trigger"
    assert (actions["acknowledged"], actions["resolved"]) == ("acknowledge", "resolve")


@pytest.mark.parametrize("name", ALL)
def test_slack_takes_the_message(name):
    message = golden(name, "slack")
    validator("slack-message.json").validate(message)
    # Not documented, met by others: a whole message much above 13,000 characters is refused.
    assert len(json.dumps(message, ensure_ascii=False)) <= 13_000


@pytest.mark.parametrize("name", ALL)
def test_teams_takes_the_card(name):
    message = golden(name, "teams")
    validator("teams-message.json").validate(message)
    assert size(message) <= 28 * 1024
    card = message["attachments"][0]["content"]
    del card["msteams"]
    published_card_schema().validate(card)
    card["body"][0]["inlines"][0]["weight"] = "Bold"
    assert not published_card_schema().is_valid(card), "a schema that takes everything"


def test_the_types_of_slack_and_pagerduty_accept_the_payloads(tmp_path):
    need("node")
    slack = "import type { KnownBlock } from '@slack/types';\n"
    slack += "type Message = { text: string; blocks: KnownBlock[]; unfurl_links: boolean; unfurl_media: boolean };\n"
    # The documentation knows `client`, the type does not.
    duty = "import type { EventPayloadV2 } from '@pagerduty/pdjs/build/src/events';\n"
    duty += "type Message = EventPayloadV2 & { client: string };\n"
    module = lambda head, message: f"{head}export const message = {json.dumps(message)} satisfies Message;\n"
    modules = {f"slack-{name}": module(slack, golden(name, "slack")) for name in ALL}
    # Their type wants a payload of every event; acknowledging and resolving needs none.
    for name in set(ALL) - {"resolved", "heartbeat"}:
        modules[f"pagerduty-{name}"] = module(duty, golden(name, "pagerduty") | {"routing_key": ""})
    (tmp_path / "good").mkdir()
    assert typescript.problems(tmp_path / "good", INSTALLED / "node", modules) == ""
    wrong = {name: text.replace('"rich_text"', '"rich"').replace('"error"', '"worse"') for name, text in modules.items()}
    (tmp_path / "wrong").mkdir()
    said = typescript.problems(tmp_path / "wrong", INSTALLED / "node", {name: wrong[name] for name in ("slack-first", "pagerduty-first")})
    assert "slack-first.ts" in said and "pagerduty-first.ts" in said, "types that take everything"


@pytest.mark.parametrize("name", ALL)
def test_the_notification_is_what_sns_posts(name):
    post = golden(name, "sns")
    assert {"Type", "MessageId", "TopicArn", "Subject", "Message", "Timestamp", "MessageAttributes"} == set(post)
    assert post["Subject"].isascii() and len(post["Subject"]) <= 100 and size(post) <= 256 * 1024
    assert isinstance(json.loads(post["Message"]), dict)
    assert all(set(value) == {"Type", "Value"} for value in post["MessageAttributes"].values())


@pytest.mark.parametrize("name", ALL)
def test_the_finding_is_ocsf(name):
    text = (GOLDEN / f"{name}.syslog.txt").read_text(encoding="ascii")
    head, finding = text.split(" - ", 3)[0], text.split(" - ", 3)[3]
    assert head.startswith("<1") and ">1 2026-" in head and "\n" not in text
    finding = json.loads(finding)
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=finding["metadata"]["version"]))
    name = schema.lookup_class_name_from_uid(class_uid=finding["class_uid"])
    checker = jsonschema.Draft202012Validator(schema.get_class_schema(class_name=name, profiles=[]))
    errors = [f"{error.json_path}: {error.message[:200]}" for error in checker.iter_errors(finding)]
    assert not errors, "\n".join(errors[:10])


def test_a_hostile_mail_is_read_as_it_was_meant():
    raw = (GOLDEN / "hostile.eml").read_bytes().replace(b"\n", b"\r\n")
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["To"] == "soc@example.org" and mail["Bcc"] is None and mail["Cc"] is None
    assert not mail.defects and not mail.is_multipart()
    assert str(mail["Subject"]).startswith("Re: [keytrail] CRITICAL") and "\n" not in str(mail["Subject"])
    text = mail.get_content()
    assert len(text.splitlines()) <= 40 and "keytrail incident undo --data DIR I-0123456789ab" in text
    # Signed with the key of RFC 8463.
    record = lambda name, timeout=5: b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    head, body = raw.split(b"\r\n\r\n", 1)
    assert dkim.verify(raw, dnsfunc=record)
    for at in range(0, len(body.rstrip()), 97):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        assert not dkim.verify(head + b"\r\n\r\n" + changed, dnsfunc=record), f"byte {at} is not signed"


def configured(folder, text):
    run(KEYTRAIL, "init", "--data", folder, "--account", "123456789012")
    with open(folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write(text)
    return folder


def mail_to(port, *more):
    lines = [
        "", "[responder.receivers.soc]", 'kind = "smtp"', 'host = "127.0.0.1"', f"port = {port}",
        'from = "Keytrail <keytrail@example.org>"', 'to = ["a@example.org", "b@example.org"]', 'timeout = "5s"', *more,
    ]
    return "\n".join(lines) + "\n"


def tried(folder, *names):
    return run(KEYTRAIL, "notices", "test", "--data", folder, *names, check=False)


class Mailbox:
    def __init__(self):
        self.taken, self.logins = [], []

    async def handle_RCPT(self, _server, _session, envelope, address, _options):
        if address.startswith("b@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server, session, envelope):
        self.taken.append((envelope.content, session.ssl is not None, list(envelope.rcpt_tos)))
        return "250 taken"

    def login(self, _server, _session, _envelope, mechanism, data):
        self.logins.append(mechanism)
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"keytrail", b"secret")
        return AuthResult(success=good, handled=good)


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def context(authority, host=None):
    authority.make("relay", host)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(authority.folder / "relay.pem", authority.folder / "relay.key")
    return made


@pytest.fixture
def relay():
    """Starts aiosmtpd servers and stops them."""
    started = []

    def start(mailbox, tls=None, **options):
        options = {"authenticator": mailbox.login, "tls_context": tls, "require_starttls": tls is not None} | options
        controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
        controller.start()
        started.append(controller)
        return controller.port

    yield start
    for controller in started:
        controller.stop()


def login(folder, authority, password="secret"):
    path = folder / "password"
    path.write_text(password + "\n", encoding="utf-8")
    return ['tls = "starttls"', f'ca_file = "{authority.pem}"', 'username = "keytrail"', f'password_file = "{path}"']


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_mail_by_starttls_and_login_one_delivery_a_recipient(tmp_path, authority, relay, mechanism):
    mailbox = Mailbox()
    other = "LOGIN" if mechanism == "PLAIN" else "PLAIN"
    port = relay(mailbox, context(authority), auth_required=True, auth_exclude_mechanism=[other])
    folder = configured(tmp_path / "data", mail_to(port, *login(tmp_path, authority)))
    done = tried(folder)
    assert done.returncode != 0 and "1 of 2 deliveries failed" in done.stderr, "one of the recipients is refused"
    ((raw, secure, recipients),) = mailbox.taken
    assert secure and recipients == ["a@example.org"] and set(mailbox.logins) == {mechanism}
    assert b"\r" not in raw.replace(b"\r\n", b"") and b"\n" not in raw.replace(b"\r\n", b"") and raw.isascii()
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["Content-Transfer-Encoding"] == "base64" and "nothing is to be done" in mail.get_content()


def test_a_login_that_is_refused_sends_nothing_and_tells_no_secret(tmp_path, authority, relay):
    mailbox = Mailbox()
    port = relay(mailbox, context(authority), auth_required=True)
    folder = configured(tmp_path / "data", mail_to(port, *login(tmp_path, authority, "wrong-secret")))
    done = tried(folder)
    assert done.returncode != 0 and "535" in done.stdout and not mailbox.taken
    assert "wrong-secret" not in done.stdout + done.stderr


def test_a_certificate_that_is_not_the_servers_is_refused(tmp_path, authority, relay):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    mailbox = Mailbox()
    port = relay(mailbox, context(Authority(stranger, "stranger")))
    folder = configured(tmp_path / "data", mail_to(port, *login(tmp_path, authority)))
    done = tried(folder)
    assert done.returncode != 0 and not mailbox.taken and not mailbox.logins, done.stdout


def test_a_certificate_of_another_host_is_refused(tmp_path, authority, relay):
    mailbox = Mailbox()
    port = relay(mailbox, context(authority, "mail.example.net"))
    folder = configured(tmp_path / "data", mail_to(port, *login(tmp_path, authority)))
    done = tried(folder)
    assert done.returncode != 0 and not mailbox.taken and not mailbox.logins, done.stdout


def test_starttls_is_required(tmp_path, authority, relay):
    mailbox = Mailbox()
    port = relay(mailbox)
    folder = configured(tmp_path / "data", mail_to(port, *login(tmp_path, authority)))
    assert tried(folder).returncode != 0 and not mailbox.taken and not mailbox.logins


def signing(folder, kind="rsa", mode=0o600):
    """A key for DKIM in its file, and the lines that name it."""
    key = rsa.generate_private_key(65_537, 2_048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    path = folder / "dkim.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    path.chmod(mode)
    return ["[responder.receivers.soc.dkim]", 'domain = "example.org"', 'selector = "keytrail"', f'key_file = "{path}"']


def verified(folder):
    """Whether a mail has a good signature under what `notices check` says to publish."""
    said = run(KEYTRAIL, "notices", "check", "--data", folder).stdout
    (line,) = [line for line in said.splitlines() if " IN TXT " in line]
    name, strings = line.split(" ", 1)[0], line.split('"')[1::2]
    assert all(len(string) <= 255 for string in strings)
    records = {name.encode(): "".join(strings).encode()}
    return lambda mail: dkim.verify(mail, dnsfunc=lambda name, timeout=5: records.get(name))


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_signed_mail_is_verified_by_others(tmp_path, relay, kind):
    mailbox = Mailbox()
    folder = configured(tmp_path / "data", mail_to(relay(mailbox), 'tls = "none"', *signing(tmp_path, kind)))
    good = verified(folder)
    tried(folder)
    ((mail, _, _),) = mailbox.taken
    assert good(mail) and f"a={kind}-sha256".encode() in mail and all(len(line) <= 78 for line in mail.splitlines())
    head, body = mail.split(b"\r\n\r\n", 1)
    assert not good(head + b"\r\n\r\n" + bytes([body[0] ^ 1]) + body[1:]), "a byte of the text was changed"
    assert good(b"Received: by a relay\r\n" + mail + b"\r\n\r\n"), "what relays may do"
    for name in ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "In-Reply-To", "References"]:
        added = f"{name}: added".encode()
        assert not good(added + b"\r\n" + mail) and not good(head + b"\r\n" + added + b"\r\n\r\n" + body), f"{name} can be added"


def test_a_key_that_others_can_read_signs_nothing(tmp_path, relay):
    mailbox = Mailbox()
    folder = configured(tmp_path / "data", mail_to(relay(mailbox), 'tls = "none"', *signing(tmp_path, mode=0o644)))
    for command in ("check", "test"):
        done = run(KEYTRAIL, "notices", command, "--data", folder, check=False)
        assert done.returncode != 0 and "chmod 600" in done.stderr and "PRIVATE" not in done.stdout + done.stderr
    assert not mailbox.taken


class Collector:
    """Reads counted syslog frames over TLS."""

    def __init__(self, tls):
        self.frames = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.tls = tls
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.tls.wrap_socket(stream, server_side=True) as secure:
                    got = b""
                    while chunk := secure.recv(65536):
                        got += chunk
                self.frames.append(got)
            except OSError:
                stream.close()


def test_syslog_over_tls(tmp_path, authority):
    collector = Collector(context(authority))
    lines = ["", "[responder.receivers.siem]", 'kind = "syslog"', 'host = "127.0.0.1"', f"port = {collector.port}"]
    good = "\n".join(lines + [f'ca_file = "{authority.pem}"']) + "\n"
    done = tried(configured(tmp_path / "good", good))
    assert done.returncode == 0, done.stdout + done.stderr
    (frame,) = wait_for("the frame", lambda: collector.frames)
    length, message = frame.split(b" ", 1)
    assert int(length) == len(message) and message.startswith(b"<110>1 ")
    assert json.loads(message.split(b" - ", 3)[3])["class_uid"] == 2004
    # The system does not know this authority.
    assert tried(configured(tmp_path / "bad", "\n".join(lines) + "\n")).returncode != 0
    collector.listener.close()


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes everything; answers as the path says."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, self.headers, json.loads(body)))
        status, answer = {"/slack": (200, b"ok"), "/v2/change/enqueue": (202, b"{}")}.get(self.path, (202, b""))
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_every_receiver_over_http(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    for name, text in {"slack": f"{base}/slack", "teams": f"{base}/teams", "secret": "0123456789abcdef0123456789abcdef"}.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    folder = configured(tmp_path / "data", f"""
[responder.receivers.chat]
kind = "slack"
url_file = "{tmp_path}/slack"
[responder.receivers.cards]
kind = "teams"
url_file = "{tmp_path}/teams"
[responder.receivers.oncall]
kind = "pagerduty"
routing_key_file = "{tmp_path}/secret"
url = "{base}/v2/enqueue"
[responder.receivers.topic]
kind = "sns"
url = "{base}/sns"
topic_arn = "arn:aws:sns:us-east-1:123456789012:keytrail"
[responder.receivers.hook]
kind = "webhook"
url = "{base}/hook"
secret_file = "{tmp_path}/secret"
""")
    done = tried(folder)
    server.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    got = {path: (headers, body) for path, headers, body in server.got}
    validator("slack-message.json").validate(got["/slack"][1])
    validator("teams-message.json").validate(got["/teams"][1])
    validator("pagerduty-events-v2.json").validate(got["/v2/change/enqueue"][1])
    headers, post = got["/sns"]
    assert headers["x-amz-sns-message-type"] == "Notification" and headers["x-amz-sns-message-id"] == post["MessageId"]
    assert post["TopicArn"] == headers["x-amz-sns-topic-arn"] == "arn:aws:sns:us-east-1:123456789012:keytrail"
    assert got["/hook"][0]["X-Keytrail-Signature"].startswith("v1=")


def test_silences_and_the_ledger_on_the_command_line(tmp_path):
    with smtp_service(tmp_path) as (service, mailbox):
        data = ["--data", service.folder]
        add = [KEYTRAIL, "silence", "add", *data, "--for", "1h", "--author", "ann", "--reason", "moving keys"]
        assert run(*add, "--match", "colour=red", check=False).returncode != 0
        run(*add, "--match", "principal=*", "--match", "min_severity=info")
        schedule_deletion(service)
        listed = wait_for("the silence to hold something back", lambda: [
            line for line in run(KEYTRAIL, "silence", "list", *data).stdout.splitlines()
            if "moving keys" in line and " 0 " not in line
        ])
        number = listed[0].split()[0]
        assert not mailbox.taken, "held back"
        run(KEYTRAIL, "silence", "expire", *data, number, "--author", "bob")
        wait_for("the mail after the silence", lambda: mailbox.taken)
        wait_for("the ledger", lambda: " sent " in run(KEYTRAIL, "notices", "list", *data).stdout)
        assert run(KEYTRAIL, "notices", "retry", *data, "--author", "ann").stdout.startswith("0 ")
        assert run(KEYTRAIL, "notices", "drop", *data, "1", "--reason", "x", "--author", "a", check=False).returncode != 0


@contextlib.contextmanager
def smtp_service(folder):
    """A service that contains, with mail to a server that takes everything."""
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    service = Service(folder / "data", "--enforce", "--smtp", f"127.0.0.1:{controller.port}", "--mail-to", "a@example.org")
    service.init()
    try:
        with service:
            yield service, mailbox
    finally:
        controller.stop()


def test_openbsds_mail_server_keeps_the_mail(tmp_path):
    """End to end into a Maildir, through a mail server that people run."""
    root = pathlib.Path(os.environ.get("KEYTRAIL_CACHE", pathlib.Path.home() / ".cache/keytrail")) / "opensmtpd"
    if os.geteuid() != 0 or not (root / "usr/sbin/smtpd").exists():
        pytest.skip("OPENSMTPD DID NOT RUN: it needs root and `scripts/setup mail`")
    maildir = pathlib.Path("/tmp") / f"keytrail-maildir-{os.getpid()}"
    maildir.mkdir(mode=0o755)
    port = free_port()
    server = subprocess.Popen([pathlib.Path(__file__).parent / "opensmtpd.sh", root, str(port), maildir])
    try:
        wait_for("the server", lambda: listens(port))
        folder = configured(tmp_path / "data", mail_to(port, 'tls = "none"', *signing(tmp_path)))
        done = tried(folder)
        assert done.returncode == 0, done.stdout + done.stderr
        files = wait_for("both mails", lambda: found if len(found := list(maildir.glob("new/*"))) == 2 else None)
        good = verified(folder)
        assert all(good(path.read_bytes()) for path in files), "the signature does not outlive a mail server"
        mails = [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in files]
        assert len({mail["Message-ID"] for mail in mails}) == 1
        assert {mail["Delivered-To"] for mail in mails} == {"a@example.org", "b@example.org"}
        assert all("nothing is to be done" in mail.get_content() and not mail.defects for mail in mails)
    finally:
        # unshare passes no signal on, but its end is its children's end.
        server.kill()
        server.wait(timeout=30)
        shutil.rmtree(maildir)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
