"""Without this nobody could say who changed the mesh, nor take a change back: each one is a revision with its author and reason,
any of them that is still valid can be in force again without a connection lost, and who was slower is told by whom.

Drives: D7, F3, R10, R36"""
import json
import shutil
import subprocess

import grpc
import pytest
import yaml

from deploy.lab.mesh import document
from deploy.lab.programs import own_environment, wait_for
from deploy.lab.refusals import openssl
from test.testlib.control import LoneControl
from test.testlib.openssl_crl import OpensslCrl
from test.testlib.pki import Ca
from test.testlib.stubs import stubs

KEPT = 200
NEW_LINK = {"name": "back", "client": "portal", "server": "gateway", "client_port": 15177, "server_port": 8082}


def history(mesh):
    """Newest first."""
    return mesh.ctl_json("history")["revisions"]


class Alone(LoneControl):
    """A control plane without sidecars; `ctl` as that of a mesh."""

    def ctl(self, *args, check=True, stdin=None, env=None):
        done = subprocess.run([self.bin.ctl, "--socket", self.socket, *map(str, args)], capture_output=True, text=True,
                              env={**own_environment(), **(env or {})}, input=stdin, timeout=60)
        assert not check or done.returncode == 0, (args, done.stderr)
        return done

    def ctl_json(self, *args):
        return json.loads(self.ctl(*args, "-o", "json").stdout)

    def apply(self, doc, *flags, check=True):
        return self.ctl("apply", "-f", "-", *flags, check=check, stdin=json.dumps(doc))

    def mesh(self):
        return self.ctl_json("get", "mesh")

    def move(self, port, *flags, check=True):
        """A change of one port."""
        link = self.mesh()["mesh"]["links"][0]
        return self.apply({"links": [{**link, "server_port": port}]}, *flags, check=check)


@pytest.fixture
def alone(folder, binaries):
    path = folder / "alone"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    made = Alone(path, binaries).start()
    yield made
    made.stop()


