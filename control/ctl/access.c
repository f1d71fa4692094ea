/* mortisectl whoami; admin bind, unbind, list; role list, set, delete: who may do what. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/buf.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/access.pb-c.h"

#define ACCESS_PERMISSIONS_MAX 64

static const struct option access_show_options[] = {
    CTL_OUTPUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option access_options[] = {
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option bind_options[] = {
    {.name = "role",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, role),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "ROLE",
     .help = "viewer, operator, admin, or one of your own (mortisectl role list)."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option role_set_options[] = {
    {.name = "permissions",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, permissions),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "NAME,…",
     .help = "What it may do; mortisectl role list shows what there is, at admin."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* One call; NULL: told. */
static ProtobufCMessage *access_ask(const struct ctl_flags *flags, const char *method,
                                    const ProtobufCMessage *request,
                                    const ProtobufCMessageDescriptor *reply)
{
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;

    if (conn != NULL)
        msg = conn_call(conn, method, request, reply);
    conn_close(conn);
    return msg;
}

/* "a, b"; owned. */
static char *access_join(char **names, size_t num)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = buf_add_str(&text, "");

    for (size_t i = 0; i < num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? ", " : "", names[i]);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

/* ---- whoami ---- */

static int whoami_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__WhoAmIRequest request = MORTISE__V1__WHO_AM_IREQUEST__INIT;
    CLEANUP(mem_freep) char *permissions = NULL;
    const Mortise__V1__WhoAmIResponse *reply;
    ProtobufCMessage *msg = access_ask(flags, "AccessService/WhoAmI", &request.base,
                                       &mortise__v1__who_am_iresponse__descriptor);

    (void)num;
    (void)operands;
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__WhoAmIResponse, mortise__v1__who_am_iresponse__descriptor, msg);
    permissions = access_join(reply->permissions, reply->n_permissions);
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        printf("name         %s\nsubject      %s\nrole         %s\npermissions  %s\n", reply->name,
               reply->subject, reply->role, permissions);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_whoami = {
    .name = "whoami",
    .operands = "",
    .summary = "who you are to the control plane, and what you may do",
    .about = "Shows your name, the role that is bound to it, and the permissions in that.\n\n"
             "Example: mortisectl whoami",
    .options = access_show_options,
    .run = whoami_run,
};

/* ---- bindings ---- */

static int bind_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__BindRequest request = MORTISE__V1__BIND_REQUEST__INIT;
    const Mortise__V1__BindResponse *reply;
    ProtobufCMessage *msg;

    (void)num;
    request.subject = operands[0];
    request.role = flags->role;
    msg = access_ask(flags, "AccessService/Bind", &request.base,
                     &mortise__v1__bind_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__BindResponse, mortise__v1__bind_response__descriptor, msg);
    printf("%s is %s%s%s\n", operands[0], flags->role, reply->before[0] != '\0' ? ", was " : "",
           reply->before);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_admin_bind = {
    .name = "admin bind",
    .operands = "SUBJECT",
    .summary = "give somebody a role",
    .about =
        "SUBJECT is an administrator's name, as in `admin create`, uid:NUMBER, a user of this "
        "machine at the operator socket (mortise-control --operator-socket-access), "
        "oidc:ISSUER#SUB, whoever comes with a token of that issuer for SUB (mortise-control "
        "--oidc-issuer), or oidc-group:ISSUER#NAME, all whose token has that group: what is bound "
        "to somebody himself counts before his groups. The role that it had is replaced; streams "
        "that are open and may not go on end at once.\n\n"
        "Example: mortisectl admin bind alice --role viewer\n"
        "         mortisectl admin bind 'oidc-group:https://id.example#ops' --role operator",
    .options = bind_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = bind_run,
};

static int unbind_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__UnbindRequest request = MORTISE__V1__UNBIND_REQUEST__INIT;
    const Mortise__V1__UnbindResponse *reply;
    ProtobufCMessage *msg;

    (void)num;
    request.subject = operands[0];
    msg = access_ask(flags, "AccessService/Unbind", &request.base,
                     &mortise__v1__unbind_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__UnbindResponse, mortise__v1__unbind_response__descriptor, msg);
    printf("%s has no role any more, was %s\n", operands[0], reply->before);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_admin_unbind = {
    .name = "admin unbind",
    .operands = "SUBJECT",
    .summary = "take somebody's role away",
    .about =
        "He may do nothing any more, whatever certificate he has, and what he has open ends.\n\n"
        "Example: mortisectl admin unbind alice",
    .options = access_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = unbind_run,
};

