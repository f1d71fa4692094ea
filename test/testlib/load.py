"""Background load through one link, verified byte by byte: streams that live on, and a connection every few milliseconds.

They are counted apart: what may cost a new connection may not cost one that is open."""
import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path

from deploy.lab import echo
from deploy.lab.apps import Link, stopping
from deploy.lab.programs import LabError, Process, wait_for
from test.testlib.echo_app import exchange
from test.testlib.fixtures import CONFIG
from test.testlib.pki import Ca
from test.testlib.static import TRUST_DOMAIN, StaticPair

# Of a sanitized build less is asked.
STREAMS, EVERY_MS = (50, 5) if CONFIG == "opt" else (20, 50)
DAY = 86400
ID = f"spiffe://{TRUST_DOMAIN}/ns/test/sa/"
ROOT = Path(__file__).resolve().parents[2]


def python(module, *args):
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", module, *map(str, args)]


class Part:
    """One generator and its running totals."""

    def __init__(self, name, folder, host, argv):
        self.name, self.out = name, Path(folder) / f"{name}.json"
        with open(self.out, "wb") as out:
            self.process = Process(name, argv, folder, host, stdout=out)

    def last(self):
        for line in reversed(self.out.read_bytes().splitlines()):
            try:
                return json.loads(line)
            except ValueError:
                continue
        return {}

    def totals(self):
        last = self.last()
        return {"exchanges": 0, "dropped": 0, "corrupted": 0, **last.get("links", {}).get("echo", {}),
                "streams": last.get("streams", 0), "short": last.get("short", 0)}

    def finish(self, timeout_s=90):
        """Ends in order: every connection is finished and its end checked. The totals."""
        self.process.signal(15)
        assert self.process.wait(timeout_s) == 0, self.process.tail()
        return self.totals()


class Load:
    """client application → :app_port … :target_port → echo application; `hosts` are those two's, on which
    `address` is loopback."""

    def __init__(self, folder, app_port, target_port, streams=STREAMS, every_ms=EVERY_MS,
                 hosts=(None, None), address="127.0.0.1", name="load"):
        self.streams = streams
        self.server = Process(f"{name}-echo", python("deploy.lab.echo", "serve",
                                                     f"{address}:{target_port}"), folder, hosts[1])
        wait_for("the echo application listens", lambda: "serving" in self.server.tail())
        self.long = Part(f"{name}-long", folder, hosts[0],
                         python("test.testlib.load", address, app_port, streams))
        self.short = Part(f"{name}-short", folder, hosts[0],
                          python("deploy.lab.echo", "load", f"{address}:{app_port}",
                                 "--streams", 0, "--every-ms", every_ms))

    def wait_up(self, timeout_s=60):
        wait_for("all streams are open", lambda: self.long.totals()["streams"] == self.streams,
                 timeout_s)
        self.more(timeout_s=timeout_s)
        return self

    def rounds(self, number=1, timeout_s=60):
        """Waits until the streams have exchanged that often more, each of them on average."""
        before = self.long.totals()["exchanges"]
        try:
            wait_for("the streams go on", lambda: self.long.totals()["exchanges"] >=
                     before + number * self.streams, timeout_s)
        except LabError as err:
            raise LabError(f"{err}: {self.long.totals()}") from None

    def more(self, rounds=1, connections=20, timeout_s=60):
        """Waits for rounds of the streams, and for so many new connections: both go on."""
        before = self.short.totals()["short"]
        self.rounds(rounds, timeout_s)
        try:
            wait_for("more connections", lambda: self.short.totals()["short"] >=
                     before + connections, timeout_s)
        except LabError as err:
            raise LabError(f"{err}: {self.short.totals()}") from None

    def lost(self):
        """How many streams and how many new connections were lost."""
        return self.long.totals()["dropped"], self.short.totals()["dropped"]

    def intact(self, connections_too=True):
        """No stream was lost, no byte was wrong; and no new connection was lost either."""
        long, short = self.long.totals(), self.short.totals()
        assert long["dropped"] == long["corrupted"] == short["corrupted"] == 0, (long, short)
        if connections_too:
            assert short["dropped"] == 0, short

    def finish(self, connections_too=True):
        self.short.finish()
        self.long.finish()
        self.intact(connections_too)
        return self.long.totals(), self.short.totals()

    def stop(self):
        for part in (self.long, self.short):
            part.process.kill()
        self.server.kill()


@contextlib.contextmanager
def loaded(folder, binaries, name, env=None, streams=STREAMS, **settings):
    """A static pair in a folder of its own, and the load through it; both run. Its certificates are from a
    week ago to a week from now."""
    inside = folder / name
    inside.mkdir()
    pair = StaticPair(inside, binaries, client_settings=settings, server_settings=settings, env=env)
    pair.ca = Ca(begins_days=-30)
    pair.roots.write_bytes(pair.ca.root_pem())
    for side in ("client", "server"):
        cert = pair.ca.issue(ID + side, valid_s=7 * DAY, begins_s=-7 * DAY)
        setattr(pair, side, pair.renew(side, cert))
    load = None
    try:
        pair.start()
        load = Load(inside, pair.app_port, pair.target_port, streams)
        yield pair, load.wait_up()
    finally:
        if load is not None:
            load.stop()
        pair.stop()


def dial(port, host="127.0.0.1"):
    sock = socket.create_connection((host, port), 10)
    sock.settimeout(10)
    return sock


def through(port, timeout_s=10):
    """Whether a new connection comes through."""
    try:
        return exchange(port, b"new", timeout_s) == b"new"
    except OSError:
        return False


async def long(address, port, streams):
    """The streams of deploy.lab.echo alone, with the same totals."""
    stop, link, ready = stopping(), Link("echo", address, port), []
    tasks = asyncio.gather(*(echo.stream(link, stop, i, ready) for i in range(streams)))
    while True:
        print(json.dumps({"final": tasks.done(), "streams": len(ready),
                          "links": {"echo": link.totals()}}), flush=True)
        if tasks.done():
            break
        await asyncio.wait([tasks], timeout=0.25)
    await tasks
    await stop.wait()  # when they are lost: for whoever asks


if __name__ == "__main__":
    asyncio.run(long(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
