"""What a program holds when nothing is asked of it, and that it comes back to it after each test: descriptors,
connections, timers, memory (R71).

`Watch` is told by deploy.lab.programs of every program that became ready or is about to be stopped; the fixture in
test/e2e/conftest.py has it compare around each test. A program that a test started itself is compared with how it was when
it became ready, just before it is stopped; the test's own connections are ended first."""
import contextlib
import ctypes
import json
import os
import re
import socket
import sys
from dataclasses import dataclass, replace
from http.client import HTTPException

from deploy.lab.programs import LabError, Program, _UnixConnection, wait_for
from test.testlib.fixtures import CONFIG

# Memory that a test may leave behind, KiB: the allocator's, caches of peers, buffers grown once. What is lost with each
# connection adds up over a file's tests: they are also held against how the program was when it became ready.
MEMORY_SLACK, MEMORY_SLACK_LIFE = 2 << 10, 6 << 10
# With a load running that opens connections all the time there are now a few more, now a few less; when its programs are
# stopped all have to be gone.
LOAD_SLACK = 8
# Of a control plane at the moment of asking: its store's journal is open or not, and a connection that has ended is still
# counted or not.
CONTROL_SLACK = 2
DEADLINE_S = 30


def is_proxy(program):
    return "proxy" in program.name or "victim" in program.name


@dataclass
class Held:
    fds: int  # less those of listeners and of the control channel, which follow the configuration
    connections: int
    timers: int
    memory_kib: int

    @classmethod
    def by(cls, program):
        """What it holds now. The pages are fetched over one connection, which is still open when descriptors are
        counted: always one of them is ours."""
        asked = _UnixConnection(program.admin_socket)

        def get(page):
            asked.request("GET", page)
            answer = asked.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                raise LabError(f"{program.name} {page}: {answer.status}")
            return text

        try:
            if is_proxy(program):
                config, open_now = json.loads(get("/config")), json.loads(get("/connections"))
                # A listener has its socket and one descriptor in reserve.
                explained = 2 * len(config.get("listeners", ())) + \
                    bool(config.get("control", {}).get("connected"))
                connections, timers = open_now["total"], open_now["timers"]
            else:
                found = re.search(r"^mortise_control_connections (\d+)", get("/metrics"), re.M)
                explained, connections, timers = int(found[1]), 0, 0  # sidecars come and go
            return cls(program.fds() - explained, connections, timers, program.memory_kib())
        finally:
            asked.close()

    def more_than(self, limit):
        """What of it is more than that, as text; empty when nothing is."""
        # A sanitizer keeps freed memory on purpose.
        return ", ".join(f"{what}: {getattr(self, what)}, expected {getattr(limit, what)}"
                         for what in ("fds", "connections", "timers", "memory_kib")
                         if getattr(self, what) > getattr(limit, what)
                         and (what != "memory_kib" or CONFIG == "opt"))


def hang_up(ports):
    """Aborts this process's TCP connections to these ports, whoever holds them."""
    libc = ctypes.CDLL(None, use_errno=True)
    nowhere = (ctypes.c_char * 16)()  # AF_UNSPEC: connect(2) dissolves the association
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed meanwhile
        with sock:
            try:
                if sock.type == socket.SOCK_STREAM and sock.getpeername()[1] in ports:
                    libc.connect(sock.fileno(), nowhere, len(nowhere))
            except (OSError, TypeError, IndexError):
                pass  # not connected, or not to a port


class Watch:
    """The programs that became ready and were not told to end, and how each was then."""

    def __init__(self):
        self.first = {}  # program: Held
        self.problems = []

    def ready(self, program):
        if program not in self.first:
            self.first[program] = Held.by(program)

    def running(self):
        self.first = {program: held for program, held in self.first.items()
                      if program.alive() and not program.told_to_end}
        return list(self.first)

    def stopping(self, program):
        """Before it is stopped: back to how it was when it became ready, once nobody calls."""
        if program not in self.running() or sys.exc_info()[0] is not None:
            return
        for running in self.running():
            try:
                listeners = json.loads(running.get("/config"))["listeners"]
            except (LabError, OSError, ValueError, KeyError):
                continue
            hang_up({int(listener["address"].rsplit(":", 1)[1]) for listener in listeners})
        first = self.first[program]
        self.check(program, replace(first, memory_kib=first.memory_kib + MEMORY_SLACK_LIFE))

    def marks(self):
        """How each is now; one that cannot be asked (a test before has broken it) is left out."""
        found = {}
        for program in self.running():
            with contextlib.suppress(LabError, OSError, HTTPException):
                found[program] = Held.by(program)
        return found

    def compare(self, marks):
        """Each back to its mark, as far as it still runs."""
        for program in self.running():
            if program in marks:
                mark, first = marks[program], self.first[program]
                more = LOAD_SLACK if mark.connections else 0
                self.check(program, Held(
                    mark.fds + 2 * more, mark.connections + more, mark.timers + 2 * more,
                    min(mark.memory_kib + MEMORY_SLACK, first.memory_kib + MEMORY_SLACK_LIFE)))

    def check(self, program, limit):
        """Waits until it holds no more; else that is a problem."""
        if not is_proxy(program):
            limit = replace(limit, fds=limit.fds + CONTROL_SLACK)
        left = "nothing was found out"

        def back():
            nonlocal left
            left = Held.by(program).more_than(limit)
            return not left

        try:
            wait_for(f"{program.name} is as before", back, DEADLINE_S)
        except LabError as err:
            if program.alive():
                self.problems.append(f"{program.name}: {left} ({err})")


def watch():
    """Begins to watch every program from here on; returns the Watch."""
    Program.watch = Watch()
    return Program.watch
