#include "proxy/relay.h"

static struct relay_side *relay_other(struct relay_side *side)
{
    return side == &side->relay->sides[RELAY_APP] ? &side->relay->sides[RELAY_MESH]
                                                  : &side->relay->sides[RELAY_APP];
}

struct stream *relay_take(struct relay *relay, unsigned index)
{
    struct relay_side *side = &relay->sides[index];
    struct stream *stream = side->stream;

    if (stream != NULL)
        relay->bytes[index] = stream->bytes_read;
    side->stream = NULL;
    return stream;
}

static void relay_drop(struct relay *relay, unsigned index, bool reset)
{
    struct stream *stream = relay_take(relay, index);

    if (stream == NULL)
        return;
    if (reset)
        stream_reset(stream);
    else
        stream_close(stream);
}

/* `side` broke: what the other one has is cut off as well, visibly. */
static void relay_fail(struct relay_side *side, err_t err)
{
    struct relay *relay = side->relay;
    unsigned index = side == &relay->sides[RELAY_APP] ? RELAY_APP : RELAY_MESH;

    relay_drop(relay, index, true);
    relay_drop(relay, !index, true);
    relay->on_done(relay->arg, err, index);
}

static void relay_finish_if_done(struct relay *relay)
{
    for (unsigned i = 0; i < 2; i++) {
        if (!relay->sides[i].eof || relay->sides[i].stream->queued > 0)
            return;
    }
    relay_drop(relay, RELAY_APP, false);
    relay_drop(relay, RELAY_MESH, false);
    relay->on_done(relay->arg, OK, RELAY_APP);
}

/* Large reads are worth much, and what the receiver's kernel does not take of one is held: so they
 * are as large as it has room for. */
static void relay_size_reads(struct relay_side *side, const struct stream *to, size_t last)
{
    size_t *max = &side->stream->read_max, room;

    if (last < STREAM_READ_SMALL / 2) /* not worth a call: it took that much of the room */
        room = *max > last ? *max - last : 0;
    else
        room = stream_room(to);
    if (room > LOOP_RX_SIZE)
        room = LOOP_RX_SIZE;
    *max = room > STREAM_READ_SMALL ? room : STREAM_READ_SMALL;
}

static void relay_on_read(void *arg, struct bytes data)
{
    struct relay_side *side = arg, *to = relay_other(side);
    struct relay *relay = side->relay;
    err_t err;

    if (relay->ended) {
        relay_fail(side, FAIL(CLOSED, 0));
        return;
    }
    err = stream_write(to->stream, data);
    relay->active_ms = loop_now_ms(to->stream->loop);
    relay->from_mesh = side == &relay->sides[RELAY_MESH];
    if (!err_is_ok(err)) {
        relay_fail(to, err);
        return;
    }
    if (to->stream->queued == 0) {
        relay_size_reads(side, to->stream, data.len);
    } else {
        side->stream->read_max = STREAM_READ_SMALL;
        stream_read_stop(side->stream);
        side->paused = true;
        to->stall_ms = relay->active_ms;
        relay->on_stall(relay->arg);
    }
}

static void relay_on_eof(void *arg)
{
    struct relay_side *side = arg, *to = relay_other(side);
    err_t err;

    side->eof = true;
    side->relay->active_ms = loop_now_ms(side->stream->loop);
    err = stream_shutdown(to->stream);
    if (!err_is_ok(err)) {
        relay_fail(to, err);
        return;
    }
    relay_finish_if_done(side->relay);
}

static void relay_on_drained(void *arg)
{
    struct relay_side *side = arg, *from = relay_other(side);

    side->stall_ms = 0;
    side->relay->active_ms = loop_now_ms(side->stream->loop);
    if (from->paused) {
        from->paused = false;
        stream_read_start(from->stream);
        return;
    }
    relay_finish_if_done(side->relay);
}

static void relay_on_error(void *arg, err_t err)
{
    relay_fail(arg, err);
}

