"""Without this the audit log would tell of refusals that were none, of one that was as two, or of a question as of an attempt:
whoever reads it after an incident would chase what never happened.

Drives: R51"""
import json
import signal
import subprocess

import pytest

from deploy.lab.mesh import CONTROL_PORT
from deploy.lab.programs import own_environment, wait_for

pytestmark = pytest.mark.sanitize


def records(mesh, action, outcome=None):
    found = [json.loads(line) for line in mesh.ctl("audit", "search", "--action", action, "-o", "json").stdout.splitlines()]
    return [record for record in found if outcome in (None, record["outcome"])]


@pytest.fixture
def waiting(mesh):
    """`rotate --wait` by alice, an operator, that waits for a sidecar which does not answer."""
    out = mesh.folder / "alice"
    if not out.exists():
        mesh.ctl("admin", "create", "alice", "--role", "operator", "--out", out)
    argv = ["--server", f"{mesh.control_host.v4}:{CONTROL_PORT}", "--trust-domain", "mesh.test", "--cert", out / "cert.pem",
            "--key", out / "key.pem", "--roots", mesh.roots]
    portal, before = mesh.sidecar("portal"), len(records(mesh, "rotate", "OK"))
    portal.signal(signal.SIGSTOP)
    child = subprocess.Popen(mesh.control_host.command(
        str(mesh.bin.ctl), "rotate", "portal", "--wait", *map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=own_environment())
    try:
        wait_for("it has begun", lambda: len(records(mesh, "rotate", "OK")) > before)
        yield child
    finally:
        portal.signal(signal.SIGCONT)
        child.kill()
        child.wait(timeout=30)


def test_who_may_not_go_on_is_on_record_once(mesh, waiting):
    mesh.ctl("admin", "unbind", "alice")
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode != 0 and "alice has no role" in err, err
    wait_for("it is on record", lambda: records(mesh, "rotate", "REFUSED"))
    mesh.ctl("audit", "export", mesh.folder / "flushed")  # what is counted is written with it
    refused = records(mesh, "rotate", "REFUSED")
    assert [int(r.get("count", 0)) for r in refused] == [0] and "alice has no role" in refused[0]["reason"], refused
    mesh.ctl("admin", "bind", "alice", "--role", "operator")


def test_what_ends_with_the_control_plane_was_not_refused(mesh, waiting):
    before = len(records(mesh, "rotate", "REFUSED"))
    mesh.control.stop()
    waiting.communicate(timeout=60)
    mesh.start_control(ready=False)
    assert len(records(mesh, "rotate", "REFUSED")) == before
    assert records(mesh, "rotate", "OK")


def test_a_question_is_no_attempt(mesh):
    path = mesh.folder / "wrong.yaml"
    path.write_text(json.dumps({"links": [{"name": "wrong", "client": "nobody", "server": "portal"}]}))
    before = len(records(mesh, "mesh.apply"))
    asked = mesh.ctl("apply", "-f", path, "--dry-run", check=False)
    assert asked.returncode == 1 and 'no subsystem "nobody"' in asked.stderr
    tried = mesh.ctl("apply", "-f", path, "-m", "tried", check=False)
    assert tried.returncode == 1
    found = wait_for("the attempt is on record", lambda: records(mesh, "mesh.apply")[before:])
    assert [(r["outcome"], int(r.get("count", 0))) for r in found] == [("REFUSED", 0)], found
