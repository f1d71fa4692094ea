"""Without this a mesh that lets strangers in looks just like one that does not: each attempt that must fail is
made on a running mesh, and the traffic beside it goes on.

Drives: R3, R5, R10, R13, R36, R44, A9, F2, D3, R9, R62"""
import pytest

from deploy.lab.refusals import Refusals


@pytest.fixture(scope="module")
def refusals(mesh, traffic):
    made = Refusals(mesh)
    made.prepare()
    return made


@pytest.mark.parametrize("attempt", Refusals.ALL, ids=lambda attempt: attempt.__name__)
def test_refused(refusals, attempt):
    what, held, seen = attempt(refusals)
    assert held, f"{what}: {seen}"


def test_traffic_beside_it_was_not_disturbed(traffic):
    traffic.more(10)
    traffic.finish()
    assert traffic.losses() == []
