"""Without this a key that signs every certificate could be replaced only together with the root that everybody trusts, and one
that may be in other hands could not be cut off without cutting everybody off; nor could the administrators, all at once.

Drives: F5, F6, R38, R41, R42, R46"""
import signal
import subprocess

import pytest

from deploy.lab.mesh import CONTROL_PORT, INBOUND_PORT, document
from deploy.lab.programs import Process, wait_for
from deploy.lab.refusals import probe


@pytest.fixture(autouse=True)
def all_are_there(mesh):
    """After each test each sidecar has its one connection to the control plane, and nobody else has any: one that is just
    about to come back would be missing from what the next test begins with."""
    yield
    wait_for("four connections", lambda: mesh.control.metrics()["mortise_control_connections"] == 4, 60)


def rotation(mesh):
    return mesh.ctl_json("rotate", "status")


def serials(mesh):
    return {w["subsystem"]: w["status"]["certificate_serial"] for w in mesh.workloads()}


@pytest.mark.sanitize
def test_another_issuer_below_the_same_root_under_load(mesh, unharmed):
    before, roots, used = rotation(mesh), mesh.ctl("roots").stdout, serials(mesh)
    said = mesh.ctl("rotate", "issuer", "--wait").stdout
    now = rotation(mesh)
    assert now["stage"] == "idle" and now["kind"] == "issuer"
    assert now["issuer_key_sha256"] != before["issuer_key_sha256"]
    assert now["retired_issuer_key_sha256"] == before["issuer_key_sha256"]
    assert "other_issuer_key_sha256" not in now and now["signing_sha256"] == before["signing_sha256"]
    assert f"revoke issuer {before['issuer_key_sha256']}" in said
    assert mesh.ctl("roots").stdout == roots, "nobody's trust changes"
    assert not set(serials(mesh).values()) & set(used.values()), "every leaf was made anew"
    text = mesh.ctl("rotate", "status").stdout
    assert f"issuer key         {now['issuer_key_sha256']}" in text and "of the issuer: ended" in text


def test_one_rotation_at_a_time_and_each_by_its_name(mesh, unharmed):
    none = mesh.ctl("rotate", "issuer", "--abort", check=False)
    assert none.returncode == 1 and "no rotation of the issuer is under way" in none.stderr
    portal, before = mesh.sidecar("portal"), rotation(mesh)
    portal.signal(signal.SIGSTOP)
    try:
        mesh.ctl("rotate", "issuer")
        state = wait_for("it waits for portal alone", lambda: (
            (s := rotation(mesh))["stage"] == "reissue" and len(s.get("waiting", [])) == 1 and s))
        assert state["waiting"][0]["subsystem"] == "portal"
        assert state["other_issuer_key_sha256"] == before["issuer_key_sha256"]
        for what in ("root", "issuer"):
            again = mesh.ctl("rotate", what, check=False)
            assert again.returncode == 1 and "of the issuer, is under way, stage reissue (3 of 4)" in again.stderr
        other = mesh.ctl("rotate", "root", "--abort", check=False)
        assert other.returncode == 1 and "no rotation of the root is under way" in other.stderr
        live = mesh.ctl("revoke", "issuer", before["issuer_key_sha256"], check=False)
        assert live.returncode == 1 and "rest on that key now" in live.stderr
        mesh.ctl("rotate", "issuer", "--abort")
    finally:
        portal.signal(signal.SIGCONT)
    state = wait_for("it has gone back", lambda: (s := rotation(mesh))["stage"] == "idle" and s)
    assert state["going_back"] and state["issuer_key_sha256"] == before["issuer_key_sha256"]


