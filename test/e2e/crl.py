"""Without this a certificate that its CA has taken back would go on being let in: lists made by OpenSSL, in every state
that a list can be in, in the truststore of a sidecar, and what becomes of connections that are open and of new ones.

Drives: F6, R7, R8, R42"""
import contextlib
import signal
import socket

import pytest

from deploy.lab.programs import wait_for
from test.testlib.clock_jump import ClockJump
from test.testlib.echo_app import EchoApp
from test.testlib.openssl_crl import OpensslCrl, put
from test.testlib.pki import Ca
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair

LISTS = ["root.crl", "issuing.crl"]


class ListedPair(StaticPair):
    """The client's certificate is issued by an intermediate; the server's sidecar has lists of that and of the root."""

    lists = LISTS

    def __init__(self, folder, binaries, clock=None):
        self.issuing = None
        super().__init__(folder, binaries)
        self.issuing = Ca("issuing", above=self.ca, days=30)
        self.clock = clock
        self.root_list = OpensslCrl(folder, "root-ca", self.ca)
        self.issuing_list = OpensslCrl(folder, "issuing-ca", self.issuing)
        self.renew("client")
        self.publish()
        self.write("server")

    def renew(self, side, cert=None):
        if side == "client" and self.issuing is not None:
            self.client = cert = self.issuing.issue(CLIENT_ID, valid_s=7200)
        return super().renew(side, cert)

    def publish(self, **how):
        put(self.folder / "root.crl", self.root_list.make(**how))
        put(self.folder / "issuing.crl", self.issuing_list.make(**{"der": True, **how}))

    def config(self, side):
        made = super().config(side)
        if side == "server":
            made["truststores"][0]["crl_files"] = self.lists
        return made

    def begin(self):
        self.start("client")
        self.env = self.clock.env if self.clock else None
        self.start("server")
        self.app = EchoApp(self.target_port)
        return self

    def end(self):
        self.app.close()
        self.stop()

    def changed(self, change):
        """Does that and waits until the server's sidecar has a newer snapshot."""
        known = self["server"].config()["generation"]
        change()
        wait_for("it is in force", lambda: self["server"].config()["generation"] > known)

    def refused(self, change, field, code):
        """Does that and waits until the sidecar has refused it; what was in force stays."""
        known, told = self["server"].config()["generation"], len(self["server"].events("reload_refused"))
        change()
        self["server"].signal(signal.SIGHUP)  # told at once
        entry = wait_for(code, lambda: [e for e in self["server"].events("reload_refused")[told:]
                                        if f"({code}" in e["reason"]])[0]
        assert entry["field"] == field, entry
        assert self["server"].config()["generation"] == known

    def echo(self, sock=None):
        sock = sock or socket.create_connection(("127.0.0.1", self.app_port), 10)
        sock.settimeout(10)
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        return sock

    def is_refused(self, reason, error=None):
        known = len(self.lines("server"))
        with contextlib.suppress(ConnectionResetError):  # so early that connecting sees it
            with socket.create_connection(("127.0.0.1", self.app_port), 10) as sock:
                sock.settimeout(10)
                assert is_cut(sock)
        line = self.new_line("server", known, reason=reason)
        assert line["error"] == (error or reason) and line["claimed_id"] == CLIENT_ID, line


