"""A LUKS volume in a file, or on a disk, whose only passphrase is a data key.

    run.py format IMAGE SERVER    IMAGE exists and has its size; makes IMAGE.key, the sealed data key
    run.py check IMAGE            whether the volume opens here

`cryptsetup open --key-file=- IMAGE NAME` instead of --test-passphrase attaches it; that needs root. The data key goes
from the key service to cryptsetup through a pipe and is on no disk.
"""

import base64
import json
import pathlib
import subprocess
import sys
import uuid

import boto3
from botocore.exceptions import ClientError

KEY = "alias/disk-volume"


def cryptsetup(key, *arguments):
    return subprocess.run(["cryptsetup", *arguments, "--key-file=-"], input=key, check=False).returncode


def volume_of(image):
    """The volume's own id, read from its header: a sealed key of another volume does not open."""
    return subprocess.check_output(["cryptsetup", "luksUUID", image], text=True).strip()


def make(image, server):
    kms, volume = boto3.client("kms"), str(uuid.uuid4())
    context = {"server": server, "volume": volume}
    sealed = kms.generate_data_key_without_plaintext(KeyId=KEY, NumberOfBytes=64, EncryptionContext=context)["CiphertextBlob"]
    key = kms.decrypt(KeyId=KEY, CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"]
    # The key is random: stretching it, as for a passphrase, would only cost time.
    cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    code = cryptsetup(key, "luksFormat", "--type", "luks2", "--batch-mode", "--uuid", volume, *cheap, image)
    pathlib.Path(f"{image}.key").write_text(json.dumps({"server": server, "key": base64.b64encode(sealed).decode()}))
    return code


def check(image):
    stored = json.loads(pathlib.Path(f"{image}.key").read_text())
    context = {"server": stored["server"], "volume": volume_of(image)}
    answer = boto3.client("kms").decrypt(KeyId=KEY, CiphertextBlob=base64.b64decode(stored["key"]), EncryptionContext=context)
    code = cryptsetup(answer["Plaintext"], "open", "--test-passphrase", image)
    print("the volume opens" if code == 0 else "the volume does not open")
    return code


if __name__ == "__main__":
    try:
        sys.exit(make(*sys.argv[2:]) if sys.argv[1] == "format" else check(sys.argv[2]))
    except ClientError as error:
        sys.exit(str(error))
