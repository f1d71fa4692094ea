"""Without this an operator would change a policy and learn from his users what it cut: who is connected is told by the
sidecars themselves, a dry run names just those connections that the change then ends, and a sidecar that is silent, old or
hostile is named and holds nobody up.

Drives: F6, F13, R8"""
import collections
import json
import signal

import pytest

from deploy.lab.mesh import LINKS, document
from deploy.lab.programs import wait_for
from test.testlib.held import Held
from test.testlib.odd_sidecar import OddSidecar
from test.testlib.stubs import stubs

PORTAL = "spiffe://mesh.test/ns/apim/sa/portal"
NUMBERS = {"management-portal": 12, "management-gateway": 5, "management-analytics": 3, "gateway-analytics": 4}
CUT_S = 30


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
    for item in mesh.ctl_json("get", "revocations").get("revocations", []):
        mesh.ctl("lift", item["id"], "--wait")
    mesh.apply(document(), "--prune")
    wait_for("all four are back", lambda: len(mesh.workloads()) == 4, 60)
    mesh.wait_in_sync(4)
    for name, client, _, port, _ in LINKS:
        gone = held.ended[name]()
        if gone:
            more, before = held.hold(client, port, gone), held.ended[name]
            held.ended[name] = lambda a=before, b=more, n=gone: a() - n + b()


def connections(mesh, subsystem, *flags, check=True):
    done = mesh.ctl("get", "connections", subsystem, *flags, "-o", "json", check=check)
    return json.loads(done.stdout).get("sidecars", [])


def by_link(sidecars):
    return collections.Counter(c["link"] for s in sidecars for c in s.get("connections", []))


def ends(mesh, mark):
    """What the access logs say of connections that were open and were ended by their own sidecar."""
    found = collections.Counter()
    for name, program in mesh.sidecars.items():
        for event in program.events("connection")[mark.get(name, 0):]:
            if event.get("error") in ("policy_changed", "trust_changed", "peer_revoked") and "allowed_by" in event:
                found[name.removeprefix("proxy-"), event["link"], event["reason"]] += 1
    return found


def marks(mesh):
    return {name: len(program.events("connection")) for name, program in mesh.sidecars.items()}


def preview(mesh, *args, check=True):
    """{(subsystem, reason): number} that a dry run names, and the whole of what it said."""
    done = mesh.ctl(*args, "--dry-run", check=check)
    found = collections.Counter()
    for line in done.stdout.splitlines():
        if " live connections would end: " not in line:
            continue
        who, _, counts = line.partition(" live connections would end: ")
        for part in counts.split(", "):
            number, reason = part.split()
            found[who.split()[0], reason] += int(number)
    return found, done


def as_named(counter):
    found = collections.Counter()
    for (subsystem, _, reason), number in counter.items():
        found[subsystem, reason] += number
    return found


@pytest.mark.sanitize
def test_every_live_connection_is_shown_with_what_is_known_of_it(mesh, held):
    sidecar, = connections(mesh, "management")
    assert int(sidecar["total"]) == 20 and by_link([sidecar]) == {
        "management-portal": 12, "management-gateway": 5, "management-analytics": 3}
    one = next(c for c in sidecar["connections"] if c["link"] == "management-portal")
    portal = next(w for w in mesh.workloads() if w["subsystem"] == "portal")
    assert one["direction"] == "outbound" and one["peer_id"] == PORTAL
    assert one["peer_serial"] == portal["status"]["certificate_serial"]
    assert one["peer_address"] == portal["address"]
    assert one["tls_version"] == "TLSv1.3" and one["cipher"].startswith("TLS_") and one["group"]
    assert int(one["age_ms"]) > 0 and one["bytes_to_mesh"] == one["bytes_to_app"] == "1"
    assert int(one["generation"]) > 0
    # The same connections from the other end.
    sidecar, = connections(mesh, "portal")
    assert {c["direction"] for c in sidecar["connections"]} == {"inbound"} and int(sidecar["total"]) == 12
    # Some of them; all are counted.
    sidecar, = connections(mesh, "analytics", "--limit", 2)
    assert len(sidecar["connections"]) == 2 and int(sidecar["total"]) == 7
    sidecar, = connections(mesh, "analytics", "--link", "gateway-analytics")
    assert by_link([sidecar]) == {"gateway-analytics": 4}
    sidecar, = connections(mesh, "management", "--peer", PORTAL)
    assert by_link([sidecar]) == {"management-portal": 12}
    sidecar, = connections(mesh, "management", "--peer", one["peer_serial"], "--link", "management-gateway")
    assert "total" not in sidecar
    for output in ("table", "wide"):
        text = mesh.ctl("get", "connections", "portal", "-o", output).stdout
        assert text.count("management-portal") == 12 and "12 connections, 12 shown" in text


