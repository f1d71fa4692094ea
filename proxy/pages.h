/* pages: what the sidecar's administration shows beyond what every program has: /config and
 * /connections, as JSON. Never a secret. */
#ifndef MORTISE_PROXY_PAGES_H
#define MORTISE_PROXY_PAGES_H

#include "lib/rpc/admin.h"

extern const struct admin_page pages[]; /* their argument is the sidecar */

/* pages_series is what admin writes behind the metrics: the certificates in force. */
err_t pages_series(void *arg, struct buf *out);
/* pages_ready is admin's question. */
void pages_ready(void *arg, struct faults *reasons);

#endif
