"""Without this whoever replaces certificate files badly, or is caught by a full disk half way, would take the sidecar
down or have it serve with a key that everybody can read: what is wrong is told and counted, the old pair stays in
force, the right one is taken when it is there, and under load not one connection is lost by any of it.

Drives: E2, F3, A7, A12, C1, R10, R11, R25"""
import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from deploy.lab.programs import wait_for
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.load import Load, loaded, through
from test.testlib.pki import Ca, pem_of_key
from test.testlib.static import SERVER_ID, StaticPair

SWAPS = 100 if CONFIG == "opt" or FULL else 20
REJECTED = "mortise_config_rejected_total"


@pytest.fixture(scope="module")
def busy(folder, binaries, watch):
    """(pair, load): the server's files are behind a symlink, as Kubernetes mounts a secret; both run all the while,
    and at the end nothing of the load may be lost."""
    with loaded(folder, binaries, "files") as (pair, load):
        pair.generation = 0
        deliver(pair, pair.server)
        config = pair.config("server")
        config["identity"] = {"cert_file": "..data/server.pem", "key_file": "..data/server.key"}
        pair.write("server", config)
        wait_for("it reads behind the link", lambda: any(
            e["serial"] == pair.server.serial for e in pair["server"].events("applied")))
        pair.current = pair.server
        renew(pair)
        # Under load they hold now more, now less: what they held at first is asked for when it has ended.
        held = {program: watch.first.pop(program) for program in pair.programs.values()}
        yield pair, load
        load.more()
        load.finish()
        watch.first.update(held)


def deliver(pair, cert):
    """A new folder with both files; then the link to it is swapped by rename."""
    pair.generation += 1
    data = pair.folder / f"..{pair.generation}"
    data.mkdir()
    cert.write(data, "server")
    fresh = pair.folder / "..fresh"
    os.symlink(data.name, fresh)
    os.rename(fresh, pair.folder / "..data")
    if pair.generation > 2:
        shutil.rmtree(pair.folder / f"..{pair.generation - 2}", ignore_errors=True)


def serial(pair):
    return pair["server"].config()["identity"]["serial"]


def renew(pair, at_once=True):
    """A new good pair; until it is in force."""
    cert = pair.ca.issue(SERVER_ID)
    deliver(pair, cert)
    if at_once:
        pair["server"].signal(signal.SIGHUP)
    wait_for("the new serial", lambda: serial(pair) == cert.serial)
    pair.current = cert
    return cert


def rejected(pair):
    return pair["server"].metrics().get(REJECTED, 0)


def test_a_hundred_symlink_swaps(busy):
    """Each is taken, and each is met by connections."""
    pair, load = busy
    told = rejected(pair)
    serials = {renew(pair).serial for _ in range(SWAPS)}
    assert len(serials) == SWAPS
    load.more()
    load.intact()
    assert rejected(pair) == told
    met = {line.get("peer_serial") for line in pair.lines("client")}
    assert len(met & serials) > SWAPS / 10


def test_swaps_that_do_not_wait_for_anybody(busy):
    """A hundred more as fast as they go: certificate and key may be read of two folders; the last pair is in force."""
    pair, load = busy
    for number in range(SWAPS):
        cert = pair.ca.issue(SERVER_ID)
        deliver(pair, cert)
        if number % 3 == 0:
            pair["server"].signal(signal.SIGHUP)
    wait_for("the last one", lambda: serial(pair) == cert.serial)
    pair.current = cert
    load.more()
    load.intact()


def current(pair, name):
    return pair.folder / "..data" / f"server.{name}"


def p12(pair, password):
    cert = pair.ca.issue(SERVER_ID)
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"server", cert.key, cert.cert, None, how)


def encrypted(pair):
    return pair.ca.issue(SERVER_ID).key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"wrong"))


def replace(path, data, mode=0o600):
    fresh = path.with_name("fresh")
    fresh.touch(mode=0o600)
    fresh.write_bytes(data)
    fresh.chmod(mode)
    fresh.rename(path)


