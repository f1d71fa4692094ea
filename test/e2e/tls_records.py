"""Without this what comes behind the handshake could do what the handshake forbids: each record and message that TLS
1.3 does not allow there ends the connection with the alert that RFC 8446 names, the application sees an abort and no byte of
it, and what is unusual but allowed goes through. Both sides of the product, each against a peer made by hand.

Drives: D8, F1, R1, R3, R4, R14, R16"""
import contextlib
import os
import socket
import struct
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.fixtures import FULL
from test.testlib.static import StaticPair, rest_of
from test.testlib.tls_raw import (ALERT, APPLICATION_DATA, CERTIFICATE, CERTIFICATE_REQUEST,
                                  CHANGE_CIPHER_SPEC, CLIENT_HELLO, ENCRYPTED_EXTENSIONS, FINISHED,
                                  HANDSHAKE, KEY_UPDATE, NEW_SESSION_TICKET, SERVER_HELLO,
                                  SERVER_NAME, SIGNATURES, TLS12, AES_128_GCM_SHA256,
                                  AES_256_GCM_SHA384, ClientHello, Tls13, Tls13Server,
                                  numbers, record, vector)

HEARTBEAT = 24
LIMIT = 1 << 14  # of a record's content
END_OF_EARLY_DATA = 5
SIDES = ("inbound", "outbound")

# Which code reads and writes records once the handshake is over: BoringSSL's ("library"), our own with the fastest engine
# that the processor has ("auto"), and our own with BoringSSL's AEADs.
RECORD_LAYERS = ("library", "auto", "portable") if FULL else ("library", "auto")


@pytest.fixture(scope="module", params=RECORD_LAYERS)
def record_layer(request):
    return request.param


class Pair(StaticPair):
    """The log takes 45 lines of refusals at once and 18 a second from then on: more are not asked of it."""

    BURST, PER_S = 45, 18

    def pace(self):
        self.lines_due = getattr(self, "lines_due", 0) + 1
        self.began = getattr(self, "began", time.monotonic())
        due = self.began + (self.lines_due - self.BURST) / self.PER_S
        wait_for("the log takes a line", lambda: time.monotonic() >= due)


@pytest.fixture(scope="module", params=SIDES)
def pair(request, record_layer, folder, binaries):
    """One sidecar; its peer and its application are played here."""
    side = "server" if request.param == "inbound" else "client"
    inside = folder / f"{request.param}-{record_layer}"
    inside.mkdir()
    settings = {"record_layer": record_layer}
    made = Pair(inside, binaries, client_settings=settings, server_settings=settings)
    made.side, made.direction = side, request.param
    made.start(side)
    yield made
    made.stop()


class Session:
    """A connection through the sidecar: `tls` is the peer, `app` the application's socket."""

    def __init__(self, pair, ciphers=(AES_128_GCM_SHA256,)):
        self.pair, self.close_later, self.known = pair, contextlib.ExitStack(), len(pair.lines(pair.side))
        if pair.side == "server":
            listener = self.keep(socket.create_server(("127.0.0.1", pair.target_port)))
            sock = self.keep(socket.create_connection(("127.0.0.1", pair.tls_port), 10))
            self.port = sock.getsockname()[1]
            self.tls = Tls13(self.ready(sock), pair.client, server_name=pair.server_name,
                             ciphers=ciphers).handshake()
            listener.settimeout(10)
            self.app = self.ready(self.keep(listener.accept()[0]))
        else:
            listener = self.keep(socket.create_server(("127.0.0.1", pair.tls_port)))
            self.app = self.ready(self.keep(
                socket.create_connection(("127.0.0.1", pair.app_port), 10)))
            self.port = self.app.getsockname()[1]
            listener.settimeout(10)
            self.tls = Tls13Server(self.ready(self.keep(listener.accept()[0])),
                                   pair.server).handshake()

    def keep(self, sock):
        return self.close_later.enter_context(sock)

    @staticmethod
    def ready(sock):
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def raw(self, data):
        """To the sidecar, as it is."""
        try:
            self.tls.sock.sendall(data)
        except ConnectionError:
            pass  # it was refused half-way: what came back tells how

    def exactly(self, size):
        got = b""
        while len(got) < size:
            part = self.app.recv(size - len(got))
            assert part, f"the end after {got[:100]}"
            got += part
        return got

    def both_ways(self, text=b"both ways"):
        self.tls.send(text)
        assert self.exactly(len(text)) == text
        self.app.sendall(text[::-1])
        while (got := self.tls.recv()) != text[::-1]:
            assert isinstance(got, tuple), got  # a handshake message: the caller knows which

    def end_of_app(self):
        return rest_of(self.app)

    def line(self):
        return self.pair.line(self.pair.side, self.port, known=self.known)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close_later.close()


