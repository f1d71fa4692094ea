/* mailbox hands owned messages to the thread of another loop (uv_async and a locked queue). */
#ifndef MORTISE_LIB_NET_MAILBOX_H
#define MORTISE_LIB_NET_MAILBOX_H

#include "lib/net/loop.h"

struct mailbox;
/* A message begins with this; the receiver owns it from its callback on. */
struct mail {
    struct mail *next;
};
typedef void (*mailbox_cb)(void *arg, struct mail *mail);

/* mailbox_new is called by the receiving loop's thread; cb runs there, in order of posting. */
struct mailbox *mailbox_new(struct loop *loop, mailbox_cb cb, void *arg);
/* mailbox_post may be called from any thread; gives `mail` away. It wakes the receiver. */
void mailbox_post(struct mailbox *mailbox, struct mail *mail);
/* mailbox_close is called by the receiver's thread once nobody posts any more; mail not yet
 * delivered is given to `drop`. */
void mailbox_close(struct mailbox *mailbox, void (*drop)(struct mail *mail));

#endif
