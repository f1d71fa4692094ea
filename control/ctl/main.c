/* mortisectl: the operator's command line. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "certs/secrets.h"
#include "control/build.h"
#include "control/ctl/ctl.h"
#include "control/ctl/table.h"
#include "lib/base/man.h"
#include "lib/base/mem.h"
#include "lib/base/process.h"
#include "lib/base/str.h"

#define CTL_PREFIX "MORTISE_"
#define CTL_DESCRIPTORS_LEAST 16 /* of a loop, a connection, a file */
#define CTL_HELP_COLUMN 24       /* where the summaries of commands begin */

/* ---------------------------------------------------------------------- help */

static const char ctl_exit_status[] = "0 done; 1 refused or not reached; 2 wrong use.";
static const char ctl_about[] =
    "`mortisectl COMMAND --help` shows a command's settings and an example.\n\n"
    "The control plane is reached over its operator socket (--socket PATH, or the variable\n"
    "MORTISE_SOCKET; default " CTL_SOCKET_DEFAULT "), or from elsewhere with --server\n"
    "HOST:PORT, --cert, --key, --roots and --trust-domain.";

static void ctl_help(FILE *out)
{
    fprintf(out, "Usage: mortisectl [SETTING…] COMMAND …\n\n"
                 "The operator's command line of a Mortise mesh. Commands:\n\n");
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        const struct ctl_command *command = ctl_commands[i];
        char name[64];

        (void)snprintf(name, sizeof(name), "%s %s", command->name, command->operands);
        fprintf(out, "  %s%*s %s\n", name, CTL_HELP_COLUMN - (int)table_width(name), "",
                command->summary);
    }
    fprintf(out, "\n%s\n\nExit codes: %s\n", ctl_about, ctl_exit_status);
}

static void ctl_command_help(const struct ctl_command *command, bool man, FILE *out)
{
    CLEANUP(mem_freep)
    char *usage = mem_printf("mortisectl %s %s%s[SETTING…]", command->name, command->operands,
                             command->operands[0] != '\0' ? " " : "");
    CLEANUP(mem_freep) char *name = mem_printf("mortisectl-%s", command->name);
    const struct options_page page = {.name = name,
                                      .section = 1,
                                      .summary = command->summary,
                                      .usage = usage,
                                      .about = command->about,
                                      .exit_status = ctl_exit_status};

    for (char *space = strchr(name, ' '); space != NULL; space = strchr(space, ' '))
        *space = '-';
    options_help(command->options, &page, man, out);
}

/* The page of all of it, and what the page of each command is called. */
static void ctl_man(FILE *out)
{
    man_begin(out, "mortisectl", 1, "the operator's command line of a Mortise mesh");
    man_section(out, "SYNOPSIS");
    man_text(out, "mortisectl [SETTING…] COMMAND …");
    man_section(out, "DESCRIPTION");
    man_text(out, ctl_about);
    man_section(out, "COMMANDS");
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        CLEANUP(mem_freep)
        char *head = mem_printf("%s %s", ctl_commands[i]->name, ctl_commands[i]->operands);
        CLEANUP(mem_freep) char *text = mem_printf("%s.", ctl_commands[i]->summary);

        if (ctl_commands[i]->operands[0] == '\0')
            head[strlen(head) - 1] = '\0';
        man_item(out, head);
        man_text(out, text);
    }
    man_section(out, "EXIT STATUS");
    man_text(out, ctl_exit_status);
    man_section(out, "SEE ALSO");
    man_text(out, "mortisectl-COMMAND(1), with - for a space in the command; mortise-control(8), "
                  "mortise-proxy(8)");
}

/* What stands alone: --help, --help=man, --help=names. False: it is something else. */
static bool ctl_help_of(const char *arg)
{
    if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
        ctl_help(stdout);
    } else if (strcmp(arg, "--help=man") == 0) {
        ctl_man(stdout);
    } else if (strcmp(arg, "--help=names") == 0) { /* for what makes a page of each */
        for (size_t i = 0; ctl_commands[i] != NULL; i++)
            printf("%s\n", ctl_commands[i]->name);
    } else {
        return false;
    }
    return true;
}

