#include "control/why_words.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

void why_say(char out[WHY_TEXT_MAX], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(out, WHY_TEXT_MAX, format, args); /* cut where it is too long */
    va_end(args);
}

void why_span(int64_t seconds, char out[WHY_SPAN_MAX])
{
    int64_t s = seconds < 0 ? -seconds : seconds;

    if (s < 120)
        (void)snprintf(out, WHY_SPAN_MAX, "%" PRId64 " s", s);
    else if (s < 7200)
        (void)snprintf(out, WHY_SPAN_MAX, "%" PRId64 " min", s / 60);
    else if (s < 172800)
        (void)snprintf(out, WHY_SPAN_MAX, "%" PRId64 " h", s / 3600);
    else
        (void)snprintf(out, WHY_SPAN_MAX, "%" PRId64 " days", s / 86400);
}

int64_t why_between(int64_t now_s, int64_t then_s)
{
    int64_t between;

    if (!__builtin_sub_overflow(then_s, now_s, &between) && between != INT64_MIN)
        return between;
    return then_s > now_s ? INT64_MAX : -INT64_MAX;
}

/* ${1} is who tells it, ${2} the other end, ${a} its address, ${p} who the peer says to be, ${s}
 * the number as a time, ${t} the application's address, ${y} the policy. */
struct why_error {
    const char *error;
    const char *by_client, *by_server; /* NULL: such as the other one has */
    const char *hint;
};

