"""Memory and descriptors of programs over time, and what their logs say."""
import collections
import json
import os
import statistics
from pathlib import Path

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class Series:
    """Samples of one process: seconds since the soak began, resident and anonymous KiB, descriptors."""

    def __init__(self, name, pid, idle_fds):
        self.name, self.pid, self.idle_fds = name, pid, idle_fds
        self.at, self.rss, self.anon, self.fds = [], [], [], []

    def add(self, at, program):
        try:
            rss = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_KIB
            anon, fds = program.memory_kib(), program.fds()
        except (OSError, AttributeError):
            return  # it has just ended
        for values, value in ((self.at, at), (self.rss, rss), (self.anon, anon), (self.fds, fds)):
            values.append(value)

    def after(self, warm_s):
        """What was sampled once the process had run that long, as a Series."""
        first = next((i for i, at in enumerate(self.at) if at >= self.at[0] + warm_s), len(self.at))
        rest = Series(self.name, self.pid, self.idle_fds)
        rest.at, rest.rss, rest.anon, rest.fds = (
            values[first:] for values in (self.at, self.rss, self.anon, self.fds))
        return rest

    def slope_kib_h(self, values):
        """Theil and Sen's: the median of the slopes between samples, which single peaks do not move."""
        step = max(1, len(values) // 200)
        at, values = self.at[::step], values[::step]
        slopes = [(values[j] - values[i]) / (at[j] - at[i])
                  for i in range(len(at)) for j in range(i + 1, len(at)) if at[j] > at[i]]
        return statistics.median(slopes) * 3600 if slopes else 0.0

    def quarters(self, values):
        """Median of the first quarter, and of the last."""
        part = max(1, len(values) // 4)
        return statistics.median(values[:part]), statistics.median(values[-part:])

    def summary(self):
        first, last = self.quarters(self.anon)
        return {"name": self.name, "pid": self.pid, "minutes": round((self.at[-1] - self.at[0]) / 60, 1),
                "samples": len(self.at), "rss_kib": [self.rss[0], self.rss[-1]],
                "rss_slope_kib_h": round(self.slope_kib_h(self.rss), 1),
                "anon_kib_quarters": [first, last],
                "anon_slope_kib_h": round(self.slope_kib_h(self.anon), 1),
                "fds_quarters": list(self.quarters(self.fds)), "fds_max": max(self.fds),
                "fds_idle": self.idle_fds}


class Watch:
    def __init__(self):
        self.series = {}
        self.idle = {}

    def idle_now(self, programs):
        """Remembers descriptors as they are without traffic."""
        self.idle = {program.name: program.fds() for program in programs}

    def sample(self, at, programs):
        for program in programs:
            key = (program.name, program.pid)
            if key not in self.series:
                self.series[key] = Series(*key, self.idle.get(program.name))
            self.series[key].add(at, program)

    def of(self, program):
        return self.series[(program.name, program.pid)]


class AccessLogs:
    """The sidecars' access logs, renamed now and then (SIGHUP opens anew) and counted by reason."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.reasons = collections.Counter()
        self.errors = collections.Counter()
        self.lines = 0

    def path(self, name):
        return self.folder / f"{name}.access"

    def _count(self, path):
        with open(path, errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # a process that was killed has left half a line
                self.lines += 1
                self.reasons[f"{entry.get('direction')} {entry.get('reason')}"] += 1
                if entry.get("error"):
                    self.errors[f"{entry.get('direction')} {entry['error']}"] += 1
        path.unlink()

    def turn(self, sidecars):
        """Counts what was renamed the last time, and renames again: by now nobody writes to it."""
        self.finish(renamed_only=True)
        for sidecar in sidecars:
            path = self.path(sidecar.name)
            if path.exists():
                path.rename(path.with_suffix(".old"))
                sidecar.signal(1)

    def finish(self, renamed_only=False):
        for path in self.folder.glob("*.access.old" if renamed_only else "*.access*"):
            self._count(path)
        for path in self.folder.glob("*.old"):
            self._count(path)


def told(programs):
    """{"program level event": number} of the warnings and errors in the logs."""
    counts = collections.Counter()
    for program in programs:
        for entry in program.events():
            if entry.get("level") in ("warn", "error"):
                what = entry.get("event") or entry.get("error") or entry.get("msg") or "?"
                counts[f"{program.name} {entry['level']} {entry.get('component')} {what}"] += 1
    return dict(counts)
