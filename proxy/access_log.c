#include "proxy/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "proxy/worker.h"

#define ACCESS_LOG_COMPONENT "access"
#define ACCESS_LOG_EVENT "connection"

static atomic_bool access_log_on;
static int access_log_fd = -1; /* ours to close; -1: none, or standard output */

static void access_log_use(int fd, bool ours)
{
    int old = access_log_fd;

    log_route(ACCESS_LOG_COMPONENT, fd);
    access_log_fd = ours ? fd : -1;
    if (old >= 0)
        (void)close(old);
    atomic_store_explicit(&access_log_on, fd >= 0, memory_order_relaxed);
}

err_t access_log_open(const char *target)
{
    int fd;

    if (strcmp(target, "off") == 0) {
        access_log_close();
        return OK;
    }
    if (strcmp(target, "-") == 0) {
        access_log_use(STDOUT_FILENO, false);
        return OK;
    }
    /* O_NONBLOCK: opening a pipe that nobody reads is refused with ENXIO instead of waiting. */
    fd = open(target, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    if (fd < 0)
        return FAIL(FILE_OPEN, errno);
    access_log_use(fd, true);
    return OK;
}

const char *access_log_reason(err_t err)
{
    return err.sub == ENXIO ? "it is a pipe or socket that nobody reads" : strerror(err.sub);
}

void access_log_close(void)
{
    access_log_use(-1, false);
}

static void access_log_addr(const union conn_addr *from, char out[ADDR_TEXT_MAX])
{
    struct addr addr = conn_addr_get(from);

    out[0] = '\0';
    if (addr.len != 0)
        addr_format(&addr, out);
}

static const char *access_log_or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? text : NULL;
}

/* A peer without a SPIFFE ID is named by its first DNS name. */
static const char *access_log_peer_id(const struct peer *peer)
{
    if (peer == NULL)
        return NULL;
    if (peer->spiffe_id[0] != '\0')
        return peer->spiffe_id;
    return peer->dns_names[0];
}

/* What it is when it is open and nobody has proven who he is. */
static const char *access_log_no_peer(const struct conn *conn)
{
    if (conn->plain)
        return "plaintext";
    if (conn->setup != NULL || conn->peer != NULL)
        return NULL;
    return conn->direction == DIRECTION_INBOUND ? "anonymous" : "unverified";
}

void access_log_conn(const struct conn *conn, enum close_reason reason, err_t err)
{
    const struct snapshot *snapshot = conn->snapshot;
    const struct svid *shown =
        conn->link != NULL && conn->link->svid != NULL ? conn->link->svid : snapshot->svid;
    bool opened = conn->setup == NULL;
    char source[ADDR_TEXT_MAX], destination[ADDR_TEXT_MAX];

    if (!atomic_load_explicit(&access_log_on, memory_order_relaxed))
        return;
    access_log_addr(&conn->source, source);
    access_log_addr(&conn->destination, destination);

    const struct log_field fields[] = {
        LOG_STR("direction", direction_name((enum direction)conn->direction)),
        LOG_STR("link", conn->link != NULL ? conn->link->name : NULL),
        LOG_STR("source", source),
        LOG_STR("destination", access_log_or_null(destination)),
        LOG_STR("local_id", access_log_or_null(shown->spiffe_id)),
        LOG_STR("local_serial", shown->serial),
        LOG_STR("peer_id", access_log_peer_id(conn->peer)),
        LOG_STR("peer_serial", conn->peer != NULL ? conn->peer->serial : NULL),
        LOG_STR("peer", access_log_no_peer(conn)),
        LOG_STR("claimed_id", opened ? NULL : conn->setup->claimed),
        LOG_STR("tls_version", conn->tls.version),
        LOG_STR("cipher", conn->tls.cipher),
        LOG_STR("group", access_log_or_null(conn->tls.group)),
        LOG_STR("allowed_by", opened ? conn->link->name : NULL),
        LOG_UINT("bytes_to_mesh", relay_bytes(&conn->relay, RELAY_APP)),
        LOG_UINT("bytes_to_app", relay_bytes(&conn->relay, RELAY_MESH)),
        LOG_UINT("handshake_us", conn->handshake_us),
        LOG_UINT("duration_ms", loop_now_ms(conn->worker->loop) - conn->began_ms),
        LOG_UINT("generation", snapshot->generation),
        LOG_STR("reason", close_reason_name(reason)),
        LOG_STR("error", !err_is_ok(err) ? err_name(err.code) : NULL),
        err.sub != 0 ? LOG_INT("error_sub", err.sub) : LOG_STR("error_sub", NULL),
    };

    if (opened)
        log_event(LOG_INFO, ACCESS_LOG_COMPONENT, ACCESS_LOG_EVENT, fields, ARRAY_LEN(fields));
    else
        log_limited(LOG_INFO, ACCESS_LOG_COMPONENT, ACCESS_LOG_EVENT, fields, ARRAY_LEN(fields));
}
