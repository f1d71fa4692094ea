"""Without this a pod would need a token that somebody brings to it, or any token of the cluster would make a sidecar. The
cluster's issuer signs for real; a pod gets the certificate of its namespace and service account, and nothing else does.

Drives: F9, R43"""
import json
import subprocess

import pytest

from deploy.lab.programs import Program, own_environment, wait_for
from test.testlib.control import LoneControl
from test.testlib.oidc import Issuer, Key
from test.testlib.static import free_port

PORTAL = "spiffe://lone.test/ns/apim/sa/portal"


class Cluster(Issuer):
    NAME, AUDIENCE = "https://kubernetes.default.svc.cluster.local", "mortise"

    def pod(self, namespace="apim", account="portal", key=None, life_s=600, header=None, pod=True, **claims):
        """A projected token, as kube-apiserver makes it."""
        own = {"namespace": namespace, "node": {"name": "n", "uid": "6c5d"}, "serviceaccount": {"name": account, "uid": "2b3c"},
               "warnafter": 1}
        if pod:
            own["pod"] = {"name": f"{account}-7d9f-x2k", "uid": f"0f1e-{account}"}
        claims = {"aud": [self.AUDIENCE], "kubernetes.io": own, "jti": "7", **claims}
        return self.token(claims.pop("sub", f"system:serviceaccount:{namespace}:{account}"), key, life_s, header, **claims)


class Site:
    def __init__(self, folder):
        self.folder, self.cluster = folder, Cluster(Key("rsa", "RS256"))
        self.control, self.number, self.sent = LoneControl(folder), 0, []
        self.keys = folder / "jwks.json"
        self.keys.write_bytes(self.cluster.jwks())

    def start(self, *flags):
        self.control.start(*flags)
        self.roots = self.folder / "roots.pem"
        self.roots.write_text(self.control.ctl("roots"))
        return self

    def apply(self):
        document = {"subsystems": [{"name": "portal", "namespace": "apim"}, {"name": "gateway", "namespace": "edge"},
                                   {"name": "analytics"}],
                    "links": [{"name": "portal-gateway", "client": "portal", "server": "gateway", "client_port": 15101,
                               "server_port": 8080}]}
        path = self.folder / "mesh.yaml"
        path.write_text(json.dumps(document))
        self.control.ctl("apply", "-f", path, "--allow-weaker")

    def sidecar(self, token, *flags, mode=0o644):
        """Not waited for."""
        self.number += 1
        path = self.folder / f"token-{self.number}"
        path.write_text(token + "\n")
        path.chmod(mode)  # as the kubelet leaves it for whoever runs in the pod
        self.sent.append(token)
        return Program(f"proxy-{self.number}", [
            self.control.bin.proxy, "--control", f"127.0.0.1:{self.control.port}", "--trust-domain", LoneControl.TRUST_DOMAIN,
            "--trust-bundle", self.roots, "--service-account-token-file", path, "--inbound-listen", f"127.0.0.1:{free_port()}",
            *flags], self.folder)

    def certificates(self):
        found = self.control.ctl("audit", "search", "--action", "certificate.issue", "-o", "json")
        return [record for record in map(json.loads, found.splitlines()) if record.get("serial")]


@pytest.fixture(scope="module")
def site(folder):
    made = Site(folder).start("--kubernetes-issuer", Cluster.NAME, "--kubernetes-keys-file", folder / "jwks.json",
                              "--kubernetes-namespace", "apim", "--kubernetes-namespace", "edge")
    made.apply()
    yield made
    made.control.stop()


def test_a_pod_gets_the_certificate_of_its_service_account(site):
    sidecar = site.sidecar(site.cluster.pod())
    try:
        sidecar.wait_ready()
        assert sidecar.config()["identity"]["spiffe_id"] == PORTAL
        record = site.certificates()[-1]
        assert record["who"] == "pod apim/portal-7d9f-x2k (0f1e-portal)" and record["object"] == PORTAL, record
    finally:
        sidecar.stop()


def test_the_same_token_serves_a_restarted_sidecar(site):
    """Not a one-time token: the kubelet's is good for as long as the cluster says."""
    token = site.cluster.pod()
    for _ in range(2):
        sidecar = site.sidecar(token)
        sidecar.wait_ready()
        sidecar.stop()


def test_each_service_account_has_its_own(site):
    sidecar = site.sidecar(site.cluster.pod("edge", "gateway"))
    try:
        sidecar.wait_ready()
        assert sidecar.config()["identity"]["spiffe_id"] == "spiffe://lone.test/ns/edge/sa/gateway"
    finally:
        sidecar.stop()


