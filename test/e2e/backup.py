"""Without this the first disk that dies takes the mesh's root with it: the store is backed up while it works, lost, restored,
and the sidecars go on without an application noticing; what is no whole backup takes the place of nothing.

Drives: R10, R42, R45, R53, R54, R56, F18"""
import shutil
import stat
import subprocess

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import LabError, wait_for
from test.testlib.cpu import cpu_s
from test.testlib.odd_sidecar import OddSidecar
from test.testlib.stubs import stubs

THIEF = "spiffe://mesh.test/ns/apim/sa/thief"


@pytest.fixture(scope="module")
def backup(mesh, traffic, folder):
    path = folder / "backup.db"
    token = folder / "old-token"  # is in it, not yet used
    token.touch(mode=0o600)
    token.write_text(mesh.token("portal"))
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


def refusing(mesh):
    return [w for w in mesh.workloads() if w.get("refused", {}).get("code") == "config_rollback"]


def revoked(program):
    return [r.get("spiffe_id") for r in program.config()["config"].get("revocations", [])]


def lose_the_disk(mesh, backup):
    """Killed, and what is left of its store is put aside for the backup."""
    mesh.control.signal(9)
    mesh.control.wait(20)
    data = mesh.folder / "control"
    (data / "store.db").write_bytes(b"\0" * 4096)
    assert here(mesh, "restore", backup, data, "--force").returncode == 0
    assert (data / "store.db.before-restore").exists()
    mesh.start_control()


def test_the_disk_dies_and_the_mesh_goes_on(mesh, traffic, backup, folder):
    """A drill: what was decided after the backup is gone from the store, and nobody obeys that before an operator has
    seen it. Who was revoked stays out all the time; nothing is lost of the traffic of the others."""
    links = names(mesh)
    root = mesh.ctl_json("status")["root_sha256"]
    late = document()
    late["links"].append({**late["links"][0], "name": "late", "client_port": 15999})
    mesh.apply(late, "--wait")
    assert "late" in names(mesh)
    mesh.ctl("revoke", "spiffe-id", THIEF, "--wait")
    before = traffic.totals()

    lose_the_disk(mesh, backup)
    assert names(mesh) == links and mesh.ctl_json("status")["root_sha256"] == root
    wait_for("all refuse it", lambda: len(refusing(mesh)) == 4)
    assert "mortisectl accept-restore" in mesh.ctl("status").stdout
    wait_for("it is measured", lambda: mesh.control.metrics()["mortise_control_sidecars_rolled_back"] == 4)
    # However much it decides: its version numbers pass theirs, and it stays what it is.
    more = document()
    for number in range(70):
        more["links"][0]["description"] = f"change {number}"
        mesh.apply(more)
    mesh.control.kill()  # nor does it forget that in a restart
    mesh.start_control()
    wait_for("all refuse it still", lambda: len(refusing(mesh)) == 4)
    for name in ("management", "portal"):
        assert revoked(mesh.sidecar(name)) == [THIEF]
        assert "late" in str(mesh.sidecar("management").config())
    assert "revocations" not in mesh.ctl_json("get", "revocations")

    # The operator sees what is missing, and has to say what becomes of it.
    shown = mesh.ctl_json("accept-restore")
    assert len(shown["witnesses"]) == 4
    assert [(m["revocation"]["spiffe_id"], m["witnesses"]) for m in shown["missing"]] == [(THIEF, 4)]
    assert THIEF in mesh.ctl("accept-restore").stdout
    assert "keep or to drop" in refused(mesh, "accept-restore", "--confirm")
    assert len(refusing(mesh)) == 4
    assert "1 revocations kept" in mesh.ctl("accept-restore", "--confirm", "--keep-revocations").stdout
    mesh.wait_in_sync(4)
    assert mesh.ctl_json("get", "revocations")["revocations"][0]["revocation"]["spiffe_id"] == THIEF
    for name in ("management", "portal"):
        assert revoked(mesh.sidecar(name)) == [THIEF]
    assert "no connected sidecar" in refused(mesh, "accept-restore", "--confirm")

    mesh.ctl("rotate", "--all", "--wait")  # it signs, and everybody takes what it says
    wait_for("the late link is gone", lambda: "late" not in str(mesh.sidecar("management").config()))
    # A token from before the restore is of no use.
    assert "token_unknown" in refused(mesh, "certificate", "portal", "--token-file", folder / "old-token",
                                      "--out", folder / "no")
    mesh.ctl("lift", mesh.ctl_json("get", "revocations")["revocations"][0]["id"], "--wait")
    traffic.more(10)
    for link, now in traffic.totals().items():
        assert now["dropped"] == before[link]["dropped"], (link, now["problems"])
        assert now["corrupted"] == before[link]["corrupted"], (link, now["problems"])


