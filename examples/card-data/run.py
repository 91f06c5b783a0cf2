"""Card numbers in a file of records, each sealed under a context that names its place and its customer.

    run.py put CUSTOMER     the number comes on standard input
    run.py get CUSTOMER

A number has fewer than 4,096 bytes, so the key service seals it itself and no data key ever reaches this machine.
"""

import base64
import json
import pathlib
import sys

import boto3
from botocore.exceptions import ClientError

KEY = "alias/card-data"
RECORDS = pathlib.Path("cards.json")


def context(customer):
    """Made from where the field is, never read from the record: a number moved to another customer does not open."""
    return {"table": "cards", "column": "number", "customer": customer}


def put(customer, number):
    answer = boto3.client("kms").encrypt(KeyId=KEY, Plaintext=number.encode(), EncryptionContext=context(customer))
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    records[customer] = {"last4": number[-4:], "number": base64.b64encode(answer["CiphertextBlob"]).decode()}
    RECORDS.write_text(json.dumps(records, indent=1))


def get(customer):
    sealed = base64.b64decode(json.loads(RECORDS.read_text())[customer]["number"])
    # The key is named: a ciphertext under someone else's key is refused rather than opened.
    answer = boto3.client("kms").decrypt(KeyId=KEY, CiphertextBlob=sealed, EncryptionContext=context(customer))
    return answer["Plaintext"].decode()


if __name__ == "__main__":
    try:
        if sys.argv[1] == "put":
            put(sys.argv[2], sys.stdin.readline().strip())
        else:
            print(get(sys.argv[2]))
    except ClientError as error:
        sys.exit(str(error))
