/* mortisectl edit: the mesh in force in the operator's editor. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/ctl/apply.h"
#include "control/ctl/document.h"
#include "control/ctl/mesh_text.h"
#include "control/ctl/program.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define EDIT_WORDS_MAX 16 /* of the editor's command */
#define EDIT_FILE_MAX ((size_t)4 << 20)

static const struct option edit_options[] = {
    CTL_DRY_RUN_ROW, CTL_WEAKER_ROW,  CTL_FORCE_STRICT_ROW, CTL_WAIT_ROW,   CTL_ON_NACK_ROW,
    CTL_MESSAGE_ROW, CTL_TIMEOUT_ROW, CTL_CONNECTION_ROWS,  {.name = NULL},
};

struct edit {
    const struct ctl_flags *flags;
    Mortise__V1__GetMeshResponse *now; /* as it was taken, owned */
    struct buf text;                   /* as it was given to the editor */
    char *path;                        /* owned; NULL: there is no file */
};

/* ------------------------------------------------------------------ the editor */

/* Words of the command, cut out of `command`; false when there are none, or too many. */
static bool edit_split(char *command, const char *path, char *argv[EDIT_WORDS_MAX + 2])
{
    size_t num = 0;
    char *at = command;

    for (;;) {
        at += strspn(at, " \t");
        if (*at == '\0' || num == EDIT_WORDS_MAX)
            break;
        argv[num++] = at;
        at += strcspn(at, " \t");
        if (*at != '\0')
            *at++ = '\0';
    }
    argv[num] = (char *)(uintptr_t)path; /* only read */
    argv[num + 1] = NULL;
    return num > 0 && *at == '\0';
}

/* True when the editor ended well; else told. */
static bool edit_run_editor(const char *path)
{
    const char *named = getenv("VISUAL");
    CLEANUP(mem_freep) char *command = NULL;
    char *argv[EDIT_WORDS_MAX + 2];
    struct sigaction ignore = {.sa_handler = SIG_IGN}, on_int, on_quit;
    int status, err;

    if (named == NULL || named[0] == '\0')
        named = getenv("EDITOR");
    command = mem_strdup(named != NULL && named[0] != '\0' ? named : "vi");
    if (!edit_split(command, path, argv)) {
        ctl_tell("$VISUAL or $EDITOR is no command of 1 to %d words", EDIT_WORDS_MAX);
        return false;
    }
    /* An editor's Ctrl-C is not ours. */
    CHECK(sigaction(SIGINT, &ignore, &on_int) == 0 && sigaction(SIGQUIT, &ignore, &on_quit) == 0);
    status = program_run(argv);
    err = errno;
    CHECK(sigaction(SIGINT, &on_int, NULL) == 0 && sigaction(SIGQUIT, &on_quit, NULL) == 0);
    if (status == 0)
        return true;
    if (status > 0)
        ctl_tell("the editor %s did not end well: nothing was changed", argv[0]);
    else
        ctl_tell("cannot start the editor %s: %s (it is $VISUAL, $EDITOR or vi)", argv[0],
                 strerror(err));
    return false;
}

/* -------------------------------------------------------------------- the file */

static bool edit_write(struct edit *edit)
{
    const char *folder = getenv("TMPDIR");
    struct bytes left = buf_view(&edit->text);
    int fd;

    edit->path = mem_printf("%s/mortise-edit-XXXXXX.yaml",
                            folder != NULL && folder[0] != '\0' ? folder : "/tmp");
    fd = mkstemps(edit->path, (int)strlen(".yaml"));
    if (fd < 0) {
        ctl_tell("%s: cannot make it: %s", edit->path, strerror(errno));
        mem_free(edit->path);
        edit->path = NULL;
        return false;
    }
    while (left.len > 0) {
        ssize_t len = write(fd, left.ptr, left.len);

        if (len < 0 && errno == EINTR)
            continue;
        if (len <= 0)
            break;
        left = bytes_of(left.ptr + len, left.len - (size_t)len);
    }
    if (close(fd) != 0 || left.len > 0) {
        ctl_tell("%s: cannot write it: %s", edit->path, strerror(errno));
        return false;
    }
    return true;
}

