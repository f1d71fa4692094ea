"""Runs the suites one after the other, counts every test, and ends with `N passed, N failed`.

A suite is a function that returns (passed, failed, skipped). A suite that cannot be built counts as one
failure: nothing is passed over in silence."""
import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))
import matrix  # noqa: E402

FUZZ_S = 20
# What of test/e2e runs lines that those marked `sanitize` do not, and is quick.
COVERED_BY = ("access_logs", "admin_pages", "bad_input", "capture", "control_api", "fail_closed", "operator", "pod_token",
              "policy", "redirect", "revoke", "static_reload")
# So many failures of an end-to-end suite are tried once more by themselves: there are some two thousand tests with real
# processes and real time, on machines that others use too. What passes then is not forgotten: it is listed at the end.
SECOND_TRIES = 3
NEVER_TRIED_AGAIN = re.compile(r"Sanitizer|runtime error:|core dumped|Segmentation|ended with -(4|6|7|8|11):"
                               r"|: \d+, expected \d+|[1-9]\d* corrupted")
OUT = ROOT / "test" / "out"


def bazel(*args, **kwargs):
    return subprocess.run(["bazel", *args], cwd=ROOT, **kwargs)


def build(config, *targets):
    done = bazel("build", "--curses=no", "--show_progress_rate_limit=20", f"--config={config}",
                 *targets)
    return done.returncode == 0


def binaries(config):
    return bazel("info", f"--config={config}", "bazel-bin", capture_output=True,
                 text=True).stdout.strip()


class Run:
    def __init__(self, args):
        self.args = args
        self.bad = []
        self.unstable = []

    def fail(self, what):
        self.bad.append(what)
        print(f"FAILED: {what}", flush=True)


def programs(run, config, *more):
    if build(config, "//:programs", "//test/interop/...", *more):
        return True
    run.fail(f"programs do not build ({config})")
    return False


def lint(run):
    if not programs(run, "opt"):  # the analysers read the generated headers
        return 0, 1, 0
    done = subprocess.run([ROOT / "test" / "lint" / "run"], cwd=ROOT)
    found = matrix.problems()
    for problem in found:
        run.fail(f"matrix: {problem}")
    if done.returncode != 0:
        run.fail("lint")
    return int(done.returncode == 0) + int(not found), int(done.returncode != 0) + int(bool(found)), 0


def cmocka_counts(log):
    """How many tests a cmocka program passed and failed; a program without them counts as one."""
    passed = sum(map(int, re.findall(r"\[  PASSED  \] (\d+) test", log)))
    failed = sum(map(int, re.findall(r"\[  FAILED  \] [^\n]*?(\d+) test\(s\)", log)))
    return passed, failed


