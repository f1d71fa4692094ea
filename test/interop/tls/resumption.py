"""Without this a session could outlive the trust that it was made under: whatever a client brings from an earlier connection
(a session of ours, one of a server with our very certificate, one made by hand), before and after trust, peers or
profile have changed, comes to a whole handshake by today's rules or to a refusal.

Drives: A3, F3, R1, R3, R4, R6, R11, R72"""
import os
import socket

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp
from test.testlib.pki import Ca
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port
from test.testlib.tls_peer import FLAGS, Openssl
from test.testlib.tls_raw import (CERTIFICATE_REQUEST, EARLY_DATA, ENCRYPTED_EXTENSIONS, HANDSHAKE,
                                  PSK, TLS13, ClientHello, Reader, Refused, Tls13, extensions_of,
                                  record, vector)

KINDS = {"id": ("TLS1_2", ["-no_ticket"]), "ticket": ("TLS1_2", []), "psk": ("TLS1_3", [])}


class Pair(StaticPair):
    """A server's sidecar whose trust, peers and profile change."""

    roots_of, peer, profile = None, CLIENT_ID, None

    def config(self, side):
        config = super().config(side)
        if side == "server":
            config["inbound"]["links"][0]["peers"]["spiffe_ids"] = [self.peer]
            config["profiles"] = [config["profiles"][0] | (self.profile or {})]
        return config

    def change(self, **fields):
        """A new configuration, in force when this returns."""
        for name, value in fields.items():
            setattr(self, name, value)
        ca = self.roots_of or self.ca
        self.roots.write_bytes(ca.root_pem())
        made = self.renew("server", ca.issue(SERVER_ID))  # another's, its own truststore would not trust
        self.write("server")
        self["server"].child.send_signal(1)
        wait_for("the new configuration", lambda: made.serial in self["server"].get("/config"))


@pytest.fixture
def pair(tmp_path, binaries):
    made = Pair(tmp_path, binaries)
    made.start("server")
    yield made
    made.stop()


@pytest.fixture
def app(pair):
    with EchoApp(pair.target_port) as made:
        yield made


def s_client(pair, port, version, *more):
    cert, key = pair.paths("client")
    return Openssl("s_client", "-connect", f"127.0.0.1:{port}", "-servername", pair.server_name,
                   "-cert", cert, "-key", key, FLAGS[version], *more)


@pytest.fixture
def sessions(pair):
    """Sessions that a server with our very certificate and key gave to this client: it verified it."""
    cert, key = pair.paths("server")
    found = {}
    for kind, (version, flags) in KINDS.items():
        port, file = free_port(), pair.folder / f"{kind}.pem"
        with Openssl("s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
                     "-CAfile", pair.roots, "-Verify", "2", FLAGS[version], *flags) as server:
            server.read_until("ACCEPT")
            with s_client(pair, port, version, "-sess_out", file) as client:
                wait_for("the session", lambda f=file: "-----END" in f.read_text())
                client.write(b"Q\n")
                client.read_all()
        found[kind] = file
    return found


def attempt(pair, kind, file):
    """What becomes of it: True for a whole handshake and an echo, or what was said of the refusal."""
    with s_client(pair, pair.tls_port, KINDS[kind][0], "-sess_in", file) as client:
        client.write(b"let me in\n")
        text = client.read_until("\nlet me in", "alert")
        assert "\nReused, " not in text
        return "alert" not in text or text


# Each: the change, what the client has thereby lost, and how it is told in TLS 1.3 or 1.2.
CHANGES = {
    "trust": (lambda: {"roots_of": Ca("another root")}, "unknown ca"),
    "peers": (lambda: {"peer": "spiffe://static.test/ns/test/sa/another"}, "access denied"),
    "profile": (lambda: {"profile": {
        "max_version": "TLS1_2", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
        "groups": ["P-384", "P-256"]}}, None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_sessions_of_before_a_change(pair, app, sessions, change):
    for kind, file in sessions.items():
        assert attempt(pair, kind, file) is True, kind  # a whole handshake: it brought its certificate
    fields, alert = CHANGES[change]
    pair.change(**fields())
    reached = app.connections
    for kind, file in sessions.items():
        found = attempt(pair, kind, file)
        if alert is not None:
            assert found is not True and f"alert {alert}" in found, kind
        elif kind == "psk":  # TLS 1.3 alone, which the profile has no more
            assert found is not True and "alert protocol version" in found
        else:
            assert found is True
    assert app.connections == reached + (2 if alert is None else 0)
    pair.change(roots_of=None, peer=CLIENT_ID, profile=None)  # the good twin: back as it was
    for kind, file in sessions.items():
        assert attempt(pair, kind, file) is True


def test_there_is_nothing_to_keep(pair, app):
    """The sessions of ours: none is given, and the library's own copy of what there was resumes nothing."""
    for version in FLAGS:
        file = pair.folder / f"ours-{version}.pem"
        with s_client(pair, pair.tls_port, version, "-sess_out", file, "-reconnect") as client:
            text = client.read_all()
        assert not file.exists() or "BEGIN SSL SESSION" not in file.read_text()
        assert "Reused, " not in text and text.count("New, ") == 6  # it connects five times more


@pytest.mark.parametrize("early", [False, True], ids=["psk", "early data"])
def test_a_ticket_made_by_hand(pair, app, early):
    """Of every length, with and without early data: the certificate is asked for all the same."""
    for size in (1, 16, 64, 200, 4000):
        psk = vector(2, vector(2, os.urandom(size)) + bytes(4)) + vector(2, vector(1, bytes(32)))
        extra = (((EARLY_DATA, b""),) if early else ()) + ((PSK, psk),)
        with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
            sock.settimeout(10)
            tls = Tls13(sock, pair.client, server_name=pair.server_name, extra=extra).handshake()
            assert PSK not in tls.server_hello.extensions
            assert [kind for kind, _ in tls.messages].count(CERTIFICATE_REQUEST) == 1
            encrypted, = (body for kind, body in tls.messages if kind == ENCRYPTED_EXTENSIONS)
            assert EARLY_DATA not in extensions_of(encrypted[2:])
            tls.send(b"hello")
            assert tls.recv() == b"hello"


def test_a_psk_that_is_not_the_last_extension_is_refused(pair, app):
    """RFC 8446 section 4.2.11: illegal_parameter; what stands behind it would not be covered by the binder."""
    psk = vector(2, vector(2, bytes(64)) + bytes(4)) + vector(2, vector(1, bytes(32)))
    message = ClientHello(server_name=pair.server_name, versions=(TLS13,),
                          extra=((PSK, psk), (0xFE00, b"")))
    with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
        sock.settimeout(10)
        sock.sendall(record(HANDSHAKE, message.bytes()))
        with pytest.raises(Refused) as caught:
            while True:
                Reader(sock).message()
    assert caught.value.alert == "illegal_parameter"
    assert app.connections == 0
