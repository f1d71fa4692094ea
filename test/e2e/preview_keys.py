"""Without this a look at what a change would do could bring private keys to sidecars that do not have them: without an elevation,
without a record, and with nothing changed that anybody would see. What a sidecar is asked is read by one that keeps all of it.

Drives: C1, F13, R21, R49"""

import pytest

from deploy.lab.mesh import document
from deploy.lab.programs import wait_for
from test.e2e.keystores import SITE, bring, showing, trusting
from test.testlib.odd_sidecar import OddSidecar
from test.testlib.pki import Ca
from test.testlib.stubs import stubs


@pytest.fixture(scope="module")
def root():
    return Ca("site root")


@pytest.fixture
def curious(mesh, request):
    """A sidecar of portal that notes what it is asked and what it is pushed; it says that nothing would end."""
    pb = stubs().discovery
    asked, pushed = [], []

    def answer(question):
        asked.append(question.candidate)
        yield pb.DiscoveryRequest(answer=pb.Answer(id=question.id))

    def take(response):
        pushed.append(response)
        return {"version": response.version}

    made = OddSidecar(mesh, "portal", f"curious-{len(request.node.name)}", answer, take=take)
    made.asked, made.pushed = asked, pushed
    yield made
    made.stop()
    mesh.apply(document(), "--prune")
    wait_for("it is gone", lambda: len(mesh.workloads()) == 4, 30)


def inbound(config):
    return next(link for link in config.inbound.links if link.name == "management-portal")


def test_a_look_brings_no_key_to_where_it_is_not(mesh, curious, root):
    made = root.issue(dns=[SITE])
    mesh.apply(trusting(root), "--wait")
    mesh.ctl("elevate", "--for", "10m", "--reason", "a site")
    bring(mesh, made)
    mesh.ctl("elevate", "--end")
    before = len(curious.pushed)
    done = mesh.apply(showing(root), "--dry-run")
    wait_for("the question", lambda: curious.asked)
    candidate = curious.asked[-1]
    assert inbound(candidate.config).profile == "site-server", "the change itself is asked about"
    assert not candidate.keystore_keys and not candidate.config.keystores and not inbound(candidate.config).keystore
    key = made.key.private_numbers().private_value.to_bytes(32, "big")
    assert not any(key in question.SerializeToString() for question in curious.asked)
    assert not any(key in response.SerializeToString() for response in curious.pushed[:before])
    # The real sidecar beside it can still tell what would end: it refuses nothing.
    assert "refuse" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert not mesh.sidecar("portal").events("push_refused")

    mesh.apply(showing(root))  # the change brings it
    wait_for("the key", lambda: any(response.keystore_keys for response in curious.pushed))
    assert key in curious.pushed[-1].SerializeToString()
    # Where it is it may be asked about.
    number = len(curious.asked)
    doc = showing(root)
    doc["links"][0]["server_port"] = 8099
    mesh.apply(doc, "--dry-run")
    wait_for("another question", lambda: len(curious.asked) > number)
    assert [k.name for k in curious.asked[-1].config.keystores] == ["site"] and len(curious.asked[-1].keystore_keys) == 1
    assert inbound(curious.asked[-1].config).keystore == "site"


def test_one_that_takes_another_ones_place_is_no_exception(mesh, curious, root):
    """The name is known, the key is not."""
    first, second = (root.issue(dns=[SITE]) for _ in range(2))
    mesh.apply(trusting(root), "--wait")
    mesh.ctl("elevate", "--for", "10m", "--reason", "a site")
    bring(mesh, first)
    bring(mesh, second, name="other")
    mesh.apply(showing(root), "--wait", "--timeout", "20s", check=False)
    wait_for("the key", lambda: any(response.keystore_keys for response in curious.pushed))
    doc = showing(root)
    doc["profiles"][-1]["keystore"] = "other"
    number = len(curious.asked)
    mesh.apply(doc, "--dry-run")
    wait_for("the question", lambda: len(curious.asked) > number)
    key = second.key.private_numbers().private_value.to_bytes(32, "big")
    assert not any(key in question.SerializeToString() for question in curious.asked)
