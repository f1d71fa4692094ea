/* The call of control/operator_service.h that says whether one subsystem reaches another, and why
 * not: gathers what why.h judges. */
#include <stdlib.h>
#include <string.h>

#include "certs/revoke.h"
#include "certs/tls_profile.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "control/why.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define OPERATOR_WHY_SIDECARS 64 /* of each end that are looked at */
#define OPERATOR_WHY_LINKS 16    /* of one call */
#define OPERATOR_WHY_ASKED 8     /* sidecars of an end that try, or are asked */
#define OPERATOR_WHY_FAILURES 32 /* kinds of an end */
#define OPERATOR_WHY_STRAYS \
    128 /* kinds without a link, of which those count that have a counterpart */
#define OPERATOR_WHY_OPEN_MAX 16 /* calls that wait for trials */
#define OPERATOR_WHY_DEFAULT_S 5
#define OPERATOR_WHY_MAX_S 10
/* Resolving, connecting and the handshake have that time each. */
#define OPERATOR_WHY_PHASES 3
/* What the server's sidecar knows of a trial is there when it answers, or a moment later. */
#define OPERATOR_WHY_AGAIN_MS 200
#define OPERATOR_WHY_AGAIN_MAX 3

struct operator_why;

/* A sidecar that was asked. */
struct operator_why_asked {
    struct question question;
    struct operator_why *why;
    bool open;
    char *instance;
    const char *error;                /* it said nothing, for this reason; NULL */
    Mortise__V1__ProbeAnswer *answer; /* NULL: none yet */
};

/* One call. Links are tried one after the other: the client's sidecars, then the server's are
 * asked. */
struct operator_why {
    struct list link;
    struct operator_service *service;
    struct grpc_call *call;
    bool over; /* its status is sent; only on_done is left */
    Mortise__V1__WhyRequest *request;
    Mortise__V1__Link *links[OPERATOR_WHY_LINKS]; /* copies: the mesh may change meanwhile */
    size_t num_links, at;
    Mortise__V1__WhyReport report;
    struct operator_why_asked asked[WHY_SIDES][OPERATOR_WHY_ASKED];
    size_t num_asked[WHY_SIDES];
    size_t num_open;
    enum why_side side; /* that is being asked */
    struct timer again;
    unsigned num_again;
};

/* What is known of one end. */
struct operator_end {
    struct why_sidecar sidecars[OPERATOR_WHY_SIDECARS];
    struct why_end end;
    char *revoked;
    const Mortise__V1__FailedConnection *failures[OPERATOR_WHY_FAILURES + OPERATOR_WHY_STRAYS];
};

/* Everything that one judgement borrows. */
struct operator_known {
    struct operator_end ends[WHY_SIDES];
    char *apart, *offered, *required, *rotation, *denied;
};

static void operator_known_fini(struct operator_known *known)
{
    for (unsigned i = 0; i < WHY_SIDES; i++)
        mem_free(known->ends[i].revoked);
    mem_free(known->apart);
    mem_free(known->offered);
    mem_free(known->required);
    mem_free(known->rotation);
    mem_free(known->denied);
}

/* ---------------------------------------------------------------- both ends */

static void operator_why_on_waiting(void *arg, const char *subsystem, const char *instance,
                                    const char *why)
{
    struct operator_end *end = arg;

    for (size_t i = 0; i < end->end.num_sidecars; i++) {
        if (strcmp(end->end.subsystem, subsystem) == 0 &&
            strcmp(end->sidecars[i].instance, instance) == 0)
            end->sidecars[i].waits = why;
    }
}

static struct why_sidecar operator_why_sidecar(const struct workload *workload)
{
    const Mortise__V1__SidecarStatus *status = workload->status;

    return (struct why_sidecar){
        .instance = workload->instance,
        .ready = status == NULL || status->ready,
        .behind = workload->xds.acked_version != workload->xds.wanted_version,
        .refused = workload->refused,
        .refused_version = workload->xds.sent_version,
        .serial = status != NULL ? status->certificate_serial : "",
        .not_after = status != NULL ? status->certificate_not_after : 0,
        .renewal_error = status != NULL ? status->renewal_error : "",
        .clock_off = skew_beyond(&workload->skew, DISCOVERY_CLOCK_LIMIT_MS),
        .ahead_ms = workload->skew.ahead_ms,
    };
}

