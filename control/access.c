#include "control/access.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs/jwt.h"
#include "certs/spiffe_id.h"
#include "control/msg.h"
#include "control/subject.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

typedef Mortise__Control__Access access_msg;
typedef Mortise__Control__AccessRole access_role_msg;
typedef Mortise__Control__AccessBinding access_binding_msg;

struct access {
    struct vault *vault;
    access_msg *record; /* owned, never NULL once open */
    uint64_t version;
    uint64_t stamp;
    struct map stamps; /* by subject, of its last change; none: before the start */
    void (*on_change)(void *arg);
    void *arg;
};

static bool access_is_same(const access_binding_msg *a, const access_binding_msg *b)
{
    return a->at == b->at && strcmp(a->role, b->role) == 0 && strcmp(a->by, b->by) == 0;
}

/* Stamps what is new or other in the record than in the one before. */
static void access_stamp_changes(struct access *access, const access_msg *before)
{
    struct map by_subject = {.num = 0};

    access->stamp++;
    for (size_t i = 0; i < before->n_bindings; i++)
        (void)map_put(&by_subject, before->bindings[i]->subject, before->bindings[i]);
    for (size_t i = 0; i < access->record->n_bindings; i++) {
        const access_binding_msg *now = access->record->bindings[i];
        const access_binding_msg *was = map_get(&by_subject, now->subject);

        if (was == NULL || !access_is_same(was, now))
            (void)map_put(&access->stamps, now->subject, (void *)(uintptr_t)access->stamp);
    }
    map_fini(&by_subject);
}

uint64_t access_stamp(const struct access *access)
{
    return access->stamp;
}

bool access_is_newer(const struct access *access, const char *subject, uint64_t stamp)
{
    return (uintptr_t)map_get(&access->stamps, subject) > stamp;
}

err_t access_reload(struct access *access)
{
    access_msg empty = MORTISE__CONTROL__ACCESS__INIT;
    ProtobufCMessage *msg = NULL;
    access_msg *before = access->record;
    uint64_t version = STORE_ABSENT;
    err_t err = vault_get(access->vault, VAULT_ACCESS, &msg, &version);

    if (err_is(err, E_NOT_FOUND)) {
        msg = pb_clone(&empty.base);
        version = STORE_ABSENT;
        err = OK;
    }
    TRY(err);
    access->record = MSG_AS(access_msg, mortise__control__access__descriptor, msg);
    access->version = version;
    if (before != NULL) {
        access_stamp_changes(access, before);
        pb_free(&before->base);
    }
    if (access->on_change != NULL)
        access->on_change(access->arg);
    return OK;
}

err_t access_open(struct vault *vault, struct access **out)
{
    struct access *access = mem_zalloc(sizeof(*access));
    err_t err;

    access->vault = vault;
    err = access_reload(access);
    if (!err_is_ok(err)) {
        access_free(access);
        return err;
    }
    *out = access;
    return OK;
}

err_t access_create(struct vault *vault, struct vault_batch *batch, const char *subject,
                    const char *role, const struct access_author *author)
{
    access_binding_msg binding = MORTISE__CONTROL__ACCESS_BINDING__INIT;
    access_binding_msg *bindings = &binding;
    access_msg record = MORTISE__CONTROL__ACCESS__INIT;

    binding.subject = msg_lend(subject);
    binding.role = msg_lend(role);
    binding.by = msg_lend(author->name);
    binding.at = author->now_s;
    record.bindings = &bindings;
    record.n_bindings = 1;
    return vault_batch_put(vault, batch, VAULT_ACCESS, &record.base, STORE_ABSENT);
}

void access_free(struct access *access)
{
    if (access == NULL)
        return;
    if (access->record != NULL)
        pb_free(&access->record->base);
    map_fini(&access->stamps);
    mem_free(access);
}

void access_on_change(struct access *access, void (*fn)(void *arg), void *arg)
{
    access->on_change = fn;
    access->arg = arg;
}

const Mortise__Control__Access *access_record(const struct access *access)
{
    return access->record;
}

/* ------------------------------------------------------------------- looking */

