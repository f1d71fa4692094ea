"""Without this one host that shows no certificate could take all of the control plane's connections, and no
sidecar could renew: strangers have few places, and each source its share.

Drives: R14, R16"""
import subprocess
import sys

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
