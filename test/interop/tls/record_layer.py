"""Without this a suite that is to run with the other record layer could run with ours twice and be as green.

Drives: F1, R73"""
import os

from test.testlib.static import StaticPair


def test_what_encrypts_records_is_what_this_suite_asks_for(folder, binaries):
    asked = os.environ.get("MORTISE_RECORD_LAYER", "auto")
    pair = StaticPair(folder, binaries)
    pair.start("server")
    started = next(e for e in pair["server"].events("started"))
    pair.stop()
    wanted = {"auto": ("ipsec-mb", "boringssl"), "portable": ("boringssl",), "library": ("library",)}
    assert started["records"] in wanted[asked]
    if asked == "auto":  # the fast one where the processor can
        with open("/proc/cpuinfo", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags")).split()
        fast = {"vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
        assert (started["records"] == "ipsec-mb") == (fast <= set(flags))
