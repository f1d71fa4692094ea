"""Without this a network as it is out there would corrupt, hang or starve what runs on it: loss, a thin line, small
packets, no IPv4, a peer that is cut off or turns everybody away. Slow is what may become of it, and an end with its
reason; never a wrong byte, never a wait without end, and within a second of its return all is as before.

Sidecars on two hosts, under load. The kernel here has no netem: loss is nft's, the thin line tc's token bucket.

Drives: R13, R15, F1, F12, F18, B5"""
import calendar
import contextlib
import errno
import os
import re
import time

import pytest

from deploy.lab import netns
from deploy.lab.netns import ip
from deploy.lab.programs import Program, wait_for
from deploy.lab.traffic import Traffic
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.load import Load
from test.testlib.static import StaticPair

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="the network is the same for a sanitized build")
LOSSES = (1, 5, 10, 20, 30) if FULL else (5,)
# What may become of a connection when packets are lost.
OF_THE_NETWORK = {"done", "connect_timeout", "handshake_timeout", "connect_failed", "peer_reset",
                  "peer_truncated", "app_reset", "stalled", "shutdown", "drained"}


class HostPair(StaticPair):
    """client sidecar on one host, server sidecar on the other."""

    def __init__(self, folder, binaries, hosts, endpoint, listen="0.0.0.0", loopback="127.0.0.1", **settings):
        self.hosts = dict(zip(("client", "server"), hosts))
        self.endpoint, self.listen, self.loopback = endpoint, listen, loopback
        super().__init__(folder, binaries, client_settings=settings, server_settings=settings)

    def config(self, side):
        made = super().config(side)
        if side == "client":
            made["outbound"][0] |= {"listen": f"{self.loopback}:{self.app_port}",
                                    "endpoints": [f"{self.endpoint}:{self.tls_port}"]}
        else:
            made["inbound"]["listen"] = f"{self.listen}:{self.tls_port}"
            made["inbound"]["links"][0]["target"] = f"{self.loopback}:{self.target_port}"
        return made

    def start(self, *sides, ready=True):
        for side in sides or ("server", "client"):
            self.programs[side] = Program(f"proxy-{side}", [self.bin.proxy, "--config", self.path(side)],
                                          self.folder, self.hosts[side])
            self.programs[side].wait_ready()
        return self


@pytest.fixture(scope="module")
def hosts():
    with netns.Network(f"bn{os.getpid()}-", ("a", "b")) as network:
        yield network["a"], network["b"]


@contextlib.contextmanager
def running(folder, binaries, hosts, name, streams=20, every_ms=10, address="127.0.0.1", **more):
    inside = folder / name
    inside.mkdir()
    more.setdefault("endpoint", hosts[1].v4)
    pair, load = HostPair(inside, binaries, hosts, **more), None
    try:
        pair.start()
        load = Load(inside, pair.app_port, pair.target_port, streams, every_ms, hosts, address)
        yield pair, load.wait_up()
    finally:
        if load is not None:
            load.stop()
        pair.stop()


