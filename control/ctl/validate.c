/* mortisectl validate: the judgement of the program that a file is for, without starting it: of a
 * mesh document by the code that the control plane has, of a program's own settings by the program.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/document.h"
#include "control/ctl/program.h"
#include "control/mesh.h"
#include "control/mesh_merge.h"
#include "control/mesh_trust.h"
#include "control/permissive.h"
#include "control/weaker.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

enum validate_kind { VALIDATE_AUTO, VALIDATE_MESH, VALIDATE_SIDECAR, VALIDATE_CONTROL };

static const char *const validate_kinds[] = {"auto", "mesh", "sidecar", "control", NULL};

static const struct option validate_options[] = {
    CTL_DOCUMENT_ROW,
    {.name = "kind",
     .kind = OPTION_ENUM,
     .offset = offsetof(struct ctl_flags, document_kind),
     .def = "auto",
     .words = validate_kinds,
     .arg = "KIND",
     .help = "What it is: a mesh document, the file of a static sidecar (mortise-proxy --config), "
             "the settings of a control plane (mortise-control --config); auto: as its keys say."},
    {.name = "base",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, base),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "The mesh that it would be applied to, as get mesh writes it; without: that of a new "
             "installation."},
    {.name = "prune",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, prune),
     .def = "false",
     .help = "As apply --prune: what the document does not name would be removed."},
    {.name = NULL},
};

/* True when the document may be applied to `base`; what would change, or every fault, is told. */
static bool validate(const Mortise__V1__Mesh *base, const Mortise__V1__Mesh *mesh, bool prune)
{
    struct mesh_merge merge = {.mesh = NULL};
    struct faults faults = {0};
    err_t merged = mesh_merge(base, mesh, prune, &faults, &merge);
    err_t checked = mesh_check(merge.mesh, &merge.origin, &faults);
    err_t trusted =
        mesh_trust_check(merge.mesh, base, &merge.origin, clock_wall_s(&clock_system), &faults);
    int64_t now_s = clock_wall_s(&clock_system);
    err_t dated = permissive_check(base, merge.mesh, &merge.origin, now_s, &faults);
    bool good = err_is_ok(merged) && err_is_ok(checked) && err_is_ok(trusted) && err_is_ok(dated);

    for (size_t i = 0; good && i < merge.num_changes; i++)
        printf("%s\n", merge.changes[i]);
    if (good)
        weaker_find(base, merge.mesh, &merge.weaker);
    if (good)
        weaker_policies(base, merge.mesh, &merge.weaker);
    if (good)
        permissive_weaker(base, merge.mesh, now_s, &merge.weaker);
    for (size_t i = 0; i < merge.weaker.num; i++)
        printf("weaker, wants --allow-weaker: %s: %s\n", merge.weaker.items[i].path,
               merge.weaker.items[i].message);
    ctl_tell_faults(&faults);
    faults_fini(&faults);
    if (good)
        mesh_warn(merge.mesh, &merge.origin, &faults);
    for (size_t i = 0; i < faults.num; i++)
        ctl_tell("warning: %s: %s", faults.items[i].path, faults.items[i].message);
    faults_fini(&faults);
    mesh_merge_fini(&merge);
    return good;
}

/* ------------------------------------------------------------------------ kinds */

static bool validate_is_one_of(const char *key, const char *const *names)
{
    while (*names != NULL && strcmp(*names, key) != 0)
        names++;
    return *names != NULL;
}

/* The fields that no other kind has. Mesh documents and sidecars share some: profiles, settings. */
static void validate_on_key(void *arg, const char *key)
{
    static const char *const sidecar[] = {"identity", "inbound", "outbound", NULL};
    static const char *const control[] = {"trust_domain", "data_dir", "kek_file",
                                          "kek",          "listen",   NULL};
    enum validate_kind *kind = arg;

    if (validate_is_one_of(key, sidecar))
        *kind = VALIDATE_SIDECAR;
    else if (*kind == VALIDATE_MESH && validate_is_one_of(key, control))
        *kind = VALIDATE_CONTROL;
}