def is_cut(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def place(folder):
    """A folder for one test, with a name that leaves room for those of sockets."""
    made = folder / f"t{len(list(folder.iterdir()))}"
    made.mkdir()
    return made


@pytest.fixture
def pair(place, binaries):
    made = ListedPair(place, binaries).begin()
    yield made
    made.end()


def forged(der):
    """A bit of the signature turned."""
    return der[:-1] + bytes([der[-1] ^ 1])


def gauge(pair, name):
    return pair["server"].metrics()[f'mortise_crl_{name}_timestamp_seconds{{truststore="mesh"}}']


@pytest.mark.sanitize
def test_lists_are_honoured_and_one_that_names_its_peer_ends_a_connection(pair):
    live = pair.echo()
    crls = pair["server"].config()["truststores"][0]["crls"]
    assert sorted((c["issuer"], c["entries"]) for c in crls) == [("CN=issuing", 0), ("CN=root", 0)], crls
    assert gauge(pair, "this_update") < gauge(pair, "next_update")
    other = pair.issuing.issue(SERVER_ID)
    pair.changed(lambda: put(pair.folder / "issuing.crl", pair.issuing_list.revoke(other.serial).make()))
    pair.echo(live)  # somebody else was revoked
    pair.changed(lambda: put(pair.folder / "issuing.crl", pair.issuing_list.revoke(pair.client.serial).make()))
    assert is_cut(live)
    assert pair.new_line("server", reason="revoked")["error"] == "peer_revoked"
    assert wait_for("the client's line", lambda: [e for e in pair.lines("client") if e["reason"] in (
        "revoked", "peer_reset")])
    pair.is_refused("revoked", "peer_revoked")
    assert pair["server"].metrics()['mortise_handshakes_total{direction="inbound",result="peer_revoked"}'] == 1
    pair.renew("client")  # another certificate of the same identity
    wait_for("it has another", lambda: pair["client"].config()["identity"]["serial"] == pair.client.serial)
    fresh = pair.echo()
    serial = format(pair.issuing.cert.serial_number, "X").zfill(2)
    pair.changed(lambda: put(pair.folder / "root.crl", pair.root_list.revoke(serial.zfill(
        len(serial) + len(serial) % 2)).make()))
    assert is_cut(fresh)  # the intermediate, and so everything below it
    pair.is_refused("revoked", "peer_revoked")


def test_an_issuer_without_a_list_is_refused_and_what_lives_goes_on(pair):
    live = pair.echo()
    pair.lists = ["issuing.crl"]
    pair.changed(lambda: pair.write("server"))
    pair.is_refused("crl_missing")
    pair.lists = ["root.crl"]
    pair.changed(lambda: pair.write("server"))
    pair.is_refused("crl_missing")
    pair.lists = []
    pair.changed(lambda: pair.write("server"))
    pair.echo(live).close()  # no list said anything of it
    pair.echo().close()      # none configured: none asked
    assert gauge(pair, "next_update") == 0


def test_a_broken_list_is_refused_whole_and_the_good_one_stays(pair):
    live, path, lists = pair.echo(), pair.folder / "root.crl", pair.root_list
    at = "truststores[0].crl_files[0]"
    good = path.read_bytes()
    for data, code in (
            (b"nothing\n", "pem_empty"), (good[:-120], "pem_syntax"), (b"\x30\x80\x00", "crl_syntax"),
            (forged(lists.make(der=True)), "crl_signature"),
            (lists.make(begins_s=3600, ends_s=7200), "crl_not_yet_valid"),
            (lists.make(begins_s=-7200, ends_s=-3600), "crl_stale"),
            (lists.make(more="2.5.29.27 = critical,ASN1:INTEGER:1"), "crl_delta"),
            (lists.make(more="issuingDistributionPoint = critical,indirectCRL:TRUE"), "crl_indirect"),
            (lists.make(more="issuingDistributionPoint = critical,onlyuser:TRUE"), "crl_partial"),
            (lists.make(more="1.3.6.1.4.1.55555.1 = critical,ASN1:NULL"), "crl_extension")):
        pair.refused(lambda data=data: put(path, data), at, code)
        pair.echo().close()
    pair.echo(live).close()
    pair.changed(lambda: put(path, lists.make(ends_s=7200)))
    assert pair["server"].config()["rejected"] is None


def test_a_list_of_100000_entries(pair):
    for i in range(100000):
        pair.issuing_list.revoke(f"{(1 << 64) + 7 * i:018x}")
    live = pair.echo()
    pair.changed(lambda: put(pair.folder / "issuing.crl", pair.issuing_list.make()))
    pair.echo(live).close()
    pair.echo().close()
    pair.changed(lambda: put(pair.folder / "issuing.crl", pair.issuing_list.revoke(pair.client.serial).make(der=True)))
    pair.is_refused("revoked", "peer_revoked")


def test_a_list_that_nobody_renews(place, binaries):
    """It is warned of at half of its life; stale, it refuses; what lives goes on, unless the list names it."""
    clock = ClockJump(place)
    pair = ListedPair(place, binaries, clock)
    pair.publish(begins_s=-60, ends_s=1800)
    pair.begin()
    try:
        live = pair.echo()
        assert pair["server"].events("not_renewed") == []
        clock.set(1000)
        told = wait_for("it is told", lambda: pair["server"].events("not_renewed"))
        assert told[0]["truststore"] == "mesh" and told[0]["level"] == "warn"
        pair.echo().close()
        clock.set(1810)
        wait_for("it is told", lambda: len(pair["server"].events("stale")) == 2)
        pair.is_refused("crl_stale")
        pair.echo(live)
        pair.changed(lambda: pair.publish(begins_s=1700, ends_s=5400))
        pair.echo().close()
        pair.echo(live)
        pair.issuing_list.revoke(pair.client.serial)
        pair.changed(lambda: pair.publish(begins_s=1710, ends_s=5400))
        assert is_cut(live)
    finally:
        pair.end()
