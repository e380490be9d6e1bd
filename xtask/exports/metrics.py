"""OpenMetrics, read by the parser of the Prometheus project's Python client: JSON, exposition."""
import json
import sys
from fractions import Fraction

from prometheus_client.openmetrics.parser import text_string_to_metric_families

run = json.load(open(sys.argv[1]))
families = {f.name: f for f in text_string_to_metric_families(open(sys.argv[2]).read())}
value = {}
for family in families.values():
    for sample in family.samples:
        labels = sample.labels
        assert labels["driver"] == "EMULATED", sample
        key = tuple(labels.get(k) for k in ("class", "mode", "entry_point", "le"))
        value[(sample.name, key)] = sample.value
compared = 0


def same(name, key, expected):
    global compared
    found = value[(name, key)]
    assert found == expected, (name, key, found, expected)
    compared += 1


def histogram(name, key, hist):
    same(f"{name}_count", (*key, None), hist["count"])
    same(f"{name}_sum", (*key, None), float(Fraction(hist["sum_ns"], 10**9)))
    bounds = [k[1][3] for k in value if k[0] == f"{name}_bucket" and k[1][:3] == key]
    assert len(bounds) > 30, bounds
    for le in bounds:
        bound = float(le) * 1e9 + 0.5
        below = sum(n for upper, n in hist["buckets"] if upper <= bound)
        same(f"{name}_bucket", (*key, le), below)


for lock in run["locks"]:
    key = (lock["class"], lock["mode"], None)
    same("apscope_lock_acquisitions_total", (*key, None), lock["acquisitions"])
    same("apscope_lock_contended_total", (*key, None), lock["contended"])
    histogram("apscope_lock_wait_seconds", key, lock["wait"])
    histogram("apscope_lock_hold_seconds", key, lock["hold"])
for entry in run["entry_points"]:
    key = (None, None, entry["name"])
    same("apscope_entry_calls_total", (*key, None), entry["calls"])
    histogram("apscope_entry_latency_seconds", key, entry["latency"])
print(f"{len(families)} metrics, {len(value)} samples, {compared} numbers compared")
