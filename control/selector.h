/* selector chooses items of a mesh by their labels: "tier=edge,env!=test,zone in (a, b),!old". All
 * of what stands between the commas must hold:
 *
 *   key=value, key==value   has the label with that value
 *   key!=value              has another value, or no such label
 *   key in (a, b)           has one of these values
 *   key notin (a, b)        has none of these values, or no such label
 *   key, !key               has the label, with whatever value; does not have it
 *
 * Pure. Source: Kubernetes, "Labels and Selectors", "Label selectors". */
#ifndef MORTISE_CONTROL_SELECTOR_H
#define MORTISE_CONTROL_SELECTOR_H

#include <protobuf-c/protobuf-c.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

#define SELECTOR_TEXT_MAX 4096
#define SELECTOR_WHY_MAX 256

struct selector;

/* selector_parse returns an owned one (selector_free). What is wrong is written to `why`, with the
 * place: "at character 7: …". An empty text is refused: who wants everything leaves it out. Errors:
 * CONFIG_INVALID with sub = the place, from 1. */
MUST_CHECK err_t selector_parse(const char *text, char why[SELECTOR_WHY_MAX],
                                struct selector **out);
void selector_free(struct selector *selector);
MEM_CLEANUP_FN(selector_freep, struct selector, selector_free)

/* selector_matches tells whether the labels of `item` are such; NULL is an item without any. A NULL
 * selector matches all. */
bool selector_matches(const struct selector *selector, const ProtobufCMessage *item);

#endif
