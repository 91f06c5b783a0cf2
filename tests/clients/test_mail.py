"""The mail server is away or says no: containment does not wait for it, and the mail arrives later."""

import email
import email.policy
import socket

import pytest
from aiosmtpd.controller import Controller

from service import Service, wait_for


class Scripted:
    """Answers DATA with the given replies, then takes everything."""

    def __init__(self, *replies):
        self.replies, self.refused, self.taken = list(replies), 0, []

    async def handle_DATA(self, _server, _session, envelope):
        if self.replies:
            self.refused += 1
            return self.replies.pop(0)
        self.taken.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 taken"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def schedule_deletion(service):
    """An engineer schedules a key's deletion; gives the key's ARN once that was undone."""
    admin = service.client()
    key = admin.create_key(Description="wanted dead")["KeyMetadata"]
    service.client("engineer").schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
    state = lambda: admin.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"]
    wait_for("the deletion to be cancelled", lambda: state() == "Enabled")
    return key["Arn"]


def text_of(mail):
    return mail.get_body(("plain",)).get_content()


@pytest.fixture
def port():
    return free_port()


def start(tmp_path, port):
    mail = ["--smtp", f"127.0.0.1:{port}", "--mail-to", "soc@example.org"]
    return Service(tmp_path / "data", "--enforce", *mail).init()


def test_a_server_that_refuses_for_a_while_gets_the_mail_later(tmp_path, port):
    handler = Scripted("451 try again", "451 try again")
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        with start(tmp_path, port) as service:
            arn = schedule_deletion(service)
            wait_for("the mail", lambda: handler.taken)
    finally:
        controller.stop()
    assert handler.refused == 2
    (mail,) = handler.taken
    assert mail["To"] == "soc@example.org" and mail["Content-Transfer-Encoding"] in ("base64", None)
    assert arn in text_of(mail) and "key-deletion-scheduled" in text_of(mail)


def test_a_server_that_is_down_stops_no_containment(tmp_path, port):
    with start(tmp_path, port) as service:
        arn = schedule_deletion(service)
        handler = Scripted()
        controller = Controller(handler, hostname="127.0.0.1", port=port)
        controller.start()
        try:
            wait_for("the mail", lambda: handler.taken)
        finally:
            controller.stop()
    assert any(arn in text_of(mail) for mail in handler.taken)
