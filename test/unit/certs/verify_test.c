/* The one identity parser: a table of chains as attackers, broken tools and other CAs make them,
 * each with the exact error, in both roles; the cache; what a refusal may cost. Without it: a
 * certificate that any library accepts by its letter becomes an identity of the mesh. Drives: R5,
 * R6, R16. */
#include "certs/verify.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "certs/boring.h"
#include "test/unit/certs/certgen.h"

#define VERIFY_TEST_CAS 5
#define SUB_ANY INT_MIN

enum {
    ROLE_BOTH = 0, /* the same is expected of both */
    ROLE_SERVER = 1,
    ROLE_CLIENT = 2,
};

/* Odd shapes of a chain; a bit each. */
enum {
    SEND_ROOT = 1,         /* behind the others, as many servers do */
    SEND_NO_CA = 2,        /* the leaf alone */
    SEND_REVERSED = 4,     /* the CAs the other way round */
    SEND_LEAF_TWICE = 8,   /* the leaf again behind itself */
    SEND_STRANGER = 16,    /* a CA that has nothing to do with it */
    SEND_NOTHING = 32,     /* an empty list */
    SELF_SIGNED = 64,      /* the leaf signs itself */
    LEAF_SIGNS = 128,      /* the leaf's issuer is itself a leaf of the mesh */
    TRUST_OTHER = 256,     /* the bundle has a root of the same name and another key */
    TRUST_BOTH = 512,      /* the bundle has that one and the right one */
    TRUST_CA = 1024,       /* the bundle has the first CA and no root */
    LEAF_IS_ANCHOR = 2048, /* the bundle's own root is shown as leaf */
    SEND_GARBAGE_LEAF = 4096,
    SEND_GARBAGE_CA = 8192,
};

struct verify_case {
    const char *name;
    struct certgen_params leaf;
    struct certgen_params cas[VERIFY_TEST_CAS]; /* the leaf's issuer first */
    struct certgen_params root;
    size_t num_cas;
    unsigned shape;
    unsigned role;
    int64_t now_s; /* after CERTGEN_NOW */
    const char *trust_domain;
    enum err_code want;
    int sub;
    const char *id; /* of an accepted one; NULL: CERTGEN_ID */
};

#define LEAF(...) .leaf = {__VA_ARGS__}
#define SANS(...) .leaf = {.sans = {__VA_ARGS__}}
#define CA1(...) .num_cas = 1, .cas = {{__VA_ARGS__}}
#define EXPECT(code, sub_) .want = E_##code, .sub = (sub_)

