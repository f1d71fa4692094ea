/* conn: one connection through the sidecar, between the local application and the mesh: its states,
 * deadlines, reason of ending, and teardown. outbound.c and inbound.c drive it from accepted to
 * open; then the relay does. */
#ifndef MORTISE_PROXY_CONN_H
#define MORTISE_PROXY_CONN_H

#include "lib/base/list.h"
#include "lib/net/addr.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "proxy/names.h"
#include "proxy/relay.h"
#include "proxy/snapshot.h"
#include "proxy/stats.h"
#include "proxy/turns.h"

#define CONN_LINGER_MS 1000          /* for a refused peer to read why */
#define CONN_LINGER_BYTES (64 << 10) /* it may go on sending so much meanwhile */
#define CONN_CONNECT_MIN_MS 250      /* no attempt is cut shorter to leave time for the next */

/* Who has sent nothing for so long at a permissive port waits for the server to speak first: TLS
 * clients never do. */
#define CONN_FIRST_BYTE_MS 3000

/* What is in its handshake when draining begins may end it. */
#define CONN_DRAIN_HANDSHAKE_MS 1000
#define CONN_LAST_LOOK_MS 50 /* how often it is looked at in its last second */

struct worker;
struct conn;

enum conn_state {
    CONN_ACCEPTED,
    CONN_FIRST_BYTE, /* inbound, by a permissive port: does TLS come, or plaintext? */
    CONN_CONNECTING, /* outbound: to an endpoint; inbound: to the application */
    CONN_HANDSHAKE,
    CONN_OPEN,
    CONN_DRAINING, /* open, under the drain deadline */
    CONN_REFUSED,  /* the handshake failed, or was all that was wanted: the last words are on their
                      way */
    CONN_CLOSED,
    CONN_NUM_STATES,
};
const char *conn_state_name(enum conn_state state);
/* conn_may_move says whether the state table allows that step. */
bool conn_may_move(enum conn_state from, enum conn_state to);

/* conn_addr is a TCP address in 28 bytes. */
union conn_addr {
    struct sockaddr any;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};
void conn_addr_set(union conn_addr *out, const struct addr *addr);
/* conn_addr_get gives len 0 for an address never set. */
struct addr conn_addr_get(const union conn_addr *addr);

/* What a connection needs only until it is open. */
struct conn_setup {
    struct turn turn; /* outbound */
    struct stream *app;
    struct stream *mesh; /* TCP, then the TLS session on it */
    struct tls_check check;
    const struct link *wanted; /* inbound: the link that the client asked for, or may have */
    char *claimed;             /* who a denied peer says to be; not proven */
    struct tcp_connect *connecting;
    struct names_wait wait;
    struct addr *addrs; /* of the endpoint's name in hand */
    size_t num_addrs, next_addr;
    size_t first_endpoint; /* of the link, to begin with */
    size_t num_tried;
    err_t last;                 /* why the attempt before failed */
    uint64_t until_ms;          /* of connecting, all attempts together */
    uint64_t handshake_left_ms; /* outbound: of all attempts' handshakes together */
    uint64_t limit_ms;          /* of the state in hand; 0: as the settings say */
    uint64_t handshake_from_us;
    size_t lingered; /* bytes thrown away in CONN_REFUSED */
    uint16_t source; /* of limits_handshake_begin */
    bool counts_handshake;
    bool in_tls; /* mesh is a TLS session */
    void (*first_byte)(struct conn *conn, struct bytes first);
    void (*then)(struct conn *conn); /* when the handshake is done */
    /* When it failed: true, and somebody else is asked; or false, and the connection ends. NULL: it
     * ends. `alerted`: the peer was sent an alert. */
    bool (*again)(struct conn *conn, err_t err, bool alerted);
};

struct conn {
    struct list live; /* in its worker's list */
    struct worker *worker;
    struct snapshot *snapshot;
    const struct link *link;  /* the snapshot's; NULL until an inbound peer was authorized */
    struct conn_setup *setup; /* NULL once open */
    struct peer *peer;
    struct relay relay;
    struct timer timer;
    struct tls_info tls;
    uint64_t began_ms;
    uint64_t asked;         /* in which round it was judged last, see live.h */
    uint64_t end_ms;        /* when it is to end whatever happens; 0: nobody has said so */
    uint64_t bytes_told[2]; /* to the metrics already */
    const char *policy;     /* that denies its peer, while it ends for that; NULL */
    uint64_t key;           /* of the handshake, see shown_key_of; 0: none yet */
    uint32_t handshake_us;
    uint32_t drain_ms;        /* so long before its end it begins to go, see age.h */
    uint8_t direction, state; /* enum direction, enum conn_state */
    uint16_t end_code;        /* enum err_code, with end_ms */
    bool logged;
    bool plain;    /* without TLS: by a permissive port */
    bool going;    /* its client was told that this is the end */
    bool reported; /* as one that does not go */
    union conn_addr source, destination;
};

