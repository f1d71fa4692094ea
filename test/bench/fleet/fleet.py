"""Measures one control plane with many simulated sidecars; `run` starts it, README.md explains."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TRUST_DOMAIN = "fleet.test"

# (measure, title, unit, digits): the rows of the table, the names in goals.json and fleet.json.
MEASURES = (
    ("join.all_s", "join: token, Attest, first certificate", "s", 2),
    ("join.cpu_s", "  control plane's CPU", "s", 2),
    ("connect.all_s", "connect all: handshake, stream, first ACK", "s", 2),
    ("connect.cpu_s", "  control plane's CPU", "s", 2),
    ("connect.refused", "  attempts refused, and made again", "", 0),
    ("memory.pss_mb", "PSS of the control plane, all connected", "MB", 1),
    ("memory.kib_each", "  growth for each sidecar", "KiB", 1),
    ("push.p50_s", "policy push acknowledged: p50", "s", 3),
    ("push.p99_s", "  p99", "s", 3),
    ("push.all_s", "  by all", "s", 3),
    ("push.cpu_s", "  control plane's CPU", "s", 3),
    ("revoke.p50_s", "revocation in force: p50", "s", 3),
    ("revoke.p99_s", "  p99", "s", 3),
    ("revoke.all_s", "  with all", "s", 3),
    ("revoke.cpu_s", "  control plane's CPU", "s", 3),
    ("reissue.issued_s", "re-issue: all have the new certificate", "s", 2),
    ("reissue.per_s", "  certificates a second", "/s", 0),
    ("reissue.all_s", "  and are back on a connection under it", "s", 2),
    ("reissue.cpu_s", "  control plane's CPU", "s", 2),
    ("reissue.refused", "  attempts refused, and made again", "", 0),
    ("storm.all_s", "storm after SIGKILL: all back", "s", 2),
    ("storm.start_s", "  until the control plane listens again", "s", 2),
    ("storm.cpu_s", "  control plane's CPU", "s", 2),
    ("storm.refused", "  attempts refused, and made again", "", 0),
    ("storm.missing", "  sidecars that did not come back", "", 0),
)


class Fault(Exception):
    """What went wrong with a run."""


def arguments():
    parser = argparse.ArgumentParser(
        prog="test/bench/fleet/run",
        description="One control plane on one core, and many sidecars that speak its control "
                    "channel: connecting, a policy push, a revocation, a full re-issue, a reconnect "
                    "storm.")
    parser.add_argument("--sidecars", default="10000", metavar="N[,N…]",
                        help="how many; several for a curve (default %(default)s)")
    parser.add_argument("--subsystems", type=int, default=0, metavar="M",
                        help="identities that they share (default: one for each 100, at least 8)")
    parser.add_argument("--rounds", type=int, default=3,
                        help="pushes, revocations, re-issues and storms of each size; medians are told "
                        "(default 3)")
    parser.add_argument("--sources", type=int, default=16,
                        help="loopback addresses that connections come from (default 16)")
    parser.add_argument("--timeout", type=float, default=120, metavar="S",
                        help="a phase takes no longer, joining ten times that (default 120)")
    parser.add_argument("--out", type=Path, help="folder for fleet.json, fleet.txt and logs "
                        "(default: a new one under the temporary folder)")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--goals", type=Path, default=HERE / "goals.json", help="the goals")
    parser.add_argument("--load", help="load program (default: built by Bazel)")
    parser.add_argument("--control", help="mortise-control (default: built by Bazel)")
    parser.add_argument("--ctl", help="mortisectl (default: built by Bazel)")
    parser.add_argument("--control-options", default="", metavar="'OPTION…'",
                        help="more options of mortise-control")
    parser.add_argument("--bazel", default="bazel", help="Bazel with its start-up options")
    parser.add_argument("--bazel-options", default="", help="options of its build command")
    parser.add_argument("--data", type=Path, help="folder for the control plane's store: on the "
                        "disk that is meant (default: in --out)")
    parser.add_argument("--perf", action="store_true",
                        help="perf record of the control plane, a file for each phase, in --out")
    args = parser.parse_args()
    try:
        args.sidecars = [int(n) for n in args.sidecars.split(",")]
    except ValueError:
        parser.error("--sidecars: numbers with commas between")
    if not all(1 <= n <= 100000 for n in args.sidecars):
        parser.error("--sidecars: 1 to 100000")
    if not 1 <= args.sources <= 250:
        parser.error("--sources: 1 to 250")
    if not 0 <= args.subsystems <= 1000:
        parser.error("--subsystems: 1 to 1000")
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


def say(text):
    print(text, flush=True)


def build(args):
    """The programs to run: those given, the rest built by Bazel."""
    targets = {"load": "//test/bench/fleet:fleet", "control": "//control:mortise-control",
               "ctl": "//control:mortisectl"}
    targets = {name: target for name, target in targets.items() if not getattr(args, name)}
    if targets:
        bazel, options = shlex.split(args.bazel), shlex.split(args.bazel_options)
        say(f"building {' '.join(targets.values())}")
        if subprocess.run([*bazel, "build", *options, *targets.values()], cwd=ROOT).returncode:
            raise Fault("the build failed; --load, --control and --ctl take programs built "
                        "elsewhere")
        where = subprocess.run([*bazel, "info", *options, "bazel-bin"], cwd=ROOT, check=True,
                               stdout=subprocess.PIPE, text=True).stdout.strip()
        for name, target in targets.items():
            setattr(args, name, f"{where}/{target.removeprefix('//').replace(':', '/')}")
    for name in ("load", "control", "ctl"):
        setattr(args, name, os.path.abspath(getattr(args, name)))


def cores():
    """(core of the control plane, core of the load and of ourselves); the same one twice on a
    machine that has one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], allowed[0]


