"""Without this a rule that keeps somebody out of a link would hold for new connections only, or for names that look alike, or would
vanish unseen: a policy is judged at the handshake and for what is open, at both ends, by exact names; who is kept out is told which
policy it was; and nobody takes one away without saying that it is meant.

Drives: F19, A9, F6, F12, R8, R13"""
import json
import socket
import subprocess
import time

import pytest

from deploy.lab.mesh import LINKS, document
from deploy.lab.programs import wait_for
from test.testlib import tls_peer
from test.testlib.echo_app import EchoApp
from test.testlib.held import Held
from test.testlib.static import CLIENT_ID, SERVER_ID, TRUST_DOMAIN, StaticPair

SPIFFE = "spiffe://mesh.test/ns/apim/sa/"
NUMBERS = {"management-portal": 6, "management-gateway": 3, "management-analytics": 4, "gateway-analytics": 5}
CUT_S = 5  # within which a policy reaches what is open
FREEZE = {"name": "freeze", "action": "DENY", "links": ["management-analytics"], "peers": [SPIFFE + "management"]}
ONLY = {"name": "only-gateway", "action": "ALLOW", "links": ["management-analytics", "gateway-analytics"],
        "peers": [SPIFFE + "gateway"]}


# ---- a mesh ----

@pytest.fixture(scope="module")
def held(mesh):
    made = Held(mesh)
    try:
        made.serve("portal", 8081)
        made.serve("gateway", 8082)
        made.serve("analytics", 8083, 9083)
        made.ended = {}
        for name, client, _, port, _ in LINKS:
            made.ended[name] = made.hold(client, port, NUMBERS[name])
        yield made
    finally:
        made.stop()


@pytest.fixture
def again(mesh, held):
    """At the end the mesh is as before, with its connections."""
    yield
    mesh.apply(document(), "--prune", "--wait")
    for name, client, _, port, _ in LINKS:
        gone = held.ended[name]()
        if gone:
            more, before = held.hold(client, port, gone), held.ended[name]
            held.ended[name] = lambda a=before, b=more, n=gone: a() - n + b()


def ended(held):
    return {name: number for name in NUMBERS if (number := held.ended[name]())}


def put(mesh, *policies, **flags):
    return mesh.apply({"policies": list(policies)}, "--wait", **flags)


def refused(mesh, client, port):
    """What the application sees: an end without a byte."""
    code = ("import socket; s = socket.create_connection(('127.0.0.1', %d), 10); s.settimeout(10); s.sendall(b'x'); "
            "print(len(s.recv(1)))" % port)
    done = mesh.network[client].run("python3", "-c", code, capture_output=True, text=True)
    return done.stdout.strip() != "1"


def lines(mesh, subsystem, known=0, **fields):
    return [e for e in mesh.sidecar(subsystem).events("connection")[known:]
            if all(e.get(key) == value for key, value in fields.items())]


def why(mesh, client, server):
    done = mesh.ctl("why", client, server, "-o", "json", check=False)
    return json.loads(done.stdout)["links"][0], done.returncode


def would_end(mesh, *args):
    done = mesh.ctl(*args, "--dry-run")
    found = {}
    for line in done.stdout.splitlines():
        who, found_it, counts = line.partition(" live connections would end: ")
        if found_it:
            found[who.split()[0]] = {part.split()[1]: int(part.split()[0]) for part in counts.split(", ")}
    return found, done.stdout


@pytest.mark.sanitize
def test_a_denied_peer_is_cut_and_kept_out_and_nobody_else_is(mesh, held, again):
    known = len(mesh.sidecar("analytics").events("connection"))
    put(mesh, FREEZE)
    begun = time.monotonic()
    wait_for("its connections end", lambda: held.ended["management-analytics"]() == NUMBERS["management-analytics"], CUT_S)
    assert time.monotonic() - begun < CUT_S
    assert ended(held) == {"management-analytics": 4}, "others were touched"
    cut = lines(mesh, "analytics", known, policy="freeze")
    assert len(cut) == 4 and {(e["reason"], e["error"], e["link"], e["peer_id"], e["allowed_by"]) for e in cut} == {
        ("policy", "policy_denied", "management-analytics", SPIFFE + "management", "management-analytics")}
    assert refused(mesh, "management", 15103) and not refused(mesh, "gateway", 15104) and not refused(mesh, "management", 15101)
    new = wait_for("it is in the log", lambda: lines(mesh, "analytics", known, policy="freeze")[4:])[0]
    assert new["reason"] == "policy" and new["claimed_id"] == SPIFFE + "management" and "allowed_by" not in new
    assert mesh.sidecar("analytics").metrics()[
        'mortise_policy_denied_total{direction="inbound",link="management-analytics",policy="freeze"}'] >= 5
    link, status = why(mesh, "management", "analytics")
    assert status == 1 and link["because"] == (
        f"Policy freeze denies management ({SPIFFE}management) on link management-analytics."), link
    link, status = why(mesh, "gateway", "analytics")
    assert status == 0 and "denies" not in link["because"], link


