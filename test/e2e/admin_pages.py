"""Without this an operator sees nothing, or too much: pages tell readiness with reasons, metrics are valid, and
no secret is on any of them.

Drives: D4, F13, A13, R25, R31, R32, R33, R21, R26, D6, R63"""
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from deploy.lab.mesh import SUBSYSTEMS
from deploy.lab.programs import admin


@pytest.mark.parametrize("name", SUBSYSTEMS)
def test_metrics_of_sidecars_are_valid(mesh, name):
    check(mesh.sidecar(name).get("/metrics"))


def test_metrics_of_the_control_plane_are_valid(mesh):
    check(mesh.control.get("/metrics"))


def check(text):
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: test/install test"
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^# TYPE mortise_", text, re.M)) >= 10


def test_certificate_dates_and_generation_are_metrics(mesh):
    values = mesh.sidecar("portal").metrics()
    names = {series.split("{")[0] for series in values}
    for name in ("mortise_certificate_not_after_timestamp_seconds", "mortise_config_generation",
                 "mortise_connections_open"):
        assert name in names, sorted(names)


def samples(text, family):
    """[(labels, value)] of a family."""
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
            for labels, value in re.findall(rf"^{family}{{(.*)}} (\S+)$", text, re.M)]


def test_no_loop_is_later_than_the_program_is_old(mesh):
    values = mesh.sidecar("portal").metrics()
    age_s = time.time() - values["mortise_process_start_time_seconds"]
    for loop in ("main", "worker"):
        assert 0 <= values[f'mortise_loop_lag_seconds_sum{{loop="{loop}"}}'] < age_s + 1


def test_every_certificate_has_its_dates(mesh):
    """Of the control plane: roots, issuers, its own, administrators', and the leaf that each sidecar uses now."""
    mesh.ctl("admin", "create", "auditor", "--ttl", "1h", "--out", mesh.folder / "auditor")
    text = mesh.control.get("/metrics")
    ends, begins = (samples(text, f"mortise_control_certificate_not_{when}_timestamp_seconds")
                    for when in ("after", "before"))
    assert [labels for labels, _ in ends] == [labels for labels, _ in begins]
    assert all(begin < end for (_, begin), (_, end) in zip(begins, ends))
    roles = [labels["role"] for labels, _ in ends]
    assert sorted(set(roles)) == ["admin", "control", "issuer", "leaf", "root"] and roles.count("control") == 1
    assert [labels["instance"] for labels, _ in ends if labels["role"] == "admin"] == ["auditor"]
    issued = {c["serial"]: c for c in mesh.ctl_json("get", "certificates")["certificates"]}
    leaves = {labels["subsystem"]: (labels, end) for labels, end in ends if labels["role"] == "leaf"}
    assert set(leaves) == set(SUBSYSTEMS)
    for labels, end in leaves.values():
        assert int(issued[labels["serial"]]["not_after"]) == end
    before = leaves["portal"][0]["serial"]
    mesh.ctl("rotate", "portal", "--wait")
    now = [labels["serial"] for labels, _ in samples(
        mesh.control.get("/metrics"), "mortise_control_certificate_not_after_timestamp_seconds")
        if labels["subsystem"] == "portal"]
    assert len(now) == 1 and now[0] != before, "what is no longer used is no longer shown"
    # A sidecar's own: what it shows and what it trusts.
    text = mesh.sidecar("portal").get("/metrics")
    chain = [labels for labels, _ in samples(text, "mortise_chain_not_after_timestamp_seconds")]
    assert [labels["role"] for labels in chain][:2] == ["leaf", "intermediate"] and chain[0]["serial"] == now[0]
    assert {labels["truststore"] for labels in chain if labels["role"] == "root"} == {"mesh"}


