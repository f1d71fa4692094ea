"""Without this an operator reads the access log of every host to see one connection, or a log collector that is away stops
traffic: lines go to syslog without ever waiting for it, and up the control channel, sampled so that both ends tell of the
same connections, in bounded memory and on a bounded disk, whoever is away and whoever lies.

Drives: D6, F18, R71"""
import json
import re
import socket
import subprocess
import sys
import time

import pytest

from deploy.lab.mesh import CONTROL_PORT, TRUST_DOMAIN, Mesh, document
from deploy.lab.programs import Process, wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.fixtures import CONFIG
from test.testlib.held import Held
from test.testlib.odd_sidecar import OddSidecar
from test.testlib.static import StaticPair
from test.testlib.stubs import stubs

MANY = 200 if CONFIG == "opt" else 40
LINK, PORT = "management-portal", 15101
OTHER, OTHER_PORT = "management-gateway", 15102
KEPT = "mortise_control_access_log_entries_total"
LOST = "mortise_access_log_lost_total"

CONNECT = """
import socket, sys
port, number = map(int, sys.argv[1:])
for _ in range(number):
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(10): pass
    except (ConnectionResetError, BrokenPipeError): pass  # by a link whose application is not there; at any time
"""


@pytest.fixture(scope="module")
def disk(folder):
    """A disk of 24 MiB for what the control plane keeps."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def mesh(folder, network, binaries, disk):
    made = Mesh(folder, network, binaries)
    data = made.folder / "control"
    subprocess.run([made.bin.ctl, "init", data, "--trust-domain", TRUST_DOMAIN], check=True, capture_output=True)
    with open(data / "control.yaml", "a", encoding="utf-8") as file:
        file.write(f"access_log_dir: {disk}/log\naccess_log_max_size: 2m\naccess_log_rate: 2000\n")
    apps = Held(made)
    try:
        made.start()
        apps.serve("portal", 8081)
        apps.serve("gateway", 8082)
        yield made
    finally:
        apps.stop()
        made.stop()


def share(mesh, permille, **links):
    """How much goes up: of the mesh, and of links that say it themselves."""
    doc = document()
    doc["settings"] = {"access_log": {"permille": permille}}
    for link in doc["links"]:
        if link["name"] in links:
            link["access_log"] = {"permille": links[link["name"]]}
    mesh.apply(doc, "--prune")
    mesh.wait_in_sync()


def connect(mesh, number, port=PORT, host="management"):
    done = mesh.network[host].run(sys.executable, "-c", CONNECT, str(port), str(number), capture_output=True, text=True,
                                  timeout=120)
    assert done.returncode == 0, done.stderr


def lines(mesh, subsystem, **fields):
    """What the sidecar's own access log has."""
    return [e for e in mesh.sidecar(subsystem).events("connection") if all(e.get(k) == v for k, v in fields.items())]


def mark(mesh):
    return {s: len(lines(mesh, s)) for s in ("management", "portal", "gateway")}


def logs(mesh, *args):
    out = mesh.ctl("logs", *args, "--since", "0s", "-o", "json").stdout
    return [json.loads(line) for line in out.splitlines()]


def ends(entries):
    """Keys that the client's and that the server's side tell."""
    return ({e["key"] for e in entries if e.get("direction") == "outbound" and "key" in e},
            {e["key"] for e in entries if e.get("direction") == "inbound" and "key" in e})


def own(mesh, before, link=LINK):
    """Keys since then in the two sidecars' own logs, which agree."""
    server = link.split("-")[1]

    def agree():
        client = {e["key"] for e in lines(mesh, "management")[before["management"]:] if e.get("link") == link}
        there = {e["key"] for e in lines(mesh, server)[before[server]:] if e.get("link") == link}
        return client == there and client

    return wait_for("both ends have a line for each", agree)


# What goes up.


def test_nothing_goes_up_unless_the_mesh_says_so(mesh, disk):
    connect(mesh, 5)
    before = mesh.control.metrics()
    mesh.ctl("rotate", "portal", "--wait")  # something did come up the same stream, behind it
    assert logs(mesh) == [] and not (disk / "log").exists()
    assert mesh.control.metrics()[f'{KEPT}{{result="kept"}}'] == before[f'{KEPT}{{result="kept"}}'] == 0


