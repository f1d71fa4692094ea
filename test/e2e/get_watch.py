"""Without this an operator who waits for a change asks again and again, or reads a list that was right when it was
printed: `get --watch` tells each change once, over a restart of the control plane, and ends when its reader may not look
any more.

Drives: D7, R36, R48"""
import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy.lab.programs import Process, own_environment, wait_for
from test.testlib.admin import Admin
from test.testlib.control import LoneControl
from test.testlib.odd_sidecar import OddSidecar


@pytest.fixture(scope="module")
def alone(folder, binaries):
    with tempfile.TemporaryDirectory(prefix="mortise-sock-") as place:
        (folder / "alone").mkdir()
        made = LoneControl(folder / "alone", socket=Path(place) / "operator.sock")
        made.start()
        yield made
        made.stop()


class Watching:
    """`mortisectl get … --watch -o json`, as it goes on. The state that its lines lead to is `state`."""

    def __init__(self, folder, argv, output="json", key="name"):
        self.file = tempfile.NamedTemporaryFile(dir=folder, prefix="watch-", delete=False)
        self.key = key
        self.process = Process(f"watch-{Path(self.file.name).name}", [*argv, "--watch", "-o", output], folder,
                               stdout=self.file)

    def text(self):
        return Path(self.file.name).read_text()

    def lines(self):
        return [json.loads(line) for line in self.text().splitlines(True) if line.endswith("\n")]

    def state(self):
        """Each line has to fit what those before it said: nothing is told twice."""
        items = {}
        for line in self.lines():
            name = line["object"][self.key]
            assert (name in items) == (line["type"] != "ADDED"), line
            if line["type"] == "MODIFIED":
                assert items[name] != line["object"], "nothing has changed"
            if line["type"] == "DELETED":
                del items[name]
            else:
                items[name] = line["object"]
        return items

    def wait(self, what, probe):
        return wait_for(f"{what} in {self.lines()[-3:]}", lambda: probe(self.state()), 60)

    def stop(self):
        self.process.stop()
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def watching(control, *words, **more):
    return Watching(control.folder, [control.bin.ctl, "--socket", control.socket, "get", *words], **more)


def apply(control, doc, *flags):
    path = control.folder / "doc.yaml"
    path.write_text(json.dumps(doc))
    return control.ctl("apply", "-f", path, *flags)


def shown(control, what):
    items = json.loads(control.ctl("get", what, "-o", "json")).get(what, [])
    return {item["name"]: item for item in items}


CHANGES = {
    "subsystems": {},
    "profiles": {"role": "CLIENT"},
    "links": {"client": "portal", "server": "gateway", "client_port": 15190, "server_port": 8090},
    "truststores": {"mesh_roots": True},
    "keystores": {"issued": True},
    "policies": {"action": "DENY", "peers": ["spiffe://lone.test/ns/default/sa/nobody"]},
}


@pytest.mark.sanitize
@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_each_change_of_a_kind_is_told_once(alone, kind):
    item = {"name": "new", **CHANGES[kind]}
    with watching(alone, kind) as watch:
        watch.wait("what is there", lambda state: state == shown(alone, kind))
        apply(alone, {kind: [item]})
        watch.wait("it is there", lambda state: "new" in state)
        apply(alone, {kind: [{**item, "description": "other"}]})
        watch.wait("it is another", lambda state: state["new"].get("description") == "other")
        apply(alone, {kind: [{**item, "description": "other", "labels": {"a": "b"}}]})
        watch.wait("its labels", lambda state: state["new"].get("labels") == {"a": "b"})
        alone.ctl("delete", kind, "new", "--allow-weaker")
        watch.wait("it is gone", lambda state: "new" not in state)
        assert watch.state() == shown(alone, kind)
        told = [(line["type"], line["object"]["name"]) for line in watch.lines() if line["object"]["name"] == "new"]
        assert told == [("ADDED", "new"), ("MODIFIED", "new"), ("MODIFIED", "new"), ("DELETED", "new")]


def test_a_table_goes_on_below_itself(alone):
    with watching(alone, "subsystems", "-l", "watched", output="table") as watch:
        wait_for("the heads", lambda: watch.text() == "CHANGE    NAME  NAMESPACE  SERVICE ACCOUNT\n")
        for doc in ({"labels": {"watched": ""}}, {"labels": {"watched": ""}, "description": "x"}, {}):
            number = len(watch.text().splitlines())
            apply(alone, {"subsystems": [{"name": "seen", **doc}, {"name": "unseen", "description": str(doc)}]})
            wait_for("a line", lambda before=number: len(watch.text().splitlines()) == before + 1)
        assert [line.split() for line in watch.text().splitlines()[1:]] == [
            ["ADDED", "seen", "default", "seen"], ["MODIFIED", "seen", "default", "seen"],
            ["DELETED", "seen", "default", "seen"]], "what is such no longer is gone from the list"
        columns = {line.index("seen") for line in watch.text().splitlines()[1:]}
        assert columns == {watch.text().index("NAME")}
    alone.ctl("delete", "subsystems", "seen", "unseen")


