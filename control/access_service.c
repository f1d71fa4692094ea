#include "control/access_service.h"

#include <string.h>

#include "control/audit_call.h"
#include "control/lineage.h"
#include "control/msg.h"
#include "control/reply.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "proto/mesh/access.pb-c.h"

#define ACCESS_MESSAGE_MAX 16384
/* Whoever has a token needs one attempt. */
#define ACCESS_SOURCE_BURST 10
#define ACCESS_SOURCE_PER_MINUTE 10
#define ACCESS_ALL_BURST 100
#define ACCESS_ALL_PER_MINUTE 300
#define ACCESS_KEYS_MAX 4096

#define ACCESS_CALL(name) \
    static void access_on_##name(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)

void access_log(const struct access_service *service, const struct grpc_call *call,
                const char *event, const char *what)
{
    char caller[CALLER_NAME_MAX];

    caller_name(grpc_call_peer(call), caller);
    log_info("access", event, LOG_STR("caller", caller), LOG_STR("what", what));
    events_add(service->events, &(struct event){.kind = event, .id = caller, .detail = what},
               clock_wall_us() / 1000);
}

void access_will(const struct access_service *service, const struct grpc_call *call,
                 enum audit_action action, const char *path, const char *what)
{
    audit_call_expect(service->audit, call, path,
                      &(struct audit_entry){.action = action, .object = what});
}

/* The names of a set, each owned. */
struct access_names {
    char text[PERMISSIONS_MAX][PERMISSION_NAME_MAX];
    char *list[PERMISSIONS_MAX];
    size_t num;
};

static void access_names(uint64_t permissions, struct access_names *out)
{
    out->num = 0;
    for (unsigned i = 0; i < PERMISSIONS_MAX; i++) {
        if ((permissions >> i & 1) == 0)
            continue;
        permission_name((permission_t)i, out->text[out->num]);
        out->list[out->num] = out->text[out->num];
        out->num++;
    }
}

/* ------------------------------------------------------------------- looking */

/* Borrows from `elevation`. */
static void access_fill_elevation(const struct access_service *service,
                                  const struct elevation *elevation, Mortise__V1__Elevation *out)
{
    mortise__v1__elevation__init(out);
    out->id = elevation->id;
    out->subject = msg_lend(elevation->subject);
    out->reason = msg_lend(elevation->reason);
    out->for_s = elevation->for_s;
    out->pending = elevation->pending;
    out->left_s = elevation_left_s(service->elevations, elevation);
    out->approved_by = msg_lend(elevation->approved_by);
}

ACCESS_CALL(who_am_i)
{
    const struct access_service *service = arg;
    const struct grpc_peer *peer = grpc_call_peer(call);
    Mortise__V1__WhoAmIResponse reply = MORTISE__V1__WHO_AM_IRESPONSE__INIT;
    char name[CALLER_NAME_MAX], subject[CALLER_SUBJECT_MAX], reason[CALLER_REASON_MAX];
    Mortise__V1__Elevation elevation;
    const struct elevation *own;
    struct access_names names;
    struct role role = {.permissions = 0};
    enum grpc_status status = caller_role(service->rules, peer, &role, reason);

    (void)msg;
    if (status != GRPC_OK) { /* authorize has let him in: it was taken from him just now */
        reply_text(call, status, "%s", reason);
        return;
    }
    caller_name(peer, name);
    caller_subject(service->rules, peer, subject);
    access_names(role.permissions, &names);
    reply.name = name;
    reply.subject = subject;
    reply.role = role.name;
    reply.permissions = names.list;
    reply.n_permissions = names.num;
    own = elevations_of(service->elevations, subject);
    if (own != NULL) {
        access_fill_elevation(service, own, &elevation);
        reply.elevation = &elevation;
    }
    grpc_call_reply(call, &reply.base);
}

