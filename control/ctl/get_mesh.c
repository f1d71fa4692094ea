/* The lists of a mesh in `mortisectl get`: their tables. A further list needs a row in get_rows. */
#include <stdio.h>
#include <string.h>

#include "certs/tls_profile.h"
#include "control/ctl/get.h"
#include "control/ctl/mesh_text.h"
#include "control/ctl/pages.h"
#include "control/ctl/policy.h"
#include "control/ctl/trust.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define GET_HEADS(...)    \
    (const char *const[]) \
    {                     \
        __VA_ARGS__, NULL \
    }

static bool get_is_wide(const struct get *get)
{
    return get->flags->output == CTL_WIDE;
}

static void get_row_subsystem(const struct get *get, const struct get_list *list,
                              const ProtobufCMessage *msg, struct table *table)
{
    const Mortise__V1__Subsystem *item =
        MSG_AS_CONST(Mortise__V1__Subsystem, mortise__v1__subsystem__descriptor, msg);

    (void)list;
    table_add(table, item->name);
    table_add(table, mesh_namespace(item));
    table_add(table, mesh_account(item));
    if (get_is_wide(get))
        table_add(table, item->description);
}

static void get_row_link(const struct get *get, const struct get_list *list,
                         const ProtobufCMessage *msg, struct table *table)
{
    const Mortise__V1__Link *item =
        MSG_AS_CONST(Mortise__V1__Link, mortise__v1__link__descriptor, msg);
    struct buf text = {0}, entry = {0};

    CHECK(err_is_ok(mesh_link_entry(item, &entry)));
    CLEANUP(mem_freep) char *at = buf_take_str(&entry);
    table_add(table, item->name);
    table_addf(table, "%s %s", item->client, at);
    table_addf(table, "%s 127.0.0.1:%u", item->server, item->server_port);
    CHECK(err_is_ok(mesh_link_weak(list->mesh, item, clock_wall_s(&clock_system), &text)));
    CLEANUP(mem_freep) char *weak = buf_take_str(&text);
    table_add(table, weak);
    if (get_is_wide(get)) {
        table_add(table, mesh_client_profile(item));
        table_add(table, mesh_server_profile(item));
        table_add(table, item->description);
    }
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

static void get_row_profile(const struct get *get, const struct get_list *list,
                            const ProtobufCMessage *msg, struct table *table)
{
    const Mortise__V1__TlsProfile *item =
        MSG_AS_CONST(Mortise__V1__TlsProfile, mortise__v1__tls_profile__descriptor, msg);

    (void)list;
    table_add(table, item->name);
    table_add(table, item->role == MORTISE__V1__TLS_PROFILE__ROLE__CLIENT ? "client" : "server");
    table_addf(table, "%s-%s", get_version_name(item->min_version, "TLS1_2"),
               get_version_name(item->max_version, "TLS1_3"));
    get_add_weak(table, item);
    table_add(table, get_built_in(MESH_PROFILES, &item->base));
    if (!get_is_wide(get))
        return;
    get_add_list(table, item->cipher_suites, item->n_cipher_suites);
    get_add_list(table, item->groups, item->n_groups);
    get_add_list(table, item->signature_algorithms, item->n_signature_algorithms);
    table_add(table, item->truststore[0] != '\0' ? item->truststore : "default");
    table_add(table, item->keystore[0] != '\0' ? item->keystore : "default");
    table_add(table, item->description);
}

/* How many lists are in it; who issued them and how old they are, `get crl` and sidecars tell. */
static void get_row_crl(const struct get *get, const struct get_list *list,
                        const ProtobufCMessage *msg, struct table *table)
{
    static const char mark[] = "-----BEGIN X509 CRL-----";
    const Mortise__V1__RevocationList *item =
        MSG_AS_CONST(Mortise__V1__RevocationList, mortise__v1__revocation_list__descriptor, msg);
    size_t num = 0;

    (void)list;
    for (const char *at = strstr(item->pem, mark); at != NULL; at = strstr(at + 1, mark))
        num++;
    table_add(table, item->name);
    table_addf(table, "%zu", num);
    if (get_is_wide(get))
        table_add(table, item->description);
}

static void get_row_truststore(const struct get *get, const struct get_list *list,
                               const ProtobufCMessage *msg, struct table *table)
{
    trust_row_truststore(
        get_is_wide(get), get->now_s,
        MSG_AS_CONST(Mortise__V1__MeshTruststore, mortise__v1__mesh_truststore__descriptor, msg),
        list->mesh, table);
}

static void get_row_keystore(const struct get *get, const struct get_list *list,
                             const ProtobufCMessage *msg, struct table *table)
{
    const Mortise__V1__ListWorkloadsResponse *sidecars =
        list->aside != NULL
            ? MSG_AS_CONST(Mortise__V1__ListWorkloadsResponse,
                           mortise__v1__list_workloads_response__descriptor, list->aside)
            : NULL;

    trust_row_keystore(
        get_is_wide(get), get->now_s,
        MSG_AS_CONST(Mortise__V1__MeshKeystore, mortise__v1__mesh_keystore__descriptor, msg),
        list->mesh, sidecars, table);
}

static void get_row_policy(const struct get *get, const struct get_list *list,
                           const ProtobufCMessage *msg, struct table *table)
{
    (void)list;
    policy_row(get_is_wide(get),
               MSG_AS_CONST(Mortise__V1__Policy, mortise__v1__policy__descriptor, msg), table);
}

/* What a list shows of its items: with columns or, for a kind that has none here, the name alone.
 */
static const struct {
    const char *const *heads;
    const char *const *wide;
    size_t red;
    void (*row)(const struct get *get, const struct get_list *list, const ProtobufCMessage *item,
                struct table *table);
} get_rows[MESH_KINDS] = {
    [MESH_SUBSYSTEMS] = {GET_HEADS("NAME", "NAMESPACE", "SERVICE ACCOUNT"),
                         GET_HEADS("NAME", "NAMESPACE", "SERVICE ACCOUNT", "DESCRIPTION"), 0,
                         get_row_subsystem},
    [MESH_PROFILES] = {GET_HEADS("NAME", "ROLE", "VERSIONS", "WEAK", "BUILT IN"),
                       GET_HEADS("NAME", "ROLE", "VERSIONS", "WEAK", "BUILT IN", "SUITES", "GROUPS",
                                 "SIGNATURES", "TRUSTSTORE", "KEYSTORE", "DESCRIPTION"),
                       4, get_row_profile},
    [MESH_LINKS] = {GET_HEADS("NAME", "CLIENT", "SERVER", "WEAK"),
                    GET_HEADS("NAME", "CLIENT", "SERVER", "WEAK", "CLIENT PROFILE",
                              "SERVER PROFILE", "DESCRIPTION"),
                    4, get_row_link},
    [MESH_CRLS] = {GET_HEADS("NAME", "LISTS"), GET_HEADS("NAME", "LISTS", "DESCRIPTION"), 0,
                   get_row_crl},
    [MESH_TRUSTSTORES] = {trust_heads_truststores, trust_wide_truststores, 0, get_row_truststore},
    [MESH_KEYSTORES] = {trust_heads_keystores, trust_wide_keystores, 0, get_row_keystore},
    [MESH_POLICIES] = {GET_HEADS("NAME", "ACTION", "LINKS", "PEERS"),
                       GET_HEADS("NAME", "ACTION", "LINKS", "PEERS", "DESCRIPTION"), 0,
                       get_row_policy},
};

/* --------------------------------------------------------------------- listing */

static void get_row_name(const struct get *get, const struct get_list *list,
                         const ProtobufCMessage *item, struct table *table)
{
    (void)get;
    (void)list;
    table_add(table, mesh_name(item));
}

/* What the sidecars say of keystores that are files of theirs: of a table only, and where there are
 * any. NULL: nothing, or told. */
static ProtobufCMessage *get_ask_files(const struct get *get, struct conn *conn,
                                       const Mortise__V1__Mesh *mesh)
{
    Mortise__V1__ListWorkloadsRequest request = MORTISE__V1__LIST_WORKLOADS_REQUEST__INIT;
    bool table = get->flags->output == CTL_TABLE || get->flags->output == CTL_WIDE;

    for (size_t i = 0; table && get->kind.mesh == MESH_KEYSTORES && i < mesh->n_keystores; i++) {
        if (mesh_is_on_disk(mesh->keystores[i]))
            return pages_call(conn, "OperatorService/ListWorkloads", &request.base,
                              &mortise__v1__list_workloads_response__descriptor);
    }
    return NULL;
}

static bool get_ask_mesh(const struct get *get, struct conn *conn, struct get_list *list)
{
    const struct mesh_kind *kind = &mesh_kinds[get->kind.mesh];
    Mortise__V1__GetMeshResponse *reply = mesh_get(conn);

    if (reply == NULL)
        return false;
    list->msg = &reply->base;
    list->mesh = reply->mesh;
    list->num = mesh_num(reply->mesh, kind);
    list->items = mem_array(list->num, sizeof(*list->items));
    for (size_t i = 0; i < list->num; i++)
        list->items[i] = mesh_item(reply->mesh, kind, i);
    list->aside = get_ask_files(get, conn, reply->mesh);
    return true;
}

static char *get_key_name(const ProtobufCMessage *item)
{
    return mem_strdup(mesh_name(item));
}

static const ProtobufCMessage *get_labelled_itself(const struct get_list *list,
                                                   const ProtobufCMessage *item)
{
    (void)list;
    return item;
}

struct get_kind get_mesh_kind(int mesh)
{
    static const char *const heads[] = {"NAME", NULL};
    static const char *const events[] = {"mesh_changed", NULL};
    bool shown = get_rows[mesh].row != NULL;

    return (struct get_kind){
        .name = mesh_kinds[mesh].many,
        .mesh = mesh,
        .desc = &mortise__v1__mesh__descriptor,
        .field = mesh_kinds[mesh].many,
        .heads = shown ? get_rows[mesh].heads : heads,
        .wide = shown ? get_rows[mesh].wide : heads,
        .red = get_rows[mesh].red,
        .ask = get_ask_mesh,
        .row = shown ? get_rows[mesh].row : get_row_name,
        .name_of = mesh_name,
        .key_of = get_key_name,
        .labelled = get_labelled_itself,
        .events = events,
    };
}
