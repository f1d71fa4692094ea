"""Processes of a run: started on one core, measured through /proc, gone at the end."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

_LISTEN = "0A"  # st column of /proc/net/tcp
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def cores():
    """(core of the relays, core of the load); the same one twice on a machine that has one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]


def descriptors():
    """How many a process that we start may have: root may ask for more than the hard limit, unless
    the machine says no."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, 65536)))
    except (ValueError, OSError):
        return hard
    return max(hard, 65536)


def extend_path():
    """haproxy and nginx lie where a plain user's PATH does not look."""
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def listening(port):
    """Whether anything listens on a TCP port. Read from /proc: a connection made to find out
    would be relayed."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False


def wait_until(what, condition, seconds=10.0):
    """Polls `condition` until it is true; an error that says `what` did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def descendants(pid):
    """A process and all below it, by number."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return sorted(found)


def prepare(core):
    """For preexec_fn: the child runs on `core`, has all descriptors it may have, and
    dies with us."""
    parent = os.getpid()

    def in_child():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)
        os.sched_setaffinity(0, {core})
        most = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return in_child


class Process:
    """One program and its children. Use as a context manager, or call stop."""

    def __init__(self, name, argv, log, core, env=None):
        self.name, self.log = name, Path(log)
        with open(self.log, "ab") as out:
            self._popen = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                preexec_fn=prepare(core), start_new_session=True, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def alive(self):
        return self._popen.poll() is None

    def wait_listening(self, port, seconds=20.0):
        def ready():
            if not self.alive():
                raise RuntimeError(f"{self.name} ended with status {self._popen.returncode}: "
                                   f"{self.log_tail()}")
            return listening(port)

        wait_until(f"{self.name} listens on {port}", ready, seconds)

    def log_tail(self, lines=5):
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(text[-lines:]) or "(it said nothing)"

    def pids(self):
        return descendants(self._popen.pid)

    def memory_kib(self):
        """Memory of all its processes: {"Pss": ..., "Pss_Anon": ...} in KiB."""
        sums = {"Pss": 0, "Pss_Anon": 0}
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0])
        return sums

    def settled_memory_kib(self, seconds=3.0):
        """memory_kib once it has stopped moving: three readings within 1 % (or 16 KiB)."""
        deadline = time.monotonic() + seconds
        seen = []
        while True:
            seen = (seen + [self.memory_kib()])[-3:]
            pss = [m["Pss"] for m in seen]
            if len(seen) == 3 and max(pss) - min(pss) <= max(16, 0.01 * max(pss)):
                return seen[-1]
            if time.monotonic() > deadline:
                return seen[-1]
            time.sleep(0.1)

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def stop(self):
        if self._popen.returncode is not None:
            return
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self._popen.pid, number)
            except ProcessLookupError:
                pass
            try:
                self._popen.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        try:  # what it forked and left behind
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
