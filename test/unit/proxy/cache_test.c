/* The sealed cache: what was saved comes back, and nothing else is taken for it: not what was
 * tampered with, cut, sealed with another key, of another identity or trust domain, from before, or
 * open to others; and whatever stops a write leaves the old one or the new one.
 *
 * Drives: R24, F18, R9, R21 */
#include "proxy/cache.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "certs/key.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/proxy/world.h"

#define KEY_1 "11111111111111111111111111111111111111111111111111111111111111aa"
#define KEY_2 "22222222222222222222222222222222222222222222222222222222222222bb"

struct place {
    struct world world;
    char folder[256];
    char *dir, *key_file, *path, *mark; /* within it, but for the key all in `dir` */
    struct faults faults;
    struct cache *cache;
};

static void write_file(const char *path, const char *text, mode_t mode)
{
    assert_true(err_is_ok(file_write_atomic(path, bytes_of_str(text), mode)));
}

static struct cache_params params_of(const struct place *place, const char *trust_domain)
{
    return (struct cache_params){.dir = place->dir,
                                 .key = {.name = "cache-key", .file = place->key_file},
                                 .trust_domain = trust_domain};
}

static void open_as(struct place *place, const char *trust_domain)
{
    struct cache_params params = params_of(place, trust_domain);

    cache_close(place->cache);
    place->cache = NULL;
    assert_true(err_is_ok(cache_open(&params, &place->faults, &place->cache)));
}

static int setup(void **state)
{
    struct place *place = mem_zalloc(sizeof(*place));
    const char *tmp = getenv("TEST_TMPDIR");

    world_init(&place->world);
    (void)snprintf(place->folder, sizeof(place->folder), "%s/cache_test.XXXXXX",
                   tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(place->folder));
    place->dir = mem_printf("%s/cache", place->folder);
    place->key_file = mem_printf("%s/key", place->folder);
    place->path = mem_printf("%s/%s", place->dir, CACHE_FILE);
    place->mark = mem_printf("%s/%s", place->dir, CACHE_MARK_FILE);
    write_file(place->key_file, KEY_1 "\n", 0600);
    open_as(place, WORLD_DOMAIN);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;

    cache_close(place->cache);
    (void)unlink(place->path);
    (void)unlink(place->mark);
    (void)unlink(place->key_file);
    (void)rmdir(place->dir);
    (void)rmdir(place->folder);
    faults_fini(&place->faults);
    mem_free(place->dir);
    mem_free(place->key_file);
    mem_free(place->path);
    mem_free(place->mark);
    world_fini(&place->world);
    mem_free(place);
    return 0;
}

/* `spoil`, where there is one, changes what is right before it is sealed. */
static err_t save_spoilt(struct place *place, struct cache *cache, uint64_t version,
                         void (*spoil)(struct place *place, Mortise__V1__SidecarCache *msg))
{
    struct world *world = &place->world;
    Mortise__V1__SidecarCache msg = MORTISE__V1__SIDECAR_CACHE__INIT;
    ProtobufCBinaryData chain = {world->leaf->der_len, world->leaf->der};
    ProtobufCBinaryData root = {world->root->der_len, world->root->der};
    Mortise__V1__SidecarConfig *config = world_config(world_good_control);
    err_t err;

    msg.saved_at = world->now_s;
    msg.trust_domain = (char *)(uintptr_t)WORLD_DOMAIN;
    msg.spiffe_id = world->svid->spiffe_id;
    msg.chain = &chain;
    msg.n_chain = 1;
    msg.not_after = world->svid->not_after;
    msg.trust_roots = &root;
    msg.n_trust_roots = 1;
    msg.certificate_epoch = 7;
    msg.version = version;
    msg.config = config;
    if (spoil != NULL)
        spoil(place, &msg);
    err = cache_save(cache, world->svid, &msg);
    pb_free(&config->base);
    return err;
}

static err_t save(struct place *place, struct cache *cache, uint64_t version)
{
    return save_spoilt(place, cache, version, NULL);
}

