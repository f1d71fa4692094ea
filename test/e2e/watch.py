"""Without this an operator would poll to see what happens, and learn of a wrong clock when certificates are refused: what
happens in the mesh is told as it happens, in order, to any number of those who watch, however slowly they read, and how
far each sidecar's clock is off is measured with its error.

Drives: F13"""
import itertools
import json
import signal
import time

import pytest

from deploy.lab.mesh import LINKS, document
from deploy.lab.programs import Process, wait_for
from test.testlib.fixtures import CONFIG
from test.testlib.held import Held
from test.testlib.odd_sidecar import OddSidecar


@pytest.fixture(scope="module")
def held(mesh):
    """Connections of the link that is removed here."""
    made = Held(mesh)
    try:
        made.serve("portal", 8081)
        made.hold("management", 15101, 12)
        yield made
    finally:
        made.stop()


# ---- a rotation: before anybody leaves, whom it would wait for ----

def test_a_rotation_is_seen_stage_by_stage(mesh):
    watcher = Watcher(mesh)
    try:
        mesh.ctl("rotate", "root", "--wait")
        watcher.wait("rotation_stage", detail="idle")
        assert [e["detail"] for e in watcher.events("rotation_stage")] == ["distribute", "reissue", "retire", "idle"]
    finally:
        watcher.stop()


# ---- clocks ----

def test_a_clock_that_is_off_is_measured_and_told(mesh, held):
    """Half an hour behind: seen with the first answer to a push."""
    mark = len(mesh.control.events("clock_skewed"))
    odd = OddSidecar(mesh, "portal", "behind", lambda q: [], clock_ms=lambda: int(time.time() * 1000) - 1_800_000)
    try:
        event = wait_for("it is told", lambda: mesh.control.events("clock_skewed")[mark:])[0]
        assert event["instance"] == "behind" and abs(event["ahead_ms"] + 1_800_000) <= event["error_ms"] + 1
        behind, = [w for w in mesh.workloads() if w["instance"] == "behind"]
        assert abs(int(behind["clock_ahead_ms"]) + 1_800_000) <= int(behind["clock_error_ms"]) + 1
        assert "clock 30 min behind" in mesh.ctl("get", "workloads", "portal").stdout
        assert "1 with a clock that is off" in mesh.ctl("status").stdout
        for other in mesh.workloads():
            if other["instance"] != "behind":
                # One machine: the truth is 0, which the bound includes.
                assert other["clock_known"] and abs(int(other.get("clock_ahead_ms", 0))) <= int(other["clock_error_ms"])
    finally:
        odd.stop()
    wait_for("it is gone", lambda: len(mesh.workloads()) == 4, 30)
    own = mesh.sidecar("portal").config()["control"]
    assert abs(own["clock_ahead_ms"]) <= own["clock_error_ms"]
    assert "with a clock that is off" not in mesh.ctl("status").stdout


# ---- watch ----

class Watcher:
    """`mortisectl watch -o json`, as it goes on."""

    def __init__(self, mesh, *args):
        self.file = open(mesh.folder / "watch.jsonl", "wb")
        self.process = Process("watch", [mesh.bin.ctl, "--socket", mesh.socket, "watch", "-o", "json", *args],
                               mesh.folder, mesh.control_host, stdout=self.file)
        if not args:  # from now on: until it watches, nothing is seen
            wait_for("it watches", lambda: mesh.token("analytics") and self.events())

    def events(self, kind=None):
        found = [json.loads(line) for line in open(self.file.name, "rb").read().splitlines(True)
                 if line.endswith(b"\n")]
        return [e for e in found if kind in (None, e["kind"])]

    def wait(self, kind, **fields):
        return wait_for(f"{kind} {fields}", lambda: [
            e for e in self.events(kind) if all(e.get(key) == value for key, value in fields.items())], 60)[-1]

    def stop(self):
        self.process.stop()
        self.file.close()


