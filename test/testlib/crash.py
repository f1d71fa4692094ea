"""A control plane that is killed, or whose disk fails, in the midst of what operators and sidecars ask of it; and the book of
what was answered, which what it says after a restart is compared with."""
import contextlib
import hashlib
import itertools
import os

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.lab.programs import wait_for
from test.testlib.audit import check_is_the_store
from test.testlib.control import LoneControl
from test.testlib.stubs import stubs

DEADLINE_S = 30
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION,)


class Refused(Exception):
    """Answered: no. Nothing of what was asked for may be there afterwards."""


class Ended(Exception):
    """No answer: what was asked for may have been done, or not."""


class Plane:
    """The control plane, started again after each end, with its disk's faults; and calls to it."""

    def __init__(self, folder, faults=None, binaries=None):
        self.control = LoneControl(folder, binaries)
        self.faults = faults(self.control.data) if faults else None
        self.stubs = stubs()
        self.link = None

    @property
    def program(self):
        return self.control.program

    @property
    def store(self):
        return self.control.data / "store.db"

    def start(self, ready=True):
        self.control.start(env=self.faults.env if self.faults else None, ready=ready)
        return self.connect() if ready else self

    def connect(self):
        self.disconnect()
        self.link = grpc.insecure_channel(f"unix:{self.control.socket}")
        self.operators = self.stubs.operator_grpc.OperatorServiceStub(self.link)
        self.identity = self.stubs.identity_grpc.IdentityServiceStub(self.link)
        self.access = self.stubs.access_grpc.AccessServiceStub(self.link)
        return self

    def disconnect(self):
        if self.link is not None:
            self.link.close()
        self.link = None

    def again(self):
        """Killed, if it is still there, and started."""
        self.disconnect()
        self.program.kill()
        self.program.stop()
        if self.faults:
            self.faults.disarm()
        return self.start()

    def stop(self):
        self.disconnect()
        if self.program is not None:
            self.program.stop()

    @staticmethod
    def _call(method, request):
        try:
            answer = method(request, timeout=DEADLINE_S)
            return answer if not hasattr(answer, "__iter__") else list(answer)
        except grpc.RpcError as err:
            if err.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise Ended(str(err)) from None
            raise Refused(f"{err.code().name} {err.details()}") from None

    def operator(self, name, /, **fields):
        """An operator's call; its request's type is named as the call is."""
        request = getattr(self.stubs.operator, f"{name}Request")(**fields)
        if name == "RotateRoot":
            self._call(self.access.Elevate, self.stubs.access.ElevateRequest(reason="a test"))
        return self._call(getattr(self.operators, name), request)

    def certificates(self):
        """Of every page."""
        page = self.operator("ListCertificates")
        found = list(page.certificates)
        while page.next_page_token:
            page = self.operator("ListCertificates", page_token=page.next_page_token)
            found += page.certificates
        return found

    def attest(self, token, key=None):
        request = self.stubs.identity.AttestRequest(join_token=token, csr=csr(key or new_key()))
        return self._call(self.identity.Attest, request)

    # What it says of itself.

    def facts(self):
        """All that a restart must not change; each start makes a certificate of its own."""
        rotation = self.operator("GetRootRotation")
        return {
            "mesh": self.operator("GetMesh").SerializeToString(deterministic=True),
            "revocations": self.operator("ListRevocations").SerializeToString(deterministic=True),
            "certificates": [(c.serial, c.sha256) for c in self.certificates() if c.reason != "control"],
            "rotation": (rotation.stage, rotation.number, rotation.going_back),
            "root": self.operator("Status").root_sha256,
        }


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def csr(key):
    return x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.DER)


def serial_of(der):
    number = x509.load_der_x509_certificate(der).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


