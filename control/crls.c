#include "control/crls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "certs/crl.h"
#include "certs/pem.h"
#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

typedef Mortise__Control__CrlRecord crl_record;
typedef struct issue_crl_entry crl_entry;

#define CRLS_FORMER_MAX 8 /* of issuers that went in the last day; sidecars take 64 lists */

/* Serial numbers, each once, ascending once they are in order. */
struct crl_entries {
    crl_entry *items;
    size_t num;
    size_t cap;
};

struct crl_list {
    struct crl_list *next;
    char key_sha256[CRLS_KEY_HEX];
    crl_record *record; /* NULL: none was made yet */
    uint64_t version;   /* of the record; STORE_ABSENT: there is none */
    bool held;          /* its authority's key is here */
};

struct crls {
    struct crls_params params;
    struct registry_observer observer;
    struct crl_list *lists;
    struct crl_entries hit; /* certificates whose identity or key is denied */
    uint64_t denied;        /* version of the deny set that was seen last */
    bool dirty;             /* it has changed since they were looked for */
    bool looking;
    bool again;        /* something could not be made */
    int64_t updated_s; /* when all were last brought up to date */
    int64_t due_s;     /* when the first has to be renewed */
    char *after;       /* how far it has come */
    struct crl_entries found;
};

/* ---- serial numbers ---- */

static void crl_entries_fini(struct crl_entries *entries)
{
    mem_free(entries->items);
    *entries = (struct crl_entries){.num = 0};
}

static void crl_entries_add(struct crl_entries *entries, const char *serial, int64_t revoked_at)
{
    crl_entry *entry;

    if (strlen(serial) >= sizeof(entry->serial))
        return; /* not a certificate's: a record from outside */
    if (entries->num == entries->cap) {
        entries->cap = entries->cap != 0 ? 2 * entries->cap : 16;
        entries->items = mem_realloc(entries->items, entries->cap * sizeof(*entries->items));
    }
    entry = &entries->items[entries->num++];
    (void)snprintf(entry->serial, sizeof(entry->serial), "%s", serial);
    entry->revoked_at = revoked_at;
}

static int crl_entry_compare(const void *a, const void *b)
{
    return strcmp(((const crl_entry *)a)->serial, ((const crl_entry *)b)->serial);
}

static void crl_entries_sort(struct crl_entries *entries)
{
    size_t kept = 0;

    if (entries->num > 1)
        qsort(entries->items, entries->num, sizeof(*entries->items), crl_entry_compare);
    for (size_t i = 0; i < entries->num; i++) {
        if (kept == 0 || crl_entry_compare(&entries->items[kept - 1], &entries->items[i]) != 0)
            entries->items[kept++] = entries->items[i];
    }
    entries->num = kept;
}

static void crl_entries_hash(const struct crl_entries *entries, uint8_t out[SHA256_DIGEST_LENGTH])
{
    SHA256_CTX sha;

    SHA256_Init(&sha);
    for (size_t i = 0; i < entries->num; i++)
        SHA256_Update(&sha, entries->items[i].serial, strlen(entries->items[i].serial) + 1);
    SHA256_Final(out, &sha);
}

/* ---- who is denied ---- */

static const Mortise__Control__Revocations *crls_denied(const struct crls *crls)
{
    return registry_revocations(crls->params.registry)->record;
}

/* Of an identity or a key, certificates have to be looked for. */
static bool crls_must_look(const struct crls *crls)
{
    const Mortise__Control__Revocations *denied = crls_denied(crls);

    for (size_t i = 0; i < denied->n_entries; i++) {
        const Mortise__V1__Revocation *revocation = denied->entries[i]->revocation;

        if (revocation->spiffe_id[0] != '\0' || revocation->key_sha256[0] != '\0')
            return true;
    }
    return false;
}

/* Since when a certificate is denied; 0: it is not. */
static int64_t crls_denied_since(const struct crls *crls, const char *spiffe_id,
                                 const char *key_sha256)
{
    const Mortise__Control__Revocations *denied = crls_denied(crls);

    for (size_t i = 0; i < denied->n_entries; i++) {
        const Mortise__V1__Revocation *revocation = denied->entries[i]->revocation;

        if ((spiffe_id[0] != '\0' && strcmp(revocation->spiffe_id, spiffe_id) == 0) ||
            (key_sha256[0] != '\0' && strcmp(revocation->key_sha256, key_sha256) == 0))
            return denied->entries[i]->revoked_at;
    }
    return 0;
}

