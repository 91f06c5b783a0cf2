"""DuckDB opens the lake's Parquet files, with no word from us, and agrees with `keytrail sql`."""

import duckdb
import pytest
from botocore.exceptions import ClientError

from service import wait_for


def test_duckdb_reads_the_lake(own_service):
    with own_service as service:
        kms = service.client()
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        blob = kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"tenant": "1"})["CiphertextBlob"]
        with pytest.raises(ClientError):
            service.client("nobody").decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})
        for _ in range(20):
            kms.decrypt(CiphertextBlob=blob, EncryptionContext={"tenant": "1"})
        count = "SELECT count(*) AS n FROM events WHERE event_name = 'Decrypt'"
        wait_for("the calls in the lake", lambda: service.sql(count)[0]["n"] == 21)
    # Stopped: what was in memory is sealed into files.
    files = f"{service.folder}/lake/data/log=*/*.parquet"
    # Every file holds its log as a column; the folder's name says the same and need not be parsed.
    records = duckdb.sql(f"SELECT * FROM read_parquet('{files}', hive_partitioning = false)")
    theirs = duckdb.sql(
        "SELECT seq, event_name, principal_arn, enc_context FROM records WHERE kind = 1 ORDER BY seq"
    ).fetchall()
    query = "SELECT seq, event_name, principal_arn, enc_context FROM events ORDER BY seq"
    ours = [tuple(row.get(name) for name in ("seq", "event_name", "principal_arn", "enc_context")) for row in service.sql(query)]
    assert theirs == ours[: len(theirs)] and len(theirs) >= 23
    assert ("Decrypt", '{"tenant":"1"}') in {(row[1], row[3]) for row in theirs}
    seqs = [seq for (seq,) in duckdb.sql("SELECT seq FROM records ORDER BY seq").fetchall()]
    assert seqs == list(range(len(seqs))), "every record of the log is a row, once"
    # The raw column is the payload as first written; DuckDB's own JSON reader takes it.
    raw = "SELECT decode(raw)::JSON->>'$.eventName' FROM records WHERE event_name = 'CreateKey'"
    assert duckdb.sql(raw).fetchall() == [("CreateKey",)]
