#include "certs/tls_profile.h"

#include "certs/boring.h"
#include "certs/tls_profile_impl.h"

struct tls_profile *tls_profile_ref(struct tls_profile *profile)
{
    refs_take(&profile->refs);
    return profile;
}

void tls_profile_unref(struct tls_profile *profile)
{
    if (profile == NULL || !refs_drop(&profile->refs))
        return;
    mem_free(profile->name);
    mem_free(profile->suite_text);
    mem_free(profile->group_text);
    mem_free(profile);
}

const char *tls_profile_name(const struct tls_profile *profile)
{
    return profile->name;
}

bool tls_profile_is_server(const struct tls_profile *profile)
{
    return profile->server;
}

enum tls_client_auth tls_profile_client_auth(const struct tls_profile *profile)
{
    return profile->client_auth;
}

bool tls_profile_skips_verify(const struct tls_profile *profile)
{
    return profile->skip_verify;
}

enum ssl_renegotiate_mode_t tls_profile_renegotiation(const struct tls_profile *profile)
{
    return profile->renegotiation;
}

bool tls_profile_equal(const struct tls_profile *a, const struct tls_profile *b)
{
    if (a == b)
        return true;
    return a->server == b->server && a->client_auth == b->client_auth &&
           a->skip_verify == b->skip_verify && a->renegotiation == b->renegotiation &&
           a->min == b->min && a->max == b->max && a->allowed13 == b->allowed13 &&
           a->num_suites == b->num_suites && a->num_groups == b->num_groups &&
           a->num_sigalgs == b->num_sigalgs &&
           memcmp(a->suites, b->suites, a->num_suites * sizeof a->suites[0]) == 0 &&
           memcmp(a->groups, b->groups, a->num_groups * sizeof a->groups[0]) == 0 &&
           memcmp(a->sigalgs, b->sigalgs, a->num_sigalgs * sizeof a->sigalgs[0]) == 0;
}

/* --- apply --- */

/* TLS 1.3 suites: the library has no list for them, only policies that leave some out, and a choice
 * of its own among the rest. */
static enum ssl_compliance_policy_t tls_13_policy(unsigned offered)
{
    switch (offered) {
    case TLS_13_AES256:
        return ssl_compliance_policy_wpa3_192_202304;
    case TLS_13_AES128 | TLS_13_AES256:
        return ssl_compliance_policy_fips_202205;
    default:
        return ssl_compliance_policy_none;
    }
}

/* The policy comes first: it sets lists and versions, too, which the calls after it replace. */

err_t tls_profile_apply_ctx(const struct tls_profile *profile, SSL_CTX *ctx)
{
    BORING_SCOPE;
    enum ssl_compliance_policy_t policy = tls_13_policy(profile->offered13);

    if (profile->max == TLS1_3_VERSION && policy != ssl_compliance_policy_none &&
        !SSL_CTX_set_compliance_policy(ctx, policy))
        return FAIL(TLS_CONFIG, 0);
    if (!SSL_CTX_set_min_proto_version(ctx, profile->min) ||
        !SSL_CTX_set_max_proto_version(ctx, profile->max) ||
        (profile->suite_text != NULL &&
         !SSL_CTX_set_strict_cipher_list(ctx, profile->suite_text)) ||
        !SSL_CTX_set1_curves_list(ctx, profile->group_text) ||
        !SSL_CTX_set_signing_algorithm_prefs(ctx, profile->sigalg_ids, profile->num_sigalgs) ||
        !SSL_CTX_set_verify_algorithm_prefs(ctx, profile->sigalg_ids, profile->num_sigalgs))
        return FAIL(TLS_CONFIG, 0);
    if (profile->min == TLS1_VERSION)
        SSL_CTX_set_mode(ctx, SSL_MODE_CBC_RECORD_SPLITTING); /* BEAST */
    return OK;
}