def unit(run, config):
    targets = ["//test/unit/...", "//test/fuzz/..."]
    done = bazel("test", "--curses=no", "--show_progress_rate_limit=20", f"--config={config}",
                 "--keep_going", "--test_output=errors", "--test_summary=terse", "--jobs=2",
                 *targets, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (OUT / f"unit-{config}.log").write_text(done.stdout)
    listed = bazel("query", f"tests({' + '.join(targets)})", capture_output=True,
                   text=True).stdout.split()
    logs = Path(bazel("info", f"--config={config}", "bazel-testlogs", capture_output=True,
                      text=True).stdout.strip())
    failed_targets = set(re.findall(r"^(//\S+)\s+(?:\(cached\) )?(?:FAILED|TIMEOUT|NO STATUS)",
                                    done.stdout, re.M))
    passed = failed = 0
    for target in listed:
        path = logs / target[2:].replace(":", "/") / "test.log"
        log = path.read_text(errors="replace") if path.exists() else ""
        good, bad = cmocka_counts(log)
        if target in failed_targets or not path.exists():
            bad = max(bad, 1)
            run.fail(f"{target} ({config})")
        elif good == 0 and bad == 0:
            good = 1
        passed += good
        failed += bad
    if done.returncode != 0 and failed == 0:
        run.fail(f"bazel test --config={config}: exit {done.returncode}")
        failed = 1
    if failed:
        print("\n".join(done.stdout.splitlines()[-80:]), flush=True)
    return passed, failed, 0


def fuzz(run):
    seconds = run.args.fuzz_s
    listed = bazel("query", "kind(cc_test, //test/fuzz/...)", capture_output=True,
                   text=True).stdout.split()
    if not listed or not build("fuzz", *listed):
        run.fail("fuzzers do not build")
        return 0, 1, 0
    folder = Path(binaries("fuzz"))

    def one(target):
        name = target.split(":")[1]
        corpus = ROOT / "test" / "fuzz" / "corpus" / name.removesuffix("_fuzz")
        fresh = OUT / "fuzz" / name
        fresh.mkdir(parents=True, exist_ok=True)
        # An allocation of a stranger's choosing is what these look for: memory is bounded.
        done = subprocess.run([folder / "test" / "fuzz" / name, f"-max_total_time={seconds}",
                               "-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1",
                               f"-artifact_prefix={fresh}/crash-", fresh, corpus],
                              capture_output=True, text=True, errors="replace")
        (OUT / f"{name}.log").write_text(done.stderr)
        executed = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
        return name, done.returncode, int(executed.group(1)) if executed else 0

    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, status, executed in pool.map(one, listed):
            good = status == 0 and executed > 0
            print(f"  {name}: {executed} inputs{'' if good else ', FAILED'}", flush=True)
            if good:
                passed += 1
            else:
                failed += 1
                run.fail(f"fuzz {name}: see {OUT / (name + '.log')}")
    return passed, failed, 0


def pytest(run, name, config, paths, *flags, more_env=None):
    report = OUT / f"{name}.xml"
    env = {**os.environ, "MORTISE_BIN": binaries(config), "MORTISE_CONFIG": config,
           "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env.update(more_env or {})
    if run.args.full:
        env["MORTISE_FULL"] = "1"
    results = pytest_once(report, env, *flags, *paths)
    if results is None:
        run.fail(f"{name}: pytest did not run")
        return 0, 1, 0
    failed = [test for test, (kind, _) in results.items() if kind == "failed"]
    hard = run.args.full or any(NEVER_TRIED_AGAIN.search(results[test][1]) for test in failed)
    if 0 < len(failed) <= SECOND_TRIES and not hard:
        print(f"once more: {' '.join(failed)}", flush=True)
        again = pytest_once(OUT / f"{name}-again.xml", env, *failed) or {}
        for test in failed:
            if again.get(test, ("failed", ""))[0] == "passed":
                results[test] = again[test]
                run.unstable.append(f"{name}: {test}: failed, then passed; the failure is in {report}")
    for test, (kind, _) in results.items():
        if kind == "failed":
            run.fail(f"{name}: {test}")
    kinds = [kind for kind, _ in results.values()]
    return tuple(map(kinds.count, ("passed", "failed", "skipped")))


def pytest_once(report, env, *args):
    """{test's node id: (passed, failed or skipped; what the report says of it)}, or None: there is no report."""
    report.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                    "--import-mode=importlib", f"--junitxml={report}", *args], cwd=ROOT, env=env)
    if not report.exists():
        return None
    results = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        file, *inner = re.split(r"\.(?=[A-Z])", case.get("classname"))  # modules are in small letters, classes are not
        test = "::".join([f"{file.replace('.', '/')}.py", *inner, case.get("name")])
        kinds = {child.tag for child in case}
        kind = ("failed" if kinds & {"failure", "error"} else
                "skipped" if "skipped" in kinds else "passed")
        if test not in results or kind == "failed":  # a test with an error at its end is there twice
            results[test] = kind, "".join(case.itertext())
    return results


def e2e(run):
    if not programs(run, "opt"):
        return 0, 1, 0
    return pytest(run, "e2e", "opt", ["test/e2e"])


def interop(run):
    if not programs(run, "opt", "//test/interop/bogo:boringssl", "//test/interop/bogo:runner"):
        return 0, 1, 0
    return pytest(run, "interop", "opt", ["test/interop"])


def interop_library(run):
    """Once more with BoringSSL's record layer instead of ours, but for scanners of handshakes."""
    if not programs(run, "opt"):
        return 0, 1, 0
    return pytest(run, "interop-library", "opt", ["test/interop/tls", "test/interop/protocols"],
                  "-k", "not testssl and not sslyze",
                  more_env={"MORTISE_RECORD_LAYER": "library"})