def mesh_document(subsystems, turn):
    """A ring: every subsystem is client of the next. All clients use one profile, of which `turn`
    chooses one of two contents: to change it is a push to every sidecar."""
    groups = ('["X25519", "P-256"]', '["P-256", "X25519"]')[turn % 2]
    lines = ["subsystems:"]
    lines += [f"  - {{name: s{i}}}" for i in range(subsystems)]
    lines += ["profiles:",
              f"  - {{name: fleet, role: CLIENT, min_version: TLS1_3, groups: {groups}}}"]
    lines += ["links:"]
    lines += [f"  - {{name: l{i}, client: s{i}, server: s{(i + 1) % subsystems}, "
              "client_port: 15101, server_port: 8080, client_profile: fleet}"
              for i in range(subsystems) if subsystems > 1]
    return "\n".join(lines) + "\n"


def free_port():
    """A TCP port that nobody has, outside the range that connections take theirs from."""
    import socket
    low, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for port in range(15990, min(low, 32768)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Fault("no free port")


class Child:
    """A program of ours: pinned to a core by taskset, gone with us."""

    def __init__(self, argv, core, log, **kwargs):
        self._log = open(log, "ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MORTISE_")}
        self.popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *map(str, argv)],
            stderr=self._log, stdout=kwargs.pop("stdout", self._log), env=environment,
            start_new_session=True, **kwargs)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def cpu_s(self):
        """CPU time so far, of all its threads."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def pss_mb(self):
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) * 1024 / 1e6

    def end(self, number=signal.SIGTERM):
        if self.alive():
            self.popen.send_signal(number)
        try:
            self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._log.close()
        return self.popen.returncode


class Control:
    """The control plane, and mortisectl to talk to it."""

    def __init__(self, args, folder, data, number, core):
        self.args, self.core, self.folder = args, core, folder
        self.port = free_port()
        self.data = data / "control"
        self.socket = folder / "operator.sock"
        if len(str(self.socket)) > 100:
            raise Fault(f"--out: {folder} is too long a name for a Unix socket in it")
        self.child = None
        # The default is for a mesh of hundreds. Twice as many: a sidecar that comes back under a new
        # certificate holds its old connection until the new one has spoken.
        self.options = ["--max-connections", min(2 * number + 1000, 100000),
                        *shlex.split(args.control_options)]
        subprocess.run([args.ctl, "init", self.data, "--trust-domain", TRUST_DOMAIN], check=True,
                       stdout=subprocess.DEVNULL)

    def start(self):
        began = time.monotonic()
        self.child = Child([self.args.control, "--config", self.data / "control.yaml", "--listen",
                            f"127.0.0.1:{self.port}", "--operator-socket", self.socket,
                            *self.options], self.core, self.folder / "control.log",
                           stdin=subprocess.DEVNULL)
        while not self._answers():
            if not self.child.alive():
                raise Fault(f"mortise-control ended with {self.child.popen.returncode}; see "
                            f"{self.folder / 'control.log'}")
            if time.monotonic() - began > 60:
                raise Fault("mortise-control does not answer")
            time.sleep(0.01)
        return time.monotonic() - began

    def _answers(self):
        """Whether something takes connections at its operator socket, which it opens last."""
        import socket
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                return True
            except OSError:
                return False

    def ctl(self, *argv):
        done = subprocess.run([self.args.ctl, *map(str, argv), "--socket", self.socket],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Fault(f"mortisectl {' '.join(map(str, argv))}: {done.stderr.strip()}")
        return done.stdout

    def status(self):
        return json.loads(self.ctl("status", "-o", "json"))

    def kill(self):
        self.child.end(signal.SIGKILL)

    def stop(self):
        return self.child.end() if self.child is not None else 0


class Load:
    """The load program: commands in, lines of JSON out."""

    def __init__(self, args, folder, number, subsystems, port, socket, core):
        self.child = Child([args.load, "--sidecars", number, "--subsystems", subsystems,
                            "--sources", args.sources, "--trust-domain", TRUST_DOMAIN, "--control",
                            f"127.0.0.1:{port}", "--operator", f"unix:{socket}"], core,
                           folder / "load.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._pending = b""

    def tell(self, command):
        self.child.popen.stdin.write(command.encode() + b"\n")
        self.child.popen.stdin.flush()

    def answer(self, seconds):
        """The next line; None when none comes in time."""
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            if left <= 0:
                return None
            if not select.select([self.child.popen.stdout], [], [], left)[0]:
                continue
            data = os.read(self.child.popen.stdout.fileno(), 65536)
            if not data:
                raise Fault("the load program ended; see load.log")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise Fault(f"load program: {answer['error']}")
        return answer

    def begin(self, command):
        """Begins a phase: the load's clock runs from here."""
        self.tell(command)
        if "began" not in (self.answer(30) or {}):
            raise Fault(f"load program: no answer to {command}")

    def wait(self, phase, seconds):
        """The report of the phase's end, or why there is none."""
        report = self.answer(seconds)
        if report is None:
            self.tell("report")
            report = self.answer(30) or {}
            raise Fault(f"{phase}: {report.get('times', {}).get('count')} of "
                        f"{report.get('sidecars')} within {seconds:g} s; {report.get('up')} "
                        f"connected; failures {report.get('failures')}")
        return report

    def cpu_s(self):
        self.tell("cpu")
        return self.answer(30)["cpu_s"]

    def stop(self):
        with contextlib.suppress(OSError):
            self.child.popen.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.popen.wait(60)  # it ends with its input, and closes all in order
        return self.child.end()


