"""Without this our gRPC client could be one that only our own server understands: it calls a server made with Python's
grpcio (gRPC's C core) in every way, and outlives that server's end and return.

Drives: F2, F16, F18, R14, R15, R73"""
import threading
from concurrent import futures

import grpc
import pytest

BIG = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]


class Server:
    """A grpcio server on a Unix socket, or over TLS; may be stopped and started again."""

    def __init__(self, schema, folder, transport, certificate):
        self.schema, self.transport, self.certificate = schema, transport, certificate
        self.root = None if transport == "unix" else certificate[0]
        self.port = 0
        self.address = f"unix:{folder}/grpcio.sock"
        self.entered = threading.Semaphore(0)
        self.metadata = []
        self.cancelled = threading.Event()
        self.grpc = None

    def start(self, **options):
        options = BIG + [(f"grpc.{name}", value) for name, value in options.items()]
        self.grpc = grpc.server(futures.ThreadPoolExecutor(32), options=options)
        self.schema[1].add_EchoServicer_to_server(Service(self), self.grpc)
        if self.transport == "unix":
            self.grpc.add_insecure_port(self.address)
        else:
            cert, key = self.certificate[1:]
            self.port = self.grpc.add_secure_port(
                f"127.0.0.1:{self.port}",
                grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())]))
            self.address = f"127.0.0.1:{self.port}"
        self.grpc.start()
        return self

    def stop(self, grace_s=0):
        return self.grpc.stop(grace_s)


def Service(server):
    """The servicer; made here since its base class is made at run time."""
    messages = server.schema[0]

    class Echo(server.schema[1].EchoServicer):
        def _begin(self, request, context):
            server.metadata = context.invocation_metadata()
            server.entered.release()
            if request.delay_ms:
                context.add_callback(server.cancelled.set)
                server.cancelled.wait(request.delay_ms / 1000)
            if request.status:
                context.set_trailing_metadata((("x-more", "trailers"), ("x-bytes-bin", b"\0\xff")))
                context.abort(next(c for c in grpc.StatusCode if c.value[0] == request.status),
                              request.status_message)

        def Unary(self, request, context):
            self._begin(request, context)
            payload = bytes(request.reply_bytes) if request.reply_bytes else request.payload
            return messages.EchoReply(text=request.text, payload=payload)

        def Expand(self, request, context):
            self._begin(request, context)
            for index in range(request.count):
                yield messages.EchoReply(text=request.text, index=index,
                                         payload=bytes(request.reply_bytes))

        def Chat(self, requests, context):
            context.send_initial_metadata((("x-early", "metadata"),))
            for request in requests:
                self._begin(request, context)
                yield messages.EchoReply(text=request.text, payload=request.payload)

    return Echo()


@pytest.fixture(params=["unix", "tls"])
def server(request, schema, tmp_path, certificate):
    made = Server(schema, tmp_path, request.param, certificate).start()
    yield made
    made.cancelled.set()
    made.stop().wait(20)


def test_unary_small_and_big(client, server):
    assert client(server.address, server.root, "unary", text="grüße").end() == [
        "state connected", "message 0 grüße 0", "done OK "]
    assert client(server.address, server.root, "unary", text="a", size=3000000).end()[1:] == [
        "message 0 a 3000000", "done OK "]
    assert client(server.address, server.root, "unary", reply_bytes=(4 << 20) - 100).end()[1:] == [
        "message 0  4194204", "done OK "]


def test_what_our_requests_say(client, server):
    client(server.address, server.root, "unary", deadline_ms=5000).end()
    metadata = dict(server.metadata)
    assert metadata["user-agent"].startswith("grpc-c-mortise/")
    assert "grpc-encoding" not in metadata


def test_reply_above_the_limit(client, server):
    assert client(server.address, server.root, "unary", reply_bytes=5 << 20).end()[-1] == (
        "done RESOURCE_EXHAUSTED larger than allowed err=too_large")
    assert client(server.address, server.root, "expand", count=3,
                  reply_bytes=(1 << 20) + 1).end()[-1] == (
        "done RESOURCE_EXHAUSTED larger than allowed err=too_large")


def test_server_streaming(client, server):
    lines = client(server.address, server.root, "expand", text="x", count=3000,
                   reply_bytes=5000).end()
    assert lines == ["state connected", "open", *[f"message {n} x 5000" for n in range(3000)],
                     "done OK "]


