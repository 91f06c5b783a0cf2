#!/usr/bin/env python3
"""Verifies a Keytrail evidence pack, a folder or a tar of it, with Python 3.9 or newer alone, offline.

    python3 verify.py PACK [--vkey FILE]... [--head NOTE]... [--policy FILE] [--chain]

VERIFIED (exit 0), VERIFIED-UP-TO seq and time with the reason (exit 2), FAILED with log, seq and reason (exit 1); exit 64
when called wrongly. The format: docs/evidence.md and docs/chain.md of Keytrail, with which this program shares no code.
It only reads, and whatever is malformed fails. Parquet is checked for its hashes alone; links between leaves, which the
tree covers, only with --chain, as BLAKE3 is slow in Python.
"""
import argparse, base64, datetime, hashlib, io, json, os, re, stat, struct, sys, tarfile, zlib

MIB, HOUR, ABSENT = 1 << 20, 3_600_000_000, 0xFFFFFFFF
FILES_MAX, FILE_BYTES_MAX, OPEN_MAX, SAMPLE_MAX = 1_000_000, 256 * MIB, 256, 10_000
LEAF, EPOCH, BUCKET = struct.Struct(">B16sQQBQI32s32s"), datetime.datetime(1970, 1, 1), "keytrail-evidence"
OBJECT = "cloudtrail/(AWSLogs/([^/]+)/CloudTrail%s/([^/]+)/.+)"

class Failed(Exception):
    """Reason, and where they are known log and seq."""

def check(good, reason):
    if not good:
        raise Failed(reason)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def unb64(text, length=None):
    raw = base64.b64decode(text, validate=True)
    check(base64.b64encode(raw).decode() == text and length in (None, len(raw)), "base64 is malformed")
    return raw

def parsed(text):
    """JSON whose members are there once each; its only numbers are those of 64 bits without sign."""
    def members(pairs):
        check(len(dict(pairs)) == len(pairs), "a member of a JSON object is there twice")
        return {name: str(value) if isinstance(value, bool) else value for name, value in pairs}
    def number(text):
        return int(text) if len(text) < 21 and 0 <= int(text) < 1 << 64 else text
    return json.loads(text, object_pairs_hook=members, parse_int=number, parse_float=str, parse_constant=str)

def micros(text):
    """Of RFC 3339 in UTC, to the second, millisecond or microsecond."""
    check(re.fullmatch(r"[0-9T:-]{19}(\.([0-9]{3}){1,2})?Z", text), "a time is malformed")
    return (datetime.datetime.fromisoformat(text[:-1]) - EPOCH) // datetime.timedelta(microseconds=1)

# Ed25519 (RFC 8032), RSA (PKCS #1 v1.5 with SHA-256), BLAKE3 of one chunk.
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P

def point(raw):
    y, sign = int.from_bytes(raw, "little") & (1 << 255) - 1, raw[31] >> 7
    u, v = y * y - 1, D * y * y + 1
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    x = x if (v * x * x - u) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    check((v * x * x - u) % P == 0 and y < P and (x or not sign), "Ed25519 key is no point")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P

def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
    return e * f % P, g * h % P, f * g % P, e * h % P

BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))

def ed25519(key, message, signature):
    (x, y, _, t), s = point(key), int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    minus, total = (P - x, y, 1, P - t), (0, 1, 1, 0)
    picks = (None, BASE, minus, add(BASE, minus))
    for bit in range(252, -1, -1):
        total, pick = add(total, total), picks[(s >> bit & 1) + 2 * (k >> bit & 1)]
        total = add(total, pick) if pick else total
    x, y = total[0] * pow(total[2], P - 2, P) % P, total[1] * pow(total[2], P - 2, P) % P
    return len(signature) == 64 and s < L and (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]

def rsa(key, message, signature):
    """With a public exponent of 65537, which the exporter's keys have."""
    der, length, value = unb64(key), len(signature), int.from_bytes(signature, "big")
    modulus, sizes = der[9:9 + length], (length + 10, length + 1)
    check(der == b"\x30\x82%b\2\x82%b\0%b\2\3\1\0\1" % (*(size.to_bytes(2, "big") for size in sizes), modulus), "RSA key is another")
    info, modulus = bytes.fromhex("3031300d060960864801650304020105000420") + sha256(message), int.from_bytes(modulus, "big")
    wanted = b"\0\1" + b"\xff" * (length - len(info) - 3) + b"\0" + info
    return 256 <= length <= 1024 and value < modulus and pow(value, 65537, modulus) == int.from_bytes(wanted, "big")

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
ROUND = [(i, 4 + (i + j) % 4, 8 + (i + 2 * j) % 4, 12 + (i + 3 * j) % 4) for j in (0, 1) for i in range(4)]

