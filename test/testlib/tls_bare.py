"""TLS 1.2 and 1.3 peers of both roles that show any bytes at all as their certificate, which no library does,
and prove possession of any key, or badly. They verify nothing and send application data as early as
the protocol lets them, or earlier. Source: RFC 8446, RFC 5246, RFC 5288, RFC 7627."""
import os
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from test.testlib.tls_raw import (AES_128_GCM_SHA256, ALERT, ALERTS, APPLICATION_DATA, CERTIFICATE,
                                  CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, CHANGE_CIPHER_SPEC,
                                  ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM,
                                  ENCRYPTED_EXTENSIONS, EXTENDED_MASTER_SECRET, FINISHED, HANDSHAKE,
                                  KEY_SHARE, RENEGOTIATION, SERVER_HELLO, SIGNATURES, TLS12, TLS13,
                                  VERSIONS, X25519, ClientHello, Cursor, Reader, Refused,
                                  ServerHello, Tls13, expand_label, extract, hashed, numbers, record,
                                  vector)

RECORD_MAX = 1 << 14
SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE, CLIENT_KEY_EXCHANGE = 12, 14, 16
SCHEMES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0603, 0x0807)
SHA256 = hashes.SHA256()


@dataclass
class Shown:
    """What a peer shows: certificates as bytes, leaf first, and the private key that it proves to have.

    `proof`: None is a right one; "flipped": a bit of the signature is wrong; "elsewhere": over other
    bytes; "sha1": with a digest that is not allowed; "none": no signature is sent at all."""
    certs: list
    key: object
    proof: str = None


@dataclass
class Outcome:
    """How it ended for this peer: the alert that came (None: none), and the data that came."""
    alert: str = None
    data: bytes = b""
    why: str = ""


class Sturdy:
    """A socket that goes on when it cannot send: what the peer said before it hung up tells more."""

    def __init__(self, sock):
        self.sock, self.broken = sock, False

    def sendall(self, data):
        try:
            if not self.broken:
                self.sock.sendall(data)
        except ConnectionError:
            self.broken = True

    def recv(self, size):
        return self.sock.recv(size)


def _sealed(keys, kind, payload):
    """As many records as it takes."""
    return b"".join(keys.seal(kind, payload[at:at + RECORD_MAX])
                    for at in range(0, len(payload), RECORD_MAX))


_spare = ec.generate_private_key(ec.SECP256R1())


def _signature(shown, version, signed):
    """The body of a CertificateVerify, or the end of a ServerKeyExchange."""
    key, digest = shown.key, SHA256
    if shown.proof == "elsewhere":
        signed += b"."
    if isinstance(key, rsa.RSAPrivateKey):
        if shown.proof == "sha1":
            scheme, made = 0x0201, key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
        elif version == TLS12:
            scheme, made = 0x0401, key.sign(signed, padding.PKCS1v15(), digest)
        else:
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            scheme, made = 0x0804, key.sign(signed, pss, digest)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        scheme, made = 0x0807, key.sign(signed)
    else:
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            key = _spare  # of a kind that TLS has no signatures for: it never comes to this
        scheme = {"secp384r1": 0x0503, "secp521r1": 0x0603}.get(key.curve.name, 0x0403)
        digest = {0x0503: hashes.SHA384(), 0x0603: hashes.SHA512()}.get(scheme, digest)
        if shown.proof == "sha1":
            scheme, digest = 0x0203, hashes.SHA1()
        made = key.sign(signed, ec.ECDSA(digest))
    if shown.proof == "flipped":
        made = made[:-1] + bytes([made[-1] ^ 1])
    return numbers([scheme]) + vector(2, made)


# TLS 1.3.


class _Bare13(Tls13):
    WHO = None

    def __init__(self, sock, shown, **hello):
        super().__init__(Sturdy(sock), **hello)
        self.shown = shown

    def _add(self, kind, body):
        message = bytes([kind]) + vector(3, body)
        self.transcript += message
        return _sealed(self.write, HANDSHAKE, message)

    def _certificate(self):
        entries = b"".join(vector(3, cert) + b"\0\0" for cert in self.shown.certs)
        out = self._add(CERTIFICATE, b"\0" + vector(3, entries))
        if self.shown.certs and self.shown.proof != "none":
            signed = (b" " * 64 + f"TLS 1.3, {self.WHO} CertificateVerify\0".encode() +
                      hashed(self.digest, self.transcript))
            out += self._add(CERTIFICATE_VERIFY, _signature(self.shown, TLS13, signed))
        return out


class _Client13(_Bare13):
    WHO = "client"


