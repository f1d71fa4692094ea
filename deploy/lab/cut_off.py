"""A fifth subsystem joins a running mesh, has live connections, and is revoked: its connections end within the grace
time, it opens no other, and nobody else notices. What the demo shows of revocation."""
import json
import sys
import time

from .mesh import NAMESPACE, document
from .programs import LabError, Process, wait_for
from .traffic import ROOT

NAME, SERVER, HOST = "partner", "analytics", "gateway"  # it runs beside the gateway
CLIENT_PORT, SERVER_PORT, INBOUND_PORT = 15105, 10083, 15445
STREAMS = 20
GRACE_S = 1
LATE_S = 5  # beyond the grace time nothing may live on so long


def with_partner():
    mesh = document()
    mesh["subsystems"].append({"name": NAME, "namespace": NAMESPACE})
    mesh["links"].append({**mesh["links"][0], "name": f"{NAME}-{SERVER}", "client": NAME, "server": SERVER,
                          "client_port": CLIENT_PORT, "server_port": SERVER_PORT})
    return mesh


class CutOff:
    def __init__(self, mesh):
        self.mesh = mesh
        self.children = []
        self.out = mesh.folder / "partner.json"

    def _start(self, name, host, *argv, stdout=None):
        child = Process(name, ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "deploy.lab.echo", *argv],
                        self.mesh.folder, self.mesh.network[host], stdout=stdout)
        self.children.append(child)
        return child

    def _last(self):
        for line in reversed(self.out.read_bytes().splitlines()):
            try:
                return json.loads(line)
            except ValueError:
                continue  # a line half written
        return {}

    def join(self):
        """The subsystem, its sidecar and its live streams."""
        self.mesh.apply(with_partner(), "--wait")
        self.mesh.start_sidecar(NAME, "--inbound-listen", f"0.0.0.0:{INBOUND_PORT}", "--advertise",
                                f"{self.mesh.network[HOST].v4}:{INBOUND_PORT}", host=HOST)
        server = self._start("app-partner", SERVER, "serve", f"127.0.0.1:{SERVER_PORT}")
        wait_for("partner's server listens", lambda: "serving" in server.tail())
        with open(self.out, "wb") as out:
            self._start("drive-partner", HOST, "load", f"127.0.0.1:{CLIENT_PORT}", "--streams", str(STREAMS),
                        "--every-ms", "50", stdout=out)
        wait_for("partner's streams", lambda: self._last().get("streams") == STREAMS)
        before = self._last()
        if before["links"]["echo"]["dropped"]:
            raise LabError(f"partner: lost before it was revoked: {before['links']['echo']['problems']}")

    def revoke(self):
        """{streams, grace_s, seconds, refused}: live connections that were ended, how long after the command, and whether
        no new one got through from then on."""
        began = time.monotonic()
        self.mesh.ctl("revoke", "subsystem", NAME, "--grace", f"{GRACE_S}s", "--reason", "contract ended", "--wait")
        wait_for("partner's streams have ended", lambda: self._last()["alive"] == 0, GRACE_S + LATE_S)
        seconds = time.monotonic() - began
        after = self._last()
        wait_for("the next ones are refused",
                 lambda: self._last()["links"]["echo"]["dropped"] > after["links"]["echo"]["dropped"])
        return {"streams": STREAMS, "grace_s": GRACE_S, "seconds": round(seconds, 3),
                "refused": self._last()["short"] == after["short"]}

    def leave(self):
        """As it was before."""
        for child in self.children:
            child.stop()
        self.mesh.sidecars.pop(f"proxy-{NAME}").stop()
        self.mesh.apply(document(), "--prune", "--wait")
