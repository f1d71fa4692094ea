"""Without this TLS 1.2 behind its handshake could do what TLS 1.3 cannot: renegotiation by either end, heartbeats, another
change_cipher_spec, records beyond every limit. tlslite-ng sends them, as client and as server; each ends with its alert,
an abort for the application and no byte of it.

Drives: A5, D8, F1, R1, R4, R14, R73"""
import contextlib
import socket

import pytest

from test.testlib.static import StaticPair, rest_of
from test.testlib.tls_lite import TLS12, Lite, settings
from test.testlib.tls_raw import (ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, FINISHED, HANDSHAKE,
                                  NEW_SESSION_TICKET, ClientHello, Refused, vector)

HEARTBEAT, HELLO_REQUEST = 24, 0
LIMIT = 1 << 14


class Pair(StaticPair):
    def __init__(self, folder, binaries, direction):
        super().__init__(folder, binaries)
        self.direction, self.side = direction, "server" if direction == "inbound" else "client"


@pytest.fixture(scope="module", params=["inbound", "outbound"])
def pair(request, folder, binaries):
    """One sidecar; its peer and its application are played here."""
    inside = folder / request.param
    inside.mkdir()
    made = Pair(inside, binaries, request.param)
    made.start(made.side)
    yield made
    made.stop()


class Session:
    """A TLS 1.2 connection through the sidecar: `lite` is the peer, `app` the application's socket."""

    def __init__(self, pair):
        self.pair, self.stack = pair, contextlib.ExitStack()
        inbound = pair.side == "server"
        port = pair.target_port if inbound else pair.tls_port
        listener = self.keep(socket.create_server(("127.0.0.1", port)))
        listener.settimeout(10)
        near = self.keep(socket.create_connection(
            ("127.0.0.1", pair.tls_port if inbound else pair.app_port), 10))
        self.port = near.getsockname()[1]
        if inbound:
            self.lite = Lite(near, pair.client)
            self.lite.connect(settings(), pair.server_name)
            self.app = self.keep(listener.accept()[0])
        else:
            self.app = near
            self.lite = Lite(self.keep(listener.accept()[0]), pair.server)
            self.lite.sock.settimeout(10)
            self.lite.accept(settings())
        self.app.settimeout(10)
        assert self.lite.tls.version == TLS12

    def keep(self, sock):
        return self.stack.enter_context(sock)

    def both_ways(self):
        self.lite.send(b"both ways")
        assert self.app.recv(100) == b"both ways"
        self.app.sendall(b"and back")
        assert self.lite.recv(8) == b"and back"

    def end_of_app(self):
        return rest_of(self.app)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stack.close()


@pytest.fixture(autouse=True)
def the_next_one_works(pair):
    yield
    with Session(pair) as one:
        one.both_ways()


def handshake(kind, body):
    return HANDSHAKE, bytes([kind]) + vector(3, body)


HELLO = ClientHello(server_name="link.mortise.internal", versions=()).bytes()

# RFC 5246 says unexpected_message, or no_renegotiation for what would begin one. BoringSSL takes whatever message comes to a
# client for a malformed HelloRequest.
MESSAGE = "unexpected_message no_renegotiation decode_error illegal_parameter"

# (records, alerts)
BAD = {
    "another hello": ([(HANDSHAKE, HELLO)], MESSAGE),
    "half a hello and data": ([(HANDSHAKE, HELLO[:20]), (APPLICATION_DATA, b"evil")], MESSAGE),
    "HelloRequest": ([handshake(HELLO_REQUEST, b"")], "no_renegotiation unexpected_message"),
    "a Finished": ([handshake(FINISHED, bytes(12))], MESSAGE),
    "a ticket": ([handshake(NEW_SESSION_TICKET, bytes(4) + vector(2, b"T" * 99))], MESSAGE),
    "a handshake of no length": ([(HANDSHAKE, b"")] * 100, MESSAGE),
    "change_cipher_spec": ([(CHANGE_CIPHER_SPEC, b"\1")], "unexpected_message"),
    "a heartbeat": ([(HEARTBEAT, b"\1\0\1x" + bytes(16))], "unexpected_message"),
    "the bleeding heartbeat": ([(HEARTBEAT, b"\1\x40\0")], "unexpected_message"),
    "a type that nobody knows": ([(99, b"?")], "unexpected_message"),
    "2^14 + 1 bytes": ([(APPLICATION_DATA, bytes(LIMIT + 1))], "record_overflow"),
    "2^14 + 2000 bytes": ([(APPLICATION_DATA, bytes(LIMIT + 2000))], "record_overflow"),
    "half an alert": ([(ALERT, b"\1")], "decode_error"),
    "data of no length without end": ([(APPLICATION_DATA, b"")] * 1000, "unexpected_message"),
    "warnings without end": ([(ALERT, b"\1\x5a")] * 100, "unexpected_message"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_allowed_ends_it(pair, what):
    sent, alerts = BAD[what]
    with Session(pair) as one:
        one.both_ways()
        with contextlib.suppress(Refused):  # half-way, perhaps: the alert is read below
            for kind, payload in sent:
                one.lite.record(kind, payload)
        got = one.lite.alert()
        rest, aborted = one.end_of_app()
    assert got in alerts.split(), got
    assert (rest, aborted) == (b"", True)
    line = pair.line(pair.side, one.port)
    assert (line["reason"], line["error"]) == ("tls_failed", "tls_protocol")
    assert line["bytes_to_app"] == len(b"both ways")


def test_the_limits_themselves_are_kept(pair):
    with Session(pair) as one:
        data = bytes(range(256)) * (LIMIT // 256)
        one.lite.record(APPLICATION_DATA, data)
        for _ in range(20):
            one.lite.record(APPLICATION_DATA, b"")
        one.lite.record(ALERT, b"\1\x5a")
        one.lite.record(APPLICATION_DATA, b"end")
        got = b""
        while len(got) < len(data) + 3:
            got += one.app.recv(1 << 16)
        assert got == data + b"end"


def test_what_comes_after_close_notify_is_ignored(pair):
    with Session(pair) as one:
        one.both_ways()
        one.lite.record(ALERT, b"\1\0")
        one.lite.record(APPLICATION_DATA, b"evil")
        assert one.end_of_app() == (b"", False)


def test_the_end_without_close_notify_is_an_abort(pair):
    with Session(pair) as one:
        one.both_ways()
        one.lite.sock.shutdown(socket.SHUT_WR)
        assert one.end_of_app() == (b"", True)
    assert pair.line(pair.side, one.port)["reason"] == "peer_truncated"
