/* record_key: the protection of one direction of a TLS 1.3 connection: traffic secret, key, nonces,
 * and records one by one.
 *
 * Only secret, key and iv are kept per connection. The expanded key (AES key schedule and hash
 * table, 1 KiB) lies in one of two slots of the thread, one for sealing and one for opening, and is
 * made again when another connection had the slot: 110 ns against 2 KiB a connection. A key may go
 * from thread to thread, one at a time.
 * Source: RFC 8446 sections 5.2 to 5.5, 7.1 to 7.3. */
#ifndef MORTISE_LIB_NET_RECORD_KEY_H
#define MORTISE_LIB_NET_RECORD_KEY_H

#include "lib/net/record_aead.h"

#define RECORD_PLAIN_MAX ((size_t)16384)           /* of one record, without its type byte */
#define RECORD_SEALED_MAX (RECORD_PLAIN_MAX + 256) /* behind the header */
#define RECORD_OVERHEAD (RECORD_HEADER + 1 + RECORD_TAG)
#define RECORD_SECRET_MAX 48

/* The outer type and version of every protected record. */
#define RECORD_TYPE_ALERT 21
#define RECORD_TYPE_HANDSHAKE 22
#define RECORD_TYPE_DATA 23
#define RECORD_VERSION 0x0303

struct record_key {
    uint64_t number; /* of this secret among all that ever were: what a slot knows it by */
    const struct record_aead *aead;
    uint64_t seq; /* of the next record */
    uint8_t iv[RECORD_NONCE];
    uint8_t key[RECORD_KEY_MAX];
    uint8_t secret[RECORD_SECRET_MAX];
    uint8_t secret_len;
};

/* record_key_init derives from a traffic secret: 32 bytes (the cipher's hash is SHA-256) or 48
 * (SHA-384). `seq` is the next record's number. Errors: NO_MEMORY; nothing is to be released. */
MUST_CHECK err_t record_key_init(struct record_key *key, const struct record_aead *aead,
                                 struct bytes secret, uint64_t seq);
/* record_key_fini wipes it and what the slots of this thread hold of it. */
void record_key_fini(struct record_key *key);

/* record_key_update goes on to the next traffic secret (KeyUpdate). Errors: NO_MEMORY; the key is
 * then of no use. */
MUST_CHECK err_t record_key_update(struct record_key *key);

/* record_key_seal writes one record, plain.len + RECORD_OVERHEAD bytes, to `out`, which does not
 * overlap `plain` (at most RECORD_PLAIN_MAX). The number of records is the caller's limit. */
void record_key_seal(struct record_key *key, uint8_t type, struct bytes plain, uint8_t *out);

/* record_key_open decrypts one whole record, header included, to `out`: its length less
 * RECORD_HEADER and RECORD_TAG (inner plaintext: content, type, padding). The length has been
 * checked. False: not authentic; `out` holds zeros. */
bool record_key_open(struct record_key *key, struct bytes record, uint8_t *out);

/* record_key_slot_of_sealing is for tests: this thread's slot. */
const struct record_slot *record_key_slot_of_sealing(void);

#endif
