"""Without this nobody but us would have looked at what the TLS ports offer: testssl.sh scans the sidecar's inbound port
under several profiles and the control plane's port, and every finding is pinned. A drift, for the better too, is a
decision: MORTISE_GOLDEN=write writes the findings of this run to test/golden/testssl.

Drives: A2, A3, A5, B1, D8, R1, R4, R72"""
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment
from test.testlib.control import LoneControl
from test.testlib.fixtures import FULL
from test.testlib.static import SERVER_ID, StaticPair

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "testssl"
WRITE = os.environ.get("MORTISE_GOLDEN") == "write"

# Protocols, forward secrecy, and the weaknesses with a name that cost little to try; and all there is.
QUICK = ("--protocols", "--pfs", "--heartbleed", "--ccs-injection", "--ticketbleed", "--robot",
         "--tls-fallback", "--crime")
WHOLE = ("--std", "--server-preference", "--server-defaults", "--vulnerable", "--cipher-per-proto")

# Of the day, of a random certificate, or of this machine; and what a private CA's certificate cannot have.
LEFT_OUT = {"engine_problem", "service", "scanTime", "TLS_timestamp", "optimal_proto", "cert",
            "cert_serialNumber", "cert_serialNumberLen", "cert_fingerprintSHA1",
            "cert_fingerprintSHA256", "cert_notBefore", "cert_notAfter", "cert_expirationStatus",
            "cert_validityPeriod", "cert_trust", "cert_chain_of_trust", "cert_caIssuers",
            "cert_commonName", "cert_commonName_wo_SNI", "cert_revocation", "DNS_CAArecord",
            "certificate_transparency", "OCSP_stapling", "DROWN_hint"}
# Whether testssl takes the service for HTTP, for something that wants a certificate or for nothing depends on what comes
# first, an alert or its own patience. These findings follow it: they are judged and not pinned.
FOLLOWS_SERVICE = {"ticketbleed", "secure_client_renego", "BREACH", "CRIME_TLS"}

PROFILES = {
    "default": {},
    "tls12-only": {"max_version": "TLS1_2"},
    "tls13-only": {"min_version": "TLS1_3"},
    "one-suite": {"max_version": "TLS1_2", "groups": ["P-384", "P-256"],
                  "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]},
    "rsa-key": {},
}
TARGETS = [*PROFILES, "control"] if FULL or WRITE else ["default", "control"]


def scan(target, port, folder, flags):
    """{id: "SEVERITY finding"} in testssl's order."""
    out = folder / f"{target}-{flags[0][2:]}.json"
    name = "localhost" if target == "control" else "link.mortise.internal"
    done = subprocess.run(
        ["testssl", "--color", "0", "--quiet", "--warnings", "off", "--nodns", "none",
         "--ip", "127.0.0.1", "--jsonfile", out, *flags, f"{name}:{port}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=own_environment(),
        timeout=3600)  # minutes of a quiet machine; the deadline is the runner's
    assert out.exists(), f"testssl: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    found = json.loads(out.read_text())
    assert not any(entry["id"] == "scanProblem" for entry in found), done.stdout
    return {entry["id"]: f"{entry['severity']} {entry['finding']}"
            for entry in found if entry["id"] not in LEFT_OUT}


def pinned(found):
    return {key: text for key, text in found.items() if key not in FOLLOWS_SERVICE}


def golden(target):
    path = GOLDEN / f"{target}.json"
    return json.loads(path.read_text()) if path.exists() else {"quick": {}, "whole": {}}


@pytest.fixture(scope="module")
def servers(folder, binaries):
    """Target: its port."""
    ports, started = {}, []
    for name in TARGETS:
        inside = folder / name
        inside.mkdir()
        if name == "control":
            made = LoneControl(inside, binaries).start()
            ports[name] = made.port
        else:
            made = StaticPair(inside, binaries, server_profile=PROFILES[name])
            if name == "rsa-key":
                made.renew("server", made.ca.issue(SERVER_ID, key="rsa2048"))
            made.start("server")
            ports[name] = made.tls_port
        started.append(made)
    yield ports
    for made in started:
        made.stop()


@pytest.fixture(scope="module")
def scans(servers, folder):
    """{(target, "quick" or "whole"): findings}, two at a time: most of it is waiting."""
    kinds = {"quick": QUICK, **({"whole": WHOLE} if FULL or WRITE else {})}
    with ThreadPoolExecutor(2) as pool:
        running = {(target, kind): pool.submit(scan, target, port, folder, flags)
                   for target, port in servers.items() for kind, flags in kinds.items()}
        found = {key: future.result() for key, future in running.items()}
    if WRITE:
        for target in servers:
            (GOLDEN / f"{target}.json").write_text(json.dumps(
                {kind: pinned(found[target, kind]) for kind in kinds}, indent=1, ensure_ascii=False) + "\n")
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_the_findings_are_the_pinned_ones(scans, target):
    wanted = golden(target)
    for (name, kind), found in scans.items():
        if name == target:
            assert pinned(found) == wanted[kind], kind
            assert len(found) >= 15


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_found_is_a_weakness(scans, target):
    """Whatever is pinned: testssl's own judgement of each finding. WARN is what it could not try."""
    for (name, kind), found in scans.items():
        if name == target:
            bad = {key: text for key, text in found.items()
                   if text.split()[0] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")}
            assert bad == {}
