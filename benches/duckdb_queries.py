"""DuckDB's side of `keytrail bench query`: files and queries come as JSON on stdin, a line with the best time goes out
for each query. Results are fetched as Arrow-free rows, which costs little: no query gives more than a few hundred."""

import json
import sys
import time

import duckdb

order = json.load(sys.stdin)
duckdb.sql(f"SET threads = {order['threads']}")
duckdb.sql("SET TimeZone = 'UTC'")
# It would go to stdout, between the figures.
duckdb.sql("SET enable_progress_bar = false")
files = ", ".join("'" + name.replace("'", "''") + "'" for name in order["files"])
duckdb.sql(f"CREATE VIEW events AS SELECT * FROM read_parquet([{files}], hive_partitioning = false) WHERE kind = 1")
for query in order["queries"]:
    best, rows = float("inf"), 0
    for _ in range(order["runs"]):
        start = time.perf_counter()
        rows = len(duckdb.sql(query).fetchall())
        best = min(best, (time.perf_counter() - start) * 1000)
    print(json.dumps({"ms": best, "rows": rows}), flush=True)
