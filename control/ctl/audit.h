/* What the audit commands share: the records of a control plane, one by one. */
#ifndef MORTISE_CONTROL_CTL_AUDIT_H
#define MORTISE_CONTROL_CTL_AUDIT_H

#include "control/ctl/conn.h"
#include "proto/mesh/operator.pb-c.h"

/* audit_each gives fn each record that matches, oldest first, until it returns false. False: the
 * control plane has refused, which has been told. */
typedef bool (*audit_fn)(void *arg, const Mortise__V1__AuditRecord *record);
bool audit_each(struct conn *conn, Mortise__V1__ListAuditRecordsRequest *request, audit_fn fn,
                void *arg);

/* audit_state makes a call that is answered with it; owned (pb_free), with its head; NULL: told.
 * audit_get is the one that only asks. */
Mortise__V1__AuditState *audit_state(struct conn *conn, const char *method,
                                     const ProtobufCMessage *request);
Mortise__V1__AuditState *audit_get(struct conn *conn);

/* audit_time reads "2026-11-23T08:00:00Z", "2026-11-23" or "30m" (ago) as Unix milliseconds; false:
 * it is none, which has been told. */
bool audit_time(const char *flag, const char *text, int64_t now_s, int64_t *out_ms);

#endif