/* Built-in roles, then those of the record. */
static void access_fill_roles(const Mortise__Control__Access *record, Mortise__V1__Role *roles,
                              struct access_names *names)
{
    for (size_t i = 0; i < ROLES_BUILT_IN; i++) {
        struct role role;
        bool known = role_built_in(role_names[i], &role);

        CHECK(known);
        access_names(role.permissions, &names[i]);
        roles[i].name = msg_lend(role_names[i]);
        roles[i].built_in = true;
        roles[i].permissions = names[i].list;
        roles[i].n_permissions = names[i].num;
    }
    for (size_t i = 0; i < record->n_roles; i++) {
        Mortise__V1__Role *role = &roles[ROLES_BUILT_IN + i];

        role->name = record->roles[i]->name;
        role->permissions = record->roles[i]->permissions;
        role->n_permissions = record->roles[i]->n_permissions;
        role->by = record->roles[i]->by;
        role->at = record->roles[i]->at;
    }
}

ACCESS_CALL(list_access)
{
    const struct access_service *service = arg;
    const Mortise__Control__Access *record = access_record(service->access);
    Mortise__V1__ListAccessResponse reply = MORTISE__V1__LIST_ACCESS_RESPONSE__INIT;
    size_t num_roles = ROLES_BUILT_IN + record->n_roles;
    struct access_names names[ROLES_BUILT_IN];
    Mortise__V1__Role *roles = mem_array(num_roles, sizeof(*roles));
    Mortise__V1__Role **role_list = mem_array(num_roles, sizeof(*role_list));
    Mortise__V1__Binding *bindings = mem_array(record->n_bindings + 1, sizeof(*bindings));
    Mortise__V1__Binding **binding_list = mem_array(record->n_bindings + 1, sizeof(*binding_list));

    (void)msg;
    for (size_t i = 0; i < num_roles; i++) {
        mortise__v1__role__init(&roles[i]);
        role_list[i] = &roles[i];
    }
    access_fill_roles(record, roles, names);
    for (size_t i = 0; i < record->n_bindings; i++) {
        mortise__v1__binding__init(&bindings[i]);
        bindings[i].subject = record->bindings[i]->subject;
        bindings[i].role = record->bindings[i]->role;
        bindings[i].by = record->bindings[i]->by;
        bindings[i].at = record->bindings[i]->at;
        binding_list[i] = &bindings[i];
    }
    reply.roles = role_list;
    reply.n_roles = num_roles;
    reply.bindings = binding_list;
    reply.n_bindings = record->n_bindings;
    grpc_call_reply(call, &reply.base);
    mem_free(roles);
    mem_free(role_list);
    mem_free(bindings);
    mem_free(binding_list);
}

/* ------------------------------------------------------------------ changing */

struct access_author access_author(const struct access_service *service,
                                   const struct grpc_call *call, char name[CALLER_NAME_MAX])
{
    caller_name(grpc_call_peer(call), name);
    return (struct access_author){name, clock_wall_s(service->clock)};
}

/* False: the call was refused. */
static bool access_may_grant(const struct access_service *service, struct grpc_call *call,
                             const struct role *role)
{
    char reason[CALLER_REASON_MAX];

    if (caller_may_grant(service->rules, grpc_call_peer(call), role, reason))
        return true;
    reply_text(call, GRPC_PERMISSION_DENIED, "%s", reason);
    return false;
}

static bool access_takes_subject(struct grpc_call *call, const char *subject)
{
    if (access_subject_valid(subject))
        return true;
    reply_text(call, GRPC_INVALID_ARGUMENT,
               "subject: wanted is an administrator's name (letters, digits, '.', '-' and '_', at "
               "most %d), uid:NUMBER (0 to 4294967294), a user at the operator socket, "
               "oidc:ISSUER#SUB, whom a "
               "token's issuer vouches for, or oidc-group:ISSUER#NAME, a group in tokens",
               ACCESS_ADMIN_NAME_MAX);
    return false;
}

/* Root and our own user are admin at the socket, whatever is bound to them. */
static bool access_takes_effect(const struct access_service *service, struct grpc_call *call,
                                const char *subject)
{
    char own[32];

    (void)snprintf(own, sizeof(own), "uid:%lu", (unsigned long)service->rules->uid);
    if (strcmp(subject, "uid:0") != 0 && strcmp(subject, own) != 0)
        return true;
    reply_text(call, GRPC_INVALID_ARGUMENT,
               "subject: %s is %s, who is admin at the operator socket whatever is bound: a role "
               "would change nothing",
               subject, strcmp(subject, own) == 0 ? "the control plane's own user" : "root");
    return false;
}

