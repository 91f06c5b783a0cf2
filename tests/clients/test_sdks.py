"""AWS's SDKs in other languages: one journey told in each, and what each makes of refusals, quotas and a wrong clock."""

import time

import pytest

from service import ACCOUNT
from test_web_identity import CLIENT, SUBJECT, Issuer
from workplace import INSTALLED, NODE, TESTS, Workplace, document, need

# It reads its own source in the locale's encoding unless told.
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]
COMMANDS = {
    "node": [*NODE, TESTS / "node/journey.js"],
    "go": [INSTALLED / "go/journey"],
    "java": [*JAVA, "-cp", f"{INSTALLED}/java/*", TESTS / "java/Journey.java"],
    "rust": [INSTALLED / "rust/debug/keytrail-rust-client"],
}
# What a client makes of an error that AWS's model of KMS does not name.
UNMODELLED = {"node": "KMSServiceException", "go": "GenericAPIError", "java": "KmsException", "rust": "Unhandled"}
ERRORS = {
    "wrong_context": "InvalidCiphertextException",
    "wrong_key": "IncorrectKeyException",
    "missing": "NotFoundException",
    "disabled": "DisabledException",
    "usage": "InvalidKeyUsageException",
    "forged": "KMSInvalidSignatureException",
    "forged_mac": "KMSInvalidMacException",
}


FLOOD_CALLS = 11


@pytest.fixture(params=COMMANDS)
def language(request):
    need(request.param)
    return request.param


@pytest.fixture
def keys(workplace):
    kinds = {
        "KEY": {},
        "OTHER_KEY": {},
        "DISABLED_KEY": {},
        "SIGNING_KEY": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
        "MAC_KEY": {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    }
    keys = {name: workplace.key(**kind) for name, kind in kinds.items()}
    workplace.admin.disable_key(KeyId=keys["DISABLED_KEY"])
    return keys


def test_an_application_works(workplace, keys, language):
    told = workplace.program([*COMMANDS[language], "journey"], **keys)
    worker = f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/{language}"
    assert told["caller"] == f"arn:aws:iam::{ACCOUNT}:user/developer"
    assert told["worker"] == worker
    assert told["opened"] == told["reopened"] == "over the wire"
    assert [told[name].lower() for name in ("data_key", "signature", "mac")] == ["true"] * 3
    assert abs(time.time() - float(told["created"])) < 300
    pages = workplace.admin.get_paginator("list_keys").paginate()
    assert int(told["listed"]) == sum(len(page["Keys"]) for page in pages)

    for name, code in ERRORS.items():
        said, kind = told[f"error.{name}"].split()
        # Java writes Kms for KMS in names of classes.
        assert (said, kind.upper()) == (code, code.upper()), name
    assert told["error.refused"] == f"AccessDeniedException {UNMODELLED[language]}"
    assert told["error.too_long"] == f"ValidationException {UNMODELLED[language]}"

    # The request id that an application logs leads to the event.
    request = told["request"]
    columns = "event_name, principal_arn, key_arn, enc_context, user_agent"
    [row] = workplace.service.sql(f"SELECT {columns} FROM events WHERE request_id = '{request}'")
    assert row["event_name"] == "Encrypt" and row["principal_arn"] == worker and row["key_arn"] == keys["KEY"]
    assert row["enc_context"] == '{"purpose":"größer","tenant":"7"}' and "aws-sdk" in row["user_agent"]
    told = {row["error_code"] for key in keys.values() for row in workplace.events(key) if row.get("error_code")}
    assert told == {"AccessDenied"} | (set(ERRORS.values()) - {"NotFoundException"})
    # What names no key that is there is found by who called.
    told = workplace.service.sql(f"SELECT error_code FROM events WHERE principal_arn = '{worker}' AND key_arn IS NULL")
    assert {"NotFoundException", "ValidationException"} <= {row.get("error_code") for row in told}


@pytest.fixture(scope="module")
def workload(plain_workplace, tmp_path_factory):
    """The environment of a program that has a role's name and a token of an identity provider, and no key."""
    issuer, token = Issuer(), tmp_path_factory.mktemp("workload") / "token"
    iam = plain_workplace.service.client(service="iam")
    provider = iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=[CLIENT])["OpenIDConnectProviderArn"]
    condition = {"StringEquals": {f"{issuer.name}:sub": SUBJECT}}
    trust = document("sts:AssumeRoleWithWebIdentity", Principal={"Federated": provider}, Condition=condition)
    role = iam.create_role(RoleName="workload", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    policy = document("kms:GenerateDataKey", Resource="*")
    iam.put_role_policy(RoleName="workload", PolicyName="work", PolicyDocument=policy)
    token.write_text(issuer.token())
    names = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME"]
    yield dict(zip(names, [str(token), role, "token"], strict=True))
    issuer.stop()


def test_a_workload_needs_no_key(plain_workplace, workload, language):
    key = plain_workplace.key()
    command = [*COMMANDS[language], "workload"]
    caller = f"arn:aws:sts::{ACCOUNT}:assumed-role/workload/token"
    told = plain_workplace.program(command, credentials={}, KEY=key, **workload)
    assert told == {"caller": caller, "length": "32"}
    [row] = plain_workplace.events(key, "event_name, principal_arn")[1:]
    assert row == {"event_name": "GenerateDataKey", "principal_arn": caller}


@pytest.fixture
def throttled(tmp_path):
    """A workplace where ten calls may come at once, then one every six seconds: also a slow machine's eleventh waits."""
    workplace = Workplace(tmp_path / "workplace", secure=True)
    with open(workplace.service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write('\n[quotas]\nGetKeyRotationStatus = "10/m"\n')
    with workplace:
        yield workplace


def floods_patiently(workplace, flood):
    """Every call comes through in the end, and each attempt is an event of its own."""
    attempts = flood(workplace.key())
    rows = workplace.service.sql("SELECT error_code FROM events WHERE event_name = 'GetKeyRotationStatus'")
    errors = [row["error_code"] for row in rows if row.get("error_code")]
    assert errors and set(errors) == {"ThrottlingException"}
    assert len(rows) == attempts == FLOOD_CALLS + len(errors)


def test_a_throttled_call_is_tried_again(throttled, language):
    def flood(key):
        limits = {"CALLS": str(FLOOD_CALLS), "AWS_MAX_ATTEMPTS": "10", "AWS_RETRY_MODE": "standard"}
        return int(throttled.program([*COMMANDS[language], "flood"], KEY=key, **limits)["attempts"])

    floods_patiently(throttled, flood)


def test_boto3_tries_a_throttled_call_again(throttled):
    def flood(key):
        kms = throttled.kms(retries={"total_max_attempts": 10, "mode": "standard"})
        answers = [kms.get_key_rotation_status(KeyId=key)["ResponseMetadata"] for _ in range(FLOOD_CALLS)]
        return sum(1 + answer["RetryAttempts"] for answer in answers)

    floods_patiently(throttled, flood)


@pytest.mark.parametrize("language", ["node", "rust"], indirect=True)
def test_a_wrong_clock_is_put_right_by_the_date_of_the_answer(tls_workplace, language):
    key = tls_workplace.key()
    told = tls_workplace.program([*COMMANDS[language], "skew"], KEY=key)
    assert told == {"first.-10": "2", "second.-10": "1", "first.10": "2", "second.10": "1"}
    # Who signs with a wrong clock is nobody yet: what was refused is no event of a principal's.
    told = [(row["event_name"], row.get("error_code")) for row in tls_workplace.events(key)]
    assert told == [("CreateKey", None)] + [("DescribeKey", None)] * 4
