"""Without this a power cut at the wrong moment could take with it a revocation that an operator was told of, give a serial
number twice, or leave half of a new mesh: the control plane and its tools are killed at every call that they make to the file
system, one after the other, and what they find when they start again is whole.

A step of the walk kills before the call, in the midst of a write, or with all lost that was not synced (a power cut). The long
form takes every call; else one in STEP, another one each time: the seed is printed.

Drives: R39, R53, R54, R37, F18, D1"""
import random
import shutil
import subprocess

import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.crash import Book, Ended, Plane
from test.testlib.disk_faults import KILL, POWER, TORN, DiskFaults
from test.testlib.fixtures import CONFIG, FULL

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
STEP = 1 if FULL else 11
ACTIONS = {"killed": KILL, "torn": TORN, "power cut": POWER}
killed = 0


@pytest.fixture(scope="module", autouse=True)
def told():
    yield
    print(f"\nkilled {killed} times")


@pytest.fixture(params=ACTIONS)
def action(request):
    return ACTIONS[request.param]


def points():
    """The calls to be killed at; without end."""
    seed = random.randrange(STEP)
    print(f"calls {1 + seed}, {1 + seed + STEP} …")
    at = 1 + seed
    while True:
        yield at
        at += STEP


@pytest.fixture(scope="module")
def plane(folder, binaries):
    made = Plane(folder, lambda data: DiskFaults(folder, data), binaries)
    made.start()
    made.book = Book(made)
    made.book.check()
    yield made
    made.stop()


def died(program):
    global killed
    assert program.wait(20) == -9, program.tail()
    killed += 1


@pytest.mark.parametrize("work", Book.WORK)
def test_a_change_is_whole_or_was_not(plane, action, work):
    book = plane.book
    for at in points():
        plane.faults.arm(action, at)
        try:
            assert book.work(work)
        except Ended:
            assert plane.faults.failed == 1
        if plane.faults.failed == 0:  # it made fewer calls
            break
        died(plane.program)
        plane.again()
        book.check()
    plane.faults.disarm()
    book.check()


def begin(plane, action, at):
    """Starts with that fault; True when it came up all the same."""
    plane.faults.arm(action, at)
    plane.start(ready=False)
    wait_for("it is up, or dead", lambda: not plane.program.alive() or plane.program.ready())
    if plane.faults.failed:
        died(plane.program)
    return plane.program.alive()


def test_a_start_is_killed(plane, action):
    """One that finds what a kill in the midst of a change has left, and has to put it right first."""
    book = plane.book
    for at in points():
        plane.faults.arm(KILL, 12)
        with pytest.raises(Ended):
            book.work("revoke")
        died(plane.program)
        plane.disconnect()
        plane.program.stop()
        came_up = begin(plane, action, at)
        plane.again()
        book.check()
        if came_up:
            break


def test_an_end_is_killed(plane, action):
    book = plane.book
    for at in points():
        book.work("apply")
        plane.faults.arm(action, at)
        plane.program.signal(15)
        status = plane.program.wait(20)
        plane.again()
        book.check()
        if status == 0:
            break
        assert status == -9


def test_a_first_start_is_killed(folder, binaries, action):
    """The mesh is there whole, or the next start makes it; two of them never make two."""
    place = folder / f"first{action}"
    place.mkdir()
    plane = Plane(place, lambda data: DiskFaults(place, data), binaries)
    empty = place / "empty"
    shutil.copytree(plane.control.data, empty)
    try:
        for at in points():
            came_up = begin(plane, action, at)
            plane.disconnect()
            plane.program.stop()
            plane.faults.disarm()
            plane.start()
            root = plane.operator("Status").root_sha256
            assert Book(plane).work("attest")
            plane.again()
            assert plane.operator("Status").root_sha256 == root
            assert not [p.name for p in plane.control.data.iterdir() if p.name.startswith("store.db.")]
            plane.disconnect()
            plane.program.stop()
            shutil.rmtree(plane.control.data)
            shutil.copytree(empty, plane.control.data)
            if came_up:
                break
    finally:
        plane.stop()


