/* why says in words whether one subsystem reaches another over a link, and if not, why: out of what
 * the control plane knows of the two ends, what their sidecars remember of failures, and what a
 * trial found. A trial that succeeded or failed decides; without one, only what makes a handshake
 * impossible for certain does. Pure. Source: features F12. */
#ifndef MORTISE_CONTROL_WHY_H
#define MORTISE_CONTROL_WHY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/why.pb-c.h"

#define WHY_FAILURES_SHOWN 8 /* of each side */

enum why_side { WHY_CLIENT, WHY_SERVER, WHY_SIDES };

/* A sidecar of one end that is connected, or was until just now. Everything here borrows. */
struct why_sidecar {
    const char *instance;
    bool ready, behind; /* behind: it has not taken the newest configuration yet */
    const Mortise__V1__ErrorDetail *refused; /* it refuses that; NULL: no */
    uint64_t refused_version;
    const char *serial;        /* of its certificate, lower-case hex; "" : not told */
    int64_t not_after;         /* of its certificate, Unix seconds; 0: not told */
    const char *renewal_error; /* "" : none */
    bool clock_off;
    int64_t ahead_ms;  /* of the control plane's clock */
    const char *waits; /* what a rotation waits for from it; NULL: nothing */
};

struct why_end {
    const char *subsystem;
    const struct why_sidecar *sidecars;
    size_t num_sidecars;
    bool known;          /* one has connected at some time */
    const char *revoked; /* what of it: "its identity, since …"; NULL: nothing */
    const Mortise__V1__FailedConnection *const *failures; /* newest first */
    size_t num_failures;
};

/* What a client's sidecar said of a trial. */
struct why_probe {
    const char *instance;
    const char *error; /* it made none, for this reason; NULL: it did */
    const Mortise__V1__ProbeAnswer *answer;
};

struct why_facts {
    int64_t now_s;
    const char *link; /* NULL: there is none from the one to the other */
    bool reverse;     /* then: there is one the other way */
    struct why_end ends[WHY_SIDES];
    const char *denied; /* by which policy, as a sentence; NULL: by none */
    const char *apart;  /* what the two profiles do not have in common; NULL: they meet */
    const char *offered, *required;
    const char *rotation; /* that is under way: "of the root, at reissue"; NULL: none */
    const struct why_probe *probes;
    size_t num_probes;
    const char *not_probed;                    /* why there are none; NULL: nobody could be asked */
    Mortise__V1__ProbeAnswer__Listens listens; /* the server's application */
    const char *target;
};

/* why_judge fills a message, made by its init, with owned texts and copies (pb_free). */
void why_judge(const struct why_facts *facts, Mortise__V1__WhyLink *out);

#endif
