/* mortisectl backup and restore: the control plane's store in a file. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "control/ctl/conn.h"
#include "control/ctl/files.h"
#include "control/msg.h"
#include "control/store_sqlite.h"
#include "control/vault.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "proto/mesh/operator.pb-c.h"

#define BACKUP_MAX ((size_t)1 << 30)
#define BACKUP_STORE "store.db"

static bool backup_exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* ---- backup ---- */

struct backup {
    struct buf image;
    bool whole; /* the last message came, and it is right */
    bool wrong;
};

static void backup_on_chunk(void *arg, const ProtobufCMessage *msg)
{
    const Mortise__V1__BackupChunk *chunk =
        MSG_AS_CONST(Mortise__V1__BackupChunk, mortise__v1__backup_chunk__descriptor, msg);
    struct backup *backup = arg;
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    if (chunk->sha256.len == 0) {
        if (!err_is_ok(buf_add(&backup->image, chunk->data.data, chunk->data.len)))
            backup->wrong = true;
        return;
    }
    SHA256(buf_view(&backup->image).ptr, buf_size(&backup->image), sha256);
    backup->whole = !backup->wrong && chunk->size == buf_size(&backup->image) &&
                    bytes_equal(msg_view(chunk->sha256), bytes_of(sha256, sizeof(sha256)));
}

static int backup_write(const char *path, const struct backup *backup)
{
    err_t err;

    if (!backup->whole) {
        ctl_tell("the backup came incomplete: nothing is written");
        return CTL_FAILED;
    }
    err = file_write_atomic(path, buf_view(&backup->image), 0600);
    if (!err_is_ok(err)) {
        ctl_tell("%s: %s: %s", path, err_text(err.code), strerror(err.sub));
        return CTL_FAILED;
    }
    printf("%s: %zu bytes. It is of use only with the key-encryption key, which is not in it\n",
           path, buf_size(&backup->image));
    return CTL_OK;
}

static int backup_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__BackupRequest request = MORTISE__V1__BACKUP_REQUEST__INIT;
    struct backup backup = {.image = {.max = BACKUP_MAX}};
    struct conn *conn;
    int status = CTL_FAILED;

    (void)num;
    if (backup_exists(operands[0])) {
        ctl_tell("%s: exists already; a backup replaces nothing", operands[0]);
        return CTL_USAGE;
    }
    conn = conn_open(flags);
    if (conn != NULL &&
        conn_stream(conn, "OperatorService/Backup", &request.base,
                    &mortise__v1__backup_chunk__descriptor, backup_on_chunk, &backup))
        status = backup_write(operands[0], &backup);
    conn_close(conn);
    buf_fini(&backup.image);
    return status;
}

static const struct option backup_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

const struct ctl_command ctl_backup = {
    .name = "backup",
    .operands = "FILE",
    .summary = "the control plane's store in a file, while it runs",
    .about = "Writes the mesh, the CA's keys and the records of certificates as they are now, all "
             "sealed "
             "under the key-encryption key, which is not among them: keep that elsewhere. restore "
             "puts "
             "it back.\n\n"
             "Example: mortisectl backup /backups/mesh-$(date +%F).db",
    .options = backup_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = backup_run,
};

/* ---- restore ---- */

/* Nobody may be using the store that is there, nor may there be one without --force. */
static bool restore_is_free(const char *path, bool force)
{
    struct store *store = NULL;
    err_t err;

    if (!backup_exists(path))
        return true;
    if (!force) {
        ctl_tell("%s: exists already; --force puts it aside and takes its place", path);
        return false;
    }
    err = store_sqlite_open(path, 0, &store);
    if (err_is_ok(err))
        store_free(store);
    if (!err_is(err, E_STORE_BUSY)) /* what is damaged is what a restore is for */
        return true;
    ctl_tell("%s: mortise-control is running on it: stop it first", path);
    return false;
}

/* The backup, copied to where the store is to be, opens as one, is whole and is a mesh's. */
static bool restore_check(const char *path, const char *from)
{
    CLEANUP(buf_fini) struct buf settings = {0};
    struct store *store = NULL;
    err_t err = store_sqlite_open(path, 0, &store);

    if (err_is_ok(err)) {
        err = store_get(store, VAULT_SETTINGS, &settings, NULL);
        if (err_is_ok(err)) /* a token that was used since would be good again */
            err = store_sqlite_forget(store, VAULT_TOKENS);
        store_free(store);
    }
    if (err_is_ok(err))
        return true;
    ctl_tell("%s: is no whole backup: %s (%s)", from, err_text(err.code), err_name(err.code));
    (void)unlink(path);
    return false;
}

