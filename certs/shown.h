/* shown is what the other end of a handshake showed of itself, for people who ask why it failed:
 * what a client offered, which certificate of a chain was refused. Nothing of it is proven, all of
 * it is bounded. Source: RFC 8446 section 4.1.2. */
#ifndef MORTISE_CERTS_SHOWN_H
#define MORTISE_CERTS_SHOWN_H

#include <openssl/ssl.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define SHOWN_VERSIONS_MAX 6
#define SHOWN_SUITES_MAX 24 /* of those that a client offers, the first; GREASE left out */
#define SHOWN_GROUPS_MAX 12
#define SHOWN_KEY_MAX 17 /* hex and NUL */
#define SHOWN_SUBJECT_MAX 256

/* A ClientHello, as the server heard it. */
struct shown_hello {
    bool seen;
    uint8_t random[SSL3_RANDOM_SIZE];
    uint8_t num_versions, num_suites, num_groups;
    bool more; /* suites than are kept */
    uint16_t versions[SHOWN_VERSIONS_MAX];
    uint16_t suites[SHOWN_SUITES_MAX];
    uint16_t groups[SHOWN_GROUPS_MAX];
};
/* shown_hello_note keeps what matters; for the early callback. */
void shown_hello_note(const SSL_CLIENT_HELLO *hello, struct shown_hello *out);
/* shown_hello_text appends "TLS1_3, TLS1_2; TLS_AES_128_GCM_SHA256, …; X25519, P-256". Numbers
 * that we have no name for are hexadecimal. */
MUST_CHECK err_t shown_hello_text(const struct shown_hello *hello, struct buf *out);

/* shown_key is what both ends can call a handshake by: the first half of SHA-256 of the client
 * random, hexadecimal. shown_key_of a session that has none yet is "". */
uint64_t shown_key_number(const uint8_t random[SSL3_RANDOM_SIZE]);
void shown_key_text(uint64_t number, char out[SHOWN_KEY_MAX]); /* 0: "" */
uint64_t shown_key_of(const SSL *ssl);

/* The certificate of a chain that an error is about. */
struct shown_cert {
    char subject[SHOWN_SUBJECT_MAX]; /* SPIFFE ID, DNS name or common name; printable ASCII */
    char issuer[72];                 /* its common name */
    char serial[64];
    int64_t not_before, not_after;
    unsigned depth; /* 0: the leaf */
};
/* shown_cert_of finds it in what the peer of `ssl` sent. False: it sent none that can be read, or
 * the error is about none. */
bool shown_cert_of(const SSL *ssl, err_t err, int64_t now_s, struct shown_cert *out);

#endif