def test_bidirectional_in_step(client, server):
    lines = client(server.address, server.root, "chat", text="y", count=300, size=700).end()
    assert lines == ["state connected", "open", *["message 0 y 700"] * 300, "done OK "]


@pytest.mark.parametrize("command", ["unary", "expand", "chat"])
def test_status_and_text_arrive_with_other_trailers(client, server, command):
    lines = client(server.address, server.root, command, status=9, count=1,
                   status_message="100 % not grüße").end()
    assert lines[-1] == "done FAILED_PRECONDITION 100 % not grüße err=grpc_status"


def test_unknown_method(client, server, schema):
    server.stop().wait(20)
    server.grpc = grpc.server(futures.ThreadPoolExecutor(1))  # a server of nothing
    if server.transport == "tls":
        cert, key = server.certificate[1:]
        server.grpc.add_secure_port(server.address, grpc.ssl_server_credentials(
            [(key.read_bytes(), cert.read_bytes())]))
    else:
        server.grpc.add_insecure_port(server.address)
    server.grpc.start()
    assert client(server.address, server.root, "unary").end()[-1].startswith("done UNIMPLEMENTED")


def test_deadline_reaches_the_server(client, server):
    lines = client(server.address, server.root, "unary", delay_ms=20000, deadline_ms=300).end()
    assert lines[-1].startswith("done DEADLINE_EXCEEDED")
    assert server.cancelled.wait(20)  # and it was told


def test_the_servers_limit_of_streams_is_kept(client, server):
    server.stop().wait(20)
    server.start(max_concurrent_streams=1)
    lines = client(server.address, server.root, "unary", times=20).end()
    assert lines.count("done OK ") == 20
    assert lines.count("state connected") == 1


def test_compressed_replies_are_refused(client, server):
    """We say that we take none; grpcio sends them all the same when it is told to."""
    server.stop().wait(20)
    server.start(default_compression_algorithm=2)
    lines = client(server.address, server.root, "unary", reply_bytes=100000).end()
    assert lines == ["state connected", "done INTERNAL malformed gRPC frame err=grpc_frame"]


def test_call_in_flight_survives_the_end_of_the_server(client, server):
    """Its GOAWAY lets the call finish; the next one goes to the server that came after."""
    caller = client(server.address, server.root, "unary", text="a", delay_ms=500, times=2, gap_ms=10)
    assert server.entered.acquire(timeout=20)
    stopped = server.stop(20)
    assert caller.until("message") == "message 0 a 0"
    assert caller.until("done") == "done OK "
    assert stopped.wait(20)
    server.start()
    assert caller.until("message") == "message 0 a 0"
    assert caller.until("done") == "done OK "
    caller.end()


def test_call_is_told_when_the_server_breaks_off(client, server):
    caller = client(server.address, server.root, "chat", count=2, delay_ms=20000)
    assert server.entered.acquire(timeout=20)
    server.stop(0)
    assert caller.until("done").split()[1] in ("UNAVAILABLE", "CANCELLED")
    server.cancelled.set()
    caller.end()


def test_call_waits_for_a_server_that_comes_late(client, server):
    server.stop().wait(20)
    caller = client(server.address, server.root, "unary", text="late", deadline_ms=20000)
    assert caller.until("state failed").split()[2] in ("connect_refused", "connect_failed")
    assert caller.until("state failed")
    server.start()
    assert caller.until("message") == "message 0 late 0"
    assert caller.end() == ["done OK "]


def test_server_of_another_root_gets_nothing(client, schema, tmp_path, certificate, other_root):
    made = Server(schema, tmp_path, "tls", certificate).start()
    try:
        lines = client(made.address, other_root, "unary", deadline_ms=500).end()
        assert lines[0] == "state failed tls_protocol"
        assert lines[-1].startswith("done DEADLINE_EXCEEDED deadline passed while connecting")
        assert not made.entered.acquire(blocking=False)
    finally:
        made.stop().wait(20)


def test_pings_keep_a_silent_stream(client, server):
    """As often as a grpcio server stands when it is told to: by default it refuses more than one in five minutes."""
    server.stop().wait(20)
    server.start(http2_min_recv_ping_interval_without_data_ms=10, http2_max_ping_strikes=0)
    lines = client(server.address, server.root, "unary", text="a", delay_ms=1000, keepalive_ms=50,
                   keepalive_timeout_ms=10000).end()
    assert lines == ["state connected", "message 0 a 0", "done OK "]
