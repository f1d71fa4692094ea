"""A plaintext application on loopback that echoes, and counts what reached it."""
import socket
import threading


class EchoApp:
    """Echoes until the end of input, then ends its own side; `connections` and `bytes` count up."""

    def __init__(self, port, host="127.0.0.1"):
        self.listener = socket.create_server((host, port), backlog=4096)
        self.connections = self.bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock):
        try:
            with sock:
                while data := sock.recv(1 << 16):
                    with self._lock:
                        self.bytes += len(data)
                    sock.sendall(data)
        except OSError:
            pass

    def close(self):
        # close() alone would leave the accepting thread, and with it the port, until the next connection
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(10)
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def exchange(port, data=b"hello", timeout_s=10, ports=None):
    """Sends `data`, half-closes, and returns everything that comes back; ConnectionError for an abort.
    The connection's own port is appended to the list `ports`."""
    with socket.socket() as sock:
        sock.settimeout(timeout_s)
        sock.bind(("127.0.0.1", 0))
        if ports is not None:
            ports.append(sock.getsockname()[1])
        sock.connect(("127.0.0.1", port))
        got, failed = [], []

        def read():
            try:
                while part := sock.recv(1 << 16):
                    got.append(part)
            except OSError as err:
                failed.append(err)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError as err:
            failed.append(err)  # the kernel tells of a reset once, be it here or to the reader
        thread.join(timeout_s)
        if thread.is_alive():
            raise TimeoutError(f"no end after {sum(map(len, got))} bytes")
    if failed:
        raise ConnectionResetError(str(failed[0]))
    return b"".join(got)
