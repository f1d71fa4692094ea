/* oidc is an issuer whose tokens are taken, of administrators or of a cluster's pods: its keys,
 * from a file or from its own address, and the judgement of a token that came with a call. Keys
 * stay in force until others are read; one that is in the new set no longer ends what it let in.
 * Source: features D5, reliability R46, R48, R62, R64. */
#ifndef MORTISE_CONTROL_OIDC_H
#define MORTISE_CONTROL_OIDC_H

#include "certs/jwt.h"
#include "control/caller.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_frame.h"

#define OIDC_FETCH_MS 10000
#define OIDC_UNKNOWN_MS 60000 /* a token's unknown key has them fetched no more often than this */
/* Tokens that are refused, of one source; then the next ones are not looked at. */
#define OIDC_SOURCE_BURST 60
#define OIDC_SOURCE_PER_MINUTE 60

struct oidc_params {
    struct loop *loop;
    const char *issuer; /* all borrowed */
    const char *audience;
    const char *groups_claim;
    bool claims;           /* all claims of a token are wanted (jwt.h) */
    const char *keys_file; /* one of these two */
    const char *keys_url;
    const char *ca_file; /* for keys_url; NULL: the CAs of the system */
    uint64_t refresh_ms; /* for keys_url */
    /* A key is there no longer. Both may be NULL. */
    void (*on_withdrawn)(void *arg);
    /* The keys were read, or could not be. */
    void (*on_refreshed)(void *arg, err_t err);
    void *arg;
};

struct oidc;
/* oidc_new reads the file, or begins to fetch. Without keys yet every token is refused, which is
 * logged and no error: the mesh does not wait for its administrators' issuer. */
struct oidc *oidc_new(const struct oidc_params *params);
void oidc_free(struct oidc *oidc);
/* oidc_tick is called every second: it looks whether the file has changed, or begins to fetch. */
void oidc_tick(struct oidc *oidc);

/* oidc_check judges a token by itself; jwt_fini. `oidc` may be NULL: no token is taken. Errors:
 * those of jwt_verify, JWT_UNWANTED. */
MUST_CHECK err_t oidc_check(struct oidc *oidc, struct bytes token, struct jwt *out);

/* oidc_identify judges what came in the header `authorization` of a call on `peer`'s connection:
 * `*out` is then who makes it. Refused with a code (`*out_err`, by its name): whoever has a
 * certificate, too, or is at the operator socket; whoever has sent too many that were refused.
 * `oidc` may be NULL: no token is taken. */
enum grpc_status oidc_identify(struct oidc *oidc, const struct grpc_peer *peer,
                               struct bytes credentials, struct caller **out, err_t *out_err);
/* oidc_stands: whether a token that was taken still counts. */
bool oidc_stands(const struct oidc *oidc, const struct caller_token *token);

/* For metrics: how many keys are in force, and when they were read last (Unix seconds; 0: never).
 */
size_t oidc_num_keys(const struct oidc *oidc);
int64_t oidc_fresh_at(const struct oidc *oidc);

#endif
