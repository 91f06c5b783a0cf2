"""Dual control with boto3: a call is held, a second person agrees with a code, the same call works once. And the command line."""

import base64
import json
import re
import secrets
import urllib.error
import urllib.request

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from botocore.exceptions import ClientError

from service import ACCOUNT, KEYTRAIL, REGION, Service, run, wait_for
from test_identity import code, this_step

SEED = base64.b32encode(secrets.token_bytes(20)).decode()
USER = """
[[user]]
account = "{account}"
name = "second"
policies = ["AdministratorAccess"]

[[access_key]]
id = "AKIASECOND0000000000"
secret = "{secret}"
account = "{account}"
user = "second"

[[mfa_device]]
account = "{account}"
name = "phone"
user = "second"
seed = "{seed}"
"""
SERIAL = f"arn:aws:iam::{ACCOUNT}:mfa/phone"


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("approvals") / "data").init()
    secret = secrets.token_hex(20)
    with open(service.folder / "identities.toml", "a", encoding="utf-8") as file:
        file.write(USER.format(account=ACCOUNT, secret=secret, seed=SEED))
    service.second = ("AKIASECOND0000000000", secret)
    service.profile = service.folder.parent / "second"
    service.profile.write_text(
        f"[second]\naws_access_key_id = {service.second[0]}\naws_secret_access_key = {secret}\n", encoding="utf-8"
    )
    with service:
        yield service
    done = service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


class Codes:
    """Each code is good once, and a step early or late."""

    last = 0

    @classmethod
    def fresh(cls):
        step = wait_for("a new code", lambda: this_step() + 1 > cls.last and max(cls.last + 1, this_step() - 1))
        cls.last = step
        return code(SEED, step)


def session(service):
    """Credentials of the second person with a second factor of now."""
    sts = boto3.client(
        "sts",
        region_name=REGION,
        endpoint_url=service.endpoint,
        aws_access_key_id=service.second[0],
        aws_secret_access_key=service.second[1],
    )
    keys = sts.get_session_token(SerialNumber=SERIAL, TokenCode=Codes.fresh(), DurationSeconds=900)["Credentials"]
    return botocore.credentials.Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def own(service, credentials, operation, **body):
    """Keytrail's own operations are AWS JSON with SigV4 like all others; boto3 has no model of them."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"KeytrailService.{operation}"}
    request = botocore.awsrequest.AWSRequest("POST", service.endpoint + "/", headers, json.dumps(body))
    botocore.auth.SigV4Auth(credentials, "kms", REGION).add_auth(request)
    prepared = request.prepare()
    sent = urllib.request.Request(prepared.url, prepared.body.encode(), dict(prepared.headers), method="POST")
    try:
        with urllib.request.urlopen(sent) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def guarded_key(kms):
    tags = [{"TagKey": "keytrail:dual-control", "TagValue": "required"}]
    return kms.create_key(Tags=tags)["KeyMetadata"]["Arn"]


def held(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
    return re.search(r"A-[0-9a-f]{16}", caught.value.response["Error"]["Message"]).group()


def test_a_deletion_needs_a_second_person(office):
    kms = office.client()
    key = guarded_key(kms)
    request = held(kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=7)
    assert held(kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=7) == request
    plain = botocore.credentials.Credentials(*office.second)
    shown = own(office, plain, "DescribeApprovalRequest", RequestId=request)
    assert shown["Parameters"] == {"keyId": key, "pendingWindowInDays": 7} and shown["State"] == "waiting"
    yes = {"RequestId": request, "Subject": shown["Subject"], "TargetState": shown["TargetState"]}
    assert own(office, plain, "Approve", **yes)["__type"] == "AccessDeniedException"
    second = session(office)
    other = yes | {"Subject": "0" * 64}
    assert own(office, second, "Approve", **other)["__type"] == "AccessDeniedException"
    assert own(office, second, "Approve", **yes)["State"] == "granted"
    assert held(kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=8) != request
    assert kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)["KeyState"] == "PendingDeletion"
    kms.cancel_key_deletion(KeyId=key)
    assert held(kms.schedule_key_deletion, KeyId=key, PendingWindowInDays=7) != request, "used up"

    def rows():
        return office.sql(
            "SELECT event_name, error_code, json_get_str(additional, 'approvalRequestId') AS request FROM events "
            f"WHERE json_get_str(additional, 'approvalRequestId') = '{request}' ORDER BY seq"
        )

    wait_for("the use in the log", lambda: any(not row["error_code"] and row["event_name"] != "Approve" for row in rows()))
    told = [(row["event_name"], row["error_code"]) for row in rows() if row["event_name"] != "DescribeApprovalRequest"]
    assert told[-1] == ("ScheduleKeyDeletion", None) and told.count(("Approve", None)) == 1


def test_the_command_line_agrees_and_retires(office):
    kms = office.client()
    key = guarded_key(kms)
    person = ["--data", office.folder, "--credentials", office.profile, "--profile", "second"]
    administrator = ["--data", office.folder]
    retire = [KEYTRAIL, "key", "retire", *administrator, key, "--watch-days", "0", "--window-days", "7"]
    refused = run(*retire, check=False)
    assert refused.returncode != 0
    request = re.search(r"A-[0-9a-f]{16}", refused.stderr).group()
    assert request in run(KEYTRAIL, "approval", "list", *person).stdout
    assert "RetireKey" in run(KEYTRAIL, "approval", "show", *person, request).stdout
    approve = [KEYTRAIL, "approval", "approve", *person, "--mfa-serial", SERIAL, request]
    assert run(*approve, check=False, input="000000\n").returncode != 0
    assert "1 of 1" in run(*approve, input=f"{Codes.fresh()}\n").stdout
    assert "disabled" in run(*retire).stdout

    def state():
        return kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]

    wait_for("the deletion to be scheduled", lambda: state() == "PendingDeletion")
    assert key in run(KEYTRAIL, "key", "retire", *administrator, "--status").stdout
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.encrypt(KeyId=key, Plaintext=b"x")
    wait_for("the key to come back", lambda: state() == "Enabled")
    kms.encrypt(KeyId=key, Plaintext=b"x")

    asked = held(kms.schedule_key_deletion, KeyId=key)
    assert run(KEYTRAIL, "approval", "reject", *person, asked, "--reason", "still in use").stdout.startswith("rejected")
