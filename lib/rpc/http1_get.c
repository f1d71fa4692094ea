#include "lib/rpc/http1_get.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <http_parser.h>
#include <openssl/x509v3.h>

#include "lib/base/mem.h"
#include "lib/net/resolve.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"

#define HTTP1_GET_HEAD_MAX 65536 /* of an answer, with the framing of its body */

struct http1_get {
    struct loop *loop;
    struct http1_get_params params;
    struct http1_url url;
    struct timer timer;
    struct resolve *resolve;
    struct addr addrs[RESOLVE_MAX];
    size_t num_addrs, next_addr;
    struct tcp_connect *connect;
    struct stream *stream;
    SSL *ssl; /* until the handshake is over */
    http_parser parser;
    struct buf body;
    size_t received;
    bool named; /* the handshake judges the server's name */
    bool complete;
    bool overflow;
};

/* ---- the address ---- */

static bool http1_url_part(const char *url, const struct http_parser_url *parts,
                           enum http_parser_url_fields field, char *out, size_t size)
{
    size_t len = parts->field_data[field].len;

    if ((parts->field_set & 1u << field) == 0 || len == 0 || len >= size)
        return false;
    memcpy(out, url + parts->field_data[field].off, len);
    out[len] = '\0';
    return true;
}

err_t http1_url_parse(const char *url, struct http1_url *out)
{
    struct http_parser_url parts;
    unsigned char address[16];
    size_t len = strlen(url);
    const char *path;

    for (size_t i = 0; i < len; i++) {
        if (url[i] <= ' ' || url[i] > '~')
            return FAIL(SYNTAX, i);
    }
    http_parser_url_init(&parts);
    if (len > HTTP1_URL_MAX || strncmp(url, "https://", 8) != 0 ||
        http_parser_parse_url(url, len, 0, &parts) != 0 ||
        (parts.field_set & (1u << UF_USERINFO | 1u << UF_FRAGMENT)) != 0 ||
        !http1_url_part(url, &parts, UF_HOST, out->host, sizeof(out->host)))
        return FAIL(SYNTAX, 0);
    out->port = (parts.field_set & 1u << UF_PORT) != 0 ? parts.port : 443;
    if (out->port == 0 || strchr(url, '#') != NULL)
        return FAIL(SYNTAX, 0);
    out->is_address =
        inet_pton(AF_INET, out->host, address) == 1 || inet_pton(AF_INET6, out->host, address) == 1;
    path = strchr(url + 8, '/');
    (void)snprintf(out->path, sizeof(out->path), "%s", path != NULL ? path : "/");
    /* "https://host?query" has no path for it to be of. */
    return path == NULL && strchr(url, '?') != NULL ? FAIL(SYNTAX, 0) : OK;
}

/* ---- the end ---- */

static void http1_get_free(void *arg)
{
    struct http1_get *get = arg;

    SSL_CTX_free(get->params.ctx);
    buf_fini(&get->body);
    mem_free(get);
}

void http1_get_cancel(struct http1_get *get)
{
    timer_stop(get->loop, &get->timer);
    if (get->resolve != NULL)
        resolve_cancel(get->resolve);
    if (get->connect != NULL)
        tcp_connect_cancel(get->connect);
    if (get->stream != NULL)
        stream_close(get->stream);
    get->resolve = NULL;
    get->connect = NULL;
    get->stream = NULL;
    loop_defer(get->loop, http1_get_free, get);
}

static void http1_get_finish(struct http1_get *get, err_t err)
{
    http1_get_cb cb = get->params.cb;
    void *arg = get->params.arg;

    /* The memory stays until the batch of events is done. */
    http1_get_cancel(get);
    cb(arg, err, err_is_ok(err) ? buf_view(&get->body) : bytes_of(NULL, 0));
}

static void http1_get_on_timeout(void *arg)
{
    http1_get_finish(arg, FAIL(TIMEOUT, 0));
}

/* ---- the answer ---- */

static int http1_get_on_body(http_parser *parser, const char *at, size_t len)
{
    struct http1_get *get = parser->data;

    if (err_is_ok(buf_add(&get->body, at, len)))
        return 0;
    get->overflow = true;
    return 1;
}

static int http1_get_on_complete(http_parser *parser)
{
    struct http1_get *get = parser->data;

    get->complete = true;
    http_parser_pause(parser, 1); /* what comes behind it is not looked at */
    return 0;
}

static const http_parser_settings http1_get_settings = {
    .on_body = http1_get_on_body,
    .on_message_complete = http1_get_on_complete,
};

/* Whether there is enough to say how it went; then it is over. */
static void http1_get_feed(struct http1_get *get, struct bytes data)
{
    http_parser *parser = &get->parser;

    get->received += data.len;
    (void)http_parser_execute(parser, &http1_get_settings, (const char *)data.ptr, data.len);
    if (get->overflow || get->received > get->params.body_max + HTTP1_GET_HEAD_MAX)
        http1_get_finish(get, FAIL(TOO_LARGE, get->params.body_max));
    else if (get->complete && parser->status_code != 200)
        http1_get_finish(get, FAIL(HTTP1_STATUS, parser->status_code));
    else if (get->complete)
        http1_get_finish(get, OK);
    else if (HTTP_PARSER_ERRNO(parser) != HPE_OK)
        http1_get_finish(get, FAIL(HTTP1_SYNTAX, 0));
}

static void http1_get_on_read(void *arg, struct bytes data)
{
    http1_get_feed(arg, data);
}

