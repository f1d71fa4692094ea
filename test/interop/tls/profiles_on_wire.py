"""Without this a profile could say one thing and the wire another: what a link may negotiate is read off the hellos
themselves, the server name alone selects it, and what the library cannot be told is refused before a byte passes.

Drives: A1, A2, A3, A6, B1, B2, C3, R1, R4, R12"""
import socket

import pytest

from test.testlib.echo_app import EchoApp, exchange
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port
from test.testlib.tls_peer import Openssl, call, context
from test.testlib.tls_raw import (ALPN, EARLY_DATA, ECDHE_ECDSA_AES_128_GCM,
                                  ECDHE_ECDSA_AES_256_GCM, ECDHE_ECDSA_CHACHA20,
                                  ECDHE_RSA_AES_128_GCM, ECDHE_RSA_AES_256_GCM,
                                  ECDHE_RSA_CHACHA20, HANDSHAKE, P256, P384, PSK, SESSION_TICKET,
                                  TLS12, TLS13, X25519, ClientHello, Reader, Refused, ask,
                                  is_grease, record)

AES_128, AES_256, CHACHA20 = 0x1301, 0x1302, 0x1303
ALL_12 = (ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM,
          ECDHE_RSA_AES_256_GCM, ECDHE_ECDSA_CHACHA20, ECDHE_RSA_CHACHA20)

# Per link: the profile of both its sides; versions, suites and groups that a hello may hold.
LINKS = {
    "default": ({}, (TLS13, TLS12), (AES_128, AES_256, CHACHA20, *ALL_12), (X25519, P256, P384)),
    "only12": ({"max_version": "TLS1_2"}, (TLS12,), ALL_12, (X25519, P256, P384)),
    "only13": ({"min_version": "TLS1_3"}, (TLS13,), (AES_128, AES_256, CHACHA20),
               (X25519, P256, P384)),
    "one-suite": ({"max_version": "TLS1_2", "groups": ["P-384", "P-256"],
                   "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]},
                  (TLS12,), (ECDHE_ECDSA_AES_256_GCM,), (P384, P256)),
    "aes256": ({"min_version": "TLS1_3", "cipher_suites": ["TLS_AES_256_GCM_SHA384"],
                "groups": ["P-256", "X25519"],
                "signature_algorithms": ["ecdsa_secp256r1_sha256"]},
               (TLS13,), (AES_256,), (P256, X25519)),
    "order": ({"max_version": "TLS1_2", "groups": ["P-256", "X25519"],
               "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                                 "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
              (TLS12,), (ECDHE_ECDSA_CHACHA20, ECDHE_ECDSA_AES_128_GCM), (P256, X25519)),
    # In TLS 1.2 groups are also the curves of the server's certificate, and ours is of P-256.
    "no-p256": ({"max_version": "TLS1_2", "groups": ["X25519", "P-384"]}, (TLS12,), ALL_12,
                (X25519, P384)),
    # The library cannot be told to leave out AES-256 alone: it is offered, and refused when it comes to it.
    "no-aes256": ({"min_version": "TLS1_3", "cipher_suites": ["TLS_AES_128_GCM_SHA256",
                                                              "TLS_CHACHA20_POLY1305_SHA256"]},
                  (TLS13,), (AES_128, AES_256, CHACHA20), (X25519, P256, P384)),
}


class ManyLinks(StaticPair):
    """A link for each profile, all over the same two sidecars; told apart by their targets."""

    def config(self, side):
        config = super().config(side)
        if not hasattr(self, "ports"):
            self.ports = {name: (free_port(), free_port()) for name in LINKS}
        config["profiles"] = [{"name": name, "role": side.upper(), **profile}
                              for name, (profile, *_) in LINKS.items()]
        if side == "client":
            config["outbound"] = [
                {"name": name, "listen": f"127.0.0.1:{listen}", "profile": name,
                 "endpoints": [f"127.0.0.1:{self.tls_port}"], "truststore": "mesh",
                 "peers": {"spiffe_ids": [SERVER_ID]}}
                for name, (listen, _) in self.ports.items()]
        else:
            config["inbound"]["links"] = [
                {"name": name, "target": f"127.0.0.1:{target}", "profile": name,
                 "peers": {"spiffe_ids": [CLIENT_ID]}, "truststore": "mesh"}
                for name, (_, target) in self.ports.items()]
        return config


@pytest.fixture(scope="module")
def pair(folder, binaries):
    made = ManyLinks(folder, binaries)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def apps(pair):
    made = {name: EchoApp(target) for name, (_, target) in pair.ports.items()}
    yield made
    for app in made.values():
        app.close()


def hello(pair, link, **fields):
    message = ClientHello(server_name=f"{link}.mortise.internal", **fields)
    with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
        sock.settimeout(10)
        return ask(sock, record(HANDSHAKE, message.bytes()))


def test_two_sidecars_agree_on_each(pair, apps):
    wanted = {
        "default": ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519"),
        "only12": ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "X25519"),
        "only13": ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519"),
        "one-suite": ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "P-384"),
        "aes256": ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "P-256"),
        "order": ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "P-256"),
    }
    for link, facts in wanted.items():
        ports = []
        assert exchange(pair.ports[link][0], link.encode(), ports=ports) == link.encode()
        line = pair.line("client", ports[0])
        assert (line["tls_version"], line["cipher"], line["group"]) == facts, link
        assert line["link"] == line["allowed_by"] == link


