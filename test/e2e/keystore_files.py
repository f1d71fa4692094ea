"""Without this a certificate that somebody else renews on a sidecar's disk would never be shown, or a half of it would; whoever
writes the mesh's document could have a sidecar read what its operator never meant to show; and nobody would hear of files that are
broken or near their end before the peers do.

Drives: A7, A13, C1, F3, R10, R25, R36"""
import json
import os
import shutil
import time

import pytest

from deploy.lab.mesh import Mesh, SUBSYSTEMS, document
from deploy.lab.programs import wait_for
from test.e2e.keystores import SITE, as_base64, partners, shown, text
from test.testlib.pki import Ca, pem_of_key

REFUSED = "mortise_keystores_refused"


@pytest.fixture(scope="module")
def keystore_dir(tmp_path_factory):
    """The folder that the portal's sidecar is started with."""
    return tmp_path_factory.mktemp("keystores")


@pytest.fixture(scope="module")
def mesh(folder, network, binaries, keystore_dir):
    """The portal's sidecar alone is allowed to read keystores from its disk."""
    made = Mesh(folder, network, binaries)
    try:
        made.start_control()
        made.apply(document())
        for subsystem in SUBSYSTEMS:
            made.start_sidecar(subsystem, *(["--keystore-dir", keystore_dir] if subsystem == "portal" else []))
        made.wait_in_sync(4)
        yield made
    finally:
        made.stop()


@pytest.fixture
def root():
    return Ca("site root")


@pytest.fixture(autouse=True)
def as_before(request, mesh, keystore_dir):
    yield
    mesh.apply(document(), "--prune")
    mesh.wait_in_sync(4)
    if "unharmed" in request.fixturenames:  # who came by the CA that is gone has to come again
        request.getfixturevalue("traffic").more(5)
    for entry in keystore_dir.iterdir():
        entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def put_file(folder, name, data, mode=0o600):
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}"
    fresh.touch(mode=mode)
    fresh.chmod(mode)
    fresh.write_bytes(data)
    fresh.rename(folder / name)


def put(keystore_dir, made, folder="site", mode=0o600):
    put_file(keystore_dir / folder, "tls.crt", made.pem, 0o644)
    put_file(keystore_dir / folder, "tls.key", pem_of_key(made.key), mode)


def trusting(root):
    doc = partners(text(root))
    doc["profiles"][-1] = {"name": "site-client", "role": "CLIENT", "min_version": "TLS1_3", "truststore": "partners",
                           "peer_names": [SITE]}
    doc["links"][0].pop("server_profile")
    doc["links"][0].update(client_profile="site-client", server_profile="mesh-server")
    return doc


def showing(root, keystore="site", **fields):
    doc = trusting(root)
    doc["keystores"] = [{"name": keystore, "folder": "site", **fields}]
    doc["profiles"].append({"name": "site-server", "role": "SERVER", "min_version": "TLS1_3", "keystore": keystore})
    doc["links"][0]["server_profile"] = "site-server"
    return doc


def told(mesh, subsystem="portal"):
    """What the control plane has heard of the sidecar's files."""
    found = [w for w in mesh.workloads() if w["subsystem"] == subsystem]
    return found[0]["status"].get("keystores", [])


def refusal(mesh):
    found = told(mesh)
    return found and found[0].get("refused", "")


def row(mesh, *flags):
    lines = mesh.ctl("get", "keystores", *flags).stdout.splitlines()
    return next(line for line in lines if line.startswith("site"))


def test_a_sidecar_comes_back_with_its_files(mesh, keystore_dir, root):
    """Even with one that has expired meanwhile, which takes no other link down with it."""
    put(keystore_dir, root.issue(dns=[SITE], name="brief", valid_s=4))
    mesh.apply(trusting(root), "--wait")
    mesh.apply(showing(root), "--wait")
    end = time.time() + 4
    wait_for("its end", lambda: time.time() > end + 1)
    mesh.sidecar("portal").stop()
    mesh.start_sidecar("portal", "--keystore-dir", keystore_dir)
    mesh.wait_in_sync(4)
    assert told(mesh)[0]["subject"] == "CN=brief"
    finding = [f for f in json.loads(mesh.ctl("check", "-o", "json", check=False).stdout)["findings"]
               if f["name"] == "keystores and truststores"]
    assert finding[0]["state"] == "FAILED" and "has expired" in finding[0]["text"]
    again = root.issue(dns=[SITE], name="again")
    put(keystore_dir, again)
    wait_for("a good one", lambda: shown(mesh) == as_base64(again.pem))


