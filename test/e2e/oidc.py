"""Without this whoever makes himself a token is an administrator, one that has expired still watches the mesh, or an
issuer that is down for a minute locks everybody out. The issuer here is a real one: it signs, and publishes its keys
over HTTPS.

Drives: D5, R46, R48, R49, R62, R64"""
import json
import os
import subprocess
import sys
import time

import grpc
import pytest

from deploy.lab.programs import Process, own_environment, wait_for
from test.testlib.admin import MALFORMED, ROOT, Admin, methods
from test.testlib.control import LoneControl
from test.testlib.oidc import Issuer, Key, Server
from test.testlib.stubs import stubs

REFRESH_S = 5
SOON_S = 3 * REFRESH_S  # a fetch, and what it brings about
ALICE = f"oidc:{Issuer.NAME}#alice-1"


class Site:
    """A control plane, its administrators' issuer, and mortisectl with a token."""

    def __init__(self, folder, *flags, control=None):
        self.folder = folder
        self.issuer = Issuer(Key("rsa", "RS256"), Key("ed", "EdDSA"), Key("first"))
        self.control = control or LoneControl(folder)
        self.flags = ["--oidc-issuer", Issuer.NAME, "--oidc-audience", Issuer.AUDIENCE, *flags]
        self.sent, self.pipe, self.channel = [], None, None

    def start(self):
        self.control.start(*self.flags)
        self.roots = self.folder / "roots.pem"
        self.roots.write_text(self.control.ctl("roots"))
        return self

    def file(self, token, name="token"):
        """Its file, which nobody else can read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(token + "\n")
        self.sent.append(token)
        return path

    def argv(self, *args):
        return [str(part) for part in (
            self.control.bin.ctl, *args, "--server", f"127.0.0.1:{self.control.port}", "--roots", self.roots,
            "--trust-domain", self.control.TRUST_DOMAIN)]

    def ctl(self, token, *args):
        return subprocess.run([*self.argv(*args), "--oidc-token-file", str(self.file(token))], check=False,
                              capture_output=True, text=True, env=own_environment(), timeout=60)

    def whoami(self, token):
        done = self.ctl(token, "whoami", "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, token, *args):
        done = self.ctl(token, *(args or ("whoami",)))
        assert done.returncode == 1 and done.stdout == "", (done.stdout, done.stderr)
        return done.stderr

    def bind(self, subject, role):
        self.control.ctl("admin", "bind", subject, "--role", role)

    def watch(self, token, name="watch"):
        """mortisectl watch, once it has shown something."""
        made = Process(name, [*self.argv("watch", "--since", "1h"), "--oidc-token-file", self.file(token, name)],
                       self.folder)
        wait_for("the watch is open", lambda: "role_" in made.tail(50))
        return made

    def connect(self):
        """A channel of gRPC's own, without a certificate."""
        socket = self.folder / "pipe.sock"
        self.pipe = Process("pipe", ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.mtls_pipe",
                                     socket, "127.0.0.1", self.control.port], self.folder)
        wait_for("the pipe listens", lambda: "listening" in self.pipe.tail())
        self.channel = grpc.insecure_channel(f"unix:{socket}")
        return self

    def raw(self, path, *authorization, channel=None):
        """Calls it with these headers; the error that it ends with."""
        call = (channel or self.channel).stream_stream(path, request_serializer=None, response_deserializer=None)
        with pytest.raises(grpc.RpcError) as refused:
            for _ in call(iter([MALFORMED]), timeout=30,
                          metadata=[("authorization", text) for text in authorization]):
                pass
        return refused.value.code(), refused.value.details()

    def metric(self, name):
        return self.control.program.metrics().get(name, 0)

    def stop(self):
        if self.channel is not None:
            self.channel.close()
            self.pipe.stop()
        self.control.stop()
        log = (self.folder / "mortise-control.log").read_text(errors="replace")
        for token in self.sent:
            for part in token.split("."):
                assert len(part) < 20 or part not in log, "no log has a token, nor a part of one"


@pytest.fixture(scope="module")
def server(folder):
    made = Server(folder)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(folder, binaries, server):
    made = Site(folder, "--oidc-keys-url", server.url, "--oidc-ca-file", server.ca_file, "--oidc-refresh",
                f"{REFRESH_S}s")
    server.answer = made.issuer.answer
    made.start().connect()
    made.bind(ALICE, "operator")
    wait_for("the keys are there", lambda: made.metric("mortise_control_oidc_keys") == 3)
    yield made
    made.stop()


