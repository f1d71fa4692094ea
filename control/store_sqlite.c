#include "control/store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "lib/base/log.h"

#define STORE_SQLITE_SCHEMA 1
#define STORE_SQLITE_APPLICATION_ID 0x4d6f7274 /* "Mort", told by file(1) */
#define STORE_SQLITE_NUM_MIN 3040000           /* what Debian 12 has; older ones were not tried */
#define STORE_SQLITE_VERSION_AT 18             /* of the file format, for writers */
#define STORE_SQLITE_VERSION_MAX 2

/* Syncs that failed, of every store. SQLite tells its log of each; to its caller it may say what
 * had failed before, when the sync was one of the rollback that followed. */
static unsigned store_sqlite_syncs_failed;

static void store_sqlite_on_log(void *arg, int rc, const char *message)
{
    (void)arg;
    log_debug("store", "sqlite_said", LOG_INT("code", rc), LOG_STR("message", message));
    if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC)
        store_sqlite_syncs_failed++;
}

static void store_sqlite_configure(void)
{
    static bool done;

    if (!done) /* once, before SQLite is in use */
        CHECK(sqlite3_config(SQLITE_CONFIG_LOG, store_sqlite_on_log, NULL) == SQLITE_OK);
    done = true;
}

enum store_sqlite_stmt {
    STMT_GET,
    STMT_PUT,
    STMT_DELETE,
    STMT_LIST,
    STMT_REVISION_GET,
    STMT_REVISION_SET,
    STMT_BEGIN,
    STMT_COMMIT,
    STMT_ROLLBACK,
    STMT_NUM,
};

static const char *const store_sqlite_sql[STMT_NUM] = {
    [STMT_GET] = "SELECT version, value FROM item WHERE key = ?1",
    [STMT_PUT] = "INSERT OR REPLACE INTO item (key, version, value) VALUES (?1, ?2, ?3)",
    [STMT_DELETE] = "DELETE FROM item WHERE key = ?1",
    [STMT_LIST] = "SELECT key, version, value FROM item WHERE key >= ?1 AND key > ?2 ORDER BY key",
    [STMT_REVISION_GET] = "SELECT value FROM meta WHERE name = 'revision'",
    [STMT_REVISION_SET] = "UPDATE meta SET value = ?1 WHERE name = 'revision'",
    [STMT_BEGIN] = "BEGIN IMMEDIATE",
    [STMT_COMMIT] = "COMMIT",
    [STMT_ROLLBACK] = "ROLLBACK",
};

struct store_sqlite {
    struct store store;
    sqlite3 *db;
    sqlite3_stmt *stmts[STMT_NUM];
    int broken; /* the SQLite code of what ended writing: a failed sync, another file; 0: none */
    unsigned syncs_failed; /* as counted when it was opened */
    char *path;
    struct stat file; /* as it was when it was opened, or after the last commit */
};

static struct store_sqlite *store_sqlite_of(struct store *store)
{
    return CONTAINER_OF(store, struct store_sqlite, store);
}

/* A reader meets these when a commit that failed has to be taken back first, and cannot be. */
static bool store_sqlite_is_unwritable(int rc)
{
    switch (rc) {
    case SQLITE_IOERR_WRITE:
    case SQLITE_IOERR_FSYNC:
    case SQLITE_IOERR_DIR_FSYNC:
    case SQLITE_IOERR_TRUNCATE:
    case SQLITE_IOERR_DELETE:
        return true;
    default:
        return (rc & 0xff) == SQLITE_FULL || (rc & 0xff) == SQLITE_READONLY;
    }
}

/* The file's header says that a program of our age may only read it: that was not written by us.
 * Source: SQLite file format, section 1.3.3. */
static bool store_sqlite_is_later_format(sqlite3 *db, int rc)
{
    sqlite3_file *file = NULL;
    uint8_t version = 0;

    /* By SQLite's own descriptor: closing another one would drop its lock. */
    return rc == SQLITE_READONLY && db != NULL &&
           sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK &&
           file->pMethods != NULL &&
           file->pMethods->xRead(file, &version, 1, STORE_SQLITE_VERSION_AT) == SQLITE_OK &&
           version > STORE_SQLITE_VERSION_MAX;
}

