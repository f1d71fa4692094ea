"""Without this the key under which the store is sealed would be the same for ever, and a change of it a moment at which a
control plane that is killed finds half of its records under a key that nobody has any more.

Drives: R45, F5, R25"""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from deploy.lab.mesh import LINKS, Mesh, document
from deploy.lab.programs import Process, wait_for
from test.testlib.fixtures import FULL

KILLS = 50 if FULL else 8


@pytest.fixture(scope="module")
def plane(folder, network, binaries):
    """A control plane whose store has more records than are sealed anew at once."""
    made = Mesh(folder / "plane", network, binaries)
    made.start_control()
    made.apply(document())
    for _ in range(100):
        made.token("portal")
    yield made
    made.stop()


def kek(plane):
    return plane.folder / "control" / "kek"


def write(path, *keys, mode=0o600):
    """As an operator should: a new file in the place of the old one."""
    fresh = path.with_name("kek.new")
    fresh.write_text("".join(f"{key}\n" for key in keys))
    fresh.chmod(mode)
    fresh.rename(path)


def name_of(key):
    return hashlib.sha256(b"mortise-kek" + bytes.fromhex(key)).hexdigest()[:16]


def state(plane):
    return {"stale": 0, "done": False, **plane.ctl_json("rotate", "status")["key"]}


def finished(plane, key):
    return wait_for("all of it is under the new key", lambda: (
        (s := state(plane))["done"] and s["key"] == name_of(key) and s))


def start_with(plane, store, *keys):
    """A control plane on a copy of a store's folder with those keys: (exit status or None, what it said)."""
    copy = plane.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(mode=0o700)
    shutil.copy(store, copy / "store.db")
    journal = store.with_name("store.db-journal")  # of a transaction that was cut off: SQLite takes it back
    if journal.exists():
        shutil.copy(journal, copy / "store.db-journal")
    for path in copy.iterdir():
        path.chmod(0o600)
    write(copy / "kek", *keys)
    process = Process(f"copy{time.monotonic_ns()}", [plane.bin.control, "--data-dir", copy, "--kek-file", copy / "kek", "--listen",
                               "127.0.0.1:15019", "--operator-socket", copy / "o.sock"], plane.folder)
    try:
        wait_for("it listens or ends", lambda: process.child.poll() is not None or "event=listening" in process.tail())
        return process.child.poll(), process.tail()
    finally:
        process.kill()


def test_the_store_goes_over_to_a_new_key_while_it_runs(plane):
    old, new = kek(plane).read_text().strip(), os.urandom(32).hex()
    mesh, before = plane.ctl_json("get", "mesh"), state(plane)
    assert before["key"] == name_of(old) and before["done"]
    write(kek(plane), new, old)
    said = plane.ctl("rotate", "key", "--wait").stdout
    assert f"key {name_of(new)} seals" in said and said.splitlines()[-1].startswith("done"), said
    assert state(plane)["stale"] == 0 and state(plane)["key"] == name_of(new)
    assert plane.ctl_json("get", "mesh") == mesh
    # What is changed from now on, is changed from what was read before.
    plane.apply(document(links=LINKS[:1]), "--prune")
    plane.apply(document())
    plane.token("portal")
    store = plane.folder / "backup.db"
    plane.ctl("backup", store)
    status, told = start_with(plane, store, old)
    assert status not in (0, None) and "kek_unavailable" in told and name_of(new) in told
    status, told = start_with(plane, store, new)
    assert status is None, told
    write(kek(plane), new)
    text = plane.control.tail(10000) + told
    assert old not in text and new not in text, "no key in a log"


def test_what_cannot_be_is_told_and_changes_nothing(plane):
    now, new = kek(plane).read_text().strip(), os.urandom(32).hex()
    for keys, mode, said in (
            ((now,), 0o600, f"key {name_of(now)}, the first in the file, seals already"),
            ((now, new), 0o600, "seals already: put the new key in front of it"),
            ((new,), 0o600, f"is sealed under key-encryption key {name_of(now)}; given: {name_of(new)}"),
            ((new, "x" * 64), 0o600, "key 2 of it is not a key-encryption key"),
            ((), 0o600, "not a key-encryption key"),
            ((new, now), 0o640, "chmod 600 it"),
    ):
        write(kek(plane), *keys, mode=mode)
        done = plane.ctl("rotate", "key", check=False)
        assert done.returncode == 1 and said in done.stderr, (said, done.stderr)
        assert now not in done.stderr and new not in done.stderr
        assert state(plane)["key"] == name_of(now) and state(plane)["done"]
    write(kek(plane), now)


def test_a_key_of_a_variable_goes_over_at_a_start(plane):
    """There is no file that could be read again: both are given, and the rest happens by itself."""
    folder, old, new = plane.folder / "variable", os.urandom(32).hex(), os.urandom(32).hex()
    argv = [plane.bin.control, "--data-dir", folder, "--trust-domain", "mesh.test", "--listen", "127.0.0.1:15019",
            "--operator-socket", folder / "o.sock"]

    def ctl(*args):
        return subprocess.run([str(plane.bin.ctl), "--socket", str(folder / "o.sock"), *args], capture_output=True, text=True,
                              check=False, timeout=60)

    for number, keys in enumerate((old, f"{new} {old}", new)):
        process = Process(f"variable{number}", argv, plane.folder, env={"MORTISE_KEK": keys})
        try:
            wait_for("it listens", lambda p=process: "event=listening" in p.tail())
            wait_for("all of it is under the first", lambda k=keys: (
                f"store's key        {name_of(k[:64])}\n" in ctl("rotate", "status").stdout))
            no = ctl("rotate", "key")
            assert no.returncode == 1 and "MORTISE_KEK" in no.stderr and keys[:64] not in no.stderr
        finally:
            process.stop()


def test_killed_at_any_moment_it_goes_on_with_both_keys(plane):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"\nseed {seed}")
    mesh, middle = plane.ctl_json("get", "mesh"), 0
    key = kek(plane).read_text().strip()
    for _ in range(KILLS):
        old, key = key, os.urandom(32).hex()
        write(kek(plane), key, old)
        order = Process("order", [plane.bin.ctl, "--socket", plane.socket, "rotate", "key"], plane.folder,
                        plane.control_host)
        time.sleep(0.06 * rng.random())  # the random moment; also before it was asked at all
        plane.control.signal(signal.SIGKILL)
        plane.control.wait(20)
        order.kill()
        store = plane.folder / "control" / "store.db"
        with_old, with_new = (start_with(plane, store, k) for k in (old, key))
        # Whole under one of them, or refused with the name of the one that is missing: never half.
        if None not in (with_old[0], with_new[0]):
            middle += 1
            assert name_of(key) in with_old[1] and name_of(old) in with_new[1]
        for status, told in (with_old, with_new):
            assert status is None or "kek_unavailable" in told, told
        plane.start_control()
        finished(plane, key)
        assert plane.ctl_json("get", "mesh") == mesh
    print(f"{middle} of {KILLS} were killed between two records")
    assert middle > 0 or not FULL
    write(kek(plane), key)
    plane.control.signal(signal.SIGTERM)
    assert plane.control.wait(20) == 0
    plane.start_control()
    assert plane.ctl_json("get", "mesh") == mesh