def blake3(data, flags, key=IV):
    for at in range(0, len(data), 64):
        block, last = data[at:at + 64], 10 if at + 64 >= len(data) else 0
        m, v = struct.unpack("<16I", block.ljust(64, b"\0")), [*key, *IV[:4], 0, 0, len(block), flags | (at == 0) | last]
        for _ in range(7):
            for step, (a, b, c, d) in enumerate(ROUND):
                for word, r, s in ((m[2 * step], 16, 12), (m[2 * step + 1], 8, 7)):
                    v[a] = v[a] + v[b] + word & 0xFFFFFFFF
                    v[d] = ((v[d] ^ v[a]) >> r | (v[d] ^ v[a]) << 32 - r) & 0xFFFFFFFF
                    v[c] = v[c] + v[d] & 0xFFFFFFFF
                    v[b] = ((v[b] ^ v[c]) >> s | (v[b] ^ v[c]) << 32 - s) & 0xFFFFFFFF
            m = [m[index] for index in ORDER]
        key = [v[index] ^ v[index + 8] for index in range(8)]
    return key

LINKS = blake3(b"keytrail audit chain v1", 32)

# Signed notes, keys and policies.
class Key:
    """A verifier key: of a log (signature type 1) or of a witness (type 4)."""

    def __init__(self, text, kind):
        self.name, self.id, raw = text.split("+", 2)
        self.kind, self.raw = kind, unb64(raw, 33)[1:]
        good = self.id == sha256(self.name.encode(), b"\n", bytes([kind]), self.raw)[:4].hex() and unb64(raw)[0] == kind
        check(good and re.fullmatch(r"\S{1,256}", self.name), "verifier key is malformed")

    def signed(self, note):
        """When it signed the note, 0 for a log, None for not at all; a bad signature of its own fails the note."""
        (text, lines), newest = split(note), None
        for name, raw in lines:
            if (name, raw[:4].hex()) == (self.name, self.id):
                time = int.from_bytes(raw[4:12], "big") if self.kind == 4 else 0
                message = ("cosignature/v1\ntime %d\n" % time if self.kind == 4 else "") + text
                good = ed25519(self.raw, message.encode(), raw[12 if self.kind == 4 else 4:])
                check(good, f"signature by key {name} does not verify")
                newest = max(newest or 0, time)
        return newest

def split(note):
    """Text and signature lines of a signed note."""
    text, lines = note[:note.rfind("\n\n") + 1], note[note.rfind("\n\n") + 2:]
    good = text and lines.endswith("\n") and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", note)
    check(good and len(note.encode()) <= 64 * 1024, "signed note is malformed")
    found = [re.fullmatch("\u2014 ([^ ]+) ([^ ]+)", line) for line in lines[:-1].split("\n")]
    return text, [(line[1], unb64(line[2])) for line in found]

def checkpoint(note, key):
    """Size and root in a note that the log's key has signed."""
    check(key.signed(note) is not None, f"checkpoint is not signed by key {key.name}")
    origin, size, root, end = split(note)[0].split("\n")
    good = origin == key.name and end == "" and re.fullmatch("0|[1-9][0-9]{0,19}", size) and int(size) < 1 << 64
    check(good, f"checkpoint of {origin} is malformed or not of key {key.name}")
    return int(size), unb64(root, 32)

