"""STS, MFA and IAM as boto3 and the AWS CLI use them: roles, sessions, second factors, and people made over the wire."""

import base64
import configparser
import hashlib
import hmac
import json
import os
import struct
import subprocess
import time

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

from service import ACCOUNT, REGION, Service, wait_for

TRUST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}]}


def refused(code):
    return pytest.raises(ClientError, match=rf"\({code}\)")


def document(action, effect="Allow", **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": effect, "Action": action, "Resource": "*"} | more]})


def code(seed, step):
    """RFC 6238 by hand: what an authenticator program would show."""
    tag = hmac.new(base64.b32decode(seed), struct.pack(">Q", step), hashlib.sha1).digest()
    at = tag[-1] & 15
    return f"{(struct.unpack('>I', tag[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def this_step():
    return int(time.time()) // 30


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("identity") / "data").init() as service:
        yield service
    done = service.verify()
    assert done.returncode == 0 and "VERIFIED" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def iam(identity):
    return identity.client(service="iam")


def client(service, name, keys):
    """A client with keys that an answer brought."""
    token = {"aws_session_token": keys["SessionToken"]} if "SessionToken" in keys else {}
    return boto3.client(
        name,
        region_name=REGION,
        endpoint_url=service.endpoint,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        config=botocore.config.Config(retries={"max_attempts": 0}),
        **token,
    )


