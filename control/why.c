#include "control/why.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/why_words.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

typedef Mortise__V1__WhyLink__State why_state;
#define WHY_WORKS MORTISE__V1__WHY_LINK__STATE__WORKS
#define WHY_FAILS MORTISE__V1__WHY_LINK__STATE__FAILS
#define WHY_UNKNOWN MORTISE__V1__WHY_LINK__STATE__UNKNOWN

static void why_detail(Mortise__V1__WhyLink *out, const char *name, const char *text)
{
    Mortise__V1__WhyDetail *detail = mem_alloc(sizeof(*detail));

    mortise__v1__why_detail__init(detail);
    detail->name = mem_strdup(name);
    detail->text = mem_strdup(text);
    out->details = mem_realloc(out->details, (out->n_details + 1) * sizeof(detail));
    out->details[out->n_details++] = detail;
}

static enum why_side why_other(enum why_side side)
{
    return side == WHY_CLIENT ? WHY_SERVER : WHY_CLIENT;
}

static const char *why_name(const struct why_facts *facts, enum why_side side)
{
    return facts->ends[side].subsystem;
}

/* ---- what is known of the two ends, whatever was tried ---- */

static bool why_no_link(const struct why_facts *facts, struct why_words *words)
{
    const char *client = why_name(facts, WHY_CLIENT), *server = why_name(facts, WHY_SERVER);

    if (facts->link != NULL)
        return false;
    why_say(words->because, "No link lets %s connect to %s%s.", client, server,
            facts->reverse ? "; there is one the other way only" : "");
    why_say(words->hint, "every pair that is not declared is denied: declare a link (mortisectl "
                         "apply), or look whether another one is meant (mortisectl get links)");
    return true;
}

static bool why_revoked(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        if (end->revoked == NULL)
            continue;
        why_say(words->because, "%s is revoked: %s.", end->subsystem, end->revoked);
        why_say(words->hint, "mortisectl get revocations; mortisectl lift");
        return true;
    }
    return false;
}

static bool why_denied(const struct why_facts *facts, struct why_words *words)
{
    if (facts->denied == NULL)
        return false;
    why_say(words->because, "%s", facts->denied);
    why_say(words->hint,
            "mortisectl get policies -o wide; docs/policy.md says how they are judged");
    return true;
}

static bool why_never_there(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned i = 0; i < WHY_SIDES; i++) {
        const struct why_end *end = &facts->ends[i == 0 ? WHY_SERVER : WHY_CLIENT];

        if (end->known)
            continue;
        why_say(words->because, "No sidecar of %s has ever connected.", end->subsystem);
        why_say(words->hint, "start one beside it, with a token of mortisectl token create %s",
                end->subsystem);
        return true;
    }
    return false;
}

static bool why_apart(const struct why_facts *facts, struct why_words *words)
{
    if (facts->apart == NULL)
        return false;
    why_say(words->because, "The two TLS profiles of the link have nothing in common: %s.",
            facts->apart);
    why_say(words->hint, "mortisectl edit profile");
    return true;
}

static bool why_expired(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        for (size_t i = 0; i < end->num_sidecars; i++) {
            const struct why_sidecar *one = &end->sidecars[i];
            char span[WHY_SPAN_MAX];

            if (one->not_after == 0 || one->not_after > facts->now_s)
                continue;
            why_span(why_between(facts->now_s, one->not_after), span);
            why_say(words->because, "The certificate of %s (%.8s) expired %s ago%s%s.",
                    end->subsystem, one->instance, span,
                    one->renewal_error[0] != '\0' ? ", and it cannot renew: " : "",
                    one->renewal_error);
            why_say(words->hint, "the sidecar's log says why it cannot renew (renew_failed)");
            return true;
        }
    }
    return false;
}

