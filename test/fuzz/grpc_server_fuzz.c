/* A gRPC server of HTTP/2 frames: no bytes break it, every call that began ends once, and nothing
 * is left. The input is frames behind a client's greeting (second half of inputs: instead of it).
 * Drives: R75, R76. */
#include "lib/rpc/grpc_server.h"

#include "lib/base/mem.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"
#include "test/unit/rpc/sample.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

static size_t num_started, num_done;

static void on_start(struct grpc_call *call, void *service)
{
    (void)service;
    num_started++;
    grpc_call_set_data(call, call);
}

static void on_message(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    const Mortise__Test__Sample *sample = (const Mortise__Test__Sample *)msg;

    (void)service;
    if (sample->i32 < 0)
        grpc_call_finish(call, (enum grpc_status)(-sample->i32 % 17), sample->text);
    else
        (void)err_is_ok(grpc_call_send(call, msg));
}

static void on_unary(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)service;
    num_started++;
    grpc_call_set_data(call, call);
    grpc_call_reply(call, msg);
}

static void on_done(struct grpc_call *call, void *service)
{
    (void)service;
    num_done += grpc_call_data(call) != NULL;
}

static const struct grpc_method methods[] = {
    {
        .path = "/u",
        .in = &mortise__test__sample__descriptor,
        .out = &mortise__test__sample__descriptor,
        .max_message = 1000,
        .on_message = on_unary,
        .on_done = on_done,
    },
    {
        .path = "/s",
        .in = &mortise__test__sample__descriptor,
        .out = &mortise__test__sample__descriptor,
        .max_message = 1000,
        .client_streaming = true,
        .on_start = on_start,
        .on_message = on_message,
        .on_done = on_done,
    },
};

static enum grpc_status authorize(void *arg, const struct grpc_peer *peer,
                                  const struct grpc_method *method, const char **out_reason)
{
    (void)arg;
    (void)peer;
    (void)method;
    (void)out_reason;
    return GRPC_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    struct grpc_server_params params = {.authorize = authorize};
    struct recorder recorder = {.count_only = true};
    struct grpc_server *server;
    struct stream *served, *client;

    if (size < 2)
        return 0;
    if (loop == NULL)
        loop = loop_new(&clock_system);
    num_started = num_done = 0;
    server = grpc_server_new(loop, &params);
    grpc_server_add(server, methods, ARRAY_LEN(methods), NULL);
    memstream_pair(loop, &served, &client);
    memstream_script(served)->split_at = data[0];
    recorder_attach(&recorder, client);
    stream_read_start(client);
    grpc_server_accept(server, served, &(struct grpc_peer){.tls = false});
    if (data[0] < 128)
        CHECK(err_is_ok(stream_write(client, bytes_of(greeting, sizeof(greeting) - 1))));
    CHECK(err_is_ok(stream_write(client, bytes_of(data + 1, size - 1))));
    if (data[0] % 2 == 0)
        CHECK(err_is_ok(stream_shutdown(client)));
    for (int i = 0; i < 16; i++)
        loop_run_once(loop, false);
    grpc_server_free(server);
    CHECK(num_started == num_done);
    stream_close(client);
    recorder_fini(&recorder);
    for (int i = 0; i < 4; i++)
        loop_run_once(loop, false);
    return 0;
}
