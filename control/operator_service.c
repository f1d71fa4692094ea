#include "control/operator_service.h"

#include <string.h>

#include <openssl/sha.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "control/attest.h"
#include "control/build.h"
#include "control/caller.h"
#include "control/mesh_crls.h"
#include "control/mesh_merge.h"
#include "control/mesh_own.h"
#include "control/mesh_trust.h"
#include "control/msg.h"
#include "control/permissive.h"
#include "control/plaintext_uses.h"
#include "control/reply.h"
#include "control/weaker.h"
#include "lib/base/log.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

#define OPERATOR_APPLY_MAX ((size_t)4 << 20)
#define OPERATOR_MESSAGE_MAX 65536
#define OPERATOR_ADMIN_NAME_MAX ACCESS_ADMIN_NAME_MAX
#define OPERATOR_ADMIN_TTL_MIN_S ISSUE_TTL_MIN_S

#define OPERATOR_CALL(name) \
    static void operator_on_##name(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)

struct registry *operator_fresh(struct operator_service *service)
{
    registry_refresh(service->registry);
    return service->registry;
}

void operator_log(const struct operator_service *service, const struct grpc_call *call,
                  const char *event, const char *what, uint64_t version)
{
    char caller[CALLER_NAME_MAX];

    caller_name(grpc_call_peer(call), caller);
    log_info("operator", event, LOG_STR("caller", caller), LOG_STR("what", what),
             LOG_UINT("version", version));
    events_add(service->events,
               &(struct event){.kind = event, .id = caller, .detail = what, .version = version},
               clock_wall_us() / 1000);
}

void operator_will(const struct operator_service *service, const struct grpc_call *call,
                   const char *path, const struct audit_entry *entry)
{
    audit_call_expect(service->audit, call, path, entry);
}

bool operator_records(struct operator_service *service, struct grpc_call *call,
                      const struct audit_entry *entry)
{
    err_t err = audit_call_put(service->audit, grpc_call_peer(call), entry);

    if (!err_is_ok(err))
        reply_error(call, err);
    return err_is_ok(err);
}

const struct elevation *operator_elevation(const struct operator_service *service,
                                           struct grpc_call *call, const char *what)
{
    char subject[CALLER_SUBJECT_MAX];
    const struct elevation *own;

    caller_subject(service->rules, grpc_call_peer(call), subject);
    own = elevations_of(service->elevations, subject);
    if (own != NULL && !own->pending)
        return own;
    if (own != NULL)
        reply_text(call, GRPC_PERMISSION_DENIED,
                   "%s takes an elevation, and yours waits for another administrator: mortisectl "
                   "elevate approve %llu",
                   what, (unsigned long long)own->id);
    else
        reply_text(call, GRPC_PERMISSION_DENIED,
                   "%s takes an elevation, for a time and for a reason: mortisectl elevate --for "
                   "10m --reason \"…\", then the same again",
                   what);
    return NULL;
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
    struct list *pos, *tmp;

