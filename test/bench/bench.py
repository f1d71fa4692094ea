"""Measures pairs of sidecars against each other in one run; `run` starts it, README.md explains."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cells
import check
import peers
import pki
import process
import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OURS = "mortise"


class Unusable(Exception):
    """The run cannot begin, and why."""


def arguments():
    parser = argparse.ArgumentParser(
        prog="test/bench/run",
        description="Measures pairs of sidecars against each other: alternating inside each "
                    "round, medians over the rounds, ratios inside the same round.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=1.2,
                        help="measured window of a cell (default 1.2)")
    parser.add_argument("--quick", action="store_true",
                        help="smoke run: one round, short windows, 100 idle connections")
    parser.add_argument("--peers", default=",".join(peers.STANDARD),
                        help=f"which pairs, of {','.join(peers.KINDS)} (default %(default)s)")
    parser.add_argument("--cells", default=",".join(c.name for c in cells.STANDARD),
                        help=f"which cells, of {','.join(c.name for c in cells.ALL)} "
                        "(default %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for bench.json, bench.txt, bench.svg "
                        "(default: a new one under the temporary folder)")
    parser.add_argument("--gate", action="store_true",
                        help="exit 1 when a goal is missed or a cell of ours has errors")
    parser.add_argument("--goals", type=Path, default=HERE / "goals.json", help="the goals")
    parser.add_argument("--proxy", help="mortise-proxy to measure (default: built by Bazel)")
    parser.add_argument("--relay", help="plain_relay to measure (default: built by Bazel)")
    parser.add_argument("--load", help="load generator (default: built by Bazel)")
    parser.add_argument("--bazel", default="bazel", help="Bazel with its start-up options")
    parser.add_argument("--bazel-options", default="", help="options of its build command")
    parser.add_argument("--base-port", type=int, default=21000,
                        help="first of 10 ports a pair; all must lie outside the range of "
                        "net.ipv4.ip_local_port_range (default 21000)")
    parser.add_argument("--keep", action="store_true",
                        help="keep configurations, certificates and logs")
    args = parser.parse_args()

    for option, known in (("peers", list(peers.KINDS)), ("cells", [c.name for c in cells.ALL])):
        chosen = getattr(args, option).split(",")
        for name in chosen:
            if name not in known:
                parser.error(f"--{option}: no {name!r}; there are: {', '.join(known)}")
        setattr(args, option, [name for name in known if name in chosen])
    if args.quick:
        args.rounds, args.seconds = 1, 0.3
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    if not 0.1 <= args.seconds <= 60:
        parser.error("--seconds: 0.1 to 60")
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    last = args.base_port + 10 * len(peers.KINDS) - 1
    if args.base_port < 1024 or last > 65535 or (last >= low and args.base_port <= high):
        parser.error(f"--base-port: {args.base_port} to {last} must lie from 1024 to 65535 and "
                     f"outside {low} to {high}")
    return args


def build(args):
    """The programs to run: those given, the rest built by Bazel."""
    targets = {}
    if not args.load:
        targets["load"] = "//test/bench:load"
    if not args.proxy and any(issubclass(peers.KINDS[name], peers.Mortise) for name in args.peers):
        targets["proxy"] = "//proxy:mortise-proxy"
    if not args.relay and peers.PlainRelay.name in args.peers:
        targets["relay"] = "//test/bench:plain_relay"
    if targets:
        bazel, options = shlex.split(args.bazel), shlex.split(args.bazel_options)
        say(f"building {' '.join(targets.values())}")
        if subprocess.run([*bazel, "build", *options, *targets.values()], cwd=ROOT).returncode:
            raise Unusable("the build failed; --load and --proxy take programs built elsewhere")
        where = subprocess.run([*bazel, "info", *options, "bazel-bin"], cwd=ROOT, check=True,
                               stdout=subprocess.PIPE, text=True).stdout.strip()
        for option, target in targets.items():
            setattr(args, option, f"{where}/{target.removeprefix('//').replace(':', '/')}")
    return peers.Tools(load=os.path.abspath(args.load),
                       proxy=args.proxy and os.path.abspath(args.proxy),
                       relay=args.relay and os.path.abspath(args.relay),
                       envoy=peers.find_envoy(), ghostunnel=peers.find_ghostunnel())


def say(text):
    print(text, flush=True)


def about(args, tools, kinds, cores):
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        cpu = next((line.partition(":")[2].strip() for line in cpuinfo
                    if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(),
        "core_of_relays": cores[0], "core_of_load": cores[1],
        "rounds": args.rounds, "seconds": args.seconds, "quick": args.quick,
        "versions": {kind.name: kind.version(tools) for kind in kinds},
    }


def measure(args, tools, kinds, folder, cores, record):
    """All rounds. Traffic cells go cell by cell over the pairs, so that two numbers of a ratio
    are seconds apart; each round begins with another pair."""
    settings = cells.Settings(seconds=args.seconds)
    if args.quick:
        settings.connections, settings.warm, settings.verify_bytes = 100, 0.1, 1_000_000
    load = cells.Generator(tools, cores[1])
    own, stranger = pki.make(folder / "pki")
    order = list(peers.KINDS)
    pairs = [kind(tools, peers.ports(args.base_port, order.index(kind.name)), own, folder, cores[0])
             for kind in kinds]

    for pair in list(pairs):
        if pair.tls and pair.checked:
            faults = check.check(pair, stranger)
            say(f"check {pair.name}: {'; '.join(faults) or 'ok'}")
            if faults:  # its numbers would compare with nothing
                faults = [f"not measured: check: {fault}" for fault in faults]
                for name in filter(pair.runs, args.cells):
                    record.add(0, pair.name, cells.Result(name, faults=faults))
                pairs.remove(pair)

    for round_ in range(args.rounds):
        turned = pairs[round_ % len(pairs):] + pairs[:round_ % len(pairs)] if pairs else []
        began = time.monotonic()
        traffic = [cell for cell in cells.TRAFFIC if cell.name in args.cells]
        with contextlib.ExitStack() as stack:
            up = []
            for pair in turned if traffic else []:
                try:
                    up.append(stack.enter_context(pair))
                except RuntimeError as error:
                    for cell in (cell for cell in traffic if pair.runs(cell.name)):
                        record.add(round_, pair.name, cells.Result(cell.name, faults=[str(error)]))
            for cell in traffic:
                for pair in up:
                    one(round_, cell, pair, load, settings, record)
        for cell in cells.MEMORY:
            for pair in turned if cell.name in args.cells else []:
                one(round_, cell, pair, load, settings, record)
        say(f"round {round_ + 1} of {args.rounds}: {time.monotonic() - began:.0f} s")


def one(round_, cell, pair, load, settings, record):
    if not pair.runs(cell.name):
        return
    result = cells.run(cell, pair, load, settings)
    record.add(round_, pair.name, result)
    if not result.valid:
        say(f"  invalid: {pair.name} {cell.name}: {'; '.join(result.faults)}")


def finish(args, record, facts):
    """Prints and writes what was found; the exit status."""
    text = report.table(record) + "\n"
    invalid = record.invalid()
    if invalid:
        text += f"\nInvalid cells, in no median above ({len(invalid)}):\n"
        text += "".join(f"  round {round_ + 1}, {peer}, {cell}: {'; '.join(faults)}\n"
                        for round_, cell, peer, faults in invalid)
    verdicts = []
    if OURS in record.peers:
        goals = [goal for goal in json.loads(args.goals.read_text())
                 if goal["measure"].split(".")[0] in args.cells
                 and goal.get("against", OURS) in record.peers
                 and goal.get("of", OURS) in record.peers]
        verdicts = report.judge(record, goals, OURS)
        text += "\nGoals:\n" + "".join(
            f"  {'pass' if v.passed else 'FAIL'}  {v.text}\n" for v in verdicts)
    say("\n" + text)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bench.txt").write_text(text)
    report.write_json(args.out / "bench.json", record, facts, verdicts)
    if not report.chart(record, args.out / "bench.svg"):
        say("no chart: matplotlib is not installed, or nothing was measured")
    say(f"written to {args.out}")

    ours_invalid = any(peer == OURS for _, _, peer, _ in invalid)
    if args.gate and (ours_invalid or not verdicts or not all(v.passed for v in verdicts)):
        say("gate: missed")
        return 1
    return 0


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the finally clauses run
    process.extend_path()
    kinds = [peers.KINDS[name] for name in args.peers]
    tools = build(args)
    lacking = [what for what in (kind.missing(tools) for kind in kinds) if what]
    lacking += [] if shutil.which("wrk") or "http" not in args.cells else ["wrk"]
    if lacking:
        raise Unusable(f"missing: {', '.join(dict.fromkeys(lacking))}; test/install brings what is "
                       "a package, --peers leaves a pair out")
    args.out = args.out or Path(tempfile.mkdtemp(prefix="mortise-bench-"))

    cores = process.cores()
    if cores[0] == cores[1]:
        say("one core only: relays and load share it, so throughput and latency mean little")
    record = report.Record({kind.name: kind.title for kind in kinds}, cells.MEASURES)
    facts = about(args, tools, kinds, cores)
    for name, version in facts["versions"].items():
        say(f"{name}: {version}")

    folder = Path(tempfile.mkdtemp(prefix="mortise-bench-work-"))
    try:
        measure(args, tools, kinds, folder, cores, record)
    finally:
        if args.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return finish(args, record, facts)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unusable as error:
        say(error)
        sys.exit(2)
    except KeyboardInterrupt:
        say("\ninterrupted")
        sys.exit(130)
