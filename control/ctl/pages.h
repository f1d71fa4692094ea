/* pages collects what the control plane lists page by page (AIP-158). */
#ifndef MORTISE_CONTROL_CTL_PAGES_H
#define MORTISE_CONTROL_CTL_PAGES_H

#include "control/ctl/conn.h"

/* pages_call makes the call `method` until no page follows, and returns one owned reply (pb_free)
 * with the items of all, or NULL, which has been told. The request has a string `page_token`, which
 * is as before on return; the reply has one repeated message field and a string `next_page_token`.
 */
ProtobufCMessage *pages_call(struct conn *conn, const char *method, ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *reply);

#endif
