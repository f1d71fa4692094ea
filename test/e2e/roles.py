"""Without this a viewer changes the mesh, an operator makes himself an administrator, and who was let go yesterday
still watches today: each role tries each RPC, and open streams end when the right to them does.

Drives: D5, R46, R48, R62"""
import json
import queue
import select
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import grpc
import pytest

from deploy.lab.programs import wait_for
from test.testlib.admin import Admin, methods, uid_argv
from test.testlib.control import LoneControl
from test.testlib.stubs import stubs

VIEWER = {"mesh.read"}
OPERATOR = VIEWER | {"mesh.write", "token.create", "certificate.rotate", "revocation.write", "access.read",
                     "audit.read"}
OPEN = {"anyone", "session"}
STRANGER = 65534  # a user of this machine


@pytest.fixture(scope="module")
def control(folder, binaries):
    with tempfile.TemporaryDirectory(prefix="mortise-sock-") as place:
        Path(place).chmod(0o755)
        made = LoneControl(folder, socket=Path(place) / "operator.sock")
        made.start("--operator-socket-access", "everyone")
        yield made
        made.stop()


def ctl(control, *args, check=True):
    done = subprocess.run([str(part) for part in (control.bin.ctl, "--socket", control.socket, *args)],
                          check=False, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def admins(control):
    """One of each role, connected."""
    ctl(control, "role", "set", "clerk", "--permissions", "token.create,access.write")
    made = {role: Admin(control, f"{role}-1", "--role", role).connect()
            for role in ("viewer", "operator", "admin", "clerk")}
    yield made
    for admin in made.values():
        admin.close()


def has(role, permission):
    return {"viewer": VIEWER, "operator": OPERATOR, "clerk": {"token.create", "access.write"}}.get(
        role, {permission} - {"workload"}) & {permission} or permission in OPEN


@pytest.mark.sanitize
def test_each_role_tries_each_rpc(admins):
    rpcs = methods()
    assert len(rpcs) > 30 and not [path for path, permission in rpcs if permission == "none"]
    refused = 0
    for role, admin in admins.items():
        for path, permission in rpcs:
            err = admin.raw(path)
            if has(role, permission):
                assert err.code() == grpc.StatusCode.INVALID_ARGUMENT, (role, path, err)
                continue
            refused += 1
            assert err.code() == grpc.StatusCode.PERMISSION_DENIED, (role, path, err)
            if permission != "workload":
                assert permission in err.details() and role in err.details(), (role, path, err.details())
    assert refused > 40


def test_a_person_is_told_what_is_missing(admins):
    done = admins["viewer"].ctl("token", "create", "portal")
    assert done.returncode == 1 and "token.create" in done.stderr and "role viewer" in done.stderr
    assert admins["viewer"].ctl("status").returncode == 0
    me = json.loads(admins["viewer"].ctl("whoami", "-o", "json").stdout)
    assert me["subject"] == "viewer-1" and me["role"] == "viewer" and me["permissions"] == ["mesh.read"]
    assert "role         viewer" in admins["viewer"].ctl("whoami").stdout
    assert "access.read" in admins["viewer"].ctl("admin", "list").stderr
    assert "viewer-1" in admins["operator"].ctl("admin", "list").stdout
    assert "responder" not in admins["operator"].ctl("role", "list").stdout


def test_nobody_makes_himself_more_than_he_is(control, admins):
    clerk, folder = admins["clerk"], control.folder
    for attempt in (["admin", "bind", "clerk-1", "--role", "admin"],
                    ["admin", "bind", "friend", "--role", "viewer"],
                    ["admin", "create", "friend", "--role", "admin", "--out", folder / "friend"],
                    ["admin", "create", "friend", "--out", folder / "friend"],
                    ["admin", "create", "admin-1", "--out", folder / "twin"],
                    ["admin", "create", "admin-1", "--role", "clerk", "--out", folder / "twin"],
                    ["admin", "unbind", "admin-1"],
                    ["admin", "bind", "admin-1", "--role", "clerk"],
                    ["role", "set", "clerk", "--permissions", "token.create,access.write,ca.write"],
                    ["role", "set", "queen", "--permissions", "store.backup"]):
        done = clerk.ctl(*attempt)
        assert done.returncode == 1 and "nobody gives or takes more than his own" in done.stderr, (attempt, done.stderr)
    done = clerk.ctl("admin", "create", "deputy", "--role", "clerk", "--out", folder / "deputy")
    assert done.returncode == 0 and "role clerk" in done.stdout
    bound = {b["subject"]: b["role"] for b in json.loads(ctl(control, "admin", "list", "-o", "json").stdout)["bindings"]}
    assert bound["admin-1"] == "admin" and bound["clerk-1"] == "clerk" and bound["deputy"] == "clerk"
    assert "friend" not in bound


def test_what_cannot_be_says_why(control, admins):
    for attempt, says in ((["admin", "bind", "x y", "--role", "viewer"], "subject: wanted is"),
                          (["admin", "bind", "uid:-1", "--role", "viewer"], "subject: wanted is"),
                          (["admin", "bind", "x", "--role", "king"], 'role: there is no "king"'),
                          (["admin", "unbind", "nobody-at-all"], "nobody-at-all has no role"),
                          (["role", "set", "viewer", "--permissions", "ca.write"], "viewer is built in"),
                          (["role", "set", "a b", "--permissions", "ca.write"], "name: letters"),
                          (["role", "set", "x", "--permissions", "moon.read"], 'permissions[0]: there is no "moon.read"'),
                          (["role", "set", "x", "--permissions", ","], "permissions: 1 to"),
                          (["role", "delete", "admin"], "is built in"),
                          (["role", "delete", "clerk"], "somebody's role"),
                          (["role", "delete", "x"], 'role: there is no "x"')):
        done = ctl(control, *attempt, check=False)
        assert done.returncode == 1 and says in done.stderr, (attempt, done.stderr)


class Watcher:
    """An open Watch stream, and how it ends."""

    def __init__(self, admin):
        made = stubs()
        self.end = queue.Queue()
        self.heard = threading.Event()
        stub = made.operator_grpc.OperatorServiceStub(admin.channel)
        self.call = stub.Watch(made.operator.WatchRequest(since_s=3600))
        threading.Thread(target=self.read, daemon=True).start()
        assert self.heard.wait(30)

    def read(self):
        try:
            for _ in self.call:
                self.heard.set()
            self.end.put(None)
        except grpc.RpcError as err:
            self.end.put(err)

    def ends_within(self, seconds):
        began = time.monotonic()
        err = self.end.get(timeout=60)
        assert time.monotonic() - began < seconds
        return err


@pytest.mark.sanitize
def test_streams_end_when_the_right_to_them_does(control):
    ctl(control, "role", "set", "on-call", "--permissions", "mesh.read")
    eve, other = (Admin(control, name, "--role", "on-call").connect() for name in ("eve", "other"))
    try:
        for take, give in (
                (["admin", "bind", "eve", "--role", "clerk"], ["admin", "bind", "eve", "--role", "on-call"]),
                (["admin", "unbind", "eve"], ["admin", "bind", "eve", "--role", "viewer"])):
            mine, others = Watcher(eve), Watcher(other)
            ctl(control, *take)
            assert mine.ends_within(5).code() == grpc.StatusCode.PERMISSION_DENIED
            assert eve.ctl("status").returncode == 1
            assert others.end.empty(), "who has done nothing goes on"
            others.call.cancel()
            ctl(control, *give)
            assert eve.ctl("status").returncode == 0
        mine, others = Watcher(eve), Watcher(other)  # eve is a viewer now: the role of her own was the other's
        ctl(control, "role", "set", "on-call", "--permissions", "token.create")
        assert others.ends_within(5).code() == grpc.StatusCode.PERMISSION_DENIED
        assert mine.end.empty()
        ctl(control, "revoke", "spiffe-id", f"spiffe://{control.TRUST_DOMAIN}/mortise/admin/eve")
        assert mine.ends_within(5).code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)
    finally:
        eve.close()
        other.close()


