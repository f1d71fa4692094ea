/* shim: what the runner of BoGo drives in place of bssl_shim: one connection over lib/net/tls.h,
 * used as proxy/ uses it.
 *
 *   shim -port N [flags of bssl_shim]...
 *
 * It connects to the runner, is client or server, checks what was negotiated, sends back each byte
 * inverted until the peer's close_notify, and ends its own direction. The exit status is 0 when all
 * went in order, 1 when not (the reason is a line on standard error), 89 for a flag that it does
 * not know: the runner then counts the case as unimplemented. */
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/net/loop.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "test/interop/bogo/drip.h"
#include "test/interop/bogo/flags.h"

#define EXIT_UNIMPLEMENTED 89
#define SETTLE_MS 10000 /* of the runner to close its end; it does so at once */

struct shim {
    struct flags flags;
    struct loop *loop;
    SSL_CTX *ctx;
    struct stream *tls;
    int fd; /* the TCP stream's */
    const char *version, *cipher;
    bool got_data;
    bool drains; /* ends when what is queued has left */
    bool over;
    int status;
};

/* shim_end: the first one counts. `text` NULL: in order. */
static void shim_end(struct shim *shim, const char *text)
{
    if (!shim->over && text != NULL) {
        (void)fprintf(stderr, ":SHIM: %s\n", text);
        shim->status = EXIT_FAILURE;
    }
    shim->over = true;
    loop_stop(shim->loop);
}

/* shim_reason: what BoGo calls the error, without the colons around it. */
static const char *shim_reason(err_t err)
{
    /* For codes that do not carry the library's reason. */
    static const char *const reasons[E_NUM] = {
        [E_CERT_MISSING] = "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        [E_TLS_KEY_UPDATES] = "TOO_MANY_KEY_UPDATES",
        /* All that does not begin like TLS; the library has a name for some of it. */
        [E_TLS_NOT_TLS] = "HTTP_REQUEST:HTTPS_PROXY_REQUEST:WRONG_VERSION_NUMBER:"
                          "APPLICATION_DATA_INSTEAD_OF_HANDSHAKE",
    };
    int number = err.code == E_TLS_ALERT ? err.sub + SSL_AD_REASON_OFFSET : err.sub;
    const char *reason = reasons[err.code];

    if (reason == NULL && number > 0)
        reason = ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, number));
    return reason != NULL ? reason : "";
}

static void shim_fail(struct shim *shim, err_t err)
{
    if (shim->over)
        return;
    (void)fprintf(stderr, ":%s:%s: %d at %s\n", err_name(err.code), shim_reason(err), err.sub,
                  err.where);
    shim->status = EXIT_FAILURE;
    shim_end(shim, NULL);
}

static void shim_check(struct shim *shim, err_t err)
{
    if (!err_is_ok(err))
        shim_fail(shim, err);
}

/* The connection after the handshake. */

static void shim_end_drained(struct shim *shim)
{
    if (shim->tls->queued == 0)
        shim_end(shim, NULL);
    else
        shim->drains = true;
}

static void shim_write(struct shim *shim, struct bytes data)
{
    if (!shim->over && data.len > 0)
        shim_check(shim, stream_write(shim->tls, data));
}

static void shim_on_read(void *arg, struct bytes data)
{
    struct shim *shim = arg;
    uint8_t *echo;

    if (shim->flags.shim_shuts_down) /* the half that is still open; nobody reads our answer */
        return;
    echo = mem_dup(data.ptr, data.len);
    for (size_t i = 0; i < data.len; i++)
        echo[i] ^= 0xff;
    /* The key changes before the second record, and the runner looks for it in the first answer. */
    if (shim->flags.key_update && !shim->got_data) {
        shim_write(shim, bytes_of(echo, 1));
        shim_write(shim, bytes_of(echo + 1, data.len - 1));
    } else {
        shim_write(shim, bytes_of(echo, data.len));
    }
    shim->got_data = true;
    mem_free(echo);
    if (!shim->over && shim->tls->queued > 0)
        stream_read_stop(shim->tls);
}

static void shim_on_drained(void *arg)
{
    struct shim *shim = arg;

    if (shim->drains)
        shim_end(shim, NULL);
    else
        stream_read_start(shim->tls);
}

static void shim_on_eof(void *arg)
{
    struct shim *shim = arg;

    shim_check(shim, stream_shutdown(shim->tls));
    if (!shim->over)
        shim_end_drained(shim);
}

