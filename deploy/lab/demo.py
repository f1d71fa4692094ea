"""deploy/demo once everything is installed and built: the whole product at work."""
import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from . import netns
from .cut_off import CutOff
from .mesh import LINKS, SUBSYSTEMS, Mesh, document
from .programs import LabError
from .refusals import Refusals
from .traffic import Traffic

PREFIX = "mortise-demo-"
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
        self.rotations = 0
        self.roots = 0
        self.cut_off = None
        self.mesh = None
        self.traffic = None

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
        self.traffic = Traffic(self.mesh).serve()
        for name in SUBSYSTEMS:
            self.mesh.start_sidecar(name, ready=False)
        for name in SUBSYSTEMS:
            self.mesh.sidecar(name).wait_ready()
            status = self.mesh.sidecar(name).config()
            self.say(f"{name}: joined with a one-time token as {status['identity']['spiffe_id']}")
        self.mesh.wait_in_sync()
        self.say("four sidecars have acknowledged the policy")

    def progress(self, what):
        totals = self.traffic.totals().values()
        self.say(f"{what}: {sum(t['connections'] for t in totals)} connections, "
                 f"{sum(t['bytes'] for t in totals) / 1e6:.1f} MB, "
                 f"{sum(t['dropped'] for t in totals)} dropped, "
                 f"{sum(t['corrupted'] for t in totals)} corrupted")

    def rotate(self):
        began = time.monotonic()
        self.mesh.ctl("rotate", "--all", "--wait")
        self.rotations += 1
        took = time.monotonic() - began
        self.traffic.more(5)
        self.progress(f"rotation {self.rotations}/{self.args.rotations} of all certificates "
                      f"in {took * 1000:.0f} ms")

    def rotate_root(self):
        """A new root for the mesh, stage by stage, and the old one retired."""
        began = time.monotonic()
        said = self.mesh.ctl("rotate", "root", "--wait").stdout
        self.roots += 1
        self.mesh.roots.write_text(self.mesh.ctl("roots").stdout)
        took = time.monotonic() - began
        self.traffic.more(5)
        stages = [line.split(":")[0] for line in said.splitlines()[1:]]
        self.progress(f"new root ({', '.join(dict.fromkeys(stages))}) in {took * 1000:.0f} ms")

    def restart_control(self):
        """The control plane is killed; the sidecars go on without it, and it takes up where it was."""
        began = time.monotonic()
        self.mesh.control.kill()
        self.traffic.more(5)
        self.mesh.start_control()
        self.mesh.wait_in_sync(len(SUBSYSTEMS))
        self.traffic.more(5)
        self.progress("control plane killed and started again, all four in sync after "
                      f"{(time.monotonic() - began) * 1000:.0f} ms")

    def revoke(self):
        """A subsystem is taken out of service; the others do not notice."""
        partner = CutOff(self.mesh)
        partner.join()
        self.cut_off = partner.revoke()
        partner.leave()
        self.traffic.more(5)
        self.progress(f"partner revoked: its {self.cut_off['streams']} live streams ended {self.cut_off['seconds']:.2f} s "
                      f"after the command (grace {self.cut_off['grace_s']} s), no other one got in")

    def change_policy(self):
        self.mesh.apply(document(client={"groups": ["P-256"]}, server={"groups": ["P-256"]}),
                        "--wait")
        self.mesh.wait_in_sync()
        self.traffic.more(5)
        self.progress("cipher policy: key exchange by P-256 from now on, acknowledged by all")
        self.mesh.apply(document(), "--wait")
        self.mesh.wait_in_sync()
        self.traffic.more(5)
        self.progress("cipher policy: back to the first")

    # The end.

    def facts(self, link, client):
        """What the client's sidecar logged of the link's connections: the last, and all seen."""
        entries = [e for e in self.mesh.sidecar(client).events("connection")
                   if e.get("link") == link and e.get("direction") == "outbound"]
        return entries

    def summary(self, refusals):
        links = []
        totals = self.traffic.totals()
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
            "links": links, "rotations": self.rotations, "root_rotations": self.roots,
            "revocation": self.cut_off,
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
        self.traffic.drive()
        self.say("traffic on all four links")
        self.rotate_root()
        refusals = Refusals(self.mesh)
        refusals.prepare()
        for _ in range(self.args.rotations // 2):
            self.rotate()
        self.change_policy()
        self.restart_control()
        self.revoke()
        while self.rotations < self.args.rotations:
            self.rotate()
        self.say("what must be refused:")
        rows = refusals.run(lambda row: self.say(
            f"  {'refused ' if row[1] else 'ACCEPTED'}  {row[0]}: {row[2]}"))
        self.traffic.more(5)
        self.traffic.finish()
        if not self.args.keep:
            self.mesh.stop()
        result = self.summary(rows)
        print()
        self.table(result)
        print()
        print(f"rotations {result['rotations']}, of the root {result['root_rotations']}, "
              f"dropped {result['dropped']}, corrupted {result['corrupted']}, "
              f"refusals {result['refused']}/{result['refusals_expected']}, "
              f"{result['seconds']} s")
        for link in result["links"]:
            for problem in link["problems"]:
                print(f"  {link['link']}: {problem}")
        if self.args.summary:
            Path(self.args.summary).write_text(json.dumps(result, indent=2) + "\n")
        good = (result["dropped"] == 0 and result["corrupted"] == 0 and
                result["refused"] == result["refusals_expected"] and
                self.cut_off["refused"] and
                all(link["exchanges"] > 0 and link["tls_version"] or self.args.keep
                    for link in result["links"]))
        return 0 if good else 1

    def told_to_keep(self):
        ctl = f"{self.mesh.bin.ctl} --socket {self.mesh.socket}"
        print(f"""
It is left running. Try:
  {ctl} get workloads
  {ctl} rotate --all --wait
  {ctl} elevate --for 10m --reason "to try it" && {ctl} rotate root --wait
  ip netns exec {PREFIX}management curl -s -X POST http://127.0.0.1:15101/hello/20 | xxd
Remove it with: deploy/demo --stop""")

    def down(self):
        if self.traffic is not None:
            self.traffic.stop()
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
    # The namespaces' names are the machine's, in a user namespace they are our own.
    alone = os.geteuid() == 0 and os.environ.get("MORTISE_LAB_USERNS") != "1"
    lock = open("/run/mortise-demo.lock" if alone else folder.parent / "mortise-demo.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("deploy/demo: another one is running", file=sys.stderr)
        return 1
    demo.network.remove()
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
    for number in (signal.SIGINT, signal.SIGTERM):  # a second one would leave half of it behind
        signal.signal(number, signal.SIG_IGN)
    demo.down()
    return status


if __name__ == "__main__":
    sys.exit(main())
