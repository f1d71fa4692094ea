"""Without this the rules of mortise-redirect would be a text: here the kernel holds them. What an application sends goes to the
capture port, over IPv4 and IPv6; from other hosts nothing reaches it but what is said to be open; and whoever changes the rules
is found out.

Drives: R19, F10"""
import os
import pwd
import subprocess
import sys

import pytest

from deploy.lab import netns
from deploy.lab.programs import own_environment

SIDECAR = 1337
APP = 2000

# One connection, as a user; prints what it gets, or the error's name.
CLIENT = """
import errno, os, socket, sys
uid, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
try:
    with socket.create_connection((address, port), timeout=10) as conn:
        print(conn.recv(100).decode())
except OSError as error:
    print(errno.errorcode.get(error.errno, type(error).__name__))
"""

# Listens, tells each who comes where he meant to go, and ends with its standard input.
SERVER = """
import socket, struct, sys, threading
def name(conn, family):
    level = socket.SOL_IP if family == socket.AF_INET else 41
    try:
        raw = conn.getsockopt(level, 80, 28)
    except OSError:
        return "nowhere else"
    port = struct.unpack("!H", raw[2:4])[0]
    at = raw[4:8] if family == socket.AF_INET else raw[8:24]
    return f"{socket.inet_ntop(family, at)} {port}"
def serve(listener, word):
    while True:
        conn, _ = listener.accept()
        with conn:
            conn.sendall(f"{word} for {name(conn, listener.family)}".encode())
for spec in sys.argv[1:]:
    word, address, port = spec.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, int(port)))
    listener.listen()
    threading.Thread(target=serve, args=(listener, word), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


class Server:
    def __init__(self, host, *specs):
        self.process = subprocess.Popen(host.command(sys.executable, "-c", SERVER, *specs), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def connect(host, address, port, uid=APP):
    done = host.run(sys.executable, "-c", CLIENT, str(uid), address, str(port), capture_output=True, text=True, timeout=30,
                    check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def hosts():
    with netns.Network(f"mtr{os.getpid()}-", ("app", "other")) as made:
        yield made


@pytest.fixture
def redirect(hosts, binaries):
    """The program on the application's host; its rules are gone afterwards."""
    host = hosts["app"]

    def run(*args, prefix=()):
        return host.run(*prefix, binaries.redirect, *args, capture_output=True, text=True, timeout=60, env=own_environment())

    yield run
    assert run("--remove").returncode == 0


def in_force(redirect, *args):
    uid = args[args.index("--uid") + 1] if "--uid" in args else SIDECAR
    inbound = args[args.index("--inbound") + 1] if "--inbound" in args else "strict"
    done = redirect(*args)
    assert done.returncode == 0 and done.stdout == f"table inet mortise is in force (uid {uid}; inbound {inbound})\n", done.stderr


@pytest.mark.parametrize("which", ("v4", "v6"))
def test_what_leaves_is_captured_and_its_destination_known(hosts, redirect, which):
    other = getattr(hosts["other"], which)
    loopback = {"v4": "127.0.0.1", "v6": "::1"}[which]
    with Server(hosts["app"], f"captured,{loopback},15001"), Server(hosts["other"], f"direct,{other},8080"):
        assert connect(hosts["app"], other, 8080) == "direct for nowhere else"
        in_force(redirect)
        assert connect(hosts["app"], other, 8080) == f"captured for {other} 8080"
        assert connect(hosts["app"], other, 8080, uid=SIDECAR) == "direct for nowhere else"
        assert redirect("--remove").returncode == 0
        assert connect(hosts["app"], other, 8080) == "direct for nowhere else"


@pytest.mark.parametrize("which", ("v4", "v6"))
def test_without_a_sidecar_nothing_leaves(hosts, redirect, which):
    other = getattr(hosts["other"], which)
    with Server(hosts["other"], f"direct,{other},8080"):
        in_force(redirect)
        assert connect(hosts["app"], other, 8080) == "ECONNREFUSED"
        assert connect(hosts["app"], other, 8080, uid=SIDECAR) == "direct for nowhere else"


