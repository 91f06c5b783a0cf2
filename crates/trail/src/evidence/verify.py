#!/usr/bin/env python3
"""Verifies a Keytrail evidence pack, a folder or a tar of it, with Python 3.9 or newer alone, offline.

    python3 verify.py PACK [--vkey FILE]... [--head NOTE]... [--policy FILE] [--chain]

VERIFIED (exit 0), VERIFIED-UP-TO seq and time with the reason (exit 2), FAILED with log, seq and reason (exit 1); exit 64
when called wrongly. The format: docs/evidence.md and docs/chain.md of Keytrail, with which this program shares no code.
It only reads, and whatever is malformed fails. Parquet is checked for its hashes alone; links between leaves, which the
tree covers, only with --chain, as BLAKE3 is slow in Python.
"""
import argparse, base64, datetime, functools, hashlib, io, json, os, re, stat, struct, sys, tarfile, zlib

MIB, HOUR, ABSENT = 1 << 20, 3_600_000_000, 0xFFFFFFFF
FILES_MAX, FILE_BYTES_MAX, OPEN_MAX, SAMPLE_MAX = 1_000_000, 256 * MIB, 256, 10_000
LEAF, EPOCH, BUCKET = struct.Struct(">B16sQQBQI32s32s"), datetime.datetime(1970, 1, 1), "keytrail-evidence"
MANIFEST = """version:int tool:str createdAt:str exportedBy:str period:dict controlSet:str|NoneType redaction:dict|NoneType
    alertsWithheld:int evidenceVkey:str digestKeys:list logs:list files:dict"""
LOG = """log:str origin:str vkey:str imported:bool first:int last:int size:int root:str timeFirst:int timeLast:int
    counts:dict withheld:int erased:int cloudtrail:list digests:list parquet:list"""
DIGEST = """awsAccountId:str digestStartTime:str digestEndTime:str digestSignatureAlgorithm:str newestEventTime:str|NoneType
    oldestEventTime:str|NoneType previousDigestHashAlgorithm:str|NoneType logFiles:list"""
SAMPLE = "log:str seed:str count:int sha256:str drawn:list"
LOG_FILE = "s3Bucket:str s3Object:str hashValue:str hashAlgorithm:str newestEventTime:str oldestEventTime:str"
OBJECT = "cloudtrail/(AWSLogs/([^/]+)/CloudTrail%s/([^/]+)/.+)"

class Failed(Exception):
    """Reason, and where they are known log and seq."""

def check(good, reason, *where):
    if not good:
        raise Failed(reason, *where)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def unb64(text, length=None):
    raw = base64.b64decode(text, validate=True)
    check(base64.b64encode(raw).decode() == text and length in (None, len(raw)), "base64 is malformed")
    return raw

def parsed(text, shape=""):
    """A JSON object whose members are there once each, those of the shape with their types. Numbers have 64 bits, no sign."""
    def members(pairs):
        check(len(dict(pairs)) == len(pairs), "a member of a JSON object is there twice")
        return dict(pairs)
    number = lambda text: int(text) if len(text) < 21 and 0 <= int(text) < 1 << 64 else float(text)
    return typed(json.loads(text, object_pairs_hook=members, parse_int=number, parse_constant=float), shape)

