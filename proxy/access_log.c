#include "proxy/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "certs/shown.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "proxy/access_share.h"
#include "proxy/syslog.h"
#include "proxy/worker.h"

#define ACCESS_LOG_COMPONENT "access"
#define ACCESS_LOG_EVENT "connection"
#define ACCESS_LOG_FIELDS_MAX 32

enum { ACCESS_LOG_FILE = 1, ACCESS_LOG_SYSLOG = 2 };

/* Which of them there are. */
static atomic_uint access_log_sinks;

/* Main thread: */
static struct {
    int fd; /* ours to close; -1: none, or standard output */
    bool regular;
    bool failing; /* to be opened again: told */
    dev_t dev;
    ino_t ino;
} access_log_file = {.fd = -1};

static pthread_rwlock_t access_log_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct syslog_sender *access_log_syslog;

/* ---- where lines go ---- */

struct access_targets {
    char *file; /* or "-"; NULL: none */
    struct addr syslog;
    bool has_syslog;
};

static void access_targets_fini(struct access_targets *targets)
{
    mem_free(targets->file);
}

/* One of them; NULL, or what is wrong with it. */
static const char *access_target(const char *word, struct access_targets *out)
{
    bool is_syslog =
        strcmp(word, "syslog") == 0 || strncmp(word, "syslog:", sizeof("syslog:") - 1) == 0;

    if (word[0] == '\0')
        return "is empty: wanted is a file, -, syslog or off";
    if (strcmp(word, "off") == 0)
        return "off stands alone";
    if (is_syslog) {
        if (out->has_syslog)
            return "names two syslog targets: one at most";
        out->has_syslog = true;
        return err_is_ok(syslog_target(word, &out->syslog))
                   ? NULL
                   : "has a syslog target that is none: wanted is syslog, syslog:unix:PATH or "
                     "syslog:udp://ADDRESS:PORT";
    }
    if (out->file != NULL)
        return "names two files: one at most (a comma stands between targets)";
    out->file = mem_strdup(word);
    return NULL;
}

static const char *access_targets_parse(const char *text, struct access_targets *out)
{
    const char *fault = NULL;

    *out = (struct access_targets){.file = NULL};
    if (strcmp(text, "off") == 0)
        return NULL;
    for (size_t len; fault == NULL; text += len + 1) {
        CLEANUP(mem_freep) char *word = NULL;

        len = strcspn(text, ",");
        word = mem_strndup(text, len);
        fault = access_target(word, out);
        if (text[len] == '\0')
            break;
    }
    return fault;
}

void access_log_check(const char *flag, const char *targets, struct faults *faults)
{
    CLEANUP(access_targets_fini) struct access_targets parsed = {.file = NULL};
    const char *fault = access_targets_parse(targets, &parsed);

    if (fault != NULL)
        faults_add(faults, flag, "%s", fault);
}

static void access_log_set(unsigned sink, bool on)
{
    if (on)
        (void)atomic_fetch_or_explicit(&access_log_sinks, sink, memory_order_relaxed);
    else
        (void)atomic_fetch_and_explicit(&access_log_sinks, ~sink, memory_order_relaxed);
}

static void access_log_use(int fd, bool ours)
{
    int old = access_log_file.fd;
    struct stat st;

    log_route(ACCESS_LOG_COMPONENT, fd);
    access_log_file.fd = ours ? fd : -1;
    access_log_file.regular = ours && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (access_log_file.regular) {
        access_log_file.dev = st.st_dev;
        access_log_file.ino = st.st_ino;
    }
    if (old >= 0)
        (void)close(old);
    access_log_set(ACCESS_LOG_FILE, fd >= 0);
}

static void access_log_use_syslog(struct syslog_sender *sender)
{
    struct syslog_sender *old;

    CHECK(pthread_rwlock_wrlock(&access_log_lock) == 0);
    old = access_log_syslog;
    access_log_syslog = sender;
    CHECK(pthread_rwlock_unlock(&access_log_lock) == 0);
    syslog_free(old);
    access_log_set(ACCESS_LOG_SYSLOG, sender != NULL);
}

err_t access_log_open(const char *targets, unsigned facility)
{
    CLEANUP(access_targets_fini) struct access_targets parsed = {.file = NULL};
    bool is_file;
    int fd = -1;

    CHECK(access_targets_parse(targets, &parsed) == NULL); /* access_log_check has looked */
    is_file = parsed.file != NULL && strcmp(parsed.file, "-") != 0;
    /* O_NONBLOCK: opening a pipe that nobody reads is refused with ENXIO instead of waiting. */
    if (is_file)
        fd = open(parsed.file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                  0600);
    if (is_file && fd < 0)
        return FAIL(FILE_OPEN, errno);
    access_log_file.failing = false;
    if (is_file || parsed.file == NULL)
        access_log_use(fd, fd >= 0);
    else
        access_log_use(STDOUT_FILENO, false);
    access_log_use_syslog(parsed.has_syslog ? syslog_new(&parsed.syslog, facility) : NULL);
    return OK;
}

