"""Without this a peer that is slow, or stops, could hold what others need: it stops in each state of a connection, or goes
on a byte at a time, as client and as server, in both TLS versions; or it reads nothing. It is left at the deadline of its
state and not before, what it holds meanwhile is bounded, and the load beside it loses nothing.

Drives: R14, R15, R16, R71, F1"""
import contextlib
import itertools
import select
import threading
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.arena import abort, accept, arena, dial, listen, undisturbed
from test.testlib.fixtures import CONFIG
from test.testlib.tls_peer import context
from test.testlib.tls_steps import Steps

HANDSHAKE_S, IDLE_S, STALL_S = 3, 3, 2
# A sanitized build, or one processor for everybody, comes late; early nobody comes.
LATE_S = 3 if CONFIG == "opt" else 10
EACH = 4 if CONFIG == "opt" else 1
SLAB = 256 << 10  # that is written at once
HELD_KIB = 64  # by a connection whose receiver reads nothing, as docs/threat-model.md promises
NUM_STALLED = 40 if CONFIG == "opt" else 8

# Where a handshake stops: the version, which of our flights, and where in it.
BOTH = ["TLS1_2", "TLS1_3"]
AS_CLIENT = [(version, flight, at) for version in BOTH
             for flight, at in [(0, 0), (0, 3), (0, 5), (0, .5), (0, -1),
                                (1, 0), (1, 1), (1, 5), (1, .5), (1, -1)]]
AS_SERVER = [("TLS1_2", flight, at) for flight, at in [(0, 0), (0, 3), (0, .5), (0, -1),
                                                       (1, 0), (1, 1), (1, -1)]] + \
            [("TLS1_3", 0, at) for at in (0, 3, 5, .1, .5, -1)]


@pytest.fixture(scope="module")
def arena_(folder, binaries):
    with arena(folder, binaries, handshake_timeout=f"{HANDSHAKE_S}s", idle_timeout=f"{IDLE_S}s",
               stall_timeout=f"{STALL_S}s") as made:
        made.contexts = {(side, version): context(side, made.roots, made.paths(side), version)
                         for side in ("client", "server") for version in BOTH}
        yield made


@pytest.fixture
def pair(arena_):
    arena_.ended_before = {}
    for side, reason in itertools.product(("client", "server"), ("handshake_timeout", "idle", "stalled")):
        arena_.ended_before[side, reason] = ended_ever(arena_, side, reason)
    with undisturbed(arena_):
        yield arena_


def ended_ever(pair, side, reason):
    return pair.count(side, "mortise_connections_total", reason=reason)


def ended_for(pair, side, reason):
    """How many since the test began."""
    return ended_ever(pair, side, reason) - pair.ended_before[side, reason]


class Slow:
    """Connections that stopped, each with what it has yet to send: that goes out a byte at a time, or not at all."""

    def __init__(self):
        self.socks, self.began, self.ended, self.rest = {}, {}, {}, {}
        self.poller = select.poll()

    def add(self, label, sock, rest=b"", by=None, began=None):
        """`sock` is what ends; `rest` goes out by it, or by the socket `by`, too slowly to be through in time."""
        sock.setblocking(False)
        self.socks[sock.fileno()] = (label, sock)
        self.rest[sock.fileno()] = (by or sock, rest)
        self.began[label] = began or time.monotonic()
        self.poller.register(sock, select.POLLIN)

    def run(self, limit_s):
        """Until all have been ended by the other side, or so long."""
        limit, next_byte, sent = time.monotonic() + limit_s, 0.0, 0
        while self.socks and time.monotonic() < limit:
            for fd, _ in self.poller.poll(50):
                label, sock = self.socks[fd]
                try:
                    if sock.recv(1 << 16):
                        continue
                except BlockingIOError:
                    continue
                except ConnectionError:
                    pass
                self.ended[label] = time.monotonic() - self.began[label]
                self.poller.unregister(fd)
                del self.socks[fd]
                sock.close()
            if time.monotonic() >= next_byte:
                next_byte, sent = time.monotonic() + 0.25, sent + 1
                for by, rest in map(self.rest.get, self.socks):
                    with contextlib.suppress(OSError):
                        by.send(rest[sent - 1:sent])
        return self

    def check(self, deadline_s):
        """Each was ended at its deadline."""
        assert not self.socks, f"still there: {sorted(str(label) for label, _ in self.socks.values())}"
        early = {label: s for label, s in self.ended.items() if s < deadline_s - 0.3}
        late = {label: s for label, s in self.ended.items() if s > deadline_s + LATE_S}
        assert not early and not late, f"early {early}, late {late}"

    def close(self):
        for _, sock in self.socks.values():
            abort(sock)


def dribbled(number, rest):
    """Every other one goes on byte by byte, when there is more than it can send before the deadline."""
    return rest if number % 2 and len(rest) > 40 else b""


@pytest.mark.sanitize
def test_clients_that_stop_in_a_handshake(pair):
    slow = Slow()
    try:
        for number, (version, flight, at) in itertools.product(range(EACH), AS_CLIENT):
            sock = dial(pair.tls_port, f"127.0.3.{1 + number}")
            began = time.monotonic()
            rest = Steps(sock, pair.contexts["client", version], pair.odd_name).cut(flight, at)
            slow.add((version, flight, at, number), sock, dribbled(number, rest), began=began)
        slow.run(HANDSHAKE_S + LATE_S + 5).check(HANDSHAKE_S)
    finally:
        slow.close()
    assert ended_for(pair, "server", "handshake_timeout") == EACH * len(AS_CLIENT)


