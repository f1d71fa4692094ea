"""Certificates for end-to-end tests, good and bad, by the `cryptography` library: none of our code."""
import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}

EKUS = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH,
        "email": ExtendedKeyUsageOID.EMAIL_PROTECTION, "code": ExtendedKeyUsageOID.CODE_SIGNING}
KEY_USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
              "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def pem_of_key(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def signed(builder, key):
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


class Certificate:
    """A certificate with its key and the chain above it (without the root)."""

    def __init__(self, cert, key, above=()):
        self.cert, self.key, self.above = cert, key, list(above)

    @property
    def serial(self):
        """As the product writes it: lower-case hex of whole bytes."""
        number = self.cert.serial_number
        return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()

    @property
    def pem(self):
        return b"".join(c.public_bytes(serialization.Encoding.PEM)
                        for c in [self.cert, *self.above])

    def write(self, folder, name):
        """NAME.pem and NAME.key (0600) in the folder, each by rename; their paths."""
        folder = Path(folder)
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, data in zip(paths, (self.pem, pem_of_key(self.key))):
            fresh = path.with_name(path.name + ".tmp")
            fresh.touch(mode=0o600)
            fresh.write_bytes(data)
            fresh.rename(path)
        return paths


class Ca(Certificate):
    """A root, or with `above` an intermediate. `key` is a kind, or a key that exists."""

    def __init__(self, name="root", above=None, key="p256", days=3650, pathlen=None,
                 begins_days=None, extra=()):
        made = KEYS[key]() if isinstance(key, str) else key
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        begins = (now() - datetime.timedelta(minutes=10) if begins_days is None else
                  now() + datetime.timedelta(days=begins_days))
        builder = (x509.CertificateBuilder().subject_name(subject)
                   .issuer_name(subject if above is None else above.cert.subject)
                   .public_key(made.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(begins)
                   .not_valid_after(now() + datetime.timedelta(days=days))
                   .add_extension(x509.BasicConstraints(True, pathlen), critical=True)
                   .add_extension(x509.KeyUsage(False, False, False, False, False, True, True,
                                                False, False), critical=True)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.public_key()),
                                  critical=False))
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        over = [] if above is None or above.is_root() else [above.cert, *above.above]
        super().__init__(signed(builder, made if above is None else above.key), made, over)

    def is_root(self):
        return self.cert.issuer == self.cert.subject

    def root_pem(self):
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def issue(self, *uris, dns=(), sans=None, key="p256", valid_s=3600, begins_s=-600,
              eku=("server", "client"), usage=("digital_signature",), ca=False, pathlen=None,
              name="leaf", extra=(), signer=None):
        """A leaf; `uris` are its URI SANs, `dns` its DNS SANs; or `sans` are all of them as x509.GeneralName.

        For bad ones: `usage` None leaves KeyUsage out, `eku` () leaves that out, `extra` are more
        extensions as (extension, critical), `signer` a key that signs in place of this CA's."""
        made = KEYS[key]() if isinstance(key, str) else key
        builder = (x509.CertificateBuilder()
                   .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
                   .issuer_name(self.cert.subject).public_key(made.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now() + datetime.timedelta(seconds=begins_s))
                   .not_valid_after(now() + datetime.timedelta(seconds=valid_s))
                   .add_extension(x509.BasicConstraints(ca, pathlen), critical=True))
        if usage is not None:
            usage = {*usage, *(("key_cert_sign",) if ca else ())}
            builder = builder.add_extension(
                x509.KeyUsage(**{name: name in usage for name in KEY_USAGES}), critical=True)
        if eku:
            builder = builder.add_extension(x509.ExtendedKeyUsage([EKUS[e] for e in eku]),
                                            critical=False)
        if sans is None:
            sans = [x509.UniformResourceIdentifier(uri) for uri in uris]
            sans += [x509.DNSName(text) for text in dns]
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=True)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        above = [] if self.is_root() else [self.cert, *self.above]
        return Certificate(signed(builder, signer or self.key), made, above)

    def resign(self, made, digest):
        """The same certificate signed with a digest that the library does not sign certificates with any
        more; for an RSA CA, whose algorithm identifiers differ in one byte."""
        old, new = (bytes.fromhex("06092a864886f70d0101") + bytes([n])
                    for n in (11, {"md5": 4, "sha1": 5}[digest]))
        algorithm = {"md5": hashes.MD5(), "sha1": hashes.SHA1()}[digest]
        tbs = made.cert.tbs_certificate_bytes.replace(old, new, 1)
        signature = self.key.sign(tbs, padding.PKCS1v15(), algorithm)
        body = (tbs + b"\x30\x0d" + new + b"\x05\x00" +
                b"\x03\x82" + (len(signature) + 1).to_bytes(2, "big") + b"\0" + signature)
        data = b"\x30\x82" + len(body).to_bytes(2, "big") + body
        return Certificate(x509.load_der_x509_certificate(data), made.key, made.above)
