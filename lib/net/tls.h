/* tls: stream that is a TLS session over any other stream.
 *
 * BoringSSL does the handshake; it reads from the slice that the lower stream delivered and writes
 * into the loop's tx buffer. After a TLS 1.3 handshake our record layer (record.h) takes over and
 * BoringSSL's session is freed; TLS 1.2 stays with BoringSSL. Either way: one recv and one send for
 * a batch of records, no copy kept per connection, no allocation per record.
 *
 * A client of TLS 1.2 may be told (SSL_set_renegotiate_mode) to grant its server another handshake.
 * Meanwhile what is written, and the end of it, are kept back; what the server sends of the old
 * connection behind its request ends it: the library has no place for that.
 * Source: RFC 8446, RFC 5246. */
#ifndef MORTISE_LIB_NET_TLS_H
#define MORTISE_LIB_NET_TLS_H

#include <openssl/ssl.h>

#include "lib/net/stream.h"

#define TLS_KEY_UPDATE_RECORDS ((uint64_t)1 << 23) /* AES-GCM's limit is 2^24.5 records a key */
/* Of the peer; more in a second end the connection. Each costs a key schedule (1 us), and an honest
 * one comes after 2^23 records, which at 10 GB/s is every 14 s. */
#define TLS_KEY_UPDATES_PER_S 100
#define TLS_SECOND_MS 1000

/* Of a server that may renegotiate at all (TLS 1.2); more in a minute end the connection. Each
 * costs a handshake. */
#define TLS_RENEGOTIATIONS_PER_MIN 20
#define TLS_MINUTE_MS 60000

/* What a peer may send behind its close_notify: it is thrown away (RFC 8446 section 6.1), so that
 * its end or its reset is seen and ours is no reset. More ends the connection. */
#define TLS_IGNORED_MAX ((size_t)64 << 10)

enum tls_role { TLS_CLIENT, TLS_SERVER };

/* Who protects the records of TLS 1.3 after the handshake. */
enum tls_records {
    TLS_RECORDS_AUTO,     /* our record layer with the quickest ciphers of this processor */
    TLS_RECORDS_PORTABLE, /* our record layer with BoringSSL's ciphers */
    TLS_RECORDS_LIBRARY,  /* BoringSSL's record layer */
};

struct tls_params {
    SSL_CTX *ctx; /* the session takes its own reference */
    enum tls_role role;
    const char *server_name; /* SNI of a client; NULL: none. Borrowed for the call. */
    /* Called with the new SSL before the handshake, to attach what the context's callbacks need.
     * The message callback is ours. The context's callbacks must not close the stream. */
    void (*configure)(void *arg, SSL *ssl);
    void *arg;
    enum tls_records records;
    uint64_t key_update_records; /* 0: TLS_KEY_UPDATE_RECORDS; fewer in tests */
};

/* tls_new makes a session; takes `lower` on success. What `lower` has delivered or will deliver
 * before tls_handshake is kept. TLS inside TLS shares the loop's buffers and is refused. Errors:
 * NO_MEMORY, TLS_CONFIG. */
MUST_CHECK err_t tls_new(struct stream *lower, const struct tls_params *params,
                         struct stream **out);

/* tls_handshake runs the handshake; cb comes once, from the loop, unless the stream is closed
 * first. No deadline of its own: the owner's timer closes the stream. On error the alert has been
 * sent; errors: NO_MEMORY, TLS_PROTOCOL, TLS_ALERT, TLS_NOT_TLS, TLS_NO_SHARED, TLS_CONFIG, CLOSED,
 * PEER_RESET, and of the peer's certificate CERT_MISSING, CERT_SYNTAX, CERT_USAGE and KEY_WEAK;
 * when a callback of the context refused the peer, TLS_PROTOCOL with the reason kept by that
 * callback. Data that came behind the handshake is kept until read_start. Our last flight leaves
 * with what is written in the same round of the loop, in one send. */
typedef void (*tls_handshake_cb)(void *arg, err_t err);
void tls_handshake(struct stream *stream, tls_handshake_cb cb, void *arg);

/* tls_records_engine names what encrypts AES-128-GCM records then, for logs: "ipsec-mb",
 * "boringssl", or "library" where records are not ours. */
const char *tls_records_engine(enum tls_records records);

/* tls_abort closes an open session with a fatal alert, which the peer can show as the reason; where
 * bytes are still queued, or our direction has ended, with a reset. What the peer sends meanwhile
 * can make the kernel reset it before the alert is read. */
void tls_abort(struct stream *stream, uint8_t alert);

/* tls_is_open: the handshake is done, and the session neither broken nor closed. */
bool tls_is_open(const struct stream *stream);

/* The SSL, for peer facts; stays the stream's. NULL from when the callback of tls_handshake has
 * returned, if our record layer took over. */
SSL *tls_ssl(const struct stream *stream);
struct stream *tls_lower(const struct stream *stream);

/* tls_info: what was negotiated; static strings. Valid after the handshake for the stream's life.
 */
struct tls_info {
    const char *version; /* "TLSv1.3" */
    const char *cipher;  /* IANA name */
    const char *group;   /* "X25519", "" where none */
};
struct tls_info tls_info(const struct stream *stream);

#endif
