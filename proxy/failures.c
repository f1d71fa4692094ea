#include "proxy/failures.h"

#include <pthread.h>
#include <string.h>

#include "lib/base/mem.h"

#define FAILURES_TEXT_MAX 255

/* One kind. */
struct failure {
    uint64_t id; /* 0: a free place */
    uint64_t number, told;
    uint64_t told_ms; /* by the loop's clock */
    int64_t described_ms;
    int64_t first_ms, last_ms;
    uint64_t keys[FAILURES_KEYS]; /* the newest first */
    char *link;                   /* "" : none */
    char *peer_id;                /* likewise */
    char *server_name, *offered;  /* NULL: not known */
    char *policy;                 /* of the last; NULL: none */
    struct addr local, peer;
    err_t err;
    enum direction direction;
    enum close_reason reason;
    bool has_cert;
    struct shown_cert cert;
};

struct failures {
    pthread_mutex_t lock;
    uint64_t last_id;
    struct failure kinds[FAILURES_MAX];
};

struct failures *failures_new(void)
{
    struct failures *failures = mem_zalloc(sizeof(*failures));

    CHECK(pthread_mutex_init(&failures->lock, NULL) == 0);
    return failures;
}

static void failure_clear(struct failure *kind)
{
    mem_free(kind->link);
    mem_free(kind->peer_id);
    mem_free(kind->server_name);
    mem_free(kind->offered);
    mem_free(kind->policy);
    *kind = (struct failure){.id = 0};
}

void failures_free(struct failures *failures)
{
    for (size_t i = 0; i < FAILURES_MAX; i++)
        failure_clear(&failures->kinds[i]);
    CHECK(pthread_mutex_destroy(&failures->lock) == 0);
    mem_free(failures);
}

/* ---- noting ---- */

static const char *failure_or_none(const char *text)
{
    return text != NULL ? text : "";
}

static bool failure_is_of(const struct failure *kind, const struct failures_new *add)
{
    return kind->id != 0 && kind->direction == add->direction &&
           strcmp(kind->link, failure_or_none(add->link)) == 0;
}

static bool failure_is(const struct failure *kind, const struct failures_new *add)
{
    return kind->err.code == add->err.code && failure_is_of(kind, add) &&
           /* Alerts and the library's reasons are kinds; seconds and sizes are not. */
           (kind->err.sub == add->err.sub ||
            (!err_is(add->err, E_TLS_ALERT) && !err_is(add->err, E_TLS_NO_SHARED))) &&
           strncmp(kind->peer_id, failure_or_none(add->peer_id), FAILURES_TEXT_MAX) == 0;
}

static struct failure *failure_older(struct failure *a, struct failure *b)
{
    if (a == NULL)
        return b;
    return b->last_ms < a->last_ms || (b->last_ms == a->last_ms && b->id < a->id) ? b : a;
}

/* The place of a kind: its own, or a free one, or that of the one of its link and side, or else of
 * all, that has been silent for longest. */
static struct failure *failures_place(struct failures *failures, const struct failures_new *add)
{
    struct failure *oldest = NULL, *oldest_of = NULL, *none = NULL;
    size_t num = 0;

    for (size_t i = 0; i < FAILURES_MAX; i++) {
        struct failure *kind = &failures->kinds[i];

        if (kind->id == 0) {
            none = none != NULL ? none : kind;
            continue;
        }
        if (failure_is(kind, add))
            return kind;
        oldest = failure_older(oldest, kind);
        if (failure_is_of(kind, add)) {
            num++;
            oldest_of = failure_older(oldest_of, kind);
        }
    }
    if (num >= FAILURES_EACH_MAX) {
        failure_clear(oldest_of);
        return oldest_of;
    }
    if (none != NULL)
        return none;
    failure_clear(oldest);
    return oldest;
}

static void failure_describe(struct failure *kind, const struct failures_new *add)
{
    const char *name =
        add->ssl != NULL ? SSL_get_servername(add->ssl, TLSEXT_NAMETYPE_host_name) : NULL;

    kind->described_ms = add->now_ms;
    mem_free(kind->server_name);
    kind->server_name = name != NULL ? mem_strndup(name, FAILURES_TEXT_MAX) : NULL;
    mem_free(kind->offered);
    kind->offered = NULL;
    if (add->hello != NULL && add->hello->seen) {
        CLEANUP(buf_fini) struct buf text = {.data = NULL};

        CHECK(err_is_ok(shown_hello_text(add->hello, &text)));
        kind->offered = buf_take_str(&text);
    }
    kind->has_cert = shown_cert_of(add->ssl, add->err, add->now_ms / 1000, &kind->cert);
}

