"""Without this an operator learns of his mistakes one at a time, or not at all: every fault of flags, environment
and files is told at once with its name and what would be right, and nothing starts half-configured.

Drives: B6, E5, R61, R10, A1, B2, R63"""
import json
import subprocess

import pytest

from deploy.lab.programs import own_environment


def run(program, *args, env=None, input=None):
    return subprocess.run([str(program), *map(str, args)], capture_output=True, text=True, timeout=20,
                          env={**own_environment(), **(env or {})}, input=input)


def test_all_faults_of_flags_and_environment_are_told_at_once(binaries):
    done = run(binaries.proxy, "--workers", "abc", "--handshake-timeout", "10", "--wrokers", "2",
               "--max-connections", "-5", env={"MORTISE_CONNECT_TIMEOUT": "soon",
                                              "MORTISE_WORKRES": "2"})
    assert done.returncode == 2
    for word in ("--workers", "--handshake-timeout", "--wrokers", "did you mean", "--max-connections",
                 "MORTISE_CONNECT_TIMEOUT", "MORTISE_WORKRES"):
        assert word in done.stderr, f"{word}:\n{done.stderr}"


def test_a_secret_on_the_command_line_is_refused_with_the_way_to_give_it(binaries):
    done = run(binaries.proxy, "--join-token", "mjt1.secretsecret")
    assert done.returncode == 2
    assert "MORTISE_JOIN_TOKEN" in done.stderr and "secretsecret" not in done.stderr


CONFIG_FAULTS = [
    ({"outbound": [{"name": "a", "listen": "nowhere", "endpoints": [], "peers": {},
                    "profile": "x", "truststore": "y"}]},
     ["outbound[0].listen", "outbound[0].endpoints", "outbound[0].peers", "outbound[0].profile",
      "outbound[0].truststore"]),
    ({"outbond": []}, ["outbond", "outbound"]),
    ({"profiles": [{"name": "p", "role": "CLIENT", "min_version": "TLS1_0"}]},
     ["profiles[0].min_version"]),
    ({"profiles": [{"name": "p", "role": "CLINT"}]}, ["profiles[0].role", "CLIENT"]),
    ({"profiles": [{"name": "p", "role": "CLIENT", "cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"]}]},
     ["profiles[0].cipher_suites[0]"]),
    ({"profiles": [{"name": "p", "role": "CLIENT", "groups": ["X25591"]}]},
     ["profiles[0].groups[0]", "X25519"]),
    ({"profiles": [{"name": "p", "role": "CLIENT"}, {"name": "p", "role": "SERVER"}]},
     ["profiles[1].name"]),
    ({"truststores": [{"name": "t"}]}, ["truststores[0]"]),
    ({"truststores": [{"name": "t", "ca_file": "missing.pem"}]}, ["truststores[0].ca_file"]),
    ({"inbound": {"listen": "127.0.0.1:0", "links": [{"name": "l", "target": "10.0.0.1:80"}]}},
     ["inbound.links[0].target", "inbound.links[0].peers"]),
    ({"identity": {"cert_file": "missing.pem"}}, ["identity.key_file", "identity.cert_file"]),
    ({"outbound": [{"name": "a", "peers": {"spiffe_ids": ["spiffe://x/../y"]}}]},
     ["outbound[0].peers.spiffe_ids[0]"]),
    ({"settings": {"workers": "many", "nosuch": 1}}, ["settings.workers", "settings.nosuch"]),
]


@pytest.mark.parametrize("config,words", CONFIG_FAULTS, ids=lambda value: None)
def test_config_faults_name_the_field(binaries, folder, config, words):
    path = folder / "bad.yaml"
    path.write_text(json.dumps(config))
    for args in (["--check"], []):  # --check finds just what a start would
        done = run(binaries.proxy, "--config", path, *args)
        assert done.returncode == 2, done.stderr
        for word in words:
            assert word in done.stderr, f"{word} not in:\n{done.stderr}"


@pytest.mark.parametrize("text", [
    "a: [1, 2", "outbound: &x []\ninbound: *x\n", "outbound: !!python/object:os.system []\n", "\t- x",
    "---\n{}\n---\n{}\n", "outbound: []\noutbound: []\n", "\x00\x01", "- just a list\n", "{" * 10000,
    "a" * 3_000_000])
def test_files_that_are_no_configuration(binaries, folder, text):
    path = folder / "odd.yaml"
    path.write_text(text)
    done = run(binaries.proxy, "--config", path, "--check")
    assert done.returncode == 2
    assert "odd.yaml" in done.stderr or "outbound" in done.stderr


def test_check_is_silent_about_nothing_and_starts_nothing(binaries, folder):
    from test.testlib.static import StaticPair

    pair = StaticPair(folder, binaries)
    for side in ("client", "server"):
        done = run(binaries.proxy, "--config", pair.path(side), "--check")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", ["proxy", "control", "ctl"])
def test_help_and_version_are_complete(binaries, program):
    path = getattr(binaries, program)
    done = run(path, "--help")
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 15
    done = run(path, "--version")
    assert done.returncode == 0
    for library in ("BoringSSL", "libuv", "nghttp2", "protobuf-c"):
        assert library.lower() in done.stdout.lower()