def closed(pair, reason):
    """How many connections of the link ended so, by the metrics."""
    return pair[pair.side].metrics().get(
        f'mortise_connections_total{{direction="{pair.direction}",link="{pair.LINK}",'
        f'reason="{reason}"}}', 0)


@pytest.fixture(autouse=True)
def the_next_one_works(pair):
    """The good twin of each: a whole connection behind it, with an orderly end on both sides."""
    yield
    with Session(pair) as one:
        one.both_ways()
        one.tls.close_notify()
        assert one.end_of_app() == (b"", False)
        one.app.shutdown(socket.SHUT_WR)
        assert one.tls.alert() == "close_notify"
        assert one.line()["reason"] == "done"


def app_data(tls, data=b"evil"):
    return tls.write.seal(APPLICATION_DATA, data)


def handshake(tls, kind, body):
    return tls.message(kind, body)


def key_update(value):
    return lambda tls: tls.write.seal(HANDSHAKE, bytes([KEY_UPDATE]) + vector(3, value))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def replayed(tls):
    one = app_data(tls, b"once")
    return one + one


def left_out(tls):
    app_data(tls)
    return app_data(tls)


def old_keys(tls):
    """Told of new keys, and then not using them."""
    return handshake(tls, KEY_UPDATE, b"\0") + app_data(tls)


def update_and_more(tls):
    """A message behind the KeyUpdate in its very record: of which keys would it be?"""
    return tls.write.seal(HANDSHAKE, (bytes([KEY_UPDATE]) + vector(3, b"\0")) * 2)


def interleaved(tls):
    message = bytes([KEY_UPDATE]) + vector(3, b"\0")
    return (tls.write.seal(HANDSHAKE, message[:2]) + app_data(tls) +
            tls.write.seal(HANDSHAKE, message[2:]))


def certificate_request(tls):
    signatures = numbers([SIGNATURES]) + vector(2, vector(2, numbers([0x0403])))
    return handshake(tls, CERTIFICATE_REQUEST, vector(1, b"context") + vector(2, signatures))


def hello_again(tls):
    return tls.write.seal(HANDSHAKE, ClientHello(server_name="link.mortise.internal").bytes())


