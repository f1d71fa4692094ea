"""Without this the outbound side could be talked into what the inbound side refuses: sessions, renegotiation, old
versions, answers that were not asked for; and a cut connection could pass for a whole answer.

Drives: A2, A5, B1, B3, R1, R4, R13, R73"""
import os
import socket
import ssl
import threading

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import exchange
from test.testlib.static import SERVER_ID, StaticPair
from test.testlib.tls_peer import FLAGS, Openssl, Server, context
from test.testlib.tls_raw import (ALERT, ALERTS, CHANGE_CIPHER_SPEC, HANDSHAKE, KEY_SHARE,
                                  SERVER_HELLO, TLS12, TLS13, VERSIONS, X25519, ClientHello, Reader,
                                  numbers, record, vector)

BOTH = ["TLS1_2", "TLS1_3"]


@pytest.fixture(scope="module")
def pair(folder, binaries):
    """The client's sidecar alone; OpenSSL takes the place of the server's."""
    made = StaticPair(folder, binaries)
    made.start("client")
    yield made
    made.stop()


def s_server(pair, version, *more, cert=None):
    cert, key = cert or pair.paths("server")
    server = Openssl("s_server", "-accept", f"127.0.0.1:{pair.tls_port}", "-cert", cert, "-key",
                     key, "-CAfile", pair.roots, "-Verify", "4", "-verify_return_error",
                     FLAGS[version], *more)
    server.read_until("ACCEPT")
    return server


def dial(pair):
    sock = socket.create_connection(("127.0.0.1", pair.app_port), 10)
    sock.settimeout(10)
    return sock


def ended(sock):
    """Whether the application sees an abort (True) or an orderly end (False); the bytes before it."""
    got = b""
    try:
        while part := sock.recv(1 << 16):
            got += part
    except ConnectionResetError:
        return True, got
    return False, got


@pytest.mark.parametrize("version", BOTH)
def test_s_server_is_reached_and_sees_our_certificate(pair, version):
    ports = []
    with s_server(pair, version, "-rev") as server:
        assert exchange(pair.app_port, b"desserts\n", ports=ports) == b"stressed\n"
        text = server.read_until("CONNECTION CLOSED")
    assert "Verification: OK" in text
    assert f"Protocol version: {'TLSv1.2' if version == 'TLS1_2' else 'TLSv1.3'}" in text
    line = pair.line("client", ports[0])
    assert line["peer_id"] == SERVER_ID and line["peer_serial"] == pair.server.serial
    assert line["reason"] == "done"


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("kind", ["p384", "rsa2048"])
def test_certificates_of_the_allowed_kinds(pair, version, kind):
    paths = pair.ca.issue(SERVER_ID, key=kind).write(pair.folder, f"server-{kind}")
    with s_server(pair, version, "-rev", cert=paths):
        assert exchange(pair.app_port, b"on\n") == b"no\n"


@pytest.mark.parametrize("tickets", [True, False], ids=["tickets", "ids"])
@pytest.mark.parametrize("version", BOTH)
def test_sessions_that_are_given_are_not_used(pair, version, tickets):
    made = context("server", pair.roots, pair.paths("server"), version)
    if not tickets:
        made.options |= ssl.OP_NO_TICKET
    made.num_tickets = 4 if tickets else 0
    with Server(pair.tls_port, made) as server:
        for number in range(4):
            assert exchange(pair.app_port, b"again") == b"again"
        wait_for("all are over", lambda: len(server.seen) == 4 and
                 all(entry["done"] for entry in server.seen))
    assert [entry["reused"] for entry in server.seen] == [False] * 4
    assert made.session_stats()["hits"] == 0
    # Each time the certificate was shown: what a resumed session would have left out.
    assert all(entry["peer"] is not None for entry in server.seen)


@pytest.mark.parametrize("command", ["r", "R"])
def test_a_server_that_wants_to_renegotiate_is_left(pair, command):
    with s_server(pair, "TLS1_2") as server, dial(pair) as app:
        port = app.getsockname()[1]
        app.sendall(b"before\n")
        server.read_until("\nbefore")
        server.write(command.encode() + b"\n")
        aborted, got = ended(app)
    assert aborted and got == b""
    line = pair.line("client", port)
    assert (line["reason"], line["error"]) == ("tls_failed", "tls_protocol")


def test_key_updates_that_a_server_asks_for_are_made(pair):
    with s_server(pair, "TLS1_3", "-msg") as server, dial(pair) as app:
        app.sendall(b"first\n")
        server.read_until("\nfirst")
        for number in range(5):
            server.write(b"K\n")
            wait_for("it asked", lambda n=number: told(server, ">>>") > n)
            app.sendall(b"word %d\n" % number)
            server.read_until(f"word {number}\n")
            assert told(server, "<<<") == number + 1  # ours goes ahead of the next data
            server.write(b"answer %d\n" % number)
            assert app.recv(100) == b"answer %d\n" % number


def told(server, direction):
    """How many KeyUpdates s_server has said of so far, `<<<` from us or `>>>` to us."""
    try:
        server.read_until("this is never said", timeout_s=0.01)
    except TimeoutError:
        pass
    return sum(1 for line in server.said().splitlines()
               if line.startswith(direction) and "KeyUpdate" in line)


@pytest.mark.parametrize("flag", ["-tls1", "-tls1_1"])
def test_servers_of_old_versions_are_refused(pair, flag):
    cert, key = pair.paths("server")
    with Openssl("s_server", "-accept", f"127.0.0.1:{pair.tls_port}", "-cert", cert, "-key", key,
                 flag, "-cipher", "ALL:@SECLEVEL=0") as server:
        server.read_until("ACCEPT")
        known = len(pair.lines("client"))
        with pytest.raises(ConnectionError):
            exchange(pair.app_port, b"secret")
        assert "secret" not in server.said()
    pair.new_line("client", known, reason="peer_alert", error="tls_alert")


