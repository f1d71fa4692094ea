"""An administrator from elsewhere: his certificate, mortisectl with it, and any RPC as raw bytes."""
import os
import subprocess
import sys
from pathlib import Path

import grpc

from deploy.lab.programs import Process, own_environment, wait_for
from test.testlib.stubs import stubs

ROOT = Path(__file__).resolve().parents[2]
MALFORMED = b"\xff"  # who is let in is told so: INVALID_ARGUMENT, and nothing happens


class Admin:
    """Of a LoneControl; `create` are the flags of mortisectl admin create."""

    def __init__(self, control, name, *create):
        self.control, self.name, self.pipe, self.channel = control, name, None, None
        self.folder = control.folder / f"admin-{name}"
        control.ctl("admin", "create", name, "--out", self.folder, *create)

    @property
    def argv(self):
        folder = self.folder
        return ["--server", f"127.0.0.1:{self.control.port}", "--cert", folder / "cert.pem", "--key",
                folder / "key.pem", "--roots", folder / "roots.pem", "--trust-domain", self.control.TRUST_DOMAIN]

    def ctl(self, *args):
        """mortisectl over mutual TLS; the finished process."""
        return subprocess.run([str(part) for part in (self.control.bin.ctl, *args, *self.argv)], check=False,
                              capture_output=True, text=True, env=own_environment(), timeout=60)

    def connect(self):
        socket = self.folder / "pipe.sock"
        self.pipe = Process(f"pipe-{self.name}", [
            "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.mtls_pipe", socket, "127.0.0.1",
            self.control.port, self.folder / "cert.pem", self.folder / "key.pem"], self.control.folder)
        wait_for("the pipe listens", lambda: "listening" in self.pipe.tail())
        self.channel = grpc.insecure_channel(f"unix:{socket}")
        return self

    def close(self):
        if self.channel is not None:
            self.channel.close()
            self.pipe.stop()
        self.channel = None

    def raw(self, path, message=MALFORMED):
        """Calls it; the error that it ends with, None for none."""
        call = self.channel.stream_stream(path, request_serializer=None, response_deserializer=None)
        try:
            for _ in call(iter([message]), timeout=30):
                pass
        except grpc.RpcError as err:
            return err
        return None


def methods():
    """(path, permission's name) of each RPC, from the schemas."""
    made = stubs()
    found = []
    for module in vars(made).values():
        for service in getattr(getattr(module, "DESCRIPTOR", None), "services_by_name", {}).values():
            for method in service.methods:
                number = method.GetOptions().Extensions[made.permission.permission]
                name = made.permission.Permission.Name.Name(number)
                found.append((f"/{service.full_name}/{method.name}", name.lower().replace("_", ".", 1)))
    return sorted(found)


def uid_argv(program, folder, uid):
    """A copy of a program that a user without rights can run, and how to run it as him."""
    copy = Path(folder) / program.name
    if not copy.exists():
        copy.write_bytes(program.read_bytes())
        copy.chmod(0o755)
    return [copy], {"user": uid, "group": uid, "extra_groups": [], "env": {"PATH": os.defpath}}