def test_a_backup_that_lacks_nothing_needs_no_confirmation(mesh, traffic, folder):
    """Restored a moment after it was taken, with certificates issued in between."""
    path = folder / "fresh.db"
    mesh.ctl("backup", path)
    lose_the_disk(mesh, path)
    mesh.wait_in_sync(4)
    assert refusing(mesh) == []
    mesh.ctl("rotate", "--all", "--wait")


def test_an_old_copy_that_is_brought_back_by_hand_is_refused(mesh, folder):
    """The file itself, copied while nothing ran, and put back a revocation later; dropped, because that is said."""
    data = mesh.folder / "control"
    mesh.control.stop()
    copy = (data / "store.db").read_bytes()
    mesh.start_control()
    mesh.wait_in_sync(4)
    mesh.ctl("revoke", "spiffe-id", THIEF, "--wait")
    mesh.control.stop()
    (data / "store.db").write_bytes(copy)
    mesh.start_control()
    wait_for("all refuse it", lambda: len(refusing(mesh)) == 4)
    assert revoked(mesh.sidecar("portal")) == [THIEF]
    mesh.ctl("accept-restore", "--confirm", "--drop-revocations")
    mesh.wait_in_sync(4)
    assert revoked(mesh.sidecar("portal")) == []


def test_liars_end_neither_epochs_nor_the_control_plane(mesh):
    """Sidecars of one subsystem that tell of revocations that never were, more than there can be, and of an epoch that
    nobody came to: what they say is shown within a moment, all that is told is kept or nothing, and a rotation after it
    is a rotation, of an epoch from which many others can follow."""
    discovery, resource = stubs().discovery, stubs().resource

    def lie(number):
        kept = [resource.Revocation(serial=f"{0x100000 + 2000 * number + i:06x}") for i in range(1000)]
        kept[0] = resource.Revocation(serial="no number")
        return {"version": 0, "error": discovery.ErrorDetail(code="config_rollback"), "kept": kept,
                "kept_total": len(kept),
                "status": discovery.SidecarStatus(ready=True, certificate_epoch=2**32, renewal_error="é" * 7000)}

    mesh.ctl("rotate", "portal", "--wait")
    epoch = max(int(w["status"]["certificate_epoch"]) for w in mesh.workloads())
    mesh.ctl("revoke", "serial", "0a")
    before = cpu_s(mesh.control.child.pid)
    liars = [OddSidecar(mesh, "portal", f"liar-{number}", lambda q: [], take=lambda r, n=number: lie(n))
             for number in range(2)]
    try:
        wait_for("they have lied", lambda: mesh.ctl_json("status").get("rolled_back") == 2)
        shown = mesh.ctl_json("accept-restore")
        assert len(shown["witnesses"]) == 2 and len(shown["missing"]) == 1024
        assert "more than 1024" in refused(mesh, "accept-restore", "--confirm", "--keep-revocations")
        assert len(mesh.ctl_json("get", "revocations")["revocations"]) == 1
        assert max(len(w["status"].get("renewal_error", "")) for w in mesh.workloads()) == 256  # of two bytes each
        mesh.ctl("accept-restore", "--confirm", "--drop-revocations")
        assert cpu_s(mesh.control.child.pid) - before < 5
        mesh.ctl("rotate", "portal")
        wait_for("it has renewed", lambda: any(
            epoch < int(w["status"]["certificate_epoch"]) < 2**31 for w in mesh.workloads()
            if w["subsystem"] == "portal"))
    finally:
        for liar in liars:
            liar.stop()
    mesh.ctl("lift", mesh.ctl_json("get", "revocations")["revocations"][0]["id"], "--wait")
    wait_for("they are gone", lambda: len(mesh.workloads()) == 4)


def test_another_key_opens_nothing(mesh, backup, folder):
    """The restored store with the key of another mesh: refused at the start, and still there."""
    data = folder / "other"
    assert here(mesh, "init", data, "--trust-domain", "mesh.test").returncode == 0
    assert here(mesh, "restore", backup, data).returncode == 0
    done = mesh.control_host.run(str(mesh.bin.control), "--config", str(data / "control.yaml"),
                                 "--listen", "127.0.0.1:0", "--operator-socket",
                                 str(data / "operator.sock"), capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "kek_unavailable" in done.stderr
    again = here(mesh, "restore", data / "store.db", folder / "again")  # it is as whole as it was
    assert again.returncode == 0, again.stderr
    shutil.rmtree(folder / "again")
    shutil.rmtree(data)
