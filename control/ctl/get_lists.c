/* What `mortisectl get` shows besides the lists of a mesh: sidecars, certificates, and what is no
 * list. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/ctl/connections.h"
#include "control/ctl/crl.h"
#include "control/ctl/get.h"
#include "control/ctl/mesh_text.h"
#include "control/ctl/pages.h"
#include "control/ctl/revoke.h"
#include "control/ctl/show.h"
#include "control/ctl/workload.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

/* ------------------------------------------------------------------- workloads */

static void get_add_clock(struct table *table, const Mortise__V1__Workload *item)
{
    if (item->clock_known)
        table_addf(table, "%+.3fs ± %.3fs", (double)item->clock_ahead_ms / 1000,
                   (double)item->clock_error_ms / 1000);
    else
        table_add(table, "");
}

static void get_row_workload(const struct get *get, const struct get_list *list,
                             const ProtobufCMessage *msg, struct table *table)
{
    static const Mortise__V1__SidecarStatus none = MORTISE__V1__SIDECAR_STATUS__INIT;
    const Mortise__V1__Workload *item =
        MSG_AS_CONST(Mortise__V1__Workload, mortise__v1__workload__descriptor, msg);
    const Mortise__V1__SidecarStatus *status = item->status != NULL ? item->status : &none;
    bool wide = get->flags->output == CTL_WIDE;
    char text[TABLE_TIME_MAX];

    (void)list;
    table_add(table, item->subsystem);
    table_addf(table, wide ? "%s" : "%.8s", item->instance);
    table_add(table, item->address);
    table_addf(table, "%" PRIu64, item->acked_version);
    workload_add_state(table, item);
    table_time(item->connected_since, get->now_s, text);
    table_add(table, text);
    if (!wide)
        return;
    table_add(table, item->spiffe_id);
    table_add(table, status->certificate_serial);
    table_time(status->certificate_not_after, get->now_s, text);
    table_add(table, text);
    table_addf(table, "%" PRIu64, status->certificate_epoch);
    table_add(table, item->build);
    table_addf(table, "%" PRIu64, status->generation);
    table_addf(table, "%" PRIu64, item->wanted_version);
    get_add_clock(table, item);
}

/* The mesh is needed only for the labels of their subsystems. */
static bool get_ask_workloads(const struct get *get, struct conn *conn, struct get_list *list)
{
    Mortise__V1__ListWorkloadsRequest request = MORTISE__V1__LIST_WORKLOADS_REQUEST__INIT;
    const Mortise__V1__ListWorkloadsResponse *reply;

    if (get->selector != NULL || get->flags->show_labels) {
        Mortise__V1__GetMeshResponse *mesh = mesh_get(conn);

        if (mesh == NULL)
            return false;
        list->aside = &mesh->base;
        list->mesh = mesh->mesh;
    }
    list->msg = pages_call(conn, "OperatorService/ListWorkloads", &request.base,
                           &mortise__v1__list_workloads_response__descriptor);
    if (list->msg == NULL)
        return false;
    reply = MSG_AS(Mortise__V1__ListWorkloadsResponse,
                   mortise__v1__list_workloads_response__descriptor, list->msg);
    list->num = reply->n_workloads;
    list->items = mem_array(list->num, sizeof(*list->items));
    for (size_t i = 0; i < list->num; i++)
        list->items[i] = &reply->workloads[i]->base;
    return true;
}

static const Mortise__V1__Workload *get_workload(const ProtobufCMessage *item)
{
    return MSG_AS_CONST(Mortise__V1__Workload, mortise__v1__workload__descriptor, item);
}

static const char *get_name_workload(const ProtobufCMessage *item)
{
    return get_workload(item)->subsystem;
}

static char *get_key_workload(const ProtobufCMessage *item)
{
    return mem_printf("%s %s", get_workload(item)->spiffe_id, get_workload(item)->instance);
}

static const ProtobufCMessage *get_labelled_workload(const struct get_list *list,
                                                     const ProtobufCMessage *item)
{
    const Mortise__V1__Subsystem *subsystem =
        mesh_subsystem(list->mesh, get_workload(item)->subsystem);

    return subsystem != NULL ? &subsystem->base : NULL;
}

/* Measured with every answer; that a clock is off stays. */
static void get_settle_workload(ProtobufCMessage *msg)
{
    Mortise__V1__Workload *item =
        MSG_AS(Mortise__V1__Workload, mortise__v1__workload__descriptor, msg);

    item->clock_ahead_ms = 0;
    item->clock_error_ms = 0;
}

/* ---------------------------------------------------------------- certificates */

static const Mortise__V1__Certificate *get_certificate(const ProtobufCMessage *item)
{
    return MSG_AS_CONST(Mortise__V1__Certificate, mortise__v1__certificate__descriptor, item);
}

static void get_row_certificate(const struct get *get, const struct get_list *list,
                                const ProtobufCMessage *msg, struct table *table)
{
    const Mortise__V1__Certificate *item = get_certificate(msg);
    char text[TABLE_TIME_MAX];

    (void)list;
    table_add(table, item->serial);
    table_add(table, item->spiffe_id);
    table_add(table, item->reason);
    table_time(item->issued_at, get->now_s, text);
    table_add(table, text);
    table_time(item->not_after, get->now_s, text);
    table_add(table, text);
    if (get->flags->output == CTL_WIDE)
        table_add(table, item->sha256);
}

