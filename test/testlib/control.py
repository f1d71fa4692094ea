"""A control plane alone, on loopback: for tests of its ports, without hosts or sidecars."""
import subprocess
from pathlib import Path

from deploy.lab.programs import Binaries, Program, own_environment
from test.testlib.static import free_port


class LoneControl:
    TRUST_DOMAIN = "lone.test"

    def __init__(self, folder, binaries=None):
        self.folder, self.bin, self.port = Path(folder), binaries or Binaries(), free_port()
        self.bin.check("control", "ctl")
        self.data = self.folder / "control"
        subprocess.run([self.bin.ctl, "init", self.data, "--trust-domain", self.TRUST_DOMAIN],
                       check=True, capture_output=True, env=own_environment())
        self.program = None

    @property
    def socket(self):
        return self.folder / "operator.sock"

    def start(self):
        self.program = Program(
            "mortise-control", [self.bin.control, "--config", self.data / "control.yaml",
                                "--listen", f"127.0.0.1:{self.port}", "--operator-socket",
                                self.socket], self.folder)
        self.program.wait_ready()
        return self

    def ctl(self, *args):
        """mortisectl over the operator socket; what it printed."""
        return subprocess.run([self.bin.ctl, "--socket", self.socket, *map(str, args)], check=True,
                              capture_output=True, text=True, env=own_environment()).stdout

    def stop(self):
        status = self.program.stop()
        assert status in (0, -9), f"{self.program.name} ended with {status}\n{self.program.tail(60)}"