@pytest.fixture
def lone(tmp_path, binaries):
    """One whose keys come from a file."""
    made = Site(tmp_path, "--oidc-keys-file", tmp_path / "keys.json")
    (tmp_path / "keys.json").write_bytes(made.issuer.jwks())
    made.start()
    made.bind(ALICE, "viewer")
    yield made
    made.stop()


@pytest.mark.sanitize
def test_who_has_a_token_is_who_it_says(site):
    for key in site.issuer.keys:
        me = site.whoami(site.issuer.token("alice-1", key))
        assert me["name"] == me["subject"] == ALICE and me["role"] == "operator"
    assert site.whoami(site.issuer.token("alice-1", aud=["x", Issuer.AUDIENCE], header={"typ": "at+jwt"}))
    # By a variable that names the file; the token itself is in no argument and no variable.
    done = subprocess.run(site.argv("token", "create", "portal"), check=False, capture_output=True, text=True,
                          env={**own_environment(), "MORTISE_OIDC_TOKEN_FILE":
                               str(site.file(site.issuer.token("alice-1")))}, timeout=60)
    assert done.returncode == 0, done.stderr
    found = site.control.ctl("audit", "search", "--action", "token.create", "-o", "json").splitlines()
    record = json.loads(found[-1])
    assert record["who"] == ALICE and record["role"] == "operator"


def wrong_tokens(issuer):
    """(what, token, code)"""
    key, mallory = issuer.keys[-1], Key("first")
    yield "expired", issuer.token("alice-1", life_s=-1), "jwt_expired"
    yield "for another", issuer.token("alice-1", aud="other"), "jwt_audience"
    yield "for nobody", issuer.token("alice-1", aud=None), "jwt_audience"
    yield "of another issuer", issuer.token("alice-1", iss=Issuer.NAME + "/"), "jwt_issuer"
    yield "endless", issuer.token("alice-1", exp=None), "jwt_claim"
    yield "of tomorrow", issuer.token("alice-1", nbf=int(time.time()) + 3600), "jwt_not_yet_valid"
    yield "alg none", issuer.bare("alice-1"), "jwt_algorithm"
    yield "HS256 by the key as PEM", issuer.confused("alice-1", key.pem()), "jwt_algorithm"
    yield "HS256 by the key as JWK", issuer.confused("alice-1", json.dumps(key.jwk()).encode()), "jwt_algorithm"
    yield "signed by another", issuer.token("alice-1", mallory), "jwt_signature"
    yield "signed by an unknown key", issuer.token("alice-1", Key("mallory")), "jwt_key_unknown"
    yield "RSA's signature under another key's name", issuer.token(
        "alice-1", issuer.keys[0], header={"kid": "first"}), "jwt_key_unknown"
    yield "with its own key", issuer.token("alice-1", mallory, header={
        "jwk": mallory.jwk(), "jku": "https://mallory.example/"}), "jwt_signature"
    yield "critical", issuer.token("alice-1", header={"crit": ["exp"]}), "jwt_critical"
    yield "a logout token", issuer.token("alice-1", header={"typ": "logout+jwt"}), "jwt_type"
    yield "a name of two lines", issuer.token("alice-1\nadmin"), "jwt_claim"
    yield "no token", "alice-1", "jwt_syntax"


def test_what_is_wrong_in_one_way_is_refused_by_that_code(site):
    tried = set()
    for what, token, code in wrong_tokens(site.issuer):
        before = site.metric(f'mortise_control_refusals_total{{code="{code}"}}')
        said = site.refusal(token)
        assert code in said, (what, said)
        assert "alice-1" not in said and Issuer.NAME not in said, "a stranger is told the code alone"
        assert site.metric(f'mortise_control_refusals_total{{code="{code}"}}') == before + 1, what
        tried.add(code)
    assert len(tried) >= 10
    found = site.control.ctl("audit", "search", "--outcome", "refused", "--since", "1h")
    assert "jwt_signature" in found


def test_who_is_bound_to_nothing_may_do_nothing(site):
    said = site.refusal(site.issuer.token("mallory"))
    assert f"oidc:{Issuer.NAME}#mallory has no role" in said
    # Nor who calls himself by the name of another kind.
    site.control.ctl("admin", "create", "root", "--out", site.folder / "root")
    assert "has no role" in site.refusal(site.issuer.token("root"))
    assert "has no role" in site.refusal(site.issuer.token("uid:0"))


