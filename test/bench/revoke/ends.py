"""The applications at both ends of the measured links, each a process in its host's namespace.

    ends.py serve PORT           sends back what comes, until its standard input ends
    ends.py hold PORT NUMBER     opens that many connections, one byte there and back on each; tells, then waits until all
                                 have been ended by the other side, and tells when each was
    ends.py ping PORT            one byte there and back again and again until its standard input ends; tells when each came
                                 back and how long it took

Times are CLOCK_MONOTONIC nanoseconds, which is one clock for all namespaces."""
import json
import selectors
import socket
import sys
import time

AT_ONCE = 16  # handshakes under way; more, and the sidecars' caps on strangers would be what is measured
PAUSE_S = 0.0002  # between two pings


def serve(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    selector = selectors.EpollSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print(json.dumps({"serving": port}), flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is listener:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except BlockingIOError:
                        break
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connection, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.send(data)
            except OSError:
                data = b""
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def open_one(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"h")
    return connection


def hold(port, number):
    selector = selectors.EpollSelector()
    opened, asked = 0, 0
    while opened < number:
        while asked < number and asked - opened < AT_ONCE:
            selector.register(open_one(port), selectors.EVENT_READ)
            asked += 1
        for key, _ in selector.select():
            if key.fileobj.recv(1) != b"h":
                raise SystemExit(f"connection {opened} of {number} was ended while all were being opened")
            opened += 1
    print(json.dumps({"open": opened}), flush=True)
    ends = []
    while len(ends) < number:
        for key, _ in selector.select():
            now = time.monotonic_ns()
            try:
                data = key.fileobj.recv(1)
            except OSError:
                data = b""
            if data:
                raise SystemExit("a byte that nobody sent")
            ends.append(now)
            selector.unregister(key.fileobj)
            key.fileobj.close()
    print(json.dumps({"ends": ends}), flush=True)


def ping(port):
    selector = selectors.EpollSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    connection = open_one(port)
    connection.recv(1)
    print(json.dumps({"pinging": port}), flush=True)
    pongs = []
    while not selector.select(PAUSE_S):
        began = time.monotonic_ns()
        connection.sendall(b"p")
        if connection.recv(1) != b"p":
            raise SystemExit("the bystander's connection was ended")
        now = time.monotonic_ns()
        pongs.append((now, now - began))
    print(json.dumps({"pongs": pongs}), flush=True)


if __name__ == "__main__":
    {"serve": serve, "hold": hold, "ping": ping}[sys.argv[1]](*map(int, sys.argv[2:]))
