"""Without this a host in trouble would take its traffic down: a sidecar out of descriptors, paused, killed or told to
end loses at worst the connections that cannot be saved, says why, and is back at once.

Under load all the while: streams that live on, and a new connection every few milliseconds; every byte is checked.

Drives: R14, R15, R71, F2, F3, F12, F18"""
import contextlib
import os
import random
import resource
import signal
import socket
import time

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import wait_for
from deploy.lab.traffic import Traffic
from test.testlib.cpu import cpu_s
from test.testlib.fixtures import FULL
from test.testlib.load import STREAMS, dial, loaded, through


# Descriptors.

TURNED_AWAY = 'mortise_connections_shed_total{limit="resources"}'


def test_without_descriptors_open_connections_go_on(folder, binaries):
    """EMFILE: what is open is served, what is new is ended or waits, and when there are some again all is well."""
    with loaded(folder, binaries, "emfile") as (pair, load):
        load.intact()
        for side in ("client", "server"):
            program = pair[side]
            limits = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (program.fds() + 6, limits[1]))
            crowd = []

            def told():
                with contextlib.suppress(OSError):  # silent ones take what is left
                    crowd.append(dial(pair.tls_port if side == "server" else pair.app_port))
                return program.events("accept_failed") + [
                    e for e in pair.lines(side) if e["reason"] == "resources"]

            wait_for("the reason is told", told, 30)
            load.rounds(2)
            assert program.alive() and load.lost()[0] == 0
            resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limits)
            for sock in crowd:
                sock.close()
            wait_for("new ones come through", lambda: through(pair.app_port), 30)
            if program.events("accept_failed"):
                assert program.metrics()[TURNED_AWAY] > 0
            load.more()  # the last of those that were under way are counted by now
            lost = load.lost()
            load.more()
            assert load.lost() == lost
        load.finish(connections_too=False)


# Signals.


def test_a_paused_sidecar_goes_on_where_it_was(folder, binaries):
    """SIGSTOP and SIGCONT: nothing is lost, neither what was open nor what came meanwhile, as no deadline passed."""
    with contextlib.ExitStack() as stack:
        paused = []
        for side in ("client", "server"):  # of two pairs, side by side
            pair, load = stack.enter_context(loaded(folder, binaries, f"pause-{side}", streams=STREAMS // 2,
                                                    handshake_timeout="30s", connect_timeout="20s"))
            exchanges = load.long.totals()["exchanges"]
            pair[side].signal(signal.SIGSTOP)
            app = stack.enter_context(dial(pair.app_port))  # the kernel accepts for it
            app.sendall(b"meanwhile")
            paused.append((pair[side], load, app, exchanges))
        stopped = time.monotonic()
        wait_for("five seconds", lambda: time.monotonic() > stopped + 5)
        for program, load, app, exchanges in paused:
            assert load.long.totals()["exchanges"] <= exchanges + STREAMS, "it is not paused"
            program.signal(signal.SIGCONT)
            app.settimeout(30)
            assert app.recv(9, socket.MSG_WAITALL) == b"meanwhile"
            app.close()
        for _, load, _, _ in paused:
            load.more()
            load.finish()


@pytest.mark.full
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_minute_of_pause(folder, binaries, side):
    """Deadlines pass: those who waited too long are told so, what was open goes on."""
    with loaded(folder, binaries, f"minute-{side}") as (pair, load):
        load.long.finish()
        load.intact()
        with dial(pair.app_port) as app:
            app.sendall(b"before")
            assert app.recv(6, socket.MSG_WAITALL) == b"before"
            pair[side].signal(signal.SIGSTOP)
            stopped = time.monotonic()
            wait_for("a minute", lambda: time.monotonic() > stopped + 60, 90)
            pair[side].signal(signal.SIGCONT)
            app.sendall(b"after")
            assert app.recv(5, socket.MSG_WAITALL) == b"after"
        wait_for("new ones come through", lambda: through(pair.app_port), 30)
        assert load.short.totals()["corrupted"] == 0
        spent, began = cpu_s(pair[side].pid), time.monotonic()
        load.short.process.kill()
        wait_for("a while to measure", lambda: time.monotonic() > began + 5)
        assert cpu_s(pair[side].pid) - spent < 2


@pytest.mark.sanitize
@pytest.mark.parametrize("side", ["client", "server"] if FULL else ["client"])
def test_sigterm_under_load_drains(folder, binaries, side):
    """Streams come to their own end, and SIGHUP in between opens nothing again."""
    with loaded(folder, binaries, f"drain-{side}", drain_timeout="60s") as (pair, load):
        pair[side].signal(signal.SIGTERM)
        wait_for("no new ones", lambda: not through(pair.app_port))
        load.short.process.kill()
        pair[side].signal(signal.SIGHUP)
        load.rounds(2)
        assert not through(pair.app_port)
        assert pair[side].alive()
        load.long.finish()
        load.intact(connections_too=False)
        assert pair[side].wait(20) == 0
        assert pair[side].events("drained")[-1]["cut_off"] == 0
        pair.start(side)
        assert through(pair.app_port)


def test_killed_again_and_again_it_is_back_within_two_seconds(folder, binaries):
    """SIGKILL at random moments: what was open is lost, and told as lost; no byte is ever wrong."""
    rounds = 200 if FULL else 4
    seed = int(os.environ.get("MORTISE_SEED", random.randrange(1 << 32)))
    print(f"MORTISE_SEED={seed}")
    dice = random.Random(seed)
    # No streams: each round would end them all.
    with loaded(folder, binaries, "kill", streams=0) as (pair, load):
        times = []
        for _ in range(rounds):
            side = dice.choice(("client", "server"))
            moment = time.monotonic() + dice.uniform(0, 0.3)
            wait_for("the moment", lambda: time.monotonic() > moment, every_s=0.002)
            pair[side].kill()
            began = time.monotonic()
            pair.start(side)
            wait_for("it serves", lambda: through(pair.app_port), 30)
            times.append(time.monotonic() - began)
            done = load.short.totals()["short"]
            wait_for("the load goes on", lambda: load.short.totals()["short"] > done + 5, 60)
        load.short.finish()
        assert load.short.totals()["corrupted"] == 0, load.short.totals()
        assert sorted(times)[len(times) // 2] < 2, times


def test_a_paused_control_plane_and_a_paused_sidecar_catch_up(mesh):
    """Traffic needs no control plane; a sidecar that slept through changes has the last of them, and none before it."""
    traffic = Traffic(mesh).serve()
    try:
        traffic.drive()
        mesh.control.signal(signal.SIGSTOP)
        traffic.more(30)
        mesh.control.signal(signal.SIGCONT)
        mesh.ctl("rotate", "--all", "--wait")
        program = mesh.sidecar("management")
        # The last is like none before it: what ends as it began is no change, if nobody saw what was between.
        changes = [document(client=change) for change in (
            *({"min_version": version} for version in ("TLS1_2", "TLS1_3") * 4), {"groups": ["P-256"]})]
        known = len(program.events("applied"))
        program.signal(signal.SIGSTOP)
        for change in changes:
            mesh.apply(change)
        program.signal(signal.SIGCONT)
        mesh.wait_in_sync(4)
        versions = [e["version"] for e in program.events("applied")]
        assert versions == sorted(versions) and versions[-1] == mesh.version()
        # What was under way when it fell asleep, what was the newest when it woke, and the last.
        assert len(versions[known:]) <= 3 < len(changes), "what it slept through is not worked off one by one"
        traffic.more(10)
        traffic.finish()
        assert traffic.losses() == []
    finally:
        traffic.stop()
