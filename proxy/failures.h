/* failures remembers connections that failed, for the control plane's `why`: not each one, but each
 * kind (link, side, error, peer), how often, and what was known of the last. However many fail, and
 * whoever causes it, memory is bounded, a failure costs a look through a short table, and what is
 * sent up is a few kinds a second. Any thread. Source: features F12. */
#ifndef MORTISE_PROXY_FAILURES_H
#define MORTISE_PROXY_FAILURES_H

#include "certs/shown.h"
#include "lib/net/addr.h"
#include "proto/mesh/why.pb-c.h"
#include "proxy/stats.h"

#define FAILURES_MAX 128        /* kinds that are kept; the one that is silent for longest goes */
#define FAILURES_EACH_MAX 8     /* of one link and side */
#define FAILURES_KEYS 4         /* of the newest connections of a kind */
#define FAILURES_SEND_MAX 16    /* in one message: each is at most 2 KiB */
#define FAILURES_AGAIN_MS 10000 /* a kind that goes on is told of so often */
/* Reading the peer's certificate and hello for people costs more than all the rest. */
#define FAILURES_DESCRIBE_MS 1000 /* of one kind */

/* What is known of a connection that failed; all borrowed. */
struct failures_new {
    enum direction direction;
    const char *link; /* NULL: none was found */
    enum close_reason reason;
    err_t err;
    uint64_t key;      /* see shown_key_number; 0: none */
    struct addr local; /* len 0: not known */
    struct addr peer;
    const char *policy;              /* that denied it; NULL: none did */
    const char *peer_id;             /* that the peer claims; NULL: none */
    const SSL *ssl;                  /* of the handshake, if there is one still; NULL */
    const struct shown_hello *hello; /* that it sent; NULL */
    int64_t now_ms;                  /* Unix milliseconds */
};

struct failures;
struct failures *failures_new(void);
void failures_free(struct failures *failures);

/* failures_note remembers one; `failures` may be NULL: nobody would be told. */
void failures_note(struct failures *failures, const struct failures_new *add);

/* failures_due gives what is to be told now, owned messages (pb_free), at most `max`: kinds that
 * are new, and those that were told of FAILURES_AGAIN_MS ago and have come again; with `all` those
 * that have come again at all. Each is then told. */
size_t failures_due(struct failures *failures, bool all, uint64_t now_ms, size_t max,
                    Mortise__V1__FailedConnection **out);
/* failures_untold: whoever was told has forgotten it. */
void failures_untold(struct failures *failures);

/* failures_message is one failure in the same words, owned. */
Mortise__V1__FailedConnection *failures_message(const struct failures_new *one);

#endif