    (void)msg;
    ca_root_sha256(service->ca, false, sha256);
    reply.trust_domain = msg_lend(registry_trust_domain(registry));
    reply.build = msg_lend(BUILD_VERSION);
    reply.version = registry_mesh_version(registry);
    reply.subsystems = (uint32_t)mesh->n_subsystems;
    reply.links = (uint32_t)mesh->n_links;
    reply.connected = totals.connected;
    reply.in_sync = totals.in_sync;
    reply.rolled_back = totals.rolled_back;
    reply.started_at = service->started_at_s;
    reply.root_not_after = ca_root_not_after(service->ca);
    reply.issuer_not_after = ca_issuer_not_after(service->ca);
    reply.trust_roots = operator_roots(service, &reply.n_trust_roots);
    reply.root_sha256 = sha256;
    LIST_EACH (pos, tmp, registry_workloads(registry))
        reply.skewed +=
            skew_beyond(&LIST_ITEM(pos, struct workload, link)->skew, DISCOVERY_CLOCK_LIMIT_MS);
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

/* -------------------------------------------------------------------- apply */

/* A line each, owned. */
static char **operator_lines(const struct faults *faults, size_t *out_num)
{
    char **lines = mem_array(faults->num + 1, sizeof(*lines));

    *out_num = faults->num;
    for (size_t i = 0; i < faults->num; i++)
        lines[i] = mem_printf("%s: %s", faults->items[i].path, faults->items[i].message);
    if (faults->total > faults->num)
        lines[(*out_num)++] = mem_printf("and %zu more", faults->total - faults->num);
    return lines;
}

static void operator_lines_free(char **lines, size_t num)
{
    for (size_t i = 0; i < num; i++)
        mem_free(lines[i]);
    mem_free(lines);
}

static void operator_reply_apply(struct grpc_call *call, uint64_t version,
                                 const struct mesh_merge *merge)
{
    Mortise__V1__ApplyResponse reply = MORTISE__V1__APPLY_RESPONSE__INIT;
    struct faults warnings = {.num = 0};

    mesh_warn(merge->mesh, &merge->origin, &warnings);
    reply.version = version;
    reply.changes = merge->changes;
    reply.n_changes = merge->num_changes;
    reply.weaker = operator_lines(&merge->weaker, &reply.n_weaker);
    reply.warnings = operator_lines(&warnings, &reply.n_warnings);
    grpc_call_reply(call, &reply.base);
    operator_lines_free(reply.weaker, reply.n_weaker);
    operator_lines_free(reply.warnings, reply.n_warnings);
    faults_fini(&warnings);
}

/* False when the change would weaken links and nobody said that it may: the call was refused. */
static bool operator_may_weaken(struct operator_service *service, struct grpc_call *call,
                                const Mortise__V1__ApplyRequest *request, struct mesh_merge *merge)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *lines = NULL;

    weaker_find(registry_mesh(service->registry), merge->mesh, &merge->weaker);
    weaker_policies(registry_mesh(service->registry), merge->mesh, &merge->weaker);
    permissive_weaker(registry_mesh(service->registry), merge->mesh, clock_wall_s(service->clock),
                      &merge->weaker);
    if (merge->weaker.total == 0 || request->allow_weaker)
        return true;
    faults_text(&merge->weaker, &text);
    lines = buf_take_str(&text);
    reply_text(call, GRPC_FAILED_PRECONDITION,
               "nothing was changed: %zu would be weaker than before; if that is meant, say so "
               "(allow_weaker; mortisectl: --allow-weaker)\n%s",
               merge->weaker.total, lines);
    return false;
}

/* False when somebody still uses the plaintext that the change would end, and nobody said that it
 * may: the call was refused. Where it is meant, it is told of as what is weaker. */
static bool operator_may_be_strict(struct operator_service *service, struct grpc_call *call,
                                   const Mortise__V1__ApplyRequest *request,
                                   struct mesh_merge *merge)
{
    struct faults early = {0};
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *lines = NULL;
    bool may;

    plaintext_uses_early(service->plaintext_uses, merge->mesh, &early);
    may = early.total == 0 || request->force_strict;
    if (!may) {
        faults_text(&early, &text);
        lines = buf_take_str(&text);
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "nothing was changed: of %zu links that would take mTLS only, the plaintext is "
                   "still used: move its clients into the mesh first, or say that it is meant "
                   "(force_strict; mortisectl: --force)\n%s",
                   early.total, lines);
    }
    for (size_t i = 0; may && i < early.num; i++)
        faults_add(&merge->weaker, early.items[i].path, "strict by force: %s",
                   early.items[i].message);
    faults_fini(&early);
    return may;
}

/* What a document or a revision names by its fingerprint must be here. */
static void operator_check_keys(struct operator_service *service, const struct mesh_merge *merge,
                                const char *brings, struct faults *faults)
{
    const Mortise__V1__Mesh *mesh = merge->mesh;

    for (size_t i = 0; i < mesh->n_keystores; i++) {
        const Mortise__V1__MeshKeystore *keystore = mesh->keystores[i];
        CLEANUP(mem_freep) char *path = NULL;
        Mortise__Control__KeystoreRecord *record = NULL;
        err_t err;

        if (!mesh_is_uploaded(keystore) ||
            (brings != NULL && strcmp(brings, keystore->key_sha256) == 0))
            continue;
        err = registry_keystore_key(service->registry, keystore->key_sha256, &record);
        if (err_is_ok(err)) {
            registry_keystore_free(record);
            continue;
        }
        path = mem_printf("keystores[%.*s].key_sha256", MESH_NAME_MAX, keystore->name);
        faults_add(faults, path,
                   "the key %.16s… is not in the store (a key goes with the last keystore that has "
                   "it): bring it again, mortisectl import keystore (%s)",
                   keystore->key_sha256, err_name(err.code));
    }
}

