#include "control/operator_service.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "control/attest.h"
#include "control/build.h"
#include "control/caller.h"
#include "control/mesh_merge.h"
#include "control/msg.h"
#include "control/reply.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define OPERATOR_APPLY_MAX ((size_t)4 << 20)
#define OPERATOR_MESSAGE_MAX 65536
#define OPERATOR_ADMIN_NAME_MAX 64
#define OPERATOR_ADMIN_TTL_MIN_S ISSUE_TTL_MIN_S

#define OPERATOR_CALL(name) \
    static void operator_on_##name(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)

static struct registry *operator_fresh(struct operator_service *service)
{
    /* What a change still owes is computed first: nobody is told "in sync" of what he has not seen.
     */
    registry_refresh(service->registry);
    return service->registry;
}

void operator_log(const struct grpc_call *call, const char *event, const char *what,
                  uint64_t version)
{
    char caller[CALLER_NAME_MAX];

    caller_name(grpc_call_peer(call), caller);
    log_info("operator", event, LOG_STR("caller", caller), LOG_STR("what", what),
             LOG_UINT("version", version));
}

char *operator_names(const struct operator_service *service)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = OK;

    for (size_t i = 0; i < mesh->n_subsystems && i < 20 && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? ", " : "", mesh->subsystems[i]->name);
    if (mesh->n_subsystems > 20 && err_is_ok(err))
        err = buf_printf(&text, " and %zu more", mesh->n_subsystems - 20);
    if (mesh->n_subsystems == 0)
        err = buf_add_str(&text, "none");
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

/* ------------------------------------------------------------------- reading */

static ProtobufCBinaryData *operator_roots(const struct operator_service *service, size_t *out_num)
{
    const struct bytes *ders = ca_roots(service->ca, out_num);
    ProtobufCBinaryData *roots = mem_array(*out_num, sizeof(*roots));

    for (size_t i = 0; i < *out_num; i++)
        roots[i] = msg_bytes(ders[i]);
    return roots;
}

OPERATOR_CALL(status)
{
    struct operator_service *service = arg;
    struct registry *registry = operator_fresh(service);
    struct registry_totals totals = registry_totals(registry);
    const Mortise__V1__Mesh *mesh = registry_mesh(registry);
    Mortise__V1__StatusResponse reply = MORTISE__V1__STATUS_RESPONSE__INIT;
    char sha256[CA_SHA256_HEX];

    (void)msg;
    ca_root_sha256(service->ca, false, sha256);
    reply.trust_domain = msg_lend(registry_trust_domain(registry));
    reply.build = msg_lend(BUILD_VERSION);
    reply.version = registry_mesh_version(registry);
    reply.subsystems = (uint32_t)mesh->n_subsystems;
    reply.links = (uint32_t)mesh->n_links;
    reply.connected = totals.connected;
    reply.in_sync = totals.in_sync;
    reply.started_at = service->started_at_s;
    reply.root_not_after = ca_root_not_after(service->ca);
    reply.issuer_not_after = ca_issuer_not_after(service->ca);
    reply.trust_roots = operator_roots(service, &reply.n_trust_roots);
    reply.root_sha256 = sha256;
    grpc_call_reply(call, &reply.base);
    mem_free(reply.trust_roots);
}

OPERATOR_CALL(get_mesh)
{
    struct operator_service *service = arg;
    Mortise__V1__GetMeshResponse reply = MORTISE__V1__GET_MESH_RESPONSE__INIT;

    (void)msg;
    reply.version = registry_mesh_version(service->registry);
    reply.mesh = (Mortise__V1__Mesh *)(uintptr_t)registry_mesh(service->registry); /* only read */
    grpc_call_reply(call, &reply.base);
}

void operator_workload(const struct workload *workload, Mortise__V1__Workload *out)
{
    *out = (Mortise__V1__Workload)MORTISE__V1__WORKLOAD__INIT;
    out->subsystem = workload->subsystem;
    out->spiffe_id = workload->spiffe_id;
    out->instance = workload->instance;
    out->address = workload->address;
    out->build = workload->build;
    out->connected_since = workload->connected_since_s;
    out->acked_version = workload->xds.acked_version;
    out->refused = workload->refused;
    out->refused_version = workload->xds.refused_version;
    out->status = workload->status;
}

