#include "control/identity_service.h"

#include <string.h>

#include <openssl/sha.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/proof.h"
#include "control/attest.h"
#include "control/bucket.h"
#include "control/caller.h"
#include "control/kube_token.h"
#include "control/msg.h"
#include "control/reply.h"
#include "control/slots.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/identity.pb-c.h"

#define IDENTITY_MESSAGE_MAX (CSR_MAX + PROOF_CERT_MAX + 4096)

/* A node with many sidecars behind one address joins them in a minute; a stranger tries tokens in
 * vain. */
#define IDENTITY_SOURCE_BURST 100
#define IDENTITY_SOURCE_PER_MINUTE 600
#define IDENTITY_ALL_BURST 1000 /* a thousand sidecars that start together */
#define IDENTITY_ALL_PER_MINUTE 6000
#define IDENTITY_ID_BURST 256 /* several sidecars share an identity, and rotations come in rows */
#define IDENTITY_ID_PER_MINUTE 3000
#define IDENTITY_KEYS_MAX 16384

#define IDENTITY_TOGETHER 256 /* certificates of one transaction */

struct identity_service {
    struct identity_service_params params;
    struct buckets sources;
    struct buckets all; /* one key */
    struct buckets identities;
    struct slots slots;  /* of renewals */
    struct list pending; /* signed, not yet durable */
    size_t num_pending;
    struct timer commit;
};

/* A certificate between its signature and its commit. */
struct identity_pending {
    struct list link;
    struct grpc_call *call; /* NULL: the caller has gone */
    const char *method;
    const char *reason;
    uint8_t key_sha256[32];
    char *who; /* for the audit log, as the next one */
    char *source;
    struct vault_batch batch;
    struct issued leaf;
    ProtobufCMessage *reply;
};

/* What both calls end with. */
struct identity_request {
    struct grpc_call *call;
    const char *method;
    const char *subsystem;
    const char *reason;
    const char *renews; /* serial of the certificate that it is asked for with; NULL: none */
    char *who;          /* owned; NULL: whoever the connection is */
    EVP_PKEY *key;      /* of the CSR */
    uint8_t key_sha256[32];
    struct vault_batch batch;
};

static void identity_note(const struct identity_service *service, const struct event *event)
{
    events_add(service->params.events, event, clock_wall_us() / 1000);
}

/* A certificate is durable and leaves. */
static void identity_note_issued(const struct identity_service *service, const char *spiffe_id,
                                 const char *reason, const struct issued *leaf)
{
    const char *subsystem = registry_subsystem_of(service->params.registry, spiffe_id);

    if (strcmp(reason, "attest") == 0)
        identity_note(service, &(struct event){
                                   .kind = "token_used", .subsystem = subsystem, .id = spiffe_id});
    identity_note(service, &(struct event){.kind = "certificate_issued",
                                           .subsystem = subsystem,
                                           .id = spiffe_id,
                                           .detail = reason,
                                           .serial = leaf->serial});
}

static void identity_refuse(struct identity_service *service, struct grpc_call *call,
                            const char *method, err_t err)
{
    char peer[CALLER_NAME_MAX];

    caller_name(grpc_call_peer(call), peer);
    log_limited(LOG_WARN, "identity", "refused",
                (const struct log_field[]){LOG_STR("method", method), LOG_STR("peer", peer),
                                           LOG_ERR("reason", err)},
                3);
    meters_refused(service->params.meters, err.code);
    /* A stranger's flood is counted, and does not push out of the ring what others did. */
    if (!err_is(err, E_RATE_LIMITED))
        identity_note(service, &(struct event){.kind = "certificate_refused",
                                               .id = peer,
                                               .detail = err_name(err.code)});
    reply_code(call, err);
}

static err_t identity_read_csr(struct identity_request *request, ProtobufCBinaryData csr)
{
    TRY(csr_parse(msg_view(csr), &request->key));
    return key_spki_sha256(request->key, request->key_sha256);
}

static void identity_request_fini(struct identity_request *request)
{
    mem_free(request->who);
    EVP_PKEY_free(request->key);
    vault_batch_fini(&request->batch);
}

