"""Without this a change of profiles would be found out by traffic: two ends that cannot shake hands, or a link that lets in
what was ruled out because of a slip of the pen. Each is refused whole before anything is pushed, with what would be right, and
the links go on.

Drives: A2, A3, A4, A6, A8, B1, B2, B3, E4, R1, R10"""
import json
import subprocess

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import wait_for
from test.testlib.static import StaticPair

LINKS = ("management-portal", "management-gateway", "management-analytics", "gateway-analytics")
CBC = "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"


@pytest.fixture(autouse=True)
def as_before(mesh):
    yield
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)


def refused(mesh, doc, *flags):
    """What mortisectl says; the mesh is as it was."""
    before = mesh.ctl_json("get", "mesh")
    done = mesh.apply(doc, *flags, check=False, weaker=False)
    assert done.returncode == 1 and done.stdout == ""
    assert mesh.ctl_json("get", "mesh") == before
    return done.stderr


@pytest.mark.sanitize
def test_ends_that_could_not_talk_are_refused_with_both_lists(mesh, unharmed):
    told = refused(mesh, document(client={"min_version": "TLS1_2", "max_version": "TLS1_2"}))
    for number in range(4):
        assert (f"links[{number}].client_profile: no TLS version in common: let min_version of the one be no higher than "
                'max_version of the other; client profile "mesh-client" has TLS1_2; server profile "mesh-server" has TLS1_3'
                ) in told
    twelve = {"min_version": "TLS1_2", "max_version": "TLS1_2"}
    told = refused(mesh, document(client={**twelve, "groups": ["X25519"]}, server=twelve))
    assert ("links[0].client_profile: in TLS 1.2, the highest version of both, a client's groups must have the curve of the "
            "server's certificate, which in the mesh is P-256: add P-256 to the client profile, or allow TLS1_3 at both ends; "
            'client profile "mesh-client" has X25519; server profile "mesh-server" has ') in told
    # Kept links are named, too: the document says nothing of them.
    told = refused(mesh, {"profiles": [{"name": "mesh-server", "role": "SERVER", "min_version": "TLS1_3", "groups": ["P-384"]},
                                       {"name": "mesh-client", "role": "CLIENT", "min_version": "TLS1_3", "groups": ["X25519"]}]})
    assert ("links[management-portal].client_profile: no group in common: name one for both, P-256 for example; "
            'client profile "mesh-client" has X25519; server profile "mesh-server" has P-384') in told


def test_what_would_be_right_is_right(mesh, unharmed):
    """The twin: as the refusal proposes, and the link talks. In two steps, as sidecars do not change in the same moment."""
    twelve = {"min_version": "TLS1_2", "max_version": "TLS1_2"}
    mesh.apply(document(client={"min_version": "TLS1_2"}, server={"min_version": "TLS1_2"}), "--wait")
    mesh.apply(document(client={**twelve, "groups": ["X25519", "P-256"]}, server=twelve), "--wait")
    unharmed.more(5)
    wait_for("a connection of TLS 1.2", lambda: any(e.get("tls_version") == "TLSv1.2" for e in
                                                    mesh.sidecar("management").events("connection")))
    mesh.apply(document(client={"min_version": "TLS1_2"}, server={"min_version": "TLS1_2"}), "--wait")


