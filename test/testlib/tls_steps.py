"""A TLS end, by OpenSSL, that takes one step at a time: what it would send is handed out instead of being sent, so that a
test can send half of it, or one byte a second, or nothing any more."""
import ssl


class Steps:
    """`made` is an SSLContext (testlib.tls_peer.context); the side follows from it unless `server` says so."""

    def __init__(self, sock, made, server_name=None, server=False):
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = made.wrap_bio(self._in, self._out, server_side=server,
                                 server_hostname=server_name)
        self.done = False

    def flight(self):
        """The next bytes of ours in the handshake; reads from the socket what comes before them. b"" when the
        handshake is done and nothing is left to say."""
        while not self.done:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
            data = self._out.read()
            if data:
                return data
            if not self.done:
                self._receive()
        return self._out.read()

    def _receive(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError("closed in the handshake")
        self._in.write(data)

    def handshake(self):
        while not self.done:
            self.sock.sendall(self.flight())
        return self

    def sealed(self, data):
        """The records with which `data` goes over the wire."""
        self.tls.write(data)
        return self._out.read()

    def send(self, data):
        self.sock.sendall(self.sealed(data))

    def recv(self, size):
        """Exactly so many bytes of data."""
        got = b""
        while len(got) < size:
            try:
                part = self.tls.read(size - len(got))
            except ssl.SSLWantReadError:
                self._receive()
                continue
            if not part:
                raise ConnectionResetError("closed")
            got += part
        return got

    def cut(self, flight, at):
        """Sends its flights up to number `flight` (from 0), and of that one the first `at` bytes: a number, negative
        from its end, or a fraction. Returns what was kept back."""
        for _ in range(flight):
            self.sock.sendall(self.flight())
        data = self.flight()
        at = int(len(data) * at) if isinstance(at, float) else at + len(data) * (at < 0)
        if not 0 <= at <= len(data):
            raise ValueError(f"a flight of {len(data)} bytes cannot be cut at {at}")
        self.sock.sendall(data[:at])
        return data[at:]

    def closing(self):
        """The close_notify that ends our direction."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()
