/* record: the TLS 1.3 record layer of one connection after its handshake.
 *
 * It takes the traffic secrets that the handshake ended with and from then on turns plaintext into
 * records and records into plaintext: fragments, padding, KeyUpdate both ways, alerts,
 * close_notify, and the rules for what a peer may not send. It knows no sockets and no loop; tls.c
 * moves the bytes. Unauthenticated bytes cost at most one record of memory.
 *
 * A connection belongs to one thread; if it went to another between two calls, nothing would be
 * read or written under a wrong key, but the first one's last expanded keys stay until others take
 * their place.
 *
 * No branch and no address of ours depends on a key or on a plaintext byte, but for what an
 * authenticated peer tells us: the type byte and the length of the padding before it.
 * Source: RFC 8446 sections 4.6, 5 and 6. */
#ifndef MORTISE_LIB_NET_RECORD_H
#define MORTISE_LIB_NET_RECORD_H

#include "lib/net/record_key.h"

/* Without data between them: empty records and user_canceled; and KeyUpdates, counted apart. Each
 * costs a decryption, or a key schedule, and moves nothing; honest peers send one or two. As
 * BoringSSL's own limits, so that both record layers refuse alike. */
#define RECORD_DATALESS_MAX 32
/* Of a message behind the handshake, which is kept until it is whole; a NewSessionTicket is the
 * only one that is longer than one byte, and fits a record. */
#define RECORD_MESSAGE_MAX 16384

struct record;

struct record_params {
    const struct record_aead *aead;
    struct bytes read_secret, write_secret; /* borrowed for the call */
    uint64_t read_seq, write_seq;           /* of the next records */
    bool server;
    uint64_t key_update_records; /* we change our key after so many */
    unsigned key_updates_per_s;  /* of the peer; more end the connection */
};

/* record_new returns owned; record_free wipes the keys; NULL is fine. Errors: NO_MEMORY. */
MUST_CHECK err_t record_new(const struct record_params *params, struct record **out);
void record_free(struct record *record);

/* record_seal turns `data` into records at `out`, which has room for record_seal_max(data.len)
 * bytes; `*out_len` is how many it wrote. A KeyUpdate that is due goes first. Errors: NO_MEMORY;
 * nothing can be sealed any more. */
size_t record_seal_max(size_t len);
MUST_CHECK err_t record_seal(struct record *record, struct bytes data, uint8_t *out,
                             size_t *out_len);

/* record_seal_alert writes RECORD_ALERT_SIZE bytes: RFC 8446 section 6 has the descriptions;
 * close_notify is 0. */
#define RECORD_ALERT_SIZE (RECORD_OVERHEAD + 2)
void record_seal_alert(struct record *record, uint8_t description, uint8_t *out);

/* record_open decrypts what `*in` has, and moves it on; the plaintext lies at `out` (`cap`, at
 * least RECORD_SEALED_MAX), `*out_len` bytes of it also when an error ends it.
 * AGAIN: all input is used up, the beginning of a record is kept here. OK: there is more, but no
 * room. CLOSED: close_notify came. TLS_ALERT (sub: the alert). Errors after which the alert
 * `*out_alert` is to be sent: TLS_PROTOCOL (sub: BoringSSL's reason), TLS_KEY_UPDATES, NO_MEMORY.
 * After CLOSED or an error nothing is opened any more: the same comes again, without an alert. */
MUST_CHECK err_t record_open(struct record *record, uint64_t now_ms, struct bytes *in, uint8_t *out,
                             size_t cap, size_t *out_len, uint8_t *out_alert);

#endif
