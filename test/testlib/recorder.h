/* recorder: the user of a stream in tests: keeps what came, counts events, and does what its hooks
 * say. LOOP_UNTIL runs a loop until something is so, and fails the test after 20 seconds. */
#ifndef MORTISE_TEST_TESTLIB_RECORDER_H
#define MORTISE_TEST_TESTLIB_RECORDER_H

#include <stddef.h>

#include "lib/net/stream.h"

#define LOOP_UNTIL_MS 20000

struct recorder {
    struct stream *stream;
    struct buf data; /* all that was read, unless `count_only` */
    bool count_only;
    uint64_t num_bytes;
    size_t largest; /* of the reads */
    unsigned num_reads, num_eofs, num_drained, num_errors;
    err_t err;
    /* Called after recording; NULL: nothing. */
    void (*on_read)(struct recorder *recorder, struct bytes data);
    void (*on_eof)(struct recorder *recorder);
    void (*on_drained)(struct recorder *recorder);
    void (*on_error)(struct recorder *recorder);
    void *arg; /* the hooks' */
};

/* recorder_attach makes `recorder` (zeroed, hooks set) the user of `stream`. */
void recorder_attach(struct recorder *recorder, struct stream *stream);
void recorder_fini(struct recorder *recorder);

/* The timer of LOOP_UNTIL: sets the bool. */
void looptest_late(void *arg);

/* cmocka.h is the including file's. */
#define LOOP_UNTIL(loop, cond)                                                   \
    do {                                                                         \
        struct timer late_timer_ = {0};                                          \
        bool late_ = false;                                                      \
        timer_start((loop), &late_timer_, LOOP_UNTIL_MS, looptest_late, &late_); \
        while (!(cond)) {                                                        \
            assert_false(late_);                                                 \
            loop_run_once((loop), true);                                         \
        }                                                                        \
        timer_stop((loop), &late_timer_);                                        \
    } while (0)

/* looptest_settle runs 64 rounds without waiting: what is under way in memory comes to its end. */
void looptest_settle(struct loop *loop);

#endif
