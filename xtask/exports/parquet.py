"""Parquet, read by DuckDB and by pyarrow: JSON, folder."""
import json
import sys

import duckdb
import pyarrow.parquet

run = json.load(open(sys.argv[1]))
folder = sys.argv[2]
sql = duckdb.connect()
found = {
    (what, name, mode): buckets
    for what, name, mode, buckets in sql.execute(
        f"select what, name, mode, list([upper_ns, count] order by upper_ns) from '{folder}/histograms.parquet' group by all"
    ).fetchall()
}
compared = 0
expected = [(("wait", k["class"], k["mode"]), k["wait"]) for k in run["locks"]]
expected += [(("hold", k["class"], k["mode"]), k["hold"]) for k in run["locks"]]
expected += [(("latency", e["name"], ""), e["latency"]) for e in run["entry_points"]]
for key, hist in expected:
    assert [list(b) for b in found.pop(key, [])] == hist["buckets"], key
    compared += len(hist["buckets"])
assert not found, found
kinds = dict(sql.execute(f"select kind, count(*) from '{folder}/spans.parquet' group by 1").fetchall())
holds = sum(lock["hold"]["count"] for lock in run["locks"])
calls = sum(entry["latency"]["count"] for entry in run["entry_points"])
assert run["events"]["dropped"] > 0 or kinds == {"lock": holds, "call": calls}, kinds
held = dict(
    sql.execute(
        f"select class || mode, sum(duration_ns) from '{folder}/spans.parquet' where kind = 'lock' group by 1"
    ).fetchall()
)
for lock in run["locks"]:
    expect = lock["hold"]["sum_ns"]
    assert run["events"]["dropped"] > 0 or held.get(lock["class"] + lock["mode"], 0) == expect, lock["class"]
spans = pyarrow.parquet.read_table(f"{folder}/spans.parquet")
assert spans.num_rows == sum(kinds.values())
assert set(spans.column("driver").to_pylist()) == {"EMULATED"}
print(f"{spans.num_rows} spans in {spans.num_columns} columns, sums of holds equal, {compared} buckets compared")