/* What an SQLite result means to a reader; a writer turns IO into STORE_UNWRITABLE. */
static err_t store_sqlite_err(sqlite3 *db, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_SCHEMA: /* our tables are not there or not as we made them */
    case SQLITE_ERROR:
        log_error("store", "sqlite_error", LOG_INT("code", rc),
                  LOG_STR("message", db != NULL ? sqlite3_errmsg(db) : NULL));
        return FAIL(STORE_CORRUPT, rc);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return FAIL(STORE_BUSY, rc);
    case SQLITE_NOMEM:
        return FAIL(NO_MEMORY, rc);
    default:
        if (store_sqlite_is_later_format(db, rc))
            return FAIL(STORE_CORRUPT, rc);
        return store_sqlite_is_unwritable(rc) ? FAIL(STORE_UNWRITABLE, rc) : FAIL(IO, rc);
    }
}

static err_t store_sqlite_write_err(struct store_sqlite *sqlite, int rc)
{
    err_t err = store_sqlite_err(sqlite->db, rc);

    return err_is(err, E_IO) ? FAIL(STORE_UNWRITABLE, rc) : err;
}

/* A statement ready for its parameters; store_sqlite_done ends its use. */
static sqlite3_stmt *store_sqlite_stmt(struct store_sqlite *sqlite, enum store_sqlite_stmt which)
{
    return sqlite->stmts[which];
}

static void store_sqlite_done(sqlite3_stmt *stmt)
{
    (void)sqlite3_reset(stmt); /* says again what step said */
    (void)sqlite3_clear_bindings(stmt);
}

/* Runs a statement that gives no row. Returns an SQLite code, SQLITE_OK when done. */
static int store_sqlite_run(struct store_sqlite *sqlite, enum store_sqlite_stmt which)
{
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, which);
    int rc = sqlite3_step(stmt);

    store_sqlite_done(stmt);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* SQLite copies nothing that is SQLITE_STATIC: bound memory outlives the step. */
static int store_sqlite_bind_key(sqlite3_stmt *stmt, const char *key)
{
    return sqlite3_bind_text(stmt, 1, key, (int)strlen(key), SQLITE_STATIC);
}

static err_t store_sqlite_get(struct store *store, const char *key, struct buf *out,
                              uint64_t *out_version)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, STMT_GET);
    int rc = store_sqlite_bind_key(stmt, key);
    err_t err;

    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *out_version = (uint64_t)sqlite3_column_int64(stmt, 0);
        err = buf_add(out, sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1));
    } else {
        err = rc == SQLITE_DONE ? FAIL(NOT_FOUND, 0) : store_sqlite_err(sqlite->db, rc);
    }
    store_sqlite_done(stmt);
    return err;
}

static int store_sqlite_version_of(struct store_sqlite *sqlite, const char *key, uint64_t *out)
{
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, STMT_GET);
    int rc = store_sqlite_bind_key(stmt, key);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        *out = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : STORE_ABSENT;
    store_sqlite_done(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int store_sqlite_change(struct store_sqlite *sqlite, const struct store_change *change,
                               uint64_t revision)
{
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, change->remove ? STMT_DELETE : STMT_PUT);
    int rc = store_sqlite_bind_key(stmt, change->key);

    if (rc == SQLITE_OK && !change->remove) {
        rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)(change->same ? change->expect : revision));
        if (rc == SQLITE_OK)
            rc = sqlite3_bind_blob(stmt, 3,
                                   change->value.len > 0 ? (const void *)change->value.ptr : "",
                                   (int)change->value.len, SQLITE_STATIC);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    store_sqlite_done(stmt);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int store_sqlite_next_revision(struct store_sqlite *sqlite, uint64_t *out)
{
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, STMT_REVISION_GET);
    int rc = sqlite3_step(stmt);

    if (rc == SQLITE_ROW)
        *out = (uint64_t)sqlite3_column_int64(stmt, 0) + 1;
    store_sqlite_done(stmt);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
    stmt = store_sqlite_stmt(sqlite, STMT_REVISION_SET);
    rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)*out);
    return rc == SQLITE_OK ? store_sqlite_run(sqlite, STMT_REVISION_SET) : rc;
}

