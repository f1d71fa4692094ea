#include "proxy/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "certs/key.h"
#include "certs/seal.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

#define CACHE_ROOTS_MAX 64
#define CACHE_FORMAT "sidecar-cache/1/"
#define CACHE_LEFTOVER ".tmp-" /* file_write_atomic's, after a SIGKILL */

struct cache {
    int fd; /* of the folder; holds the lock */
    char *dir;
    char *trust_domain;
    char *path, *mark_path;
    struct seal_key key;
    uint64_t number; /* of the newest that was written */
};

static err_t cache_read_mark(struct cache *cache, uint64_t *out);

/* ---- opening ---- */

static err_t cache_read_key(const struct secret_source *source, struct faults *faults,
                            struct seal_key *out)
{
    CLEANUP(buf_wipe_fini) struct buf text = {.data = NULL};
    char why[SECRETS_WHY_MAX];
    const char *flag = source->value != NULL                             ? "MORTISE_CACHE_KEY"
                       : source->file != NULL || source->command == NULL ? "--cache-key-file"
                                                                         : "--cache-key-command";
    err_t err = secret_source_read(source, SECRETS_KEY_MAX, &text, why);

    if (!err_is_ok(err)) {
        faults_add(faults, flag, "%s", why);
        return err;
    }
    err = seal_key_parse(buf_view(&text), out);
    if (!err_is_ok(err))
        faults_add(faults, flag,
                   "%s%swanted are 32 random bytes as 64 hexadecimal digits or base64",
                   source->file != NULL ? source->file : "", source->file != NULL ? ": " : "");
    return err;
}

/* The folder, ours alone; -1 after a fault. */
static int cache_open_folder(const char *dir, bool make, struct faults *faults)
{
    struct stat st;
    int fd;

    if (make && mkdir(dir, 0700) != 0 && errno != EEXIST) {
        faults_add(faults, "--cache-dir", "%s: cannot be made: %s", dir, strerror(errno));
        return -1;
    }
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && !make && errno == ENOENT)
        return -1; /* it will be made */
    if (fd < 0 || fstat(fd, &st) != 0) {
        faults_add(faults, "--cache-dir", "%s: %s", dir, strerror(errno));
    } else if (st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        faults_add(faults, "--cache-dir",
                   "%s: is open to others, or belongs to somebody else: chown and chmod 700 it",
                   dir);
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

err_t cache_check(const struct cache_params *params, struct faults *faults)
{
    struct seal_key key;
    size_t before = faults->total;
    int fd = cache_open_folder(params->dir, false, faults);

    if (fd >= 0)
        (void)close(fd);
    if (err_is_ok(cache_read_key(&params->key, faults, &key)))
        seal_key_fini(&key);
    return faults->total == before ? OK : faults_err(faults);
}

static void cache_sweep(const struct cache *cache)
{
    int fd = dup(cache->fd);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;

    if (folder == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, CACHE_FILE CACHE_LEFTOVER,
                    sizeof(CACHE_FILE CACHE_LEFTOVER) - 1) == 0 ||
            strncmp(entry->d_name, CACHE_MARK_FILE CACHE_LEFTOVER,
                    sizeof(CACHE_MARK_FILE CACHE_LEFTOVER) - 1) == 0)
            (void)unlinkat(cache->fd, entry->d_name, 0);
    }
    (void)closedir(folder);
}

err_t cache_open(const struct cache_params *params, struct faults *faults, struct cache **out)
{
    struct cache *cache;
    struct seal_key key;
    int fd;

    TRY(cache_read_key(&params->key, faults, &key));
    fd = cache_open_folder(params->dir, true, faults);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        faults_add(faults, "--cache-dir", "%s: another sidecar uses it", params->dir);
        (void)close(fd);
        fd = -1;
    }
    if (fd < 0) {
        seal_key_fini(&key);
        return faults_err(faults);
    }
    cache = mem_zalloc(sizeof(*cache));
    cache->fd = fd;
    cache->dir = mem_strdup(params->dir);
    cache->trust_domain = mem_strdup(params->trust_domain);
    cache->path = mem_printf("%s/%s", params->dir, CACHE_FILE);
    cache->mark_path = mem_printf("%s/%s", params->dir, CACHE_MARK_FILE);
    cache->key = key;
    mem_wipe(&key, sizeof(key));
    cache_sweep(cache);
    /* Without a mark a new count begins, far from any that a copy may be from. */
    if (!err_is_ok(cache_read_mark(cache, &cache->number)))
        cache->number = (uint64_t)random_u32() << 24;
    *out = cache;
    return OK;
}

