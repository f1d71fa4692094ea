"""Without this nobody knows whether the product does its job: four subsystems that speak plaintext exchange
verified bytes over all four links, and nothing of it is readable where hosts are joined.

Drives: F1, F10, A9, D2, B5, F2, F4, A1"""
import subprocess

import pytest

from deploy.lab.mesh import LINKS, NAMESPACE, SUBSYSTEMS, TRUST_DOMAIN
from deploy.lab.programs import wait_for
from deploy.lab.traffic import Traffic

# What the applications say in the clear; the names of links are not among it (SNI shows them).
MARKS = (b"HTTP/1.1", b"Content-Length", b"POST /", b"220 analytics ready", b"EVENT ", b"UPLOAD ")


@pytest.fixture(scope="module")
def traffic(mesh):
    made = Traffic(mesh).serve()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def capture(mesh, network):
    path = mesh.folder / "wire.pcap"
    tool = subprocess.Popen(["ip", "netns", "exec", network.wire, "tcpdump", "-i", "br0", "-U", "-s",
                             "0", "-w", str(path)], stderr=subprocess.PIPE)
    wait_for("tcpdump listens", lambda: path.exists() and path.stat().st_size >= 24)
    yield path
    tool.kill()


def test_every_link_carries_verified_bytes(mesh, capture, traffic):
    traffic.drive()
    traffic.more(50)
    totals = traffic.finish()
    assert traffic.losses() == []
    assert set(totals) == {link[0] for link in LINKS}
    assert all(t["bytes"] > 100_000 for t in totals.values())


def test_no_application_byte_crosses_the_bridge_in_the_clear(mesh, capture):
    wait_for("the capture holds the traffic", lambda: capture.stat().st_size > 1_000_000)
    seen = capture.read_bytes()
    assert [mark for mark in MARKS if mark in seen] == []


def test_the_capture_would_see_plaintext(mesh, network, capture):
    """The adversarial twin: the same capture finds a mark that does cross in the clear."""
    before = capture.stat().st_size
    server = network["portal"].command("python3", "-c", (
        "import socket;s=socket.create_server(('0.0.0.0',8999));print('up',flush=True);"
        "c,_=s.accept();c.recv(100)"))
    child = subprocess.Popen(server, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    network["management"].run("python3", "-c", (
        "import socket;s=socket.create_connection(('%s',8999));s.sendall(b'POST /clear HTTP/1.1')"
        % network["portal"].v4), check=True)
    child.wait(10)
    wait_for("the capture shows it", lambda: b"POST /clear" in capture.read_bytes()[before:])


def test_each_sidecar_has_its_own_identity(mesh):
    for name in SUBSYSTEMS:
        identity = mesh.sidecar(name).config()["identity"]
        assert identity["spiffe_id"] == f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{name}"


def test_access_log_tells_both_identities_and_why_it_was_allowed(mesh):
    entries = [e for e in mesh.sidecar("portal").events("connection")
               if e.get("link") == "management-portal"]
    assert entries
    entry = entries[-1]
    assert entry["direction"] == "inbound"
    assert entry["peer_id"] == f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/management"
    assert entry["local_id"] == f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/portal"
    assert entry["tls_version"] == "TLSv1.3"
    for field in ("peer_serial", "cipher", "group", "allowed_by", "reason", "duration_ms"):
        assert entry.get(field) not in (None, ""), field
