"""The subsystems' applications: plaintext on loopback only, and every byte is checked at both ends.

    python3 -m deploy.lab.apps serve http:127.0.0.1:8081 lines:127.0.0.1:9083
    python3 -m deploy.lab.apps drive management-portal=http:127.0.0.1:15101 …

`drive` writes a JSON line of totals per link to standard output twice a second and at its end, which
SIGTERM brings about in order: exchanges in hand are finished, then connections closed.

http: HTTP/1.1 requests, some on connections that are kept, some on a new one each.
lines: a server-first line protocol, and one upload for as long as the run lasts."""
import argparse
import asyncio
import hashlib
import json
import random
import signal
import struct
import sys
import time

CHUNK = 64 * 1024
ACK_EVERY = 16
TIMEOUT_S = 30


def pattern(seed, size):
    """`size` bytes that only `seed` gives."""
    return hashlib.shake_128(seed.encode()).digest(size)


class Corrupted(Exception):
    pass


def check(what, got, wanted):
    if got != wanted:
        raise Corrupted(f"{what}: got {len(got)} bytes that are not the {len(wanted)} wanted")


async def read_line(reader):
    """A whole line; b"" at the end; EOFError when the stream ended within one, which is a loss and no fault."""
    line = await reader.readline()
    if line and not line.endswith(b"\n"):
        raise EOFError("ended within a line")
    return line


# Servers.


async def http_server(reader, writer):
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        _, seed, size = path.split("/")
        check(f"request {path}", body, pattern(seed + "/up", len(body)))
        answer = pattern(seed + "/down", int(size))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
        await writer.drain()
        if fields.get("connection") == "close":
            return


async def lines_server(reader, writer):
    writer.write(b"220 analytics ready\r\n")
    while line := await read_line(reader):
        words = line.split()
        if words[0] == b"EVENT":
            seq, digest = words[1:]
            check(f"event {seq!r}", digest, hashlib.sha256(seq).hexdigest().encode())
            writer.write(b"250 %s %s\r\n" % (seq, hashlib.sha256(digest).hexdigest().encode()))
        elif words[0] == b"UPLOAD":
            await receive_upload(words[1].decode(), reader, writer)
        elif words[0] == b"QUIT":
            writer.write(b"221 bye\r\n")
            await writer.drain()
            return
        await writer.drain()


async def receive_upload(seed, reader, writer):
    total = hashlib.sha256()
    while True:
        seq, size = struct.unpack("!QI", await reader.readexactly(12))
        if size == 0:
            writer.write(b"250 total %s\r\n" % total.hexdigest().encode())
            return
        chunk = await reader.readexactly(size)
        check(f"upload {seq}", chunk, pattern(f"{seed}/{seq}", size))
        total.update(chunk)
        if seq % ACK_EVERY == 0:
            writer.write(b"250 %d %s\r\n" % (seq, total.hexdigest().encode()))
            await writer.drain()


SERVERS = {"http": http_server, "lines": lines_server}


def serving(kind):
    async def handle(reader, writer):
        try:
            await SERVERS[kind](reader, writer)
        except (EOFError, ConnectionError):
            pass
        except Corrupted as err:
            print(json.dumps({"corrupted": str(err)}), flush=True)
            writer.transport.abort()  # the client counts the loss
        finally:
            writer.close()

    return handle


async def serve(specs):
    for spec in specs:
        kind, host, port = spec.split(":")
        await asyncio.start_server(serving(kind), host, int(port), backlog=512, limit=1 << 20)
    print(json.dumps({"serving": specs}), flush=True)
    await stopping().wait()


# Clients.


def stopping():
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


class Link:
    def __init__(self, name, host, port):
        self.name, self.host, self.port = name, host, port
        self.connections = self.exchanges = self.bytes = self.dropped = self.corrupted = 0
        self.problems = []

    async def open(self):
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(self.host, self.port, limit=1 << 20), TIMEOUT_S)
        self.connections += 1
        return reader, writer

    def lost(self, what, err, began):
        """One exchange, or upload, that began at that time.monotonic() was lost."""
        kind = "corrupted" if isinstance(err, Corrupted) else "dropped"
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.problems) < 20:
            self.problems.append(f"{what}: {type(err).__name__} {err}")

    def totals(self):
        return {"connections": self.connections, "exchanges": self.exchanges, "bytes": self.bytes,
                "dropped": self.dropped, "corrupted": self.corrupted, "problems": self.problems}


