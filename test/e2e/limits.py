"""Without this one peer could take what all share: every limit is met at one below, at and one above it, every deadline
is waited for, descriptors run out and come back, and beside all of it good connections go on.

Drives: R14, R15, R16, R71, D3, F1, F12, F18"""
import contextlib
import itertools
import random
import resource
import select
import signal
import socket
import threading
import time

import pytest

from deploy.lab.programs import LabError, wait_for
from test.testlib.blackhole import Blackhole
from test.testlib.cpu import cpu_s
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.fixtures import CONFIG
from test.testlib.static import StaticPair, free_port
from test.testlib.tls_peer import Server, call, context
from test.testlib.tls_raw import HANDSHAKE, ClientHello, Refused, Tls13, record

NUM_SLOW = 2000 if CONFIG == "opt" else 300
_numbers = itertools.count()


@contextlib.contextmanager
def running(folder, binaries, *sides, endpoints=None, **settings):
    """A pair in a folder of its own with an echo application; `settings` are of both sides, or, as
    server_settings and client_settings, of one."""
    inside = folder / f"pair{next(_numbers)}"
    inside.mkdir()
    both = {key: settings.pop(key, {}) for key in ("client_settings", "server_settings")}
    pair = StaticPair(inside, binaries, **{key: {**settings, **own} for key, own in both.items()})
    if endpoints is not None:
        config = pair.config("client")
        config["outbound"][0]["endpoints"] = endpoints(pair)
        pair.write("client", config)
    with EchoApp(pair.target_port) as pair.app:
        try:
            pair.start(*sides)
            yield pair
        finally:
            pair.stop()


