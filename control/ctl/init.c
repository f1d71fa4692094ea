/* mortisectl init: a folder with a key-encryption key and a settings file. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs/seal.h"
#include "certs/spiffe_id.h"
#include "control/ctl/ctl.h"
#include "control/ctl/files.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

#define INIT_KEK_MAX 4096

static const struct option init_options[] = {
    {.name = "trust-domain",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, trust_domain),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "NAME",
     .help = "The mesh's SPIFFE trust domain, in all of its identities, for good: "
             "lower-case letters, digits, '.', '-' and '_'."},
    {.name = "external-root",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, external_root),
     .def = "false",
     .help = "The root's key is kept elsewhere: the control plane makes none, and waits for an "
             "issuing certificate (mortisectl ca csr, ca import)."},
    {.name = NULL},
};

/* Whether there is a key already, of an init that was interrupted, or that somebody brought. */
static bool init_has_kek(const char *folder)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/kek", folder);
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    struct seal_key key;
    bool has = err_is_ok(file_read_private(path, INIT_KEK_MAX, &text)) &&
               err_is_ok(seal_key_parse(buf_view(&text), &key));

    if (has)
        seal_key_fini(&key);
    return has;
}

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

static bool init_write_settings(const char *folder, const char *trust_domain, bool external_root)
{
    CLEANUP(mem_freep)
    char *text =
        mem_printf("# Settings of mortise-control; `mortise-control --help` lists them all.\n"
                   "# Relative names are relative to this file's folder.\n"
                   "trust_domain: %s\n"
                   "data_dir: .\n"
                   "kek_file: kek\n"
                   "listen: 0.0.0.0:15010\n"
                   "%s",
                   trust_domain, external_root ? "external_root: true\n" : "");

    return files_write(folder, "control.yaml", bytes_of_str(text), 0600);
}

static int init_run(const struct ctl_flags *flags, int num, char **operands)
{
    static const char *const names[] = {"control.yaml", NULL};
    const char *folder = operands[0];
    char absolute[PATH_MAX];
    bool has_kek;

    (void)num;
    if (!spiffe_trust_domain_valid(bytes_of_str(flags->trust_domain))) {
        ctl_tell(
            "--trust-domain: \"%s\" is not a trust domain: lower-case letters, digits, '.', '-' "
            "and '_'",
            flags->trust_domain);
        return CTL_USAGE;
    }
    if (!files_make_folder(folder) || !files_are_free(folder, names))
        return CTL_FAILED;
    /* The settings come last: with them it is whole, without them it can be done again. */
    has_kek = init_has_kek(folder);
    if ((!has_kek && !init_write_kek(folder)) ||
        !init_write_settings(folder, flags->trust_domain, flags->external_root))
        return CTL_FAILED;
    if (realpath(folder, absolute) == NULL)
        (void)snprintf(absolute, sizeof(absolute), "%s", folder);
    printf("%s %s/kek           the key under which the store is sealed: keep a copy elsewhere\n"
           "made %s/control.yaml\n"
           "\n"
           "next:\n"
           "  mortise-control --config %s/control.yaml &\n"
           "  export MORTISE_SOCKET=%s/operator.sock\n"
           "  mortisectl %s\n"
           "and within 15 minutes, for administration from elsewhere, with the one-time token that "
           "the first start\n"
           "leaves in %s/admin-token:\n"
           "  mortisectl login --server HOST:15010 --trust-domain %s --roots roots.pem "
           "--token-file %s/admin-token --out admin/\n",
           has_kek ? "kept" : "made", folder, folder, folder, absolute,
           flags->external_root ? "ca csr > issuing.csr    # to be signed by the root" : "status",
           absolute, flags->trust_domain, absolute);
    return CTL_OK;
}

const struct ctl_command ctl_init = {
    .name = "init",
    .operands = "DIR",
    .summary = "make a folder to start a control plane with",
    .about = "Makes DIR (mode 0700) with a new key-encryption key (kek) and a settings file "
             "(control.yaml). Asks no control plane and overwrites nothing; a key that is there is "
             "kept.\n\n"
             "Example: mortisectl init /var/lib/mortise --trust-domain mesh.example",
    .options = init_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = init_run,
};
