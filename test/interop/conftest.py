"""Fixtures of the tests against software of others."""
from test.testlib.fixtures import (binaries, folder, pytest_collect_file,  # noqa: F401
                                   pytest_collection_modifyitems, pytest_configure)
