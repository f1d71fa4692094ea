"""A mesh that runs for a long time while something goes wrong every minute: nothing may be corrupted at any time, nothing
lost but what a fault may cost, and nothing may grow. test/soak/README.md says more.

Drives: F3, F4, F18, R11, R71"""
import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from deploy.lab import netns
from deploy.lab.mesh import SUBSYSTEMS, Mesh, document
from deploy.lab.programs import LabError, wait_for
from test.soak.faults import FAULTS, WITNESS, Deck
from test.soak.traffic import SoakTraffic
from test.soak.watch import AccessLogs, Watch, told

ROOT = Path(__file__).resolve().parents[2]
ROTATE_EVERY_S = 5
SAMPLE_EVERY_S = 5
ACCESS_LOG_TURN_S = 120
GRACE_S = 5  # a client looks at a connection now and then: it learns of a fault that late
RECOVER_S = 90
DRAIN = "3s"
# What a heap may still settle by, the chains it remembers included; descriptors that come and go with the load.
GROWN_KIB, GROWN_RATIO, GROWN_FDS = 2048, 1.15, 32
IDLE_FDS = 8
SANITIZED = os.environ.get("MORTISE_CONFIG", "opt") not in ("opt", "clang")  # keeps freed memory on purpose
EXCHANGES_MIN_S = 5  # of each link on average; below that nothing was shown


class Happened:
    """A fault that was tried."""

    def __init__(self, fault, subsystem):
        self.fault, self.subsystem = fault, subsystem
        self.costs = fault.costs(subsystem)
        self.began, self.mended, self.ended = time.monotonic(), None, None
        self.did, self.broken = "", None

    def covers(self, began, ended):
        last = self.ended if self.ended is not None else time.monotonic()
        return ended >= self.began and began <= last + GRACE_S


