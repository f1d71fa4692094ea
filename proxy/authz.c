#include "proxy/authz.h"

err_t authz_server(const struct link *link, const struct peer *peer)
{
    if (peer == NULL)
        return FAIL(CERT_MISSING, 0);
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
