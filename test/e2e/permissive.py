"""Without this nobody could bring applications into the mesh one after the other: a link takes plaintext beside mTLS at a port of
its own, until a day that is written down; who still uses it is counted by link; after that day, or when it is taken away, nothing
in plaintext goes in, and what was open ends.

Drives: F11, R2, C3"""
import socket
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest

from deploy.lab.programs import wait_for
from test.testlib import tls_peer
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.held import Held
from test.testlib.static import StaticPair, free_port, rest_of

COUNTED = 'mortise_plaintext_connections_total{link="link"}'


def at(seconds):
    """RFC 3339, so many seconds from now."""
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Pair(StaticPair):
    """The link has a permissive port."""

    def __init__(self, *args, **kwargs):
        self.plain_port, self.until = free_port(), at(3600)
        super().__init__(*args, **kwargs)

    def config(self, side):
        made = super().config(side)
        if side == "server" and self.until is not None:
            made["inbound"]["links"][0]["permissive"] = {"port": self.plain_port, "until": self.until}
        return made

    def change(self, until):
        self.until = until
        known = self["server"].config()["generation"]
        self.write("server")
        wait_for("it is in force", lambda: self["server"].config()["generation"] > known)


@pytest.fixture(scope="module")
def permissive(folder, binaries):
    made = Pair(folder, binaries)
    with EchoApp(made.target_port):
        made.start()
        yield made
        made.stop()


def count(pair):
    return pair["server"].metrics().get(COUNTED, 0)


def dial(port):
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.settimeout(20)
    return sock


@pytest.mark.sanitize
@pytest.mark.parametrize("data", [b"x", b"GET / HTTP/1.0\r\n\r\n", b"\x15\x03\x01\x00\x02", b"\x80\x2e\x01\x03\x01",
                                  b"\0" * 300000], ids=["byte", "http", "alert", "sslv2", "much"])
def test_plaintext_goes_through_and_is_counted(permissive, data):
    before, ports = count(permissive), []
    assert exchange(permissive.plain_port, data, ports=ports) == data
    line = permissive.line("server", ports[0])
    assert line["link"] == "link" and line["reason"] == "done" and line["allowed_by"] == "link" and line["peer"] == "plaintext"
    assert not {"peer_id", "peer_serial", "tls_version", "cipher"} & {key for key, value in line.items() if value}
    assert count(permissive) == before + 1


@pytest.mark.sanitize
def test_mtls_at_the_same_port_is_judged_as_anywhere(permissive):
    before = count(permissive)
    tls_peer.call(permissive.plain_port, tls_peer.context("client", permissive.roots, permissive.paths("client")))
    for bad in (None, permissive.paths("server")):
        with pytest.raises(tls_peer.Refused):
            tls_peer.call(permissive.plain_port, tls_peer.context("client", permissive.roots, bad))
    assert count(permissive) == before


def test_the_mtls_port_takes_no_plaintext(permissive):
    with dial(permissive.tls_port) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"HTTP" not in rest_of(sock)[0]
    permissive.new_line("server", reason="not_tls")


def test_a_server_that_speaks_first_is_heard(permissive):
    """The client waits, too: after some seconds that is plaintext. One that goes without a word never was there."""
    before, known = count(permissive), len(permissive.lines("server"))
    with dial(permissive.plain_port):
        pass
    permissive.new_line("server", known)
    assert count(permissive) == before
    with dial(permissive.plain_port) as sock:
        wait_for("it is taken", lambda: count(permissive) == before + 1)
        sock.sendall(b"late")
        assert sock.recv(4) == b"late"


@pytest.mark.sanitize
def test_what_is_open_ends_when_the_port_is_taken_away(permissive):
    with dial(permissive.plain_port) as plain, dial(permissive.app_port) as mesh:
        for sock in (plain, mesh):
            sock.sendall(b"?")
            assert sock.recv(1) == b"?"
        permissive.change(None)
        assert rest_of(plain)[0] == b""
        permissive.new_line("server", reason="policy")
        mesh.sendall(b"!")
        assert mesh.recv(1) == b"!"
    with pytest.raises(OSError):
        dial(permissive.plain_port)
    assert permissive["server"].metrics()['mortise_permissive_until_timestamp_seconds{link="link"}'] == 0
    permissive.change(at(3600))


