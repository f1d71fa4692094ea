"""Without this what the mesh denies would be known to its own sidecars alone, and a CA whose key is elsewhere could take no
certificate back: the lists that the control plane publishes, as OpenSSL and a sidecar without control plane understand
them, and lists that an operator hands in, while the root and the issuer are rotated below the traffic.

Drives: F6, R7, R42, F5, E1"""
import json
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import LabError, wait_for
from test.testlib.control import LoneControl
from test.testlib.echo_app import EchoApp
from test.testlib.openssl_crl import put
from test.testlib.static import StaticPair, free_port

DOMAIN = LoneControl.TRUST_DOMAIN
CLIENT_ID = f"spiffe://{DOMAIN}/ns/default/sa/gateway"
SERVER_ID = f"spiffe://{DOMAIN}/ns/default/sa/portal"


def openssl(*args, check=True):
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=60, check=check)


class Published(LoneControl):
    """A control plane and the files that somebody else's tools need to check its certificates."""

    def start(self):
        self.http = free_port()
        super().start("--metrics-listen", f"127.0.0.1:{self.http}")
        (self.folder / "roots.pem").write_text(self.ctl("roots"))
        return self

    def certificate(self, subsystem):
        folder = self.folder / subsystem
        self.ctl("certificate", subsystem, "--server", f"127.0.0.1:{self.port}", "--out", folder)
        return folder

    def crls(self):
        """The list of the root and that of the issuing CA."""
        made = json.loads(self.ctl("get", "crl", "-o", "json"))["crls"]
        by = {"root" if "Root" in c["issuer"] else "issuing": c for c in made}
        assert len(made) == 2 and len(by) == 2, made
        return by

    def fetch(self, key, end=".crl"):
        url = f"http://127.0.0.1:{self.http}/crl/{key}{end}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.headers["Content-Type"], reply.read()

    def write(self):
        """Both lists as files; as one PEM file for OpenSSL, too."""
        text = ""
        for name, crl in self.crls().items():
            kind, der = self.fetch(crl["issuer_key_sha256"])
            assert kind == "application/pkix-crl"
            put(self.folder / f"{name}.crl", der)
            text += openssl("crl", "-inform", "DER", "-in", self.folder / f"{name}.crl").stdout
        (self.folder / "both.pem").write_text(text)

    def verify(self, folder):
        """What `openssl verify` says of a certificate with all lists."""
        self.write()
        done = openssl("verify", "-crl_check_all", "-x509_strict", "-CAfile", self.folder / "roots.pem", "-CRLfile",
                       self.folder / "both.pem", "-untrusted", folder / "cert.pem", folder / "cert.pem", check=False)
        return done.stdout + done.stderr

    def entries(self, number):
        return wait_for(f"{number} entries", lambda: int(self.crls()["issuing"].get("entries", 0)) == number)


@pytest.fixture
def control(folder, binaries):
    made = folder / "c"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    made = Published(made, binaries).start()
    yield made
    made.stop()


def test_openssl_understands_what_is_published(control):
    portal, gateway = control.certificate("portal"), control.certificate("gateway")
    assert "OK" in control.verify(portal) and "OK" in control.verify(gateway)
    first = control.crls()
    control.ctl("revoke", "subsystem", "portal")
    control.entries(1)
    assert "certificate revoked" in control.verify(portal)
    assert "OK" in control.verify(gateway)
    now = control.crls()
    assert int(now["issuing"]["number"]) > int(first["issuing"]["number"])
    assert now["root"] == first["root"]  # it has nothing new to say
    # Another process says the same, under the same number.
    control.program.stop()
    control.start()
    assert control.crls() == now
    assert "certificate revoked" in control.verify(portal)
    control.ctl("lift", "1")
    control.entries(0)
    assert "OK" in control.verify(portal)
    text = openssl("crl", "-inform", "DER", "-in", control.folder / "issuing.crl", "-noout", "-text").stdout
    assert "Version 2" in text and "X509v3 CRL Number" in text and "X509v3 Authority Key Identifier" in text, text
    assert control.program.metrics()["mortise_control_crl_next_update_timestamp_seconds"] == min(
        int(c["next_update"]) for c in control.crls().values())


def test_a_list_is_found_by_its_issuers_key_alone(control):
    key = control.crls()["issuing"]["issuer_key_sha256"]
    out = control.folder / "out.crl"
    control.ctl("get", "crl", "--issuer", key, "--file", out)
    assert out.read_bytes() == control.fetch(key)[1]
    for wrong, end in ((key[:-1], ".crl"), (key, ""), (key, ".pem"), ("0" * 64, ".crl"), ("..", ".crl"), (key + "0", ".crl")):
        with pytest.raises(urllib.error.HTTPError) as said:
            control.fetch(wrong, end)
        assert said.value.code == 404
    with pytest.raises(subprocess.CalledProcessError) as refused:
        control.ctl("get", "crl", "--issuer", "0" * 64)
    assert "no list of a CA with that key" in refused.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as refused:
        control.ctl("get", "crl", "--file", out)
    assert refused.value.returncode == 2


