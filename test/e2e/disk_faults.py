"""Without this a full or failing disk could make the control plane hand out what it has no record of, forget half of a change,
or refuse for good: every write and sync of each change fails once, and for good, and what is in memory stays what is in the
store.

The disk's faults are those of a library preloaded into the program (testlib/disk_faults.c).

Drives: R39, R54, R53, R37, F18, F12, D1"""
import errno
import os
import random
import resource
import subprocess

import pytest

from deploy.lab.programs import admin, own_environment, wait_for
from test.testlib.crash import Book, Plane, Refused
from test.testlib.disk_faults import CHANGES, CREATE, FOREVER, READ, SYNC, TRUNCATE, WRITE, DiskFaults
from test.testlib.fixtures import CONFIG, FULL

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
STEP = 1 if FULL else 8
# What fails, and with what.
FAULTS = {
    "disk full": (errno.ENOSPC, WRITE | CREATE),
    "write error": (errno.EIO, WRITE | TRUNCATE),
    "read-only": (errno.EROFS, CHANGES & ~SYNC),
}
WORK = [name for name in Book.WORK if name != "backup"]


@pytest.fixture(scope="module")
def plane(folder, binaries):
    made = Plane(folder, lambda data: DiskFaults(folder, data), binaries)
    made.start()
    made.book = Book(made)
    made.book.check()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def in_order(plane):
    """A test that failed leaves nothing to the next."""
    plane.faults.disarm()
    if not plane.program.alive() or plane.link is None:
        plane.again()


def points(work):
    """The calls that fail; without end. A rotation of the root makes many, and goes on a second later."""
    step = STEP if FULL or work != "rotate_root" else 8 * STEP
    at = 1 + random.randrange(step)
    print(f"calls {at}, {at + step} …")
    while True:
        yield at
        at += step


def recorded(plane):
    """The number of certificates that it knows. None: where a change was half written and the disk does not even take that
    back, nobody reads half of it either."""
    try:
        return len(plane.certificates())
    except Refused as no:
        assert "store_unwritable" in str(no)
        return None


def memory_is_the_store(plane):
    """What it says is what it says after a restart."""
    wait_for("the root's rotation has ended", plane.book.idle)
    before = plane.facts()
    plane.again()
    assert plane.facts() == before
    plane.book.check()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("work", WORK)
def test_a_change_that_cannot_be_written_is_refused(plane, work, fault, lasting):
    """Refused whole; what there is can be read; and as soon as the disk takes it, the same is done."""
    book, (error, kinds) = plane.book, FAULTS[fault]
    for at in points(work):
        certificates = recorded(plane)
        plane.faults.arm(error, at, kinds, FOREVER if lasting else 1)
        done = book.work(work)
        failed = plane.faults.failed
        if lasting and failed and not done:
            assert plane.operator("GetMesh").version == book.version
            assert book.work(work) is False
            assert recorded(plane) in ((certificates,) if fault == "disk full" else (certificates, None))
        plane.faults.disarm()
        assert book.work(work), "it works again without a restart"
        memory_is_the_store(plane)
        if failed == 0:
            assert done
            break
        assert not done or work in ("lift", "attest", "rotate_root"), "those are of several changes"


@pytest.mark.parametrize("work", WORK)
def test_after_a_failed_sync_nothing_is_written_until_a_restart(plane, work):
    """Nobody knows what the disk holds: a second sync would say that all is well."""
    book = plane.book
    for at in range(1, 20):
        plane.faults.arm(errno.EIO, at, SYNC, 1)
        done, maybe = book.work(work), book.maybe
        failed = plane.faults.failed
        plane.faults.disarm()
        if failed == 0:
            assert done
            break
        assert not book.work("token") and not book.work("apply")
        assert plane.operator("GetMesh").version == book.version and plane.certificates()
        assert "store" in wait_for("it says so", lambda: not_ready(plane))
        plane.again()
        # What was refused may have come through: whole, as after a kill.
        book.doing = {} if done else maybe
        book.check()
        assert book.work(work)


def not_ready(plane):
    status, text = admin(plane.program.admin_socket, "/readyz")
    return status == 503 and text


def grow(plane):
    """A change that makes the file longer."""
    return plane.operator("Apply", mesh={"subsystems": [
        {"name": f"wide-{os.urandom(4).hex()}", "description": "x" * 250} for _ in range(40)]})


def test_a_sync_that_fails_while_a_change_is_taken_back(plane):
    """The file may not grow, so the change fails half way and is taken back: a sync that fails then counts like any other,
    though SQLite tells the caller of the first failure alone."""
    before = plane.facts()
    for at in range(1, 20):
        size = plane.store.stat().st_size
        assert plane.book.work("token")  # the journal is there
        resource.prlimit(plane.program.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        plane.faults.arm(errno.EIO, at, SYNC, 1)
        with pytest.raises(Refused, match="store_unwritable"):
            grow(plane)
        failed = plane.faults.failed
        plane.faults.disarm()
        resource.prlimit(plane.program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert plane.book.work("token") == (failed == 0), f"sync {at}"
        plane.again()
        assert plane.facts() == before
        if failed == 0:
            break
    assert at > 1


def test_the_file_may_not_grow(plane):
    """The good twin of it: without a failed sync it goes on when there is room."""
    size = plane.store.stat().st_size
    resource.prlimit(plane.program.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    with pytest.raises(Refused, match="store_unwritable"):
        grow(plane)
    resource.prlimit(plane.program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    plane.book.version = grow(plane).version
    memory_is_the_store(plane)


def test_without_descriptors_what_is_asked_is_done_or_refused(plane):
    limits = resource.prlimit(plane.program.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(plane.program.pid, resource.RLIMIT_NOFILE, (plane.program.fds(), limits[1]))
    done = [name for name in WORK if plane.book.work(name)]
    resource.prlimit(plane.program.pid, resource.RLIMIT_NOFILE, limits)
    print(f"done without a new descriptor: {done}")
    assert all(plane.book.work(name) for name in WORK)
    memory_is_the_store(plane)


def test_a_read_that_fails_makes_no_backup(plane, folder, binaries):
    """No page of zeros in the place of what could not be read."""
    path = folder / "unread.db"
    while plane.store.stat().st_size < 700 << 10:  # more than is kept in memory
        assert plane.book.work("token")
    backup = [binaries.ctl, "backup", path, "--socket", plane.control.socket]
    for at in (1, 2, 5, 9):
        plane.faults.arm(errno.EIO, at, READ)
        done = subprocess.run(backup, capture_output=True, text=True, timeout=30, env=own_environment())
        assert plane.faults.failed and done.returncode == 1 and not path.exists(), done.stderr
    plane.faults.disarm()
    done = subprocess.run(backup, capture_output=True, text=True, timeout=30, env=own_environment())
    assert done.returncode == 0, done.stderr
    memory_is_the_store(plane)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_on_a_disk_that_takes_nothing(plane, fault):
    """It says why not, and with the disk in order it starts with all it had. A full one may still take what a start
    writes."""
    wait_for("the root's rotation has ended", plane.book.idle)
    before = plane.facts()
    plane.disconnect()
    plane.program.stop()
    error, kinds = FAULTS[fault]
    plane.faults.arm(error, 1, kinds)
    plane.start(ready=False)
    wait_for("started or refused", lambda: not plane.program.alive() or plane.program.ready())
    if plane.program.alive():
        assert fault == "disk full" and plane.connect().facts() == before
    else:
        told = plane.program.tail(2)
        assert plane.program.wait() == 1 and "store_unwritable" in told and "disk full or read-only" in told, told
    plane.again()
    assert plane.facts() == before
