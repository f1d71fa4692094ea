"""Without this one host that shows no certificate could take all of the control plane's connections, and no
sidecar could renew: strangers have few places, and each source its share. And whoever gets himself into the control
plane's place, with whatever certificate, could collect join tokens: he hears nothing.

Drives: R14, R16, R44, F18"""
import socket
import ssl
import subprocess
import sys
import threading

import pytest

from deploy.lab.programs import Program, admin, wait_for
from test.testlib.pki import Ca
from test.testlib.static import free_port

CONTROL = "spiffe://mesh.test/mortise/control"
TOKEN = "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
# Who answers in the control plane's place, and what the sidecar says of him; the first is the one it looks for.
IMPOSTORS = {
    "control": (CONTROL, {}, None),
    "member": ("spiffe://mesh.test/ns/apim/sa/portal", {}, "peer_identity"),
    "admin": ("spiffe://mesh.test/mortise/admin/alice", {}, "peer_identity"),
    "longer": (CONTROL + "/x", {}, "peer_identity"),
    "other-domain": ("spiffe://other.test/mortise/control", {}, "trust_domain"),
    "other-ca": (CONTROL, {}, "chain_invalid"),  # of the same name: its signature is wrong
    "expired": (CONTROL, {"begins_s": -7200, "valid_s": -3600}, "cert_expired"),
    "not-yet": (CONTROL, {"begins_s": 7200, "valid_s": 9000}, "cert_not_yet_valid"),
}


class Impostor:
    """Shakes hands with whoever comes, and notes every byte that it is told."""

    def __init__(self, folder, ca, identity, how):
        ca.issue(identity, **how).write(folder, "impostor")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "impostor.pem", folder / "impostor.key")
        self.context.set_alpn_protocols(["h2"])
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.visits, self.heard = 0, b""
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                raw, _ = self.server.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(raw, server_side=True) as sock:
                    sock.settimeout(5)
                    sock.sendall(b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\1\4\0\0\0\0"[4:])  # SETTINGS, so that it goes on
                    while got := sock.recv(65536):
                        self.heard += got
            except OSError:
                pass
            self.visits += 1


@pytest.mark.parametrize("who", IMPOSTORS)
def test_an_impostor_hears_nothing(folder, binaries, who):
    """The token goes to the control plane of this mesh or to nobody."""
    identity, how, error = IMPOSTORS[who]
    place = folder / f"impostor-{who}"
    place.mkdir()
    ca = Ca()
    (place / "roots.pem").write_bytes(ca.root_pem())
    impostor = Impostor(place, Ca() if who == "other-ca" else ca, identity, how)
    program = Program(f"proxy-{who}", [
        binaries.proxy, "--control", f"127.0.0.1:{impostor.port}", "--trust-domain", "mesh.test",
        "--trust-bundle", place / "roots.pem", "--inbound-listen", f"127.0.0.1:{free_port()}"],
        place, env={"MORTISE_JOIN_TOKEN": TOKEN})
    try:
        if error is None:
            wait_for("the right one is told", lambda: TOKEN.encode() in impostor.heard)
            return
        wait_for("it came again and again", lambda: impostor.visits >= 2)
        assert impostor.heard == b""
        assert error in program.log.read_text()
        assert admin(program.admin_socket, "/readyz")[0] == 503
    finally:
        program.stop()
        impostor.server.close()


SCRIPT = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
held, refused = [], 0
for _ in range(60):
    try:
        sock = context.wrap_socket(socket.create_connection((sys.argv[1], 15010), 5))
        sock.settimeout(5)
        if sock.recv(1) == b"":  # a server that takes us sends its SETTINGS
            refused += 1
        else:
            held.append(sock)
    except OSError:
        refused += 1
print(len(held), refused, flush=True)
sys.stdin.read()
"""


def test_a_source_without_certificates_has_few_places_and_members_keep_theirs(mesh, network):
    target = network["control"].v4
    flood = subprocess.Popen(network["management"].command(sys.executable, "-c", SCRIPT, target),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        held, refused = map(int, flood.stdout.readline().split())
        assert 8 <= held <= 32 and held + refused == 60
        # Members, on the same host too, and newcomers from elsewhere are not disturbed.
        mesh.ctl("rotate", "--all", "--wait", "--timeout", "20s")
        mesh.start_sidecar("portal", "--inbound-listen", "0.0.0.0:15444", name="proxy-newcomer")
    finally:
        flood.stdin.close()
        flood.wait(10)
        mesh.sidecars.pop("proxy-newcomer").stop()
