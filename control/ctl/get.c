/* mortisectl get: what is in force and who is there. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs/tls_profile.h"
#include "control/ctl/conn.h"
#include "control/ctl/connections.h"
#include "control/ctl/crl.h"
#include "control/ctl/pages.h"
#include "control/ctl/revoke.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/ctl/trust.h"
#include "control/ctl/workload.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

const char *const ctl_kinds[] = {"mesh",      "subsystems",   "links",       "profiles",
                                 "workloads", "certificates", "revocations", "connections",
                                 "crl",       "truststores",  "keystores",   NULL};

static const char *const get_outputs[] = {"table", "wide", "json", "yaml", "pem", NULL};

static const struct option get_options[] = {
    {.name = "output",
     .kind = OPTION_ENUM,
     .offset = offsetof(struct ctl_flags, output),
     .def = "table",
     .words = get_outputs,
     .arg = "FORM",
     .help = "How to show it; pem: the certificates of keystores or truststores; -o for short."},
    {.name = "expired",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, expired),
     .def = "false",
     .help = "Of certificates: also those that have expired."},
    {.name = "expiring",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, expiring_ms),
     .def = "0s",
     .min = 0,
     .max = INT64_C(3660) * 86400 * 1000,
     .arg = "TIME",
     .help = "Of certificates: only those that expire within this time; 0s: all."},
    {.name = "issuer",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, issuer),
     .arg = "KEY",
     .help = "Of crl: only that of the CA with this key (SHA-256, hex)."},
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .arg = "FILE",
     .help = "Of crl, with --issuer: where to write the list, in DER; what is there is replaced."},
    {.name = "link",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, link),
     .arg = "NAME",
     .help = "Of connections: only those of this link."},
    {.name = "peer",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, peer),
     .arg = "ID",
     .help = "Of connections: only those with this peer: its SPIFFE ID or serial number."},
    {.name = "limit",
     .kind = OPTION_INT,
     .offset = offsetof(struct ctl_flags, limit),
     .def = "1000",
     .min = 1,
     .max = 1000,
     .arg = "NUMBER",
     .help = "Of connections: so many of each sidecar are shown; all are counted."},
    {.name = "timeout",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, timeout_ms),
     .def = "5s",
     .min = 1000,
     .max = 60000,
     .arg = "TIME",
     .help = "Of connections: how long a sidecar has to answer."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

struct get {
    const struct ctl_flags *flags;
    int num_names;
    char **names;
    int64_t now_s;
};

static bool get_is_text(const struct get *get)
{
    return get->flags->output == CTL_JSON || get->flags->output == CTL_YAML;
}

static bool get_is_wide(const struct get *get)
{
    return get->flags->output == CTL_WIDE;
}

static bool get_is_wanted(const struct get *get, const char *name)
{
    for (int i = 0; i < get->num_names; i++) {
        if (strcmp(get->names[i], name) == 0)
            return true;
    }
    return get->num_names == 0;
}

/* True when every name that was asked for is among `num` items; else told. */
static bool get_found_all(const struct get *get, const char *kind,
                          bool (*has)(const void *list, const char *name), const void *list)
{
    bool all = true;

    for (int i = 0; i < get->num_names; i++) {
        if (has(list, get->names[i]))
            continue;
        ctl_tell("%s: none is called \"%s\" (mortisectl get %s)", kind, get->names[i], kind);
        all = false;
    }
    return all;
}

/* ----------------------------------------------------------------------- mesh */

static void get_table_subsystems(const struct get *get, const Mortise__V1__Mesh *mesh)
{
    static const char *const heads[] = {"NAME", "NAMESPACE", "SERVICE ACCOUNT", NULL};
    static const char *const wide[] = {"NAME", "NAMESPACE", "SERVICE ACCOUNT", "DESCRIPTION", NULL};
    struct table table = {.heads = get_is_wide(get) ? wide : heads};

    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        const Mortise__V1__Subsystem *item = mesh->subsystems[i];

        table_add(&table, item->name);
        table_add(&table, mesh_namespace(item));
        table_add(&table, mesh_account(item));
        if (get_is_wide(get))
            table_add(&table, item->description);
    }
    table_print(&table);
}

