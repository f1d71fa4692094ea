/* Configuration from files, and noticing that they change.
 *
 * Drives: E2, B6, R25 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "proxy/static_mode.h"
#include "test/unit/proxy/world.h"

struct folder {
    struct world world;
    char path[64];
    struct watch_files files;
    struct static_config loaded;
    struct faults faults;
};

static char *in_folder(const struct folder *folder, const char *name)
{
    return mem_printf("%s/%s", folder->path, name);
}

static void put(const struct folder *folder, const char *name, const char *text, mode_t mode)
{
    char *path = in_folder(folder, name);
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
    mem_free(path);
}

static const char good[] =
    "identity: {cert_file: leaf.pem, key_file: leaf.key}\n"
    "truststores: [{name: mesh, ca_file: roots.pem, trust_domain: mesh.test}]\n"
    "outbound: [{name: a, listen: '127.0.0.1:15101', endpoints: ['10.0.0.1:1'], truststore: mesh,\n"
    "            peers: {spiffe_ids: ['spiffe://mesh.test/x']}}]\n";

static int setup(void **state)
{
    struct folder *folder = mem_zalloc(sizeof(*folder));

    world_init(&folder->world);
    (void)snprintf(folder->path, sizeof(folder->path), "/tmp/mortise-test-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    put(folder, "sidecar.yaml", good, 0644);
    put(folder, "leaf.pem", folder->world.leaf->cert_pem, 0644);
    put(folder, "leaf.key", folder->world.leaf->key_pem, 0600);
    put(folder, "roots.pem", folder->world.root->cert_pem, 0644);
    *state = folder;
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"sidecar.yaml", "leaf.pem", "leaf.key", "roots.pem", "new"};
    struct folder *folder = *state;

    static_config_fini(&folder->loaded);
    faults_fini(&folder->faults);
    watch_files_clear(&folder->files);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = in_folder(folder, names[i]);

        (void)unlink(path);
        mem_free(path);
    }
    assert_int_equal(rmdir(folder->path), 0);
    world_fini(&folder->world);
    mem_free(folder);
    return 0;
}

static bool load_with(struct folder *folder, char **environment, char *flag)
{
    char *path = in_folder(folder, "sidecar.yaml");
    char name[] = "mortise-proxy", config[] = "--config";
    char *argv[] = {name, config, path, flag, NULL};
    struct config_args args = {.argc = flag != NULL ? 4 : 3, .argv = argv};
    static char *empty[] = {NULL};
    err_t err;

    args.environment = environment != NULL ? environment : empty;
    static_config_fini(&folder->loaded);
    faults_fini(&folder->faults);
    memset(&folder->faults, 0, sizeof(folder->faults));
    err = static_config_load(&args, folder->world.now_s, &folder->files, &folder->faults,
                             &folder->loaded);
    /* As the program does: of what could be read all faults are told. */
    if (folder->loaded.msg != NULL && folder->loaded.cas != NULL &&
        !err_is_ok(static_mode_check(&folder->loaded, folder->world.now_s, folder->world.stats,
                                     &folder->faults)))
        err = faults_err(&folder->faults);
    mem_free(path);
    return err_is_ok(err);
}

static bool load(struct folder *folder)
{
    return load_with(folder, NULL, NULL);
}

static bool has_fault(const struct folder *folder, const char *path, const char *text)
{
    for (size_t i = 0; i < folder->faults.num; i++) {
        if (strcmp(folder->faults.items[i].path, path) == 0 &&
            strstr(folder->faults.items[i].message, text) != NULL)
            return true;
    }
    for (size_t i = 0; i < folder->faults.num; i++)
        print_message("there is: %s: %s\n", folder->faults.items[i].path,
                      folder->faults.items[i].message);
    return false;
}

static void test_good_files(void **state)
{
    struct folder *folder = *state;
    uint8_t digest[32];

    assert_true(load(folder));
    assert_string_equal(folder->loaded.svid->spiffe_id, WORLD_ID);
    assert_int_equal(folder->files.num, 4);
    memcpy(digest, folder->loaded.digest, sizeof(digest));
    assert_true(load(folder));
    assert_memory_equal(digest, folder->loaded.digest, sizeof(digest)); /* nothing changed */
    put(folder, "roots.pem", folder->world.root->cert_pem, 0600);
    assert_true(load(folder));
    assert_memory_equal(digest, folder->loaded.digest, sizeof(digest)); /* only its date did */
}

