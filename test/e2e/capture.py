"""Without this an application would have to know of its sidecar: here it connects to where the other application is, as it always
did, over IPv4 and IPv6, and the connection arrives by mutual TLS; what is no link's goes nowhere; and when the kernel no longer
hands connections over, the sidecar says so. The sidecar runs as a user of its own, without any right.

Drives: R18, R19, F10, F11, D3"""
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from deploy.lab import netns
from deploy.lab.mesh import Mesh
from deploy.lab.programs import Program, admin, own_environment, wait_for
from test.e2e.redirect import APP, SIDECAR, Server, connect, in_force
from test.testlib.static import StaticPair

CAPTURE = 15001
RULES_NOTICED_S = 10
AS_SIDECAR = ("setpriv", "--reuid", str(SIDECAR), "--regid", str(SIDECAR), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
              "--no-new-privs")


class CapturedPair(StaticPair):
    """Each side on a host of its own; the server's application listens on every address, as most do."""

    def __init__(self, folder, hosts, binaries):
        self.hosts = hosts
        self.destinations = [f"{hosts['server'].v4}:8080", f"[{hosts['server'].v6}]:8080"]
        super().__init__(folder, binaries, client_settings={"capture_port": CAPTURE})
        shutil.chown(self.folder, SIDECAR, SIDECAR)

    def config(self, side):
        made = super().config(side)
        if side == "client":
            outbound = made["outbound"][0]
            del outbound["listen"]
            outbound.update(destinations=self.destinations, endpoints=[f"{self.hosts['server'].v4}:15443"])
        else:
            made["inbound"]["listen"] = "0.0.0.0:15443"
            made["inbound"]["links"][0]["target"] = "127.0.0.1:8080"
        return made

    def write(self, side, config=None):
        super().write(side, config)
        for path in self.folder.iterdir():
            if path.is_file():
                shutil.chown(path, SIDECAR, SIDECAR)

    def start(self, *sides, ready=True):
        for side in sides or ("server", "client"):
            program = Program(f"proxy-{side}", [*AS_SIDECAR, self.bin.proxy, "--config", self.path(side)], self.folder,
                              host=self.hosts[side])
            self.programs[side] = program
            if ready:
                program.wait_ready()
        return self


@pytest.fixture(scope="module")
def hosts():
    with netns.Network(f"mtc{os.getpid()}-", ("client", "server", "stranger")) as made:
        yield made


@pytest.fixture(scope="module")
def redirect(hosts, binaries):
    def run(side, *args):
        return hosts[side].run(binaries.redirect, *args, capture_output=True, text=True, timeout=60, env=own_environment())

    return run


@pytest.fixture(scope="module")
def pair(folder, hosts, redirect, binaries):
    folder.chmod(0o755)
    made = CapturedPair(folder, hosts, binaries)
    for side in ("client", "server"):
        in_force(lambda *args, side=side: redirect(side, *args))
    with Server(hosts["server"], "app,0.0.0.0,8080", "app,::,8080"):
        yield made.start()
        made.stop()


@pytest.mark.sanitize
@pytest.mark.parametrize("which", ("v4", "v6"))
def test_an_application_that_knows_nothing_of_it(pair, hosts, which):
    known = {side: len(pair.lines(side)) for side in ("client", "server")}
    assert connect(hosts["client"], getattr(hosts["server"], which), 8080).startswith("app for ")
    client = pair.new_line("client", known["client"], link=pair.LINK, reason="done")
    server = pair.new_line("server", known["server"], link=pair.LINK, reason="done")
    assert client["tls_version"] == server["tls_version"] == "TLSv1.3"
    assert client["peer_id"] == server["local_id"] and server["peer_id"] == client["local_id"]


@pytest.mark.parametrize("which", ("v4", "v6"))
def test_who_is_not_in_the_mesh_does_not_reach_it(pair, hosts, which):
    assert connect(hosts["stranger"], getattr(hosts["server"], which), 8080) == "ECONNREFUSED"


