#include "lib/rpc/http1.h"

#include <stdio.h>
#include <strings.h>

#include <http_parser.h>

#include "lib/base/list.h"
#include "lib/base/mem.h"

/* The parser is http_parser 2.9.4, the last release. It is no longer developed, which is enough
 * here for three reasons: it gets a whole head of at most HTTP1_HEAD_MAX bytes that
 * http1_head_check has found to be lines of CRLF without folding, control characters or space
 * before a colon, so the leniencies that made it end (bare CR and LF, obs-fold, odd header names)
 * never reach it; it never sees a body, since the only framing taken is one Content-Length, so its
 * chunk and upgrade code is dead; and what it returns is used here and forwarded nowhere, so no
 * second parser can disagree. Transfer-Encoding is refused with 411 (RFC 9112 section 6.3 allows
 * that), Upgrade and CONNECT with 501. */

#define HTTP1_TIMEOUT_MS 10000
#define HTTP1_HEADERS_MAX 100 /* as many as nginx and Apache take */
#define HTTP1_LINGER_MS 1000  /* for the peer to read a refusal while it still sends */
#define HTTP1_LINGER_BYTES ((size_t)1 << 20)

enum http1_state {
    HTTP1_HEAD,   /* waiting for a request, or in its head */
    HTTP1_BODY,   /* the head is known, body_len bytes follow */
    HTTP1_REPLY,  /* the answer is not yet taken by the kernel: nothing more is read */
    HTTP1_LINGER, /* our direction is ended, the peer's is read and dropped */
    HTTP1_CLOSED,
    HTTP1_NUM,
};

#define TO(state) (1u << HTTP1_##state)
static const unsigned http1_next[HTTP1_NUM] = {
    [HTTP1_HEAD] = TO(BODY) | TO(REPLY) | TO(LINGER) | TO(CLOSED),
    [HTTP1_BODY] = TO(HEAD) | TO(REPLY) | TO(LINGER) | TO(CLOSED),
    [HTTP1_REPLY] = TO(HEAD) | TO(LINGER) | TO(CLOSED),
    [HTTP1_LINGER] = TO(CLOSED),
    [HTTP1_CLOSED] = 0,
};
#undef TO

struct http1_server {
    struct loop *loop;
    struct http1_params params;
    struct list conns;
    unsigned num_conns;
};

struct http1_conn {
    struct list link;
    struct http1_server *server;
    struct stream *stream;
    enum http1_state state;
    struct timer timer;
    struct buf in;
    size_t body_len;
    size_t lingered;
    bool keep_alive;
    bool end_after_reply; /* the reply in the queue is the last one */
    bool working;         /* http1_work is on the stack */
    /* of the request in hand */
    char method[16];
    struct buf target;
    struct http1_conn_head {
        bool in_value; /* the last piece belonged to a value */
        unsigned num_headers;
        unsigned num_host;
        unsigned num_length;
        bool transfer_encoding;
        bool upgrade;
        bool expect;
        bool bad_expect;
        bool bad_length;
        struct buf name;
        struct buf value;
    } head;
};

static void http1_on_timeout(void *arg);

static uint64_t http1_timeout_ms(const struct http1_conn *conn)
{
    return conn->server->params.timeout_ms != 0 ? conn->server->params.timeout_ms
                                                : HTTP1_TIMEOUT_MS;
}

/* The setter. HEAD, BODY and REPLY share one deadline a request: it is armed when the connection
 * becomes idle and not again before the answer is out. Who becomes idle goes to the end of the
 * list: so it is in the order of deadlines, see http1_make_room. */
static void http1_set_state(struct http1_conn *conn, enum http1_state state)
{
    CHECK((http1_next[conn->state] & 1u << state) != 0);
    conn->state = state;
    if (state == HTTP1_HEAD) {
        timer_start(conn->server->loop, &conn->timer, http1_timeout_ms(conn), http1_on_timeout,
                    conn);
        list_del(&conn->link);
        list_add_tail(&conn->server->conns, &conn->link);
    } else if (state == HTTP1_LINGER) {
        timer_start(conn->server->loop, &conn->timer, HTTP1_LINGER_MS, http1_on_timeout, conn);
    }
}

static void http1_conn_free(void *arg)
{
    struct http1_conn *conn = arg;

    buf_fini(&conn->in);
    buf_fini(&conn->target);
    buf_fini(&conn->head.name);
    buf_fini(&conn->head.value);
    mem_free(conn);
}

