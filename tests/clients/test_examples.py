"""Each folder of examples/, run as its README says: policies, the programs, the key disabled, and the auditor's SQL.

People are made through IAM, programs run with their credentials only, and evidence is read from the stopped service's
log, which must verify.
"""

import base64
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys

import pytest

from service import ACCOUNT, OTHER_ACCOUNT, REGION
from stage import Stage
from test_boto3 import refused, user


@pytest.fixture
def stage(request, own_service, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    stage = Stage(own_service, request.param, folder)
    yield stage
    stage.close()


def case(name):
    return pytest.mark.parametrize("stage", [name], indirect=True, ids=[""])


def table(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


@case("card-data")
def test_card_data(stage):
    stage.person("card-writer")
    stage.person("card-reader")
    key = stage.key("card data")
    for customer, number in [("7", "4111111111111111"), ("8", "5500005555555559")]:
        stage.works("card-writer", "put", customer, text=number)
    cards = stage.folder / "cards.json"
    assert "4111111111111111" not in cards.read_text()
    assert stage.works("card-reader", "get", "7") == "4111111111111111\n"
    stage.fails("AccessDeniedException", "card-writer", "get", "7")
    # Someone who can write to the records gives customer 8 the number of customer 7.
    records = json.loads(cards.read_text())
    records["8"] = records["7"]
    cards.write_text(json.dumps(records))
    stage.fails("InvalidCiphertextException", "card-reader", "get", "8")
    # Not the program's fault alone: another context than a card's is refused by the policy.
    with refused("AccessDeniedException"):
        stage.kms.encrypt(KeyId=key, Plaintext=b"x")
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "card-reader", "get", "7")

    def context(customer):
        return json.dumps({"column": "number", "customer": customer, "table": "cards"}, separators=(",", ":"))

    rows = table(stage.evidence(), "user_name", "event_name", "enc_context", "error_code", "decided_by", "calls")
    taken, read = "KeyPolicy/TakeCardsNeverReadThem", "KeyPolicy/ReadCardsNeverWriteThem"
    assert rows == [
        ("card-writer", "Encrypt", context("7"), None, taken, 1),
        ("card-writer", "Encrypt", context("8"), None, taken, 1),
        ("card-reader", "Decrypt", context("7"), None, read, 1),
        ("card-writer", "Decrypt", context("7"), "AccessDenied", "Default", 1),
        ("card-reader", "Decrypt", context("8"), "InvalidCiphertextException", read, 1),
        ("administrator", "Encrypt", None, "AccessDenied", "Default", 1),
        ("card-reader", "Decrypt", context("7"), "DisabledException", read, 1),
    ]


def copied(folder, name, to):
    """Puts the file of one object where the service looks for another, as someone with access to its disk could."""
    source, target = (folder / hashlib.sha256(part.encode()).hexdigest() for part in (name, to))
    shutil.copy(source, target)
    return source


@case("s3-secrets")
def test_s3_secrets_by_prefix(stage):
    stage.person("billing-app", "team-secrets.json", team="billing")
    stage.person("payroll-app", "team-secrets.json", team="payroll")
    key = stage.key("s3 secrets")
    folder, url = stage.store("s3")
    for who, name in [("billing-app", "billing/db"), ("payroll-app", "payroll/db")]:
        stage.works(who, "put", name, text=f"password of {name}", STORE_URL=url)
    assert stage.works("billing-app", "get", "billing/db", STORE_URL=url) == "password of billing/db"
    stage.fails("AccessDeniedException", "payroll-app", "get", "billing/db", STORE_URL=url)
    file = copied(folder, "secrets/payroll/db", "secrets/billing/stolen")
    stage.fails("InvalidCiphertextException", "billing-app", "get", "billing/stolen", STORE_URL=url)
    # The owner has the right through S3 only: the data key that lies beside the object does not open without it.
    sealed = base64.b64decode(json.loads(file.read_text())["key"])
    context = {"aws:s3:arn": "arn:aws:s3:::secrets/payroll/db"}
    with refused("AccessDeniedException"):
        stage.client("payroll-app").decrypt(KeyId=key, CiphertextBlob=sealed, EncryptionContext=context)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "billing-app", "get", "billing/db", STORE_URL=url)
    s3, own = "s3.amazonaws.com", "IdentityPolicy/use/OwnPrefix"

    def at(name):
        return json.dumps({"aws:s3:arn": f"arn:aws:s3:::secrets/{name}"}, separators=(",", ":"))

    columns = ("user_name", "invoked_by", "event_name", "enc_context", "error_code", "decided_by")
    assert table(stage.evidence(), *columns) == [
        ("billing-app", s3, "GenerateDataKey", at("billing/db"), None, own),
        ("payroll-app", s3, "GenerateDataKey", at("payroll/db"), None, own),
        ("billing-app", s3, "Decrypt", at("billing/db"), None, own),
        ("payroll-app", s3, "Decrypt", at("billing/db"), "AccessDenied", "Default"),
        ("billing-app", s3, "Decrypt", at("billing/stolen"), "InvalidCiphertextException", own),
        ("payroll-app", None, "Decrypt", at("payroll/db"), "AccessDenied", "Default"),
        ("billing-app", s3, "Decrypt", at("billing/db"), "DisabledException", own),
    ]


