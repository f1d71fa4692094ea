/* The HTTP/1.1 server for operators: what every reader sees alike is served, what two readers could
 * see differently is refused, and no connection holds much or long. Drives: R14, R15, R32. */
#include "lib/rpc/http1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/rpc/wire.h"

#define BODY_MAX 1000

static struct loop *loop;

/* A server, and a client that writes what the test says. */
struct web {
    struct http1_server *server;
    struct stream *client, *served;
    struct recorder recorder;
    struct buf log; /* "METHOD path query body\n" */
    size_t answer_len;
    bool free_in_handler;
};

static void web_handle(void *arg, const struct http1_request *request,
                       struct http1_response *response)
{
    struct web *web = arg;

    assert_true(err_is_ok(buf_printf(
        &web->log, "%s %s %s %.*s\n", request->method, request->path, request->query,
        (int)request->body.len, request->body.len != 0 ? (const char *)request->body.ptr : "")));
    if (strcmp(request->path, "/405") == 0) {
        response->status = 405;
        response->allow = "POST";
    }
    for (size_t i = 0; i < web->answer_len; i++)
        assert_true(err_is_ok(buf_add(&response->body, "a", 1)));
    if (web->answer_len == 0)
        assert_true(err_is_ok(buf_add_str(&response->body, "fine\n")));
    if (web->free_in_handler) {
        http1_server_free(web->server);
        web->server = NULL;
    }
}

static void web_dial(struct web *web)
{
    memstream_pair(loop, &web->served, &web->client);
    web->recorder = (struct recorder){.stream = NULL};
    recorder_attach(&web->recorder, web->client);
    stream_read_start(web->client);
    http1_server_accept(web->server, web->served);
}

static struct web *web_new(void)
{
    struct web *web = mem_zalloc(sizeof(*web));
    struct http1_params params = {.handler = web_handle, .arg = web, .body_max = BODY_MAX};

    web->server = http1_server_new(loop, &params);
    web_dial(web);
    return web;
}

static void web_free(struct web *web)
{
    if (web->server != NULL)
        http1_server_free(web->server);
    stream_close(web->client);
    recorder_fini(&web->recorder);
    buf_fini(&web->log);
    mem_free(web);
    looptest_settle(loop);
}

static void web_send_bytes(struct web *web, const void *ptr, size_t len)
{
    assert_true(err_is_ok(stream_write(web->client, bytes_of(ptr, len))));
    looptest_settle(loop);
}

static void web_send(struct web *web, const char *text)
{
    web_send_bytes(web, text, strlen(text));
}

static bool web_got(struct web *web, const char *part)
{
    struct bytes got = buf_view(&web->recorder.data);

    return got.ptr != NULL && memmem(got.ptr, got.len, part, strlen(part)) != NULL;
}

static bool web_logged(struct web *web, const char *expected)
{
    return bytes_equal_str(buf_view(&web->log), expected);
}

/* The status of the first answer; 0: none yet. */
static int web_status(struct web *web)
{
    struct bytes got = buf_view(&web->recorder.data);

    if (got.len < 12)
        return 0;
    assert_memory_equal(got.ptr, "HTTP/1.1 ", 9);
    return (got.ptr[9] - '0') * 100 + (got.ptr[10] - '0') * 10 + (got.ptr[11] - '0');
}

/* Sends a text to a new server and returns the status of the answer. */
static int ask_bytes(const void *ptr, size_t len, bool *out_closed)
{
    struct web *web = web_new();
    int status;

    web_send_bytes(web, ptr, len);
    status = web_status(web);
    *out_closed = web->recorder.num_eofs == 1;
    web_free(web);
    return status;
}

static void check_served(const char *text)
{
    bool closed;

    assert_int_equal(ask_bytes(text, strlen(text), &closed), 200);
    assert_false(closed);
}

static void check_refused(const char *text, int expected)
{
    bool closed;
    int status = ask_bytes(text, strlen(text), &closed);

    if (status != expected)
        print_error("%d for: %s\n", status, text);
    assert_int_equal(status, expected);
    assert_true(closed);
}

