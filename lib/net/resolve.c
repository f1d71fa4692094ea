#include "lib/net/resolve.h"

#include <netdb.h>
#include <string.h>

#include "lib/base/mem.h"

struct resolve {
    uv_getaddrinfo_t req;
    struct loop *loop;
    struct timer timer;
    resolve_cb cb; /* NULL: called, or cancelled */
    void *arg;
    err_t err;        /* of the target's text */
    struct addr addr; /* the target was one */
    uint16_t port;
    bool deferred;  /* loop_defer will still look at it */
    bool in_flight; /* libuv will */
};

static void resolve_release(struct resolve *resolve)
{
    timer_stop(resolve->loop, &resolve->timer);
    resolve->cb = NULL;
    if (!resolve->deferred && !resolve->in_flight)
        mem_free(resolve);
}

static void resolve_done(struct resolve *resolve, err_t err, const struct addr *addrs, size_t num)
{
    resolve_cb cb = resolve->cb;
    void *arg = resolve->arg;

    resolve_release(resolve);
    if (cb != NULL)
        cb(arg, err, addrs, num);
}

static void resolve_on_deferred(void *arg)
{
    struct resolve *resolve = arg;
    struct addr addr = resolve->addr;

    resolve->deferred = false;
    resolve_done(resolve, resolve->err, &addr, err_is_ok(resolve->err) ? 1 : 0);
}

static void resolve_on_timeout(void *arg)
{
    struct resolve *resolve = arg;

    (void)uv_cancel((uv_req_t *)&resolve->req); /* what has begun comes back all the same */
    resolve_done(resolve, FAIL(TIMEOUT, 0), NULL, 0);
}

/* libuv numbers the EAI_ values anew. */
static int resolve_eai(int status)
{
    switch (status) {
    case UV_EAI_AGAIN:
        return EAI_AGAIN;
    case UV_EAI_FAMILY:
        return EAI_FAMILY;
    case UV_EAI_MEMORY:
        return EAI_MEMORY;
    case UV_EAI_NODATA:
        return EAI_NODATA;
    case UV_EAI_NONAME:
        return EAI_NONAME;
    default:
        return EAI_FAIL;
    }
}

static size_t resolve_collect(const struct addrinfo *info, uint16_t port, struct addr *out)
{
    size_t num = 0;

    for (; info != NULL && num < RESOLVE_MAX; info = info->ai_next) {
        if (info->ai_addrlen > sizeof(out[num].sa) ||
            (info->ai_family != AF_INET && info->ai_family != AF_INET6))
            continue;
        memset(&out[num], 0, sizeof(out[num]));
        memcpy(&out[num].sa, info->ai_addr, info->ai_addrlen);
        out[num].len = info->ai_addrlen;
        addr_set_port(&out[num], port);
        num++;
    }
    return num;
}

static void resolve_on_info(uv_getaddrinfo_t *req, int status, struct addrinfo *info)
{
    struct resolve *resolve = req->data;
    struct addr addrs[RESOLVE_MAX];
    size_t num = resolve_collect(info, resolve->port, addrs);

    uv_freeaddrinfo(info);
    resolve->in_flight = false;
    if (status != 0)
        resolve_done(resolve, FAIL(RESOLVE_FAILED, resolve_eai(status)), NULL, 0);
    else if (num == 0)
        resolve_done(resolve, FAIL(RESOLVE_FAILED, EAI_NODATA), NULL, 0);
    else
        resolve_done(resolve, OK, addrs, num);
}

static err_t resolve_begin(struct resolve *resolve, const char *target, uint64_t timeout_ms)
{
    static const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char host[256];
    int status;

    TRY(addr_split_host(target, host, &resolve->port));
    status =
        uv_getaddrinfo(loop_uv(resolve->loop), &resolve->req, resolve_on_info, host, NULL, &hints);
    if (status != 0)
        return FAIL(RESOLVE_FAILED, resolve_eai(status));
    resolve->in_flight = true;
    timer_start(resolve->loop, &resolve->timer, timeout_ms, resolve_on_timeout, resolve);
    return OK;
}

struct resolve *resolve_start(struct loop *loop, const char *target, uint64_t timeout_ms,
                              resolve_cb cb, void *arg)
{
    struct resolve *resolve = mem_zalloc(sizeof(*resolve));

    resolve->loop = loop;
    resolve->cb = cb;
    resolve->arg = arg;
    resolve->req.data = resolve;
    if (!err_is_ok(addr_parse(target, &resolve->addr)))
        resolve->err = resolve_begin(resolve, target, timeout_ms);
    if (!resolve->in_flight) {
        resolve->deferred = true;
        loop_defer(loop, resolve_on_deferred, resolve);
    }
    return resolve;
}

void resolve_cancel(struct resolve *resolve)
{
    if (resolve->in_flight)
        (void)uv_cancel((uv_req_t *)&resolve->req);
    resolve_release(resolve);
}
