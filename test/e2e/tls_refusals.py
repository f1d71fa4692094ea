"""Without this a certificate that is almost right could get in: a table of bad ones is presented to the inbound side by a
client and to the outbound side by a server, in both TLS versions; each is refused with its alert and its exact reason,
no byte reaches an application, and the next good connection works.

Drives: B3, D2, D5, F1, F12, R3, R5, R6, R9, R13, R16, R62"""
import datetime
import ipaddress
import socket
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from deploy.lab.programs import wait_for
from test.testlib.cpu import cpu_s
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.fixtures import CONFIG
from test.testlib.pki import KEYS, Ca, Certificate, now
from test.testlib.static import CLIENT_ID, SERVER_ID, TRUST_DOMAIN, StaticPair
from test.testlib.tls_peer import Server, call, context
from test.testlib.tls_raw import Refused, Tls13

BASE = f"spiffe://{TRUST_DOMAIN}"


class World:
    """The mesh's CA and everything around it that is wrong, for one role."""

    def __init__(self, pair, inbound):
        self.pair, self.inbound, self.ca = pair, inbound, pair.ca
        self.id = CLIENT_ID if inbound else SERVER_ID
        self.role, self.other_role = ("client", "server") if inbound else ("server", "client")

    def issue(self, **kwargs):
        return self.ca.issue(self.id, **kwargs)

    def uri(self, *uris, **kwargs):
        return self.ca.issue(*uris, **kwargs)

    def under(self, *cas, **kwargs):
        """A leaf of the right identity below intermediates; each of `cas` are arguments of Ca()."""
        above = self.ca
        for number, one in enumerate(cas):
            above = Ca(f"intermediate {number}", above=above, **one)
        return above.issue(self.id, **kwargs)

    def self_signed(self):
        key = KEYS["p256"]()
        one = Ca("leaf", key=key)
        made = one.issue(self.id, key=key)
        return Certificate(made.cert, key)

    def signed_by_leaf(self):
        leaf, key = self.issue(), KEYS["p256"]()
        made = (x509.CertificateBuilder().subject_name(leaf.cert.subject)
                .issuer_name(leaf.cert.subject).public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now() - datetime.timedelta(minutes=1))
                .not_valid_after(now() + datetime.timedelta(hours=1))
                .add_extension(x509.BasicConstraints(False, None), critical=True)
                .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
                .add_extension(x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(self.id)]), critical=True))
        return Certificate(made.sign(leaf.key, hashes.SHA256()), key, [leaf.cert])

    def padded(self, number):
        """The right chain with more certificates behind it that have nothing to do with it."""
        made = self.issue()
        other = Ca("padding")
        return Certificate(made.cert, made.key, [other.cert] * number)

    def constrained(self, permitted):
        extension = x509.NameConstraints([x509.UniformResourceIdentifier(permitted)], None)
        return self.under({"extra": ((extension, True),)})


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
EMAIL_EKU = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION])


def uri(text):
    return x509.UniformResourceIdentifier(text)


