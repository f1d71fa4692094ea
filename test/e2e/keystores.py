"""Without this a partner's CA that an operator trusts for one link could make identities of the mesh, what an operator has
uploaded would be found out to be broken by traffic, and whom it let in would stay when its CA is taken out; a private key that was
entrusted to the mesh would lie in a log, a backup, a revision or an answer.

Drives: A7, A8, A12, A13, C1, E3, R5, R21, R49"""
import base64
import json
import subprocess
from pathlib import Path

import pytest

from deploy.lab.mesh import CONTROL_PORT, INBOUND_PORT, document
from deploy.lab.programs import admin, wait_for
from test.testlib.pki import Ca

NAME = "management-portal.mortise.internal"
PARTNER = "partner.example.com"
MANAGEMENT = "spiffe://mesh.test/ns/apim/sa/management"
REQUEST = b"GET /outside/5 HTTP/1.1\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def partner():
    return Ca("partner root")


@pytest.fixture(autouse=True)
def as_before(mesh):
    yield
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)


@pytest.fixture(scope="module", autouse=True)
def elevated(mesh):
    """Bringing a private key takes an elevation; the last test does without."""
    mesh.ctl("elevate", "--for", "1h", "--reason", "keystores")


def text(ca):
    return ca.root_pem().decode()


def partners(*stores, mesh_roots=True, names=(PARTNER,)):
    """The document with a truststore at the portal's end of the first link."""
    doc = document()
    doc["truststores"] = [{"name": "partners", "mesh_roots": mesh_roots, "pem": [*stores]}]
    doc["profiles"].append({"name": "partners-server", "role": "SERVER", "min_version": "TLS1_3", "truststore": "partners",
                            "peer_names": [*names]})
    doc["links"][0]["server_profile"] = "partners-server"
    return doc


