"""A whole mesh: a control plane and a sidecar beside each subsystem, each on a host of its own."""
import json
import shutil
import subprocess
from pathlib import Path

from .programs import Binaries, LabError, Program, wait_for

TRUST_DOMAIN = "mesh.test"
NAMESPACE = "apim"
SUBSYSTEMS = ("management", "portal", "analytics", "gateway")
CONTROL_PORT = 15010
INBOUND_PORT = 15443

# name, client, server, client's loopback port, server's loopback port: row A9 of the requirements.
LINKS = (
    ("management-portal", "management", "portal", 15101, 8081),
    ("management-gateway", "management", "gateway", 15102, 8082),
    ("management-analytics", "management", "analytics", 15103, 8083),
    ("gateway-analytics", "gateway", "analytics", 15104, 9083),
)

CLIENT_PROFILE = {"name": "mesh-client", "role": "CLIENT", "min_version": "TLS1_3"}
SERVER_PROFILE = {"name": "mesh-server", "role": "SERVER", "min_version": "TLS1_3"}


def document(client=None, server=None, links=LINKS, **more):
    """A mesh document; the two profiles may have fields changed."""
    return {
        "subsystems": [{"name": name, "namespace": NAMESPACE} for name in SUBSYSTEMS],
        "profiles": [{**CLIENT_PROFILE, **(client or {})}, {**SERVER_PROFILE, **(server or {})}],
        "links": [{"name": name, "client": from_, "server": to, "client_port": client_port,
                   "server_port": server_port, "client_profile": "mesh-client",
                   "server_profile": "mesh-server"}
                  for name, from_, to, client_port, server_port in links],
        **more,
    }


def takes_elevation(*args):
    """Whether mortisectl with these is refused without one."""
    return args[:2] == ("rotate", "root") and "--abort" not in args or args[:2] in (
        ("ca", "import"), ("audit", "purge"))


class Mesh:
    """Owns a folder with everything the programs write. Hosts by name from a netns.Network."""

    def __init__(self, folder, network, binaries=None, control_host="control"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.network = network
        self.control_host = network[control_host]
        self.bin = binaries or Binaries()
        self.bin.check()
        self.control = None
        self.sidecars = {}
        self.tokens = {}

    # The control plane.

    @property
    def socket(self):
        return self.folder / "control" / "operator.sock"

    @property
    def roots(self):
        return self.folder / "roots.pem"

    def ctl(self, *args, check=True, timeout_s=120):
        """mortisectl on the control plane's host, over the operator socket; the finished process. What takes an
        elevation (docs/access.md) gets one."""
        if takes_elevation(*args):
            self.ctl("elevate", "--for", "10m", "--reason", "the lab")
        done = self.control_host.run(
            str(self.bin.ctl), "--socket", str(self.socket), *map(str, args),
            capture_output=True, text=True, timeout=timeout_s)
        if check and done.returncode != 0:
            raise LabError(f"mortisectl {' '.join(map(str, args))}: exit {done.returncode}\n"
                           f"{done.stderr or done.stdout}")
        return done

    def ctl_json(self, *args):
        return json.loads(self.ctl(*args, "-o", "json").stdout)

    def start_control(self, ready=True):
        """`ready` False: it listens; sidecars cannot come yet."""
        data = self.folder / "control"
        if not data.exists():
            subprocess.run([str(self.bin.ctl), "init", str(data), "--trust-domain", TRUST_DOMAIN],
                           check=True, capture_output=True)
        self.control = Program(
            "mortise-control",
            [self.bin.control, "--config", data / "control.yaml",
             "--listen", f"0.0.0.0:{CONTROL_PORT}", "--operator-socket", self.socket],
            self.folder, self.control_host)
        if ready:
            self.control.wait_ready()
        else:
            wait_for("mortise-control answers", lambda: self.ctl("status", check=False).returncode == 0)
        self.roots.write_text(self.ctl("roots").stdout)
        return self.control

    def apply(self, doc, *flags, check=True, weaker=True):
        """Applies a document (a dictionary); JSON is YAML, too. Trials go to and fro between profiles: `weaker`."""
        path = self.folder / "mesh.yaml"
        path.write_text(json.dumps(doc, indent=2))
        if '"permissive"' in path.read_text():  # plaintext takes an elevation
            self.ctl("elevate", "--for", "10m", "--reason", "the lab")
        return self.ctl("apply", "-f", path, *flags, *(["--allow-weaker"] if weaker else []), check=check)

    def certificate(self, subsystem, folder):
        """A subsystem's certificate as files; their paths (certificate, key)."""
        self.ctl("certificate", subsystem, "--server", f"127.0.0.1:{CONTROL_PORT}", "--out", folder)
        return Path(folder) / "cert.pem", Path(folder) / "key.pem"

    def token(self, subsystem):
        return self.ctl("token", "create", subsystem).stdout.strip().splitlines()[-1].strip()

    # Sidecars.

    def sidecar_argv(self, subsystem, host=None):
        host = host or self.network[subsystem]
        return [self.bin.proxy, "--control", f"{self.control_host.v4}:{CONTROL_PORT}",
                "--trust-domain", TRUST_DOMAIN, "--trust-bundle", self.roots,
                "--inbound-listen", f"0.0.0.0:{INBOUND_PORT}", "--workers", "2",
                "--advertise", f"{host.v4}:{INBOUND_PORT}"]

    def start_sidecar(self, subsystem, *flags, name=None, token=None, host=None, ready=True, env=None):
        """`host`: another's, beside whom it runs (flags tell the listeners apart)."""
        name = name or f"proxy-{subsystem}"
        host = self.network[host or subsystem]
        self.tokens[name] = token or self.token(subsystem)
        program = Program(name, [*self.sidecar_argv(subsystem, host), *flags], self.folder, host,
                          env={"MORTISE_JOIN_TOKEN": self.tokens[name], **(env or {})})
        self.sidecars[name] = program
        if ready:
            program.wait_ready()
        return program

    def sidecar(self, subsystem):
        return self.sidecars[f"proxy-{subsystem}"]

    def workloads(self):
        return self.ctl_json("get", "workloads").get("workloads", [])

    def version(self):
        return int(self.ctl_json("status").get("version", 0))

    def wait_in_sync(self, number=None):
        """Until `number` sidecars have acknowledged the version in force."""
        number = number if number is not None else len(self.sidecars)

        def in_sync():
            status = self.ctl_json("status")
            return int(status.get("in_sync", 0)) >= number and status

        return wait_for(f"{number} sidecars in sync", in_sync)

    def start(self, doc=None, subsystems=SUBSYSTEMS, *flags):
        """Everything: control plane, mesh document, a sidecar for each subsystem."""
        self.start_control()
        self.apply(doc or document())
        for subsystem in subsystems:
            self.start_sidecar(subsystem, *flags, ready=False)
        for program in self.sidecars.values():
            program.wait_ready()
        self.wait_in_sync(len(subsystems))
        return self

    def stop(self):
        for program in [*self.sidecars.values(), self.control]:
            if program is not None:
                program.signal(15)
        for program in [*self.sidecars.values(), self.control]:
            if program is not None:
                program.stop()

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
