/* tls_boring: what of tls is BoringSSL's alone: a BIO over slices in memory, its error queue, and
 * the step from its record layer to ours. Only tls.c uses it. */
#ifndef MORTISE_LIB_NET_TLS_BORING_H
#define MORTISE_LIB_NET_TLS_BORING_H

#include <openssl/ssl.h>

#include "lib/net/loop.h"
#include "lib/net/record.h"

/* Bytes that must outlive the loop's buffers. */
struct tls_kept {
    size_t len;
    uint8_t data[];
};
/* tls_keep returns an owned copy; NULL: no memory. */
struct tls_kept *tls_keep(const void *ptr, size_t len);

/* Where a session reads from and writes to. */
struct tls_io {
    struct loop *loop;     /* its tx buffer takes the output */
    struct bytes in;       /* ciphertext in hand, inside the lower stream's callback */
    struct tls_kept *cork; /* the handshake's last flight, until the end of the batch */
};

/* tls_io_reserve returns room for `len` bytes of output behind what is there, the corked ones
 * first; tls_io_commit says how many were written. */
uint8_t *tls_io_reserve(struct tls_io *io, size_t len);
void tls_io_commit(struct tls_io *io, size_t len);

/* tls_bio_new makes a BIO that reads from io->in and appends to the loop's tx buffer: writing never
 * blocks. Borrows `io` for its life. NULL: no memory. */
BIO *tls_bio_new(struct tls_io *io);

/* tls_err says what a call that returned `ret` <= 0 means and empties the thread's error queue:
 * AGAIN for more input, CLOSED for close_notify, else the errors of tls_handshake. */
err_t tls_err(SSL *ssl, int ret);

/* tls_record_of makes our record layer from a session whose handshake is done. NULL: it stays the
 * library's: TLS 1.2, a cipher that we have not, records of the new keys already in flight (tickets
 * of a server), or no memory. `fast`: with the quickest engine. */
struct record *tls_record_of(const SSL *ssl, bool fast, uint64_t key_update_records,
                             unsigned key_updates_per_s);

#endif
