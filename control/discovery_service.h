/* discovery_service is the discovery stream: each sidecar that opens one gets the configuration
 * that it ought to have, at once and at each change, one response at a time; what it answers and
 * reports goes to the registry. Source: wire rules in proto/mesh/discovery.proto; reliability F35,
 * F37. */
#ifndef MORTISE_CONTROL_DISCOVERY_SERVICE_H
#define MORTISE_CONTROL_DISCOVERY_SERVICE_H

#include "control/ca.h"
#include "control/conn_log.h"
#include "control/events.h"
#include "control/failures.h"
#include "control/meters.h"
#include "control/questions.h"
#include "control/registry.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_server.h"

#define DISCOVERY_FIRST_MS 10000 /* for the first request of a stream */
#define DISCOVERY_COALESCE_MS 10 /* changes that come together are pushed together */
/* A push and its answer take about 50 us. While a crowd joins, each newcomer's address is news to
 * all of its peers, and telling each of each would be most of the work: after a refresh the next
 * one waits 200 us for each push of it. A change of the mesh itself does not wait. */
#define DISCOVERY_REST_US 200
#define DISCOVERY_REST_MAX_MS 2000
/* Each sidecar's clock is looked at so often, and told of when it is off by half of what
 * certificates allow for (ISSUE_BACKDATE_S). */
#define DISCOVERY_CLOCK_EVERY_MS 60000
#define DISCOVERY_CLOCK_LIMIT_MS 150000
#define DISCOVERY_PORT 15443 /* of a sidecar that does not say where it is */

/* discovery_address is where a sidecar is reached: what it advertises, if that is "host:port" with
 * a port and no wildcard address; when it says nothing, where it calls from. Owned. Errors:
 * ADDR_SYNTAX. */
MUST_CHECK err_t discovery_address(const char *advertise, const struct addr *from, char **out);

/* discovery_delay_ms is how long a change waits that is noticed `since_ms` after a refresh that
 * pushed to `num_pushed` sidecars. Pure. */
uint64_t discovery_delay_ms(uint64_t num_pushed, uint64_t since_ms);

struct discovery_service;

struct discovery_service_params {
    struct loop *loop;     /* all borrowed */
    struct events *events; /* may be NULL */
    struct ca *ca;
    struct registry *registry;
    struct meters *meters;
    struct conn_log *conn_log; /* may be NULL: what sidecars send up goes nowhere */
};

struct discovery_service *discovery_service_new(const struct discovery_service_params *params);
/* discovery_service_stop ends every stream with UNAVAILABLE, so that sidecars go elsewhere or come
 * back. */
void discovery_service_stop(struct discovery_service *service);
/* discovery_service_retry_rolled_back ends the streams of those who refuse what our store has, so
 * that they come back and are told of the new era. */
void discovery_service_retry_rolled_back(struct discovery_service *service);
/* discovery_service_free: no stream may be left. */
void discovery_service_free(struct discovery_service *service);

/* discovery_ask sends a question to a sidecar (the id is filled in) and waits `timeout_ms` for the
 * answer, of which `question` hears; see questions.h. Errors: UNSUPPORTED (its program is too old
 * to be asked), CLOSED (it is not connected now), LIMIT (too much is asked already), TOO_LARGE. */
MUST_CHECK err_t discovery_ask(struct discovery_service *service, struct workload *workload,
                               Mortise__V1__Question *msg, uint64_t timeout_ms,
                               struct question *question);
void discovery_ask_no_more(struct discovery_service *service, struct question *question);
/* discovery_candidate fills a response with what a push of `config` to a sidecar of that content
 * would carry: roots, and the keys of its keystores. It borrows from `*load`, which
 * discovery_load_fini wipes and frees. */
struct discovery_load {
    ProtobufCBinaryData *roots;
    Mortise__Control__KeystoreRecord **records;
    Mortise__V1__KeystoreKey *keys;
    Mortise__V1__KeystoreKey **list;
    size_t num_keys;
};
void discovery_candidate(struct discovery_service *service, const struct content *content,
                         Mortise__V1__SidecarConfig *config, Mortise__V1__DiscoveryResponse *out,
                         struct discovery_load *load);
void discovery_load_fini(struct discovery_load *load);

/* discovery_failures is what sidecars have told of connections that failed. */
const struct failures *discovery_failures(const struct discovery_service *service);

const struct grpc_method *discovery_service_methods(size_t *out_num);

#endif