/* `whole` has the profiles. */
static void get_table_links(const struct get *get, const Mortise__V1__Mesh *mesh,
                            const Mortise__V1__Mesh *whole)
{
    static const char *const heads[] = {"NAME", "CLIENT", "SERVER", "WEAK", NULL};
    static const char *const wide[] = {"NAME",           "CLIENT",         "SERVER",      "WEAK",
                                       "CLIENT PROFILE", "SERVER PROFILE", "DESCRIPTION", NULL};
    struct table table = {.heads = get_is_wide(get) ? wide : heads, .red = 4};

    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *item = mesh->links[i];
        struct buf text = {0}, entry = {0};

        CHECK(err_is_ok(mesh_link_entry(item, &entry)));
        CLEANUP(mem_freep) char *at = buf_take_str(&entry);
        table_add(&table, item->name);
        table_addf(&table, "%s %s", item->client, at);
        table_addf(&table, "%s 127.0.0.1:%u", item->server, item->server_port);
        CHECK(err_is_ok(mesh_link_weak(whole, item, clock_wall_s(&clock_system), &text)));
        CLEANUP(mem_freep) char *weak = buf_take_str(&text);
        table_add(&table, weak);
        if (get_is_wide(get)) {
            table_add(&table, mesh_client_profile(item));
            table_add(&table, mesh_server_profile(item));
            table_add(&table, item->description);
        }
    }
    table_print(&table);
}

static const char *get_version_name(Mortise__V1__TlsVersion version, const char *otherwise)
{
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value(&mortise__v1__tls_version__descriptor, (int)version);

    return version != MORTISE__V1__TLS_VERSION__TLS_VERSION_UNSPECIFIED && value != NULL
               ? value->name
               : otherwise;
}

static void get_add_list(struct table *table, char *const *items, size_t num)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *joined = NULL;
    err_t err = OK;

    for (size_t i = 0; i < num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? "," : "", items[i]);
    CHECK(err_is_ok(err));
    joined = buf_take_str(&text);
    table_add(table, num > 0 ? joined : "default");
}

/* One that an older program let be changed stays so until it is applied as it is built in. */
static const char *get_built_in(int kind, const ProtobufCMessage *item)
{
    if (!mesh_is_built_in(kind, mesh_name(item)))
        return "";
    return mesh_is_as_built_in(kind, item) ? "yes" : "changed";
}

static void get_add_weak(struct table *table, const Mortise__V1__TlsProfile *profile)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *weak = NULL;

    CHECK(err_is_ok(tls_profile_weak(profile, &text)));
    weak = buf_take_str(&text);
    table_add(table, weak);
}

static void get_table_profiles(const struct get *get, const Mortise__V1__Mesh *mesh)
{
    static const char *const heads[] = {"NAME", "ROLE", "VERSIONS", "WEAK", "BUILT IN", NULL};
    static const char *const wide[] = {"NAME",       "ROLE",        "VERSIONS", "WEAK",
                                       "BUILT IN",   "SUITES",      "GROUPS",   "SIGNATURES",
                                       "TRUSTSTORE", "DESCRIPTION", NULL};
    struct table table = {.heads = get_is_wide(get) ? wide : heads, .red = 4};

    for (size_t i = 0; i < mesh->n_profiles; i++) {
        const Mortise__V1__TlsProfile *item = mesh->profiles[i];

        table_add(&table, item->name);
        table_add(&table,
                  item->role == MORTISE__V1__TLS_PROFILE__ROLE__CLIENT ? "client" : "server");
        table_addf(&table, "%s-%s", get_version_name(item->min_version, "TLS1_2"),
                   get_version_name(item->max_version, "TLS1_3"));
        get_add_weak(&table, item);
        table_add(&table, get_built_in(MESH_PROFILES, &item->base));
        if (!get_is_wide(get))
            continue;
        get_add_list(&table, item->cipher_suites, item->n_cipher_suites);
        get_add_list(&table, item->groups, item->n_groups);
        get_add_list(&table, item->signature_algorithms, item->n_signature_algorithms);
        table_add(&table, item->truststore[0] != '\0' ? item->truststore : "default");
        table_add(&table, item->description);
    }
    table_print(&table);
}

