"""What must be refused, tried on a running mesh; each gives (name, held, what was seen)."""
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .mesh import INBOUND_PORT, LINKS, TRUST_DOMAIN, document
from .programs import Process, admin, wait_for

ROOT = Path(__file__).resolve().parents[2]


def probe(mesh, host, target, *flags):
    """lab/probe.py on that host."""
    done = mesh.network[host].run(sys.executable, "-m", "deploy.lab.probe", target,
                                  *map(str, flags), cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"probe: {done.stderr}")
    return json.loads(done.stdout)


def openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


def key_sha256(key):
    """Of the SubjectPublicKeyInfo of a private key's file, in hex."""
    done = subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], check=True,
                          capture_output=True)
    return hashlib.sha256(done.stdout).hexdigest()


def foreign_certificate(folder, spiffe_id):
    """A certificate with the right identity from a CA that nobody trusts."""
    folder.mkdir(parents=True, exist_ok=True)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=stranger",
            "-days", "2", cwd=folder)
    openssl("req", *new, "-keyout", "key.pem", "-out", "leaf.csr", "-subj", "/CN=leaf", cwd=folder)
    (folder / "leaf.ext").write_text(
        f"subjectAltName=critical,URI:{spiffe_id}\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:false\n")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "1", "-extfile", "leaf.ext", "-out", "cert.pem", cwd=folder)
    return folder / "cert.pem", folder / "key.pem"


class Refusals:
    def __init__(self, mesh):
        self.mesh = mesh
        self.folder = mesh.folder / "refusals"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.portal = f"{mesh.network['portal'].v4}:{INBOUND_PORT}"
        self.gateway = f"{mesh.network['gateway'].v4}:{INBOUND_PORT}"
        self.short = None

    def prepare(self):
        """Issues the certificate that will have expired when its turn comes."""
        self.short = self.folder / "expired"
        self.mesh.ctl("admin", "create", "short-lived", "--out", self.short, "--ttl", "5s")
        self.short_until = time.monotonic() + 6

    def _tls(self, name, host, target, link, wanted, cert=None, key=None):
        args = ["--server-name", f"{link}.mortise.internal", "--roots", self.mesh.roots]
        if cert:
            args += ["--cert", cert, "--key", key]
        seen = probe(self.mesh, host, target, *args)
        held = not seen["connected"] and any(word in seen["error"].upper() for word in wanted)
        return name, held, seen["error"]

    def undeclared_pair(self):
        """The gateway's sidecar meets the portal's own, valid certificate: no link allows it."""
        cert, key = self.mesh.certificate("portal", self.folder / "portal")
        return self._tls("undeclared pair portal→gateway", "portal", self.gateway,
                         "management-gateway", ("ACCESS_DENIED",), cert, key)

    def plaintext(self):
        seen = probe(self.mesh, "management", self.portal, "--plain",
                     "GET / HTTP/1.1\r\nHost: portal\r\n\r\n")
        return "plaintext to an mTLS port", not seen["connected"], seen["error"] or seen["answer"]

    def no_certificate(self):
        return self._tls("no client certificate", "management", self.portal, "management-portal",
                         ("CERTIFICATE_REQUIRED",))

    def other_ca(self):
        cert, key = foreign_certificate(self.folder / "stranger",
                                        f"spiffe://{TRUST_DOMAIN}/ns/apim/sa/management")
        return self._tls("certificate of another CA", "management", self.portal,
                         "management-portal", ("UNKNOWN_CA",), cert, key)

    def expired(self):
        wait_for("the short certificate expired", lambda: time.monotonic() > self.short_until)
        return self._tls("expired certificate", "management", self.portal, "management-portal",
                         ("CERTIFICATE_EXPIRED",), self.short / "cert.pem",
                         self.short / "key.pem")

    def wrong_identity(self):
        out = self.folder / "admin"
        self.mesh.ctl("admin", "create", "somebody", "--out", out)
        return self._tls("right certificate for a wrong identity", "management", self.portal,
                         "management-portal", ("ACCESS_DENIED",), out / "cert.pem",
                         out / "key.pem")

    def reused_token(self):
        """A second sidecar, with a key of its own, presents the token that portal's has used."""
        (self.mesh.folder / "proxy-thief.log").unlink(missing_ok=True)  # of the last time
        thief = self.mesh.start_sidecar("portal", "--inbound-listen", "127.0.0.1:15444",
                                        name="proxy-thief", ready=False,
                                        token=self.mesh.tokens["proxy-portal"])
        try:
            told = wait_for("the second sidecar is told", lambda: [
                e for e in thief.events()  # expired as well, in a mesh that has run for long
                if "token_used" in str(e) or "token_expired" in str(e)])[0]
            return ("reused join token", admin(thief.admin_socket, "/readyz")[0] == 503,
                    told.get("reason") or told.get("error") or told["event"])
        finally:
            thief.stop()
            del self.mesh.sidecars["proxy-thief"]

    def stolen_certificate(self):
        """Somebody has a copy of management's key: he is let in until it is revoked, then no more; management
        itself, with another certificate, notices nothing."""
        cert, key = self.mesh.certificate("management", self.folder / "stolen")
        if self._tls("", "portal", self.portal, "management-portal", (), cert, key)[2] != "closed":
            return "stolen certificate", False, "was not let in before"
        self.mesh.ctl("revoke", "key", key_sha256(key), "--reason", "stolen", "--wait")
        return self._tls("stolen certificate, revoked", "portal", self.portal, "management-portal",
                         ("CERTIFICATE_REVOKED",), cert, key)

    def invalid_policy(self):
        """The control plane refuses a policy that would leave a link without a common version."""
        bad = document(server={"max_version": "TLS1_2", "min_version": "TLS1_2"})
        done = self.mesh.apply(bad, check=False)
        return ("policy that leaves a link with nothing in common",
                done.returncode != 0 and "links[0]" in done.stderr,
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "accepted")

    def nack(self):
        """A push that only the sidecar can judge: its loopback port is taken. It names the field and keeps
        the policy it had."""
        port = 15199
        squatter = Process("squatter", [sys.executable, "-c",
                                        "import socket,signal;s=socket.socket();"
                                        f"s.bind(('127.0.0.1',{port}));s.listen();"
                                        "print('up',flush=True);signal.pause()"],
                           self.folder, self.mesh.network["management"])
        try:
            wait_for("squatter", lambda: "up" in squatter.tail())
            before = self.mesh.sidecar("management").config()
            extra = ("squatted", "management", "portal", port, 8081)
            self.mesh.apply(document(links=(*LINKS, extra)))

            def refused():
                for workload in self.mesh.workloads():
                    if workload["subsystem"] == "management" and workload.get("refused"):
                        return workload["refused"]
                return None

            error = wait_for("NACK of management", refused)
            text = "; ".join(f"{f['path']}: {f['message']}" for f in error.get("faults", []))
            after = self.mesh.sidecar("management").config()
            same = after.get("version") == before.get("version")
            return "bad policy push (NACK)", "outbound[" in text and same, text
        finally:
            squatter.kill()
            self.mesh.apply(document(), "--prune")
            self.mesh.wait_in_sync()

    ALL = (undeclared_pair, plaintext, no_certificate, other_ca, expired, wrong_identity,
           reused_token, stolen_certificate, invalid_policy, nack)

    def run(self, told=lambda row: None):
        rows = []
        for attempt in self.ALL:
            try:
                row = attempt(self)
            except Exception as err:  # a refusal that cannot be tried has not held
                row = (attempt.__name__, False, f"{type(err).__name__}: {err}")
            rows.append(row)
            told(row)
        return rows
