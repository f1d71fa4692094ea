#include "certs/shown.h"

#include <stdio.h>
#include <string.h>

#include <openssl/bytestring.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/tls_names.h"
#include "lib/base/mem.h"

/* --- ClientHello --- */

/* RFC 8701 */
static bool shown_is_grease(uint16_t value)
{
    return (value & 0x0f0f) == 0x0a0a && value >> 8 == (value & 0xff);
}

/* A list of numbers; true: there were more than `max`. */
static bool shown_numbers(CBS list, uint16_t *out, uint8_t *out_num, size_t max)
{
    uint16_t value;

    while (CBS_get_u16(&list, &value)) {
        if (shown_is_grease(value) || value == (SSL3_CK_SCSV & 0xffff))
            continue;
        if (*out_num == max)
            return true;
        out[(*out_num)++] = value;
    }
    return false;
}

static bool shown_extension(const SSL_CLIENT_HELLO *hello, uint16_t type, CBS *out)
{
    const uint8_t *data;
    size_t len;

    if (!SSL_early_callback_ctx_extension_get(hello, type, &data, &len))
        return false;
    CBS_init(out, data, len);
    return true;
}

void shown_hello_note(const SSL_CLIENT_HELLO *hello, struct shown_hello *out)
{
    CBS list, extension;

    *out = (struct shown_hello){.seen = true};
    if (hello->random_len == sizeof(out->random))
        memcpy(out->random, hello->random, sizeof(out->random));
    CBS_init(&list, hello->cipher_suites, hello->cipher_suites_len);
    out->more = shown_numbers(list, out->suites, &out->num_suites, SHOWN_SUITES_MAX);
    if (shown_extension(hello, TLSEXT_TYPE_supported_groups, &extension) &&
        CBS_get_u16_length_prefixed(&extension, &list))
        (void)shown_numbers(list, out->groups, &out->num_groups, SHOWN_GROUPS_MAX);
    if (shown_extension(hello, TLSEXT_TYPE_supported_versions, &extension) &&
        CBS_get_u8_length_prefixed(&extension, &list))
        (void)shown_numbers(list, out->versions, &out->num_versions, SHOWN_VERSIONS_MAX);
    else
        out->versions[out->num_versions++] = hello->version; /* it and what is below */
}

static const char *shown_version_name(uint16_t id)
{
    switch (id) {
    case SSL3_VERSION:
        return "SSL3";
    case TLS1_VERSION:
        return "TLS1_0";
    case TLS1_1_VERSION:
        return "TLS1_1";
    case TLS1_2_VERSION:
        return "TLS1_2";
    case TLS1_3_VERSION:
        return "TLS1_3";
    default:
        return NULL;
    }
}

static const char *shown_suite_name(uint16_t id)
{
    for (size_t i = 0; i < TLS_SUITES_NUM; i++) {
        if (tls_suites[i].id == id)
            return tls_suites[i].name;
    }
    return NULL;
}

static const char *shown_group_name(uint16_t id)
{
    for (size_t i = 0; i < TLS_GROUPS_NUM; i++) {
        if (tls_groups[i].id == id)
            return tls_groups[i].name;
    }
    return NULL;
}

static err_t shown_list(const uint16_t *ids, size_t num, const char *(*name_of)(uint16_t id),
                        struct buf *out)
{
    for (size_t i = 0; i < num; i++) {
        const char *name = name_of(ids[i]);

        if (i > 0)
            TRY(buf_add_str(out, ", "));
        if (name != NULL)
            TRY(buf_add_str(out, name));
        else
            TRY(buf_printf(out, "0x%04x", (unsigned)ids[i]));
    }
    return num > 0 ? OK : buf_add_str(out, "none");
}

err_t shown_hello_text(const struct shown_hello *hello, struct buf *out)
{
    TRY(shown_list(hello->versions, hello->num_versions, shown_version_name, out));
    TRY(buf_add_str(out, "; "));
    TRY(shown_list(hello->suites, hello->num_suites, shown_suite_name, out));
    if (hello->more)
        TRY(buf_add_str(out, ", and more"));
    TRY(buf_add_str(out, "; "));
    return shown_list(hello->groups, hello->num_groups, shown_group_name, out);
}

/* --- key --- */

uint64_t shown_key_number(const uint8_t random[SSL3_RANDOM_SIZE])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    uint64_t number = 0;

    SHA256(random, SSL3_RANDOM_SIZE, digest);
    for (size_t i = 0; i < sizeof(number); i++)
        number = number << 8 | digest[i];
    return number;
}

