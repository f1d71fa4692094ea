/* jose: what key sets (jwks.h) and tokens (jwt.h) are written in: base64url in its one spelling,
 * and JSON objects that say each thing once. Source: RFC 4648 section 5, RFC 7515 section 2, RFC
 * 8259, RFC 7515 section 4 (names of members must be unique). */
#ifndef MORTISE_CERTS_JOSE_H
#define MORTISE_CERTS_JOSE_H

#include <jansson.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

MEM_CLEANUP_FN(jose_freep, json_t, json_decref)

/* jose_base64url appends what `text` stands for. Refused: padding, white space, other alphabets,
 * bits behind the end that are not 0. Errors: SYNTAX, TOO_LARGE. */
MUST_CHECK err_t jose_base64url(struct bytes text, struct buf *out);

/* jose_object reads a JSON object, owned (json_decref); nothing but white space may follow it.
 * Refused: a name twice at any depth, NUL in a string, text that is not UTF-8. Errors: SYNTAX. */
MUST_CHECK err_t jose_object(struct bytes text, json_t **out);

/* jose_string is a member that is a string, NULL when there is none or it is something else. */
const char *jose_string(const json_t *object, const char *name);
/* jose_has tells whether there is a member of that name. */
bool jose_has(const json_t *object, const char *name);

#endif
