#!/usr/bin/env python3
"""The checker of includes finds each kind of wrong include, and nothing in a tree that is right.

Without it a checker that reads no BUILD file at all would look like a clean tree.
"""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import includes  # noqa: E402

RIGHT = {
    "BUILD.bazel": """
package_group(name = "in_test", packages = ["//test/..."])
package_group(name = "uses_base", includes = [":in_test"], packages = ["//lib/..."])
package_group(name = "uses_net", includes = [":in_test"], packages = ["//lib/net/...", "//proxy/..."])
""",
    "lib/base/BUILD.bazel": """
load("//third_party:mortise.bzl", "mortise_cc_library")
package(default_visibility = ["//:uses_base"])
mortise_cc_library(name = "base", deps = [":err", ":buf"])
mortise_cc_library(name = "err", srcs = ["err.c"], hdrs = ["err.h"])
mortise_cc_library(name = "buf", srcs = ["buf.c", "priv.h"], hdrs = ["buf.h"], deps = [":err"])
""",
    "lib/base/err.h": "#include <stdio.h>\n",
    "lib/base/err.c": '#include "lib/base/err.h"\n',
    "lib/base/buf.h": '#include "lib/base/err.h"\n',
    "lib/base/priv.h": "",
    "lib/base/buf.c": '#include "lib/base/buf.h"\n#include "lib/base/priv.h"\n',
    "lib/net/BUILD.bazel": """
mortise_cc_library(name = "net", srcs = ["net.c"], hdrs = ["net.h"], visibility = ["//:uses_net"],
                   deps = ["//lib/base", "@debian//:uv"] + select({"//conditions:default": []}))
""",
    "lib/net/net.h": "#include <uv.h>\n",
    "lib/net/net.c": '#include "lib/net/net.h"\n#include "lib/base/buf.h"\n',
    "proxy/BUILD.bazel": """
mortise_cc_library(name = "route", srcs = ["route.c"], deps = ["//lib/net", "//proto:api"])
""",
    "proxy/route.c": '#include "proto/api.pb-c.h"\n#include <protobuf-c/protobuf-c.h>\n',
    "proto/BUILD.bazel": """
proto_c_library(name = "api", srcs = ["api.proto"], visibility = ["//visibility:public"])
""",
    "test/BUILD.bazel": """
mortise_cc_test(name = "net_test", srcs = glob(["*_test.c"]), deps = ["//lib/net"])
""",
    "test/net_test.c": '#include <cmocka.h>\n#include "lib/base/err.h"\n#include "lib/net/net.h"\n',
}


class IncludesTest(unittest.TestCase):
    def faults(self, **changes):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**RIGHT, **changes}.items():
                file = Path(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            return includes.check(root)

    def test_right_tree_has_no_fault(self):
        self.assertEqual(self.faults(), [])

    def assert_one(self, expected, **changes):
        faults = self.faults(**changes)
        self.assertEqual(len(faults), 1, faults)
        self.assertIn(expected, faults[0])

    def test_header_reached_through_another_library(self):
        self.assert_one('lib/net/net.c:1: "lib/base/err.h" is of //lib/base:err, which //lib/net:net does',
                        **{"lib/net/net.c": '#include "lib/base/err.h"\n',
                           "lib/net/BUILD.bazel": RIGHT["lib/net/BUILD.bazel"].replace(
                               '"//lib/base"', '"//lib/base:buf"')})

    def test_back_against_the_direction(self):
        self.assert_one("is of //lib/net:net, which is not visible to //lib/base",
                        **{"lib/base/err.c": '#include "lib/net/net.h"\n',
                           "lib/base/BUILD.bazel": RIGHT["lib/base/BUILD.bazel"].replace(
                               'hdrs = ["err.h"]', 'hdrs = ["err.h"], deps = ["//lib/net"]')})

    def test_library_of_the_system_that_is_no_dependency(self):
        self.assert_one("<jansson.h> is of @debian//:jansson, which //lib/net:net does not name",
                        **{"lib/net/net.c": "#include <jansson.h>\n"})

    def test_dependency_outside_the_layer(self):
        self.assert_one("//lib/base:err depends on @debian//:uv, which is not for this layer",
                        **{"lib/base/BUILD.bazel": RIGHT["lib/base/BUILD.bazel"].replace(
                            'hdrs = ["err.h"]', 'hdrs = ["err.h"], deps = ["@debian//:uv"]')})

    def test_pure_file_without_a_loop(self):
        self.assert_one("proxy/route.c:1: this file is pure",
                        **{"proxy/route.c": '#include "lib/net/net.h"\n'})

    def test_path_not_from_the_root(self):
        self.assert_one('"err.h" is no path from the root', **{"lib/base/err.c": '#include "err.h"\n'})

    def test_private_header_of_another_library(self):
        self.assert_one('"lib/base/priv.h" is in no library\'s hdrs',
                        **{"lib/net/net.c": '#include "lib/base/priv.h"\n'})

    def test_file_that_nothing_builds(self):
        self.assert_one("lib/net/lost.c: in no target", **{"lib/net/lost.c": ""})


if __name__ == "__main__":
    unittest.main()
