#include "lib/rpc/admin.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "lib/net/tcp.h"

#define ADMIN_BODY_MAX                                                        \
    65536 /* a log spec is some words; a program's own pages take little more \
           */
#define ADMIN_UNIX_MODE 0600

/* One of the two doors: what comes in by it sees all pages or the public ones. */
struct admin_door {
    struct admin *admin;
    bool public_only;
    struct listener *listener;
    struct http1_server *server;
};

struct admin {
    struct loop *loop;
    struct admin_params params;
    struct admin_door socket;
    struct admin_door http;
};

/* ---- pages of every program ---- */

/* Appends to a response; the body's own maximum is the only thing that could fail. */
static void admin_say(struct http1_response *response, err_t err)
{
    if (err_is_ok(err))
        return;
    buf_clear(&response->body);
    response->status = 500;
}

static void admin_livez(void *arg, const struct http1_request *request,
                        struct http1_response *response)
{
    (void)arg;
    (void)request;
    admin_say(response, buf_add_str(&response->body, "ok\n"));
}

static void admin_readyz(void *arg, const struct http1_request *request,
                         struct http1_response *response)
{
    struct admin *admin = arg;
    struct faults *reasons = mem_zalloc(sizeof(*reasons));

    (void)request;
    if (admin->params.ready != NULL)
        admin->params.ready(admin->params.arg, reasons);
    if (reasons->total == 0) {
        admin_say(response, buf_add_str(&response->body, "ok\n"));
    } else {
        response->status = 503;
        faults_text(reasons, &response->body);
    }
    faults_fini(reasons);
    mem_free(reasons);
}

static void admin_metrics(void *arg, const struct http1_request *request,
                          struct http1_response *response)
{
    struct admin *admin = arg;

    (void)request;
    response->content_type = "text/plain; version=0.0.4; charset=utf-8";
    if (admin->params.metrics != NULL)
        admin_say(response, metrics_write(admin->params.metrics, &response->body));
    if (admin->params.more_metrics != NULL && response->status != 500)
        admin_say(response, admin->params.more_metrics(admin->params.arg, &response->body));
}

static void admin_say_spec(struct http1_response *response)
{
    char spec[1024];

    log_spec(spec, sizeof(spec));
    admin_say(response, buf_printf(&response->body, "%s\n", spec));
}

static void admin_loglevel(void *arg, const struct http1_request *request,
                           struct http1_response *response)
{
    (void)arg;
    (void)request;
    admin_say_spec(response);
}

static void admin_set_loglevel(void *arg, const struct http1_request *request,
                               struct http1_response *response)
{
    struct bytes body = request->body, bad;
    char *spec;

    (void)arg;
    while (body.len != 0 && (body.ptr[body.len - 1] == '\n' || body.ptr[body.len - 1] == '\r'))
        body.len--;
    spec = mem_strndup(body.len != 0 ? (const char *)body.ptr : "", body.len);
    if (err_is_ok(log_set_spec(spec, &bad))) {
        log_info("admin", "loglevel_set", LOG_STR("spec", spec));
        admin_say_spec(response);
    } else {
        response->status = 400;
        admin_say(response,
                  buf_printf(&response->body,
                             "cannot use \"%.*s\"; a level is error, warn, info or debug, "
                             "as in \"info,tls=debug\"\n",
                             (int)bad.len, bad.len != 0 ? (const char *)bad.ptr : ""));
    }
    mem_free(spec);
}

static void admin_index(void *arg, const struct http1_request *request,
                        struct http1_response *response);

static const struct admin_page admin_pages[] = {
    {"/", false, true, admin_index, "this page"},
    {"/livez", false, true, admin_livez, "200 while the program runs"},
    {"/readyz", false, true, admin_readyz, "200 when it does its work, else 503 and the reasons"},
    {"/metrics", false, true, admin_metrics, "counters for Prometheus"},
    {"/loglevel", false, false, admin_loglevel, "log levels in force"},
    {"/loglevel", true, false, admin_set_loglevel, "sets them: \"info,tls=debug\""},
    {NULL, false, false, NULL, NULL},
};

/* ---- finding the page ---- */

static void admin_index_of(const struct admin_page *pages, bool public_only,
                           struct http1_response *response)
{
    for (; pages != NULL && pages->path != NULL; pages++) {
        if (pages->public || !public_only)
            admin_say(response,
                      buf_printf(&response->body, "%-5s%-16s %s\n", pages->post ? "POST" : "GET",
                                 pages->path, pages->help != NULL ? pages->help : ""));
    }
}

static void admin_index(void *arg, const struct http1_request *request,
                        struct http1_response *response)
{
    const struct admin_door *door = arg;

    (void)request;
    admin_index_of(admin_pages, door->public_only, response);
    admin_index_of(door->admin->params.pages, door->public_only, response);
}

static bool admin_is_at(const char *page, const char *path)
{
    size_t len = strlen(page);

    return len > 1 && page[len - 1] == '/' ? strncmp(path, page, len) == 0
                                           : strcmp(path, page) == 0;
}

