"""Without this an alert could watch a metric that nobody has, or fire never: the rules are checked and tried by promtool, every
metric they name is one of the programs', and Debian's Prometheus scrapes a running mesh with them.

Drives: F13"""
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.lab.mesh import SUBSYSTEMS, Mesh
from deploy.lab.programs import Process, wait_for

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
METRICS_PORT, CONTROL_METRICS_PORT, PROMETHEUS_PORT = 9901, 9902, 9090


@pytest.fixture(scope="module")
def mesh(folder, network, binaries):
    """A mesh that can be scraped."""
    made = Mesh(folder, network, binaries)
    data = folder / "control"
    subprocess.run([str(binaries.ctl), "init", str(data), "--trust-domain", "mesh.test"], check=True,
                   capture_output=True)
    with open(data / "control.yaml", "a", encoding="utf-8") as file:
        file.write(f"metrics_listen: 0.0.0.0:{CONTROL_METRICS_PORT}\n")
    try:
        made.start(None, SUBSYSTEMS, "--metrics-listen", f"0.0.0.0:{METRICS_PORT}")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def prometheus(mesh, folder):
    found = shutil.which("prometheus")
    assert found, "prometheus is missing: test/install test"
    targets = [f"{mesh.network[name].v4}:{METRICS_PORT}" for name in SUBSYSTEMS]
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": "sidecars", "static_configs": [{"targets": targets}]},
            {"job_name": "control", "static_configs": [
                {"targets": [f"127.0.0.1:{CONTROL_METRICS_PORT}"]}]}]}))
    host = mesh.network["control"]
    child = Process("prometheus", [found, f"--config.file={config}",
                                   f"--storage.tsdb.path={folder}/tsdb",
                                   f"--web.listen-address={host.v4}:{PROMETHEUS_PORT}"], folder, host)

    def ask(path):
        done = host.run("curl", "-fsS", f"http://{host.v4}:{PROMETHEUS_PORT}/api/v1/{path}",
                        capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + child.tail()
        return json.loads(done.stdout)["data"]

    def up():
        try:
            return len([r for r in ask("query?query=up")["result"] if r["value"][1] == "1"]) == 5
        except AssertionError:
            return False

    wait_for("five targets are scraped", up, 60)
    yield ask
    child.kill()


def test_the_rules_are_right_and_fire_when_they_should():
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def expressions():
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_every_metric_in_them_is_there(mesh, prometheus):
    named = set(re.findall(r"mortise_[a-z_]+", " ".join(expressions().values())))
    pages = mesh.sidecar("portal").get("/metrics") + mesh.control.get("/metrics")
    known = set(re.findall(r"^# TYPE (\S+)", pages, re.M))
    assert len(named) > 12 and named <= known, named - known


def test_nothing_fires_in_a_healthy_mesh_and_the_right_one_in_a_sick(mesh, prometheus):
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(expressions())
    assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
    assert prometheus("alerts")["alerts"] == []
    control = mesh.control
    control.signal(15)
    control.wait(20)
    wait_for("the control plane is missed", lambda: any(
        alert["labels"]["alertname"] == "MortiseControlPlaneAway"
        for alert in prometheus("alerts")["alerts"]), 60)
    mesh.start_control()
    wait_for("it is back", lambda: prometheus("alerts")["alerts"] == [], 60)