static const struct verify_case verify_cases[] = {
    /* --- what is right --- */
    {"ordinary leaf under the root", LEAF(0)},
    {"under an intermediate", .num_cas = 1},
    {"under four intermediates", .num_cas = 4},
    {"root sent as well", .num_cas = 1, .shape = SEND_ROOT},
    {"four certificates and the root", .num_cas = 3, .shape = SEND_ROOT},
    {"CAs in the wrong order", .num_cas = 3, .shape = SEND_REVERSED},
    {"leaf sent twice", .num_cas = 1, .shape = SEND_LEAF_TWICE},
    {"a stranger's CA beside it", .num_cas = 1, .shape = SEND_STRANGER},
    {"two roots of one name", .num_cas = 1, .shape = TRUST_BOTH},
    {"anchor is an intermediate", .num_cas = 2, .shape = TRUST_CA},
    {"anchor is the sent intermediate", .num_cas = 1, .shape = TRUST_CA},
    {"P-384 leaf", LEAF(.key = CERTGEN_P384)},
    {"RSA 2048 leaf", LEAF(.key = CERTGEN_RSA2048)},
    {"RSA 2048 CA", CA1(.key = CERTGEN_RSA2048)},
    {"P-384 root with SHA-384", .root = {.key = CERTGEN_P384, .hash = CERTGEN_SHA384}},
    {"leaf signed with SHA-512", LEAF(.hash = CERTGEN_SHA512)},
    {"root signed with SHA-1: nobody relies on it", .root = {.hash = CERTGEN_SHA1}},
    {"no EKU at all", LEAF(.eku = CERTGEN_NONE)},
    {"EKU critical", LEAF(.eku_critical = true)},
    {"EKU server for a server", LEAF(.eku_bits = CERTGEN_EKU_SERVER), .role = ROLE_SERVER},
    {"EKU client for a client", LEAF(.eku_bits = CERTGEN_EKU_CLIENT), .role = ROLE_CLIENT},
    {"key usage with encipherment too", LEAF(.usage_bits = CERTGEN_KU_SIGN | CERTGEN_KU_ENCIPHER)},
    {"no basic constraints in a leaf", LEAF(.basic = CERTGEN_NONE)},
    {"no key identifiers", LEAF(.ids = CERTGEN_NONE), .num_cas = 1},
    {"unknown extension, not critical", LEAF(.unknown_plain = true)},
    {"SAN critical", LEAF(.san_critical = true)},
    {"intermediate with path length 0", CA1(.path_len = 1)},
    {"path lengths 1 and 0", .num_cas = 2, .cas = {{.path_len = 1}, {.path_len = 2}}},
    {"name constraint of the trust domain", CA1(.permitted = {CERTGEN_URI("example.org")})},
    {"constraint on DNS names alone", CA1(.permitted = {CERTGEN_DNS("elsewhere.org")})},
    {"excluded is another domain", CA1(.excluded = {CERTGEN_URI("example.com")})},
    {"last second", LEAF(0), .now_s = 86399},
    {"first second", LEAF(0), .now_s = -3600},
    {"expected trust domain", LEAF(0), .trust_domain = "example.org"},
    {"URI and DNS names", SANS(CERTGEN_DNS("a.example.org"), CERTGEN_URI(CERTGEN_ID))},
    {"URI beside names of other kinds",
     SANS(CERTGEN_EMAIL("a@example.org"), CERTGEN_IP("\x0a\0\0\1"), CERTGEN_URI(CERTGEN_ID))},
    {"DNS name only", SANS(CERTGEN_DNS("a.example.org")), .id = ""},
    {"64 names", LEAF(.num_dns = 64), .id = ""},
    {"serial of 20 bytes",
     LEAF(.serial = "\x7f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", .serial_len = 20)},

    /* --- dates: F01, F02 --- */
    {"leaf expired for a second", LEAF(.to_s = -86401), EXPECT(CERT_EXPIRED, 1)},
    {"leaf expires now", LEAF(.to_s = -86400), EXPECT(CERT_EXPIRED, 0)},
    {"leaf expired for a day", LEAF(0), .now_s = 2 * 86400, EXPECT(CERT_EXPIRED, 86400)},
    {"intermediate expired", CA1(.to_s = -86400 - 77), EXPECT(CERT_EXPIRED, 77)},
    {"root expired", .root = {.to_s = -86400 - 55}, EXPECT(CERT_EXPIRED, 55)},
    {"leaf not yet valid", LEAF(.from_s = 3600 + 60), EXPECT(CERT_NOT_YET_VALID, 60)},
    {"intermediate not yet valid", CA1(.from_s = 3600 + 61), EXPECT(CERT_NOT_YET_VALID, 61)},
    {"root not yet valid", .root = {.from_s = 3600 + 62}, EXPECT(CERT_NOT_YET_VALID, 62)},
    {"a second too early", LEAF(0), .now_s = -3601, EXPECT(CERT_NOT_YET_VALID, 1)},
    {"no date", LEAF(.raw_not_after = "991332256199Z"), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"date without zone", LEAF(.raw_not_after = "300101000000"), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"date with an offset", LEAF(.raw_not_after = "300101000000+0100"),
     EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"ends before it begins", LEAF(.to_s = -100000), EXPECT(CERT_EXPIRED, 13600)},

    /* --- who signed: F03, F04 --- */
    {"another root of the same name", LEAF(.ids = CERTGEN_NONE), .shape = TRUST_OTHER,
     .root = {.ids = CERTGEN_NONE}, EXPECT(CHAIN_INVALID, X509_V_ERR_CERT_SIGNATURE_FAILURE)},
    {"another root of the same name, told apart by key", LEAF(0), .shape = TRUST_OTHER,
     EXPECT(CHAIN_UNTRUSTED, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)},
    {"its root is sent but not trusted", LEAF(0), .shape = TRUST_OTHER | SEND_ROOT,
     EXPECT(CHAIN_UNTRUSTED, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN)},
    {"unknown root", .root = {.subject = "stranger"}, .shape = TRUST_OTHER, .num_cas = 1,
     EXPECT(CHAIN_UNTRUSTED, SUB_ANY)},
    {"key identifier that lies", LEAF(.akid_lies = true),
     EXPECT(CHAIN_UNTRUSTED, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)},
    {"intermediate is missing", .num_cas = 1, .shape = SEND_NO_CA,
     EXPECT(CHAIN_UNTRUSTED, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)},
    {"self-signed leaf", LEAF(0), .shape = SELF_SIGNED, EXPECT(CHAIN_UNTRUSTED, SUB_ANY)},
    {"self-signed leaf that names our root as issuer", LEAF(.subject = "root"),
     .shape = SELF_SIGNED, EXPECT(CHAIN_UNTRUSTED, SUB_ANY)},
    {"self-signed CA as leaf", LEAF(.ca = true, .sans = {CERTGEN_URI(CERTGEN_ID)}),
     .shape = SELF_SIGNED, EXPECT(CHAIN_UNTRUSTED, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT)},
    {"leaf's signature is wrong", LEAF(.bad_signature = true),
     EXPECT(CHAIN_INVALID, X509_V_ERR_CERT_SIGNATURE_FAILURE)},
    {"intermediate's signature is wrong", CA1(.bad_signature = true),
     EXPECT(CHAIN_INVALID, X509_V_ERR_CERT_SIGNATURE_FAILURE)},
    {"inner and outer algorithm differ", LEAF(.hash_differs = true),
     EXPECT(CHAIN_INVALID, X509_V_ERR_CERT_SIGNATURE_FAILURE)},
    {"leaf signs a leaf", LEAF(0), .shape = LEAF_SIGNS,
     EXPECT(CHAIN_INVALID, X509_V_ERR_INVALID_CA)},
    {"CA as leaf", LEAF(.ca = true, .sans = {CERTGEN_URI(CERTGEN_ID)}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_INVALID_CA)},
    {"CA as leaf, with digitalSignature",
     LEAF(.ca = true, .sans = {CERTGEN_URI(CERTGEN_ID)},
          .usage_bits = CERTGEN_KU_SIGN | CERTGEN_KU_CERT_SIGN),
     EXPECT(CHAIN_INVALID, X509_V_ERR_INVALID_CA)},
    {"the root itself as leaf", .shape = LEAF_IS_ANCHOR,
     .root = {.sans = {CERTGEN_URI(CERTGEN_ID)}}, EXPECT(CHAIN_INVALID, X509_V_ERR_INVALID_CA)},
    {"intermediate that is no CA", CA1(.flip_ca = true), EXPECT(CHAIN_INVALID, SUB_ANY)},
    {"intermediate without basic constraints", CA1(.basic = CERTGEN_NONE),
     EXPECT(CHAIN_INVALID, SUB_ANY)},
    {"intermediate without keyCertSign", CA1(.usage_bits = CERTGEN_KU_SIGN),
     EXPECT(CHAIN_INVALID, X509_V_ERR_INVALID_CA)},
    {"intermediate of version 1", CA1(.version = 1), EXPECT(CHAIN_INVALID, SUB_ANY)},
    {"path length 0 above another CA", .num_cas = 2, .cas = {{0}, {.path_len = 1}},
     EXPECT(CHAIN_INVALID, X509_V_ERR_PATH_LENGTH_EXCEEDED)},
    {"path length 1 above two CAs", .num_cas = 3, .cas = {{0}, {0}, {.path_len = 2}},
     EXPECT(CHAIN_INVALID, X509_V_ERR_PATH_LENGTH_EXCEEDED)},
    {"root's path length 0", .num_cas = 1, .root = {.path_len = 1},
     EXPECT(CHAIN_INVALID, X509_V_ERR_PATH_LENGTH_EXCEEDED)},
    {"no certificate", .shape = SEND_NOTHING, EXPECT(CERT_MISSING, 0)},

    /* --- names: F07, B10, B11, B12, B16 --- */
    {"no SAN", LEAF(.san = CERTGEN_NONE), EXPECT(SAN_NONE, 0)},
    {"common name only", LEAF(.subject = "a.example.org", .san = CERTGEN_NONE),
     EXPECT(SAN_NONE, 0)},
    {"common name is the ID", LEAF(.subject = CERTGEN_ID, .san = CERTGEN_NONE),
     EXPECT(SAN_NONE, 0)},
    {"version 1, no extensions", LEAF(.version = 1), EXPECT(CERT_USAGE, SUB_ANY)},
    {"two URIs", SANS(CERTGEN_URI(CERTGEN_ID), CERTGEN_URI("spiffe://example.org/ns/a/sa/c")),
     EXPECT(SAN_MULTIPLE, 2)},
    {"the same URI twice", SANS(CERTGEN_URI(CERTGEN_ID), CERTGEN_URI(CERTGEN_ID)),
     EXPECT(SAN_MULTIPLE, 2)},
    {"ID and another URI", SANS(CERTGEN_URI(CERTGEN_ID), CERTGEN_URI("https://example.org/")),
     EXPECT(SAN_MULTIPLE, 2)},
    {"another URI and ID", SANS(CERTGEN_URI("https://example.org/"), CERTGEN_URI(CERTGEN_ID)),
     EXPECT(SAN_MULTIPLE, 2)},
    {"three URIs among DNS names",
     SANS(CERTGEN_DNS("a.b"), CERTGEN_URI(CERTGEN_ID), CERTGEN_URI(CERTGEN_ID), CERTGEN_DNS("c.d"),
          CERTGEN_URI(CERTGEN_ID)),
     EXPECT(SAN_MULTIPLE, 3)},
    {"SAN extension twice", LEAF(.san = CERTGEN_TWICE), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"SAN extension malformed", LEAF(.san = CERTGEN_MALFORMED), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"no SPIFFE URI", SANS(CERTGEN_URI("https://example.org/ns/a/sa/b")), EXPECT(SAN_SYNTAX, 0)},
    {"empty URI", SANS(CERTGEN_URI("")), EXPECT(SAN_SYNTAX, 0)},
    {"scheme alone", SANS(CERTGEN_URI("spiffe://")), EXPECT(SAN_SYNTAX, 9)},
    {"scheme in capitals", SANS(CERTGEN_URI("SPIFFE://example.org/a")), EXPECT(SAN_SYNTAX, 0)},
    {"one slash", SANS(CERTGEN_URI("spiffe:/example.org/a")), EXPECT(SAN_SYNTAX, 8)},
    {"no trust domain", SANS(CERTGEN_URI("spiffe:///ns/a")), EXPECT(SAN_SYNTAX, 9)},
    {"trust domain alone", SANS(CERTGEN_URI("spiffe://example.org")), EXPECT(SAN_SYNTAX, 20)},
    {"trust domain and a slash", SANS(CERTGEN_URI("spiffe://example.org/")),
     EXPECT(SAN_SYNTAX, 20)},
    {"capital in the domain", SANS(CERTGEN_URI("spiffe://Example.org/a")), EXPECT(SAN_SYNTAX, 9)},
    {"port", SANS(CERTGEN_URI("spiffe://example.org:443/a")), EXPECT(SAN_SYNTAX, 20)},
    {"user", SANS(CERTGEN_URI("spiffe://u@example.org/a")), EXPECT(SAN_SYNTAX, 10)},
    {"query", SANS(CERTGEN_URI("spiffe://example.org/a?b")), EXPECT(SAN_SYNTAX, 22)},
    {"fragment", SANS(CERTGEN_URI("spiffe://example.org/a#b")), EXPECT(SAN_SYNTAX, 22)},
    {"percent", SANS(CERTGEN_URI("spiffe://example.org/%61")), EXPECT(SAN_SYNTAX, 21)},
    {"dot-dot as %2e%2e", SANS(CERTGEN_URI("spiffe://example.org/a/%2e%2e/b")),
     EXPECT(SAN_SYNTAX, 23)},
    {"dot", SANS(CERTGEN_URI("spiffe://example.org/a/./b")), EXPECT(SAN_SYNTAX, 23)},
    {"dot-dot", SANS(CERTGEN_URI("spiffe://example.org/a/../b")), EXPECT(SAN_SYNTAX, 23)},
    {"dot-dot at the end", SANS(CERTGEN_URI("spiffe://example.org/a/..")), EXPECT(SAN_SYNTAX, 23)},
    {"empty segment", SANS(CERTGEN_URI("spiffe://example.org/a//b")), EXPECT(SAN_SYNTAX, 23)},
    {"slash at the end", SANS(CERTGEN_URI("spiffe://example.org/a/")), EXPECT(SAN_SYNTAX, 22)},
    {"wildcard segment", SANS(CERTGEN_URI("spiffe://example.org/ns/a/sa/*")),
     EXPECT(SAN_SYNTAX, 29)},
    {"wildcard domain", SANS(CERTGEN_URI("spiffe://*.example.org/a")), EXPECT(SAN_SYNTAX, 9)},
    {"space", SANS(CERTGEN_URI("spiffe://example.org/a b")), EXPECT(SAN_SYNTAX, 22)},
    {"space at the end", SANS(CERTGEN_URI("spiffe://example.org/a ")), EXPECT(SAN_SYNTAX, 22)},
    {"newline", SANS(CERTGEN_URI("spiffe://example.org/a\nb")), EXPECT(SAN_SYNTAX, 22)},
    {"comma", SANS(CERTGEN_URI("spiffe://example.org/a,URI:spiffe://x/y")), EXPECT(SAN_SYNTAX, 22)},
    {"backslash", SANS(CERTGEN_URI("spiffe://example.org/a\\b")), EXPECT(SAN_SYNTAX, 22)},
    {"UTF-8", SANS(CERTGEN_URI("spiffe://example.org/\xc3\xa4")), EXPECT(SAN_SYNTAX, 21)},
    {"byte above ASCII in the domain",
     SANS(CERTGEN_URI("spiffe://ex\xff"
                      "ample.org/a")),
     EXPECT(SAN_SYNTAX, 11)},
    {"NUL at the end", SANS(CERTGEN_URI("spiffe://example.org/ns/a/sa/b\0")),
     EXPECT(SAN_SYNTAX, 30)},
    {"NUL and more", SANS(CERTGEN_URI("spiffe://example.org/ns/a/sa/b\0.evil.org")),
     EXPECT(SAN_SYNTAX, 30)},
    {"2049 bytes", SANS({0x86, NULL, 2049}), EXPECT(SAN_SYNTAX, 2048)},
    {"16 KiB of URI", SANS({0x86, NULL, 16384}), EXPECT(SAN_SYNTAX, 2048)},
    {"an ID as DNS name", SANS(CERTGEN_DNS("spiffe://example.org/ns/a/sa/b")),
     EXPECT(SAN_SYNTAX, 0)},
    {"an ID as e-mail address", SANS(CERTGEN_EMAIL("spiffe://example.org/ns/a/sa/b")),
     EXPECT(SAN_NONE, 0)},
    {"an ID as other name",
     SANS(CERTGEN_OTHER("\x06\x03\x2a\x03\x04\xa0\x20\x0c\x1e"
                        "spiffe://example.org/ns/a/sa/b")),
     EXPECT(SAN_NONE, 0)},
    {"a DNS name as e-mail address", SANS(CERTGEN_EMAIL("a.example.org")), EXPECT(SAN_NONE, 0)},
    {"an IP address alone", SANS(CERTGEN_IP("\x7f\0\0\1")), EXPECT(SAN_NONE, 0)},
    {"a registered ID alone", SANS(CERTGEN_RID("\x2a\x03\x04")), EXPECT(SAN_NONE, 0)},
    {"wildcard DNS name", SANS(CERTGEN_DNS("*.example.org")), EXPECT(SAN_SYNTAX, 0)},
    {"wildcard in the middle", SANS(CERTGEN_DNS("a.*.example.org")), EXPECT(SAN_SYNTAX, 0)},
    {"wildcard alone", SANS(CERTGEN_DNS("*")), EXPECT(SAN_SYNTAX, 0)},
    {"partial wildcard", SANS(CERTGEN_DNS("a*.example.org")), EXPECT(SAN_SYNTAX, 0)},
    {"DNS name with NUL", SANS(CERTGEN_DNS("a.example.org\0.evil.org")), EXPECT(SAN_SYNTAX, 0)},
    {"DNS name with a dot at the end", SANS(CERTGEN_DNS("a.example.org.")), EXPECT(SAN_SYNTAX, 0)},
    {"DNS name that begins with a dot", SANS(CERTGEN_DNS(".example.org")), EXPECT(SAN_SYNTAX, 0)},
    {"empty DNS name", SANS(CERTGEN_DNS("")), EXPECT(SAN_SYNTAX, 0)},
    {"DNS name of UTF-8",
     SANS(CERTGEN_DNS("b\xc3\xbc"
                      "cher.example")),
     EXPECT(SAN_SYNTAX, 0)},
    {"DNS label of 64", SANS({0x82, NULL, 64}), EXPECT(SAN_SYNTAX, 0)},
    {"good ID beside a bad DNS name", SANS(CERTGEN_URI(CERTGEN_ID), CERTGEN_DNS("*.evil.org")),
     EXPECT(SAN_SYNTAX, 0)},
    {"another trust domain", SANS(CERTGEN_URI("spiffe://example.com/a")),
     .trust_domain = "example.org", EXPECT(TRUST_DOMAIN, 0)},
    {"trust domain is only a prefix", SANS(CERTGEN_URI("spiffe://example.org.evil/a")),
     .trust_domain = "example.org", EXPECT(TRUST_DOMAIN, 0)},
    {"trust domain is only a suffix", SANS(CERTGEN_URI("spiffe://example.org/a")),
     .trust_domain = "ample.org", EXPECT(TRUST_DOMAIN, 0)},

    /* --- usage and extensions: F08, B13 --- */
    {"EKU server for a client", LEAF(.eku_bits = CERTGEN_EKU_SERVER), .role = ROLE_CLIENT,
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"EKU client for a server", LEAF(.eku_bits = CERTGEN_EKU_CLIENT), .role = ROLE_SERVER,
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"EKU e-mail", LEAF(.eku_bits = CERTGEN_EKU_EMAIL),
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"EKU code signing", LEAF(.eku_bits = CERTGEN_EKU_CODE),
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"EKU any is not ours", LEAF(.eku_bits = CERTGEN_EKU_ANY),
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"EKU malformed", LEAF(.eku = CERTGEN_MALFORMED), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"EKU twice", LEAF(.eku = CERTGEN_TWICE), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"intermediate with EKU e-mail", CA1(.eku_bits = CERTGEN_EKU_EMAIL),
     EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"intermediate with EKU server for a client", CA1(.eku_bits = CERTGEN_EKU_SERVER),
     .role = ROLE_CLIENT, EXPECT(CERT_USAGE, X509_V_ERR_INVALID_PURPOSE)},
    {"no key usage", LEAF(.usage = CERTGEN_NONE), EXPECT(CERT_USAGE, SUB_ANY)},
    {"key usage without digitalSignature", LEAF(.usage_bits = CERTGEN_KU_ENCIPHER),
     EXPECT(CERT_USAGE, SUB_ANY)},
    {"key usage with keyCertSign", LEAF(.usage_bits = CERTGEN_KU_SIGN | CERTGEN_KU_CERT_SIGN),
     EXPECT(CERT_USAGE, SUB_ANY)},
    {"key usage with cRLSign", LEAF(.usage_bits = CERTGEN_KU_SIGN | CERTGEN_KU_CRL_SIGN),
     EXPECT(CERT_USAGE, SUB_ANY)},
    {"key usage malformed", LEAF(.usage = CERTGEN_MALFORMED), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"key usage twice", LEAF(.usage = CERTGEN_TWICE), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"basic constraints malformed", LEAF(.basic = CERTGEN_MALFORMED), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"basic constraints twice", LEAF(.basic = CERTGEN_TWICE), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"unknown extension twice", LEAF(.unknown_plain = true, .extension_len = 4),
     EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"unknown extension twice in an intermediate", CA1(.unknown_plain = true, .extension_len = 4),
     EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"unknown critical extension", LEAF(.unknown_critical = true),
     EXPECT(CERT_USAGE, X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION)},
    {"unknown critical extension of an intermediate", CA1(.unknown_critical = true),
     EXPECT(CERT_USAGE, X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION)},
    {"permitted is another domain", CA1(.permitted = {CERTGEN_URI("example.com")}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_PERMITTED_VIOLATION)},
    {"permitted are subdomains only", CA1(.permitted = {CERTGEN_URI(".example.org")}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_PERMITTED_VIOLATION)},
    {"excluded", CA1(.excluded = {CERTGEN_URI("example.org")}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_EXCLUDED_VIOLATION)},
    {"permitted and excluded",
     CA1(.permitted = {CERTGEN_URI("example.org")}, .excluded = {CERTGEN_URI("example.org")}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_EXCLUDED_VIOLATION)},
    {"constraint of the root counts", .num_cas = 1,
     .root = {.permitted = {CERTGEN_URI("example.com")}},
     EXPECT(CHAIN_INVALID, X509_V_ERR_PERMITTED_VIOLATION)},
    {"DNS name outside of the constraint", SANS(CERTGEN_DNS("a.evil.org")),
     CA1(.permitted = {CERTGEN_DNS("example.org")}),
     EXPECT(CHAIN_INVALID, X509_V_ERR_PERMITTED_VIOLATION)},
    {"name constraints without one", CA1(.constraints_empty = true), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"name constraints malformed", CA1(.constraints_malformed = true),
     EXPECT(CERT_SYNTAX, SUB_ANY)},

    /* --- strength: F09 --- */
    {"RSA 1024", LEAF(.key = CERTGEN_RSA1024), EXPECT(KEY_WEAK, 1024)},
    {"RSA 2047", LEAF(.key = CERTGEN_RSA2047), EXPECT(KEY_WEAK, 2047)},
    {"RSA 8193", LEAF(.key = CERTGEN_RSA8193), EXPECT(KEY_WEAK, SUB_ANY)},
    {"RSA 16384", LEAF(.key = CERTGEN_RSA16384), EXPECT(KEY_WEAK, SUB_ANY)},
    {"P-224", LEAF(.key = CERTGEN_P224), EXPECT(KEY_WEAK, 224)},
    {"P-521", LEAF(.key = CERTGEN_P521), EXPECT(KEY_WEAK, 521)},
    {"Ed25519", LEAF(.key = CERTGEN_ED25519), EXPECT(KEY_WEAK, SUB_ANY)},
    {"DSA", LEAF(.key = CERTGEN_DSA), EXPECT(KEY_WEAK, SUB_ANY)},
    {"curve parameters written out", LEAF(.key = CERTGEN_EXPLICIT_P256), EXPECT(KEY_WEAK, SUB_ANY)},
    {"key of an unknown kind", LEAF(.key = CERTGEN_UNKNOWN_KEY), EXPECT(KEY_WEAK, SUB_ANY)},
    {"no point on the curve", LEAF(.key = CERTGEN_GARBAGE_KEY), EXPECT(KEY_WEAK, SUB_ANY)},
    {"RSA 1024 intermediate", CA1(.key = CERTGEN_RSA1024), EXPECT(KEY_WEAK, 1024)},
    {"P-224 intermediate", CA1(.key = CERTGEN_P224), EXPECT(KEY_WEAK, 224)},
    {"P-521 intermediate", CA1(.key = CERTGEN_P521), EXPECT(KEY_WEAK, 521)},
    {"Ed25519 intermediate", CA1(.key = CERTGEN_ED25519), EXPECT(KEY_WEAK, SUB_ANY)},
    {"DSA intermediate", CA1(.key = CERTGEN_DSA), EXPECT(KEY_WEAK, SUB_ANY)},
    {"RSA 16384 intermediate", CA1(.key = CERTGEN_RSA16384), EXPECT(KEY_WEAK, SUB_ANY)},
    {"unknown kind of key in an intermediate", CA1(.key = CERTGEN_UNKNOWN_KEY),
     EXPECT(KEY_WEAK, SUB_ANY)},
    {"no point on the curve in an intermediate", CA1(.key = CERTGEN_GARBAGE_KEY),
     EXPECT(KEY_WEAK, SUB_ANY)},
    {"written-out curve in an intermediate", CA1(.key = CERTGEN_EXPLICIT_P256),
     EXPECT(KEY_WEAK, SUB_ANY)},
    {"ECDSA with SHA-1", LEAF(.hash = CERTGEN_SHA1), EXPECT(CERT_WEAK_SIGNATURE, SUB_ANY)},
    {"RSA with SHA-1", LEAF(.hash = CERTGEN_SHA1), CA1(.key = CERTGEN_RSA2048),
     EXPECT(CERT_WEAK_SIGNATURE, SUB_ANY)},
    {"RSA with MD5", LEAF(.hash = CERTGEN_MD5), CA1(.key = CERTGEN_RSA2048),
     EXPECT(CERT_WEAK_SIGNATURE, NID_md5WithRSAEncryption)},
    {"intermediate with SHA-1", CA1(.hash = CERTGEN_SHA1), EXPECT(CERT_WEAK_SIGNATURE, SUB_ANY)},

    /* --- sizes: F13, B54 --- */
    {"six certificates", .num_cas = 5, EXPECT(CHAIN_TOO_LONG, 6)},
    {"five and the root", .num_cas = 4, .shape = SEND_ROOT, EXPECT(CHAIN_TOO_LONG, 6)},
    {"33 KiB in an extension", LEAF(.extension_len = 33000), EXPECT(CHAIN_TOO_LONG, SUB_ANY)},
    {"31 KiB in an extension", LEAF(.extension_len = 31000)},
    {"65 names", LEAF(.num_dns = 65), EXPECT(SAN_TOO_MANY, 65)},
    {"1200 names", LEAF(.num_dns = 1200), EXPECT(SAN_TOO_MANY, SUB_ANY)},
    {"10000 names", LEAF(.num_dns = 10000), EXPECT(CHAIN_TOO_LONG, SUB_ANY)},
    {"100 names in an intermediate", CA1(.num_dns = 100), EXPECT(SAN_TOO_MANY, SUB_ANY)},
    {"65 name constraints", CA1(.num_excluded = 65), EXPECT(CERT_USAGE, SUB_ANY)},
    {"64 name constraints", CA1(.num_excluded = 64)},
    {"40 extensions", LEAF(.num_extensions = 40), EXPECT(CERT_USAGE, SUB_ANY)},
    {"serial of 21 bytes",
     LEAF(.serial = "\x7f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", .serial_len = 21),
     EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"negative serial", LEAF(.serial = "\x80", .serial_len = 1), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"serial 0", LEAF(.serial = "\0", .serial_len = 1), EXPECT(CERT_SYNTAX, 0)},
    {"serial 0 of an intermediate", CA1(.serial = "\0", .serial_len = 1), EXPECT(CERT_SYNTAX, 0)},
    {"negative serial of an intermediate", CA1(.serial = "\x80", .serial_len = 1),
     EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"serial of 21 bytes of an intermediate",
     CA1(.serial = "\x7f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", .serial_len = 21),
     EXPECT(CERT_SYNTAX, 21)},
    {"serial 0 of the root: old ones have it", .root = {.serial = "\0", .serial_len = 1}},

    /* --- no certificates at all: B55 --- */
    {"bytes behind the leaf", LEAF(.trailing = true), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"the leaf's last byte is missing", LEAF(.truncated = true), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"bytes behind an intermediate", CA1(.trailing = true), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"version 4", LEAF(.version = 4), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"version 2 with extensions", LEAF(.version = 2), EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"garbage as leaf", .shape = SEND_GARBAGE_LEAF, EXPECT(CERT_SYNTAX, SUB_ANY)},
    {"garbage as intermediate", .num_cas = 1, .shape = SEND_GARBAGE_CA,
     EXPECT(CERT_SYNTAX, SUB_ANY)},
};

