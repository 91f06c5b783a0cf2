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
MANIFEST = """version:int tool:str createdAt:str exportedBy:str period:dict controlSet:str|NoneType redaction:dict|NoneType
    alertsWithheld:int unrecorded:str|NoneType evidenceVkey:str digestKeys:list logs:list files:dict"""
LOG = """log:str origin:str vkey:str imported:bool first:int last:int size:int root:str timeFirst:int timeLast:int
    counts:dict withheld:int erased:int cloudtrail:list digests:list parquet:list"""
DIGEST = """awsAccountId:str digestStartTime:str digestEndTime:str digestSignatureAlgorithm:str newestEventTime:str|NoneType
    oldestEventTime:str|NoneType previousDigestHashAlgorithm:str|NoneType logFiles:list"""
LOG_FILE = "s3Bucket:str s3Object:str hashValue:str hashAlgorithm:str newestEventTime:str oldestEventTime:str"
PREVIOUS = [f"previousDigest{part}" for part in ("S3Bucket", "S3Object", "HashValue", "Signature")]
DIGEST_NAMES = ["awsAccountId", "digestS3Bucket", "digestS3Object", "keytrailCheckpoint", *PREVIOUS]
OBJECT = "cloudtrail/(AWSLogs/([^/]+)/CloudTrail%s/([^/]+)/.+)"

class Failed(Exception):
    """Reason, and where they are known log and seq."""

def check(good, reason, *where):
    if not good: raise Failed(reason, *where)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def unb64(text, length=None):
    raw = base64.b64decode(text, validate=True)
    check(base64.b64encode(raw).decode() == text and length in (None, len(raw)), "base64 is malformed")
    return raw

def parsed(text, shape=""):
    """A JSON object whose members are there once each, those of the shape with their types. Numbers are below 2^53, no sign."""
    def members(pairs):
        check(len(dict(pairs)) == len(pairs), "a member of a JSON object is there twice")
        return dict(pairs)
    number = lambda text: int(text) if text.isdigit() and len(text) < 17 and int(text) < 1 << 53 else float(text)
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
D = -121665 * pow(121666, -1, P) % P

def point(raw):
    y, sign = int.from_bytes(raw, "little") & (1 << 255) - 1, raw[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    check(x * x % P == square and y < P and (x or not sign), "Ed25519 key is no point")
    return P - x if x & 1 != sign else x, y

def add(p, q):
    t = D * p[0] * p[1] * q[0] * q[1]
    return (p[0] * q[1] + p[1] * q[0]) * pow(1 + t, -1, P) % P, (p[1] * q[1] + p[0] * q[0]) * pow(1 - t, -1, P) % P

BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))

def ed25519(key, message, signature):
    (x, y), s, total = point(key), int.from_bytes(signature[32:], "little"), (0, 1)
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    picks = total, BASE, (P - x, y), add(BASE, (P - x, y))
    for bit in range(252, -1, -1):
        total = add(add(total, total), picks[(s >> bit & 1) + 2 * (k >> bit & 1)])
    return len(signature) == 64 and s < L and (total[1] | (total[0] & 1) << 255).to_bytes(32, "little") == signature[:32]

def rsa(key, message, signature):
    """With a public exponent of 65537, which the exporter's keys have."""
    der, length, value = unb64(key), len(signature), int.from_bytes(signature, "big")
    shape = struct.pack(">HHHHB", 0x3082, length + 10, 0x0282, length + 1, 0) + der[9:9 + length] + b"\2\3\1\0\1"
    check(256 <= length <= 1024 and der == shape, "RSA key is another")
    info, modulus = bytes.fromhex("003031300d060960864801650304020105000420") + sha256(message), int.from_bytes(der[9:9 + length], "big")
    return value < modulus and pow(value, 65537, modulus) == int.from_bytes(b"\1" + info.rjust(length - 2, b"\xff"), "big")

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
        made = sha256(self.name.encode(), b"\n", bytes([kind]), self.raw)[:4].hex()
        check(self.id == made and unb64(raw)[0] == kind and re.fullmatch(r"\S{1,256}", self.name), "verifier key is malformed")

    def signed(self, note):
        """Whether it signed the note; a bad signature of its own fails the note."""
        text, lines = split(note)
        own = [raw[4:] for name, raw in lines if (name, raw[:4].hex()) == (self.name, self.id)]
        for raw in own:
            head, raw = (f"cosignature/v1\ntime {int.from_bytes(raw[:8], 'big')}\n", raw[8:]) if self.kind == 4 else ("", raw)
            check(ed25519(self.raw, (head + text).encode(), raw), f"signature by key {self.name} does not verify")
        return bool(own)

