"""Without this a stranger could make a sidecar spend far more than he does himself. What each kind of input costs that comes
before anybody has been authenticated: bytes that the stranger puts on the wire against bytes sent back and memory held, his
processor time against the sidecar's. Each must stay below a hundredfold (R16).

Prints the table that is in docs/threat-model.md:

    PYTHONPATH=. ~/.cache/mortise/venv/bin/python test/e2e/amplification.py

The stranger's time is what his system calls take (and his cryptography, where he cannot do without): no client has it cheaper.
Bytes on the wire count 52 of headers a segment. Memory is the sidecar's own, most while so many of a kind were there at once; the
kernel's sockets cost both ends the same. Drives: R16"""
import contextlib
import os
import socket
import struct
import sys
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.arena import dial
from test.testlib.fixtures import CONFIG
from test.testlib.pki import Ca
from test.testlib.static import CLIENT_ID, StaticPair, free_port
from test.testlib.tls_peer import call, context
from test.testlib.tls_raw import (ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, KEY_UPDATE, PADDING, TLS12,
                                  ClientHello, Refused, record, records)
from test.testlib.tls_steps import Steps

NUM = 200  # of a kind at once
BOUND = 100
HEADERS = 52  # of a segment: IPv4 20, TCP 20, timestamps 12

NAME = "link.mortise.internal"


def hello(**fields):
    return ClientHello(server_name=NAME, **fields).bytes()


def padded(size):
    return hello(extra=((PADDING, bytes(size)),))


HELLO = record(HANDSHAKE, hello())

