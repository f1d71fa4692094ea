/* mortisectl diff: what differs between two revisions, or what a document would change. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/document.h"
#include "control/ctl/history.h"
#include "control/ctl/mesh_text.h"
#include "control/ctl/table.h"
#include "control/ctl/text_diff.h"
#include "control/mesh_merge.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define DIFF_NAME_MAX 80

static const struct option diff_options[] = {
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "Instead of revisions: what apply of this document would change; - is standard input; "
             "-f for short."},
    {.name = "prune",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, prune),
     .def = "false",
     .help = "With --file: as apply --prune."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* A line, coloured on a terminal. */
static void diff_line(struct bytes line, bool colours)
{
    const char *colour = "";

    if (colours && line.ptr[0] == '-')
        colour = "\033[31m";
    else if (colours && line.ptr[0] == '+')
        colour = "\033[32m";
    else if (colours && line.ptr[0] == '@')
        colour = "\033[36m";
    printf("%s%.*s%s\n", colour, (int)line.len, (const char *)line.ptr,
           colour[0] != '\0' ? "\033[0m" : "");
}

static void diff_show(const char *name_a, const Mortise__V1__Mesh *a, const char *name_b,
                      const Mortise__V1__Mesh *b)
{
    CLEANUP(buf_fini) struct buf text_a = {0};
    CLEANUP(buf_fini) struct buf text_b = {0};
    CLEANUP(buf_fini) struct buf out = {0};
    bool colours = table_is_terminal();
    struct bytes left;
    err_t err;

    mesh_write(CTL_YAML, a, &text_a);
    mesh_write(CTL_YAML, b, &text_b);
    err = text_diff(name_a, buf_view(&text_a), name_b, buf_view(&text_b), &out);
    CHECK(err_is_ok(err)); /* two replies are far smaller than a buffer may be */
    left = buf_view(&out);
    if (left.len == 0)
        fprintf(stderr, "nothing differs between %s and %s\n", name_a, name_b);
    while (left.len > 0) {
        const uint8_t *end = memchr(left.ptr, '\n', left.len);
        size_t len = (size_t)(end - left.ptr);

        diff_line(bytes_of(left.ptr, len), colours);
        left = bytes_of(end + 1, left.len - len - 1);
    }
}

/* The mesh of a revision, or with 0 the one in force; owned in `*out`. NULL: told. */
static const Mortise__V1__Mesh *diff_get(struct conn *conn, uint64_t number,
                                         char name[DIFF_NAME_MAX], ProtobufCMessage **out)
{
    Mortise__V1__GetRevisionRequest request = MORTISE__V1__GET_REVISION_REQUEST__INIT;

    if (number == 0) {
        Mortise__V1__GetMeshResponse *now = mesh_get(conn);

        if (now == NULL)
            return NULL;
        *out = &now->base;
        (void)snprintf(name, DIFF_NAME_MAX, "revision %" PRIu64 " (in force)", now->version);
        return now->mesh;
    }
    request.version = number;
    *out = conn_call(conn, "OperatorService/GetRevision", &request.base,
                     &mortise__v1__get_revision_response__descriptor);
    (void)snprintf(name, DIFF_NAME_MAX, "revision %" PRIu64, number);
    return *out != NULL ? MSG_AS_CONST(Mortise__V1__GetRevisionResponse,
                                       mortise__v1__get_revision_response__descriptor, *out)
                              ->mesh
                        : NULL;
}

static int diff_revisions(struct conn *conn, uint64_t from, uint64_t to)
{
    char name_a[DIFF_NAME_MAX], name_b[DIFF_NAME_MAX];
    ProtobufCMessage *a_msg = NULL, *b_msg = NULL;
    const Mortise__V1__Mesh *a = diff_get(conn, from, name_a, &a_msg), *b = NULL;
    int status = CTL_FAILED;

    if (a != NULL)
        b = diff_get(conn, to, name_b, &b_msg);
    if (a != NULL && b != NULL) {
        diff_show(name_a, a, name_b, b);
        status = CTL_OK;
    }
    if (a_msg != NULL)
        pb_free(a_msg);
    if (b_msg != NULL)
        pb_free(b_msg);
    return status;
}

/* ------------------------------------------------------------------ a document */

/* Whether the control plane would take it; if not, why is told. */
static bool diff_judge(struct conn *conn, const struct ctl_flags *flags,
                       const struct document *document)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    ProtobufCMessage *reply;

    request.mesh = document->mesh;
    request.if_version = document->version;
    request.prune = flags->prune;
    request.dry_run = true;
    reply = conn_call(conn, "OperatorService/Apply", &request.base,
                      &mortise__v1__apply_response__descriptor);
    if (reply != NULL)
        pb_free(reply);
    return reply != NULL;
}

/* Shown also when it would be refused: then that is told, too. */
static int diff_document(struct conn *conn, const struct ctl_flags *flags,
                         const struct document *document)
{
    CLEANUP(mem_freep) char *name_b = mem_printf("with %s", flags->file);
    Mortise__V1__GetMeshResponse *now = mesh_get(conn);
    struct mesh_merge merge = {.mesh = NULL};
    struct faults faults = {0};
    char name_a[DIFF_NAME_MAX];
    bool merged;

    if (now == NULL)
        return CTL_FAILED;
    (void)snprintf(name_a, sizeof(name_a), "revision %" PRIu64 " (in force)", now->version);
    merged = err_is_ok(mesh_merge(now->mesh, document->mesh, flags->prune, &faults, &merge));
    if (merged)
        diff_show(name_a, now->mesh, name_b, merge.mesh);
    (void)fflush(stdout);
    faults_fini(&faults); /* which the control plane tells, with all others */
    mesh_merge_fini(&merge);
    pb_free(&now->base);
    return diff_judge(conn, flags, document) && merged ? CTL_OK : CTL_FAILED;
}

/* ---------------------------------------------------------------------- whole */

static int diff_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct document document = {.mesh = NULL};
    uint64_t numbers[2] = {0, 0};
    struct conn *conn = NULL;
    int status = CTL_FAILED;

    if ((num == 0) == (flags->file == NULL)) {
        ctl_tell("diff of what? mortisectl diff REVISION [REVISION] (mortisectl history lists "
                 "them), or mortisectl diff -f FILE");
        return CTL_USAGE;
    }
    for (int i = 0; i < num; i++) {
        if (!history_number(operands[i], &numbers[i]))
            return CTL_USAGE;
    }
    if (flags->file == NULL || document_read("--file", flags->file, &document))
        conn = conn_open(flags);
    if (conn != NULL)
        status = flags->file != NULL ? diff_document(conn, flags, &document)
                                     : diff_revisions(conn, numbers[0], numbers[1]);
    conn_close(conn);
    document_fini(&document);
    return status;
}

const struct ctl_command ctl_diff = {
    .name = "diff",
    .operands = "[REV [REV]]",
    .summary = "what differs between two revisions, or what a document would change",
    .about = "Shows what one revision of the mesh has that the other has not, as a unified diff of "
             "their documents (lists by name); without a second one, against what is in force. "
             "With --file it shows what apply of that document would change, and fails when it "
             "would be refused.\n\n"
             "Example: mortisectl diff 41\n"
             "         mortisectl diff 41 45\n"
             "         mortisectl diff -f mesh.yaml --prune",
    .options = diff_options,
    .min_operands = 0, /* it says what it wants */
    .max_operands = 2,
    .run = diff_run,
};
