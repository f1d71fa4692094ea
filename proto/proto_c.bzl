"""proto_c_library: .proto files to C by protoc-c (protobuf-c)."""

load("@rules_cc//cc:defs.bzl", "cc_library")
load("//third_party:mortise.bzl", "HARDEN_COPTS")

# What protobuf-c 1.4.1 (Debian 12) makes of proto3, as tried:
# - `optional` on a proto3 field is refused by protoc-c. Presence: a message field (NULL when absent),
#   a oneof of one member, or a zero value (an enum's _UNSPECIFIED) that means absent.
# - A oneof NAME is `NAME_case` (PKG__MSG__NAME__NOT_SET, PKG__MSG__NAME_MEMBER) and an anonymous union.
# - An absent string is protobuf_c_empty_string and never NULL after unpack; a string that was never
#   set in a message of ours is the same, by __INIT. Bytes are {len, data}, data NULL when empty.
# - Enum values keep their proto name behind PKG__ENUM__; a value unknown to the schema stays in the
#   field as a number: a switch needs its default.
# - map<> is `n_NAME` and an array of pointers to PKG__MSG__NAMEEntry {key, value}: duplicates stay.
# - Strings are not checked for UTF-8, nesting has no limit: bound and check before and after unpack.
# - Keywords of C as field names come out as they are and do not compile: avoid `default`, `int`.
#
# Options of our own (mesh/permission.proto): protoc-c reads them and leaves them out of the C. What extends
# google/protobuf/descriptor.proto would include the header of that file, of which there is none; its
# schema is proto/options/google/protobuf/descriptor.proto.
#
# Three edits of the generated header: that include goes, __INIT's `(char *)protobuf_c_empty_string` goes by way of an integer
# (-Wcast-qual; it is never written to nor freed), and the enumerator `_X_IS_INT_SIZE = INT_MAX` goes,
# which every -Wswitch-enum switch would have to name (gcc and clang give enums the size of int anyway).
_EDIT = "sed -i -e 's/(char \\*)protobuf_c_empty_string/(char *)(uintptr_t)protobuf_c_empty_string/g'" + \
        " -e '/^#include \"google\\/protobuf\\/descriptor.pb-c.h\"$$/d'" + \
        " -e '/^ *PROTOBUF_C__FORCE_ENUM_TO_BE_INT_SIZE(.*)$$/d'"

# The schema of options, and where protoc-c finds it.
OPTIONS = "//proto:options/google/protobuf/descriptor.proto"
OPTIONS_PATH = "--proto_path=proto/options"

def _protos_label(dep):
    if ":" in dep:
        return dep + "_protos"
    return "%s:%s_protos" % (dep, dep.split("/")[-1])

def proto_c_library(name, srcs, deps = [], visibility = None):
    """A C library of .proto files; `#include "proto/mesh/identity.pb-c.h"`.

    Paths are relative to the repository root everywhere: in `import "proto/mesh/common.proto";`,
    in the #include lines that protoc-c writes, and in ours.

    Args:
      name: the cc_library; NAME_protos is a filegroup of the .proto files with all they import,
        for tests that generate other languages from them.
      srcs: .proto files of this package (plain file names).
      deps: proto_c_library targets whose files are imported.
      visibility: of both."""
    native.filegroup(
        name = name + "_protos",
        srcs = srcs + [_protos_label(dep) for dep in deps],
        visibility = visibility,
    )
    stems = [src[:-len(".proto")] for src in srcs]
    native.genrule(
        name = name + "_pb_c",
        srcs = [
            ":%s_protos" % name,
            OPTIONS,
        ],
        outs = [stem + ext for stem in stems for ext in (".pb-c.c", ".pb-c.h")],
        cmd = "$(execpath @debian//:protoc-c) --proto_path=. " + OPTIONS_PATH +
              " --c_out=$(BINDIR) " +
              " ".join(["%s/%s" % (native.package_name(), src) for src in srcs]) +
              " && %s %s" % (_EDIT, " ".join(["$(location %s.pb-c.h)" % stem for stem in stems])),
        tools = ["@debian//:protoc-c"],
        visibility = ["//visibility:private"],
    )
    cc_library(
        name = name,
        srcs = [stem + ".pb-c.c" for stem in stems],
        hdrs = [stem + ".pb-c.h" for stem in stems],
        # Generated: our warnings are not for it.
        copts = HARDEN_COPTS + ["-std=gnu17", "-w"],
        linkstatic = True,
        visibility = visibility,
        deps = deps + ["@debian//:protobuf_c"],
    )

def descriptor_set(name, protos, srcs, visibility = None, **kwargs):
    """NAME.ds: a google.protobuf.FileDescriptorSet of just `srcs`.

    Args:
      name: of the target and, with .ds, of the file.
      protos: the *_protos target that has them and all they import.
      srcs: paths of the .proto files, from the repository root.
      visibility: as everywhere.
      **kwargs: of the genrule."""
    native.genrule(
        name = name,
        srcs = [
            protos,
            OPTIONS,
        ],
        outs = [name + ".ds"],
        cmd = "$(execpath @debian//:protoc-c) --proto_path=. " + OPTIONS_PATH +
              " --descriptor_set_out=$@ " + " ".join(srcs),
        tools = ["@debian//:protoc-c"],
        visibility = visibility,
        **kwargs
    )
