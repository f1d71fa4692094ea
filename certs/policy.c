#include "certs/policy.h"

#include <stdint.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"

#define POLICY_BELOW "/*"
#define POLICY_ENTRY_MAX (SPIFFE_ID_MAX + sizeof(POLICY_BELOW))

typedef Mortise__V1__Policy policy_msg;
#define POLICY_ALLOW MORTISE__V1__POLICY__ACTION__ALLOW
#define POLICY_DENY MORTISE__V1__POLICY__ACTION__DENY

/* ---- checking ---- */

static bool policy_is_below(struct bytes entry)
{
    return entry.len >= 2 && memcmp(entry.ptr + entry.len - 2, POLICY_BELOW, 2) == 0;
}

static void policy_check_entry(const char *entry, struct fault_path *path, struct faults *faults)
{
    struct bytes text = bytes_of_str(entry);
    struct spiffe_id id;
    bool below = policy_is_below(text);
    err_t err;

    if (below)
        text.len -= 2;
    err = spiffe_id_parse(text, &id);
    if (!err_is_ok(err))
        faults_add(faults, path->text,
                   "\"%.300s\" is not a SPIFFE ID (byte %d): wanted is spiffe://TRUST-DOMAIN/PATH, "
                   "exactly as certificates have it, or spiffe://TRUST-DOMAIN/PATH/* for all below",
                   entry, (int)err.sub + 1);
    else if (!below && id.path.len == 0)
        faults_add(
            faults, path->text,
            "\"%.300s\" is a trust domain's own ID, which no peer has; all of it are %.300s/*",
            entry, entry);
}

/* Each of a list once. */
static void policy_check_once(char *const *list, size_t num, const char *field,
                              struct fault_path *path, struct faults *faults)
{
    size_t top = fault_path_field(path, field);
    struct map seen = {.num = 0};

    for (size_t i = 0; i < num; i++) {
        size_t mark = fault_path_index(path, i);

        if (map_put(&seen, list[i], (void *)(uintptr_t)list[i]) != NULL)
            faults_add(faults, path->text, "\"%.300s\" is there twice", list[i]);
        fault_path_pop(path, mark);
    }
    map_fini(&seen);
    fault_path_pop(path, top);
}

static void policy_check_peers(const policy_msg *policy, bool cut, struct fault_path *path,
                               struct faults *faults)
{
    size_t top = fault_path_field(path, "peers");

    if (policy->n_peers == 0 && !(cut && policy->action == POLICY_ALLOW))
        faults_add(
            faults, path->text,
            "is missing: the SPIFFE IDs that it is about, such as spiffe://mesh.test/ns/x/sa/y");
    if (policy->n_peers > POLICY_PEERS_MAX)
        faults_add(faults, path->text, "%zu are too many: at most %d", policy->n_peers,
                   POLICY_PEERS_MAX);
    for (size_t i = 0; i < policy->n_peers && i < POLICY_PEERS_MAX; i++) {
        size_t mark = fault_path_index(path, i);

        policy_check_entry(policy->peers[i], path, faults);
        fault_path_pop(path, mark);
    }
    fault_path_pop(path, top);
}

err_t policy_check(const policy_msg *policy, bool cut, struct fault_path *path,
                   struct faults *faults)
{
    size_t before = faults->total, mark;

