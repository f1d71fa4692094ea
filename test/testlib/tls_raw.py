"""TLS by hand: hellos of any shape, records cut anywhere, and a TLS 1.3 client that can do what no library
lets one do (key updates at will, early data without a session). For tests only: it does not verify
the server's certificate. Source: RFC 8446, RFC 5246, RFC 6066."""
import os
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO, NEW_SESSION_TICKET, ENCRYPTED_EXTENSIONS = 1, 2, 4, 8
CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, FINISHED, KEY_UPDATE = 11, 13, 15, 20, 24

SERVER_NAME, STATUS_REQUEST, GROUPS, SIGNATURES, ALPN = 0, 5, 10, 13, 16
EXTENDED_MASTER_SECRET, SESSION_TICKET, PSK, EARLY_DATA = 23, 35, 41, 42
VERSIONS, PSK_MODES, POST_HANDSHAKE_AUTH, KEY_SHARE, RENEGOTIATION = 43, 45, 49, 51, 0xFF01
PADDING = 21

TLS12, TLS13 = 0x0303, 0x0304
AES_128_GCM_SHA256, AES_256_GCM_SHA384, CHACHA20_POLY1305_SHA256 = 0x1301, 0x1302, 0x1303
ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM, ECDHE_ECDSA_CHACHA20 = 0xC02B, 0xC02C, 0xCCA9
ECDHE_RSA_AES_128_GCM, ECDHE_RSA_AES_256_GCM, ECDHE_RSA_CHACHA20 = 0xC02F, 0xC030, 0xCCA8
FALLBACK_SCSV, EMPTY_RENEGOTIATION_SCSV = 0x5600, 0x00FF
P256, P384, X25519 = 23, 24, 29

ALERTS = {0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
          40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate",
          44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown",
          47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", 50: "decode_error",
          51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security",
          80: "internal_error", 86: "inappropriate_fallback", 90: "user_canceled",
          100: "no_renegotiation", 109: "missing_extension", 110: "unsupported_extension",
          112: "unrecognized_name", 116: "certificate_required", 120: "no_application_protocol"}


class Refused(Exception):
    """The peer ended it; `alert` is the name of its alert, None when there was none."""

    def __init__(self, alert=None, why=""):
        super().__init__(alert or why or "closed")
        self.alert = alert


def vector(size, body):
    """`body` behind its length in `size` bytes."""
    return len(body).to_bytes(size, "big") + body


def numbers(values, size=2):
    return b"".join(value.to_bytes(size, "big") for value in values)


def record(kind, payload, version=0x0301):
    return struct.pack("!BHH", kind, version, len(payload)) + payload


def records(kind, payload, *cuts):
    """`payload` as records of one kind, cut at those places."""
    places = [0, *cuts, len(payload)]
    return b"".join(record(kind, payload[a:b]) for a, b in zip(places, places[1:]))


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise ValueError("message is cut short")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def vector(self, size):
        return self.take(self.number(size))

    def left(self):
        return len(self.data) - self.at


def pairs(data):
    """A vector of 16-bit numbers."""
    return [int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2)]


def extensions_of(data):
    cursor, found = Cursor(data), {}
    while cursor.left():
        kind = cursor.number(2)
        found[kind] = cursor.vector(2)
    return found


def is_grease(value):
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


