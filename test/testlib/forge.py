"""Certificates of which every part can be replaced by any bytes: what no library would make is made by hand
(der.py), each signed as if it were right. Source: RFC 5280; SPIFFE X509-SVID."""
import functools
import hashlib
import os
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import (dsa, ec, ed448, ed25519, padding, rsa,
                                                       x25519)

from test.testlib import der
from test.testlib.tls_bare import Shown

ROOT = "mesh root"  # its common name
MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400

# --- keys ---

CURVES = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "p224": ec.SECP224R1,
          "p192": ec.SECP192R1, "secp256k1": ec.SECP256K1, "brainpool256": ec.BrainpoolP256R1,
          "brainpool384": ec.BrainpoolP384R1}
OTHER_KEYS = {"dsa1024": lambda: dsa.generate_private_key(1024),
              "ed25519": ed25519.Ed25519PrivateKey.generate,
              "ed448": ed448.Ed448PrivateKey.generate, "x25519": x25519.X25519PrivateKey.generate}


@functools.cache
def key(kind, number=0):
    """A private key of that kind; the same one whenever it is asked for again."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind]())
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    return OTHER_KEYS[kind]()


def public(private):
    """SubjectPublicKeyInfo."""
    return private.public_key().public_bytes(serialization.Encoding.DER,
                                             serialization.PublicFormat.SubjectPublicKeyInfo)


EC, RSA = der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.113549.1.1.1")
P256 = der.oid("1.2.840.10045.3.1.7")


def ec_public(point, params=P256, unused=0):
    return der.sequence(der.sequence(EC, params), der.bits(point, unused))


def point(private, form=4):
    numbers = private.public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    return {4: b"\4" + x + y, 2: bytes([2 + (y[-1] & 1)]) + x,
            6: bytes([6 + (y[-1] & 1)]) + x + y}[form]


def rsa_public(modulus, exponent=65537):
    return der.sequence(der.sequence(RSA, der.NULL), der.bits(der.sequence(
        der.integer(modulus), der.integer(exponent))))


def written_out():
    """P-256 with all its numbers in place of its name."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    base = bytes.fromhex("046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                         "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
    order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
    return der.sequence(
        der.integer(1), der.sequence(der.oid("1.2.840.10045.1.1"), der.integer(prime)),
        der.sequence(der.octets((prime - 3).to_bytes(32, "big")), der.octets(b)),
        der.octets(base), der.integer(order), der.integer(1))


# --- signatures ---

def _identifier(text, *params):
    return der.sequence(der.oid(text), *params)


_PSS = der.sequence(
    der.explicit(0, _identifier("2.16.840.1.101.3.4.2.1", der.NULL)),
    der.explicit(1, _identifier("1.2.840.113549.1.1.8",
                                _identifier("2.16.840.1.101.3.4.2.1", der.NULL))),
    der.explicit(2, der.integer(32)))
ALGORITHMS = {
    "ecdsa-sha1": (_identifier("1.2.840.10045.4.1"), hashes.SHA1()),
    "ecdsa-sha224": (_identifier("1.2.840.10045.4.3.1"), hashes.SHA224()),
    "ecdsa-sha256": (_identifier("1.2.840.10045.4.3.2"), hashes.SHA256()),
    "ecdsa-sha384": (_identifier("1.2.840.10045.4.3.3"), hashes.SHA384()),
    "ecdsa-sha512": (_identifier("1.2.840.10045.4.3.4"), hashes.SHA512()),
    "rsa-md5": (_identifier("1.2.840.113549.1.1.4", der.NULL), hashes.MD5()),
    "rsa-sha1": (_identifier("1.2.840.113549.1.1.5", der.NULL), hashes.SHA1()),
    "rsa-sha224": (_identifier("1.2.840.113549.1.1.14", der.NULL), hashes.SHA224()),
    "rsa-sha256": (_identifier("1.2.840.113549.1.1.11", der.NULL), hashes.SHA256()),
    "rsa-sha384": (_identifier("1.2.840.113549.1.1.12", der.NULL), hashes.SHA384()),
    "rsa-sha512": (_identifier("1.2.840.113549.1.1.13", der.NULL), hashes.SHA512()),
    "rsa-pss": (_identifier("1.2.840.113549.1.1.10", _PSS), hashes.SHA256()),
    "dsa-sha1": (_identifier("1.2.840.10040.4.3"), hashes.SHA1()),
    "ed25519": (_identifier("1.3.101.112"), None),
    "ed448": (_identifier("1.3.101.113"), None),
}


