"""The product's programs as processes: start, wait until ready, ask, stop."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

READY_S = float(os.environ.get("MORTISE_LAB_READY_S", "30"))


class LabError(RuntimeError):
    pass


def wait_for(what, probe, timeout_s=READY_S, every_s=0.02):
    """Polls `probe` until it returns something true; its last exception tells why not."""
    end = time.monotonic() + timeout_s
    last = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except (OSError, LabError, http.client.HTTPException, ValueError, KeyError) as err:
            last = err
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {timeout_s:g} s (last: {last!r})")
        time.sleep(every_s)


class Binaries:
    """Where the built programs are; by default what `bazel build -c opt` made."""

    def __init__(self, folder=None):
        root = Path(__file__).resolve().parents[2]
        self.folder = Path(folder or os.environ.get("MORTISE_BIN") or root / "bazel-bin")
        self.proxy = self.folder / "proxy" / "mortise-proxy"
        self.control = self.folder / "control" / "mortise-control"
        self.ctl = self.folder / "control" / "mortisectl"
        self.cert = self.folder / "certs" / "mortise-cert"
        self.redirect = self.folder / "proxy" / "redirect" / "mortise-redirect"

    def check(self, *names):
        """That the programs of these attributes are there; all that a mesh needs without any."""
        for path in (getattr(self, name) for name in names or ("proxy", "control", "ctl")):
            if not path.exists():
                raise LabError(f"{path} is missing: build it first (bazel build //:programs)")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def admin(path, page, method="GET", body=None):
    """One request to a program's admin socket: (status, text)."""
    conn = _UnixConnection(path)
    try:
        conn.request(method, page, body=body)
        answer = conn.getresponse()
        return answer.status, answer.read().decode()
    finally:
        conn.close()


def own_environment():
    """Ours without MORTISE_…, which are settings to the programs, but for the one that test/run sets to
    run a suite with the other record layer."""
    return {k: v for k, v in os.environ.items()
            if not k.startswith("MORTISE_") or k == "MORTISE_RECORD_LAYER"}


class Process:
    """A child whose output goes to a file; `host` is a netns.Host or None for here."""

    def __init__(self, name, argv, folder, host=None, env=None, stdout=None):
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        argv = [str(arg) for arg in argv]
        if host is not None:
            argv = host.command(*argv)
        self.told_to_end = False
        self._file = open(self.log, "ab")
        self.child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stdout if stdout is not None else self._file,
            stderr=self._file, env={**own_environment(), **(env or {})}, start_new_session=True)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def signal(self, number):
        self.told_to_end |= number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
        if self.alive():
            self.child.send_signal(number)

    def wait(self, timeout_s=30):
        return self.child.wait(timeout=timeout_s)

    def stop(self, timeout_s=10):
        """SIGTERM, then SIGKILL; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            self.child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._file.close()
        return self.child.returncode

    def kill(self):
        self.told_to_end = True
        if self.alive():
            self.child.kill()
        self.child.wait()

    def tail(self, lines=20):
        self._file.flush()
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def events(self, event=None):
        """Its JSON log lines, as dictionaries."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if not line.startswith("{"):
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if event is None or entry.get("event") == event:
                found.append(entry)
        return found

    def is_stopped(self):
        """All threads stand still after a SIGSTOP, which acts some time after it was sent."""
        return all(Path(task, "stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
                   for task in Path(f"/proc/{self.pid}/task").iterdir())

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory_kib(self):
        """Anonymous proportional set size."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss_Anon:\s+(\d+)", text, re.M).group(1))


class Program(Process):
    """One of ours: has an admin socket and says when it is ready."""

    watch = None  # told of each that became ready() and that is stopping(), for tests

    def __init__(self, name, argv, folder, host=None, env=None):
        self.admin_socket = Path(folder) / f"{name}.admin"
        super().__init__(name, [*argv, "--admin-listen", f"unix:{self.admin_socket}",
                                "--log-format", "json"], folder, host, env)

    def get(self, page):
        status, text = admin(self.admin_socket, page)
        if status != 200:
            raise LabError(f"{self.name} {page}: {status} {text.strip()}")
        return text

    def post(self, page, body=""):
        return admin(self.admin_socket, page, "POST", body)

    def config(self):
        return json.loads(self.get("/config"))

    def metrics(self):
        """{'name{label="value"}': number} of the metrics page."""
        values = {}
        for line in self.get("/metrics").splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                values[series] = float(value)
        return values

    def ready(self):
        if not self.alive():
            raise LabError(f"{self.name} ended with {self.child.returncode}:\n{self.tail()}")
        return admin(self.admin_socket, "/readyz")[0] == 200

    def wait_ready(self, timeout_s=READY_S):
        try:
            wait_for(f"{self.name} ready", self.ready, timeout_s)
        except LabError as err:
            raise LabError(f"{err}\n{self.tail()}") from None
        if self.watch:
            self.watch.ready(self)
        return self

    def stop(self, timeout_s=10):
        if self.watch:
            self.watch.stopping(self)
        return super().stop(timeout_s)
