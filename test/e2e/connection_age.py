"""Without this a connection that was opened under a certificate would go on long after that certificate expired, or be cut in
the middle of an answer when it does: it is ended before, at a moment when nothing is under way, as a server would end it, so
that keep-alive clients open another one and no application sees an error.

Drives: F7, R8"""
import contextlib
import select
import socket
import threading
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.static import SERVER_ID, StaticPair

LIFE_S = 14  # of the server's certificate


class App:
    """Echoes; a connection whose first byte is S is only read, one whose first byte is L is answered late."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    @staticmethod
    def _serve(sock):
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(65536):
                if data[:1] == b"L":
                    time.sleep(0.8)  # thinks: for the wire this is a question without an answer yet
                if data[:1] != b"S":
                    sock.sendall(data)

    def close(self):
        self.listener.close()


def dial(pair):
    sock = socket.create_connection(("127.0.0.1", pair.app_port), 10)
    sock.settimeout(30)
    return sock


def read_exactly(sock, size):
    got = b""
    while len(got) < size:
        part = sock.recv(size - len(got))
        if not part:
            raise EOFError(f"{len(got)} of {size} bytes")
        got += part
    return got


class KeepAlive(threading.Thread):
    """Asks on a connection that it keeps, as HTTP libraries do: before each question it looks whether the other side has
    ended it, and then opens another. `errors`: what an application would have seen."""

    def __init__(self, pair, question, pause_s):
        super().__init__(daemon=True)
        self.pair, self.question, self.pause_s = pair, question, pause_s
        self.over = threading.Event()
        self.errors, self.connections, self.answers = [], 0, 0

    def run(self):
        sock = None
        while not self.over.is_set():
            try:
                if sock is not None and select.select([sock], [], [], 0)[0]:
                    sock.close()  # ended, as the only thing that can be read here
                    sock = None
                if sock is None:
                    sock = dial(self.pair)
                    self.connections += 1
                sock.sendall(self.question)
                if read_exactly(sock, len(self.question)) != self.question:
                    self.errors.append("another answer")
                self.answers += 1
            except (OSError, EOFError) as err:
                self.errors.append(f"{type(err).__name__}: {err}")
                sock = None
            self.over.wait(self.pause_s)
        if sock is not None:
            sock.close()

    def finish(self):
        self.over.set()
        self.join(30)
        return self


@contextlib.contextmanager
def pair_of(folder, name, binaries, life_s=None, **profile):
    """A pair, and its application; the server's certificate lives for `life_s`."""
    made_in = folder / name
    made_in.mkdir()
    pair = StaticPair(made_in, binaries, client_profile=profile)
    until = None
    if life_s is not None:
        until = int(time.time() + life_s)  # a certificate ends at a whole second
        pair.renew("server", pair.ca.issue(SERVER_ID, valid_s=life_s))
    app = App(pair.target_port)
    try:
        pair.start()
        yield pair, until
    finally:
        app.close()
        pair.stop()


def line_of(pair, sock, timeout_s=10):
    return pair.line("client", sock.getsockname()[1], timeout_s)


@pytest.mark.sanitize
def test_before_the_certificate_expires_connections_go_without_an_error(folder, binaries):
    with pair_of(folder, "drain", binaries, LIFE_S) as (pair, until):
        idle = [dial(pair) for _ in range(20)]
        for sock in idle:
            sock.sendall(b"once")
            assert read_exactly(sock, 4) == b"once"
        never = dial(pair)  # says nothing at all
        clients = [KeepAlive(pair, b"GET / and nothing more" * 20, 0.03), KeepAlive(pair, b"L", 0.5),
                   KeepAlive(pair, b"x" * 200_000, 0.1)]
        for client in clients:
            client.start()
        busy = dial(pair)  # asks and asks, and there is never an answer
        busy.settimeout(0)
        wait_for("the certificate has an end soon", lambda: time.time() > until - LIFE_S / 2, LIFE_S)
        pair.renew("server")  # as a rotation would; who connects from now on rests on the new one
        stop = threading.Event()

        def ask():
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    busy.send(b"S")
                    stop.wait(0.05)

        threading.Thread(target=ask, daemon=True).start()
        ended = []
        for sock in (*idle, never):
            assert sock.recv(1) == b"", "an end in order"
            ended.append(time.time())
            port = sock.getsockname()[1]
            sock.close()
            line = pair.line("client", port)
            assert line["reason"] == "expired" and "error" not in line, line
        assert max(ended) < until + 0.5
        source = f"127.0.0.1:{busy.getsockname()[1]}"
        told = wait_for("who does not go is named", lambda: [
            e for e in pair["client"].events("does_not_go") if e["source"] == source], LIFE_S)
        assert told[0]["link"] == "link" and told[0]["peer_id"] == SERVER_ID
        cut = line_of(pair, busy, LIFE_S)
        assert cut["reason"] == "expired" and cut["error"] == "peer_expired"
        assert until - 0.5 <= time.time() < until + 5
        assert pair.new_line("server", reason="peer_alert")["error_sub"] == 45  # certificate_expired
        stop.set()
        for client in clients:
            client.finish()
            assert client.errors == [] and client.connections >= 2 and client.answers > 5, (client.errors, client.connections)


def test_a_profile_may_say_otherwise(folder, binaries):
    """KEEP: it lives on. CLOSE: it is cut then, and not a moment earlier."""
    with pair_of(folder, "keep", binaries, 8, on_expiry="KEEP") as (keep, until), \
            pair_of(folder, "close", binaries, 8, on_expiry="CLOSE") as (close, close_until):
        kept, closed = dial(keep), dial(close)
        for sock in (kept, closed):
            sock.sendall(b"once")
            assert read_exactly(sock, 4) == b"once"
        with pytest.raises(ConnectionResetError):
            closed.recv(1)
        assert close_until - 0.5 <= time.time() < close_until + 5
        assert line_of(close, closed)["error"] == "peer_expired"
        wait_for("the other one's has expired, too", lambda: time.time() > until + 1)
        kept.sendall(b"still")
        assert read_exactly(kept, 5) == b"still"
        kept.close()
        with pytest.raises((ConnectionError, EOFError)), dial(keep) as fresh:  # but nothing new begins
            fresh.sendall(b"x")
            read_exactly(fresh, 1)


def test_the_greatest_age(folder, binaries):
    with pair_of(folder, "age", binaries, max_age_s=10) as (pair, _):
        began = time.time()
        sock = dial(pair)
        assert sock.recv(1) == b""
        assert 7 <= time.time() - began <= 10.5
        port = sock.getsockname()[1]
        sock.close()
        line = pair.line("client", port)
        assert line["reason"] == "max_age" and "error" not in line


@pytest.mark.parametrize("field,value,said", [
    ("max_age_s", 9, "is not within 10 and 31536000"), ("max_age_s", 31536001, "is not within 10 and 31536000"),
    ("on_expiry", "NEVER", "profiles[0].on_expiry")])
def test_what_is_no_age_is_refused_with_its_field(folder, binaries, field, value, said):
    made_in = folder / f"bad-{field}-{value}"
    made_in.mkdir()
    pair = StaticPair(made_in, binaries, client_profile={field: value})
    pair.start("client", ready=False)
    assert pair["client"].wait() == 2
    assert f"profiles[0].{field}" in pair["client"].tail() and said in pair["client"].tail()