def test_nor_does_plaintext_by_the_sidecars_port(pair, hosts):
    known = len(pair.lines("server"))
    code = ("import socket, sys\nwith socket.create_connection((sys.argv[1], 15443), 10) as s:\n"
            "    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n    s.shutdown(socket.SHUT_WR)\n"
            "    try:\n        print(s.recv(100)[:1].hex())\n    except OSError as error:\n        print(error)\n")
    hosts["stranger"].run(sys.executable, "-c", code, hosts["server"].v4, check=True, timeout=30, capture_output=True)
    assert pair.new_line("server", known, reason="not_tls")


@pytest.mark.sanitize
def test_what_is_no_links_destination_goes_nowhere(pair, hosts):
    known = len(pair.lines("client"))
    with Server(hosts["stranger"], f"outside,{hosts['stranger'].v4},8080"):
        assert connect(hosts["client"], hosts["stranger"].v4, 8080) in ("ECONNRESET", "")
    line = pair.new_line("client", known, reason="no_route")
    assert line["destination"] == f"{hosts['stranger'].v4}:8080" and line["error"] == "no_route"
    assert pair["client"].metrics()['mortise_connections_total{direction="outbound",link="",reason="no_route"}'] >= 1


@pytest.mark.sanitize
def test_nobody_connects_to_the_capture_port_itself(pair, hosts):
    """Else a connection to it would be sent to it again, without end."""
    for address in ("127.0.0.1", "::1"):
        known = len(pair.lines("client"))
        assert connect(hosts["client"], address, CAPTURE) in ("ECONNRESET", "")
        assert pair.new_line("client", known, reason="loop")
    assert connect(hosts["client"], hosts["client"].v4, CAPTURE) == "ECONNREFUSED"


def test_a_changed_file_changes_the_destinations(pair, hosts):
    """From one connection to the next; a bad one is refused, and the old stays."""
    def generation():
        return pair["client"].config()["generation"]

    before, was = pair.destinations, generation()
    pair.destinations = [f"{hosts['server'].v4}:8081"]
    pair.write("client")
    wait_for("it is in force", lambda: generation() > was)
    assert connect(hosts["client"], hosts["server"].v4, 8081).startswith("app for "), "whose target is what it was"
    assert connect(hosts["client"], hosts["server"].v4, 8080) in ("ECONNRESET", "")
    pair.destinations = ["10.0.0.7/8:8080"]
    pair.write("client")
    wait_for("it is refused", lambda: "outbound[0].destinations[0]" in pair["client"].tail(200))
    assert connect(hosts["client"], hosts["server"].v4, 8081).startswith("app for ")
    pair.destinations, was = before, generation()
    pair.write("client")
    wait_for("it is as it was", lambda: generation() > was)


def not_ready(program):
    return program.config()["ready"] is False


@pytest.mark.sanitize
def test_rules_that_go_are_noticed(pair, hosts, redirect):
    client = pair["client"]
    assert client.metrics()["mortise_capture_broken"] == 0
    began = time.monotonic()
    hosts["client"].run("nft", "flush", "ruleset", check=True)
    wait_for("it is not ready", lambda: not_ready(client), RULES_NOTICED_S)
    assert time.monotonic() - began <= RULES_NOTICED_S
    wait_for("it is counted", lambda: client.metrics()["mortise_capture_broken"] == 1)
    assert any(event["event"] == "lost" and event["component"] == "capture" for event in client.events())
    in_force(lambda *args: redirect("client", *args))
    wait_for("it is ready again", client.ready, RULES_NOTICED_S)
    wait_for("it is counted", lambda: client.metrics()["mortise_capture_broken"] == 0)


@pytest.mark.parametrize("chain, rule, where", (
    ("outbound", "goto captured", "IPv4 or IPv6"),
    ("captured", "redirect to", "IPv4 or IPv6"),
    ("outbound", "ip6 daddr != ::1", "IPv6"),
))
def test_any_rule_that_carries_the_application_is_missed(pair, hosts, redirect, chain, rule, where):
    """The trial goes by the very rules of all others."""
    client = pair["client"]
    known = len(client.events())
    rules = hosts["client"].run("nft", "-a", "list", "chain", "inet", "mortise", chain, check=True, capture_output=True,
                                text=True).stdout
    handle = next(line.rsplit(" ", 1)[1] for line in rules.splitlines() if rule in line)
    if rule.startswith("ip6"):  # a rule too many instead
        hosts["client"].run("nft", "insert rule inet mortise outbound ip6 daddr ::1 return", check=True)
    else:
        hosts["client"].run("nft", "delete", "rule", "inet", "mortise", chain, "handle", handle, check=True)
    wait_for("it is not ready", lambda: not_ready(client), RULES_NOTICED_S)
    assert any(event["event"] == "lost" and event.get("where") == where for event in client.events()[known:])
    in_force(lambda *args: redirect("client", *args))
    wait_for("it is ready again", client.ready, RULES_NOTICED_S)


