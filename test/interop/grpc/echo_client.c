/* echo_client: calls the service of echo.proto with lib/rpc, for servers made by others.
 *
 *   echo_client TARGET CA|- COMMAND [name=value ...]
 *
 * CA is a PEM file: TLS whose server certificate must chain to it; "-" is plaintext (Unix socket).
 * Commands: unary, expand, chat. Values: text, size (payload bytes), reply_bytes, count, delay_ms,
 * status, status_message, deadline_ms, times (unary: calls one after the other), keepalive_ms,
 * keepalive_timeout_ms, gap_ms (between calls). Each event is a line on standard output: "state
 * connected", "state failed NAME", "message INDEX TEXT SIZE", "done STATUS TEXT". The exit status
 * is that of the last call. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/rpc/grpc_client.h"
#include "test/interop/grpc/echo.pb-c.h"

struct echo_client {
    struct loop *loop;
    struct grpc_channel *channel;
    SSL_CTX *ctx;
    struct h2_limits limits;
    const char *command;
    Mortise__Test__EchoRequest request;
    uint64_t deadline_ms, gap_ms;
    unsigned long times, sent, received;
    struct grpc_client_call *call;
    struct timer timer;
    struct grpc_stream_events events;
    bool done;
    int status;
};

static void echo_client_begin(void *arg);

static void echo_client_over(struct echo_client *client, const struct grpc_result *result)
{
    (void)printf("done %s %s%s%s\n", grpc_status_name(result->status), result->message,
                 result->err.code == E_OK ? "" : " err=",
                 result->err.code == E_OK ? "" : err_name(result->err.code));
    (void)fflush(stdout);
    client->status = (int)result->status;
    if (--client->times == 0)
        client->done = true;
    else
        timer_start(client->loop, &client->timer, client->gap_ms, echo_client_begin, client);
}

static void echo_client_message(const Mortise__Test__EchoReply *reply)
{
    (void)printf("message %u %s %zu\n", reply->index, reply->text, reply->payload.len);
    (void)fflush(stdout);
}

static void echo_client_on_unary(void *arg, const struct grpc_result *result,
                                 const ProtobufCMessage *reply)
{
    if (reply != NULL)
        echo_client_message((const Mortise__Test__EchoReply *)reply);
    echo_client_over(arg, result);
}

static void echo_client_send(struct echo_client *client)
{
    err_t err = grpc_stream_send(client->call, &client->request.base);

    if (!err_is_ok(err)) {
        (void)printf("send %s\n", err_name(err.code));
        (void)fflush(stdout);
    }
    client->sent++;
}

static void echo_client_on_open(void *arg)
{
    (void)arg;
    (void)printf("open\n");
    (void)fflush(stdout);
}

/* Ping-pong: each echo brings the next message, after the last one we half-close. */
static void echo_client_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct echo_client *client = arg;

    echo_client_message((const Mortise__Test__EchoReply *)msg);
    client->received++;
    if (strcmp(client->command, "chat") != 0)
        return;
    if (client->sent < client->request.count)
        echo_client_send(client);
    else if (client->received == client->request.count)
        grpc_stream_half_close(client->call);
}

static void echo_client_on_done(void *arg, const struct grpc_result *result)
{
    echo_client_over(arg, result);
}

static void echo_client_begin(void *arg)
{
    struct echo_client *client = arg;

    if (strcmp(client->command, "unary") == 0) {
        client->call = grpc_unary(client->channel, "/mortise.test.Echo/Unary",
                                  &client->request.base, &mortise__test__echo_reply__descriptor,
                                  client->deadline_ms, echo_client_on_unary, client);
        return;
    }
    client->call =
        grpc_stream_open(client->channel,
                         strcmp(client->command, "chat") == 0 ? "/mortise.test.Echo/Chat"
                                                              : "/mortise.test.Echo/Expand",
                         &mortise__test__echo_reply__descriptor, 1 << 20, client->deadline_ms,
                         &client->events, client);
    client->sent = client->received = 0;
    echo_client_send(client);
    if (strcmp(client->command, "chat") != 0)
        grpc_stream_half_close(client->call);
}

