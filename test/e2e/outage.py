"""Without this a sidecar that is restarted while the control plane is away would be gone with its subsystem, or would begin
with whatever lies on its disk: it begins with its sealed cache, of which nothing but the last good one of its own is taken.

Each row of docs/availability.md that is about an outage is driven here, on a clock that the tests move.

Drives: R9, R11, R21, R24, R36, R42, F18"""
import contextlib
import os
import secrets
import shutil
import signal

import pytest

from deploy.lab.mesh import Mesh, document
from deploy.lab.programs import Program, admin, wait_for
from deploy.lab.traffic import Traffic
from test.testlib.clock_jump import ClockJump
from test.testlib.fixtures import CONFIG, FULL

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
HOUR, DAY = 3600, 86400
NAMES = ("management", "portal", "gateway")
ID = "spiffe://mesh.test/ns/apim/sa/"
ASK = """
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as sock:
        sock.sendall(b"GET /seed/8 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n")
        sys.exit(0 if sock.recv(64).startswith(b"HTTP/1.1 200") else 1)
except OSError:
    sys.exit(1)
"""


class OutageMesh(Mesh):
    """One clock for all programs, a sealed cache for each sidecar, and a file for each one's join token."""

    def __init__(self, folder, network, binaries):
        super().__init__(folder, network, binaries)
        self.clock = ClockJump(self.folder)
        self.files = {}

    def start_control(self):
        os.environ |= self.clock.env
        try:
            return super().start_control()
        finally:
            for key in self.clock.env:
                os.environ.pop(key)

    def place(self, name):
        """The cache's folder, its key and the token's file of a sidecar."""
        if name not in self.files:
            folder = self.folder / f"disk-{name}"
            folder.mkdir()
            self.files[name] = folder / "cache", folder / "key", folder / "token"
            private(self.files[name][1], secrets.token_hex(32))
            private(self.files[name][2], "")
        return self.files[name]

    def flags(self, name, *more):
        cache, key, token = self.place(name)
        return [*self.sidecar_argv(name), "--cache-dir", cache, "--cache-key-file", key,
                "--join-token-file", token, *more]

    def start_sidecar(self, name, *more, ready=True, **_):
        program = Program(f"proxy-{name}", self.flags(name, *more), self.folder, self.network[name],
                          env=self.clock.env)
        self.sidecars[f"proxy-{name}"] = program
        if ready:
            program.wait_ready()
        return program

    def join(self, name):
        private(self.place(name)[2], self.token(name))
        return self.start_sidecar(name, ready=False)

    def asks(self, port):
        """Whether a request of management's application is answered through its loopback port."""
        return self.network["management"].run("python3", "-c", ASK, str(port)).returncode == 0

    def saved(self, name):
        return self.sidecar(name).metrics()['mortise_cache_writes_total{result="ok"}']


def private(path, text):
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


@pytest.fixture(scope="module")
def mesh(folder, network, binaries):
    made = OutageMesh(folder / "mesh", network, binaries)
    traffic = Traffic(made)
    try:
        made.start_control()
        made.apply(document())
        for name in NAMES:
            made.join(name)
        for program in made.sidecars.values():
            program.wait_ready()
        made.wait_in_sync(len(NAMES))
        traffic.serve()
        wait_for("requests pass", lambda: made.asks(15101) and made.asks(15102))
        yield made
    finally:
        traffic.stop()
        made.stop()


def why_not_ready(program):
    return wait_for("it says why not", lambda: admin(program.admin_socket, "/readyz")[1]
                    if admin(program.admin_socket, "/readyz")[0] == 503 else None)


@pytest.fixture
def unplugged(mesh):
    """The control plane is away; it is back at the end, and everybody with it."""
    mesh.control.kill()
    yield
    if not mesh.control.alive():
        mesh.start_control()
    mesh.wait_in_sync(len(NAMES))


