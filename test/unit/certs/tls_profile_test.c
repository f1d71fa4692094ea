/* TLS profiles: what they say is what goes over the wire; what cannot be had is told by name, with
 * the reason and what to write instead; two that could not talk are told before they try. Drives:
 * R1, A1, A2, A3, B2. */
#include "certs/tls_profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "certs/tls_ctx.h"
#include "test/unit/certs/pki.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

/* --- golden files --- */

/* One for each kind of profile: test/golden/profiles/NAME.txt. After a change that is meant, run
 * with MORTISE_GOLDEN_WRITE=FOLDER and copy. */
static const struct {
    const char *name;
    struct pki_profile profile;
} goldens[] = {
    {"default-client", {0}},
    {"default-server", {.server = true}},
    {"tls13-only", {.min = PKI_TLS1_3}},
    {"tls12-only", {.server = true, .max = PKI_TLS1_2}},
    {"aes-only",
     {.server = true,
      .suites = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                 "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}}},
    {"tls13-aes256", {.suites = {"TLS_AES_256_GCM_SHA384"}}},
    {"tls13-aes128", {.suites = {"TLS_AES_128_GCM_SHA256"}}},
    {"tls13-aes256-chacha", {.suites = {"TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384"}}},
    {"tls13-aes128-chacha", {.suites = {"TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}}},
    {"weak",
     {.max = PKI_TLS1_2,
      .suites = {"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_RSA_WITH_AES_128_GCM_SHA256",
                 "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"}}},
    {"lists",
     {.server = true, .groups = {"P-384", "secp256r1"}, .sigalgs = {"ecdsa_secp384r1_sha384"}}},
};

/* What is expected is Debian's library's, which lacks the post-quantum group: without it here. */
static void leave_out_post_quantum(struct buf *text)
{
    static const char *const names[] = {"X25519MLKEM768, ", "X25519MLKEM768 "};
    char copy[8192];

    (void)snprintf(copy, sizeof copy, "%.*s", (int)buf_size(text),
                   (const char *)buf_view(text).ptr);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *at = strstr(copy, names[i]);
        if (at != NULL)
            memmove(at, at + strlen(names[i]), strlen(at) - strlen(names[i]) + 1);
    }
    buf_fini(text);
    *text = (struct buf){0};
    assert_ok(buf_add(text, copy, strlen(copy)));
}

static void golden_write(const char *folder, const char *name, const struct buf *text)
{
    char path[512];

    (void)snprintf(path, sizeof path, "%s/%s.txt", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(buf_view(text).ptr, 1, buf_size(text), f), buf_size(text));
    assert_int_equal(fclose(f), 0);
}

static void golden_compare(const char *name, const struct buf *text)
{
    char path[512];
    char want[8192];

    (void)snprintf(path, sizeof path, "test/golden/profiles/%s.txt", name);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        print_error("%s is missing\n", path);
    assert_non_null(f);
    size_t len = fread(want, 1, sizeof want - 1, f);
    assert_int_equal(fclose(f), 0);
    want[len] = '\0';
    if (len != buf_size(text) || memcmp(want, buf_view(text).ptr, len) != 0)
        print_error("%s has:\n%s\nthe profile is:\n%.*s\n", path, want, (int)buf_size(text),
                    (const char *)buf_view(text).ptr);
    assert_int_equal(len, buf_size(text));
    assert_memory_equal(want, buf_view(text).ptr, len);
}

static void test_golden(void **state)
{
    const char *folder = getenv("MORTISE_GOLDEN_WRITE");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        struct tls_profile *profile = pki_profile(&goldens[i].profile);
        struct buf text = {0};
        assert_ok(tls_profile_describe(profile, &text));
        leave_out_post_quantum(&text);
        if (folder != NULL)
            golden_write(folder, goldens[i].name, &text);
        else
            golden_compare(goldens[i].name, &text);
        buf_fini(&text);
        tls_profile_unref(profile);
    }
}

/* --- the wire --- */

/* What a ClientHello says, GREASE left out. */
struct hello {
    bool seen;
    uint16_t suites[32];
    size_t num_suites;
    uint16_t groups[16];
    size_t num_groups;
    uint16_t sigalgs[32];
    size_t num_sigalgs;
    uint16_t versions[8];
    size_t num_versions;
};

static struct hello hello;

static bool is_grease(uint16_t value)
{
    return (value & 0x0f0f) == 0x0a0a && value >> 8 == (value & 0xff);
}

static void read_u16s(CBS list, uint16_t *out, size_t max, size_t *num)
{
    uint16_t value = 0;

    while (CBS_get_u16(&list, &value)) {
        if (!is_grease(value) && *num < max)
            out[(*num)++] = value;
    }
}

static void read_extension(const SSL_CLIENT_HELLO *client_hello, uint16_t type, bool short_len,
                           uint16_t *out, size_t max, size_t *num)
{
    const uint8_t *data = NULL;
    size_t len = 0;
    CBS in;
    CBS list;

    if (!SSL_early_callback_ctx_extension_get(client_hello, type, &data, &len))
        return;
    CBS_init(&in, data, len);
    assert_true(short_len ? CBS_get_u8_length_prefixed(&in, &list)
                          : CBS_get_u16_length_prefixed(&in, &list));
    read_u16s(list, out, max, num);
}

static enum ssl_select_cert_result_t on_hello(const SSL_CLIENT_HELLO *client_hello)
{
    CBS suites;

    hello = (struct hello){.seen = true};
    CBS_init(&suites, client_hello->cipher_suites, client_hello->cipher_suites_len);
    read_u16s(suites, hello.suites, ARRAY_LEN(hello.suites), &hello.num_suites);
    read_extension(client_hello, TLSEXT_TYPE_supported_groups, false, hello.groups,
                   ARRAY_LEN(hello.groups), &hello.num_groups);
    read_extension(client_hello, TLSEXT_TYPE_signature_algorithms, false, hello.sigalgs,
                   ARRAY_LEN(hello.sigalgs), &hello.num_sigalgs);
    read_extension(client_hello, TLSEXT_TYPE_supported_versions, true, hello.versions,
                   ARRAY_LEN(hello.versions), &hello.num_versions);
    return ssl_select_cert_error;
}

/* hello_of sends the ClientHello of a context or, `per_session`, of a session with the profile. */
static void hello_of(const struct tls_profile *profile, bool per_session)
{
    SSL_CTX *client = SSL_CTX_new(TLS_with_buffers_method());
    SSL_CTX *server = SSL_CTX_new(TLS_with_buffers_method());
    BIO *a = NULL;
    BIO *b = NULL;

    if (!per_session)
        assert_ok(tls_profile_apply_ctx(profile, client));
    SSL_CTX_set_select_certificate_cb(server, on_hello);
    SSL *c = SSL_new(client);
    SSL *s = SSL_new(server);
    if (per_session)
        assert_ok(tls_profile_apply_ssl(profile, c));
    assert_true(BIO_new_bio_pair(&a, 16384, &b, 16384));
    SSL_set_bio(c, a, a);
    SSL_set_bio(s, b, b);
    SSL_set_connect_state(c);
    SSL_set_accept_state(s);
    hello.seen = false;
    (void)SSL_do_handshake(c);
    (void)SSL_do_handshake(s);
    ERR_clear_error();
    assert_true(hello.seen);
    SSL_free(c);
    SSL_free(s);
    SSL_CTX_free(client);
    SSL_CTX_free(server);
}

static bool hello_has_suite(uint16_t id)
{
    for (size_t i = 0; i < hello.num_suites; i++) {
        if (hello.suites[i] == id)
            return true;
    }
    return false;
}

static bool line_has(const struct buf *text, const char *line, const char *name)
{
    CLEANUP(mem_freep)
    char *copy = mem_strndup((const char *)buf_view(text).ptr, buf_size(text));
    char *rest = NULL;
    char *words = NULL;

    for (char *at = strtok_r(copy, "\n", &rest); at != NULL; at = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(at, line, strlen(line)) != 0)
            continue;
        for (char *word = strtok_r(at + strlen(line), " ", &words); word != NULL;
             word = strtok_r(NULL, " ", &words)) {
            if (strcmp(word, name) == 0)
                return true;
        }
    }
    return false;
}

/* What is described is what is sent, suite for suite, for every golden profile. */
static void test_description_is_true_on_the_wire(void **state)
{
    static const struct {
        uint16_t id;
        const char *name;
    } suites[] = {
        {0x1301, "TLS_AES_128_GCM_SHA256"},
        {0x1302, "TLS_AES_256_GCM_SHA384"},
        {0x1303, "TLS_CHACHA20_POLY1305_SHA256"},
        {0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
        {0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
        {0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
        {0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
        {0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
        {0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
        {0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"},
        {0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"},
        {0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"},
        {0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"},
        {0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        struct tls_profile *profile = pki_profile(&goldens[i].profile);
        struct buf text = {0};
        assert_ok(tls_profile_describe(profile, &text));
        for (int per_session = 0; per_session < 2; per_session++) {
            size_t found = 0;
            hello_of(profile, per_session != 0);
            for (size_t j = 0; j < ARRAY_LEN(suites); j++) {
                const char *line = suites[j].id >> 8 == 0x13 ? "suites TLS1_3:" : "suites TLS1_2:";
                bool described = line_has(&text, line, suites[j].name);
                bool sent = hello_has_suite(suites[j].id);
                if (described != sent)
                    print_error("%s: %s described %d, sent %d\n", goldens[i].name, suites[j].name,
                                described, sent);
                assert_int_equal(described, sent);
                found += sent;
            }
            assert_int_equal(found, hello.num_suites); /* and nothing else */
            assert_int_equal(line_has(&text, "versions:", "TLS1_2"),
                             hello.num_versions == 0 ||
                                 (hello.num_versions == 1 && hello.versions[0] == TLS1_2_VERSION));
            assert_int_equal(line_has(&text, "versions:", "TLS1_3"),
                             hello.num_versions == 1 && hello.versions[0] == TLS1_3_VERSION);
        }
        buf_fini(&text);
        tls_profile_unref(profile);
    }
}

static void test_lists_keep_their_order_on_the_wire(void **state)
{
    struct tls_profile *profile = pki_profile(&(struct pki_profile){
        .suites = {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                   "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                   "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
        .groups = {"P-384", "X25519"},
        .sigalgs = {"rsa_pss_rsae_sha256", "ecdsa_secp384r1_sha384", "ecdsa_secp256r1_sha256"}});

    (void)state;
    hello_of(profile, false);
    assert_int_equal(hello.num_groups, 2);
    assert_int_equal(hello.groups[0], 24);
    assert_int_equal(hello.groups[1], 29);
    assert_int_equal(hello.num_sigalgs, 3);
    assert_int_equal(hello.sigalgs[0], 0x0804);
    assert_int_equal(hello.sigalgs[1], 0x0503);
    assert_int_equal(hello.sigalgs[2], 0x0403);
    assert_int_equal(hello.num_suites, 6); /* three of TLS 1.3, which were not named: all */
    assert_int_equal(hello.suites[3], 0xcca9);
    assert_int_equal(hello.suites[4], 0xc02b);
    assert_int_equal(hello.suites[5], 0xc030);
    assert_int_equal(hello.num_versions, 2);
    tls_profile_unref(profile);
}

/* The post-quantum group is there or not: offered first, or refused by name. */
static void test_post_quantum_group_where_the_library_has_it(void **state)
{
    struct pki_profile one = {.groups = {"X25519MLKEM768", "X25519"}};
    struct fault_path path = {0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;
    Mortise__V1__TlsProfile msg;

    (void)state;
    pki_message(&one, &msg);
    if (err_is_ok(tls_profile_compile(&msg, &path, &faults, &profile))) {
        hello_of(profile, false);
        assert_int_equal(hello.num_groups, 2);
        assert_int_equal(hello.groups[0], 0x11ec);
        tls_profile_unref(profile);
        profile = pki_profile(&(struct pki_profile){0}); /* unless told otherwise, too */
        hello_of(profile, false);
        assert_int_equal(hello.num_groups, 4);
        assert_int_equal(hello.groups[0], 0x11ec);
    } else {
        assert_int_equal(faults.num, 1);
        assert_string_equal(faults.items[0].path, "groups[0]");
        assert_non_null(strstr(faults.items[0].message, "does not have \"X25519MLKEM768\""));
    }
    tls_profile_unref(profile);
    faults_fini(&faults);
    pki_message_fini(&msg);
}

/* --- faults --- */

struct fault_case {
    struct pki_profile profile;
    const char *path;
    const char *says[3]; /* in the message, all of them */
};

static const struct fault_case fault_cases[] = {
    {{.suites = {"TLS_AES_128_GCM_SHA25"}},
     "profiles[3].cipher_suites[0]",
     {"unknown cipher suite \"TLS_AES_128_GCM_SHA25\"", "did you mean \"TLS_AES_128_GCM_SHA256\""}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"}},
     "profiles[3].cipher_suites[1]",
     {"OpenSSL's name", "\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\""}},
    {{.suites = {""}}, "profiles[3].cipher_suites[0]", {"unknown cipher suite \"\""}},
    {{.suites = {"HIGH:!aNULL"}}, "profiles[3].cipher_suites[0]", {"unknown"}},
    {{.suites = {"TLS_RSA_WITH_RC4_128_SHA"}},
     "profiles[3].cipher_suites[0]",
     {"does not have", "RFC 7465", "TLS_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.suites = {"TLS_ECDHE_RSA_WITH_RC4_128_SHA"}},
     "profiles[3].cipher_suites[0]",
     {"RFC 7465", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.suites = {"TLS_ECDHE_ECDSA_WITH_RC4_128_SHA"}},
     "profiles[3].cipher_suites[0]",
     {"RFC 7465", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
    {{.suites = {"TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"}},
     "profiles[3].cipher_suites[0]",
     {"Sweet32", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.suites = {"TLS_RSA_WITH_AES_128_CBC_SHA256"}},
     "profiles[3].cipher_suites[0]",
     {"CBC", "TLS_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"}},
     "profiles[3].cipher_suites[1]",
     {"twice"}},
    {{.suites = {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
                 "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"}},
     "profiles[3].cipher_suites[1]",
     {"twice"}},
    {{.suites = {"TLS_CHACHA20_POLY1305_SHA256"}},
     "profiles[3].cipher_suites",
     {"cannot be had", "TLS_AES_128_GCM_SHA256", "max_version: TLS1_2"}},
    {{.max = PKI_TLS1_2, .suites = {"TLS_AES_128_GCM_SHA256"}},
     "profiles[3].cipher_suites",
     {"nothing is left"}},
    {{.min = PKI_TLS1_3, .max = PKI_TLS1_2}, "profiles[3].min_version", {"above max_version"}},
    {{.min = MORTISE__V1__TLS_VERSION__TLS1_0}, "profiles[3].min_version", {"TLS1_0", "lowest"}},
    {{.max = MORTISE__V1__TLS_VERSION__TLS1_1}, "profiles[3].max_version", {"TLS1_1", "lowest"}},
    {{.max = (Mortise__V1__TlsVersion)77}, "profiles[3].max_version", {"unknown version"}},
    {{.groups = {"P-225"}}, "profiles[3].groups[0]", {"unknown group", "did you mean \"P-2"}},
    {{.groups = {"P-224"}}, "profiles[3].groups[0]", {"unknown group \"P-224\""}},
    {{.groups = {"X25519", "x25519"}}, "profiles[3].groups[1]", {"twice"}},
    {{.sigalgs = {"ed25519"}}, "profiles[3].signature_algorithms[0]", {"not allowed"}},
    {{.sigalgs = {"ecdsa_sha1"}}, "profiles[3].signature_algorithms[0]", {"SHA-1 is broken"}},
    {{.sigalgs = {"ecdsa_secp256r1_sha512"}},
     "profiles[3].signature_algorithms[0]",
     {"unknown signature algorithm", "ecdsa_secp256r1_sha256"}},
    {{.min = PKI_TLS1_3, .sigalgs = {"rsa_pkcs1_sha256"}},
     "profiles[3].signature_algorithms",
     {"TLS 1.3 has no use"}},
};

static void test_faults_name_the_field_and_what_would_be_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fault_cases); i++) {
        const struct fault_case *one = &fault_cases[i];
        struct fault_path path = {.text = "profiles[3]", .len = strlen("profiles[3]")};
        struct faults faults = {0};
        struct tls_profile *profile = NULL;
        Mortise__V1__TlsProfile msg;
        pki_message(&one->profile, &msg);
        err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
        assert_int_equal(err.code, E_CONFIG_INVALID);
        assert_null(profile);
        assert_int_equal(faults.num, 1);
        assert_string_equal(faults.items[0].path, one->path);
        for (size_t j = 0; j < 3 && one->says[j] != NULL; j++) {
            if (strstr(faults.items[0].message, one->says[j]) == NULL)
                print_error("%s lacks %s\n", faults.items[0].message, one->says[j]);
            assert_non_null(strstr(faults.items[0].message, one->says[j]));
        }
        assert_string_equal(path.text, "profiles[3]"); /* the path is as it was */
        faults_fini(&faults);
        pki_message_fini(&msg);
    }
}

static void test_all_faults_are_told_at_once(void **state)
{
    struct pki_profile bad = {.min = MORTISE__V1__TLS_VERSION__TLS1_0,
                              .suites = {"TLS_X", "TLS_RSA_WITH_RC4_128_SHA"},
                              .groups = {"P-1"},
                              .sigalgs = {"md5"}};
    struct fault_path path = {0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;
    Mortise__V1__TlsProfile msg;

    (void)state;
    pki_message(&bad, &msg);
    msg.role = MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED;
    err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
    assert_int_equal(err.code, E_CONFIG_INVALID);
    assert_int_equal(err.sub, 6);
    assert_int_equal(faults.num, 6);
    assert_string_equal(faults.items[0].path, "role");
    faults_fini(&faults);
    pki_message_fini(&msg);
}

static void test_endless_lists_are_cut(void **state)
{
    static char name[] = "TLS_X";
    char *names[5000];
    struct fault_path path = {0};
    struct faults *faults = mem_zalloc(sizeof *faults);
    struct tls_profile *profile = NULL;
    Mortise__V1__TlsProfile msg = MORTISE__V1__TLS_PROFILE__INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        names[i] = name;
    msg.role = MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    msg.cipher_suites = names;
    msg.n_cipher_suites = ARRAY_LEN(names);
    err_t err = tls_profile_compile(&msg, &path, faults, &profile);
    assert_int_equal(err.code, E_CONFIG_INVALID);
    assert_int_equal(faults->total, 65);
    faults_fini(faults);
    mem_free(faults);
}

/* B2: the 25 names of the other product: 18 of them are had, the rest refused by name; both forms
 * of the ChaCha20 names are taken. */
static void test_all_25_names_are_known(void **state)
{
    static const char *const names[] = {
        "TLS_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    };
    size_t had = 0;

    (void)state;
    assert_int_equal(ARRAY_LEN(names), 25);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct pki_profile one = {.suites = {names[i], "TLS_AES_128_GCM_SHA256"}};
        struct fault_path path = {0};
        struct faults faults = {0};
        struct tls_profile *profile = NULL;
        Mortise__V1__TlsProfile msg;
        if (strcmp(names[i], "TLS_AES_128_GCM_SHA256") == 0)
            one.suites[1] = NULL;
        pki_message(&one, &msg);
        if (err_is_ok(tls_profile_compile(&msg, &path, &faults, &profile))) {
            had++;
        } else {
            assert_non_null(strstr(faults.items[0].message, "the TLS library does not have"));
            assert_non_null(strstr(faults.items[0].message, "the nearest available is \"TLS_"));
        }
        tls_profile_unref(profile);
        faults_fini(&faults);
        pki_message_fini(&msg);
    }
    assert_true(had >= 18); /* a newer library has two more */
}

/* --- two profiles --- */

struct pair {
    struct pki_profile client;
    struct pki_profile server;
    const char *text; /* in common; NULL: nothing */
    const char *says[3];
};

static const struct pair pairs[] = {
    {{.min = PKI_TLS1_3},
     {.server = true, .suites = {"TLS_AES_256_GCM_SHA384"}},
     "TLS1_3; TLS_AES_256_GCM_SHA384; X25519, P-256, P-384",
     {NULL}},
    {{.max = PKI_TLS1_2, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true, .groups = {"P-256"}},
     "TLS1_2; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; P-256",
     {NULL}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     "TLS1_2-TLS1_3; TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; X25519, "
     "P-256, P-384",
     {NULL}},
    {{.max = PKI_TLS1_2},
     {.server = true, .min = PKI_TLS1_3},
     NULL,
     {"no TLS version in common", "\"client-test\" has TLS1_2;", "\"server-test\" has TLS1_3"}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true,
      .suites = {"TLS_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     NULL, /* TLS 1.2 would do, and would not be negotiated */
     {"no TLS 1.3 cipher suite in common", "has TLS_AES_128_GCM_SHA256,",
      "has TLS_AES_256_GCM_SHA384,"}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}},
     {.server = true, .suites = {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}},
     NULL, /* ChaCha20 is in common, and the library would not choose it */
     {"not the one that the library would choose"}},
    {{.max = PKI_TLS1_2, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     NULL,
     {"no cipher suite in common", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
      "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.groups = {"X25519"}},
     {.server = true, .groups = {"P-384"}},
     NULL,
     {"no group in common", "has X25519", "has P-384"}},
    {{.sigalgs = {"ecdsa_secp256r1_sha256"}},
     {.server = true, .sigalgs = {"rsa_pss_rsae_sha256"}},
     NULL,
     {"no signature algorithm in common", "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"}},
    {{.sigalgs = {"rsa_pkcs1_sha256", "ecdsa_secp256r1_sha256"}},
     {.server = true, .sigalgs = {"rsa_pkcs1_sha256", "rsa_pss_rsae_sha256"}},
     NULL, /* PKCS#1 is for TLS 1.2 */
     {"no signature algorithm in common"}},
    {{.server = true}, {.server = true}, NULL, {"stands where a client's is wanted"}},
    {{0}, {0}, NULL, {"stands where a server's is wanted"}},
};

static void test_intersections(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        struct tls_profile *client = pki_profile(&pairs[i].client);
        struct tls_profile *server = pki_profile(&pairs[i].server);
        struct faults faults = {0};
        struct buf text = {0};
        err_t err = tls_profile_intersect(client, server, "links[2]", &faults, &text);
        if (pairs[i].text != NULL) {
            assert_ok(err);
            assert_int_equal(faults.num, 0);
            leave_out_post_quantum(&text);
            assert_int_equal(buf_size(&text), strlen(pairs[i].text));
            assert_memory_equal(buf_view(&text).ptr, pairs[i].text, strlen(pairs[i].text));
        } else {
            assert_int_equal(err.code, E_CONFIG_INVALID);
            assert_int_equal(faults.num, 1);
            assert_int_equal(buf_size(&text), 0);
            assert_string_equal(faults.items[0].path, "links[2]");
        }
        for (size_t j = 0; j < 3 && pairs[i].says[j] != NULL; j++) {
            if (strstr(faults.items[0].message, pairs[i].says[j]) == NULL)
                print_error("\"%s\" lacks \"%s\"\n", faults.items[0].message, pairs[i].says[j]);
            assert_non_null(strstr(faults.items[0].message, pairs[i].says[j]));
        }
        buf_fini(&text);
        faults_fini(&faults);
        tls_profile_unref(client);
        tls_profile_unref(server);
    }
}

/* --- a handshake agrees with the prophecy --- */

/* Every subset of the TLS 1.3 suites on either side: where the intersection says yes, two of our
 * ends do talk, and within both profiles; where it says no, they do not. (On CPUs without AES
 * instructions the library chooses otherwise; the prophecy is for those with.) */
static bool talk(struct tls_profile *client_p, struct tls_profile *server_p, const struct pki *pki,
                 struct svid *svid)
{
    struct tls_ctx_entry entry = {NULL, server_p, pki->bundle};
    struct tls_ctx *client = NULL;
    struct tls_ctx *server = NULL;
    struct tls_check checks[2];
    struct pki_clock clock;
    BIO *a = NULL;
    BIO *b = NULL;
    bool up = true;

    pki_clock_init(&clock, PKI_NOW);
    assert_ok(tls_ctx_client(svid, pki->bundle, client_p, &client));
    assert_ok(tls_ctx_server(svid, &entry, 1, false, &server));
    SSL *ends[2] = {SSL_new(tls_ctx_ssl(client)), SSL_new(tls_ctx_ssl(server))};
    assert_true(BIO_new_bio_pair(&a, 32768, &b, 32768));
    SSL_set_bio(ends[0], a, a);
    SSL_set_bio(ends[1], b, b);
    SSL_set_connect_state(ends[0]);
    SSL_set_accept_state(ends[1]);
    for (size_t i = 0; i < 2; i++) {
        tls_check_init(&checks[i], &clock.clock, NULL);
        tls_check_attach(&checks[i], ends[i]);
    }
    for (int i = 0; i < 8; i++)
        (void)SSL_do_handshake(ends[i % 2]);
    ERR_clear_error();
    for (size_t i = 0; i < 2; i++) {
        up = up && SSL_is_init_finished(ends[i]) && err_is_ok(checks[i].err) &&
             err_is_ok(tls_check_finish(&checks[i], ends[i]));
    }
    for (size_t i = 0; i < 2; i++) {
        SSL_free(ends[i]);
        tls_check_fini(&checks[i]);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
    return up;
}

static void test_tls13_subsets_talk_as_foretold(void **state)
{
    static const char *const suites[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                                         "TLS_CHACHA20_POLY1305_SHA256"};
    struct tls_profile *profiles[2][8] = {{NULL}};
    struct svid *svid;
    struct pki pki;
    size_t talked = 0;

    (void)state;
    if (!EVP_has_aes_hardware())
        skip();
    pki_init(&pki);
    svid = pki_svid(&pki, "spiffe://example.org/ns/a/sa/b", NULL);
    for (size_t role = 0; role < 2; role++) {
        for (size_t mask = 1; mask < 8; mask++) {
            struct pki_profile one = {.server = role == 1};
            size_t num = 0;
            for (size_t i = 0; i < 3; i++) {
                if ((mask & (size_t)1 << i) != 0)
                    one.suites[num++] = suites[i];
            }
            if (mask != 4) /* ChaCha20 alone does not compile */
                profiles[role][mask] = pki_profile(&one);
        }
    }
    for (size_t c = 1; c < 8; c++) {
        for (size_t s = 1; s < 8; s++) {
            struct faults faults = {0};
            if (profiles[0][c] == NULL || profiles[1][s] == NULL)
                continue;
            bool foretold = err_is_ok(
                tls_profile_intersect(profiles[0][c], profiles[1][s], "link", &faults, NULL));
            bool talks = talk(profiles[0][c], profiles[1][s], &pki, svid);
            if (foretold != talks)
                print_error("client %zu, server %zu: foretold %d, talks %d\n", c, s, foretold,
                            talks);
            assert_int_equal(foretold, talks);
            talked += talks;
            faults_fini(&faults);
        }
    }
    assert_true(talked > 20 && talked < 36);
    for (size_t i = 0; i < 16; i++)
        tls_profile_unref(profiles[i / 8][i % 8]);
    svid_unref(svid);
    pki_fini(&pki);
}

/* --- small things --- */

static void test_equal_is_about_the_wire(void **state)
{
    struct tls_profile *a = pki_profile(&(struct pki_profile){.server = true});
    struct tls_profile *same =
        pki_profile(&(struct pki_profile){.server = true, .min = PKI_TLS1_2, .max = PKI_TLS1_3});
    struct tls_profile *others[] = {
        pki_profile(&(struct pki_profile){.server = false}),
        pki_profile(&(struct pki_profile){.server = true, .min = PKI_TLS1_3}),
        pki_profile(&(struct pki_profile){.server = true, .max = PKI_TLS1_2}),
        pki_profile(&(struct pki_profile){.server = true, .groups = {"X25519"}}),
        pki_profile(&(struct pki_profile){.server = true, .groups = {"P-256", "X25519", "P-384"}}),
        pki_profile(&(struct pki_profile){.server = true, .sigalgs = {"ecdsa_secp256r1_sha256"}}),
        pki_profile(&(struct pki_profile){.server = true, .suites = {"TLS_AES_256_GCM_SHA384"}}),
        pki_profile(&(struct pki_profile){.server = true,
                                          .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}}),
    };

    (void)state;
    assert_true(tls_profile_equal(a, a));
    assert_true(tls_profile_equal(a, same));
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_false(tls_profile_equal(a, others[i]));
        tls_profile_unref(others[i]);
    }
    tls_profile_unref(a);
    tls_profile_unref(same);
}

static void test_defaults_compile_and_meet(void **state)
{
    Mortise__V1__TlsProfile *msgs[TLS_PROFILE_DEFAULTS];
    struct tls_profile *profiles[TLS_PROFILE_DEFAULTS];
    struct fault_path path = {0};
    struct faults faults = {0};
    size_t num = 0;

    (void)state;
    tls_profile_defaults(msgs, &num);
    assert_int_equal(num, 2);
    for (size_t i = 0; i < 2; i++)
        assert_ok(tls_profile_compile(msgs[i], &path, &faults, &profiles[i]));
    assert_string_equal(tls_profile_name(profiles[0]), "default-tls-client");
    assert_string_equal(tls_profile_name(profiles[1]), "default-tls-server");
    assert_false(tls_profile_is_server(profiles[0]));
    assert_true(tls_profile_is_server(profiles[1]));
    assert_ok(tls_profile_intersect(profiles[0], profiles[1], "link", &faults, NULL));
    for (size_t i = 0; i < 2; i++) {
        tls_profile_unref(profiles[i]);
        mortise__v1__tls_profile__free_unpacked(msgs[i], NULL);
    }
}

static void test_serves_knows_which_keys_are_of_use(void **state)
{
    static const struct {
        struct pki_profile profile;
        bool p256;
        bool p384;
    } cases[] = {
        {{.server = true}, true, true},
        {{.server = true, .max = PKI_TLS1_2, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
         false,
         false},
        {{.server = true, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}}, true, true},
        {{.server = true, .sigalgs = {"rsa_pss_rsae_sha256"}}, false, false},
        {{.server = true, .min = PKI_TLS1_3, .sigalgs = {"ecdsa_secp256r1_sha256"}}, true, false},
        {{.server = true, .min = PKI_TLS1_3, .sigalgs = {"ecdsa_secp384r1_sha384"}}, false, true},
    };
    EVP_PKEY *p256 = NULL;
    EVP_PKEY *p384 = NULL;

    (void)state;
    assert_ok(key_generate(&p256));
    assert_ok(key_generate_p384(&p384));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tls_profile *profile = pki_profile(&cases[i].profile);
        assert_int_equal(tls_profile_serves(profile, p256), cases[i].p256);
        assert_int_equal(tls_profile_serves(profile, p384), cases[i].p384);
        tls_profile_unref(profile);
    }
    EVP_PKEY_free(p256);
    EVP_PKEY_free(p384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_description_is_true_on_the_wire),
        cmocka_unit_test(test_lists_keep_their_order_on_the_wire),
        cmocka_unit_test(test_post_quantum_group_where_the_library_has_it),
        cmocka_unit_test(test_faults_name_the_field_and_what_would_be_right),
        cmocka_unit_test(test_all_faults_are_told_at_once),
        cmocka_unit_test(test_endless_lists_are_cut),
        cmocka_unit_test(test_all_25_names_are_known),
        cmocka_unit_test(test_intersections),
        cmocka_unit_test(test_tls13_subsets_talk_as_foretold),
        cmocka_unit_test(test_equal_is_about_the_wire),
        cmocka_unit_test(test_defaults_compile_and_meet),
        cmocka_unit_test(test_serves_knows_which_keys_are_of_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