static void shim_on_error(void *arg, err_t err)
{
    struct shim *shim = arg;

    /* bssl_shim minds an end without close_notify only when told to. */
    if (err_is(err, E_TLS_TRUNCATED) && !shim->flags.check_close_notify)
        shim_end(shim, NULL);
    else
        shim_fail(shim, err);
}

static const struct stream_events shim_events = {
    .on_read = shim_on_read,
    .on_eof = shim_on_eof,
    .on_drained = shim_on_drained,
    .on_error = shim_on_error,
};

static void shim_write_sizes(struct shim *shim)
{
    static const size_t sizes[] = {1, 255, 256, 257, 16383, 16384, 16385, 32767, 32768, 32769};
    static uint8_t data[32769];

    memset(data, 0x42, sizeof(data));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        shim_write(shim, bytes_of(data, sizes[i]));
}

/* What tls_info says must be what was negotiated. */
static void shim_check_info(struct shim *shim)
{
    struct tls_info info = tls_info(shim->tls);

    if (shim->version == NULL || strcmp(info.version, shim->version) != 0 ||
        strcmp(info.cipher, shim->cipher) != 0)
        shim_end(shim, "tls_info is not what was negotiated");
}

/* At the end of a connection that went in order: BoringSSL's session is gone where our record layer
 * took over, and what it had negotiated is still known. */
static void shim_check_end(struct shim *shim)
{
    bool ours = shim->flags.records != TLS_RECORDS_LIBRARY && shim->version != NULL &&
                strcmp(shim->version, "TLSv1.3") == 0;

    shim->over = false; /* what is found now counts as well */
    shim_check_info(shim);
    if (ours != (tls_ssl(shim->tls) == NULL))
        shim_end(shim, "not the record layer that was asked for");
}

static void shim_on_handshake(void *arg, err_t err)
{
    struct shim *shim = arg;

    shim_check(shim, err);
    if (shim->over)
        return;
    shim_check_info(shim);
    stream_set_events(shim->tls, &shim_events, shim);
    if (shim->flags.write_different_record_sizes)
        shim_write_sizes(shim);
    else if (shim->flags.shim_writes_first)
        shim_write(shim, bytes_of_str("hello"));
    if (shim->over)
        return;
    if (shim->flags.shim_shuts_down) {
        shim_check(shim, stream_shutdown(shim->tls));
        if (!shim->over && !shim->flags.check_close_notify) {
            shim_end_drained(shim);
            return;
        }
    }
    if (!shim->over)
        stream_read_start(shim->tls);
}

/* What was negotiated is looked at inside the handshake: the SSL may be gone after it. */

static bool shim_is_text(const char *expected, const void *got, size_t len)
{
    return expected == NULL || bytes_equal_str(bytes_of(got, len), expected);
}

static bool shim_is_number(uint16_t expected, int got)
{
    return expected == 0 || expected == got;
}

static const char *shim_mismatch(const struct flags *flags, const SSL *ssl)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    const uint8_t *alpn;
    unsigned alpn_len;

    SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
    if (!shim_is_number(flags->expect_version, SSL_version(ssl)))
        return "version is not the one expected";
    if (!shim_is_number(flags->expect_curve_id, SSL_get_curve_id(ssl)))
        return "group is not the one expected";
    if (!shim_is_number(flags->expect_peer_signature_algorithm,
                        SSL_get_peer_signature_algorithm(ssl)))
        return "signature algorithm is not the one expected";
    if (!shim_is_text(flags->expect_alpn, alpn, alpn_len))
        return "ALPN is not the one expected";
    if (!shim_is_text(flags->expect_server_name, name, name != NULL ? strlen(name) : 0))
        return "server name is not the one expected";
    if ((flags->expect_hrr && !SSL_used_hello_retry_request(ssl)) ||
        (flags->expect_no_hrr && SSL_used_hello_retry_request(ssl)))
        return "HelloRetryRequest is not as expected";
    return NULL;
}

static int shim_index;

static void shim_on_info(const SSL *ssl, int type, int value)
{
    struct shim *shim = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), shim_index);
    const char *mismatch;

    (void)value;
    if (type != SSL_CB_HANDSHAKE_DONE)
        return;
    shim->version = SSL_get_version(ssl);
    shim->cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl));
    mismatch = shim_mismatch(&shim->flags, ssl);
    if (mismatch != NULL)
        shim_end(shim, mismatch);
}