def policy(text):
    """Keys of the logs, and who must have cosigned (C2SP tlog-policy): a witness, or how many of which."""
    logs, rules, quorum = [], {"none": (0, [])}, []
    for words in (line.split() for line in text.split("\n")):
        if not words or words[0].startswith("#"):
            continue
        name, rest = words[1], words[2:]
        check(words[0] in ("log", "quorum") or name not in rules, f"policy has {name} twice")
        if words[0] == "log":
            logs.append(Key(name, 1))
        elif words[0] == "quorum":
            quorum.append(rules[name])
        elif words[0] == "witness":
            rules[name] = Key(rest[0], 4)
        else:
            least = int({"all": len(rest) - 1, "any": 1}.get(rest[0], rest[0]))
            check(words[0] == "group" and 1 <= least < len(rest), f"policy has an impossible {words[0]} {name}")
            rules[name] = least, [rules[member] for member in rest[1:]]
    check(len(quorum) == 1, "policy has not one quorum")
    return logs, quorum[0]

def met(note, rule):
    if isinstance(rule, Key):
        return rule.signed(note) is not None
    return sum(met(note, member) for member in rule[1]) >= rule[0]

# Trees (RFC 6962); a proof is an iterator of hashes.
def node(left, right):
    return sha256(b"\1", left, right)

def half(count):
    return 1 << (count - 1).bit_length() - 1

def range_root(lo, hi, first, last, proof, leaves):
    if hi <= first or lo > last:
        return next(proof)
    if hi == lo + 1:
        return next(leaves)
    left = range_root(lo, lo + half(hi - lo), first, last, proof, leaves)
    return node(left, range_root(lo + half(hi - lo), hi, first, last, proof, leaves))

def path_root(seq, size, leaf, proof):
    if size == 1:
        return leaf
    k = half(size)
    inner = path_root(seq, k, leaf, proof) if seq < k else path_root(seq - k, size - k, leaf, proof)
    return node(inner, next(proof)) if seq < k else node(next(proof), inner)

def grown(old, size, root, proof):
    """Roots of the first `old` leaves and of all; `root` is the old one as long as it covers a left edge alone."""
    if old == size:
        root = root or next(proof)
        return root, root
    if old <= half(size):
        before, now = grown(old, half(size), root, proof)
        return before, node(now, next(proof))
    before, now = grown(old - half(size), size - half(size), None, proof)
    left = next(proof)
    return node(left, before), node(left, now)

# The files of a pack.
class Source(io.BufferedReader):
    """A tar file whose headers cannot ask for much memory."""

    def read(self, count=-1):
        check(0 <= count <= MIB, "tar header is too large")
        return super().read(count)

def in_folder(folder, under=""):
    for entry in os.scandir(folder):
        info, name = entry.stat(follow_symlinks=False), under + entry.name
        if stat.S_ISDIR(info.st_mode) and name.count("/") < 32:
            yield from in_folder(entry.path, name + "/")
        else:
            yield name, info.st_size, stat.S_ISREG(info.st_mode), lambda path=entry.path: open(path, "rb")

def in_tar(path):
    tar = tarfile.open(fileobj=Source(io.FileIO(path)), mode="r:")
    for member in tar:
        if not member.isdir():
            good = member.isreg() and not member.issparse()
            yield re.sub(r"^(\./)+", "", member.name), member.size, good, lambda member=member: tar.extractfile(member)

class Pack:
    """Files of a folder or a tar by their path. Nothing else is opened, whatever the pack says."""

    def __init__(self, path):
        self.files = {}
        for name, size, good, opener in in_folder(path) if os.path.isdir(path) else in_tar(path):
            plain = good and not re.search(r"[\x00-\x1f\x7f\\]", name) and not {"", ".", ".."} & set(name.split("/"))
            check(plain and name not in self.files, f"{name[:80]!r} is no plain file, or there twice")
            check(len(name.encode()) <= 1024 and len(self.files) < FILES_MAX, "a path is too long, or one too many")
            self.files[name] = size, opener
        if len({name.split("/")[0] for name in self.files}) == 1:
            self.files = {name.split("/", 1)[-1]: file for name, file in self.files.items()}

    def open(self, name):
        check(name in self.files, f"{name} is missing")
        return self.files[name][1]()

    def text(self, name, most=64 * 1024):
        with self.open(name) as file:
            check(self.files[name][0] <= most, f"{name} is too large")
            return b"".join(iter(lambda: file.read(MIB), b"")).decode()

    def sha256(self, name):
        total = hashlib.sha256()
        with self.open(name) as file:
            for block in iter(lambda: file.read(MIB), b""):
                total.update(block)
        return total.hexdigest()

