#include "control/weaker.h"

#include <string.h>

#include "certs/tls_profile.h"
#include "control/mesh.h"
#include "control/weaker_trust.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

/* A mesh with its items by name: values are indices plus one. */
struct weaker_mesh {
    const Mortise__V1__Mesh *mesh;
    struct map profiles;
    struct map links;
    struct tls_profile **compiled; /* NULL: not yet */
    struct weaker_trusts trusts;
};

/* What a link is about. */
struct weaker_link {
    const Mortise__V1__Link *link;
    const Mortise__V1__TlsProfile *client;
    const Mortise__V1__TlsProfile *server;
    struct tls_common common;
};

static void weaker_open(const Mortise__V1__Mesh *mesh, struct weaker_mesh *out)
{
    *out = (struct weaker_mesh){.mesh = mesh};
    out->compiled = mem_array(mesh->n_profiles, sizeof(*out->compiled));
    weaker_trusts_open(mesh, &out->trusts);
    for (size_t i = 0; i < mesh->n_profiles; i++)
        map_put(&out->profiles, mesh->profiles[i]->name, (void *)(uintptr_t)(i + 1));
    for (size_t i = 0; i < mesh->n_links; i++)
        map_put(&out->links, mesh->links[i]->name, (void *)(uintptr_t)(i + 1));
}

static void weaker_close(struct weaker_mesh *mesh)
{
    for (size_t i = 0; i < mesh->mesh->n_profiles; i++)
        tls_profile_unref(mesh->compiled[i]);
    mem_free(mesh->compiled);
    weaker_trusts_close(&mesh->trusts);
    map_fini(&mesh->profiles);
    map_fini(&mesh->links);
}

static const Mortise__V1__TlsProfile *weaker_profile(const struct weaker_mesh *mesh,
                                                     const char *name)
{
    size_t index = (uintptr_t)map_get(&mesh->profiles, name);

    return index > 0 ? mesh->mesh->profiles[index - 1] : NULL;
}

static const struct tls_profile *weaker_compile(struct weaker_mesh *mesh, const char *name)
{
    size_t index = (uintptr_t)map_get(&mesh->profiles, name) - 1;
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};
    err_t err;

    if (mesh->compiled[index] == NULL) {
        err = tls_profile_compile(mesh->mesh->profiles[index], &path, &faults,
                                  &mesh->compiled[index]);
        (void)err; /* stays NULL */
        faults_fini(&faults);
    }
    return mesh->compiled[index];
}

/* False when its ends could not talk: nothing is in common. */
static bool weaker_common(struct weaker_mesh *mesh, struct weaker_link *link)
{
    const struct tls_profile *client = weaker_compile(mesh, link->client->name);
    const struct tls_profile *server = weaker_compile(mesh, link->server->name);
    struct faults faults = {.num = 0};
    bool meet = client != NULL && server != NULL &&
                err_is_ok(tls_profile_intersect(client, server, "", &faults, &link->common));

    faults_fini(&faults);
    return meet;
}

/* ---------------------------------------------------------------------- rules */

static bool weaker_min_version(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->common.min < before->common.min;
}

static bool weaker_max_version(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->common.max < before->common.max;
}

static bool weaker_has_suite(const struct tls_common *common, const struct tls_suite *suite)
{
    for (size_t i = 0; i < common->num_suites; i++) {
        if (common->suites[i] == suite)
            return true;
    }
    return false;
}

static bool weaker_suites(const struct weaker_link *before, const struct weaker_link *after)
{
    for (size_t i = 0; i < after->common.num_suites; i++) {
        const struct tls_suite *suite = after->common.suites[i];

        if ((suite->flags & TLS_SUITE_GOOD) != TLS_SUITE_GOOD &&
            !weaker_has_suite(&before->common, suite))
            return true;
    }
    return false;
}

static unsigned weaker_group_bits(const struct tls_common *common)
{
    unsigned least = 0;

    for (size_t i = 0; i < common->num_groups; i++) {
        if (least == 0 || common->groups[i]->bits < least)
            least = common->groups[i]->bits;
    }
    return least;
}

static bool weaker_is_post_quantum(const struct tls_common *common)
{
    for (size_t i = 0; i < common->num_groups; i++) {
        if (common->groups[i]->post_quantum)
            return true;
    }
    return false;
}

static bool weaker_groups(const struct weaker_link *before, const struct weaker_link *after)
{
    return weaker_group_bits(&after->common) < weaker_group_bits(&before->common) ||
           (weaker_is_post_quantum(&before->common) && !weaker_is_post_quantum(&after->common));
}

