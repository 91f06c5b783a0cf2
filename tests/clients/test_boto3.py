"""boto3 against the service: every operation, and the exception that AWS would raise."""

import json
import re
import threading

import boto3
import pytest
from botocore.exceptions import ClientError

from service import ACCOUNT, OTHER_ACCOUNT, REGION, access_key_id, wait_for


def refused(code):
    """The call must fail with this AWS error code."""
    return pytest.raises(ClientError, match=rf"\({re.escape(code)}\)")


def root_of(account):
    return f"arn:aws:iam::{account}:root"


def policy(*statements):
    owner = {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": root_of(ACCOUNT)}, "Action": "kms:*"}
    statements = [{"Resource": "*"} | statement for statement in (owner, *statements)]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def user(name, account=ACCOUNT):
    return f"arn:aws:iam::{account}:user/{name}"


def test_caller_identity(service):
    identity = service.client(service="sts").get_caller_identity()
    assert identity["Account"] == ACCOUNT
    assert identity["Arn"] == user("administrator")
    assert service.client("partner", "sts").get_caller_identity()["Arn"] == user("partner", OTHER_ACCOUNT)


def test_a_new_key_is_described_as_at_aws(service, kms):
    tags = [{"TagKey": "team", "TagValue": "payments"}]
    created = kms.create_key(Description="orders", Tags=tags)["KeyMetadata"]
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{created['KeyId']}"
    expected = {
        "AWSAccountId": ACCOUNT,
        "Arn": arn,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Description": "orders",
        "Enabled": True,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": False,
        "Origin": "AWS_KMS",
    }
    assert expected.items() <= created.items()
    for name in (created["KeyId"], arn):
        described = kms.describe_key(KeyId=name)["KeyMetadata"]
        assert expected.items() <= described.items()
        assert described["CreationDate"] == created["CreationDate"]
    assert kms.list_resource_tags(KeyId=arn)["Tags"] == tags


def test_keys_are_listed_in_pages(kms):
    created = {kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)}
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert all(len(page["Keys"]) <= 2 for page in pages)
    listed = [key["KeyId"] for page in pages for key in page["Keys"]]
    assert created <= set(listed) and len(listed) == len(set(listed))
    with refused("InvalidMarkerException"):
        kms.list_keys(Marker="made up")


def test_encrypt_and_decrypt_with_a_context(service, kms, key):
    context = {"tenant": "42", "purpose": "orders"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)
    blob = sealed["CiphertextBlob"]
    assert sealed["KeyId"].endswith(f"key/{key}") and sealed["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    assert b"secret" not in blob
    opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    assert opened["Plaintext"] == b"secret" and opened["KeyId"] == sealed["KeyId"]
    assert kms.decrypt(KeyId=key, CiphertextBlob=blob, EncryptionContext=dict(reversed(context.items())))
    for wrong in ({}, {"tenant": "42"}, context | {"tenant": "43"}, context | {"more": ""}):
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=blob, EncryptionContext=wrong)
    assert kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)["CiphertextBlob"] != blob


def test_damaged_ciphertext_is_refused(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    for damaged in (b"x", b"garbage" * 20, blob[:-1], blob + b"x"):
        with refused("InvalidCiphertextException"):
            kms.decrypt(CiphertextBlob=damaged)
    for at in range(len(blob)):
        # A changed key id names a key that is not there. As at AWS the answer must not tell which keys are: never NotFound.
        with pytest.raises(ClientError, match="(InvalidCiphertextException|AccessDeniedException)"):
            kms.decrypt(CiphertextBlob=blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :])
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    with refused("IncorrectKeyException"):
        kms.decrypt(KeyId=other, CiphertextBlob=blob)


def test_the_largest_plaintext_has_4096_bytes(kms, key):
    largest = bytes(4096)
    assert kms.decrypt(CiphertextBlob=kms.encrypt(KeyId=key, Plaintext=largest)["CiphertextBlob"])["Plaintext"] == largest
    with refused("ValidationException"):
        kms.encrypt(KeyId=key, Plaintext=largest + b"x")