static void test_get_keeps_the_connection(void **state)
{
    struct web *web = web_new();

    (void)state;
    web_send(web, "GET /a/b?c=d&e HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_logged(web, "GET /a/b c=d&e \n"));
    assert_true(bytes_equal_str(buf_view(&web->recorder.data),
                                "HTTP/1.1 200 OK\r\n"
                                "Content-Type: text/plain; charset=utf-8\r\n"
                                "Content-Length: 5\r\n"
                                "Cache-Control: no-store\r\n"
                                "X-Content-Type-Options: nosniff\r\n"
                                "\r\n"
                                "fine\n"));
    assert_int_equal(web->recorder.num_eofs, 0);
    web_send(web, "\r\nPOST / HTTP/1.1\r\nhost:x\r\nContent-Length: 5\r\n\r\nhello");
    assert_true(web_logged(web, "GET /a/b c=d&e \nPOST /  hello\n"));
    web_free(web);
}

static void test_head_has_no_body(void **state)
{
    struct web *web = web_new();

    (void)state;
    web_send(web, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_got(web, "Content-Length: 5\r\n"));
    assert_false(web_got(web, "fine"));
    web_send(web, "GET /405 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_got(web, "HTTP/1.1 405 Method Not Allowed\r\n"));
    assert_true(web_got(web, "Allow: POST\r\n"));
    web_free(web);
}

static void test_close_is_done_as_asked(void **state)
{
    static const char *const last[] = {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                                       "GET / HTTP/1.0\r\n\r\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(last); i++) {
        struct web *web = web_new();

        web_send(web, last[i]);
        assert_int_equal(web_status(web), 200);
        assert_true(web_got(web, "Connection: close\r\n"));
        assert_int_equal(web->recorder.num_eofs, 1);
        web_free(web);
    }
}

/* Requests cut at each byte, and byte by byte. */
static void test_requests_split_at_every_byte(void **state)
{
    static const char text[] = "POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
                               "GET /d HTTP/1.1\r\nHost: x\r\n\r\n";

    (void)state;
    for (size_t split = 0; split < sizeof(text); split++) {
        struct web *web = web_new();

        if (split == 0)
            memstream_script(web->served)->read_max = 1;
        else
            memstream_script(web->served)->split_at = split;
        web_send(web, text);
        looptest_settle(loop);
        looptest_settle(loop);
        assert_true(web_logged(web, "POST /a b abc\nGET /d  \n"));
        web_free(web);
    }
}

static void test_what_two_readers_could_see_differently_is_refused(void **state)
{
    (void)state;
    /* line ends */
    check_refused("GET / HTTP/1.1\nHost: x\n\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc: d\r\n\r\n", 400);
    check_refused("\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    /* folding, and space where none belongs */
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhello", 400);
    check_refused("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET / a HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused(" GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    /* names */
    check_refused("GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\na(b: c\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\na\x80: c\r\n\r\n", 400);
    /* framing */
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                  "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                  400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                  400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                  400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5 \t5\r\n\r\nhello", 400);
    check_refused(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nhello", 400);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 411);
    check_refused("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n", 411);
    /* who is meant */
    check_refused("GET / HTTP/1.1\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400);
    check_refused("GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400);
    check_refused("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", 400);
    /* what we do not speak */
    check_refused("GET /\r\n\r\n", 400);
    check_refused("GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505);
    check_refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505);
    check_refused("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505);
    check_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 501);
    check_refused("GET / HTTP/11.1\r\nHost: x\r\n\r\n", 505);
    check_refused("GET / http/1.1\r\nHost: x\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400);
    check_refused("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 501);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", 501);
    check_refused("FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 501);
    check_refused("get / HTTP/1.1\r\nHost: x\r\n\r\n", 501);
    check_refused("GET / HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n", 417);
}

static void test_nul_and_tls_are_refused(void **state)
{
    static const char nul[] = "GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n";
    static const char nul_target[] = "GET /\0a HTTP/1.1\r\nHost: x\r\n\r\n";
    static const char tls[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n";
    bool closed;

    (void)state;
    assert_int_equal(ask_bytes(nul, sizeof(nul) - 1, &closed), 400);
    assert_int_equal(ask_bytes(nul_target, sizeof(nul_target) - 1, &closed), 400);
    assert_int_equal(ask_bytes(tls, sizeof(tls) - 1, &closed), 400);
}

static void test_usual_requests_are_served(void **state)
{
    (void)state;
    check_served(
        "GET /metrics HTTP/1.1\r\nHost: 10.0.0.1:15020\r\nUser-Agent: Prometheus/2.45.0\r\n"
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n"
        "Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n");
    check_served("GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:15020\r\nUser-Agent: kube-probe/1.28\r\n"
                 "Accept: */*\r\nConnection: keep-alive\r\n\r\n");
    check_served("GET / HTTP/1.1\r\nHost:\r\n\r\n");
    check_served("GET / HTTP/1.1\r\nHost: x\r\nA:\r\nB: \t c \t\r\nC: \xc3\xa4\r\n\r\n");
    check_served("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    check_served("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 005\r\n\r\nhello");
    check_served("DELETE /a%2Fb//c/../d HTTP/1.1\r\nHost: x\r\n\r\n");
}

static void test_continue_is_said_when_waited_for(void **state)
{
    struct web *web = web_new();

    (void)state;
    web_send(web,
             "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(bytes_equal_str(buf_view(&web->recorder.data), "HTTP/1.1 100 Continue\r\n\r\n"));
    web_send(web, "hi");
    assert_true(web_got(web, "HTTP/1.1 200 OK\r\n"));
    web_free(web);

    web = web_new(); /* who does not wait is not told */
    web_send(web,
             "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    assert_int_equal(web_status(web), 200);
    web_free(web);
}

static void test_body_below_at_and_above_the_limit(void **state)
{
    char body[BODY_MAX + 2] = {0};

    (void)state;
    memset(body, 'b', sizeof(body) - 1);
    for (size_t len = BODY_MAX - 1; len <= BODY_MAX + 1; len++) {
        struct web *web = web_new();
        char head[128];

        (void)snprintf(head, sizeof(head),
                       "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", len);
        web_send(web, head);
        if (len <= BODY_MAX)
            web_send_bytes(web, body, len);
        assert_int_equal(web_status(web), len <= BODY_MAX ? 200 : 413);
        web_free(web);
    }
}

static void test_head_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (size_t len = HTTP1_HEAD_MAX - 1; len <= HTTP1_HEAD_MAX + 1; len++) {
        static const char begin[] = "GET / HTTP/1.1\r\nHost: x\r\nA: ";
        char *text = mem_alloc(len + 1);
        bool closed;

        memset(text, 'a', len);
        memcpy(text, begin, sizeof(begin) - 1);
        memcpy(text + len - 4, "\r\n\r\n", 5);
        assert_int_equal(ask_bytes(text, len, &closed), len <= HTTP1_HEAD_MAX ? 200 : 431);
        mem_free(text);
    }
}

static void test_endless_head_is_refused_early(void **state)
{
    struct web *web = web_new();
    char *text = mem_alloc(1 << 20);

    (void)state;
    memset(text, 'a', 1 << 20);
    web_send_bytes(web, text, 1 << 20);
    assert_int_equal(web_status(web), 431);
    mem_free(text);
    web_free(web);
}

static void test_header_count_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (int num = 99; num <= 101; num++) {
        struct buf text = {NULL, 0, 0, 0, 0};
        bool closed;

        assert_true(err_is_ok(buf_add_str(&text, "GET / HTTP/1.1\r\nHost: x\r\n")));
        for (int i = 1; i < num; i++)
            assert_true(err_is_ok(buf_add_str(&text, "a: b\r\n")));
        assert_true(err_is_ok(buf_add_str(&text, "\r\n")));
        assert_int_equal(ask_bytes(buf_view(&text).ptr, buf_size(&text), &closed),
                         num <= 100 ? 200 : 431);
        buf_fini(&text);
    }
}

static void test_pipelined_requests_are_answered_in_order(void **state)
{
    struct web *web = web_new();

    (void)state;
    web_send(web, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
                  "POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nxGET /4 HTTP/1.1\r\n"
                  "Host: x\r\nConnection: close\r\n\r\nGET /5 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_logged(web, "GET /1  \nGET /2  \nPOST /3  x\nGET /4  \n"));
    assert_int_equal(web->recorder.num_eofs, 1);
    web_free(web);
}

/* A client that sends and does not read: one answer lies in the queue, nothing more is made. */
static void test_stalled_reader_gets_one_answer_at_a_time(void **state)
{
    struct web *web = web_new();

    (void)state;
    web->answer_len = 100000;
    memstream_script(web->served)->stall = true;
    for (int i = 0; i < 100; i++)
        web_send(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_logged(web, "GET /  \n"));
    assert_in_range(web->served->queued, 100000, 101000);
    memstream_script(web->served)->stall = false;
    memstream_go(web->served);
    for (int i = 0; i < 10; i++)
        looptest_settle(loop);
    assert_in_range(web->recorder.num_bytes, 100 * 100000, 100 * 101000);
    web_free(web);
}

/* The last answer of a connection arrives whole, however slowly it is taken. */
static void test_last_answer_is_taken_slowly(void **state)
{
    struct web *web = web_new();

    (void)state;
    web->answer_len = 100000;
    memstream_script(web->served)->stall = true;
    web_send(web, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_int_equal(web->recorder.num_eofs, 0);
    memstream_script(web->served)->stall = false;
    memstream_script(web->served)->write_max = 5000;
    memstream_go(web->served);
    looptest_settle(loop);
    assert_in_range(web->recorder.num_bytes, 100000, 101000);
    assert_int_equal(web->recorder.num_eofs, 1);
    web_free(web);
}

static void test_stalled_reader_is_closed_in_time(void **state)
{
    struct web *web = web_new();

    (void)state;
    web->answer_len = 100000;
    memstream_keep(web->served);
    memstream_script(web->served)->stall = true;
    web_send(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    wire_now_ms += 9999;
    looptest_settle(loop);
    assert_false(memstream_script(web->served)->is_closed);
    wire_now_ms += 1;
    looptest_settle(loop);
    assert_true(memstream_script(web->served)->is_closed);
    memstream_drop(web->served);
    web_free(web);
}

/* One byte a second keeps no connection open: the request as a whole has its time. */
static void test_slow_request_is_closed_in_time(void **state)
{
    struct web *web = web_new();
    int seconds = 0;

    (void)state;
    for (; seconds < 20 && web->recorder.num_eofs + web->recorder.num_errors == 0; seconds++) {
        web_send(web, "G");
        wire_now_ms += 1000;
        looptest_settle(loop);
    }
    assert_int_equal(seconds, 10);
    web_free(web);
}

static void test_idle_connection_is_closed_in_time(void **state)
{
    struct web *web = web_new();

    (void)state;
    wire_now_ms += 5000;
    looptest_settle(loop);
    web_send(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    wire_now_ms += 9999; /* counted from the answer */
    looptest_settle(loop);
    assert_int_equal(web->recorder.num_eofs, 0);
    wire_now_ms += 1;
    looptest_settle(loop);
    assert_int_equal(web->recorder.num_eofs, 1);
    web_free(web);
}

/* The refusal must arrive though the client is still sending. */
static void test_refusal_lingers(void **state)
{
    struct web *web = web_new();

    (void)state;
    memstream_keep(web->served);
    web_send(web, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n");
    assert_int_equal(web_status(web), 413);
    web_send(web, "and so on");
    assert_false(memstream_script(web->served)->is_closed);
    wire_now_ms += 1000;
    looptest_settle(loop);
    assert_true(memstream_script(web->served)->is_closed);
    memstream_drop(web->served);
    web_free(web);
}

/* Clients of a server that takes two. */
struct crowd {
    struct web web;
    struct stream *clients[4], *served[4];
    struct recorder recorders[4];
};

static void crowd_join(struct crowd *crowd, unsigned number)
{
    memstream_pair(loop, &crowd->served[number], &crowd->clients[number]);
    crowd->recorders[number] = (struct recorder){.stream = NULL};
    recorder_attach(&crowd->recorders[number], crowd->clients[number]);
    stream_read_start(crowd->clients[number]);
    http1_server_accept(crowd->web.server, crowd->served[number]);
    looptest_settle(loop);
}

static void crowd_say(struct crowd *crowd, unsigned number, const char *text)
{
    assert_true(err_is_ok(stream_write(crowd->clients[number], bytes_of_str(text))));
    looptest_settle(loop);
}

static struct crowd *crowd_new(unsigned num)
{
    struct crowd *crowd = mem_zalloc(sizeof(*crowd));
    struct http1_params params = {
        .handler = web_handle, .arg = &crowd->web, .max_connections = 2, .body_max = 1};

    crowd->web.server = http1_server_new(loop, &params);
    for (unsigned i = 0; i < num; i++)
        crowd_join(crowd, i);
    return crowd;
}

static void crowd_free(struct crowd *crowd)
{
    http1_server_free(crowd->web.server);
    for (unsigned i = 0; i < 4; i++) {
        if (crowd->clients[i] != NULL)
            stream_close(crowd->clients[i]);
        recorder_fini(&crowd->recorders[i]);
    }
    buf_fini(&crowd->web.log);
    looptest_settle(loop);
    mem_free(crowd);
}

static void test_one_more_takes_the_place_of_the_idle_one(void **state)
{
    struct crowd *crowd = crowd_new(2);

    (void)state;
    assert_int_equal(crowd->recorders[0].num_eofs, 0);
    /* The first has had its answer: the second has owed a request for longer. */
    crowd_say(crowd, 0, "GET /0 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(crowd->recorders[0].num_bytes, 0);
    crowd_join(crowd, 2);
    assert_int_equal(crowd->recorders[0].num_eofs, 0);
    assert_int_equal(crowd->recorders[1].num_eofs, 1);
    crowd_say(crowd, 2, "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(crowd->recorders[2].num_bytes, 0);
    stream_close(crowd->clients[2]); /* one goes: the next needs nobody's place */
    crowd->clients[2] = NULL;
    looptest_settle(loop);
    crowd_join(crowd, 3);
    assert_int_equal(crowd->recorders[0].num_eofs, 0);
    assert_int_equal(crowd->recorders[3].num_eofs, 0);
    crowd_free(crowd);
}

static void test_a_byte_now_and_then_keeps_no_place(void **state)
{
    struct crowd *crowd = crowd_new(2);

    (void)state;
    crowd_say(crowd, 1, "G");
    crowd_say(crowd, 0, "GET / HT");
    crowd_say(crowd, 0, "TP/1.1\r\n");
    crowd_join(crowd, 2);
    assert_int_equal(crowd->recorders[0].num_eofs, 1);
    assert_int_equal(crowd->recorders[1].num_eofs, 0);
    crowd_say(crowd, 2, "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(crowd->recorders[2].num_bytes, 0);
    crowd_free(crowd);
}

static void test_who_is_being_answered_gives_way_last(void **state)
{
    struct crowd *crowd = crowd_new(2);

    (void)state;
    crowd->web.answer_len = 100000;
    memstream_script(crowd->served[0])->stall = true;
    crowd_say(crowd, 0, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    crowd_join(crowd, 2);
    assert_int_equal(crowd->recorders[0].num_eofs, 0);
    assert_int_equal(crowd->recorders[1].num_eofs, 1); /* silent since later, and yet */
    memstream_script(crowd->served[2])->stall = true;
    crowd_say(crowd, 2, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    crowd_join(crowd, 3); /* nobody reads his answer: that keeps nobody out either */
    assert_int_equal(crowd->recorders[0].num_eofs, 1);
    crowd->web.answer_len = 0;
    crowd_say(crowd, 3, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(crowd->recorders[3].num_bytes, 0);
    memstream_script(crowd->served[2])->stall = false;
    memstream_go(crowd->served[2]);
    looptest_settle(loop);
    assert_int_equal(crowd->recorders[2].num_eofs, 0);
    assert_true(crowd->recorders[2].num_bytes > 100000);
    crowd_free(crowd);
}

static void test_server_freed_by_its_handler(void **state)
{
    struct web *web = web_new();

    (void)state;
    web->free_in_handler = true;
    web_send(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(web_logged(web, "GET /  \n"));
    assert_int_equal(web_status(web), 0);
    web_free(web);
}

static void test_errors_of_the_stream_end_it(void **state)
{
    struct web *web = web_new();

    (void)state;
    memstream_script(web->served)->fail_write = 1;
    web_send(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(web_status(web), 0);
    web_free(web);

    web = web_new();
    memstream_keep(web->served);
    memstream_reset(web->served);
    looptest_settle(loop);
    assert_true(memstream_script(web->served)->is_closed);
    memstream_drop(web->served);
    web_free(web);
}

/* A client that ends its direction behind the request still gets the answer. */
static void test_half_closed_client_is_answered(void **state)
{
    struct web *web = web_new();

    (void)state;
    web->answer_len = 100000;
    memstream_script(web->served)->write_max = 10000;
    assert_true(
        err_is_ok(stream_write(web->client, bytes_of_str("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))));
    assert_true(err_is_ok(stream_shutdown(web->client)));
    looptest_settle(loop);
    assert_in_range(web->recorder.num_bytes, 100000, 101000);
    assert_int_equal(web->recorder.num_eofs, 1);
    web_free(web);
}

static int setup(void **state)
{
    (void)state;
    loop = loop_new(&wire_clock);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_keeps_the_connection),
        cmocka_unit_test(test_head_has_no_body),
        cmocka_unit_test(test_close_is_done_as_asked),
        cmocka_unit_test(test_requests_split_at_every_byte),
        cmocka_unit_test(test_what_two_readers_could_see_differently_is_refused),
        cmocka_unit_test(test_nul_and_tls_are_refused),
        cmocka_unit_test(test_usual_requests_are_served),
        cmocka_unit_test(test_continue_is_said_when_waited_for),
        cmocka_unit_test(test_body_below_at_and_above_the_limit),
        cmocka_unit_test(test_head_below_at_and_above_the_limit),
        cmocka_unit_test(test_endless_head_is_refused_early),
        cmocka_unit_test(test_header_count_below_at_and_above_the_limit),
        cmocka_unit_test(test_pipelined_requests_are_answered_in_order),
        cmocka_unit_test(test_stalled_reader_gets_one_answer_at_a_time),
        cmocka_unit_test(test_last_answer_is_taken_slowly),
        cmocka_unit_test(test_stalled_reader_is_closed_in_time),
        cmocka_unit_test(test_slow_request_is_closed_in_time),
        cmocka_unit_test(test_idle_connection_is_closed_in_time),
        cmocka_unit_test(test_refusal_lingers),
        cmocka_unit_test(test_one_more_takes_the_place_of_the_idle_one),
        cmocka_unit_test(test_a_byte_now_and_then_keeps_no_place),
        cmocka_unit_test(test_who_is_being_answered_gives_way_last),
        cmocka_unit_test(test_server_freed_by_its_handler),
        cmocka_unit_test(test_errors_of_the_stream_end_it),
        cmocka_unit_test(test_half_closed_client_is_answered),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