/* An answer without a length ends with the connection. */
static void http1_get_on_eof(void *arg)
{
    struct http1_get *get = arg;

    (void)http_parser_execute(&get->parser, &http1_get_settings, "", 0);
    if (get->complete && get->parser.status_code == 200)
        http1_get_finish(get, OK);
    else
        http1_get_finish(get, get->complete ? FAIL(HTTP1_STATUS, get->parser.status_code)
                                            : FAIL(CLOSED, 0));
}

static void http1_get_on_drained(void *arg)
{
    (void)arg;
}

static void http1_get_on_error(void *arg, err_t err)
{
    http1_get_finish(arg, err);
}

static const struct stream_events http1_get_events = {
    .on_read = http1_get_on_read,
    .on_eof = http1_get_on_eof,
    .on_drained = http1_get_on_drained,
    .on_error = http1_get_on_error,
};

/* ---- the question ---- */

static err_t http1_get_ask(struct http1_get *get)
{
    bool is_v6 = strchr(get->url.host, ':') != NULL;
    CLEANUP(buf_fini) struct buf head = {0};

    TRY(buf_printf(&head, "GET %s HTTP/1.1\r\nHost: %s%s%s", get->url.path, is_v6 ? "[" : "",
                   get->url.host, is_v6 ? "]" : ""));
    if (get->url.port != 443)
        TRY(buf_printf(&head, ":%u", get->url.port));
    TRY(buf_printf(&head, "\r\nAccept: %s\r\nUser-Agent: mortise\r\nConnection: close\r\n\r\n",
                   get->params.accept));
    TRY(stream_write(get->stream, buf_view(&head)));
    stream_read_start(get->stream);
    return OK;
}

static void http1_get_on_handshake(void *arg, err_t err)
{
    struct http1_get *get = arg;
    long verdict = get->ssl != NULL ? SSL_get_verify_result(get->ssl) : X509_V_OK;

    get->ssl = NULL;
    if (!err_is_ok(err) && verdict != X509_V_OK)
        err = FAIL(CHAIN_UNTRUSTED, verdict);
    if (err_is_ok(err) && !get->named)
        err = FAIL(NO_MEMORY, 0);
    if (err_is_ok(err))
        err = http1_get_ask(get);
    if (!err_is_ok(err))
        http1_get_finish(get, err);
}

/* The name that the certificate must have, in a subjectAltName. */
static bool http1_get_want_name(SSL *ssl, const struct http1_url *url)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (url->is_address)
        return X509_VERIFY_PARAM_set1_ip_asc(param, url->host) == 1;
    return X509_VERIFY_PARAM_set1_host(param, url->host, strlen(url->host)) == 1;
}

static void http1_get_configure(void *arg, SSL *ssl)
{
    struct http1_get *get = arg;

    get->ssl = ssl;
    SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    get->named = http1_get_want_name(ssl, &get->url);
}

static err_t http1_get_begin_tls(struct http1_get *get, struct stream *tcp)
{
    const struct tls_params params = {
        .ctx = get->params.ctx,
        .role = TLS_CLIENT,
        .server_name = get->url.is_address ? NULL : get->url.host,
        .configure = http1_get_configure,
        .arg = get,
        .records = TLS_RECORDS_LIBRARY,
    };
    err_t err = tls_new(tcp, &params, &get->stream);

    if (!err_is_ok(err)) {
        stream_close(tcp);
        return err;
    }
    stream_set_events(get->stream, &http1_get_events, get);
    tls_handshake(get->stream, http1_get_on_handshake, get);
    return OK;
}

static void http1_get_next_addr(struct http1_get *get, err_t last);

static void http1_get_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct http1_get *get = arg;

    get->connect = NULL;
    if (!err_is_ok(err)) {
        http1_get_next_addr(get, err);
        return;
    }
    err = http1_get_begin_tls(get, stream);
    if (!err_is_ok(err))
        http1_get_finish(get, err);
}

static void http1_get_next_addr(struct http1_get *get, err_t last)
{
    while (get->next_addr < get->num_addrs) {
        /* An even share: a silent address leaves time for the next one. */
        last = tcp_connect(get->loop, &get->addrs[get->next_addr++],
                           get->params.timeout_ms / (get->num_addrs + 1), http1_get_on_connected,
                           get, &get->connect);
        if (err_is_ok(last))
            return;
    }
    http1_get_finish(get, last);
}

static void http1_get_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct http1_get *get = arg;

    get->resolve = NULL;
    if (!err_is_ok(err)) {
        http1_get_finish(get, err);
        return;
    }
    get->num_addrs = num < RESOLVE_MAX ? num : RESOLVE_MAX;
    memcpy(get->addrs, addrs, get->num_addrs * sizeof(*addrs));
    http1_get_next_addr(get, FAIL(RESOLVE_FAILED, 0));
}

struct http1_get *http1_get_start(struct loop *loop, const struct http1_get_params *params)
{
    struct http1_get *get = mem_zalloc(sizeof(*get));
    bool is_v6 = strchr(params->url->host, ':') != NULL;
    CLEANUP(mem_freep)
    char *target = mem_printf("%s%s%s:%u", is_v6 ? "[" : "", params->url->host, is_v6 ? "]" : "",
                              params->url->port);

    get->loop = loop;
    get->params = *params;
    get->url = *params->url;
    SSL_CTX_up_ref(get->params.ctx);
    buf_init(&get->body, params->body_max);
    http_parser_init(&get->parser, HTTP_RESPONSE);
    get->parser.data = get;
    timer_start(loop, &get->timer, params->timeout_ms, http1_get_on_timeout, get);
    get->resolve = resolve_start(loop, target, params->timeout_ms, http1_get_on_resolved, get);
    return get;
}
