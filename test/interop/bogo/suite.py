"""Without this our TLS would have been tried only by peers that keep the rules: BoGo, BoringSSL's own suite, breaks each of
them on the wire. It drives a shim over lib/net/tls.h, with each record layer, and BoringSSL's shim over our build of the library.

Drives: R14, R72"""
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from deploy.lab.programs import Binaries
from test.testlib.fixtures import CONFIG, FULL

HERE = Path(__file__).resolve().parent
BUILT = Binaries().folder
OUT = HERE.parents[2] / "test" / "out" / "bogo"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mortise")
DEADLINE_S = 1800
BUILD_S = 600

WAIVERS = json.loads((HERE / "waivers.json").read_text())
OUR_RECORDS, LIBRARY = ("auto", "portable"), "library"
# As many as BoringSSL 14.0.0+r45 has of those that our shim can do; a later one has more.
PASSED_MIN = 1230
BORINGSSL_MIN = 8382
# Between our two engines only the ciphers differ: what seals and opens records, in every run.
PORTABLE_QUICK = "TLS-TLS13-*;*Record*;*Alert*;*KeyUpdate*;*Shutdown*"
PORTABLE_QUICK_MIN = 160
# A look at BoringSSL's own shim for every run: ciphers, key updates, alerts and ends.
BORINGSSL_QUICK = "TLS-TLS1[23]-*;*Alert*;*KeyUpdate*;*Shutdown*-Sync;Basic-*-Sync"
BORINGSSL_QUICK_MIN = 250


def find_go():
    """A Go of PATH or of test/install; the runner itself is content with 1.19."""
    for path in (shutil.which("go"), *sorted(CACHE.glob("go/*/bin/go"))):
        if path and subprocess.run([path, "version"], capture_output=True).returncode == 0:
            return path
    raise AssertionError("Go is missing: test/install test")


@pytest.fixture(scope="session")
def sources():
    """The folder of BoringSSL's runner, unpacked and built once for each version of its sources."""
    tar = BUILT / "test" / "interop" / "bogo" / "runner.tar"
    assert tar.exists(), "bazel build //test/interop/bogo:runner"
    made = CACHE / "bogo" / hashlib.sha256(tar.read_bytes()).hexdigest()[:16]
    if not (made / "bogo").exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=made.parent))
        with tarfile.open(tar) as archive:
            archive.extractall(fresh)
        # go.mod and go.sum are BoringSSL's: its two dependencies are pinned by sum.
        subprocess.run([find_go(), "test", "-c", "-trimpath", "-o", "bogo", "./ssl/test/runner"],
                       cwd=fresh, check=True, timeout=BUILD_S,
                       env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"})
        shutil.rmtree(made, ignore_errors=True)
        fresh.rename(made)
    return made


class Bogo:
    """One run of the runner: how each case ended."""

    def __init__(self, sources, folder, name, shim, *flags, waived=(), errors=()):
        config = folder / f"{name}.json"
        config.write_text(json.dumps({"DisabledTests": {case: "" for case in waived},
                                      "ErrorMap": dict(errors)}))
        results = folder / f"{name}-results.json"
        OUT.mkdir(parents=True, exist_ok=True)
        self.log = OUT / f"{name}.log"
        runner = sources / "ssl" / "test" / "runner"
        with open(self.log, "w") as log:
            # The idle time-out is a case's deadline: of a machine that is busy with other things.
            subprocess.run([sources / "bogo", "-shim-path", shim, "-resource-dir", runner,
                            "-shim-config", config, "-json-output", results, "-num-workers", "2",
                            "-pipe", "-allow-unimplemented", "-idle-timeout", "60s", *flags],
                           cwd=runner, stdout=log, stderr=subprocess.STDOUT, timeout=DEADLINE_S)
        assert results.exists(), self.log.read_text()[-2000:]
        cases = json.loads(results.read_text())["tests"]
        self.passed, self.failed, self.unimplemented = (
            {case for case, result in cases.items() if result["actual"] == kind}
            for kind in ("PASS", "FAIL", "SKIP"))
        self.summary = (f"{name}: {len(self.passed)} passed, {len(self.failed)} failed, "
                        f"{len(self.unimplemented)} unimplemented, see {self.log}")
        (OUT / f"{name}.txt").write_text(self.summary + "\n")

    def must_pass(self, at_least):
        assert not self.failed, f"{self.summary}\n{sorted(self.failed)[:20]}"
        assert len(self.passed) >= at_least, self.summary


def waived(records):
    return {**WAIVERS["cases"], **(WAIVERS["cases_of_our_records"] if records in OUR_RECORDS else {})}


def run_ours(sources, folder, records, name, *flags, **settings):
    shim = BUILT / "test" / "interop" / "bogo" / "shim"
    return Bogo(sources, folder, f"{name}-{records}-{CONFIG}", shim, "-skip", ";".join(WAIVERS["not_run"]),
                "-shim-extra-flags", f"-records;{records}", *flags, errors=WAIVERS["errors"], **settings)


@pytest.mark.parametrize("records", [OUR_RECORDS[0], LIBRARY])
def test_our_stream_keeps_the_rules(sources, folder, records):
    run = run_ours(sources, folder, records, "ours", waived=waived(records))
    run.must_pass(PASSED_MIN)


def test_our_stream_keeps_the_rules_with_portable_ciphers(sources, folder):
    quick = () if FULL else ("-test", PORTABLE_QUICK)
    run = run_ours(sources, folder, OUR_RECORDS[1], "ours", *quick, waived=waived(OUR_RECORDS[1]))
    run.must_pass(PASSED_MIN if FULL else PORTABLE_QUICK_MIN)


@pytest.mark.parametrize("records", [OUR_RECORDS[0], LIBRARY])
def test_no_waiver_is_without_need(sources, folder, records):
    """Each still fails: one that does not is to be taken off the list."""
    patterns = waived(records)
    run = run_ours(sources, folder, records, "waived", "-test", ";".join(patterns))
    assert not run.passed and not run.unimplemented, f"{run.summary}\n{sorted(run.passed)}"
    for pattern in patterns:
        assert any(fnmatch.fnmatchcase(case, pattern) for case in run.failed), pattern


def run_boringssl(sources, folder, name, *flags):
    made = BUILT / "external" / "boringssl"
    return Bogo(sources, folder, f"{name}-{CONFIG}", made / "bssl_shim",
                "-handshaker-path", made / "handshaker", *flags)


def test_our_build_of_the_library_quickly(sources, folder):
    run = run_boringssl(sources, folder, "boringssl-quick", "-test", BORINGSSL_QUICK)
    run.must_pass(BORINGSSL_QUICK_MIN)
    assert not run.unimplemented


@pytest.mark.full
def test_our_build_of_the_library(sources, folder):
    run = run_boringssl(sources, folder, "boringssl")
    run.must_pass(BORINGSSL_MIN)
    assert not run.unimplemented
