#include "lib/rpc/grpc_server.h"

#include <stdio.h>

#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define GRPC_SERVER_CONNECTIONS_MAX 4096
#define GRPC_SERVER_REQUEST_MS 30000 /* for the one message of a call without client streaming */
#define GRPC_SERVER_FLUSH_MS 30000   /* for the client to take the answer of a finished call */
/* Bytes of a status message: a refused document tells every fault. Escaped it is at most three
 * times that, and clients take 16 KiB of headers. */
#define GRPC_SERVER_MESSAGE_MAX 4096
#define GRPC_SERVER_DEADLINE_MAX_MS \
    ((uint64_t)1 << 40) /* 35 years; a timer's sum does not overflow */

struct grpc_entry {
    const struct grpc_method *method;
    void *service;
};

struct grpc_server {
    struct loop *loop;
    struct grpc_server_params params;
    struct map methods; /* path to struct grpc_entry, owned */
    struct list conns;
    size_t num_conns;
    bool draining;
};

struct grpc_conn {
    struct list link;
    struct grpc_server *server;
    struct h2 *h2;
    struct grpc_peer peer;
    struct list calls;
    bool leaving; /* when its answers are out */
};

enum grpc_call_state {
    GRPC_CALL_OPEN,     /* the client may send more */
    GRPC_CALL_RECEIVED, /* the client has sent all of its messages */
    GRPC_CALL_ANSWERED, /* the status is queued or sent */
    GRPC_CALL_OVER,     /* on_done was called */
    GRPC_CALL_NUM,
};

#define TO(state) (1u << GRPC_CALL_##state)
static const unsigned grpc_call_next[GRPC_CALL_NUM] = {
    [GRPC_CALL_OPEN] = TO(RECEIVED) | TO(ANSWERED) | TO(OVER),
    [GRPC_CALL_RECEIVED] = TO(ANSWERED) | TO(OVER),
    [GRPC_CALL_ANSWERED] = TO(OVER),
    [GRPC_CALL_OVER] = 0,
};
#undef TO

struct grpc_call {
    struct list link;
    struct grpc_conn *conn;
    struct h2_stream *stream;         /* NULL once over */
    const struct grpc_method *method; /* NULL: refused before it began */
    void *service;
    enum grpc_call_state state;
    enum grpc_status status;
    struct grpc_decoder decoder;
    struct buf message; /* the one message of a call without client streaming */
    bool has_message;
    bool head_sent;
    struct timer deadline; /* the client's, or GRPC_SERVER_REQUEST_MS; then GRPC_SERVER_FLUSH_MS */
    bool deadline_is_clients;
    bool rechecked; /* and refused */
    uint64_t started_us;
    struct grpc_peer *own; /* by credentials of its own; NULL: whose connection it is */
    void (*on_writable)(struct grpc_call *call, void *service);
    void *data;
};

static void grpc_call_set_state(struct grpc_call *call, enum grpc_call_state state)
{
    CHECK((grpc_call_next[call->state] & 1u << state) != 0);
    call->state = state;
}

static const struct grpc_peer *grpc_call_who(const struct grpc_call *call)
{
    return call->own != NULL ? call->own : &call->conn->peer;
}

static bool grpc_call_is_open(const struct grpc_call *call)
{
    return call->state == GRPC_CALL_OPEN || call->state == GRPC_CALL_RECEIVED;
}

/* ---- the answer ---- */

static const struct h2_header grpc_head[] = {
    {{(const uint8_t *)":status", 7}, {(const uint8_t *)"200", 3}},
    {{(const uint8_t *)"content-type", 12}, {(const uint8_t *)"application/grpc", 16}},
};

static struct h2_header grpc_header(const char *name, struct bytes value)
{
    return (struct h2_header){bytes_of_str(name), value};
}