# name: (certificate, reasons, alerts). Where there are more than one it depends on what the library looks
# at first, or on the role.
CASES = {
    # Time.
    "expired": (lambda w: w.issue(begins_s=-7200, valid_s=-60), "cert_expired",
                "certificate_expired"),
    "expired a second ago": (lambda w: w.issue(begins_s=-7200, valid_s=-1), "cert_expired",
                             "certificate_expired"),
    "not yet valid": (lambda w: w.issue(begins_s=3600, valid_s=7200), "cert_not_yet_valid",
                      "certificate_expired"),
    "expired intermediate": (lambda w: w.under({"begins_days": -9, "days": -1}), "cert_expired",
                             "certificate_expired"),
    "intermediate not yet valid": (lambda w: w.under({"begins_days": 1, "days": 9}),
                                   "cert_not_yet_valid", "certificate_expired"),
    "expired root": (lambda w: w.pair.expired_root.issue(w.id), "cert_expired",
                     "certificate_expired"),
    # Trust.
    "another CA": (lambda w: Ca("stranger").issue(w.id), "chain_untrusted", "unknown_ca"),
    "another CA of our CA's name": (lambda w: Ca("root").issue(w.id),
                                    "chain_invalid", "decrypt_error"),
    "another CA of our name, sent along": (
        lambda w: (lambda ca: Certificate(*(lambda m: (m.cert, m.key, [ca.cert]))(
            ca.issue(w.id))))(Ca("root")),
        "chain_invalid", "decrypt_error"),
    "self-signed": (lambda w: w.self_signed(), "chain_untrusted", "unknown_ca"),
    "intermediate left out": (lambda w: (lambda m: Certificate(m.cert, m.key))(w.under({})),
                              "chain_untrusted", "unknown_ca"),
    "signed by a leaf": (lambda w: w.signed_by_leaf(), "chain_invalid", "unknown_ca"),
    "wrong signature": (lambda w: w.issue(signer=KEYS["p256"]()), "chain_invalid", "decrypt_error"),
    "a CA as leaf": (lambda w: w.issue(ca=True), "chain_invalid", "unknown_ca"),
    "path length exceeded": (lambda w: w.under({"pathlen": 0}, {}), "chain_invalid", "unknown_ca"),
    "chain of six": (lambda w: w.under({}, {}, {}, {}, {}), "chain_too_long", "unknown_ca"),
    "ten certificates": (lambda w: w.padded(9), "chain_too_long", "unknown_ca"),
    "a hundred certificates": (lambda w: w.padded(99), "tls_protocol", "illegal_parameter"),
    "name constraints": (lambda w: w.constrained("other.test"), "chain_invalid",
                         "certificate_unknown"),
    # Usage.
    "for the other role": (lambda w: w.issue(eku=(w.other_role,)), "cert_usage",
                           "unsupported_certificate"),
    "for e-mail": (lambda w: w.issue(eku=("email",)), "cert_usage", "unsupported_certificate"),
    "intermediate for e-mail": (lambda w: w.under({"extra": ((EMAIL_EKU, False),)}), "cert_usage",
                                "unsupported_certificate"),
    "no digitalSignature": (lambda w: w.issue(usage=("key_agreement",)), "cert_usage",
                            "unsupported_certificate illegal_parameter"),
    "no KeyUsage": (lambda w: w.issue(usage=None), "cert_usage", "unsupported_certificate"),
    "keyCertSign": (lambda w: w.issue(usage=("digital_signature", "key_cert_sign")), "cert_usage",
                    "unsupported_certificate"),
    "cRLSign": (lambda w: w.issue(usage=("digital_signature", "crl_sign")), "cert_usage",
                "unsupported_certificate"),
    "unknown critical extension": (lambda w: w.issue(extra=((UNKNOWN, True),)), "cert_usage",
                                   "unsupported_certificate"),
    "unknown critical extension above": (lambda w: w.under({"extra": ((UNKNOWN, True),)}),
                                         "cert_usage", "unsupported_certificate"),
    # Strength.
    "RSA 1024": (lambda w: w.issue(key="rsa1024"), "key_weak", "unsupported_certificate"),
    "intermediate RSA 1024": (lambda w: w.under({"key": "rsa1024"}), "key_weak",
                              "unsupported_certificate"),
    "intermediate P-224": (lambda w: w.under({"key": "p224"}), "key_weak",
                           "unsupported_certificate"),
    "intermediate Ed25519": (lambda w: w.under({"key": "ed25519"}), "key_weak",
                             "unsupported_certificate"),
    "signed with SHA-1": (lambda w: w.pair.rsa_root.resign(w.pair.rsa_root.issue(w.id), "sha1"),
                          "cert_weak_signature chain_invalid",
                          "unsupported_certificate decrypt_error"),
    "signed with MD5": (lambda w: w.pair.rsa_root.resign(w.pair.rsa_root.issue(w.id), "md5"),
                        "cert_weak_signature chain_invalid",
                        "unsupported_certificate decrypt_error"),
    # Identity.
    "another identity": (lambda w: w.uri(f"{BASE}/ns/test/sa/somebody"), "peer_identity peer_denied",
                         "access_denied"),
    "the other end's identity": (lambda w: w.uri(SERVER_ID if w.inbound else CLIENT_ID),
                                 "peer_identity peer_denied", "access_denied"),
    "identity with more behind": (lambda w: w.uri(w.id + "2"), "peer_identity peer_denied",
                                  "access_denied"),
    "identity with a segment behind": (lambda w: w.uri(w.id + "/x"), "peer_identity peer_denied",
                                       "access_denied"),
    "identity cut short": (lambda w: w.uri(w.id[:-1]), "peer_identity peer_denied",
                           "access_denied"),
    "identity in other case": (lambda w: w.uri(w.id[:-1] + w.id[-1].upper()),
                               "peer_identity peer_denied", "access_denied"),
    "another trust domain": (lambda w: w.uri(w.id.replace(TRUST_DOMAIN, "other.test")),
                             "trust_domain", "access_denied"),
    "a trust domain with ours within": (lambda w: w.uri(w.id.replace("static", "a.static")),
                                        "trust_domain", "access_denied"),
    "two identities": (lambda w: w.uri(w.id, f"{BASE}/ns/test/sa/second"), "san_multiple",
                       "access_denied"),
    "the same identity twice": (lambda w: w.uri(w.id, w.id), "san_multiple", "access_denied"),
    "a second URI that is none": (lambda w: w.uri(w.id, "https://example.test/"), "san_multiple",
                                  "access_denied"),
    "no names": (lambda w: w.ca.issue(), "san_none", "access_denied"),
    "common name only": (lambda w: w.ca.issue(name=w.id[:60]), "san_none", "access_denied"),
    "DNS name only": (lambda w: w.ca.issue(dns=("link.mortise.internal",)),
                      "peer_identity peer_denied", "access_denied"),
    "identity as a DNS name": (lambda w: w.ca.issue(dns=(w.id,)), "san_syntax", "access_denied"),
    "identity as an e-mail address": (
        lambda w: w.ca.issue(sans=[x509.RFC822Name(w.id)]), "san_none", "access_denied"),
    "identity as another name": (
        lambda w: w.ca.issue(sans=[x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"),
                                                  b"\x0c" + bytes([len(w.id)]) + w.id.encode())]),
        "san_none", "access_denied"),
    "IP address only": (
        lambda w: w.ca.issue(sans=[x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
        "san_none", "access_denied"),
    "NUL behind the identity": (lambda w: w.uri(w.id + "\0.evil"), "san_syntax", "access_denied"),
    "NUL in a DNS name beside it": (lambda w: w.uri(w.id, dns=("a\0b.test",)), "san_syntax",
                                    "access_denied"),
    "wildcard": (lambda w: w.uri(f"{BASE}/ns/test/sa/*"), "san_syntax", "access_denied"),
    "wildcard DNS name beside it": (lambda w: w.uri(w.id, dns=("*.mortise.internal",)),
                                    "san_syntax", "access_denied"),
    "upper-case trust domain": (lambda w: w.uri(w.id.replace(TRUST_DOMAIN, "Static.Test")),
                                "san_syntax", "access_denied"),
    "upper-case scheme": (lambda w: w.uri("SPIFFE" + w.id[6:]), "san_syntax", "access_denied"),
    "percent-encoding": (lambda w: w.uri(w.id.replace("/sa/", "/s%61/")), "san_syntax",
                         "access_denied"),
    "dots to climb": (lambda w: w.uri(w.id.replace("/sa/", "/x/../sa/")), "san_syntax",
                      "access_denied"),
    "empty segment": (lambda w: w.uri(w.id.replace("/sa/", "//sa/")), "san_syntax",
                      "access_denied"),
    "slash behind": (lambda w: w.uri(w.id + "/"), "san_syntax", "access_denied"),
    "port": (lambda w: w.uri(w.id.replace(TRUST_DOMAIN, TRUST_DOMAIN + ":443")), "san_syntax",
             "access_denied"),
    "user": (lambda w: w.uri(w.id.replace("://", "://root@")), "san_syntax", "access_denied"),
    "query": (lambda w: w.uri(w.id + "?a=b"), "san_syntax", "access_denied"),
    "fragment": (lambda w: w.uri(w.id + "#a"), "san_syntax", "access_denied"),
    "line feed": (lambda w: w.uri(w.id + "\nreason=done"), "san_syntax", "access_denied"),
    "no path": (lambda w: w.uri(BASE), "san_syntax", "access_denied"),
    "no trust domain": (lambda w: w.uri("spiffe:///ns/test/sa/client"), "san_syntax",
                        "access_denied"),
    "another scheme": (lambda w: w.uri("https" + w.id[6:]), "san_syntax", "access_denied"),
    "2049 bytes": (lambda w: w.uri(f"{BASE}/{'a' * (2048 - len(BASE))}"), "san_syntax",
                   "access_denied"),
    "16 kB": (lambda w: w.uri(f"{BASE}/{'a' * 16384}"), "san_syntax", "access_denied"),
    "65 names": (lambda w: w.uri(w.id, dns=[f"n{i}.test" for i in range(64)]), "san_too_many",
                 "bad_certificate"),
    "1,500 names": (lambda w: w.uri(w.id, dns=[f"n{i}.test" for i in range(1500)]), "san_too_many",
                    "bad_certificate"),
    # (OpenSSL may still be writing when it is refused, and then reads no alert.)
    "10,000 names": (lambda w: w.uri(w.id, dns=[f"n{i}.test" for i in range(10_000)]),
                     "tls_protocol", "illegal_parameter None"),
}
HEAVY = ("ten certificates", "a hundred certificates", "16 kB", "1,500 names", "10,000 names")

# What is unusual and yet right: the rules above refuse no more than they say.
GOOD = {
    "plain": lambda w: w.issue(),
    "without ExtendedKeyUsage": lambda w: w.issue(eku=()),
    "of this role only": lambda w: w.issue(eku=(w.role,)),
    "four intermediates": lambda w: w.under({}, {}, {}, {}),
    "root sent along": lambda w: (lambda m: Certificate(m.cert, m.key, [w.ca.cert]))(w.issue()),
    "within name constraints": lambda w: w.constrained(TRUST_DOMAIN),
    "unknown extension that is not critical": lambda w: w.issue(extra=((UNKNOWN, False),)),
    "DNS names beside it": lambda w: w.uri(w.id, dns=("a.test", "b.test")),
    "names of other kinds beside it": lambda w: w.ca.issue(
        sans=[uri(w.id), x509.IPAddress(ipaddress.ip_address("::1")),
              x509.RFC822Name("a@b.test"), x509.DirectoryName(w.ca.cert.subject)]),
    "valid since now": lambda w: w.issue(begins_s=-1, valid_s=60),
    "P-384": lambda w: w.issue(key="p384"),
    "RSA 2048": lambda w: w.issue(key="rsa2048"),
    "under an RSA root": lambda w: w.pair.rsa_root.issue(w.id),
}


class Pair(StaticPair):
    """Trusts two roots more: one of RSA, one that has expired."""

    LOG_LINES, LOG_LINES_PER_S = 45, 18  # a little less than what the log lets through of refusals

    def __init__(self, folder, binaries):
        super().__init__(folder, binaries)
        self.expired_root = Ca("expired", begins_days=-9, days=-1)
        self.rsa_root = Ca("rsa", key="rsa2048")
        self.roots.write_bytes(b"".join(
            ca.root_pem() for ca in (self.ca, self.expired_root, self.rsa_root)))
        self.refusals = {"client": 0, "server": 0}
        self.began = time.monotonic()

    def pace(self, side):
        """Lines that peers can cause are limited in the log: not to be outrun, as each is looked at."""
        self.refusals[side] += 1
        due = self.began + (self.refusals[side] - self.LOG_LINES) / self.LOG_LINES_PER_S
        wait_for("the log takes a line", lambda: time.monotonic() >= due)


@pytest.fixture(scope="module", params=["TLS1_2", "TLS1_3"])
def pair(request, folder, binaries):
    inside = folder / request.param
    inside.mkdir()
    made = Pair(inside, binaries)
    made.version = request.param
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def app(pair):
    with EchoApp(pair.target_port) as made:
        yield made


def counted(pair, side):
    """Handshakes by result, of the direction that is tested at that side."""
    direction = "inbound" if side == "server" else "outbound"
    head = f'mortise_handshakes_total{{direction="{direction}",result="'
    return {series[len(head):-2]: int(value) for series, value in pair[side].metrics().items()
            if series.startswith(head)}


def check_told(pair, side, port, before, reasons):
    """One line and one count more, with one of the reasons."""
    line = pair.line(side, port)
    assert line["error"] in reasons, line
    assert line["reason"] in ("peer_certificate", "peer_identity", "tls_failed"), line
    assert line["bytes_to_mesh"] == line["bytes_to_app"] == 0
    assert "allowed_by" not in line or line["allowed_by"] is None
    after = counted(pair, side)
    assert {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)} == \
        {line["error"]: 1}