class Member:
    """The one gzip member that a file is, unpacked as far as it is asked for."""

    def __init__(self, file):
        self.file, self.z, self.buffer, self.hash = file, zlib.decompressobj(31), bytearray(), hashlib.sha256()

    def fill(self):
        packed = self.z.unconsumed_tail or self.file.read(1 << 16)
        check(packed and not self.z.eof, "a gzip file is cut off")
        self.buffer += self.z.decompress(packed, 1 << 16)

    def read(self, count):
        while len(self.buffer) < count:
            self.fill()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.hash.update(taken)
        return taken

    def rest(self, most=0):
        """What is left, and SHA-256 of it all."""
        while len(self.buffer) <= most and not self.z.eof:
            self.fill()
        good = len(self.buffer) <= most and not self.z.unused_data and not self.file.read(1)
        check(good, "a gzip file goes on after its end, or unpacks to too much")
        return self.read(len(self.buffer)), self.hash.hexdigest()

def bag(pack):
    """Step 1; gives the hash of each file below data/. From here on paths are those below it."""
    check(pack.text("bagit.txt") == "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n", "bagit.txt is another")
    listed = {"tagmanifest-sha256.txt": None}
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        for line in pack.text(name, FILE_BYTES_MAX).splitlines():
            digest, path = re.fullmatch("([0-9a-f]{64})  (.+)", line).groups()
            check(path not in listed and path.startswith("data/") == (name[0] == "m"), f"{name} has a wrong line of {path}")
            listed[path] = digest
    for name in sorted({*pack.files, *listed}):
        check(name in listed, f"{name} is in no manifest")
        check(listed[name] in (None, pack.sha256(name)), f"{name} is not as the manifest says")
    pack.files = {name[5:]: file for name, file in pack.files.items() if name.startswith("data/")}
    return {name: listed["data/" + name] for name in pack.files}

def read_manifest(pack, listed):
    """Step 2."""
    text, note = pack.text("manifest.json", FILE_BYTES_MAX), pack.text("manifest.note")
    manifest, total = parsed(text), listed.pop("manifest.json")
    key = Key(manifest["evidenceVkey"], 1)
    check(manifest["version"] == 1, "manifest is of a version that is not known")
    check(key.name == "keytrail-evidence" and key.signed(note) is not None, "manifest.note is not signed by its key")
    check(split(note)[0] == f"keytrail evidence pack v1\n{total}\n", "manifest.note is for another manifest")
    there = {name: {"sha256": digest, "bytes": pack.files[name][0]} for name, digest in listed.items()}
    check(there.pop("manifest.note") and manifest["files"] == there, "the manifest's files are not those of the pack")
    return manifest

