"""Without this many strangers together could do what one cannot: half-open handshakes up to every limit and past it, up to the
last descriptor, connections that come and go by the thousand, silent callers at the administration's doors. What is over a
limit is shed and counted by its reason, streams that are open go on, and /livez, /readyz and /metrics answer throughout.

Drives: R14, R15, R16, R71, R32, F12"""
import contextlib
import http.client
import json
import resource
import socket
import time

import pytest

from deploy.lab.programs import Process, admin, wait_for
from test.testlib.arena import arena, dial, end_of, undisturbed
from test.testlib.cpu import cpu_s
from test.testlib.echo_app import exchange
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.load import python
from test.testlib.static import free_port
from test.testlib.tls_raw import HANDSHAKE, PADDING, ClientHello, record

SANITIZED = CONFIG != "opt"
NUM_FILES = 500  # descriptors of a sidecar that has few
FILES_MAX = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
NUM_FLOOD = min(20_000, FILES_MAX - 2000) if FULL else 300 if SANITIZED else 6000
MAX_HANDSHAKES = 200 if SANITIZED else 4096  # the default
SECONDS_OF_CHURN = 60 if FULL else 5
PAGES = ("/livez", "/readyz", "/metrics")


class FewFiles:
    """Programs with a limit of descriptors, otherwise those of `binaries`."""

    def __init__(self, folder, binaries, limit):
        self.proxy = folder / "few-files"
        self.proxy.write_text(f'#!/bin/sh\nulimit -n {limit}\nexec {binaries.proxy} "$@"\n')
        self.proxy.chmod(0o755)


def shed(pair, side, limit):
    return pair.count(side, "mortise_connections_shed_total", limit=limit)


def open_now(pair, side):
    return json.loads(pair[side].get("/connections"))["total"]


def answers(pair, side, metrics_port):
    """All pages for the public answer by both doors, each within a second or two."""
    for page in PAGES:
        assert admin(pair[side].admin_socket, page)[0] == 200, page
        asked = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=5)
        with contextlib.closing(asked):
            asked.request("GET", page)
            answer = asked.getresponse()
            assert answer.status == 200 and answer.read(), page


def silent_callers(pair, side, metrics_port, num):
    """Connections to both doors that ask nothing; half of them begin to."""
    made = []
    for number in range(num):
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(str(pair[side].admin_socket))
        made += [unix, dial(metrics_port)]
        if number % 2:
            for sock in made[-2:]:
                with contextlib.suppress(ConnectionError):
                    sock.send(b"GET /li")
    return made


def half_open(pair, hello, number):
    """A handshake that goes no further than the hello; every other one is silent."""
    sock = dial(pair.tls_port, f"127.0.5.{1 + number % 20}")
    if number % 2:
        with contextlib.suppress(ConnectionError):
            sock.send(hello)
    return sock


def is_shed(connect):
    """Whether that connection is ended before a byte came, even before it was established. (The kernel tells of the reset
    once; it may have been to who sent.)"""
    try:
        with connect() as sock:
            return end_of(sock)[1] == b""
    except ConnectionError:
        return True


@pytest.fixture
def hello():
    """A large one, of those that are one message."""
    return record(HANDSHAKE, ClientHello(server_name="link.mortise.internal",
                                         extra=((PADDING, bytes(15_000)),)).bytes())


@pytest.mark.sanitize
def test_half_open_handshakes_up_to_the_last_descriptor_and_past_it(folder, binaries, hello):
    """The limit of connections follows the descriptors there are: one below it, at it, one above, and far beyond, while
    both doors of the administration are full of silent callers."""
    metrics_port = free_port()
    few = FewFiles(folder, binaries, NUM_FILES)
    with arena(folder, few, streams=20, every_ms=200, connections_too=False,
               handshake_timeout="100s",
               server_settings={"metrics_listen": f"127.0.0.1:{metrics_port}"}) as pair:
        server = pair["server"]
        with undisturbed(pair, connections_too=False):
            limit = server.events("few_descriptors")[0]["lowered_to"]
            pair.load.short.finish()  # or it would take the last place now and then
            wait_for("only streams are open", lambda: open_now(pair, "server") == 20)
            held = [half_open(pair, hello, i) for i in range(limit - 20 - 1)]
            wait_for("one below the limit", lambda: open_now(pair, "server") == limit - 1)
            assert shed(pair, "server", "connections") == 0
            held.append(half_open(pair, hello, len(held)))
            wait_for("at the limit", lambda: open_now(pair, "server") == limit)
            assert shed(pair, "server", "connections") == 0
            assert is_shed(lambda: half_open(pair, hello, 0))
            assert shed(pair, "server", "connections") == 1

            callers = silent_callers(pair, "server", metrics_port, 100)
            answers(pair, "server", metrics_port)
            assert all(is_shed(lambda: half_open(pair, hello, number)) for number in range(1000))
            wait_for("all are counted", lambda: shed(pair, "server", "connections") == 1001)
            assert server.fds() < NUM_FILES - 10, "there is a reserve"
            answers(pair, "server", metrics_port)

            pair.load.rounds(1)
            spent, began = cpu_s(server.pid), time.monotonic()
            pair.load.rounds(2)
            share = (cpu_s(server.pid) - spent) / (time.monotonic() - began)
            assert share < 0.3, f"busy for {share:.0%} with 20 streams"
            # Past the descriptors themselves: nothing is left to accept with, nor for the pages.
            files = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.fds() + 2, files[1]))
            for sock in held[::2]:
                sock.close()
            more = []
            for number in range(500):
                with contextlib.suppress(ConnectionError):  # one of them is turned away now and then
                    more.append(half_open(pair, hello, number))
            spent, began = cpu_s(server.pid), time.monotonic()
            pair.load.rounds(2)
            share = (cpu_s(server.pid) - spent) / (time.monotonic() - began)
            assert share < 0.3, f"busy for {share:.0%} without descriptors"
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, files)
            for sock in (*held, *more, *callers):
                sock.close()
            wait_for("all of them are forgotten", lambda: open_now(pair, "server") == 20, 30)
            answers(pair, "server", metrics_port)
            for _ in range(20):
                assert exchange(pair.app_port) == b"hello"


