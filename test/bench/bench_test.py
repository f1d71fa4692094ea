"""Tests of the benchmark itself: a relay that corrupts, loses or cheats must not get a number.

They are of the measuring instrument and drive no requirement row. Needs the load generator's path
in MORTISE_BENCH_LOAD, and HAProxy."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import cells
import check
import peers
import pki
import process
import report

LOAD = os.environ.get("MORTISE_BENCH_LOAD", "")
BASE = 22000  # not the port of a benchmark that may be running
HERE = Path(__file__).resolve().parent


class Relay(check.Server):
    """A plaintext relay from BASE to BASE + 2 whose bytes from the server go through `fault`,
    called with (bytes, how many went before); None from it ends the connection."""

    def __init__(self, fault):
        self._fault = fault
        super().__init__(BASE, self._forward)

    def _forward(self, near):
        near.settimeout(None)
        with socket.create_connection(("127.0.0.1", BASE + 2)) as far:
            back = threading.Thread(target=self._back, args=(far, near))
            back.start()
            check.pump(near, far, bytearray())
            back.join()

    def _back(self, far, near):
        passed = 0
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                changed = self._fault(data, passed)
                if changed is None:
                    break
                passed += len(data)
                near.sendall(changed)
        for end in (near, far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def faithful(data, passed):
    return data


def flips_a_bit(data, passed):
    at = 100_000 - passed
    if 0 <= at < len(data):
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
    return data


def swaps_bytes(data, passed):
    return data[::-1]


def hangs_up(data, passed):
    return None if passed + len(data) > 100_000 else data


def loses_the_middle(data, passed):
    return b"" if passed < 1_000_000 < passed + len(data) else data


def answers_nothing(data, passed):
    return b""


def load(*argv, stdin=""):
    done = subprocess.run([LOAD, *map(str, argv)], input=stdin, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done
    return json.loads(done.stdout.splitlines()[-1])


class LoadTest(unittest.TestCase):
    SHORT = ("--seconds", 0.2, "--warm", 0.05)

    def run_through(self, fault, command, *argv, stdin=""):
        with Relay(fault):
            return load(command, "--to", BASE, "--at", BASE + 2, *argv, stdin=stdin)

    def test_faithful_relay_has_no_errors(self):
        for argv in (("verify", "--streams", 3, "--bytes", 300_000), ("ping", *self.SHORT),
                     ("churn", *self.SHORT), ("bulk", *self.SHORT), ("bulk", "--down", *self.SHORT),
                     ("idle", "--connections", 20, "--size", 1)):
            with self.subTest(argv[0]):
                self.assertEqual(self.run_through(faithful, *argv)["errors"], 0)

    def test_verify_sees_one_bit(self):
        found = self.run_through(flips_a_bit, "verify", "--bytes", 300_000)
        self.assertEqual(found["errors"], 1, found)
        self.assertIn("wrong bytes", found["faults"][0])

    def test_verify_sees_an_early_end(self):
        self.assertIn("end of stream",
                      self.run_through(hangs_up, "verify", "--bytes", 300_000)["faults"][0])

    def test_ping_sees_a_wrong_answer(self):
        self.assertIn("differs", self.run_through(swaps_bytes, "ping", *self.SHORT)["faults"][0])

    def test_ping_without_answers_has_no_time(self):
        found = self.run_through(answers_nothing, "ping", *self.SHORT)
        self.assertEqual((found["errors"], found["round_trips"]), (1, 0))

    def test_churn_sees_a_refused_connection(self):
        self.assertGreater(load("churn", "--to", BASE + 1, "--at", BASE + 2, *self.SHORT)["errors"],
                           0)

    def test_bulk_sees_lost_bytes(self):
        found = self.run_through(hangs_up, "bulk", "--down", *self.SHORT)
        self.assertGreater(found["errors"], 0)

    def test_bulk_sees_bytes_that_are_missing_in_between(self):
        found = self.run_through(loses_the_middle, "bulk", "--down", *self.SHORT)
        self.assertRegex(found["faults"][0], "^[0-9]+ bytes sent, [0-9]+ arrived")

    def test_idle_sees_a_connection_that_was_closed(self):
        found = self.run_through(hangs_up, "idle", "--connections", 2, "--size", 1,
                                 stdin="60000\n60000\n")
        self.assertGreater(found["errors"], 0)

    def test_a_process_that_is_gone_is_an_error(self):
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        found = self.run_through(faithful, "ping", "--side", gone.pid, *self.SHORT)
        self.assertIn("is gone", found["faults"][0])

    def test_wrong_command_lines(self):
        for argv in (("nonsense",), ("ping", "--to", "0", "--at", "1"), ("ping", "--at", "1"),
                     ("bulk", "--to", "1", "--at", "2", "--streams", "1x")):
            done = subprocess.run([LOAD, *argv], stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 2, argv)
            self.assertIn("usage", done.stderr)


class NoClientCertificate(peers.Haproxy):
    name = "haproxy-lax"

    def _tls(self, role):
        bind, server, rule = super()._tls(role)
        return bind.replace("verify required", "verify none"), server, ""


class NoIdentity(peers.Haproxy):
    name = "haproxy-any"

    def _tls(self, role):
        bind, server, _ = super()._tls(role)
        return bind, server.split(" verifyhost")[0] + " ssl-min-ver TLSv1.3 no-ssl-reuse", ""


class Resuming(peers.Haproxy):
    name = "haproxy-resuming"

    def _tls(self, role):
        bind, server, rule = super()._tls(role)
        return bind.replace(" no-tls-tickets", ""), server.replace(" no-ssl-reuse", ""), rule


class OtherSuite(peers.Haproxy):
    name = "haproxy-256"

    def _tls(self, role):
        return tuple(part.replace("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")
                     for part in super()._tls(role))


class Naked(peers.HaproxyPlain):
    name = "haproxy-naked"


class CheckTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.own, cls.stranger = pki.make(cls.folder / "pki")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def faults(self, kind):
        pair = kind(peers.Tools(load=LOAD), peers.ports(BASE, 1), self.own, self.folder,
                    process.cores()[0])
        return " / ".join(check.check(pair, self.stranger))

    def test_good_pair(self):
        self.assertEqual(self.faults(peers.Haproxy), "")

    def test_client_without_certificate(self):
        self.assertIn("certificate: none: taken", self.faults(NoClientCertificate))

    def test_wrong_identity(self):
        found = self.faults(NoIdentity)
        self.assertIn("server side: a client with certificate: wrong identity's: taken", found)
        self.assertIn("client side: a server with certificate: wrong identity's: taken", found)

    def test_resumption(self):
        self.assertIn("a session was resumed", self.faults(Resuming))

    def test_other_suite(self):
        self.assertIn(f"'suite': {0x1302}", self.faults(OtherSuite))

    def test_plaintext(self):
        self.assertIn("no ServerHello", self.faults(Naked))


class ReportTest(unittest.TestCase):
    MEASURES = [cells.Measure("c.t", "time", "s", 1),
                cells.Measure("c.n", "count", "1/s", 0, False)]

    def record(self, ours, theirs):
        """A record from lists of values by round; None is a cell with an error."""
        record = report.Record({"mortise": "Mortise", "haproxy": "HAProxy"}, self.MEASURES)
        for peer, values in (("mortise", ours), ("haproxy", theirs)):
            for round_, value in enumerate(values):
                faults = ["broken"] if value is None else []
                record.add(round_, peer, cells.Result("c", {"t": value or 0.001, "n": value or 9e9},
                                                      faults))
        return record

    def judge(self, record, **goal):
        return report.judge(record, [goal], "mortise")[0]

    def test_ratio_is_of_the_same_round(self):
        # Medians 2 and 20; inside the rounds 1/10, 2/1, 30/20: the middle one is 1.5.
        record = self.record([1, 2, 30], [10, 1, 20])
        self.assertEqual(record.ratio("mortise", "c.t", "haproxy"), 1.5)

    def test_invalid_cell_is_in_no_number_and_in_the_list(self):
        record = self.record([1, None, 3], [10, 10, 10])
        self.assertEqual(record.median("mortise", "c.t"), 2)
        self.assertEqual(len(record.ratios("mortise", "c.t", "haproxy")), 2)
        self.assertEqual([found[:3] for found in record.invalid()], [(1, "c", "mortise")])
        self.assertIn("invalid 1/3", report.table(record))

    def test_goals(self):
        record = self.record([8, 8, 8], [10, 10, 10])
        self.assertTrue(self.judge(record, measure="c.t", against="haproxy", at_most=0.8).passed)
        self.assertFalse(self.judge(record, measure="c.t", against="haproxy", at_most=0.79).passed)
        self.assertTrue(self.judge(record, measure="c.n", against="haproxy", at_least=0.8).passed)
        self.assertFalse(self.judge(record, measure="c.n", against="haproxy", at_least=0.81).passed)
        self.assertTrue(self.judge(record, measure="c.t", at_most=8).passed)
        self.assertFalse(self.judge(record, measure="c.t", at_most=7.9).passed)

    def test_goal_is_missed_when_we_have_errors(self):
        record = self.record([1, 1, None], [10, 10, 10])
        self.assertFalse(self.judge(record, measure="c.t", against="haproxy", at_most=9).passed)

    def test_goal_is_missed_when_there_is_nothing_to_compare_with(self):
        record = self.record([1, 1, 1], [None, None, 10])
        verdict = self.judge(record, measure="c.t", against="haproxy", at_most=9)
        self.assertFalse(verdict.passed)
        self.assertIn("not measured", verdict.text)

    def test_wrong_goals_are_errors(self):
        record = self.record([1], [1])
        for goal in ({"measure": "c.x", "at_most": 1}, {"measure": "c.t"},
                     {"measure": "c.t", "at_most": 1, "at_least": 1}):
            with self.assertRaises(ValueError):
                report.judge(record, [goal], "mortise")

    def test_goals_file(self):
        record = report.Record({"mortise": "Mortise"}, cells.MEASURES)
        verdicts = report.judge(record, json.loads((HERE / "goals.json").read_text()), "mortise")
        self.assertFalse(any(verdict.passed for verdict in verdicts))  # nothing was measured


class StopTest(unittest.TestCase):
    def stop_with(self, number):
        folder = tempfile.TemporaryDirectory()
        with folder, subprocess.Popen(
                [sys.executable, HERE / "bench.py", "--peers", "plain", "--cells", "up1",
                 "--rounds", "100", "--load", LOAD, "--base-port", str(BASE), "--out", folder.name],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            app = peers.ports(BASE, list(peers.KINDS).index("plain")).app
            process.wait_until("the relay listens", lambda: process.listening(app))
            below = process.descendants(run.pid)
            run.send_signal(number)
            run.communicate(timeout=20)
        self.assertGreater(len(below), 2)
        for pid in below:
            self.assertFalse(Path(f"/proc/{pid}").exists(), pid)
        return run.returncode

    def test_interrupt_leaves_nothing_running(self):
        self.assertEqual(self.stop_with(signal.SIGINT), 130)

    def test_terminate_leaves_nothing_running(self):
        self.assertEqual(self.stop_with(signal.SIGTERM), 143)


if __name__ == "__main__":
    if not LOAD:
        sys.exit("MORTISE_BENCH_LOAD: the path of the load generator is missing")
    process.extend_path()
    unittest.main()
