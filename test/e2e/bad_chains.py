"""Without this a certificate that is almost right could get in, or a giant one could stop a sidecar. Every row of
test/testlib/bad_chains.py is shown to the inbound side by a client and to the outbound side by a
server, in TLS 1.2 and in TLS 1.3, by peers that can show any bytes and that send application data as
early as they can: each is refused with its alert on the wire and its error and reason in the access
log and in the metrics, no byte gets through in either direction, and the good twins pass.

Drives: B3, D2, F1, F12, R3, R5, R6, R9, R13, R16, R62"""
import json
import socket
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.lab.programs import LabError, wait_for
from test.testlib import der
from test.testlib.bad_chains import CHAINS
from test.testlib.echo_app import EchoApp
from test.testlib.fixtures import CONFIG
from test.testlib.forge import EMAIL, SERVER, World, basic, eku, key, make_roots, names, uri
from test.testlib.pki import pem_of_key
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port
from test.testlib.tls_bare import Outcome, Shown, client, server
from test.testlib.tls_raw import TLS12, TLS13

LANES = 4
VERSIONS = {"TLS1_2": TLS12, "TLS1_3": TLS13}
SIDES = {True: "server", False: "client"}  # the sidecar that judges, by inbound
FROM_PEER, FROM_APP = b"out of the mesh", b"out of the application"
GIANTS = [row for row in CHAINS if row.group == "giants" and (row.error or row.at)]


@dataclass
class Seen:
    """One handshake: what the peer saw, the port that the access log knows it by, what the application got of
    an outbound one, and the access log's line."""
    peer: Outcome
    port: int
    app: bytes = b""
    app_reset: bool = False
    line: dict = None