/* The answer, owned: what it is made of may change before it is sent. */
static ProtobufCMessage *identity_reply(struct identity_service *service,
                                        const struct ca_cert *cert, const struct ca_request *what)
{
    Mortise__V1__CertificateResponse reply = MORTISE__V1__CERTIFICATE_RESPONSE__INIT;
    ProtobufCBinaryData chain[CA_CHAIN_MAX];
    ProtobufCBinaryData *roots;
    ProtobufCMessage *owned;
    size_t num_roots;
    const struct bytes *root_ders = ca_roots(service->params.ca, &num_roots);

    roots = mem_array(num_roots, sizeof(*roots));
    for (size_t i = 0; i < cert->num_chain; i++)
        chain[i] = msg_bytes(cert->chain[i]);
    for (size_t i = 0; i < num_roots; i++)
        roots[i] = msg_bytes(root_ders[i]);
    reply.chain = chain;
    reply.n_chain = cert->num_chain;
    reply.trust_roots = roots;
    reply.n_trust_roots = num_roots;
    reply.spiffe_id = msg_lend(what->spiffe_id);
    reply.certificate_epoch = what->epoch;
    reply.renew_at = slots_pick(&service->slots, cert->leaf.not_before, cert->leaf.not_after,
                                clock_wall_s(service->params.clock), random_u32());
    owned = pb_clone(&reply.base);
    mem_free(roots);
    return owned;
}

/* ------------------------------------------------------------------ together */

static void identity_pending_free(struct identity_pending *pending)
{
    list_del(&pending->link);
    if (pending->call != NULL)
        grpc_call_set_data(pending->call, NULL);
    vault_batch_fini(&pending->batch);
    issued_fini(&pending->leaf);
    pb_free(pending->reply);
    mem_free(pending->who);
    mem_free(pending->source);
    mem_free(pending);
}

/* What became of the commit: only now may the certificate leave. */
static void identity_finish(struct identity_service *service, struct identity_pending *pending,
                            err_t err)
{
    const Mortise__V1__CertificateResponse *reply =
        MSG_AS_CONST(Mortise__V1__CertificateResponse,
                     mortise__v1__certificate_response__descriptor, pending->reply);
    const struct ca_request what = {
        .spiffe_id = reply->spiffe_id,
        .reason = pending->reason,
        .epoch = reply->certificate_epoch,
    };
    struct grpc_call *call = pending->call;

    if (call != NULL)
        grpc_call_set_data(call, NULL);
    pending->call = NULL;
    if (err_is_ok(err)) {
        ca_issued(service->params.ca, &what, &pending->leaf);
        identity_note_issued(service, what.spiffe_id, what.reason, &pending->leaf);
        if (call != NULL)
            grpc_call_reply(call, pending->reply);
    } else if (call != NULL) {
        identity_refuse(service, call, pending->method, err);
    }
    identity_pending_free(pending);
}

/* Who was revoked between the signature and the commit gets nothing. */
static err_t identity_still_may(const struct identity_service *service,
                                const struct identity_pending *pending)
{
    const Mortise__V1__CertificateResponse *reply =
        MSG_AS_CONST(Mortise__V1__CertificateResponse,
                     mortise__v1__certificate_response__descriptor, pending->reply);

    return registry_may_issue(service->params.registry, reply->spiffe_id, pending->key_sha256);
}

/* The record of its audit log: with what it was asked for, and what was made. */
static void identity_expect(const struct identity_service *service,
                            const struct identity_pending *pending)
{
    const Mortise__V1__CertificateResponse *reply =
        MSG_AS_CONST(Mortise__V1__CertificateResponse,
                     mortise__v1__certificate_response__descriptor, pending->reply);
    bool renews = strcmp(pending->method, "renew") == 0;
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    char path[VAULT_PATH_MAX];

    SHA256(pending->leaf.der, pending->leaf.der_len, sha256);
    vault_path(VAULT_CERTS, pending->leaf.serial, path);
    audit_expect(service->params.audit, path,
                 &(struct audit_entry){
                     .action = renews ? AUDIT_CERTIFICATE_RENEW : AUDIT_CERTIFICATE_ISSUE,
                     .who = pending->who,
                     .source = pending->source,
                     .object = reply->spiffe_id,
                     .message = pending->reason,
                     .serial = pending->leaf.serial,
                     .after = sha256,
                     .call = service,
                 });
}

