"""Without this only our own programs could talk to the control plane, and nobody would know what a hostile one can
do: Python's gRPC and grpcurl call the services, in order and out of order.

Drives: F2, F16, R5, R14, R35, R36, R37, R44, R46, R62"""
import hashlib
import os
import subprocess
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from deploy.lab.programs import wait_for
from test.testlib.odd_sidecar import OddSidecar
from test.testlib.stubs import stubs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", name="stubs")
def made_stubs():
    return stubs()


def csr(key=None, uris=(), **names):
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, names.get("cn", "x"))]))
    if uris:
        builder = builder.add_extension(x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(u) for u in uris]), critical=False)
    if names.get("ca"):
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return key, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def server(mesh):
    """The operator socket: all services are on it, under the same rules."""
    return f"unix:{mesh.socket}"


def attest(mesh, stubs, request):
    with grpc.insecure_channel(f"unix:{mesh.socket}") as link:
        return stubs.identity_grpc.IdentityServiceStub(link).Attest(request, timeout=5)


def test_grpcio_calls_the_operator_service(mesh, stubs, server):
    with grpc.insecure_channel(server) as link:
        stub = stubs.operator_grpc.OperatorServiceStub(link)
        status = stub.Status(stubs.operator.StatusRequest(), timeout=5)
        assert status.trust_domain == "mesh.test" and status.links == 4
        names = {link.name for link in stub.GetMesh(stubs.operator.GetMeshRequest(),
                                                    timeout=5).mesh.links}
        assert "management-portal" in names