@pytest.mark.sanitize
def test_a_denied_server_is_left_by_its_clients(mesh, held, again):
    known = len(mesh.sidecar("management").events("connection"))
    put(mesh, {"name": "no-portal", "action": "DENY", "peers": [SPIFFE + "portal"]})
    wait_for("its connections end", lambda: held.ended["management-portal"]() == NUMBERS["management-portal"], CUT_S)
    assert ended(held) == {"management-portal": 6}
    assert {(e["direction"], e["reason"]) for e in lines(mesh, "management", known, policy="no-portal")} == {("outbound", "policy")}
    link, status = why(mesh, "management", "portal")
    assert status == 1 and link["because"] == f"Policy no-portal denies portal ({SPIFFE}portal) on link management-portal."


@pytest.mark.sanitize
def test_an_allow_leaves_its_peers_and_ends_the_others(mesh, held, again):
    put(mesh, ONLY)
    wait_for("the others end", lambda: held.ended["management-analytics"]() == NUMBERS["management-analytics"], CUT_S)
    assert ended(held) == {"management-analytics": 4}
    assert refused(mesh, "management", 15103) and not refused(mesh, "gateway", 15104)
    link, status = why(mesh, "management", "analytics")
    assert status == 1 and link["because"] == (
        f"Policy only-gateway denies management ({SPIFFE}management) on link management-analytics: it allows others only.")
    # A DENY goes before it.
    put(mesh, {"name": "none", "action": "DENY", "links": ["gateway-analytics"], "peers": ["spiffe://mesh.test/ns/apim/*"]})
    wait_for("its own end, too", lambda: held.ended["gateway-analytics"]() == NUMBERS["gateway-analytics"], CUT_S)
    assert why(mesh, "gateway", "analytics")[0]["because"].startswith("Policy none denies gateway")


def test_a_dry_run_names_what_would_end_and_ends_nothing(mesh, held, again):
    version, path = mesh.version(), mesh.folder / "freeze.yaml"
    path.write_text(json.dumps({"policies": [FREEZE, {**FREEZE, "name": "gone", "links": [], "peers": [SPIFFE + "portal"]}]}))
    found, text = would_end(mesh, "apply", "-f", path)
    assert found == {"analytics": {"policy": 4}, "management": {"policy": 6}}, text
    assert text.count(": policy freeze\n") == 4 and ": policy gone\n" in text
    assert mesh.version() == version and not ended(held)
    # What lets in more ends nothing.
    put(mesh, ONLY)
    path.write_text(json.dumps({"policies": [{**ONLY, "peers": [SPIFFE + "gateway", SPIFFE + "management"]}]}))
    found, text = would_end(mesh, "apply", "-f", path, "--allow-weaker")
    assert not found and "no live connection would end" in text


# ---- what is refused, and what has to be meant ----

def test_a_link_that_is_not_there_is_named_with_the_nearest_one(mesh, held):
    done = put(mesh, {**FREEZE, "links": ["management-analytic"]}, check=False)
    assert done.returncode == 1 and ('policies[0].links[0]: no link "management-analytic" (meant was management-analytics?); '
                                     "there are: management-portal") in done.stderr


@pytest.mark.parametrize("change, path, says", [
    ({"action": None}, "action", "is missing: ALLOW"),
    ({"peers": []}, "peers", "is missing"),
    ({"peers": ["portal"]}, "peers[0]", "not a SPIFFE ID (byte 1)"),
    ({"peers": [SPIFFE + "portal/"]}, "peers[0]", "not a SPIFFE ID"),
    ({"peers": [SPIFFE + "%70ortal"]}, "peers[0]", "not a SPIFFE ID"),
    ({"peers": ["spiffe://Mesh.test/ns/apim/sa/portal"]}, "peers[0]", "not a SPIFFE ID"),
    ({"peers": [SPIFFE + "por*"]}, "peers[0]", "not a SPIFFE ID"),
    ({"peers": ["spiffe://mesh.test"]}, "peers[0]", "all of it are spiffe://mesh.test/*"),
    ({"peers": [SPIFFE + "portal"] * 2}, "peers[1]", "there twice"),
    ({"name": "Freeze"}, "name", "is not a name"),
    ({"description": "x" * 513}, "description", "longer than 512"),
], ids=lambda v: None if isinstance(v, str) else "-".join(v))
def test_what_is_no_policy_is_refused_with_its_field(mesh, held, change, path, says):
    policy = {key: value for key, value in {**FREEZE, **change}.items() if value is not None}
    done = put(mesh, policy, check=False)
    assert done.returncode == 1 and f"policies[0].{path}: " in done.stderr and says in done.stderr, done.stderr
    assert not mesh.ctl_json("get", "policies").get("policies")