def present_to_inbound(pair, cert):
    paths = cert.write(pair.folder, "presented") if cert else None
    return call(pair.tls_port, context("client", pair.roots, paths, pair.version, weak=True),
                pair.server_name)


@pytest.mark.sanitize
@pytest.mark.parametrize("what", CASES)
def test_bad_client_certificates(pair, app, what):
    make, reasons, alerts = CASES[what]
    cert = make(World(pair, inbound=True))
    pair.pace("server")
    before, reached = counted(pair, "server"), app.connections
    with pytest.raises(Refused) as caught:
        present_to_inbound(pair, cert)
    assert str(caught.value.alert) in alerts.split(), caught.value
    check_told(pair, "server", caught.value.port, before, reasons.split())
    assert app.connections == reached
    assert exchange(pair.app_port, b"and the next one works") == b"and the next one works"


@pytest.mark.parametrize("what", GOOD)
def test_good_client_certificates(pair, app, what):
    reached = app.connections
    present_to_inbound(pair, GOOD[what](World(pair, inbound=True)))
    assert app.connections == reached + 1


@pytest.mark.sanitize
def test_no_client_certificate(pair, app):
    pair.pace("server")
    before, reached = counted(pair, "server"), app.connections
    with pytest.raises(Refused) as caught:
        present_to_inbound(pair, None)
    assert caught.value.alert == ("certificate_required" if pair.version == "TLS1_3" else
                                  "handshake_failure")
    check_told(pair, "server", caught.value.port, before, ["cert_missing"])
    assert app.connections == reached


