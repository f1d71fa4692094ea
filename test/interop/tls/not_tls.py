"""Without this a stray client could hold a place on the mTLS port, or learn nothing of why it is refused: what is not TLS
is closed at once and counted as that, and what might become TLS meets the handshake deadline.

Drives: D3, F12, R2, R3, R14, R15, R16"""
import random
import select
import socket
import time

import pytest

from test.testlib.echo_app import EchoApp
from test.testlib.static import StaticPair
from test.testlib.tls_peer import call, context
from test.testlib.tls_raw import HANDSHAKE, ClientHello, record

TIMEOUT_S = 2


@pytest.fixture(scope="module")
def pair(folder, binaries):
    made = StaticPair(folder, binaries, server_settings={"handshake_timeout": f"{TIMEOUT_S}s"})
    made.start("server")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def app(pair):
    with EchoApp(pair.target_port) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_gets_through(pair, app):
    before = app.connections
    yield
    assert app.connections == before
    call(pair.tls_port, context("client", pair.roots, pair.paths("client")), pair.server_name)


def dial(pair):
    sock = socket.create_connection(("127.0.0.1", pair.tls_port), 10)
    sock.settimeout(10)
    return sock


NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: portal\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "smtp": b"EHLO mail.example\r\n",
    "proxy v1": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" +
                record(HANDSHAKE, ClientHello(server_name="link.mortise.internal").bytes()),
    "proxy v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) +
                record(HANDSHAKE, ClientHello(server_name="link.mortise.internal").bytes()),
    "one byte": b"G",
    "zeros": bytes(100),
    "line feed": b"\n",
    "application data": record(23, b"x" * 100),
}


@pytest.mark.parametrize("what", NOT_TLS)
def test_what_is_not_tls_is_told_at_once(pair, what):
    series = 'mortise_handshakes_total{direction="inbound",result="tls_not_tls"}'
    before = pair["server"].metrics().get(series, 0)
    with dial(pair) as sock:
        port = sock.getsockname()[1]
        began = time.monotonic()
        sock.sendall(NOT_TLS[what])
        sock.settimeout(TIMEOUT_S)
        try:
            while sock.recv(1000):
                pass
        except ConnectionError:
            pass
        assert time.monotonic() - began < TIMEOUT_S
    line = pair.line("server", port)
    assert (line["reason"], line["error"]) == ("not_tls", "tls_not_tls")
    assert pair["server"].metrics()[series] == before + 1


def test_random_bytes_are_refused_within_the_handshake_deadline(pair):
    """Some look like the beginning of a record that never comes: those meet the deadline."""
    began = time.monotonic()
    socks = []
    for seed in range(200):
        sock = dial(pair)
        try:
            sock.sendall(random.Random(seed).randbytes(1 + seed * 7))
        except ConnectionError:
            pass
        sock.setblocking(False)
        socks.append(sock)
    left = set(socks)
    while left and time.monotonic() - began < TIMEOUT_S + 5:
        for sock in select.select(list(left), [], [], 1)[0]:
            try:
                if sock.recv(1 << 16):
                    continue
            except BlockingIOError:
                continue
            except ConnectionError:
                pass
            left.discard(sock)
    for sock in socks:
        sock.close()
    assert not left
