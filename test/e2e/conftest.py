"""Fixtures: hosts, a running mesh, folders that are kept when a test fails."""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from deploy.lab import netns
from deploy.lab.mesh import SUBSYSTEMS, Mesh
from deploy.lab.programs import Binaries

# A sanitized build is several times slower: what is a count in the tests is divided, deadlines are not.
CONFIG = os.environ.get("MORTISE_CONFIG", "opt")
FULL = os.environ.get("MORTISE_FULL") == "1"

# Every report of a sanitizer ends the process with a status that the tests see.
os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=1:exitcode=99:halt_on_error=1")
os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1:exitcode=99")
os.environ.setdefault("TSAN_OPTIONS", "halt_on_error=1:exitcode=99:second_deadlock_stack=1")


def pytest_configure(config):
    config.addinivalue_line("markers", "sanitize: also run on ASan and TSan builds")
    config.addinivalue_line("markers", "full: only with test/run --full")


def pytest_collection_modifyitems(config, items):
    if not FULL:
        skip = pytest.mark.skip(reason="long: test/run --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


def pytest_collect_file(file_path, parent):
    """Every .py file here but this one is a test file: one behaviour each."""
    if file_path.suffix == ".py" and file_path.name not in ("conftest.py", "__init__.py") and \
            file_path.parent.name == "e2e":
        return pytest.Module.from_parent(parent, path=file_path)
    return None


@pytest.fixture(scope="session")
def binaries():
    found = Binaries()
    found.check()
    return found


@pytest.fixture(scope="module")
def folder(request):
    """A folder for one test file's processes; kept, and named, when one of its tests failed."""
    path = Path(tempfile.mkdtemp(prefix="mortise-e2e-"))
    failed_before = request.session.testsfailed
    yield path
    if request.session.testsfailed > failed_before:
        print(f"\nkept: {path}")
    else:
        shutil.rmtree(path, ignore_errors=True)


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
