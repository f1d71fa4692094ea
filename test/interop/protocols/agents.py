"""Without this nobody knows that what feeds the analytics subsystem works: a Lumberjack client and server by Elastic's Go
library, and Elastic's APM agent for Python with a small intake server, unmodified, through a pair.

Drives: B5, F1, R73"""
import gzip
import http.server
import json
import subprocess
import sys
import threading
import zlib

import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.others import CACHE, run

EVENTS = 6000


class TestLumberjack:
    """Windows of events, compressed or not, several unacknowledged at a time."""

    @pytest.fixture(scope="class")
    @classmethod
    def tool(cls):
        found = CACHE / "bin" / "lumberjack"
        assert found.exists(), "lumberjack is missing: test/install test"
        return found

    @pytest.fixture
    def server(self, tool, pairs, tmp_path):
        """Where the server writes what it got."""
        got = tmp_path / "got"
        with open(got, "wb") as out:
            child = subprocess.Popen([tool, "serve", f"127.0.0.1:{pairs.port}"], stdout=out,
                                     stderr=subprocess.PIPE, env=own_environment())
        assert child.stderr.readline() == b"serving\n"
        yield got
        child.kill()
        child.wait()

    @pytest.mark.parametrize("level,window,batch", [(0, 1, 1), (0, 8, 500), (3, 4, 2000)])
    def test_every_event_arrives_once_and_in_order(self, tool, server, port, level, window, batch):
        number = EVENTS if batch > 1 else 300
        events = [{"n": i, "message": f"line {i} " + "ü" * (i * 7 % 400), "host": {"name": "gateway"}}
                  for i in range(number)]
        run(tool, "send", f"127.0.0.1:{port}", level, window, batch,
            input="".join(json.dumps(event) + "\n" for event in events).encode())
        assert [json.loads(line) for line in server.read_text().splitlines()] == events


class Intake:
    """What an APM server does with an agent: takes ND-JSON, compressed and chunked, and hands out configuration."""

    def __init__(self, port):
        self.events, self.agents, self.config_asked, self.wrong = [], set(), 0, []
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, *args):
                pass

            def answer(self, status, body=b"", **fields):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in fields.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def body(self):
                if "content-length" in self.headers:
                    return self.rfile.read(int(self.headers["content-length"]))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    assert self.rfile.readline() == b"\r\n"
                assert self.rfile.readline() == b"\r\n"
                return b"".join(parts)

            def do_GET(self):
                if self.path == "/":
                    self.answer(200, b'{"version": "8.11.0"}', Content_Type="application/json")
                else:
                    self.answer(304, Etag='"1"', Cache_Control="max-age=30")

            def do_POST(self):
                data = self.body()
                if self.path.startswith("/config/v1/agents"):
                    with outer.lock:
                        outer.config_asked += 1
                    self.answer(200, b"{}", Etag='"1"', Cache_Control="max-age=30")
                    return
                try:
                    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}
                    lines = unpack[self.headers["content-encoding"]](data).splitlines()
                    events = [json.loads(line) for line in lines]
                    assert self.path == "/intake/v2/events" and "metadata" in events[0]
                    assert self.headers["authorization"] == "Bearer secret token"
                except (AssertionError, KeyError, ValueError, zlib.error, OSError) as err:
                    outer.wrong.append(f"{type(err).__name__} {err} in {data[:40]!r}")
                    self.answer(400)
                    return
                with outer.lock:
                    outer.events += events
                    outer.agents.add(self.headers["user-agent"].split("/")[0])
                self.answer(202)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, kind):
        with self.lock:
            return [event[kind]["name"] for event in self.events if kind in event]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


AGENT = r"""
import sys
import elasticapm

client = elasticapm.Client(
    service_name="portal", server_url=f"http://127.0.0.1:{sys.argv[1]}", secret_token="secret token",
    api_request_size="20kb", api_request_time="200ms", metrics_interval="1s", cloud_provider="none",
    transaction_max_spans=50)
elasticapm.instrument()
for number in range(int(sys.argv[2])):
    client.begin_transaction("request")
    with elasticapm.capture_span(f"span {number}", extra={"text": "ö" * (number % 300)}):
        elasticapm.label(number=number)
    if number % 50 == 0:
        try:
            raise ValueError(f"error {number}")
        except ValueError:
            client.capture_exception()
    client.end_transaction(f"transaction {number}", "ok")
sys.stdin.read()  # it lives on; at its own end the agent gives up what it has not sent
client.close()
"""


class TestApm:
    @pytest.fixture
    def intake(self, pairs):
        made = Intake(pairs.port)
        yield made
        made.stop()

    def test_every_transaction_arrives(self, intake, port):
        """The agent streams compressed events in requests that end after 200 ms or 20 kB, whatever comes first."""
        number = 500
        application = subprocess.Popen([sys.executable, "-c", AGENT, str(port), str(number)],
                                       stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=own_environment())
        try:
            wait_for("the last transaction", lambda: intake.config_asked > 0 and all(
                len(intake.named(kind)) >= number for kind in ("transaction", "span")), 60)
            said = application.communicate(timeout=60)[1].decode()
        finally:
            application.kill()
            application.wait()
        assert application.returncode == 0 and "rror" not in said, said[-2000:]
        assert intake.wrong == []
        assert sorted(intake.named("transaction")) == sorted(f"transaction {i}" for i in range(number))
        assert sorted(intake.named("span")) == sorted(f"span {i}" for i in range(number))
        errors = [e["error"]["exception"]["message"] for e in intake.events if "error" in e]
        assert sorted(errors) == sorted(f"ValueError: error {i}" for i in range(0, number, 50))
        assert intake.agents == {"apm-agent-python"}

    def test_an_intake_that_is_away_costs_the_application_nothing(self, port):
        """The twin: nobody listens behind the server's sidecar; the agent gives up in time and says so."""
        done = subprocess.run([sys.executable, "-c", AGENT, str(port), "20"], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, timeout=60, env=own_environment())
        assert done.returncode == 0, done.stderr[-2000:]
        assert "Failed to submit message" in done.stderr, done.stderr[-2000:]