static bool access_takes_role(const struct access_service *service, struct grpc_call *call,
                              const char *name, struct role *out)
{
    if (access_find_role(service->access, name, out))
        return true;
    reply_text(call, GRPC_NOT_FOUND,
               "role: there is no \"%.64s\"; mortisectl role list shows those that there are",
               name);
    return false;
}

/* Who has more than the caller is not his to change. False: refused. `before` is "" without. */
static bool access_takes_before(const struct access_service *service, struct grpc_call *call,
                                const char *subject, struct role *before)
{
    *before = (struct role){.permissions = 0};
    return !access_role_of(service->access, subject, before) ||
           access_may_grant(service, call, before);
}

bool access_may_take(const struct access_service *service, struct grpc_call *call,
                     const char *subject, const char *role, struct role *out)
{
    struct role before;

    if (!access_takes_before(service, call, subject, &before))
        return false;
    if (role[0] == '\0' && before.name[0] != '\0') {
        *out = before;
        return true;
    }
    return access_takes_role(service, call, role[0] != '\0' ? role : ROLE_ADMIN, out) &&
           access_may_grant(service, call, out);
}

ACCESS_CALL(bind)
{
    const struct access_service *service = arg;
    const Mortise__V1__BindRequest *request =
        MSG_AS_CONST(Mortise__V1__BindRequest, mortise__v1__bind_request__descriptor, msg);
    Mortise__V1__BindResponse reply = MORTISE__V1__BIND_RESPONSE__INIT;
    CLEANUP(mem_freep) char *what = NULL;
    char name[CALLER_NAME_MAX];
    struct access_author author = access_author(service, call, name);
    struct role role, before;
    err_t err;

    if (!access_takes_subject(call, request->subject) ||
        !access_takes_effect(service, call, request->subject) ||
        !access_takes_role(service, call, request->role, &role) ||
        !access_may_grant(service, call, &role) ||
        !access_takes_before(service, call, request->subject, &before))
        return;
    what = mem_printf("%s %s", request->subject, request->role);
    access_will(service, call, AUDIT_ACCESS_BIND, VAULT_ACCESS, what);
    err = access_bind(service->access, request->subject, request->role, &author, NULL);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "role_bound", what);
    reply.before = before.name;
    grpc_call_reply(call, &reply.base);
}

ACCESS_CALL(unbind)
{
    const struct access_service *service = arg;
    const Mortise__V1__UnbindRequest *request =
        MSG_AS_CONST(Mortise__V1__UnbindRequest, mortise__v1__unbind_request__descriptor, msg);
    Mortise__V1__UnbindResponse reply = MORTISE__V1__UNBIND_RESPONSE__INIT;
    char name[CALLER_NAME_MAX];
    struct access_author author = access_author(service, call, name);
    struct role before;
    err_t err;

    if (!access_takes_subject(call, request->subject) ||
        !access_takes_before(service, call, request->subject, &before))
        return;
    access_will(service, call, AUDIT_ACCESS_UNBIND, VAULT_ACCESS, request->subject);
    err = access_bind(service->access, request->subject, NULL, &author, NULL);
    if (err_is(err, E_NOT_FOUND)) {
        reply_text(call, GRPC_NOT_FOUND, "subject: %s has no role", request->subject);
        return;
    }
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "role_unbound", request->subject);
    reply.before = before.name;
    grpc_call_reply(call, &reply.base);
}

