/* mortisectl completion: what a shell needs to complete commands, kinds, and names of what is in
 * the mesh, which it asks the control plane for. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/mesh_text.h"
#include "control/labels.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/access.pb-c.h"
#include "proto/mesh/operator.pb-c.h"

#define COMPLETION_FLAGS_MAX 64

/* For `names`; the script asks nobody, and a flag of the connection is no mistake then. */
static const struct option completion_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

static size_t completion_first_len(const struct ctl_command *command)
{
    return strcspn(command->name, " ");
}

/* Whether both begin with the same word. */
static bool completion_same_first(const struct ctl_command *a, const struct ctl_command *b)
{
    size_t len = completion_first_len(a);

    return len == completion_first_len(b) && strncmp(a->name, b->name, len) == 0;
}

/* Whether no command before this one begins with the same word. */
static bool completion_is_new(size_t at)
{
    for (size_t i = 0; i < at; i++) {
        if (completion_same_first(ctl_commands[i], ctl_commands[at]))
            return false;
    }
    return true;
}

static void completion_first_words(void)
{
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        if (completion_is_new(i))
            printf("%s%.*s", i > 0 ? " " : "", (int)completion_first_len(ctl_commands[i]),
                   ctl_commands[i]->name);
    }
}

/* What may stand behind the first word of `command`. */
static void completion_second_words(const struct ctl_command *command)
{
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        const char *space = strchr(ctl_commands[i]->name, ' ');

        if (space != NULL && completion_same_first(ctl_commands[i], command))
            printf("%s ", space + 1);
    }
}

static void completion_flags(const struct ctl_command *command)
{
    for (const struct option *row = command->options; row->name != NULL; row++) {
        if (row->name[0] != '\0')
            printf("--%s ", row->name);
    }
    printf("--help");
}

static void completion_kind(void *arg, const char *name)
{
    (void)arg;
    printf("%s ", name);
}

static void completion_mesh_kinds(void)
{
    for (int i = 0; i < MESH_KINDS; i++)
        printf("%s ", mesh_kinds[i].word);
}

/* Arms for each first word: what may follow it, and the flags of the command that is it alone;
 * behind a second word these. */
static void completion_first_arm(size_t at)
{
    const struct ctl_command *command = ctl_commands[at];
    size_t len = completion_first_len(command);
    bool alone = command->name[len] == '\0';

    printf("    \"%.*s \") words=\"", (int)len, command->name);
    if (strcmp(command->name, "get") == 0)
        ctl_get_kinds(completion_kind, NULL);
    else if (strcmp(command->name, "delete") == 0 || strcmp(command->name, "clone") == 0 ||
             strcmp(command->name, "describe") == 0)
        completion_mesh_kinds();
    else if (strcmp(command->name, "revoke") == 0)
        printf("subsystem spiffe-id serial key issuer");
    else if (strcmp(command->name, "completion") == 0)
        printf("bash zsh names");
    completion_second_words(command);
    printf(" ");
    if (alone)
        completion_flags(command);
    printf("\" ;;\n");
    if (!alone)
        return;
    printf("    \"%.*s \"*) words=\"", (int)len, command->name);
    completion_flags(command);
    printf("\" ;;\n");
}

static void completion_arms(void)
{
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        if (strchr(ctl_commands[i]->name, ' ') == NULL)
            continue;
        printf("    \"%s\") words=\"", ctl_commands[i]->name);
        completion_flags(ctl_commands[i]);
        printf("\" ;;\n");
    }
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        if (completion_is_new(i))
            completion_first_arm(i);
    }
}

/* Which names stand behind the words of a command, "COMMAND SECOND"; with * for whatever follows.
 */
static const struct completion_row {
    const char *pattern;
    const char *kind; /* of `completion names`; NULL: the second word */
} completion_rows[] = {
    {"\"get workloads\" | \"get certificates\" | \"get connections\"", "subsystem"},
    {"\"get \"?* | \"delete \"?* | \"clone \"?* | \"describe \"?*", NULL},
    {"\"token create\" | \"certificate \"* | \"rotate \" | \"watch \" | \"why \"* | "
     "\"revoke subsystem\"",
     "subsystem"},
    {"\"import keystore\"", "keystore"},
    {"\"rollback \" | \"diff \"*", "revision"},
    {"\"lift \"", "revocation"},
    {"\"role set\" | \"role delete\"", "role"},
    {"\"admin bind\" | \"admin unbind\"", "admin"},
};

static void completion_name_arms(void)
{
    for (size_t i = 0; i < ARRAY_LEN(completion_rows); i++) {
        const struct completion_row *row = &completion_rows[i];

        printf("    %s) names=%s ;;\n", row->pattern,
               row->kind != NULL ? row->kind : "\"$second\"");
    }
}

