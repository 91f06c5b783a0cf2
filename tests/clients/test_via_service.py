"""A service that calls for a user with boto3: AWS's example policy for encrypted volumes, as it is printed."""

import json
import secrets

import boto3
import pytest
from botocore.config import Config

from service import ACCOUNT, OTHER_ACCOUNT, REGION
from test_boto3 import refused, root_of, user

SERVICE_KEY_ID = "AKIAEC2EC2EC2EC2EC20"
VOLUME = f"arn:aws:ec2:{REGION}:{ACCOUNT}:volume/vol-1"

# The two statements of the best-practices whitepaper; only the principal and the region are ours.
STATEMENTS = [
    {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": root_of(ACCOUNT)}, "Action": "kms:*", "Resource": "*"},
    {
        "Sid": "Allow for use of this Key",
        "Effect": "Allow",
        "Principal": {"AWS": user("nobody")},
        "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"],
        "Resource": "*",
    },
    {
        "Sid": "Allow for EC2 Use",
        "Effect": "Allow",
        "Principal": {"AWS": user("nobody")},
        "Action": ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"],
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:ViaService": f"ec2.{REGION}.amazonaws.com"}},
    },
]


def service_client(service, secret, on_behalf_of):
    """What a service's own code would do: sign with its key, and name the user and the resource under the signature."""

    def name_the_user(request, **_):
        request.headers["x-keytrail-on-behalf-of"] = on_behalf_of
        request.headers["x-keytrail-source-arn"] = VOLUME

    client = boto3.client(
        "kms",
        aws_access_key_id=SERVICE_KEY_ID,
        aws_secret_access_key=secret,
        region_name=REGION,
        endpoint_url=service.endpoint,
        config=Config(retries={"max_attempts": 0}),
    )
    client.meta.events.register("before-sign.kms.*", name_the_user)
    return client


def service_key(service):
    """Gives EC2 a key of its own in a folder that is not yet served; its secret."""
    secret = secrets.token_hex(20)
    entry = f'\n[[service_key]]\nid = "{SERVICE_KEY_ID}"\nsecret = "{secret}"\naccount = "{ACCOUNT}"\nservice = "ec2"\n'
    with open(service.folder / "identities.toml", "a", encoding="utf-8") as file:
        file.write(entry)
    return secret


@pytest.fixture
def with_service_key(own_service):
    secret = service_key(own_service)
    return own_service.start(), secret


def test_grants_for_a_volume_only_through_the_service(with_service_key):
    service, secret = with_service_key
    document = json.dumps({"Version": "2012-10-17", "Statement": STATEMENTS})
    key = service.client().create_key(Policy=document)["KeyMetadata"]["Arn"]
    direct, instance = service.client("nobody"), service.client("app")
    context = {"aws:ebs:id": "vol-1"}
    blob = direct.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=64, EncryptionContext=context)
    blob = blob["CiphertextBlob"]
    attach = {
        "KeyId": key,
        "GranteePrincipal": user("partner", OTHER_ACCOUNT),
        "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextEquals": context},
    }
    with refused("AccessDeniedException"):
        direct.create_grant(**attach)
    ec2 = service_client(service, secret, user("nobody"))
    grant = ec2.create_grant(**attach)["GrantId"]
    assert [entry["GrantId"] for entry in ec2.list_grants(KeyId=key)["Grants"]] == [grant]
    partner = service.client("partner")
    for _ in range(2):
        assert len(partner.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"]) == 64
    with refused("AccessDeniedException"):
        direct.revoke_grant(KeyId=key, GrantId=grant)
    ec2.revoke_grant(KeyId=key, GrantId=grant)
    with refused("AccessDeniedException"):
        partner.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    # A service's key does not administer, nor act for a root user; a user's key acts for nobody else.
    with refused("AccessDeniedException"):
        ec2.disable_key(KeyId=key)
    with refused("AccessDeniedException"):
        service_client(service, secret, root_of(ACCOUNT)).describe_key(KeyId=key)
    instance.meta.events.register(
        "before-sign.kms.*", lambda request, **_: request.headers.add_header("x-keytrail-on-behalf-of", user("nobody"))
    )
    with refused("AccessDeniedException"):
        instance.describe_key(KeyId=key)
