"""Receipts that boto3 callers keep, and the log read by other people's tools: Tessera's fsck on the exported folder."""

import json
import random
import sys
import urllib.error
import urllib.request

import pytest

from service import KEYTRAIL, PATIENCE_SECS, ROOT, run, wait_for
from test_boto3 import refused
from workplace import INSTALLED, need

sys.path.insert(0, str(ROOT / "examples" / "receipts"))
from receipts import Receipts  # noqa: E402

CALLS = 300
OMISSIONS = 1_000


def keep_receipts(service, path, calls):
    kms = service.client(max_pool_connections=4)
    Receipts(path).collect(kms)
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    for _ in range(calls - 2):
        kms.generate_random(NumberOfBytes=16)
    nobody = service.client("nobody")
    Receipts(path).collect(nobody)
    with refused("AccessDeniedException"):
        nobody.encrypt(KeyId=key, Plaintext=b"x")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == calls
    return lines


def check(path, *source):
    done = run(KEYTRAIL, "receipts", "check", path, *source, check=False)
    named = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("MISSING")]
    return done.returncode, named, done.stdout + done.stderr


def write(path, receipts):
    path.write_text("".join(json.dumps(receipt) + "\n" for receipt in receipts))
    return path


def planted(receipts, rng):
    """Calls that were answered, says whoever made them, and that the log does not have."""
    for number in range(OMISSIONS):
        receipt = dict(rng.choice(receipts))
        receipt["requestId"] = f"planted-{number}"
        if number % 2:
            receipt["leaf"] = rng.randbytes(32).hex()
        else:
            # A place that the log had not come to when it gave this answer, and has not come to since.
            receipt["seq"] += 1_000_000
        yield receipt


@pytest.fixture
def vkey(own_service, tmp_path):
    """Kept since the log began."""
    path = tmp_path / "vkey"
    path.write_bytes((own_service.folder / "checkpoints" / "vkey").read_bytes())
    return path


def test_receipts_of_boto3_calls_are_in_the_log_and_planted_omissions_are_named(own_service, vkey, tmp_path):
    with own_service as service:
        path = tmp_path / "receipts.jsonl"
        receipts = keep_receipts(service, path, CALLS)
        url = f"{service.endpoint}/log/{receipts[0]['log']}"
        over_http = ("--url", url, "--vkey", vkey)
        # A second later the newest checkpoint covers them all.
        wait_for("a checkpoint", lambda: check(path, *over_http)[0] == 0)
        assert check(path, "--data", service.folder, "--vkey", vkey)[0] == 0

        # The heartbeats of ten seconds make the log younger than receipts that it should have.
        rng = random.Random(4)
        last = max(receipts, key=lambda receipt: receipt["seq"])["time"]
        more = [dict(receipt) for receipt in planted(receipts, rng)]
        mixed = receipts + more
        rng.shuffle(mixed)
        mixed_path = write(tmp_path / "mixed.jsonl", mixed)
        expected = sorted(receipt["requestId"] for receipt in more)

        def all_named():
            code, named, told = check(mixed_path, *over_http)
            # Until the log has gone on, what stands beyond its end is not lost but pending.
            assert code == 1 and set(named) <= set(expected), told
            return sorted(named) == expected

        wait_for(f"a record more than five seconds after {last}", all_named)
    # In the folder of the stopped service, and without tiles.
    code, named, told = check(mixed_path, "--data", own_service.folder, "--vkey", vkey)
    assert (code, sorted(named)) == (1, expected), told
    beyond = write(tmp_path / "beyond.jsonl", [receipts[0] | {"seq": 10**9, "time": "2100-01-01T00:00:00Z"}])
    assert check(beyond, "--data", own_service.folder)[0] == 2
    assert check(write(tmp_path / "none.jsonl", []), "--data", own_service.folder)[0] == 2