/* Sends the status: as trailers, or with the head in one block when nothing was sent yet. */
static err_t grpc_call_send_status(struct grpc_call *call, const char *message)
{
    struct h2_header headers[5] = {grpc_head[0], grpc_head[1]};
    struct buf text = {NULL, 0, 0, 0, 0};
    size_t num = call->head_sent ? 0 : 2;
    char number[16];
    err_t err = OK;

    (void)snprintf(number, sizeof(number), "%d", (int)call->status);
    headers[num++] = grpc_header("grpc-status", bytes_of_str(number));
    if (message != NULL)
        err = grpc_message_encode(message, &text);
    if (message != NULL && err_is_ok(err))
        headers[num++] = grpc_header("grpc-message", buf_view(&text));
    if (call->status == GRPC_UNIMPLEMENTED)
        headers[num++] = grpc_header("grpc-accept-encoding", bytes_of_str("identity"));
    if (err_is_ok(err))
        err = call->head_sent ? h2_trailers(call->stream, headers, num)
                              : h2_respond(call->stream, headers, num, true);
    buf_fini(&text);
    return err;
}

static void grpc_call_on_deadline(void *arg);

void grpc_call_finish(struct grpc_call *call, enum grpc_status status, const char *message)
{
    const struct grpc_server_params *params = &call->conn->server->params;
    struct loop *loop = call->conn->server->loop;
    char cut[GRPC_SERVER_MESSAGE_MAX + 1];

    if (!grpc_call_is_open(call))
        return;
    if (message != NULL && strlen(message) > GRPC_SERVER_MESSAGE_MAX) {
        memcpy(cut, message, GRPC_SERVER_MESSAGE_MAX);
        cut[GRPC_SERVER_MESSAGE_MAX] = '\0';
        message = cut;
    }
    call->status = status;
    if (call->method != NULL && params->on_answer != NULL)
        params->on_answer(params->arg, call, call->method, status, message, call->rechecked);
    grpc_call_set_state(call, GRPC_CALL_ANSWERED);
    grpc_decoder_fini(&call->decoder);
    buf_wipe_fini(&call->message);
    timer_start(loop, &call->deadline, GRPC_SERVER_FLUSH_MS, grpc_call_on_deadline, call);
    if (!err_is_ok(grpc_call_send_status(call, message)))
        h2_stream_reset(call->stream, 0x2); /* INTERNAL_ERROR */
}

static void grpc_call_on_deadline(void *arg)
{
    struct grpc_call *call = arg;

    if (call->state == GRPC_CALL_ANSWERED)
        h2_stream_reset(call->stream, 0x8); /* CANCEL: the client does not take the answer */
    else if (call->deadline_is_clients)
        grpc_call_finish(call, GRPC_DEADLINE_EXCEEDED, "deadline passed");
    else
        grpc_call_finish(call, GRPC_CANCELLED, "request was not completed in time");
}

/* The status for a request that does not parse or is too large. */
static void grpc_call_refuse(struct grpc_call *call, err_t err)
{
    enum grpc_status status = GRPC_INVALID_ARGUMENT;

    if (err_is(err, E_TOO_LARGE))
        status = GRPC_RESOURCE_EXHAUSTED;
    else if (err_is(err, E_GRPC_FRAME))
        status = GRPC_INTERNAL; /* PROTOCOL-HTTP2: compressed without an encoding */
    grpc_call_finish(call, status, err_text(err.code));
}

err_t grpc_call_send(struct grpc_call *call, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    struct buf frame = {NULL, 0, 0, 0, 0};
    uint8_t *prefix;
    err_t err;

    if (!grpc_call_is_open(call))
        return FAIL(CLOSED, 0);
    if (!call->head_sent) {
        TRY(h2_respond(call->stream, grpc_head, ARRAY_LEN(grpc_head), false));
        call->head_sent = true;
    }
    err = buf_reserve(&frame, len + 5, &prefix);
    if (err_is_ok(err)) {
        prefix[0] = 0;
        put_be32(prefix + 1, (uint32_t)len);
        buf_commit(&frame, 5);
        err = pb_pack(msg, &frame);
    }
    if (err_is_ok(err))
        err = h2_send(call->stream, buf_view(&frame), false);
    buf_wipe_fini(&frame); /* as it may have keys */
    return err;
}

void grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *msg)
{
    err_t err = grpc_call_send(call, msg);

    if (err_is_ok(err))
        grpc_call_finish(call, GRPC_OK, NULL);
    else
        grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
}

size_t grpc_call_queued(const struct grpc_call *call)
{
    return call->stream != NULL ? h2_stream_queued(call->stream) : 0;
}

