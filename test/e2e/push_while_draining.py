"""Without this a sidecar that is about to end could refuse a push without a word, or fall over it: it says why, keeps what
it had, and its connections end as they would have.

Drives: F2, R10, R15"""
import json
import signal
import sys
from pathlib import Path

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import Process, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def load(mesh):
    """Streams through management's sidecar that live until told to end."""
    def lab(name, host, *args):
        return Process(name, ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "deploy.lab.echo",
                              *args], mesh.folder, mesh.network[host])

    server = lab("echo", "portal", "serve", "127.0.0.1:8081")
    wait_for("the echo application listens", lambda: "serving" in server.tail())
    client = lab("load", "management", "load", "127.0.0.1:15101", "--streams", "3",
                 "--every-ms", "200")
    wait_for("all streams are open", lambda: '"streams": 3' in client.tail(1))
    yield client
    client.kill()
    server.kill()


@pytest.mark.sanitize
def test_a_push_to_a_sidecar_that_is_about_to_end_is_refused_with_the_reason(mesh, load):
    sidecar = mesh.sidecar("management")
    sidecar.signal(signal.SIGTERM)
    wait_for("it drains", lambda: sidecar.events("draining"))
    mesh.apply(document(client={"groups": ["P-256"]}, server={"groups": ["P-256"]}))

    def refused():
        return [w["refused"] for w in mesh.workloads()
                if w["subsystem"] == "management" and w.get("refused")]

    faults = wait_for("it refuses", refused)[0]["faults"]
    assert "draining" in faults[0]["message"], faults
    assert sidecar.alive()
    load.signal(signal.SIGTERM)
    assert load.wait() == 0
    # What came anew found nobody, as it must; the streams ended in order.
    totals = json.loads(load.tail(1))["links"]["echo"]
    assert totals["corrupted"] == 0
    assert all(problem.startswith("connection") for problem in totals["problems"]), totals
    assert sidecar.wait() == 0, sidecar.tail(40)