/* What denies the identity of an end, or all of its sidecars' certificates; owned. */
static char *operator_why_revoked(const struct operator_service *service,
                                  const struct operator_end *end, const char *spiffe_id)
{
    const Mortise__Control__Revocations *record = registry_revocations(service->registry)->record;

    for (size_t i = 0; i < record->n_entries; i++) {
        const Mortise__Control__RevocationRecord *entry = record->entries[i];
        struct revoke_subject subject = revoke_subject(entry->revocation);
        size_t num = 0;

        if (strcmp(subject.kind, "spiffe_id") == 0 && spiffe_id != NULL &&
            strcmp(subject.value, spiffe_id) == 0)
            return mem_printf("its identity %s (%s, by %s)", spiffe_id,
                              entry->reason[0] != '\0' ? entry->reason : "no reason given",
                              entry->by);
        if (strcmp(subject.kind, "serial") != 0)
            continue;
        for (size_t j = 0; j < end->end.num_sidecars; j++)
            num += strcmp(end->sidecars[j].serial, subject.value) == 0;
        if (num > 0 && num == end->end.num_sidecars)
            return mem_printf("its certificate %s (%s, by %s)", subject.value,
                              entry->reason[0] != '\0' ? entry->reason : "no reason given",
                              entry->by);
    }
    return NULL;
}

static void operator_why_end(struct operator_service *service, const char *subsystem,
                             struct operator_end *out)
{
    struct why_end *end = &out->end;
    struct list *pos, *tmp;
    size_t num_addresses;

    end->subsystem = subsystem;
    LIST_EACH (pos, tmp, registry_workloads(service->registry)) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (!workload->lost && end->num_sidecars < OPERATOR_WHY_SIDECARS &&
            strcmp(workload->subsystem, subsystem) == 0)
            out->sidecars[end->num_sidecars++] = operator_why_sidecar(workload);
    }
    end->sidecars = out->sidecars;
    (void)registry_addresses(service->registry, subsystem, &num_addresses);
    end->known = end->num_sidecars > 0 || num_addresses > 0;
    root_rotation_each_waiting(service->root_rotation, operator_why_on_waiting, out);
    out->revoked =
        operator_why_revoked(service, out, registry_spiffe_id(service->registry, subsystem));
    end->revoked = out->revoked;
}

/* ------------------------------------------------------------------ profiles */

static void operator_why_names(struct buf *text, const char *what, char **names, size_t num)
{
    CHECK(err_is_ok(buf_printf(text, "; %s: ", what)));
    for (size_t i = 0; i < num; i++)
        CHECK(err_is_ok(buf_printf(text, "%s%s", i > 0 ? ", " : "", names[i])));
    if (num == 0)
        CHECK(err_is_ok(buf_add_str(text, "all that are safe")));
}

static const char *operator_why_version(Mortise__V1__TlsVersion version, const char *otherwise)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(&mortise__v1__tls_version__descriptor, (int)version);

    return version != 0 && value != NULL ? value->name : otherwise;
}

/* "of this mesh", "of truststore partners for a.example": which certificates of its peers a
 * profile takes. */
static void operator_why_trust(struct buf *text, const Mortise__V1__Mesh *mesh,
                               const Mortise__V1__TlsProfile *profile)
{
    const Mortise__V1__MeshTruststore *store = mesh_truststore(mesh, profile);

    if (mesh_trusts_mesh(store))
        CHECK(err_is_ok(buf_add_str(text, " of this mesh")));
    if (mesh_trusts_mesh(store) && mesh_trusts_others(store))
        CHECK(err_is_ok(buf_add_str(text, ", or one")));
    if (!mesh_trusts_others(store))
        return;
    CHECK(err_is_ok(buf_printf(text, " of the CAs of truststore %s for ", store->name)));
    for (size_t i = 0; i < profile->n_peer_names; i++)
        CHECK(err_is_ok(buf_printf(text, "%s%s", i > 0 ? " or " : "", profile->peer_names[i])));
}

