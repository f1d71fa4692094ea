"""Many long streams and a new connection every few milliseconds through one link; every byte is checked.

    python3 -m deploy.lab.echo serve 127.0.0.1:8081
    python3 -m deploy.lab.echo load 127.0.0.1:15101 --streams 200 --every-ms 5

`load` writes totals as JSON lines, as apps.drive does, until SIGTERM; then it ends in order."""
import argparse
import asyncio
import json
import struct
import sys
import time

from .apps import TIMEOUT_S, Corrupted, Link, check, pattern, stopping

LOST = (OSError, EOFError, asyncio.TimeoutError, Corrupted)


async def serve_one(reader, writer):
    try:
        while head := await reader.read(65536):
            writer.write(head)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(host, port):
    await asyncio.start_server(serve_one, host, port, backlog=2048)
    print(json.dumps({"serving": port}), flush=True)
    await stopping().wait()


async def exchange(link, streams, seed, number, size):
    reader, writer = streams
    wanted = struct.pack("!I", number) + pattern(f"{seed}/{number}", size)
    writer.write(wanted)
    check(f"{seed} {number}", await asyncio.wait_for(reader.readexactly(len(wanted)), TIMEOUT_S),
          wanted)
    link.exchanges += 1
    link.bytes += 2 * len(wanted)


async def finish(streams):
    """Half-closes, and expects the end and nothing else."""
    reader, writer = streams
    writer.write_eof()
    if await asyncio.wait_for(reader.read(), TIMEOUT_S):
        raise Corrupted("bytes after the end")
    writer.close()


async def stream(link, stop, index, ready):
    """One connection that lives as long as the run, with an exchange now and then."""
    number, began = 0, time.monotonic()
    try:
        streams = await link.open()
        ready.append(index)
        while not stop.is_set():
            number += 1
            began = time.monotonic()
            await exchange(link, streams, f"stream{index}", number, 512 + (index * 37) % 3000)
            try:
                await asyncio.wait_for(stop.wait(), 0.3)
            except asyncio.TimeoutError:
                pass
        await finish(streams)
    except LOST as err:
        link.lost(f"stream {index} after {number} exchanges", err, began)


async def short(link, number, times):
    began = time.monotonic()
    try:
        streams = await link.open()
        await exchange(link, streams, "short", number, 100)
        times.append(time.monotonic() - began)
        await finish(streams)
    except LOST as err:
        link.lost(f"connection {number}", err, began)


async def load(host, port, num_streams, every_s):
    stop = stopping()
    link, ready, times, open_now = Link("echo", host, port), [], [], set()

    def report(final):
        alive = sum(not task.done() for task in tasks)
        print(json.dumps({"final": final, "streams": len(ready), "alive": alive, "short": len(times),
                          "links": {"echo": link.totals()}}), flush=True)

    tasks = [asyncio.create_task(stream(link, stop, i, ready)) for i in range(num_streams)]
    number, next_report = 0, 0.0
    while not stop.is_set():
        if len(open_now) < 200:  # a machine that cannot follow opens fewer, it does not queue them
            number += 1
            task = asyncio.create_task(short(link, number, times))
            open_now.add(task)
            task.add_done_callback(open_now.discard)
        if time.monotonic() >= next_report:
            report(False)
            next_report = time.monotonic() + 0.5
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except asyncio.TimeoutError:
            pass
    await asyncio.gather(*tasks, *open_now)
    report(True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("serve", "load"))
    parser.add_argument("address")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--every-ms", type=float, default=5)
    args = parser.parse_args()
    host, port = args.address.rsplit(":", 1)
    asyncio.run(serve(host, int(port)) if args.command == "serve" else
                load(host, int(port), args.streams, args.every_ms / 1000))


if __name__ == "__main__":
    sys.exit(main())