def test_grpcurl_calls_it_too(mesh, server):
    tool = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mortise"
    found = sorted(tool.rglob("grpcurl"))
    assert found, "grpcurl is missing: test/install test"
    done = subprocess.run([found[-1], "-plaintext", "-unix", "-import-path", ROOT, "-proto",
                           "proto/mesh/operator.proto", str(mesh.socket),
                           "mortise.v1.OperatorService/Status"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"trustDomain": "mesh.test"' in done.stdout


def pages(call, request):
    """What a list that comes in pages gives, a list for each page."""
    while True:
        page = call(request, timeout=5)
        yield list(page.ListFields()[0][1]) if page.ByteSize() else []
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def test_lists_come_in_pages(mesh, stubs, server):
    with grpc.insecure_channel(server) as link:
        stub = stubs.operator_grpc.OperatorServiceStub(link)
        for call, request, name in ((stub.ListWorkloads, stubs.operator.ListWorkloadsRequest, "instance"),
                                    (stub.ListCertificates, stubs.operator.ListCertificatesRequest, "serial")):
            whole, = pages(call, request())
            assert len(whole) >= 4
            for size in (1, 3):
                parts = list(pages(call, request(page_size=size)))
                assert all(len(part) <= size for part in parts)
                assert [getattr(item, name) for part in parts for item in part] == [
                    getattr(item, name) for item in whole]


def test_who_stays_is_on_one_page_whoever_comes_and_goes(mesh, stubs, server):
    """Between two pages one that was told goes, the one that the token names; one that was not goes, and a new one comes."""
    odd = {name: OddSidecar(mesh, "portal", name, lambda q: []) for name in ("told", "untold", "last")}
    try:
        with grpc.insecure_channel(server) as link:
            stub = stubs.operator_grpc.OperatorServiceStub(link)
            here = [w.instance for page in pages(stub.ListWorkloads, stubs.operator.ListWorkloadsRequest()) for w in page]
            size = here.index("told") + 1
            assert here.index("untold") >= size
            request = stubs.operator.ListWorkloadsRequest(page_size=size)
            page = stub.ListWorkloads(request, timeout=5)
            first = [w.instance for w in page.workloads]
            odd.pop("told").stop()
            odd.pop("untold").stop()
            wait_for("both are gone", lambda: not {"told", "untold"} & {w["instance"] for w in mesh.workloads()}, 30)
            odd["late"] = OddSidecar(mesh, "portal", "late", lambda q: [])
            request.page_token = page.next_page_token
            rest = [w.instance for page in pages(stub.ListWorkloads, request) for w in page]
        assert first == here[:size]
        assert rest == [name for name in here[size:] if name != "untold"] + ["late"]
    finally:
        for sidecar in odd.values():
            sidecar.stop()
    wait_for("they are gone", lambda: len(mesh.workloads()) == 4, 30)


@pytest.mark.parametrize("token", ["x", "-1", "0", "1x", "9" * 30, "1" * 60000, "1", "00000000-1"])
def test_a_page_token_of_nobodys_is_refused_or_leads_nowhere(mesh, stubs, server, token):
    with grpc.insecure_channel(server) as link:
        stub = stubs.operator_grpc.OperatorServiceStub(link)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListWorkloads(stubs.operator.ListWorkloadsRequest(page_token=token), timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith("page_token: ")
        request = stubs.operator.ListCertificatesRequest(page_token=token)
        if len(token) <= 40:  # as long as a serial number: the certificates behind that one, if there are any
            assert all(c.serial > token for c in stub.ListCertificates(request, timeout=5).certificates)
        else:
            with pytest.raises(grpc.RpcError) as caught:
                stub.ListCertificates(request, timeout=5)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_mortisectl_shows_what_no_single_page_holds(mesh, stubs, server):
    key, request = csr()
    with grpc.insecure_channel(server) as link:
        stub = stubs.operator_grpc.OperatorServiceStub(link)
        wanted = stubs.operator.IssueAdminRequest(name="many", csr=request)
        for issued in [stub.IssueAdmin.future(wanted, timeout=60) for _ in range(1050)]:
            issued.result()
        whole = list(pages(stub.ListCertificates, stubs.operator.ListCertificatesRequest()))
    assert len(whole) == 2
    shown = mesh.ctl_json("get", "certificates")["certificates"]
    assert sorted(c["serial"] for c in shown) == [c.serial for page in whole for c in page]
    issued = [int(c["issued_at"]) for c in shown]
    assert issued == sorted(issued, reverse=True)


def test_rotation_streams_progress_to_grpcio(mesh, stubs, server):
    with grpc.insecure_channel(server) as link:
        stub = stubs.operator_grpc.OperatorServiceStub(link)
        seen = list(stub.Rotate(stubs.operator.RotateRequest(all=True, wait=True), timeout=30))
    assert seen[-1].done == seen[-1].total == 4
    assert {p.workload.subsystem for p in seen if p.HasField("workload")} == {
        "management", "portal", "analytics", "gateway"}


CSR_TRICKS = {
    "foreign identity": lambda: csr(uris=["spiffe://mesh.test/mortise/control"])[1],
    "two identities": lambda: csr(uris=["spiffe://mesh.test/a", "spiffe://mesh.test/b"])[1],
    "wants to be a CA": lambda: csr(ca=True)[1],
    "a name": lambda: csr(cn="control")[1],
}


@pytest.mark.parametrize("trick", CSR_TRICKS)
def test_what_a_request_asks_for_does_not_matter(mesh, folder, binaries, stubs, trick):
    """The certificate is made of the control plane's record. (Attest over the Unix socket is the same service.)"""
    request = stubs.identity.AttestRequest(join_token=mesh.token("portal"), csr=CSR_TRICKS[trick]())
    try:
        answer = attest(mesh, stubs, request)
    except grpc.RpcError as err:
        assert err.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
        return
    leaf = x509.load_der_x509_certificate(answer.chain[0])
    uris = leaf.extensions.get_extension_for_class(
        x509.SubjectAlternativeName).value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://mesh.test/ns/apim/sa/portal"]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


BAD_REQUESTS = {
    "no csr": lambda: b"",
    "garbage": lambda: os.urandom(300),
    "wrong signature": lambda: (lambda der: der[:-1] + bytes([der[-1] ^ 1]))(csr()[1]),
    "weak key": lambda: csr(rsa.generate_private_key(65537, 1024))[1],
    "huge": lambda: csr(cn="x" * 60)[1] + b"\0" * 20000,
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_bad_requests_are_refused_and_the_token_is_not_used_up(mesh, stubs, what):
    token = mesh.token("portal")
    with pytest.raises(grpc.RpcError) as caught:
        attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=BAD_REQUESTS[what]()))
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT,
                                   grpc.StatusCode.RESOURCE_EXHAUSTED), caught.value
    answer = attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=csr()[1]))
    assert answer.spiffe_id.endswith("/portal")


@pytest.mark.parametrize("token", ["", "mjt1.", "mjt1.AAAA", "x" * 5000, "mjt1.\u00e9", "null"])
def test_bad_tokens_get_a_stable_code_and_nothing_else(mesh, stubs, token):
    with pytest.raises(grpc.RpcError) as caught:
        attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=csr()[1]))
    assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED,
                                   grpc.StatusCode.INVALID_ARGUMENT)
    assert len(caught.value.details()) < 100 and "/" not in caught.value.details()


def test_the_same_key_may_ask_again_another_may_not(mesh, stubs):
    token = mesh.token("portal")
    key, request = csr()
    first = attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=request))
    again = attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=csr(key)[1]))
    assert first.spiffe_id == again.spiffe_id
    with pytest.raises(grpc.RpcError) as caught:
        attest(mesh, stubs, stubs.identity.AttestRequest(join_token=token, csr=csr()[1]))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "token_used" in caught.value.details()