async def http_exchange(link, streams, seed, close):
    reader, writer = streams
    up = pattern(seed + "/up", random.choice((0, 0, 100, 3000, 40000)))
    size = random.choice((0, 1, 200, 1400, 16384, 16385, 100000))
    writer.write((f"POST /{seed}/{size} HTTP/1.1\r\nHost: {link.name}\r\n"
                  f"Content-Length: {len(up)}\r\n"
                  f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n").encode() + up)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Corrupted(f"answer {head[:40]!r}")
    body = await reader.readexactly(size)
    check(f"answer {seed}", body, pattern(seed + "/down", size))
    if close and await reader.read(1):
        raise Corrupted("bytes after the end")
    link.exchanges += 1
    link.bytes += len(up) + len(body)


async def repeat(link, stop, what, once, pause_s):
    """Runs `once` until stopped; an error counts one loss, then goes on."""
    number = 0
    while not stop.is_set():
        number += 1
        began = time.monotonic()
        try:
            await asyncio.wait_for(once(f"{link.name}.{what}.{number}"), TIMEOUT_S)
        except (OSError, EOFError, asyncio.TimeoutError, Corrupted, ValueError) as err:
            link.lost(what, err, began)
        try:
            await asyncio.wait_for(stop.wait(), pause_s)
        except asyncio.TimeoutError:
            pass


async def kept_http(link, stop, worker, pause_s):
    """Requests on one connection for the whole run; if it is lost, that counts, and it opens anew."""
    streams = None

    async def once(seed):
        nonlocal streams
        if streams is None:
            streams = await link.open()
        try:
            await http_exchange(link, streams, seed, close=False)
        except BaseException:
            streams[1].close()
            streams = None
            raise

    await repeat(link, stop, f"kept{worker}", once, pause_s)
    if streams is not None:
        streams[1].close()


async def single_http(link, stop, worker, pause_s):
    async def once(seed):
        streams = await link.open()
        try:
            await http_exchange(link, streams, seed, close=True)
        finally:
            streams[1].close()

    await repeat(link, stop, f"single{worker}", once, pause_s)


async def greeted(link):
    reader, writer = await link.open()
    greeting = await read_line(reader)
    if greeting != b"220 analytics ready\r\n":
        writer.close()
        raise (Corrupted(f"greeting {greeting!r}") if greeting else EOFError("no greeting"))
    return reader, writer


async def lines_client(link, stop, worker, pause_s):
    async def once(seed):
        reader, writer = await greeted(link)
        try:
            for number in range(20):
                seq = f"{seed}.{number}".encode()
                digest = hashlib.sha256(seq).hexdigest().encode()
                line = b"EVENT %s %s\r\n" % (seq, digest)
                writer.write(line)
                answer = await read_line(reader)
                wanted = b"250 %s %s\r\n" % (seq, hashlib.sha256(digest).hexdigest().encode())
                if not answer:
                    raise EOFError("no answer")
                check(f"event {seq!r}", answer, wanted)
                link.exchanges += 1
                link.bytes += len(line) + len(answer)
            writer.write(b"QUIT\r\n")
            if await read_line(reader) != b"221 bye\r\n" or await reader.read():
                raise EOFError("no farewell")
        finally:
            writer.close()

    await repeat(link, stop, f"lines{worker}", once, pause_s)


async def upload_client(link, stop, worker, pause_s):
    """One upload, as long as the run; acknowledged as it goes."""
    seed = f"{link.name}.upload{worker}"
    began = time.monotonic()
    try:
        reader, writer = await greeted(link)
        total = hashlib.sha256()
        writer.write(f"UPLOAD {seed}\r\n".encode())
        seq = 0
        while not stop.is_set():
            seq += 1
            size = random.choice((1, 100, CHUNK - 1, CHUNK))
            chunk = pattern(f"{seed}/{seq}", size)
            total.update(chunk)
            writer.write(struct.pack("!QI", seq, size) + chunk)
            link.bytes += size
            if seq % ACK_EVERY == 0:
                began = time.monotonic()
                await asyncio.wait_for(writer.drain(), TIMEOUT_S)
                answer = await asyncio.wait_for(read_line(reader), TIMEOUT_S)
                if not answer:
                    raise EOFError("upload ended by the other side")
                check(f"upload {seq}", answer, b"250 %d %s\r\n" % (seq, total.hexdigest().encode()))
                link.exchanges += 1
                await asyncio.sleep(pause_s)
        writer.write(struct.pack("!QI", 0, 0))
        answer = await asyncio.wait_for(read_line(reader), TIMEOUT_S)
        check("upload total", answer, b"250 total %s\r\n" % total.hexdigest().encode())
        writer.write(b"QUIT\r\n")
        await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
    except (OSError, EOFError, asyncio.TimeoutError, Corrupted) as err:
        link.lost("upload", err, began)


CLIENTS = {"http": ((kept_http, 4), (single_http, 2)), "lines": ((lines_client, 2),
                                                                (upload_client, 1))}


async def drive(specs, pause_s, link_type=Link, clients=CLIENTS):
    stop = stopping()
    links, tasks = [], []
    for spec in specs:
        name, target = spec.split("=")
        kind, host, port = target.split(":")
        link = link_type(name, host, int(port))
        links.append(link)
        for client, number in clients[kind]:
            tasks += [asyncio.create_task(client(link, stop, i, pause_s)) for i in range(number)]

    def report(final):
        print(json.dumps({"final": final, "links": {link.name: link.totals() for link in links}}),
              flush=True)

    done = asyncio.gather(*tasks)
    while not done.done():
        report(False)
        await asyncio.wait([done], timeout=0.5)
    await done
    report(True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("serve", "drive"))
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two exchanges")
    args = parser.parse_args()
    asyncio.run(serve(args.specs) if args.command == "serve" else drive(args.specs, args.pause))


if __name__ == "__main__":
    sys.exit(main())