def test_all_of_them_from_both_ends(mesh):
    share(mesh, 1000)
    before = mark(mesh)
    connect(mesh, MANY)
    keys = own(mesh, before)
    assert len(keys) == MANY
    wait_for("both ends have told", lambda: ends(logs(mesh, LINK)) == (keys, keys))
    entries = logs(mesh, LINK)
    assert len(entries) == 2 * MANY and len({(e["instance"], e["seq"]) for e in entries}) == 2 * MANY
    line = lines(mesh, "management", link=LINK)[-1]
    client, = [e for e in logs(mesh, "management") if e["key"] == line["key"]]
    server, = [e for e in logs(mesh, "portal") if e["key"] == line["key"]]
    for name in ("direction", "source", "peer_id", "peer_serial", "tls_version", "cipher", "group", "bytes_to_mesh",
                 "duration_ms", "handshake_us", "reason"):
        assert client.get(name, 0) == line[name], name
    assert client["subsystem"] == "management" and client["id"] == line["local_id"] == server["peer_id"]
    assert (client["bytes_to_mesh"], client["bytes_to_app"]) == (server["bytes_to_app"], server["bytes_to_mesh"]) == (1, 1)
    assert {e["key"] for e in logs(mesh, "--connection", line["key"])} == {line["key"]}
    assert len(logs(mesh, "--connection", line["key"])) == 2
    told = mesh.sidecar("portal").metrics()
    assert told["mortise_access_log_told_total"] >= MANY and told[f'{LOST}{{sink="control"}}'] == 0


def test_a_row_for_each_connection(mesh):
    rows = mesh.ctl("logs", LINK, "--since", "0s", "--join").stdout.splitlines()
    assert rows[0].split() == ["TIME", "LINK", "KEY", "CLIENT", "SERVER", "SENT", "RECEIVED", "DURATION", "TLS"]
    assert len(rows) == 1 + MANY
    assert all(re.search(r" management-portal +[0-9a-f]{16} +management: done +portal: done +1 +1 +\d+ms +TLSv1\.3 ", row)
               for row in rows[1:]), rows[:3]
    text = mesh.ctl("logs", "portal", "--since", "0s").stdout.splitlines()
    assert len(text) == MANY and re.search(r"^\S+Z portal \([0-9a-f]{8}\) inbound link=management-portal key=", text[0])


def test_half_of_them_the_same_ones_at_both_ends(mesh):
    share(mesh, 500)
    before = mark(mesh)
    connect(mesh, MANY)
    keys = own(mesh, before)
    wanted = {key for key in keys if int(key, 16) % 1000 < 500}
    assert MANY // 4 < len(wanted) < 3 * MANY // 4
    wait_for("both ends have told of that half", lambda: all(wanted <= side for side in ends(logs(mesh, LINK))))
    assert all(side & (keys - wanted) == set() for side in ends(logs(mesh, LINK)))


def test_a_link_says_it_itself(mesh):
    share(mesh, 0, **{OTHER: 1000})
    before = mark(mesh)
    connect(mesh, 20)
    connect(mesh, 20, OTHER_PORT)
    keys = own(mesh, before, OTHER)
    wait_for("those have come", lambda: ends(logs(mesh, OTHER)) == (keys, keys))
    assert not own(mesh, before) & set.union(*ends(logs(mesh, LINK)))


def test_failures_go_up_whatever_is_picked(mesh):
    """Nobody listens behind analytics."""
    share(mesh, 1)
    before = len(logs(mesh, "management-analytics"))
    connect(mesh, 10, 15103)

    def told():
        new = logs(mesh, "management-analytics")[before:]
        return new if len({e["key"] for e in new if e["subsystem"] == "analytics"}) == 10 else None

    entries = wait_for("each failure is told", told)
    assert {e["error"] for e in entries if e["subsystem"] == "analytics"} == {"connect_refused"}
    assert {e["reason"] for e in entries if e["subsystem"] == "analytics"} == {"connect_failed"}