    if (policy->action != POLICY_ALLOW && policy->action != POLICY_DENY) {
        mark = fault_path_field(path, "action");
        faults_add(faults, path->text, "is missing: ALLOW (these clients and no others) or DENY");
        fault_path_pop(path, mark);
    }
    policy_check_peers(policy, cut, path, faults);
    policy_check_once(policy->links, policy->n_links, "links", path, faults);
    policy_check_once(policy->peers, policy->n_peers, "peers", path, faults);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

/* ---- entries that name somebody ---- */

/* Goes over all entries that an ID (or an entry) is named by: itself, then each path above. */
struct policy_walk {
    char text[POLICY_ENTRY_MAX + sizeof(POLICY_BELOW)];
    size_t end; /* of what is left of it; 0: nothing */
};

#define POLICY_SCHEME_LEN 9 /* "spiffe://" */

static const char *policy_walk_first(struct policy_walk *walk, const char *id)
{
    size_t len = strlen(id);

    walk->end = 0;
    if (len > POLICY_ENTRY_MAX)
        return NULL;
    memcpy(walk->text, id, len + 1);
    walk->end = len;
    if (policy_is_below(bytes_of(walk->text, len)))
        walk->end = len - 2; /* it is named by itself, and not by what it would make once more */
    return walk->text;
}

/* NULL: there is no other. */
static const char *policy_walk_next(struct policy_walk *walk)
{
    while (walk->end > POLICY_SCHEME_LEN) {
        walk->end--;
        if (walk->text[walk->end] != '/')
            continue;
        memcpy(walk->text + walk->end, POLICY_BELOW, sizeof(POLICY_BELOW));
        return walk->text;
    }
    return NULL;
}

bool policy_covers(const struct map *entries, const char *entry)
{
    struct policy_walk walk;

    for (const char *at = policy_walk_first(&walk, entry); at != NULL;
         at = policy_walk_next(&walk)) {
        if (map_get(entries, at) != NULL)
            return true;
    }
    return false;
}

/* ---- the set ---- */

/* The policies that have one entry, in their order. */
struct policy_list {
    size_t *at;
    size_t num;
};

struct policy_set {
    const policy_msg **policies;
    struct map *links; /* of each: the names; empty: all */
    struct map *peers; /* likewise */
    size_t num;
    struct map by_link;         /* link to struct policy_list, of those that name it */
    struct policy_list for_all; /* those that name none */
    struct map entries;         /* entry to struct policy_list */
    bool below;                 /* one of them names all below a path */
    struct map allows;          /* link to the index of the first ALLOW that names it, plus one */
    size_t allows_all;          /* likewise of those for all links; 0: none */
};

static void policy_list_add(struct policy_list *list, size_t index)
{
    list->at = mem_realloc(list->at, (list->num + 1) * sizeof(*list->at));
    list->at[list->num++] = index;
}

/* That of `key`, which is made when there is none. */
static struct policy_list *policy_list_of(struct map *map, const char *key)
{
    struct policy_list *list = map_get(map, key);

    if (list == NULL) {
        list = mem_zalloc(sizeof(*list));
        (void)map_put(map, key, list);
    }
    return list;
}

static void policy_lists_fini(struct map *map)
{
    const char *key;
    size_t iter = 0;
    void *value;

    while (map_next(map, &iter, &key, &value)) {
        mem_free(((struct policy_list *)value)->at);
        mem_free(value);
    }
    map_fini(map);
}

static void policy_set_add(struct policy_set *set, size_t index)
{
    const policy_msg *policy = set->policies[index];

    for (size_t i = 0; i < policy->n_peers; i++) {
        policy_list_add(policy_list_of(&set->entries, policy->peers[i]), index);
        (void)map_put(&set->peers[index], policy->peers[i], (void *)(uintptr_t)policy);
        set->below = set->below || policy_is_below(bytes_of_str(policy->peers[i]));
    }
    if (policy->n_links == 0)
        policy_list_add(&set->for_all, index);
    for (size_t i = 0; i < policy->n_links; i++) {
        policy_list_add(policy_list_of(&set->by_link, policy->links[i]), index);
        (void)map_put(&set->links[index], policy->links[i], (void *)(uintptr_t)policy);
        if (policy->action == POLICY_ALLOW && map_get(&set->allows, policy->links[i]) == NULL)
            (void)map_put(&set->allows, policy->links[i], (void *)(uintptr_t)(index + 1));
    }
    if (policy->action == POLICY_ALLOW && policy->n_links == 0 && set->allows_all == 0)
        set->allows_all = index + 1;
}

struct policy_set *policy_set_new(policy_msg *const *policies, size_t num)
{
    struct policy_set *set = mem_zalloc(sizeof(*set));

