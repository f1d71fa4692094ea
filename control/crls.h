/* crls are the revocation lists that this CA publishes: one of each authority whose key is here, in
 * DER, renewed at two fifths of its life and at once when what it has to say changes. What they say
 * comes from the deny set (revocations.h):
 *
 *   of an issuing CA   the serial numbers that are denied, and those of the certificates still
 *                      valid whose identity or key is. Which issuer signed one is not kept, so that
 *                      each list has all of them: they are random numbers, no two alike.
 *   of a root          the issuing CAs of it that are denied, by key or serial number
 *
 * A list and its number are durable before anybody is given it, and a number is never given out
 * twice, nor a lower one after a higher: it is at least the time. The last list of an authority
 * whose key is gone is given out until it is stale, that of an issuer to sidecars, too. Source: RFC
 * 5280 section 5. */
#ifndef MORTISE_CONTROL_CRLS_H
#define MORTISE_CONTROL_CRLS_H

#include "control/ca.h"
#include "control/registry.h"

#define CRLS_TTL_S 86400 /* until nextUpdate; as long as a leaf lives by default */
#define CRLS_PAGE 1000   /* records of certificates looked at in one tick */
#define CRLS_KEY_HEX (2 * 32 + 1)

struct crls;

struct crls_params {
    struct vault *vault; /* all borrowed */
    struct ca *ca;
    struct registry *registry;
    const struct clock *clock;
};

/* crls_open loads what was published, brings it up to date, and gives the lists to the registry.
 * Errors: STORE_CORRUPT, KEK_UNAVAILABLE, IO. A list that cannot be made now is logged, and tried
 * again. */
MUST_CHECK err_t crls_open(const struct crls_params *params, struct crls **out);
void crls_free(struct crls *crls);

/* crls_tick is called every second or so. crls_keys_changed is called when the CA has other keys:
 * the lists are there before anybody is shown a certificate of theirs. */
void crls_tick(struct crls *crls);
void crls_keys_changed(struct crls *crls);

/* crls_each calls fn with each list. */
void crls_each(const struct crls *crls,
               void (*fn)(void *arg, const Mortise__Control__CrlRecord *record), void *arg);
/* crls_find is the list of the CA with that SHA-256 of its SubjectPublicKeyInfo (lower-case hex),
 * or NULL; borrowed until the next tick. */
const Mortise__Control__CrlRecord *crls_find(const struct crls *crls, const char *key_sha256);
/* crls_next_update is when the first of those that are renewed goes stale; 0: there is none. */
int64_t crls_next_update(const struct crls *crls);

#endif