def test_bad_shares_are_refused_whole(mesh):
    doc = document()
    doc["settings"] = {"access_log": {"permille": 1001}}
    doc["links"][0]["access_log"] = {"permille": 2000}
    version = mesh.version()
    done = mesh.apply(doc, check=False)
    assert done.returncode == 1 and "settings.access_log.permille: 1001 is more than 1000" in done.stderr
    assert "links[0].access_log.permille: 2000 is more than 1000" in done.stderr
    assert mesh.version() == version


# The control plane is away, or its disk is full.


def test_what_ends_while_the_control_plane_is_away_is_told_later(mesh):
    share(mesh, 1000)
    mesh.control.kill()
    mesh.control.stop()
    before = mark(mesh)
    connect(mesh, MANY)
    keys = own(mesh, before)
    old = mesh.control
    mesh.start_control()
    assert mesh.control is not old
    wait_for("both ends have told", lambda: all(keys <= side for side in ends(logs(mesh, LINK))), 60)
    mesh.wait_in_sync()
    assert not [e for e in logs(mesh) if e.get("dropped")]


def test_a_full_disk_costs_entries_and_nothing_else(mesh, disk):
    filler = disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M", "count=23"], check=False, capture_output=True)
    try:
        connect(mesh, 20)
        wait_for("they cannot be written", lambda: mesh.control.metrics()[f'{KEPT}{{result="unwritable"}}'] >= 40)
        assert len(mesh.control.events("not_written")) >= 1
        share(mesh, 1000, **{OTHER: 999})  # changes go on
        assert mesh.control.ready()
    finally:
        filler.unlink()
    share(mesh, 1000)
    before = mark(mesh)
    connect(mesh, 5)
    keys = own(mesh, before)
    wait_for("it goes on", lambda: all(keys <= side for side in ends(logs(mesh, LINK))))
    assert sum(e["dropped"] for e in logs(mesh) if "subsystem" not in e) >= 40
    assert "entries are missing: they could not be written here" in mesh.ctl("logs", "--since", "0s").stdout


# A sidecar that lies, and one that floods.


def entry(pb, seq, **fields):
    return pb.AccessLogEntry(**{"at_ms": int(time.time() * 1000), "seq": seq, "link": LINK, "direction": "inbound",
                                "key": f"{seq:016x}", "reason": "done", **fields})


def test_a_sidecar_speaks_for_itself_alone(mesh):
    odd = OddSidecar(mesh, "portal", "liar", lambda q: [])
    pb = stubs().access_log
    before = mesh.control.metrics()
    try:
        odd.say(access_log=pb.AccessLogBatch(number=1, entries=[
            entry(pb, 1, subsystem="gateway", id="spiffe://mesh.test/ns/apim/sa/gateway", instance="other", dropped=5),
            entry(pb, 2, link=OTHER),                          # gateway's end
            entry(pb, 3, link=OTHER, direction="outbound"),    # management's
            entry(pb, 4, direction="outbound"),                # the other end of its own link
            entry(pb, 5, peer_id="spiffe://x/y\nforged line"),
            entry(pb, 6, claimed_id="\x1b[2J"),
            entry(pb, 7, peer_id="x" * 600),
            entry(pb, 8, key="../../etc"),
            entry(pb, 9, peer_id='"},{"subsystem":"gateway')]))
        kept = wait_for("what is its own is kept", lambda: [
            e for e in logs(mesh) if e.get("instance") == "liar"])
        assert [e["seq"] for e in kept] == [1, 9]
        assert {(e["subsystem"], e["id"]) for e in kept} == {("portal", "spiffe://mesh.test/ns/apim/sa/portal")}
        assert "dropped" not in kept[0] and kept[1]["peer_id"] == '"},{"subsystem":"gateway'
        assert not [e for e in logs(mesh) if e.get("instance") == "other"]
        after = mesh.control.metrics()
        for result, number in (("foreign", 3), ("malformed", 4)):
            series = f'{KEPT}{{result="{result}"}}'
            assert after[series] - before[series] == number
    finally:
        odd.stop()
    wait_for("it is gone", lambda: len(mesh.workloads()) == 4, 30)


