#include "certs/revoke.h"

#include <string.h>

#include "certs/spiffe_id.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"

enum revoke_kind { REVOKE_SPIFFE_ID, REVOKE_SERIAL, REVOKE_ISSUER, REVOKE_KEY, REVOKE_NUM_KINDS };

struct revoke_set {
    struct map by_value[REVOKE_NUM_KINDS]; /* to a member of grace_ms */
    uint32_t *grace_ms;
    size_t num;
};

static const char *const revoke_fields[REVOKE_NUM_KINDS] = {
    [REVOKE_SPIFFE_ID] = "spiffe_id",
    [REVOKE_SERIAL] = "serial",
    [REVOKE_ISSUER] = "issuer_key_sha256",
    [REVOKE_KEY] = "key_sha256",
};

static const char *revoke_value(const Mortise__V1__Revocation *entry, enum revoke_kind kind)
{
    switch (kind) {
    case REVOKE_SPIFFE_ID:
        return entry->spiffe_id;
    case REVOKE_SERIAL:
        return entry->serial;
    case REVOKE_ISSUER:
        return entry->issuer_key_sha256;
    case REVOKE_KEY:
    case REVOKE_NUM_KINDS:
        break;
    }
    return entry->key_sha256;
}

/* The first of the four that is set; `*out_num` is how many are. */
static enum revoke_kind revoke_kind_of(const Mortise__V1__Revocation *entry, size_t *out_num)
{
    enum revoke_kind found = REVOKE_KEY;

    *out_num = 0;
    for (size_t i = REVOKE_NUM_KINDS; i-- > 0;) {
        const char *value = revoke_value(entry, (enum revoke_kind)i);

        if (value == NULL || value[0] == '\0')
            continue;
        found = (enum revoke_kind)i;
        (*out_num)++;
    }
    return found;
}

static bool revoke_is_hex(const char *text, size_t min, size_t max)
{
    size_t len = strlen(text);

    return len >= min && len <= max && len % 2 == 0 && strspn(text, "0123456789abcdef") == len;
}

static void revoke_check_value(enum revoke_kind kind, const char *value, const char *path,
                               struct faults *faults)
{
    struct spiffe_id id;

    if (kind == REVOKE_SPIFFE_ID) {
        if (!err_is_ok(spiffe_id_parse(bytes_of_str(value), &id)) || id.path.len == 0)
            faults_add(faults, path,
                       "\"%s\" is not a SPIFFE ID: wanted is spiffe://TRUST-DOMAIN/PATH", value);
    } else if (kind == REVOKE_SERIAL) {
        if (!revoke_is_hex(value, 2, 2 * (size_t)REVOKE_SERIAL_BYTES) ||
            (strlen(value) > 2 && strncmp(value, "00", 2) == 0))
            faults_add(faults, path,
                       "\"%s\" is not a serial number: wanted are up to 40 lower-case hex digits, "
                       "in pairs and without leading zeros, as `mortisectl get certificates` shows "
                       "them",
                       value);
    } else if (!revoke_is_hex(value, 64, 64)) {
        faults_add(faults, path,
                   "\"%s\" is not the SHA-256 of a SubjectPublicKeyInfo: wanted are 64 lower-case "
                   "hex digits",
                   value);
    }
}

err_t revoke_check(const Mortise__V1__Revocation *entry, struct fault_path *path,
                   struct faults *faults)
{
    size_t num, before = faults->total, mark;
    enum revoke_kind kind = revoke_kind_of(entry, &num);

    if (num != 1) {
        faults_add(faults, path->text,
                   "has %zu of spiffe_id, serial, issuer_key_sha256 and key_sha256; just one is "
                   "wanted",
                   num);
        return FAIL(CONFIG_INVALID, 1);
    }
    mark = fault_path_field(path, revoke_fields[kind]);
    revoke_check_value(kind, revoke_value(entry, kind), path->text, faults);
    fault_path_pop(path, mark);
    if (entry->grace_ms > REVOKE_GRACE_MAX_MS) {
        mark = fault_path_field(path, "grace_ms");
        faults_add(faults, path->text, "is %u; at most %d (a day)", entry->grace_ms,
                   REVOKE_GRACE_MAX_MS);
        fault_path_pop(path, mark);
    }
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, (int)(faults->total - before));
}

