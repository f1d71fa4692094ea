#!/usr/bin/env python3
"""Checks every #include of our C against the BUILD files, in well under a second.

    test/lint/includes.py [ROOT]

Bazel's sandbox already refuses a header that is no dependency at all. What it lets through is refused
here: a header of a library that is not named in deps (only reached through another one), a header
whose library is not visible to the including package, a library of Debian that is found in
/usr/include without being a dependency, a dependency outside the layer's own list, and libuv in a file
that has to stay pure. Tests may lean on what their dependencies depend on.

BUILD files are read by running them as Python with stand-ins for Bazel's functions: the subset of
Starlark that they use means the same in both.
"""

import builtins
import os
import re
import sys
from pathlib import Path

# Headers of dependencies, and the target that has them.
EXTERNAL = [
    (re.compile(r"openssl/(ssl|ssl3|tls1|dtls1|srtp)\.h$"), "@boringssl//:ssl"),
    (re.compile(r"openssl/"), "@boringssl//:crypto"),
    (re.compile(r"nghttp2/"), "@debian//:nghttp2"),
    (re.compile(r"protobuf-c/"), "@debian//:protobuf_c"),
    (re.compile(r"uv(\.h$|/)"), "@debian//:uv"),
    (re.compile(r"jansson(_config)?\.h$"), "@debian//:jansson"),
    (re.compile(r"sqlite3\.h$"), "@debian//:sqlite3"),
    (re.compile(r"yaml\.h$"), "@debian//:yaml"),
    (re.compile(r"http_parser\.h$"), "@debian//:http_parser"),
    (re.compile(r"intel-ipsec-mb\.h$"), "@debian//:ipsec_mb"),
    (re.compile(r"cmocka\.h$"), "@debian//:cmocka"),
]

# What each layer may depend on outside the tree; the first prefix that fits counts.
LAYERS = [
    ("lib/base", set()),
    ("lib/net", {"uv", "crypto", "ssl", "ipsec_mb"}),
    ("lib/rpc", {"uv", "nghttp2", "protobuf_c", "jansson", "yaml", "http_parser", "crypto", "ssl"}),
    ("certs", {"crypto", "ssl", "protobuf_c", "jansson"}),
    ("proto", {"protobuf_c"}),
    # nghttp2 and others: for their versions in --version.
    ("proxy", {"uv", "crypto", "ssl", "protobuf_c", "jansson", "yaml", "nghttp2"}),
    ("control", {"uv", "crypto", "ssl", "protobuf_c", "jansson", "yaml", "nghttp2", "sqlite3"}),
]

# Decisions without a loop: they must stay testable without one.
PURE = {
    "certs/renew", "control/inject", "certs/jwt", "certs/jwks", "control/xds_stream", "lib/base/backoff",
    "lib/rpc/grpc_frame", "proxy/authz", "proxy/route",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.M)


class Target:
    """One library, program or test: what it has and what it may include."""

    def __init__(self, package, name, srcs, hdrs, deps, visibility):
        self.package, self.name = package, name
        self.srcs, self.hdrs = srcs, hdrs
        self.generated = bool(hdrs) and all(path.endswith(".pb-c.h") for path in hdrs)
        self.deps = [absolute(package, dep) for dep in deps]
        self.visibility = [absolute(package, label) for label in visibility]

    @property
    def label(self):
        return f"//{self.package}:{self.name}"


def absolute(package, label):
    if label.startswith(":"):
        return f"//{package}{label}"
    if label.startswith("@mortise//"):
        label = label[len("@mortise"):]
    if label.startswith("@") or ":" in label:
        return label
    if label.startswith("//"):
        return f"{label}:{label.rsplit('/', 1)[1]}"
    return f"//{package}:{label}"


class Select(list):
    """select(): all branches together; `+` with lists works as for lists."""


