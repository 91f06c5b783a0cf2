"""S3 and DynamoDB for the clients that encrypt what they store there, played by moto in a process of its own.

In this process moto would reach into botocore, which is one of the clients under test.
"""

import re
import subprocess
import sys

import boto3

from service import PATIENCE_SECS, REGION, wait_for

KEYS = {"aws_access_key_id": "moto", "aws_secret_access_key": "moto"}


class Moto:
    def __init__(self, folder):
        self.log = folder / "moto.log"
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", "0"]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def __enter__(self):
        self.endpoint = wait_for("moto", self.address)
        return self

    def address(self):
        log = self.log.read_text()
        assert self.process.poll() is None, log
        found = re.search(r"Running on (http://\S+)", log)
        return found and found[1]

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE_SECS)


def store(endpoint, service, make=boto3.client):
    """A boto3 client, or a resource, of what moto plays."""
    return make(service, endpoint_url=endpoint, region_name=REGION, **KEYS)
