"""Without this our gRPC server could be one that only our own client understands: Python's grpcio (gRPC's C core) and
grpcurl (grpc-go) make calls of every kind, end them in every way, and find the limits where they should be.

Drives: F2, F16, R14, R15, R73"""
import json
import subprocess
import threading

import grpc
import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.fixtures import CONFIG

BIG = {"max_receive_message_length": 8 << 20, "max_send_message_length": 8 << 20}


@pytest.fixture
def stub(server, schema):
    with server.channel(**BIG) as channel:
        yield schema[1].EchoStub(channel)


def code(call, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        got = call(*args, **kwargs)
        list(got)
    return caught.value.code(), caught.value.details()


def test_unary_small_and_big(stub, schema):
    request = schema[0].EchoRequest
    assert stub.Unary(request(text="grüß dich"), timeout=20).text == "grüß dich"
    assert stub.Unary(request(), timeout=20).text == ""
    payload = bytes(range(256)) * 12000
    assert stub.Unary(request(payload=payload), timeout=20).payload == payload
    reply = stub.Unary(request(reply_bytes=4 << 20 - 1), timeout=20).payload
    assert len(reply) == 4 << 20 - 1
    assert reply[:300] == bytes(i * 31 % 256 for i in range(300))


def test_message_above_the_limit_is_refused_and_the_next_is_served(stub, schema):
    status, _ = code(stub.Unary, schema[0].EchoRequest(payload=bytes(4 << 20)), timeout=20)
    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Unary(schema[0].EchoRequest(text="next"), timeout=20).text == "next"


def test_reply_above_what_may_wait_is_refused(stub, schema):
    """More than the server keeps for a client that has not opened its window yet."""
    status, _ = code(stub.Unary, schema[0].EchoRequest(reply_bytes=5 << 20), timeout=20)
    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_server_streaming_as_fast_as_it_is_read(stub, schema, server):
    call = stub.Expand(schema[0].EchoRequest(text="x", count=20000, reply_bytes=5000), timeout=60)
    first = [next(call).index for _ in range(10)]
    assert first == list(range(10))
    # 100 MB in all; while nobody reads, the server holds one message and not the rest.
    assert CONFIG != "opt" or server.memory_kib() < 20000
    assert [reply.index for reply in call] == list(range(10, 20000))


def test_bidirectional_in_step_and_out_of_step(stub, schema):
    step = threading.Semaphore(1)

    def requests():
        for number in range(200):
            assert step.acquire(timeout=20)
            yield schema[0].EchoRequest(text=str(number))

    seen = 0
    for reply in stub.Chat(requests(), timeout=60):
        assert reply.text == str(seen)
        seen += 1
        step.release()
    assert seen == 200
    many = [schema[0].EchoRequest(text=str(n), payload=bytes(n)) for n in range(3000)]
    assert [r.text for r in stub.Chat(iter(many), timeout=60)] == [str(n) for n in range(3000)]
    assert list(stub.Chat(iter([]), timeout=20)) == []


def test_server_ends_a_stream_early(stub, schema):
    """The client would go on for ever."""
    def requests():
        yield schema[0].EchoRequest(text="a")
        yield schema[0].EchoRequest(status=10, status_message="enough of\nthis, 100 % grüße")
        while True:
            yield schema[0].EchoRequest(text="more")

    assert code(stub.Chat, requests(), timeout=20) == (grpc.StatusCode.ABORTED,
                                                       "enough of\nthis, 100 % grüße")


@pytest.mark.parametrize("number", range(1, 17))
def test_every_status_arrives(stub, schema, number):
    status, details = code(stub.Unary, schema[0].EchoRequest(status=number, status_message="why"),
                           timeout=20)
    assert (status.value[0], details) == (number, "why")


def test_deadlines_end_calls_on_both_sides(stub, schema):
    status, _ = code(stub.Unary, schema[0].EchoRequest(delay_ms=20000), timeout=0.1)
    assert status == grpc.StatusCode.DEADLINE_EXCEEDED
    over = threading.Event()

    def requests():
        yield schema[0].EchoRequest(text="and then nothing")
        over.wait(20)

    status, _ = code(stub.Chat, requests(), timeout=0.1)
    over.set()
    assert status == grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.Unary(schema[0].EchoRequest(delay_ms=10, text="in time"), timeout=20).text


def test_cancelled_calls_leave_nothing(stub, schema, server):
    stub.Unary(schema[0].EchoRequest(), timeout=20)
    before = server.memory_kib()
    for number in range(50):
        call = stub.Expand(schema[0].EchoRequest(count=1000000, reply_bytes=5000), timeout=60)
        next(call)
        call.cancel()
    assert stub.Unary(schema[0].EchoRequest(text="next"), timeout=20).text == "next"
    if CONFIG == "opt":  # a sanitizer keeps what was freed
        wait_for("memory of cancelled calls", lambda: server.memory_kib() < before + 8192)


def test_unknown_methods_and_services(server, schema):
    with server.channel() as channel:
        for path in ("/mortise.test.Echo/Nope", "/mortise.test.Nope/Unary", "/"):
            call = channel.unary_unary(path, schema[0].EchoRequest.SerializeToString,
                                       schema[0].EchoReply.FromString)
            assert code(call, schema[0].EchoRequest(), timeout=20) == (
                grpc.StatusCode.UNIMPLEMENTED, "unknown method")


def test_garbage_is_an_invalid_argument(server, schema):
    with server.channel() as channel:
        call = channel.unary_unary("/mortise.test.Echo/Unary")
        for garbage in (b"\x0b", b"\x0a\x05ab", b"\x0a\x01\xff", b"\xff" * 1000):
            status, details = code(call, garbage, timeout=20)
            assert status == grpc.StatusCode.INVALID_ARGUMENT
            assert details == "malformed protobuf message"


def test_compression_is_unimplemented(stub, schema):
    status, _ = code(stub.Unary, schema[0].EchoRequest(payload=bytes(10000)),
                     compression=grpc.Compression.Gzip, timeout=20)
    assert status == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_is_passed_over(stub, schema):
    metadata = [("x-text", "value"), ("x-bytes-bin", bytes(range(256)))]
    assert stub.Unary(schema[0].EchoRequest(text="a"), metadata=metadata, timeout=20).text == "a"


def test_metadata_above_the_limit_is_refused(stub, schema):
    """16 KiB of headers; the connection goes on."""
    status, _ = code(stub.Unary, schema[0].EchoRequest(), metadata=[("x", "v" * 16384)], timeout=20)
    assert status in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
    assert stub.Unary(schema[0].EchoRequest(text="next"), timeout=20).text == "next"


def test_more_calls_than_streams_are_allowed(stub, schema):
    """The client holds back what is above our limit of 100."""
    calls = [stub.Unary.future(schema[0].EchoRequest(text=str(n), delay_ms=20), timeout=60)
             for n in range(500)]
    assert [call.result().text for call in calls] == [str(n) for n in range(500)]


def test_many_connections_come_and_go(server, schema):
    with server.channel() as channel:
        schema[1].EchoStub(channel).Unary(schema[0].EchoRequest(), timeout=20)
        before = server.fds()
        for number in range(30):
            with server.channel(use_local_subchannel_pool=1) as one:
                reply = schema[1].EchoStub(one).Unary(schema[0].EchoRequest(text="a"), timeout=20)
                assert reply.text == "a"
        wait_for("descriptors", lambda: server.fds() <= before)


def test_pings_of_the_client_are_answered(server, schema):
    """grpcio sends a PING after 50 ms of silence and gives up after 10 s without an answer."""
    with server.channel(keepalive_time_ms=50, keepalive_timeout_ms=10000,
                        http2_max_pings_without_data=0) as channel:
        stub = schema[1].EchoStub(channel)
        assert stub.Unary(schema[0].EchoRequest(text="a", delay_ms=700), timeout=20).text == "a"


def test_drain_finishes_calls_and_takes_no_new_ones(server, schema):
    with server.channel() as channel:
        stub = schema[1].EchoStub(channel)
        stub.Unary(schema[0].EchoRequest(), timeout=20)
        slow = stub.Unary.future(schema[0].EchoRequest(text="slow", delay_ms=1500), timeout=20)
        chat = stub.Chat(iter([schema[0].EchoRequest(text="chat")]), timeout=20)
        assert next(chat).text == "chat"
        server.child.terminate()

        def refused():
            try:
                stub.Unary(schema[0].EchoRequest(), timeout=1)
            except grpc.RpcError as err:
                return err.code() == grpc.StatusCode.UNAVAILABLE
            return False

        wait_for("refusal of new calls", refused)
        assert not slow.done()
        assert slow.result().text == "slow"
        assert list(chat) == []
        assert server.child.wait(20) == 0, server.tail()


def ask(grpcurl, server, proto, method, data, *more):
    """grpcurl's replies, or (status, message) of its error."""
    transport = (["-plaintext", "-unix"] if server.transport == "unix"
                 else ["-cacert", server.certificate[0], "-authority", "localhost"])
    done = subprocess.run(
        [grpcurl, *transport, "-import-path", proto.parent, "-proto", proto.name, "-max-time", "20",
         "-format-error", *more, "-d", data, server.address.removeprefix("unix:"),
         f"mortise.test.Echo/{method}"],
        capture_output=True, text=True, timeout=40, env=own_environment())
    if done.returncode != 0:
        error = json.loads(done.stderr[done.stderr.index("{"):])
        return error["code"], error["message"]
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(done.stdout.rstrip()):
        reply, at = decoder.raw_decode(done.stdout, at + (done.stdout[at] == "\n"))
        found.append(reply)
    return found


def test_grpcurl_calls_of_every_kind(grpcurl, server, request):
    proto = request.path.parent / "echo.proto"
    assert ask(grpcurl, server, proto, "Unary", '{"text": "hello"}') == [{"text": "hello"}]
    # grpc-go sends a PING for nearly each batch of DATA it reads: none of them is a flood.
    replies = ask(grpcurl, server, proto, "Expand",
                  '{"text": "x", "count": 2000, "replyBytes": 3000}')
    assert [reply.get("index", 0) for reply in replies] == list(range(2000))
    replies = ask(grpcurl, server, proto, "Chat", '{"text": "a"} {"text": "b"} {"text": "c"}')
    assert [reply["text"] for reply in replies] == ["a", "b", "c"]
    assert ask(grpcurl, server, proto, "Unary", '{"status": 5, "statusMessage": "no grüße"}') == (
        5, "no grüße")
    assert ask(grpcurl, server, proto, "Unary", '{"delayMs": 20000}', "-max-time", "0.2")[0] == 4