static bool completion_told(const char *const *names, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

/* The flags of all commands that no value follows. */
static void completion_bare_flags(void)
{
    const char *names[COMPLETION_FLAGS_MAX];
    size_t num = 0;

    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        for (const struct option *row = ctl_commands[i]->options; row->name != NULL; row++) {
            if (row->name[0] == '\0' || row->kind != OPTION_BOOL ||
                completion_told(names, num, row->name))
                continue;
            CHECK(num < COMPLETION_FLAGS_MAX);
            names[num++] = row->name;
        }
    }
    printf("        -w | --help");
    for (size_t i = 0; i < num; i++)
        printf(" | --%s | --no-%s", names[i], names[i]);
    printf(") ;;\n");
}

/* One function serves both shells: zsh runs bash's. The words of the connection that stand there
 * are passed on to the question for names. */
static void completion_function(void)
{
    printf("_mortisectl() {\n"
           "    local word=\"${COMP_WORDS[COMP_CWORD]}\" command=\"\" second=\"\" at words=\"\" "
           "names=\"\" name\n"
           "    local connection=()\n"
           "    for ((at = 1; at < COMP_CWORD; at++)); do\n"
           "        case \"${COMP_WORDS[at]}\" in\n"
           "        --socket | --server | --cert | --key | --roots | --trust-domain)\n"
           "            connection+=(\"${COMP_WORDS[at]}\" \"${COMP_WORDS[at + 1]}\")\n"
           "            ((at++)) ;;\n"
           "        --*=*) ;;\n");
    completion_bare_flags();
    printf("        -*) ((at++)) ;;\n"
           "        *) if [ -z \"$command\" ]; then command=\"${COMP_WORDS[at]}\"\n"
           "           elif [ -z \"$second\" ]; then second=\"${COMP_WORDS[at]}\"; fi ;;\n"
           "        esac\n"
           "    done\n"
           "    case \"$command $second\" in\n"
           "    \" \") words=\"");
    completion_first_words();
    printf("\" ;;\n");
    completion_arms();
    printf(
        "    esac\n"
        "    case \"${COMP_WORDS[COMP_CWORD - 1]}\" in\n"
        "    -o | --output) COMPREPLY=($(compgen -W \"table wide json yaml pem\" -- \"$word\"))\n"
        "        return ;;\n"
        "    -l | --selector) words=\"\" names=label command=\"\" ;;\n"
        "    -f | --file | --out | --socket | --cert | --key | --roots | --rotate | --*-file)\n"
        "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
        "        return ;;\n"
        "    esac\n"
        "    case \"$command $second\" in\n");
    completion_name_arms();
    printf("    esac\n"
           "    case \"$word\" in -*) names=\"\" ;; esac\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "    [ -n \"$names\" ] || return 0\n"
           /* Names are what others have chosen: compgen -W would expand them once more. */
           "    while IFS= read -r name; do\n"
           "        case \"$name\" in\n"
           "        \"$word\"*) COMPREPLY+=(\"$(printf '%%q' \"$name\")\") ;;\n"
           "        esac\n"
           "    done < <(timeout 3 \"${COMP_WORDS[0]}\" completion names \"$names\" \\\n"
           "        \"${connection[@]}\" 2>/dev/null)\n"
           "}\n");
}

/* ------------------------------------------------------------------------ names */

static void completion_name(const char *name)
{
    ctl_print(stdout, name);
    printf("\n");
}

static void completion_number(uint64_t number)
{
    printf("%" PRIu64 "\n", number);
}

static void completion_items(const Mortise__V1__Mesh *mesh, int kind)
{
    for (size_t i = 0; i < mesh_num(mesh, &mesh_kinds[kind]); i++)
        completion_name(mesh_name(mesh_item(mesh, &mesh_kinds[kind], i)));
}

/* The keys of all labels; the shell leaves out those that come again. */
static void completion_labels(const Mortise__V1__Mesh *mesh)
{
    for (int kind = 0; kind < MESH_KINDS; kind++) {
        for (size_t i = 0; i < mesh_num(mesh, &mesh_kinds[kind]); i++) {
            const ProtobufCMessage *item = mesh_item(mesh, &mesh_kinds[kind], i);

            for (size_t at = 0; at < labels_num(item); at++)
                completion_name(labels_at(item, at).key);
        }
    }
}

/* `at`: a list of the mesh, or MESH_KINDS: the labels of all. */
static bool completion_of_mesh(struct conn *conn, int at)
{
    Mortise__V1__GetMeshResponse *reply = mesh_get(conn);

    if (reply == NULL)
        return false;
    if (at < MESH_KINDS)
        completion_items(reply->mesh, at);
    else
        completion_labels(reply->mesh);
    pb_free(&reply->base);
    return true;
}

static void completion_revisions(const ProtobufCMessage *msg)
{
    const Mortise__V1__ListRevisionsResponse *reply = MSG_AS_CONST(
        Mortise__V1__ListRevisionsResponse, mortise__v1__list_revisions_response__descriptor, msg);

    for (size_t i = 0; i < reply->n_revisions; i++)
        completion_number(reply->revisions[i]->version);
}

static void completion_revocations(const ProtobufCMessage *msg)
{
    const Mortise__V1__ListRevocationsResponse *reply =
        MSG_AS_CONST(Mortise__V1__ListRevocationsResponse,
                     mortise__v1__list_revocations_response__descriptor, msg);

    for (size_t i = 0; i < reply->n_revocations; i++)
        completion_number(reply->revocations[i]->id);
}

static void completion_roles(const ProtobufCMessage *msg)
{
    const Mortise__V1__ListAccessResponse *reply = MSG_AS_CONST(
        Mortise__V1__ListAccessResponse, mortise__v1__list_access_response__descriptor, msg);

    for (size_t i = 0; i < reply->n_roles; i++)
        completion_name(reply->roles[i]->name);
}

static void completion_admins(const ProtobufCMessage *msg)
{
    const Mortise__V1__ListAccessResponse *reply = MSG_AS_CONST(
        Mortise__V1__ListAccessResponse, mortise__v1__list_access_response__descriptor, msg);

    for (size_t i = 0; i < reply->n_bindings; i++)
        completion_name(reply->bindings[i]->subject);
}

/* What is no list of the mesh. */
static const struct completion_list {
    const char *kind;
    const char *method;
    const ProtobufCMessageDescriptor *request; /* empty */
    const ProtobufCMessageDescriptor *reply;
    void (*tell)(const ProtobufCMessage *reply);
} completion_lists[] = {
    {"revision", "OperatorService/ListRevisions", &mortise__v1__list_revisions_request__descriptor,
     &mortise__v1__list_revisions_response__descriptor, completion_revisions},
    {"revocation", "OperatorService/ListRevocations",
     &mortise__v1__list_revocations_request__descriptor,
     &mortise__v1__list_revocations_response__descriptor, completion_revocations},
    {"role", "AccessService/ListAccess", &mortise__v1__list_access_request__descriptor,
     &mortise__v1__list_access_response__descriptor, completion_roles},
    {"admin", "AccessService/ListAccess", &mortise__v1__list_access_request__descriptor,
     &mortise__v1__list_access_response__descriptor, completion_admins},
};

/* False: told. */
static bool completion_of_list(struct conn *conn, const struct completion_list *list)
{
    ProtobufCMessage *request = mem_alloc(list->request->sizeof_message);
    ProtobufCMessage *reply;

    protobuf_c_message_init(list->request, request);
    reply = conn_call(conn, list->method, request, list->reply);
    mem_free(request);
    if (reply == NULL)
        return false;
    list->tell(reply);
    pb_free(reply);
    return true;
}

/* The names of that kind, a line each; of a kind that has none, nothing. */
static int completion_names(const struct ctl_flags *flags, const char *kind)
{
    const struct completion_list *list = NULL;
    struct conn *conn;
    bool done;
    int at = 0;

    while (at < MESH_KINDS && strcmp(kind, mesh_kinds[at].many) != 0 &&
           strcmp(kind, mesh_kinds[at].word) != 0)
        at++;
    for (size_t i = 0; i < ARRAY_LEN(completion_lists); i++) {
        if (strcmp(completion_lists[i].kind, kind) == 0)
            list = &completion_lists[i];
    }
    if (at == MESH_KINDS && list == NULL && strcmp(kind, "label") != 0)
        return CTL_OK;
    conn = conn_open(flags);
    if (conn == NULL)
        return CTL_USAGE;
    done = list != NULL ? completion_of_list(conn, list) : completion_of_mesh(conn, at);
    conn_close(conn);
    return done ? CTL_OK : CTL_FAILED;
}

static int completion_run(const struct ctl_flags *flags, int num, char **operands)
{
    if ((strcmp(operands[0], "names") == 0) != (num == 2)) {
        ctl_tell("completion: wanted is bash, zsh, or names and a kind");
        return CTL_USAGE;
    }
    if (num == 2)
        return completion_names(flags, operands[1]);
    if (strcmp(operands[0], "bash") == 0) {
        printf("# bash completion for mortisectl: source <(mortisectl completion bash)\n");
        completion_function();
    } else if (strcmp(operands[0], "zsh") == 0) {
        printf("#compdef mortisectl\n"
               "# zsh completion for mortisectl: source <(mortisectl completion zsh)\n"
               "autoload -U +X bashcompinit && bashcompinit\n");
        completion_function();
    } else {
        ctl_tell("completion: \"%s\" is none of bash, zsh", operands[0]);
        return CTL_USAGE;
    }
    printf("complete -F _mortisectl mortisectl\n");
    return CTL_OK;
}

const struct ctl_command ctl_completion = {
    .name = "completion",
    .operands = "bash|zsh|names KIND",
    .summary = "a script that completes commands and names in your shell",
    .about = "Writes the script to standard output. It completes commands, flags, kinds, and the "
             "names of what is in the mesh, keys of labels, revisions, revocations, roles and "
             "administrators: those it asks the control plane for, by completion names.\n\n"
             "Example: source <(mortisectl completion bash)",
    .options = completion_options,
    .min_operands = 1,
    .max_operands = 2,
    .run = completion_run,
};
