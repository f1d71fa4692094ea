"""A control plane alone, on loopback: for tests of its ports, without hosts or sidecars."""
import subprocess
from pathlib import Path

from deploy.lab.mesh import takes_elevation
from deploy.lab.programs import Binaries, Program, own_environment
from test.testlib.static import free_port


class LoneControl:
    TRUST_DOMAIN = "lone.test"

    def __init__(self, folder, binaries=None, socket=None):
        self.socket = Path(socket or Path(folder) / "operator.sock")
        self.folder, self.bin, self.port = Path(folder), binaries or Binaries(), free_port()
        self.bin.check("control", "ctl")
        self.data = self.folder / "control"
        subprocess.run([self.bin.ctl, "init", self.data, "--trust-domain", self.TRUST_DOMAIN],
                       check=True, capture_output=True, env=own_environment())
        self.program = None

    def start(self, *flags, env=None, ready=True):
        self.program = Program(
            "mortise-control", [self.bin.control, "--config", self.data / "control.yaml",
                                "--listen", f"127.0.0.1:{self.port}", "--operator-socket",
                                self.socket, *flags], self.folder, env=env)
        if ready:
            self.program.wait_ready()
        return self

    def try_ctl(self, *args):
        """mortisectl over the operator socket; the finished process."""
        return subprocess.run([str(part) for part in (self.bin.ctl, "--socket", self.socket, *args)], check=False,
                              capture_output=True, text=True, env=own_environment(), timeout=120)

    def ctl(self, *args):
        """mortisectl over the operator socket; what it printed. What takes an elevation gets one."""
        if takes_elevation(*args):
            self.ctl("elevate", "--for", "10m", "--reason", "a test")
        return subprocess.run([self.bin.ctl, "--socket", self.socket, *map(str, args)], check=True,
                              capture_output=True, text=True, env=own_environment()).stdout

    def stop(self):
        status = self.program.stop()
        assert status in (0, -9), f"{self.program.name} ended with {status}\n{self.program.tail(60)}"
