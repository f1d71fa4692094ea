/* Keystores on the sidecar's own disk: nothing outside of the folder that its operator names is
 * ever read, what is no whole pair is told with its file, and what is in force stays. Drives: A7,
 * A13, R10, R25. */
#include "proxy/disk_keystore.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "certs/key.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "proxy/keystores.h"
#include "test/testlib/testca.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct testca *root;
static char dir[] = "/tmp/disk_keystoreXXXXXX";

static void put(const char *file, struct bytes content, mode_t mode)
{
    CLEANUP(mem_freep) char *folder = mem_printf("%s/site", dir);
    CLEANUP(mem_freep) char *path = mem_printf("%s/site/%s", dir, file);

    (void)mkdir(folder, 0700);
    assert_ok(file_write_atomic(path, content, mode));
}

static void put_chain(const struct testca *cert)
{
    put(DISK_KEYSTORE_CHAIN, bytes_of_str(cert->chain_pem), 0644);
}

static void put_key(const struct testca *cert, mode_t mode)
{
    CLEANUP(buf_wipe_fini) struct buf pem = {.data = NULL};

    assert_ok(key_write_pem(cert->key, &pem));
    put(DISK_KEYSTORE_KEY, buf_view(&pem), mode);
}

static void put_pair(const struct testca *cert)
{
    put_chain(cert);
    put_key(cert, 0600);
}

static struct testca *leaf_of(const struct testca_params *params)
{
    static const char *const names[] = {"site.test", NULL};
    struct testca_params all = *params;

    if (all.uri_sans == NULL)
        all.dns_sans = names;
    all.name = "site";
    return testca_issue(root, &all);
}

/* `fault` NULL: taken. */
static void assert_read(const char *folder, int64_t now_s, const char *fault)
{
    struct faults faults = {.num = 0};
    struct svid *svid = NULL;
    err_t err = disk_keystore_read(dir, folder, now_s, "keystores[0].folder", &faults, &svid);

    assert_int_equal(err_is_ok(err), fault == NULL);
    assert_int_equal(svid != NULL, fault == NULL);
    if (fault != NULL) {
        assert_string_equal(faults.items[0].path, "keystores[0].folder");
        if (strstr(faults.items[0].message, fault) == NULL)
            fail_msg("%s: %s", fault, faults.items[0].message);
        assert_null(strstr(faults.items[0].message, "--private-key"));
        assert_null(strstr(faults.items[0].message, "--chain"));
    } else {
        svid_unref(svid);
    }
    faults_fini(&faults);
}

static void test_a_pair_is_judged_as_an_upload_is(void **state)
{
    int64_t now_s = (int64_t)time(NULL);
    const struct {
        struct testca_params params;
        const char *fault;
    } cases[] = {
        {{.name = NULL}, NULL},
        {{.key = TESTCA_RSA2048}, NULL},
        {{.key = TESTCA_RSA1024}, "site/tls.key: 1024 bits"},
        {{.not_before = now_s - 3600, .not_after = now_s - 60}, "site/tls.crt: certificate 1"},
        {{.not_before = now_s + 60, .not_after = now_s + 3600}, "becomes valid"},
        {{.eku = TESTCA_EKU_EMAIL}, "ExtendedKeyUsage"},
        {{.is_ca = true}, "is a CA's"},
        {{.uri_sans = TESTCA_LIST("spiffe://mesh.test/ns/a/sa/b")}, "has a SPIFFE ID"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct testca *made = leaf_of(&cases[i].params);

        put_pair(made);
        assert_read("site", now_s, cases[i].fault);
        testca_free(made);
    }
}

/* Who starts again with a certificate that has expired shows it; peers refuse it. */
static void test_dates_are_not_asked_at_a_start(void **state)
{
    int64_t now_s = (int64_t)time(NULL);
    struct testca *old =
        leaf_of(&(struct testca_params){.not_before = now_s - 1800, .not_after = now_s - 60});

    (void)state;
    put_pair(old);
    assert_read("site", now_s, "expired 60 s ago");
    assert_read("site", 0, NULL);
    testca_free(old);
}

static void test_what_is_no_whole_pair_names_the_file(void **state)
{
    static const char broken[] = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    int64_t now_s = (int64_t)time(NULL);
    struct testca *made = leaf_of(&(struct testca_params){.name = NULL});
    struct testca *next = leaf_of(&(struct testca_params){.name = NULL});
    CLEANUP(mem_freep) char *key = mem_printf("%s/site/" DISK_KEYSTORE_KEY, dir);
    CLEANUP(mem_freep) char *chain = mem_printf("%s/site/" DISK_KEYSTORE_CHAIN, dir);

    (void)state;
    put_chain(made);
    put_key(next, 0600);
    assert_read("site", now_s, "site/tls.key: belongs to none of the 1 certificates");
    put_key(made, 0644);
    assert_read("site", now_s, "site/tls.key: may be read or changed by others");
    put_key(made, 0600);
    assert_read("site", now_s, NULL);
    put(DISK_KEYSTORE_CHAIN, bytes_of_str(broken), 0644);
    assert_read("site", now_s, "site/tls.crt: line");
    put(DISK_KEYSTORE_CHAIN, bytes_of(NULL, 0), 0644);
    assert_read("site", now_s, "site/tls.crt: ");
    put_chain(made);
    assert_int_equal(unlink(key), 0);
    assert_read("site", now_s, "site/tls.key: ");
    assert_int_equal(mkdir(key, 0700), 0); /* no regular file */
    assert_read("site", now_s, "site/tls.key: ");
    assert_int_equal(rmdir(key), 0);
    assert_int_equal(mkfifo(key, 0600), 0); /* nobody waits for one who never writes */
    assert_read("site", now_s, "site/tls.key: ");
    assert_int_equal(unlink(key), 0);
    put_key(made, 0600);
    assert_int_equal(truncate(chain, DISK_KEYSTORE_CHAIN_MAX + 1), 0);
    assert_read("site", now_s, "site/tls.crt: is larger than");
    testca_free(made);
    testca_free(next);
}

/* The folder beside it has a good pair, and no name leads there. */
static void test_no_name_leads_out_of_the_folder(void **state)
{
    static const char *const names[] = {
        "",
        ".",
        "..",
        "../site",
        "site/../site",
        "/etc",
        "site/",
        "S",
        "-site",
        "site-",
        "si te",
        "site\n",
        "..data",
        "site.d",
        "%s",
        "a\\..",
        "./site",
        "\xc3\xa9",
        "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg",
    };
    struct testca *made = leaf_of(&(struct testca_params){.name = NULL});
    struct watch_files files = {.items = NULL};

    (void)state;
    put_pair(made);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_false(disk_keystore_name_valid(names[i]));
        assert_read(names[i], 0, "is not the name of a folder in --keystore-dir");
        disk_keystore_watch(dir, names[i], &files);
    }
    assert_int_equal(files.num, 0);
    assert_read("nosuch", 0, "nosuch/tls.crt: ");
    assert_true(disk_keystore_name_valid("site-2027"));
    disk_keystore_watch(dir, "site", &files);
    assert_int_equal(files.num, 2);
    watch_files_clear(&files);
    testca_free(made);
}

