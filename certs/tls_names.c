#include "certs/tls_names.h"

#include <stdatomic.h>
#include <string.h>

#include "certs/boring.h"

static const char tls_why_rc4[] = "RC4 is prohibited (RFC 7465)";
static const char tls_why_3des[] = "3DES has blocks of 64 bits (Sweet32)";
static const char tls_why_cbc[] = "CBC with SHA-256 was superseded by GCM";

/* The order is the default preference: AES first, as every CPU of these days has instructions for
 * it. */
const struct tls_suite tls_suites[TLS_SUITES_NUM] = {
    {0x1301, "TLS_AES_128_GCM_SHA256", TLS_SUITE_13 | TLS_SUITE_GOOD, NULL, NULL},
    {0x1302, "TLS_AES_256_GCM_SHA384", TLS_SUITE_13 | TLS_SUITE_GOOD, NULL, NULL},
    {0x1303, "TLS_CHACHA20_POLY1305_SHA256", TLS_SUITE_13 | TLS_SUITE_GOOD, NULL, NULL},
    {0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TLS_SUITE_GOOD | TLS_SUITE_ECDSA, NULL,
     NULL},
    {0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", TLS_SUITE_GOOD | TLS_SUITE_RSA, NULL, NULL},
    {0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TLS_SUITE_GOOD | TLS_SUITE_ECDSA, NULL,
     NULL},
    {0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", TLS_SUITE_GOOD | TLS_SUITE_RSA, NULL, NULL},
    {0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TLS_SUITE_GOOD | TLS_SUITE_ECDSA,
     NULL, NULL},
    {0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TLS_SUITE_GOOD | TLS_SUITE_RSA, NULL,
     NULL},
    /* Only when named: no forward secrecy, or CBC. */
    {0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
     TLS_SUITE_ECDHE | TLS_SUITE_ECDSA | TLS_SUITE_OLD, NULL, NULL},
    {0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
     TLS_SUITE_ECDHE | TLS_SUITE_ECDSA | TLS_SUITE_OLD, NULL, NULL},
    {0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA | TLS_SUITE_OLD,
     NULL, NULL},
    {0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA | TLS_SUITE_OLD,
     NULL, NULL},
    {0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", TLS_SUITE_AEAD | TLS_SUITE_RSA, NULL, NULL},
    {0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", TLS_SUITE_AEAD | TLS_SUITE_RSA, NULL, NULL},
    {0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", TLS_SUITE_RSA | TLS_SUITE_OLD, NULL, NULL},
    {0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", TLS_SUITE_RSA | TLS_SUITE_OLD, NULL, NULL},
    {0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", TLS_SUITE_RSA | TLS_SUITE_OLD, tls_why_3des,
     "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    /* Known by name because other products offer them. */
    {0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", TLS_SUITE_ECDHE | TLS_SUITE_ECDSA,
     tls_why_cbc, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", TLS_SUITE_ECDHE | TLS_SUITE_RSA, tls_why_cbc,
     "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", TLS_SUITE_RSA, tls_why_cbc,
     "TLS_RSA_WITH_AES_128_GCM_SHA256"},
    {0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA, tls_why_3des,
     "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", TLS_SUITE_ECDHE | TLS_SUITE_ECDSA, tls_why_rc4,
     "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA, tls_why_rc4,
     "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {0x0005, "TLS_RSA_WITH_RC4_128_SHA", TLS_SUITE_RSA, tls_why_rc4,
     "TLS_RSA_WITH_AES_128_GCM_SHA256"},
};

struct tls_alias {
    const char *alias;
    const char *name;
};

static const struct tls_alias tls_suite_aliases[] = {
    {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
    {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
};

/* The order is the default preference: what a quantum computer cannot undo later comes first,
 * although a handshake has 2.3 KB more with it (docs/performance.md). */
const struct tls_group tls_groups[TLS_GROUPS_NUM] = {
    {0x11ec, "X25519MLKEM768", 192, true},
    {29, "X25519", 128, false},
    {23, "P-256", 128, false},
    {24, "P-384", 192, false},
};

static const struct tls_alias tls_group_aliases[] = {
    {"secp256r1", "P-256"},
    {"secp384r1", "P-384"},
    {"x25519", "X25519"},
};

static const char tls_why_sha1[] = "SHA-1 is broken";
static const char tls_why_key[] = "keys of this kind are refused (P-256, P-384 and RSA are not)";

const struct tls_sigalg tls_sigalgs[TLS_SIGALGS_NUM] = {
    {0x0403, "ecdsa_secp256r1_sha256", TLS_SIGALG_ECDSA, 128, NULL},
    {0x0804, "rsa_pss_rsae_sha256", TLS_SIGALG_PSS, 128, NULL},
    {0x0503, "ecdsa_secp384r1_sha384", TLS_SIGALG_ECDSA, 192, NULL},
    {0x0805, "rsa_pss_rsae_sha384", TLS_SIGALG_PSS, 192, NULL},
    {0x0806, "rsa_pss_rsae_sha512", TLS_SIGALG_PSS, 256, NULL},
    {0x0401, "rsa_pkcs1_sha256", TLS_SIGALG_PKCS1, 128, NULL},
    {0x0501, "rsa_pkcs1_sha384", TLS_SIGALG_PKCS1, 192, NULL},
    {0x0601, "rsa_pkcs1_sha512", TLS_SIGALG_PKCS1, 256, NULL},
    {0x0201, "rsa_pkcs1_sha1", TLS_SIGALG_REFUSED, 0, tls_why_sha1},
    {0x0203, "ecdsa_sha1", TLS_SIGALG_REFUSED, 0, tls_why_sha1},
    {0x0603, "ecdsa_secp521r1_sha512", TLS_SIGALG_REFUSED, 0, tls_why_key},
    {0x0807, "ed25519", TLS_SIGALG_REFUSED, 0, tls_why_key},
    {0x0808, "ed448", TLS_SIGALG_REFUSED, 0, tls_why_key},
};

static const char *tls_unalias(const char *name, const struct tls_alias *aliases, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(aliases[i].alias, name) == 0)
            return aliases[i].name;
    }
    return name;
}

const struct tls_suite *tls_suite_find(const char *name)
{
    name = tls_unalias(name, tls_suite_aliases, ARRAY_LEN(tls_suite_aliases));
    for (size_t i = 0; i < TLS_SUITES_NUM; i++) {
        if (strcmp(tls_suites[i].name, name) == 0)
            return &tls_suites[i];
    }
    return NULL;
}

const struct tls_group *tls_group_find(const char *name)
{
    name = tls_unalias(name, tls_group_aliases, ARRAY_LEN(tls_group_aliases));
    for (size_t i = 0; i < TLS_GROUPS_NUM; i++) {
        if (strcmp(tls_groups[i].name, name) == 0)
            return &tls_groups[i];
    }
    return NULL;
}

const struct tls_sigalg *tls_sigalg_find(const char *name)
{
    for (size_t i = 0; i < TLS_SIGALGS_NUM; i++) {
        if (strcmp(tls_sigalgs[i].name, name) == 0)
            return &tls_sigalgs[i];
    }
    return NULL;
}

const struct tls_suite *tls_suite_find_openssl(const char *name)
{
    for (size_t i = 0; i < TLS_SUITES_NUM; i++) {
        const SSL_CIPHER *cipher = SSL_get_cipher_by_value(tls_suites[i].id);
        if (cipher != NULL && strcmp(SSL_CIPHER_get_name(cipher), name) == 0)
            return &tls_suites[i];
    }
    return NULL;
}

bool tls_suite_available(const struct tls_suite *suite)
{
    return SSL_get_cipher_by_value(suite->id) != NULL;
}

#define TLS_GROUPS_ASKED (1U << TLS_GROUPS_NUM)
static atomic_uint tls_groups_known; /* a bit for each that is available, and TLS_GROUPS_ASKED */

/* Asked of a context, once: each configuration compiles profiles. Without memory for one nothing is
 * known, and it is asked again. */
static unsigned tls_groups_ask(void)
{
    CLEANUP(boring_ctx_freep) SSL_CTX *ctx = SSL_CTX_new(TLS_with_buffers_method());
    unsigned known = TLS_GROUPS_ASKED;

    if (ctx == NULL)
        return 0;
    for (size_t i = 0; i < TLS_GROUPS_NUM; i++) {
        if (SSL_CTX_set1_curves_list(ctx, tls_groups[i].name) == 1)
            known |= 1U << i;
    }
    atomic_store(&tls_groups_known, known);
    return known;
}

bool tls_group_available(const struct tls_group *group)
{
    unsigned known = atomic_load(&tls_groups_known);

    if (known == 0)
        known = tls_groups_ask();
    return (known & 1U << (group - tls_groups)) != 0;
}