def test_restarts_during_an_outage_begin_with_the_cache(mesh):
    """Killed hard, both ends of a link, without a token: they serve, and who was revoked stays revoked."""
    mesh.ctl("revoke", "subsystem", "gateway", "--wait")
    wait_for("it is cut off", lambda: not mesh.asks(15102))
    mesh.control.kill()
    serials = {}
    for name in ("management", "portal"):
        serials[name] = mesh.sidecar(name).config()["identity"]["serial"]
        private(mesh.place(name)[2], "")
        mesh.sidecar(name).kill()
    for name in ("management", "portal"):
        program = mesh.start_sidecar(name)
        config = program.config()
        assert config["identity"]["serial"] == serials[name] and config["control"]["from_cache_of"]
        assert not config["control"]["connected"]
        assert program.metrics()["mortise_config_cached_timestamp_seconds"] > 0
        assert "age_s" in program.events("in_force")[-1]
        assert [r["spiffe_id"] for r in config["config"]["revocations"]] == [ID + "gateway"]
    assert mesh.asks(15101)
    assert not mesh.asks(15102)
    assert any(line["reason"] == "revoked" for line in mesh.sidecar("management").events("connection"))

    # It comes back: what is in force is confirmed, and what is news reaches them.
    mesh.start_control()
    for name in ("management", "portal"):
        wait_for("confirmed", lambda p=mesh.sidecar(name): "from_cache_of" not in p.config()["control"])
        assert mesh.sidecar(name).metrics()["mortise_config_cached_timestamp_seconds"] == 0
    for item in mesh.ctl_json("get", "revocations")["revocations"]:
        mesh.ctl("lift", item["id"])
    wait_for("it is let in again", lambda: mesh.asks(15102))
    mesh.wait_in_sync(len(NAMES))
    mesh.ctl("rotate", "--all", "--wait")  # the cached certificate opens the door to the next one