static unsigned weaker_sigalg_bits(const struct tls_common *common)
{
    unsigned least = 0;

    for (size_t i = 0; i < common->num_sigalgs; i++) {
        if (least == 0 || common->sigalgs[i]->bits < least)
            least = common->sigalgs[i]->bits;
    }
    return least;
}

static bool weaker_sigalgs(const struct weaker_link *before, const struct weaker_link *after)
{
    /* Below TLS 1.2 there are none to choose; that the version is lower says enough. */
    return after->common.num_sigalgs > 0 &&
           weaker_sigalg_bits(&after->common) < weaker_sigalg_bits(&before->common);
}

static bool weaker_keeps(const Mortise__V1__TlsProfile *before,
                         const Mortise__V1__TlsProfile *after)
{
    return after->on_expiry == MORTISE__V1__TLS_PROFILE__ON_EXPIRY__KEEP &&
           before->on_expiry != MORTISE__V1__TLS_PROFILE__ON_EXPIRY__KEEP;
}

/* Each end looks at the other's certificate. */
static bool weaker_client_expiry(const struct weaker_link *before, const struct weaker_link *after)
{
    return weaker_keeps(before->client, after->client);
}

static bool weaker_server_expiry(const struct weaker_link *before, const struct weaker_link *after)
{
    return weaker_keeps(before->server, after->server);
}

/* Whichever end is first ends it; 0: neither. */
static uint32_t weaker_age(const struct weaker_link *link)
{
    uint32_t client = link->client->max_age_s;
    uint32_t server = link->server->max_age_s;

    return client != 0 && (server == 0 || client < server) ? client : server;
}

static bool weaker_max_age(const struct weaker_link *before, const struct weaker_link *after)
{
    uint32_t old = weaker_age(before);
    uint32_t new = weaker_age(after);

    return old != 0 && (new == 0 || new > old);
}

static bool weaker_client_auth(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->common.client_auth > before->common.client_auth;
}

static bool weaker_skip_verify(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->client->insecure_skip_verify && !before->client->insecure_skip_verify;
}

static bool weaker_renegotiation(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->client->renegotiation > before->client->renegotiation &&
           after->client->renegotiation > MORTISE__V1__TLS_PROFILE__RENEGOTIATION__NEVER;
}

static bool weaker_anonymous(const struct weaker_link *before, const struct weaker_link *after)
{
    return after->link->allow_anonymous && !before->link->allow_anonymous;
}

/* --- what a link has of a kind --- */

static err_t weaker_add(struct buf *out, const char *text)
{
    return buf_printf(out, "%s%s", buf_size(out) > 0 ? ", " : "", text);
}

static err_t weaker_tell_min(const struct weaker_link *link, struct buf *out)
{
    return weaker_add(out, tls_version_name(link->common.min));
}

static err_t weaker_tell_max(const struct weaker_link *link, struct buf *out)
{
    return weaker_add(out, tls_version_name(link->common.max));
}

static err_t weaker_tell_suites(const struct weaker_link *link, struct buf *out)
{
    for (size_t i = 0; i < link->common.num_suites; i++)
        TRY(weaker_add(out, link->common.suites[i]->name));
    return link->common.num_suites > 0 ? OK : weaker_add(out, "none of TLS 1.2");
}

static err_t weaker_tell_groups(const struct weaker_link *link, struct buf *out)
{
    for (size_t i = 0; i < link->common.num_groups; i++)
        TRY(weaker_add(out, link->common.groups[i]->name));
    return OK;
}

static err_t weaker_tell_sigalgs(const struct weaker_link *link, struct buf *out)
{
    for (size_t i = 0; i < link->common.num_sigalgs; i++)
        TRY(weaker_add(out, link->common.sigalgs[i]->name));
    return OK;
}

static err_t weaker_tell_expiry(const Mortise__V1__TlsProfile *profile, struct buf *out)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
        &mortise__v1__tls_profile__on_expiry__descriptor, (int)profile->on_expiry);

    return weaker_add(out, profile->on_expiry !=
                                       MORTISE__V1__TLS_PROFILE__ON_EXPIRY__ON_EXPIRY_UNSPECIFIED &&
                                   value != NULL
                               ? value->name
                               : "DRAIN");
}

static err_t weaker_tell_client_expiry(const struct weaker_link *link, struct buf *out)
{
    return weaker_tell_expiry(link->client, out);
}

static err_t weaker_tell_server_expiry(const struct weaker_link *link, struct buf *out)
{
    return weaker_tell_expiry(link->server, out);
}