def dial(port, source=None):
    sock = socket.create_connection(("127.0.0.1", port), 10,
                                    source_address=(source, 0) if source else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(10)
    return sock


def echo(sock, data=b"ping"):
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        part = sock.recv(len(data) - len(got))
        if not part:
            raise ConnectionResetError("closed")
        got += part
    assert got == data
    return sock


def opened(port):
    """A connection that has carried bytes."""
    return echo(dial(port))


def is_shed(port, source=None):
    """Whether a new connection is ended before a byte came, even before it was established."""
    try:
        return is_cut(dial(port, source))
    except ConnectionError:
        return True


def is_cut(sock, timeout_s=10):
    """Waits until the connection ends, in whatever way."""
    sock.settimeout(timeout_s)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def refused(port):
    """Whether a new connection comes to nothing."""
    try:
        opened(port).close()
    except OSError:
        return True
    return False


def metric(pair, side, name, **labels):
    """The sum over the series with these labels; there must be one when it is waited to be 0."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(value for series, value in pair[side].metrics().items()
               if series.startswith(name + "{") and all(label in series for label in wanted))


def shed(pair, side, limit):
    return metric(pair, side, "mortise_connections_shed_total", limit=limit)


def rises(pair, side, limit, to):
    wait_for(f"{limit} shed {to}", lambda: shed(pair, side, limit) == to, 10)


# Slow and silent clients.


class Legitimate:
    """One good connection after the other through both sidecars, until told to stop."""

    def __init__(self, pair):
        self.pair, self.times, self.problems = pair, [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                assert exchange(self.pair.app_port, b"as ever") == b"as ever"
            except Exception as err:
                self.problems.append(repr(err))
            self.times.append(time.monotonic() - began)

    def stop(self):
        self._stop.set()
        self._thread.join(30)
        return sorted(self.times)


@pytest.mark.sanitize
def test_silent_and_dribbling_clients_are_reaped(folder, binaries):
    """Half of them say nothing, half send a good hello at a few bytes a second; from 20 sources."""
    timeout_s = 3
    with running(folder, binaries, handshake_timeout=f"{timeout_s}s") as pair:
        exchange(pair.app_port)
        fds, memory = pair["server"].fds(), pair["server"].memory_kib()
        legitimate = Legitimate(pair)
        hello = record(HANDSHAKE, ClientHello(server_name=pair.server_name).bytes())
        poller, began, socks = select.poll(), {}, {}
        for number in range(NUM_SLOW):
            sock = dial(pair.tls_port, f"127.0.1.{1 + number % 20}")
            sock.setblocking(False)
            began[sock.fileno()] = time.monotonic()
            socks[sock.fileno()] = sock
            poller.register(sock, select.POLLIN)
        dribbling = {fd for number, fd in enumerate(socks) if number % 2}
        taken, sent, next_byte = [], 0, 0.0
        limit = time.monotonic() + timeout_s + 10
        while socks and time.monotonic() < limit:
            for fd, _ in poller.poll(100):
                taken.append(time.monotonic() - began[fd])
                with contextlib.suppress(ConnectionError):
                    assert socks[fd].recv(1000) == b""
                poller.unregister(fd)
                socks.pop(fd).close()
                dribbling.discard(fd)
            if time.monotonic() >= next_byte and sent < len(hello) // 2:
                next_byte = time.monotonic() + 0.2
                for fd in dribbling:
                    with contextlib.suppress(ConnectionError):
                        socks[fd].send(hello[sent:sent + 1])
                sent += 1
        times = legitimate.stop()
        assert not socks, f"{len(socks)} are still there"
        assert len(taken) == NUM_SLOW
        # Not shed at once, and not long after the deadline. (A sanitized build opens slowly.)
        assert min(taken) > timeout_s - 0.5 and max(taken) < timeout_s + (2 if CONFIG == "opt" else 8)
        assert metric(pair, "server", "mortise_handshakes_total", direction="inbound",
                      result="handshake_timeout") == NUM_SLOW
        assert legitimate.problems == [] and len(times) > 10
        if CONFIG == "opt":
            assert times[int(len(times) * 0.99)] < 1, times[-10:]
        wait_for("descriptors are back", lambda: pair["server"].fds() <= fds, 20)
        if CONFIG == "opt":
            wait_for("memory is back", lambda: pair["server"].memory_kib() <= memory + 2048, 20)


def test_a_server_that_says_nothing_is_left(folder, binaries):
    with running(folder, binaries, "client", handshake_timeout="500ms") as pair:
        with socket.create_server(("127.0.0.1", pair.tls_port)), dial(pair.app_port) as app:
            began = time.monotonic()
            app.sendall(b"secret")
            with pytest.raises(ConnectionResetError):
                app.recv(1)
            assert 0.4 < time.monotonic() - began < 3
        assert pair.new_line("client")["reason"] == "handshake_timeout"


@pytest.mark.sanitize
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]",
                                  "[::]"])
def test_an_endpoint_that_is_this_sidecar_is_not_even_connected_to(folder, binaries, host):
    """A connection to itself is an application's, which gets a connection to itself, and so on without end."""
    with running(folder, binaries, "client",
                 endpoints=lambda pair: [f"{host}:{pair.app_port}"]) as pair:
        if host == "[::]":  # goes to ::1, where nobody listens: the twin
            assert refused(pair.app_port)
            assert pair.new_line("client")["error"] == "connect_refused"
        for number in range(1, 4):
            assert refused(pair.app_port)
            wait_for("it is told", lambda: len(pair.lines("client")) >= number)
        if host != "[::]":
            assert {line["error"] for line in pair.lines("client")} == {"loop_detected"}
            assert len(pair.lines("client")) == 3, "one each, none of its own making"


# Limits, at one below, at and one above.


@pytest.mark.sanitize
@pytest.mark.parametrize("side", ["server", "client"])
def test_max_connections(folder, binaries, side):
    limit = 8
    with running(folder, binaries, **{f"{side}_settings": {"max_connections": limit}}) as pair:
        held = [opened(pair.app_port) for _ in range(limit - 1)]
        assert shed(pair, side, "connections") == 0
        held.append(opened(pair.app_port))
        assert shed(pair, side, "connections") == 0
        for number in range(1, 4):
            assert refused(pair.app_port)
            rises(pair, side, "connections", number)
        for sock in held:
            echo(sock)  # those within go on
        held.pop().close()
        wait_for("there is room again", lambda: not refused(pair.app_port))
        for sock in held:
            sock.close()
        wait_for("all is over", lambda: metric(
            pair, side, "mortise_connections_open", link=pair.LINK,
            direction="outbound" if side == "client" else "inbound") == 0)
        assert exchange(pair.app_port) == b"hello"


def silent(pair, source="127.0.0.1"):
    return dial(pair.tls_port, source)


@pytest.mark.sanitize
def test_max_handshakes(folder, binaries):
    limit = 5
    with running(folder, binaries, server_settings={"max_handshakes": limit}) as pair:
        held = [silent(pair) for _ in range(limit - 1)]
        assert exchange(pair.app_port) == b"hello"  # the one that is left; it is given back
        held.append(silent(pair))
        assert shed(pair, "server", "handshakes") == 0
        assert is_shed(pair.tls_port)
        rises(pair, "server", "handshakes", 1)
        assert refused(pair.app_port)
        rises(pair, "server", "handshakes", 2)
        held.pop().close()
        wait_for("there is room again", lambda: not refused(pair.app_port))
        # A handshake that is done is none: open connections do not count.
        open_ones = [opened(pair.app_port) for _ in range(3 * limit)]
        for sock in (*held, *open_ones):
            sock.close()


@pytest.mark.sanitize
def test_max_handshakes_per_source(folder, binaries):
    limit = 3
    with running(folder, binaries, server_settings={"max_handshakes_per_source": limit}) as pair:
        made = context("client", pair.roots, pair.paths("client"))
        held = [silent(pair, "127.0.2.1") for _ in range(limit - 1)]
        call(pair.tls_port, made, source=("127.0.2.1", 0))
        held.append(silent(pair, "127.0.2.1"))
        assert shed(pair, "server", "handshakes_per_source") == 0
        assert is_shed(pair.tls_port, "127.0.2.1")
        rises(pair, "server", "handshakes_per_source", 1)
        with pytest.raises(Refused):
            call(pair.tls_port, made, source=("127.0.2.1", 0))
        rises(pair, "server", "handshakes_per_source", 2)
        # Others are not concerned. (Of 4096 buckets two sources may share one, three hardly do.)
        through = 0
        for other in ("127.0.2.2", "127.0.2.3", "127.0.2.4"):
            with contextlib.suppress(Refused):
                call(pair.tls_port, made, source=(other, 0))
                through += 1
        assert through >= 2
        held.pop().close()
        wait_for("there is room again", lambda: call(pair.tls_port, made, source=("127.0.2.1", 0)))


def test_a_burst_of_connections_leaves_nothing_behind(folder, binaries):
    num_threads, each = 20, 50 if CONFIG == "opt" else 10
    with running(folder, binaries) as pair:
        def burst(problems):
            def one():
                for _ in range(each):
                    try:
                        assert exchange(pair.app_port, b"x" * 1000) == b"x" * 1000
                    except Exception as err:
                        problems.append(repr(err))

            threads = [threading.Thread(target=one) for _ in range(num_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)

        problems = []
        burst(problems)
        before = {side: (pair[side].fds(), pair[side].memory_kib()) for side in pair.programs}
        burst(problems)
        assert problems == []
        for side, (fds, memory) in before.items():
            wait_for(f"{side}'s descriptors", lambda: pair[side].fds() <= fds, 10)
            assert pair[side].memory_kib() <= memory + 1024


def test_without_descriptors_it_waits_and_comes_back(folder, binaries):
    """A queue that cannot be accepted must not spin; afterwards all goes on without a restart."""
    with running(folder, binaries) as pair:
        exchange(pair.app_port)
        for side in ("client", "server"):
            program = pair[side]
            limit = program.fds() + 12
            limits = resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (limit, 20_000))
            socks = [dial(pair.app_port) for _ in range(60)]
            for sock in socks:
                with contextlib.suppress(ConnectionError):
                    sock.send(b"x")
            spent, began = cpu_s(program.pid), time.monotonic()
            wait_for("a while to measure", lambda: time.monotonic() > began + 2)
            assert (cpu_s(program.pid) - spent) / (time.monotonic() - began) < 0.2, side
            assert program.alive()
            for sock in socks:
                sock.close()
            wait_for(f"{side} comes back", lambda: not refused(pair.app_port), 15)
            resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limits)
            wait_for(f"{side} answers", lambda: program.ready(), 15)
            for _ in range(20):
                assert exchange(pair.app_port) == b"hello"


