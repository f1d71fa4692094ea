#include "control/ctl/pages.h"

#include <string.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

/* The string of that name in a message. */
static char **pages_token(ProtobufCMessage *msg, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(msg->descriptor, name);

    CHECK(field != NULL && field->type == PROTOBUF_C_TYPE_STRING);
    return (char **)((char *)msg + field->offset);
}

struct pages_items {
    size_t *num;
    void ***items;
};

static bool pages_is_list(const ProtobufCFieldDescriptor *field)
{
    return field->label == PROTOBUF_C_LABEL_REPEATED && field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static struct pages_items pages_items(ProtobufCMessage *msg)
{
    const ProtobufCFieldDescriptor *field = msg->descriptor->fields;
    const ProtobufCFieldDescriptor *end = field + msg->descriptor->n_fields;

    while (field < end && !pages_is_list(field))
        field++;
    CHECK(field < end);
    return (struct pages_items){
        .num = (size_t *)(void *)((char *)msg + field->quantifier_offset),
        .items = (void ***)(void *)((char *)msg + field->offset),
    };
}

/* Moves the items of `page` behind those of `all`. */
static void pages_take(ProtobufCMessage *all, ProtobufCMessage *page)
{
    struct pages_items to = pages_items(all), from = pages_items(page);

    if (*from.num == 0)
        return;
    *to.items = mem_realloc(*to.items, (*to.num + *from.num) * sizeof(**to.items));
    memcpy(*to.items + *to.num, *from.items, *from.num * sizeof(**to.items));
    *to.num += *from.num;
    *from.num = 0;
}

static char **pages_next(ProtobufCMessage *msg)
{
    return pages_token(msg, "next_page_token");
}

/* Adds the page that follows `all`, with its token; false when there was none, which is told. */
static bool pages_add(struct conn *conn, const char *method, const ProtobufCMessage *request,
                      ProtobufCMessage *all)
{
    ProtobufCMessage *page = conn_call(conn, method, request, all->descriptor);
    bool moved;
    char *token;

    if (page == NULL)
        return false;
    pages_take(all, page);
    token = *pages_next(all);
    *pages_next(all) = *pages_next(page);
    *pages_next(page) = token;
    moved = strcmp(token, *pages_next(all)) != 0;
    if (!moved)
        ctl_tell("%s: the control plane gives the same page without end", method);
    pb_free(page);
    return moved;
}

ProtobufCMessage *pages_call(struct conn *conn, const char *method, ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *reply)
{
    char **token = pages_token(request, "page_token");
    char *const before = *token;
    ProtobufCMessage *all = conn_call(conn, method, request, reply);

    while (all != NULL && **pages_next(all) != '\0') {
        *token = *pages_next(all);
        if (!pages_add(conn, method, request, all)) {
            pb_free(all);
            all = NULL;
        }
    }
    *token = before;
    return all;
}