/* A configuration that is refused, at one end. */
static bool why_end_refuses(const struct why_end *end, struct why_words *words)
{
    for (size_t i = 0; i < end->num_sidecars; i++) {
        const struct why_sidecar *one = &end->sidecars[i];
        const Mortise__V1__FieldFault *fault;

        if (one->refused == NULL)
            continue;
        fault = one->refused->n_faults > 0 ? one->refused->faults[0] : NULL;
        why_say(words->because,
                "The sidecar of %s (%.8s) refuses configuration %" PRIu64 " and keeps the one "
                "before: %s%s%s.",
                end->subsystem, one->instance, one->refused_version,
                fault != NULL ? fault->path : one->refused->code, fault != NULL ? ": " : "",
                fault != NULL ? fault->message : "");
        why_say(words->hint,
                strcmp(one->refused->code, "config_rollback") == 0
                    ? "the control plane's store is an older copy: mortisectl accept-restore"
                    : "mend that field, or the host that it speaks of; it is asked again at each "
                      "change");
        return true;
    }
    return false;
}

static bool why_refused(const struct why_facts *facts, struct why_words *words)
{
    return why_end_refuses(&facts->ends[WHY_CLIENT], words) ||
           why_end_refuses(&facts->ends[WHY_SERVER], words);
}

static bool why_is_away(const struct why_end *end)
{
    return end->known && end->num_sidecars == 0;
}

static bool why_away(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned i = 0; i < WHY_SIDES; i++) {
        const struct why_end *end = &facts->ends[i == 0 ? WHY_SERVER : WHY_CLIENT];

        if (!why_is_away(end))
            continue;
        why_say(words->because, "No sidecar of %s is connected to the control plane.",
                end->subsystem);
        why_say(words->hint, "is it running? its log says why it cannot connect");
        return true;
    }
    return false;
}

static bool why_not_ready(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        for (size_t i = 0; i < end->num_sidecars; i++) {
            if (end->sidecars[i].ready)
                continue;
            why_say(words->because, "The sidecar of %s (%.8s) is not ready.", end->subsystem,
                    end->sidecars[i].instance);
            why_say(words->hint, "its /readyz page says why");
            return true;
        }
    }
    return false;
}

static const struct why_sidecar *why_wrong_clock(const struct why_end *end)
{
    for (size_t i = 0; i < end->num_sidecars; i++) {
        if (end->sidecars[i].clock_off)
            return &end->sidecars[i];
    }
    return NULL;
}

static bool why_clock(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_sidecar *one = why_wrong_clock(&facts->ends[side]);
        char span[WHY_SPAN_MAX];

        if (one == NULL)
            continue;
        why_span(one->ahead_ms / 1000, span);
        why_say(words->because, "The clock of %s (%.8s) is %s %s the control plane's.",
                facts->ends[side].subsystem, one->instance, span,
                one->ahead_ms < 0 ? "behind" : "ahead of");
        why_say(words->hint, "set the time on that host");
        return true;
    }
    return false;
}

static bool why_half_rotated(const struct why_facts *facts, struct why_words *words)
{
    if (facts->rotation == NULL)
        return false;
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        for (size_t i = 0; i < end->num_sidecars; i++) {
            if (end->sidecars[i].waits == NULL)
                continue;
            why_say(words->because, "A rotation %s is half done: %s (%.8s) %s.", facts->rotation,
                    end->subsystem, end->sidecars[i].instance, end->sidecars[i].waits);
            why_say(words->hint, "mortisectl rotate status");
            return true;
        }
    }
    return false;
}

static bool why_behind(const struct why_facts *facts, struct why_words *words)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        for (size_t i = 0; i < end->num_sidecars; i++) {
            if (!end->sidecars[i].behind || end->sidecars[i].refused != NULL)
                continue;
            why_say(words->because,
                    "The sidecar of %s (%.8s) does not have the newest configuration yet.",
                    end->subsystem, end->sidecars[i].instance);
            why_say(words->hint, "mortisectl get workloads -o wide");
            return true;
        }
    }
    return false;
}

