"""Other engines read the lake as it is after merging: DuckDB, pyarrow, and Delta readers through a log laid over it."""

import json
import re

import deltalake
import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service import KEYTRAIL, run, wait_for


def test_merged_files_are_read_by_duckdb_pyarrow_and_delta(own_service):
    config = own_service.folder / "keytrail.toml"
    text, changed = re.subn(r"(?m)^seal_rows = .*$", "seal_rows = 8", config.read_text())
    assert changed == 1
    config.write_text(text)
    with own_service as service:
        kms = service.client()
        keys = [kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)]
        for n in range(60):
            kms.encrypt(KeyId=keys[n % 5], Plaintext=b"x", EncryptionContext={"n": str(n)})
        wait_for("the calls", lambda: service.sql("SELECT count(*) AS n FROM events WHERE event_name = 'Encrypt'")[0]["n"] == 60)
        # A busy trail seals many records as one file: calls go on until there were enough small ones.
        call = lambda: kms.encrypt(KeyId=keys[0], Plaintext=b"x", EncryptionContext={"n": "more"})
        wait_for("a merged file", lambda: call() and merged(service.folder / "lake"))
    lake = own_service.folder / "lake"
    ours = own_service.sql("SELECT seq, event_name, key_arn, enc_context FROM records ORDER BY seq")
    last = max(pc.max(pq.read_table(name, columns=["seq"])["seq"]).as_py() for name in files(lake))
    ours = [tuple(row.get(name) for name in ("seq", "event_name", "key_arn", "enc_context")) for row in ours if row["seq"] <= last]

    checked = run(KEYTRAIL, "lake", "check", "--data", own_service.folder).stdout
    assert f"rows    {len(ours)}" in checked and "chain intact" in checked

    names = ", ".join(f"'{name}'" for name in files(lake))
    columns = "SELECT seq, event_name, key_arn, enc_context"
    assert duckdb.sql(f"{columns} FROM read_parquet([{names}], hive_partitioning = false) ORDER BY seq").fetchall() == ours

    rows = []
    for name in files(lake):
        table = pq.ParquetFile(name).read(columns=["seq", "event_name", "key_arn", "enc_context"])
        rows += list(zip(*(table[column].to_pylist() for column in table.column_names)))
    assert sorted(rows) == ours

    told = run(KEYTRAIL, "lake", "delta", "--data", own_service.folder).stdout
    assert f"version 0 written: {len(files(lake))} files, {len(ours)} rows" in told
    assert "version 0 is up to date" in run(KEYTRAIL, "lake", "delta", "--data", own_service.folder).stdout
    delta = deltalake.DeltaTable(str(lake))
    table = duckdb.from_arrow(delta.to_pyarrow_table())
    assert table.order("seq").project("seq, event_name, key_arn, enc_context").fetchall() == ours

    # More records: the next version has them, and no file that merging replaced.
    with own_service as service:
        for n in range(40):
            service.client().encrypt(KeyId=keys[0], Plaintext=b"x", EncryptionContext={"n": str(n)})
    run(KEYTRAIL, "lake", "delta", "--data", own_service.folder)
    delta = deltalake.DeltaTable(str(lake))
    assert delta.version() == 1
    count = own_service.sql("SELECT count(*) AS n, max(seq) AS last FROM records")[0]
    assert duckdb.from_arrow(delta.to_pyarrow_table()).aggregate("count(*), max(seq)").fetchall() == [(count["n"], count["last"])]


def live(lake):
    """What the commits say of the lake's files, by path."""
    found = {}
    for commit in sorted(lake.glob("commits/*/*[0-9].json")):
        said = json.loads(commit.read_text())
        for path in said["removes"]:
            found.pop(path)
        found.update({file["path"]: file for file in said["adds"]})
    return found


def files(lake):
    return sorted(str(lake / path) for path in live(lake))


def merged(lake):
    return [path for path, said in live(lake).items() if said["order"] == "key"]