def test_every_flag_of_the_proxy_is_in_its_help_with_default_and_variable(binaries):
    text = run(binaries.proxy, "--help").stdout
    for flag in ("--config", "--control", "--workers", "--handshake-timeout", "--drain-timeout"):
        assert flag in text
    assert "MORTISE_HANDSHAKE_TIMEOUT" in text and "10s" in text


def test_mesh_faults_come_all_at_once_with_their_path(mesh, folder):
    bad = {
        "subsystems": [{"name": "UPPER"}, {"name": "ok"}, {"name": "ok"}],
        "profiles": [{"name": "p1", "role": "CLIENT", "min_version": "TLS1_3",
                      "max_version": "TLS1_2"}],
        "links": [{"name": "a", "client": "nobody", "server": "ok", "client_port": 70000,
                   "server_port": 0, "client_profile": "x"}],
    }
    before = mesh.version()
    done = mesh.apply(bad, check=False)
    assert done.returncode == 1
    for path in ("subsystems[0].name", "subsystems[2].name", "profiles[0]", "links[0].client",
                 "links[0].client_port", "links[0].server_port", "links[0].client_profile"):
        assert path in done.stderr, f"{path} not in:\n{done.stderr}"
    assert mesh.version() == before
    base = folder / "before.yaml"
    base.write_text(mesh.ctl("get", "mesh", "-o", "yaml").stdout)
    offline = validate(mesh, bad, "--base", base)
    assert offline.returncode == 1 and not offline.stdout
    assert offline.stderr.splitlines() == [line for line in done.stderr.splitlines() if not line.startswith("mortisectl: ")]


def validate(mesh, document, *args):
    """By mortisectl alone: it is given no control plane."""
    return run(mesh.bin.ctl, "validate", "-f", "-", *args, input=json.dumps(document))


def test_a_document_is_validated_without_a_control_plane(mesh, folder):
    link = {"name": "portal-gateway", "client": "portal", "server": "gateway", "client_port": 15110, "server_port": 8082}
    done = validate(mesh, {"links": [link]})
    assert (done.returncode, done.stdout) == (0, "link portal-gateway: added\nvalid\n"), done.stderr
    assert validate(mesh, {"links": [link]}, "--prune").returncode == 1  # with nobody to link
    base = folder / "now.yaml"
    base.write_text(mesh.ctl("get", "mesh", "-o", "yaml").stdout)
    assert validate(mesh, {"subsystems": [{"name": "billing"}]}, "--base", base).stdout.startswith("subsystem billing: added")
    assert validate(mesh, json.loads(mesh.ctl("get", "mesh", "-o", "json").stdout), "--base", base).stdout == "valid\n"
    assert "--base: must be a file" in validate(mesh, {}, "--base", "-").stderr
    for text, word in (("links: [", "not a mesh document"), ("links: 3", "links"), ("nosuch: 1", "nosuch"),
                       ("mesh:", "mesh: must not be empty"), ('{"mesh": null, "version": "3"}', "mesh: must not be empty")):
        base.write_text(text)
        for done in (validate(mesh, {}, "--base", base), run(mesh.bin.ctl, "validate", "-f", base),
                     mesh.ctl("apply", "-f", base, check=False)):
            assert done.returncode == 1 and word in done.stderr and "now.yaml" in done.stderr, done.stderr


def test_usage_errors_of_mortisectl(mesh):
    for args in (["nosuch"], ["get", "nosuch"], ["rotate"], ["token", "create"], ["apply"],
                 ["get", "links", "-o", "xml"]):
        done = mesh.ctl(*args, check=False)
        assert done.returncode in (1, 2) and done.stderr.strip(), args


def test_a_socket_that_is_not_there_says_what_to_do(binaries, folder):
    done = run(binaries.ctl, "--socket", folder / "none.sock", "status")
    assert done.returncode == 1 and "none.sock" in done.stderr


def test_what_is_echoed_moves_no_cursor_and_nothing_is_no_document(folder, binaries):
    """Names of files and words of the command line are somebody else's, too: a file that was unpacked, a line that was pasted."""
    odd = folder / "x\033[31m\u202e.yaml"
    odd.write_text("links: [")
    empty = folder / "empty.yaml"
    for words in (["validate", "-f", odd], ["validate", "-f", f"{odd}-missing"], ["get", "\033[2Jlinks"], ["\033]0;title\007"],
                  ["encrypt", "-f", f"{odd}-missing", "--secrets-key-file", odd]):
        done = subprocess.run([str(part) for part in (binaries.ctl, *words)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0 and done.stderr
        assert not any(c in done.stderr + done.stdout for c in "\033\007\u202e"), (words, done.stderr)
        assert "\\u001b" in done.stderr
    for text in ("---\n", "---\n---\n", "--- # a comment\n"):
        empty.write_text(text)
        done = subprocess.run([binaries.ctl, "validate", "-f", empty], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and 'nothing stands behind its "---": wanted are subsystems' in done.stderr, done
