"""Perfetto: with the trace processor where PERFETTO_TRACE_PROCESSOR names one, else decoded with the published messages.
Arguments: JSON, trace."""
import collections
import json
import os
import sys

run = json.load(open(sys.argv[1]))
expected = {
    "hold": sum(lock["hold"]["count"] for lock in run["locks"]),
    "call": sum(entry["latency"]["count"] for entry in run["entry_points"]),
}
assert run["events"]["dropped"] == 0, "a proof needs a run that lost no record"


def by_processor(path):
    from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

    processor = TraceProcessor(trace=sys.argv[2], config=TraceProcessorConfig(bin_path=path))
    one = lambda query: next(iter(processor.query(query))).n
    wrong = one("select count(*) n from stats where severity = 'error' and value > 0")
    assert wrong == 0, f"{wrong} errors in stats"
    # What goes on at the end is in no histogram.
    open_slices = "select arg_set_id from args where key = 'debug.goes_on'"
    ended = f"arg_set_id is null or arg_set_id not in ({open_slices})"
    by_category = processor.query(f"select category, count(*) n from slice where {ended} group by 1")
    counts = {r.category: r.n for r in by_category}
    return counts, one("select count(*) n from flow"), one("select count(*) n from counter"), "SQL"


def decoded():
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

    trace = Trace()
    trace.ParseFromString(open(sys.argv[2], "rb").read())
    tracks, counts, ends, starts, counters = {}, collections.Counter(), set(), set(), 0
    events = collections.defaultdict(list)
    for packet in trace.packet:
        # A field of ours that the published schema does not know would be kept as unknown.
        assert not packet.track_descriptor.ByteSize() or packet.track_descriptor.uuid not in tracks
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        assert event.track_uuid in tracks, event
        if event.type == TrackEvent.TYPE_COUNTER:
            assert tracks[event.track_uuid].HasField("counter")
            counters += 1
            continue
        events[event.track_uuid].append((packet.timestamp, event.type))
        # What goes on at the end is in no histogram.
        if not any(about.name == "goes_on" for about in event.debug_annotations):
            counts.update(event.categories)
        starts.update(event.flow_ids)
        ends.update(event.terminating_flow_ids)
    assert starts == ends and len(starts) == counts["release"], "each arrow has two ends"
    for track in events.values():
        depth = 0
        for _, kind in sorted(track, key=lambda event: event[0]):
            depth += {TrackEvent.TYPE_SLICE_BEGIN: 1, TrackEvent.TYPE_SLICE_END: -1}.get(kind, 0)
            assert depth in (0, 1), "slices of one track overlap"
    assert any(t.process.process_name.startswith("EMULATED") for t in tracks.values())
    return counts, len(starts), counters, "published messages"


path = os.environ.get("PERFETTO_TRACE_PROCESSOR")
counts, arrows, counters, how = by_processor(path) if path else decoded()
for category, count in expected.items():
    assert counts[category] == count, (category, counts[category], count)
print(
    f"{counts['call']} calls, {counts['hold']} holds, {counts['wait']} waits, {arrows} arrows, "
    f"{counters} counter values; {how}"
)
