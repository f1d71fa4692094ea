"""Measures what reading and changing a mesh of 10,000 resources costs an operator, and how soon a sidecar has a change."""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from deploy.lab import netns  # noqa: E402
from deploy.lab.mesh import Mesh  # noqa: E402
from deploy.lab.programs import Binaries, LabError  # noqa: E402

SUBSYSTEMS, PROFILES = 1000, 500  # the others are links
GOAL_S = 1.0


def arguments():
    parser = argparse.ArgumentParser(
        prog="test/bench/resources/run",
        description="A mesh of 10,000 subsystems, profiles and links in a control plane on one core: how long mortisectl takes to "
                    "apply all of it, to list it, to change one link and all of them, until a sidecar has acknowledged that, "
                    "and to go back.")
    parser.add_argument("--resources", type=int, default=10000, help="default and most %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--bin", type=Path, help="folder of the programs (default: built by Bazel)")
    parser.add_argument("--out", type=Path, help="folder for resources.json, resources.txt and logs (default: a new one under "
                        "the temporary folder)")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


def mesh_of(resources, port=8080):
    """Subsystem s0 is the one that has a sidecar."""
    links = resources - SUBSYSTEMS - PROFILES
    profiles = [{"name": f"p{i}", "role": "SERVER" if i % 2 else "CLIENT", "min_version": "TLS1_3"} for i in range(PROFILES)]
    made, step = [], 1
    while len(made) < links:
        for i in range(SUBSYSTEMS):
            if len(made) == links:
                break
            n = len(made)
            made.append({"name": f"l{n}", "client": f"s{i}", "server": f"s{(i + step) % SUBSYSTEMS}",
                         "client_port": 15100 + step, "server_port": port, "client_profile": f"p{2 * (n % (PROFILES // 2))}",
                         "server_profile": f"p{2 * (n % (PROFILES // 2)) + 1}"})
        step += 1
    return {"subsystems": [{"name": f"s{i}"} for i in range(SUBSYSTEMS)], "profiles": profiles, "links": made}


class Run:
    def __init__(self, args, mesh):
        self.args, self.mesh, self.rounds = args, mesh, []

    def timed(self, *words):
        began = time.monotonic()
        self.mesh.ctl(*words)
        return time.monotonic() - began

    def document(self, name, doc):
        path = self.mesh.folder / name
        path.write_text(json.dumps(doc))
        return path

    def start(self):
        self.mesh.start_control()
        core = {sorted(os.sched_getaffinity(0))[0]}
        for thread in os.listdir(f"/proc/{self.mesh.control.pid}/task"):
            os.sched_setaffinity(int(thread), core)
        self.whole = self.document("whole.json", mesh_of(self.args.resources))
        self.moved = self.document("moved.json", mesh_of(self.args.resources, port=8081))
        self.first_s = self.timed("apply", "-f", self.whole, "--prune")
        self.mesh.start_sidecar("s0", host="sidecar")
        self.mesh.wait_in_sync(1)

    def round(self):
        link = mesh_of(self.args.resources)["links"][0]
        one = self.document("one.json", {"links": [{**link, "server_port": 9000, "client_port": 19000}]})
        back = self.document("back.json", {"links": [link]})
        self.rounds.append({
            "list_s": self.timed("get", "links", "-o", "json"),
            "one_s": self.timed("apply", "-f", one),
            "one_acked_s": self.timed("apply", "-f", back, "--wait"),
            "all_acked_s": self.timed("apply", "-f", self.moved, "--wait"),
            "rollback_s": self.timed("rollback", str(self.before()), "--wait"),
            "check_s": self.timed_check(),
        })

    def before(self):
        return int(self.mesh.ctl_json("history")["revisions"][1]["version"])

    def timed_check(self):
        began = time.monotonic()
        self.mesh.ctl("check", check=False)  # subsystems without a sidecar: it has something to say
        return time.monotonic() - began

    def median(self, key):
        return statistics.median(found[key] for found in self.rounds)


ROWS = (
    ("get links -o json", "list_s"), ("apply of one link", "one_s"), ("  and acknowledged by the sidecar", "one_acked_s"),
    ("apply that changes all links, acknowledged", "all_acked_s"), ("rollback of that, acknowledged", "rollback_s"),
    ("check", "check_s"),
)


def report(run, out):
    lines = [f"{run.args.resources} resources, one core for the control plane; medians of {len(run.rounds)} rounds (least to most)",
             f"{'the first apply of all of them':<46}{run.first_s:>8.3f} s"]
    for title, key in ROWS:
        values = [found[key] for found in run.rounds]
        lines.append(f"{title:<46}{run.median(key):>8.3f} s   ({min(values):.3f} to {max(values):.3f})")
    rss = next(int(line.split()[1]) for line in Path(f"/proc/{run.mesh.control.pid}/status").read_text().splitlines()
               if line.startswith("VmRSS"))
    lines.append(f"{'resident memory of the control plane':<46}{rss / 1024:>8.1f} MiB")
    verdicts = [(f"{title.strip()} <= {GOAL_S:g} s", run.median(key) <= GOAL_S) for title, key in ROWS]
    verdicts.append((f"the first apply <= {GOAL_S:g} s", run.first_s <= GOAL_S))
    lines += ["", "Goals:", *(f"  {'pass' if passed else 'FAIL'}  {text}" for text, passed in verdicts)]
    print("\n".join(lines), flush=True)
    (out / "resources.txt").write_text("\n".join(lines) + "\n")
    (out / "resources.json").write_text(json.dumps(
        {"resources": run.args.resources, "first_s": run.first_s, "rounds": run.rounds, "rss_kib": rss,
         "goals": [{"goal": text, "passed": passed} for text, passed in verdicts]}, indent=1) + "\n")
    print(f"written: {out}")
    return all(passed for _, passed in verdicts)


def main():
    args = arguments()
    if not SUBSYSTEMS + PROFILES < args.resources <= 10000:
        print(f"test/bench/resources/run: --resources: must be more than {SUBSYSTEMS + PROFILES} and at most 10000", file=sys.stderr)
        return 2
    netns.enter_user_namespace()
    out = args.out or Path(tempfile.mkdtemp(prefix="mortise-bench-resources-"))
    out.mkdir(parents=True, exist_ok=True)
    with netns.Network(f"br{os.getpid()}-", ("control", "sidecar")) as hosts:
        mesh = Mesh(out, hosts, Binaries(args.bin) if args.bin else None)
        run = Run(args, mesh)
        try:
            run.start()
            for _ in range(args.rounds):
                run.round()
            good = report(run, out)
        finally:
            mesh.stop()
    return 0 if good or not args.gate else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as err:
        print(f"test/bench/resources/run: {err}", file=sys.stderr)
        sys.exit(2)