/* The page for path and method; *out_get and *out_post say what the path has. */
static const struct admin_page *admin_find(const struct admin_page *pages, bool public_only,
                                           const struct http1_request *request, bool *out_get,
                                           bool *out_post)
{
    bool post = strcmp(request->method, "POST") == 0;
    bool get = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
    const struct admin_page *found = NULL;

    for (; pages != NULL && pages->path != NULL; pages++) {
        if (!admin_is_at(pages->path, request->path) || (public_only && !pages->public))
            continue;
        *(pages->post ? out_post : out_get) = true;
        if (pages->post ? post : get)
            found = pages;
    }
    return found;
}

static void admin_handle(void *arg, const struct http1_request *request,
                         struct http1_response *response)
{
    struct admin_door *door = arg;
    struct admin *admin = door->admin;
    bool get = false, post = false;
    const struct admin_page *own = admin_find(admin_pages, door->public_only, request, &get, &post);
    const struct admin_page *more =
        admin_find(admin->params.pages, door->public_only, request, &get, &post);

    if (own != NULL) {
        own->handle(own->handle == admin_index ? (void *)door : (void *)admin, request, response);
    } else if (more != NULL) {
        more->handle(admin->params.arg, request, response);
    } else if (get || post) {
        response->status = 405;
        response->allow = get && post ? "GET, HEAD, POST" : get ? "GET, HEAD" : "POST";
        admin_say(response, buf_add_str(&response->body, "method is not allowed here\n"));
    } else {
        response->status = 404;
        admin_say(response, buf_add_str(&response->body, "no such page; / lists all\n"));
    }
}

/* ---- doors ---- */

/* The socket file's permissions keep others out; this keeps out whoever got the descriptor of a
 * process that was allowed to connect. Root may always. */
static bool admin_peer_may(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
        return false;
    return cred.uid == 0 || cred.uid == geteuid();
}

static void admin_on_accept(void *arg, int fd, const struct addr *peer)
{
    struct admin_door *door = arg;
    struct stream *stream;

    (void)peer;
    if (!door->public_only && !admin_peer_may(fd)) {
        log_limited(LOG_WARN, "admin", "peer_refused", NULL, 0);
        (void)close(fd);
        return;
    }
    if (!err_is_ok(tcp_new(door->admin->loop, fd, &stream)))
        return;
    http1_server_accept(door->server, stream);
}

static err_t admin_open(struct admin_door *door, const char *where, const char *setting,
                        bool is_unix, struct faults *faults)
{
    struct listener_params params = {
        .unix_mode = ADMIN_UNIX_MODE,
        .on_accept = admin_on_accept,
        .arg = door,
    };
    struct http1_params http = {
        .handler = admin_handle,
        .arg = door,
        .body_max = ADMIN_BODY_MAX,
    };
    err_t err;

    if (where == NULL)
        return OK;
    err = addr_parse(where, &params.addr);
    if (err_is_ok(err) && (params.addr.sa.any.sa_family == AF_UNIX) != is_unix)
        err = FAIL(ADDR_SYNTAX, 0);
    if (!err_is_ok(err)) {
        faults_add(faults, setting, "expected %s, found \"%s\"",
                   is_unix ? "unix:/path" : "an address and port like 127.0.0.1:15020", where);
        return err;
    }
    err = listener_new(door->admin->loop, &params, &door->listener);
    if (!err_is_ok(err)) {
        faults_add(faults, setting, "cannot listen on %s: %s%s%s", where, err_text(err.code),
                   err.sub != 0 ? ": " : "", err.sub != 0 ? strerror(err.sub) : "");
        return err;
    }
    door->server = http1_server_new(door->admin->loop, &http);
    listener_start(door->listener);
    return OK;
}

static void admin_shut(struct admin_door *door)
{
    if (door->listener != NULL)
        listener_close(door->listener);
    if (door->server != NULL)
        http1_server_free(door->server);
    door->listener = NULL;
    door->server = NULL;
}

err_t admin_new(struct loop *loop, const struct admin_params *params, struct faults *faults,
                struct admin **out)
{
    struct admin *admin = mem_zalloc(sizeof(*admin));
    err_t err, http_err;

    admin->loop = loop;
    admin->params = *params;
    admin->socket = (struct admin_door){.admin = admin};
    admin->http = (struct admin_door){.admin = admin, .public_only = true};
    /* Both are tried, so that both faults are told. */
    err = admin_open(&admin->socket, params->listen, "admin-listen", true, faults);
    http_err = admin_open(&admin->http, params->http_listen, "admin-http-listen", false, faults);
    if (err_is_ok(err))
        err = http_err;
    if (!err_is_ok(err)) {
        admin_free(admin);
        return err;
    }
    *out = admin;
    return OK;
}

void admin_free(struct admin *admin)
{
    admin_shut(&admin->socket);
    admin_shut(&admin->http);
    /* A page of its own may have called this. */
    loop_defer(admin->loop, mem_free, admin);
}

const struct addr *admin_http_addr(const struct admin *admin)
{
    return admin->http.listener != NULL ? listener_addr(admin->http.listener) : NULL;
}
