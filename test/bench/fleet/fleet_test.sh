#!/bin/sh
# That the driver works from end to end with few sidecars, and that it notices a missed goal and a
# control plane that refuses: fleet_test.sh LOAD CONTROL MORTISECTL. Its figures mean nothing.
set -eu
load=$(readlink -f "$1") control=$(readlink -f "$2") ctl=$(readlink -f "$3")
here=$(dirname "$0")
out=$(mktemp -d "${TEST_TMPDIR:-/tmp}/fleet.XXXXXX")
short=$(mktemp -d /tmp/fleet.XXXXXX) # a Unix socket's name is short; Bazel's folders are not
trap 'rm -rf "$out" "$short"' EXIT

run() {
    status=0
    "$here/run" --load "$load" --control "$control" --ctl "$ctl" --rounds 1 --timeout 40 \
        --out "$short/out" "$@" >"$out/log" 2>&1 || status=$?
}

fail() {
    echo "$1"
    cat "$out/log"
    for log in "$short"/out/*/*.log; do
        echo "--- $log"
        tail -n 20 "$log"
    done
    exit 1
}

cat >"$out/goals.json" <<'END'
[{"sidecars": 20, "measure": "storm.missing", "at_most": 0},
 {"sidecars": 20, "measure": "reissue.issued_s", "at_most": 60}]
END
run --sidecars 20 --gate --goals "$out/goals.json"
[ "$status" = 0 ] || fail "a run of 20 ended with $status"
python3 - "$short/out/fleet.json" <<'END' || fail "what it wrote is not what was run"
import json, sys
found = json.load(open(sys.argv[1]))
run, = found["runs"]
assert [phase["phase"] for phase in run["phases"]] == [
    "join", "connect", "push", "revoke", "reissue", "storm"], run["phases"]
for phase in run["phases"]:
    assert phase["times"]["count"] == 20, phase
assert run["phases"][4]["issued"]["count"] == 20
assert run["phases"][5]["down"] == 20  # the kill was felt by each
assert run["medians"]["memory.pss_mb"] > 1 and run["medians"]["reissue.cpu_s"] > 0
assert all(goal["passed"] for goal in found["goals"]) and len(found["goals"]) == 2
END

# The same with a goal that nobody reaches.
sed 's/"at_most": 60/"at_most": 0.000001/' "$out/goals.json" >"$out/impossible.json"
run --sidecars 20 --gate --goals "$out/impossible.json"
[ "$status" = 1 ] || fail "a missed goal ended with $status"
grep -q 'FAIL  reissue.issued_s' "$out/log" || fail "the missed goal is not named"

# And with a control plane that has no room for all: no figures, but a fault.
run --sidecars 20 --timeout 3 --control-options '--max-connections 10'
[ "$status" = 1 ] || fail "a fleet that found no room ended with $status"
grep -q 'FAULT: .*of 20 within' "$out/log" || fail "the fault is not told"
