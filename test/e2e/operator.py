"""Without this an operator cannot trust what the command line says: documents are applied whole or not at all,
lost races are told, rollouts are watched to the end, and what cannot be done says what to do.

Drives: A1, A3, A8, A9, D7, F2, F5, R10, R36, R50, B1, C1, C3"""
import json
import subprocess
import threading

import pytest
import yaml

from deploy.lab.mesh import LINKS, document
from deploy.lab.programs import wait_for


@pytest.fixture(autouse=True)
def as_before(mesh):
    yield
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)


def test_default_links_exist_after_installation(folder, network, binaries):
    from deploy.lab.mesh import Mesh

    fresh = Mesh(folder / "fresh", network, binaries, control_host="gateway")
    try:
        fresh.start_control()
        links = {link["name"]: link for link in fresh.ctl_json("get", "links")["links"]}
        for name, client, server, _, _ in LINKS:
            assert links[name]["client"] == client and links[name]["server"] == server
        profiles = {p["name"] for p in fresh.ctl_json("get", "profiles")["profiles"]}
        assert {"default-tls-client", "default-tls-server"} <= profiles
    finally:
        fresh.stop()


@pytest.mark.parametrize("output", ["table", "wide", "json", "yaml"])
@pytest.mark.parametrize("what", ["mesh", "subsystems", "links", "profiles", "workloads",
                                  "certificates"])
def test_every_kind_in_every_form(mesh, what, output):
    text = mesh.ctl("get", what, "-o", output).stdout
    assert text.strip()
    if output == "json":
        json.loads(text)
    elif output == "yaml" or (what == "mesh" and output != "json"):
        yaml.safe_load(text)
    else:
        assert "\x1b" not in text, "colours only on a terminal"
        assert len(text.splitlines()) >= 2


def test_what_get_prints_can_be_applied_again(mesh, folder):
    before = mesh.ctl_json("get", "mesh")["mesh"]
    text = mesh.ctl("get", "mesh", "-o", "yaml").stdout
    got = yaml.safe_load(text)
    path = folder / "again.yaml"
    path.write_text(yaml.safe_dump(got.get("mesh", got)))
    mesh.ctl("apply", "-f", path, "--prune")
    assert mesh.ctl_json("get", "mesh")["mesh"] == before


def test_dry_run_tells_and_changes_nothing(mesh):
    before = mesh.version()
    done = mesh.apply(document(client={"groups": ["P-384"]}), "--dry-run")
    assert "mesh-client" in done.stdout
    assert mesh.version() == before


def test_a_document_is_applied_whole_or_not_at_all(mesh):
    doc = document()
    doc["links"] = [*doc["links"], {"name": "good", "client": "portal", "server": "gateway",
                                    "client_port": 15177, "server_port": 8082},
                    {"name": "bad", "client": "nobody", "server": "gateway", "client_port": 15178,
                     "server_port": 8082}]
    done = mesh.apply(doc, check=False)
    assert done.returncode == 1 and "nobody" in done.stderr
    assert "good" not in {link["name"] for link in mesh.ctl_json("get", "links")["links"]}


def test_profiles_with_nothing_in_common_show_both_lists(mesh):
    done = mesh.apply(document(client={"groups": ["X25519"]}, server={"groups": ["P-384"]}),
                      check=False)
    assert done.returncode == 1
    assert "X25519" in done.stderr and "P-384" in done.stderr and "links[" in done.stderr


def test_apply_waits_for_every_acknowledgement(mesh):
    done = mesh.apply(document(client={"groups": ["P-384"]}, server={"groups": ["P-384"]}), "--wait")
    assert done.returncode == 0
    version = mesh.version()
    assert all(int(w["acked_version"]) == version for w in mesh.workloads())


def test_rotate_one_subsystem_leaves_the_others_alone(mesh):
    before = {w["subsystem"]: w["status"]["certificate_serial"] for w in mesh.workloads()}
    mesh.ctl("rotate", "portal", "--wait")
    after = {w["subsystem"]: w["status"]["certificate_serial"] for w in mesh.workloads()}
    assert {n for n in before if before[n] != after[n]} == {"portal"}


def test_rotate_of_nobody_is_refused(mesh):
    done = mesh.ctl("rotate", "nosuch", check=False)
    assert done.returncode != 0 and "nosuch" in done.stderr and "portal" in done.stderr


def test_a_sidecar_that_does_not_answer_is_named(mesh):
    import signal

    program = mesh.sidecar("portal")
    program.signal(signal.SIGSTOP)
    try:
        done = mesh.ctl("rotate", "--all", "--wait", "--timeout", "2s", check=False)
        assert done.returncode != 0 and "portal" in done.stdout + done.stderr
    finally:
        program.signal(signal.SIGCONT)
    wait_for("portal renewed after all", lambda: mesh.ctl(
        "rotate", "--all", "--wait", "--timeout", "10s", check=False).returncode == 0)


