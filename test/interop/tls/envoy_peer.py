"""Without this Mortise could be a mesh of its own kind only: Envoy stands on either side of a link, in both TLS versions,
with bytes verified both ways, wrong identities refused by either, and certificates rotated live by either.

Drives: B1, F1, F3, F16, R4, R13, R73"""
import hashlib
import os
import socket

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.envoy import Envoy
from test.testlib.static import CLIENT_ID, SERVER_ID, TRUST_DOMAIN, StaticPair, free_port

BOTH = ["TLS1_2", "TLS1_3"]
OTHER_ID = f"spiffe://{TRUST_DOMAIN}/ns/test/sa/other"
NAMES = {"TLS1_2": "TLSv1.2", "TLS1_3": "TLSv1.3"}


class Links(StaticPair):
    """One link through our own server's sidecar, and one to each of Envoy's listeners."""

    TO_ENVOY = ("to-tls1-2", "to-tls1-3", "to-stranger", "to-picky")

    def __init__(self, *args, **kwargs):
        self.mesh_ports = {name: free_port() for name in self.TO_ENVOY}
        self.app_ports = {name: free_port() for name in self.TO_ENVOY}
        super().__init__(*args, **kwargs)

    def config(self, side):
        config = super().config(side)
        if side == "client":
            config["outbound"] = [
                {"name": name, "listen": f"127.0.0.1:{self.app_ports[name]}",
                 "endpoints": [f"127.0.0.1:{self.mesh_ports[name]}"],
                 "peers": {"spiffe_ids": [SERVER_ID]}, "profile": "client", "truststore": "mesh"}
                for name in self.TO_ENVOY]
        return config


@pytest.fixture(scope="module")
def pair(folder, binaries):
    made = Links(folder, binaries)
    made.start()
    with EchoApp(made.target_port):
        yield made
    made.stop()


@pytest.fixture(scope="module")
def envoy(pair):
    """Each of its secrets is one side's identity; "stranger" has a good certificate for another one."""
    made = Envoy(pair.folder)
    made.secret("server", pair.ca.issue(SERVER_ID))
    made.secret("client", pair.ca.issue(CLIENT_ID))
    made.secret("stranger", pair.ca.issue(OTHER_ID))
    made.ports = {name: free_port() for name in (*BOTH, "stranger", "picky")}

    def serve(name, secret, peer_id, version):
        made.serve(name, pair.mesh_ports[name], pair.target_port, secret, pair.roots, peer_id,
                   version)

    def connect(name, secret, peer_id, version):
        made.connect(f"from-{name}", made.ports[name], pair.tls_port, pair.server_name, secret,
                     pair.roots, peer_id, version)

    serve("to-tls1-2", "server", CLIENT_ID, "TLS1_2")
    serve("to-tls1-3", "server", CLIENT_ID, "TLS1_3")
    serve("to-stranger", "stranger", CLIENT_ID, "TLS1_3")
    serve("to-picky", "server", OTHER_ID, "TLS1_3")
    for version in BOTH:
        connect(version, "client", SERVER_ID, version)
    connect("stranger", "stranger", SERVER_ID, "TLS1_3")
    connect("picky", "client", OTHER_ID, "TLS1_3")
    made.start()
    yield made
    made.stop()


def to_envoy(version):
    return "to-" + version.lower().replace("_", "-")


def through(pair, envoy, direction, version):
    """The plaintext port of that way."""
    return pair.app_ports[to_envoy(version)] if direction == "to" else envoy.ports[version]


def verified_bytes(port, size):
    data = os.urandom(size)
    got = exchange(port, data, timeout_s=60)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("direction", ["to", "from"])
def test_bytes_both_ways(pair, envoy, direction, version):
    side = "client" if direction == "to" else "server"
    port = through(pair, envoy, direction, version)
    for size in (1, 16384, 16385, 300_000, 8 << 20):
        known = len(pair.lines(side))
        verified_bytes(port, size)
        line = pair.new_line(side, known, bytes_to_app=size, tls_version=NAMES[version])
        assert line["peer_id"] == (SERVER_ID if direction == "to" else CLIENT_ID)
        assert line["bytes_to_mesh"] == line["bytes_to_app"] == size
        assert line["reason"] == "done"
    name = to_envoy(version) if direction == "to" else f"from-{version}"
    entries = wait_for("Envoy's log", lambda: envoy.lines(name))
    stream = "downstream" if direction == "to" else "upstream"
    assert entries[-1][f"{stream}_version"] == NAMES[version]
    assert entries[-1][f"{stream}_id"] == (CLIENT_ID if direction == "to" else SERVER_ID)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_many_connections_resume_nothing(pair, envoy, direction):
    """Envoy gives tickets as a server and keeps them as a client: each handshake is whole all the same."""
    def reused():
        return {name: value for name, value in envoy.stats().items()
                if name.endswith("ssl.session_reused")}

    for version in BOTH:
        for _ in range(20):
            verified_bytes(through(pair, envoy, direction, version), 100)
    counts = reused()
    assert len(counts) == 8 and set(counts.values()) == {0}, counts


