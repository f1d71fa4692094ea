"""The applications' clients of deploy/lab, many more of them, for hours: whatever is lost is told at once, with when
it began, and everything that lives long begins anew.

    python3 -m test.soak.load management-portal=http:127.0.0.1:15101 …"""
import argparse
import asyncio
import json
import sys
import time

from deploy.lab.apps import (Corrupted, Link, drive, kept_http, lines_client, single_http,
                             upload_client)

KEPT_PAUSE = 10  # a connection that is kept is for living long, one that is new is for coming often


class SoakLink(Link):
    def lost(self, what, err, began):
        super().lost(what, err, began)
        print(json.dumps({"lost": {"link": self.name, "what": what, "began": began,
                                   "ended": time.monotonic(),
                                   "corrupted": isinstance(err, Corrupted),
                                   "error": f"{type(err).__name__} {err}"}}), flush=True)


async def kept(link, stop, worker, pause_s):
    await kept_http(link, stop, worker, pause_s * KEPT_PAUSE)


async def uploads(link, stop, worker, pause_s):
    """An upload that is lost is followed by the next."""
    number = 0
    while not stop.is_set():
        number += 1
        await upload_client(link, stop, f"{worker}.{number}", pause_s)
        try:
            await asyncio.wait_for(stop.wait(), pause_s)
        except asyncio.TimeoutError:
            pass


CLIENTS = {"http": ((kept, 16), (single_http, 3)), "lines": ((lines_client, 3), (uploads, 4))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two exchanges")
    args = parser.parse_args()
    asyncio.run(drive(args.specs, args.pause, SoakLink, CLIENTS))


if __name__ == "__main__":
    sys.exit(main())