void cache_close(struct cache *cache)
{
    if (cache == NULL)
        return;
    (void)close(cache->fd);
    seal_key_fini(&cache->key);
    mem_free(cache->dir);
    mem_free(cache->trust_domain);
    mem_free(cache->path);
    mem_free(cache->mark_path);
    mem_free(cache);
}

/* ---- sealing ---- */

/* What is authenticated beside the content: format and its version, trust domain, which file. */
static char *cache_label(const struct cache *cache, const char *file)
{
    return mem_printf(CACHE_FORMAT "%s/%s", cache->trust_domain, file);
}

static err_t cache_write(struct cache *cache, const char *path, const char *file,
                         const ProtobufCMessage *msg)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {.data = NULL};
    CLEANUP(buf_fini) struct buf sealed = {.data = NULL};
    CLEANUP(mem_freep) char *label = cache_label(cache, file);

    TRY(pb_pack(msg, &plain));
    if (buf_size(&plain) > CACHE_MAX)
        return FAIL(TOO_LARGE, CACHE_MAX);
    TRY(seal_close(&cache->key, label, buf_view(&plain), &sealed));
    return file_write_atomic(path, buf_view(&sealed), 0600);
}

static err_t cache_read(struct cache *cache, const char *path, const char *file,
                        const ProtobufCMessageDescriptor *desc, ProtobufCMessage **out)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {.data = NULL};
    CLEANUP(buf_fini) struct buf sealed = {.data = NULL};
    CLEANUP(mem_freep) char *label = cache_label(cache, file);
    err_t err = file_read_own(path, CACHE_MAX + 4096, &sealed);

    if (err_is(err, E_FILE_OPEN) && err.sub == ENOENT)
        return FAIL(NOT_FOUND, 0);
    TRY(err);
    TRY(seal_open(&cache->key, label, buf_view(&sealed), &plain));
    return pb_unpack(desc, buf_view(&plain), CACHE_MAX, out);
}

static void cache_msg_free(Mortise__V1__SidecarCache *msg)
{
    if (msg == NULL)
        return;
    if (msg->private_key.len > 0)
        mem_wipe(msg->private_key.data, msg->private_key.len);
    for (size_t i = 0; i < msg->n_keystore_keys; i++)
        mem_wipe(msg->keystore_keys[i]->key.data, msg->keystore_keys[i]->key.len);
    pb_free(&msg->base);
}

void cache_content_fini(struct cache_content *content)
{
    if (content->svid != NULL)
        svid_unref(content->svid);
    if (content->roots != NULL)
        bundle_unref(content->roots);
    cache_msg_free(content->msg);
    *content = (struct cache_content){.svid = NULL};
}

/* ---- loading ---- */

/* The number of the newest cache that was written here. */
static err_t cache_read_mark(struct cache *cache, uint64_t *out)
{
    ProtobufCMessage *msg = NULL;

    TRY(cache_read(cache, cache->mark_path, CACHE_MARK_FILE,
                   &mortise__v1__sidecar_cache_mark__descriptor, &msg));
    *out = ((const Mortise__V1__SidecarCacheMark *)(const void *)msg)->number;
    pb_free(msg);
    return OK;
}

/* The mark is written first: the cache may be the one before it, when the process was stopped
 * between the two. */
static err_t cache_judge_number(struct cache *cache, uint64_t number)
{
    uint64_t newest;
    err_t err = cache_read_mark(cache, &newest);

    if (err_is(err, E_NOT_FOUND)) /* then no cache was written here */
        return FAIL(CACHE_STALE, 0);
    TRY(err);
    return number == newest || number + 1 == newest ? OK : FAIL(CACHE_STALE, 0);
}

