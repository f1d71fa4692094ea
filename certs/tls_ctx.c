#include "certs/tls_ctx.h"

#include <pthread.h>

#include "certs/boring.h"
#include "certs/cert.h"

#define TLS_CTX_ENTRIES_MAX 1024 /* links of one server */
#define TLS_CTX_NAME_MAX 255     /* of a host name in SNI (RFC 6066, RFC 1035) */

/* Messages with a chain have a few bytes more for each certificate: TLS 1.3's list of extensions.
 */
#define TLS_CTX_CERT_LIST_MAX (VERIFY_CHAIN_BYTES_MAX + 256)

struct tls_ctx_name {
    char *server_name; /* lower-case; NULL: any */
    struct tls_profile *profile;
    struct bundle *bundle;
    enum tls_client_auth client_auth;
    struct svid *svid; /* NULL: the context's */
};

/* Lives exactly as long as its SSL_CTX, which sessions in mid-handshake keep: a reference to one is
 * a reference to the other, and freeing the SSL_CTX frees this by way of its ex_data. */
struct tls_ctx {
    SSL_CTX *ssl; /* not counted: it owns us */
    bool server;
    bool equal; /* all entries are alike but for the name: no SNI is needed to know which */
    struct tls_ctx_name *entries;
    size_t num;
    uint8_t *alpn; /* wire format; NULL: none */
    size_t alpn_len;
};

static int tls_ctx_index;   /* of struct tls_ctx in an SSL_CTX */
static int tls_check_index; /* of struct tls_check in an SSL */
static pthread_once_t tls_ctx_once = PTHREAD_ONCE_INIT;

static void tls_ctx_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int index, long argl,
                         void *argp)
{
    struct tls_ctx *ctx = ptr;

    (void)parent;
    (void)ad;
    (void)index;
    (void)argl;
    (void)argp;
    if (ctx == NULL)
        return;
    for (size_t i = 0; i < ctx->num; i++) {
        mem_free(ctx->entries[i].server_name);
        tls_profile_unref(ctx->entries[i].profile);
        bundle_unref(ctx->entries[i].bundle);
        svid_unref(ctx->entries[i].svid);
    }
    mem_free(ctx->entries);
    mem_free(ctx->alpn);
    mem_free(ctx);
}

static void tls_ctx_indexes(void)
{
    tls_ctx_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, tls_ctx_free);
    tls_check_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    CHECK(tls_ctx_index >= 0 && tls_check_index >= 0);
}

static struct tls_ctx *tls_ctx_of(const SSL *ssl)
{
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), tls_ctx_index);
}

static struct tls_check *tls_check_of(const SSL *ssl)
{
    return SSL_get_ex_data(ssl, tls_check_index);
}

/* --- callbacks --- */

static bool tls_ctx_name_equal(const char *lower, const char *name)
{
    for (; *lower != '\0' && *name != '\0'; lower++, name++) {
        char c = *name >= 'A' && *name <= 'Z' ? (char)(*name - 'A' + 'a') : *name;
        if (*lower != c)
            return false;
    }
    return *lower == *name;
}

/* tls_ctx_choose finds the entry for what the client asked: its index, or -1. */
static err_t tls_ctx_choose(const struct tls_ctx *ctx, const SSL *ssl, int *out)
{
    /* BoringSSL has parsed the extension by now and refused what is malformed. */
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    if (ctx->entries[0].server_name == NULL) {
        *out = 0;
        return OK;
    }
    if (name == NULL) {
        *out = -1;
        return ctx->equal ? OK : FAIL(TLS_SNI_UNKNOWN, 0);
    }
    for (size_t i = 0; i < ctx->num; i++) {
        if (tls_ctx_name_equal(ctx->entries[i].server_name, name)) {
            *out = (int)i;
            return OK;
        }
    }
    return FAIL(TLS_SNI_UNKNOWN, 0);
}

static const struct tls_ctx_name *tls_ctx_entry_of(const struct tls_ctx *ctx, int entry)
{
    return &ctx->entries[entry >= 0 ? (size_t)entry : 0];
}

static enum ssl_verify_result_t tls_ctx_on_verify(SSL *ssl, uint8_t *out_alert);