@pytest.mark.sanitize
def test_at_its_end_it_takes_mtls_only(permissive):
    permissive.change(at(4))
    end = datetime.strptime(permissive.until, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    assert permissive["server"].metrics()['mortise_permissive_until_timestamp_seconds{link="link"}'] == end
    with dial(permissive.plain_port) as sock:
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"
        assert rest_of(sock)[0] == b""
        assert end - 1 <= time.time() <= end + 5
    wait_for("the end has come", lambda: time.time() > end)
    before, known = count(permissive), len(permissive.lines("server"))
    with dial(permissive.plain_port) as sock:
        sock.sendall(b"?")
        assert rest_of(sock)[0] == b""
    assert permissive.new_line("server", known)["reason"] == "not_tls"
    tls_peer.call(permissive.plain_port, tls_peer.context("client", permissive.roots, permissive.paths("client")))
    assert count(permissive) == before
    permissive.change(at(3600))


def test_a_later_end_is_that_of_what_is_open_too(permissive):
    permissive.change(at(6))
    with dial(permissive.plain_port) as sock:
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"
        end = time.time() + 7
        permissive.change(at(3600))
        wait_for("the first end has passed", lambda: time.time() > end)
        sock.sendall(b"!")
        assert sock.recv(1) == b"!"


def test_a_fault_is_named_and_nothing_changes(permissive):
    """All of them: test/unit/proxy/snapshot_test.c."""
    config = permissive.config("server")
    config["inbound"]["links"][0]["permissive"]["until"] = "tomorrow"
    generation = permissive["server"].config()["generation"]
    permissive.write("server", config)
    refused = wait_for("it is refused", lambda: permissive["server"].events("reload_refused"))[0]
    assert refused["field"] == "inbound.links[0].permissive.until"
    assert refused["reason"] == '"tomorrow" is not a time: wanted is 2026-12-31T23:59:59Z'
    assert permissive["server"].config()["generation"] == generation
    assert exchange(permissive.plain_port) == b"hello"
    config["inbound"]["links"][0]["permissive"]["until"] = at(91 * 86400)
    permissive.write("server", config)
    refused = wait_for("the far end is refused", lambda: permissive["server"].events("reload_refused")[1:])[0]
    assert refused["field"] == "inbound.links[0].permissive.until" and "more than 90 days ahead" in refused["reason"]
    assert permissive["server"].config()["generation"] == generation
    permissive.write("server")


PLAIN = 18081  # at portal


def link(until=None, **more):
    made = {"name": "management-portal", "client": "management", "server": "portal", "client_port": 15101, "server_port": 8081,
            "client_profile": "mesh-client", "server_profile": "mesh-server", **more}
    if until is not None:
        made["permissive"] = {"port": PLAIN, "until": until}
    return made


def apply(mesh, made, *flags, check=False, weaker=False):
    return mesh.apply({"links": [made]}, "--wait", *flags, check=check, weaker=weaker)


def ask(mesh, port=PLAIN):
    """An old client, on management's host, that knows nothing of the mesh."""
    code = ("import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); s.settimeout(10); "
            "s.sendall(b'old'); print(s.recv(3))")
    return mesh.network["management"].run(sys.executable, "-c", code, mesh.network["portal"].v4, str(port), capture_output=True,
                                          text=True, timeout=30)


@pytest.fixture(scope="module")
def held(mesh):
    made = Held(mesh)
    try:
        made.serve("portal", 8081)
        yield made
    finally:
        made.stop()


@pytest.mark.sanitize
def test_from_plaintext_to_strict(mesh, held):
    """The way that an installation goes, with each refusal that keeps it from cutting somebody off."""
    assert "refused" in ask(mesh).stderr
    done = apply(mesh, link("2030-01-01T00:00:00Z"), weaker=True)
    assert done.returncode == 1 and "links[0].permissive.until: 2030-01-01T00:00:00Z is more than 90 days ahead" in done.stderr
    until = at(86400)
    done = apply(mesh, link(until))
    assert done.returncode == 1 and f"link management-portal: plaintext none -> at port {PLAIN} until {until}" in done.stderr
    apply(mesh, link(until), "--allow-weaker", check=True)
    assert ask(mesh).stdout.strip() == "b'old'"

    # Another port is another beginning, although the day stays.
    moved = {**link(until), "permissive": {"port": PLAIN + 1, "until": until}}
    done = apply(mesh, moved)
    assert done.returncode == 1 and f"plaintext at port {PLAIN} to portal:8081 -> at port {PLAIN + 1}" in done.stderr

    # Strict: not while it is used, whichever way it would come.
    ways = [lambda *flags: apply(mesh, link(), *flags),
            lambda *flags: apply(mesh, link(at(-5)), *flags),
            lambda *flags: apply(mesh, moved, "--allow-weaker", *flags),
            lambda *flags: mesh.ctl("delete", "link", "management-portal", *flags, check=False)]
    wait_for("the control plane has heard of it", lambda: "still used" in ways[0]("--dry-run").stderr)
    for way in ways:
        done = way()
        assert done.returncode == 1, (ways.index(way), done.stdout)
        assert "still used" in done.stderr and "--force" in done.stderr
        assert "link management-portal: plaintext was used" in done.stderr
        assert f"last from {mesh.network['management'].v4}:" in done.stderr and "1 times in all" in done.stderr
    assert ask(mesh).stdout.strip() == "b'old'"
    # What goes on, or longer, is no end; nor is a shorter day that is still to come.
    apply(mesh, link(at(86400 * 2)), "--allow-weaker", check=True)
    apply(mesh, link(until, description="later"), check=True)
    assert f"plaintext until {until}" in mesh.ctl("get", "links").stdout
    assert f"plaintext until {until}" in mesh.ctl("check", check=False).stdout

    # A restart of the control plane forgets nobody.
    mesh.control.stop()
    mesh.start_control()
    mesh.wait_in_sync(4)
    done = apply(mesh, link())
    assert done.returncode == 1 and "still used" in done.stderr
    assert mesh.control.metrics()['mortise_control_plaintext_connections{link="management-portal"}'] >= 1
    assert mesh.control.metrics()['mortise_control_plaintext_last_used_timestamp_seconds{link="management-portal"}'] > 0

    # By force: done, and told.
    done = apply(mesh, link(), "--force", check=True)
    assert "strict by force: plaintext was used" in done.stdout
    assert any("strict by force" in str(event) for event in mesh.control.events("weakened"))
    assert "refused" in ask(mesh).stderr
    wait_for("it is forgotten", lambda: 'mortise_control_plaintext_connections{link="management-portal"}'
             not in mesh.control.metrics())
    # Taken up again it begins anew: nobody uses it, so that it may end.
    apply(mesh, link(until), "--allow-weaker", check=True)
    apply(mesh, link(), check=True)


def test_what_is_quiet_for_long_enough_may_end(mesh, held):
    apply(mesh, link(at(3600)), "--allow-weaker", check=True)
    assert ask(mesh).stdout.strip() == "b'old'"
    wait_for("the control plane has heard of it", lambda: "still used" in apply(mesh, link(), "--dry-run").stderr)
    done = mesh.apply({"settings": {"plaintext_quiet_s": 59}}, check=False)
    assert done.returncode == 1 and "settings.plaintext_quiet_s: 59 is not between 60 and 2592000 seconds" in done.stderr
    apply(mesh, link(), "--force", check=True)


def test_who_stays_uses_it_though_nobody_comes(mesh, held):
    """A connection that lasts for days is one use at each moment of them, not one when it was opened."""
    last = 'mortise_control_plaintext_last_used_timestamp_seconds{link="management-portal"}'
    apply(mesh, link(at(3600)), "--allow-weaker", check=True)
    ended = held.hold("portal", PLAIN, 1)
    opened = time.time()
    wait_for("it is a use long after it came", lambda: mesh.control.metrics().get(last, 0) > opened + 10, 90, 0.5)
    assert "1 times in all" in apply(mesh, link(), "--dry-run").stderr and ended() == 0
    apply(mesh, link(), "--force", check=True)
    wait_for("it has ended", lambda: ended() == 1)


def test_only_the_servers_sidecar_is_asked(mesh, held):
    """What listens is a port of portal's host; management's sidecar has none."""
    apply(mesh, link(at(3600)), "--allow-weaker", check=True)
    assert "permissive" not in str(mesh.sidecar("management").config())
    assert f"'port': {PLAIN}" in str(mesh.sidecar("portal").config())
    apply(mesh, link(), check=True)
