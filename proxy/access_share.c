#include "proxy/access_share.h"

#include <pthread.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

/* An entry that waits, packed. */
struct access_packed {
    size_t len;
    uint8_t data[];
};

struct access_share {
    pthread_mutex_t lock;
    struct access_packed *ring[ACCESS_SHARE_MAX];
    size_t first, num, bytes;
    uint64_t seq;
    uint64_t dropped; /* since the last batch */
    /* Main thread: */
    Mortise__V1__AccessLogBatch *batch; /* under way */
    uint64_t number;                    /* its */
};

struct access_share *access_share_new(void)
{
    struct access_share *share = mem_zalloc(sizeof(*share));

    CHECK(pthread_mutex_init(&share->lock, NULL) == 0);
    return share;
}

/* Under the lock. */
static struct access_packed *access_share_pop(struct access_share *share)
{
    struct access_packed *packed = share->ring[share->first];

    share->first = (share->first + 1) % ACCESS_SHARE_MAX;
    share->num--;
    share->bytes -= packed->len;
    return packed;
}

void access_share_free(struct access_share *share)
{
    if (share == NULL)
        return;
    while (share->num > 0)
        mem_free(access_share_pop(share));
    if (share->batch != NULL)
        pb_free(&share->batch->base);
    CHECK(pthread_mutex_destroy(&share->lock) == 0);
    mem_free(share);
}

bool access_share_picks(uint64_t key, unsigned permille)
{
    if (permille == 0 || permille >= ACCESS_SHARE_ALL)
        return permille != 0;
    return (key != 0 ? key : random_u32()) % ACCESS_SHARE_ALL < permille;
}

char *access_share_text(const char *text, char out[ACCESS_SHARE_TEXT_MAX + 1])
{
    size_t len = text != NULL ? strnlen(text, ACCESS_SHARE_TEXT_MAX) : 0;

    for (size_t i = 0; i < len; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[len] = '\0';
    return out;
}

/* ---- putting in ---- */

size_t access_share_add(struct access_share *share, Mortise__V1__AccessLogEntry *entry)
{
    struct access_packed *packed;
    size_t room, dropped = 0;

    CHECK(pthread_mutex_lock(&share->lock) == 0);
    entry->seq = ++share->seq;
    CHECK(pthread_mutex_unlock(&share->lock) == 0);
    room = protobuf_c_message_get_packed_size(&entry->base);
    packed = mem_alloc(sizeof(*packed) + room);
    packed->len = protobuf_c_message_pack(&entry->base, packed->data);

    CHECK(pthread_mutex_lock(&share->lock) == 0);
    while (share->num == ACCESS_SHARE_MAX ||
           (share->num > 0 && share->bytes + packed->len > ACCESS_SHARE_BYTES_MAX)) {
        mem_free(access_share_pop(share));
        dropped++;
    }
    share->ring[(share->first + share->num) % ACCESS_SHARE_MAX] = packed;
    share->num++;
    share->bytes += packed->len;
    share->dropped += dropped;
    CHECK(pthread_mutex_unlock(&share->lock) == 0);
    return dropped;
}

/* ---- taking out ---- */

static Mortise__V1__AccessLogEntry *access_share_unpack(const struct access_packed *packed)
{
    ProtobufCMessage *msg = NULL;
    err_t err = pb_unpack(&mortise__v1__access_log_entry__descriptor,
                          bytes_of(packed->data, packed->len), packed->len, &msg);

    CHECK(err_is_ok(err)); /* we have packed it, of clean texts */
    return (Mortise__V1__AccessLogEntry *)msg;
}

/* Fills `list` with what fits; `*out_dropped` went before them. */
static size_t access_share_gather(struct access_share *share, struct access_packed **list,
                                  uint64_t *out_dropped)
{
    size_t num = 0, bytes = 0;

    CHECK(pthread_mutex_lock(&share->lock) == 0);
    while (share->num > 0 && num < ACCESS_SHARE_BATCH_MAX &&
           (num == 0 || bytes + share->ring[share->first]->len <= ACCESS_SHARE_BATCH_BYTES)) {
        list[num] = access_share_pop(share);
        bytes += list[num++]->len;
    }
    *out_dropped = share->dropped;
    share->dropped = 0;
    CHECK(pthread_mutex_unlock(&share->lock) == 0);
    return num;
}

Mortise__V1__AccessLogBatch *access_share_next(struct access_share *share)
{
    struct access_packed *list[ACCESS_SHARE_BATCH_MAX];
    Mortise__V1__AccessLogBatch *batch;
    uint64_t dropped;
    size_t num;

    if (share->batch != NULL)
        return share->batch;
    num = access_share_gather(share, list, &dropped);
    if (num == 0 && dropped == 0)
        return NULL;
    batch = mem_alloc(sizeof(*batch));
    mortise__v1__access_log_batch__init(batch);
    batch->number = ++share->number;
    batch->dropped = dropped;
    batch->entries = num > 0 ? mem_array(num, sizeof(*batch->entries)) : NULL;
    for (size_t i = 0; i < num; i++) {
        batch->entries[batch->n_entries++] = access_share_unpack(list[i]);
        mem_free(list[i]);
    }
    share->batch = batch;
    return batch;
}

size_t access_share_taken(struct access_share *share, uint64_t number)
{
    size_t num;

    if (share->batch == NULL || number != share->batch->number)
        return 0;
    num = share->batch->n_entries;
    pb_free(&share->batch->base);
    share->batch = NULL;
    return num;
}

bool access_share_is_full(struct access_share *share)
{
    bool full;

    CHECK(pthread_mutex_lock(&share->lock) == 0);
    full = share->num >= ACCESS_SHARE_BATCH_MAX;
    CHECK(pthread_mutex_unlock(&share->lock) == 0);
    return full;
}
