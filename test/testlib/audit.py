"""The audit log of a control plane, judged without its own code: the chain is computed from the records' encoding, as
proto/mesh/audit.proto describes it, and signatures are those of another library."""
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

SIGNED = ("checkpoint", "audit.export", "audit.purge")


def audit_records(call):
    """All that are kept, oldest first; `call` as Plane.operator."""
    page = call("ListAuditRecords")
    found = list(page.records)
    while page.next_page_token:
        page = call("ListAuditRecords", page_token=page.next_page_token)
        found += page.records
    return found


def encoded(record):
    return record.SerializeToString(deterministic=True)


def is_signed(record, key):
    bare = type(record)()
    bare.CopyFrom(record)
    bare.ClearField("signature")
    try:
        key.verify(record.signature, encoded(bare), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def check_chain(records, state):
    """Of a log that has lost nothing; `state` as GetAudit tells it, before the records were asked for."""
    key = load_der_public_key(state.public_key)
    before = None
    for number, record in enumerate(records, 1):
        assert record.seq == number
        assert record.previous_sha256 == (hashlib.sha256(encoded(before)).digest() if before else b""), record
        if record.action in SIGNED:
            assert is_signed(record, key), record
        if record.seq == state.head.seq:
            assert hashlib.sha256(encoded(record)).digest() == state.head.sha256
        before = record
    assert len(records) >= state.head.seq


def check_is_the_store(call, certificates):
    """Each change that is in the store is on record, and what is on record as done is in the store."""
    state = call("GetAudit")
    records = audit_records(call)
    check_chain(records, state)
    done = [r for r in records if r.outcome == r.OK]
    told = [r.serial for r in done if r.serial]
    known = [c.serial for c in certificates]
    assert len(told) == len(set(told))
    assert set(told) == set(known), (set(told) ^ set(known))
    versions = [r.version for r in done if r.action.startswith("mesh.")]
    page = call("ListRevisions")
    revisions = [r.version for r in page.revisions if r.author != "mortise-control"]
    assert sorted(versions)[-len(revisions):] == sorted(revisions) if revisions else not versions, (versions, revisions)
    return records
