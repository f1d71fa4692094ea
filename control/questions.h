/* questions is the bookkeeping of what sidecars were asked and have not answered yet: which answer
 * belongs to which question, how much one may hold, and until when it is waited for. Whatever a
 * sidecar sends that is no answer to an open question of its own is ignored. Pure. */
#ifndef MORTISE_CONTROL_QUESTIONS_H
#define MORTISE_CONTROL_QUESTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/list.h"
#include "proto/mesh/discovery.pb-c.h"

#define QUESTIONS_OPEN_MAX 1024 /* of all sidecars together */
#define QUESTIONS_EACH_MAX 4    /* of one; it answers no more at once, either */
#define QUESTIONS_PARTS_MAX 64  /* messages of one answer, each at most 64 KiB */

enum questions_end {
    QUESTIONS_ANSWERED,
    QUESTIONS_TIMEOUT,
    QUESTIONS_LEFT,    /* the sidecar's stream has ended */
    QUESTIONS_GARBAGE, /* more than was asked for, or parts without end */
};

/* question is embedded in whoever asks. Zeroed but for the callbacks and `limit` before it is
 * added. */
struct question {
    struct list link;
    uint64_t id;
    const void *target; /* who was asked */
    uint64_t until_ms;
    unsigned parts;   /* that came */
    size_t described; /* connections in them */
    size_t limit;     /* of described */
    /* A part came, the last one too; borrowed. */
    void (*on_part)(struct question *question, const Mortise__V1__Answer *answer);
    /* It is over, and out of the list; not after questions_cancel. */
    void (*on_end)(struct question *question, enum questions_end end);
};

/* Zeroed memory but for questions_init. */
struct questions {
    struct list list; /* by time of asking */
    size_t num;
    uint64_t last_id; /* ids are given out once in the life of the process */
    uint64_t num_ignored;
};
void questions_init(struct questions *questions);

/* questions_add opens a question to `target`, gives it its id, and waits until `until_ms`. Errors:
 * LIMIT. */
MUST_CHECK err_t questions_add(struct questions *questions, struct question *question,
                               const void *target, uint64_t until_ms);
/* questions_cancel: nobody wants the answer any more. */
void questions_cancel(struct questions *questions, struct question *question);

/* questions_take gives an answer of `target` to its question. False: it has none of that id open,
 * the answer is ignored. */
bool questions_take(struct questions *questions, const void *target,
                    const Mortise__V1__Answer *answer);
/* questions_expire ends those whose time has passed; questions_leave those to `target`. Callbacks
 * may add and cancel others. */
void questions_expire(struct questions *questions, uint64_t now_ms);
void questions_leave(struct questions *questions, const void *target);

#endif