# The tools.


def tool(binaries, faults, *args):
    return subprocess.run([binaries.ctl, *map(str, args)], capture_output=True, text=True, timeout=30,
                          env={**own_environment(), **faults.env})


def test_init_is_killed(folder, binaries, action):
    """Again, it makes what is missing; a key that was made is the one that is used."""
    global killed
    place = folder / f"init{action}"
    place.mkdir()
    data = place / "new"
    faults = DiskFaults(place, data)
    init = ("init", data, "--trust-domain", "lone.test")
    for at in points():
        faults.arm(action, at)
        done = tool(binaries, faults, *init)
        if faults.failed == 0:
            assert done.returncode == 0
            break
        assert done.returncode == -9
        killed += 1
        faults.disarm()
        key = (data / "kek").read_bytes() if (data / "kek").exists() else None
        again = tool(binaries, faults, *init)
        assert again.returncode == 0 or "is there already" in again.stderr, again.stderr
        assert len((data / "kek").read_bytes()) == 65 and key in (None, (data / "kek").read_bytes())
        assert b"lone.test" in (data / "control.yaml").read_bytes()
        shutil.rmtree(data)


def test_a_backup_is_killed(plane, folder, binaries, action):
    """It is there whole, or another can be made."""
    global killed
    place = folder / f"backup{action}"
    place.mkdir()
    faults, path = DiskFaults(place, place), place / "backup.db"
    for at in points():
        faults.arm(action, at)
        done = tool(binaries, faults, "backup", path, "--socket", plane.control.socket)
        if faults.failed == 0:
            assert done.returncode == 0, done.stderr
            break
        assert done.returncode == -9
        killed += 1
        faults.disarm()
        if not path.exists():
            assert tool(binaries, faults, "backup", path, "--socket", plane.control.socket).returncode == 0
        other = place / "other"
        assert tool(binaries, faults, "restore", path, other).returncode == 0
        shutil.rmtree(other)
        path.unlink()


def test_a_restore_is_killed(plane, folder, binaries, action):
    """The store is the old one or the new one; in no case does a start find none, and makes a new mesh."""
    global killed
    book = plane.book
    first, path = folder / f"first{action}.db", folder / f"second{action}.db"
    assert tool(binaries, plane.faults, "backup", first, "--socket", plane.control.socket).returncode == 0
    of_first = plane.facts()
    for _ in range(30):
        assert book.work("token")
    assert book.work("revoke")
    assert tool(binaries, plane.faults, "backup", path, "--socket", plane.control.socket).returncode == 0
    of_backup = plane.facts()
    assert book.work("apply") and book.work("attest")
    of_now = plane.facts()
    assert of_first != of_backup != of_now
    plane.disconnect()
    plane.program.stop()
    keep = folder / f"keep{action}"
    shutil.copytree(plane.control.data, keep)

    def put_back():
        plane.faults.disarm()
        shutil.rmtree(plane.control.data)
        shutil.copytree(keep, plane.control.data)

    for at in points():
        plane.faults.arm(action, at)
        done = tool(binaries, plane.faults, "restore", path, plane.control.data, "--force")
        if plane.faults.failed == 0:
            assert done.returncode == 0, done.stderr
            break
        assert done.returncode == -9
        killed += 1
        plane.faults.disarm()
        plane.start()
        assert plane.facts() in (of_backup, of_now)
        plane.disconnect()
        plane.program.stop()
        # And another one, to the end: nothing of the first is left that could get into it.
        done = tool(binaries, plane.faults, "restore", first, plane.control.data, "--force")
        assert done.returncode == 0, done.stderr
        plane.start()
        assert plane.facts() == of_first
        plane.disconnect()
        plane.program.stop()
        put_back()
    put_back()
    plane.start()
    book.check()
