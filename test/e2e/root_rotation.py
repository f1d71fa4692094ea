"""Without this a new root for the mesh would be a day of fear: the root is rotated again and again while every link carries
traffic whose every byte is checked, with sidecars that do not answer, that come from before, and a control plane that is
killed in the middle.

Drives: F5, F3, R38, R41, R54"""
import random
import signal
import sqlite3
import time
from collections import Counter

import pytest

from deploy.lab.programs import LabError, wait_for
from test.testlib.fixtures import FULL

ROTATIONS = 20 if FULL else 4
KILLS = 50 if FULL else 6


def rotation(mesh):
    return {"number": 0, "done": 0, "total": 0, "going_back": False, "waiting": [],
            **mesh.ctl_json("rotate", "status")}


def rotate(mesh, *flags, check=True):
    return mesh.ctl("rotate", "root", *flags, check=check)


def idle(mesh):
    """What rotate status says, when no rotation is under way."""
    state = rotation(mesh)
    return state["stage"] == "idle" and state


def stage(mesh, *wanted):
    return wait_for(f"stage {' or '.join(wanted)}",
                    lambda: (state := rotation(mesh))["stage"] in wanted and state)


def issuers(mesh):
    """Of the certificates that the sidecars use: the issuing CA's names, as the access logs have them of peers."""
    return {w["subsystem"]: w["status"]["certificate_serial"] for w in mesh.workloads()}


@pytest.mark.sanitize
def test_roots_in_a_row_under_load(mesh, unharmed):
    roots, serials = [rotation(mesh)["signing_sha256"]], [issuers(mesh)]
    for _ in range(ROTATIONS):
        said = rotate(mesh, "--wait").stdout
        assert [line.split(":")[0] for line in said.splitlines()][-1] == "done", said
        state = rotation(mesh)
        assert state["stage"] == "idle" and "other_sha256" not in state
        roots.append(state["signing_sha256"])
        serials.append(issuers(mesh))
    assert len(set(roots)) == ROTATIONS + 1
    for name in serials[0]:
        assert len({s[name] for s in serials}) == ROTATIONS + 1, name
    # The root is one again, and it is the new one that is given out.
    assert mesh.ctl("roots").stdout.count("BEGIN CERTIFICATE") == 1
    assert mesh.ctl("roots").stdout != mesh.roots.read_text()


def test_who_does_not_answer_holds_it_up_and_is_named(mesh, unharmed):
    portal = mesh.sidecar("portal")
    portal.signal(signal.SIGSTOP)
    try:
        rotate(mesh)
        state = wait_for("it waits for portal alone", lambda: (
            (s := rotation(mesh))["stage"] == "distribute" and len(s["waiting"]) == 1 and s))
        assert state["waiting"][0]["subsystem"] == "portal"
        assert state["waiting"][0]["reason"] == "has not acknowledged yet"
        assert state["done"] == 3 and state["total"] == 4
        again = rotate(mesh, check=False)
        assert again.returncode == 1 and "is under way, stage distribute (3 of 4)" in again.stderr
        late = rotate(mesh, "--abort", "--wait", "--timeout", "1s", check=False)
        assert late.returncode == 1 and "portal" in late.stderr
    finally:
        portal.signal(signal.SIGCONT)
    state = wait_for("it has ended", lambda: idle(mesh))
    assert state["going_back"]


def test_going_back_before_and_after_the_switch(mesh, unharmed):
    """Before it nothing was signed by the new root; after it every certificate is made anew once more."""
    portal, before = mesh.sidecar("portal"), rotation(mesh)["signing_sha256"]
    portal.signal(signal.SIGSTOP)
    try:
        rotate(mesh)
        stage(mesh, "distribute")
        rotate(mesh, "--abort")
        assert rotation(mesh)["stage"] == "retire"
        too_late = rotate(mesh, "--abort", check=False)
        assert too_late.returncode == 1 and "goes back already" in too_late.stderr
    finally:
        portal.signal(signal.SIGCONT)
    assert wait_for("back", lambda: idle(mesh))["signing_sha256"] == before

    rotate(mesh, "--spread", "20s")  # long enough to be caught in it
    stage(mesh, "reissue")
    assert rotation(mesh)["signing_sha256"] != before
    rotate(mesh, "--abort", "--wait")
    state = rotation(mesh)
    assert state["signing_sha256"] == before and state["going_back"] and state["stage"] == "idle"
    none = rotate(mesh, "--abort", check=False)
    assert none.returncode == 1 and "no rotation of the root is under way" in none.stderr


def test_a_control_plane_that_is_killed_goes_on(mesh, unharmed):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"\nseed {seed}")
    began = int(rotation(mesh)["number"])
    stages = []
    for _ in range(KILLS):
        if idle(mesh):
            mesh.ctl("rotate", rng.choice(("root", "root", "issuer")))
        # The random moment, of the time that it takes the sidecars to come back and a rotation to end.
        time.sleep(rng.choice((0.05, 0.5, 3)) * rng.random())
        mesh.control.signal(signal.SIGKILL)
        mesh.control.wait(20)
        mesh.start_control()
        stages.append(rotation(mesh)["stage"])
    state = wait_for("the last one has ended", lambda: idle(mesh), 180)
    ended = int(state["number"]) - began
    print(f"killed in {Counter(stages)}; {ended} rotations ended")
    assert ended > 0 and not state["going_back"]
    mesh.wait_in_sync(4)


def test_the_store_says_the_same_after_a_restart(mesh):
    """The good twin, and the last: an orderly end and a new start change nothing."""
    before = rotation(mesh)
    roots = mesh.ctl("roots").stdout
    mesh.control.signal(signal.SIGTERM)
    assert mesh.control.wait(20) == 0
    mesh.start_control()
    assert rotation(mesh) == before and mesh.ctl("roots").stdout == roots
    with pytest.raises(LabError, match="usage|one too many"):
        mesh.ctl("rotate", "root", "portal")


def test_no_key_of_a_retired_root_is_left(mesh):
    """What is not in the store can neither be stolen nor be used again."""
    rotate(mesh, "--wait")
    with sqlite3.connect(f"file:{mesh.folder}/control/store.db?immutable=1", uri=True) as store:
        table = store.execute("select name from sqlite_master where type = 'table'").fetchall()
        found = [row for (name,) in table for row in store.execute(f"select * from {name}")]
    text = repr(found)
    assert "ca/root" in text and "ca/lineage" in text
    assert "ca/other-root" not in text and "ca/other-issuer" not in text


@pytest.mark.sanitize
def test_a_sidecar_that_knows_only_an_old_root_joins(mesh, unharmed):
    """Its trust bundle is a file from before the last rotation: the old root vouches for the new. The last test: until it
    has been away for long the next rotation would wait for it."""
    mesh.roots.write_text(mesh.ctl("roots").stdout)
    rotate(mesh, "--wait")
    assert mesh.ctl("roots").stdout != mesh.roots.read_text()
    name = "proxy-newcomer"
    newcomer = mesh.start_sidecar("portal", "--inbound-listen", "0.0.0.0:15444", "--advertise",
                                  f"{mesh.network['portal'].v4}:15444", name=name, ready=False)
    try:
        wait_for("it has joined", lambda: any(
            w["address"].endswith(":15444") for w in mesh.workloads()))
    finally:
        mesh.sidecars.pop(name).stop()
    assert not any(e["event"] == "attest_failed" for e in newcomer.events())
