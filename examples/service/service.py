"""Stands for a cloud service that stores what users send and encrypts it with their keys: S3, or the parameter store.

Real: every object has a data key of its own, made and opened by the key service for the user who asks, who is known by
a request that only this user can sign. Not real: the service's own API, and all that S3 does beside this.

    python service.py s3 FOLDER alias/KEY

The context names the resource and comes from the object's name, never from its file: an object that is moved below
another name does not open. Someone who can write to FOLDER can destroy objects, not read, alter or swap them.
"""

import base64
import hashlib
import json
import os
import pathlib
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# The resource's ARN, and the context that the real service gives the key service.
SERVICES = {
    "s3": ("arn:aws:s3:::{name}", "aws:s3:arn"),
    "ssm": ("arn:aws:ssm:us-east-1:123456789012:parameter/{name}", "PARAMETER_ARN"),
}
OBJECT_BYTES_MAX = 16 << 20
# What of the user's request is sent on; nothing else of it reaches the key service.
PROOF_HEADERS = ("Authorization", "Content-Type", "X-Amz-Date", "X-Amz-Security-Token", "x-store")


def caller(proof, here):
    """Whose request this is: the signed GetCallerIdentity that came along is sent on, and the answer says who signed it."""
    given = json.loads(base64.b64decode(proof))
    # Signed for this service only, so that no other one can send it on and be taken for the user.
    if given["x-store"] != here or ";x-store" not in given["Authorization"]:
        raise ValueError("the proof is for another service")
    headers = {name: given[name] for name in PROOF_HEADERS if name in given}
    query = b"Action=GetCallerIdentity&Version=2011-06-15"
    request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"] + "/", query, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read(65536).decode()
    return text.split("<Arn>")[1].split("</Arn>")[0]


def kms_for(user, arn):
    """The key service as this service calls it for a user; both headers are under the signature."""

    def name_the_user(request, **_):
        request.headers["x-keytrail-on-behalf-of"] = user
        request.headers["x-keytrail-source-arn"] = arn

    client = boto3.client("kms")
    client.meta.events.register("before-sign.kms.*", name_the_user)
    return client


class Store(BaseHTTPRequestHandler):
    """PUT and GET of objects."""

    def do_PUT(self):
        self.answer(self.put)

    def do_GET(self):
        self.answer(self.get)

    def answer(self, work):
        try:
            # Our own address, never the Host header: whoever sends a proof on could set that.
            user = caller(self.headers["x-proof"], f"127.0.0.1:{self.server.server_port}")
        except (OSError, KeyError, ValueError, IndexError, TypeError):
            return self.reply(401, b"NotAuthenticated")
        template, self.context_name = SERVICES[self.server.service]
        name = self.path.strip("/")
        self.arn = template.format(name=name)
        self.kms = kms_for(user, self.arn)
        # A digest, so that no name leads out of the folder.
        self.file = self.server.folder / hashlib.sha256(name.encode()).hexdigest()
        try:
            return self.reply(200, work())
        except ClientError as error:
            return self.reply(403, error.response["Error"]["Code"].encode())
        except FileNotFoundError:
            return self.reply(404, b"NotFound")
        except InvalidTag:
            return self.reply(500, b"Damaged")
        except (TypeError, ValueError):
            return self.reply(400, b"BadRequest")

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def put(self):
        length = int(self.headers["content-length"])
        if not 0 <= length <= OBJECT_BYTES_MAX:
            raise ValueError("too long")
        data = self.rfile.read(length)
        key = self.kms.generate_data_key(KeyId=self.server.key, KeySpec="AES_256", EncryptionContext=self.context())
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(key["Plaintext"]).encrypt(nonce, data, self.arn.encode())
        stored = {"key": key["CiphertextBlob"], "data": sealed}
        self.file.write_text(json.dumps({part: base64.b64encode(value).decode() for part, value in stored.items()}))
        return b""

    def get(self):
        stored = {part: base64.b64decode(value) for part, value in json.loads(self.file.read_text()).items()}
        key = self.kms.decrypt(CiphertextBlob=stored["key"], EncryptionContext=self.context())["Plaintext"]
        return AESGCM(key).decrypt(stored["data"][:12], stored["data"][12:], self.arn.encode())

    def context(self):
        return {self.context_name: self.arn}

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.service, server.folder, server.key = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