static void test_settings_of_the_file_and_who_wins(void **state)
{
    char variable[] = "MORTISE_CONNECT_TIMEOUT=7s", flag[] = "--idle-timeout=2m";
    char *environment[] = {variable, NULL};
    struct folder *folder = *state;
    char *yaml =
        mem_printf("settings:\n  idle_timeout: 10m\n  connect_timeout: 1s\n  workers: 3\n%s", good);

    put(folder, "sidecar.yaml", yaml, 0644);
    mem_free(yaml);
    assert_true(load_with(folder, environment, flag));
    assert_int_equal(folder->loaded.settings.workers, 3);               /* file > default */
    assert_int_equal(folder->loaded.settings.connect_timeout_ms, 7000); /* variable > file */
    assert_int_equal(folder->loaded.settings.idle_timeout_ms, 120000);  /* flag > file */
}

static void test_faulty_settings_are_told_with_the_others(void **state)
{
    struct folder *folder = *state;

    put(folder, "sidecar.yaml",
        "settings: {workers: many, idle_timout: 1h, join_token: x}\n"
        "identity: {cert_file: leaf.pem}\noutbound: [{name: A}]\n",
        0644);
    assert_false(load(folder));
    assert_true(has_fault(folder, "settings.workers", ""));
    assert_true(has_fault(folder, "settings.idle_timout", "idle_timeout"));
    assert_true(has_fault(folder, "settings.join_token", ""));
    assert_true(has_fault(folder, "identity.key_file", "is missing"));
}

static void test_a_key_that_others_may_read(void **state)
{
    struct folder *folder = *state;

    put(folder, "leaf.key", folder->world.leaf->key_pem, 0644);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.key_file", "chmod 600"));
    put(folder, "leaf.key", folder->world.leaf->key_pem, 0600);
    assert_true(load(folder));
}

static void test_half_of_a_pair(void **state)
{
    struct folder *folder = *state;

    put(folder, "leaf.pem", folder->world.client->cert_pem, 0644);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.key_file", "do not belong together"));
    put(folder, "leaf.key", folder->world.client->key_pem, 0600);
    assert_true(load(folder));
    assert_string_equal(folder->loaded.svid->spiffe_id, WORLD_CLIENT_ID);
}

static void test_files_that_are_missing_or_cut_off(void **state)
{
    struct folder *folder = *state;
    char *cut = mem_strndup(folder->world.leaf->cert_pem, 200), *path;

    put(folder, "leaf.pem", cut, 0644);
    mem_free(cut);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.cert_file", ""));
    put(folder, "leaf.pem", "", 0644);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.cert_file", ""));

    path = in_folder(folder, "leaf.pem");
    assert_int_equal(unlink(path), 0);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.cert_file", "No such file"));
    assert_int_equal(folder->files.num, 4); /* watched all the same: it may come */
    put(folder, "leaf.pem", folder->world.leaf->cert_pem, 0644);
    assert_true(watch_files_changed(&folder->files));
    mem_free(path);
}

static void test_more_revocation_lists_than_anybody_has(void **state)
{
    struct folder *folder = *state;
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    assert_true(err_is_ok(
        buf_add_str(&text, "identity: {cert_file: leaf.pem, key_file: leaf.key}\n"
                           "truststores: [{name: mesh, ca_file: roots.pem, crl_files: [a.crl")));
    for (int i = 0; i < STATIC_CONFIG_CRL_FILES_MAX; i++)
        assert_true(err_is_ok(buf_add_str(&text, ", a.crl")));
    assert_true(err_is_ok(buf_add(&text, "]}]\n", sizeof("]}]\n"))));
    put(folder, "sidecar.yaml", (const char *)buf_view(&text).ptr, 0644);
    assert_false(load(folder));
    assert_true(has_fault(folder, "truststores[0].crl_files", "at most 64"));
}

/* A link whose plaintext ends so many seconds from now. */
static void put_plaintext(const struct folder *folder, int64_t ahead_s)
{
    char until[21];
    char *yaml;

    clock_format_utc(folder->world.now_s + ahead_s, until);
    yaml = mem_printf("identity: {cert_file: leaf.pem, key_file: leaf.key}\n"
                      "truststores: [{name: mesh, ca_file: roots.pem, trust_domain: mesh.test}]\n"
                      "inbound: {listen: '127.0.0.1:15100', links: [\n"
                      "  {name: a, target: '127.0.0.1:8081', truststore: mesh,\n"
                      "   peers: {spiffe_ids: ['spiffe://mesh.test/x']},\n"
                      "   permissive: {port: 18081, until: '%s'}}]}\n",
                      until);
    put(folder, "sidecar.yaml", yaml, 0644);
    mem_free(yaml);
}

