"""CSV, read by Python's own reader: JSON, folder."""
import csv
import json
import pathlib
import sys

run = json.load(open(sys.argv[1]))
folder = pathlib.Path(sys.argv[2])
tables = {}
for path in sorted(folder.glob("*.csv")):
    with open(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        tables[path.stem] = list(reader)
        assert all(None not in row and None not in row.values() for row in tables[path.stem]), path
        assert all(row["driver"] == "EMULATED" for row in tables[path.stem]), path
compared = 0
for row, lock in zip(tables["locks"], run["locks"], strict=True):
    for name in ("class", "mode", "acquisitions", "contended", "releases"):
        assert row[name] == str(lock[name]), (row, name)
        compared += 1
    for what in ("wait", "hold"):
        for name in ("count", "sum_ns", "p50_ns", "p99_ns", "p999_ns", "max_ns"):
            assert row[f"{what}_{name}"] == str(lock[what].get(name, "")), (row, what, name)
            compared += 1
buckets = {}
for row in tables["histograms"]:
    key = (row["what"], row["name"], row["mode"])
    buckets.setdefault(key, []).append([int(row["upper_ns"]), int(row["count"])])
for lock in run["locks"]:
    for what in ("wait", "hold"):
        assert buckets.get((what, lock["class"], lock["mode"]), []) == lock[what]["buckets"], lock
        compared += len(lock[what]["buckets"])
for entry in run["entry_points"]:
    assert buckets.get(("latency", entry["name"], ""), []) == entry["latency"]["buckets"], entry
    compared += len(entry["latency"]["buckets"])
locks = sum(row["kind"] == "lock" for row in tables["spans"])
calls = sum(row["kind"] == "call" for row in tables["spans"])
assert run["events"]["dropped"] > 0 or locks == sum(lock["hold"]["count"] for lock in run["locks"])
assert run["events"]["dropped"] > 0 or calls == sum(e["latency"]["count"] for e in run["entry_points"])
rows = sum(len(rows) for rows in tables.values())
print(f"{len(tables)} tables, {rows} rows, {locks} lock spans, {calls} calls, {compared} numbers compared")
