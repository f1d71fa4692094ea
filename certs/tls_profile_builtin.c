/* The built-in profiles of tls_profile.h. What each offers is pinned by test/golden/profiles: a
 * change here changes what every mesh offers that uses it. */
#include "certs/boring.h"
#include "certs/tls_profile.h"

#define TLS_BUILTIN_LIST_MAX 20

/* What a pair of profiles, one for each role, is made of. Lists end with NULL; an empty one is the
 * default list. */
struct tls_builtin {
    const char *client;
    const char *server;
    const char *description;
    Mortise__V1__TlsVersion min;
    const char *suites[TLS_BUILTIN_LIST_MAX];
    const char *groups[TLS_BUILTIN_LIST_MAX];
    const char *sigalgs[TLS_BUILTIN_LIST_MAX];
};

static const struct tls_builtin tls_builtins[] = {
    {.client = "default-tls-client",
     .server = "default-tls-server",
     .description = "TLS 1.2 and 1.3, ECDHE with AEAD",
     .min = MORTISE__V1__TLS_VERSION__TLS1_2},
    {.client = "modern-client",
     .server = "modern-server",
     .description = "TLS 1.3 alone",
     .min = MORTISE__V1__TLS_VERSION__TLS1_3},
    /* What Mozilla's recommendation of that name has, but for finite-field groups. */
    {.client = "intermediate-client",
     .server = "intermediate-server",
     .description = "TLS 1.2 and 1.3, ECDHE with AEAD, for peers of the last ten years",
     .min = MORTISE__V1__TLS_VERSION__TLS1_2,
     .suites = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
     .groups = {"X25519", "P-256", "P-384"}},
    {.client = "legacy-client",
     .server = "legacy-server",
     .description = "TLS 1.2 and 1.3, also CBC and RSA key exchange: weak, for old peers only",
     .min = MORTISE__V1__TLS_VERSION__TLS1_2,
     .suites = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
                "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
                "TLS_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_256_GCM_SHA384",
                "TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_AES_256_CBC_SHA"},
     .groups = {"X25519", "P-256", "P-384"}},
    /* What SP 800-52r2 has and the library too. */
    {.client = "fips-client",
     .server = "fips-server",
     .description = "TLS 1.2 and 1.3, AES-GCM with NIST curves (SP 800-52r2); the library is not "
                    "thereby a validated module",
     .min = MORTISE__V1__TLS_VERSION__TLS1_2,
     .suites = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
     .groups = {"P-256", "P-384"},
     .sigalgs = {"ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256", "ecdsa_secp384r1_sha384",
                 "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "rsa_pkcs1_sha256",
                 "rsa_pkcs1_sha384", "rsa_pkcs1_sha512"}},
};

/* Clients of the default links, under the names that such links have where they come from: on the
 * wire as default-tls-client, each with the keystore and truststore of its name, which every mesh
 * has too. In static mode a link names those itself. */
static const struct {
    const char *name;
    const char *description;
    const char *keystore;
    const char *truststore;
} tls_builtin_ends[] = {
    {"analytics-ingestion-client", "TLS 1.2 and 1.3, for links to analytics", "analytics-ingestion",
     "analytics-ingestion"},
    {"portal-director-client", "TLS 1.2 and 1.3, for links to portal", "portal-director",
     "portal-director"},
    {"gateway-management-client", "TLS 1.2 and 1.3, for links to gateway", "gateway-management",
     "gateway-management-client"},
};

#define TLS_BUILTIN_PAIRED (2 * ARRAY_LEN(tls_builtins))
_Static_assert(TLS_BUILTIN_PAIRED + ARRAY_LEN(tls_builtin_ends) == TLS_PROFILE_DEFAULTS,
               "a client and a server each, and the clients of links");

static char **tls_builtin_list(const char *const *names, size_t *out_num)
{
    size_t num = 0;
    char **list;

    while (names[num] != NULL)
        num++;
    *out_num = num;
    if (num == 0)
        return NULL;
    list = mem_array(num, sizeof *list);
    for (size_t i = 0; i < num; i++)
        list[i] = mem_strdup(names[i]);
    return list;
}

static Mortise__V1__TlsProfile *tls_builtin_message(const struct tls_builtin *builtin, bool server)
{
    Mortise__V1__TlsProfile *msg = mem_alloc(sizeof *msg);

    mortise__v1__tls_profile__init(msg);
    msg->name = mem_strdup(server ? builtin->server : builtin->client);
    msg->description = mem_strdup(builtin->description);
    msg->role =
        server ? MORTISE__V1__TLS_PROFILE__ROLE__SERVER : MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    msg->min_version = builtin->min;
    msg->max_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    msg->cipher_suites = tls_builtin_list(builtin->suites, &msg->n_cipher_suites);
    msg->groups = tls_builtin_list(builtin->groups, &msg->n_groups);
    msg->signature_algorithms = tls_builtin_list(builtin->sigalgs, &msg->n_signature_algorithms);
    return msg;
}

static const char *tls_builtin_name(size_t index)
{
    if (index >= TLS_BUILTIN_PAIRED)
        return tls_builtin_ends[index - TLS_BUILTIN_PAIRED].name;
    return index % 2 != 0 ? tls_builtins[index / 2].server : tls_builtins[index / 2].client;
}

static Mortise__V1__TlsProfile *tls_builtin_at(size_t index)
{
    Mortise__V1__TlsProfile *msg;
    struct tls_builtin like;
    size_t end = index - TLS_BUILTIN_PAIRED;

    if (index < TLS_BUILTIN_PAIRED)
        return tls_builtin_message(&tls_builtins[index / 2], index % 2 != 0);
    like = tls_builtins[0];
    like.client = tls_builtin_ends[end].name;
    like.description = tls_builtin_ends[end].description;
    msg = tls_builtin_message(&like, false);
    msg->keystore = mem_strdup(tls_builtin_ends[end].keystore);
    msg->truststore = mem_strdup(tls_builtin_ends[end].truststore);
    return msg;
}

void tls_profile_defaults(Mortise__V1__TlsProfile **out, size_t *out_num)
{
    for (size_t i = 0; i < TLS_PROFILE_DEFAULTS; i++)
        out[i] = tls_builtin_at(i);
    *out_num = TLS_PROFILE_DEFAULTS;
}

Mortise__V1__TlsProfile *tls_profile_builtin(const char *name)
{
    for (size_t i = 0; i < TLS_PROFILE_DEFAULTS; i++) {
        if (strcmp(tls_builtin_name(i), name) == 0)
            return tls_builtin_at(i);
    }
    return NULL;
}
