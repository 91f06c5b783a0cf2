"""The analysts' recipes in queries/: each runs over a folder in which all that they ask for has happened, and finds it."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError

from service import ACCOUNT, REGION, ROOT, Service, wait_for
from test_via_service import service_client, service_key

RECIPES = sorted((ROOT / "queries").glob("*.sql"))
PUBLIC = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"},
    ],
}
ROLE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}],
}
USE = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows of each recipe, by its name."""
    with Service(tmp_path_factory.mktemp("queries") / "data", "--enforce").init() as service:
        keys = act(service)
        wait_for("alerts", lambda: service.sql("SELECT 1 AS one FROM alerts WHERE rule_id = 'key-policy-public'"))
        wait_for(
            "the responder",
            lambda: service.sql("SELECT 1 AS one FROM events WHERE actor_class = 'responder' AND event_name = 'RestoreKeyPolicy'"),
        )
        found = {recipe.stem: service.sql(recipe.read_text()) for recipe in RECIPES}
    return keys, found


def act(service):
    """Ordinary use, and some of what the recipes look for. Gives the keys by what happened to them."""
    kms, app = service.client(), service.client("app")
    names = ("used", "disabled", "public", "unused")
    keys = {name: kms.create_key(Description=name)["KeyMetadata"]["Arn"] for name in names}
    context = {"tenant": "1"}
    blob = {
        name: app.encrypt(KeyId=keys[name], Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
        for name in ("used", "disabled")
    }
    app.decrypt(CiphertextBlob=blob["used"], EncryptionContext=context)
    app.generate_data_key(KeyId=keys["used"], KeySpec="AES_256", EncryptionContext=context)
    for who, options in (("nobody", {"EncryptionContext": context}), ("app", {})):
        with pytest.raises(ClientError):
            service.client(who).decrypt(CiphertextBlob=blob["used"], **options)
    kms.disable_key(KeyId=keys["disabled"])
    with pytest.raises(ClientError):
        app.decrypt(CiphertextBlob=blob["disabled"], EncryptionContext=context)
    app_arn = f"arn:aws:iam::{ACCOUNT}:user/app"
    kms.create_grant(KeyId=keys["used"], GranteePrincipal=app_arn, Operations=["Decrypt"])
    iam = service.client(service="iam")
    iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps(ROLE))
    iam.put_role_policy(RoleName="reader", PolicyName="use", PolicyDocument=json.dumps(USE))
    role = f"arn:aws:iam::{ACCOUNT}:role/reader"
    session = service.client(service="sts").assume_role(RoleArn=role, RoleSessionName="morning")["Credentials"]
    boto3.client(
        "kms", region_name=REGION, endpoint_url=service.endpoint, aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"], aws_session_token=session["SessionToken"],
    ).describe_key(KeyId=keys["used"])
    service.client("engineer").put_key_policy(KeyId=keys["public"], PolicyName="default", Policy=json.dumps(PUBLIC))
    return keys


# What an enforcing responder takes back: it closes the public key and cancels every deletion. And what services do.
ELSEWHERE = {"public-policies", "keys-about-to-go", "by-services"}


@pytest.mark.parametrize("recipe", [recipe.stem for recipe in RECIPES if recipe.stem not in ELSEWHERE])
def test_a_recipe_finds_what_happened(rows, recipe):
    assert rows[1][recipe]


def test_what_a_responder_would_have_taken_back(tmp_path):
    service = Service(tmp_path / "data").init()
    secret = service_key(service)
    with service:
        kms = service.client()
        public, going = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        kms.put_key_policy(KeyId=public, PolicyName="default", Policy=json.dumps(PUBLIC))
        kms.schedule_key_deletion(KeyId=going, PendingWindowInDays=7)
        app = f"arn:aws:iam::{ACCOUNT}:user/app"
        service_client(service, secret, app).encrypt(KeyId=public, Plaintext=b"x")
        found = {name: service.sql((ROOT / "queries" / f"{name}.sql").read_text()) for name in ELSEWHERE}
    administrator = f"arn:aws:iam::{ACCOUNT}:user/administrator"
    assert [(row["key_arn"], row["set_by"]) for row in found["public-policies"]] == [(public, administrator)]
    assert [(row["key_arn"], row["scheduled_by"]) for row in found["keys-about-to-go"]] == [(going, administrator)]
    by_services = [(row["invoked_by"], row["principal_arn"], row["event_name"]) for row in found["by-services"]]
    assert ("ec2.amazonaws.com", app, "Encrypt") in by_services


def test_recipes_say_what_they_are_for():
    assert len(RECIPES) >= 25
    for recipe in RECIPES:
        assert recipe.read_text().startswith("-- "), recipe


def test_the_answers_are_right(rows):
    keys, found = rows
    app = f"arn:aws:iam::{ACCOUNT}:user/app"
    used = [row for row in found["who-used-a-key"] if row["key_arn"] == keys["used"] and row["principal_arn"] == app]
    assert [(row["calls"], row["refused"]) for row in used] == [(4, 1)]
    denied = {(row["principal_arn"].rsplit("/")[-1], row["event_name"]) for row in found["denied-by-principal"]}
    assert ("nobody", "Decrypt") in denied
    needed = [(row["key_arn"], row["principal_arn"], row["failed_calls"]) for row in found["still-needed"]]
    assert needed == [(keys["disabled"], app, 1)]
    assert {row["key_arn"] for row in found["grants-without-constraint"]} == {keys["used"]}
    assert [(row["role"], row["session"]) for row in found["sessions-of-a-role"]] == [("reader", "morning")]
    assert {"RestoreKeyPolicy"} <= {row["event_name"] for row in found["what-the-responder-did"]}
    assert all(row["missing"] == 0 and row["unreadable"] == 0 for row in found["log-health"])
    wrong = {(row["error_code"], row["event_name"]) for row in found["errors-by-kind"]}
    assert ("InvalidCiphertextException", "Decrypt") in wrong
    (alert, *_) = [row for row in found["alert-to-evidence"] if row["rule_id"] == "key-policy-public"]
    assert alert["key_arn"] == keys["public"] and alert["records"] == 1
    assert all(0 <= row["p50_ms"] < 60_000 for row in found["response-times"])
