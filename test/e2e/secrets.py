"""Without this a password would lie in a repository in the clear, or leave the program that needs it: by a log line at
debug, a metric, an argument, the environment of a command, a core file, an error, a backup, an event or an export.

Drives: C2, D1, E6, B6, R25, R21, R56"""
import json
import os
import re
import resource
import shlex
import subprocess
from pathlib import Path

import pytest

from cryptography.hazmat.primitives import serialization

from deploy.lab.programs import Process, Program, own_environment, wait_for
from test.testlib.pki import Ca
from test.testlib.static import StaticPair, free_port

TRUST_DOMAIN = "secrets.test"


def key():
    return os.urandom(32).hex()


def private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def kms(folder, name, *keys):
    """A program that prints keys, and writes down what it was given."""
    source = private(folder / f"{name}.keys", "".join(f"{k}\n" for k in keys))
    seen = folder / f"{name}.seen"
    script = folder / name
    script.write_text(f"#!/bin/sh\n(env; tr '\\0' ' ' </proc/$$/cmdline; ls -l /proc/$$/fd) >>{shlex.quote(str(seen))}\n"
                      f"echo \"a remark with $(cat {shlex.quote(str(source))})\" >&2\ncat {shlex.quote(str(source))}\n")
    script.chmod(0o700)
    return script, seen


