#include "control/acceptor.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/caller.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/net/listener.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"

/* Verified chains that are remembered: few come twice before they are renewed. */
#define ACCEPTOR_CACHE 64

/* Connections without a certificate, which only Attest needs, and that for a moment: they must not
 * take the places of members, nor one source those of the others. */
#define ACCEPTOR_STRANGERS_MAX 256
#define ACCEPTOR_STRANGERS_PER_SOURCE 32

/* How many wait to be accepted, for each handshake that may be under way: who waits is served in
 * order, so a queue that takes longer than callers have patience would serve only those that are
 * about to give up. Whoever finds it full tries again (the kernel drops his SYN). */
#define ACCEPTOR_WAITING 2
#define ACCEPTOR_WAITING_MIN 128

struct acceptor {
    struct loop *loop;
    struct acceptor_params params;
    struct listener *listener;
    struct verify_cache *cache;
    struct list handshakes;
    unsigned num_handshakes;
    bool paused; /* as many handshakes as may be: who comes now waits in the kernel's queue */
    struct map sources; /* to the number of handshakes under way, as a pointer */
};

struct handshake {
    struct list link;
    struct acceptor *acceptor;
    struct stream *stream;
    struct tls_ctx *tls;
    struct tls_check check;
    struct timer timer;
    struct addr addr;
    char source[ADDR_TEXT_MAX];
};

/* ------------------------------------------------------------------- sources */

static bool acceptor_enter(struct acceptor *acceptor, const char *source)
{
    uintptr_t num = (uintptr_t)map_get(&acceptor->sources, source);

    if (acceptor->num_handshakes >= acceptor->params.max_handshakes ||
        num >= acceptor->params.max_per_source)
        return false;
    map_put(&acceptor->sources, source, (void *)(num + 1));
    acceptor->num_handshakes++;
    return true;
}

static void acceptor_leave(struct acceptor *acceptor, const char *source)
{
    uintptr_t num = (uintptr_t)map_get(&acceptor->sources, source);

    CHECK(num > 0);
    if (num == 1)
        map_del(&acceptor->sources, source);
    else
        map_put(&acceptor->sources, source, (void *)(num - 1));
    acceptor->num_handshakes--;
    if (acceptor->paused) {
        acceptor->paused = false;
        listener_start(acceptor->listener);
    }
}

/* Whoever waited too long in the kernel's queue has given up: a signature for him would only make
 * the next one wait too long. */
static bool acceptor_is_gone(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};

    return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* ---------------------------------------------------------------- handshakes */

/* Releases the handshake; its stream has gone to somebody else or is closed. */
static void handshake_free(struct handshake *handshake)
{
    struct acceptor *acceptor = handshake->acceptor;

    timer_stop(acceptor->loop, &handshake->timer);
    list_del(&handshake->link);
    acceptor_leave(acceptor, handshake->source);
    tls_check_fini(&handshake->check);
    tls_ctx_unref(handshake->tls);
    mem_free(handshake);
}

static void handshake_fail(struct handshake *handshake, err_t err)
{
    struct acceptor *acceptor = handshake->acceptor;
    char peer[ADDR_TEXT_MAX];

    addr_format(&handshake->addr, peer);
    log_limited(LOG_INFO, "acceptor", "handshake_failed",
                (const struct log_field[]){LOG_STR("peer", peer), LOG_ERR("reason", err)}, 2);
    stream_close(handshake->stream);
    if (acceptor->params.on_handshake != NULL)
        acceptor->params.on_handshake(acceptor->params.arg, err);
    handshake_free(handshake);
}

static void handshake_on_timeout(void *arg)
{
    handshake_fail(arg, FAIL(HANDSHAKE_TIMEOUT, 0));
}

struct stranger_count {
    const char *source;
    unsigned total;
    unsigned of_source;
};

/* Counts, and matches none. */
static bool stranger_count_one(void *arg, const struct grpc_peer *peer)
{
    struct stranger_count *count = arg;
    const struct caller *caller = peer->identity;
    char source[ADDR_TEXT_MAX];

    if (!caller_is_stranger(caller))
        return false;
    caller_source(&peer->addr, source);
    count->total++;
    count->of_source += strcmp(source, count->source) == 0;
    return false;
}

