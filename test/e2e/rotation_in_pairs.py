"""Without this a rotation would be shown with one sidecar of each subsystem, where a connection that one pair cannot open is
hidden by nobody: with two of each the other one serves, and the application never hears that a pair was cut off. So each
client's sidecar opens connections to each server's all the time, in turn, and none of them may fail, at whichever stage.

Drives: F5, F3, R38, R41"""
import os
import random
import signal
import time
from collections import Counter

import pytest

from deploy.lab import netns
from deploy.lab.mesh import INBOUND_PORT, LINKS, SUBSYSTEMS, Mesh, document
from deploy.lab.programs import wait_for
from deploy.lab.traffic import Traffic
from test.testlib.fixtures import FULL

ROTATIONS = 20 if FULL else 3
KILLS = 50 if FULL else 4
TWIN = "2"
HOSTS = [name + twin for twin in ("", TWIN) for name in SUBSYSTEMS]


@pytest.fixture(scope="module")
def network():
    with netns.Network(f"mp{os.getpid()}-", ("control", *HOSTS)) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def mesh(folder, network, binaries):
    """Eight sidecars, two for each subsystem, each on a host of its own."""
    made = Mesh(folder, network, binaries)
    try:
        made.start_control()
        made.apply(document())
        for host in HOSTS:
            made.start_sidecar(host.removesuffix(TWIN), name=f"proxy-{host}", host=host, ready=False)
        for program in made.sidecars.values():
            program.wait_ready()
        made.wait_in_sync(len(HOSTS))
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def traffic(mesh):
    """Of both of each subsystem; most of it opens a connection for each exchange."""
    both = [Traffic(mesh, 0.05, twin) for twin in ("", TWIN)]
    try:
        for one in both:
            one.serve()
        for one in both:
            one.drive()
        yield both
    finally:
        for one in both:
            one.stop()


def pairs(mesh):
    """{(link, client's host, server's host)}: who has to be able to connect to whom."""
    return {(link, client + a, server + b) for link, client, server, _, _ in LINKS for a in ("", TWIN) for b in ("", TWIN)}


def opened(mesh, marks):
    """How many connections each pair has opened, and ended, since `marks`."""
    at = {f"{mesh.network[host].v4}:{INBOUND_PORT}": host for host in HOSTS}
    return Counter(
        (e["link"], host, at[e["destination"]]) for host in HOSTS
        for e in mesh.sidecars[f"proxy-{host}"].events("connection")[marks[host]:]
        if e["direction"] == "outbound" and "allowed_by" in e and e.get("destination") in at)


def marks_of(mesh):
    return {host: len(mesh.sidecars[f"proxy-{host}"].events("connection")) for host in HOSTS}


def failures(mesh):
    """What any sidecar has counted against a connection: attempts that failed, handshakes that were refused."""
    found = Counter()
    for host in HOSTS:
        for series, value in mesh.sidecars[f"proxy-{host}"].metrics().items():
            if series.startswith("mortise_connect_errors_total") or (
                    series.startswith("mortise_handshakes_total") and 'result="ok"' not in series):
                found[host, series] = value
    return found


@pytest.fixture(autouse=True)
def all_are_there(mesh):
    """After each test each sidecar has its one connection to the control plane: the next test begins with all of them."""
    yield
    wait_for("eight connections", lambda: mesh.control.metrics()["mortise_control_connections"] == len(HOSTS), 60)


@pytest.fixture
def each_pair_connects(mesh, traffic):
    """At the end nothing was lost, wrong or refused anywhere, whichever pair it was, and there was no pair that did not try."""
    def totals():
        return {(one.twin, link): t for one in traffic for link, t in one.totals().items()}

    before, counted, marks = totals(), failures(mesh), marks_of(mesh)
    yield
    wait_for("each pair has opened one after it was over", lambda m=marks_of(mesh): set(opened(mesh, m)) == pairs(mesh), 120)
    for key, now in totals().items():
        assert now["dropped"] == before[key]["dropped"], (key, now["problems"])
        assert now["corrupted"] == before[key]["corrupted"], (key, now["problems"])
    assert failures(mesh) - counted == Counter()
    seen = opened(mesh, marks)
    print(f"\n{sum(seen.values())} connections of {len(seen)} pairs; the least of a pair {min(seen.values())}")


def rotation(mesh):
    return mesh.ctl_json("rotate", "status")


def test_roots_in_a_row_with_two_of_each(mesh, each_pair_connects):
    roots = [rotation(mesh)["signing_sha256"]]
    for _ in range(ROTATIONS):
        marks = marks_of(mesh)
        said = mesh.ctl("rotate", "root", "--spread", "1s", "--wait").stdout
        assert said.splitlines()[-1].startswith("done"), said
        roots.append(rotation(mesh)["signing_sha256"])
        # Each pair has met since it began; on a machine that is slow, a little after it ended.
        wait_for("each pair has met", lambda m=marks: set(opened(mesh, m)) == pairs(mesh), 120)
    assert len(set(roots)) == ROTATIONS + 1


def test_a_new_issuer_with_two_of_each(mesh, each_pair_connects):
    for _ in range(3 if FULL else 1):
        mesh.ctl("rotate", "issuer", "--spread", "1s", "--wait")


def test_the_control_plane_is_killed_at_random_moments(mesh, each_pair_connects):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"\nseed {seed}")
    began, stages = int(rotation(mesh)["number"]), Counter()
    for _ in range(KILLS):
        if rotation(mesh)["stage"] == "idle":
            mesh.ctl("rotate", rng.choice(("root", "issuer")))
        time.sleep(rng.choice((0.05, 0.5, 3)) * rng.random())  # the random moment
        mesh.control.signal(signal.SIGKILL)
        mesh.control.wait(20)
        mesh.start_control()
        state = rotation(mesh)
        stages[state["kind"], state["stage"]] += 1
    wait_for("the last one has ended", lambda: rotation(mesh)["stage"] == "idle", 180)
    print(f"killed in {stages}; {int(rotation(mesh)['number']) - began} rotations")
    mesh.wait_in_sync(len(HOSTS))