@pytest.mark.parametrize("kind", ["ed25519", "p224"])
def test_keys_that_are_not_even_asked_for(pair, outbound, app, kind):
    """OpenSSL shows no certificate whose signatures we do not take, and as a server it gives up."""
    cert, reached = pair.ca.issue(CLIENT_ID, key=kind), app.connections
    pair.pace("server")
    with pytest.raises(Refused) as caught:
        present_to_inbound(pair, cert)
    line = pair.line("server", caught.value.port)
    if (kind, pair.version) == ("p224", "TLS1_2"):  # there a signature does not tell the curve
        assert line["error"] == "key_weak"
    else:
        assert line["error"] == "cert_missing"
    outbound.pace("client")
    answer, seen, port = present_to_outbound(outbound, outbound.ca.issue(SERVER_ID, key=kind), b"x")
    assert isinstance(answer, ConnectionResetError) and seen[0]["bytes"] == 0
    assert outbound.line("client", port)["reason"] in ("peer_alert", "peer_certificate",
                                                       "no_shared_parameters")
    assert app.connections == reached


@pytest.fixture(scope="module")
def outbound(pair):
    """A second sidecar of the client's kind, whose server is played here."""
    inside = pair.folder / "outbound"
    inside.mkdir()
    made = Pair(inside, pair.bin)
    made.version = pair.version
    made.start("client")
    yield made
    made.stop()