static enum ssl_verify_result_t shim_on_verify(SSL *ssl, uint8_t *out_alert)
{
    const struct shim *shim = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), shim_index);

    if (!shim->flags.use_custom_verify_callback) /* the older way to refuse has another alert */
        *out_alert = SSL_AD_HANDSHAKE_FAILURE;
    return shim->flags.verify_fail ? ssl_verify_invalid : ssl_verify_ok;
}

static int shim_on_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                        unsigned in_len, void *arg)
{
    const struct shim *shim = arg;

    (void)ssl;
    (void)in;
    (void)in_len;
    *out = (const uint8_t *)shim->flags.select_alpn;
    *out_len = (uint8_t)strlen(shim->flags.select_alpn);
    return SSL_TLSEXT_ERR_OK;
}

/* The context: what is no matter of this flag or that is as in certs/tls_ctx.c. */

static bool shim_set_curves(SSL_CTX *ctx, const struct flags_list *curves)
{
    static const struct {
        uint16_t id;
        const char *name;
    } names[] = {{21, "P-224"}, {23, "P-256"},  {24, "P-384"},
                 {25, "P-521"}, {29, "X25519"}, {0x6399, "X25519KYBER"}};
    CLEANUP(mem_freep) char *text = mem_strdup("");

    for (size_t i = 0; i < curves->num; i++) {
        const char *name = NULL;
        char *longer;

        for (size_t j = 0; j < ARRAY_LEN(names); j++)
            if (names[j].id == curves->items[i])
                name = names[j].name;
        if (name == NULL)
            return false;
        longer = mem_printf("%s%s%s", text, i > 0 ? ":" : "", name);
        mem_free(text);
        text = longer;
    }
    return curves->num == 0 || SSL_CTX_set1_curves_list(ctx, text) == 1;
}

static bool shim_set_versions(SSL_CTX *ctx, const struct flags *flags)
{
    SSL_CTX_set_options(ctx, (flags->no_tls1 ? SSL_OP_NO_TLSv1 : 0u) |
                                 (flags->no_tls11 ? SSL_OP_NO_TLSv1_1 : 0u) |
                                 (flags->no_tls12 ? SSL_OP_NO_TLSv1_2 : 0u) |
                                 (flags->no_tls13 ? SSL_OP_NO_TLSv1_3 : 0u));
    return (flags->min_version == 0 ||
            SSL_CTX_set_min_proto_version(ctx, flags->min_version) == 1) &&
           (flags->max_version == 0 || SSL_CTX_set_max_proto_version(ctx, flags->max_version) == 1);
}

static bool shim_set_names(SSL_CTX *ctx, struct shim *shim)
{
    const char *offered = shim->flags.advertise_alpn;

    if (shim->flags.select_alpn != NULL)
        SSL_CTX_set_alpn_select_cb(ctx, shim_on_alpn, shim);
    return offered == NULL || /* 0 is success here, and here alone */
           SSL_CTX_set_alpn_protos(ctx, (const uint8_t *)offered, (unsigned)strlen(offered)) == 0;
}

static bool shim_set_algorithms(SSL_CTX *ctx, const struct flags *flags)
{
    const struct flags_list *verify = &flags->verify_prefs;
    const struct flags_list *sign = &flags->signing_prefs;

    if (flags->cipher != NULL || flags->server_preference)
        SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    return SSL_CTX_set_strict_cipher_list(ctx, flags->cipher != NULL ? flags->cipher : "ALL") ==
               1 &&
           (verify->num == 0 ||
            SSL_CTX_set_verify_algorithm_prefs(ctx, verify->items, verify->num) == 1) &&
           (sign->num == 0 ||
            SSL_CTX_set_signing_algorithm_prefs(ctx, sign->items, sign->num) == 1) &&
           shim_set_curves(ctx, &flags->curves);
}

static bool shim_set_identity(SSL_CTX *ctx, const struct flags *flags)
{
    int verify = SSL_VERIFY_NONE;

    if (flags->require_any_client_certificate)
        verify = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    if (flags->verify_peer)
        verify = SSL_VERIFY_PEER;
    SSL_CTX_set_custom_verify(ctx, verify, shim_on_verify);
    return (flags->cert_file == NULL ||
            SSL_CTX_use_certificate_chain_file(ctx, flags->cert_file) == 1) &&
           (flags->key_file == NULL ||
            SSL_CTX_use_PrivateKey_file(ctx, flags->key_file, SSL_FILETYPE_PEM) == 1);
}