def link(path, target):
    path.unlink()
    os.symlink(target, path)


def huge(path):
    with open(path.with_name("fresh"), "wb") as out:
        os.fchmod(out.fileno(), 0o600)
        out.truncate(1 << 40)
    path.with_name("fresh").rename(path)


def fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def stranger(path):
    path.chmod(0o600)
    os.chown(path, 1, 1)


def directory(path):
    path.unlink()
    path.mkdir()


def other_pair(pair):
    cert = Ca("stranger").issue(SERVER_ID)
    replace(current(pair, "pem"), cert.pem)
    replace(current(pair, "key"), pem_of_key(cert.key))


def mismatch(pair, what):
    cert = pair.ca.issue(SERVER_ID)
    replace(current(pair, what), cert.pem if what == "pem" else pem_of_key(cert.key))


CERT, KEY = "identity.cert_file", "identity.key_file"
# What is done, the field and a word of the reason.
BAD = {
    "new certificate, old key": (lambda p: mismatch(p, "pem"), KEY, "do not belong together"),
    "old certificate, new key": (lambda p: mismatch(p, "key"), KEY, "do not belong together"),
    "key truncated": (lambda p: replace(current(p, "key"), pem_of_key(p.current.key)[:100]), KEY, ""),
    "key empty": (lambda p: replace(current(p, "key"), b""), KEY, ""),
    "certificate truncated": (lambda p: replace(current(p, "pem"), p.current.pem[:300]), CERT, ""),
    "certificate empty": (lambda p: replace(current(p, "pem"), b""), CERT, ""),
    "certificate of NULs": (lambda p: replace(current(p, "pem"), bytes(4096)), CERT, ""),
    "certificate by nobody we know": (other_pair, "", ""),
    "key 0644": (lambda p: current(p, "key").chmod(0o644), KEY, "chmod 600"),
    "key 0640": (lambda p: current(p, "key").chmod(0o640), KEY, "chmod 600"),
    "key 0604": (lambda p: current(p, "key").chmod(0o604), KEY, "chmod 600"),
    "key 0620": (lambda p: current(p, "key").chmod(0o620), KEY, "chmod 600"),
    "key of somebody else": (lambda p: stranger(current(p, "key")), KEY, "chmod 600"),
    "key deleted": (lambda p: current(p, "key").unlink(), KEY, "No such file"),
    "certificate deleted": (lambda p: current(p, "pem").unlink(), CERT, "No such file"),
    "folder deleted": (lambda p: shutil.rmtree(p.folder / f"..{p.generation}"), CERT, "No such file"),
    "link deleted": (lambda p: (p.folder / "..data").unlink(), KEY, "No such file"),
    "link to itself": (lambda p: link(p.folder / "..data", "..data"), KEY, "Too many levels"),
    "key is a folder": (lambda p: directory(current(p, "key")), KEY, "Is a directory"),
    "key is a pipe": (lambda p: fifo(current(p, "key")), KEY, ""),
    "key is a device": (lambda p: link(current(p, "key"), "/dev/zero"), KEY, ""),
    "key is huge": (lambda p: huge(current(p, "key")), KEY, "larger than"),
    "certificate is huge": (lambda p: huge(current(p, "pem")), CERT, "larger than"),
    "key is encrypted": (lambda p: replace(current(p, "key"), encrypted(p)), KEY, "encrypted"),
    # Keystores of that kind are not read yet; with a password or without they are refused like any other bytes.
    "PKCS#12": (lambda p: replace(current(p, "pem"), p12(p, b"")), CERT, ""),
    "PKCS#12 with a password": (lambda p: replace(current(p, "key"), p12(p, b"wrong")), KEY, ""),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_pair_changes_nothing_and_is_told(busy, what):
    """Each is told with its field and counted; and the twin: a good pair in its place is taken."""
    pair, load = busy
    do, field, reason = BAD[what]
    before, known, counted = serial(pair), len(pair["server"].events("reload_refused")), rejected(pair)
    do(pair)
    pair["server"].signal(signal.SIGHUP)
    told = wait_for("it is told", lambda: pair["server"].events("reload_refused")[known:])
    assert any(field in e["field"] and reason in e["reason"] for e in told), told
    assert rejected(pair) > counted
    assert serial(pair) == before
    assert pair["server"].config().get("rejected")
    assert through(pair.app_port) and pair["server"].ready()
    assert pem_of_key(pair.current.key).splitlines()[1].decode() not in pair["server"].log.read_text()
    renew(pair)
    assert not pair["server"].config().get("rejected")
    load.intact()


@pytest.mark.parametrize("order", [("pem", "key"), ("key", "pem")], ids=["certificate first", "key first"])
def test_one_file_after_the_other_is_no_fault(busy, order):
    """Half a new pair is not told while the other half may be on its way; and then it is whole."""
    pair, load = busy
    told, cert = rejected(pair), pair.ca.issue(SERVER_ID)
    parts = {"pem": cert.pem, "key": pem_of_key(cert.key)}
    replace(current(pair, order[0]), parts[order[0]])
    began = time.monotonic()
    wait_for("longer than it looks away", lambda: time.monotonic() > began + 1.1)
    replace(current(pair, order[1]), parts[order[1]])
    wait_for("it is in force", lambda: serial(pair) == cert.serial)
    pair.current = cert
    assert rejected(pair) == told
    load.intact()


def test_half_a_pair_that_stays_half_is_told_without_a_signal(busy):
    pair, load = busy
    told = rejected(pair)
    mismatch(pair, "pem")
    wait_for("it is told", lambda: rejected(pair) > told)
    assert serial(pair) == pair.current.serial
    renew(pair, at_once=False)
    load.intact()


# A full disk.


@pytest.fixture
def full_disk(folder):
    """A small file system; skipped, loudly, where none can be mounted."""
    path = folder / "disk"
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED, no tmpfs can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path):
    with contextlib.suppress(OSError), open(path / "filling", "wb", buffering=0) as out:
        while out.write(bytes(4096)):
            pass


