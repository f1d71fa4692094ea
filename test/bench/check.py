"""Proof that a TLS pair does what the comparison assumes, before it is measured.

A pair that resumed sessions, chose another suite or let anybody in would look fast. So: three
connections are watched on the wire between the two sides (TLS 1.3, TLS_AES_128_GCM_SHA256, X25519,
no pre-shared key, no application byte in the clear), and each side is offered no certificate, a
stranger's and one of the right CA with a wrong identity, all of which it must refuse."""

import contextlib
import dataclasses
import os
import socket
import ssl
import threading

import pki
from peers import SNI

TIMEOUT = 5.0  # seconds for anything that should take milliseconds

TLS13, AES_128_GCM, X25519 = 0x0304, 0x1301, 0x001D
EXT_PRE_SHARED_KEY, EXT_SUPPORTED_VERSIONS, EXT_KEY_SHARE = 41, 43, 51
HELLO_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


class Server:
    """Accepts on a loopback port and runs `handle` on each connection in a thread of its own."""

    def __init__(self, port, handle):
        self._handle = handle
        self._socket = socket.create_server(("127.0.0.1", port))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT)
            thread = threading.Thread(target=self._one, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _one(self, connection):
        with contextlib.suppress(OSError), connection:
            self._handle(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in list(self._threads):
            thread.join()


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def pump(source, sink, kept):
    """Copies to the end of `source`, adding to the bytearray `kept`."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Spy(Server):
    """Forwards from one port to another and keeps what went by: [client bytes, server bytes] of
    each connection."""

    def __init__(self, port, to):
        self.seen = []
        self._to = to
        super().__init__(port, self._forward)

    def _forward(self, near):
        kept = [bytearray(), bytearray()]
        self.seen.append(kept)
        with socket.create_connection(("127.0.0.1", self._to), TIMEOUT) as far:
            back = threading.Thread(target=pump, args=(far, near, kept[1]))
            back.start()
            pump(near, far, kept[0])
            back.join()


def server_hello(data):
    """What the first handshake message of a TLS 1.3 server says:
    {"version", "suite", "group", "resumed", "retry"}."""
    data = bytes(data)
    if len(data) < 44 or data[0] != 22 or data[5] != 2:
        raise ValueError("no ServerHello")
    body = data[9:9 + int.from_bytes(data[6:9], "big")]
    at = 35 + body[34]  # version, random, session id
    hello = {"version": int.from_bytes(body[0:2], "big"),
             "suite": int.from_bytes(body[at:at + 2], "big"),
             "group": None, "resumed": False, "retry": body[2:34] == HELLO_RETRY}
    at += 5  # suite, compression, length of the extensions
    while at + 4 <= len(body):
        kind = int.from_bytes(body[at:at + 2], "big")
        length = int.from_bytes(body[at + 2:at + 4], "big")
        value = body[at + 4:at + 4 + length]
        if kind == EXT_SUPPORTED_VERSIONS:
            hello["version"] = int.from_bytes(value, "big")
        elif kind == EXT_KEY_SHARE:
            hello["group"] = int.from_bytes(value[0:2], "big")
        elif kind == EXT_PRE_SHARED_KEY:
            hello["resumed"] = True
        at += 4 + length
    return hello


def _exchange(connection, token):
    """Sends `token` and returns whether it comes back; an end or an alert is False."""
    try:
        connection.sendall(token)
        got = b""
        while len(got) < len(token):
            data = connection.recv(len(token) - len(got))
            if not data:
                return False
            got += data
    except TimeoutError:
        raise RuntimeError("neither answered nor refused") from None
    except OSError:  # ssl.SSLError is one
        return False
    if got != token:
        raise RuntimeError("the answer differs")
    return True


def _through(port, token):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
        return _exchange(plain, token)


def _as_client(port, own, credentials, token):
    """Whether a server side takes a client with (authority, role), or None for no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # SPIFFE IDs are no host names
    context.load_verify_locations(own.ca)
    if credentials:
        authority, role = credentials
        context.load_cert_chain(authority.cert(role), authority.key(role))
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=SNI) as tls:
                return _exchange(tls, token)
        except TimeoutError:
            raise RuntimeError("the handshake hangs") from None
        except OSError:
            return False


def _as_server(pair, own, credentials, token):
    """Whether the client side takes a server with (authority, role). The names of the clients that
    came are checked as well."""
    authority, role = credentials
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(own.ca)
    context.load_cert_chain(authority.cert(role), authority.key(role))
    clients = []

    def handle(connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            clients.extend(v for k, v in tls.getpeercert()["subjectAltName"] if k == "URI")
            echo(tls)

    with Server(pair.ports.mesh, handle):
        taken = _through(pair.ports.app, token)
    if taken and clients != [pki.spiffe_id("client")]:
        raise RuntimeError(f"the client side showed {clients}")
    return taken


def _wire(pair, own, stranger, faults):
    token = os.urandom(64)
    with pair, Server(pair.ports.back, echo), Spy(pair.ports.mesh, pair.ports.inner) as spy:
        for _ in range(3):
            if not _through(pair.ports.app, token):
                faults.append("a connection through the pair is refused")
        for what, credentials in (("none", None), ("stranger's", (stranger, "client")),
                                  ("wrong identity's", (own, "other")),
                                  ("right", (own, "client"))):
            taken = _as_client(pair.ports.inner, own, credentials, token)
            if taken != (what == "right"):
                faults.append(f"server side: a client with certificate: {what}: "
                              f"{'taken' if taken else 'refused'}")
    if len(spy.seen) != 3:
        faults.append(f"{len(spy.seen)} mutual TLS connections for 3 of the application")
    for client_bytes, server_bytes in spy.seen:
        hello = server_hello(server_bytes)
        if (hello["version"], hello["suite"], hello["group"]) != (TLS13, AES_128_GCM, X25519):
            faults.append(f"negotiated {hello}")
        if hello["resumed"] or hello["retry"]:
            faults.append("a session was resumed" if hello["resumed"] else "HelloRetryRequest")
        if token in client_bytes or token in server_bytes:
            faults.append("application bytes cross in the clear")


def _client_side(pair, own, stranger, faults):
    token = os.urandom(64)
    try:
        pair.start_side("client")
        for what, credentials in (("right", (own, "server")),
                                  ("stranger's", (stranger, "server")),
                                  ("wrong identity's", (own, "other"))):
            taken = _as_server(pair, own, credentials, token)
            if taken != (what == "right"):
                faults.append(f"client side: a server with certificate: {what}: "
                              f"{'taken' if taken else 'refused'}")
    finally:
        pair.stop()


def check(pair, stranger):
    """The list of what is wrong with a TLS pair that does not run; empty when it is fit to be
    measured."""
    before, faults = pair.ports, []
    pair.ports = dataclasses.replace(before, inner=before.app + 3)
    try:
        for step in (_wire, _client_side):
            try:
                step(pair, pair.pki, stranger, faults)
            except (RuntimeError, OSError, ValueError) as error:
                faults.append(f"{step.__name__.strip('_')}: {error}")
    finally:
        pair.ports = before
    return faults