def test_what_is_excluded_is_left_alone(hosts, redirect):
    other = hosts["other"]
    with Server(other, f"direct,{other.v4},8080", f"direct,{other.v4},8081", f"direct,{other.v6},8080"):
        in_force(redirect, "--exclude-port", "8080")
        assert connect(hosts["app"], other.v4, 8080) == "direct for nowhere else"
        assert connect(hosts["app"], other.v4, 8081) == "ECONNREFUSED"
        in_force(redirect, "--exclude-cidr", "10.77.0.0/24")
        assert connect(hosts["app"], other.v4, 8081) == "direct for nowhere else"
        assert connect(hosts["app"], other.v6, 8080) == "ECONNREFUSED"
        in_force(redirect, "--capture-cidr", "192.168.0.0/16", "--capture-cidr", "fd77::/64")
        assert connect(hosts["app"], other.v4, 8081) == "direct for nowhere else"
        assert connect(hosts["app"], other.v6, 8080) == "ECONNREFUSED"


@pytest.mark.parametrize("which", ("v4", "v6"))
def test_from_elsewhere_only_what_is_open_arrives(hosts, redirect, which):
    app, other = hosts["app"], hosts["other"]
    at = getattr(app, which)
    everywhere = {"v4": "0.0.0.0", "v6": "::"}[which]
    with Server(app, f"app,{everywhere},8080", f"sidecar,{everywhere},15443", f"health,{everywhere},9100"):
        assert connect(other, at, 8080) == "app for nowhere else"
        in_force(redirect, "--open-port", "9100")
        assert connect(other, at, 8080) == "ECONNREFUSED"
        assert connect(other, at, 15443).startswith("sidecar for ")
        assert connect(other, at, 9100).startswith("health for ")
        assert connect(app, at, 8080).startswith("app for "), "its own host reaches it"
        in_force(redirect, "--inbound", "open")
        assert connect(other, at, 8080).startswith("app for ")


