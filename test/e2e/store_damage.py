"""Without this a control plane could sign, admit or refuse by what a failing disk, a half-done copy or a stranger has made of its
store: whatever is damaged, it does not start and says store_corrupt and where, or all that it says is right.

Each kind of page of the SQLite file is damaged in its head and in its content; the seed is printed.

Drives: R53, R54, R45, D1, R40"""
import contextlib
import os
import random
import shutil
import sqlite3

import pytest

from deploy.lab.programs import LabError, wait_for
from test.testlib.crash import Book, Ended, Plane, Refused
from test.testlib.disk_faults import KILL, WRITE, DiskFaults
from test.testlib.fixtures import CONFIG, FULL

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
FLIPS = 60 if FULL else 5  # of each kind of place
PAGE = 4096
KINDS = {2: "index interior", 5: "table interior", 10: "index leaf", 13: "table leaf"}


@pytest.fixture(scope="module")
def rng():
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def plane(folder, binaries):
    """Ended in order; its store has pages of every kind."""
    made = Plane(folder, lambda data: DiskFaults(folder, data), binaries)
    made.start()
    book = made.book = Book(made)
    book.check()
    for name in Book.WORK:
        assert book.work(name)
    for _ in range(120):
        assert book.work("token")
    wide = [{"name": name} for name in ("management", "portal", "analytics", "gateway")] + [
        {"name": f"wide-{n}", "description": "x" * 250} for n in range(400)]
    made.operator("Apply", mesh={"subsystems": wide})  # overflow pages, of the mesh and of its revision
    made.operator("Apply", mesh={"subsystems": wide[:50]}, prune=True)  # and free ones
    book.ports = {}
    assert book.work("apply") and book.work("revoke")
    book.check()
    made.wanted = made.facts()
    made.disconnect()
    assert made.program.stop() == 0
    made.good = made.store.read_bytes()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def ended(plane):
    """A test that failed leaves no program to the next."""
    yield
    plane.disconnect()
    plane.program.kill()
    plane.program.stop()
    plane.faults.disarm()


def write(plane, content, journal=None):
    plane.store.write_bytes(content)
    path = plane.store.with_name("store.db-journal")
    path.unlink(missing_ok=True)
    if journal is not None:
        path.write_bytes(journal)


def judge(plane, what, allowed=None):
    """Starts: refused (what it told), or all is right and it works (None)."""
    plane.start(ready=False)
    try:
        wait_for("started or refused", lambda: not plane.program.alive() or plane.program.ready())
        if not plane.program.alive():
            told = plane.program.tail(4)
            assert plane.program.wait() == 1, f"{what}: {told}"
            assert any(word in told for word in ("store_corrupt", "store_schema", "kek_unavailable", "audit_missing")), f"{what}: {told}"
            assert "store.db: " in told or "/" in told.rsplit(":", 1)[0], told
            return told
        facts = plane.connect().facts()
        assert facts in (allowed or (plane.wanted,)), f"{what}: it says what never was"
        with contextlib.suppress(Refused):
            plane.operator("Apply", mesh={"links": [{"name": "after", "client": "portal", "server": "gateway",
                                                     "client_port": 19999, "server_port": 8082}]})
            plane.operator("CreateToken", subsystem="portal")
        return None
    finally:
        plane.disconnect()
        plane.program.kill()
        plane.program.stop()


