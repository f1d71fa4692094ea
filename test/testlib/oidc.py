"""An OIDC issuer: keys, tokens that are right or wrong in one way, and the set of its keys over HTTPS."""
import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, length=None):
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


class Key:
    """`kind`: RS256, PS256, ES256 or EdDSA."""

    def __init__(self, kid, kind="ES256"):
        self.kid, self.kind = kid, kind
        if kind == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        elif kind == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = rsa.generate_private_key(65537, 2048)

    def jwk(self):
        public = self.private.public_key()
        if self.kind == "ES256":
            point = public.public_numbers()
            made = {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}
        elif self.kind == "EdDSA":
            made = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        else:
            numbers = public.public_numbers()
            made = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        return {**made, "kid": self.kid, "use": "sig", "alg": self.kind}

    def pem(self):
        return self.private.public_key().public_bytes(serialization.Encoding.PEM,
                                                      serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, text):
        if self.kind == "ES256":
            r, s = utils.decode_dss_signature(self.private.sign(text, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if self.kind == "EdDSA":
            return self.private.sign(text)
        if self.kind == "RS256":
            return self.private.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return self.private.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


class Server(ThreadingHTTPServer):
    """The issuer's address; `answer` is (status, headers, body), None: it answers nothing."""

    daemon_threads = True

    def __init__(self, folder, name="127.0.0.1"):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.server.asked += 1
                status, headers, body = self.server.answer()
                self.send_response(status)
                for field, value in headers.items():
                    self.send_header(field, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.asked, self.answer = 0, None
        super().__init__(("127.0.0.1", 0), Handler)
        self.ca_file = folder / "web-ca.pem"
        self.context = self._context(folder, name)
        self.socket = self.context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request, client_address):
        """Who breaks off the handshake is what is tried."""

    def _context(self, folder, name):
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        now = datetime.datetime.now(datetime.timezone.utc)

        def certificate(subject, issuer, public, signer, *extensions):
            made = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
                    .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
                    .not_valid_after(now + datetime.timedelta(days=1)))
            for extension in extensions:
                made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            return made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

        def named(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        try:
            alternative = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        self.ca_file.write_bytes(certificate(named("web"), named("web"), ca_key.public_key(), ca_key,
                                             x509.BasicConstraints(True, None)))
        chain = folder / "web-server.pem"
        chain.write_bytes(certificate(named(name), named("web"), key.public_key(), ca_key,
                                      x509.SubjectAlternativeName([alternative])) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    @property
    def url(self):
        return f"https://127.0.0.1:{self.server_address[1]}/keys"

    def stop(self):
        self.shutdown()
        self.server_close()


class Issuer:
    NAME, AUDIENCE = "https://id.example", "mortise"

    def __init__(self, *keys):
        self.keys = list(keys) or [Key("first")]

    def jwks(self):
        return json.dumps({"keys": [key.jwk() for key in self.keys]}).encode()

    def answer(self):
        return 200, {"Content-Type": "application/jwk-set+json"}, self.jwks()

    def payload(self, sub, life_s=300, **claims):
        now = int(time.time())
        made = {"iss": self.NAME, "aud": self.AUDIENCE, "sub": sub, "iat": now, "exp": now + life_s, **claims}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, sub, key=None, life_s=300, header=None, **claims):
        """Signed by its last key; claims and members of the header that are None are left out."""
        key = key or self.keys[-1]
        head = {"alg": key.kind, "kid": key.kid, "typ": "JWT", **(header or {})}
        text = self.unsigned({k: v for k, v in head.items() if v is not None},
                             self.payload(sub, life_s, **claims))
        return f"{text}.{base64url(key.sign(text.encode()))}"

    @staticmethod
    def unsigned(header, payload):
        return ".".join(base64url(json.dumps(part).encode()) for part in (header, payload))

    def bare(self, sub):
        """alg none."""
        return self.unsigned({"alg": "none", "typ": "JWT"}, self.payload(sub)) + "."

    def confused(self, sub, secret):
        """HS256 with what everybody knows."""
        text = self.unsigned({"alg": "HS256", "kid": self.keys[-1].kid, "typ": "JWT"}, self.payload(sub))
        return f"{text}.{base64url(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"
