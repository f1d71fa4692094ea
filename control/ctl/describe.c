/* mortisectl describe: all that is known of one thing of the mesh. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "certs/tls_profile.h"
#include "control/ctl/mesh_text.h"
#include "control/ctl/pages.h"
#include "control/ctl/policy.h"
#include "control/ctl/table.h"
#include "control/ctl/workload.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "control/selector.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option describe_options[] = {
    CTL_SELECTOR_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

struct describe {
    struct conn *conn;
    const Mortise__V1__Mesh *mesh;
    int kind;
    const char *name;
    int64_t now_s;
};

static void describe_head(const char *head)
{
    bool bold = table_is_terminal();

    printf("\n%s%s%s\n", bold ? "\033[1m" : "", head, bold ? "\033[0m" : "");
}

/* Text of several lines, each set in. */
static void describe_text(const char *text)
{
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        printf("  %.*s\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
}

/* What `write` appends; its head only when that is anything. */
static void describe_buf(const char *head, struct buf *text, err_t err)
{
    char *shown;

    if (!err_is_ok(err)) {
        ctl_tell("%s: %s", head, err_text(err.code));
        buf_fini(text);
        return;
    }
    shown = buf_take_str(text);
    if (shown[0] != '\0') {
        describe_head(head);
        describe_text(shown);
    }
    mem_free(shown);
}

/* ---- what it is ---- */

static void describe_item(const struct describe *describe, const ProtobufCMessage *item)
{
    struct buf text = {0};
    err_t err = json_pb_write(JSON_PB_YAML, item, &text);
    char *shown;

    CHECK(err_is_ok(err)); /* it came over a channel that allows less */
    printf("%s %s\n", mesh_kinds[describe->kind].one, describe->name);
    shown = buf_take_str(&text);
    describe_text(shown);
    mem_free(shown);
}

/* ---- sidecars ---- */

static void describe_sidecars(const struct describe *describe, const char *first,
                              const char *second)
{
    static const char *const heads[] = {"SUBSYSTEM", "INSTANCE", "ADDRESS",
                                        "VERSION",   "STATE",    NULL};
    Mortise__V1__ListWorkloadsRequest request = MORTISE__V1__LIST_WORKLOADS_REQUEST__INIT;
    ProtobufCMessage *msg =
        pages_call(describe->conn, "OperatorService/ListWorkloads", &request.base,
                   &mortise__v1__list_workloads_response__descriptor);
    const Mortise__V1__ListWorkloadsResponse *reply;
    struct table table = {.heads = heads};

    if (msg == NULL)
        return;
    reply = MSG_AS(Mortise__V1__ListWorkloadsResponse,
                   mortise__v1__list_workloads_response__descriptor, msg);
    for (size_t i = 0; i < reply->n_workloads; i++) {
        const Mortise__V1__Workload *item = reply->workloads[i];

        if (strcmp(item->subsystem, first) != 0 && strcmp(item->subsystem, second) != 0)
            continue;
        table_add(&table, item->subsystem);
        table_addf(&table, "%.8s", item->instance);
        table_add(&table, item->address);
        table_addf(&table, "%" PRIu64, item->acked_version);
        workload_add_state(&table, item);
    }
    describe_head("Sidecars");
    if (table.num_cells == 0)
        printf("  none is connected\n");
    else
        table_print(&table);
    pb_free(msg);
}

/* ---- policies ---- */

/* What `write` says with the trust domain, which only the control plane knows. */
static void describe_policies(const struct describe *describe, const char *head,
                              err_t (*write)(const Mortise__V1__Mesh *mesh,
                                             const char *trust_domain, const char *name,
                                             struct buf *out))
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *msg;
    const Mortise__V1__StatusResponse *reply;
    struct buf text = {0};

    if (describe->mesh->n_policies == 0)
        return;
    msg = conn_call(describe->conn, "OperatorService/Status", &request.base,
                    &mortise__v1__status_response__descriptor);
    if (msg == NULL)
        return;
    reply = MSG_AS(Mortise__V1__StatusResponse, mortise__v1__status_response__descriptor, msg);
    describe_buf(head, &text, write(describe->mesh, reply->trust_domain, describe->name, &text));
    pb_free(msg);
}

static void describe_policy(const struct describe *describe, const ProtobufCMessage *item)
{
    (void)item;
    describe_policies(describe, "Links that it keeps an end from", policy_effect);
}

/* ---- links ---- */

/* Both ends' profile, compiled; NULL: it is not in the mesh, or cannot be used. */
static struct tls_profile *describe_compile(const struct describe *describe, const char *name)
{
    const Mortise__V1__TlsProfile *msg = mesh_profile(describe->mesh, name);
    struct fault_path path = {.len = 0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;
    err_t err = msg != NULL ? tls_profile_compile(msg, &path, &faults, &profile) : OK;