# What is not allowed: (bytes, the alert that RFC 8446 names).
BAD = {
    # Protection (section 5.2).
    "a flipped bit in the content": (lambda t: flipped(app_data(t), 7), "bad_record_mac"),
    "a flipped bit in the tag": (lambda t: flipped(app_data(t), 5 + len(b"evil") + 1 + 15),
                                 "bad_record_mac"),
    "a record twice": (replayed, "bad_record_mac"),
    "a record left out": (left_out, "bad_record_mac"),
    "no more than a tag's size": (lambda t: record(APPLICATION_DATA, os.urandom(16), TLS12),
                                  "bad_record_mac"),
    "less than a tag": (lambda t: record(APPLICATION_DATA, b"\1" * 5, TLS12), "bad_record_mac"),
    "an empty record in the clear": (lambda t: record(APPLICATION_DATA, b"", TLS12),
                                     "bad_record_mac"),
    "the keys of before a KeyUpdate": (old_keys, "bad_record_mac"),
    "plaintext": (lambda t: record(APPLICATION_DATA, b"GET / HTTP/1.0\r\n\r\n", TLS12),
                  "bad_record_mac"),
    # Lengths (sections 5.1, 5.2, 5.4).
    "a record of 2^14 + 257": (lambda t: record(APPLICATION_DATA, bytes(LIMIT + 257), TLS12),
                               "record_overflow"),
    "a header that promises 65,535": (lambda t: b"\x17\x03\x03\xff\xff", "record_overflow"),
    "a content of 2^14 + 1": (lambda t: app_data(t, bytes(LIMIT + 1)), "record_overflow"),
    "padding beyond 2^14 + 1": (lambda t: t.write.seal(APPLICATION_DATA, b"evil", LIMIT),
                                "record_overflow"),
    "nothing but padding": (lambda t: t.write.seal_inner(bytes(100)), "unexpected_message"),
    "nothing at all inside": (lambda t: t.write.seal_inner(b""), "unexpected_message"),
    "handshake of no length": (lambda t: b"".join(t.write.seal(HANDSHAKE, b"")
                                                  for _ in range(100)),  # BoringSSL takes 32
                               "unexpected_message"),
    "an alert of no length": (lambda t: t.write.seal(ALERT, b""), "unexpected_message"),
    "data of no length without end": (lambda t: b"".join(app_data(t, b"") for _ in range(2000)),
                                      "unexpected_message"),
    # Types (section 5).
    "change_cipher_spec in the clear": (lambda t: record(CHANGE_CIPHER_SPEC, b"\1", TLS12),
                                        "unexpected_message"),
    "change_cipher_spec protected": (lambda t: t.write.seal(CHANGE_CIPHER_SPEC, b"\1"),
                                     "unexpected_message"),
    "an alert in the clear": (lambda t: record(ALERT, b"\2\x28", TLS12), "unexpected_message"),
    "a close_notify in the clear": (lambda t: record(ALERT, b"\1\0", TLS12), "unexpected_message"),
    "a handshake message in the clear": (lambda t: record(HANDSHAKE, b"\x18\0\0\1\0", TLS12),
                                         "unexpected_message"),
    "heartbeat in the clear": (lambda t: record(HEARTBEAT, b"\1\x40\0", TLS12),
                               "unexpected_message"),
    "heartbeat protected": (lambda t: t.write.seal(HEARTBEAT, b"\1\x40\0" + bytes(16)),
                            "unexpected_message"),
    "a type that nobody knows": (lambda t: t.write.seal(99, b"?"), "unexpected_message"),
    "a protected record with another outer type": (
        lambda t: t.write.seal_inner(b"evil\x17", outer=HANDSHAKE), "unexpected_message"),
    # Alerts (section 6).
    "half an alert": (lambda t: t.write.seal(ALERT, b"\1"), "decode_error"),
    "two alerts in one": (lambda t: t.write.seal(ALERT, b"\1\x5a\1\x5a"), "decode_error"),
    # Messages (section 4).
    "KeyUpdate of 2": (key_update(b"\2"), "illegal_parameter"),
    "KeyUpdate of 255": (key_update(b"\xff"), "illegal_parameter"),
    "KeyUpdate without its byte": (key_update(b""), "decode_error"),
    "KeyUpdate of two bytes": (key_update(b"\0\0"), "decode_error"),
    "KeyUpdate and more in its record": (update_and_more, "unexpected_message"),
    "KeyUpdate with data between its halves": (interleaved, "unexpected_message"),
    "a hello in the middle": (hello_again, "unexpected_message"),
    "a Finished": (lambda t: handshake(t, FINISHED, bytes(32)), "unexpected_message"),
    "a Certificate": (lambda t: handshake(t, CERTIFICATE, b"\0\0\0\0"), "unexpected_message"),
    "EncryptedExtensions": (lambda t: handshake(t, ENCRYPTED_EXTENSIONS, b"\0\0"),
                            "unexpected_message"),
    "a ServerHello": (lambda t: handshake(t, SERVER_HELLO, bytes(70)), "unexpected_message"),
    "EndOfEarlyData": (lambda t: handshake(t, END_OF_EARLY_DATA, b""), "unexpected_message"),
    "HelloRequest": (lambda t: handshake(t, 0, b""), "unexpected_message"),
    "a message that nobody knows": (lambda t: handshake(t, 0xEE, b""), "unexpected_message"),
    "a request for another certificate": (certificate_request, "unexpected_message"),
}
# Where BoringSSL says something else: it takes for protected whatever comes, and tries to open it.
LIBRARY = {
    "a record of 2^14 + 257": "bad_record_mac",
    "nothing but padding": "decrypt_error",
    "nothing at all inside": "decrypt_error",
    "an alert of no length": "decode_error",
    "change_cipher_spec in the clear": "bad_record_mac",
    "an alert in the clear": "bad_record_mac",
    "a close_notify in the clear": "bad_record_mac",
    "a handshake message in the clear": "bad_record_mac",
    "heartbeat in the clear": "bad_record_mac",
    "a protected record with another outer type": "decode_error",
    "KeyUpdate of 2": "decode_error",
    "KeyUpdate of 255": "decode_error",
}
# No clause names an alert for these.
BAD_WITHOUT_A_NAME = {
    "a message that promises 16 MB": lambda t: t.write.seal(
        HANDSHAKE, bytes([KEY_UPDATE]) + b"\xff\xff\xff" + bytes(1000)),
    "a record of another version that TLS never had": lambda t: t.write.seal_inner(
        b"evil\x17", version=0x0502),
}


