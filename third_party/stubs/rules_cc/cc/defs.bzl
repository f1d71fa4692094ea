"""Stands in for rules_cc: the rules built into Bazel, under the names that newer Bazels load.

Everything of ours, and every build file of third_party/, loads cc_* from @rules_cc: with a Bazel
that no longer has them built in, WORKSPACE points the name at a real rules_cc and nothing else
changes."""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
objc_library = native.objc_library
