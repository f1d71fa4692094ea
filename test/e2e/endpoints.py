"""Without this one bad endpoint would cost connections that another could have served: what refuses, is silent, speaks
something else or is somebody else is left for the next endpoint, each time with its reason told, and within the deadline.

Drives: R13, R14, R15, F1, F12, D6"""
import contextlib
import itertools
import socket
import threading
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.blackhole import Blackhole
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.pki import Ca
from test.testlib.static import SERVER_ID, TRUST_DOMAIN, StaticPair, free_port
from test.testlib.tls_peer import Server, context

OTHER_ID = f"spiffe://{TRUST_DOMAIN}/ns/test/sa/somebody-else"
_numbers = itertools.count()


class Endpoint:
    """A TCP port that does one thing to each connection."""

    def __init__(self, serve=None):
        self.serve, self.connections, self.got = serve, 0, b""
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self._held = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.serve is None:
                self._held.append(sock)  # silent
                continue
            with sock:
                try:
                    self.serve(sock)
                except OSError:
                    pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self._held:
            sock.close()


def say_http(sock):
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def hang_up(sock):
    sock.recv(1 << 16)


def reset(sock):
    sock.recv(10)  # what is left unread makes the kernel send RST


def alert(sock):
    sock.recv(1 << 16)
    sock.sendall(bytes.fromhex("15030300020250"))  # fatal, internal_error


@pytest.fixture(scope="module")
def pair(folder, binaries):
    """A pair that can be given other endpoints; its client's handshake timeout is short."""
    made = StaticPair(folder, binaries, client_settings={"handshake_timeout": "5s",
                                                         "connect_timeout": "2s"})
    made.app = EchoApp(made.target_port)
    made.start()
    yield made
    made.stop()
    made.app.close()


def use(pair, *ports):
    """The link's endpoints are now these; a fresh link begins with the first one."""
    config = pair.config("client")
    config["outbound"][0]["endpoints"] = [f"127.0.0.1:{port}" for port in ports]
    before = pair["client"].config()["generation"]
    pair.write("client", config)
    pair["client"].signal(1)
    wait_for("it is in force", lambda: pair["client"].config()["generation"] > before)


def errors(pair, error):
    return pair["client"].metrics().get(
        f'mortise_connect_errors_total{{direction="outbound",link="{pair.LINK}",error="{error}"}}', 0)


def told(pair, known, **fields):
    return [e for e in pair["client"].events("endpoint_failed")[known:]
            if all(e.get(key) == value for key, value in fields.items())]


def impostor(pair, who):
    ca, spiffe_id = {"somebody else": (pair.ca, OTHER_ID),
                     "a stranger": (Ca("stranger"), SERVER_ID)}[who]
    inside = pair.folder / f"impostor{next(_numbers)}"
    inside.mkdir()
    cert = ca.issue(spiffe_id)
    cert.write(inside, "cert")
    return context("server", pair.roots, (inside / "cert.pem", inside / "cert.key"))


FAULTS = {
    "hangs up": (hang_up, "peer_truncated", "closed"),
    "resets": (reset, "peer_reset", "peer_reset"),
    "speaks HTTP": (say_http, "not_tls", "tls_not_tls"),
    "refuses": (alert, "peer_alert", "tls_alert"),
    "silent": (None, "handshake_timeout", "handshake_timeout"),
    "somebody else": (None, "peer_identity", "peer_identity"),
    "a stranger": (None, "peer_certificate", "chain_untrusted"),
}


@pytest.mark.sanitize
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_handshake_falls_to_the_next_endpoint(pair, fault):
    serve, reason, error = FAULTS[fault]
    if fault in ("somebody else", "a stranger"):
        bad = Server(free_port(), impostor(pair, fault))
        bad.port = bad.listener.getsockname()[1]
    else:
        bad = Endpoint(serve)
    try:
        use(pair, bad.port, pair.tls_port)
        known, counted, lines = len(told(pair, 0)), errors(pair, error), len(pair.lines("client"))
        began = time.monotonic()
        for _ in range(2):  # each begins with another one
            assert exchange(pair.app_port, b"secret" * 100, 20) == b"secret" * 100
        assert time.monotonic() - began < 15
        wait_for("it is told", lambda: told(pair, known, reason=reason, error=error,
                                            destination=f"127.0.0.1:{bad.port}"))
        assert errors(pair, error) == counted + 1
        if fault == "somebody else":
            assert told(pair, known)[-1]["claimed_id"] == OTHER_ID
        # One line a connection, and it is of the endpoint that served: nothing of the other is left in it.
        wait_for("their lines", lambda: len(pair.lines("client")) == lines + 2)
        for line in pair.lines("client")[lines:]:
            assert (line["reason"], line["destination"]) == ("done", f"127.0.0.1:{pair.tls_port}")
            assert line["peer_id"] == SERVER_ID and "claimed_id" not in line
        if isinstance(bad, Server):
            assert [entry["bytes"] for entry in bad.seen] == [0]
    finally:
        bad.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("faults", [("somebody else", "hangs up"), ("hangs up", "somebody else"),
                                    ("somebody else", "down")])
