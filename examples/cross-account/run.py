"""A report that one account seals and another opens.

    run.py seal KEY_ARN REPORT     the text comes on standard input, the sealed report goes out
    run.py open KEY_ARN REPORT     the way back, in the other account

Aliases do not reach across accounts, so the key has to be named by its ARN.
"""

import base64
import sys

import boto3
from botocore.exceptions import ClientError


def seal(key, report, text):
    answer = boto3.client("kms").encrypt(KeyId=key, Plaintext=text.encode(), EncryptionContext={"report": report})
    return base64.b64encode(answer["CiphertextBlob"]).decode()


def unseal(key, report, sealed):
    sealed = base64.b64decode(sealed)
    answer = boto3.client("kms").decrypt(KeyId=key, CiphertextBlob=sealed, EncryptionContext={"report": report})
    return answer["Plaintext"].decode()


if __name__ == "__main__":
    verb, key, report = sys.argv[1:]
    try:
        print((seal if verb == "seal" else unseal)(key, report, sys.stdin.readline().strip()))
    except ClientError as error:
        sys.exit(str(error))