def test_the_log_is_read_over_http_by_the_rules_of_tlog_tiles(own_service, vkey, tmp_path):
    with own_service as service:
        receipts = keep_receipts(service, tmp_path / "receipts.jsonl", CALLS)
        log = f"{service.endpoint}/log/{receipts[0]['log']}"

        def get(path):
            with urllib.request.urlopen(f"{log}/{path}") as answer:
                return answer.headers, answer.read()

        def size():
            return int(get("checkpoint")[1].splitlines()[1])

        def status(url):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(url)
            return error.value.code

        wait_for("a checkpoint", lambda: size() > CALLS)
        headers, note = get("checkpoint")
        assert headers["content-type"] == "text/plain; charset=utf-8" and headers["cache-control"] == "no-cache"
        assert note.startswith(b"keytrail/")
        for path, length in [("tile/0/000", 8192), ("tile/entries/000", 256 * 112), ("tile/1/000.p/1", 32)]:
            headers, tile = get(path)
            assert headers["content-type"] == "application/octet-stream" and "immutable" in headers["cache-control"]
            assert len(tile) == length
        assert get("tile/0/000.p/7")[1] == get("tile/0/000")[1][: 7 * 32]
        for path in ["tile/0/001", "tile/0/0", "tile/1/000", "tile/2/000.p/1", "tile/0/x001/000", "tile/8/0", "", "checkpoint/"]:
            assert status(f"{log}/{path}") == 404, path
        assert status(f"{service.endpoint}/log/{'0' * 32}/checkpoint") == 404

        run(KEYTRAIL, "log", "tiles", "--data", service.folder, "--out", tmp_path / "live")
        fsck(f"file://{tmp_path / 'live'}", vkey)
        fsck(log, vkey)
    out = tmp_path / "stopped"
    run(KEYTRAIL, "log", "tiles", "--data", own_service.folder, "--out", out)
    fsck(f"file://{out}", vkey)
    for tile in [out / "tile/0/000", out / "tile/entries/000"]:
        good = tile.read_bytes()
        tile.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
        fsck(f"file://{out}", vkey, works=False)
        tile.write_bytes(good)
    fsck(f"file://{out}", vkey)


def fsck(url, vkey, works=True):
    need("go")
    # With fewer workers than tiles, a false tile ends its worker, and whoever still has tiles for it waits for ever.
    flags = ("--storage_url", url, "--public_key", vkey, "--ui=false", "--N=32")
    done = run(INSTALLED / "fsck/fsck", *flags, check=False, timeout=PATIENCE_SECS)
    # It ends with 0 either way; what it says is its verdict.
    said = "Successfully fsck'd log" if works else "fsck failed"
    assert said in done.stderr, done.stderr[:2_000]
    assert ("fsck failed" in done.stderr) != works


def test_a_proof_file_is_checked_without_the_log(own_service, vkey, tmp_path):
    with own_service as service:
        receipts = keep_receipts(service, tmp_path / "receipts.jsonl", 20)
        early = tmp_path / "early-checkpoint"

        def signed():
            note = (service.folder / "checkpoints" / "latest").read_text()
            early.write_text(note)
            return int(note.splitlines()[1]) > receipts[-1]["seq"]

        wait_for("a checkpoint", signed)
        receipt = receipts[7]
        by_seq, by_request = tmp_path / "a.tlog-proof", tmp_path / "b.tlog-proof"
        proof = (KEYTRAIL, "log", "proof", "--data", service.folder)
        run(*proof, "--seq", receipt["seq"], "--out", by_seq)
        run(*proof, "--request-id", receipt["requestId"], "--out", by_request)
        for path in (by_seq, by_request):
            told = run(KEYTRAIL, "log", "check", path, "--vkey", vkey).stdout.splitlines()
            assert told[0] == "VERIFIED" and f"seq         {receipt['seq']}" in told
        assert run(*proof, "--seq", 10**6, check=False).returncode == 1
        by_seq.write_text(by_seq.read_text().replace("index ", "index 1", 1))
        assert run(KEYTRAIL, "log", "check", by_seq, "--vkey", vkey, check=False).returncode == 1
        keep_receipts(service, tmp_path / "more.jsonl", 20)
    consistency = (KEYTRAIL, "log", "consistency", "--data", own_service.folder, "--from")
    told = run(*consistency, early).stdout.splitlines()
    size = early.read_text().splitlines()[1]
    assert told[0] == f"old {size}" and told[told.index("") + 1].startswith("keytrail/")
    assert run(*consistency, size).stdout.splitlines() == told
    assert run(*consistency, 10**9, check=False).returncode == 1


def test_the_log_is_not_served_when_switched_off(own_service):
    path = own_service.folder / "keytrail.toml"
    text = path.read_text()
    assert "serve_log = true" in text
    path.write_text(text.replace("serve_log = true", "serve_log = false"))
    with own_service as service:
        kms = service.client()
        answer = kms.generate_random(NumberOfBytes=16)["ResponseMetadata"]["HTTPHeaders"]
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{service.endpoint}/log/{answer['x-keytrail-log']}/checkpoint")
        assert error.value.code == 400
