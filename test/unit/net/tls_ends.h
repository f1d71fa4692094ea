/* tls_ends: two TLS streams over a pair in memory, with recorders, a driven clock and contexts: the
 * ground that the tests of lib/net/tls.c stand on. */
#ifndef MORTISE_TEST_UNIT_NET_TLS_ENDS_H
#define MORTISE_TEST_UNIT_NET_TLS_ENDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/net/tls.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"
#include "test/testlib/testtls.h"

#define ROUNDS_MAX 200000

/* ROUNDS_UNTIL runs the loop, whose clock stands still, until something is so. */
#define ROUNDS_UNTIL(cond)                       \
    do {                                         \
        int rounds_ = 0;                         \
        while (!(cond)) {                        \
            assert_true(rounds_++ < ROUNDS_MAX); \
            loop_run_once(loop, false);          \
        }                                        \
    } while (0)

/* One end: the TLS stream, its recorder, the memory stream below. */
struct end {
    struct stream *lower;
    struct stream *tls;
    struct recorder rec;
    unsigned num_handshakes;
    err_t err; /* of the handshake */
    /* What its handshake callback does. */
    bool read;            /* starts reading */
    const char *text;     /* writes this */
    bool close;           /* closes */
    char server_name[32]; /* noted in it: the SSL is gone afterwards */
    bool closed;
};

extern struct end client, server;
extern struct loop *loop;
extern uint64_t fake_now_ms;
/* Two authorities with a leaf each; contexts of the first, both sides with certificates. */
extern struct testca *root, *leaf, *other_root, *other_leaf;
extern SSL_CTX *server_ctx, *client_ctx;

/* Who protects the records of an end that is made from now on. */
extern enum tls_records client_records, server_records;
/* run_with_all_records runs a group of tests with each pairing of record layers that matters;
 * returns what main is to return. */
#define RUN_WITH_ALL_RECORDS(tests) \
    run_with_all_records((tests), sizeof(tests) / sizeof((tests)[0]))
struct CMUnitTest;
int run_with_all_records(const struct CMUnitTest *tests, size_t num);

/* For cmocka: contexts once a file; loop and fresh ends before each test. */
int ends_set_up_all(void **state);
int ends_tear_down_all(void **state);
int ends_set_up(void **state);
int ends_tear_down(void **state);

/* ends_init makes a fresh pair; ends_fini closes what is open and settles. */
void ends_init(void);
void ends_fini(void);
void end_new(struct end *end, SSL_CTX *ctx, enum tls_role role, uint64_t key_update_records);
void end_begin(struct end *end, SSL_CTX *ctx, enum tls_role role);
void end_shut(struct end *end);
void end_fini(struct end *end);
void on_handshake(void *arg, err_t err);
/* begin_both starts both handshakes; connect_both waits until both have succeeded. */
void begin_both(SSL_CTX *for_client, SSL_CTX *for_server);
void connect_both(SSL_CTX *for_client, SSL_CTX *for_server);
void write_text(struct end *end, const char *text);
bool has_text(const struct end *end, const char *text);
/* send_raw writes to a stream below, as a peer without TLS would. */
void send_raw(struct stream *stream, const void *data, size_t len);
/* ctx_of_version checks the peer against `root`. 0: TLS 1.2, TLS 1.3. */
SSL_CTX *ctx_of_version(const struct testca *cert, bool need_cert, uint16_t min, uint16_t max);

#endif