void grpc_call_on_writable(struct grpc_call *call,
                           void (*fn)(struct grpc_call *call, void *service))
{
    call->on_writable = fn;
}

const struct grpc_peer *grpc_call_peer(const struct grpc_call *call)
{
    return grpc_call_who(call);
}

void grpc_call_set_data(struct grpc_call *call, void *data)
{
    call->data = data;
}

void *grpc_call_data(const struct grpc_call *call)
{
    return call->data;
}

/* ---- the life of a call ---- */

static void grpc_call_free(void *arg)
{
    struct grpc_call *call = arg;

    grpc_decoder_fini(&call->decoder);
    buf_wipe_fini(&call->message);
    mem_free(call);
}

static void grpc_call_forget_who(struct grpc_call *call)
{
    const struct grpc_server_params *params = &call->conn->server->params;

    if (call->own != NULL && params->free_identity != NULL)
        params->free_identity(params->arg, call->own->identity);
    mem_free(call->own);
    call->own = NULL;
}

/* The call is over on the wire, or its connection is. */
static void grpc_call_over(struct grpc_call *call)
{
    struct grpc_server *server = call->conn->server;

    if (grpc_call_is_open(call))
        call->status = GRPC_CANCELLED;
    grpc_call_set_state(call, GRPC_CALL_OVER);
    timer_stop(server->loop, &call->deadline);
    list_del(&call->link);
    if (call->method != NULL && call->method->on_done != NULL)
        call->method->on_done(call, call->service);
    call->stream = NULL;
    /* The path of an unknown method is the client's word: no label for metrics. */
    if (server->params.on_finished != NULL)
        server->params.on_finished(server->params.arg, grpc_call_who(call),
                                   call->method != NULL ? call->method->path : "unknown",
                                   call->status, clock_mono_us() - call->started_us);
    grpc_call_forget_who(call);
    loop_defer(server->loop, grpc_call_free, call); /* its own callback may be on the stack */
}

static struct bytes grpc_find(const struct h2_header *headers, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (bytes_equal_str(headers[i].name, name))
            return headers[i].value;
    }
    return bytes_of(NULL, 0);
}

static bool grpc_is_content_type(struct bytes value)
{
    static const char prefix[] = "application/grpc";
    size_t len = sizeof(prefix) - 1;

    return value.len >= len && memcmp(value.ptr, prefix, len) == 0 &&
           (value.len == len || value.ptr[len] == '+' || value.ptr[len] == ';');
}

/* A plain HTTP answer for what is not gRPC. */
static void grpc_refuse_http(struct h2_stream *stream, const char *status)
{
    const struct h2_header headers[] = {grpc_header(":status", bytes_of_str(status))};

    if (!err_is_ok(h2_respond(stream, headers, 1, true)))
        h2_stream_reset(stream, 0x2);
}

static err_t grpc_call_arm(struct grpc_call *call, struct bytes timeout)
{
    struct loop *loop = call->conn->server->loop;
    uint64_t ms = GRPC_SERVER_REQUEST_MS;

    if (timeout.ptr != NULL) {
        TRY(grpc_timeout_parse(timeout, &ms));
        call->deadline_is_clients = true;
        if (ms > GRPC_SERVER_DEADLINE_MAX_MS)
            ms = GRPC_SERVER_DEADLINE_MAX_MS;
    } else if (call->method->client_streaming) {
        return OK;
    }
    timer_start(loop, &call->deadline, ms, grpc_call_on_deadline, call);
    return OK;
}

/* Who calls, and whether he may. A header that came twice says nothing. */
static enum grpc_status grpc_call_admit(struct grpc_call *call, const struct grpc_method *method,
                                        const struct h2_header *headers, size_t num,
                                        const char **out_reason)
{
    const struct grpc_server_params *params = &call->conn->server->params;
    struct bytes credentials = {NULL, 0};
    void *identity = NULL;
    enum grpc_status status;
    size_t found = 0;

    for (size_t i = 0; i < num && params->identify != NULL; i++) {
        if (bytes_equal_str(headers[i].name, "authorization")) {
            credentials = headers[i].value;
            found++;
        }
    }
    if (found > 1) {
        *out_reason = "more than one authorization";
        return GRPC_UNAUTHENTICATED;
    }
    if (found == 1) {
        status =
            params->identify(params->arg, &call->conn->peer, credentials, &identity, out_reason);
        if (status != GRPC_OK)
            return status;
        call->own = mem_dup(&call->conn->peer, sizeof(*call->own));
        call->own->identity = identity;
    }
    if (params->authorize == NULL)
        return GRPC_PERMISSION_DENIED;
    return params->authorize(params->arg, grpc_call_who(call), method, out_reason);
}