static void test_plaintext_has_an_end_that_is_near(void **state)
{
    struct folder *folder = *state;

    put_plaintext(folder, STATIC_CONFIG_PLAINTEXT_AHEAD_S);
    assert_true(load(folder));
    put_plaintext(folder, -86400); /* over: the port takes mTLS */
    assert_true(load(folder));
    put_plaintext(folder, STATIC_CONFIG_PLAINTEXT_AHEAD_S + 1);
    assert_false(load(folder));
    assert_true(has_fault(folder, "inbound.links[0].permissive.until",
                          "is more than 90 days ahead; wanted is "));
    assert_int_equal(folder->faults.total, 1);
}

static void test_a_key_that_was_cut(void **state)
{
    struct folder *folder = *state;
    char *cut = mem_strndup(folder->world.leaf->key_pem, 100);

    put(folder, "leaf.key", cut, 0600);
    mem_free(cut);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.key_file", "PEM"));
    put(folder, "leaf.key", "", 0600);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.key_file", "PEM"));
}

static void test_an_expired_certificate(void **state)
{
    struct folder *folder = *state;
    struct testca *old = testca_issue(
        folder->world.root, &(struct testca_params){.uri_sans = TESTCA_LIST(WORLD_ID),
                                                    .not_before = folder->world.now_s - 7200,
                                                    .not_after = folder->world.now_s - 3600});

    put(folder, "leaf.pem", old->cert_pem, 0644);
    put(folder, "leaf.key", old->key_pem, 0600);
    assert_false(load(folder));
    assert_true(has_fault(folder, "identity.cert_file", "expired 3600 s ago"));
    testca_free(old);
}

static void test_no_configuration_at_all(void **state)
{
    struct folder *folder = *state;
    char *path = in_folder(folder, "sidecar.yaml");

    assert_int_equal(unlink(path), 0);
    assert_false(load(folder));
    assert_true(has_fault(folder, "--config", "No such file"));
    put(folder, "sidecar.yaml", "outbound: [", 0644);
    assert_false(load(folder));
    assert_true(folder->faults.num == 1);
    mem_free(path);
}

/* --- watching --- */

static void test_every_way_to_change_a_file_is_seen(void **state)
{
    struct folder *folder = *state;
    struct watch_files files = {.items = NULL};
    char *path = in_folder(folder, "leaf.pem"), *other = in_folder(folder, "new");
    struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};

    watch_files_add(&files, path);
    assert_false(watch_files_changed(&files));
    put(folder, "leaf.pem", "longer than before? no matter", 0644); /* written in place */
    assert_true(watch_files_changed(&files));
    assert_false(watch_files_changed(&files));

    put(folder, "new", "longer than before? no matter", 0644); /* renamed over it */
    assert_int_equal(rename(other, path), 0);
    assert_true(watch_files_changed(&files));

    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0); /* an old date does not hide it */
    assert_true(watch_files_changed(&files));

    assert_int_equal(unlink(path), 0);
    assert_true(watch_files_changed(&files));
    assert_false(watch_files_changed(&files));
    put(folder, "leaf.pem", "x", 0644);
    assert_true(watch_files_changed(&files));
    watch_files_clear(&files);
    mem_free(path);
    mem_free(other);
}

/* Kubernetes: leaf.pem -> ..data/leaf.pem, ..data -> a folder that is swapped, again and again. */
static void test_a_swapped_symbolic_link_is_seen_each_time(void **state)
{
    struct folder *folder = *state;
    struct watch_files files = {.items = NULL};
    char *link = in_folder(folder, "new"), *next = in_folder(folder, "next");

    assert_int_equal(symlink("leaf.pem", link), 0);
    watch_files_add(&files, link);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(symlink(i % 2 == 0 ? "roots.pem" : "leaf.pem", next), 0);
        assert_int_equal(rename(next, link), 0);
        assert_true(watch_files_changed(&files));
        assert_false(watch_files_changed(&files));
    }
    watch_files_clear(&files);
    mem_free(link);
    mem_free(next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_settings_of_the_file_and_who_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faulty_settings_are_told_with_the_others, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_key_that_others_may_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_of_a_pair, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_that_are_missing_or_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_more_revocation_lists_than_anybody_has, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_plaintext_has_an_end_that_is_near, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_key_that_was_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_expired_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_configuration_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_way_to_change_a_file_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_swapped_symbolic_link_is_seen_each_time, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
