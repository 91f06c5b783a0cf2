"""The verifiers of evidence packs against each other: whatever is done to a pack, they must come to the same word.

Each round changes a small real pack at random, from single bytes to whole records, and closes it again with some, all or none of
the keys. KEYTRAIL_EVIDENCE_FUZZ=ROUNDS runs longer, KEYTRAIL_EVIDENCE_SEED=SEED repeats a round that failed. The page in the browser takes part
in every fifth round.
"""

import argparse
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import tarfile

import pytest

import packs
from browser import Browser
from packs import Keys, Pack, Signer, b64, sha256
from past import Past, event, records
from service import ACCOUNT, KEYTRAIL, REGION
from test_evidence import PAGE, WORDS, consistency

ROUNDS = int(os.environ.get("KEYTRAIL_EVIDENCE_FUZZ", "60"))
SEED = os.environ.get("KEYTRAIL_EVIDENCE_SEED")
START = 1_767_614_400_000_000
# What only `keytrail verify` reads, and what makes it fail where the others must not.
PARQUET_ONLY = re.compile(r"parquet/|Parquet")


def options(pack, policy):
    keys, rule, witnesses = packs.verify.policy(policy)
    return argparse.Namespace(pack=str(pack), keys=keys, heads=[], rule=rule, witnesses=witnesses, chain=True)


class Small:
    """A small pack with everything in it, all keys, and the policy that its checkpoint meets."""

    def __init__(self, folder):
        self.past = Past(folder / "data").add(records(START, 600_000_000, 36)).close()
        flags = ["--redact", "user_name = 'user-1'", "--reason", "personal", "--sample", 2]
        exported = self.past.export(folder / "exported", "2026-01-05T12:15:00Z", "2026-01-05T17:00:00Z", *flags)
        self.keys = Keys.of_folder(self.past.folder)
        pack, witnesses = Pack.read(exported), [Signer(f"witness.example/{number}", bytes([number]) * 32, 4) for number in range(3)]
        [log] = pack.logs
        body = log.note.split("\n\n")[0] + "\n"
        log.note += "".join(witness.line(body, 1_767_650_000) for witness in witnesses[:2])
        proof = consistency(7, log.size, self.past.tree.leaves)
        log.consistency = {
            "previous": self.past.head(7).encode(), "consistency-7": "".join(b64(one) + "\n" for one in proof).encode()
        }
        self.pack = pack.write(folder / "pack", Keys(self.keys.pack, self.keys.digest))
        lines = "".join(f"witness w{number} {witness.vkey}\n" for number, witness in enumerate(witnesses))
        self.policy = f"{lines}group two 2 w0 w1 w2\nquorum two\n"
        (folder / "policy").write_text(self.policy)
        self.policy_file = folder / "policy"
        self.names = sorted(path.relative_to(self.pack / "data").as_posix() for path in self.pack.rglob("data/**/*") if path.is_file())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("fuzz"))


def bytes_changed(chance, raw):
    """A few random changes of bytes."""
    raw = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 3))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(5):
            case 0 if at < len(raw):
                raw[at] ^= 1 << chance.randrange(8)
            case 1:
                raw[at:at] = chance.randbytes(chance.choice((1, 5, 32)))
            case 2:
                del raw[at:at + chance.choice((1, 4, 32, 115))]
            case 3:
                del raw[at:]
            case _:
                piece = raw[at:at + chance.choice((1, 32, 45, 115))]
                raw[at:at] = piece
    return bytes(raw)


def value_changed(chance, value):
    odd = [None, True, False, 0, -1, 1, 2**53 + 1, 2**64 - 1, 2**64, 1.5, "", "x", "\u0000", [], {}, "data/../x", "00" * 32]
    if isinstance(value, bool) or value is None:
        return chance.choice(odd)
    if isinstance(value, int):
        return chance.choice([value + 1, value - 1, value + 0.0, str(value), -value, value + 2**64, *odd])
    if isinstance(value, str):
        changed = [value.upper(), value + " ", value[:-1], value[1:], "x" + value, value.replace("0", "1", 1), *odd]
        return chance.choice(changed)
    return chance.choice(odd)