def places(image):
    """Offsets by the kind of place that they are in."""
    found = {"file header": list(range(100))}

    def add(kind, start, end):
        found.setdefault(kind, []).extend(range(start, end))

    trunk, free = int.from_bytes(image[32:36], "big"), set()
    while trunk:
        at = (trunk - 1) * PAGE
        num = int.from_bytes(image[at + 4:at + 8], "big")
        add("freelist trunk", at, at + 8 + 4 * num)
        free |= {trunk, *(int.from_bytes(image[i:i + 4], "big") for i in range(at + 8, at + 8 + 4 * num, 4))}
        trunk = int.from_bytes(image[at:at + 4], "big")
    for number in range(1, len(image) // PAGE + 1):
        at = (number - 1) * PAGE
        head = at + (100 if number == 1 else 0)
        kind = KINDS.get(image[head])
        if number in free:
            add("free page", at, at + PAGE)
        elif kind is None:
            add("overflow page", at, at + PAGE)
        else:
            cells = int.from_bytes(image[head + 3:head + 5], "big")
            size = 12 if image[head] in (2, 5) else 8
            content = int.from_bytes(image[head + 5:head + 7], "big")
            where = "schema" if number == 1 else kind
            add(f"{where}, head", head, head + size)
            add(f"{where}, pointers", head + size, head + size + 2 * cells)
            add(f"{where}, cells", at + content, at + PAGE)
    return found


def test_each_kind_of_place(plane, rng):
    found = places(plane.good)
    print({kind: len(offsets) for kind, offsets in found.items()})
    assert {"file header", "schema, head", "table leaf, cells", "index leaf, head", "table interior, head",
            "overflow page", "freelist trunk"} <= set(found)
    for kind, offsets in found.items():
        refused = 0
        for at in rng.sample(offsets, min(len(offsets), FLIPS * (4 if kind == "file header" else 1))):
            bad = bytearray(plane.good)
            bad[at] ^= 1 << rng.randrange(8)
            write(plane, bad)
            refused += judge(plane, f"{kind}, byte {at}: {plane.good[at]} is {bad[at]}") is not None
        print(f"{kind}: refused {refused}")


def test_cut_and_zeroed(plane, rng):
    size = len(plane.good)
    lengths = {0, 1, 16, 99, 100, 101, 512, PAGE - 1, PAGE, PAGE + 1, size // 2, size - PAGE, size - 1,
               *(rng.randrange(size) for _ in range(FLIPS))}
    free = {at // PAGE for kind in ("free page", "freelist trunk") for at in places(plane.good).get(kind, ())}
    for length in sorted(lengths):
        write(plane, plane.good[:length])
        # The rest of a page that is there in part reads as zeros.
        same = length > size - PAGE and (not any(plane.good[length:]) or size // PAGE - 1 in free)
        told = judge(plane, f"cut at {length}")
        assert "store_corrupt" in told if told else same, f"cut at {length}: {told}"
    write(plane, bytes(size))
    assert "store_corrupt" in judge(plane, "all zero")
    pages = range(size // PAGE)
    for number in pages if FULL else rng.sample(pages, FLIPS):
        bad = bytearray(plane.good)
        bad[number * PAGE:(number + 1) * PAGE] = bytes(PAGE)
        write(plane, bad)
        told = judge(plane, f"page {number} is zero")
        assert told or number in free, f"page {number}"


def change(plane, sql, *values):
    write(plane, plane.good)
    db = sqlite3.connect(plane.store)
    db.execute(sql, values)
    db.commit()
    db.close()


def test_records_taken_away_and_exchanged(plane, rng):
    """What a mesh cannot be without is missed by its name; a record is good at its own place only."""
    write(plane, plane.good)
    db = sqlite3.connect(plane.store)
    keys = [row[0] for row in db.execute("select key from item")]
    db.close()
    for key in ("meta/settings", "meta/version", "ca/root", "ca/issuer", "mesh/current", "rotation/epochs"):
        change(plane, "delete from item where key = ?", key)
        assert "store_corrupt" in judge(plane, f"without {key}")
    for where in ("key = 'meta/audit'", "key like 'audit/%' or key like 'meta/audit%'"):
        change(plane, f"delete from item where {where}")
        told = judge(plane, f"without {where}").strip().splitlines()[-1]
        assert "audit_missing: the store has no audit log" in told and "restore the folder from a backup" in told, told
        assert ("parts of one are there" in told) == ("like" not in where), told
    change(plane, "delete from item")
    assert "nothing is in it" in judge(plane, "without anything")
    for _ in range(FLIPS):
        one, two = rng.sample(keys, 2)
        change(plane, "update item set value = (select value from item where key = ?) where key = ?", one, two)
        assert two in judge(plane, f"{two} is {one}'s")
        change(plane, "update item set key = ? where key = ?", f"cert/{os.urandom(20).hex()}", one)
        assert "cert/" in judge(plane, f"{one} as a certificate's")


def test_an_authority_that_is_set_back(plane):
    """An old record of the same path opens; with its fellows it does not fit."""
    write(plane, plane.good)
    plane.start()
    assert plane.operator("RotateRoot").number
    wait_for("it is over", plane.book.idle)
    plane.disconnect()
    plane.program.stop()
    shutil.copy(plane.store, plane.store.with_name("rotated"))
    write(plane, plane.good)
    with contextlib.closing(sqlite3.connect(plane.store)) as db:
        old = dict(db.execute("select key, value from item where key like 'ca/%'"))
    for key in ("ca/root", "ca/issuer"):
        shutil.copy(plane.store.with_name("rotated"), plane.store)
        with contextlib.closing(sqlite3.connect(plane.store)) as db:
            db.execute("update item set value = ? where key = ?", (old[key], key))
            db.commit()
        assert "store_corrupt" in judge(plane, f"{key} set back")


def test_what_is_no_store_of_this_program(plane):
    write(plane, b"this is a text\n" * 1000)
    assert "store_corrupt" in judge(plane, "a text")
    plane.store.unlink()
    db = sqlite3.connect(plane.store)
    db.execute("create table other (x)")
    db.commit()
    db.close()
    assert "store_corrupt" in judge(plane, "another program's")
    change(plane, "update meta set value = 2 where name = 'schema'")
    assert "store_schema" in judge(plane, "a later version's")
    for version in (0, -1, 1 << 62):
        change(plane, "update meta set value = ? where name = 'revision'", version)
        judge(plane, f"revision {version}")


def test_a_store_that_is_gone_and_its_journal_is_not(plane):
    """Nor does one that is there without anything in it make a new mesh."""
    write(plane, b"", journal=b"\0" * 512)
    plane.store.unlink()
    assert "its journal is there" in judge(plane, "a journal alone")
    write(plane, b"")
    assert "nothing is in it" in judge(plane, "an empty file")


def test_a_damaged_journal(plane, rng):
    """One that a kill has left is played at the start; damaged, it brings back what was, or nothing."""
    for at in range(1, 10 if FULL else 4):
        write(plane, plane.good)
        plane.start()
        before = plane.facts()
        plane.faults.arm(KILL, at + 3, WRITE)
        with pytest.raises(Ended):
            plane.operator("Apply", mesh={"subsystems": [{"name": f"more-{n}"} for n in range(20)]})
        plane.program.wait(20)
        plane.disconnect()
        plane.program.stop()
        plane.faults.disarm()
        store = plane.store.read_bytes()
        journal = plane.store.with_name("store.db-journal").read_bytes()
        write(plane, store, journal)
        assert judge(plane, "the journal as it was", (before,)) is None
        for _ in range(FLIPS):
            bad = bytearray(journal)
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            write(plane, store, bad)
            judge(plane, "a damaged journal", (before,))


def test_damage_while_it_runs(plane, rng):
    """It goes on by what it has read and judged; what it reads again is right, or refused; and so is the next start."""
    told = 0
    for number in range(4 * FLIPS):
        write(plane, plane.good)
        plane.start()
        book = plane.book.copy()
        with open(plane.store, "r+b") as file:
            for _ in range(3):
                at = rng.randrange(PAGE, len(plane.good))
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        for name in rng.sample(Book.WORK, len(Book.WORK)):
            book.doing = {}
            try:
                getattr(book, name)()
            except Refused as no:
                assert "store_corrupt" in str(no) or "seal" in str(no), f"{name}: {no}"
                book.doing = {}
        with contextlib.suppress(LabError, Refused):
            wait_for("the root's rotation has ended", book.idle, 5)
        assert plane.program.alive(), f"round {number}: {plane.program.tail()}"
        wanted = plane.operator("GetMesh").SerializeToString(deterministic=True)
        plane.disconnect()
        plane.program.kill()
        plane.program.stop()
        plane.start(ready=False)
        wait_for("started or refused", lambda: not plane.program.alive() or plane.program.ready())
        if plane.program.alive():
            assert plane.connect().operator("GetMesh").SerializeToString(deterministic=True) == wanted
            book.check()
        else:
            told += 1
            assert "store_corrupt" in plane.program.tail(4) or "kek_unavailable" in plane.program.tail(4)
        plane.disconnect()
        plane.program.kill()
        plane.program.stop()
    print(f"{told} of {4 * FLIPS} did not start again")


@pytest.mark.parametrize("key,told", [
    (None, "No such file"), (b"", "not a key-encryption key"), (b"ab" * 31, "not a key-encryption key"),
    (b"ab" * 31 + b"zz", "not a key-encryption key"), (b"ab" * 32, "not the key of that store"),
    ("0644", "may be read"), ("0640", "may be read"), ("0602", "may be read"), ("folder", "directory"),
    (b"a" * 5000, "larger than"),
], ids=["missing", "empty", "cut", "no hex", "another", "0644", "0640", "0602", "a folder", "huge"])
def test_a_key_that_is_none(plane, key, told):
    """Told by its file and why, before anything is read or made; with the right one all is there."""
    write(plane, plane.good)
    path = plane.control.data / "kek"
    kept = path.read_bytes()
    path.unlink()
    if key == "folder":
        path.mkdir()
    elif isinstance(key, str):
        path.write_bytes(kept)
        path.chmod(int(key, 8))
    elif key is not None:
        path.touch(mode=0o600)
        path.write_bytes(key)
    try:
        said = judge(plane, "key")
        assert "kek_unavailable" in said and told in said and kept.decode().strip() not in said, said
        assert plane.store.read_bytes() == plane.good
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(kept)
    assert judge(plane, "the right key") is None
