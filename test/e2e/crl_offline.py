"""Without this a company whose root lies in a safe could not take the mesh's issuing CA back: the root's list, made with OpenSSL,
goes into the mesh document, is judged there, and reaches every sidecar.

Drives: F6, R7, R8, R38"""
import subprocess

from cryptography import x509
import pytest

from deploy.lab.mesh import TRUST_DOMAIN, Mesh, document
from deploy.lab.programs import wait_for
from deploy.lab.refusals import openssl
from deploy.lab.traffic import Traffic
from test.testlib.openssl_crl import OpensslCrl
from test.testlib.pki import Ca

SERVERS = ("portal", "gateway", "analytics")


@pytest.fixture(scope="module")
def safe(folder):
    """The root, its lists, and nothing of it in the control plane."""
    return OpensslCrl(folder, "safe", Ca("safe", key="p384"))


def serial_of(certificate):
    number = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


def sign(mesh, root):
    """The pending request's certificate by that root: its path."""
    (root.folder / "it.csr").write_text(mesh.ctl("ca", "csr").stdout)
    openssl("x509", "-req", "-in", "it.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-copy_extensions",
            "copyall", "-out", "it.pem", cwd=root.folder)
    return root.folder / "it.pem"


@pytest.fixture(scope="module")
def mesh(folder, network, binaries, safe):
    made = Mesh(folder / "mesh", network, binaries)
    subprocess.run([str(made.bin.ctl), "init", str(made.folder / "control"), "--trust-domain", TRUST_DOMAIN,
                    "--external-root"], check=True, capture_output=True)
    made.start_control(ready=False)
    made.ctl("ca", "import", sign(made, safe), safe.folder / "ca.pem")
    made.roots.write_text(made.ctl("roots").stdout)
    made.apply(document())
    for name in ("management", *SERVERS):
        made.start_sidecar(name)
    made.wait_in_sync(4)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def traffic(mesh):
    made = Traffic(mesh).serve().drive()
    yield made
    made.stop()


def hand_in(mesh, pem, *flags, check=True):
    return mesh.apply({"crls": [{"name": "safe", "pem": pem.decode()}]}, *flags, check=check)


def reasons(mesh, name, known):
    return {e["reason"] for e in mesh.sidecar(name).events("connection")[known:]}


def test_what_is_wrong_with_a_list_is_told(mesh, safe):
    version = mesh.version()
    stranger = OpensslCrl(safe.folder, "stranger", Ca("stranger"))
    impostor = OpensslCrl(safe.folder, "impostor", Ca("safe"))  # the name, not the key
    issuing = next(c for c in mesh.ctl_json("get", "crl")["crls"])
    assert "Issuing" in issuing["issuer"]  # of the root there is none: its key is not here
    for pem, said in ((stranger.make(), "unknown issuer: \"CN=stranger\""),
                      (impostor.make(), "crl_signature"),
                      (safe.make(begins_s=-7200, ends_s=-3600), "stale"),
                      (safe.make(begins_s=3600, ends_s=7200), "crl_not_yet_valid"),
                      (safe.make(more="2.5.29.27 = critical,ASN1:INTEGER:1"), "crl_delta")):
        done = hand_in(mesh, pem, check=False)
        assert done.returncode == 1 and "crls[0].pem: " in done.stderr and said in done.stderr, (said, done.stderr)
    out = mesh.folder / "issuing.crl"
    mesh.ctl("get", "crl", "--issuer", issuing["issuer_key_sha256"], "--file", out)
    openssl("crl", "-inform", "DER", "-in", out, "-out", "issuing.pem", cwd=mesh.folder)
    done = hand_in(mesh, (mesh.folder / "issuing.pem").read_bytes(), check=False)
    assert done.returncode == 1 and "crls: of \"CN=safe\" there is no list" in done.stderr, done.stderr
    assert mesh.version() == version


@pytest.mark.sanitize
def test_the_roots_list_ends_what_rests_on_an_issuer_that_it_names(mesh, safe, traffic):
    before = traffic.totals()
    hand_in(mesh, safe.make(), "--wait")
    for name in SERVERS:
        crls = mesh.sidecar(name).config()["truststores"][0]["crls"]
        assert len(crls) == 2 and {c["entries"] for c in crls} == {0}, crls
    traffic.more(5)
    for link, now in traffic.totals().items():
        assert now["dropped"] == before[link]["dropped"], (link, now["problems"])
    known = {name: len(mesh.sidecar(name).events("connection")) for name in SERVERS}
    safe.revoke(serial_of(safe.folder / "it.pem"))
    hand_in(mesh, safe.make(), "--wait")
    for name in SERVERS:
        wait_for(f"{name} has ended and refused", lambda name=name: "revoked" in reasons(mesh, name, known[name]))
        wait_for(f"nothing is open at {name}", lambda name=name: all(
            value == 0 for series, value in mesh.sidecar(name).metrics().items()
            if series.startswith("mortise_connections_open")))
    # Another root would leave everybody without a list.
    other = OpensslCrl(safe.folder, "other", Ca("other"))
    done = mesh.ctl("ca", "import", sign(mesh, other), other.folder / "ca.pem", check=False)
    assert done.returncode == 1 and "of that root there is none yet" in done.stderr, done.stderr
    safe.revoked.clear()
    hand_in(mesh, safe.make(), "--wait")
    traffic.more(5)
