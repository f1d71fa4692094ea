"""Certificates of a run: a P-256 CA with two leaves, and what must be refused, made by openssl."""

import subprocess

TRUST_DOMAIN = "mortise.test"

# Peers that cannot match a URI SAN (HAProxy, nginx) match the common name instead, so that every
# pair of the comparison checks the identity of the other side and not only its issuer.
COMMON_NAME = {"client": "client.bench", "server": "server.bench"}


def spiffe_id(role):
    return f"spiffe://{TRUST_DOMAIN}/ns/bench/sa/{role}"


class Pki:
    """Files of one authority: ca, and cert, key and bundle (both in one file) by role."""

    def __init__(self, folder, name="ca"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._ca_key = folder / "ca.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-nodes", "-days", "30", "-subj", f"/CN={name}.bench",
                      "-addext", "basicConstraints=critical,CA:TRUE",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                      "-addext", f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}",
                      "-keyout", self._ca_key, "-out", self.ca)

    def issue(self, role, common_name=None):
        """Makes the leaf of `role`; its name is not one that any peer expects unless it is
        "client" or "server"."""
        name = common_name or COMMON_NAME.get(role, role)
        request, extensions = self.folder / f"{role}.csr", self.folder / f"{role}.ext"
        extensions.write_text(
            "basicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            "subjectKeyIdentifier=hash\n"
            "authorityKeyIdentifier=keyid\n"
            # The name a second time, for ghostunnel: Go looks at no common name.
            f"subjectAltName=URI:{spiffe_id(role)},DNS:{name}\n")
        self._openssl("req", "-new", "-newkey", *self._key_options(),
                      "-nodes", "-subj", f"/CN={name}",
                      "-keyout", self.key(role), "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._ca_key,
                      "-CAcreateserial", "-days", "7", "-sha256", "-extfile", extensions,
                      "-out", self.cert(role))
        self.bundle(role).write_bytes(self.cert(role).read_bytes() + self.key(role).read_bytes())
        self.bundle(role).chmod(0o600)

    def _key_options(self):
        return "ec", "-pkeyopt", "ec_paramgen_curve:P-256"

    def cert(self, role):
        return self.folder / f"{role}.pem"

    def key(self, role):
        return self.folder / f"{role}.key"

    def bundle(self, role):
        return self.folder / f"{role}.bundle.pem"

    @staticmethod
    def _openssl(*args):
        done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {args[0]}: {done.stderr.strip()}")


class _Rsa(Pki):
    """The same authority and names with RSA-2048 leaves."""

    def __init__(self, of):
        self._of, self.folder, self.ca = of, of.folder / "rsa", of.ca
        self._ca_key = of._ca_key
        self.folder.mkdir(exist_ok=True)
        for role in ("client", "server"):
            self.issue(role)

    def _key_options(self):
        return "rsa:2048",


def rsa_of(own):
    return _Rsa(own)


def make(folder):
    """The authority of a run, and a stranger with the same names whom nobody trusts."""
    own, stranger = Pki(folder / "own"), Pki(folder / "stranger", "stranger")
    for role in ("client", "server", "other"):
        own.issue(role)
    for role in ("client", "server"):
        stranger.issue(role)
    return own, stranger