def json_changed(chance, value):
    """One change somewhere in a document."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {key: one for key, one in value.items() if key != name}
            case 1:
                return value | {chance.choice(["extra", "version", "log"]): chance.choice([1, "x", None])}
            case _:
                return value | {name: json_changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:at] + value[at + 1:]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case 2:
                other = chance.randrange(len(value))
                value = list(value)
                value[at], value[other] = value[other], value[at]
                return value
            case _:
                return [*value[:at], json_changed(chance, value[at]), *value[at + 1:]]
    return value_changed(chance, value)


def dumped(chance, value):
    text = json.dumps(value)
    match chance.randrange(6):
        case 0:
            return text.replace('{"', '{"version": 1, "', 1)
        case 1:
            return json.dumps(value, indent=2)
        case _:
            return text


def change_file(chance, small, folder):
    """Any file, as bytes or as what it unpacks to."""
    name = chance.choice(small.names)
    path = folder / "data" / name
    raw = path.read_bytes()
    if name.endswith(".gz") and chance.random() < 0.7:
        path.write_bytes(gzip.compress(bytes_changed(chance, gzip.decompress(raw)), mtime=0))
    elif name.endswith(".json") and chance.random() < 0.7:
        path.write_text(dumped(chance, json_changed(chance, json.loads(raw))))
    elif raw:
        path.write_bytes(bytes_changed(chance, raw))
    return f"file {name}"


def change_manifest(chance, small, folder):
    path = folder / "data/manifest.json"
    manifest = json.loads(path.read_bytes())
    part = chance.choice([name for name in manifest if name != "files"] + ["logs"] * 6)
    manifest[part] = json_changed(chance, manifest[part])
    path.write_text(dumped(chance, manifest))
    return f"manifest {part}"


def change_files(chance, small, folder):
    """Files that come, go, or change places."""
    name, other = chance.sample(small.names, 2)
    data = folder / "data"
    match chance.randrange(4):
        case 0:
            (data / name).unlink()
        case 1:
            shutil.copy(data / other, data / f"{name}.more")
        case 2:
            shutil.copy(data / other, data / name)
        case _:
            (data / name).write_bytes(b"")
    return f"files {name} {other}"


def change_digest(chance, small, folder):
    """A digest changed and signed, sometimes with all that follow."""
    manifest = json.loads((folder / "data/manifest.json").read_bytes())
    name = chance.choice(manifest["logs"][0]["digests"])
    path = folder / "data" / name
    digest = json_changed(chance, json.loads(gzip.decompress(path.read_bytes())))
    try:
        packed, signature, _ = packs.sign_digest(digest, small.keys)
    except (TypeError, KeyError):
        return "digest left alone"
    path.write_bytes(packed)
    path.with_name(path.name + ".signature").write_text(signature)
    return f"digest {name}"


def change_records(chance, small, folder):
    """Records changed, and everything made anew around them, with or without the log's key."""
    pack = Pack.read(small.pack)
    log = pack.logs[0]
    at = chance.randrange(1, len(log.records) - 1)
    record = log.records[at]
    kind = chance.choice(["payload", "kind", "time", "epoch", "status", "drop", "repeat", "swap", "odd", "hidden", "salt", "period"])
    match kind:
        case "payload":
            record.status, record.payload = 0, event(chance.randrange(999), ACCOUNT, REGION)
        case "odd":
            odd = [b"", b"{", b"{}", b" {}", b"[]", b'{"a":1e999}', b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":1,"a":2}', b"\xff{}", b'{"a":-0}']
            record.status, record.payload = 0, chance.choice([*odd, b'{"a":' * 200 + b"1" + b"}" * 200, b"\xef\xbb\xbf{}"])
        case "kind":
            record.kind = chance.choice([0, 1, 2, 5, 9, 11, 12, 255])
        case "time":
            record.time += chance.choice([-1, 1, -3_600_000_000, 3_600_000_000])
        case "epoch":
            record.epoch = chance.choice([0, 2, 2**63])
        case "status":
            record.leaf(log.id, 0, bytes(32))
            record.status, record.payload = chance.choice([1, 2, 3, 255]), None
        case "drop":
            del log.records[at]
        case "repeat":
            log.records.insert(at, record)
        case "swap":
            log.records[at - 1], log.records[at] = log.records[at], log.records[at - 1]
        case "hidden":
            record.place = lambda: None
        case "salt":
            record.salt = chance.randbytes(16)
        case _:
            pack.period = (chance.choice([pack.period[0], "2026-01-05T12:00:00Z"]), chance.choice(["2026-01-05T17:30:00Z", "2027-01-01T00:00:00.000001Z"]))
    pack.relink = chance.random() < 0.7
    keys = small.keys if chance.random() < 0.7 else Keys(small.keys.pack, small.keys.digest)
    shutil.rmtree(folder)
    try:
        pack.write(folder, keys)
    except (StopIteration, TypeError, AttributeError):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(small.pack, folder)
        return f"records left alone ({kind})"
    return f"records {kind} at {at}"


def change_bag(chance, small, folder):
    name = chance.choice(["bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"])
    path = folder / name
    path.write_bytes(bytes_changed(chance, path.read_bytes()))
    return f"bag {name}"


def close(chance, small, folder):
    """The hashes of the bag, and the manifest's signature, and its list of files, as far as a tamperer bothers."""
    how = chance.choice(["left", "bag", "signed", "signed", "listed", "listed", "listed"])
    if how == "bag":
        packs.rebag(folder)
    elif how == "signed":
        raw = (folder / "data/manifest.json").read_bytes()
        note = small.keys.pack.note(f"keytrail evidence pack v1\n{sha256(raw).hex()}\n")
        (folder / "data/manifest.note").write_text(note)
        packs.rebag(folder)
    elif how == "listed":
        try:
            packs.reseal(folder, small.keys)
        except (ValueError, TypeError, KeyError, OSError):
            packs.rebag(folder)
    return how


CHANGES = [change_file, change_file, change_manifest, change_manifest, change_files, change_digest, change_records, change_records]


def tampered(chance, small, folder):
    shutil.copytree(small.pack, folder)
    done = [chance.choice(CHANGES)(chance, small, folder)]
    if not done[0].startswith("records"):
        done.append(close(chance, small, folder))
    if chance.random() < 0.08:
        done.append(change_bag(chance, small, folder))
    return done


def rust(pack, policy):
    done = subprocess.run([KEYTRAIL, "verify", str(pack), "--policy", str(policy)], capture_output=True, text=True, timeout=120)
    return WORDS.get(done.returncode, f"exit {done.returncode}"), (done.stdout + done.stderr).split("\n")[0]


def test_the_verifiers_agree_on_whatever_is_done_to_a_pack(small, tmp_path):
    first = int(SEED) if SEED else random.randrange(2**32)
    counts, differences = {}, []
    with Browser(tmp_path / "profile") as browser:
        browser.open(PAGE)
        browser.evaluate(f"document.getElementById('policy').value = {json.dumps(small.policy)}")
        assert rust(small.pack, small.policy_file)[0] == "VERIFIED"
        for number in range(1 if SEED else ROUNDS):
            seed, folder = first + number, tmp_path / "pack"
            done = tampered(random.Random(seed), small, folder)
            word, line = rust(folder, small.policy_file)
            verdict, _, _ = packs.verify.verify(options(folder, small.policy))
            told = {"rust": line, "python": verdict, "done": done, "seed": seed}
            mine = verdict.split()[0].rstrip(":")
            seen = [mine]
            if SEED or number % 5 == 0:
                seen.append(by_page(browser, folder, tmp_path / "pack.tar"))
                told["page"] = browser.evaluate("document.body.dataset.line")
            if not (word == "FAILED" and PARQUET_ONLY.search(line)):
                seen.append(word)
            if len(set(seen)) != 1:
                differences.append(told)
            counts[mine] = counts.get(mine, 0) + 1
            shutil.rmtree(folder)
    print(f"{sum(counts.values())} packs from seed {first}: {counts}")
    assert not differences, "\n".join(map(str, differences[:20]))


def test_the_verifiers_agree_on_what_a_number_is(small, tmp_path):
    """A count that nothing else in the pack bears out: browsers have no other numbers than those below 2^53, and no `1.0`."""
    good = ["1", str(2**53 - 1)]
    bad = ["0.0", "1e0", "-0", "-1", str(2**53), str(2**53 + 1), str(2**64 - 1), str(2**64), "null", "true", '"1"', "[]", "01", "0x1", "NaN"]
    with Browser(tmp_path / "profile") as browser:
        browser.open(PAGE)
        browser.evaluate(f"document.getElementById('policy').value = {json.dumps(small.policy)}")
        for text in good + bad:
            folder = tmp_path / "pack"
            shutil.copytree(small.pack, folder)
            path = folder / "data/manifest.json"
            raw = re.sub(rb'"alertsWithheld": ?\d+', b'"alertsWithheld":' + text.encode(), path.read_bytes(), count=1)
            assert raw != path.read_bytes(), "a pack that says how many alerts were withheld"
            path.write_bytes(raw)
            (folder / "data/manifest.note").write_text(small.keys.pack.note(f"keytrail evidence pack v1\n{sha256(raw).hex()}\n"))
            packs.rebag(folder)
            word, line = rust(folder, small.policy_file)
            verdict, _, _ = packs.verify.verify(options(folder, small.policy))
            page = by_page(browser, folder, tmp_path / "pack.tar")
            wanted = "VERIFIED" if text in good else "FAILED"
            assert (word, verdict.split()[0].rstrip(":"), page) == (wanted,) * 3, (text, line, verdict)
            shutil.rmtree(folder)


def by_page(browser, folder, tar):
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        out.add(folder, "pack")
    browser.evaluate("document.body.dataset.verdict = ''")
    browser.choose("#tar", tar)
    return browser.wait("document.body.dataset.verdict")
