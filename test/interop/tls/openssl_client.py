"""Without this the inbound port could speak a TLS of its own, or take from OpenSSL what it must not: every session
is new, whole and verified, in both versions, and what is weak or old is refused with the alert that says so.

Drives: A2, A5, B1, D8, R1, R3, R4, R73"""
import socket
import subprocess

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp
from test.testlib.static import SERVER_ID, StaticPair, free_port
from test.testlib.tls_peer import FLAGS, Openssl, call, context
from test.testlib.tls_raw import (AES_128_GCM_SHA256, CERTIFICATE_REQUEST, EARLY_DATA,
                                  ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM,
                                  ECDHE_ECDSA_CHACHA20, ECDHE_RSA_AES_128_GCM,
                                  ECDHE_RSA_AES_256_GCM, ECDHE_RSA_CHACHA20, HANDSHAKE,
                                  NEW_SESSION_TICKET, POST_HANDSHAKE_AUTH, PSK, SESSION_TICKET,
                                  TLS12, ClientHello, Refused, Tls13, ask, numbers, record, vector)

BOTH = ["TLS1_2", "TLS1_3"]


@pytest.fixture(scope="module")
def pair(folder, binaries):
    """The server's sidecar alone; OpenSSL takes the place of the client's."""
    made = StaticPair(folder, binaries)
    made.start("server")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def app(pair):
    with EchoApp(pair.target_port) as made:
        yield made


def s_client(pair, version, *more):
    cert, key = pair.paths("client")
    port = free_port()
    made = Openssl("s_client", "-connect", f"127.0.0.1:{pair.tls_port}", "-bind",
                   f"127.0.0.1:{port}", "-servername", pair.server_name, "-cert", cert, "-key",
                   key, "-CAfile", pair.roots, "-verify", "4", "-verify_return_error",
                   *([FLAGS[version]] if version else []), *more)
    made.port = port
    return made


def good(pair, version=None):
    return call(pair.tls_port, context("client", pair.roots, pair.paths("client"), version),
                pair.server_name)


def dial(pair):
    sock = socket.create_connection(("127.0.0.1", pair.tls_port), 10)
    sock.settimeout(10)
    return sock


def hello(pair, **fields):
    """The ServerHello that answers such a ClientHello; Refused when none does."""
    message = ClientHello(server_name=pair.server_name, **fields)
    with dial(pair) as sock:
        return ask(sock, record(HANDSHAKE, message.bytes()))


@pytest.mark.parametrize("version", BOTH)
def test_s_client_gets_through(pair, app, version):
    with s_client(pair, version) as client:
        client.write(b"over and out\n")
        text = client.read_until("\nover and out")
    if "Verify return code: 0 (ok)" not in text:
        pytest.fail(text)
    name = "TLSv1.2" if version == "TLS1_2" else "TLSv1.3"
    assert f"New, {name}, Cipher is" in text
    assert "Compression: NONE" in text and "No ALPN negotiated" in text
    assert "Server Temp Key: X25519" in text
    if version == "TLS1_2":
        assert "Secure Renegotiation IS supported" in text
        assert "Extended master secret: yes" in text
    line = pair.line("server", client.port)
    assert line["tls_version"] == name
    assert line["bytes_to_app"] == line["bytes_to_mesh"] == len("over and out\n")


@pytest.mark.parametrize("version", BOTH)
def test_no_session_comes_that_could_be_resumed(pair, app, version):
    """s_client writes its session file when a session has an id or a ticket."""
    file = pair.folder / f"session-{version}.pem"
    with s_client(pair, version, "-sess_out", file) as client:
        client.write(b"first\n")
        client.read_until("\nfirst")
        client.write(b"Q\n")
        text = client.read_all()
    assert not file.exists()
    assert "TLS session ticket" not in text
    if version == "TLS1_2":
        assert "Session-ID: \n" in text


def test_no_new_session_ticket_crosses_the_wire(pair, app):
    """Every handshake message behind the server's Finished is seen, whatever a library would do with it."""
    with dial(pair) as sock:
        tls = Tls13(sock, pair.client, server_name=pair.server_name).handshake()
        behind = []
        for number in range(5):
            tls.send(b"ping")
            while (got := tls.recv()) != b"ping":
                behind.append(got)
        tls.close_notify()
        try:
            while True:
                behind.append(tls.recv())
        except Refused as err:
            assert err.alert == "close_notify"
    assert behind == []
    assert NEW_SESSION_TICKET not in [kind for kind, _ in tls.messages]


@pytest.fixture(scope="module")
def foreign_sessions(pair):
    """Sessions that an s_server with our very certificate gave: by id, by ticket, by PSK."""
    cert, key = pair.paths("server")
    found = {}
    for kind, version, flags in (("id", "TLS1_2", ["-no_ticket"]), ("ticket", "TLS1_2", []),
                                 ("psk", "TLS1_3", ["-early_data"])):
        port = free_port()
        with Openssl("s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
                     "-CAfile", pair.roots, FLAGS[version], *flags) as server:
            server.read_until("ACCEPT")
            file = pair.folder / f"foreign-{kind}.pem"
            client_cert, client_key = pair.paths("client")
            with Openssl("s_client", "-connect", f"127.0.0.1:{port}", "-servername",
                         pair.server_name, "-cert", client_cert, "-key", client_key, "-CAfile",
                         pair.roots, FLAGS[version], "-sess_out", file) as client:
                wait_for("the session", lambda f=file: "-----END" in f.read_text())
                client.write(b"Q\n")
                client.read_all()
        found[kind] = file
    return found


