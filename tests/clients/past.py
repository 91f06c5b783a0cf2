"""A data folder with a past: a journal whose records have the times that a test wants, written from docs/chain.md.

Only what a service cannot do in a test's time is made here. Batches hold one small record each, as the verifier in Python
has BLAKE3 for up to 1,024 bytes.
"""

import base64
import json
import pathlib
import struct

from packs import Record, Signer, b64, link, seed_of, sha256, verify
from service import ACCOUNT, KEYTRAIL, OTHER_ACCOUNT, run

SEGMENT_BYTES = 4 * 1024 * 1024


def blake3(raw):
    return struct.pack("<8I", *verify.blake3(raw, 0))


def event(number, account, region, **more):
    told = {
        "eventVersion": "1.11", "userIdentity": {"type": "IAMUser", "accountId": account, "userName": f"user-{number % 3}"},
        "eventTime": "2026-01-05T12:00:00Z", "eventSource": "kms.amazonaws.com", "eventName": f"Call{number:04}",
        "awsRegion": region, "eventID": f"event-{number}", "recipientAccountId": account,
    }
    return json.dumps(told | more, separators=(",", ":")).encode()


def records(start, step, count, first=0):
    """Mostly events of one account and region, some of another, heartbeats, and something that is no JSON."""
    made = []
    for number in range(first, first + count):
        time, salt = start + (number - first) * step, sha256(b"salt", struct.pack(">Q", number))[:16]
        if number == 0 or number % 12 == 11:
            made.append(Record(3 if number == 0 else 5, time, b'{"recordVersion":1}', salt=salt))
        elif number % 40 == 13:
            made.append(Record(1, time, b"no JSON", salt=salt))
        elif number % 5 == 4:
            made.append(Record(1, time, event(number, OTHER_ACCOUNT, "eu-central-1"), salt=salt))
        else:
            made.append(Record(1, time, event(number, ACCOUNT, "us-east-1"), salt=salt))
    return made


class Tree:
    def __init__(self):
        self.leaves = []

    def root(self, size=None):
        level = self.leaves[:size]

        def of(hashes):
            if len(hashes) == 1:
                return hashes[0]
            k = 1 << (len(hashes) - 1).bit_length() - 1
            return sha256(b"\1", of(hashes[:k]), of(hashes[k:]))

        return of(level) if level else sha256()


class Past:
    """A data folder, and the head of its log at each size."""

    def __init__(self, folder):
        self.folder, self.tree, self.records = pathlib.Path(folder), Tree(), []
        run(KEYTRAIL, "init", "--data", self.folder, "--account", ACCOUNT)
        _, origin, key = (self.folder / "checkpoints/signer.key").read_text().split("\n")[:3]
        self.signer = Signer(origin, seed_of(base64.b64decode(key)))
        self.id = sha256(origin.encode())[:16]
        self.batches, self.previous, self.digest = b"", bytes(32), bytes(32)

    def add(self, made):
        for record in made:
            seq = len(self.records)
            leaf = record.leaf(self.id, seq, self.previous)
            body = leaf + record.salt + record.payload
            assert len(body) <= 1024
            head = b"KTBATCH\1" + struct.pack(">QQII", seq, seq, 1, len(body)) + blake3(body) + self.digest
            self.digest = blake3(head)
            batch = head + self.digest + body
            self.batches += batch + bytes(-len(batch) % 4096)
            self.previous = link(leaf)
            self.tree.leaves.append(sha256(b"\0", leaf))
            self.records.append(record)
        return self

    def head(self, size=None):
        size = len(self.records) if size is None else size
        return self.signer.note(f"{self.signer.name}\n{size}\n{b64(self.tree.root(size))}\n")

    def close(self):
        """Journal and checkpoint as a node leaves them."""
        size, checkpoints, journal = len(self.records), self.folder / "checkpoints", self.folder / "journal"
        journal.mkdir(exist_ok=True)
        top = b"KTSEGMT\1" + self.id + struct.pack(">QQ", 0, SEGMENT_BYTES)
        top = (top + blake3(top)).ljust(4096, b"\0")
        (journal / f"segment-{0:020}.ktj").write_bytes((top + self.batches).ljust(SEGMENT_BYTES, b"\0"))
        number = struct.pack(">Q", size)
        (journal / "head").write_bytes(number + sha256(b"keytrail journal head v1\n", number)[:8])
        state = number + self.tree.root()
        (checkpoints / "head").write_bytes(state + sha256(b"keytrail signer head v1\n", state)[:8])
        (checkpoints / "latest").write_text(self.head())
        return self

    def export(self, out, start, end, *flags):
        run(KEYTRAIL, "evidence", "export", "--data", self.folder, "--from", start, "--to", end, "--out", out, "--unrecorded", *flags)
        return pathlib.Path(out)