static const struct why_error why_errors[] = {
    {"connect_refused", "Nobody listens at ${a}, where the sidecar of ${2} says it is.",
     "The application behind ${1} does not listen on ${t}.",
     "is the program running, and is its port the one that the link names?"},
    {"connect_timeout", "${a}, where the sidecar of ${2} says it is, does not answer.",
     "The application behind ${1} does not take connections on ${t}.",
     "a firewall between the two, or a host that is down; is --advertise right?"},
    {"connect_failed", "${a}, where the sidecar of ${2} says it is, cannot be reached.",
     "The application behind ${1} cannot be reached on ${t}.",
     "is there a route from the one host to the other? is --advertise right?"},
    {"resolve_failed", "The name ${a} of the sidecar of ${2} cannot be resolved where ${1} is.",
     NULL, "is --advertise of the server's sidecar a name that the client's host knows?"},
    {"timeout", "The name ${a} of the sidecar of ${2} cannot be resolved where ${1} is.", NULL,
     "is --advertise of the server's sidecar a name that the client's host knows?"},
    {"no_endpoint", "The sidecar of ${1} knows no address of ${2}.", NULL,
     "mortisectl get workloads"},
    {"loop_detected", "The address that the sidecar of ${2} gives is that of ${1} itself.", NULL,
     "is --advertise of the server's sidecar right?"},
    {"handshake_timeout", "${a} takes the connection of ${1}, and then says nothing.",
     "${2} connected to ${1}, and then said nothing.",
     "a firewall that lets only the first packets through, an overloaded host, or a program that "
     "is "
     "not a sidecar"},
    {"tls_not_tls", "What listens at ${a} does not speak TLS: it is no sidecar of ${2}.",
     "Plaintext came to the mTLS port of ${1}: somebody bypasses the client's sidecar.",
     "clients connect to their own sidecar's loopback port (client_port of the link)"},
    {"tls_no_shared", "${1} and ${2} find no TLS version, cipher suite or group in common.",
     "${1} allows nothing of what ${2} offers: no TLS version, cipher suite or group in common.",
     "compare offered and required; mortisectl get profiles"},
    {"tls_protocol",
     "${a} breaks the TLS protocol: it is no sidecar of ${2}, or something between "
     "the two changes bytes.",
     "What ${2} sends breaks the TLS protocol.", "what is between the two hosts?"},
    {"chain_untrusted", "The certificate of ${2} leads to no root that ${1} trusts.",
     "The certificate of ${2} leads to no root that ${1} trusts.",
     "is it a sidecar of this mesh? mortisectl rotate status tells of a rotation that is half "
     "done"},
    {"cert_expired", "The certificate of ${2} expired ${s} ago by the clock of ${1}.",
     "The certificate of ${2} expired ${s} ago by the clock of ${1}.",
     "mortisectl get workloads -o wide shows renewal errors and clocks"},
    {"cert_not_yet_valid", "The certificate of ${2} is valid only in ${s} by the clock of ${1}.",
     "The certificate of ${2} is valid only in ${s} by the clock of ${1}.",
     "mortisectl get workloads -o wide shows the clocks"},
    {"cert_missing", "${2} showed no certificate.",
     "${2} showed no certificate to "
     "${1}.",
     "a program that is not a sidecar connects: it has to go by its own"},
    {"peer_identity", "Who answers at ${a} is ${p}, and not ${2}.", NULL,
     "is that another subsystem's sidecar? is --advertise right?"},
    {"trust_domain", "The certificate that ${2} shows is of another trust domain.",
     "The certificate that ${2} shows is of another trust domain.",
     "is it a sidecar of another mesh?"},
    {"peer_denied", NULL, "${1} lets ${p} not use this link: no link allows it.",
     "every pair that is not declared is denied: mortisectl get links"},
    {"policy_denied", "Policy ${y} denies ${2}, which is ${p}: so says the sidecar of ${1}.",
     "Policy ${y} denies ${2}, which is ${p}: so says the sidecar of ${1}.",
     "if the mesh has no such policy any more: mortisectl get workloads"},
    {"peer_revoked", "${2} is revoked, and ${1} refuses it.",
     "${2} is revoked, and ${1} refuses it.", "mortisectl get revocations; mortisectl lift"},
    {"crl_missing", "${1} has no revocation list of an issuer of ${2}'s certificate.",
     "${1} has no revocation list of an issuer of ${2}'s certificate.",
     "docs/revoke.md tells which issuers need one; mortisectl get crls"},
    {"crl_stale", "The revocation list of an issuer of ${2}'s certificate is stale at ${1}.",
     "The revocation list of an issuer of ${2}'s certificate is stale at ${1}.",
     "hand in a newer one: docs/revoke.md"},
    {"tls_sni_unknown", NULL, "The sidecar of ${1} does not know the link that ${2} asks for.",
     "has it taken the newest configuration? mortisectl get workloads"},
    {"not_found", "The sidecar of ${1} does not know this link.", NULL,
     "has it taken the newest configuration? mortisectl get workloads"},
    {"svid_missing", "The sidecar of ${1} has no certificate that is valid now.", NULL,
     "its log says why (attest, renew_failed)"},
    {"tls_truncated", "${a} ends the connection of ${1} without a word.", NULL,
     "the log of the server's sidecar says why; or something between the two cuts it"},
    {"closed", "${a} ends the connection of ${1} without a word.",
     "${2} ended the connection before its handshake with ${1} was over.",
     "the log of the other sidecar says why; or something between the two cuts it"},
    {"peer_reset", "${a} resets the connection of ${1}.",
     "${2} reset the connection before its handshake with ${1} was over.",
     "at its limits a sidecar sheds connections (mortise_connections_shed_total); or something "
     "between the two cuts them"},
};

