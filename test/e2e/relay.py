"""Without this a sidecar could change what an application sees of TCP: half-close, server-first protocols, aborts,
and back-pressure must come through as they are, in both TLS versions.

Drives: B5, F1, R14, R15, B1, R71"""
import hashlib
import os
import socket
import struct
import threading

import pytest

from deploy.lab.programs import wait_for
from test.testlib.static import StaticPair

SLAB = 256 * 1024


@pytest.fixture(scope="module", params=["TLS1_2", "TLS1_3"])
def pair(request, folder, binaries):
    made_in = folder / request.param
    made_in.mkdir()
    versions = {"min_version": request.param, "max_version": request.param}
    made = StaticPair(made_in, binaries, client_profile=versions, server_profile=versions)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def target(pair):
    """The application behind the server's sidecar: a listening socket."""
    with socket.create_server(("127.0.0.1", pair.target_port)) as listener:
        listener.settimeout(10)
        yield listener


def connect(pair):
    sock = socket.create_connection(("127.0.0.1", pair.app_port), 10)
    sock.settimeout(10)
    return sock


def accept(listener):
    sock, _ = listener.accept()
    sock.settimeout(10)
    return sock


def read_all(sock):
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def read_exactly(sock, size):
    parts, left = [], size
    while left:
        data = sock.recv(min(left, 1 << 16))
        if not data:
            raise EOFError(f"{left} bytes missing of {size}")
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


@pytest.mark.sanitize
def test_server_speaks_first(pair, target):
    with connect(pair) as app:
        with accept(target) as far:
            far.sendall(b"220 ready\r\n")
            assert app.recv(100) == b"220 ready\r\n"


@pytest.mark.sanitize
def test_half_close_from_the_client_lets_the_answer_through(pair, target):
    with connect(pair) as app, accept(target) as far:
        app.sendall(b"question")
        app.shutdown(socket.SHUT_WR)
        assert read_all(far) == b"question"
        far.sendall(b"a long answer" * 50_000)
        far.shutdown(socket.SHUT_WR)
        assert read_all(app) == b"a long answer" * 50_000


@pytest.mark.sanitize
def test_half_close_from_the_server_lets_the_client_go_on(pair, target):
    with connect(pair) as app, accept(target) as far:
        far.sendall(b"bye")
        far.shutdown(socket.SHUT_WR)
        assert read_all(app) == b"bye"
        app.sendall(b"still here" * 10_000)
        app.shutdown(socket.SHUT_WR)
        assert read_all(far) == b"still here" * 10_000


@pytest.mark.sanitize
def test_both_directions_at_once_keep_every_byte(pair, target):
    up, down = os.urandom(20 << 20), os.urandom(20 << 20)
    with connect(pair) as app, accept(target) as far:
        def send(sock, data):
            view, at = memoryview(data), 0
            sizes = (1, 7, 1400, 16384, 16385, 70_000, 300_000)
            number = 0
            while at < len(view):
                size = sizes[number % len(sizes)]
                number += 1
                sock.sendall(view[at:at + size])
                at += size
            sock.shutdown(socket.SHUT_WR)

        senders = [threading.Thread(target=send, args=pair_) for pair_ in ((app, up), (far, down))]
        got = {}
        readers = [threading.Thread(target=lambda k=k, s=s: got.update({k: read_all(s)}))
                   for k, s in (("down", app), ("up", far))]
        for thread in (*senders, *readers):
            thread.start()
        for thread in (*senders, *readers):
            thread.join(120)
    assert hashlib.sha256(got["up"]).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(got["down"]).digest() == hashlib.sha256(down).digest()


@pytest.mark.sanitize
@pytest.mark.parametrize("who", ["application", "server"])
def test_an_abort_stays_an_abort(pair, target, who):
    """A reset must not arrive as an orderly end: a truncated answer would look whole."""
    with connect(pair) as app, accept(target) as far:
        app.sendall(b"x")
        assert far.recv(1) == b"x"
        first, second = (app, far) if who == "application" else (far, app)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        with pytest.raises(ConnectionResetError):
            second.recv(1)


def test_a_stalled_reader_stops_the_sender_and_holds_little(pair, target):
    """Nobody reads: the writer must block soon, and a connection holds at most the slab it was reading."""
    num = 50
    before = {side: pair[side].memory_kib() for side in ("client", "server")}
    apps, fars, stuck = [], [], 0
    try:
        for _ in range(num):
            app = connect(pair)
            apps.append(app)
            fars.append(accept(target))
            app.setblocking(False)
        block = b"z" * SLAB

        def push():
            """How many bytes all writers got rid of in one round."""
            sent = 0
            for app in apps:
                try:
                    sent += app.send(block)
                except BlockingIOError:
                    pass
            return sent

        def blocked():
            nonlocal stuck
            stuck = stuck + 1 if push() == 0 else 0
            return stuck >= 20

        wait_for("every writer blocked", blocked, 60)
        for side in ("client", "server"):
            grown = pair[side].memory_kib() - before[side]
            assert grown <= num * SLAB // 1024 + 1024, f"{side}: {grown} KiB for {num} connections"
    finally:
        for sock in (*apps, *fars):
            sock.close()
    for side in ("client", "server"):
        wait_for("memory is given back",
                 lambda side=side: pair[side].memory_kib() <= before[side] + 2048, 30)


def test_a_refusing_target_is_told_as_an_abort_and_counted(pair):
    """No application behind the server's sidecar."""
    # On a busy machine the abort is there before connect() has returned.
    with pytest.raises(OSError), connect(pair) as app:
        app.sendall(b"x")
        if app.recv(1) == b"":
            raise ConnectionResetError("closed")
    wait_for("the log says why", lambda: any(
        e.get("error") == "connect_refused" or e.get("reason") == "connect_refused"
        for e in pair["server"].events("connection")))


def test_descriptors_return_to_where_they_were(pair, target):
    before = {side: pair[side].fds() for side in ("client", "server")}
    for _ in range(100):
        with connect(pair) as app, accept(target) as far:
            app.sendall(b"ping")
            assert read_exactly(far, 4) == b"ping"
    for side in ("client", "server"):
        wait_for(f"{side}'s descriptors", lambda side=side: pair[side].fds() <= before[side], 20)
