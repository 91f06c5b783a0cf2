"""The root key: replaced while boto3 is at work, and sealed by a key inside a token (SoftHSM in a folder of its own)."""

import json
import os
import pathlib
import threading

import botocore.exceptions
import pytest

from service import KEYTRAIL, Service, run

MODULE = pathlib.Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "12345678"


def private(path, text):
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


def tokens(folder, *labels):
    """A SoftHSM of its own; gives the environment that names it."""
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\n", encoding="utf-8")
    environment = {**os.environ, "SOFTHSM2_CONF": str(conf)}
    for label in labels:
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "0000", "--pin", PIN]
        run(*command, env=environment)
    return str(conf)


@pytest.fixture
def token(tmp_path, monkeypatch):
    """The flags of `init` for a token; this process and its children see that one only."""
    if not MODULE.exists():
        assert os.environ.get("CI") != "true", "CI must run the tests of tokens: scripts/setup hsm"
        pytest.skip("TESTS OF TOKENS DID NOT RUN: SoftHSM is missing")
    monkeypatch.setenv("SOFTHSM2_CONF", tokens(tmp_path / "hsm", "vault"))
    pin_file = private(tmp_path / "pin", f"{PIN}\n")
    return ["--pkcs11-module", MODULE, "--pkcs11-token", "vault", "--pkcs11-key", "root key", "--pin-file", pin_file]


def rootkey(service, command, *flags, check=True):
    return run(KEYTRAIL, "rootkey", command, "--data", service.folder, *flags, check=check)


def parameters(service, name):
    """What the events of this name say, in order."""
    rows = service.sql(f"SELECT raw FROM events WHERE event_name = '{name}' ORDER BY seq")
    return [json.loads(bytes.fromhex(row["raw"]))["requestParameters"] for row in rows]


def sealed(service):
    kms = service.client()
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    return kms.encrypt(KeyId=key, Plaintext=b"hello")["CiphertextBlob"]


def opens(service, blob):
    return service.client().decrypt(CiphertextBlob=blob)["Plaintext"] == b"hello"


def test_calls_go_on_while_the_root_key_changes(own_service):
    service = own_service.start()
    blob, bare = sealed(service), (service.folder / "root.key").read_bytes()
    stop, failed, done = threading.Event(), [], []

    def work():
        kms = service.client()
        while not stop.is_set():
            try:
                kms.decrypt(CiphertextBlob=blob)
                kms.create_key()
                done.append(1)
            except botocore.exceptions.ClientError as error:
                failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(3):
        out = rootkey(service, "rotate").stdout
        assert "is in force" in out, out
    stop.set()
    worker.join()
    assert not failed and done
    assert (service.folder / "root.key").read_bytes() != bare
    assert not (service.folder / "root.key.next").exists()
    service.stop()
    rootkey(service, "rotate", "--end-tokens")
    service.start()
    assert opens(service, blob)
    changes = parameters(service, "RotateRootKey")
    assert [change["formerTokens"] for change in changes] == ["honoured", "honoured", "honoured", "ended"]
    assert changes[0]["rootKeyId"] == changes[1]["formerRootKeyId"] != changes[1]["rootKeyId"]
    service.stop()
    assert "VERIFIED" in service.verify().stdout


def test_a_root_key_under_a_token(tmp_path, token, monkeypatch):
    folder = tmp_path / "data"
    missing = run(KEYTRAIL, "init", "--data", folder, "--account", "123456789012", "--seal", "pkcs11", *token, check=False)
    assert missing.returncode != 0 and "0 AES keys are labelled" in missing.stderr, missing.stderr
    service = Service(tmp_path / "kms").init("--seal", "pkcs11", "--create-token-key", *token)
    assert 'key "root key" of token "vault"' in rootkey(service, "status").stdout
    with service:
        blob = sealed(service)
        rootkey(service, "rotate")
        assert opens(service, blob)
        told = run(KEYTRAIL, "backup", "--data", service.folder, "--out", tmp_path / "set").stdout
        assert 'opens with key "root key" of token "vault" only' in told, told
        assert (tmp_path / "set/root.key").exists()
    with service:
        assert opens(service, blob)

    def refused():
        done = run(KEYTRAIL, "kms", "--data", service.folder, "--listen", "127.0.0.1:0", check=False)
        assert done.returncode != 0
        return done.stderr

    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SOFTHSM2_CONF", tokens(tmp_path / "empty"))
        assert "0 tokens are labelled" in refused()
        elsewhere.setenv("SOFTHSM2_CONF", tokens(tmp_path / "other", "vault"))
        assert "0 AES keys are labelled" in refused()
    pin_file = pathlib.Path(token[-1])
    pin_file.write_text("87654321\n", encoding="utf-8")
    told = refused()
    assert "PIN of token" in told and "87654321" not in told, told
    assert "was refused by its token before" in refused(), "a restart must not lock the token"
    pin_file.write_text(f"{PIN}\n", encoding="utf-8")
    pin_file.chmod(0o644)
    assert "must not be open to others" in refused()
    pin_file.chmod(0o600)

    # From the token to a passphrase, to a bare file, and back, while the service runs.
    words = private(tmp_path / "words", "correct horse battery\n")
    with service:
        rootkey(service, "reseal", "--seal", "passphrase", "--new-passphrase-file", words)
        rootkey(service, "reseal", "--seal", "file", "--passphrase-file", words)
        rootkey(service, "reseal", "--seal", "pkcs11")
        assert opens(service, blob)
    with service:
        assert opens(service, blob)
        told = parameters(service, "ResealRootKey")[-1]["sealedBy"]
        assert told == {"method": "pkcs11", "token": "vault", "key": "root key"}
    assert "VERIFIED" in service.verify().stdout