/* What loading says; of a good one also that it is what was saved as `version`. */
static err_t load(struct place *place, const char *id, int64_t now_s, uint64_t version)
{
    struct cache_content content = {.svid = NULL};
    err_t err = cache_load(place->cache, id, now_s, &content);

    if (!err_is_ok(err)) {
        assert_null(content.svid);
        return err;
    }
    assert_string_equal(content.svid->spiffe_id, WORLD_ID);
    assert_string_equal(content.svid->serial, place->world.svid->serial);
    assert_int_equal(EVP_PKEY_cmp(content.svid->key, place->world.leaf->key), 1);
    assert_memory_equal(content.roots->hash, place->world.roots->hash, 32);
    assert_int_equal(content.msg->version, version);
    assert_int_equal(content.msg->certificate_epoch, 7);
    assert_non_null(content.msg->config);
    for (size_t i = 0; i < content.msg->private_key.len; i++)
        assert_int_equal(content.msg->private_key.data[i], 0); /* the svid has it */
    if (content.expired)
        err = FAIL(CERT_EXPIRED, 0);
    cache_content_fini(&content);
    return err;
}

static void read_all(const char *path, struct buf *out)
{
    assert_true(err_is_ok(file_read(path, CACHE_MAX, out)));
}

static void put_back(const char *path, const struct buf *content)
{
    assert_true(err_is_ok(file_write_atomic(path, buf_view(content), 0600)));
}

static void test_what_was_saved_comes_back(void **state)
{
    struct place *place = *state;

    assert_true(err_is(load(place, NULL, place->world.now_s, 0), E_NOT_FOUND));
    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    assert_true(err_is_ok(save(place, place->cache, 4)));
    open_as(place, WORLD_DOMAIN); /* another process */
    assert_true(err_is_ok(load(place, WORLD_ID, place->world.now_s, 4)));
    assert_true(err_is_ok(save(place, place->cache, 5)));
    assert_true(err_is_ok(load(place, WORLD_ID, place->world.now_s, 5)));
}

static void test_nothing_of_it_can_be_read(void **state)
{
    struct place *place = *state;
    CLEANUP(buf_wipe_fini) struct buf key = {.data = NULL};
    struct stat st;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_true(err_is_ok(key_der(place->world.svid->key, &key)));
    for (int i = 0; i < 2; i++) {
        const char *path = i == 0 ? place->path : place->mark;
        CLEANUP(buf_fini) struct buf sealed = {.data = NULL};

        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        read_all(path, &sealed);
        /* The secret number is in the middle of the encoding. */
        assert_null(memmem(sealed.data, sealed.len, key.data + 36, 32));
        assert_null(memmem(sealed.data, sealed.len, "mesh.test", 9));
        assert_null(memmem(sealed.data, sealed.len, "portal", 6));
    }
}

static void test_every_bit_counts(void **state)
{
    struct place *place = *state;
    CLEANUP(buf_fini) struct buf good = {.data = NULL};
    err_t err;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    read_all(place->path, &good);
    for (size_t i = 0; i < good.len; i += i < 128 ? 1 : 61) {
        good.data[i] ^= 1;
        put_back(place->path, &good);
        err = load(place, NULL, place->world.now_s, 3);
        assert_true(err_is(err, E_SEAL_BROKEN) || err_is(err, E_KEK_UNAVAILABLE));
        good.data[i] ^= 1;
    }
    for (size_t len = 0; len < good.len; len += len < 128 ? 1 : 97) {
        struct buf cut = {.data = good.data, .len = len};

        put_back(place->path, &cut);
        assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_SEAL_BROKEN));
    }
    put_back(place->path, &good);
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
}

static void test_another_key_opens_nothing(void **state)
{
    struct place *place = *state;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    write_file(place->key_file, KEY_2, 0600);
    open_as(place, WORLD_DOMAIN);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_KEK_UNAVAILABLE));
    /* And it goes on under the new one. */
    assert_true(err_is_ok(save(place, place->cache, 4)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 4)));
}