err_t access_log_follow(const char *targets, unsigned facility)
{
    CLEANUP(access_targets_fini) struct access_targets parsed = {.file = NULL};
    struct stat st;
    err_t err;

    if (!access_log_file.regular || access_targets_parse(targets, &parsed) != NULL ||
        parsed.file == NULL)
        return OK;
    if (stat(parsed.file, &st) == 0 && st.st_dev == access_log_file.dev &&
        st.st_ino == access_log_file.ino) {
        access_log_file.failing = false;
        return OK;
    }
    err = access_log_open(targets, facility);
    if (err_is_ok(err) || access_log_file.failing)
        return OK;
    access_log_file.failing = true;
    return err;
}

const char *access_log_reason(err_t err)
{
    return err.sub == ENXIO ? "it is a pipe or socket that nobody reads" : strerror(err.sub);
}

void access_log_close(void)
{
    access_log_use(-1, false);
    access_log_use_syslog(NULL);
}

/* ---- a connection ---- */

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

/* What is told of a connection, for whomever. */
struct access_view {
    const struct conn *conn;
    const struct svid *shown;
    enum close_reason reason;
    err_t err;
    bool opened;
    uint64_t suppressed;
    uint64_t duration_ms;
    char source[ADDR_TEXT_MAX];
    char destination[ADDR_TEXT_MAX];
    char key[SHOWN_KEY_MAX];
};

static size_t access_log_fields(const struct access_view *view,
                                struct log_field out[ACCESS_LOG_FIELDS_MAX])
{
    const struct conn *conn = view->conn;
    const struct log_field fields[] = {
        LOG_STR("direction", direction_name((enum direction)conn->direction)),
        LOG_STR("link", conn->link != NULL ? conn->link->name : NULL),
        LOG_STR("key", access_log_or_null(view->key)),
        LOG_STR("source", view->source),
        LOG_STR("destination", access_log_or_null(view->destination)),
        LOG_STR("local_id", access_log_or_null(view->shown->spiffe_id)),
        LOG_STR("local_serial", view->shown->serial),
        LOG_STR("peer_id", access_log_peer_id(conn->peer)),
        LOG_STR("peer_serial", conn->peer != NULL ? conn->peer->serial : NULL),
        LOG_STR("peer", access_log_no_peer(conn)),
        LOG_STR("claimed_id", view->opened ? NULL : conn->setup->claimed),
        LOG_STR("tls_version", conn->tls.version),
        LOG_STR("cipher", conn->tls.cipher),
        LOG_STR("group", access_log_or_null(conn->tls.group)),
        LOG_STR("allowed_by", view->opened ? conn->link->name : NULL),
        LOG_UINT("bytes_to_mesh", relay_bytes(&conn->relay, RELAY_APP)),
        LOG_UINT("bytes_to_app", relay_bytes(&conn->relay, RELAY_MESH)),
        LOG_UINT("handshake_us", conn->handshake_us),
        LOG_UINT("duration_ms", view->duration_ms),
        LOG_UINT("generation", conn->snapshot->generation),
        LOG_STR("reason", close_reason_name(view->reason)),
        LOG_STR("policy", conn->policy),
        LOG_STR("error", !err_is_ok(view->err) ? err_name(view->err.code) : NULL),
        view->err.sub != 0 ? LOG_INT("error_sub", view->err.sub) : LOG_STR("error_sub", NULL),
        view->suppressed != 0 ? LOG_UINT("suppressed", view->suppressed)
                              : LOG_STR("suppressed", NULL),
    };

    _Static_assert(ARRAY_LEN(fields) <= ACCESS_LOG_FIELDS_MAX, "room for all fields");
    memcpy(out, fields, sizeof(fields));
    return ARRAY_LEN(fields);
}

static void access_log_to_syslog(const struct access_view *view, const struct log_field *fields,
                                 size_t num)
{
    enum syslog_severity severity = err_is_ok(view->err) ? SYSLOG_INFO : SYSLOG_WARNING;
    char line[LOG_LINE_MAX];
    size_t len = log_json(LOG_INFO, ACCESS_LOG_COMPONENT, ACCESS_LOG_EVENT, fields, num, line);
    bool sent = true;

    CHECK(pthread_rwlock_rdlock(&access_log_lock) == 0);
    if (access_log_syslog != NULL)
        sent = syslog_send(access_log_syslog, severity, ACCESS_LOG_EVENT, line, len);
    CHECK(pthread_rwlock_unlock(&access_log_lock) == 0);
    if (!sent)
        stats_add(view->conn->worker->shared->stats, STAT_ACCESS_LOST_SYSLOG, 1);
}

