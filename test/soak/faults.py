"""What goes wrong during a soak: each fault is made and mended by one function, and says what it may cost.

A function takes (lab, rng, subsystem) and returns what it did in words; it leaves everything mended. Which
faults come in which order, whom they hit and how hard is drawn from one generator, so a seed tells them all."""
import signal
import threading

from deploy.lab.mesh import CONTROL_PORT, INBOUND_PORT, LINKS, SUBSYSTEMS, document
from deploy.lab.netns import ip
from deploy.lab.programs import LabError
from deploy.lab.refusals import Refusals

# Never killed: its memory and descriptors make one series from the first minute to the last. It is the client of
# one link and the server of another.
WITNESS = "gateway"
SERVERS = ("portal", "analytics", "gateway")

FAULTS = {}


class Broken(LabError):
    """The product did not do what was promised during this fault."""


def links_of(subsystem, client=True):
    return {name for name, from_, to, _, _ in LINKS
            if subsystem == to or (client and subsystem == from_)}


class Fault:
    """`costs` is the set of links that may lose exchanges, given the subsystem; `rotates` says whether
    rotations must still succeed meanwhile; `hits` whom it may be tried on."""

    def __init__(self, function, hits, costs, rotates):
        self.name = function.__name__
        self.function, self.hits, self.costs, self.rotates = function, hits, costs, rotates


def fault(hits=(None,), costs=lambda subsystem: set(), rotates=True):
    def register(function):
        FAULTS[function.__name__] = Fault(function, hits, costs, rotates)
        return function

    return register


class Deck:
    """Every fault once, then every fault once more in another order, …"""

    def __init__(self, rng, names=None):
        self.rng, self.names, self.left = rng, list(names or FAULTS), []

    def draw(self):
        if not self.left:
            self.left = self.rng.sample(self.names, len(self.names))
        fault = FAULTS[self.left.pop()]
        return fault, self.rng.choice(fault.hits)


def pause(seconds):
    """How long a fault lasts is part of the fault: it waits for nothing."""
    threading.Event().wait(seconds)


class Rules:
    """Packet filter rules on a host, until the end of the block."""

    def __init__(self, host, *rules):
        self.host, self.rules = host, rules

    def nft(self, text, check=True):
        self.host.run("nft", "-f", "-", input=text.encode(), check=check, capture_output=True)

    def __enter__(self):
        self.nft("add table inet soak\n"
                 "add chain inet soak in { type filter hook input priority 0; }\n"
                 "add chain inet soak out { type filter hook output priority 0; }\n" +
                 "".join(f"add rule inet soak {rule}\n" for rule in self.rules))

    def __exit__(self, *exc):
        self.nft("delete table inet soak\n", check=False)


# Programs that end, or stop.


@fault(hits=("management", "portal", "analytics"), costs=links_of, rotates=False)
def kill_sidecar(lab, rng, subsystem):
    """kill -9; what comes back needs a token of its own, as its key was in memory only."""
    away = rng.uniform(0, 3)
    sidecar = lab.mesh.sidecar(subsystem)
    with lab.replacing(sidecar):
        sidecar.kill()
        pause(away)
        lab.start_sidecar(subsystem)
    return f"{subsystem}, away for {away:.1f} s"


@fault(hits=("management", "portal", "analytics"), costs=links_of, rotates=False)
def restart_sidecar(lab, rng, subsystem):
    sidecar = lab.mesh.sidecar(subsystem)
    with lab.replacing(sidecar):
        sidecar.signal(signal.SIGTERM)
        status = sidecar.wait(60)
        lab.start_sidecar(subsystem)
    if status != 0:
        raise Broken(f"{subsystem}'s sidecar ended with {status} when asked to end")
    return subsystem


@fault(hits=SUBSYSTEMS, rotates=False)
def stop_sidecar(lab, rng, subsystem):
    """SIGSTOP for less than any deadline: nothing may be lost, only late."""
    seconds = rng.uniform(1, 4)
    lab.mesh.sidecar(subsystem).signal(signal.SIGSTOP)
    pause(seconds)
    lab.mesh.sidecar(subsystem).signal(signal.SIGCONT)
    return f"{subsystem} for {seconds:.1f} s"


@fault(rotates=False)
def kill_control(lab, rng, subsystem):
    away = rng.uniform(0, 10)
    with lab.replacing(lab.mesh.control):
        lab.mesh.control.kill()
        pause(away)
        lab.start_control()
    return f"away for {away:.1f} s"


@fault(rotates=False)
def stop_control(lab, rng, subsystem):
    seconds = rng.uniform(2, 15)
    lab.mesh.control.signal(signal.SIGSTOP)
    pause(seconds)
    lab.mesh.control.signal(signal.SIGCONT)
    return f"for {seconds:.1f} s"