static int tls_ctx_verify_mode(enum tls_client_auth client_auth)
{
    switch (client_auth) {
    case TLS_CLIENT_NONE:
        return SSL_VERIFY_NONE;
    case TLS_CLIENT_OPTIONAL:
        return SSL_VERIFY_PEER;
    case TLS_CLIENT_REQUIRED:
        break;
    }
    return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
}

static size_t tls_ctx_chain(const struct svid *svid, CRYPTO_BUFFER *out[SVID_CHAIN_MAX])
{
    for (size_t i = 0; i < svid->num_chain; i++)
        out[i] = svid->chain[i];
    return svid->num_chain;
}

static err_t tls_ctx_apply_entry(const struct tls_ctx_name *entry, SSL *ssl)
{
    CRYPTO_BUFFER *chain[SVID_CHAIN_MAX];
    size_t num = entry->svid != NULL ? tls_ctx_chain(entry->svid, chain) : 0;

    if (entry->svid != NULL && !SSL_set_chain_and_key(ssl, chain, num, entry->svid->key, NULL))
        return FAIL(TLS_CONFIG, 0);
    SSL_set_custom_verify(ssl, tls_ctx_verify_mode(entry->client_auth), tls_ctx_on_verify);
    return tls_profile_apply_ssl(entry->profile, ssl);
}

/* tls_ctx_on_hello runs before versions, suites and groups are chosen: the range of versions cannot
 * be changed after it. */
static enum ssl_select_cert_result_t tls_ctx_on_hello(const SSL_CLIENT_HELLO *hello)
{
    SSL *ssl = hello->ssl;
    const struct tls_ctx *ctx = tls_ctx_of(ssl);
    struct tls_check *check = tls_check_of(ssl);

    if (check == NULL || ctx == NULL)
        return ssl_select_cert_error;
    shown_hello_note(hello, &check->hello);
    check->err = tls_ctx_choose(ctx, ssl, &check->entry);
    if (!err_is_ok(check->err))
        return ssl_select_cert_success; /* tls_ctx_on_name ends it with the right alert */
    if (check->chosen != NULL)
        check->chosen(check->arg, check->entry);
    if (!ctx->equal)
        check->err = tls_ctx_apply_entry(&ctx->entries[check->entry], ssl);
    return err_is_ok(check->err) ? ssl_select_cert_success : ssl_select_cert_error;
}

