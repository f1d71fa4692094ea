"""Requirements against the tests that drive them.

docs/requirements.md has a table row per requirement: `| id | what | state |`, state one of done, part,
later. A test names the rows it drives in a line `Drives: R14, F1, A2` of its head comment."""
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| ([A-FR]\d+) \| (.*?) \| (done|part|later)\b(.*?)\|\s*$", re.M)
DRIVES = re.compile(r"Drives:((?:\s*(?:\*|#)?\s*[A-FR]\d+(?:\s*,)?)+)")
KINDS = {".c", ".py", ".sh", ""}


def requirements():
    """id -> (text, state), in the order of the document."""
    text = (ROOT / "docs" / "requirements.md").read_text()
    return {row[0]: (row[1], row[2]) for row in ROW.findall(text)}


def tests():
    """id -> the test files that name it."""
    found = defaultdict(list)
    for path in sorted((ROOT / "test").rglob("*")):
        relative = path.relative_to(ROOT)
        if not path.is_file() or path.suffix not in KINDS or "out" in relative.parts:
            continue
        if path.name in ("matrix.py", "runner.py"):
            continue
        head = path.read_text(errors="replace")[:6000]
        for listed in DRIVES.findall(head):
            for name in re.findall(r"[A-FR]\d+", listed):
                if str(relative) not in found[name]:
                    found[name].append(str(relative))
    return found


def problems():
    rows, driven = requirements(), tests()
    found = [f"{', '.join(paths)}: no requirement {name}"
             for name, paths in driven.items() if name not in rows]
    found += [f"{name} is said to be {state}, but no test drives it"
              for name, (_, state) in rows.items() if state != "later" and name not in driven]
    return found


def order(name):
    return name[0], int(name[1:])


def show():
    rows, driven = requirements(), tests()
    for name, (text, state) in rows.items():
        print(f"{name:4} {state:5} {text[:90]}")
        for path in driven.get(name, []):
            print(f"           {path}")
    found = problems()
    for problem in found:
        print(f"PROBLEM: {problem}")
    counts = {state: sum(1 for row in rows.values() if row[1] == state)
              for state in ("done", "part", "later")}
    print(f"{len(rows)} requirements: " +
          ", ".join(f"{number} {state}" for state, number in counts.items()) +
          f"; {sum(1 for name in rows if name in driven)} have tests")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(show())
