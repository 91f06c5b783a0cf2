"""Seals and opens one value; who may do so is told in three ways beside each other.

    run.py seal PURPOSE     the value comes on standard input, the sealed value goes out
    run.py open PURPOSE     the way back
"""

import base64
import sys

import boto3
from botocore.exceptions import ClientError

KEY = "alias/three-ways"


def seal(purpose, value):
    answer = boto3.client("kms").encrypt(KeyId=KEY, Plaintext=value.encode(), EncryptionContext={"purpose": purpose})
    return base64.b64encode(answer["CiphertextBlob"]).decode()


def unseal(purpose, sealed):
    sealed = base64.b64decode(sealed)
    answer = boto3.client("kms").decrypt(KeyId=KEY, CiphertextBlob=sealed, EncryptionContext={"purpose": purpose})
    return answer["Plaintext"].decode()


if __name__ == "__main__":
    try:
        print((seal if sys.argv[1] == "seal" else unseal)(sys.argv[2], sys.stdin.readline().strip()))
    except ClientError as error:
        sys.exit(str(error))
