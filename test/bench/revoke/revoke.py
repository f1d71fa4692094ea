"""Measures how soon a revocation ends live connections, and what a bystander on the same sidecar feels of it."""
import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from deploy.lab import netns  # noqa: E402
from deploy.lab.mesh import Mesh, document  # noqa: E402
from deploy.lab.programs import Binaries, LabError, wait_for  # noqa: E402

ENDS = Path(__file__).with_name("ends.py")
HOSTS = ("control", "gateway", "management", "analytics")
REVOKED, BYSTANDER, SERVER = "gateway", "management", "analytics"
REVOKED_PORTS = (15104, 9083)  # the client's and the server's of gateway-analytics
BYSTANDER_PORTS = (15103, 8083)  # of management-analytics
RESERVED = 200  # descriptors beside two for each connection
QUIET_S = 2.0  # of pings before, to compare with
GOALS = (("closed p99 < 5 s (aim 1 s)", "closed_p99_s", 5.0), ("no ping > 5 ms", "ping_max_ms", 5.0))


class Fault(Exception):
    """What went wrong with a run."""


def arguments():
    parser = argparse.ArgumentParser(
        prog="test/bench/revoke/run",
        description="One subsystem with 10,000 live connections to another is revoked: when each of them has ended, and "
                    "how long a bystander's pings through the same sidecar take meanwhile.")
    parser.add_argument("--connections", type=int, default=10000, help="live ones (default %(default)s, or as many as "
                        "the hard limit of descriptors allows)")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--bin", type=Path, help="folder of the programs (default: built by Bazel)")
    parser.add_argument("--out", type=Path, help="folder for revoke.json, revoke.txt and logs (default: a new one under "
                        "the temporary folder)")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


