"""Connections of somebody who does not speak TLS: python3 -m test.soak.garbage HOST:PORT NUMBER SEED"""
import random
import select
import socket
import struct
import sys
import time

KINDS = (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n",
         b"\x80\x2e\x01\x00\x02", b"\0" * 4000)
HELD_S = 3


def main():
    address, number, seed = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    rng = random.Random(int(seed))
    socks = []
    for _ in range(int(number)):
        sock = socket.create_connection((host, int(port)), 10)
        kind = rng.choice((*KINDS, None))
        sock.sendall(rng.randbytes(rng.randint(1, 3000)) if kind is None else kind)
        socks.append(sock)
    # An alert is what may come back; whatever else came would be an answer to a stranger.
    end = time.monotonic() + HELD_S
    while (left := end - time.monotonic()) > 0 and socks:
        for sock in select.select(socks, (), (), left)[0]:
            try:
                data = sock.recv(4096)
            except OSError:
                data = b""
            if data and data[0] != 0x15:
                sys.exit(f"answered {data[:40]!r}")
            if not data:
                sock.close()
                socks.remove(sock)
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


if __name__ == "__main__":
    main()