static void operator_why_peers(struct buf *text, const Mortise__V1__Mesh *mesh,
                               const Mortise__V1__TlsProfile *profile)
{
    bool server = profile->role == MORTISE__V1__TLS_PROFILE__ROLE__SERVER;

    if (!server && profile->insecure_skip_verify) {
        CHECK(err_is_ok(buf_add_str(text, "; any server, unverified")));
    } else if (profile->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE) {
        CHECK(err_is_ok(buf_add_str(text, "; no client certificate is asked for")));
    } else {
        CHECK(err_is_ok(buf_printf(text, "; a %s certificate", server ? "client" : "server")));
        operator_why_trust(text, mesh, profile);
        if (profile->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__OPTIONAL)
            CHECK(err_is_ok(buf_add_str(text, ", or none")));
    }
}

/* What one side may negotiate; owned. */
static char *operator_why_profile(const Mortise__V1__Mesh *mesh,
                                  const Mortise__V1__TlsProfile *profile)
{
    CLEANUP(buf_fini) struct buf text = {0};

    CHECK(err_is_ok(buf_printf(&text, "profile %s: %s to %s", profile->name,
                               operator_why_version(profile->min_version, "TLS1_2"),
                               operator_why_version(profile->max_version, "TLS1_3"))));
    operator_why_names(&text, "suites", profile->cipher_suites, profile->n_cipher_suites);
    operator_why_names(&text, "groups", profile->groups, profile->n_groups);
    operator_why_peers(&text, mesh, profile);
    return buf_take_str(&text);
}

/* Why the two have nothing in common, owned; NULL: they have. */
static char *operator_why_apart(const Mortise__V1__TlsProfile *client,
                                const Mortise__V1__TlsProfile *server)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    CLEANUP(tls_profile_unrefp) struct tls_profile *one = NULL, *other = NULL;
    struct fault_path path = {.len = 0};
    err_t err = tls_profile_compile(client, &path, &faults, &one);

    if (err_is_ok(err))
        err = tls_profile_compile(server, &path, &faults, &other);
    if (err_is_ok(err))
        err = tls_profile_intersect(one, other, "", &faults, NULL);
    return err_is_ok(err) || faults.num == 0 ? NULL : mem_strdup(faults.items[0].message);
}

static void operator_why_profiles(const struct operator_service *service,
                                  const Mortise__V1__Link *link, struct operator_known *known)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    const Mortise__V1__TlsProfile *client = mesh_profile(mesh, mesh_client_profile(link));
    const Mortise__V1__TlsProfile *server = mesh_profile(mesh, mesh_server_profile(link));

    if (client != NULL)
        known->offered = operator_why_profile(mesh, client);
    if (server != NULL)
        known->required = operator_why_profile(mesh, server);
    if (client != NULL && server != NULL)
        known->apart = operator_why_apart(client, server);
}

/* ------------------------------------------------------------------ failures */

static bool operator_why_share_key(const Mortise__V1__FailedConnection *a,
                                   const Mortise__V1__FailedConnection *b)
{
    for (size_t i = 0; i < a->n_keys; i++) {
        for (size_t j = 0; j < b->n_keys; j++) {
            if (strcmp(a->keys[i], b->keys[j]) == 0)
                return true;
        }
    }
    return false;
}

/* Whether it came from a host where one of the client's sidecars says it is. */
static bool operator_why_is_from(const struct operator_why *why,
                                 const Mortise__V1__FailedConnection *stray)
{
    size_t num, len;
    const char *const *addresses =
        registry_addresses(why->service->registry, why->request->client, &num);
    const char *end = strrchr(stray->peer_address, ':');

    if (end == NULL)
        return false;
    len = (size_t)(end - stray->peer_address) + 1; /* with the colon */
    for (size_t i = 0; i < num; i++) {
        if (strncmp(addresses[i], stray->peer_address, len) == 0)
            return true;
    }
    return false;
}