@pytest.mark.sanitize
def test_a_weaker_mesh_is_refused_unless_that_is_meant(mesh, unharmed):
    doc = document(client={"min_version": "TLS1_2", "cipher_suites": [CBC]},
                   server={"min_version": "TLS1_2", "cipher_suites": [CBC]})
    doc["links"].append({"name": "more", "client": "portal", "server": "gateway", "client_port": 15177, "server_port": 8082})
    lines = [f"link {link}: {what}" for link in LINKS for what in (
        "min_version TLS1_3 -> TLS1_2", f"cipher_suites none of TLS 1.2 -> {CBC}")]
    for flags in ([], ["--dry-run"]):
        told = refused(mesh, doc, *flags)
        assert ("failed_precondition: nothing was changed: 8 would be weaker than before; if that is meant, say so "
                "(allow_weaker; mortisectl: --allow-weaker)\n") in told.lower()
        assert told.strip().splitlines()[1:] == lines
    version = mesh.version()
    done = mesh.apply(doc, "--dry-run", "--allow-weaker", weaker=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("weaker: ")] == [f"weaker: {line}" for line in lines]
    assert mesh.version() == version
    done = mesh.apply(doc, "--wait", "--allow-weaker", weaker=False)
    assert [line for line in done.stdout.splitlines() if line.startswith("weaker: ")] == [f"weaker: {line}" for line in lines]
    assert [e["what"] for e in mesh.control.events("weakened") if e["version"] == mesh.version()] == lines
    # Back again is stronger, and needs no word; neither does the same once more.
    assert "weaker" not in mesh.apply(document(), weaker=False).stdout
    assert "nothing to change" in mesh.apply(document(), weaker=False).stdout


def test_what_weakens_no_link_needs_no_word(mesh):
    """A profile that nobody uses, a new link with it, one end alone: no link that was there can do what is weaker."""
    weak = {"min_version": "TLS1_2", "cipher_suites": [CBC]}
    doc = document(client=weak)
    doc["profiles"] += [{"name": "old-client", "role": "CLIENT", **weak}, {"name": "old-server", "role": "SERVER", **weak}]
    doc["links"].append({"name": "more", "client": "portal", "server": "gateway", "client_port": 15177, "server_port": 8082,
                         "client_profile": "old-client", "server_profile": "old-server"})
    assert "weaker" not in mesh.apply(doc, "--wait", weaker=False).stdout
    # A link that is pointed at it is judged by what it then does.
    doc["links"][0]["client_profile"] = "old-client"
    doc["links"][0]["server_profile"] = "old-server"
    told = refused(mesh, doc)
    assert told.strip().splitlines()[1:] == ["link management-portal: min_version TLS1_3 -> TLS1_2",
                                             f"link management-portal: cipher_suites none of TLS 1.2 -> {CBC}"]


def test_connections_that_would_live_longer_are_a_weakening(mesh):
    mesh.apply(document(client={"max_age_s": 3600}))
    told = refused(mesh, document(server={"on_expiry": "KEEP"}))
    assert told.strip().splitlines()[1:] == [line for link in LINKS for line in (
        f"link {link}: on_expiry of the server profile DRAIN -> KEEP", f"link {link}: max_age_s 3600 -> none")]


def validate(mesh, base, doc):
    return subprocess.run([mesh.bin.ctl, "validate", "-f", "-", "--base", base], input=json.dumps(doc), capture_output=True,
                          text=True, timeout=60)


def test_validate_tells_it_without_a_control_plane(mesh, folder):
    base = folder / "base.yaml"
    base.write_text(mesh.ctl("get", "mesh", "-o", "yaml").stdout)
    twelve = {"min_version": "TLS1_2"}
    done = validate(mesh, base, document(client=twelve, server=twelve))
    assert "weaker, wants --allow-weaker: link management-portal: min_version TLS1_3 -> TLS1_2\n" in done.stdout
    done = validate(mesh, base, document(client=twelve))
    assert done.returncode == 0 and "weaker" not in done.stdout