def test_a_full_disk_under_the_files_and_the_log(full_disk, binaries):
    """A pair that was cut by ENOSPC is refused, the access log's lines are counted as lost, and traffic goes on; with
    room again the pair is taken and lines are written."""
    access = full_disk / "access.log"
    pair = StaticPair(full_disk, binaries, server_settings={"access_log": str(access)})
    outside = full_disk.with_name("disk-load")
    outside.mkdir()
    load = None
    try:
        pair.start()
        load = Load(outside, pair.app_port, pair.target_port, streams=20).wait_up()
        before = serial(pair)
        cert = pair.ca.issue(SERVER_ID)
        fill(full_disk)
        parts = {"pem": cert.pem, "key": pem_of_key(cert.key)}
        for name, data in parts.items():  # as a careless tool does: no room, and on it goes
            with contextlib.suppress(OSError), open(full_disk / name, "wb", buffering=0) as out:
                os.fchmod(out.fileno(), 0o600)
                out.write(data)
        for name in parts:
            (full_disk / name).rename(full_disk / f"server.{name}")
        assert (full_disk / "server.pem").stat().st_size < len(parts["pem"])
        wait_for("lines are lost", lambda: pair["server"].metrics()["mortise_log_lines_lost_total"] > 0)
        told = rejected(pair)
        pair["server"].signal(signal.SIGHUP)
        wait_for("it is counted", lambda: rejected(pair) > told)
        assert serial(pair) == before
        load.more()
        load.intact()
        subprocess.run(["mount", "-o", "remount,size=64m", str(full_disk)], check=True)
        cert.write(pair.folder, "server")
        wait_for("the new pair", lambda: serial(pair) == cert.serial)
        size = access.stat().st_size
        load.more()
        assert access.stat().st_size > size
        load.finish()
    finally:
        if load is not None:
            load.stop()
        pair.stop()