/* --- building one case --- */

struct built {
    struct certgen *root;
    struct certgen *other_root;
    struct certgen *stranger;
    struct certgen *signing_leaf;
    struct certgen *cas[VERIFY_TEST_CAS]; /* the leaf's issuer first */
    struct certgen *leaf;
    STACK_OF(CRYPTO_BUFFER) * chain;
    struct bundle *bundle;
};

static void built_send(struct built *built, struct bytes der)
{
    CRYPTO_BUFFER *buffer = CRYPTO_BUFFER_new(der.ptr, der.len, NULL);

    assert_true(sk_CRYPTO_BUFFER_push(built->chain, buffer) > 0);
}

static struct certgen_params built_ca(const struct certgen_params *params, const char *subject,
                                      enum certgen_key key)
{
    struct certgen_params ca = *params;

    ca.ca = true;
    if (ca.subject == NULL)
        ca.subject = subject;
    if (ca.key == CERTGEN_P256)
        ca.key = key;
    if (ca.version != 1 && ca.to_s == 0)
        ca.to_s = INT64_C(10) * 86400; /* ends after the leaf, which ends first */
    return ca;
}

static void built_make(struct built *built, const struct verify_case *one)
{
    static const char *const names[] = {"ca1", "ca2", "ca3", "ca4", "ca5"};
    struct certgen_params root = built_ca(&one->root, "root", CERTGEN_P256_ROOT);
    struct certgen_params other = built_ca(&one->root, "root", CERTGEN_P256_OTHER);
    const struct certgen *above;

    if (one->root.subject != NULL)
        other.subject = "root";
    built->root = certgen_make(NULL, &root);
    built->other_root = certgen_make(NULL, &other);
    above = built->root;
    for (size_t i = one->num_cas; i > 0; i--) {
        struct certgen_params ca = built_ca(&one->cas[i - 1], names[i - 1], CERTGEN_P256_CA);
        built->cas[i - 1] = certgen_make(above, &ca);
        above = built->cas[i - 1];
    }
    if ((one->shape & LEAF_SIGNS) != 0) {
        built->signing_leaf = certgen_make(
            above, &(struct certgen_params){.subject = "signer", .key = CERTGEN_P256_OTHER});
        above = built->signing_leaf;
    }
    built->leaf = certgen_make((one->shape & SELF_SIGNED) != 0 ? NULL : above, &one->leaf);
}