static err_t handshake_check_strangers(const struct handshake *handshake)
{
    struct stranger_count count = {.source = handshake->source};

    grpc_server_close_if(handshake->acceptor->params.server, stranger_count_one, &count);
    if (count.total >= ACCEPTOR_STRANGERS_MAX || count.of_source >= ACCEPTOR_STRANGERS_PER_SOURCE)
        return FAIL(OVERLOAD, count.total);
    return OK;
}

static err_t handshake_identify(struct handshake *handshake, struct caller **out)
{
    struct tls_check *check = &handshake->check;
    SSL *ssl = tls_ssl(handshake->stream);
    struct peer *peer;

    TRY(tls_check_finish(check, ssl));
    if (check->peer == NULL)
        TRY(handshake_check_strangers(handshake));
    peer = check->peer != NULL ? peer_ref(check->peer) : NULL;
    return caller_new(peer, ssl, loop_now_ms(handshake->acceptor->loop), out);
}

static void handshake_on_done(void *arg, err_t err)
{
    struct handshake *handshake = arg;
    struct acceptor *acceptor = handshake->acceptor;
    struct caller *caller = NULL;
    struct grpc_peer peer;

    if (!err_is_ok(err) && !err_is_ok(handshake->check.err))
        err = handshake->check.err; /* the reason behind the alert */
    if (err_is_ok(err))
        err = handshake_identify(handshake, &caller);
    if (!err_is_ok(err)) {
        handshake_fail(handshake, err);
        return;
    }
    peer = (struct grpc_peer){
        .addr = handshake->addr,
        .tls = true,
        .uid = (uid_t)-1,
        .identity = caller,
    };
    if (acceptor->params.on_handshake != NULL)
        acceptor->params.on_handshake(acceptor->params.arg, OK);
    grpc_server_accept(acceptor->params.server, handshake->stream, &peer);
    handshake_free(handshake);
}

static void handshake_configure(void *arg, SSL *ssl)
{
    struct handshake *handshake = arg;

    tls_check_init(&handshake->check, loop_clock(handshake->acceptor->loop),
                   handshake->acceptor->cache);
    tls_check_attach(&handshake->check, ssl);
}

/* Begins TLS on a connected descriptor (taken). */
static err_t handshake_begin(struct handshake *handshake, int fd)
{
    struct acceptor *acceptor = handshake->acceptor;
    const struct tls_params params = {
        .ctx = tls_ctx_ssl(handshake->tls),
        .role = TLS_SERVER,
        .configure = handshake_configure,
        .arg = handshake,
    };
    struct stream *tcp;
    err_t err;

    TRY(tcp_new(acceptor->loop, fd, &tcp));
    err = tls_new(tcp, &params, &handshake->stream);
    if (!err_is_ok(err))
        stream_close(tcp);
    return err;
}

static void acceptor_on_tcp(void *arg, int fd, const struct addr *peer)
{
    struct acceptor *acceptor = arg;
    struct tls_ctx *tls = server_cert_tls(acceptor->params.cert);
    struct handshake *handshake = NULL;
    char source[ADDR_TEXT_MAX];
    err_t err;

    if (acceptor_is_gone(fd)) {
        (void)close(fd);
        return;
    }
    caller_source(peer, source);
    if (tls != NULL && acceptor_enter(acceptor, source)) {
        handshake = mem_try(sizeof(*handshake));
        if (handshake == NULL)
            acceptor_leave(acceptor, source);
    }
    if (handshake == NULL) {
        log_limited(LOG_WARN, "acceptor", tls != NULL ? "overload" : "no_certificate",
                    (const struct log_field[]){LOG_STR("source", source)}, 1);
        (void)close(fd); /* nothing was sent */
        return;
    }
    handshake->acceptor = acceptor;
    handshake->addr = *peer;
    handshake->tls = tls_ctx_ref(tls);
    memcpy(handshake->source, source, sizeof(source));
    list_add_tail(&acceptor->handshakes, &handshake->link);
    if (acceptor->num_handshakes >= acceptor->params.max_handshakes) {
        acceptor->paused = true;
        listener_pause(acceptor->listener);
    }
    err = handshake_begin(handshake, fd);
    if (!err_is_ok(err)) {
        log_limited(LOG_WARN, "acceptor", "accept_failed",
                    (const struct log_field[]){LOG_ERR("reason", err)}, 1);
        handshake_free(handshake);
        return;
    }
    timer_start(acceptor->loop, &handshake->timer, acceptor->params.handshake_ms,
                handshake_on_timeout, handshake);
    tls_handshake(handshake->stream, handshake_on_done, handshake);
}