def room(wanted):
    """As many connections as a process that has two descriptors for each may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + RESERVED
    if hard < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except (ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return (hard - RESERVED) // 2
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    return wanted


class End:
    """One of ends.py's processes, in a host's namespace."""

    def __init__(self, host, *argv):
        self.argv = argv
        self.child = subprocess.Popen(host.command(sys.executable, str(ENDS), *map(str, argv)), stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)

    def line(self, key):
        line = self.child.stdout.readline()
        if not line:
            raise Fault(f"ends.py {' '.join(map(str, self.argv))}: exit {self.child.wait()}")
        return json.loads(line)[key]

    def finish(self, key):
        self.child.stdin.close()
        value = self.line(key)
        self.child.wait()
        return value

    def stop(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def threads(pid):
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def first(pid):
    """Lets a process run before others on its core, so that a ping's time is the sidecar's and not the scheduler's;
    False where that is not allowed."""
    try:
        for thread in threads(pid):
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
        return True
    except OSError:
        return False


def quantile(sorted_values, q):
    return sorted_values[min(len(sorted_values) - 1, math.ceil(q * len(sorted_values)) - 1)]


class Run:
    def __init__(self, args, number, mesh):
        self.args, self.number, self.mesh = args, number, mesh
        self.rounds = []
        self.ends = []

    def end(self, host, *argv):
        end = End(self.mesh.network[host], *argv)
        self.ends.append(end)
        return end

    def start(self):
        limits = ("--max-connections", str(2 * self.number + 100), "--max-handshakes", "1024", "--workers", "1")
        self.mesh.start(document(), (SERVER, REVOKED, BYSTANDER), *limits)
        cores = sorted(os.sched_getaffinity(0))
        for name, program in self.mesh.sidecars.items():
            for thread in threads(program.pid):
                os.sched_setaffinity(thread, {cores[-1] if name == f"proxy-{SERVER}" else cores[0]})
        for port in (REVOKED_PORTS[1], BYSTANDER_PORTS[1]):
            server = self.end(SERVER, "serve", port)
            server.line("serving")
        self.first = all(first(pid) for pid in (server.child.pid, self.mesh.sidecar(BYSTANDER).pid,
                                                self.mesh.sidecar(SERVER).pid))

    def round(self):
        hold = self.end(REVOKED, "hold", REVOKED_PORTS[0], self.number)
        hold.line("open")
        ping = self.end(BYSTANDER, "ping", BYSTANDER_PORTS[0])
        ping.line("pinging")
        first(ping.child.pid)
        time.sleep(QUIET_S)  # the time that is measured to compare with
        began = time.monotonic_ns()
        self.mesh.ctl("revoke", "subsystem", REVOKED, "--reason", "benchmark")
        closed = sorted(at - began for at in hold.line("ends"))
        pongs = ping.finish("pongs")
        during = sorted(took for at, took in pongs if began <= at <= began + closed[-1] + 10**8)
        before = sorted(took for at, took in pongs if at < began)
        if not during or not before:
            raise Fault("no ping was made in time")
        self.rounds.append({
            "closed_p50_s": quantile(closed, 0.5) / 1e9, "closed_p99_s": quantile(closed, 0.99) / 1e9,
            "closed_all_s": closed[-1] / 1e9, "first_closed_s": closed[0] / 1e9,
            "ping_p99_ms": quantile(during, 0.99) / 1e6, "ping_max_ms": during[-1] / 1e6,
            "before_p99_ms": quantile(before, 0.99) / 1e6, "before_max_ms": before[-1] / 1e6,
            "load_average": os.getloadavg()[0],
        })
        for item in self.mesh.ctl_json("get", "revocations").get("revocations", []):
            self.mesh.ctl("lift", item["id"], "--wait")
        wait_for("the revoked one is back", lambda: len(self.mesh.workloads()) == 3, 90)
        self.mesh.wait_in_sync(3)

    def stop(self):
        for end in self.ends:
            end.stop()
        self.mesh.stop()

    def median(self, key):
        return statistics.median(found[key] for found in self.rounds)


ROWS = (
    ("closed: p50", "closed_p50_s", "s", 3), ("  p99", "closed_p99_s", "s", 3), ("  all", "closed_all_s", "s", 3),
    ("  the first one", "first_closed_s", "s", 3),
    ("a bystander's ping meanwhile: p99", "ping_p99_ms", "ms", 2), ("  longest", "ping_max_ms", "ms", 2),
    ("and before: p99", "before_p99_ms", "ms", 2), ("  longest", "before_max_ms", "ms", 2),
)


def report(run, out):
    lines = [f"{run.number} live connections of one subsystem on one sidecar; medians of {len(run.rounds)} rounds (least to "
             f"most)"]
    for title, key, unit, digits in ROWS:
        values = [found[key] for found in run.rounds]
        lines.append(f"{title:<36}{run.median(key):>9.{digits}f} {unit:<3}({min(values):.{digits}f} to "
                     f"{max(values):.{digits}f})")
    if not run.first:
        lines.append("(those that a ping passes could not be given the right to run first: pings have the scheduler's delays in them)")
    verdicts = [(text, run.median(key) <= limit) for text, key, limit in GOALS]
    lines += ["", "Goals:", *(f"  {'pass' if passed else 'FAIL'}  {text}" for text, passed in verdicts)]
    print("\n".join(lines), flush=True)
    (out / "revoke.txt").write_text("\n".join(lines) + "\n")
    (out / "revoke.json").write_text(json.dumps(
        {"connections": run.number, "rounds": run.rounds, "ran_first": run.first,
         "goals": [{"goal": text, "passed": passed} for text, passed in verdicts]}, indent=1) + "\n")
    print(f"written: {out}")
    return all(passed for _, passed in verdicts)


def main():
    args = arguments()
    netns.enter_user_namespace()
    number = room(args.connections)
    if args.bin is None:
        subprocess.run(["bazel", "build", "--curses=no", "//:programs"], cwd=ROOT, check=True)
    out = (args.out or Path(tempfile.mkdtemp(prefix="revoke."))).absolute()
    out.mkdir(parents=True, exist_ok=True)
    network = netns.Network("mortise-revoke-", HOSTS)
    with tempfile.TemporaryDirectory(prefix="mr.") as folder:  # a Unix socket's name is short
        network.create()
        run = Run(args, number, Mesh(folder, network, Binaries(args.bin)))
        try:
            run.start()
            for _ in range(args.rounds):
                run.round()
        finally:
            run.stop()
            network.remove()
            for log in Path(folder).glob("*.log"):
                (out / log.name).write_bytes(log.read_bytes())
    return 0 if report(run, out) or not args.gate else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Fault, LabError, netns.NetnsError, subprocess.CalledProcessError) as fault:
        print(f"test/bench/revoke/run: {fault}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
