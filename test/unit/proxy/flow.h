/* flow: two sets of workers in one process with a link between them: an application's port, the
 * outbound side, the inbound side, a listening application. For cmocka: setup and teardown make and
 * end one. */
#ifndef MORTISE_TEST_UNIT_PROXY_FLOW_H
#define MORTISE_TEST_UNIT_PROXY_FLOW_H

#include <pthread.h>

#include "proxy/worker.h"
#include "test/unit/proxy/world.h"

#define FLOW_CLIENT_ID WORLD_CLIENT_ID
#define FLOW_SERVER_ID WORLD_ID
#define FLOW_STORE "truststores: [{name: mesh, ca_file: root, trust_domain: mesh.test}]\n"

/* One side: workers and the snapshot they have. */
struct flow_side {
    struct worker_shared shared;
    struct stats *stats;
};

struct flow {
    struct world world;
    struct flow_side client, server;
    struct svid *client_svid;
    int app; /* the listening application behind the server side */
    uint16_t app_port, out_port, in_port;
    pthread_mutex_t lock;
    pthread_cond_t more;
    char lines[65536]; /* of the access log */
    size_t lines_len;
};

/* flow_setup makes one with `server_workers` workers at the server's side and 1 at the client's. */
int flow_setup(void **state, size_t server_workers);
int flow_teardown(void **state);

/* flow_line_has: the access log has `text`; flow_wait_for_line waits for it, ten seconds at most.
 */
bool flow_line_has(struct flow *flow, const char *text);
void flow_wait_for_line(struct flow *flow, const char *text);

/* flow_bound_socket returns a socket bound to a free port of loopback. */
int flow_bound_socket(uint16_t *out_port);
/* flow_dial connects to a port of loopback, -1 when refused. Reads give up after ten seconds. */
int flow_dial(uint16_t port);

void flow_side_init(struct flow_side *side, size_t num_workers);
void flow_side_fini(struct flow_side *side);

/* flow_apply puts YAML into force on a side; flow_apply_good expects no fault and takes `yaml`. */
MUST_CHECK err_t flow_apply(struct flow *flow, struct flow_side *side, struct svid *svid,
                            const char *yaml, struct faults *faults);
void flow_apply_good(struct flow *flow, struct flow_side *side, struct svid *svid, char *yaml);

/* Owned YAML of the link's two ends. */
char *flow_client_yaml(const struct flow *flow, uint16_t port, const char *peer);
char *flow_server_yaml(const struct flow *flow, const char *peer);

#endif