/* --------------------------------------------------------------- Unix socket */

static void acceptor_on_unix(void *arg, int fd, const struct addr *addr)
{
    struct acceptor *acceptor = arg;
    struct ucred cred = {.uid = (uid_t)-1};
    socklen_t len = sizeof(cred);
    struct grpc_peer peer = {.addr = *addr};
    struct caller *caller;
    struct stream *stream;
    err_t err;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0) {
        log_limited(LOG_WARN, "acceptor", "no_credentials", NULL, 0);
        (void)close(fd);
        return;
    }
    if (!acceptor->params.admits(acceptor->params.arg, cred.uid)) {
        log_limited(LOG_WARN, "acceptor", "no_role",
                    (const struct log_field[]){LOG_UINT("uid", cred.uid)}, 1);
        (void)close(fd);
        return;
    }
    err = tcp_new(acceptor->loop, fd, &stream);
    if (!err_is_ok(err)) {
        log_limited(LOG_WARN, "acceptor", "accept_failed",
                    (const struct log_field[]){LOG_ERR("reason", err)}, 1);
        return;
    }
    err = caller_new(NULL, NULL, loop_now_ms(acceptor->loop), &caller);
    CHECK(err_is_ok(err)); /* there is no certificate to be wrong */
    peer.uid = cred.uid;
    peer.identity = caller;
    grpc_server_accept(acceptor->params.server, stream, &peer);
}

/* --------------------------------------------------------------------- whole */

static int acceptor_backlog(const struct acceptor_params *params)
{
    unsigned num = params->max_handshakes * ACCEPTOR_WAITING;

    return num > ACCEPTOR_WAITING_MIN ? (int)num : ACCEPTOR_WAITING_MIN;
}

err_t acceptor_new(struct loop *loop, const struct acceptor_params *params, struct acceptor **out)
{
    struct acceptor *acceptor = mem_zalloc(sizeof(*acceptor));
    bool is_unix = params->addr.sa.any.sa_family == AF_UNIX;
    const struct listener_params listener = {
        .addr = params->addr,
        .unix_mode = params->everyone ? 0666 : 0600,
        .backlog = acceptor_backlog(params),
        .on_accept = is_unix ? acceptor_on_unix : acceptor_on_tcp,
        .arg = acceptor,
    };
    err_t err;

    acceptor->loop = loop;
    acceptor->params = *params;
    list_init(&acceptor->handshakes);
    err = listener_new(loop, &listener, &acceptor->listener);
    if (!err_is_ok(err)) {
        mem_free(acceptor);
        return err;
    }
    acceptor->cache = verify_cache_new(ACCEPTOR_CACHE);
    listener_start(acceptor->listener);
    *out = acceptor;
    return OK;
}

void acceptor_close(struct acceptor *acceptor)
{
    struct list *pos, *tmp;

    if (acceptor == NULL)
        return;
    acceptor->paused = false; /* nobody is let in any more */
    listener_close(acceptor->listener);
    LIST_EACH (pos, tmp, &acceptor->handshakes) {
        struct handshake *handshake = LIST_ITEM(pos, struct handshake, link);

        stream_close(handshake->stream);
        handshake_free(handshake);
    }
    map_fini(&acceptor->sources);
    verify_cache_free(acceptor->cache);
    mem_free(acceptor);
}

const struct addr *acceptor_addr(const struct acceptor *acceptor)
{
    return listener_addr(acceptor->listener);
}
