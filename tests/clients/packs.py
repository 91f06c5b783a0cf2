"""Evidence packs made and remade in Python, from docs/evidence.md alone: what an attacker with some keys can do.

A pack is read into records, changed, and closed again with whichever keys its maker holds. Nothing here is used by the
service; only the links' BLAKE3 comes from the verifier in Python.
"""

import base64
import copy
import datetime
import gzip
import hashlib
import importlib.util
import json
import pathlib
import struct

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service import ROOT

VERIFIER = ROOT / "crates/trail/src/evidence/verify.py"
_spec = importlib.util.spec_from_file_location("verify", VERIFIER)
verify = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(verify)

ABSENT = 0xFFFFFFFF
HOUR = 3_600_000_000
BUCKET = "keytrail-evidence"
LEAF = struct.Struct(">B16sQQBQI32s32s")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def b64(raw):
    return base64.b64encode(raw).decode()


def stamp(micros, form):
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)).strftime(form)


def link(leaf):
    return struct.pack("<8I", *verify.blake3(leaf, 64, verify.LINKS))


class Signer:
    """An Ed25519 key with a name, of a log (type 1) or a witness (type 4)."""

    def __init__(self, name, seed, kind=1):
        self.name, self.kind, self.key = name, kind, Ed25519PrivateKey.from_private_bytes(seed)
        self.public = bytes([kind]) + self.key.public_key().public_bytes_raw()
        self.id = sha256(name.encode(), b"\n", self.public)[:4]
        self.vkey = f"{name}+{self.id.hex()}+{b64(self.public)}"

    def line(self, text, time=0):
        if self.kind == 1:
            return f"\u2014 {self.name} {b64(self.id + self.key.sign(text.encode()))}\n"
        signature = self.key.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
        return f"\u2014 {self.name} {b64(self.id + struct.pack('>Q', time) + signature)}\n"

    def note(self, text):
        return f"{text}\n{self.line(text)}"


def seed_of(der):
    """The seed in the PKCS #8 of an Ed25519 key."""
    at = der.index(b"\x04\x22\x04\x20") + 4
    return der[at:at + 32]


class Keys:
    """The exporter's keys, and the logs' by origin as far as someone has them."""

    def __init__(self, pack, digest, logs=()):
        self.pack, self.digest, self.logs = pack, digest, {key.name: key for key in logs}

    @classmethod
    def made(cls, *origins):
        logs = [Signer(origin, sha256(b"log", origin.encode())) for origin in origins]
        return cls(Signer("keytrail-evidence", sha256(b"pack")), rsa.generate_private_key(65537, 2048), logs)

    @classmethod
    def of_folder(cls, folder):
        """From a data folder, which someone who took over the machine can read."""
        folder = pathlib.Path(folder)
        pem = (folder / "evidence/pack.key").read_text().splitlines()
        pack = Signer("keytrail-evidence", seed_of(base64.b64decode("".join(pem[1:-1]))))
        digest = serialization.load_pem_private_key((folder / "evidence/digest.key").read_bytes(), None)
        _, origin, key = (folder / "checkpoints/signer.key").read_text().split("\n")[:3]
        return cls(pack, digest, [Signer(origin, seed_of(base64.b64decode(key)))])

    def digest_key(self):
        der = self.digest.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        return {"fingerprint": sha256(der).hex(), "publicKey": b64(der)}


class Record:
    def __init__(self, kind, time, payload, *, epoch=1, salt=bytes(16), status=0, digest=None, length=None):
        self.kind, self.time, self.payload, self.epoch, self.salt, self.status = kind, time, payload, epoch, salt, status
        self.digest, self.length, self.previous = digest, length, None

    def leaf(self, log, seq, previous):
        if self.payload is not None:
            self.digest, self.length = sha256(self.salt, self.payload), len(self.payload)
        return LEAF.pack(1, log, self.epoch, seq, self.kind, self.time, self.length, self.digest, previous)

    def place(self):
        """Account and region, of an event that a CloudTrail file can hold."""
        if self.kind != 1 or self.status or not self.payload.lstrip().startswith(b"{"):
            return None
        try:
            event = json.loads(self.payload)
        except ValueError:
            return None
        return event.get("recipientAccountId", "000000000000"), event.get("awsRegion", "unknown")


