"""Without this a connection that is cut off could look whole, or leave something behind: peers and applications end by RST
and by FIN in every state of a connection, at random too, in both directions and TLS versions. A cut is passed on as a cut,
an orderly end of one direction leaves the other one open, and the load beside it loses nothing.

Drives: R14, R71, F1, B5"""
import itertools
import random
import socket
import threading
import time
from collections import Counter

import pytest

from deploy.lab.programs import wait_for
from test.testlib.arena import abort, accept, arena, dial, end_of, listen, undisturbed
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.tls_peer import context
from test.testlib.tls_raw import Refused, Tls13
from test.testlib.tls_steps import Steps

BOTH = ["TLS1_2", "TLS1_3"]
EACH = 10 if CONFIG == "opt" else 2
NUM_RANDOM = 10_000 if FULL else 600 if CONFIG == "opt" else 100

CUTS = [(0, 0), (0, 3), (0, 5), (0, .5), (0, -1), (1, 0), (1, 1), (1, 5), (1, .5), (1, -1)]


@pytest.fixture(scope="module")
def pair(folder, binaries):
    with arena(folder, binaries) as made:
        made.contexts = {(side, version): context(side, made.roots, made.paths(side), version)
                         for side in ("client", "server") for version in BOTH}
        yield made


@pytest.fixture
def scene(pair):
    """The pair, the application of link `odd`, and its server."""
    pair.gone_before = {side: ends_of(pair, side) for side in ("client", "server")}
    with listen(pair.odd_target_port) as pair.odd_target, listen(pair.odd_tls_port) as \
            pair.odd_server, undisturbed(pair):
        yield pair


def client_of(pair, version):
    """A TLS client of the server's sidecar."""
    return Steps(dial(pair.tls_port), pair.contexts["client", version], pair.odd_name)


def server_of(pair, version):
    """The application's socket, and the TLS server that the client's sidecar connected to for it."""
    app = dial(pair.odd_app_port)
    return app, Steps(accept(pair.odd_server), pair.contexts["server", version], server=True)


def leave(sock, how):
    if how == "reset":
        abort(sock)
    else:
        sock.close()


def ends_of(pair, side):
    """How many connections of link `odd`, or of none yet, ended there, by reason."""
    found = Counter()
    for series, value in pair[side].metrics().items():
        if series.startswith("mortise_connections_total{") and 'link="link"' not in series:
            found[series.split('reason="')[1].split('"')[0]] += int(value)
    return found


def gone(pair, side, num):
    """The same since the test began, once there are so many."""
    def ends():
        found = ends_of(pair, side) - pair.gone_before[side]
        return found if found.total() >= num else None

    found = wait_for(f"{num} connections over", ends, 30)
    assert found.total() == num, found
    return dict(found)


@pytest.mark.sanitize
@pytest.mark.parametrize("how", ["reset", "end"])
def test_clients_that_leave_in_a_handshake(scene, how):
    for version, (flight, at), _ in itertools.product(BOTH, CUTS, range(EACH)):
        peer = client_of(scene, version)
        peer.cut(flight, at)
        leave(peer.sock, how)
    ends = gone(scene, "server", len(BOTH) * len(CUTS) * EACH)
    assert set(ends) == {"peer_reset" if how == "reset" else "peer_truncated"}, ends


@pytest.mark.sanitize
@pytest.mark.parametrize("how", ["reset", "end"])
def test_servers_that_leave_in_a_handshake(scene, how):
    cuts = [(version, cut) for version in BOTH for cut in CUTS if version == "TLS1_2" or cut[0] == 0]
    for (version, (flight, at)), _ in itertools.product(cuts, range(EACH)):
        app, peer = server_of(scene, version)
        app.sendall(b"secret")
        if (flight, at) != (0, 0):
            peer.cut(flight, at)
        leave(peer.sock, how)
        assert end_of(app) == ("reset", b"")
        app.close()
    ends = gone(scene, "client", len(cuts) * EACH)
    # A reset may be there before the connection was seen to be; an end on top of bytes unread is one, too.
    may = {"peer_reset", "connect_failed"} if how == "reset" else {"peer_reset", "peer_truncated"}
    assert set(ends) <= may, ends