static void test_another_identity_or_trust_domain(void **state)
{
    struct place *place = *state;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_true(err_is(load(place, WORLD_CLIENT_ID, place->world.now_s, 3), E_PEER_IDENTITY));
    assert_true(err_is_ok(load(place, WORLD_ID, place->world.now_s, 3)));
    open_as(place, "other.test"); /* it is in what is authenticated */
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_SEAL_BROKEN));
}

static void test_one_file_is_not_the_other(void **state)
{
    struct place *place = *state;
    CLEANUP(buf_fini) struct buf mark = {.data = NULL};

    assert_true(err_is_ok(save(place, place->cache, 3)));
    read_all(place->mark, &mark);
    put_back(place->path, &mark);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_SEAL_BROKEN));
}

static void test_one_from_before_is_refused(void **state)
{
    struct place *place = *state;
    CLEANUP(buf_fini)
    struct buf first = {.data = NULL}, mark = {.data = NULL}, second = {.data = NULL};

    assert_true(err_is_ok(save(place, place->cache, 3)));
    read_all(place->path, &first);
    assert_true(err_is_ok(save(place, place->cache, 4)));
    read_all(place->path, &second);
    /* The one before the newest is what a write that was stopped half-way leaves. */
    put_back(place->path, &first);
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    put_back(place->path, &second);
    assert_true(err_is_ok(save(place, place->cache, 5)));
    put_back(place->path, &first);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_CACHE_STALE));

    /* Nor does it help to take the mark away, or to spoil it; not after a restart, either. */
    read_all(place->mark, &mark);
    assert_int_equal(unlink(place->mark), 0);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_CACHE_STALE));
    write_file(place->mark, "spoilt", 0600);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_SEAL_BROKEN));
    open_as(place, WORLD_DOMAIN);
    assert_true(err_is_ok(save(place, place->cache, 6)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 6)));
    put_back(place->path, &second);
    assert_true(err_is(load(place, NULL, place->world.now_s, 4), E_CACHE_STALE));
}

static void test_what_is_open_to_others_or_a_link_is_refused(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *aside = mem_printf("%s/aside", place->folder);

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_int_equal(chmod(place->path, 0644), 0);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_FILE_UNSAFE));
    assert_int_equal(chmod(place->path, 0600), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(place->path, 12345, 12345), 0);
        assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_FILE_UNSAFE));
        assert_int_equal(chown(place->path, 0, 0), 0);
    }
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    assert_int_equal(rename(place->path, aside), 0);
    assert_int_equal(symlink("../aside", place->path), 0);
    assert_true(err_is(load(place, NULL, place->world.now_s, 3), E_FILE_OPEN));
    assert_true(err_is_ok(save(place, place->cache, 4))); /* the link is replaced */
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 4)));
    assert_int_equal(unlink(aside), 0);
}

static void test_an_expired_one_is_told_apart(void **state)
{
    struct place *place = *state;
    int64_t end_s = place->world.svid->not_after;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_true(err_is_ok(load(place, NULL, end_s - 1, 3)));
    assert_true(err_is(load(place, NULL, end_s, 3), E_CERT_EXPIRED));
    assert_true(err_is(load(place, NULL, end_s + 999999, 3), E_CERT_EXPIRED));
    assert_true(
        err_is(load(place, NULL, place->world.svid->not_before - 7200, 3), E_CERT_NOT_YET_VALID));
}

static bool has_fault(const struct place *place, const char *path, const char *text)
{
    for (size_t i = 0; i < place->faults.num; i++) {
        if (strcmp(place->faults.items[i].path, path) == 0 &&
            strstr(place->faults.items[i].message, text) != NULL)
            return true;
    }
    return false;
}