def half(count):
    return 1 << (count - 1).bit_length() - 1


class Log:
    """One log's range: its records, and the tree's nodes outside of it."""

    def __init__(self, origin, records, first=0, outside=(), size=None, note=None):
        self.origin, self.records, self.first, self.outside, self.note = origin, records, first, list(outside), note
        self.size = size or first + len(records)
        self.id = sha256(origin.encode())[:16]
        self.previous = bytes(32)
        # Of a pack that is read: what was drawn, and what else the manifest has.
        self.drawn, self.more, self.consistency = 2, {}, {}

    @property
    def last(self):
        return self.first + len(self.records) - 1

    def leaves(self, relink=True):
        leaves, previous = [], self.previous
        for seq, record in enumerate(self.records, self.first):
            leaves.append(record.leaf(self.id, seq, previous if relink or record.previous is None else record.previous))
            previous = link(leaves[-1])
        return leaves

    def tree(self, leaves):
        """Hash of each node, by its two ends."""
        nodes, outside = {}, iter(self.outside)

        def walk(lo, hi):
            if hi <= self.first or lo > self.last:
                nodes[lo, hi] = next(outside)
            elif hi == lo + 1:
                nodes[lo, hi] = sha256(b"\0", leaves[lo - self.first])
            else:
                middle = lo + half(hi - lo)
                nodes[lo, hi] = sha256(b"\1", walk(lo, middle), walk(middle, hi))
            return nodes[lo, hi]

        walk(0, self.size)
        return nodes

    def path(self, nodes, seq):
        """Inclusion proof, from the leaf up."""
        lo, hi, proof = 0, self.size, []
        while hi > lo + 1:
            middle = lo + half(hi - lo)
            proof.insert(0, nodes[(middle, hi) if seq < middle else (lo, middle)])
            lo, hi = (lo, middle) if seq < middle else (middle, hi)
        return proof


