"""Without this the first five minutes of a newcomer would be spent on what was true once: the README's session is typed as it
stands there, and each step shows what it says.

Drives: F1, F5, F12, D6, D7, A9, R51"""
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment

README = Path(__file__).resolve().parents[2] / "README.md"
STEP = re.compile(r"^# (\d)\. ", re.M)


@pytest.fixture(scope="module")
def tour(folder, network, binaries):
    """{step: what it printed}; standard error apart under 'err'."""
    text = re.search(r"^## Five minutes by hand\n.*?^```sh\n(.*?)^```", README.read_text(), re.S | re.M)[1]
    script = STEP.sub(lambda found: f"echo '== {found[1]}'\n# {found[1]}. ", text) + "echo '== end'\n"
    host = network["control"]
    with open(folder / "err", "w+") as err, open(folder / "out", "w+") as out:
        session = subprocess.Popen(
            host.command("bash", "-e", "-u", "-o", "pipefail", "-c", script), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
            env={**own_environment(), "PATH": f"{binaries.proxy.parent}:{binaries.control.parent}:{os.environ['PATH']}"})
        try:
            status = session.wait(180)
        finally:
            left = [line for line in (folder / "out").read_text().splitlines()[-20:]]
            os.killpg(session.pid, signal.SIGTERM)  # the programs that it has started in the background
            session.wait(20)
        assert status == 0, ("\n".join(left), (folder / "err").read_text()[-3000:])
        parts = re.split(r"^== (\w+)\n", (folder / "out").read_text(), flags=re.M)
    steps = dict(zip(parts[1::2], parts[2::2]))
    assert list(steps) == [*"12345678", "end"], steps.keys()
    return {**steps, "err": (folder / "err").read_text()}


def test_it_begins(tour):
    assert "made ./mesh/control.yaml" in tour["1"] and "mesh.example" in tour["1"]


def test_a_document_is_checked_and_applied(tour):
    assert "valid\n" in tour["2"] and tour["2"].count("link shop-stock: added") == 2


def test_a_request_crosses_the_mesh(tour):
    assert "Directory listing for /" in tour["4"]
    assert "spiffe://mesh.example/ns/default/sa/shop" in tour["4"] and '"shop-stock"' in tour["4"]


def test_a_change_is_shown_before_and_taken_by_all(tour):
    assert re.search(r"^-\s+server_port: 8201$", tour["5"], re.M) and re.search(r"^\+\s+server_port: 8299$", tour["5"], re.M)
    assert "link shop-stock: changed server_port" in tour["5"] and "desk-bills" not in tour["5"].split("+++")[-1].split("@@")[0]


def test_what_is_broken_is_explained_and_taken_back(tour):
    why, rest = tour["6"].split("REVISION", 1)
    assert "\nThe application behind stock does not listen on 127.0.0.1:8299.\n" in why, why
    assert "stock moves" in rest and "shop and desk" in rest
    assert "link shop-stock: changed server_port" in rest and "Directory listing for /" in rest


def test_certificates_are_new(tour):
    for name in ("shop", "desk", "stock", "bills"):
        found = re.findall(rf"^\S+\s+.*sa/{name}\b.*$|^.*\b{name}\b.*renew.*$", tour["7"], re.M)
        assert found, (name, tour["7"])
    assert "(in 0s)" not in tour["7"]


def test_the_record_is_whole(tour):
    assert "mesh.apply" in tour["8"] and "mesh.rollback" in tour["8"], tour["8"]
    assert re.search(r"^OK: \d+ records, 1 to \d+", tour["8"], re.M)