def algorithm_of(private):
    """What such a key signs with unless it is said."""
    for kind, algorithm in ((ec.EllipticCurvePrivateKey, "ecdsa-sha256"),
                            (rsa.RSAPrivateKey, "rsa-sha256"), (dsa.DSAPrivateKey, "dsa-sha1"),
                            (ed25519.Ed25519PrivateKey, "ed25519")):
        if isinstance(private, kind):
            return algorithm
    return "ed448"


def sign(private, algorithm, data):
    digest = ALGORITHMS[algorithm][1]
    if algorithm.startswith("ecdsa"):
        return private.sign(data, ec.ECDSA(digest))
    if algorithm == "rsa-pss":
        return private.sign(data, padding.PSS(padding.MGF1(digest), 32), digest)
    if algorithm.startswith("rsa"):
        return private.sign(data, padding.PKCS1v15(), digest)
    if algorithm.startswith("dsa"):
        return private.sign(data, digest)
    return private.sign(data)


# --- extensions ---

BASIC, USAGE, EKU, SAN = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"
SUBJECT_KEY, AUTHORITY_KEY, CONSTRAINTS = "2.5.29.14", "2.5.29.35", "2.5.29.30"
POLICY_CONSTRAINTS, INHIBIT_ANY, POLICIES = "2.5.29.36", "2.5.29.54", "2.5.29.32"
UNKNOWN = "1.3.6.1.4.1.99999.1"
SERVER, CLIENT = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
EMAIL, CODE, OCSP, ANY = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.9",
                          "2.5.29.37.0")
SIGN, ENCIPHER, AGREE, CERT_SIGN, CRL_SIGN = 0, 2, 4, 5, 6


def ext(kind, value, critical=False):
    """`critical` may be the bytes of the BOOLEAN."""
    if not isinstance(critical, bytes):
        critical = der.boolean(True) if critical else b""
    return der.sequence(kind if isinstance(kind, bytes) else der.oid(kind), critical,
                        der.octets(value))


def basic(ca, path_length=None):
    return ext(BASIC, der.sequence(der.boolean(True) if ca else b"", b"" if path_length is None else
                                   der.integer(path_length)), True)


def usage(*flags):
    return ext(USAGE, der.named_bits(*flags), True)


def eku(*purposes, critical=False):
    return ext(EKU, der.sequence(*map(der.oid, purposes)), critical)


def names(*general, critical=True):
    return ext(SAN, der.sequence(*general), critical)


def raw(text):
    return text if isinstance(text, bytes) else text.encode()


def uri(text):
    return der.implicit(6, raw(text))


def dns(text):
    return der.implicit(2, raw(text))


def email(text):
    return der.implicit(1, raw(text))


def constraints(permitted=(), excluded=()):
    def subtrees(number, bases):
        return der.explicit(number, *map(der.sequence, bases)) if bases else b""

    return ext(CONSTRAINTS, der.sequence(subtrees(0, permitted), subtrees(1, excluded)), True)


def key_id(private):
    return hashlib.sha1(public(private)).digest()


def authority_key(identifier):
    return ext(AUTHORITY_KEY, der.sequence(der.implicit(0, identifier)))


# --- certificates ---

@dataclass
class Cert:
    """What a certificate is made of; everything in DER may be anything."""
    subject: bytes
    issuer: bytes
    spki: bytes
    extensions: list
    signer: object
    begins: bytes
    ends: bytes
    serial: bytes = field(default_factory=lambda: der.integer(
        int.from_bytes(os.urandom(15), "big") | 1))
    version: bytes = der.explicit(0, der.integer(2))
    algorithm: str = None
    inner: bytes = None  # AlgorithmIdentifier in what is signed
    outer: bytes = None  # and beside it
    behind: bytes = b""  # at the end of what is signed
    after: bytes = b""  # behind the signature, within the certificate
    ids: bytes = b""  # issuerUniqueID, subjectUniqueID
    validity: bytes = None
    list: object = None  # the extensions as a whole, given them as a SEQUENCE
    signature: object = None  # its bits, given the right ones
    signed: object = None  # the signed part in the certificate, given what was signed
    bits: object = None  # the BIT STRING, given the signature

    def bytes(self):
        algorithm = self.algorithm or algorithm_of(self.signer)
        identifier = ALGORITHMS[algorithm][0]
        inner = identifier if self.inner is None else self.inner
        listed = der.sequence(*self.extensions)
        listed = der.explicit(3, listed) if self.list is None else self.list(listed)
        tbs = der.sequence(
            self.version, self.serial, inner, self.issuer,
            self.validity if self.validity is not None else der.sequence(self.begins, self.ends),
            self.subject, self.spki, self.ids, listed if self.extensions else b"", self.behind)
        made = sign(self.signer, algorithm, tbs)
        if self.signature is not None:
            made = self.signature(made)
        if self.signed is not None:
            tbs = self.signed(tbs)
        return der.sequence(tbs, identifier if self.outer is None else self.outer,
                            (self.bits or der.bits)(made), self.after)


