"""Events as OCSF, against the schema that OCSF publishes for the version and the profiles that each record names."""

import gzip
import json

import jsonschema
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from past import Past, event, records
from service import ACCOUNT, KEYTRAIL, REGION, run

START = 1_767_614_400_000_000


def checker(version, profiles):
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
    name = schema.lookup_class_name_from_uid(class_uid=6003)
    return jsonschema.Draft202012Validator(schema.get_class_schema(class_name=name, profiles=profiles))


def exported(folder, pack, *flags):
    command = [KEYTRAIL, "evidence", "export", "--data", folder, "--from", "2020-01-01", "--to", "2100-01-01"]
    run(*command, "--ocsf", "--out", pack, *flags)
    lines = [line for path in (pack / "data/ocsf").iterdir() for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [json.loads(line) for line in lines]


def wrong(found):
    """What the schema does not allow, by record."""
    kinds = {(one["metadata"]["version"], tuple(one["metadata"]["profiles"])) for one in found}
    checkers = {kind: checker(kind[0], list(kind[1])) for kind in kinds}
    told = []
    for one in found:
        errors = checkers[one["metadata"]["version"], tuple(one["metadata"]["profiles"])].iter_errors(one)
        told += [f"{one['api']['operation']}: {error.json_path}: {error.message[:200]}" for error in errors]
    return told


def test_every_event_of_a_service_is_api_activity(own_service, tmp_path):
    with own_service as service:
        kms = service.client()
        key = kms.create_key(Description="ocsf", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/ocsf", TargetKeyId=key)
        blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"a": "b"})["CiphertextBlob"]
        kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "c"})
        with pytest.raises(kms.exceptions.NotFoundException):
            kms.describe_key(KeyId="1234abcd-12ab-34cd-56ef-1234567890ab")
        kms.create_grant(KeyId=key, GranteePrincipal=f"arn:aws:iam::{ACCOUNT}:root", Operations=["Decrypt"])
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
        sts = service.client(service="sts")
        sts.get_caller_identity()
        service.client(service="iam").create_role(RoleName="ocsf", AssumeRolePolicyDocument=json.dumps({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}],
        }))
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    found = exported(service.folder, tmp_path / "pack")
    operations = {one["api"]["operation"] for one in found}
    assert {"CreateKey", "Encrypt", "Decrypt", "CreateGrant", "GetCallerIdentity", "CreateRole", "ScheduleKeyDeletion"} <= operations
    assert {one["status_id"] for one in found} == {1, 2}
    assert not wrong(found), "\n".join(sorted(set(wrong(found)))[:20])


def test_events_of_other_writers_are_api_activity(tmp_path):
    odd = [
        event(1, ACCOUNT, REGION, userIdentity={"type": "AWSService", "invokedBy": "AWS Internal"}, sourceIPAddress="AWS Internal"),
        event(2, ACCOUNT, REGION, userIdentity={"accountId": ACCOUNT, "invokedBy": "AWS Internal"}, requestParameters=None),
        event(3, ACCOUNT, REGION, errorCode="AccessDenied", errorMessage="no", sourceIPAddress="2001:db8::1"),
        event(4, ACCOUNT, REGION, userIdentity={
            "type": "AssumedRole", "arn": "arn:aws:sts::1:assumed-role/r/s", "principalId": "A:s",
            "sessionContext": {"sessionIssuer": {"type": "Role", "arn": "arn:aws:iam::1:role/r"},
                               "attributes": {"creationDate": "2026-01-05T12:00:00Z", "mfaAuthenticated": "true"}}}),
        event(5, ACCOUNT, REGION, resources=[{"ARN": "arn:aws:kms:us-east-1:1:key/k", "type": "AWS::KMS::Key", "accountId": "1"}]),
        event(6, ACCOUNT, REGION, userIdentity=7, eventTime="yesterday", resources="none", eventName=None),
        b'{"eventName":5}', b"{}",
    ]
    made = records(START, 1_000_000, 40)
    for record, payload in zip([record for record in made if record.kind == 1], odd):
        record.payload = payload
    past = Past(tmp_path / "data").add(made).close()
    found = exported(past.folder, tmp_path / "pack", "--unrecorded")
    assert len(found) >= 30
    assert not wrong(found), "\n".join(sorted(set(wrong(found)))[:20])


def test_the_check_finds_what_is_wrong():
    assert wrong([{"metadata": {"version": "1.8.0", "profiles": ["cloud"]}, "api": {"operation": "x"}}])
