"""What the gRPC tests share: the schema in Python, certificates, our echo server and client as processes."""
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_tools import protoc

from deploy.lab.programs import Binaries, own_environment
from test.testlib import pki

HERE = Path(__file__).resolve().parent
DEADLINE_S = 20


@pytest.fixture(scope="session")
def schema(tmp_path_factory):
    """(messages, stubs) of echo.proto."""
    out = tmp_path_factory.mktemp("schema")
    assert protoc.main(["protoc", f"-I{HERE}", f"--python_out={out}", f"--grpc_python_out={out}",
                        "echo.proto"]) == 0
    sys.path.insert(0, str(out))
    try:
        return importlib.import_module("echo_pb2"), importlib.import_module("echo_pb2_grpc")
    finally:
        sys.path.remove(str(out))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Paths of (root, certificate, key) for localhost."""
    made = tmp_path_factory.mktemp("certificate")
    root = pki.Ca()
    cert, key = root.issue(dns=["localhost"]).write(made, "server")
    (made / "root.pem").write_bytes(root.root_pem())
    return made / "root.pem", cert, key


@pytest.fixture(scope="session")
def other_root(tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "root.pem"
    path.write_bytes(pki.Ca("other").root_pem())
    return path


@pytest.fixture(scope="session")
def programs():
    """The folder of echo_server and echo_client."""
    found = Binaries().folder / "test" / "interop" / "grpc"
    for name in ("echo_server", "echo_client"):
        assert (found / name).exists(), f"bazel build //test/interop/grpc:{name}"
    return found


@pytest.fixture(scope="session")
def grpcurl():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mortise", "bin")
    found = shutil.which("grpcurl", path=f"{cache}:{os.environ.get('PATH', '')}")
    assert found, "grpcurl is missing: test/install test"
    return found


class EchoServer:
    """Our server on a Unix socket, or over TLS on a port."""

    def __init__(self, programs, folder, transport, certificate):
        self.transport, self.certificate = transport, certificate
        address = f"unix:{folder}/echo.sock" if transport == "unix" else "127.0.0.1:0"
        keys = [] if transport == "unix" else certificate[1:]
        self.errors = open(folder / "echo_server.log", "w+")
        self.child = subprocess.Popen([programs / "echo_server", address, *keys],
                                      stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                      env=own_environment())
        line = self.child.stdout.readline()
        assert line.startswith("listening "), self.tail()
        self.address = line.split()[1]

    def channel(self, **options):
        options = [(f"grpc.{name}", value) for name, value in options.items()]
        if self.transport == "unix":
            return grpc.insecure_channel(self.address, options)
        options.append(("grpc.ssl_target_name_override", "localhost"))
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(
            self.certificate[0].read_bytes()), options)

    def fds(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def memory_kib(self):
        text = Path(f"/proc/{self.child.pid}/smaps_rollup").read_text()
        return int(text.split("Pss_Anon:")[1].split()[0])

    def tail(self):
        self.errors.seek(0)
        return self.errors.read()[-4000:]

    def end(self):
        """SIGTERM; the exit status when all calls are over."""
        self.child.terminate()
        return self.child.wait(DEADLINE_S)


@pytest.fixture(params=["unix", "tls"])
def server(request, programs, tmp_path, certificate):
    """A server of ours, which must end in order and without a word of a sanitizer."""
    made = EchoServer(programs, tmp_path, request.param, certificate)
    yield made
    if made.child.poll() is None:
        assert made.end() == 0, made.tail()
    made.errors.close()


class EchoClient:
    """Our client, whose events are the lines it prints."""

    def __init__(self, programs, target, root, command, **settings):
        self.child = subprocess.Popen(
            [programs / "echo_client", target, root or "-", command,
             *[f"{name}={value}" for name, value in settings.items()]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own_environment())

    def line(self):
        return self.child.stdout.readline().rstrip("\n")

    def until(self, start):
        """The next line that begins so; what came before it is passed over."""
        while line := self.line():
            if line.startswith(start):
                return line
        raise AssertionError(f"no {start!r}: {self.child.stderr.read()}")

    def end(self):
        """All lines; the client must have ended by itself."""
        lines = self.child.stdout.read().splitlines()
        assert self.child.wait(DEADLINE_S) <= 16, self.child.stderr.read()
        return lines


@pytest.fixture
def client(programs):
    """Makes clients of ours."""
    made = []

    def make(target, root, command, **settings):
        made.append(EchoClient(programs, target, root, command, **settings))
        return made[-1]

    yield make
    for one in made:
        if one.child.poll() is None:
            one.child.kill()
        one.child.wait()
        one.child.stdout.close()
        one.child.stderr.close()
