/* plaintext_uses remembers who has come without TLS to the permissive ports of links, as the
 * sidecars of their servers tell it: over restarts, and until the link has no such port any more.
 * To end it while somebody still uses it would cut him off. Source: features F11. */
#ifndef MORTISE_CONTROL_PLAINTEXT_USES_H
#define MORTISE_CONTROL_PLAINTEXT_USES_H

#include "control/registry.h"
#include "control/vault.h"

#define PLAINTEXT_SAVE_S 60 /* a link's uses are written down at most so often */

struct plaintext_uses;

/* plaintext_uses_open loads what was written down, and hears of sidecars from then on. All
 * borrowed. Errors: STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t plaintext_uses_open(struct vault *vault, struct registry *registry,
                                     const struct clock *clock, struct plaintext_uses **out);
void plaintext_uses_free(struct plaintext_uses *uses);
/* plaintext_uses_tick, every second or so, removes what was written down of links that have no such
 * port any more. */
void plaintext_uses_tick(struct plaintext_uses *uses);

/* plaintext_uses_of tells what is known of a link; NULL: nobody has come. */
const Mortise__Control__PlaintextUse *plaintext_uses_of(const struct plaintext_uses *uses,
                                                        const char *link);

/* plaintext_uses_early adds each link that takes plaintext now, would not with `after` (or at
 * another port), and was used within the last settings.plaintext_quiet_s: "link a-b" and when, by
 * whom. */
void plaintext_uses_early(const struct plaintext_uses *uses, const Mortise__V1__Mesh *after,
                          struct faults *out);

/* plaintext_uses_write appends the metrics of links that take plaintext. Errors: TOO_LARGE. */
MUST_CHECK err_t plaintext_uses_write(const struct plaintext_uses *uses, struct buf *out);

#endif
