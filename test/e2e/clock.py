"""Without this a clock set wrong would end sessions, keep dead certificates alive or burn a processor: timers go by
the monotonic clock, certificates are judged by the wall clock, and when it is right again so is everything else.

The programs' wall clock is moved under load, by a library preloaded into them.

Drives: R9, R11, R15, R37, R40, F3, F12, F13"""
import contextlib
import os
import signal
import time

import pytest

from deploy.lab import netns
from deploy.lab.mesh import Mesh
from deploy.lab.programs import Program, admin, wait_for
from test.testlib.clock_jump import ClockJump
from test.testlib.cpu import cpu_s
from test.testlib.echo_app import EchoApp
from test.testlib.fixtures import CONFIG
from test.testlib.load import DAY, ID, dial, loaded, through
from test.testlib.static import StaticPair

pytestmark = pytest.mark.skipif(CONFIG != "opt", reason="a sanitizer wants to be loaded first")
HOUR, YEAR = 3600, 365 * DAY
OTHER = {"client": "server", "server": "client"}


def handshakes(pair, side, result):
    name = f'mortise_handshakes_total{{direction="{"outbound" if side == "client" else "inbound"}",result="{result}"}}'
    return pair[side].metrics().get(name, 0)


@pytest.mark.parametrize("side", ["client", "server"])
def test_no_certificate_is_used_that_expired_during_a_pause(folder, binaries, side):
    """What waits in the queue is newer than the clock that the sidecar last looked at."""
    inside = folder / f"expire-{side}"
    inside.mkdir()
    clock = ClockJump(inside)
    pair = StaticPair(inside, binaries, env=clock.env)
    with EchoApp(pair.target_port) as app, contextlib.ExitStack() as stack:
        stack.callback(pair.stop)
        for which, hours in ((side, 1), (OTHER[side], 3)):
            pair.renew(which, pair.ca.issue(ID + which, valid_s=hours * HOUR))
        pair.start()
        assert through(pair.app_port)
        pair[side].signal(signal.SIGSTOP)
        wait_for("it is stopped", pair[side].is_stopped)
        clock.set(HOUR + 60)
        seen = app.bytes
        waiting = [dial(pair.app_port) for _ in range(20)]
        for sock in waiting:
            sock.sendall(b"late")
        pair[side].signal(signal.SIGCONT)
        for sock in waiting:
            with sock, contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert app.bytes == seen
        pair.renew(side, pair.ca.issue(ID + side, valid_s=3 * HOUR))
        wait_for("and with a new one it serves", lambda: through(pair.app_port), 20)


def test_a_clock_that_jumps(folder, binaries):
    """Both sidecars' clocks: timers are of the monotonic clock, certificates are judged by the wall clock."""
    clock = ClockJump(folder)
    with loaded(folder, binaries, "jumps", env=clock.env, idle_timeout="1h") as (pair, load):

        for hours in (1, -1, 30, -30):
            clock.set(hours * HOUR)
            load.more()
            load.intact()
            assert pair["client"].ready() and pair["server"].ready()
        # A year: certificates have expired, or do not begin until then. What is open goes on.
        for jump, error, unready in ((YEAR, "shed", True), (-YEAR, "cert_not_yet_valid", False)):
            spent = {side: cpu_s(pair[side].pid) for side in pair.programs}
            clock.set(jump)
            wait_for("new ones are refused", lambda: not through(pair.app_port), 20)
            load.short.process.signal(signal.SIGSTOP)
            began = time.monotonic()
            load.rounds(3)
            lasted = time.monotonic() - began
            if unready:
                assert all(not ready(pair[side]) for side in pair.programs)
                assert pair["client"].metrics()[
                    'mortise_connections_shed_total{limit="certificate_expired"}'] > 0
            else:
                assert handshakes(pair, "client", error) > 0
            for side, was in spent.items():
                assert cpu_s(pair[side].pid) - was < 1 + lasted / 2, f"{side} spins"
            clock.set(0)
            wait_for("new ones come through again", lambda: through(pair.app_port), 20)
            wait_for("it is ready", lambda: all(ready(pair[side]) for side in pair.programs), 20)
            load.short.process.signal(signal.SIGCONT)
            load.more()
            assert load.lost()[0] == 0
        # Deadlines were of the monotonic clock: nobody was idle, nobody's handshake took a year.
        reasons = {line["reason"] for side in pair.programs for line in pair.lines(side)}
        assert not reasons & {"idle", "handshake_timeout", "stalled", "connect_timeout"}, reasons
        load.finish(connections_too=False)


