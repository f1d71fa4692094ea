"""What the conftest.py of end-to-end and interoperability tests share."""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

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
            if item.get_closest_marker("full"):  # no keyword: the folders that a test lies in are such, too
                item.add_marker(skip)


def pytest_collect_file(file_path, parent):
    """Every .py file is a test file, one behaviour each; those that pytest takes by itself are left to it."""
    if file_path.suffix != ".py" or file_path.name in ("conftest.py", "__init__.py"):
        return None
    if file_path.match("test_*.py") or file_path.match("*_test.py"):
        return None
    if parent.session.isinitpath(file_path):
        return None
    return pytest.Module.from_parent(parent, path=file_path)


@pytest.fixture(scope="session")
def binaries():
    found = Binaries()
    found.check("proxy")
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
