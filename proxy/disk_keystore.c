#include "proxy/disk_keystore.h"

#include <errno.h>
#include <string.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/secrets.h"
#include "certs/uploaded.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

struct disk_reader {
    const char *dir;
    const char *folder;
    const char *path;      /* where faults are told */
    struct faults *faults; /* of the caller */
};

bool disk_keystore_name_valid(const char *folder)
{
    size_t len = strlen(folder);

    return len > 0 && len <= DISK_KEYSTORE_NAME_MAX && folder[0] != '-' && folder[len - 1] != '-' &&
           strspn(folder, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

void disk_keystore_watch(const char *dir, const char *folder, struct watch_files *files)
{
    static const char *const names[] = {DISK_KEYSTORE_CHAIN, DISK_KEYSTORE_KEY};

    for (size_t i = 0; disk_keystore_name_valid(folder) && i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *path = mem_printf("%s/%s/%s", dir, folder, names[i]);

        watch_files_add(files, path);
    }
}

static void disk_fault(const struct disk_reader *reader, const char *file, const char *what)
{
    faults_add(reader->faults, reader->path, "%s/%s: %s", reader->folder, file, what);
}

/* False: told. */
static bool disk_read(const struct disk_reader *reader, const char *file, size_t max, bool private,
                      struct buf *out)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/%s/%s", reader->dir, reader->folder, file);
    char why[SECRETS_WHY_MAX] = "";
    err_t err = private ? secrets_read_file(path, max, out, why) : file_read(path, max, out);

    if (err_is_ok(err))
        return true;
    if (why[0] != '\0') {
        disk_fault(reader, file, why);
    } else if (err_is(err, E_FILE_UNSAFE)) {
        disk_fault(reader, file, "may be read or changed by others, or is not ours: chmod 600");
    } else if (err_is(err, E_TOO_LARGE)) {
        CLEANUP(mem_freep) char *text = mem_printf("is larger than %zu bytes", max);

        disk_fault(reader, file, text);
    } else {
        CLEANUP(mem_freep)
        char *text = mem_printf("%s: %s (in the folder of --keystore-dir)", err_text(err.code),
                                strerror(err.sub));

        disk_fault(reader, file, text);
    }
    return false;
}

/* The words of what is uploaded, for files. */
static const char *disk_file_of(const char *field)
{
    return strstr(field, "key") != NULL || strstr(field, "password") != NULL ? DISK_KEYSTORE_KEY
                                                                             : DISK_KEYSTORE_CHAIN;
}

static void disk_tell(const struct disk_reader *reader, const struct faults *told)
{
    for (size_t i = 0; i < told->num; i++)
        disk_fault(reader, disk_file_of(told->items[i].path), told->items[i].message);
}

/* A moment at which all of them are valid, if there is one. */
static int64_t disk_moment(const struct uploaded *uploaded)
{
    int64_t latest = 1;

    for (size_t i = 0; i < uploaded->num; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;
        int64_t not_before, not_after;

        if (err_is_ok(cert_parse(uploaded->certs[i], &cert)) &&
            err_is_ok(cert_times(cert, &not_before, &not_after)) && not_before > latest)
            latest = not_before;
    }
    return latest;
}

static bool disk_is_encrypted(struct bytes key)
{
    EVP_PKEY *parsed = NULL;
    err_t err = key_parse(key, &parsed);

    EVP_PKEY_free(parsed);
    return err_is(err, E_KEY_ENCRYPTED);
}

static void disk_judge(const struct disk_reader *reader, struct bytes chain, struct bytes key,
                       int64_t now_s, struct svid **out)
{
    CLEANUP(faults_fini) struct faults told = {.num = 0};
    CLEANUP(uploaded_fini) struct uploaded uploaded = {.num = 0};
    err_t err;

    if (disk_is_encrypted(key)) {
        disk_fault(reader, DISK_KEYSTORE_KEY,
                   "is encrypted with a passphrase, which nobody is here to say: encrypt the file "
                   "with mortisectl encrypt instead, or leave it plain");
        return;
    }
    err = uploaded_pem(chain, key, NULL, &told, &uploaded);
    if (err_is_ok(err))
        err = uploaded_keystore(&uploaded, now_s != 0 ? now_s : disk_moment(&uploaded), &told, out);
    if (!err_is_ok(err))
        disk_tell(reader, &told);
}

err_t disk_keystore_read(const char *dir, const char *folder, int64_t now_s, const char *path,
                         struct faults *faults, struct svid **out)
{
    const struct disk_reader reader = {dir, folder, path, faults};
    CLEANUP(buf_fini) struct buf chain = {.data = NULL};
    CLEANUP(buf_wipe_fini) struct buf key = {.data = NULL};
    size_t before = faults->total;
    bool readable;

    if (!disk_keystore_name_valid(folder)) {
        faults_add(faults, path,
                   "\"%.64s\" is not the name of a folder in --keystore-dir: lower-case letters, "
                   "digits and inner hyphens, 1 to %d characters",
                   folder, DISK_KEYSTORE_NAME_MAX);
        return FAIL(CONFIG_INVALID, 1);
    }
    readable = disk_read(&reader, DISK_KEYSTORE_CHAIN, DISK_KEYSTORE_CHAIN_MAX, false, &chain);
    readable = disk_read(&reader, DISK_KEYSTORE_KEY, DISK_KEYSTORE_KEY_MAX, true, &key) && readable;
    if (readable)
        disk_judge(&reader, buf_view(&chain), buf_view(&key), now_s, out);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