def test_what_lets_in_more_has_to_be_meant(mesh, held, again):
    put(mesh, FREEZE, ONLY, weaker=False)  # to keep somebody out needs no word
    version = mesh.version()
    for args in (("delete", "policy", "freeze"), ("delete", "policy", "only-gateway")):
        done = mesh.ctl(*args, check=False)
        assert done.returncode == 1 and "--allow-weaker" in done.stderr, done.stderr
    for policy, says in (({**FREEZE, "peers": [SPIFFE + "portal"]}, f"policy freeze: DENY no longer of {SPIFFE}management"),
                         ({**FREEZE, "links": ["gateway-analytics"]}, "policy freeze: DENY no longer on link management-analytics"),
                         ({**FREEZE, "action": "ALLOW"}, "policy freeze: DENY removed"),
                         ({**ONLY, "peers": ["spiffe://mesh.test/*"]}, "policy only-gateway: ALLOW also of spiffe://mesh.test/*"),
                         ({**ONLY, "name": "also", "peers": [SPIFFE + "management"]}, "policy also: ALLOW added")):
        done = put(mesh, policy, weaker=False, check=False)
        assert done.returncode == 1 and says in done.stderr, done.stderr
    assert mesh.version() == version
    mesh.ctl("delete", "policy", "freeze", "--allow-weaker")
    records = [json.loads(line) for line in mesh.ctl("audit", "search", "--action", "mesh.apply", "-o", "json").stdout.splitlines()]
    newest = [r for r in records if r["outcome"] == "OK"][-1]  # refusals are written a moment later
    assert newest["weaker"] == ["policy freeze: DENY removed"], records


def test_a_policy_is_a_thing_of_the_mesh_as_others_are(mesh, held, again, tmp_path):
    put(mesh, {**FREEZE, "peers": [SPIFFE + "portal"], "description": "portal is not to be here"})
    assert mesh.ctl_json("get", "policies", "freeze")["policies"][0]["peers"] == [SPIFFE + "portal"]
    for form in ("table", "wide"):
        shown = mesh.ctl("get", "policies", "-o", form).stdout
        assert "DENY" in shown and "management-analytics" in shown and ("is not to be here" in shown) == (form == "wide")
    assert "policies:" in mesh.ctl("get", "mesh", "-o", "yaml").stdout
    assert "policies:" in mesh.ctl("export").stdout
    assert "freeze" in mesh.ctl("completion", "names", "policy").stdout
    done = mesh.ctl("delete", "link", "management-analytics", check=False)
    assert done.returncode == 1 and "policy freeze: links" in done.stderr and "in use" in done.stderr
    mesh.ctl("clone", "policy", "freeze", "thaw")
    shown = mesh.ctl("describe", "policy", "thaw").stdout
    assert "action: DENY" in shown and "Changes" in shown
    shown = mesh.ctl("describe", "link", "management-analytics").stdout
    assert "freeze: DENY of 1 peer\n" in shown and "thaw: DENY of 1 peer\n" in shown
    mesh.ctl("delete", "policy", "freeze")  # nothing to be meant: the clone says the same
    assert "policy freeze: removed" in mesh.ctl("history").stdout
    path = tmp_path / "thaw.yaml"
    path.write_text(json.dumps({"policies": [{**FREEZE, "name": "thaw"}]}))
    assert SPIFFE + "management" in mesh.ctl("diff", "-f", path, check=False).stdout
    base = tmp_path / "base.yaml"
    base.write_text(mesh.ctl("export").stdout)
    done = subprocess.run([mesh.bin.ctl, "validate", "-f", path, "--base", base], capture_output=True, text=True, timeout=60)
    assert f"weaker, wants --allow-weaker: policy thaw: DENY no longer of {SPIFFE}portal" in done.stdout, done


# ---- static mode, and names that look alike ----

OTHERS = {
    "begins-alike": CLIENT_ID + "2",
    "shorter": CLIENT_ID[:-1],
    "other-case": CLIENT_ID.replace("client", "Client"),
    "below": CLIENT_ID + "/x",
    "other-domain": CLIENT_ID.replace(TRUST_DOMAIN, "other.test"),
}
NO_IDS = {
    "slash": CLIENT_ID + "/",
    "percent": CLIENT_ID.replace("client", "%63lient"),
    "double-slash": CLIENT_ID.replace("/sa/", "//sa/"),
    "scheme": CLIENT_ID.replace("spiffe", "SPIFFE"),
    "domain-case": CLIENT_ID.replace(TRUST_DOMAIN, "Static.test"),
}


