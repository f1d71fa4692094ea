"""Static-mode sidecars on loopback: a client side, a server side, one link, certificates of a test CA."""
import json
import os
import socket
from pathlib import Path

from deploy.lab.programs import Binaries, LabError, Program, wait_for
from test.testlib.pki import Ca

TRUST_DOMAIN = "static.test"
CLIENT_ID = f"spiffe://{TRUST_DOMAIN}/ns/test/sa/client"
SERVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/test/sa/server"

_next_port = 20000 + (os.getpid() * 37) % 8000


def free_port():
    """A loopback port outside of the kernel's range of ephemeral ones."""
    global _next_port
    while True:
        _next_port = _next_port + 1 if _next_port < 31000 else 20000
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", _next_port))
                return _next_port
            except OSError:
                continue


def rest_of(sock):
    """What an application still reads, and whether it ends with an abort."""
    got = b""
    try:
        while part := sock.recv(1 << 16):
            got += part
    except ConnectionResetError:
        return got, True
    return got, False


class StaticPair:
    """client sidecar :app_port → server sidecar :tls_port → application :target_port"""

    LINK = "link"

    def __init__(self, folder, binaries=None, client_settings=None, server_settings=None,
                 client_profile=None, server_profile=None, env=None):
        self.folder = Path(folder)
        self.bin = binaries or Binaries()
        self.ca = Ca()
        self.app_port, self.tls_port, self.target_port = free_port(), free_port(), free_port()
        self.settings = {"client": client_settings or {}, "server": server_settings or {}}
        self.profiles = {"client": {"name": "client", "role": "CLIENT", **(client_profile or {})},
                         "server": {"name": "server", "role": "SERVER", **(server_profile or {})}}
        self.env = env
        self.programs = {}
        (self.folder / "roots.pem").write_bytes(self.ca.root_pem())
        self.client = self.renew("client")
        self.server = self.renew("server")
        self.write("client")
        self.write("server")

    def renew(self, side, cert=None):
        """Writes a new certificate and key for that side; returns it."""
        cert = cert or self.ca.issue(CLIENT_ID if side == "client" else SERVER_ID)
        cert.write(self.folder, side)
        return cert

    def config(self, side):
        both = {"settings": {"workers": 1, **self.settings[side]},
                "identity": {"cert_file": f"{side}.pem", "key_file": f"{side}.key"},
                "truststores": [{"name": "mesh", "ca_file": "roots.pem",
                                 "trust_domain": TRUST_DOMAIN}],
                "profiles": [self.profiles[side]]}
        if side == "client":
            both["outbound"] = [{
                "name": self.LINK, "listen": f"127.0.0.1:{self.app_port}",
                "endpoints": [f"127.0.0.1:{self.tls_port}"], "peers": {"spiffe_ids": [SERVER_ID]},
                "profile": "client", "truststore": "mesh"}]
        else:
            both["inbound"] = {
                "listen": f"127.0.0.1:{self.tls_port}",
                "links": [{"name": self.LINK, "target": f"127.0.0.1:{self.target_port}",
                           "peers": {"spiffe_ids": [CLIENT_ID]}, "profile": "server",
                           "truststore": "mesh"}]}
        return both

    def path(self, side):
        return self.folder / f"{side}.yaml"

    def write(self, side, config=None):
        """JSON is YAML; by rename, so that no half file is ever read."""
        fresh = self.path(side).with_suffix(".tmp")
        fresh.write_text(json.dumps(config or self.config(side), indent=2))
        fresh.rename(self.path(side))

    def start(self, *sides, ready=True):
        for side in sides or ("server", "client"):
            program = Program(f"proxy-{side}", [self.bin.proxy, "--config", self.path(side)],
                              self.folder, env=self.env)
            self.programs[side] = program
            if ready:
                program.wait_ready()
        return self

    def __getitem__(self, side):
        return self.programs[side]

    def paths(self, side):
        """That side's certificate and key."""
        return self.folder / f"{side}.pem", self.folder / f"{side}.key"

    @property
    def roots(self):
        return self.folder / "roots.pem"

    @property
    def server_name(self):
        return f"{self.LINK}.mortise.internal"

    def lines(self, side):
        """The access log: a line for each connection that ended."""
        return [e for e in self[side].events() if e.get("component") == "access"]

    def line(self, side, port, timeout_s=10, known=0):
        """The access log's line, behind the `known` ones, of the connection that came from that loopback port. (The
        kernel gives a port again.)"""
        def found():
            return [e for e in self.lines(side)[known:] if e["source"] == f"127.0.0.1:{port}"]

        try:
            return wait_for(f"a line of port {port}", found, timeout_s)[-1]
        except LabError as err:
            raise LabError(f"{err}\n{self[side].tail()}") from None

    def new_line(self, side, known=0, timeout_s=10, **fields):
        """The first line behind the `known` ones with such fields, where the port is not known."""
        def found():
            return [e for e in self.lines(side)[known:]
                    if all(e.get(key) == value for key, value in fields.items())]

        try:
            return wait_for(f"a line with {fields}", found, timeout_s)[0]
        except LabError as err:
            raise LabError(f"{err}\n{self[side].tail()}") from None

    def stop(self):
        for program in self.programs.values():
            status = program.stop()
            assert status in (0, -9), f"{program.name} ended with {status}\n{program.tail(60)}"
