/* The calls of control/operator_service.h about a store that is older than what sidecars have seen.
 */
#include <string.h>

#include "control/caller.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/rpc/pb.h"

/* Rotations that the lost part of the history may have had beyond what is told of it. */
#define OPERATOR_EPOCHS_SPARE 1000
#define OPERATOR_EPOCHS_MAX (UINT64_C(1) << 32) /* who tells of more lies */
#define OPERATOR_KEPT_MAX 100000                /* looked at: some tens of milliseconds */

/* A revocation that sidecars keep and the store has not. */
struct operator_missing {
    Mortise__V1__RollbackRevocation msg;
    const struct workload *told; /* who was the last to tell of it: each counts once */
};

/* What sidecars tell, put together; borrows from the registry. */
struct operator_rollback {
    Mortise__V1__Rollback msg;
    Mortise__V1__RollbackWitness *witnesses;
    struct map by_subject; /* of what is missing: struct operator_missing, owned */
    struct map stored;     /* the subjects of what is not, to a mark */
    size_t cap;
    size_t num_kept;    /* entries looked at */
    bool complete;      /* every sidecar told all that it keeps, and all of it was looked at */
    uint64_t max_epoch; /* of the certificates of all who are connected */
};

static char *operator_subject(const Mortise__V1__Revocation *revocation)
{
    struct revoke_subject subject = revoke_subject(revocation);

    return mem_printf("%s %s", subject.kind, subject.value);
}

static void operator_note_stored(struct operator_service *service, struct operator_rollback *out)
{
    const Mortise__Control__Revocations *record = registry_revocations(service->registry)->record;

    for (size_t i = 0; i < record->n_entries; i++) {
        CLEANUP(mem_freep) char *subject = operator_subject(record->entries[i]->revocation);

        map_put(&out->stored, subject, out);
    }
}

/* What is none could not be stored, and might not even be printed: its sidecar makes things up. */
static bool operator_is_revocation(const Mortise__V1__Revocation *revocation)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct fault_path path = {.len = 0};

    return err_is_ok(revoke_check(revocation, &path, &faults));
}

static void operator_add_missing(struct operator_rollback *out, const struct workload *workload,
                                 Mortise__V1__Revocation *revocation)
{
    CLEANUP(mem_freep) char *subject = operator_subject(revocation);
    struct operator_missing *known = map_get(&out->by_subject, subject);

    if (map_get(&out->stored, subject) != NULL)
        return;
    if (known == NULL) {
        if (!operator_is_revocation(revocation))
            return;
        if (out->msg.n_missing == REVOCATIONS_MAX) {
            out->complete = false;
            return;
        }
        known = mem_zalloc(sizeof(*known));
        mortise__v1__rollback_revocation__init(&known->msg);
        known->msg.revocation = revocation;
        map_put(&out->by_subject, subject, known);
        if (out->msg.n_missing == out->cap) {
            out->cap = out->cap == 0 ? 16 : 2 * out->cap;
            out->msg.missing = mem_realloc(out->msg.missing, out->cap * sizeof(*out->msg.missing));
        }
        out->msg.missing[out->msg.n_missing++] = &known->msg;
    }
    if (known->told == workload)
        return;
    known->told = workload;
    known->msg.witnesses++;
}

static void operator_add_kept(struct operator_rollback *out, const struct workload *workload)
{
    const Mortise__V1__DiscoveryRequest *nack = workload->rollback;
    size_t num = nack->n_kept;

    if (num > OPERATOR_KEPT_MAX - out->num_kept)
        num = OPERATOR_KEPT_MAX - out->num_kept;
    for (size_t i = 0; i < num; i++)
        operator_add_missing(out, workload, nack->kept[i]);
    out->num_kept += num;
    out->complete = out->complete && num == nack->kept_total;
}

static void operator_add_witness(struct operator_rollback *out, struct workload *workload)
{
    Mortise__V1__RollbackWitness *witness = &out->witnesses[out->msg.n_witnesses];

    mortise__v1__rollback_witness__init(witness);
    witness->subsystem = workload->subsystem;
    witness->instance = workload->instance;
    witness->version = workload->rollback->version;
    witness->seen = workload->seen;
    witness->kept = workload->rollback->kept_total;
    out->msg.witnesses[out->msg.n_witnesses++] = witness;
}

static void operator_gather(struct operator_service *service, struct operator_rollback *out)
{
    struct registry *registry = service->registry;
    size_t max = registry_totals(registry).rolled_back;
    struct list *pos, *tmp;

    *out = (struct operator_rollback){.complete = true};
    mortise__v1__rollback__init(&out->msg);
    out->witnesses = mem_array(max, sizeof(*out->witnesses));
    out->msg.witnesses = mem_array(max, sizeof(*out->msg.witnesses));
    out->msg.era = history_era(registry_history(registry));
    operator_note_stored(service, out);
    LIST_EACH (pos, tmp, registry_workloads(registry)) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (workload->status != NULL && workload->status->certificate_epoch > out->max_epoch &&
            workload->status->certificate_epoch <= OPERATOR_EPOCHS_MAX)
            out->max_epoch = workload->status->certificate_epoch;
        if (workload->rollback == NULL)
            continue;
        operator_add_witness(out, workload);
        operator_add_kept(out, workload);
    }
}

