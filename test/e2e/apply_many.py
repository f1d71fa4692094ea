"""Without this a mesh that is kept in several files could be changed by halves, and a change that a sidecar refuses would stay
until somebody looks.

Drives: D7, F3"""
import json
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from deploy.lab.mesh import document
from deploy.lab.programs import wait_for
from test.e2e.revisions import Alone, history
from test.testlib.held import Held

LINK = {"name": "back", "client": "portal", "server": "gateway", "client_port": 15177, "server_port": 8082}


@pytest.fixture
def alone(folder, binaries):
    path = folder / "alone"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    made = Alone(path, binaries).start()
    yield made
    made.stop()


TWO = """# one more subsystem
---
subsystems:
  - {name: billing, namespace: apim}
---
# nothing here
---
links:
  - {name: to-billing, client: portal, server: billing, client_port: 15170, server_port: 8090}
  - {name: from-billing, client: billing, server: portal, client_port: 15171, server_port: 8091}
"""


def names(mesh, kind):
    return {item["name"] for item in mesh.ctl_json("get", "mesh")["mesh"][kind]}


def test_many_documents_are_one_change(alone, folder):
    before = len(history(alone))
    alone.ctl("apply", "-f", "-", stdin=TWO)
    assert len(history(alone)) == before + 1
    assert {"to-billing", "from-billing"} <= names(alone, "links") and "billing" in names(alone, "subsystems")
    several = folder / "several"
    several.mkdir(exist_ok=True)
    (several / "20-links.yml").write_text(yaml.dump({"links": [{**LINK, "client": "billing"}]}))
    (several / "10.json").write_text(json.dumps({"settings": {"leaf_ttl_s": 7200}}))
    (several / "README.md").write_text("not: [a document")
    (several / ".hidden.yaml").write_text("not: [a document")
    (folder / "base.yaml").write_text(alone.ctl("get", "mesh", "-o", "yaml").stdout)
    subprocess.run([alone.bin.ctl, "validate", "-f", several, "--base", folder / "base.yaml"], check=True, capture_output=True)
    assert "+  - name: back" in alone.ctl("diff", "-f", several, check=False).stdout
    assert "dry run" in alone.ctl("apply", "--dry-run", "-f", several).stdout
    assert "link back: added" in alone.ctl("apply", "-f", several).stdout
    assert len(history(alone)) == before + 2 and "back" in names(alone, "links")
    assert alone.ctl_json("get", "mesh")["mesh"]["settings"]["leaf_ttl_s"] == 7200