/* Finds and admits the method; the call is finished if it may not begin. */
static void grpc_call_begin(struct grpc_call *call, const struct h2_header *headers, size_t num)
{
    struct grpc_server *server = call->conn->server;
    struct bytes path = grpc_find(headers, num, ":path");
    struct bytes encoding = grpc_find(headers, num, "grpc-encoding");
    const struct grpc_entry *entry = NULL;
    const char *reason = "not allowed";
    enum grpc_status status;
    char name[256];

    if (path.len < sizeof(name)) {
        memcpy(name, path.ptr, path.len);
        name[path.len] = '\0';
        entry = map_get(&server->methods, name);
    }
    if (entry == NULL) {
        grpc_call_finish(call, GRPC_UNIMPLEMENTED, "unknown method");
        return;
    }
    status = grpc_call_admit(call, entry->method, headers, num, &reason);
    if (status != GRPC_OK) {
        grpc_call_finish(call, status, reason);
        return;
    }
    if (encoding.ptr != NULL && !bytes_equal_str(encoding, "identity")) {
        grpc_call_finish(call, GRPC_UNIMPLEMENTED, "compression is not supported");
        return;
    }
    call->method = entry->method;
    call->service = entry->service;
    grpc_decoder_init(&call->decoder, entry->method->max_message);
    if (!err_is_ok(grpc_call_arm(call, grpc_find(headers, num, "grpc-timeout")))) {
        call->method = NULL; /* not begun: on_done is not due */
        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "malformed grpc-timeout");
        return;
    }
    if (call->method->client_streaming && call->method->on_start != NULL)
        call->method->on_start(call, call->service);
}

static void grpc_call_deliver(struct grpc_call *call, struct bytes message)
{
    ProtobufCMessage *msg;
    err_t err = pb_unpack(call->method->in, message, call->method->max_message, &msg);

    if (!err_is_ok(err)) {
        grpc_call_refuse(call, err);
        return;
    }
    call->method->on_message(call, call->service, msg);
    pb_free(msg);
}

/* The one message of a call without client streaming waits for the end, which proves it the only
 * one. */
static void grpc_call_keep(struct grpc_call *call, struct bytes message)
{
    if (call->has_message) {
        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "more than one message");
        return;
    }
    call->has_message = true;
    buf_init(&call->message, call->method->max_message);
    if (!err_is_ok(buf_add(&call->message, message.ptr, message.len)))
        grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, err_text(E_TOO_LARGE));
}

static void grpc_call_on_bytes(struct grpc_call *call, struct bytes data)
{
    err_t err = grpc_decoder_feed(&call->decoder, data);
    struct bytes message;

    while (err_is_ok(err) && call->state == GRPC_CALL_OPEN) {
        err = grpc_decoder_next(&call->decoder, &message);
        if (!err_is_ok(err))
            break;
        if (call->method->client_streaming)
            grpc_call_deliver(call, message);
        else
            grpc_call_keep(call, message);
    }
    if (!err_is_ok(err) && !err_is(err, E_AGAIN))
        grpc_call_refuse(call, err);
}

static void grpc_call_on_end(struct grpc_call *call)
{
    if (!grpc_decoder_idle(&call->decoder)) {
        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "message is cut short");
        return;
    }
    grpc_call_set_state(call, GRPC_CALL_RECEIVED);
    if (call->method->client_streaming) {
        if (call->method->on_half_close != NULL)
            call->method->on_half_close(call, call->service);
        else
            grpc_call_finish(call, GRPC_OK, NULL);
        return;
    }
    if (!call->has_message) {
        grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "no message");
        return;
    }
    if (!call->deadline_is_clients) /* the time was for the request alone */
        timer_stop(call->conn->server->loop, &call->deadline);
    grpc_call_deliver(call, buf_view(&call->message));
}