def ticket(lifetime=7200):
    return (lifetime.to_bytes(4, "big") + bytes(4) + vector(1, b"n") + vector(2, b"T" * 200) +
            vector(2, b""))


def check_refused(pair, data, *alerts):
    """It ends with one of the alerts; with any, when none is named."""
    pair.pace()
    before = closed(pair, "tls_failed")
    with Session(pair) as one:
        one.both_ways()
        one.raw(data(one.tls))
        got = one.tls.alert()
        rest, aborted = one.end_of_app()
        line = one.line()
    assert (got in alerts if alerts else got not in (None, "close_notify")), got
    assert rest in (b"", b"once") and aborted, rest  # "once" was a good record before the bad one
    assert line["reason"] == "tls_failed" and line["error"] in ("tls_protocol", "tls_key_updates")
    assert line["bytes_to_app"] == len(b"both ways" + rest)
    wait_for("it is counted", lambda: closed(pair, "tls_failed") == before + 1)


@pytest.mark.sanitize
@pytest.mark.parametrize("what", BAD)
def test_what_is_not_allowed_ends_it(pair, record_layer, what):
    data, alert = BAD[what]
    instead = LIBRARY if record_layer == "library" else {}
    check_refused(pair, data, alert, instead.get(what, alert))


@pytest.mark.sanitize
@pytest.mark.parametrize("what", BAD_WITHOUT_A_NAME)
def test_what_makes_no_sense_ends_it(pair, what):
    check_refused(pair, BAD_WITHOUT_A_NAME[what])


# The good twins.


def test_content_up_to_the_limit_padded_or_not_arrives(pair):
    with Session(pair) as one:
        wanted = b""
        for size, padding in ((1, 0), (0, 0), (LIMIT, 0), (1, LIMIT - 1), (0, LIMIT), (LIMIT - 5, 5),
                              (1000, 1), (0, 1), (1, 255), (3, 4096)):
            data = os.urandom(size)
            one.raw(one.tls.write.seal(APPLICATION_DATA, data, padding))
            wanted += data
        assert one.exactly(len(wanted)) == wanted
        one.both_ways()


def test_empty_data_between_data_is_nothing(pair):
    """At most 31 in a row, as one that sends no more is not told from a flood."""
    with Session(pair) as one:
        for _ in range(20):
            one.raw(app_data(one.tls, b"") + app_data(one.tls, b"x"))
        assert one.exactly(20) == b"x" * 20
        one.both_ways()


@pytest.mark.parametrize("suite", [AES_128_GCM_SHA256, AES_256_GCM_SHA384],
                         ids=["aes128", "aes256"])
def test_key_updates_told_and_asked_for(pair, suite):
    """Also cut in two records, and with the answer's keys used at once."""
    if pair.side == "client" and suite != AES_128_GCM_SHA256:
        pytest.skip("the server by hand has AES-128 only")
    with Session(pair, (suite,)) as one:
        for asked in (0, 1, 0, 0, 1, 1):
            message = bytes([KEY_UPDATE]) + vector(3, bytes([asked]))
            one.raw(one.tls.write.seal(HANDSHAKE, message[:asked + 1]) +
                    one.tls.write.seal(HANDSHAKE, message[asked + 1:]))
            one.tls.write.update()
            one.both_ways(b"after an update")
        assert one.tls.read.updates == 3  # the answers


@pytest.mark.parametrize("suite", [AES_128_GCM_SHA256, AES_256_GCM_SHA384],
                         ids=["aes128", "aes256"])
