#include "control/lineage.h"

#include <stdio.h>
#include <string.h>

#include "control/audit.h"

#define LINEAGE_HOST "root of the control plane's host"

/* A name, who vouches for it, who vouches for that one, and so on. */
struct lineage {
    const char *names[LINEAGE_MAX];
    size_t num;
    bool whole; /* it ends where names begin */
    bool host;  /* and that is a user of the host */
};

static bool lineage_is_host(const char *subject, uid_t uid)
{
    char own[32];

    (void)snprintf(own, sizeof(own), "uid:%lu", (unsigned long)uid);
    return strcmp(subject, "uid:0") == 0 || strcmp(subject, own) == 0;
}

static bool lineage_has(const struct lineage *line, const char *name)
{
    for (size_t i = 0; i < line->num; i++) {
        if (strcmp(line->names[i], name) == 0)
            return true;
    }
    return false;
}

/* NULL: it has no role. */
static const char *lineage_by(const Mortise__Control__Access *record, const char *subject)
{
    for (size_t i = 0; i < record->n_bindings; i++) {
        if (strcmp(record->bindings[i]->subject, subject) == 0)
            return record->bindings[i]->by;
    }
    return NULL;
}

static void lineage_trace(const struct access *access, uid_t uid, const char *subject,
                          struct lineage *out)
{
    const char *name = subject, *by;

    *out = (struct lineage){.num = 0};
    while (out->num < LINEAGE_MAX && !lineage_has(out, name)) {
        if (lineage_is_host(name, uid)) {
            out->whole = out->host = true;
            return;
        }
        out->names[out->num++] = name;
        by = lineage_by(access_record(access), name);
        if (by == NULL)
            return;
        if (strcmp(by, AUDIT_OURSELVES) == 0) { /* no name of a certificate, which has its URI */
            out->whole = true;
            return;
        }
        name = access_author_subject(by);
    }
}

/* Through whose hands both have been; NULL: nobody's. */
static const char *lineage_common(const struct lineage *a, const struct lineage *b)
{
    if ((a->num == 0 && b->host) || (b->num == 0 && a->host))
        return LINEAGE_HOST;
    for (size_t i = 0; i < a->num; i++) {
        if (lineage_has(b, a->names[i]))
            return a->names[i];
    }
    return NULL;
}

bool lineage_apart(const struct access *access, uid_t uid, const char *asker, const char *approver,
                   uint64_t stamp, char out_reason[LINEAGE_REASON_MAX])
{
    static const char wanted[] =
        "what is wanted is an administrator with a role from elsewhere: root gives one at the "
        "operator socket, before the request (docs/access.md)";
    struct lineage asks, approves;
    const char *common;

    lineage_trace(access, uid, asker, &asks);
    lineage_trace(access, uid, approver, &approves);
    common = lineage_common(&asks, &approves);
    if (common != NULL)
        (void)snprintf(out_reason, LINEAGE_REASON_MAX,
                       "%.80s and %.80s may be one person: %.80s has given one of them, or both, "
                       "role, certificate or invitation (mortisectl admin list); %s",
                       asker, approver, common, wanted);
    else if (!asks.whole || !approves.whole)
        (void)snprintf(out_reason, LINEAGE_REASON_MAX,
                       "who gave %.80s its role cannot be traced to the operator socket "
                       "(mortisectl admin list); %s",
                       asks.whole ? approver : asker, wanted);
    else if (access_is_newer(access, approver, stamp))
        (void)snprintf(out_reason, LINEAGE_REASON_MAX,
                       "the role of %.80s is newer than the request; ask again, and %s", approver,
                       wanted);
    else
        return true;
    return false;
}
