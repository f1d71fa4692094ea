#include "control/plane_store.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/access.h"
#include "control/attest.h"
#include "control/audit.h"
#include "control/ca.h"
#include "control/msg.h"
#include "control/registry.h"
#include "control/store_sqlite.h"
#include "lib/base/file.h"
#include "lib/base/log.h"

struct plane_store {
    const struct config *config;
    const struct clock *clock;
    const struct seal_keys *keys;
    struct faults *faults;
};

/* The folder is ours alone: it is made, or must be so already. */
static err_t plane_store_check_folder(const struct plane_store *place)
{
    const char *path = place->config->data_dir;
    struct stat st;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        faults_add(place->faults, "--data-dir", "%s: cannot be made: %s", path, strerror(errno));
        return FAIL(FILE_OPEN, errno);
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        faults_add(place->faults, "--data-dir", "%s: is not a folder", path);
        return FAIL(FILE_OPEN, ENOTDIR);
    }
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        faults_add(place->faults, "--data-dir",
                   "%s: is open to others, or belongs to somebody else: chown and chmod 700 it",
                   path);
        return FAIL(FILE_UNSAFE, st.st_mode & 0777);
    }
    return OK;
}

static const char *plane_store_advice(err_t err)
{
    switch ((int)err.code) {
    case E_STORE_BUSY:
        return "another mortise-control is running on it";
    case E_STORE_CORRUPT:
        return "it is damaged: restore the folder from a backup";
    case E_AUDIT_MISSING:
        return err.sub == 0
                   ? "somebody has taken it out, or a version of the program from before there was "
                     "one wrote the store, and nothing tells these apart: restore the folder from "
                     "a backup; a store of such a version is not taken over, but its mesh is, by "
                     "`mortisectl get mesh` there and `mortisectl apply` at a new store "
                     "(docs/audit.md)"
                   : "parts of one are there: it was cut; restore the folder from a backup";
    case E_STORE_SCHEMA:
        return "start the version of the program that wrote it";
    case E_STORE_UNWRITABLE:
        return "is the disk full or read-only?";
    default:
        return "check the folder and its disk";
    }
}

void plane_store_fault(const char *path, err_t err, struct faults *faults)
{
    faults_add(faults, path, "%s: %s (%d): %s", err_name(err.code), err_text(err.code),
               (int)err.sub, plane_store_advice(err));
}

static err_t plane_store_open_vault(const struct plane_store *place, const char *path,
                                    struct vault **out)
{
    struct store *store;

    TRY(store_sqlite_open(path, place->config->store_max_size, &store));
    *out = vault_new(store, place->keys);
    return OK;
}

static bool plane_store_is_empty(struct vault *vault)
{
    struct store_items items;
    bool is_empty;

    if (!err_is_ok(store_list_page(vault_store(vault), "", "", 1, &items)))
        return false;
    is_empty = items.num == 0;
    store_items_fini(&items);
    return is_empty;
}

static bool plane_store_exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

char *plane_store_login_path(const struct config *config)
{
    return mem_printf("%s/admin-token", config->data_dir);
}

/* For whoever has just set it up: the token for a first certificate, with which no terminal and no
 * log has anything to do. Without the file there is the operator socket. */
static void plane_store_write_login(const struct plane_store *place, const char *token)
{
    CLEANUP(mem_freep) char *path = plane_store_login_path(place->config);
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    err_t err = buf_printf(&text, "%s\n", token);

    if (err_is_ok(err))
        err = file_write_atomic(path, buf_view(&text), 0600);
    if (err_is_ok(err))
        log_info("plane", "admin_token", LOG_STR("file", path),
                 LOG_UINT("valid_s", ATTEST_TTL_DEFAULT_S));
    else
        log_warn("plane", "admin_token_not_written", LOG_STR("file", path), LOG_ERR("error", err));
}

/* Root, issuer, default mesh, settings, in one transaction. */
static err_t plane_store_create(const struct plane_store *place, struct vault *vault)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__Settings settings = MORTISE__CONTROL__SETTINGS__INIT;
    int64_t now_s = clock_wall_s(place->clock);
    const struct access_author author = {AUDIT_OURSELVES, now_s};
    char *token = NULL;
    err_t err;

    if (place->config->trust_domain == NULL) {
        faults_add(place->faults, "--trust-domain",
                   "is needed at the first start: the name of the mesh, for example mesh.example");
        return FAIL(CONFIG_INVALID, 1);
    }
    settings.schema = 1;
    settings.trust_domain = place->config->trust_domain;
    settings.created_at = now_s;
    TRY(vault_batch_put(vault, &batch, VAULT_SETTINGS, &settings.base, STORE_ABSENT));
    TRY(place->config->external_root
            ? ca_create_without(vault, &batch, settings.trust_domain, now_s)
            : ca_create(vault, &batch, settings.trust_domain, now_s));
    TRY(registry_create(vault, &batch, now_s));
    TRY(audit_create(vault, &batch, settings.trust_domain, now_s));
    TRY(access_create(vault, &batch, PLANE_STORE_FIRST_ADMIN, ROLE_ADMIN, &author));
    TRY(attest_login_new(vault, &batch, PLANE_STORE_FIRST_ADMIN, 0, now_s, ATTEST_TTL_DEFAULT_S,
                         &token));
    err = vault_commit(vault, &batch, NULL);
    if (err_is_ok(err))
        plane_store_write_login(place, token);
    mem_wipe(token, strlen(token));
    mem_free(token);
    TRY(err);
    log_info("plane", "created", LOG_STR("trust_domain", settings.trust_domain),
             LOG_STR("root", place->config->external_root ? "elsewhere" : "made"));
    return OK;
}

