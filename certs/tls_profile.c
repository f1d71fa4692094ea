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

bool tls_profile_equal(const struct tls_profile *a, const struct tls_profile *b)
{
    if (a == b)
        return true;
    return a->server == b->server && a->min == b->min && a->max == b->max &&
           a->allowed13 == b->allowed13 && a->num_suites == b->num_suites &&
           a->num_groups == b->num_groups && a->num_sigalgs == b->num_sigalgs &&
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

bool tls_profile_serves(const struct tls_profile *profile, const EVP_PKEY *key)
{
    bool rsa = EVP_PKEY_id(key) == EVP_PKEY_RSA;
    bool p384 = !rsa && EVP_PKEY_bits(key) == 384;
    bool suite = profile->max == TLS1_3_VERSION;
    bool sigalg = false;

    for (size_t i = 0; i < profile->num_suites; i++)
        suite |= (profile->suites[i]->flags & (rsa ? TLS_SUITE_RSA : TLS_SUITE_ECDSA)) != 0;
    for (size_t i = 0; i < profile->num_sigalgs; i++) {
        const struct tls_sigalg *one = profile->sigalgs[i];
        if (one->kind == TLS_SIGALG_ECDSA)
            /* TLS 1.2 takes any hash with any curve; TLS 1.3 does not. */
            sigalg |= !rsa && (p384 == (one->id == 0x0503) || profile->max == TLS1_2_VERSION);
        else
            sigalg |= rsa && (one->kind == TLS_SIGALG_PSS || profile->min == TLS1_2_VERSION);
    }
    return suite && sigalg;
}

/* --- text --- */

static const char *tls_version_name(uint16_t version)
{
    return version == TLS1_3_VERSION ? "TLS1_3" : "TLS1_2";
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
    if (profile->min == TLS1_2_VERSION) {
        num = 0;
        TRY(buf_add_str(out, "suites TLS1_2: "));
        for (size_t i = 0; i < profile->num_suites; i++) {
            TRY(tls_text_add(out, &num, " ", profile->suites[i]->name));
            weak += (profile->suites[i]->flags & TLS_SUITE_GOOD) != TLS_SUITE_GOOD;
        }
        TRY(buf_add_str(out, "\n"));
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
        TRY(buf_add_str(out, "\nclient certificate: required"));
    TRY(buf_add_str(out, "\nresumption: off\nearly data: off\nrenegotiation: never\n"
                         "compression: off\n"));
    return OK;
}

/* --- built in --- */

static Mortise__V1__TlsProfile *tls_profile_default(const char *name, const char *description,
                                                    Mortise__V1__TlsProfile__Role role)
{
    Mortise__V1__TlsProfile *msg = mem_alloc(sizeof *msg);

    mortise__v1__tls_profile__init(msg);
    msg->name = mem_strdup(name);
    msg->description = mem_strdup(description);
    msg->role = role;
    msg->min_version = MORTISE__V1__TLS_VERSION__TLS1_2;
    msg->max_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    return msg;
}

void tls_profile_defaults(Mortise__V1__TlsProfile **out, size_t *out_num)
{
    out[0] = tls_profile_default("default-tls-client", "TLS 1.2 and 1.3, ECDHE with AEAD",
                                 MORTISE__V1__TLS_PROFILE__ROLE__CLIENT);
    out[1] = tls_profile_default("default-tls-server", "TLS 1.2 and 1.3, ECDHE with AEAD",
                                 MORTISE__V1__TLS_PROFILE__ROLE__SERVER);
    *out_num = TLS_PROFILE_DEFAULTS;
}
