"""Without this a company whose root lies in a safe could not use the mesh at all, or would have to hand that key over: the root
signs one request, with OpenSSL, and what comes back is taken only when it is right in every field.

Drives: F5, R38, R41"""
import os
import subprocess

import pytest

from deploy.lab import netns
from deploy.lab.mesh import CONTROL_PORT, SUBSYSTEMS, TRUST_DOMAIN, Mesh, document
from deploy.lab.programs import Process, wait_for
from deploy.lab.refusals import key_sha256, openssl
from deploy.lab.traffic import Traffic

GOOD = {"basicConstraints": "critical,CA:TRUE,pathlen:0", "keyUsage": "critical,keyCertSign,cRLSign",
        "nameConstraints": f"critical,permitted;URI:{TRUST_DOMAIN}", "subjectAltName": f"URI:spiffe://{TRUST_DOMAIN}"}


class Safe:
    """A root that the control plane never sees the key of."""

    def __init__(self, folder, name):
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-keyout", "root.key",
                "-out", "root.pem", "-subj", f"/O=Example/CN={name}", "-days", "3650", "-addext",
                "keyUsage=critical,keyCertSign,cRLSign", cwd=self.folder)

    @property
    def root(self):
        return self.folder / "root.pem"

    def sign(self, mesh, *flags, days=365, **changed):
        """The pending request, signed with its extensions; or with others. The certificate's path."""
        (self.folder / "issuing.csr").write_text(mesh.ctl("ca", "csr", *flags).stdout)
        extensions = ("-copy_extensions", "copyall")
        if changed:
            said = {**GOOD, **changed}
            (self.folder / "ext").write_text("".join(f"{k}={v}\n" for k, v in said.items() if v))
            extensions = ("-extfile", "ext")
        openssl("x509", "-req", "-in", "issuing.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", str(days),
                *extensions, "-out", "issuing.pem", cwd=self.folder)
        return self.folder / "issuing.pem"


@pytest.fixture(scope="module")
def safe(folder):
    return Safe(folder, "first")


@pytest.fixture(scope="module")
def second(folder):
    return Safe(folder, "second")


@pytest.fixture(scope="module")
def mesh(folder, network, binaries, safe):
    """A control plane that has no CA yet."""
    made = Mesh(folder / "mesh", network, binaries)
    said = subprocess.run([str(made.bin.ctl), "init", str(made.folder / "control"), "--trust-domain", TRUST_DOMAIN,
                           "--external-root"], check=True, capture_output=True, text=True).stdout
    assert "mortisectl ca csr" in said
    made.start_control(ready=False)
    made.apply(document())
    yield made
    made.stop()


@pytest.fixture(scope="module")
def traffic(mesh):
    made = Traffic(mesh).serve().drive()
    yield made
    made.stop()


def rotation(mesh):
    return mesh.ctl_json("rotate", "status")


def text_of(certificate):
    return subprocess.run(["openssl", "x509", "-noout", "-text", "-in", certificate], check=True, capture_output=True,
                          text=True).stdout


def test_without_a_certificate_nobody_is_let_in(mesh):
    assert mesh.ctl("roots").stdout == ""
    refused = mesh.ctl("certificate", "portal", "--out", mesh.folder / "early", check=False)
    assert refused.returncode == 1
    for what in ("root", "issuer"):
        no = mesh.ctl("rotate", what, check=False)
        assert no.returncode == 1 and "the root's key is kept elsewhere: `mortisectl ca csr`" in no.stderr
    # A restart changes nothing, the request neither.
    request = mesh.ctl("ca", "csr").stdout
    assert "BEGIN CERTIFICATE REQUEST" in request
    mesh.control.kill()
    mesh.start_control(ready=False)
    assert mesh.ctl("ca", "csr").stdout == request