static void operator_rollback_fini(struct operator_rollback *rollback)
{
    size_t iter = 0;
    const char *subject;
    void *value;

    while (map_next(&rollback->by_subject, &iter, &subject, &value))
        mem_free(value);
    mem_free(rollback->msg.missing);
    mem_free(rollback->msg.witnesses);
    mem_free(rollback->witnesses);
    map_fini(&rollback->by_subject);
    map_fini(&rollback->stored);
}

void operator_on_get_rollback(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    CLEANUP(operator_rollback_fini) struct operator_rollback rollback;

    (void)msg;
    operator_gather(service, &rollback);
    grpc_call_reply(call, &rollback.msg.base);
}

/* ---- confirming ---- */

/* Makes what sidecars keep the store's again, all of it or nothing; what must not be denied stops
 * it. */
static err_t operator_keep_all(struct operator_service *service, struct grpc_call *call,
                               const struct operator_rollback *rollback)
{
    size_t num = rollback->msg.n_missing;
    struct revocations_new *adds = mem_array(num + 1, sizeof(*adds));
    char by[CALLER_NAME_MAX];
    uint64_t first = 0;
    err_t err;

    caller_name(grpc_call_peer(call), by);
    for (size_t i = 0; i < num; i++)
        adds[i] = (struct revocations_new){
            .revocation = rollback->msg.missing[i]->revocation,
            .reason = "in force at sidecars when the store was put back",
            .by = by,
            .now_s = clock_wall_s(service->clock),
        };
    operator_will(service, call, VAULT_REVOCATIONS,
                  &(struct audit_entry){.action = AUDIT_RESTORE_ACCEPT,
                                        .object = "revocations",
                                        .message = "kept, as sidecars have them in force"});
    err = registry_revoke_all(service->registry, adds, num, &first);
    for (size_t i = 0; i < num && err_is_ok(err); i++)
        operator_log(service, call, "revocation_kept", revoke_subject(adds[i].revocation).value,
                     first + i);
    mem_free(adds);
    return err;
}

static bool operator_keep(struct operator_service *service, struct grpc_call *call,
                          const struct operator_rollback *rollback)
{
    err_t err;

    for (size_t i = 0; i < rollback->msg.n_missing; i++) {
        if (!operator_may_revoke(service, call, rollback->msg.missing[i]->revocation))
            return false;
    }
    err = operator_keep_all(service, call, rollback);
    if (err_is(err, E_LIMIT))
        reply_text(call, GRPC_RESOURCE_EXHAUSTED,
                   "with these there would be more than %d revocations, which is the most: lift "
                   "some, revoke the identity of a sidecar that tells of what never was "
                   "(mortisectl accept-restore -o json shows who keeps how many), or drop them",
                   REVOCATIONS_MAX);
    else if (!err_is_ok(err))
        reply_error(call, err);
    return err_is_ok(err);
}

static err_t operator_new_era(struct operator_service *service,
                              const struct operator_rollback *rollback)
{
    struct registry *registry = service->registry;

    TRY(registry_reserve_epochs(registry, rollback->max_epoch + OPERATOR_EPOCHS_SPARE));
    return registry_raise_era(registry);
}

static void operator_confirm(struct operator_service *service, struct grpc_call *call,
                             const Mortise__V1__ConfirmRollbackRequest *request,
                             struct operator_rollback *rollback)
{
    err_t err;

    if (request->keep_revocations && !operator_keep(service, call, rollback))
        return;
    if (request->keep_revocations && !rollback->complete) {
        /* What is stored now is offered to them; they tell the rest. */
        rollback->msg.more = true;
        grpc_call_reply(call, &rollback->msg.base);
        registry_refresh(service->registry); /* after it: what was told belongs to the sidecars */
        return;
    }
    operator_will(service, call, VAULT_EPOCHS,
                  &(struct audit_entry){.action = AUDIT_RESTORE_ACCEPT, .object = "epochs"});
    operator_will(service, call, VAULT_HISTORY,
                  &(struct audit_entry){
                      .action = AUDIT_RESTORE_ACCEPT,
                      .object = "store",
                      .message = request->drop_revocations
                                     ? "what only sidecars knew as revoked is let in again"
                                     : "sidecars obey it from now on",
                  });
    err = operator_new_era(service, rollback);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    rollback->msg.era = history_era(registry_history(service->registry));
    operator_log(service, call, "rollback_confirmed",
                 request->keep_revocations ? "revocations kept" : "revocations dropped",
                 rollback->msg.era);
    grpc_call_reply(call, &rollback->msg.base);
    registry_refresh(service->registry);
    discovery_service_retry_rolled_back(service->discovery);
}

void operator_on_confirm_rollback(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__ConfirmRollbackRequest *request =
        MSG_AS_CONST(Mortise__V1__ConfirmRollbackRequest,
                     mortise__v1__confirm_rollback_request__descriptor, msg);
    CLEANUP(operator_rollback_fini) struct operator_rollback rollback;

    operator_gather(service, &rollback);
    if (rollback.msg.n_witnesses == 0)
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "no connected sidecar has seen more than this store has");
    else if (request->keep_revocations && request->drop_revocations)
        reply_text(call, GRPC_INVALID_ARGUMENT, "keep_revocations, drop_revocations: one of them");
    else if (rollback.msg.n_missing > 0 && !request->keep_revocations && !request->drop_revocations)
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "%zu revocations that sidecars have in force are not in this store: say whether "
                   "to keep or to drop them",
                   rollback.msg.n_missing);
    else
        operator_confirm(service, call, request, &rollback);
}