class _Server13(_Bare13):
    WHO = "server"

    def _schedule(self, shared):
        super()._schedule(shared)
        self.read, self.write = self.write, self.read  # the names are a client's

    def _hello(self):
        message = self.reader.message()
        hello = ClientHello.parse(message)
        self.digest, self.key_size = SHA256, 16
        share = numbers([X25519]) + vector(2, self.private.public_key().public_bytes_raw())
        extensions = (numbers([VERSIONS]) + vector(2, numbers([TLS13])) +
                      numbers([KEY_SHARE]) + vector(2, share))
        answer = bytes([SERVER_HELLO]) + vector(3, numbers([TLS12]) + os.urandom(32) + vector(
            1, hello.session_id) + numbers([AES_128_GCM_SHA256]) + b"\0" + vector(2, extensions))
        self.transcript = message + answer
        peer = x25519.X25519PublicKey.from_public_bytes(hello.shares[X25519])
        self._schedule(self.private.exchange(peer))
        return record(HANDSHAKE, answer)

    def handshake(self, early=b""):
        """`early` is application data right behind our Finished, before the client is known."""
        out = self._hello()
        request = numbers([SIGNATURES]) + vector(2, vector(2, numbers(SCHEMES)))
        out += self._add(ENCRYPTED_EXTENSIONS, vector(2, b""))
        out += self._add(CERTIFICATE_REQUEST, b"\0" + vector(2, request))
        out += self._certificate()
        out += self._add(FINISHED, self._finished(self.write.secret))
        zero = bytes(SHA256.digest_size)
        master = extract(SHA256, expand_label(SHA256, self.handshake_secret, b"derived",
                                              hashed(SHA256, b""), SHA256.digest_size), zero)
        read, self.write = (self._keys(master, b"c ap traffic"), self._keys(master, b"s ap traffic"))
        self.sock.sendall(out + _sealed(self.write, APPLICATION_DATA, early))
        kind = None
        while kind != FINISHED:
            kind, body = self._message()
            self.transcript += bytes([kind]) + vector(3, body)
        self.read = read
        return self


# TLS 1.2: ECDHE with X25519 and AES-128-GCM.


def _prf(secret, label, seed, size):
    def mac(data):
        made = hmac.HMAC(secret, SHA256)
        made.update(data)
        return made.finalize()

    out, block = b"", label + seed
    while len(out) < size:
        block = mac(block)
        out += mac(block + label + seed)
    return out[:size]


class _Keys12:
    """One direction."""

    def __init__(self, key, salt):
        self.aead, self.salt, self.number = AESGCM(key), salt, 0

    def _nonce_and_header(self, kind, size, nonce=None):
        number = struct.pack("!Q", self.number)
        self.number += 1
        return nonce or number, number + struct.pack("!BHH", kind, TLS12, size)

    def seal(self, kind, payload):
        nonce, header = self._nonce_and_header(kind, len(payload))
        return record(kind, nonce + self.aead.encrypt(self.salt + nonce, payload, header), TLS12)

    def open(self, kind, payload):
        nonce, header = self._nonce_and_header(kind, len(payload) - 24, payload[:8])
        return self.aead.decrypt(self.salt + nonce, payload[8:], header)


class _Bare12:
    def __init__(self, sock, shown):
        self.sock, self.shown = Sturdy(sock), shown
        self.reader = Reader(sock)
        self.private = x25519.X25519PrivateKey.generate()
        self.transcript = b""
        self.read = self.write = None

    @property
    def _public(self):
        return vector(1, self.private.public_key().public_bytes_raw())

    def _add(self, kind, body):
        message = bytes([kind]) + vector(3, body)
        self.transcript += message
        return message

    def _take(self):
        message = self.reader.message()
        self.transcript += message
        return message[0], message[4:]

    def _certificate(self):
        return self._add(CERTIFICATE, vector(3, b"".join(
            vector(3, cert) for cert in self.shown.certs)))

    def _set_master(self, peer):
        """When the transcript ends with ClientKeyExchange."""
        secret = self.private.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
        self.master = _prf(secret, b"extended master secret", hashed(SHA256, self.transcript), 48)
        block = _prf(self.master, b"key expansion", self.server_random + self.client_random, 40)
        self.client_keys = _Keys12(block[:16], block[32:36])
        self.server_keys = _Keys12(block[16:32], block[36:40])

    def _finished(self, who):
        return _prf(self.master, who + b" finished", hashed(SHA256, self.transcript), 12)

    def _record(self):
        """(kind, plaintext)"""
        kind, payload, _ = self.reader.record()
        if self.read is not None:
            payload = self.read.open(kind, payload)
        if kind == ALERT:
            raise Refused(ALERTS.get(payload[1], str(payload[1])))
        return kind, payload

    def _read_finished(self, who, keys):
        """ChangeCipherSpec and Finished of the other end."""
        while self._record()[0] != CHANGE_CIPHER_SPEC:
            pass
        self.read, wanted = keys, self._finished(who)
        kind, message = self._record()
        if kind != HANDSHAKE or message != bytes([FINISHED]) + vector(3, wanted):
            raise ValueError("the other end's Finished is wrong")
        self.transcript += message

    def _plain(self, messages):
        return b"".join(record(HANDSHAKE, messages[at:at + RECORD_MAX], TLS12)
                        for at in range(0, len(messages), RECORD_MAX))

    def _sealed_finished(self, who, keys):
        self.write = keys
        return (record(CHANGE_CIPHER_SPEC, b"\1", TLS12) +
                keys.seal(HANDSHAKE, self._add(FINISHED, self._finished(who))))

    def send(self, data):
        self.sock.sendall(self.write.seal(APPLICATION_DATA, data))

    def recv(self):
        kind, plain = self._record()
        return plain if kind == APPLICATION_DATA else (kind, plain)