/* ---- events of a connection ---- */

static void grpc_conn_on_headers(void *arg, struct h2_stream *stream,
                                 const struct h2_header *headers, size_t num, bool trailers,
                                 bool end)
{
    struct grpc_conn *conn = arg;
    struct grpc_call *call = h2_stream_data(stream);

    if (trailers) { /* of a request: not used by gRPC; its end is the message */
        if (call != NULL && call->state == GRPC_CALL_OPEN)
            grpc_call_on_end(call);
        return;
    }
    if (!bytes_equal_str(grpc_find(headers, num, ":method"), "POST")) {
        grpc_refuse_http(stream, "405");
        return;
    }
    if (!grpc_is_content_type(grpc_find(headers, num, "content-type"))) {
        grpc_refuse_http(stream, "415");
        return;
    }
    call = mem_try(sizeof(*call));
    if (call == NULL) {
        h2_stream_reset(stream, 0x7); /* REFUSED_STREAM */
        return;
    }
    call->conn = conn;
    call->stream = stream;
    call->started_us = clock_mono_us();
    list_add_tail(&conn->calls, &call->link);
    h2_stream_set_data(stream, call);
    grpc_call_begin(call, headers, num);
    if (end && call->state == GRPC_CALL_OPEN)
        grpc_call_on_end(call);
}

static void grpc_conn_on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    struct grpc_call *call = h2_stream_data(stream);

    (void)arg;
    /* Taken at once: what is kept is at most one message. */
    h2_stream_consume(stream, data.len);
    if (call == NULL || call->state != GRPC_CALL_OPEN)
        return;
    if (data.len != 0)
        grpc_call_on_bytes(call, data);
    if (end && call->state == GRPC_CALL_OPEN)
        grpc_call_on_end(call);
}

static void grpc_conn_on_writable(void *arg, struct h2_stream *stream)
{
    struct grpc_call *call = h2_stream_data(stream);

    (void)arg;
    if (call != NULL && call->on_writable != NULL && grpc_call_is_open(call))
        call->on_writable(call, call->service);
}

static void grpc_conn_on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct grpc_call *call = h2_stream_data(stream);

    (void)arg;
    (void)err;
    if (call != NULL)
        grpc_call_over(call);
}

static void grpc_conn_on_goaway(void *arg)
{
    struct grpc_conn *conn = arg;

    h2_goaway(conn->h2); /* the client begins no more; it ends when its calls have */
}

/* Ends the connection; h2 no longer calls. */
static void grpc_conn_close(struct grpc_conn *conn)
{
    struct grpc_server *server = conn->server;

    h2_close(conn->h2);
    while (!list_empty(&conn->calls))
        grpc_call_over(LIST_ITEM(conn->calls.next, struct grpc_call, link));
    list_del(&conn->link);
    server->num_conns--;
    if (conn->peer.identity != NULL && server->params.free_identity != NULL)
        server->params.free_identity(server->params.arg, conn->peer.identity);
    loop_defer(server->loop, mem_free, conn);
}

static void grpc_conn_on_broken(void *arg, err_t err)
{
    struct grpc_conn *conn = arg;

    if (!err_is_ok(err) && !err_is(err, E_CLOSED) && log_enabled(LOG_INFO, "grpc")) {
        char text[ADDR_TEXT_MAX];

        addr_format(&conn->peer.addr, text);
        log_limited(LOG_INFO, "grpc", "connection_broken",
                    (const struct log_field[]){LOG_STR("peer", text), LOG_ERR("reason", err)}, 2);
    }
    grpc_conn_close(conn);
}

static const struct h2_events grpc_conn_events = {
    .on_headers = grpc_conn_on_headers,
    .on_data = grpc_conn_on_data,
    .on_writable = grpc_conn_on_writable,
    .on_close = grpc_conn_on_close,
    .on_goaway = grpc_conn_on_goaway,
    .on_broken = grpc_conn_on_broken,
};

/* ---- the server ---- */

struct grpc_server *grpc_server_new(struct loop *loop, const struct grpc_server_params *params)
{
    struct grpc_server *server = mem_zalloc(sizeof(*server));