/* By weight. `certain`: with it no handshake succeeds. */
static const struct why_row {
    bool (*says)(const struct why_facts *facts, struct why_words *words);
    bool certain;
    const char *name; /* of the detail, where it does not give the first sentence */
} why_rows[] = {
    {why_no_link, true, "policy"},     {why_revoked, true, "policy"},
    {why_denied, true, "policy"},      {why_never_there, true, "sidecar"},
    {why_apart, true, "profiles"},     {why_expired, true, "certificate"},
    {why_away, false, "sidecar"},      {why_refused, false, "configuration"},
    {why_clock, false, "clock"},       {why_half_rotated, false, "rotation"},
    {why_not_ready, false, "sidecar"}, {why_behind, false, "configuration"},
};

/* ---- what failed ---- */

/* Why a connection failed, who says so, and where the client went. */
struct why_blame {
    const Mortise__V1__FailedConnection *failure; /* NULL: nothing did */
    enum why_side by;
    const char *address;
    bool joined; /* both ends tell of it */
};

/* Says a failure in words. */
static void why_say_failure(const struct why_facts *facts, const struct why_blame *blame,
                            struct why_words *words)
{
    const Mortise__V1__FailedConnection *failure = blame->failure;
    bool stranger = blame->by == WHY_SERVER && !blame->joined && failure->peer_id[0] == '\0';
    char somebody[WHY_TEXT_MAX];
    const struct why_terms terms = {
        .who = why_name(facts, blame->by),
        .other = stranger ? somebody : why_name(facts, why_other(blame->by)),
        .address = why_or(blame->address, why_or(failure->peer_address, "its address")),
        .target = why_or(facts->target, why_or(failure->local_address, "the link's server_port")),
    };

    why_say(somebody, "a client at %.200s", why_or(failure->peer_address, "an unknown address"));
    why_words_of(failure, blame->by == WHY_SERVER, &terms, words);
}

static bool why_error_is(const Mortise__V1__FailedConnection *failure, const char *error)
{
    return strcmp(failure->error, error) == 0;
}

/* The peer ended it: it knows why. */
static bool why_told_by_peer(const Mortise__V1__FailedConnection *failure)
{
    return why_error_is(failure, "tls_alert") || why_error_is(failure, "tls_truncated") ||
           why_error_is(failure, "closed") || why_error_is(failure, "peer_reset");
}

static bool why_share_key(const Mortise__V1__FailedConnection *a,
                          const Mortise__V1__FailedConnection *b)
{
    for (size_t i = 0; i < a->n_keys; i++) {
        for (size_t j = 0; j < b->n_keys; j++) {
            if (strcmp(a->keys[i], b->keys[j]) == 0)
                return true;
        }
    }
    return false;
}

/* What the other end remembers of the same connection. */
static const Mortise__V1__FailedConnection *
why_counterpart(const struct why_end *end, const Mortise__V1__FailedConnection *failure)
{
    for (size_t i = 0; i < end->num_failures; i++) {
        if (why_share_key(end->failures[i], failure))
            return end->failures[i];
    }
    return NULL;
}

/* Of the two records of a failed connection, the one of who refused. */
static void why_join(const struct why_facts *facts, struct why_blame *blame)
{
    const Mortise__V1__FailedConnection *other =
        why_counterpart(&facts->ends[why_other(blame->by)], blame->failure);

    if (other == NULL || !why_told_by_peer(blame->failure) || why_told_by_peer(other))
        return;
    blame->failure = other;
    blame->joined = true;
    blame->by = why_other(blame->by);
    if (blame->by == WHY_SERVER)
        blame->address = other->peer_address;
}

/* The last failure that is remembered of either side. */
static void why_last(const struct why_facts *facts, struct why_blame *blame)
{
    for (unsigned side = 0; side < WHY_SIDES; side++) {
        const struct why_end *end = &facts->ends[side];

        for (size_t i = 0; i < end->num_failures; i++) {
            if (blame->failure != NULL && end->failures[i]->last_ms <= blame->failure->last_ms)
                continue;
            blame->failure = end->failures[i];
            blame->by = (enum why_side)side;
            blame->address = end->failures[i]->peer_address;
        }
    }
    if (blame->failure != NULL)
        why_join(facts, blame);
}

/* ---- a trial ---- */