/* Fills `out` with the items of one kind that are wanted; they stay the mesh's. Returns the list's
 * memory. */
static const ProtobufCMessage **get_keep(const struct get *get, const Mortise__V1__Mesh *mesh,
                                         const struct mesh_kind *kind, Mortise__V1__Mesh *out)
{
    size_t num = mesh_num(mesh, kind);
    const ProtobufCMessage **kept = mem_array(num, sizeof(*kept));
    size_t num_kept = 0;

    for (size_t i = 0; i < num; i++) {
        const ProtobufCMessage *item = mesh_item(mesh, kind, i);

        if (get_is_wanted(get, mesh_name(item)))
            kept[num_kept++] = item;
    }
    *out = (Mortise__V1__Mesh)MORTISE__V1__MESH__INIT;
    memcpy((char *)out + kind->num_at, &num_kept, sizeof(num_kept));
    memcpy((char *)out + kind->items_at, &kept, sizeof(kept));
    return kept;
}

struct get_kind {
    const Mortise__V1__Mesh *mesh;
    int kind;
};

static bool get_has_item(const void *list, const char *name)
{
    const struct get_kind *what = list;
    const struct mesh_kind *kind = &mesh_kinds[what->kind];

    for (size_t i = 0; i < mesh_num(what->mesh, kind); i++) {
        if (strcmp(mesh_name(mesh_item(what->mesh, kind, i)), name) == 0)
            return true;
    }
    return false;
}

/* What the sidecars say of keystores that are files of theirs; NULL: there are none, or told. */
static ProtobufCMessage *get_files(struct conn *conn, const Mortise__V1__Mesh *mesh)
{
    Mortise__V1__ListWorkloadsRequest request = MORTISE__V1__LIST_WORKLOADS_REQUEST__INIT;

    for (size_t i = 0; i < mesh->n_keystores; i++) {
        if (mesh_is_on_disk(mesh->keystores[i]))
            return pages_call(conn, "OperatorService/ListWorkloads", &request.base,
                              &mortise__v1__list_workloads_response__descriptor);
    }
    return NULL;
}

static void get_table_keystores(const struct get *get, struct conn *conn,
                                const Mortise__V1__Mesh *shown, const Mortise__V1__Mesh *mesh)
{
    ProtobufCMessage *files = get_files(conn, shown);

    trust_table_keystores(get_is_wide(get), get->now_s, shown, mesh,
                          files != NULL
                              ? MSG_AS(Mortise__V1__ListWorkloadsResponse,
                                       mortise__v1__list_workloads_response__descriptor, files)
                              : NULL);
    if (files != NULL)
        pb_free(files);
}

static int get_mesh_kind(const struct get *get, struct conn *conn, const Mortise__V1__Mesh *mesh,
                         int kind)
{
    const struct get_kind what = {mesh, kind};
    bool all = get_found_all(get, mesh_kinds[kind].many, get_has_item, &what);
    Mortise__V1__Mesh shown;
    const ProtobufCMessage **kept = get_keep(get, mesh, &mesh_kinds[kind], &shown);

    if (get_is_text(get))
        show_message(get->flags->output, &shown.base);
    else if (kind == MESH_SUBSYSTEMS)
        get_table_subsystems(get, &shown);
    else if (kind == MESH_PROFILES)
        get_table_profiles(get, &shown);
    else if (get->flags->output == CTL_PEM)
        all = trust_print_pem(kind == MESH_KEYSTORES, &shown) && all;
    else if (kind == MESH_KEYSTORES)
        get_table_keystores(get, conn, &shown, mesh);
    else if (kind == MESH_TRUSTSTORES)
        trust_table_truststores(get_is_wide(get), get->now_s, &shown, mesh);
    else
        get_table_links(get, &shown, mesh);
    mem_free(kept);
    return all ? CTL_OK : CTL_FAILED;
}

