"""Without this our HTTP/2 could be one that forgives, or refuses, what RFC 9113 does not: h2spec goes through every
HTTP/2 port of ours and through lib/rpc/h2 by itself. What it finds is what test/interop/h2/waivers.yaml says, with a
reason for each; a case that passes although it is waived is a finding too.

Drives: F2, R14, R72, R73"""
import contextlib
import os
import shutil
import socket
import subprocess
import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from deploy.lab.programs import Binaries, own_environment
from test.testlib.control import LoneControl
from test.testlib.static import free_port

WAIVERS = Path(__file__).with_name("waivers.yaml")
PORTS = ("h2", "control", "operator")
CASES = 145  # of h2spec 2.2.1


class Bridge:
    """A TCP port in front of a Unix socket: h2spec knows TCP only."""

    def __init__(self, path):
        self.path, self.port = path, free_port()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self.path))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture(scope="module")
def h2_server():
    """The port of lib/rpc/h2 with an answer to everything."""
    path = Binaries().folder / "test" / "interop" / "h2" / "h2_server"
    assert path.exists(), "bazel build //test/interop/h2:h2_server"
    child = subprocess.Popen([path, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True,
                             env=own_environment())
    yield int(child.stdout.readline().rsplit(":", 1)[1])
    child.terminate()
    child.stdout.close()
    assert child.wait(20) == 0


@pytest.fixture(scope="module")
def control(folder, binaries):
    binaries.check("control", "ctl")
    made = LoneControl(folder, binaries).start()
    yield made
    made.stop()


def h2spec(port, report, *flags):
    """{"5.1.1/2": (what it does, None, or what is wrong)}"""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mortise", "bin")
    found = shutil.which("h2spec", path=f"{cache}:{os.environ.get('PATH', '')}")
    assert found, "h2spec is missing: test/install test"
    done = subprocess.run([found, "-h", "127.0.0.1", "-p", str(port), "--timeout", "5", "-j", report,
                           *flags], capture_output=True, text=True, timeout=300)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    cases = {}
    for suite in ET.parse(report).getroot().iter("testsuite"):
        for number, case in enumerate(suite.iter("testcase"), 1):
            wrong = case.find("error") if case.find("failure") is None else case.find("failure")
            if wrong is None:
                wrong = case.find("skipped")
            why = None if wrong is None else " ".join((wrong.text or "").split()) or "skipped"
            cases[f"{suite.get('package')}/{number}"] = (case.get("classname"), why)
    return cases


@pytest.fixture(scope="module")
def results(control, h2_server, folder):
    """All ports at the same time: h2spec mostly waits for what is not to come."""
    bridge = Bridge(control.socket)
    with ThreadPoolExecutor(len(PORTS)) as pool:
        running = {
            "h2": pool.submit(h2spec, h2_server, folder / "h2.xml"),
            "control": pool.submit(h2spec, control.port, folder / "control.xml", "-t", "-k"),
            "operator": pool.submit(h2spec, bridge.port, folder / "operator.xml"),
        }
        found = {port: future.result() for port, future in running.items()}
    bridge.close()
    return found


@pytest.fixture(scope="module")
def waivers():
    return yaml.safe_load(WAIVERS.read_text())


@pytest.mark.parametrize("port", PORTS)
def test_what_is_not_as_the_rfc_says_is_waived(results, waivers, port):
    assert len(results[port]) == CASES
    here = [waiver for waiver in waivers if port in waiver["ports"]]
    waived = {case for waiver in here for case in waiver["cases"]}
    ends = tuple(end for waiver in here for end in waiver.get("actual", ()))
    certain = {case for waiver in here if not waiver.get("race") for case in waiver["cases"]}
    failed = {case: found for case, found in results[port].items() if found[1] is not None}
    unknown = {case: found for case, found in failed.items()
               if case not in waived and not (ends and found[1].endswith(ends))}
    assert not unknown, unknown
    assert certain <= set(failed), f"waived, and yet it passes: {certain - set(failed)}"


def test_each_waiver_has_its_reason(waivers):
    for waiver in waivers:
        assert set(waiver) - {"race", "actual"} == {"ports", "cases", "reason"}
        assert set(waiver["ports"]) <= set(PORTS) and len(waiver["reason"]) > 40


def test_after_all_that_the_ports_are_as_ever(results, control):
    """The good twin: a call over the port that was mistreated, and no connection is left."""
    assert control.ctl("status")
    assert control.program.alive()
