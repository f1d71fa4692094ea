/* mortisectl validate: the same judgement as the control plane's, without one. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/document.h"
#include "control/mesh.h"
#include "control/mesh_merge.h"
#include "control/mesh_trust.h"
#include "control/permissive.h"
#include "control/weaker.h"
#include "lib/base/clock.h"
#include "lib/rpc/pb.h"

static const struct option validate_options[] = {
    CTL_DOCUMENT_ROW,
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

static int validate_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct document document = {.mesh = NULL}, base = {.mesh = NULL};
    Mortise__V1__Mesh *fresh = NULL;
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
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

const struct ctl_command ctl_validate = {
    .name = "validate",
    .operands = "",
    .summary = "check a mesh document without a control plane",
    .about = "Judges a document by the code that judges it when it is applied, and tells every "
             "fault with its place, or what it would change. Nobody is asked: what only the "
             "control plane knows (whose the revocation lists are) and what only the sidecars do "
             "(which ports are free) is told by apply --dry-run.\n\n"
             "Example: mortisectl validate -f mesh.yaml\n"
             "         mortisectl get mesh -o yaml >now.yaml; "
             "mortisectl validate -f change.yaml --base now.yaml",
    .options = validate_options,
    .run = validate_run,
};