/* The set of the names. False: refused. */
static bool access_takes_permissions(struct grpc_call *call,
                                     const Mortise__V1__SetRoleRequest *request, uint64_t *out)
{
    *out = 0;
    if (request->n_permissions == 0 || request->n_permissions > PERMISSIONS_MAX) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "permissions: 1 to %d of them are wanted; mortisectl role list shows what there "
                   "is, at admin",
                   PERMISSIONS_MAX);
        return false;
    }
    for (size_t i = 0; i < request->n_permissions; i++) {
        permission_t permission = permission_find(request->permissions[i]);

        if (permission == PERMISSION(NONE)) {
            reply_text(call, GRPC_INVALID_ARGUMENT,
                       "permissions[%zu]: there is no \"%.40s\"; mortisectl role list shows what "
                       "there is, at admin",
                       i, request->permissions[i]);
            return false;
        }
        *out |= permission_bit(permission);
    }
    return true;
}

/* "on-call mesh.read token.create"; owned. */
static char *access_describe(const Mortise__V1__SetRoleRequest *request)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = buf_add_str(&text, request->name);

    for (size_t i = 0; i < request->n_permissions && err_is_ok(err); i++)
        err = buf_printf(&text, " %s", request->permissions[i]);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

ACCESS_CALL(set_role)
{
    const struct access_service *service = arg;
    const Mortise__V1__SetRoleRequest *request =
        MSG_AS_CONST(Mortise__V1__SetRoleRequest, mortise__v1__set_role_request__descriptor, msg);
    Mortise__V1__SetRoleResponse reply = MORTISE__V1__SET_ROLE_RESPONSE__INIT;
    char name[CALLER_NAME_MAX];
    struct access_author author = access_author(service, call, name);
    CLEANUP(mem_freep) char *what = NULL;
    struct role role = {.permissions = 0}, before = {.permissions = 0};
    err_t err;

    if (!access_role_name_valid(request->name)) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "name: letters, digits, '.', '-' and '_', 1 to %d characters", ROLE_NAME_MAX);
        return;
    }
    if (!access_takes_permissions(call, request, &role.permissions) ||
        !access_may_grant(service, call, &role))
        return;
    if (access_find_role(service->access, request->name, &before) &&
        !access_may_grant(service, call, &before))
        return;
    what = access_describe(request);
    access_will(service, call, AUDIT_ACCESS_ROLE, VAULT_ACCESS, what);
    err = access_set_role(service->access, request->name, request->permissions,
                          request->n_permissions, &author);
    if (err_is(err, E_EXISTS)) {
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "name: %s is built in and stays as it is: give yours another name",
                   request->name);
        return;
    }
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "role_set", request->name);
    grpc_call_reply(call, &reply.base);
}

ACCESS_CALL(delete_role)
{
    const struct access_service *service = arg;
    const Mortise__V1__DeleteRoleRequest *request = MSG_AS_CONST(
        Mortise__V1__DeleteRoleRequest, mortise__v1__delete_role_request__descriptor, msg);
    Mortise__V1__DeleteRoleResponse reply = MORTISE__V1__DELETE_ROLE_RESPONSE__INIT;
    struct role before;
    err_t err;

    if (!access_takes_role(service, call, request->name, &before) ||
        !access_may_grant(service, call, &before))
        return;
    access_will(service, call, AUDIT_ACCESS_ROLE_DELETE, VAULT_ACCESS, request->name);
    err = access_delete_role(service->access, request->name);
    if (err_is(err, E_EXISTS)) {
        reply_text(call, GRPC_FAILED_PRECONDITION, "name: %s %s", request->name,
                   err.sub == 0 ? "is built in and stays"
                                : "is somebody's role: mortisectl admin list shows whose");
        return;
    }
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "role_deleted", request->name);
    grpc_call_reply(call, &reply.base);
}

/* ---------------------------------------------------------------- elevations */

/* What is about to be is on record first. False: the call was refused. */
static bool access_records(const struct access_service *service, struct grpc_call *call,
                           enum audit_action action, const char *what, const char *reason)
{
    err_t err =
        audit_call_put(service->audit, grpc_call_peer(call),
                       &(struct audit_entry){.action = action, .object = what, .message = reason});

    if (!err_is_ok(err))
        reply_error(call, err);
    return err_is_ok(err);
}

static void access_reply_elevation(const struct access_service *service, struct grpc_call *call,
                                   const struct elevation *elevation)
{
    Mortise__V1__Elevation reply;

    access_fill_elevation(service, elevation, &reply);
    grpc_call_reply(call, &reply.base);
}