/* False when a key would go where it is not, also for a look at what would happen, and the caller
 * may not bring keys: the call was refused. */
static bool operator_may_show(struct operator_service *service, struct grpc_call *call,
                              const struct mesh_merge *merge)
{
    struct role role = {.permissions = 0};
    const char *keystore, *subsystem;
    char reason[CALLER_REASON_MAX];

    if (!mesh_shows_anew(registry_mesh(service->registry), merge->mesh, &keystore, &subsystem))
        return true;
    if (caller_role(service->rules, grpc_call_peer(call), &role, reason) == GRPC_OK &&
        role_has(&role, PERMISSION(KEYSTORE_WRITE)))
        return true;
    reply_text(call, GRPC_PERMISSION_DENIED,
               "the key of keystore \"%s\" would go to the sidecars of \"%s\", which do not have "
               "it: this needs the permission keystore.write, which your role %s does not have",
               keystore, subsystem, role.name);
    return false;
}

bool operator_plan_apply(struct operator_service *service, struct grpc_call *call,
                         const Mortise__V1__ApplyRequest *request, struct mesh_merge *out)
{
    return operator_plan(service, call, request, NULL, out);
}

bool operator_plan(struct operator_service *service, struct grpc_call *call,
                   const Mortise__V1__ApplyRequest *request, const char *key_sha256,
                   struct mesh_merge *out)
{
    uint64_t version = registry_mesh_version(service->registry);
    Mortise__V1__ApplyRequest wanted = *request;
    ProtobufCMessage *kept = NULL;
    const Mortise__V1__Mesh *now = registry_mesh(service->registry);
    int64_t now_s = clock_wall_s(service->clock);
    struct faults faults = {0};
    err_t err, errs[5];

    if (request->if_version != 0 && request->if_version != version) {
        operator_refuse_race(service, call, request->if_version);
        return false;
    }
    if (request->revision != 0 && !operator_take_revision(service, call, &wanted, &kept))
        return false;
    if (wanted.mesh == NULL) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "mesh: is missing");
        return false;
    }
    err = mesh_merge(now, wanted.mesh, wanted.prune, &faults, out);
    if (kept != NULL)
        pb_free(kept);
    operator_check_keys(service, out, key_sha256, &faults);
    /* Also when names are wrong: all faults at once. */
    errs[0] = mesh_check(out->mesh, &out->origin, &faults);
    errs[1] = mesh_crls_check(out->mesh, now, &out->origin, service->ca, now_s, &faults);
    errs[2] = mesh_trust_check(out->mesh, now, &out->origin, now_s, &faults);
    errs[4] = mesh_own_check(out->mesh, now, &out->origin, service->ca, &faults);
    errs[3] = permissive_check(now, out->mesh, &out->origin, now_s, &faults);
    for (size_t i = 0; i < ARRAY_LEN(errs) && err_is_ok(err); i++)
        err = errs[i];
    if (!err_is_ok(err) || faults.total > 0)
        reply_faults(call, &faults);
    err = faults_err(&faults);
    faults_fini(&faults);
    return err_is_ok(err) && operator_may_show(service, call, out) &&
           operator_may_weaken(service, call, request, out) &&
           operator_may_be_strict(service, call, request, out);
}

static void operator_log_weaker(struct operator_service *service, const struct grpc_call *call,
                                const struct mesh_merge *merge, uint64_t version)
{
    size_t num;
    char **lines = operator_lines(&merge->weaker, &num);

    for (size_t i = 0; i < num; i++)
        operator_log(service, call, "weakened", lines[i], version);
    operator_lines_free(lines, num);
}

