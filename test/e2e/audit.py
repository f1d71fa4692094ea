"""Without this somebody could change the mesh and nobody could say who it was; or rewrite afterwards what was said: every kind of
change, and of refusal, leaves a record with the change or not at all, and a log or an export that was tampered with names the
first record that is wrong.

Drives: D6, R21, R40, R51, R52"""
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import threading

import grpc
import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.audit import check_is_the_store
from test.testlib.control import LoneControl
from test.testlib.crash import Book, Ended, Plane, Refused, csr, new_key
from test.testlib.disk_faults import CHANGES, FOREVER, SYNC, DiskFaults
from test.testlib.fixtures import CONFIG, FULL
from test.testlib.stubs import stubs

WARMUP = ("control.create", "control.start")


class Alone(LoneControl):
    def ctl(self, *args, check=True, stdin=None):
        done = subprocess.run([self.bin.ctl, "--socket", self.socket, *map(str, args)], capture_output=True, text=True,
                              env=own_environment(), input=stdin, timeout=60)
        assert not check or done.returncode == 0, (args, done.stderr)
        return done

    def records(self, *filters):
        return [json.loads(line) for line in self.ctl("audit", "search", *filters, "-o", "json").stdout.splitlines()]

    def find(self, action, **fields):
        """The newest of that action with those fields."""
        for record in reversed(self.records("--action", action)):
            if all(record.get(name, "") == value for name, value in fields.items()):
                return record
        raise AssertionError(f"no record {action} {fields}: {self.ctl('audit', 'tail', '--limit', 30).stdout}")

    def verify(self, *args, stdin=None):
        done = self.ctl("audit", "verify", *args, "-o", "json", check=False, stdin=stdin)
        told = json.loads(done.stdout)
        assert told["ok"] == (done.returncode == 0) and (told["ok"] or told["fault"] in done.stderr)
        return told


@pytest.fixture
def alone(folder, binaries):
    path = folder / "alone"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    made = Alone(path, binaries).start()
    yield made
    made.stop()