class Outside(StaticPair):
    """Sidecars without control plane, with certificates of the mesh and its published lists as files."""

    def __init__(self, folder, binaries, control):
        self.control, self.listed = control, False
        super().__init__(folder, binaries)
        for side, subsystem in (("client", "gateway"), ("server", "portal")):
            made = control.certificate(subsystem)
            put(self.folder / f"{side}.pem", (made / "cert.pem").read_bytes())
            key = self.folder / f"{side}.key"
            key.unlink()
            shutil.copy(made / "key.pem", key)
        put(self.roots, (control.folder / "roots.pem").read_bytes())
        self.listed = True
        self.write("client")
        self.write("server")

    def config(self, side):
        made = super().config(side)
        made["truststores"][0]["trust_domain"] = DOMAIN
        if self.listed:
            made["truststores"][0]["crl_files"] = [str(self.control.folder / f"{n}.crl") for n in ("root", "issuing")]
        for link in made.get("outbound", []):
            link["peers"] = {"spiffe_ids": [SERVER_ID]}
        for link in made.get("inbound", {}).get("links", []):
            link["peers"] = {"spiffe_ids": [CLIENT_ID]}
        return made


def test_a_sidecar_outside_of_the_mesh_honours_what_is_published(control, binaries):
    control.write()
    folder = control.folder / "o"
    folder.mkdir()
    pair = Outside(folder, binaries, control).start()
    app = EchoApp(pair.target_port)
    try:
        with socket.create_connection(("127.0.0.1", pair.app_port), 10) as sock:
            sock.settimeout(10)
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
            control.ctl("revoke", "subsystem", "gateway")
            control.entries(1)
            control.write()
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass
        assert pair.new_line("server", reason="revoked")["peer_id"] == CLIENT_ID
    finally:
        app.close()
        pair.stop()


# ---- a whole mesh with lists ----


def lists_of(mesh):
    """The published lists: name, PEM."""
    made = {}
    for crl in mesh.ctl_json("get", "crl")["crls"]:
        out = mesh.folder / "published.crl"
        mesh.ctl("get", "crl", "--issuer", crl["issuer_key_sha256"], "--file", out)
        made[crl["issuer"]] = openssl("crl", "-inform", "DER", "-in", out).stdout
    return made


def root_list(mesh):
    return next(pem for issuer, pem in lists_of(mesh).items() if "Root" in issuer)


def crls_of(mesh, subsystem):
    return [c["issuer"] for c in mesh.sidecar(subsystem).config()["truststores"][0]["crls"]]


def test_lists_in_the_mesh_document(mesh, traffic):
    """Handed in, every sidecar asks for all issuers, and the control plane has added what it signs itself; the root
    and the issuer are rotated meanwhile, and nobody is refused; taken out, nobody asks any more."""
    assert crls_of(mesh, "portal") == []
    before = traffic.totals()
    mesh.apply({"crls": [{"name": "root", "description": "by hand", "pem": root_list(mesh)}]}, "--wait")
    assert sorted(i.split()[1] for i in crls_of(mesh, "portal")) == ["Issuing", "Root"], crls_of(mesh, "portal")
    traffic.more(5)
    mesh.ctl("rotate", "issuer", "--wait")
    mesh.ctl("rotate", "root", "--wait")
    # No leaf of another issuer before everybody has its list.
    portal, before_it = mesh.sidecar("portal"), mesh.ctl_json("rotate", "status")
    portal.signal(signal.SIGSTOP)
    try:
        mesh.ctl("rotate", "issuer")
        state = wait_for("it waits for portal alone", lambda: (s := mesh.ctl_json("rotate", "status")) and [
            w["subsystem"] for w in s.get("waiting", [])] == ["portal"] and s)
        assert state["stage"] == "prepare" and state["issuer_key_sha256"] == before_it["issuer_key_sha256"], state
    finally:
        portal.signal(signal.SIGCONT)
    wait_for("it goes on", lambda: mesh.ctl_json("rotate", "status")["stage"] == "idle", 60)
    traffic.more(5)
    for link, now in traffic.totals().items():
        assert now["dropped"] == before[link]["dropped"], (link, now["problems"])
    reasons = {e["reason"] for name in ("portal", "gateway", "analytics", "management")
               for e in mesh.sidecar(name).events("connection")}
    assert not reasons & {"crl_missing", "crl_stale", "revoked"}, reasons
    assert int(mesh.sidecar("portal").metrics()['mortise_crl_next_update_timestamp_seconds{truststore="mesh"}']) > 0
    mesh.apply(document(), "--prune", "--wait")
    assert crls_of(mesh, "portal") == []


def test_a_wrong_list_in_the_mesh_document_is_refused_by_field(mesh):
    good = root_list(mesh)
    half = len(good) // 2
    broken = good[:half] + ("A" if good[half] != "A" else "B") + good[half + 1:]
    known = mesh.version()
    for pem, said in (("nothing", "pem_empty"), (broken, "crls[0].pem"), (good + "#\n" * 150000, "too many")):
        done = mesh.apply({"crls": [{"name": "root", "pem": pem}]}, check=False)
        assert done.returncode != 0 and "crls" in done.stderr and said in done.stderr, done.stderr
    assert mesh.version() == known
    done = mesh.apply({"crls": [{"name": "Not A Name", "pem": good}]}, check=False)
    assert "crls[0].name" in done.stderr, done.stderr
    with pytest.raises(LabError):
        mesh.ctl("get", "crl", "--issuer", "1" * 64)