@pytest.mark.sanitize
def test_what_was_signed_wrong_is_told_by_its_field(mesh, safe, folder):
    other = Safe(folder, "other")

    def refused(said, *files, **changed):
        done = mesh.ctl("ca", "import", *(files or (safe.sign(mesh, **changed), safe.root)), check=False)
        assert done.returncode == 1 and said in done.stderr, (said, done.stderr)

    refused("issuer.basicConstraints: CA:TRUE is missing", basicConstraints="critical,CA:FALSE")
    refused("issuer.basicConstraints: pathlen:0 is missing", basicConstraints="critical,CA:TRUE")
    refused("issuer.basicConstraints: pathlen:0 is missing", basicConstraints="critical,CA:TRUE,pathlen:1")
    refused("issuer.keyUsage: must have keyCertSign and cRLSign", keyUsage="critical,keyCertSign")
    refused("issuer.keyUsage: is missing", keyUsage=None)
    refused("issuer.nameConstraints: is missing", nameConstraints=None)
    refused("issuer.nameConstraints: has to permit URIs of this mesh's", nameConstraints="critical,permitted;URI:other.test")
    refused("issuer.nameConstraints: has to permit URIs of this mesh's", nameConstraints="critical,permitted;DNS:mesh.test")
    refused("issuer.nameConstraints: is not critical", nameConstraints=f"permitted;URI:{TRUST_DOMAIN}")
    refused("issuer.subjectAltName: names another trust domain", subjectAltName="URI:spiffe://other.test")
    refused("issuer.extendedKeyUsage", extendedKeyUsage="codeSigning")
    good = safe.sign(mesh)
    refused("issuer.issuer: is not the root's name", good, other.root)
    refused("chain: the root's certificate is missing", good)
    refused("chain: has 3 certificates", safe.root, _joined(mesh.folder / "both.pem", good, other.root))
    refused("issuer.subjectPublicKey: is not the key of the pending request", safe.root, safe.root)
    refused("root.issuer: is another: give the root itself", good, good)
    key_only = mesh.ctl("ca", "import", safe.folder / "root.key", check=False)
    assert key_only.returncode == 1 and "chain: has 0 certificates" in key_only.stderr
    # One that was asked for before the last request.
    mesh.ctl("ca", "csr", "--new")
    refused("issuer.subjectPublicKey: is not the key of the pending request", good, safe.root)
    assert mesh.ctl("roots").stdout == ""


def _joined(path, *files):
    path.write_text("".join(f.read_text() for f in files))
    return path


@pytest.mark.sanitize
def test_what_the_root_has_signed_is_in_force_at_once(mesh, safe):
    """A sidecar that was there before comes in by itself."""
    mesh.roots.write_text(safe.root.read_text())  # what sidecars are given, by whoever keeps the root
    for name in SUBSYSTEMS:
        mesh.start_sidecar(name, ready=False)
    signed = safe.sign(mesh)
    said = mesh.ctl("ca", "import", signed, safe.root, "--wait").stdout
    assert said.splitlines()[-1].startswith("done: root"), said
    assert mesh.ctl("roots").stdout.split() == safe.root.read_text().split()
    assert "Permitted:\n                  URI:mesh.test" in text_of(signed)
    for sidecar in mesh.sidecars.values():
        sidecar.wait_ready()
    mesh.wait_in_sync(4)
    again = mesh.ctl("ca", "import", signed, safe.root, check=False)
    assert again.returncode == 1 and "nothing was asked for" in again.stderr
    # Also an administrator from elsewhere.
    boss = mesh.folder / "boss"
    mesh.ctl("admin", "create", "boss", "--out", boss)
    assert mesh.ctl("status", "--server", f"127.0.0.1:{CONTROL_PORT}", "--cert", boss / "cert.pem", "--key", boss / "key.pem",
                    "--roots", safe.root, "--trust-domain", TRUST_DOMAIN).returncode == 0


def test_another_issuer_of_the_same_root(mesh, safe, unharmed):
    before = rotation(mesh)
    for what, whom in (("root", "the new root"), ("issuer", "the root")):
        no = mesh.ctl("rotate", what, check=False)
        assert no.returncode == 1 and f"have that signed by {whom}, then `mortisectl ca import`" in no.stderr
    said = mesh.ctl("ca", "import", safe.sign(mesh), "--wait").stdout  # its root is known
    assert "done: the issuer with key" in said
    now = rotation(mesh)
    assert now["kind"] == "issuer" and now["signing_sha256"] == before["signing_sha256"]
    assert now["retired_issuer_key_sha256"] == before["issuer_key_sha256"]


@pytest.mark.sanitize
def test_another_root_stage_by_stage(mesh, second, unharmed):
    before = int(rotation(mesh)["number"])
    said = mesh.ctl("ca", "import", second.sign(mesh), second.root, "--wait").stdout
    assert said.splitlines()[0].startswith(f"rotation {before + 1}"), said
    assert mesh.ctl("roots").stdout.split() == second.root.read_text().split()
    mesh.control.kill()
    mesh.start_control()
    mesh.wait_in_sync(4)