class Lane(StaticPair):
    """A server sidecar to be called, and a client sidecar whose server is played here. Several share the work:
    each may log only so many refusals a second."""

    LOG_LINES, LOG_LINES_PER_S = 45, 18  # a little less than what the log lets through

    def __init__(self, folder, binaries, roots):
        folder.mkdir()
        self.peer_port = free_port()
        super().__init__(folder, binaries)
        with open(self.roots, "ab") as out:
            for one in roots.values():
                out.write(der.pem("CERTIFICATE", one.cert))
        self.worlds = {True: World(roots, True, CLIENT_ID, SERVER_ID),
                       False: World(roots, False, SERVER_ID, CLIENT_ID)}
        self.refusals, self.began = Counter(), time.monotonic()
        self.listener = socket.create_server(("127.0.0.1", self.peer_port), backlog=64)
        self.listener.settimeout(10)
        self.app = EchoApp(self.target_port)
        self.start()
        self.before = {side: self[side].metrics() for side in SIDES.values()}

    def config(self, side):
        made = super().config(side)
        if side == "client":
            made["outbound"][0]["endpoints"] = [f"127.0.0.1:{self.peer_port}"]
        return made

    def pace(self, side):
        self.refusals[side] += 1
        due = self.began + (self.refusals[side] - self.LOG_LINES) / self.LOG_LINES_PER_S
        wait_for("the log takes a line", lambda: time.monotonic() >= due)

    def show(self, row, inbound, version):
        """The row's chain to that side; Seen."""
        shown = row.make(self.worlds[inbound])
        return (self.call if inbound else self.serve)(shown, VERSIONS[version])

    def call(self, shown, version):
        with socket.create_connection(("127.0.0.1", self.tls_port), 10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            port = sock.getsockname()[1]
            return Seen(client(sock, version, shown, self.server_name, FROM_PEER), port)

    def serve(self, shown, version):
        with socket.create_connection(("127.0.0.1", self.app_port), 10) as app:
            app.sendall(FROM_APP)
            port = app.getsockname()[1]
            with self.listener.accept()[0] as sock:
                sock.settimeout(10)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                seen = Seen(server(sock, version, shown, FROM_PEER, len(FROM_APP)), port)
                try:
                    while len(seen.app) < len(FROM_PEER) and (part := app.recv(1 << 16)):
                        seen.app += part
                except ConnectionResetError:
                    seen.app_reset = True
                return seen

    def counted(self, side, family):
        """What that side counted since it began, by result or reason, of the direction that is tested."""
        direction = "inbound" if side == "server" else "outbound"
        found = Counter()
        for series, value in self[side].metrics().items():
            more = value - self.before[side].get(series, 0)
            if series.startswith(f'{family}{{direction="{direction}"') and more:
                found[series.rsplit('"', 2)[1]] += int(more)
        return found

    def stop(self):
        self.listener.close()
        self.app.close()
        super().stop()


class Campaign:
    def __init__(self, lanes):
        self.lanes, self.seen = lanes, {}
        self.expected = {(lane, side): [] for lane in lanes for side in SIDES.values()}

    def run(self):
        for number, row in enumerate(CHAINS):
            lane = self.lanes[number % len(self.lanes)]
            for inbound, side in SIDES.items():
                for version in VERSIONS:
                    refused = row.error or row.at
                    if refused:
                        lane.pace(side)
                    self.expected[lane, side].append(
                        row.expected(inbound, version) if refused else None)
                    self.seen[row.group, row.name, inbound, version] = lane.show(row, inbound, version)
        for lane in self.lanes:
            for inbound, side in SIDES.items():
                self._read_log(lane, side, inbound)

    def _read_log(self, lane, side, inbound):
        """Ties the lines to what they are about, by port; a port may have come twice."""
        mine = [self.seen[row.group, row.name, inbound, version]
                for row in CHAINS[self.lanes.index(lane)::len(self.lanes)] for version in VERSIONS]

        def by_port():
            found = {}
            for line in lane.lines(side):
                found.setdefault(line["source"], []).append(line)
            return found

        def all_there():
            found = by_port()
            return all(len(found.get(f"127.0.0.1:{port}", ())) >= num for port, num in
                       Counter(seen.port for seen in mine).items())

        try:
            wait_for("all lines", all_there, 10)
        except LabError:
            pass  # the tests tell of which there is none
        found = by_port()
        for seen in mine:
            lines = found.get(f"127.0.0.1:{seen.port}")
            seen.line = lines.pop(0) if lines else {}


@pytest.fixture(scope="module")
def lanes(folder, binaries):
    roots, made = make_roots(), []
    try:
        for number in range(LANES):
            made.append(Lane(folder / str(number), binaries, roots))
        yield made
    finally:
        for lane in made:
            lane.stop()


@pytest.fixture(scope="module")
def campaign(lanes):
    made = Campaign(lanes)
    made.run()
    return made


def faults(row, seen, inbound, version):
    """What is not as it should be, as text."""
    line, wrong = seen.line, []

    def check(what, got, want):
        if got != want:
            wrong.append(f"{what}: {got!r}, not {want!r}")

    if row.error is None and not row.at:
        check("came to the peer", seen.peer.data, FROM_PEER if inbound else FROM_APP)
        check("came to the application", seen.app, b"" if inbound else FROM_PEER)
        check("alert", seen.peer.alert, None)
        check("allowed by", line.get("allowed_by"), "link")
    else:
        error, alert, reason = row.expected(inbound, version)
        check("alert", seen.peer.alert, alert)
        check("error", line.get("error"), error)
        check("reason", line.get("reason"), reason)
        check("came to the peer", seen.peer.data, b"")
        check("came to the application", seen.app, b"")
        check("application's connection reset", seen.app_reset, not inbound)
        check("bytes in the log", (line.get("bytes_to_mesh"), line.get("bytes_to_app")), (0, 0))
        check("allowed by", line.get("allowed_by"), None)
    where = f"{row.name}, {'inbound' if inbound else 'outbound'} {version}"
    return [f"{where}: {one} ({seen.peer.why}; {line.get('error')} {line.get('error_sub')})"
            for one in wrong]


def test_there_are_enough_of_them():
    bad = [row for row in CHAINS if row.error or row.at]
    assert len(bad) >= 200
    assert len({(row.group, row.name) for row in CHAINS}) == len(CHAINS)
    good = {row.group for row in CHAINS if row not in bad}
    assert {row.group for row in bad} == good  # each has its twins


@pytest.mark.sanitize
@pytest.mark.parametrize("group", dict.fromkeys(row.group for row in CHAINS))
def test_chains(campaign, group):
    """Both roles, both versions: alert, error, reason, and no byte; or, of a good twin, all bytes."""
    wrong = [fault for row in CHAINS if row.group == group
             for inbound in SIDES for version in VERSIONS
             for fault in faults(row, campaign.seen[row.group, row.name, inbound, version], inbound,
                                 version)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.sanitize
def test_metrics_say_the_same(campaign):
    """Each refusal is counted once under its error and once under its reason, each good one as such."""
    for (lane, side), expected in campaign.expected.items():
        errors = Counter(one[0] if one else "ok" for one in expected)
        reasons = Counter(one[2] if one else "done" for one in expected)
        assert lane.counted(side, "mortise_handshakes_total") == errors
        counted = lane.counted(side, "mortise_connections_total")
        # How a good connection ends is the peer's business, which just closes here.
        assert {k: v for k, v in counted.items() if k in reasons and k != "done"} == \
            {k: v for k, v in reasons.items() if k != "done"}
        assert sum(counted.values()) == len(expected)


@pytest.mark.sanitize
def test_only_good_ones_reached_the_application(campaign):
    for lane in campaign.lanes:
        passed = campaign.expected[lane, "server"].count(None)
        assert lane.app.connections == passed
        assert lane.app.bytes == passed * len(FROM_PEER)


def test_the_log_tells_how_late(campaign):
    """How long ago it expired, or how long it is until it begins: with the time of the line that is the date."""
    def told(name, inbound):
        return campaign.seen["dates", name, inbound, "TLS1_3"].line["error_sub"]

    for inbound in SIDES:
        assert 60 <= told("expired a minute ago", inbound) <= 120
        assert 240 <= told("valid in five minutes", inbound) <= 300


def test_every_flipped_bit_is_noticed(campaign):
    """Everything in a certificate is signed, or is the signature."""
    lane = campaign.lanes[0]
    shown = lane.worlds[True].leaf()
    reached, good = lane.app.connections, shown.certs[0]
    for bit in range(0, len(good) * 8, 41):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        seen = lane.call(Shown([bytes(flipped)], shown.key), TLS13)
        assert seen.peer.alert is not None and seen.peer.data == b"", bit
    assert lane.app.connections == reached
    assert lane.call(shown, TLS13).peer.data == FROM_PEER


def on_cpu_s(pid):
    """Seconds that its threads ran, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def peak_kib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(CONFIG != "opt", reason="CPU time and memory of a sanitized build say nothing")
def test_giants_cost_little_and_hold_nothing(campaign):
    """At most 50 ms of CPU each, memory at its peak but a little above what it was, nothing kept."""
    lane, num, told = campaign.lanes[0], 5, []
    for row in GIANTS:
        for inbound, side in SIDES.items():
            program = lane[side]
            shown = row.make(lane.worlds[inbound])
            once = lane.call if inbound else lane.serve
            once(shown, TLS12), once(shown, TLS13)
            Path(f"/proc/{program.pid}/clear_refs").write_text("5")  # the peak begins anew
            peak, kept, spent = peak_kib(program.pid), program.memory_kib(), on_cpu_s(program.pid)
            for number in range(num):
                once(shown, TLS13 if number % 2 else TLS12)
            told.append((row.name, "inbound" if inbound else "outbound",
                         (on_cpu_s(program.pid) - spent) / num * 1e3, peak_kib(program.pid) - peak,
                         program.memory_kib() - kept))
    for name, role, ms, peak, kept in told:
        print(f"{name:40} {role:8} {ms:6.2f} ms, peak {peak:+5} KiB, kept {kept:+5} KiB")
    assert max(one[2] for one in told) <= 50
    assert max(one[3] for one in told) <= 1024
    assert max(one[4] for one in told) <= 256


# As one's own, in a file: said with the field, and nothing starts.

CONFIGURED = {
    "expired": (lambda w: w.leaf(begins_s=-7200, ends_s=-60), "cert_file", "expired"),
    "not yet valid": (lambda w: w.leaf(begins_s=600), "cert_file", "cert_not_yet_valid"),
    "intermediate expired": (lambda w: w.below({"begins_s": -7200, "ends_s": -60}), "cert_file",
                             "expired"),
    "no names": (lambda w: w.leaf(names=None), "cert_file", "san_none"),
    "two identities": (lambda w: w.leaf(uri(w.id), uri(w.other_id)), "cert_file", "san_multiple"),
    "no SPIFFE ID": (lambda w: w.leaf(uri("https://example.test/")), "cert_file", "san_syntax"),
    "a CA": (lambda w: w.leaf(basic=basic(True)), "cert_file", "chain_invalid"),
    "no KeyUsage": (lambda w: w.leaf(usage=None), "cert_file", "cert_usage"),
    "for e-mail": (lambda w: w.leaf(eku=eku(EMAIL)), "cert_file", "cert_usage"),
    "for one role only": (lambda w: w.leaf(eku=eku(SERVER)), "cert_file", "cert_usage"),
    "RSA 1024": (lambda w: w.leaf(kind="rsa1024"), "cert_file", "key_weak"),
    "P-224": (lambda w: w.leaf(kind="p224"), "cert_file", "key_weak"),
    "Ed25519": (lambda w: w.leaf(kind="ed25519"), "cert_file", "key_weak"),
    "signed with SHA-1": (lambda w: w.leaf(algorithm="ecdsa-sha1"), "cert_file",
                          "cert_weak_signature"),
    "serial 0": (lambda w: w.leaf(serial=der.integer(0)), "cert_file", "cert_syntax"),
    "an extension twice": (lambda w: w.leaf(more=[names(uri(w.id))]), "cert_file", "cert_syntax"),
    "not DER": (lambda w: w.leaf(whole=lambda made: made[:-1]), "cert_file", "cert_syntax"),
    "another key": (lambda w: Shown(w.leaf().certs, key("p256", 60)), "key_file",
                    "do not belong together"),
    "a stranger's CA among them": (lambda w: w.leaf(chain=[w.roots["short"].cert, w.below(
        {}).certs[1]]), "cert_file", "chain_invalid"),
    "six": (lambda w: w.below({}, {}, {}, {}, {}), "cert_file", "chain_too_long"),
}


def check_configured(lane, shown):
    """What --check says of a server that would show this: (exit status, text)."""
    folder = lane.folder / "configured"
    folder.mkdir(exist_ok=True)
    (folder / "server.pem").write_bytes(b"".join(
        der.pem("CERTIFICATE", one) for one in shown.certs))
    (folder / "server.key").touch(mode=0o600)
    (folder / "server.key").write_bytes(pem_of_key(shown.key))
    (folder / "roots.pem").write_bytes(lane.roots.read_bytes())
    (folder / "server.yaml").write_text(json.dumps(lane.config("server")))
    done = subprocess.run([lane.bin.proxy, "--config", folder / "server.yaml", "--check"],
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_configured(lanes):
    for what, (make, field, why) in CONFIGURED.items():
        status, text = check_configured(lanes[0], make(lanes[0].worlds[False]))
        lines = [line for line in text.splitlines() if f"identity.{field}" in line]
        assert status != 0 and len(lines) == 1 and why in lines[0], f"{what}: {text}"


def test_configured_good(lanes):
    world = lanes[0].worlds[False]
    for made in (world.leaf(), world.below({}, {}), world.leaf(kind="rsa2048")):
        assert check_configured(lanes[0], made)[0] == 0
