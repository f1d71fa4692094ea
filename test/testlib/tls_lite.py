"""tlslite-ng as a peer: a TLS stack that does what others no longer do, and sends any record one tells it to."""
import socket
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it brings a part for asyncore, which is on its way out
    from tlslite.api import (HandshakeSettings, TLSAlert, TLSConnection, TLSError, X509CertChain,
                             parsePEMKey)
    from tlslite.messages import Message

from test.testlib.pki import pem_of_key
from test.testlib.tls_raw import ALERTS, Refused

SSL3, TLS10, TLS11, TLS12, TLS13 = (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)


def settings(low=TLS12, high=TLS12, **more):
    """HandshakeSettings; `more` are its attributes, cipherNames and keyExchangeNames most of all."""
    made = HandshakeSettings()
    made.minVersion, made.maxVersion = low, high
    # It would compress its certificate because it offered to, and not because it was asked to.
    made.certificate_compression_send = []
    for name, value in more.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


class Lite:
    """One end of a connection over `sock`; `cert` is a testlib.pki.Certificate."""

    def __init__(self, sock, cert):
        self.sock, self.tls = sock, TLSConnection(sock)
        self.tls.closeSocket = False
        self.chain = X509CertChain()
        self.chain.parsePemList(cert.pem.decode())
        self.key = parsePEMKey(pem_of_key(cert.key).decode(), private=True)

    def connect(self, made, server_name):
        return self._try(lambda: self.tls.handshakeClientCert(
            self.chain, self.key, settings=made, serverName=server_name))

    def accept(self, made):
        return self._try(lambda: self.tls.handshakeServer(
            certChain=self.chain, privateKey=self.key, settings=made, reqCert=True))

    def _try(self, what):
        """What it returns; Refused for any way in which it fails."""
        try:
            return what()
        except TLSAlert as err:
            raise Refused(ALERTS.get(err.description, str(err.description)), str(err)) from None
        except (TLSError, ConnectionError) as err:
            raise Refused(why=repr(err)) from None

    def send(self, data):
        self._try(lambda: self.tls.write(data))

    def recv(self, size):
        return bytes(self._try(lambda: self.tls.read(size, size)))

    def record(self, kind, payload):
        """Sends one protected record of that kind."""
        def sent():
            for _ in self.tls._recordLayer.sendRecord(Message(kind, bytearray(payload))):
                pass

        self._try(sent)

    def alert(self):
        """The name of the alert that ends it; None when there is none."""
        try:
            while self.recv(1):
                pass
        except Refused as err:
            return err.alert
        return "close_notify"


def dial(port):
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.settimeout(10)
    return sock