def test_a_sidecar_without_rules_is_not_ready(folder, hosts, binaries, pair):
    """And says why; it carries nothing that was not captured."""
    config = pair.config("client")
    config["outbound"] = []
    path = folder / "lone.yaml"
    pair.write("client")
    path.write_text(json.dumps(config))
    program = Program("proxy-lone", [*AS_SIDECAR, binaries.proxy, "--config", path], folder, host=hosts["stranger"])
    try:
        wait_for("it has tried", lambda: any(event["event"] == "lost" for event in program.events()))
        status, text = admin(program.admin_socket, "/readyz")
        assert status == 503 and "the kernel hands over no connection by IPv4 or IPv6: run mortise-redirect" in text
        assert program.config()["capture"] == "broken"
    finally:
        program.stop()


def test_a_host_without_ipv6_is_ready(folder, hosts, binaries, redirect, pair):
    hosts["stranger"].run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", check=True)
    in_force(lambda *args: redirect("stranger", *args))
    config = {**pair.config("client"), "outbound": []}
    path = folder / "v4.yaml"
    path.write_text(json.dumps(config))
    program = Program("proxy-v4", [*AS_SIDECAR, binaries.proxy, "--config", path], folder, host=hosts["stranger"])
    try:
        program.wait_ready()
    finally:
        program.stop()
        assert redirect("stranger", "--remove").returncode == 0
        hosts["stranger"].run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6", check=True)


def test_its_own_connections_do_not_go_in_a_circle(pair, hosts, redirect):
    """The sidecar is not whom the rules leave alone, and a destination has its peers' sidecars in it."""
    client, was = pair["client"], pair["client"].config()["generation"]
    before = pair.destinations
    pair.destinations = ["10.77.0.0/24:15443", f"{hosts['server'].v4}:8080"]
    pair.write("client")
    wait_for("it is in force", lambda: client.config()["generation"] > was)
    known, fds = len(pair.lines("client")), client.fds()
    try:
        assert redirect("client", "--uid", "1338").returncode == 0
        assert connect(hosts["client"], hosts["server"].v4, 8080) in ("ECONNRESET", "")
        assert pair.new_line("client", known, reason="loop")
        assert len(pair.lines("client")) - known <= 4 and client.fds() <= fds + 4
    finally:
        in_force(lambda *args: redirect("client", *args))
        pair.destinations, was = before, client.config()["generation"]
        pair.write("client")
        wait_for("it is as it was", lambda: client.config()["generation"] > was)


