"""TLS peers by OpenSSL: Python's ssl as client and as server, and the command lines s_client and s_server."""
import os
import re
import select
import socket
import ssl
import subprocess
import threading
import time
import warnings

from test.testlib.tls_raw import Refused

VERSIONS = {"TLS1_0": ssl.TLSVersion.TLSv1, "TLS1_1": ssl.TLSVersion.TLSv1_1, "TLS1_2": ssl.TLSVersion.TLSv1_2, "TLS1_3": ssl.TLSVersion.TLSv1_3}
FLAGS = {"TLS1_2": "-tls1_2", "TLS1_3": "-tls1_3"}


def context(side, roots=None, cert=None, version=None, ciphers=None, weak=False):
    """An SSLContext for `side` client or server. `cert` is (chain, key) of paths; with roots the other
    side must show a certificate that chains to them; names are not compared. `weak` lets go of
    OpenSSL's own limits on keys and digests, so that it offers what is to be refused."""
    client = side == "client"
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED if roots else ssl.CERT_NONE
    if weak:
        made.set_ciphers("ALL:@SECLEVEL=0")
    if ciphers:
        made.set_ciphers(ciphers)
    if roots:
        made.load_verify_locations(roots)
    if cert:
        made.load_cert_chain(*cert)
    if version:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old ones are what is wanted
            made.minimum_version = made.maximum_version = VERSIONS[version]
    return made


def refused(err):
    """The exception for an error of Python's ssl or socket."""
    reason = getattr(err, "reason", None) or ""
    known = re.match(r"^(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(.*)$", reason)
    return Refused(known.group(1).lower() if known else None, why=f"{reason or err}")


def call(port, made, server_name="link.mortise.internal", data=b"hello", timeout_s=10, source=None):
    """One connection that sends `data` and gets it echoed; returns the SSLSocket's facts, or raises
    Refused; either has the connection's own `port`.

    A TLS 1.3 client is done before the server has judged it: only bytes that came back count."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), timeout_s, source_address=source)
    except OSError as err:
        raise Refused(why=f"connect: {err}") from None
    own_port = sock.getsockname()[1]
    try:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with made.wrap_socket(sock, server_hostname=server_name) as tls:
            tls.sendall(data)
            got = b""
            while len(got) < len(data):
                part = tls.recv(len(data) - len(got))
                if not part:
                    raise ConnectionResetError("closed")
                got += part
            assert got == data
            facts = {"version": tls.version(), "cipher": tls.cipher()[0],
                     "peer": tls.getpeercert(True), "reused": tls.session_reused,
                     "port": own_port}
            tls.unwrap()
            return facts
    except (ssl.SSLError, ConnectionError) as err:
        found = refused(err)
        found.port = own_port
        raise found from None
    finally:
        sock.close()


class Server:
    """A TLS echo server; `seen` has an entry for each connection: what it got, or how it was refused."""

    def __init__(self, port, made):
        self.context, self.seen = made, []
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        entry = {"alert": None, "error": None, "bytes": 0, "done": False}
        self.seen.append(entry)
        try:
            sock.settimeout(10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.context.wrap_socket(sock, server_side=True) as tls:
                entry |= {"version": tls.version(), "cipher": tls.cipher()[0],
                          "reused": tls.session_reused, "peer": tls.getpeercert(True)}
                while data := tls.recv(1 << 16):
                    entry["bytes"] += len(data)
                    tls.sendall(data)
                tls.unwrap()
        except (ssl.SSLError, OSError) as err:
            entry["alert"], entry["error"] = refused(err).alert, str(err)
        finally:
            sock.close()
            entry["done"] = True

    def close(self):
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


class Openssl:
    """`openssl s_client` or `s_server`, or any program, driven over pipes."""

    def __init__(self, *args):
        self.args = [str(arg) for arg in args]
        self.child = subprocess.Popen(["openssl", *self.args], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.text = b""

    def write(self, data):
        try:
            self.child.stdin.write(data)
            self.child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its output tells why

    def read_until(self, *words, timeout_s=10):
        """Everything said so far, once it holds one of the words; TimeoutError when it does not come."""
        end = time.monotonic() + timeout_s
        words = [word.encode() for word in words]
        while not any(word in self.text for word in words):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.child.stdout], [], [], left)[0]:
                raise TimeoutError(f"openssl {' '.join(self.args)}: no {words} in\n{self.said()}")
            part = os.read(self.child.stdout.fileno(), 1 << 16)
            if not part:
                raise EOFError(f"openssl {' '.join(self.args)}: no {words} in\n{self.said()}")
            self.text += part
        return self.said()

    def read_all(self, timeout_s=10):
        """Everything until it ends by itself; its standard input is closed first."""
        try:
            rest, _ = self.child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            rest, _ = self.child.communicate()
            self.text += rest
            raise TimeoutError(f"openssl {' '.join(self.args)} goes on:\n{self.said()}") from None
        self.text += rest
        return self.said()

    def said(self):
        return self.text.decode(errors="replace")

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