static void test_a_folder_or_key_that_is_not_ours_alone(void **state)
{
    struct place *place = *state;
    struct cache_params params = params_of(place, WORLD_DOMAIN);
    struct cache *other = NULL;

    /* Somebody has it. */
    assert_false(err_is_ok(cache_open(&params, &place->faults, &other)));
    assert_true(has_fault(place, "--cache-dir", "another sidecar"));
    cache_close(place->cache);
    place->cache = NULL;

    faults_fini(&place->faults);
    assert_int_equal(chmod(place->dir, 0755), 0);
    assert_int_equal(chmod(place->key_file, 0640), 0);
    assert_false(err_is_ok(cache_check(&params, &place->faults)));
    assert_true(has_fault(place, "--cache-dir", "open to others"));
    assert_true(has_fault(place, "--cache-key-file", "read or changed by others"));
    assert_int_equal(chmod(place->dir, 0700), 0);
    assert_int_equal(chmod(place->key_file, 0600), 0);

    faults_fini(&place->faults);
    write_file(place->key_file, "not a key", 0600);
    assert_false(err_is_ok(cache_open(&params, &place->faults, &other)));
    assert_true(has_fault(place, "--cache-key-file", "32 random bytes"));
    assert_null(other);

    faults_fini(&place->faults);
    write_file(place->key_file, KEY_1, 0600);
    assert_true(err_is_ok(cache_check(&params, &place->faults)));
    open_as(place, WORLD_DOMAIN);
}

/* A disk that is full: the write fails, what was there stays good, and later writes count on. */
static void test_a_write_that_fails_spoils_nothing(void **state)
{
    struct place *place = *state;
    struct rlimit was, none = {.rlim_cur = 16};

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    none.rlim_max = was.rlim_max;
    (void)signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        /* First neither file can be written, then the mark only. */
        none.rlim_cur = i == 0 ? 16 : 512;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
        assert_true(err_is(save(place, place->cache, 9), E_IO));
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    }
    open_as(place, WORLD_DOMAIN);
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    assert_true(err_is_ok(save(place, place->cache, 4)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 4)));
}

/* A process that does nothing but write is killed, again and again. */
static void test_sigkill_leaves_the_old_one_or_the_new_one(void **state)
{
    struct place *place = *state;
    unsigned leftovers = 0;
    uint64_t first = 0;

    assert_true(err_is_ok(save(place, place->cache, 1)));
    for (unsigned round = 0; round < 40; round++) {
        struct cache_content content = {.svid = NULL};
        uint64_t seen = 0, told = 0;
        int pipes[2], status;
        pid_t child;

        cache_close(place->cache);
        place->cache = NULL;
        assert_int_equal(pipe(pipes), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            open_as(place, WORLD_DOMAIN);
            for (uint64_t version = 1000 * (uint64_t)round;; version++) {
                if (!err_is_ok(save(place, place->cache, version)) ||
                    write(pipes[1], &version, sizeof(version)) != sizeof(version))
                    _exit(1);
            }
        }
        (void)close(pipes[1]);
        /* After a few confirmed writes, in the middle of whichever is under way. */
        for (unsigned i = 0; i < 1 + round % 4; i++)
            assert_int_equal(read(pipes[0], &seen, sizeof(seen)), sizeof(seen));
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        while (read(pipes[0], &told, sizeof(told)) == sizeof(told))
            seen = told;
        (void)close(pipes[0]);

        open_as(place, WORLD_DOMAIN);
        assert_true(err_is_ok(cache_load(place->cache, WORLD_ID, place->world.now_s, &content)));
        assert_true(content.msg->version == seen || content.msg->version == seen + 1);
        first += content.msg->version == seen;
        leftovers += content.msg->version != seen;
        cache_content_fini(&content);
    }
    print_message("the last confirmed one %u times, the next one %u times\n", (unsigned)first,
                  leftovers);
    assert_int_equal(rmdir(place->dir), -1); /* the two files */
    assert_int_equal(unlink(place->path), 0);
    assert_int_equal(unlink(place->mark), 0);
    assert_int_equal(rmdir(place->dir), 0); /* and nothing that a killed one left */
}

/* ---- what was sealed with our key and is wrong all the same ---- */