/* The newest first. */
static int get_compare_certificates(const void *a, const void *b)
{
    const Mortise__V1__Certificate *one = *(Mortise__V1__Certificate *const *)a;
    const Mortise__V1__Certificate *two = *(Mortise__V1__Certificate *const *)b;

    if (one->issued_at != two->issued_at)
        return one->issued_at > two->issued_at ? -1 : 1;
    return strcmp(one->serial, two->serial);
}

static bool get_ask_certificates(const struct get *get, struct conn *conn, struct get_list *list)
{
    Mortise__V1__ListCertificatesRequest request = MORTISE__V1__LIST_CERTIFICATES_REQUEST__INIT;
    const Mortise__V1__ListCertificatesResponse *reply;

    request.subsystem = get->num_names == 1 ? get->names[0] : msg_lend("");
    request.include_expired = get->flags->expired;
    request.expiring_s = (uint32_t)((get->flags->expiring_ms + 999) / 1000);
    list->msg = pages_call(conn, "OperatorService/ListCertificates", &request.base,
                           &mortise__v1__list_certificates_response__descriptor);
    if (list->msg == NULL)
        return false;
    reply = MSG_AS(Mortise__V1__ListCertificatesResponse,
                   mortise__v1__list_certificates_response__descriptor, list->msg);
    if (reply->n_certificates > 0)
        qsort(reply->certificates, reply->n_certificates, sizeof(*reply->certificates),
              get_compare_certificates);
    list->num = reply->n_certificates;
    list->items = mem_array(list->num, sizeof(*list->items));
    for (size_t i = 0; i < list->num; i++)
        list->items[i] = &reply->certificates[i]->base;
    return true;
}

static char *get_key_certificate(const ProtobufCMessage *item)
{
    return mem_strdup(get_certificate(item)->serial);
}

/* It leaves the list then. */
static int64_t get_certificate_ends(const ProtobufCMessage *item)
{
    return get_certificate(item)->not_after;
}

/* -------------------------------------------------------------------- no lists */

static int get_show_mesh(const struct get *get, struct conn *conn)
{
    Mortise__V1__GetMeshResponse *reply = mesh_get(conn);

    if (reply == NULL)
        return CTL_FAILED;
    show_message(get->flags->output == CTL_JSON ? CTL_JSON : CTL_YAML, &reply->base);
    pb_free(&reply->base);
    return CTL_OK;
}

static int get_show_revocations(const struct get *get, struct conn *conn)
{
    return revocations_show(get->flags, conn);
}

static int get_show_crl(const struct get *get, struct conn *conn)
{
    return crls_show(get->flags, conn);
}

static int get_show_connections(const struct get *get, struct conn *conn)
{
    if (get->num_names != 1) {
        ctl_tell("connections: of one subsystem: mortisectl get connections SUBSYSTEM");
        return CTL_USAGE;
    }
    return connections_get(conn, get->flags, get->names[0]);
}

/* ----------------------------------------------------------------------- whole */

#define GET_HEADS(...)    \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

static const char *const get_workload_events[] = {
    "sidecar_joined",    "sidecar_left",       "config_acked",
    "config_refused",    "mesh_changed",       "clock_skewed",
    "clock_right_again", "certificate_issued", NULL,
};

static const char *const get_certificate_events[] = {"certificate_issued", NULL};

const struct get_kind get_own_kinds[] = {
    {.name = "mesh", .mesh = MESH_KINDS, .show = get_show_mesh},
    {.name = "workloads",
     .mesh = MESH_KINDS,
     .desc = &mortise__v1__list_workloads_response__descriptor,
     .field = "workloads",
     .heads = GET_HEADS("SUBSYSTEM", "INSTANCE", "ADDRESS", "VERSION", "STATE", "CONNECTED"),
     .wide =
         GET_HEADS("SUBSYSTEM", "INSTANCE", "ADDRESS", "VERSION", "STATE", "CONNECTED", "SPIFFE ID",
                   "CERTIFICATE", "EXPIRES", "EPOCH", "BUILD", "GENERATION", "WANTED", "CLOCK"),
     .ask = get_ask_workloads,
     .row = get_row_workload,
     .name_of = get_name_workload,
     .key_of = get_key_workload,
     .labelled = get_labelled_workload,
     .settle = get_settle_workload,
     .events = get_workload_events},
    {.name = "certificates",
     .mesh = MESH_KINDS,
     .desc = &mortise__v1__list_certificates_response__descriptor,
     .field = "certificates",
     .heads = GET_HEADS("SERIAL", "SPIFFE ID", "REASON", "ISSUED", "EXPIRES"),
     .wide = GET_HEADS("SERIAL", "SPIFFE ID", "REASON", "ISSUED", "EXPIRES", "SHA256"),
     .ask = get_ask_certificates,
     .row = get_row_certificate,
     .key_of = get_key_certificate,
     .events = get_certificate_events,
     .changes_at = get_certificate_ends},
    {.name = "revocations", .mesh = MESH_KINDS, .show = get_show_revocations},
    {.name = "connections", .mesh = MESH_KINDS, .show = get_show_connections},
    {.name = "crl", .mesh = MESH_KINDS, .show = get_show_crl},
    {.name = NULL},
};