static void failure_set(struct failure *kind, const struct failures_new *add)
{
    if (kind->link == NULL) {
        kind->link = mem_strdup(failure_or_none(add->link));
        kind->peer_id = mem_strndup(failure_or_none(add->peer_id), FAILURES_TEXT_MAX);
        kind->direction = add->direction;
        kind->first_ms = add->now_ms;
    }
    kind->number++;
    kind->last_ms = add->now_ms;
    kind->reason = add->reason;
    kind->err = add->err;
    mem_free(kind->policy);
    kind->policy = add->policy != NULL ? mem_strdup(add->policy) : NULL;
    kind->local = add->local;
    kind->peer = add->peer;
    if (add->key != 0) {
        memmove(kind->keys + 1, kind->keys, sizeof(kind->keys) - sizeof(kind->keys[0]));
        kind->keys[0] = add->key;
    }
    if (kind->number == 1 || add->now_ms - kind->described_ms >= FAILURES_DESCRIBE_MS ||
        add->now_ms < kind->described_ms)
        failure_describe(kind, add);
}

void failures_note(struct failures *failures, const struct failures_new *add)
{
    struct failure *kind;

    if (failures == NULL)
        return;
    CHECK(pthread_mutex_lock(&failures->lock) == 0);
    kind = failures_place(failures, add);
    if (kind->id == 0)
        kind->id = ++failures->last_id;
    failure_set(kind, add);
    CHECK(pthread_mutex_unlock(&failures->lock) == 0);
}

/* ---- telling ---- */

static char *failure_text(const char *text)
{
    return mem_strdup(text != NULL ? text : "");
}

static char *failure_address(const struct addr *addr)
{
    char text[ADDR_TEXT_MAX] = "";

    if (addr->len != 0)
        addr_format(addr, text);
    return mem_strdup(text);
}

static Mortise__V1__FailedCertificate *failure_certificate(const struct shown_cert *cert)
{
    Mortise__V1__FailedCertificate *out = mem_alloc(sizeof(*out));

    mortise__v1__failed_certificate__init(out);
    out->subject = mem_strdup(cert->subject);
    out->issuer = mem_strdup(cert->issuer);
    out->serial = mem_strdup(cert->serial);
    out->not_before = cert->not_before;
    out->not_after = cert->not_after;
    out->depth = cert->depth;
    return out;
}

static void failure_add_keys(const struct failure *kind, Mortise__V1__FailedConnection *out)
{
    out->keys = mem_array(FAILURES_KEYS, sizeof(*out->keys));
    for (size_t i = 0; i < FAILURES_KEYS && kind->keys[i] != 0; i++) {
        char key[SHOWN_KEY_MAX];

        shown_key_text(kind->keys[i], key);
        out->keys[out->n_keys++] = mem_strdup(key);
    }
}

static Mortise__V1__FailedConnection *failure_message(const struct failure *kind)
{
    Mortise__V1__FailedConnection *out = mem_alloc(sizeof(*out));

    mortise__v1__failed_connection__init(out);
    out->id = kind->id;
    out->link = mem_strdup(kind->link);
    out->direction = mem_strdup(direction_name(kind->direction));
    out->reason = mem_strdup(close_reason_name(kind->reason));
    out->error = mem_strdup(err_name(kind->err.code));
    out->error_sub = kind->err.sub;
    out->number = kind->number;
    out->first_ms = kind->first_ms;
    out->last_ms = kind->last_ms;
    failure_add_keys(kind, out);
    out->local_address = failure_address(&kind->local);
    out->peer_address = failure_address(&kind->peer);
    out->peer_id = mem_strdup(kind->peer_id);
    out->server_name = failure_text(kind->server_name);
    out->offered = failure_text(kind->offered);
    out->policy = failure_text(kind->policy);
    if (kind->has_cert)
        out->certificate = failure_certificate(&kind->cert);
    return out;
}

static bool failure_is_due(const struct failure *kind, bool all, uint64_t now_ms)
{
    if (kind->id == 0 || kind->number == kind->told)
        return false;
    return all || kind->told == 0 || now_ms - kind->told_ms >= FAILURES_AGAIN_MS;
}

size_t failures_due(struct failures *failures, bool all, uint64_t now_ms, size_t max,
                    Mortise__V1__FailedConnection **out)
{
    size_t num = 0;

    CHECK(pthread_mutex_lock(&failures->lock) == 0);
    for (size_t i = 0; i < FAILURES_MAX && num < max; i++) {
        struct failure *kind = &failures->kinds[i];

        if (!failure_is_due(kind, all, now_ms))
            continue;
        out[num++] = failure_message(kind);
        kind->told = kind->number;
        kind->told_ms = now_ms;
    }
    CHECK(pthread_mutex_unlock(&failures->lock) == 0);
    return num;
}

void failures_untold(struct failures *failures)
{
    CHECK(pthread_mutex_lock(&failures->lock) == 0);
    for (size_t i = 0; i < FAILURES_MAX; i++)
        failures->kinds[i].told = 0;
    CHECK(pthread_mutex_unlock(&failures->lock) == 0);
}

Mortise__V1__FailedConnection *failures_message(const struct failures_new *one)
{
    struct failure kind = {.id = 0};
    Mortise__V1__FailedConnection *out;

    failure_set(&kind, one);
    out = failure_message(&kind);
    failure_clear(&kind);
    return out;
}