/* Whether it is of a connection that the client's end knows, too. */
static bool operator_why_is_ours(const struct operator_why *why, const struct operator_end *client,
                                 const Mortise__V1__FailedConnection *stray)
{
    if (operator_why_is_from(why, stray))
        return true;
    for (size_t i = 0; i < client->end.num_failures; i++) {
        if (operator_why_share_key(client->failures[i], stray))
            return true;
    }
    for (size_t i = 0; i < why->num_asked[WHY_CLIENT]; i++) {
        const Mortise__V1__ProbeAnswer *answer = why->asked[WHY_CLIENT][i].answer;

        for (size_t j = 0; answer != NULL && j < answer->n_results; j++) {
            if (answer->results[j]->failure != NULL &&
                operator_why_share_key(answer->results[j]->failure, stray))
                return true;
        }
    }
    return false;
}

static void operator_why_failures(const struct operator_why *why, const char *link,
                                  struct operator_known *known)
{
    const struct failures *failures = discovery_failures(why->service->discovery);
    struct operator_end *client = &known->ends[WHY_CLIENT], *server = &known->ends[WHY_SERVER];
    const Mortise__V1__FailedConnection *strays[OPERATOR_WHY_STRAYS];
    size_t num_strays =
        failures_of(failures, server->end.subsystem, "inbound", NULL, OPERATOR_WHY_STRAYS, strays);

    client->end.num_failures = failures_of(failures, client->end.subsystem, "outbound", link,
                                           OPERATOR_WHY_FAILURES, client->failures);
    client->end.failures = client->failures;
    server->end.num_failures = failures_of(failures, server->end.subsystem, "inbound", link,
                                           OPERATOR_WHY_FAILURES, server->failures);
    for (size_t i = 0; i < num_strays; i++) {
        if (operator_why_is_ours(why, client, strays[i]))
            server->failures[server->end.num_failures++] = strays[i];
    }
    server->end.failures = server->failures;
}

/* ------------------------------------------------------------------ one link */

static bool operator_why_joins(const Mortise__V1__Link *link, const char *client,
                               const char *server)
{
    return strcmp(link->client, client) == 0 && strcmp(link->server, server) == 0;
}

static size_t operator_why_probes(const struct operator_why *why, struct why_probe *out,
                                  struct why_facts *facts)
{
    size_t num = why->num_asked[WHY_CLIENT];

    for (size_t i = 0; i < num; i++) {
        const struct operator_why_asked *asked = &why->asked[WHY_CLIENT][i];

        out[i] = (struct why_probe){asked->instance, asked->error, asked->answer};
        if (asked->error != NULL && facts->not_probed == NULL)
            facts->not_probed = asked->error;
    }
    for (size_t i = 0; i < why->num_asked[WHY_SERVER]; i++) {
        const Mortise__V1__ProbeAnswer *answer = why->asked[WHY_SERVER][i].answer;

        /* One of several whose application is not there is reason enough to tell. */
        if (answer == NULL ||
            answer->listens == MORTISE__V1__PROBE_ANSWER__LISTENS__LISTENS_UNKNOWN ||
            facts->listens == MORTISE__V1__PROBE_ANSWER__LISTENS__NO)
            continue;
        facts->listens = answer->listens;
        facts->target = answer->target;
    }
    return num;
}

/* The policy that keeps the two ends apart, owned; NULL: none does. */
static char *operator_why_denied(const struct operator_service *service,
                                 const Mortise__V1__Link *link)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    const char *denied;
    const Mortise__V1__Policy *policy =
        mesh_denies(mesh, registry_policies(service->registry),
                    registry_trust_domain(service->registry), link, &denied);
    const char *id = registry_spiffe_id(service->registry, denied);

    if (policy == NULL)
        return NULL;
    if (policy->action == MORTISE__V1__POLICY__ACTION__DENY)
        return mem_printf("Policy %s denies %s (%s) on link %s.", policy->name, denied,
                          id != NULL ? id : "not in the mesh", link->name);
    return mem_printf("Policy %s denies %s (%s) on link %s: it allows others only.", policy->name,
                      denied, id != NULL ? id : "not in the mesh", link->name);
}

