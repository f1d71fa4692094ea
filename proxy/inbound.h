/* inbound: from the mesh to the local application: prove who comes, decide by which link, connect
 * to that link's target, relay. */
#ifndef MORTISE_PROXY_INBOUND_H
#define MORTISE_PROXY_INBOUND_H

#include "proxy/worker.h"

/* inbound_start takes accepted->fd; borrows the rest. */
void inbound_start(struct worker *worker, const struct worker_accepted *accepted);

#endif