def come_back(mesh, stubs, certificate, its_key, key):
    """With an earlier certificate and its key, for another key."""
    request = csr(key)[1]
    said = b"mortise-rejoin/1\0" + hashlib.sha256(certificate).digest() + hashlib.sha256(request).digest()
    last = stubs.identity.LastCertificate(certificate=certificate, signature=its_key.sign(said, ec.ECDSA(hashes.SHA256())))
    return attest(mesh, stubs, stubs.identity.AttestRequest(last_certificate=last, csr=request))


def test_a_certificate_that_was_followed_opens_no_door_again(mesh, stubs):
    """A key that leaked long ago must not come back as its subsystem when that has another one since."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    first = attest(mesh, stubs, stubs.identity.AttestRequest(join_token=mesh.token("portal"), csr=csr(keys[0])[1])).chain[0]
    second = come_back(mesh, stubs, first, keys[0], keys[1]).chain[0]
    second = come_back(mesh, stubs, first, keys[0], keys[1]).chain[0]  # the answer may have been lost
    with pytest.raises(grpc.RpcError) as caught:
        come_back(mesh, stubs, first, keys[0], keys[2])
    assert (caught.value.code(), "rejoin_replaced" in caught.value.details()) == (
        grpc.StatusCode.PERMISSION_DENIED, True)
    mesh.control.kill()  # it is on record, too
    mesh.start_control()
    with pytest.raises(grpc.RpcError) as caught:
        come_back(mesh, stubs, first, keys[0], keys[2])
    assert "rejoin_replaced" in caught.value.details()
    assert come_back(mesh, stubs, second, keys[1], keys[3]).spiffe_id.endswith("/sa/portal")


def test_certificates_begin_earlier_and_end_within_bounds(mesh, stubs):
    answer = attest(mesh, stubs, stubs.identity.AttestRequest(join_token=mesh.token("portal"),
                                                              csr=csr()[1]))
    leaf, issuer = (x509.load_der_x509_certificate(c) for c in answer.chain[:2])
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert 86400 <= life.total_seconds() <= 86400 + 600
    assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc
    assert leaf.serial_number.bit_length() >= 64


def test_a_renewal_without_a_certificate_is_refused(mesh, stubs, server):
    with grpc.insecure_channel(server) as link:
        with pytest.raises(grpc.RpcError) as caught:
            stubs.identity_grpc.IdentityServiceStub(link).Renew(
                stubs.identity.RenewRequest(csr=csr()[1]), timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED,
                                   grpc.StatusCode.PERMISSION_DENIED)


def test_discovery_without_a_certificate_is_refused(mesh, stubs, server):
    with grpc.insecure_channel(server) as link:
        call = stubs.discovery_grpc.DiscoveryServiceStub(link).Stream(
            iter([stubs.discovery.DiscoveryRequest()]), timeout=5)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() in (grpc.StatusCode.UNAUTHENTICATED,
                                   grpc.StatusCode.PERMISSION_DENIED)


def test_an_unknown_method_is_unimplemented(server):
    with grpc.insecure_channel(server) as link:
        with pytest.raises(grpc.RpcError) as caught:
            link.unary_unary("/mortise.v1.OperatorService/Nosuch")(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("body", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x80" * 50])
def test_malformed_messages_are_refused_and_the_connection_lives(mesh, stubs, server, body):
    with grpc.insecure_channel(server) as link:
        with pytest.raises(grpc.RpcError) as caught:
            link.unary_unary("/mortise.v1.OperatorService/Apply")(body, timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        stubs.operator_grpc.OperatorServiceStub(link).Status(stubs.operator.StatusRequest(),
                                                             timeout=5)


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(server):
    with grpc.insecure_channel(server, options=[("grpc.max_send_message_length", -1)]) as link:
        with pytest.raises(grpc.RpcError) as caught:
            link.unary_unary("/mortise.v1.OperatorService/Apply")(b"\0" * (64 << 20), timeout=20)
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


def test_attest_floods_are_limited_and_end_in_a_stable_code(mesh, stubs):
    codes = set()
    with grpc.insecure_channel(f"unix:{mesh.socket}") as link:
        stub = stubs.identity_grpc.IdentityServiceStub(link)
        request = stubs.identity.AttestRequest(join_token="mjt1." + "A" * 43, csr=csr()[1])
        for _ in range(400):
            try:
                stub.Attest(request, timeout=5)
            except grpc.RpcError as err:
                codes.add(err.code())
    assert codes == {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
    assert mesh.ctl("status").returncode == 0
