"""Without this the check that follows every test, that nothing is left behind, could have gone blind: a connection that stays
open is seen by it in every number, in memory, too, and no longer when it has gone.

Drives: R71"""
import contextlib

from test.testlib import baseline
from test.testlib.arena import accept, dial, listen
from test.testlib.baseline import Held
from test.testlib.fixtures import CONFIG
from test.testlib.static import StaticPair

NUM = 200


def test_what_is_left_is_seen(folder, binaries, watch, monkeypatch):
    pair = StaticPair(folder, binaries)
    try:
        pair.start()
        with listen(pair.target_port) as target, contextlib.ExitStack() as stack:
            marks = watch.marks()
            assert set(marks) >= set(pair.programs.values())
            for _ in range(NUM):
                stack.enter_context(dial(pair.app_port))
                stack.enter_context(accept(target))
            for program in pair.programs.values():
                seen = Held.by(program).more_than(marks[program])
                for what in ("fds", "connections", "timers"):
                    assert f"{what}: " in seen, seen
                assert CONFIG != "opt" or "memory_kib: " in seen, seen

            monkeypatch.setattr(baseline, "DEADLINE_S", 0.1)
            watch.compare(marks)
            assert len(watch.problems) == len(pair.programs), watch.problems
            assert "connections: 200, expected 0" in watch.problems[0]
            watch.problems.clear()
            monkeypatch.undo()
        watch.compare(marks)
        assert watch.problems == []
    finally:
        pair.stop()