def test_a_user_of_the_machine_has_what_is_bound_to_him(control):
    argv, as_him = uid_argv(Path(control.bin.ctl), control.socket.parent, STRANGER)

    def his(*args):
        return subprocess.run([str(part) for part in (*argv, "--socket", control.socket, *args)],
                              check=False, capture_output=True, text=True, timeout=60, **as_him)

    assert his("status").returncode == 1, "the socket is open to everyone, the control plane is not"
    ctl(control, "admin", "bind", f"uid:{STRANGER}", "--role", "viewer")
    assert his("status").returncode == 0
    assert "mesh.write" in his("delete", "links", "management-portal").stderr
    watching = subprocess.Popen([str(part) for part in (*argv, "--socket", control.socket, "watch")], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **as_him)
    wait_for("it is open", lambda: ctl(control, "token", "create", "portal") and select.select([watching.stdout], [], [], 0.2)[0])
    ctl(control, "admin", "unbind", f"uid:{STRANGER}")
    _, told = watching.communicate(timeout=20)
    assert watching.returncode == 1 and "users with a role may call on this socket" in told, told
    assert his("status").returncode == 1
    for root in ("uid:0", "uid:4294967296"):
        done = ctl(control, "admin", "bind", root, "--role", "viewer", check=False)
        assert done.returncode == 1 and done.stderr.count("subject: "), done.stderr
    assert "would change nothing" in ctl(control, "admin", "bind", "uid:0", "--role", "viewer", check=False).stderr


def test_roles_outlive_a_restart(control, admins):
    before = ctl(control, "admin", "list", "-o", "json").stdout
    control.program.kill()
    control.program.stop()
    control.start("--operator-socket-access", "everyone")
    assert ctl(control, "admin", "list", "-o", "json").stdout == before
    assert "token.create" in admins["viewer"].ctl("token", "create", "portal").stderr
