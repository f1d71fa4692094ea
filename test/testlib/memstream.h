/* memstream: two streams in memory, each the other's peer, with faults on request: what sockets do
 * seldom happens here always.
 *
 *   struct stream *a, *b;
 *   memstream_pair(loop, &a, &b);
 *   memstream_script(a)->read_max = 1;    a's user gets one byte a callback
 *   memstream_script(a)->fail_write = 2;  a's second write fails
 *
 * Everything is delivered from the loop, one callback a round and side. */
#ifndef MORTISE_TEST_TESTLIB_MEMSTREAM_H
#define MORTISE_TEST_TESTLIB_MEMSTREAM_H

#include "lib/net/stream.h"

/* What one side does; may be changed at any time. Zeroed: nothing special. */
struct memstream_script {
    /* reading */
    size_t read_max; /* bytes a callback at most; 0: all there is */
    size_t split_at; /* a callback ends at this byte of the whole stream (1 = after the first); 0:
                        none */
    /* writing */
    size_t write_max;    /* bytes the "kernel" takes a round; the rest is queued; 0: all */
    bool stall;          /* it takes none; call memstream_go after clearing this */
    size_t unacked;      /* of what it took, what stream_sent says the peer has not */
    unsigned fail_write; /* the write with this number (1 = first) fails and breaks the stream */
    size_t
        eof_after; /* the peer sees EOF after so many bytes of ours, what follows is lost; 0: no */
    size_t reset_after; /* the same with PEER_RESET */
    /* counted */
    unsigned num_writes;  /* calls of write, with or without success */
    unsigned num_retries; /* calls of retry */
    uint64_t num_bytes;   /* that reached the peer */
    bool got_shutdown;    /* shutdown was called */
    bool is_closed, is_reset;
};

void memstream_pair(struct loop *loop, struct stream **out_a, struct stream **out_b);
struct memstream_script *memstream_script(struct stream *stream);
/* memstream_go lets what a cleared stall has held up move on. */
void memstream_go(struct stream *stream);
/* memstream_reset makes the stream's user see PEER_RESET, once what is under way has been read. */
void memstream_reset(struct stream *stream);
/* memstream_pending is what was written to this side and not yet read by its user. */
size_t memstream_pending(struct stream *stream);
/* memstream_keep makes a closed side's script readable until memstream_drop: call before close. */
void memstream_keep(struct stream *stream);
void memstream_drop(struct stream *stream);

#endif
