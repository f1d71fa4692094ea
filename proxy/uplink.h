/* uplink: the one channel to the control plane. It says who may be at the other end (the control
 * plane's own SPIFFE ID, not merely a certificate of the mesh) and which certificate we show: none
 * before we have one. R44. */
#ifndef MORTISE_PROXY_UPLINK_H
#define MORTISE_PROXY_UPLINK_H

#include "certs/bundle.h"
#include "certs/svid.h"
#include "certs/verify.h"
#include "lib/base/clock.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_client.h"

struct uplink_params {
    struct loop *loop;
    const struct clock *clock;
    const char *target;       /* HOST:PORT; copied */
    const char *trust_domain; /* copied */
    struct bundle *roots;     /* of the first contact; shared */
    /* Whether a certificate is denied, by what was pushed last: also one that says it is the
     * control plane's. May be NULL. */
    bool (*is_revoked)(void *arg, const struct peer *peer);
    void *arg;
};

struct uplink;
struct uplink *uplink_new(const struct uplink_params *params);
void uplink_free(struct uplink *uplink);
struct grpc_channel *uplink_channel(struct uplink *uplink);
/* uplink_set_svid shows another certificate from the next connection on. `svid` NULL: none. Shared.
 * uplink_reconnect begins one: calls in flight go on where they are. */
void uplink_set_svid(struct uplink *uplink, struct svid *svid);
void uplink_reconnect(struct uplink *uplink);
/* uplink_set_roots replaces what the control plane's certificate must lead to. Shared. */
void uplink_set_roots(struct uplink *uplink, struct bundle *roots);
struct bundle *uplink_roots(struct uplink *uplink);
const char *uplink_trust_domain(const struct uplink *uplink);

#endif
