#include "control/ctl/policy.h"

#include <string.h>

#include "control/mesh.h"
#include "lib/base/mem.h"

#define POLICY_LISTED 3 /* of links or peers in a table; wide: more */
#define POLICY_LISTED_WIDE 16

static const char *policy_action(const Mortise__V1__Policy *policy)
{
    return policy->action == MORTISE__V1__POLICY__ACTION__ALLOW ? "ALLOW" : "DENY";
}

static void policy_add_list(struct table *table, char *const *list, size_t num, size_t max,
                            const char *none)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    CLEANUP(mem_freep) char *joined = NULL;
    err_t err = OK;

    for (size_t i = 0; i < num && i < max && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? "," : "", list[i]);
    if (num > max && err_is_ok(err))
        err = buf_printf(&text, " and %zu more", num - max);
    CHECK(err_is_ok(err));
    joined = buf_take_str(&text);
    table_add(table, num > 0 ? joined : none);
}

void policy_row(bool wide, const Mortise__V1__Policy *policy, struct table *table)
{
    size_t max = wide ? POLICY_LISTED_WIDE : POLICY_LISTED;

    table_add(table, policy->name);
    table_add(table, policy_action(policy));
    policy_add_list(table, policy->links, policy->n_links, max, "all");
    policy_add_list(table, policy->peers, policy->n_peers, max, "none");
    if (wide)
        table_add(table, policy->description);
}

static bool policy_names_link(const Mortise__V1__Policy *policy, const char *link)
{
    for (size_t i = 0; i < policy->n_links; i++) {
        if (strcmp(policy->links[i], link) == 0)
            return true;
    }
    return policy->n_links == 0;
}

err_t policy_of_link(const Mortise__V1__Mesh *mesh, const char *trust_domain, const char *link,
                     struct buf *out)
{
    const Mortise__V1__Link *item = mesh_link(mesh, link);
    struct policy_set *set = policy_set_new(mesh->policies, mesh->n_policies);
    const Mortise__V1__Policy *denies;
    const char *denied;
    err_t err = OK;

    for (size_t i = 0; i < mesh->n_policies && err_is_ok(err); i++) {
        const Mortise__V1__Policy *policy = mesh->policies[i];

        if (policy_names_link(policy, link))
            err = buf_printf(out, "%s: %s of %zu peer%s%s\n", policy->name, policy_action(policy),
                             policy->n_peers, policy->n_peers != 1 ? "s" : "",
                             policy->n_links == 0 ? ", on every link" : "");
    }
    denies = item != NULL ? mesh_denies(mesh, set, trust_domain, item, &denied) : NULL;
    if (denies != NULL && err_is_ok(err))
        err = buf_printf(out, "%s denies %s\n", denies->name, denied);
    policy_set_free(set);
    return err;
}

err_t policy_effect(const Mortise__V1__Mesh *mesh, const char *trust_domain, const char *policy,
                    struct buf *out)
{
    struct policy_set *set = policy_set_new(mesh->policies, mesh->n_policies);
    err_t err = OK;

    for (size_t i = 0; i < mesh->n_links && err_is_ok(err); i++) {
        const Mortise__V1__Link *link = mesh->links[i];
        const char *denied;
        const Mortise__V1__Policy *denies = mesh_denies(mesh, set, trust_domain, link, &denied);

        if (denies != NULL && strcmp(denies->name, policy) == 0)
            err = buf_printf(out, "%s: denies %s, its %s\n", link->name, denied,
                             strcmp(denied, link->client) == 0 ? "client" : "server");
    }
    policy_set_free(set);
    return err;
}
