#include "certs/tls_profile.h"

#include "certs/boring.h"
#include "lib/base/str.h"

#define TLS_PROFILE_LIST_MAX 64 /* names in one list; there are fewer than 32 */

/* --- what is known --- */

enum tls_suite_flags {
    TLS_SUITE_13 = 1,    /* of TLS 1.3 */
    TLS_SUITE_ECDHE = 2, /* forward secrecy */
    TLS_SUITE_AEAD = 4,  /* no CBC, no RC4 */
    TLS_SUITE_ECDSA = 8, /* the server's certificate has an EC key */
    TLS_SUITE_RSA = 16,  /* ... an RSA key */
};
#define TLS_SUITE_GOOD (TLS_SUITE_ECDHE | TLS_SUITE_AEAD)

struct tls_suite {
    uint16_t id;
    const char *name; /* IANA */
    unsigned flags;
    const char *lacking; /* why the library may not have it */
    const char *nearest; /* and what to take then */
};

static const char tls_why_rc4[] = "RC4 is prohibited (RFC 7465)";
static const char tls_why_3des[] = "3DES has blocks of 64 bits (Sweet32)";
static const char tls_why_cbc[] = "CBC with SHA-256 was superseded by GCM";

/* The order is the default preference: AES first, as every CPU of these days has instructions for
 * it. */