def test_a_flood_is_put_off(mesh, disk):
    """A hundred thousand entries as fast as they go: what is honest comes through, and the disk's share is kept."""
    number = 800 if CONFIG == "opt" else 80
    odd = OddSidecar(mesh, "portal", "flood", lambda q: [])
    pb = stubs()
    memory = mesh.control.memory_kib()
    try:
        for i in range(number):
            batch = pb.access_log.AccessLogBatch(number=i + 1, entries=[entry(pb.access_log, i * 128 + j) for j in range(128)])
            odd.out.put(pb.discovery.DiscoveryRequest(access_log=batch).SerializeToString())
        wait_for("it is put off", lambda: mesh.control.metrics()[f'{KEPT}{{result="put_off"}}'] > number * 64, 60)
        began = time.monotonic()
        mesh.ctl("status")
        assert time.monotonic() - began < 5
        before = mark(mesh)
        connect(mesh, 5)
        keys = own(mesh, before)
        wait_for("what is honest comes through", lambda: all(keys <= side for side in ends(logs(mesh, LINK))))
        assert mesh.control.memory_kib() < memory + 32 * 1024
        assert sum(f.stat().st_size for f in (disk / "log").iterdir()) <= 2 << 20
    finally:
        odd.stop()
    wait_for("it is gone", lambda: len(mesh.workloads()) == 4, 30)


def test_a_folder_that_outgrows_its_limit_loses_the_oldest(mesh, disk):
    """What the flood has left is nearly full; some more, and the oldest file is another one."""
    oldest = min(f.name for f in (disk / "log").iterdir())
    for _ in range(40):
        connect(mesh, MANY * 5)
        if min(f.name for f in (disk / "log").iterdir()) > oldest:
            break
    assert min(f.name for f in (disk / "log").iterdir()) > oldest
    assert sum(f.stat().st_size for f in (disk / "log").iterdir()) <= 2 << 20
    assert all(f.stat().st_mode & 0o77 == 0 for f in (disk / "log").iterdir())


# Who reads.


def test_whoever_follows_hears_what_comes_until_his_role_is_another(mesh):
    folder = mesh.folder / "eve"
    mesh.ctl("role", "set", "clerk", "--permissions", "token.create")
    mesh.ctl("admin", "create", "eve", "--role", "viewer", "--out", folder)
    argv = [mesh.bin.ctl, "logs", LINK, "-f", "--since", "1s", "-o", "json", "--server", f"127.0.0.1:{CONTROL_PORT}", "--cert",
            folder / "cert.pem", "--key", folder / "key.pem", "--roots", folder / "roots.pem", "--trust-domain", TRUST_DOMAIN]
    with open(mesh.folder / "followed.jsonl", "wb") as out:
        eve = Process("eve", argv, mesh.folder, mesh.control_host, stdout=out)

        def followed():
            text = open(out.name, "rb").read()
            return ends([json.loads(line) for line in text.splitlines(True) if line.endswith(b"\n")])

        try:
            before = mark(mesh)
            wait_for("he hears", lambda: connect(mesh, 1) or all(followed()))
            connect(mesh, 20)
            keys = own(mesh, before)
            wait_for("he hears of each", lambda: all(len(side & keys) >= 20 for side in followed()))
            mesh.ctl("admin", "bind", "eve", "--role", "clerk")
            assert eve.wait(10) == 1
            assert "mesh.read" in eve.tail()
        finally:
            eve.stop()


# Syslog, and a file that is rotated.


class Syslog:
    """A receiver of datagrams."""

    HEAD = re.compile(r"<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ mortise-proxy \d+ connection - (\{.*\})", re.S)

    def __init__(self, path=None):
        self.path, self.got = path, []
        self.sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
        if path:
            path.unlink(missing_ok=True)
        self.sock.bind(str(path) if path else ("127.0.0.1", 0))
        self.sock.setblocking(False)

    def read(self):
        """(priority, entry) of each so far."""
        while True:
            try:
                text = self.sock.recv(65536).decode()
            except BlockingIOError:
                return self.got
            found = self.HEAD.fullmatch(text)
            assert found, text
            self.got.append((int(found.group(1)), json.loads(found.group(2))))

    def close(self):
        self.sock.close()


@pytest.fixture
def own_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("s")  # a socket's path is short


