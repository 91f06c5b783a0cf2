"""What a user of the service in this folder runs: PUT and GET, with a proof of who asks."""

import base64
import json
import os
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest


def proof(host):
    """A GetCallerIdentity request, signed and not sent: the service sends it, and so learns who signed it."""
    session = boto3.Session()
    query = "Action=GetCallerIdentity&Version=2011-06-15"
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "x-store": host}
    request = AWSRequest("POST", os.environ["AWS_ENDPOINT_URL"] + "/", headers, query)
    SigV4Auth(session.get_credentials(), "sts", session.region_name).add_auth(request)
    return base64.b64encode(json.dumps(dict(request.headers)).encode()).decode()


def ask(method, name, data=None):
    """What the service answers; its refusal ends the program."""
    request = urllib.request.Request(f"{os.environ['STORE_URL']}/{name}", data, method=method)
    request.add_header("x-proof", proof(request.host))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {name}: {error.read().decode()}") from error