def split(note):
    """Text and signature lines of a signed note."""
    text, lines = note[:note.rfind("\n\n") + 1], note[note.rfind("\n\n") + 2:]
    good = text and lines.endswith("\n") and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", note)
    check(good and len(note.encode()) <= 64 * 1024, "signed note is malformed")
    found = [re.fullmatch("\u2014 ([^ ]+) ([^ ]+)", line) for line in lines[:-1].split("\n")]
    return text, [(line[1], unb64(line[2])) for line in found]

def checkpoint(note, key):
    """Size and root in a note that the log's key has signed."""
    check(key.signed(note), f"checkpoint is not signed by key {key.name}")
    told = re.fullmatch("(.*)\n(0|[1-9][0-9]{0,19})\n(.*)\n", split(note)[0])
    check(told and told[1] == key.name and int(told[2]) < 1 << 64, f"checkpoint is malformed or not of key {key.name}")
    return int(told[2]), unb64(told[3], 32)

def policy(text):
    """Keys of the logs, who must have cosigned (C2SP tlog-policy: a witness, or how many of which), and all witnesses."""
    logs, rules, quorum, members = [], {"none": (0, [])}, [], ["none"]
    for kind, name, *rest in (line.split() for line in text.split("\n") if line.strip() and line.strip()[0] != "#"):
        if kind == "log": logs.append(Key(name, 1))
        elif kind == "quorum": quorum.append(rules[name])
        elif kind == "witness" and name not in rules: rules[name] = Key(rest[0], 4)
        else:
            check(kind == "group" and name not in rules, f"policy has a bad line of {kind} {name}")
            rules[name] = int({"all": len(rest) - 1, "any": 1}.get(rest[0], rest[0])), [rules[member] for member in rest[1:]]
            check(1 <= rules[name][0] < len(rest), f"policy has an impossible group {name}")
            members += rest[1:]
    witnesses = [rule for rule in rules.values() if isinstance(rule, Key)]
    twice = [found for found in (members, [key.raw for key in witnesses], [key.raw for key in logs]) if len(set(found)) < len(found)]
    check(len(quorum) == 1 and not twice, "policy has not one quorum, or counts someone twice")
    return logs, quorum[0], witnesses

def met(rule, cosigned):
    return rule in cosigned if isinstance(rule, Key) else sum(met(member, cosigned) for member in rule[1]) >= rule[0]

# Trees (RFC 6962); a proof is an iterator of hashes.
def node(left, right):
    return sha256(b"\1", left, right)

def half(count):
    return 1 << (count - 1).bit_length() - 1

def range_root(lo, hi, first, last, proof, leaves):
    if hi <= first and hi - lo & hi - lo - 1 == 0 or lo > last: return next(proof)
    if hi == lo + 1: return next(leaves)
    left = range_root(lo, lo + half(hi - lo), first, last, proof, leaves)
    return node(left, range_root(lo + half(hi - lo), hi, first, last, proof, leaves))

def path_root(seq, size, leaf, proof):
    if size == 1: return leaf
    k = half(size)
    inner = path_root(seq, k, leaf, proof) if seq < k else path_root(seq - k, size - k, leaf, proof)
    return node(inner, next(proof)) if seq < k else node(next(proof), inner)

def grown(old, size, root, proof):
    """Roots of the first `old` leaves and of all; `root` is the old one as long as it covers a left edge alone."""
    if old == size: return (root or next(proof),) * 2
    k = half(size)
    before, now = grown(old, k, root, proof) if old <= k else grown(old - k, size - k, None, proof)
    side = next(proof)
    return (before, node(now, side)) if old <= k else (node(side, before), node(side, now))

# The files of a pack.
class Source(io.BufferedReader):
    """A tar file whose headers cannot ask for much memory."""

    def read(self, count=-1):
        check(0 <= count <= MIB, "tar header is too large")
        return super().read(count)

