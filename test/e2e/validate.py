"""Without this a file that passes in a repository's CI is refused where it is used, or the other way round: what validate
says of a file, without a control plane, is what the program that it is for says of it.

Drives: R61, D7"""
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment
from test.testlib.control import LoneControl
from test.testlib.static import StaticPair


@pytest.fixture(scope="module")
def alone(folder, binaries):
    with tempfile.TemporaryDirectory(prefix="mortise-sock-") as place:
        (folder / "alone").mkdir()
        made = LoneControl(folder / "alone", socket=Path(place) / "operator.sock")
        made.start()
        yield made
        made.stop()


def run(*words, path=()):
    """`path`: folders where programs are looked for first."""
    env = own_environment()
    env["PATH"] = os.pathsep.join([*map(str, path), env.get("PATH", "/usr/bin:/bin")])
    return subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, env=env, timeout=60)


def validate(binaries, file, *flags):
    return run(binaries.ctl, "validate", "-f", file, *flags,
               path=[Path(binaries.proxy).parent, Path(binaries.control).parent])


# ---- a static sidecar ----

SIDECAR_FAULTS = [
    lambda doc: doc["profiles"][0].update(min_version="TLS1_1"),
    lambda doc: doc["profiles"][0].update(cipher_suites=["TLS_RSA_WITH_NULL_MD5"]),
    lambda doc: doc["identity"].update(key_file="none.key"),
    lambda doc: doc["outbound"][0].update(profil="client"),
    lambda doc: doc["outbound"][0].update(profile="nobodys", truststore="nobodys"),
    lambda doc: doc["settings"].update(workers=-1, wrokers=1),
]


@pytest.fixture(scope="module")
def pair(folder, binaries):
    (folder / "pair").mkdir()
    return StaticPair(folder / "pair", binaries)


def test_a_sidecars_file_that_is_good(pair, binaries):
    for side in ("client", "server"):
        done = validate(binaries, pair.folder / f"{side}.yaml")
        assert done.returncode == 0 and done.stdout.endswith("valid\n") and done.stderr == "", done.stderr


@pytest.mark.parametrize("fault", range(len(SIDECAR_FAULTS)))
def test_a_sidecars_faults_are_those_that_the_sidecar_tells(pair, binaries, fault):
    doc = pair.config("client")
    SIDECAR_FAULTS[fault](doc)
    file = pair.folder / "faulty.yaml"
    file.write_text(json.dumps(doc))
    said = run(binaries.proxy, "--check", "--config", file)
    done = validate(binaries, file)
    assert said.returncode != 0 and said.stderr
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == said.stderr + f"mortisectl: {file}: mortise-proxy would not start with it\n"


# ---- a control plane's settings ----

def test_a_control_planes_settings_are_judged_likewise(alone, binaries):
    good = alone.data / "control.yaml"
    done = validate(binaries, good)
    assert done.returncode == 0 and done.stdout.endswith("valid\n") and done.stderr == ""
    for bad in ("trust_domain: Not A Domain\nlisten: nowhere\ndata_dir: .\n", good.read_text() + "lisen: 1.2.3.4:5\n",
                "listen: 127.0.0.1:1\n"):
        file = alone.data / "bad.yaml"
        file.write_text(bad)
        said = run(binaries.control, "--check", "--config", file)
        done = validate(binaries, file)
        assert said.returncode != 0 and done.returncode == 1
        assert done.stderr == said.stderr + f"mortisectl: {file}: mortise-control would not start with it\n"


# ---- a mesh document ----

LINK = {"name": "one", "client": "portal", "server": "gateway", "client_port": 15190, "server_port": 8090}


@pytest.mark.parametrize("doc", [
    {"subsystems": [{"name": "Not A Name"}]},
    {"subsystems": [{"name": "a"}, {"name": "a"}]},
    {"links": [{**LINK, "client": "nobody", "client_port": 0}]},
    {"links": [{**LINK, "server_profile": "default-tls-client"}, {**LINK, "name": "two"}]},
    {"profiles": [{"name": "x", "role": "SERVER", "cipher_suites": ["TLS_NULL"], "groups": ["P-1"]}]},
    {"profiles": [{"name": "modern-client", "role": "CLIENT"}]},
    {"truststores": [{"name": "x", "pem": ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]}]},
    {"settings": {"leaf_ttl_s": 1}},
    {"subsystems": [{"name": "a", "labels": {"-": "b", "c": " "}}]},
])
def test_a_documents_faults_are_those_that_apply_tells(alone, binaries, doc):
    file = alone.folder / "mesh.yaml"
    file.write_text(json.dumps(doc))
    applied = alone.try_ctl("apply", "-f", file)
    done = validate(binaries, file)
    assert applied.returncode == 1 and done.returncode == 1
    head, _, faults = applied.stderr.partition("\n")
    assert "refused" in head and faults.strip() and done.stderr.strip() == faults.strip()


def test_a_good_document_is_valid_for_both(alone, binaries):
    file = alone.folder / "mesh.yaml"
    file.write_text(json.dumps({"links": [LINK]}))
    done = validate(binaries, file)
    dry = alone.try_ctl("apply", "-f", file, "--dry-run")
    assert done.returncode == 0 and dry.returncode == 0
    assert done.stdout == "link one: added\nvalid\n" and dry.stdout.startswith("link one: added\n")


# ---- which of them it is ----

def test_what_it_is_can_be_said(pair, alone, binaries):
    """One that says too little to tell; and one that is taken for what it is not."""
    file = alone.folder / "settings.yaml"
    file.write_text("settings: {workers: 1}\n")
    for kind, text in (("mesh", "settings.workers: unknown field"), ("sidecar", "identity: is missing"),
                       ("control", "settings")):
        done = validate(binaries, file, "--kind", kind)
        assert done.returncode == 1 and text in done.stderr
    assert validate(binaries, file).stderr == validate(binaries, file, "--kind", "mesh").stderr
    done = validate(binaries, pair.folder / "client.yaml", "--kind", "mesh")
    assert done.returncode == 1 and "unknown field" in done.stderr


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "\x00", "identity", "mesh: {}"])
def test_what_is_none_of_them_is_told(alone, binaries, text):
    file = alone.folder / "odd.yaml"
    file.write_text(text)
    done = validate(binaries, file)
    assert (done.returncode == 1 and done.stderr) or (text in ("", "mesh: {}") and done.stdout == "valid\n")


def test_the_program_that_judges_may_not_be_there(pair, binaries, tmp_path):
    """A machine with mortisectl alone: nothing is taken for valid."""
    ctl = shutil.copy(binaries.ctl, tmp_path / "mortisectl")
    done = run(ctl, "validate", "-f", pair.folder / "client.yaml")
    assert done.returncode == 1 and done.stdout == "" and "cannot start mortise-proxy" in done.stderr
    shutil.copy(binaries.proxy, tmp_path / "mortise-proxy")
    done = run(ctl, "validate", "-f", pair.folder / "client.yaml")
    assert done.returncode == 0, "beside it"


def test_what_goes_with_a_mesh_document_only(pair, binaries):
    for flags in (["--prune"], ["--base", pair.folder / "client.yaml"]):
        done = validate(binaries, pair.folder / "client.yaml", *flags)
        assert done.returncode == 2 and "judged by itself" in done.stderr
