"""Without this a careless parent would decide what becomes of a program: started with standard descriptors closed, with
a signal on its way, with a limit of file sizes or of descriptors, with its output on a full disk, it serves or says what
is wrong, and never writes into what is not meant.

Drives: R14, R71, F18, B6"""
import fcntl
import json
import os
import re
import resource
import signal
import subprocess

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import Binaries, Program, own_environment, wait_for
from test.testlib.echo_app import EchoApp, exchange
from test.testlib.static import StaticPair, free_port

CLOSED = {"input": "0<&-", "output": "1>&-", "error": "2>&-", "all": "0<&- 1>&- 2>&-"}


class Starting(Binaries):
    """The programs, started by a shell that does `first` and redirects as `how` says."""

    def __init__(self, folder, binaries, first="", how=""):
        super().__init__(binaries.folder)
        for name in ("proxy", "control", "ctl", "cert"):
            script = folder / f"start-{name}"
            script.write_text(f'#!/bin/sh\n{first}\nexec {getattr(self, name)} "$@" {how}\n')
            script.chmod(0o755)
            setattr(self, name, script)


def run(program, *args, **more):
    return subprocess.run([str(program), *map(str, args)], capture_output=True, text=True, timeout=60,
                          env=own_environment(), **more)


def control_argv(folder, binaries, *more):
    data = folder / "control"
    if not data.exists():
        subprocess.run([binaries.ctl, "init", data, "--trust-domain", "start.test"], check=True, capture_output=True)
    return [binaries.control, "--config", data / "control.yaml", "--listen", f"127.0.0.1:{free_port()}",
            "--operator-socket", folder / "operator.sock", *more]


@pytest.fixture
def own(tmp_path_factory):
    # A socket's path is short.
    return tmp_path_factory.mktemp("s")


# Standard descriptors that are closed.


def standard(program):
    return [os.readlink(f"/proc/{program.pid}/fd/{number}") for number in range(3)]


@pytest.mark.sanitize
@pytest.mark.parametrize("what", CLOSED)
def test_a_sidecar_without_standard_descriptors_serves_and_ends(own, binaries, what):
    pair = StaticPair(own, Starting(own, binaries, how=CLOSED[what]))
    with EchoApp(pair.target_port):
        try:
            pair.start()
            for number, link in enumerate(standard(pair["server"])):
                closed = CLOSED[what].startswith(str(number)) or what == "all"
                assert (link == "/dev/null") == (closed or number == 0)
            assert exchange(pair.app_port) == b"hello"
            pair["server"].signal(signal.SIGHUP)
            assert exchange(pair.app_port) == b"hello"
        finally:
            pair.stop()
    assert [program.child.returncode for program in pair.programs.values()] == [0, 0]


def test_a_control_plane_without_standard_descriptors_serves_and_ends(own, binaries):
    control_argv(own, binaries)
    program = Program("control", control_argv(own, Starting(own, binaries, how=CLOSED["all"])), own)
    try:
        program.wait_ready()
        assert standard(program) == ["/dev/null"] * 3
        assert run(binaries.ctl, "--socket", own / "operator.sock", "get", "mesh").returncode == 0
    finally:
        assert program.stop() == 0


@pytest.mark.parametrize("what", CLOSED)
def test_tools_without_standard_descriptors(own, binaries, what):
    starting = Starting(own, binaries, how=CLOSED[what])
    assert run(starting.ctl, "--socket", own / "none.sock", "status").returncode == 1
    made = [own / "root.pem", own / "root.key"]
    done = run(starting.cert, "new-root", "--trust-domain", "start.test", "--cert", made[0], "--key", made[1])
    assert done.returncode == 0, done
    assert made[0].read_text().startswith("-----BEGIN CERTIFICATE") and made[0].read_text().count("-----") == 4
    assert run(binaries.cert, "show", made[0]).returncode == 0


# A signal before it listens to signals.