def is_object(payload):
    """Whether everyone takes it for a JSON object: odd ones of other writers may stand in either place."""
    try:
        value = json.loads(payload.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and payload.count(b"{") + payload.count(b"[") < 100

class Records:
    """Step 4: gives the leaf hashes of a log's range, and checks each record on the way."""

    def __init__(self, pack, log, period, sample, links):
        self.pack, self.log, self.period, self.sample, self.links = pack, log, period, sample, links
        self.counts, self.status, self.open, self.hashes = {}, [0, 0, 0], {}, {}
        self.population, self.inside, self.begin, self.time = hashlib.sha256(), 0, None, 0

    def __iter__(self):
        log, epoch, link = self.log, 1, None if self.log["first"] else bytes(32)
        file = Member(self.pack.open(f"logs/{log['log']}/leaves.gz"))
        for seq in range(log["first"], log["last"] + 1):
            try:
                epoch, raw = self.record(file, seq, epoch, link)
            except Exception as error:
                raise Failed(reason(error), log["log"], seq) from None
            link = struct.pack("<8I", *blake3(raw, 64, LINKS)) if self.links else None
            yield sha256(b"\0", raw)
        file.rest()
        check(not self.open and len(self.hashes) == len(log["cloudtrail"]), "a CloudTrail file has records of no leaf")

    def record(self, file, seq, least, link):
        status, index, raw = struct.unpack(">BI110s", file.read(115))
        version, log, epoch, at, kind, time, length, digest, previous = LEAF.unpack(raw)
        check((version, log.hex(), at) == (1, self.log["log"], seq), "leaf is not the next one of the log")
        check(1 <= kind <= 11 and length <= 256 * 1024 and status <= 2, "leaf is malformed")
        check(epoch >= least and time >= self.time, "epoch or time falls")
        check(link in (None, previous), "link to the record before is broken")
        if status == 0:
            salt = file.read(16)
            payload = file.read(length) if index == ABSENT else self.event(index, length)
            check(sha256(salt, payload) == digest, "payload does not match its leaf")
            fits = not is_object(payload) if index == ABSENT else payload.lstrip()[:1] == b"{"
            check(fits if kind == 1 else index == ABSENT, "payload stands where it does not belong")
        check(status == 0 or index == ABSENT, "payload is said to be absent and to be in a file")
        if kind == 1 and (self.log.get("imported") == "True" or self.period[0] <= time < self.period[1]):
            self.population.update(struct.pack(">Q", seq))
            if self.inside in self.sample:
                self.sample[self.inside] = seq, raw
            self.inside += 1
        self.counts[str(kind)], self.status[status] = self.counts.get(str(kind), 0) + 1, self.status[status] + 1
        self.begin, self.time = time if self.begin is None else self.begin, time
        return epoch, raw

    def event(self, index, length):
        path = self.log["cloudtrail"][index]
        check(path not in self.hashes and re.fullmatch(OBJECT % "", path), "payload is in no CloudTrail file")
        if path not in self.open:
            self.open[path] = Member(self.pack.open(path))
            check(len(self.open) <= OPEN_MAX, "too many CloudTrail files at once")
            check(self.open[path].read(12) == b'{"Records":[', "a CloudTrail file begins otherwise")
        payload, mark = self.open[path].read(length), self.open[path].read(1)
        check(mark == b"," or mark + self.open[path].read(1) == b"]}", "a CloudTrail file goes on otherwise")
        if mark == b"]":
            self.hashes[path] = self.open.pop(path).rest()[1]
        return payload

def verify_digests(pack, manifest, records, note):
    """Step 6: a chain of hourly digests for each account and region, and each log file in one of them."""
    keys, chains, left = {key["fingerprint"]: key["publicKey"] for key in manifest["digestKeys"]}, {}, dict(records.hashes)
    for path in records.log["digests"]:
        name, *place = re.fullmatch(OBJECT % "-Digest", path).groups()
        (raw, total), signature = Member(pack.open(path)).rest(FILE_BYTES_MAX), pack.text(path + ".signature")
        digest = parsed(raw.decode())
        begin, *before = chains.get(tuple(place), (records.begin // HOUR * HOUR, None, None, None, None))
        previous = [digest["previousDigest" + part] for part in ("S3Bucket", "S3Object", "HashValue", "Signature")]
        times = micros(digest["digestStartTime"]), micros(digest["digestEndTime"])
        check(previous == before and times == (begin, begin + HOUR), f"{name} does not follow the digest before it")
        check((digest["digestS3Bucket"], digest["digestS3Object"]) == (BUCKET, name), f"{name} has another name in it")
        message = "\n".join((digest["digestEndTime"], f"{BUCKET}/{name}", total, previous[3] or "null")).encode()
        good = re.fullmatch("([0-9a-f]{2})+", signature) and digest["keytrailCheckpoint"] == note
        key = keys[digest["digestPublicKeyFingerprint"]]
        check(good and rsa(key, message, bytes.fromhex(signature)), f"{name} is not signed, or for another checkpoint")
        for file in digest["logFiles"]:
            found = re.fullmatch(OBJECT % "", "cloudtrail/" + file["s3Object"])
            good = file["s3Bucket"] == BUCKET and [found[2], found[3]] == place
            check(good and left.pop(found[0], None) == file["hashValue"], f"{name} names a log file that is not this one")
        chains[tuple(place)] = begin + HOUR, BUCKET, name, total, signature
    check(not left, f"log files are in no digest: {sorted(left)[:1]}")
    ends = {chain[0] for chain in chains.values()} - {records.time // HOUR * HOUR + HOUR}
    check(not ends, "the newest digests are missing")

def draw(log, note, nonce):
    """Step 8: indexes into the population, drawn anew."""
    seed, counter, drawn = sha256(note.encode(), nonce.encode()), 0, {}
    check(log["seed"] == seed.hex() and len(log["drawn"]) <= min(log["count"], SAMPLE_MAX), "sample has another seed")
    while len(drawn) < len(log["drawn"]):
        drawn[int.from_bytes(sha256(seed, struct.pack(">Q", counter))[:8], "big") % log["count"]] = None
        counter += 1
    return drawn

def verify_sample(pack, sample, records, note, size, root):
    good = (records.inside, records.population.hexdigest()) == (sample["count"], sample["sha256"])
    check(good and [seq for seq, _ in records.sample.values()] == sample["drawn"], "sample is not the one that is drawn")
    for seq, raw in records.sample.values():
        text = pack.text(f"sample/{sample['log']}/{seq}.tlog-proof", MIB)
        head = f"c2sp.org/tlog-proof@v1\nextra {base64.b64encode(raw).decode()}\nindex {seq}\n"
        check(text.startswith(head) and text.endswith("\n" + note), f"proof of seq {seq} is for another record")
        proof = iter([unb64(line, 32) for line in text[len(head):-len(note) - 1].splitlines()])
        check(path_root(seq, size, sha256(b"\0", raw), proof) == root and not list(proof), f"proof of seq {seq} does not hold")

def verify_alerts(pack):
    lines, key = pack.text("alerts/alerts.jsonl", FILE_BYTES_MAX).splitlines(), None
    for line in lines:
        key, alert = key or Key(pack.text("alerts/vkey").strip(), 1), parsed(line)
        message = b"keytrail alert v1\n" + alert["alert"].encode()
        check(ed25519(key.raw, message, unb64(alert["signature"], 64)), "an alert is not signed by alerts/vkey")
    return len(lines)

def verify_heads(pack, records, heads, size, root, lefts, seen):
    """Step 5 for the checkpoints that the auditor holds; gives those that cannot be compared."""
    first, last, name = records.log["first"], records.log["last"], f"logs/{records.log['log']}/consistency-%d"
    for old, known in heads:
        if old == 0 or old == size:
            check(known == (root if old else sha256()), "a checkpoint that was given has another root")
        elif first < old <= last + 1:
            found = range_root(0, old, first, old - 1, iter(lefts), iter(seen))
            check(found == known, f"the records do not lead to the checkpoint of size {old} that was given")
        elif old < size and name % old in pack.files:
            proof = iter([unb64(line, 32) for line in pack.text(name % old).splitlines()])
            good = grown(old, size, known, proof) == (known, root) and not list(proof)
            check(good, f"the log does not continue the checkpoint of size {old} that was given")
        else:
            yield f"the checkpoint of size {old} that was given cannot be compared with this pack"

def verify_log(pack, manifest, log, sample, nonce, options):
    """Steps 3 to 9 for one log: what keeps the verdict from VERIFIED, and what was found."""
    own, note, first, last = Key(log["vkey"], 1), pack.text(f"logs/{log['log']}/checkpoint"), log["first"], log["last"]
    key = next((key for key in options.keys if key.name == own.name), None if options.keys else own)
    check(key, f"no verifier key was given for {own.name}")
    size, root = checkpoint(note, key)
    good = (key.raw, key.name, size, root.hex()) == (own.raw, log["origin"], log["size"], log["root"])
    check(good and sha256(key.name.encode())[:16].hex() == log["log"], "manifest and checkpoint tell of different logs")
    begin, end = micros(manifest["period"]["from"]), micros(manifest["period"]["to"])
    check(first <= last < size and begin < end, "range is not below the checkpoint's size, or there is no period")
    heads = [checkpoint(head, key) for head in options.heads if head.startswith(key.name + "\n")]
    records = Records(pack, log, (begin, end), draw(sample, note, nonce), options.chain)
    leaves, lefts, seen = iter(records), [unb64(line, 32) for line in pack.text(f"logs/{log['log']}/range-proof").splitlines()], []
    proof, watched = iter(lefts), (seen.append(leaf) or leaf for leaf in leaves) if heads else leaves
    good = range_root(0, size, first, last, proof, watched) == root and next(watched, None) is None and not list(proof)
    check(good, "leaves and range proof do not give the checkpoint's root")
    counted = records.counts, records.status[1], records.status[2], records.begin, records.time
    told = log["counts"], log["withheld"], log["erased"], log["timeFirst"], log["timeLast"]
    check(counted == told, "counts or times are not those of the manifest")
    limits = list(verify_heads(pack, records, heads, size, root, lefts, seen))
    verify_digests(pack, manifest, records, note)
    verify_sample(pack, sample, records, note, size, root)
    whole = first == 0 and last == size - 1
    check(whole or log.get("imported") != "True", "an imported log is not there as a whole")
    check(first == 0 or records.begin < begin, "the range begins after the period does")
    check(last == size - 1 or records.time >= end, "the range ends before the period, and the log does not")
    if records.time < end and log.get("imported") != "True":
        limits.append("the log ends before the period does")
    if options.rule and not met(note, options.rule):
        limits.append("the quorum of the policy has not cosigned the checkpoint")
    by = "given" if options.keys else "the pack's own: compare it with one that you got elsewhere"
    found = f"{last - first + 1} records, {first} to {last} of {size}, {log['withheld']} withheld, {log['erased']} erased"
    return limits, (last, records.time), f"log {log['log']} ({key.name}): {found}; key {by}"

def reason(error):
    return error.args[0] if isinstance(error, Failed) else f"malformed ({type(error).__name__}: {error})"

def verify(options):
    """Verdict, exit code and what was found."""
    where, found = "", []
    try:
        pack = Pack(options.pack)
        manifest, drawn = read_manifest(pack, bag(pack)), parsed(pack.text("sample/population.json", FILE_BYTES_MAX))
        logs, worst = manifest["logs"], None
        ids = [log["log"] for log in logs]
        check(ids == sorted(set(ids)) and ids == [log["log"] for log in drawn["logs"]], "logs are there twice or not at all")
        files = [path for log in logs for path in (*log["cloudtrail"], *log["digests"], *(f"{path}.signature" for path in log["digests"]))]
        there = [path for path in sorted(pack.files) if path.startswith("cloudtrail/")]
        check(ids and there == sorted(files), "files below cloudtrail/ are not those of the manifest")
        for log, sample in zip(logs, drawn["logs"]):
            where = f" log {log['log']}"
            limits, at, line = verify_log(pack, manifest, log, sample, drawn["nonce"], options)
            worst, found = worst or limits and (where, *at, "; ".join(limits)), [*found, line]
        where, alerts = "", verify_alerts(pack)
    except Exception as error:
        seq = f" log {error.args[1]} seq {error.args[2]}" if len(error.args) > 2 and isinstance(error, Failed) else where
        return f"FAILED{seq}: {reason(error)}", 1, found
    found.append(f"{alerts} alerts; pack of {manifest['createdAt']} by {manifest['exportedBy']}")
    if worst:
        time = (EPOCH + datetime.timedelta(microseconds=worst[2])).isoformat()
        return f"VERIFIED-UP-TO{worst[0]} seq {worst[1]} {time}Z: {worst[3]}", 2, found
    return "VERIFIED", 0, found

def main():
    parser = argparse.ArgumentParser(description="Verifies a Keytrail evidence pack.")
    parser.error = lambda message: (parser.print_usage(sys.stderr), print(f"error: {message}", file=sys.stderr), sys.exit(64))
    parser.add_argument("pack", help="folder, or tar of it")
    parser.add_argument("--vkey", action="append", default=[], help="file with a log's verifier key, got elsewhere")
    parser.add_argument("--head", action="append", default=[], help="file with a checkpoint that you hold")
    parser.add_argument("--policy", help="tlog-policy: who must have cosigned")
    parser.add_argument("--chain", action="store_true", help="check the links between leaves, too (slow)")
    options = parser.parse_args()
    try:
        read = lambda path: open(path, encoding="utf-8").read(MIB)
        logs, options.rule = policy(read(options.policy)) if options.policy else ([], None)
        options.keys = logs + [Key(line, 1) for path in options.vkey for line in read(path).split()]
        options.heads = [read(path) for path in options.head]
        check(all(split(head) for head in options.heads) and os.path.exists(options.pack), "there is no such pack")
    except (Failed, LookupError, OSError, TypeError, ValueError) as error:
        parser.error(reason(error))
    verdict, code, found = verify(options)
    print("\n".join([verdict, *found]).encode("ascii", "backslashreplace").decode())
    return code

if __name__ == "__main__":
    sys.exit(main())
