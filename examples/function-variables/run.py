"""Variables of a function, sealed by who deploys it and opened by the function itself, with its role.

    run.py seal FUNCTION    the value comes on standard input, what to put into the function's variables goes out
    run.py call             the function: AWS_LAMBDA_FUNCTION_NAME and DB_PASSWORD are its variables

The context is the one that AWS Lambda's console and its sample code use.
"""

import base64
import os
import sys

import boto3
from botocore.exceptions import ClientError

KEY = "alias/function-variables"


def context(function):
    return {"LambdaFunctionName": function}


def seal(function, value):
    answer = boto3.client("kms").encrypt(KeyId=KEY, Plaintext=value.encode(), EncryptionContext=context(function))
    return base64.b64encode(answer["CiphertextBlob"]).decode()


def variable(name):
    sealed, function = base64.b64decode(os.environ[name]), os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    answer = boto3.client("kms").decrypt(KeyId=KEY, CiphertextBlob=sealed, EncryptionContext=context(function))
    return answer["Plaintext"].decode()


def function():
    password = variable("DB_PASSWORD")
    return f"connected with a password of {len(password)} characters"


if __name__ == "__main__":
    try:
        print(seal(sys.argv[2], sys.stdin.readline().strip()) if sys.argv[1] == "seal" else function())
    except ClientError as error:
        sys.exit(str(error))
