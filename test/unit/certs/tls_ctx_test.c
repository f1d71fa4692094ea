/* Whole handshakes over memory between our contexts, and between one of ours and a peer that plays
 * by no rules: who is let in, who is refused, with which alert and which reason; nothing is ever
 * resumed. Without it: a certificate check that is right by itself and never called. Drives: R1,
 * R3, R4, R9, R12, R13. */
#include "certs/tls_ctx.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "certs/boring.h"
#include "test/unit/certs/certgen.h"
#include "test/unit/certs/pki.h"

#define ID_A "spiffe://example.org/ns/apim/sa/a"
#define ID_B "spiffe://example.org/ns/apim/sa/b"
#define WIRE_MAX 65536

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct pki pki;
static struct svid *svid_a;
static struct svid *svid_b;
static struct tls_profile *client_profile;
static struct tls_profile *server_profile;

/* --- one handshake --- */

struct side {
    SSL *ssl;
    struct tls_check check;
    bool bare; /* no tls_check attached: a peer of no rules, or ours by mistake */
    bool done;
    bool failed;
    int sent_alert; /* -1: none */
    int got_alert;
    int tickets; /* NewSessionTicket messages seen */
};

struct wire {
    struct pki_clock clock;
    struct side client;
    struct side server;
};

static int wire_index = -1;

static void wire_on_info(const SSL *ssl, int type, int value)
{
    struct side *side = SSL_get_ex_data(ssl, wire_index);

    if ((type & SSL_CB_WRITE_ALERT) == SSL_CB_WRITE_ALERT)
        side->sent_alert = value & 0xff;
    if ((type & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT)
        side->got_alert = value & 0xff;
}

static void wire_on_message(int is_write, int version, int content_type, const void *buf,
                            size_t len, SSL *ssl, void *arg)
{
    struct side *side = arg;

    (void)version;
    (void)ssl;
    if (!is_write && content_type == SSL3_RT_HANDSHAKE && len > 0 &&
        ((const uint8_t *)buf)[0] == SSL3_MT_NEW_SESSION_TICKET)
        side->tickets++;
}

static void side_init(struct side *side, SSL_CTX *ctx, const struct clock *clock, bool bare)
{
    *side = (struct side){.ssl = SSL_new(ctx), .bare = bare, .sent_alert = -1, .got_alert = -1};
    assert_non_null(side->ssl);
    tls_check_init(&side->check, clock, NULL);
    if (!bare)
        tls_check_attach(&side->check, side->ssl);
    SSL_set_ex_data(side->ssl, wire_index, side);
    SSL_set_info_callback(side->ssl, wire_on_info);
    SSL_set_msg_callback(side->ssl, wire_on_message);
    SSL_set_msg_callback_arg(side->ssl, side);
}

static void side_fini(struct side *side)
{
    tls_check_fini(&side->check);
    SSL_free(side->ssl);
}

/* wire_init prepares a handshake at PKI_NOW; the caller may change what it likes before wire_run.
 */
static void wire_init(struct wire *wire, SSL_CTX *client, bool bare_client, SSL_CTX *server,
                      bool bare_server)
{
    BIO *a = NULL;
    BIO *b = NULL;

    pki_clock_init(&wire->clock, PKI_NOW);
    side_init(&wire->client, client, &wire->clock.clock, bare_client);
    side_init(&wire->server, server, &wire->clock.clock, bare_server);
    assert_true(BIO_new_bio_pair(&a, WIRE_MAX, &b, WIRE_MAX));
    SSL_set_bio(wire->client.ssl, a, a);
    SSL_set_bio(wire->server.ssl, b, b);
    SSL_set_connect_state(wire->client.ssl);
    SSL_set_accept_state(wire->server.ssl);
}

static void wire_fini(struct wire *wire)
{
    side_fini(&wire->client);
    side_fini(&wire->server);
}

/* side_step goes on with the handshake, and after it reads: in TLS 1.3 a client is done before the
 * server has judged it, and hears of a refusal only then. */
static void side_step(struct side *side)
{
    uint8_t byte;
    int ret;

    if (side->failed)
        return;
    ret = side->done ? SSL_read(side->ssl, &byte, 1) : SSL_do_handshake(side->ssl);
    if (ret == 1 && !side->done) {
        side->done = true;
        return;
    }
    int error = SSL_get_error(side->ssl, ret);
    side->failed = ret != 1 && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
    ERR_clear_error();
}

static void wire_run(struct wire *wire)
{
    for (int i = 0; i < 12; i++) {
        side_step(&wire->client);
        side_step(&wire->server);
    }
}

static bool side_is_up(const struct side *side)
{
    return side->done && !side->failed;
}

static void wire_assert_up(struct wire *wire)
{
    if (!side_is_up(&wire->client) || !side_is_up(&wire->server))
        print_error("client: %s, server: %s\n", err_name(wire->client.check.err.code),
                    err_name(wire->server.check.err.code));
    assert_true(side_is_up(&wire->client));
    assert_true(side_is_up(&wire->server));
}

/* --- peers of no rules --- */

static enum ssl_verify_result_t raw_accept(SSL *ssl, uint8_t *out_alert)
{
    (void)ssl;
    (void)out_alert;
    return ssl_verify_ok;
}

/* raw_ctx shows any chain and takes any; num 0: shows none. */
static SSL_CTX *raw_ctx(CRYPTO_BUFFER *const *chain, size_t num, EVP_PKEY *key)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_with_buffers_method());

    assert_non_null(ctx);
    if (num > 0)
        assert_true(SSL_CTX_set_chain_and_key(ctx, chain, num, key, NULL));
    SSL_CTX_set_custom_verify(ctx, SSL_VERIFY_PEER, raw_accept);
    return ctx;
}

static SSL_CTX *raw_ctx_of(const struct svid *svid)
{
    CRYPTO_BUFFER *chain[SVID_CHAIN_MAX];

    for (size_t i = 0; i < svid->num_chain; i++)
        chain[i] = svid->chain[i];
    return raw_ctx(chain, svid->num_chain, svid->key);
}

static struct tls_ctx *our_client(struct svid *svid, struct tls_profile *profile)
{
    struct tls_ctx *ctx = NULL;

    assert_ok(tls_ctx_client(svid, pki.bundle, profile, &ctx));
    return ctx;
}

static struct tls_ctx *our_server(struct svid *svid, struct tls_profile *profile)
{
    struct tls_ctx *ctx = NULL;
    struct tls_ctx_entry entry = {NULL, profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL};

