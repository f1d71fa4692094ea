/* probe tries a link when an operator asks: to each endpoint (the first few) a connection and a
 * handshake with the link's own context, the check of who is there, and the server's verdict, which
 * in TLS 1.3 comes behind the handshake; then it is over. It offers TLS_PROBE_PROTOCOL, by which
 * the server's sidecar knows not to connect to its application. Runs on the main loop. */
#ifndef MORTISE_PROXY_PROBE_H
#define MORTISE_PROXY_PROBE_H

#include "lib/net/loop.h"
#include "proto/mesh/why.pb-c.h"
#include "proxy/snapshot.h"

#define PROBE_ENDPOINTS_MAX 8
#define PROBE_PER_S 8 /* of a process; more are refused (rate_limited) */
#define PROBE_TIMEOUT_MIN_MS 100
#define PROBE_TIMEOUT_MAX_MS 10000

struct probes; /* the rate of them */
struct probes *probes_new(struct loop *loop);
void probes_free(struct probes *probes);

struct probe;
/* Called once, from the loop or from within probe_start; borrowed for the call. */
typedef void (*probe_cb)(void *arg, const Mortise__V1__ProbeAnswer *answer);
/* probe_start tries what is asked under `snapshot` (NULL: none yet). NULL: it was answered already.
 */
struct probe *probe_start(struct probes *probes, struct snapshot *snapshot,
                          const Mortise__V1__Probe *asked, probe_cb cb, void *arg);
/* probe_cancel: the callback will not come. */
void probe_cancel(struct probe *probe);

#endif
