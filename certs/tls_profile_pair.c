/* tls_profile_intersect: would two profiles meet, and on what. */
#include "certs/tls_profile_impl.h"

/* tls_13_negotiated: what two ends of this library agree on when both have AES instructions: the
 * first of the client's list, which is always AES-128, AES-256, ChaCha20. (Where one end has none
 * it is ChaCha20 if both offer it: then both allow it, as offering all three means.) */
static unsigned tls_13_negotiated(unsigned client, unsigned server)
{
    unsigned common = client & server;

    return common & (~common + 1U); /* the lowest bit */
}

#define TLS_KEY_CURVE 23             /* P-256, of every certificate that the mesh issues */
#define TLS_KEY_SIGALG 0x0403        /* the one that TLS 1.3 takes of such a key */
#define TLS_GROUP_OF_13_ALONE 0x11ec /* X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) */

static void tls_common_suites(const struct tls_profile *client, const struct tls_profile *server,
                              struct tls_common *out)
{
    for (size_t i = 0; i < server->num_suites; i++) {
        if ((server->suites[i]->flags & TLS_SUITE_ECDSA) != 0 &&
            (out->max >= TLS1_2_VERSION || (server->suites[i]->flags & TLS_SUITE_OLD) != 0) &&
            tls_profile_has_suite(client, server->suites[i]->id))
            out->suites[out->num_suites++] = server->suites[i];
    }
}

static void tls_common_groups(const struct tls_profile *client, const struct tls_profile *server,
                              struct tls_common *out)
{
    for (size_t i = 0; i < server->num_groups; i++) {
        if (tls_profile_has_group(client, server->groups[i]->id) &&
            (out->max == TLS1_3_VERSION || server->groups[i]->id != TLS_GROUP_OF_13_ALONE))
            out->groups[out->num_groups++] = server->groups[i];
    }
}

static bool tls_common_has_group_12(const struct tls_common *common)
{
    for (size_t i = 0; i < common->num_groups; i++) {
        if (common->groups[i]->id != TLS_GROUP_OF_13_ALONE)
            return true;
    }
    return false;
}

static bool tls_common_has_old(const struct tls_common *common)
{
    for (size_t i = 0; i < common->num_suites; i++) {
        if ((common->suites[i]->flags & TLS_SUITE_OLD) != 0)
            return true;
    }
    return false;
}

static void tls_common_sigalgs(const struct tls_profile *client, const struct tls_profile *server,
                               struct tls_common *out)
{
    for (size_t i = 0; i < server->num_sigalgs; i++) {
        const struct tls_sigalg *one = server->sigalgs[i];

        /* TLS 1.2 takes any hash with any curve; TLS 1.3 does not. */
        if (one->kind != TLS_SIGALG_ECDSA ||
            (out->max == TLS1_3_VERSION && one->id != TLS_KEY_SIGALG))
            continue;
        for (size_t j = 0; j < client->num_sigalgs; j++) {
            if (one == client->sigalgs[j])
                out->sigalgs[out->num_sigalgs++] = one;
        }
    }
}

/* Only what two P-256 keys can use. The server's order counts: its context says so. */
static void tls_common_of(const struct tls_profile *client, const struct tls_profile *server,
                          struct tls_common *out)
{
    *out = (struct tls_common){
        .min = client->min > server->min ? client->min : server->min,
        .max = client->max < server->max ? client->max : server->max,
        .client_auth = server->client_auth,
    };
    if (out->max == TLS1_3_VERSION)
        out->suites13 = client->allowed13 & server->allowed13;
    if (out->min <= TLS1_2_VERSION)
        tls_common_suites(client, server, out);
    tls_common_groups(client, server, out);
    if (out->max >= TLS1_2_VERSION) /* below there is no choice */
        tls_common_sigalgs(client, server, out);
    if (out->min < TLS1_2_VERSION && out->max >= TLS1_2_VERSION && !tls_common_has_old(out))
        out->min = TLS1_2_VERSION;
    /* Where TLS 1.2 would have nothing it does not count; it is not negotiated anyway. */
    if (out->max == TLS1_3_VERSION && (out->num_suites == 0 || !tls_common_has_group_12(out) ||
                                       !tls_profile_has_group(client, TLS_KEY_CURVE))) {
        out->min = TLS1_3_VERSION;
        out->num_suites = 0;
    }
}