class _Client12(_Bare12):
    def handshake(self, server_name, early):
        """`early` goes out behind our Finished, before the server's."""
        hello = ClientHello(server_name=server_name, versions=(TLS12,), random=os.urandom(32),
                            ciphers=(ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM),
                            groups=(X25519, 23, 24), signatures=SCHEMES)
        self.transcript = hello.bytes()
        self.client_random = hello.random
        self.sock.sendall(record(HANDSHAKE, self.transcript))
        message = self.reader.message()
        self.transcript += message
        answer = ServerHello.parse(message)
        if answer.version != TLS12 or EXTENDED_MASTER_SECRET not in answer.extensions:
            raise Refused(why=f"version {answer.version:#x}, or no extended master secret")
        self.server_random = answer.random
        kind, body, peer = None, b"", b""
        while kind != SERVER_HELLO_DONE:
            kind, body = self._take()
            if kind == SERVER_KEY_EXCHANGE:
                peer = Cursor(body[3:]).vector(1)
        out = self._certificate() + self._add(CLIENT_KEY_EXCHANGE, self._public)
        self._set_master(peer)
        if self.shown.certs and self.shown.proof != "none":
            out += self._add(CERTIFICATE_VERIFY, _signature(self.shown, TLS12, self.transcript))
        out = self._plain(out) + self._sealed_finished(b"client", self.client_keys)
        self.sock.sendall(out + self.write.seal(APPLICATION_DATA, early))
        self._read_finished(b"server", self.server_keys)
        return self


class _Server12(_Bare12):
    def handshake(self, early):
        """`early` goes out behind our Finished."""
        message = self.reader.message()
        self.transcript = message
        hello = ClientHello.parse(message)
        self.client_random, self.server_random = hello.random, os.urandom(32)
        rsa_key = isinstance(self.shown.key, rsa.RSAPrivateKey)
        cipher = ECDHE_RSA_AES_128_GCM if rsa_key else ECDHE_ECDSA_AES_128_GCM
        extensions = (numbers([EXTENDED_MASTER_SECRET]) + vector(2, b"") +
                      numbers([RENEGOTIATION]) + vector(2, b"\0"))
        out = self._add(SERVER_HELLO, numbers([TLS12]) + self.server_random + vector(1, b"") +
                        numbers([cipher]) + b"\0" + vector(2, extensions))
        out += self._certificate()
        params = b"\3" + numbers([X25519]) + self._public
        out += self._add(SERVER_KEY_EXCHANGE, params + (
            b"" if self.shown.proof == "none" else _signature(
                self.shown, TLS12, self.client_random + self.server_random + params)))
        out += self._add(CERTIFICATE_REQUEST, b"\2\1\x40" + vector(2, numbers(SCHEMES)) +
                         vector(2, b""))
        out += self._add(SERVER_HELLO_DONE, b"")
        self.sock.sendall(self._plain(out))
        kind = body = None
        while kind != CLIENT_KEY_EXCHANGE:
            kind, body = self._take()
        self._set_master(body[1:])
        self._take()  # CertificateVerify
        self._read_finished(b"client", self.client_keys)
        out = self._sealed_finished(b"server", self.server_keys)
        self.sock.sendall(out + self.write.seal(APPLICATION_DATA, early))
        return self


# Either role, either version.


def _ends(peer, size):
    """Reads until `size` bytes of data, an alert, or the end."""
    found = Outcome()
    try:
        while len(found.data) < size:
            part = peer.recv()
            if isinstance(part, bytes):
                found.data += part
    except Refused as err:
        found.alert, found.why = err.alert, str(err)
    return found


def client(sock, version, shown, server_name, data):
    """Connects as `version` says and sends `data` as soon as it can; Outcome.data is what came back."""
    try:
        if version == TLS13:
            peer = _Client13(sock, shown, server_name=server_name).handshake()
            peer.send(data)
        else:
            peer = _Client12(sock, shown).handshake(server_name, data)
    except Refused as err:
        return Outcome(err.alert, b"", str(err))
    return _ends(peer, len(data))


def server(sock, version, shown, data, wanted):
    """Answers one client with `data` as soon as it can; Outcome.data is what the client sent, `wanted` bytes
    at the most."""
    try:
        peer = (_Server13 if version == TLS13 else _Server12)(sock, shown).handshake(data)
    except Refused as err:
        return Outcome(err.alert, b"", str(err))
    return _ends(peer, wanted)
