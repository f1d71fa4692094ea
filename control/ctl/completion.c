/* mortisectl completion: what a shell needs to complete commands, kinds, and names of what is in
 * the mesh, which it asks the control plane for. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/mesh_text.h"
#include "control/mesh.h"
#include "lib/rpc/pb.h"

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

/* An arm for each first word: what may follow it, and the flags of the command that is it alone. */
static void completion_first_arm(size_t at)
{
    const struct ctl_command *command = ctl_commands[at];
    size_t len = completion_first_len(command);
    bool alone = command->name[len] == '\0';

    printf("    \"%.*s \"*) words=\"", (int)len, command->name);
    if (strcmp(command->name, "get") == 0)
        ctl_get_kinds(completion_kind, NULL);
    else if (strcmp(command->name, "delete") == 0 || strcmp(command->name, "clone") == 0 ||
             strcmp(command->name, "describe") == 0)
        completion_mesh_kinds();
    else if (strcmp(command->name, "completion") == 0)
        printf("bash zsh names");
    completion_second_words(command);
    printf(" ");
    if (alone)
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

/* One function serves both shells: zsh runs bash's. The words of the connection that stand there
 * are passed on to the question for names. */
static void completion_function(void)
{
    printf("_mortisectl() {\n"
           "    local word=\"${COMP_WORDS[COMP_CWORD]}\" command=\"\" second=\"\" at words=\"\" "
           "names=\"\"\n"
           "    local connection=()\n"
           "    for ((at = 1; at < COMP_CWORD; at++)); do\n"
           "        case \"${COMP_WORDS[at]}\" in\n"
           "        --socket | --server | --cert | --key | --roots | --trust-domain)\n"
           "            connection+=(\"${COMP_WORDS[at]}\" \"${COMP_WORDS[at + 1]}\")\n"
           "            ((at++)) ;;\n"
           "        --*=*) ;;\n"
           "        -*) ((at++)) ;;\n"
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
        "    -o | --output) words=\"table wide json yaml\" ;;\n"
        "    -f | --file | --out | --socket | --cert | --key | --roots | --rotate | --*-file)\n"
        "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
        "        return ;;\n"
        "    esac\n"
        "    case \"$command $second\" in\n"
        "    \"get \"?* | \"delete \"?* | \"clone \"?* | \"describe \"?*) names=\"$second\" ;;\n"
        "    \"token create\" | \"certificate \"* | \"rotate \" | \"watch \") names=subsystem ;;\n"
        "    esac\n"
        "    case \"$word\" in -*) names=\"\" ;; esac\n"
        "    if [ -n \"$names\" ]; then\n"
        "        words=\"$words $(timeout 3 \"${COMP_WORDS[0]}\" completion names \"$names\" \\\n"
        "            \"${connection[@]}\" 2>/dev/null)\"\n"
        "    fi\n"
        "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
        "}\n");
}

/* The names of that kind in the mesh in force, a line each; of a kind that has none, nothing. */
static int completion_names(const struct ctl_flags *flags, const char *kind)
{
    Mortise__V1__GetMeshResponse *reply;
    struct conn *conn;
    int at = 0;

    while (at < MESH_KINDS && strcmp(kind, mesh_kinds[at].many) != 0 &&
           strcmp(kind, mesh_kinds[at].word) != 0)
        at++;
    if (at == MESH_KINDS)
        return CTL_OK;
    conn = conn_open(flags);
    if (conn == NULL)
        return CTL_USAGE;
    reply = mesh_get(conn);
    for (size_t i = 0; reply != NULL && i < mesh_num(reply->mesh, &mesh_kinds[at]); i++) {
        ctl_print(stdout, mesh_name(mesh_item(reply->mesh, &mesh_kinds[at], i)));
        printf("\n");
    }
    conn_close(conn);
    if (reply == NULL)
        return CTL_FAILED;
    pb_free(&reply->base);
    return CTL_OK;
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
             "names of what is in the mesh: those it asks the control plane for, by "
             "completion names.\n\n"
             "Example: source <(mortisectl completion bash)",
    .options = completion_options,
    .min_operands = 1,
    .max_operands = 2,
    .run = completion_run,
};