@case("object-store")
def test_object_store_default_encryption(stage):
    stage.person("clerk")
    stage.person("auditor")
    key = stage.key("archive")
    folder, url = stage.store("s3")
    for name in ("one.txt", "two.txt"):
        (stage.folder / name).write_text(f"text of {name}")
    stage.works("clerk", "put", "one.txt", "two.txt", STORE_URL=url)
    assert stage.works("auditor", "get", "archive/one.txt", STORE_URL=url) == "text of one.txt"
    # Of another account, and of nobody.
    stage.fails("AccessDeniedException", "their-administrator", "get", "archive/one.txt", STORE_URL=url)
    stage.write(stage.profiles, "made-up", aws_access_key_id="AKIAMADEUP0000000000", aws_secret_access_key="x")
    stage.fails("NotAuthenticated", "made-up", "get", "archive/one.txt", STORE_URL=url)
    # Below another name, and in a bucket that the key is not for.
    copied(folder, "archive/one.txt", "archive/two.txt")
    stage.fails("InvalidCiphertextException", "auditor", "get", "archive/two.txt", STORE_URL=url)
    copied(folder, "archive/one.txt", "elsewhere/one.txt")
    stage.fails("AccessDeniedException", "auditor", "get", "elsewhere/one.txt", STORE_URL=url)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "auditor", "get", "archive/one.txt", STORE_URL=url)
    assert table(stage.evidence(), "object", "stored_by", "key", "public") == [
        ('{"aws:s3:arn":"arn:aws:s3:::archive/one.txt"}', "clerk", "archive", False),
        ('{"aws:s3:arn":"arn:aws:s3:::archive/two.txt"}', "clerk", "archive", False),
    ]