@pytest.mark.parametrize("kind", ["id", "ticket", "psk"])
def test_offered_sessions_are_not_resumed(pair, app, foreign_sessions, kind):
    version = "TLS1_3" if kind == "psk" else "TLS1_2"
    with s_client(pair, version, "-sess_in", foreign_sessions[kind]) as client:
        client.write(b"again\n")
        text = client.read_until("\nagain")
    assert "\nNew, " in text and "\nReused, " not in text


@pytest.mark.parametrize("kind", ["id", "ticket", "psk"])
def test_an_offered_session_does_not_replace_the_certificate(pair, app, foreign_sessions, kind):
    """The adversarial twin: with a session and without a certificate there is no way in."""
    version = "TLS1_3" if kind == "psk" else "TLS1_2"
    before = app.connections
    with Openssl("s_client", "-connect", f"127.0.0.1:{pair.tls_port}", "-servername",
                 pair.server_name, "-CAfile", pair.roots, FLAGS[version], "-sess_in",
                 foreign_sessions[kind]) as client:
        client.read_until("alert certificate required", "alert handshake failure")
    assert app.connections == before


def test_early_data_is_not_taken(pair, app, foreign_sessions):
    """0-RTT bytes never reach the application; the handshake goes on as a whole one."""
    early = pair.folder / "early"
    early.write_bytes(b"early bird\n")
    before = app.bytes
    with s_client(pair, "TLS1_3", "-sess_in", foreign_sessions["psk"], "-early_data",
                  early) as client:
        client.write(b"in time\n")
        text = client.read_until("\nin time")
    assert "Early data was rejected" in text
    assert app.bytes - before == len(b"in time\n")


def test_early_data_by_hand_is_thrown_away_or_refused(pair, app):
    """A PSK that nobody gave out, and bytes behind the hello under a key that nobody has."""
    before = app.connections
    binders = vector(2, vector(1, bytes(32)))
    psk = vector(2, vector(2, b"\x5a" * 64) + bytes(4)) + binders
    message = ClientHello(server_name=pair.server_name, versions=(0x0304,),
                          ciphers=(AES_128_GCM_SHA256,), extra=((EARLY_DATA, b""), (PSK, psk)))
    with dial(pair) as sock:
        answer = ask(sock, record(HANDSHAKE, message.bytes()) + record(23, b"\x17" * 400) * 3)
        assert PSK not in answer.extensions and EARLY_DATA not in answer.extensions
    assert app.connections == before


def test_neither_tickets_nor_later_authentication_are_agreed_to(pair):
    answer = hello(pair, versions=(TLS12,), ciphers=(ECDHE_ECDSA_AES_128_GCM,),
                   extra=((SESSION_TICKET, b"\x77" * 180),))
    assert SESSION_TICKET not in answer.extensions and answer.session_id == b""
    with dial(pair) as sock:
        tls = Tls13(sock, pair.client, server_name=pair.server_name,
                    extra=((POST_HANDSHAKE_AUTH, b""),)).handshake()
        assert [kind for kind, _ in tls.messages].count(CERTIFICATE_REQUEST) == 1
        tls.send(b"one")
        assert tls.recv() == b"one"


def test_compression_is_never_chosen(pair):
    answer = hello(pair, versions=(TLS12,), ciphers=(ECDHE_ECDSA_AES_128_GCM,),
                   compression=b"\x01\x00")
    assert answer.compression == 0


@pytest.mark.parametrize("flag", ["-tls1", "-tls1_1"])
def test_versions_below_1_2_are_refused(pair, app, flag):
    with s_client(pair, None, flag, "-cipher", "ALL:@SECLEVEL=0") as client:
        text = client.read_all()
    assert "alert protocol version" in text, text
    good(pair)


@pytest.mark.parametrize("offered", [0x0300, 0x0301, 0x0302, 0x0200])
def test_old_versions_by_hand(pair, offered):
    """As legacy_version without the extension, and as the only entry of the extension."""
    for fields in ({"versions": (), "legacy_version": offered}, {"versions": (offered,)}):
        with pytest.raises(Refused) as caught:
            hello(pair, **fields)
        assert caught.value.alert == "protocol_version"


def test_an_sslv2_hello_is_refused(pair, app):
    """Its 16 bytes of challenge and 3-byte suites carry neither server name nor versions."""
    before = app.connections
    body = b"\x01" + numbers([TLS12, 6, 0, 16]) + b"\x00\xc0\x2b\x00\xc0\x2f" + bytes(16)
    with dial(pair) as sock, pytest.raises(Refused):
        ask(sock, numbers([0x8000 | len(body)]) + body)
    assert app.connections == before


