"""Keeps the receipts of a boto3 client: what Keytrail says, with each answer, about where it recorded the call.

    receipts = Receipts("receipts.jsonl")
    receipts.collect(boto3.client("kms"))

`keytrail receipts check receipts.jsonl --url ... --vkey ...` later names every call that the log does not have.
"""

import email.utils
import json


class Receipts:
    def __init__(self, path):
        # Lines of several processes do not mix: each is one write to the end of the file.
        self.file = open(path, "ab", buffering=0)

    def collect(self, client):
        client.meta.events.register("after-call", self.keep)

    def keep(self, http_response, **_):
        """Refused calls have receipts, too."""
        headers = http_response.headers
        if "x-keytrail-seq" not in headers:
            return
        receipt = {
            "log": headers["x-keytrail-log"],
            "seq": int(headers["x-keytrail-seq"]),
            "leaf": headers["x-keytrail-leaf"],
            "requestId": headers["x-amzn-requestid"],
            "time": email.utils.parsedate_to_datetime(headers["date"]).isoformat(),
        }
        self.file.write(json.dumps(receipt, separators=(",", ":")).encode() + b"\n")