/* Inside a transaction: all of the changes, or why not. */
static err_t store_sqlite_apply(struct store_sqlite *sqlite, const struct store_change *changes,
                                size_t num, uint64_t *out_revision)
{
    int rc = store_sqlite_next_revision(sqlite, out_revision);

    for (size_t i = 0; rc == SQLITE_OK && i < num; i++) {
        uint64_t version = 0;

        rc = store_sqlite_version_of(sqlite, changes[i].key, &version);
        if (rc == SQLITE_OK && changes[i].expect != STORE_ANY && changes[i].expect != version)
            return FAIL(STORE_CONFLICT, i);
        if (rc == SQLITE_OK)
            rc = store_sqlite_change(sqlite, &changes[i], *out_revision);
    }
    if (rc == SQLITE_OK)
        rc = store_sqlite_run(sqlite, STMT_COMMIT);
    return rc == SQLITE_OK ? OK : store_sqlite_write_err(sqlite, rc);
}

/* After a failed sync nobody can say what the disk holds; a second one would say that all is well.
 */
static bool store_sqlite_is_broken(struct store_sqlite *sqlite)
{
    if (sqlite->broken == 0 && sqlite->syncs_failed != store_sqlite_syncs_failed)
        sqlite->broken = SQLITE_IOERR_FSYNC;
    return sqlite->broken != 0;
}

/* The file must be the one that was opened, and no smaller than the last commit left it: what is
 * written to one that was removed, replaced or cut is gone with the next start, though every call
 * succeeds. */
static err_t store_sqlite_check_file(struct store_sqlite *sqlite)
{
    struct stat now;

    if (stat(sqlite->path, &now) == 0 && now.st_ino == sqlite->file.st_ino &&
        now.st_dev == sqlite->file.st_dev && now.st_size >= sqlite->file.st_size)
        return OK;
    log_error("store", "file_changed", LOG_STR("path", sqlite->path),
              LOG_STR("advice", "it was removed, replaced or cut by somebody else: restore it and "
                                "start again"));
    sqlite->broken = SQLITE_READONLY_DBMOVED;
    return FAIL(STORE_UNWRITABLE, sqlite->broken);
}

/* Between a removal and this look nothing can be done; before the next commit it is seen. */
static void store_sqlite_note_file(struct store_sqlite *sqlite)
{
    struct stat now;

    if (stat(sqlite->path, &now) == 0 && now.st_ino == sqlite->file.st_ino)
        sqlite->file.st_size = now.st_size;
}

static err_t store_sqlite_commit(struct store *store, const struct store_change *changes,
                                 size_t num, uint64_t *out_revision)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);
    err_t err;
    int rc;

    if (store_sqlite_is_broken(sqlite))
        return FAIL(STORE_UNWRITABLE, sqlite->broken);
    TRY(store_sqlite_check_file(sqlite));
    rc = store_sqlite_run(sqlite, STMT_BEGIN);
    if (rc != SQLITE_OK)
        return store_sqlite_write_err(sqlite, rc);
    err = store_sqlite_apply(sqlite, changes, num, out_revision);
    /* Some failures end the transaction by themselves. */
    if (!err_is_ok(err) && sqlite3_get_autocommit(sqlite->db) == 0)
        (void)store_sqlite_run(sqlite, STMT_ROLLBACK);
    if (err_is_ok(err))
        store_sqlite_note_file(sqlite);
    return err;
}