struct why_trial {
    size_t num_ok, num_failed; /* endpoints, of all who tried */
    size_t num_without;        /* sidecars that reached none */
    const Mortise__V1__ProbeResult *ok;
    struct why_blame blame; /* the first failure; error alone: it made no trial */
    const char *error;
};

static void why_count(struct why_trial *trial, const struct why_probe *probe)
{
    const Mortise__V1__ProbeAnswer *answer = probe->answer;
    size_t ok = 0;

    for (size_t i = 0; i < answer->n_results; i++) {
        const Mortise__V1__ProbeResult *result = answer->results[i];

        if (result->failure == NULL) {
            ok++;
            if (trial->ok == NULL)
                trial->ok = result;
        } else if (trial->blame.failure == NULL) {
            trial->blame = (struct why_blame){
                .failure = result->failure, .by = WHY_CLIENT, .address = result->address};
        }
    }
    trial->num_ok += ok;
    trial->num_failed += answer->n_results - ok;
    trial->num_without += ok == 0;
    if (answer->n_results == 0 && trial->error == NULL)
        trial->error = why_or(answer->error, "no_endpoint");
}

static struct why_trial why_try(const struct why_facts *facts)
{
    struct why_trial trial = {.num_ok = 0};

    for (size_t i = 0; i < facts->num_probes; i++) {
        if (facts->probes[i].error == NULL)
            why_count(&trial, &facts->probes[i]);
    }
    if (trial.blame.failure != NULL)
        why_join(facts, &trial.blame);
    return trial;
}

/* A failed trial, where what is known of the ends says more than the error does. */
static bool why_known_better(const struct why_facts *facts, const struct why_blame *blame,
                             struct why_words *words)
{
    const Mortise__V1__FailedConnection *failure = blame->failure;
    const struct why_end *server = &facts->ends[WHY_SERVER];

    if (strncmp(failure->error, "connect_", 8) == 0 && blame->by == WHY_CLIENT &&
        why_is_away(server)) {
        why_say(words->because,
                "No sidecar of %s is connected to the control plane, and nobody answers at %s.",
                server->subsystem, why_or(blame->address, "its address"));
        why_say(words->hint, "is it running? its log says why it cannot connect");
        return true;
    }
    if (why_error_is(failure, "not_found"))
        return why_end_refuses(&facts->ends[WHY_CLIENT], words) || why_behind(facts, words);
    if (why_error_is(failure, "svid_missing"))
        return why_clock(facts, words) || why_expired(facts, words);
    if (why_error_is(failure, "no_endpoint"))
        return why_never_there(facts, words);
    if (why_error_is(failure, "tls_sni_unknown") ||
        (why_error_is(failure, "tls_alert") && failure->error_sub == 112))
        return why_end_refuses(server, words) || why_behind(facts, words);
    if (why_error_is(failure, "chain_untrusted"))
        return why_half_rotated(facts, words);
    if (why_error_is(failure, "peer_revoked"))
        return why_revoked(facts, words);
    if (why_error_is(failure, "policy_denied") ||
        (why_error_is(failure, "tls_alert") && failure->error_sub == 49))
        return why_denied(facts, words);
    return false;
}

/* Certificates and a wrong clock: both are told. */
static void why_add_clock(const struct why_facts *facts, const struct why_blame *blame,
                          struct why_words *words)
{
    struct why_words clock;
    char text[WHY_TEXT_MAX];

    if ((!why_error_is(blame->failure, "cert_expired") &&
         !why_error_is(blame->failure, "cert_not_yet_valid")) ||
        !why_clock(facts, &clock))
        return;
    why_say(text, "%s", words->because);
    /* "The clock of …: the certificate …" */
    clock.because[strlen(clock.because) - 1] = '\0';
    why_say(words->because, "%.500s: t%.500s", clock.because, text + 1);
    why_say(words->hint, "%s", clock.hint);
}

static void why_say_blame(const struct why_facts *facts, const struct why_blame *blame,
                          struct why_words *words)
{
    if (why_known_better(facts, blame, words))
        return;
    why_say_failure(facts, blame, words);
    why_add_clock(facts, blame, words);
}

/* ---- the whole ---- */