def typed(value, shape):
    for name, kinds in (item.split(":") for item in shape.split()):
        check(type(value.get(name)).__name__ in kinds.split("|"), f"member {name} is not of its type")
    return value

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
    for kind, name, *rest in (line.split() for line in text.split("\n") if line.strip() and line.strip()[0] != "#"):
        if kind == "log":
            logs.append(Key(name, 1))
        elif kind == "quorum":
            quorum.append(rules[name])
        else:
            check(kind in ("witness", "group") and name not in rules, f"policy has a bad line of {kind} {name}")
            least = int({"all": len(rest) - 1, "any": 1}.get(rest[0], rest[0])) if kind == "group" else 1
            rules[name] = Key(rest[0], 4) if kind == "witness" else (least, [rules[member] for member in rest[1:]])
            check(kind == "witness" or 1 <= least < len(rest), f"policy has an impossible group {name}")
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

    def blocks(self, name):
        with self.open(name) as file:
            yield from iter(lambda: file.read(MIB), b"")

    def text(self, name, most=64 * 1024):
        check(name in self.files and self.files[name][0] <= most, f"{name} is missing or too large")
        return b"".join(self.blocks(name)).decode()

    def lines(self, name, most=64 * 1024):
        """Ended by line feeds alone: other separators may stand in a line."""
        text = self.text(name, most)
        return text.removesuffix("\n").split("\n") if text else []

    def hashes(self, name):
        return [unb64(line, 32) for line in self.lines(name)]

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
        for line in pack.lines(name, FILE_BYTES_MAX):
            digest, path = re.fullmatch("([0-9a-f]{64})  (.+)", line).groups()
            check(path not in listed and path.startswith("data/") == (name[0] == "m"), f"{name} has a wrong line of {path}")
            listed[path] = digest
    for name in sorted({*pack.files, *listed}):
        check(name in listed, f"{name} is in no manifest")
        total = hashlib.sha256()
        for block in pack.blocks(name):
            total.update(block)
        check(listed[name] in (None, total.hexdigest()), f"{name} is not as the manifest says")
    pack.files = {name[5:]: file for name, file in pack.files.items() if name.startswith("data/")}
    return {name: listed["data/" + name] for name in pack.files}