def test_groups_count_where_nothing_is_bound_to_himself(site):
    group = f"oidc-group:{Issuer.NAME}#"
    token = site.issuer.token("bob", groups=["all", "Night Shift", "ops"])
    assert "has no role" in site.refusal(token)
    site.bind(group + "Night Shift", "viewer")
    assert site.whoami(token)["role"] == "viewer"
    site.bind(group + "ops", "operator")
    assert site.whoami(token)["role"] == "operator", "of several groups that which permits most"
    assert "has no role" in site.refusal(site.issuer.token("bob", groups=["opsies"]))
    assert "has no role" in site.refusal(site.issuer.token("bob", groups=[], roles=["ops"]))
    assert "jwt_claim" in site.refusal(site.issuer.token("bob", groups={"ops": True}))
    site.bind(f"oidc:{Issuer.NAME}#bob", "viewer")
    assert site.whoami(token)["role"] == "viewer", "what is bound to himself, though it is less"
    site.control.ctl("admin", "unbind", f"oidc:{Issuer.NAME}#bob")
    site.control.ctl("admin", "unbind", group + "ops")
    assert site.whoami(token)["role"] == "viewer"
    # A group is no subject, nor the other way round.
    assert "has no role" in site.refusal(site.issuer.token("Night-Shift"))


def test_a_token_opens_what_its_role_has_and_nothing_else(site):
    site.bind(f"oidc:{Issuer.NAME}#vera", "viewer")
    bearer = "Bearer " + site.issuer.token("vera")
    refused = 0
    for path, permission in methods():
        code, _ = site.raw(path, bearer)
        alone, _ = site.raw(path)
        if permission in ("anyone", "session", "mesh.read"):
            assert code == grpc.StatusCode.INVALID_ARGUMENT, (path, code)
        else:
            refused += 1
            assert code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED), (path, code)
        assert alone == (grpc.StatusCode.INVALID_ARGUMENT if permission == "anyone"
                         else grpc.StatusCode.UNAUTHENTICATED), (path, "the token was for that call alone")
    assert refused > 20


def test_credentials_are_of_one_kind_and_one(site):
    whoami, token = "/mortise.v1.AccessService/WhoAmI", "Bearer " + site.issuer.token("alice-1")
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    assert site.raw(whoami, token)[0] == grpc.StatusCode.INVALID_ARGUMENT, "it is let in"
    assert site.raw(whoami, token, token)[0] == unauthenticated
    for text in ("", "Bearer", "Basic YWxpY2U6MQ==", token[7:], token + ",", token.replace(" ", "  ")):
        assert site.raw(whoami, text) == (unauthenticated, "jwt_syntax"), text
    # Not beside a certificate, even of an administrator; and not where the machine says who calls.
    admin = Admin(site.control, "carol", "--role", "admin").connect()
    try:
        assert site.raw(whoami, channel=admin.channel)[0] == grpc.StatusCode.INVALID_ARGUMENT
        assert site.raw(whoami, token, channel=admin.channel) == (unauthenticated, "jwt_unwanted")
    finally:
        admin.close()
    with grpc.insecure_channel(f"unix:{site.control.socket}") as link:
        assert site.raw(whoami, token, channel=link) == (unauthenticated, "jwt_unwanted")


def test_mortisectl_takes_one_of_both(site):
    path = site.file(site.issuer.token("alice-1"))
    both = subprocess.run([*site.argv("whoami"), "--oidc-token-file", path, "--cert", path], check=False,
                          capture_output=True, text=True, env=own_environment(), timeout=60)
    assert both.returncode in (1, 2) and "instead of --cert" in both.stderr
    assert "operator socket" in site.control.try_ctl("whoami", "--oidc-token-file", path).stderr
    path.chmod(0o644)
    done = subprocess.run([*site.argv("whoami"), "--oidc-token-file", path], check=False, capture_output=True,
                          text=True, env=own_environment(), timeout=60)
    assert done.returncode == 1 and "may be read or changed by others" in done.stderr, done.stderr
    path.chmod(0o600)
    assert "no token" in site.refusal("a token\nof two lines")


def test_the_end_of_a_token_is_the_end_of_what_it_opened(site):
    """Longer than a stranger may stay, and no longer than the token says; a new one in the file changes nothing."""
    life_s = 40
    token = site.issuer.token("alice-1", life_s=life_s)
    ends = time.time() + life_s
    watch = site.watch(token)
    site.file(site.issuer.token("alice-1"), "watch")
    try:
        assert watch.wait(life_s + 20) == 1
        assert "jwt_expired" in watch.tail()
        assert ends - 2 <= time.time() <= ends + 3
    finally:
        watch.stop()
    assert "jwt_expired" in site.refusal(token)


