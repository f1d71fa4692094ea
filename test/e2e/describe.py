"""Without this nobody could see in one place what a resource is, what follows from it, who uses it and who has changed it.

Drives: A1, D7"""
import pytest

from deploy.lab.mesh import document

SECTION = {
    "link": ("management-portal", ["client_profile: mesh-client", "What both ends have in common", "TLS1_3", "X25519",
                                   "Sidecars", "management", "portal", "ready", "Changes, of the revisions", "uid:"]),
    "links": ("gateway-analytics", ["server_port: 9083", "gateway", "analytics"]),
    "subsystem": ("management", ["namespace: apim", "Links", "management-portal: to portal, by 127.0.0.1:15101",
                                 "Sidecars", "ready", "Changes"]),
    "profile": ("mesh-server", ["role: SERVER", "What it offers", "TLS_AES_128_GCM_SHA256", "Links that use it",
                                "management-portal: of its server, portal", "Changes"]),
}


@pytest.mark.parametrize("kind", SECTION)
def test_all_that_is_known(mesh, kind):
    name, told = SECTION[kind]
    shown = mesh.ctl("describe", kind, name).stdout
    assert shown.startswith(f"{kind.removesuffix('s')} {name}\n")
    for words in told:
        assert words in shown, (words, shown)
    assert "\033[" not in shown  # colours are for terminals


def test_only_its_own_sidecars_links_and_changes(mesh):
    shown = mesh.ctl("describe", "link", "management-portal").stdout
    assert "analytics" not in shown and "gateway" not in shown
    before = shown.count("\n")
    mesh.apply(document(links=[("management-portal", "management", "portal", 15101, 8090)]), "-m", "to another port", "--wait")
    mesh.apply({"subsystems": [{"name": "billing"}]}, "-m", "of no interest")
    shown = mesh.ctl("describe", "link", "management-portal").stdout
    assert "to another port" in shown and "of no interest" not in shown and shown.count("\n") == before + 1
    shown = mesh.ctl("describe", "subsystem", "billing").stdout
    assert "of no interest" in shown and "none is connected" in shown and "Links" not in shown
    mesh.apply(document(), "--prune", "--wait")


def test_what_is_weak_stands_there(mesh):
    link = {**document()["links"][0], "permissive": {"port": 18081, "until": "2000-01-01T00:00:00Z"}}
    mesh.apply({"links": [link]}, "--wait")
    assert "Weaker than" not in mesh.ctl("describe", "link", link["name"]).stdout  # its day has passed
    mesh.apply({"profiles": [{"name": "mesh-server", "role": "SERVER", "client_auth": "OPTIONAL"}]}, "--wait")
    assert "client_auth OPTIONAL by mesh-server" in mesh.ctl("describe", "link", link["name"]).stdout
    assert "client_auth OPTIONAL" in mesh.ctl("describe", "profile", "mesh-server").stdout
    mesh.apply(document(), "--prune", "--wait")


def test_several_and_what_there_is_not(mesh):
    done = mesh.ctl("describe", "profile", "mesh-client", "nobody", "mesh-server", check=False)
    assert done.returncode == 1 and 'no profile is called "nobody" (mortisectl get profiles)' in done.stderr
    assert "profile mesh-client\n" in done.stdout and "profile mesh-server\n" in done.stdout
    done = mesh.ctl("describe", "sidecar", "x", check=False)
    assert done.returncode == 2 and 'no kind "sidecar"; there are: ' in done.stderr
    done = mesh.ctl("describe", "link", check=False)
    assert done.returncode == 2