/* conn_new makes a connection in CONN_ACCEPTED that keeps references to what it needs, or NULL when
 * there is no memory. `link` may be NULL. */
struct conn *conn_new(struct worker *worker, enum direction direction, struct snapshot *snapshot,
                      const struct link *link, const struct addr *source);

/* conn_set_state moves it along the state table and arms the state's deadline. */
void conn_set_state(struct conn *conn, enum conn_state state);

/* conn_take_app gives it the application's stream, conn_take_mesh the other one; before it is open.
 */
void conn_take_app(struct conn *conn, struct stream *stream);
void conn_take_mesh(struct conn *conn, struct stream *stream);

/* conn_start_tls runs the handshake over setup->mesh; `authorize` is asked inside it (see
 * tls_check; it may fill setup->wanted, and conn_claim), `then(conn)` goes on when it is done and
 * everything about it was found right. */
void conn_start_tls(struct conn *conn, SSL_CTX *ctx, enum tls_role role, const char *server_name,
                    err_t (*authorize)(void *arg, int entry, const struct peer *peer),
                    void (*then)(struct conn *conn));

/* conn_await_first_byte waits for what the peer sends first on setup->mesh, a TCP stream, and calls
 * `then`: with nothing when it waits, too. */
void conn_await_first_byte(struct conn *conn, void (*then)(struct conn *conn, struct bytes first));

/* conn_take_plain makes it one that goes on without TLS by `link`, as long as that is permissive.
 */
void conn_take_plain(struct conn *conn, const struct link *link);

/* conn_judge: whether `now` would let it in as what it is; errors and grace as of authz_live. */
MUST_CHECK err_t conn_judge(const struct conn *conn, const struct snapshot *now,
                            uint32_t *out_grace_ms);

/* conn_drop_mesh ends setup->mesh, whose handshake failed, so that another can be tried. */
void conn_drop_mesh(struct conn *conn, bool alerted);

/* conn_claim notes who a denied peer says to be, for the log. */
void conn_claim(struct conn *conn, const struct peer *peer);
/* conn_blame notes by which policy of `by` a POLICY_DENIED is, for the log; another error by none.
 * `by` is the connection's snapshot, or is kept until it is closed. */
void conn_blame(struct conn *conn, const struct snapshot *by, const struct link *link,
                const struct peer *peer, err_t err);
/* conn_set_link says by which link it goes; once. */
void conn_set_link(struct conn *conn, const struct link *link);

/* conn_open starts the relay between both streams. */
void conn_open(struct conn *conn);

/* conn_close ends it: streams, metrics, access log, memory (at the end of the loop's batch). `side`
 * is RELAY_APP or RELAY_MESH, where `err` came from. The pointer is not to be used afterwards. */
void conn_close(struct conn *conn, err_t err, unsigned side);

/* conn_drain puts an open connection under the drain deadline (or its own, if that is nearer), a
 * handshake under a short one. */
void conn_drain(struct conn *conn);

/* conn_end_within lets an open connection go on for `ms` at most and then ends with `err`; an end
 * that is nearer already stays. True: it is this one that comes. */
bool conn_end_within(struct conn *conn, uint64_t ms, err_t err);
/* conn_end_not takes that back, if it is for that reason that it was to end. */
void conn_end_not(struct conn *conn, enum err_code code);

/* conn_tell_bytes adds what was carried since the last call to the metrics. */
void conn_tell_bytes(struct conn *conn);

/* conn_end_probe ends one that an operator's trial has made, whose handshake has just succeeded:
 * the peer is told by close_notify, and no application hears of it. */
void conn_end_probe(struct conn *conn);

/* conn_note_failure remembers one that failed on the way to being open, or that the peer refused at
 * once. */
void conn_note_failure(const struct conn *conn, err_t err, unsigned side);

/* conn_reason maps an error to why a connection ended. */
enum close_reason conn_reason(err_t err, unsigned side);

#endif