/* Alerts of a peer that nobody's record explains. RFC 8446 section 6.2. */
static const struct why_alert {
    int number;
    const char *name, *says; /* ${1} who got it, ${2} who sent it */
} why_alerts[] = {
    {40, "handshake_failure", "${2} finds nothing that it allows in what ${1} offers"},
    {42, "bad_certificate", "${2} cannot read the certificate of ${1}"},
    {43, "unsupported_certificate", "${2} does not take a certificate such as that of ${1}"},
    {44, "certificate_revoked", "${2} says that ${1} is revoked"},
    {45, "certificate_expired",
     "The certificate of ${1} has expired, or is not valid yet, by the "
     "clock of ${2}"},
    {46, "certificate_unknown", "${2} refuses the certificate of ${1}"},
    {47, "illegal_parameter", "${2} refuses what ${1} sends"},
    {48, "unknown_ca", "${2} does not trust the CA of the certificate of ${1}"},
    {49, "access_denied", "${2} denies ${1}"},
    {70, "protocol_version", "${2} allows no TLS version that ${1} offers"},
    {71, "insufficient_security", "${2} wants stronger cipher suites than ${1} offers"},
    {80, "internal_error", "${2} has an error of its own"},
    {112, "unrecognized_name", "The server at ${2} does not know the link that ${1} asks for"},
    {116, "certificate_required", "${2} says that ${1} showed no certificate"},
    {120, "no_application_protocol", "${2} is no sidecar of ours: it refuses the trial's protocol"},
};

/* Fills a template in. */
static void why_fill(const char *template, const struct why_terms *terms,
                     const Mortise__V1__FailedConnection *failure, char out[WHY_TEXT_MAX])
{
    char span[WHY_SPAN_MAX];
    const struct {
        char key;
        const char *text;
    } words[] = {{'1', terms->who},
                 {'2', terms->other},
                 {'a', terms->address},
                 {'p', why_or(failure->peer_id, "somebody")},
                 {'s', span},
                 {'t', terms->target},
                 {'y', why_or(failure->policy, "(unnamed)")}};
    size_t len = 0;

    why_span(failure->error_sub, span);
    while (*template != '\0' && len + 1 < WHY_TEXT_MAX) {
        const char *text = NULL;

        for (size_t i = 0; template[0] == '$' && i < ARRAY_LEN(words); i++) {
            if (template[1] == '{' && template[2] == words[i].key)
                text = words[i].text;
        }
        if (text == NULL) {
            out[len++] = *template ++;
            continue;
        }
        for (; *text != '\0' && len + 1 < WHY_TEXT_MAX; text++)
            out[len++] = *text;
        template += 4;
    }
    out[len] = '\0';
}

static const struct why_alert *why_find_alert(int number)
{
    for (size_t i = 0; i < ARRAY_LEN(why_alerts); i++) {
        if (why_alerts[i].number == number)
            return &why_alerts[i];
    }
    return NULL;
}

static void why_say_alert(const Mortise__V1__FailedConnection *failure,
                          const struct why_terms *terms, struct why_words *words)
{
    const struct why_alert *alert = why_find_alert(failure->error_sub);

    if (alert == NULL) {
        why_say(words->because, "%s ends the handshake with %s (alert %" PRId32 ").", terms->other,
                terms->who, failure->error_sub);
    } else {
        char text[WHY_TEXT_MAX];

        why_fill(alert->says, terms, failure, text);
        why_say(words->because, "%.900s (alert %s).", text, alert->name);
    }
    why_say(words->hint, "the log of the other end's sidecar says why, if it is one");
}

const char *why_error_text(const char *name)
{
    for (int code = 1; code < E_NUM; code++) {
        if (strcmp(err_name((enum err_code)code), name) == 0)
            return err_text((enum err_code)code);
    }
    return name;
}

void why_words_of(const Mortise__V1__FailedConnection *failure, bool by_server,
                  const struct why_terms *terms, struct why_words *out)
{
    const struct why_error *row = NULL;
    const char *template = NULL;

    if (strcmp(failure->error, "tls_alert") == 0) {
        why_say_alert(failure, terms, out);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(why_errors) && row == NULL; i++) {
        if (strcmp(why_errors[i].error, failure->error) == 0)
            row = &why_errors[i];
    }
    if (row != NULL)
        template = by_server ? row->by_server : row->by_client;
    if (template == NULL) {
        why_say(out->because, "%s refuses %s: %s.", terms->who, terms->other,
                why_error_text(failure->error));
        why_say(out->hint, "docs/troubleshoot.md explains %s", failure->error);
        return;
    }
    why_fill(template, terms, failure, out->because);
    why_say(out->hint, "%s", row->hint);
}