def present_to_outbound(outbound, cert, data):
    """An application's exchange through a server with that certificate, what the server saw, and the
    application's port."""
    paths = cert.write(outbound.folder, "presented")
    made = context("server", outbound.roots, paths, outbound.version, weak=True)
    ports = []
    with Server(outbound.tls_port, made) as server:
        try:
            answer = exchange(outbound.app_port, data, ports=ports)
        except OSError as err:
            answer = err
        wait_for("the server is done", lambda: server.seen and server.seen[0]["done"])
    return answer, server.seen, ports[0]


@pytest.mark.sanitize
@pytest.mark.parametrize("what", CASES)
def test_bad_server_certificates(outbound, what):
    if what == "no digitalSignature" and outbound.version == "TLS1_2":
        pytest.skip("OpenSSL does not show it: no shared cipher")
    make, reasons, alerts = CASES[what]
    cert = make(World(outbound, inbound=False))
    outbound.pace("client")
    before = counted(outbound, "client")
    answer, seen, port = present_to_outbound(outbound, cert, b"secret")
    assert isinstance(answer, ConnectionResetError), answer
    assert len(seen) == 1 and seen[0]["bytes"] == 0
    assert str(seen[0]["alert"]) in alerts.split(), seen
    check_told(outbound, "client", port, before, reasons.split())
    answer, _, _ = present_to_outbound(outbound, outbound.ca.issue(SERVER_ID), b"the next one works")
    assert answer == b"the next one works"