@pytest.mark.sanitize
def test_thousands_of_half_open_handshakes_at_once(folder, binaries, hello):
    """More than the limit of handshakes, from many sources: the rest is shed, exactly; what they hold is bounded, and given
    back when they go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, NUM_FLOOD + 2000)), hard))
    settings = {"max_handshakes": MAX_HANDSHAKES} if SANITIZED else {}
    with arena(folder, binaries, connections_too=False, handshake_timeout="250s",
               server_settings=settings) as pair:
        server = pair["server"]
        with undisturbed(pair, connections_too=False):
            pair.load.short.finish()
            before, fds = server.memory_kib(), server.fds()
            spent, held = cpu_s(server.pid), []
            began = time.monotonic()
            for number in range(NUM_FLOOD):
                with contextlib.suppress(ConnectionError):
                    held.append(half_open(pair, hello, number))
            took = time.monotonic() - began
            wait_for("those beyond the limit are shed",
                     lambda: shed(pair, "server", "handshakes") == NUM_FLOOD - MAX_HANDSHAKES, 60)
            state = json.loads(server.get("/connections"))
            assert state["handshake"] == MAX_HANDSHAKES
            for page in PAGES:
                assert admin(server.admin_socket, page)[0] == 200
            each = (server.memory_kib() - before) / MAX_HANDSHAKES
            print(f"\n{NUM_FLOOD} half-open handshakes in {took:.1f} s: {each:.1f} KiB and "
                  f"{(cpu_s(server.pid) - spent) / NUM_FLOOD * 1000:.2f} ms of CPU each")
            if not SANITIZED:
                assert each < 40
            pair.load.rounds(1)
            for sock in held:
                sock.close()
            wait_for("all are forgotten", lambda: json.loads(
                server.get("/connections"))["handshake"] == 0, 30)
            wait_for("descriptors are back", lambda: server.fds() <= fds, 30)
            if not SANITIZED:
                wait_for("memory is back", lambda: server.memory_kib() <= before + 2048, 30)
            assert exchange(pair.app_port) == b"hello"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.sanitize
def test_connections_that_come_and_go(folder, binaries):
    """2,000 a second, or what the machine gives; each through both sidecars, with its bytes compared."""
    with arena(folder, binaries, every_ms=100) as pair:
        with undisturbed(pair):
            before = {side: pair[side].memory_kib() for side in pair.programs}
            spent = {side: cpu_s(pair[side].pid) for side in pair.programs}
            churn = Process("churn", python("test.testlib.churn", pair.app_port, "--rate", 2000,
                                            "--seconds", SECONDS_OF_CHURN), pair.folder)
            peak = dict(before)
            while churn.alive():
                for side in peak:
                    peak[side] = max(peak[side], pair[side].memory_kib())
                with contextlib.suppress(Exception):
                    churn.wait(0.1)
            assert churn.wait() == 0, churn.tail()
            result = json.loads(churn.tail(1))
            spent = sum(cpu_s(pair[side].pid) - spent[side] for side in spent)
            print(f"\n{result}; {spent / result['done'] * 1000:.2f} ms of CPU a connection in both "
                  f"sidecars; memory {before}, at most {peak}")
            assert not result["problems"], result
            assert result["done"] > SECONDS_OF_CHURN * (5 if SANITIZED else 50), result
            for side in before:
                assert shed(pair, side, "handshakes_per_source") == 0
                if not SANITIZED:
                    wait_for(f"{side}'s memory is back",
                             lambda: pair[side].memory_kib() <= before[side] + 2048, 30)


def test_full_sidecars_answer(folder, binaries):
    """Every place is taken, on the data path of both and at both doors of each."""
    limit, ports = 30, {side: free_port() for side in ("server", "client")}
    with arena(folder, binaries, streams=20, every_ms=200, connections_too=False,
               max_connections=limit,
               **{f"{side}_settings": {"metrics_listen": f"127.0.0.1:{port}"}
                  for side, port in ports.items()}) as pair:
        with undisturbed(pair, connections_too=False):
            pair.load.short.finish()
            wait_for("only streams are open", lambda: open_now(pair, "server") == 20)
            held = [dial(pair.app_port) for _ in range(limit - 20)]
            callers = []
            for side, port in (("client", pair.app_port), ("server", pair.tls_port)):
                wait_for(f"the {side} is full", lambda: open_now(pair, side) == limit)
                before = shed(pair, side, "connections")
                for number in range(1, 11):
                    assert is_shed(lambda: dial(port))
                    wait_for("it is counted",
                             lambda: shed(pair, side, "connections") == before + number)
                for _ in range(3):  # as they are pushed out others come
                    callers += silent_callers(pair, side, ports[side], 70)
                    answers(pair, side, ports[side])
                assert open_now(pair, side) == limit
            for sock in (*held, *callers):
                sock.close()
