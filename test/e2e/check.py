"""Without this an operator looks for what is wrong in five places: one command examines the installation, names who and what, says
what to do, and its exit status tells a script.

Drives: F12, R11, R63"""
import json
import subprocess

import pytest

from deploy.lab.mesh import SUBSYSTEMS, document
from deploy.lab.programs import own_environment, wait_for
from test.testlib.clock_jump import ClockJump
from test.testlib.control import LoneControl
from test.testlib.fixtures import CONFIG


def check(mesh):
    """What it finds, by area and name, and its exit status."""
    done = mesh.ctl("check", "-o", "json", check=False)
    return {(f["area"], f["name"]): f for f in json.loads(done.stdout)["findings"]}, done.returncode


def troubles(found):
    return {key: f for key, f in found.items() if f["state"] != "OK"}


def test_a_healthy_mesh_has_nothing_to_tell(mesh):
    found, status = check(mesh)
    assert status == 0 and not troubles(found), troubles(found)
    assert {area for area, _ in found} == {"control plane", "certificates", "sidecars", "profiles", "trust",
                                            "mortisectl"}
    assert not any(f.get("hint") for f in found.values())
    text = mesh.ctl("check").stdout
    assert text.count("  ok ") == len(found) and "FAILED" not in text and "\033" not in text


def test_a_fresh_install_has_not_failed(folder, binaries):
    """It has links, and nobody has come yet: that is told, with what comes next, and is no failure."""
    (folder / "fresh").mkdir()
    control = LoneControl(folder / "fresh").start()
    try:
        done = control.try_ctl("check", "-o", "json")
        found = {(f["area"], f["name"]): f for f in json.loads(done.stdout)["findings"]}
        assert done.returncode == 0 and set(troubles(found)) == {("sidecars", "first sidecars")}, troubles(found)
        told = found["sidecars", "first sidecars"]
        assert told["state"] == "WARNING" and "wait for the first sidecar of an end" in told["text"]
        assert "management-portal (" in told["text"] and "token create" in told["hint"]
    finally:
        control.stop()


def test_a_rotation_that_somebody_holds_up_is_seen(mesh):
    stopped = mesh.sidecar("analytics")
    stopped.signal(19)
    try:
        mesh.ctl("rotate", "root")
        wait_for("the others are through", lambda: "3 of" in check(mesh)[0]["trust", "rotation"]["text"])
        found, status = check(mesh)
        assert found["trust", "rotation"]["text"] == "of the root: distribute for 0 minutes, 3 of 4 are through"
        assert status == 0
    finally:
        stopped.signal(18)
    wait_for("it has ended", lambda: check(mesh)[0]["trust", "rotation"]["text"] == "none is under way", 120)


def test_who_is_missing_is_named_with_the_links_that_lead_nowhere(mesh):
    mesh.sidecar("portal").kill()
    wait_for("it is missed", lambda: ("sidecars", "links") in troubles(check(mesh)[0]))
    found, status = check(mesh)
    assert status == 1
    told = found["sidecars", "links"]
    assert told["state"] == "FAILED" and "management-portal (portal)" in told["text"] and "token create" in told["hint"]
    assert found["sidecars", "connected"]["state"] == "WARNING" and "portal (" in found["sidecars", "connected"]["text"]
    assert set(troubles(found)) == {("sidecars", "links"), ("sidecars", "connected")}
    lines = mesh.ctl("check", check=False).stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if "FAILED" in line)
    assert "links: " in lines[at] and "token create" in lines[at + 1]
    mesh.start_sidecar("portal")
    wait_for("all is well again", lambda: check(mesh)[1] == 0)


def test_who_refuses_is_named(mesh):
    """Its port is taken by somebody else."""
    host = mesh.network["management"]
    taken = subprocess.Popen(host.command("python3", "-c", "import socket; s = socket.create_server(('127.0.0.1', 15199)); "
                                          "print('there', flush=True); s.accept()"), stdout=subprocess.PIPE)
    try:
        assert taken.stdout.readline() == b"there\n"
        bad = document()
        bad["links"][0] = {**bad["links"][0], "client_port": 15199}
        mesh.apply(bad)
        wait_for("it is refused", lambda: ("sidecars", "configuration") in troubles(check(mesh)[0]))
        found, status = check(mesh)
        told = found["sidecars", "configuration"]
        assert status == 1 and told["state"] == "FAILED" and told["text"].startswith("management (")
    finally:
        taken.kill()
        taken.wait()
    mesh.apply(document())
    wait_for("all is well again", lambda: check(mesh)[1] == 0)


@pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
def test_a_wrong_clock_of_the_operator_is_a_warning(mesh, folder):
    place = folder / "jump"
    place.mkdir()
    clock = ClockJump(place)
    for seconds, word in ((3600, "ahead of"), (-3600, "behind")):
        clock.set(seconds)
        done = mesh.control_host.run(str(mesh.bin.ctl), "check", "--socket", str(mesh.socket), capture_output=True, text=True,
                                     env={**own_environment(), **clock.env})
        assert done.returncode == 0, done.stdout + done.stderr
        line = next(line for line in done.stdout.splitlines() if "clock: ours" in line)
        assert "warning" in line and word in line and ("3600 s" in line or "3599 s" in line), line


def test_nobody_to_ask_is_a_failure_with_the_way_out(binaries, folder):
    done = subprocess.run([binaries.ctl, "check", "--socket", folder / "none.sock"], capture_output=True, text=True)
    assert done.returncode == 1 and "is mortise-control running?" in done.stderr and not done.stdout


def test_all_four_are_still_there(mesh):
    assert {w["subsystem"] for w in mesh.workloads()} == set(SUBSYSTEMS)