static const struct stream_events relay_events = {
    .on_read = relay_on_read,
    .on_eof = relay_on_eof,
    .on_drained = relay_on_drained,
    .on_error = relay_on_error,
};

void relay_start(struct relay *relay, struct stream *app, struct stream *mesh,
                 relay_done_cb on_done, relay_stall_cb on_stall, void *arg)
{
    struct stream *streams[2] = {[RELAY_APP] = app, [RELAY_MESH] = mesh};

    *relay = (struct relay){.on_done = on_done, .on_stall = on_stall, .arg = arg};
    relay->active_ms = loop_now_ms(app->loop);
    for (unsigned i = 0; i < 2; i++) {
        relay->sides[i].relay = relay;
        relay->sides[i].stream = streams[i];
        stream_set_events(streams[i], &relay_events, &relay->sides[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        stream_read_start(streams[i]);
}

void relay_abort(struct relay *relay)
{
    relay_drop(relay, RELAY_APP, true);
    relay_drop(relay, RELAY_MESH, true);
}

bool relay_is_quiet(const struct relay *relay, unsigned client, uint64_t now_ms, uint64_t quiet_ms)
{
    bool none = relay_bytes(relay, RELAY_APP) + relay_bytes(relay, RELAY_MESH) == 0;

    for (unsigned i = 0; i < 2; i++) {
        if (relay->sides[i].eof || relay->sides[i].stream->queued > 0)
            return false;
    }
    return now_ms >= relay->active_ms + quiet_ms &&
           (none || relay->from_mesh == (client == RELAY_APP));
}

err_t relay_end(struct relay *relay, unsigned client)
{
    struct relay_side *server = &relay->sides[!client];

    relay->ended = true;
    server->eof = true; /* nothing more is taken from it */
    stream_read_stop(server->stream);
    return stream_shutdown(relay->sides[client].stream);
}

uint64_t relay_bytes(const struct relay *relay, unsigned side)
{
    const struct stream *stream = relay->sides[side].stream;

    return stream != NULL ? stream->bytes_read : relay->bytes[side];
}

/* What the receiver has taken since the last look. Small answers that left at once long ago are not
 * news of now: only what the kernel had to keep counts. */
static void relay_look(struct relay_side *side, uint64_t now_ms)
{
    struct stream_sent sent = stream_sent(side->stream);
    bool owing = sent.acked < sent.total;

    if (sent.acked > side->acked && (owing || side->owing)) {
        side->relay->active_ms = now_ms;
        if (side->stall_ms != 0)
            side->stall_ms = now_ms;
        stream_retry(side->stream);
    }
    side->acked = sent.acked;
    side->owing = owing;
}

uint64_t relay_look_ms(uint64_t deadline_ms)
{
    return deadline_ms / RELAY_LOOKS + 1;
}

static void relay_sooner(uint64_t *again_ms, uint64_t ms)
{
    if (ms < *again_ms)
        *again_ms = ms;
}

err_t relay_due(struct relay *relay, uint64_t now_ms, uint64_t idle_ms, uint64_t stall_ms,
                uint64_t *out_again_ms, unsigned *out_side)
{
    *out_again_ms = relay_look_ms(idle_ms);
    for (unsigned i = 0; i < 2; i++)
        relay_look(&relay->sides[i], now_ms);
    for (unsigned i = 0; i < 2; i++) {
        const struct relay_side *side = &relay->sides[i];

        if (side->stall_ms == 0)
            continue;
        if (now_ms >= side->stall_ms + stall_ms) {
            *out_side = i;
            return FAIL(SLOW_PEER, 0);
        }
        relay_sooner(out_again_ms, side->stall_ms + stall_ms - now_ms);
        relay_sooner(out_again_ms, relay_look_ms(stall_ms));
    }
    if (now_ms >= relay->active_ms + idle_ms) {
        *out_side = RELAY_APP;
        return FAIL(IDLE, 0);
    }
    relay_sooner(out_again_ms, relay->active_ms + idle_ms - now_ms);
    return OK;
}