static void operator_hash_mesh(const Mortise__V1__Mesh *mesh, uint8_t out[AUDIT_HASH])
{
    CLEANUP(buf_fini) struct buf packed = {.max = STORE_VALUE_MAX};
    err_t err = pb_pack(&mesh->base, &packed);

    memset(out, 0, AUDIT_HASH);
    if (err_is_ok(err)) /* one that is too large is not stored either */
        SHA256(buf_view(&packed).ptr, buf_view(&packed).len, out);
}

static void operator_will_change(struct operator_service *service, struct grpc_call *call,
                                 const struct mesh_merge *merge, enum audit_action action,
                                 const char *message)
{
    uint8_t before[AUDIT_HASH], after[AUDIT_HASH];
    CLEANUP(buf_fini) struct buf text = {.max = 4 * AUDIT_TEXT_MAX};
    CLEANUP(mem_freep) char *changes = NULL;
    size_t num_weaker;
    char **weaker = operator_lines(&merge->weaker, &num_weaker);
    err_t err = OK;

    for (size_t i = 0; i < merge->num_changes && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? "; " : "", merge->changes[i]);
    changes = buf_take_str(&text);
    operator_hash_mesh(registry_mesh(service->registry), before);
    operator_hash_mesh(merge->mesh, after);
    operator_will(service, call, VAULT_MESH,
                  &(struct audit_entry){
                      .action = action,
                      .object = changes,
                      .message = message,
                      .before = before,
                      .after = after,
                      .weaker = weaker,
                      .num_weaker = num_weaker,
                      .version = registry_version(service->registry) + 1,
                  });
    operator_lines_free(weaker, num_weaker);
}

static void operator_change(struct operator_service *service, struct grpc_call *call,
                            const struct mesh_merge *merge, bool rollback, const char *message,
                            const struct registry_key *key)
{
    uint64_t version = registry_mesh_version(service->registry);
    char author[CALLER_NAME_MAX];
    struct revisions_new about = {
        .author = author,
        .message = message,
        .changes = merge->changes,
        .num_changes = merge->num_changes,
    };
    err_t err = OK;

    caller_name(grpc_call_peer(call), author);
    if (merge->num_changes > 0)
        operator_will_change(service, call, merge,
                             key != NULL ? AUDIT_KEYSTORE_IMPORT
                             : rollback  ? AUDIT_MESH_ROLLBACK
                                         : AUDIT_MESH_APPLY,
                             message);
    if (merge->num_changes > 0)
        err = registry_apply_with_key(service->registry, merge->mesh, &about, key, &version);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    for (size_t i = 0; i < merge->num_changes; i++)
        operator_log(service, call, "applied", merge->changes[i], version);
    operator_log_weaker(service, call, merge, version);
    operator_reply_apply(call, version, merge);
}

/* False when a link would begin to take plaintext, or take it for longer, and the caller is not
 * elevated: the call was refused. */
static bool operator_may_be_permissive(struct operator_service *service, struct grpc_call *call,
                                       const struct mesh_merge *merge)
{
    CLEANUP(faults_fini) struct faults begun = {.num = 0};

    permissive_weaker(registry_mesh(service->registry), merge->mesh, clock_wall_s(service->clock),
                      &begun);
    return begun.total == 0 ||
           operator_elevation(service, call, "letting a link take plaintext") != NULL;
}

void operator_commit(struct operator_service *service, struct grpc_call *call,
                     const struct mesh_merge *merge, const Mortise__V1__ApplyRequest *request,
                     const char *message, const struct registry_key *key)
{
    if (request->dry_run)
        operator_reply_apply(call, registry_mesh_version(service->registry), merge);
    else if (operator_may_be_permissive(service, call, merge))
        operator_change(service, call, merge, request->revision != 0, message, key);
}