def test_cut_at_every_byte(pair, suite):
    """A KeyUpdate and data, a byte a segment: nothing depends on how TCP cuts them."""
    if pair.side == "client" and suite != AES_128_GCM_SHA256:
        pytest.skip("the server by hand has AES-128 only")
    with Session(pair, (suite,)) as one:
        whole = app_data(one.tls, b"one ") + one.tls.key_update_record() + \
            app_data(one.tls, b"two ") + one.tls.write.seal(APPLICATION_DATA, b"three", 40)
        for at in range(len(whole)):
            one.raw(whole[at:at + 1])
        assert one.exactly(13) == b"one two three"
        one.both_ways()


@pytest.mark.sanitize
def test_a_flood_of_key_updates_is_ended(pair):
    """More than a hundred within a second, with data between them, so that it is no row of them."""
    pair.pace()
    with Session(pair) as one:
        one.both_ways()
        for _ in range(60):
            one.raw(b"".join(one.tls.key_update_record() + app_data(one.tls, b"x")
                             for _ in range(50)))
        assert one.tls.alert() in ("unexpected_message", None)  # unread data may cost us the alert
        _, aborted = one.end_of_app()
        assert aborted
        line = one.line()
        assert (line["reason"], line["error"]) == ("tls_failed", "tls_key_updates")


def test_tickets_are_a_servers_and_are_passed_over(pair):
    """Any number of them is read and none is used; none comes from a client."""
    if pair.side == "server":
        check_refused(pair, lambda t: handshake(t, NEW_SESSION_TICKET, ticket()),
                      "unexpected_message")
        return
    with Session(pair) as one:
        for lifetime in (0, 7200, 604800, 0xFFFFFFFF):
            one.raw(handshake(one.tls, NEW_SESSION_TICKET, ticket(lifetime)))
            one.both_ways()
    with Session(pair) as one:
        assert 41 not in one.tls.hello.extensions and 42 not in one.tls.hello.extensions


# Ends.


@pytest.mark.sanitize
def test_what_comes_after_close_notify_is_ignored(pair):
    """Section 6.1. The application has its end, and not a byte more; its own answer still leaves."""
    with Session(pair) as one:
        one.both_ways()
        one.tls.close_notify()
        one.raw(app_data(one.tls) * 3 + record(23, b"rubbish"))
        one.raw(one.tls.write.seal(ALERT, b"\2\x28"))
        assert one.end_of_app() == (b"", False)
        one.app.sendall(b"the answer")
        assert one.tls.recv() == b"the answer"
        one.app.shutdown(socket.SHUT_WR)
        assert one.tls.alert() == "close_notify"
        assert one.line()["reason"] == "done"


IGNORED_MAX = 64 << 10  # behind a close_notify


@pytest.mark.sanitize
def test_bytes_behind_a_close_notify_do_not_cost_the_answer(pair):
    """Unread when we close, they would make a reset of our end, and what the peer had not taken yet would be lost."""
    answer = os.urandom(3 << 20)
    with Session(pair) as one:
        one.both_ways()
        one.tls.close_notify()
        assert one.end_of_app() == (b"", False)
        for _ in range(4):
            one.raw(one.tls.write.seal(APPLICATION_DATA, bytes(12 << 10)))
        one.app.sendall(answer)
        one.app.shutdown(socket.SHUT_WR)
        assert one.line()["reason"] == "done"  # it has all of it, and we have read nothing yet
        got = b""
        while len(got) < len(answer):
            got += one.tls.recv()
        assert got == answer and one.tls.alert() == "close_notify"


@pytest.mark.sanitize
def test_too_much_behind_a_close_notify_ends_it(pair):
    pair.pace()
    with Session(pair) as one:
        one.both_ways()
        one.tls.close_notify()
        assert one.end_of_app() == (b"", False)
        one.raw(bytes(IGNORED_MAX + 1))
        line = one.line()
        assert (line["reason"], line["error"]) == ("tls_failed", "tls_protocol")