def tool(host, *args, text=None, check=True):
    done = host.run(*map(str, args), input=text, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{args}: {done.stderr.strip()}")
    return done


@contextlib.contextmanager
def rules(host, *lines):
    """nft rules on what comes in at the host, while it lasts; gives how many packets they have counted. Skipped, loudly, where the kernel has no such thing."""
    done = tool(host, "nft", "-f", "-", check=False, text="\n".join((
        "table inet faults {", "chain in {", "type filter hook input priority 0; policy accept;", *lines, "}", "}", "")))
    if any(why in done.stderr for why in ("not supported", "No such file", "not permitted")):
        pytest.skip(f"NOT TESTED, the kernel has no {lines}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    try:
        yield lambda: sum(map(int, re.findall(
            r"counter packets (\d+)", tool(host, "nft", "list", "table", "inet", "faults").stdout)))
    finally:
        tool(host, "nft", "delete", "table", "inet", "faults")


def seconds(line):
    whole, _, fraction = line["time"].rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def served_again(pair, since):
    """How long after `since` the first connection that came through began, and how long it took."""
    def first():
        return [(seconds(e) - e["duration_ms"] / 1000 - since, e["duration_ms"] / 1000) for e in pair.lines("client")
                if e["reason"] == "done" and seconds(e) - e["duration_ms"] / 1000 > since]

    return min(wait_for("a connection comes through", first, 30))


BULK = """
import hashlib, socket, sys, threading
data = hashlib.shake_128(b"bulk").digest(int(sys.argv[3]))
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as sock:
    sock.settimeout(60)
    def send():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = b"".join(iter(lambda: sock.recv(65536), b""))
sys.exit(0 if got == data else f"{len(got)} bytes, or wrong ones")
"""


def bulk(pair, size):
    tool(pair.hosts["client"], "python3", "-c", BULK, pair.loopback, pair.app_port, size)


@pytest.mark.parametrize("percent", LOSSES)
def test_loss(folder, binaries, hosts, percent):
    """Both ways. Up to 5 % nobody notices but by the clock; beyond, a connection may time out, with its reason."""
    with running(folder, binaries, hosts, f"loss{percent}") as (pair, load):
        lossy = f"iifname eth0 numgen random mod 100 < {percent} counter drop"
        with rules(hosts[0], lossy) as dropped, rules(hosts[1], lossy):
            load.rounds(2 if percent < 20 else 1, 120)
            if percent <= 5:
                bulk(pair, 200_000)
            wait_for("packets are lost", lambda: dropped() > 50 + 20 * percent, 120)
        assert load.long.totals()["corrupted"] == load.short.totals()["corrupted"] == 0
        if percent <= 5:
            load.intact(connections_too=False)
        load.more(timeout_s=120)
        bulk(pair, 1_000_000)
        load.short.process.kill()
        seen = {line["reason"] for side in pair.programs for line in pair.lines(side)}
        assert seen <= OF_THE_NETWORK, seen


@pytest.mark.full
def test_256_kbit(folder, binaries, hosts):
    """More is asked of the line than it carries: it is shared, and memory does not grow with what waits."""
    with running(folder, binaries, hosts, "thin", streams=10, every_ms=250) as (pair, load):
        memory = {side: pair[side].memory_kib() for side in pair.programs}
        shaped = [tool(host, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "256kbit",
                       "burst", "4kb", "latency", "400ms", check=False) for host in hosts]
        try:
            if any(done.returncode for done in shaped):
                pytest.skip(f"NOT TESTED, no token bucket here: {shaped[0].stderr.strip()}")
            began = time.monotonic()
            bulk(pair, 40_000)
            assert time.monotonic() - began > 1, "the line is not thin"
            load.rounds(2, 120)
            for side, was in memory.items():
                assert pair[side].memory_kib() < was + 4096, side
        finally:
            for host in hosts:
                tool(host, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
        load.more(timeout_s=120)
        bulk(pair, 1_000_000)
        load.intact(connections_too=False)


def test_packets_of_576_bytes(folder, binaries, hosts):
    """IPv4, that is; at an IPv6 listener, so that addresses are mapped ones."""
    for host in hosts:
        ip("-n", host.netns, "link", "set", "eth0", "mtu", "576")
    try:
        with running(folder, binaries, hosts, "small", listen="[::]") as (pair, load):
            bulk(pair, 1_000_000)
            load.more()
            load.finish()
            assert hosts[0].v4 in pair.lines("server")[-1]["source"]
    finally:
        for host in hosts:
            ip("-n", host.netns, "link", "set", "eth0", "mtu", "1500")
            ip("-n", host.netns, "addr", "replace", f"{host.v6}/64", "dev", "eth0", "nodad")


def test_ipv6_alone(folder, binaries, hosts):
    """No IPv4 address on either host, not even on loopback."""
    for host in hosts:
        ip("-n", host.netns, "addr", "flush", "dev", "eth0", "scope", "global")
        ip("-n", host.netns, "addr", "add", f"{host.v6}/64", "dev", "eth0", "nodad")
        ip("-n", host.netns, "-4", "addr", "flush", "dev", "lo")
    try:
        with running(folder, binaries, hosts, "six", address="::1", endpoint=f"[{hosts[1].v6}]",
                     listen="[::]", loopback="[::1]") as (pair, load):
            assert not ip("-n", hosts[0].netns, "-4", "addr").strip()
            load.more()
            load.finish()
            assert pair.lines("server")[-1]["source"].startswith(f"[{hosts[0].v6}]:")
    finally:
        for host in hosts:
            ip("-n", host.netns, "addr", "add", f"{host.v4}/24", "dev", "eth0")
            ip("-n", host.netns, "addr", "add", "127.0.0.1/8", "dev", "lo")


SYN = "tcp flags & (syn | ack) == syn"
CUT = {"blackholed": ("{dport} drop", "connect_timeout", "connect_timeout"),
       "turned away": (SYN + " {dport} reject with tcp reset", "connect_failed", "connect_refused"),
       "forbidden": (SYN + " {dport} reject with icmpx admin-prohibited", "connect_failed", "connect_failed"),
       "no route": (None, "connect_failed", "connect_failed")}


@pytest.mark.parametrize("how", CUT if FULL else ["blackholed"])
def test_a_peer_that_is_cut_off_and_comes_back(folder, binaries, hosts, how):
    """New connections end with the reason within the connect timeout, open ones wait and go on; within a second of
    the peer's return connections come through again."""
    rule, reason, error = CUT[how]
    with running(folder, binaries, hosts, f"cut-{how.replace(' ', '-')}", connect_timeout="1s") as (pair, load):
        with contextlib.ExitStack() as cut:
            if rule is None:
                ip("-n", hosts[0].netns, "route", "add", "unreachable", hosts[1].v4)
                cut.callback(ip, "-n", hosts[0].netns, "route", "del", "unreachable", hosts[1].v4)
            else:
                cut.enter_context(rules(hosts[1], rule.format(dport=f"tcp dport {pair.tls_port}")))
            since = time.time()
            wait_for("it is told", lambda: sum(e["reason"] == reason and e["error"] == error
                                               for e in pair.lines("client")) >= 5, 30)
            failed = [e for e in pair.lines("client") if e["reason"] == reason]
            assert all(e["duration_ms"] < 3000 for e in failed), "connect_timeout is 1 s"
            counted = pair["client"].metrics()[f'mortise_connect_errors_total{{direction="outbound",'
                                               f'link="{pair.LINK}",error="{error}"}}']
            assert counted >= 5
            assert not [e for e in pair.lines("client") if e["reason"] == "done" and
                        seconds(e) - e["duration_ms"] / 1000 > since + 0.1]
        began, took = served_again(pair, time.time())
        assert began < 1 and took < 2, (began, took)
        load.more(timeout_s=120)
        # The streams have waited. ("no route" breaks TCP itself when it retransmits.)
        if how != "no route":
            load.intact(connections_too=False)


def test_a_peer_that_never_comes_back(folder, binaries, hosts):
    """The kernel gives up what it sends again and again; that is the other side's loss, not a name's or a defect."""
    retries = "/proc/sys/net/ipv4/tcp_retries2"
    before = hosts[0].run("cat", retries, capture_output=True, text=True).stdout.strip()
    tool(hosts[0], "sh", "-c", f"echo 3 > {retries}")
    try:
        with running(folder, binaries, hosts, "gone", streams=4, connect_timeout="1s") as (pair, load):
            load.rounds(1, 60)
            with rules(hosts[1], f"tcp dport {pair.tls_port} drop"):
                given_up = wait_for("it is given up", lambda: [
                    e for e in pair.lines("client") if e.get("error_sub") == errno.ETIMEDOUT], 60)
            assert {(e["reason"], e["error"]) for e in given_up} == {("peer_reset", "peer_reset")}
            seen = {e["reason"] for e in pair.lines("client")}
            assert seen <= OF_THE_NETWORK, seen
    finally:
        tool(hosts[0], "sh", "-c", f"echo {before} > {retries}")


# The control channel.


def test_the_control_channel_under_loss_and_cut_one_way(mesh, network):
    """Rotations come through a tenth lost; and after a time in which a sidecar hears nothing it is in step again.
    Traffic goes on throughout."""
    traffic = Traffic(mesh).serve()
    try:
        traffic.drive()
        host, program = network["management"], mesh.sidecar("management")
        serial = program.config()["identity"]["serial"]
        with rules(host, f"ip saddr {network['control'].v4} numgen random mod 100 < 10 drop"):
            for _ in range(3):
                mesh.ctl("rotate", "management", "--wait", timeout_s=120)
        assert program.config()["identity"]["serial"] != serial
        with rules(host, f"ip saddr {network['control'].v4} drop"):
            mesh.ctl("rotate", "management")
            traffic.more(20)
        now = program.config()["identity"]["serial"]
        wait_for("it has heard", lambda: program.config()["identity"]["serial"] != now, 120)
        mesh.ctl("rotate", "management", "--wait", timeout_s=120)
        mesh.wait_in_sync(4)
        traffic.finish()
        assert traffic.losses() == []
    finally:
        traffic.stop()
