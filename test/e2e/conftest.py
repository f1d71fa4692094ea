"""Fixtures: hosts, a running mesh, that each program is after each test as it was before, and what
test/testlib/fixtures.py has. Drives: R71"""
import os

import pytest

from deploy.lab import netns
from deploy.lab.mesh import SUBSYSTEMS, Mesh
from deploy.lab.traffic import Traffic
from test.testlib import baseline
from test.testlib.fixtures import (binaries, folder, pytest_collect_file,  # noqa: F401
                                   pytest_collection_modifyitems, pytest_configure)


@pytest.fixture(scope="session")
def watch():
    return baseline.watch()


@pytest.fixture(scope="module", autouse=True)
def watching(watch):
    """Before any program of a module starts."""


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request, watch):
    """After each test every program that runs holds no more than before (R71)."""
    failed_before = request.session.testsfailed
    watch.problems.clear()
    marks = watch.marks()
    yield
    if request.session.testsfailed == failed_before:
        watch.compare(marks)
        assert not watch.problems, "\n".join(watch.problems)


@pytest.fixture(scope="module")
def network():
    """The hosts control, management, portal, analytics, gateway."""
    with netns.Network(f"mt{os.getpid()}-", ("control", *SUBSYSTEMS)) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def mesh(folder, network, binaries):
    """A control plane with the four links and a sidecar beside each subsystem, all ready."""
    made = Mesh(folder, network, binaries)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        for program in (*made.sidecars.values(), made.control):
            if program is not None:
                assert program.child.returncode in (0, -9, -15), program.tail(60)


@pytest.fixture(scope="module")
def traffic(mesh):
    """The mesh's applications, with traffic on all four links."""
    made = Traffic(mesh).serve().drive()
    yield made
    made.stop()


@pytest.fixture
def unharmed(traffic):
    """Traffic on every link, and at the end none of it was lost, wrong or refused."""
    before = traffic.totals()
    yield traffic
    traffic.more(5)
    for link, now in traffic.totals().items():
        assert now["dropped"] == before[link]["dropped"], (link, now["problems"])
        assert now["corrupted"] == before[link]["corrupted"], (link, now["problems"])
