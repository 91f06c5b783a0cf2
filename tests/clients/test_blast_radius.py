"""`keytrail blast-radius`: what a key, a principal or a credential has exposed, with what followed from it."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError

from service import ACCOUNT, KEYTRAIL, REGION, Service, run

TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}],
}
USE = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Alice's access key opens one context by itself, another through a session; somebody else opens a third."""
    with Service(tmp_path_factory.mktemp("blast") / "data").init() as service:
        kms, iam, sts = service.client(), service.client(service="iam"), service.client(service="sts")
        key, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        kms.create_alias(AliasName="alias/data", TargetKeyId=key)
        iam.create_user(UserName="alice")
        iam.put_user_policy(
            UserName="alice",
            PolicyName="use",
            PolicyDocument=json.dumps({
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": ["kms:*", "sts:AssumeRole"], "Resource": "*"}],
            }),
        )
        made = iam.create_access_key(UserName="alice")["AccessKey"]
        alice = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
        iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.put_role_policy(RoleName="reader", PolicyName="use", PolicyDocument=json.dumps(USE))

        def client(name, **credentials):
            return boto3.client(name, region_name=REGION, endpoint_url=service.endpoint, **credentials)

        hers = client("kms", **alice)
        blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "1"})["CiphertextBlob"]
        for _ in range(2):
            hers.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})
        with pytest.raises(ClientError):
            hers.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "not this"})
        hers.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext={"tenant": "2"})
        hers.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256", EncryptionContext={"tenant": "3"})
        opened = client("sts", **alice).assume_role(
            RoleArn=f"arn:aws:iam::{ACCOUNT}:role/reader", RoleSessionName="night"
        )["Credentials"]
        session = client(
            "kms",
            aws_access_key_id=opened["AccessKeyId"],
            aws_secret_access_key=opened["SecretAccessKey"],
            aws_session_token=opened["SessionToken"],
        )
        session.generate_data_key(KeyId=other, KeySpec="AES_256", EncryptionContext={"tenant": "4"})
        session.create_grant(KeyId=other, GranteePrincipal=ALICE, Operations=["Decrypt"])
        kms.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})
        yield service, key, other, made["AccessKeyId"], opened["AccessKeyId"]


def radius(service, *arguments):
    """The answer as JSON."""
    return json.loads(text(service, "--json", *arguments).stdout)


def text(service, *arguments, check=True):
    """The command as people run it."""
    return run(KEYTRAIL, "blast-radius", "--data", service.folder, "--since", "1h", *arguments, check=check)


def contexts(answer):
    """Context to (decrypts, data keys)."""
    return {one["encryptionContext"]: (one["decrypts"], one["dataKeys"]) for one in answer["opened"]}


def test_a_credential_leads_to_what_its_sessions_opened(played):
    service, _, other, access_key, session_key = played
    answer = radius(service, "--credential", access_key)
    assert contexts(answer) == {'{"tenant":"1"}': (2, 0), '{"tenant":"2"}': (0, 1), '{"tenant":"4"}': (0, 1)}
    assert answer["followed"] == [session_key]
    assert [(deed["eventName"], deed["keyArn"]) for deed in answer["changed"]] == [("CreateGrant", other)]
    assert [deed["eventName"] for deed in answer["made"]] == ["GenerateDataKeyWithoutPlaintext"]


def test_a_principal_and_a_role_have_theirs(played):
    service, *_ = played
    assert len(contexts(radius(service, "--principal", ALICE))) == 3
    role = radius(service, "--principal", f"arn:aws:iam::{ACCOUNT}:role/reader")
    assert contexts(role) == {'{"tenant":"4"}': (0, 1)}


@pytest.mark.parametrize("name", ["arn", "id", "alias"])
def test_a_key_is_found_by_each_of_its_names(played, name):
    service, key, *_ = played
    name = {"arn": key, "id": key.rsplit("/", 1)[1], "alias": "alias/data"}[name]
    answer = radius(service, "--key", name)
    assert contexts(answer) == {'{"tenant":"1"}': (3, 0), '{"tenant":"2"}': (0, 1)}
    assert any(ALICE in one["principals"] for one in answer["opened"])


def test_the_text_says_what_to_encrypt_anew(played):
    service, key, *_ = played
    said = text(service, "--key", key).stdout
    assert "TO ENCRYPT ANEW" in said and '{"tenant":"1"}' in said


@pytest.mark.parametrize(
    "arguments",
    [("--key", "alias/none"), ("--principal", "alice"), (), ("--key", "a", "--credential", "b"), ("--key", "a'; --")],
)
def test_what_cannot_be_asked_is_refused(played, arguments):
    service, *_ = played
    refused = text(service, *arguments, check=False)
    assert refused.returncode != 0 and refused.stderr and not refused.stdout
