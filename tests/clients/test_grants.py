"""Grants with boto3: made, used at once, listed, retired and revoked, within one account and across two."""

import json

import pytest

from service import ACCOUNT, OTHER_ACCOUNT, wait_for
from test_boto3 import refused, user


@pytest.fixture
def nobody(service):
    return service.client("nobody")


def test_a_grant_works_at_once_and_ends_at_once(service, kms, key, nobody):
    context = {"tenant": "42", "purpose": "orders"}
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)["CiphertextBlob"]
    with refused("AccessDeniedException"):
        nobody.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    made = kms.create_grant(
        KeyId=key,
        GranteePrincipal=user("nobody"),
        RetiringPrincipal=user("app"),
        Operations=["Decrypt", "DescribeKey"],
        Constraints={"EncryptionContextSubset": {"tenant": "42"}},
        Name="reader",
    )
    assert len(made["GrantId"]) == 64
    assert nobody.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"secret"
    tokens = [made["GrantToken"]]
    assert nobody.decrypt(CiphertextBlob=blob, EncryptionContext=context, GrantTokens=tokens)["Plaintext"] == b"secret"
    assert nobody.describe_key(KeyId=key, GrantTokens=tokens)["KeyMetadata"]["KeyId"] == key
    with refused("InvalidGrantTokenException"):
        nobody.describe_key(KeyId=key, GrantTokens=["made up"])
    other = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "43"})["CiphertextBlob"]
    with refused("AccessDeniedException"):
        nobody.decrypt(CiphertextBlob=other, EncryptionContext={"tenant": "43"})
    with refused("AccessDeniedException"):
        nobody.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)

    again = kms.create_grant(
        KeyId=key,
        GranteePrincipal=user("nobody"),
        RetiringPrincipal=user("app"),
        Operations=["DescribeKey", "Decrypt"],
        Constraints={"EncryptionContextSubset": {"tenant": "42"}},
        Name="reader",
    )
    assert again["GrantId"] == made["GrantId"] and again["GrantToken"] != made["GrantToken"]

    (grant,) = kms.list_grants(KeyId=key)["Grants"]
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    created = grant.pop("CreationDate")
    assert created.year > 2000 and grant == {
        "KeyId": arn,
        "GrantId": made["GrantId"],
        "Name": "reader",
        "GranteePrincipal": user("nobody"),
        "RetiringPrincipal": user("app"),
        "IssuingAccount": f"arn:aws:iam::{ACCOUNT}:root",
        "Operations": ["Decrypt", "DescribeKey"],
        "Constraints": {"EncryptionContextSubset": {"tenant": "42"}},
    }
    with refused("DryRunOperationException"):
        service.client("app").retire_grant(GrantToken=again["GrantToken"], DryRun=True)
    service.client("app").retire_grant(GrantToken=again["GrantToken"])
    with refused("AccessDeniedException"):
        nobody.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    assert kms.list_grants(KeyId=key)["Grants"] == []


def test_a_grant_reaches_another_account(service, kms, key):
    partner = service.client("partner")
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    with refused("AccessDeniedException"):
        partner.generate_data_key(KeyId=arn, KeySpec="AES_256")
    grantee = user("partner", OTHER_ACCOUNT)
    grant = kms.create_grant(KeyId=key, GranteePrincipal=grantee, RetiringPrincipal=grantee, Operations=["GenerateDataKey"])
    assert len(partner.generate_data_key(KeyId=arn, KeySpec="AES_256")["Plaintext"]) == 32
    listed = partner.list_retirable_grants(RetiringPrincipal=grantee)["Grants"]
    assert grant["GrantId"] in [entry["GrantId"] for entry in listed]
    kms.revoke_grant(KeyId=key, GrantId=grant["GrantId"])
    with refused("AccessDeniedException"):
        partner.generate_data_key(KeyId=arn, KeySpec="AES_256")


def test_grants_are_listed_in_pages(kms, key):
    made = {
        kms.create_grant(KeyId=key, GranteePrincipal=user("nobody"), Operations=["Decrypt"])["GrantId"] for _ in range(5)
    }
    pages = list(kms.get_paginator("list_grants").paginate(KeyId=key, PaginationConfig={"PageSize": 2}))
    assert all(len(page["Grants"]) <= 2 for page in pages)
    assert {grant["GrantId"] for page in pages for grant in page["Grants"]} == made


def test_who_may_not_grant_and_what_may_not_be_granted(service, kms, key, nobody):
    with refused("AccessDeniedException"):
        nobody.create_grant(KeyId=key, GranteePrincipal=user("nobody"), Operations=["Decrypt"])
    with refused("AccessDeniedException"):
        nobody.list_grants(KeyId=key)
    with refused("InvalidArnException"):
        kms.create_grant(KeyId=key, GranteePrincipal=user("not-there"), Operations=["Decrypt"])
    with refused("ValidationException"):
        kms.create_grant(KeyId=key, GranteePrincipal=user("nobody"), Operations=["Sign"])
    with refused("InvalidGrantIdException"):
        kms.revoke_grant(KeyId=key, GrantId="0" * 64)
    kms.disable_key(KeyId=key)
    with refused("DisabledException"):
        kms.create_grant(KeyId=key, GranteePrincipal=user("nobody"), Operations=["Decrypt"])


def test_the_log_has_the_grants_terms_and_never_its_token(service, kms, key, nobody):
    grant = kms.create_grant(KeyId=key, GranteePrincipal=user("nobody"), Operations=["DescribeKey"])
    nobody.describe_key(KeyId=key, GrantTokens=[grant["GrantToken"]])
    # Calls, and not the records of the queries that look for them.
    calls = "event_source = 'kms.amazonaws.com'"
    query = f"SELECT event_name, raw FROM events WHERE {calls} AND raw LIKE '%{grant['GrantId']}%' ORDER BY seq"

    def both():
        rows = service.sql(query)
        return rows if len(rows) == 2 else None

    made, used = wait_for("both calls in the log", both)
    created = json.loads(bytes.fromhex(made["raw"]))["additionalEventData"]["after"]
    assert created["granteePrincipal"] == user("nobody") and created["operations"] == ["DescribeKey"]
    assert json.loads(bytes.fromhex(used["raw"]))["additionalEventData"]["decidedBy"] == f"Grant/{grant['GrantId']}"
    assert service.sql(f"SELECT seq FROM events WHERE {calls} AND raw LIKE '%{grant['GrantToken']}%'") == []