def test_each_sidecar_has_its_version_and_clock(mesh):
    mesh.wait_in_sync(4)
    text = mesh.control.get("/metrics")
    for family in ("version", "wanted_version", "generation", "clock_ahead_seconds", "clock_error_seconds"):
        values = samples(text, f"mortise_control_sidecar_{family}")
        assert {labels["subsystem"] for labels, _ in values} == set(SUBSYSTEMS), family
    assert samples(text, "mortise_control_sidecar_version") == samples(text, "mortise_control_sidecar_wanted_version")
    assert "mortise_control_sidecars_unlisted{} 0" in text
    pushes = re.search(r"^mortise_control_push_duration_seconds_count (\d+)$", text, re.M)
    assert int(pushes[1]) >= 4
    own = mesh.sidecar("portal").metrics()
    assert abs(own["mortise_clock_skew_seconds"]) <= own["mortise_clock_skew_error_seconds"]


def test_pages_refuse_what_they_do_not_know(mesh):
    socket = mesh.sidecar("portal").admin_socket
    assert admin(socket, "/nosuch")[0] == 404
    assert admin(socket, "/livez", "POST", "x")[0] == 405
    assert admin(socket, "/loglevel", "POST", "nosuch=loud")[0] == 400
    assert admin(socket, "/livez")[0] == 200


def test_log_level_changes_live(mesh):
    program = mesh.sidecar("portal")
    status, text = program.post("/loglevel", "info,discovery=debug")
    assert status == 200, text
    assert "discovery=debug" in program.get("/loglevel")
    assert program.post("/loglevel", "info")[0] == 200


def test_admin_socket_is_private(mesh):
    for program in (*mesh.sidecars.values(), mesh.control):
        assert os.stat(program.admin_socket).st_mode & 0o777 == 0o600


def test_config_page_shows_what_is_in_force(mesh):
    config = mesh.sidecar("management").config()
    assert int(config["generation"]) >= 1
    assert {link["name"] for link in config["config"]["outbound"]} == {
        "management-portal", "management-gateway", "management-analytics"}
    assert config["identity"]["serial"] and config["identity"]["not_after"]


def test_no_secret_anywhere(mesh):
    """The join tokens and the key-encryption key: in no log, page, argument or metric."""
    kek = (mesh.folder / "control" / "kek").read_text().strip()
    token = mesh.token("portal")
    secrets = [kek, token]
    for program in (*mesh.sidecars.values(), mesh.control):
        pages = program.get("/metrics") + program.get("/config") + program.log.read_text()
        with open(f"/proc/{program.pid}/cmdline", "rb") as file:
            pages += file.read().decode("latin-1")
        for secret in secrets:
            assert secret not in pages
        assert "mjt1." not in pages
        assert "PRIVATE KEY" not in pages


def test_access_log_lines_are_json_with_one_line_a_connection(mesh):
    for line in mesh.sidecar("portal").log.read_text().splitlines():
        entry = json.loads(line)
        assert {"time", "level", "component", "event"} <= set(entry)


def test_binaries_hold_no_keylog_and_are_hardened(binaries):
    for path in (binaries.proxy, binaries.control, binaries.ctl):
        symbols = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True,
                                 text=True).stdout
        assert "keylog" not in symbols.lower()
        headers = subprocess.run(["readelf", "-Wldh", path], capture_output=True, text=True).stdout
        assert re.search(r"Type:\s+DYN", headers)
        assert "GNU_RELRO" in headers and re.search(r"BIND_NOW|FLAGS_1.*NOW", headers)
        assert re.search(r"GNU_STACK.*RW ", headers)
        needed = re.findall(r"NEEDED.*\[(.*?)\]", headers)
        imported = subprocess.run(["nm", "-D", "--undefined-only", path], capture_output=True,
                                  text=True).stdout
        assert not re.search(r"\b(system|popen)\b", imported)
        assert all(re.match(r"(libc|libm|ld-linux-x86-64|libdl|librt|libpthread|libgcc_s)\.so", n)
                   for n in needed), needed
