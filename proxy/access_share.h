/* access_share is what of the access log goes up to the control plane: workers put entries into it,
 * the main thread takes batches out. While the control plane is away, or slower than connections
 * end, the oldest go, and how many is told with the next batch; so memory is bounded, and a
 * connection's end costs the packing of one small message. Source: features D6. */
#ifndef MORTISE_PROXY_ACCESS_SHARE_H
#define MORTISE_PROXY_ACCESS_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/mesh/access_log.pb-c.h"

#define ACCESS_SHARE_MAX 8192                    /* entries that wait */
#define ACCESS_SHARE_BYTES_MAX ((size_t)2 << 20) /* of them, packed */
#define ACCESS_SHARE_BATCH_MAX 128               /* entries, see AccessLogBatch */
#define ACCESS_SHARE_BATCH_BYTES ((size_t)40 << 10)
#define ACCESS_SHARE_TEXT_MAX 512 /* bytes of an identity; longer ones are cut */
#define ACCESS_SHARE_ALL 1000     /* permille */

struct access_share;
struct access_share *access_share_new(void);
void access_share_free(struct access_share *share);

/* access_share_picks: whether a connection of that key (see shown_key_of) is among `permille` of a
 * thousand: the same answer at both ends. One without a key (0) is drawn. */
bool access_share_picks(uint64_t key, unsigned permille);

/* access_share_text copies a text that comes from a peer: printable ASCII stays, all else is a "?".
 * Returns `out`; what is longer is cut. NULL is "". */
char *access_share_text(const char *text, char out[ACCESS_SHARE_TEXT_MAX + 1]);

/* access_share_add puts in a copy, with the next number. Returns how many older ones had to go. Any
 * thread. */
size_t access_share_add(struct access_share *share, Mortise__V1__AccessLogEntry *entry);

/* access_share_next is the batch that is due, borrowed until access_share_taken or the end: the one
 * that was not taken yet, or the next one; NULL: nothing waits. Main thread, like the rest. */
Mortise__V1__AccessLogBatch *access_share_next(struct access_share *share);
/* access_share_taken: the control plane has taken batch `number`. Returns how many entries. */
size_t access_share_taken(struct access_share *share, uint64_t number);
/* access_share_is_full: a whole batch waits behind the one that is under way. */
bool access_share_is_full(struct access_share *share);

#endif
