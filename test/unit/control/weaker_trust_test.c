/* Whom a change lets in that was not let in: each CA and each name more is told, one less and the
 * same ones in another form are not. Without it: a CA slipped into a truststore that is in use
 * opens its links to whoever has that CA's key, and nobody had to mean it. Drives: A2, A13, R1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/mesh.h"
#include "control/weaker.h"
#include "lib/rpc/pb.h"
#include "test/testlib/testca.h"
#include "test/unit/control/fixture.h"

#define ONE "1"
#define TWO "2"
#define BOTH "12"
#define MESH "m"
#define ALL "m12"
#define NONE "-" /* the profile names no truststore */

/* Of the profile of one end: its truststore ("m": the mesh's own CAs, "1", "2": CAs of others; each
 * store is called as it reads) and its peer_names. */
struct trust {
    const char *store;
    const char *names;
};

static const struct {
    struct trust before, after;
    const char *told; /* NULL: nothing */
} rows[] = {
    {{NONE, ""}, {NONE, ""}, NULL},
    {{NONE, ""}, {MESH, ""}, NULL},
    {{MESH, ""}, {NONE, ""}, NULL},
    {{NONE, ""}, {ONE, "a.test"}, "vouched for also by CN=one (sha256 "},
    {{MESH, ""}, {ONE, "a.test"}, "vouched for also by CN=one (sha256 "},
    {{NONE, ""}, {ALL, "a.test"}, "vouched for also by CN="},
    {{ONE, "a.test"}, {ONE, "a.test"}, NULL},
    {{ONE, "a.test"}, {BOTH, "a.test"}, "vouched for also by CN=two (sha256 "},
    {{BOTH, "a.test"}, {ONE, "a.test"}, NULL},
    {{ONE, "a.test"}, {TWO, "a.test"}, "vouched for also by CN=two (sha256 "},
    {{ONE, "a.test"}, {MESH, ""}, "vouched for also by the mesh's own CAs"},
    {{ONE, "a.test"}, {NONE, ""}, "vouched for also by the mesh's own CAs"},
    {{ALL, "a.test"}, {NONE, ""}, NULL},
    {{BOTH, "a.test"}, {ALL, "a.test"}, "vouched for also by the mesh's own CAs"},
    {{ONE, "a.test"}, {ONE, "a.test, b.test"}, "peers may be called also b.test"},
    {{ONE, "a.test, b.test"}, {ONE, "b.test"}, NULL},
    {{ONE, "a.test, b.test"}, {ONE, "b.test, a.test"}, NULL},
    {{ONE, "a.test"},
     {ONE, "a.test, b.test, c.test, d.test, e.test"},
     "peers may be called also b.test, c.test, d.test and 1 more"},
};

struct cas {
    struct testca *one, *two;
};

static void add_store(struct buf *out, const char *store)
{
    if (strcmp(store, NONE) == 0)
        return;
    assert_ok(buf_printf(out, "truststores: [{name: \"s%s\"", store));
    if (strchr(store, 'm') != NULL)
        assert_ok(buf_printf(out, ", mesh_roots: true"));
    if (strpbrk(store, "12") != NULL)
        assert_ok(buf_printf(out, ", pem: [\"some text\"]"));
    assert_ok(buf_printf(out, "}]\n"));
}

/* The mesh with `trust` at both ends; PEM has line ends, which YAML in one line has not. */
static Mortise__V1__Mesh *mesh_of(const struct cas *cas, const struct trust *trust)
{
    CLEANUP(buf_fini) struct buf yaml = {0};
    CLEANUP(mem_freep) char *more = NULL;
    CLEANUP(mem_freep) char *text = NULL;
    Mortise__V1__Mesh *mesh;

    more = strcmp(trust->store, NONE) == 0
               ? mem_strdup("")
               : mem_printf(", truststore: \"s%s\", peer_names: [%s]", trust->store, trust->names);
    add_store(&yaml, trust->store);
    assert_ok(buf_printf(&yaml,
                         "subsystems: [{name: a}, {name: b}]\n"
                         "profiles: [{name: cl, role: CLIENT%s}, {name: sv, role: SERVER}]\n"
                         "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, "
                         "client_profile: cl, server_profile: sv}]\n",
                         more));
    text = buf_take_str(&yaml);
    mesh = fixture_mesh(text);
    if (mesh->n_truststores > 0 && mesh->truststores[0]->n_pem > 0) {
        mem_free(mesh->truststores[0]->pem[0]);
        mesh->truststores[0]->pem[0] =
            mem_printf("%s%s", strchr(trust->store, '1') != NULL ? cas->one->cert_pem : "",
                       strchr(trust->store, '2') != NULL ? cas->two->cert_pem : "");
    }
    return mesh;
}

static int setup(void **state)
{
    struct cas *cas = mem_zalloc(sizeof(*cas));

    cas->one = testca_new(&(struct testca_params){.name = "one"});
    cas->two = testca_new(&(struct testca_params){.name = "two"});
    *state = cas;
    return 0;
}

static int teardown(void **state)
{
    struct cas *cas = *state;

    testca_free(cas->one);
    testca_free(cas->two);
    mem_free(cas);
    return 0;
}

static void test_whoever_is_trusted_more_is_told_and_nobody_else(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Mortise__V1__Mesh *before = mesh_of(*state, &rows[i].before);
        Mortise__V1__Mesh *after = mesh_of(*state, &rows[i].after);
        struct faults told = {.num = 0};

        weaker_find(before, after, &told);
        if (told.num != (rows[i].told != NULL ? 1 : 0))
            fail_msg("row %zu: %zu told, first %s", i, told.num,
                     told.num > 0 ? told.items[0].message : "");
        if (rows[i].told != NULL) {
            assert_string_equal(told.items[0].path, "link l");
            assert_non_null(strstr(told.items[0].message, " of the client profile: "));
            if (strstr(told.items[0].message, rows[i].told) == NULL)
                fail_msg("row %zu: %s", i, told.items[0].message);
        }
        faults_fini(&told);
        pb_free(&before->base);
        pb_free(&after->base);
    }
}

/* The same CA in another text, and one more in the place of another. */
static void test_a_ca_is_its_certificate(void **state)
{
    struct cas *cas = *state;
    Mortise__V1__Mesh *before = mesh_of(cas, &(struct trust){ONE, "a.test"});
    Mortise__V1__Mesh *after = mesh_of(cas, &(struct trust){ONE, "a.test"});
    struct testca *again = testca_new(&(struct testca_params){.name = "one"});
    struct faults told = {.num = 0};
    char **pem = &after->truststores[0]->pem[0];

    mem_free(*pem);
    *pem = mem_printf("a note\n%s\n\n%s", cas->one->cert_pem, cas->one->cert_pem);
    weaker_find(before, after, &told);
    assert_int_equal(told.total, 0);
    mem_free(*pem);
    *pem = mem_strdup(again->cert_pem); /* of that name, another key */
    weaker_find(before, after, &told);
    assert_int_equal(told.total, 1);
    faults_fini(&told);
    testca_free(again);
    pb_free(&before->base);
    pb_free(&after->base);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_whoever_is_trusted_more_is_told_and_nobody_else),
        TEST(test_a_ca_is_its_certificate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