def damaged(cache, how):
    path, content = cache / "sidecar.cache", bytearray((cache / "sidecar.cache").read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[:len(content) // 2])
    elif how == "readable":
        path.chmod(0o644)
    elif how == "link":
        path.rename(cache.parent / "elsewhere")
        path.symlink_to(cache.parent / "elsewhere")
    elif how == "unmarked":
        (cache / "sidecar.mark").unlink()


TWINS = {"flipped": "seal_broken", "cut": "seal_broken", "readable": "file_unsafe", "link": "file_open",
         "unmarked": "cache_stale", "other-key": "kek_unavailable", "other-identity": "peer_identity",
         "other-domain": "seal_broken", "old": "cache_stale"}


def test_nothing_else_is_taken_for_the_cache(mesh, folder, binaries, network):
    """Each twin of a good one is refused with its reason, and the sidecar asks the control plane, who is away."""
    source, key, _ = mesh.place("portal")
    old = folder / "old.cache"
    shutil.copy(source / "sidecar.cache", old)
    for _ in range(3):
        number = mesh.saved("portal")
        mesh.ctl("rotate", "portal", "--wait")
        wait_for("it is saved", lambda n=number: mesh.saved("portal") > n)
    host = network["analytics"]
    with contextlib.ExitStack() as stack:
        programs = {}
        for how in ("good", *TWINS):
            place = folder / f"twin-{how}"
            shutil.copytree(source, place / "cache")
            own_key = place / "key"
            private(own_key, secrets.token_hex(32) if how == "other-key" else key.read_text())
            damaged(place / "cache", how)
            if how == "old":
                shutil.copy(old, place / "cache" / "sidecar.cache")
            port = 16000 + len(programs)
            argv = [binaries.proxy, "--control", "127.0.0.1:9", "--trust-domain",
                    "other.test" if how == "other-domain" else "mesh.test", "--trust-bundle", mesh.roots,
                    "--inbound-listen", f"127.0.0.1:{port}", "--cache-dir", place / "cache",
                    "--cache-key-file", own_key]
            if how == "other-identity":
                argv += ["--identity", ID + "analytics"]
            programs[how] = Program(f"proxy-twin-{how}", argv, place, host)
            stack.callback(programs[how].stop)
        programs.pop("good").wait_ready()
        for how, program in programs.items():
            event = wait_for(f"{how} is refused", lambda p=program: p.events("refused"))[0]
            assert event["component"] == "cache" and event["reason"] == TWINS[how], (how, event)
            assert "none yet" in why_not_ready(program)


def test_killed_while_it_saves_it_begins_with_the_old_or_the_new(mesh):
    """Rotations, each of which is saved, and a SIGKILL at any moment of it; then the control plane is away."""
    for _ in range(4):
        program = mesh.sidecar("portal")
        serial = program.config()["identity"]["serial"]
        mesh.ctl("rotate", "portal")
        wait_for("it has a new one, and is about to save it",
                 lambda p=program, s=serial: p.config()["identity"]["serial"] != s, every_s=0.002)
        mesh.control.signal(signal.SIGSTOP)
        program.kill()
        try:
            fresh = mesh.start_sidecar("portal")
            assert fresh.config()["control"]["from_cache_of"]
            assert mesh.asks(15101)
        finally:
            mesh.control.signal(signal.SIGCONT)
        mesh.wait_in_sync(len(NAMES))


def forward(mesh, hours, names=NAMES, ready=False):
    """So many hours later; the certificates of `names` are good still, or not."""
    mesh.now = getattr(mesh, "now", 0) + int(hours * HOUR)
    mesh.clock.set(mesh.now)
    for name in names:
        wait_for(f"{name} is {'ready' if ready else 'not ready'}",
                 lambda n=name: mesh.sidecar(n).ready() is ready)


def back(mesh, name, how, since=0):
    """It has a certificate again, by the way that is named, without having been restarted."""
    program = mesh.sidecar(name)
    event = wait_for(f"{name} {how}", lambda: program.events(how)[since:], 90)[0]
    wait_for(f"{name} is ready", program.ready)
    return event


def refusals(program):
    return [e for e in program.events("attest_failed") if "permission" in e["reason"].lower()]


def test_an_outage_longer_than_a_certificates_life(mesh):
    """12 hours: nobody notices. Alarms on the way to the end; then nothing passes, not a second later; and when the
    control plane is back everybody comes back by himself, without restart and without token."""
    wait_for("those that were killed are forgotten", lambda: len(mesh.workloads()) == len(NAMES))
    mesh.ctl("rotate", "--all", "--wait")
    marks = {name: len(mesh.sidecar(name).events("rejoined")) for name in NAMES}
    for name in NAMES:
        private(mesh.place(name)[2], "")
    mesh.control.kill()
    forward(mesh, 12, ready=True)  # the published target, of 24
    assert mesh.asks(15101) and mesh.asks(15102)
    portal = mesh.sidecar("portal")
    for hours, percent in ((7.5, 50), (2.2, 75), (1.5, 90)):
        forward(mesh, hours, ready=True)
        wait_for(f"alarm {percent}", lambda p=percent: portal.metrics()["mortise_certificate_alarm"] == p)
        event = portal.events("certificate_alarm")[-1]
        assert event["percent"] == percent and event["level"] == ("error" if percent == 90 else "warn")
    assert mesh.asks(15101) and mesh.asks(15102)
    forward(mesh, 1)
    wait_for("alarm 100", lambda: portal.metrics()["mortise_certificate_alarm"] == 100)
    assert "expired" in why_not_ready(portal)
    assert not mesh.asks(15101) and not mesh.asks(15102)

    mesh.start_control()
    for name in NAMES:
        back(mesh, name, "rejoined", marks[name])
    assert mesh.asks(15101) and mesh.asks(15102)
    wait_for("it is over", lambda: portal.metrics()["mortise_certificate_alarm"] == 0)
    reasons = [c["reason"] for c in mesh.ctl_json("get", "certificates")["certificates"]]
    assert reasons.count("rejoin") == len(NAMES)
    mesh.wait_in_sync(len(NAMES))


def test_a_restart_with_an_expired_cache_serves_nothing_and_comes_back(mesh):
    mesh.control.kill()
    mesh.sidecar("portal").kill()
    forward(mesh, 25, ("management", "gateway"))
    program = mesh.start_sidecar("portal", ready=False)
    wait_for("the cache is refused", lambda: [e for e in program.events("refused") if e["component"] == "cache" and
                                              e["reason"] == "cert_expired"])
    assert "none yet" in why_not_ready(program)
    assert not mesh.asks(15101)
    mesh.start_control()
    for name in NAMES:
        wait_for(f"{name} is ready", mesh.sidecar(name).ready, 90)
    assert mesh.asks(15101)
    mesh.wait_in_sync(len(NAMES))


def test_who_was_revoked_meanwhile_stays_outside(mesh):
    """Its expired certificate opens no door, however often it knocks; lifted it comes back."""
    since = len(mesh.sidecar("gateway").events("rejoined"))
    mesh.ctl("revoke", "subsystem", "gateway", "--wait")
    mesh.control.kill()
    forward(mesh, 25)
    mesh.start_control()
    gateway = mesh.sidecar("gateway")
    for name in ("management", "portal"):
        wait_for(f"{name} is ready", mesh.sidecar(name).ready, 90)
    wait_for("it is refused", lambda: [e for e in refusals(gateway) if "peer_revoked" in e["reason"]], 90)
    assert mesh.asks(15101) and not mesh.asks(15102)
    for item in mesh.ctl_json("get", "revocations")["revocations"]:
        mesh.ctl("lift", item["id"])
    back(mesh, "gateway", "rejoined", since)
    mesh.wait_in_sync(len(NAMES))


def test_away_for_too_long_only_a_token_helps(mesh):
    """Put into its file while it runs; the rest of the mesh, too."""
    mesh.control.kill()
    forward(mesh, 24 + 3 * 24 + 1)
    mesh.start_control()
    for name in NAMES:
        program, since = mesh.sidecar(name), len(mesh.sidecar(name).events("attested"))
        wait_for("it is refused", lambda p=program: [e for e in refusals(p) if "rejoin_late" in e["reason"]], 90)
        private(mesh.place(name)[2], mesh.token(name))
        back(mesh, name, "attested", since)
    assert mesh.asks(15101)
    mesh.wait_in_sync(len(NAMES))


def test_what_was_seen_of_the_store_outlives_a_restart(mesh):
    """The store goes back to before a revocation, and so does nobody: not even a sidecar that begins with its cache."""
    data = mesh.folder / "control"
    mesh.control.stop()
    copy = (data / "store.db").read_bytes()
    mesh.start_control()
    mesh.wait_in_sync(len(NAMES))
    mesh.ctl("revoke", "subsystem", "gateway", "--wait")
    mesh.control.kill()
    mesh.sidecar("management").kill()
    (data / "store.db").write_bytes(copy)
    mesh.start_control()
    mesh.start_sidecar("management")
    wait_for("all refuse the store", lambda: {w["subsystem"] for w in mesh.ctl_json("accept-restore").get("witnesses", [])} >= {"management", "portal"})
    assert not mesh.asks(15102)
    mesh.ctl("accept-restore", "--confirm", "--drop-revocations")
    wait_for("it is let in again", lambda: mesh.asks(15102), 60)
    mesh.wait_in_sync(len(NAMES))


def test_what_was_seen_of_the_store_outlives_the_certificate(mesh):
    """As before, and the certificates in the caches have expired: with a new one a sidecar goes on where it was."""
    data = mesh.folder / "control"
    mesh.control.stop()
    copy = (data / "store.db").read_bytes()
    mesh.start_control()
    mesh.wait_in_sync(len(NAMES))
    mesh.ctl("revoke", "subsystem", "gateway", "--wait")
    mesh.control.kill()
    for name in ("management", "portal"):
        mesh.sidecar(name).kill()
    forward(mesh, 25, ("gateway",))
    (data / "store.db").write_bytes(copy)
    for name in ("management", "portal"):
        mesh.start_sidecar(name, ready=False)
    mesh.start_control()
    wait_for("both refuse the store", lambda: {w["subsystem"] for w in mesh.ctl_json("accept-restore").get(
        "witnesses", [])} >= {"management", "portal"}, 90)
    assert len(mesh.ctl_json("accept-restore").get("missing", [])) == 1
    for name in NAMES:
        wait_for(f"{name} is ready", mesh.sidecar(name).ready, 90)
    assert mesh.asks(15101) and not mesh.asks(15102)
    mesh.ctl("accept-restore", "--confirm", "--drop-revocations")
    wait_for("it is let in again", lambda: mesh.asks(15102), 60)
    mesh.wait_in_sync(len(NAMES))


@pytest.mark.skipif(not FULL, reason="a rotation waits most of a minute for who has just left; MORTISE_FULL=1")
def test_with_an_expired_cache_a_revoked_issuer_makes_no_control_plane(mesh):
    """Whoever has an issuer that was revoked waits for one that begins anew: it remembers whom it denies, and shows nothing."""
    data = mesh.folder / "control"
    mesh.control.stop()
    copy = (data / "store.db").read_bytes()
    mesh.start_control()
    mesh.wait_in_sync(len(NAMES))
    mesh.ctl("rotate", "issuer", "--wait")
    mesh.ctl("rotate", "control")
    mesh.ctl("revoke", "issuer", mesh.ctl_json("rotate", "status")["retired_issuer_key_sha256"], "--wait")
    mesh.control.stop()
    newer = (data / "store.db").read_bytes()
    mesh.sidecar("management").kill()
    forward(mesh, 25, ("portal", "gateway"))
    (data / "store.db").write_bytes(copy)
    mesh.start_control()
    program = mesh.start_sidecar("management", ready=False)
    wait_for("it refuses who says that he is the control plane", lambda: [
        e for e in program.events() if e["component"] == "uplink" and e.get("error") == "peer_revoked"], 90)
    mesh.control.kill()
    (data / "store.db").write_bytes(newer)
    mesh.start_control()
    for name in NAMES:
        wait_for(f"{name} is ready", mesh.sidecar(name).ready, 90)
    mesh.wait_in_sync(len(NAMES))
    assert mesh.asks(15101) and mesh.asks(15102)


def test_no_key_is_on_the_disk(mesh):
    for name in NAMES:
        cache = mesh.place(name)[0]
        assert sorted(path.name for path in cache.iterdir()) == ["sidecar.cache", "sidecar.mark"]
        for path in cache.iterdir():
            content = path.read_bytes()
            assert path.stat().st_mode & 0o777 == 0o600
            assert b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" not in content and b"mesh.test" not in content
