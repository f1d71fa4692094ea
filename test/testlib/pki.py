"""Certificates for end-to-end tests, good and bad, by the `cryptography` library: none of our code."""
import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def pem_of_key(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


class Certificate:
    """A certificate with its key and the chain above it (without the root)."""

    def __init__(self, cert, key, above=()):
        self.cert, self.key, self.above = cert, key, list(above)

    @property
    def serial(self):
        return f"{self.cert.serial_number:x}"

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
    def __init__(self, name="root", above=None, key="p256", days=3650, pathlen=None):
        made = KEYS[key]()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (x509.CertificateBuilder().subject_name(subject)
                   .issuer_name(subject if above is None else above.cert.subject)
                   .public_key(made.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now() - datetime.timedelta(minutes=10))
                   .not_valid_after(now() + datetime.timedelta(days=days))
                   .add_extension(x509.BasicConstraints(True, pathlen), critical=True)
                   .add_extension(x509.KeyUsage(False, False, False, False, False, True, True,
                                                False, False), critical=True)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(made.public_key()),
                                  critical=False))
        super().__init__(builder.sign(made if above is None else above.key, hashes.SHA256()), made)

    def root_pem(self):
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def issue(self, *uris, dns=(), key="p256", valid_s=3600, begins_s=-600, eku=("server", "client"),
              ca=False, name="leaf"):
        """A leaf; `uris` are its URI SANs."""
        made = KEYS[key]()
        usages = {"server": ExtendedKeyUsageOID.SERVER_AUTH,
                  "client": ExtendedKeyUsageOID.CLIENT_AUTH,
                  "email": ExtendedKeyUsageOID.EMAIL_PROTECTION}
        builder = (x509.CertificateBuilder()
                   .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
                   .issuer_name(self.cert.subject).public_key(made.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(now() + datetime.timedelta(seconds=begins_s))
                   .not_valid_after(now() + datetime.timedelta(seconds=valid_s))
                   .add_extension(x509.BasicConstraints(ca, None), critical=True)
                   .add_extension(x509.KeyUsage(True, False, False, False, False, ca, False, False,
                                                False), critical=True))
        if eku:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usages[e] for e in eku]),
                                            critical=False)
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(text) for text in dns]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        above = [] if self.cert.issuer == self.cert.subject else [self.cert]
        return Certificate(builder.sign(self.key, hashes.SHA256()), made, above)
