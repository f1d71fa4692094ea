/* HTTP/1.1 requests: no bytes break the server, the same requests are seen however they are cut,
 * and every answer is one. The first byte says where the input is cut. Drives: R75, R76. */
#include "lib/rpc/http1.h"

#include "lib/base/mem.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handle(void *arg, const struct http1_request *request, struct http1_response *response)
{
    struct buf *seen = arg;

    CHECK(request->path[0] == '/');
    CHECK(request->body.len <= 64);
    CHECK(err_is_ok(buf_printf(seen, "%s %s %s %zu\n", request->method, request->path,
                               request->query, request->body.len)));
    CHECK(err_is_ok(buf_add(&response->body, request->body.ptr, request->body.len)));
}

/* Serves the input in pieces of `step` bytes; what the handler saw goes to `out_seen`. */
static void serve(struct loop *loop, struct bytes in, size_t step, struct buf *out_seen)
{
    struct http1_params params = {.handler = handle, .arg = out_seen, .body_max = 64};
    struct http1_server *server = http1_server_new(loop, &params);
    struct recorder recorder = {.stream = NULL};
    struct stream *served, *client;

    memstream_pair(loop, &served, &client);
    memstream_script(served)->read_max = step;
    recorder_attach(&recorder, client);
    stream_read_start(client);
    http1_server_accept(server, served);
    CHECK(err_is_ok(stream_write(client, in)));
    CHECK(err_is_ok(stream_shutdown(client)));
    for (size_t i = 0; i < in.len / (step != 0 ? step : in.len) + 16; i++)
        loop_run_once(loop, false);
    CHECK(recorder.num_bytes == 0 || memcmp(buf_view(&recorder.data).ptr, "HTTP/1.1 ", 9) == 0);
    http1_server_free(server);
    stream_close(client);
    recorder_fini(&recorder);
    loop_run_once(loop, false);
    loop_run_once(loop, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    struct buf whole = {NULL, 0, 0, 0, 0}, cut = {NULL, 0, 0, 0, 0};

    if (size < 2)
        return 0;
    if (loop == NULL)
        loop = loop_new(&clock_system);
    serve(loop, bytes_of(data + 1, size - 1), 0, &whole);
    serve(loop, bytes_of(data + 1, size - 1), data[0] % 64 + 1u, &cut);
    CHECK(bytes_equal(buf_view(&whole), buf_view(&cut)));
    buf_fini(&whole);
    buf_fini(&cut);
    return 0;
}