def test_data_keys(kms, key):
    context = {"file": "a"}
    for form, length in [
        ({"KeySpec": "AES_256"}, 32),
        ({"KeySpec": "AES_128"}, 16),
        ({"NumberOfBytes": 1}, 1),
        ({"NumberOfBytes": 1024}, 1024),
    ]:
        data_key = kms.generate_data_key(KeyId=key, EncryptionContext=context, **form)
        assert len(data_key["Plaintext"]) == length
        opened = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context)
        assert opened["Plaintext"] == data_key["Plaintext"]
    sealed = kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
    assert "Plaintext" not in sealed
    assert len(kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"]) == 32
    for wrong in ({}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1025}, {"KeySpec": "AES_512"}):
        with refused("ValidationException"):
            kms.generate_data_key(KeyId=key, **wrong)


def test_a_disabled_key_does_nothing_until_it_is_enabled(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.disable_key(KeyId=key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["Enabled"] is False
    for call in (
        lambda: kms.encrypt(KeyId=key, Plaintext=b"x"),
        lambda: kms.decrypt(CiphertextBlob=blob),
        lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256"),
        lambda: kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256"),
    ):
        with refused("DisabledException"):
            call()
    kms.disable_key(KeyId=key)
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_a_deletion_waits_and_can_be_cancelled(kms, key):
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    for days in (6, 31):
        with refused("ValidationException"):
            kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=days)
    scheduled = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert scheduled["KeyState"] == "PendingDeletion" and scheduled["PendingWindowInDays"] == 7
    described = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert described["KeyState"] == "PendingDeletion" and described["DeletionDate"] == scheduled["DeletionDate"]
    for call in (
        lambda: kms.decrypt(CiphertextBlob=blob),
        lambda: kms.encrypt(KeyId=key, Plaintext=b"x"),
        lambda: kms.enable_key(KeyId=key),
        lambda: kms.disable_key(KeyId=key),
        lambda: kms.schedule_key_deletion(KeyId=key),
        lambda: kms.create_alias(AliasName="alias/too-late", TargetKeyId=key),
        lambda: kms.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "b"}]),
    ):
        with refused("KMSInvalidStateException"):
            call()
    assert kms.cancel_key_deletion(KeyId=key)["KeyId"].endswith(key)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Disabled"
    with refused("KMSInvalidStateException"):
        kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_aliases(kms, key):
    name, other = f"alias/app-{key[:8]}", kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=name, TargetKeyId=key)
    with refused("AlreadyExistsException"):
        kms.create_alias(AliasName=name, TargetKeyId=other)
    blob = kms.encrypt(KeyId=name, Plaintext=b"x")["CiphertextBlob"]
    assert kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] == key
    arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"
    assert kms.decrypt(KeyId=arn, CiphertextBlob=blob)["Plaintext"] == b"x"
    aliases = kms.list_aliases(KeyId=key)["Aliases"]
    assert [(alias["AliasName"], alias["AliasArn"], alias["TargetKeyId"]) for alias in aliases] == [(name, arn, key)]
    kms.update_alias(AliasName=name, TargetKeyId=other)
    assert kms.describe_key(KeyId=name)["KeyMetadata"]["KeyId"] == other
    with refused("IncorrectKeyException"):
        kms.decrypt(KeyId=name, CiphertextBlob=blob)
    every = [alias["AliasName"] for page in kms.get_paginator("list_aliases").paginate() for alias in page["Aliases"]]
    assert name in every
    kms.delete_alias(AliasName=name)
    for call in (
        lambda: kms.describe_key(KeyId=name),
        lambda: kms.delete_alias(AliasName=name),
        lambda: kms.update_alias(AliasName=name, TargetKeyId=key),
    ):
        with refused("NotFoundException"):
            call()
    with refused("NotAuthorizedException"):
        kms.create_alias(AliasName="alias/aws/mine", TargetKeyId=key)
    with refused("ValidationException"):
        kms.create_alias(AliasName="no-prefix", TargetKeyId=key)


def test_tags(kms, key):
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": ""}])
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "2"}])
    kms.untag_resource(KeyId=key, TagKeys=["b", "was never there"])
    assert kms.list_resource_tags(KeyId=key)["Tags"] == [{"TagKey": "a", "TagValue": "2"}]
    with refused("TagException"):
        kms.tag_resource(KeyId=key, Tags=[{"TagKey": "aws:mine", "TagValue": "1"}])
    with refused("TagException"):
        kms.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "\x01"}])