def aborted(port):
    try:
        return exchange(port, b"secret") == b""
    except ConnectionError:
        return True


def counts_more(envoy, stat, before):
    wait_for(f"{stat} counts", lambda: envoy.stats()[stat] > before[stat])


def test_ours_refuses_an_envoy_server_of_another_identity(pair, envoy):
    before = envoy.stats()
    assert aborted(pair.app_ports["to-stranger"])
    pair.new_line("client", link="to-stranger", reason="peer_identity", error="peer_identity")
    counts_more(envoy, "listener.127.0.0.1_%d.ssl.connection_error" % pair.mesh_ports["to-stranger"],
                before)


def test_an_envoy_server_refuses_ours_of_another_identity(pair, envoy):
    before = envoy.stats()
    assert aborted(pair.app_ports["to-picky"])
    counts_more(envoy, "listener.127.0.0.1_%d.ssl.fail_verify_san" % pair.mesh_ports["to-picky"],
                before)
    assert pair.new_line("client", link="to-picky")["reason"] in ("peer_alert", "peer_reset")


def test_ours_refuses_an_envoy_client_of_another_identity(pair, envoy):
    assert aborted(envoy.ports["stranger"])
    pair.new_line("server", reason="peer_identity", error="peer_denied", claimed_id=OTHER_ID)


def test_an_envoy_client_refuses_ours_of_another_identity(pair, envoy):
    before = envoy.stats()
    assert aborted(envoy.ports["picky"])
    counts_more(envoy, "cluster.from-picky-mesh.ssl.fail_verify_san", before)
    pair.new_line("server", peer_id=None, bytes_to_app=0, error="tls_alert")


class Stream:
    """A connection that is open while certificates change, with an exchange whenever asked."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.settimeout(10)
        self.number = 0
        self.exchange()

    def exchange(self):
        self.number += 1
        data = b"%d " % self.number * 5000
        self.sock.sendall(data)
        got = b""
        while len(got) < len(data):
            part = self.sock.recv(len(data) - len(got))
            assert part, "the stream was cut"
            got += part
        assert got == data

    def finish(self):
        self.sock.shutdown(socket.SHUT_WR)
        assert self.sock.recv(1) == b""
        self.sock.close()


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("direction", ["to", "from"])
def test_envoy_rotates_and_ours_sees_it(pair, envoy, direction, version):
    port = through(pair, envoy, direction, version)
    side, secret, spiffe_id = (("client", "server", SERVER_ID) if direction == "to" else
                               ("server", "client", CLIENT_ID))
    stream = Stream(port)
    for _ in range(3):
        fresh = pair.ca.issue(spiffe_id)
        envoy.secret(secret, fresh)

        def met():
            verified_bytes(port, 1000)
            return any(line.get("peer_serial") == fresh.serial for line in pair.lines(side))

        wait_for("ours met the new certificate", met)
        stream.exchange()
    stream.finish()


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("direction", ["to", "from"])
def test_ours_rotates_and_envoy_sees_it(pair, envoy, direction, version):
    port = through(pair, envoy, direction, version)
    side, spiffe_id = ("client", CLIENT_ID) if direction == "to" else ("server", SERVER_ID)
    name, field = ((to_envoy(version), "downstream_subject") if direction == "to" else
                   (f"from-{version}", "upstream_subject"))
    stream = Stream(port)
    for number in range(2):
        subject = f"{side} {version} {number}"
        pair.renew(side, pair.ca.issue(spiffe_id, name=subject))

        def met():
            before = len(envoy.lines(name))
            verified_bytes(port, 1000)
            wait_for("Envoy's line", lambda: len(envoy.lines(name)) > before)
            return envoy.lines(name)[-1][field] == f"CN={subject}"

        wait_for("Envoy met the new certificate", met)
        stream.exchange()
    stream.finish()