# Key updates.


def key_update_client(pair):
    return Tls13(dial(pair.tls_port), pair.client, server_name=pair.server_name).handshake()


def test_key_updates_within_reason_are_made(folder, binaries):
    with running(folder, binaries, "server") as pair:
        tls = key_update_client(pair)
        for number in range(60):
            data = b"%d" % number
            tls.sock.sendall(tls.key_update_record(request=number % 2 == 0))
            tls.send(data)
            got = tls.recv()
            if number % 2 == 0:
                assert got == (24, b"\0")  # ours, as it was asked for
                got = tls.recv()
            assert got == data
        tls.sock.close()


@pytest.mark.sanitize
@pytest.mark.parametrize("request_ours", [False, True], ids=["told", "asked"])
@pytest.mark.parametrize("data", [b"", b"x"], ids=["bare", "between data"])
def test_a_flood_of_key_updates_is_ended(folder, binaries, data, request_ours):
    """Each costs a key schedule: data in between must not make them free."""
    with running(folder, binaries, "server") as pair:
        tls = key_update_client(pair)
        tls.send(b"first")
        assert tls.recv() == b"first"
        spent = cpu_s(pair["server"].pid)
        with pytest.raises((Refused, ConnectionError)) as caught:
            for _ in range(5000):
                out = tls.key_update_record(request_ours)
                if data:
                    out += tls.write.seal(23, data)
                tls.sock.sendall(out)
            while True:
                tls.recv()
        if isinstance(caught.value, Refused) and caught.value.alert:
            assert caught.value.alert == "unexpected_message"
        line = pair.new_line("server")
        assert (line["reason"], line["error"]) == ("tls_failed", "tls_key_updates")
        assert line["bytes_to_app"] < 5 + 200
        if CONFIG == "opt":
            assert cpu_s(pair["server"].pid) - spent < 0.5
        call(pair.tls_port, context("client", pair.roots, pair.paths("client")))


