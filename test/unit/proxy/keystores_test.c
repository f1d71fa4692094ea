/* What a control plane sends for links to show: chain and key together, or refused with which. An
 * expired one keeps nothing else from coming into force. Drives: A7, C1, R21. */
#include "proxy/keystores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "certs/key.h"
#include "lib/base/mem.h"
#include "test/testlib/testca.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct testca *root;

/* One keystore and one key, as they come. */
struct sent {
    Mortise__V1__SidecarConfig config;
    Mortise__V1__SidecarKeystore keystore, *list;
    Mortise__V1__KeystoreKey key, *keys;
    struct buf der;
};

static char name[] = "site", right[] = "right", other[] = "other";

static void send_it(struct sent *out, const struct testca *cert, const struct testca *key)
{
    memset(out, 0, sizeof(*out));
    mortise__v1__sidecar_config__init(&out->config);
    mortise__v1__sidecar_keystore__init(&out->keystore);
    mortise__v1__keystore_key__init(&out->key);
    assert_ok(key_der(key->key, &out->der));
    out->keystore.name = name;
    out->keystore.chain_pem = cert->chain_pem;
    out->keystore.key_sha256 = right;
    out->list = &out->keystore;
    out->config.keystores = &out->list;
    out->config.n_keystores = 1;
    out->key.key_sha256 = right;
    out->key.key.data = out->der.data;
    out->key.key.len = buf_size(&out->der);
    out->keys = &out->key;
}

static void assert_taken(struct sent *sent, size_t num_keys, const char *path, const char *fault)
{
    struct keystores keystores = {.num = 0};
    struct faults faults = {.num = 0};
    const struct keystores_source source = {.keys = &sent->keys, .num_keys = num_keys};
    err_t err = keystores_of(&sent->config, &source, &faults, &keystores);

    assert_int_equal(err_is_ok(err), fault == NULL);
    if (fault != NULL) {
        assert_int_equal(faults.num, 1);
        assert_string_equal(faults.items[0].path, path);
        assert_non_null(strstr(faults.items[0].message, fault));
    } else {
        size_t num = 0;
        Mortise__V1__KeystoreKey **keys = keystores_keys(&keystores, &sent->config, &num);

        assert_int_equal(num, 1);
        assert_int_equal(keys[0]->key.len, sent->key.key.len); /* for the cache, and back */
        assert_memory_equal(keys[0]->key.data, sent->key.key.data, sent->key.key.len);
        assert_string_equal(keys[0]->key_sha256, right);
        keystores_keys_free(keys, num);
    }
    keystores_fini(&keystores);
    faults_fini(&faults);
    buf_wipe_fini(&sent->der);
}

static void test_chain_and_key_come_together(void **state)
{
    const struct testca_params params = {.name = "web", .dns_sans = TESTCA_LIST("web.test")};
    struct testca *leaf = testca_issue(root, &params), *stranger = testca_issue(root, &params);
    struct sent sent;

    (void)state;
    send_it(&sent, leaf, leaf);
    assert_taken(&sent, 1, NULL, NULL);
    send_it(&sent, leaf, leaf);
    assert_taken(&sent, 0, "keystores[0].key_sha256", "did not come");
    send_it(&sent, leaf, leaf);
    sent.key.key_sha256 = other;
    assert_taken(&sent, 1, "keystores[0].key_sha256", "did not come");
    send_it(&sent, leaf, stranger);
    assert_taken(&sent, 1, "keystores[0]", "svid_key_mismatch");
    send_it(&sent, leaf, leaf);
    sent.key.key.len--;
    assert_taken(&sent, 1, "keystores[0]", "key_syntax");
    send_it(&sent, leaf, leaf);
    sent.keystore.cert_file = other;
    assert_taken(&sent, 1, "keystores[0].cert_file", "static mode only");
    testca_free(leaf);
    testca_free(stranger);
}

static void test_an_expired_one_is_taken(void **state)
{
    int64_t now_s = (int64_t)time(NULL);
    struct testca *old =
        testca_issue(root, &(struct testca_params){.dns_sans = TESTCA_LIST("web.test"),
                                                   .not_before = now_s - 1800,
                                                   .not_after = now_s - 60});
    struct sent sent;

    (void)state;
    send_it(&sent, old, old);
    assert_taken(&sent, 1, NULL, NULL);
    testca_free(old);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain_and_key_come_together),
        cmocka_unit_test(test_an_expired_one_is_taken),
    };
    int failed;

    root = testca_new(&(struct testca_params){.name = "root"});
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    testca_free(root);
    return failed;
}
