"""Certificate chains that must be refused, and their good twins: a table. Each row makes one chain (forge.py)
for one role and says with which error and which alert it is refused."""
from dataclasses import dataclass, field

from test.testlib import der
from test.testlib.forge import (AGREE, ANY, BASIC, CERT_SIGN, CLIENT, CODE, CONSTRAINTS, CRL_SIGN, DAY,
                                EKU, EMAIL, ENCIPHER, HOUR, INHIBIT_ANY, MINUTE, OCSP,
                                POLICY_CONSTRAINTS, ROOT, RSA, SAN, SERVER, SIGN, UNKNOWN, USAGE, YEAR,
                                Authority, World, authority_key, basic, constraints, dns,
                                ec_public, eku, email, ext, key, key_id, names, point,
                                rsa_public, sign, uri, usage, written_out)
from test.testlib.tls_bare import Shown

ALERT_OF = {
    "cert_expired": "certificate_expired", "cert_not_yet_valid": "certificate_expired",
    "chain_untrusted": "unknown_ca", "chain_too_long": "unknown_ca",
    "cert_usage": "unsupported_certificate", "key_weak": "unsupported_certificate",
    "cert_weak_signature": "unsupported_certificate", "cert_syntax": "bad_certificate",
    "san_none": "access_denied", "san_multiple": "access_denied", "san_syntax": "access_denied",
    "san_too_many": "bad_certificate", "trust_domain": "access_denied",
    "peer_denied": "access_denied", "peer_identity": "access_denied"}
REASON_OF = {"tls_protocol": "tls_failed", "tls_no_shared": "no_shared_parameters",
             "peer_denied": "peer_identity", "peer_identity": "peer_identity",
             "trust_domain": "peer_identity"}  # of the others: peer_certificate


@dataclass
class Chain:
    """A row. `error` None: it is a good twin. `at` has (error, alert) where it depends on the role, the version
    or both: keys such as "inbound", "TLS1_2", "outbound TLS1_2"."""
    group: str
    name: str
    make: object
    error: str = None
    alert: str = None
    at: dict = field(default_factory=dict)

    def expected(self, inbound, version):
        """(error, alert, reason)"""
        role = "inbound" if inbound else "outbound"
        error, alert = self.error, self.alert
        for where in (role, version, f"{role} {version}"):
            error, alert = self.at.get(where, (error, alert))
        return error, alert or ALERT_OF[error], REASON_OF.get(error, "peer_certificate")


CHAINS = []


def bad(group, error, rows, alert=None, at=None):
    for name, make in rows.items():
        row = make if isinstance(make, Chain) else Chain("", "", make, error, alert, at or {})
        row.group, row.name = group, name
        CHAINS.append(row)


def good(group, rows):
    CHAINS.extend(Chain(group, name, make) for name, make in rows.items())


def but(make, error, alert=None, at=None):
    """A row that is refused for another reason than its neighbours."""
    return Chain("", "", make, error, alert, at or {})


# A peer with a good certificate that is not the one: the inbound side asks whom a link allows, the outbound
# side expects somebody.
SOMEBODY = {"inbound": ("peer_denied", None), "outbound": ("peer_identity", None)}
# BoringSSL reads a leaf's form and key by itself, before there is a chain to judge.
UNREADABLE = ("cert_syntax", "decode_error")
UNREADABLE_KEY = ("key_weak", "decode_error")

# And in TLS 1.3 its KeyUsage, which must have digitalSignature.
NOT_FOR_SIGNING = {"TLS1_3": ("cert_usage", "illegal_parameter")}
UNREADABLE_USAGE = {"TLS1_3": ("cert_syntax", "illegal_parameter")}

# --- dates (F01, F02): there is no allowance for skew on this side; who issues dates back ---


def seconds(**changes):
    return lambda w: w.leaf(**changes)