static void of_another_domain(struct place *place, Mortise__V1__SidecarCache *msg)
{
    (void)place;
    msg->trust_domain = (char *)(uintptr_t) "other.test";
}

static void long_chain(struct place *place, Mortise__V1__SidecarCache *msg)
{
    static ProtobufCBinaryData chain[SVID_CHAIN_MAX + 1];

    for (size_t i = 0; i < ARRAY_LEN(chain); i++)
        chain[i] = (ProtobufCBinaryData){place->world.leaf->der_len, place->world.leaf->der};
    msg->chain = chain;
    msg->n_chain = ARRAY_LEN(chain);
}

static void many_roots(struct place *place, Mortise__V1__SidecarCache *msg)
{
    static ProtobufCBinaryData roots[65];

    for (size_t i = 0; i < ARRAY_LEN(roots); i++)
        roots[i] = (ProtobufCBinaryData){place->world.root->der_len, place->world.root->der};
    msg->trust_roots = roots;
    msg->n_trust_roots = ARRAY_LEN(roots);
}

static void no_roots(struct place *place, Mortise__V1__SidecarCache *msg)
{
    (void)place;
    msg->n_trust_roots = 0;
}

static void somebody_elses_chain(struct place *place, Mortise__V1__SidecarCache *msg)
{
    static ProtobufCBinaryData chain;

    chain = (ProtobufCBinaryData){place->world.client->der_len, place->world.client->der};
    msg->chain = &chain;
}

static void another_id(struct place *place, Mortise__V1__SidecarCache *msg)
{
    (void)place;
    msg->spiffe_id = (char *)(uintptr_t)WORLD_CLIENT_ID;
}

static void issued(struct place *place, Mortise__V1__SidecarCache *msg,
                   const struct testca_params *params)
{
    static uint8_t der[4096];
    static ProtobufCBinaryData chain;
    struct testca_params with_key = *params;
    struct testca *leaf;

    with_key.use_key = place->world.leaf->key;
    leaf = testca_issue(place->world.root, &with_key);
    assert_true(leaf->der_len <= sizeof(der));
    memcpy(der, leaf->der, leaf->der_len);
    chain = (ProtobufCBinaryData){leaf->der_len, der};
    testca_free(leaf);
    msg->chain = &chain;
}

/* An authority that two meshes trust vouches for both. */
static void a_leaf_of_another_domain(struct place *place, Mortise__V1__SidecarCache *msg)
{
    static const char id[] = "spiffe://other.test/ns/apim/sa/portal";

    issued(place, msg, &(struct testca_params){.uri_sans = TESTCA_LIST(id)});
    msg->spiffe_id = (char *)(uintptr_t)id;
}

static void a_leaf_without_an_id(struct place *place, Mortise__V1__SidecarCache *msg)
{
    issued(place, msg, &(struct testca_params){.dns_sans = TESTCA_LIST("portal.test")});
    msg->spiffe_id = (char *)(uintptr_t) "";
}

static void test_what_is_sealed_is_judged_all_the_same(void **state)
{
    static const struct {
        void (*spoil)(struct place *place, Mortise__V1__SidecarCache *msg);
        enum err_code code;
    } cases[] = {
        {of_another_domain, E_TRUST_DOMAIN},
        {long_chain, E_CHAIN_TOO_LONG},
        {many_roots, E_TOO_LARGE},
        {no_roots, E_BUNDLE_EMPTY},
        {somebody_elses_chain, E_SVID_KEY_MISMATCH},
        {another_id, E_PEER_IDENTITY},
        {a_leaf_of_another_domain, E_TRUST_DOMAIN},
        {a_leaf_without_an_id, E_PEER_IDENTITY},
    };
    struct place *place = *state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        err_t err;

        assert_true(err_is_ok(save_spoilt(place, place->cache, 3, cases[i].spoil)));
        err = load(place, NULL, place->world.now_s, 3);
        if (!err_is(err, cases[i].code))
            fail_msg("case %zu: %s", i, err_name(err.code));
    }
    assert_true(err_is_ok(save(place, place->cache, 4)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 4)));
}

