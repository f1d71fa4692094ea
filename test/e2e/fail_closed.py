"""Without this a sidecar that has no certificate, or one that has expired, might let plaintext through or look
ready: it must refuse, say why, and recover by itself.

Drives: R9, R11, F2, R44, F18"""
import socket
import time

import pytest

from deploy.lab.mesh import Mesh, document
from deploy.lab.programs import LabError, Program, admin, wait_for
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port


def listening(host, port):
    done = host.run("python3", "-c", (
        "import socket,sys\n"
        "try: socket.create_connection(('127.0.0.1',%d),2).close()\n"
        "except ConnectionResetError: pass\n"  # accepted, and ended: no endpoint is known yet
        "except OSError: sys.exit(1)") % port)
    return done.returncode == 0


def test_nothing_listens_before_identity_and_policy_exist(folder, network, binaries):
    """The control plane is not there: no port is open, /readyz says why; when it comes, all is well."""
    mesh = Mesh(folder / "late", network, binaries)
    mesh.start_control()
    mesh.apply(document())
    tokens = {name: mesh.token(name) for name in ("management", "portal")}
    mesh.control.stop()
    try:
        for name, token in tokens.items():
            mesh.start_sidecar(name, token=token, ready=False)
        management = mesh.sidecar("management")
        status, why = wait_for("admin page", lambda: admin(management.admin_socket, "/readyz"))
        assert status == 503 and "certificate" in why
        for port in (15101, 15102, 15103, 15443):
            assert not listening(network["management"], port)
        mesh.start_control()
        for name in tokens:
            mesh.sidecar(name).wait_ready()
        assert listening(network["management"], 15101)
    finally:
        mesh.stop()


def test_a_stranger_in_the_control_planes_place_gets_no_token(folder, network, binaries):
    """Right CA, wrong identity: the sidecar must not send its token (it pins the identity)."""
    from test.testlib.pki import Ca

    ca = Ca()
    place = folder / "impostor"
    place.mkdir()
    ca.issue("spiffe://mesh.test/ns/apim/sa/portal").write(place, "impostor")
    (place / "roots.pem").write_bytes(ca.root_pem())
    port = free_port()
    server = socket.create_server(("127.0.0.1", port))
    import ssl
    import threading

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "impostor.pem", place / "impostor.key")
    context.set_alpn_protocols(["h2"])
    heard = []

    def serve():
        while True:
            try:
                raw, _ = server.accept()
                with context.wrap_socket(raw, server_side=True) as sock:
                    sock.settimeout(3)
                    heard.append(sock.recv(65536))
            except (OSError, ssl.SSLError) as err:
                heard.append(err)
                if server.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    program = Program("impostor-victim", [
        binaries.proxy, "--control", f"127.0.0.1:{port}", "--trust-domain", "mesh.test",
        "--trust-bundle", place / "roots.pem", "--inbound-listen", f"127.0.0.1:{free_port()}"],
        place, env={"MORTISE_JOIN_TOKEN": "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
    try:
        wait_for("it tried", lambda: len(heard) >= 2)
        assert not any(isinstance(h, bytes) and b"mjt1" in h for h in heard), heard
        assert admin(program.admin_socket, "/readyz")[0] == 503
        assert "peer_identity" in program.log.read_text()
    finally:
        program.stop()
        server.close()


def test_an_expired_certificate_refuses_and_a_new_one_recovers(folder, binaries):
    place = folder / "expiry"
    place.mkdir()
    pair = StaticPair(place, binaries)
    pair.renew("server", pair.ca.issue(SERVER_ID, valid_s=6))
    pair.start()
    target = socket.create_server(("127.0.0.1", pair.target_port))
    try:
        with socket.create_connection(("127.0.0.1", pair.app_port), 5) as sock:
            far, _ = target.accept()
            sock.sendall(b"x")
            assert far.recv(1) == b"x"
            far.close()
        wait_for("unready at expiry", lambda: admin(pair["server"].admin_socket, "/readyz")[0] == 503)
        assert "expired" in admin(pair["server"].admin_socket, "/readyz")[1]
        target.settimeout(0.5)
        with pytest.raises(OSError):
            with socket.create_connection(("127.0.0.1", pair.app_port), 5) as sock:
                sock.settimeout(5)
                sock.sendall(b"x")
                if not sock.recv(1):
                    raise ConnectionResetError("closed")
        with pytest.raises(TimeoutError):
            target.accept()
        target.settimeout(5)
        fresh = pair.renew("server")
        wait_for("recovered", lambda: pair["server"].ready())
        assert pair["server"].config()["identity"]["serial"] == fresh.serial
        with socket.create_connection(("127.0.0.1", pair.app_port), 5) as sock:
            far, _ = target.accept()
            sock.sendall(b"y")
            assert far.recv(1) == b"y"
            far.close()
    finally:
        target.close()
        pair.stop()


def test_a_sidecar_with_an_expired_certificate_of_its_own_does_not_start_ready(folder, binaries):
    place = folder / "expired"
    place.mkdir()
    pair = StaticPair(place, binaries)
    pair.renew("client", pair.ca.issue(CLIENT_ID, begins_s=-7200, valid_s=-3600))
    pair.start("client", ready=False)
    with pytest.raises(LabError):
        pair["client"].wait_ready(3)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", pair.app_port), 2)
    pair["client"].stop()


def test_traffic_survives_an_outage_of_the_control_plane(mesh, network):
    """Killed hard while traffic runs; sidecars keep what they have, and come back in sync by themselves."""
    from deploy.lab.traffic import Traffic

    traffic = Traffic(mesh).serve().drive()
    try:
        mesh.control.kill()
        traffic.more(20)
        assert all(mesh.sidecar(name).ready() for name in ("management", "portal"))
        mesh.start_control()
        mesh.wait_in_sync(4)
        mesh.ctl("rotate", "--all", "--wait")
        traffic.more(10)
        traffic.finish()
        assert traffic.losses() == []
    finally:
        traffic.stop()


def test_kill_9_of_the_control_plane_at_any_moment_loses_no_acknowledged_change(mesh):
    """20 times: a change is acknowledged, then SIGKILL; after the restart it is there."""
    started = time.monotonic()
    for number in range(20):
        port = 15300 + number
        links = [*document()["links"], {
            "name": f"kill-{number}", "client": "portal", "server": "gateway", "client_port": port,
            "server_port": 8082, "client_profile": "mesh-client", "server_profile": "mesh-server"}]
        mesh.apply({**document(), "links": links})
        mesh.control.kill()
        mesh.start_control()
        names = {link["name"] for link in mesh.ctl_json("get", "links")["links"]}
        assert f"kill-{number}" in names
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)
    assert time.monotonic() - started < 120