/* What an earlier first start has left unfinished is of no use: there is no store yet. */
static err_t plane_store_open_new(const struct plane_store *place, const char *fresh,
                                  struct vault **out)
{
    CLEANUP(mem_freep) char *journal = mem_printf("%s-journal", fresh);
    err_t err = plane_store_open_vault(place, fresh, out);

    if (!err_is(err, E_STORE_CORRUPT) && !err_is(err, E_STORE_SCHEMA))
        return err;
    (void)unlink(fresh);
    (void)unlink(journal);
    return plane_store_open_vault(place, fresh, out);
}

/* Makes the new mesh in `fresh`, unless there is one: of a first start that did not come to its
 * end. */
static err_t plane_store_fill(const struct plane_store *place, const char *path, const char *fresh)
{
    CLEANUP(mem_freep) char *journal = mem_printf("%s-journal", fresh);
    struct vault *vault;
    err_t err = plane_store_open_new(place, fresh, &vault);

    if (!err_is_ok(err)) {
        plane_store_fault(fresh, err, place->faults);
        return err;
    }
    if (!plane_store_exists(path) && plane_store_is_empty(vault))
        err = plane_store_create(place, vault);
    vault_free(vault);
    (void)unlink(journal); /* one that was finished, and left */
    if (!err_is_ok(err) && !err_is(err, E_CONFIG_INVALID))
        plane_store_fault(fresh, err, place->faults);
    return err;
}

/* The first start makes the new mesh under another name, which becomes the store's in one step: a
 * store that is there, and empty, is one that was lost. Of several processes one makes it. */
static err_t plane_store_make(const struct plane_store *place, const char *path)
{
    CLEANUP(mem_freep) char *fresh = mem_printf("%s.new", path);
    err_t err = plane_store_fill(place, path, fresh);

    if (err_is_ok(err) && !plane_store_exists(path))
        err = file_rename(fresh, path);
    if (!err_is_ok(err) && !plane_store_exists(path)) {
        if (err_is(err, E_IO))
            plane_store_fault(path, err, place->faults);
        return err;
    }
    (void)unlink(fresh); /* there only if somebody was faster */
    return OK;
}

/* Without the store its journal is a leftover that would be played into the next one. */
static err_t plane_store_check_journal(const struct plane_store *place, const char *path)
{
    CLEANUP(mem_freep) char *journal = mem_printf("%s-journal", path);

    if (!plane_store_exists(journal))
        return OK;
    faults_add(place->faults, path,
               "store_corrupt: is missing, and its journal is there: restore it from a backup; for "
               "a new mesh remove %s too",
               journal);
    return FAIL(STORE_CORRUPT, 0);
}

static err_t plane_store_check_records(const struct plane_store *place, const char *path,
                                       struct vault *vault)
{
    err_t err = vault_verify(vault, place->faults);

    if (err_is(err, E_KEK_UNAVAILABLE)) {
        faults_add(place->faults, "--kek-file",
                   "kek_unavailable: this is not the key of that store, or not all of them: while "
                   "it goes over to a new key, both are needed, the new one first");
    } else if (!err_is_ok(err)) {
        plane_store_fault(path, err, place->faults);
    } else if (plane_store_is_empty(vault)) {
        faults_add(place->faults, path,
                   "store_corrupt: nothing is in it, it was emptied: restore it from a backup; for "
                   "a new mesh remove it");
        err = FAIL(STORE_CORRUPT, 0);
    }
    return err;
}

err_t plane_store_open(const struct config *config, const struct clock *clock,
                       const struct seal_keys *keys, struct faults *faults, struct vault **out)
{
    const struct plane_store place = {config, clock, keys, faults};
    CLEANUP(mem_freep) char *path = mem_printf("%s/store.db", config->data_dir);
    err_t err;

    TRY(plane_store_check_folder(&place));
    if (!plane_store_exists(path)) {
        TRY(plane_store_check_journal(&place, path));
        TRY(plane_store_make(&place, path));
    }
    err = plane_store_open_vault(&place, path, out);
    if (!err_is_ok(err)) {
        plane_store_fault(path, err, faults);
        return err;
    }
    return plane_store_check_records(&place, path, *out);
}