def refused(report, *kinds):
    return sum(number for what, number in report["failures"].items()
               if not kinds or what.split()[0] in kinds)


class Run:
    """One size: a fresh control plane and a fresh fleet."""

    def __init__(self, args, number, folder):
        self.args, self.number, self.folder = args, number, folder
        self.subsystems = args.subsystems or max(8, number // 100)
        self.control_core, load_core = cores()
        data = (args.data / str(number)) if args.data else folder
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.control = Control(args, folder, data, number, self.control_core)
        self.load_core = load_core
        self.load = None
        self.turn = 0
        self.values = {}  # measure to a list, one for each round
        self.details = []

    def add(self, measure, value):
        self.values.setdefault(measure, []).append(value)

    def perf(self, name):
        if not self.args.perf:
            return contextlib.nullcontext()
        return Perf(self.control.child.pid, self.folder / f"perf.{name}.{len(self.details)}")

    def phase(self, name, act, seconds):
        """Runs one phase and returns the load's report; it sees a revocation as a push."""
        load_cpu = self.load.cpu_s()
        cpu = self.control.child.cpu_s()
        with self.perf(name):
            begin = {"revoke": "push"}.get(name, name)
            self.load.begin(begin if begin in ("join", "connect") else f"begin {begin}")
            act()
            report = {**self.load.wait(name, seconds), "phase": name}
        cpu = self.control.child.cpu_s() - (0 if name == "storm" else cpu)
        load_cpu = self.load.cpu_s() - load_cpu
        self.details.append({**report, "control_cpu_s": cpu, "load_cpu_s": load_cpu,
                             "load_average": os.getloadavg()[0]})
        all_s = report["times"]["all"]
        say(f"  {name}: {all_s:.3f} s (p50 {report['times']['p50']:.3f}, "
            f"p99 {report['times']['p99']:.3f}); CPU control {cpu:.2f} s, load {load_cpu:.2f} s; "
            f"failures {report['failures'] or 'none'}")
        self.add(f"{name}.cpu_s", cpu)
        return report

    def settle(self):
        """Waits until the control plane sees all of them with what they ought to have, for a
        second in a row: a phase begins in rest."""
        end = time.monotonic() + self.args.timeout
        since = None
        while since is None or time.monotonic() - since < 1:
            status = self.control.status()
            same = (int(status.get("connected", 0)) == self.number
                    and int(status.get("in_sync", 0)) == self.number)
            since = (since or time.monotonic()) if same else None
            if time.monotonic() > end:
                raise Fault(f"no rest: {status.get('connected')} connected, "
                            f"{status.get('in_sync')} in sync of {self.number}")
            time.sleep(0.1)
        self.load.tell("report")
        report = self.load.answer(30)
        if report["up"] != self.number:
            raise Fault(f"the control plane sees all, but only {report['up']} hold a stream")

    def join(self):
        report = self.phase("join", lambda: None, 10 * self.args.timeout)
        self.add("join.all_s", report["times"]["all"])

    def connect(self):
        before = self.control.child.pss_mb()
        report = self.phase("connect", lambda: None, self.args.timeout)
        self.add("connect.all_s", report["times"]["all"])
        self.add("connect.refused", refused(report, "connection", "stream"))
        self.settle()
        pss = self.control.child.pss_mb()
        self.add("memory.pss_mb", pss)
        self.add("memory.kib_each", (pss - before) * 1e6 / 1024 / self.number)

    def push(self):
        self.settle()
        self.turn += 1
        document = self.folder / "mesh.yaml"
        document.write_text(mesh_document(self.subsystems, self.turn))

        def act():
            told = self.control.ctl("apply", "-f", document)
            version = re.search(r"version (\d+)", told)
            if not version:
                raise Fault(f"mortisectl apply tells no version: {told.strip()}")
            self.version = int(version.group(1))
            self.load.tell(f"push {self.version}")

        report = self.phase("push", act, self.args.timeout)
        if report["least_version"] < self.version:
            raise Fault("push: done before all had the version")
        self.add("push.p50_s", report["times"]["p50"])
        self.add("push.p99_s", report["times"]["p99"])
        self.add("push.all_s", report["times"]["all"])

    def revoke(self):
        """A serial that nobody has: every sidecar is told, and has it in force; none is cut off."""
        self.settle()
        self.load.tell("report")
        version = self.load.answer(30)["most_version"]

        def act():
            self.load.tell(f"push {version + 1}")
            self.control.ctl("revoke", "serial", os.urandom(8).hex(), "--reason", "benchmark")

        times = self.phase("revoke", act, self.args.timeout)["times"]
        self.add("revoke.p50_s", times["p50"])
        self.add("revoke.p99_s", times["p99"])
        self.add("revoke.all_s", times["all"])

    def reissue(self):
        self.settle()
        report = self.phase("reissue", lambda: self.control.ctl("rotate", "--all"),
                            self.args.timeout)
        issued = report["issued"]
        if issued["count"] != self.number:
            raise Fault(f"re-issue: {issued['count']} certificates for {self.number} sidecars")
        self.add("reissue.issued_s", issued["all"])
        self.add("reissue.per_s", self.number / issued["all"])
        self.add("reissue.all_s", report["times"]["all"])
        self.add("reissue.refused", refused(report))

    def storm(self):
        self.settle()

        def act():
            self.control.kill()
            self.add("storm.start_s", self.control.start())

        report = self.phase("storm", act, self.args.timeout)
        self.add("storm.all_s", report["times"]["all"])
        self.add("storm.refused", refused(report, "connection", "stream"))
        self.add("storm.missing", report["sidecars"] - report["up"])

    def go(self):
        say(f"{self.number} sidecars of {self.subsystems} subsystems")
        self.control.start()
        try:
            document = self.folder / "mesh.yaml"
            document.write_text(mesh_document(self.subsystems, 0))
            self.control.ctl("apply", "-f", document, "--prune")
            self.load = Load(self.args, self.folder, self.number, self.subsystems,
                             self.control.port, self.control.socket, self.load_core)
            self.join()
            self.connect()
            for cell in (self.push, self.revoke, self.reissue, self.storm):
                for _ in range(self.args.rounds):
                    cell()
            self.settle()
        finally:
            ends = [self.load.stop() if self.load is not None else 0, self.control.stop()]
        if any(ends):
            raise Fault(f"exit status of the load {ends[0]}, of the control plane {ends[1]}")

    def medians(self):
        return {measure: median(values) for measure, values in self.values.items()}


class Perf:
    """perf record of a process for as long as the context is open."""

    def __init__(self, pid, path):
        self.pid, self.path = pid, path

    def __enter__(self):
        self.popen = subprocess.Popen(["perf", "record", "-q", "-g", "-p", str(self.pid), "-o",
                                       self.path], stderr=subprocess.DEVNULL)
        time.sleep(0.5)  # until it samples; nothing that is measured waits for it

    def __exit__(self, *_):
        self.popen.send_signal(signal.SIGINT)
        self.popen.wait()


def table(runs):
    rows = [["", "unit", *(str(run.number) for run in runs)]]
    for measure, title, unit, digits in MEASURES:
        entries = [run.medians().get(measure) for run in runs]
        rows.append([title, unit, *("-" if e is None else f"{e:.{digits}f}" for e in entries)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) if i < 2 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(row, widths))).rstrip()
                     for row in rows)