def test_nobody_is_asked_while_nothing_happens(alone):
    """Events of other things are none; a change costs two lists, however many events it makes."""
    def calls():
        return sum(value for series, value in alone.program.metrics().items()
                   if series.startswith("mortise_control_calls_total") and "GetMesh" in series)

    with watching(alone, "subsystems") as watch:
        watch.wait("what is there", lambda state: state == shown(alone, "subsystems"))
        # What was told of the last minute leads to looks of its own; they are over when a round has none.
        def quiet():
            before = calls()
            for _ in range(50):
                alone.ctl("token", "create", "portal")
            return calls() == before
        wait_for("it is quiet", quiet, 60)
        before = calls()
        apply(alone, {"subsystems": [{"name": f"one-of-{n}"} for n in range(300)]})
        watch.wait("they are told", lambda state: len([n for n in state if n.startswith("one-of-")]) == 300)
        wait_for("it is quiet again", quiet, 60)
        assert 1 <= calls() - before <= 3
    alone.ctl("delete", "subsystems", *[f"one-of-{n}" for n in range(300)])


@pytest.mark.sanitize
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_control_plane_that_starts_again_is_waited_for(alone, end):
    apply(alone, {"subsystems": [{"name": "stays"}, {"name": "changes"}, {"name": "goes"}]})
    with watching(alone, "subsystems") as watch:
        watch.wait("what is there", lambda state: state == shown(alone, "subsystems"))
        if end == "kill":
            alone.program.kill()
        alone.program.stop()
        wait_for("it is told", lambda: "away" in watch.process.tail())
        alone.start()
        apply(alone, {"subsystems": [{"name": "changes", "description": end}, {"name": "comes"}]})
        alone.ctl("delete", "subsystem", "goes")
        watch.wait("all that changed", lambda state: state == shown(alone, "subsystems"))
        apply(alone, {"subsystems": [{"name": "later"}]})
        watch.wait("what came later", lambda state: state == shown(alone, "subsystems") and "later" in state)
        assert len([line for line in watch.lines() if line["object"]["name"] == "stays"]) == 1
    alone.ctl("delete", "subsystems", "stays", "changes", "comes", "later")


def test_sidecars_and_certificates_come_and_go(mesh):
    folder = mesh.folder
    argv = mesh.control_host.command(str(mesh.bin.ctl), "--socket", str(mesh.socket), "get")
    with Watching(folder, [*argv, "workloads", "portal"], key="instance") as sidecars, \
            Watching(folder, [*argv, "certificates", "portal"], key="serial") as certificates:
        sidecars.wait("the one", lambda state: len(state) == 1)
        certificates.wait("its certificate", lambda state: state)
        before = set(certificates.state())
        odd = OddSidecar(mesh, "portal", "guest", lambda q: [])
        sidecars.wait("the guest", lambda state: "guest" in state)
        certificates.wait("the guest's certificate", lambda state: len(state) == len(before) + 1)
        odd.stop()
        sidecars.wait("the guest has left", lambda state: "guest" not in state)
        mesh.ctl("rotate", "portal", "--wait")
        serial = mesh.sidecar("portal").config()["identity"]["serial"]
        certificates.wait("the new one", lambda state: serial in state)
        sidecars.wait("who has it", lambda state: [w["status"]["certificate_serial"] for w in state.values()] == [serial])
        mesh.apply({"subsystems": [{"name": "portal", "namespace": "apim", "labels": {"a": "b"}}]}, "--wait")


def test_who_may_not_look_any_more_is_told_so(alone):
    viewer = Admin(alone, "eve", "--role", "viewer")
    with Watching(alone.folder, [alone.bin.ctl, "get", "subsystems", *viewer.argv]) as watch:
        watch.wait("what is there", lambda state: state == shown(alone, "subsystems"))
        alone.ctl("admin", "unbind", "eve")
        assert watch.process.wait(30) == 1
        assert "PERMISSION_DENIED" in watch.process.tail() and "away" not in watch.process.tail()


def run(control, *words):
    return subprocess.run([str(w) for w in (control.bin.ctl, "--socket", control.socket, *words)], check=False,
                          capture_output=True, text=True, env=own_environment(), timeout=60)


@pytest.mark.parametrize("words,status,text", [
    (["mesh"], 2, "cannot be watched"),
    (["crl"], 2, "cannot be watched"),
    (["connections", "portal"], 2, "cannot be watched"),
    (["links", "-o", "yaml"], 2, "JSON lines"),
    (["truststores", "-o", "pem"], 2, "JSON lines"),
    (["links", "nobodys"], 1, 'none is called "nobodys"'),
    (["links", "-l", "a b"], 2, "at character 3"),
])
def test_what_cannot_be_watched_says_so_and_ends(alone, words, status, text):
    done = run(alone, "get", *words, "--watch")
    assert done.returncode == status and text in done.stderr


def test_nobody_there_at_the_start_is_an_end(alone, tmp_path):
    done = run(alone, "get", "links", "-w", "--socket", tmp_path / "none")
    assert done.returncode == 1 and "cannot reach" in done.stderr


def test_a_reader_that_has_gone_ends_it(alone):
    with open("/dev/full", "w") as full:
        done = subprocess.run([alone.bin.ctl, "--socket", alone.socket, "get", "links", "-w"], stdout=full, check=False,
                              stderr=subprocess.PIPE, text=True, env=own_environment(), timeout=60)
    assert done.returncode == 1