void shown_key_text(uint64_t number, char out[SHOWN_KEY_MAX])
{
    out[0] = '\0';
    if (number != 0)
        (void)snprintf(out, SHOWN_KEY_MAX, "%016llx", (unsigned long long)number);
}

uint64_t shown_key_of(const SSL *ssl)
{
    static const uint8_t none[SSL3_RANDOM_SIZE];
    uint8_t random[SSL3_RANDOM_SIZE] = {0};

    if (ssl == NULL || SSL_get_client_random(ssl, random, sizeof(random)) != sizeof(random) ||
        memcmp(random, none, sizeof(none)) == 0)
        return 0;
    return shown_key_number(random);
}

/* --- certificate --- */

/* Whether the error is about this certificate of the chain. */
static bool shown_is_faulty(X509 *cert, size_t depth, size_t num, err_t err, int64_t now_s)
{
    switch ((int)err.code) {
    case E_CERT_EXPIRED:
    case E_CERT_NOT_YET_VALID:
        return err_is(cert_check_time(cert, now_s), err.code);
    case E_KEY_WEAK:
        return !err_is_ok(cert_check_key(cert));
    case E_CERT_WEAK_SIGNATURE:
        return !err_is_ok(cert_check_signature(cert));
    case E_CHAIN_UNTRUSTED:
        return depth + 1 == num; /* nobody here knows who signed that */
    default:
        return depth == 0;
    }
}

static bool shown_concerns_cert(err_t err)
{
    switch ((int)err.code) {
    case E_CERT_EXPIRED:
    case E_CERT_NOT_YET_VALID:
    case E_CERT_USAGE:
    case E_CERT_WEAK_SIGNATURE:
    case E_CHAIN_UNTRUSTED:
    case E_CHAIN_INVALID:
    case E_CHAIN_TOO_LONG:
    case E_SAN_NONE:
    case E_SAN_MULTIPLE:
    case E_SAN_SYNTAX:
    case E_SAN_TOO_MANY:
    case E_KEY_WEAK:
    case E_TRUST_DOMAIN:
    case E_PEER_IDENTITY:
    case E_PEER_DENIED:
    case E_POLICY_DENIED:
    case E_PEER_REVOKED:
    case E_CRL_MISSING:
    case E_CRL_STALE:
        return true;
    default:
        return false;
    }
}

static void shown_common_name(X509 *cert, char out[SHOWN_SUBJECT_MAX])
{
    int len = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, out,
                                        SHOWN_SUBJECT_MAX);

    if (len < 0)
        out[0] = '\0';
    for (char *p = out; *p != '\0'; p++) {
        if (*p < ' ' || *p > '~')
            *p = '?';
    }
}

static void shown_subject(X509 *cert, char out[SHOWN_SUBJECT_MAX])
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};

    if (!err_is_ok(cert_names_get(cert, &names)))
        shown_common_name(cert, out);
    else
        (void)snprintf(out, SHOWN_SUBJECT_MAX, "%s",
                       names.uri[0] != '\0' ? names.uri : names.dns[0]);
}

static void shown_fill(X509 *cert, size_t depth, struct shown_cert *out)
{
    CLEANUP(mem_freep) char *issuer = cert_issuer_cn(cert), *serial = NULL;

    *out = (struct shown_cert){.depth = (unsigned)depth};
    shown_subject(cert, out->subject);
    (void)snprintf(out->issuer, sizeof(out->issuer), "%s", issuer);
    if (err_is_ok(cert_serial(cert, &serial)))
        (void)snprintf(out->serial, sizeof(out->serial), "%s", serial);
    if (!err_is_ok(cert_times(cert, &out->not_before, &out->not_after)))
        out->not_before = out->not_after = 0;
}

bool shown_cert_of(const SSL *ssl, err_t err, int64_t now_s, struct shown_cert *out)
{
    BORING_SCOPE;
    const STACK_OF(CRYPTO_BUFFER) *chain = ssl != NULL ? SSL_get0_peer_certificates(ssl) : NULL;
    size_t num = chain != NULL ? sk_CRYPTO_BUFFER_num(chain) : 0;
    bool found = false;

    if (!shown_concerns_cert(err))
        return false;
    for (size_t i = 0; i < num && i < 5; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;

        if (!err_is_ok(cert_parse(sk_CRYPTO_BUFFER_value(chain, i), &cert)))
            continue;
        if (!found || shown_is_faulty(cert, i, num, err, now_s)) {
            shown_fill(cert, i, out); /* where none is, the leaf */
            found = true;
        }
        if (shown_is_faulty(cert, i, num, err, now_s))
            break;
    }
    return found;
}