static void edit_make_text(struct edit *edit)
{
    Mortise__V1__GetMeshResponse shown = *edit->now;
    Mortise__V1__Mesh sorted;
    err_t err;

    mesh_sort(edit->now->mesh, &sorted);
    shown.mesh = &sorted;
    err = buf_add_str(&edit->text,
                      "# The mesh. What you save is applied, whole: what you take out is removed.\n"
                      "# Unchanged, or empty, it changes nothing.\n");
    if (err_is_ok(err))
        err = json_pb_write(JSON_PB_YAML, &shown.base, &edit->text);
    CHECK(err_is_ok(err)); /* a reply is far smaller than a buffer may be */
    mesh_sort_fini(&sorted);
}

static bool edit_is_unchanged(const struct edit *edit)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = file_read(edit->path, EDIT_FILE_MAX, &text);

    if (!err_is_ok(err))
        return false; /* reading it as a document tells why */
    for (size_t i = 0; i < buf_size(&text); i++) {
        if (strchr(" \t\n", buf_view(&text).ptr[i]) == NULL)
            return bytes_equal(buf_view(&text), buf_view(&edit->text));
    }
    return true; /* empty */
}

static int edit_apply(const struct edit *edit)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    struct document document;
    struct conn *conn = NULL;
    int status = CTL_FAILED;

    if (!document_read("edit", edit->path, &document))
        return CTL_FAILED;
    request.mesh = document.mesh;
    request.prune = true;
    request.if_version = edit->now->version;
    if (protobuf_c_message_get_packed_size(&document.mesh->base) == 0)
        ctl_tell("%s has no mesh in it: nothing was changed", edit->path);
    else
        conn = conn_open(edit->flags);
    if (conn != NULL)
        status = apply_send(conn, edit->flags, &request);
    conn_close(conn);
    document_fini(&document);
    return status;
}

/* The file stays when something went wrong with what is in it. */
static int edit_file(struct edit *edit)
{
    int status = CTL_FAILED;
    bool keep = false;

    edit_make_text(edit);
    if (edit_write(edit)) {
        bool edited = edit_run_editor(edit->path);
        bool unchanged = edit_is_unchanged(edit);

        if (edited && unchanged) {
            printf("nothing to change: version %" PRIu64 " stays\n", edit->now->version);
            status = CTL_OK;
        } else if (edited) {
            status = edit_apply(edit);
        }
        keep = status != CTL_OK && !unchanged;
    }
    if (keep && access(edit->path, F_OK) != 0)
        ctl_tell("%s is gone: nothing was changed", edit->path);
    else if (keep)
        ctl_tell("your text is kept: mend it, then mortisectl apply -f %s --prune", edit->path);
    else if (edit->path != NULL && unlink(edit->path) != 0)
        ctl_tell("%s: cannot remove it: %s", edit->path, strerror(errno));
    return status;
}

static int edit_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct edit edit = {.flags = flags};
    struct conn *conn = conn_open(flags);
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
    if (conn != NULL)
        edit.now = mesh_get(conn);
    conn_close(conn); /* nobody waits for a person */
    if (edit.now != NULL) {
        status = edit_file(&edit);
        pb_free(&edit.now->base);
    }
    buf_fini(&edit.text);
    mem_free(edit.path);
    return status;
}

const struct ctl_command ctl_edit = {
    .name = "edit",
    .operands = "",
    .summary = "change the mesh in force in your editor",
    .about = "Opens the mesh in force, as YAML, in $VISUAL, $EDITOR or vi, and applies what you "
             "save, as apply --prune does: what you take out is removed. Refused when somebody has "
             "changed the mesh meanwhile, with who and what. When it is refused your text is kept, "
             "and where is told.\n\n"
             "Example: mortisectl edit -m \"portal moves to 8443\" --wait",
    .options = edit_options,
    .run = edit_run,
};