def test_what_cannot_be_asked_is_told(mesh):
    done = mesh.ctl("get", "connections", "nobody", check=False)
    assert done.returncode == 1 and 'no subsystem "nobody"; there are:' in done.stderr
    assert mesh.ctl("get", "connections", check=False).returncode == 2
    assert mesh.ctl("get", "connections", "portal", "gateway", check=False).returncode == 2
    assert mesh.ctl("get", "connections", "portal", "--limit", "0", check=False).returncode == 2


@pytest.mark.sanitize
def test_a_removed_link_ends_just_what_the_dry_run_named(mesh, held, again):
    doc = document(links=[link for link in LINKS if link[0] != "management-portal"])
    version, mark = mesh.version(), marks(mesh)
    path = mesh.folder / "removed.yaml"
    path.write_text(json.dumps(doc))
    named, done = preview(mesh, "apply", "-f", path, "--prune")
    assert named == {("management", "policy"): 12, ("portal", "policy"): 12}
    assert done.stdout.count(f"management-portal outbound {PORTAL}") == 5  # the first few in words
    assert done.stdout.count("and 7 more") == 2 and "24 live connections would end at 2 sidecars" in done.stdout
    assert mesh.version() == version and not ends(mesh, mark), "it was a dry run"
    assert [held.ended[name]() for name in NUMBERS] == [0, 0, 0, 0]
    mesh.apply(doc, "--prune", "--wait")
    wait_for("they end", lambda: held.ended["management-portal"]() == 12, CUT_S)
    # Both ends judge; whoever is first tells the other by an alert, which is no end of that one's own.
    seen = ends(mesh, mark)
    assert {key[1:] for key in seen} == {("management-portal", "policy")}
    assert {key[0] for key in seen} <= {"management", "portal"}
    assert [held.ended[name]() for name in NUMBERS] == [12, 0, 0, 0]


def test_a_link_given_to_another_client_ends_the_old_ones(mesh, held, again):
    """Narrowed at the server: the link's client is another subsystem."""
    links = [link if link[0] != "gateway-analytics" else ("gateway-analytics", "portal", "analytics", 15104, 9083)
             for link in LINKS]
    path = mesh.folder / "narrowed.yaml"
    path.write_text(json.dumps(document(links=links)))
    named, done = preview(mesh, "apply", "-f", path)
    assert named == {("analytics", "policy"): 4, ("gateway", "policy"): 4}, done.stdout
    mesh.ctl("apply", "-f", path, "--wait")
    wait_for("they end", lambda: held.ended["gateway-analytics"]() == 4, CUT_S)
    assert [held.ended[name]() for name in NUMBERS] == [0, 0, 0, 4]