static err_t crls_see_issuance(void *arg, const char *path, uint64_t version,
                               const ProtobufCMessage *msg)
{
    const Mortise__Control__Issuance *record =
        MSG_AS_CONST(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    struct crls *crls = arg;
    char key[CRLS_KEY_HEX] = "";
    int64_t since;

    (void)path;
    (void)version;
    if (record->not_after <= clock_wall_s(crls->params.clock))
        return OK;
    if (record->key_sha256.len == 32)
        bytes_to_hex(msg_view(record->key_sha256), key);
    since = crls_denied_since(crls, record->spiffe_id, key);
    if (since != 0)
        crl_entries_add(&crls->found, record->serial, since);
    return OK;
}

static void crls_stop_looking(struct crls *crls)
{
    crl_entries_fini(&crls->found);
    mem_free(crls->after);
    crls->after = NULL;
    crls->looking = false;
}

/* One page; *out_done: it was the last. */
static err_t crls_look(struct crls *crls, bool *out_done)
{
    *out_done = true;
    if (!crls->looking && !crls_must_look(crls)) {
        crls->dirty = false;
        crl_entries_fini(&crls->hit);
        return OK;
    }
    if (!crls->looking || crls->dirty) { /* from the first one, if it has changed meanwhile */
        crls_stop_looking(crls);
        crls->looking = true;
        crls->dirty = false;
    }
    TRY(vault_each_page(crls->params.vault, VAULT_CERTS, CRLS_PAGE, &crls->after, crls_see_issuance,
                        crls));
    if (crls->after != NULL) {
        *out_done = false;
        return OK;
    }
    crl_entries_fini(&crls->hit);
    crls->hit = crls->found;
    crls->found = (struct crl_entries){.num = 0};
    crls_stop_looking(crls);
    return OK;
}

/* ---- what a list has to say ---- */

static void crls_entries_of_issuer(const struct crls *crls, struct crl_entries *out)
{
    const Mortise__Control__Revocations *denied = crls_denied(crls);

    for (size_t i = 0; i < denied->n_entries; i++) {
        const char *serial = denied->entries[i]->revocation->serial;

        if (serial[0] != '\0')
            crl_entries_add(out, serial, denied->entries[i]->revoked_at);
    }
    for (size_t i = 0; i < crls->hit.num; i++)
        crl_entries_add(out, crls->hit.items[i].serial, crls->hit.items[i].revoked_at);
}

static void crls_entries_of_root(const struct crls *crls, const crl_record *record,
                                 struct crl_entries *out)
{
    const Mortise__Control__Revocations *denied = crls_denied(crls);
    int64_t now_s = clock_wall_s(crls->params.clock);

    for (size_t i = 0; i < record->n_children; i++) {
        const Mortise__Control__CrlChild *child = record->children[i];

        for (size_t j = 0; j < denied->n_entries && child->not_after > now_s; j++) {
            const Mortise__V1__Revocation *revocation = denied->entries[j]->revocation;

            if (strcmp(revocation->issuer_key_sha256, child->key_sha256) == 0 ||
                strcmp(revocation->serial, child->serial) == 0)
                crl_entries_add(out, child->serial, denied->entries[j]->revoked_at);
        }
    }
}

/* ---- making ---- */

static bool crls_has_child(const crl_record *record, const char *serial)
{
    for (size_t i = 0; i < record->n_children; i++) {
        if (strcmp(record->children[i]->serial, serial) == 0)
            return true;
    }
    return false;
}

static void crls_add_child(crl_record *record, const struct authority *issuer)
{
    Mortise__Control__CrlChild child = MORTISE__CONTROL__CRL_CHILD__INIT;
    CLEANUP(mem_freep) char *serial = NULL;
    char key[CRLS_KEY_HEX];

    if (!err_is_ok(cert_serial(issuer->issuer.cert, &serial)) || crls_has_child(record, serial))
        return;
    bytes_to_hex(bytes_of(issuer->key_sha256, sizeof(issuer->key_sha256)), key);
    child.serial = serial;
    child.key_sha256 = key;
    child.not_after = issuer->not_after;
    record->children = mem_realloc(record->children,
                                   (record->n_children + 1) * sizeof(Mortise__Control__CrlChild *));
    record->children[record->n_children++] = MSG_AS(
        Mortise__Control__CrlChild, mortise__control__crl_child__descriptor, pb_clone(&child.base));
}

/* The next record: what was there before, with the issuers below a root that have come since. */
static crl_record *crls_draft(const struct crl_list *list, const struct ca_authority *authority,
                              const struct ca_authority *all, size_t num)
{
    static const crl_record none = MORTISE__CONTROL__CRL_RECORD__INIT;
    crl_record *draft =
        MSG_AS(Mortise__Control__CrlRecord, mortise__control__crl_record__descriptor,
               pb_clone(list->record != NULL ? &list->record->base : &none.base));

    for (size_t i = 0; i < num; i++) {
        if (all[i].root == authority->it)
            crls_add_child(draft, all[i].it);
    }
    return draft;
}

/* Before half of its life is over, when who has it begins to warn. */
static int64_t crls_renew_at(const crl_record *record)
{
    return record->this_update + (record->next_update - record->this_update) * 2 / 5;
}

static bool crls_is_due(const struct crl_list *list, const crl_record *draft,
                        const uint8_t content[32], int64_t now_s)
{
    const crl_record *record = list->record;

    return record == NULL || record->n_children != draft->n_children ||
           !bytes_equal(msg_view(record->content_sha256), bytes_of(content, 32)) ||
           now_s < record->this_update || now_s >= crls_renew_at(record);
}

static void crls_set_text(char **field, const char *text)
{
    if (*field != NULL && (*field)[0] != '\0')
        mem_free(*field);
    *field = mem_strdup(text);
}

static void crls_set_bytes(ProtobufCBinaryData *field, struct bytes data)
{
    mem_free(field->data);
    field->data = mem_dup(data.ptr, data.len);
    field->len = data.len;
}

/* Fills the draft with a new list. */
static err_t crls_sign(const struct ca_authority *authority, const struct crl_entries *entries,
                       const uint8_t content[32], int64_t now_s, crl_record *draft)
{
    CLEANUP(buf_fini) struct buf der = {.data = NULL};
    CLEANUP(crl_unrefp) struct crl *crl = NULL;
    struct issue_crl what = {
        .entries = entries->items,
        .num = entries->num,
        .number = draft->number + 1 > (uint64_t)now_s ? draft->number + 1 : (uint64_t)now_s,
        .now_s = now_s,
        .ttl_s = CRLS_TTL_S,
    };

    TRY(issue_crl(&authority->it->issuer, &what, &der));
    TRY(crl_parse(buf_view(&der), &crl)); /* whoever takes it will do no less */
    draft->number = what.number;
    draft->this_update = crl->this_update;
    draft->next_update = crl->next_update;
    draft->entries = (uint32_t)crl->num;
    crls_set_text(&draft->issuer, crl->issuer);
    crls_set_bytes(&draft->der, buf_view(&der));
    crls_set_bytes(&draft->content_sha256, bytes_of(content, 32));
    return OK;
}

static err_t crls_put(struct crls *crls, struct crl_list *list, crl_record *draft)
{
    char path[VAULT_PATH_MAX];

    vault_path(VAULT_CRLS, list->key_sha256, path);
    return vault_put(crls->params.vault, path, &draft->base, list->version, &list->version);
}

/* Takes the list of one authority up to date. */
static err_t crls_update_one(struct crls *crls, struct crl_list *list,
                             const struct ca_authority *authority, const struct ca_authority *all,
                             size_t num)
{
    CLEANUP(crl_entries_fini) struct crl_entries entries = {.num = 0};
    crl_record *draft = crls_draft(list, authority, all, num);
    int64_t now_s = clock_wall_s(crls->params.clock);
    uint8_t content[32];
    err_t err;

    if (authority->root == NULL)
        crls_entries_of_root(crls, draft, &entries);
    else
        crls_entries_of_issuer(crls, &entries);
    crl_entries_sort(&entries);
    crl_entries_hash(&entries, content);
    if (!crls_is_due(list, draft, content, now_s)) {
        pb_free(&draft->base);
        return OK;
    }
    crls_set_text(&draft->issuer_key_sha256, list->key_sha256);
    err = crls_sign(authority, &entries, content, now_s, draft);
    if (err_is_ok(err))
        err = crls_put(crls, list, draft);
    if (!err_is_ok(err)) {
        pb_free(&draft->base);
        return err;
    }
    if (list->record != NULL)
        pb_free(&list->record->base);
    list->record = draft;
    log_info("crl", "published", LOG_STR("issuer", draft->issuer),
             LOG_STR("key_sha256", list->key_sha256), LOG_UINT("number", draft->number),
             LOG_UINT("entries", draft->entries), LOG_INT("next_update", draft->next_update));
    return OK;
}

/* ---- all of them ---- */

static struct crl_list *crls_list(struct crls *crls, const char *key_sha256)
{
    struct crl_list **at = &crls->lists;

    for (; *at != NULL; at = &(*at)->next) {
        if (strcmp((*at)->key_sha256, key_sha256) == 0)
            return *at;
    }
    *at = mem_zalloc(sizeof(**at));
    (void)snprintf((*at)->key_sha256, sizeof((*at)->key_sha256), "%s", key_sha256);
    (*at)->version = STORE_ABSENT;
    return *at;
}

static void crls_drop_list(struct crls *crls, struct crl_list *list)
{
    struct crl_list **at = &crls->lists;

    while (*at != list)
        at = &(*at)->next;
    *at = list->next;
    if (list->record != NULL)
        pb_free(&list->record->base);
    mem_free(list);
}

/* A list whose key is gone, and which is stale, is of no use to anybody. */
static err_t crls_drop_stale(struct crls *crls)
{
    int64_t now_s = clock_wall_s(crls->params.clock);
    struct crl_list *next;

    for (struct crl_list *list = crls->lists; list != NULL; list = next) {
        CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
        char path[VAULT_PATH_MAX];

        next = list->next;
        if (list->held || (list->record != NULL && now_s < list->record->next_update))
            continue;
        if (list->record != NULL) {
            vault_path(VAULT_CRLS, list->key_sha256, path);
            vault_batch_delete(&batch, path, STORE_ANY);
            TRY(vault_commit(crls->params.vault, &batch, NULL));
        }
        crls_drop_list(crls, list);
    }
    return OK;
}

/* An issuer that made way for another, below a root that is in force: sidecars have certificates of
 * it until they have renewed, and nobody would believe them without its last list. */
static bool crls_is_former(const struct crls *crls, const struct crl_list *former)
{
    if (former->held || former->record == NULL ||
        clock_wall_s(crls->params.clock) >= former->record->next_update)
        return false;
    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        for (size_t i = 0; list->held && list->record != NULL && i < list->record->n_children; i++)
            if (strcmp(list->record->children[i]->key_sha256, former->key_sha256) == 0)
                return true;
    }
    return false;
}

