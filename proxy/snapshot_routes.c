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

/* A connection to one of its addresses stays on this host and is never captured. */
static bool snapshot_is_own_host(const struct cidr *range)
{
    static const struct cidr in4 = {.family = AF_INET, .prefix = 8, .bytes = {127}};
    static const struct cidr in6 = {.family = AF_INET6, .prefix = 128, .bytes = {[15] = 1}};

    return cidr_holds(&in4, range) || cidr_holds(&in6, range);
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
    else if (snapshot_is_own_host(&route.range))
        snapshot_fault(b, "\"%s\" is loopback, which is never captured", text);
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
    fault_path_pop(&b->path, top);
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
