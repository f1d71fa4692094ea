/* discovery: the stream over which the control plane pushes this sidecar's configuration.
 *
 * A response is applied whole and acknowledged, or refused (NACK) with every fault and its path;
 * then what was in force stays. A stream that breaks is opened again with backoff; nothing is lost
 * by that. The rules are in proto/mesh/discovery.proto. */
#ifndef MORTISE_PROXY_DISCOVERY_H
#define MORTISE_PROXY_DISCOVERY_H

#include "lib/base/faults.h"
#include "lib/base/skew.h"
#include "lib/net/loop.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proxy/stats.h"
#include "proxy/uplink.h"

#define DISCOVERY_MESSAGE_MAX ((size_t)4 << 20)

/* Where the control plane's store was, see Point in proto/mesh/discovery.proto. run 0: unknown. */
struct discovery_point {
    uint64_t era;
    uint64_t run;
    uint64_t revision;
};

/* What is remembered across streams, and, in the cache, across restarts. */
struct discovery_state {
    uint64_t version; /* in force; 0: none */
    struct discovery_point seen;
};

struct discovery_params {
    struct loop *loop;
    struct uplink *uplink;
    struct stats *stats;
    const char *instance;         /* random; copied */
    const char *advertise;        /* copied; "": unknown */
    struct discovery_state state; /* what is in force already */
    /* Puts a response into force, or adds the faults. Called within the stream's callback. */
    err_t (*apply)(void *arg, const Mortise__V1__DiscoveryResponse *response,
                   struct faults *faults);
    /* The configuration in force, borrowed; NULL: none. */
    const Mortise__V1__SidecarConfig *(*in_force)(void *arg);
    /* Fills in the status; strings stay the callee's for the call. */
    void (*status)(void *arg, Mortise__V1__SidecarStatus *out);
    /* The control plane wants certificates of that epoch. After apply, also of a refused response.
     */
    void (*on_epoch)(void *arg, uint64_t epoch, uint32_t spread_ms);
    /* A stream is open: what was told on another one may be unknown there. */
    void (*on_open)(void *arg);
    /* The control plane asks; discovery_send_answer_part answers. */
    void (*on_question)(void *arg, const Mortise__V1__Question *question);
    /* The control plane has taken access log batch `number`, the last one that it took; the next
     * may come after `wait_ms`. */
    void (*on_access_ack)(void *arg, uint64_t number, uint32_t wait_ms);
    void *arg;
};

struct discovery;
struct discovery *discovery_new(const struct discovery_params *params);
/* discovery_start opens the stream; discovery_reopen begins another one, after the channel was told
 * to reconnect with a new certificate: the old one stays until the new one has taken its place, so
 * that the control plane never sees us gone. */
void discovery_start(struct discovery *discovery);
void discovery_reopen(struct discovery *discovery);
void discovery_free(struct discovery *discovery);
/* discovery_send_status tells the control plane of a change, if the stream is open. */
void discovery_send_status(struct discovery *discovery);
/* discovery_send_answer_part answers a question, if the stream is still open. */
void discovery_send_answer_part(struct discovery *discovery, const Mortise__V1__Answer *answer);
/* discovery_send_failures tells of connections that failed; false: the stream is not open. */
bool discovery_send_failures(struct discovery *discovery, Mortise__V1__FailedConnection **list,
                             size_t num);
/* discovery_send_access_log sends a batch; false: the stream is not open. */
bool discovery_send_access_log(struct discovery *discovery, Mortise__V1__AccessLogBatch *batch);
/* discovery_skew is how far the control plane's clock is ahead of ours. */
struct skew discovery_skew(const struct discovery *discovery);
bool discovery_is_connected(const struct discovery *discovery);
struct discovery_point discovery_seen(const struct discovery *discovery);

struct discovery_answer {
    uint64_t version; /* to be sent: in force after this */
    const char *code; /* NULL: ACK */
};
/* discovery_answer judges a response: what comes from a store that lacks what we have seen of it is
 * refused (config_rollback: a control plane restored from an old backup must not undo what was
 * decided since), as is one without nonce, version or configuration (config_invalid); all else is
 * apply's to judge. Adds the faults. Pure but for `apply`. */
struct discovery_answer
discovery_answer(struct discovery_state *state, const Mortise__V1__DiscoveryResponse *response,
                 err_t (*apply)(void *arg, const Mortise__V1__DiscoveryResponse *, struct faults *),
                 void *arg, struct faults *faults);

/* discovery_kept lists the revocations of `in_force` (NULL: none) that `offered` lacks, whatever
 * their grace: borrowed, at most `max` of them and `max_bytes` as they are sent. Returns how many
 * there are of all. */
size_t discovery_kept(const Mortise__V1__SidecarConfig *in_force,
                      const Mortise__V1__SidecarConfig *offered, size_t max, size_t max_bytes,
                      Mortise__V1__Revocation **out, size_t *out_num);

#endif