@pytest.mark.parametrize("what", GOOD)
def test_good_server_certificates(outbound, what):
    answer, seen, _ = present_to_outbound(outbound, GOOD[what](World(outbound, inbound=False)), b"ping")
    assert answer == b"ping" and seen[0]["bytes"] == 4


# By hand: what no library would send.


class Forged:
    """A certificate as testlib.tls_raw.Tls13 wants it, with any bytes in place of any certificate."""

    class Bytes:
        def __init__(self, data):
            self.data = data

        def public_bytes(self, encoding):
            return self.data

    def __init__(self, key, *ders):
        self.cert, *self.above = map(self.Bytes, ders)
        self.key = key


def der(cert):
    return cert.public_bytes(serialization.Encoding.DER)


def forge(pair, cert):
    """What becomes of such a TLS 1.3 client: the alert."""
    with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
        sock.settimeout(10)
        try:
            tls = Tls13(sock, cert, server_name=pair.server_name).handshake()
            tls.send(b"hello")
            return tls.recv()
        except Refused as err:
            return err.alert


def test_a_certificate_without_its_key_is_of_no_use(pair, app):
    """The right certificate, which is no secret, and a signature by another key."""
    if pair.version != "TLS1_3":
        pytest.skip("by hand there is TLS 1.3 only")
    good, reached = pair.ca.issue(CLIENT_ID), app.connections
    assert forge(pair, good) == b"hello"
    pair.pace("server")
    before = counted(pair, "server")
    assert forge(pair, Certificate(good.cert, KEYS["p256"]())) == "decrypt_error"
    after = counted(pair, "server")
    assert after["tls_protocol"] == before.get("tls_protocol", 0) + 1
    assert app.connections == reached + 1


def test_what_is_no_certificate(pair, app):
    if pair.version != "TLS1_3":
        pytest.skip("by hand there is TLS 1.3 only")
    good = pair.ca.issue(CLIENT_ID)
    data, reached = der(good.cert), app.connections
    wrong = {
        "cut short": [data[:-1]], "a byte behind": [data + b"\0"], "empty": [b""],
        "no DER": [b"\xff" * 300], "a length beyond the end": [b"\x30\x84\x7f\xff\xff\xff" + data],
        "text": [b"-----BEGIN CERTIFICATE-----\n"], "rubbish above": [data, b"\x30\x03\x02\x01"],
        "nested sequences": [b"\x30\x80" * 5000],
    }
    for what, ders in wrong.items():
        assert forge(pair, Forged(good.key, *ders)) in ("decode_error", "bad_certificate"), what
    # A bit flipped in the certificate: everything is signed, so every flip must be noticed.
    bits = range(0, len(data) * 8, 41)
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(forge(pair, Forged(good.key, bytes(flipped))), str), bit
    assert app.connections == reached
    assert forge(pair, good) == b"hello"


@pytest.mark.skipif(CONFIG != "opt", reason="CPU time of a sanitized build says nothing")
@pytest.mark.parametrize("what", HEAVY)
def test_large_ones_cost_little_and_hold_nothing(pair, app, what):
    """At most 50 ms of CPU for each, and no memory behind."""
    num = 20
    cert = CASES[what][0](World(pair, inbound=True))
    paths = cert.write(pair.folder, "presented")
    made = context("client", pair.roots, paths, pair.version, weak=True)
    program, spent = pair["server"], 0.0
    for number in range(2 * num):
        if number == num:
            spent, memory = cpu_s(program.pid), program.memory_kib()
        with pytest.raises(Refused):
            call(pair.tls_port, made, pair.server_name)
    assert (cpu_s(program.pid) - spent) / num <= 0.05
    assert program.memory_kib() <= memory + 512
