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
    {"from-tls10",
     {.min = PKI_TLS1_0,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
                 "TLS_RSA_WITH_AES_128_CBC_SHA"}}},
    {"tls11-only",
     {.server = true,
      .min = PKI_TLS1_1,
      .max = PKI_TLS1_1,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                 "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}}},
    {"unverified", {.skip_verify = true}},
    {"renegotiation-once", {.renegotiation = MORTISE__V1__TLS_PROFILE__RENEGOTIATION__ONCE}},
    {"renegotiation-freely", {.renegotiation = MORTISE__V1__TLS_PROFILE__RENEGOTIATION__FREELY}},
    {"client-auth-optional",
     {.server = true, .client_auth = MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__OPTIONAL}},
    {"client-auth-none",
     {.server = true, .client_auth = MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE}},
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

/* The built-in ones: as they are described, and as their ClientHello is on the wire. */
static void hello_text(struct buf *out);

static struct tls_profile *builtin(const char *name)
{
    Mortise__V1__TlsProfile *msg = tls_profile_builtin(name);
    struct fault_path path = {0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;

    assert_non_null(msg);
    assert_ok(tls_profile_compile(msg, &path, &faults, &profile));
    mortise__v1__tls_profile__free_unpacked(msg, NULL);
    return profile;
}

static void golden(const char *name, const struct buf *text)
{
    const char *folder = getenv("MORTISE_GOLDEN_WRITE");

    if (folder != NULL)
        golden_write(folder, name, text);
    else
        golden_compare(name, text);
}

static void hello_of(const struct tls_profile *profile, bool per_session);

static void test_builtin_profiles_offer_what_they_did(void **state)
{
    Mortise__V1__TlsProfile *msgs[TLS_PROFILE_DEFAULTS];
    size_t num = 0;

    (void)state;
    tls_profile_defaults(msgs, &num);
    for (size_t i = 0; i < num; i++) {
        struct tls_profile *profile = builtin(msgs[i]->name);
        struct buf text = {0};
        char name[64];

        assert_ok(tls_profile_describe(profile, &text));
        if (EVP_has_aes_hardware()) { /* else TLS 1.3 suites come in another order */
            hello_of(profile, false);
            assert_ok(buf_add_str(&text, "ClientHello:\n"));
            hello_text(&text);
        }
        leave_out_post_quantum(&text);
        (void)snprintf(name, sizeof name, "builtin-%s", msgs[i]->name);
        if (EVP_has_aes_hardware())
            golden(name, &text);
        buf_fini(&text);
        tls_profile_unref(profile);
        mortise__v1__tls_profile__free_unpacked(msgs[i], NULL);
    }
    assert_null(tls_profile_builtin("modern"));
    assert_null(tls_profile_builtin(""));
}

static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        struct tls_profile *profile = pki_profile(&goldens[i].profile);
        struct buf text = {0};
        assert_ok(tls_profile_describe(profile, &text));
        leave_out_post_quantum(&text);
        golden(goldens[i].name, &text);
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

/* hello_text appends it, a line a kind; what our tables do not know is its number alone. */
static void hello_text(struct buf *out)
{
    assert_ok(buf_add_str(out, "versions:"));
    for (size_t i = 0; i < hello.num_versions; i++)
        assert_ok(buf_printf(out, " %04x", hello.versions[i]));
    assert_ok(buf_add_str(out, "\nsuites:"));
    for (size_t i = 0; i < hello.num_suites; i++) {
        const char *name = "";

        for (size_t j = 0; j < TLS_SUITES_NUM; j++) {
            if (tls_suites[j].id == hello.suites[i])
                name = tls_suites[j].name;
        }
        assert_ok(buf_printf(out, "\n  %04x %s", hello.suites[i], name));
    }
    assert_ok(buf_add_str(out, "\ngroups:"));
    for (size_t i = 0; i < hello.num_groups; i++) {
        if (hello.groups[i] != 0x11ec) /* where the library has it; see leave_out_post_quantum */
            assert_ok(buf_printf(out, " %04x", hello.groups[i]));
    }
    assert_ok(buf_add_str(out, "\nsignature algorithms:"));
    for (size_t i = 0; i < hello.num_sigalgs; i++)
        assert_ok(buf_printf(out, " %04x", hello.sigalgs[i]));
    assert_ok(buf_add_str(out, "\n"));
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
        {0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"},
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
                bool described = line_has(&text, line, suites[j].name) ||
                                 line_has(&text, "suites below TLS1_2:", suites[j].name);
                bool sent = hello_has_suite(suites[j].id);
                if (described != sent)
                    print_error("%s: %s described %d, sent %d\n", goldens[i].name, suites[j].name,
                                described, sent);
                assert_int_equal(described, sent);
                found += sent;
            }
            assert_int_equal(found, hello.num_suites); /* and nothing else */
            assert_int_equal(line_has(&text, "versions:", "TLS1_2") ||
                                 line_has(&text, "versions:", "TLS1_1"),
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
    {{.min = PKI_TLS1_0}, "profiles[3].min_version", {"TLS1_0", "lowest", "allow_legacy: true"}},
    {{.max = PKI_TLS1_1}, "profiles[3].max_version", {"TLS1_1", "lowest", "allow_legacy: true"}},
    {{.max = PKI_TLS1_1, .allow_legacy = true},
     "profiles[3].min_version",
     {"TLS1_2 is above max_version TLS1_1"}},
    {{.min = PKI_TLS1_0, .allow_legacy = true},
     "profiles[3].cipher_suites",
     {"none of these exists below TLS1_2", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"}},
    {{.min = PKI_TLS1_1,
      .max = PKI_TLS1_1,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     "profiles[3].cipher_suites",
     {"none of these exists below TLS1_2"}},
    {{.max = (Mortise__V1__TlsVersion)77}, "profiles[3].max_version", {"unknown version"}},
    {{.server_name = "10.0.0.7"}, "profiles[3].server_name", {"not a DNS name", "no address"}},
    {{.server_name = "a..b"}, "profiles[3].server_name", {"not a DNS name"}},
    {{.server_name = "*.example"}, "profiles[3].server_name", {"not a DNS name"}},
    {{.server = true, .server_name = "a.example"},
     "profiles[3].server_name",
     {"is for client profiles"}},
    {{.server = true, .send_sni = MORTISE__V1__TLS_PROFILE__SEND_SNI__SEND},
     "profiles[3].send_sni",
     {"is for client profiles"}},
    {{.send_sni = (Mortise__V1__TlsProfile__SendSni)9}, "profiles[3].send_sni", {"SEND or OMIT"}},
    {{.server_name = "a.example", .send_sni = MORTISE__V1__TLS_PROFILE__SEND_SNI__OMIT},
     "profiles[3].server_name",
     {"would not be sent"}},
    {{.client_auth = MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__OPTIONAL},
     "profiles[3].client_auth",
     {"is for server profiles"}},
    {{.server = true, .client_auth = (Mortise__V1__TlsProfile__ClientAuth)9},
     "profiles[3].client_auth",
     {"REQUIRED, OPTIONAL or NONE"}},
    {{.server = true, .skip_verify = true},
     "profiles[3].insecure_skip_verify",
     {"is for client profiles", "client_auth"}},
    {{.server = true, .renegotiation = MORTISE__V1__TLS_PROFILE__RENEGOTIATION__ONCE},
     "profiles[3].renegotiation",
     {"is for client profiles", "servers of the TLS library never renegotiate"}},
    {{.min = PKI_TLS1_3, .renegotiation = MORTISE__V1__TLS_PROFILE__RENEGOTIATION__FREELY},
     "profiles[3].renegotiation",
     {"does not exist in TLS1_3"}},
    {{.renegotiation = (Mortise__V1__TlsProfile__Renegotiation)9},
     "profiles[3].renegotiation",
     {"NEVER, ONCE or FREELY"}},
    {{.handshake_timeout_ms = 99}, "profiles[3].handshake_timeout_ms", {"within 100 and 300000"}},
    {{.handshake_timeout_ms = 300001}, "profiles[3].handshake_timeout_ms", {"300000"}},
    {{.idle_timeout_s = 2592001}, "profiles[3].idle_timeout_s", {"within 1 and 2592000"}},
    {{.groups = {"P-225"}}, "profiles[3].groups[0]", {"unknown group", "did you mean \"P-2"}},
    {{.groups = {"P-224"}}, "profiles[3].groups[0]", {"unknown group \"P-224\""}},
    {{.groups = {"nosuch"}}, "profiles[3].groups[0]", {"one of them is \"X25519"}},
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

static bool described(const struct tls_profile *profile, const char *word)
{
    struct buf text = {0};

    assert_ok(tls_profile_describe(profile, &text));
    CLEANUP(mem_freep) char *copy = buf_take_str(&text);
    return strstr(copy, word) != NULL;
}

/* What the library lacks is left out on request, and told; what nobody knows is a fault still, and
 * a list of which nothing is left is no default list. */
static void test_unavailable_names_are_left_out_on_request(void **state)
{
    static const struct {
        struct pki_profile profile;
        const char *fault;    /* path of the one fault; NULL: none */
        const char *left_out; /* path of the one warning */
    } cases[] = {
        {{.suites = {"TLS_RSA_WITH_RC4_128_SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
         "p.cipher_suites[0]",
         NULL},
        {{.suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_RC4_128_SHA"},
          .ignore_unavailable = true},
         NULL,
         "p.cipher_suites[1]"},
        {{.suites = {"TLS_RSA_WITH_RC4_128_SHA", "TLS_AES_128_GCM_SHA256"},
          .ignore_unavailable = true},
         NULL,
         "p.cipher_suites[0]"},
        {{.suites = {"TLS_RSA_WITH_RC4_128_SHA"}, .ignore_unavailable = true},
         "p.cipher_suites",
         NULL},
        {{.suites = {"TLS_RSA_WITH_RC4_128_SHA", "TLS_X"}, .ignore_unavailable = true},
         "p.cipher_suites[1]",
         NULL},
        {{.suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}, .ignore_unavailable = true},
         NULL,
         NULL},
        {{.sigalgs = {"ed25519", "ecdsa_secp256r1_sha256"}, .ignore_unavailable = true},
         "p.signature_algorithms[0]",
         NULL}, /* not lacking: not allowed */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fault_path path = {.text = "p", .len = 1};
        struct faults faults = {0};
        struct tls_profile *profile = NULL;
        Mortise__V1__TlsProfile msg;

        pki_message(&cases[i].profile, &msg);
        err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
        assert_int_equal(err.code, cases[i].fault != NULL ? E_CONFIG_INVALID : E_OK);
        assert_int_equal(faults.num, cases[i].fault != NULL ? 1 : 0);
        if (cases[i].fault != NULL)
            assert_string_equal(faults.items[0].path, cases[i].fault);
        faults_fini(&faults);
        if (profile != NULL) {
            tls_profile_left_out(&msg, &path, &faults);
            assert_int_equal(faults.num, cases[i].left_out != NULL ? 1 : 0);
            assert_false(described(profile, "RC4"));
        }
        if (profile != NULL && cases[i].left_out != NULL) {
            assert_string_equal(faults.items[0].path, cases[i].left_out);
            assert_string_equal(faults.items[0].message,
                                "left out: the TLS library does not have "
                                "\"TLS_RSA_WITH_RC4_128_SHA\": RC4 is prohibited (RFC 7465); the "
                                "nearest available is \"TLS_RSA_WITH_AES_128_GCM_SHA256\"");
        }
        assert_string_equal(path.text, "p");
        faults_fini(&faults);
        tls_profile_unref(profile);
        pki_message_fini(&msg);
    }
}

/* Also the group that only newer libraries have: taken where it can be had, left out where not. */
static void test_an_unavailable_group_is_left_out_on_request(void **state)
{
    bool available = tls_group_available(&tls_groups[0]);

    (void)state;
    for (int with_another = 0; with_another < 2; with_another++) {
        struct pki_profile one = {.groups = {"X25519MLKEM768", with_another ? "P-256" : NULL},
                                  .ignore_unavailable = true};
        struct fault_path path = {0};
        struct faults faults = {0};
        struct tls_profile *profile = NULL;
        Mortise__V1__TlsProfile msg;

        pki_message(&one, &msg);
        err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
        assert_int_equal(err_is_ok(err), available || with_another);
        assert_int_equal(faults.num, available || with_another ? 0 : 1);
        if (faults.num > 0)
            assert_string_equal(faults.items[0].path, "groups");
        faults_fini(&faults);
        tls_profile_left_out(&msg, &path, &faults);
        assert_int_equal(faults.num, available ? 0 : 1);
        if (faults.num > 0)
            assert_string_equal(faults.items[0].path, "groups[0]");
        faults_fini(&faults);
        tls_profile_unref(profile);
        pki_message_fini(&msg);
    }
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
    {{0},
     {.server = true, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     /* without a suite for the mesh's keys TLS 1.2 does not count */
     "TLS1_3; TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256; "
     "X25519, P-256, P-384",
     {NULL}},
    {{.groups = {"X25519"}}, /* nor without the curve of their keys */
     {.server = true},
     "TLS1_3; TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256; X25519",
     {NULL}},
    {{.max = PKI_TLS1_2, .groups = {"P-256"}},
     {.server = true, .groups = {"P-384", "P-256"}},
     "TLS1_2; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "
     "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256; P-256",
     {NULL}},
    {{.max = PKI_TLS1_2},
     {.server = true, .min = PKI_TLS1_3},
     NULL,
     {"no TLS version in common: let min_version of the one", "\"client-test\" has TLS1_2;",
      "\"server-test\" has TLS1_3"}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true,
      .suites = {"TLS_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     NULL, /* TLS 1.2 would do, and would not be negotiated */
     {"no TLS 1.3 cipher suite in common", "has TLS_AES_128_GCM_SHA256;",
      "has TLS_AES_256_GCM_SHA384"}},
    {{.suites = {"TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}},
     {.server = true, .suites = {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}},
     NULL, /* ChaCha20 is in common, and the library would not choose it */
     {"not the one that the library would choose"}},
    {{.max = PKI_TLS1_2, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true, .max = PKI_TLS1_2, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}},
     NULL,
     {"no cipher suite in common", "has TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;",
      "has TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}},
    {{.max = PKI_TLS1_2},
     {.server = true, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     NULL, /* RSA suites are in common, and no certificate of the mesh is for them */
     {"no cipher suite in common that the mesh's ECDSA", "allow TLS1_3",
      "\"server-test\" has none"}},
    {{.max = PKI_TLS1_2, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     {.server = true},
     NULL,
     {"no cipher suite in common that the mesh's ECDSA", "\"client-test\" has none"}},
    {{0},
     {.server = true, .max = PKI_TLS1_2, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
     NULL,
     {"\"server-test\" is of no use to the mesh's", "name a TLS_ECDHE_ECDSA_",
      "with TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}},
    {{.min = PKI_TLS1_0,
      .max = PKI_TLS1_1,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     {.server = true,
      .min = PKI_TLS1_0,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"}},
     NULL,
     {"which is below TLS 1.2, has", "name TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA for both"}},
    {{.min = PKI_TLS1_0,
      .allow_legacy = true,
      .groups = {"X25519"},
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     {.server = true,
      .min = PKI_TLS1_1,
      .max = PKI_TLS1_1,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     NULL,
     {"below TLS 1.3 a client's groups must have the curve"}},
    {{.min = PKI_TLS1_0,
      .max = PKI_TLS1_2,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     {.server = true},
     NULL,
     {"no cipher suite in common"}},
    {{.min = PKI_TLS1_0, .allow_legacy = true, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     {.server = true,
      .min = PKI_TLS1_1,
      .max = PKI_TLS1_1,
      .allow_legacy = true,
      .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"}},
     "TLS1_1; TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA; X25519, P-256, P-384",
     {0}},
    {{.groups = {"X25519"}},
     {.server = true, .groups = {"P-384"}},
     NULL,
     {"no group in common", "has X25519", "has P-384"}},
    {{.max = PKI_TLS1_2, .groups = {"X25519"}},
     {.server = true},
     NULL,
     {"must have the curve", "add P-256 to the client", "\"client-test\" has X25519;"}},
    {{.groups = {"X25519"}},
     {.server = true, .max = PKI_TLS1_2},
     NULL,
     {"must have the curve", "or allow TLS1_3"}},
    {{.max = PKI_TLS1_2, .groups = {"X25519", "P-256"}},
     {.server = true, .groups = {"P-384"}},
     NULL,
     {"no group in common that TLS 1.2", "has X25519, P-256;"}},
    {{.sigalgs = {"ecdsa_secp256r1_sha256"}},
     {.server = true, .sigalgs = {"rsa_pss_rsae_sha256"}},
     NULL,
     {"\"server-test\" is of no use", "name ecdsa_secp256r1_sha256", "it has rsa_pss_rsae_sha256"}},
    {{.sigalgs = {"rsa_pkcs1_sha256", "ecdsa_secp256r1_sha256"}},
     {.server = true, .sigalgs = {"rsa_pkcs1_sha256", "rsa_pss_rsae_sha256"}},
     NULL,
     {"\"server-test\" is of no use"}},
    {{.max = PKI_TLS1_2, .sigalgs = {"ecdsa_secp384r1_sha384"}},
     {.server = true, .sigalgs = {"ecdsa_secp256r1_sha256"}},
     NULL,
     {"no signature algorithm in common", "has ecdsa_secp384r1_sha384;",
      "has ecdsa_secp256r1_sha256"}},
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
        struct tls_common common;
        err_t err = tls_profile_intersect(client, server, "links[2]", &faults, &common);
        if (pairs[i].text != NULL) {
            assert_ok(err);
            assert_ok(tls_common_text(&common, &text));
            assert_int_equal(faults.num, 0);
            leave_out_post_quantum(&text);
            assert_int_equal(buf_size(&text), strlen(pairs[i].text));
            assert_memory_equal(buf_view(&text).ptr, pairs[i].text, strlen(pairs[i].text));
        } else {
            assert_int_equal(err.code, E_CONFIG_INVALID);
            assert_int_equal(faults.num, 1);
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

static bool talk(struct tls_profile *client_p, struct tls_profile *server_p, const struct pki *pki,
                 struct svid *svid)
{
    struct tls_ctx_entry entry = {NULL, server_p, pki->bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx *client = NULL;
    struct tls_ctx *server = NULL;
    struct tls_check checks[2];
    struct pki_clock clock;
    BIO *a = NULL;
    BIO *b = NULL;
    bool up = true;

    pki_clock_init(&clock, PKI_NOW);
    /* Sidecars take neither if it is of no use to their key: told before anybody calls. */
    if (!tls_profile_serves(client_p, svid->key) || !tls_profile_serves(server_p, svid->key))
        return false;
    assert_ok(tls_ctx_client(svid, pki->bundle, client_p, &client));
    assert_ok(tls_ctx_server(svid, &entry, 1, &server));
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

/* Every subset of the TLS 1.3 suites on either side: where the intersection says yes, two of our
 * ends do talk, and within both profiles; where it says no, they do not. (On CPUs without AES
 * instructions the library chooses otherwise; the prophecy is for those with.) */
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

/* The same over what profiles are made of. A profile is a choice of each; the first of a list of
 * names that is NULL is the default list. */
static const Mortise__V1__TlsVersion matrix_versions[][2] = {
    {PKI_TLS1_2, PKI_TLS1_3}, {PKI_TLS1_2, PKI_TLS1_2}, {PKI_TLS1_3, PKI_TLS1_3},
    {PKI_TLS1_0, PKI_TLS1_3}, {PKI_TLS1_0, PKI_TLS1_0}, {PKI_TLS1_1, PKI_TLS1_1},
    {PKI_TLS1_0, PKI_TLS1_1}, {PKI_TLS1_1, PKI_TLS1_2}};
#define MATRIX_OLD 3 /* from here on */
static const char *const matrix_suites[][4] = {
    {NULL},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256"},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", "TLS_AES_256_GCM_SHA384"},
    {"TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
     "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"},
    {"TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"},
};
static const char *const matrix_groups[][3] = {
    {NULL},
    {"X25519"},
    {"P-256"},
    {"P-384"},
    {"X25519", "P-256"},
    {"P-384", "X25519"},
    {"X25519MLKEM768"},
    {"X25519MLKEM768", "P-256"},
};
static const char *const matrix_sigalgs[][3] = {
    {NULL},
    {"ecdsa_secp256r1_sha256"},
    {"ecdsa_secp384r1_sha384"},
    {"ecdsa_secp384r1_sha384", "ecdsa_secp256r1_sha256"},
    {"rsa_pss_rsae_sha256", "ecdsa_secp256r1_sha256"},
    {"rsa_pss_rsae_sha256", "rsa_pkcs1_sha256"},
};

struct matrix {
    struct pki pki;
    struct svid *svid;
    size_t pairs;
    size_t talked;
};

/* One end's choice, an index each. */
struct choice {
    size_t version, suites, groups, sigalgs;
};

static void matrix_profile(const struct choice *choice, bool server, struct pki_profile *out)
{
    *out = (struct pki_profile){.server = server,
                                .allow_legacy = choice->version >= MATRIX_OLD,
                                .min = matrix_versions[choice->version][0],
                                .max = matrix_versions[choice->version][1]};
    for (size_t i = 0; i < 3; i++) {
        out->suites[i] = matrix_suites[choice->suites][i];
        out->groups[i] = matrix_groups[choice->groups][i];
        out->sigalgs[i] = matrix_sigalgs[choice->sigalgs][i];
    }
}

/* NULL: no such profile can be (nothing is left of it, or the library has no such group). */
static struct tls_profile *matrix_compile(const struct choice *choice, bool server)
{
    struct pki_profile one;
    struct fault_path path = {0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;
    Mortise__V1__TlsProfile msg;

    matrix_profile(choice, server, &one);
    pki_message(&one, &msg);
    err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
    assert_int_equal(err_is_ok(err), profile != NULL);
    faults_fini(&faults);
    pki_message_fini(&msg);
    return profile;
}

static void matrix_try(struct matrix *matrix, const struct choice *c, const struct choice *s)
{
    struct tls_profile *client = matrix_compile(c, false);
    struct tls_profile *server = matrix_compile(s, true);
    struct faults faults = {0};

    if (client != NULL && server != NULL) {
        bool foretold = err_is_ok(tls_profile_intersect(client, server, "link", &faults, NULL));
        bool talks = talk(client, server, &matrix->pki, matrix->svid);

        if (foretold != talks)
            print_error("client %zu %zu %zu %zu, server %zu %zu %zu %zu: foretold %d (%s), talks "
                        "%d\n",
                        c->version, c->suites, c->groups, c->sigalgs, s->version, s->suites,
                        s->groups, s->sigalgs, foretold,
                        faults.num > 0 ? faults.items[0].message : "", talks);
        assert_int_equal(foretold, talks);
        assert_int_equal(faults.num, foretold ? 0 : 1);
        matrix->pairs++;
        matrix->talked += talks;
    }
    faults_fini(&faults);
    tls_profile_unref(client);
    tls_profile_unref(server);
}

/* All of one kind against all of it, the rest being default, with every pair of versions. */
static void matrix_cross(struct matrix *matrix, size_t offset, size_t num)
{
    for (size_t i = 0; i < 9 * num * num; i++) {
        struct choice c = {.version = i % 3};
        struct choice s = {.version = i / 3 % 3};
        size_t of_client = i / 9 % num;
        size_t of_server = i / 9 / num;

        memcpy((char *)&c + offset, &of_client, sizeof of_client);
        memcpy((char *)&s + offset, &of_server, sizeof of_server);
        matrix_try(matrix, &c, &s);
    }
}

/* Every pair of versions, with every pair of suites that old ones have. */
static void matrix_cross_old(struct matrix *matrix)
{
    static const size_t suites[] = {3, 5, 6};
    size_t num = ARRAY_LEN(matrix_versions);

    for (size_t i = 0; i < num * num * 9; i++) {
        struct choice c = {.version = i % num, .suites = suites[i / num / num % 3]};
        struct choice s = {.version = i / num % num, .suites = suites[i / num / num / 3]};

        matrix_try(matrix, &c, &s);
    }
}

static size_t matrix_draw(uint32_t *seed, size_t num)
{
    *seed = *seed * 1664525U + 1013904223U;
    return (*seed >> 16) % num;
}

static struct choice matrix_any(uint32_t *seed)
{
    struct choice any;

    any.version = matrix_draw(seed, ARRAY_LEN(matrix_versions));
    any.suites = matrix_draw(seed, ARRAY_LEN(matrix_suites));
    any.groups = matrix_draw(seed, ARRAY_LEN(matrix_groups));
    any.sigalgs = matrix_draw(seed, ARRAY_LEN(matrix_sigalgs));
    return any;
}

static void test_profiles_talk_as_foretold(void **state)
{
    struct matrix matrix = {.pairs = 0};
    uint32_t seed = 20261123;

    (void)state;
    if (!EVP_has_aes_hardware())
        skip();
    pki_init(&matrix.pki);
    matrix.svid = pki_svid(&matrix.pki, "spiffe://example.org/ns/a/sa/b", NULL);
    matrix_cross(&matrix, offsetof(struct choice, suites), ARRAY_LEN(matrix_suites));
    matrix_cross(&matrix, offsetof(struct choice, groups), ARRAY_LEN(matrix_groups));
    matrix_cross(&matrix, offsetof(struct choice, sigalgs), ARRAY_LEN(matrix_sigalgs));
    matrix_cross_old(&matrix);
    for (size_t i = 0; i < 800; i++) { /* and of kinds mixed, some */
        struct choice c = matrix_any(&seed);
        struct choice s = matrix_any(&seed);

        matrix_try(&matrix, &c, &s);
    }
    print_message("%zu pairs of profiles, %zu talk\n", matrix.pairs, matrix.talked);
    assert_true(matrix.pairs > 900 && matrix.talked > 300 && matrix.pairs - matrix.talked > 300);
    svid_unref(matrix.svid);
    pki_fini(&matrix.pki);
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
        pki_profile(&(struct pki_profile){
            .server = true, .client_auth = MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE}),
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

/* Each client with each server: only what excludes each other does not. */
static void test_builtin_profiles_compile_and_meet(void **state)
{
    Mortise__V1__TlsProfile *msgs[TLS_PROFILE_DEFAULTS];
    struct tls_profile *profiles[TLS_PROFILE_DEFAULTS];
    struct faults faults = {0};
    size_t num = 0;

    (void)state;
    tls_profile_defaults(msgs, &num);
    assert_int_equal(num, TLS_PROFILE_DEFAULTS);
    for (size_t i = 0; i < num; i++) {
        profiles[i] = builtin(msgs[i]->name);
        assert_string_equal(tls_profile_name(profiles[i]), msgs[i]->name);
        assert_int_equal(tls_profile_is_server(profiles[i]), i < 10 && i % 2 != 0);
        assert_non_null(strstr(msgs[i]->name, i < 10 && i % 2 != 0 ? "-server" : "-client"));
    }
    assert_string_equal(msgs[0]->name, "default-tls-client");
    assert_string_equal(msgs[1]->name, "default-tls-server");
    for (size_t client = 0; client < num; client += client < 10 ? 2 : 1) {
        for (size_t server = 1; server < 10; server += 2)
            assert_ok(
                tls_profile_intersect(profiles[client], profiles[server], "link", &faults, NULL));
    }
    for (size_t i = 10; i < num; i++) { /* the clients of the default links */
        assert_true(tls_profile_equal(profiles[i], profiles[0]));
        assert_string_not_equal(msgs[i]->truststore, "");
        assert_string_not_equal(msgs[i]->keystore, "");
    }
    for (size_t i = 0; i < num; i++) {
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
        cmocka_unit_test(test_builtin_profiles_offer_what_they_did),
        cmocka_unit_test(test_description_is_true_on_the_wire),
        cmocka_unit_test(test_lists_keep_their_order_on_the_wire),
        cmocka_unit_test(test_post_quantum_group_where_the_library_has_it),
        cmocka_unit_test(test_faults_name_the_field_and_what_would_be_right),
        cmocka_unit_test(test_all_faults_are_told_at_once),
        cmocka_unit_test(test_endless_lists_are_cut),
        cmocka_unit_test(test_all_25_names_are_known),
        cmocka_unit_test(test_unavailable_names_are_left_out_on_request),
        cmocka_unit_test(test_an_unavailable_group_is_left_out_on_request),
        cmocka_unit_test(test_intersections),
        cmocka_unit_test(test_tls13_subsets_talk_as_foretold),
        cmocka_unit_test(test_profiles_talk_as_foretold),
        cmocka_unit_test(test_equal_is_about_the_wire),
        cmocka_unit_test(test_builtin_profiles_compile_and_meet),
        cmocka_unit_test(test_serves_knows_which_keys_are_of_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
