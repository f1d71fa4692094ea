"""How our own C is compiled: mortise_cc_library, _binary, _test and mortise_fuzz_test.

One place for the dialect, the warnings (all errors) and the hardening flags (R33). A target gives
name, srcs, hdrs, deps and visibility as with cc_*; includes are always relative to the repository
root (`#include "lib/base/err.h"`), so nothing here takes `includes`."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

# Both gcc 12 and clang 14 are silent under these.
_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wwrite-strings",
    "-Wcast-qual",
    "-Wpointer-arith",
    "-Wvla",
    "-Wswitch-enum",
    "-Wconversion",
    # Of clang's -Wconversion alone: CHECK(!"what cannot be"). gcc does not know it and says nothing.
    "-Wno-string-conversion",
    "-Werror",
]

# -fPIE and not --force_pic: -fPIC would keep every global function interposable.
# FORTIFY needs an optimised build, and hides from the sanitizers (which are dbg) what it catches.
HARDEN_COPTS = [
    "-fPIE",
    "-fstack-protector-strong",
    "-fno-common",
] + select({
    "@mortise//:opt": [
        "-U_FORTIFY_SOURCE",
        "-D_FORTIFY_SOURCE=3",
    ],
    "//conditions:default": ["-U_FORTIFY_SOURCE"],
}) + select({
    "@mortise//:x86_64": ["-fcf-protection=full"],
    "@mortise//:aarch64": ["-mbranch-protection=standard"],
    "//conditions:default": [],
})

HARDEN_LINKOPTS = [
    "-pie",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
    "-static-libgcc",
]

COPTS = [
    "-std=gnu17",
    "-D_GNU_SOURCE",
] + _WARNINGS

def mortise_cc_library(name, copts = [], **kwargs):
    cc_library(
        name = name,
        copts = COPTS + HARDEN_COPTS + copts,
        # No shared twin of each library: nothing of ours is linked dynamically.
        linkstatic = True,
        **kwargs
    )

def mortise_cc_binary(name, copts = [], linkopts = [], **kwargs):
    cc_binary(
        name = name,
        copts = COPTS + HARDEN_COPTS + copts,
        linkopts = HARDEN_LINKOPTS + linkopts,
        **kwargs
    )

def mortise_cc_test(name, size = "small", copts = [], linkopts = [], deps = [], **kwargs):
    """A cmocka test; cmocka is linked. Times out after 60 s unless `size` says otherwise."""
    cc_test(
        name = name,
        size = size,
        copts = COPTS + HARDEN_COPTS + copts,
        linkopts = HARDEN_LINKOPTS + linkopts,
        deps = deps + ["@debian//:cmocka"],
        linkstatic = True,
        **kwargs
    )

def mortise_fuzz_test(name, srcs, corpus, deps = [], copts = [], runs = 20000, tags = [], **kwargs):
    """A fuzz target, always also a test that replays its corpus.

    Args:
      name: ends in _fuzz.
      srcs: defines LLVMFuzzerTestOneInput; no main.
      corpus: the seed files, usually glob(["corpus/NAME/*"]); at least one. They are the test's
        data, and under --config=fuzz libFuzzer's seeds for `runs` inputs. To fuzz for longer:
          bazel build --config=fuzz //test/fuzz:x_fuzz
          bazel-bin/test/fuzz/x_fuzz -max_total_time=60 SCRATCH_FOLDER test/fuzz/corpus/x
      deps, copts, tags: as in cc_test.
      runs: inputs tried by `bazel test --config=fuzz`.
      **kwargs: passed on to cc_test."""
    if not corpus:
        fail("%s: a fuzz target needs at least one seed in its corpus" % name)
    for seed in corpus:
        if "," in seed or " " in seed or "$" in seed:
            fail("%s: the seed %s has a comma, a space or a dollar in its name" % (name, seed))
    paths = ["$(rootpath %s)" % seed for seed in corpus]
    cc_test(
        name = name,
        size = "small",
        srcs = srcs,
        args = select({
            # -seed_inputs and not a folder: libFuzzer would write its finds into the folder.
            "@mortise//:fuzzing": [
                "-runs=%d" % runs,
                "-seed_inputs=" + ",".join(paths),
            ],
            "//conditions:default": paths,
        }),
        copts = COPTS + HARDEN_COPTS + copts,
        data = corpus,
        linkopts = HARDEN_LINKOPTS + select({
            "@mortise//:fuzzing": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        linkstatic = True,
        tags = tags + ["fuzz"],
        deps = deps + select({
            "@mortise//:fuzzing": [],
            "//conditions:default": ["@mortise//third_party:fuzz_replay"],
        }),
        **kwargs
    )