    (void)err; /* the mesh was checked when it was taken in: then it has none */
    faults_fini(&faults);
    return profile;
}

static void describe_common(const struct describe *describe, const Mortise__V1__Link *link)
{
    CLEANUP(tls_profile_unrefp)
    struct tls_profile *client = describe_compile(describe, mesh_client_profile(link));
    CLEANUP(tls_profile_unrefp)
    struct tls_profile *server = describe_compile(describe, mesh_server_profile(link));
    struct faults faults = {0};
    struct buf text = {0};
    struct tls_common common;
    err_t err = OK;

    if (client == NULL || server == NULL)
        return;
    if (err_is_ok(tls_profile_intersect(client, server, "nothing", &faults, &common)))
        err = tls_common_text(&common, &text);
    else
        faults_text(&faults, &text);
    describe_buf("What both ends have in common", &text, err);
    faults_fini(&faults);
}

static void describe_link(const struct describe *describe, const ProtobufCMessage *item)
{
    const Mortise__V1__Link *link =
        MSG_AS_CONST(Mortise__V1__Link, mortise__v1__link__descriptor, item);
    struct buf weak = {0};

    describe_common(describe, link);
    describe_buf("Weaker than the defaults", &weak,
                 mesh_link_weak(describe->mesh, link, describe->now_s, &weak));
    describe_policies(describe, "Policies", policy_of_link);
    describe_sidecars(describe, link->client, link->server);
}

/* ---- subsystems ---- */

static void describe_subsystem(const struct describe *describe, const ProtobufCMessage *item)
{
    const Mortise__V1__Subsystem *subsystem =
        MSG_AS_CONST(Mortise__V1__Subsystem, mortise__v1__subsystem__descriptor, item);
    struct buf text = {0};
    err_t err = OK;

    (void)subsystem;
    for (size_t i = 0; i < describe->mesh->n_links && err_is_ok(err); i++) {
        const Mortise__V1__Link *link = describe->mesh->links[i];

        if (strcmp(link->client, describe->name) == 0) {
            err = buf_printf(&text, "%s: to %s, by ", link->name, link->server);
            if (err_is_ok(err))
                err = mesh_link_entry(link, &text);
            if (err_is_ok(err))
                err = buf_add_str(&text, "\n");
        } else if (strcmp(link->server, describe->name) == 0) {
            err = buf_printf(&text, "%s: from %s, to 127.0.0.1:%u\n", link->name, link->client,
                             link->server_port);
        }
    }
    describe_buf("Links", &text, err);
    describe_sidecars(describe, describe->name, describe->name);
}

/* ---- profiles ---- */

static void describe_profile(const struct describe *describe, const ProtobufCMessage *item)
{
    const Mortise__V1__TlsProfile *msg =
        MSG_AS_CONST(Mortise__V1__TlsProfile, mortise__v1__tls_profile__descriptor, item);
    CLEANUP(tls_profile_unrefp)
    struct tls_profile *profile = describe_compile(describe, describe->name);
    struct buf text = {0}, weak = {0}, links = {0};
    err_t err = OK;

    if (profile != NULL)
        describe_buf("What it offers", &text, tls_profile_describe(profile, &text));
    describe_buf("Weaker than the defaults", &weak, tls_profile_weak(msg, &weak));
    for (size_t i = 0; i < describe->mesh->n_links && err_is_ok(err); i++) {
        const Mortise__V1__Link *link = describe->mesh->links[i];

        if (strcmp(mesh_client_profile(link), describe->name) == 0)
            err = buf_printf(&links, "%s: of its client, %s\n", link->name, link->client);
        if (strcmp(mesh_server_profile(link), describe->name) == 0 && err_is_ok(err))
            err = buf_printf(&links, "%s: of its server, %s\n", link->name, link->server);
    }
    describe_buf("Links that use it", &links, err);
}

static void describe_truststore(const struct describe *describe, const ProtobufCMessage *item)
{
    struct buf text = {0};
    err_t err = OK;

    (void)item;
    for (size_t i = 0; i < describe->mesh->n_profiles && err_is_ok(err); i++) {
        if (strcmp(describe->mesh->profiles[i]->truststore, describe->name) == 0)
            err = buf_printf(&text, "%s\n", describe->mesh->profiles[i]->name);
    }
    describe_buf("Profiles that use it", &text, err);
}

/* ---- who changed it ---- */

static bool describe_is_of(const struct describe *describe, const Mortise__V1__Revision *item)
{
    CLEANUP(mem_freep)
    char *prefix = mem_printf("%s %s: ", mesh_kinds[describe->kind].one, describe->name);

    for (size_t i = 0; i < item->n_changes; i++) {
        if (strncmp(item->changes[i], prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

static void describe_changes(const struct describe *describe)
{
    static const char *const heads[] = {"REVISION", "CHANGED", "AUTHOR", "MESSAGE", NULL};
    Mortise__V1__ListRevisionsRequest request = MORTISE__V1__LIST_REVISIONS_REQUEST__INIT;
    ProtobufCMessage *msg =
        pages_call(describe->conn, "OperatorService/ListRevisions", &request.base,
                   &mortise__v1__list_revisions_response__descriptor);
    const Mortise__V1__ListRevisionsResponse *reply;
    struct table table = {.heads = heads};

    if (msg == NULL)
        return;
    reply = MSG_AS(Mortise__V1__ListRevisionsResponse,
                   mortise__v1__list_revisions_response__descriptor, msg);
    for (size_t i = 0; i < reply->n_revisions; i++) {
        const Mortise__V1__Revision *item = reply->revisions[i];
        char when[TABLE_TIME_MAX];

        if (!describe_is_of(describe, item))
            continue;
        table_time(item->changed_at, describe->now_s, when);
        table_addf(&table, "%" PRIu64, item->version);
        table_add(&table, when);
        table_add(&table, item->author);
        table_add(&table, item->message);
    }
    if (table.num_cells > 0) {
        describe_head("Changes, of the revisions that are kept");
        table_print(&table);
    }
    pb_free(msg);
}

/* ---- whole ---- */

static void (*const describe_more[MESH_KINDS])(const struct describe *describe,
                                               const ProtobufCMessage *item) = {
    [MESH_SUBSYSTEMS] = describe_subsystem, [MESH_PROFILES] = describe_profile,
    [MESH_LINKS] = describe_link,           [MESH_TRUSTSTORES] = describe_truststore,
    [MESH_POLICIES] = describe_policy,
};

static bool describe_one(const struct describe *describe)
{
    const struct mesh_kind *kind = &mesh_kinds[describe->kind];
    const ProtobufCMessage *item = NULL;

    for (size_t i = 0; i < mesh_num(describe->mesh, kind); i++) {
        if (strcmp(mesh_name(mesh_item(describe->mesh, kind, i)), describe->name) == 0)
            item = mesh_item(describe->mesh, kind, i);
    }
    if (item == NULL) {
        ctl_tell("no %s is called \"%s\" (mortisectl get %s)", kind->word, describe->name,
                 kind->many);
        return false;
    }
    describe_item(describe, item);
    if (describe_more[describe->kind] != NULL)
        describe_more[describe->kind](describe, item);
    describe_changes(describe);
    return true;
}

/* Those that the operands name, or the selector chooses; CTL_FAILED when one is missing. */
static int describe_all(struct describe *describe, const struct selector *selector, int num,
                        char **names)
{
    const struct mesh_kind *kind = &mesh_kinds[describe->kind];
    int status = CTL_OK;
    size_t shown = 0;

    for (int i = 0; i < num; i++) {
        describe->name = names[i];
        printf("%s", shown++ > 0 ? "\n" : "");
        if (!describe_one(describe))
            status = CTL_FAILED;
    }
    for (size_t i = 0; num == 0 && i < mesh_num(describe->mesh, kind); i++) {
        const ProtobufCMessage *item = mesh_item(describe->mesh, kind, i);

        if (!selector_matches(selector, item))
            continue;
        describe->name = mesh_name(item);
        printf("%s", shown++ > 0 ? "\n" : "");
        (void)describe_one(describe);
    }
    if (shown == 0)
        ctl_tell("no %s is such (mortisectl get %s --show-labels)", kind->word, kind->many);
    return shown == 0 ? CTL_FAILED : status;
}

static int describe_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct describe describe = {.kind = ctl_mesh_kind(operands[0]),
                                .now_s = clock_wall_s(&clock_system)};
    CLEANUP(selector_freep) struct selector *selector = NULL;
    Mortise__V1__GetMeshResponse *now = NULL;
    int status = CTL_FAILED;

    if (describe.kind < 0 || !ctl_selector(flags, &selector))
        return CTL_USAGE;
    if ((num > 1) == (selector != NULL)) {
        ctl_tell("describe what? mortisectl describe %s NAME…, or -l SELECTOR", operands[0]);
        return CTL_USAGE;
    }
    describe.conn = conn_open(flags);
    if (describe.conn != NULL)
        now = mesh_get(describe.conn);
    if (now != NULL) {
        describe.mesh = now->mesh;
        status = describe_all(&describe, selector, num - 1, operands + 1);
        pb_free(&now->base);
    }
    conn_close(describe.conn);
    return status;
}

const struct ctl_command ctl_describe = {
    .name = "describe",
    .operands = "KIND [NAME…]",
    .summary = "all that is known of one thing of the mesh",
    .about = "Shows a subsystem, profile, link, crl (revocation list), truststore, keystore or "
             "policy as "
             "it is written, its labels with it, and what follows from it: what both ends of a "
             "link have "
             "in common, what a profile "
             "offers on the wire, what refers to it, the sidecars, and who has changed it.\n\n"
             "Example: mortisectl describe link management-portal\n"
             "         mortisectl describe profile default-tls-server modern-server\n"
             "         mortisectl describe links -l tier=edge",
    .options = describe_options,
    .min_operands = 1,
    .max_operands = -1,
    .run = describe_run,
};
