"""Without this a damaged, swapped or foreign store could make the control plane sign from data that nobody
vouched for, or lose an operator's change.

Drives: R45, R53, R54, R56, R39, D1, F14, C2, E6, R25, R50"""
import os
import random
import shutil
import signal
import sqlite3
import subprocess

import pytest

from deploy.lab.mesh import TRUST_DOMAIN, Mesh, document
from deploy.lab.programs import Process, wait_for


@pytest.fixture
def plane(folder, network, binaries):
    # A socket's path is short: the test's number, not its name.
    made = Mesh(folder / f"plane{len(list(folder.iterdir()))}", network, binaries)
    made.start_control()
    made.apply(document())
    yield made
    made.stop()


def start_again(plane, env=None, name="again"):
    """Starts mortise-control on the same folder and returns (exit status, output)."""
    process = Process(name, [plane.bin.control, "--config", plane.folder / "control/control.yaml",
                             "--listen", "127.0.0.1:15019", "--operator-socket",
                             plane.folder / "again.sock"], plane.folder, env=env)
    try:
        status = process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.tail()
    return status, process.tail()


def database(plane):
    found = [p for p in (plane.folder / "control").iterdir() if p.suffix in (".db", ".sqlite")]
    assert len(found) == 1, found
    return found[0]


def test_the_store_shows_neither_keys_nor_policy(plane):
    data = database(plane).read_bytes()
    for word in (b"management-portal", b"PRIVATE", b"default-tls-server", b"BEGIN CERT"):
        assert word not in data
    assert database(plane).stat().st_mode & 0o077 == 0
    assert (plane.folder / "control").stat().st_mode & 0o077 == 0


def test_a_second_process_on_the_same_store_is_refused(plane):
    status, told = start_again(plane)
    assert status not in (0, None) and "store_busy" in told


@pytest.mark.parametrize("kek", ["wrong", "missing", "short"])
def test_without_the_right_key_it_does_not_start(plane, kek):
    plane.control.stop()
    path = plane.folder / "control" / "kek"
    assert path.exists()
    if kek == "wrong":
        path.write_text(os.urandom(32).hex())
    elif kek == "missing":
        path.unlink()
    else:
        path.write_text("abcd")
    status, told = start_again(plane)
    assert status not in (0, None) and "kek_unavailable" in told


def test_a_record_moved_to_another_path_is_refused(plane):
    """Each value is bound to its key: two records change places."""
    plane.control.stop()
    db = sqlite3.connect(database(plane))
    table = [r[0] for r in db.execute("select name from sqlite_master where type='table'")]
    swapped = False
    for name in table:
        columns = [r[1] for r in db.execute(f"pragma table_info({name})")]
        if {"key", "value"} <= set(columns):
            rows = db.execute(f"select key, value from {name} where length(value) > 60").fetchall()
            (k1, v1), (k2, v2) = rows[0], rows[1]
            db.execute(f"update {name} set value=? where key=?", (v2, k1))
            db.execute(f"update {name} set value=? where key=?", (v1, k2))
            swapped = True
    db.commit()
    db.close()
    assert swapped
    status, told = start_again(plane)
    assert status not in (0, None) and ("store_corrupt" in told or "seal_broken" in told)


def test_flipped_bits_never_go_unnoticed(plane):
    """At 40 random places (the seed is printed): it starts with what it had, or refuses; it never differs."""
    wanted = plane.ctl_json("get", "mesh")
    plane.control.stop()
    path = database(plane)
    good = path.read_bytes()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    refused = 0
    for number in range(40):
        at = rng.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(bad))
        process = Process(f"flip{number}", [
            plane.bin.control, "--config", plane.folder / "control/control.yaml", "--listen",
            "127.0.0.1:15019", "--operator-socket", plane.socket], plane.folder)
        try:
            ended = wait_for("started or refused", lambda p=process: not p.alive() or
                             plane.ctl("status", check=False).returncode == 0)
            assert ended
            if process.alive():
                got = plane.ctl("get", "mesh", "-o", "json", check=False)
                if got.returncode == 0:
                    import json

                    assert json.loads(got.stdout)["mesh"] == wanted["mesh"], f"byte {at}"
            else:
                refused += 1
                assert process.child.returncode in (1, 2), process.tail()
        finally:
            process.kill()
        for extra in path.parent.glob(path.name + "-*"):
            extra.unlink()
    path.write_bytes(good)
    print(f"{refused} of 40 refused to start")


def test_disk_full_refuses_changes_and_keeps_serving(folder, network, binaries):
    place = folder / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    mesh = None
    try:
        mesh = Mesh(place, network, binaries)
        mesh.start_control()
        mesh.apply(document())
        filler = place / "filler"
        with open(filler, "wb", buffering=0) as out:
            try:
                while True:
                    out.write(b"\0" * 4096)
            except OSError:
                pass
        path = place.parent / "more.json"
        import json

        path.write_text(json.dumps({"subsystems": [
            {"name": f"extra-{i}", "description": "x" * 200} for i in range(200)]}))
        done = mesh.ctl("apply", "-f", path, check=False)
        assert done.returncode != 0 and "store_unwritable" in done.stderr
        assert len(mesh.ctl_json("get", "links")["links"]) >= 4
        filler.unlink()
        assert mesh.ctl("apply", "-f", path, check=False).returncode == 0
    finally:
        if mesh is not None:
            mesh.stop()
        subprocess.run(["umount", "-l", place], check=False)


def test_trust_domain_cannot_change(plane):
    plane.control.stop()
    config = plane.folder / "control/control.yaml"
    text = config.read_text()
    assert TRUST_DOMAIN in text
    config.write_text(text.replace(TRUST_DOMAIN, "other.test"))
    status, told = start_again(plane)
    assert status not in (0, None) and "trust_domain" in told.replace("-", "_")


def test_term_ends_in_order_and_starts_again_from_what_was_there(plane):
    shutil.copytree(plane.folder / "control", plane.folder / "copy",
                    ignore=shutil.ignore_patterns("*.sock"))
    before = plane.ctl_json("status")
    plane.control.signal(signal.SIGTERM)
    assert plane.control.wait() == 0
    plane.start_control()
    after = plane.ctl_json("status")
    assert after["root_sha256"] == before["root_sha256"]