@dataclass
class Authority:
    """A CA: its certificate as bytes, key, name, and the certificates above it without the root."""
    cert: bytes
    private: object
    name: bytes
    above: list
    root: bool

    @property
    def chain(self):
        return [] if self.root else [self.cert, *self.above]


class World:
    """Makes what one role shows; the roots are shared by all. `roots` are what is trusted."""

    TRUST_DOMAIN = "static.test"

    def __init__(self, roots, inbound, id, other_id):
        self.roots, self.inbound, self.id, self.other_id = roots, inbound, id, other_id
        self.role, self.other_role = (CLIENT, SERVER) if inbound else (SERVER, CLIENT)
        self.base = f"spiffe://{self.TRUST_DOMAIN}"

    @staticmethod
    def make(above, private, subject, parts, more=(), begins_s=-10 * MINUTE, ends_s=HOUR, **changes):
        """A certificate as bytes: `parts` and `more` are its extensions (None: left out), dates are in seconds
        from now, and `changes` fields of Cert."""
        now = time.time()
        spki = changes.pop("spki", None)
        spki = public(private) if spki is None else spki
        fields = {"subject": der.name(subject) if isinstance(subject, str) else subject,
                  "issuer": above.name if above else der.name(subject),
                  "spki": spki, "signer": above.private if above else private,
                  "begins": der.time(now + begins_s), "ends": der.time(now + ends_s),
                  "extensions": [part for part in parts.values() if part is not None] + [*more]}
        return Cert(**(fields | changes)).bytes()

    @classmethod
    def authority(cls, name, above=None, kind="p256", number=0, path_length=None, more=(),
                  private=None, **changes):
        """`changes` also name extensions: basic, usage, eku, names, ski, aki; None leaves one out."""
        private = private or key(kind, number)
        parts = {"basic": basic(True, path_length), "usage": usage(CERT_SIGN, CRL_SIGN),
                 "ski": ext(SUBJECT_KEY, der.octets(key_id(private))),
                 "aki": authority_key(key_id(above.private)) if above else None}
        for part in ("basic", "usage", "eku", "names", "ski", "aki"):
            if part in changes:
                parts[part] = changes.pop(part)
        changes.setdefault("ends_s", 10 * YEAR)
        made = cls.make(above, private, name, parts, more, **changes)
        return Authority(made, private, der.name(name), above.chain if above else [], above is None)

    def leaf(self, *general, above=None, kind="p256", private=None, proof=None, whole=None,
             behind_chain=(), chain=None, subject="leaf", **changes):
        """The right leaf, but for what is said: `general` are its names in place of the identity, `whole`
        gets and returns its bytes, `behind_chain` are certificates after the chain, `chain` the
        certificates in place of those above it."""
        above = above or self.roots["root"]
        private = private or key(kind, 9)
        parts = {"basic": basic(False), "usage": usage(SIGN), "eku": eku(SERVER, CLIENT),
                 "aki": authority_key(key_id(above.private)),
                 "names": names(*(general or (uri(self.id),)))}
        for part in ("basic", "usage", "eku", "names", "aki"):
            if part in changes:
                parts[part] = changes.pop(part)
        made = self.make(above, private, subject, parts, **changes)
        made = whole(made) if whole else made
        return Shown([made, *(above.chain if chain is None else chain), *behind_chain], private,
                     proof)

    def below(self, *cas, **changes):
        """A leaf below intermediates, each of them given as changes of authority(), the uppermost first."""
        above = self.roots[changes.pop("root", "root")]
        for number, one in enumerate(cas):
            above = self.authority(f"intermediate {number}", above,
                                   **({"number": 20 + number} | one))
        return self.leaf(above=above, **changes)


def make_roots():
    """What the sidecars trust, by name."""
    make = World.authority
    return {
        "root": make(ROOT), "rsa": make("rsa root", kind="rsa2048"),
        "expired": make("expired root", begins_s=-9 * DAY, ends_s=-DAY, number=1),
        "future": make("future root", begins_s=DAY, number=2),
        "short": make("root of path length 0", path_length=0, number=3),
        "constrained": make("constrained root", number=4,
                            more=[constraints([uri("other.test")])]),
        "p384": make("P-384 root", kind="p384"),
        "email": make("e-mail root", number=5, eku=eku(EMAIL)),
        "sha1": make("root signed with SHA-1", number=6, algorithm="ecdsa-sha1"),
    }
