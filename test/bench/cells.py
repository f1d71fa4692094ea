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

    name = "churn"
    measures = [Measure("churn.cpu_us", "CPU, new connection", "us", 0),
                Measure("churn.per_s", "new connections", "1/s", 0, False),
                Measure("churn.p50_us", "new connection, p50", "us", 0)]

    def run(self, pair, load, settings):
        report = load.run("churn", "--to", pair.ports.app, "--at", pair.ports.back, *_sides(pair),
                          "--parallel", 16, "--seconds", settings.seconds, "--warm", settings.warm)
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

    name = "idle"
    measures = [Measure("idle.kib_1b", "idle connection, after 1 B", "KiB", 2),
                Measure("idle.kib_4k", "idle connection, after 4 KiB", "KiB", 2),
                Measure("idle.pss_mb", "idle sidecar (larger side)", "MB", 2)]

    def run(self, pair, load, settings):
        alone = []
        for role in ("client", "server"):
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
        result.values["pss_mb"] = max(alone) * 1024 / 1e6
        return result

    def _connections(self, pair, load, settings):
        def anon():
            return sum(side.settled_memory_kib()["Pss_Anon"] for side in pair.sides.values())

        result = Result(self.name)
        before = anon()
        holder = load.open("idle", "--to", pair.ports.app, "--at", pair.ports.back, "--size", 1,
                           "--connections", settings.connections, *_sides(pair))
        try:
            for key, request in (("kib_1b", None), ("kib_4k", "4096\n")):
                if request:
                    holder.stdin.write(request)
                    holder.stdin.flush()
                line = holder.stdout.readline()
                if not line:
                    raise RuntimeError("load idle ended before its connections were open")
                result.faults += _faults(json.loads(line))
                result.values[key] = (anon() - before) / settings.connections
            holder.stdin.close()
            last = json.loads(holder.stdout.readline())
            if last["errors"] and not result.faults:
                result.faults += _faults(last)
        finally:
            _end(holder)
        return result


def _end(popen):
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        pipe.close()


# Traffic cells run on pairs that are all up; Idle starts and stops its own.
TRAFFIC = [Verify(), Bulk(1, False), Bulk(8, False), Bulk(1, True), Bulk(8, True),
           Ping("ping64", 64, "64 B"), Ping("ping16k", 16384, "16 KiB"), Churn(), Http()]
MEMORY = [Idle()]
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