static void identity_commit(void *arg)
{
    struct identity_service *service = arg;
    const struct vault_batch *batches[IDENTITY_TOGETHER];
    struct list taken, *pos, *tmp;
    size_t num = 0;
    err_t err;

    timer_stop(service->params.loop, &service->commit);
    list_init(&taken);
    LIST_EACH (pos, tmp, &service->pending) {
        struct identity_pending *pending = LIST_ITEM(pos, struct identity_pending, link);

        list_del(&pending->link);
        err = identity_still_may(service, pending);
        if (!err_is_ok(err)) {
            identity_finish(service, pending, err);
            continue;
        }
        list_add_tail(&taken, &pending->link);
        identity_expect(service, pending);
        batches[num++] = &pending->batch;
    }
    service->num_pending = 0;
    err = vault_commit_all(service->params.vault, batches, num);
    audit_forget(service->params.audit, service);
    while (!list_empty(&taken)) {
        struct identity_pending *pending = LIST_ITEM(taken.next, struct identity_pending, link);
        err_t own = err;

        /* One that cannot be must not take the others with it. */
        if (num > 1 && err_is(err, E_STORE_CONFLICT)) {
            identity_expect(service, pending);
            own = vault_commit(service->params.vault, &pending->batch, NULL);
            audit_forget(service->params.audit, service);
        }
        identity_finish(service, pending, own);
    }
}

/* Whether a certificate waits for its commit that changes the record. */
static bool identity_is_changing(struct identity_service *service, const char *path)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->pending) {
        if (vault_batch_has(&LIST_ITEM(pos, struct identity_pending, link)->batch, path))
            return true;
    }
    return false;
}

/* Takes leaf and batch; the answer follows when they are durable. */
static void identity_enqueue(struct identity_service *service, struct identity_request *request,
                             const struct ca_request *what, struct ca_cert *cert)
{
    struct identity_pending *pending = mem_zalloc(sizeof(*pending));
    struct audit_who who = {.stranger = false};

    audit_who(grpc_call_peer(request->call), &who);
    pending->who = mem_strdup(request->who != NULL ? request->who
                              : who.stranger       ? "bearer"
                                                   : who.name);
    pending->source = mem_strdup(who.source);
    pending->call = request->call;
    pending->method = request->method;
    pending->reason = request->reason;
    memcpy(pending->key_sha256, request->key_sha256, sizeof(pending->key_sha256));
    pending->reply = identity_reply(service, cert, what);
    pending->batch = request->batch;
    request->batch = (struct vault_batch){0};
    pending->leaf = cert->leaf;
    cert->leaf = (struct issued){0};
    list_add_tail(&service->pending, &pending->link);
    grpc_call_set_data(request->call, pending);
    if (++service->num_pending == IDENTITY_TOGETHER)
        identity_commit(service);
    else if (!timer_is_on(&service->commit))
        timer_start(service->params.loop, &service->commit, 0, identity_commit, service);
}

static void identity_on_done(struct grpc_call *call, void *arg)
{
    struct identity_pending *pending = grpc_call_data(call);

    (void)arg;
    if (pending != NULL)
        pending->call = NULL;
}

/* ------------------------------------------------------------------- issuing */

/* Signs for the subsystem as it is in the mesh now. */
static err_t identity_issue(struct identity_service *service, struct identity_request *request)
{
    struct registry *registry = service->params.registry;
    const char *spiffe_id = registry_spiffe_id(registry, request->subsystem);
    struct ca_request what = {
        .spiffe_id = spiffe_id,
        .subsystem = request->subsystem,
        .public_key = request->key,
        .ttl_s = mesh_leaf_ttl_s(registry_mesh(registry)),
        .reason = request->reason,
        .epoch = registry_epoch(registry, request->subsystem),
        .renews = request->renews,
    };
    struct ca_cert cert;

    if (spiffe_id == NULL)
        return FAIL(PEER_DENIED, 0); /* the subsystem has left the mesh */
    TRY(registry_may_issue(registry, spiffe_id, request->key_sha256));
    TRY(ca_sign(service->params.ca, &what, &request->batch, &cert));
    /* Should it not become durable: the caller asks again with the same key. */
    if (request->renews != NULL)
        ca_note_renewal(service->params.ca, request->renews, request->key_sha256);
    identity_enqueue(service, request, &what, &cert);
    ca_cert_fini(&cert);
    return OK;
}

/* ------------------------------------------------------------------- Attest */

static err_t identity_admit_source(struct identity_service *service, struct grpc_call *call)
{
    uint64_t now_ms = clock_mono_ms(service->params.clock);
    char source[ADDR_TEXT_MAX];

    caller_source(&grpc_call_peer(call)->addr, source);
    if (!buckets_take(&service->sources, source, now_ms) ||
        !buckets_take(&service->all, "all", now_ms))
        return FAIL(RATE_LIMITED, 0);
    return OK;
}

/* By the certificate that it had: on our record, not revoked, its key's proof; else as a renewal.
 */