class Soak:
    def __init__(self, args, folder, network):
        self.args = args
        self.mesh = Mesh(folder, network)
        self.root, self.python = ROOT, sys.executable
        self.rng = random.Random(args.seed)
        self.traffic = None
        self.watch, self.access = Watch(), AccessLogs(folder)
        self.happened, self.rotations, self.rotation_faults = [], [], []
        self.ended_alone, self.over = [], threading.Event()
        self.started = time.monotonic()
        self._replaced = set()

    def say(self, text):
        print(f"{time.monotonic() - self.started:7.1f}s  {text}", flush=True)

    # What faults use.

    def start_sidecar(self, subsystem, ready=True):
        return self.mesh.start_sidecar(
            subsystem, "--access-log", self.access.path(f"proxy-{subsystem}"),
            "--drain-timeout", DRAIN, ready=ready)

    def start_control(self):
        return self.mesh.start_control()

    @contextlib.contextmanager
    def replacing(self, program):
        """The end of this program is wanted; another will have taken its place."""
        self._replaced.add(program)
        yield

    # The run.

    def programs(self):
        return [self.mesh.control, *(self.mesh.sidecar(name) for name in SUBSYSTEMS)]

    def up(self):
        self.start_control()
        self.mesh.apply(document())
        for name in SUBSYSTEMS:
            self.start_sidecar(name, ready=False)
        for name in SUBSYSTEMS:
            self.mesh.sidecar(name).wait_ready()
        self.mesh.wait_in_sync()
        self.watch.idle_now(self.programs())
        self.traffic = SoakTraffic(self.mesh, self.args.pause).serve().drive()

    def rotate_all(self):
        while not self.over.wait(ROTATE_EVERY_S):
            began = time.monotonic()
            done = self.mesh.ctl("rotate", "--all", "--wait", "--timeout", "20s", check=False)
            ended = time.monotonic()
            if done.returncode == 0:
                self.rotations.append(ended - began)
            else:
                said = (done.stderr.strip().splitlines() or ["?"])[-1]
                self.rotation_faults.append((began, ended, said))

    def recovered(self):
        """Everybody is ready, has the policy in force, and every link carries again."""
        wait_for("everybody is ready", lambda: all(p.ready() for p in self.programs()), RECOVER_S, 0.1)
        wait_for("everybody is in sync", lambda: int(self.mesh.ctl_json("status").get("in_sync", 0)) >=
                 len(SUBSYSTEMS), RECOVER_S, 0.2)
        before = {name: t["exchanges"] for name, t in self.traffic.totals().items()}
        wait_for("every link carries again", lambda: all(
            t["exchanges"] >= before[name] + 3 for name, t in self.traffic.totals().items()), RECOVER_S, 0.1)

    def one_fault(self, deck):
        happened = Happened(*deck.draw())
        self.happened.append(happened)
        try:
            happened.did = happened.fault.function(self, self.rng, happened.subsystem)
            happened.mended = time.monotonic()
            self.recovered()
        except Exception as err:  # whatever it was, it is told, and the soak goes on
            happened.broken = f"{type(err).__name__} {err}".splitlines()[0]
        happened.ended = time.monotonic()
        took = happened.ended - (happened.mended or happened.ended)
        self.say(f"fault {len(self.happened)}: {happened.fault.name} {happened.did}: " +
                 (f"BROKEN: {happened.broken}" if happened.broken else f"recovered in {took:.1f} s"))

    def faults(self):
        deck = Deck(self.rng, self.args.faults)
        begun = time.monotonic()
        for number in range(10 ** 9):
            # Anywhere within its minute, the first quarter left for memory to settle.
            at = begun + self.args.fault_every * (number + self.rng.uniform(0.25, 1))
            if self.over.wait(max(0, at - time.monotonic())):
                return
            self.one_fault(deck)

    def check_alive(self):
        for program in self.programs():
            if not program.alive() and program not in self._replaced:
                self._replaced.add(program)
                self.ended_alone.append(f"{program.name}: {program.child.returncode}")
                self.say(f"ENDED BY ITSELF: {self.ended_alone[-1]}\n{program.tail(40)}")

    def unexcused(self):
        """Losses that no fault may cost."""
        return [lost for lost in self.traffic.lost() if lost["corrupted"] or not any(
            lost["link"] in h.costs and h.covers(lost["began"], lost["ended"]) for h in self.happened)]

    def unexcused_rotations(self):
        return [said for began, ended, said in self.rotation_faults if not any(
            not h.fault.rotates and h.covers(began, ended) for h in self.happened)]

    def minute(self, number):
        totals = self.traffic.totals().values()
        text = ", ".join(f"{s.name.removeprefix('proxy-')} {s.rss[-1]}/{s.fds[-1]}" for s in
                         (self.watch.of(p) for p in self.programs() if (p.name, p.pid) in self.watch.series)
                         if s.rss)
        self.say(f"minute {number}: {sum(t['exchanges'] for t in totals)} exchanges, "
                 f"{sum(t['connections'] for t in totals)} connections, "
                 f"{sum(t['bytes'] for t in totals) / 1e6:.0f} MB, "
                 f"{sum(t['corrupted'] for t in totals)} corrupted, "
                 f"lost {sum(t['dropped'] for t in totals)}, of these {len(self.unexcused())} unexcused; "
                 f"{len(self.rotations)} rotations, {len(self.rotation_faults)} not in time; "
                 f"KiB/descriptors: {text}")

    def run(self):
        self.up()
        self.say(f"traffic on every link; {self.args.minutes:g} minutes from now, "
                 f"a fault every {self.args.fault_every:g} s, seed {self.args.seed}")
        self.started = time.monotonic()
        threads = [threading.Thread(target=self.rotate_all), threading.Thread(target=self.faults)]
        for thread in threads:
            thread.start()
        end = self.started + self.args.minutes * 60
        minutes, turn = 0, time.monotonic() + ACCESS_LOG_TURN_S
        try:
            while (now := time.monotonic()) < end:
                self.watch.sample(now - self.started, [p for p in self.programs() if p.alive()])
                self.check_alive()
                if now >= turn:
                    turn += ACCESS_LOG_TURN_S
                    self.access.turn([self.mesh.sidecar(name) for name in SUBSYSTEMS])
                if now >= self.started + 60 * (minutes + 1):
                    minutes += 1
                    self.minute(minutes)
                self.over.wait(min(SAMPLE_EVERY_S, max(0.1, end - now)))
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        self.check_alive()

    # The end.

    def finish(self):
        """Ends the traffic, then everything; returns {what must hold: [what did not]}."""
        totals = self.traffic.finish()
        checks = {"nothing corrupted": [lost for lost in self.traffic.lost() if lost["corrupted"]] +
                  self.traffic.told_by_servers()}
        checks["nothing lost but what a fault may cost"] = [
            lost for lost in self.unexcused() if not lost["corrupted"]]
        checks["every fault as promised"] = [f"{h.fault.name} {h.did}: {h.broken}"
                                             for h in self.happened if h.broken]
        checks["rotations in time"] = self.unexcused_rotations() or (
            [] if len(self.rotations) > 0 else ["none at all"])
        checks["no program ended by itself"] = self.ended_alone
        wanted = EXCHANGES_MIN_S * self.args.minutes * 60
        checks["enough traffic"] = [f"{name}: {t['exchanges']} exchanges, {wanted:.0f} wanted"
                                    for name, t in totals.items() if t["exchanges"] < wanted]
        memory, checks["descriptors flat"] = self.flat()
        if not SANITIZED:
            checks["memory flat"] = memory
        checks["descriptors back when idle"] = self.idle_descriptors()
        checks["programs end in order"] = self.end()
        self.access.finish()
        return checks

    def end(self):
        for program in self.programs():
            program.signal(signal.SIGTERM)
        for program in self.programs():
            program.wait()
        return [f"{p.name}: {p.child.returncode}\n{p.tail(30)}" for p in self.programs()
                if p.child.returncode != 0]

    def warm_s(self):
        return min(300, self.args.minutes * 60 / 4)

    def long_lived(self):
        """Series long enough to judge: most of the run, after warming up."""
        found = [s.after(self.warm_s()) for s in self.watch.series.values()]
        return [s for s in found if len(s.at) >= 8 and s.at[-1] - s.at[0] >= self.args.minutes * 60 / 4]

    def flat(self):
        memory, fds = [], []
        for series in self.long_lived():
            first, last = series.quarters(series.anon)
            if last > first * GROWN_RATIO + GROWN_KIB:
                memory.append(f"{series.name}: anonymous KiB {first:.0f} -> {last:.0f}")
            first, last = series.quarters(series.fds)
            if last > first + GROWN_FDS:
                fds.append(f"{series.name}: {first:.0f} -> {last:.0f}")
        return memory, fds

    def idle_descriptors(self):
        def above():
            return [f"{p.name}: {p.fds()}, {self.watch.idle[p.name]} before the traffic"
                    for p in self.programs() if p.alive() and
                    p.fds() > self.watch.idle[p.name] + IDLE_FDS]

        try:
            wait_for("descriptors come back", lambda: not above(), 120, 0.5)
        except LabError:
            pass
        return above()

    def report(self, checks):
        totals = self.traffic.totals()
        times = sorted(self.rotations)
        return {
            "seed": self.args.seed, "minutes": self.args.minutes, "ok": not any(checks.values()),
            "checks": checks,
            "links": {name: {k: v for k, v in t.items() if k != "problems"} for name, t in totals.items()},
            "losses": len(self.traffic.lost()),
            "rotations": {"done": len(times), "not_in_time": len(self.rotation_faults),
                          "p50_ms": round(statistics.median(times) * 1000) if times else None,
                          "max_ms": round(times[-1] * 1000) if times else None},
            "faults": [{"name": h.fault.name, "did": h.did, "at_s": round(h.began - self.started, 1),
                        "lasted_s": round((h.mended or h.ended) - h.began, 1),
                        "recovered_s": round(h.ended - (h.mended or h.ended), 1), "broken": h.broken,
                        "lost": sum(h.covers(x["began"], x["ended"]) for x in self.traffic.lost())}
                       for h in self.happened],
            "processes": [s.summary() for s in self.long_lived()],
            "witness": WITNESS,
            "closed": dict(self.access.reasons), "connection_errors": dict(self.access.errors),
            "log": told([*self.programs()]),
        }


