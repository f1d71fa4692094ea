"""Without this an operator with two hundred links finds those of one team by reading, deletes one too many by a selector
that is not what he meant, or starts every sidecar anew because he has named something.

Drives: D7, A1, A9, R10"""
import json
import subprocess

import pytest
import yaml

from deploy.lab.mesh import document
from deploy.lab.programs import own_environment
from test.testlib.pki import Ca

LABELS = {"tier": "edge", "example.com/owner": "7", "empty": "", "yes": "no", "a.b-c_d": "A.b-C_d"}


@pytest.fixture(autouse=True)
def as_before(mesh):
    yield
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)


def labelled():
    """The lab's document with labels on each link and on two subsystems."""
    doc = document()
    for number, link in enumerate(doc["links"]):
        link["labels"] = {"tier": "edge" if number < 2 else "core", "number": str(number)}
    doc["links"][3]["labels"]["old"] = ""
    doc["subsystems"][0]["labels"] = {"tier": "edge", "env": "live"}
    doc["subsystems"][1]["labels"] = {"tier": "edge", "env": "test"}
    return doc


def names(mesh, what, selector, *flags):
    done = mesh.ctl("get", what, "-l", selector, "-o", "json", *flags)
    return {item["name"] for item in json.loads(done.stdout).get(what, [])}


# ---- what they are ----

@pytest.mark.sanitize
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_every_kind_keeps_them_through_export_and_apply(mesh, folder, form):
    pem = Ca("some root").root_pem().decode()
    doc = document(truststores=[{"name": "others", "mesh_roots": True}])
    doc["truststores"].append({"name": "outside", "pem": [pem]})
    for kind in ("subsystems", "profiles", "links", "truststores"):
        doc[kind][0]["labels"] = LABELS
    mesh.apply(doc)
    said = mesh.ctl("export", "-o", form).stdout
    loaded = json.loads(said) if form == "json" else yaml.safe_load(said)
    for kind in ("subsystems", "profiles", "links", "truststores"):
        item, = [i for i in loaded[kind] if i["name"] == doc[kind][0]["name"]]
        assert item["labels"] == LABELS, "a plain map"
        one = mesh.ctl("get", kind, item["name"], "--show-labels").stdout
        assert "a.b-c_d=A.b-C_d,empty=,example.com/owner=7,tier=edge,yes=no" in one and "LABELS" in one
        assert "LABELS" not in mesh.ctl("get", kind).stdout
        assert "example.com/owner" in mesh.ctl("describe", kind, item["name"]).stdout
    again = folder / f"again.{form}"
    again.write_text(said)
    assert "nothing to change" in mesh.ctl("apply", "-f", again, "--prune").stdout
    for kind in ("subsystems", "profiles", "links", "truststores"):  # and each list alone
        again.write_text(mesh.ctl("get", kind, "-o", form).stdout)
        assert "nothing to change" in mesh.ctl("apply", "-f", again).stdout


def test_a_copy_and_an_older_revision_have_them(mesh):
    mesh.apply(labelled())
    mesh.ctl("clone", "link", "management-portal", "copy", "--client-port", "15190")
    assert mesh.ctl_json("get", "links", "copy")["links"][0]["labels"] == {"tier": "edge", "number": "0"}
    version = mesh.version()
    assert "changed labels" in mesh.apply(document(), "--allow-weaker").stdout
    assert names(mesh, "links", "tier") == {"copy"}
    assert "labels:" in mesh.ctl("diff", version).stdout
    mesh.ctl("rollback", version)
    assert len(names(mesh, "links", "tier")) == 5


def test_a_keystore_whose_key_is_replaced_keeps_them(mesh, folder):
    mesh.ctl("elevate", "--for", "10m", "--reason", "keystores")
    ca = Ca("keystores")

    def bring(*flags):
        chain, key = ca.issue(dns=["a.example.com"]).write(folder, "uploaded")
        return mesh.ctl("import", "keystore", "shown", "--chain", chain, "--private-key", key, *flags)

    bring()
    text = mesh.ctl("get", "keystores", "shown", "-o", "json").stdout
    doc = json.loads(text)
    doc["keystores"][0]["labels"] = {"team": "edge"}
    mesh.apply(doc)
    bring("--replace")
    after = mesh.ctl_json("get", "keystores", "shown")["keystores"][0]
    assert after["labels"] == {"team": "edge"} and after["key_sha256"] != doc["keystores"][0]["key_sha256"]