static err_t identity_rejoin(struct identity_service *service, struct identity_request *request,
                             const Mortise__V1__AttestRequest *msg,
                             const Mortise__Control__Issuance *record)
{
    const struct registry *registry = service->params.registry;

    if (!buckets_take(&service->identities, record->spiffe_id,
                      clock_mono_ms(service->params.clock)))
        return FAIL(RATE_LIMITED, 0);
    if (registry_issued_is_revoked(registry, record))
        return FAIL(PEER_REVOKED, 0);
    request->subsystem = registry_subsystem_of(registry, record->spiffe_id);
    if (request->subsystem == NULL)
        return FAIL(PEER_DENIED, 0);
    TRY(identity_read_csr(request, msg->csr));
    if (bytes_equal(msg_view(record->key_sha256), bytes_of(request->key_sha256, 32)))
        return FAIL(KEY_REUSED, 0);
    if (!ca_may_follow(service->params.ca, record->serial, request->key_sha256))
        return FAIL(REJOIN_REPLACED, 0);
    request->reason = "rejoin";
    request->renews = record->serial;
    return identity_issue(service, request);
}

static err_t identity_attest_last(struct identity_service *service,
                                  struct identity_request *request,
                                  const Mortise__V1__AttestRequest *msg)
{
    Mortise__Control__Issuance *record = NULL;
    err_t err;

    TRY(identity_admit_source(service, request->call));
    TRY(attest_last(service->params.vault, msg->last_certificate, msg_view(msg->csr),
                    clock_wall_s(service->params.clock),
                    mesh_rejoin_s(registry_mesh(service->params.registry)), &record));
    err = identity_rejoin(service, request, msg, record);
    pb_free(&record->base);
    return err;
}

/* An operator has said of each namespace that its pods may be subsystems. */
static bool identity_takes_pods_of(const struct identity_service *service, const char *namespace)
{
    const struct option_list *list = service->params.kubernetes_namespaces;

    for (size_t i = 0; i < list->num; i++) {
        if (strcmp(list->items[i], namespace) == 0)
            return true;
    }
    return false;
}

/* By the token of its pod: who has it may have it again and again, each time for a key of its own,
 * as long as the cluster says that it is good. */
static err_t identity_attest_pod(struct identity_service *service, struct identity_request *request,
                                 const Mortise__V1__AttestRequest *msg)
{
    const struct registry *registry = service->params.registry;
    CLEANUP(jwt_fini) struct jwt jwt = {.subject = NULL};
    CLEANUP(kube_token_fini) struct kube_token pod = {.namespace = NULL};
    CLEANUP(mem_freep) char *id = NULL;

    TRY(oidc_check(service->params.kubernetes, bytes_of_str(msg->join_token), &jwt));
    TRY(kube_token_read(bytes_of_str(jwt.claims), &pod));
    if (!identity_takes_pods_of(service, pod.namespace))
        return FAIL(PEER_DENIED, 0);
    id = mem_printf("spiffe://%s/ns/%s/sa/%s", registry_trust_domain(registry), pod.namespace,
                    pod.service_account);
    request->subsystem = registry_subsystem_of(registry, id);
    if (request->subsystem == NULL)
        return FAIL(PEER_DENIED, 0);
    if (!buckets_take(&service->identities, pod.pod_uid, clock_mono_ms(service->params.clock)))
        return FAIL(RATE_LIMITED, 0);
    request->who = mem_printf("pod %s/%s (%s)", pod.namespace, pod.pod, pod.pod_uid);
    TRY(identity_read_csr(request, msg->csr));
    return identity_issue(service, request);
}

static err_t identity_attest(struct identity_service *service, struct identity_request *request,
                             const Mortise__V1__AttestRequest *msg, struct attest_grant *grant)
{
    int64_t now_s = clock_wall_s(service->params.clock);
    const char *token = msg->credential_case == MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN
                            ? msg->join_token
                            : "";

    if (msg->credential_case == MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_LAST_CERTIFICATE)
        return identity_attest_last(service, request, msg);
    /* The cheap look-up comes before the signature check of the CSR. */
    TRY(identity_admit_source(service, request->call));
    if (kube_token_is(token))
        return identity_attest_pod(service, request, msg);
    TRY(attest_find(service->params.vault, token, now_s, grant));
    if (identity_is_changing(service, grant->path)) {
        /* The same token twice in one round: who was first shall be known. */
        attest_grant_fini(grant);
        identity_commit(service);
        TRY(attest_find(service->params.vault, token, now_s, grant));
    }
    TRY(identity_read_csr(request, msg->csr));
    TRY(attest_bind(service->params.vault, grant, request->key_sha256, now_s, &request->batch));
    request->subsystem = grant->token->subsystem;
    return identity_issue(service, request);
}