def main():
    parser = argparse.ArgumentParser(prog="test/soak/run", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, help="of the faults (default: by chance, printed)")
    parser.add_argument("--fault-every", type=float, default=60, metavar="S")
    parser.add_argument("--faults", nargs="+", choices=sorted(FAULTS), help="only these, in rounds")
    parser.add_argument("--pause", type=float, default=0.1, metavar="S",
                        help="between two exchanges of a client (default %(default)s)")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="the whole report as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = int.from_bytes(os.urandom(4), "big")
    netns.enter_user_namespace()
    for name in ("ASAN", "TSAN", "UBSAN"):  # a report ends the process with a status that is seen here
        os.environ.setdefault(f"{name}_OPTIONS", "halt_on_error=1:exitcode=99:print_stacktrace=1")
    print(f"soak: seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mortise-soak-") as folder, \
            netns.Network(f"ms{os.getpid()}-", ("control", *SUBSYSTEMS)) as network:
        soak, report = Soak(args, folder, network), {"ok": False}
        try:
            soak.run()
            checks = soak.finish()
            report = soak.report(checks)
        finally:
            if soak.traffic is not None:
                soak.traffic.stop()
            soak.mesh.stop()
            if args.keep or not report["ok"]:
                kept = Path(tempfile.mkdtemp(prefix="mortise-soak-kept-"))
                for path in Path(folder).glob("*.log"):
                    path.rename(kept / path.name)
                print(f"soak: logs are kept in {kept}")
    for process in report["processes"]:
        print("soak: {name} over {minutes} min: RSS KiB {rss_kib[0]} -> {rss_kib[1]}, "
              "{rss_slope_kib_h:+} KiB/h; anonymous {anon_slope_kib_h:+} KiB/h; descriptors "
              "{fds_quarters[0]:.0f} -> {fds_quarters[1]:.0f}, {fds_idle} when idle".format(**process))
    for what, wrong in checks.items():
        print(f"soak: {what}: {'ok' if not wrong else 'FAILED'}")
        for item in wrong[:10]:
            print(f"        {item}")
    if args.summary:
        args.summary.parent.mkdir(parents=True, exist_ok=True)
        args.summary.write_text(json.dumps(report, indent=1) + "\n")
    print(f"soak: {len(checks) - sum(map(bool, checks.values()))} passed, "
          f"{sum(map(bool, checks.values()))} failed (seed {args.seed})")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
