/* syslog sends lines to a syslog receiver, a datagram each, and never waits for it: what its socket
 * does not take is lost, and counted by the caller. A receiver that was away is found again. Any
 * thread. Source: RFC 5424, RFC 5426. */
#ifndef MORTISE_PROXY_SYSLOG_H
#define MORTISE_PROXY_SYSLOG_H

#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/net/addr.h"

#define SYSLOG_SOCKET "/dev/log"
#define SYSLOG_AGAIN_US 1000000 /* how often one that is away is looked for */

/* Numbers of RFC 5424, section 6.2.1. */
enum syslog_severity { SYSLOG_WARNING = 4, SYSLOG_INFO = 6 };

/* syslog_target reads "syslog" (that of this host), "syslog:unix:PATH", "syslog:udp://ADDR:PORT"
 * (an address, no name: nothing here waits for a resolver). Errors: ADDR_SYNTAX. */
MUST_CHECK err_t syslog_target(const char *text, struct addr *out);

struct syslog_sender;
/* syslog_new never fails: a receiver that is not there may come. `facility` is 0 to 23. */
struct syslog_sender *syslog_new(const struct addr *to, unsigned facility);
void syslog_free(struct syslog_sender *sender);

/* syslog_send sends `text` as the message of an event of that kind (a constant: MSGID). False: it
 * is lost. */
bool syslog_send(struct syslog_sender *sender, enum syslog_severity severity, const char *kind,
                 const char *text, size_t len);

/* syslog_head writes what stands before the message: "<30>1 2026-11-24T03:00:00.123456Z host
 * mortise-proxy 4711 connection - ". Returns its length. Pure. */
#define SYSLOG_HEAD_MAX 384
size_t syslog_head(unsigned priority, int64_t now_us, const char *host, unsigned pid,
                   const char *kind, char out[SYSLOG_HEAD_MAX]);

#endif
