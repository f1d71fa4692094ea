"""Without this the first administrator needs a password that everybody knows, or a shell on the control plane's host:
a token that is good once, for a quarter of an hour, and shown to nobody but the control plane.

Drives: R50, D5"""
import json
import os
import subprocess
import time

import grpc
import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.clock_jump import ClockJump
from test.testlib.control import LoneControl
from test.testlib.fixtures import CONFIG
from test.testlib.static import free_port
from test.testlib.stubs import stubs


@pytest.fixture
def control(tmp_path, binaries):
    made = LoneControl(tmp_path).start()
    (tmp_path / "roots.pem").write_text(made.ctl("roots"))
    yield made
    made.stop()


def login(control, token, out, **other):
    """The finished mortisectl login, and its folder."""
    words = {"server": f"127.0.0.1:{control.port}", "trust-domain": control.TRUST_DOMAIN,
             "roots": control.folder / "roots.pem", "token-file": token, "out": control.folder / out, **other}
    argv = [control.bin.ctl, "login", *(part for word, value in words.items() for part in (f"--{word}", value))]
    return subprocess.run([str(part) for part in argv], check=False, capture_output=True, text=True,
                          env=own_environment(), timeout=60)


def whoami(control, out):
    folder = control.folder / out
    done = subprocess.run([str(part) for part in (
        control.bin.ctl, "--server", f"127.0.0.1:{control.port}", "--trust-domain", control.TRUST_DOMAIN, "--cert",
        folder / "cert.pem", "--key", folder / "key.pem", "--roots", folder / "roots.pem", "whoami", "-o", "json")],
        check=True, capture_output=True, text=True, env=own_environment(), timeout=60)
    return json.loads(done.stdout)


def invite(control, name, *flags):
    path = control.folder / f"{name}.token"
    path.touch(mode=0o600)
    path.write_text(control.ctl("admin", "invite", name, *flags))
    return path


def whoami_at_socket(control):
    return json.loads(control.ctl("whoami", "-o", "json"))


@pytest.mark.sanitize
def test_the_first_start_leaves_a_token_that_is_good_once(control):
    token = control.data / "admin-token"
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text().startswith("mlt1.")
    assert token.read_text().strip() not in control.program.tail(500), "no log has it"
    kept = control.folder / "copy"
    kept.touch(mode=0o600)
    kept.write_text(token.read_text())
    done = login(control, token, "first")
    assert done.returncode == 0, done.stderr
    assert (control.folder / "first" / "key.pem").stat().st_mode & 0o077 == 0
    me = whoami(control, "first")
    assert me["subject"] == "admin" and me["role"] == "admin"
    wait_for("the file is gone", lambda: not token.exists())
    again = login(control, kept, "second")
    assert again.returncode == 1 and "token_used" in again.stderr
    assert not (control.folder / "second" / "cert.pem").exists()
    # A second start makes none.
    control.program.stop()
    control.start()
    assert not token.exists()


def test_its_file_goes_with_its_time(control):
    token = control.data / "admin-token"
    known = os.stat(token)
    os.utime(token, (known.st_atime, known.st_mtime - 890))
    assert whoami_at_socket(control)["role"] == "admin" and token.exists(), "ten seconds are left"
    os.utime(token, (known.st_atime, known.st_mtime - 900))
    wait_for("the file is gone", lambda: not token.exists(), 10)


def test_who_is_invited_has_the_role_that_was_meant(control):
    done = login(control, invite(control, "vera", "--role", "viewer"), "vera")
    assert done.returncode == 0 and "role viewer" in done.stdout
    assert whoami(control, "vera")["permissions"] == ["mesh.read"]
    # Nobody is invited to more than the inviter has, nor to what there is not.
    for flags, says in ((["x", "--role", "king"], 'there is no "king"'), (["a b"], "name: letters"),
                        (["x", "--ttl", "30d"], "--ttl")):
        refused = control.try_ctl("admin", "invite", *flags)
        assert refused.returncode in (1, 2) and says in refused.stderr, refused.stderr
    # What was taken away before it was used is gone.
    token = invite(control, "late", "--role", "operator")
    control.ctl("admin", "unbind", "late")
    assert login(control, token, "late").returncode == 0
    with pytest.raises(subprocess.CalledProcessError):
        whoami(control, "late")


