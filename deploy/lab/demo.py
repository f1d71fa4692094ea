"""deploy/demo once everything is installed and built: the whole product at work."""
import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from . import netns
from .mesh import LINKS, SUBSYSTEMS, Mesh, document
from .programs import LabError, Process, wait_for
from .refusals import Refusals

PREFIX = "mortise-demo-"
SERVES = {"portal": ["http:127.0.0.1:8081"], "gateway": ["http:127.0.0.1:8082"],
          "analytics": ["http:127.0.0.1:8083", "lines:127.0.0.1:9083"]}
KINDS = {"management-portal": "http", "management-gateway": "http",
         "management-analytics": "http", "gateway-analytics": "lines"}
ROTATIONS = 10


def state_folder():
    base = os.environ.get("XDG_STATE_HOME")
    if base is None and os.geteuid() == 0:
        base = "/var/tmp"
    return Path(base or Path.home() / ".local" / "state") / "mortise-demo"


class Demo:
    def __init__(self, args):
        self.args = args
        self.folder = state_folder()
        self.network = netns.Network(PREFIX, ("control", *SUBSYSTEMS))
        self.started = time.monotonic()
        self.apps = {}
        self.drivers = {}
        self.rotations = 0
        self.mesh = None

    def say(self, text):
        print(f"{time.monotonic() - self.started:7.1f}s  {text}", flush=True)

    # The parts.

    def up(self):
        self.say("five network namespaces on one bridge: control, " + ", ".join(SUBSYSTEMS))
        self.network.create()
        self.mesh = Mesh(self.folder, self.network)
        self.say("control plane: root, issuer and store made at its first start")
        self.mesh.start_control()
        self.mesh.apply(document())
        for name, specs in SERVES.items():
            self.apps[name] = Process(f"app-{name}", self._apps("serve", *specs), self.folder,
                                      self.network[name])
        for name in SUBSYSTEMS:
            self.mesh.start_sidecar(name, ready=False)
        for name in SUBSYSTEMS:
            self.mesh.sidecar(name).wait_ready()
            status = self.mesh.sidecar(name).config()
            self.say(f"{name}: joined with a one-time token as {status['identity']['spiffe_id']}")
        self.mesh.wait_in_sync()
        self.say("four sidecars have acknowledged the policy")

    @staticmethod
    def _apps(*args):
        root = Path(__file__).resolve().parents[2]
        return ["env", f"PYTHONPATH={root}", sys.executable, "-m", "deploy.lab.apps", *args]

    def traffic(self):
        for client in ("management", "gateway"):
            specs = [f"{name}={KINDS[name]}:127.0.0.1:{port}"
                     for name, from_, _, port, _ in LINKS if from_ == client]
            out = open(self.folder / f"drive-{client}.json", "wb")
            self.drivers[client] = Process(f"drive-{client}",
                                           self._apps("drive", *specs, "--pause", "0.02"),
                                           self.folder, self.network[client], stdout=out)
        wait_for("traffic on every link",
                 lambda: all(t["exchanges"] > 0 for t in self.totals().values()) and
                 len(self.totals()) == len(LINKS))
        self.say("traffic on all four links")

    def totals(self):
        links = {}
        for client in self.drivers:
            lines = (self.folder / f"drive-{client}.json").read_bytes().splitlines()
            for line in reversed(lines):
                try:
                    links.update(json.loads(line)["links"])
                    break
                except ValueError:
                    continue
        return links

    def progress(self, what):
        totals = self.totals().values()
        self.say(f"{what}: {sum(t['connections'] for t in totals)} connections, "
                 f"{sum(t['bytes'] for t in totals) / 1e6:.1f} MB, "
                 f"{sum(t['dropped'] for t in totals)} dropped, "
                 f"{sum(t['corrupted'] for t in totals)} corrupted")

    def more_traffic(self, exchanges):
        """Waits until every link has carried that many more exchanges."""
        before = {name: t["exchanges"] for name, t in self.totals().items()}
        wait_for("traffic goes on", lambda: all(
            t["exchanges"] >= before[name] + exchanges for name, t in self.totals().items()), 120)

    def rotate(self):
        began = time.monotonic()
        self.mesh.ctl("rotate", "--all", "--wait")
        self.rotations += 1
        took = time.monotonic() - began
        self.more_traffic(5)
        self.progress(f"rotation {self.rotations}/{self.args.rotations} of all certificates "
                      f"in {took * 1000:.0f} ms")

    def change_policy(self):
        self.mesh.apply(document(client={"groups": ["P-256"]}, server={"groups": ["P-256"]}),
                        "--wait")
        self.mesh.wait_in_sync()
        self.more_traffic(5)
        self.progress("cipher policy: key exchange by P-256 from now on, acknowledged by all")
        self.mesh.apply(document(), "--wait")
        self.mesh.wait_in_sync()
        self.more_traffic(5)
        self.progress("cipher policy: back to the first")

    def stop_traffic(self):
        for driver in self.drivers.values():
            driver.signal(signal.SIGTERM)
        for driver in self.drivers.values():
            driver.wait(60)

    # The end.

    def facts(self, link, client):
        """What the client's sidecar logged of the link's connections: the last, and all seen."""
        entries = [e for e in self.mesh.sidecar(client).events("connection")
                   if e.get("link") == link and e.get("direction") == "outbound"]
        return entries

    def summary(self, refusals):
        links = []
        totals = self.totals()
        for name, client, server, _, _ in LINKS:
            entries = self.facts(name, client)
            last = entries[-1] if entries else {}
            generations = [int(e["generation"]) for e in entries if "generation" in e]
            links.append({
                "link": name, **{k: totals[name][k] for k in
                                 ("connections", "exchanges", "bytes", "dropped", "corrupted")},
                "problems": totals[name]["problems"],
                "tls_version": last.get("tls_version"), "cipher": last.get("cipher"),
                "groups": sorted({e.get("group") for e in entries if e.get("group")}),
                "peer": last.get("peer_id"),
                "generation": max(generations, default=0),
                "generations": len(set(generations)),
            })
        held = sum(1 for row in refusals if row[1])
        return {
            "links": links, "rotations": self.rotations,
            "dropped": sum(t["dropped"] for t in totals.values()),
            "corrupted": sum(t["corrupted"] for t in totals.values()),
            "refused": held, "refusals_expected": len(refusals),
            "refusals": [{"what": w, "held": h, "seen": s} for w, h, s in refusals],
            "seconds": round(time.monotonic() - self.started, 1),
        }

    @staticmethod
    def table(summary):
        head = ("link", "connections", "MB", "dropped", "corrupted", "TLS", "suite", "group",
                "generation", "peer identity")
        rows = [(r["link"], str(r["connections"]), f"{r['bytes'] / 1e6:.1f}", str(r["dropped"]),
                 str(r["corrupted"]), str(r["tls_version"]), str(r["cipher"]),
                 ", ".join(r["groups"]), f"{r['generation']} ({r['generations']} seen)",
                 str(r["peer"])) for r in summary["links"]]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row in (head, tuple("-" * w for w in widths), *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())

    def run(self):
        self.up()
        self.traffic()
        refusals = Refusals(self.mesh)
        refusals.prepare()
        for _ in range(self.args.rotations // 2):
            self.rotate()
        self.change_policy()
        while self.rotations < self.args.rotations:
            self.rotate()
        self.say("what must be refused:")
        rows = refusals.run(lambda row: self.say(
            f"  {'refused ' if row[1] else 'ACCEPTED'}  {row[0]}: {row[2]}"))
        self.more_traffic(5)
        self.stop_traffic()
        if not self.args.keep:
            self.mesh.stop()
        result = self.summary(rows)
        print()
        self.table(result)
        print()
        print(f"rotations {result['rotations']}, dropped {result['dropped']}, "
              f"corrupted {result['corrupted']}, "
              f"refusals {result['refused']}/{result['refusals_expected']}, "
              f"{result['seconds']} s")
        for link in result["links"]:
            for problem in link["problems"]:
                print(f"  {link['link']}: {problem}")
        if self.args.summary:
            Path(self.args.summary).write_text(json.dumps(result, indent=2) + "\n")
        good = (result["dropped"] == 0 and result["corrupted"] == 0 and
                result["refused"] == result["refusals_expected"] and
                all(link["exchanges"] > 0 and link["tls_version"] or self.args.keep
                    for link in result["links"]))
        return 0 if good else 1

    def told_to_keep(self):
        ctl = f"{self.mesh.bin.ctl} --socket {self.mesh.socket}"
        print(f"""
It is left running. Try:
  {ctl} get workloads
  {ctl} rotate --all --wait
  ip netns exec {PREFIX}management curl -s -X POST http://127.0.0.1:15101/hello/20 | xxd
Remove it with: deploy/demo --stop""")

    def down(self):
        for process in (*self.drivers.values(), *self.apps.values()):
            process.kill()
        self.network.remove()


def main():
    parser = argparse.ArgumentParser(prog="deploy/demo", description=(
        "Four subsystems talk mTLS through their sidecars while certificates and policy are changed "
        "under load, and what must be refused is refused."))
    parser.add_argument("--summary", metavar="FILE", help="write the result as JSON, too")
    parser.add_argument("--rotations", type=int, default=ROTATIONS, metavar="N",
                        help="central rotations under traffic (default %(default)s)")
    parser.add_argument("--keep", action="store_true",
                        help="leave it running afterwards and say what to try")
    parser.add_argument("--stop", action="store_true", help="remove what --keep or a crash left")
    args = parser.parse_args()
    if args.rotations < 1:
        parser.error("--rotations: at least 1")
    netns.enter_user_namespace()
    if args.keep and os.environ.get("MORTISE_LAB_USERNS") == "1":
        parser.error("--keep needs root: without it the namespaces end with this command")

    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    demo = Demo(args)
    lock = open(folder.parent / "mortise-demo.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("deploy/demo: another one is running", file=sys.stderr)
        return 1
    demo.network.remove()
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    if args.stop:
        print("removed")
        return 0
    folder.mkdir(parents=True, mode=0o700)

    def interrupted(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    try:
        status = demo.run()
        if args.keep:
            demo.told_to_keep()
            return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except (LabError, netns.NetnsError) as err:
        print(f"deploy/demo: {err}\nLogs: {folder}", file=sys.stderr)
        status = 1
    demo.down()
    return status


if __name__ == "__main__":
    sys.exit(main())