/* Judges one link, or that there is none (NULL), into an owned message. */
static Mortise__V1__WhyLink *operator_why_link(const struct operator_why *why,
                                               const Mortise__V1__Link *link)
{
    struct operator_service *service = why->service;
    const Mortise__V1__WhyRequest *request = why->request;
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    struct root_rotation_state state = root_rotation_state(service->root_rotation);
    Mortise__V1__WhyLink *out = mem_alloc(sizeof(*out));
    CLEANUP(operator_known_fini) struct operator_known known = {.apart = NULL};
    struct why_facts facts = {.now_s = clock_wall_s(service->clock)};
    struct why_probe probes[OPERATOR_WHY_ASKED];

    mortise__v1__why_link__init(out);
    operator_why_end(service, request->client, &known.ends[WHY_CLIENT]);
    operator_why_end(service, request->server, &known.ends[WHY_SERVER]);
    for (size_t i = 0; i < mesh->n_links && link == NULL; i++)
        facts.reverse |= operator_why_joins(mesh->links[i], request->server, request->client);
    if (link != NULL) {
        facts.link = link->name;
        operator_why_profiles(service, link, &known);
        known.denied = operator_why_denied(service, link);
        operator_why_failures(why, link->name, &known);
        facts.num_probes = operator_why_probes(why, probes, &facts);
        facts.probes = probes;
        if (request->no_probe)
            facts.not_probed = "--no-probe";
    }
    for (unsigned i = 0; i < WHY_SIDES; i++)
        facts.ends[i] = known.ends[i].end;
    facts.denied = known.denied;
    facts.apart = known.apart;
    facts.offered = known.offered;
    facts.required = known.required;
    if (state.stage != ROTATION_IDLE) {
        known.rotation = mem_printf("of the %s (%s)", rotation_kind_name(state.kind),
                                    rotation_name(state.stage));
        facts.rotation = known.rotation;
    }
    why_judge(&facts, out);
    return out;
}

/* -------------------------------------------------------------------- trials */

static void operator_why_go_on(struct operator_why *why);

static void operator_why_on_part(struct question *question, const Mortise__V1__Answer *answer)
{
    struct operator_why_asked *asked = CONTAINER_OF(question, struct operator_why_asked, question);

    if (answer->probe != NULL && asked->answer == NULL)
        asked->answer = (Mortise__V1__ProbeAnswer *)pb_clone(&answer->probe->base);
}

static void operator_why_on_end(struct question *question, enum questions_end end)
{
    struct operator_why_asked *asked = CONTAINER_OF(question, struct operator_why_asked, question);
    struct operator_why *why = asked->why;

    asked->open = false;
    why->num_open--;
    if (end == QUESTIONS_TIMEOUT)
        asked->error = "its sidecar does not answer in time";
    else if (end == QUESTIONS_LEFT)
        asked->error = "its sidecar disconnected before it answered";
    else if (asked->answer == NULL)
        asked->error = "its sidecar does not know trials";
    else if (strcmp(asked->answer->error, "rate_limited") == 0)
        asked->error = "its sidecar is asked for too many trials";
    if (why->num_open == 0)
        operator_why_go_on(why);
}

static void operator_why_ask(struct operator_why *why, struct workload *workload)
{
    struct operator_why_asked *asked = &why->asked[why->side][why->num_asked[why->side]++];
    Mortise__V1__Question question = MORTISE__V1__QUESTION__INIT;
    Mortise__V1__Probe probe = MORTISE__V1__PROBE__INIT;
    uint32_t seconds = why->request->timeout_s;
    err_t err;

    if (seconds == 0)
        seconds = OPERATOR_WHY_DEFAULT_S;
    if (seconds > OPERATOR_WHY_MAX_S)
        seconds = OPERATOR_WHY_MAX_S;
    asked->why = why;
    asked->instance = mem_strdup(workload->instance);
    asked->question.on_part = operator_why_on_part;
    asked->question.on_end = operator_why_on_end;
    probe.link = why->links[why->at]->name;
    probe.inbound = why->side == WHY_SERVER;
    probe.timeout_ms = seconds * 1000;
    question.probe = &probe;
    err = discovery_ask(why->service->discovery, workload, &question,
                        UINT64_C(1000) * (OPERATOR_WHY_PHASES * seconds + 1), &asked->question);
    if (err_is_ok(err)) {
        asked->open = true;
        why->num_open++;
    } else {
        asked->error = err_is(err, E_UNSUPPORTED) ? "its sidecar's program is too old to try it"
                                                  : "too much is asked of its sidecar already";
    }
}

