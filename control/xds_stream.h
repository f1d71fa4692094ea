/* xds_stream is one subscription's version and nonce bookkeeping: what is owed to the sidecar, what
 * is in flight, what it accepted or refused. Pure; the state-of-the-world rules of xDS.
 *
 * One response is in flight until it is answered; whatever changes meanwhile is folded into the
 * newest, which goes next. A version that was refused is not sent again; the next one is. */
#ifndef MORTISE_CONTROL_XDS_STREAM_H
#define MORTISE_CONTROL_XDS_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#define XDS_NONCE_MAX 24

struct xds_stream {
    bool started;            /* the first request came */
    uint64_t wanted_version; /* newest content */
    bool in_flight;
    uint64_t sent_version;    /* of the last response */
    uint64_t num_sent;        /* responses, and the last nonce */
    uint64_t acked_version;   /* the sidecar says that this is in force */
    uint64_t refused_version; /* of the last NACK, 0: none since the last ACK */
};

enum xds_request {
    XDS_FIRST,   /* opens the subscription */
    XDS_ACK,     /* the last response is in force */
    XDS_NACK,    /* the last response was refused; acked_version stays */
    XDS_STATUS,  /* answers nothing (stale nonce, or facts only) */
    XDS_INVALID, /* breaks the protocol: end the stream */
};

/* xds_stream_on_request takes the fields of a request. */
enum xds_request xds_stream_on_request(struct xds_stream *xds, uint64_t version, const char *nonce,
                                       bool has_error);

/* xds_stream_offer says which version the newest content has; it never goes back. */
void xds_stream_offer(struct xds_stream *xds, uint64_t version);

/* xds_stream_due tells whether a response is to be sent now. */
bool xds_stream_due(const struct xds_stream *xds);

/* xds_stream_sent notes that the newest content goes out and writes the response's nonce. */
void xds_stream_sent(struct xds_stream *xds, char nonce[XDS_NONCE_MAX]);

/* xds_stream_in_sync: the newest content is in force. xds_stream_refused: it was refused. */
bool xds_stream_in_sync(const struct xds_stream *xds);
bool xds_stream_refused(const struct xds_stream *xds);

#endif
