"""Without this the control plane's port could be the weak one: it talks to strangers, whose certificate is optional. What
is not TLS, old versions, weak suites, odd hellos and records behind the handshake are refused there as on the mesh's
port, each with its alert, its line in the log and its count, and a stranger's handshake in order goes on working.

Drives: A2, A3, B1, D8, R1, R3, R4, R14"""
import os
import socket

import pytest

from deploy.lab.programs import wait_for
from test.testlib.control import LoneControl
from test.testlib.tls_raw import (ALERT, ALPN, APPLICATION_DATA, CHANGE_CIPHER_SPEC, EARLY_DATA,
                                  HANDSHAKE, KEY_UPDATE, NEW_SESSION_TICKET, PADDING, PSK, TLS12,
                                  TLS13, ClientHello, Reader, Refused, Tls13, record, records,
                                  vector)

H2 = ((ALPN, vector(2, vector(1, b"h2"))),)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture(scope="module")
def control(folder, binaries):
    made = LoneControl(folder, binaries).start()
    yield made
    made.stop()


def dial(control):
    sock = socket.create_connection(("127.0.0.1", control.port), 10)
    sock.settimeout(10)
    return sock


def stranger(sock, **fields):
    """A TLS 1.3 client without a certificate, which HTTP/2 was agreed with."""
    return Tls13(sock, extra=H2 + fields.pop("extra", ()), **fields).handshake()


@pytest.fixture(autouse=True)
def the_next_one_works(control):
    yield
    with dial(control) as sock:
        tls = stranger(sock)
        tls.send(PREFACE)
        assert tls.recv()[3] == 4  # its SETTINGS
        assert NEW_SESSION_TICKET not in [kind for kind, _ in tls.messages]


def results(control):
    head = 'mortise_control_handshakes_total{result="'
    return {series[len(head):-2]: int(value) for series, value in control.program.metrics().items()
            if series.startswith(head)}


def hello(**fields):
    return ClientHello(**{"extra": H2, "versions": (TLS13,), **fields}).bytes()


def told(control, sock_port, errors, before):
    def found():
        return [e for e in control.program.events() if e.get("event") == "handshake_failed" and
                e.get("peer", "").endswith(f":{sock_port}")]

    line, = wait_for("its line", found, 10)
    error = line["reason"]
    assert error in errors.split(), line
    assert results(control).get(error, 0) == before.get(error, 0) + 1


NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: control\r\n\r\n", "http2": PREFACE,
    "ssh": b"SSH-2.0-OpenSSH_9.2p1\r\n", "proxy v1": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
    "proxy v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12), "zeros": bytes(100),
}


@pytest.mark.parametrize("what", NOT_TLS)
def test_what_is_not_tls(control, what):
    before = results(control)
    with dial(control) as sock:
        port = sock.getsockname()[1]
        sock.sendall(NOT_TLS[what])
        try:
            assert sock.recv(1000) == b""
        except ConnectionResetError:
            pass
    told(control, port, "tls_not_tls", before)


HELLOS = {
    "SSL 3.0": (hello(versions=(), legacy_version=0x0300), "protocol_version"),
    "TLS 1.0": (hello(versions=(), legacy_version=0x0301), "protocol_version"),
    "TLS 1.1": (hello(versions=(0x0302,)), "protocol_version"),
    "TLS 1.2, which nobody needs here": (hello(versions=(TLS12,)), "protocol_version"),
    "CCM alone": (hello(ciphers=(0x1304, 0x1305)), "handshake_failure"),
    "no group": (hello(groups=(30,), shares={}), "handshake_failure"),
    "compression": (hello(compression=b"\1\0"), "illegal_parameter"),
    "two versions extensions": (hello(extra=H2 + ((43, b"\2\3\4"),)), "illegal_parameter decode_error"),
    "a session id of 33 bytes": (hello(session_id=bytes(33)), "decode_error illegal_parameter"),
    "another protocol": (hello(extra=((ALPN, vector(2, vector(1, b"http/1.1"))),)),
                         "no_application_protocol"),
}


@pytest.mark.parametrize("what", HELLOS)
def test_hellos(control, what):
    data, alerts = HELLOS[what]
    before = results(control)
    with dial(control) as sock:
        port = sock.getsockname()[1]
        sock.sendall(record(HANDSHAKE, data))
        with pytest.raises(Refused) as caught:
            Reader(sock).message()
    assert caught.value.alert in alerts.split(), caught.value.alert
    told(control, port, "tls_no_shared tls_protocol", before)


def test_a_hello_of_64_kb(control):
    message = hello(extra=H2 + ((PADDING, bytes(60_000)),))
    with dial(control) as sock:
        try:
            sock.sendall(records(HANDSHAKE, message, *range(16384, len(message), 16384)))
        except ConnectionError:
            pass
        with pytest.raises(Refused):
            Reader(sock).message()


def test_a_byte_a_record(control):
    message = hello()
    with dial(control) as sock:
        sock.sendall(records(HANDSHAKE, message, *range(1, len(message))))
        assert Reader(sock).message()[0] == 2


def test_early_data_and_sessions_are_not_taken(control):
    psk = vector(2, vector(2, os.urandom(100)) + bytes(4)) + vector(2, vector(1, bytes(32)))
    with dial(control) as sock:
        tls = stranger(sock, extra=((EARLY_DATA, b""), (PSK, psk)))
        assert PSK not in tls.server_hello.extensions
        tls.send(PREFACE)
        assert tls.recv()[3] == 4


BEHIND = {
    "a flipped bit": (lambda t: t.write.seal(APPLICATION_DATA, b"x")[:-1] + b"\0", "bad_record_mac"),
    "a hello": (lambda t: t.write.seal(HANDSHAKE, hello()), "unexpected_message"),
    "change_cipher_spec": (lambda t: record(CHANGE_CIPHER_SPEC, b"\1", TLS12), "unexpected_message"),
    "heartbeat": (lambda t: t.write.seal(24, b"\1\x40\0" + bytes(16)), "unexpected_message"),
    "an alert in the clear": (lambda t: record(ALERT, b"\1\0", TLS12), "unexpected_message"),
    "KeyUpdate of 2": (lambda t: t.message(KEY_UPDATE, b"\2"), "illegal_parameter"),
    "2^14 + 257 bytes": (lambda t: record(APPLICATION_DATA, bytes(16384 + 257), TLS12),
                         "record_overflow"),
}


@pytest.mark.parametrize("what", BEHIND)
def test_records_behind_the_handshake(control, what):
    with dial(control) as sock:
        tls = stranger(sock)
        tls.send(PREFACE)
        assert tls.recv()[3] == 4
        sock.sendall(BEHIND[what][0](tls))
        assert tls.alert() == BEHIND[what][1]