@pytest.mark.parametrize("change, words", (
    ({"destinations": ["10.0.0.7"]}, "outbound[0].destinations[0]: \"10.0.0.7\" is no destination"),
    ({"destinations": ["127.0.0.1:80"]}, "outbound[0].destinations[0]: \"127.0.0.1:80\" is loopback or"),
    ({"destinations": ["[fe80::/10]:80"]}, "outbound[0].destinations[0]: \"[fe80::/10]:80\" is loopback or link-local"),
    ({"destinations": ["10.0.0.7:80", "10.0.0.7/32:80"]}, "outbound[0].destinations: 10.0.0.7/32 port 80 is a destination of"),
    ({"destinations": []}, "outbound[0].listen: is missing"),
))
def test_what_is_wrong_is_named(folder, pair, binaries, change, words):
    config = pair.config("client")
    config["outbound"][0].update(change)
    path = folder / "wrong.yaml"
    path.write_text(json.dumps(config))
    done = subprocess.run([binaries.proxy, "--config", path, "--check"], capture_output=True, text=True, env=own_environment(),
                          timeout=30, check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_without_capture_a_link_needs_a_port(folder, pair, binaries):
    config = pair.config("client")
    config["settings"]["capture_port"] = 0
    path = folder / "uncaptured.yaml"
    path.write_text(json.dumps(config))
    done = subprocess.run([binaries.proxy, "--config", path, "--check"], capture_output=True, text=True, env=own_environment(),
                          timeout=30, check=False)
    assert done.returncode == 2 and "without --capture-port nothing is captured for this link" in done.stderr


def test_plaintext_goes_on_at_the_applications_own_port_until_that_ends(pair, hosts, redirect):
    """Permissive, with clients that change nothing: mTLS and plaintext, then mTLS alone."""
    def with_permissive(until_s):
        made = pair.config("server")
        if until_s:
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + until_s))
            made["inbound"]["links"][0]["permissive"] = {"port": 15080, "until": until}
        was = pair["server"].config()["generation"]
        pair.write("server", made)
        wait_for("it is in force", lambda: pair["server"].config()["generation"] > was)

    server, stranger, client = hosts["server"], hosts["stranger"], hosts["client"]
    in_force(lambda *args: redirect("server", *args), "--take-port", "8080:15080")
    try:
        assert connect(stranger, server.v4, 8080) == "ECONNREFUSED", "nobody listens there yet"
        with_permissive(3600)
        assert connect(stranger, server.v4, 8080).startswith("app for ")
        assert connect(client, server.v4, 8080).startswith("app for ")
        assert connect(stranger, server.v4, 15080) == "ECONNREFUSED", "by no other port than the application's"
        assert pair["server"].metrics()['mortise_plaintext_connections_total{link="link"}'] >= 1
        with_permissive(0)
        assert connect(stranger, server.v4, 8080) == "ECONNREFUSED"
        assert connect(client, server.v4, 8080).startswith("app for ")
    finally:
        in_force(lambda *args: redirect("server", *args))


@pytest.mark.sanitize
def test_a_link_of_the_mesh_names_its_destinations(folder, binaries, network):
    """Pushed by a control plane, without a port of its own. A sidecar that captures nothing takes the rest all the same: else one
    such link would keep every later change, and every revocation, from it."""
    mesh = Mesh(folder / "mesh", network, binaries)
    server, portal = network["management"], network["portal"]
    try:
        mesh.start_control()
        document = {"subsystems": [{"name": "portal"}, {"name": "management"}],
                    "links": [{"name": "portal-management", "client": "portal", "server": "management", "server_port": 8080,
                               "destinations": [f"{server.v4}:8080", f"[{server.v6}]:8080"]}]}
        mesh.apply(document)
        mesh.start_sidecar("management")
        lone = mesh.start_sidecar("portal", name="proxy-uncaptured")
        mesh.wait_in_sync(2)
        assert not lone.config()["rejected"]
        assert any(event["event"] == "not_captured" for event in lone.events())
        mesh.ctl("revoke", "subsystem", "management", "--reason", "trial", "--wait")
        mesh.ctl("lift", mesh.ctl_json("get", "revocations")["revocations"][-1]["id"])
        lone.stop()
        del mesh.sidecars["proxy-uncaptured"]
        run = [binaries.redirect, "--uid", "0"]
        portal.run(*run, check=True, env=own_environment(), capture_output=True)
        mesh.start_sidecar("portal", "--capture-port", str(CAPTURE))
        mesh.wait_in_sync()
        with Server(server, "app,127.0.0.1,8080"):
            for address in (server.v4, server.v6):
                assert connect(portal, address, 8080, uid=APP).startswith("app for ")
        assert f"{server.v4}:8080, [{server.v6}]:8080 (captured)" in mesh.ctl("get", "links").stdout
        refused = mesh.apply({**document, "links": [*document["links"], {**document["links"][0], "name": "again"}]}, check=False)
        assert "is a destination of link \"portal-management\"" in refused.stderr
        refused = mesh.apply({**document, "links": [{**document["links"][0], "destinations": ["127.0.0.1:8080"]}]}, check=False)
        assert "links[0].destinations[0]" in refused.stderr and "loopback or link-local" in refused.stderr
    finally:
        portal.run(binaries.redirect, "--remove", env=own_environment(), capture_output=True)
        mesh.stop()