@pytest.mark.parametrize("name", ["proxy", "control"])
def test_sighup_before_it_is_ready_for_it_is_no_reason_to_end(binaries, name):
    """It is stopped in its start by the one thing that waits: to print its answer."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    filled = os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    child = subprocess.Popen([getattr(binaries, name), "--help"], stdout=writing, env=own_environment())
    os.close(writing)

    def waits():
        with open(f"/proc/{child.pid}/syscall") as file:
            return file.read().split()[0] in ("1", "64")  # write, of x86-64 and aarch64

    try:
        wait_for("it waits for its reader", waits)
        child.send_signal(signal.SIGHUP)
        with os.fdopen(reading, "rb") as file:
            text = file.read()
        assert child.wait(30) == 0
        assert len(text) > filled and b"--log-level" in text
    finally:
        child.kill()
        child.wait()


# A limit of file sizes.


@pytest.mark.sanitize
def test_a_limit_of_file_sizes_loses_lines_and_not_the_sidecar(own, binaries):
    """As a full disk; with room again lines are written, and the first says how many are missing."""
    # What a build that counts its coverage writes is a file, too.
    pair = StaticPair(own, Starting(own, binaries, first="export LLVM_PROFILE_FILE=/dev/null; ulimit -S -f 1"))
    with EchoApp(pair.target_port):
        try:
            pair.start()
            assert exchange(pair.app_port) == b"hello"
            server = pair["server"]
            wait_for("lines are lost", lambda: server.metrics()["mortise_log_lines_lost_total"] > 0)
            assert server.log.stat().st_size <= 1024
            hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert exchange(pair.app_port) == b"hello"
            assert wait_for("it is told", lambda: [e for e in server.events() if e.get("lost", 0) > 0])
        finally:
            pair.stop()


def test_a_limit_of_file_sizes_makes_the_store_unwritable_and_ends_nothing(own, binaries):
    program = Program("control", control_argv(own, binaries), own)

    def apply(**client):
        return run(binaries.ctl, "--socket", own / "operator.sock", "apply", "-f", "-",
                   input=json.dumps(document(client=client)))

    try:
        program.wait_ready()
        assert apply().returncode == 0, "the good twin"
        limits = resource.prlimit(program.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        done = apply(min_version="TLS1_2")
        assert done.returncode == 1 and "store_unwritable" in done.stderr, done
        assert run(binaries.ctl, "--socket", own / "operator.sock", "get", "mesh").returncode == 0
        done = run(binaries.ctl, "--socket", own / "operator.sock", "check")
        assert done.returncode == 1 and "FAILED  store: store cannot be written" in done.stdout, done
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, limits)
        done = apply(min_version="TLS1_2")
        assert done.returncode == 0, done
    finally:
        assert program.stop() == 0


# Too few descriptors.


def enough(told):
    """The limit that would be enough, as it says."""
    return int(re.search(r"RLIMIT_NOFILE is \d+, .* (\d+) would be enough", told)[1])


@pytest.mark.sanitize
@pytest.mark.parametrize("limit,workers", [(12, 1), (32, 64)])
def test_a_sidecar_with_too_few_descriptors_says_how_many_it_needs(own, binaries, limit, workers):
    """And with so many it starts."""
    settings = {"server_settings": {"workers": workers}}
    pair = StaticPair(own, **settings)
    done = run(Starting(own, binaries, first=f"ulimit -n {limit}").proxy, "--config", pair.path("server"))
    assert done.returncode == 2 and "--workers" in done.stderr, done
    pair.bin = Starting(own, binaries, first=f"ulimit -n {enough(done.stderr)}")
    with EchoApp(pair.target_port):
        try:
            pair.start()
            assert exchange(pair.app_port) == b"hello"
        finally:
            pair.stop()


def test_a_control_plane_with_too_few_descriptors_says_how_many_it_needs(own, binaries):
    argv = control_argv(own, binaries)
    done = run(Starting(own, binaries, first="ulimit -n 8").control, *argv[1:])
    assert done.returncode == 2, done
    argv[0] = Starting(own, binaries, first=f"ulimit -n {enough(done.stderr)}").control
    program = Program("control", argv, own)
    try:
        program.wait_ready()
        done = run(Starting(own, binaries, first="ulimit -n 7").ctl, "--socket", own / "operator.sock", "get", "mesh")
        assert done.returncode == 2, done
        done = run(Starting(own, binaries, first=f"ulimit -n {enough(done.stderr)}").ctl, "--socket",
                   own / "operator.sock", "get", "mesh")
        assert done.returncode == 0, done
    finally:
        assert program.stop() == 0


# An answer that cannot be written.


@pytest.mark.parametrize("name", ["proxy", "control", "ctl", "cert"])
@pytest.mark.parametrize("flag", ["--help", "--version", "--check"])
def test_an_answer_on_a_full_disk_is_no_success(own, binaries, name, flag):
    if flag == "--check":
        argv = {"proxy": ["--config", StaticPair(own, binaries).path("server"), "--check"],
                "control": [*control_argv(own, binaries)[1:], "--check"],
                "ctl": ["completion", "bash"],
                "cert": ["profile", "--name", "default-tls-server"]}[name]
    else:
        argv = [flag]
    argv = [getattr(binaries, name), *argv]
    assert subprocess.run(argv, stdout=subprocess.DEVNULL, timeout=60, env=own_environment()).returncode == 0
    with open("/dev/full", "wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=own_environment())
    # A long one fails before its end, and what the system said of that is not known any more then.
    assert done.returncode == 1 and re.search("cannot write the answer: (No space left|an earlier write failed)",
                                              done.stderr), done
