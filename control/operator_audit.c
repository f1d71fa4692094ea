/* The calls of control/operator_service.h about the audit log. A page is one turn of the loop: it
 * looks at some of the records, and holds those that match. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/rpc/pb.h"

#define OPERATOR_AUDIT_PAGE 1000
#define OPERATOR_AUDIT_BYTES ((size_t)1 << 20) /* behind which a page ends */
#define OPERATOR_AUDIT_REASON_MAX 256

struct operator_audit {
    const Mortise__V1__ListAuditRecordsRequest *request;
    Mortise__V1__AuditRecord *items[OPERATOR_AUDIT_PAGE]; /* owned */
    size_t num;
    size_t len;
    uint64_t next; /* to be looked at */
    uint64_t last;
};

/* "mesh.apply", or what comes before a dot of it. */
static bool operator_is_action(const char *action, const char *wanted)
{
    size_t len = strlen(wanted);

    return strncmp(action, wanted, len) == 0 && (action[len] == '\0' || action[len] == '.');
}

static bool operator_wants_record(const Mortise__V1__ListAuditRecordsRequest *request,
                                  const Mortise__V1__AuditRecord *record)
{
    const char *object = request->object;

    if (request->outcome != MORTISE__V1__AUDIT_RECORD__OUTCOME__OUTCOME_UNSPECIFIED &&
        record->outcome != request->outcome)
        return false;
    if ((request->since_ms != 0 && record->at_ms < request->since_ms) ||
        (request->until_ms != 0 && record->at_ms > request->until_ms))
        return false;
    if (request->action[0] != '\0' && !operator_is_action(record->action, request->action))
        return false;
    if (request->who[0] != '\0' && strstr(record->who, request->who) == NULL)
        return false;
    return object[0] == '\0' || strstr(record->object, object) != NULL ||
           strstr(record->serial, object) != NULL || strstr(record->message, object) != NULL;
}

/* Fills the page. A record that is not there is passed over: who verifies sees the gap. */
static err_t operator_fill_audit(struct operator_service *service, struct operator_audit *list,
                                 size_t max)
{
    for (size_t looked = 0;
         looked < max && list->next <= list->last && list->len < OPERATOR_AUDIT_BYTES;
         looked++, list->next++) {
        Mortise__V1__AuditRecord *record = NULL;
        err_t err = audit_read(service->audit, list->next, &record);

        if (err_is(err, E_NOT_FOUND))
            continue;
        TRY(err);
        if (!operator_wants_record(list->request, record)) {
            pb_free(&record->base);
            continue;
        }
        list->len += protobuf_c_message_get_packed_size(&record->base);
        list->items[list->num++] = record;
    }
    return OK;
}

void operator_on_list_audit(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__ListAuditRecordsRequest *request =
        MSG_AS_CONST(Mortise__V1__ListAuditRecordsRequest,
                     mortise__v1__list_audit_records_request__descriptor, msg);
    Mortise__V1__ListAuditRecordsResponse reply = MORTISE__V1__LIST_AUDIT_RECORDS_RESPONSE__INIT;
    struct operator_audit list = {.request = request};
    const Mortise__V1__AuditHead *head;
    char next[OPERATOR_NUMBER_MAX];
    err_t err;

    if (!operator_read_token(call, request->page_token, &list.next))
        return;
    audit_flush(service->audit); /* what was refused just now, too */
    head = audit_head(service->audit);
    if (list.next < request->first_seq)
        list.next = request->first_seq;
    if (list.next < head->first_seq)
        list.next = head->first_seq;
    list.last =
        request->last_seq != 0 && request->last_seq < head->seq ? request->last_seq : head->seq;
    err = operator_fill_audit(service, &list, operator_page_size(request->page_size));
    reply.records = list.items;
    reply.n_records = list.num;
    if (list.next <= list.last) {
        (void)snprintf(next, sizeof(next), "%" PRIu64, list.next);
        reply.next_page_token = next;
    }
    if (err_is_ok(err))
        grpc_call_reply(call, &reply.base);
    else
        reply_text(call, GRPC_DATA_LOSS, "record %" PRIu64 " does not open: %s", list.next,
                   err_text(err.code));
    for (size_t i = 0; i < list.num; i++)
        pb_free(&list.items[i]->base);
}

static void operator_reply_audit(struct operator_service *service, struct grpc_call *call)
{
    Mortise__V1__AuditState reply = MORTISE__V1__AUDIT_STATE__INIT;
    Mortise__V1__AuditHead head = *audit_head(service->audit);

    reply.head = &head;
    reply.public_key = msg_bytes(audit_public_key(service->audit));
    reply.broken = audit_is_broken(service->audit);
    reply.trust_domain = msg_lend(registry_trust_domain(service->registry));
    grpc_call_reply(call, &reply.base);
}

void operator_on_get_audit(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;

    (void)msg;
    audit_flush(service->audit);
    operator_reply_audit(service, call);
}

void operator_on_export_audit(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;

    (void)msg;
    audit_flush(service->audit);
    if (operator_records(service, call, &(struct audit_entry){.action = AUDIT_AUDIT_EXPORT}))
        operator_reply_audit(service, call);
}

void operator_on_purge_audit(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__PurgeAuditRequest *request = MSG_AS_CONST(
        Mortise__V1__PurgeAuditRequest, mortise__v1__purge_audit_request__descriptor, msg);
    const Mortise__V1__AuditHead *head = audit_head(service->audit);
    struct audit_who who = {.stranger = false};
    err_t err;

    if (request->last_seq == 0 || request->last_seq >= head->seq) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "last_seq: up to which record, below %" PRIu64 ", the last", head->seq);
        return;
    }
    if (strlen(request->reason) > OPERATOR_AUDIT_REASON_MAX) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "reason: at most %d bytes",
                   OPERATOR_AUDIT_REASON_MAX);
        return;
    }
    if (operator_elevation(service, call, "removing records of the audit log") == NULL)
        return;
    audit_who(grpc_call_peer(call), &who);
    err = audit_purge(service->audit, request->last_seq,
                      &(struct audit_entry){
                          .action = AUDIT_AUDIT_PURGE,
                          .who = who.name,
                          .role = who.role,
                          .source = who.source,
                          .message = request->reason,
                      });
    if (!err_is_ok(err))
        reply_error(call, err);
    else
        operator_reply_audit(service, call);
}