/* What cannot be read, or is no map, is judged as a mesh document, which tells it. */
static enum validate_kind validate_guess(const char *path)
{
    enum validate_kind kind = VALIDATE_MESH;
    CLEANUP(buf_fini) struct buf text = {0};
    struct faults faults = {0};
    err_t err;

    if (strcmp(path, "-") == 0 || !err_is_ok(file_read(path, JSON_PB_INPUT_MAX, &text)))
        return VALIDATE_MESH;
    err = json_pb_keys(JSON_PB_YAML, path, buf_view(&text), validate_on_key, &kind, &faults);
    (void)err; /* as said */
    faults_fini(&faults);
    return kind;
}

/* The program's own --check, with its own words. */
static int validate_by_program(const struct ctl_flags *flags, const char *name)
{
    CLEANUP(mem_freep) char *program = program_path(name);
    char check[] = "--check", config[] = "--config";
    char *argv[] = {program, check, config, flags->file, NULL};
    int status;

    if (strcmp(flags->file, "-") == 0 || flags->base != NULL || flags->prune) {
        ctl_tell("--file: a file of %s is judged by itself: no standard input, --base or --prune",
                 name);
        return CTL_USAGE;
    }
    (void)fflush(stdout);
    status = program_run(argv);
    if (status == 0)
        printf("valid\n");
    else if (status < 0)
        ctl_tell(
            "cannot start %s: %s: it judges its own files, and is looked for beside mortisectl "
            "and in PATH",
            name, strerror(errno));
    else
        ctl_tell("%s: %s would not start with it", flags->file, name);
    return status == 0 ? CTL_OK : CTL_FAILED;
}

static int validate_mesh(const struct ctl_flags *flags)
{
    struct document document = {.mesh = NULL}, base = {.mesh = NULL};
    Mortise__V1__Mesh *fresh = NULL;
    int status = CTL_FAILED;

    if (flags->base != NULL && strcmp(flags->base, "-") == 0) {
        ctl_tell("--base: must be a file");
        return CTL_USAGE;
    }
    if (flags->base == NULL)
        fresh = mesh_default();
    if (document_read("--file", flags->file, &document) &&
        (fresh != NULL || document_read("--base", flags->base, &base)) &&
        validate(fresh != NULL ? fresh : base.mesh, document.mesh, flags->prune)) {
        printf("valid\n");
        status = CTL_OK;
    }
    document_fini(&document);
    document_fini(&base);
    if (fresh != NULL)
        pb_free(&fresh->base);
    return status;
}

static int validate_run(const struct ctl_flags *flags, int num, char **operands)
{
    enum validate_kind kind = (enum validate_kind)flags->document_kind;

    (void)num;
    (void)operands;
    if (kind == VALIDATE_AUTO)
        kind = validate_guess(flags->file);
    if (kind == VALIDATE_SIDECAR)
        return validate_by_program(flags, "mortise-proxy");
    if (kind == VALIDATE_CONTROL)
        return validate_by_program(flags, "mortise-control");
    return validate_mesh(flags);
}

const struct ctl_command ctl_validate = {
    .name = "validate",
    .operands = "",
    .summary = "check a mesh document, or a program's settings, without a control plane",
    .about = "Judges a document by the code that judges it when it is applied, and tells every "
             "fault with its place, or what it would change. Nobody is asked: what only the "
             "control plane knows (whose the revocation lists are) and what only the sidecars do "
             "(which ports are free) is told by apply --dry-run.\n\n"
             "The file of a static sidecar, or the settings of a control plane, with all that they "
             "name, are judged by mortise-proxy or mortise-control --check, which has to be beside "
             "mortisectl or in PATH.\n\n"
             "Example: mortisectl validate -f mesh.yaml\n"
             "         mortisectl validate -f sidecar.yaml\n"
             "         mortisectl get mesh -o yaml >now.yaml; "
             "mortisectl validate -f change.yaml --base now.yaml",
    .options = validate_options,
    .run = validate_run,
};