    server->loop = loop;
    server->params = *params;
    if (server->params.max_connections == 0)
        server->params.max_connections = GRPC_SERVER_CONNECTIONS_MAX;
    list_init(&server->conns);
    return server;
}

void grpc_server_add(struct grpc_server *server, const struct grpc_method *methods, size_t num,
                     void *service)
{
    for (size_t i = 0; i < num; i++) {
        struct grpc_entry *entry = mem_alloc(sizeof(*entry));

        *entry = (struct grpc_entry){&methods[i], service};
        CHECK(map_put(&server->methods, methods[i].path, entry) == NULL);
    }
}

void grpc_server_accept(struct grpc_server *server, struct stream *stream,
                        const struct grpc_peer *peer)
{
    struct grpc_conn *conn = NULL;

    if (!server->draining && server->num_conns < server->params.max_connections)
        conn = mem_try(sizeof(*conn));
    if (conn == NULL) {
        stream_close(stream);
        if (peer->identity != NULL && server->params.free_identity != NULL)
            server->params.free_identity(server->params.arg, peer->identity);
        return;
    }
    conn->server = server;
    conn->peer = *peer;
    list_init(&conn->calls);
    list_add_tail(&server->conns, &conn->link);
    server->num_conns++;
    conn->h2 = h2_new(stream, true, server->params.limits, &grpc_conn_events, conn);
}

void grpc_server_drain(struct grpc_server *server)
{
    struct list *pos, *tmp;

    server->draining = true;
    LIST_EACH (pos, tmp, &server->conns)
        h2_goaway(LIST_ITEM(pos, struct grpc_conn, link)->h2);
}

void grpc_server_free(struct grpc_server *server)
{
    const char *path;
    void *entry;
    size_t iter = 0;

    while (!list_empty(&server->conns))
        grpc_conn_close(LIST_ITEM(server->conns.next, struct grpc_conn, link));
    while (map_next(&server->methods, &iter, &path, &entry))
        mem_free(entry);
    map_fini(&server->methods);
    loop_defer(server->loop, mem_free, server); /* a callback of it may be on the stack */
}

size_t grpc_server_num_connections(const struct grpc_server *server)
{
    return server->num_conns;
}

/* Whether answers are on their way, and nothing else is going on. */
static bool grpc_conn_is_answered(const struct grpc_conn *conn)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &conn->calls) {
        if (grpc_call_is_open(LIST_ITEM(pos, struct grpc_call, link)))
            return false;
    }
    return !list_empty(&conn->calls);
}

void grpc_server_close_if(struct grpc_server *server,
                          bool (*match)(void *arg, const struct grpc_peer *peer), void *arg)
{
    struct list *pos, *tmp;

    /* on_done of one connection's calls may not close others. */
    LIST_EACH (pos, tmp, &server->conns) {
        struct grpc_conn *conn = LIST_ITEM(pos, struct grpc_conn, link);

        if (!match(arg, &conn->peer))
            continue;
        if (conn->leaving || !grpc_conn_is_answered(conn)) {
            grpc_conn_close(conn);
            continue;
        }
        conn->leaving = true;
        h2_goaway(conn->h2);
    }
}

static void grpc_call_recheck(struct grpc_call *call)
{
    const struct grpc_server_params *params = &call->conn->server->params;
    const char *reason = NULL;
    enum grpc_status status;

    if (call->method == NULL || !grpc_call_is_open(call))
        return;
    status = params->authorize(params->arg, grpc_call_who(call), call->method, &reason);
    call->rechecked = status != GRPC_OK;
    if (call->rechecked)
        grpc_call_finish(call, status, reason);
}

void grpc_server_recheck(struct grpc_server *server)
{
    struct list *pos, *tmp, *call_pos, *call_tmp;

    /* Finishing sends, and what was sent is dealt with later: no call and no connection goes
     * meanwhile. */
    LIST_EACH (pos, tmp, &server->conns) {
        LIST_EACH (call_pos, call_tmp, &LIST_ITEM(pos, struct grpc_conn, link)->calls)
            grpc_call_recheck(LIST_ITEM(call_pos, struct grpc_call, link));
    }
}