static bool shim_make_ctx(struct shim *shim)
{
    const struct flags *flags = &shim->flags;
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());

    shim->ctx = ctx;
    shim_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    if (ctx == NULL || SSL_CTX_set_ex_data(ctx, shim_index, shim) != 1)
        return false;
    /* Sessions are not kept, but a client of ours lets servers send tickets: more to pass over. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    if (flags->server || flags->no_ticket)
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_early_data_enabled(ctx, 0);
    SSL_CTX_set_grease_enabled(ctx, flags->enable_grease);
    SSL_CTX_set_permute_extensions(ctx, flags->permute_extensions);
    if (flags->max_cert_list != 0)
        SSL_CTX_set_max_cert_list(ctx, flags->max_cert_list);
    SSL_CTX_set_info_callback(ctx, shim_on_info);
    return SSL_CTX_set_num_tickets(ctx, 0) == 1 && shim_set_versions(ctx, flags) &&
           shim_set_names(ctx, shim) && shim_set_algorithms(ctx, flags) &&
           shim_set_identity(ctx, flags);
}

/* The connection before the handshake. */

static int shim_connect(uint16_t port)
{
    struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons(port)};
    struct sockaddr_in in4 = {
        .sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&in6, sizeof(in6)) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    fd =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* no IPv6 here: the runner does the same */
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&in4, sizeof(in4)) == 0)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static err_t shim_send_id(const struct shim *shim)
{
    const char *text = shim->flags.shim_id;
    uint64_t id = text != NULL ? htole64(strtoull(text, NULL, 10)) : 0;

    if (text != NULL && write(shim->fd, &id, sizeof(id)) != sizeof(id))
        return FAIL_ERRNO(errno);
    return OK;
}

static err_t shim_begin(struct shim *shim)
{
    struct tls_params params = {
        .ctx = shim->ctx,
        .role = shim->flags.server ? TLS_SERVER : TLS_CLIENT,
        .server_name = shim->flags.host_name,
        .records = shim->flags.records,
        .key_update_records = shim->flags.key_update ? 1 : 0,
    };
    struct stream *tcp, *lower;
    err_t err;

    TRY(tcp_new(shim->loop, shim_connect(shim->flags.port), &tcp));
    shim->fd = tcp_fd(tcp);
    shim_check(shim, shim_send_id(shim)); /* the stream has nothing to write before tls_handshake */
    lower = shim->flags.async ? drip_new(tcp) : tcp;
    err = tls_new(lower, &params, &shim->tls);
    if (!err_is_ok(err)) {
        stream_close(lower);
        return err;
    }
    tls_handshake(shim->tls, shim_on_handshake, shim);
    return OK;
}

/* Ends our direction and waits for the runner to end its own. A close with input unread makes the
 * kernel reset the connection, and the runner's next write then fails before it reads our alert. */
static void shim_settle(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    char buf[4096];

    (void)shutdown(fd, SHUT_WR);
    while (poll(&poll_fd, 1, SETTLE_MS) > 0 && read(fd, buf, sizeof(buf)) > 0)
        continue;
}

static void shim_run(struct shim *shim)
{
    shim_check(shim, shim_begin(shim));
    if (shim->tls == NULL)
        return;
    if (!shim->over)
        loop_run(shim->loop);
    if (shim->status == EXIT_SUCCESS)
        shim_check_end(shim);
    shim_settle(shim->fd);
    stream_close(shim->tls);
    loop_run_once(shim->loop, false);
}

int main(int argc, char **argv)
{
    struct shim shim = {.status = EXIT_SUCCESS};
    const char *unknown = flags_parse(argc - 1, argv + 1, &shim.flags);

    if (unknown != NULL) {
        (void)fprintf(stderr, "%s is not known\n", unknown);
        return EXIT_UNIMPLEMENTED;
    }
    if (shim.flags.is_handshaker_supported)
        return puts("No") < 0;
    shim.loop = loop_new(&clock_system);
    if (shim_make_ctx(&shim))
        shim_run(&shim);
    else
        shim_end(&shim, "settings that the library refuses");
    SSL_CTX_free(shim.ctx);
    loop_free(shim.loop);
    (void)fputs("--- DONE ---\n", stderr); /* what a sanitizer says follows */
    return shim.status;
}