def test_back_to_the_root_of_before(mesh, unharmed, folder):
    third = Safe(folder, "third")
    before = rotation(mesh)["signing_sha256"]
    mesh.ctl("ca", "import", third.sign(mesh), third.root, "--spread", "20s")
    wait_for("it re-issues", lambda: rotation(mesh)["stage"] == "reissue")
    assert rotation(mesh)["signing_sha256"] != before
    busy = mesh.ctl("ca", "import", third.sign(mesh), third.root, check=False)
    assert busy.returncode == 1 and "of the root, is under way, stage reissue" in busy.stderr
    mesh.ctl("rotate", "root", "--abort", "--wait")
    assert rotation(mesh)["signing_sha256"] == before and rotation(mesh)["going_back"]


def rogue_control(safe, folder):
    """Who has got at an issuing key: its certificate for spiffe://…/mortise/control, and the key's SHA-256."""
    folder.mkdir()
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", *new, "-keyout", "issuing.key", "-out", "issuing.csr", "-subj", "/O=Rogue/CN=Issuing", cwd=folder)
    (folder / "ca.ext").write_text("".join(f"{k}={v}\n" for k, v in GOOD.items()))
    openssl("x509", "-req", "-in", "issuing.csr", "-CA", safe.root, "-CAkey", safe.folder / "root.key", "-days", "30",
            "-extfile", "ca.ext", "-out", "issuing.pem", cwd=folder)
    openssl("req", *new, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/O=Rogue", cwd=folder)
    (folder / "leaf.ext").write_text(
        f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}/mortise/control\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:false\n")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "issuing.pem", "-CAkey", "issuing.key", "-days", "1",
            "-extfile", "leaf.ext", "-out", "leaf.pem", cwd=folder)
    return key_sha256(folder / "issuing.key")


@pytest.mark.sanitize
def test_a_revoked_issuer_makes_no_control_plane(mesh, second, folder, traffic):
    """Whoever has stolen an issuing key could answer in the control plane's place, but for the revocation: sidecars ask it of
    who says that he is the control plane, too. (The last test of this mesh.)"""
    key = rogue_control(second, folder / "rogue")
    portal = mesh.sidecar("portal")

    def answers():
        """Puts the rogue in the control plane's place, until the portal's sidecar has met it."""
        mesh.control.kill()
        at = len(portal.events())
        rogue = Process("rogue", ["env", "-C", folder / "rogue", "openssl", "s_server", "-accept", CONTROL_PORT, "-alpn", "h2", "-cert", "leaf.pem", "-key",
                                  "leaf.key", "-cert_chain", "issuing.pem", "-quiet"], mesh.folder, mesh.control_host)
        try:
            return wait_for("the sidecar has met it", lambda: next(
                (e for e in portal.events()[at:] if e["component"] == "uplink" and (
                    e.get("error") == "peer_revoked" or e.get("error_at", "").startswith("lib/rpc/h2"))), None), 120)
        finally:
            rogue.kill()
            mesh.start_control()
            mesh.wait_in_sync(4)

    assert answers()["error"] == "closed", "without a revocation the handshake is good; it only speaks no HTTP/2"
    mesh.ctl("revoke", "issuer", key, "--wait")
    assert answers()["error"] == "peer_revoked"
    traffic.more(5)


@pytest.fixture
def elsewhere():
    """Hosts for another mesh."""
    with netns.Network(f"mo{os.getpid()}-", ("control", "portal", "gateway")) as hosts:
        yield hosts


def test_from_a_root_of_its_own_to_one_that_is_elsewhere(folder, elsewhere, binaries):
    """Who was away finds back: the old root, whose key was here, has vouched for the other one."""
    made, safe = Mesh(folder / "own", elsewhere, binaries), Safe(folder, "fourth")
    try:
        made.start_control()
        made.apply(document())
        before = made.roots.read_text()
        made.start_sidecar("portal")
        made.ctl("ca", "import", safe.sign(made), safe.root, "--wait")
        assert made.ctl("roots").stdout.split() == safe.root.read_text().split()
        made.roots.write_text(before)  # from before: it knows the old root only
        made.start_sidecar("gateway")
        made.wait_in_sync(2)
    finally:
        made.stop()