static err_t store_sqlite_list(struct store *store, const char *prefix, const char *after,
                               size_t max, struct store_items *out)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, STMT_LIST);
    size_t prefix_len = strlen(prefix);
    size_t cap = 0;
    int rc = store_sqlite_bind_key(stmt, prefix);

    *out = (struct store_items){0};
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 2, after, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        const unsigned char *key;

        rc = out->num < max ? sqlite3_step(stmt) : SQLITE_DONE;
        if (rc != SQLITE_ROW)
            break;
        key = sqlite3_column_text(stmt, 0);
        if (key == NULL || strncmp((const char *)key, prefix, prefix_len) != 0) {
            rc = SQLITE_DONE;
            break;
        }
        if (out->num == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            out->items = mem_realloc(out->items, cap * sizeof(*out->items));
        }
        out->items[out->num++] = (struct store_item){
            .key = mem_strdup((const char *)key),
            .version = (uint64_t)sqlite3_column_int64(stmt, 1),
            .value = mem_dup(sqlite3_column_blob(stmt, 2), (size_t)sqlite3_column_bytes(stmt, 2)),
            .len = (size_t)sqlite3_column_bytes(stmt, 2),
        };
    }
    store_sqlite_done(stmt);
    if (rc == SQLITE_DONE)
        return OK;
    store_items_fini(out);
    return store_sqlite_err(sqlite->db, rc);
}

/* Runs SQL that needs no parameters; `out` (may be NULL) gets the first column of the first row. */
static int store_sqlite_exec(sqlite3 *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

    if (out != NULL)
        out[0] = '\0';
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW && out != NULL) {
        const unsigned char *text = sqlite3_column_text(stmt, 0);

        sqlite3_snprintf((int)size, out, "%s", text != NULL ? (const char *)text : "");
    }
    (void)sqlite3_finalize(stmt); /* says again what step said */
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static err_t store_sqlite_check_db(sqlite3 *db)
{
    char text[256];
    int rc = store_sqlite_exec(db, "PRAGMA integrity_check(1)", text, sizeof(text));

    if (rc != SQLITE_OK)
        return store_sqlite_err(db, rc);
    if (strcmp(text, "ok") == 0)
        return OK;
    log_error("store", "integrity_check_failed", LOG_STR("message", text));
    return FAIL(STORE_CORRUPT, SQLITE_CORRUPT);
}

static err_t store_sqlite_check(struct store *store)
{
    return store_sqlite_check_db(store_sqlite_of(store)->db);
}

/* Page by page into `copy`; sqlite3_serialize alone would put zeros where a page cannot be read. */
static err_t store_sqlite_copy(struct store_sqlite *sqlite, sqlite3 *copy, struct buf *out)
{
    sqlite3_backup *backup = sqlite3_backup_init(copy, "main", sqlite->db, "main");
    sqlite3_int64 size = 0;
    unsigned char *image;
    int rc;

    if (backup == NULL)
        return store_sqlite_err(copy, sqlite3_errcode(copy));
    rc = sqlite3_backup_step(backup, -1);
    (void)sqlite3_backup_finish(backup); /* says again what step said */
    if (rc != SQLITE_DONE)
        return store_sqlite_err(copy, rc);
    TRY(store_sqlite_check_db(copy));
    image = sqlite3_serialize(copy, "main", &size, SQLITE_SERIALIZE_NOCOPY);
    return image != NULL ? buf_add(out, image, (size_t)size) : FAIL(NO_MEMORY, 0);
}

/* One thread uses the database: between two calls no transaction is under way. */
static err_t store_sqlite_backup(struct store *store, struct buf *out)
{
    sqlite3 *copy = NULL;
    int rc = sqlite3_open_v2("copy", &copy,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                 SQLITE_OPEN_EXRESCODE,
                             "memdb");
    err_t err = rc == SQLITE_OK ? store_sqlite_copy(store_sqlite_of(store), copy, out)
                                : store_sqlite_err(copy, rc);

    (void)sqlite3_close(copy); /* nothing of it is kept */
    return err;
}