def test_concurrent_applies_keep_both_changes(mesh, folder):
    """Twenty documents at once, each with a link of its own: none is lost."""
    def apply(number):
        path = folder / f"one{number}.json"
        path.write_text(json.dumps({"links": [{
            "name": f"race-{number}", "client": "portal", "server": "gateway",
            "client_port": 15200 + number, "server_port": 8082}]}))
        results[number] = mesh.ctl("apply", "-f", path, check=False)

    results = {}
    threads = [threading.Thread(target=apply, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(done.returncode == 0 for done in results.values()), results
    names = {link["name"] for link in mesh.ctl_json("get", "links")["links"]}
    assert {f"race-{i}" for i in range(20)} <= names


def test_a_renamed_subsystem_keeps_its_sidecar(mesh):
    """The identity is another subsystem's from one moment to the next: its stream must not go on with neither."""
    doc = document(links=[tuple("porter" if field == "portal" else field for field in link)
                          for link in LINKS])
    for subsystem in doc["subsystems"]:
        if subsystem["name"] == "portal":
            subsystem.update(name="porter", service_account="portal")
    mesh.apply(doc, "--prune")
    wait_for("the sidecar is the new subsystem's", lambda: "porter" in {
        w["subsystem"] for w in mesh.workloads()})
    mesh.wait_in_sync(4)
    assert {w["subsystem"] for w in mesh.workloads()} >= {"porter", "management"}
    mesh.ctl("rotate", "--all", "--wait")
    management = mesh.sidecar("management").config()
    assert mesh.network["portal"].v4 in str(management), "its endpoint is the link's"


def test_swapped_identities_take_their_addresses_along(mesh):
    """A name's new identity has other sidecars: where the old one's were must be forgotten at once."""
    swap = {"portal": "analytics", "analytics": "portal"}
    doc = document()
    for subsystem in doc["subsystems"]:
        subsystem["service_account"] = swap.get(subsystem["name"], subsystem["name"])

    def of(name):
        return {w["address"] for w in mesh.workloads() if w["subsystem"] == name}

    def told():
        config = mesh.sidecar("management").config()["config"]
        links = {link["name"]: link for link in config["outbound"]}
        return {to: set(links[f"management-{to}"]["endpoints"]) for to in swap}

    before = told()
    assert all(len(endpoints) == 1 for endpoints in before.values())
    try:
        mesh.apply(doc)
        wait_for("they are swapped, and nothing of the old is left", lambda: told() == {
            to: before[swap[to]] for to in swap})
        assert {to: of(to) for to in swap} == told()
    finally:
        for subsystem in doc["subsystems"]:
            subsystem["service_account"] = subsystem["name"]
        mesh.apply(doc)
        wait_for("and back", lambda: told() == before)


def test_push_storm_ends_in_the_last_version(mesh):
    for number in range(50):
        groups = ["P-256"] if number % 2 else ["X25519"]
        mesh.apply(document(client={"groups": groups}, server={"groups": groups}))
    mesh.wait_in_sync(4)
    config = mesh.sidecar("management").config()
    assert "P-256" in json.dumps(config["config"]["profiles"])


def test_tokens_have_a_lifetime_within_bounds(mesh):
    assert mesh.ctl("token", "create", "portal", "--ttl", "10m").stdout.startswith("mjt1.")
    for ttl in ("1s", "30d", "soon"):
        done = mesh.ctl("token", "create", "portal", "--ttl", ttl, check=False)
        assert done.returncode != 0 and "ttl" in done.stderr
    done = mesh.ctl("token", "create", "nosuch", check=False)
    assert done.returncode != 0 and "nosuch" in done.stderr


def test_administration_over_mtls(mesh, network, folder, binaries):
    out = folder / "alice"
    mesh.ctl("admin", "create", "alice", "--out", out)
    assert (out / "key.pem").stat().st_mode & 0o077 == 0
    target = f"{network['control'].v4}:15010"
    argv = [str(binaries.ctl), "--server", target, "--trust-domain", "mesh.test", "--cert",
            str(out / "cert.pem"), "--key", str(out / "key.pem"), "--roots", str(mesh.roots)]
    done = network["management"].run(*argv, "status", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_sidecars_certificate_is_no_administrators(mesh, network, folder, binaries):
    """The adversarial twin: a valid certificate of the mesh may not call the operator service."""
    out = folder / "portal-cert"
    target = f"{network['control'].v4}:15010"
    mesh.certificate("portal", out)
    argv = [str(binaries.ctl), "--server", target, "--trust-domain", "mesh.test", "--cert",
            str(out / "cert.pem"), "--key", str(out / "key.pem"), "--roots", str(mesh.roots)]
    for command in (["status"], ["token", "create", "portal"], ["rotate", "--all"]):
        done = network["management"].run(*argv, *command, capture_output=True, text=True)
        assert done.returncode != 0 and "permission" in done.stderr.lower(), done.stderr


def test_certificates_that_expire_soon_are_told_from_others(mesh):
    everything = mesh.ctl_json("get", "certificates")["certificates"]
    assert mesh.ctl_json("get", "certificates", "--expiring", "1h").get("certificates", []) == []
    assert mesh.ctl_json("get", "certificates", "--expiring", "48h")["certificates"] == everything
    wrong = mesh.ctl("get", "certificates", "--expiring", "soon", check=False)
    assert wrong.returncode == 2 and "--expiring" in wrong.stderr


def test_issued_certificates_are_recorded_with_their_reason(mesh):
    certificates = mesh.ctl_json("get", "certificates")["certificates"]
    assert {"attest", "control"} <= {c["reason"] for c in certificates}
    serials = [c["serial"] for c in certificates]
    assert len(set(serials)) == len(serials)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(mesh, shell):
    text = mesh.ctl("completion", shell).stdout
    assert "mortisectl" in text and "rotate" in text


def test_bash_completes_commands_of_two_words(mesh, tmp_path):
    script = tmp_path / "completion"
    script.write_text(mesh.ctl("completion", "bash").stdout)

    def completed(*words):
        asked = " ".join(f"'{word}'" for word in ("mortisectl", *words))
        done = subprocess.run(["bash", "-c", f"source {script}; COMP_WORDS=({asked}); COMP_CWORD={len(words)}; "
                               "_mortisectl; printf '%s\\n' \"${COMPREPLY[@]}\""], check=True, capture_output=True, text=True)
        return done.stdout.split()

    assert sorted(completed("ro")) == ["role", "rollback", "roots", "rotate"]
    assert {"root", "issuer", "key", "control", "admin", "status", "--all"} <= set(completed("rotate", ""))
    assert completed("rotate", "iss") == ["issuer"]
    assert "--abort" in completed("rotate", "root", "--") and "--all" not in completed("rotate", "root", "--")
    assert completed("--socket", "x", "ca", "") == ["csr", "import"]
    assert "--new" in completed("ca", "csr", "--") and completed("get", "cert") == ["certificates"]
    assert "--ttl" in completed("token", "create", "--")


def test_bash_completes_names_that_are_in_the_mesh(mesh, tmp_path):
    """Which are asked of the control plane that the words before say."""
    script = tmp_path / "completion"
    script.write_text(mesh.ctl("completion", "bash").stdout)

    def completed(*words, socket=mesh.socket):
        asked = " ".join(f"'{word}'" for word in (mesh.bin.ctl, "--socket", socket, *words))
        done = mesh.control_host.run(
            "bash", "-c", f"source {script}; COMP_WORDS=({asked}); COMP_CWORD={len(words) + 2}; _mortisectl; "
            "printf '%s\\n' \"${COMPREPLY[@]}\"", check=True, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return set(done.stdout.split())

    assert {"subsystem", "link", "profile"} <= completed("delete", "")
    assert completed("delete", "link", "management-") == {
        "management-portal", "management-gateway", "management-analytics"}
    assert completed("get", "subsystems", "po") == {"portal"}
    assert "mesh-client" in completed("clone", "profile", "")
    assert {"portal", "gateway"} <= completed("token", "create", "") and {"portal", "root"} <= completed("rotate", "")
    assert completed("certificate", "an") == {"analytics"}
    assert "--ttl" in completed("token", "create", "--t") and "portal" not in completed("rotate", "--")
    # Also behind a flag that has no value, and what is no list of the mesh.
    assert completed("delete", "--dry-run", "link", "management-p") == {"management-portal"}
    assert completed("get", "-w", "workloads", "po") == {"portal"} == completed("get", "connections", "po")
    assert completed("why", "po") == {"portal"} and completed("why", "portal", "ga") == {"gateway"}
    assert completed("revoke", "sub") == {"subsystem"} and completed("revoke", "subsystem", "an") == {"analytics"}
    mesh.apply({"subsystems": [{"name": "portal", "namespace": "apim", "labels": {"tier": "edge", "zone": "a"}}]})
    assert completed("get", "links", "-l", "") == {"tier", "zone"} == completed("export", "--selector", "")
    assert str(mesh.version()) in completed("rollback", "") and str(mesh.version()) in completed("diff", "")
    mesh.ctl("revoke", "serial", "cd" * 16)
    number = mesh.ctl_json("get", "revocations")["revocations"][0]["id"]
    assert str(number) in completed("lift", "")
    mesh.ctl("lift", number)
    assert {"viewer", "operator"} <= completed("role", "set", "") and "--role" in completed("admin", "bind", "--")
    assert completed("get", "keystores", "-o", "") == {"table", "wide", "json", "yaml", "pem"}
    assert completed("delete", "link", "management-", socket=tmp_path / "none") == set()
    # What a name says is not run by the shell of who completes it.
    trap = tmp_path / "trap"
    subject = f"oidc:https://id.example#$(touch${{IFS}}{trap})`touch${{IFS}}{trap}`*"
    mesh.ctl("admin", "bind", subject, "--role", "viewer")
    assert len(completed("admin", "unbind", "oidc")) == 1 and not trap.exists()
    mesh.ctl("admin", "unbind", subject)
    done = mesh.ctl("completion", "names", check=False)
    assert done.returncode == 2 and "names and a kind" in done.stderr