def test_a_certificate_of_a_curve_that_the_profile_lacks_is_refused_by_the_client(pair, apps):
    ports = []
    with pytest.raises(ConnectionError):
        exchange(pair.ports["no-p256"][0], b"secret", ports=ports)
    line = pair.line("client", ports[0])
    assert (line["reason"], line["error"]) == ("no_shared_parameters", "tls_no_shared")
    assert apps["no-p256"].bytes == 0


def test_the_server_takes_nothing_outside_of_a_profile(pair, apps):
    """Each link meets each version, suite and group alone: taken exactly where its profile has it."""
    suites = {TLS12: (ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM, ECDHE_ECDSA_CHACHA20),
              TLS13: (AES_128, AES_256, CHACHA20)}
    groups = {X25519: None, P256: {}, P384: {}}  # without a share of the others: a retry asks for it
    wrong = []
    for link, (_, versions, allowed_suites, allowed_groups) in LINKS.items():
        for version in (TLS12, TLS13):
            for suite in suites[version]:
                for group, shares in groups.items():
                    allowed = (version in versions and suite in allowed_suites and
                               group in allowed_groups)
                    try:
                        answer = hello(pair, link, versions=(version,), ciphers=(suite,),
                                       groups=(group,), shares=shares)
                        if not allowed or (answer.version, answer.cipher) != (version, suite):
                            wrong.append((link, hex(version), hex(suite), group, answer))
                    except Refused as err:
                        if allowed or err.alert not in ("handshake_failure", "protocol_version"):
                            wrong.append((link, hex(version), hex(suite), group, err.alert))
    assert wrong == []


def test_the_servers_order_counts(pair):
    answer = hello(pair, "order", versions=(TLS12,),
                   ciphers=(ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_CHACHA20))
    assert answer.cipher == ECDHE_ECDSA_CHACHA20
    answer = hello(pair, "default")
    assert (answer.version, answer.cipher, answer.group) == (TLS13, AES_128, X25519)
    answer = hello(pair, "aes256", shares={}, groups=(X25519, P256))
    assert answer.is_retry and answer.group == P256


@pytest.fixture(scope="module")
def capture(folder, binaries):
    """A client's sidecar whose servers are played here."""
    inside = folder / "capture"
    inside.mkdir()
    made = ManyLinks(inside, binaries)
    made.start("client")
    yield made
    made.stop()