def test_a_user_made_over_the_wire_works_until_its_key_goes(identity, iam):
    user = iam.create_user(UserName="maria", Tags=[{"Key": "team", "Value": "orders"}])["User"]
    assert user["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/maria" and user["UserId"].startswith("AIDA")
    with refused("EntityAlreadyExists"):
        iam.create_user(UserName="Maria")
    policy = iam.create_policy(PolicyName="use-keys", PolicyDocument=document("kms:*"))["Policy"]
    assert policy["DefaultVersionId"] == "v1"
    keys = iam.create_access_key(UserName="maria")["AccessKey"]
    kms = client(identity, "kms", keys)
    with refused("AccessDeniedException"):
        kms.list_keys()
    iam.attach_user_policy(UserName="maria", PolicyArn=policy["Arn"])
    kms.list_keys()
    assert iam.list_attached_user_policies(UserName="maria")["AttachedPolicies"][0]["PolicyArn"] == policy["Arn"]

    iam.put_user_policy(UserName="maria", PolicyName="not", PolicyDocument=document("kms:ListKeys", "Deny"))
    with refused("AccessDeniedException"):
        kms.list_keys()
    found = iam.get_user_policy(UserName="maria", PolicyName="not")["PolicyDocument"]
    assert found["Statement"][0]["Effect"] == "Deny"
    iam.delete_user_policy(UserName="maria", PolicyName="not")
    bound = iam.create_policy(PolicyName="bound", PolicyDocument=document("kms:DescribeKey"))["Policy"]["Arn"]
    iam.put_user_permissions_boundary(UserName="maria", PermissionsBoundary=bound)
    with refused("AccessDeniedException"):
        kms.list_keys()
    assert iam.get_user(UserName="maria")["User"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == bound
    iam.delete_user_permissions_boundary(UserName="maria")

    # A new version of the policy takes effect at once, and can be taken back.
    version = iam.create_policy_version(PolicyArn=policy["Arn"], PolicyDocument=document("kms:Decrypt"), SetAsDefault=True)
    assert version["PolicyVersion"]["VersionId"] == "v2"
    with refused("AccessDeniedException"):
        kms.list_keys()
    iam.set_default_policy_version(PolicyArn=policy["Arn"], VersionId="v1")
    iam.delete_policy_version(PolicyArn=policy["Arn"], VersionId="v2")
    kms.list_keys()
    with refused("DeleteConflict"):
        iam.delete_policy(PolicyArn=policy["Arn"])

    iam.update_access_key(UserName="maria", AccessKeyId=keys["AccessKeyId"], Status="Inactive")
    with refused("UnrecognizedClientException"):
        kms.list_keys()
    iam.update_access_key(UserName="maria", AccessKeyId=keys["AccessKeyId"], Status="Active")
    kms.list_keys()
    with refused("DeleteConflict"):
        iam.delete_user(UserName="maria")
    iam.delete_access_key(UserName="maria", AccessKeyId=keys["AccessKeyId"])
    iam.detach_user_policy(UserName="maria", PolicyArn=policy["Arn"])
    iam.delete_user(UserName="maria")
    for arn in (policy["Arn"], bound):
        iam.delete_policy(PolicyArn=arn)
    with refused("NoSuchEntity"):
        iam.get_user(UserName="maria")


def test_the_files_people_are_listed_and_cannot_be_changed(identity, iam):
    pages = iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": 1})
    names = [user["UserName"] for page in pages for user in page["Users"]]
    assert {"administrator", "app", "engineer", "nobody"} <= set(names) and names == sorted(names)
    with refused("UnmodifiableEntity"):
        iam.put_user_policy(UserName="nobody", PolicyName="x", PolicyDocument=document("kms:*"))
    with refused("UnmodifiableEntity"):
        iam.delete_user(UserName="nobody")
    with refused("EntityAlreadyExists"):
        iam.create_user(UserName="nobody")
    keys = iam.create_access_key(UserName="nobody")["AccessKey"]
    assert client(identity, "sts", keys).get_caller_identity()["Arn"].endswith(":user/nobody")
    iam.delete_access_key(UserName="nobody", AccessKeyId=keys["AccessKeyId"])


def test_a_role_is_assumed_and_its_session_passes_through_clients(identity, iam, tmp_path):
    arn = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(TRUST), MaxSessionDuration=7200)["Role"]["Arn"]
    iam.put_role_policy(RoleName="reader", PolicyName="use", PolicyDocument=document(["kms:ListKeys", "kms:CreateKey"]))
    sts = identity.client(service="sts")
    session = sts.assume_role(RoleArn=arn, RoleSessionName="shift", DurationSeconds=900)
    assert session["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/shift"
    left = session["Credentials"]["Expiration"].timestamp() - time.time()
    assert 800 < left <= 901
    kms = client(identity, "kms", session["Credentials"])
    kms.list_keys()
    with refused("AccessDeniedException"):
        kms.list_aliases()
    narrow = sts.assume_role(RoleArn=arn, RoleSessionName="narrow", Policy=document("kms:ListAliases"))
    with refused("AccessDeniedException"):
        client(identity, "kms", narrow["Credentials"]).list_keys()
    with refused("AccessDenied"):
        identity.client("nobody", "sts").assume_role(RoleArn=arn, RoleSessionName="x1")

    # The AWS CLI assumes the role by itself, from its configuration.
    source = configparser.ConfigParser()
    source.read(identity.people["administrator"].credentials)
    config = configparser.ConfigParser()
    config["profile source"] = dict(source["default"])
    config["profile reader"] = {"role_arn": arn, "source_profile": "source", "role_session_name": "cli"}
    path = tmp_path / "config"
    with open(path, "w", encoding="utf-8") as file:
        config.write(file)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {"AWS_CONFIG_FILE": str(path), "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_PROFILE": "reader"}
    environment |= {"AWS_ENDPOINT_URL": identity.endpoint, "AWS_DEFAULT_REGION": REGION, "AWS_PAGER": ""}
    # The CLI keeps sessions below HOME, also those of an earlier service.
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    command = ["aws", "--output", "json", "sts", "get-caller-identity"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/cli"

    # Taking the policy away takes it from the open session.
    iam.delete_role_policy(RoleName="reader", PolicyName="use")
    with refused("AccessDeniedException"):
        kms.list_keys()
    iam.delete_role(RoleName="reader")
    with refused("UnrecognizedClientException"):
        kms.list_keys()


def test_a_second_factor_is_enrolled_and_opens_what_needs_it(identity, iam):
    iam.create_user(UserName="paula")
    destructive = ["kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:DeleteAlias", "kms:DeleteImportedKeyMaterial"]
    need = {"Condition": {"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}}
    iam.put_user_policy(UserName="paula", PolicyName="all", PolicyDocument=document(["kms:*", "iam:ListUsers"]))
    iam.put_user_policy(UserName="paula", PolicyName="mfa", PolicyDocument=document(destructive, "Deny", **need))
    keys = iam.create_access_key(UserName="paula")["AccessKey"]
    device = iam.create_virtual_mfa_device(VirtualMFADeviceName="paula-phone")["VirtualMFADevice"]
    serial, seed = device["SerialNumber"], device["Base32StringSeed"]
    assert serial == f"arn:aws:iam::{ACCOUNT}:mfa/paula-phone"
    with refused("InvalidAuthenticationCode"):
        iam.enable_mfa_device(UserName="paula", SerialNumber=serial, AuthenticationCode1="000000", AuthenticationCode2="000000")
    step = this_step()
    iam.enable_mfa_device(
        UserName="paula", SerialNumber=serial, AuthenticationCode1=code(seed, step - 1), AuthenticationCode2=code(seed, step)
    )
    assert iam.list_mfa_devices(UserName="paula")["MFADevices"][0]["SerialNumber"] == serial

    kms, sts = client(identity, "kms", keys), client(identity, "sts", keys)
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    with refused("AccessDeniedException"):
        kms.schedule_key_deletion(KeyId=key)
    without = sts.get_session_token()["Credentials"]
    with refused("AccessDeniedException"):
        client(identity, "kms", without).schedule_key_deletion(KeyId=key)
    with refused("AccessDenied"):
        client(identity, "iam", without).list_users()
    with refused("AccessDenied"):
        sts.get_session_token(SerialNumber=serial, TokenCode=code(seed, step))
    code_now = code(seed, step + 1)
    session = sts.get_session_token(SerialNumber=serial, TokenCode=code_now)["Credentials"]
    with refused("AccessDenied"):
        sts.get_session_token(SerialNumber=serial, TokenCode=code_now)
    client(identity, "iam", session).list_users()
    client(identity, "kms", session).schedule_key_deletion(KeyId=key)
    client(identity, "kms", session).cancel_key_deletion(KeyId=key)
    rows = identity_rows(identity, "ScheduleKeyDeletion", session["AccessKeyId"])
    assert rows[0]["mfa"] is True

    # The phone is lost: an administrator takes the device back, and it opens nothing any more.
    iam.deactivate_mfa_device(UserName="paula", SerialNumber=serial)
    iam.delete_virtual_mfa_device(SerialNumber=serial)
    with refused("AccessDenied"):
        sts.get_session_token(SerialNumber=serial, TokenCode=code(seed, this_step() + 1))


def identity_rows(service, name, access_key):
    query = f"SELECT mfa FROM events WHERE event_name = '{name}' AND error_code IS NULL AND access_key_id = '{access_key}'"
    return wait_for("the event", lambda: service.sql(query))


def test_groups_give_rights_and_the_cli_administers(identity, tmp_path):
    policy = tmp_path / "policy.json"
    policy.write_text(document("kms:ListAliases"))
    aws = identity.aws
    aws("iam", "create-group", "--group-name", "watchers")
    aws("iam", "put-group-policy", "--group-name", "watchers", "--policy-name", "look", "--policy-document", f"file://{policy}")
    aws("iam", "create-user", "--user-name", "omar", "--tags", "Key=team,Value=watch")
    aws("iam", "add-user-to-group", "--group-name", "watchers", "--user-name", "omar")
    keys = aws("iam", "create-access-key", "--user-name", "omar")["AccessKey"]
    client(identity, "kms", keys).list_aliases()
    assert aws("iam", "get-group", "--group-name", "watchers")["Users"][0]["UserName"] == "omar"
    assert aws("iam", "list-groups-for-user", "--user-name", "omar")["Groups"][0]["GroupName"] == "watchers"
    assert aws("iam", "list-user-tags", "--user-name", "omar")["Tags"] == [{"Key": "team", "Value": "watch"}]
    with refused("AccessDenied"):
        client(identity, "iam", keys).list_users()
    aws("iam", "remove-user-from-group", "--group-name", "watchers", "--user-name", "omar")
    with refused("AccessDeniedException"):
        client(identity, "kms", keys).list_aliases()
    failed = aws("iam", "create-login-profile", "--user-name", "omar", "--password", "x", check=False)
    assert failed.returncode != 0 and "InvalidAction" in failed.stderr
    failed = aws("iam", "get-role", "--role-name", "none", check=False)
    assert failed.returncode != 0 and "NoSuchEntity" in failed.stderr


def test_people_and_their_keys_survive_a_restart(own_service):
    own_service.start()
    iam = own_service.client(service="iam")
    iam.create_user(UserName="keeper")
    iam.put_user_policy(UserName="keeper", PolicyName="p", PolicyDocument=document("kms:ListKeys"))
    keys = iam.create_access_key(UserName="keeper")["AccessKey"]
    own_service.stop()
    own_service.start()
    client(own_service, "kms", keys).list_keys()
    recorded = own_service.sql("SELECT raw FROM events WHERE event_name = 'CreateAccessKey'")
    assert len(recorded) == 1 and keys["SecretAccessKey"] not in bytes.fromhex(recorded[0]["raw"]).decode()
    for path in own_service.folder.rglob("*"):
        if path.is_file():
            assert keys["SecretAccessKey"].encode() not in path.read_bytes(), path
