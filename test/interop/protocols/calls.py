"""Without this nobody knows that gRPC works: grpcio as client and server without TLS, through a pair: all four kinds of
calls, large messages, statuses, deadlines and cancelled calls.

Drives: B5, F1, R73"""
import concurrent.futures
import os
import threading

import grpc
import pytest

from deploy.lab.programs import wait_for
from test.testlib.others import digest

LARGE = 6 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.enable_retries", 0)]
DEADLINE_S = 60


class Service(grpc.GenericRpcHandler):
    """Bytes in, bytes out; a call's name says what it does."""

    def __init__(self):
        self.cancelled = threading.Event()

    def service(self, details):
        handlers = {"/t/Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
                    "/t/Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
                    "/t/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
                    "/t/Split": grpc.unary_stream_rpc_method_handler(self.split),
                    "/t/Join": grpc.stream_unary_rpc_method_handler(
                        lambda parts, context: b"".join(parts)),
                    "/t/Talk": grpc.stream_stream_rpc_method_handler(lambda parts, context: parts)}
        return handlers.get(details.method)

    @staticmethod
    def refuse(request, context):
        context.set_trailing_metadata((("told-bin", request),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: äöü")

    def hang(self, request, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(DEADLINE_S)
        self.cancelled.set()
        return b""

    @staticmethod
    def split(request, context):
        for at in range(0, len(request), 50_000):
            yield request[at:at + 50_000]


@pytest.fixture(scope="module")
def service(pairs):
    made = Service()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), [made], options=OPTIONS)
    assert server.add_insecure_port(f"127.0.0.1:{pairs.port}") == pairs.port
    server.start()
    yield made
    server.stop(1).wait(30)


@pytest.fixture
def channel(service, port):
    with grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS) as made:
        yield made


def test_unary_of_every_size(channel):
    call = channel.unary_unary("/t/Echo")
    for size in (0, 1, 1000, 16384, 65535, 65536, LARGE):
        sent = os.urandom(size)
        assert digest(call(sent, timeout=DEADLINE_S)) == digest(sent)


def test_many_calls_side_by_side_on_one_connection(channel):
    call = channel.unary_unary("/t/Echo")
    sent = [os.urandom(number * 97 % 5000) for number in range(400)]
    for want, future in zip(sent, [call.future(data, timeout=DEADLINE_S) for data in sent]):
        assert future.result() == want


def test_streams_both_ways(channel):
    data = os.urandom(LARGE)
    parts = [data[at:at + 30_000] for at in range(0, LARGE, 30_000)]
    assert digest(b"".join(channel.unary_stream("/t/Split")(data, timeout=DEADLINE_S))) == digest(data)
    assert digest(channel.stream_unary("/t/Join")(iter(parts), timeout=DEADLINE_S)) == digest(data)
    assert list(channel.stream_stream("/t/Talk")(iter(parts), timeout=DEADLINE_S)) == parts


def test_ping_pong_on_one_stream(channel):
    """Each message is sent only when the answer to the one before is there."""
    answered = threading.Semaphore(1)

    def ask():
        for number in range(300):
            assert answered.acquire(timeout=DEADLINE_S)
            yield b"%d" % number

    got = []
    for answer in channel.stream_stream("/t/Talk")(ask(), timeout=DEADLINE_S):
        got.append(int(answer))
        answered.release()
    assert got == list(range(300))


def test_status_and_trailers(channel):
    with pytest.raises(grpc.RpcError) as told:
        channel.unary_unary("/t/Refuse")(b"\0\xff", timeout=DEADLINE_S)
    assert told.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert told.value.details() == "not today: äöü"
    assert ("told-bin", b"\0\xff") in [tuple(item) for item in told.value.trailing_metadata()]
    with pytest.raises(grpc.RpcError) as told:
        channel.unary_unary("/t/Nothing")(b"", timeout=DEADLINE_S)
    assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_cancelled_call_is_cancelled_at_the_server(service, channel):
    service.cancelled.clear()
    call = channel.unary_unary("/t/Hang").future(b"", timeout=DEADLINE_S)
    channel.unary_unary("/t/Echo")(b"", timeout=DEADLINE_S)  # the connection is up
    call.cancel()
    wait_for("the server sees it", service.cancelled.is_set, DEADLINE_S)
    with pytest.raises(grpc.RpcError) as told:
        channel.unary_unary("/t/Hang")(b"", timeout=0.2)
    assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