class Book:
    """What was asked for and answered. `doing` is what had no answer: it may be in force, or not."""

    def __init__(self, plane):
        self.plane = plane
        self.numbers = itertools.count(1)
        self.serials = set()
        self.ports = {}  # of links that were confirmed
        self.revoked = {}  # key -> id
        self.tokens = []  # confirmed, unused
        self.used = []  # (token, key): its certificate was received
        self.epoch = 0
        self.rotations = 0
        self.version = 0
        self.doing = {}
        self.maybe = {}  # what was refused last, and `doing` was

    def copy(self):
        """For another branch of what may happen."""
        other = Book(self.plane)
        other.serials, other.ports, other.revoked = set(self.serials), dict(self.ports), dict(self.revoked)
        other.tokens, other.used = list(self.tokens), list(self.used)
        other.epoch, other.rotations, other.version = self.epoch, self.rotations, self.version
        return other

    # What is asked for; each returns when it is confirmed, and raises Refused or Ended.

    def attest(self):
        if not self.tokens:
            self.tokens.append(self.plane.operator("CreateToken", subsystem="portal").token)
        token, key = self.tokens.pop(), new_key()
        try:
            answer = self.plane.attest(token, key)
        except (Refused, Ended) as no:
            self.doing = {"attest": (token, key)}
            if isinstance(no, Refused):
                self.tokens.append(token)
            raise
        self.received(answer.chain[0])
        self.used.append((token, key))

    def received(self, der):
        serial = serial_of(der)
        assert serial not in self.serials, f"serial number {serial} was used twice"
        self.serials.add(serial)

    def admin(self):
        answer = self.plane.operator("IssueAdmin", name="boss", csr=csr(new_key()))
        self.received(answer.chain[0])

    def token(self):
        self.tokens.append(self.plane.operator("CreateToken", subsystem="portal").token)

    def apply(self):
        name, port = f"crash-{next(self.numbers) % 3}", 20000 + next(self.numbers) % 20000
        link = {"name": name, "client": "portal", "server": "gateway", "client_port": port, "server_port": 8082}
        self.doing = {"port": (name, port)}
        version = self.plane.operator("Apply", mesh={"links": [link]}).version
        assert version > self.version, f"version {version} after {self.version}"
        self.ports[name], self.version = port, version

    def revoke(self):
        key = hashlib.sha256(os.urandom(8)).hexdigest()
        self.doing = {"revoke": key}
        self.revoked[key] = self.plane.operator("Revoke", revocation={"key_sha256": key}).id

    def lift(self):
        if not self.revoked:
            self.revoke()
        key = next(iter(self.revoked))
        self.doing = {"lift": key}
        self.plane.operator("Lift", id=self.revoked[key])
        del self.revoked[key]

    def rotate(self):
        self.doing = {}
        epoch = self.plane.operator("Rotate", subsystems=["portal"])[-1].epoch
        assert epoch > self.epoch, f"epoch {epoch} after {self.epoch}"
        self.epoch = epoch

    def rotate_root(self):
        wait_for("the one before has ended", self.idle)
        self.doing = {"rotation": self.rotations + 1}
        self.rotations = self.plane.operator("RotateRoot").number

    def backup(self):
        *parts, last = self.plane.operator("Backup")
        image = b"".join(part.data for part in parts)
        assert hashlib.sha256(image).digest() == last.sha256 and len(image) == last.size

    WORK = ("attest", "admin", "token", "apply", "revoke", "lift", "rotate", "rotate_root", "backup")

    def work(self, name):
        """True when it was confirmed, False when it was refused; raises Ended."""
        self.doing = {}
        try:
            getattr(self, name)()
        except Refused as no:
            assert "store_unwritable" in str(no), no
            self.maybe, self.doing = self.doing, {}
            return False
        self.doing = {}
        return True

    # After a restart.

    def check(self):
        """All that was confirmed is there; what had no answer is there whole, or not at all."""
        plane, doing = self.plane, self.doing
        mesh = plane.operator("GetMesh")
        ports = {link.name: link.client_port for link in mesh.mesh.links}
        for name, port in self.ports.items():
            assert ports[name] == port or doing.get("port") == (name, ports[name]), (name, port, ports[name])
        self.ports = {name: port for name, port in ports.items() if name.startswith("crash-")}
        assert mesh.version >= self.version
        self.version = mesh.version
        kept = plane.operator("GetRevision", version=mesh.version)
        assert kept.mesh == mesh.mesh and plane.operator("ListRevisions", page_size=1).revisions[0] == kept.revision

        listed = {r.revocation.key_sha256: r.id for r in plane.operator("ListRevocations").revocations}
        missing, more = self.revoked.keys() - listed.keys(), listed.keys() - self.revoked.keys()
        assert missing <= {doing.get("lift")} and more <= {doing.get("revoke")}, (missing, more, doing)
        self.revoked = listed

        certificates = plane.certificates()
        check_is_the_store(plane.operator, certificates)
        known = [c.serial for c in certificates]
        assert len(known) == len(set(known))
        assert self.serials <= set(known), f"without a record: {self.serials - set(known)}"

        rotation = wait_for("the root's rotation has ended", self.idle)
        assert rotation.number in (self.rotations, doing.get("rotation", self.rotations))
        self.rotations = rotation.number
        self.check_tokens()
        self.doing = {}

    def idle(self):
        rotation = self.plane.operator("GetRootRotation")
        return rotation.stage == "idle" and rotation

    def check_tokens(self):
        """One that was used is its key's; an unanswered Attest can be asked for again, and one token in all is tried."""
        if "attest" in self.doing:
            token, key = self.doing["attest"]
            self.tokens = [one for one in self.tokens if one != token]
            self.received(self.plane.attest(token, key).chain[0])
            self.used.append((token, key))
        for token, _ in self.used[-1:]:
            with contextlib.suppress(Refused):
                self.plane.attest(token)
                raise AssertionError("a token was taken from a second key")
        for token in self.tokens[-1:]:
            self.received(self.plane.attest(self.tokens.pop()).chain[0])