@pytest.mark.sanitize
def test_applications_that_leave_before_anything_is_open(scene):
    """While the sidecar connects, and at each step of its handshake."""
    for version, flight, _ in itertools.product(BOTH, range(3), range(EACH)):
        app, peer = server_of(scene, version)
        if flight:
            peer.cut(flight - 1, 1.0)
        abort(app)
        with pytest.raises(ConnectionError):
            peer.handshake()
            peer.recv(1)
        peer.sock.close()
    ends = gone(scene, "client", len(BOTH) * 3 * EACH)
    assert set(ends) == {"app_reset"}, ends


@pytest.mark.sanitize
@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("who", ["client", "server"])
def test_an_end_without_close_notify_is_a_reset_to_the_application(scene, who, version):
    """A cut answer must not look like a whole one; with close_notify it is whole."""
    for how, size in itertools.product(["cut", "within a record", "whole"], [0, 5, 300_000]):
        data = bytes(range(256)) * (size // 256 + 1)
        if who == "client":
            peer, side = client_of(scene, version).handshake(), "server"
            app = accept(scene.odd_target)
        else:
            app, peer = server_of(scene, version)
            peer.handshake()
            side = "client"
        before, got = ends_of(scene, side), []
        reader = threading.Thread(target=lambda: got.append(end_of(app)))
        reader.start()
        if size:
            peer.send(data[:size])
        if how == "whole":
            peer.sock.sendall(peer.closing())
        elif how == "within a record":
            peer.sock.sendall(peer.sealed(b"lost")[:-1])
        peer.sock.shutdown(socket.SHUT_WR)
        reader.join(20)
        (end, received), = got
        assert end == ("end" if how == "whole" else "reset"), (how, size)
        # A reset may overtake what was not read yet, never add to it.
        assert received == data[:size] or how != "whole" and data[:size].startswith(received)
        app.close()
        reason = "done" if how == "whole" else "peer_truncated"
        wait_for(f"{how} {size}: {reason}",
                 lambda: ends_of(scene, side) - before == Counter({reason: 1}), 20)
        peer.sock.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("first", ["peer", "application"])
def test_a_reset_while_bytes_are_under_way(scene, who, version, first):
    """Both directions are full: what is cut is cut on the other side, too."""
    for _ in range(EACH):
        if who == "client":
            peer, app = client_of(scene, version).handshake(), accept(scene.odd_target)
        else:
            app, peer = server_of(scene, version)
            peer.handshake()
        app.setblocking(False)
        try:
            while True:
                app.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        app.settimeout(20)
        peer.send(bytes(100_000))
        abort(peer.sock if first == "peer" else app)
        left = app if first == "peer" else peer.sock
        assert end_of(left)[0] == "reset"
        left.close()
    side = "server" if who == "client" else "client"
    ends = gone(scene, side, EACH)
    if first == "peer":
        assert set(ends) == {"peer_reset"}, ends
    else:  # it may have come and gone before the sidecar saw it come
        assert set(ends) - {"connect_failed"} == {"app_reset"}, ends


@pytest.mark.sanitize
def test_each_direction_ends_for_itself(scene):
    """close_notify ends the one, and a megabyte still comes the other way; towards and from the application."""
    answer = bytes(range(256)) * 4096
    for first in ("peer", "application"):
        tls = Tls13(dial(scene.tls_port), scene.client, server_name=scene.odd_name).handshake()
        app = accept(scene.odd_target)
        got = []
        if first == "peer":
            tls.send(b"question")
            tls.close_notify()
            assert end_of(app) == ("end", b"question")
            sender = threading.Thread(target=lambda: (app.sendall(answer), app.close()))
            sender.start()
            with pytest.raises(Refused) as caught:
                while True:
                    got.append(tls.recv())
            sender.join(20)
        else:
            app.sendall(b"greeting")
            app.shutdown(socket.SHUT_WR)
            assert tls.recv() == b"greeting"
            with pytest.raises(Refused) as caught:
                tls.recv()
            reader = threading.Thread(target=lambda: got.append(end_of(app)[1]))
            reader.start()
            for at in range(0, len(answer), 16_000):
                tls.send(answer[at:at + 16_000])
            tls.close_notify()
            reader.join(20)
            app.close()
        assert caught.value.alert == "close_notify"
        assert b"".join(got) == answer
        tls.sock.close()
    assert gone(scene, "server", 2) == {"done": 2}


@pytest.mark.sanitize
def test_a_cut_after_our_own_direction_has_ended_is_one(scene):
    """The application has said all; what still comes for it is cut off."""
    for version in BOTH:
        peer, app = client_of(scene, version).handshake(), accept(scene.odd_target)
        app.sendall(b"all of it")
        app.shutdown(socket.SHUT_WR)
        assert peer.recv(9) == b"all of it"
        peer.send(b"half of i")
        assert app.recv(9) == b"half of i"
        peer.sock.close()
        assert end_of(app) == ("reset", b"")
        app.close()
    assert set(gone(scene, "server", 2)) <= {"peer_truncated", "peer_reset"}


@pytest.mark.sanitize
def test_ends_at_random_moments(scene):
    """Clients, servers and applications end by RST or FIN after a random part of a connection's life."""
    seed = time.time_ns()
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    num_threads = 8
    failed = []

    def one(plan):
        version, who, at, first, how, second = plan
        peer = app = None
        try:
            if who == "client":
                sock = dial(scene.tls_port)
                peer = Steps(sock, scene.contexts["client", version], scene.odd_name)
            else:
                with one_at_a_time:  # or they would get each other's
                    app = dial(scene.odd_app_port)
                    sock = accept(scene.odd_server)
                peer = Steps(sock, scene.contexts["server", version], server=True)
            sock.settimeout(20)
            if at < 2:
                peer.cut(int(at * 2) % 2, at % .5 * 2)
            else:
                peer.handshake()
                peer.send(bytes(int((at - 2) * 100_000)))
        except ConnectionError:
            pass  # the application was faster
        except Exception as err:
            failed.append(repr(err))
        for sock, way in ((peer and peer.sock, how), (app, second))[::1 if first else -1]:
            if sock is not None:
                leave(sock, way)

    def some(plans):
        for plan in plans:
            one(plan)

    one_at_a_time = threading.Lock()
    stop = threading.Event()

    def application():
        """Takes what comes to it and ends it in one of the two ways."""
        scene.odd_target.settimeout(0.1)
        while not stop.is_set():
            try:
                sock, _ = scene.odd_target.accept()
            except TimeoutError:
                continue
            sock.setblocking(False)
            try:
                sock.send(bytes(1 << 16))
            except OSError:
                pass
            leave(sock, chance.choice(["reset", "end"]))

    taker = threading.Thread(target=application)
    taker.start()
    plans = [(chance.choice(BOTH), chance.choice(["client", "server"]), chance.uniform(0, 4),
              chance.choice([True, False]), chance.choice(["reset", "end"]),
              chance.choice(["reset", "end"])) for _ in range(NUM_RANDOM)]
    threads = [threading.Thread(target=some, args=(plans[i::num_threads],))
               for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    try:
        for side, who in (("server", "client"), ("client", "server")):
            ends = gone(scene, side, sum(plan[1] == who for plan in plans))
            assert "internal" not in ends, ends
            print(side, ends)
    finally:
        stop.set()
        taker.join(10)
    assert failed == []