static void http1_close(struct http1_conn *conn)
{
    if (conn->state == HTTP1_CLOSED)
        return;
    http1_set_state(conn, HTTP1_CLOSED);
    timer_stop(conn->server->loop, &conn->timer);
    list_del(&conn->link);
    conn->server->num_conns--;
    stream_close(conn->stream);
    loop_defer(conn->server->loop, http1_conn_free, conn);
}

static void http1_on_timeout(void *arg)
{
    http1_close(arg);
}

/* Ends our direction and waits a little for the peer to see it: closing with bytes unread would
 * send RST, and the peer's kernel may then throw our answer away. */
static void http1_linger(struct http1_conn *conn)
{
    if (!err_is_ok(stream_shutdown(conn->stream))) {
        http1_close(conn);
        return;
    }
    http1_set_state(conn, HTTP1_LINGER);
    buf_clear(&conn->in);
    stream_read_start(conn->stream);
}

/* ---- the answer ---- */

static const char *http1_reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 417:
        return "Expectation Failed";
    case 422:
        return "Unprocessable Content";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Status";
    }
}

static err_t http1_build(const struct http1_conn *conn, const struct http1_response *response,
                         struct buf *out)
{
    bool head_only = strcmp(conn->method, "HEAD") == 0;

    TRY(buf_printf(out, "HTTP/1.1 %d %s\r\n", response->status, http1_reason(response->status)));
    TRY(buf_printf(out, "Content-Type: %s\r\nContent-Length: %zu\r\n", response->content_type,
                   buf_size(&response->body)));
    if (response->allow != NULL)
        TRY(buf_printf(out, "Allow: %s\r\n", response->allow));
    TRY(buf_printf(out, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s\r\n",
                   conn->keep_alive ? "" : "Connection: close\r\n"));
    if (!head_only)
        TRY(buf_add(out, buf_view(&response->body).ptr, buf_size(&response->body)));
    return OK;
}

/* Sends the answer; the connection then waits for the next request, or ends. */
static void http1_reply(struct http1_conn *conn, const struct http1_response *response)
{
    struct buf out = {NULL, 0, 0, 0, 0};
    err_t err = http1_build(conn, response, &out);

    if (err_is_ok(err))
        err = stream_write(conn->stream, buf_view(&out));
    buf_fini(&out);
    if (!err_is_ok(err)) {
        http1_close(conn);
        return;
    }
    if (conn->stream->queued != 0) {
        conn->end_after_reply = !conn->keep_alive;
        http1_set_state(conn, HTTP1_REPLY);
        stream_read_stop(conn->stream);
    } else if (!conn->keep_alive) {
        http1_linger(conn);
    } else {
        http1_set_state(conn, HTTP1_HEAD);
    }
}

static void http1_refuse(struct http1_conn *conn, int status)
{
    struct http1_response response = {
        .status = status,
        .content_type = "text/plain; charset=utf-8",
    };
    err_t err = buf_printf(&response.body, "%d %s\n", status, http1_reason(status));

    (void)err; /* a few bytes into an empty buffer */
    conn->keep_alive = false;
    http1_reply(conn, &response);
    buf_fini(&response.body);
}

static void http1_dispatch(struct http1_conn *conn, struct bytes body)
{
    struct http1_server *server = conn->server;
    struct http1_response response = {
        .status = 200,
        .content_type = "text/plain; charset=utf-8",
    };
    char *target = (char *)conn->target.data; /* NUL-ended by http1_target_check */
    char *query = strchr(target, '?');
    struct http1_request request = {
        .method = conn->method, .path = target, .query = "", .body = body};

    if (query != NULL) {
        *query = '\0';
        request.query = query + 1;
    }
    server->params.handler(server->params.arg, &request, &response);
    if (conn->state != HTTP1_CLOSED) /* the handler may have freed the server */
        http1_reply(conn, &response);
    buf_fini(&response.body);
}

/* ---- the head ---- */

