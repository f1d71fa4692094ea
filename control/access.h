/* access is who has which role: a binding a subject, durable. Subjects are administrators by the
 * name in their certificate ("alice"), users at the operator socket by number ("uid:1000"), and
 * whom an OIDC issuer vouches for by its name and theirs ("oidc:https://id.example#4711"), or by a
 * group that they are in ("oidc-group:https://id.example#ops"). Who has no binding may do nothing;
 * root and our own user are admin at the socket without one (caller.h), so that nobody locks
 * himself out. Roles are built in (roles.h) or made here. Source: features D5, reliability R46,
 * R48. */
#ifndef MORTISE_CONTROL_ACCESS_H
#define MORTISE_CONTROL_ACCESS_H

#include "control/roles.h"
#include "control/vault.h"

#define ACCESS_ADMIN_NAME_MAX 64
#define ACCESS_UID_MAX 4294967294u /* the last number stands for nobody */
#define ACCESS_BINDINGS_MAX 1000
#define ACCESS_ROLES_MAX 64

struct access;

/* Who changes it, and when. */
struct access_author {
    const char *name;
    int64_t now_s;
};

/* access_create adds a first binding to the batch that makes a store. */
MUST_CHECK err_t access_create(struct vault *vault, struct vault_batch *batch, const char *subject,
                               const char *role, const struct access_author *author);
/* access_open loads it. Errors: STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t access_open(struct vault *vault, struct access **out);
void access_free(struct access *access);
/* access_on_change has `fn` told when somebody may have more or less than before. */
void access_on_change(struct access *access, void (*fn)(void *arg), void *arg);

/* access_subject_valid: an administrator's name, "uid:" and a number, "oidc:ISSUER#SUBJECT" or
 * "oidc-group:ISSUER#NAME". */
bool access_subject_valid(const char *subject);
/* access_role_name_valid: what a role of one's own may be called. */
bool access_role_name_valid(const char *name);

/* access_find_role: built in or not; false: there is none of that name. access_role_of: the role
 * that is bound to a subject; false: none. A permission that this program does not know is left
 * out. */
bool access_find_role(const struct access *access, const char *name, struct role *out);
bool access_role_of(const struct access *access, const char *subject, struct role *out);
/* All of it, to be shown. */
const Mortise__Control__Access *access_record(const struct access *access);

/* access_author_subject is what a binding calls its author: of an administrator's certificate the
 * name. Borrows from `author`. */
const char *access_author_subject(const char *author);

/* access_stamp counts the changes of bindings since the start; access_is_newer tells whether that
 * of `subject` was made or changed after it had that number. */
uint64_t access_stamp(const struct access *access);
bool access_is_newer(const struct access *access, const char *subject, uint64_t stamp);

/* access_bound_since: its binding was made or changed later than at that second. */
bool access_bound_since(const struct access *access, const char *subject, int64_t at_s);

/* access_bind gives `subject` (valid) the role, NULL: none any more. With a `batch` the change is
 * only added there, and access_reload, once that is committed, brings it into force; the same again
 * by the same author adds nothing. By another it does: a binding tells who vouches for the name now
 * (lineage.h); who changes his own leaves that as it was. Errors: NOT_FOUND (no such role; nothing
 * to take away), LIMIT, STORE_*. */
MUST_CHECK err_t access_bind(struct access *access, const char *subject, const char *role,
                             const struct access_author *author, struct vault_batch *batch);
/* access_set_role makes a role, or gives it other permissions (names, each known). Errors: EXISTS
 * (it is built in), LIMIT, STORE_*. access_delete_role: NOT_FOUND, EXISTS (built in, or somebody
 * has it). */
MUST_CHECK err_t access_set_role(struct access *access, const char *name, char **permissions,
                                 size_t num, const struct access_author *author);
MUST_CHECK err_t access_delete_role(struct access *access, const char *name);
MUST_CHECK err_t access_reload(struct access *access);

#endif
