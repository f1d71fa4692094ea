/* What a server may say to our HTTP/2: no bytes break the client, every request ends once, and
 * windows and queues add up. The first byte chooses how the input is cut and what we do meanwhile.
 * Drives: R75, R76. */
#include "lib/base/mem.h"
#include "lib/rpc/h2.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct app {
    struct h2 *h2;
    size_t num_begun, num_closed, num_data;
    bool broken, meddle;
};

static void on_headers(void *arg, struct h2_stream *stream, const struct h2_header *headers,
                       size_t num, bool trailers, bool end)
{
    struct app *app = arg;

    (void)trailers;
    CHECK(num == 0 || headers[0].name.ptr != NULL);
    if (app->meddle && !end)
        h2_stream_reset(stream, 8);
}

static void on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    struct app *app = arg;

    (void)end;
    app->num_data += data.len;
    h2_stream_consume(stream, data.len);
}

static void on_writable(void *arg, struct h2_stream *stream)
{
    (void)arg;
    CHECK(h2_stream_queued(stream) == 0);
}

static void on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct app *app = arg;

    (void)stream;
    (void)err;
    app->num_closed++;
}

static void on_goaway(void *arg)
{
    struct app *app = arg;

    if (app->meddle)
        h2_goaway(app->h2);
}

static void on_broken(void *arg, err_t err)
{
    struct app *app = arg;

    (void)err;
    CHECK(app->num_begun == app->num_closed);
    app->broken = true;
}

static const struct h2_events events = {
    .on_headers = on_headers,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_close = on_close,
    .on_goaway = on_goaway,
    .on_broken = on_broken,
};

static void request(struct app *app)
{
    static const struct h2_header head[] = {
        {{(const uint8_t *)":method", 7}, {(const uint8_t *)"POST", 4}},
        {{(const uint8_t *)":scheme", 7}, {(const uint8_t *)"http", 4}},
        {{(const uint8_t *)":path", 5}, {(const uint8_t *)"/", 1}},
        {{(const uint8_t *)":authority", 10}, {(const uint8_t *)"x", 1}},
    };
    struct h2_stream *stream;

    if (app->broken || !err_is_ok(h2_request(app->h2, head, 4, false, app, &stream)))
        return;
    app->num_begun++;
    CHECK(err_is_ok(h2_send(stream, bytes_of_str("question"), app->num_begun % 2 == 0)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    struct recorder recorder = {.count_only = true};
    struct app app = {.h2 = NULL};
    struct stream *ours, *server;

    if (size < 2)
        return 0;
    if (loop == NULL)
        loop = loop_new(&clock_system);
    app.meddle = (data[0] & 1) != 0;
    memstream_pair(loop, &ours, &server);
    memstream_script(ours)->split_at = data[0] / 2;
    recorder_attach(&recorder, server);
    stream_read_start(server);
    app.h2 = h2_new(ours, false, NULL, &events, &app);
    request(&app);
    request(&app);
    CHECK(err_is_ok(stream_write(server, bytes_of(data + 1, size - 1))));
    for (int i = 0; i < 12; i++) {
        loop_run_once(loop, false);
        if (i == 4)
            request(&app);
    }
    CHECK(h2_num_streams(app.h2) == app.num_begun - app.num_closed);
    CHECK(app.num_data < size);
    h2_close(app.h2);
    stream_close(server);
    recorder_fini(&recorder);
    for (int i = 0; i < 4; i++)
        loop_run_once(loop, false);
    return 0;
}