FAULTS = {
    "a fault in the second one": (
        "subsystems: [{name: billing}]\n---\nlinks:\n  - {name: x, clinet: portal}\n",
        "what begins in line 2 is not a mesh document:", 'links[0].clinet'),
    "no YAML in the second one": (
        "subsystems: [{name: billing}]\n---\nlinks:\n  - {name: x\n   client: [\n", "what begins in line 2", "standard input:5:"),
    "settings twice": ("settings: {leaf_ttl_s: 7200}\n---\nsettings: {leaf_ttl_s: 3600}\n", "line 2", "must be in one document only"),
    "a version beside others": (
        "version: 1\nmesh: {settings: {leaf_ttl_s: 7200}}\n---\nsubsystems: [{name: billing}]\n", "line 3", "must be the only one"),
    "wrong only together": (
        "subsystems: [{name: billing}]\n---\nsubsystems: [{name: billing}]\n", "subsystems[1].name", "billing"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_one_fault_and_nothing_is_changed(alone, case):
    text, *told = FAULTS[case]
    before = history(alone)
    done = alone.ctl("apply", "-f", "-", stdin=text, check=False)
    assert done.returncode == 1
    for words in told:
        assert words in done.stderr
    assert history(alone) == before and "billing" not in names(alone, "subsystems")


@pytest.mark.parametrize("head", ["%YAML 1.1\n---\n", "# of whom it is\n%YAML 1.1\n---\n", "\ufeff---\n", "\ufeff%YAML 1.1\n---\n",
                                  "# only a comment\n---\n"])
def test_what_stands_before_the_first_mark(alone, head):
    done = alone.ctl("apply", "--dry-run", "-f", "-", stdin=f"{head}subsystems: [{{name: billing}}]\n---\nsettings: {{leaf_ttl_s: 7300}}\n")
    assert "subsystem billing: added" in done.stdout and "settings" in done.stdout


def test_a_folder_without_documents(alone, folder):
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    done = alone.ctl("apply", "-f", empty, check=False)
    assert done.returncode == 1 and "there is no .yaml, .yml or .json in that folder" in done.stderr


def test_all_bad_documents_are_told_up_to_ten(alone):
    done = alone.ctl("apply", "-f", "-", stdin="---\nlinsk: []\n" * 40, check=False)
    assert done.returncode == 1 and done.stderr.count("is not a mesh document") == 10


TAKEN = {"links": [{**LINK, "name": "taken", "client_port": 15178}]}


@pytest.fixture(scope="module")
def taken(mesh):
    """A port of portal's host is somebody else's: a link that wants it is refused there."""
    held = Held(mesh)
    try:
        held.serve("portal", 15178)
        yield
    finally:
        held.stop()


@pytest.fixture
def again(mesh):
    yield
    mesh.apply(document(), "--prune", "--wait")


@pytest.mark.sanitize
def test_what_a_sidecar_refuses_is_taken_back(mesh, taken, again):
    before = history(mesh)[0]
    done = mesh.apply(TAKEN, "--rollback-on-nack", "--timeout", "20s", check=False)
    assert done.returncode == 1
    assert "portal" in done.stderr and "refuses it" in done.stderr and "address is in use" in done.stderr
    assert f"going back to revision {before['version']}" in done.stdout
    back, bad = history(mesh)[:2]
    assert "portal refuses it" in back["message"] and f"version {bad['version']}" in back["message"]
    assert "taken" not in names(mesh, "links")
    mesh.wait_in_sync(4)
    assert not any("refused" in w for w in mesh.workloads())


def test_plaintext_that_is_used_already_is_taken_back_too(mesh, taken, again):
    """What the change brought is no reason to keep it."""
    held, plain = Held(mesh), 18178
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    wanted = {"links": [{**TAKEN["links"][0], "permissive": {"port": plain, "until": until}}]}
    uses = 'mortise_control_plaintext_connections{link="taken"}'
    try:
        held.serve("gateway", LINK["server_port"])
        mesh.sidecar("portal").signal(signal.SIGSTOP)  # it refuses later
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(mesh.apply, wanted, "--rollback-on-nack", "--timeout", "60s", check=False)
            try:
                wait_for("the port", lambda: f"'port': {plain}" in str(mesh.sidecar("gateway").config()))
                held.hold("gateway", plain, 1)
                wait_for("its use is known", lambda: mesh.control.metrics().get(uses, 0) == 1)
            finally:
                mesh.sidecar("portal").signal(signal.SIGCONT)
            done = done.result()
        assert done.returncode == 1 and "address is in use" in done.stderr
        assert "strict by force: plaintext was used" in done.stdout
        assert "taken" not in names(mesh, "links")
    finally:
        held.stop()


def test_without_it_the_change_stays(mesh, taken, again):
    done = mesh.apply(TAKEN, "--wait", "--timeout", "20s", check=False)
    assert done.returncode == 1 and "refuses it" in done.stderr and "going back" not in done.stdout
    assert "taken" in names(mesh, "links")


def test_what_all_accept_stays(mesh, again):
    done = mesh.apply({"links": [{**LINK, "client_port": 15179}]}, "--rollback-on-nack")
    assert "4/4" in done.stdout and "going back" not in done.stdout
    assert "back" in names(mesh, "links")
