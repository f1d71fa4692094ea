#include "proxy/authz.h"

#include "certs/spiffe_id.h"

static err_t authz_not_revoked(const struct snapshot *snapshot, const struct peer *peer)
{
    uint32_t grace_ms;

    return revoke_find(snapshot->revoked, peer, &grace_ms) ? FAIL(PEER_REVOKED, 0) : OK;
}

/* The peer's side of it; `peer` NULL: nobody knows who it is. */
static const Mortise__V1__Policy *authz_denies(const struct snapshot *snapshot,
                                               const struct link *link, const struct peer *peer)
{
    if (snapshot->policies == NULL)
        return NULL;
    return policy_find(snapshot->policies, link->name,
                       link->direction == DIRECTION_INBOUND ? POLICY_CLIENT : POLICY_SERVER,
                       peer != NULL ? peer->spiffe_id : "");
}

static err_t authz_not_denied(const struct snapshot *snapshot, const struct link *link,
                              const struct peer *peer)
{
    return authz_denies(snapshot, link, peer) != NULL ? FAIL(POLICY_DENIED, 0) : OK;
}

const char *authz_policy(const struct snapshot *snapshot, const struct link *link,
                         const struct peer *peer)
{
    const Mortise__V1__Policy *policy = authz_denies(snapshot, link, peer);

    return policy != NULL ? policy->name : NULL;
}

err_t authz_server(const struct snapshot *snapshot, const struct link *link,
                   const struct peer *peer, int64_t now_s)
{
    if (peer == NULL)
        return link->unverified ? OK : FAIL(CERT_MISSING, 0);
    TRY(authz_not_revoked(snapshot, peer));
    if (!peer_matches(peer, &link->peers))
        return FAIL(PEER_IDENTITY, 0);
    TRY(authz_not_denied(snapshot, link, peer));
    return crl_set_check(link->crls, peer, now_s);
}

/* The link that the client wants and may have by its name. */
static err_t authz_choose(const struct snapshot *snapshot, int entry, const struct peer *peer,
                          const struct link **out)
{
    const struct link *found = NULL;

    if (entry >= 0) {
        const struct link *link;

        CHECK((size_t)entry < snapshot->num_inbound);
        link = &snapshot->inbound[entry];
        if (!peer_matches(peer, &link->peers))
            return FAIL(PEER_DENIED, 0);
        *out = link;
        return OK;
    }
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        if (!peer_matches(peer, &snapshot->inbound[i].peers))
            continue;
        if (found != NULL)
            return FAIL(TLS_SNI_UNKNOWN, 0);
        found = &snapshot->inbound[i];
    }
    if (found == NULL)
        return FAIL(PEER_DENIED, 0);
    *out = found;
    return OK;
}

/* The link that somebody without an identity wants and may have. */
static err_t authz_anonymous(const struct snapshot *snapshot, int entry, const struct link **out)
{
    const struct link *found = NULL;

    CHECK(entry < (int)snapshot->num_inbound || entry < 0);
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        if (!snapshot->inbound[i].anonymous || (entry >= 0 && i != (size_t)entry))
            continue;
        if (found != NULL)
            return FAIL(TLS_SNI_UNKNOWN, 0);
        found = &snapshot->inbound[i];
    }
    if (found == NULL)
        return FAIL(CERT_MISSING, 0);
    *out = found;
    return OK;
}

err_t authz_client(const struct snapshot *snapshot, int entry, const struct peer *peer,
                   int64_t now_s, const struct link **out)
{
    const struct link *found;

    if (peer == NULL) {
        TRY(authz_anonymous(snapshot, entry, &found));
        *out = found;
        return authz_not_denied(snapshot, found, NULL);
    }
    TRY(authz_not_revoked(snapshot, peer));
    TRY(authz_choose(snapshot, entry, peer, &found));
    if (authz_denies(snapshot, found, peer) != NULL) {
        *out = found;
        return FAIL(POLICY_DENIED, 0);
    }
    TRY(crl_set_check(found->crls, peer, now_s));
    *out = found;
    return OK;
}

static bool authz_has_issuer(const struct bundle *bundle, const struct peer *peer)
{
    for (size_t i = 0; i < peer->num_issuers; i++) {
        if (bundle_has(bundle, peer->issuers[i].cert_sha256))
            return true;
    }
    return bundle_has(bundle, peer->leaf_sha256);
}

/* Roots of the mesh are taken out by a rotation, which ends no connection; every other CA by an
 * operator who trusts it no longer. */
static bool authz_trusted(const struct link *link, const struct peer *peer)
{
    struct spiffe_id id;

    if (peer->spiffe_id[0] != '\0' && link->bundle->trust_domain[0] != '\0' &&
        (!err_is_ok(spiffe_id_parse(bytes_of_str(peer->spiffe_id), &id)) ||
         !bytes_equal_str(id.trust_domain, link->bundle->trust_domain)))
        return false;
    if (link->own_trust || peer->spiffe_id[0] == '\0')
        return authz_has_issuer(link->bundle, peer);
    return bundle_has_inside(link->bundle);
}

/* All but revocation by the deny set. `link` NULL: there is none any more. */
static err_t authz_live_rules(const struct snapshot *now, const struct link *link,
                              const struct peer *peer, int64_t now_s)
{
    if (link == NULL || !peer_matches(peer, &link->peers))
        return FAIL(POLICY_CHANGED, 0);
    TRY(authz_not_denied(now, link, peer));
    if (!authz_trusted(link, peer))
        return FAIL(TRUST_CHANGED, 0);
    if (err_is(crl_set_check(link->crls, peer, now_s), E_PEER_REVOKED))
        return FAIL(PEER_REVOKED, 0);
    return OK;
}

err_t authz_live(const struct snapshot *now, const struct link *link, const struct peer *peer,
                 int64_t now_s, uint32_t *out_grace_ms)
{
    const struct link *found = snapshot_link(now, link->direction, link->name);
    uint32_t grace_ms = 0;
    bool revoked;

    *out_grace_ms = 0;
    if (peer == NULL) {
        if (found == NULL || !(found->anonymous || found->unverified))
            return FAIL(POLICY_CHANGED, 0);
        return authz_not_denied(now, found, NULL);
    }
    revoked = revoke_find(now->revoked, peer, &grace_ms);
    if (revoked && grace_ms == 0)
        return FAIL(PEER_REVOKED, 0);
    TRY(authz_live_rules(now, found, peer, now_s)); /* a grace is none for what else ends it */
    if (!revoked)
        return OK;
    *out_grace_ms = grace_ms;
    return FAIL(PEER_REVOKED, 0);
}

err_t authz_plain(const struct snapshot *now, const struct link *link, int64_t now_s)
{
    const struct link *found = snapshot_link(now, link->direction, link->name);

    if (found == NULL || !link_is_permissive(found, now_s))
        return FAIL(POLICY_CHANGED, 0);
    return authz_not_denied(now, found, NULL);
}