static err_t weaker_tell_age(const struct weaker_link *link, struct buf *out)
{
    uint32_t age = weaker_age(link);

    return age != 0 ? buf_printf(out, "%u", age) : weaker_add(out, "none");
}

static err_t weaker_tell_client_auth(const struct weaker_link *link, struct buf *out)
{
    static const char *const names[] = {"REQUIRED", "OPTIONAL", "NONE"};

    return weaker_add(out, names[link->common.client_auth]);
}

static err_t weaker_tell_skip_verify(const struct weaker_link *link, struct buf *out)
{
    return weaker_add(out, link->client->insecure_skip_verify ? "true" : "false");
}

static err_t weaker_tell_renegotiation(const struct weaker_link *link, struct buf *out)
{
    static const char *const names[] = {"NEVER", "NEVER", "ONCE", "FREELY"};

    return weaker_add(out, names[link->client->renegotiation % ARRAY_LEN(names)]);
}

static err_t weaker_tell_anonymous(const struct weaker_link *link, struct buf *out)
{
    return weaker_add(out, link->link->allow_anonymous ? "true" : "false");
}

static const struct weaker_rule {
    const char *field;
    bool (*is)(const struct weaker_link *before, const struct weaker_link *after);
    err_t (*tell)(const struct weaker_link *link, struct buf *out);
} weaker_rules[] = {
    {"min_version", weaker_min_version, weaker_tell_min},
    {"max_version", weaker_max_version, weaker_tell_max},
    {"cipher_suites", weaker_suites, weaker_tell_suites},
    {"groups", weaker_groups, weaker_tell_groups},
    {"signature_algorithms", weaker_sigalgs, weaker_tell_sigalgs},
    {"on_expiry of the client profile", weaker_client_expiry, weaker_tell_client_expiry},
    {"on_expiry of the server profile", weaker_server_expiry, weaker_tell_server_expiry},
    {"max_age_s", weaker_max_age, weaker_tell_age},
    {"client_auth", weaker_client_auth, weaker_tell_client_auth},
    {"insecure_skip_verify", weaker_skip_verify, weaker_tell_skip_verify},
    {"renegotiation", weaker_renegotiation, weaker_tell_renegotiation},
    {"allow_anonymous", weaker_anonymous, weaker_tell_anonymous},
};

/* ---------------------------------------------------------------------- whole */

#define WEAKER_PATH_MAX (MESH_NAME_MAX + 16)
static const char *weaker_path(const Mortise__V1__Link *link, char out[WEAKER_PATH_MAX])
{
    (void)snprintf(out, WEAKER_PATH_MAX, "link %.*s", MESH_NAME_MAX, link->name);
    return out;
}

static void weaker_judge(const char *path, const struct weaker_link *before,
                         const struct weaker_link *after, struct faults *out)
{
    for (size_t i = 0; i < ARRAY_LEN(weaker_rules); i++) {
        const struct weaker_rule *rule = &weaker_rules[i];
        struct buf old = {0}, new = {0};

        if (!rule->is(before, after))
            continue;
        CHECK(err_is_ok(rule->tell(before, &old)) && err_is_ok(rule->tell(after, &new)));
        CLEANUP(mem_freep) char *old_text = buf_take_str(&old);
        CLEANUP(mem_freep) char *new_text = buf_take_str(&new);
        faults_add(out, path, "%s %s -> %s", rule->field, old_text, new_text);
    }
}

/* NULL: there is none. */
static const Mortise__V1__Link *weaker_named(const struct weaker_mesh *mesh, const char *name)
{
    size_t index = (uintptr_t)map_get(&mesh->links, name);

    return index > 0 ? mesh->mesh->links[index - 1] : NULL;
}

static bool weaker_same_way(const Mortise__V1__Link *a, const Mortise__V1__Link *b)
{
    return strcmp(a->client, b->client) == 0 && strcmp(a->server, b->server) == 0 &&
           a->server_port == b->server_port;
}

#define WEAKER_WAY_MAX (2 * MESH_NAME_MAX + 16)
static void weaker_way(const Mortise__V1__Link *link, char out[WEAKER_WAY_MAX])
{
    (void)snprintf(out, WEAKER_WAY_MAX, "%.*s %.*s %u", MESH_NAME_MAX, link->client, MESH_NAME_MAX,
                   link->server, link->server_port);
}

/* Links of `before` that are removed or lead elsewhere in `after`, by the way that they led: what
 * leads there now has taken their place. Of several the first. */
