"""Packs of what is rarer in a log: imports, erased records, periods without a call, statistics that lie; exports that are
events, and packs that continue each other. Each is judged by all three verifiers."""

import gzip
import json
import shutil
import time

import duckdb
import pytest

import packs
from browser import Browser
from packs import Keys, Pack, Record, b64, sha256
from past import Past, event, records
from service import ACCOUNT, KEYTRAIL, REGION, run
from test_evidence import by_page, by_python, by_rust, deny_rows, validate

START = 1_767_614_400_000_000
STEP = 240_000_000
HOUR = 3_600_000_000
PERIOD = ("2026-01-05T12:30:00Z", "2026-01-05T13:30:00Z")
ALWAYS = ("--from", "2020-01-01", "--to", "2100-01-01")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


def judged(browser, pack, word, *flags, **page):
    seen = [by_rust(pack, *flags), by_python(pack, *flags), by_page(browser, pack, folder=True, **page)]
    assert [verdict.word for verdict in seen] == [word] * 3, seen
    assert len({verdict.seq for verdict in seen}) == 1, seen
    return seen


def manifest_of(pack):
    return json.loads((pack / "data/manifest.json").read_bytes())


def export(folder, out, *flags):
    done = run(KEYTRAIL, "evidence", "export", "--data", folder, *ALWAYS, "--out", out, *flags, check=False)
    return done.returncode, done.stdout + done.stderr


def trail_of(folder, count):
    """CloudTrail files of another account, not in order of time."""
    made = [json.loads(event(number, "111122223333", "eu-central-1", eventTime=f"2024-05-01T00:00:{59 - number:02}Z")) for number in range(count)]
    for part in (0, 1):
        path = folder / f"AWSLogs/111122223333/CloudTrail/eu-central-1/2024/05/0{part + 1}/part.json.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(json.dumps({"Records": made[part::2]}).encode()))
    return folder


def test_an_imported_log_beside_the_nodes_own(browser, tmp_path):
    past = Past(tmp_path / "data").add(records(START, STEP, 60)).close()
    run(KEYTRAIL, "import", "cloudtrail", trail_of(tmp_path / "trail", 30), "--data", past.folder)
    pack = past.export(tmp_path / "pack", *PERIOD)
    judged(browser, pack, "VERIFIED")
    by_origin = {log["imported"]: log for log in manifest_of(pack)["logs"]}
    imported = by_origin[True]
    assert (imported["first"], imported["last"], imported["size"]) == (0, 29, 30)
    held = [gzip.decompress((pack / "data" / path).read_bytes()) for path in imported["cloudtrail"]]
    names = {one["eventName"] for raw in held for one in json.loads(raw)["Records"]}
    assert names == {f"Call{number:04}" for number in range(30)}

    # The exporter's keys do not help to put another record in the place of one.
    changed = Pack.read(pack)
    [log] = [log for log in changed.logs if log.more.get("imported")]
    log.records[7].payload = event(77, "111122223333", "eu-central-1")
    keys = Keys.of_folder(past.folder)
    judged_as = changed.write(tmp_path / "changed", Keys(keys.pack, keys.digest))
    assert {by_rust(judged_as).word, by_python(judged_as).word, by_page(browser, judged_as, folder=True).word} == {"FAILED"}