@dataclass
class ClientHello:
    """What to send (bytes()), or what was received (parse())."""
    server_name: str = None
    versions: tuple = (TLS13, TLS12)
    ciphers: tuple = (AES_128_GCM_SHA256, AES_256_GCM_SHA384, CHACHA20_POLY1305_SHA256,
                      ECDHE_ECDSA_AES_128_GCM, ECDHE_ECDSA_AES_256_GCM, ECDHE_RSA_AES_128_GCM)
    groups: tuple = (X25519, P256, P384)
    shares: dict = None  # group: public value; None: a fresh X25519 one
    signatures: tuple = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805)
    session_id: bytes = b""
    random: bytes = None
    legacy_version: int = TLS12
    compression: bytes = b"\0"
    extra: tuple = ()  # (kind, body) behind the others
    extensions: dict = field(default=None)  # of a parsed one

    def body_of_extensions(self):
        shares = self.shares
        if shares is None:
            made = x25519.X25519PrivateKey.generate().public_key()
            shares = {X25519: made.public_bytes_raw()}
        found = []
        if self.server_name is not None:
            name = self.server_name.encode()
            found.append((SERVER_NAME, vector(2, b"\0" + vector(2, name))))
        found.append((GROUPS, vector(2, numbers(self.groups))))
        found.append((SIGNATURES, vector(2, numbers(self.signatures))))
        found.append((EXTENDED_MASTER_SECRET, b""))
        if self.versions:
            found.append((VERSIONS, vector(1, numbers(self.versions))))
        if TLS13 in (self.versions or ()):
            found.append((PSK_MODES, b"\1\1"))
            found.append((KEY_SHARE, vector(2, b"".join(
                numbers([group]) + vector(2, public) for group, public in shares.items()))))
        found.extend(self.extra)
        return b"".join(numbers([kind]) + vector(2, body) for kind, body in found)

    def bytes(self):
        """The handshake message."""
        body = (numbers([self.legacy_version]) + (self.random or os.urandom(32)) +
                vector(1, self.session_id) + vector(2, numbers(self.ciphers)) +
                vector(1, self.compression) + vector(2, self.body_of_extensions()))
        return bytes([CLIENT_HELLO]) + vector(3, body)

    @classmethod
    def parse(cls, message):
        cursor = Cursor(message)
        if cursor.number(1) != CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        cursor = Cursor(cursor.vector(3))
        legacy, random, session_id = cursor.number(2), cursor.take(32), cursor.vector(1)
        ciphers, _ = pairs(cursor.vector(2)), cursor.vector(1)
        found = extensions_of(cursor.vector(2)) if cursor.left() else {}
        name, shares = None, {}
        if SERVER_NAME in found:
            name = Cursor(found[SERVER_NAME][3:]).vector(2).decode()
        if KEY_SHARE in found:
            inner = Cursor(found[KEY_SHARE][2:])
            while inner.left():
                group = inner.number(2)
                shares[group] = inner.vector(2)
        return cls(server_name=name, versions=tuple(pairs(found.get(VERSIONS, b"\0")[1:])),
                   ciphers=tuple(ciphers), groups=tuple(pairs(found.get(GROUPS, b"\0\0")[2:])),
                   shares=shares, signatures=tuple(pairs(found.get(SIGNATURES, b"\0\0")[2:])),
                   session_id=session_id, random=random, legacy_version=legacy, extensions=found)


@dataclass
class ServerHello:
    version: int
    cipher: int
    session_id: bytes
    extensions: dict
    random: bytes
    compression: int

    RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")

    @property
    def is_retry(self):
        return self.random == self.RETRY

    @property
    def group(self):
        return pairs(self.extensions[KEY_SHARE][:2])[0] if KEY_SHARE in self.extensions else None

    @classmethod
    def parse(cls, message):
        cursor = Cursor(message)
        if cursor.number(1) != SERVER_HELLO:
            raise ValueError("not a ServerHello")
        cursor = Cursor(cursor.vector(3))
        version, random, session_id = cursor.number(2), cursor.take(32), cursor.vector(1)
        cipher, compression = cursor.number(2), cursor.number(1)
        found = extensions_of(cursor.vector(2)) if cursor.left() else {}
        if VERSIONS in found:
            version = int.from_bytes(found[VERSIONS], "big")
        return cls(version, cipher, session_id, found, random, compression)


class Reader:
    """Records and unencrypted handshake messages off a socket."""

    def __init__(self, sock):
        self.sock, self.messages = sock, b""

    def exactly(self, size):
        got = b""
        while len(got) < size:
            try:
                part = self.sock.recv(size - len(got))
            except ConnectionError as err:
                raise Refused(why=f"{err}") from None
            if not part:
                raise Refused(why="closed")
            got += part
        return got

    def record(self):
        """(kind, payload, header); an alert in the clear raises Refused."""
        header = self.exactly(5)
        kind, _, size = struct.unpack("!BHH", header)
        payload = self.exactly(size)
        if kind == ALERT and len(payload) == 2:
            raise Refused(ALERTS.get(payload[1], str(payload[1])))
        return kind, payload, header

    def message(self):
        """The next handshake message in the clear."""
        while len(self.messages) < 4 or \
                len(self.messages) < 4 + int.from_bytes(self.messages[1:4], "big"):
            kind, payload, _ = self.record()
            if kind == HANDSHAKE:
                self.messages += payload
        size = 4 + int.from_bytes(self.messages[1:4], "big")
        message, self.messages = self.messages[:size], self.messages[size:]
        return message


def ask(sock, data):
    """Sends raw bytes and returns the ServerHello; raises Refused."""
    try:
        sock.sendall(data)
    except ConnectionError:
        pass  # what was sent back tells more
    return ServerHello.parse(Reader(sock).message())


# TLS 1.3 by hand.


def expand_label(digest, secret, label, context, size):
    info = numbers([size]) + vector(1, b"tls13 " + label) + vector(1, context)
    out, block, count = b"", b"", 0
    while len(out) < size:
        count += 1
        made = hmac.HMAC(secret, digest)
        made.update(block + info + bytes([count]))
        block = made.finalize()
        out += block
    return out[:size]


def extract(digest, salt, secret):
    made = hmac.HMAC(salt, digest)
    made.update(secret)
    return made.finalize()


