#include <stdlib.h>
#include <string.h>

#include "proxy/snapshot_impl.h"

/* The longest prefixes first; what is the same destination stands side by side. */
static int snapshot_by_range(const void *a, const void *b)
{
    const struct route *left = a, *right = b;
    int order = right->range.prefix - left->range.prefix;

    if (order == 0)
        order = left->range.family - right->range.family;
    if (order == 0)
        order = memcmp(left->range.bytes, right->range.bytes, sizeof(left->range.bytes));
    return order != 0 ? order : left->port - right->port;
}

static bool snapshot_same_route(const struct route *a, const struct route *b)
{
    return snapshot_by_range(a, b) == 0;
}

static void snapshot_add_route(struct snapshot_builder *b, const struct link *link,
                               const char *text)
{
    struct route route = {.link = link};

    if (!err_is_ok(cidr_parse_port(text, &route.range, &route.port)))
        snapshot_fault(b,
                       "\"%s\" is no destination: wanted is ADDRESS:PORT or RANGE:PORT, as "
                       "10.0.0.7:8080, 10.1.0.0/16:8080 (bits behind the prefix are 0) or "
                       "[fd00::/64]:8080",
                       text);
    else if (cidr_is_on_link(&route.range))
        snapshot_fault(b, "\"%s\" is loopback or link-local, which is never captured", text);
    else if (b->snapshot->num_routes < SNAPSHOT_ROUTES_MAX)
        b->snapshot->routes[b->snapshot->num_routes++] = route;
    else
        snapshot_fault(b, "is one too many: at most %d of all links", SNAPSHOT_ROUTES_MAX);
}

static void snapshot_add_routes(struct snapshot_builder *b, const struct link *link,
                                const Mortise__V1__Outbound *msg)
{
    size_t top = fault_path_field(&b->path, "destinations");

    for (size_t i = 0; i < msg->n_destinations; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_add_route(b, link, msg->destinations[i]);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

static void snapshot_check_routes(struct snapshot_builder *b)
{
    const struct snapshot *snapshot = b->snapshot;

    for (size_t i = 1; i < snapshot->num_routes; i++) {
        const struct route *one = &snapshot->routes[i - 1], *other = &snapshot->routes[i];
        char text[CIDR_TEXT_MAX];
        size_t mark;

        if (!snapshot_same_route(one, other))
            continue;
        if (one->link->index > other->link->index) {
            one = other;
            other = &snapshot->routes[i - 1];
        }
        cidr_format(&one->range, text);
        mark = fault_path_index(&b->path, other->link->index);
        FIELD_FAULT(b, "destinations", "%s port %u is a destination of outbound[%zu] (%s) already",
                    text, one->port, one->link->index, one->link->name);
        fault_path_pop(&b->path, mark);
    }
}

/* A connection that is going to a peer's sidecar, by address and port. */
static int snapshot_by_endpoint(const void *a, const void *b)
{
    const struct snapshot_endpoint *left = a, *right = b;
    int order = memcmp(left->bytes, right->bytes, sizeof(left->bytes));

    return order != 0 ? order : left->port - right->port;
}

static struct snapshot_endpoint snapshot_endpoint_of(const struct addr *addr)
{
    struct snapshot_endpoint out = {.port = addr_port(addr), .bytes = {[10] = 0xff, [11] = 0xff}};

    if (addr->sa.any.sa_family == AF_INET)
        memcpy(out.bytes + 12, &addr->sa.in4.sin_addr, 4);
    else
        memcpy(out.bytes, &addr->sa.in6.sin6_addr, sizeof(out.bytes));
    return out;
}

/* For captured connections alone: without routes there are none. */
static void snapshot_keep_endpoints(struct snapshot *snapshot)
{
    size_t num = 0;

    if (snapshot->num_routes == 0)
        return;
    for (size_t i = 0; i < snapshot->num_outbound; i++)
        num += snapshot->outbound[i].num_endpoints;
    snapshot->endpoints = mem_array(num, sizeof(*snapshot->endpoints));
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        const struct link *link = &snapshot->outbound[i];

        for (size_t j = 0; j < link->num_endpoints; j++) {
            if (link->endpoints[j].addr.len != 0)
                snapshot->endpoints[snapshot->num_endpoints++] =
                    snapshot_endpoint_of(&link->endpoints[j].addr);
        }
    }
    qsort(snapshot->endpoints, snapshot->num_endpoints, sizeof(*snapshot->endpoints),
          snapshot_by_endpoint);
}

void snapshot_build_routes(struct snapshot_builder *b)
{
    struct snapshot *snapshot = b->snapshot;
    const config_msg *config = snapshot->config;
    size_t top = fault_path_field(&b->path, "outbound");
    size_t num = 0;

    for (size_t i = 0; i < snapshot->num_outbound; i++)
        num += config->outbound[i]->n_destinations;
    snapshot->routes =
        mem_array(num < SNAPSHOT_ROUTES_MAX ? num : SNAPSHOT_ROUTES_MAX, sizeof(*snapshot->routes));
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_add_routes(b, &snapshot->outbound[i], config->outbound[i]);
        fault_path_pop(&b->path, mark);
    }
    qsort(snapshot->routes, snapshot->num_routes, sizeof(*snapshot->routes), snapshot_by_range);
    snapshot_check_routes(b);
    snapshot_keep_endpoints(snapshot);
    fault_path_pop(&b->path, top);
}

bool snapshot_is_endpoint(const struct snapshot *snapshot, const struct addr *to)
{
    struct snapshot_endpoint key = snapshot_endpoint_of(to);

    return snapshot->num_endpoints > 0 &&
           bsearch(&key, snapshot->endpoints, snapshot->num_endpoints, sizeof(key),
                   snapshot_by_endpoint) != NULL;
}

/* One look at each: of a full table 4096, a hundredth of what the handshake behind it costs. */
const struct link *snapshot_route(const struct snapshot *snapshot, const struct addr *to)
{
    for (size_t i = 0; i < snapshot->num_routes; i++) {
        const struct route *route = &snapshot->routes[i];

        if (route->port == addr_port(to) && cidr_holds_addr(&route->range, to))
            return route->link;
    }
    return NULL;
}