@pytest.fixture
def endpoint(capture):
    with socket.create_server(("127.0.0.1", capture.tls_port)) as listener:
        listener.settimeout(10)
        yield listener


def sent_hello(capture, endpoint, link):
    with socket.create_connection(("127.0.0.1", capture.ports[link][0]), 10) as app:
        app.sendall(b"not before the server was verified")
        sock, _ = endpoint.accept()
        with sock:
            sock.settimeout(10)
            return ClientHello.parse(Reader(sock).message())


def named(values):
    return tuple(value for value in values if not is_grease(value))


@pytest.mark.parametrize("link", LINKS)
def test_a_client_hello_holds_the_profile_and_no_more(capture, endpoint, link):
    _, versions, suites, groups = LINKS[link]
    for _ in range(2):  # a second connection has nothing left over from the first one
        seen = sent_hello(capture, endpoint, link)
        assert seen.server_name == f"{link}.mortise.internal"
        assert (named(seen.versions) or (seen.legacy_version,)) == versions
        assert set(named(seen.ciphers)) == set(suites)
        assert named(seen.groups) == groups
        assert set(named(seen.shares)) <= set(groups)
        for kind in (SESSION_TICKET, PSK, EARLY_DATA, ALPN):
            assert kind not in seen.extensions
    if link == "aes256":
        assert seen.signatures == (0x0403,)
    else:
        assert 0x0201 not in seen.signatures and 0x0203 not in seen.signatures  # SHA-1


def s_server(pair, *more):
    cert, key = pair.paths("server")
    server = Openssl("s_server", "-accept", f"127.0.0.1:{pair.tls_port}", "-cert", cert, "-key",
                     key, "-CAfile", pair.roots, "-Verify", "4", "-verify_return_error", *more)
    server.read_until("ACCEPT")
    return server


def test_a_suite_of_tls_1_3_that_the_profile_lacks_is_refused_by_the_client(capture):
    """The library offered it; before the application's first byte the connection is refused."""
    ports = []
    with s_server(capture, "-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384") as server:
        with pytest.raises(OSError):
            if exchange(capture.ports["no-aes256"][0], b"secret", ports=ports) == b"":
                raise ConnectionResetError("closed")
        text = server.read_until("alert handshake failure")
    assert "secret" not in text
    line = capture.line("client", ports[0])
    assert (line["reason"], line["error"]) == ("no_shared_parameters", "tls_no_shared")


def test_the_suite_that_the_profile_has_is_taken_by_the_client(capture):
    """The good case beside it."""
    with s_server(capture, "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256",
                  "-rev") as server:
        assert exchange(capture.ports["no-aes256"][0], b"abc\n") == b"cba\n"
        server.read_until("TLS_CHACHA20_POLY1305_SHA256")


@pytest.mark.parametrize("suite,good", [("TLS_AES_256_GCM_SHA384", False),
                                        ("TLS_CHACHA20_POLY1305_SHA256", True)])
def test_a_suite_of_tls_1_3_that_the_profile_lacks_is_refused_by_the_server(pair, apps, suite, good):
    before = apps["no-aes256"].connections
    cert, key = pair.paths("client")
    with Openssl("s_client", "-connect", f"127.0.0.1:{pair.tls_port}", "-servername",
                 "no-aes256.mortise.internal", "-cert", cert, "-key", key, "-CAfile", pair.roots,
                 "-ciphersuites", suite) as client:
        client.write(b"payload\n")
        text = client.read_until("\npayload", "alert handshake failure")
    assert ("alert handshake failure" not in text) == good, text
    assert apps["no-aes256"].connections - before == (1 if good else 0)


# The server name.

CASES = {
    "only12.mortise.internal": "only12", "ONLY12.Mortise.INTERNAL": "only12",
    "only13.mortise.internal": "only13", "Only13.mortise.internal": "only13",
    "only12.mortise.internal.": None, "only12": None, "*.mortise.internal": None,
    ".mortise.internal": None, "only12.mortise.internal.evil": None,
    "evil.only12.mortise.internal": None, "nosuch.mortise.internal": None,
    "only12 .mortise.internal": None, "only12.mortise.ınternal": None,
}