@case("parameter-store")
def test_parameter_store(stage):
    stage.person("deployer", "deployer.json")
    stage.person("shop", "shop.json")
    key = stage.key("parameters")
    folder, url = stage.store("ssm")
    for path in ("prod/shop/db", "prod/bank/db"):
        stage.works("deployer", "put", path, text=f"value of {path}", STORE_URL=url)
    assert stage.works("shop", "get", "prod/shop/db", STORE_URL=url) == "value of prod/shop/db"
    stage.fails("AccessDeniedException", "deployer", "get", "prod/shop/db", STORE_URL=url)
    stage.fails("AccessDeniedException", "shop", "get", "prod/bank/db", STORE_URL=url)
    copied(folder, "prod/bank/db", "prod/shop/stolen")
    stage.fails("InvalidCiphertextException", "shop", "get", "prod/shop/stolen", STORE_URL=url)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "shop", "get", "prod/shop/db", STORE_URL=url)

    def at(path):
        return json.dumps({"PARAMETER_ARN": f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{path}"}, separators=(",", ":"))

    assert table(stage.evidence(), "parameter", "writers", "readers", "refused") == [
        (at("prod/bank/db"), "deployer", None, "shop"),
        (at("prod/shop/db"), "deployer", "shop", "deployer"),
        (at("prod/shop/stolen"), None, None, None),
    ]


@case("function-variables")
def test_function_variables(stage):
    stage.person("deployer")
    stage.person("runtime")
    for function in ("billing", "mail"):
        role, trust = f"{function}-function", stage.document("trust.json")
        tags = [{"Key": "function", "Value": function}]
        arn = stage.iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust, Tags=tags)["Role"]["Arn"]
        # The runtime's part: boto3 assumes the role by itself.
        stage.write(stage.config, f"profile {role}", role_arn=arn, source_profile="runtime", role_session_name="call")
    key = stage.key("function variables")
    sealed = stage.works("deployer", "seal", "billing", text="hunter22").strip()
    variables = {"AWS_LAMBDA_FUNCTION_NAME": "billing", "DB_PASSWORD": sealed}
    assert stage.works("billing-function", "call", **variables) == "connected with a password of 8 characters\n"
    # Another function's role; who deploys; a variable that was copied to another function.
    stage.fails("AccessDeniedException", "mail-function", "call", **variables)
    stage.fails("AccessDeniedException", "deployer", "call", **variables)
    elsewhere = variables | {"AWS_LAMBDA_FUNCTION_NAME": "mail"}
    stage.fails("InvalidCiphertextException", "mail-function", "call", **elsewhere)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "billing-function", "call", **variables)
    own = "KeyPolicy/EachFunctionItsOwn"
    billing, mail = ('{"LambdaFunctionName":"billing"}', '{"LambdaFunctionName":"mail"}')

    def session(function):
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{function}-function/call"

    columns = ("principal_type", "principal_arn", "enc_context", "error_code", "decided_by")
    assert table(stage.evidence(), *columns) == [
        ("AssumedRole", session("billing"), billing, None, own),
        ("AssumedRole", session("mail"), billing, "AccessDenied", "Default"),
        ("IAMUser", user("deployer"), billing, "AccessDenied", "Default"),
        ("AssumedRole", session("mail"), mail, "InvalidCiphertextException", own),
        ("AssumedRole", session("billing"), billing, "DisabledException", own),
    ]


@case("disk-volume")
def test_disk_volume(stage):
    for server in ("server-1", "server-2"):
        stage.person(server)
    key = stage.key("disks")
    for image in ("one.img", "two.img"):
        with open(stage.folder / image, "wb") as file:
            file.truncate(32 << 20)
        stage.works("server-1", "format", image, "server-1")
    assert stage.works("server-1", "check", "one.img") == "the volume opens\n"
    # The disk is carried to another server; the sealed key of one volume is put beside another.
    stage.fails("AccessDeniedException", "server-2", "check", "one.img")
    kept = (stage.folder / "two.img.key").read_text()
    shutil.copy(stage.folder / "one.img.key", stage.folder / "two.img.key")
    stage.fails("InvalidCiphertextException", "server-1", "check", "two.img")
    (stage.folder / "two.img.key").write_text(kept)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "server-1", "check", "one.img")
    stage.kms.enable_key(KeyId=key)
    assert stage.works("server-1", "check", "two.img") == "the volume opens\n"
    rows = stage.evidence()
    assert [json.loads(row["volume"])["server"] for row in rows] == ["server-1", "server-1"]
    assert all(row["made"] for row in rows)
    # Given out once to format and once to open; the refusals of the first are the stolen disk and the disabled key.
    assert table(rows, "key_given_out", "refused") == [
        (2, "server-2 AccessDenied, server-1 DisabledException"),
        (2, "server-1 InvalidCiphertextException"),
    ]


