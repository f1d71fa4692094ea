/* crl_alarm tells of revocation lists that nobody renews: a log line for each list once half of its
 * life is over, another when it is stale, and gauges of when the lists of a truststore began and
 * end. Main thread. Source: reliability R7, F06. */
#ifndef MORTISE_PROXY_CRL_ALARM_H
#define MORTISE_PROXY_CRL_ALARM_H

#include "lib/base/map.h"
#include "proxy/snapshot.h"
#include "proxy/stats.h"

/* Zeroed memory is one that has told nothing yet. */
struct crl_alarm {
    struct map told;  /* list to how much */
    struct map shown; /* truststores that have gauges */
};

/* crl_alarm_look is called with the snapshot in force at each change and every second or so. */
void crl_alarm_look(struct crl_alarm *alarm, const struct snapshot *snapshot, struct stats *stats,
                    int64_t now_s);
void crl_alarm_fini(struct crl_alarm *alarm);

#endif
