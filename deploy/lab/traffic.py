"""The subsystems' applications of a running mesh, and the totals of what they exchanged."""
import json
import signal
import sys
from pathlib import Path

from .mesh import LINKS
from .programs import LabError, Process, wait_for

SERVES = {"portal": ["http:127.0.0.1:8081"], "gateway": ["http:127.0.0.1:8082"],
          "analytics": ["http:127.0.0.1:8083", "lines:127.0.0.1:9083"]}
KINDS = {"management-portal": "http", "management-gateway": "http",
         "management-analytics": "http", "gateway-analytics": "lines"}
ROOT = Path(__file__).resolve().parents[2]


class Traffic:
    """`twin`: what the names of the hosts end with, when they are the second of each subsystem."""

    def __init__(self, mesh, pause_s=0.02, twin=""):
        self.mesh = mesh
        self.pause_s = pause_s
        self.twin = twin
        self.servers = {}
        self.drivers = {}

    def _start(self, name, host, command, specs, stdout=None):
        argv = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "deploy.lab.apps", command,
                *specs, "--pause", self.pause_s]
        return Process(name + self.twin, argv, self.mesh.folder, self.mesh.network[host + self.twin],
                       stdout=stdout)

    def serve(self):
        for name, specs in SERVES.items():
            self.servers[name] = self._start(f"app-{name}", name, "serve", specs)
        for server in self.servers.values():
            wait_for(f"{server.name} listens", lambda s=server: "serving" in s.tail())
        return self

    def drive(self):
        """Begins traffic on all links and waits until each has carried some."""
        for client in ("management", "gateway"):
            specs = [f"{name}={KINDS[name]}:127.0.0.1:{port}"
                     for name, from_, _, port, _ in LINKS if from_ == client]
            with open(self._totals_file(client), "wb") as out:
                self.drivers[client] = self._start(f"drive-{client}", client, "drive", specs, out)
        wait_for("traffic on every link", lambda: len(self.totals()) == len(LINKS) and
                 all(t["exchanges"] > 0 for t in self.totals().values()))
        return self

    def _totals_file(self, client):
        return self.mesh.folder / f"drive-{client}{self.twin}.json"

    def totals(self):
        """{link: {connections, exchanges, bytes, dropped, corrupted, problems}}"""
        links = {}
        for client in self.drivers:
            for line in reversed(self._totals_file(client).read_bytes().splitlines()):
                try:
                    links.update(json.loads(line)["links"])
                    break
                except ValueError:
                    continue  # a line half written
        return links

    def more(self, exchanges, timeout_s=120):
        """Waits until every link has carried that many more exchanges."""
        before = {name: t["exchanges"] for name, t in self.totals().items()}

        def enough():
            return all(t["exchanges"] >= before[name] + exchanges
                       for name, t in self.totals().items())

        try:
            wait_for(f"{exchanges} more exchanges on every link", enough, timeout_s)
        except LabError as err:
            problems = {n: t["problems"] for n, t in self.totals().items() if t["problems"]}
            raise LabError(f"{err}; problems: {problems}") from None

    def finish(self):
        """Ends the traffic in order and returns the totals."""
        for driver in self.drivers.values():
            driver.signal(signal.SIGTERM)
        for driver in self.drivers.values():
            driver.wait(60)
        return self.totals()

    def losses(self):
        """Everything that went wrong, as text; empty when nothing did."""
        return [f"{name}: dropped {t['dropped']} corrupted {t['corrupted']}: {t['problems']}"
                for name, t in self.totals().items() if t["dropped"] or t["corrupted"]]

    def stop(self):
        for process in (*self.drivers.values(), *self.servers.values()):
            process.kill()
