/* why_words are the sentences of why.h: what a failure means, and what to do about it. Pure. */
#ifndef MORTISE_CONTROL_WHY_WORDS_H
#define MORTISE_CONTROL_WHY_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/mesh/why.pb-c.h"

#define WHY_TEXT_MAX 1024

/* A sentence, and what to do about it. */
struct why_words {
    char because[WHY_TEXT_MAX];
    char hint[WHY_TEXT_MAX];
};

/* What a sentence speaks of. */
struct why_terms {
    const char *who;     /* the subsystem whose sidecar tells it */
    const char *other;   /* the other end */
    const char *address; /* where the other one is */
    const char *target;  /* the application's */
};

/* why_say formats, cut where it is too long. */
void why_say(char out[WHY_TEXT_MAX], const char *format, ...) __attribute__((format(printf, 2, 3)));
/* why_span: "90 s", "5 min", of a time whatever its sign. */
#define WHY_SPAN_MAX 32
void why_span(int64_t seconds, char out[WHY_SPAN_MAX]);
/* why_between is then_s - now_s in such a way that every two times have one: what a sidecar tells
 * may be any number. */
int64_t why_between(int64_t now_s, int64_t then_s);
static inline const char *why_or(const char *text, const char *other)
{
    return text != NULL && text[0] != '\0' ? text : other;
}

/* why_error_text is what an error's name stands for: its row in err_tbl.h. */
const char *why_error_text(const char *name);
/* why_words_of says in words why a connection failed, as the server's sidecar tells it, or the
 * client's. */
void why_words_of(const Mortise__V1__FailedConnection *failure, bool by_server,
                  const struct why_terms *terms, struct why_words *out);

#endif