def judge(runs, goals):
    """[(text, passed)]: a goal is for a number of sidecars, and missed where it was not measured
    with at least as many; without a run of that many it is left out."""
    titles = {measure: (title.strip(), unit) for measure, title, unit, _ in MEASURES}
    verdicts = []
    for goal in goals:
        measure = goal["measure"]
        if measure not in titles or ("at_most" in goal) == ("at_least" in goal):
            raise Fault(f"goals: {goal}")
        limit = goal.get("at_most", goal.get("at_least"))
        sign = "<=" if "at_most" in goal else ">="
        for run in runs:
            if run.number != goal["sidecars"]:
                continue
            value = run.medians().get(measure)
            text = f"{measure} with {run.number} {sign} {limit:g} {titles[measure][1]}".rstrip()
            if "aim" in goal:
                text += f" (aim {goal['aim']:g})"
            if value is None:
                verdicts.append((f"{text}: not measured", False))
                continue
            passed = value <= limit if "at_most" in goal else value >= limit
            spread = run.values[measure]
            verdicts.append((f"{text}: {value:.3g} ({min(spread):.3g} to {max(spread):.3g}, "
                             f"n = {len(spread)})", passed))
    return verdicts


def about(args):
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        cpu = next((line.partition(":")[2].strip() for line in cpuinfo
                    if line.startswith("model name")), platform.processor())
    control_core, load_core = cores()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(),
        "core_of_control": control_core, "core_of_load": load_core, "rounds": args.rounds,
        "sources": args.sources, "load_average_before": os.getloadavg()[0],
        "control_options": args.control_options,
    }