/* ------------------------------------------------------------------ dispatch */

static bool ctl_is_flag(const char *arg)
{
    return arg[0] == '-' && arg[1] != '\0';
}

/* The index of the command's word: flags before it are those of the connection, each with a value.
 */
static int ctl_find_word(int argc, char **argv)
{
    int at = 1;

    while (at < argc && ctl_is_flag(argv[at]))
        at += strchr(argv[at], '=') != NULL ? 1 : 2;
    return at;
}

/* How many words of the command stand at argv[at]; 0: another command. A command of two words
 * counts with its first alone, too: what is missing is told then. */
static int ctl_words(const struct ctl_command *command, int argc, char **argv, int at)
{
    const char *second = strchr(command->name, ' ');
    size_t len = second != NULL ? (size_t)(second - command->name) : strlen(command->name);

    if (strlen(argv[at]) != len || strncmp(argv[at], command->name, len) != 0)
        return 0;
    return second != NULL && at + 1 < argc && strcmp(argv[at + 1], second + 1) == 0 ? 2 : 1;
}

/* The command whose words stand at argv[at]; *out_words of them. Two words come before one, and of
 * those that match one word the one that has no more. */
static const struct ctl_command *ctl_find(int argc, char **argv, int at, int *out_words)
{
    const struct ctl_command *found = NULL;

    *out_words = 0;
    for (size_t i = 0; ctl_commands[i] != NULL; i++) {
        int words = ctl_words(ctl_commands[i], argc, argv, at);
        bool whole = words == 1 && strchr(ctl_commands[i]->name, ' ') == NULL;

        if (words > *out_words || (words == *out_words && whole)) {
            found = ctl_commands[i];
            *out_words = words;
        }
    }
    return found;
}

static void ctl_unknown(const char *word)
{
    const char *names[64];
    size_t num = 0;
    int nearest;

    for (; num < ARRAY_LEN(names) && ctl_commands[num] != NULL; num++)
        names[num] = ctl_commands[num]->name;
    nearest = str_nearest(word, names, num);
    if (nearest >= 0)
        ctl_tell("no command \"%s\"; did you mean %s? (mortisectl --help lists them)", word,
                 names[nearest]);
    else
        ctl_tell("no command \"%s\" (mortisectl --help lists them)", word);
}

/* A copy of the list of variables, for ctl_keep_known. */
static char **ctl_environment(void)
{
    size_t num = 0;

    while (environ[num] != NULL)
        num++;
    return mem_dup(environ, (num + 1) * sizeof(*environ));
}

/* A variable of another program, or of another command, that is nearly one of this command's rows
 * would be told as a mistake: only those that it has are passed on. */
static void ctl_keep_known(const struct option *table, char **environment)
{
    size_t kept = 0;

    for (size_t i = 0; environment[i] != NULL; i++) {
        const char *name = environment[i] + sizeof(CTL_PREFIX) - 1;
        size_t len;

        if (strncmp(environment[i], CTL_PREFIX, sizeof(CTL_PREFIX) - 1) != 0)
            continue;
        len = strcspn(name, "=");

        for (const struct option *row = table; row->name != NULL; row++) {
            size_t at = 0;

            while (at < len && row->name[at] != '\0' &&
                   (row->name[at] == '-' ? '_' : row->name[at] - 'a' + 'A') == name[at])
                at++;
            if (at == len && row->name[at] == '\0') {
                environment[kept++] = environment[i];
                break;
            }
        }
    }
    environment[kept] = NULL;
}

static int ctl_check_operands(const struct ctl_command *command, int num, char **operands,
                              int words)
{
    bool second_is_missing = strchr(command->name, ' ') != NULL && words < 2;

    if (!second_is_missing && num >= command->min_operands &&
        (command->max_operands < 0 || num <= command->max_operands))
        return CTL_OK;
    if (!second_is_missing && command->max_operands >= 0 && num > command->max_operands)
        ctl_tell("%s: one too many", operands[command->max_operands]);
    ctl_tell("usage: mortisectl %s %s (mortisectl %s --help)", command->name, command->operands,
             command->name);
    return CTL_USAGE;
}