err_t tls_profile_apply_ssl(const struct tls_profile *profile, SSL *ssl)
{
    BORING_SCOPE;
    enum ssl_compliance_policy_t policy = tls_13_policy(profile->offered13);

    if (profile->max == TLS1_3_VERSION && policy != ssl_compliance_policy_none &&
        !SSL_set_compliance_policy(ssl, policy))
        return FAIL(TLS_CONFIG, 0);
    if (!SSL_set_min_proto_version(ssl, profile->min) ||
        !SSL_set_max_proto_version(ssl, profile->max) ||
        (profile->suite_text != NULL && !SSL_set_strict_cipher_list(ssl, profile->suite_text)) ||
        !SSL_set1_curves_list(ssl, profile->group_text) ||
        !SSL_set_signing_algorithm_prefs(ssl, profile->sigalg_ids, profile->num_sigalgs) ||
        !SSL_set_verify_algorithm_prefs(ssl, profile->sigalg_ids, profile->num_sigalgs))
        return FAIL(TLS_CONFIG, 0);
    if (profile->min == TLS1_VERSION)
        SSL_set_mode(ssl, SSL_MODE_CBC_RECORD_SPLITTING);
    return OK;
}

bool tls_profile_has_suite(const struct tls_profile *profile, uint16_t id)
{
    for (size_t i = 0; i < TLS_13_NUM; i++) {
        if (tls_suites[i].id == id)
            return (profile->allowed13 & 1U << i) != 0;
    }
    for (size_t i = 0; i < profile->num_suites; i++) {
        if (profile->suites[i]->id == id)
            return true;
    }
    return false;
}

bool tls_profile_has_group(const struct tls_profile *profile, uint16_t id)
{
    for (size_t i = 0; i < profile->num_groups; i++) {
        if (profile->groups[i]->id == id)
            return true;
    }
    return false;
}

err_t tls_profile_allows(const struct tls_profile *profile, const SSL *ssl)
{
    int version = SSL_version(ssl);
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    uint16_t group = SSL_get_curve_id(ssl);

    if (cipher == NULL)
        cipher = SSL_get_pending_cipher(ssl); /* in mid-handshake */
    if (version < profile->min || version > profile->max)
        return FAIL(TLS_NO_SHARED, version);
    if (cipher == NULL || !tls_profile_has_suite(profile, SSL_CIPHER_get_protocol_id(cipher)))
        return FAIL(TLS_NO_SHARED, cipher != NULL ? SSL_CIPHER_get_protocol_id(cipher) : 0);
    if (group != 0 && !tls_profile_has_group(profile, group)) /* 0: RSA key exchange */
        return FAIL(TLS_NO_SHARED, group);
    return OK;
}

bool tls_profile_serves_kind(const struct tls_profile *profile, enum tls_key key)
{
    bool rsa = key == TLS_KEY_RSA;
    bool p384 = key == TLS_KEY_P384;
    /* A client's suites are of the server's key. */
    bool suite = profile->max == TLS1_3_VERSION || !profile->server;
    bool sigalg = false;

    for (size_t i = 0; i < profile->num_suites; i++)
        suite |= (profile->suites[i]->flags & (rsa ? TLS_SUITE_RSA : TLS_SUITE_ECDSA)) != 0;
    for (size_t i = 0; i < profile->num_sigalgs; i++) {
        const struct tls_sigalg *one = profile->sigalgs[i];
        if (one->kind == TLS_SIGALG_ECDSA)
            /* TLS 1.2 takes any hash with any curve; TLS 1.3 does not. */
            sigalg |= !rsa && (p384 == (one->id == 0x0503) || profile->max <= TLS1_2_VERSION);
        else
            sigalg |= rsa && (one->kind == TLS_SIGALG_PSS || profile->min <= TLS1_2_VERSION);
    }
    /* Below TLS 1.2 there is no choice of signature algorithms. */
    return suite && (sigalg || profile->max < TLS1_2_VERSION);
}

bool tls_profile_serves(const struct tls_profile *profile, const EVP_PKEY *key)
{
    if (EVP_PKEY_id(key) == EVP_PKEY_RSA)
        return tls_profile_serves_kind(profile, TLS_KEY_RSA);
    return tls_profile_serves_kind(profile,
                                   EVP_PKEY_bits(key) == 384 ? TLS_KEY_P384 : TLS_KEY_P256);
}

/* --- text --- */

static const char *tls_renegotiation_name(enum ssl_renegotiate_mode_t mode)
{
    if (mode == ssl_renegotiate_once)
        return "once";
    return mode == ssl_renegotiate_freely ? "freely" : "never";
}

static const char *const tls_client_auth_names[] = {"required", "optional", "not asked for"};

const char *tls_version_name(uint16_t version)
{
    switch (version) {
    case TLS1_VERSION:
        return "TLS1_0";
    case TLS1_1_VERSION:
        return "TLS1_1";
    case TLS1_2_VERSION:
        return "TLS1_2";
    default:
        return "TLS1_3";
    }
}

