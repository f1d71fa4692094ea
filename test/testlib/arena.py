"""A static pair under load, with a second link for those who misbehave: what they do must not be felt on the first one.

    client sidecar :app_port → server sidecar :tls_port → echo application         link `link`: the load, every byte checked
    client sidecar :odd_app_port → :odd_tls_port, a listening socket of the test   link `odd`: a peer's server misbehaves
    TLS client of the test → server sidecar :tls_port → :odd_target_port           link `odd`: a client misbehaves"""
import contextlib
import itertools
import json
import socket
import sys
from pathlib import Path

from deploy.lab.programs import Process, wait_for
from test.testlib.fixtures import CONFIG
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port

ROOT = Path(__file__).resolve().parents[2]
STREAMS, EVERY_MS = (50, 5) if CONFIG == "opt" else (10, 100)
_numbers = itertools.count()


class OddPair(StaticPair):
    """A StaticPair with the link `odd` on both sides."""

    ODD = "odd"

    def __init__(self, *args, **kwargs):
        self.odd_app_port, self.odd_tls_port, self.odd_target_port = (
            free_port(), free_port(), free_port())
        super().__init__(*args, **kwargs)

    def config(self, side):
        made = super().config(side)
        if side == "client":
            made["outbound"].append({
                "name": self.ODD, "listen": f"127.0.0.1:{self.odd_app_port}",
                "endpoints": [f"127.0.0.1:{self.odd_tls_port}"],
                "peers": {"spiffe_ids": [SERVER_ID]}, "profile": "client", "truststore": "mesh"})
        else:
            made["inbound"]["links"].append({
                "name": self.ODD, "target": f"127.0.0.1:{self.odd_target_port}",
                "peers": {"spiffe_ids": [CLIENT_ID]}, "profile": "server", "truststore": "mesh"})
        return made

    @property
    def odd_name(self):
        return f"{self.ODD}.mortise.internal"

    def count(self, side, name, **labels):
        """The sum over a metric's series with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(value for series, value in self[side].metrics().items()
                   if series.startswith(name + "{") and all(label in series for label in wanted))


def _lab(*args):
    return ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-m",
            *map(str, args)]


class Load:
    """Long streams and a new connection every few milliseconds over link `link`, in processes of their own; every byte is
    compared. Losing one fails the test at the end."""

    def __init__(self, pair, streams=STREAMS, every_ms=EVERY_MS):
        self.out, self.streams = pair.folder / "load.json", streams
        self.server = Process("echo", _lab("deploy.lab.echo", "serve",
                                           f"127.0.0.1:{pair.target_port}"), pair.folder)
        self.client = None
        try:
            wait_for("the echo application listens", lambda: "serving" in self.server.tail())
            with open(self.out, "wb") as out:
                self.client = Process("load", _lab(
                    "deploy.lab.echo", "load", f"127.0.0.1:{pair.app_port}", "--streams", streams,
                    "--every-ms", every_ms), pair.folder, stdout=out)
            wait_for("all streams are open", lambda: self.last().get("streams") == streams, 120)
        except BaseException:
            self.stop()
            raise

    def last(self):
        for line in reversed(self.out.read_bytes().splitlines()):
            with contextlib.suppress(ValueError):
                return json.loads(line)
        return {}

    def exchanges(self):
        return self.last()["links"]["echo"]["exchanges"]

    def check(self):
        """That nothing was lost or wrong."""
        totals = self.last()["links"]["echo"]
        assert totals["dropped"] == 0 and totals["corrupted"] == 0, totals["problems"]

    @contextlib.contextmanager
    def undisturbed(self):
        """What happens within disturbs it in nothing: no byte is lost or wrong, and it moves on all the time."""
        before = self.exchanges()
        yield
        wait_for("the load moves on", lambda: self.exchanges() > before + self.streams, 30)
        self.check()

    def finish(self):
        """Ends it in order, with every byte that is under way."""
        self.client.signal(15)
        assert self.client.wait(90) == 0, self.client.tail()
        self.check()

    def stop(self):
        for process in (self.client, self.server):
            if process is not None:
                process.kill()


@contextlib.contextmanager
def arena(folder, binaries, streams=STREAMS, every_ms=EVERY_MS, **settings):
    """A running pair with its load as `pair.load`; `settings` are of both sides, or, as server_settings and
    client_settings, of one. At its end the load must have lost nothing; see Load.undisturbed."""
    inside = folder / f"arena{next(_numbers)}"
    inside.mkdir()
    both = {key: settings.pop(key, {}) for key in ("client_settings", "server_settings")}
    pair = OddPair(inside, binaries, **{key: {**settings, **own} for key, own in both.items()})
    load = None
    try:
        pair.start()
        load = pair.load = Load(pair, streams, every_ms)
        yield pair
        load.finish()
    finally:
        if load is not None:
            load.stop()
        pair.stop()


def dial(port, source=None, receive_buffer=None):
    """A connection to a loopback port, from that address; `receive_buffer` bytes are what it takes unread."""
    sock = socket.socket()
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def listen(port, backlog=1024):
    made = socket.create_server(("127.0.0.1", port), backlog=backlog)
    made.settimeout(20)
    return made


def accept(listener):
    sock, _ = listener.accept()
    sock.settimeout(20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def abort(sock):
    """Ends it by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def end_of(sock):
    """How the connection ended, as its user sees it: "end" or "reset"; and the bytes before."""
    got = []
    try:
        while data := sock.recv(1 << 16):
            got.append(data)
    except ConnectionError:
        return "reset", b"".join(got)
    return "end", b"".join(got)
