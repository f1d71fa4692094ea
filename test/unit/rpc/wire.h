/* wire: the other end of an HTTP/2 connection made frame by frame, on a memory stream, under a
 * clock that stands still until the test moves it.
 *
 *   struct wire wire;
 *   wire_init(&wire, loop);            wire.lower is for the module under test
 *   wire_hello(&wire, true);           preface and SETTINGS of a client
 *   wire_headers(&wire, WIRE_END_STREAM, 1, WIRE_LIST(":method: POST", …));
 *   wire_settle(&wire);
 *   wire_count(&wire, NGHTTP2_GOAWAY)
 *   wire_fini(&wire);
 */
#ifndef MORTISE_TEST_UNIT_RPC_WIRE_H
#define MORTISE_TEST_UNIT_RPC_WIRE_H

#include <nghttp2/nghttp2.h>

#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"

#define WIRE_END_STREAM 0x1
#define WIRE_ACK 0x1
#define WIRE_END_HEADERS 0x4
#define WIRE_LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
/* What every gRPC request begins with. */
#define WIRE_POST(path)                                                                \
    ":method: POST", ":scheme: http", ":path: " path, ":authority: x", "te: trailers", \
        "content-type: application/grpc"

struct wire_frame {
    uint8_t type, flags;
    uint32_t stream;
    struct bytes payload; /* borrowed until more is received */
};

struct wire {
    struct loop *loop;
    struct stream *lower; /* of the module under test */
    struct stream *raw;   /* ours */
    struct recorder recorder;
    size_t parsed;
    size_t counts[256]; /* frames received, by type */
    size_t num_acks;    /* PING and SETTINGS with ACK */
    size_t num_data;    /* bytes of DATA */
    struct buf data;    /* them */
    struct buf headers; /* "STREAM NAME: VALUE\n" of all that were received, "STREAM end\n" */
    bool goaway;
    uint32_t goaway_code, goaway_last;
    uint32_t last_reset_code;
    nghttp2_hd_inflater *inflater;
    bool is_server; /* our side: no preface is in what we receive, if the other is a server */
    bool holding;
    struct buf out; /* not sent yet */
};

extern uint64_t wire_now_ms;
extern const struct clock wire_clock;

void wire_init(struct wire *wire, struct loop *loop);
/* wire_attach is wire_init with a connected stream as our side; `lower` is then NULL. */
void wire_attach(struct wire *wire, struct loop *loop, struct stream *raw);
void wire_fini(struct wire *wire);
/* wire_hello sends what a client or server begins with, and acknowledges the other's SETTINGS. */
void wire_hello(struct wire *wire, bool client);
void wire_send(struct wire *wire, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
               size_t len);
/* wire_bytes sends anything. */
void wire_bytes(struct wire *wire, const void *ptr, size_t len);
/* wire_headers sends "name: value" lines without compression, in one HEADERS frame. */
void wire_headers(struct wire *wire, uint8_t flags, uint32_t stream, const char *const *list);
/* wire_block appends the encoding of one field to a block. */
void wire_block(struct buf *block, struct bytes name, struct bytes value);
void wire_settings(struct wire *wire, uint16_t id, uint32_t value);
void wire_u32(struct wire *wire, uint8_t type, uint32_t stream, uint32_t value);
/* wire_grpc sends one gRPC message as DATA. */
void wire_grpc(struct wire *wire, uint8_t flags, uint32_t stream, const void *ptr, size_t len);
/* wire_settle lets all that is under way happen, and reads what came. */
void wire_settle(struct wire *wire);
static inline size_t wire_count(const struct wire *wire, uint8_t type)
{
    return wire->counts[type];
}
/* wire_has tells whether "STREAM NAME: VALUE" was received. */
bool wire_has(struct wire *wire, const char *line);
/* wire_hold begins to collect what is sent; wire_release sends it as one. */
void wire_hold(struct wire *wire);
void wire_release(struct wire *wire);

#endif