def read_manifest(pack, listed):
    """Step 2."""
    text, note = pack.text("manifest.json", FILE_BYTES_MAX), pack.text("manifest.note")
    manifest, total = typed({"alertsWithheld": 0} | parsed(text), MANIFEST), listed.pop("manifest.json")
    key = Key(manifest["evidenceVkey"], 1)
    check(manifest["version"] == 1, "manifest is of a version that is not known")
    check(key.name == "keytrail-evidence" and key.signed(note) is not None, "manifest.note is not signed by its key")
    check(split(note)[0] == f"keytrail evidence pack v1\n{total}\n", "manifest.note is for another manifest")
    there = {name: {"sha256": digest, "bytes": pack.files[name][0]} for name, digest in listed.items()}
    check(there.pop("manifest.note") and manifest["files"] == there, "the manifest's files are not those of the pack")
    typed(manifest["redaction"] or {"where": "", "reason": ""}, "where:str reason:str")
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
            payload = file.read(length) if index == ABSENT else self.event(index, length, time // HOUR * HOUR)
            check(sha256(salt, payload) == digest, "payload does not match its leaf")
            fits = not is_object(payload) if index == ABSENT else payload.lstrip()[:1] == b"{"
            check(fits if kind == 1 else index == ABSENT, "payload stands where it does not belong")
        check(status == 0 or index == ABSENT, "payload is said to be absent and to be in a file")
        if kind == 1 and (self.log.get("imported") is True or self.period[0] <= time < self.period[1]):
            self.population.update(struct.pack(">Q", seq))
            if self.inside in self.sample:
                self.sample[self.inside] = seq, raw
            self.inside += 1
        self.counts[str(kind)], self.status[status] = self.counts.get(str(kind), 0) + 1, self.status[status] + 1
        self.begin, self.time = time if self.begin is None else self.begin, time
        return epoch, raw

    def event(self, index, length, hour):
        path = self.log["cloudtrail"][index]
        if path not in self.open:
            check(path not in self.hashes and len(self.open) < OPEN_MAX, "a CloudTrail file has ended, or one too many is open")
            self.open[path] = Member(self.pack.open(path)), hour
            check(self.open[path][0].read(12) == b'{"Records":[', "a CloudTrail file begins otherwise")
        file, begun = self.open[path]
        payload, mark = file.read(length), file.read(1)
        check(begun == hour and (mark == b"," or mark + file.read(1) == b"]}"), "a CloudTrail file goes on otherwise")
        if mark == b"]":
            self.hashes[path] = self.open.pop(path)[0].rest()[1], hour
        return payload

def verify_digests(pack, manifest, records, note):
    """Step 6: a chain of hourly digests for each account and region, and each log file in one of them."""
    keys, chains, left = {key["fingerprint"]: key["publicKey"] for key in manifest["digestKeys"]}, {}, dict(records.hashes)
    for path in records.log["digests"]:
        name, *place = re.fullmatch(OBJECT % "-Digest", path).groups()
        (raw, total), signature = Member(pack.open(path)).rest(FILE_BYTES_MAX), pack.text(path + ".signature")
        digest, first = parsed(raw.decode(), DIGEST), (records.begin // HOUR * HOUR, None, None, None, None)
        begin, *before = chains.get(tuple(place), first)
        previous = [digest.get("previousDigest" + part) for part in ("S3Bucket", "S3Object", "HashValue", "Signature")]
        times = micros(digest["digestStartTime"]), micros(digest["digestEndTime"])
        check(previous == before and times == (begin, begin + HOUR), f"{name} does not follow the digest before it")
        named = digest["awsAccountId"], digest["digestS3Bucket"], digest["digestS3Object"], digest["keytrailCheckpoint"]
        check(named == (place[0], BUCKET, name, note), f"{name} is of another account, name or checkpoint")
        message = "\n".join((digest["digestEndTime"], f"{BUCKET}/{name}", total, previous[3] or "null")).encode()
        good = re.fullmatch("([0-9a-f]{2})+", signature)
        check(good and rsa(keys[digest["digestPublicKeyFingerprint"]], message, bytes.fromhex(signature)), f"{name} is not signed")
        for file in (typed(file, LOG_FILE) for file in digest["logFiles"]):
            found = re.fullmatch(OBJECT % "", "cloudtrail/" + file["s3Object"])
            good = file["s3Bucket"] == BUCKET and [found[2], found[3]] == place
            check(good and left.pop(found[0], None) == (file["hashValue"], begin), f"{name} names a log file that is not this one")
        chains[tuple(place)] = begin + HOUR, BUCKET, name, total, signature
    check(not left, f"log files are in no digest: {sorted(left)[:1]}")
    check(not {chain[0] for chain in chains.values()} - {records.time // HOUR * HOUR + HOUR}, "the newest digests are missing")

def draw(sample, note, nonce):
    """Step 8: indexes into the population, drawn anew."""
    seed, counter, drawn = sha256(note.encode(), nonce.encode()), 0, {}
    check(sample["seed"] == seed.hex() and len(sample["drawn"]) <= min(sample["count"], SAMPLE_MAX), "sample has another seed")
    while len(drawn) < len(sample["drawn"]):
        drawn[int.from_bytes(sha256(seed, struct.pack(">Q", counter))[:8], "big") % sample["count"]] = None
        counter += 1
    return drawn

def verify_sample(pack, sample, records, note, size, root):
    good = (records.inside, records.population.hexdigest()) == (sample["count"], sample["sha256"])
    check(good and [seq for seq, _ in records.sample.values()] == sample["drawn"], "sample is not the one that is drawn")
    for seq, raw in records.sample.values():
        text = pack.text(f"sample/{sample['log']}/{seq}.tlog-proof", MIB)
        head = f"c2sp.org/tlog-proof@v1\nextra {base64.b64encode(raw).decode()}\nindex {seq}\n"
        check(text.startswith(head) and text.endswith("\n" + note), f"proof of seq {seq} is for another record")
        proof = iter([unb64(line, 32) for line in text[len(head):-len(note) - 1].split("\n")[:-1]])
        good = path_root(seq, size, sha256(b"\0", raw), proof) == root and not list(proof)
        check(good, f"proof of seq {seq} does not hold")

def verify_alerts(pack):
    name, key = "alerts/alerts.jsonl", None
    for line in pack.lines(name, FILE_BYTES_MAX) if name in pack.files else []:
        key, alert = key or Key(pack.text("alerts/vkey").strip(), 1), parsed(line)
        message = b"keytrail alert v1\n" + alert["alert"].encode()
        check(ed25519(key.raw, message, unb64(alert["signature"], 64)), "an alert is not signed by alerts/vkey")

def verify_head(pack, log, old, known, size, root, lefts, seen):
    """Step 5 for a checkpoint that the auditor holds: whether it could be compared."""
    first, name, found = log["first"], f"logs/{log['log']}/consistency-{old}", None
    if old in (0, size):
        found = root if old else sha256()
    elif first < old <= log["last"] + 1:
        found = range_root(0, old, first, old - 1, iter(lefts), iter(seen))
    elif old == first:
        found = functools.reduce(lambda right, left: node(left, right), lefts[:bin(first).count("1")][::-1])
    elif old < size and name in pack.files:
        proof = iter(pack.hashes(name))
        found = known if grown(old, size, known, proof) == (known, root) and not list(proof) else b""
    other = f"the log has another root at size {old} than a checkpoint that was given"
    check(found in (None, known), other, log["log"], max(old, 1) - 1)
    return found is not None

def verify_log(pack, manifest, log, sample, nonce, options):
    """Steps 3 to 9 for one log: what keeps the verdict from VERIFIED, and what was found."""
    folder, first, last, imported = f"logs/{log['log']}/", log["first"], log["last"], log.get("imported") is True
    note, keys = pack.text(folder + "checkpoint"), options.keys or [Key(log["vkey"], 1)]
    key = next((key for key in keys if key.name == log["origin"]), None)
    check(key, f"no verifier key is that of {log['origin']}")
    size, root = checkpoint(note, key)
    good = (size, root.hex(), sha256(key.name.encode())[:16].hex()) == (log["size"], log["root"], log["log"])
    begin, end = micros(manifest["period"]["from"]), micros(manifest["period"]["to"])
    check(good and first <= last < size and begin < end, "manifest, checkpoint and range do not fit each other")
    heads = [checkpoint(head, key) for head in options.heads if head.startswith(key.name + "\n")]
    records = Records(pack, log, (begin, end), draw(sample, note, nonce) if sample else {}, options.chain)
    leaves, lefts, seen = iter(records), pack.hashes(folder + "range-proof"), []
    proof, watched = iter(lefts), (seen.append(leaf) or leaf for leaf in leaves) if heads else leaves
    good = range_root(0, size, first, last, proof, watched) == root and next(watched, None) is None and not list(proof)
    check(good, "leaves and range proof do not give the checkpoint's root")
    counted = records.counts, records.status[1], records.status[2], records.begin, records.time
    told = log["counts"], log["withheld"], log["erased"], log["timeFirst"], log["timeLast"]
    check(counted == told, "counts or times are not those of the manifest")
    check(not log["withheld"] or manifest["redaction"], "records are withheld, but the manifest declares no redaction")
    compared = [verify_head(pack, log, *head, size, root, lefts, seen) for head in heads]
    verify_digests(pack, manifest, records, note)
    if sample:
        verify_sample(pack, sample, records, note, size, root)
    check(not imported or first == 0 and last == size - 1, "an imported log is not there as a whole")
    check(imported or first == 0 or records.begin < begin, "the range begins after the period does", log["log"], first)
    check(last == size - 1 or records.time >= end, "the range ends before the period, and the log does not", log["log"], last)
    limits = [] if imported or records.time >= end else ["the log ends before the period does"]
    limits += [] if all(compared) else ["a checkpoint that was given cannot be compared with this pack"]
    limits += [] if not options.rule or met(note, options.rule) else ["the quorum of the policy has not cosigned"]
    by = "given" if options.keys else "the pack's own: compare it with one that you got elsewhere"
    found = f"{last - first + 1} records, {first} to {last} of {size}, {log['withheld']} withheld, {log['erased']} erased"
    return limits, (last, records.time), f"log {log['log']} ({key.name}): {found}; key {by}"

def reason(error):
    return error.args[0] if isinstance(error, Failed) else f"malformed ({type(error).__name__}: {error})"

def verify(options):
    """Verdict, exit code and what was found."""
    where, found, worst, name = "", [], None, "sample/population.json"
    try:
        pack = Pack(options.pack)
        manifest = read_manifest(pack, bag(pack))
        logs, drawn = manifest["logs"], parsed(pack.text(name, FILE_BYTES_MAX), "version:int nonce:str logs:list") if name in pack.files else None
        ids = [typed({"imported": False} | log, LOG)["log"] for log in logs]
        samples = {typed(sample, SAMPLE)["log"]: sample for sample in drawn["logs"]} if drawn else {}
        check(ids and ids == sorted(set(ids)) and (not drawn or drawn["version"] == 1 and ids == list(samples)), "logs are others")
        files = [path for log in logs for path in (*log["cloudtrail"], *log["digests"], *log["parquet"])]
        files += [path + ".signature" for log in logs for path in log["digests"]]
        files += [f"sample/{log}/{seq}.tlog-proof" for log, sample in samples.items() for seq in sample["drawn"]]
        there = [path for path in sorted(pack.files) if re.match("cloudtrail/|parquet/|.*[.]tlog-proof$", path)]
        check(there == sorted(files), "files of records are not those that the manifest and the sample name")
        for log in logs:
            where = f" log {log['log']}"
            limits, at, line = verify_log(pack, manifest, log, samples.get(log["log"]), drawn and drawn["nonce"], options)
            worst, found = worst or limits and (where, *at, "; ".join(limits)), [*found, line]
        where = ""
        verify_alerts(pack)
    except Exception as error:
        seq = f" log {error.args[1]} seq {error.args[2]}" if len(error.args) > 2 and isinstance(error, Failed) else where
        return f"FAILED{seq}: {reason(error)}", 1, found
    found.append(f"pack of {manifest['createdAt']} by {manifest['exportedBy']}")
    if worst:
        time = (EPOCH + datetime.timedelta(microseconds=min(worst[2], 1 << 57))).isoformat()
        return f"VERIFIED-UP-TO{worst[0]} seq {worst[1]} at {time}Z: {worst[3]}", 2, found
    return "VERIFIED", 0, found

def main():
    parser = argparse.ArgumentParser(description="Verifies a Keytrail evidence pack.")
    parser.error = lambda message: sys.exit(print(f"{parser.format_usage()}error: {message}", file=sys.stderr) or 64)
    parser.add_argument("pack", help="folder, or tar of it")
    parser.add_argument("--vkey", action="append", default=[], help="file with a log's verifier key, got elsewhere")
    parser.add_argument("--head", action="append", default=[], help="file with a checkpoint that you hold")
    parser.add_argument("--policy", help="tlog-policy: who must have cosigned")
    parser.add_argument("--chain", action="store_true", help="check the links between leaves, too (slow)")
    options = parser.parse_args()
    try:
        read = lambda path: open(path, encoding="utf-8").read(MIB)
        options.keys, options.rule = policy(read(options.policy)) if options.policy else ([], None)
        options.keys += [Key(line, 1) for path in options.vkey for line in read(path).split()]
        options.heads = [read(path) for path in options.head]
        check(all(split(head) for head in options.heads) and os.path.exists(options.pack), "there is no such pack")
    except Exception as error:
        parser.error(reason(error))
    verdict, code, found = verify(options)
    print("\n".join(re.sub("[^ -~]", "?", line) for line in [verdict, *found]))
    return code

if __name__ == "__main__":
    sys.exit(main())