# Deadlines.


@pytest.mark.sanitize
def test_a_silent_endpoint_meets_the_connect_timeout(folder, binaries):
    with Blackhole() as hole, running(
            folder, binaries, "client", connect_timeout="1s",
            endpoints=lambda pair: [f"127.0.0.1:{hole.port}"]) as pair, dial(pair.app_port) as app:
        began = time.monotonic()
        assert is_cut(app)
        assert 0.9 < time.monotonic() - began < 4
        line = pair.new_line("client")
        assert (line["reason"], line["error"]) == ("connect_timeout", "connect_timeout")
        assert metric(pair, "client", "mortise_connect_errors_total", direction="outbound",
                      link=pair.LINK, error="connect_timeout") >= 1


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_bad_endpoint_falls_to_the_next(folder, binaries, kind):
    with Blackhole() as hole:
        bad = hole.port if kind == "silent" else free_port()
        with running(folder, binaries, connect_timeout="2s",
                     endpoints=lambda pair: [f"127.0.0.1:{bad}", f"127.0.0.1:{pair.tls_port}",
                                             f"127.0.0.1:{bad}"]) as pair:
            for number in range(3):  # each begins with another endpoint
                assert exchange(pair.app_port) == b"hello"
            error = "connect_refused" if kind == "refused" else "connect_timeout"
            assert metric(pair, "client", "mortise_connect_errors_total", direction="outbound",
                          link=pair.LINK, error=error) >= 2


