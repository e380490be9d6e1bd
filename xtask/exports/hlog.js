// HdrHistogram log, read by the JavaScript implementation: JSON, log.
"use strict";
const fs = require("fs");
const hdr = require("hdr-histogram-js");

const run = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const log = fs.readFileSync(process.argv[3], "utf8");
const expected = new Map();
const add = (tag, hist) => hist.count > 0 && expected.set(tag.replaceAll(" ", "_"), hist);
for (const lock of run.locks) {
  add(`wait/${lock.class}/${lock.mode}`, lock.wait);
  add(`hold/${lock.class}/${lock.mode}`, lock.hold);
}
for (const entry of run.entry_points) add(`latency/${entry.name}`, entry.latency);
if (!log.startsWith("#[Histogram log format version 1.3]") || !log.includes("EMULATED")) throw new Error("header");

const reader = new hdr.HistogramLogReader(log, 64);
let [lines, values, percentiles, worst] = [0, 0, 0, 0];
for (let h = reader.nextIntervalHistogram(); h != null; h = reader.nextIntervalHistogram()) {
  const ours = expected.get(h.tag);
  if (!ours) throw new Error(`nobody expects ${h.tag}`);
  expected.delete(h.tag);
  if (h.totalCount !== ours.count) throw new Error(`${h.tag}: ${h.totalCount} values, not ${ours.count}`);
  for (const [q, name] of [[50, "p50_ns"], [90, "p90_ns"], [99, "p99_ns"], [99.9, "p999_ns"], [100, "max_ns"]]) {
    const difference = Math.abs(h.getValueAtPercentile(q) - ours[name]) / Math.max(ours[name], 1);
    if (difference > 0.001) throw new Error(`${h.tag} p${q}: ${h.getValueAtPercentile(q)}, not ${ours[name]}`);
    worst = Math.max(worst, difference);
    percentiles++;
  }
  lines++;
  values += h.totalCount;
}
if (expected.size > 0) throw new Error(`missing: ${[...expected.keys()]}`);
console.log(
  `${lines} histograms, ${values} values, ${percentiles} percentiles, at most ${(worst * 100).toFixed(3)} % apart`,
);