static void operator_why_forget(struct operator_why *why, enum why_side side)
{
    for (size_t i = 0; i < why->num_asked[side]; i++) {
        struct operator_why_asked *asked = &why->asked[side][i];

        if (asked->open)
            discovery_ask_no_more(why->service->discovery, &asked->question);
        mem_free(asked->instance);
        if (asked->answer != NULL)
            pb_free(&asked->answer->base);
        *asked = (struct operator_why_asked){.open = false};
    }
    why->num_asked[side] = 0;
}

/* Asks the sidecars of one end, the first few. */
static void operator_why_ask_all(struct operator_why *why, enum why_side side)
{
    const char *subsystem = side == WHY_CLIENT ? why->request->client : why->request->server;
    struct list *pos, *tmp;

    operator_why_forget(why, side);
    why->side = side;
    LIST_EACH (pos, tmp, registry_workloads(why->service->registry)) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (!workload->lost && workload->stream != NULL &&
            strcmp(workload->subsystem, subsystem) == 0 &&
            why->num_asked[side] < OPERATOR_WHY_ASKED)
            operator_why_ask(why, workload);
    }
}

/* The server ended a trial, and what it knows of that has not come yet. */
static bool operator_why_lacks(const struct operator_why *why)
{
    const struct failures *failures = discovery_failures(why->service->discovery);
    const Mortise__V1__FailedConnection *list[OPERATOR_WHY_STRAYS];
    const Mortise__V1__FailedConnection *found = NULL;
    const char *const links[] = {why->links[why->at]->name, NULL};

    for (size_t i = 0; i < why->num_asked[WHY_CLIENT] && found == NULL; i++) {
        const Mortise__V1__ProbeAnswer *answer = why->asked[WHY_CLIENT][i].answer;

        if (answer != NULL && answer->n_results > 0)
            found = answer->results[0]->failure;
    }
    if (found == NULL || found->n_keys == 0 || why->num_asked[WHY_SERVER] == 0 ||
        (strcmp(found->error, "tls_alert") != 0 && strcmp(found->error, "tls_truncated") != 0))
        return false;
    for (size_t l = 0; l < ARRAY_LEN(links); l++) {
        size_t num = failures_of(failures, why->request->server, "inbound", links[l],
                                 OPERATOR_WHY_STRAYS, list);

        for (size_t i = 0; i < num; i++) {
            if (operator_why_share_key(list[i], found))
                return false;
        }
    }
    return true;
}

/* --------------------------------------------------------------------- whole */

static void operator_why_add(Mortise__V1__WhyReport *report, Mortise__V1__WhyLink *link)
{
    report->links = mem_realloc(report->links, (report->n_links + 1) * sizeof(link));
    report->links[report->n_links++] = link;
    if (link->state == MORTISE__V1__WHY_LINK__STATE__FAILS ||
        report->state == MORTISE__V1__WHY_LINK__STATE__FAILS)
        report->state = MORTISE__V1__WHY_LINK__STATE__FAILS;
    else if (report->state != MORTISE__V1__WHY_LINK__STATE__UNKNOWN)
        report->state = link->state;
}

static void operator_why_reply(struct operator_why *why)
{
    if (why->over)
        return;
    why->over = true;
    why->report.now_ms = clock_wall_us() / 1000;
    grpc_call_reply(why->call, &why->report.base);
}

/* Judges the link in hand and begins with the next one. */
static void operator_why_next(struct operator_why *why)
{
    for (; why->at < why->num_links; why->at++) {
        if (why->side == WHY_SIDES && !why->request->no_probe) {
            operator_why_ask_all(why, WHY_CLIENT);
            if (why->num_open > 0)
                return;
        }
        operator_why_add(&why->report, operator_why_link(why, why->links[why->at]));
        operator_why_forget(why, WHY_CLIENT);
        operator_why_forget(why, WHY_SERVER);
        why->side = WHY_SIDES;
        why->num_again = 0;
    }
    operator_why_reply(why);
}

static void operator_why_on_again(void *arg)
{
    struct operator_why *why = arg;

    operator_why_ask_all(why, WHY_SERVER);
    if (why->num_open == 0)
        operator_why_next(why);
}