static void built_chain(struct built *built, const struct verify_case *one)
{
    unsigned shape = one->shape;
    static const uint8_t garbage[] = {0x30, 0x82, 0x01, 0x00, 0x02, 0x01, 0x05};

    built->chain = sk_CRYPTO_BUFFER_new_null();
    if ((shape & SEND_NOTHING) != 0)
        return;
    if ((shape & SEND_GARBAGE_LEAF) != 0)
        built_send(built, bytes_of(garbage, sizeof garbage));
    else if ((shape & LEAF_IS_ANCHOR) != 0)
        built_send(built, certgen_der(built->root));
    else
        built_send(built, certgen_der(built->leaf));
    if ((shape & SEND_LEAF_TWICE) != 0)
        built_send(built, certgen_der(built->leaf));
    if ((shape & LEAF_SIGNS) != 0)
        built_send(built, certgen_der(built->signing_leaf));
    if ((shape & SEND_STRANGER) != 0) {
        built->stranger = certgen_make(
            NULL,
            &(struct certgen_params){.ca = true, .subject = "stranger", .key = CERTGEN_P256_OTHER});
        built_send(built, certgen_der(built->stranger));
    }
    for (size_t i = 0; (shape & SEND_NO_CA) == 0 && i < one->num_cas; i++) {
        size_t at = (shape & SEND_REVERSED) != 0 ? one->num_cas - 1 - i : i;
        if ((shape & SEND_GARBAGE_CA) != 0)
            built_send(built, bytes_of(garbage, sizeof garbage));
        else
            built_send(built, certgen_der(built->cas[at]));
    }
    if ((shape & SEND_ROOT) != 0)
        built_send(built, certgen_der(built->root));
}

