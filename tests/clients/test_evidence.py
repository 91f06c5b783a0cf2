"""Evidence packs that were tampered with, before three verifiers and the AWS CLI.

Each case is what someone with certain keys could hand to an auditor, made from a real pack. Nobody's keys: the bag's hashes are
made anew. The exporter's keys (`DIR/evidence`): manifest, note and digests are signed anew, too. The log's key: so is the
checkpoint. The table in docs/evidence-tampering.md is what was found here; KEYTRAIL_EVIDENCE_TABLE=write writes it.
"""

import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

import duckdb
import pytest

import packs
from browser import Browser
from packs import ABSENT, BUCKET, Keys, Pack, Signer, b64, sha256
from past import Past, event, records
from service import ACCOUNT, KEYTRAIL, REGION, ROOT, run

START = 1_767_614_400_000_000
STEP = 240_000_000
PERIOD = ("2026-01-05T12:30:00Z", "2026-01-05T20:00:00Z")
PAGE = packs.VERIFIER.with_suffix(".html")
TABLE = ROOT / "docs/evidence-tampering.md"
WORDS = {0: "VERIFIED", 1: "FAILED", 2: "VERIFIED-UP-TO"}


class Verdict:
    def __init__(self, word, seq, line):
        self.word, self.seq, self.line = word, seq, line

    def __repr__(self):
        return self.line

    def cell(self):
        return self.word if self.seq is None else f"{self.word} seq {self.seq}"


