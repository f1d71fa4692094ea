/* mortisectl completion: what a shell needs to complete commands and names of kinds. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/ctl.h"

/* Asks nobody; a flag of the connection before the command is no mistake. */
static const struct option completion_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

static void completion_words(const char *first, bool second)
{
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        const char *name = ctl_commands[i]->name;
        const char *space = strchr(name, ' ');
        size_t len = space != NULL ? (size_t)(space - name) : strlen(name);

        if (!second)
            printf("%s%.*s", i > 0 ? " " : "", (int)len, name);
        else if (space != NULL && strlen(first) == len && strncmp(first, name, len) == 0)
            printf("%s", space + 1);
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

static void completion_kinds(void)
{
    for (size_t i = 0; ctl_kinds[i] != NULL; i++)
        printf("%s%s", i > 0 ? " " : "", ctl_kinds[i]);
}

/* One function serves both shells: zsh runs bash's. */
static void completion_function(void)
{
    printf("_mortisectl() {\n"
           "    local word=\"${COMP_WORDS[COMP_CWORD]}\" command=\"\" at words=\"\"\n"
           "    for ((at = 1; at < COMP_CWORD; at++)); do\n"
           "        case \"${COMP_WORDS[at]}\" in\n"
           "        --*=*) ;;\n"
           "        -*) ((at++)) ;;\n"
           "        *) command=\"${COMP_WORDS[at]}\"; break ;;\n"
           "        esac\n"
           "    done\n"
           "    case \"$command\" in\n"
           "    \"\") words=\"");
    completion_words("", false);
    printf("\" ;;\n");
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        const char *name = ctl_commands[i]->name;
        size_t len = strcspn(name, " ");
        char first[32];

        (void)snprintf(first, sizeof(first), "%.*s", (int)len, name);
        printf("    %s) words=\"", first);
        if (strcmp(first, "get") == 0)
            completion_kinds();
        else if (strcmp(first, "completion") == 0)
            printf("bash zsh");
        else
            completion_words(first, true);
        printf(" ");
        completion_flags(ctl_commands[i]);
        printf("\" ;;\n");
    }
    printf("    esac\n"
           "    case \"${COMP_WORDS[COMP_CWORD - 1]}\" in\n"
           "    -o | --output) words=\"table wide json yaml\" ;;\n"
           "    -f | --file | --out | --socket | --cert | --key | --roots)\n"
           "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
           "        return ;;\n"
           "    esac\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "}\n");
}

static int completion_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)flags;
    (void)num;
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
    .operands = "bash|zsh",
    .summary = "a script that completes commands in your shell",
    .about = "Writes the script to standard output.\n\n"
             "Example: source <(mortisectl completion bash)",
    .options = completion_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = completion_run,
};