class Outside:
    """openssl s_client on the control plane's host, which is nobody in the mesh, to the portal's sidecar."""

    def __init__(self, mesh, cert=None, name=NAME, folder=None):
        self.mesh = mesh
        args = ["-connect", f"{mesh.network['portal'].v4}:{INBOUND_PORT}", "-servername", name, "-quiet", "-ign_eof",
                "-tls1_3"]
        if cert is not None:
            chain, key = cert.write(folder or mesh.folder, "outside")
            args += ["-cert", chain, "-cert_chain", chain, "-key", key]
        self.child = subprocess.Popen(mesh.control_host.command("openssl", "s_client", *map(str, args)),
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ask(self):
        """What the portal's application says, or openssl of why it does not."""
        said, _ = self.child.communicate(REQUEST, timeout=60)
        return said

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


def last(mesh, **wanted):
    """The portal's newest connection with those fields."""
    def found():
        events = [e for e in mesh.sidecar("portal").events("connection")
                  if all(e.get(key) == value for key, value in wanted.items())]
        return events and events[-1]
    return wait_for(f"a connection with {wanted}", found)


@pytest.mark.sanitize
def test_a_partner_comes_by_its_name_and_nobody_by_our_ids(mesh, unharmed, partner):
    mesh.apply(partners(text(partner)), "--wait")
    with Outside(mesh, partner.issue(dns=[PARTNER])) as client:
        assert b"200" in client.ask()
    assert last(mesh, peer_id=PARTNER, link="management-portal")
    # An identity of the mesh, signed by the partner: with its name beside it or without.
    for cert in (partner.issue(MANAGEMENT), partner.issue(MANAGEMENT, dns=[PARTNER])):
        with Outside(mesh, cert) as client:
            assert b"200" not in client.ask()
        assert last(mesh, error="trust_domain")
    for cert, error in ((partner.issue(dns=["other.example.com"]), "peer_denied"),
                        (Ca("stranger").issue(dns=[PARTNER]), "chain_untrusted"),
                        (None, "cert_missing")):
        with Outside(mesh, cert) as client:
            assert b"200" not in client.ask()
        assert last(mesh, error=error)
    # Other links of the same sidecar know nothing of partners.
    with Outside(mesh, partner.issue(dns=[PARTNER]), name="gateway-analytics.mortise.internal") as client:
        assert b"200" not in client.ask()
    unharmed.more(3)


def test_without_the_mesh_roots_no_sidecar_comes_in(mesh, traffic, partner):
    mesh.apply(partners(text(partner), mesh_roots=False), "--wait")
    wait_for("a sidecar of the mesh that is refused", lambda: any(
        e.get("error") == "chain_untrusted" for e in mesh.sidecar("portal").events("connection")))
    with Outside(mesh, partner.issue(dns=[PARTNER])) as client:
        assert b"200" in client.ask()
    mesh.apply(document(), "--prune", "--wait")
    traffic.more(3)


def test_who_came_by_a_ca_goes_with_it(mesh, unharmed, partner):
    other = Ca("another partner")
    mesh.apply(partners(text(partner), text(other)), "--wait")
    with Outside(mesh, partner.issue(dns=[PARTNER])) as client:
        client.child.stdin.write(REQUEST[:4])
        client.child.stdin.flush()
        wait_for("the partner's connection", lambda: PARTNER in mesh.ctl("get", "connections", "portal").stdout)
        mesh.apply(partners(text(other)), "--wait")
        client.child.wait(timeout=60)
    assert last(mesh, peer_id=PARTNER)["reason"] == "trust"


def test_trust_is_widened_only_by_who_means_it(mesh, partner):
    """The first CA of others, one more in a truststore in use, a name more; less needs no word."""
    other = Ca("another partner")
    steps = ((partners(text(partner)), "truststore of the server profile: peers are vouched for also by CN=partner root"),
             (partners(text(partner), text(other)), "vouched for also by CN=another partner"),
             (partners(text(partner), text(other), names=(PARTNER, "more.example.com")),
              "peer_names of the server profile: peers may be called also more.example.com"))
    for doc, told in steps:
        before = mesh.version()
        done = mesh.apply(doc, check=False, weaker=False)
        assert done.returncode == 1 and "--allow-weaker" in done.stderr and told in done.stderr, done.stderr
        assert "link management-portal: " in done.stderr and mesh.version() == before
        mesh.apply(doc, "-m", f"meant: {told}")
        records = [json.loads(line) for line in mesh.ctl("audit", "search", "-o", "json").stdout.splitlines()]
        marked = [record["weaker"] for record in records if record.get("message") == f"meant: {told}"]
        assert len(marked) == 1 and any(told in line for line in marked[0]), marked
    mesh.apply(partners(text(other)), weaker=False)
    mesh.apply(document(), "--prune", weaker=False)


@pytest.mark.parametrize("what", ["leaf", "expired", "key", "nobody", "names", "both"])
def test_what_is_no_truststore_is_refused_with_whose_certificate_it_is(mesh, partner, what):
    leaf = partner.issue(dns=[PARTNER], name="a leaf")
    old = Ca("old", begins_days=-9, days=-1)
    doc, told = {
        "leaf": (partners(leaf.pem.decode()), 'truststores[0].pem[0]: certificate 1 "CN=a leaf": is no CA'),
        "expired": (partners(text(partner), text(old)), 'truststores[0].pem[1]: certificate 1 "CN=old": expired '),
        "key": (partners(text(partner) + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                "truststores[0].pem[0]: has a private key"),
        "nobody": (partners(mesh_roots=False), "truststores[0].pem: is missing: it trusts nobody"),
        "names": (partners(text(partner), names=()), "profiles[2].peer_names: is missing"),
        "both": (partners(), "profiles[2].peer_names: goes with a truststore that has CAs of others"),
    }[what]
    before = mesh.version()
    done = mesh.apply(doc, check=False)
    assert done.returncode == 1 and told in done.stderr, done.stderr
    assert mesh.version() == before
    done = subprocess.run([mesh.bin.ctl, "validate", "-f", mesh.folder / "mesh.yaml"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and told in done.stderr, done.stderr


def test_what_could_never_match_is_refused(mesh, partner):
    """An address is no name; and what the mesh's own CAs have issued is known by its SPIFFE ID, in no truststore by another."""
    before = mesh.version()
    for name in ("10.0.0.1", "2001:db8::1", "::", "1.2.3.4.5", "host.123"):
        done = mesh.apply(partners(text(partner), names=(PARTNER, name)), check=False)
        assert done.returncode == 1, name
        assert f'peer_names: "{name}" is an IP address, and peers are known by DNS names alone' in done.stderr, done.stderr
    own = mesh.roots.read_text()
    for stores, at in (((own,), 0), ((text(partner), text(partner) + own), 1)):
        done = mesh.apply(partners(*stores), check=False)
        assert done.returncode == 1 and f"truststores[0].pem[{at}]: certificate {at + 1} is a CA of this mesh" in done.stderr
        assert "say mesh_roots: true" in done.stderr
    assert mesh.version() == before
    mesh.apply(partners(text(partner), names=("10.0.0.1.example",)), "--wait")


def test_truststores_are_shown_used_built_in(mesh, partner):
    mesh.apply(partners(text(partner)))
    lines = {line.split()[0]: line.split() for line in mesh.ctl("get", "truststores").stdout.splitlines()}
    assert lines["partners"][1:3] == ["yes", "1"] and lines["partners"][-2] == "partners-server"
    for name in ("analytics-ingestion", "portal-director", "gateway-management-client"):
        assert lines[name][1:3] == ["yes", "0"] and lines[name][-1] == "yes"
        done = mesh.ctl("delete", "truststore", name, check=False)
        assert done.returncode == 1 and f"mortisectl clone truststore {name}" in done.stderr
    wide = mesh.ctl("get", "truststores", "partners", "-o", "wide").stdout
    assert "CN=partner root" in wide and "the mesh's own CAs" in wide
    done = mesh.ctl("delete", "truststore", "partners", check=False)
    assert done.returncode == 1 and "profile partners-server: truststore" in done.stderr
    done = mesh.apply({"truststores": [{"name": "portal-director", "pem": [text(partner)]}]}, check=False)
    assert done.returncode == 1 and "clone it under another name" in done.stderr
    mesh.ctl("clone", "truststore", "portal-director", "mine")
    mesh.apply({"truststores": [{"name": "mine", "pem": [text(partner)]}]})
    mesh.ctl("delete", "truststore", "mine")


# Keystores.

SITE = "portal.example.com"


def trusting(partner):
    """The client's end of the first link takes what the partner's CA has issued to that name, too."""
    doc = partners(text(partner))
    doc["profiles"][-1] = {"name": "site-client", "role": "CLIENT", "min_version": "TLS1_3", "truststore": "partners",
                           "peer_names": [SITE]}
    doc["links"][0].pop("server_profile")
    doc["links"][0].update(client_profile="site-client", server_profile="mesh-server")
    return doc


def showing(partner):
    """The server's end shows the keystore."""
    doc = trusting(partner)
    doc["profiles"].append({"name": "site-server", "role": "SERVER", "min_version": "TLS1_3", "keystore": "site"})
    doc["links"][0]["server_profile"] = "site-server"
    return doc


def bring(mesh, made, *flags, check=True, name="site"):
    chain, key = made.write(mesh.folder, "brought")
    return mesh.ctl("import", "keystore", name, "--chain", chain, "--private-key", key, *flags, check=check)


def shown(mesh, name=NAME):
    """The certificates that openssl sees at the portal's sidecar, as PEM."""
    done = mesh.control_host.run("openssl", "s_client", "-connect", f"{mesh.network['portal'].v4}:{INBOUND_PORT}",
                                 "-servername", name, "-showcerts", stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                 timeout=60)
    found = done.stdout.split("-----BEGIN CERTIFICATE-----")[1:]
    return ["".join(part.split("-----END CERTIFICATE-----")[0].split()) for part in found]


def as_base64(pem):
    parts = pem.decode().split("-----BEGIN CERTIFICATE-----")[1:]
    return ["".join(part.split("-----END CERTIFICATE-----")[0].split()) for part in parts]


def exported(mesh):
    return mesh.ctl("get", "keystores", "site", "-o", "pem").stdout.encode()


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_an_uploaded_certificate_is_seen_on_the_wire(mesh, unharmed, kind):
    root = Ca("site root")
    issuer = Ca("site issuer", above=root)
    made = issuer.issue(dns=[SITE], key=kind, name=f"site {kind}")
    ours = shown(mesh)
    mesh.apply(trusting(root), "--wait")
    bring(mesh, made, "--wait")
    mesh.apply(showing(root), "--wait")
    unharmed.more(3)
    assert shown(mesh) == as_base64(made.pem) == as_base64(exported(mesh))
    assert last(mesh, link="management-portal", local_serial=made.serial)
    entry = wait_for("the client's view of it", lambda: [e for e in mesh.sidecar("management").events("connection")
                                                         if e.get("peer_serial") == made.serial])
    assert entry[-1]["peer_id"] == SITE
    # Another one in its place: new connections show it, and nobody loses one.
    again = issuer.issue(dns=[SITE], key=kind)
    assert bring(mesh, again, check=False).returncode == 1
    bring(mesh, again, "--replace", "--wait")
    assert shown(mesh) == as_base64(again.pem)
    unharmed.more(3)
    mesh.apply(trusting(root), "--wait")
    assert shown(mesh) != as_base64(again.pem) and ours
    mesh.apply(document(), "--prune", "--wait")


def test_only_sidecars_that_show_it_have_the_key(mesh, traffic):
    root = Ca("site root")
    made = root.issue(dns=[SITE])
    mesh.apply(trusting(root), "--wait")
    bring(mesh, made)
    mesh.apply(showing(root), "--wait")
    for subsystem in ("portal", "management", "gateway", "analytics"):
        config = mesh.sidecar(subsystem).config()["config"]
        assert [k["name"] for k in config.get("keystores", [])] == (["site"] if subsystem == "portal" else []), subsystem


def test_what_is_no_keystore_is_refused_with_whose_certificate_it_is(mesh):
    root, other = Ca("site root"), Ca("stranger")
    old, good = root.issue(dns=[SITE], name="old", valid_s=-60), root.issue(dns=[SITE], name="good")
    mail = root.issue(dns=[SITE], name="mail", eku=("email",))
    ours = root.issue(MANAGEMENT, dns=[SITE], name="ours")
    before = mesh.version()
    for made, told in ((old, 'chain: certificate 1 "CN=old": expired '),
                       (mail, 'chain: certificate 1 "CN=mail": ExtendedKeyUsage'),
                       (ours, 'chain: certificate 1 "CN=ours": has a SPIFFE ID'),
                       (root.issue(dns=[SITE], key="rsa1024"), "--private-key: 1024 bits"),
                       (root.issue(name="nameless"), 'chain: certificate 1 "CN=nameless": has no DNS name')):
        done = bring(mesh, made, check=False)
        assert done.returncode == 1 and told in done.stderr, done.stderr
    good.key, other.key = other.key, good.key
    done = bring(mesh, good, check=False)
    assert done.returncode == 1 and 'key: belongs to none of the 1 certificates, as to "CN=good"' in done.stderr, done.stderr
    done = bring(mesh, root.issue(dns=[SITE]), check=False, name="portal-director")
    assert done.returncode == 1 and "portal-director" in done.stderr
    done = bring(mesh, root.issue(dns=[SITE]), "--replace", check=False, name="portal-director")
    assert done.returncode == 1 and "clone it under another name" in done.stderr, done.stderr
    assert mesh.version() == before


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, timeout=60)


def test_encrypted_files_open_by_a_password_that_is_in_no_argument(mesh):
    made = Ca("site root").issue(dns=[SITE])
    chain, key = made.write(mesh.folder, "plain")
    right, wrong = mesh.folder / "right", mesh.folder / "wrong"
    for path, word in ((right, "correct horse"), (wrong, "battery staple")):
        path.touch(mode=0o600)
        path.write_text(word + "\n")
    store, sealed = mesh.folder / "site.p12", mesh.folder / "sealed.key"
    openssl("pkcs12", "-export", "-in", chain, "-inkey", key, "-out", store, "-passout", f"file:{right}")
    openssl("pkey", "-in", key, "-aes256", "-out", sealed, "-passout", f"file:{right}")
    store.chmod(0o600)
    sealed.chmod(0o600)
    for files in (["--pkcs12", store], ["--chain", chain, "--private-key", sealed]):
        for word, told in ((wrong, "--password-file: "), (None, "password")):
            done = mesh.ctl("import", "keystore", "site", *files, *(["--password-file", word] if word else []), check=False)
            assert done.returncode == 1 and told in done.stderr, done.stderr
        mesh.ctl("import", "keystore", "site", *files, "--password-file", right)
        assert as_base64(exported(mesh)) == as_base64(made.pem)
        mesh.ctl("delete", "keystore", "site")
    cut = mesh.folder / "cut.p12"
    cut.touch(mode=0o600)
    cut.write_bytes(store.read_bytes()[:-200])
    done = mesh.ctl("import", "keystore", "site", "--pkcs12", cut, "--password-file", right, check=False)
    assert done.returncode == 1 and "--pkcs12: " in done.stderr, done.stderr
    store.chmod(0o644)
    done = mesh.ctl("import", "keystore", "site", "--pkcs12", store, "--password-file", right, check=False)
    assert done.returncode == 1 and "chmod 600" in done.stderr, done.stderr


def test_ends_that_would_refuse_each_other_are_told_before(mesh, partner):
    root = Ca("site root")
    bring(mesh, root.issue(dns=[SITE]))
    doc = showing(root)
    doc["links"][0]["client_profile"] = "mesh-client"
    done = mesh.apply(doc, check=False)
    assert 'server_profile: shows keystore "site", which CAs of others vouch for' in done.stderr, done.stderr
    done = mesh.apply(showing(partner), check=False)
    assert 'keystore "site" would be refused by profile "site-client"' in done.stderr, done.stderr
    doc = showing(root)
    doc["profiles"][-2]["peer_names"] = ["other.example.com"]
    done = mesh.apply(doc, check=False)
    assert 'has none of the names that profile "site-client" expects' in done.stderr, done.stderr
    doc = trusting(root)
    doc["truststores"][0]["mesh_roots"] = False
    done = mesh.apply(doc, check=False)
    assert "shows the certificate that the mesh issues" in done.stderr, done.stderr
    mesh.apply(showing(root), "--wait")
    done = mesh.ctl("delete", "keystore", "site", check=False)
    assert done.returncode == 1 and "profile site-server: keystore" in done.stderr
    mesh.apply(document(), "--prune", "--wait")


def test_there_is_no_way_back_to_a_key_that_is_gone(mesh):
    root = Ca("site root")
    first = root.issue(dns=[SITE])
    bring(mesh, first)
    revision = mesh.version()
    mesh.ctl("rollback", revision, check=False)
    bring(mesh, root.issue(dns=[SITE]), "--replace")
    done = mesh.ctl("rollback", revision, check=False)
    assert done.returncode == 1 and "keystores[site].key_sha256: the key " in done.stderr, done.stderr
    assert "mortisectl import keystore" in done.stderr
    bring(mesh, first, "--replace")
    mesh.ctl("delete", "keystore", "site")
    done = mesh.ctl("rollback", revision, check=False)
    assert done.returncode == 1 and "is not in the store" in done.stderr, done.stderr


def traces_of(key):
    """The private number of a P-256 key in the forms that it could be found in."""
    number = key.private_numbers().private_value.to_bytes(32, "big")
    forms = [number, number.hex().encode(), number.hex().upper().encode()]
    for shift in range(3):  # within base64 of something that begins before it
        forms.append(base64.b64encode(bytes(shift) + number)[4:40])
    return forms


def test_the_key_is_nowhere(mesh, traffic):
    """In no file of the control plane or a sidecar, log, backup, answer, argument or variable."""
    root = Ca("site root")
    made = root.issue(dns=[SITE])
    mesh.apply(trusting(root), "--wait")
    bring(mesh, made, "--wait", "-m", "canary")
    for path in mesh.folder.glob("brought.*"):
        path.unlink()
    mesh.apply(showing(root), "--wait")
    revision = mesh.version()
    mesh.ctl("backup", mesh.folder / "canary.backup", check=False)
    said = [mesh.ctl(*args, check=False) for args in (
        ("get", "mesh"), ("get", "mesh", "-o", "json"), ("get", "keystores", "-o", "json"), ("get", "keystores", "-o", "wide"),
        ("get", "keystores", "-o", "pem"), ("export",), ("history",), ("diff", revision - 1, revision), ("audit", "search"),
        ("status",), ("check",))]
    places = {f"mortisectl {done.args[5:]}": (done.stdout + done.stderr).encode() for done in said}
    for program in (*mesh.sidecars.values(), mesh.control):
        for page in ("/config", "/metrics"):
            places[f"{program.name} {page}"] = admin(program.admin_socket, page)[1].encode()
        for name in ("environ", "cmdline"):
            places[f"{program.name} {name}"] = Path(f"/proc/{program.pid}/{name}").read_bytes()
    for path in mesh.folder.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    assert any("canary.backup" in place for place in places) and any(place.endswith(".db") or "store" in place for place in places)
    for place, content in places.items():
        for form in traces_of(made.key):
            assert form not in content, place
    assert json.dumps(mesh.ctl_json("get", "keystores", "site")).count("PRIVATE") == 0


def test_keystores_are_shown_used_built_in(mesh):
    root = Ca("site root")
    bring(mesh, root.issue(dns=[SITE], name="the site"), "--description", "of the site")
    lines = {line.split()[0]: line for line in mesh.ctl("get", "keystores", "-o", "wide").stdout.splitlines()}
    assert "CN=the site" in lines["site"] and SITE in lines["site"] and "of the site" in lines["site"]
    for name in ("analytics-ingestion", "portal-director", "gateway-management", "default-tls-server"):
        assert "issued" in lines[name]
        done = mesh.ctl("delete", "keystore", name, check=False)
        assert done.returncode == 1 and f"mortisectl clone keystore {name}" in done.stderr
        done = mesh.ctl("get", "keystores", name, "-o", "pem", check=False)
        assert done.returncode == 1 and "each sidecar has its own" in done.stderr
    mesh.ctl("clone", "keystore", "site", "other")  # of the same key, which stays as long as one of them does
    mesh.ctl("delete", "keystore", "site")
    mesh.ctl("delete", "keystore", "other")


def test_no_key_goes_to_other_sidecars_without_the_right_to_bring_it(mesh):
    """A look at what would happen asks the sidecars, with the configuration that they would get."""
    root = Ca("site root")
    bring(mesh, root.issue(dns=[SITE]))
    folder, path = mesh.folder / "olga", mesh.folder / "olga.yaml"
    mesh.ctl("admin", "create", "olga", "--role", "operator", "--out", folder)

    def olga(doc, *flags):
        path.write_text(json.dumps(doc))
        return mesh.control_host.run(
            str(mesh.bin.ctl), "apply", "-f", str(path), "--allow-weaker", *flags, "--server", f"127.0.0.1:{CONTROL_PORT}",
            "--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem"), "--roots", str(folder / "roots.pem"),
            "--trust-domain", "mesh.test", capture_output=True, text=True, timeout=120)

    for flags in ((), ("--dry-run",)):
        done = olga(showing(root), *flags)
        assert done.returncode == 1 and "would go to the sidecars of \"portal\"" in done.stderr, done.stderr
        assert "keystore.write, which your role operator does not have" in done.stderr
    assert olga(trusting(root)).returncode == 0
    mesh.apply(showing(root), "--wait")
    # Where it is it may stay, and go.
    doc = showing(root)
    doc["links"][0]["description"] = "later"
    for now in (doc, trusting(root)):
        done = olga(now)
        assert done.returncode == 0, done.stderr


def test_no_private_key_is_brought_without_an_elevation(mesh):
    """R49"""
    made = Ca("site root").issue(dns=[SITE])
    mesh.ctl("elevate", "--end")
    version = mesh.version()
    done = bring(mesh, made, check=False)
    assert done.returncode == 1 and "elevate" in done.stderr, done.stderr
    assert mesh.version() == version
    bring(mesh, made, "--dry-run")
    mesh.ctl("elevate", "--for", "10m", "--reason", "a site")
    bring(mesh, made)
    mesh.ctl("delete", "keystore", "site")


def test_what_expires_is_told_before(mesh, partner):
    def finding():
        done = mesh.ctl("check", "-o", "json", check=False)
        return [f for f in json.loads(done.stdout)["findings"] if f["name"] == "keystores and truststores"]

    root = Ca("site root")
    assert finding() == []
    bring(mesh, root.issue(dns=[SITE], valid_s=30 * 86400))
    assert finding()[0]["state"] == "OK" and 'keystore "site"' in finding()[0]["text"]
    bring(mesh, root.issue(dns=[SITE], valid_s=5 * 86400 + 3600), "--replace")
    assert finding()[0]["state"] == "WARNING" and "in 5 days" in finding()[0]["text"]
    series = [s for s in mesh.control.metrics() if 'role="keystore"' in s and "not_after" in s]
    assert len(series) == 1 and 'instance="site"' in series[0]
    mesh.ctl("delete", "keystore", "site")
