"""Amazon's S3 Encryption Client: objects that S3 cannot read, under keys that are here."""

import json

import pytest
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.exceptions import S3EncryptionClientError
from s3_encryption.materials.kms_keyring import KmsKeyring

from moto_server import store

CONTEXT = {"tenant": "7"}


def test_objects_are_sealed_with_a_key_of_ours(tls_workplace, moto):
    key = tls_workplace.key()
    plain = store(moto, "s3")
    plain.create_bucket(Bucket="letters")

    def client(role):
        keyring = KmsKeyring(tls_workplace.kms(role), key)
        return S3EncryptionClient(store(moto, "s3"), S3EncryptionClientConfig(keyring))

    ours = client("worker")
    ours.put_object(Bucket="letters", Key="one", Body=b"dear all", EncryptionContext=CONTEXT)
    assert b"dear all" not in plain.get_object(Bucket="letters", Key="one")["Body"].read()
    opened = ours.get_object(Bucket="letters", Key="one", EncryptionContext=CONTEXT)
    assert opened["Body"].read() == b"dear all"
    with pytest.raises(S3EncryptionClientError):
        ours.get_object(Bucket="letters", Key="one", EncryptionContext={"tenant": "8"})["Body"].read()
    with pytest.raises(S3EncryptionClientError, match="AccessDenied"):
        client("visitor").get_object(Bucket="letters", Key="one", EncryptionContext=CONTEXT)["Body"].read()
    with pytest.raises(S3EncryptionClientError, match="AccessDenied"):
        client("visitor").put_object(Bucket="letters", Key="two", Body=b"x", EncryptionContext=CONTEXT)

    # Someone who can write to the bucket changes the context that the object names: KMS refuses.
    there = plain.get_object(Bucket="letters", Key="one")
    changed = {name: value.replace('"7"', '"8"') for name, value in there["Metadata"].items()}
    assert changed != there["Metadata"]
    plain.put_object(Bucket="letters", Key="one", Body=there["Body"].read(), Metadata=changed)
    with pytest.raises(S3EncryptionClientError, match="InvalidCiphertext"):
        ours.get_object(Bucket="letters", Key="one", EncryptionContext={"tenant": "8"})["Body"].read()

    rows = tls_workplace.events(key, "event_name, error_code, enc_context")
    told = [(row["event_name"], row.get("error_code")) for row in rows[1:]]
    assert told == [
        ("GenerateDataKey", None),
        ("Decrypt", None),
        ("Decrypt", "AccessDenied"),
        ("GenerateDataKey", "AccessDenied"),
        ("Decrypt", "InvalidCiphertextException"),
    ]
    assert json.loads(rows[1]["enc_context"]) == CONTEXT | {"aws:x-amz-cek-alg": "115"}
