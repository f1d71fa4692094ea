"""Connections that come and go as fast as asked, or as the machine can: each sends some bytes, wants them back, and ends.

    python3 -m test.testlib.churn 15101 --rate 2000 --seconds 60

The last line is JSON: how many, how fast, and what went wrong. One thread and one epoll: a connection costs about 0.1 ms."""
import argparse
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter

SIZE = 64
OPEN_MAX = 400  # at once: who cannot follow is not given more
PATIENCE_S = 20


class Churn:
    def __init__(self, port):
        self.port = port
        self.selector = selectors.DefaultSelector()
        self.open = {}  # socket: [bytes sent, bytes got, when it began]
        self.done = 0
        self.problems = Counter()
        self.times = []

    def begin(self):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(("127.0.0.1", self.port))
        self.open[sock] = [os.urandom(SIZE), b"", time.monotonic()]
        self.selector.register(sock, selectors.EVENT_WRITE)

    def end(self, sock, problem=None):
        wanted, got, began = self.open.pop(sock)
        self.selector.unregister(sock)
        sock.close()
        if problem is None and got != wanted:
            problem = f"{len(got)} bytes, not the {len(wanted)} that were sent"
        if problem is None:
            self.done += 1
            self.times.append(time.monotonic() - began)
        else:
            self.problems[problem] += 1

    def step(self, timeout_s):
        for key, events in self.selector.select(timeout_s):
            sock, state = key.fileobj, self.open[key.fileobj]
            try:
                if events & selectors.EVENT_WRITE:
                    sock.send(state[0])
                    sock.shutdown(socket.SHUT_WR)
                    self.selector.modify(sock, selectors.EVENT_READ)
                    continue
                data = sock.recv(4096)
                state[1] += data
                if not data or len(state[1]) > SIZE:
                    self.end(sock)
            except OSError as err:
                self.end(sock, type(err).__name__)

    def run(self, rate, seconds):
        began = time.monotonic()
        asked = 0
        while (now := time.monotonic()) < began + seconds:
            # Open loop, but no debt: what could not be opened in time is not made up for.
            due = int((now - began) * rate)
            for _ in range(min(due - asked, OPEN_MAX - len(self.open), 100)):
                self.begin()
            asked = due
            self.step(0.001)
        spent = time.monotonic() - began
        limit = time.monotonic() + PATIENCE_S
        while self.open and time.monotonic() < limit:
            self.step(0.05)
        for sock in list(self.open):
            self.end(sock, "no end")
        times = sorted(self.times) or [0]
        return {"done": self.done, "rate": round(self.done / spent), "problems": dict(self.problems),
                "p50_ms": round(times[len(times) // 2] * 1000, 1),
                "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=int, default=2000, help="connections a second")
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    print(json.dumps(Churn(args.port).run(args.rate, args.seconds)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