@case("database")
def test_database(stage):
    for tenant in ("acme", "globex"):
        stage.person(f"{tenant}-app")
    key = stage.key("tenant notes")
    operations = ["GenerateDataKey", "Decrypt"]
    grants = {}
    for tenant in ("acme", "globex"):
        made = stage.kms.create_grant(
            KeyId=key,
            GranteePrincipal=user(f"{tenant}-app"),
            Operations=operations,
            Constraints={"EncryptionContextSubset": {"tenant": tenant}},
        )
        grants[tenant] = made["GrantId"]
    # The policy lets its administrator grant narrowly only.
    for wide in ({}, {"Constraints": {"EncryptionContextSubset": {"tenant": "acme"}}, "Operations": ["Encrypt"]}):
        with refused("AccessDeniedException"):
            stage.kms.create_grant(**{"KeyId": key, "GranteePrincipal": user("nobody"), "Operations": operations} | wide)
    for tenant in ("acme", "globex"):
        stage.works(f"{tenant}-app", "put", tenant, "1", text=f"note of {tenant}")
    assert stage.works("acme-app", "get", "acme", "1") == "note of acme\n"
    stage.fails("AccessDeniedException", "globex-app", "get", "acme", "1")
    database = stage.folder / "notes.db"
    assert b"note of acme" not in database.read_bytes()

    def change(statement):
        with sqlite3.connect(database) as open_database:
            open_database.execute(statement)

    take = "UPDATE data_keys SET sealed = (SELECT sealed FROM data_keys WHERE tenant = 'acme')"
    kept = database.read_bytes()
    change(take)
    stage.fails("InvalidCiphertextException", "globex-app", "get", "globex", "1")
    database.write_bytes(kept)
    # Within a tenant: a note that was moved to another row.
    change("INSERT INTO notes SELECT tenant, '2', note FROM notes")
    stage.fails("InvalidTag", "acme-app", "get", "acme", "2")
    stage.kms.revoke_grant(KeyId=key, GrantId=grants["globex"])
    stage.fails("AccessDeniedException", "globex-app", "get", "globex", "1")
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "acme-app", "get", "acme", "1")
    acme, globex = '{"tenant":"acme"}', '{"tenant":"globex"}'
    assert table(stage.evidence(), "tenant", "user_name", "event_name", "calls", "granted_by") == [
        (acme, "acme-app", "GenerateDataKey", 1, "administrator"),
        (globex, "globex-app", "GenerateDataKey", 1, "administrator"),
        (acme, "acme-app", "Decrypt", 2, "administrator"),
    ]


@case("data-key-cache")
def test_data_key_cache(stage):
    stage.person("messenger")
    stage.person("outsider")
    key = stage.key("messages")
    messages = [f"message {number}" for number in range(6)]
    sealed = stage.works("messenger", "seal", text="\n".join(messages)).splitlines()
    assert len(sealed) == 6 and len({json.loads(line)[0] for line in sealed}) == 2, "two data keys, three uses each"
    assert stage.works("messenger", "open", text="\n".join(sealed)).splitlines() == messages
    stage.fails("AccessDeniedException", "outsider", "open", text=sealed[0])
    blob = base64.b64decode(json.loads(sealed[0])[0])
    with refused("AccessDeniedException"):
        stage.client("messenger").decrypt(CiphertextBlob=blob, EncryptionContext={"stream": "refunds"})

    command = [sys.executable, str(stage.case / "run.py"), "open"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=stage.environment("messenger")) as holder:

        def send(line):
            print(line, file=holder.stdin, flush=True)
            return holder.stdout.readline().strip()

        assert send(sealed[0]) == messages[0]
        stage.kms.disable_key(KeyId=key)
        # Who holds the data key goes on until its uses are spent; whoever starts now gets nothing.
        stage.fails("DisabledException", "messenger", "open", text=sealed[0])
        assert send(sealed[1]) == messages[1] and send(sealed[2]) == messages[2]
        assert send(sealed[0]) == "" and holder.wait(timeout=60) == 1
        assert "DisabledException" in holder.stderr.read()
    rows = table(stage.evidence(), "disabled_by", "held_by", "keys_in_the_open", "given_out_after", "refused_after")
    assert rows == [("administrator", "messenger", 5, 0, 2)]