def started(pair):
    pair.start()
    return EchoApp(pair.target_port)


@pytest.mark.sanitize
def test_syslog_gets_the_lines_of_the_file(own_folder, binaries):
    receiver, file = Syslog(own_folder / "log"), own_folder / "access.jsonl"
    pair = StaticPair(own_folder, binaries, server_settings={
        "access_log": f"{file},syslog:unix:{receiver.path}", "access_log_facility": "local3"})
    try:
        with started(pair):
            assert exchange(pair.app_port) == b"hello"
            (priority, line), = wait_for("it comes", receiver.read)
            assert priority == 19 * 8 + 6 and line["bytes_to_app"] == 5 and line["reason"] == "done"
            assert [{**json.loads(text), "time": ""} for text in file.read_text().splitlines()] == [{**line, "time": ""}]
        # Nobody listens behind it now.
        with pytest.raises(ConnectionError):
            exchange(pair.app_port)
        wait_for("the failure comes", lambda: len(receiver.read()) == 2)
        assert receiver.got[1][0] == 19 * 8 + 4 and receiver.got[1][1]["error"] == "connect_refused"
    finally:
        pair.stop()
        receiver.close()


def test_a_syslog_that_reads_nothing_stops_nobody(own_folder, binaries):
    receiver = Syslog(own_folder / "log")
    pair = StaticPair(own_folder, binaries, server_settings={"access_log": f"syslog:unix:{receiver.path}"})
    try:
        with started(pair):
            slowest = 0
            for _ in range(300):  # a socket takes ten or so
                began = time.monotonic()
                assert exchange(pair.app_port) == b"hello"
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 2
            lost = pair.programs["server"].metrics()[f'{LOST}{{sink="syslog"}}']
            assert lost > 0 and lost + len(receiver.read()) == 300
            receiver.close()  # it is started anew
            assert exchange(pair.app_port) == b"hello"
            again = Syslog(receiver.path)
            wait_for("lines come again", lambda: exchange(pair.app_port) and again.read())
            again.close()
    finally:
        pair.stop()


def test_syslog_over_udp(own_folder, binaries):
    receiver = Syslog()
    port = receiver.sock.getsockname()[1]
    pair = StaticPair(own_folder, binaries, client_settings={"access_log": f"syslog:udp://127.0.0.1:{port}"})
    try:
        with started(pair):
            assert exchange(pair.app_port) == b"hello"
            (priority, line), = wait_for("it comes", receiver.read)
            assert priority == 3 * 8 + 6 and line["direction"] == "outbound" and line["bytes_to_mesh"] == 5
            receiver.close()  # and then nobody is there: what ICMP says stops nobody either
            assert all(exchange(pair.app_port) == b"hello" for _ in range(10))
    finally:
        pair.stop()


def test_a_wrong_target_is_told_at_the_start(own_folder, binaries):
    pair = StaticPair(own_folder, binaries)
    for target, says in (("syslog:udp://host.example:514", "syslog:udp://ADDRESS:PORT"), ("syslog:", "syslog:unix:PATH"),
                         ("a.log,b.log", "two files"), ("off,syslog", "off stands alone")):
        pair.settings["server"]["access_log"] = target
        pair.write("server")
        done = subprocess.run([binaries.proxy, "--config", pair.path("server"), "--check"], capture_output=True, text=True,
                              timeout=20, check=False)
        assert done.returncode == 2 and "--access-log" in done.stderr and says in done.stderr, (target, done.stderr)


def test_a_file_that_is_renamed_is_begun_anew_without_a_signal(own_folder, binaries):
    file, rotated = own_folder / "access.jsonl", own_folder / "access.jsonl.1"
    pair = StaticPair(own_folder, binaries, server_settings={"access_log": str(file)})
    try:
        with started(pair):
            assert exchange(pair.app_port) == b"hello"
            wait_for("its line", lambda: len(file.read_text().splitlines()) == 1)
            file.rename(rotated)
            wait_for("it is there again", file.exists)
            assert exchange(pair.app_port) == b"hello"
            wait_for("its line", lambda: len(file.read_text().splitlines()) == 1)
            assert len(rotated.read_text().splitlines()) == 1
    finally:
        pair.stop()