def test_files_are_shown_and_what_takes_their_place(mesh, unharmed, keystore_dir, root):
    first, second = (root.issue(dns=[SITE], name=f"site {n}") for n in ("one", "two"))
    put(keystore_dir, first)
    mesh.apply(trusting(root), "--wait")
    mesh.apply(showing(root), "--wait")
    unharmed.more(3)
    assert shown(mesh) == as_base64(first.pem)
    said = wait_for("it is told", lambda: told(mesh))
    assert said[0]["name"] == "site" and said[0]["subject"] == "CN=site one" and said[0]["dns_name"] == SITE
    assert int(said[0]["not_after"]) == int(first.cert.not_valid_after_utc.timestamp())
    assert "files" in row(mesh) and "CN=site one" in row(mesh) and SITE in row(mesh)
    done = mesh.ctl("get", "keystores", "site", "-o", "pem", check=False)
    assert done.returncode == 1 and "files on its sidecars' disks" in done.stderr
    # Another one in its place: nothing is pushed, new connections show it, and nobody loses one.
    version = mesh.version()
    put(keystore_dir, second)
    wait_for("the other one", lambda: shown(mesh) == as_base64(second.pem))
    unharmed.more(3)
    assert mesh.version() == version
    wait_for("it is told", lambda: told(mesh)[0]["subject"] == "CN=site two")
    series = [s for s in mesh.control.metrics() if 'role="keystore"' in s and "not_after" in s]
    assert len(series) == 1 and 'instance="site"' in series[0]
    metrics = mesh.sidecar("portal").metrics()
    assert any('role="keystore"' in s and second.serial in s for s in metrics) and metrics[REFUSED] == 0


def test_a_mounted_secret_is_followed(mesh, unharmed, keystore_dir, root):
    """As Kubernetes does it: the files are behind a link to a folder that is swapped."""
    made = [root.issue(dns=[SITE], name=f"mounted {n}") for n in range(3)]
    mount = keystore_dir / "site"

    def swap(number):
        data = mount / f"..{number}"
        data.mkdir(parents=True)
        put_file(data, "tls.crt", made[number].pem, 0o644)
        put_file(data, "tls.key", pem_of_key(made[number].key))
        os.symlink(data.name, mount / "..fresh")
        os.rename(mount / "..fresh", mount / "..data")

    swap(0)
    for name in ("tls.crt", "tls.key"):
        os.symlink(f"..data/{name}", mount / name)
    mesh.apply(trusting(root), "--wait")
    mesh.apply(showing(root), "--wait")
    for number in (1, 2):
        swap(number)
        wait_for(f"number {number}", lambda n=number: shown(mesh) == as_base64(made[n].pem))
    unharmed.more(3)


@pytest.mark.parametrize("fault", ["half", "broken", "readable", "gone", "expired", "nameless", "weak"])
def test_what_is_no_keystore_stays_out_and_the_former_in(mesh, unharmed, keystore_dir, root, fault):
    good = root.issue(dns=[SITE], name="good")
    put(keystore_dir, good)
    mesh.apply(trusting(root), "--wait")
    mesh.apply(showing(root), "--wait")
    folder = keystore_dir / "site"
    said = "belongs to none of the 1 certificates"
    if fault == "half":
        put_file(folder, "tls.crt", root.issue(dns=[SITE]).pem)
    elif fault == "broken":
        put_file(folder, "tls.crt", good.pem[:100])
        said = "tls.crt: line"
    elif fault == "readable":
        put(keystore_dir, root.issue(dns=[SITE]), mode=0o644)
        said = "tls.key: may be read or changed by others"
    elif fault == "gone":
        (folder / "tls.key").unlink()
        said = "tls.key: "
    elif fault == "expired":
        put(keystore_dir, root.issue(dns=[SITE], valid_s=-60))
        said = "expired"
    elif fault == "nameless":
        put(keystore_dir, root.issue(name="nameless"))
        said = "has no DNS name"
    else:
        put(keystore_dir, root.issue(dns=[SITE], key="rsa1024"))
        said = "tls.key: 1024 bits"
    wait_for("it is refused", lambda: said in (refusal(mesh) or ""))
    portal = mesh.sidecar("portal")
    assert portal.metrics()[REFUSED] == 1
    event = portal.events("keystore_refused")[-1]
    assert event["keystore"] == "site" and said in event["reason"] and event["level"] == "warn"
    assert "BEGIN" not in portal.tail(200)
    assert shown(mesh) == as_base64(good.pem)
    assert "files, refused by 1 of 1" in row(mesh)
    finding = [f for f in json.loads(mesh.ctl("check", "-o", "json", check=False).stdout)["findings"]
               if f["name"] == "keystore files"]
    assert finding[0]["state"] == "WARNING"
    # Another change is not kept from coming by it.
    doc = showing(root)
    doc["links"][0]["description"] = f"in spite of {fault}"
    mesh.apply(doc, "--wait")
    unharmed.more(3)
    assert shown(mesh) == as_base64(good.pem)
    again = root.issue(dns=[SITE], name="again")
    put(keystore_dir, again)
    wait_for("a good one", lambda: shown(mesh) == as_base64(again.pem))
    wait_for("it is over", lambda: refusal(mesh) == "" and portal.metrics()[REFUSED] == 0)