/* What stands behind the prefix: an issuer, which has no '#' in it, and who it speaks of. */
static bool access_token_valid(const char *text, bool group)
{
    const char *hash = strchr(text, '#');
    CLEANUP(mem_freep) char *issuer = NULL;

    if (hash == NULL || hash == text || (size_t)(hash - text) > SUBJECT_ISSUER_MAX)
        return false;
    issuer = mem_strndup(text, (size_t)(hash - text));
    return strncmp(issuer, "https://", 8) == 0 && jwt_name_valid(issuer, false) &&
           jwt_name_valid(hash + 1, group);
}

bool access_subject_valid(const char *subject)
{
    static const char uid[] = "uid:";
    size_t prefix = sizeof(uid) - 1;
    size_t len = strlen(subject);

    if (strncmp(subject, SUBJECT_TOKEN, sizeof(SUBJECT_TOKEN) - 1) == 0)
        return access_token_valid(subject + sizeof(SUBJECT_TOKEN) - 1, false);
    if (strncmp(subject, SUBJECT_GROUP, sizeof(SUBJECT_GROUP) - 1) == 0)
        return access_token_valid(subject + sizeof(SUBJECT_GROUP) - 1, true);
    if (strncmp(subject, uid, prefix) == 0)
        return len > prefix && len <= prefix + 10 &&
               strspn(subject + prefix, "0123456789") == len - prefix &&
               (subject[prefix] != '0' || len == prefix + 1) &&
               strtoul(subject + prefix, NULL, 10) <= ACCESS_UID_MAX;
    return len <= ACCESS_ADMIN_NAME_MAX && spiffe_segment_valid(bytes_of_str(subject));
}

bool access_role_name_valid(const char *name)
{
    return strlen(name) <= ROLE_NAME_MAX && spiffe_segment_valid(bytes_of_str(name));
}

/* Its place in the record; the number of them when there is none. */
static size_t access_at_role(const struct access *access, const char *name)
{
    size_t i = 0;

    while (i < access->record->n_roles && strcmp(access->record->roles[i]->name, name) != 0)
        i++;
    return i;
}

static size_t access_at_binding(const struct access *access, const char *subject)
{
    size_t i = 0;

    while (i < access->record->n_bindings &&
           strcmp(access->record->bindings[i]->subject, subject) != 0)
        i++;
    return i;
}

bool access_find_role(const struct access *access, const char *name, struct role *out)
{
    size_t at = access_at_role(access, name);
    const access_role_msg *role;

    if (role_built_in(name, out))
        return true;
    if (at == access->record->n_roles || !access_role_name_valid(name))
        return false;
    role = access->record->roles[at];
    *out = (struct role){.permissions = 0};
    (void)snprintf(out->name, sizeof(out->name), "%s", name);
    for (size_t i = 0; i < role->n_permissions; i++) {
        permission_t permission = permission_find(role->permissions[i]);

        if (permission != PERMISSION(NONE))
            out->permissions |= permission_bit(permission);
    }
    return true;
}

bool access_role_of(const struct access *access, const char *subject, struct role *out)
{
    size_t at = access_at_binding(access, subject);

    return at < access->record->n_bindings &&
           access_find_role(access, access->record->bindings[at]->role, out);
}

bool access_bound_since(const struct access *access, const char *subject, int64_t at_s)
{
    size_t at = access_at_binding(access, subject);

    return at < access->record->n_bindings && access->record->bindings[at]->at > at_s;
}

/* ------------------------------------------------------------------- changing */

/* Puts `next`, a record whose parts are borrowed, into the batch; without one it is committed, and
 * in force. */
static err_t access_put(struct access *access, const access_msg *next, struct vault_batch *batch)
{
    if (batch != NULL)
        return vault_batch_put(access->vault, batch, VAULT_ACCESS, &next->base, access->version);
    TRY(vault_put(access->vault, VAULT_ACCESS, &next->base, access->version, NULL));
    return access_reload(access);
}

static err_t access_put_bindings(struct access *access, access_binding_msg **bindings, size_t num,
                                 struct vault_batch *batch)
{
    access_msg next = *access->record;

    next.bindings = bindings;
    next.n_bindings = num;
    return access_put(access, &next, batch);
}