static void store_sqlite_free(struct store *store)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);

    for (size_t i = 0; i < STMT_NUM; i++)
        (void)sqlite3_finalize(sqlite->stmts[i]);
    if (sqlite->db != NULL)
        CHECK(sqlite3_close(sqlite->db) == SQLITE_OK); /* busy only with a statement left open */
    mem_free(sqlite->path);
    mem_free(sqlite);
}

static err_t store_sqlite_revision(struct store *store, uint64_t *out)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);
    sqlite3_stmt *stmt = store_sqlite_stmt(sqlite, STMT_REVISION_GET);
    int rc = sqlite3_step(stmt);

    if (rc == SQLITE_ROW)
        *out = (uint64_t)sqlite3_column_int64(stmt, 0);
    store_sqlite_done(stmt);
    return rc == SQLITE_ROW ? OK
                            : store_sqlite_err(sqlite->db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc);
}

err_t store_sqlite_forget(struct store *store, const char *prefix)
{
    struct store_sqlite *sqlite = store_sqlite_of(store);
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(
        sqlite->db, "DELETE FROM item WHERE substr(key, 1, length(?1)) = ?1", -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 1, prefix, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    (void)sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? OK : store_sqlite_write_err(sqlite, rc);
}

static const struct store_ops store_sqlite_ops = {
    .get = store_sqlite_get,
    .commit = store_sqlite_commit,
    .list = store_sqlite_list,
    .revision = store_sqlite_revision,
    .check = store_sqlite_check,
    .backup = store_sqlite_backup,
    .free = store_sqlite_free,
};

static err_t store_sqlite_open_err(int error)
{
    return error == EROFS || error == ENOSPC ? FAIL(STORE_UNWRITABLE, error)
                                             : FAIL(FILE_OPEN, error);
}

/* SQLite would make the file by the umask, and would take one that others may read. */
static err_t store_sqlite_prepare_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    int error = 0;

    if (fd < 0)
        return store_sqlite_open_err(errno);
    if (fstat(fd, &st) != 0 || fchmod(fd, 0600) != 0)
        error = errno;
    else if (!S_ISREG(st.st_mode))
        error = EINVAL;
    (void)close(fd); /* nothing was written */
    return error == 0 ? OK : store_sqlite_open_err(error);
}

/* Takes the lock for good: with locking_mode EXCLUSIVE it stays when the transaction ends. */
static err_t store_sqlite_lock(struct store_sqlite *sqlite)
{
    static const char *const pragmas[] = {
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA synchronous = EXTRA",
        "PRAGMA trusted_schema = OFF",
        "PRAGMA cell_size_check = ON",
        "PRAGMA secure_delete = ON",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA mmap_size = 0",
        "PRAGMA cache_size = -512", /* KiB: the records in use; old certificates are rarely read */
        "BEGIN EXCLUSIVE",
        "COMMIT",
    };
    char text[32];
    int rc = SQLITE_OK;

    for (size_t i = 0; rc == SQLITE_OK && i < ARRAY_LEN(pragmas); i++)
        rc = store_sqlite_exec(sqlite->db, pragmas[i], NULL, 0);
    if (rc == SQLITE_OK)
        rc = store_sqlite_exec(sqlite->db, "PRAGMA journal_mode = DELETE", text, sizeof(text));
    if (rc != SQLITE_OK)
        return store_sqlite_write_err(sqlite, rc);
    /* A file in WAL mode that cannot leave it: the WAL-reset fault of 3.7.0-3.51.2 is not for us.
     */
    return strcmp(text, "delete") == 0 ? OK : FAIL(STORE_UNWRITABLE, 0);
}