@pytest.mark.sanitize
def test_a_revocation_ends_just_what_the_dry_run_named(mesh, held, again):
    mark = marks(mesh)
    serial = next(w for w in mesh.workloads() if w["subsystem"] == "gateway")["status"]["certificate_serial"]
    # What rests on that certificate, as the sidecars themselves say.
    expected = {name: by_link(connections(mesh, name, "--peer", serial)) for name in ("management", "analytics")}
    assert expected == {"management": {"management-gateway": 5}, "analytics": {"gateway-analytics": 4}}
    named, done = preview(mesh, "revoke", "serial", serial, "--grace", "1s")
    assert named == {("management", "revoked"): 5, ("analytics", "revoked"): 4}
    assert done.stdout.count("revoked after 1s") == 9
    assert not mesh.ctl_json("get", "revocations").get("revocations")
    mesh.ctl("revoke", "serial", serial)
    wait_for("they end", lambda: [held.ended[name]() for name in NUMBERS] == [0, 5, 0, 4], CUT_S)
    assert as_named(ends(mesh, mark)) == named
    # Counted at the sidecar, by reason and age, and summed up by the control plane.
    for name, number in (("management", 5), ("analytics", 4)):
        values = mesh.sidecar(name).metrics()
        assert values['mortise_connections_ended_age_seconds_count{reason="revoked"}'] >= number
    wait_for("the control plane has heard of it", lambda: mesh.control.metrics().get(
        'mortise_control_connections_ended_total{reason="revoked"}', 0) >= 9)


def test_a_change_that_ends_nothing_says_so(mesh, held):
    path = mesh.folder / "more.yaml"
    path.write_text(json.dumps({"links": [{"name": "new", "client": "portal", "server": "gateway",
                                           "client_port": 15177, "server_port": 8082}]}))
    named, done = preview(mesh, "apply", "-f", path)
    assert not named and "no live connection would end" in done.stdout
    named, done = preview(mesh, "revoke", "serial", "ab" * 16)
    assert not named and "no live connection would end" in done.stdout
    done = mesh.ctl("revoke", "serial", "XYZ", "--dry-run", check=False)
    assert done.returncode == 1 and "is not a serial number" in done.stderr
    assert [held.ended[name]() for name in NUMBERS] == [0, 0, 0, 0]


@pytest.mark.sanitize
def test_a_refusal_is_found_before_it_happens(mesh, held):
    """The client's port is taken on its host: the push would be refused there, as the dry run says."""
    held.serve("portal", 15178)
    path = mesh.folder / "taken.yaml"
    path.write_text(json.dumps({"links": [{"name": "taken", "client": "portal", "server": "gateway",
                                           "client_port": 15178, "server_port": 8082}]}))
    version = mesh.version()
    done = mesh.ctl("apply", "-f", path, "--dry-run", check=False)
    assert done.returncode == 1 and "would refuse it" in done.stderr and "portal" in done.stderr
    assert "cannot listen on 127.0.0.1:15178: address is in use" in done.stderr
    assert mesh.version() == version and not any("refused" in w for w in mesh.workloads())
    # It tried the port for a moment: what it had is still there, and a free one stays free.
    assert connections(mesh, "portal")[0]["total"] == "12"


@pytest.mark.sanitize
def test_a_mute_sidecar_is_named_and_the_others_answer(mesh, held):
    program = mesh.sidecar("portal")
    program.signal(signal.SIGSTOP)
    wait_for("it stands still", program.is_stopped)
    try:
        done = mesh.ctl("get", "connections", "portal", "--timeout", "1s", check=False)
        assert done.returncode == 1 and "portal" in done.stderr and "no answer in time" in done.stderr
        doc = document(links=[link for link in LINKS if link[0] != "management-portal"])
        path = mesh.folder / "removed.yaml"
        path.write_text(json.dumps(doc))
        named, done = preview(mesh, "apply", "-f", path, "--prune", check=False)
        assert named == {("management", "policy"): 12}
        assert done.returncode == 1 and "portal" in done.stderr and "no answer in time" in done.stderr
    finally:
        program.signal(signal.SIGCONT)
    # Its late answers are to nothing; the next question is answered.
    wait_for("it answers again", lambda: connections(mesh, "portal", check=False)[0].get("total") == "12")
    assert mesh.control.alive() and len(mesh.workloads()) == 4


# ---- hostile sidecars ----

