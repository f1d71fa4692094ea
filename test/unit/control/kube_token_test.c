/* Without this whoever holds a token of a cluster could be taken for a pod that it was not given
 * to. Drives: R43 */
#include "control/kube_token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

/* As kube-apiserver 1.36 makes it, but for what jwt_verify has looked at. */
#define CLAIMS(sub, namespace, account, pod)                                                     \
    "{\"sub\":\"" sub                                                                            \
    "\",\"kubernetes.io\":{\"namespace\":\"" namespace "\",\"node\":{\"name\":\"n\",\"uid\":"    \
                                                       "\"u\"}," pod                             \
                                                       "\"serviceaccount\":{\"name\":\"" account \
                                                       "\",\"uid\":\"2b3c\"},\"warnafter\":"     \
                                                       "1795484321}}"
#define POD "\"pod\":{\"name\":\"portal-7d9f-x2k\",\"uid\":\"0f1e-2d3c\"},"
#define PORTAL "system:serviceaccount:apim:portal"

static void test_the_claims_of_a_pod(void **state)
{
    struct kube_token token;

    (void)state;
    assert_true(
        err_is_ok(kube_token_read(bytes_of_str(CLAIMS(PORTAL, "apim", "portal", POD)), &token)));
    assert_string_equal(token.namespace, "apim");
    assert_string_equal(token.service_account, "portal");
    assert_string_equal(token.pod, "portal-7d9f-x2k");
    assert_string_equal(token.pod_uid, "0f1e-2d3c");
    kube_token_fini(&token);
}

static void test_what_is_no_pods_is_refused(void **state)
{
    static const struct {
        const char *claims;
        enum err_code code;
    } cases[] = {
        {CLAIMS(PORTAL, "apim", "portal", ""), E_TOKEN_UNBOUND},
        {CLAIMS(PORTAL, "apim", "gateway", POD), E_JWT_CLAIM},
        {CLAIMS(PORTAL, "other", "portal", POD), E_JWT_CLAIM},
        {CLAIMS("system:serviceaccount:apim:portal:x", "apim", "portal", POD), E_JWT_CLAIM},
        {CLAIMS("system:node:n", "apim", "portal", POD), E_JWT_CLAIM},
        {CLAIMS("", "apim", "portal", POD), E_JWT_CLAIM},
        {CLAIMS("system:serviceaccount:apim:Portal", "apim", "Portal", POD), E_JWT_CLAIM},
        {CLAIMS("system:serviceaccount:apim:a/b", "apim", "a/b", POD), E_JWT_CLAIM},
        {CLAIMS("system:serviceaccount:../x:a", "../x", "a", POD), E_JWT_CLAIM},
        {CLAIMS("system:serviceaccount::portal", "", "portal", POD), E_JWT_CLAIM},
        {CLAIMS(PORTAL, "apim", "portal", "\"pod\":{\"name\":\"p\"},"), E_JWT_CLAIM},
        {CLAIMS(PORTAL, "apim", "portal", "\"pod\":{\"name\":\"p\",\"uid\":7},"), E_JWT_CLAIM},
        {CLAIMS(PORTAL, "apim", "portal", "\"pod\":{\"name\":\"p\",\"uid\":\"a b\"},"),
         E_JWT_CLAIM},
        {CLAIMS(PORTAL, "apim", "portal", "\"pod\":\"p\","), E_JWT_CLAIM},
        {CLAIMS(PORTAL, "apim\\u0000x", "portal", POD), E_JWT_SYNTAX},
        {"{\"sub\":\"" PORTAL "\"}", E_JWT_CLAIM},
        {"{\"sub\":\"" PORTAL "\",\"sub\":\"" PORTAL "\"}", E_JWT_SYNTAX},
        {"[]", E_JWT_SYNTAX},
        {"{", E_JWT_SYNTAX},
        {"", E_JWT_SYNTAX},
    };
    struct kube_token token;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        err_t err = kube_token_read(bytes_of_str(cases[i].claims), &token);

        if (err.code != cases[i].code)
            fail_msg("%s: %s", cases[i].claims, err_name(err.code));
        kube_token_fini(&token);
    }
}

static void test_a_token_of_ours_is_none(void **state)
{
    (void)state;
    assert_true(kube_token_is("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"));
    assert_false(kube_token_is("mjt1.abcdefgh"));
    assert_false(kube_token_is("eyJhbGciOiJSUzI1NiJ9.c2ln"));
    assert_false(kube_token_is(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_claims_of_a_pod),
        cmocka_unit_test(test_what_is_no_pods_is_refused),
        cmocka_unit_test(test_a_token_of_ours_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