def judged(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode in WORDS, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    line = done.stdout.splitlines()[0]
    assert line.split()[0].rstrip(":") == WORDS[done.returncode], f"exit {done.returncode} with {line}"
    seq = re.search(r" seq (\d+)", line.split(":")[0])
    return Verdict(WORDS[done.returncode], seq and int(seq[1]), line)


def by_rust(pack, *flags):
    return judged(KEYTRAIL, "verify", pack, *flags)


def by_python(pack, *flags):
    return judged(sys.executable, packs.VERIFIER, pack, "--chain", *flags)


@contextlib.contextmanager
def served(pack):
    """The address of `keytrail evidence serve`, and the commands that it prints."""
    command = [KEYTRAIL, "evidence", "serve", str(pack)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        lines = []
        for line in server.stdout:
            if line.startswith("ready "):
                break
            lines.append(line.strip())
        yield line.split("evidence=")[1].strip(), lines
        server.terminate()
        assert server.wait(30) == 0


def validate(pack, log8):
    """What `aws cloudtrail validate-logs` makes of the trail of the first account: its exit code and what it counts."""
    with served(pack) as (address, _):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        environment |= {"AWS_CONFIG_FILE": os.devnull, "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1"}
        # The bucket is named: a pack from which all digests are gone names no trail any more.
        arn = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/keytrail-{log8}"
        command = ["aws", "cloudtrail", "validate-logs", "--region", REGION, "--trail-arn", arn, "--s3-bucket", BUCKET]
        command += ["--start-time", "2026-01-05T11:00:00Z", "--end-time", "2026-01-05T23:00:00Z"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return done.returncode, done.stdout + done.stderr


class Stage:
    """A data folder with a past, a pack of it, and what an auditor and an attacker hold."""

    def __init__(self, folder):
        self.past = Past(folder / "data").add(records(START, STEP, 130)).close()
        self.pack = self.past.export(folder / "pack", *PERIOD, "--nonce", "chosen", "--sample", 3)
        self.keys = Keys.of_folder(self.past.folder)
        self.manifest = json.loads((self.pack / "data/manifest.json").read_bytes())
        [self.log] = self.manifest["logs"]
        self.vkey, self.head = folder / "vkey", folder / "head"
        self.vkey.write_text(self.past.signer.vkey + "\n")
        # A checkpoint that the auditor kept: of a size inside of the range.
        self.head.write_text(self.past.head(60))

    def without_log_key(self):
        return Keys(self.keys.pack, self.keys.digest)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("evidence"))


class Copy:
    """A pack's files to tamper with."""

    def __init__(self, stage, folder):
        shutil.copytree(stage.pack, folder)
        self.folder, self.data, self.keys = folder, folder / "data", stage.without_log_key()
        self.manifest = json.loads((self.data / "manifest.json").read_bytes())
        [self.log] = self.manifest["logs"]
        place = f"/{ACCOUNT}/CloudTrail-Digest/{REGION}/"
        self.digests = [path for path in self.log["digests"] if place in path]

    def path(self, name):
        return self.data / name

    def read(self, name):
        return gzip.decompress(self.path(name).read_bytes())

    def put(self, name, raw):
        self.path(name).write_bytes(gzip.compress(raw, mtime=0))

    def digest(self, index):
        return json.loads(self.read(self.digests[index]))

    def sign(self, index, digest):
        """A digest in the place of one that was there, signed."""
        packed, signature, told = packs.sign_digest(digest, self.keys)
        self.path(self.digests[index]).write_bytes(packed)
        self.path(self.digests[index] + ".signature").write_text(signature)
        return told

    def sign_from(self, index):
        """The digests from here on, each following the one before."""
        before = None
        for at in range(index, len(self.digests)):
            digest = self.digest(at)
            for file in digest["logFiles"]:
                file["hashValue"] = sha256(self.read("cloudtrail/" + file["s3Object"])).hex()
            if before:
                names = ("previousDigestS3Object", "previousDigestHashValue", "previousDigestSignature")
                digest |= dict(zip(names, before))
            before = self.sign(at, digest)

    def drop(self, *names):
        for name in names:
            self.path(name).unlink()
            for kind in ("cloudtrail", "digests"):
                self.log[kind] = [path for path in self.log[kind] if path != name]

    def drop_digest(self, index, with_logs=False):
        name = self.digests[index]
        files = ["cloudtrail/" + file["s3Object"] for file in self.digest(index)["logFiles"]] if with_logs else []
        self.drop(name, name + ".signature", *files)

    def reseal(self):
        """Manifest, note and bag as the exporter would make them."""
        (self.data / "manifest.json").write_text(json.dumps(self.manifest))
        packs.reseal(self.folder, self.keys)

    def first_seq_of(self, name):
        """Of the first record whose payload is in a CloudTrail file."""
        return self.seqs_of(name)[0]

    def seqs_of(self, name):
        index, raw, at, found = self.index_of(name), self.read(f"logs/{self.log['log']}/leaves.gz"), 0, []
        for seq in range(self.log["first"], self.log["last"] + 1):
            status, file = raw[at], int.from_bytes(raw[at + 1:at + 5], "big")
            length = int.from_bytes(raw[at + 47:at + 51], "big")
            at += 115 + (0 if status else 16) + (length if file == ABSENT and not status else 0)
            found += [seq] if file == index else []
        return found

    def index_of(self, name):
        return json.loads((self.data / "manifest.json").read_bytes())["logs"][0]["cloudtrail"].index(name)


def test_a_pack_verifies_in_every_way(stage, tmp_path):
    assert (stage.pack / "data/verify.py").read_bytes() == packs.VERIFIER.read_bytes()
    assert (stage.pack / "data/verify.html").read_bytes() == PAGE.read_bytes()
    tar = stage.past.export(tmp_path / "pack.tar", *PERIOD)
    loose = tmp_path / "loose.tar"
    with tarfile.open(loose, "w") as out:
        for path in sorted(stage.pack.rglob("*")):
            out.add(path, path.relative_to(stage.pack).as_posix(), recursive=False)
    help_ = ["--vkey", stage.vkey, "--head", stage.head]
    for pack in (stage.pack, tar):
        assert [by_rust(pack, *help_).word, by_python(pack, *help_).word] == ["VERIFIED"] * 2
    own = judged(sys.executable, stage.pack / "data/verify.py", loose, *help_)
    assert own.word == "VERIFIED"
    run("sha256sum", "--quiet", "-c", "manifest-sha256.txt", cwd=stage.pack)
    called_wrongly = subprocess.run([sys.executable, packs.VERIFIER, tmp_path / "nothing"], capture_output=True)
    assert called_wrongly.returncode == 64


def test_the_aws_cli_validates_a_pack_as_the_server_says(stage):
    with served(stage.pack) as (address, commands):
        assert len(commands) == 2 and all(address in command for command in commands)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        for command in commands:
            done = run("sh", "-c", command, env=environment | {"AWS_CONFIG_FILE": os.devnull, "AWS_PAGER": ""})
            valid = re.findall(r"(\d+)/(\d+) (digest|log) files valid", done.stdout)
            assert {kind for _, _, kind in valid} == {"digest", "log"} and all(some == all_ for some, all_, _ in valid)

        def get(path, **headers):
            with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"))) as connection:
                connection.request("GET", path, headers=headers)
                return connection.getresponse().status

        for outside in ("AWSLogs/..%2f..%2fmanifest.json", "../manifest.json", "%2e%2e/manifest.json"):
            assert get(f"/{BUCKET}/{outside}") == 404
        assert get(f"/{BUCKET}?location") == 200
        assert get(f"/{BUCKET}?location", Host="rebound.example") == 403
    refused = run(KEYTRAIL, "evidence", "serve", stage.pack, "--listen", "0.0.0.0:0", check=False)
    assert refused.returncode != 0 and "loopback" in refused.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


def by_page(browser, pack, *, folder=False, drop=False, keys="", heads="", policy=""):
    browser.open(PAGE)
    for name, value in (("keys", keys), ("heads", heads), ("policy", policy)):
        browser.evaluate(f"document.getElementById('{name}').value = {json.dumps(value)}")
    if drop:
        browser.drop(pack)
    else:
        browser.choose("#folder" if folder else "#tar", pack)
    word = browser.wait("document.body.dataset.verdict")
    line = browser.evaluate("document.body.dataset.line")
    seq = re.search(r" seq (\d+)", line.split(":")[0])
    assert browser.evaluate("document.getElementById('word').textContent") == word
    # The page itself is all that was ever asked for.
    assert browser.requests() == [PAGE.as_uri()]
    return Verdict(word, seq and int(seq[1]), line)


def tarred(pack):
    tar = pack.parent / f"{pack.name}.tar"
    with tarfile.open(tar, "w") as out:
        out.add(pack, "pack")
    return tar


def test_the_page_gives_the_same_verdicts(stage, browser, tmp_path):
    helped = {"keys": stage.vkey.read_text(), "heads": stage.head.read_text()}
    for how in ({"folder": True}, {"drop": True}, helped | {"folder": True}):
        assert by_page(browser, stage.pack, **how).word == "VERIFIED"
    assert by_page(browser, tarred(stage.pack), drop=True).word == "VERIFIED"
    told = browser.evaluate("document.querySelector('main').innerText")
    assert "This pack is complete and unchanged" in told and stage.log["origin"] in told
    # Where the browser has no Ed25519 of its own.
    browser.evaluate("page.own = true; native = undefined; document.body.dataset.verdict = ''")
    browser.choose("#tar", tarred(stage.pack))
    assert browser.wait("document.body.dataset.verdict") == "VERIFIED"

    redacted = stage.past.export(tmp_path / "redacted", *PERIOD, "--redact", "user_name = 'user-1'", "--reason", "personal data")
    seen = [by_rust(redacted), by_python(redacted), by_page(browser, redacted, folder=True)]
    assert [verdict.word for verdict in seen] == ["VERIFIED"] * 3
    assert "personal data" in browser.evaluate("document.getElementById('facts').innerText")

    for name, keys, tamper, word, more in [
        ("rolled back", LOG, truncated_log, "VERIFIED-UP-TO", {}),
        ("edited", EXPORTER, edited, "FAILED", {}),
        ("other history", LOG, split_view, "VERIFIED", {}),
        ("other history, a kept checkpoint", LOG, split_view, "FAILED", helped),
        ("impostor", EXPORTER, other_log_of_that_name, "FAILED", {"keys": stage.vkey.read_text()}),
    ]:
        pack = tmp_path / name / "pack"
        pack.parent.mkdir()
        tampered(stage, pack, keys, tamper)
        flags = ["--vkey", stage.vkey, *(["--head", stage.head] if "heads" in more else [])] if more else []
        seen = [by_python(pack, *flags), by_page(browser, pack, folder=True, **more)]
        assert [verdict.word for verdict in seen] == [word, word], (name, seen)
        assert seen[0].seq == seen[1].seq, (name, seen)


def test_witnesses_must_have_cosigned_what_the_policy_says(stage, browser, tmp_path):
    pack = Pack.read(stage.pack)
    note, body = pack.logs[0].note, pack.logs[0].note.split("\n\n")[0] + "\n"
    witnesses = [Signer(f"witness.example/{number}", sha256(b"witness", bytes([number])), 4) for number in range(3)]
    lines = "".join(f"witness w{number} {witness.vkey}\n" for number, witness in enumerate(witnesses))
    lines += f"witness other {Signer('witness.example/other', sha256(b'other'), 4).vkey}\n"
    policy = f"log {stage.past.signer.vkey}\n{lines}group two 2 w0 w1 w2\nquorum two\n"
    (tmp_path / "policy").write_text(policy)
    wrong = Signer(witnesses[2].name, sha256(b"another"), 4)
    wrong.id = witnesses[2].id
    stranger = Signer("witness.example/other", sha256(b"another"), 4)
    stranger.id = Signer("witness.example/other", sha256(b"other"), 4).id
    for name, by, word in [
        ("none", [], "VERIFIED-UP-TO"),
        ("one", witnesses[:1], "VERIFIED-UP-TO"),
        ("two", witnesses[1:], "VERIFIED"),
        ("forged", [*witnesses[:2], wrong], "FAILED"),
        ("forged by one that is not asked", [*witnesses[:2], stranger], "FAILED"),
    ]:
        pack.logs[0].note = note + "".join(witness.line(body, 1_767_650_000) for witness in by)
        pack.write(tmp_path / name, stage.without_log_key())
        flags = ["--policy", tmp_path / "policy"]
        seen = [by_rust(tmp_path / name, *flags), by_python(tmp_path / name, *flags)]
        seen.append(by_page(browser, tmp_path / name, folder=True, policy=policy))
        assert [verdict.word for verdict in seen] == [word] * 3, (name, seen)
        assert len({verdict.seq for verdict in seen}) == 1, (name, seen)
        seen = [by_rust(tmp_path / name), by_python(tmp_path / name)]
        assert [verdict.word for verdict in seen] == ["VERIFIED"] * 2, "unknown signatures are passed over"


def consistency(old, size, leaves):
    """RFC 6962, 2.1.2."""

    def root(lo, hi):
        if hi == lo + 1:
            return leaves[lo]
        middle = lo + packs.half(hi - lo)
        return sha256(b"\1", root(lo, middle), root(middle, hi))

    def proof(m, lo, hi, whole):
        if m == hi - lo:
            return [] if whole else [root(lo, hi)]
        k = packs.half(hi - lo)
        if m <= k:
            return [*proof(m, lo, lo + k, whole), root(lo + k, hi)]
        return [*proof(m - k, lo + k, hi, False), root(lo, lo + k)]

    return proof(old, 0, size, True)


def test_a_kept_checkpoint_from_before_the_range_is_compared_by_its_consistency_proof(stage, browser, tmp_path):
    first, size, old = stage.log["first"], stage.log["size"], 5
    assert old < first
    for name, proof, head, word in [
        ("good", consistency(old, size, stage.past.tree.leaves), stage.past.head(old), "VERIFIED"),
        ("none", None, stage.past.head(old), "VERIFIED-UP-TO"),
        ("empty", None, stage.past.head(0), "VERIFIED"),
        ("impossible", None, stage.past.signer.note(f"{stage.past.signer.name}\n0\n{b64(bytes(32))}\n"), "FAILED"),
        ("long", [*consistency(old, size, stage.past.tree.leaves), bytes(32)], stage.past.head(old), "FAILED"),
        ("in the range", consistency(first + 3, size, stage.past.tree.leaves), stage.past.head(first + 3), "VERIFIED"),
        ("newer", None, stage.past.signer.note(f"{stage.past.signer.name}\n999\n{b64(bytes(32))}\n"), "VERIFIED-UP-TO"),
        ("first", None, stage.past.head(first), "VERIFIED"),
        ("own", None, stage.past.head(), "VERIFIED"),
        ("bad", consistency(old, size, stage.past.tree.leaves), stage.past.signer.note(f"{stage.past.signer.name}\n5\n{b64(bytes(32))}\n"), "FAILED"),
        ("short", consistency(old, size, stage.past.tree.leaves)[:-1], stage.past.head(old), "FAILED"),
    ]:
        copy = Copy(stage, tmp_path / name)
        if proof is not None:
            lines = "".join(b64(one) + "\n" for one in proof)
            at = head.split("\n")[1]
            copy.path(f"logs/{copy.log['log']}/consistency-{at}").write_text(lines)
            copy.reseal()
        kept = tmp_path / f"{name}-head"
        kept.write_text(head)
        seen = [by_rust(copy.folder, "--head", kept), by_python(copy.folder, "--head", kept)]
        seen.append(by_page(browser, copy.folder, folder=True, heads=head))
        assert [verdict.word for verdict in seen] == [word] * 3, (name, seen)
        # The same as a checkpoint that the pack itself says it continues.
        copy.path(f"logs/{copy.log['log']}/previous").write_text(head)
        copy.reseal()
        seen = [by_rust(copy.folder), by_python(copy.folder), by_page(browser, copy.folder, folder=True)]
        assert [verdict.word for verdict in seen] == [word] * 3, (name, "previous", seen)


def test_hostile_packs_get_a_verdict_and_nothing_else(stage, tmp_path):
    """Each ends soon, fails, and leaves nothing behind."""
    def link_in(copy):
        copy.path("policy").unlink()
        copy.path("policy").symlink_to("/etc/hostname")

    def pipe_in(copy):
        os.mkfifo(copy.path("pipe"))

    def bomb(copy):
        name = f"logs/{copy.log['log']}/leaves.gz"
        with gzip.open(copy.path(name), "wb", 9) as out:
            for _ in range(512):
                out.write(bytes(1 << 20))
        packs.rebag(copy.folder)

    def digest_bomb(copy):
        with gzip.open(copy.path(copy.digests[0]), "wb", 9) as out:
            for _ in range(300):
                out.write(bytes(1 << 20))
        copy.reseal()

    def deep(copy):
        copy.path("manifest.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
        packs.rebag(copy.folder)

    def many_digits(copy):
        copy.path("manifest.json").write_text('{"version":' + "9" * 5_000_000 + "}")
        packs.rebag(copy.folder)

    def long_range(copy):
        copy.log["last"], copy.log["size"] = 2**63, 2**63 + 5
        copy.reseal()

    def big_sample(copy):
        path = copy.path("sample/population.json")
        population = json.loads(path.read_bytes())
        population["logs"][0]["drawn"] = list(range(10_001))
        path.write_text(json.dumps(population))
        copy.reseal()

    for tamper in (link_in, pipe_in, bomb, digest_bomb, deep, many_digits, long_range, big_sample):
        copy = Copy(stage, tmp_path / tamper.__name__)
        tamper(copy)
        seen = [by_rust(copy.folder), by_python(copy.folder)]
        assert [verdict.word for verdict in seen] == ["FAILED", "FAILED"], (tamper.__name__, seen)
        shutil.rmtree(copy.folder)

    good = tarred(shutil.copytree(stage.pack, tmp_path / "pack"))
    for name, change in [
        ("up", {"name": "pack/../../up"}), ("absolute", {"name": "/tmp/up"}), ("twice", {"name": "pack/bagit.txt"}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/hostname"}), ("hard", {"type": tarfile.LNKTYPE, "linkname": "pack/bagit.txt"}),
        ("device", {"type": tarfile.CHRTYPE}),
    ]:
        tar = tmp_path / f"{name}.tar"
        shutil.copy(good, tar)
        with tarfile.open(tar, "a") as out:
            member = tarfile.TarInfo("pack/data/more")
            for attribute, value in change.items():
                setattr(member, attribute, value)
            out.addfile(member)
        seen = [by_rust(tar), by_python(tar)]
        assert [verdict.word for verdict in seen] == ["FAILED", "FAILED"], (name, seen)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"pack", "pack.tar", *(f"{name}.tar" for name in ("up", "absolute", "twice", "link", "hard", "device"))}


def test_several_logs_in_one_pack(browser, tmp_path):
    origins = [f"keytrail/test/node-{number:016x}" for number in range(3)]
    pack, keys = packs.small(origins), Keys.made(*origins)
    pack.write(tmp_path / "pack", keys)
    assert by_python(tmp_path / "pack").word == "VERIFIED"
    assert by_page(browser, tmp_path / "pack", folder=True).word == "VERIFIED"
    pack.logs[1].records[20].payload = b'{"edited":true}'
    pack.write(tmp_path / "edited", Keys(keys.pack, keys.digest, [key for name, key in keys.logs.items() if name != pack.logs[1].origin]))
    seen = [by_python(tmp_path / "edited"), by_page(browser, tmp_path / "edited", folder=True)]
    assert [verdict.word for verdict in seen] == ["FAILED", "FAILED"] and pack.logs[1].id.hex() in seen[0].line


# The rows. Each changes a copy of the pack and says at which seq the verifiers must fail, where a record is to blame.


def log_file(copy, index=3):
    return "cloudtrail/" + copy.digest(index)["logFiles"][0]["s3Object"]


def edited(copy):
    name = log_file(copy)
    raw = copy.read(name)
    at = raw.index(b"user-")
    copy.put(name, raw[:at] + b"USER-" + raw[at + 5:])
    return copy.first_seq_of(name)


def edited_and_signed(copy):
    seq = edited(copy)
    copy.sign_from(3)
    return seq


def deleted(copy):
    copy.drop(log_file(copy))


def two_members(copy):
    name = log_file(copy)
    raw = copy.read(name)
    copy.path(name).write_bytes(gzip.compress(raw[:200]) + gzip.compress(raw[200:]))


def newest_deleted(copy):
    copy.drop_digest(-1, with_logs=True)
    copy.drop_digest(-2, with_logs=True)


def everything_deleted(copy):
    copy.drop(*[name for name in list(copy.manifest["files"]) if name.startswith("cloudtrail/")])
    copy.log["cloudtrail"], copy.log["digests"] = [], []


def middle_digest_deleted(copy):
    copy.drop_digest(4)


def three_middle_digests_deleted(copy):
    for index in (3, 4, 5):
        copy.drop_digest(index)


def oldest_digests_deleted(copy):
    copy.drop_digest(0)
    copy.drop_digest(1)


def signature_stripped(copy):
    copy.path(copy.digests[4] + ".signature").unlink()


def signature_garbage(copy):
    copy.path(copy.digests[4] + ".signature").write_text("00" * 256)


def log_dropped_and_digest_signed(copy):
    name = log_file(copy, 4)
    digest = copy.digest(4)
    digest["logFiles"] = digest["logFiles"][1:]
    copy.sign(4, digest)
    copy.drop(name)


def previous_is_junk(copy):
    digest = copy.digest(4)
    digest["previousDigestHashValue"], digest["previousDigestSignature"] = "00" * 32, "11" * 256
    copy.sign(4, digest)


def signed_gap(copy):
    digest = copy.digest(4)
    digest |= {name: None for name in digest if name.startswith("previousDigest")}
    copy.sign(4, digest)
    copy.drop_digest(3)


def planted(copy):
    """A CloudTrail file of events that never were, in a digest of its own making."""
    name = log_file(copy, 4)
    forged = name.replace("_CloudTrail_", "_CloudTrail_", 1)[:-len("00000000.json.gz")] + "ffffffff.json.gz"
    raw = b'{"Records":[' + event(999, ACCOUNT, REGION) + b"]}"
    copy.put(forged, raw)
    digest = copy.digest(4)
    told = digest["logFiles"][0] | {"s3Object": forged[len("cloudtrail/"):], "hashValue": sha256(raw).hex()}
    digest["logFiles"].append(told)
    copy.sign(4, digest)
    copy.sign_from(4)
    copy.log["cloudtrail"].append(forged)


# Rows of the attack matrix: made from the records.


def leaves_of(change, keep_links=True):
    def tamper(stage, folder):
        pack = Pack.read(stage.pack)
        seq = change(pack.logs[0])
        pack.relink = not keep_links
        pack.write(folder, stage.without_log_key())
        return seq

    return tamper


def event_at(log, number):
    """Index and seq of an event of the first account."""
    found = [at for at, record in enumerate(log.records) if record.place() == (ACCOUNT, REGION)]
    return found[number], log.first + found[number]


def edit_record(log):
    at, seq = event_at(log, 20)
    log.records[at].payload = log.records[at].payload.replace(b"user-", b"USER-")
    return seq + 1


def remove_record(log):
    at, seq = event_at(log, 20)
    del log.records[at]
    log.records.insert(0, log.records[0])
    return None


def repeat_record(log):
    at, _ = event_at(log, 20)
    log.records[at + 1] = log.records[at]
    return None


def swap_records(log):
    at, _ = event_at(log, 20)
    log.records[at], log.records[at + 1] = log.records[at + 1], log.records[at]
    return None


def backdate(log):
    at, _ = event_at(log, 20)
    log.records[at].time -= 3_600_000_000
    return log.first + at


def rewrite_suffix(log):
    at, _ = event_at(log, 20)
    log.records[at].payload = event(4711, ACCOUNT, REGION)
    return None


def with_log_key(stage, folder):
    pack = Pack.read(stage.pack)
    rewrite_suffix(pack.logs[0])
    pack.write(folder, stage.keys)


def cherry_picked(stage, folder):
    """A pack of a shorter period that says it is of the whole one."""
    short = folder.parent / f"{folder.name}-short"
    stage.past.export(short, PERIOD[0], "2026-01-05T19:20:00Z", "--nonce", "chosen")
    pack = Pack.read(short)
    pack.period = PERIOD
    pack.write(folder, stage.without_log_key())
    return pack.logs[0].last


def truncated_log(stage, folder):
    """The log as it was an hour before the period's end, under a checkpoint of that size: a restored snapshot."""
    return older(stage, folder, 100)


def older(stage, folder, size):
    work = folder.parent / f"{folder.name}-log"
    shutil.copytree(stage.past.folder, work)
    past = Past.__new__(Past)
    past.__dict__ |= stage.past.__dict__
    past.folder, past.tree, past.records = work, packs_tree(stage.past.tree.leaves[:size]), stage.past.records[:size]
    past.batches = stage.past.batches[:4096 * size]
    past.close()
    past.export(folder, *PERIOD)
    return size - 1


def packs_tree(leaves):
    from past import Tree

    tree = Tree()
    tree.leaves = leaves
    return tree


def split_view(stage, folder):
    """Another history from record 50 on, under the same key: what a rolled-back machine writes next."""
    work = folder.parent / f"{folder.name}-log"
    shutil.copytree(stage.past.folder, work)
    past = Past(folder.parent / f"{folder.name}-new")
    past.folder, past.signer, past.id = work, stage.past.signer, stage.past.id
    past.add([packs.copy.deepcopy(record) for record in stage.past.records[:50]])
    made = records(START + 50 * STEP, STEP, 80, first=50)
    made[5].payload = event(4711, ACCOUNT, REGION)
    past.add(made).close()
    past.export(folder, *PERIOD)


def hidden_from_cloudtrail(stage, folder):
    """An event beside its leaf, where readers of the CloudTrail files do not see it."""
    pack = Pack.read(stage.pack)
    log = pack.logs[0]
    at, seq = event_at(log, 20)
    log.records[at].place = lambda: None
    pack.write(folder, stage.without_log_key())
    return seq


def withheld_without_a_word(stage, folder):
    pack = Pack.read(stage.pack)
    log = pack.logs[0]
    at, _ = event_at(log, 20)
    record = log.records[at]
    record.leaf(log.id, 0, bytes(32))
    record.status, record.payload = 1, None
    pack.write(folder, stage.without_log_key())


def other_log_of_that_name(stage, folder):
    """Another log altogether, with a key of its own under the same name."""
    pack = Pack.read(stage.pack)
    rewrite_suffix(pack.logs[0])
    impostor = Signer(pack.logs[0].origin, sha256(b"impostor"))
    pack.write(folder, Keys(stage.keys.pack, stage.keys.digest, [impostor]))


def changed(name, change):
    def tamper(copy):
        path = copy.path(name)
        path.write_bytes(change(path.read_bytes()))

    return tamper


def sample_steered(copy):
    path = copy.path("sample/population.json")
    population = json.loads(path.read_bytes())
    population["nonce"] = "another"
    path.write_text(json.dumps(population))


def alert_forged(copy):
    key = Signer("keytrail-alerts", sha256(b"alerts"))
    copy.path("alerts/vkey").write_text(key.vkey + "\n")
    alert = json.dumps({"alertVersion": 1})
    line = {"alert": alert, "signature": b64(key.key.sign(b"another context\n" + alert.encode()))}
    copy.path("alerts/alerts.jsonl").write_text(json.dumps(line) + "\n")


def parquet_edited(copy):
    path = copy.path(copy.log["parquet"][0])
    query = f"SELECT data_page_offset, total_compressed_size FROM parquet_metadata('{path}') WHERE path_in_schema = 'raw'"
    at, length = duckdb.sql(query).fetchall()[0]
    raw = bytearray(path.read_bytes())
    raw[at + length // 2] ^= 1
    path.write_bytes(raw)


def deny_rows(path, pages=False):
    """Makes the statistics of a Parquet file say that its largest event name is not there; gives that name."""
    [(largest,)] = duckdb.sql(f"SELECT max(event_name) FROM '{path}'").fetchall()
    raw = path.read_bytes()
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    # The index of pages lies in front of the footer; data pages, which are packed, hold no such text.
    parts = [raw[:footer], raw[footer:]]
    assert largest.encode() in parts[not pages]
    parts[not pages] = parts[not pages].replace(largest.encode(), b"Call0000")
    path.write_bytes(b"".join(parts))
    return largest


def statistics_lie(copy):
    deny_rows(copy.path(copy.log["parquet"][0]))


def file_added(copy):
    copy.path("logs/notes.txt").write_text("hello")


V, F, U = "VERIFIED", "FAILED", "VERIFIED-UP-TO"
NOBODY, EXPORTER, LOG = "nobody's", "the exporter's", "the exporter's and the log's"

# Title, keys, what is done, expected of Rust and Python, of both with the auditor's key and kept checkpoint, exit code of the AWS CLI.
ROWS = [
    ("one byte of an event changed", EXPORTER, edited, (F, F), (F, F), 1),
    ("the same, and all digests from there on signed anew", EXPORTER, edited_and_signed, (F, F), (F, F), 0),
    ("a log file deleted", EXPORTER, deleted, (F, F), (F, F), 1),
    ("a log file as two gzip members", EXPORTER, two_members, (F, F), (F, F), 1),
    ("the newest two digests and their log files deleted", EXPORTER, newest_deleted, (F, F), (F, F), 0),
    ("all CloudTrail files deleted", EXPORTER, everything_deleted, (F, F), (F, F), 0),
    ("one middle digest deleted", EXPORTER, middle_digest_deleted, (F, F), (F, F), 1),
    ("three middle digests deleted", EXPORTER, three_middle_digests_deleted, (F, F), (F, F), 1),
    ("the oldest two digests deleted", EXPORTER, oldest_digests_deleted, (F, F), (F, F), 1),
    ("a digest's signature deleted", EXPORTER, signature_stripped, (F, F), (F, F), 1),
    ("a digest's signature replaced", EXPORTER, signature_garbage, (F, F), (F, F), 1),
    ("a log file dropped, its digest signed anew, later ones as they were", EXPORTER, log_dropped_and_digest_signed, (F, F), (F, F), 0),
    ("a digest that names junk as the one before, signed", EXPORTER, previous_is_junk, (F, F), (F, F), 0),
    ("a digest dropped, the next one signed as the first of a chain", EXPORTER, signed_gap, (F, F), (F, F), 0),
    ("a log file of made-up events, in digests signed anew", EXPORTER, planted, (F, F), (F, F), 0),
    ("a record edited, links left as they were", EXPORTER, leaves_of(edit_record), (F, F), (F, F), 0),
    ("a record removed", EXPORTER, leaves_of(remove_record), (F, F), (F, F), 0),
    ("a record repeated in the place of the next", EXPORTER, leaves_of(repeat_record), (F, F), (F, F), 0),
    ("two records swapped", EXPORTER, leaves_of(swap_records), (F, F), (F, F), 0),
    ("a record dated back by an hour", EXPORTER, leaves_of(backdate), (F, F), (F, F), 0),
    ("a record replaced, all links from there on computed anew", EXPORTER, leaves_of(rewrite_suffix, keep_links=False), (F, F), (F, F), 0),
    ("the same, and the checkpoint signed anew", LOG, with_log_key, (F, V), (F, F), 0),
    ("another history from record 50 on, exported by the exporter", LOG, split_view, (V, V), (F, F), 0),
    ("the log rolled back to an earlier size", LOG, truncated_log, (U, U), (U, U), 0),
    ("another log under the same name, with a key of its own", EXPORTER, other_log_of_that_name, (F, V), (F, F), 0),
    ("the last ten records of the range left out", EXPORTER, cherry_picked, (F, F), (F, F), 0),
    ("an event left out of the CloudTrail files", EXPORTER, hidden_from_cloudtrail, (F, F), (F, F), 0),
    ("a record withheld, no redaction declared", EXPORTER, withheld_without_a_word, (F, F), (F, F), 0),
    ("the sample drawn with another word of the auditor", EXPORTER, sample_steered, (F, F), (F, F), 0),
    ("an alert whose signature is for something else", EXPORTER, alert_forged, (F, F), (F, F), 0),
    ("one bit of a payload in the Parquet file changed", EXPORTER, parquet_edited, (F, V), (F, V), 0),
    ("statistics in the Parquet file that deny rows which are there", EXPORTER, statistics_lie, (F, V), (F, V), 0),
    ("the list of accesses changed", EXPORTER, changed("access.jsonl", lambda raw: raw + b"{}\n"), (V, V), (V, V), 0),
    ("the list of accesses changed", NOBODY, changed("access.jsonl", lambda raw: raw + b"{}\n"), (F, F), (F, F), 0),
    ("one byte of an event changed", NOBODY, edited, (F, F), (F, F), 1),
    ("a file added", NOBODY, file_added, (F, F), (F, F), 0),
]


def tampered(stage, folder, keys, tamper):
    """The pack in `folder`, and the seq that is to blame."""
    if tamper.__code__.co_varnames[:1] == ("stage",):
        return tamper(stage, folder)
    copy = Copy(stage, folder)
    seq = tamper(copy)
    if keys == NOBODY:
        packs.rebag(folder)
        return None
    copy.reseal()
    return seq


FOUND = {}


@pytest.mark.parametrize("title, keys, tamper, alone, helped, aws", ROWS, ids=[f"{row[0]} ({row[1]})" for row in ROWS])
def test_what_was_tampered_with_is_found(stage, tmp_path, title, keys, tamper, alone, helped, aws):
    pack = tmp_path / "pack"
    seq = tampered(stage, pack, keys, tamper)
    help_ = ["--vkey", stage.vkey, "--head", stage.head]
    found = [by_rust(pack), by_python(pack)]
    found_helped = [by_rust(pack, *help_), by_python(pack, *help_)]
    assert tuple(verdict.word for verdict in found) == alone, found
    assert tuple(verdict.word for verdict in found_helped) == helped, found_helped
    if seq is not None:
        assert [verdict.seq for verdict in found] == [seq, seq], found
    code, told = validate(pack, stage.log["log"][:8])
    assert code == aws, told
    FOUND[title, keys] = (found, found_helped, code)


def test_the_table_says_what_was_found(stage):
    if len(FOUND) != len(ROWS):
        pytest.skip("the table is made of all rows")
    lines = []
    for title, keys, *_ in ROWS:
        found, found_helped, code = FOUND[title, keys]
        cells = [verdict.cell() for verdict in (*found, *found_helped)]
        # The log's id and what follows from it differ from run to run, the seqs do not.
        lines.append(f"| {title} | {keys} | {' | '.join(cells)} | {code} |")
    table = "\n".join(lines) + "\n"
    text = TABLE.read_text()
    begin, end = text.index("<!-- table -->\n") + len("<!-- table -->\n"), text.index("<!-- end -->")
    head = "| What was done | With keys | `keytrail verify` | `verify.py` | with `--vkey`, `--head` | the same | AWS CLI |\n"
    head += "|---|---|---|---|---|---|---:|\n"
    if os.environ.get("KEYTRAIL_EVIDENCE_TABLE") == "write":
        TABLE.write_text(text[:begin] + head + table + text[end:])
    assert TABLE.read_text()[begin:].split("<!-- end -->")[0] == head + table