static const struct tls_suite tls_suites[] = {
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
    {0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_ECDSA, NULL, NULL},
    {0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_ECDSA, NULL, NULL},
    {0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA, NULL, NULL},
    {0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", TLS_SUITE_ECDHE | TLS_SUITE_RSA, NULL, NULL},
    {0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", TLS_SUITE_AEAD | TLS_SUITE_RSA, NULL, NULL},
    {0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", TLS_SUITE_AEAD | TLS_SUITE_RSA, NULL, NULL},
    {0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", TLS_SUITE_RSA, NULL, NULL},
    {0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", TLS_SUITE_RSA, NULL, NULL},
    {0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", TLS_SUITE_RSA, tls_why_3des,
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

struct tls_group {
    uint16_t id;
    const char *name; /* as the library calls it */
    bool is_default;
};

static const struct tls_group tls_groups[] = {
    {29, "X25519", true},
    {23, "P-256", true},
    {24, "P-384", true},
    {0x11ec, "X25519MLKEM768", false}, /* 2.3 KB more in each handshake: only when named */
};

static const struct tls_alias tls_group_aliases[] = {
    {"secp256r1", "P-256"},
    {"secp384r1", "P-384"},
    {"x25519", "X25519"},
};

enum tls_sigalg_kind {
    TLS_SIGALG_ECDSA,
    TLS_SIGALG_PSS,
    TLS_SIGALG_PKCS1,  /* TLS 1.2 only */
    TLS_SIGALG_REFUSED /* known, and why not */
};

struct tls_sigalg {
    uint16_t id;
    const char *name; /* IANA */
    enum tls_sigalg_kind kind;
    const char *why; /* TLS_SIGALG_REFUSED */
};

static const char tls_why_sha1[] = "SHA-1 is broken";
static const char tls_why_key[] = "keys of this kind are refused (P-256, P-384 and RSA are not)";

static const struct tls_sigalg tls_sigalgs[] = {
    {0x0403, "ecdsa_secp256r1_sha256", TLS_SIGALG_ECDSA, NULL},
    {0x0804, "rsa_pss_rsae_sha256", TLS_SIGALG_PSS, NULL},
    {0x0503, "ecdsa_secp384r1_sha384", TLS_SIGALG_ECDSA, NULL},
    {0x0805, "rsa_pss_rsae_sha384", TLS_SIGALG_PSS, NULL},
    {0x0806, "rsa_pss_rsae_sha512", TLS_SIGALG_PSS, NULL},
    {0x0401, "rsa_pkcs1_sha256", TLS_SIGALG_PKCS1, NULL},
    {0x0501, "rsa_pkcs1_sha384", TLS_SIGALG_PKCS1, NULL},
    {0x0601, "rsa_pkcs1_sha512", TLS_SIGALG_PKCS1, NULL},
    {0x0201, "rsa_pkcs1_sha1", TLS_SIGALG_REFUSED, tls_why_sha1},
    {0x0203, "ecdsa_sha1", TLS_SIGALG_REFUSED, tls_why_sha1},
    {0x0603, "ecdsa_secp521r1_sha512", TLS_SIGALG_REFUSED, tls_why_key},
    {0x0807, "ed25519", TLS_SIGALG_REFUSED, tls_why_key},
    {0x0808, "ed448", TLS_SIGALG_REFUSED, tls_why_key},
};

static const char *tls_version_name(uint16_t version)
{
    return version == TLS1_3_VERSION ? "TLS1_3" : "TLS1_2";
}

/* --- the profile --- */

struct tls_profile {
    struct refs refs;
    char *name;
    bool server;
    uint16_t min;
    uint16_t max;
    unsigned allowed13; /* TLS_13_ bits: what may be negotiated */
    unsigned offered13; /* what the library can be told to offer: not always the same */
    const struct tls_suite *suites[ARRAY_LEN(tls_suites)]; /* of TLS 1.2, by preference */
    size_t num_suites;
    const struct tls_group *groups[ARRAY_LEN(tls_groups)];
    size_t num_groups;
    const struct tls_sigalg *sigalgs[ARRAY_LEN(tls_sigalgs)];
    size_t num_sigalgs;
    /* The same as the library wants it. */
    char *suite_text; /* "A:B"; NULL: no suite of TLS 1.2 */
    char *group_text;
    uint16_t sigalg_ids[ARRAY_LEN(tls_sigalgs)];
};

/* TLS 1.3 suites. The library has no list for them: only policies that leave some out, and a choice
 * of its own among the rest. tls_suites begins with the three, in this order. */
enum { TLS_13_AES128 = 1, TLS_13_AES256 = 2, TLS_13_CHACHA = 4, TLS_13_ALL = 7 };
#define TLS_13_NUM 3

/* tls_13_offered: the most fitting of what the policies can say. Rather a part of what is allowed
 * than more; more only where no part can be said, and then tls_profile_allows judges what came of
 * it. */
static unsigned tls_13_offered(unsigned allowed)
{
    switch (allowed) {
    case TLS_13_AES256:
    case TLS_13_AES256 | TLS_13_CHACHA:
        return TLS_13_AES256;
    case TLS_13_AES128:
    case TLS_13_AES128 | TLS_13_AES256:
        return TLS_13_AES128 | TLS_13_AES256;
    default:
        return TLS_13_ALL;
    }
}

static enum ssl_compliance_policy_t tls_13_policy(unsigned offered)
{
    switch (offered) {
    case TLS_13_AES256:
        return ssl_compliance_policy_wpa3_192_202304;
    case TLS_13_AES128 | TLS_13_AES256:
        return ssl_compliance_policy_fips_202205;
    default:
        return ssl_compliance_policy_none;
    }
}

/* tls_13_negotiated: what two ends of this library agree on when both have AES instructions: the
 * first of the client's list, which is always AES-128, AES-256, ChaCha20. (Where one end has none
 * it is ChaCha20 if both offer it: then both allow it, as offering all three means.) */
static unsigned tls_13_negotiated(unsigned client, unsigned server)
{
    unsigned common = client & server;

    return common & (~common + 1U); /* the lowest bit */
}

/* --- compile --- */

static bool tls_suite_available(const struct tls_suite *suite)
{
    return SSL_get_cipher_by_value(suite->id) != NULL;
}

static bool tls_group_available(const struct tls_group *group)
{
    CLEANUP(boring_ctx_freep) SSL_CTX *ctx = SSL_CTX_new(TLS_with_buffers_method());

    return ctx != NULL && SSL_CTX_set1_curves_list(ctx, group->name) == 1;
}

static const char *tls_unalias(const char *name, const struct tls_alias *aliases, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(aliases[i].alias, name) == 0)
            return aliases[i].name;
    }
    return name;
}

/* What a compilation hands around. */
struct tls_compile {
    struct tls_profile *profile;
    struct fault_path *path;
    struct faults *faults;
};

/* tls_fault_unknown proposes what would be accepted: `names` has NULL for what would not. */
static void tls_fault_unknown(struct tls_compile *compile, const char *what, const char *name,
                              const char *const *names, size_t num)
{
    int nearest = str_nearest(name, names, num);

    if (nearest >= 0)
        faults_add(compile->faults, compile->path->text, "unknown %s \"%s\"; did you mean \"%s\"?",
                   what, name, names[nearest]);
    else
        faults_add(compile->faults, compile->path->text, "unknown %s \"%s\"; one of them is \"%s\"",
                   what, name, names[0]);
}

/* tls_suite_by_other_name: OpenSSL's names are what people have in their configurations. */
static const struct tls_suite *tls_suite_by_other_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(tls_suites); i++) {
        const SSL_CIPHER *cipher = SSL_get_cipher_by_value(tls_suites[i].id);
        if (cipher != NULL && strcmp(SSL_CIPHER_get_name(cipher), name) == 0)
            return &tls_suites[i];
    }
    return NULL;
}

static void tls_compile_suite(struct tls_compile *compile, const char *given)
{
    const char *names[ARRAY_LEN(tls_suites)];
    const char *name = tls_unalias(given, tls_suite_aliases, ARRAY_LEN(tls_suite_aliases));
    struct tls_profile *profile = compile->profile;
    size_t i = 0;

    while (i < ARRAY_LEN(tls_suites) && strcmp(tls_suites[i].name, name) != 0)
        i++;
    if (i == ARRAY_LEN(tls_suites)) {
        const struct tls_suite *other = tls_suite_by_other_name(name);
        for (size_t j = 0; j < ARRAY_LEN(tls_suites); j++)
            names[j] = tls_suite_available(&tls_suites[j]) ? tls_suites[j].name : NULL;
        if (other != NULL)
            faults_add(compile->faults, compile->path->text,
                       "\"%s\" is OpenSSL's name; the IANA name is wanted: \"%s\"", given,
                       other->name);
        else
            tls_fault_unknown(compile, "cipher suite", given, names, ARRAY_LEN(names));
        return;
    }
    if (!tls_suite_available(&tls_suites[i])) {
        faults_add(compile->faults, compile->path->text,
                   "the TLS library does not have \"%s\": %s; the nearest available is \"%s\"",
                   given, tls_suites[i].lacking != NULL ? tls_suites[i].lacking : "it was removed",
                   tls_suites[i].nearest != NULL ? tls_suites[i].nearest : tls_suites[0].name);
        return;
    }
    if ((tls_suites[i].flags & TLS_SUITE_13) != 0) {
        if ((profile->allowed13 & 1U << i) != 0)
            faults_add(compile->faults, compile->path->text, "\"%s\" stands there twice", given);
        profile->allowed13 |= 1U << i;
        return;
    }
    for (size_t j = 0; j < profile->num_suites; j++) {
        if (profile->suites[j] == &tls_suites[i]) {
            faults_add(compile->faults, compile->path->text, "\"%s\" stands there twice", given);
            return;
        }
    }
    profile->suites[profile->num_suites++] = &tls_suites[i];
}

static void tls_compile_group(struct tls_compile *compile, const char *given)
{
    const char *names[ARRAY_LEN(tls_groups)];
    const char *name = tls_unalias(given, tls_group_aliases, ARRAY_LEN(tls_group_aliases));
    struct tls_profile *profile = compile->profile;
    size_t i = 0;

    for (size_t j = 0; j < ARRAY_LEN(tls_groups); j++)
        names[j] = tls_groups[j].name;
    while (i < ARRAY_LEN(tls_groups) && strcmp(tls_groups[i].name, name) != 0)
        i++;
    if (i == ARRAY_LEN(tls_groups)) {
        tls_fault_unknown(compile, "group", given, names, ARRAY_LEN(names));
        return;
    }
    if (!tls_group_available(&tls_groups[i])) {
        faults_add(compile->faults, compile->path->text,
                   "the TLS library does not have \"%s\"; the nearest available is \"X25519\"",
                   given);
        return;
    }
    for (size_t j = 0; j < profile->num_groups; j++) {
        if (profile->groups[j] == &tls_groups[i]) {
            faults_add(compile->faults, compile->path->text, "\"%s\" stands there twice", given);
            return;
        }
    }
    profile->groups[profile->num_groups++] = &tls_groups[i];
}

static void tls_compile_sigalg(struct tls_compile *compile, const char *name)
{
    const char *names[ARRAY_LEN(tls_sigalgs)];
    struct tls_profile *profile = compile->profile;
    size_t i = 0;

    for (size_t j = 0; j < ARRAY_LEN(tls_sigalgs); j++)
        names[j] = tls_sigalgs[j].kind != TLS_SIGALG_REFUSED ? tls_sigalgs[j].name : NULL;
    while (i < ARRAY_LEN(tls_sigalgs) && strcmp(tls_sigalgs[i].name, name) != 0)
        i++;
    if (i == ARRAY_LEN(tls_sigalgs)) {
        tls_fault_unknown(compile, "signature algorithm", name, names, ARRAY_LEN(names));
        return;
    }
    if (tls_sigalgs[i].kind == TLS_SIGALG_REFUSED) {
        faults_add(compile->faults, compile->path->text, "\"%s\" is not allowed: %s", name,
                   tls_sigalgs[i].why);
        return;
    }
    for (size_t j = 0; j < profile->num_sigalgs; j++) {
        if (profile->sigalgs[j] == &tls_sigalgs[i]) {
            faults_add(compile->faults, compile->path->text, "\"%s\" stands there twice", name);
            return;
        }
    }
    profile->sigalgs[profile->num_sigalgs++] = &tls_sigalgs[i];
}

static void tls_compile_list(struct tls_compile *compile, const char *field, char *const *names,
                             size_t num, void (*one)(struct tls_compile *compile, const char *name))
{
    size_t mark = fault_path_field(compile->path, field);

    if (num > TLS_PROFILE_LIST_MAX)
        faults_add(compile->faults, compile->path->text, "%zu names are too many: at most %d", num,
                   TLS_PROFILE_LIST_MAX);
    for (size_t i = 0; i < num && i < TLS_PROFILE_LIST_MAX; i++) {
        size_t at = fault_path_index(compile->path, i);
        one(compile, names[i]);
        fault_path_pop(compile->path, at);
    }
    fault_path_pop(compile->path, mark);
}

static void tls_compile_fault(struct tls_compile *compile, const char *field, const char *text)
{
    size_t mark = fault_path_field(compile->path, field);

    faults_add(compile->faults, compile->path->text, "%s", text);
    fault_path_pop(compile->path, mark);
}

static uint16_t tls_compile_version(struct tls_compile *compile, const char *field,
                                    Mortise__V1__TlsVersion version, uint16_t otherwise)
{
    switch (version) {
    case MORTISE__V1__TLS_VERSION__TLS_VERSION_UNSPECIFIED:
        return otherwise;
    case MORTISE__V1__TLS_VERSION__TLS1_2:
        return TLS1_2_VERSION;
    case MORTISE__V1__TLS_VERSION__TLS1_3:
        return TLS1_3_VERSION;
    case MORTISE__V1__TLS_VERSION__TLS1_0:
    case MORTISE__V1__TLS_VERSION__TLS1_1:
        tls_compile_fault(compile, field,
                          version == MORTISE__V1__TLS_VERSION__TLS1_0
                              ? "TLS1_0 is not allowed: TLS1_2 is the lowest (RFC 8996)"
                              : "TLS1_1 is not allowed: TLS1_2 is the lowest (RFC 8996)");
        return otherwise;
    default:
        tls_compile_fault(compile, field, "unknown version: TLS1_2 or TLS1_3 is wanted");
        return otherwise;
    }
}

/* tls_compile_defaults fills the lists that were left empty. */
static void tls_compile_defaults(struct tls_profile *profile, const Mortise__V1__TlsProfile *msg)
{
    if (profile->allowed13 == 0)
        profile->allowed13 = TLS_13_ALL;
    if (msg->n_cipher_suites == 0) {
        for (size_t i = TLS_13_NUM; i < ARRAY_LEN(tls_suites); i++) {
            if ((tls_suites[i].flags & TLS_SUITE_GOOD) == TLS_SUITE_GOOD)
                profile->suites[profile->num_suites++] = &tls_suites[i];
        }
    }
    for (size_t i = 0; msg->n_groups == 0 && i < ARRAY_LEN(tls_groups); i++) {
        if (tls_groups[i].is_default)
            profile->groups[profile->num_groups++] = &tls_groups[i];
    }
    for (size_t i = 0; msg->n_signature_algorithms == 0 && i < ARRAY_LEN(tls_sigalgs); i++) {
        if (tls_sigalgs[i].kind != TLS_SIGALG_REFUSED)
            profile->sigalgs[profile->num_sigalgs++] = &tls_sigalgs[i];
    }
}

/* tls_compile_versions: a version of which nothing is left is not offered, so that the library does
 * not fall back to a default of its own. */
static void tls_compile_versions(struct tls_compile *compile)
{
    struct tls_profile *profile = compile->profile;
    bool non_pkcs1 = false;

    if (profile->min > profile->max) {
        tls_compile_fault(compile, "min_version", "TLS1_3 is above max_version TLS1_2");
        return;
    }
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        non_pkcs1 |= profile->sigalgs[i]->kind != TLS_SIGALG_PKCS1;
    if (profile->max == TLS1_3_VERSION && !non_pkcs1) {
        if (profile->min == TLS1_3_VERSION)
            tls_compile_fault(
                compile, "signature_algorithms",
                "TLS 1.3 has no use for rsa_pkcs1_…: name an ecdsa_… or rsa_pss_… too");
        profile->max = TLS1_2_VERSION;
    }
    if (profile->min == TLS1_2_VERSION && profile->num_suites == 0) {
        if (profile->max == TLS1_2_VERSION)
            tls_compile_fault(compile, "cipher_suites",
                              "nothing is left to negotiate: all of these are for TLS 1.3 only and "
                              "the highest version is TLS1_2");
        profile->min = TLS1_3_VERSION;
    }
    if (profile->max == TLS1_3_VERSION && profile->allowed13 == TLS_13_CHACHA)
        tls_compile_fault(
            compile, "cipher_suites",
            "TLS_CHACHA20_POLY1305_SHA256 alone cannot be had in TLS 1.3: between CPUs "
            "with AES instructions the library always chooses AES-GCM, and the "
            "connection would be refused; name TLS_AES_128_GCM_SHA256 as well, or set "
            "max_version: TLS1_2");
}

/* tls_compile_texts makes what the library is given at each context or session. */
static err_t tls_compile_texts(struct tls_profile *profile)
{
    CLEANUP(buf_fini) struct buf text = {0};

    for (size_t i = 0; i < profile->num_suites; i++)
        TRY(buf_printf(&text, "%s%s", i > 0 ? ":" : "", profile->suites[i]->name));
    if (profile->num_suites > 0)
        profile->suite_text = buf_take_str(&text);
    for (size_t i = 0; i < profile->num_groups; i++)
        TRY(buf_printf(&text, "%s%s", i > 0 ? ":" : "", profile->groups[i]->name));
    profile->group_text = buf_take_str(&text);
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        profile->sigalg_ids[i] = profile->sigalgs[i]->id;
    return OK;
}

err_t tls_profile_compile(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                          struct faults *faults, struct tls_profile **out)
{
    BORING_SCOPE;
    CLEANUP(tls_profile_unrefp) struct tls_profile *profile = mem_zalloc(sizeof *profile);
    struct tls_compile compile = {.profile = profile, .path = path, .faults = faults};
    size_t before = faults->total;

    refs_init(&profile->refs);
    profile->name = mem_strdup(msg->name != NULL ? msg->name : "");
    profile->server = msg->role == MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
    if (!profile->server && msg->role != MORTISE__V1__TLS_PROFILE__ROLE__CLIENT)
        tls_compile_fault(&compile, "role",
                          "CLIENT or SERVER is wanted: a profile is for one side");
    profile->min = tls_compile_version(&compile, "min_version", msg->min_version, TLS1_2_VERSION);
    profile->max = tls_compile_version(&compile, "max_version", msg->max_version, TLS1_3_VERSION);
    tls_compile_list(&compile, "cipher_suites", msg->cipher_suites, msg->n_cipher_suites,
                     tls_compile_suite);
    tls_compile_list(&compile, "groups", msg->groups, msg->n_groups, tls_compile_group);
    tls_compile_list(&compile, "signature_algorithms", msg->signature_algorithms,
                     msg->n_signature_algorithms, tls_compile_sigalg);
    tls_compile_defaults(profile, msg);
    if (faults->total == before) /* else it would tell what follows from the faults before */
        tls_compile_versions(&compile);
    profile->offered13 = tls_13_offered(profile->allowed13);
    if (faults->total != before)
        return FAIL(CONFIG_INVALID, faults->total - before);
    TRY(tls_compile_texts(profile));

    *out = profile;
    profile = NULL;
    return OK;
}

struct tls_profile *tls_profile_ref(struct tls_profile *profile)
{
    refs_take(&profile->refs);
    return profile;
}

void tls_profile_unref(struct tls_profile *profile)
{
    if (profile == NULL || !refs_drop(&profile->refs))
        return;
    mem_free(profile->name);
    mem_free(profile->suite_text);
    mem_free(profile->group_text);
    mem_free(profile);
}

const char *tls_profile_name(const struct tls_profile *profile)
{
    return profile->name;
}

bool tls_profile_is_server(const struct tls_profile *profile)
{
    return profile->server;
}

bool tls_profile_equal(const struct tls_profile *a, const struct tls_profile *b)
{
    if (a == b)
        return true;
    return a->server == b->server && a->min == b->min && a->max == b->max &&
           a->allowed13 == b->allowed13 && a->num_suites == b->num_suites &&
           a->num_groups == b->num_groups && a->num_sigalgs == b->num_sigalgs &&
           memcmp(a->suites, b->suites, a->num_suites * sizeof a->suites[0]) == 0 &&
           memcmp(a->groups, b->groups, a->num_groups * sizeof a->groups[0]) == 0 &&
           memcmp(a->sigalgs, b->sigalgs, a->num_sigalgs * sizeof a->sigalgs[0]) == 0;
}

/* --- apply --- */

/* The policy comes first: it sets lists and versions, too, which the calls after it replace. */

err_t tls_profile_apply_ctx(const struct tls_profile *profile, SSL_CTX *ctx)
{
    BORING_SCOPE;
    enum ssl_compliance_policy_t policy = tls_13_policy(profile->offered13);

    if (profile->max == TLS1_3_VERSION && policy != ssl_compliance_policy_none &&
        !SSL_CTX_set_compliance_policy(ctx, policy))
        return FAIL(TLS_CONFIG, 0);
    if (!SSL_CTX_set_min_proto_version(ctx, profile->min) ||
        !SSL_CTX_set_max_proto_version(ctx, profile->max) ||
        (profile->suite_text != NULL &&
         !SSL_CTX_set_strict_cipher_list(ctx, profile->suite_text)) ||
        !SSL_CTX_set1_curves_list(ctx, profile->group_text) ||
        !SSL_CTX_set_signing_algorithm_prefs(ctx, profile->sigalg_ids, profile->num_sigalgs) ||
        !SSL_CTX_set_verify_algorithm_prefs(ctx, profile->sigalg_ids, profile->num_sigalgs))
        return FAIL(TLS_CONFIG, 0);
    return OK;
}

err_t tls_profile_apply_ssl(const struct tls_profile *profile, SSL *ssl)
{
    BORING_SCOPE;
    enum ssl_compliance_policy_t policy = tls_13_policy(profile->offered13);

    if (profile->max == TLS1_3_VERSION && policy != ssl_compliance_policy_none &&
        !SSL_set_compliance_policy(ssl, policy))
        return FAIL(TLS_CONFIG, 0);
    if (!SSL_set_min_proto_version(ssl, profile->min) ||
        !SSL_set_max_proto_version(ssl, profile->max) ||
        (profile->suite_text != NULL && !SSL_set_strict_cipher_list(ssl, profile->suite_text)) ||
        !SSL_set1_curves_list(ssl, profile->group_text) ||
        !SSL_set_signing_algorithm_prefs(ssl, profile->sigalg_ids, profile->num_sigalgs) ||
        !SSL_set_verify_algorithm_prefs(ssl, profile->sigalg_ids, profile->num_sigalgs))
        return FAIL(TLS_CONFIG, 0);
    return OK;
}

static bool tls_profile_has_suite(const struct tls_profile *profile, uint16_t id)
{
    for (size_t i = 0; i < TLS_13_NUM; i++) {
        if (tls_suites[i].id == id)
            return (profile->allowed13 & 1U << i) != 0;
    }
    for (size_t i = 0; i < profile->num_suites; i++) {
        if (profile->suites[i]->id == id)
            return true;
    }
    return false;
}

static bool tls_profile_has_group(const struct tls_profile *profile, uint16_t id)
{
    for (size_t i = 0; i < profile->num_groups; i++) {
        if (profile->groups[i]->id == id)
            return true;
    }
    return false;
}

err_t tls_profile_allows(const struct tls_profile *profile, const SSL *ssl)
{
    int version = SSL_version(ssl);
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    uint16_t group = SSL_get_curve_id(ssl);

    if (cipher == NULL)
        cipher = SSL_get_pending_cipher(ssl); /* in mid-handshake */
    if (version < profile->min || version > profile->max)
        return FAIL(TLS_NO_SHARED, version);
    if (cipher == NULL || !tls_profile_has_suite(profile, SSL_CIPHER_get_protocol_id(cipher)))
        return FAIL(TLS_NO_SHARED, cipher != NULL ? SSL_CIPHER_get_protocol_id(cipher) : 0);
    if (group != 0 && !tls_profile_has_group(profile, group)) /* 0: RSA key exchange */
        return FAIL(TLS_NO_SHARED, group);
    return OK;
}

bool tls_profile_serves(const struct tls_profile *profile, const EVP_PKEY *key)
{
    bool rsa = EVP_PKEY_id(key) == EVP_PKEY_RSA;
    bool p384 = !rsa && EVP_PKEY_bits(key) == 384;
    bool suite = profile->max == TLS1_3_VERSION;
    bool sigalg = false;

    for (size_t i = 0; i < profile->num_suites; i++)
        suite |= (profile->suites[i]->flags & (rsa ? TLS_SUITE_RSA : TLS_SUITE_ECDSA)) != 0;
    for (size_t i = 0; i < profile->num_sigalgs; i++) {
        const struct tls_sigalg *one = profile->sigalgs[i];
        if (one->kind == TLS_SIGALG_ECDSA)
            /* TLS 1.2 takes any hash with any curve; TLS 1.3 does not. */
            sigalg |= !rsa && (p384 == (one->id == 0x0503) || profile->max == TLS1_2_VERSION);
        else
            sigalg |= rsa && (one->kind == TLS_SIGALG_PSS || profile->min == TLS1_2_VERSION);
    }
    return suite && sigalg;
}

/* --- text --- */

/* tls_text_begin appends the separator before any but the first. */
static err_t tls_text_add(struct buf *out, size_t *num, const char *separator, const char *name)
{
    TRY(buf_printf(out, "%s%s", (*num)++ > 0 ? separator : "", name));
    return OK;
}

static err_t tls_text_suites13(unsigned mask, const char *separator, size_t *num, struct buf *out)
{
    for (size_t i = 0; i < TLS_13_NUM; i++) {
        if ((mask & 1U << i) != 0)
            TRY(tls_text_add(out, num, separator, tls_suites[i].name));
    }
    return OK;
}

static err_t tls_describe_suites(const struct tls_profile *profile, struct buf *out)
{
    size_t num = 0;
    size_t weak = 0;

    if (profile->max == TLS1_3_VERSION) {
        TRY(buf_add_str(out, "suites TLS1_3: "));
        TRY(tls_text_suites13(profile->offered13, " ", &num, out));
        TRY(buf_add_str(out, "\n"));
        if (profile->offered13 & ~profile->allowed13) {
            num = 0;
            TRY(buf_add_str(out, "refused after negotiation: "));
            TRY(tls_text_suites13(profile->offered13 & ~profile->allowed13, " ", &num, out));
            TRY(buf_add_str(out, "\n"));
        }
        if (profile->allowed13 & ~profile->offered13) {
            num = 0;
            TRY(buf_add_str(out, "allowed but never offered: "));
            TRY(tls_text_suites13(profile->allowed13 & ~profile->offered13, " ", &num, out));
            TRY(buf_add_str(out, "\n"));
        }
    }
    if (profile->min == TLS1_2_VERSION) {
        num = 0;
        TRY(buf_add_str(out, "suites TLS1_2: "));
        for (size_t i = 0; i < profile->num_suites; i++) {
            TRY(tls_text_add(out, &num, " ", profile->suites[i]->name));
            weak += (profile->suites[i]->flags & TLS_SUITE_GOOD) != TLS_SUITE_GOOD;
        }
        TRY(buf_add_str(out, "\n"));
        if (weak > 0)
            TRY(buf_printf(out, "weak suites: %zu without forward secrecy or without AEAD\n",
                           weak));
    }
    return OK;
}

static err_t tls_text_versions(uint16_t min, uint16_t max, struct buf *out)
{
    if (min == max)
        return buf_add_str(out, tls_version_name(min));
    return buf_printf(out, "%s-%s", tls_version_name(min), tls_version_name(max));
}

err_t tls_profile_describe(const struct tls_profile *profile, struct buf *out)
{
    TRY(buf_printf(out, "profile: %s\nrole: %s\nversions: ", profile->name,
                   profile->server ? "SERVER" : "CLIENT"));
    TRY(tls_text_versions(profile->min, profile->max, out));
    TRY(buf_add_str(out, "\n"));
    TRY(tls_describe_suites(profile, out));
    TRY(buf_add_str(out, "groups:"));
    for (size_t i = 0; i < profile->num_groups; i++)
        TRY(buf_printf(out, " %s", profile->groups[i]->name));
    TRY(buf_add_str(out, "\nsignature algorithms:"));
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        TRY(buf_printf(out, " %s", profile->sigalgs[i]->name));
    if (profile->server)
        TRY(buf_add_str(out, "\nclient certificate: required"));
    TRY(buf_add_str(out, "\nresumption: off\nearly data: off\nrenegotiation: never\n"
                         "compression: off\n"));
    return OK;
}

/* --- intersect --- */

/* What two profiles have in common. */
struct tls_common {
    uint16_t min;
    uint16_t max;
    unsigned allowed13;
    const struct tls_suite *suites[ARRAY_LEN(tls_suites)];
    size_t num_suites;
    const struct tls_group *groups[ARRAY_LEN(tls_groups)];
    size_t num_groups;
    const struct tls_sigalg *sigalgs[ARRAY_LEN(tls_sigalgs)];
    size_t num_sigalgs;
};

/* The server's order counts: its context says so. */
static void tls_common_of(const struct tls_profile *client, const struct tls_profile *server,
                          struct tls_common *out)
{
    *out = (struct tls_common){
        .min = client->min > server->min ? client->min : server->min,
        .max = client->max < server->max ? client->max : server->max,
        .allowed13 = client->allowed13 & server->allowed13,
    };
    for (size_t i = 0; i < server->num_suites; i++) {
        if (tls_profile_has_suite(client, server->suites[i]->id))
            out->suites[out->num_suites++] = server->suites[i];
    }
    for (size_t i = 0; i < server->num_groups; i++) {
        if (tls_profile_has_group(client, server->groups[i]->id))
            out->groups[out->num_groups++] = server->groups[i];
    }
    for (size_t i = 0; i < server->num_sigalgs; i++) {
        for (size_t j = 0; j < client->num_sigalgs; j++) {
            if (server->sigalgs[i] == client->sigalgs[j])
                out->sigalgs[out->num_sigalgs++] = server->sigalgs[i];
        }
    }
}

static err_t tls_text_profile_suites(const struct tls_profile *profile, struct buf *out)
{
    size_t num = 0;

    if (profile->max == TLS1_3_VERSION)
        TRY(tls_text_suites13(profile->allowed13, ", ", &num, out));
    for (size_t i = 0; profile->min == TLS1_2_VERSION && i < profile->num_suites; i++)
        TRY(tls_text_add(out, &num, ", ", profile->suites[i]->name));
    return OK;
}

static err_t tls_text_groups(const struct tls_group *const *groups, size_t num, struct buf *out)
{
    size_t done = 0;

    for (size_t i = 0; i < num; i++)
        TRY(tls_text_add(out, &done, ", ", groups[i]->name));
    return OK;
}

static err_t tls_text_sigalgs(const struct tls_profile *profile, struct buf *out)
{
    size_t done = 0;

    for (size_t i = 0; i < profile->num_sigalgs; i++)
        TRY(tls_text_add(out, &done, ", ", profile->sigalgs[i]->name));
    return OK;
}

enum tls_kind { TLS_KIND_VERSION, TLS_KIND_SUITE, TLS_KIND_GROUP, TLS_KIND_SIGALG };

static err_t tls_text_kind(const struct tls_profile *profile, enum tls_kind kind, struct buf *out)
{
    switch (kind) {
    case TLS_KIND_VERSION:
        return tls_text_versions(profile->min, profile->max, out);
    case TLS_KIND_SUITE:
        return tls_text_profile_suites(profile, out);
    case TLS_KIND_GROUP:
        return tls_text_groups(profile->groups, profile->num_groups, out);
    case TLS_KIND_SIGALG:
        return tls_text_sigalgs(profile, out);
    }
    return FAIL(BUG, 0);
}

/* tls_intersect_fault shows both lists of a kind. */
static err_t tls_intersect_fault(const struct tls_profile *client, const struct tls_profile *server,
                                 const char *path, struct faults *faults, enum tls_kind kind,
                                 const char *what)
{
    CLEANUP(buf_fini) struct buf a = {0};
    CLEANUP(buf_fini) struct buf b = {0};

    TRY(tls_text_kind(client, kind, &a));
    TRY(tls_text_kind(server, kind, &b));
    CLEANUP(mem_freep) char *client_text = buf_take_str(&a);
    CLEANUP(mem_freep) char *server_text = buf_take_str(&b);
    faults_add(faults, path, "%s: client profile \"%s\" has %s; server profile \"%s\" has %s", what,
               client->name, client_text, server->name, server_text);
    return FAIL(CONFIG_INVALID, 1);
}

/* tls_intersect_check: would a handshake between the two succeed? The highest version that both
 * have is the one they negotiate: what lower versions have in common does not help. */
static err_t tls_intersect_check(const struct tls_profile *client, const struct tls_profile *server,
                                 const struct tls_common *common, const char *path,
                                 struct faults *faults)
{
    bool needs_group = common->max == TLS1_3_VERSION;
    bool sigalg = false;

    if (common->min > common->max)
        return tls_intersect_fault(client, server, path, faults, TLS_KIND_VERSION,
                                   "no TLS version in common");
    if (common->max == TLS1_3_VERSION) {
        unsigned chosen = tls_13_negotiated(client->offered13, server->offered13);
        if (common->allowed13 == 0)
            return tls_intersect_fault(
                client, server, path, faults, TLS_KIND_SUITE,
                "no TLS 1.3 cipher suite in common (and both have TLS 1.3, so "
                "that no other version would be negotiated)");
        if ((chosen & common->allowed13) == 0)
            return tls_intersect_fault(
                client, server, path, faults, TLS_KIND_SUITE,
                "the TLS 1.3 cipher suites in common are not the one that the "
                "library would choose between these two");
    } else if (common->num_suites == 0) {
        return tls_intersect_fault(client, server, path, faults, TLS_KIND_SUITE,
                                   "no cipher suite in common");
    }
    for (size_t i = 0; !needs_group && i < common->num_suites; i++)
        needs_group = (common->suites[i]->flags & TLS_SUITE_ECDHE) != 0;
    if (needs_group && common->num_groups == 0)
        return tls_intersect_fault(client, server, path, faults, TLS_KIND_GROUP,
                                   "no group in common");
    for (size_t i = 0; i < common->num_sigalgs; i++)
        sigalg |= common->max == TLS1_2_VERSION || common->sigalgs[i]->kind != TLS_SIGALG_PKCS1;
    if (!sigalg)
        return tls_intersect_fault(client, server, path, faults, TLS_KIND_SIGALG,
                                   "no signature algorithm in common");
    return OK;
}

static err_t tls_intersect_text(const struct tls_common *common, struct buf *out)
{
    size_t num = 0;

    TRY(tls_text_versions(common->min, common->max, out));
    TRY(buf_add_str(out, "; "));
    if (common->max == TLS1_3_VERSION)
        TRY(tls_text_suites13(common->allowed13, ", ", &num, out));
    for (size_t i = 0; common->min == TLS1_2_VERSION && i < common->num_suites; i++)
        TRY(tls_text_add(out, &num, ", ", common->suites[i]->name));
    TRY(buf_add_str(out, "; "));
    return tls_text_groups(common->groups, common->num_groups, out);
}

err_t tls_profile_intersect(const struct tls_profile *client, const struct tls_profile *server,
                            const char *path, struct faults *faults, struct buf *out_text)
{
    struct tls_common common;

    if (client->server || !server->server) {
        faults_add(faults, path, "profile \"%s\" is for a %s",
                   client->server ? client->name : server->name,
                   client->server ? "server and stands where a client's is wanted"
                                  : "client and stands where a server's is wanted");
        return FAIL(CONFIG_INVALID, 1);
    }
    tls_common_of(client, server, &common);
    TRY(tls_intersect_check(client, server, &common, path, faults));
    if (common.max == TLS1_3_VERSION && common.num_suites == 0)
        common.min = TLS1_3_VERSION; /* TLS 1.2 would have nothing; it is not negotiated anyway */
    if (out_text != NULL)
        TRY(tls_intersect_text(&common, out_text));
    return OK;
}

/* --- built in --- */

static Mortise__V1__TlsProfile *tls_profile_default(const char *name, const char *description,
                                                    Mortise__V1__TlsProfile__Role role)
{
    Mortise__V1__TlsProfile *msg = mem_alloc(sizeof *msg);

    mortise__v1__tls_profile__init(msg);
    msg->name = mem_strdup(name);
    msg->description = mem_strdup(description);
    msg->role = role;
    msg->min_version = MORTISE__V1__TLS_VERSION__TLS1_2;
    msg->max_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    return msg;
}

void tls_profile_defaults(Mortise__V1__TlsProfile **out, size_t *out_num)
{
    out[0] = tls_profile_default("default-tls-client", "TLS 1.2 and 1.3, ECDHE with AEAD",
                                 MORTISE__V1__TLS_PROFILE__ROLE__CLIENT);
    out[1] = tls_profile_default("default-tls-server", "TLS 1.2 and 1.3, ECDHE with AEAD",
                                 MORTISE__V1__TLS_PROFILE__ROLE__SERVER);
    *out_num = TLS_PROFILE_DEFAULTS;
}