def test_an_invitation_ends_when_somebody_else_vouches_for_the_name(control):
    """Else whoever kept it back would hold the key of a second person."""
    token = invite(control, "bob", "--role", "viewer")
    # Times of records are whole seconds.
    wait_for("the next second", lambda: int(time.time()) > token.stat().st_mtime, 5, 0.05)
    control.ctl("admin", "bind", "bob", "--role", "operator")
    assert "token_expired" in login(control, token, "bob").stderr
    assert login(control, invite(control, "bob", "--role", "operator"), "bob").returncode == 0


def test_an_invitation_of_before_rotate_admin_is_of_no_use(control):
    """Who has stolen an administrator's key may have invited himself."""
    token = invite(control, "mallory")
    control.ctl("rotate", "admin")
    assert "token_expired" in login(control, token, "mallory").stderr
    assert "token_expired" in login(control, control.data / "admin-token", "first").stderr
    assert login(control, invite(control, "vera"), "vera").returncode == 0


def test_what_is_no_token_is_refused_with_a_code(control):
    join = control.folder / "join"
    join.touch(mode=0o600)
    join.write_text(control.ctl("token", "create", "portal"))
    assert "token_unknown" in login(control, join, "join-out").stderr
    empty = control.folder / "empty"
    empty.touch(mode=0o600)
    assert "is empty" in login(control, empty, "empty-out").stderr
    for_sidecars = control.try_ctl("certificate", "portal", "--token-file", empty, "--out", control.folder / "portal")
    assert for_sidecars.returncode == 1 and "is empty" in for_sidecars.stderr
    open_to_all = control.folder / "open"
    open_to_all.write_text((control.data / "admin-token").read_text())
    open_to_all.chmod(0o644)
    assert login(control, open_to_all, "open-out").returncode == 1
    # Whoever guesses is slowed down.
    made = stubs()
    with grpc.insecure_channel(f"unix:{control.socket}") as link:
        stub = made.access_grpc.AccessServiceStub(link)
        codes = set()
        for number in range(40):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Login(made.access.LoginRequest(token=f"mlt1.{number:043}"), timeout=30)
            codes.add((refused.value.code(), refused.value.details()))
    assert codes == {(grpc.StatusCode.PERMISSION_DENIED, "token_unknown"),
                     (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")}


def test_the_token_is_shown_to_the_control_plane_alone(control, tmp_path, binaries):
    """The adversarial twin: another one answers at that address."""
    (tmp_path / "other").mkdir()
    other = LoneControl(tmp_path / "other", binaries).start()
    try:
        done = login(control, control.data / "admin-token", "lured", server=f"127.0.0.1:{other.port}")
        assert done.returncode == 1 and "--roots are those of another mesh" in done.stderr
        nobody = login(control, control.data / "admin-token", "nobody", server=f"127.0.0.1:{free_port()}")
        assert nobody.returncode == 1 and "cannot reach" in nobody.stderr
        assert login(control, control.data / "admin-token", "right").returncode == 0, "it is not used up"
    finally:
        other.stop()


@pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
def test_after_a_quarter_of_an_hour_it_is_of_no_use(tmp_path, binaries):
    clock = ClockJump(tmp_path)
    made = LoneControl(tmp_path, binaries).start(env=clock.env)
    try:
        (tmp_path / "roots.pem").write_text(made.ctl("roots"))
        kept = tmp_path / "copy"
        kept.touch(mode=0o600)
        kept.write_text((made.data / "admin-token").read_text())
        clock.set(901)
        assert "token_expired" in login(made, kept, "late").stderr
    finally:
        made.stop()