static bool access_is_printable(const char *text)
{
    char shown[ELEVATION_REASON_MAX * 6 + 1] = "";
    size_t len = 0;

    return str_escape(shown, sizeof(shown), &len, bytes_of_str(text), false) &&
           strcmp(shown, text) == 0;
}

static bool access_takes_elevation(struct grpc_call *call,
                                   const Mortise__V1__ElevateRequest *request)
{
    size_t len = strlen(request->reason);

    if (request->for_s != 0 &&
        (request->for_s < ELEVATION_MIN_S || request->for_s > ELEVATION_MAX_S))
        reply_text(call, GRPC_INVALID_ARGUMENT, "for: %u s is not between %d s and %d s (one hour)",
                   request->for_s, ELEVATION_MIN_S, ELEVATION_MAX_S);
    else if (len == 0 || len > ELEVATION_REASON_MAX || !access_is_printable(request->reason))
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "reason: wanted is one line of printable characters (UTF-8), 1 to %d bytes: it "
                   "is what the audit log will tell",
                   ELEVATION_REASON_MAX);
    else
        return true;
    return false;
}

ACCESS_CALL(elevate)
{
    const struct access_service *service = arg;
    const Mortise__V1__ElevateRequest *request =
        MSG_AS_CONST(Mortise__V1__ElevateRequest, mortise__v1__elevate_request__descriptor, msg);
    uint32_t for_s = request->for_s != 0 ? request->for_s : ELEVATION_DEFAULT_S;
    const struct elevation *elevation = NULL;
    CLEANUP(mem_freep) char *what = NULL;
    char subject[CALLER_SUBJECT_MAX];
    err_t err;

    if (!access_takes_elevation(call, request))
        return;
    what = mem_printf("for %u s%s", for_s, service->elevations->approval ? ", asked for" : "");
    if (!access_records(service, call, AUDIT_ELEVATE, what, request->reason))
        return;
    caller_subject(service->rules, grpc_call_peer(call), subject);
    err = elevations_ask(service->elevations, subject, request->reason, for_s,
                         access_stamp(service->access), &elevation);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, elevation->pending ? "elevation_asked" : "elevated", request->reason);
    access_reply_elevation(service, call, elevation);
}

ACCESS_CALL(end_elevation)
{
    const struct access_service *service = arg;
    const struct elevation *own;
    char subject[CALLER_SUBJECT_MAX];
    struct elevation ended;

    (void)msg;
    caller_subject(service->rules, grpc_call_peer(call), subject);
    own = elevations_of(service->elevations, subject);
    if (own == NULL) {
        reply_text(call, GRPC_NOT_FOUND, "there is no elevation of %s", subject);
        return;
    }
    /* It ends whatever the store says: that is the safe side. */
    ended = *own;
    (void)elevations_end(service->elevations, subject);
    ended.ends_ms = 0;
    if (!access_records(service, call, AUDIT_ELEVATE_END, ended.reason, NULL))
        return;
    access_log(service, call, "elevation_ended", ended.reason);
    access_reply_elevation(service, call, &ended);
}

static const struct elevation *access_find_elevation(const struct access_service *service,
                                                     uint64_t id)
{
    const struct elevation *elevation;
    size_t at = 0;

    while ((elevation = elevations_next(service->elevations, &at)) != NULL) {
        if (elevation->id == id)
            return elevation;
    }
    return NULL;
}

