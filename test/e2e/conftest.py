"""Fixtures: hosts, a running mesh, and what test/testlib/fixtures.py has."""
import os

import pytest

from deploy.lab import netns
from deploy.lab.mesh import SUBSYSTEMS, Mesh
from test.testlib.fixtures import (binaries, folder, pytest_collect_file,  # noqa: F401
                                   pytest_collection_modifyitems, pytest_configure)


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