def test_what_is_missing_at_first_is_refused_and_comes_when_it_is_there(mesh, unharmed, keystore_dir, root):
    mesh.apply(trusting(root), "--wait")
    before = shown(mesh)
    done = mesh.apply(showing(root), "--wait", "--timeout", "10s", check=False)
    assert done.returncode != 0 and "keystores[0].folder: site/tls.crt: " in done.stdout + done.stderr, done.stdout + done.stderr
    assert "No such file" in done.stdout + done.stderr
    unharmed.more(3)
    assert shown(mesh) == before, "what was in force is"
    made = root.issue(dns=[SITE])
    put(keystore_dir, made)
    mesh.wait_in_sync(4)  # without another change
    assert shown(mesh) == as_base64(made.pem)


def test_an_expired_one_is_no_way_in_for_a_running_sidecar(mesh, keystore_dir, root):
    put(keystore_dir, root.issue(dns=[SITE], valid_s=-60))
    mesh.apply(trusting(root), "--wait")
    done = mesh.apply(showing(root), "--wait", "--timeout", "10s", check=False)
    assert done.returncode != 0 and "expired" in done.stdout + done.stderr
    assert "keystores[0].folder" in done.stdout + done.stderr


def test_no_document_leads_out_of_the_folder(mesh, keystore_dir, root):
    """Nor into a sidecar that was started without one."""
    made = root.issue(dns=[SITE])
    put(keystore_dir, made)
    version = mesh.version()
    for folder in ("../site", "/etc", "..", "site/..", "Site", "a.b", "-", "x" * 64, "site\n"):
        done = mesh.apply(showing(root, folder=folder), check=False)
        assert done.returncode == 1 and "keystores[0].folder" in done.stderr and "is not a name" in done.stderr, done.stderr
    for fields in ({"issued": True}, {"chain_pem": made.pem.decode(), "key_sha256": "0" * 64}):
        done = mesh.apply(showing(root, **fields), check=False)
        assert done.returncode == 1 and "goes without issued, chain_pem and key_sha256" in done.stderr
    assert mesh.version() == version
    # The other end of that link is the management's sidecar, which reads no keystore from its disk.
    doc = document()
    doc["truststores"] = [{"name": "partners", "mesh_roots": True, "pem": [text(root)]}]
    doc["keystores"] = [{"name": "site", "folder": "site"}]
    doc["profiles"] += [{"name": "site-client", "role": "CLIENT", "min_version": "TLS1_3", "keystore": "site"},
                        {"name": "partners-server", "role": "SERVER", "min_version": "TLS1_3", "truststore": "partners",
                         "peer_names": [SITE]}]
    doc["links"][0].update(client_profile="site-client", server_profile="partners-server")
    done = mesh.apply(doc, "--wait", "--timeout", "10s", check=False)
    assert done.returncode != 0 and "--keystore-dir" in done.stdout + done.stderr, done.stdout + done.stderr


def test_both_ends_are_compared_as_far_as_it_is_known(mesh, root):
    doc = showing(root)
    doc["links"][0]["client_profile"] = "mesh-client"
    done = mesh.apply(doc, check=False)
    assert done.returncode == 1 and 'shows keystore "site", which CAs of others vouch for' in done.stderr


def test_its_key_is_with_the_sidecar_alone(mesh, keystore_dir, root):
    made = root.issue(dns=[SITE])
    put(keystore_dir, made)
    mesh.apply(trusting(root), "--wait")
    mesh.apply(showing(root), "--wait")
    shown_to_anybody = [mesh.ctl("get", "mesh", "-o", "json").stdout, mesh.ctl("get", "workloads", "-o", "json").stdout,
                        mesh.ctl("export").stdout, json.dumps(mesh.sidecar("portal").config())]
    for said in shown_to_anybody:
        assert "PRIVATE KEY" not in said and made.pem.decode().splitlines()[1] not in said
    stores = [path for path in (mesh.folder / "control").rglob("*") if path.is_file() and not path.is_socket()]
    key = made.key.private_numbers().private_value.to_bytes(32, "big")
    assert stores and not any(key in path.read_bytes() for path in stores)
