#include "control/member.h"

#include <stdlib.h>
#include <string.h>

#include "control/msg.h"
#include "lib/rpc/pb.h"

struct member *member_new(const char *name, const char *spiffe_id)
{
    struct member *member = mem_zalloc(sizeof(*member));

    member->name = mem_strdup(name);
    member->spiffe_id = mem_strdup(spiffe_id);
    return member;
}

void member_free(struct member *member)
{
    if (member->content != NULL)
        pb_free(&member->content->config->base);
    mem_free(member->content);
    for (size_t i = 0; i < member->num_addresses; i++)
        mem_free(member->addresses[i].text);
    mem_free(member->addresses);
    mem_free(member->shown);
    mem_free(member->name);
    mem_free(member->spiffe_id);
    mem_free(member);
}

static int member_address_compare(const void *a, const void *b)
{
    return strcmp(((const struct member_address *)a)->text,
                  ((const struct member_address *)b)->text);
}

/* The list has changed: in order again, and its texts beside it. */
static void member_sort(struct member *member)
{
    qsort(member->addresses, member->num_addresses, sizeof(*member->addresses),
          member_address_compare);
    member->shown =
        mem_realloc(member->shown, (member->num_addresses + 1) * sizeof(*member->shown));
    for (size_t i = 0; i < member->num_addresses; i++)
        member->shown[i] = member->addresses[i].text;
}

static struct member_address *member_address(struct member *member, const char *text)
{
    for (size_t i = 0; i < member->num_addresses; i++) {
        if (strcmp(member->addresses[i].text, text) == 0)
            return &member->addresses[i];
    }
    return NULL;
}

static struct member_address *member_add(struct member *member, const char *text)
{
    size_t size = (member->num_addresses + 1) * sizeof(*member->addresses);

    member->addresses = mem_realloc(member->addresses, size);
    member->addresses[member->num_addresses++] = (struct member_address){.text = mem_strdup(text)};
    member_sort(member);
    return member_address(member, text);
}

void member_load(struct member *member, const Mortise__Control__Endpoints *record,
                 uint64_t until_ms)
{
    for (size_t i = 0; i < record->n_addresses; i++) {
        if (member_address(member, record->addresses[i]) == NULL)
            member_add(member, record->addresses[i])->until_ms = until_ms;
    }
}

void member_save(const struct member *member, Mortise__Control__Endpoints *record, char **texts)
{
    for (size_t i = 0; i < member->num_addresses; i++)
        texts[i] = member->addresses[i].text;
    record->addresses = texts;
    record->n_addresses = member->num_addresses;
}

bool member_connect(struct member *member, const char *address)
{
    struct member_address *at = member_address(member, address);
    bool is_new = at == NULL;

    if (is_new)
        at = member_add(member, address);
    at->connected++;
    member->num_workloads++;
    member->unsaved = member->unsaved || is_new;
    return is_new;
}

void member_disconnect(struct member *member, const char *address, uint64_t until_ms)
{
    struct member_address *at = member_address(member, address);

    CHECK(at != NULL && at->connected > 0 && member->num_workloads > 0);
    at->connected--;
    at->until_ms = until_ms;
    member->num_workloads--;
}

bool member_expire(struct member *member, uint64_t now_ms)
{
    size_t kept = 0;

    if (member->num_workloads == 0)
        return false; /* nobody to take their place */
    for (size_t i = 0; i < member->num_addresses; i++) {
        struct member_address *at = &member->addresses[i];

        if (at->connected == 0 && now_ms >= at->until_ms)
            mem_free(at->text);
        else
            member->addresses[kept++] = *at;
    }
    if (kept == member->num_addresses)
        return false;
    member->num_addresses = kept;
    member->unsaved = true;
    member_sort(member);
    return true;
}

const struct content *member_content(struct member *member, const struct mesh_view *view,
                                     uint64_t version, uint64_t epoch, uint32_t spread_ms)
{
    if (member->content != NULL)
        return member->content;
    member->content = mem_alloc(sizeof(*member->content));
    *member->content = (struct content){
        .version = version,
        .config = mesh_config(view, member->name),
        .epoch = epoch,
        .spread_ms = spread_ms,
    };
    return member->content;
}

bool member_compute(struct member *member, const struct mesh_view *view, uint64_t epoch)
{
    if (member->content == NULL)
        return false;
    if (member->next != NULL) /* computed before, and not adopted */
        pb_free(&member->next->base);
    member->next = mesh_config(view, member->name);
    if (pb_equal(&member->next->base, &member->content->config->base)) {
        pb_free(&member->next->base);
        member->next = NULL;
    }
    return member->next != NULL || member->content->epoch != epoch;
}

void member_adopt(struct member *member, uint64_t version, uint64_t epoch, uint32_t spread_ms)
{
    struct content *content = member->content;

    if (content == NULL || (member->next == NULL && content->epoch == epoch))
        return;
    if (member->next != NULL) {
        pb_free(&content->config->base);
        content->config = member->next;
        member->next = NULL;
    }
    content->version = version;
    content->epoch = epoch;
    content->spread_ms = spread_ms;
}