@pytest.mark.sanitize
def test_servers_that_stop_in_a_handshake(pair):
    """The application hears of it by a reset, and none of its bytes has left."""
    slow, peers = Slow(), []
    with listen(pair.odd_tls_port) as listener:
        try:
            for number, (version, flight, at) in itertools.product(range(EACH), AS_SERVER):
                app = dial(pair.odd_app_port)
                app.sendall(b"secret")
                began = time.monotonic()
                peers.append(accept(listener))
                rest = b""
                if (flight, at) != (0, 0):  # else it does not even read
                    rest = Steps(peers[-1], pair.contexts["server", version],
                                 server=True).cut(flight, at)
                slow.add((version, flight, at, number), app, dribbled(number, rest), peers[-1], began)
            slow.run(HANDSHAKE_S + LATE_S + 5).check(HANDSHAKE_S)
        finally:
            slow.close()
            for peer in peers:
                peer.close()
    assert ended_for(pair, "client", "handshake_timeout") == EACH * len(AS_SERVER)


def opened_by(pair, version, side, sock):
    """A peer of the sidecar's, as client or server, with its handshake done."""
    return Steps(sock, pair.contexts[side, version], pair.odd_name if side == "client" else None,
                 server=side == "server").handshake()


@pytest.mark.sanitize
def test_peers_that_stop_once_they_are_in(pair):
    """Silent from the start, silent after some bytes, and within a record: a part of one is not a byte of data, however
    long it goes on coming."""
    slow, held = Slow(), []
    with listen(pair.odd_target_port) as target, listen(pair.odd_tls_port) as server:
        try:
            for version, how in itertools.product(BOTH, ["silent", "quiet", "header", "record",
                                                         "dribble"]):
                client = opened_by(pair, version, "client", dial(pair.tls_port))
                held.append(accept(target))
                held.append(dial(pair.odd_app_port))
                for peer in (client, opened_by(pair, version, "server", accept(server))):
                    rest = b""
                    if how == "quiet":
                        peer.send(b"once")
                    elif how != "silent":
                        sealed = peer.sealed(bytes(1000))
                        cut = {"header": 5, "record": -1, "dribble": 6}[how]
                        peer.sock.sendall(sealed[:cut])
                        rest = sealed[cut:] if how == "dribble" else b""
                    slow.add((version, how, peer is client), peer.sock, rest)
            slow.run(IDLE_S + LATE_S + 5).check(IDLE_S)
        finally:
            slow.close()
            for sock in held:
                sock.close()
    assert ended_for(pair, "server", "idle") == ended_for(pair, "client", "idle") == 10


def write_until_left(writers, limit_s):
    """Each writes as long as bytes are taken, and is left with a reset; returns the longest time that one was blocked."""
    block, blocked_s, last = bytes(SLAB), 0.0, {sock: time.monotonic() for sock in writers}

    def all_left():
        nonlocal blocked_s
        for sock in list(last):
            try:
                sock.send(block)
                last[sock] = time.monotonic()
            except BlockingIOError:
                pass
            except ConnectionError:
                blocked_s = max(blocked_s, time.monotonic() - last.pop(sock))
        return not last

    for sock in writers:
        sock.setblocking(False)
    wait_for("all are left", all_left, limit_s)
    return blocked_s


@pytest.mark.sanitize
@pytest.mark.parametrize("side", ["server", "client"])
def test_peers_that_read_nothing(pair, side):
    """`server`: clients of the server's sidecar that take no answer; `client`: servers that take no request. Each is left
    after the stall deadline, holds no more than what one read gave, and gives it back."""
    before = pair[side].memory_kib()
    peers, writers, peak, stop = [], [], [0], threading.Event()

    def watch():
        while not stop.wait(0.02):
            peak[0] = max(peak[0], pair[side].memory_kib() - before)

    watcher = threading.Thread(target=watch)
    with listen(pair.odd_target_port if side == "server" else pair.odd_tls_port) as listener:
        try:
            for _, version in itertools.product(range(NUM_STALLED // 2), BOTH):
                if side == "server":
                    peers.append(opened_by(pair, version, "client", dial(pair.tls_port, None, 4096)))
                    writers.append(accept(listener))
                else:
                    writers.append(dial(pair.odd_app_port))
                    peers.append(opened_by(pair, version, "server", accept(listener)))
            watcher.start()
            assert write_until_left(writers, STALL_S + LATE_S + 60) < STALL_S + LATE_S
        finally:
            stop.set()
            if watcher.ident:
                watcher.join(10)
            for sock in [*writers, *(peer.sock for peer in peers)]:
                sock.close()
    assert ended_for(pair, side, "stalled") == NUM_STALLED
    if CONFIG == "opt":
        # Each what is promised, and once what large reads bring into use.
        assert peak[0] <= NUM_STALLED * HELD_KIB + 2048, f"{peak[0]} KiB"
    print(f"\n{side}: {NUM_STALLED} stalled peers, at most {peak[0] / NUM_STALLED:.0f} KiB each")