def ctl(binaries, *args, env=None, text=None, check=True):
    done = subprocess.run([str(binaries.ctl), *map(str, args)], capture_output=True, text=True, timeout=60,
                          input=text if text is not None else "", env={**own_environment(), **(env or {})}, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def own(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path


# mortisectl encrypt.


def test_a_value_is_made_under_a_key_of_each_source(own, binaries):
    secret, first = "correct horse battery staple", key()
    script, seen = kms(own, "kms", first)
    made = set()
    for args, env in ((("--secrets-key-file", private(own / "key", first)), {}),
                      ((), {"MORTISE_SECRETS_KEY": first}),
                      (("--secrets-key-command", script, "--secrets-key-command", "one argument; no shell"), {})):
        value = ctl(binaries, "encrypt", *args, env=env, text=secret + "\n").stdout.strip()
        assert re.fullmatch(r"enc:[A-Za-z0-9+/]+=*", value)
        made.add(value)
    assert len(made) == 3, "no two are alike"
    assert "one argument; no shell" in seen.read_text()
    assert "kms" in seen.read_text() and first not in seen.read_text()
    file = private(own / "plain", secret)
    assert ctl(binaries, "encrypt", "-f", file, "--secrets-key-file", own / "key").stdout.startswith("enc:TVMx")


@pytest.mark.parametrize("args, text, said", [
    ((), "x", "no key is given: --secrets-key-file, MORTISE_SECRETS_KEY or --secrets-key-command"),
    (("--secrets-key-file", "{key}", "--secrets-key-command", "/bin/true"), "x", "are both given: one of them"),
    (("--secrets-key-command", "cat"), "x", "\"cat\" is not the path of a program"),
    (("--secrets-key-command", "/bin/false"), "x", "--secrets-key-command: /bin/false: ended with status 1"),
    (("--secrets-key-command", "/bin/echo", "--secrets-key-command", "hunter2"), "x", "not a key-encryption key"),
    (("--secrets-key-command", "/nonexistent/kms"), "x", "cannot start: No such file"),
    (("--secrets-key-file", "{open}"), "x", "chmod 600 it"),
    (("--secrets-key-file", "{key}"), "", "nothing to encrypt"),
    (("--secrets-key-file", "{key}"), "enc:TVMx", "encrypted already"),
    (("--secrets-key-file", "{key}", "--secrets-key", "hunter2"), "x", "not taken from the command line"),
])
def test_what_is_wrong_is_told_without_what_is_secret(own, binaries, args, text, said):
    paths = {"key": private(own / "key", key()), "open": private(own / "open", key())}
    paths["open"].chmod(0o644)
    done = ctl(binaries, "encrypt", *(a.format(**paths) for a in args), text=text, check=False)
    assert done.returncode != 0 and said in done.stderr and not done.stdout, (done.stdout, done.stderr)
    assert "hunter2" not in done.stderr
    for path in paths.values():
        assert path.read_text() not in done.stderr


def test_a_file_goes_over_to_another_key_whole_or_not_at_all(own, binaries):
    old, new, other = key(), key(), key()
    keys = private(own / "keys", old)
    values = [ctl(binaries, "encrypt", "--secrets-key-file", keys, text=f"secret {i}").stdout.strip() for i in range(2)]
    text = f"# enc:TV is no value, nor is enc:\nkek: {values[0]}\nlist: [\"{values[1]}\", plain]\n"
    file = private(own / "control.yaml", text)
    file.chmod(0o640)
    link = own / "link.yaml"
    link.symlink_to(file)
    private(keys, f"{new}\n{old}\n")
    said = ctl(binaries, "encrypt", "--rotate", link, "--secrets-key-file", keys).stdout
    assert "2 of 2 encrypted values were encrypted anew, under key " in said
    rotated = file.read_text()
    found = re.findall(r"enc:TVMx[A-Za-z0-9+/=]+", rotated)
    assert len(found) == 2 and not set(found) & set(values)
    assert re.sub(r"enc:TVMx[A-Za-z0-9+/=]+", "V", rotated) == re.sub(r"enc:TVMx[A-Za-z0-9+/=]+", "V", text)
    assert file.stat().st_mode & 0o777 == 0o640 and link.is_symlink()
    # Again: nothing to do. Then only the new key is needed.
    assert "0 of 2" in ctl(binaries, "encrypt", "--rotate", file, "--secrets-key-file", private(keys, new)).stdout
    assert file.read_text() == rotated
    # A value that does not open: its file, line and field are told, and nothing has changed.
    private(keys, f"{other}\n{old}\n")
    done = ctl(binaries, "encrypt", "--rotate", file, "--secrets-key-file", keys, check=False)
    assert done.returncode == 1 and "control.yaml:2: kek: is encrypted under key " in done.stderr
    assert "control.yaml:3: list: is encrypted" in done.stderr and file.read_text() == rotated
    assert not any(value in done.stderr for value in found)
    # One that is damaged where it begins is none any more: it is told, too, and the rest stays as it is.
    private(keys, f"{other}\n{new}\n")
    for damaged in (found[0].replace("enc:TVMx", "enc:TVNx"), found[0].replace("enc:TVMx", "enc:tVMx"), found[0][:4] + found[0][9:]):
        file.write_text(text := rotated.replace(found[0], damaged))
        done = ctl(binaries, "encrypt", "--rotate", file, "--secrets-key-file", keys, check=False)
        assert done.returncode == 1 and "control.yaml:2: kek: " in done.stderr and file.read_text() == text, done.stderr
    file.write_text(rotated)
    assert "2 of 2" in ctl(binaries, "encrypt", "--rotate", file, "--secrets-key-file", keys).stdout


def test_a_mesh_document_has_no_place_for_one(own, binaries):
    value = ctl(binaries, "encrypt", "--secrets-key-file", private(own / "keys", key()), text="secret").stdout.strip()
    document = own / "mesh.yaml"
    document.write_text(f"subsystems:\n  - name: shop\n    description: {value}\n")
    done = ctl(binaries, "validate", "-f", document, check=False)
    assert done.returncode == 1 and f"{document}:3: an encrypted value (enc:)" in done.stderr
    assert value not in done.stderr + done.stdout
    document.write_text("subsystems:\n  - {name: shop, description: 'enc: is how they begin'}\n")
    assert ctl(binaries, "validate", "-f", document).stdout.endswith("valid\n")


# What opens them.


def test_a_static_sidecar_reads_an_encrypted_key_and_goes_over_to_another(own, binaries):
    """The certificate's key is encrypted; what opens it is read again with the rest."""
    pair = StaticPair(own, binaries)
    first, second = key(), key()
    keys, file = private(own / "secrets.keys", first), own / "server.key"

    def close_with(*args):
        private(file, ctl(binaries, "encrypt", "-f", file, *args).stdout)

    def check(*more, env=None):
        done = subprocess.run([str(binaries.proxy), "--config", str(pair.path("server")), "--check", *map(str, more)],
                              capture_output=True, text=True, timeout=60, check=False, env={**own_environment(), **(env or {})})
        for text in (first, second, file.read_text().strip()):
            assert text not in done.stderr
        return done

    close_with("--secrets-key-file", keys)
    done = check()
    assert done.returncode == 2 and "identity.key_file: " in done.stderr and "no key is given" in done.stderr
    done = check(env={"MORTISE_SECRETS_KEY": second})
    assert done.returncode == 2 and "is encrypted under key " in done.stderr and "; given: " in done.stderr
    assert check(env={"MORTISE_SECRETS_KEY": first}).returncode == 0
    script, seen = kms(own, "kms", second, first)
    assert check("--secrets-key-command", script).returncode == 0 and seen.exists()
    whole = file.read_text()
    private(file, whole[:60] + ("A" if whole[60] != "A" else "B") + whole[61:])
    assert "does not open" in check("--secrets-key-file", keys).stderr
    private(file, whole)
    pair.settings["server"]["secrets_key_file"] = "secrets.keys"  # beside the file of settings
    pair.write("server")
    try:
        pair.start("server")
        before = pair["server"].config()["identity"]["serial"]
        pair.renew("server")
        private(keys, f"{second}\n{first}\n")
        close_with("--secrets-key-file", keys)
        wait_for("the other certificate is in force",
                 lambda: pair["server"].config()["identity"]["serial"] != before)
        assert pair["server"].alive()
    finally:
        pair.stop()


# The canary.


class Canary:
    """Where secrets are meant to be, and the search for them everywhere else."""

    def __init__(self):
        self.secrets = {}
        self.looked = 0

    def add(self, name, text):
        self.secrets[name] = text.strip()
        return text

    def look(self, where, data):
        self.looked += 1
        data = data.encode() if isinstance(data, str) else data
        for name, text in self.secrets.items():
            for form in (text.encode(), *([bytes.fromhex(text)] if re.fullmatch(r"[0-9a-f]{64}", text) else [])):
                assert form not in data, f"{name} in {where}"
        assert b"PRIVATE KEY" not in data, f"a key in {where}"

    def process(self, program):
        """What the kernel shows of it."""
        for file in ("cmdline", "environ"):
            self.look(f"{program.name}'s {file}", Path(f"/proc/{program.pid}/{file}").read_bytes())
        assert resource.prlimit(program.pid, resource.RLIMIT_CORE) == (0, 0)


def pages(program):
    return "".join(program.get(page) for page in ("/metrics", "/config", "/livez", "/readyz", "/loglevel"))


@pytest.mark.sanitize
def test_no_secret_is_anywhere_else(own, binaries):
    canary = Canary()
    control, data, open_files = free_port(), own / "mesh", own / "secret"
    open_files.mkdir(mode=0o700)
    (own / "admins").mkdir(mode=0o700)
    canary.add("key of values", key())
    canary.add("second key of values", key())
    canary.add("cache key", key())
    script, seen = kms(open_files, "kms", canary.secrets["key of values"])
    cache_script, cache_seen = kms(open_files, "cache-kms", canary.secrets["cache key"])
    # The control plane's key-encryption key stands in its settings, encrypted.
    ctl(binaries, "init", data, "--trust-domain", TRUST_DOMAIN)
    kek = canary.add("KEK", (data / "kek").read_text())
    value = ctl(binaries, "encrypt", "-f", data / "kek", "--secrets-key-command", script).stdout
    (data / "kek").unlink()
    settings = data / "control.yaml"
    settings.write_text(settings.read_text().replace("kek_file: kek", f"kek: {value.strip()}"))
    socket = own / "operator.sock"
    argv = ["--config", settings, "--listen", f"127.0.0.1:{control}", "--operator-socket", socket, "--log-level", "debug"]
    said = []

    def operator(*args, check=True):
        done = ctl(binaries, args[0], *args[1:], "--socket", socket, check=check)
        said.append(done.stdout + done.stderr)
        return done.stdout

    wrong = ctl_control(binaries, argv, {"MORTISE_SECRETS_KEY": canary.secrets["second key of values"]})
    assert wrong.returncode == 1 and "kek_unavailable: is encrypted under key " in wrong.stderr
    said.append(wrong.stdout + wrong.stderr)
    plane = Program("control", [binaries.control, *argv, "--secrets-key-command", script], own)
    sidecars = []
    try:
        plane.wait_ready()
        (own / "roots.pem").write_text(operator("roots"))
        said.clear()
        tokens = [ctl(binaries, "token", "create", name, "--socket", socket).stdout.strip().splitlines()[-1].strip()
                  for name in ("portal", "gateway")]
        for i, token in enumerate(tokens):
            canary.add(f"join token {i}", token)
            canary.add(f"secret part of join token {i}", token.split(".")[-1])
        canary.add("token of the first administrator", (data / "admin-token").read_text())
        invited = canary.add("invitation", ctl(binaries, "admin", "invite", "alice", "--socket", socket).stdout.strip().splitlines()[-1])
        private(open_files / "invitation", ctl(binaries, "encrypt", "--secrets-key-command", script, text=invited).stdout)
        who = ("--server", f"127.0.0.1:{control}", "--trust-domain", TRUST_DOMAIN, "--roots", own / "roots.pem")
        for name, file, more in (("first", data / "admin-token", ()),
                                 ("alice", open_files / "invitation", ("--secrets-key-command", script))):
            done = ctl(binaries, "login", *who, "--token-file", file, "--out", own / "admins" / name, *more)
            said.append(done.stdout + done.stderr)
        token_file = private(open_files / "token", ctl(binaries, "encrypt", "--secrets-key-command", script,
                                                       text=tokens[1]).stdout)
        how = ({"MORTISE_JOIN_TOKEN": tokens[0], "MORTISE_CACHE_KEY": canary.secrets["cache key"],
                "MORTISE_SECRETS_KEY": canary.secrets["second key of values"]}, [])
        also = ({}, ["--join-token-file", token_file, "--secrets-key-command", script, "--cache-key-command", cache_script])
        for number, (env, flags) in enumerate((how, also)):
            inbound = f"127.0.0.1:{free_port()}"
            program = Program(f"proxy{number}", [
                binaries.proxy, "--control", f"127.0.0.1:{control}", "--trust-domain", TRUST_DOMAIN, "--trust-bundle",
                own / "roots.pem", "--inbound-listen", inbound, "--advertise", inbound, "--cache-dir",
                own / f"cache{number}", "--log-level", "debug", *flags], own, env=env)
            sidecars.append(program)
        for program in sidecars:
            program.wait_ready()
        # A certificate of somebody else: its key has a password, and both files are encrypted.
        password, site = canary.add("password", f"troubador {os.urandom(8).hex()}"), Ca().issue(dns=["site.example"])
        canary.add("key of a keystore", site.key.private_numbers().private_value.to_bytes(32, "big").hex())
        (own / "site.pem").write_bytes(site.cert.public_bytes(serialization.Encoding.PEM))
        plain = site.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                       serialization.BestAvailableEncryption(password.encode())).decode()
        for name, text in (("site.key", plain), ("word", password)):
            private(open_files / name, ctl(binaries, "encrypt", "--secrets-key-command", script, text=text).stdout)
        operator("elevate", "--for", "10m", "--reason", "site")
        operator("import", "keystore", "site", "--chain", own / "site.pem", "--private-key", open_files / "site.key",
                 "--password-file", open_files / "word", "--secrets-key-command", script)
        # What an operator sees and keeps.
        for args in (("get", "mesh", "-o", "yaml"), ("get", "certificates", "-o", "json"), ("get", "workloads", "-o", "json"),
                     ("get", "keystores", "-o", "json"),
                     ("history",), ("status", "-o", "json"), ("export",), ("check",), ("audit", "tail", "-o", "json"),
                     ("why", "management", "portal")):
            operator(*args, check=args[0] not in ("check", "why"))
        backup = own / "backup.db"
        operator("backup", backup)
        canary.look("the backup", backup.read_bytes())
        (own / "audit.jsonl").write_text(operator("audit", "export"))
        done = ctl(binaries, "--socket", socket, "token", "create", "no such", check=False)
        said.append(done.stderr)
        watched = Process("watch", [binaries.ctl, "watch", "--socket", socket], own)
        operator("rotate", "--all", "--wait")

        def events():  # it may have come later than the first
            operator("rotate", "--all")
            return watched.log.stat().st_size > 0

        for program in (plane, *sidecars):
            canary.process(program)
            canary.look(f"{program.name}'s pages", pages(program))
        wait_for("events were told", events, every_s=0.2)
        watched.stop()
        for text in said:
            canary.look("what mortisectl says", text)
        assert all(path.exists() for path in (seen, cache_seen)), "the commands were run"
    finally:
        for program in (*sidecars, plane):
            program.stop()
    for path in own.rglob("*"):
        inside = path.relative_to(own).parts[0]
        if path.is_file() and not path.is_socket() and not path.name.endswith(".keys") and inside != "admins":
            assert inside != "secret" or path.name in (
                "kms", "cache-kms", "token", "invitation", "site.key", "word", "kms.seen", "cache-kms.seen"), path
            canary.look(path, path.read_bytes())
    assert canary.looked > 20
    assert json.dumps(kek.strip()) not in settings.read_text()


def ctl_control(binaries, argv, env):
    return subprocess.run([str(binaries.control), *map(str, argv)], capture_output=True, text=True, timeout=60,
                          env={**own_environment(), **env}, check=False)


def test_a_child_of_the_tool_does_not_get_the_key(own, binaries):
    """mortisectl edit starts the operator's editor."""
    data, socket, port = own / "mesh", own / "o.sock", free_port()
    ctl(binaries, "init", data, "--trust-domain", TRUST_DOMAIN)
    plane = Program("control", [binaries.control, "--config", data / "control.yaml", "--listen", f"127.0.0.1:{port}",
                                "--operator-socket", socket], own)
    try:
        plane.wait_ready()
        editor = own / "editor"
        editor.write_text(f"#!/bin/sh\nenv >{shlex.quote(str(own / 'seen'))}\n")
        editor.chmod(0o700)
        secret = key()
        ctl(binaries, "edit", "--socket", socket, env={"MORTISE_SECRETS_KEY": secret, "EDITOR": str(editor)}, check=False)
        text = (own / "seen").read_text()
        assert "EDITOR=" in text and secret not in text
    finally:
        plane.stop()