@pytest.mark.sanitize
def test_built_in_profiles_are_there_and_protected(mesh):
    shown = {line.split()[0]: line.split()[1:] for line in mesh.ctl("get", "profiles").stdout.splitlines()[1:]}
    assert shown["default-tls-client"][-1] == shown["default-tls-server"][-1] == "yes" and "yes" not in shown["mesh-client"]
    as_built = mesh.ctl_json("get", "profiles", "default-tls-client")["profiles"][0]
    told = refused(mesh, {"profiles": [{**as_built, "min_version": "TLS1_3"}],
                          "subsystems": [{"name": "half"}]})  # nor half of the document
    assert 'profiles[0].name: "default-tls-client" is built in and cannot be changed: clone it under another name' in told
    # The clone, what is built in as it is, and a document that prunes: each is taken.
    mesh.apply({"profiles": [as_built, {**as_built, "name": "own-client", "min_version": "TLS1_3"}]}, weaker=False)
    mesh.apply(document(), "--prune", weaker=False)
    names = {p["name"] for p in mesh.ctl_json("get", "profiles")["profiles"]}
    assert {"default-tls-client", "default-tls-server"} <= names and "own-client" not in names


RC4 = "TLS_RSA_WITH_RC4_128_SHA"
LEFT_OUT = (f'left out: the TLS library does not have "{RC4}": RC4 is prohibited (RFC 7465); the nearest available is '
            '"TLS_RSA_WITH_AES_128_GCM_SHA256"')


def test_names_that_the_library_lacks_are_left_out_on_request(mesh):
    lacking = {"cipher_suites": [RC4, "TLS_AES_256_GCM_SHA384"]}
    told = refused(mesh, document(client=lacking))
    assert f'profiles[0].cipher_suites[0]: the TLS library does not have "{RC4}"' in told
    told = refused(mesh, document(client={"cipher_suites": [RC4], "ignore_unavailable": True}))
    assert "profiles[0].cipher_suites: nothing is left: the TLS library has none of these" in told
    for flags in (["--dry-run"], ["--wait"]):
        done = mesh.apply(document(client={**lacking, "ignore_unavailable": True}), *flags, weaker=False)
        assert f"warning: profiles[0].cipher_suites[0]: {LEFT_OUT}\n" in done.stderr
    # Who says nothing of that profile is told nothing of it.
    assert "warning" not in mesh.apply({"profiles": [{"name": "other", "role": "CLIENT"}]}).stderr


def test_static_files_are_judged_likewise(folder, binaries):
    pair = StaticPair(folder, binaries)

    def check(**profile):
        pair.profiles["client"].update(profile)
        pair.write("client")
        return subprocess.run([binaries.proxy, "--config", pair.path("client"), "--check"], capture_output=True, text=True,
                              timeout=60)

    done = check(cipher_suites=[RC4, "TLS_AES_256_GCM_SHA384"])
    assert done.returncode != 0 and f'profiles[0].cipher_suites[0]: the TLS library does not have "{RC4}"' in done.stderr
    done = check(ignore_unavailable=True)
    assert done.returncode == 0 and "name_left_out" in done.stderr and RC4 in done.stderr
    assert "name_left_out" not in check(cipher_suites=["TLS_AES_256_GCM_SHA384"]).stderr


@pytest.mark.parametrize("preset", ["modern", "intermediate", "legacy", "fips"])
def test_a_link_runs_with_each_preset(mesh, unharmed, preset):
    doc = document()
    for link in doc["links"]:
        link.update(client_profile=f"{preset}-client", server_profile=f"{preset}-server")
    done = mesh.apply(doc, "--wait", "--allow-weaker", weaker=False)
    assert ("cipher_suites" in done.stdout) == (preset == "legacy"), "CBC is what the old ones have"
    unharmed.more(5)
    if preset == "fips":  # no other test here has this group
        wait_for("a connection with it", lambda: any(e.get("group") == "P-256" for e in
                                                     mesh.sidecar("management").events("connection")))