def test_what_is_taken_from_him_ends_what_is_open(site):
    site.bind(f"oidc:{Issuer.NAME}#eve", "viewer")
    watch = site.watch(site.issuer.token("eve"))
    try:
        site.control.ctl("admin", "unbind", f"oidc:{Issuer.NAME}#eve")
        assert watch.wait(10) == 1 and "has no role" in watch.tail()
    finally:
        watch.stop()


def test_keys_come_and_go(site, server):
    old, new = site.issuer.keys[-1], Key("second")
    watch = site.watch(site.issuer.token("alice-1", old))
    try:
        site.issuer.keys.append(new)
        wait_for("the new key is known", lambda: site.ctl(
            site.issuer.token("alice-1", new), "whoami").returncode == 0, SOON_S, every_s=0.5)
        assert site.whoami(site.issuer.token("alice-1", old))["role"] == "operator", "both are good meanwhile"
        site.issuer.keys.remove(old)
        wait_for("the old key is gone", lambda: site.ctl(
            site.issuer.token("alice-1", old), "whoami").returncode == 1, SOON_S, every_s=0.5)
        assert "jwt_key_unknown" in site.refusal(site.issuer.token("alice-1", old))
        assert watch.wait(10) == 1 and "jwt_expired" in watch.tail(), "what was opened by it ends, too"
    finally:
        watch.stop()
    assert site.whoami(site.issuer.token("alice-1", new))["role"] == "operator"


def test_unknown_keys_do_not_make_it_ask_more_often(site, server):
    before = server.asked
    began = time.monotonic()
    for _ in range(20):
        site.refusal(site.issuer.token("alice-1", Key("mallory")))
    assert server.asked - before <= (time.monotonic() - began) / REFRESH_S + 1


def test_what_was_known_stays_when_the_issuer_does_not_answer(site, server):
    """In its place, one after the other: nothing, a fault, something else, too much, a way to another place."""
    token = site.issuer.token("alice-1", life_s=3600)
    large = b'{"keys":[' + b" " * 400000 + b"]}"
    evil = Issuer(Key("second"))
    try:
        for what, answer in (("http1_status", (503, {}, b"")), ("jwks_syntax", (200, {}, b"<html>maintenance</html>")),
                             ("jwks_empty", (200, {}, b'{"keys":[]}')), ("too_large", (200, {}, large)),
                             ("http1_status", (302, {"Location": "https://127.0.0.1:1/"}, evil.jwks()))):
            series = f'mortise_control_oidc_refreshes_total{{result="{what}"}}'
            before = site.metric(series)
            server.answer = lambda answer=answer: answer
            wait_for(f"{what} is noticed", lambda: site.metric(series) > before, SOON_S, every_s=0.2)
            assert site.whoami(token)["role"] == "operator", what
            assert site.metric("mortise_control_oidc_keys") == 3
    finally:
        server.answer = site.issuer.answer
    assert [e for e in site.control.program.events("keys_unavailable") if e["reason"] == "http1_status"]


def test_nobody_else_is_taken_for_the_issuer(tmp_path, binaries):
    """Its address is answered by one whom another CA vouches for, then by one of another name."""
    (tmp_path / "other").mkdir()
    (tmp_path / "named").mkdir()
    other, named = Server(tmp_path / "other"), Server(tmp_path / "named", "id.example")
    try:
        for server, ca_file in ((other, named.ca_file), (named, named.ca_file)):
            folder = tmp_path / f"site-{server.server_address[1]}"
            folder.mkdir()
            site = Site(folder, "--oidc-keys-url", server.url, "--oidc-ca-file", ca_file)
            server.answer = site.issuer.answer
            site.start()
            try:
                site.bind(ALICE, "viewer")
                wait_for("it is refused", lambda: site.metric(
                    'mortise_control_oidc_refreshes_total{result="chain_untrusted"}') == 1)
                assert server.asked == 0 and site.metric("mortise_control_oidc_keys") == 0
                assert "jwt_key_unknown" in site.refusal(site.issuer.token("alice-1"))
            finally:
                site.stop()
    finally:
        other.stop()
        named.stop()


def test_a_file_of_keys_is_read_again(lone):
    keys = lone.folder / "keys.json"
    old = lone.issuer.token("alice-1", life_s=3600)
    assert lone.whoami(old)["role"] == "viewer"
    keys.write_text("{")
    wait_for("the fault is told", lambda: lone.control.program.events("keys_unavailable"))
    assert lone.whoami(old)["role"] == "viewer", "what is no set changes nothing"
    keys.unlink()
    assert lone.whoami(old)["role"] == "viewer"
    new = Key("new", "PS256")
    lone.issuer.keys = [new]
    (lone.folder / "next.json").write_bytes(lone.issuer.jwks())
    os.replace(lone.folder / "next.json", keys)
    wait_for("the new key is known", lambda: lone.ctl(lone.issuer.token("alice-1"), "whoami").returncode == 0)
    assert "jwt_key_unknown" in lone.refusal(old)