def test_all_endpoints_refuse(folder, binaries):
    with running(folder, binaries, "client",
                 endpoints=lambda pair: [f"127.0.0.1:{free_port()}" for _ in range(3)]) as pair:
        assert is_shed(pair.app_port)
        line = pair.new_line("client")
        assert (line["reason"], line["error"]) == ("connect_failed", "connect_refused")


def test_idle_connections_end_and_busy_ones_do_not(folder, binaries):
    with running(folder, binaries, server_settings={"idle_timeout": "1s"}) as pair:
        idle, busy = opened(pair.app_port), opened(pair.app_port)
        began = time.monotonic()
        while time.monotonic() < began + 2.5:
            echo(busy)
            if select.select([idle], [], [], 0.2)[0]:
                break
        assert is_cut(idle, 0.1)
        assert 0.8 < time.monotonic() - began < 2.5
        line = pair.new_line("server")
        assert (line["reason"], line["error"]) == ("idle", "idle")
        while time.monotonic() < began + 2.5:
            echo(busy)
            select.select([busy], [], [], 0.2)
        busy.close()


@pytest.mark.parametrize("who", ["application", "mesh"])
def test_a_receiver_that_takes_nothing_is_left(folder, binaries, who):
    """The stall deadline, far before the idle one; one that takes now and then is not concerned."""
    with running(folder, binaries, client_settings={"stall_timeout": "1s"}) as pair:
        pair.app.close()
        with socket.create_server(("127.0.0.1", pair.target_port)) as listener:
            listener.settimeout(10)
            app = dial(pair.app_port)
            far, _ = listener.accept()
            # `mesh`: the client's sidecar cannot get rid of what the application writes.
            writer, reader = (app, far) if who == "mesh" else (far, app)
            writer.setblocking(False)
            began, blocked = time.monotonic(), None
            taken = 0
            while True:  # a reader that takes a little keeps it open
                with contextlib.suppress(BlockingIOError):
                    while True:
                        writer.send(bytes(1 << 20))
                if time.monotonic() < began + 2.5:
                    taken += len(reader.recv(1 << 20))
                    select.select([], [], [], 0.05)
                else:
                    break
            blocked = time.monotonic()
            assert taken > 1 << 20
            writer.setblocking(True)
            writer.settimeout(10)
            with pytest.raises((ConnectionError, TimeoutError)) as caught:
                while True:
                    writer.sendall(bytes(1 << 20))
            assert isinstance(caught.value, ConnectionError)
            assert time.monotonic() - blocked < 5
            line = pair.new_line("client")
            assert (line["reason"], line["error"]) == ("stalled", "slow_peer")
            app.close()
            far.close()


SLOW_RATE, SLOW_BYTES = 500_000, 8_000_000


def read_slowly(pair, upload, data):
    """`data` through the pair to one who takes it at a steady rate, out of a small buffer: what came, until it ended."""
    got = bytearray()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", pair.target_port)))
        listener.settimeout(10)
        if upload:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        app = stack.enter_context(socket.socket())
        if not upload:
            app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        app.connect(("127.0.0.1", pair.app_port))
        far = stack.enter_context(listener.accept()[0])
        writer, reader = (app, far) if upload else (far, app)
        writer.settimeout(60)
        reader.settimeout(60)

        def write():
            with contextlib.suppress(OSError):
                writer.sendall(data)
                writer.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=write)
        thread.start()
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while part := reader.recv(8192):
                got += part
                early_s = began + len(got) / SLOW_RATE - time.monotonic()
                if early_s > 0:  # the rate, that is: nobody is waited for
                    select.select([], [], [], early_s)
            reader.shutdown(socket.SHUT_WR)
        thread.join(60)
    return bytes(got)