bad("dates", "cert_expired", {
    "expired a second ago": seconds(begins_s=-HOUR, ends_s=-1),
    "expires now": seconds(begins_s=-HOUR, ends_s=0),
    "expired a minute ago": seconds(begins_s=-HOUR, ends_s=-MINUTE),
    "expired a year ago": seconds(begins_s=-2 * YEAR, ends_s=-YEAR),
    "expired in 1950": seconds(begins=der.time(-20 * YEAR), ends=der.tlv(der.UTC_TIME, b"500101000000Z")),
    "expired in 1900": seconds(ends=der.tlv(der.GENERALIZED_TIME, b"19000101000000Z")),
    "ends before it begins": seconds(begins_s=-MINUTE, ends_s=-HOUR),
    "expired intermediate": lambda w: w.below({"begins_s": -9 * DAY, "ends_s": -DAY}),
    "intermediate expired a second ago": lambda w: w.below({"begins_s": -DAY, "ends_s": -1}),
    "uppermost of three expired": lambda w: w.below({"begins_s": -9 * DAY, "ends_s": -DAY}, {}, {}),
    "lowermost of three expired": lambda w: w.below({}, {}, {"begins_s": -9 * DAY, "ends_s": -DAY}),
    "leaf and intermediate expired": lambda w: w.below({"begins_s": -9 * DAY, "ends_s": -DAY},
                                                       begins_s=-8 * DAY, ends_s=-HOUR),
    "expired root": lambda w: w.below(root="expired"),
    "expired root above an intermediate": lambda w: w.below({}, root="expired"),
})
bad("dates", "cert_not_yet_valid", {
    "valid in five minutes": seconds(begins_s=5 * MINUTE),
    "valid in half an hour": seconds(begins_s=HOUR // 2),
    "valid in a year": seconds(begins_s=YEAR, ends_s=2 * YEAR),
    "valid in 2060": seconds(begins=der.tlv(der.GENERALIZED_TIME, b"20600101000000Z"),
                             ends=der.tlv(der.GENERALIZED_TIME, b"20610101000000Z")),
    "intermediate valid tomorrow": lambda w: w.below({"begins_s": DAY}),
    "uppermost of three valid tomorrow": lambda w: w.below({"begins_s": DAY}, {}, {}),
    "root valid tomorrow": lambda w: w.below(root="future"),
})
good("dates", {
    "valid since a second ago": seconds(begins_s=-1),
    "valid for five minutes more": seconds(begins_s=-YEAR, ends_s=5 * MINUTE),
    "valid since 1950 until the end of days": seconds(
        begins=der.tlv(der.UTC_TIME, b"500101000000Z"),
        ends=der.tlv(der.GENERALIZED_TIME, b"99991231235959Z")),
})


def ending(text, tag=der.UTC_TIME):
    return lambda w: w.leaf(ends=der.tlv(tag, text))


bad("forms of dates", "cert_syntax", {
    "without seconds": ending(b"4001010000Z"),
    "without zone": ending(b"400101000000"),
    "with an offset": ending(b"400101000000+0100"),
    "with a fraction of a second": ending(b"20600101000000.5Z", der.GENERALIZED_TIME),
    "a second too many": ending(b"400101000060Z"),
    "24 o'clock": ending(b"400101240000Z"),
    "the 30th of February": ending(b"400230000000Z"),
    "the 13th month": ending(b"401301000000Z"),
    "month 0": ending(b"400001000000Z"),
    "letters": ending(b"4O0101000000Z"),
    "a space": ending(b" 40101000000Z"),
    "a sign": ending(b"-40101000000Z"),
    "nothing": ending(b""),
    "NUL behind": ending(b"400101000000Z\0"),
    "GeneralizedTime without zone": ending(b"20600101000000", der.GENERALIZED_TIME),
    "GeneralizedTime with two digits of year": ending(b"600101000000Z", der.GENERALIZED_TIME),
    "UTCTime with four digits of year": ending(b"20400101000000Z"),
    "a number": ending(b"\x7f\xff\xff\xff", 0x02),
    "a string": ending(b"400101000000Z", 0x16),
    "begins without seconds": lambda w: w.leaf(begins=der.tlv(der.UTC_TIME, b"2001010000Z")),
    "one date": lambda w: w.leaf(validity=der.sequence(der.time(2e9))),
    "three dates": lambda w: w.leaf(validity=der.sequence(der.time(1e9), der.time(2e9), der.time(2e9))),
    "no date": lambda w: w.leaf(validity=der.sequence()),
    "in an intermediate": lambda w: w.below({"ends": der.tlv(der.UTC_TIME, b"400230000000Z")}),
})
good("forms of dates", {
    "GeneralizedTime": ending(b"20600101000000Z", der.GENERALIZED_TIME),
    "leap day": ending(b"400229235959Z"),
})

# --- trust (F03) ---


def stranger(w, name="stranger", number=40, **changes):
    return w.authority(name, number=number, **changes)


def self_signed(w, **changes):
    private = key("p256", 41)
    return w.leaf(above=Authority(b"", private, der.name("leaf"), [], True), private=private,
                  **changes)


def sent_along(w, above, **changes):
    return w.leaf(above=above, chain=[above.cert], **changes)


def circle(w):
    """Two CAs that vouch for each other, and nobody for them."""
    keys = key("p256", 42), key("p256", 43)
    one = Authority(b"", keys[0], der.name("one"), [], True)
    other = w.authority("other", above=one, private=keys[1])
    one = w.authority("one", above=other, private=keys[0])
    return w.leaf(above=one, chain=[one.cert, other.cert])


def crossed(w):
    """An intermediate of the right name and key identifier, signed by a stranger."""
    above = w.authority("intermediate 0", stranger(w), number=20)
    return w.leaf(above=above, chain=[above.cert])


bad("trust", "chain_untrusted", {
    "another CA": lambda w: w.leaf(above=stranger(w)),
    "another CA, sent along": lambda w: sent_along(w, stranger(w)),
    "another CA's intermediate": lambda w: w.leaf(above=w.authority("below", stranger(w), number=44)),
    "another CA and ours, sent along": lambda w: w.leaf(
        above=stranger(w), chain=[stranger(w).cert, w.roots["root"].cert]),
    "ours and another CA, sent along": lambda w: w.leaf(
        above=stranger(w), chain=[w.roots["root"].cert, stranger(w).cert]),
    "an intermediate like ours under another CA": crossed,
    "another CA of our CA's name": lambda w: w.leaf(above=stranger(w, ROOT)),
    "another CA of our CA's name, sent along": lambda w: sent_along(w, stranger(w, ROOT)),
    "self-signed": self_signed,
    "self-signed with keyCertSign": lambda w: self_signed(w, usage=usage(SIGN, CERT_SIGN)),
    "self-signed CA": lambda w: self_signed(w, basic=basic(True), usage=usage(SIGN, CERT_SIGN)),
    "self-signed and our root": lambda w: self_signed(w, chain=[w.roots["root"].cert]),
    "self-signed with our root's name": lambda w: self_signed(
        w, subject=ROOT, issuer=der.name(ROOT)),
    "intermediate left out": lambda w: w.below({}, chain=[]),
    "uppermost intermediate left out": lambda w: (
        lambda shown: Shown(shown.certs[:-1], shown.key))(w.below({}, {})),
    "lowermost intermediate left out": lambda w: (
        lambda shown: Shown(shown.certs[:1] + shown.certs[2:], shown.key))(w.below({}, {})),
    "another intermediate in its place": lambda w: w.below({}, chain=[
        w.authority("elsewhere", w.roots["root"], number=45).cert]),
    "issuer without a name": lambda w: w.leaf(issuer=der.sequence()),
    "issuer's name with a letter more": lambda w: w.leaf(issuer=der.name(ROOT + "s")),
    "issuer's name with NUL": lambda w: w.leaf(issuer=der.name(ROOT.encode() + b"\0")),
    "authority key identifier of another key": lambda w: w.leaf(aki=authority_key(b"\1" * 20)),
    "two CAs that vouch for each other": circle,
})
bad("trust", "chain_invalid", {
    "another CA of our CA's name and key identifier": lambda w: w.leaf(
        above=stranger(w, ROOT), aki=authority_key(key_id(w.roots["root"].private))),
    "the same, sent along": lambda w: sent_along(
        w, stranger(w, ROOT, ski=ext("2.5.29.14", der.octets(key_id(w.roots["root"].private)))),
        aki=authority_key(key_id(w.roots["root"].private))),
    "another CA of our CA's name, no key identifier": lambda w: w.leaf(
        above=stranger(w, ROOT), aki=None),
    "signed with the leaf's own key": lambda w: w.leaf(signer=key("p256", 9)),
    "intermediate of ours, signed with another key": lambda w: w.below({"signer": key("p256", 46)}),
}, alert="decrypt_error")
good("trust", {
    "plain": lambda w: w.leaf(),
    "without key identifiers": lambda w: w.below({"ski": None, "aki": None}, aki=None),
    "root sent along": lambda w: w.leaf(chain=[w.roots["root"].cert]),
    "below an intermediate": lambda w: w.below({}),
    "below four": lambda w: w.below({}, {}, {}, {}),
    "below four, in the wrong order": lambda w: (lambda shown: Shown(
        shown.certs[:1] + shown.certs[:0:-1], shown.key))(w.below({}, {}, {}, {})),
    "another CA beside it": lambda w: w.leaf(chain=[stranger(w).cert]),
    "leaf sent twice": lambda w: (lambda shown: Shown(shown.certs * 2, shown.key))(w.leaf()),
    "under an RSA root": lambda w: w.below(root="rsa"),
    "under a P-384 root": lambda w: w.below(root="p384", algorithm="ecdsa-sha384"),
    "under a root signed with SHA-1, which nobody relies on": lambda w: w.below(root="sha1"),
})

# --- chains (F04) ---


def signed_by_leaf(w, **changes):
    above = w.leaf(private=key("p256", 47), **changes)
    return w.leaf(above=Authority(above.certs[0], above.key, der.name("leaf"), [], False))


def ca_as_leaf(w, above=None, **changes):
    """A CA with the right names."""
    return w.leaf(above=above, **({"basic": basic(True), "usage": usage(CERT_SIGN, CRL_SIGN)} |
                                  changes))


def root_as_leaf(w, name="root"):
    root = w.roots[name]
    return Shown([root.cert], root.private)


INVALID_CA = "unknown_ca"  # X509_V_ERR_INVALID_CA
bad("chains", "chain_invalid", {
    "leaf signed by a leaf": signed_by_leaf,
    "leaf signed by a leaf with keyCertSign": lambda w: signed_by_leaf(
        w, usage=usage(SIGN, CERT_SIGN)),
    "intermediate that is no CA": lambda w: w.below({"basic": basic(False)}),
    "intermediate without basic constraints": lambda w: w.below({"basic": None}),
    "intermediate without keyCertSign": lambda w: w.below({"usage": usage(SIGN, CRL_SIGN)}),
    "intermediate of version 1": lambda w: w.below({"version": b"", "list": lambda listed: b""}),
    "uppermost of three is no CA": lambda w: w.below({"basic": basic(False)}, {}, {}),
    "CA as leaf, with digitalSignature": lambda w: ca_as_leaf(
        w, usage=usage(SIGN, CERT_SIGN, CRL_SIGN)),
    "CA as leaf, usage of a leaf": lambda w: ca_as_leaf(w, usage=usage(SIGN)),
    "path length 0 above a CA": lambda w: w.below({"path_length": 0}, {}),
    "path length 1 above two CAs": lambda w: w.below({"path_length": 1}, {}, {}),
    "path length 0 in the middle": lambda w: w.below({}, {"path_length": 0}, {}),
    "root of path length 0 above a CA": lambda w: w.below({}, root="short"),
}, alert=INVALID_CA)
bad("chains", "chain_invalid", {
    "CA as leaf": ca_as_leaf,
    "intermediate CA as leaf": lambda w: (lambda above: Shown([above.cert], above.private))(
        w.authority("intermediate", w.roots["root"], number=20)),
    "the root as leaf": root_as_leaf,
    "the RSA root as leaf": lambda w: root_as_leaf(w, "rsa"),
}, alert=INVALID_CA, at=NOT_FOR_SIGNING)
bad("chains", "chain_too_long", {
    "six": lambda w: w.below({}, {}, {}, {}, {}),
    "five and the root": lambda w: w.below({}, {}, {}, {}, behind_chain=[w.roots["root"].cert]),
    "six times the leaf": lambda w: (lambda shown: Shown(shown.certs * 6, shown.key))(w.leaf()),
    "five strangers behind": lambda w: w.leaf(chain=[stranger(w).cert] * 5),
})
bad("chains", "cert_syntax", {
    "path length without CA": lambda w: w.leaf(basic=ext(BASIC, der.sequence(der.integer(0)), True)),
    "negative path length": lambda w: w.below({"basic": ext(BASIC, der.sequence(
        der.boolean(True), der.integer(-1)), True)}),
})
good("chains", {
    "path length 0": lambda w: w.below({"path_length": 0}),
    "path lengths 1 and 0": lambda w: w.below({"path_length": 1}, {"path_length": 0}),
    "root of path length 0": lambda w: w.below(root="short"),
    "no basic constraints in the leaf": lambda w: w.leaf(basic=None),
})

# --- identity (F07) ---


def identity(text, *more):
    return lambda w: w.leaf(uri(text(w) if callable(text) else text), *more)


def within(old, new):
    """The right identity with one part replaced."""
    return identity(lambda w: w.id.replace(old, new, 1))


def beside(*general):
    """The right identity, and other names with it."""
    return lambda w: w.leaf(uri(w.id), *general)


TD = World.TRUST_DOMAIN
bad("identity", "san_none", {
    "no names": lambda w: w.leaf(names=None),
    "empty list of names": lambda w: w.leaf(names=names()),
    "common name only": lambda w: w.leaf(names=None, subject="server"),
    "common name is the identity": lambda w: w.leaf(names=None, subject=w.id),
    "IP address only": lambda w: w.leaf(der.implicit(7, bytes([127, 0, 0, 1]))),
    "e-mail only": lambda w: w.leaf(email("a@b.test")),
    "identity as e-mail": lambda w: w.leaf(email(w.id)),
    "identity as other name": lambda w: w.leaf(der.explicit(
        0, der.oid(UNKNOWN), der.explicit(0, der.utf8(w.id)))),
    "identity as directory name": lambda w: w.leaf(der.explicit(4, der.name(w.id))),
    "registered ID only": lambda w: w.leaf(der.implicit(8, b"\x2a\x03\x04")),
})
bad("identity", "san_multiple", {
    "two identities": lambda w: w.leaf(uri(w.id), uri(f"{w.base}/ns/test/sa/second")),
    "two identities, ours second": lambda w: w.leaf(uri(f"{w.base}/ns/test/sa/second"), uri(w.id)),
    "the same identity twice": lambda w: w.leaf(uri(w.id), uri(w.id)),
    "identity and another URI": lambda w: w.leaf(uri(w.id), uri("https://example.test/")),
    "another URI and identity": lambda w: w.leaf(uri("https://example.test/"), uri(w.id)),
    "both ends' identities": lambda w: w.leaf(uri(w.id), uri(w.other_id)),
    "two among DNS names": lambda w: w.leaf(dns("a.test"), uri(w.id), dns("b.test"), uri(w.id)),
    "an empty second one": lambda w: w.leaf(uri(w.id), uri("")),
})
bad("identity", "san_syntax", {
    "no SPIFFE URI": identity("https://example.test/ns/test/sa/client"),
    "empty URI": identity(""),
    "scheme alone": identity("spiffe://"),
    "scheme in capitals": within("spiffe", "SPIFFE"),
    "one slash": within("//", "/"),
    "no trust domain": within(TD, ""),
    "trust domain alone": identity(f"spiffe://{TD}"),
    "trust domain and a slash": identity(f"spiffe://{TD}/"),
    "capital in the trust domain": within(TD, "Static.test"),
    "trust domain in capitals": within(TD, TD.upper()),
    "port": within(TD, f"{TD}:443"),
    "user": within("://", "://root@"),
    "query": identity(lambda w: w.id + "?a=b"),
    "fragment": identity(lambda w: w.id + "#a"),
    "percent-encoded letter": within("/sa/", "/s%61/"),
    "percent-encoded slash": within("/sa/", "%2fsa/"),
    "percent-encoded dots": within("/sa/", "/x/%2e%2e/sa/"),
    "percent-encoded NUL": identity(lambda w: w.id + "%00"),
    "dot": within("/sa/", "/./sa/"),
    "dots to climb": within("/sa/", "/x/../sa/"),
    "dots at the end": identity(lambda w: w.id + "/.."),
    "empty segment": within("/sa/", "//sa/"),
    "slash behind": identity(lambda w: w.id + "/"),
    "wildcard segment": identity(f"spiffe://{TD}/ns/test/sa/*"),
    "wildcard within a segment": identity(lambda w: w.id[:-1] + "*"),
    "wildcard trust domain": within(TD, "*.test"),
    "space behind": identity(lambda w: w.id + " "),
    "space before": identity(lambda w: " " + w.id),
    "line feed": identity(lambda w: w.id + "\nreason=done"),
    "tab": identity(lambda w: w.id + "\t"),
    "comma and another": identity(lambda w: f"{w.id},URI:{w.other_id}"),
    "backslash": within("/sa/", "\\sa\\"),
    "quotation mark": identity(lambda w: w.id + '"'),
    "UTF-8": identity(lambda w: w.id + "\u00e4"),
    "UTF-8 that looks alike": within("c", "\u0441"),
    "UTF-8 in the trust domain": within(TD, "st\u00e4tic.test"),
    "a byte that is no text": lambda w: w.leaf(uri(w.id.encode() + b"\xff")),
    "NUL behind": identity(lambda w: w.id + "\0"),
    "NUL and more behind": identity(lambda w: w.id + "\0.evil.test"),
    "NUL before": identity(lambda w: "\0" + w.id),
    "NUL in the trust domain": within(TD, f"{TD}\0.evil.test"),
    "NUL within the path": within("/sa/", "/s\0a/"),
    "2049 bytes": identity(f"spiffe://{TD}/".ljust(2049, "a")),
    "16 kB": identity(f"spiffe://{TD}/".ljust(16384, "a")),
    "trust domain of 256 bytes": within(TD, "a" * 256),
    "identity as DNS name": lambda w: w.leaf(dns(w.id)),
    "wildcard DNS name": lambda w: w.leaf(dns("*.mortise.internal")),
    "wildcard alone": lambda w: w.leaf(dns("*")),
    "wildcard DNS name beside it": beside(dns("*.mortise.internal")),
    "partial wildcard beside it": beside(dns("l*.mortise.internal")),
    "NUL in a DNS name beside it": beside(dns("link.mortise.internal\0.evil.test")),
    "empty DNS name beside it": beside(dns("")),
    "DNS name with a dot behind beside it": beside(dns("a.test.")),
    "DNS name of UTF-8 beside it": beside(dns("\u00e4.test")),
    "DNS label of 64 beside it": beside(dns("a" * 64)),
})
bad("identity", "trust_domain", {
    "another trust domain": within(TD, "other.test"),
    "a trust domain that ends with ours": within(TD, f"a{TD}"),
    "a subdomain of ours": within(TD, f"a.{TD}"),
    "a trust domain that begins with ours": within(TD, f"{TD}.evil"),
    "a trust domain of ours without its end": within(TD, TD[:-1]),
    "the domain above ours": within(TD, "test"),
    "a dot behind the trust domain": within(TD, f"{TD}."),
})
bad("identity", None, {
    "somebody else": identity(f"spiffe://{TD}/ns/test/sa/somebody"),
    "the other end": identity(lambda w: w.other_id),
    "the control plane": identity(f"spiffe://{TD}/mortise/control"),
    "one letter more": identity(lambda w: w.id + "2"),
    "one letter less": identity(lambda w: w.id[:-1]),
    "a segment more": identity(lambda w: w.id + "/x"),
    "a segment less": identity(lambda w: w.id.rsplit("/", 1)[0]),
    "a letter in other case": identity(lambda w: w.id[:-1] + w.id[-1].upper()),
    "another namespace": within("/ns/test/", "/ns/prod/"),
    "DNS name only": lambda w: w.leaf(dns("link.mortise.internal")),
    "DNS name of the other end's link": lambda w: w.leaf(dns("localhost"), dns("link.mortise.internal")),
}, at=SOMEBODY)
bad("identity", "cert_syntax", {
    "names twice": lambda w: w.leaf(more=[names(uri(f"spiffe://{TD}/ns/test/sa/second"))]),
    "names that are no list": lambda w: w.leaf(names=ext(SAN, uri(w.id), True)),
    "bytes behind the names": lambda w: w.leaf(names=ext(SAN, der.sequence(uri(w.id)) + b"\0", True)),
    "a name beyond the end": lambda w: w.leaf(names=ext(SAN, b"\x30\x05\x86\x7fspi", True)),
    "names of indefinite length": lambda w: w.leaf(names=ext(
        SAN, b"\x30\x80" + uri(w.id) + b"\0\0", True)),
    "a name of indefinite length": lambda w: w.leaf(names=names(b"\xa6\x80" + uri(w.id) + b"\0\0")),
    "a name with a length too long": lambda w: w.leaf(names=names(
        b"\x86\x82" + len(w.id).to_bytes(2, "big") + w.id.encode())),
    "no names but bytes": lambda w: w.leaf(names=ext(SAN, b"", True)),
})
good("identity", {
    "DNS names beside it": beside(dns("a.test"), dns("B.test")),
    "names of other kinds beside it": beside(
        der.implicit(7, bytes(16)), email("a@b.test"), der.explicit(4, der.name("a")),
        der.implicit(8, b"\x2a\x03\x04")),
    "names that are not critical": lambda w: w.leaf(names=names(uri(w.id), critical=False)),
    "64 names": lambda w: w.leaf(uri(w.id), *[dns(f"n{i}.test") for i in range(63)]),
})

# --- what it is for (F08) ---

UNKNOWN_CRITICAL = ext(UNKNOWN, der.NULL, True)
bad("usage", "cert_usage", {
    "no KeyUsage": lambda w: w.leaf(usage=None),
    "keyEncipherment only": but(lambda w: w.leaf(usage=usage(ENCIPHER)), "cert_usage",
                                at=NOT_FOR_SIGNING),
    "keyAgreement only": but(lambda w: w.leaf(usage=usage(AGREE)), "cert_usage", at=NOT_FOR_SIGNING),
    "no bit of KeyUsage": but(lambda w: w.leaf(usage=usage()), "cert_usage", at=NOT_FOR_SIGNING),
    "keyCertSign too": lambda w: w.leaf(usage=usage(SIGN, CERT_SIGN)),
    "cRLSign too": lambda w: w.leaf(usage=usage(SIGN, CRL_SIGN)),
    "for the other role": lambda w: w.leaf(eku=eku(w.other_role)),
    "for the other role, critical": lambda w: w.leaf(eku=eku(w.other_role, critical=True)),
    "for e-mail": lambda w: w.leaf(eku=eku(EMAIL)),
    "for code": lambda w: w.leaf(eku=eku(CODE)),
    "for OCSP": lambda w: w.leaf(eku=eku(OCSP)),
    "for anything": lambda w: w.leaf(eku=eku(ANY)),
    "for what nobody knows": lambda w: w.leaf(eku=eku(UNKNOWN)),
    "intermediate for e-mail": lambda w: w.below({"eku": eku(EMAIL)}),
    "intermediate for the other role": lambda w: w.below({"eku": eku(w.other_role)}),
    "uppermost of three for e-mail": lambda w: w.below({"eku": eku(EMAIL)}, {}, {}),
    "unknown critical extension": lambda w: w.leaf(more=[UNKNOWN_CRITICAL]),
    "unknown critical extension above": lambda w: w.below({"more": [UNKNOWN_CRITICAL]}),
    "unknown critical extension on top": lambda w: w.below({"more": [UNKNOWN_CRITICAL]}, {}, {}),
    "Netscape's type of the other role": lambda w: w.leaf(more=[
        ext("2.16.840.1.113730.1.1", der.named_bits(1 if w.inbound else 0), True)]),
    "no purpose": lambda w: w.leaf(eku=eku()),
    "unknown extension critical as 1": lambda w: w.leaf(more=[ext(UNKNOWN, der.NULL, b"\1\1\1")]),
    "critical issuer alternative name": lambda w: w.leaf(more=[
        ext("2.5.29.18", der.sequence(dns("a.test")), True)]),
    "33 extensions": lambda w: w.leaf(more=[ext(f"{UNKNOWN}.{i}", der.NULL) for i in range(28)]),
})
bad("usage", "cert_syntax", {
    "purposes that are no list": lambda w: w.leaf(eku=ext(EKU, der.oid(SERVER))),
    "purposes twice": lambda w: w.leaf(more=[eku(SERVER, CLIENT)]),
    "purposes with bytes behind": lambda w: w.leaf(eku=ext(
        EKU, der.sequence(der.oid(SERVER), der.oid(CLIENT)) + b"\0")),
    "purpose of no bytes": lambda w: w.leaf(eku=ext(EKU, der.sequence(b"\6\0"))),
    "KeyUsage twice": lambda w: w.leaf(more=[usage(SIGN)]),
    "basic constraints twice": lambda w: w.leaf(more=[basic(False)]),
    "basic constraints as a number": lambda w: w.leaf(basic=ext(BASIC, der.integer(0), True)),
    "basic constraints with bytes behind": lambda w: w.leaf(basic=ext(BASIC, der.sequence() + b"\0",
                                                                     True)),
    "CA as the number 1": lambda w: w.below({"basic": ext(BASIC, der.sequence(
        der.integer(1)), True)}),
    "key identifier twice": lambda w: w.leaf(more=[authority_key(b"1")]),
    "key identifier malformed": lambda w: w.leaf(aki=ext("2.5.29.35", b"\x30\x05\x80")),
})
bad("usage", "cert_syntax", {
    "KeyUsage as bytes": lambda w: w.leaf(usage=ext(USAGE, der.octets(b"\x80"), True)),
    "KeyUsage without its count": lambda w: w.leaf(usage=ext(USAGE, b"\3\0", True)),
    "KeyUsage with 8 bits unused": lambda w: w.leaf(usage=ext(USAGE, der.bits(b"\x80", 8), True)),
    "KeyUsage with unused bits set": lambda w: w.leaf(usage=ext(USAGE, der.bits(b"\xff", 7), True)),
}, at=UNREADABLE_USAGE)
# What is no DER and means nothing else all the same.
good("usage", {
    "CA as a boolean of 1": lambda w: w.below({"basic": ext(BASIC, der.sequence(b"\1\1\1"), True)}),
    "CA said to be false in so many words": lambda w: w.leaf(basic=ext(BASIC, der.sequence(
        der.boolean(False)), True)),
    "extension said not to be critical in so many words": lambda w: w.leaf(
        more=[ext(UNKNOWN, der.NULL, der.boolean(False))]),
})
good("usage", {
    "of this role only": lambda w: w.leaf(eku=eku(w.role)),
    "of this role only, critical": lambda w: w.leaf(eku=eku(w.role, critical=True)),
    "without purposes": lambda w: w.leaf(eku=None),
    "of this role among others": lambda w: w.leaf(eku=eku(EMAIL, w.role, UNKNOWN)),
    "with keyEncipherment": lambda w: w.leaf(usage=usage(SIGN, ENCIPHER)),
    "unknown extension that is not critical": lambda w: w.leaf(more=[ext(UNKNOWN, der.NULL)]),
    "intermediate of this role": lambda w: w.below({"eku": eku(w.role)}),
    "intermediate without KeyUsage": lambda w: w.below({"usage": None}),
    "root for e-mail: what an anchor is for the truststore says": lambda w: w.below(root="email"),
    "32 extensions": lambda w: w.leaf(more=[ext(f"{UNKNOWN}.{i}", der.NULL) for i in range(27)]),
})

# --- name and policy constraints (F08) ---


def constrained(*extensions, general=(), **changes):
    return lambda w: w.below({"more": list(extensions)}, **changes) if not general else w.leaf(
        uri(w.id), *general, above=w.authority("intermediate 0", w.roots["root"], number=20,
                                               more=list(extensions)), **changes)


def only(*bases):
    return constraints(permitted=bases)


def never(*bases):
    return constraints(excluded=bases)


NOT_PERMITTED = "certificate_unknown"
bad("constraints", "chain_invalid", {
    "another trust domain": constrained(only(uri("other.test"))),
    "subdomains only": constrained(only(uri(f".{TD}"))),
    "our trust domain excluded": constrained(never(uri(TD))),
    "our trust domain permitted and excluded": constrained(constraints([uri(TD)], [uri(TD)])),
    "everything excluded": constrained(never(uri(""), uri(".test"))),
    "another of several": constrained(only(uri("a.test"), uri("b.test"), uri(f"a.{TD}"))),
    "DNS name outside": constrained(only(dns("other.test")), general=[dns("a.test")]),
    "DNS name excluded": constrained(never(dns("a.test")), general=[dns("www.a.test")]),
    "e-mail outside": constrained(only(email("other.test")), general=[email("a@b.test")]),
    "subject outside": constrained(only(der.explicit(4, der.name("somebody")))),
    "the upper one of two": lambda w: w.below({"more": [only(uri("other.test"))]},
                                              {"more": [only(uri(TD))]}),
    "the lower one of two": lambda w: w.below({"more": [only(uri(TD))]},
                                              {"more": [only(uri("other.test"))]}),
    "of the root": lambda w: w.below(root="constrained"),
    "of the root above an intermediate": lambda w: w.below({}, root="constrained"),
    "of a kind that is not known": constrained(only(der.implicit(8, b"\x2a\x03")),
                                               general=[der.implicit(8, b"\x2a\x03\x04")]),
    "with a minimum": constrained(constraints([uri(TD) + der.implicit(0, b"\1")])),
    "IP address outside": constrained(only(der.implicit(7, bytes([10, 0, 0, 0, 255, 0, 0, 0]))),
                                      general=[der.implicit(7, bytes([127, 0, 0, 1]))]),
}, alert=NOT_PERMITTED)
bad("constraints", "chain_invalid", {
    "policies that are malformed": constrained(ext(POLICY_CONSTRAINTS, der.NULL, True)),
    "an explicit policy is required": constrained(ext(POLICY_CONSTRAINTS, der.sequence(
        der.implicit(0, b"\0")), True)),
    "of the leaf's policy": lambda w: w.leaf(more=[ext(POLICY_CONSTRAINTS, der.sequence(
        der.implicit(0, b"\0")), True)]),
}, alert=NOT_PERMITTED)
bad("constraints", "cert_syntax", {
    "malformed": constrained(ext(CONSTRAINTS, b"\x30\x7f", True)),
    "bytes behind": constrained(ext(CONSTRAINTS, der.sequence() + b"\0", True)),
    "without one": constrained(ext(CONSTRAINTS, der.sequence(), True)),
    "none permitted": constrained(ext(CONSTRAINTS, der.sequence(der.explicit(0)), True)),
    "none excluded": constrained(ext(CONSTRAINTS, der.sequence(
        der.explicit(0, der.sequence(uri(TD))), der.explicit(1)), True)),
    "twice": constrained(only(uri(TD)), only(uri(TD))),
})
bad("constraints", "cert_usage", {
    "65 of them": constrained(never(*[uri(f"n{i}.test") for i in range(65)])),
})
good("constraints", {
    "our trust domain": constrained(only(uri(TD))),
    "another excluded": constrained(never(uri("other.test"))),
    "on DNS names, of which there is none": constrained(only(dns("other.test"))),
    "DNS name within": constrained(only(dns("a.test")), general=[dns("www.a.test")]),
    "64 of them": constrained(never(*[uri(f"n{i}.test") for i in range(64)])),
    "no policy inhibited": constrained(ext(INHIBIT_ANY, der.integer(0), True)),
})

# --- keys (F09) ---


def of_kind(kind):
    return lambda w: w.leaf(kind=kind)


def with_spki(make):
    return lambda w: w.leaf(spki=make() if callable(make) else make)


def of_rsa(modulus, exponent=65537):
    return lambda w: w.leaf(kind="rsa2048", spki=rsa_public(modulus, exponent))


def intermediate_of(kind):
    return lambda w: w.below({"kind": kind})


def intermediate_spki(make):
    return lambda w: w.below({"spki": make() if callable(make) else make})


# In TLS 1.2 the groups of a profile are the curves of a server's certificate, too.
CURVE = {"outbound TLS1_2": ("tls_no_shared", "illegal_parameter")}
# And the kind of key must be that of the suite.
KIND = {"outbound TLS1_2": ("tls_protocol", "illegal_parameter")}
MODULUS = (1 << 2047) + 12345 * 2 + 1
POINT = point(key("p256", 9))

bad("keys", "key_weak", {
    "RSA 1024": of_kind("rsa1024"), "RSA 1536": of_kind("rsa1536"),
    "RSA 2040": of_rsa((1 << 2039) + 1), "RSA 16384": of_rsa((1 << 16383) + 1),
    "P-224": but(of_kind("p224"), "key_weak", at=CURVE),
    "P-521": but(of_kind("p521"), "key_weak", at=CURVE),
    "Ed25519": of_kind("ed25519"),
    "DSA": but(of_kind("dsa1024"), "key_weak", at=KIND),
    "X25519": but(of_kind("x25519"), "key_weak", at=KIND),
    "secp256k1": but(of_kind("secp256k1"), *UNREADABLE_KEY),
    "P-192": but(of_kind("p192"), *UNREADABLE_KEY),
    "brainpoolP256r1": but(of_kind("brainpool256"), *UNREADABLE_KEY),
    "brainpoolP384r1": but(of_kind("brainpool384"), *UNREADABLE_KEY),
    "Ed448": but(of_kind("ed448"), *UNREADABLE_KEY),
    "P-256 written out": but(with_spki(lambda: ec_public(POINT, written_out())), *UNREADABLE_KEY),
    "no point on the curve": but(with_spki(ec_public(POINT[:-1] + bytes([POINT[-1] ^ 1]))),
                                 *UNREADABLE_KEY),
    "the point at infinity": but(with_spki(ec_public(b"\0")), *UNREADABLE_KEY),
    "a point of both forms": but(with_spki(ec_public(point(key("p256", 9), 6))), *UNREADABLE_KEY),
    "a point cut short": but(with_spki(ec_public(POINT[:-1])), *UNREADABLE_KEY),
    "a point without bytes": but(with_spki(ec_public(b"")), *UNREADABLE_KEY),
    "no curve": but(with_spki(ec_public(POINT, b"")), *UNREADABLE_KEY),
    "curve NULL": but(with_spki(ec_public(POINT, der.NULL)), *UNREADABLE_KEY),
    "unused bits": but(with_spki(ec_public(POINT, unused=3)), *UNREADABLE_KEY),
    "an unknown kind": but(with_spki(der.sequence(der.sequence(der.oid(UNKNOWN)), der.bits(b"\0"))),
                           *UNREADABLE_KEY),
    "no key": but(with_spki(b"\x30\0"), *UNREADABLE_KEY),
    "RSA that is no key": but(with_spki(der.sequence(der.sequence(RSA, der.NULL), der.bits(b"\0"))),
                              *UNREADABLE_KEY),
    "RSA with exponent 1": but(of_rsa(MODULUS, 1), *UNREADABLE_KEY),
    "RSA with an even exponent": but(of_rsa(MODULUS, 65536), *UNREADABLE_KEY),
    "RSA with a giant exponent": but(of_rsa(MODULUS, (1 << 64) + 1), *UNREADABLE_KEY),
    "RSA with an even modulus": but(of_rsa(MODULUS + 1), *UNREADABLE_KEY),
    "RSA with a negative modulus": but(of_rsa(-MODULUS), *UNREADABLE_KEY),
    "RSA with modulus 0": but(of_rsa(0), *UNREADABLE_KEY),
    "RSA with parameters that are no NULL": but(with_spki(lambda: der.sequence(
        der.sequence(RSA, der.integer(1)), der.bits(b"\0"))), *UNREADABLE_KEY),
    "RSA of 65536 bits": but(of_rsa((1 << 65535) + 1), *UNREADABLE_KEY),
    "DSA without parameters": but(with_spki(lambda: der.sequence(
        der.sequence(der.oid("1.2.840.10040.4.1")), der.bits(der.integer(5)))), "key_weak", at=KIND),
    "intermediate RSA 1024": intermediate_of("rsa1024"),
    "intermediate RSA 1536": intermediate_of("rsa1536"),
    "intermediate RSA 16384": intermediate_spki(lambda: rsa_public((1 << 16383) + 1)),
    "intermediate P-224": intermediate_of("p224"), "intermediate P-521": intermediate_of("p521"),
    "intermediate secp256k1": intermediate_of("secp256k1"),
    "intermediate brainpoolP256r1": intermediate_of("brainpool256"),
    "intermediate Ed25519": intermediate_of("ed25519"),
    "intermediate Ed448": intermediate_of("ed448"),
    "intermediate DSA": intermediate_of("dsa1024"),
    "intermediate P-256 written out": lambda w: w.below({"spki": ec_public(
        point(key("p256", 20)), written_out())}),
    "intermediate with an unknown kind of key": intermediate_spki(
        der.sequence(der.sequence(der.oid(UNKNOWN)), der.bits(b"\0"))),
    "intermediate with no point on the curve": intermediate_spki(
        ec_public(POINT[:-1] + bytes([POINT[-1] ^ 1]))),
    "uppermost of three RSA 1024": lambda w: w.below({"kind": "rsa1024"}, {}, {}),
})
good("keys", {
    "P-384": of_kind("p384"), "RSA 2048": of_kind("rsa2048"),
    "intermediate P-384": intermediate_of("p384"), "intermediate RSA 2048": intermediate_of("rsa2048"),
    "a compressed point": with_spki(ec_public(point(key("p256", 9), 2))),
})

# --- signatures (F03, F09) ---


def signed(make):
    """The signature replaced."""
    return lambda w: w.leaf(signature=make)


def algorithm(name, root="root"):
    return lambda w: w.below(root=root, algorithm=name)


def flipped(data, at=-1):
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def ecdsa(r, s):
    return der.sequence(der.integer(r), der.integer(s))


IDENTIFIER = der.sequence(der.oid("1.2.840.10045.4.3.2"))
ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
bad("signatures", "chain_invalid", {
    "a bit flipped at the end": signed(flipped),
    "a bit flipped in the middle": signed(lambda made: flipped(made, len(made) // 2)),
    "signature of nothing": signed(lambda made: b""),
    "signature of zeros": signed(lambda made: bytes(len(made))),
    "r and s are 0": signed(lambda made: ecdsa(0, 0)),
    "r and s are 1": signed(lambda made: ecdsa(1, 1)),
    "s beyond the order": signed(lambda made: ecdsa(1, ORDER)),
    "unused bits": lambda w: w.leaf(bits=lambda made: der.bits(made[:-1] + b"\0", 3)),
    "negative r": signed(lambda made: ecdsa(-1, 1)),
    "a byte behind": signed(lambda made: made + b"\0"),
    "a giant r": signed(lambda made: ecdsa(1 << 4096, 1)),
    "of another certificate": lambda w: w.leaf(signature=lambda made: sign(
        w.roots["root"].private, "ecdsa-sha256", b"another")),
    "a bit flipped in what is signed": lambda w: w.leaf(signed=flipped),
    "another key put in": lambda w: (lambda shown: Shown(shown.certs, key("p256", 48)))(
        w.leaf(signed=lambda tbs: tbs.replace(POINT, point(key("p256", 48))))),
    "another identity put in": lambda w: w.leaf(
        uri(f"spiffe://{TD}/ns/test/sa/{'x' * 6}"),
        signed=lambda tbs: tbs.replace(b"x" * 6, w.id[-6:].encode())),
    "by another key": lambda w: w.leaf(signer=key("p256", 49)),
    "of an intermediate, a bit flipped": lambda w: w.below({"signature": flipped}),
    "of the uppermost of three, a bit flipped": lambda w: w.below({"signature": flipped}, {}, {}),
    "under the RSA root, a bit flipped": lambda w: w.below(root="rsa", signature=flipped),
    "under the RSA root, of zeros": lambda w: w.below(root="rsa", signature=lambda made: bytes(256)),
    "under the RSA root, of another length": lambda w: w.below(root="rsa",
                                                              signature=lambda made: made[1:]),
}, alert="decrypt_error")
bad("signatures", "cert_syntax", {
    "unused bits that are set": lambda w: w.leaf(bits=lambda made: der.bits(made[:-1] + b"\7", 3)),
})
bad("signatures", "chain_invalid", {
    "algorithm beside it is another": lambda w: w.leaf(
        outer=der.sequence(der.oid("1.2.840.10045.4.3.3"))),
    "algorithm within it is another": lambda w: w.leaf(
        inner=der.sequence(der.oid("1.2.840.10045.4.3.3"))),
    "algorithm's parameters differ": lambda w: w.leaf(
        outer=der.sequence(der.oid("1.2.840.10045.4.3.2"), der.NULL)),
    "RSA said, ECDSA made": lambda w: w.leaf(
        inner=der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL),
        outer=der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)),
}, alert="decrypt_error")
bad("signatures", "cert_weak_signature", {
    "ECDSA with SHA-1": algorithm("ecdsa-sha1"), "ECDSA with SHA-224": algorithm("ecdsa-sha224"),
    "RSA with SHA-1": algorithm("rsa-sha1", "rsa"),
    "RSA with SHA-224": algorithm("rsa-sha224", "rsa"),
    "RSA with MD5": algorithm("rsa-md5", "rsa"),
    "an unknown algorithm": lambda w: w.leaf(inner=der.sequence(der.oid(UNKNOWN)),
                                             outer=der.sequence(der.oid(UNKNOWN))),
    "RSA-PSS": algorithm("rsa-pss", "rsa"),
    "intermediate with SHA-1": lambda w: w.below({"algorithm": "ecdsa-sha1"}),
    "intermediate of RSA with SHA-1": lambda w: w.below({"algorithm": "rsa-sha1"}, root="rsa"),
    "uppermost of three with SHA-1": lambda w: w.below({"algorithm": "ecdsa-sha1"}, {}, {}),
})
good("signatures", {
    "ECDSA with SHA-384": algorithm("ecdsa-sha384"), "ECDSA with SHA-512": algorithm("ecdsa-sha512"),
    "RSA with SHA-384": algorithm("rsa-sha384", "rsa"),
    "RSA with SHA-512": algorithm("rsa-sha512", "rsa"),
    "intermediate with SHA-384": lambda w: w.below({"algorithm": "ecdsa-sha384"}),
})

# --- proof of possession (F10) ---


def proven(proof, **changes):
    return lambda w: w.leaf(proof=proof, **changes)


def another_key(w):
    return Shown(w.leaf().certs, key("p256", 50))


bad("proof", "tls_protocol", {
    "signed by another key": another_key,
    "a bit of the signature flipped": proven("flipped"),
    "over other bytes": proven("elsewhere"),
    "by RSA, a bit flipped": proven("flipped", kind="rsa2048"),
    "by RSA, over other bytes": proven("elsewhere", kind="rsa2048"),
    "by a key of another curve": lambda w: Shown(w.leaf().certs, key("p384", 50)),
    "by a key of another kind": but(lambda w: Shown(w.leaf().certs, key("rsa2048", 50)),
                                    "tls_protocol", "decrypt_error", at=KIND),
}, alert="decrypt_error")
bad("proof", "tls_protocol", {
    "with SHA-1": proven("sha1"), "by RSA with SHA-1": proven("sha1", kind="rsa2048"),
}, alert="illegal_parameter")
bad("proof", "tls_protocol", {"none at all": proven("none")}, alert="unexpected_message",
    at={"outbound TLS1_2": ("tls_protocol", "decode_error")})
bad("proof", "cert_missing", {
    "no certificate": lambda w: Shown([], key("p256", 9)),
}, at={"inbound TLS1_3": ("cert_missing", "certificate_required"),
       "inbound TLS1_2": ("cert_missing", "handshake_failure"),
       "outbound TLS1_3": ("cert_missing", "certificate_required"),
       "outbound TLS1_2": ("tls_protocol", "decode_error")})
good("proof", {"right": proven(None), "by RSA": proven(None, kind="rsa2048")})

# --- encodings ---


def whole(make):
    """The leaf's bytes replaced."""
    return lambda w: w.leaf(whole=make)


def reframed(header):
    """With another tag and length around the content of the certificate."""
    return lambda made: header(made[4:])


def encoded(**changes):
    return lambda w: w.leaf(**changes)


def intermediate(make):
    """An intermediate's bytes replaced."""
    def made(w):
        shown = w.below({})
        return Shown([shown.certs[0], make(shown.certs[1])], shown.key)
    return made


bad("encodings", None, {
    "a byte behind": whole(lambda made: made + b"\0"),
    "cut short": whole(lambda made: made[:-1]),
    "cut in half": whole(lambda made: made[:len(made) // 2]),
    "empty": whole(lambda made: b""),
    "one byte": whole(lambda made: b"\x30"),
    "rubbish": whole(lambda made: b"\xff" * 300),
    "text": whole(lambda made: der.pem("CERTIFICATE", made)),
    "a SET": whole(lambda made: b"\x31" + made[1:]),
    "indefinite length": whole(reframed(lambda body: b"\x30\x80" + body + b"\0\0")),
    "a longer length than it needs": whole(reframed(
        lambda body: b"\x30\x83" + len(body).to_bytes(3, "big") + body)),
    "a length of five bytes": whole(reframed(
        lambda body: b"\x30\x85" + len(body).to_bytes(5, "big") + body)),
    "a length beyond the end": whole(reframed(lambda body: b"\x30\x84\x7f\xff\xff\xff" + body)),
    "a length before the end": whole(reframed(
        lambda body: b"\x30\x82" + (len(body) - 1).to_bytes(2, "big") + body)),
    "a certificate within another": whole(lambda made: der.sequence(made)),
    "5,000 sequences": whole(lambda made: b"\x30\x80" * 5000),
    "sequences nested 1,000 times": whole(lambda made: nested(1000)),
    "a NULL": whole(lambda made: der.NULL),
    "serial missing": encoded(serial=b""),
    "serial as a string": encoded(serial=der.octets(b"\1")),
}, at={"inbound": UNREADABLE, "outbound": UNREADABLE})
bad("encodings", None, {
    "algorithm missing": encoded(inner=b""),
    "issuer missing": encoded(issuer=b""),
    "subject missing": encoded(subject=b""),
    "key missing": encoded(spki=b""),
    "key as bytes": encoded(spki=der.octets(b"\0" * 65)),
}, at={"inbound": UNREADABLE_KEY, "outbound": UNREADABLE_KEY})
bad("encodings", "cert_syntax", {
    "intermediate with a byte behind": intermediate(lambda made: made + b"\0"),
    "intermediate cut short": intermediate(lambda made: made[:-1]),
    "intermediate of rubbish": intermediate(lambda made: b"\xff" * 300),
    "intermediate of indefinite length": intermediate(
        reframed(lambda body: b"\x30\x80" + body + b"\0\0")),
    "intermediate of one byte": intermediate(lambda made: b"\x30"),
    "intermediate nested 1,000 times": intermediate(lambda made: nested(1000)),
    "root of rubbish behind": encoded(behind_chain=[b"\x30\x03\x02\x01"]),
    "a byte behind the signature": encoded(after=b"\0"),
    "an element behind the signature": encoded(after=der.NULL),
    "an element behind the extensions": encoded(behind=der.NULL),
    "signature as bytes": encoded(bits=der.octets),
    "signature missing": encoded(bits=lambda made: b""),
    "signature without its count": encoded(bits=lambda made: b"\3\0"),
    "algorithm beside it missing": encoded(outer=b""),
    "version 4": encoded(version=der.explicit(0, der.integer(3))),
    "version -1": encoded(version=der.explicit(0, der.integer(-1))),
    "version of 1,000 bytes": encoded(version=der.explicit(0, der.integer(1 << 8000))),
    "version 1 with extensions": encoded(version=b""),
    "version 2 with extensions": encoded(version=der.explicit(0, der.integer(1))),
    "version as bytes": encoded(version=der.explicit(0, der.octets(b"\2"))),
    "serial 0": encoded(serial=der.integer(0)),
    "serial -1": encoded(serial=der.integer(-1)),
    "negative serial of 20 bytes": encoded(serial=der.integer(-(1 << 158))),
    "serial of 21 bytes": encoded(serial=der.integer(1 << 166)),
    "serial of 1,000 bytes": encoded(serial=der.integer(1 << 7999)),
    "serial with a zero before": encoded(serial=b"\2\2\0\1"),
    "serial without bytes": encoded(serial=b"\2\0"),
    "intermediate with serial of 1,000 bytes": lambda w: w.below({"serial": der.integer(1 << 7999)}),
    "intermediate with serial 0": lambda w: w.below({"serial": der.integer(0)}),
    "intermediate with serial -1": lambda w: w.below({"serial": der.integer(-1)}),
    "bytes behind the extensions": encoded(list=lambda listed: der.explicit(3, listed, b"\0")),
    "the same unknown extension twice": encoded(more=[ext(UNKNOWN, der.NULL)] * 2),
    "extension without value": encoded(more=[der.sequence(der.oid(UNKNOWN))]),
    "extension with two values": encoded(more=[der.sequence(
        der.oid(UNKNOWN), der.octets(b""), der.octets(b""))]),
    "extension of no kind": encoded(more=[ext(b"\6\0", der.NULL)]),
    "extension whose kind has no end": encoded(more=[ext(b"\6\2\x2a\x86", der.NULL)]),
    "extension whose kind begins with zero": encoded(more=[ext(b"\6\3\x2a\x80\1", der.NULL)]),
    "critical of two bytes": encoded(more=[ext(UNKNOWN, der.NULL, b"\1\2\xff\xff")]),
    "subject that is no list of sets": encoded(subject=der.sequence(der.integer(1))),
    "subject of bad UTF-8": encoded(subject=der.name(b"\xff\xfe")),
    "subject of half a character": encoded(subject=der.sequence(der.set_of(der.sequence(
        der.oid("2.5.4.3"), der.tlv(0x1E, b"\0a\0"))))),
    "issuer's ID in version 1": encoded(ids=der.implicit(1, b"\0\1"), version=b"",
                                        list=lambda listed: b""),
    "issuer's ID that is no bits": encoded(ids=der.implicit(1, b"\x09\1")),
})
bad("encodings", "cert_syntax", {
    "extensions as a SET": encoded(list=lambda listed: der.explicit(3, b"\x31" + listed[1:])),
    "extensions without their list": encoded(list=lambda listed: der.explicit(3, der.NULL)),
}, at=UNREADABLE_USAGE)
bad("encodings", "cert_usage", {
    "version 1 said in so many words": encoded(version=der.explicit(0, der.integer(0)),
                                               list=lambda listed: b""),
    "no extension in the list": encoded(list=lambda listed: der.explicit(3, der.sequence())),
    "version 1, no extensions": encoded(version=b"", list=lambda listed: b""),
    "version 3, no extensions": encoded(list=lambda listed: b""),
})
good("encodings", {
    "issuer's and subject's IDs": encoded(ids=der.implicit(1, b"\0\1") + der.implicit(2, b"\0\1")),
    "serial 1": encoded(serial=der.integer(1)),
    "serial of 20 bytes": encoded(serial=der.integer((1 << 158) + 1)),
    "no subject": encoded(subject=der.sequence()),
})


def nested(times):
    made = b""
    for _ in range(times):
        made = der.sequence(made)
    return made


# --- giants (F13) ---

BEHIND_LIMIT = ("tls_protocol", "illegal_parameter")  # of the message: BoringSSL reads no further


def stuffed(size):
    """An extension that makes the whole certificate as large as that."""
    def make(w):
        rest = size - len(w.leaf(more=[ext(UNKNOWN, bytes(size))]).certs[0])
        return exactly(w, size, size + rest)
    return make


def exactly(w, size, guess):
    """Signatures are of one length or another: until it fits."""
    for _ in range(200):
        shown = w.leaf(more=[ext(UNKNOWN, bytes(guess))])
        if len(shown.certs[0]) == size:
            return shown
        guess += size - len(shown.certs[0])
    raise AssertionError(f"no certificate of {size} bytes")


def many_names(number, **changes):
    return lambda w: w.leaf(uri(w.id), *[dns(f"n{i}.test") for i in range(number)], **changes)


def behind(number, size=None):
    """The right leaf, and that many certificates behind it that have nothing to do with it."""
    return lambda w: w.leaf(chain=[stranger(w).cert if size is None else bytes(size)] * number)


def squares(w):
    """As many names as may be against as many constraints as may be."""
    above = w.authority("intermediate 0", w.roots["root"], number=20, more=[
        never(*[uri(f"n{i}.test") for i in range(64)])])
    return w.leaf(uri(w.other_id), *[dns(f"n{i}.test") for i in range(63)], above=above)


bad("giants", "chain_too_long", {
    "10 certificates": behind(9),
    "64 certificates": behind(63),
    "100 certificates of one byte": behind(99, 1),
    "10,000 certificates of one byte": but(behind(9999, 1), *BEHIND_LIMIT),
    "100 certificates": but(behind(99), *BEHIND_LIMIT),
    "a byte above the limit": stuffed(32769),
    "100 KiB less one": but(stuffed(102399), *BEHIND_LIMIT),
    "an extension of 64 kB": but(encoded(more=[ext(UNKNOWN, bytes(65536))]), *BEHIND_LIMIT),
    "a critical extension of 64 kB": but(encoded(more=[ext(UNKNOWN, bytes(65536), True)]),
                                         *BEHIND_LIMIT),
    "1 MiB": but(encoded(more=[ext(UNKNOWN, bytes(1 << 20))]), *BEHIND_LIMIT),
})
bad("giants", "san_too_many", {
    "65 names": many_names(64), "1,500 names": many_names(1500),
    "1,500 names above": lambda w: w.below({"names": names(*[dns(f"n{i}.test")
                                                            for i in range(1500)])}),
    "10,000 names": but(many_names(10_000), *BEHIND_LIMIT),
    "1,000 identities": but(lambda w: w.leaf(*[uri(w.id[:20])] * 1000), "san_too_many"),
})
bad("giants", "cert_usage", {
    "500 extensions": encoded(more=[ext(f"{UNKNOWN}.{i}", der.NULL) for i in range(500)]),
    "1,000 constraints": constrained(never(*[uri(f"n{i}.test") for i in range(1000)])),
    "2,000 purposes": encoded(eku=eku(*[f"{UNKNOWN}.{i}" for i in range(2000)])),
    "a critical extension of 30 kB": encoded(more=[ext(UNKNOWN, bytes(30000), True)]),
})
bad("giants", None, {
    "64 names against 64 constraints": squares,
    "a subject of 30 kB": lambda w: w.leaf(uri(w.other_id), subject=der.name("a" * 30000)),
    "a subject of 1,500 parts": lambda w: w.leaf(uri(w.other_id), subject=der.sequence(
        *[der.set_of(der.sequence(der.oid("2.5.4.11"), der.utf8("a")))] * 1500)),
}, at=SOMEBODY)
bad("giants", "chain_untrusted", {
    "an issuer of 30 kB": lambda w: w.leaf(issuer=der.name("a" * 30000)),
})
bad("giants", "key_weak", {
    "RSA of 200,000 bits": but(of_rsa((1 << 199_999) + 1), *UNREADABLE_KEY),
    "intermediate RSA of 200,000 bits": intermediate_spki(lambda: rsa_public((1 << 199_999) + 1)),
})
good("giants", {
    "at the limit": stuffed(32768),
    "five certificates": behind(4),
    "a subject of 30 kB and the right identity": lambda w: w.leaf(subject=der.name("a" * 30000)),
})