    assert_ok(tls_ctx_server(svid, &entry, 1, &ctx));
    return ctx;
}

static void set_version(SSL *ssl, uint16_t version)
{
    assert_true(SSL_set_min_proto_version(ssl, version));
    assert_true(SSL_set_max_proto_version(ssl, version));
}

static const uint16_t both_versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* --- the good case --- */

struct asked {
    int times;
    int entry;
    char id[128];
    enum err_code answer;
};

static err_t on_authorize(void *arg, int entry, const struct peer *peer)
{
    struct asked *asked = arg;

    asked->times++;
    asked->entry = entry;
    (void)snprintf(asked->id, sizeof asked->id, "%s", peer != NULL ? peer->spiffe_id : "nobody");
    return asked->answer == E_OK ? OK : (err_t){asked->answer, 0, "test"};
}

static void test_both_know_each_other(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        struct asked by_client = {.entry = -7};
        struct asked by_server = {.entry = -7};
        wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire.client.check.authorize = on_authorize;
        wire.client.check.arg = &by_client;
        wire.server.check.authorize = on_authorize;
        wire.server.check.arg = &by_server;
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_ok(tls_check_finish(&wire.client.check, wire.client.ssl));
        assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
        assert_int_equal(SSL_version(wire.client.ssl), both_versions[i]);
        assert_string_equal(wire.client.check.peer->spiffe_id, ID_B);
        assert_string_equal(wire.server.check.peer->spiffe_id, ID_A);
        assert_string_equal(by_server.id, ID_A);
        assert_int_equal(by_server.times, 1);
        assert_int_equal(by_server.entry, 0);
        assert_string_equal(by_client.id, ID_B);
        assert_int_equal(by_client.times, 1);
        assert_int_equal(by_client.entry, -1);
        wire_fini(&wire);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- who is refused by whom, with which alert --- */

struct refusal {
    const char *name;
    struct certgen_params leaf;
    bool no_ca;      /* the intermediate is not sent */
    bool stranger;   /* of another root */
    int64_t later_s; /* the judge's clock is ahead */
    enum err_code err;
    uint8_t alert;
};

/* The times of certgen are around the same now. */
static const struct refusal refusals[] = {
    {"expired", .leaf = {.to_s = -86400 - 5}, .err = E_CERT_EXPIRED, .alert = 45},
    {"expired by our clock", .later_s = 90000, .err = E_CERT_EXPIRED, .alert = 45},
    {"not yet valid", .leaf = {.from_s = 7200}, .err = E_CERT_NOT_YET_VALID, .alert = 45},
    {"unknown CA", .stranger = true, .err = E_CHAIN_UNTRUSTED, .alert = 48},
    {"no intermediate", .no_ca = true, .err = E_CHAIN_UNTRUSTED, .alert = 48},
    {"bad signature", .leaf = {.bad_signature = true}, .err = E_CHAIN_INVALID, .alert = 51},
    {"for e-mail", .leaf = {.eku_bits = CERTGEN_EKU_EMAIL}, .err = E_CERT_USAGE, .alert = 43},
    {"without SAN", .leaf = {.san = CERTGEN_NONE}, .err = E_SAN_NONE, .alert = 49},
    {"two IDs", .leaf = {.sans = {CERTGEN_URI(ID_A), CERTGEN_URI(ID_B)}}, .err = E_SAN_MULTIPLE,
     .alert = 49},
    {"NUL in the ID", .leaf = {.sans = {CERTGEN_URI(ID_A "\0x")}}, .err = E_SAN_SYNTAX,
     .alert = 49},
    {"another trust domain", .leaf = {.sans = {CERTGEN_URI("spiffe://example.com/a")}},
     .err = E_TRUST_DOMAIN, .alert = 49},
    {"RSA 1024", .leaf = {.key = CERTGEN_RSA1024}, .err = E_KEY_WEAK, .alert = 43},
    {"SHA-1", .leaf = {.hash = CERTGEN_SHA1}, .err = E_CERT_WEAK_SIGNATURE, .alert = 43},
    {"80 names", .leaf = {.num_dns = 80}, .err = E_SAN_TOO_MANY, .alert = 42},
    {"unknown critical extension", .leaf = {.unknown_critical = true}, .err = E_CERT_USAGE,
     .alert = 43},
};

struct refused {
    struct certgen *root;
    struct certgen *ca;
    struct certgen *leaf;
    struct bundle *bundle;
    SSL_CTX *raw;
};

static CRYPTO_BUFFER *buffer_of(const struct certgen *cert)
{
    return CRYPTO_BUFFER_new(cert->der, cert->len, NULL);
}

static void refused_init(struct refused *r, const struct refusal *one)
{
    struct certgen_params root = {
        .ca = true, .subject = "root", .key = CERTGEN_P256_ROOT, .to_s = 864000};
    struct certgen_params stranger = {
        .ca = true, .subject = "stranger", .key = CERTGEN_P256_OTHER, .to_s = 864000};
    struct certgen_params ca = {.ca = true, .key = CERTGEN_P256_CA, .to_s = 864000};

    r->root = certgen_make(NULL, &root);
    struct certgen *signer = one->stranger ? certgen_make(NULL, &stranger) : r->root;
    r->ca = certgen_make(signer, &ca);
    r->leaf = certgen_make(r->ca, &one->leaf);
    struct bytes anchor = certgen_der(r->root);
    assert_ok(bundle_of_der(&anchor, 1, PKI_DOMAIN, &r->bundle));
    CRYPTO_BUFFER *chain[] = {buffer_of(r->leaf), buffer_of(r->ca)};
    r->raw = raw_ctx(chain, one->no_ca ? 1 : 2, r->leaf->key);
    CRYPTO_BUFFER_free(chain[0]);
    CRYPTO_BUFFER_free(chain[1]);
    if (one->stranger)
        certgen_free(signer);
}

static void refused_fini(struct refused *r)
{
    certgen_free(r->root);
    certgen_free(r->ca);
    certgen_free(r->leaf);
    bundle_unref(r->bundle);
    SSL_CTX_free(r->raw);
}

/* refused_check: `judge` is our side, `shown` the one whose certificate was bad. */
static void refused_check(const struct refusal *one, const char *role, const struct side *judge,
                          const struct side *shown)
{
    if (judge->check.err.code != one->err || judge->sent_alert != one->alert ||
        shown->got_alert != one->alert)
        print_error("%s (%s): %s, alert sent %d, got %d\n", one->name, role,
                    err_name(judge->check.err.code), judge->sent_alert, shown->got_alert);
    assert_int_equal(judge->check.err.code, one->err);
    assert_int_equal(judge->sent_alert, one->alert);
    assert_int_equal(shown->got_alert, one->alert);
    assert_true(judge->failed && !judge->done && shown->failed);
    assert_null(judge->check.peer);
}

static void refused_by_server(const struct refusal *one, struct refused *r, uint16_t version)
{
    struct tls_ctx_entry entry = {NULL, server_profile, r->bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx *server = NULL;
    struct wire wire;

    assert_ok(tls_ctx_server(svid_b, &entry, 1, &server));
    wire_init(&wire, r->raw, true, tls_ctx_ssl(server), false);
    set_version(wire.client.ssl, version);
    wire.clock.now_s += one->later_s;
    wire_run(&wire);
    refused_check(one, version == TLS1_2_VERSION ? "client, 1.2" : "client, 1.3", &wire.server,
                  &wire.client);
    wire_fini(&wire);
    tls_ctx_unref(server);
}

static void refused_by_client(const struct refusal *one, struct refused *r, uint16_t version)
{
    struct tls_ctx *client = NULL;
    struct wire wire;

    assert_ok(tls_ctx_client(svid_a, r->bundle, client_profile, &client));
    wire_init(&wire, tls_ctx_ssl(client), false, r->raw, true);
    set_version(wire.server.ssl, version);
    wire.clock.now_s += one->later_s;
    wire_run(&wire);
    refused_check(one, version == TLS1_2_VERSION ? "server, 1.2" : "server, 1.3", &wire.client,
                  &wire.server);
    wire_fini(&wire);
    tls_ctx_unref(client);
}

static void test_bad_certificates_get_their_alert(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
        struct refused r;
        refused_init(&r, &refusals[i]);
        for (size_t v = 0; v < ARRAY_LEN(both_versions); v++) {
            refused_by_server(&refusals[i], &r, both_versions[v]);
            refused_by_client(&refusals[i], &r, both_versions[v]);
        }
        refused_fini(&r);
    }
}

/* The same fixture with nothing wrong: else the table above could be right by accident. */
static void test_good_certificate_passes_the_same_fixture(void **state)
{
    struct refusal fine = {.name = "fine"};
    struct refused r;

    (void)state;
    refused_init(&r, &fine);
    for (size_t v = 0; v < ARRAY_LEN(both_versions); v++) {
        struct tls_ctx_entry entry = {NULL, server_profile, r.bundle, TLS_CLIENT_REQUIRED, NULL};
        struct tls_ctx *server = NULL;
        struct wire wire;
        assert_ok(tls_ctx_server(svid_b, &entry, 1, &server));
        wire_init(&wire, r.raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[v]);
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
        assert_string_equal(wire.server.check.peer->spiffe_id, CERTGEN_ID);
        wire_fini(&wire);
        tls_ctx_unref(server);
    }
    refused_fini(&r);
}

static void test_authorize_refuses_with_access_denied(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct asked denied = {.answer = E_PEER_DENIED};
        struct wire wire;
        wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire.server.check.authorize = on_authorize;
        wire.server.check.arg = &denied;
        wire_run(&wire);
        assert_int_equal(denied.times, 1);
        assert_int_equal(wire.server.check.err.code, E_PEER_DENIED);
        assert_int_equal(wire.client.got_alert, 49);
        assert_null(wire.server.check.peer);
        wire_fini(&wire);

        denied = (struct asked){.answer = E_PEER_IDENTITY};
        wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire.client.check.authorize = on_authorize;
        wire.client.check.arg = &denied;
        wire_run(&wire);
        assert_int_equal(wire.client.check.err.code, E_PEER_IDENTITY);
        assert_int_equal(wire.server.got_alert, 49);
        assert_false(wire.server.done); /* B14: the client never let it come to that */
        wire_fini(&wire);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- no certificate: F10, R3 --- */

static void test_no_client_certificate_is_refused(void **state)
{
    struct tls_ctx *server = our_server(svid_b, server_profile);
    SSL_CTX *raw = raw_ctx(NULL, 0, NULL);
    static const int alerts[] = {SSL_AD_HANDSHAKE_FAILURE, SSL_AD_CERTIFICATE_REQUIRED};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        assert_int_equal(wire.client.got_alert, alerts[i]);
        wire_fini(&wire);
    }
    SSL_CTX_free(raw);
    tls_ctx_unref(server);
}

static void test_optional_means_none_or_a_good_one(void **state)
{
    struct refusal bad = {.name = "for e-mail", .leaf = {.eku_bits = CERTGEN_EKU_EMAIL}};
    struct tls_ctx_entry entry = {NULL, server_profile, pki.bundle, TLS_CLIENT_OPTIONAL, NULL};
    struct tls_ctx *anonymous = our_client(NULL, client_profile);
    struct tls_ctx *known = our_client(svid_a, client_profile);
    struct tls_ctx *server = NULL;
    struct refused r;

    (void)state;
    refused_init(&r, &bad);
    assert_ok(tls_ctx_server(svid_b, &entry, 1, &server));
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct asked asked = {0};
        struct wire wire;
        wire_init(&wire, tls_ctx_ssl(anonymous), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire.server.check.authorize = on_authorize;
        wire.server.check.arg = &asked;
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
        assert_null(wire.server.check.peer);
        assert_int_equal(asked.times, 1); /* at the end, as there was no chain to verify */
        assert_string_equal(asked.id, "nobody");
        wire_fini(&wire);

        wire_init(&wire, tls_ctx_ssl(anonymous), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        asked.answer = E_PEER_DENIED;
        wire.server.check.authorize = on_authorize;
        wire.server.check.arg = &asked;
        wire_run(&wire);
        assert_int_equal(tls_check_finish(&wire.server.check, wire.server.ssl).code, E_PEER_DENIED);
        wire_fini(&wire);

        wire_init(&wire, tls_ctx_ssl(known), false, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_string_equal(wire.server.check.peer->spiffe_id, ID_A);
        wire_fini(&wire);

        wire_init(&wire, r.raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        assert_int_equal(wire.server.check.err.code, E_CHAIN_UNTRUSTED);
        wire_fini(&wire);
    }
    refused_fini(&r);
    tls_ctx_unref(anonymous);
    tls_ctx_unref(known);
    tls_ctx_unref(server);
}

/* Each entry asks for a certificate as it says, whatever its neighbours do; without a name, and
 * with entries that differ in it, none is chosen. */
static void test_entries_ask_for_certificates_each_as_it_says(void **state)
{
    struct tls_ctx_entry entries[] = {
        {"required.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"optional.link", server_profile, pki.bundle, TLS_CLIENT_OPTIONAL, NULL},
        {"none.link", server_profile, pki.bundle, TLS_CLIENT_NONE, NULL},
    };
    struct tls_ctx *clients[] = {our_client(NULL, client_profile),
                                 our_client(svid_a, client_profile)};
    struct tls_ctx *server = NULL;
    struct wire wire;

    (void)state;
    assert_ok(tls_ctx_server(svid_b, entries, ARRAY_LEN(entries), &server));
    for (size_t i = 0; i < 12; i++) {
        size_t entry = i % 3;
        bool shows = i / 3 % 2 != 0;

        wire_init(&wire, tls_ctx_ssl(clients[shows]), false, tls_ctx_ssl(server), false);
        SSL_set_tlsext_host_name(wire.client.ssl, entries[entry].server_name);
        set_version(wire.client.ssl, both_versions[i / 6]);
        wire_run(&wire);
        if (entry == 0 && !shows) {
            assert_true(wire.server.failed && !wire.server.done);
        } else {
            wire_assert_up(&wire);
            assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
            assert_int_equal(wire.server.check.peer != NULL, shows && entry != 2);
        }
        wire_fini(&wire);
    }
    wire_init(&wire, tls_ctx_ssl(clients[1]), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    assert_int_equal(wire.server.check.err.code, E_TLS_SNI_UNKNOWN);
    wire_fini(&wire);
    tls_ctx_unref(server);
    tls_ctx_unref(clients[0]);
    tls_ctx_unref(clients[1]);
}

/* Somebody else's certificate without its key: F10. */
static enum ssl_private_key_result_t forge_sign(SSL *ssl, uint8_t *out, size_t *out_len,
                                                size_t max_out, uint16_t algorithm,
                                                const uint8_t *in, size_t in_len)
{
    EVP_MD_CTX ctx;
    size_t len = max_out;

    (void)ssl;
    (void)algorithm;
    EVP_MD_CTX_init(&ctx);
    bool good =
        EVP_DigestSignInit(&ctx, NULL, EVP_sha256(), NULL, certgen_key(CERTGEN_P256_OTHER)) &&
        EVP_DigestSign(&ctx, out, &len, in, in_len);
    EVP_MD_CTX_cleanup(&ctx);
    *out_len = len;
    return good ? ssl_private_key_success : ssl_private_key_failure;
}

static enum ssl_private_key_result_t forge_complete(SSL *ssl, uint8_t *out, size_t *out_len,
                                                    size_t max_out)
{
    (void)ssl;
    (void)out;
    (void)out_len;
    (void)max_out;
    return ssl_private_key_failure;
}

static void test_stolen_certificate_without_its_key(void **state)
{
    static const SSL_PRIVATE_KEY_METHOD forge = {forge_sign, NULL, forge_complete};
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct tls_ctx *client = our_client(svid_a, client_profile);
    SSL_CTX *raw = raw_ctx(NULL, 0, NULL);
    CRYPTO_BUFFER *chain[] = {svid_a->chain[0], svid_a->chain[1]};

    (void)state;
    assert_true(SSL_CTX_set_chain_and_key(raw, chain, 2, NULL, &forge));
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        assert_int_equal(wire.client.got_alert, SSL_AD_DECRYPT_ERROR);
        wire_fini(&wire);

        wire_init(&wire, tls_ctx_ssl(client), false, raw, true);
        set_version(wire.server.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.client.failed && !wire.client.done);
        assert_int_equal(wire.client.sent_alert, SSL_AD_DECRYPT_ERROR);
        wire_fini(&wire);
    }
    SSL_CTX_free(raw);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- fail closed --- */

static void test_without_a_check_nobody_gets_in(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), true);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        wire_fini(&wire);
        wire_init(&wire, tls_ctx_ssl(client), true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.client.failed && !wire.client.done);
        assert_int_equal(wire.client.sent_alert, SSL_AD_INTERNAL_ERROR);
        wire_fini(&wire);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

static void test_finish_insists_on_a_verified_peer(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct wire wire;

    (void)state;
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    wire_assert_up(&wire);
    peer_unref(wire.server.check.peer); /* as if the callback had never run */
    wire.server.check.peer = NULL;
    assert_int_equal(tls_check_finish(&wire.server.check, wire.server.ssl).code, E_CERT_MISSING);
    struct tls_check stranger;
    tls_check_init(&stranger, &wire.clock.clock, NULL);
    assert_int_equal(tls_check_finish(&stranger, wire.client.ssl).code, E_BUG);
    wire_fini(&wire);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- SNI: B19 to B21, R12 --- */

struct sni_case {
    const char *name; /* what the client asks for; NULL: nothing */
    int entry;        /* -2: refused */
};

static void sni_run(struct tls_ctx *server, struct tls_profile *profile, const struct sni_case *one)
{
    struct tls_ctx *client = our_client(svid_a, profile);
    struct asked asked = {.entry = -7};
    struct wire wire;

    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    if (one->name != NULL)
        assert_true(SSL_set_tlsext_host_name(wire.client.ssl, one->name));
    wire.server.check.authorize = on_authorize;
    wire.server.check.arg = &asked;
    wire_run(&wire);
    if (one->entry == -2) {
        assert_int_equal(wire.server.check.err.code, E_TLS_SNI_UNKNOWN);
        assert_int_equal(wire.client.got_alert, SSL_AD_UNRECOGNIZED_NAME);
        assert_true(wire.server.failed && !wire.client.done);
    } else {
        wire_assert_up(&wire);
        assert_int_equal(asked.entry, one->entry);
        assert_int_equal(wire.server.check.entry, one->entry);
        assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
    }
    wire_fini(&wire);
    tls_ctx_unref(client);
}

static void test_sni_selects_exactly(void **state)
{
    struct tls_profile *p13 = pki_profile(&(struct pki_profile){.server = true, .min = PKI_TLS1_3});
    struct tls_ctx_entry same[] = {
        {"one.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"Two.Link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL}};
    struct tls_ctx_entry differ[] = {
        {"one.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"two.link", p13, pki.bundle, TLS_CLIENT_REQUIRED, NULL}};
    static const struct sni_case known[] = {
        {"one.link", 0}, {"two.link", 1}, {"TWO.LINK", 1}, {"oNe.LiNk", 0}};
    static const struct sni_case unknown[] = {
        {"three.link", -2}, {"one.link.", -2}, {"xone.link", -2}, {"one.lin", -2},
        {"one.linkx", -2},  {"*.link", -2},    {".one.link", -2}, {"link", -2}};
    struct sni_case none_same = {NULL, -1};
    struct sni_case none_differ = {NULL, -2};
    struct tls_ctx *servers[3] = {NULL, NULL, NULL};
    struct bundle *other = NULL;
    struct bytes anchors[2] = {pki.root_der, pki.intermediate_der};

    (void)state;
    assert_ok(tls_ctx_server(svid_b, same, 2, &servers[0]));
    assert_ok(bundle_of_der(anchors, 2, PKI_DOMAIN, &other));
    struct tls_ctx_entry trust_differs[] = {
        {"one.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"two.link", server_profile, other, TLS_CLIENT_REQUIRED, NULL}};
    assert_ok(tls_ctx_server(svid_b, differ, 2, &servers[1]));
    assert_ok(tls_ctx_server(svid_b, trust_differs, 2, &servers[2]));
    for (size_t s = 0; s < 3; s++) {
        for (size_t i = 0; i < ARRAY_LEN(known); i++)
            sni_run(servers[s], client_profile, &known[i]);
        for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
            sni_run(servers[s], client_profile, &unknown[i]);
    }
    sni_run(servers[0], client_profile, &none_same);
    sni_run(servers[1], client_profile, &none_differ);
    sni_run(servers[2], client_profile, &none_differ);
    for (size_t s = 0; s < 3; s++)
        tls_ctx_unref(servers[s]);
    bundle_unref(other);
    tls_profile_unref(p13);
}

/* An entry without a name takes any SNI and none, and is entry 0. */
static void test_the_only_entry_needs_no_name(void **state)
{
    struct tls_ctx *server = our_server(svid_b, server_profile);
    static const struct sni_case cases[] = {{NULL, 0}, {"anything", 0}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        sni_run(server, client_profile, &cases[i]);
    tls_ctx_unref(server);
}

/* The entry's own versions and bundle hold, not those of its neighbour or of the context. */
static void test_entries_keep_their_own_profile_and_bundle(void **state)
{
    struct tls_profile *p12 = pki_profile(&(struct pki_profile){.server = true, .max = PKI_TLS1_2});
    struct tls_profile *p13 =
        pki_profile(&(struct pki_profile){.server = true,
                                          .min = PKI_TLS1_3,
                                          .suites = {"TLS_AES_256_GCM_SHA384"},
                                          .groups = {"P-384"}});
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = NULL;
    struct pki other;
    struct wire wire;

    (void)state;
    pki_init(&other);
    struct tls_ctx_entry entries[] = {
        {"old.link", p12, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"new.link", p13, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"foreign.link", server_profile, other.bundle, TLS_CLIENT_REQUIRED, NULL}};
    assert_ok(tls_ctx_server(svid_b, entries, 3, &server));

    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    SSL_set_tlsext_host_name(wire.client.ssl, "old.link");
    wire_run(&wire);
    wire_assert_up(&wire);
    assert_int_equal(SSL_version(wire.client.ssl), TLS1_2_VERSION);
    assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
    wire_fini(&wire);

    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    SSL_set_tlsext_host_name(wire.client.ssl, "new.link");
    wire_run(&wire);
    wire_assert_up(&wire);
    assert_int_equal(SSL_version(wire.client.ssl), TLS1_3_VERSION);
    assert_string_equal(SSL_CIPHER_standard_name(SSL_get_current_cipher(wire.client.ssl)),
                        "TLS_AES_256_GCM_SHA384");
    assert_int_equal(SSL_get_curve_id(wire.client.ssl), 24);
    wire_fini(&wire);

    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    SSL_set_tlsext_host_name(wire.client.ssl, "foreign.link");
    wire_run(&wire);
    assert_int_equal(wire.server.check.err.code, E_CHAIN_UNTRUSTED);
    assert_int_equal(wire.client.got_alert, SSL_AD_UNKNOWN_CA);
    wire_fini(&wire);

    /* A client that has only what another entry allows. */
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    SSL_set_tlsext_host_name(wire.client.ssl, "new.link");
    set_version(wire.client.ssl, TLS1_2_VERSION);
    wire_run(&wire);
    assert_true(wire.server.failed && !wire.server.done);
    assert_int_equal(wire.client.got_alert, SSL_AD_PROTOCOL_VERSION);
    wire_fini(&wire);

    tls_ctx_unref(client);
    tls_ctx_unref(server);
    tls_profile_unref(p12);
    tls_profile_unref(p13);
    pki_fini(&other);
}

/* F14, B20: the ClientHello cut in two records at every byte selects the same entry. */
static void test_split_hello_selects_the_same_entry(void **state)
{
    struct tls_profile *p13 = pki_profile(&(struct pki_profile){.server = true, .min = PKI_TLS1_3});
    struct tls_ctx_entry entries[] = {
        {"one.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"two.link", p13, pki.bundle, TLS_CLIENT_REQUIRED, NULL}};
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = NULL;
    uint8_t hello[4096];
    struct wire wire;

    (void)state;
    assert_ok(tls_ctx_server(svid_b, entries, 2, &server));
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    SSL_set_tlsext_host_name(wire.client.ssl, "two.link");
    assert_int_equal(SSL_do_handshake(wire.client.ssl), -1);
    int len = BIO_read(SSL_get_rbio(wire.server.ssl), hello, sizeof hello);
    assert_true(len > 100 && hello[0] == SSL3_RT_HANDSHAKE);
    wire_fini(&wire);

    size_t body = (size_t)len - 5;
    for (size_t cut = 1; cut < body; cut++) {
        uint8_t first[5] = {hello[0], hello[1], hello[2], (uint8_t)(cut >> 8), (uint8_t)cut};
        size_t rest = body - cut;
        uint8_t second[5] = {hello[0], hello[1], hello[2], (uint8_t)(rest >> 8), (uint8_t)rest};
        BIO *in = BIO_new(BIO_s_mem());
        BIO *out = BIO_new(BIO_s_mem());
        struct side side;
        struct pki_clock clock;

        pki_clock_init(&clock, PKI_NOW);
        BIO_write(in, first, 5);
        BIO_write(in, hello + 5, (int)cut);
        BIO_write(in, second, 5);
        BIO_write(in, hello + 5 + cut, (int)rest);
        side_init(&side, tls_ctx_ssl(server), &clock.clock, false);
        SSL_set_bio(side.ssl, in, out);
        SSL_set_accept_state(side.ssl);
        assert_int_equal(SSL_do_handshake(side.ssl), -1); /* waits for the client's answer */
        assert_true(err_is_ok(side.check.err));
        assert_int_equal(side.check.entry, 1);
        assert_int_equal(side.sent_alert, -1);
        assert_true(BIO_pending(out) > 500); /* ServerHello to Finished */
        ERR_clear_error();
        side_fini(&side);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
    tls_profile_unref(p13);
}

/* --- what is negotiated: R1, F11, F12 --- */

static void negotiate_fails(struct tls_profile *client_p, struct tls_profile *server_p, int alert)
{
    struct tls_ctx *client = our_client(svid_a, client_p);
    struct tls_ctx *server = our_server(svid_b, server_p);
    struct wire wire;

    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    assert_true(wire.server.failed && !wire.server.done);
    assert_int_equal(wire.client.got_alert, alert);
    wire_fini(&wire);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

static void test_nothing_in_common_fails(void **state)
{
    static const struct {
        struct pki_profile client;
        struct pki_profile server;
        int alert;
    } cases[] = {
        {{.max = PKI_TLS1_2}, {.server = true, .min = PKI_TLS1_3}, SSL_AD_PROTOCOL_VERSION},
        {{.max = PKI_TLS1_2, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
         {.server = true, .suites = {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}},
         SSL_AD_HANDSHAKE_FAILURE},
        {{.groups = {"X25519"}}, {.server = true, .groups = {"P-384"}}, SSL_AD_HANDSHAKE_FAILURE},
        {{.max = PKI_TLS1_2, .groups = {"X25519"}},
         {.server = true, .groups = {"P-384"}},
         SSL_AD_HANDSHAKE_FAILURE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tls_profile *client = pki_profile(&cases[i].client);
        struct tls_profile *server = pki_profile(&cases[i].server);
        struct faults faults = {0};
        negotiate_fails(client, server, cases[i].alert);
        /* and the intersection says so beforehand */
        assert_int_equal(tls_profile_intersect(client, server, "link", &faults, NULL).code,
                         E_CONFIG_INVALID);
        faults_fini(&faults);
        tls_profile_unref(client);
        tls_profile_unref(server);
    }
}

static void test_old_versions_are_refused(void **state)
{
    static const uint16_t old[] = {TLS1_VERSION, TLS1_1_VERSION};
    struct tls_ctx *server = our_server(svid_b, server_profile);
    SSL_CTX *raw = raw_ctx_of(svid_a);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(old); i++) {
        struct wire wire;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, old[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        assert_int_equal(wire.client.got_alert, SSL_AD_PROTOCOL_VERSION);
        wire_fini(&wire);
    }
    SSL_CTX_free(raw);
    tls_ctx_unref(server);
}

/* TLS 1.3 suites: the library has no list; what it negotiates against a profile is refused, before
 * the peer's chain is even looked at. */
static void test_tls13_suites_are_judged_after_negotiation(void **state)
{
    struct tls_profile *only128 = pki_profile(&(struct pki_profile){
        .server = true, .min = PKI_TLS1_3, .suites = {"TLS_AES_128_GCM_SHA256"}});
    struct tls_profile *only256 =
        pki_profile(&(struct pki_profile){.min = PKI_TLS1_3, .suites = {"TLS_AES_256_GCM_SHA384"}});
    struct tls_ctx *server = our_server(svid_b, only128);
    struct tls_ctx *client = our_client(svid_a, client_profile);
    SSL_CTX *raw = raw_ctx_of(svid_a);
    struct asked asked = {0};
    struct wire wire;

    (void)state;
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    wire_assert_up(&wire); /* the library's own choice is AES-128 */
    assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
    wire_fini(&wire);

    assert_ok(tls_profile_apply_ctx(only256, raw)); /* a peer that offers AES-256 alone */
    wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
    wire.server.check.authorize = on_authorize;
    wire.server.check.arg = &asked;
    wire_run(&wire);
    assert_int_equal(wire.server.check.err.code, E_TLS_NO_SHARED);
    assert_int_equal(wire.server.check.err.sub, 0x1302);
    assert_int_equal(wire.client.got_alert, SSL_AD_HANDSHAKE_FAILURE);
    assert_int_equal(asked.times, 0);
    wire_fini(&wire);
    SSL_CTX_free(raw);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
    tls_profile_unref(only128);
    tls_profile_unref(only256);
}

/* The server's order of TLS 1.2 suites and of groups counts. */
static void test_server_order_counts(void **state)
{
    struct tls_profile *server_p = pki_profile(
        &(struct pki_profile){.server = true,
                              .max = PKI_TLS1_2,
                              .suites = {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                                         "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
                              .groups = {"P-384", "X25519"}});
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_p);
    struct wire wire;

    (void)state;
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    wire_assert_up(&wire);
    assert_string_equal(SSL_CIPHER_standard_name(SSL_get_current_cipher(wire.client.ssl)),
                        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256");
    assert_int_equal(SSL_get_curve_id(wire.client.ssl), 24);
    wire_fini(&wire);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
    tls_profile_unref(server_p);
}

/* --- nothing is resumed: R4, F16, B01 to B05 --- */

static int new_sessions;

static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    (void)session;
    new_sessions++;
    return 0;
}

static void test_no_ticket_is_sent_and_nothing_resumes(void **state)
{
    struct tls_ctx *server = our_server(svid_b, server_profile);
    SSL_CTX *raw = raw_ctx_of(svid_a);

    (void)state;
    SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_CLIENT);
    SSL_CTX_sess_set_new_cb(raw, on_new_session);
    SSL_CTX_set_early_data_enabled(raw, 1);
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        uint8_t byte = 'x';
        unsigned id_len = 99;

        new_sessions = 0;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        wire_assert_up(&wire);
        /* BoringSSL sends tickets with the first data of the server. */
        assert_int_equal(SSL_write(wire.server.ssl, &byte, 1), 1);
        assert_int_equal(SSL_read(wire.client.ssl, &byte, 1), 1);
        assert_int_equal(wire.client.tickets, 0);
        if (both_versions[i] == TLS1_3_VERSION)
            assert_int_equal(new_sessions, 0);
        SSL_SESSION *session = SSL_get1_session(wire.client.ssl);
        if (both_versions[i] == TLS1_2_VERSION) {
            (void)SSL_SESSION_get_id(session, &id_len);
            assert_int_equal(id_len, 0);
            assert_false(SSL_SESSION_has_ticket(session));
        }
        assert_false(SSL_SESSION_early_data_capable(session));
        wire_fini(&wire);

        /* The client insists: a full handshake with a verified peer all the same. */
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        assert_true(SSL_set_session(wire.client.ssl, session));
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_false(SSL_session_reused(wire.server.ssl));
        assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
        assert_string_equal(wire.server.check.peer->spiffe_id, ID_A);
        wire_fini(&wire);
        SSL_SESSION_free(session);
    }
    SSL_CTX_free(raw);
    tls_ctx_unref(server);
}

/* A session that a careless server of the same keys handed out: ours does not know it, and a client
 * of ours does not offer it. */
static void test_foreign_sessions_are_of_no_use(void **state)
{
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct tls_ctx *client = our_client(svid_a, client_profile);
    SSL_CTX *raw = raw_ctx_of(svid_a);
    SSL_CTX *careless = raw_ctx_of(svid_b);
    uint8_t keys[48] = {7};

    (void)state;
    SSL_CTX_set_tlsext_ticket_keys(careless, keys, sizeof keys);
    SSL_CTX_set_tlsext_ticket_keys(tls_ctx_ssl(server), keys, sizeof keys); /* stolen, say */
    SSL_CTX_set_session_id_context(careless, keys, 4);
    SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_CLIENT);
    struct wire wire;
    wire_init(&wire, raw, true, careless, true);
    set_version(wire.client.ssl, TLS1_2_VERSION);
    wire_run(&wire);
    wire_assert_up(&wire);
    SSL_SESSION *session = SSL_get1_session(wire.client.ssl);
    assert_true(SSL_SESSION_has_ticket(session));
    wire_fini(&wire);

    wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
    assert_true(SSL_set_session(wire.client.ssl, session));
    wire_run(&wire);
    wire_assert_up(&wire);
    assert_false(SSL_session_reused(wire.server.ssl));
    wire_fini(&wire);
    SSL_SESSION_free(session);

    /* Our client against the careless one: it gets tickets and keeps none. */
    for (int round = 0; round < 2; round++) {
        wire_init(&wire, tls_ctx_ssl(client), false, careless, true);
        wire_run(&wire);
        wire_assert_up(&wire);
        assert_false(SSL_session_reused(wire.client.ssl));
        assert_ok(tls_check_finish(&wire.client.check, wire.client.ssl));
        wire_fini(&wire);
    }
    SSL_CTX_free(raw);
    SSL_CTX_free(careless);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- ALPN --- */

static void test_alpn(void **state)
{
    static const struct {
        const char *offer; /* wire format; NULL: none */
        unsigned len;
        int alert; /* -1: let in */
        unsigned selected;
    } cases[] = {
        {"\x02h2", 3, -1, 2},
        {"\x08http/1.1\x02h2", 12, -1, 2},
        {NULL, 0, -1, 0},
        {"\x08http/1.1", 9, SSL_AD_NO_APPLICATION_PROTOCOL, 0},
        {"\x03h2c", 4, SSL_AD_NO_APPLICATION_PROTOCOL, 0},
        {"\x01h", 2, SSL_AD_NO_APPLICATION_PROTOCOL, 0},
    };
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct tls_ctx *client = our_client(svid_a, client_profile);
    SSL_CTX *raw = raw_ctx_of(svid_a);
    struct wire wire;

    (void)state;
    assert_ok(tls_ctx_set_alpn(server, "h2"));
    assert_ok(tls_ctx_set_alpn(client, "h2"));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const uint8_t *name = NULL;
        unsigned len = 0;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        if (cases[i].offer != NULL)
            assert_int_equal(
                SSL_set_alpn_protos(wire.client.ssl, (const uint8_t *)cases[i].offer, cases[i].len),
                0);
        wire_run(&wire);
        assert_int_equal(wire.client.got_alert, cases[i].alert);
        SSL_get0_alpn_selected(wire.client.ssl, &name, &len);
        assert_int_equal(len, cases[i].selected);
        wire_fini(&wire);
    }
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    wire_assert_up(&wire);
    const uint8_t *name = NULL;
    unsigned len = 0;
    SSL_get0_alpn_selected(wire.server.ssl, &name, &len);
    assert_int_equal(len, 2);
    wire_fini(&wire);
    assert_int_equal(tls_ctx_set_alpn(client, "").code, E_TLS_CONFIG);
    SSL_CTX_free(raw);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- limits: F13, B52 --- */

static void test_huge_chain_is_cut_off(void **state)
{
    struct tls_ctx *server = our_server(svid_b, server_profile);
    enum { NUM = 60 };
    CRYPTO_BUFFER *chain[NUM];
    uint8_t *filler = mem_zalloc(1700);

    (void)state;
    chain[0] = svid_a->chain[0];
    for (size_t i = 1; i < NUM; i++)
        chain[i] = CRYPTO_BUFFER_new(filler, 1700, NULL);
    SSL_CTX *raw = raw_ctx(chain, NUM, svid_a->key); /* 100 KB */
    for (size_t i = 0; i < ARRAY_LEN(both_versions); i++) {
        struct wire wire;
        wire_init(&wire, raw, true, tls_ctx_ssl(server), false);
        set_version(wire.client.ssl, both_versions[i]);
        wire_run(&wire);
        assert_true(wire.server.failed && !wire.server.done);
        assert_int_equal(wire.server.sent_alert, SSL_AD_ILLEGAL_PARAMETER);
        assert_null(wire.server.check.peer);
        wire_fini(&wire);
    }
    for (size_t i = 1; i < NUM; i++)
        CRYPTO_BUFFER_free(chain[i]);
    mem_free(filler);
    SSL_CTX_free(raw);
    tls_ctx_unref(server);
}

/* --- lifetimes and threads --- */

/* Hot swap: the owner lets go of a context while handshakes on it are under way. */
static void test_context_lives_as_long_as_its_sessions(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct wire wire;

    (void)state;
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    side_step(&wire.client);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
    wire_run(&wire);
    wire_assert_up(&wire);
    assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
    assert_ok(tls_check_finish(&wire.client.check, wire.client.ssl));
    wire_fini(&wire);
}

static void test_the_check_may_go_before_the_session(void **state)
{
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);
    struct wire wire;
    uint8_t byte = 'y';

    (void)state;
    wire_init(&wire, tls_ctx_ssl(client), false, tls_ctx_ssl(server), false);
    wire_run(&wire);
    assert_ok(tls_check_finish(&wire.server.check, wire.server.ssl));
    tls_check_fini(&wire.server.check);
    memset(&wire.server.check, 0xee, sizeof wire.server.check);
    assert_int_equal(SSL_write(wire.client.ssl, &byte, 1), 1);
    assert_int_equal(SSL_read(wire.server.ssl, &byte, 1), 1);
    memset(&wire.server.check, 0, sizeof wire.server.check);
    wire_fini(&wire);
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

struct shared {
    struct tls_ctx *client;
    struct tls_ctx *server;
    int up;
};

static void *shared_run(void *arg)
{
    struct shared *shared = arg;
    struct verify_cache *cache = verify_cache_new(8);

    for (int i = 0; i < 40; i++) {
        struct wire wire;
        wire_init(&wire, tls_ctx_ssl(shared->client), false, tls_ctx_ssl(shared->server), false);
        wire.client.check.cache = i % 2 == 0 ? cache : NULL;
        wire.server.check.cache = i % 2 == 0 ? cache : NULL;
        wire_run(&wire);
        shared->up += side_is_up(&wire.client) && side_is_up(&wire.server);
        wire_fini(&wire);
    }
    if (verify_cache_hits(cache) != 38) /* 20 rounds, two chains, the first time none */
        shared->up = -1;
    verify_cache_free(cache);
    return NULL;
}

static void test_threads_share_contexts(void **state)
{
    struct shared shared[3];
    pthread_t threads[3];
    struct tls_ctx *client = our_client(svid_a, client_profile);
    struct tls_ctx *server = our_server(svid_b, server_profile);

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        shared[i] = (struct shared){.client = client, .server = server};
        assert_int_equal(pthread_create(&threads[i], NULL, shared_run, &shared[i]), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(shared[i].up, 40);
    }
    tls_ctx_unref(client);
    tls_ctx_unref(server);
}

/* --- what cannot be made --- */

static void test_contexts_that_could_not_work_are_not_made(void **state)
{
    struct tls_profile *rsa_only = pki_profile(&(struct pki_profile){
        .server = true, .max = PKI_TLS1_2, .suites = {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}});
    struct tls_profile *rsa_sigs =
        pki_profile(&(struct pki_profile){.server = true, .sigalgs = {"rsa_pss_rsae_sha256"}});
    struct tls_ctx_entry fine = {NULL, server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx_entry two_unnamed[] = {fine, fine};
    struct tls_ctx_entry twice[] = {
        {"a.link", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL},
        {"A.LINK", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL}};
    struct tls_ctx_entry empty = {"", server_profile, pki.bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx_entry client_role = {NULL, client_profile, pki.bundle, TLS_CLIENT_REQUIRED,
                                        NULL};
    struct tls_ctx_entry suites = {NULL, rsa_only, pki.bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx_entry sigs = {NULL, rsa_sigs, pki.bundle, TLS_CLIENT_REQUIRED, NULL};
    struct tls_ctx *ctx = NULL;

    (void)state;
    assert_int_equal(tls_ctx_server(NULL, &fine, 1, &ctx).code, E_SVID_MISSING);
    assert_int_equal(tls_ctx_server(svid_b, &fine, 0, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, two_unnamed, 2, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, twice, 2, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, &empty, 1, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, &client_role, 1, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, &suites, 1, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_server(svid_b, &sigs, 1, &ctx).code, E_TLS_CONFIG);
    assert_int_equal(tls_ctx_client(svid_a, pki.bundle, server_profile, &ctx).code, E_TLS_CONFIG);
    assert_null(ctx);
    tls_profile_unref(rsa_only);
    tls_profile_unref(rsa_sigs);
}

static int setup(void **state)
{
    (void)state;
    wire_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    pki_init(&pki);
    svid_a = pki_svid(&pki, ID_A, NULL);
    svid_b = pki_svid(&pki, ID_B, NULL);
    client_profile = pki_profile(&(struct pki_profile){0});
    server_profile = pki_profile(&(struct pki_profile){.server = true});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tls_profile_unref(client_profile);
    tls_profile_unref(server_profile);
    svid_unref(svid_a);
    svid_unref(svid_b);
    pki_fini(&pki);
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_know_each_other),
        cmocka_unit_test(test_bad_certificates_get_their_alert),
        cmocka_unit_test(test_good_certificate_passes_the_same_fixture),
        cmocka_unit_test(test_authorize_refuses_with_access_denied),
        cmocka_unit_test(test_no_client_certificate_is_refused),
        cmocka_unit_test(test_optional_means_none_or_a_good_one),
        cmocka_unit_test(test_entries_ask_for_certificates_each_as_it_says),
        cmocka_unit_test(test_stolen_certificate_without_its_key),
        cmocka_unit_test(test_without_a_check_nobody_gets_in),
        cmocka_unit_test(test_finish_insists_on_a_verified_peer),
        cmocka_unit_test(test_sni_selects_exactly),
        cmocka_unit_test(test_the_only_entry_needs_no_name),
        cmocka_unit_test(test_entries_keep_their_own_profile_and_bundle),
        cmocka_unit_test(test_split_hello_selects_the_same_entry),
        cmocka_unit_test(test_nothing_in_common_fails),
        cmocka_unit_test(test_old_versions_are_refused),
        cmocka_unit_test(test_tls13_suites_are_judged_after_negotiation),
        cmocka_unit_test(test_server_order_counts),
        cmocka_unit_test(test_no_ticket_is_sent_and_nothing_resumes),
        cmocka_unit_test(test_foreign_sessions_are_of_no_use),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_huge_chain_is_cut_off),
        cmocka_unit_test(test_context_lives_as_long_as_its_sessions),
        cmocka_unit_test(test_the_check_may_go_before_the_session),
        cmocka_unit_test(test_threads_share_contexts),
        cmocka_unit_test(test_contexts_that_could_not_work_are_not_made),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
