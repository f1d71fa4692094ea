"""Without this a real library could be refused and not know why: bad certificates are presented by OpenSSL, to the
inbound side by a client and to the outbound side by a server, in both TLS versions; it reads the alert, the
log has the exact reason, no byte reaches an application, and the next good connection works.
bad_chains.py has every kind of bad certificate, shown by peers of our own.

Drives: B3, D2, D5, F1, F12, R3, R5, R6, R9, R13, R16, R62"""
import time

import pytest
from cryptography import x509

from deploy.lab.programs import wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.pki import KEYS, Ca, Certificate
from test.testlib.static import CLIENT_ID, SERVER_ID, TRUST_DOMAIN, StaticPair
from test.testlib.tls_peer import Server, call, context
from test.testlib.tls_raw import Refused

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

    def padded(self, number):
        """The right chain with more certificates behind it that have nothing to do with it."""
        made = self.issue()
        other = Ca("padding")
        return Certificate(made.cert, made.key, [other.cert] * number)

    def constrained(self, permitted):
        extension = x509.NameConstraints([x509.UniformResourceIdentifier(permitted)], None)
        return self.under({"extra": ((extension, True),)})


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


# name: (certificate, reasons, alerts). Where there are more than one it depends on what the library looks
# at first, or on the role. (All kinds: test/testlib/bad_chains.py.)
CASES = {
    "expired": (lambda w: w.issue(begins_s=-7200, valid_s=-60), "cert_expired",
                "certificate_expired"),
    "not yet valid": (lambda w: w.issue(begins_s=3600, valid_s=7200), "cert_not_yet_valid",
                      "certificate_expired"),
    "expired intermediate": (lambda w: w.under({"begins_days": -9, "days": -1}), "cert_expired",
                             "certificate_expired"),
    "another CA": (lambda w: Ca("stranger").issue(w.id), "chain_untrusted", "unknown_ca"),
    "another CA of our CA's name": (lambda w: Ca("root").issue(w.id),
                                    "chain_invalid", "decrypt_error"),
    "self-signed": (lambda w: w.self_signed(), "chain_untrusted", "unknown_ca"),
    "intermediate left out": (lambda w: (lambda m: Certificate(m.cert, m.key))(w.under({})),
                              "chain_untrusted", "unknown_ca"),
    "chain of six": (lambda w: w.under({}, {}, {}, {}, {}), "chain_too_long", "unknown_ca"),
    "a hundred certificates": (lambda w: w.padded(99), "tls_protocol", "illegal_parameter"),
    "name constraints": (lambda w: w.constrained("other.test"), "chain_invalid",
                         "certificate_unknown"),
    "for the other role": (lambda w: w.issue(eku=(w.other_role,)), "cert_usage",
                           "unsupported_certificate"),
    "no KeyUsage": (lambda w: w.issue(usage=None), "cert_usage", "unsupported_certificate"),
    "unknown critical extension": (lambda w: w.issue(extra=((UNKNOWN, True),)), "cert_usage",
                                   "unsupported_certificate"),
    "RSA 1024": (lambda w: w.issue(key="rsa1024"), "key_weak", "unsupported_certificate"),
    "signed with SHA-1": (lambda w: w.pair.rsa_root.resign(w.pair.rsa_root.issue(w.id), "sha1"),
                          "cert_weak_signature",
                          "unsupported_certificate"),
    "another identity": (lambda w: w.uri(f"{BASE}/ns/test/sa/somebody"), "peer_identity peer_denied",
                         "access_denied"),
    "another trust domain": (lambda w: w.uri(w.id.replace(TRUST_DOMAIN, "other.test")),
                             "trust_domain", "access_denied"),
    "two identities": (lambda w: w.uri(w.id, f"{BASE}/ns/test/sa/second"), "san_multiple",
                       "access_denied"),
    "no names": (lambda w: w.ca.issue(), "san_none", "access_denied"),
    "percent-encoding": (lambda w: w.uri(w.id.replace("/sa/", "/s%61/")), "san_syntax",
                         "access_denied"),
    # (OpenSSL may still be writing when it is refused, and then reads no alert.)
    "10,000 names": (lambda w: w.uri(w.id, dns=[f"n{i}.test" for i in range(10_000)]),
                     "tls_protocol", "illegal_parameter None"),
}

# What is unusual and yet right.
GOOD = {
    "plain": lambda w: w.issue(),
    "of this role only": lambda w: w.issue(eku=(w.role,)),
    "four intermediates": lambda w: w.under({}, {}, {}, {}),
    "P-384": lambda w: w.issue(key="p384"),
    "RSA 2048": lambda w: w.issue(key="rsa2048"),
    "under an RSA root": lambda w: w.pair.rsa_root.issue(w.id),
}


class Pair(StaticPair):
    """Trusts an RSA root more."""

    LOG_LINES, LOG_LINES_PER_S = 45, 18  # a little less than what the log lets through of refusals

    def __init__(self, folder, binaries):
        super().__init__(folder, binaries)
        self.rsa_root = Ca("rsa", key="rsa2048")
        self.roots.write_bytes(b"".join(
            ca.root_pem() for ca in (self.ca, self.rsa_root)))
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
