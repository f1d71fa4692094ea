/* h2_server: lib/rpc/h2 with the simplest service above it, for h2spec.
 *
 *   h2_server ADDRESS
 *
 * listens on "127.0.0.1:0", prints "listening ADDRESS" and serves HTTP/2 without TLS until SIGTERM.
 * A request that is whole is answered with 200 and a few bytes, a moment later: so a client sees
 * what comes of the frames that it sends on a stream which is still being worked on. (gRPC answers
 * h2spec's GET at once, with a head alone: half of h2spec then looks at a stream that is over.) */
#include <signal.h>
#include <stdio.h>

#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "lib/net/tcp.h"
#include "lib/rpc/h2.h"

#define ANSWER_MS 30 /* more than h2spec needs between two frames, and less than it waits */

struct server {
    struct loop *loop;
    struct listener *listener;
    uv_signal_t term;
    bool over;
};

struct client {
    struct server *server;
    struct h2 *h2;
};

struct request {
    struct client *client;
    struct h2_stream *stream;
    struct timer timer;
};

static void server_answer(void *arg)
{
    struct request *request = arg;
    const struct h2_header head[] = {{bytes_of_str(":status"), bytes_of_str("200")},
                                     {bytes_of_str("content-type"), bytes_of_str("text/plain")}};

    if (!err_is_ok(h2_respond(request->stream, head, ARRAY_LEN(head), false)) ||
        !err_is_ok(h2_send(request->stream, bytes_of_str("an answer\n"), true)))
        h2_stream_reset(request->stream, 2); /* INTERNAL_ERROR */
}

static void server_on_end(struct request *request)
{
    timer_start(request->client->server->loop, &request->timer, ANSWER_MS, server_answer, request);
}

static void server_on_headers(void *arg, struct h2_stream *stream, const struct h2_header *headers,
                              size_t num, bool trailers, bool end)
{
    struct request *request = h2_stream_data(stream);

    (void)headers;
    (void)num;
    if (!trailers) {
        request = mem_zalloc(sizeof(*request));
        *request = (struct request){.client = arg, .stream = stream};
        h2_stream_set_data(stream, request);
    }
    if (end)
        server_on_end(request);
}

static void server_on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    (void)arg;
    h2_stream_consume(stream, data.len);
    if (end)
        server_on_end(h2_stream_data(stream));
}

static void server_on_writable(void *arg, struct h2_stream *stream)
{
    (void)arg;
    (void)stream;
}

static void server_on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct client *client = arg;
    struct request *request = h2_stream_data(stream);

    (void)err;
    timer_stop(client->server->loop, &request->timer);
    mem_free(request);
}

static void server_on_goaway(void *arg)
{
    (void)arg;
}

static void server_on_broken(void *arg, err_t err)
{
    struct client *client = arg;

    (void)err;
    h2_close(client->h2);
    mem_free(client);
}

static const struct h2_events server_events = {
    .on_headers = server_on_headers,
    .on_data = server_on_data,
    .on_writable = server_on_writable,
    .on_close = server_on_close,
    .on_goaway = server_on_goaway,
    .on_broken = server_on_broken,
};

static void server_on_accept(void *arg, int fd, const struct addr *peer)
{
    struct client *client = mem_zalloc(sizeof(*client));
    struct stream *tcp;

    (void)peer;
    client->server = arg;
    if (!err_is_ok(tcp_new(client->server->loop, fd, &tcp))) {
        mem_free(client);
        return;
    }
    client->h2 = h2_new(tcp, true, NULL, &server_events, client);
}

static void server_on_term(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;

    (void)number;
    server->over = true;
}

int main(int argc, char **argv)
{
    struct server server = {.loop = loop_new(&clock_system)};
    struct listener_params listen = {.on_accept = server_on_accept, .arg = &server};
    char text[ADDR_TEXT_MAX];

    if (argc != 2) {
        (void)fprintf(stderr, "usage: h2_server ADDRESS\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    CHECK(err_is_ok(addr_parse(argv[1], &listen.addr)));
    CHECK(err_is_ok(listener_new(server.loop, &listen, &server.listener)));
    listener_start(server.listener);
    addr_format(listener_addr(server.listener), text);
    (void)printf("listening %s\n", text);
    (void)fflush(stdout);

    CHECK(uv_signal_init(loop_uv(server.loop), &server.term) == 0);
    server.term.data = &server;
    CHECK(uv_signal_start(&server.term, server_on_term, SIGTERM) == 0);
    while (!server.over)
        loop_run_once(server.loop, true);
    return 0; /* what is still open ends with the process */
}