@pytest.mark.sanitize
def test_what_happens_is_seen_as_it_happens(mesh, held):
    watcher = Watcher(mesh)
    try:
        token = mesh.token("portal")
        watcher.wait("token_created", detail="portal")  # it watches
        odd = OddSidecar(mesh, "portal", "guest", lambda q: [])
        watcher.wait("token_used", subsystem="portal")
        assert watcher.wait("certificate_issued", subsystem="portal", detail="attest")["serial"]
        watcher.wait("sidecar_joined", subsystem="portal", instance="guest")
        odd.stop()
        watcher.wait("sidecar_left", instance="guest")
        mesh.ctl("revoke", "serial", "ab" * 16)
        watcher.wait("revoked", detail="ab" * 16)
        mesh.ctl("lift", mesh.ctl_json("get", "revocations")["revocations"][0]["id"])
        watcher.wait("revocation_lifted")
        mesh.apply(document(links=[link for link in LINKS if link[0] != "management-portal"]), "--prune", "--wait")
        changed = watcher.wait("mesh_changed")
        acked = lambda: {e["subsystem"] for e in watcher.events("config_acked") if int(e["version"]) >= int(changed["version"])}
        wait_for("those who have something new have acknowledged it", lambda: acked() >= {"management", "portal"})
        assert acked() == {"management", "portal"}
        assert "link management-portal: removed" in [e["detail"] for e in watcher.events("applied")]
        seen = wait_for("what ended is told", lambda: [
            e for e in watcher.events("connections_ended") if e["detail"] == "policy"], 30)
        assert sum(int(e["number"]) for e in seen) <= 24
        mesh.ctl("rotate", "portal", "--wait")
        watcher.wait("certificate_issued", subsystem="portal", detail="rotate")
        # A refusal of a configuration, and of a certificate.
        held.serve("portal", 15179)
        path = mesh.folder / "taken.yaml"
        path.write_text(json.dumps({"links": [{"name": "taken", "client": "portal", "server": "gateway",
                                               "client_port": 15179, "server_port": 8082}]}))
        mesh.ctl("apply", "-f", path)
        assert "outbound[0].listen: cannot listen" in watcher.wait("config_refused", subsystem="portal")["detail"]
        refused = mesh.ctl("certificate", "portal", "--server", "127.0.0.1:15010", "--out", mesh.folder / "no",
                           "--token-file", mesh.folder / "bad-token", check=False)
        assert refused.returncode != 0
        # What one is told of is in order and without a gap; later ones may look back.
        numbers = [int(e["seq"]) for e in watcher.events()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and token
    finally:
        watcher.stop()
    back = Watcher(mesh, "--since", "1h", "portal")
    try:
        back.wait("sidecar_joined", instance="guest")
        assert {e["subsystem"] for e in back.events()} == {"portal"}
    finally:
        back.stop()
    mesh.apply(document(), "--prune", "--wait")


@pytest.fixture(scope="module")
def change(mesh, held):
    """Makes 500 events each time. The ring is full then, and the mesh has been as large as it will be: what is compared
    after a test is what a watcher leaves behind."""
    def change(times):
        for _ in range(times):
            mesh.apply({"subsystems": [{"name": f"more-{i:03}".ljust(63, "x"), "description": str(next(number))}
                                       for i in range(500)]})

    number = itertools.count()
    change(12)
    mesh.apply(document(), "--prune", "--wait")
    return change


def test_a_slow_watcher_is_told_what_he_missed_and_holds_nothing(mesh, change):
    """He stands still while more happens than is kept; the control plane grows by nothing for it."""
    change(1)
    watcher = Watcher(mesh)
    try:
        mesh.token("portal")
        first = watcher.wait("token_created", detail="portal")
        watcher.process.signal(signal.SIGSTOP)
        wait_for("it stands still", watcher.process.is_stopped)
        change(20)  # more than are kept and than may be under way
        between = mesh.control.memory_kib()
        change(6)
        assert CONFIG != "opt" or mesh.control.memory_kib() < between + 2048  # a sanitizer keeps what is freed
        mesh.token("gateway")
        watcher.process.signal(signal.SIGCONT)
        last = watcher.wait("token_created", detail="gateway")
        events = watcher.events()
        missed = sum(int(e["number"]) for e in events if e["kind"] == "missed")
        numbers = [int(e["seq"]) for e in events if e["kind"] != "missed" and int(e["seq"]) >= int(first["seq"])]
        assert numbers == sorted(set(numbers))
        assert missed > 1000 and len(numbers) >= 4096
        assert len(numbers) + missed == int(last["seq"]) - int(first["seq"]) + 1
    finally:
        watcher.process.signal(signal.SIGCONT)
        watcher.stop()
    mesh.apply(document(), "--prune", "--wait")