OPERATOR_CALL(apply)
{
    struct operator_service *service = arg;
    const Mortise__V1__ApplyRequest *request =
        MSG_AS_CONST(Mortise__V1__ApplyRequest, mortise__v1__apply_request__descriptor, msg);
    CLEANUP(mem_freep) char *message = NULL;
    struct mesh_merge merge = {0};

    if (request->dry_run)
        audit_only_asks(service->audit, call);
    message = operator_revision_message(call, request);
    if (message == NULL)
        return;
    if (operator_plan_apply(service, call, request, &merge))
        operator_commit(service, call, &merge, request, message, NULL);
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
    operator_will(
        service, call, VAULT_TOKENS,
        &(struct audit_entry){.action = AUDIT_TOKEN_CREATE, .object = request->subsystem});
    err = attest_token_new(service->vault, request->subsystem, now_s, ttl_s, &token);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    operator_log(service, call, "token_created", request->subsystem, 0);
    reply.token = token;
    reply.expires_at = now_s + ttl_s;
    grpc_call_reply(call, &reply.base);
    mem_wipe(token, strlen(token));
    mem_free(token);
}

/* The certificate and the role of its name, in one transaction. */
static err_t operator_issue_admin(struct operator_service *service,
                                  const Mortise__V1__IssueAdminRequest *request,
                                  const char *spiffe_id, const char *role,
                                  const struct access_author *author, struct ca_cert *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct ca_request what = {
        .spiffe_id = spiffe_id,
        .subsystem = "",
        .ttl_s = request->ttl_s != 0 ? request->ttl_s : CA_LEAF_TTL_S,
        .reason = "admin",
        .epoch = admins_epoch(service->admins),
    };
    uint8_t key_sha256[32];
    err_t err;

    TRY(csr_parse(msg_view(request->csr), &what.public_key));
    err = key_spki_sha256(what.public_key, key_sha256);
    if (err_is_ok(err))
        err = registry_may_issue(service->registry, spiffe_id, key_sha256);
    if (err_is_ok(err))
        err = access_bind(service->access, request->name, role, author, &batch);
    if (err_is_ok(err))
        err = ca_issue(service->ca, &what, &batch, out);
    EVP_PKEY_free(what.public_key);
    return err;
}

/* The role that the name will have, and neither it nor the one that it has is more than the
 * caller's. False: the call was refused. */
static bool operator_takes_role(struct operator_service *service, struct grpc_call *call,
                                const Mortise__V1__IssueAdminRequest *request, struct role *out)
{
    const char *wanted = request->role[0] != '\0' ? request->role : ROLE_ADMIN;
    char reason[CALLER_REASON_MAX];
    struct role before = {.permissions = 0};
    bool bound = access_role_of(service->access, request->name, &before);

    if (bound && request->role[0] == '\0') {
        *out = before;
    } else if (!access_find_role(service->access, wanted, out)) {
        reply_text(call, GRPC_NOT_FOUND,
                   "role: there is no \"%.64s\"; mortisectl role list shows those that there are",
                   wanted);
        return false;
    }
    if (caller_may_grant(service->rules, grpc_call_peer(call), &before, reason) &&
        caller_may_grant(service->rules, grpc_call_peer(call), out, reason))
        return true;
    reply_text(call, GRPC_PERMISSION_DENIED, "%s", reason);
    return false;
}

OPERATOR_CALL(issue_admin)
{
    struct operator_service *service = arg;
    const Mortise__V1__IssueAdminRequest *request = MSG_AS_CONST(
        Mortise__V1__IssueAdminRequest, mortise__v1__issue_admin_request__descriptor, msg);
    Mortise__V1__IssueAdminResponse reply = MORTISE__V1__ISSUE_ADMIN_RESPONSE__INIT;
    CLEANUP(mem_freep) char *id = NULL;
    ProtobufCBinaryData chain[CA_CHAIN_MAX];
    char author[CALLER_NAME_MAX];
    struct ca_cert cert;
    struct role role;
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
    if (!operator_takes_role(service, call, request, &role))
        return;
    id = spiffe_id_of_admin(registry_trust_domain(service->registry), request->name);
    operator_will(
        service, call, VAULT_CERTS,
        &(struct audit_entry){.action = AUDIT_ADMIN_ISSUE, .object = id, .message = role.name});
    caller_name(grpc_call_peer(call), author);
    err =
        operator_issue_admin(service, request, id, role.name,
                             &(struct access_author){author, clock_wall_s(service->clock)}, &cert);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    err = access_reload(service->access);
    if (!err_is_ok(err))
        log_error("operator", "access_not_read", LOG_ERR("error", err));
    operator_log(service, call, "admin_issued", id, 0);
    for (size_t i = 0; i < cert.num_chain; i++)
        chain[i] = msg_bytes(cert.chain[i]);
    reply.chain = chain;
    reply.n_chain = cert.num_chain;
    reply.trust_roots = operator_roots(service, &reply.n_trust_roots);
    reply.spiffe_id = id;
    reply.role = role.name;
    grpc_call_reply(call, &reply.base);
    mem_free(reply.trust_roots);
    ca_cert_fini(&cert);
}

