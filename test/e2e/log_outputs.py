"""Without this whoever reads the log decides about traffic: a reader that is slow, has stopped or is not there costs
lines, which are counted, and neither a connection nor its speed.

Drives: E5, R25, F3, R71, F18"""
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from deploy.lab.programs import Binaries, own_environment, wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.static import StaticPair

LOST = "mortise_log_lines_lost_total"


@pytest.fixture
def own(tmp_path_factory):
    # A socket's path is short.
    return tmp_path_factory.mktemp("l")


@contextlib.contextmanager
def running(folder, binaries, **server):
    pair = StaticPair(folder, binaries, server_settings=server)
    with EchoApp(pair.target_port):
        try:
            yield pair
        finally:
            pair.stop()


# A pipe in the file system.


class Reader:
    """Reads a FIFO, like the collector of a log; nothing before it is told to."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = b""

    def lines(self):
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.fd, 1 << 16):
                self.text += part
        return [json.loads(line) for line in self.text.splitlines()]

    def close(self):
        os.close(self.fd)


@pytest.fixture
def fifo(own):
    os.mkfifo(own / "access.fifo", 0o600)
    return own / "access.fifo"


def test_a_pipe_that_nobody_reads_is_refused_at_the_start(own, binaries, fifo):
    pair = StaticPair(own, binaries, server_settings={"access_log": str(fifo)})
    done = subprocess.run([binaries.proxy, "--config", pair.path("server")], capture_output=True, text=True,
                          timeout=20, env=own_environment())
    assert done.returncode == 2
    assert "--access-log" in done.stderr and str(fifo) in done.stderr and "nobody reads" in done.stderr


@pytest.mark.sanitize
def test_a_pipe_with_a_reader_is_written_and_sighup_never_waits_for_one(own, binaries, fifo):
    with running(own, binaries, access_log=str(fifo)) as pair:
        reader = Reader(fifo)
        server = pair.start()["server"]
        assert exchange(pair.app_port) == b"hello"
        wait_for("its line", lambda: len(reader.lines()) == 1)
        server.signal(signal.SIGHUP)
        wait_for("lines go on", lambda: exchange(pair.app_port) and len(reader.lines()) > 2)

        reader.close()
        server.signal(signal.SIGHUP)
        told = wait_for("it is told", lambda: server.events("access_log_failed"))[0]
        assert told["path"] == str(fifo) and "nobody reads" in told["reason"] and told["error"] == "file_open"
        assert server.ready()
        assert exchange(pair.app_port) == b"hello"
        reader = Reader(fifo)  # another reader of the same pipe: the old descriptor is still there
        wait_for("a line", lambda: exchange(pair.app_port) and reader.lines())
        server.signal(signal.SIGHUP)
        wait_for("lines go on", lambda: exchange(pair.app_port) and len(reader.lines()) > 3)
        assert len(server.events("access_log_failed")) == 1
        reader.close()


def test_a_full_pipe_loses_lines_and_says_so(own, binaries, fifo):
    with running(own, binaries, access_log=str(fifo)) as pair:
        reader = Reader(fifo)
        fcntl.fcntl(reader.fd, fcntl.F_SETPIPE_SZ, 4096)
        server = pair.start()["server"]
        for _ in range(30):
            assert exchange(pair.app_port) == b"hello"
        wait_for("lines are lost", lambda: server.metrics()[LOST] > 0)
        wait_for("a line after them", lambda: exchange(pair.app_port) and any(
            line.get("lost", 0) > 0 for line in reader.lines()))
        reader.close()


# Standard output and error are a pipe whose reader is alive and slow.


class SlowReader:
    """Takes 25 kB a second of a FIFO that it makes."""

    def __init__(self, path):
        os.mkfifo(path, 0o600)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 16384)
        self.taken = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.04):
            with contextlib.suppress(BlockingIOError):
                self.taken += len(os.read(self.fd, 1024))

    def stop(self):
        self._stop.set()
        self._thread.join()
        os.close(self.fd)


class SlowLog(Binaries):
    """The programs; the sidecar writes its log into that pipe."""

    def __init__(self, folder, binaries):
        super().__init__(binaries.folder)
        self.reader = SlowReader(folder / "log.fifo")
        self.proxy = folder / "slow-log"
        self.proxy.write_text(f'#!/bin/sh\nexec {binaries.proxy} "$@" >{folder}/log.fifo 2>&1\n')
        self.proxy.chmod(0o755)


def test_a_slow_reader_of_the_log_slows_no_stream_down(own, binaries):
    """A line for each of many short connections, more than the reader takes; an open stream beside them."""
    slow = SlowLog(own, binaries)
    stop = threading.Event()
    problems, times = [], []

    def churn():
        while not stop.is_set():
            try:
                exchange(pair.app_port)
            except OSError as err:
                problems.append(repr(err))

    try:
        with running(own, slow) as pair:
            pair.start()
            with socket.create_connection(("127.0.0.1", pair.app_port), 10) as stream:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=churn)
                thread.start()
                try:
                    wait_for("lines are lost", lambda: pair["server"].metrics()[LOST] > 0, 60)
                    taken = slow.reader.taken
                    for _ in range(400):
                        began = time.monotonic()
                        stream.sendall(b"ping")
                        assert stream.recv(4, socket.MSG_WAITALL) == b"ping"
                        times.append(time.monotonic() - began)
                        stop.wait(0.005)
                    assert slow.reader.taken > taken, "it takes something all the while"
                finally:
                    stop.set()
                    thread.join()
    finally:
        slow.reader.stop()
    times.sort()
    assert problems == []
    assert times[len(times) * 9 // 10] < 0.05, times[::40]