static void huge(struct place *place, Mortise__V1__SidecarCache *msg)
{
    Mortise__V1__Revocation *all = mem_array(1, sizeof(*all));

    (void)place;
    mortise__v1__revocation__init(all);
    all->spiffe_id = mem_alloc(CACHE_MAX + 1);
    memset(all->spiffe_id, 'x', CACHE_MAX);
    all->spiffe_id[CACHE_MAX] = '\0';
    msg->config->revocations = mem_array(1, sizeof(all));
    msg->config->revocations[0] = all;
    msg->config->n_revocations = 1;
}

/* What could not be read again is not written: the one of before is better. */
static void test_one_that_is_too_large_is_not_written(void **state)
{
    struct place *place = *state;

    assert_true(err_is_ok(save(place, place->cache, 3)));
    assert_true(err_is(save_spoilt(place, place->cache, 4, huge), E_TOO_LARGE));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 3)));
    assert_true(err_is_ok(save(place, place->cache, 5)));
    assert_true(err_is_ok(load(place, NULL, place->world.now_s, 5)));
}

static void test_a_folder_that_is_not_there(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *fresh = mem_printf("%s/fresh", place->folder);
    CLEANUP(mem_freep) char *deep = mem_printf("%s/no/such/folder", place->folder);
    struct cache_params params = params_of(place, WORLD_DOMAIN);
    struct cache *other = NULL;

    /* A check makes nothing, a start does, with its parent there. */
    params.dir = fresh;
    assert_true(err_is_ok(cache_check(&params, &place->faults)));
    assert_int_equal(rmdir(fresh), -1);
    assert_true(err_is_ok(cache_open(&params, &place->faults, &other)));
    cache_close(other);
    other = NULL;
    assert_int_equal(rmdir(fresh), 0);
    params.dir = deep;
    assert_false(err_is_ok(cache_open(&params, &place->faults, &other)));
    assert_true(has_fault(place, "--cache-dir", "cannot be made"));
    assert_null(other);

    /* A file, a link to a good folder, a key that is gone. */
    faults_fini(&place->faults);
    params.dir = place->key_file;
    assert_false(err_is_ok(cache_check(&params, &place->faults)));
    assert_true(has_fault(place, "--cache-dir", "Not a directory"));
    faults_fini(&place->faults);
    assert_int_equal(symlink(place->dir, fresh), 0);
    params.dir = fresh;
    assert_false(err_is_ok(cache_open(&params, &place->faults, &other)));
    assert_true(has_fault(place, "--cache-dir", "fresh: "));
    assert_int_equal(unlink(fresh), 0);
    faults_fini(&place->faults);
    params = params_of(place, WORLD_DOMAIN);
    assert_int_equal(unlink(place->key_file), 0);
    assert_false(err_is_ok(cache_open(&params, &place->faults, &other)));
    assert_true(has_fault(place, "--cache-key-file", "No such file"));
    assert_null(other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_saved_comes_back),
        TEST(test_nothing_of_it_can_be_read),
        TEST(test_every_bit_counts),
        TEST(test_another_key_opens_nothing),
        TEST(test_another_identity_or_trust_domain),
        TEST(test_one_file_is_not_the_other),
        TEST(test_one_from_before_is_refused),
        TEST(test_what_is_open_to_others_or_a_link_is_refused),
        TEST(test_an_expired_one_is_told_apart),
        TEST(test_a_folder_or_key_that_is_not_ours_alone),
        TEST(test_what_is_sealed_is_judged_all_the_same),
        TEST(test_one_that_is_too_large_is_not_written),
        TEST(test_a_folder_that_is_not_there),
        TEST(test_a_write_that_fails_spoils_nothing),
        TEST(test_sigkill_leaves_the_old_one_or_the_new_one),
    };
#undef TEST

    return cmocka_run_group_tests(tests, NULL, NULL);
}
