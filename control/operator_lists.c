/* The lists of control/operator_service.h that come in pages: a page is one turn of the loop, and
 * what it holds is bounded. Source: AIP-158. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define OPERATOR_PAGE_MAX 1000
#define OPERATOR_TOKEN_MAX (9 + OPERATOR_NUMBER_MAX) /* of a list of workloads */
#define OPERATOR_PAGE_BYTES ((size_t)1 << 20)        /* behind which a page of workloads ends */

size_t operator_page_size(uint32_t wanted)
{
    return wanted == 0 || wanted > OPERATOR_PAGE_MAX ? OPERATOR_PAGE_MAX : wanted;
}

static void operator_refuse_token(struct grpc_call *call)
{
    reply_text(call, GRPC_INVALID_ARGUMENT,
               "page_token: must be empty, or the next_page_token of the last reply");
}

/* ----------------------------------------------------------------- workloads */

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
    out->wanted_version = workload->xds.wanted_version;
    out->clock_known = workload->skew.known;
    out->clock_ahead_ms = workload->skew.ahead_ms;
    out->clock_error_ms = workload->skew.error_ms;
    out->clock_off = skew_beyond(&workload->skew, DISCOVERY_CLOCK_LIMIT_MS);
}

bool operator_read_token(struct grpc_call *call, const char *token, uint64_t *out)
{
    char *end;

    *out = 0;
    if (token[0] == '\0')
        return true;
    if (token[0] >= '1' && token[0] <= '9' && strlen(token) < OPERATOR_NUMBER_MAX - 1) {
        *out = strtoull(token, &end, 10);
        if (*end == '\0')
            return true;
    }
    operator_refuse_token(call);
    return false;
}

/* The numbers of workloads begin anew with each process: its tokens begin with what tells it from
 * others, so that nobody is passed over who has another number now. */
static size_t operator_workload_token(const struct operator_service *service, uint64_t number,
                                      char out[OPERATOR_TOKEN_MAX])
{
    int len = snprintf(out, OPERATOR_TOKEN_MAX, "%08" PRIx32 "-", service->process);

    (void)snprintf(out + len, OPERATOR_NUMBER_MAX, "%" PRIu64, number);
    return (size_t)len;
}

static bool operator_read_workload_token(const struct operator_service *service,
                                         struct grpc_call *call, const char *token, uint64_t *out)
{
    char ours[OPERATOR_TOKEN_MAX];
    size_t len = operator_workload_token(service, 0, ours);

    if (token[0] == '\0')
        return operator_read_token(call, token, out);
    if (strncmp(token, ours, len) == 0 && token[len] != '\0')
        return operator_read_token(call, token + len, out);
    operator_refuse_token(call);
    return false;
}

void operator_on_list_workloads(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    struct registry *registry = operator_fresh(service);
    const Mortise__V1__ListWorkloadsRequest *request = MSG_AS_CONST(
        Mortise__V1__ListWorkloadsRequest, mortise__v1__list_workloads_request__descriptor, msg);
    Mortise__V1__ListWorkloadsResponse reply = MORTISE__V1__LIST_WORKLOADS_RESPONSE__INIT;
    Mortise__V1__Workload *items;
    char next[OPERATOR_TOKEN_MAX];
    uint64_t after, last = 0;
    size_t max = operator_page_size(request->page_size), len = 0;
    struct list *pos, *tmp;

    if (!operator_read_workload_token(service, call, request->page_token, &after))
        return;
    items = mem_array(max, sizeof(*items));
    reply.workloads = mem_array(max, sizeof(*reply.workloads));
    LIST_EACH (pos, tmp, registry_workloads(registry)) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);
        Mortise__V1__Workload *item = &items[reply.n_workloads];

        if (workload->number <= after)
            continue;
        if (reply.n_workloads == max || len >= OPERATOR_PAGE_BYTES) {
            (void)operator_workload_token(service, last, next);
            reply.next_page_token = next;
            break;
        }
        operator_workload(workload, item);
        len += protobuf_c_message_get_packed_size(&item->base);
        reply.workloads[reply.n_workloads++] = item;
        last = workload->number;
    }
    grpc_call_reply(call, &reply.base);
    mem_free(reply.workloads);
    mem_free(items);
}

/* -------------------------------------------------------------- certificates */

struct operator_certificates {
    const Mortise__V1__ListCertificatesRequest *request;
    int64_t now_s;
    Mortise__V1__Certificate *items[OPERATOR_PAGE_MAX]; /* owned, as all in them */
    size_t num;
};

static bool operator_wants(const struct operator_certificates *list,
                           const Mortise__Control__Issuance *record)
{
    const Mortise__V1__ListCertificatesRequest *request = list->request;

    if (request->subsystem[0] != '\0' && strcmp(request->subsystem, record->subsystem) != 0)
        return false;
    if (!request->include_expired && record->not_after <= list->now_s)
        return false;
    return request->expiring_s == 0 || record->not_after - list->now_s <= request->expiring_s;
}

static err_t operator_see_certificate(void *arg, const char *path, uint64_t version,
                                      const ProtobufCMessage *msg)
{
    const Mortise__Control__Issuance *record =
        MSG_AS_CONST(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    struct operator_certificates *list = arg;
    Mortise__V1__Certificate *item;

    (void)path;
    (void)version;
    if (!operator_wants(list, record))
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
    list->items[list->num++] = item;
    return OK;
}

void operator_on_list_certificates(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    struct operator_certificates list = {
        .request = MSG_AS_CONST(Mortise__V1__ListCertificatesRequest,
                                mortise__v1__list_certificates_request__descriptor, msg),
        .now_s = clock_wall_s(service->clock),
    };
    Mortise__V1__ListCertificatesResponse reply = MORTISE__V1__LIST_CERTIFICATES_RESPONSE__INIT;
    const char *token = list.request->page_token; /* the last serial number that was looked at */
    CLEANUP(mem_freep) char *after = NULL;
    char path[VAULT_PATH_MAX];
    err_t err;

    if (strlen(token) > 2 * CERT_SERIAL_MAX) {
        operator_refuse_token(call);
        return;
    }
    if (token[0] != '\0') {
        vault_path(VAULT_CERTS, token, path);
        after = mem_strdup(path);
    }
    err = vault_each_page(service->vault, VAULT_CERTS, operator_page_size(list.request->page_size),
                          &after, operator_see_certificate, &list);
    reply.certificates = list.items;
    reply.n_certificates = list.num;
    if (after != NULL)
        reply.next_page_token = after + strlen(VAULT_CERTS);
    if (err_is_ok(err))
        grpc_call_reply(call, &reply.base);
    else
        reply_error(call, err);
    for (size_t i = 0; i < list.num; i++)
        pb_free(&list.items[i]->base);
}