@pytest.mark.parametrize("version", BOTH)
def test_a_cut_connection_is_an_abort_and_an_end_is_an_end(pair, version):
    """An answer cut off by FIN without close_notify must not look whole."""
    made = context("server", pair.roots, pair.paths("server"), version)
    for orderly in (True, False):
        with socket.create_server(("127.0.0.1", pair.tls_port)) as listener:
            listener.settimeout(10)
            with dial(pair) as app:
                port = app.getsockname()[1]
                sock, _ = listener.accept()
                sock.settimeout(10)
                with made.wrap_socket(sock, server_side=True) as tls:
                    tls.sendall(b"half an answer")
                    assert app.recv(14) == b"half an answer"
                    if orderly:
                        closer = threading.Thread(target=tls.unwrap)
                        closer.start()
                        assert ended(app) == (False, b"")
                        app.shutdown(socket.SHUT_WR)
                        closer.join(10)
                    else:
                        socket.socket(fileno=os.dup(tls.fileno())).shutdown(socket.SHUT_WR)
                        assert ended(app) == (True, b"")
        reason = pair.line("client", port)["reason"]
        assert reason == ("done" if orderly else "peer_truncated")


# Servers that lie.


def server_hello(seen, version=TLS12, cipher=0xC02B, session_id=b"", compression=0, random=None,
                 extensions=()):
    body = b"".join(numbers([kind]) + vector(2, data) for kind, data in extensions)
    message = (numbers([version]) + (random or os.urandom(32)) + vector(1, session_id) +
               numbers([cipher]) + bytes([compression]) + (vector(2, body) if body else b""))
    return record(HANDSHAKE, bytes([SERVER_HELLO]) + vector(3, message))


def hello13(seen, **changes):
    found = {"cipher": 0x1301, "session_id": seen.session_id,
             "extensions": ((VERSIONS, numbers([TLS13])),
                            (KEY_SHARE, numbers([X25519]) + vector(2, b"\x09" + bytes(31))))}
    return server_hello(seen, **{**found, **changes})


LIES = {
    "TLS 1.1": lambda seen: server_hello(seen, version=0x0302, cipher=0xC009),
    "TLS 1.1 by extension": lambda seen: hello13(seen, extensions=((VERSIONS, b"\3\2"),)),
    "a suite not offered": lambda seen: server_hello(seen, cipher=0xC009),
    "RSA key exchange": lambda seen: server_hello(seen, cipher=0x009C),
    "a suite of 1.3 in 1.2": lambda seen: server_hello(seen, cipher=0x1301),
    "a suite of 1.2 in 1.3": lambda seen: hello13(seen, cipher=0xC02B),
    "compression": lambda seen: server_hello(seen, compression=1),
    "an extension not offered": lambda seen: server_hello(seen, extensions=((0x7777, b""),)),
    "early data in the hello": lambda seen: hello13(seen, extensions=(
        (VERSIONS, numbers([TLS13])), (42, b""))),
    "a PSK chosen": lambda seen: hello13(seen, extensions=(
        (VERSIONS, numbers([TLS13])), (41, b"\0\0"))),
    "another session id": lambda seen: hello13(seen, session_id=b"\x33" * 32),
    "a group not offered": lambda seen: hello13(seen, extensions=(
        (VERSIONS, numbers([TLS13])), (KEY_SHARE, numbers([0x0100]) + vector(2, bytes(128))))),
    "a key share of zeros": lambda seen: hello13(seen, extensions=(
        (VERSIONS, numbers([TLS13])), (KEY_SHARE, numbers([X25519]) + vector(2, bytes(32))))),
    "1.2 with the mark of a downgrade": lambda seen: server_hello(
        seen, random=bytes(24) + b"DOWNGRD\x01"),
    "an endless hello": lambda seen: record(HANDSHAKE, bytes([SERVER_HELLO]) + b"\xff\xff\xff" +
                                            bytes(16000)),
    "application data at once": lambda seen: record(23, b"220 welcome\r\n"),
    "HTTP": lambda seen: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "SSH": lambda seen: b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": lambda seen: b"",
    "half a record": lambda seen: hello13(seen)[:20],
}


# No TLS, or no more of it: there is nobody to send an alert to.
SILENT = ("nothing", "half a record", "HTTP", "SSH", "application data at once")


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_server_gets_an_alert_and_no_byte(pair, lie):
    with socket.create_server(("127.0.0.1", pair.tls_port)) as listener:
        listener.settimeout(10)
        with dial(pair) as app:
            port = app.getsockname()[1]
            app.sendall(b"secret")
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(10)
                seen = ClientHello.parse(Reader(sock).message())
                sock.sendall(LIES[lie](seen))
                sock.shutdown(socket.SHUT_WR)
                answer = b""
                try:
                    while part := sock.recv(1 << 16):
                        answer += part
                except ConnectionResetError:
                    pass
            assert ended(app) == (True, b"")
    if lie in SILENT:
        assert answer == b""
    else:
        answer = answer.removeprefix(record(CHANGE_CIPHER_SPEC, b"\1", TLS12))  # for middleboxes
        assert len(answer) == 7 and answer[0] == ALERT, answer
        assert ALERTS[answer[6]] in (
            "illegal_parameter", "protocol_version", "decode_error", "unsupported_extension",
            "unexpected_message", "handshake_failure",
            *(["internal_error"] if lie == "a key share of zeros" else [])), ALERTS[answer[6]]
    line = pair.line("client", port)
    assert line["reason"] in ("tls_failed", "no_shared_parameters", "not_tls", "peer_truncated")
    assert line["bytes_to_mesh"] == 0