static int get_mesh(const struct get *get, struct conn *conn, int kind)
{
    Mortise__V1__GetMeshRequest request = MORTISE__V1__GET_MESH_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/GetMesh", &request.base,
                                      &mortise__v1__get_mesh_response__descriptor);
    const Mortise__V1__GetMeshResponse *reply;
    int status = CTL_OK;

    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__GetMeshResponse, mortise__v1__get_mesh_response__descriptor, msg);
    if (kind == MESH_KINDS)
        show_message(get->flags->output == CTL_JSON ? CTL_JSON : CTL_YAML, msg);
    else
        status = get_mesh_kind(get, conn, reply->mesh, kind);
    pb_free(msg);
    return status;
}

/* ------------------------------------------------------------------ workloads */

static void get_add_clock(struct table *table, const Mortise__V1__Workload *item)
{
    if (item->clock_known)
        table_addf(table, "%+.3fs ± %.3fs", (double)item->clock_ahead_ms / 1000,
                   (double)item->clock_error_ms / 1000);
    else
        table_add(table, "");
}

static void get_table_workloads(const struct get *get,
                                const Mortise__V1__ListWorkloadsResponse *reply)
{
    static const char *const heads[] = {"SUBSYSTEM", "INSTANCE",  "ADDRESS", "VERSION",
                                        "STATE",     "CONNECTED", NULL};
    static const char *const wide[] = {"SUBSYSTEM", "INSTANCE",   "ADDRESS",     "VERSION", "STATE",
                                       "CONNECTED", "SPIFFE ID",  "CERTIFICATE", "EXPIRES", "EPOCH",
                                       "BUILD",     "GENERATION", "WANTED",      "CLOCK",   NULL};
    struct table table = {.heads = get_is_wide(get) ? wide : heads};

    for (size_t i = 0; i < reply->n_workloads; i++) {
        static const Mortise__V1__SidecarStatus none = MORTISE__V1__SIDECAR_STATUS__INIT;
        const Mortise__V1__Workload *item = reply->workloads[i];
        const Mortise__V1__SidecarStatus *status = item->status != NULL ? item->status : &none;
        char text[TABLE_TIME_MAX];

        table_add(&table, item->subsystem);
        table_addf(&table, get_is_wide(get) ? "%s" : "%.8s", item->instance);
        table_add(&table, item->address);
        table_addf(&table, "%" PRIu64, item->acked_version);
        workload_add_state(&table, item);
        table_time(item->connected_since, get->now_s, text);
        table_add(&table, text);
        if (!get_is_wide(get))
            continue;
        table_add(&table, item->spiffe_id);
        table_add(&table, status->certificate_serial);
        table_time(status->certificate_not_after, get->now_s, text);
        table_add(&table, text);
        table_addf(&table, "%" PRIu64, status->certificate_epoch);
        table_add(&table, item->build);
        table_addf(&table, "%" PRIu64, status->generation);
        table_addf(&table, "%" PRIu64, item->wanted_version);
        get_add_clock(&table, item);
    }
    table_print(&table);
}

static bool get_has_workload(const void *list, const char *name)
{
    const Mortise__V1__ListWorkloadsResponse *reply = list;

    for (size_t i = 0; i < reply->n_workloads; i++) {
        if (strcmp(reply->workloads[i]->subsystem, name) == 0)
            return true;
    }
    return false;
}

