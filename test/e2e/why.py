"""Without this an operator whose connections fail reads two logs and guesses: `why` says in one sentence what is wrong, and its exit
status says whether it works now (0), does not (1), or cannot be known (2). Here are the set-ups that are broken, each with that
sentence; what only looks broken; and whoever fails in any number makes nobody remember more.

Drives: F12, R14, R63"""
import json
import re
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.lab.mesh import INBOUND_PORT, LINKS, document
from deploy.lab.programs import LabError, Process, wait_for
from test.testlib import pki
from test.testlib.clock_jump import ClockJump
from test.testlib.fixtures import CONFIG
from test.testlib.openssl_crl import OpensslCrl

ROOT = Path(__file__).resolve().parents[2]
WORKS, FAILS, UNKNOWN = 0, 1, 2
STATES = {"WORKS": WORKS, "FAILS": FAILS, "UNKNOWN": UNKNOWN}
SPIFFE = "spiffe://mesh.test/ns/apim/sa/"
ID = r"\([0-9a-f]{8}\)"

# Subsystems whose sidecars say that they are where something else is: kind, and what management is told.
ODD = {
    "wrongca": ("tls", "The certificate of wrongca leads to no root that management trusts."),
    "impostor": ("tls", rf"Who answers at ADDR is {SPIFFE}analytics, and not impostor."),
    "oldtls": ("old", r"oldtls allows no TLS version that management offers (alert protocol_version)."),
    "weaksuite": ("suites", r"weaksuite finds nothing that it allows in what management offers (alert handshake_failure)."),
    "oddgroup": ("groups", r"oddgroup finds nothing that it allows in what management offers (alert handshake_failure)."),
    "plain": ("http", "What listens at ADDR does not speak TLS: it is no sidecar of plain."),
    "silent": ("silent", "ADDR takes the connection of management, and then says nothing."),
    "deaf": ("deaf", "ADDR ends the connection of management without a word."),
    "nobody": (None, "Nobody listens at ADDR, where the sidecar of nobody says it is."),
    "nohost": (None, r"ADDR, where the sidecar of nohost says it is, (does not answer|cannot be reached)\."),
}
PORTS = {name: 17100 + i for i, name in enumerate(ODD)}


def trials(*more):
    """The mesh of every test, with a link from management to each odd subsystem."""
    links = [*LINKS, *((f"management-{name}", "management", name, 15200 + i, 9100 + i) for i, name in enumerate(ODD)), *more]
    doc = document(links=links)
    known = {s["name"] for s in doc["subsystems"]}
    doc["subsystems"] += [{"name": name, "namespace": "apim"} for _, *ends, _, _ in links for name in ends
                          if name not in known and not known.add(name)]
    doc["profiles"] += [{"name": f"old-{role.lower()}", "role": role, "max_version": "TLS1_2"} for role in ("CLIENT", "SERVER")]
    next(link for link in doc["links"] if link["server"] == "weaksuite").update(client_profile="old-client",
                                                                                 server_profile="old-server")
    return doc


