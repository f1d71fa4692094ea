/* discovery: the stream over which the control plane pushes this sidecar's configuration.
 *
 * A response is applied whole and acknowledged, or refused (NACK) with every fault and its path;
 * then what was in force stays. A stream that breaks is opened again with backoff; nothing is lost
 * by that. The rules are in proto/mesh/discovery.proto. */
#ifndef MORTISE_PROXY_DISCOVERY_H
#define MORTISE_PROXY_DISCOVERY_H

#include "lib/base/faults.h"
#include "lib/net/loop.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proxy/stats.h"
#include "proxy/uplink.h"

#define DISCOVERY_MESSAGE_MAX ((size_t)4 << 20)

struct discovery_params {
    struct loop *loop;
    struct uplink *uplink;
    struct stats *stats;
    const char *instance;  /* random; copied */
    const char *advertise; /* copied; "": unknown */
    /* Puts a response into force, or adds the faults. Called within the stream's callback. */
    err_t (*apply)(void *arg, const Mortise__V1__DiscoveryResponse *response,
                   struct faults *faults);
    /* Fills in the status; strings stay the callee's for the call. */
    void (*status)(void *arg, Mortise__V1__SidecarStatus *out);
    /* The control plane wants certificates of that epoch. After apply, also of a refused response.
     */
    void (*on_epoch)(void *arg, uint64_t epoch, uint32_t spread_ms);
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
bool discovery_is_connected(const struct discovery *discovery);

/* What is remembered across streams, and the answer to one response. Pure but for `apply`. */
struct discovery_state {
    uint64_t version; /* in force; 0: none */
};
struct discovery_answer {
    uint64_t version; /* to be sent: in force after this */
    const char *code; /* NULL: ACK */
};
/* discovery_answer judges a response: a version older than the one in force is refused
 * (config_rollback: a control plane restored from an old backup must not undo what was decided
 * since), as is one without nonce, version or configuration (config_invalid); all else is apply's
 * to judge. Adds the faults. */
struct discovery_answer
discovery_answer(struct discovery_state *state, const Mortise__V1__DiscoveryResponse *response,
                 err_t (*apply)(void *arg, const Mortise__V1__DiscoveryResponse *, struct faults *),
                 void *arg, struct faults *faults);

#endif
