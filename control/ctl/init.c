/* mortisectl init: a folder with a key-encryption key and a settings file. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "control/ctl/ctl.h"
#include "control/ctl/files.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

static const struct option init_options[] = {
    {.name = "trust-domain",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, trust_domain),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "NAME",
     .help = "The mesh's SPIFFE trust domain, in all of its identities, for good: "
             "lower-case letters, digits, '.', '-' and '_'."},
    {.name = NULL},
};

static bool init_write_kek(const char *folder)
{
    uint8_t key[32];
    char text[2 * sizeof(key) + 2];
    bool written;

    random_fill(key, sizeof(key));
    bytes_to_hex(bytes_of(key, sizeof(key)), text);
    text[2 * sizeof(key)] = '\n';
    written = files_write(folder, "kek", bytes_of(text, 2 * sizeof(key) + 1), 0600);
    mem_wipe(key, sizeof(key));
    mem_wipe(text, sizeof(text));
    return written;
}

static bool init_write_settings(const char *folder, const char *trust_domain)
{
    CLEANUP(mem_freep)
    char *text =
        mem_printf("# Settings of mortise-control; `mortise-control --help` lists them all.\n"
                   "# Relative names are relative to this file's folder.\n"
                   "trust_domain: %s\n"
                   "data_dir: .\n"
                   "kek_file: kek\n"
                   "listen: 0.0.0.0:15010\n",
                   trust_domain);

    return files_write(folder, "control.yaml", bytes_of_str(text), 0600);
}

static int init_run(const struct ctl_flags *flags, int num, char **operands)
{
    static const char *const names[] = {"kek", "control.yaml", NULL};
    const char *folder = operands[0];
    char absolute[PATH_MAX];

    (void)num;
    if (!spiffe_trust_domain_valid(bytes_of_str(flags->trust_domain))) {
        ctl_tell(
            "--trust-domain: \"%s\" is not a trust domain: lower-case letters, digits, '.', '-' "
            "and '_'",
            flags->trust_domain);
        return CTL_USAGE;
    }
    if (!files_make_folder(folder) || !files_are_free(folder, names) || !init_write_kek(folder) ||
        !init_write_settings(folder, flags->trust_domain))
        return CTL_FAILED;
    if (realpath(folder, absolute) == NULL)
        (void)snprintf(absolute, sizeof(absolute), "%s", folder);
    printf("made %s/kek           the key under which the store is sealed: keep a copy elsewhere\n"
           "made %s/control.yaml\n"
           "\n"
           "next:\n"
           "  mortise-control --config %s/control.yaml &\n"
           "  export MORTISE_SOCKET=%s/operator.sock\n"
           "  mortisectl status\n",
           folder, folder, folder, absolute);
    return CTL_OK;
}

const struct ctl_command ctl_init = {
    .name = "init",
    .operands = "DIR",
    .summary = "make a folder to start a control plane with",
    .about = "Makes DIR (mode 0700) with a new key-encryption key (kek) and a settings file "
             "(control.yaml). Asks no control plane and overwrites nothing.\n\n"
             "Example: mortisectl init /var/lib/mortise --trust-domain mesh.example",
    .options = init_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = init_run,
};
