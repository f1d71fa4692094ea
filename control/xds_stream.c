#include "control/xds_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"

static void xds_stream_nonce(const struct xds_stream *xds, char nonce[XDS_NONCE_MAX])
{
    (void)snprintf(nonce, XDS_NONCE_MAX, "%" PRIu64, xds->num_sent);
}

enum xds_request xds_stream_on_request(struct xds_stream *xds, uint64_t version, const char *nonce,
                                       bool has_error)
{
    char expected[XDS_NONCE_MAX];

    if (!xds->started) {
        xds->started = true;
        xds->acked_version = version;
        return nonce[0] == '\0' && !has_error ? XDS_FIRST : XDS_INVALID;
    }
    xds_stream_nonce(xds, expected);
    /* An answer counts once: a second one with the same nonce is stale. */
    if (!xds->in_flight || strcmp(nonce, expected) != 0)
        return XDS_STATUS;
    if (has_error) {
        xds->in_flight = false;
        xds->refused_version = xds->sent_version;
        return XDS_NACK;
    }
    if (version != xds->sent_version)
        return XDS_INVALID;
    xds->in_flight = false;
    xds->acked_version = version;
    xds->refused_version = 0;
    return XDS_ACK;
}

void xds_stream_offer(struct xds_stream *xds, uint64_t version)
{
    CHECK(version >= xds->wanted_version);
    xds->wanted_version = version;
}

bool xds_stream_due(const struct xds_stream *xds)
{
    return xds->started && !xds->in_flight && xds->wanted_version > xds->sent_version;
}

void xds_stream_sent(struct xds_stream *xds, char nonce[XDS_NONCE_MAX])
{
    CHECK(xds_stream_due(xds));
    xds->in_flight = true;
    xds->sent_version = xds->wanted_version;
    xds->num_sent++;
    xds_stream_nonce(xds, nonce);
}

bool xds_stream_in_sync(const struct xds_stream *xds)
{
    return xds->started && xds->num_sent > 0 && !xds->in_flight &&
           xds->sent_version == xds->wanted_version && xds->acked_version == xds->wanted_version;
}

bool xds_stream_refused(const struct xds_stream *xds)
{
    return xds->num_sent > 0 && !xds->in_flight && xds->refused_version == xds->wanted_version;
}
