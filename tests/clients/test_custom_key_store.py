"""Custom key stores as boto3 and botocore's model have them, in a SoftHSM token."""

import os
import pathlib
import subprocess

import pytest

from service import Service, wait_for

MODULE = pathlib.Path("/usr/lib/softhsm/libsofthsm2.so")
CLUSTER = "cluster-abcdefghijk"
PIN = "tulip-4711"
pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and not MODULE.exists(), reason="SoftHSM is missing (scripts/setup hsm)"
)


@pytest.fixture
def service(tmp_path, monkeypatch):
    (tmp_path / "tokens").mkdir()
    conf = tmp_path / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n", encoding="utf-8")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    init = ["softhsm2-util", "--init-token", "--free", "--label", "one", "--so-pin", "0000", "--pin", PIN]
    subprocess.run(init, check=True, capture_output=True)
    service = Service(tmp_path / "data").init()
    with open(service.folder / "keytrail.toml", "a", encoding="utf-8") as file:
        file.write(f'\n[hsm."{CLUSTER}"]\nmodule = "{MODULE}"\ntoken = "one"\n')
    service.start()
    yield service
    service.stop()


def state(kms, store):
    return kms.describe_custom_key_stores(CustomKeyStoreId=store)["CustomKeyStores"][0]["ConnectionState"]


def test_a_store_and_its_key(service):
    kms = service.client()
    wanted = {"CustomKeyStoreName": "hsm", "CloudHsmClusterId": CLUSTER, "TrustAnchorCertificate": "any"}
    with pytest.raises(kms.exceptions.CloudHsmClusterNotFoundException):
        kms.create_custom_key_store(**wanted | {"CloudHsmClusterId": "cluster-strangerrrr"}, KeyStorePassword=PIN)
    store = kms.create_custom_key_store(**wanted, KeyStorePassword=PIN)["CustomKeyStoreId"]
    with pytest.raises(kms.exceptions.CustomKeyStoreNameInUseException):
        kms.create_custom_key_store(**wanted, KeyStorePassword=PIN)
    with pytest.raises(kms.exceptions.CustomKeyStoreInvalidStateException):
        kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store)
    kms.connect_custom_key_store(CustomKeyStoreId=store)
    wait_for("the connection", lambda: state(kms, store) == "CONNECTED")

    key = kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store)["KeyMetadata"]
    assert (key["CustomKeyStoreId"], key["CloudHsmClusterId"]) == (store, CLUSTER)
    blob = kms.encrypt(KeyId=key["Arn"], Plaintext=b"canary", EncryptionContext={"app": "a"})["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"app": "a"})["Plaintext"] == b"canary"
    with pytest.raises(kms.exceptions.InvalidCiphertextException):
        kms.decrypt(CiphertextBlob=blob)
    data_key = kms.generate_data_key(KeyId=key["Arn"], KeySpec="AES_256")
    assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]

    # A restart connects by itself.
    service.stop()
    service.start()
    kms = service.client()
    wait_for("the connection after a restart", lambda: state(kms, store) == "CONNECTED")
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"app": "a"})["Plaintext"] == b"canary"

    kms.disconnect_custom_key_store(CustomKeyStoreId=store)
    assert kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "Unavailable"
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.encrypt(KeyId=key["Arn"], Plaintext=b"canary")
    with pytest.raises(kms.exceptions.CustomKeyStoreHasCMKsException):
        kms.delete_custom_key_store(CustomKeyStoreId=store)
