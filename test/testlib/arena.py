"""A static pair under load, with a second link for those who misbehave: what they do must not be felt on the first one.

    client sidecar :app_port → server sidecar :tls_port → echo application         link `link`: the load, every byte checked
    client sidecar :odd_app_port → :odd_tls_port, a listening socket of the test   link `odd`: a peer's server misbehaves
    TLS client of the test → server sidecar :tls_port → :odd_target_port           link `odd`: a client misbehaves"""
import contextlib
import itertools
import socket

from test.testlib.load import EVERY_MS, STREAMS, Load
from test.testlib.static import CLIENT_ID, SERVER_ID, StaticPair, free_port

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


@contextlib.contextmanager
def arena(folder, binaries, streams=STREAMS, every_ms=EVERY_MS, connections_too=True, **settings):
    """A running pair with its load as `pair.load`; `settings` are of both sides, or, as server_settings and
    client_settings, of one. At its end the load must have lost nothing, see undisturbed."""
    inside = folder / f"arena{next(_numbers)}"
    inside.mkdir()
    both = {key: settings.pop(key, {}) for key in ("client_settings", "server_settings")}
    pair = OddPair(inside, binaries, **{key: {**settings, **own} for key, own in both.items()})
    pair.load = None
    try:
        pair.start()
        pair.load = Load(inside, pair.app_port, pair.target_port, streams, every_ms)
        pair.load.wait_up()
        yield pair
        pair.load.finish(connections_too)
    finally:
        if pair.load is not None:
            pair.load.stop()
        pair.stop()


@contextlib.contextmanager
def undisturbed(pair, connections_too=True):
    """What happens within disturbs the load in nothing: its streams go on, no byte is lost or wrong, and, unless they are
    what is shed, new connections come through, too."""
    yield
    pair.load.more(connections=20 if connections_too else 0)
    pair.load.intact(connections_too)


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