def answer(**fields):
    pb = stubs().discovery
    return pb.DiscoveryRequest(answer=pb.Answer(**fields))


def many(number, text="x"):
    return [stubs().discovery.LiveConnection(link=text, direction="inbound")] * number


ODD = {
    # what it does, and what the operator is told of it (None: nothing is wrong)
    "answers right": (lambda q: [answer(id=q.id, total=3)], None),
    "answers twice": (lambda q: [answer(id=q.id, total=3), answer(id=q.id, total=99999)], None),
    "answers in parts": (lambda q: [answer(id=q.id, more=True, connections=many(400)), answer(id=q.id, total=3)], None),
    "answers what nobody asked": (lambda q: [answer(id=q.id + 1000, total=9), answer(id=0, total=9),
                                             answer(id=2**64 - 1, more=True), answer(id=q.id, total=3)], None),
    "says nothing": (lambda q: [], "no answer in time"),
    "answers another question": (lambda q: [answer(id=q.id + 1, total=9)], "no answer in time"),
    "garbage": (lambda q: [b"\xff" * 100], "it disconnected before it answered"),
    "10 MB": (lambda q: [answer(id=q.id, connections=many(1, "y" * 10_000_000))], "it disconnected before it answered"),
    "more than was asked for": (lambda q: [answer(id=q.id, more=True, connections=many(501)),
                                           answer(id=q.id, connections=many(500))], "more than was asked for"),
    "parts without end": (lambda q: [answer(id=q.id, more=True)] * 1000, "more than was asked for"),
}


def test_whatever_sidecars_answer_the_others_are_heard(mesh, held):
    """All of them at once, beside the real one."""
    odd = {}
    try:
        for what, (behaviour, _) in ODD.items():
            odd[what.replace(" ", "-")] = OddSidecar(mesh, "portal", what.replace(" ", "-"), behaviour)
        odd["old"] = OddSidecar(mesh, "portal", "old", lambda q: [answer(id=q.id, total=9)], answers=False)
        odd["loud"] = OddSidecar(mesh, "portal", "loud", lambda q: [
            answer(id=q.id, total=1, connections=many(1, "\x1b[2J\nportal"))])
        before = mesh.control.memory_kib()
        done = mesh.ctl("get", "connections", "portal", "--timeout", "2s", "-o", "json", check=False)
        assert done.returncode == 1
        seen = {s["instance"]: s for s in json.loads(done.stdout)["sidecars"]}
        for what, (_, told) in ODD.items():
            said = seen.pop(what.replace(" ", "-"))
            if told is None:
                assert said["total"] == "3" and "error" not in said, (what, said)
            else:
                assert told in said["error"] and f"({what.replace(' ', '-')[:8]}): " in done.stderr, (what, said)
        assert seen.pop("old")["error"] == "its program is too old to be asked"
        assert seen.pop("loud")["total"] == "1"
        assert [s["total"] for s in seen.values()] == ["12"], "the real one"
        assert mesh.control.alive() and mesh.control.memory_kib() < before + 20_000
        # On a screen nothing of what they say moves the cursor.
        done = mesh.ctl("get", "connections", "portal", "--timeout", "1s", check=False)
        assert "\x1b" not in done.stdout and "\\u001b[2J\\nportal" in done.stdout
    finally:
        for sidecar in odd.values():
            sidecar.stop()
    wait_for("they are gone", lambda: len(mesh.workloads()) == 4, 30)


def test_an_old_sidecar_is_not_waited_for(mesh, held):
    odd = OddSidecar(mesh, "portal", "aged", lambda q: [], answers=False)
    try:
        done = mesh.ctl("get", "connections", "portal", "--timeout", "60s", check=False, timeout_s=30)
        assert done.returncode == 1 and "portal (aged): its program is too old to be asked" in done.stderr
        assert "12 connections, 12 shown" in done.stdout
    finally:
        odd.stop()
    wait_for("it is gone", lambda: len(mesh.workloads()) == 4, 30)