/* All of `in`, durably. */
static bool restore_pour(int in, int out)
{
    uint8_t part[65536];
    ssize_t got;

    while ((got = read(in, part, sizeof(part))) > 0) {
        if (write(out, part, (size_t)got) != got) /* a disk that is full writes less */
            return false;
    }
    return got == 0 && fsync(out) == 0;
}

/* A name that may be missing goes; false: it is still there. */
static bool restore_unlink(const char *path)
{
    return unlink(path) == 0 || errno == ENOENT;
}

/* What an interrupted restore has left goes; its journal would be played into the next one. */
static bool restore_clear(const char *to)
{
    CLEANUP(mem_freep) char *journal = mem_printf("%s-journal", to);

    if (restore_unlink(journal) && restore_unlink(to))
        return true;
    ctl_tell("%s: cannot be removed: %s", to, strerror(errno));
    return false;
}

static bool restore_copy(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = -1;
    bool done;

    if (in < 0) {
        ctl_tell("%s: %s", from, strerror(errno));
        return false;
    }
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    errno = out >= 0 ? 0 : errno;
    done = out >= 0 && restore_pour(in, out);
    if (!done) {
        ctl_tell("%s: cannot be copied to %s: %s", from, to,
                 errno != 0 ? strerror(errno) : "the disk is full");
        (void)unlink(to);
    }
    if (out >= 0)
        (void)close(out);
    (void)close(in);
    return done;
}

/* Gives what is at `path` a second name, and its journal, which SQLite would play into the new
 * store, that name's. restore_is_free has let SQLite play what can be played. */
static bool restore_set_aside(const char *path)
{
    CLEANUP(mem_freep) char *aside = mem_printf("%s.before-restore", path);
    CLEANUP(mem_freep) char *journal = mem_printf("%s-journal", path);
    CLEANUP(mem_freep) char *journal_aside = mem_printf("%s-journal", aside);

    if (!backup_exists(path))
        return restore_unlink(journal);
    return restore_unlink(journal_aside) && restore_unlink(aside) && link(path, aside) == 0 &&
           (rename(journal, journal_aside) == 0 || errno == ENOENT);
}

/* Puts `fresh` in the place of `path` in one step: whenever this ends, there is a store; without
 * one mortise-control would make a new mesh. */
static bool restore_swap(const char *fresh, const char *path)
{
    err_t err = restore_set_aside(path) ? file_rename(fresh, path) : FAIL(IO, errno);

    if (err_is_ok(err))
        return true;
    ctl_tell("%s: cannot be replaced: %s", path, strerror(err.sub));
    return false;
}

static int restore_run(const struct ctl_flags *flags, int num, char **operands)
{
    const char *from = operands[0];
    const char *folder = operands[1];
    CLEANUP(mem_freep) char *path = mem_printf("%s/%s", folder, BACKUP_STORE);
    CLEANUP(mem_freep) char *fresh = mem_printf("%s/%s.restoring", folder, BACKUP_STORE);

    (void)num;
    if (!files_make_folder(folder) || !restore_is_free(path, flags->force) ||
        !restore_clear(fresh) || !restore_copy(from, fresh) || !restore_check(fresh, from) ||
        !restore_swap(fresh, path))
        return CTL_FAILED;
    printf("%s is %s now. Start mortise-control on it with the key-encryption key of that time\n",
           path, from);
    return CTL_OK;
}

static const struct option restore_options[] = {
    {.name = "force",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, force),
     .def = "false",
     .help = "Take the place of a store that is there; it is kept as store.db.before-restore."},
    {.name = NULL},
};

const struct ctl_command ctl_restore = {
    .name = "restore",
    .operands = "FILE DATA_DIR",
    .summary = "puts a backup where a control plane will look for its store",
    .about = "Asks no control plane: none may be running on DATA_DIR. The backup is judged before "
             "anything "
             "is replaced. What was decided after the backup is not in it: sidecars that have seen "
             "it refuse the store until `mortisectl accept-restore --confirm`. Join tokens are not "
             "restored.\n\n"
             "Example: mortisectl restore /backups/mesh-2026-11-23.db /var/lib/mortise",
    .options = restore_options,
    .min_operands = 2,
    .max_operands = 2,
    .run = restore_run,
};