def test_elevation_is_his_own(lone):
    lone.bind(ALICE, "admin")
    token, purge = lone.issuer.token("alice-1"), ["audit", "purge", "--up-to", "1", "--reason", "too many"]
    assert "takes an elevation" in lone.refusal(token, *purge)
    assert lone.ctl(token, "elevate", "--reason", "the log is full").returncode == 0
    assert lone.whoami(token)["elevation"]["subject"] == ALICE
    lone.bind(f"oidc:{Issuer.NAME}#other", "admin")
    assert "takes an elevation" in lone.refusal(lone.issuer.token("other"), *purge)
    done = lone.ctl(token, *purge)
    assert done.returncode == 0, done.stderr


def test_who_guesses_is_not_listened_to(lone):
    token = lone.issuer.token("alice-1")
    guess = lone.file(lone.issuer.token("alice-1", Key("first")), "guess")
    argv = [*lone.argv("whoami"), "--oidc-token-file", str(guess)]
    said = ""
    for _ in range(200):
        said = subprocess.run(argv, check=False, capture_output=True, text=True, env=own_environment(),
                              timeout=60).stderr
        if "rate_limited" in said:
            break
    assert "rate_limited" in said
    wait_for("the others of that address are heard again", lambda: lone.ctl(token, "whoami").returncode == 0)


def test_without_an_issuer_no_token_is_taken(tmp_path, binaries):
    site = Site(tmp_path)
    site.flags = []
    site.start()
    try:
        site.bind(ALICE, "admin")
        assert "jwt_unwanted" in site.refusal(site.issuer.token("alice-1"))
    finally:
        site.stop()


def test_half_a_setting_is_a_fault(tmp_path, binaries):
    control = LoneControl(tmp_path)

    def faults(*flags):
        done = subprocess.run([str(part) for part in (
            control.bin.control, "--config", control.data / "control.yaml", "--check", *flags)], check=False,
            capture_output=True, text=True, env=own_environment(), timeout=60)
        assert done.returncode in (0, 2)
        return done.stderr

    issuer, audience = ["--oidc-issuer", Issuer.NAME], ["--oidc-audience", "mortise"]
    keys = ["--oidc-keys-url", "https://id.example/keys"]
    assert faults(*issuer, *audience, *keys) == ""
    for flags, says in (([*issuer, *keys], "--oidc-audience: is needed"),
                        ([*issuer, *audience], "either the file of its keys"),
                        ([*issuer, *audience, *keys, "--oidc-keys-file", "keys.json"], "either the file of its keys"),
                        ([*audience], "--oidc-issuer: is needed"),
                        (["--oidc-issuer", "http://id.example", *audience, *keys], "is not an issuer"),
                        (["--oidc-issuer", "https://id.example#a", *audience, *keys], "is not an issuer"),
                        ([*issuer, *audience, "--oidc-keys-url", "http://id.example/keys"], "is not an address"),
                        ([*issuer, *audience, "--oidc-keys-url", "https://a:b@id.example/keys"], "is not an address"),
                        ([*issuer, *audience, "--oidc-keys-file", "k", "--oidc-ca-file", "c"], "is for --oidc-keys-url")):
        assert says in faults(*flags), (flags, faults(*flags))
    for subject in ("oidc:", "oidc:alice", "oidc:https://id.example", "oidc:http://id.example#a",
                    "oidc:https://id.example#", "oidc:https://id.example#a b", "oidc-group:https://id.example# a"):
        control.program or control.start()
        assert "subject: wanted is" in control.try_ctl("admin", "bind", subject, "--role", "viewer").stderr, subject
    control.stop()


def test_a_stub_of_grpc_is_served_as_well(site):
    """What others build on the API: metadata on each call, over one connection."""
    made = stubs()
    stub = made.access_grpc.AccessServiceStub(site.channel)
    for sub in ("alice-1", "vera"):
        site.bind(f"oidc:{Issuer.NAME}#{sub}", "viewer")
        me = stub.WhoAmI(made.access.WhoAmIRequest(), timeout=30, metadata=[
            ("authorization", f"bearer {site.issuer.token(sub)}")])
        assert me.subject == f"oidc:{Issuer.NAME}#{sub}"