    set->num = num;
    set->policies = mem_array(num, sizeof(*set->policies));
    set->links = mem_array(num, sizeof(*set->links));
    set->peers = mem_array(num, sizeof(*set->peers));
    for (size_t i = 0; i < num; i++) {
        set->policies[i] = policies[i];
        policy_set_add(set, i);
    }
    return set;
}

void policy_set_free(struct policy_set *set)
{
    if (set == NULL)
        return;
    policy_lists_fini(&set->entries);
    policy_lists_fini(&set->by_link);
    mem_free(set->for_all.at);
    map_fini(&set->allows);
    for (size_t i = 0; i < set->num; i++) {
        map_fini(&set->links[i]);
        map_fini(&set->peers[i]);
    }
    mem_free(set->links);
    mem_free(set->peers);
    mem_free(set->policies);
    mem_free(set);
}

/* ---- judging ---- */

/* One judgement. */
struct policy_case {
    const struct policy_set *set;
    const char *link;
    enum policy_peer what;
    void (*each)(void *arg, size_t index, const char *entry);
    void *arg;
    bool allowed;
};

/* That policy names both. */
static void policy_case_tell(struct policy_case *one, size_t index, const char *entry)
{
    bool allows = one->set->policies[index]->action == POLICY_ALLOW;

    if (allows && one->what != POLICY_CLIENT)
        return;
    one->allowed = one->allowed || allows;
    one->each(one->arg, index, entry);
}

/* Of those that concern the link those that have the entry. */
static void policy_case_links(struct policy_case *one, const struct policy_list *list,
                              const char *entry)
{
    for (size_t i = 0; list != NULL && i < list->num; i++) {
        if (map_get(&one->set->peers[list->at[i]], entry) != NULL)
            policy_case_tell(one, list->at[i], entry);
    }
}

/* By whichever list is shorter: those with the entry, or those that concern the link. */
static void policy_case_entry(struct policy_case *one, const char *entry)
{
    const struct policy_set *set = one->set;
    const struct policy_list *named = map_get(&set->entries, entry), *of_link;

    if (named == NULL)
        return;
    of_link = map_get(&set->by_link, one->link);
    if (named->num > set->for_all.num + (of_link != NULL ? of_link->num : 0)) {
        policy_case_links(one, &set->for_all, entry);
        policy_case_links(one, of_link, entry);
        return;
    }
    for (size_t i = 0; i < named->num; i++) {
        if (set->policies[named->at[i]]->n_links == 0 ||
            map_get(&set->links[named->at[i]], one->link) != NULL)
            policy_case_tell(one, named->at[i], entry);
    }
}

/* The first ALLOW of a link, plus one; 0: it has none. */
static size_t policy_first_allow(const struct policy_set *set, const char *link,
                                 enum policy_peer what)
{
    size_t named = (uintptr_t)map_get(&set->allows, link);

    if (what != POLICY_CLIENT)
        return 0;
    return named != 0 && (set->allows_all == 0 || named < set->allows_all) ? named
                                                                           : set->allows_all;
}

void policy_each(const struct policy_set *set, const char *link, enum policy_peer what,
                 const char *spiffe_id, void (*each)(void *arg, size_t index, const char *entry),
                 void *arg)
{
    struct policy_case one = {.set = set, .link = link, .what = what, .each = each, .arg = arg};
    struct policy_walk walk;
    size_t allow;

    if (set == NULL)
        return;
    for (const char *entry = policy_walk_first(&walk, spiffe_id); entry != NULL;
         entry = set->below ? policy_walk_next(&walk) : NULL)
        policy_case_entry(&one, entry);
    allow = policy_first_allow(set, link, what);
    if (!one.allowed && allow != 0)
        each(arg, allow - 1, NULL);
}

struct policy_search {
    const struct policy_set *set;
    size_t deny, allow; /* plus one; 0: none */
};

static void policy_search_each(void *arg, size_t index, const char *entry)
{
    struct policy_search *search = arg;

    if (search->set->policies[index]->action == POLICY_DENY) {
        if (search->deny == 0 || index < search->deny - 1)
            search->deny = index + 1;
    } else if (entry == NULL) {
        search->allow = index + 1;
    }
}

const policy_msg *policy_find(const struct policy_set *set, const char *link, enum policy_peer what,
                              const char *spiffe_id)
{
    struct policy_search search = {.set = set};
    size_t found;

    policy_each(set, link, what, spiffe_id, policy_search_each, &search);
    found = search.deny != 0 ? search.deny : search.allow;
    return found != 0 ? set->policies[found - 1] : NULL;
}