struct revoke_subject revoke_subject(const Mortise__V1__Revocation *entry)
{
    size_t num;
    enum revoke_kind kind = revoke_kind_of(entry, &num);

    return (struct revoke_subject){revoke_fields[kind], revoke_value(entry, kind)};
}

static void revoke_add(struct revoke_set *set, const Mortise__V1__Revocation *entry)
{
    size_t num;
    enum revoke_kind kind = revoke_kind_of(entry, &num);
    const char *value = revoke_value(entry, kind);
    uint32_t *known = map_get(&set->by_value[kind], value);

    if (known != NULL) {
        if (entry->grace_ms < *known)
            *known = entry->grace_ms;
        return;
    }
    set->grace_ms[set->num] = entry->grace_ms;
    (void)map_put(&set->by_value[kind], value, &set->grace_ms[set->num]);
    set->num++;
}

err_t revoke_set_new(Mortise__V1__Revocation *const *entries, size_t num, struct faults *faults,
                     struct revoke_set **out)
{
    struct fault_path path = {.len = 0};
    size_t before = faults->total;
    struct revoke_set *set;
    bool valid = true;

    (void)fault_path_field(&path, "revocations");
    if (num > REVOKE_MAX) {
        faults_add(faults, path.text, "has %zu members; at most %d", num, REVOKE_MAX);
        return FAIL(CONFIG_INVALID, 1);
    }
    for (size_t i = 0; i < num; i++) {
        size_t mark = fault_path_index(&path, i);

        if (!err_is_ok(revoke_check(entries[i], &path, faults)))
            valid = false;
        fault_path_pop(&path, mark);
    }
    if (!valid)
        return FAIL(CONFIG_INVALID, (int)(faults->total - before));
    set = mem_zalloc(sizeof(*set));
    set->grace_ms = mem_array(num, sizeof(*set->grace_ms));
    for (size_t i = 0; i < num; i++)
        revoke_add(set, entries[i]);
    *out = set;
    return OK;
}

void revoke_set_free(struct revoke_set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < REVOKE_NUM_KINDS; i++)
        map_fini(&set->by_value[i]);
    mem_free(set->grace_ms);
    mem_free(set);
}

size_t revoke_set_num(const struct revoke_set *set)
{
    return set->num;
}

static bool revoke_look(const struct revoke_set *set, enum revoke_kind kind, const char *value,
                        uint32_t *grace_ms)
{
    const uint32_t *found = value[0] != '\0' ? map_get(&set->by_value[kind], value) : NULL;

    if (found != NULL && *found < *grace_ms)
        *grace_ms = *found;
    return found != NULL;
}

bool revoke_find(const struct revoke_set *set, const struct peer *peer, uint32_t *out_grace_ms)
{
    char hex[2 * 32 + 1];
    bool found = false;

    *out_grace_ms = UINT32_MAX;
    if (set->num == 0)
        return false;
    found |= revoke_look(set, REVOKE_SPIFFE_ID, peer->spiffe_id, out_grace_ms);
    found |= revoke_look(set, REVOKE_SERIAL, peer->serial, out_grace_ms);
    bytes_to_hex(bytes_of(peer->key_sha256, sizeof(peer->key_sha256)), hex);
    found |= revoke_look(set, REVOKE_KEY, hex, out_grace_ms);
    for (size_t i = 0; i < peer->num_issuers; i++) {
        bytes_to_hex(bytes_of(peer->issuers[i].key_sha256, 32), hex);
        found |= revoke_look(set, REVOKE_ISSUER, hex, out_grace_ms);
    }
    return found;
}