/* What sidecars are given, where the mesh has lists of its own. */
static void crls_give(struct crls *crls)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    CLEANUP(mem_freep) char *pem = NULL;
    size_t former = 0, skip;

    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next)
        former += crls_is_former(crls, list);
    skip = former > CRLS_FORMER_MAX ? former - CRLS_FORMER_MAX : 0;
    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        bool given = list->held && list->record != NULL;

        if (!given && crls_is_former(crls, list))
            given = skip == 0 || skip-- == 0;
        if (given)
            CHECK(err_is_ok(pem_write("X509 CRL", msg_view(list->record->der), &text)));
    }
    pem = buf_take_str(&text);
    registry_set_crls(crls->params.registry, pem);
}

/* When the first has to be renewed, or is of no use any more. */
static int64_t crls_due(const struct crls *crls)
{
    int64_t due = INT64_MAX;

    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        const crl_record *record = list->record;
        int64_t at = INT64_MAX;

        if (record != NULL)
            at = list->held ? crls_renew_at(record) : record->next_update;
        if (at < due)
            due = at;
    }
    return due;
}

static void crls_update(struct crls *crls)
{
    struct ca_authority all[CA_AUTHORITIES_MAX];
    size_t num = ca_authorities(crls->params.ca, all);
    err_t err = OK;

    for (struct crl_list *list = crls->lists; list != NULL; list = list->next)
        list->held = false;
    for (size_t i = 0; i < num; i++) {
        char key[CRLS_KEY_HEX];
        struct crl_list *list;

        bytes_to_hex(bytes_of(all[i].it->key_sha256, sizeof(all[i].it->key_sha256)), key);
        list = crls_list(crls, key);
        list->held = true;
        err_t one = crls_update_one(crls, list, &all[i], all, num);
        if (!err_is_ok(one))
            err = one;
    }
    if (err_is_ok(err))
        err = crls_drop_stale(crls);
    if (!err_is_ok(err)) /* what was published stays; the next tick tries again */
        log_limited(LOG_WARN, "crl", "not_published",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
    crls->again = !err_is_ok(err);
    crls->updated_s = clock_wall_s(crls->params.clock);
    crls->due_s = crls_due(crls);
    crls_give(crls); /* also without what is gone */
}

void crls_keys_changed(struct crls *crls)
{
    crls_update(crls);
}

void crls_tick(struct crls *crls)
{
    int64_t now_s = clock_wall_s(crls->params.clock);
    bool done = true;
    err_t err = OK;

    if (now_s >= crls->due_s)
        crls->dirty = true; /* also who has expired since is left out */
    if (!crls->dirty && !crls->looking && !crls->again && now_s >= crls->updated_s)
        return;
    if (crls->dirty || crls->looking)
        err = crls_look(crls, &done);
    if (!err_is_ok(err)) {
        crls_stop_looking(crls);
        crls->dirty = true;
        log_limited(LOG_WARN, "crl", "not_looked_for",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
    }
    crls_update(crls);
}

/* ---- life cycle ---- */

static err_t crls_load_one(void *arg, const char *path, uint64_t version,
                           const ProtobufCMessage *msg)
{
    const crl_record *record =
        MSG_AS_CONST(Mortise__Control__CrlRecord, mortise__control__crl_record__descriptor, msg);
    struct crls *crls = arg;
    struct crl_list *list;

    (void)path;
    if (strlen(record->issuer_key_sha256) != CRLS_KEY_HEX - 1)
        return FAIL(STORE_CORRUPT, 0);
    list = crls_list(crls, record->issuer_key_sha256);
    list->record = MSG_AS(Mortise__Control__CrlRecord, mortise__control__crl_record__descriptor,
                          pb_clone(msg));
    list->version = version;
    return OK;
}

static void crls_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct crls *crls = arg;
    uint64_t denied = registry_revocations(crls->params.registry)->version;

    (void)workload;
    /* Another mesh denies nobody: with one a minute no walk would come to its end. */
    if (event != REGISTRY_MESH || denied == crls->denied)
        return;
    crls->denied = denied;
    crls->dirty = true;
}

/* All at once: a list that had forgotten somebody for a moment would let him in again. */
static err_t crls_look_at_all(struct crls *crls)
{
    bool done = false;

    while (!done)
        TRY(crls_look(crls, &done));
    return OK;
}

err_t crls_open(const struct crls_params *params, struct crls **out)
{
    struct crls *crls = mem_zalloc(sizeof(*crls));
    err_t err;

    crls->params = *params;
    crls->denied = registry_revocations(params->registry)->version;
    err = vault_each(params->vault, VAULT_CRLS, crls_load_one, crls);
    if (err_is_ok(err))
        err = crls_look_at_all(crls);
    if (!err_is_ok(err)) {
        crls_free(crls);
        return err;
    }
    crls->observer = (struct registry_observer){.fn = crls_on_event, .arg = crls};
    registry_observe(params->registry, &crls->observer);
    crls_keys_changed(crls);
    *out = crls;
    return OK;
}

void crls_free(struct crls *crls)
{
    if (crls == NULL)
        return;
    if (crls->observer.fn != NULL)
        registry_unobserve(crls->params.registry, &crls->observer);
    while (crls->lists != NULL)
        crls_drop_list(crls, crls->lists);
    crls_stop_looking(crls);
    crl_entries_fini(&crls->hit);
    mem_free(crls);
}

void crls_each(const struct crls *crls, void (*fn)(void *arg, const crl_record *record), void *arg)
{
    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        if (list->record != NULL)
            fn(arg, list->record);
    }
}

const crl_record *crls_find(const struct crls *crls, const char *key_sha256)
{
    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        if (strcmp(list->key_sha256, key_sha256) == 0)
            return list->record;
    }
    return NULL;
}

int64_t crls_next_update(const struct crls *crls)
{
    int64_t earliest = 0;

    for (const struct crl_list *list = crls->lists; list != NULL; list = list->next) {
        if (list->held && list->record != NULL &&
            (earliest == 0 || list->record->next_update < earliest))
            earliest = list->record->next_update;
    }
    return earliest;
}
