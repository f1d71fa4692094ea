"""Without this the shape of a ClientHello could choose the profile, or its size the memory: hellos cut at every byte,
of odd forms and of no form at all get the link's own profile or a refusal, and never an answer longer than asked for.

Drives: A3, D8, R1, R12, R14, R16"""
import json
import random
import socket
import struct

import pytest

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp
from test.testlib.static import CLIENT_ID, StaticPair, free_port
from test.testlib.tcp_state import wait_read
from test.testlib.tls_peer import call, context
from test.testlib.tls_raw import (ALERT, CLIENT_HELLO, HANDSHAKE, P256, PADDING,
                                  SERVER_NAME, SESSION_TICKET, TLS12, TLS13, VERSIONS, X25519,
                                  ClientHello, Reader, Refused, ServerHello, ask, numbers, record,
                                  records, vector)

OLDER, NEWER = "older.mortise.internal", "newer.mortise.internal"


class TwoLinks(StaticPair):
    """Two links whose profiles a ServerHello tells apart by its version."""

    def config(self, side):
        config = super().config(side)
        if side == "server":
            config["profiles"] = [
                {"name": "older", "role": "SERVER", "max_version": "TLS1_2"},
                {"name": "newer", "role": "SERVER", "min_version": "TLS1_3"}]
            config["inbound"]["links"] = [
                {"name": name, "target": f"127.0.0.1:{port}", "profile": name,
                 "peers": {"spiffe_ids": [CLIENT_ID]}, "truststore": "mesh"}
                for name, port in (("older", self.target_port), ("newer", self.other_port))]
        return config


@pytest.fixture(scope="module")
def pair(folder, binaries):
    TwoLinks.other_port = free_port()
    made = TwoLinks(folder, binaries)
    made.start("server")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def apps(pair):
    with EchoApp(pair.target_port) as older, EchoApp(pair.other_port) as newer:
        yield {"older": older, "newer": newer}


@pytest.fixture(autouse=True)
def nothing_gets_through_by_shape(pair, apps):
    """After each test: no application was reached, and a good connection of each link goes as ever."""
    before = {name: app.connections for name, app in apps.items()}
    yield
    assert {name: app.connections for name, app in apps.items()} == before
    made = context("client", pair.roots, pair.paths("client"))
    assert call(pair.tls_port, made, OLDER)["version"] == "TLSv1.2"
    assert call(pair.tls_port, made, NEWER)["version"] == "TLSv1.3"
    for name, app in apps.items():
        assert app.connections == before[name] + 1


