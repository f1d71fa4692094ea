#include "control/events.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

/* Packed: a message's texts in memory of their own would take four times as much. */
struct events_slot {
    struct buf packed;
    int64_t at_ms;
};

struct events {
    struct events_slot ring[EVENTS_KEPT]; /* number i is at i % EVENTS_KEPT */
    uint64_t next;                        /* number of the next one */
    struct list readers;
};

struct events *events_new(void)
{
    struct events *events = mem_zalloc(sizeof(*events));

    list_init(&events->readers);
    return events;
}

void events_free(struct events *events)
{
    if (events == NULL)
        return;
    CHECK(list_empty(&events->readers));
    for (size_t i = 0; i < EVENTS_KEPT; i++)
        buf_fini(&events->ring[i].packed);
    mem_free(events);
}

/* What is fit for a message and a screen: whole characters that are UTF-8, none that controls. */
static char *events_text(const char *text, char out[EVENTS_TEXT_MAX + 1])
{
    size_t len = 0;

    out[0] = '\0';
    if (text != NULL && !str_escape(out, EVENTS_TEXT_MAX + 1, &len, bytes_of_str(text), false))
        return out; /* its end is cut off */
    return out;
}

static void events_pack(const struct event *event, uint64_t number, int64_t now_ms, struct buf *out)
{
    Mortise__V1__Event made = MORTISE__V1__EVENT__INIT;
    char text[5][EVENTS_TEXT_MAX + 1];

    made.seq = number;
    made.at_ms = now_ms;
    made.kind = msg_lend(event->kind);
    made.subsystem = events_text(event->subsystem, text[0]);
    made.instance = events_text(event->instance, text[1]);
    made.id = events_text(event->id, text[2]);
    made.detail = events_text(event->detail, text[3]);
    made.serial = events_text(event->serial, text[4]);
    made.version = event->version;
    made.number = event->number;
    CHECK(err_is_ok(pb_pack(&made.base, out)));
}

void events_add(struct events *events, const struct event *event, int64_t now_ms)
{
    struct events_slot *slot;
    struct list *pos, *tmp;

    if (events == NULL)
        return;
    slot = &events->ring[events->next % EVENTS_KEPT];
    buf_fini(&slot->packed);
    events_pack(event, ++events->next, now_ms, &slot->packed);
    slot->at_ms = now_ms;
    LIST_EACH (pos, tmp, &events->readers) {
        struct events_reader *reader = LIST_ITEM(pos, struct events_reader, link);

        reader->fn(reader);
    }
}

static uint64_t events_oldest(const struct events *events)
{
    return events->next > EVENTS_KEPT ? events->next - EVENTS_KEPT : 0;
}

void events_join(struct events *events, struct events_reader *reader, int64_t since_ms)
{
    reader->next = events->next;
    while (since_ms != 0 && reader->next > events_oldest(events) &&
           events->ring[(reader->next - 1) % EVENTS_KEPT].at_ms >= since_ms)
        reader->next--;
    list_add_tail(&events->readers, &reader->link);
}

void events_leave(struct events_reader *reader)
{
    list_del(&reader->link);
}

Mortise__V1__Event *events_next(const struct events *events, struct events_reader *reader,
                                uint64_t *out_missed)
{
    ProtobufCMessage *msg = NULL;
    struct bytes packed;
    uint64_t oldest = events_oldest(events);

    *out_missed = 0;
    if (reader->next < oldest) {
        *out_missed = oldest - reader->next;
        reader->next = oldest;
    }
    if (reader->next == events->next)
        return NULL;
    packed = buf_view(&events->ring[reader->next++ % EVENTS_KEPT].packed);
    CHECK(err_is_ok(pb_unpack(&mortise__v1__event__descriptor, packed, packed.len, &msg)));
    return MSG_AS(Mortise__V1__Event, mortise__v1__event__descriptor, msg);
}
