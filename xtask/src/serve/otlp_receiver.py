"""Takes OTLP over HTTP with OpenTelemetry's own messages (PyPI: opentelemetry-proto), and prints JSON when asked to stop.

Arguments: folder with the packages, port, file to write. Ends when its standard input does.
"""
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

sys.path.insert(0, sys.argv[1])
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics

seen = {"exports": 0, "resource": {}, "numbers": {}, "histograms": {}, "logs": [], "unknown": 0}


def plain(attributes):
    return {a.key: a.value.string_value for a in attributes}


def labels(point):
    return ",".join(f"{k}={v}" for k, v in sorted(plain(point.attributes).items()))


def take_metrics(body):
    request = metrics.ExportMetricsServiceRequest.FromString(body)
    seen["exports"] += 1
    seen["unknown"] += len(request.SerializeToString()) != len(body)
    for resource in request.resource_metrics:
        seen["resource"] = plain(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    name = f"{metric.name}{{{labels(point)}}}"
                    if kind == "histogram":
                        cumulative = metric.histogram.aggregation_temporality == 2
                        well = (
                            cumulative
                            and len(point.bucket_counts) == len(point.explicit_bounds) + 1
                            and sum(point.bucket_counts) == point.count
                        )
                        seen["histograms"][name] = {"count": point.count, "sum": point.sum, "well": well}
                    else:
                        seen["numbers"][name] = point.as_int


def take_logs(body):
    request = logs.ExportLogsServiceRequest.FromString(body)
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                attributes = plain(record.attributes)
                attributes["body"] = record.body.string_value
                attributes["severity"] = record.severity_text
                seen["logs"].append(attributes)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        take = {"/v1/metrics": take_metrics, "/v1/logs": take_logs}.get(self.path)
        if take is None or self.headers["Content-Type"] != "application/x-protobuf":
            self.send_error(400)
            return
        take(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
server.shutdown()
with open(sys.argv[3], "w") as file:
    json.dump(seen, file)
