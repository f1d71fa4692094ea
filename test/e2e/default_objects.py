"""Without this what an installation is documented to begin with could be missing, be changed under everybody who relies on it, or
be a name that stands for nothing: each object of it is looked for, attacked, copied, and used.

Drives: A1, A7, A8, A9, D7"""
import pytest

from deploy.lab.mesh import LINKS, Mesh
from deploy.lab.programs import wait_for

CLIENTS = {  # client profile: keystore, truststore
    "analytics-ingestion-client": ("analytics-ingestion", "analytics-ingestion"),
    "portal-director-client": ("portal-director", "portal-director"),
    "gateway-management-client": ("gateway-management", "gateway-management-client"),
}
OF_LINK = {"management-portal": "portal-director-client", "management-gateway": "gateway-management-client",
           "management-analytics": "analytics-ingestion-client", "gateway-analytics": "analytics-ingestion-client"}
OBJECTS = {
    "profile": ["default-tls-client", "default-tls-server", *CLIENTS],
    "keystore": ["analytics-ingestion", "portal-director", "gateway-management", "default-tls-server"],
    "truststore": ["analytics-ingestion", "portal-director", "gateway-management-client"],
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, network, binaries):
    """As `mortisectl init` leaves it, with nothing applied."""
    mesh = Mesh(tmp_path_factory.mktemp("fresh"), network, binaries, control_host="gateway")
    mesh.start_control()
    yield mesh
    mesh.stop()


def whole(mesh):
    return mesh.ctl_json("get", "mesh")


def objects(mesh, kind):
    return {item["name"]: item for item in whole(mesh)["mesh"].get(f"{kind}s", [])}


def test_every_default_object_is_there(fresh):
    for kind, names in OBJECTS.items():
        assert set(names) <= set(objects(fresh, kind)), kind
    links = objects(fresh, "link")
    assert set(links) == {name for name, *_ in LINKS} == set(OF_LINK)
    for name, client, server, _, _ in LINKS:
        assert (links[name]["client"], links[name]["server"]) == (client, server)
        assert links[name]["client_profile"] == OF_LINK[name]
    for name, (keystore, truststore) in CLIENTS.items():
        profile = objects(fresh, "profile")[name]
        assert (profile["role"], profile["keystore"], profile["truststore"]) == ("CLIENT", keystore, truststore)
        assert objects(fresh, "keystore")[keystore]["issued"] and objects(fresh, "truststore")[truststore]["mesh_roots"]
    shown = {line.split()[0]: line.split() for line in fresh.ctl("get", "profiles").stdout.splitlines()[1:]}
    assert all(shown[name][-1] == "yes" for name in OBJECTS["profile"])


@pytest.mark.parametrize("kind, name", [(kind, name) for kind, names in OBJECTS.items() for name in names])
def test_none_of_them_can_be_changed_or_deleted(fresh, kind, name):
    before = whole(fresh)
    done = fresh.ctl("delete", kind, name, check=False)
    assert done.returncode == 1 and f"mortisectl clone {kind} {name} NEW_NAME" in done.stderr, done.stderr
    item = {**objects(fresh, kind)[name], "description": "mine"}
    done = fresh.apply({f"{kind}s": [item]}, check=False)
    assert done.returncode == 1 and f'{kind}s[0].name: "{name}" is built in and cannot be changed: clone it' in done.stderr
    assert whole(fresh) == before


def test_pruning_leaves_them(fresh):
    before = whole(fresh)["mesh"]
    rest = {kind: before[kind] for kind in ("subsystems", "links")}
    fresh.apply(rest, "--prune")
    for kind, names in OBJECTS.items():
        assert set(names) <= set(objects(fresh, kind))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_copy_can_be_changed_with_what_it_refers_to(fresh, name):
    keystore, truststore = CLIENTS[name]
    copy = f"own-{name}"
    fresh.ctl("clone", "profile", name, f"{copy}-shares")
    assert objects(fresh, "profile")[f"{copy}-shares"]["truststore"] == truststore
    fresh.ctl("clone", "profile", name, copy, "--with-stores")
    made = objects(fresh, "profile")[copy]
    assert made == {**objects(fresh, "profile")[name], "name": copy, "keystore": copy, "truststore": copy}
    assert objects(fresh, "keystore")[copy] == {**objects(fresh, "keystore")[keystore], "name": copy}
    assert objects(fresh, "truststore")[copy] == {**objects(fresh, "truststore")[truststore], "name": copy}
    fresh.apply({"profiles": [{**made, "min_version": "TLS1_3"}],
                 "truststores": [{"name": copy, "mesh_roots": True, "description": "mine"}]})
    done = fresh.ctl("delete", "truststore", copy, check=False)
    assert done.returncode == 1 and f"profile {copy}: truststore" in done.stderr
    for kind, which in (("profile", copy), ("profile", f"{copy}-shares"), ("keystore", copy), ("truststore", copy)):
        fresh.ctl("delete", kind, which)


def test_a_copy_with_stores_is_made_whole_or_not_at_all(fresh):
    fresh.ctl("clone", "truststore", "portal-director", "taken")
    before = whole(fresh)
    for args, said in ((("profile", "portal-director-client", "taken"), 'there is a truststore "taken" already'),
                       (("profile", "default-tls-client", "other"), "names neither a keystore nor a truststore"),
                       (("truststore", "portal-director", "other"), "--with-stores is for profiles")):
        done = fresh.ctl("clone", *args, "--with-stores", check=False)
        assert done.returncode == 1 and said in done.stderr, done.stderr
    assert whole(fresh) == before
    fresh.ctl("delete", "truststore", "taken")


def test_links_run_with_them_and_with_their_copies(mesh, unharmed):
    """The mesh of the other tests has profiles of its own: its links are given those that an installation has."""
    from deploy.lab.mesh import document

    def run(names):
        doc = document()
        for link in doc["links"]:
            link["client_profile"] = names[link["name"]]
            link["server_profile"] = "default-tls-server"
        mesh.apply(doc, "--wait")
        seen = sum(len(mesh.sidecar(who).events("connection")) for who in ("management", "gateway"))
        unharmed.more(5)
        wait_for("connections", lambda: sum(len(mesh.sidecar(who).events("connection"))
                                            for who in ("management", "gateway")) > seen)

    run(OF_LINK)
    for name in CLIENTS:
        mesh.ctl("clone", "profile", name, f"own-{name}", "--with-stores")
    run({link: f"own-{name}" for link, name in OF_LINK.items()})
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)
