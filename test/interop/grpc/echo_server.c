/* echo_server: the service of echo.proto on lib/rpc, for clients made by others.
 *
 *   echo_server ADDRESS [CERT KEY]
 *
 * listens on "127.0.0.1:0" or "unix:/path" (with CERT and KEY over TLS), prints "listening ADDRESS"
 * and serves until it gets SIGTERM: it then drains and ends. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "lib/rpc/grpc_server.h"
#include "test/interop/grpc/echo.pb-c.h"

struct echo {
    struct loop *loop;
    struct listener *listener;
    struct grpc_server *server;
    SSL_CTX *ctx;
    uv_signal_t term;
    bool drained;
};

/* The data of a call: an answer that waits for its time, or the rest of an Expand. */
struct echo_call {
    struct echo *echo;
    struct grpc_call *call;
    struct timer timer;
    Mortise__Test__EchoRequest *request; /* a copy */
    uint32_t next;
    bool chat;
};

static void echo_reply(struct grpc_call *call, const Mortise__Test__EchoRequest *request,
                       uint32_t index, bool last)
{
    Mortise__Test__EchoReply reply = MORTISE__TEST__ECHO_REPLY__INIT;
    uint8_t *payload = NULL;
    err_t err = OK;

    reply.text = request->text;
    reply.index = index;
    reply.payload = request->payload;
    if (request->reply_bytes != 0) {
        payload = mem_alloc(request->reply_bytes);
        for (uint32_t i = 0; i < request->reply_bytes; i++)
            payload[i] = (uint8_t)(i * 31 + index);
        reply.payload.data = payload;
        reply.payload.len = request->reply_bytes;
    }
    if (last)
        grpc_call_reply(call, &reply.base);
    else
        err = grpc_call_send(call, &reply.base);
    if (!err_is_ok(err))
        grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
    mem_free(payload);
}

static void echo_on_expand(struct grpc_call *call, void *service)
{
    struct echo_call *data = grpc_call_data(call);

    (void)service;
    /* Only as fast as the client takes it. */
    while (data->next < data->request->count && grpc_call_queued(call) == 0)
        echo_reply(call, data->request, data->next++, false);
    if (data->next == data->request->count)
        grpc_call_finish(call, GRPC_OK, NULL);
}

static void echo_answer(void *arg)
{
    struct echo_call *data = arg;

    if (data->request->status != 0)
        grpc_call_finish(data->call, (enum grpc_status)data->request->status,
                         data->request->status_message);
    else
        echo_reply(data->call, data->request, 0, true);
}

static struct echo_call *echo_data(struct grpc_call *call, struct echo *echo,
                                   const Mortise__Test__EchoRequest *request)
{
    struct echo_call *data = mem_zalloc(sizeof(*data));
    size_t len = mortise__test__echo_request__get_packed_size(request);
    uint8_t *packed = mem_alloc(len);

    mortise__test__echo_request__pack(request, packed);
    data->echo = echo;
    data->call = call;
    data->request = mortise__test__echo_request__unpack(NULL, len, packed);
    mem_free(packed);
    grpc_call_set_data(call, data);
    return data;
}

static void echo_on_done(struct grpc_call *call, void *service)
{
    struct echo_call *data = grpc_call_data(call);

    (void)service;
    if (data == NULL)
        return;
    timer_stop(data->echo->loop, &data->timer);
    mortise__test__echo_request__free_unpacked(data->request, NULL);
    mem_free(data);
}

static void echo_unary(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    const Mortise__Test__EchoRequest *request = (const Mortise__Test__EchoRequest *)msg;
    struct echo_call *data = echo_data(call, service, request);

    if (request->delay_ms != 0)
        timer_start(data->echo->loop, &data->timer, request->delay_ms, echo_answer, data);
    else
        echo_answer(data);
}

static void echo_expand(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)echo_data(call, service, (const Mortise__Test__EchoRequest *)msg);
    grpc_call_on_writable(call, echo_on_expand);
    echo_on_expand(call, service);
}

static void echo_chat(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    const Mortise__Test__EchoRequest *request = (const Mortise__Test__EchoRequest *)msg;

    (void)service;
    if (request->status != 0)
        grpc_call_finish(call, (enum grpc_status)request->status, request->status_message);
    else
        echo_reply(call, request, 0, false);
}

static const struct grpc_method echo_methods[] = {
    {
        .path = "/mortise.test.Echo/Unary",
        .in = &mortise__test__echo_request__descriptor,
        .out = &mortise__test__echo_reply__descriptor,
        .max_message = 4 << 20,
        .on_message = echo_unary,
        .on_done = echo_on_done,
    },
    {
        .path = "/mortise.test.Echo/Expand",
        .in = &mortise__test__echo_request__descriptor,
        .out = &mortise__test__echo_reply__descriptor,
        .max_message = 65536,
        .on_message = echo_expand,
        .on_done = echo_on_done,
    },
    {
        .path = "/mortise.test.Echo/Chat",
        .in = &mortise__test__echo_request__descriptor,
        .out = &mortise__test__echo_reply__descriptor,
        .max_message = 1 << 20,
        .client_streaming = true,
        .on_message = echo_chat,
    },
};