OPERATOR_CALL(list_workloads)
{
    struct operator_service *service = arg;
    struct registry *registry = operator_fresh(service);
    Mortise__V1__ListWorkloadsResponse reply = MORTISE__V1__LIST_WORKLOADS_RESPONSE__INIT;
    size_t max = registry_totals(registry).connected;
    Mortise__V1__Workload *items = mem_array(max, sizeof(*items));
    struct list *pos, *tmp;

    (void)msg;
    reply.workloads = mem_array(max, sizeof(*reply.workloads));
    LIST_EACH (pos, tmp, registry_workloads(registry)) {
        operator_workload(LIST_ITEM(pos, struct workload, link), &items[reply.n_workloads]);
        reply.workloads[reply.n_workloads] = &items[reply.n_workloads];
        reply.n_workloads++;
    }
    grpc_call_reply(call, &reply.base);
    mem_free(reply.workloads);
    mem_free(items);
}

/* -------------------------------------------------------------- certificates */

struct operator_certificates {
    const Mortise__V1__ListCertificatesRequest *request;
    int64_t now_s;
    Mortise__V1__Certificate **items; /* owned, as all in them */
    size_t num;
};

static err_t operator_see_certificate(void *arg, const char *path, uint64_t version,
                                      const ProtobufCMessage *msg)
{
    const Mortise__Control__Issuance *record =
        MSG_AS_CONST(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    struct operator_certificates *list = arg;
    Mortise__V1__Certificate *item;

    (void)path;
    (void)version;
    if (list->request->subsystem[0] != '\0' &&
        strcmp(list->request->subsystem, record->subsystem) != 0)
        return OK;
    if (!list->request->include_expired && record->not_after <= list->now_s)
        return OK;
    if (list->request->expiring_s != 0 &&
        record->not_after - list->now_s > list->request->expiring_s)
        return OK;
    item = mem_alloc(sizeof(*item));
    *item = (Mortise__V1__Certificate)MORTISE__V1__CERTIFICATE__INIT;
    item->serial = mem_strdup(record->serial);
    item->spiffe_id = mem_strdup(record->spiffe_id);
    item->not_before = record->not_before;
    item->not_after = record->not_after;
    item->issued_at = record->issued_at;
    item->reason = mem_strdup(record->reason);
    item->sha256 = mem_zalloc(2 * record->sha256.len + 1);
    bytes_to_hex(msg_view(record->sha256), item->sha256);
    list->items = mem_realloc(list->items, (list->num + 1) * sizeof(*list->items));
    list->items[list->num++] = item;
    return OK;
}

static int operator_compare_certificates(const void *a, const void *b)
{
    const Mortise__V1__Certificate *one = *(Mortise__V1__Certificate *const *)a;
    const Mortise__V1__Certificate *two = *(Mortise__V1__Certificate *const *)b;

    if (one->issued_at != two->issued_at)
        return one->issued_at > two->issued_at ? -1 : 1;
    return strcmp(one->serial, two->serial);
}

OPERATOR_CALL(list_certificates)
{
    struct operator_service *service = arg;
    struct operator_certificates list = {
        .request = MSG_AS_CONST(Mortise__V1__ListCertificatesRequest,
                                mortise__v1__list_certificates_request__descriptor, msg),
        .now_s = clock_wall_s(service->clock),
    };
    Mortise__V1__ListCertificatesResponse reply = MORTISE__V1__LIST_CERTIFICATES_RESPONSE__INIT;
    err_t err = vault_each(service->vault, VAULT_CERTS, operator_see_certificate, &list);

    if (list.num > 0)
        qsort(list.items, list.num, sizeof(*list.items), operator_compare_certificates);
    reply.certificates = list.items;
    reply.n_certificates =
        list.num < OPERATOR_CERTIFICATES_MAX ? list.num : OPERATOR_CERTIFICATES_MAX;
    if (err_is_ok(err))
        grpc_call_reply(call, &reply.base);
    else
        reply_error(call, err);
    for (size_t i = 0; i < list.num; i++)
        pb_free(&list.items[i]->base);
    mem_free(list.items);
}

/* -------------------------------------------------------------------- apply */

static void operator_reply_apply(struct grpc_call *call, uint64_t version,
                                 const struct mesh_merge *merge)
{
    Mortise__V1__ApplyResponse reply = MORTISE__V1__APPLY_RESPONSE__INIT;

    reply.version = version;
    reply.changes = merge->changes;
    reply.n_changes = merge->num_changes;
    grpc_call_reply(call, &reply.base);
}

/* Merges and checks; false when the call was refused. */
static bool operator_plan(struct operator_service *service, struct grpc_call *call,
                          const Mortise__V1__ApplyRequest *request, struct mesh_merge *out)
{
    struct faults faults = {0};
    err_t err;

    err = mesh_merge(registry_mesh(service->registry), request->mesh, request->prune, &faults, out);
    /* Also when names are wrong: all faults at once. */
    if (!err_is_ok(mesh_check(out->mesh, &out->origin, &faults)) || !err_is_ok(err))
        reply_faults(call, &faults);
    err = faults_err(&faults);
    faults_fini(&faults);
    return err_is_ok(err);
}

static void operator_change(struct operator_service *service, struct grpc_call *call,
                            const struct mesh_merge *merge)
{
    uint64_t version = registry_mesh_version(service->registry);
    err_t err = OK;

    if (merge->num_changes > 0)
        err = registry_apply(service->registry, merge->mesh, &version);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    for (size_t i = 0; i < merge->num_changes; i++)
        operator_log(call, "applied", merge->changes[i], version);
    operator_reply_apply(call, version, merge);
}

OPERATOR_CALL(apply)
{
    struct operator_service *service = arg;
    const Mortise__V1__ApplyRequest *request =
        MSG_AS_CONST(Mortise__V1__ApplyRequest, mortise__v1__apply_request__descriptor, msg);
    uint64_t version = registry_mesh_version(service->registry);
    struct mesh_merge merge = {0};

    if (request->mesh == NULL) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "mesh: is missing");
        return;
    }
    if (request->if_version != 0 && request->if_version != version) {
        reply_text(call, GRPC_ABORTED,
                   "store_conflict: the mesh is at version %llu, not %llu: get it again and put "
                   "your change in there",
                   (unsigned long long)version, (unsigned long long)request->if_version);
        return;
    }
    if (operator_plan(service, call, request, &merge)) {
        if (request->dry_run)
            operator_reply_apply(call, version, &merge);
        else
            operator_change(service, call, &merge);
    }
    mesh_merge_fini(&merge);
}