@pytest.mark.sanitize
def test_an_issuer_in_other_hands_is_cut_off(mesh, traffic):
    """What it has signed is worth nothing from then on; who has renewed notices nothing, or opens a connection again."""
    cert, key = mesh.certificate("management", mesh.folder / "stolen")
    thief = ("portal", f"{mesh.network['portal'].v4}:{INBOUND_PORT}", "--server-name", "management-portal.mortise.internal",
             "--roots", mesh.roots, "--cert", cert, "--key", key)
    seen = probe(mesh, *thief)
    assert seen["error"] == "closed", seen  # let in; the application has no such page and closes in order
    mesh.ctl("rotate", "issuer", "--wait")
    seen = probe(mesh, *thief)
    assert seen["error"] == "closed", seen  # the root still vouches for it
    old = rotation(mesh)["retired_issuer_key_sha256"]
    mesh.ctl("revoke", "issuer", old, "--wait")
    seen = probe(mesh, *thief)
    assert not seen["connected"] and "CERTIFICATE_REVOKED" in seen["error"], seen
    traffic.more(10)
    assert len(mesh.workloads()) == 4
    # Also after the control plane's next life.
    mesh.control.signal(signal.SIGKILL)
    mesh.control.wait(20)
    mesh.start_control()
    mesh.wait_in_sync(4)
    before = traffic.totals()
    traffic.more(5)
    assert all(t["dropped"] == before[link]["dropped"] for link, t in traffic.totals().items())
    again = mesh.ctl("rotate", "issuer", "--wait")
    assert again.returncode == 0 and len(mesh.workloads()) == 4


def shown(mesh):
    """The serial number of the certificate that the control plane shows to who connects now."""
    host = f"127.0.0.1:{CONTROL_PORT}"
    done = mesh.control_host.run("openssl", "s_client", "-connect", host, "-alpn", "h2", input=b"", capture_output=True)
    text = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=done.stdout, check=True, capture_output=True).stdout
    return text.decode().strip().split("=")[1].lower()


@pytest.mark.sanitize
def test_the_control_planes_own_certificate(mesh, unharmed):
    """The streams that are open stay: no sidecar notices."""
    since = {w["instance"]: w["connected_since"] for w in mesh.workloads()}
    before = shown(mesh)
    said = mesh.ctl("rotate", "control").stdout
    after = shown(mesh)
    assert after != before and f"new connections get the certificate {after}" in said
    no = mesh.ctl("revoke", "serial", after, check=False)
    assert no.returncode == 1 and "First `mortisectl rotate control`" in no.stderr
    serials_of = [c["serial"] for c in mesh.ctl_json("get", "certificates")["certificates"] if c["reason"] == "control"]
    assert {before, after} <= set(serials_of)  # in no order, within a second
    assert {w["instance"]: w["connected_since"] for w in mesh.workloads()} == since
    mesh.apply(document(settings={"leaf_ttl_s": 80000}), "--wait")  # over those streams
    assert {w["instance"]: w["connected_since"] for w in mesh.workloads()} == since


@pytest.mark.sanitize
def test_all_administrators_are_cut_off_at_once(mesh):
    def remote(name):
        folder = mesh.folder / name
        return ("--server", f"127.0.0.1:{CONTROL_PORT}", "--cert", folder / "cert.pem", "--key", folder / "key.pem",
                "--roots", mesh.folder / name / "roots.pem", "--trust-domain", "mesh.test")

    for name in ("alice", "bob"):
        mesh.ctl("admin", "create", name, "--out", mesh.folder / name)
        assert mesh.ctl("status", *remote(name)).returncode == 0
    watch = Process("watch", [mesh.bin.ctl, "watch", *remote("bob")], mesh.folder, mesh.control_host)
    wait_for("bob watches", lambda: mesh.token("portal") and "token_created" in watch.tail())
    said = mesh.ctl("rotate", "admin", *remote("alice"))  # she is answered, and is out herself
    assert said.stdout.startswith("epoch 1: every administrator's certificate of before is refused")
    assert watch.wait(20) != 0, "what was open ends, too"

    def refused(name):
        done = mesh.ctl("status", *remote(name), check=False)
        return done.returncode == 1 and "from before the last `rotate admin`" in done.stderr

    assert refused("alice") and refused("bob")
    assert mesh.ctl("status").returncode == 0, "the socket is not touched"
    mesh.ctl("admin", "create", "alice", "--out", mesh.folder / "alice2")
    assert mesh.ctl("status", *remote("alice2")).returncode == 0
    mesh.control.signal(signal.SIGKILL)
    mesh.control.wait(20)
    mesh.start_control()
    assert refused("alice") and refused("bob")
    assert mesh.ctl("status", *remote("alice2")).returncode == 0
    mesh.wait_in_sync(4)
