"""Without this whoever answers DNS would decide who is at the other end, or could stop traffic by not answering: the
identity is the certificate's, an answer that was good once goes on being used, and waiting has an end with its reason.

The resolver of the client's host is one of ours, which tells the truth, lies, denies, dawdles or is silent.

Drives: R12, R13, R15, F1, F12, B3"""
import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from deploy.lab import netns
from deploy.lab.programs import Process, Program, wait_for
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.static import StaticPair

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="names are the same for a sanitized build")
NAME = "server.mesh.test"
# Answers A queries as the file says: an address, "nxdomain", "silent", or "late ADDRESS" (after 3 s).
RESOLVER = """
import socket, struct, sys, threading, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
print("serving", flush=True)
def answer(query, peer):
    what = open(sys.argv[1]).read().split()
    if what[0] == "silent":
        return
    if what[0] == "late":
        time.sleep(3)
    end = query.index(b"\\0", 12) + 5
    kind = struct.unpack("!H", query[end - 4:end - 2])[0]
    has = what[0] != "nxdomain" and kind == 1
    head = query[:2] + struct.pack("!HHHHH", 0x8183 if what[0] == "nxdomain" else 0x8180, 1, has, 0, 0)
    body = b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(what[-1]) if has else b""
    sock.sendto(head + query[12:end] + body, peer)
while True:
    threading.Thread(target=answer, args=sock.recvfrom(512)).start()
"""
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as sock:
    sock.sendall(b"hello")
    sys.exit(0 if sock.recv(5) == b"hello" else 1)
"""


class NamedPair(StaticPair):
    """The client's sidecar on host a knows the server by name; the right server is on b, another's on c."""

    def __init__(self, folder, binaries, network):
        self.network = network
        super().__init__(folder, binaries, client_settings={"connect_timeout": "2s"})

    def config(self, side):
        made = super().config(side)
        if side == "client":
            made["outbound"][0]["endpoints"] = [f"{NAME}:{self.tls_port}"]
        else:
            made["inbound"]["listen"] = f"0.0.0.0:{self.tls_port}"
        return made

    def start(self, *sides, ready=True):
        for side, host in (("server", "b"), ("client", "a")):
            if side in sides or not sides:
                self.programs[side] = Program(f"proxy-{side}", [self.bin.proxy, "--config", self.path(side)],
                                              self.folder, self.network[host])
                self.programs[side].wait_ready()
        return self


@pytest.fixture(scope="module")
def named(folder, binaries):
    """(pair, say): say(text) is what the resolver answers from now on."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(netns.Network(f"bd{os.getpid()}-", ("a", "b", "c")))
        etc = Path("/etc/netns") / network["a"].netns
        try:
            etc.mkdir(parents=True)
        except OSError as err:
            pytest.skip(f"NOT TESTED, no resolver of our own for a host: {err}")
        stack.callback(etc.rmdir)
        stack.callback((etc / "resolv.conf").unlink)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
        says = folder / "says"
        says.write_text(network["b"].v4)
        resolver = Process("resolver", [sys.executable, "-c", RESOLVER, says], folder, network["a"])
        stack.callback(resolver.kill)
        wait_for("the resolver serves", lambda: "serving" in resolver.tail())
        pair = NamedPair(folder, binaries, network)
        stack.callback(pair.stop)
        for host in ("b", "c"):
            app = Process(f"echo-{host}", ["env", f"PYTHONPATH={Path(__file__).resolve().parents[2]}", sys.executable,
                                           "-m", "deploy.lab.echo", "serve", f"127.0.0.1:{pair.target_port}"],
                          folder, network[host])
            stack.callback(app.kill)
            wait_for("the application listens", lambda app=app: "serving" in app.tail())
        other = folder / "other"
        other.mkdir()
        pair.start()
        # On c the same configuration with a good certificate of somebody else.
        pair.ca.issue("spiffe://static.test/ns/test/sa/somebody-else").write(other, "server")
        (other / "roots.pem").write_bytes(pair.ca.root_pem())
        (other / "server.yaml").write_text(pair.path("server").read_text())
        stranger = Program("proxy-stranger", [pair.bin.proxy, "--config", other / "server.yaml"], other, network["c"])
        stack.callback(stranger.stop)
        stranger.wait_ready()

        def say(text):
            fresh = folder / "fresh"
            fresh.write_text(text)
            fresh.rename(says)

        yield pair, say


def ask(pair):
    """Whether one connection of the application on a came through, and how long it took."""
    began = time.monotonic()
    done = pair.network["a"].run(sys.executable, "-c", ASK, str(pair.app_port), capture_output=True)
    return done.returncode == 0, time.monotonic() - began


def restarted(pair):
    """The client's sidecar, which then knows no answers."""
    pair["client"].stop()
    pair.start("client")
    return pair


def test_the_truth_is_used_and_remembered_when_the_resolver_dies(named):
    pair, say = named
    say(pair.network["b"].v4)
    assert ask(restarted(pair))[0]
    for fault in ("silent", "nxdomain") if FULL else ("silent",):
        say(fault)
        until = time.monotonic() + 6  # beyond the five seconds for which an answer is not asked for again
        while time.monotonic() < until:
            assert ask(pair)[0], fault
    assert not [line for line in pair.lines("client") if line["reason"] != "done"]


@pytest.mark.parametrize("fault,error", [("nxdomain", {"resolve_failed"}),
                                         ("silent", {"resolve_failed", "timeout", "connect_timeout"})])
def test_without_an_answer_it_ends_with_the_reason(named, fault, error):
    pair, say = named
    say(fault)
    known = len(restarted(pair).lines("client"))
    came, took = ask(pair)
    assert not came and took < 2 + 6
    line = pair.new_line("client", known)
    assert line["error"] in error and line["reason"] in ("resolve_failed", "connect_timeout"), line
    say(pair.network["b"].v4)
    wait_for("it is asked again, and serves", lambda: ask(pair)[0], 20)


def test_a_lie_leads_to_somebody_who_is_refused(named):
    """The certificate there is a good one, of the same mesh, of somebody else: not a byte goes there."""
    pair, say = named
    say(pair.network["c"].v4)
    known = len(restarted(pair).lines("client"))
    assert not ask(pair)[0]
    line = pair.new_line("client", known)
    assert (line["reason"], line["error"]) == ("peer_identity", "peer_identity")
    assert line["destination"] == f"{pair.network['c'].v4}:{pair.tls_port}" and line["bytes_to_mesh"] == 0
    say(pair.network["b"].v4)
    assert ask(restarted(pair))[0], "the truth"


@pytest.mark.full
def test_a_late_answer_is_an_answer_to_the_next(named):
    """It comes after the connect timeout: that connection is told, a later one has it."""
    pair, say = named
    say("late " + pair.network["b"].v4)
    assert not ask(restarted(pair))[0]
    say(pair.network["b"].v4)
    wait_for("it serves", lambda: ask(pair)[0], 20)