class Pair(StaticPair):
    """The server lets in all of them; policies are set by the test."""

    def __init__(self, *args, **kwargs):
        self.policies, self.own = [], []
        super().__init__(*args, **kwargs)

    def config(self, side):
        made = super().config(side)
        if side == "server":
            made["truststores"][0].pop("trust_domain")  # of any domain
            made["inbound"]["links"][0]["peers"]["spiffe_ids"] = [CLIENT_ID, *OTHERS.values()]
        return {**made, "policies": self.policies if side == "server" else self.own}

    def set(self, *policies, side="server"):
        before = self.config(side)
        if side == "server":
            self.policies = list(policies)
        else:
            self.own = list(policies)
        if self.config(side) == before:
            return
        known = self[side].config()["generation"]
        self.write(side)
        wait_for("it is in force", lambda: self[side].config()["generation"] > known)

    def call(self, uri):
        cert = self.ca.issue(uri)
        cert.write(self.folder, "peer")
        return tls_peer.call(self.tls_port, tls_peer.context("client", self.roots, self.paths("peer")))


@pytest.fixture(scope="module")
def pair(folder, binaries):
    made = Pair(folder, binaries)
    with EchoApp(made.target_port):
        made.start()
        yield made
        made.stop()


@pytest.mark.sanitize
def test_names_that_look_like_a_denied_one_are_others(pair):
    pair.set({"name": "deny", "action": "DENY", "links": ["link"], "peers": [CLIENT_ID]})
    with pytest.raises(tls_peer.Refused):
        pair.call(CLIENT_ID)
    assert pair.new_line("server", reason="policy")["policy"] == "deny"
    for uri in OTHERS.values():
        pair.call(uri)
    for uri in NO_IDS.values():  # no identity at all, whatever policies say
        with pytest.raises(tls_peer.Refused):
            pair.call(uri)


@pytest.mark.sanitize
def test_names_that_look_like_an_allowed_one_are_others(pair):
    pair.set({"name": "only", "action": "ALLOW", "peers": [CLIENT_ID]})
    pair.call(CLIENT_ID)
    for uri in (*OTHERS.values(), *NO_IDS.values()):
        with pytest.raises(tls_peer.Refused):
            pair.call(uri)
    pair.set({"name": "below", "action": "ALLOW", "peers": [f"spiffe://{TRUST_DOMAIN}/ns/test/sa/client/*"]})
    pair.call(OTHERS["below"])
    for uri in (CLIENT_ID, OTHERS["begins-alike"], OTHERS["other-domain"]):
        with pytest.raises(tls_peer.Refused):
            pair.call(uri)
    pair.set({"name": "domain", "action": "DENY", "peers": [f"spiffe://{TRUST_DOMAIN}/*"]})
    pair.call(OTHERS["other-domain"])
    with pytest.raises(tls_peer.Refused):
        pair.call(OTHERS["other-case"])


@pytest.mark.sanitize
@pytest.mark.parametrize("side, peer", [("server", CLIENT_ID), ("client", SERVER_ID)])
def test_a_changed_file_cuts_what_is_open(pair, side, peer):
    pair.set()
    known = len(pair.lines(side))
    sock = socket.create_connection(("127.0.0.1", pair.app_port), 10)
    sock.settimeout(CUT_S)
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"
    pair.set({"name": "cut", "action": "DENY", "peers": [peer]}, side=side)
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        pass
    line = pair.new_line(side, known, policy="cut")
    assert (line["reason"], line["error"], line["peer_id"]) == ("policy", "policy_denied", peer)
    pair.set(side=side)
    with socket.create_connection(("127.0.0.1", pair.app_port), 10) as sock:
        sock.settimeout(10)
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"


def test_a_file_with_a_wrong_policy_is_refused_and_the_old_stays(pair):
    pair.set({"name": "deny", "action": "DENY", "peers": [CLIENT_ID]})
    generation = pair["server"].config()["generation"]
    rejected = pair["server"].metrics()["mortise_config_rejected_total"]
    pair.policies = [{"name": "deny", "action": "DENY", "links": ["lunk"], "peers": [CLIENT_ID]}]
    pair.write("server")
    wait_for("it is refused", lambda: pair["server"].metrics()["mortise_config_rejected_total"] > rejected)
    refusal = pair["server"].events("reload_refused")[-1]
    assert refusal["field"] == "policies[0].links[0]" and 'no link "lunk" (meant was link?)' in refusal["reason"]
    assert pair["server"].config()["generation"] == generation
    with pytest.raises(tls_peer.Refused):
        pair.call(CLIENT_ID)
    pair.set()
    pair.call(CLIENT_ID)
