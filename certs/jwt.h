/* jwt: a token of an issuer, verified: a compact JWS whose payload says who its bearer is. Pure.
 *
 * What the token says of itself picks one of the keys that the issuer has published, and nothing
 * else: the algorithm has to be one that this key is for (`none` and those with a shared secret are
 * no algorithm here), and no key, address or certificate in its header is looked at. Source:
 * RFC 7515, RFC 7519, RFC 8725, OpenID Connect Core section 2. */
#ifndef MORTISE_CERTS_JWT_H
#define MORTISE_CERTS_JWT_H

#include "certs/jwks.h"

#define JWT_MAX 16384
#define JWT_SKEW_S \
    60 /* of the issuer's clock: nbf and iat may be so far ahead. exp is kept to the second */
#define JWT_NAME_MAX 255   /* bytes of a subject (OpenID Connect Core section 2) or a group */
#define JWT_GROUPS_MAX 512 /* that are looked at; a token with more is refused */

struct jwt_rules {
    const char *issuer;       /* `iss`, byte by byte */
    const char *audience;     /* `aud` is it, or a list with it */
    const char *groups_claim; /* the claim that lists groups; NULL: none is looked at */
    bool claims;              /* all claims are wanted, see jwt.claims */
    int64_t now_s;
};

struct jwt {
    char *subject; /* owned; printable ASCII without a space */
    char **groups; /* owned; names that are no printable ASCII, or too long, are left out */
    size_t num_groups;
    int64_t expires_at;     /* Unix seconds; from then on it is not valid */
    uint8_t key_sha256[32]; /* of the key that signed it */
    char *claims;           /* owned, all of them as JSON; NULL: not wanted */
};

/* jwt_verify judges `token` and tells who it is about (jwt_fini). Errors: TOO_LARGE; JWT_SYNTAX;
 * JWT_ALGORITHM; JWT_CRITICAL (a header that must be understood, and is not); JWT_TYPE (a token of
 * another kind); JWT_KEY_UNKNOWN (no such key, or not for that algorithm); JWT_SIGNATURE; and, of
 * what the issuer has signed, JWT_CLAIM (missing, or of another type), JWT_ISSUER, JWT_AUDIENCE,
 * JWT_EXPIRED (sub: seconds since), JWT_NOT_YET_VALID (sub: seconds until). */
MUST_CHECK err_t jwt_verify(struct bytes token, const struct jwks *keys,
                            const struct jwt_rules *rules, struct jwt *out);
void jwt_fini(struct jwt *jwt);

/* jwt_name_valid: what a subject or, with `spaces`, a group may be called. */
bool jwt_name_valid(const char *name, bool spaces);

#endif