def why(mesh, client, server, *flags):
    """Its first sentence, exit status, and the whole report."""
    done = mesh.ctl("why", client, server, "--timeout", "1s", *flags, "-o", "json", check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert STATES[report["state"]] == done.returncode, (report, done.returncode)
    return report["links"][0]["because"], done.returncode, report


def expect(mesh, client, server, sentence, status, *flags):
    """The report that says it, word by word or as a regular expression; what becomes known within moments is waited for."""
    got = []

    def says():
        got[:] = why(mesh, client, server, *flags)
        return (got[0] == sentence or re.fullmatch(sentence, got[0])) and got[1] == status

    try:
        wait_for(repr(sentence), says, 30, 0.1)
    except LabError:
        raise AssertionError((sentence, status), got[:2], got[2:]) from None
    return got[2]["links"][0]


def details(link):
    return {d["name"]: d["text"] for d in link.get("details", [])}


@pytest.fixture(scope="module")
def odd(mesh, folder):
    """The odd subsystems' sidecars, and what is where they say they are."""
    mesh.apply(trials())
    host = mesh.network["portal"]
    place = folder / "odd"
    place.mkdir()
    ca = pki.Ca()
    stranger = ca.issue(SPIFFE + "wrongca").write(place, "stranger")
    wrong = mesh.certificate("analytics", place / "analytics")
    specs = [f"{PORTS[name]}:{kind}" + {"wrongca": ":{}:{}".format(*stranger)}.get(
                 name, ":{}:{}".format(*wrong) if kind in ("tls", "old", "suites", "groups") else "")
             for name, (kind, _) in ODD.items() if kind]
    server = Process("odd", ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.odd_server", *specs], folder, host)
    wait_for("they listen", lambda: "listening" in server.tail())
    for name, port in PORTS.items():
        at = "10.77.0.99" if name == "nohost" else host.v4
        mesh.start_sidecar(name, "--inbound-listen", f"0.0.0.0:{port - 1000}", "--advertise", f"{at}:{port}", "--workers", "1",
                           host="portal", ready=False)
    wait_for("all have joined", lambda: {w["subsystem"] for w in mesh.workloads()} >= set(ODD))
    mesh.wait_in_sync()
    yield
    server.stop()


@pytest.fixture(scope="module")
def app(mesh, folder):
    """An application behind portal that tells of each connection."""
    made = Process("counts", ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.odd_server", "8081:counts"], folder,
                   mesh.network["portal"])
    wait_for("it listens", lambda: "listening" in made.tail())
    yield made
    made.stop()


@contextmanager
def revoked(mesh, *what):
    number = int(mesh.ctl_json("status")["in_sync"])
    mesh.ctl("revoke", *what, "--reason", "trial", "--wait")
    try:
        yield
    finally:
        entry = mesh.ctl_json("get", "revocations")["revocations"][-1]
        mesh.ctl("lift", entry["id"])
        mesh.wait_in_sync(number)  # who was revoked is back


def python(mesh, host, code, *args):
    """A program of a few lines on a host of the mesh."""
    done = mesh.network[host].run(sys.executable, "-c", code, *map(str, args), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def memory(pid):
    """Bytes of its own in RAM (the child that `ip netns exec` became)."""
    return int(re.search(r"Private_Dirty: *(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text()).group(1)) << 10


# What the control plane knows.


def test_what_was_never_declared_is_denied(mesh):
    expect(mesh, "portal", "gateway", "No link lets portal connect to gateway.", FAILS)
    expect(mesh, "portal", "management", "No link lets portal connect to management; there is one the other way only.", FAILS)


def test_names_that_there_are_not(mesh):
    done = mesh.ctl("why", "nobody", "gateway", check=False)
    assert done.returncode == UNKNOWN and 'no subsystem "nobody"; there are: ' in done.stderr
    done = mesh.ctl("why", "management", "gateway", "--link", "gateway-analytics", check=False)
    assert done.returncode == UNKNOWN and 'no link "gateway-analytics" lets management connect to gateway' in done.stderr


def test_a_subsystem_without_a_sidecar(mesh):
    mesh.apply(document(links=LINKS) | {"subsystems": [*document()["subsystems"], {"name": "billing", "namespace": "apim"}],
                                        "links": [*document()["links"], {"name": "portal-billing", "client": "portal",
                                                                         "server": "billing", "client_port": 15120,
                                                                         "server_port": 8090}]})
    link = expect(mesh, "portal", "billing", "No sidecar of billing has ever connected.", FAILS)
    assert "token create billing" in link["hint"]


# What a trial finds.


@pytest.mark.sanitize
def test_it_works_and_no_application_hears_of_the_trial(mesh, app):
    for _ in range(3):
        link = expect(mesh, "management", "portal", "management reaches portal over management-portal: tried now, TLSv1.3 with "
                      "TLS_AES_128_GCM_SHA256.", WORKS)
    assert "hint" not in link
    assert "connection" not in app.tail()
    told = mesh.ctl("why", "management", "portal")
    assert told.stdout.startswith("management reaches portal over management-portal: tried now") and "\033" not in told.stdout
    python(mesh, "management", "import socket; s = socket.create_connection(('127.0.0.1', 15101)); s.sendall(b'x'); "
           "assert s.recv(1) == b'x'")
    wait_for("a real one is seen", lambda: app.tail().count("connection") == 1)


PARTNER = "partner.example.com"
OUTSIDERS = {
    "overdue": r"The certificate of overdue expired (59 min|1 h|60 min) ago by the clock of management\.",
    "unlisted": r"management has no revocation list of an issuer of unlisted's certificate\.",
    "stale": r"The revocation list of an issuer of stale's certificate is stale at management\.",
}


@pytest.fixture(scope="module")
def outsiders(mesh, folder):
    """Servers with certificates of a partner's CA, which management takes by truststores of its own: one has expired, one
    has an issuer of which there is no list, one an issuer whose list was good when it was brought."""
    place = folder / "outsiders"
    place.mkdir()
    root = pki.Ca("partner root")
    issuing = pki.Ca("partner issuing", above=root)
    lists, ends_s = OpensslCrl(place, "lists", root), 20
    texts = {"overdue": [], "unlisted": [lists.make().decode()], "stale": [lists.make(ends_s=ends_s).decode()]}
    certs = {"overdue": root.issue(dns=[PARTNER], begins_s=-7200, valid_s=-3600),
             "unlisted": issuing.issue(dns=[PARTNER]), "stale": root.issue(dns=[PARTNER])}
    ports = {name: 17200 + i for i, name in enumerate(OUTSIDERS)}
    doc = trials(*((f"management-{name}", "management", name, 15400 + i, 9200 + i) for i, name in enumerate(OUTSIDERS)))
    doc["truststores"] = [{"name": name, "pem": [root.root_pem().decode()], "crl_pem": texts[name]} for name in OUTSIDERS]
    for name in OUTSIDERS:
        doc["profiles"].append({"name": f"{name}-client", "role": "CLIENT", "truststore": name, "peer_names": [PARTNER]})
        next(link for link in doc["links"] if link["server"] == name).update(client_profile=f"{name}-client",
                                                                             server_profile="partner-server")
    # What its sidecars would show; who answers in their place shows what is on trial.
    chain, key = root.issue(dns=[PARTNER]).write(place, "good")
    mesh.ctl("elevate", "--for", "10m", "--reason", "trial")
    mesh.ctl("import", "keystore", "partner", "--chain", chain, "--private-key", key)
    doc["profiles"].append({"name": "partner-server", "role": "SERVER", "keystore": "partner"})
    mesh.apply(doc)
    specs = ["{}:tls:{}:{}".format(ports[name], *certs[name].write(place, name)) for name in OUTSIDERS]
    host = mesh.network["portal"]
    server = Process("outsiders", ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.odd_server", *specs], folder, host)
    wait_for("they listen", lambda: "listening" in server.tail())
    for name, port in ports.items():
        mesh.start_sidecar(name, "--inbound-listen", f"0.0.0.0:{port - 1000}", "--advertise", f"{host.v4}:{port}", "--workers", "1",
                           host="portal", ready=False)
    wait_for("all have joined", lambda: {w["subsystem"] for w in mesh.workloads()} >= set(OUTSIDERS))
    mesh.wait_in_sync()
    yield doc
    server.stop()


@pytest.mark.parametrize("name", OUTSIDERS)
def test_certificates_that_count_no_more(mesh, outsiders, name):
    link = expect(mesh, "management", name, OUTSIDERS[name], FAILS)
    assert details(link)["offered"].endswith(f"; a server certificate of the CAs of truststore {name} for {PARTNER}")
    if name == "overdue":
        assert "expired" in details(link)["certificate"]


def test_what_a_profile_requires_is_said_as_it_is(mesh, outsiders):
    """Of the server's profile, by the truststore that it names."""
    doc = json.loads(json.dumps(outsiders))
    pem = doc["truststores"][0]["pem"]
    wanted = {
        "of this mesh": {},
        "of the CAs of truststore theirs for a.example.com or b.example.com":
            {"truststore": "theirs", "peer_names": ["a.example.com", "b.example.com"]},
        "of this mesh, or one of the CAs of truststore all for a.example.com":
            {"truststore": "all", "peer_names": ["a.example.com"]},
    }
    doc["truststores"] += [{"name": "theirs", "pem": pem}, {"name": "all", "mesh_roots": True, "pem": pem}]
    for says, fields in wanted.items():
        doc["profiles"] = [p for p in doc["profiles"] if p["name"] != "trial-server"] + [
            {"name": "trial-server", "role": "SERVER", "min_version": "TLS1_3", **fields}]
        doc["links"][0]["server_profile"] = "trial-server"
        mesh.apply(doc)
        link = why(mesh, "management", "portal", "--no-probe")[2]["links"][0]
        assert details(link)["required"].endswith(f"; a client certificate {says}"), details(link)
    mesh.apply(outsiders)
    mesh.wait_in_sync(4)


def test_an_application_that_is_down(mesh):
    link = expect(mesh, "management", "gateway", "The application behind gateway does not listen on 127.0.0.1:8082.", FAILS)
    assert "between the sidecars all is well" in link["hint"]


@pytest.mark.sanitize
@pytest.mark.parametrize("name", ODD)
def test_what_sits_where_a_sidecar_says_it_is(mesh, odd, name):
    sentence = ODD[name][1]
    if name != "nohost":
        sentence = sentence.replace("ADDR", f"{mesh.network['portal'].v4}:{PORTS[name]}")
    else:
        sentence = sentence.replace("ADDR", f"10.77.0.99:{PORTS[name]}")
    link = expect(mesh, "management", name, sentence, FAILS)
    if name == "wrongca":
        assert SPIFFE + "wrongca" in details(link)["certificate"] and "leads to no trusted root" in details(link)["certificate"]
    profile = "old-client: TLS1_2 to TLS1_2" if name == "weaksuite" else "mesh-client: TLS1_3 to TLS1_3"
    assert details(link)["offered"].startswith(f"profile {profile}; suites: ")
    assert "BEGIN" not in json.dumps(link) and "mjt" not in json.dumps(link)


@pytest.mark.sanitize
def test_a_revoked_server_and_a_revoked_client(mesh):
    for name in ("portal", "management"):
        with revoked(mesh, "subsystem", name):
            link = expect(mesh, "management", "portal", f"{name} is revoked: its identity {SPIFFE}{name} (trial, by uid:0).", FAILS)
            assert "mortisectl lift" in link["hint"]
    serial = next(w for w in mesh.workloads() if w["subsystem"] == "portal")["status"]["certificate_serial"]
    with revoked(mesh, "serial", serial):
        expect(mesh, "management", "portal", f"portal is revoked: its certificate {serial} (trial, by uid:0).", FAILS)


def test_a_configuration_that_is_refused(mesh):
    host = mesh.network["management"]
    taken = subprocess.Popen(host.command(sys.executable, "-c", "import socket; s = socket.create_server(('127.0.0.1', 15199)); "
                                          "print('there', flush=True); s.accept()"), stdout=subprocess.PIPE)
    doc = trials()
    try:
        assert taken.stdout.readline() == b"there\n"
        doc["links"][1] = {**doc["links"][1], "name": "new-link", "client_port": 15199}
        mesh.apply(doc, "--prune")
        expect(mesh, "management", "gateway", rf"The sidecar of management {ID} refuses configuration \d+ and keeps the one before: "
               r"outbound\[\d+\]\.listen: .*127\.0\.0\.1:15199.*", FAILS)
    finally:
        taken.kill()
        taken.wait()
        mesh.apply(trials(), "--prune")
    mesh.wait_in_sync(4)


def test_a_rotation_that_is_half_done(mesh):
    stopped = mesh.sidecar("analytics")
    stopped.signal(19)
    try:
        mesh.ctl("rotate", "root")
        expect(mesh, "management", "analytics", rf"A rotation of the root \(distribute\) is half done: analytics {ID} .*", UNKNOWN,
               "--no-probe")
    finally:
        stopped.signal(18)
    wait_for("it has ended", lambda: mesh.ctl_json("rotate", "status").get("stage") == "idle", 120)


# What the server's sidecar remembers.


def test_a_client_without_a_certificate(mesh):
    code = """if 1:
        import socket, ssl, sys
        made = ssl.create_default_context(); made.check_hostname = False; made.verify_mode = ssl.CERT_NONE
        try:
            with made.wrap_socket(socket.create_connection((sys.argv[1], 15443)), server_hostname='management-portal.mortise.internal') as s:
                s.recv(1)
        except (OSError, ssl.SSLError):
            pass"""
    python(mesh, "gateway", code, mesh.network["portal"].v4)
    at = re.escape(mesh.network["gateway"].v4)
    link = expect(mesh, "management", "portal", rf"It failed \d+ s ago: a client at {at}:\d+ showed no certificate to portal\.",
                  UNKNOWN, "--no-probe")
    assert details(link)["heard"].startswith("TLS1_3, TLS1_2")
    assert link["server_failures"][0]["error"] == "cert_missing" and len(link["server_failures"][0]["keys"][0]) == 16


def test_a_client_that_the_link_is_not_for(mesh, folder):
    cert, key = mesh.certificate("gateway", folder / "gateway-cert")
    code = """if 1:
        import socket, ssl, sys
        made = ssl.create_default_context(); made.check_hostname = False; made.verify_mode = ssl.CERT_NONE
        made.load_cert_chain(*sys.argv[2:])
        try:
            with made.wrap_socket(socket.create_connection((sys.argv[1], 15443)), server_hostname='management-portal.mortise.internal') as s:
                s.recv(1)
        except (OSError, ssl.SSLError):
            pass"""
    python(mesh, "gateway", code, mesh.network["portal"].v4, cert, key)
    expect(mesh, "management", "portal", rf"It failed \d+ s ago: portal lets {SPIFFE}gateway not use this link: no link allows it\.",
           UNKNOWN, "--no-probe")


def test_plaintext_to_the_mtls_port(mesh):
    python(mesh, "management", "import socket, sys; s = socket.create_connection((sys.argv[1], 15443)); s.sendall(b'GET / HTTP/1.1\\r\\n');"
           " s.recv(100)", mesh.network["portal"].v4)
    expect(mesh, "management", "portal", r"It failed \d+ s ago: Plaintext came to the mTLS port of portal: somebody bypasses the "
           r"client's sidecar\.", UNKNOWN, "--no-probe")


@pytest.mark.sanitize
def test_both_ends_tell_of_one_connection(mesh, app):
    """An application's own failed connection, not a trial: the client saw an alert, the server knows why, and both call it the
    same."""
    with revoked(mesh, "subsystem", "management"):
        expect(mesh, "management", "portal", f"management is revoked: its identity {SPIFFE}management (trial, by uid:0).", FAILS)
        python(mesh, "management", """if 1:
            import socket
            s = socket.create_connection(('127.0.0.1', 15101))
            try:
                s.sendall(b'x')
                assert s.recv(1) == b''
            except ConnectionResetError:
                pass""")

    def joined():
        link = why(mesh, "management", "portal", "--no-probe")[2]["links"][0]
        client = {key for f in link.get("client_failures", []) if f["error"] == "tls_alert" for key in f["keys"]}
        return link if client & {key for f in link["server_failures"] if f["error"] == "peer_revoked" for key in f["keys"]} else None

    link = wait_for("both have told", joined, 60)
    assert re.fullmatch(r"It failed \d+ s ago: management is revoked, and portal refuses it\.", link["because"])
    expect(mesh, "management", "portal", "management reaches portal over management-portal: tried now, .*", WORKS)


# Floods.


@pytest.mark.sanitize
def test_a_flood_of_failures_is_a_few_kinds(mesh, odd):
    """Strangers fail thousands of times, in every way and with every name: a few kinds are kept and told."""
    code = """if 1:
        import socket, ssl, sys
        def tls(name):
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); made.check_hostname = False; made.verify_mode = ssl.CERT_NONE
            into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
            try:
                made.wrap_bio(into, out, server_hostname=name).do_handshake()
            except ssl.SSLWantReadError:
                return out.read()
        kinds = [b'GET / HTTP/1.1', b'\\x16\\x03\\x01\\x00', b'', tls('management-portal.mortise.internal')]
        for i in range(3000):
            data = kinds[i % 4] if i % 8 else tls('x%d.mortise.internal' % i)
            try:
                with socket.create_connection((sys.argv[1], 15443)) as s:
                    s.sendall(data)
                    s.shutdown(socket.SHUT_WR)
                    s.recv(1)
            except OSError:
                pass"""
    before = memory(mesh.sidecar("portal").pid)
    python(mesh, "management", code, mesh.network["portal"].v4)

    def heard():
        link = why(mesh, "management", "portal", "--no-probe")[2]["links"][0]
        return link if sum(int(f["number"]) for f in link["server_failures"]) > 1000 else None

    link = wait_for("it is told", heard, 60)
    assert len(link["server_failures"]) <= 8
    assert len(json.dumps(link)) < 32768
    if CONFIG == "opt":  # a sanitizer keeps what was freed
        assert memory(mesh.sidecar("portal").pid) - before < 16 << 20
    expect(mesh, "management", "portal", "management reaches portal over management-portal: tried now, .*", WORKS)


# Clocks.


@pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
def test_a_wrong_clock(mesh, folder):
    mesh.apply(trials(("late-portal", "late", "portal", 15300, 8081)))
    place = folder / "jump"
    place.mkdir()
    clock = ClockJump(place)
    mesh.start_sidecar("late", "--inbound-listen", "0.0.0.0:16300", "--advertise", f"{mesh.network['gateway'].v4}:16300",
                       host="gateway", env=clock.env)
    expect(mesh, "late", "portal", "late reaches portal over late-portal: tried now, .*", WORKS)
    clock.set(-7200)
    expect(mesh, "late", "portal", rf"The clock of late {ID} is (2 h|119 min) behind the control plane's: the certificate of portal is "
           r"valid only in 11\d min by the clock of late\.", FAILS)
    clock.set(49 * 3600)
    link = expect(mesh, "late", "portal", rf"The clock of late {ID} is 2 days ahead of the control plane's\.", FAILS)
    assert link["hint"] == "set the time on that host"


# Who is away, last: the others' sidecars stay away.


def test_a_server_that_has_gone(mesh):
    mesh.sidecar("portal").kill()
    expect(mesh, "management", "portal", "No sidecar of portal is connected to the control plane, and nobody answers at "
           f"{mesh.network['portal'].v4}:{INBOUND_PORT}.", FAILS)


def test_a_client_that_has_gone(mesh):
    mesh.sidecar("gateway").kill()
    expect(mesh, "gateway", "analytics", "No sidecar of gateway is connected to the control plane.", UNKNOWN)