static void built_bundle(struct built *built, const struct verify_case *one)
{
    struct bytes anchors[2];
    size_t num = 0;

    if ((one->shape & TRUST_CA) != 0) {
        anchors[num++] = certgen_der(built->cas[0]);
    } else {
        if ((one->shape & (TRUST_OTHER | TRUST_BOTH)) != 0)
            anchors[num++] = certgen_der(built->other_root);
        if ((one->shape & TRUST_OTHER) == 0)
            anchors[num++] = certgen_der(built->root);
    }
    assert_int_equal(bundle_of_der(anchors, num, one->trust_domain, &built->bundle).code, E_OK);
}

static void built_init(struct built *built, const struct verify_case *one)
{
    *built = (struct built){0};
    built_make(built, one);
    built_chain(built, one);
    built_bundle(built, one);
}

static void built_fini(struct built *built)
{
    certgen_free(built->root);
    certgen_free(built->other_root);
    certgen_free(built->stranger);
    certgen_free(built->signing_leaf);
    for (size_t i = 0; i < VERIFY_TEST_CAS; i++)
        certgen_free(built->cas[i]);
    certgen_free(built->leaf);
    sk_CRYPTO_BUFFER_pop_free(built->chain, CRYPTO_BUFFER_free);
    bundle_unref(built->bundle);
}

/* --- the table --- */

static void verify_check_peer(const struct verify_case *one, const struct built *built,
                              const struct peer *peer)
{
    assert_string_equal(peer->spiffe_id, one->id != NULL ? one->id : CERTGEN_ID);
    assert_memory_equal(peer->bundle_hash, built->bundle->hash, sizeof peer->bundle_hash);
    assert_true(peer->not_after <= CERTGEN_NOW + 86400);
    assert_int_equal(peer->not_before, CERTGEN_NOW - 3600);
    assert_true(strlen(peer->serial) >= 2 && strlen(peer->serial) <= 40);
}

static bool verify_run(const struct verify_case *one, const struct built *built,
                       enum verify_role role, struct verify_cache *cache)
{
    struct peer *peer = NULL;
    const char *role_name = role == VERIFY_CLIENT_CERT ? "client" : "server";
    err_t err =
        verify_chain(built->chain, built->bundle, role, CERTGEN_NOW + one->now_s, cache, &peer);
    bool right =
        err.code == one->want && (one->sub == SUB_ANY || err.code == E_OK || err.sub == one->sub);

    if (!right)
        print_error("%s (%s): %s %d at %s, expected %s %d\n", one->name, role_name,
                    err_name(err.code), err.sub, err.where != NULL ? err.where : "",
                    err_name(one->want), one->sub);
    else if (err.code == E_OK)
        verify_check_peer(one, built, peer);
    peer_unref(peer);
    if (ERR_peek_error() != 0) {
        print_error("%s (%s): something stayed in BoringSSL's queue\n", one->name, role_name);
        ERR_clear_error();
        right = false;
    }
    return right;
}

/* --- seeds for the fuzzer --- */

/* With MORTISE_CORPUS_WRITE=FOLDER the table becomes the corpus of verify_fuzz (see there for the
 * form): what is odd about a leaf as its extensions alone, what is odd about a chain as a chain. */
static void corpus_file(const char *folder, const char *name, const struct buf *content)
{
    char path[512];
    size_t len = (size_t)snprintf(path, sizeof path, "%s/", folder);

    for (; *name != '\0' && len + 1 < sizeof path; name++)
        path[len++] = (*name >= 'a' && *name <= 'z') || (*name >= '0' && *name <= '9') ? *name
                      : *name >= 'A' && *name <= 'Z' ? (char)(*name - 'A' + 'a')
                                                     : '_';
    path[len] = '\0';
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(content->data, 1, content->len, f), content->len);
    assert_int_equal(fclose(f), 0);
}

static void corpus_add(struct buf *out, struct bytes der)
{
    uint8_t len[2] = {(uint8_t)(der.len >> 8), (uint8_t)der.len};

    assert_true(err_is_ok(buf_add(out, len, sizeof len)));
    assert_true(err_is_ok(buf_add(out, der.ptr, der.len)));
}

static void corpus_write(const char *folder, const struct verify_case *one,
                         const struct built *built)
{
    struct bytes extensions = certgen_extensions(built->leaf);
    const struct certgen_params *leaf = &one->leaf;
    bool leaf_only = one->num_cas == 0 && one->shape == 0;
    /* Of what differs in other ways the extensions would be the same seed again. */
    bool elsewhere = leaf->key != CERTGEN_P256 || leaf->hash != CERTGEN_SHA256 ||
                     leaf->from_s != 0 || leaf->to_s != 0 || leaf->raw_not_after != NULL ||
                     leaf->serial != NULL || leaf->version != 0 || leaf->trailing ||
                     leaf->bad_signature || leaf->truncated || leaf->hash_differs ||
                     one->now_s != 0 || one->root.ca || one->root.to_s != 0 ||
                     one->root.from_s != 0;
    struct buf out = {0};

    if (leaf_only && !elsewhere && extensions.len > 0 && extensions.len < 600) {
        assert_true(err_is_ok(buf_add(&out, "\2", 1)));
        assert_true(err_is_ok(buf_add(&out, extensions.ptr, extensions.len)));
        corpus_file(folder, one->name, &out);
    } else if (!leaf_only && built->leaf->len < 1500) {
        assert_true(err_is_ok(buf_add(&out, "", 1)));
        corpus_add(&out,
                   certgen_der((one->shape & TRUST_OTHER) != 0 ? built->other_root : built->root));
        for (size_t i = 0; i < sk_CRYPTO_BUFFER_num(built->chain); i++) {
            const CRYPTO_BUFFER *cert = sk_CRYPTO_BUFFER_value(built->chain, i);
            corpus_add(&out, bytes_of(CRYPTO_BUFFER_data(cert), CRYPTO_BUFFER_len(cert)));
        }
        if (out.len < 4000)
            corpus_file(folder, one->name, &out);
    }
    buf_fini(&out);
}

static void test_verify_table(void **state)
{
    const char *corpus = getenv("MORTISE_CORPUS_WRITE");
    size_t wrong = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(verify_cases); i++) {
        const struct verify_case *one = &verify_cases[i];
        struct built built;
        built_init(&built, one);
        if (corpus != NULL)
            corpus_write(corpus, one, &built);
        if (one->role != ROLE_CLIENT)
            wrong += !verify_run(one, &built, VERIFY_SERVER_CERT, NULL);
        if (one->role != ROLE_SERVER)
            wrong += !verify_run(one, &built, VERIFY_CLIENT_CERT, NULL);
        built_fini(&built);
    }
    print_message("%zu cases\n", ARRAY_LEN(verify_cases));
    assert_true(ARRAY_LEN(verify_cases) >= 180);
    assert_int_equal(wrong, 0);
}

