"""Connections that stay open, on a host of the mesh: `serve PORT…` echoes, `hold PORT NUMBER` opens that many, has one byte
echoed on each, says so, and then tells of each that ends."""
import selectors
import socket
import sys
from pathlib import Path

from deploy.lab.programs import Process, wait_for

ROOT = Path(__file__).resolve().parents[2]


class Held:
    """A mesh whose links' servers echo, with connections held open. Stop it at the end."""

    def __init__(self, mesh):
        self.mesh, self.processes, self.numbers = mesh, [], {}

    def _start(self, host, *args):
        name = f"held{len(self.processes)}-{host}"
        self.processes.append(Process(name, ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m",
                                             "test.testlib.held", *args], self.mesh.folder,
                                      self.mesh.network[host]))
        return self.processes[-1]

    def serve(self, host, *ports):
        server = self._start(host, "serve", *ports)
        wait_for(f"{server.name} listens", lambda: "serving" in server.tail())

    def hold(self, host, port, number):
        """Returns a function that says how many have ended."""
        holder = self._start(host, "hold", port, number)
        wait_for(f"{number} connections to {port} of {host}", lambda: f"holding {number}\n" in holder.tail() + "\n", 60)
        return lambda: holder.tail(number + 1).count("ended")

    def stop(self):
        for process in self.processes:
            process.stop()


def serve(*ports):
    looker = selectors.DefaultSelector()
    for port in ports:
        looker.register(socket.create_server(("127.0.0.1", int(port)), backlog=1024), selectors.EVENT_READ, "listener")
    print("serving", flush=True)
    while True:
        for key, _ in looker.select():
            if key.data == "listener":
                looker.register(key.fileobj.accept()[0], selectors.EVENT_READ, "connection")
                continue
            try:
                data = key.fileobj.recv(65536)
                key.fileobj.sendall(data)
            except OSError:
                data = b""
            if not data:
                looker.unregister(key.fileobj)
                key.fileobj.close()


def hold(port, number):
    looker = selectors.DefaultSelector()
    for _ in range(int(number)):
        sock = socket.create_connection(("127.0.0.1", int(port)), timeout=30)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x", "no echo"
        looker.register(sock, selectors.EVENT_READ)
    print("holding", number, flush=True)
    while looker.get_map():
        for key, _ in looker.select():
            looker.unregister(key.fileobj)
            key.fileobj.close()
            print("ended", flush=True)


if __name__ == "__main__":
    {"serve": serve, "hold": hold}[sys.argv[1]](*sys.argv[2:])
