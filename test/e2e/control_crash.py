"""Without this a control plane that is killed could forget what it had confirmed, sign from half a change, or take the
mesh down with it: it is killed at random moments of its work, and traffic must not notice.

Drives: F18, R39, R54"""
import json
import random
import subprocess
import threading
import time

import pytest
from cryptography import x509

from deploy.lab.mesh import document
from deploy.lab.programs import LabError, wait_for
from test.testlib.fixtures import FULL

ROUNDS = 30 if FULL else 8


class Work:
    """Operators at work until told to stop; remembers what was confirmed."""

    def __init__(self, mesh, folder, number):
        self.mesh = mesh
        self.folder = folder
        self.number = number
        self.links = {}  # and the port that was confirmed
        self.tokens = []
        self.epoch = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=t) for t in (self.apply, self.token, self.rotate)]
        for thread in self.threads:
            thread.start()

    def ctl(self, *args):
        try:
            return self.mesh.ctl(*args, check=False, timeout_s=60)
        except (LabError, subprocess.TimeoutExpired):
            return None

    def apply(self):
        count = 0
        while not self.over.is_set():
            count += 1
            # The same names in each round: what is measured of a link is kept for as long as a sidecar runs.
            name, port = f"crash-{count}", 20000 + self.number * 500 + count
            path = self.folder / f"{name}.json"
            path.write_text(json.dumps({"links": [{
                "name": name, "client": "portal", "server": "gateway",
                "client_port": port, "server_port": 8082}]}))
            done = self.ctl("apply", "-f", path)
            if done is not None and done.returncode == 0:
                self.links[name] = port

    def token(self):
        while not self.over.is_set():
            done = self.ctl("token", "create", "portal")
            if done is not None and done.returncode == 0:
                self.tokens.append(done.stdout.strip())

    def rotate(self):
        while not self.over.is_set():
            done = self.ctl("rotate", "portal", "management")
            if done is not None and done.returncode == 0:
                self.epoch = int(done.stdout.split("epoch ")[1].split(":")[0])

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def test_killed_at_any_moment_it_keeps_what_it_confirmed(mesh, traffic, folder):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(ROUNDS):
        work = Work(mesh, folder, number)
        try:
            end = time.monotonic() + rng.uniform(0.1, 0.8)
            wait_for("the moment", lambda end=end: time.monotonic() > end, 5, 0.005)
            mesh.control.kill()
        finally:
            work.stop()
        began = time.monotonic()
        mesh.start_control()
        started = time.monotonic() - began
        assert started < 10
        ports = {link["name"]: link["client_port"] for link in mesh.ctl_json("get", "links")["links"]}
        assert work.links.items() <= ports.items(), work.links.items() - ports.items()
        for index, token in enumerate(work.tokens[-2:]):
            path = folder / f"token-{number}-{index}"
            path.touch(mode=0o600)
            path.write_text(token)
            mesh.ctl("certificate", "portal", "--token-file", path, "--out",
                     folder / f"cert-{number}-{index}")
        mesh.wait_in_sync(4)

        def renewed(wanted=work.epoch):
            return all(int(w["status"].get("certificate_epoch", 0)) >= wanted
                       for w in mesh.workloads() if w["subsystem"] in ("portal", "management"))

        wait_for("the confirmed rotation reached them", renewed)
        print(f"round {number}: started in {started:.2f} s, whole again in "
              f"{time.monotonic() - began:.2f} s; {len(work.links)} links, {len(work.tokens)} tokens, "
              f"epoch {work.epoch}")
        traffic.more(3)
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)


def test_every_certificate_in_use_is_on_record(mesh):
    mesh.wait_in_sync(4)
    known = {c["serial"] for c in mesh.ctl_json("get", "certificates")["certificates"]}
    used = {w["status"]["certificate_serial"] for w in mesh.workloads()}
    assert len(used) == 4 and used <= known


def test_serials_were_never_used_twice(mesh, folder):
    seen = set()
    for path in folder.glob("cert-*/cert.pem"):
        seen.add(x509.load_pem_x509_certificates(path.read_bytes())[0].serial_number)
    assert len(seen) == len(list(folder.glob("cert-*/cert.pem"))) > 0


def test_without_a_control_plane_traffic_goes_on(mesh, traffic):
    mesh.control.kill()
    traffic.more(20)
    mesh.start_control()
    mesh.wait_in_sync(4)
    traffic.more(5)


def test_traffic_lost_nothing(traffic):
    traffic.finish()
    assert traffic.losses() == []
