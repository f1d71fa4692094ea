/* The call of control/operator_service.h that shows revocation lists. */
#include <string.h>

#include "control/crls.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"

struct operator_crls {
    const char *issuer; /* "": all */
    Mortise__V1__PublishedCrl **items;
    size_t num;
};

static void operator_see_crl(void *arg, const Mortise__Control__CrlRecord *record)
{
    struct operator_crls *list = arg;
    Mortise__V1__PublishedCrl *item;

    if (list->issuer[0] != '\0' && strcmp(list->issuer, record->issuer_key_sha256) != 0)
        return;
    item = mem_alloc(sizeof(*item));
    mortise__v1__published_crl__init(item);
    item->issuer = record->issuer;
    item->issuer_key_sha256 = record->issuer_key_sha256;
    item->number = record->number;
    item->this_update = record->this_update;
    item->next_update = record->next_update;
    item->entries = record->entries;
    if (list->issuer[0] != '\0')
        item->der = record->der;
    list->items = mem_realloc(list->items, (list->num + 1) * sizeof(*list->items));
    list->items[list->num++] = item;
}

void operator_on_list_crls(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__ListCrlsRequest *request =
        MSG_AS_CONST(Mortise__V1__ListCrlsRequest, mortise__v1__list_crls_request__descriptor, msg);
    Mortise__V1__ListCrlsResponse reply = MORTISE__V1__LIST_CRLS_RESPONSE__INIT;
    struct operator_crls list = {.issuer = request->issuer_key_sha256};

    crls_each(service->crls, operator_see_crl, &list);
    reply.crls = list.items;
    reply.n_crls = list.num;
    if (list.issuer[0] != '\0' && list.num == 0)
        reply_text(
            call, GRPC_NOT_FOUND,
            "issuer_key_sha256: there is no list of a CA with that key (mortisectl get crl)");
    else
        grpc_call_reply(call, &reply.base);
    for (size_t i = 0; i < list.num; i++)
        mem_free(list.items[i]);
    mem_free(list.items);
}
