"""Without this the first disk that dies takes the mesh's root with it: the store is backed up while it works, lost, restored,
and the sidecars go on without an application noticing; what is no whole backup takes the place of nothing.

Drives: R45, R53, R54"""
import shutil
import stat
import subprocess

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import LabError, wait_for


@pytest.fixture(scope="module")
def backup(mesh, traffic, folder):
    path = folder / "backup.db"
    said = mesh.ctl("backup", path).stdout
    assert "key-encryption key" in said
    return path


def refused(mesh, *args):
    with pytest.raises(LabError) as raised:
        mesh.ctl(*args)
    return str(raised.value)


def here(mesh, *args):
    """mortisectl for what asks no control plane."""
    return subprocess.run([str(mesh.bin.ctl), *map(str, args)], capture_output=True, text=True,
                          timeout=30)


def names(mesh):
    return {link["name"] for link in mesh.ctl_json("get", "links")["links"]}


def test_a_backup_is_private_and_replaces_nothing(mesh, backup):
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    before = backup.read_bytes()
    assert "exists already" in refused(mesh, "backup", backup)
    assert backup.read_bytes() == before
    assert "No such file" in refused(mesh, "backup", backup.parent / "nowhere" / "b.db")


def test_no_key_is_in_it(mesh, backup):
    """All is sealed: neither a key nor even a name can be read."""
    content = backup.read_bytes()
    assert content.startswith(b"SQLite format 3") and b"ca/root" in content  # the paths can
    assert b"mesh.test" not in content and b"management-portal" not in content


@pytest.mark.parametrize("wrong", ["cut", "other", "flipped", "empty"])
def test_what_is_no_whole_backup_is_refused(mesh, backup, folder, wrong):
    bad, data = folder / f"{wrong}.db", folder / f"data-{wrong}"
    content = bytearray(backup.read_bytes())
    if wrong == "flipped":  # within a b-tree page's head
        content[4096:4100] = b"\xff\xff\xff\xff"
    bad.write_bytes({"cut": content[:len(content) // 2], "other": b"no database at all\n" * 99,
                     "flipped": content, "empty": b""}[wrong])
    done = here(mesh, "restore", bad, data)
    assert done.returncode == 1 and "is no whole backup" in done.stderr, done.stderr
    assert [path.name for path in data.iterdir()] == []


def test_a_store_in_use_is_not_replaced(mesh, backup):
    assert "--force" in here(mesh, "restore", backup, mesh.folder / "control").stderr
    done = here(mesh, "restore", backup, mesh.folder / "control", "--force")
    assert done.returncode == 1 and "is running on it" in done.stderr
    assert mesh.control.ready()


def test_the_disk_dies_and_the_mesh_goes_on(mesh, traffic, backup):
    """A drill: what was decided after the backup is gone, everything else is as it was; nothing is lost of the traffic."""
    links = names(mesh)
    root = mesh.ctl_json("status")["root_sha256"]
    late = document()
    late["links"].append({**late["links"][0], "name": "late", "client_port": 15999})
    mesh.apply(late, "--wait")
    assert "late" in names(mesh)
    before = traffic.totals()

    mesh.control.signal(9)
    mesh.control.wait(20)
    data = mesh.folder / "control"
    (data / "store.db").write_bytes(b"\0" * 4096)  # what is left of it
    assert here(mesh, "restore", backup, data, "--force").returncode == 0
    assert (data / "store.db.before-restore").exists()
    mesh.start_control()

    assert names(mesh) == links and mesh.ctl_json("status")["root_sha256"] == root
    mesh.wait_in_sync(4)
    mesh.ctl("rotate", "--all", "--wait")  # it signs, and everybody takes what it says
    wait_for("the late link is gone", lambda: "late" not in str(mesh.sidecar("management").config()))
    traffic.more(10)
    for link, now in traffic.totals().items():
        assert now["dropped"] == before[link]["dropped"], (link, now["problems"])
        assert now["corrupted"] == before[link]["corrupted"], (link, now["problems"])


def test_another_key_opens_nothing(mesh, backup, folder):
    """The restored store with the key of another mesh: refused at the start, and still there."""
    data = folder / "other"
    assert here(mesh, "init", data, "--trust-domain", "mesh.test").returncode == 0
    assert here(mesh, "restore", backup, data).returncode == 0
    done = mesh.control_host.run(str(mesh.bin.control), "--config", str(data / "control.yaml"),
                                 "--listen", "127.0.0.1:0", "--operator-socket",
                                 str(data / "operator.sock"), capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "kek_unavailable" in done.stderr
    assert (data / "store.db").read_bytes()[:1024] == backup.read_bytes()[:1024]
    shutil.rmtree(data)