static err_t store_sqlite_schema(struct store_sqlite *sqlite)
{
    static const char make[] =
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE item (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL);"
        "INSERT INTO meta VALUES ('schema', " ERR_STR(
            STORE_SQLITE_SCHEMA) "), ('revision', 0);"
                                 "PRAGMA application_id = " ERR_STR(
                                     STORE_SQLITE_APPLICATION_ID) ";";
    char text[32];
    long schema;
    int rc =
        store_sqlite_exec(sqlite->db, "SELECT count(*) FROM sqlite_schema", text, sizeof(text));

    if (rc == SQLITE_OK && strcmp(text, "0") == 0) {
        rc = store_sqlite_exec(sqlite->db, "BEGIN IMMEDIATE", NULL, 0);
        if (rc == SQLITE_OK)
            rc = sqlite3_exec(sqlite->db, make, NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            rc = store_sqlite_exec(sqlite->db, "COMMIT", NULL, 0);
        if (rc != SQLITE_OK)
            return store_sqlite_write_err(sqlite, rc);
    }
    if (rc == SQLITE_OK)
        rc = store_sqlite_exec(sqlite->db, "SELECT value FROM meta WHERE name = 'schema'", text,
                               sizeof(text));
    if (rc != SQLITE_OK)
        return store_sqlite_err(sqlite->db, rc);
    schema = strtol(text, NULL, 10);
    return schema == STORE_SQLITE_SCHEMA ? OK : FAIL(STORE_SCHEMA, schema);
}

static err_t store_sqlite_limit(struct store_sqlite *sqlite, int64_t max_bytes)
{
    char text[32];
    char sql[64];
    int rc = store_sqlite_exec(sqlite->db, "PRAGMA page_size", text, sizeof(text));
    long page = strtol(text, NULL, 10);

    if (rc == SQLITE_OK && page > 0) {
        sqlite3_snprintf(sizeof(sql), sql, "PRAGMA max_page_count = %lld",
                         (long long)(max_bytes / page));
        rc = store_sqlite_exec(sqlite->db, sql, NULL, 0);
    }
    return rc == SQLITE_OK ? OK : store_sqlite_err(sqlite->db, rc);
}

static err_t store_sqlite_setup(struct store_sqlite *sqlite, const char *path, int64_t max_bytes)
{
    int rc = sqlite3_open_v2(path, &sqlite->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                 SQLITE_OPEN_EXRESCODE,
                             NULL);

    if (rc != SQLITE_OK)
        return store_sqlite_write_err(sqlite, rc);
    (void)sqlite3_db_config(sqlite->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    TRY(store_sqlite_lock(sqlite));
    TRY(store_sqlite_check(&sqlite->store));
    if (sqlite3_db_readonly(sqlite->db, "main") > 0) /* else the first commit would tell */
        return store_sqlite_write_err(sqlite, SQLITE_READONLY);
    if (max_bytes > 0)
        TRY(store_sqlite_limit(sqlite, max_bytes));
    TRY(store_sqlite_schema(sqlite));
    for (size_t i = 0; i < STMT_NUM; i++) {
        rc = sqlite3_prepare_v3(sqlite->db, store_sqlite_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &sqlite->stmts[i], NULL);
        if (rc != SQLITE_OK)
            return store_sqlite_err(sqlite->db, rc);
    }
    sqlite->path = mem_strdup(path);
    return stat(path, &sqlite->file) == 0 ? OK : FAIL(IO, errno);
}

err_t store_sqlite_open(const char *path, int64_t max_bytes, struct store **out)
{
    struct store_sqlite *sqlite;
    err_t err;

    CHECK(sqlite3_libversion_number() >= STORE_SQLITE_NUM_MIN);
    store_sqlite_configure();
    TRY(store_sqlite_prepare_file(path));
    sqlite = mem_zalloc(sizeof(*sqlite));
    store_init(&sqlite->store, &store_sqlite_ops);
    sqlite->syncs_failed = store_sqlite_syncs_failed;
    err = store_sqlite_setup(sqlite, path, max_bytes);
    if (!err_is_ok(err)) {
        store_sqlite_free(&sqlite->store);
        return err;
    }
    *out = &sqlite->store;
    return OK;
}

const char *store_sqlite_version(void)
{
    return sqlite3_libversion();
}
