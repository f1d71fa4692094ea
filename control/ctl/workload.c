#include "control/ctl/workload.h"

#include <inttypes.h>

void workload_add_state(struct table *table, const Mortise__V1__Workload *item)
{
    const Mortise__V1__FieldFault *fault = NULL;

    if (item->refused != NULL) {
        if (item->refused->n_faults > 0)
            fault = item->refused->faults[0];
        table_addf(table, "refuses %" PRIu64 ": %s%s%s", item->refused_version,
                   fault != NULL ? fault->path : item->refused->code, fault != NULL ? ": " : "",
                   fault != NULL ? fault->message : "");
    } else if (item->status == NULL) {
        table_add(table, "joining");
    } else if (!item->status->ready) {
        table_add(table, "not ready");
    } else if (item->clock_off) {
        table_addf(
            table, "clock %" PRId64 " min %s",
            ((item->clock_ahead_ms < 0 ? -item->clock_ahead_ms : item->clock_ahead_ms) + 30000) /
                60000,
            item->clock_ahead_ms < 0 ? "behind" : "ahead");
    } else if (item->status->renewal_error[0] != '\0') {
        table_addf(table, "renewal: %s", item->status->renewal_error);
    } else {
        table_add(table, "ready");
    }
}