@pytest.mark.sanitize
def test_each_kind_of_change_leaves_its_record_and_each_refusal(alone, folder):
    """Both with who, from where, what; a change with its digests; a change for the worse with what became weaker."""
    document = {"links": [{"name": "back", "client": "portal", "server": "gateway", "client_port": 15177,
                           "server_port": 8082}]}
    who, out = f"uid:{os.getuid()}", folder / "alice"
    alone.ctl("apply", "-f", "-", "-m", "as agreed", stdin=json.dumps(document))
    first = alone.find("mesh.apply", outcome="OK")
    assert first["who"] == who and first["source"] == "unix" and first["message"] == "as agreed"
    assert "link back: added" in first["object"] and first["before_sha256"] != first["after_sha256"]
    stronger = {"profiles": [{"name": "p", "role": "CLIENT", "min_version": "TLS1_3"}],
                "links": [{**document["links"][0], "client_profile": "p"}]}
    alone.ctl("apply", "-f", "-", stdin=json.dumps(stronger))
    second = alone.find("mesh.apply", outcome="OK")
    assert second["before_sha256"] == first["after_sha256"] and "weaker" not in second
    weaker = {"profiles": [{"name": "p", "role": "CLIENT", "min_version": "TLS1_2"}]}
    alone.ctl("apply", "-f", "-", check=False, stdin=json.dumps(weaker))
    assert "would be weaker" in alone.find("mesh.apply", outcome="REFUSED", who=who)["reason"]
    alone.ctl("apply", "-f", "-", "--allow-weaker", stdin=json.dumps(weaker))
    assert "TLS1_3 -> TLS1_2" in str(alone.find("mesh.apply", outcome="OK")["weaker"])
    alone.ctl("rollback", first["version"], "--allow-weaker")
    assert alone.find("mesh.rollback", outcome="OK")["after_sha256"] == first["after_sha256"]

    alone.ctl("token", "create", "portal")
    alone.find("token.create", outcome="OK", object="portal", who=who)
    alone.ctl("token", "create", "nobody", check=False)
    assert 'no subsystem "nobody"' in alone.find("token.create", outcome="REFUSED")["reason"]
    alone.ctl("admin", "create", "alice", "--out", out)
    alice = "spiffe://lone.test/mortise/admin/alice"
    assert len(alone.find("admin.issue", outcome="OK", object=alice)["serial"]) > 30
    alone.ctl("rotate", "portal")
    alone.find("rotate", outcome="OK", object="portal", who=who)
    alone.ctl("rotate", "nobody", check=False)
    alone.find("rotate", outcome="REFUSED")
    alone.ctl("revoke", "key", "ab" * 32, "--reason", "stolen")
    alone.find("revoke", outcome="OK", object="ab" * 32, message="stolen", who=who)
    number = alone.ctl("get", "revocations", "-o", "json").stdout
    alone.ctl("lift", json.loads(number)["revocations"][0]["id"])
    alone.find("revoke.lift", outcome="OK", object="ab" * 32)
    alone.ctl("lift", 77, check=False)
    assert "no revocation 77" in alone.find("revoke.lift", outcome="REFUSED")["reason"]
    alone.ctl("rotate", "control")
    alone.find("control.rotate", outcome="OK", who=who)
    alone.ctl("rotate", "issuer")
    alone.find("issuer.rotate", outcome="OK", who=who, message="begun")
    wait_for("the issuer's rotation has ended", lambda: json.loads(alone.ctl("rotate", "status", "-o", "json").stdout)["stage"] == "idle")
    assert alone.find("ca.change")["who"] == "mortise-control"
    alone.ctl("backup", folder / "backup.db")
    alone.find("backup", outcome="OK", who=who)
    (alone.folder / "exported").unlink(missing_ok=True)
    alone.ctl("audit", "export", alone.folder / "exported")
    alone.find("audit.export", outcome="OK", who=who)
    remote = [alone.bin.ctl, "--server", f"127.0.0.1:{alone.port}", "--trust-domain", "lone.test", "--cert", out / "cert.pem",
              "--key", out / "key.pem", "--roots", out / "roots.pem"]
    if not (out / "roots.pem").exists():
        (out / "roots.pem").write_text(alone.ctl("roots").stdout)
    done = subprocess.run([*map(str, remote), "token", "create", "gateway"], capture_output=True, text=True,
                          env=own_environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert alone.find("token.create", who=alice, object="gateway")["source"].startswith("127.0.0.1:")
    assert alone.find("login", who=alice)["source"] == "127.0.0.1"
    alone.ctl("rotate", "admin")
    alone.find("admin.rotate", outcome="OK", who=who)
    done = subprocess.run([*map(str, remote), "token", "create", "gateway"], capture_output=True, text=True,
                          env=own_environment(), timeout=60)
    assert done.returncode == 1
    denied = alone.find("token.create", outcome="REFUSED", who=alice)
    assert "rotate admin" in denied["reason"] and denied["source"] == "127.0.0.1"
    assert alone.verify()["ok"]
    assert [r["action"] for r in alone.records()[:2]] == list(WARMUP)


def test_a_flood_of_bad_tokens_leaves_few_records(folder, binaries):
    """Over the socket, where names are of no account: the limits are the same."""
    path = folder / "flood"
    path.mkdir()
    plane = Plane(path, binaries=binaries).start()
    try:
        for _ in range(300):
            with pytest.raises(Refused):
                plane.attest("mjt1." + "A" * 43)
        wanted = {"action": "certificate.issue", "outcome": 2}
        found = wait_for("it is on record", lambda: plane.operator("ListAuditRecords", **wanted).records)
        assert len(found) <= 3 and {r.reason for r in found} <= {"token_unknown", "rate_limited"}
        token = plane.operator("CreateToken", subsystem="portal").token
        key = new_key()
        plane.operator("Status")
        request = stubs().identity.AttestRequest(join_token=token, csr=csr(key))
        wait_for("its turn has come", lambda: joined(plane, request))
        record = plane.operator("ListAuditRecords", action="certificate.issue", outcome=1).records[-1]
        assert record.object == "spiffe://lone.test/ns/default/sa/portal" and record.message == "attest" and record.serial
    finally:
        plane.stop()


def joined(plane, request):
    try:
        return plane.identity.Attest(request, timeout=30)
    except grpc.RpcError:
        return None


# ---- tampering ----

@pytest.fixture(scope="module")
def exported(folder, binaries):
    """Lines of an export, and the key."""
    path = folder / "exported"
    path.mkdir()
    alone = Alone(path, binaries).start()
    for subsystem in ("portal", "gateway", "analytics", "portal", "gateway"):
        alone.ctl("token", "create", subsystem)
    alone.ctl("audit", "export", path / "log.jsonl")
    (path / "key.pem").write_text(alone.ctl("audit", "key").stdout)
    alone.stop()
    yield alone, (path / "log.jsonl").read_text().splitlines(keepends=True), path / "key.pem"


def at(lines, number):
    return next(i for i, line in enumerate(lines) if json.loads(line)["seq"] == str(number))


def swap(lines):
    lines[4], lines[5] = lines[5], lines[4]


def edit(lines):
    assert '"portal"' in lines[3]
    lines[3] = lines[3].replace('"portal"', '"gateway"')


TAMPERED = {
    "edited": (edit, 4),
    "deleted": (lambda lines: lines.pop(4), 5),
    "reordered": (swap, 5),
    "cut at the end": (lambda lines: lines.pop(), -1),
    "cut at the beginning": (lambda lines: lines.pop(0), 1),
    "twice": (lambda lines: lines.insert(5, lines[4]), 5),
    "no record": (lambda lines: lines.__setitem__(6, "{}\n"), 7),
    "not JSON": (lambda lines: lines.__setitem__(6, lines[6][:40] + "\n"), 7),
    "its signature": (lambda lines: lines.__setitem__(-1, lines[-1].replace('"signature": "M', '"signature": "N')), -2),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_an_export_that_was_tampered_with_names_the_record(exported, how):
    alone, lines, key = exported
    change, bad = TAMPERED[how]
    changed = list(lines)
    assert alone.verify("-f", "-", "--key", key, stdin="".join(lines))["records"] == len(lines)
    change(changed)
    last = int(json.loads(lines[-1])["seq"])
    told = alone.verify("-f", "-", "--key", key, stdin="".join(changed))
    expected = {-1: last, -2: last}.get(bad, bad)
    if how == "no record":  # it has no number: what is missing is named
        assert not told["ok"]
    else:
        assert not told["ok"] and told["bad"] == expected, told


def test_without_a_key_nothing_is_proven(exported):
    """Who can write the file can write another last record that follows: it is not OK, and not broken."""
    alone, lines, _ = exported
    for text in ("".join(lines), "".join(lines[:-1])):
        done = alone.ctl("audit", "verify", "-f", "-", "--open", check=False, stdin=text)
        assert done.returncode == 3 and done.stdout.startswith("NOT VERIFIED: "), done
        assert "whoever can write the file" in done.stdout and "OK" not in done.stdout
    told = json.loads(alone.ctl("audit", "verify", "-f", "-", "-o", "json", check=False, stdin="".join(lines)).stdout)
    assert not told["ok"] and not told["key"] and told["fault"] == ""
    last = json.loads(lines[-1])
    cut = "".join(lines[:-1]) + json.dumps({**last, "signature": ""}) + "\n"
    done = alone.ctl("audit", "verify", "-f", "-", "--open", check=False, stdin=cut)
    assert done.returncode in (1, 3) and "OK" not in done.stdout
    broken = alone.ctl("audit", "verify", "-f", "-", "--open", check=False, stdin="".join([*lines[:3], *lines[4:]]))
    assert broken.returncode == 1 and "audit log: " in broken.stderr


def test_an_export_is_refused_under_another_key(exported, folder, binaries):
    alone, lines, key = exported
    path = folder / "other-key"
    path.mkdir()
    other = Alone(path, binaries).start()
    (path / "other.pem").write_text(other.ctl("audit", "key").stdout)
    other.stop()
    assert not alone.verify("-f", "-", "--key", path / "other.pem", stdin="".join(lines))["ok"]
    (path / "none.pem").write_text("no key")
    done = alone.ctl("audit", "verify", "-f", "-", "--key", path / "none.pem", check=False, stdin="")
    assert done.returncode == 2 and "is no public key of an audit log" in done.stderr


@pytest.mark.parametrize("what", ["middle", "end"])
def test_a_log_that_lost_records_in_the_store_says_which(alone, what):
    """A row is deleted behind the control plane's back. It goes on: that something is missing stays to be seen."""
    for _ in range(4):
        alone.ctl("token", "create", "portal")
    alone.stop()
    with sqlite3.connect(alone.data / "store.db") as store:
        keys = [key for key, in store.execute("SELECT key FROM item WHERE key LIKE 'audit/%' ORDER BY key")]
        gone = keys[len(keys) // 2] if what == "middle" else keys[-1]
        assert store.execute("DELETE FROM item WHERE key = ?", (gone,)).rowcount == 1
    alone.start()
    told = alone.verify()
    assert not told["ok"] and told["bad"] == int(gone.removeprefix("audit/")), told
    found = {f["name"]: f["state"] for f in json.loads(alone.ctl("check", "-o", "json", check=False).stdout)["findings"]}
    assert found["audit log"] == ("FAILED" if what == "end" else "OK")
    alone.ctl("token", "create", "portal")
    assert alone.verify()["bad"] == int(gone.removeprefix("audit/"))


# ---- the file for what carries records elsewhere ----

@pytest.mark.sanitize
def test_records_go_to_a_file_that_may_be_renamed(folder, binaries):
    """Nothing is missing and nothing is there twice, whatever happens to file and process."""
    path = folder / "shipped"
    path.mkdir()
    alone, shipped = Alone(path, binaries), path / "audit.jsonl"
    alone.start("--audit-file", shipped)
    key = path / "key.pem"
    try:
        key.write_text(alone.ctl("audit", "key").stdout)
        alone.ctl("token", "create", "portal")
        wait_for("it is in the file", lambda: '"token.create"' in shipped.read_text())
        assert shipped.stat().st_mode & 0o137 == 0
        shipped.rename(path / "first.jsonl")
        alone.ctl("token", "create", "gateway")
        wait_for("there is a new file", lambda: shipped.exists() and '"gateway"' in shipped.read_text())
        alone.program.kill()
        alone.program.stop()
        with open(shipped, "a") as half:
            half.write('{"seq": "9')  # as a power cut leaves it
        alone.start("--audit-file", shipped)
        alone.ctl("token", "create", "analytics")
        wait_for("it goes on", lambda: '"analytics"' in shipped.read_text())
        whole = (path / "first.jsonl").read_text() + shipped.read_text()
        told = alone.verify("-f", "-", "--open", "--key", key, stdin=whole)
        assert told["ok"] and told["records"] == told["last"] == whole.count("\n")
        assert not alone.verify("-f", "-", "--key", key, stdin=whole)["ok"], "it ends as no export does"

        alone.ctl("audit", "purge", "--up-to", 4, check=False)
        assert "takes an elevation" in alone.find("audit.purge", outcome="REFUSED")["reason"]
        alone.ctl("elevate", "--for", "30m", "--reason", "the log is long")
        alone.find("elevate", outcome="OK", message="the log is long")
        alone.ctl("audit", "purge", "--up-to", 4, "--reason", "enough")
        assert alone.verify()["first"] == 5
        shipped.rename(path / "second.jsonl")
        shipped.mkdir()  # nothing can be written there
        alone.ctl("token", "create", "management")
        alone.ctl("token", "create", "portal")
        last = int(alone.records()[-1]["seq"])
        stays = wait_for("what is not shipped stays", lambda: purge(alone, last - 1))
        assert stays < last - 1
        shipped.rmdir()
        wait_for("it is written again", lambda: shipped.exists() and shipped.read_text().count('"token.create"') == 2)
        text = (path / "first.jsonl").read_text() + (path / "second.jsonl").read_text() + shipped.read_text()
        assert alone.verify("-f", "-", "--open", "--key", key, stdin=text)["ok"]
    finally:
        alone.stop()


def purge(alone, number):
    """Where the log begins afterwards."""
    return int(alone.ctl("audit", "purge", "--up-to", number).stdout.split("record ")[1].split(":")[0])


def test_a_file_that_cannot_be_opened_is_told_at_the_start(folder, binaries):
    path = folder / "unshipped"
    path.mkdir()
    alone = Alone(path, binaries)
    alone.start("--audit-file", path, ready=False)
    assert wait_for("it has ended", lambda: not alone.program.alive())
    assert "--audit-file" in alone.program.tail(5)


def test_a_file_that_is_somebody_elses_stays_as_it_is(folder, binaries):
    """Whatever it has: not even half a line is taken off it, at the start or when it comes in the place of ours."""
    path = folder / "others"
    path.mkdir()
    shipped, alone = path / "audit.jsonl", Alone(path, binaries)
    for content in ("a list of\nthings that somebody has not finished wri", "half a line", '{"seq": "0"}\n', "\n\n",
                    '{"key": "value"}\n{"seq', "x" * (3 << 20), '{"seq":"1","at_ms":"17'):
        shipped.write_text(content)
        alone.start("--audit-file", shipped, ready=False)
        assert wait_for("it has ended", lambda: not alone.program.alive())
        assert "does not end with a record of an audit log, and stays as it is" in alone.program.tail(5)
        assert shipped.read_text() == content
    shipped.unlink()
    alone.start("--audit-file", shipped)
    try:
        wait_for("it is ours", lambda: shipped.exists() and '"control.start"' in shipped.read_text())
        first = shipped.read_text()
        shipped.rename(path / "ours.jsonl")
        shipped.write_text("somebody's\nnotes")
        alone.ctl("token", "create", "portal")
        wait_for("it is told", lambda: alone.program.events("file_not_written"))
        assert shipped.read_text() == "somebody's\nnotes"
        shipped.unlink()
        alone.ctl("token", "create", "gateway")
        wait_for("nothing is missing", lambda: shipped.exists() and shipped.read_text().count('"token.create"') == 2)
        # What a power cut has left half goes, behind a line of ours.
        alone.stop()
        begun = shipped.read_text().splitlines(keepends=True)
        shipped.write_text("".join(begun[:1]) + begun[1][:9])
        alone.start("--audit-file", shipped)
        wait_for("it goes on", lambda: shipped.read_text().startswith(begun[0] + begun[1]))
        assert first.count("\n") > 0
    finally:
        alone.stop()


# ---- the disk, and the end ----

@pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
def test_a_disk_that_takes_nothing_refuses_the_change_and_what_was_refused_is_told_later(folder, binaries):
    path = folder / "full"
    path.mkdir()
    plane = Plane(path, lambda data: DiskFaults(folder / "full", data), binaries).start()
    try:
        book = Book(plane)
        book.check()
        before = len(check_is_the_store(plane.operator, plane.certificates()))
        plane.faults.arm(errno.EROFS, 1, CHANGES & ~SYNC, FOREVER)
        for work in ("apply", "token", "admin", "revoke", "rotate", "backup"):
            assert book.work(work) is False, f"{work} was done"
        assert plane.operator("GetMesh").version == book.version or book.version == 0
        plane.faults.disarm()

        def told():
            records = check_is_the_store(plane.operator, plane.certificates())[before:]
            refused = {r.action for r in records if r.outcome == r.REFUSED and "store_unwritable" in r.reason}
            return refused >= {"mesh.apply", "token.create", "admin.issue", "revoke", "rotate", "backup"} and records
        records = wait_for("what was refused is on record", told)
        assert not [r for r in records if r.outcome == r.OK and r.action not in ("login", "checkpoint")]
    finally:
        plane.stop()


def test_killed_in_the_midst_of_it_both_are_there_or_neither(folder, binaries):
    """Each of several calls at once; and what was answered is on record."""
    path = folder / "killed"
    path.mkdir()
    plane = Plane(path, binaries=binaries).start()
    book = Book(plane)
    answered = []

    def apply(number):
        for port in range(20000 + number * 1000, 21000 + number * 1000):
            link = {"name": f"k{number}", "client": "portal", "server": "gateway", "client_port": port, "server_port": 8082}
            try:
                answered.append(plane.operator("Apply", mesh={"links": [link]}).version)
            except (Ended, Refused):
                return

    def tokens():
        while True:
            try:
                plane.operator("IssueAdmin", name="boss", csr=csr(new_key()))
            except (Ended, Refused):
                return

    try:
        for round_ in range(20 if FULL else 4):
            known = len(answered)
            threads = [threading.Thread(target=apply, args=(round_ * 2 % 30,)), threading.Thread(target=tokens)]
            for thread in threads:
                thread.start()
            wait_for("it is at work", lambda known=known, round_=round_: len(answered) > known + 3 * round_)
            plane.program.kill()
            for thread in threads:
                thread.join()
            plane.again()
            book.version = 0
            records = check_is_the_store(plane.operator, plane.certificates())
            assert set(answered) <= {r.version for r in records if r.action == "mesh.apply"}
    finally:
        plane.stop()