def test_a_fallback_that_is_none_is_told(pair):
    with pytest.raises(Refused) as caught:
        hello(pair, versions=(TLS12,), ciphers=(ECDHE_ECDSA_AES_128_GCM, 0x5600))
    assert caught.value.alert == "inappropriate_fallback"
    assert hello(pair, versions=(TLS12,), ciphers=(ECDHE_ECDSA_AES_128_GCM,)).version == TLS12


WEAK = {
    "ECDHE_ECDSA_AES_128_CBC_SHA": 0xC009, "ECDHE_ECDSA_AES_256_CBC_SHA": 0xC00A,
    "ECDHE_ECDSA_AES_128_CBC_SHA256": 0xC023, "ECDHE_ECDSA_AES_256_CBC_SHA384": 0xC024,
    "ECDHE_RSA_AES_128_CBC_SHA": 0xC013, "ECDHE_RSA_AES_256_CBC_SHA384": 0xC028,
    "ECDHE_ECDSA_RC4_128_SHA": 0xC007, "ECDHE_RSA_3DES_EDE_CBC_SHA": 0xC012,
    "ECDHE_ECDSA_NULL_SHA": 0xC006, "RSA_AES_128_GCM_SHA256": 0x009C,
    "RSA_AES_256_GCM_SHA384": 0x009D, "RSA_AES_128_CBC_SHA": 0x002F,
    "RSA_3DES_EDE_CBC_SHA": 0x000A, "RSA_RC4_128_MD5": 0x0004, "RSA_NULL_SHA256": 0x003B,
    "RSA_EXPORT_RC4_40_MD5": 0x0003, "DHE_RSA_AES_128_GCM_SHA256": 0x009E,
    "DHE_RSA_AES_256_CBC_SHA": 0x0039, "DH_anon_AES_128_GCM_SHA256": 0x00A6,
    "ECDH_ECDSA_AES_128_GCM_SHA256": 0xC02D, "PSK_AES_128_GCM_SHA256": 0x00A8,
    "ECDHE_PSK_AES_128_CBC_SHA": 0xC035, "ECDHE_ECDSA_AES_128_CCM_8": 0xC0AE,
}
STRONG = {"ecdsa": (ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM, ECDHE_ECDSA_CHACHA20),
          "rsa": (ECDHE_RSA_AES_128_GCM, ECDHE_RSA_AES_256_GCM, ECDHE_RSA_CHACHA20)}


@pytest.fixture(scope="module")
def rsa_pair(folder, binaries):
    """Suites of RSA are refused for what they are, and not for want of a certificate: here is one."""
    inside = folder / "rsa"
    inside.mkdir()
    made = StaticPair(inside, binaries)
    made.renew("server", made.ca.issue(SERVER_ID, key="rsa2048"))
    made.start("server")
    yield made
    made.stop()


@pytest.mark.parametrize("key", ["ecdsa", "rsa"])
def test_weak_suites_are_refused_and_strong_ones_taken(pair, rsa_pair, key):
    served = pair if key == "ecdsa" else rsa_pair
    for suite in STRONG[key]:
        assert hello(served, versions=(TLS12,), ciphers=(suite,)).cipher == suite
    taken = {}
    for name, suite in WEAK.items():
        try:
            taken[name] = hello(served, versions=(TLS12,), ciphers=(suite,))
        except Refused as err:
            if err.alert != "handshake_failure":
                taken[name] = err.alert
    assert taken == {}
    # Before a strong one, a weak one changes nothing.
    assert hello(served, versions=(TLS12,), ciphers=(*WEAK.values(), STRONG[key][0])).cipher == \
        STRONG[key][0]


def test_renegotiation_is_refused(pair, app):
    with s_client(pair, "TLS1_2") as client:
        client.write(b"before\n")
        client.read_until("\nbefore")
        client.write(b"R\n")
        client.read_until("RENEGOTIATING")
        client.read_until("no renegotiation")
    line = pair.line("server", client.port)
    assert (line["reason"], line["error"]) == ("tls_failed", "tls_protocol")
    good(pair, "TLS1_2")


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
def test_client_certificates_of_the_allowed_kinds(pair, app, version, kind):
    from test.testlib.static import CLIENT_ID

    paths = pair.ca.issue(CLIENT_ID, key=kind).write(pair.folder, f"client-{kind}")
    call(pair.tls_port, context("client", pair.roots, paths, version), pair.server_name)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("kind", ["p384", "rsa2048"])
def test_server_certificates_of_the_allowed_kinds(pair, rsa_pair, folder, binaries, version, kind):
    if kind == "rsa2048":
        served = rsa_pair
        with EchoApp(served.target_port):
            facts = good(served, version)
    else:
        inside = folder / f"p384-{version}"
        inside.mkdir()
        served = StaticPair(inside, binaries)
        served.renew("server", served.ca.issue(SERVER_ID, key="p384"))
        served.start("server")
        try:
            with EchoApp(served.target_port):
                facts = good(served, version)
        finally:
            served.stop()
    text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-text"],
                          input=facts["peer"], capture_output=True, check=True).stdout.decode()
    assert ("(384 bit)" if kind == "p384" else "(2048 bit)") in text
