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

/* What two profiles have in common. */
struct tls_common {
    uint16_t min;
    uint16_t max;
    unsigned allowed13;
    const struct tls_suite *suites[TLS_SUITES_NUM];
    size_t num_suites;
    const struct tls_group *groups[TLS_GROUPS_NUM];
    size_t num_groups;
    const struct tls_sigalg *sigalgs[TLS_SIGALGS_NUM];
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