@pytest.mark.sanitize
@pytest.mark.parametrize("behind", [b"", b"rubbish"], ids=["at once", "behind rubbish"])
def test_a_reset_behind_a_close_notify_is_seen(pair, behind):
    """The application goes on with its own direction and would wait for nobody."""
    pair.pace()
    with Session(pair) as one:
        one.both_ways()
        one.tls.close_notify()
        assert one.app.recv(1) == b""
        one.raw(behind)
        one.tls.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.tls.sock.close()
        assert one.line()["reason"] == "peer_reset"


@pytest.mark.sanitize
def test_any_alert_ends_it_whatever_its_level(pair):
    """Section 6: but for close_notify and user_canceled all are errors, unknown ones too."""
    codes = range(256) if FULL else (*range(0, 256, 37), 10, 20, 40, 48, 70, 80, 86, 100, 116)
    for code in sorted({*codes} - {0, 90}):
        for level in (1, 2):
            pair.pace()
            with Session(pair) as one:
                one.both_ways()
                one.raw(one.tls.write.seal(ALERT, bytes([level, code])))
                one.raw(app_data(one.tls))
                rest, aborted = one.end_of_app()
                assert (rest, aborted) == (b"", True), (level, code, rest, aborted)
                line = one.line()
                assert line["reason"] in ("peer_alert", "tls_failed"), (level, code, line)


def test_user_canceled_is_no_end(pair):
    """Section 6.1: it goes before a close_notify."""
    with Session(pair) as one:
        one.both_ways()
        one.raw(one.tls.write.seal(ALERT, b"\1\x5a"))
        one.both_ways()
        one.tls.close_notify()
        assert one.end_of_app() == (b"", False)


@pytest.mark.sanitize
def test_a_flood_of_warnings_is_ended(pair):
    pair.pace()
    with Session(pair) as one:
        one.both_ways()
        one.raw(b"".join(one.tls.write.seal(ALERT, b"\1\x5a") for _ in range(1000)))
        _, aborted = one.end_of_app()
        assert aborted
        assert one.line()["reason"] == "tls_failed"


@pytest.mark.sanitize
@pytest.mark.parametrize("cut", [0, 1, 4, 5, 6, 25])
def test_the_end_within_a_record_is_an_abort(pair, cut):
    """TCP's end is none of TLS, be it at a record's border (0) or within its header or content."""
    pair.pace()
    with Session(pair) as one:
        one.both_ways()
        one.raw(app_data(one.tls, b"never whole")[:cut])
        one.tls.sock.shutdown(socket.SHUT_WR)
        assert one.end_of_app() == (b"", True)
        line = one.line()
        assert (line["reason"], line["error"]) == ("peer_truncated", "tls_truncated")


# During the handshake.


@pytest.mark.sanitize
def test_data_before_the_finished_is_refused(pair):
    """Under the handshake's keys, and in place of the Certificate that is due."""
    if pair.side != "server":
        pytest.skip("the client's last flight")
    class Early(Tls13):
        def _certificate(self):
            return self.write.seal(APPLICATION_DATA, b"evil")

    pair.pace()
    with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock, \
            socket.create_server(("127.0.0.1", pair.target_port)) as listener:
        sock.settimeout(10)
        tls = Early(sock, pair.client, server_name=pair.server_name).handshake()
        assert tls.alert() == "unexpected_message"
        assert pair.line("server", sock.getsockname()[1])["error"] == "tls_protocol"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.sanitize
def test_a_change_cipher_spec_within_the_handshake_is_for_middleboxes(pair):
    """Section 5: one of the byte 1 is dropped there, of any other form it is refused."""
    if pair.side != "server":
        pytest.skip("the client's last flight")
    for payload, good in ((b"\1", True), (b"\2", False), (b"\1\1", False), (b"", False)):
        class WithSpec(Tls13):
            def _certificate(self):
                return record(CHANGE_CIPHER_SPEC, payload, TLS12) + super()._certificate()

        pair.pace()
        with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock, \
                socket.create_server(("127.0.0.1", pair.target_port)) as listener:
            sock.settimeout(10)
            listener.settimeout(10)
            tls = WithSpec(sock, pair.client, server_name=pair.server_name).handshake()
            if good:
                tls.send(b"through")
                with listener.accept()[0] as app:
                    assert app.recv(100) == b"through"
            else:  # unexpected_message, says the RFC; BoringSSL takes it for a protected record
                assert tls.alert() in ("unexpected_message", "bad_record_mac")