static void echo_client_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    (void)arg;
    (void)retry_ms;
    if (connected)
        (void)printf("state connected\n");
    else
        (void)printf("state failed %s\n", err_name(err.code));
    (void)fflush(stdout);
}

static SSL_CTX *echo_client_tls(void *arg)
{
    struct echo_client *client = arg;

    SSL_CTX_up_ref(client->ctx);
    return client->ctx;
}

static void echo_client_set(struct echo_client *client, char *setting)
{
    char *value = strchr(setting, '=');
    unsigned long number;

    CHECK(value != NULL);
    *value++ = '\0';
    number = strtoul(value, NULL, 10);
    if (strcmp(setting, "text") == 0)
        client->request.text = value;
    else if (strcmp(setting, "status_message") == 0)
        client->request.status_message = value;
    else if (strcmp(setting, "size") == 0)
        client->request.payload = (ProtobufCBinaryData){.len = number, .data = mem_zalloc(number)};
    else if (strcmp(setting, "reply_bytes") == 0)
        client->request.reply_bytes = (uint32_t)number;
    else if (strcmp(setting, "count") == 0)
        client->request.count = (uint32_t)number;
    else if (strcmp(setting, "delay_ms") == 0)
        client->request.delay_ms = (uint32_t)number;
    else if (strcmp(setting, "status") == 0)
        client->request.status = (uint32_t)number;
    else if (strcmp(setting, "deadline_ms") == 0)
        client->deadline_ms = number;
    else if (strcmp(setting, "times") == 0)
        client->times = number;
    else if (strcmp(setting, "gap_ms") == 0)
        client->gap_ms = number;
    else if (strcmp(setting, "keepalive_ms") == 0)
        client->limits.keepalive_ms = number;
    else if (strcmp(setting, "keepalive_timeout_ms") == 0)
        client->limits.keepalive_timeout_ms = number;
    else
        CHECK(!"a known setting");
}

int main(int argc, char **argv)
{
    struct echo_client client = {
        .loop = loop_new(&clock_system),
        .request = MORTISE__TEST__ECHO_REQUEST__INIT,
        .deadline_ms = 10000,
        .times = 1,
        .limits = h2_limits_default,
        .events = {echo_client_on_open, echo_client_on_message, echo_client_on_done},
    };
    struct grpc_channel_params params = {
        .backoff_base_ms = 50,
        .backoff_max_ms = 500,
        .on_state = echo_client_on_state,
        .limits = &client.limits,
        .arg = &client,
    };
    static const uint8_t alpn[] = {2, 'h', '2'};

    if (argc < 4) {
        (void)fprintf(stderr, "usage: echo_client TARGET CA|- COMMAND [name=value ...]\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    params.target = argv[1];
    client.command = argv[3];
    for (int i = 4; i < argc; i++)
        echo_client_set(&client, argv[i]);
    if (strcmp(argv[2], "-") != 0) {
        client.ctx = SSL_CTX_new(TLS_method());
        CHECK(SSL_CTX_load_verify_locations(client.ctx, argv[2], NULL) == 1);
        SSL_CTX_set_verify(client.ctx, SSL_VERIFY_PEER, NULL);
        CHECK(SSL_CTX_set_alpn_protos(client.ctx, alpn, sizeof(alpn)) == 0);
        params.tls = echo_client_tls;
        params.server_name = "localhost";
    }
    client.channel = grpc_channel_new(client.loop, &params);
    echo_client_begin(&client);
    while (!client.done)
        loop_run_once(client.loop, true);

    timer_stop(client.loop, &client.timer);
    grpc_channel_close(client.channel);
    loop_run_once(client.loop, false);
    loop_free(client.loop);
    mem_free(client.request.payload.data);
    SSL_CTX_free(client.ctx);
    return client.status;
}