static void weaker_find_gone(const struct weaker_mesh *before, const struct weaker_mesh *after,
                             struct map *out)
{
    for (size_t i = before->mesh->n_links; i > 0; i--) {
        const Mortise__V1__Link *old = before->mesh->links[i - 1];
        const Mortise__V1__Link *now = weaker_named(after, old->name);
        char way[WEAKER_WAY_MAX];

        if (now != NULL && weaker_same_way(old, now))
            continue;
        weaker_way(old, way);
        (void)map_put(out, way, (void *)(uintptr_t)old);
    }
}

/* Whom each end takes. */
static void weaker_look_at_trust(struct weaker_mesh *before, const struct weaker_link *old,
                                 struct weaker_mesh *after, const struct weaker_link *new,
                                 struct faults *out)
{
    char path[WEAKER_PATH_MAX];

    weaker_path(new->link, path);
    weaker_trust_judge(&before->trusts, old->client, &after->trusts, new->client, "client", path,
                       out);
    weaker_trust_judge(&before->trusts, old->server, &after->trusts, new->server, "server", path,
                       out);
}

static void weaker_look(struct weaker_mesh *before, struct weaker_mesh *after,
                        const Mortise__V1__Link *was, const Mortise__V1__Link *link,
                        struct faults *out)
{
    struct weaker_link old, new;
    char path[WEAKER_PATH_MAX];

    old.link = was;
    new.link = link;
    old.client = weaker_profile(before, mesh_client_profile(was));
    old.server = weaker_profile(before, mesh_server_profile(was));
    new.client = weaker_profile(after, mesh_client_profile(link));
    new.server = weaker_profile(after, mesh_server_profile(link));
    if (old.client == NULL || old.server == NULL || new.client == NULL || new.server == NULL)
        return;
    weaker_look_at_trust(before, &old, after, &new, out);
    if (was->allow_anonymous == link->allow_anonymous &&
        pb_equal(&old.client->base, &new.client->base) &&
        pb_equal(&old.server->base, &new.server->base))
        return;
    if (weaker_common(before, &old) && weaker_common(after, &new))
        weaker_judge(weaker_path(link, path), &old, &new, out);
}

/* Both ends have to, for a link to do so. */
static bool weaker_may_be_old(const Mortise__V1__TlsProfile *profile)
{
    return profile->allow_legacy;
}

/* A link that is new, and in nobody's place: nobody is surprised by what it has, but by what no
 * default has. */
static void weaker_look_at_new(struct weaker_mesh *mesh, const Mortise__V1__Link *link,
                               struct faults *out)
{
    struct weaker_link new = {.link = link};
    char path[WEAKER_PATH_MAX];

    weaker_path(link, path);
    new.client = weaker_profile(mesh, mesh_client_profile(link));
    new.server = weaker_profile(mesh, mesh_server_profile(link));
    if (new.client == NULL || new.server == NULL)
        return;
    if (link->allow_anonymous)
        faults_add(out, path, "allow_anonymous none -> true");
    if (new.client->insecure_skip_verify)
        faults_add(out, path, "insecure_skip_verify none -> true");
    /* None of the built-in profiles takes what is below: so it is asked only of others. */
    if (weaker_may_be_old(new.client) && weaker_may_be_old(new.server) &&
        weaker_common(mesh, &new) && new.common.min < TLS1_2_VERSION)
        faults_add(out, path, "min_version none -> %s", tls_version_name(new.common.min));
}

/* A link is held to what the one of its name was, and one that leads another way than that to what
 * led there; a new one to the defaults. */
static void weaker_look_at(struct weaker_mesh *before, struct weaker_mesh *after,
                           const struct map *gone, const Mortise__V1__Link *link,
                           struct faults *out)
{
    const Mortise__V1__Link *was = weaker_named(before, link->name), *led = NULL;
    size_t told = out->total;
    char way[WEAKER_WAY_MAX];

    weaker_way(link, way);
    if (was != NULL)
        weaker_look(before, after, was, link, out);
    if (was == NULL || !weaker_same_way(was, link))
        led = map_get(gone, way);
    if (led != NULL && out->total == told) /* once is enough */
        weaker_look(before, after, led, link, out);
    if (was == NULL && led == NULL)
        weaker_look_at_new(after, link, out);
}

void weaker_find(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                 struct faults *out)
{
    struct weaker_mesh old, new;
    struct map gone = {.num = 0};

    weaker_open(before, &old);
    weaker_open(after, &new);
    weaker_find_gone(&old, &new, &gone);
    for (size_t i = 0; i < after->n_links; i++)
        weaker_look_at(&old, &new, &gone, after->links[i], out);
    map_fini(&gone);
    weaker_close(&old);
    weaker_close(&new);
}