err_t tls_text_add(struct buf *out, size_t *num, const char *separator, const char *name)
{
    TRY(buf_printf(out, "%s%s", (*num)++ > 0 ? separator : "", name));
    return OK;
}

err_t tls_text_suites13(unsigned mask, const char *separator, size_t *num, struct buf *out)
{
    for (size_t i = 0; i < TLS_13_NUM; i++) {
        if ((mask & 1U << i) != 0)
            TRY(tls_text_add(out, num, separator, tls_suites[i].name));
    }
    return OK;
}

/* Those with one of `flags`. */
static err_t tls_describe_suites12(const struct tls_profile *profile, const char *head,
                                   unsigned flags, struct buf *out)
{
    size_t num = 0;

    TRY(buf_add_str(out, head));
    for (size_t i = 0; i < profile->num_suites; i++) {
        if ((profile->suites[i]->flags & flags) != 0)
            TRY(tls_text_add(out, &num, " ", profile->suites[i]->name));
    }
    return buf_add_str(out, "\n");
}

static err_t tls_describe_suites(const struct tls_profile *profile, struct buf *out)
{
    size_t num = 0;
    size_t weak = 0;

    if (profile->max == TLS1_3_VERSION) {
        TRY(buf_add_str(out, "suites TLS1_3: "));
        TRY(tls_text_suites13(profile->offered13, " ", &num, out));
        TRY(buf_add_str(out, "\n"));
        if (profile->offered13 & ~profile->allowed13) {
            num = 0;
            TRY(buf_add_str(out, "refused after negotiation: "));
            TRY(tls_text_suites13(profile->offered13 & ~profile->allowed13, " ", &num, out));
            TRY(buf_add_str(out, "\n"));
        }
        if (profile->allowed13 & ~profile->offered13) {
            num = 0;
            TRY(buf_add_str(out, "allowed but never offered: "));
            TRY(tls_text_suites13(profile->allowed13 & ~profile->offered13, " ", &num, out));
            TRY(buf_add_str(out, "\n"));
        }
    }
    if (profile->min <= TLS1_2_VERSION && profile->max >= TLS1_2_VERSION)
        TRY(tls_describe_suites12(profile, "suites TLS1_2: ", ~0U, out));
    if (profile->min < TLS1_2_VERSION)
        TRY(tls_describe_suites12(profile, "suites below TLS1_2: ", TLS_SUITE_OLD, out));
    if (profile->min <= TLS1_2_VERSION) {
        for (size_t i = 0; i < profile->num_suites; i++)
            weak += (profile->suites[i]->flags & TLS_SUITE_GOOD) != TLS_SUITE_GOOD;
        if (weak > 0)
            TRY(buf_printf(out, "weak suites: %zu without forward secrecy or without AEAD\n",
                           weak));
    }
    return OK;
}

err_t tls_text_versions(uint16_t min, uint16_t max, struct buf *out)
{
    if (min == max)
        return buf_add_str(out, tls_version_name(min));
    return buf_printf(out, "%s-%s", tls_version_name(min), tls_version_name(max));
}

err_t tls_profile_describe(const struct tls_profile *profile, struct buf *out)
{
    TRY(buf_printf(out, "profile: %s\nrole: %s\nversions: ", profile->name,
                   profile->server ? "SERVER" : "CLIENT"));
    TRY(tls_text_versions(profile->min, profile->max, out));
    TRY(buf_add_str(out, "\n"));
    TRY(tls_describe_suites(profile, out));
    TRY(buf_add_str(out, "groups:"));
    for (size_t i = 0; i < profile->num_groups; i++)
        TRY(buf_printf(out, " %s", profile->groups[i]->name));
    TRY(buf_add_str(out, "\nsignature algorithms:"));
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        TRY(buf_printf(out, " %s", profile->sigalgs[i]->name));
    if (profile->server)
        TRY(buf_printf(out, "\nclient certificate: %s",
                       tls_client_auth_names[profile->client_auth]));
    if (profile->skip_verify)
        TRY(buf_add_str(out, "\nserver certificate: not verified"));
    return buf_printf(out,
                      "\nresumption: off\nearly data: off\nrenegotiation: %s\ncompression: off\n",
                      tls_renegotiation_name(profile->renegotiation));
}