# Bytes that need no thinking: they are sent, and the connection is kept open.
BYTES = {
    "silent connection": b"",
    "one byte": b"\x16",
    "half a hello": HELLO[:len(HELLO) // 2],
    "hello, then silence": HELLO,
    "hello for TLS 1.2": record(HANDSHAKE, hello(versions=(TLS12,))),
    "hello that needs a retry": record(HANDSHAKE, hello(shares={})),
    "hello for nobody": record(HANDSHAKE, ClientHello(server_name="x.invalid").bytes()),
    "hello of 15 kB": record(HANDSHAKE, padded(15_000)),
    "hello of 64 kB": records(HANDSHAKE, padded(64_000), 16_000, 32_000, 48_000),
    "hello of 15 kB, most of 33 kB of certificates": (
        record(HANDSHAKE, hello(versions=(TLS12,), extra=((PADDING, bytes(15_000)),)))
        + records(HANDSHAKE, b"\x0b\x00\x80\xe8" + bytes(32_900), 16_000, 32_000)),
    "hello in records of a byte": records(HANDSHAKE, hello(), *range(1, len(hello()))),
    "message of 16 MB announced": record(HANDSHAKE, b"\1\xff\xff\xff"),
    "record of 16 kB announced": b"\x16\x03\x01\x40\x00",
    "record of 64 kB announced": b"\x16\x03\x01\xff\xff",
    "hello, KeyUpdate in the clear": HELLO + record(HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, 1])),
    "hello, 32 ChangeCipherSpec": HELLO + record(CHANGE_CIPHER_SPEC, b"\1") * 32,
    "hello, 32 warnings": HELLO + record(ALERT, b"\1\x5a") * 32,
    "32 empty records": record(HANDSHAKE, b"") * 32,
    "plaintext HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "random bytes": b"\x9c" + os.urandom(999),
}
# Whole handshakes, of those who do not belong here: their certificate's name, and the version.
HANDSHAKES = {
    "no certificate, TLS 1.3": (None, "TLS1_3"),
    "no certificate, TLS 1.2": (None, "TLS1_2"),
    "certificate of another CA, TLS 1.3": ("foreign", "TLS1_3"),
    "certificate of another CA, TLS 1.2": ("foreign", "TLS1_2"),
    "five of another CA in a chain": ("long", "TLS1_3"),
}
# At the metrics port, which speaks plain HTTP.
METRICS = {
    "metrics: silent connection": b"",
    "metrics: half a request": b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ",
    "metrics: /livez": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "metrics: /metrics": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def pair(folder, binaries):
    port = free_port()
    made = StaticPair(folder, binaries, server_settings={
        "handshake_timeout": "100s", "metrics_listen": f"127.0.0.1:{port}"})
    made.metrics_port = port
    foreign = Ca("elsewhere")
    above = foreign
    for number in range(4):
        above = Ca(f"elsewhere {number}", above=above)
    made.good = context("client", made.roots, made.paths("client"))
    made.strangers = {"foreign": foreign.issue(CLIENT_ID).write(folder, "foreign"),
                      "long": above.issue(CLIENT_ID).write(folder, "long"), None: None}
    yield made
    made.stop()


def cpu_us(pid):
    """Of a process, exact; source: clock_getcpuclockid(3)."""
    return time.clock_gettime_ns(~pid << 3 | 2) / 1000


def on_the_wire(sock):
    """Bytes that went out and that came in, with headers; source: struct tcp_info of linux/tcp.h."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    acked, received, segments_out, segments_in = struct.unpack_from("=QQII", info, 120)
    return acked + HEADERS * segments_out, received + HEADERS * segments_in


class Costs:
    """What one kind of input costs both, per connection."""

    def __init__(self, kind, num, sent, back, held, sidecar_us, stranger_us):
        self.kind = kind
        self.sent, self.back, self.held = sent / num, back / num, held / num
        self.sidecar_us, self.stranger_us = sidecar_us / num, stranger_us / num

    HEAD = ("| what a stranger sends | sent, B | sent back, B | × | memory held, B | × | "
            "sidecar's CPU, µs | stranger's, µs | × |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")

    @property
    def factors(self):
        return {"sent back": self.back / self.sent, "memory": self.held / self.sent,
                "processor": self.sidecar_us / self.stranger_us}

    def __str__(self):
        back, memory, cpu = self.factors.values()
        return (f"| {self.kind} | {self.sent:.0f} | {self.back:.0f} | {back:.1f} | {self.held:.0f} | "
                f"{memory:.1f} | {self.sidecar_us:.0f} | {self.stranger_us:.0f} | {cpu:.1f} |")


def cost(pair, kind, num, connect):
    """`connect` makes one connection and returns its socket. The sidecar is a new one each time: memory that one kind gave
    back to the allocator would hide what the next one takes."""
    server = pair.start("server")["server"]
    for _ in range(5):  # what is allocated once is not theirs
        with contextlib.suppress(Refused):
            call(pair.tls_port, pair.good, data=b"x")
    fds, memory, spent = server.fds(), server.memory_kib(), cpu_us(server.pid)
    socks, peak, stranger_ns = [], 0, 0
    try:
        for number in range(num):
            began = time.thread_time_ns()
            socks.append(connect())
            stranger_ns += time.thread_time_ns() - began
            if number % 50 == 49:
                peak = max(peak, server.memory_kib() - memory)
        for _ in range(8):  # each answer has waited for a round of the worker: all has been worked off
            server.get("/connections")
            peak = max(peak, server.memory_kib() - memory)
        sent, back = map(sum, zip(*map(on_the_wire, socks)))
    finally:
        began = time.thread_time_ns()
        for sock in socks:
            sock.close()
        stranger_ns += time.thread_time_ns() - began
    wait_for("all are forgotten", lambda: server.fds() <= fds, 30)
    costs = Costs(kind, num, sent, back, max(peak, 0) * 1024, cpu_us(server.pid) - spent,
                  stranger_ns / 1000)
    pair.stop()
    return costs


def sends(port, data):
    def connect():
        sock = dial(port)
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        return sock

    return connect


def shakes_hands(pair, cert, version):
    made = context("client", pair.roots, pair.strangers[cert], version)

    def connect():
        sock = dial(pair.tls_port)
        with contextlib.suppress(ConnectionError, OSError):
            Steps(sock, made, NAME).handshake()
        return sock

    return connect


@pytest.mark.skipif(CONFIG != "opt", reason="what a sanitizer costs is of no interest")
def test_no_input_of_strangers_costs_a_hundredfold(pair):
    table = [cost(pair, kind, NUM, sends(pair.tls_port, data)) for kind, data in BYTES.items()]
    table += [cost(pair, kind, NUM, shakes_hands(pair, *how)) for kind, how in HANDSHAKES.items()]
    table += [cost(pair, kind, 60, sends(pair.metrics_port, data)) for kind, data in METRICS.items()]
    print("\n" + Costs.HEAD)
    for costs in table:
        print(costs)
    for costs in table:
        for what, factor in costs.factors.items():
            # Of a page that was asked for over TCP more is sent back: to who asked, and to nobody else.
            if (costs.kind, what) != ("metrics: /metrics", "sent back"):
                assert factor < BOUND, f"{costs.kind}: {what} {factor:.0f}-fold"
    # Were nothing measured, nothing could fail.
    by_kind = {costs.kind: costs for costs in table}
    assert by_kind["hello, then silence"].held > 1000
    assert by_kind["hello, then silence"].sidecar_us > by_kind["silent connection"].sidecar_us > 5


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "--import-mode=importlib", __file__]))