@pytest.mark.parametrize("labels,text", [
    ({"-a": "b"}, 'subsystems[0].labels: "-a": a key is 1 to 63'),
    ({"A.example/b": "c"}, "DNS name in lower case"),
    ({"a/b/c": "d"}, "a key is 1 to 63"),
    ({"a" * 64: "b"}, "a key is 1 to 63"),
    ({"a": "b c"}, 'subsystems[0].labels: "b c": a value is empty or 1 to 63'),
    ({"a": "b" * 64}, "a value is empty or 1 to 63"),
    ({"a": 1}, 'subsystems[0].labels.a: expected text, found a number; write "1" in quotes'),
    ({"a": True}, "subsystems[0].labels.a: expected text, found true or false"),
    ({"a": None}, "subsystems[0].labels.a: expected text, found nothing"),
    ([{"key": "a", "value": "b"}], "subsystems[0].labels: expected a map, found a list"),
    ({f"k{n}": "v" for n in range(65)}, "subsystems[0].labels: are 65; at most 64"),
])
def test_what_is_no_label_is_refused_at_its_place(mesh, folder, labels, text):
    """By apply and, without a control plane, by validate: the same words."""
    doc = document()
    doc["subsystems"][0]["labels"] = labels
    before = mesh.version()
    applied = mesh.apply(doc, check=False)
    validated = subprocess.run([mesh.bin.ctl, "validate", "-f", mesh.folder / "mesh.yaml"], check=False,
                               capture_output=True, text=True, env=own_environment(), timeout=60)
    assert applied.returncode != 0 and text in applied.stderr
    assert validated.returncode != 0 and text in validated.stderr
    assert mesh.version() == before


def test_what_is_built_in_has_none(mesh):
    profile, = mesh.ctl_json("get", "profiles", "modern-client")["profiles"]
    profile["labels"] = {"tier": "edge"}
    assert "built in" in mesh.apply({"profiles": [profile]}, check=False).stderr


def test_no_sidecar_hears_of_them(mesh):
    """A changed label is a new version of the mesh, and no new configuration of anybody."""
    def state():
        return {w["subsystem"]: (w["acked_version"], w["status"]["generation"]) for w in mesh.workloads()}

    before, version = state(), mesh.version()
    doc = labelled()
    doc["profiles"][0]["labels"] = doc["profiles"][1]["labels"] = {"tier": "edge"}
    assert "changed labels" in mesh.apply(doc, "--wait").stdout
    assert mesh.version() > version and state() == before
    # The twin: what does matter arrives.
    doc["profiles"][0]["max_age_s"] = 3600
    mesh.apply(doc, "--wait")
    mesh.wait_in_sync(4)
    assert state() != before


# ---- choosing ----

def test_a_selector_chooses_what_it_says(mesh):
    mesh.apply(labelled())
    assert names(mesh, "links", "tier=edge") == {"management-portal", "management-gateway"}
    assert names(mesh, "links", "tier!=edge") == {"management-analytics", "gateway-analytics"}
    assert names(mesh, "links", "tier in (core, none), !old") == {"management-analytics"}
    assert names(mesh, "links", "tier,number notin (0,3)") == {"management-gateway", "management-analytics"}
    assert names(mesh, "links", "tier=Edge") == set()
    assert names(mesh, "subsystems", "!tier") >= {"analytics", "gateway"}
    assert names(mesh, "links", "tier=edge", "management-portal") == {"management-portal"}
    # Sidecars by their subsystem.
    live = mesh.ctl_json("get", "workloads", "-l", "env=live")["workloads"]
    assert {w["subsystem"] for w in live} == {mesh.ctl_json("get", "mesh")["mesh"]["subsystems"][0]["name"]} and len(live) == 1
    assert "env=live,tier=edge" in mesh.ctl("get", "workloads", "--show-labels").stdout
    described = mesh.ctl("describe", "links", "-l", "tier=edge").stdout
    assert "link management-portal\n" in described and "link management-gateway\n" in described
    assert "gateway-analytics" not in described
    exported = yaml.safe_load(mesh.ctl("export", "-l", "tier=edge").stdout)
    assert set(exported) == {"subsystems", "links"} and len(exported["links"]) == 2 and len(exported["subsystems"]) == 2
    assert yaml.safe_load(mesh.ctl("export", "-l", "tier=none").stdout) == {}