WEAK = {  # what a link may have: the settings it needs, client and server profile, the link itself, what is told, what is shown
    "unverified": ({"allow_insecure": True}, {"insecure_skip_verify": True}, {}, {}, ["insecure_skip_verify false -> true"],
                   "insecure_skip_verify by mesh-client"),
    "anonymous": ({}, {}, {"client_auth": "NONE"}, {"allow_anonymous": True},
                  ["client_auth REQUIRED -> NONE", "allow_anonymous false -> true"],
                  "allow_anonymous, client_auth NONE by mesh-server"),
    "legacy": ({}, *[{"min_version": "TLS1_0", "max_version": "TLS1_1", "allow_legacy": True, "cipher_suites": [CBC]}] * 2, {},
               ["min_version TLS1_3 -> TLS1_0", "max_version TLS1_3 -> TLS1_1", f"cipher_suites none of TLS 1.2 -> {CBC}"],
               "min_version TLS1_0 by mesh-client, min_version TLS1_0 by mesh-server"),
}
REFUSED = {  # without the second word
    "unverified": "profiles[0].insecure_skip_verify: needs allow_insecure: true in settings",
    "anonymous": 'links[0].server_profile: "mesh-server" asks for no certificate (client_auth: NONE), so that nobody could come in',
    "legacy": "profiles[0].min_version: TLS1_0 is not allowed: TLS1_2 is the lowest (RFC 8996), unless the profile says "
              "allow_legacy: true",
}
SECOND = ("allow_insecure", "allow_anonymous", "allow_legacy")


@pytest.mark.sanitize
@pytest.mark.parametrize("what", WEAK)
def test_what_is_weak_is_meant_twice_and_shown_everywhere(mesh, traffic, what):
    """Until it is taken back: whoever came in by it leaves then."""
    before = {link: now["dropped"] for link, now in traffic.totals().items()}
    settings, client, server, link, told, shown = WEAK[what]

    def doc(second):
        def some(fields):
            return {name: value for name, value in fields.items() if second or name not in SECOND}
        made = document(client=some(client), server=some(server))
        made["settings"] = {**made.get("settings", {}), **some(settings)}
        for one in made["links"]:
            one.update(some(link))
        return made

    assert REFUSED[what] in refused(mesh, doc(False), "--allow-weaker")
    assert [line for line in refused(mesh, doc(True)).splitlines() if "management-portal" in line] == [
        f"link management-portal: {line}" for line in told]
    known = {name: len(mesh.sidecar(name).events("weak_profile")) for name in ("management", "portal")}
    if what == "legacy":  # sidecars do not change in the same moment
        both = {"min_version": "TLS1_0", "allow_legacy": True, "cipher_suites": [CBC]}
        mesh.apply(document(client=both, server=both), "--wait", "--allow-weaker", weaker=False)
    mesh.apply(doc(True), "--wait", "--allow-weaker", weaker=False)
    assert shown in mesh.ctl("get", "links").stdout
    weak = {line.split()[0]: line for line in mesh.ctl("get", "profiles").stdout.splitlines()}
    assert (shown.split(" by ")[0].split(", ")[-1] in weak["mesh-client"] + weak["mesh-server"])
    found = {(f["area"], f["name"]): f for f in json.loads(mesh.ctl("check", "-o", "json", check=False).stdout)["findings"]}
    assert found["profiles", "links"]["state"] == "WARNING" and shown in found["profiles", "links"]["text"]
    end = "portal" if what == "anonymous" else "management"
    assert len(mesh.sidecar(end).events("weak_profile")) > known[end]
    traffic.more(5)
    counted = {"unverified": ("management", "outbound", "unverified"), "anonymous": ("portal", "inbound", "anonymous"),
               "legacy": ("portal", "inbound", "legacy_version")}[what]
    series = f'mortise_connections_weak_total{{direction="{counted[1]}",link="management-portal",weak="{counted[2]}"}}'
    wait_for("it is counted", lambda: mesh.sidecar(counted[0]).metrics().get(series, 0) > 0)
    assert {link: now["dropped"] for link, now in traffic.totals().items()} == before
    if what == "legacy":
        mesh.apply(document(client=both, server=both), "--wait", "--allow-weaker", weaker=False)
    else:  # what can only be taken back together
        mesh.apply({**document(), "settings": {"allow_insecure": False}}, "--wait", "--prune", weaker=False)
    traffic.more(5)