def test_the_default_key_policy_is_the_one_of_aws(kms, key):
    default = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    assert default == {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": root_of(ACCOUNT)},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }


def test_key_policies_are_replaced_and_checked(kms, key):
    wanted = policy({"Sid": "App", "Effect": "Allow", "Principal": {"AWS": user("app")}, "Action": "kms:Decrypt"})
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=wanted)
    assert json.loads(kms.get_key_policy(KeyId=key)["Policy"]) == json.loads(wanted)
    locked_out = {"Effect": "Allow", "Principal": {"AWS": user("app")}, "Action": "kms:*", "Resource": "*"}
    locked_out = json.dumps({"Version": "2012-10-17", "Statement": [locked_out]})
    for wrong in ("{", "{}", locked_out, wanted.replace('"Allow"', '"Perhaps"')):
        with refused("MalformedPolicyDocumentException"):
            kms.put_key_policy(KeyId=key, Policy=wrong)
    with refused("NotFoundException"):
        kms.get_key_policy(KeyId=key, PolicyName="other")
    assert json.loads(kms.get_key_policy(KeyId=key)["Policy"]) == json.loads(wanted)


def test_users_may_do_what_their_policies_say(service, kms, key):
    app, nobody = service.client("app"), service.client("nobody")
    blob = app.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "1"})["CiphertextBlob"]
    assert app.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})["Plaintext"] == b"x"
    for call in (
        lambda: app.disable_key(KeyId=key),
        lambda: app.put_key_policy(KeyId=key, Policy=policy()),
        lambda: app.schedule_key_deletion(KeyId=key),
        lambda: app.create_key(),
        lambda: app.list_keys(),
        lambda: nobody.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"}),
        lambda: nobody.describe_key(KeyId=key),
    ):
        with refused("AccessDeniedException"):
            call()
    # A key policy alone is enough inside the account, and its conditions hold.
    statement = {"Sid": "OneTenant", "Effect": "Allow", "Principal": {"AWS": user("nobody")}, "Action": "kms:Decrypt"}
    statement["Condition"] = {"StringEquals": {"kms:EncryptionContext:tenant": "1"}}
    kms.put_key_policy(KeyId=key, Policy=policy(statement))
    assert nobody.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})["Plaintext"] == b"x"
    other = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "2"})["CiphertextBlob"]
    with refused("AccessDeniedException"):
        nobody.decrypt(CiphertextBlob=other, EncryptionContext={"tenant": "2"})
    # A deny wins over everything.
    denied = {"Sid": "Never", "Effect": "Deny", "Principal": {"AWS": user("app")}, "Action": "kms:Decrypt"}
    kms.put_key_policy(KeyId=key, Policy=policy(denied))
    with refused("AccessDeniedException"):
        app.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})


def test_another_account_needs_both_policies(service, kms, key):
    partner = service.client("partner")
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    with refused("AccessDeniedException"):
        partner.decrypt(CiphertextBlob=blob)
    theirs = {"Sid": "Partner", "Effect": "Allow", "Principal": {"AWS": root_of(OTHER_ACCOUNT)}, "Action": "kms:*"}
    kms.put_key_policy(KeyId=key, Policy=policy(theirs))
    assert partner.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert partner.describe_key(KeyId=arn)["KeyMetadata"]["Arn"] == arn
    # Not an operation that AWS lets anyone do on another account's key.
    with refused("AccessDeniedException"):
        partner.tag_resource(KeyId=arn, Tags=[{"TagKey": "a", "TagValue": "b"}])


@pytest.mark.parametrize(
    "name, code",
    [
        ("12345678-1234-1234-1234-123456789012", "NotFoundException"),
        ("alias/nothing-here", "NotFoundException"),
        (f"arn:aws:kms:{REGION}:{ACCOUNT}:key/12345678-1234-1234-1234-123456789012", "NotFoundException"),
        ("x" * 2049, "ValidationException"),
    ],
)
def test_keys_that_are_not_there(kms, name, code):
    with refused(code):
        kms.describe_key(KeyId=name)


def test_operations_that_are_not_built_say_so(kms):
    with refused("UnsupportedOperationException"):
        kms.create_custom_key_store(CustomKeyStoreName="x", CustomKeyStoreType="EXTERNAL_KEY_STORE")


def test_signatures_for_elsewhere_or_by_nobody_are_refused(service):
    with refused("InvalidSignatureException"):
        service.client(region="eu-west-1").list_keys()
    def stranger(key_id):
        secret = "a wrong secret, forty characters long..."
        names = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
        return boto3.client("kms", region_name=REGION, endpoint_url=service.endpoint, **names)

    with refused("UnrecognizedClientException"):
        stranger("AKIANOSUCHKEY000").list_keys()
    with refused("InvalidSignatureException"):
        stranger(access_key_id("app")).list_keys()


