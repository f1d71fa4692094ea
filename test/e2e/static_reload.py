"""Without this a sidecar without control plane would need a restart for each certificate, and a half-written
file could take it down: changed files are swapped in live, wrong ones are refused and the old stay.

Drives: E2, E3, A7, A12, C1, F3, F6, R8, R10, R11, B6, R25"""
import contextlib
import os
import signal
import socket

import pytest

from deploy.lab.programs import wait_for
from test.testlib.pki import Ca
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair


@pytest.fixture(scope="module")
def pair(folder, binaries):
    made = StaticPair(folder, binaries)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def target(pair):
    """An echo application behind the server's sidecar."""
    import threading

    listener = socket.create_server(("127.0.0.1", pair.target_port))

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return

            def echo(sock=sock):
                with contextlib.suppress(OSError), sock:
                    while data := sock.recv(65536):
                        sock.sendall(data)

            threading.Thread(target=echo, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield
    listener.close()


def echo(pair, sock=None):
    sock = sock or socket.create_connection(("127.0.0.1", pair.app_port), 10)
    sock.settimeout(10)
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"
    return sock


def serial(pair, side):
    return pair[side].config()["identity"]["serial"]


def test_new_certificate_files_are_used_without_a_signal(pair, target):
    old = echo(pair)
    fresh = pair.renew("server")
    wait_for("the new serial", lambda: serial(pair, "server") == fresh.serial)
    echo(pair, old).close()  # the connection that was open lives on
    with echo(pair):
        pass
    wait_for("the client met the new certificate", lambda: any(
        e.get("peer_serial") == fresh.serial for e in pair["client"].events("connection")))


def test_sighup_reads_again(pair, target):
    fresh = pair.renew("client")
    pair["client"].signal(signal.SIGHUP)
    wait_for("the new serial", lambda: serial(pair, "client") == fresh.serial)
    echo(pair).close()


@pytest.mark.parametrize("how", ["mismatch", "expired"])
def test_a_bad_pair_is_refused_and_the_old_stays(pair, target, how):
    """The twin, without a signal; broken_files.py has all the other ways of handing in something wrong."""
    before = serial(pair, "server")
    told = len(pair["server"].events("reload_refused"))
    cert_path, key_path = pair.folder / "server.pem", pair.folder / "server.key"
    good = cert_path.read_bytes(), key_path.read_bytes()
    if how == "mismatch":
        other = pair.ca.issue(SERVER_ID)
        cert_path.write_bytes(other.pem)
    else:
        pair.ca.issue(SERVER_ID, begins_s=-7200, valid_s=-3600).write(pair.folder, "server")
    wait_for("it is told", lambda: len(pair["server"].events("reload_refused")) > told)
    assert serial(pair, "server") == before
    echo(pair).close()
    key_path.write_bytes(good[1])
    cert_path.write_bytes(good[0])
    fresh = pair.renew("server")
    wait_for("and recovers", lambda: serial(pair, "server") == fresh.serial)


def test_a_bad_configuration_is_refused_whole_with_the_field(pair, target):
    config = pair.config("client")
    config["outbound"][0]["profile"] = "nosuch"
    config["outbound"][0]["listen"] = "127.0.0.1:1999999"
    before = pair["client"].config()["generation"]
    pair.write("client", config)
    entry = wait_for("it is told", lambda: [e for e in pair["client"].events("reload_refused")
                                            if "outbound[0].profile" in str(e)])[-1]
    assert "outbound[0].listen" in str(pair["client"].events("reload_refused")[-2:]), entry
    assert pair["client"].config()["generation"] == before
    echo(pair).close()
    pair.write("client")


def is_cut(sock):
    """Whether the connection was ended by somebody."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def reload_with(pair, revocations):
    known = pair["server"].config()["generation"]
    pair.write("server", {**pair.config("server"), "revocations": revocations})
    wait_for("it is in force", lambda: pair["server"].config()["generation"] > known)


def test_a_revocation_ends_what_lives_and_one_that_is_lifted_does_not(pair, target):
    spared, other = echo(pair), "spiffe://static.test/ns/test/sa/other"
    reload_with(pair, [{"spiffe_id": CLIENT_ID, "grace_ms": 60000}, {"spiffe_id": other}])
    with socket.create_connection(("127.0.0.1", pair.app_port), 10) as new:
        new.settimeout(10)
        assert is_cut(new)
    assert pair.new_line("server", reason="revoked")["error"] == "peer_revoked"
    echo(pair, spared)  # in its grace time
    reload_with(pair, [{"spiffe_id": other}])  # and that is taken back
    cut, port = echo(pair), spared.getsockname()[1]
    reload_with(pair, [{"spiffe_id": CLIENT_ID}])
    assert is_cut(cut) and is_cut(spared)
    assert pair.line("client", port)["reason"] in ("revoked", "peer_reset")
    reload_with(pair, [])
    echo(pair).close()


def test_a_ca_that_leaves_the_truststore_takes_its_connections_with_it(pair, target):
    """That of the client's certificate goes; the server's own stays. Nobody else's connection is touched."""
    second, mine = Ca("second"), pair.ca.root_pem()
    kept = echo(pair)
    pair.roots.write_bytes(mine + second.root_pem())
    wait_for("both CAs are trusted", lambda: all(
        len(pair[side].config()["truststores"][0]["subjects"]) == 2 for side in ("server", "client")))
    fresh = pair.renew("client", second.issue(CLIENT_ID))
    wait_for("its certificate is of the second", lambda: serial(pair, "client") == fresh.serial)
    lost, known = echo(pair), len(pair.lines("server"))
    pair.roots.write_bytes(mine)
    assert is_cut(lost)
    assert pair.new_line("server", known, reason="trust")["error"] == "trust_changed"
    echo(pair, kept).close()
    fresh = pair.renew("client")
    wait_for("a certificate of the first again", lambda: serial(pair, "client") == fresh.serial)
    echo(pair).close()


def test_symlink_swaps_are_seen_each_time(folder, binaries):
    """Kubernetes replaces mounted secrets by swapping a symlink to a folder; the second swap was missed by others."""
    inside = folder / "symlink"
    inside.mkdir()
    pair = StaticPair(inside, binaries)
    for number in range(2):
        (inside / f"data{number}").mkdir()
    pair.renew("server").write(inside / "data0", "server")
    os.symlink("data0", inside / "..data")
    config = pair.config("server")
    config["identity"] = {"cert_file": "..data/server.pem", "key_file": "..data/server.key"}
    pair.write("server", config)
    pair.start("server")
    try:
        for number in range(1, 6):
            fresh = pair.ca.issue(SERVER_ID)
            data = inside / f"data{number + 1}"
            data.mkdir()
            fresh.write(data, "server")
            os.symlink(data.name, inside / "..data_tmp")
            os.rename(inside / "..data_tmp", inside / "..data")
            wait_for(f"swap {number}", lambda f=fresh: serial(pair, "server") == f.serial)
    finally:
        pair.stop()


def test_roots_can_change_live(pair, target):
    """A second root is added, then the first one's certificates go: connections all the while."""
    second = Ca("second")
    roots = pair.folder / "roots.pem"
    roots.write_bytes(pair.ca.root_pem() + second.root_pem())
    for side in ("client", "server"):
        wait_for(f"{side} trusts both", lambda side=side: second.cert.subject.rfc4514_string() in
                 str(pair[side].config()["truststores"]))
    for side, spiffe_id in (("client", CLIENT_ID), ("server", SERVER_ID)):
        fresh = pair.renew(side, second.issue(spiffe_id))
        wait_for(f"{side} renewed", lambda side=side, f=fresh: serial(pair, side) == f.serial)
        echo(pair).close()


def test_neither_config_page_nor_log_holds_the_key(pair):
    """R25: the private key's base64 is nowhere to be found."""
    for side in ("client", "server"):
        key = (pair.folder / f"{side}.key").read_text().splitlines()[1]
        seen = pair[side].get("/config") + pair[side].log.read_text() + pair[side].get("/metrics")
        assert key not in seen and "PRIVATE KEY" not in seen
