"""Without this only testssl.sh would have looked at the TLS ports, which leaves out what a client certificate is needed for:
sslyze, whose OpenSSL still speaks SSL 2 and export suites, goes through with a certificate and finds two versions, three
suites of each and three groups, and none of the old faults.

Drives: A2, A3, A5, B1, R1, R4, R72"""
import json
import os
import subprocess
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment
from test.testlib.control import LoneControl
from test.testlib.echo_app import EchoApp
from test.testlib.static import SERVER_ID, StaticPair

COMMANDS = ("certinfo", "sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "compression",
            "early_data", "openssl_ccs", "fallback", "heartbleed", "robot", "reneg", "resum",
            "elliptic_curves", "ems")
TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
TRIED = {"ssl_2_0": 7, "ssl_3_0": 80, "tls_1_0": 80, "tls_1_1": 80, "tls_1_2": 150}  # suites


def scan(port, report, *flags):
    """{command: its result}"""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mortise")
    tool = cache / "sslyze" / "bin" / "sslyze"
    assert tool.exists(), "sslyze is missing: test/install test"
    done = subprocess.run(
        [tool, *(f"--{command}" for command in COMMANDS), "--mozilla_config", "disable",
         "--json_out", report, *flags, f"127.0.0.1:{port}"],
        capture_output=True, text=True, env=own_environment(), timeout=300)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    one, = json.loads(report.read_text())["server_scan_results"]
    assert one["scan_status"] == "COMPLETED", done.stdout[-2000:]
    found = one["scan_result"]
    assert {name for name, part in found.items() if part and part["status"] == "ERROR"} == set()
    return {name: part["result"] for name, part in found.items() if part and part["result"]}


@pytest.fixture(scope="module", params=["ecdsa", "rsa", "control"])
def found(request, folder, binaries):
    """The findings; the inbound port's with the certificate that gets in there."""
    inside = folder / request.param
    inside.mkdir()
    if request.param == "control":
        made, app = LoneControl(inside, binaries).start(), None
        port, flags = made.port, ()
    else:
        made = StaticPair(inside, binaries)
        if request.param == "rsa":
            made.renew("server", made.ca.issue(SERVER_ID, key="rsa2048"))
        made.start("server")
        app, (cert, key) = EchoApp(made.target_port), made.paths("client")
        port, flags = made.tls_port, ("--sni", made.server_name, "--cert", cert, "--key", key)
    try:
        result = scan(port, inside / "sslyze.json", *flags)
    finally:
        if app is not None:
            app.close()
        made.stop()
    result["kind"] = request.param
    return result


def suites(found, version):
    part = found[f"{version}_cipher_suites"]
    return ({one["cipher_suite"]["name"] for one in part["accepted_cipher_suites"]},
            len(part["rejected_cipher_suites"]))


def test_versions_and_suites(found):
    for version, tried in TRIED.items():
        accepted, rejected = suites(found, version)
        if version == "tls_1_2" and found["kind"] != "control":
            name = found["kind"].upper()
            assert accepted == {f"TLS_ECDHE_{name}_WITH_{rest}" for rest in (
                "AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")}
        else:
            assert accepted == set(), version
        assert rejected + len(accepted) >= tried
    assert suites(found, "tls_1_3")[0] == TLS13


def test_groups(found):
    groups = found["elliptic_curves"]
    assert {one["name"] for one in groups["supported_curves"]} == {"X25519", "secp256r1",
                                                                   "secp384r1"}
    assert len(groups["rejected_curves"]) >= 20


def test_none_of_the_old_faults(found):
    assert found["heartbleed"] == {"is_vulnerable_to_heartbleed": False}
    assert found["openssl_ccs_injection"] == {"is_vulnerable_to_ccs_injection": False}
    assert found["robot"] == {"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"}
    assert found["tls_compression"] == {"supports_compression": False}
    assert found["tls_1_3_early_data"] == {"supports_early_data": False}
    assert found["tls_extended_master_secret"] == {"supports_ems_extension": True}
    assert found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"] is False
    assert found["session_renegotiation"]["client_renegotiations_success_count"] == 0
    assert found["session_renegotiation"]["supports_secure_renegotiation"] is True


def test_nothing_is_resumed(found):
    if found["kind"] == "control":
        pytest.skip("sslyze looks at TLS 1.2")
    resumed = found["session_resumption"]
    assert resumed["session_id_resumption_result"] == "NOT_SUPPORTED"
    assert resumed["tls_ticket_resumption_result"] == "NOT_SUPPORTED"
    assert resumed["session_id_successful_resumptions_count"] == 0
    assert resumed["tls_ticket_successful_resumptions_count"] == 0