const char *access_author_subject(const char *author)
{
    static const char prefix[] = "spiffe://";
    const char *slash = strrchr(author, '/');

    return strncmp(author, prefix, sizeof(prefix) - 1) == 0 && slash != NULL ? slash + 1 : author;
}

/* Who vouches for the name from now on; `before` is NULL where it had no role. */
static const char *access_by(const access_binding_msg *before, const char *subject,
                             const char *author)
{
    bool own = strcmp(access_author_subject(author), subject) == 0;

    return own && before != NULL ? before->by : author;
}

err_t access_bind(struct access *access, const char *subject, const char *role,
                  const struct access_author *author, struct vault_batch *batch)
{
    const access_msg *record = access->record;
    size_t at = access_at_binding(access, subject);
    const access_binding_msg *before = at < record->n_bindings ? record->bindings[at] : NULL;
    const char *by = access_by(before, subject, author != NULL ? author->name : "");
    access_binding_msg **bindings;
    access_binding_msg binding = MORTISE__CONTROL__ACCESS_BINDING__INIT;
    struct role known;
    size_t num = 0;
    err_t err;

    if (role == NULL && at == record->n_bindings)
        return FAIL(NOT_FOUND, 0);
    if (role != NULL && !access_find_role(access, role, &known))
        return FAIL(NOT_FOUND, 1);
    if (role != NULL && before != NULL && strcmp(before->role, role) == 0 &&
        strcmp(before->by, by) == 0)
        return OK;
    if (at == record->n_bindings && record->n_bindings >= ACCESS_BINDINGS_MAX)
        return FAIL(LIMIT, ACCESS_BINDINGS_MAX);
    bindings = mem_array(record->n_bindings + 1, sizeof(*bindings));
    for (size_t i = 0; i < record->n_bindings; i++) {
        if (i != at)
            bindings[num++] = record->bindings[i];
    }
    if (role != NULL) {
        binding.subject = msg_lend(subject);
        binding.role = msg_lend(role);
        binding.by = msg_lend(by);
        binding.at = author->now_s;
        bindings[num++] = &binding;
    }
    err = access_put_bindings(access, bindings, num, batch);
    mem_free(bindings);
    return err;
}

/* The roles without that at `at`, and with `role`, unless it is NULL, at the end. */
static err_t access_put_roles(struct access *access, size_t at, access_role_msg *role)
{
    const access_msg *record = access->record;
    access_role_msg **roles = mem_array(record->n_roles + 1, sizeof(*roles));
    access_msg next = *record;
    size_t num = 0;
    err_t err;

    for (size_t i = 0; i < record->n_roles; i++) {
        if (i != at)
            roles[num++] = record->roles[i];
    }
    if (role != NULL)
        roles[num++] = role;
    next.roles = roles;
    next.n_roles = num;
    err = access_put(access, &next, NULL);
    mem_free(roles);
    return err;
}

err_t access_set_role(struct access *access, const char *name, char **permissions, size_t num,
                      const struct access_author *author)
{
    access_role_msg role = MORTISE__CONTROL__ACCESS_ROLE__INIT;
    size_t at = access_at_role(access, name);
    struct role built_in;

    if (role_built_in(name, &built_in))
        return FAIL(EXISTS, 0);
    if (at == access->record->n_roles && access->record->n_roles >= ACCESS_ROLES_MAX)
        return FAIL(LIMIT, ACCESS_ROLES_MAX);
    role.name = msg_lend(name);
    role.permissions = permissions;
    role.n_permissions = num;
    role.by = msg_lend(author->name);
    role.at = author->now_s;
    return access_put_roles(access, at, &role);
}

err_t access_delete_role(struct access *access, const char *name)
{
    size_t at = access_at_role(access, name);
    struct role built_in;

    if (role_built_in(name, &built_in))
        return FAIL(EXISTS, 0);
    if (at == access->record->n_roles)
        return FAIL(NOT_FOUND, 0);
    for (size_t i = 0; i < access->record->n_bindings; i++) {
        if (strcmp(access->record->bindings[i]->role, name) == 0)
            return FAIL(EXISTS, 1);
    }
    return access_put_roles(access, at, NULL);
}