ACCESS_CALL(approve_elevation)
{
    const struct access_service *service = arg;
    const Mortise__V1__ApproveElevationRequest *request =
        MSG_AS_CONST(Mortise__V1__ApproveElevationRequest,
                     mortise__v1__approve_elevation_request__descriptor, msg);
    const struct elevation *elevation = access_find_elevation(service, request->id);
    CLEANUP(mem_freep) char *what = NULL;
    char subject[CALLER_SUBJECT_MAX], reason[LINEAGE_REASON_MAX];
    err_t err;

    caller_subject(service->rules, grpc_call_peer(call), subject);
    if (elevation == NULL || !elevation->pending) {
        reply_text(call, GRPC_NOT_FOUND,
                   "id: no elevation %llu waits for approval (mortisectl elevate list)",
                   (unsigned long long)request->id);
        return;
    }
    if (strcmp(elevation->subject, subject) == 0) {
        reply_text(call, GRPC_PERMISSION_DENIED,
                   "that is your own: another administrator has to approve it");
        return;
    }
    if (!lineage_apart(service->access, service->rules->uid, elevation->subject, subject,
                       elevation->stamp, reason)) {
        reply_text(call, GRPC_PERMISSION_DENIED, "%s", reason);
        return;
    }
    what = mem_printf("%s, for %u s", elevation->subject, elevation->for_s);
    if (!access_records(service, call, AUDIT_ELEVATE_APPROVE, what, elevation->reason))
        return;
    err = elevations_approve(service->elevations, request->id, subject, &elevation);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "elevation_approved", what);
    access_reply_elevation(service, call, elevation);
}

ACCESS_CALL(list_elevations)
{
    const struct access_service *service = arg;
    Mortise__V1__ListElevationsResponse reply = MORTISE__V1__LIST_ELEVATIONS_RESPONSE__INIT;
    Mortise__V1__Elevation items[ELEVATIONS_MAX], *list[ELEVATIONS_MAX];
    const struct elevation *elevation;
    size_t at = 0;

    (void)msg;
    while ((elevation = elevations_next(service->elevations, &at)) != NULL) {
        access_fill_elevation(service, elevation, &items[reply.n_elevations]);
        list[reply.n_elevations] = &items[reply.n_elevations];
        reply.n_elevations++;
    }
    reply.elevations = list;
    grpc_call_reply(call, &reply.base);
}

/* -------------------------------------------------------------------- whole */

#define ACCESS_METHOD(name, request, response, handler)                                     \
    .path = "/mortise.v1.AccessService/" name, .in = &mortise__v1__##request##__descriptor, \
    .out = &mortise__v1__##response##__descriptor, .max_message = ACCESS_MESSAGE_MAX,       \
    .on_message = (handler)

static const struct grpc_method access_methods[] = {
    {ACCESS_METHOD("WhoAmI", who_am_irequest, who_am_iresponse, access_on_who_am_i)},
    {ACCESS_METHOD("ListAccess", list_access_request, list_access_response, access_on_list_access)},
    {ACCESS_METHOD("Bind", bind_request, bind_response, access_on_bind)},
    {ACCESS_METHOD("Unbind", unbind_request, unbind_response, access_on_unbind)},
    {ACCESS_METHOD("SetRole", set_role_request, set_role_response, access_on_set_role)},
    {ACCESS_METHOD("DeleteRole", delete_role_request, delete_role_response, access_on_delete_role)},
    {ACCESS_METHOD("Elevate", elevate_request, elevation, access_on_elevate)},
    {ACCESS_METHOD("EndElevation", end_elevation_request, elevation, access_on_end_elevation)},
    {ACCESS_METHOD("ApproveElevation", approve_elevation_request, elevation,
                   access_on_approve_elevation)},
    {ACCESS_METHOD("ListElevations", list_elevations_request, list_elevations_response,
                   access_on_list_elevations)},
    {ACCESS_METHOD("CreateLogin", create_login_request, create_login_response,
                   access_on_create_login)},
    {ACCESS_METHOD("Login", login_request, login_response, access_on_login)},
};

const struct grpc_method *access_service_methods(size_t *out_num)
{
    *out_num = ARRAY_LEN(access_methods);
    return access_methods;
}

void access_service_init(struct access_service *service)
{
    buckets_init(&service->sources, ACCESS_SOURCE_BURST, ACCESS_SOURCE_PER_MINUTE, ACCESS_KEYS_MAX);
    buckets_init(&service->all, ACCESS_ALL_BURST, ACCESS_ALL_PER_MINUTE, 1);
}

void access_service_fini(struct access_service *service)
{
    buckets_fini(&service->sources);
    buckets_fini(&service->all);
}