def soak(run):
    """A mesh for minutes, or an hour, with rotations and faults; each thing that must hold counts as a test."""
    if not programs(run, "opt"):
        return 0, 1, 0
    summary = OUT / "soak.json"
    summary.unlink(missing_ok=True)
    minutes, every_s = (60, 60) if run.args.full else (3, 12)
    env = {**os.environ, "MORTISE_BIN": binaries("opt"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", "test.soak.soak", "--minutes", str(minutes),
                    "--fault-every", str(every_s), "--summary", summary], cwd=ROOT, env=env)
    if not summary.exists():
        run.fail("soak: did not end")
        return 0, 1, 0
    report = json.loads(summary.read_text())
    wrong = [what for what, found in report["checks"].items() if found]
    for what in wrong:
        run.fail(f"soak: {what} (seed {report['seed']})")
    return len(report["checks"]) - len(wrong), len(wrong), 0


def swap(run, config):
    """The end-to-end tests marked `sanitize`, on a sanitized build."""
    if not programs(run, config):
        return 0, 1, 0
    return pytest(run, f"e2e-{config}", config, ["test/e2e"], "-m", "sanitize")


def clang(run):
    good = build("clang", "//:programs")
    if not good:
        run.fail("clang build")
    return int(good), int(not good), 0


def hardening(run):
    if not programs(run, "opt"):
        return 0, 1, 0
    folder = Path(binaries("opt"))
    built = [folder / "proxy/mortise-proxy", folder / "control/mortise-control",
             folder / "control/mortisectl", folder / "certs/mortise-cert",
             folder / "proxy/redirect/mortise-redirect"]
    done = subprocess.run([ROOT / "test/lint/hardening", *built], cwd=ROOT)
    if done.returncode != 0:
        run.fail("hardening")
    return int(done.returncode == 0), int(done.returncode != 0), 0


def coverage(run):
    """Lines that the unit tests, the fuzzers' corpora and a part of the end-to-end tests run."""
    if not programs(run, "coverage"):
        return 0, 1, 0
    profiles = OUT / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    profiles.mkdir()
    # Eight files for each program, written as it runs: many of the tests' programs are killed.
    env = {"LLVM_PROFILE_FILE": f"{profiles}/%8m%c.profraw"}
    counts = [pytest(run, "e2e-coverage", "coverage", ["test/e2e"], "-m", "sanitize", more_env=env),
              pytest(run, "e2e-coverage-more", "coverage",
                     [f"test/e2e/{name}.py" for name in COVERED_BY], "-m", "not sanitize",
                     more_env=env)]
    done = subprocess.run([ROOT / "test" / "coverage", "--also", profiles, "--floors"],
                          cwd=ROOT)
    if done.returncode != 0:
        run.fail("coverage")
    counts.append((int(done.returncode == 0), int(done.returncode != 0), 0))
    return tuple(map(sum, zip(*counts)))


SUITES = {
    "lint": lint,
    "unit": lambda run: unit(run, "opt"),
    "hardening": hardening,
    "e2e": e2e,
    "interop": interop,
    "interop-library": interop_library,
    "soak": soak,
    "asan": lambda run: unit(run, "asan"),
    "e2e-asan": lambda run: swap(run, "asan"),
    "tsan": lambda run: unit(run, "tsan"),
    "e2e-tsan": lambda run: swap(run, "tsan"),
    "clang": clang,
    "fuzz": fuzz,
    "coverage": coverage,
}


def main():
    parser = argparse.ArgumentParser(prog="test/run", description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE",
                        help=f"which (default all): {', '.join(SUITES)}")
    parser.add_argument("--full", action="store_true", help="the long campaigns, too")
    parser.add_argument("--fuzz-s", type=int, default=FUZZ_S, metavar="S",
                        help="seconds for each fuzzer (default %(default)s)")
    parser.add_argument("--matrix", action="store_true",
                        help="print the requirements against the tests that drive them, and end")
    args = parser.parse_args()
    if args.matrix:
        return matrix.show()
    unknown = [name for name in args.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}; there are: {', '.join(SUITES)}")

    OUT.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    passed = failed = skipped = 0
    began = time.monotonic()
    for name in args.suites or SUITES:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        good, bad, left_out = SUITES[name](run)
        passed, failed, skipped = passed + good, failed + bad, skipped + left_out
        print(f"== {name}: {good} passed, {bad} failed, {left_out} skipped in "
              f"{time.monotonic() - start:.0f} s", flush=True)
    for what in run.unstable:
        print(f"UNSTABLE: {what}")
    for what in run.bad:
        print(f"FAILED: {what}")
    print(f"took {(time.monotonic() - began) / 60:.1f} min")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
