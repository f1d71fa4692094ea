#!/bin/sh
# Runs bench_test.py with the load generator that Bazel built: bench_test.sh PATH_OF_LOAD
set -eu
MORTISE_BENCH_LOAD=$(readlink -f "$1")
export MORTISE_BENCH_LOAD
cd "$(dirname "$0")"
exec python3 bench_test.py
