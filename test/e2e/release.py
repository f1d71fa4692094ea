"""Without this a release could not be told from what somebody put in its place: it is signed, says what it was built from,
and a second build of the same commit gives the same bytes.

Drives: R77, R78, B7"""
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "deploy" / "release"
CONFIG = os.environ.get("MORTISE_CONFIG", "opt")


def release(*args):
    return subprocess.run([RELEASE, *map(str, args)], cwd="/", capture_output=True, text=True, timeout=3000, check=False)


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key, its public half, and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "stranger"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.key")
        openssl("pkey", "-in", folder / f"{name}.key", "-pubout", "-out", folder / f"{name}.pub")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", folder / "p256.key")
    return folder


@pytest.fixture(scope="module")
def committed():
    if CONFIG != "opt":
        pytest.skip("of the programs that are installed somewhere")
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        pytest.skip("a release is of a commit, and here are changes that are in none")


@pytest.fixture(scope="module")
def made(committed, keys, tmp_path_factory):
    out = tmp_path_factory.mktemp("releases") / "one"
    done = release("make", "--key", keys / "ours.key", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_it_verifies_and_names_the_commit(made, keys):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    done = release("verify", "--key", keys / "ours.pub", made)
    assert done.returncode == 0 and commit in done.stdout, done.stderr


def test_the_commands_of_the_manual_need_openssl_alone(made, keys):
    """As docs/install.md has them."""
    subprocess.run("openssl pkeyutl -verify -pubin -inkey $KEY -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig && sha256sum -c SHA256SUMS",
                   shell=True, check=True, cwd=made, env={**os.environ, "KEY": str(keys / "ours.pub")}, capture_output=True)


def test_what_is_unpacked_runs(made, tmp_path):
    archive = next(made.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        assert all(item.uid == 0 and item.mtime == 0 and not item.name.startswith(("/", "..")) for item in tar)
        tar.extractall(tmp_path)
    top = tmp_path / archive.name.removesuffix(".tar.gz")
    for name in ("mortise-proxy", "mortise-control", "mortisectl", "mortise-cert", "mortise-redirect"):
        said = subprocess.run([top / "bin" / name, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.split()[1] in archive.name, said
    page = (top / "share/man/man1/mortisectl-apply.1").read_text()
    assert page.startswith(".")
    assert (top / "share/doc/mortise/docs/install.md").is_file()


def test_the_same_commit_gives_the_same_bytes(made, keys, tmp_path):
    assert release("make", "--key", keys / "ours.key", tmp_path / "two").returncode == 0
    names = sorted(path.name for path in made.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (made / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_provenance_says_what_it_was_built_from(made):
    envelope = json.loads(next(made.glob("*.intoto.jsonl")).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in statement["subject"]:
        assert hashlib.sha256((made / subject["name"]).read_bytes()).hexdigest() == subject["digest"]["sha256"]
    uris = [item["uri"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert any("boringssl" in uri for uri in uris) and any("libuv" in uri for uri in uris)


def test_another_key_is_refused(made, keys):
    done = release("verify", "--key", keys / "stranger.pub", made)
    assert done.returncode != 0 and "not signed by the key in" in done.stderr


@pytest.mark.parametrize("pattern", ("*.tar.gz", "*.cdx.json", "*.intoto.jsonl", "SHA256SUMS", "SHA256SUMS.sig"))
def test_a_changed_file_is_refused(copy, keys, pattern):
    path = next(copy.glob(pattern))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = release("verify", "--key", keys / "ours.pub", copy)
    assert done.returncode != 0 and "deploy/release: " in done.stderr, done.stderr


@pytest.mark.parametrize("pattern", ("*.tar.gz", "*.intoto.jsonl", "SHA256SUMS.sig"))
def test_a_missing_file_is_refused(copy, keys, pattern):
    next(copy.glob(pattern)).unlink()
    done = release("verify", "--key", keys / "ours.pub", copy)
    assert done.returncode != 0 and "is missing" in done.stderr


def test_a_file_that_is_in_no_list_is_refused(copy, keys):
    (copy / "install.sh").write_text("true\n")
    done = release("verify", "--key", keys / "ours.pub", copy)
    assert done.returncode != 0 and "install.sh: is not of this release" in done.stderr


def test_a_statement_of_another_release_is_refused(copy, keys):
    """Signed by the right key, and of other files."""
    path = next(copy.glob("*.intoto.jsonl"))
    envelope = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    payload = json.dumps(statement).encode()
    kind = envelope["payloadType"]
    message = copy.parent / "message"
    message.write_bytes(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload)
    openssl("pkeyutl", "-sign", "-inkey", keys / "ours.key", "-rawin", "-in", message, "-out", copy.parent / "sig")
    path.write_text(json.dumps({"payloadType": kind, "payload": base64.b64encode(payload).decode(),
                                "signatures": [{"sig": base64.b64encode((copy.parent / "sig").read_bytes()).decode()}]}))
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(copy.iterdir())
                   if not file.name.startswith("SHA256SUMS"))
    (copy / "SHA256SUMS").write_text(sums)
    openssl("pkeyutl", "-sign", "-inkey", keys / "ours.key", "-rawin", "-in", copy / "SHA256SUMS", "-out", copy / "SHA256SUMS.sig")
    done = release("verify", "--key", keys / "ours.pub", copy)
    assert done.returncode != 0 and "is of other files than these" in done.stderr


def test_a_weaker_key_or_none_is_refused(keys, tmp_path):
    done = release("make", "--key", keys / "p256.key", tmp_path / "out")
    assert done.returncode != 0 and "an Ed25519 key is needed" in done.stderr
    done = release("make", "--key", tmp_path / "none.key", tmp_path / "out")
    assert done.returncode != 0 and "none.key" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(keys, tmp_path):
    done = release("make", "--key", keys / "ours.key", tmp_path)
    assert done.returncode != 0 and "exists already" in done.stderr


def test_changes_that_are_in_no_commit_are_refused(keys, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    shutil.copy(RELEASE, clone / "deploy" / "release")
    (clone / "README.md").write_text("another\n")
    done = subprocess.run([clone / "deploy" / "release", "make", "--key", keys / "ours.key", tmp_path / "out"],
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "README.md" in done.stderr and "a release is of a commit" in done.stderr


@pytest.mark.full
def test_a_second_builder_gets_the_same(committed, keys, tmp_path):
    done = release("make", "--twice", "--key", keys / "ours.key", tmp_path / "out")
    assert done.returncode == 0, done.stderr