static void why_tell_certificate(Mortise__V1__WhyLink *out, const struct why_facts *facts,
                                 const struct why_blame *blame)
{
    const Mortise__V1__FailedCertificate *cert = blame->failure->certificate;
    char text[WHY_TEXT_MAX], from[WHY_SPAN_MAX], until[WHY_SPAN_MAX];

    if (cert == NULL)
        return;
    why_span(why_between(facts->now_s, cert->not_before), from);
    why_span(why_between(facts->now_s, cert->not_after), until);
    why_say(text, "%.200s%s, serial %.64s, of %.200s; valid %s %s, %s %s; refused: %s",
            why_or(cert->subject, "(no name)"), cert->depth > 0 ? " (a CA)" : "",
            why_or(cert->serial, "?"), why_or(cert->issuer, "(no name)"),
            cert->not_before > facts->now_s ? "only in" : "for", from,
            cert->not_after > facts->now_s ? "for another" : "until", until,
            why_error_text(blame->failure->error));
    why_detail(out, "certificate", text);
}

static void why_tell_failure(Mortise__V1__WhyLink *out, const struct why_facts *facts,
                             const struct why_blame *blame)
{
    const Mortise__V1__FailedConnection *failure = blame->failure;
    char text[WHY_TEXT_MAX];

    if (failure == NULL)
        return;
    if (failure->number > 1)
        why_say(text, "by the sidecar of %s: %s, %" PRIu64 " times", why_name(facts, blame->by),
                failure->error, failure->number);
    else
        why_say(text, "by the sidecar of %s: %s", why_name(facts, blame->by), failure->error);
    why_detail(out, "told", text);
    why_tell_certificate(out, facts, blame);
    if (failure->offered[0] != '\0')
        why_detail(out, "heard", failure->offered);
    if (failure->server_name[0] != '\0')
        why_detail(out, "server name", failure->server_name);
}

static void why_copy_failures(const struct why_end *end, Mortise__V1__FailedConnection ***out,
                              size_t *out_num)
{
    size_t num = end->num_failures < WHY_FAILURES_SHOWN ? end->num_failures : WHY_FAILURES_SHOWN;

    if (num == 0)
        return;
    *out = mem_array(num, sizeof(**out));
    for (size_t i = 0; i < num; i++)
        (*out)[i] = (Mortise__V1__FailedConnection *)pb_clone(&end->failures[i]->base);
    *out_num = num;
}

/* The first sentence by the rows, and the rest of them as details. */
static const struct why_row *why_tell_rows(const struct why_facts *facts, struct why_words *words,
                                           bool taken, Mortise__V1__WhyLink *out)
{
    const struct why_row *first = NULL;

    for (size_t i = 0; i < ARRAY_LEN(why_rows); i++) {
        struct why_words also;

        if (!why_rows[i].says(facts, &also))
            continue;
        if (first == NULL)
            first = &why_rows[i];
        if (!taken) {
            *words = also;
            taken = true;
        } else if (strcmp(also.because, words->because) != 0) {
            why_detail(out, why_rows[i].name, also.because);
        }
    }
    return first;
}

static void why_say_works(const struct why_facts *facts, const struct why_trial *trial,
                          struct why_words *words)
{
    why_say(words->because, "%s reaches %s over %s: tried now, %s with %s.",
            why_name(facts, WHY_CLIENT), why_name(facts, WHY_SERVER), facts->link,
            trial->ok->tls_version, trial->ok->cipher);
    words->hint[0] = '\0';
}

/* What failed last, although it works now. */
static void why_tell_before(const struct why_facts *facts, Mortise__V1__WhyLink *out)
{
    struct why_blame blame = {.failure = NULL, .address = ""};
    struct why_words words;
    char text[WHY_TEXT_MAX], span[WHY_SPAN_MAX];

    why_last(facts, &blame);
    if (blame.failure == NULL)
        return;
    why_say_failure(facts, &blame, &words);
    why_span(facts->now_s - blame.failure->last_ms / 1000, span);
    why_say(text, "%s ago: %.900s", span, words.because);
    why_detail(out, "failed before", text);
}