def in_folder(folder, under=""):
    for entry in os.scandir(folder):
        info, name = entry.stat(follow_symlinks=False), under + entry.name
        if stat.S_ISDIR(info.st_mode) and name.count("/") < 32: yield from in_folder(entry.path, name + "/")
        else: yield name, info.st_size, stat.S_ISREG(info.st_mode), lambda path=entry.path: open(path, "rb")

def in_tar(path):
    tar = tarfile.open(fileobj=Source(io.FileIO(path)), mode="r:")
    for member in (member for member in tar if not member.isdir()):
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
        check(name in self.files and self.files[name][0] <= most, f"{name} is missing or too large")
        return self.open(name).read(most).decode()

    def lines(self, name, most=64 * 1024):
        """Ended by line feeds alone: other separators may stand in a line."""
        text = self.text(name, most)
        return text.removesuffix("\n").split("\n") if text else []

    def hashes(self, name): return [unb64(line, 32) for line in self.lines(name)]

class Member:
    """The one gzip member that a file is, unpacked as far as it is asked for."""

    def __init__(self, file):
        self.file, self.z, self.buffer, self.hash = file, zlib.decompressobj(31), bytearray(), hashlib.sha256()

    def fill(self):
        packed = self.z.unconsumed_tail or self.file.read(1 << 16)
        check(packed and not self.z.eof, "a gzip file is cut off")
        self.buffer += self.z.decompress(packed, 1 << 16)

    def read(self, count):
        while len(self.buffer) < count: self.fill()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.hash.update(taken)
        return taken

    def rest(self, most=0):
        """What is left, and SHA-256 of it all."""
        while len(self.buffer) <= most and not self.z.eof: self.fill()
        more = len(self.buffer) > most or self.z.unused_data or self.file.read(1)
        check(not more, "a gzip file goes on after its end, or unpacks to too much")
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
        total, file = hashlib.sha256(), pack.open(name)
        for block in iter(lambda: file.read(MIB), b""): total.update(block)
        check(listed[name] in (None, total.hexdigest()), f"{name} is not as the manifest says")
    pack.files = {name[5:]: file for name, file in pack.files.items() if name.startswith("data/")}
    return {name: listed["data/" + name] for name in pack.files}

def read_manifest(pack, listed):
    """Step 2."""
    manifest = typed({"alertsWithheld": 0, "unrecorded": None} | parsed(pack.text("manifest.json", FILE_BYTES_MAX)), MANIFEST)
    note, key, total = pack.text("manifest.note"), Key(manifest["evidenceVkey"], 1), listed.pop("manifest.json")
    signed = key.name == "keytrail-evidence" and key.signed(note) and split(note)[0] == f"keytrail evidence pack v1\n{total}\n"
    check(signed and manifest["version"] == 1, "manifest is of another version, or manifest.note is not its signed note")
    there = {name: {"sha256": digest, "bytes": pack.files[name][0]} for name, digest in listed.items()}
    check(there.pop("manifest.note") and manifest["files"] == there, "the manifest's files are not those of the pack")
    typed(manifest["redaction"] or {"where": "", "reason": ""}, "where:str reason:str")
    return manifest