/* ---- up to the control plane ---- */

/* Whether it is one of those that the control plane wants. A trial of an operator's has not failed.
 */
static bool access_log_is_shared(const struct conn *conn, err_t err)
{
    unsigned permille =
        conn->link != NULL ? conn->link->log_permille : conn->snapshot->log_permille;

    if (conn->worker->shared->access_share == NULL || permille == 0)
        return false;
    return (!err_is_ok(err) && !err_is(err, E_PROBED)) || access_share_picks(conn->key, permille);
}

/* protobuf-c has no const; all of it is only read. */
static char *access_log_lend(const char *text)
{
    return (char *)(uintptr_t)(text != NULL ? text : "");
}

static void access_log_share(const struct access_view *view)
{
    const struct conn *conn = view->conn;
    struct worker_shared *shared = conn->worker->shared;
    Mortise__V1__AccessLogEntry entry = MORTISE__V1__ACCESS_LOG_ENTRY__INIT;
    char peer_id[ACCESS_SHARE_TEXT_MAX + 1], claimed[ACCESS_SHARE_TEXT_MAX + 1];
    size_t dropped;

    entry.at_ms = clock_wall_us() / 1000;
    entry.link = access_log_lend(conn->link != NULL ? conn->link->name : NULL);
    entry.direction = access_log_lend(direction_name((enum direction)conn->direction));
    entry.key = access_log_lend(view->key);
    entry.source = access_log_lend(view->source);
    entry.destination = access_log_lend(view->destination);
    entry.local_serial = access_log_lend(view->shown->serial);
    entry.peer_id = access_share_text(access_log_peer_id(conn->peer), peer_id);
    entry.peer_serial = access_log_lend(conn->peer != NULL ? conn->peer->serial : NULL);
    entry.peer = access_log_lend(access_log_no_peer(conn));
    entry.claimed_id = access_share_text(view->opened ? NULL : conn->setup->claimed, claimed);
    entry.tls_version = access_log_lend(conn->tls.version);
    entry.cipher = access_log_lend(conn->tls.cipher);
    entry.group = access_log_lend(conn->tls.group);
    entry.bytes_to_mesh = relay_bytes(&conn->relay, RELAY_APP);
    entry.bytes_to_app = relay_bytes(&conn->relay, RELAY_MESH);
    entry.handshake_us = conn->handshake_us;
    entry.duration_ms = view->duration_ms;
    entry.reason = access_log_lend(close_reason_name(view->reason));
    entry.policy = access_log_lend(conn->policy);
    if (!err_is_ok(view->err))
        entry.error = access_log_lend(err_name(view->err.code));
    entry.error_sub = view->err.sub;
    entry.suppressed = view->suppressed;
    dropped = access_share_add(shared->access_share, &entry);
    if (dropped > 0)
        stats_add(shared->stats, STAT_ACCESS_LOST_CONTROL, (int64_t)dropped);
}

void access_log_conn(const struct conn *conn, enum close_reason reason, err_t err)
{
    unsigned sinks = atomic_load_explicit(&access_log_sinks, memory_order_relaxed);
    bool shared = access_log_is_shared(conn, err);
    struct access_view view = {
        .conn = conn, .reason = reason, .err = err, .opened = conn->setup == NULL};
    struct log_field fields[ACCESS_LOG_FIELDS_MAX];
    size_t num;

    if (!log_enabled(LOG_INFO, ACCESS_LOG_COMPONENT))
        sinks = 0;
    if ((sinks == 0 && !shared) ||
        (!view.opened && !log_limit(ACCESS_LOG_COMPONENT, ACCESS_LOG_EVENT, &view.suppressed)))
        return;
    view.shown =
        conn->link != NULL && conn->link->svid != NULL ? conn->link->svid : conn->snapshot->svid;
    view.duration_ms = loop_now_ms(conn->worker->loop) - conn->began_ms;
    access_log_addr(&conn->source, view.source);
    access_log_addr(&conn->destination, view.destination);
    shown_key_text(conn->key, view.key);
    if (shared)
        access_log_share(&view);
    if (sinks == 0)
        return;
    num = access_log_fields(&view, fields);
    if ((sinks & ACCESS_LOG_SYSLOG) != 0)
        access_log_to_syslog(&view, fields, num);
    if ((sinks & ACCESS_LOG_FILE) != 0)
        log_event(LOG_INFO, ACCESS_LOG_COMPONENT, ACCESS_LOG_EVENT, fields, num);
}