/* Whoever was asked has answered. */
static void operator_why_go_on(struct operator_why *why)
{
    if (why->over)
        return;
    if (why->side == WHY_CLIENT) {
        operator_why_ask_all(why, WHY_SERVER);
        if (why->num_open > 0)
            return;
    } else if (operator_why_lacks(why) && why->num_again < OPERATOR_WHY_AGAIN_MAX) {
        why->num_again++;
        timer_start(why->service->loop, &why->again, OPERATOR_WHY_AGAIN_MS, operator_why_on_again,
                    why);
        return;
    }
    operator_why_next(why);
}

static bool operator_why_is_wanted(const Mortise__V1__Link *link,
                                   const Mortise__V1__WhyRequest *request)
{
    return operator_why_joins(link, request->client, request->server) &&
           (request->link[0] == '\0' || strcmp(request->link, link->name) == 0);
}

/* False: the call was refused. */
static bool operator_why_may(struct operator_service *service, struct grpc_call *call,
                             const Mortise__V1__WhyRequest *request)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    const char *const names[] = {request->client, request->server};
    struct list *pos, *tmp;
    size_t num = 0;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (mesh_subsystem(mesh, names[i]) == NULL) {
            CLEANUP(mem_freep) char *known = operator_names(service);

            reply_text(call, GRPC_NOT_FOUND, "no subsystem \"%.64s\"; there are: %s", names[i],
                       known);
            return false;
        }
    }
    for (size_t i = 0; i < mesh->n_links; i++)
        num += operator_why_is_wanted(mesh->links[i], request);
    if (request->link[0] != '\0' && num == 0) {
        reply_text(call, GRPC_NOT_FOUND, "no link \"%.64s\" lets %s connect to %s", request->link,
                   request->client, request->server);
        return false;
    }
    num = 0;
    LIST_EACH (pos, tmp, &service->whys)
        num++;
    if (num >= OPERATOR_WHY_OPEN_MAX) {
        reply_text(call, GRPC_RESOURCE_EXHAUSTED, "%zu others ask why already", num);
        return false;
    }
    return true;
}

void operator_on_why(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__WhyRequest *request =
        MSG_AS_CONST(Mortise__V1__WhyRequest, mortise__v1__why_request__descriptor, msg);
    const Mortise__V1__Mesh *mesh = registry_mesh(operator_fresh(service));
    struct operator_why *why;

    if (!operator_why_may(service, call, request))
        return;
    why = mem_zalloc(sizeof(*why));
    why->service = service;
    why->call = call;
    why->side = WHY_SIDES;
    why->request = (Mortise__V1__WhyRequest *)pb_clone(&request->base);
    mortise__v1__why_report__init(&why->report);
    list_init(&why->link);
    list_add_tail(&service->whys, &why->link);
    grpc_call_set_data(call, why);
    for (size_t i = 0; i < mesh->n_links && why->num_links < OPERATOR_WHY_LINKS; i++) {
        if (operator_why_is_wanted(mesh->links[i], request))
            why->links[why->num_links++] = (Mortise__V1__Link *)pb_clone(&mesh->links[i]->base);
    }
    if (why->num_links == 0)
        operator_why_add(&why->report, operator_why_link(why, NULL));
    operator_why_next(why);
}

void operator_on_why_done(struct grpc_call *call, void *arg)
{
    struct operator_why *why = grpc_call_data(call);

    (void)arg;
    if (why == NULL)
        return; /* it was refused */
    why->over = true;
    timer_stop(why->service->loop, &why->again);
    operator_why_forget(why, WHY_CLIENT);
    operator_why_forget(why, WHY_SERVER);
    list_del(&why->link);
    for (size_t i = 0; i < why->num_links; i++)
        pb_free(&why->links[i]->base);
    for (size_t i = 0; i < why->report.n_links; i++)
        pb_free(&why->report.links[i]->base);
    mem_free(why->report.links);
    pb_free(&why->request->base);
    mem_free(why);
}

void operator_whys_stop(struct operator_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->whys) {
        struct operator_why *why = LIST_ITEM(pos, struct operator_why, link);

        if (!why->over)
            grpc_call_finish(why->call, GRPC_UNAVAILABLE, "control plane is shutting down");
        why->over = true;
    }
}