@fault(hits=SERVERS, costs=lambda subsystem: links_of(subsystem, client=False))
def restart_upstream(lab, rng, subsystem):
    """The application behind a server's sidecar."""
    lab.traffic.restart_server(subsystem)
    return subsystem


# The network.


@fault(hits=SERVERS, costs=lambda subsystem: links_of(subsystem, client=False))
def reset_connections(lab, rng, subsystem):
    """Every packet between sidecars is answered with a reset, in both directions."""
    seconds = rng.uniform(0.2, 1.5)
    server = lab.mesh.network[subsystem]
    with Rules(server, f"in tcp dport {INBOUND_PORT} reject with tcp reset",
               f"out tcp sport {INBOUND_PORT} reject with tcp reset"):
        pause(seconds)
    return f"to {subsystem} for {seconds:.1f} s"


def set_link(lab, subsystem, state):
    port = f"port{list(lab.mesh.network.hosts).index(subsystem)}"
    ip("-n", lab.mesh.network.wire, "link", "set", port, state)


@fault(hits=SUBSYSTEMS)
def link_flaps(lab, rng, subsystem):
    """Away for less than TCP's patience: nothing may be lost."""
    seconds = rng.uniform(0.1, 1)
    set_link(lab, subsystem, "down")
    pause(seconds)
    set_link(lab, subsystem, "up")
    return f"{subsystem} for {seconds:.1f} s"


@fault(hits=SUBSYSTEMS, costs=links_of, rotates=False)
def link_down(lab, rng, subsystem):
    seconds = rng.uniform(5, 12)
    set_link(lab, subsystem, "down")
    pause(seconds)
    set_link(lab, subsystem, "up")
    return f"{subsystem} for {seconds:.1f} s"


@fault(hits=SUBSYSTEMS, costs=links_of, rotates=False)
def packets_lost(lab, rng, subsystem):
    percent, seconds = rng.randint(2, 20), rng.uniform(5, 10)
    with Rules(lab.mesh.network[subsystem], f"in iifname eth0 numgen random mod 100 < {percent} drop"):
        pause(seconds)
    return f"{percent} % of {subsystem}'s for {seconds:.1f} s"


@fault(hits=SUBSYSTEMS, rotates=False)
def control_unreachable(lab, rng, subsystem):
    """A sidecar cut off from the control plane, which is not told: traffic goes on."""
    seconds = rng.uniform(5, 25)
    with Rules(lab.mesh.network[subsystem], f"out tcp dport {CONTROL_PORT} drop",
               f"in tcp sport {CONTROL_PORT} drop"):
        pause(seconds)
    return f"from {subsystem} for {seconds:.1f} s"


# Policy, strangers.


def held(row):
    name, good, seen = row
    if not good:
        raise Broken(f"{name}: {seen}")
    return seen.strip().splitlines()[-1][:120] if seen.strip() else name


@fault()
def bad_policy(lab, rng, subsystem):
    """One that a sidecar refuses (NACK), and one that the control plane does."""
    refusals = Refusals(lab.mesh)
    said = held(refusals.nack())
    held(refusals.invalid_policy())
    return said


@fault()
def new_policy(lab, rng, subsystem):
    """A good one, and back: both are acknowledged by everybody."""
    group = rng.choice(("P-256", "X25519"))
    lab.mesh.apply(document(client={"groups": [group]}, server={"groups": [group]}), "--wait")
    lab.mesh.wait_in_sync()
    lab.mesh.apply(document(), "--wait")
    lab.mesh.wait_in_sync()
    return f"key exchange by {group} only, and back"


@fault()
def strangers(lab, rng, subsystem):
    """Certificates that must not be accepted, a used token, and none at all."""
    refusals = Refusals(lab.mesh)
    tried = [refusals.other_ca, refusals.wrong_identity, refusals.no_certificate,
             refusals.undeclared_pair, refusals.reused_token]
    rng.shuffle(tried)
    return ", ".join(held(attempt())[:40] for attempt in tried)


@fault(hits=SERVERS)
def garbage(lab, rng, subsystem):
    """Connections to the mTLS port that send nothing or nonsense, held for a while, then reset."""
    number, seed = rng.randint(40, 150), rng.randrange(1 << 32)
    address = lab.mesh.network[subsystem].v4
    done = lab.mesh.network["control"].run(
        "env", f"PYTHONPATH={lab.root}", lab.python, "-m", "test.soak.garbage", f"{address}:{INBOUND_PORT}",
        str(number), str(seed), capture_output=True, text=True)
    if done.returncode != 0:
        raise Broken(f"garbage: {done.stderr.strip().splitlines()[-1:]}")
    return f"{number} connections to {subsystem}"
