"""A port on loopback that neither accepts nor refuses."""
import socket

from deploy.lab.programs import wait_for
from test.testlib.static import free_port


class Blackhole:
    """A port whose queue is full: the kernel drops what comes, as a firewall would."""

    def __init__(self):
        self.port = free_port()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(0)
        self.fillers = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(sock)
        wait_for("the queue is full", self._full)

    def _full(self):
        with socket.socket() as sock:
            sock.settimeout(0.1)
            try:
                sock.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return True
        return False

    def close(self):
        for sock in (*self.fillers, self.listener):
            sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