class Pack:
    """A pack in memory: logs and further files by path below data/."""

    def __init__(self, logs, period, files=(), nonce="", **more):
        self.logs, self.period, self.files, self.nonce, self.more = logs, period, dict(files), nonce, more
        self.relink = True

    @classmethod
    def read(cls, folder):
        data = pathlib.Path(folder) / "data"
        manifest = json.loads((data / "manifest.json").read_bytes())
        population = json.loads((data / "sample/population.json").read_bytes())
        logs = []
        for entry, sample in zip(manifest["logs"], population["logs"]):
            own = data / "logs" / entry["log"]
            bodies = [iter(event_payloads(data / path)) for path in entry["cloudtrail"]]
            outside = [base64.b64decode(line) for line in (own / "range-proof").read_text().split()]
            records = list(read_leaves((own / "leaves.gz").read_bytes(), bodies))
            log = Log(entry["origin"], records, entry["first"], outside, entry["size"], (own / "checkpoint").read_text())
            log.previous, log.drawn = records[0].previous, len(sample["drawn"])
            made = {"log", "origin", "vkey", "first", "last", "size", "root", "timeFirst", "timeLast", "counts"}
            made |= {"withheld", "erased", "cloudtrail", "digests"}
            log.more = {name: value for name, value in entry.items() if name not in made} | {"vkey": entry["vkey"]}
            log.consistency = {path.name: path.read_bytes() for name in ("previous", "consistency-*") for path in own.glob(name)}
            logs.append(log)
        files = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
        kept = {
            name: raw for name, raw in files.items()
            if name.split("/")[0] not in ("cloudtrail", "logs", "sample", "manifest.json", "manifest.note")
        }
        known = {"files", "logs", "period", "version", "digestKeys", "evidenceVkey"}
        more = {name: value for name, value in manifest.items() if name not in known}
        pack = cls(logs, (manifest["period"]["from"], manifest["period"]["to"]), kept, population["nonce"], **more)
        pack.info = (pathlib.Path(folder) / "bag-info.txt").read_bytes()
        return pack

    def copy(self):
        return copy.deepcopy(self)

    def write(self, folder, keys):
        """Makes the pack anew. A checkpoint whose key is not held stays the one it was."""
        files, entries, population = dict(self.files), [], []
        for log in self.logs:
            entry, sample, own = self.close_log(log, keys)
            files |= own
            entries.append(entry)
            population.append(sample)
        files["sample/population.json"] = json.dumps({"version": 1, "nonce": self.nonce, "logs": population}).encode()
        manifest = {
            "version": 1, **self.more, "period": {"from": self.period[0], "to": self.period[1]},
            "evidenceVkey": keys.pack.vkey, "digestKeys": [keys.digest_key()], "logs": entries,
        }
        seal(folder, files, manifest, keys, getattr(self, "info", b"Bagging-Date: 2026-01-01\n"))
        return pathlib.Path(folder)

    def close_log(self, log, keys):
        leaves = log.leaves(self.relink)
        nodes = log.tree(leaves)
        root, own = nodes[0, log.size], f"logs/{log.id.hex()}"
        # Whoever cannot sign another checkpoint leaves the manifest at the one there is.
        if log.origin not in keys.logs:
            root = base64.b64decode(log.note.split("\n")[2])
        else:
            log.note = keys.logs[log.origin].note(f"{log.origin}\n{log.size}\n{b64(root)}\n")
        files = {f"{own}/{name}": raw for name, raw in log.consistency.items()}
        files[f"{own}/checkpoint"] = log.note.encode()
        files[f"{own}/range-proof"] = "".join(b64(one) + "\n" for one in log.outside).encode()
        cloudtrail, indexes, hours = self.events(log)
        files |= cloudtrail
        files[f"{own}/leaves.gz"] = gzip.compress(b"".join(
            struct.pack(">BI", record.status, index) + leaf
            + (b"" if record.status else record.salt + (record.payload if index == ABSENT else b""))
            for record, leaf, index in zip(log.records, leaves, indexes)
        ), mtime=0)
        digests, more = self.digests(log, hours, keys)
        files |= more
        sample, proofs = self.sample(log, leaves, nodes)
        files |= proofs
        counts = {}
        for record in log.records:
            counts[str(record.kind)] = counts.get(str(record.kind), 0) + 1
        entry = {"parquet": [], **log.more} | {
            "log": log.id.hex(), "origin": log.origin, "first": log.first, "last": log.last, "size": log.size,
            "root": root.hex(), "timeFirst": log.records[0].time, "timeLast": log.records[-1].time, "counts": counts,
            "withheld": sum(record.status == 1 for record in log.records),
            "erased": sum(record.status == 2 for record in log.records),
            "cloudtrail": list(cloudtrail), "digests": digests,
        }
        if log.origin in keys.logs:
            entry["vkey"] = log.more["vkey"] = keys.logs[log.origin].vkey
        return entry, sample, files

    @staticmethod
    def events(log):
        """CloudTrail files, the index of each record's, and the files of each place and hour."""
        bodies, indexes, hours, index_of = {}, [], {}, {}
        for record in log.records:
            place = record.place()
            if place is None:
                indexes.append(ABSENT)
                continue
            (account, region), hour = place, record.time // HOUR
            if (place, hour) not in index_of:
                index = index_of[place, hour] = len(index_of)
                day, minute = stamp(record.time, "%Y/%m/%d"), stamp(record.time, "%Y%m%dT%H%MZ")
                name = f"{account}_CloudTrail_{region}_{minute}_{log.id.hex()[:8]}{index:08x}.json.gz"
                path = f"cloudtrail/AWSLogs/{account}/CloudTrail/{region}/{day}/{name}"
                bodies[index] = [path, []]
                hours.setdefault((place, hour), []).append(index)
            indexes.append(index_of[place, hour])
            bodies[indexes[-1]][1].append(record.payload)
        raw = {path: b'{"Records":[' + b",".join(payloads) + b"]}" for path, payloads in bodies.values()}
        files = {path: gzip.compress(body, mtime=0) for path, body in raw.items()}
        told = {key: [(bodies[index][0], sha256(raw[bodies[index][0]]).hex()) for index in value] for key, value in hours.items()}
        return files, indexes, told

    def digests(self, log, hours, keys):
        places, before, paths, files = sorted({place for place, _ in hours}), {}, [], {}
        for hour in range(log.records[0].time // HOUR, log.records[-1].time // HOUR + 1):
            for place in places:
                digest = self.digest(log, place, hour, hours.get((place, hour), []), before.get(place), keys)
                path, packed, signature, before[place] = digest
                paths.append(path)
                files |= {path: packed, f"{path}.signature": signature.encode()}
        return paths, files

    @staticmethod
    def digest(log, place, hour, told, previous, keys):
        (account, region), end = place, (hour + 1) * HOUR
        second = "%Y-%m-%dT%H:%M:%SZ"
        name = f"{account}_CloudTrail-Digest_{region}_keytrail-{log.id.hex()[:8]}_{region}_{stamp(end, '%Y%m%dT%H%M%SZ')}.json.gz"
        name = f"AWSLogs/{account}/CloudTrail-Digest/{region}/{stamp(end, '%Y/%m/%d')}/{name}"
        object_, total, signature = previous or (None, None, None)
        digest = {
            "awsAccountId": account, "digestStartTime": stamp(hour * HOUR, second), "digestEndTime": stamp(end, second),
            "digestS3Bucket": BUCKET, "digestS3Object": name,
            "digestPublicKeyFingerprint": keys.digest_key()["fingerprint"], "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": None, "oldestEventTime": None, "previousDigestS3Bucket": previous and BUCKET,
            "previousDigestS3Object": object_, "previousDigestHashValue": total,
            "previousDigestHashAlgorithm": previous and "SHA-256", "previousDigestSignature": signature,
            "logFiles": [
                {
                    "s3Bucket": BUCKET, "s3Object": path[len("cloudtrail/"):], "hashValue": value,
                    "hashAlgorithm": "SHA-256", "newestEventTime": stamp(hour * HOUR, second),
                    "oldestEventTime": stamp(hour * HOUR, second),
                }
                for path, value in told
            ],
            "keytrailCheckpoint": log.note,
        }
        return "cloudtrail/" + name, *sign_digest(digest, keys)

    def sample(self, log, leaves, nodes):
        """The sample's entry and its proof files."""
        start, end = (verify.micros(text) for text in self.period)
        taken = [
            seq for seq, record in enumerate(log.records, log.first)
            if record.kind == 1 and (log.more.get("imported") or start <= record.time < end)
        ]
        seed, drawn, counter = sha256(log.note.encode(), self.nonce.encode()), {}, 0
        while len(drawn) < min(log.drawn, len(taken)):
            drawn[int.from_bytes(sha256(seed, struct.pack(">Q", counter))[:8], "big") % len(taken)] = None
            counter += 1
        entry = {
            "log": log.id.hex(), "seed": seed.hex(), "count": len(taken),
            "sha256": sha256(*(struct.pack(">Q", seq) for seq in taken)).hex(), "drawn": [taken[index] for index in drawn],
        }
        files = {}
        for seq in entry["drawn"]:
            proof = "".join(b64(one) + "\n" for one in log.path(nodes, seq))
            text = f"c2sp.org/tlog-proof@v1\nextra {b64(leaves[seq - log.first])}\nindex {seq}\n{proof}\n{log.note}"
            files[f"sample/{entry['log']}/{seq}.tlog-proof"] = text.encode()
        return entry, files


def sign_digest(digest, keys):
    """A digest packed, its signature, and what the next one says of it."""
    raw = json.dumps(digest, separators=(",", ":")).encode()
    total = sha256(raw).hex()
    lines = (digest["digestEndTime"], f"{BUCKET}/{digest['digestS3Object']}", total, digest["previousDigestSignature"] or "null")
    signature = keys.digest.sign("\n".join(lines).encode(), padding.PKCS1v15(), hashes.SHA256()).hex()
    return gzip.compress(raw, mtime=0), signature, (digest["digestS3Object"], total, signature)


def read_leaves(packed, bodies):
    raw, at = gzip.decompress(packed), 0
    while at < len(raw):
        status, index, leaf = struct.unpack_from(">BI110s", raw, at)
        at += 115
        _, _, epoch, _, kind, time, length, digest, previous = LEAF.unpack(leaf)
        salt, payload = bytes(16), None
        if status == 0:
            salt, at = raw[at:at + 16], at + 16
            if index == ABSENT:
                payload, at = raw[at:at + length], at + length
            else:
                payload = next(bodies[index])(length)
        record = Record(kind, time, payload, epoch=epoch, salt=salt, status=status, digest=digest, length=length)
        record.previous = previous
        yield record


def event_payloads(path):
    """For each record a function that takes its length and gives it."""
    raw, at = gzip.decompress(path.read_bytes()), len('{"Records":[')

    def take(length):
        nonlocal at
        at += length + 1
        return raw[at - length - 1:at - 1]

    while at < len(raw) - 1:
        yield take


def seal(folder, files, manifest, keys, info):
    """Manifest, its note and the bag around files."""
    manifest["files"] = {name: {"sha256": sha256(raw).hex(), "bytes": len(raw)} for name, raw in sorted(files.items())}
    raw = json.dumps(manifest, indent=1).encode()
    files = dict(files)
    files["manifest.json"] = raw
    files["manifest.note"] = keys.pack.note(f"keytrail evidence pack v1\n{sha256(raw).hex()}\n").encode()
    write_bag(folder, files, info)


def reseal(folder, keys):
    """After files of a pack were changed in place: manifest, note and bag anew, with the exporter's key."""
    folder = pathlib.Path(folder)
    data = folder / "data"
    manifest = json.loads((data / "manifest.json").read_bytes())
    files = {path.relative_to(data).as_posix(): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    del files["manifest.json"], files["manifest.note"]
    manifest["evidenceVkey"] = keys.pack.vkey
    seal(folder, files, manifest, keys, (folder / "bag-info.txt").read_bytes())


def rebag(folder):
    """After files were changed in place by someone without any key: the bag's hashes anew."""
    folder = pathlib.Path(folder)
    data = folder / "data"
    files = {path.relative_to(data).as_posix(): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    write_bag(folder, files, (folder / "bag-info.txt").read_bytes())


def write_bag(folder, files, info):
    folder = pathlib.Path(folder)
    for name, raw in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    tags = {"bagit.txt": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", "bag-info.txt": info}
    lines = [f"{sha256(raw).hex()}  data/{name}\n" for name, raw in sorted(files.items())]
    tags["manifest-sha256.txt"] = "".join(lines).encode()
    tags["tagmanifest-sha256.txt"] = "".join(f"{sha256(raw).hex()}  {name}\n" for name, raw in sorted(tags.items())).encode()
    for name, raw in tags.items():
        (folder / name).write_bytes(raw)


def small(origins=("keytrail/test/node-0123456789abcdef",), records=40, start=1_767_614_400_000_000, step=400_000_000):
    """A small pack of made-up events: odd payloads, erased and withheld records, hours without events among it."""
    logs = []
    for origin in origins:
        made = [Record(3, start, b'{"recordVersion":1}')]
        for number in range(1, records - 1):
            time, salt = start + number * step + (5 * HOUR if number > records // 2 else 0), sha256(origin.encode(), bytes([number]))[:16]
            account, region = ("123456789012", "210987654321")[number % 2], ("us-east-1", "eu-central-1")[number % 3 == 0]
            event = {"eventVersion": "1.11", "eventName": f"Call{number}", "awsRegion": region, "recipientAccountId": account}
            payload = json.dumps(event, separators=(",", ":")).encode()
            status = {7: 1, 9: 2}.get(number, 0)
            if number % 10 == 5:
                made.append(Record(5, time, b'{"recordVersion":1,"timeMicros":1}', salt=salt))
            elif number == 13:
                made.append(Record(1, time, b"no JSON", salt=salt))
            elif status:
                made.append(Record(1, time, None, status=status, digest=sha256(salt, payload), length=len(payload)))
            else:
                made.append(Record(1, time, payload, salt=salt, epoch=1 + number // 20))
        made.append(Record(4, made[-1].time + step, b'{"recordVersion":1}', epoch=made[-1].epoch))
        for before, record in zip(made, made[1:]):
            record.epoch = max(record.epoch, before.epoch)
        logs.append(Log(origin, made))
    logs.sort(key=lambda log: log.id)
    form = "%Y-%m-%dT%H:%M:%SZ"
    period = stamp(logs[0].records[1].time, form), stamp(logs[0].records[-1].time, form)
    files = {"policy": b"quorum none\n", "alerts/alerts.jsonl": b"", "VERIFY.md": b"how\n"}
    told = {"tool": "test", "createdAt": "2026-01-05T20:00:00Z", "exportedBy": "nobody", "controlSet": None}
    told["redaction"] = {"where": "seq = 7", "reason": "a test"}
    return Pack(logs, period, files, nonce="chosen", **told)
