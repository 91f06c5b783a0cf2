"""Messages sealed under data keys that are kept for some uses: fewer calls, and a time in which disabling is not felt.

    run.py seal     a message a line on standard input, a sealed message a line out
    run.py open     the way back; answers each line before it reads the next
"""

import base64
import json
import os
import sys
import time

import boto3
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = "alias/data-key-cache"
CONTEXT = {"stream": "orders"}
# What disabling the key cannot recall: a key that was given out works for so long in the process that has it.
USES_MAX = 3
AGE_SECS_MAX = 300


class Cached:
    """A data key and what is left of it."""

    def __init__(self, sealed, key):
        self.sealed, self.aead, self.uses_left, self.until = sealed, AESGCM(key), USES_MAX, time.monotonic() + AGE_SECS_MAX

    def use(self):
        self.uses_left -= 1
        return self.aead

    def spent(self):
        return self.uses_left == 0 or time.monotonic() > self.until


def seal(lines):
    kms, cached = boto3.client("kms"), None
    for line in lines:
        if cached is None or cached.spent():
            made = kms.generate_data_key(KeyId=KEY, KeySpec="AES_256", EncryptionContext=CONTEXT)
            cached = Cached(made["CiphertextBlob"], made["Plaintext"])
        nonce = os.urandom(12)
        sealed = cached.use().encrypt(nonce, line.rstrip("\n").encode(), None)
        yield json.dumps([base64.b64encode(part).decode() for part in (cached.sealed, nonce, sealed)])


def unseal(lines):
    kms, cached = boto3.client("kms"), None
    for line in lines:
        blob, nonce, sealed = (base64.b64decode(part) for part in json.loads(line))
        if cached is None or cached.sealed != blob or cached.spent():
            key = kms.decrypt(KeyId=KEY, CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"]
            cached = Cached(blob, key)
        yield cached.use().decrypt(nonce, sealed, None).decode()


if __name__ == "__main__":
    try:
        for out in (seal if sys.argv[1] == "seal" else unseal)(sys.stdin):
            print(out, flush=True)
    except ClientError as error:
        sys.exit(str(error))