/* Of TLS 1.2, those with one of `flags`. */
static err_t tls_text_suites12(const struct tls_profile *profile, unsigned flags, struct buf *out)
{
    size_t num = 0;

    for (size_t i = 0; profile->min <= TLS1_2_VERSION && i < profile->num_suites; i++) {
        if ((profile->suites[i]->flags & flags) != 0)
            TRY(tls_text_add(out, &num, ", ", profile->suites[i]->name));
    }
    return num > 0 ? OK : buf_add_str(out, "none");
}

static err_t tls_text_profile_suites13(const struct tls_profile *profile, struct buf *out)
{
    size_t num = 0;

    return tls_text_suites13(profile->allowed13, ", ", &num, out);
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

enum tls_kind {
    TLS_KIND_VERSION,
    TLS_KIND_SUITE_13,
    TLS_KIND_SUITE_12,
    TLS_KIND_GROUP,
    TLS_KIND_SIGALG
};

static err_t tls_text_kind(const struct tls_profile *profile, enum tls_kind kind, struct buf *out)
{
    switch (kind) {
    case TLS_KIND_VERSION:
        return tls_text_versions(profile->min, profile->max, out);
    case TLS_KIND_SUITE_13:
        return tls_text_profile_suites13(profile, out);
    case TLS_KIND_SUITE_12:
        return tls_text_suites12(profile, TLS_SUITE_ECDSA, out);
    case TLS_KIND_GROUP:
        return tls_text_groups(profile->groups, profile->num_groups, out);
    case TLS_KIND_SIGALG:
        return tls_text_sigalgs(profile, out);
    }
    return FAIL(BUG, 0);
}

/* What may be wrong with a pair, and what to do about it. */
struct tls_discord {
    enum tls_kind kind;
    const char *what;
    const char *remedy;
};

/* tls_intersect_fault shows both lists of a kind. */
static err_t tls_intersect_fault(const struct tls_profile *client, const struct tls_profile *server,
                                 const char *path, struct faults *faults,
                                 const struct tls_discord *discord)
{
    CLEANUP(buf_fini) struct buf a = {0};
    CLEANUP(buf_fini) struct buf b = {0};

    TRY(tls_text_kind(client, discord->kind, &a));
    TRY(tls_text_kind(server, discord->kind, &b));
    CLEANUP(mem_freep) char *client_text = buf_take_str(&a);
    CLEANUP(mem_freep) char *server_text = buf_take_str(&b);
    faults_add(faults, path, "%s: %s; client profile \"%s\" has %s; server profile \"%s\" has %s",
               discord->what, discord->remedy, client->name, client_text, server->name,
               server_text);
    return FAIL(CONFIG_INVALID, 1);
}

static const struct tls_discord tls_no_version = {
    TLS_KIND_VERSION, "no TLS version in common",
    "let min_version of the one be no higher than max_version of the other"};
static const struct tls_discord tls_no_suite_13 = {
    TLS_KIND_SUITE_13,
    "no TLS 1.3 cipher suite in common (and both have TLS 1.3, so that no other version would be "
    "negotiated)",
    "name one for both, TLS_AES_256_GCM_SHA384 for example"};
static const struct tls_discord tls_other_suite_13 = {
    TLS_KIND_SUITE_13,
    "the TLS 1.3 cipher suites in common are not the one that the library would choose between "
    "these two",
    "name TLS_AES_256_GCM_SHA384 for both"};
static const struct tls_discord tls_no_suite = {
    TLS_KIND_SUITE_12, "no cipher suite in common that the mesh's ECDSA certificates can serve",
    "name one for both, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 for example, or allow TLS1_3 at "
    "both ends"};
static const struct tls_discord tls_no_suite_old = {
    TLS_KIND_SUITE_12,
    "no cipher suite in common that the mesh's ECDSA certificates can serve and the highest "
    "version "
    "of both, which is below TLS 1.2, has",
    "name TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA for both, or allow TLS1_2 at both ends"};
static const struct tls_discord tls_no_group = {TLS_KIND_GROUP, "no group in common",
                                                "name one for both, P-256 for example"};
static const struct tls_discord tls_no_group_12 = {
    TLS_KIND_GROUP, "no group in common that TLS 1.2, the highest version of both, has",
    "name one for both, P-256 for example, or allow TLS1_3 at both ends"};
static const struct tls_discord tls_no_curve_old = {
    TLS_KIND_GROUP,
    "below TLS 1.3 a client's groups must have the curve of the server's certificate, which in the "
    "mesh is P-256",
    "add P-256 to the client profile, or allow TLS1_3 at both ends"};
/* RFC 8422 section 5.1. */
static const struct tls_discord tls_no_curve = {
    TLS_KIND_GROUP,
    "in TLS 1.2, the highest version of both, a client's groups must have the curve of the "
    "server's certificate, which in the mesh is P-256",
    "add P-256 to the client profile, or allow TLS1_3 at both ends"};
static const struct tls_discord tls_no_sigalg = {
    TLS_KIND_SIGALG,
    "no signature algorithm in common that the mesh's P-256 certificates can be used with",
    "name ecdsa_secp256r1_sha256 for both"};

/* tls_intersect_discord: why a handshake between the two would fail; NULL: it would not. The
 * highest version that both have is the one they negotiate: what lower versions have in common does
 * not help. */
static const struct tls_discord *tls_intersect_discord(const struct tls_profile *client,
                                                       const struct tls_profile *server,
                                                       const struct tls_common *common)
{
    unsigned chosen = tls_13_negotiated(client->offered13, server->offered13);

    if (common->min > common->max)
        return &tls_no_version;
    if (common->max == TLS1_3_VERSION && common->suites13 == 0)
        return &tls_no_suite_13;
    if (common->max == TLS1_3_VERSION && (chosen & common->suites13) == 0)
        return &tls_other_suite_13;
    if (common->max < TLS1_3_VERSION && common->num_suites == 0)
        return common->max < TLS1_2_VERSION ? &tls_no_suite_old : &tls_no_suite;
    if (common->num_groups == 0)
        return common->max < TLS1_3_VERSION ? &tls_no_group_12 : &tls_no_group;
    if (common->max < TLS1_3_VERSION && !tls_profile_has_group(client, TLS_KEY_CURVE))
        return common->max < TLS1_2_VERSION ? &tls_no_curve_old : &tls_no_curve;
    return common->num_sigalgs == 0 && common->max >= TLS1_2_VERSION ? &tls_no_sigalg : NULL;
}

err_t tls_common_text(const struct tls_common *common, struct buf *out)
{
    size_t num = 0;

    TRY(tls_text_versions(common->min, common->max, out));
    TRY(buf_add_str(out, "; "));
    TRY(tls_text_suites13(common->suites13, ", ", &num, out));
    for (size_t i = 0; i < common->num_suites; i++)
        TRY(tls_text_add(out, &num, ", ", common->suites[i]->name));
    TRY(buf_add_str(out, "; "));
    return tls_text_groups(common->groups, common->num_groups, out);
}

/* One that is of no use to a P-256 key at all: sidecars refuse it, whatever the other end has. */
static err_t tls_intersect_serves(const struct tls_profile *profile, const char *path,
                                  struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {0};

    if (tls_profile_serves_kind(profile, TLS_KEY_P256))
        return OK;
    TRY(tls_text_sigalgs(profile, &text));
    if (profile->max <= TLS1_2_VERSION && profile->server) {
        TRY(buf_add_str(&text, " with "));
        TRY(tls_text_suites12(profile, ~0U, &text));
    }
    CLEANUP(mem_freep) char *shown = buf_take_str(&text);
    faults_add(faults, path,
               "profile \"%s\" is of no use to the mesh's certificates, whose keys are ECDSA "
               "P-256: name %secdsa_secp256r1_sha256; it has %s",
               profile->name,
               profile->max <= TLS1_2_VERSION && profile->server ? "a TLS_ECDHE_ECDSA_… suite and "
                                                                 : "",
               shown);
    return FAIL(CONFIG_INVALID, 1);
}

err_t tls_profile_intersect(const struct tls_profile *client, const struct tls_profile *server,
                            const char *path, struct faults *faults, struct tls_common *out)
{
    struct tls_common common;
    const struct tls_discord *discord;

    if (client->server || !server->server) {
        faults_add(faults, path, "profile \"%s\" is for a %s",
                   client->server ? client->name : server->name,
                   client->server ? "server and stands where a client's is wanted"
                                  : "client and stands where a server's is wanted");
        return FAIL(CONFIG_INVALID, 1);
    }
    TRY(tls_intersect_serves(client, path, faults));
    TRY(tls_intersect_serves(server, path, faults));
    tls_common_of(client, server, &common);
    discord = tls_intersect_discord(client, server, &common);
    if (discord != NULL)
        return tls_intersect_fault(client, server, path, faults, discord);
    if (out != NULL)
        *out = common;
    return OK;
}
