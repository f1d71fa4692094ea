/* plaintext remembers, by link, who came without TLS to its permissive port: how often, when last,
 * from where, and how many of them are still there. Any thread. */
#ifndef MORTISE_PROXY_PLAINTEXT_H
#define MORTISE_PROXY_PLAINTEXT_H

#include "lib/net/addr.h"
#include "proto/mesh/discovery.pb-c.h"

#define PLAINTEXT_LINKS_MAX 256 /* beyond them the one that was used longest ago is forgotten */

struct plaintext;

struct plaintext *plaintext_new(void);
void plaintext_free(struct plaintext *plaintext);

void plaintext_note(struct plaintext *plaintext, const char *link, int64_t now_s,
                    const struct addr *source);
/* plaintext_end: one that was noted has ended. Until then it is a use at every moment. */
void plaintext_end(struct plaintext *plaintext, const char *link, int64_t now_s);

/* plaintext_forget: the link has no such port any more. If it gets one again, that begins anew. */
void plaintext_forget(struct plaintext *plaintext, const char *link);

/* plaintext_total is how many came and went, by all links; it only grows. */
uint64_t plaintext_total(struct plaintext *plaintext);
/* plaintext_is_open: somebody is there now. */
bool plaintext_is_open(struct plaintext *plaintext);
/* plaintext_fill sets the status's `plaintext`; plaintext_release frees that list again. */
void plaintext_fill(struct plaintext *plaintext, int64_t now_s, Mortise__V1__SidecarStatus *out);
void plaintext_release(Mortise__V1__SidecarStatus *status);

#endif
