"""Without this a control plane that is killed while many ask at once could forget what it had told one of them: operators and
newcomers ask for all that there is, at once and without a pause, and it is killed at random moments; the seed is printed.

Where crash_points kills one change at each of its calls, here changes meet, and share transactions.

Drives: R39, R42, R53, R54, R37, F5, F6, F18"""
import random
import threading
import time

import pytest

from deploy.lab.programs import wait_for
from test.testlib.crash import Ended, Plane, Refused, csr, new_key, serial_of
from test.testlib.fixtures import FULL

KILLS = 500 if FULL else 20
NEWCOMERS = 3


@pytest.fixture(scope="module")
def plane(folder, binaries):
    made = Plane(folder, binaries=binaries)
    made.start()
    yield made
    made.stop()


class Crowd:
    """Those who ask, each until there is no answer; what was confirmed lives on from one kill to the next."""

    def __init__(self, plane):
        self.plane = plane
        self.serials = []  # received
        self.revoked, self.revoking, self.lifting = {}, set(), set()  # key -> id; asked for, not answered
        self.ports, self.asked_port = {}, {}  # link -> port confirmed, asked for last
        self.used = []  # (token, key) of certificates received
        self.tokens = []  # confirmed, and nobody has used them yet
        self.epoch, self.version, self.number = 0, 0, 0
        self.problems = []
        self.answers = 0  # about, as several count
        self.rng = random.Random()

    def ask(self, what, *args):
        """`what`, again and again until the control plane is gone."""
        try:
            while True:
                what(*args)
                self.answers += 1
        except Ended:
            pass
        except Exception as err:  # noqa: BLE001  told by the test
            self.problems.append(f"{what.__name__}: {err!r}")

    def newcomer(self):
        token, key = self.plane.operator("CreateToken", subsystem="gateway").token, new_key()
        self.serials.append(serial_of(self.plane.attest(token, key).chain[0]))
        self.used.append((token, key))

    def admin(self):
        self.serials.append(serial_of(self.plane.operator("IssueAdmin", name="boss", csr=csr(new_key())).chain[0]))

    def token(self):
        self.tokens.append(self.plane.operator("CreateToken", subsystem="portal").token)

    def apply(self, name):
        port, before = self.asked_port.get(name, 20000) + 1, self.version
        self.asked_port[name] = port
        link = {"name": name, "client": "portal", "server": "gateway", "client_port": port, "server_port": 8082}
        try:
            version = self.plane.operator("Apply", mesh={"links": [link]}).version
        except Refused as no:
            assert "client_port" in str(no), no  # two have met at one port
            return
        assert version > before
        self.ports[name], self.version = port, max(version, self.version)

    def revoke(self):
        key = f"{self.rng.getrandbits(256):064x}"
        self.revoking.add(key)
        self.revoked[key] = self.plane.operator("Revoke", revocation={"key_sha256": key}).id
        self.revoking.discard(key)
        if len(self.revoked) > 20:
            key, number = next(iter(self.revoked.items()))
            self.lifting.add(key)
            self.plane.operator("Lift", id=number)
            del self.revoked[key]
            self.lifting.discard(key)

    def rotate(self):
        epoch = self.plane.operator("Rotate", subsystems=["portal"])[-1].epoch
        assert epoch > self.epoch
        self.epoch = epoch

    def rotate_root(self):
        try:
            number = self.plane.operator("RotateRoot").number
        except Refused as no:
            assert "is under way" in str(no), no
            return
        assert number > self.number
        self.number = number

    def backup(self):
        *parts, last = self.plane.operator("Backup")
        assert sum(len(part.data) for part in parts) == last.size

    def begin(self):
        jobs = [*[(self.newcomer,)] * NEWCOMERS, (self.admin,), (self.token,), (self.apply, "one"), (self.apply, "two"),
                (self.revoke,), (self.rotate,), (self.rotate_root,), (self.backup,)]
        self.threads = [threading.Thread(target=self.ask, args=job) for job in jobs]
        for thread in self.threads:
            thread.start()

    def end(self):
        for thread in self.threads:
            thread.join()
        assert self.problems == []

    def check(self):
        plane = self.plane
        mesh = plane.operator("GetMesh")
        ports = {link.name: link.client_port for link in mesh.mesh.links}
        for name, port in self.ports.items():
            assert port <= ports[name] <= self.asked_port[name], (name, port, ports[name], self.asked_port[name])
        assert mesh.version >= self.version
        self.version = mesh.version
        listed = {r.revocation.key_sha256: r.id for r in plane.operator("ListRevocations").revocations}
        assert self.revoked.keys() - listed.keys() <= self.lifting, "an acknowledged revocation is gone"
        assert listed.keys() - self.revoked.keys() <= self.revoking, "one that was lifted is back"
        assert len(set(listed.values())) == len(listed)
        self.revoked, self.revoking, self.lifting = listed, set(), set()
        assert len(set(self.serials)) == len(self.serials), "a serial number was given twice"
        known = [c.serial for c in plane.certificates()]
        assert len(set(known)) == len(known)
        assert set(self.serials) <= set(known), "a certificate without its record"
        rotation = wait_for("the root's rotation has ended", self.idle)
        assert rotation.number >= self.number and not rotation.going_back
        self.number = rotation.number
        for token, _ in self.used[-1:]:
            with pytest.raises(Refused):
                plane.attest(token)
        for token in self.tokens[-1:]:
            self.serials.append(serial_of(plane.attest(token).chain[0]))
        self.tokens.clear()

    def idle(self):
        rotation = self.plane.operator("GetRootRotation")
        return rotation.stage == "idle" and rotation


def test_killed_in_a_crowd(plane):
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    rng, crowd = random.Random(seed), Crowd(plane)
    for number in range(KILLS):
        crowd.begin()
        answers = crowd.answers + rng.randrange(20)
        wait_for("they are at it", lambda answers=answers: crowd.answers >= answers or crowd.problems, every_s=0.001)
        end = time.monotonic() + 0.02 * rng.random()
        wait_for("the moment", lambda end=end: time.monotonic() > end, 5, 0.001)
        plane.program.kill()
        crowd.end()
        plane.again()
        try:
            crowd.check()
        except AssertionError as err:
            raise AssertionError(f"seed {seed}, kill {number}: {err}") from None
    print(f"{KILLS} kills; {len(crowd.serials)} certificates, {len(crowd.revoked)} revocations, epoch {crowd.epoch}, "
          f"mesh {crowd.version}, {crowd.number} rotations of the root")
    assert len(crowd.serials) > KILLS / 2 and crowd.number > 0 and crowd.epoch > 0
