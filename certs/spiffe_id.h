/* spiffe_id parses, formats and compares SPIFFE IDs and trust domains: the one grammar in the
 * project. Byte-exact, no normalisation, no wildcard. Source: SPIFFE-ID sections 2 and 3. */
#ifndef MORTISE_CERTS_SPIFFE_ID_H
#define MORTISE_CERTS_SPIFFE_ID_H

#include <stdbool.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define SPIFFE_ID_MAX 2048
#define SPIFFE_TRUST_DOMAIN_MAX 255

struct spiffe_id {
    struct bytes text;         /* all of it, borrowed from the input */
    struct bytes trust_domain; /* within text */
    struct bytes path;         /* begins with '/'; empty for a trust domain's own ID */
};

/* spiffe_id_parse: errors SPIFFE_SYNTAX (sub: byte offset of the first wrong byte). */
MUST_CHECK err_t spiffe_id_parse(struct bytes text, struct spiffe_id *out);
bool spiffe_trust_domain_valid(struct bytes text);
/* The three forms that Mortise issues; owned strings. Parts are CHECKed to be valid segments. */
char *spiffe_id_of_workload(const char *trust_domain, const char *ns, const char *account);
char *spiffe_id_of_control(const char *trust_domain);                 /* …/mortise/control */
char *spiffe_id_of_admin(const char *trust_domain, const char *name); /* …/mortise/admin/<name> */
/* Whether `text` is one path segment: [a-zA-Z0-9._-]+, not "." or "..". */
bool spiffe_segment_valid(struct bytes text);

#endif