def test_a_folder_of_imports_alone(browser, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    run(KEYTRAIL, "import", "cloudtrail", trail_of(tmp_path / "trail", 12), "--data", folder)
    code, said = export(folder, tmp_path / "pack")
    assert code == 0 and "NOT in the log: the folder holds records and no node" in said, said
    judged(browser, tmp_path / "pack", "VERIFIED")
    manifest = manifest_of(tmp_path / "pack")
    assert [log["imported"] for log in manifest["logs"]] == [True]
    assert "no node" in manifest["unrecorded"]
    assert "NOT recorded in the log" in (tmp_path / "pack/data/statement.html").read_text()


def unpacked(pack):
    """Every file of a pack, gzip taken off."""
    for path in pack.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            yield gzip.decompress(raw) if path.suffix == ".gz" else raw


def until(what, found, patience_secs=60):
    end = time.monotonic() + patience_secs
    while time.monotonic() < end:
        if got := found():
            return got
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come")


def covered(service):
    """Waits until a checkpoint covers the records of now."""
    wanted = service.sql("SELECT max(seq) AS seq FROM records")[0]["seq"]
    note = service.folder / "checkpoints/latest"
    until("a checkpoint", lambda: int(note.read_text().split("\n")[1]) > wanted)


def test_an_erased_record_and_exports_as_events(own_service, browser, tmp_path):
    person = "canary-of-a-person-7714"
    with own_service as service:
        kms = service.client()
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"person": person})
        # Not by what is to go: the query itself is in the log.
        query = "SELECT seq FROM events WHERE event_name = 'Encrypt' AND enc_context IS NOT NULL"
        seq = until("the event", lambda: service.sql(query))[0]["seq"]
        run(KEYTRAIL, "log", "erase", "--data", service.folder, "--seq", seq, "--reason", "a person asked")
        until("the erasure", lambda: not service.sql(query))
        covered(service)
        code, said = export(service.folder, tmp_path / "pack", "--sample", 1000)
        assert code == 0 and "recorded    in the log, seq " in said, said
        recorded = int(said.split("in the log, seq ")[1].split()[0])
        told = until("the event of the export", lambda: service.sql(
            f"SELECT event_name, event_source, request_parameters, read_only FROM events WHERE seq = {recorded}"))[0]
    pack = tmp_path / "pack"
    manifest = manifest_of(pack)
    assert (told["event_name"], told["event_source"], told["read_only"]) == ("ExportEvidence", "keytrail.internal", False)
    parameters = json.loads(told["request_parameters"])
    assert parameters["manifestSha256"] == sha256((pack / "data/manifest.json").read_bytes()).hex()
    assert parameters["exportedBy"] == manifest["exportedBy"] and parameters["from"] == "2020-01-01T00:00:00Z"
    assert "unrecorded" not in manifest and "(ExportEvidence)" in (pack / "data/statement.html").read_text()

    # The proof of the erased one holds, what it said is nowhere.
    judged(browser, pack, "VERIFIED-UP-TO")
    [log] = manifest["logs"]
    assert (log["erased"], log["withheld"]) == (1, 0)
    assert (pack / f"data/sample/{log['log']}/{seq}.tlog-proof").is_file()
    assert not any(person.encode() in raw for raw in unpacked(pack))
    rows = duckdb.sql(f"SELECT raw, salt, payload_digest FROM '{pack}/data/{log['parquet'][0]}' WHERE seq = {seq}").fetchall()
    assert rows[0][:2] == (None, None) and rows[0][2]

    # Of the stopped node, through its lock; a copy is left alone, and says so.
    code, said = export(service.folder, tmp_path / "stopped")
    assert code == 0 and "recorded    in the log, seq " in said, said
    access = [json.loads(line) for line in (tmp_path / "stopped/data/access.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in access if line["eventName"] == "ExportEvidence"] == [recorded]
    count = "SELECT count(*) AS n FROM events WHERE event_name = 'ExportEvidence' AND error_code IS NULL"
    assert service.sql(count)[0]["n"] == 2
    code, said = export(service.folder, tmp_path / "copy", "--unrecorded")
    assert code == 0 and "NOT in the log: it was made with --unrecorded" in said, said
    assert "--unrecorded" in manifest_of(tmp_path / "copy")["unrecorded"] and service.sql(count)[0]["n"] == 2
    judged(browser, tmp_path / "copy", "VERIFIED-UP-TO")
    assert service.verify().returncode == 0

    # A node that takes no event gives no pack.
    (service.folder / "root.key").rename(tmp_path / "root.key")
    (service.folder / "root.key").write_text("no key\n")
    code, said = export(service.folder, tmp_path / "refused")
    assert code != 0 and "record the export in the log" in said and not (tmp_path / "refused").exists(), said
    assert not list(tmp_path.glob(".refused*"))
    (tmp_path / "root.key").rename(service.folder / "root.key")


def test_a_period_without_a_record(browser, tmp_path):
    """Between two records the range is those two: hourly digests of the silence lie between them."""
    made = [*records(START, STEP, 12), *records(START + 9 * HOUR, STEP, 12, first=12)]
    past = Past(tmp_path / "data").add(made).close()
    pack = past.export(tmp_path / "pack", "2026-01-05T15:00:00Z", "2026-01-05T17:00:00Z")
    judged(browser, pack, "VERIFIED")
    [log] = manifest_of(pack)["logs"]
    assert log["last"] - log["first"] == 1
    # The one before is a heartbeat, the one after an event: a chain of digests from its hour back to the heartbeat's.
    assert len(log["digests"]) == 10
    code, said = validate(pack, log["log"][:8])
    assert code == 0 and "10/10 digest files valid" in said and "1/1 log files valid" in said, said


def test_a_range_without_an_event_says_that_it_has_no_digests(browser, tmp_path):
    beats = [Record(3 if number == 0 else 5, START + number * STEP, b'{"recordVersion":1}', salt=bytes(16)) for number in range(40)]
    past = Past(tmp_path / "data").add(beats).close()
    pack = past.export(tmp_path / "pack", *PERIOD)
    judged(browser, pack, "VERIFIED")
    [log] = manifest_of(pack)["logs"]
    assert (log["digests"], log["cloudtrail"]) == ([], [])
    assert "no CloudTrail files and no digests of it" in (pack / "data/statement.html").read_text()
    # What the AWS CLI makes of it: nothing found, and content.
    code, said = validate(pack, log["log"][:8])
    assert code == 0 and "No digests found" in said, said


def test_packs_continue_each_other(browser, tmp_path):
    past = Past(tmp_path / "data").add(records(START, STEP, 400)).close()
    first = past.export(tmp_path / "first", *PERIOD)
    older = tmp_path / "older"
    shutil.copytree(past.folder, older)
    past.add(records(START + 400 * STEP, STEP, 300, first=400)).close()
    head = (first / "data/logs" / past.id.hex() / "checkpoint").read_text()
    (tmp_path / "head").write_text(head)

    # The earlier size lies in front of the range, in it, behind it.
    for name, period in [
        ("behind", ("2026-01-06T20:00:00Z", "2026-01-06T22:00:00Z")),
        ("in", ("2026-01-06T12:00:00Z", "2026-01-06T16:00:00Z")),
        ("before", PERIOD),
    ]:
        pack = past.export(tmp_path / name, *period, "--previous", first)
        own = pack / "data/logs" / past.id.hex()
        assert (own / "previous").read_text() == head and (own / "consistency-400").is_file()
        judged(browser, pack, "VERIFIED", "--head", tmp_path / "head", heads=head)
        judged(browser, pack, "VERIFIED")
        # Without the key of the log, another history cannot be claimed, nor the proof be bent.
        for file in ("previous", "consistency-400"):
            bent = tmp_path / f"{name}-{file}"
            shutil.copytree(pack, bent)
            path = bent / "data/logs" / past.id.hex() / file
            lines = path.read_text().split("\n")
            lines[:3] = [*lines[:2], b64(sha256(b"other"))] if file == "previous" else lines[1:3]
            path.write_text("\n".join(lines))
            keys = Keys.of_folder(past.folder)
            packs.reseal(bent, Keys(keys.pack, keys.digest))
            assert {by_rust(bent).word, by_python(bent).word, by_page(browser, bent, folder=True).word} == {"FAILED"}, bent

    # A pack in a tar, and one of the same size.
    tar = past.export(tmp_path / "first.tar", *PERIOD)
    same = past.export(tmp_path / "same", *PERIOD, "--previous", tar)
    assert not list((same / "data/logs" / past.id.hex()).glob("consistency-*"))
    judged(browser, same, "VERIFIED")

    def refused(folder, previous):
        done = run(KEYTRAIL, "evidence", "export", "--data", folder, *ALWAYS, "--unrecorded", "--previous", previous, "--out", tmp_path / "no", check=False)
        assert done.returncode != 0 and not (tmp_path / "no").exists()
        return done.stderr

    assert "rolled back or forked" in refused(older, same)
    stranger = Past(tmp_path / "stranger").add(records(START, STEP, 40)).close()
    other = stranger.export(tmp_path / "other", *PERIOD)
    assert "which this folder does not have" in refused(past.folder, other)
    # The same key, another past.
    forked = Past.__new__(Past)
    forked.__dict__.update(past.__dict__)
    forked.records, forked.batches, forked.previous, forked.digest = [], b"", bytes(32), bytes(32)
    forked.folder, forked.tree = tmp_path / "forked", type(past.tree)()
    shutil.copytree(older, forked.folder)
    shutil.rmtree(forked.folder / "journal")
    forked.add([*records(START, STEP, 399), Record(5, START + 399 * STEP, b'{"recordVersion":1,"other":1}', salt=bytes(16))])
    forked.add(records(START + 400 * STEP, STEP, 10, first=400)).close()
    assert "its history was forked" in refused(forked.folder, first)
    (tmp_path / "empty").mkdir()
    assert "holds no logs of a pack" in refused(past.folder, tmp_path / "empty")


def test_statistics_that_hide_rows_are_found(tmp_path):
    """By the keys of the exporter: a query over the Parquet files passes by the rows that their statistics deny."""
    past = Past(tmp_path / "data").add(records(START, STEP, 60)).close()
    pack = past.export(tmp_path / "pack", *PERIOD)
    [log] = manifest_of(pack)["logs"]
    assert by_rust(pack).word == "VERIFIED"
    count = "SELECT count(*) FROM '{}' WHERE event_name = '{}'"
    for pages in (False, True):
        copy = tmp_path / f"pages-{pages}"
        shutil.copytree(pack, copy)
        path = copy / "data" / log["parquet"][0]
        hidden = deny_rows(path, pages)
        assert duckdb.sql(count.format(pack / "data" / log["parquet"][0], hidden)).fetchall() == [(1,)]
        if not pages:
            assert duckdb.sql(count.format(path, hidden)).fetchall() == [(0,)], "the lie works on readers"
        packs.reseal(copy, Keys.of_folder(past.folder))
        found = by_rust(copy)
        assert found.word == "FAILED" and "statistics of column event_name" in found.line, found
        # Parquet is compared by hash alone there, and they say so.
        assert by_python(copy).word == "VERIFIED"