static enum grpc_status echo_authorize(void *arg, const struct grpc_peer *peer,
                                       const struct grpc_method *method, const char **out_reason)
{
    (void)arg;
    (void)peer;
    (void)method;
    (void)out_reason;
    return GRPC_OK;
}

static int echo_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                     unsigned in_len, void *arg)
{
    static const uint8_t want[] = {2, 'h', '2'};

    (void)ssl;
    (void)arg;
    for (unsigned i = 0; i + 2 < in_len; i += in[i] + 1u) {
        if (in[i] == 2 && memcmp(in + i, want, 3) == 0) {
            *out = in + i + 1;
            *out_len = 2;
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

struct echo_accept {
    struct echo *echo;
    struct grpc_peer peer;
    struct stream *stream;
};

static void echo_on_handshake(void *arg, err_t err)
{
    struct echo_accept *accept = arg;

    if (err_is_ok(err)) {
        accept->peer.tls = true;
        grpc_server_accept(accept->echo->server, accept->stream, &accept->peer);
    } else {
        (void)fprintf(stderr, "handshake: %s at %s\n", err_name(err.code), err.where);
        stream_close(accept->stream);
    }
    mem_free(accept);
}

static void echo_on_accept(void *arg, int fd, const struct addr *peer)
{
    struct echo *echo = arg;
    struct echo_accept *accept;
    struct tls_params params = {.ctx = echo->ctx, .role = TLS_SERVER};
    struct stream *tcp;

    if (!err_is_ok(tcp_new(echo->loop, fd, &tcp)))
        return;
    if (echo->ctx == NULL) {
        grpc_server_accept(echo->server, tcp, &(struct grpc_peer){.addr = *peer, .uid = (uid_t)-1});
        return;
    }
    accept = mem_zalloc(sizeof(*accept));
    *accept = (struct echo_accept){.echo = echo, .peer = {.addr = *peer, .uid = (uid_t)-1}};
    CHECK(err_is_ok(tls_new(tcp, &params, &accept->stream)));
    tls_handshake(accept->stream, echo_on_handshake, accept);
}

static void echo_on_term(uv_signal_t *handle, int number)
{
    struct echo *echo = handle->data;

    (void)number;
    if (!echo->drained)
        listener_close(echo->listener);
    echo->drained = true;
    grpc_server_drain(echo->server);
}

int main(int argc, char **argv)
{
    struct echo echo = {.loop = loop_new(&clock_system)};
    struct grpc_server_params server = {.authorize = echo_authorize};
    struct listener_params listen = {.unix_mode = 0600, .on_accept = echo_on_accept, .arg = &echo};
    char text[ADDR_TEXT_MAX];

    if (argc != 2 && argc != 4) {
        (void)fprintf(stderr, "usage: echo_server ADDRESS [CERT KEY]\n");
        return 2;
    }
    if (argc == 4) {
        echo.ctx = SSL_CTX_new(TLS_method());
        CHECK(SSL_CTX_use_certificate_chain_file(echo.ctx, argv[2]) == 1);
        CHECK(SSL_CTX_use_PrivateKey_file(echo.ctx, argv[3], SSL_FILETYPE_PEM) == 1);
        SSL_CTX_set_alpn_select_cb(echo.ctx, echo_alpn, NULL);
    }
    (void)signal(SIGPIPE, SIG_IGN);
    echo.server = grpc_server_new(echo.loop, &server);
    grpc_server_add(echo.server, echo_methods, ARRAY_LEN(echo_methods), &echo);
    CHECK(err_is_ok(addr_parse(argv[1], &listen.addr)));
    CHECK(err_is_ok(listener_new(echo.loop, &listen, &echo.listener)));
    listener_start(echo.listener);
    addr_format(listener_addr(echo.listener), text);
    (void)printf("listening %s\n", text);
    (void)fflush(stdout);

    CHECK(uv_signal_init(loop_uv(echo.loop), &echo.term) == 0);
    echo.term.data = &echo;
    CHECK(uv_signal_start(&echo.term, echo_on_term, SIGTERM) == 0);
    while (!echo.drained || grpc_server_num_connections(echo.server) != 0)
        loop_run_once(echo.loop, true);

    grpc_server_free(echo.server);
    loop_run_once(echo.loop, false);
    uv_close((uv_handle_t *)&echo.term, NULL);
    loop_free(echo.loop);
    SSL_CTX_free(echo.ctx);
    return 0;
}
