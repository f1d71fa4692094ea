/* tls_compile_ends: the fields that are of one role only, and those of open connections: judged
 * here with the rest, used by who has them. */
#include "certs/cert.h"
#include "certs/tls_profile_impl.h"

static void tls_compile_age(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    if (msg->on_expiry > MORTISE__V1__TLS_PROFILE__ON_EXPIRY__KEEP)
        tls_compile_fault(compile, "on_expiry", "DRAIN, CLOSE or KEEP is wanted");
    if (msg->max_age_s != 0 &&
        (msg->max_age_s < TLS_MAX_AGE_MIN_S || msg->max_age_s > TLS_MAX_AGE_MAX_S))
        tls_compile_fault(compile, "max_age_s", "is not within 10 and 31536000 (a year); 0: none");
}

static void tls_compile_deadlines(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    if (msg->handshake_timeout_ms != 0 && (msg->handshake_timeout_ms < TLS_HANDSHAKE_MIN_MS ||
                                           msg->handshake_timeout_ms > TLS_HANDSHAKE_MAX_MS))
        tls_compile_fault(compile, "handshake_timeout_ms",
                          "is not within 100 and 300000 (5 minutes); 0: as the sidecar's setting");
    if (msg->idle_timeout_s > TLS_IDLE_MAX_S)
        tls_compile_fault(compile, "idle_timeout_s",
                          "is not within 1 and 2592000 (30 days); 0: as the sidecar's setting");
}

/* An address is no name in SNI (RFC 6066 section 3). */
static bool tls_is_server_name(const char *name)
{
    return cert_dns_valid(bytes_of_str(name)) && !cert_is_address(name);
}

static void tls_compile_sni(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    bool omit = msg->send_sni == MORTISE__V1__TLS_PROFILE__SEND_SNI__OMIT;

    if (msg->send_sni > MORTISE__V1__TLS_PROFILE__SEND_SNI__OMIT)
        tls_compile_fault(compile, "send_sni", "SEND or OMIT is wanted");
    if (compile->profile->server) {
        if (msg->server_name[0] != '\0')
            tls_compile_fault(compile, "server_name",
                              "is for client profiles: a server is asked for a name");
        if (msg->send_sni != MORTISE__V1__TLS_PROFILE__SEND_SNI__SEND_SNI_UNSPECIFIED)
            tls_compile_fault(compile, "send_sni",
                              "is for client profiles: a server is asked for a name");
        return;
    }
    if (msg->server_name[0] != '\0' && !tls_is_server_name(msg->server_name))
        tls_compile_fault(compile, "server_name",
                          "is not a DNS name: letters, digits, inner hyphens and dots, no address");
    else if (msg->server_name[0] != '\0' && omit)
        tls_compile_fault(compile, "server_name",
                          "would not be sent: send_sni is OMIT; leave out one of the two");
}

static void tls_compile_client_auth(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    struct tls_profile *profile = compile->profile;

    if (!profile->server &&
        msg->client_auth != MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__CLIENT_AUTH_UNSPECIFIED) {
        tls_compile_fault(compile, "client_auth",
                          "is for server profiles: it is the server that asks for a certificate");
        return;
    }
    if (msg->client_auth > MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE)
        tls_compile_fault(compile, "client_auth", "REQUIRED, OPTIONAL or NONE is wanted");
    else if (msg->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__OPTIONAL)
        profile->client_auth = TLS_CLIENT_OPTIONAL;
    else if (msg->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE)
        profile->client_auth = TLS_CLIENT_NONE;
}

static void tls_compile_skip_verify(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    if (msg->insecure_skip_verify && compile->profile->server)
        tls_compile_fault(compile, "insecure_skip_verify",
                          "is for client profiles: whether clients are asked for a certificate is "
                          "client_auth");
    else
        compile->profile->skip_verify = msg->insecure_skip_verify;
}

static void tls_compile_renegotiation(struct tls_compile *compile,
                                      const Mortise__V1__TlsProfile *msg)
{
    struct tls_profile *profile = compile->profile;
    bool asked = msg->renegotiation == MORTISE__V1__TLS_PROFILE__RENEGOTIATION__ONCE ||
                 msg->renegotiation == MORTISE__V1__TLS_PROFILE__RENEGOTIATION__FREELY;

    if (msg->renegotiation > MORTISE__V1__TLS_PROFILE__RENEGOTIATION__FREELY)
        tls_compile_fault(compile, "renegotiation", "NEVER, ONCE or FREELY is wanted");
    else if (asked && profile->server)
        tls_compile_fault(compile, "renegotiation",
                          "is for client profiles: servers of the TLS library never renegotiate");
    else if (asked && profile->min == TLS1_3_VERSION)
        tls_compile_fault(compile, "renegotiation",
                          "does not exist in TLS1_3, which is min_version: leave it out, or let "
                          "min_version be TLS1_2");
    else if (asked)
        profile->renegotiation = msg->renegotiation == MORTISE__V1__TLS_PROFILE__RENEGOTIATION__ONCE
                                     ? ssl_renegotiate_once
                                     : ssl_renegotiate_freely;
}

err_t tls_profile_weak(const Mortise__V1__TlsProfile *msg, struct buf *out)
{
    size_t num = 0;
    Mortise__V1__TlsVersion min = msg->min_version;

    if (min == MORTISE__V1__TLS_VERSION__TLS1_0 || min == MORTISE__V1__TLS_VERSION__TLS1_1)
        TRY(tls_text_add(out, &num, ", ",
                         min == MORTISE__V1__TLS_VERSION__TLS1_0 ? "min_version TLS1_0"
                                                                 : "min_version TLS1_1"));
    if (msg->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__OPTIONAL)
        TRY(tls_text_add(out, &num, ", ", "client_auth OPTIONAL"));
    if (msg->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE)
        TRY(tls_text_add(out, &num, ", ", "client_auth NONE"));
    if (msg->renegotiation == MORTISE__V1__TLS_PROFILE__RENEGOTIATION__ONCE)
        TRY(tls_text_add(out, &num, ", ", "renegotiation ONCE"));
    if (msg->renegotiation == MORTISE__V1__TLS_PROFILE__RENEGOTIATION__FREELY)
        TRY(tls_text_add(out, &num, ", ", "renegotiation FREELY"));
    if (msg->insecure_skip_verify)
        TRY(tls_text_add(out, &num, ", ", "insecure_skip_verify"));
    return OK;
}

void tls_compile_ends(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    tls_compile_age(compile, msg);
    tls_compile_deadlines(compile, msg);
    tls_compile_sni(compile, msg);
    tls_compile_client_auth(compile, msg);
    tls_compile_skip_verify(compile, msg);
    tls_compile_renegotiation(compile, msg);
}
