"""Alerts about imported CloudTrail records act on the AWS account itself, as moto plays it, and only where that was configured."""

import datetime
import json
import uuid

import boto3
import pytest
from botocore.exceptions import ClientError

from service import KEYTRAIL, REGION, Service, run, wait_for

# moto's own account.
AWS = "123456789012"
MALLORY = f"arn:aws:iam::{AWS}:user/mallory"
KEYS = {"aws_access_key_id": "AKIAMOTOMOTOMOTOMOTO", "aws_secret_access_key": "a" * 40}
PUBLIC = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}]}


def aws(endpoint, service):
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, **KEYS)


def record(name, key, **more):
    """A record as CloudTrail writes it, of just now."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "eventVersion": "1.11", "eventSource": "kms.amazonaws.com", "eventName": name, "eventTime": now,
        "awsRegion": REGION, "sourceIPAddress": "192.0.2.7", "userAgent": "aws-cli/2.31.0",
        "userIdentity": {
            "type": "IAMUser", "principalId": "AIDAMALLORY0000000000", "arn": MALLORY, "accountId": AWS,
            "accessKeyId": "AKIAMALLORY000000000", "userName": "mallory",
        },
        "requestID": str(uuid.uuid4()), "eventID": str(uuid.uuid4()), "readOnly": False, "eventType": "AwsApiCall",
        "managementEvent": True, "recipientAccountId": AWS, "eventCategory": "Management",
        "resources": [{"accountId": AWS, "type": "AWS::KMS::Key", "ARN": key}],
        "requestParameters": {"keyId": key}, "responseElements": None,
    } | more


@pytest.fixture
def account(moto, tmp_path):
    """A key that is to be deleted and a user who did it, and a file that tells of it."""
    kms, iam = aws(moto, "kms"), aws(moto, "iam")
    # moto finds keys by their ids alone.
    made = kms.create_key()["KeyMetadata"]
    key, key_id = made["Arn"], made["KeyId"]
    try:
        iam.create_user(UserName="mallory")
    except ClientError:
        iam.get_user(UserName="mallory")
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    opened = {"keyId": key, "policyName": "default", "policy": json.dumps(PUBLIC)}
    records = [
        record("ScheduleKeyDeletion", key, requestParameters={"keyId": key, "pendingWindowInDays": 7}),
        record("PutKeyPolicy", key, requestParameters=opened),
    ]
    file = tmp_path / "trail.json"
    file.write_text(json.dumps({"Records": records}))
    return kms, iam, key, file


def started(folder, moto, logs):
    service = Service(folder, "--enforce").init()
    credentials = folder / "aws-credentials"
    credentials.write_text("".join(f"{line}\n" for line in ["[default]", *(f"{name} = {value}" for name, value in KEYS.items())]))
    with open(folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write(
            f'\n[[responder.aws]]\naccount = "{AWS}"\nlogs = {json.dumps(logs)}\ncredentials_file = "{credentials}"\n'
            f'kms_endpoint = "{moto}"\niam_endpoint = "{moto}"\n'
        )
    return service


def state(kms, key):
    return kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]


def quarantine(iam):
    """The policy that is the quarantine, if there is one."""
    try:
        return iam.get_user_policy(UserName="mallory", PolicyName="keytrail-quarantine")["PolicyDocument"]
    except ClientError:
        return None


def incidents(service):
    listed = run(KEYTRAIL, "incident", "list", "--json", "--data", service.folder).stdout
    return [json.loads(line) for line in listed.splitlines()]


def actions(service):
    found = incidents(service)
    shown = [json.loads(run(KEYTRAIL, "incident", "show", "--json", one["id"], "--data", service.folder).stdout) for one in found]
    return [action for one in shown for action in one["actions"]]


def import_file(service, file):
    run(KEYTRAIL, "import", "cloudtrail", file, "--data", service.folder, "--name", "aws")


def test_a_deletion_in_aws_is_cancelled_there_and_its_author_stopped_and_given_back(moto, account, tmp_path):
    kms, iam, key, file = account
    with started(tmp_path / "data", moto, ["aws"]) as service:
        import_file(service, file)
        wait_for("the deletion to be cancelled", lambda: state(kms, key) == "Disabled")
        document = wait_for("the quarantine", lambda: quarantine(iam))
        statement = document["Statement"][0]
        assert statement["Effect"] == "Deny" and "aws:CurrentTime" in statement["Condition"]["DateLessThan"]
        wait_for("both to be done", lambda: {"cancel_key_deletion", "quarantine_principal"}
                 <= {one["kind"] for one in actions(service) if one["state"] == "done"})
        for incident in incidents(service):
            run(KEYTRAIL, "incident", "undo", incident["id"], "--data", service.folder)
        assert quarantine(iam) is None
        assert state(kms, key) == "Disabled"
        # None of it touched our own service.
        assert not service.sql("SELECT 1 AS one FROM events WHERE event_name IN ('PutQuarantine', 'CancelKeyDeletion')")


def test_a_log_that_is_not_believed_about_the_account_changes_nothing(moto, account, tmp_path):
    kms, iam, key, file = account
    with started(tmp_path / "data", moto, ["another"]) as service:
        import_file(service, file)
        held = wait_for("the actions", lambda: actions(service))
        assert all(one["state"] == "suppressed" and "imported log" in one["reason"] for one in held), held
        assert state(kms, key) == "PendingDeletion" and quarantine(iam) is None


# In place of the shipped one: what that leaves out, or leaves to each site to turn on.
GRANT_UNWANTED = """id = "grant-unwanted"
version = 9
mode = "enforce"
title = "Revoke all that the grantee has"
steps = [
  { action = "snapshot_evidence", on_error = "continue" },
  { action = "disable_key", on_error = "continue" },
  { action = "revoke_grants", which = "grantee", on_error = "continue" },
  { action = "deactivate_access_key", on_error = "continue" },
]

