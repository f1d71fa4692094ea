"""The cells: each measures one thing on one running pair, and says what went wrong while it did.

A cell returns a Result. Its values are keyed as in MEASURES; with a fault it is invalid, its
values are kept in the record but used for nothing."""

import json
import math
import os
import signal
import subprocess
from dataclasses import dataclass, field

import process

GB = 1e9
HTTP_CONNECTIONS = 64
HTTP_BODY = 200


@dataclass
class Measure:
    """One row of the table. `name` is cell.key."""
    name: str
    title: str
    unit: str
    digits: int
    lower_is_better: bool = True


@dataclass
class Result:
    cell: str
    values: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)

    @property
    def valid(self):
        return not self.faults


@dataclass
class Settings:
    """Sizes of the cells. Seconds are those of the measured window."""
    seconds: float = 1.2
    warm: float = 0.3
    connections: int = 1000
    verify_bytes: int = 4_000_000


class Generator:
    """The load generator, and wrk beside it, on the load's core."""

    def __init__(self, tools, core):
        self._load, self._prepare = tools.load, process.prepare(core)

    def run(self, *argv):
        """One command of load; the JSON object that it printed."""
        done = subprocess.run([self._load, *map(str, argv)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              preexec_fn=self._prepare, start_new_session=True)
        if done.returncode != 0 or not done.stdout:
            raise RuntimeError(f"load {argv[0]}: status {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    def open(self, *argv):
        """A command of load that goes on; talk to it through its pipes."""
        return subprocess.Popen([self._load, *map(str, argv)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True, preexec_fn=self._prepare,
                                start_new_session=True)

    def wrk(self, port, seconds):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "http.lua")
        done = subprocess.run(["wrk", "-t1", f"-c{HTTP_CONNECTIONS}", f"-d{seconds}s",
                               "-s", script, f"http://127.0.0.1:{port}/"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, preexec_fn=self._prepare,
                              start_new_session=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode != 0 or not lines:
            raise RuntimeError(f"wrk: {done.stdout.strip()[-300:]}")
        return json.loads(lines[-1])


def _sides(pair):
    """--side options for both relays, so that load reads their CPU time."""
    argv = []
    for pids in pair.pid_lists():
        argv += ["--side", ",".join(map(str, pids))]
    return argv


def _faults(report):
    if not report["errors"]:
        return []
    return [f"{report['errors']} errors: " + "; ".join(report["faults"])]


class Bulk:
    """Streams of 256 KiB blocks one way; the sink counts every byte."""

    def __init__(self, streams, down):
        self.name = f"{'down' if down else 'up'}{streams}"
        self._streams, self._down = streams, down
        what = f"{'download' if down else 'upload'}, {streams} stream{'s' if streams > 1 else ''}"
        self.measures = [Measure(f"{self.name}.cpu_s_per_gb", f"CPU, {what}", "s/GB", 3),
                         Measure(f"{self.name}.gbit_s", f"throughput, {what}", "Gbit/s", 2, False)]

    def run(self, pair, load, settings):
        argv = ["bulk", "--to", pair.ports.app, "--at", pair.ports.back, *_sides(pair),
                "--streams", self._streams, "--seconds", settings.seconds, "--warm", settings.warm]
        report = load.run(*argv, *(["--down"] if self._down else []))
        result = Result(self.name, faults=_faults(report))
        if report["bytes"]:
            result.values = {"cpu_s_per_gb": sum(report["cpu_s"]) / report["bytes"] * GB,
                             "client_cpu_s_per_gb": report["cpu_s"][0] / report["bytes"] * GB,
                             "gbit_s": report["bytes"] * 8 / report["seconds"] / 1e9,
                             "load_busy": report["load_busy"]}
        return result


class Ping:
    """One request at a time on one connection; every answer is compared."""

    def __init__(self, name, size, title):
        self.name, self._size = name, size
        self.measures = [Measure(f"{name}.p50_us", f"ping {title}, p50", "us", 1),
                         Measure(f"{name}.p99_us", f"ping {title}, p99", "us", 1),
                         Measure(f"{name}.cpu_us", f"ping {title}, CPU each", "us", 1)]

    def run(self, pair, load, settings):
        report = load.run("ping", "--to", pair.ports.app, "--at", pair.ports.back, *_sides(pair),
                          "--size", self._size, "--seconds", settings.seconds,
                          "--warm", settings.warm)
        result = Result(self.name, faults=_faults(report))
        if report["round_trips"]:
            result.values = {"p50_us": report["p50_us"], "p99_us": report["p99_us"],
                             "cpu_us": sum(report["cpu_s"]) / report["round_trips"] * 1e6}
        return result


class Churn:
    """New connection, one byte there and back, close; 16 at a time."""

    def __init__(self, parallel=16):
        self.name, self._parallel = "churn", parallel
        more = ""
        if parallel != 16:
            self.name, more = f"churn{parallel}", f", {parallel} at once"
        self.measures = [Measure(f"{self.name}.cpu_us", f"CPU, new connection{more}", "us", 0),
                         Measure(f"{self.name}.per_s", f"new connections{more}", "1/s", 0, False),
                         Measure(f"{self.name}.p50_us", f"new connection{more}, p50", "us", 0)]

    def run(self, pair, load, settings):
        report = load.run("churn", "--to", pair.ports.app, "--at", pair.ports.back, *_sides(pair),
                          "--parallel", self._parallel, "--seconds", settings.seconds, "--warm", settings.warm)
        result = Result(self.name, faults=_faults(report))
        if report["connections"]:
            result.values = {"per_s": report["connections"] / report["seconds"],
                             "cpu_us": sum(report["cpu_s"]) / report["connections"] * 1e6,
                             "p50_us": report["p50_us"], "p99_us": report["p99_us"]}
        return result


class Http:
    """wrk with keep-alive connections; its count must be the server's."""

    name = "http"
    measures = [Measure("http.per_s", "HTTP requests", "1/s", 0, False),
                Measure("http.cpu_us", "CPU, HTTP request", "us", 1),
                Measure("http.p99_us", "HTTP request, p99", "us", 0)]

    def run(self, pair, load, settings):
        server = load.open("http", "--at", pair.ports.back, "--size", HTTP_BODY, *_sides(pair))
        try:
            if "listening" not in server.stdout.readline():
                raise RuntimeError("the HTTP server did not start")
            wrk = load.wrk(pair.ports.app, math.ceil(settings.seconds))
            server.send_signal(signal.SIGTERM)
            report = json.loads(server.stdout.readline())
        finally:
            _end(server)
        result = Result(self.name, faults=_faults(report))
        for kind in ("connect", "read", "write", "status", "timeout"):
            if wrk[kind]:
                result.faults.append(f"{wrk[kind]} {kind} errors of wrk")
        if not 0 <= report["requests"] - wrk["requests"] <= HTTP_CONNECTIONS:
            result.faults.append(f"wrk counts {wrk['requests']} answers, the server "
                                 f"{report['requests']} requests")
        if wrk["requests"]:
            # CPU over the whole life of the server, the handshakes of the 64 connections included.
            result.values = {"per_s": wrk["requests"] / wrk["seconds"],
                             "cpu_us": sum(report["cpu_s"]) / report["requests"] * 1e6,
                             "p50_us": wrk["p50_us"], "p99_us": wrk["p99_us"]}
        return result


class Verify:
    """Pseudo-random bytes there and back in odd pieces, three streams at once. No measure: it is
    there so that a pair which corrupts cannot be fast."""

    name = "verify"
    measures = []

    def run(self, pair, load, settings):
        report = load.run("verify", "--to", pair.ports.app, "--at", pair.ports.back,
                          *_sides(pair), "--streams", 3, "--bytes", settings.verify_bytes)
        result = Result(self.name, faults=_faults(report))
        if report["bytes"] != 3 * settings.verify_bytes and not result.faults:
            result.faults.append(f"{report['bytes']} bytes came back")
        return result


class Idle:
    """Memory: of each side alone with nothing to do, and of both for each connection that is open
    and silent. Starts the pair itself; no other pair may run, because PSS shares a program's pages
    between all processes that run it."""

    def __init__(self, connections=None):
        self.name, self._number, more = "idle", connections, ""
        if connections:
            self.name, more = f"idle{connections}", f" of {connections}"
        self.measures = [
            Measure(f"{self.name}.kib_1b", f"idle connection{more}, after 1 B", "KiB", 2),
            Measure(f"{self.name}.kib_4k", f"idle connection{more}, after 4 KiB", "KiB", 2)]
        if not connections:
            self.measures += [Measure("idle.pss_mb", "idle sidecar (larger side)", "MB", 2)]

    def run(self, pair, load, settings):
        alone = []
        for role in ("client", "server") if not self._number else ():
            try:
                alone.append(pair.start_side(role).settled_memory_kib()["Pss"])
            finally:
                pair.stop()
        with pair:
            load.run("verify", "--to", pair.ports.app, "--at", pair.ports.back, "--bytes", 1)
            descriptors = pair.descriptors()
            result = self._connections(pair, load, settings)
            try:
                process.wait_until("descriptors are back",
                                   lambda: pair.descriptors() <= descriptors)
            except RuntimeError:
                result.faults.append(f"{descriptors} descriptors before the connections and "
                                     f"{pair.descriptors()} after them")
        if alone:
            result.values["pss_mb"] = max(alone) * 1024 / 1e6
        return result

    def _connections(self, pair, load, settings):
        def anon():
            return sum(side.settled_memory_kib()["Pss_Anon"] for side in pair.sides.values())

        connections = self._number or settings.connections
        result = Result(self.name)
        before = anon()
        holder = load.open("idle", "--to", pair.ports.app, "--at", pair.ports.back, "--size", 1,
                           "--connections", connections, *_sides(pair))
        try:
            for key, request in (("kib_1b", None), ("kib_4k", "4096\n")):
                if request:
                    holder.stdin.write(request)
                    holder.stdin.flush()
                line = holder.stdout.readline()
                if not line:
                    raise RuntimeError("load idle ended before its connections were open")
                result.faults += _faults(json.loads(line))
                result.values[key] = (anon() - before) / connections
            holder.stdin.close()
            last = json.loads(holder.stdout.readline())
            if last["errors"] and not result.faults:
                result.faults += _faults(last)
        finally:
            _end(holder)
        return result


class Stall:
    """Memory of a connection whose receiver never reads: what the larger side holds, and what of it
    is still there when they are gone. Starts the pair itself, as Idle does."""

    name = "stall"
    measures = [Measure("stall.kib", "stalled connection (larger side)", "KiB", 1),
                Measure("stall.kib_after", "the same after its end", "KiB", 1)]

    def run(self, pair, load, settings):
        def anon():
            return {role: side.settled_memory_kib()["Pss_Anon"] for role, side in pair.sides.items()}

        result = Result(self.name)
        number = settings.connections // 12  # more fill the kernel's own memory for TCP
        with pair:
            # Not counted: what the first large transfer brings into use for all connections.
            load.run("bulk", "--to", pair.ports.app, "--at", pair.ports.back, "--seconds", 0.3)
            descriptors = pair.descriptors()
            before = anon()
            holder = load.open("stall", "--to", pair.ports.app, "--at", pair.ports.back,
                               "--connections", number, *_sides(pair))
            try:
                for key in ("kib", "kib_after"):
                    line = holder.stdout.readline()
                    if not line:
                        raise RuntimeError("load stall ended before its connections stalled")
                    result.faults += _faults(json.loads(line))
                    if key == "kib_after":
                        process.wait_until("the connections are gone",
                                           lambda: pair.descriptors() <= descriptors)
                    now = anon()
                    result.values[key] = max(now[role] - before[role] for role in now) / number
                    holder.stdin.write("\n")
                    holder.stdin.flush()
            finally:
                _end(holder)
        return result


class Crowd:
    """One busy connection beside thousands of silent ones, against the same alone: a ping, and in
    a pair of its own, for nothing else may be open. Of pairs that take so many connections."""

    name = "crowd"
    SIZE = min(10000, process.descriptors() // 2 - 200)
    measures = [Measure("crowd.p50_ratio", f"ping beside {SIZE} idle to alone, p50", "", 3),
                Measure("crowd.cpu_ratio", "the same, CPU", "", 3)]

    def run(self, pair, load, settings):
        result = Result(self.name)
        found = []
        with pair:
            for crowd in ([], ["--crowd", self.SIZE if settings.connections >= 1000 else 1000]):
                report = load.run("ping", "--to", pair.ports.app, "--at", pair.ports.back,
                                  *_sides(pair), "--size", 64, "--seconds", settings.seconds,
                                  "--warm", settings.warm, *crowd)
                result.faults += _faults(report)
                if not report["round_trips"]:
                    return result
                found.append((report["p50_us"], sum(report["cpu_s"]) / report["round_trips"]))
        (alone_us, alone_cpu), (beside_us, beside_cpu) = found
        result.values = {"p50_ratio": beside_us / alone_us, "cpu_ratio": beside_cpu / alone_cpu}
        return result


def _end(popen):
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        pipe.close()


# Traffic cells run on pairs that are all up; those of memory start and stop their own.
STANDARD_TRAFFIC = [Verify(), Bulk(1, False), Bulk(8, False), Bulk(1, True), Bulk(8, True),
                    Ping("ping64", 64, "64 B"), Ping("ping16k", 16384, "16 KiB"), Churn(), Http()]
STANDARD_MEMORY = [Idle(), Stall(), Crowd()]
STANDARD = STANDARD_TRAFFIC + STANDARD_MEMORY
# More points of the cost curves: cells to ask for by name.
TRAFFIC = STANDARD_TRAFFIC + [Bulk(64, False), Bulk(512, False), Churn(1), Churn(256)]
MEMORY = STANDARD_MEMORY + [Idle(100), Idle(9000)]
ALL = TRAFFIC + MEMORY
MEASURES = [measure for cell in ALL for measure in cell.measures]


def run(cell, pair, load, settings):
    """One cell on one pair; never raises for what the pair or the cell does wrong."""
    try:
        result = cell.run(pair, load, settings)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        result = Result(cell.name, faults=[str(error)])
    result.faults += pair.dead()
    return result
