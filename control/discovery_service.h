/* discovery_service is the discovery stream: each sidecar that opens one gets the configuration
 * that it ought to have, at once and at each change, one response at a time; what it answers and
 * reports goes to the registry. Source: wire rules in proto/mesh/discovery.proto; reliability F35,
 * F37. */
#ifndef MORTISE_CONTROL_DISCOVERY_SERVICE_H
#define MORTISE_CONTROL_DISCOVERY_SERVICE_H

#include "control/ca.h"
#include "control/meters.h"
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
    struct loop *loop; /* all borrowed */
    struct ca *ca;
    struct registry *registry;
    struct meters *meters;
};

struct discovery_service *discovery_service_new(const struct discovery_service_params *params);
/* discovery_service_stop ends every stream with UNAVAILABLE, so that sidecars go elsewhere or come
 * back. */
void discovery_service_stop(struct discovery_service *service);
/* discovery_service_free: no stream may be left. */
void discovery_service_free(struct discovery_service *service);

const struct grpc_method *discovery_service_methods(size_t *out_num);

#endif