static void identity_on_attest(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct identity_service *service = arg;
    struct identity_request request = {.call = call, .method = "attest", .reason = "attest"};
    struct attest_grant grant = {.token = NULL};
    err_t err = identity_attest(
        service, &request,
        MSG_AS_CONST(Mortise__V1__AttestRequest, mortise__v1__attest_request__descriptor, msg),
        &grant);

    if (!err_is_ok(err))
        identity_refuse(service, call, "attest", err);
    attest_grant_fini(&grant);
    identity_request_fini(&request);
}

/* -------------------------------------------------------------------- Renew */

static err_t identity_renew(struct identity_service *service, struct identity_request *request,
                            const Mortise__V1__RenewRequest *msg)
{
    const struct caller *caller = grpc_call_peer(request->call)->identity;
    const char *id = caller->peer->spiffe_id; /* authorize has seen that there is one */

    if (!buckets_take(&service->identities, id, clock_mono_ms(service->params.clock)))
        return FAIL(RATE_LIMITED, 0);
    /* A connection may outlive its certificate; a renewal may not. */
    if (clock_wall_s(service->params.clock) >= caller->peer->not_after)
        return FAIL(CERT_EXPIRED, 0);
    request->subsystem = registry_subsystem_of(service->params.registry, id);
    if (request->subsystem == NULL)
        return FAIL(PEER_DENIED, 0);
    TRY(identity_read_csr(request, msg->csr));
    if (memcmp(request->key_sha256, caller->key_sha256, sizeof(request->key_sha256)) == 0)
        return FAIL(KEY_REUSED, 0);
    request->renews = caller->peer->serial;
    return identity_issue(service, request);
}

static void identity_on_renew(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct identity_service *service = arg;
    const Mortise__V1__RenewRequest *renew =
        MSG_AS_CONST(Mortise__V1__RenewRequest, mortise__v1__renew_request__descriptor, msg);
    struct identity_request request = {
        .call = call,
        .method = "renew",
        .reason = renew->certificate_epoch != 0 ? "rotate" : "renew",
    };
    err_t err = identity_renew(service, &request, renew);

    if (!err_is_ok(err))
        identity_refuse(service, call, "renew", err);
    identity_request_fini(&request);
}

/* -------------------------------------------------------------------- whole */

static const struct grpc_method identity_methods[] = {
    {
        .path = "/mortise.v1.IdentityService/Attest",
        .in = &mortise__v1__attest_request__descriptor,
        .out = &mortise__v1__certificate_response__descriptor,
        .max_message = IDENTITY_MESSAGE_MAX,
        .on_message = identity_on_attest,
        .on_done = identity_on_done,
    },
    {
        .path = "/mortise.v1.IdentityService/Renew",
        .in = &mortise__v1__renew_request__descriptor,
        .out = &mortise__v1__certificate_response__descriptor,
        .max_message = IDENTITY_MESSAGE_MAX,
        .on_message = identity_on_renew,
        .on_done = identity_on_done,
    },
};

const struct grpc_method *identity_service_methods(size_t *out_num)
{
    *out_num = ARRAY_LEN(identity_methods);
    return identity_methods;
}

struct identity_service *identity_service_new(const struct identity_service_params *params)
{
    struct identity_service *service = mem_zalloc(sizeof(*service));

    service->params = *params;
    list_init(&service->pending);
    buckets_init(&service->sources, IDENTITY_SOURCE_BURST, IDENTITY_SOURCE_PER_MINUTE,
                 IDENTITY_KEYS_MAX);
    buckets_init(&service->all, IDENTITY_ALL_BURST, IDENTITY_ALL_PER_MINUTE, 1);
    buckets_init(&service->identities, IDENTITY_ID_BURST, IDENTITY_ID_PER_MINUTE,
                 IDENTITY_KEYS_MAX);
    return service;
}

void identity_service_free(struct identity_service *service)
{
    if (service == NULL)
        return;
    timer_stop(service->params.loop, &service->commit);
    while (!list_empty(&service->pending)) /* whoever asked has gone */
        identity_pending_free(LIST_ITEM(service->pending.next, struct identity_pending, link));
    buckets_fini(&service->sources);
    buckets_fini(&service->all);
    buckets_fini(&service->identities);
    mem_free(service);
}