@pytest.mark.parametrize("command", [["get", "links"], ["describe", "links"], ["delete", "links", "--yes"], ["export"]])
@pytest.mark.parametrize("selector,place", [(" ", 2), ("tier=edge,", 11), ("tier edge", 6), ("tier in edge", 9),
                                            ("tier=edge)", 10), ("!tier=edge", 6), ("tier>3", 5), ("ti$er", 1)])
def test_what_is_no_selector_chooses_nothing(mesh, command, selector, place):
    mesh.apply(labelled())
    version = mesh.version()
    done = mesh.ctl(*command, f"--selector={selector}", check=False)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert f"--selector: at character {place}: " in done.stderr
    assert mesh.version() == version


def test_an_empty_one_deletes_nothing(mesh):
    """As a variable of a script is that was never set. `get` then shows all, as Kubernetes does."""
    for command in (["delete", "links", "--yes"], ["describe", "links"]):
        done = mesh.ctl(*command, "-l", "", check=False)
        assert done.returncode == 2 and f"{command[0]} what?" in done.stderr
    assert names(mesh, "links", "") >= {"management-portal", "gateway-analytics"}


def test_what_has_no_labels_says_so(mesh):
    for what in ("certificates", "revocations", "crl", "mesh"):
        done = mesh.ctl("get", what, "-l", "a=b", check=False)
        assert done.returncode == 2 and "has no labels" in done.stderr
    done = mesh.ctl("get", "certificates", "--show-labels", check=False)
    assert done.returncode == 2 and "has no labels" in done.stderr


# ---- deleting ----

def test_more_than_one_is_deleted_with_a_yes_only(mesh):
    mesh.apply(labelled())
    version = mesh.version()
    done = mesh.ctl("delete", "links", "-l", "tier=edge", check=False)
    assert done.returncode == 1 and "--yes" in done.stderr and "2" in done.stderr
    assert done.stdout.splitlines() == ["link management-portal", "link management-gateway"]
    dry = mesh.ctl("delete", "links", "-l", "tier=edge", "--dry-run").stdout
    assert "link management-portal: removed" in dry and "nothing was changed" in dry
    assert mesh.version() == version
    done = mesh.ctl("delete", "links", "-l", "old").stdout  # one needs none
    assert done.startswith("link gateway-analytics\n") and "link gateway-analytics: removed" in done
    done = mesh.ctl("delete", "links", "-l", "tier=edge", "--yes").stdout
    assert "link management-portal: removed" in done and "link management-gateway: removed" in done
    left = {link["name"] for link in mesh.ctl_json("get", "links")["links"]}
    assert left & {"management-portal", "management-gateway", "management-analytics", "gateway-analytics"} == {
        "management-analytics"}


def test_all_that_is_chosen_goes_or_nothing(mesh):
    """One of the two is in use: the other stays, too."""
    doc = labelled()
    doc["profiles"].append({"name": "idle", "role": "CLIENT", "labels": {"team": "x"}})
    doc["profiles"][0]["labels"] = {"team": "x"}
    mesh.apply(doc)
    version = mesh.version()
    for command in (["-l", "team=x", "--yes"], ["mesh-client", "idle"]):
        done = mesh.ctl("delete", "profiles", *command, check=False)
        assert done.returncode == 1 and "is in use" in done.stderr
        assert mesh.version() == version
    mesh.ctl("delete", "profiles", "idle")
    done = mesh.ctl("delete", "profiles", "-l", "team=none", check=False)
    assert done.returncode == 1 and "no profile is such" in done.stderr


def test_what_is_built_in_is_not_chosen_to_be_deleted(mesh):
    """It has no labels, so that "is not such" is true of it."""
    mesh.apply({"profiles": [{"name": "mine", "role": "CLIENT", "labels": {"new": ""}}]})
    done = mesh.ctl("delete", "profiles", "-l", "!old,team!=x", "--dry-run", check=False)
    assert "profile mine\n" in done.stdout and "modern-client" not in done.stdout


@pytest.mark.parametrize("words", [[], ["portal", "-l", "a=b"]])
def test_names_or_a_selector_and_not_both(mesh, words):
    for command in ("delete", "describe"):
        done = mesh.ctl(command, "subsystem", *words, check=False)
        assert done.returncode == 2 and f"{command} what?" in done.stderr