def datagram(host, to, port):
    """What a UDP datagram comes to: an answer, or an error's name."""
    code = ("import errno, socket, sys\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)\n"
            "s.connect((sys.argv[1], int(sys.argv[2])))\n"
            "try:\n    s.send(b'x'); print(s.recv(10).decode())\n"
            "except OSError as e: print(errno.errorcode.get(e.errno, type(e).__name__))\n")
    return host.run(sys.executable, "-c", code, to, str(port), capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def ping(host, to):
    """An echo request of its own making, whose sum is right."""
    code = ("import socket, sys\n"
            "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); s.settimeout(5)\n"
            "s.sendto(bytes((8, 0, 0xf7, 0xff, 0, 0, 0, 0)), (sys.argv[1], 0))\n"
            "while s.recv(100)[20] != 0:\n    pass\n"
            "print('answer')\n")
    return host.run(sys.executable, "-c", code, to, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def test_what_is_not_tcp_passes_as_it_is_told(hosts, redirect):
    code = ("import socket, sys, select\nsockets = []\n"
            "for port in (53, 5000):\n"
            "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', port)); sockets.append(s)\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    for s in select.select(sockets, [], [])[0]:\n"
            "        _, who = s.recvfrom(10); s.sendto(b'answer', who)\n")
    other = hosts["other"]
    server = subprocess.Popen(other.command(sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        in_force(redirect)
        assert datagram(hosts["app"], other.v4, 5000) == "answer"
        in_force(redirect, "--not-tcp", "dns")
        assert datagram(hosts["app"], other.v4, 53) == "answer"
        assert datagram(hosts["app"], other.v4, 5000) in ("EHOSTUNREACH", "EACCES", "EPERM")
        in_force(redirect, "--not-tcp", "deny")
        assert datagram(hosts["app"], other.v4, 53) in ("EHOSTUNREACH", "EACCES", "EPERM")
        assert ping(hosts["app"], other.v4) == "answer"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_check_tells_what_is_wrong(hosts, redirect):
    def checked(*args):
        done = redirect("--check", *args)
        return done.returncode, done.stdout + done.stderr

    assert checked() == (1, "mortise-redirect: there is no table inet mortise\n")
    in_force(redirect, "--exclude-port", "22")
    assert checked("--exclude-port", "22") == (0, "table inet mortise is in force (uid 1337; inbound strict)\n")
    code, text = checked()
    assert code == 1 and "is of other settings than these" in text
    hosts["app"].run("nft", "flush", "chain", "inet", "mortise", "captured", check=True)
    code, text = checked("--exclude-port", "22")
    assert code == 1 and "was changed since it was made" in text
    in_force(redirect, "--exclude-port", "22")
    hosts["app"].run("nft", "insert rule inet mortise outbound tcp dport 80 return", check=True)
    code, text = checked("--exclude-port", "22")
    assert code == 1 and "was changed since it was made" in text


def test_a_change_keeps_what_others_have_made_and_is_whole_or_nothing(hosts, redirect):
    app = hosts["app"]
    app.run("nft", "table ip mine { chain c { }; }", check=True)
    try:
        in_force(redirect)
        before = app.run("nft", "list", "ruleset", check=True, capture_output=True, text=True).stdout
        done = redirect("--uid", "1338", "--nft", "/bin/false")
        assert done.returncode == 1 and "/bin/false" in done.stderr
        assert app.run("nft", "list", "ruleset", check=True, capture_output=True, text=True).stdout == before
        assert "table ip mine" in before
        in_force(redirect)
        assert app.run("nft", "list", "ruleset", check=True, capture_output=True, text=True).stdout == before, "twice is once"
    finally:
        app.run("nft", "delete", "table", "ip", "mine", check=True)


def test_what_is_meant_for_the_sidecar_does_not_undo_it(hosts, binaries, redirect):
    """The variables of the pod are there for both."""
    environment = {**own_environment(), "MORTISE_REMOVE": "true", "MORTISE_DRY_RUN": "true", "MORTISE_NFT": "/bin/true",
                   "MORTISE_INBOUND": "open", "MORTISE_UID": str(APP), "MORTISE_EXCLUDE_PORT": "8080"}
    done = hosts["app"].run(binaries.redirect, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0 and "(uid 1337; inbound strict)" in done.stdout, done
    assert redirect("--check").returncode == 0


def test_a_program_that_only_says_so_is_not_believed(redirect):
    done = redirect("--nft", "/bin/true")
    assert done.returncode == 1 and "is in force" not in done.stdout


def test_two_at_once_leave_one_whole_table(hosts, binaries, redirect):
    both = [subprocess.Popen(hosts["app"].command(str(binaries.redirect), "--exclude-port", "22"), env=own_environment(),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(6)]
    said = [one.communicate(timeout=60)[0] for one in both]
    assert [one.returncode for one in both] == [0] * len(both), said
    assert redirect("--check", "--exclude-port", "22").returncode == 0


def test_another_table_that_comes_later_does_not_win(hosts, redirect):
    """kube-proxy's and Docker's are at the usual priority."""
    app, other = hosts["app"], hosts["other"]
    in_force(redirect)
    app.run("nft", "table ip theirs { chain c { type nat hook output priority -100; ip daddr 10.77.0.99 dnat to 10.77.0.11; }; }",
            check=True)
    try:
        app.run("ip", "route", "add", "10.77.0.99/32", "dev", "eth0", check=True)
        with Server(app, "captured,127.0.0.1,15001"), Server(other, f"direct,{other.v4},8080"):
            assert connect(app, "10.77.0.99", 8080) == "captured for 10.77.0.99 8080"
    finally:
        app.run("nft", "delete", "table", "ip", "theirs", check=True)


def test_it_says_which_right_it_lacks(hosts, redirect):
    nobody = pwd.getpwnam("nobody").pw_uid
    done = redirect(prefix=("setpriv", "--reuid", str(nobody), "--clear-groups"))
    assert done.returncode == 1 and "CAP_NET_ADMIN" in done.stderr
    done = redirect("--nft", "/nowhere/nft")
    assert done.returncode == 1 and "--nft: /nowhere/nft cannot be run: No such file or directory" in done.stderr


def test_a_dry_run_changes_nothing_and_is_what_nft_takes(hosts, redirect):
    app = hosts["app"]
    shown = redirect("--dry-run", "--not-tcp", "dns", "--exclude-cidr", "10.0.0.0/8", "--capture-cidr", "fd00::/8")
    assert shown.returncode == 0
    assert "mortise" not in app.run("nft", "list", "tables", check=True, capture_output=True, text=True).stdout
    app.run("nft", "-c", "-f", "/dev/stdin", input=shown.stdout, text=True, check=True)
