/* outbound: from the local application to the mesh: connect to one of the link's endpoints, prove
 * who is there, relay. Nothing of the application is read before the tunnel stands. */
#ifndef MORTISE_PROXY_OUTBOUND_H
#define MORTISE_PROXY_OUTBOUND_H

#include "proxy/worker.h"

/* outbound_start takes accepted->fd; borrows the rest. */
void outbound_start(struct worker *worker, const struct worker_accepted *accepted);

#endif