/* ---- what is in force ---- */

struct pushed {
    Mortise__V1__SidecarConfig config;
    Mortise__V1__SidecarKeystore keystore, *list;
};

static char site[] = "site", own[] = "own";

static void push(struct pushed *out)
{
    mortise__v1__sidecar_config__init(&out->config);
    mortise__v1__sidecar_keystore__init(&out->keystore);
    out->keystore.name = own;
    out->keystore.folder = site;
    out->list = &out->keystore;
    out->config.keystores = &out->list;
    out->config.n_keystores = 1;
}

static void test_a_sidecar_without_a_folder_reads_none(void **state)
{
    struct keystores_source source = {.dir = NULL};
    struct keystores keystores;
    struct faults faults = {.num = 0};
    struct pushed pushed;

    (void)state;
    push(&pushed);
    assert_int_equal(keystores_of(&pushed.config, &source, &faults, &keystores).code,
                     E_CONFIG_INVALID);
    assert_non_null(strstr(faults.items[0].message, "--keystore-dir"));
    keystores_fini(&keystores);
    faults_fini(&faults);
}

static void test_the_former_pair_stays_until_there_is_another(void **state)
{
    struct testca *first = leaf_of(&(struct testca_params){.name = NULL});
    struct testca *second = leaf_of(&(struct testca_params){.name = NULL});
    struct keystores_source source = {.dir = dir, .now_s = (int64_t)time(NULL)};
    struct keystores force = {.num = 0}, now = {.num = 0};
    Mortise__V1__KeystoreStatus **told;
    struct faults faults = {.num = 0};
    struct pushed pushed;
    size_t num = 0;

    (void)state;
    push(&pushed);
    put_pair(first);
    assert_ok(keystores_of(&pushed.config, &source, &faults, &force));
    assert_null(force.wrong[0]);
    mem_free(keystores_keys(&force, &pushed.config, &num));
    assert_int_equal(num, 0); /* its key is not for the cache */

    source.config = &pushed.config;
    source.former = &force;
    put_chain(second); /* the half of it */
    assert_ok(keystores_of(&pushed.config, &source, &faults, &now));
    assert_ptr_equal(now.items[0], force.items[0]);
    assert_non_null(strstr(now.wrong[0], "site/tls.key: belongs to none"));
    told = keystores_status(&now, &pushed.config, &num);
    assert_int_equal(num, 1);
    assert_string_equal(told[0]->name, own);
    assert_string_equal(told[0]->dns_name, "site.test");
    assert_string_equal(told[0]->subject, "CN=site");
    assert_int_equal(told[0]->not_after, force.items[0]->not_after);
    assert_non_null(strstr(told[0]->refused, "belongs to none"));
    keystores_status_free(told, num);
    keystores_fini(&now);

    put_key(second, 0600); /* the whole */
    assert_ok(keystores_of(&pushed.config, &source, &faults, &now));
    assert_ptr_not_equal(now.items[0], force.items[0]);
    assert_null(now.wrong[0]);
    keystores_fini(&now);

    put_pair(first); /* as it was: the same, not a new one */
    assert_ok(keystores_of(&pushed.config, &source, &faults, &now));
    assert_ptr_equal(now.items[0], force.items[0]);
    assert_null(now.wrong[0]);
    keystores_fini(&now);
    keystores_fini(&force);
    testca_free(first);
    testca_free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pair_is_judged_as_an_upload_is),
        cmocka_unit_test(test_dates_are_not_asked_at_a_start),
        cmocka_unit_test(test_what_is_no_whole_pair_names_the_file),
        cmocka_unit_test(test_no_name_leads_out_of_the_folder),
        cmocka_unit_test(test_a_sidecar_without_a_folder_reads_none),
        cmocka_unit_test(test_the_former_pair_stays_until_there_is_another),
    };
    int failed;

    assert_non_null(mkdtemp(dir));
    root = testca_new(&(struct testca_params){.name = "root"});
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    testca_free(root);
    return failed;
}
