#include "test/unit/rpc/wire.h"

#include <stdio.h>

#include "lib/base/mem.h"

uint64_t wire_now_ms = 1000;

static uint64_t wire_mono_ms(const struct clock *clock)
{
    (void)clock;
    return wire_now_ms;
}

static int64_t wire_wall_s(const struct clock *clock)
{
    (void)clock;
    return 1800000000;
}

const struct clock wire_clock = {wire_mono_ms, wire_wall_s};

static void wire_add(struct buf *buf, const void *ptr, size_t len)
{
    CHECK(err_is_ok(buf_add(buf, ptr, len)));
}

static void wire_flush(struct wire *wire)
{
    if (buf_size(&wire->out) == 0)
        return;
    CHECK(err_is_ok(stream_write(wire->raw, buf_view(&wire->out))));
    buf_clear(&wire->out);
}

void wire_attach(struct wire *wire, struct loop *loop, struct stream *raw)
{
    *wire = (struct wire){.loop = loop, .raw = raw};
    recorder_attach(&wire->recorder, raw);
    stream_read_start(raw);
    CHECK(nghttp2_hd_inflate_new(&wire->inflater) == 0);
}

void wire_init(struct wire *wire, struct loop *loop)
{
    struct stream *lower, *raw;

    memstream_pair(loop, &lower, &raw);
    wire_attach(wire, loop, raw);
    wire->lower = lower;
}

void wire_fini(struct wire *wire)
{
    stream_close(wire->raw);
    recorder_fini(&wire->recorder);
    nghttp2_hd_inflate_del(wire->inflater);
    buf_fini(&wire->headers);
    buf_fini(&wire->data);
    buf_fini(&wire->out);
    looptest_settle(wire->loop);
}

void wire_hold(struct wire *wire)
{
    wire->holding = true;
}

void wire_release(struct wire *wire)
{
    wire->holding = false;
    wire_flush(wire);
}

void wire_bytes(struct wire *wire, const void *ptr, size_t len)
{
    if (wire->recorder.num_eofs + wire->recorder.num_errors != 0)
        return; /* the other end is gone */
    wire_add(&wire->out, ptr, len);
    if (!wire->holding)
        wire_flush(wire);
}

void wire_send(struct wire *wire, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
               size_t len)
{
    uint8_t *frame = mem_alloc(9 + len);

    frame[0] = (uint8_t)(len >> 16);
    frame[1] = (uint8_t)(len >> 8);
    frame[2] = (uint8_t)len;
    frame[3] = type;
    frame[4] = flags;
    put_be32(frame + 5, stream);
    if (len != 0)
        memcpy(frame + 9, payload, len);
    wire_bytes(wire, frame, 9 + len);
    mem_free(frame);
}