/* ---------------------------------------------------------- tokens and admins */

OPERATOR_CALL(create_token)
{
    struct operator_service *service = arg;
    const Mortise__V1__CreateTokenRequest *request = MSG_AS_CONST(
        Mortise__V1__CreateTokenRequest, mortise__v1__create_token_request__descriptor, msg);
    Mortise__V1__CreateTokenResponse reply = MORTISE__V1__CREATE_TOKEN_RESPONSE__INIT;
    uint32_t ttl_s = request->ttl_s != 0 ? request->ttl_s : ATTEST_TTL_DEFAULT_S;
    int64_t now_s = clock_wall_s(service->clock);
    char *token;
    err_t err;

    if (registry_spiffe_id(service->registry, request->subsystem) == NULL) {
        CLEANUP(mem_freep) char *names = operator_names(service);

        reply_text(call, GRPC_NOT_FOUND, "no subsystem \"%.64s\"; there are: %s",
                   request->subsystem, names);
        return;
    }
    if (ttl_s < ATTEST_TTL_MIN_S || ttl_s > ATTEST_TTL_MAX_S) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "ttl: %u s is not between %d s and %d s (one day)",
                   ttl_s, ATTEST_TTL_MIN_S, ATTEST_TTL_MAX_S);
        return;
    }
    err = attest_token_new(service->vault, request->subsystem, now_s, ttl_s, &token);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    operator_log(call, "token_created", request->subsystem, 0);
    reply.token = token;
    reply.expires_at = now_s + ttl_s;
    grpc_call_reply(call, &reply.base);
    mem_wipe(token, strlen(token));
    mem_free(token);
}

static err_t operator_issue_admin(struct operator_service *service,
                                  const Mortise__V1__IssueAdminRequest *request,
                                  const char *spiffe_id, struct ca_cert *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct ca_request what = {
        .spiffe_id = spiffe_id,
        .subsystem = "",
        .ttl_s = request->ttl_s != 0 ? request->ttl_s : CA_LEAF_TTL_S,
        .reason = "admin",
    };
    uint8_t key_sha256[32];
    err_t err;

    TRY(csr_parse(msg_view(request->csr), &what.public_key));
    err = key_spki_sha256(what.public_key, key_sha256);
    if (err_is_ok(err))
        err = registry_may_issue(service->registry, spiffe_id, key_sha256);
    if (err_is_ok(err))
        err = ca_issue(service->ca, &what, &batch, out);
    EVP_PKEY_free(what.public_key);
    return err;
}

