"""CloudTrail files in a bucket become a log: every kind of identity, odd records, and names that need care."""

import gzip
import json
import os

import pytest

from moto_server import store
from service import KEYTRAIL, Service, run

TYPES = [
    "Root",
    "IAMUser",
    "AssumedRole",
    "Role",
    "FederatedUser",
    "Directory",
    "AWSAccount",
    "AWSService",
    "SAMLUser",
    "WebIdentityUser",
    "IdentityCenterUser",
    "Unknown",
    None,
]
PREFIX = "logs of 2024/AWSLogs/111122223333"


def record(kind, number):
    identity = {"accountId": "111122223333", "invokedBy": "AWS Internal"} if kind is None else {"type": kind}
    if kind == "AssumedRole":
        identity["sessionContext"] = {"sessionIssuer": {"type": "Role"}, "attributes": {"mfaAuthenticated": "true"}}
    return {
        "eventVersion": "1.05",
        "userIdentity": identity,
        "eventTime": f"2024-05-01T00:00:{number:02}Z",
        "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt" if number % 2 else "Encrypt",
        "eventID": f"event-{number}",
        "resources": [{"ARN": f"arn:aws:kms:eu-central-1:111122223333:key/{number % 3}", "type": "AWS::KMS::Key"}],
        "eventType": "AwsApiCall",
    }


def folded(records):
    return gzip.compress(json.dumps({"Records": records}).encode())


@pytest.fixture
def bucket(moto):
    s3 = store(moto, "s3")
    s3.create_bucket(Bucket="trail")
    records = [record(kind, number) for number, kind in enumerate(TYPES)]

    def put(key, body):
        s3.put_object(Bucket="trail", Key=f"{PREFIX}/{key}", Body=body)

    # In no order, one twice, and names as S3 allows them.
    put("CloudTrail/eu-central-1/a+b=c (1)/ü&.json.gz", folded(records[7:]))
    put("CloudTrail/eu-central-1/plain.json", gzip.decompress(folded(records[:8])))
    put("CloudTrail/eu-central-1/odd.json.gz", folded([17, {"eventName": 5}]))
    put("CloudTrail/eu-central-1/members.json.gz", folded(records[:1]) + folded(records[1:2]))
    put("CloudTrail-Digest/eu-central-1/d.json.gz", gzip.compress(b"{}"))
    s3.put_object(Bucket="trail", Key="elsewhere/x.json.gz", Body=folded([record("Root", 59)]))
    for number in range(1_100):
        # More than one answer of a list holds.
        body = json.dumps({"Records": [record("Role", number % 60) | {"eventID": f"m-{number}"}]})
        s3.put_object(Bucket="trail", Key=f"many/{number}.json", Body=body)
    yield s3
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="trail"):
        s3.delete_objects(Bucket="trail", Delete={"Objects": [{"Key": item["Key"]} for item in page["Contents"]]})
    s3.delete_bucket(Bucket="trail")


def test_a_bucket_is_imported(bucket, moto, tmp_path):
    # Rows need no key service: an auditor's folder holds imports only.
    service = Service(tmp_path / "data")
    service.folder.mkdir()
    environment = dict(
        os.environ, AWS_ENDPOINT_URL=moto, AWS_ACCESS_KEY_ID="moto", AWS_SECRET_ACCESS_KEY="moto-needs-no-secret-key", AWS_REGION="us-east-1"
    )

    def imported(address, *flags):
        done = run(KEYTRAIL, "import", "cloudtrail", address, "--data", service.folder, *flags, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    code, said = imported(f"s3://trail/{PREFIX}/")
    assert code == 0 and "landed      15 records" in said and "files       4 read, 0 known, 1 passed over" in said, said
    assert "duplicates  3, and 0" in said and "odd         2 with parse_error" in said, said
    rows = service.sql("SELECT principal_type, mfa, event_name, key_id FROM events WHERE parse_error IS NULL ORDER BY seq")
    assert [row.get("principal_type") for row in rows] == TYPES
    assert [row["principal_type"] for row in rows if row.get("mfa")] == ["AssumedRole"]
    by_name = service.sql("SELECT event_name, count(*) AS n FROM events WHERE event_name IS NOT NULL GROUP BY 1 ORDER BY 1")
    assert [(row["event_name"], row["n"]) for row in by_name] == [("Decrypt", 6), ("Encrypt", 7)]
    assert service.sql("SELECT count(*) AS n FROM events WHERE key_id = '1'")[0]["n"] == 4
    code, said = imported(f"s3://trail/{PREFIX}/")
    assert code == 0 and "nothing new" in said and "4 known" in said, said

    code, said = imported("s3://trail/many/", "--name", "many")
    assert code == 0 and "landed      1100 records" in said, said
    assert service.sql("SELECT count(DISTINCT log) AS n FROM events")[0]["n"] == 2

    done = service.verify()
    assert done.returncode == 0 and done.stdout.count(": VERIFIED") == 2, done.stdout + done.stderr

    code, said = imported("s3://nowhere/")
    assert code != 0 and "NoSuchBucket" in said, said
    assert "moto-needs-no-secret-key" not in said