@pytest.mark.sanitize
def test_going_back_under_traffic_drops_nothing(mesh, unharmed, network, folder, binaries):
    """By the socket and by an administrator's certificate."""
    first = mesh.version()
    out = folder / "alice"
    mesh.ctl("admin", "create", "alice", "--out", out)
    (folder / "more.yaml").write_text(yaml.safe_dump({"links": [NEW_LINK]}))
    argv = [str(binaries.ctl), "--server", f"{network['control'].v4}:15010", "--trust-domain", "mesh.test", "--cert",
            str(out / "cert.pem"), "--key", str(out / "key.pem"), "--roots", str(mesh.roots)]
    done = network["management"].run(*argv, "apply", "-f", str(folder / "more.yaml"), "-m", "Straße zurück",
                                     capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    groups = {"groups": ["P-384"]}
    mesh.apply(document(client=groups, server=groups), "--prune", "--wait")
    newest, before, *_, at_first = [r for r in history(mesh) if int(r["version"]) >= first]
    assert int(at_first["version"]) == first and int(newest["version"]) == mesh.version()
    assert before["author"] == "spiffe://mesh.test/mortise/admin/alice" and newest["author"].startswith("uid:")
    assert before["message"] == "Straße zurück" and before["changes"] == ["link back: added"]
    assert "link back: removed" in newest["changes"] and newest["num_changes"] == 3
    told = mesh.ctl("history").stdout
    assert "Straße zurück" in told and "(and 2 more)" in told and "(and" not in mesh.ctl("history", "-o", "wide").stdout

    weaker = mesh.ctl("rollback", first, check=False)  # P-384 alone was stronger: that has to be meant
    assert weaker.returncode == 1 and "groups P-384 -> " in weaker.stderr and mesh.version() == int(newest["version"])
    dry = mesh.ctl("rollback", first, "--dry-run", "--allow-weaker").stdout
    assert "profile mesh-client: changed groups" in dry and mesh.version() == int(newest["version"])
    mesh.ctl("rollback", before["version"], "--wait", "--allow-weaker")
    assert "back" in {link["name"] for link in mesh.ctl_json("get", "links")["links"]}
    mesh.ctl("rollback", first, "-m", "it was better", "--wait")
    back = history(mesh)[0]
    assert back["message"] == f"back to revision {first}: it was better" and "link back: removed" in back["changes"]
    links = mesh.ctl_json("get", "links")["links"]
    assert "back" not in {link["name"] for link in links} and len(links) == 4
    assert "groups" not in str(mesh.ctl_json("get", "profiles", "mesh-client"))
    assert "nothing to change" in mesh.ctl("rollback", first).stdout
    assert history(mesh)[0] == back


def test_what_is_no_longer_valid_is_refused_whole(folder, binaries):
    """A revision with a revocation list that has become stale since."""
    path = folder / "stale"
    path.mkdir()
    control, safe = Alone(path, binaries), OpensslCrl(path, "safe", Ca("safe", key="p384"))
    shutil.rmtree(control.data)
    subprocess.run([binaries.ctl, "init", control.data, "--trust-domain", control.TRUST_DOMAIN, "--external-root"],
                   check=True, capture_output=True, env=own_environment())
    control.start(ready=False)
    try:
        wait_for("it listens", lambda: control.ctl("status", check=False).returncode == 0)
        (safe.folder / "it.csr").write_text(control.ctl("ca", "csr").stdout)
        openssl("x509", "-req", "-in", "it.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-copy_extensions",
                "copyall", "-out", "it.pem", cwd=safe.folder)
        control.ctl("ca", "import", safe.folder / "it.pem", safe.folder / "ca.pem")
        control.apply({"crls": [{"name": "safe", "pem": safe.make(ends_s=8).decode()}]})
        stale = control.mesh()
        control.apply({"crls": [{"name": "safe", "pem": safe.make().decode()}], "settings": {"leaf_ttl_s": 7200}})
        before, known = control.mesh(), history(control)
        wait_for("the list is stale", lambda: control.ctl("rollback", stale["version"], "--dry-run", check=False).returncode)
        done = control.ctl("rollback", stale["version"], check=False)
        assert done.returncode == 1 and "stale" in done.stderr and "nothing was changed" in done.stderr, done.stderr
        assert control.mesh() == before and history(control) == known
        control.move(8444)
        control.ctl("rollback", before["version"])  # the good twin
        assert control.mesh()["mesh"] == before["mesh"]
    finally:
        control.stop()


def pages(control, size):
    """The numbers of the revisions, a list for each page."""
    request = stubs().operator.ListRevisionsRequest(page_size=size)
    with grpc.insecure_channel(f"unix:{control.socket}") as link:
        stub = stubs().operator_grpc.OperatorServiceStub(link)
        while True:
            page = stub.ListRevisions(request, timeout=10)
            yield [item.version for item in page.revisions]
            request.page_token = page.next_page_token
            if not request.page_token:
                return


@pytest.mark.parametrize("token", ["x", "-1", "0", "1x", "9" * 30])
def test_a_page_token_of_nobodys_is_refused(alone, token):
    with grpc.insecure_channel(f"unix:{alone.socket}") as link:
        stub = stubs().operator_grpc.OperatorServiceStub(link)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListRevisions(stubs().operator.ListRevisionsRequest(page_token=token), timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "page_token: " in caught.value.details()
        assert not stub.ListRevisions(stubs().operator.ListRevisionsRequest(page_token="1"), timeout=10).revisions


@pytest.mark.sanitize
def test_so_many_are_kept_and_the_oldest_go(alone):
    first = alone.mesh()
    number = KEPT + 2 - len(history(alone))
    for port in range(number):
        link = first["mesh"]["links"][0]
        alone.apply({"links": [{**link, "server_port": 20000 + port}]})
    kept = history(alone)
    assert len(kept) == KEPT and int(kept[0]["version"]) == int(alone.mesh()["version"])
    versions = [int(r["version"]) for r in kept]
    assert versions == sorted(versions, reverse=True)
    for size in (7, KEPT - 1, KEPT, KEPT + 1):
        parts = list(pages(alone, size))
        assert sum(parts, []) == versions and all(len(part) == size for part in parts[:-1])
    assert str(first["version"]) not in {r["version"] for r in kept}
    gone = alone.ctl("rollback", first["version"], check=False)
    assert gone.returncode == 1 and f"from {versions[-1]} to {versions[0]}" in gone.stderr, gone.stderr

    before = alone.mesh()
    alone.program.kill()
    alone.program.stop()
    alone.start()
    assert history(alone) == kept and alone.mesh() == before
    alone.ctl("rollback", versions[-1])
    assert alone.mesh()["mesh"]["links"][0]["server_port"] == 20001


def test_who_was_slower_is_told_by_whom(alone):
    mine = alone.mesh()
    alone.move(8444, "-m", "moved at night")
    mine["mesh"]["links"][1]["server_port"] = 8555
    lost = alone.apply(mine, check=False)
    assert lost.returncode == 1 and "store_conflict" in lost.stderr
    assert "link management-portal: changed server_port: \"moved at night\"" in lost.stderr and "uid:" in lost.stderr
    for port in range(7):
        alone.move(9000 + port)
    assert "and more: mortisectl history" in alone.apply(mine, check=False).stderr


@pytest.mark.parametrize("message", ["\x1b[31mred", "two\nlines", "back\u202ewards", "nul\u009b2J", "x" * 1025])
def test_a_message_that_would_play_with_a_terminal_is_refused(alone, message):
    before, known = alone.mesh(), history(alone)
    for command in (["apply", "-f", "-", "-m", message], ["rollback", before["version"], "-m", message]):
        done = alone.ctl(*command, check=False, stdin=json.dumps({"settings": {"leaf_ttl_s": 7200}}))
        assert done.returncode == 1 and "printable" in done.stderr and "\x1b" not in done.stderr
    assert alone.mesh() == before and history(alone) == known


def test_a_message_may_be_long_and_in_any_language(alone):
    message = "ümläut 部署 " * 50
    alone.move(8444, "-m", message)
    assert history(alone)[0]["message"] == message


def test_rollback_of_nothing_tells_both_ways(alone):
    done = alone.ctl("rollback", check=False)
    assert done.returncode == 2 and "rollback REVISION" in done.stderr and "accept-restore" in done.stderr
    for wrong in ("0", "-1", "x", "99999999999999999999"):
        done = alone.ctl("rollback", wrong, check=False)
        assert done.returncode == 2, done.stderr
    done = alone.ctl("rollback", "4711", check=False)
    assert done.returncode == 1 and "no revision 4711" in done.stderr and "mortisectl history" in done.stderr


def test_settings_go_back_too(alone):
    """Also to none: a document without settings leaves them, a revision without does not."""
    first = alone.mesh()
    assert "settings" not in first["mesh"]
    alone.apply({"settings": {"leaf_ttl_s": 7200}})
    alone.ctl("rollback", first["version"])
    assert not alone.mesh()["mesh"].get("settings")
    assert "nothing to change" in alone.ctl("rollback", first["version"]).stdout


# What differs.

def patched(folder, text, patch):
    """What patch(1) makes of it: a judge that is none of ours."""
    (folder / "text").write_text(text)
    subprocess.run(["patch", "--no-backup-if-mismatch", "--fuzz=0", "text"], input=patch, text=True, check=True,
                   capture_output=True, cwd=folder)
    return (folder / "text").read_text()


def test_the_difference_leads_from_one_revision_to_the_other(alone):
    first, texts = int(alone.mesh()["version"]), [alone.ctl("export").stdout]
    alone.apply({"links": [NEW_LINK], "subsystems": [{"name": "a-first-one"}]})
    texts.append(alone.ctl("export").stdout)
    alone.move(8444)
    alone.apply({"profiles": [{"name": "strict", "role": "CLIENT", "min_version": "TLS1_3"}]})
    texts.append(alone.ctl("export").stdout)
    newest, _, second, *_ = [int(r["version"]) for r in history(alone)]
    for args, before, after in (((first, second), 0, 1), ((second, newest), 1, 2), ((newest, first), 2, 0), ((first,), 0, 2)):
        shown = alone.ctl("diff", *args).stdout
        assert shown.startswith(f"--- revision {args[0]}\n+++ revision ") and "\x1b" not in shown
        assert patched(alone.folder, texts[before], shown) == texts[after]
    alone.ctl("rollback", first)  # in another order within, and still the same
    same = alone.ctl("diff", first)
    assert same.stdout == "" and "nothing differs" in same.stderr
    assert alone.ctl("export").stdout == texts[0]


def test_the_difference_that_a_document_would_make(alone):
    before, known = alone.ctl("export").stdout, history(alone)
    for doc, flags in (({"links": [NEW_LINK]}, ()), ({"settings": {"leaf_ttl_s": 7200}}, ()),
                       ({"subsystems": [{"name": "lonely"}]}, ("--prune",))):
        shown = alone.ctl("diff", "-f", "-", *flags, stdin=json.dumps(doc)).stdout
        assert alone.ctl("export").stdout == before and history(alone) == known
        alone.apply(doc, *flags)
        assert patched(alone.folder, before, shown) == alone.ctl("export").stdout
        alone.ctl("rollback", known[0]["version"])
        known = history(alone)
    refused = alone.ctl("diff", "-f", "-", stdin=json.dumps({"links": [{**NEW_LINK, "client": "nobody"}]}), check=False)
    assert refused.returncode == 1 and "nobody" in refused.stderr and "+  - name: back" in refused.stdout
    assert history(alone) == known


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_exported_can_be_applied(alone, form):
    text = alone.ctl("export", "-o", form).stdout
    alone.apply({"links": [NEW_LINK], "settings": {"leaf_ttl_s": 7200}})
    (alone.folder / "mesh").write_text(text)
    alone.ctl("apply", "-f", alone.folder / "mesh", "--prune")
    assert (yaml.safe_load if form == "yaml" else json.loads)(text).keys() == {
        "subsystems", "links", "profiles", "truststores", "keystores"}
    links = {link["name"] for link in alone.mesh()["mesh"]["links"]}
    assert len(links) == 4 and "back" not in links


def test_diff_of_nothing_tells_what_it_wants(alone):
    for args in ((), ("1", "-f", "x"), ("x",), ("1", "0")):
        done = alone.ctl("diff", *args, check=False)
        assert done.returncode == 2 and "mortisectl" in done.stderr, done.stderr
    for args in (("4711",), ("1", "4711")):
        done = alone.ctl("diff", *args, check=False)
        assert done.returncode == 1 and done.stdout == "" and "no revision 4711" in done.stderr


# One thing, and the whole of it in an editor.

def test_what_is_in_use_is_not_deleted_and_who_uses_it_is_told(alone):
    alone.apply({"profiles": [{"name": "strict", "role": "CLIENT", "min_version": "TLS1_3"}]})
    link = alone.mesh()["mesh"]["links"][0]
    alone.apply({"links": [{**link, "client_profile": "strict"}]})
    before = alone.mesh()
    for what, said in ((("profile", "strict"), ["link management-portal: client_profile"]),
                       (("subsystem", "portal"), ["link management-portal: server"]),
                       (("subsystem", "management"), [f"link management-{to}: client" for to in ("portal", "gateway", "analytics")]),
                       (("profile", "default-tls-server"), ["built in"]), (("link", "nosuch"), ["mortisectl get links"]),
                       (("crl", "nosuch"), ["no crl"])):
        done = alone.ctl("delete", *what, check=False)
        assert done.returncode == 1 and all(text in done.stderr for text in said), done.stderr
    assert alone.ctl("delete", "planet", "mars", check=False).returncode == 2
    assert "removed" in alone.ctl("delete", "link", "management-portal", "--dry-run").stdout
    assert alone.mesh() == before

    alone.ctl("delete", "link", "management-portal", "-m", "gone")
    alone.ctl("delete", "profiles", "strict")
    assert [r["changes"] for r in history(alone)[:2]] == [["profile strict: removed"], ["link management-portal: removed"]]
    alone.ctl("rollback", before["version"])
    assert {item["name"] for item in alone.mesh()["mesh"]["links"]} == {item["name"] for item in before["mesh"]["links"]}


def test_a_copy_of_what_is_built_in_can_be_changed(alone):
    alone.ctl("clone", "profile", "default-tls-server", "mine")
    profiles = {p["name"]: p for p in alone.mesh()["mesh"]["profiles"]}
    assert {**profiles["mine"], "name": ""} == {**profiles["default-tls-server"], "name": ""}
    alone.apply({"profiles": [{**profiles["mine"], "min_version": "TLS1_3"}]})
    before = alone.mesh()
    for args, said in ((("profile", "mine", "default-tls-client"), "already"), (("profile", "nosuch", "x"), "mortisectl get profiles"),
                       (("link", "management-portal", "second"), "--client-port"), (("profile", "mine", "No Name"), "name"),
                       (("link", "management-portal", "second", "--client-port", "15101"), "15101")):
        done = alone.ctl("clone", *args, check=False)
        assert done.returncode == 1 and said in done.stderr, done.stderr
    assert alone.mesh() == before
    alone.ctl("clone", "link", "management-portal", "second", "--client-port", "15177")
    assert alone.mesh()["mesh"]["links"][-1]["client_port"] == 15177


@pytest.fixture
def editor(alone):
    """Runs `mortisectl edit` with a script for an editor, which has the file's path in $1; other words go before it."""
    temporary = alone.folder / "tmp"
    temporary.mkdir()

    def edit(script, *flags, check=True, words=""):
        (alone.folder / "editor").write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (alone.folder / "editor").chmod(0o755)
        done = alone.ctl("edit", *flags, check=check,
                         env={"EDITOR": "false", "VISUAL": f"{alone.folder}/editor{words}", "TMPDIR": str(temporary)})
        left = list(temporary.iterdir())
        for path in left:
            assert path.stat().st_mode & 0o077 == 0 and str(path) in done.stderr
            done.kept = path.read_text()
            path.unlink()
        assert bool(left) == hasattr(done, "kept")
        return done
    return edit


def test_what_is_saved_in_the_editor_is_applied_whole(alone, editor):
    done = editor('sed -i "s/server_port: 8081/server_port: 8444/" "$1"', "-m", "by hand")
    assert "changed server_port" in done.stdout and history(alone)[0]["message"] == "by hand"
    # What is taken out is removed; the editor may be of several words.
    editor('test "$1" = --wait; python3 - "$2" <<END\nimport sys, re\ntext = open(sys.argv[1]).read()\n'
           'open(sys.argv[1], "w").write(re.sub(r"(?s)    - name: gateway-analytics.*?(?=    - name)", "", text))\nEND',
           words=" --wait")
    links = {link["name"]: link for link in alone.mesh()["mesh"]["links"]}
    assert set(links) == {"management-portal", "management-gateway", "management-analytics"}
    assert links["management-portal"]["server_port"] == 8444

    before, known = alone.mesh(), history(alone)
    for script in ("true", ': >"$1"', 'printf "\\n" >"$1"'):
        assert "nothing to change" in editor(script).stdout
    assert alone.mesh() == before and history(alone) == known


def test_a_text_that_was_refused_is_kept(alone, editor):
    before, known = alone.mesh(), history(alone)
    for script, said in (('sed -i "s/server: portal/server: nobody/" "$1"', "nobody"), ('echo "links: [" >"$1"', "not a mesh document"),
                         ('echo "mesh: {}" >"$1"', "no mesh in it"), ('echo "mine: 1" >>"$1"; exit 3', "did not end well")):
        done = editor(script, check=False)
        assert done.returncode == 1 and said in done.stderr and "your text is kept" in done.stderr, done.stderr
        assert done.kept
    assert not hasattr(editor("exit 3", check=False), "kept")
    assert not hasattr(editor("rm $0; exit 3", check=False), "kept")
    for ending in ("0", "3"):
        gone = editor(f'rm "$1"; exit {ending}', check=False)
        assert gone.returncode == 1 and "is gone" in gone.stderr and "kept" not in gone.stderr, gone.stderr
    assert alone.mesh() == before and history(alone) == known


def test_what_another_has_changed_while_one_edits_is_not_undone(alone, editor):
    script = f'sed -i "s/server_port: 8081/server_port: 8444/" "$1"\n' \
             f'echo "settings: {{leaf_ttl_s: 7200}}" | {alone.bin.ctl} --socket {alone.socket} apply -f - -m faster >&2'
    done = editor(script, check=False)
    assert done.returncode == 1 and "store_conflict" in done.stderr and '"faster"' in done.stderr, done.stderr
    assert "8444" in done.kept and alone.mesh()["mesh"]["settings"] == {"leaf_ttl_s": 7200}
    assert alone.mesh()["mesh"]["links"][0]["server_port"] == 8081


def test_an_editor_that_is_not_there_is_told(alone):
    done = alone.ctl("edit", check=False, env={"VISUAL": "/no/such/editor", "EDITOR": "true"})
    assert done.returncode == 1 and "/no/such/editor" in done.stderr and "$VISUAL" in done.stderr


@pytest.mark.parametrize("command", ["history", "diff", "rollback", "edit", "delete", "clone", "export", "accept-restore"])
def test_each_command_has_help_with_an_example(alone, command):
    text = alone.ctl(command, "--help").stdout
    assert f"Example: mortisectl {command}" in text and f'"{command} "*)' in alone.ctl("completion", "bash").stdout