/* verify_meet_siblings has the cache meet other leaves under the same CAs, sent with the same
 * certificates, at times before and after: the issuer is known wherever that can be. */
static void verify_meet_siblings(const struct verify_case *one, const struct built *built,
                                 enum verify_role role, struct verify_cache *cache)
{
    static const struct certgen_params leaves[] = {
        {.subject = "sibling"},
        {.subject = "sibling", .sans = {CERTGEN_URI("spiffe://example.com/ns/a/sa/b")}},
        {.subject = "sibling", .sans = {CERTGEN_DNS("a.example.com")}},
    };
    static const int64_t times[] = {0, -3000, 80000};
    const struct certgen *issuer = built->signing_leaf != NULL ? built->signing_leaf
                                   : one->num_cas > 0          ? built->cas[0]
                                                               : built->root;

    for (size_t i = 0; i < ARRAY_LEN(leaves) * ARRAY_LEN(times); i++) {
        struct certgen *leaf = certgen_make(issuer, &leaves[i / ARRAY_LEN(times)]);
        STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
        struct peer *peer = NULL;
        struct built sent = {.chain = chain};

        built_send(&sent, certgen_der(leaf));
        for (size_t at = 1; at < sk_CRYPTO_BUFFER_num(built->chain); at++) {
            CRYPTO_BUFFER *cert = sk_CRYPTO_BUFFER_value(built->chain, at);
            built_send(&sent, bytes_of(CRYPTO_BUFFER_data(cert), CRYPTO_BUFFER_len(cert)));
        }
        (void)!err_is_ok(verify_chain(chain, built->bundle, role,
                                      CERTGEN_NOW + times[i % ARRAY_LEN(times)], cache, &peer));
        peer_unref(peer);
        sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
        certgen_free(leaf);
    }
}

/* Under an issuer that was met before each verdict is the same. Where the case has no CA between
 * leaf and root it gets one, so that there is an issuer to be remembered. */
static void test_verify_table_with_a_known_issuer(void **state)
{
    size_t wrong = 0;
    size_t hits = 0;

    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(verify_cases); i++) {
        struct verify_case one = verify_cases[i / 2];
        enum verify_role role = i % 2 == 0 ? VERIFY_SERVER_CERT : VERIFY_CLIENT_CERT;
        struct verify_cache *cache;
        struct built built;

        if (one.role == (role == VERIFY_SERVER_CERT ? ROLE_CLIENT : ROLE_SERVER))
            continue;
        if (one.num_cas == 0 && one.shape == 0)
            one.num_cas = 1;
        cache = verify_cache_new(64);
        built_init(&built, &one);
        verify_meet_siblings(&one, &built, role, cache);
        wrong += !verify_run(&one, &built, role, cache);
        hits += verify_cache_issuer_hits(cache) > 0;
        verify_cache_free(cache);
        built_fini(&built);
    }
    print_message("an issuer was known to a sibling in %zu\n", hits);
    assert_true(hits >= ARRAY_LEN(verify_cases));
    assert_int_equal(wrong, 0);
}

/* B11: no byte but the grammar's own is let through at any place of an ID. */
static void test_verify_refuses_every_foreign_byte_everywhere(void **state)
{
    static const char bad[] = {0, '\x01', ' ', '%', '*', '?', '#', '@', ':', '\\', '\x7f', '\xff'};
    struct certgen *root = certgen_make(
        NULL, &(struct certgen_params){.ca = true, .subject = "root", .key = CERTGEN_P256_ROOT});
    struct bytes anchor = certgen_der(root);
    struct bundle *bundle = NULL;
    size_t tried = 0;

    (void)state;
    assert_int_equal(bundle_of_der(&anchor, 1, NULL, &bundle).code, E_OK);
    for (size_t at = 0; at <= sizeof CERTGEN_ID - 1; at++) {
        char text[sizeof CERTGEN_ID];
        memcpy(text, CERTGEN_ID, sizeof text);
        text[at] = bad[at % sizeof bad];
        for (size_t insert = 0; insert < 2; insert++) {
            if (insert == 0 && (at == sizeof CERTGEN_ID - 1 || at == 6))
                continue; /* the terminator is no part of it; at 6 ':' could be itself */
            char longer[sizeof CERTGEN_ID + 1];
            memcpy(longer, CERTGEN_ID, at);
            longer[at] = '\0';
            memcpy(longer + at + 1, &CERTGEN_ID[at], sizeof CERTGEN_ID - at);
            struct certgen_params params = {0};
            params.sans[0] = insert != 0 ? (struct certgen_name){0x86, longer, sizeof CERTGEN_ID}
                                         : (struct certgen_name){0x86, text, sizeof CERTGEN_ID - 1};
            struct certgen *leaf = certgen_make(root, &params);
            struct bytes der = certgen_der(leaf);
            STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
            struct peer *peer = NULL;
            sk_CRYPTO_BUFFER_push(chain, CRYPTO_BUFFER_new(der.ptr, der.len, NULL));
            err_t err = verify_chain(chain, bundle, VERIFY_CLIENT_CERT, CERTGEN_NOW, NULL, &peer);
            assert_int_equal(err.code, E_SAN_SYNTAX);
            assert_int_equal(err.sub, at);
            sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
            certgen_free(leaf);
            tried++;
        }
    }
    assert_true(tried >= 60);
    bundle_unref(bundle);
    certgen_free(root);
}

/* Every byte of a good chain turned, one at a time: refused, or (where it says nothing, as in the
 * CA's own signature when that is the anchor) the same peer. */
static void test_verify_refuses_every_bit_flip(void **state)
{
    struct verify_case one = {.name = "flip", .num_cas = 1};
    struct built built;
    size_t refused = 0;

    (void)state;
    built_init(&built, &one);
    for (size_t cert = 0; cert < 2; cert++) {
        struct bytes der = cert == 0 ? certgen_der(built.leaf) : certgen_der(built.cas[0]);
        uint8_t *copy = mem_dup(der.ptr, der.len);
        for (size_t at = 0; at < der.len; at++) {
            STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
            struct peer *peer = NULL;
            copy[at] ^= (uint8_t)(1U << (at % 8));
            const struct bytes sent[2] = {
                cert == 0 ? bytes_of(copy, der.len) : certgen_der(built.leaf),
                cert == 1 ? bytes_of(copy, der.len) : certgen_der(built.cas[0])};
            for (size_t i = 0; i < 2; i++)
                sk_CRYPTO_BUFFER_push(chain, CRYPTO_BUFFER_new(sent[i].ptr, sent[i].len, NULL));
            err_t err =
                verify_chain(chain, built.bundle, VERIFY_SERVER_CERT, CERTGEN_NOW, NULL, &peer);
            assert_false(err_is_ok(err));
            refused++;
            sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
            copy[at] ^= (uint8_t)(1U << (at % 8));
        }
        mem_free(copy);
    }
    assert_true(refused > 600);
    built_fini(&built);
}

/* --- cost --- */

static double verify_cpu_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* F13: whatever is sent, a refusal costs less than 50 ms. The table's worst, and chains made to be
 * slow: 100 certificates, each 16 KiB; 5 of 6 KiB full of names and constraints. Sanitizers are
 * slower: the bound is for the machine's own speed and ten times that with them. */
static void test_verify_costs_are_bounded(void **state)
{
    double worst = 0;
    const char *who = "";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(verify_cases); i++) {
        const struct verify_case *one = &verify_cases[i];
        struct built built;
        struct peer *peer = NULL;
        built_init(&built, one);
        double start = verify_cpu_ms();
        err_t err = verify_chain(built.chain, built.bundle, VERIFY_SERVER_CERT,
                                 CERTGEN_NOW + one->now_s, NULL, &peer);
        double spent = verify_cpu_ms() - start;
        (void)err;
        if (spent > worst) {
            worst = spent;
            who = one->name;
        }
        peer_unref(peer);
        built_fini(&built);
    }
    print_message("worst: %.2f ms (%s)\n", worst, who);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    assert_true(worst < 500);
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    assert_true(worst < 500);
#else
    assert_true(worst < 50);
#endif
#else
    assert_true(worst < 50);
#endif
}

static void test_verify_counts_before_it_parses(void **state)
{
    struct verify_case one = {.name = "count"};
    struct built built;
    struct peer *peer = NULL;

    (void)state;
    built_init(&built, &one);
    for (size_t i = 0; i < 99; i++)
        built_send(&built, bytes_of("no certificate", 14));
    err_t err =
        verify_chain(built.chain, built.bundle, VERIFY_SERVER_CERT, CERTGEN_NOW, NULL, &peer);
    assert_int_equal(err.code, E_CHAIN_TOO_LONG);
    assert_int_equal(err.sub, 100);
    built_fini(&built);
}