OPERATOR_CALL(issue_admin)
{
    struct operator_service *service = arg;
    const Mortise__V1__IssueAdminRequest *request = MSG_AS_CONST(
        Mortise__V1__IssueAdminRequest, mortise__v1__issue_admin_request__descriptor, msg);
    Mortise__V1__IssueAdminResponse reply = MORTISE__V1__ISSUE_ADMIN_RESPONSE__INIT;
    CLEANUP(mem_freep) char *id = NULL;
    ProtobufCBinaryData chain[CA_CHAIN_MAX];
    struct ca_cert cert;
    err_t err;

    if (!spiffe_segment_valid(bytes_of_str(request->name)) ||
        strlen(request->name) > OPERATOR_ADMIN_NAME_MAX) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "name: letters, digits, '.', '-' and '_', 1 to %d characters",
                   OPERATOR_ADMIN_NAME_MAX);
        return;
    }
    if (request->ttl_s != 0 &&
        (request->ttl_s < OPERATOR_ADMIN_TTL_MIN_S || request->ttl_s > ISSUE_TTL_MAX_S)) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "ttl: %u s is not between %d s and %d s",
                   request->ttl_s, OPERATOR_ADMIN_TTL_MIN_S, ISSUE_TTL_MAX_S);
        return;
    }
    id = spiffe_id_of_admin(registry_trust_domain(service->registry), request->name);
    err = operator_issue_admin(service, request, id, &cert);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    operator_log(call, "admin_issued", id, 0);
    for (size_t i = 0; i < cert.num_chain; i++)
        chain[i] = msg_bytes(cert.chain[i]);
    reply.chain = chain;
    reply.n_chain = cert.num_chain;
    reply.trust_roots = operator_roots(service, &reply.n_trust_roots);
    reply.spiffe_id = id;
    grpc_call_reply(call, &reply.base);
    mem_free(reply.trust_roots);
    ca_cert_fini(&cert);
}

/* -------------------------------------------------------------------- whole */

#define OPERATOR_METHOD(name, request, response, handler, max)                                \
    .path = "/mortise.v1.OperatorService/" name, .in = &mortise__v1__##request##__descriptor, \
    .out = &mortise__v1__##response##__descriptor, .max_message = (max),                      \
    .permission = PERMISSION_OPERATOR, .on_message = (handler)

static const struct grpc_method operator_methods[] = {
    {OPERATOR_METHOD("Status", status_request, status_response, operator_on_status,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("GetMesh", get_mesh_request, get_mesh_response, operator_on_get_mesh,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Apply", apply_request, apply_response, operator_on_apply,
                     OPERATOR_APPLY_MAX)},
    {OPERATOR_METHOD("ListWorkloads", list_workloads_request, list_workloads_response,
                     operator_on_list_workloads, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ListCertificates", list_certificates_request, list_certificates_response,
                     operator_on_list_certificates, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("CreateToken", create_token_request, create_token_response,
                     operator_on_create_token, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Rotate", rotate_request, rotate_progress, operator_on_rotate,
                     OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_watch_done},
    {OPERATOR_METHOD("WatchRollout", watch_rollout_request, rollout_progress, operator_on_rollout,
                     OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_watch_done},
    {OPERATOR_METHOD("Backup", backup_request, backup_chunk, operator_on_backup,
                     OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_backup_done},
    {OPERATOR_METHOD("RotateRoot", rotate_root_request, root_rotation, operator_on_rotate_root,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("GetRootRotation", get_root_rotation_request, root_rotation,
                     operator_on_get_root_rotation, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Revoke", revoke_request, revoke_response, operator_on_revoke,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Lift", lift_request, revoke_response, operator_on_lift,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ListRevocations", list_revocations_request, list_revocations_response,
                     operator_on_list_revocations, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("IssueAdmin", issue_admin_request, issue_admin_response,
                     operator_on_issue_admin, OPERATOR_MESSAGE_MAX)},
};

const struct grpc_method *operator_service_methods(size_t *out_num)
{
    *out_num = ARRAY_LEN(operator_methods);
    return operator_methods;
}

void operator_service_init(struct operator_service *service)
{
    list_init(&service->watches);
    service->started_at_s = clock_wall_s(service->clock);
}