static int get_workloads(const struct get *get, struct conn *conn)
{
    Mortise__V1__ListWorkloadsRequest request = MORTISE__V1__LIST_WORKLOADS_REQUEST__INIT;
    ProtobufCMessage *msg = pages_call(conn, "OperatorService/ListWorkloads", &request.base,
                                       &mortise__v1__list_workloads_response__descriptor);
    Mortise__V1__ListWorkloadsResponse shown = MORTISE__V1__LIST_WORKLOADS_RESPONSE__INIT;
    const Mortise__V1__ListWorkloadsResponse *reply;
    bool all;

    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__ListWorkloadsResponse,
                   mortise__v1__list_workloads_response__descriptor, msg);
    all = get_found_all(get, "workloads", get_has_workload, reply);
    shown.workloads = mem_array(reply->n_workloads, sizeof(*shown.workloads));
    for (size_t i = 0; i < reply->n_workloads; i++) {
        if (get_is_wanted(get, reply->workloads[i]->subsystem))
            shown.workloads[shown.n_workloads++] = reply->workloads[i];
    }
    if (get_is_text(get))
        show_message(get->flags->output, &shown.base);
    else
        get_table_workloads(get, &shown);
    mem_free(shown.workloads);
    pb_free(msg);
    return all ? CTL_OK : CTL_FAILED;
}

/* --------------------------------------------------------------- certificates */