def finish(args, runs, faults, facts):
    verdicts = judge(runs, json.loads(args.goals.read_text()))
    text = table(runs) + f"\n(medians of {args.rounds} rounds)\n"
    text += "".join(f"\nFAULT: {fault}\n" for fault in faults)
    if verdicts:
        text += "\nGoals:\n" + "".join(f"  {'pass' if passed else 'FAIL'}  {line}\n"
                                       for line, passed in verdicts)
    say("\n" + text)
    (args.out / "fleet.txt").write_text(text)
    (args.out / "fleet.json").write_text(json.dumps({
        "about": facts, "faults": faults,
        "runs": [{"sidecars": run.number, "subsystems": run.subsystems, "medians": run.medians(),
                  "values": run.values, "phases": run.details} for run in runs],
        "goals": [{"goal": line, "passed": passed} for line, passed in verdicts],
    }, indent=1) + "\n")
    say(f"written: {args.out}")
    if faults:
        return 1
    return 1 if args.gate and not all(passed for _, passed in verdicts) else 0


def main():
    args = arguments()
    for program in ("taskset", "setpriv"):
        if not shutil.which(program):
            raise Fault(f"{program} is missing (package util-linux)")
    build(args)
    args.out = (args.out or Path(tempfile.mkdtemp(prefix="fleet."))).absolute()
    facts, runs, faults = about(args), [], []
    os.sched_setaffinity(0, {cores()[1]})
    for number in args.sidecars:
        folder = args.out / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = Run(args, number, folder)
        runs.append(run)
        try:
            run.go()
        except Fault as fault:
            faults.append(f"{number}: {fault}")
            say(f"  FAULT: {fault}")
        finally:
            shutil.rmtree(run.data / "control", ignore_errors=True)  # the keys among it
    return finish(args, runs, faults, facts)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        print(f"{Path(sys.argv[0]).name}: {fault}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
