"""Without this an old version or a weak suite could be refused by luck, or in silence: SSL 2 to TLS 1.1, suites without
forward secrecy, without authentication, without encryption, CBC and stream ciphers, offered by OpenSSL, tlslite-ng and
by hand, to the inbound and by servers to the outbound side; each ends with its alert, its reason in the log and its count.

Drives: A2, A3, B1, R1, R4, R73"""
import socket
import threading

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.static import SERVER_ID, StaticPair, free_port
from test.testlib.tls_lite import SSL3, TLS10, TLS11, TLS12, TLS13, Lite, dial, settings
from test.testlib.tls_peer import Openssl
from test.testlib.tls_raw import (CERTIFICATE, ECDHE_ECDSA_AES_128_GCM, FALLBACK_SCSV, HANDSHAKE,
                                  SERVER_HELLO, ClientHello, Reader, Refused, ask, numbers, record)

RAW12 = 0x0303


@pytest.fixture(scope="module", params=["ecdsa", "rsa"])
def pair(request, folder, binaries):
    """With an RSA key a suite of RSA is refused for what it is, and not for want of a certificate."""
    inside = folder / request.param
    inside.mkdir()
    made = StaticPair(inside, binaries)
    made.key = request.param
    if made.key == "rsa":
        made.renew("server", made.ca.issue(SERVER_ID, key="rsa2048"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def app(pair):
    with EchoApp(pair.target_port) as made:
        yield made


def counts(pair, side):
    """Handshakes by result."""
    direction = "inbound" if side == "server" else "outbound"
    head = f'mortise_handshakes_total{{direction="{direction}",result="'
    return {series[len(head):-2]: int(value) for series, value in pair[side].metrics().items()
            if series.startswith(head)}


# By hand: (fields of the hello, alert, error).
NO_SHARED = "tls_no_shared"
HELLOS = {
    "SSL 3.0": ({"versions": (), "legacy_version": 0x0300}, "protocol_version", NO_SHARED),
    "TLS 1.0": ({"versions": (), "legacy_version": 0x0301}, "protocol_version", NO_SHARED),
    "TLS 1.1": ({"versions": (), "legacy_version": 0x0302}, "protocol_version", NO_SHARED),
    "TLS 1.1 in the extension": ({"versions": (0x0302,)}, "protocol_version", NO_SHARED),
    "SSL 2.0 and 3.0 in the extension": ({"versions": (0x0002, 0x0300)}, "protocol_version",
                                         NO_SHARED),
    "a version of the future alone": ({"versions": (0x0305,)}, "protocol_version", NO_SHARED),
    "a draft of TLS 1.3": ({"versions": (0x7F1C,)}, "protocol_version", NO_SHARED),
    "a fallback that is none": ({"versions": (RAW12,),
                                 "ciphers": (ECDHE_ECDSA_AES_128_GCM, 0xC02F, FALLBACK_SCSV)},
                                "inappropriate_fallback", "tls_protocol"),
    "no suite": ({"versions": (RAW12,), "ciphers": ()}, "decode_error handshake_failure",
                 f"tls_protocol {NO_SHARED}"),
    **{name: ({"versions": (RAW12,), "ciphers": suites}, "handshake_failure", NO_SHARED)
       for name, suites in {
           "suites of CBC": (0xC009, 0xC00A, 0xC013, 0xC014, 0xC023, 0xC024, 0xC027, 0xC028),
           "suites of 3DES and RC4": (0xC007, 0xC008, 0xC011, 0xC012, 0x0005, 0x000A),
           "RSA key exchange": (0x009C, 0x009D, 0x002F, 0x0035, 0x003C, 0x003D),
           "Diffie-Hellman of numbers": (0x009E, 0x009F, 0x0033, 0x0039, 0xCCAA),
           "export suites": (0x0003, 0x0006, 0x0008, 0x000B, 0x000E, 0x0011, 0x0014, 0x0062),
           "no encryption": (0x0001, 0x0002, 0x003B, 0xC006, 0xC010),
           "no authentication": (0x0018, 0x0034, 0x006C, 0x00A6, 0xC018, 0xC019),
           "shared keys": (0x00A8, 0x008C, 0xC035, 0xCCAB, 0xCCAC),
           "CCM and ARIA": (0xC0AC, 0xC0AE, 0xC05C, 0xC072),
           "suites of TLS 1.3 in 1.2": (0x1301, 0x1302, 0x1303),
           "GREASE and what nobody knows": (0x0A0A, 0xFAFA, 0xFEFE, 0x00FF),
       }.items()},
    "only CCM in TLS 1.3": ({"versions": (0x0304,), "ciphers": (0x1304, 0x1305)},
                            "handshake_failure", NO_SHARED),
    "SHA-1 signatures alone": ({"versions": (RAW12,), "signatures": (0x0203, 0x0201)},
                               "handshake_failure", NO_SHARED),
    "no group that we have": ({"versions": (0x0304,), "groups": (0x0100, 30), "shares": {}},
                              "handshake_failure", NO_SHARED),
}


def check_told(pair, side, port, before, errors, reasons=("no_shared_parameters", "tls_failed")):
    line = pair.line(side, port)
    assert line["error"] in errors.split() and line["reason"] in reasons, line
    assert line["bytes_to_app"] == line["bytes_to_mesh"] == 0
    after = counts(pair, side)
    assert {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)} == \
        {line["error"]: 1}


@pytest.mark.parametrize("what", HELLOS)
def test_hellos_by_hand(pair, app, what):
    fields, alerts, errors = HELLOS[what]
    before, reached = counts(pair, "server"), app.connections
    with dial(pair.tls_port) as sock:
        port = sock.getsockname()[1]
        sock.sendall(record(HANDSHAKE, ClientHello(server_name=pair.server_name, **fields).bytes()))
        reader = Reader(sock)
        with pytest.raises(Refused) as caught:
            seen = [reader.message()[0]]
            while what == "SHA-1 signatures alone":  # they are looked at when something is to be signed
                seen.append(reader.message()[0])
            assert seen == []
        assert what != "SHA-1 signatures alone" or seen == [SERVER_HELLO, CERTIFICATE]
    assert caught.value.alert in alerts.split()
    check_told(pair, "server", port, before, errors)
    assert app.connections == reached


def test_an_sslv2_hello(pair, app):
    before, reached = counts(pair, "server"), app.connections
    for version in (0x0002, RAW12):
        body = b"\x01" + numbers([version, 6, 0, 16]) + b"\x01\x00\x80\x00\xc0\x2f" + bytes(16)
        with dial(pair.tls_port) as sock:
            port = sock.getsockname()[1]
            with pytest.raises(Refused):
                ask(sock, numbers([0x8000 | len(body)]) + body)
        line = pair.line("server", port)
        assert line["reason"] in ("tls_failed", "no_shared_parameters", "not_tls", "server_name")
    after = counts(pair, "server")
    assert sum(after.values()) - sum(before.values()) == 2
    assert app.connections == reached


@pytest.mark.parametrize("flags", [
    ("-tls1",), ("-tls1_1",), ("-no_tls1_2", "-no_tls1_3"),
    ("-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"),
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA384"),
    ("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"), ("-tls1_2", "-cipher", "aNULL"),
    ("-tls1_2", "-cipher", "eNULL"), ("-tls1_2", "-fallback_scsv"),
    ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256")], ids=" ".join)
def test_openssl_as_client(pair, app, flags):
    cert, key = pair.paths("client")
    flags = list(flags)
    if "-cipher" in flags:
        flags[flags.index("-cipher") + 1] += ":@SECLEVEL=0"
    elif "-ciphersuites" not in flags:
        flags += ["-cipher", "ALL:@SECLEVEL=0"]
    before, reached, port = counts(pair, "server"), app.connections, free_port()
    with Openssl("s_client", "-connect", f"127.0.0.1:{pair.tls_port}", "-bind", f"127.0.0.1:{port}",
                 "-servername", pair.server_name, "-cert", cert, "-key", key, *flags) as client:
        text = client.read_all()
    wanted = {"-fallback_scsv": "inappropriate fallback", "-cipher": "handshake failure",
              "-ciphersuites": "handshake failure"}
    version = flags[0] in ("-tls1", "-tls1_1", "-no_tls1_2")
    alert = "protocol version" if version else next(
        wanted[flag] for flag in ("-fallback_scsv", "-cipher", "-ciphersuites") if flag in flags)
    assert f"alert {alert}" in text, text
    check_told(pair, "server", port, before, "tls_no_shared tls_protocol")
    assert app.connections == reached


CBC = ["aes128", "aes256", "3des"]
LITE = {
    "SSL 3.0": (settings(SSL3, SSL3, cipherNames=CBC), "protocol_version"),
    "TLS 1.0": (settings(TLS10, TLS10, cipherNames=CBC), "protocol_version"),
    "TLS 1.1": (settings(TLS11, TLS11, cipherNames=CBC), "protocol_version"),
    "SSL 3.0 to TLS 1.1": (settings(SSL3, TLS11, cipherNames=CBC), "protocol_version"),
    "CBC": (settings(cipherNames=CBC), "handshake_failure"),
    "RC4": (settings(cipherNames=["rc4"]), "handshake_failure"),
    "no encryption": (settings(cipherNames=["null"]), "handshake_failure"),
    "CCM": (settings(cipherNames=["aes128ccm", "aes256ccm_8"]), "handshake_failure"),
    "RSA key exchange": (settings(keyExchangeNames=["rsa"]), "handshake_failure"),
    "Diffie-Hellman": (settings(keyExchangeNames=["dhe_rsa"]), "handshake_failure"),
    "CCM in TLS 1.3": (settings(TLS13, TLS13, cipherNames=["aes128ccm"]), "handshake_failure"),
}


@pytest.mark.parametrize("what", LITE)
def test_tlslite_as_client(pair, app, what):
    made, alert = LITE[what]
    before, reached = counts(pair, "server"), app.connections
    with dial(pair.tls_port) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(Refused) as caught:
            Lite(sock, pair.client).connect(made, pair.server_name)
    assert caught.value.alert == alert, caught.value
    check_told(pair, "server", port, before, NO_SHARED)
    assert app.connections == reached


def test_a_certificate_compressed_unasked(pair, app):
    """tlslite-ng does that when it is let: a message that we never said we take (RFC 8879 section 4)."""
    made = settings(TLS13, TLS13, certificate_compression_send=["zlib"])
    before = counts(pair, "server")
    with dial(pair.tls_port) as sock:
        port = sock.getsockname()[1]
        lite = Lite(sock, pair.client)
        with pytest.raises(Refused) as caught:
            lite.connect(made, pair.server_name)
            lite.send(b"secret")
            lite.recv(6)
    assert caught.value.alert == "unexpected_message"
    check_told(pair, "server", port, before, "tls_protocol")


# The good twins: another stack than OpenSSL's gets through, with every kind of suite that we have.
GOOD = {
    "TLS 1.2": (settings(), TLS12), "TLS 1.3": (settings(TLS13, TLS13), TLS13),
    "from SSL 3.0 on": (settings(SSL3, TLS13), TLS13),
    "TLS 1.2, AES-128": (settings(cipherNames=["aes128gcm"]), TLS12),
    "TLS 1.2, AES-256": (settings(cipherNames=["aes256gcm"]), TLS12),
    "TLS 1.2, ChaCha20": (settings(cipherNames=["chacha20-poly1305"]), TLS12),
    "TLS 1.3, AES-256": (settings(TLS13, TLS13, cipherNames=["aes256gcm"]), TLS13),
    "TLS 1.3, ChaCha20": (settings(TLS13, TLS13, cipherNames=["chacha20-poly1305"]), TLS13),
    "TLS 1.2, weak ones too": (settings(cipherNames=["null", "rc4", *CBC, "aes128gcm"]), TLS12),
}


@pytest.mark.parametrize("what", GOOD)
def test_tlslite_as_client_gets_through(pair, app, what):
    made, version = GOOD[what]
    with dial(pair.tls_port) as sock:
        lite = Lite(sock, pair.client)
        lite.connect(made, pair.server_name)
        assert lite.tls.version == version
        lite.send(b"by another stack")
        assert lite.recv(16) == b"by another stack"


def serve(pair, made):
    """What an application gets through a tlslite-ng server, and what becomes of the server: (answer or error,
    alert, the application's port)."""
    told, ports = [], []
    with socket.create_server(("127.0.0.1", pair.tls_free)) as listener:
        listener.settimeout(10)

        def run():
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(10)
                lite = Lite(sock, pair.server)
                try:
                    lite.accept(made)
                    told.append(lite.recv(6))
                    lite.send(told[0])
                    lite.tls.close()
                except Refused as err:
                    told.append(err)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            answer = exchange(pair.app_port, b"secret", ports=ports)
        except OSError as err:
            answer = err
        thread.join(20)
    wait_for("the server is done", lambda: told)
    return answer, told[0], ports[0]


@pytest.fixture(scope="module")
def outbound(pair, folder, binaries):
    """A sidecar of the client's kind alone, whose server is played here."""
    inside = folder / f"outbound-{pair.key}"
    inside.mkdir()
    made = StaticPair(inside, binaries)
    made.tls_free = made.tls_port
    if pair.key == "rsa":
        made.server = made.renew("server", made.ca.issue(SERVER_ID, key="rsa2048"))
    made.start("client")
    yield made
    made.stop()


@pytest.mark.parametrize("what", LITE)
def test_tlslite_as_server(outbound, what):
    """It gives up by itself, as there is nothing in our hello that it could take; or it is refused."""
    before = counts(outbound, "client")
    answer, told, port = serve(outbound, LITE[what][0])
    assert isinstance(answer, ConnectionResetError) and isinstance(told, Refused), (answer, told)
    line = outbound.line("client", port)
    assert line["reason"] in ("peer_alert", "no_shared_parameters", "tls_failed",
                              "peer_truncated", "peer_reset"), line
    assert line["bytes_to_mesh"] == 0
    assert sum(counts(outbound, "client").values()) == sum(before.values()) + 1


@pytest.mark.parametrize("what", GOOD)
def test_tlslite_as_server_is_reached(outbound, what):
    answer, told, port = serve(outbound, GOOD[what][0])
    assert (answer, told) == (b"secret", b"secret")
    assert outbound.line("client", port)["tls_version"] == \
        ("TLSv1.3" if GOOD[what][1] == TLS13 else "TLSv1.2")