static void bindings_table(const Mortise__V1__ListAccessResponse *reply)
{
    static const char *const heads[] = {"SUBJECT", "ROLE", "BOUND", "BY", NULL};
    struct table table = {.heads = heads};
    int64_t now_s = clock_wall_s(&clock_system);
    char when[TABLE_TIME_MAX];

    for (size_t i = 0; i < reply->n_bindings; i++) {
        const Mortise__V1__Binding *binding = reply->bindings[i];

        table_time(binding->at, now_s, when);
        table_add(&table, binding->subject);
        table_add(&table, binding->role);
        table_add(&table, when);
        table_add(&table, binding->by);
    }
    table_print(&table);
}

static void roles_table(const Mortise__V1__ListAccessResponse *reply)
{
    static const char *const heads[] = {"ROLE", "MADE BY", "PERMISSIONS", NULL};
    struct table table = {.heads = heads};

    for (size_t i = 0; i < reply->n_roles; i++) {
        const Mortise__V1__Role *role = reply->roles[i];
        CLEANUP(mem_freep)
        char *permissions = access_join(role->permissions, role->n_permissions);

        table_add(&table, role->name);
        table_add(&table, role->built_in ? "built in" : role->by);
        table_add(&table, permissions);
    }
    table_print(&table);
}

static int access_list(const struct ctl_flags *flags,
                       void (*print)(const Mortise__V1__ListAccessResponse *reply))
{
    Mortise__V1__ListAccessRequest request = MORTISE__V1__LIST_ACCESS_REQUEST__INIT;
    ProtobufCMessage *msg = access_ask(flags, "AccessService/ListAccess", &request.base,
                                       &mortise__v1__list_access_response__descriptor);

    if (msg == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        print(MSG_AS(Mortise__V1__ListAccessResponse, mortise__v1__list_access_response__descriptor,
                     msg));
    pb_free(msg);
    return CTL_OK;
}

static int admin_list_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)num;
    (void)operands;
    return access_list(flags, bindings_table);
}

const struct ctl_command ctl_admin_list = {
    .name = "admin list",
    .operands = "",
    .summary = "who has which role",
    .about = "Root, and the user whom the control plane runs as, are admin at the operator socket "
             "without being in it.\n\n"
             "Example: mortisectl admin list",
    .options = access_show_options,
    .run = admin_list_run,
};

/* ---- roles ---- */

static int role_list_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)num;
    (void)operands;
    return access_list(flags, roles_table);
}

const struct ctl_command ctl_role_list = {
    .name = "role list",
    .operands = "",
    .summary = "roles, and what they may do",
    .about = "Example: mortisectl role list",
    .options = access_show_options,
    .run = role_list_run,
};

static int role_set_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__SetRoleRequest request = MORTISE__V1__SET_ROLE_REQUEST__INIT;
    CLEANUP(mem_freep) char *text = mem_strdup(flags->permissions);
    char *list[ACCESS_PERMISSIONS_MAX + 1]; /* one more than is taken: the server says so */
    char *rest = NULL;
    ProtobufCMessage *msg;

    (void)num;
    for (char *name = strtok_r(text, ", ", &rest);
         name != NULL && request.n_permissions < ARRAY_LEN(list);
         name = strtok_r(NULL, ", ", &rest))
        list[request.n_permissions++] = name;
    request.name = operands[0];
    request.permissions = list;
    msg = access_ask(flags, "AccessService/SetRole", &request.base,
                     &mortise__v1__set_role_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    printf("role %s is set\n", operands[0]);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_role_set = {
    .name = "role set",
    .operands = "NAME",
    .summary = "make a role of your own, or change it",
    .about =
        "Nobody gives more than he has himself. Who has the role has what is changed at once.\n\n"
        "Example: mortisectl role set responder --permissions mesh.read,revocation.write",
    .options = role_set_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = role_set_run,
};

static int role_delete_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__DeleteRoleRequest request = MORTISE__V1__DELETE_ROLE_REQUEST__INIT;
    ProtobufCMessage *msg;

    (void)num;
    request.name = operands[0];
    msg = access_ask(flags, "AccessService/DeleteRole", &request.base,
                     &mortise__v1__delete_role_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    printf("role %s is deleted\n", operands[0]);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_role_delete = {
    .name = "role delete",
    .operands = "NAME",
    .summary = "delete a role of your own",
    .about = "Refused while somebody has it.\n\nExample: mortisectl role delete responder",
    .options = access_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = role_delete_run,
};