def ready(program):
    return admin(program.admin_socket, "/readyz")[0] == 200


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_clock_that_is_wrong_on_one_side(folder, binaries, side):
    """Five minutes of skew are nothing; a year is refused at that side, with the reason."""
    inside = folder / f"skew-{side}"
    inside.mkdir()
    clock = ClockJump(inside)
    pair = StaticPair(inside, binaries)
    with contextlib.ExitStack() as stack:
        stack.enter_context(EchoApp(pair.target_port))
        stack.callback(pair.stop)
        other = OTHER[side]
        pair.start(other)
        pair.env = clock.env
        pair.start(side)
        for skew in (0, 300, -300):
            clock.set(skew)
            assert through(pair.app_port), skew
        clock.set(-YEAR)
        assert not through(pair.app_port)
        line = pair.new_line(side, reason="peer_certificate")
        assert line["error"] == "cert_not_yet_valid" and abs(line["error_sub"] - YEAR) < 3600
        clock.set(YEAR)
        assert not through(pair.app_port)
        wait_for("it is not ready", lambda: not ready(pair[side]), 20)
        assert ready(pair[other])
        clock.set(0)
        wait_for("it serves again", lambda: through(pair.app_port), 20)


def renewals(program, result):
    return program.metrics().get(f'mortise_certificate_renewals_total{{result="{result}"}}', 0)


@pytest.mark.full
def test_renewal_follows_the_clock_and_does_not_run_wild(mesh, network):
    """A sidecar with a control plane whose own clock jumps: past the time to renew, past all certificates, and back."""
    clock = ClockJump(mesh.folder)
    mesh.sidecars.pop("proxy-analytics").stop()
    program = Program("proxy-analytics-clock", mesh.sidecar_argv("analytics"), mesh.folder,
                      network["analytics"],
                      env={"MORTISE_JOIN_TOKEN": mesh.token("analytics"), **clock.env})
    mesh.sidecars["proxy-analytics"] = program
    program.wait_ready()
    assert renewals(program, "failed") == 0
    done = renewals(program, "ok")
    clock.set(20 * HOUR)  # of 24
    wait_for("it renews", lambda: renewals(program, "ok") > done, 60)
    assert ready(program)
    for jump in (YEAR, -YEAR):
        tried, spent = renewals(program, "ok") + renewals(program, "failed"), cpu_s(program.pid)
        clock.set(jump)
        if jump > 0:
            wait_for("it is not ready", lambda: not ready(program), 20)
        began = time.monotonic()
        wait_for("a while to count", lambda: time.monotonic() > began + 3)
        now = renewals(program, "ok") + renewals(program, "failed")
        assert now - tried <= 12, f"{now - tried} attempts in seconds"
        assert cpu_s(program.pid) - spent < 1
        clock.set(0)
        wait_for("it is ready again", lambda: ready(program), 60)
    mesh.wait_in_sync(4)
    mesh.ctl("rotate", "analytics", "--wait")


@pytest.fixture
def other_network():
    """The module's hosts may have a mesh on them."""
    with netns.Network(f"mc{os.getpid()}-", ("control", "management", "portal")) as hosts:
        yield hosts


def test_a_control_plane_whose_clock_goes_back_issues_nothing(folder, other_network, binaries):
    """It says why, traffic goes on, and with the right time it issues again; no serial comes twice."""
    clock = ClockJump(folder)
    mesh = ClockedMesh(folder / "clocked", other_network, binaries, clock)
    try:
        mesh.start(None, ("management", "portal"))
        traffic = mesh.sidecar("portal").config()["identity"]["serial"]
        mesh.ctl("rotate", "portal", "--wait")
        serials = {traffic, mesh.sidecar("portal").config()["identity"]["serial"]}
        for jump in (-HOUR, -YEAR):
            program, known = mesh.sidecar("portal"), len(mesh.control.events("handshake_failed"))
            failed = renewals(program, "failed")
            clock.set(jump)
            mesh.ctl("rotate", "portal", check=False)
            # By the CA; or, when the sidecar has just changed to its new certificate, at the door: not yet valid there.
            wait_for("it is refused", lambda: renewals(program, "failed") > failed or
                     mesh.control.events("handshake_failed")[known:], 60)
            assert mesh.sidecar("portal").config()["identity"]["serial"] in serials
            assert ready(mesh.sidecar("portal"))
            assert any(word in mesh.control.tail(50) for word in ("clock_backwards", "cert_not_yet_valid"))
            clock.set(0)
            wait_for("it renews", lambda: mesh.sidecar("portal").config()["identity"]["serial"] not in serials, 90)
            serials.add(mesh.sidecar("portal").config()["identity"]["serial"])
        mesh.ctl("rotate", "--all", "--wait")
    finally:
        mesh.stop()


class ClockedMesh(Mesh):
    """The control plane has the clock."""

    def __init__(self, folder, network, binaries, clock):
        super().__init__(folder, network, binaries)
        self.clock = clock

    def start_control(self):
        os.environ |= self.clock.env
        try:
            return super().start_control()
        finally:
            for key in self.clock.env:
                os.environ.pop(key)
