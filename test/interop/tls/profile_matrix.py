"""Without this a profile's field could be taken, stored and shown, and mean nothing: each is read off the wire by OpenSSL, as
client and as server, beside what it refuses.

Drives: A1, A2, A3, A4, A5, A6, B1, B2, B3, E4, R1, R3, R13, R15"""
import contextlib
import re
import socket
import ssl
import threading
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.pki import Ca
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port, rest_of
from test.testlib.tls_lite import Lite, settings
from test.testlib.tls_peer import FLAGS, Openssl, Server, call, context
from test.testlib.tls_raw import Refused

OLD = ("TLS1_0", "TLS1_1")
VERSIONS = (*OLD, "TLS1_2", "TLS1_3")
TOLD = {"TLS1_0": "TLSv1", "TLS1_1": "TLSv1.1", "TLS1_2": "TLSv1.2", "TLS1_3": "TLSv1.3"}  # in the access log, and by OpenSSL
CBC = ["TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"]


def link_of(name):
    """The link whose profile has that version, suite or group alone."""
    return name.lower().replace("_", "-")


def only(version):
    old = {"allow_legacy": True, "cipher_suites": CBC} if version in OLD else {}
    return {"min_version": version, "max_version": version, **old}


# Every suite that the library has, and OpenSSL's name of it. Debian's OpenSSL has no 3DES: tlslite-ng has.
SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA": None,
}
SUITES_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
GROUPS = ("X25519", "P-256", "P-384")


def is_rsa(suite):
    return "_RSA_" in suite


