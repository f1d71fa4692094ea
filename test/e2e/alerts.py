"""Without this an alert could watch a metric that nobody has, or fire never, and a dashboard show nothing: the rules are checked
and tried by promtool, every metric they and the dashboard name is one of the programs', and Debian's Prometheus scrapes a
running mesh with them and answers every query.

Drives: F13, D4"""
import functools
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from deploy.lab.mesh import SUBSYSTEMS, Mesh
from deploy.lab.programs import Process, wait_for

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FOLDER = DEPLOY / "prometheus"
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


def metrics(mesh):
    """The metrics that there are, and what a histogram makes of one."""
    pages = mesh.sidecar("portal").get("/metrics") + mesh.control.get("/metrics")
    known = dict(re.findall(r"^# TYPE (\S+) (\S+)", pages, re.M))
    return {*known, *(f"{name}_bucket" for name, kind in known.items() if kind == "histogram")}


def test_every_metric_in_them_is_there(mesh, prometheus):
    named = set(re.findall(r"mortise_[a-z_]+", " ".join(expressions().values())))
    assert len(named) > 12 and named <= metrics(mesh), named - metrics(mesh)


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


# The dashboard.


def dashboard():
    return json.loads((DEPLOY / "grafana" / "mortise.json").read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_in_order():
    """No two panels in one place, each says what it shows, and all ask the data source that is chosen."""
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24, panel["title"]
    for a, b in itertools.combinations(everything, 2):
        one, two = a["gridPos"], b["gridPos"]
        assert (one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"] or one["y"] + one["h"] <= two["y"]
                or two["y"] + two["h"] <= one["y"]), (a["title"], b["title"])
    for panel in panels():
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def filled(text):
    """As Grafana fills it in: all that there is."""
    for name, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$instance", ".*")):
        text = text.replace(name, value)
    assert "$" not in text, text
    return text


def test_every_query_of_the_dashboard_has_an_answer(mesh, prometheus):
    """Or none because nothing has failed: but never because it asks for what is not there."""
    quiet = {"Handshakes that failed", "Turned away", "Turned down by the control plane", "Ended because trust or policy changed",
             "Configurations", "Revocation lists"}
    for panel in panels():
        for target in panel["targets"]:
            asked = filled(target["expr"])
            named = set(re.findall(r"mortise_[a-z_]+", asked))
            assert named <= metrics(mesh), (panel["title"], named - metrics(mesh))
            ask = functools.partial(prometheus, f"query?query={quote(asked)}")
            answer = ask()["result"] or panel["title"] not in quiet and wait_for(
                f"{panel['title']} shows something", lambda: ask()["result"]) or []
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for series in answer:
                assert labels <= series["metric"].keys(), (panel["title"], labels, series)
    for variable in dashboard()["templating"]["list"][1:]:
        metric = re.search(r"mortise_[a-z_]+", variable["query"]["query"])[0]
        assert metric in metrics(mesh)
