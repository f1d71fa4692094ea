#include "proxy/authz.h"

#include "certs/spiffe_id.h"

static err_t authz_not_revoked(const struct snapshot *snapshot, const struct peer *peer)
{
    uint32_t grace_ms;

    return revoke_find(snapshot->revoked, peer, &grace_ms) ? FAIL(PEER_REVOKED, 0) : OK;
}

err_t authz_server(const struct snapshot *snapshot, const struct link *link,
                   const struct peer *peer)
{
    if (peer == NULL)
        return FAIL(CERT_MISSING, 0);
    TRY(authz_not_revoked(snapshot, peer));
    if (!peer_matches(peer, &link->peers))
        return FAIL(PEER_IDENTITY, 0);
    return OK;
}

err_t authz_client(const struct snapshot *snapshot, int entry, const struct peer *peer,
                   const struct link **out)
{
    const struct link *found = NULL;

    if (peer == NULL)
        return FAIL(CERT_MISSING, 0);
    TRY(authz_not_revoked(snapshot, peer));
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

static bool authz_trusted(const struct link *link, const struct peer *peer)
{
    struct spiffe_id id;

    if (peer->spiffe_id[0] != '\0' && link->bundle->trust_domain[0] != '\0' &&
        (!err_is_ok(spiffe_id_parse(bytes_of_str(peer->spiffe_id), &id)) ||
         !bytes_equal_str(id.trust_domain, link->bundle->trust_domain)))
        return false;
    if (!link->own_trust)
        return true;
    for (size_t i = 0; i < peer->num_issuers; i++) {
        if (bundle_has(link->bundle, peer->issuers[i].cert_sha256))
            return true;
    }
    return bundle_has(link->bundle, peer->leaf_sha256);
}

err_t authz_live(const struct snapshot *now, const struct link *link, const struct peer *peer,
                 uint32_t *out_grace_ms)
{
    const struct link *found = snapshot_link(now, link->direction, link->name);

    if (revoke_find(now->revoked, peer, out_grace_ms))
        return FAIL(PEER_REVOKED, 0);
    *out_grace_ms = 0;
    if (found == NULL || !peer_matches(peer, &found->peers))
        return FAIL(POLICY_CHANGED, 0);
    if (!authz_trusted(found, peer))
        return FAIL(TRUST_CHANGED, 0);
    return OK;
}