def hashed(digest, data):
    made = hashes.Hash(digest)
    made.update(data)
    return made.finalize()


class Keys:
    """One direction: secret, key, nonce, number of the next record."""

    def __init__(self, digest, key_size, secret):
        self.digest, self.key_size = digest, key_size
        self.updates = 0
        self._set(secret)

    def _set(self, secret):
        self.secret = secret
        self.aead = AESGCM(expand_label(self.digest, secret, b"key", b"", self.key_size))
        self.iv = int.from_bytes(expand_label(self.digest, secret, b"iv", b"", 12), "big")
        self.number = 0

    def update(self):
        self.updates += 1
        self._set(expand_label(self.digest, self.secret, b"traffic upd", b"",
                               self.digest.digest_size))

    def _nonce(self):
        self.number += 1
        return (self.iv ^ (self.number - 1)).to_bytes(12, "big")

    def seal(self, kind, payload, padding=0):
        return self.seal_inner(payload + bytes([kind]) + bytes(padding))

    def seal_inner(self, inner, outer=APPLICATION_DATA, version=TLS12):
        """A record around any TLSInnerPlaintext."""
        header = struct.pack("!BHH", outer, version, len(inner) + 16)
        return header + self.aead.encrypt(self._nonce(), inner, header)

    def open(self, header, payload):
        plain = self.aead.decrypt(self._nonce(), payload, header).rstrip(b"\0")
        return plain[-1], plain[:-1]


class Tls13:
    """A TLS 1.3 client over a connected socket; `cert` is a testlib.pki.Certificate with a P-256 key."""

    SIDE = b"client"

    def __init__(self, sock, cert=None, **hello):
        self.sock, self.cert, self.reader = sock, cert, Reader(sock)
        self.private = x25519.X25519PrivateKey.generate()
        self.hello = ClientHello(**{
            "versions": (TLS13,), "ciphers": (AES_128_GCM_SHA256, AES_256_GCM_SHA384),
            "shares": {X25519: self.private.public_key().public_bytes_raw()}, **hello})
        self.messages = []  # of the server, behind its hello: (kind, body)
        self.transcript = b""
        self._inner = b""

    # Keys.

    def _schedule(self, shared):
        digest = self.digest
        zero = bytes(digest.digest_size)
        early = extract(digest, zero, zero)
        self.handshake_secret = extract(
            digest, expand_label(digest, early, b"derived", hashed(digest, b""),
                                 digest.digest_size), shared)
        self.write = self._keys(self.handshake_secret, b"c hs traffic")
        self.read = self._keys(self.handshake_secret, b"s hs traffic")

    def _keys(self, secret, label):
        made = expand_label(self.digest, secret, label, hashed(self.digest, self.transcript),
                            self.digest.digest_size)
        return Keys(self.digest, self.key_size, made)

    def _application_keys(self):
        """Of client and server; the transcript ends with the server's Finished."""
        master = extract(self.digest,
                         expand_label(self.digest, self.handshake_secret, b"derived",
                                      hashed(self.digest, b""), self.digest.digest_size),
                         bytes(self.digest.digest_size))
        return self._keys(master, b"c ap traffic"), self._keys(master, b"s ap traffic")

    def _finished(self, secret):
        key = expand_label(self.digest, secret, b"finished", b"", self.digest.digest_size)
        return extract(self.digest, key, hashed(self.digest, self.transcript))

    # The handshake.

    def handshake(self):
        message = self.hello.bytes()
        self.sock.sendall(record(HANDSHAKE, message))
        self.transcript += message
        message = self.reader.message()
        self.server_hello = hello = ServerHello.parse(message)
        if hello.version != TLS13 or hello.is_retry:
            raise Refused(why=f"version {hello.version:#x}, retry {hello.is_retry}")
        self.transcript += message
        self.digest = hashes.SHA384() if hello.cipher == AES_256_GCM_SHA384 else hashes.SHA256()
        self.key_size = 32 if hello.cipher == AES_256_GCM_SHA384 else 16
        public = Cursor(hello.extensions[KEY_SHARE][2:]).vector(2)
        self._schedule(self.private.exchange(x25519.X25519PublicKey.from_public_bytes(public)))
        while True:
            kind, body = self._message()
            if kind == FINISHED:
                if body != self._finished(self.read.secret):
                    raise ValueError("the server's Finished is wrong")
            self.transcript += bytes([kind]) + vector(3, body)
            self.messages.append((kind, body))
            if kind == FINISHED:
                break
        write, read = self._application_keys()
        out = b""
        if any(kind == CERTIFICATE_REQUEST for kind, _ in self.messages):
            out += self._certificate()
        out += self._add(FINISHED, self._finished(self.write.secret))
        self.sock.sendall(out)
        self.write, self.read = write, read
        return self

    def _add(self, kind, body):
        message = bytes([kind]) + vector(3, body)
        self.transcript += message
        return self.write.seal(HANDSHAKE, message)

    def _certificate(self):
        chain = [] if self.cert is None else [self.cert.cert, *self.cert.above]
        entries = b"".join(vector(3, cert.public_bytes(serialization.Encoding.DER)) + b"\0\0"
                           for cert in chain)
        out = self._add(CERTIFICATE, b"\0" + vector(3, entries))
        if chain:
            signed = (b" " * 64 + b"TLS 1.3, " + self.SIDE + b" CertificateVerify\0" +
                      hashed(self.digest, self.transcript))
            out += self._add(CERTIFICATE_VERIFY, numbers([0x0403]) + vector(
                2, self.cert.key.sign(signed, ec.ECDSA(hashes.SHA256()))))
        return out

    # Records.

    def _record(self):
        """(kind, plaintext)"""
        while True:
            kind, payload, header = self.reader.record()
            if kind == CHANGE_CIPHER_SPEC:
                continue
            kind, plain = self.read.open(header, payload)
            if kind == ALERT:
                raise Refused(ALERTS.get(plain[1], str(plain[1])))
            return kind, plain

    def _message(self):
        while len(self._inner) < 4 or \
                len(self._inner) < 4 + int.from_bytes(self._inner[1:4], "big"):
            kind, plain = self._record()
            if kind != HANDSHAKE:
                raise ValueError(f"record of kind {kind} inside a handshake")
            self._inner += plain
        size = 4 + int.from_bytes(self._inner[1:4], "big")
        message, self._inner = self._inner[:size], self._inner[size:]
        return message[0], message[4:]

    def send(self, data):
        self.sock.sendall(self.write.seal(APPLICATION_DATA, data))

    def message(self, kind, body):
        """A record that holds one handshake message."""
        return self.write.seal(HANDSHAKE, bytes([kind]) + vector(3, body))

    def key_update_record(self, request=False):
        """A KeyUpdate as it goes over the wire; what is sealed behind it has the next key."""
        out = self.message(KEY_UPDATE, bytes([request]))
        self.write.update()
        return out

    def recv(self):
        """Application data, or (kind, body) of a handshake message; the peer's key updates are obeyed."""
        kind, plain = self._record()
        if kind == APPLICATION_DATA:
            return plain
        if plain[0] == KEY_UPDATE:
            self.read.update()
        return plain[0], plain[4:]

    def close_notify(self):
        self.sock.sendall(self.write.seal(ALERT, b"\1\0"))

    def alert(self):
        """The name of the alert that ends it, whatever comes before it; None when it ends without one."""
        try:
            while True:
                self.recv()
        except Refused as err:
            return err.alert