def test_a_receiver_that_takes_bytes_slowly_is_not_left(folder, binaries):
    """For many times a deadline, up and down. The kernel's buffers hold what such a one takes in longer than that: nothing
    is written meanwhile on either hop, yet bytes move."""
    data, got = random.Random(7).randbytes(SLOW_BYTES), {}
    with contextlib.ExitStack() as stack:
        threads = []
        for setting, upload in itertools.product(("stall_timeout", "idle_timeout"), (False, True)):
            # The other side's sidecar has nothing to do once it got rid of all: for it that is idle.
            sides = {"stall_timeout": ("client", "server"), "idle_timeout": ("server" if upload else "client",)}
            settings = {f"{side}_settings": {setting: "2s"} for side in sides[setting]}
            pair = stack.enter_context(running(folder, binaries, **settings))
            pair.app.close()

            def run(name=(setting, upload, pair), pair=pair, upload=upload):
                got[name] = read_slowly(pair, upload, data)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
        for thread in threads:
            thread.join(120)
        short = {(setting, upload): (len(came), pair.lines("client"), pair.lines("server"))
                 for (setting, upload, pair), came in got.items() if came != data}
        assert len(got) == 4 and not short
        for _, _, pair in got:
            for side in ("client", "server"):
                assert pair.new_line(side)["reason"] == "done"


# Ending.


def ready(program):
    try:
        return program.ready()
    except (OSError, LabError):
        return False


@pytest.mark.sanitize
@pytest.mark.parametrize("side", ["server", "client"])
def test_sigterm_lets_open_connections_finish(folder, binaries, side):
    with running(folder, binaries) as pair:
        app = opened(pair.app_port)
        pair[side].signal(signal.SIGTERM)
        wait_for("it is unready", lambda: not ready(pair[side]))
        wait_for("new ones are refused", lambda: refused(pair.app_port))
        for _ in range(10):
            echo(app, b"still here" * 1000)
        assert pair[side].alive()
        app.shutdown(socket.SHUT_WR)
        assert app.recv(1) == b""
        assert pair[side].wait(5) == 0
        line = pair.lines(side)[0]
        assert line["reason"] == "done" and line["bytes_to_mesh"] == 4 + 10 * 10_000


@pytest.mark.sanitize
@pytest.mark.parametrize("seconds", [0, 1])
@pytest.mark.parametrize("side", ["server", "client"])
def test_the_drain_deadline_cuts(folder, binaries, side, seconds):
    with running(folder, binaries, drain_timeout=f"{seconds}s") as pair:
        app = opened(pair.app_port)
        began = time.monotonic()
        pair[side].signal(signal.SIGTERM)
        assert is_cut(app)
        assert seconds - 0.2 < time.monotonic() - began < seconds + 3
        assert pair[side].wait(5) == 0
        assert pair.lines(side)[0]["reason"] == "drained"
        assert pair[side].events("drained")[0]["cut_off"] == 1


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_second_sigterm_ends_at_once(folder, binaries, side):
    with running(folder, binaries) as pair:
        app = opened(pair.app_port)
        pair[side].signal(signal.SIGTERM)
        wait_for("it drains", lambda: not ready(pair[side]))
        echo(app)
        began = time.monotonic()
        pair[side].signal(signal.SIGTERM)
        assert is_cut(app)
        pair[side].wait(5)
        assert time.monotonic() - began < 1


def test_without_connections_sigterm_ends_at_once(folder, binaries):
    with running(folder, binaries) as pair:
        exchange(pair.app_port)
        for side in ("client", "server"):
            began = time.monotonic()
            pair[side].signal(signal.SIGTERM)
            assert pair[side].wait(5) == 0
            assert time.monotonic() - began < 1


def test_an_endpoint_that_comes_and_goes_is_used_again_within_a_second(folder, binaries):
    with running(folder, binaries, "client") as pair:
        made = context("server", pair.roots, pair.paths("server"))
        for _ in range(5):
            with Server(pair.tls_port, made):
                began = time.monotonic()
                wait_for("it is used again", lambda: not refused(pair.app_port), 5)
                assert time.monotonic() - began < 1
                assert exchange(pair.app_port) == b"hello"
            assert refused(pair.app_port)
        assert metric(pair, "client", "mortise_connect_errors_total", direction="outbound",
                      link=pair.LINK, error="connect_refused") >= 5