OF_BOTH = {
    **{link_of(version): only(version) for version in VERSIONS},
    "range": {"min_version": "TLS1_0", "allow_legacy": True,
              "cipher_suites": [*CBC, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
    **{link_of(group): {"groups": [group, "P-256"] if group != "P-256" else [group]} for group in GROUPS},
    # ChaCha20 alone cannot be had; what the library offers besides is refused when it comes to it.
    **{link_of(suite): {"min_version": "TLS1_3", "cipher_suites": [suite, *(SUITES_13[:1] if "CHACHA" in suite else [])]}
       for suite in SUITES_13},
}
OF_SUITES = {link_of(suite): {"max_version": "TLS1_2", "cipher_suites": [suite]} for suite in SUITES}
OUTBOUND = {
    **OF_BOTH, **OF_SUITES,
    "plain": {},
    "named": {"server_name": "Db.example.org"},
    "nameless": {"send_sni": "OMIT"},
    "unverified": {"insecure_skip_verify": True},
    "once": {"renegotiation": "ONCE"},
    "freely": {"renegotiation": "FREELY"},
    "hasty": {"handshake_timeout_ms": 300, "idle_timeout_s": 1},
}
INBOUND = {
    **OF_BOTH,
    "plain": {},
    "asked": {"client_auth": "OPTIONAL"},  # its link lets nobody in without
    "optional": {"client_auth": "OPTIONAL"},
    "open": {"client_auth": "NONE"},
    "hasty": {"handshake_timeout_ms": 300, "idle_timeout_s": 1},
}


class Matrix(StaticPair):
    """One sidecar, with a link for each profile: outbound ones on ports of their own, whose servers are played here; inbound
    ones chosen by name. `key` is of its certificate, which says what suites it can serve."""

    def __init__(self, folder, binaries, key="p256"):
        self.key = key
        super().__init__(folder, binaries)
        self.renew("client", self.ca.issue(CLIENT_ID, key=key))
        self.rsa = self.ca.issue(SERVER_ID, key="rsa2048", usage=("digital_signature", "key_encipherment")).write(self.folder, "rsa")

    def config(self, side):
        config = {**super().config("client"), "allow_insecure": True}
        inbound = {**OF_SUITES, "plain": {}} if self.key == "rsa2048" else \
            {**INBOUND, **{link: profile for link, profile in OF_SUITES.items() if "ecdsa" in link}}
        inbound = {link: profile for link, profile in inbound.items() if self.key != "rsa2048" or "ecdsa" not in link}
        if not hasattr(self, "ports"):
            self.ports = {name: (free_port(), free_port()) for name in OUTBOUND}
        config["profiles"] = [{"name": f"to-{name}", "role": "CLIENT", **profile} for name, profile in OUTBOUND.items()]
        config["profiles"] += [{"name": f"from-{name}", "role": "SERVER", **profile} for name, profile in inbound.items()]
        config["outbound"] = [
            {"name": name, "listen": f"127.0.0.1:{listen}", "profile": f"to-{name}", "truststore": "mesh",
             "endpoints": [f"127.0.0.1:{server}"], "peers": {"spiffe_ids": [SERVER_ID]}}
            for name, (listen, server) in self.ports.items()]
        config["inbound"] = {
            "listen": f"127.0.0.1:{self.tls_port}",
            "links": [{"name": name, "target": f"127.0.0.1:{self.target_port}", "profile": f"from-{name}",
                       "truststore": "mesh", "peers": {"spiffe_ids": [SERVER_ID]},
                       "allow_anonymous": name in ("optional", "open")} for name in inbound]}
        return config


@pytest.fixture(scope="module")
def matrix(folder, binaries):
    made = Matrix(folder, binaries)
    made.start("client")
    with EchoApp(made.target_port) as made.app:
        yield made
    made.stop()


@pytest.fixture(scope="module")
def rsa(folder, binaries):
    """Another sidecar, of an RSA key."""
    inside = folder / "rsa-key"
    inside.mkdir()
    made = Matrix(inside, binaries, "rsa2048")
    made.start("client")
    with EchoApp(made.target_port) as made.app:
        yield made
    made.stop()


@contextlib.contextmanager
def s_server(matrix, link, *more):
    cert, key = matrix.paths("server")
    with Openssl("s_server", "-accept", f"127.0.0.1:{matrix.ports[link][1]}", "-cert", cert, "-key", key,
                 "-CAfile", matrix.roots, *more) as server:
        server.read_until("ACCEPT")
        yield server


def reach(matrix, link, **fields):
    """What becomes of an OpenSSL client with these fields of context() at an inbound link: facts and line, or Refused."""
    made = context("client", matrix.roots, matrix.paths("server"), weak=True, **fields)
    facts = call(matrix.tls_port, made, f"{link}.mortise.internal")
    return facts, matrix.line("client", facts["port"])


def serve(matrix, link, cert=None, **fields):
    """What an application gets through an outbound link from an OpenSSL server with these fields, what the server has seen,
    and the line."""
    made = context("server", None, cert or matrix.paths("server"), weak=True, **fields)
    ports = []
    with Server(matrix.ports[link][1], made) as server:
        try:
            answer = exchange(matrix.ports[link][0], b"hello", ports=ports)
        except ConnectionError:
            answer = None
        wait_for("the server is done", lambda: server.seen and all(entry["done"] for entry in server.seen))
    return answer, server.seen[0], matrix.line("client", ports[0])


# Versions.

@pytest.mark.parametrize("ours", [link_of(version) for version in VERSIONS] + ["range"])
def test_every_version_with_every_version_inbound(matrix, ours):
    for theirs in VERSIONS:
        before = weak(matrix, ours, what="legacy_version")
        if ours not in (link_of(theirs), "range"):
            with pytest.raises(Refused) as caught:
                reach(matrix, ours, version=theirs)
            # Below 1.3 a server of lower ones answers with its highest: then it is OpenSSL that refuses.
            lower = ours < link_of(theirs) and theirs != "TLS1_3"
            assert caught.value.alert == (None if lower else "protocol_version")
            assert matrix.line("client", caught.value.port)["error"] == ("tls_alert" if lower else "tls_no_shared")
            continue
        facts, line = reach(matrix, ours, version=theirs)
        assert facts["version"] == line["tls_version"] == TOLD[theirs]
        assert weak(matrix, ours, what="legacy_version") - before == (theirs in OLD)


@pytest.mark.parametrize("ours", [link_of(version) for version in VERSIONS] + ["range"])
def test_every_version_with_every_version_outbound(matrix, ours):
    for theirs in VERSIONS:
        before = weak(matrix, ours, "outbound", "legacy_version")
        answer, seen, line = serve(matrix, ours, version=theirs)
        if ours in (link_of(theirs), "range"):
            assert answer == b"hello"
            assert seen["version"] == line["tls_version"] == TOLD[theirs]
        else:
            assert answer is None and seen["bytes"] == 0 and "version" not in seen
            assert line["error"] in ("tls_alert", "tls_no_shared") and line["bytes_to_mesh"] == 0
        assert weak(matrix, ours, "outbound", "legacy_version") - before == (answer is not None and theirs in OLD)


# Suites and groups.

@pytest.mark.parametrize("suite", [suite for suite in SUITES if SUITES[suite]])
def test_each_suite_of_tls_1_2(matrix, rsa, suite):
    """Inbound and outbound, beside a peer that has every other one."""
    link, ours = link_of(suite), rsa if is_rsa(suite) else matrix
    others = f"ALL:!{SUITES[suite]}:@SECLEVEL=0"
    facts, line = reach(ours, link, version="TLS1_2", ciphers=f"{SUITES[suite]}:@SECLEVEL=0")
    assert (facts["cipher"], line["cipher"]) == (SUITES[suite], suite)
    with pytest.raises(Refused) as caught:
        reach(ours, link, version="TLS1_2", ciphers=others)
    assert caught.value.alert == "handshake_failure"
    cert = matrix.rsa if is_rsa(suite) else None
    answer, seen, line = serve(matrix, link, cert, version="TLS1_2")
    assert answer == b"hello" and (seen["cipher"], line["cipher"]) == (SUITES[suite], suite)
    answer, seen, line = serve(matrix, link, cert, version="TLS1_2", ciphers=others)
    assert answer is None and seen["bytes"] == 0 and line["error"] == "tls_alert"


@pytest.mark.parametrize("suite", SUITES_13)
def test_each_suite_of_tls_1_3(matrix, suite):
    link = link_of(suite)
    with s_server(matrix, link, "-rev", "-ciphersuites", suite) as server:
        assert exchange(matrix.ports[link][0], b"abc\n") == b"cba\n"
        assert f"Ciphersuite: {suite}" in server.read_until("CONNECTION CLOSED")
    cert, key = matrix.paths("server")
    known = len(matrix.lines("client"))
    with Openssl("s_client", "-connect", f"127.0.0.1:{matrix.tls_port}", "-servername", f"{link}.mortise.internal", "-cert", cert,
                 "-key", key, "-CAfile", matrix.roots, "-ciphersuites", suite) as client:
        client.write(b"payload\n")
        client.read_until("\npayload")
    assert matrix.new_line("client", known, link=link)["cipher"] == suite


def test_3des(matrix, rsa):
    """The one that Debian's OpenSSL has not."""
    suite, made = "TLS_RSA_WITH_3DES_EDE_CBC_SHA", settings(cipherNames=["3des"], keyExchangeNames=["rsa"])
    for link, let_in in ((link_of(suite), True), ("plain", False)):
        with socket.create_connection(("127.0.0.1", rsa.tls_port), 10) as sock:
            sock.settimeout(10)
            port, lite = sock.getsockname()[1], Lite(sock, rsa.server)
            if not let_in:
                with pytest.raises(Refused):
                    lite.connect(made, f"{link}.mortise.internal")
                continue
            lite.connect(made, f"{link}.mortise.internal")
            lite.send(b"old")
            assert lite.recv(3) == b"old"
            lite.tls.close()
        assert rsa.line("client", port)["cipher"] == suite


@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
@pytest.mark.parametrize("group", GROUPS)
def test_each_group(matrix, group, version):
    """Inbound and outbound, with an OpenSSL that has one group alone, or, as TLS 1.2 wants, also the curve of the certificate,
    which is P-256."""
    link = link_of(group)
    cert, key = matrix.paths("server")
    for theirs in GROUPS:
        good = theirs in (group, "P-256")
        groups = f"{theirs}:P-256" if good and version == "TLS1_2" and theirs != "P-256" else theirs
        port = free_port()
        with Openssl("s_client", "-connect", f"127.0.0.1:{matrix.tls_port}", "-bind", f"127.0.0.1:{port}", "-servername",
                     f"{link}.mortise.internal", "-cert", cert, "-key", key, "-CAfile", matrix.roots, FLAGS[version], "-groups",
                     groups) as client:
            client.write(b"payload\n")
            text = client.read_until("\npayload", "alert handshake failure")
        assert ("alert handshake failure" not in text) == good
        line = matrix.line("client", port)
        assert line["group"] == theirs if good else line["error"] == "tls_no_shared"
    ports = []
    with s_server(matrix, link, FLAGS[version], "-rev", "-groups", group):
        assert exchange(matrix.ports[link][0], b"abc\n", ports=ports) == b"cba\n"
    assert matrix.line("client", ports[0])["group"] == group


# The server name.

NAMES = {"plain": "plain.mortise.internal", "named": "Db.example.org", "nameless": None}


@pytest.mark.parametrize("link", NAMES)
def test_the_name_that_s_server_is_asked_for(matrix, link):
    cert, key = matrix.paths("server")
    with s_server(matrix, link, "-servername", "other", "-cert2", cert, "-key2", key) as server, \
            socket.create_connection(("127.0.0.1", matrix.ports[link][0]), 10) as app:
        app.sendall(b"it came through\n")
        text = server.read_until("it came through")
    told = [line.split('"')[1] for line in text.splitlines() if line.startswith("Hostname in TLS extension:")]
    assert told == ([NAMES[link]] if NAMES[link] else []), text


# Certificates of clients.

ALERT = {"TLS1_2": "handshake_failure", "TLS1_3": "certificate_required"}


@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
@pytest.mark.parametrize("link", ["plain", "asked", "optional", "open"])
def test_who_shows_a_certificate_and_who_need_not(matrix, link, version):
    """None, one of a peer, one that no link names, one of a CA that nobody knows."""
    stranger, unknown = matrix.folder / "stranger", matrix.folder / "unknown"
    if not stranger.exists():
        for folder, cert in ((stranger, matrix.ca.issue(CLIENT_ID)), (unknown, Ca("another").issue(SERVER_ID))):
            folder.mkdir()
            cert.write(folder, "it")
    certs = {"none": None, "peer": matrix.paths("server"), "stranger": (stranger / "it.pem", stranger / "it.key"),
             "unknown": (unknown / "it.pem", unknown / "it.key")}
    told = {}
    for who, cert in certs.items():
        before = weak(matrix, link)
        reached = matrix.app.connections
        try:
            port = call(matrix.tls_port, context("client", matrix.roots, cert, version), f"{link}.mortise.internal")["port"]
            told[who] = "in"
        except Refused as err:
            port, told[who] = err.port, err.alert
        line = matrix.line("client", port)
        assert matrix.app.connections - reached == (told[who] == "in")
        anonymous = told[who] == "in" and (who == "none" or link == "open")
        assert line.get("peer") == ("anonymous" if anonymous else None)
        assert line.get("peer_id") == (SERVER_ID if told[who] == "in" and not anonymous else None)
        assert weak(matrix, link) - before == anonymous
    if link == "open":  # nobody is asked
        assert told == dict.fromkeys(certs, "in")
    else:
        assert told == {"none": "in" if link == "optional" else ALERT[version], "peer": "in", "stranger": "access_denied",
                        "unknown": "unknown_ca"}


@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
def test_who_is_not_verified_is_nobody(matrix, version):
    """A CA that nobody knows, another name, one that has expired, and the very server: each is taken, none has an identity.
    Beside it the link that verifies."""
    shown = {"unknown": Ca("another").issue(SERVER_ID), "other": matrix.ca.issue(CLIENT_ID),
             "expired": matrix.ca.issue(SERVER_ID, begins_s=-7200, valid_s=-3600),
             "nameless": matrix.ca.issue(dns=["db.example.org"]), "server": matrix.server}
    for who, cert in shown.items():
        paths = cert.write(matrix.folder, f"shown-{who}")
        before = weak(matrix, "unverified", "outbound", "unverified")
        answer, seen, line = serve(matrix, "unverified", paths, version=version)
        assert answer == b"hello" and seen["version"] == TOLD[version]
        assert line["peer"] == "unverified" and "peer_id" not in line and "peer_serial" not in line
        assert weak(matrix, "unverified", "outbound", "unverified") == before + 1
        answer, seen, line = serve(matrix, "plain", paths, version=version)
        assert (answer == b"hello") == (who == "server") and "peer" not in line
        assert seen["bytes"] == (5 if who == "server" else 0)
    assert [e["weak"] for e in matrix["client"].events("weak_profile") if e["link"] == "unverified"] == ["insecure_skip_verify"]


def test_who_was_not_verified_leaves_when_that_is_asked_for(matrix):
    listen, server = matrix.ports["unverified"]
    with Server(server, context("server", None, Ca("another").issue(SERVER_ID).write(matrix.folder, "shown-live"))), \
            socket.create_connection(("127.0.0.1", listen), 10) as app:
        app.settimeout(10)
        app.sendall(b"x")
        assert app.recv(1) == b"x"
        config = matrix.config("client")
        for one in config["profiles"]:
            one.pop("insecure_skip_verify", None)
        known = len(matrix["client"].events("applied"))
        matrix.write("client", config)
        assert rest_of(app) == (b"", True)
        assert matrix.line("client", app.getsockname()[1])["reason"] == "policy"
        matrix.write("client")
        wait_for("as before", lambda: len(matrix["client"].events("applied")) >= known + 2)


def weak(matrix, link, direction="inbound", what="anonymous"):
    return matrix["client"].metrics().get(f'mortise_connections_weak_total{{direction="{direction}",link="{link}",weak="{what}"}}', 0)


def test_each_is_told_at_every_start(matrix):
    told = {e["link"]: (e["direction"], e["weak"], e.get("anonymous")) for e in matrix["client"].events("weak_profile")}
    assert told.pop("unverified") == ("outbound", "insecure_skip_verify", None)
    for link in ("once", "freely"):
        assert told.pop(link) == ("outbound", f"renegotiation {link.upper()}", None)
    for link, what in (("tls1-0", "min_version TLS1_0"), ("tls1-1", "min_version TLS1_1"), ("range", "min_version TLS1_0")):
        assert told.pop(link) == ("inbound", what, None)  # the last of two
    assert told == {"asked": ("inbound", "client_auth OPTIONAL", None),
                    "optional": ("inbound", "client_auth OPTIONAL", "may enter"),
                    "open": ("inbound", "client_auth NONE", "may enter")}


def test_who_may_no_longer_enter_leaves(matrix):
    """The link lets nobody in any more without a certificate: who is there is cut off; the twin with one stays."""
    anonymous = context("client", matrix.roots)
    known = context("client", matrix.roots, matrix.paths("server"))
    name = "optional.mortise.internal"
    with socket.create_connection(("127.0.0.1", matrix.tls_port), 10) as first, \
            socket.create_connection(("127.0.0.1", matrix.tls_port), 10) as second, \
            anonymous.wrap_socket(first, server_hostname=name) as leaves, \
            known.wrap_socket(second, server_hostname=name) as stays:
        for tls in (leaves, stays):
            tls.settimeout(10)
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
        config = matrix.config("client")
        for one in config["inbound"]["links"]:
            if one["name"] == "optional":
                del one["allow_anonymous"]
        matrix.write("client", config)
        with pytest.raises(OSError):  # an alert
            while leaves.recv(1):
                pass
        stays.sendall(b"y")
        assert stays.recv(1) == b"y"
        matrix.write("client")
        wait_for("as before", lambda: len(matrix["client"].events("applied")) >= 3)


# Renegotiation.

class Asking:
    """An application at one end of an outbound link, and an s_server that asks for another handshake at the other; what the
    server sends can be kept back between them."""

    def __init__(self, matrix, link):
        self.matrix, self.link, self.stack = matrix, link, contextlib.ExitStack()

    def __enter__(self):
        cert, key = self.matrix.paths("server")
        inner = free_port()
        self.passes, self.changed = None, threading.Condition()
        self.pipe = self.stack.enter_context(socket.create_server(("127.0.0.1", self.matrix.ports[self.link][1])))
        self.server = self.stack.enter_context(Openssl(
            "s_server", "-accept", f"127.0.0.1:{inner}", "-cert", cert, "-key", key, "-CAfile", self.matrix.roots, "-tls1_2",
            "-msg"))
        self.server.read_until("ACCEPT")
        self.app = self.stack.enter_context(
            socket.create_connection(("127.0.0.1", self.matrix.ports[self.link][0]), 10))
        self.app.settimeout(10)
        near = self.stack.enter_context(self.pipe.accept()[0])
        far = self.stack.enter_context(socket.create_connection(("127.0.0.1", inner), 10))
        self.threads = [threading.Thread(target=self.carry, args=way, daemon=True)
                        for way in ((near, far, False), (far, near, True))]
        for thread in self.threads:
            thread.start()
        self.say(b"begin\n")
        return self

    def __exit__(self, *exc):
        self.let_pass(None)
        self.stack.close()
        for thread in self.threads:
            thread.join(10)

    def carry(self, come, go, gated):
        with contextlib.suppress(OSError):
            while data := come.recv(1 << 16):
                with self.changed:
                    assert self.changed.wait_for(lambda: not gated or self.passes != 0, 20)
                    if gated and self.passes:
                        self.passes -= 1
                go.sendall(data)
        with contextlib.suppress(OSError):
            go.shutdown(socket.SHUT_WR)

    def let_pass(self, number):
        """So many flights of the server more, or all of them (None)."""
        with self.changed:
            self.passes = number
            self.changed.notify_all()

    def say(self, data):
        self.app.sendall(data)
        self.server.read_until(data.decode())

    def hear(self, data):
        self.server.write(data)
        got = b""
        while len(got) < len(data):
            got += self.app.recv(len(data) - len(got))
        assert got == data

    def hellos(self):
        return self.server.said().count("ClientHello")

    def ask(self, command=b"r"):
        """Until it is done, or the connection is."""
        known = self.server.said().count("HelloRequest"), self.server.said().count("Finished")
        self.server.write(command + b"\n")
        wait_for("it has asked", lambda: self.look().count("HelloRequest") > known[0])
        wait_for("it is done", lambda: self.look().count("Finished") >= known[1] + 2 or "no_renegotiation" in self.look())

    def look(self):
        with contextlib.suppress(TimeoutError, EOFError):
            self.server.read_until("this is never said", timeout_s=0.01)
        return self.server.said()

    def line(self):
        return self.matrix.line("client", self.app.getsockname()[1])


@pytest.mark.parametrize("command", [b"r", b"R"])
@pytest.mark.parametrize("link,times", [("once", 1), ("freely", 5)])
def test_a_server_that_asks_gets_another_handshake(matrix, link, times, command):
    """With data both ways between them. `R` also asks for our certificate then."""
    with Asking(matrix, link) as one:
        for number in range(times):
            one.ask(command)
            assert one.hellos() == number + 2
            one.say(f"word {number}\n".encode())
            one.hear(f"answer {number}\n".encode())
        if link == "once":
            one.ask(command)
            assert rest_of(one.app) == (b"", True)
            assert (one.line()["reason"], one.line()["error"]) == ("tls_failed", "tls_protocol")
            assert one.hellos() == 2
        else:
            one.app.shutdown(socket.SHUT_WR)
            one.server.read_until("close notify", "close_notify")


def test_what_is_written_meanwhile_and_its_end_arrive(matrix):
    """The server's answer is kept back: what the application writes in mid-handshake, and its end, wait for that."""
    with Asking(matrix, "freely") as one:
        known = one.hellos()
        one.let_pass(1)  # the request
        one.server.write(b"r\n")
        wait_for("we have begun", lambda: one.look() and one.hellos() > known)
        one.app.sendall(b"meanwhile\n" * 3000)
        one.app.shutdown(socket.SHUT_WR)
        with pytest.raises(TimeoutError):
            one.server.read_until("meanwhile", "close_notify", timeout_s=0.3)
        one.let_pass(None)
        one.server.read_until("close_notify")
        text = re.sub(r"(<<<|>>>) [^\n]*\n(    [0-9a-f ]*\n)*", "", one.server.said())
        assert text.count("meanwhile\n") == 3000
        assert rest_of(one.app) == (b"", False)
        assert one.line()["reason"] == "done"


def test_a_server_that_asks_without_end_is_left(matrix):
    with Asking(matrix, "freely") as one:
        while "no_renegotiation" not in one.look():
            one.ask()
        assert rest_of(one.app) == (b"", True)
        assert (one.line()["reason"], one.line()["error"]) == ("tls_failed", "tls_protocol")
        assert 1 + 20 <= one.hellos() <= 1 + 21


# Deadlines.

def silent(port):
    """How long a server that says nothing is waited for."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(10)
        held = []
        thread = threading.Thread(target=lambda: held.append(listener.accept()))
        thread.start()
        yield held
        thread.join(10)
        for sock, _ in held:
            sock.close()


def test_a_handshake_takes_no_longer_than_the_profile_says_outbound(matrix):
    listen, server = matrix.ports["hasty"]
    with contextlib.contextmanager(silent)(server), socket.create_connection(("127.0.0.1", listen), 10) as app:
        app.settimeout(9)  # the sidecar's own setting is 10 s
        _, aborted = rest_of(app)
        assert aborted
        line = matrix.line("client", app.getsockname()[1])
    assert (line["reason"], line["link"]) == ("handshake_timeout", "hasty")
    assert 290 <= line["duration_ms"] < 9000


@pytest.mark.parametrize("link", ["plain", "hasty"])
def test_a_handshake_takes_no_longer_than_the_profile_says_inbound(matrix, link):
    """The client says hello, which names the link, and no more."""
    with socket.create_connection(("127.0.0.1", matrix.tls_port), 10) as sock:
        port = sock.getsockname()[1]
        begun = time.monotonic()
        sock.settimeout(5 if link == "hasty" else 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context("client", matrix.roots, matrix.paths("server")).wrap_bio(incoming, outgoing,
                                                                              server_hostname=f"{link}.mortise.internal")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        if link == "hasty":
            rest_of(sock)
            assert matrix.line("client", port)["reason"] == "handshake_timeout"
        else:  # the twin: it is waited for
            with pytest.raises(TimeoutError):
                rest_of(sock)
            assert time.monotonic() - begun >= 0.9


def test_what_is_idle_ends_when_the_profile_says(matrix):
    made = context("client", matrix.roots, matrix.paths("server"))
    with socket.create_connection(("127.0.0.1", matrix.tls_port), 10) as sock:
        port = sock.getsockname()[1]
        sock.settimeout(10)
        with made.wrap_socket(sock, server_hostname="hasty.mortise.internal") as tls:
            tls.sendall(b"x")
            assert tls.recv(1) == b"x"
            with contextlib.suppress(OSError):
                assert tls.recv(1) == b""
    line = matrix.line("client", port)
    assert line["reason"] == "idle" and 900 <= line["duration_ms"] < 9000


def test_both_ways_within_the_deadlines(matrix):
    facts = call(matrix.tls_port, context("client", matrix.roots, matrix.paths("server")), "hasty.mortise.internal")
    assert facts["version"] == "TLSv1.3"
    assert matrix.line("client", facts["port"])["reason"] == "done"