class Tls13Server(Tls13):
    """The other end of it, with AES-128-GCM and X25519; asks for a certificate and does not verify it."""

    SIDE = b"server"

    def __init__(self, sock, cert):
        super().__init__(sock, cert)
        self.digest, self.key_size = hashes.SHA256(), 16

    def handshake(self):
        message = self.reader.message()
        self.hello = hello = ClientHello.parse(message)
        body = (numbers([TLS12]) + os.urandom(32) + vector(1, hello.session_id) +
                numbers([AES_128_GCM_SHA256]) + b"\0")
        found = ((VERSIONS, numbers([TLS13])),
                 (KEY_SHARE, numbers([X25519]) + vector(2, self.private.public_key().public_bytes_raw())))
        body += vector(2, b"".join(numbers([kind]) + vector(2, data) for kind, data in found))
        answer = bytes([SERVER_HELLO]) + vector(3, body)
        self.sock.sendall(record(HANDSHAKE, answer, TLS12))
        self.transcript = message + answer
        self._schedule(self.private.exchange(
            x25519.X25519PublicKey.from_public_bytes(hello.shares[X25519])))
        self.read, self.write = self.write, self.read
        signatures = vector(2, numbers([SIGNATURES]) + vector(2, vector(2, numbers(
            self.hello.signatures))))
        out = self._add(ENCRYPTED_EXTENSIONS, b"\0\0")
        out += self._add(CERTIFICATE_REQUEST, b"\0" + signatures)
        out += self._certificate()
        out += self._add(FINISHED, self._finished(self.write.secret))
        self.sock.sendall(out)
        read, write = self._application_keys()
        while not self.messages or self.messages[-1][0] != FINISHED:
            kind, body = self._message()
            if kind == FINISHED and body != self._finished(self.read.secret):
                raise ValueError("the client's Finished is wrong")
            self.transcript += bytes([kind]) + vector(3, body)
            self.messages.append((kind, body))
        self.write, self.read = write, read
        return self
