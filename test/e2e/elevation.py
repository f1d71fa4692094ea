"""Without this one slip, or a terminal that was left open, replaces the mesh's root, and nobody knows why it was done:
what is grave takes a reason and a time, and where that is asked for a second person.

Drives: R49, D6"""
import json
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.admin import Admin
from test.testlib.control import LoneControl

REASON = ["--reason", "the root is due"]


@pytest.fixture(scope="module")
def control(folder, binaries):
    (folder / "one").mkdir()
    made = LoneControl(folder / "one").start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def strict(folder, binaries):
    """Where it takes two."""
    (folder / "two").mkdir()
    made = LoneControl(folder / "two").start("--elevation-approval")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alice(control):
    return Admin(control, "alice", "--role", "admin")


def rotations(control):
    return int(json.loads(control.ctl("rotate", "status", "-o", "json")).get("number", 0))


def test_the_root_is_not_rotated_by_a_slip(control, alice):
    before = rotations(control)
    refused = alice.ctl("rotate", "root")
    assert refused.returncode == 1
    assert 'rotating the root takes an elevation' in refused.stderr
    assert 'mortisectl elevate --for 10m --reason "…"' in refused.stderr
    assert rotations(control) == before
    assert alice.ctl("rotate", "root", "--abort").stderr.count("elevation") == 0, "back is the safe side"
    # Nor by root, at the operator socket.
    assert "takes an elevation" in control.try_ctl("rotate", "root").stderr and rotations(control) == before


def test_neither_are_records_of_the_audit_log(control, alice):
    words = ["audit", "purge", "--up-to", "1", "--reason", "too many"]
    assert "removing records of the audit log takes an elevation" in alice.ctl(*words).stderr
    assert "takes an elevation" in control.try_ctl(*words).stderr
    assert alice.ctl("elevate", *REASON).returncode == 0
    done = alice.ctl(*words)
    assert done.returncode == 0, done.stderr
    assert alice.ctl("elevate", "--end").returncode == 0
    told = control.ctl("audit", "search", "-o", "json")
    assert '"elevate"' in told and "the root is due" in told and '"role": "admin"' in told.replace('":"', '": "')


def test_no_link_takes_plaintext_by_a_slip(control, alice):
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))
    path = control.folder / "plain.yaml"
    path.write_text(json.dumps({"links": [{
        "name": "management-portal", "client": "management", "server": "portal", "client_port": 15101,
        "server_port": 8081, "permissive": {"port": 18081, "until": until}}]}))
    words = ["apply", "-f", path, "--allow-weaker"]
    before = control.ctl("get", "mesh", "-o", "yaml")
    assert "letting a link take plaintext takes an elevation" in alice.ctl(*words).stderr
    assert control.ctl("get", "mesh", "-o", "yaml") == before
    assert alice.ctl(*words, "--dry-run").returncode == 0, "to ask is free"
    assert alice.ctl("elevate", *REASON).returncode == 0
    done = alice.ctl(*words)
    assert done.returncode == 0, done.stderr
    assert alice.ctl("elevate", "--end").returncode == 0
    assert alice.ctl(*words).returncode == 0, "nothing begins"
    path.write_text(path.read_text().replace(', "permissive": {"port": 18081, "until": "%s"}' % until, ""))
    assert alice.ctl("apply", "-f", path).returncode == 0, "back is the safe side"


def test_it_ends_when_it_is_ended(control, alice):
    done = alice.ctl("elevate", "--for", "10m", *REASON)
    assert done.returncode == 0 and "alice is elevated for 600 s" in done.stdout
    me = json.loads(alice.ctl("whoami", "-o", "json").stdout)
    assert me["elevation"]["reason"] == "the root is due" and 0 < me["elevation"]["left_s"] <= 600
    assert "the root is due" in control.ctl("elevate", "list")
    other = Admin(control, "other", "--role", "admin")
    assert "takes an elevation" in other.ctl("rotate", "root").stderr, "it is hers alone"
    assert alice.ctl("elevate", "--end").returncode == 0
    assert "takes an elevation" in alice.ctl("rotate", "root").stderr
    assert "there is no elevation of alice" in alice.ctl("elevate", "--end").stderr


def test_it_ends_by_itself(control, alice):
    assert alice.ctl("elevate", "--for", "10s", *REASON).returncode == 0
    wait_for("it has ended", lambda: "elevation" not in json.loads(alice.ctl("whoami", "-o", "json").stdout), 60)
    assert "takes an elevation" in alice.ctl("rotate", "root").stderr