/* Has encrypted files opened, where the command has the rows for it; the key's variable is wiped:
 * an editor is started with our environment. False: told. */
static bool ctl_use_secrets(const struct option *table, struct ctl_flags *flags)
{
    const struct secret_source source = {.name = "secrets-key",
                                         .file = flags->secrets_key_file,
                                         .value = flags->secrets_key,
                                         .command = &flags->secrets_key_command};
    CLEANUP(faults_fini) struct faults faults = {0};
    bool used = secrets_use(&source, &faults);

    if (source.value != NULL)
        options_forget(table, "secrets-key", flags, environ);
    ctl_tell_faults(&faults);
    return used;
}

static int ctl_run(const struct ctl_command *command, int argc, char **argv, int words)
{
    struct ctl_flags flags = {0};
    struct options_result result;
    struct faults faults = {0};
    char **environment = ctl_environment();
    char reason[PROCESS_REASON_MAX];
    int status = CTL_USAGE;
    err_t err;

    ctl_keep_known(command->options, environment);
    err = options_parse(command->options, argc, argv, environment, &flags, &result, &faults);
    if (!err_is_ok(err))
        ctl_tell_faults(&faults);
    else if (result.help)
        ctl_command_help(command, result.man, stdout);
    else if (result.version)
        build_print("mortisectl", stdout);
    else
        status = ctl_check_operands(command, argc - result.first_operand - words,
                                    argv + result.first_operand + words, words);
    if (err_is_ok(err) && (result.help || result.version)) {
        status = CTL_OK;
    } else if (status == CTL_OK && !process_has_descriptors(CTL_DESCRIPTORS_LEAST, reason)) {
        ctl_tell("%s", reason);
        status = CTL_USAGE;
    } else if (status == CTL_OK && !ctl_use_secrets(command->options, &flags)) {
        status = CTL_USAGE;
    } else if (status == CTL_OK) {
        status = command->run(&flags, argc - result.first_operand - words,
                              argv + result.first_operand + words);
    }
    secrets_end();
    options_free(command->options, &flags);
    faults_fini(&faults);
    mem_free(environment);
    return status;
}

/* -o, -f, -m, -l and -w are the short ones; of `audit tail` and `logs`, which have no file, -f is
 * --follow. */
static void ctl_expand_short(int argc, char **argv)
{
    static char output[] = "--output";
    static char file[] = "--file";
    static char follow[] = "--follow";
    static char message[] = "--message";
    static char selector[] = "--selector";
    static char watch[] = "--watch";
    int at = ctl_find_word(argc, argv);
    bool tail =
        (at < argc && strcmp(argv[at], "logs") == 0) ||
        (at + 1 < argc && strcmp(argv[at], "audit") == 0 && strcmp(argv[at + 1], "tail") == 0);

    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "-o") == 0)
            argv[i] = output;
        else if (strcmp(argv[i], "-f") == 0)
            argv[i] = tail ? follow : file;
        else if (strcmp(argv[i], "-m") == 0)
            argv[i] = message;
        else if (strcmp(argv[i], "-l") == 0)
            argv[i] = selector;
        else if (strcmp(argv[i], "-w") == 0)
            argv[i] = watch;
    }
}

static int ctl_main(int argc, char **argv)
{
    const struct ctl_command *command;
    int words = 0;
    int at;

    ctl_expand_short(argc, argv);
    at = ctl_find_word(argc, argv);
    if (argc > 1 && ctl_help_of(argv[1]))
        return CTL_OK;
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        build_print("mortisectl", stdout);
        return CTL_OK;
    }
    if (at >= argc) {
        for (int i = 1; i < argc; i++) {
            if (ctl_help_of(argv[i]))
                return CTL_OK;
        }
        ctl_help(stderr);
        return CTL_USAGE;
    }
    command = ctl_find(argc, argv, at, &words);
    if (command == NULL) {
        ctl_unknown(argv[at]);
        return CTL_USAGE;
    }
    return ctl_run(command, argc, argv, words);
}

int main(int argc, char **argv)
{
    process_begin();
    process_protect("mortisectl");
    process_ignore_signals();
    return process_end("mortisectl", ctl_main(argc, argv));
}