def dial(pair):
    sock = socket.create_connection(("127.0.0.1", pair.tls_port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(10)
    return sock


def answer(pair, data):
    with dial(pair) as sock:
        return ask(sock, data)


def failures(pair):
    """Handshakes that ended with a reason, by the metrics."""
    return sum(value for series, value in pair["server"].metrics().items()
               if series.startswith('mortise_handshakes_total{direction="inbound"') and
               'result="ok"' not in series)


def refused(pair, data):
    """The alert."""
    with pytest.raises(Refused) as caught:
        answer(pair, data)
    return caught.value.alert


def refusal(pair, data):
    """The alert; and each refusal is counted with its reason, as one and not more."""
    wait_for("those before it are over", lambda: json.loads(
        pair["server"].get("/connections"))["total"] == 0, every_s=0.002)
    before = failures(pair)
    alert = refused(pair, data)
    wait_for("it is counted", lambda: failures(pair) == before + 1)
    return alert


LINKS = [(OLDER, TLS12), (NEWER, TLS13)]


@pytest.mark.parametrize("name,version", LINKS, ids=["older", "newer"])
def test_cut_at_every_byte_over_records(pair, name, version):
    message = ClientHello(server_name=name, session_id=b"\x2a" * 32).bytes()
    for cut in range(1, len(message)):
        assert answer(pair, records(HANDSHAKE, message, cut)).version == version, cut


@pytest.mark.parametrize("name,version", LINKS, ids=["older", "newer"])
def test_cut_at_every_byte_over_segments(pair, name, version):
    """The second part is sent when the first was read, so that they do not arrive as one."""
    whole = record(HANDSHAKE, ClientHello(server_name=name).bytes())
    for cut in range(1, len(whole)):
        with dial(pair) as sock:
            sock.sendall(whole[:cut])
            wait_read(sock)
            assert ask(sock, whole[cut:]).version == version, cut


@pytest.mark.parametrize("name,version", LINKS, ids=["older", "newer"])
def test_a_byte_a_record_and_a_byte_a_segment(pair, name, version):
    message = ClientHello(server_name=name).bytes()
    assert answer(pair, records(HANDSHAKE, message, *range(1, len(message)))).version == version
    whole = records(HANDSHAKE, message, len(message) // 2)
    with dial(pair) as sock:
        for at in range(len(whole) - 1):
            sock.sendall(whole[at:at + 1])
            wait_read(sock)
        assert ask(sock, whole[-1:]).version == version


def test_the_session_id_comes_back_as_it_was_sent(pair):
    """Ticketbleed: an echo of more bytes than were sent is memory of ours."""
    for size in range(33):
        sent = bytes(random.Random(size).randbytes(size))
        hello = ClientHello(server_name=NEWER, session_id=sent)
        assert answer(pair, record(HANDSHAKE, hello.bytes())).session_id == sent
        for ticket in (b"", b"\x51" * 160):
            hello = ClientHello(server_name=OLDER, session_id=sent,
                                extra=((SESSION_TICKET, ticket),))
            got = answer(pair, record(HANDSHAKE, hello.bytes()))
            assert got.session_id == b"" and SESSION_TICKET not in got.extensions


def test_a_session_id_of_33_bytes_is_refused(pair):
    for name in (OLDER, NEWER):
        hello = ClientHello(server_name=name, session_id=bytes(33))
        assert refusal(pair, record(HANDSHAKE, hello.bytes())) in ("decode_error",
                                                                   "illegal_parameter")


@pytest.mark.parametrize("name,version", LINKS, ids=["older", "newer"])
def test_what_is_unknown_is_passed_over(pair, name, version):
    """GREASE everywhere, a key share of post-quantum size, and much padding."""
    plain = ClientHello(server_name=name)
    share = ClientHello.parse(plain.bytes()).shares[X25519]
    grease = ClientHello(server_name=name, versions=(0x3A3A, TLS13, TLS12),
                         ciphers=(0x4A4A, *plain.ciphers), groups=(0x1A1A, 0xFE30, *plain.groups),
                         shares={0x1A1A: b"\0", 0xFE30: bytes(1216), X25519: share},
                         extra=((0x2A2A, b""), (0x5A5A, b"\0"), (PADDING, bytes(9000))))
    assert answer(pair, record(HANDSHAKE, grease.bytes())).version == version


X25519MLKEM768, SECP256R1MLKEM768 = 0x11EC, 0x11EB


@pytest.mark.parametrize("name,version", LINKS, ids=["older", "newer"])
def test_post_quantum_shares_are_passed_over(pair, name, version):
    """Of the size that browsers send today, before ours, behind it, and alone: then a retry asks for ours."""
    ours = ClientHello.parse(ClientHello(server_name=name).bytes()).shares[X25519]
    for unknown, size in ((X25519MLKEM768, 1216), (SECP256R1MLKEM768, 1249), (0x6399, 1216)):
        hybrid = {unknown: bytes(range(256)) * 4 + bytes(size - 1024)}
        for shares in ({**hybrid, X25519: ours}, {X25519: ours, **hybrid}, hybrid):
            hello = ClientHello(server_name=name, groups=(unknown, X25519, P256), shares=shares)
            got = answer(pair, record(HANDSHAKE, hello.bytes()))
            assert got.version == version
            if version == TLS13:
                assert got.is_retry == (X25519 not in shares) and got.group == X25519
        alone = ClientHello(server_name=name, groups=(unknown,), shares=hybrid)
        assert refusal(pair, record(HANDSHAKE, alone.bytes())) == "handshake_failure"


def test_the_old_version_fields_say_nothing_in_tls_1_3(pair):
    """RFC 8446 sections 4.2.1 and 5.1: neither the hello's nor the record's is looked at. (BoringSSL wants TLS's
    first byte in the record.)"""
    for legacy in (0x0301, 0x0302, 0x0303, 0x0304, 0x0305, 0x03FF):
        message = ClientHello(server_name=NEWER, legacy_version=legacy).bytes()
        for outer in (0x0300, 0x0301, 0x0303, 0x0304):
            try:
                assert answer(pair, record(HANDSHAKE, message, outer)).version == TLS13
            except Refused as err:
                assert err.alert == "protocol_version", (hex(legacy), hex(outer))


def test_compression_is_none_or_refused(pair):
    """TLS 1.3 takes the null method and no other beside it; TLS 1.2 takes null out of many, and wants it there."""
    for name, methods, alert in ((NEWER, b"\1\0", "illegal_parameter"), (NEWER, b"\1", None),
                                 (NEWER, b"", None), (OLDER, b"\1", None), (OLDER, b"", None)):
        hello = ClientHello(server_name=name, compression=methods)
        got = refusal(pair, record(HANDSHAKE, hello.bytes()))
        assert got == alert if alert else got in ("illegal_parameter", "decode_error")
    hello = ClientHello(server_name=OLDER, compression=b"\x40\1\0")
    assert answer(pair, record(HANDSHAKE, hello.bytes())).compression == 0


def test_heartbeats_are_neither_agreed_to_nor_answered(pair):
    """Heartbleed: asked for in the hello, and sent before, behind and in the middle of it."""
    beat = record(24, b"\1\x40\0")
    for name in (OLDER, NEWER):
        message = ClientHello(server_name=name, extra=((15, b"\1"),)).bytes()
        assert 15 not in answer(pair, record(HANDSHAKE, message)).extensions
        whole = record(HANDSHAKE, message)
        cut = records(HANDSHAKE, message, 50)
        assert refusal(pair, beat + whole) in ("unexpected_message", None)  # it is no TLS so far
        assert refusal(pair, cut[:55] + beat + cut[55:]) == "unexpected_message"
        with dial(pair) as sock:
            reader = Reader(sock)
            sock.sendall(whole)
            ServerHello.parse(reader.message())
            sock.sendall(beat)
            with pytest.raises(Refused):
                while True:
                    assert reader.record()[0] != 24


@pytest.mark.parametrize("cut", [None, 16384, 1000])
def test_a_hello_of_64_kb_is_refused_and_holds_no_memory(pair, cut):
    message = ClientHello(server_name=NEWER, extra=((PADDING, bytes(60_000)),)).bytes()
    cuts = range(cut, len(message), cut) if cut else [16384, 32768, 49152]
    before = pair["server"].memory_kib()
    for _ in range(50):
        with dial(pair) as sock, pytest.raises(Refused):
            ask(sock, records(HANDSHAKE, message, *cuts))
    assert pair["server"].memory_kib() <= before + 1024


def test_a_promise_of_16_mb_is_refused_by_its_header(pair):
    """The length field alone must not buy memory."""
    before = pair["server"].memory_kib()
    start = bytes([CLIENT_HELLO]) + b"\xff\xff\xff" + ClientHello(server_name=NEWER).bytes()[4:]
    for _ in range(50):
        assert refusal(pair, record(HANDSHAKE, start)) is not None
    assert pair["server"].memory_kib() <= before + 1024


def with_extensions(name, change):
    """A hello whose list of (kind, body) was changed."""
    base = ClientHello.parse(ClientHello(server_name=name).bytes())
    found = change(list(base.extensions.items()))
    body = b"".join(numbers([kind]) + vector(2, data) for kind, data in found)
    base.body_of_extensions = lambda: body
    return base.bytes()


def twice(kind):
    return lambda found: found + [(k, b) for k, b in found if k == kind]


def names(*texts):
    body = b"".join(b"\0" + vector(2, text) for text in texts)
    return lambda found: [(k, vector(2, body) if k == SERVER_NAME else b) for k, b in found]


BAD_FORMS = {
    "two server name extensions": twice(SERVER_NAME),
    "two versions extensions": twice(VERSIONS),
    "two unknown extensions": lambda found: found + [(0xFE00, b"")] * 2,
    "two names in the extension": names(OLDER.encode(), NEWER.encode()),
    "an empty name": names(b""),
    "a name with NUL": names(NEWER.encode() + b"\0.evil"),
    "a name of 300 bytes": names(b"n" * 300),
    "an empty list of names": lambda found: [(k, b"\0\0" if k == SERVER_NAME else b)
                                             for k, b in found],
    "a name cut short": lambda found: [(k, b[:-3] if k == SERVER_NAME else b) for k, b in found],
    "an empty list of versions": lambda found: [(k, b"\0" if k == VERSIONS else b)
                                                for k, b in found],
}


@pytest.mark.parametrize("what", BAD_FORMS)
@pytest.mark.parametrize("name", [OLDER, NEWER], ids=["older", "newer"])
def test_malformed_extensions_are_refused(pair, name, what):
    assert refusal(pair, record(HANDSHAKE, with_extensions(name, BAD_FORMS[what]))) in (
        "decode_error", "illegal_parameter", "unrecognized_name", "protocol_version")


def test_cut_short_and_too_long(pair):
    message = ClientHello(server_name=NEWER).bytes()
    for at in (4, 6, 38, 39, 60, len(message) - 1):
        short = bytes([CLIENT_HELLO]) + vector(3, message[4:at])
        assert refusal(pair, record(HANDSHAKE, short)) in ("decode_error", "protocol_version",
                                                           "unrecognized_name")
    longer = bytes([CLIENT_HELLO]) + vector(3, message[4:] + b"\0")
    assert refusal(pair, record(HANDSHAKE, longer)) == "decode_error"


def test_records_that_do_not_belong_there(pair):
    message = ClientHello(server_name=NEWER).bytes()
    odd = {
        "finished first": record(HANDSHAKE, b"\x14" + vector(3, bytes(32))),
        "change_cipher_spec between": records(HANDSHAKE, message, 9)[:14] + record(20, b"\1") +
        records(HANDSHAKE, message, 9)[14:],
        "a record longer than allowed": struct.pack("!BHH", HANDSHAKE, 0x0301, 0x4900) +
        bytes(0x4900),
        "an alert of one byte": record(ALERT, b"\2"),
    }
    for what, data in odd.items():
        assert refusal(pair, data) is not None, what


def test_empty_records_are_counted(pair):
    empty = record(HANDSHAKE, b"")
    message = ClientHello(server_name=NEWER).bytes()
    assert refusal(pair, empty * 100_000 + record(HANDSHAKE, message)) is not None


def test_any_alert_at_any_time_ends_it(pair):
    """All 256 codes, in place of the hello and behind it; the server's end must come, whatever they mean."""
    message = record(HANDSHAKE, ClientHello(server_name=NEWER).bytes())
    for code in range(256):
        warnings = record(ALERT, bytes([1, code])) * 10
        fatal = record(ALERT, bytes([2, code]))
        for data in (fatal, warnings + fatal):
            assert refused(pair, data) != "internal_error", code
        with dial(pair) as sock:
            reader = Reader(sock)
            sock.sendall(message)
            ServerHello.parse(reader.message())
            sock.sendall(warnings + fatal)
            with pytest.raises(Refused):
                while True:
                    reader.record()