/* --- the cache --- */

struct cache_fixture {
    struct built built;
    struct verify_cache *cache;
};

static err_t cache_ask(struct cache_fixture *f, enum verify_role role, int64_t now_s)
{
    struct peer *peer = NULL;
    err_t err = verify_chain(f->built.chain, f->built.bundle, role, now_s, f->cache, &peer);

    if (err_is_ok(err))
        assert_string_equal(peer->spiffe_id, CERTGEN_ID);
    peer_unref(peer);
    return err;
}

static void cache_init(struct cache_fixture *f, const struct verify_case *one, size_t max)
{
    built_init(&f->built, one);
    f->cache = verify_cache_new(max);
}

static void cache_fini(struct cache_fixture *f)
{
    verify_cache_free(f->cache);
    built_fini(&f->built);
}

static void test_cache_saves_the_second_verification(void **state)
{
    struct verify_case one = {.num_cas = 1};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_hits(f.cache), 0);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW + 10)));
    assert_int_equal(verify_cache_hits(f.cache), 1);
    cache_fini(&f);
}

/* R11, B06: what was good once ends with the certificate, also of an intermediate or the root. */
static void test_cache_never_outlives_the_chain(void **state)
{
    struct verify_case one = {.num_cas = 1, .cas = {{.to_s = -86400 + 100}}};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW + 99)));
    assert_int_equal(verify_cache_hits(f.cache), 1);
    err_t err = cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW + 100);
    assert_int_equal(err.code, E_CERT_EXPIRED);
    assert_int_equal(err.sub, 0);
    /* A clock that was set back: before the chain is valid it is not, cached or not. */
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW - 3601).code,
                     E_CERT_NOT_YET_VALID);
    cache_fini(&f);
}

static void test_cache_keeps_roles_and_bundles_apart(void **state)
{
    struct verify_case one = {.leaf = {.eku_bits = CERTGEN_EKU_SERVER}};
    struct verify_case other = {.leaf = {.eku_bits = CERTGEN_EKU_SERVER}, .shape = TRUST_OTHER};
    struct cache_fixture f;
    struct bundle *right;
    struct built strange;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(cache_ask(&f, VERIFY_CLIENT_CERT, CERTGEN_NOW).code, E_CERT_USAGE);
    built_init(&strange, &other);
    right = f.built.bundle;
    f.built.bundle = strange.bundle;
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_UNTRUSTED);
    f.built.bundle = right;
    assert_int_equal(verify_cache_hits(f.cache), 0);
    built_fini(&strange);
    cache_fini(&f);
}

/* The same roots for another trust domain are another bundle: B01 would begin here. */
static void test_cache_keeps_trust_domains_apart(void **state)
{
    struct verify_case one = {.trust_domain = "example.org"};
    struct cache_fixture f;
    struct bundle *right;
    struct bundle *foreign = NULL;
    struct bytes anchor;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    anchor = certgen_der(f.built.root);
    assert_true(err_is_ok(bundle_of_der(&anchor, 1, "example.com", &foreign)));
    right = f.built.bundle;
    f.built.bundle = foreign;
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_TRUST_DOMAIN);
    f.built.bundle = right;
    bundle_unref(foreign);
    cache_fini(&f);
}

static void test_cache_is_bounded_and_forgets_the_oldest(void **state)
{
    struct verify_case one = {.num_cas = 0};
    struct cache_fixture f;
    struct built more[3];
    STACK_OF(CRYPTO_BUFFER) * first;

    (void)state;
    cache_init(&f, &one, 2);
    first = f.built.chain;
    for (size_t i = 0; i < 3; i++) {
        more[i] = (struct built){0};
        more[i].leaf = certgen_make(f.built.root, &(struct certgen_params){0});
        more[i].chain = sk_CRYPTO_BUFFER_new_null();
        built_send(&more[i], certgen_der(more[i].leaf));
    }
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    for (size_t i = 0; i < 3; i++) {
        f.built.chain = more[i].chain;
        assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
        f.built.chain = first; /* used again and again: it stays */
        assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    }
    assert_int_equal(verify_cache_hits(f.cache), 3);
    f.built.chain = more[0].chain; /* went when the third came */
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_hits(f.cache), 3);
    f.built.chain = first;
    for (size_t i = 0; i < 3; i++) {
        certgen_free(more[i].leaf);
        sk_CRYPTO_BUFFER_pop_free(more[i].chain, CRYPTO_BUFFER_free);
    }
    cache_fini(&f);
}

static void test_cache_remembers_no_refusal(void **state)
{
    struct verify_case one = {.leaf = {.from_s = 3600 + 50}};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &one, 2);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CERT_NOT_YET_VALID);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW + 50)));
    cache_fini(&f);
}

/* --- the issuers that a cache knows --- */

/* Another leaf of the fixture's issuer takes the place of its own. */
static void cache_other_leaf(struct cache_fixture *f, const struct certgen_params *params)
{
    CRYPTO_BUFFER *buffer;

    certgen_free(f->built.leaf);
    f->built.leaf = certgen_make(f->built.cas[0], params);
    buffer = CRYPTO_BUFFER_new(f->built.leaf->der, f->built.leaf->len, NULL);
    CRYPTO_BUFFER_free(sk_CRYPTO_BUFFER_value(f->built.chain, 0));
    assert_non_null(sk_CRYPTO_BUFFER_set(f->built.chain, 0, buffer));
}

static void test_issuer_is_checked_once_for_many_leaves(void **state)
{
    struct verify_case one = {.num_cas = 2};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_issuer_hits(f.cache), 0);
    for (size_t i = 1; i <= 10; i++) {
        cache_other_leaf(&f, &one.leaf);
        assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
        assert_int_equal(verify_cache_issuer_hits(f.cache), i);
    }
    assert_int_equal(verify_cache_hits(f.cache), 0);
    cache_fini(&f);
}

/* What the path is made of is that of the whole path: a revocation asks for the issuers. */
static void test_issuer_known_gives_the_same_peer(void **state)
{
    struct verify_case one = {.num_cas = 2, .cas = {{.to_s = -80000}, {0}}};
    struct cache_fixture f;
    struct peer *whole = NULL;
    struct peer *under = NULL;

    (void)state;
    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &one.leaf);
    assert_true(err_is_ok(verify_chain(f.built.chain, f.built.bundle, VERIFY_SERVER_CERT,
                                       CERTGEN_NOW, NULL, &whole)));
    assert_true(err_is_ok(verify_chain(f.built.chain, f.built.bundle, VERIFY_SERVER_CERT,
                                       CERTGEN_NOW, f.cache, &under)));
    assert_int_equal(verify_cache_issuer_hits(f.cache), 1);
    assert_int_equal(whole->num_issuers, 3);
    assert_int_equal(under->num_issuers, 3);
    assert_memory_equal(under->issuers, whole->issuers, 3 * sizeof whole->issuers[0]);
    assert_string_equal(under->serial, whole->serial);
    assert_int_equal(under->not_after, CERTGEN_NOW + 86400 - 80000); /* the issuer's */
    assert_int_equal(whole->not_after, under->not_after);
    peer_unref(whole);
    peer_unref(under);
    /* And when the issuer has expired, none of its leaves is let in. */
    cache_other_leaf(&f, &one.leaf);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW + 6400).code, E_CERT_EXPIRED);
    cache_fini(&f);
}

static void test_issuer_constrains_names_of_later_leaves(void **state)
{
    static const struct certgen_params stranger = {
        .sans = {CERTGEN_URI("spiffe://example.com/ns/a/sa/b")}};
    struct verify_case issuer = {.num_cas = 1,
                                 .cas = {{.permitted = {CERTGEN_URI("example.org")}}}};
    struct verify_case root = {.num_cas = 1, .root = {.permitted = {CERTGEN_URI("example.org")}}};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &issuer, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &issuer.leaf);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_issuer_hits(f.cache), 1);
    cache_other_leaf(&f, &stranger);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_INVALID);
    cache_fini(&f);

    cache_init(&f, &root, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &stranger);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_INVALID);
    assert_int_equal(verify_cache_issuer_hits(f.cache), 0); /* such are not remembered */
    cache_fini(&f);
}

/* A CA, or the leaf itself, may ask for a policy all the way down to the leaf: that is a question
 * to the whole path. */