class Tree:
    def __init__(self, root):
        self.root = Path(root)
        self.targets = {}  # label -> Target
        self.groups = {}  # label -> (packages, includes)
        for build in sorted(self.build_files()):
            self.run(build)
        self.owner = {}  # path of a header -> Target
        self.users = {}  # path of a source or header -> [Target]
        for target in self.targets.values():
            for path in target.hdrs:
                self.owner[path] = target
            for path in target.srcs + target.hdrs:
                self.users.setdefault(path, []).append(target)

    def build_files(self):
        for folder, folders, files in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith((".", "bazel-")) and f != "stubs"]
            if "BUILD.bazel" in files:
                yield Path(folder) / "BUILD.bazel"

    def run(self, build):
        folder = build.parent
        package = folder.relative_to(self.root).as_posix()
        package = "" if package == "." else package
        default = []

        def path(name):
            label = absolute(package, name)
            return label[2:].replace(":", "/").lstrip("/")

        def paths(names):
            return [path(name) for name in names if not name.startswith("@")]

        def glob(include, exclude=(), **_):
            found = {p.relative_to(folder).as_posix() for pat in include for p in folder.glob(pat)}
            left = {p.relative_to(folder).as_posix() for pat in exclude for p in folder.glob(pat)}
            return sorted(found - left)

        def cc(name, srcs=(), hdrs=(), textual_hdrs=(), deps=(), visibility=None, extra=(), **_):
            # A header among srcs is the target's own and nobody else's.
            if visibility is None:
                visibility = default[0] if default else []
            target = Target(package, name, paths(srcs), paths(hdrs) + paths(textual_hdrs),
                            list(deps) + list(extra), visibility)
            self.targets[target.label] = target

        def cc_test(**kwargs):
            cc(extra=["@debian//:cmocka"], **kwargs)

        def fuzz_test(corpus=(), runs=0, **kwargs):
            cc(**kwargs)

        def proto_c_library(name, srcs, deps=(), visibility=None, **_):
            stems = [src[:-len(".proto")] for src in srcs]
            cc(name, hdrs=[stem + ".pb-c.h" for stem in stems], visibility=visibility,
               deps=list(deps) + ["@debian//:protobuf_c"])

        def package_function(default_visibility=(), **_):
            default[:] = [list(default_visibility)]

        def package_group(name, packages=(), includes=()):
            self.groups[f"//{package}:{name}"] = (
                list(packages), [absolute(package, group) for group in includes])

        names = {
            "mortise_cc_library": cc, "mortise_cc_binary": cc, "cc_library": cc, "cc_binary": cc,
            "cc_test": cc, "mortise_cc_test": cc_test, "mortise_fuzz_test": fuzz_test,
            "proto_c_library": proto_c_library, "package": package_function,
            "package_group": package_group, "glob": glob, "package_name": lambda: package,
            "HARDEN_COPTS": Select(), "COPTS": Select(),
            "select": lambda branches: Select(v for vs in branches.values() for v in vs),
        }

        class Names(dict):
            def __missing__(self, name):
                if hasattr(builtins, name):
                    raise KeyError(name)
                return lambda *_, **__: []  # load, genrule, config_setting, ...

        exec(compile(build.read_text(), str(build), "exec"), Names(names))

    def closure(self, target, into_all):
        """The labels of the targets whose headers `target` may include, its own among them."""
        seen, todo = {target.label}, list(target.deps)
        while todo:
            label = todo.pop()
            if label in seen:
                continue
            seen.add(label)
            dep = self.targets.get(label)
            if dep is None:
                continue
            # A library with nothing of its own stands for what it collects, and generated
            # messages cannot be used without the library that they are made for.
            if into_all or not (dep.srcs or dep.hdrs):
                todo += dep.deps
            elif dep.generated:
                todo.append("@debian//:protobuf_c")
        return seen

    def sees(self, package, target):
        if package == target.package:
            return True
        return any(self.matches(package, spec, set()) for spec in target.visibility)

    def matches(self, package, spec, seen):
        if spec == "//visibility:public":
            return True
        if spec == "//visibility:private" or spec in seen:
            return False
        if spec in self.groups:
            packages, includes = self.groups[spec]
            return any(in_package(package, p) for p in packages) or any(
                self.matches(package, group, seen | {spec}) for group in includes)
        folder, _, name = spec[2:].partition(":")
        if name == "__subpackages__":
            return in_package(package, f"//{folder}/...")
        return name == "__pkg__" and package == folder


def in_package(package, pattern):
    pattern = pattern[2:]
    if pattern.endswith("..."):
        top = pattern[:-3].rstrip("/")
        return package == top or package.startswith(top + "/") or top == ""
    return package == pattern


def external_target(header):
    return next((target for pattern, target in EXTERNAL if pattern.match(header)), None)


def layer_of(package):
    return next((allowed for prefix, allowed in LAYERS
                 if package == prefix or package.startswith(prefix + "/")), None)


def check(root):
    """Returns the faults, each as a line `file:line: what is wrong and what would be right`."""
    tree = Tree(root)
    faults = []
    for path, users in sorted(tree.users.items()):
        file = tree.root / path
        if not file.is_file() or file.suffix not in (".c", ".h"):
            continue  # generated
        text = file.read_text(errors="replace")
        for match in INCLUDE.finditer(text):
            where = f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
            for target in users:
                fault = check_one(tree, path, target, match[1], match[2])
                if fault:
                    faults.append(f"{where}: {fault}")
    for target in tree.targets.values():
        layer = layer_of(target.package)
        for dep in target.deps:
            if layer is not None and dep.startswith("@") and dep.split(":")[1] not in layer:
                faults.append(f"{target.package}/BUILD.bazel: {target.label} depends on {dep}, "
                              f"which is not for this layer")
    faults += unbuilt(tree)
    return faults


def check_one(tree, path, target, ours, other):
    is_test = target.package.split("/")[0] in ("test", "deploy")
    reach = tree.closure(target, into_all=is_test)
    stem = path.rsplit(".", 1)[0]
    if other is not None:
        dep = external_target(other)
        if dep is None:
            return None
        if dep == "@debian//:uv" and stem in PURE:
            return "this file is pure: no libuv in it"
        if dep == "@boringssl//:crypto" and "@boringssl//:ssl" in reach:
            return None
        if dep not in reach:
            return f"<{other}> is of {dep}, which {target.label} does not name in deps"
        return None
    owner = tree.owner.get(ours)
    if owner is None:
        if ours in target.srcs:
            return None
        if (tree.root / ours).is_file() or ours in tree.users:
            return f'"{ours}" is in no library\'s hdrs'
        return f'"{ours}" is no path from the root of the repository'
    if owner.label not in reach:
        return f'"{ours}" is of {owner.label}, which {target.label} does not name in deps'
    if not tree.sees(target.package, owner):
        return f'"{ours}" is of {owner.label}, which is not visible to //{target.package}'
    if stem in PURE and owner.package == "lib/net":
        return "this file is pure: nothing of lib/net in it"
    return None


def unbuilt(tree):
    """C files that no target compiles rot unseen."""
    for folder, folders, files in os.walk(tree.root):
        folders[:] = [f for f in folders if not f.startswith((".", "bazel-"))]
        for name in files:
            path = (Path(folder) / name).relative_to(tree.root).as_posix()
            if name.endswith((".c", ".h")) and path not in tree.users:
                yield f"{path}: in no target of a BUILD file"


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    faults = check(root)
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
