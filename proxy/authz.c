#include "proxy/authz.h"

#include "certs/spiffe_id.h"

static err_t authz_not_revoked(const struct snapshot *snapshot, const struct peer *peer)
{
    uint32_t grace_ms;

    return revoke_find(snapshot->revoked, peer, &grace_ms) ? FAIL(PEER_REVOKED, 0) : OK;
}

err_t authz_server(const struct snapshot *snapshot, const struct link *link,
                   const struct peer *peer, int64_t now_s)
{
    if (peer == NULL)
        return link->unverified ? OK : FAIL(CERT_MISSING, 0);
    TRY(authz_not_revoked(snapshot, peer));
    if (!peer_matches(peer, &link->peers))
        return FAIL(PEER_IDENTITY, 0);
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

    if (peer == NULL)
        return authz_anonymous(snapshot, entry, out);
    TRY(authz_not_revoked(snapshot, peer));
    TRY(authz_choose(snapshot, entry, peer, &found));
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

err_t authz_live(const struct snapshot *now, const struct link *link, const struct peer *peer,
                 int64_t now_s, uint32_t *out_grace_ms)
{
    const struct link *found = snapshot_link(now, link->direction, link->name);

    *out_grace_ms = 0;
    if (peer == NULL)
        return found != NULL && (found->anonymous || found->unverified) ? OK
                                                                        : FAIL(POLICY_CHANGED, 0);
    if (revoke_find(now->revoked, peer, out_grace_ms))
        return FAIL(PEER_REVOKED, 0);
    *out_grace_ms = 0;
    if (found == NULL || !peer_matches(peer, &found->peers))
        return FAIL(POLICY_CHANGED, 0);
    if (!authz_trusted(found, peer))
        return FAIL(TRUST_CHANGED, 0);
    if (err_is(crl_set_check(found->crls, peer, now_s), E_PEER_REVOKED))
        return FAIL(PEER_REVOKED, 0);
    return OK;
}

err_t authz_plain(const struct snapshot *now, const struct link *link, int64_t now_s)
{
    const struct link *found = snapshot_link(now, link->direction, link->name);

    return found != NULL && link_is_permissive(found, now_s) ? OK : FAIL(POLICY_CHANGED, 0);
}
