"""Without this nobody knows that databases work: PostgreSQL with psql and pgbench (prepared, pipelined, large COPY), Redis with
its own tools (pipelined, mass insertion, publish and subscribe), unmodified, through a pair.

Drives: B5, F1, R73"""
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment, wait_for
from test.testlib.others import digest, program, run

ROWS = 100_000
COPY_OUT = f"COPY (SELECT i, md5(i::text), repeat('x', i % 90) FROM generate_series(1, {ROWS}) i) TO STDOUT"

# A transaction whose statements are all sent before the first answer is read.
PIPELINE = r"""\set n random(1, 100000)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :n;
UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1;
SELECT repeat('y', 3000) FROM generate_series(1, 5);
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :n, 1, CURRENT_TIMESTAMP);
END;
\endpipeline
"""


def postgres_program(name):
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    assert found, f"{name} is missing: test/install test"
    return found[-1]


class Postgres:
    """A cluster of its own. The server refuses to be root: then it is the user that the package made."""

    def __init__(self, serve, port):
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="mortise-postgres-"))
        self.prefix = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = self.folder / "data"
        run(*self.prefix, postgres_program("initdb"), "-D", data, "-U", "postgres", "-A", "trust",
            "--no-sync", "--locale=C", "-E", "UTF8", cwd=self.folder)
        self.server = serve("postgres", *self.prefix, postgres_program("postgres"), "-D", data,
                            "-p", port, "-k", "", "-h", "127.0.0.1", "-F",
                            "-c", "max_connections=50", "-c", "shared_buffers=32MB")
        wait_for("PostgreSQL answers", lambda: self.answers(), 60)
        self.sql("CREATE DATABASE bench", database="postgres")
        self.bench("-i", "-q", "-I", "dtg", "--unlogged-tables")

    def answers(self):
        return subprocess.run([postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)],
                              capture_output=True, env=own_environment()).returncode == 0

    def _where(self, port, database="bench"):
        return ["-h", "127.0.0.1", "-p", port or self.port, "-U", "postgres", database]

    def sql(self, text, port=None, database="bench", **kwargs):
        return run(program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text,
                   *self._where(port, database), **kwargs)

    def bench(self, *flags, port=None):
        return run(postgres_program("pgbench"), *flags, *self._where(port), cwd=self.folder).decode()

    def remove(self):
        self.server.signal(signal.SIGQUIT)  # at once; nobody wants what it holds
        self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class TestPostgres:
    @pytest.fixture(scope="class")
    @classmethod
    def postgres(cls, pairs, serve):
        made = Postgres(serve, pairs.port)
        yield made
        made.remove()

    def test_large_copy_out(self, postgres, port):
        direct, through = postgres.sql(COPY_OUT), postgres.sql(COPY_OUT, port)
        assert len(direct) > 7_000_000 and digest(through) == digest(direct)

    def test_large_copy_in(self, postgres, port):
        data = postgres.sql(COPY_OUT)
        postgres.sql("DROP TABLE IF EXISTS got; CREATE UNLOGGED TABLE got (i int, m text, x text)", port)
        postgres.sql("COPY got FROM STDIN", port, input=data)
        assert digest(postgres.sql("COPY (SELECT * FROM got ORDER BY i) TO STDOUT")) == digest(data)

    def test_an_error_in_the_middle_of_a_copy_is_told(self, postgres, port):
        """The twin: the server speaks while the client still sends."""
        postgres.sql("DROP TABLE IF EXISTS few; CREATE UNLOGGED TABLE few (i int CHECK (i < 1000))", port)
        with pytest.raises(AssertionError, match="violates check constraint"):
            postgres.sql("COPY few FROM STDIN", port, input=b"".join(b"%d\n" % i for i in range(200_000)))
        assert postgres.sql("SELECT count(*) FROM few", port).strip() == b"0"

    @pytest.mark.parametrize("mode", ["simple", "prepared", "pipeline"])
    def test_pgbench(self, postgres, port, mode, tmp_path):
        flags = ["-M", mode]
        if mode == "pipeline":
            script = postgres.folder / "pipeline.sql"
            script.write_text(PIPELINE)
            script.chmod(0o644)
            flags = ["-M", "extended", "-f", script]
        told = postgres.bench("-n", "-c", "6", "-j", "2", "-t", "25", *flags, port=port)
        assert "number of failed transactions: 0" in told, told
        assert re.search(r"actually processed: 150/150", told), told
        sums = postgres.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance)"
                            " FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)")
        assert len(set(sums.decode().strip().split("|"))) == 1, sums
        print(re.search(r"latency average.*", told)[0])

    def test_many_new_connections(self, postgres, port):
        told = postgres.bench("-n", "-C", "-S", "-c", "4", "-t", "15", port=port)
        assert "number of failed transactions: 0" in told and "60/60" in told, told