def test_when_none_serves_the_last_reason_is_the_connections(pair, faults):
    """The twin: it ends, refused, with every attempt told; never with a byte for anybody."""
    made = []
    for fault in faults:
        if fault == "somebody else":
            made.append(Server(free_port(), impostor(pair, fault)))
            made[-1].port = made[-1].listener.getsockname()[1]
        else:
            made.append(Endpoint(FAULTS["silent" if fault == "down" else fault][0]))
            if fault == "down":
                made[-1].close()
    try:
        use(pair, *(bad.port for bad in made))
        known, lines = len(told(pair, 0)), len(pair.lines("client"))
        began = time.monotonic()
        with pytest.raises(ConnectionResetError):
            exchange(pair.app_port, b"secret", 20)
        # connect_timeout and handshake_timeout, all attempts together
        assert time.monotonic() - began < 7 + 4
        line = wait_for("the line", lambda: pair.lines("client")[lines:])[0]
        wanted = ["connect_refused" if fault == "down" else FAULTS[fault][2] for fault in faults]
        seen = [line["error"], *(e["error"] for e in told(pair, known))]
        if line["error"] == wanted[0] and faults[1] == "down":
            seen.append("connect_refused")  # came first: counted, and no line of its own
        assert sorted(seen) == sorted(wanted) and line["bytes_to_mesh"] == 0
        assert all(entry["bytes"] == 0 for bad in made if isinstance(bad, Server)
                   for entry in bad.seen)
    finally:
        for bad, fault in zip(made, faults):
            if fault != "down":
                bad.close()


def test_the_attempts_share_the_deadline(pair):
    """Four endpoints that accept and say nothing, one of them a black hole: not four deadlines, one."""
    silent = [Endpoint() for _ in range(4)]
    with Blackhole() as hole:
        try:
            use(pair, *(bad.port for bad in silent), hole.port)
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                exchange(pair.app_port, b"secret", 20)
            assert 4 < time.monotonic() - began < 7 + 4
            assert sum(bad.connections for bad in silent) >= 2
        finally:
            for bad in silent:
                bad.close()


def metric(pair, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(value for series, value in pair["client"].metrics().items()
               if series.startswith(name + "{") and all(label in series for label in wanted))


@pytest.mark.parametrize("kind", ["refusing", "blackholed"])
def test_a_crowd_before_a_dead_endpoint_is_bounded(folder, binaries, kind):
    """F21: no queue grows without bound, every one is told why, and what comes later is not behind them."""
    inside = folder / f"crowd-{kind}"
    inside.mkdir()
    pair = StaticPair(inside, binaries, client_settings={
        "connect_timeout": "1s", "max_connections": 150})
    with Blackhole() as hole, EchoApp(pair.target_port):
        bad = hole.port if kind == "blackholed" else free_port()
        pair.start()
        try:
            assert exchange(pair.app_port) == b"hello"
            fds = pair["client"].fds()
            use(pair, bad)
            crowd = []
            for _ in range(300):
                with contextlib.suppress(ConnectionResetError):  # ended before connect(2) returned
                    crowd.append(socket.create_connection(("127.0.0.1", pair.app_port), 10))
            for sock in crowd:
                sock.settimeout(10)
                with pytest.raises(ConnectionError):  # nobody hangs
                    if not sock.recv(1):
                        raise ConnectionResetError("closed")
                sock.close()
            error = "connect_timeout" if kind == "blackholed" else "connect_refused"
            gone = metric(pair, "mortise_connect_errors_total", error=error)
            shed = metric(pair, "mortise_connections_shed_total", limit="connections")
            assert gone + shed >= 300 and gone > 0
            assert kind == "refusing" or shed >= 100  # beyond the limit nobody waited
            wait_for("descriptors are back", lambda: pair["client"].fds() <= fds + 1, 10)
            began = time.monotonic()
            use(pair, pair.tls_port)
            assert exchange(pair.app_port) == b"hello"
            assert time.monotonic() - began < 5
        finally:
            pair.stop()


def test_an_endpoint_that_flaps_each_second(pair):
    """F21: half the time it is not there; what is opened while it is there is served, within a second of its return."""
    made = context("server", pair.roots, pair.paths("server"))
    port = free_port()
    use(pair, port)
    returns = []
    for _ in range(3):
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with pytest.raises(OSError):
                exchange(pair.app_port)
        with Server(port, made):
            began = until = time.monotonic()
            wait_for("it is used again", lambda: exchange(pair.app_port) == b"hello", 5)
            returns.append(time.monotonic() - began)
            while time.monotonic() < began + 0.5:
                assert exchange(pair.app_port) == b"hello"
    assert max(returns) < 1, returns
    assert errors(pair, "connect_refused") >= 3