REFUSED = {
    "audience": (dict(aud=["https://kubernetes.default.svc.cluster.local"]), "jwt_audience"),
    "issuer": (dict(iss="https://elsewhere.example"), "jwt_issuer"),
    "expired": (dict(life_s=-1), "jwt_expired"),
    "not yet": (dict(nbf=4000000000), "jwt_not_yet_valid"),
    "no pod": (dict(pod=False), "token_unbound"),
    "no subsystem": (dict(account="builder"), "peer_denied"),
    "another namespace": (dict(namespace="default"), "peer_denied"),
    "a namespace that nobody has named": (dict(namespace="default", account="analytics"), "peer_denied"),
    "another subject": (dict(sub="system:serviceaccount:apim:gateway"), "jwt_claim"),
    "a user": (dict(sub="kubernetes-admin"), "jwt_claim"),
    "unknown key": (dict(key=Key("other", "RS256")), "jwt_key_unknown"),
    "another's key under the known name": (dict(key=Key("rsa", "RS256")), "jwt_signature"),
    "critical header": (dict(header={"crit": ["b64"], "b64": False}), "jwt_critical"),
    "path in the name": (dict(account="../portal"), "jwt_claim"),
}


def refusal(site, token):
    before = len(site.certificates())
    sidecar = site.sidecar(token)
    try:
        found = wait_for("it is refused", lambda: [e for e in sidecar.events() if e.get("event") == "attest_failed"])
        assert not sidecar.ready()
        assert len(site.certificates()) == before
        assert all("PERMISSION_DENIED" in e["reason"] for e in found), found
        return json.dumps(found)
    finally:
        sidecar.stop()


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_right_gets_nothing(site, what):
    change, code = REFUSED[what]
    assert code in refusal(site, site.cluster.pod(**change))


def test_what_nobody_signed_gets_nothing(site):
    cluster = site.cluster
    assert "jwt_algorithm" in refusal(site, cluster.bare("system:serviceaccount:apim:portal"))
    assert "jwt_algorithm" in refusal(site, cluster.confused("system:serviceaccount:apim:portal", cluster.keys[0].pem()))
    good = cluster.pod()
    head, payload, signature = good.split(".")
    other = cluster.pod("edge", "gateway").split(".")[1]
    assert "jwt_signature" in refusal(site, f"{head}.{other}.{signature}")
    assert "jwt_" in refusal(site, f"{head}.{payload}.")


def test_a_key_that_the_cluster_no_longer_has_is_good_for_nothing(site):
    old = site.cluster.keys[0]
    site.cluster.keys = [Key("next", "ES256")]
    try:
        site.keys.write_bytes(site.cluster.jwks())
        wait_for("the new keys are read", lambda: any(e.get("event") == "keys" and e.get("withdrawn") == 1
                                                      for e in site.control.program.events()))
        sidecar = site.sidecar(site.cluster.pod())
        sidecar.wait_ready()
        sidecar.stop()
        assert "jwt_key_unknown" in refusal(site, site.cluster.pod(key=old))
    finally:
        site.cluster.keys = [old]
        site.keys.write_bytes(site.cluster.jwks())


def test_no_token_is_in_a_log(site):
    assert len(site.sent) > 10 and list(site.folder.glob("*.log"))
    for path in site.folder.glob("*.log"):
        text = path.read_text(errors="replace")
        for token in site.sent:
            assert token not in text and token.split(".")[2][:40] not in text or not token.split(".")[2], path


def test_without_an_issuer_no_such_token_is_taken(folder, tmp_path):
    site = Site(tmp_path).start()
    try:
        assert "jwt_unwanted" in refusal(site, site.cluster.pod())
    finally:
        site.control.stop()


@pytest.mark.parametrize("flags, words", (
    (["--kubernetes-issuer", "https://k.example", "--kubernetes-keys-file", "/x"], "--kubernetes-namespace: is needed"),
    (["--kubernetes-issuer", "https://k.example", "--kubernetes-keys-file", "/x", "--kubernetes-namespace", "a", "--oidc-issuer",
      "https://k.example", "--oidc-audience", "mortise", "--oidc-keys-file", "/x"], "--kubernetes-audience: \"mortise\" of the same"),
    (["--kubernetes-issuer", "https://k.example"], "--kubernetes-keys-file: with --kubernetes-issuer, either the file"),
    (["--kubernetes-keys-file", "/x"], "--kubernetes-issuer: is needed with what else is given of --kubernetes-"),
    (["--kubernetes-issuer", "k.example", "--kubernetes-keys-file", "/x"], "--kubernetes-issuer: \"k.example\" is not an issuer"),
    (["--kubernetes-issuer", "https://k.example", "--kubernetes-keys-url", "http://k"], "--kubernetes-keys-url: \"http://k\""),
))
def test_what_is_wrong_is_named(site, flags, words):
    done = subprocess.run([site.control.bin.control, "--config", site.control.data / "control.yaml", "--check", *flags],
                          capture_output=True, text=True, env=own_environment(), timeout=30, check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_a_sidecar_takes_one_kind_of_token(site):
    done = subprocess.run([site.control.bin.proxy, "--control", "127.0.0.1:1", "--trust-domain", "lone.test", "--trust-bundle",
                           site.roots, "--service-account-token-file", "/x", "--join-token-file", "/y", "--check"],
                          capture_output=True, text=True, env=own_environment(), timeout=30, check=False)
    assert done.returncode == 2 and "--service-account-token-file: and a join token are both given" in done.stderr