/* -------------------------------------------------------------------- whole */

#define OPERATOR_METHOD(name, request, response, handler, max)                                \
    .path = "/mortise.v1.OperatorService/" name, .in = &mortise__v1__##request##__descriptor, \
    .out = &mortise__v1__##response##__descriptor, .max_message = (max), .on_message = (handler)

static const struct grpc_method operator_methods[] = {
    {OPERATOR_METHOD("Status", status_request, status_response, operator_on_status,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("GetMesh", get_mesh_request, get_mesh_response, operator_on_get_mesh,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Apply", apply_request, apply_response, operator_on_apply,
                     OPERATOR_APPLY_MAX)},
    {OPERATOR_METHOD("ImportKeystore", import_keystore_request, apply_response,
                     operator_on_import_keystore, OPERATOR_APPLY_MAX)},
    {OPERATOR_METHOD("ListRevisions", list_revisions_request, list_revisions_response,
                     operator_on_list_revisions, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("GetRevision", get_revision_request, get_revision_response,
                     operator_on_get_revision, OPERATOR_MESSAGE_MAX)},
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
    {OPERATOR_METHOD("RotateControl", rotate_control_request, rotate_control_response,
                     operator_on_rotate_control, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("RotateAdmin", rotate_admin_request, rotate_admin_response,
                     operator_on_rotate_admin, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("CreateCsr", create_csr_request, create_csr_response, operator_on_create_csr,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ImportIssuer", import_issuer_request, root_rotation,
                     operator_on_import_issuer, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("RotateKey", rotate_key_request, key_state, operator_on_rotate_key,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Revoke", revoke_request, revoke_response, operator_on_revoke,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Lift", lift_request, revoke_response, operator_on_lift,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ListRevocations", list_revocations_request, list_revocations_response,
                     operator_on_list_revocations, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ListConnections", list_connections_request, sidecar_connections,
                     operator_on_list_connections, OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_survey_done},
    {OPERATOR_METHOD("Preview", preview_request, sidecar_connections, operator_on_preview,
                     OPERATOR_APPLY_MAX),
     .on_done = operator_on_survey_done},
    {OPERATOR_METHOD("ListCrls", list_crls_request, list_crls_response, operator_on_list_crls,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Check", check_request, check_report, operator_on_check,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Why", why_request, why_report, operator_on_why, OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_why_done},
    {OPERATOR_METHOD("ListAuditRecords", list_audit_records_request, list_audit_records_response,
                     operator_on_list_audit, OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("GetAudit", get_audit_request, audit_state, operator_on_get_audit,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ExportAudit", export_audit_request, audit_state, operator_on_export_audit,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("PurgeAudit", purge_audit_request, audit_state, operator_on_purge_audit,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("Watch", watch_request, event, operator_on_watch, OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_watcher_done},
    {OPERATOR_METHOD("Logs", logs_request, access_log_entry, operator_on_logs,
                     OPERATOR_MESSAGE_MAX),
     .on_done = operator_on_logs_done},
    {OPERATOR_METHOD("GetRollback", get_rollback_request, rollback, operator_on_get_rollback,
                     OPERATOR_MESSAGE_MAX)},
    {OPERATOR_METHOD("ConfirmRollback", confirm_rollback_request, rollback,
                     operator_on_confirm_rollback, OPERATOR_MESSAGE_MAX)},
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
    list_init(&service->surveys);
    list_init(&service->watchers);
    list_init(&service->whys);
    list_init(&service->logs);
    service->started_at_s = clock_wall_s(service->clock);
    service->process = random_u32();
}
