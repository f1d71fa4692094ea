"""What the tests of real protocols share: a pair of sidecars for each TLS version, both towards one application."""
import pytest

from deploy.lab.programs import Process, wait_for
from test.testlib.others import reachable
from test.testlib.static import StaticPair, free_port

VERSIONS = ("TLS1_2", "TLS1_3")
READY_S = 60


class Pairs:
    """`port` is where the application listens, `through[version]` where its clients reach it over mTLS."""

    def __init__(self, folder, binaries):
        self.port = free_port()
        self.made = {}
        for version in VERSIONS:
            made_in = folder / version
            made_in.mkdir()
            versions = {"min_version": version, "max_version": version}
            pair = StaticPair(made_in, binaries, client_profile=versions, server_profile=versions)
            pair.target_port = self.port
            pair.write("server")
            self.made[version] = pair.start()
        self.through = {version: pair.app_port for version, pair in self.made.items()}

    def stop(self):
        for pair in self.made.values():
            pair.stop()


@pytest.fixture(scope="module")
def pairs(folder, binaries):
    made = Pairs(folder, binaries)
    yield made
    made.stop()


@pytest.fixture(scope="class", params=VERSIONS)
def port(request, pairs):
    """Where a client of the application connects to; once for each TLS version."""
    return pairs.through[request.param]


@pytest.fixture(scope="module")
def serve(folder, pairs):
    """serve(name, argv…): a server as a process, waited for until it listens at pairs.port."""
    started = []

    def start(name, *argv, env=None, wait=True):
        process = Process(name, argv, folder, env=env)
        started.append(process)

        def listens():
            assert process.alive(), process.tail(40)
            return reachable(pairs.port)

        if wait:
            wait_for(f"{name} listens", listens, READY_S)
        return process

    yield start
    for process in started:
        process.stop()