@pytest.mark.sanitize
def test_with_it_the_root_is_rotated(control, alice):
    before = rotations(control)
    assert alice.ctl("elevate", *REASON).returncode == 0
    done = alice.ctl("rotate", "root", "--wait")
    assert done.returncode == 0, done.stderr
    assert rotations(control) == before + 1
    # It adds nothing to a role that was taken away.
    control.ctl("admin", "bind", "alice", "--role", "operator")
    assert "ca.write" in alice.ctl("rotate", "root").stderr
    control.ctl("admin", "bind", "alice", "--role", "admin")
    assert alice.ctl("elevate", "--end").returncode == 0


def test_what_cannot_be_says_why(control, alice):
    for attempt, says in ((["--for", "2h", *REASON], "--for"), (["--for", "1s", *REASON], "--for"), ([], "--reason"),
                          (["--reason", ""], "reason"), (["--reason", "a\nb"], "reason: wanted is one line"),
                          (["--reason", "x" * 257], "reason: wanted is one line")):
        done = alice.ctl("elevate", *attempt)
        assert done.returncode in (1, 2) and says in done.stderr, (attempt, done.stderr)
    olga = Admin(control, "olga", "--role", "operator")
    assert "elevation.take" in olga.ctl("elevate", *REASON).stderr
    assert alice.ctl("elevate", "approve", "x").returncode == 2
    assert "no elevation 999 waits" in alice.ctl("elevate", "approve", "999").stderr


def test_where_it_takes_two_one_is_not_enough(strict):
    first, second = (Admin(strict, name, "--role", "admin") for name in ("first", "second"))
    asked = first.ctl("elevate", *REASON)
    assert asked.returncode == 0 and "waits for another administrator" in asked.stdout
    number = asked.stdout.strip().split()[-1]
    refused = first.ctl("rotate", "root")
    assert f"mortisectl elevate approve {number}" in refused.stderr
    assert "that is your own" in first.ctl("elevate", "approve", number).stderr
    assert "takes an elevation" in second.ctl("rotate", "root").stderr
    assert rotations(strict) == 0
    done = second.ctl("elevate", "approve", number)
    assert done.returncode == 0 and "first is elevated for 600 s" in done.stdout
    assert first.ctl("rotate", "root", "--wait").returncode == 0 and rotations(strict) == 1
    assert "no elevation" in second.ctl("elevate", "approve", number).stderr
    # It does not outlive the process.
    strict.program.stop()
    strict.start("--elevation-approval")
    assert "takes an elevation" in first.ctl("rotate", "root").stderr


def test_one_administrator_is_not_two(strict):
    """By a name of his own invention, made before or after, by another's name, or through a third."""
    mallory, carol = (Admin(strict, name, "--role", "admin") for name in ("mallory", "carol"))

    def asks(admin):
        done = admin.ctl("elevate", *REASON)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split()[-1]

    def makes(admin, name, *role):
        second = Admin.__new__(Admin)
        second.control, second.name, second.folder = strict, name, strict.folder / f"of-{admin.name}-{name}"
        done = admin.ctl("admin", "create", name, "--out", second.folder, *role)
        assert done.returncode == 0, done.stderr
        return second

    def refuses(admin, number, says):
        done = admin.ctl("elevate", "approve", number)
        assert done.returncode == 1 and says in done.stderr, (done.stdout, done.stderr)

    before = makes(mallory, "before", "--role", "admin")
    third = makes(before, "third", "--role", "admin")
    number = asks(mallory)
    after = makes(mallory, "after", "--role", "admin")
    for second in (before, third, after):
        refuses(second, number, f"mallory and {second.name} may be one person: mallory has given")
    refuses(mallory, asks(before), "before and mallory may be one person")
    stolen = makes(mallory, "carol")
    refuses(stolen, number, "mallory and carol may be one person")
    assert "mortisectl elevate approve" in mallory.ctl("rotate", "root").stderr
    # Whose role comes from elsewhere, but later.
    dave = Admin(strict, "dave", "--role", "admin")
    refuses(dave, number, "the role of dave is newer than the request")
    assert "may be one person" in strict.try_ctl("elevate", "approve", number).stderr, "root has made mallory"
    # Who is another stays one.
    done = dave.ctl("elevate", "approve", asks(mallory))
    assert done.returncode == 0, done.stderr
    assert mallory.ctl("elevate", "--end").returncode == 0
    assert carol.ctl("whoami").returncode == 0