[match]
rules = ["grant-to-external-account"]
min_severity = "medium"
provenance = ["authenticated_allowed"]
"""


def test_a_grant_in_aws_is_revoked_its_key_disabled_and_the_access_key_withdrawn(moto, tmp_path):
    kms, iam = aws(moto, "kms"), aws(moto, "iam")
    made = kms.create_key()["KeyMetadata"]
    key, key_id = made["Arn"], made["KeyId"]
    user = f"grantor-{uuid.uuid4()}"
    iam.create_user(UserName=user)
    access_key = iam.create_access_key(UserName=user)["AccessKey"]["AccessKeyId"]
    stranger, own = "arn:aws:iam::999988887777:root", f"arn:aws:iam::{AWS}:role/app"
    grants = [kms.create_grant(KeyId=key_id, GranteePrincipal=who, Operations=["Decrypt"])["GrantId"] for who in (stranger, own, stranger)]
    asked = {"keyId": key, "granteePrincipal": stranger, "operations": ["Decrypt"]}
    made = record("CreateGrant", key, requestParameters=asked, responseElements={"grantId": grants[0], "keyId": key})
    made["userIdentity"] |= {"arn": f"arn:aws:iam::{AWS}:user/{user}", "userName": user, "accessKeyId": access_key}
    file = tmp_path / "trail.json"
    file.write_text(json.dumps({"Records": [made]}))
    service = started(tmp_path / "data", moto, ["aws"])
    (service.folder / "rules/playbooks/grant-unwanted.toml").write_text(GRANT_UNWANTED)

    def status():
        return [one["Status"] for one in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]]

    with service:
        import_file(service, file)
        wait_for("the key to be disabled", lambda: state(kms, key_id) == "Disabled")
        wait_for("the stranger's grants to be gone",
                 lambda: [one["GrantId"] for one in kms.list_grants(KeyId=key_id)["Grants"]] == [grants[1]])
        wait_for("the access key to be withdrawn", lambda: status() == ["Inactive"])
        wanted = {"snapshot_evidence": 1, "disable_key": 1, "revoke_grants": 1, "revoke_grant": 2, "deactivate_access_key": 1}
        wait_for("all to be done", lambda: all(
            sum(one["kind"] == kind and one["state"] == "done" for one in actions(service)) == count for kind, count in wanted.items()
        ))
        [incident] = incidents(service)
        run(KEYTRAIL, "incident", "undo", incident["id"], "--data", service.folder)
        assert (state(kms, key_id), status()) == ("Enabled", ["Active"])
        assert not service.sql("SELECT 1 AS one FROM events WHERE event_name IN ('DisableKey', 'RevokeGrant', 'DeactivateAccessKey')")