static err_t cache_make_svid(const Mortise__V1__SidecarCache *msg, const struct bundle *roots,
                             int64_t now_s, struct cache_content *out)
{
    struct bytes chain[SVID_CHAIN_MAX];
    EVP_PKEY *key = NULL;
    err_t err;

    if (msg->n_chain > SVID_CHAIN_MAX)
        return FAIL(CHAIN_TOO_LONG, msg->n_chain);
    for (size_t i = 0; i < msg->n_chain; i++)
        chain[i] = bytes_of(msg->chain[i].data, msg->chain[i].len);
    TRY(key_from_der(bytes_of(msg->private_key.data, msg->private_key.len), &key));
    err = svid_of_der(chain, msg->n_chain, key, roots, now_s, &out->svid);
    if (err_is(err, E_CERT_EXPIRED)) { /* good until then: it may open the door to a new one */
        err = svid_of_der(chain, msg->n_chain, key, roots, msg->not_after - 1, &out->svid);
        out->expired = true;
    }
    EVP_PKEY_free(key);
    return err;
}

static err_t cache_make(const struct cache *cache, const Mortise__V1__SidecarCache *msg,
                        const char *expected_id, int64_t now_s, struct cache_content *out)
{
    struct bytes certs[CACHE_ROOTS_MAX];

    if (strcmp(msg->trust_domain, cache->trust_domain) != 0)
        return FAIL(TRUST_DOMAIN, 0);
    if (msg->n_trust_roots > CACHE_ROOTS_MAX)
        return FAIL(TOO_LARGE, CACHE_ROOTS_MAX);
    for (size_t i = 0; i < msg->n_trust_roots; i++)
        certs[i] = bytes_of(msg->trust_roots[i].data, msg->trust_roots[i].len);
    TRY(bundle_of_der(certs, msg->n_trust_roots, cache->trust_domain, &out->roots));
    TRY(cache_make_svid(msg, out->roots, now_s, out));
    /* Its trust domain is the bundle's, if it has an ID at all. */
    if (out->svid->spiffe_id[0] == '\0' || strcmp(out->svid->spiffe_id, msg->spiffe_id) != 0 ||
        (expected_id != NULL && strcmp(out->svid->spiffe_id, expected_id) != 0))
        return FAIL(PEER_IDENTITY, 0);
    return OK;
}

err_t cache_load(struct cache *cache, const char *expected_id, int64_t now_s,
                 struct cache_content *out)
{
    CLEANUP(cache_content_fini) struct cache_content content = {.svid = NULL};
    ProtobufCMessage *msg = NULL;

    TRY(cache_read(cache, cache->path, CACHE_FILE, &mortise__v1__sidecar_cache__descriptor, &msg));
    content.msg = (Mortise__V1__SidecarCache *)(void *)msg;
    TRY(cache_judge_number(cache, content.msg->number));
    TRY(cache_make(cache, content.msg, expected_id, now_s, &content));
    mem_wipe(content.msg->private_key.data, content.msg->private_key.len);
    *out = content;
    content = (struct cache_content){.svid = NULL}; /* the caller's now */
    return OK;
}

/* ---- saving ---- */

err_t cache_save(struct cache *cache, const struct svid *svid, const Mortise__V1__SidecarCache *msg)
{
    CLEANUP(buf_wipe_fini) struct buf key = {.data = NULL};
    Mortise__V1__SidecarCacheMark mark = MORTISE__V1__SIDECAR_CACHE_MARK__INIT;
    Mortise__V1__SidecarCache whole = *msg;

    TRY(key_der(svid->key, &key));
    whole.private_key.data = key.data + key.pos;
    whole.private_key.len = buf_size(&key);
    /* Not counted until both are there: after a failure in between the same number comes again. */
    whole.number = mark.number = cache->number + 1;
    TRY(cache_write(cache, cache->mark_path, CACHE_MARK_FILE, &mark.base));
    TRY(cache_write(cache, cache->path, CACHE_FILE, &whole.base));
    cache->number = whole.number;
    return OK;
}