static void test_issuer_asks_later_leaves_for_a_policy(void **state)
{
    static const struct certgen_params without = {0}, with = {.policies = true};
    static const struct certgen_params asks = {.policies = true, .explicit_policy = true};
    struct verify_case issuer = {
        .num_cas = 1, .leaf = with, .cas = {{.policies = true, .explicit_policy = true}}};
    struct verify_case above = {
        .num_cas = 2, .leaf = with, .cas = {with, {.policies = true, .explicit_policy = true}}};
    struct verify_case plain = {.num_cas = 1};
    struct cache_fixture f;

    (void)state;
    cache_init(&f, &issuer, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &without);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_INVALID);
    cache_other_leaf(&f, &with);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_fini(&f);

    cache_init(&f, &above, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &without);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_INVALID);
    cache_fini(&f);

    /* No CA here has a policy that the leaf could be under. */
    cache_init(&f, &plain, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &asks);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_INVALID);
    cache_other_leaf(&f, &with);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_issuer_hits(f.cache), 1);
    cache_fini(&f);
}

/* Known to one role, bundle or set of sent certificates is known to no other. */
static void test_issuer_is_known_where_it_was_met(void **state)
{
    struct verify_case one = {.num_cas = 1};
    struct verify_case client_only = {.num_cas = 1, .cas = {{.eku_bits = CERTGEN_EKU_CLIENT}}};
    struct cache_fixture f;
    struct bundle *right;
    struct built strange;

    (void)state;
    cache_init(&f, &client_only, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_CLIENT_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &client_only.leaf);
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CERT_USAGE);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_CLIENT_CERT, CERTGEN_NOW)));
    assert_int_equal(verify_cache_issuer_hits(f.cache), 1);
    cache_fini(&f);

    cache_init(&f, &one, 4);
    assert_true(err_is_ok(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    cache_other_leaf(&f, &one.leaf);
    built_init(&strange, &(struct verify_case){.num_cas = 1, .shape = TRUST_OTHER});
    right = f.built.bundle;
    f.built.bundle = strange.bundle;
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_UNTRUSTED);
    f.built.bundle = right;
    built_fini(&strange);
    /* Without the issuer in the chain nobody vouches for the leaf, known as it may be. */
    CRYPTO_BUFFER_free(sk_CRYPTO_BUFFER_pop(f.built.chain));
    assert_int_equal(cache_ask(&f, VERIFY_SERVER_CERT, CERTGEN_NOW).code, E_CHAIN_UNTRUSTED);
    assert_int_equal(verify_cache_issuer_hits(f.cache), 0);
    cache_fini(&f);
}

/* Many issuers in turn: the memory of them is bounded, and each verdict right. */
static void test_issuers_are_few(void **state)
{
    struct verify_case one = {.num_cas = 1};
    struct cache_fixture f[6];
    struct verify_cache *cache = verify_cache_new(4);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(f); i++) {
        built_init(&f[i].built, &one);
        f[i].cache = cache;
    }
    for (size_t i = 0; i < 4 * ARRAY_LEN(f); i++) {
        struct cache_fixture *at = &f[i % ARRAY_LEN(f)];

        cache_other_leaf(at, &one.leaf);
        assert_true(err_is_ok(cache_ask(at, VERIFY_SERVER_CERT, CERTGEN_NOW)));
    }
    for (size_t i = 0; i < ARRAY_LEN(f); i++)
        built_fini(&f[i].built);
    verify_cache_free(cache);
}

/* --- peer_matches --- */

static void test_match_is_exact(void **state)
{
    char id[] = "spiffe://example.org/ns/a/sa/b.c";
    char dns[] = "a.example.org";
    char *names[] = {dns, NULL};
    struct peer peer = {.spiffe_id = id, .dns_names = names};
    static const struct {
        const char *text;
        bool id;
        bool dns;
    } cases[] = {
        {"spiffe://example.org/ns/a/sa/b.c", true, false},
        {"spiffe://example.org/ns/a/sa/bxc", false, false},
        {"spiffe://example.org/ns/a/sa/b.", false, false},
        {"spiffe://example.org/ns/a/sa/b.cd", false, false},
        {"spiffe://example.org/ns/a/sa/B.c", false, false},
        {"spiffe://example.org/ns/a/sa/*", false, false},
        {"spiffe://example.org/", false, false},
        {"a.example.org", false, true},
        {"A.Example.ORG", false, true},
        {"b.a.example.org", false, false},
        {"example.org", false, false},
        {"*.example.org", false, false},
        {"a.example.org.", false, false},
        {"", false, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct peer_match ids = {.spiffe_ids = &cases[i].text, .num_spiffe_ids = 1};
        struct peer_match dnss = {.dns_names = &cases[i].text, .num_dns_names = 1};
        assert_int_equal(peer_matches(&peer, &ids), cases[i].id);
        assert_int_equal(peer_matches(&peer, &dnss), cases[i].dns);
    }
}

/* R3: no identity matches nothing, not even the empty expectation; nothing expected matches nobody.
 */
static void test_match_needs_an_identity(void **state)
{
    char id[] = "";
    char *names[] = {NULL};
    struct peer nobody = {.spiffe_id = id, .dns_names = names};
    const char *empty = "";
    struct peer_match match = {
        .spiffe_ids = &empty, .num_spiffe_ids = 1, .dns_names = &empty, .num_dns_names = 1};
    struct peer_match nothing = {0};

    (void)state;
    assert_false(peer_matches(&nobody, &match));
    assert_false(peer_matches(&nobody, &nothing));
    char real[] = CERTGEN_ID;
    nobody.spiffe_id = real;
    assert_false(peer_matches(&nobody, &nothing));
}

static void test_alerts(void **state)
{
    static const struct {
        err_t err;
        uint8_t alert;
    } cases[] = {
        {{E_CERT_EXPIRED, 5, NULL}, 45},
        {{E_CERT_NOT_YET_VALID, 5, NULL}, 45},
        {{E_CHAIN_UNTRUSTED, 20, NULL}, 48},
        {{E_CHAIN_TOO_LONG, 6, NULL}, 48},
        {{E_CHAIN_INVALID, X509_V_ERR_CERT_SIGNATURE_FAILURE, NULL}, 51},
        {{E_CHAIN_INVALID, X509_V_ERR_INVALID_CA, NULL}, 48},
        {{E_CERT_USAGE, 26, NULL}, 43},
        {{E_KEY_WEAK, 1024, NULL}, 43},
        {{E_CERT_WEAK_SIGNATURE, 0, NULL}, 43},
        {{E_CERT_SYNTAX, 0, NULL}, 42},
        {{E_SAN_SYNTAX, 0, NULL}, 49},
        {{E_SAN_NONE, 0, NULL}, 49},
        {{E_SAN_MULTIPLE, 2, NULL}, 49},
        {{E_TRUST_DOMAIN, 0, NULL}, 49},
        {{E_PEER_IDENTITY, 0, NULL}, 49},
        {{E_PEER_DENIED, 0, NULL}, 49},
        {{E_CERT_MISSING, 0, NULL}, 116},
        {{E_TLS_SNI_UNKNOWN, 0, NULL}, 112},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(verify_alert(cases[i].err), cases[i].alert);
}

static int verify_test_teardown(void **state)
{
    (void)state;
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify_table),
        cmocka_unit_test(test_verify_table_with_a_known_issuer),
        cmocka_unit_test(test_verify_refuses_every_foreign_byte_everywhere),
        cmocka_unit_test(test_verify_refuses_every_bit_flip),
        cmocka_unit_test(test_verify_costs_are_bounded),
        cmocka_unit_test(test_verify_counts_before_it_parses),
        cmocka_unit_test(test_cache_saves_the_second_verification),
        cmocka_unit_test(test_cache_never_outlives_the_chain),
        cmocka_unit_test(test_cache_keeps_roles_and_bundles_apart),
        cmocka_unit_test(test_cache_keeps_trust_domains_apart),
        cmocka_unit_test(test_cache_is_bounded_and_forgets_the_oldest),
        cmocka_unit_test(test_cache_remembers_no_refusal),
        cmocka_unit_test(test_issuer_is_checked_once_for_many_leaves),
        cmocka_unit_test(test_issuer_known_gives_the_same_peer),
        cmocka_unit_test(test_issuer_constrains_names_of_later_leaves),
        cmocka_unit_test(test_issuer_asks_later_leaves_for_a_policy),
        cmocka_unit_test(test_issuer_is_known_where_it_was_met),
        cmocka_unit_test(test_issuers_are_few),
        cmocka_unit_test(test_match_is_exact),
        cmocka_unit_test(test_match_needs_an_identity),
        cmocka_unit_test(test_alerts),
    };

    return cmocka_run_group_tests(tests, NULL, verify_test_teardown);
}