def test_each_answer_carries_a_receipt_that_sql_finds(service, kms, key):
    answers = [kms.describe_key(KeyId=key)["ResponseMetadata"] for _ in range(3)]
    headers = [answer["HTTPHeaders"] for answer in answers]
    seqs = [int(header["x-keytrail-seq"]) for header in headers]
    assert seqs == sorted(set(seqs))
    assert all(re.fullmatch("[0-9a-f]{64}", header["x-keytrail-leaf"]) for header in headers)
    request_id = answers[-1]["RequestId"]
    query = f"SELECT seq, log, event_name, principal_arn, user_agent FROM events WHERE request_id = '{request_id}'"
    (row,) = wait_for("the call in the lake", lambda: service.sql(query))
    assert (row["seq"], row["log"]) == (seqs[-1], headers[-1]["x-keytrail-log"])
    assert (row["event_name"], row["principal_arn"]) == ("DescribeKey", user("administrator"))
    assert "Boto3" in row["user_agent"]


def test_a_refusal_is_an_event_too(service, key):
    with refused("AccessDeniedException") as caught:
        service.client("nobody").disable_key(KeyId=key)
    request_id = caught.value.response["ResponseMetadata"]["RequestId"]
    query = f"SELECT error_code, principal_arn, key_id FROM events WHERE request_id = '{request_id}'"
    (row,) = wait_for("the refusal in the lake", lambda: service.sql(query))
    assert (row["error_code"], row["principal_arn"], row["key_id"]) == ("AccessDenied", user("nobody"), key)


def test_many_threads_share_a_client(service, kms, key):
    client = service.client("app", max_pool_connections=8)
    context = {"run": key}
    blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
    seqs, failures = [], []

    def work():
        try:
            for _ in range(25):
                answer = client.decrypt(CiphertextBlob=blob, EncryptionContext=context)
                seqs.append(int(answer["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-seq"]))
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(set(seqs)) == 200
    count = f"SELECT count(*) AS n FROM events WHERE event_name = 'Decrypt' AND key_id = '{key}'"
    wait_for("all calls in the lake", lambda: service.sql(count)[0]["n"] == 200)


def test_events_are_looked_up_as_in_cloudtrail(service, kms, key):
    cloudtrail = service.client(service="cloudtrail")
    arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
    for _ in range(4):
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    by_key = {"LookupAttributes": [{"AttributeKey": "ResourceName", "AttributeValue": arn}]}
    whole = cloudtrail.lookup_events(**by_key)["Events"]
    assert [event["EventName"] for event in whole] == ["GenerateDataKey"] * 4 + ["DescribeKey", "CreateKey"]
    pages = list(cloudtrail.get_paginator("lookup_events").paginate(**by_key, PaginationConfig={"PageSize": 2}))
    assert [event for page in pages for event in page["Events"]] == whole and len(pages) >= 3
    newest, told = whole[0], json.loads(whole[0]["CloudTrailEvent"])
    assert newest["EventTime"].timestamp() == pytest.approx(told["additionalEventData"]["judgedAtMicros"] / 1e6, abs=1)
    assert newest["Resources"] == [{"ResourceType": "AWS::KMS::Key", "ResourceName": arn}]
    seq = cloudtrail.lookup_events(MaxResults=1)["ResponseMetadata"]["HTTPHeaders"]["x-keytrail-seq"]
    logged = wait_for("the lookup", lambda: service.sql(f"SELECT event_source, event_name FROM events WHERE seq = {seq}"))
    assert logged == [{"event_source": "cloudtrail.amazonaws.com", "event_name": "LookupEvents"}]

    end, start = newest["EventTime"], newest["EventTime"].replace(year=2000)
    with refused("InvalidTimeRangeException"):
        cloudtrail.lookup_events(StartTime=end, EndTime=start)
    with refused("InvalidNextTokenException"):
        cloudtrail.lookup_events(NextToken="no-token")
    with refused("InvalidLookupAttributesException"):
        cloudtrail.lookup_events(LookupAttributes=[{"AttributeKey": "Colour", "AttributeValue": "red"}])
    with refused("AccessDeniedException"):
        service.client("nobody", "cloudtrail").lookup_events()
    partner = service.client("partner", "cloudtrail")
    with refused("AccessDeniedException"):
        partner.lookup_events(**by_key)