def is_object(payload):
    """Whether everyone takes it for a JSON object: odd ones of other writers may stand in either place."""
    try:
        value = json.loads(payload.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return isinstance(value, dict) and payload.count(b"{") + payload.count(b"[") < 100
    except (ValueError, RecursionError): return False

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
            except Exception as error: raise Failed(reason(error), log["log"], seq) from None
            link = struct.pack("<8I", *blake3(raw, 64, LINKS)) if self.links else None
            yield sha256(b"\0", raw)
        file.rest()
        check(not self.open and len(self.hashes) == len(log["cloudtrail"]), "a CloudTrail file has records of no leaf")

    def record(self, file, seq, least, link):
        status, index, raw = struct.unpack(">BI110s", file.read(115))
        version, log, epoch, at, kind, time, length, digest, previous = LEAF.unpack(raw)
        check((version, log.hex(), at) == (1, self.log["log"], seq), "leaf is not the next one of the log")
        check(1 <= kind <= 11 and length <= 256 * 1024 and (status == 0 or status <= 2 and index == ABSENT), "leaf is malformed")
        check(epoch >= least and time >= self.time and link in (None, previous), "epoch or time falls, or the link before is broken")
        if status == 0:
            salt, payload = file.read(16), file.read(length) if index == ABSENT else self.event(index, length, time // HOUR * HOUR)
            check(sha256(salt, payload) == digest, "payload does not match its leaf")
            fits = not is_object(payload) if index == ABSENT else payload.lstrip()[:1] == b"{"
            check(fits if kind == 1 else index == ABSENT, "payload stands where it does not belong")
        if kind == 1 and (self.log.get("imported") is True or self.period[0] <= time < self.period[1]):
            self.population.update(struct.pack(">Q", seq))
            if self.inside in self.sample: self.sample[self.inside] = seq, raw
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
        if mark == b"]": self.hashes[path] = self.open.pop(path)[0].rest()[1], hour
        return payload

def verify_digests(pack, manifest, records, note):
    """Step 6: a chain of hourly digests for each account and region, and each log file in one of them."""
    keys, chains, left = {key["fingerprint"]: key["publicKey"] for key in manifest["digestKeys"]}, {}, dict(records.hashes)
    for path in records.log["digests"]:
        name, *place = re.fullmatch(OBJECT % "-Digest", path).groups()
        (raw, total), signature = Member(pack.open(path)).rest(FILE_BYTES_MAX), pack.text(path + ".signature")
        begin, *before = chains.get(tuple(place), (records.begin // HOUR * HOUR, None, None, None, None))
        digest, told = parsed(raw.decode(), DIGEST), dict(zip(DIGEST_NAMES, (place[0], BUCKET, name, note, *before)))
        check({**told, **digest} == {**digest, **told}, f"{name} is of another account, name or checkpoint, or follows another digest")
        check((micros(digest["digestStartTime"]), micros(digest["digestEndTime"])) == (begin, begin + HOUR), f"{name} is of another hour")
        message = "\n".join((digest["digestEndTime"], f"{BUCKET}/{name}", total, before[3] or "null")).encode()
        good = re.fullmatch("([0-9a-f]{2})+", signature)
        check(good and rsa(keys[digest["digestPublicKeyFingerprint"]], message, bytes.fromhex(signature)), f"{name} is not signed")
        for file in (typed(file, LOG_FILE) for file in digest["logFiles"]):
            found = re.fullmatch(OBJECT % "", "cloudtrail/" + file["s3Object"])
            good = file["s3Bucket"] == BUCKET and [found[2], found[3]] == place
            check(good and left.pop(found[0], None) == (file["hashValue"], begin), f"{name} names a log file that is not this one")
        chains[tuple(place)] = begin + HOUR, BUCKET, name, total, signature
    ends = {chain[0] for chain in chains.values()} <= {records.time // HOUR * HOUR + HOUR}
    check(ends and not left, f"the newest digests are missing, or log files are in no digest: {sorted(left)[:1]}")

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
        check(path_root(seq, size, sha256(b"\0", raw), proof) == root and not list(proof), f"proof of seq {seq} does not hold")

def verify_alerts(pack):
    name, key = "alerts/alerts.jsonl", None
    for line in pack.lines(name, FILE_BYTES_MAX) if name in pack.files else []:
        key, alert = key or Key(pack.text("alerts/vkey").strip(), 1), parsed(line)
        check(ed25519(key.raw, b"keytrail alert v1\n" + alert["alert"].encode(), unb64(alert["signature"], 64)), "alert is not signed")

def verify_head(pack, log, old, known, size, root, lefts, seen):
    """Step 5 for a checkpoint from elsewhere: whether it could be compared."""
    good, name = None, f"logs/{log['log']}/consistency-{old}"
    if old in (0, size):
        good = known == (root if old else sha256())
    elif old < size and name in pack.files:
        proof = iter(pack.hashes(name))
        good = grown(old, size, known, proof) == (known, root) and not list(proof)
    elif log["first"] <= old <= log["last"] + 1:
        good = known == range_root(0, old, log["first"], old - 1, iter(lefts), iter(seen))
    check(good is not False, f"the log has another root at size {old} than a checkpoint from elsewhere", log["log"], max(old, 1) - 1)
    return good

def verify_log(pack, manifest, log, sample, nonce, options):
    """Steps 3 to 9 for one log: what keeps the verdict from VERIFIED, and what was found."""
    folder, first, last, imported = f"logs/{log['log']}/", log["first"], log["last"], log.get("imported") is True
    note, keys = pack.text(folder + "checkpoint"), options.keys or [Key(log["vkey"], 1)]
    key = next((key for key in keys if key.name == log["origin"]), None)
    check(key, f"no verifier key is that of {log['origin']}")
    size, root = checkpoint(note, key)
    begin, end = micros(manifest["period"]["from"]), micros(manifest["period"]["to"])
    told = {**log, "size": size, "root": root.hex(), "log": sha256(key.name.encode())[:16].hex()}
    check(log == told and first <= last < size and begin < end, "manifest, checkpoint and range do not fit each other")
    heads = [checkpoint(head, key) for head in options.heads if head.startswith(key.name + "\n")]
    heads += [checkpoint(pack.text(folder + "previous"), key)] if folder + "previous" in pack.files else []
    cosigned = [witness for witness in options.witnesses if witness.signed(note)]
    records = Records(pack, log, (begin, end), draw(sample, note, nonce) if sample else {}, options.chain)
    leaves, lefts, seen = iter(records), pack.hashes(folder + "range-proof"), []
    proof, watched = iter(lefts), (seen.append(leaf) or leaf for leaf in leaves) if heads else leaves
    good = range_root(0, size, first, last, proof, watched) == root and not [*watched, *proof]
    check(good, "leaves and range proof do not give the checkpoint's root")
    counted = dict(counts=records.counts, withheld=records.status[1], erased=records.status[2], timeFirst=records.begin, timeLast=records.time)
    check(log == {**log, **counted}, "counts or times are not those of the manifest")
    check(not log["withheld"] or manifest["redaction"], "records are withheld, but the manifest declares no redaction")
    compared = [verify_head(pack, log, *head, size, root, lefts, seen) for head in heads]
    verify_digests(pack, manifest, records, note)
    if sample: verify_sample(pack, sample, records, note, size, root)
    begins, ends = not imported and records.begin < begin, not imported and records.time >= end
    check(first == 0 or begins, "the range begins after the period does, or is not the whole of an imported log", log["log"], first)
    check(last == size - 1 or ends, "the range ends before the period, and the log does not", log["log"], last)
    limits = [] if ends or imported else ["the log ends before the period does"]
    limits += [] if all(compared) else ["a checkpoint from elsewhere cannot be compared with this pack"]
    limits += [] if met(options.rule, cosigned) else ["the quorum of the policy has not cosigned"]
    time = (EPOCH + datetime.timedelta(microseconds=min(records.time, 1 << 57))).isoformat()
    found = f"seq {first} to {last} of {size}, {log['withheld']} withheld, {log['erased']} erased"
    by = "given" if options.keys else "the pack's own: compare it with one that you got elsewhere"
    return limits and f"seq {last} at {time}Z: {'; '.join(limits)}", f"log {log['log']} ({key.name}): {found}; key {by}"

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
        samples = {typed(sample, "log:str seed:str count:int sha256:str drawn:list")["log"]: sample for sample in drawn["logs"]} if drawn else {}
        check(ids and ids == sorted(set(ids)) and (not drawn or drawn["version"] == 1 and ids == list(samples)), "logs are others")
        files = [path for log in logs for path in log["cloudtrail"] + log["parquet"]]
        files += [path + end for log in logs for path in log["digests"] for end in ("", ".signature")]
        files += [f"sample/{log}/{seq}.tlog-proof" for log, sample in samples.items() for seq in sample["drawn"]]
        there = [path for path in sorted(pack.files) if re.match("cloudtrail/|parquet/|.*[.]tlog-proof$", path)]
        check(there == sorted(files), "files of records are not those that the manifest and the sample name")
        verify_alerts(pack)
        for log in logs:
            where = f" log {log['log']}"
            limits, line = verify_log(pack, manifest, log, samples.get(log["log"]), drawn and drawn["nonce"], options)
            worst, found = worst or limits and f"VERIFIED-UP-TO{where} {limits}", [*found, line]
    except Exception as error:
        seq = f" log {error.args[1]} seq {error.args[2]}" if len(error.args) > 2 and isinstance(error, Failed) else where
        return f"FAILED{seq}: {reason(error)}", 1, found
    return worst or "VERIFIED", 2 if worst else 0, [*found, f"pack of {manifest['createdAt']} by {manifest['exportedBy']}"]

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
        options.keys, options.rule, options.witnesses = policy(read(options.policy) if options.policy else "quorum none")
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