static void get_table_certificates(const struct get *get,
                                   const Mortise__V1__ListCertificatesResponse *reply)
{
    static const char *const heads[] = {"SERIAL", "SPIFFE ID", "REASON", "ISSUED", "EXPIRES", NULL};
    static const char *const wide[] = {"SERIAL",  "SPIFFE ID", "REASON", "ISSUED",
                                       "EXPIRES", "SHA256",    NULL};
    struct table table = {.heads = get_is_wide(get) ? wide : heads};

    for (size_t i = 0; i < reply->n_certificates; i++) {
        const Mortise__V1__Certificate *item = reply->certificates[i];
        char text[TABLE_TIME_MAX];

        table_add(&table, item->serial);
        table_add(&table, item->spiffe_id);
        table_add(&table, item->reason);
        table_time(item->issued_at, get->now_s, text);
        table_add(&table, text);
        table_time(item->not_after, get->now_s, text);
        table_add(&table, text);
        if (get_is_wide(get))
            table_add(&table, item->sha256);
    }
    table_print(&table);
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

static int get_certificates_of(const struct get *get, struct conn *conn, const char *subsystem)
{
    Mortise__V1__ListCertificatesRequest request = MORTISE__V1__LIST_CERTIFICATES_REQUEST__INIT;
    Mortise__V1__ListCertificatesResponse *reply;
    ProtobufCMessage *msg;

    request.subsystem = msg_lend(subsystem);
    request.include_expired = get->flags->expired;
    request.expiring_s = (uint32_t)((get->flags->expiring_ms + 999) / 1000);
    msg = pages_call(conn, "OperatorService/ListCertificates", &request.base,
                     &mortise__v1__list_certificates_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__ListCertificatesResponse,
                   mortise__v1__list_certificates_response__descriptor, msg);
    if (reply->n_certificates > 0)
        qsort(reply->certificates, reply->n_certificates, sizeof(*reply->certificates),
              get_compare_certificates);
    if (get_is_text(get))
        show_message(get->flags->output, msg);
    else
        get_table_certificates(get, reply);
    pb_free(msg);
    return CTL_OK;
}

static int get_certificates(const struct get *get, struct conn *conn)
{
    if (get->num_names > 1) {
        ctl_tell("certificates: of one subsystem at a time, or of all");
        return CTL_USAGE;
    }
    return get_certificates_of(get, conn, get->num_names == 1 ? get->names[0] : "");
}

/* ---------------------------------------------------------------- connections */

static int get_connections(const struct get *get, struct conn *conn)
{
    if (get->num_names != 1) {
        ctl_tell("connections: of one subsystem: mortisectl get connections SUBSYSTEM");
        return CTL_USAGE;
    }
    return connections_get(conn, get->flags, get->names[0]);
}

/* ---------------------------------------------------------------------- whole */

enum {
    GET_MESH,
    GET_SUBSYSTEMS,
    GET_LINKS,
    GET_PROFILES,
    GET_WORKLOADS,
    GET_CERTIFICATES,
    GET_REVOCATIONS,
    GET_CONNECTIONS,
    GET_CRL,
    GET_TRUSTSTORES,
    GET_KEYSTORES,
};

static int get_kind(const char *word)
{
    size_t num = 0;
    int nearest;

    for (; ctl_kinds[num] != NULL; num++) {
        if (strcmp(ctl_kinds[num], word) == 0)
            return (int)num;
    }
    nearest = str_nearest(word, ctl_kinds, num);
    ctl_tell(
        "get: no \"%s\"; there are: mesh, subsystems, links, profiles, workloads, certificates, "
        "revocations, connections, crl, truststores, keystores%s%s%s",
        word, nearest >= 0 ? " (meant was " : "", nearest >= 0 ? ctl_kinds[nearest] : "",
        nearest >= 0 ? "?)" : "");
    return -1;
}

static int get_ask(const struct get *get, struct conn *conn, int kind)
{
    switch (kind) {
    case GET_SUBSYSTEMS:
        return get_mesh(get, conn, MESH_SUBSYSTEMS);
    case GET_LINKS:
        return get_mesh(get, conn, MESH_LINKS);
    case GET_PROFILES:
        return get_mesh(get, conn, MESH_PROFILES);
    case GET_TRUSTSTORES:
        return get_mesh(get, conn, MESH_TRUSTSTORES);
    case GET_KEYSTORES:
        return get_mesh(get, conn, MESH_KEYSTORES);
    case GET_WORKLOADS:
        return get_workloads(get, conn);
    case GET_CERTIFICATES:
        return get_certificates(get, conn);
    case GET_REVOCATIONS:
        return revocations_show(get->flags, conn);
    case GET_CRL:
        return crls_show(get->flags, conn);
    case GET_CONNECTIONS:
        return get_connections(get, conn);
    default:
        return get_mesh(get, conn, MESH_KINDS);
    }
}

static int get_run(const struct ctl_flags *flags, int num, char **operands)
{
    const struct get get = {flags, num - 1, operands + 1, clock_wall_s(&clock_system)};
    int kind = get_kind(operands[0]);
    struct conn *conn;
    int status = CTL_FAILED;

    if (kind < 0)
        return CTL_USAGE;
    if (flags->output == CTL_PEM && kind != GET_KEYSTORES && kind != GET_TRUSTSTORES) {
        ctl_tell("--output: pem is for keystores and truststores");
        return CTL_USAGE;
    }
    conn = conn_open(flags);
    if (conn != NULL)
        status = get_ask(&get, conn, kind);
    conn_close(conn);
    return status;
}

const struct ctl_command ctl_get = {
    .name = "get",
    .operands = "KIND [NAME…]",
    .summary = "mesh, links, workloads, certificates, connections and more",
    .about =
        "Shows what is in force and who is connected. KIND is mesh, subsystems, links, profiles, "
        "workloads (sidecars; by subsystem), certificates (issued ones, newest first; of one "
        "subsystem), revocations, crl (the revocation lists of this mesh's CAs), truststores (who "
        "vouches for peers; wide: a line for each certificate), keystores (what links show) or "
        "connections (live ones of one "
        "subsystem: each of its sidecars is asked now).\n\n"
        "Example: mortisectl get links -o wide",
    .options = get_options,
    .min_operands = 1,
    .max_operands = -1,
    .run = get_run,
};