class TestRedis:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, pairs, serve, folder):
        made = serve("redis", program("redis-server"), "--port", pairs.port, "--bind", "127.0.0.1",
                     "--save", "", "--appendonly", "no", "--dir", folder,
                     "--enable-debug-command", "yes")
        yield made
        made.stop()

    @staticmethod
    def cli(port, *args, **kwargs):
        return run(program("redis-cli"), "-p", port, *args, **kwargs)

    def test_benchmark_with_pipelining(self, port):
        for depth, number, tests in ((1, 1000, "set,get"), (64, 20_000, "set,get"), (8, 800, "lrange_100")):
            told = run(program("redis-benchmark"), "-p", port, "-c", "16", "-P", depth, "-n", number, "-q",
                       "-t", tests, "-d", "300").decode()
            assert told.count("requests per second") >= len(tests.split(",")) and "Error" not in told, told
            print(told.replace("\r", "\n").strip().splitlines()[-1])

    def test_mass_insertion_writes_the_same_as_directly(self, pairs, port):
        """redis-cli --pipe sends everything, then reads the answers until its own marker comes back."""
        number = 20_000
        lines = []
        for i in range(number):
            key, value = b"key:%d" % i, hashlib.sha512(b"%d" % i).hexdigest().encode() * (1 + i % 3)
            lines.append(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value))
        data = b"".join(lines)
        seen = []
        for where in (pairs.port, port):
            self.cli(where, "FLUSHALL")
            told = self.cli(where, "--pipe", input=data)
            assert b"errors: 0, replies: %d" % number in told, told
            seen.append(self.cli(where, "DEBUG", "DIGEST"))
        assert seen[0] == seen[1] != b"0" * 40

    def test_a_large_value_both_ways(self, port):
        value = os.urandom(16 << 20)
        assert self.cli(port, "-x", "SET", "large", input=value).strip() == b"OK"
        got = self.cli(port, "--raw", "GET", "large")
        assert digest(got[:-1]) == digest(value)  # the tool ends it with a newline

    def test_publish_and_subscribe(self, pairs, port):
        """The server pushes whenever somebody else publishes."""
        messages = [f"message {number} {'z' * (number % 500)}" for number in range(2000)]
        subscriber = subprocess.Popen([program("redis-cli"), "-p", str(port), "SUBSCRIBE", "news"],
                                      stdout=subprocess.PIPE, env=own_environment())
        try:
            for expected in (b"subscribe\n", b"news\n", b"1\n"):
                assert subscriber.stdout.readline() == expected
            told = self.cli(port, input="\n".join(f'PUBLISH news "{m}"' for m in messages).encode() + b"\n")
            assert told.split() == [b"1"] * len(messages)
            for message in messages:
                got = [subscriber.stdout.readline().decode().rstrip("\n") for _ in range(3)]
                assert got == ["message", "news", message]
        finally:
            subscriber.kill()
            subscriber.wait()

    def test_answers_to_a_blocked_client(self, port):
        """A client that waits in silence gets its answer when somebody else gives it."""
        waiting = subprocess.Popen([program("redis-cli"), "-p", str(port), "BLPOP", "queue", "60"],
                                   stdout=subprocess.PIPE, env=own_environment())
        try:
            wait_for("it is blocked", lambda: b"blocked_clients:1" in self.cli(port, "INFO", "clients"))
            self.cli(port, "RPUSH", "queue", "word")
            assert waiting.communicate(timeout=30)[0] == b"queue\nword\n"
        finally:
            waiting.kill()
            waiting.wait()