@case("cross-account")
def test_cross_account(stage):
    stage.person("reporter")
    theirs = stage.client("their-administrator", "iam")
    stage.person("reader", "partner-identity.json", iam=theirs)
    stage.person("guest", iam=theirs)
    stage.person("stranger", iam=theirs)
    key = stage.key("reports")
    sealed = stage.works("reporter", "seal", key, "monthly", text="all is well")
    constraints = {"EncryptionContextEquals": {"report": "monthly"}}
    guest = user("guest", OTHER_ACCOUNT)
    grant = stage.kms.create_grant(KeyId=key, GranteePrincipal=guest, Operations=["Decrypt"], Constraints=constraints)
    for who in ("reader", "guest"):
        assert stage.works(who, "open", key, "monthly", text=sealed) == "all is well\n"
        stage.fails("AccessDeniedException", who, "open", key, "yearly", text=sealed)
    # Our half of the permission alone is not enough; nor is our own account, which was told nothing.
    stage.fails("AccessDeniedException", "stranger", "open", key, "monthly", text=sealed)
    stage.fails("AccessDeniedException", "reporter", "open", key, "monthly", text=sealed)
    stage.kms.revoke_grant(KeyId=key, GrantId=grant["GrantId"])
    stage.fails("AccessDeniedException", "guest", "open", key, "monthly", text=sealed)
    stage.kms.disable_key(KeyId=key)
    stage.fails("DisabledException", "reader", "open", key, "monthly", text=sealed)
    policy, other = "IdentityPolicy/use/ReadTheReports", OTHER_ACCOUNT
    columns = ("principal_account", "user_name", "event_name", "error_code", "decided_by", "calls")
    assert table(stage.evidence(), *columns) == [
        (other, "reader", "Decrypt", None, policy, 1),
        (other, "reader", "Decrypt", "AccessDenied", "Default", 1),
        (other, "guest", "Decrypt", None, f"Grant/{grant['GrantId']}", 1),
        (other, "guest", "Decrypt", "AccessDenied", "Default", 2),
        (other, "stranger", "Decrypt", "AccessDenied", "Default", 1),
        (other, "reader", "Decrypt", "DisabledException", policy, 1),
    ]


@case("three-ways")
def test_three_ways_to_control_permission(stage):
    stage.person("by-key-policy")
    stage.person("by-identity-policy", "identity.json")
    stage.person("by-grant")
    stage.person("by-nothing")
    key = stage.key("three ways")
    grant = stage.kms.create_grant(
        KeyId=key,
        GranteePrincipal=user("by-grant"),
        Operations=["Decrypt"],
        Constraints={"EncryptionContextEquals": {"purpose": "demo"}},
    )
    sealed = stage.works("by-key-policy", "seal", "demo", text="a value")
    ways = ["by-key-policy", "by-identity-policy", "by-grant"]
    for who in ways:
        assert stage.works(who, "open", "demo", text=sealed) == "a value\n"
        stage.fails("AccessDeniedException", who, "open", "other", text=sealed)
    stage.fails("AccessDeniedException", "by-nothing", "open", "demo", text=sealed)
    stage.kms.disable_key(KeyId=key)
    for who in ways:
        stage.fails("DisabledException", who, "open", "demo", text=sealed)
    rows = table(stage.evidence(), "user_name", "way", "decided_by", "error_code", "calls")
    assert [row for row in rows if row[3] is None] == [
        ("by-key-policy", "KeyPolicy", "KeyPolicy/Named", None, 1),
        ("by-identity-policy", "IdentityPolicy", "IdentityPolicy/use/Read", None, 1),
        ("by-grant", "Grant", f"Grant/{grant['GrantId']}", None, 1),
    ]
    denied = [(row[0], row[1]) for row in rows if row[3] == "AccessDenied"]
    assert denied == [(who, "Default") for who in [*ways, "by-nothing"]]
    assert [row[1] for row in rows if row[3] == "DisabledException"] == ["KeyPolicy", "IdentityPolicy", "Grant"]
