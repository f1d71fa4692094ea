#include <string.h>

#include "lib/base/map.h"
#include "lib/base/str.h"
#include "proxy/snapshot_impl.h"

#define SNAPSHOT_NEAREST_MAX 8 /* faults that look for what was meant: each looks at all links */

static const char *snapshot_policy_name(const config_msg *config, size_t i)
{
    return config->policies[i]->name;
}

/* The links of both directions. */
struct snapshot_link_names {
    const char **list;
    size_t num;
    struct map map;
};

static void snapshot_add_link_name(struct snapshot_link_names *names, const char *name)
{
    if (snapshot_is_empty(name))
        return; /* told */
    names->list[names->num++] = name;
    (void)map_put(&names->map, name, (void *)(uintptr_t)name);
}

static void snapshot_policy_links(struct snapshot_builder *b, const Mortise__V1__Policy *policy,
                                  const struct snapshot_link_names *names)
{
    size_t top = fault_path_field(&b->path, "links");

    for (size_t i = 0; i < policy->n_links; i++) {
        size_t mark = fault_path_index(&b->path, i);
        char known[256];
        int nearest = -1;

        if (map_get(&names->map, policy->links[i]) == NULL) {
            snapshot_known(names->list, names->num, known, sizeof(known));
            if (b->faults->total < SNAPSHOT_NEAREST_MAX)
                nearest = str_nearest(policy->links[i], names->list, names->num);
            snapshot_fault(
                b, "no link \"%s\"%s%s%s; %s", policy->links[i], nearest >= 0 ? " (meant was " : "",
                nearest >= 0 ? names->list[nearest] : "", nearest >= 0 ? "?)" : "", known);
        }
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

void snapshot_check_policies(struct snapshot_builder *b)
{
    const config_msg *config = b->in->config;
    size_t num_inbound = config->inbound != NULL ? config->inbound->n_links : 0;
    size_t top = fault_path_field(&b->path, "policies");
    struct snapshot_link_names names = {
        .list = mem_array(config->n_outbound + num_inbound, sizeof(*names.list))};

    for (size_t i = 0; i < config->n_outbound; i++)
        snapshot_add_link_name(&names, config->outbound[i]->name);
    for (size_t i = 0; i < num_inbound; i++)
        snapshot_add_link_name(&names, config->inbound->links[i]->name);
    if (config->n_policies > POLICY_MAX)
        snapshot_fault(b, "has %zu members; at most %d", config->n_policies, POLICY_MAX);
    for (size_t i = 0; i < config->n_policies && i < POLICY_MAX; i++) {
        size_t mark = fault_path_index(&b->path, i);
        err_t err;

        snapshot_check_name(b, "policy", config->policies[i]->name, snapshot_policy_name, i);
        err = policy_check(config->policies[i], b->in->ca_files == NULL, &b->path, b->faults);
        (void)err; /* every fault is in the list */
        snapshot_policy_links(b, config->policies[i], &names);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
    map_fini(&names.map);
    mem_free(names.list);
}