/* A token of RFC 9110, of which header names are made. */
static bool http1_is_token(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool http1_header_check(struct bytes line)
{
    size_t i = 0;

    while (i < line.len && http1_is_token(line.ptr[i]))
        i++;
    if (i == 0 || i == line.len || line.ptr[i] != ':') /* obs-fold and "Host : x" end here */
        return false;
    for (; i < line.len; i++) {
        uint8_t c = line.ptr[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool http1_request_line_check(struct bytes line)
{
    unsigned spaces = 0;

    for (size_t i = 0; i < line.len; i++) {
        if (line.ptr[i] < 0x20 || line.ptr[i] > 0x7e)
            return false;
        spaces += line.ptr[i] == ' ';
    }
    return spaces == 2; /* one is HTTP/0.9, more is nobody's grammar */
}

/* Is the head, which ends with an empty line, made of lines that every reader sees alike? */
static bool http1_head_check(struct bytes head)
{
    bool first = true;

    while (head.len > 2) {
        const uint8_t *end = memchr(head.ptr, '\n', head.len);
        size_t len = (size_t)(end - head.ptr);
        struct bytes line;

        if (len == 0 || end[-1] != '\r')
            return false; /* bare LF */
        line = bytes_of(head.ptr, len - 1);
        if (!(first ? http1_request_line_check(line) : http1_header_check(line)))
            return false; /* a bare CR is a control character like others */
        first = false;
        head.ptr += len + 1;
        head.len -= len + 1;
    }
    return !first;
}

/* Only origin-form: a path, perhaps a query. Ends the target with NUL. */
static bool http1_target_check(struct http1_conn *conn)
{
    struct bytes target = buf_view(&conn->target);

    if (target.len == 0 || target.ptr[0] != '/' || memchr(target.ptr, '#', target.len) != NULL)
        return false;
    return err_is_ok(buf_add(&conn->target, "", 1));
}

static void http1_head_init(struct http1_conn *conn)
{
    struct http1_conn_head *head = &conn->head;

    buf_clear(&conn->target);
    buf_clear(&head->name);
    buf_clear(&head->value);
    *head = (struct http1_conn_head){.name = head->name, .value = head->value};
    buf_clear(&conn->head.name);
}

static bool http1_name_is(const struct http1_conn *conn, const char *name)
{
    struct bytes have = buf_view(&conn->head.name);

    return have.len == strlen(name) && strncasecmp((const char *)have.ptr, name, have.len) == 0;
}

static bool http1_is_number(struct bytes text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
    }
    return text.len != 0;
}

/* A header is complete. What http_parser leaves to its user is noted. */
static void http1_header_done(struct http1_conn *conn)
{
    struct http1_conn_head *head = &conn->head;

    if (!head->in_value)
        return;
    head->num_headers++;
    if (http1_name_is(conn, "host")) {
        head->num_host++;
    } else if (http1_name_is(conn, "content-length")) {
        head->num_length++;
        head->bad_length = !http1_is_number(buf_view(&head->value));
    } else if (http1_name_is(conn, "transfer-encoding")) {
        head->transfer_encoding = true;
    } else if (http1_name_is(conn, "upgrade")) {
        head->upgrade = true;
    } else if (http1_name_is(conn, "expect")) {
        struct bytes value = buf_view(&head->value);

        head->expect = true;
        head->bad_expect =
            value.len != 12 || strncasecmp((const char *)value.ptr, "100-continue", 12) != 0;
    }
    head->in_value = false;
    buf_clear(&head->name);
    buf_clear(&head->value);
}

static int http1_on_url(http_parser *parser, const char *at, size_t len)
{
    struct http1_conn *conn = parser->data;

    return err_is_ok(buf_add(&conn->target, at, len)) ? 0 : 1;
}

static int http1_on_field(http_parser *parser, const char *at, size_t len)
{
    struct http1_conn *conn = parser->data;

    http1_header_done(conn);
    return err_is_ok(buf_add(&conn->head.name, at, len)) ? 0 : 1;
}

static int http1_on_value(http_parser *parser, const char *at, size_t len)
{
    struct http1_conn *conn = parser->data;

    conn->head.in_value = true;
    return err_is_ok(buf_add(&conn->head.value, at, len)) ? 0 : 1;
}

/* The parser's work ends with the head: it is told to pause before it looks for a body. */
static int http1_on_headers_complete(http_parser *parser)
{
    http1_header_done(parser->data);
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings http1_settings = {
    .on_url = http1_on_url,
    .on_header_field = http1_on_field,
    .on_header_value = http1_on_value,
    .on_headers_complete = http1_on_headers_complete,
};

/* What the framing and connection headers mean; 0 or the status to refuse with. */
static int http1_head_judge(struct http1_conn *conn, const http_parser *parser)
{
    const struct http1_conn_head *head = &conn->head;
    bool old = parser->http_major == 1 && parser->http_minor == 0;

    if (parser->http_major != 1 || parser->http_minor > 1)
        return 505;
    if (head->num_headers > HTTP1_HEADERS_MAX)
        return 431;
    if (head->num_host > 1 || (head->num_host == 0 && !old))
        return 400;
    if (head->num_length > 1 || head->bad_length ||
        (head->num_length != 0 && head->transfer_encoding))
        return 400;
    if (head->transfer_encoding)
        return 411;
    if (head->upgrade || parser->method == HTTP_CONNECT)
        return 501;
    if (head->bad_expect)
        return 417;
    if (!http1_target_check(conn))
        return 400;
    /* http_parser sets content_length to all ones when there is none. */
    conn->body_len = 0;
    if (head->num_length != 0) {
        if (parser->content_length > conn->server->params.body_max)
            return 413;
        conn->body_len = (size_t)parser->content_length;
    }
    return 0;
}

/* Parses a checked head; 0 or the status to refuse with. */
static int http1_head_parse(struct http1_conn *conn, struct bytes head)
{
    http_parser parser;
    size_t used;

    http1_head_init(conn);
    http_parser_init(&parser, HTTP_REQUEST);
    parser.data = conn;
    used = http_parser_execute(&parser, &http1_settings, (const char *)head.ptr, head.len);
    (void)used;
    if (HTTP_PARSER_ERRNO(&parser) == HPE_INVALID_VERSION)
        return 505;
    if (HTTP_PARSER_ERRNO(&parser) == HPE_INVALID_METHOD)
        return 501;
    if (HTTP_PARSER_ERRNO(&parser) != HPE_PAUSED)
        return 400;
    (void)snprintf(conn->method, sizeof(conn->method), "%s",
                   http_method_str((enum http_method)parser.method));
    conn->keep_alive = http_should_keep_alive(&parser) != 0;
    return http1_head_judge(conn, &parser);
}

/* The end of the head in what was read: behind its empty line, or 0. A head with a bare LF in it
 * ends there for the judge to see, so that nobody waits for the rest. */
static size_t http1_head_end(struct bytes in)
{
    const uint8_t *at = in.ptr, *end = in.ptr + in.len;

    while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        at++;
        if (at - in.ptr >= 2 && at[-2] != '\r')
            return (size_t)(at - in.ptr);
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n')
            return (size_t)(at - in.ptr) + 2;
    }
    return 0;
}

static const char http1_continue[] = "HTTP/1.1 100 Continue\r\n\r\n";

/* Takes a head out of the input, if it is all there. False: wait for more. */
static bool http1_work_head(struct http1_conn *conn)
{
    struct bytes in = buf_view(&conn->in);
    size_t len;
    int status;

    /* RFC 9112 section 2.2: empty lines before a request are passed over. */
    while (in.len >= 2 && in.ptr[0] == '\r' && in.ptr[1] == '\n') {
        buf_consume(&conn->in, 2);
        in = buf_view(&conn->in);
    }
    if (in.len == 0)
        return false;
    conn->method[0] = '\0';
    len = http1_head_end(in);
    if (len > HTTP1_HEAD_MAX || (len == 0 && in.len > HTTP1_HEAD_MAX)) {
        http1_refuse(conn, 431);
        return false;
    }
    if (len == 0)
        return false;
    status = http1_head_check(bytes_of(in.ptr, len)) ? http1_head_parse(conn, bytes_of(in.ptr, len))
                                                     : 400;
    if (status != 0) {
        http1_refuse(conn, status);
        return false;
    }
    buf_consume(&conn->in, len);
    http1_set_state(conn, HTTP1_BODY);
    if (conn->head.expect && buf_size(&conn->in) < conn->body_len &&
        !err_is_ok(stream_write(conn->stream, bytes_of_str(http1_continue)))) {
        http1_close(conn);
        return false;
    }
    return true;
}

/* Works off what was read: requests one after the other, as long as their answers leave at once. */
static void http1_work(struct http1_conn *conn)
{
    if (conn->working)
        return;
    conn->working = true;
    while (conn->state == HTTP1_HEAD || conn->state == HTTP1_BODY) {
        if (conn->state == HTTP1_HEAD && !http1_work_head(conn))
            break;
        if (conn->state == HTTP1_BODY) {
            size_t len = conn->body_len;

            if (buf_size(&conn->in) < len)
                break;
            http1_dispatch(conn, bytes_of(buf_view(&conn->in).ptr, len));
            if (conn->state == HTTP1_CLOSED || conn->state == HTTP1_LINGER)
                break;
            buf_consume(&conn->in, len);
        }
    }
    conn->working = false;
    if (conn->state == HTTP1_HEAD && buf_size(&conn->in) == 0)
        buf_fini(&conn->in); /* an idle connection holds nothing */
}

/* ---- stream events ---- */

static void http1_on_read(void *arg, struct bytes data)
{
    struct http1_conn *conn = arg;

    if (conn->state == HTTP1_LINGER) {
        conn->lingered += data.len;
        if (conn->lingered > HTTP1_LINGER_BYTES)
            http1_close(conn);
        return;
    }
    /* In slices: what is not worked off yet stays below one head and one body. */
    while (data.len != 0 && (conn->state == HTTP1_HEAD || conn->state == HTTP1_BODY)) {
        size_t len = data.len < HTTP1_HEAD_MAX ? data.len : HTTP1_HEAD_MAX;

        if (!err_is_ok(buf_add(&conn->in, data.ptr, len))) {
            http1_refuse(conn, 413);
            return;
        }
        data.ptr += len;
        data.len -= len;
        http1_work(conn);
    }
    /* A peer that pipelines behind an answer it does not read: its requests are kept, bounded by
     * what one read brings. */
    if (data.len != 0 && conn->state == HTTP1_REPLY &&
        !err_is_ok(buf_add(&conn->in, data.ptr, data.len)))
        http1_close(conn);
}

static void http1_on_eof(void *arg)
{
    struct http1_conn *conn = arg;

    /* A request that was whole has been answered; with answers still queued the end comes behind
     * them. */
    if (conn->state == HTTP1_REPLY)
        conn->end_after_reply = true;
    else
        http1_close(conn);
}

static void http1_on_drained(void *arg)
{
    struct http1_conn *conn = arg;

    if (conn->state != HTTP1_REPLY)
        return;
    if (conn->end_after_reply) {
        http1_linger(conn);
        return;
    }
    http1_set_state(conn, HTTP1_HEAD);
    stream_read_start(conn->stream);
    http1_work(conn);
}

static void http1_on_error(void *arg, err_t err)
{
    (void)err; /* an administrator's client went away: nobody's fault */
    http1_close(arg);
}

static const struct stream_events http1_events = {
    .on_read = http1_on_read,
    .on_eof = http1_on_eof,
    .on_drained = http1_on_drained,
    .on_error = http1_on_error,
};

struct http1_server *http1_server_new(struct loop *loop, const struct http1_params *params)
{
    struct http1_server *server = mem_zalloc(sizeof(*server));

    server->loop = loop;
    server->params = *params;
    if (server->params.max_connections == 0)
        server->params.max_connections = HTTP1_CONNECTIONS_MAX;
    list_init(&server->conns);
    return server;
}

/* The table is full. Connections that say nothing, or a byte now and then, must not shut out who
 * asks whether the program is ready: the one that has owed its request for longest gives way; when
 * answers are on their way to all of them, the one that has taken longest over it. */
static void http1_make_room(struct http1_server *server)
{
    struct http1_conn *oldest = NULL;
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &server->conns) {
        struct http1_conn *conn = LIST_ITEM(pos, struct http1_conn, link);

        if (oldest == NULL || conn->state != HTTP1_REPLY)
            oldest = conn;
        if (oldest->state != HTTP1_REPLY)
            break;
    }
    http1_close(oldest); /* the maximum is one at least */
}

void http1_server_accept(struct http1_server *server, struct stream *stream)
{
    struct http1_conn *conn = mem_try(sizeof(*conn));

    if (conn == NULL) {
        stream_close(stream);
        return;
    }
    if (server->num_conns >= server->params.max_connections)
        http1_make_room(server);
    conn->server = server;
    conn->stream = stream;
    /* A head, a body, what one slice of a read brings, and one read behind an answer in the queue.
     */
    buf_init(&conn->in, HTTP1_HEAD_MAX * 2 + server->params.body_max + 2 * STREAM_READ_SMALL);
    buf_init(&conn->target, HTTP1_HEAD_MAX + 1);
    buf_init(&conn->head.name, HTTP1_HEAD_MAX);
    buf_init(&conn->head.value, HTTP1_HEAD_MAX);
    list_add_tail(&server->conns, &conn->link);
    server->num_conns++;
    stream_set_events(stream, &http1_events, conn);
    timer_start(server->loop, &conn->timer, http1_timeout_ms(conn), http1_on_timeout, conn);
    stream_read_start(stream);
}

void http1_server_free(struct http1_server *server)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &server->conns)
        http1_close(LIST_ITEM(pos, struct http1_conn, link));
    /* Connections name the server until the batch ends: a handler may have called this. */
    loop_defer(server->loop, mem_free, server);
}