@pytest.mark.parametrize("name", CASES)
def test_the_server_name_selects_exactly(pair, apps, name):
    link = CASES[name]
    message = ClientHello(server_name=name)
    with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
        sock.settimeout(10)
        if link is None:
            with pytest.raises(Refused) as caught:
                ask(sock, record(HANDSHAKE, message.bytes()))
            assert caught.value.alert == "unrecognized_name"
            return
        answer = ask(sock, record(HANDSHAKE, message.bytes()))
        assert answer.version == (TLS12 if link == "only12" else TLS13)
    before = apps[link].connections
    call(pair.tls_port, context("client", pair.roots, pair.paths("client")), name)
    assert apps[link].connections == before + 1


def test_without_a_name_links_that_differ_are_not_chosen_from(pair, apps):
    """For a TLS 1.3-only client one link alone might fit; absence must not choose it."""
    for versions in ((TLS12,), (TLS13,), (TLS13, TLS12)):
        message = ClientHello(versions=versions)
        with socket.create_connection(("127.0.0.1", pair.tls_port), 10) as sock:
            sock.settimeout(10)
            with pytest.raises(Refused) as caught:
                ask(sock, record(HANDSHAKE, message.bytes()))
            assert caught.value.alert == "unrecognized_name"
    series = 'mortise_connections_total{direction="inbound",link="",reason="server_name"}'
    before = pair["server"].metrics()[series]
    with pytest.raises(Refused) as caught:
        call(pair.tls_port, context("client", pair.roots, pair.paths("client")), None)
    assert caught.value.alert == "unrecognized_name"
    assert pair["server"].metrics()[series] == before + 1


class AlikeLinks(StaticPair):
    """Three links alike in profile and truststore: two for one peer, one for another."""

    PEERS = {"first": "spiffe://static.test/ns/test/sa/twice",
             "second": "spiffe://static.test/ns/test/sa/twice", "third": CLIENT_ID}

    def config(self, side):
        config = super().config(side)
        if side == "server":
            config["inbound"]["links"] = [
                {"name": name, "target": f"127.0.0.1:{self.target_port}", "profile": "server",
                 "peers": {"spiffe_ids": [peer]}, "truststore": "mesh"}
                for name, peer in self.PEERS.items()]
        return config


@pytest.mark.parametrize("who,link,alert,error", [
    (CLIENT_ID, "third", None, None),
    (AlikeLinks.PEERS["first"], None, "unrecognized_name", "tls_sni_unknown"),
    ("spiffe://static.test/ns/test/sa/nobody", None, "access_denied", "peer_denied"),
])
def test_without_a_name_links_alike_are_chosen_by_the_peer(alike, who, link, alert, error):
    """Only when just one allows it: two are not guessed between, none is a denial."""
    paths = alike.ca.issue(who).write(alike.folder, "client")
    made = context("client", alike.roots, paths)
    if alert is None:
        port = call(alike.tls_port, made, None)["port"]
    else:
        with pytest.raises(Refused) as caught:
            call(alike.tls_port, made, None)
        assert caught.value.alert == alert
        port = caught.value.port
    line = alike.line("server", port)
    assert line.get("allowed_by") == link and line.get("error") == error
    if who == AlikeLinks.PEERS["first"]:  # with a name there is nothing to guess
        port = call(alike.tls_port, made, "second.mortise.internal")["port"]
        assert alike.line("server", port)["link"] == "second"


@pytest.fixture(scope="module")
def alike(folder, binaries):
    inside = folder / "alike"
    inside.mkdir()
    made = AlikeLinks(inside, binaries)
    made.start("server")
    with EchoApp(made.target_port):
        yield made
    made.stop()
