"""Repositories made from Debian packages: Bazel rules, installed -dev packages, source packages."""

def _link_all(rctx, folder):
    for entry in folder.readdir():
        rctx.symlink(entry, entry.basename)

def _debian_rules_impl(rctx):
    folder = rctx.path(rctx.attr.path)
    if not folder.exists:
        fail("%s is missing: apt-get install %s (test/install build does)" % (folder, rctx.attr.package))
    _link_all(rctx, folder)

# A folder of Bazel rules that a Debian package installed.
debian_rules = repository_rule(
    implementation = _debian_rules_impl,
    attrs = {
        "package": attr.string(mandatory = True),
        "path": attr.string(mandatory = True),
    },
    local = True,
)

def _stub_impl(rctx):
    _link_all(rctx, rctx.path(rctx.attr.marker).dirname)

# A folder of this tree as a repository of its own.
stub = repository_rule(
    implementation = _stub_impl,
    attrs = {"marker": attr.label(mandatory = True, doc = "the folder's WORKSPACE file")},
    local = True,
)

# headers: what the compiler includes (a file or a folder under /usr/include);
# libs: the file the linker takes, in the order of names tried; none: only tests link it, by name;
# package: what to install when it is missing; only: the one architecture that has it.
_LIBRARIES = {
    "cmocka": struct(headers = ["cmocka.h"], libs = [], package = "libcmocka-dev"),
    "http_parser": struct(headers = ["http_parser.h"], libs = ["libhttp_parser.a"], package = "libhttp-parser-dev"),
    "ipsec_mb": struct(headers = ["intel-ipsec-mb.h"], libs = ["libIPSec_MB.a"], package = "libipsec-mb-dev", only = "x86_64-linux-gnu"),
    "jansson": struct(headers = ["jansson.h", "jansson_config.h"], libs = ["libjansson.a"], package = "libjansson-dev"),
    "nghttp2": struct(headers = ["nghttp2"], libs = ["libnghttp2.a"], package = "libnghttp2-dev"),
    "protobuf_c": struct(headers = ["protobuf-c"], libs = ["libprotobuf-c.a"], package = "libprotobuf-c-dev"),
    "sqlite3": struct(headers = ["sqlite3.h"], libs = ["libsqlite3.a"], package = "libsqlite3-dev"),
    "uv": struct(headers = ["uv.h", "uv"], libs = ["libuv_a.a", "libuv.a"], package = "libuv1-dev"),
    "yaml": struct(headers = ["yaml.h"], libs = ["libyaml.a"], package = "libyaml-dev"),
}

def _find(rctx, folders, names, package):
    for folder in folders:
        for name in names:
            path = rctx.path("%s/%s" % (folder, name))
            if path.exists:
                return path
    return fail("%s is missing: apt-get install %s (test/install build does)" % (names[0], package))

def _debian_libraries_impl(rctx):
    multiarch = rctx.execute(["gcc", "-print-multiarch"]).stdout.strip()
    for name, lib in _LIBRARIES.items():
        if multiarch != getattr(lib, "only", multiarch):
            continue
        for header in lib.headers:
            path = _find(rctx, ["/usr/include", "/usr/include/" + multiarch], [header], lib.package)
            rctx.symlink(path, "%s/include/%s" % (name, header))
        if lib.libs:
            path = _find(rctx, ["/usr/lib/" + multiarch, "/usr/lib"], lib.libs, lib.package)
            rctx.symlink(path, "%s/%s" % (name, lib.libs[0]))
    protoc_c = rctx.which("protoc-c")
    if not protoc_c:
        fail("protoc-c is missing: apt-get install protobuf-c-compiler (test/install build does)")
    rctx.symlink(protoc_c, "protoc-c")
    rctx.symlink(rctx.attr._build, "BUILD.bazel")

debian_libraries = repository_rule(
    implementation = _debian_libraries_impl,
    attrs = {"_build": attr.label(default = "//third_party:debian.BUILD")},
    local = True,
)

def _debian_source_impl(rctx):
    # Bazel's repository cache first (by sum): no network once it was fetched on this machine. There
    # is no call that asks the cache alone; the path is what its warning shows the first time.
    tarball = rctx.attr.tarball
    cached = rctx.download(
        url = "file:///not-yet-in-bazels-repository-cache/" + tarball,
        output = "cached.tar.xz",
        sha256 = rctx.attr.sha256,
        allow_fail = True,
    )
    if not cached.success:
        run = rctx.execute([
            "sh",
            rctx.path(rctx.attr._script),
            rctx.attr.package,
            rctx.attr.version,
            rctx.attr.suite,
            "fetched",
        ], timeout = 600)
        if run.return_code != 0:
            fail("cannot fetch the source of %s %s:\n%s" % (rctx.attr.package, rctx.attr.version, run.stderr))

        # apt checked the mirror's signature; this checks the pinned sum as well.
        rctx.download(
            url = "file://%s" % rctx.path("fetched/" + tarball),
            output = "cached.tar.xz",
            sha256 = rctx.attr.sha256,
        )

    # tar and not Bazel's own: the one of Debian 13's Bazel 4.2.3 stops (no org.apache.commons.io.Charsets).
    run = rctx.execute(
        ["tar", "--extract", "--xz", "--file=cached.tar.xz", "--strip-components=1", rctx.attr.strip_prefix] +
        ["--exclude=%s/%s" % (rctx.attr.strip_prefix, path) for path in rctx.attr.unused + ["BUILD"]],
        timeout = 600,
    )
    if run.return_code != 0:
        fail("cannot unpack %s:\n%s" % (tarball, run.stderr))
    for path in ["fetched", "cached.tar.xz"]:
        rctx.delete(path)
    rctx.symlink(rctx.attr.build_file, "BUILD.bazel")
    for file, path in rctx.attr.files.items():
        rctx.symlink(file, path)

debian_source = repository_rule(
    implementation = _debian_source_impl,
    attrs = {
        "build_file": attr.label(mandatory = True),
        "files": attr.label_keyed_string_dict(doc = "more files of ours, and where they go"),
        "package": attr.string(mandatory = True),
        "sha256": attr.string(mandatory = True),
        "strip_prefix": attr.string(mandatory = True),
        "suite": attr.string(mandatory = True),
        "tarball": attr.string(mandatory = True),
        "unused": attr.string_list(),
        "version": attr.string(mandatory = True),
        "_script": attr.label(default = "//third_party:debian_source.sh"),
    },
)