static why_state why_judge_trial(const struct why_facts *facts, const struct why_trial *trial,
                                 struct why_words *words, Mortise__V1__WhyLink *out)
{
    if (trial->num_without == 0 && facts->listens == MORTISE__V1__PROBE_ANSWER__LISTENS__NO) {
        why_say(words->because, "The application behind %s does not listen on %s.",
                why_name(facts, WHY_SERVER), facts->target);
        why_say(words->hint, "is it running, and is its port the link's server_port? between the "
                             "sidecars all is well");
        return WHY_FAILS;
    }
    if (trial->num_without == 0) {
        char text[128];

        why_say_works(facts, trial, words);
        if (trial->num_failed > 0) {
            (void)snprintf(text, sizeof(text), "%zu of %zu endpoints do not answer as they should",
                           trial->num_failed, trial->num_failed + trial->num_ok);
            why_detail(out, "but", text);
            why_tell_failure(out, facts, &trial->blame);
        }
        why_tell_before(facts, out);
        return WHY_WORKS;
    }
    if (trial->blame.failure != NULL) {
        why_say_blame(facts, &trial->blame, words);
        why_tell_failure(out, facts, &trial->blame);
    } else {
        Mortise__V1__FailedConnection none = MORTISE__V1__FAILED_CONNECTION__INIT;
        const struct why_blame blame = {.failure = &none, .by = WHY_CLIENT, .address = ""};

        none.error = (char *)(uintptr_t)trial->error; /* only read */
        why_say_blame(facts, &blame, words);
    }
    return WHY_FAILS;
}

static why_state why_judge_known(const struct why_facts *facts, struct why_words *words,
                                 Mortise__V1__WhyLink *out)
{
    const struct why_row *row = why_tell_rows(facts, words, false, out);
    struct why_blame blame = {.failure = NULL, .address = ""};

    why_last(facts, &blame);
    if (blame.failure != NULL) {
        struct why_words last;
        char text[WHY_TEXT_MAX], span[WHY_SPAN_MAX];

        why_say_blame(facts, &blame, &last);
        why_span(facts->now_s - blame.failure->last_ms / 1000, span);
        why_say(text, "%s ago: %.900s", span, last.because);
        if (row == NULL) {
            why_say(words->because, "It failed %s", text);
            why_say(words->hint, "%s", last.hint);
        } else {
            why_detail(out, "failed", text);
        }
        why_tell_failure(out, facts, &blame);
    } else if (row == NULL) {
        why_say(words->because,
                "Nothing that is known stands against it, but it was not tried%s%s.",
                facts->not_probed != NULL ? ": " : "",
                facts->not_probed != NULL ? facts->not_probed : "");
        words->hint[0] = '\0';
    }
    return row != NULL && row->certain ? WHY_FAILS : WHY_UNKNOWN;
}

void why_judge(const struct why_facts *facts, Mortise__V1__WhyLink *out)
{
    struct why_trial trial = why_try(facts);
    struct why_words words = {.because = ""};
    bool tried = trial.num_ok + trial.num_failed > 0 || trial.error != NULL;

    out->link = mem_strdup(facts->link != NULL ? facts->link : "");
    if (tried) {
        out->state = why_judge_trial(facts, &trial, &words, out);
        (void)why_tell_rows(facts, &words, true, out);
    } else {
        out->state = why_judge_known(facts, &words, out);
        if (facts->not_probed != NULL && out->state == WHY_UNKNOWN)
            why_detail(out, "not tried", facts->not_probed);
    }
    if (facts->offered != NULL)
        why_detail(out, "offered", facts->offered);
    if (facts->required != NULL)
        why_detail(out, "required", facts->required);
    out->because = mem_strdup(words.because);
    if (out->state != WHY_WORKS)
        out->hint = mem_strdup(words.hint);
    why_copy_failures(&facts->ends[WHY_CLIENT], &out->client_failures, &out->n_client_failures);
    why_copy_failures(&facts->ends[WHY_SERVER], &out->server_failures, &out->n_server_failures);
}