void wire_hello(struct wire *wire, bool client)
{
    wire->is_server = !client;
    if (client)
        wire_bytes(wire, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    wire_send(wire, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    wire_settle(wire);
    if (wire->counts[NGHTTP2_SETTINGS] != 0)
        wire_send(wire, NGHTTP2_SETTINGS, WIRE_ACK, 0, NULL, 0); /* to its SETTINGS */
}

void wire_settings(struct wire *wire, uint16_t id, uint32_t value)
{
    uint8_t payload[6] = {(uint8_t)(id >> 8), (uint8_t)id};

    put_be32(payload + 2, value);
    wire_send(wire, NGHTTP2_SETTINGS, 0, 0, payload, sizeof(payload));
}

void wire_u32(struct wire *wire, uint8_t type, uint32_t stream, uint32_t value)
{
    uint8_t payload[4];

    put_be32(payload, value);
    wire_send(wire, type, 0, stream, payload, sizeof(payload));
}

void wire_grpc(struct wire *wire, uint8_t flags, uint32_t stream, const void *ptr, size_t len)
{
    uint8_t *message = mem_alloc(5 + len);

    message[0] = 0;
    put_be32(message + 1, (uint32_t)len);
    if (len != 0)
        memcpy(message + 5, ptr, len);
    wire_send(wire, NGHTTP2_DATA, flags, stream, message, 5 + len);
    mem_free(message);
}

/* HPACK's integer with a prefix of seven bits, high bit clear. */
static void wire_length(struct buf *block, size_t len)
{
    uint8_t byte = (uint8_t)(len < 127 ? len : 127);

    wire_add(block, &byte, 1);
    if (len < 127)
        return;
    for (len -= 127; len >= 128; len >>= 7) {
        byte = (uint8_t)(len | 0x80);
        wire_add(block, &byte, 1);
    }
    byte = (uint8_t)len;
    wire_add(block, &byte, 1);
}

void wire_block(struct buf *block, struct bytes name, struct bytes value)
{
    wire_add(block, "\0", 1); /* literal, not indexed, new name */
    wire_length(block, name.len);
    wire_add(block, name.ptr, name.len);
    wire_length(block, value.len);
    wire_add(block, value.ptr, value.len);
}

void wire_headers(struct wire *wire, uint8_t flags, uint32_t stream, const char *const *list)
{
    struct buf block = {NULL, 0, 0, 0, 0};

    for (; *list != NULL; list++) {
        const char *colon = strchr(*list + 1, ':');

        wire_block(&block, bytes_of(*list, (size_t)(colon - *list)), bytes_of_str(colon + 2));
    }
    wire_send(wire, NGHTTP2_HEADERS, flags | WIRE_END_HEADERS, stream, buf_view(&block).ptr,
              buf_size(&block));
    buf_fini(&block);
}

static void wire_decode(struct wire *wire, const struct wire_frame *frame)
{
    const uint8_t *at = frame->payload.ptr;
    size_t left = frame->payload.len;

    for (;;) {
        nghttp2_nv field;
        int flags = 0;
        ssize_t used = nghttp2_hd_inflate_hd2(wire->inflater, &field, &flags, at, left, 1);

        CHECK(used >= 0);
        at += used;
        left -= (size_t)used;
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0)
            CHECK(err_is_ok(buf_printf(&wire->headers, "%u %.*s: %.*s\n", frame->stream,
                                       (int)field.namelen, (const char *)field.name,
                                       (int)field.valuelen, (const char *)field.value)));
        if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0)
            break;
    }
    (void)nghttp2_hd_inflate_end_headers(wire->inflater);
}

static void wire_take(struct wire *wire, const struct wire_frame *frame)
{
    wire->counts[frame->type]++;
    if (frame->type == NGHTTP2_HEADERS)
        wire_decode(wire, frame);
    if ((frame->type == NGHTTP2_HEADERS || frame->type == NGHTTP2_DATA) &&
        (frame->flags & WIRE_END_STREAM) != 0)
        CHECK(err_is_ok(buf_printf(&wire->headers, "%u end\n", frame->stream)));
    if (frame->type == NGHTTP2_DATA) {
        wire->num_data += frame->payload.len;
        wire_add(&wire->data, frame->payload.ptr, frame->payload.len);
    }
    if ((frame->type == NGHTTP2_PING || frame->type == NGHTTP2_SETTINGS) &&
        (frame->flags & WIRE_ACK) != 0)
        wire->num_acks++;
    if (frame->type == NGHTTP2_RST_STREAM)
        wire->last_reset_code = get_be32(frame->payload.ptr);
    if (frame->type == NGHTTP2_GOAWAY) {
        wire->goaway = true;
        wire->goaway_last = get_be32(frame->payload.ptr);
        wire->goaway_code = get_be32(frame->payload.ptr + 4);
    }
}

static void wire_scan(struct wire *wire)
{
    struct bytes all = buf_view(&wire->recorder.data);

    if (wire->is_server && wire->parsed == 0 && all.len >= NGHTTP2_CLIENT_MAGIC_LEN)
        wire->parsed = NGHTTP2_CLIENT_MAGIC_LEN;
    while (all.len - wire->parsed >= 9) {
        const uint8_t *at = all.ptr + wire->parsed;
        size_t len = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
        struct wire_frame frame = {at[3], at[4], get_be32(at + 5), bytes_of(at + 9, len)};

        if (all.len - wire->parsed < 9 + len)
            break;
        wire->parsed += 9 + len;
        wire_take(wire, &frame);
    }
}

void wire_settle(struct wire *wire)
{
    looptest_settle(wire->loop);
    wire_scan(wire);
}

bool wire_has(struct wire *wire, const char *line)
{
    size_t len = strlen(line);
    struct bytes have = buf_view(&wire->headers);

    while (have.len > len) {
        const uint8_t *end = memchr(have.ptr, '\n', have.len);
        size_t line_len = (size_t)(end - have.ptr);

        if (line_len == len && memcmp(have.ptr, line, len) == 0)
            return true;
        have.ptr += line_len + 1;
        have.len -= line_len + 1;
    }
    return false;
}
