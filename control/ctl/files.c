#include "control/ctl/files.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "control/ctl/ctl.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

const char *const files_svid_names[] = {"key.pem", "cert.pem", "roots.pem", NULL};

bool files_make_folder(const char *path)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return true;
    if (errno != EEXIST || stat(path, &st) != 0) {
        ctl_tell("%s: cannot be made: %s", path, strerror(errno));
        return false;
    }
    if (!S_ISDIR(st.st_mode)) {
        ctl_tell("%s: is there and is not a folder", path);
        return false;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        ctl_tell("%s: is open to others, or is not yours: chmod 700 it, or give another folder",
                 path);
        return false;
    }
    return true;
}

bool files_are_free(const char *folder, const char *const *names)
{
    bool free = true;

    for (; *names != NULL; names++) {
        CLEANUP(mem_freep) char *path = mem_printf("%s/%s", folder, *names);
        struct stat st;

        if (lstat(path, &st) != 0)
            continue;
        ctl_tell("%s: is there already and is not overwritten: give another folder, or remove it",
                 path);
        free = false;
    }
    return free;
}

bool files_write(const char *folder, const char *name, struct bytes content, mode_t mode)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/%s", folder, name);
    const char *const names[] = {name, NULL};
    err_t err;

    if (!files_are_free(folder, names))
        return false;
    err = file_write_atomic(path, content, mode);
    if (err_is_ok(err))
        return true;
    ctl_tell("%s: cannot be written: %s", path, strerror(err.sub));
    return false;
}

void files_pem(const ProtobufCBinaryData *ders, size_t num, struct buf *out)
{
    for (size_t i = 0; i < num; i++) {
        err_t err = pem_write("CERTIFICATE", bytes_of(ders[i].data, ders[i].len), out);

        CHECK(err_is_ok(err)); /* replies are far smaller than a buffer may be */
    }
}

bool files_write_svid(const char *folder, const EVP_PKEY *key, const ProtobufCBinaryData *chain,
                      size_t num_chain, const ProtobufCBinaryData *roots, size_t num_roots)
{
    CLEANUP(buf_wipe_fini) struct buf key_pem = {0};
    CLEANUP(buf_fini) struct buf chain_pem = {0};
    CLEANUP(buf_fini) struct buf roots_pem = {0};
    err_t err = key_write_pem(key, &key_pem);

    CHECK(err_is_ok(err));
    files_pem(chain, num_chain, &chain_pem);
    files_pem(roots, num_roots, &roots_pem);
    return files_write(folder, "key.pem", buf_view(&key_pem), 0600) &&
           files_write(folder, "cert.pem", buf_view(&chain_pem), 0644) &&
           files_write(folder, "roots.pem", buf_view(&roots_pem), 0644);
}

EVP_PKEY *files_csr(struct buf *out_csr)
{
    EVP_PKEY *key = NULL;
    err_t err = key_generate(&key);

    if (err_is_ok(err))
        err = csr_build(key, NULL, out_csr);
    CHECK(err_is_ok(err));
    return key;
}