static int tls_ctx_on_name(SSL *ssl, int *out_alert, void *arg)
{
    const struct tls_check *check = tls_check_of(ssl);

    (void)arg;
    if (check == NULL || !err_is_ok(check->err)) {
        *out_alert = check != NULL ? verify_alert(check->err) : SSL_AD_INTERNAL_ERROR;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

static int tls_ctx_on_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                           unsigned in_len, void *arg)
{
    const struct tls_ctx *ctx = tls_ctx_of(ssl);

    (void)arg;
    /* BoringSSL has checked the list's form: lengths fit. */
    for (unsigned at = 0; at < in_len; at += 1U + in[at]) {
        if (1U + in[at] == ctx->alpn_len && memcmp(in + at, ctx->alpn, ctx->alpn_len) == 0) {
            *out = ctx->alpn + 1;
            *out_len = (uint8_t)(ctx->alpn_len - 1);
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL; /* no_application_protocol */
}

static int tls_ctx_on_probe(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                            unsigned in_len, void *arg)
{
    static const uint8_t name[] = TLS_PROBE_PROTOCOL;

    (void)ssl;
    (void)arg;
    for (unsigned at = 0; at < in_len; at += 1U + in[at]) {
        if (in[at] == sizeof(name) - 1 && memcmp(in + at + 1, name, sizeof(name) - 1) == 0) {
            *out = name;
            *out_len = sizeof(name) - 1;
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* tls_ctx_judge: what was negotiated, the chain, the identity, and whether it may be here. */
static err_t tls_ctx_judge(const struct tls_ctx *ctx, struct tls_check *check, SSL *ssl)
{
    const struct tls_ctx_name *entry = tls_ctx_entry_of(ctx, check->entry);

    if (!err_is_ok(check->err))
        return check->err;
    TRY(tls_profile_allows(entry->profile, ssl));
    if (tls_profile_skips_verify(entry->profile)) /* of a client: whoever it is, he is nobody */
        return check->authorize != NULL ? check->authorize(check->arg, check->entry, NULL) : OK;
    TRY(verify_chain(SSL_get0_peer_certificates(ssl), entry->bundle,
                     ctx->server ? VERIFY_CLIENT_CERT : VERIFY_SERVER_CERT,
                     clock_wall_s(check->clock), check->cache, &check->peer));
    if (check->authorize != NULL)
        TRY(check->authorize(check->arg, check->entry, check->peer));
    return OK;
}

static enum ssl_verify_result_t tls_ctx_on_verify(SSL *ssl, uint8_t *out_alert)
{
    const struct tls_ctx *ctx = tls_ctx_of(ssl);
    struct tls_check *check = tls_check_of(ssl);

    if (ctx == NULL || check == NULL) {
        *out_alert = SSL_AD_INTERNAL_ERROR;
        return ssl_verify_invalid;
    }
    check->err = tls_ctx_judge(ctx, check, ssl);
    if (err_is_ok(check->err))
        return ssl_verify_ok;
    peer_unref(check->peer);
    check->peer = NULL;
    *out_alert = verify_alert(check->err);
    return ssl_verify_invalid;
}

/* --- contexts --- */

static err_t tls_ctx_set_identity(SSL_CTX *ssl, const struct svid *svid)
{
    CRYPTO_BUFFER *chain[SVID_CHAIN_MAX];
    size_t num = tls_ctx_chain(svid, chain);

    return SSL_CTX_set_chain_and_key(ssl, chain, num, svid->key, NULL) ? OK : FAIL(TLS_CONFIG, 0);
}

/* tls_ctx_new makes what both roles have in common. `entries` is taken. */
static err_t tls_ctx_new(struct svid *svid, struct tls_ctx *ctx, SSL_CTX **out)
{
    CHECK(pthread_once(&tls_ctx_once, tls_ctx_indexes) == 0);
    /* The method without X509: chains stay bytes until verify_chain parses them. */
    CLEANUP(boring_ctx_freep) SSL_CTX *ssl = SSL_CTX_new(TLS_with_buffers_method());

    if (ssl == NULL || !SSL_CTX_set_ex_data(ssl, tls_ctx_index, ctx)) {
        tls_ctx_free(NULL, ctx, NULL, 0, 0, NULL);
        return FAIL(NO_MEMORY, 0);
    }
    ctx->ssl = ssl; /* ctx is the SSL_CTX's now */
    SSL_CTX_set0_buffer_pool(ssl, cert_pool());
    if (svid != NULL)
        TRY(tls_ctx_set_identity(ssl, svid));

    /* Nothing of one handshake is of use to another: a resumed one would skip verification.
     * (BoringSSL has no compression, and its servers never renegotiate.) */
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    if (!SSL_CTX_set_num_tickets(ssl, 0))
        return FAIL(TLS_CONFIG, 0);
    SSL_CTX_set_early_data_enabled(ssl, 0);
    SSL_CTX_set_max_cert_list(ssl, TLS_CTX_CERT_LIST_MAX);
    SSL_CTX_set_grease_enabled(ssl, ctx->server ? 0 : 1);
    SSL_CTX_set_custom_verify(ssl, tls_ctx_verify_mode(TLS_CLIENT_REQUIRED), tls_ctx_on_verify);
    if (ctx->equal && ctx->server)
        SSL_CTX_set_custom_verify(ssl, tls_ctx_verify_mode(ctx->entries[0].client_auth),
                                  tls_ctx_on_verify);
    if (ctx->equal)
        TRY(tls_profile_apply_ctx(ctx->entries[0].profile, ssl));

    *out = ssl;
    ssl = NULL;
    return OK;
}

static err_t tls_ctx_check_profile(const struct tls_profile *profile, bool server,
                                   const struct svid *svid)
{
    if (tls_profile_is_server(profile) != server)
        return FAIL(TLS_CONFIG, 0);
    /* A client's key signs too, but its suites are of the server's key: only TLS itself can tell.
     */
    if (server && !tls_profile_serves(profile, svid->key))
        return FAIL(TLS_CONFIG, 0);
    return OK;
}

static void tls_ctx_fill(struct tls_ctx_name *name, const char *server_name,
                         struct tls_profile *profile, struct bundle *bundle)
{
    name->server_name = server_name != NULL ? mem_strdup(server_name) : NULL;
    for (char *p = name->server_name; p != NULL && *p != '\0'; p++) {
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p - 'A' + 'a');
    }
    name->profile = tls_profile_ref(profile);
    name->bundle = bundle_ref(bundle);
}

err_t tls_ctx_client(struct svid *svid, struct bundle *bundle, struct tls_profile *profile,
                     struct tls_ctx **out)
{
    BORING_SCOPE;
    SSL_CTX *ssl = NULL;

    TRY(tls_ctx_check_profile(profile, false, svid));
    struct tls_ctx *ctx = mem_zalloc(sizeof *ctx);
    ctx->entries = mem_array(1, sizeof ctx->entries[0]);
    ctx->num = 1;
    ctx->equal = true;
    tls_ctx_fill(&ctx->entries[0], NULL, profile, bundle);
    TRY(tls_ctx_new(svid, ctx, &ssl));
    *out = ctx;
    return OK;
}

/* tls_ctx_check_entries: names are there or not as the header says, valid, and each once. */
static err_t tls_ctx_check_entries(const struct tls_ctx_entry *entries, size_t num,
                                   const struct svid *svid)
{
    if (num == 0 || num > TLS_CTX_ENTRIES_MAX)
        return FAIL(TLS_CONFIG, num);
    for (size_t i = 0; i < num; i++) {
        const char *name = entries[i].server_name;
        if (name == NULL && num > 1)
            return FAIL(TLS_CONFIG, i);
        if (name != NULL && (name[0] == '\0' || strlen(name) > TLS_CTX_NAME_MAX))
            return FAIL(TLS_CONFIG, i);
        TRY(tls_ctx_check_profile(entries[i].profile, true,
                                  entries[i].svid != NULL ? entries[i].svid : svid));
    }
    return OK;
}

static bool tls_ctx_entries_equal(const struct tls_ctx_entry *entries, size_t num)
{
    for (size_t i = 1; i < num; i++) {
        if (!tls_profile_equal(entries[0].profile, entries[i].profile) ||
            entries[0].client_auth != entries[i].client_auth ||
            entries[0].svid != entries[i].svid ||
            memcmp(entries[0].bundle->hash, entries[i].bundle->hash,
                   sizeof entries[0].bundle->hash) != 0)
            return false;
    }
    return true;
}

static bool tls_ctx_has_duplicates(const struct tls_ctx *ctx)
{
    for (size_t i = 1; i < ctx->num; i++) {
        for (size_t j = 0; j < i; j++) {
            if (strcmp(ctx->entries[i].server_name, ctx->entries[j].server_name) == 0)
                return true;
        }
    }
    return false;
}

err_t tls_ctx_server(struct svid *svid, const struct tls_ctx_entry *entries, size_t num,
                     struct tls_ctx **out)
{
    BORING_SCOPE;
    SSL_CTX *ssl = NULL;

    if (svid == NULL)
        return FAIL(SVID_MISSING, 0);
    TRY(tls_ctx_check_entries(entries, num, svid));
    struct tls_ctx *ctx = mem_zalloc(sizeof *ctx);
    ctx->server = true;
    ctx->equal = tls_ctx_entries_equal(entries, num);
    ctx->entries = mem_array(num, sizeof ctx->entries[0]);
    ctx->num = num;
    for (size_t i = 0; i < num; i++) {
        tls_ctx_fill(&ctx->entries[i], entries[i].server_name, entries[i].profile,
                     entries[i].bundle);
        ctx->entries[i].client_auth = entries[i].client_auth;
        ctx->entries[i].svid = entries[i].svid != NULL ? svid_ref(entries[i].svid) : NULL;
    }
    TRY(tls_ctx_new(ctx->equal && entries[0].svid != NULL ? entries[0].svid : svid, ctx, &ssl));
    SSL_CTX_set_select_certificate_cb(ssl, tls_ctx_on_hello);
    SSL_CTX_set_tlsext_servername_callback(ssl, tls_ctx_on_name);
    if (tls_ctx_has_duplicates(ctx)) {
        tls_ctx_unref(ctx);
        return FAIL(TLS_CONFIG, 0);
    }
    *out = ctx;
    return OK;
}

err_t tls_ctx_set_alpn(struct tls_ctx *ctx, const char *protocol)
{
    BORING_SCOPE;
    size_t len = strlen(protocol);

    if (len == 0 || len > UINT8_MAX)
        return FAIL(TLS_CONFIG, len);
    CHECK(ctx->alpn == NULL);
    ctx->alpn_len = len + 1;
    ctx->alpn = mem_alloc(ctx->alpn_len);
    ctx->alpn[0] = (uint8_t)len;
    memcpy(ctx->alpn + 1, protocol, len);
    if (ctx->server)
        SSL_CTX_set_alpn_select_cb(ctx->ssl, tls_ctx_on_alpn, NULL);
    else if (SSL_CTX_set_alpn_protos(ctx->ssl, ctx->alpn, (unsigned)ctx->alpn_len) != 0)
        return FAIL(NO_MEMORY, 0);
    return OK;
}

void tls_ctx_take_probes(struct tls_ctx *ctx)
{
    CHECK(ctx->server && ctx->alpn == NULL);
    SSL_CTX_set_alpn_select_cb(ctx->ssl, tls_ctx_on_probe, NULL);
}

err_t tls_probe_offer(SSL *ssl)
{
    static const uint8_t list[] = "\x0d" TLS_PROBE_PROTOCOL; /* its length before it */

    CHECK(list[0] == sizeof(list) - 2);
    return SSL_set_alpn_protos(ssl, list, sizeof(list) - 1) == 0 ? OK : FAIL(NO_MEMORY, 0);
}

bool tls_is_probe(const SSL *ssl)
{
    const uint8_t *name;
    unsigned len;

    SSL_get0_alpn_selected(ssl, &name, &len);
    return len == sizeof(TLS_PROBE_PROTOCOL) - 1 && memcmp(name, TLS_PROBE_PROTOCOL, len) == 0;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
    SSL_CTX_up_ref(ctx->ssl);
    return ctx;
}

void tls_ctx_unref(struct tls_ctx *ctx)
{
    if (ctx != NULL)
        SSL_CTX_free(ctx->ssl); /* ctx goes with the last reference */
}

SSL_CTX *tls_ctx_ssl(const struct tls_ctx *ctx)
{
    return ctx->ssl;
}

/* --- one handshake --- */

void tls_check_init(struct tls_check *check, const struct clock *clock, struct verify_cache *cache)
{
    CHECK(clock != NULL);
    *check = (struct tls_check){.clock = clock, .cache = cache, .entry = -1};
}

void tls_check_attach(struct tls_check *check, SSL *ssl)
{
    const struct tls_ctx *ctx;

    CHECK(pthread_once(&tls_ctx_once, tls_ctx_indexes) == 0);
    ctx = tls_ctx_of(ssl);
    /* Without memory for it every callback finds no check and refuses; this says why. */
    if (!SSL_set_ex_data(ssl, tls_check_index, check)) {
        ERR_clear_error();
        check->err = FAIL(NO_MEMORY, 0);
    }
    /* Never is the default of all versions so far; here it does not depend on that. */
    SSL_set_renegotiate_mode(ssl, ssl_renegotiate_never);
    if (ctx != NULL && !ctx->server)
        SSL_set_renegotiate_mode(ssl, tls_profile_renegotiation(ctx->entries[0].profile));
}

err_t tls_check_finish(struct tls_check *check, SSL *ssl)
{
    const struct tls_ctx *ctx = tls_ctx_of(ssl);
    const struct tls_ctx_name *entry;

    if (ctx == NULL || tls_check_of(ssl) != check)
        return FAIL(BUG, 0);
    CHECK(SSL_set_ex_data(ssl, tls_check_index, NULL)); /* `check` may go before the SSL does */
    TRY(check->err);
    if (SSL_session_reused(ssl))
        return FAIL(CERT_MISSING, 0); /* cannot be: nothing was given to resume */
    entry = tls_ctx_entry_of(ctx, check->entry);
    if (check->peer == NULL && !(ctx->server ? entry->client_auth != TLS_CLIENT_REQUIRED
                                             : tls_profile_skips_verify(entry->profile)))
        return FAIL(CERT_MISSING, 0);
    TRY(tls_profile_allows(entry->profile, ssl));
    /* Else somebody between could put his own beginning before ours (RFC 5746). */
    if (!ctx->server && !SSL_get_secure_renegotiation_support(ssl))
        SSL_set_renegotiate_mode(ssl, ssl_renegotiate_never);
    if (ctx->server && check->peer == NULL && check->authorize != NULL)
        return check->authorize(check->arg, check->entry, NULL);
    return OK;
}

void tls_check_fini(struct tls_check *check)
{
    peer_unref(check->peer);
    check->peer = NULL;
}
