"""The traffic of a soak: totals, and every single loss with its time, read as the drivers write them."""
import json
import sys
import threading

from deploy.lab.mesh import LINKS
from deploy.lab.programs import Process, wait_for
from deploy.lab.traffic import KINDS, ROOT, SERVES, Traffic

CLIENTS = ("management", "gateway")


class SoakTraffic(Traffic):
    """As Traffic, with test/soak/load.py as its drivers."""

    def __init__(self, mesh, pause_s):
        super().__init__(mesh, pause_s)
        self._at = dict.fromkeys(CLIENTS, 0)
        self._totals = {}
        self._losses = []
        self._lock = threading.Lock()

    def drive(self):
        for client in CLIENTS:
            specs = [f"{name}={KINDS[name]}:127.0.0.1:{port}"
                     for name, from_, _, port, _ in LINKS if from_ == client]
            argv = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.soak.load", *specs,
                    "--pause", self.pause_s]
            with open(self._totals_file(client), "wb") as out:
                self.drivers[client] = Process(f"drive-{client}", argv, self.mesh.folder,
                                               self.mesh.network[client], stdout=out)
        wait_for("traffic on every link", lambda: len(self.totals()) == len(LINKS) and
                 all(t["exchanges"] > 0 for t in self.totals().values()))
        return self

    def _read(self):
        """What the drivers have written since the last time, whole lines only."""
        for client in self.drivers:
            with open(self._totals_file(client), "rb") as file:
                file.seek(self._at[client])
                text = file.read()
            text = text[:text.rfind(b"\n") + 1]
            self._at[client] += len(text)
            for line in text.splitlines():
                entry = json.loads(line)
                if "lost" in entry:
                    self._losses.append(entry["lost"])
                else:
                    self._totals.update(entry["links"])

    def totals(self):
        with self._lock:
            self._read()
            return dict(self._totals)

    def lost(self):
        """[{link, what, began, ended, corrupted, error}], in the order in which they were told."""
        with self._lock:
            self._read()
            return list(self._losses)

    def told_by_servers(self):
        """What the applications behind the servers' sidecars found wrong."""
        return [line for server in self.servers.values()
                for line in server.log.read_text(errors="replace").splitlines()
                if "corrupted" in line or "Traceback" in line]

    def restart_server(self, subsystem):
        self.servers[subsystem].kill()
        log = self.servers[subsystem].log
        before = log.read_text(errors="replace").count("serving")
        self.servers[subsystem] = self._start(f"app-{subsystem}", subsystem, "serve",
                                              SERVES[subsystem])
        wait_for(f"the application of {subsystem} listens again",
                 lambda: log.read_text(errors="replace").count("serving") > before)
