#include "proxy/control_mode.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "certs/renew.h"
#include "certs/revoke.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/net/resolve.h"
#include "lib/rpc/pb.h"
#include "proxy/discovery.h"
#include "proxy/identity.h"
#include "proxy/keystores.h"
#include "proxy/plaintext.h"
#include "proxy/question.h"
#include "proxy/uplink.h"
#include "proxy/watch.h"

#define CONTROL_ROOTS_MAX ((size_t)1 << 20)
#define CONTROL_RESOLVE_MS 5000
#define CONTROL_RESPONSE_ROOTS_MAX 64
#define CONTROL_MOVE_MAX_MS 30000 /* to a connection under the new certificate */
#define CONTROL_ALARM_ERROR 90
#define CONTROL_SETTLE_MS 2000 /* between the two files of a keystore */
#define CONTROL_SAVE_MS 100    /* changes that come together are saved together */
#define CONTROL_SAVE_REST_MS 1000
#define CONTROL_ACCESS_MS 250 /* between batches of the access log, unless a whole one waits */
#define CONTROL_ACCESS_MAX_MS 60000 /* the control plane cannot ask for more patience than that */
#define CONTROL_PLAINTEXT_US ((uint64_t)20 * 1000000) /* less than a mesh may call quiet */

struct control_mode {
    struct source_params params;
    struct uplink *uplink;
    struct identity *identity;
    struct discovery *discovery; /* once there is a certificate */
    struct questions *questions;
    struct probes *probes;
    /* Connections that re-checks ended, for the status. */
    Mortise__V1__ReasonCount ended[SURVEY_NUM_ENDS], *ended_list[SURVEY_NUM_ENDS];
    size_t num_ended;
    uint64_t ended_told; /* all together */
    uint64_t plaintext_told;
    uint64_t plaintext_told_us;           /* when, while somebody is there: again after a while */
    Mortise__V1__SidecarStatus plaintext; /* only that list of it, as told last */
    bool access_under_way;    /* a batch of the access log that has no answer on this stream yet */
    struct timer access_rest; /* until the next one */
    struct addr inbound_listen;
    struct resolve *resolving; /* of the address to advertise */
    struct timer moving;       /* to a connection under the new certificate */
    char *instance;
    char *advertise; /* "" : unknown */
    struct svid *svid;
    struct bundle *roots;               /* the mesh's, as told last */
    Mortise__V1__SidecarConfig *config; /* in force, or cached and without a certificate; or NULL */
    struct keystores keystores;         /* of `config` */
    struct watch_files files;           /* that keystores are: of `config`, and of one refused */
    struct watch *watch;
    struct timer reread;
    uint64_t changed_ms; /* when files were seen to change that are not taken yet; 0: none */
    bool waits;          /* a configuration was refused, and other files may mend that */
    Mortise__V1__KeystoreStatus **files_told;
    size_t num_files_told;
    uint64_t version;
    char *rejected;
    struct revoke_set *cached_revoked; /* by `config`, while nothing is in force yet; or NULL */
    struct discovery_point seen;       /* with `version` */
    struct cache *cache;               /* NULL: all is in memory */
    int64_t cached_at;                 /* `config` was saved then; 0: the control plane sent it */
    struct timer save;
    uint64_t saved_ms;
    unsigned alarm; /* as told last */
};

err_t control_mode_read_roots(const struct config *settings, struct faults *faults,
                              struct bundle **out)
{
    CLEANUP(buf_fini) struct buf pem = {.data = NULL};
    err_t err = file_read(settings->trust_bundle, CONTROL_ROOTS_MAX, &pem);

    if (!err_is_ok(err)) {
        faults_add(faults, "--trust-bundle", "%s: %s: %s", settings->trust_bundle,
                   err_text(err.code), strerror(err.sub));
        return faults_err(faults);
    }
    err = bundle_of_pem(buf_view(&pem), settings->trust_domain, out);
    if (!err_is_ok(err)) {
        faults_add(faults, "--trust-bundle", "%s: %s (%s)", settings->trust_bundle,
                   err_text(err.code), err_name(err.code));
        return faults_err(faults);
    }
    return OK;
}

/* ---- cache ---- */

struct control_ders {
    ProtobufCBinaryData *items; /* all owned */
    size_t num;
};

static void control_ders_fini(struct control_ders *ders)
{
    for (size_t i = 0; i < ders->num; i++)
        OPENSSL_free(ders->items[i].data);
    mem_free(ders->items);
}

static struct control_ders control_ders_of(const struct bundle *bundle)
{
    struct control_ders ders = {.items = mem_array(bundle->num, sizeof(*ders.items))};

    for (size_t i = 0; i < bundle->num; i++) {
        uint8_t *der = NULL;
        int len = i2d_X509(bundle->certs[i], &der);

        CHECK(len > 0); /* it was parsed from DER */
        ders.items[ders.num++] = (ProtobufCBinaryData){.data = der, .len = (size_t)len};
    }
    return ders;
}

static void control_save(void *arg)
{
    struct control_mode *mode = arg;
    Mortise__V1__SidecarCache msg = MORTISE__V1__SIDECAR_CACHE__INIT;
    Mortise__V1__Point seen = MORTISE__V1__POINT__INIT;
    ProtobufCBinaryData chain[SVID_CHAIN_MAX];
    CLEANUP(control_ders_fini) struct control_ders roots = control_ders_of(mode->roots);
    err_t err;

    timer_stop(mode->params.loop, &mode->save);
    msg.saved_at = clock_wall_s(mode->params.clock);
    msg.trust_domain = mode->params.settings->trust_domain;
    msg.spiffe_id = mode->svid->spiffe_id;
    msg.not_after = mode->svid->not_after;
    for (size_t i = 0; i < mode->svid->num_chain; i++)
        chain[i] = (ProtobufCBinaryData){
            .data = (uint8_t *)(uintptr_t)CRYPTO_BUFFER_data(mode->svid->chain[i]), /* only read */
            .len = CRYPTO_BUFFER_len(mode->svid->chain[i]),
        };
    msg.chain = chain;
    msg.n_chain = mode->svid->num_chain;
    msg.trust_roots = roots.items;
    msg.n_trust_roots = roots.num;
    msg.certificate_epoch = identity_epoch(mode->identity);
    msg.version = mode->version;
    msg.config = mode->config;
    if (mode->config != NULL) {
        msg.keystore_keys = keystores_keys(&mode->keystores, mode->config, &msg.n_keystore_keys);
    }
    seen.era = mode->seen.era;
    seen.run = mode->seen.run;
    seen.revision = mode->seen.revision;
    msg.seen = &seen;
    err = cache_save(mode->cache, mode->svid, &msg);
    keystores_keys_free(msg.keystore_keys, msg.n_keystore_keys);
    mode->saved_ms = loop_now_ms(mode->params.loop);
    stats_add(mode->params.stats, err_is_ok(err) ? STAT_CACHE_SAVED : STAT_CACHE_FAILED, 1);
    if (!err_is_ok(err))
        log_warn("cache", "not_saved", LOG_ERR("error", err));
}

/* What is trusted or denied is on the disk before it is acknowledged; all else waits a moment. */
static void control_save_soon(struct control_mode *mode, bool at_once)
{
    uint64_t since_ms = loop_now_ms(mode->params.loop) - mode->saved_ms;

    if (mode->cache == NULL || mode->svid == NULL)
        return;
    if (at_once)
        control_save(mode);
    else if (!timer_is_on(&mode->save))
        timer_start(mode->params.loop, &mode->save,
                    mode->saved_ms == 0 || since_ms >= CONTROL_SAVE_REST_MS
                        ? CONTROL_SAVE_MS
                        : CONTROL_SAVE_REST_MS - since_ms,
                    control_save, mode);
}

/* Whether they trust and deny the same. */
static bool control_judges_as(const Mortise__V1__SidecarConfig *a,
                              const Mortise__V1__SidecarConfig *b)
{
    if (a == NULL || a->n_revocations != b->n_revocations || a->n_truststores != b->n_truststores)
        return false;
    for (size_t i = 0; i < a->n_revocations; i++) {
        if (!pb_equal(&a->revocations[i]->base, &b->revocations[i]->base))
            return false;
    }
    for (size_t i = 0; i < a->n_truststores; i++) {
        if (!pb_equal(&a->truststores[i]->base, &b->truststores[i]->base))
            return false;
    }
    return true;
}

/* ---- publishing ---- */

static struct snapshot_input control_input(const struct control_mode *mode,
                                           const Mortise__V1__SidecarConfig *config,
                                           const struct keystores *keystores, struct svid *svid,
                                           struct bundle *roots, uint64_t version)
{
    return (struct snapshot_input){
        .config = config,
        .keystores = keystores->items,
        .svid = svid,
        .roots = roots,
        .inbound_listen = &mode->inbound_listen,
        .tunables = config_tunables(mode->params.settings),
        .version = version,
    };
}

/* Puts `config` with the certificate and roots given into force; nothing is remembered here. */
static err_t control_publish(struct control_mode *mode, const Mortise__V1__SidecarConfig *config,
                             const struct keystores *keystores, struct svid *svid,
                             struct bundle *roots, uint64_t version, struct faults *faults)
{
    struct snapshot_input in = control_input(mode, config, keystores, svid, roots, version);

    return mode->params.publish(mode->params.arg, &in, faults);
}

static err_t control_roots_of(struct control_mode *mode,
                              const Mortise__V1__DiscoveryResponse *response, struct faults *faults,
                              struct bundle **out)
{
    struct bytes certs[CONTROL_RESPONSE_ROOTS_MAX];
    err_t err;

    if (response->n_trust_roots == 0) {
        *out = bundle_ref(mode->roots);
        return OK;
    }
    if (response->n_trust_roots > ARRAY_LEN(certs)) {
        faults_add(faults, "trust_roots", "has %zu members; at most %zu", response->n_trust_roots,
                   ARRAY_LEN(certs));
        return faults_err(faults);
    }
    for (size_t i = 0; i < response->n_trust_roots; i++)
        certs[i] = bytes_of(response->trust_roots[i].data, response->trust_roots[i].len);
    err = bundle_of_der(certs, response->n_trust_roots, mode->params.settings->trust_domain, out);
    if (!err_is_ok(err))
        faults_add(faults, "trust_roots", "%s (%s)", err_text(err.code), err_name(err.code));
    return faults_err(faults);
}

static void control_set_cached_at(struct control_mode *mode, int64_t at)
{
    mode->cached_at = at;
    stats_set(mode->params.stats, STAT_CONFIG_CACHED_AT, at);
}

/* The control plane has confirmed what is in force. */
static void control_is_fresh(struct control_mode *mode)
{
    if (mode->cached_at != 0)
        log_info("cache", "confirmed", LOG_UINT("version", mode->version));
    control_set_cached_at(mode, 0);
}

/* Notes where the control plane's store was; true: elsewhere than before. */
static bool control_see(struct control_mode *mode, const Mortise__V1__DiscoveryResponse *response)
{
    const Mortise__V1__Point *point = response->point;
    struct discovery_point seen = mode->seen;

    if (point != NULL)
        mode->seen = (struct discovery_point){point->era, point->run, point->revision};
    return seen.era != mode->seen.era || seen.run != mode->seen.run ||
           seen.revision != mode->seen.revision;
}

/* Takes what is in `keystores`. */
static void control_keep(struct control_mode *mode, const Mortise__V1__DiscoveryResponse *response,
                         struct keystores *keystores, struct bundle *roots)
{
    bool judges_as_before = control_judges_as(mode->config, response->config) &&
                            memcmp(mode->roots->hash, roots->hash, sizeof(roots->hash)) == 0;

    if (mode->config != NULL)
        pb_free(&mode->config->base);
    mode->config = (Mortise__V1__SidecarConfig *)pb_clone(&response->config->base);
    keystores_fini(&mode->keystores);
    mode->keystores = *keystores;
    *keystores = (struct keystores){.num = 0};
    bundle_unref(mode->roots);
    mode->roots = bundle_ref(roots);
    uplink_set_roots(mode->uplink, roots);
    mode->version = response->version;
    mem_free(mode->rejected);
    mode->rejected = NULL;
    control_is_fresh(mode);
    (void)control_see(mode, response);
    control_save_soon(mode, !judges_as_before);
}

static void control_forget_config(struct control_mode *mode)
{
    pb_free(&mode->config->base);
    mode->config = NULL;
    keystores_fini(&mode->keystores);
    mode->version = 0;
    control_set_cached_at(mode, 0);
}

static bool control_is_in_force(const struct control_mode *mode,
                                const Mortise__V1__DiscoveryResponse *response,
                                const struct bundle *roots)
{
    const struct snapshot *current = mode->params.current(mode->params.arg);

    return current != NULL && mode->config != NULL && response->version == mode->version &&
           current->svid == mode->svid &&
           memcmp(roots->hash, mode->roots->hash, sizeof(roots->hash)) == 0 &&
           pb_equal(&response->config->base, &mode->config->base);
}

static void control_rejected(struct control_mode *mode, const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    faults_text(faults, &text);
    mem_free(mode->rejected);
    mode->rejected = mem_strndup((const char *)buf_view(&text).ptr, buf_size(&text));
    for (size_t i = 0; i < faults->num; i++)
        log_warn("config", "push_refused", LOG_STR("field", faults->items[i].path),
                 LOG_STR("reason", faults->items[i].message));
    stats_add(mode->params.stats, STAT_CONFIG_REJECTED, 1);
}

/* ---- keystores ---- */

/* Where the keystores of a response come from. At a start dates of files are not asked: what has
 * expired is refused by peers, and must take nothing else down with it. */
static struct keystores_source control_source(const struct control_mode *mode,
                                              Mortise__V1__KeystoreKey *const *keys,
                                              size_t num_keys)
{
    return (struct keystores_source){
        .keys = keys,
        .num_keys = num_keys,
        .dir = mode->params.settings->keystore_dir,
        .now_s = mode->config != NULL ? clock_wall_s(mode->params.clock) : 0,
        .config = mode->config,
        .former = &mode->keystores,
    };
}

/* Before they are read. `wanted` may be NULL. */
static void control_watch_files(struct control_mode *mode, const Mortise__V1__SidecarConfig *wanted)
{
    const char *dir = mode->params.settings->keystore_dir;

    watch_files_clear(&mode->files);
    if (mode->config != NULL)
        keystores_watch(mode->config, dir, &mode->files);
    if (wanted != NULL)
        keystores_watch(wanted, dir, &mode->files);
}

static void control_tell_files(struct control_mode *mode, const struct keystores *now)
{
    int64_t refused = 0;

    for (size_t i = 0; i < now->num; i++) {
        const char *name = mode->config->keystores[i]->name;
        const char *wrong = now->wrong[i], *before = mode->keystores.wrong[i];

        refused += wrong != NULL;
        if (wrong != NULL && (before == NULL || strcmp(wrong, before) != 0)) {
            log_warn("config", "keystore_refused", LOG_STR("keystore", name),
                     LOG_STR("reason", wrong));
            stats_add(mode->params.stats, STAT_CONFIG_REJECTED, 1);
        } else if (wrong == NULL && (before != NULL || now->items[i] != mode->keystores.items[i])) {
            log_info("config", "keystore_read", LOG_STR("keystore", name),
                     LOG_STR("serial", now->items[i]->serial),
                     LOG_INT("not_after", now->items[i]->not_after));
        }
    }
    stats_set(mode->params.stats, STAT_KEYSTORES_REFUSED, refused);
}

static void control_on_reread(void *arg);

/* One file of a pair may be still to come: what does not fit is tried again before it is told. */
static bool control_settles(struct control_mode *mode, const struct keystores *now)
{
    uint64_t now_ms = loop_now_ms(mode->params.loop);
    bool wrong = false;

    for (size_t i = 0; i < now->num; i++)
        wrong = wrong || now->wrong[i] != NULL;
    if (!wrong || mode->changed_ms == 0 || now_ms - mode->changed_ms >= CONTROL_SETTLE_MS) {
        mode->changed_ms = 0;
        return true;
    }
    timer_start(mode->params.loop, &mode->reread, CONTROL_SETTLE_MS / 4, control_on_reread, mode);
    return false;
}

/* Nothing new is told of what may mend itself. */
static void control_say_as_before(const struct control_mode *mode, struct keystores *now)
{
    for (size_t i = 0; i < now->num; i++) {
        const char *before = mode->keystores.wrong[i];

        if (now->wrong[i] == NULL)
            continue;
        mem_free(now->wrong[i]);
        now->wrong[i] = before != NULL ? mem_strdup(before) : NULL;
    }
}

/* What the new pair cannot be shown with, by the profile of a link, is refused as a broken one is.
 */
static void control_keep_former(struct control_mode *mode, const struct faults *faults,
                                struct keystores *now)
{
    for (size_t i = 0; i < now->num; i++) {
        CLEANUP(buf_fini) struct buf text = {.data = NULL};

        if (now->items[i] == mode->keystores.items[i])
            continue;
        svid_unref(now->items[i]);
        now->items[i] = svid_ref(mode->keystores.items[i]);
        faults_text(faults, &text);
        now->wrong[i] = mem_strndup((const char *)buf_view(&text).ptr, buf_size(&text));
    }
}

/* Takes the files as they are now, one keystore as the other; the rest is as it was. */
static void control_read_files(struct control_mode *mode)
{
    const struct keystores_source source = control_source(mode, NULL, 0);
    CLEANUP(keystores_fini) struct keystores now = {.num = 0};
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    err_t err = keystores_of(mode->config, &source, &faults, &now);
    bool changed = false;

    CHECK(err_is_ok(err)); /* each has one that it can stay with */
    for (size_t i = 0; i < now.num; i++)
        changed = changed || now.items[i] != mode->keystores.items[i];
    if (changed && mode->svid != NULL &&
        !err_is_ok(control_publish(mode, mode->config, &now, mode->svid, mode->roots, mode->version,
                                   &faults)))
        control_keep_former(mode, &faults, &now);
    if (!control_settles(mode, &now)) {
        if (!changed)
            return;
        control_say_as_before(mode, &now);
    }
    control_tell_files(mode, &now);
    keystores_fini(&mode->keystores);
    mode->keystores = now;
    now = (struct keystores){.num = 0};
    if (mode->discovery != NULL)
        discovery_send_status(mode->discovery);
}

static void control_move(void *arg);

static void control_on_reread(void *arg)
{
    struct control_mode *mode = arg;

    timer_stop(mode->params.loop, &mode->reread);
    if (mode->config != NULL)
        control_read_files(mode);
}

static void control_on_files(void *arg)
{
    struct control_mode *mode = arg;

    if (mode->changed_ms == 0)
        mode->changed_ms = loop_now_ms(mode->params.loop);
    control_on_reread(mode);
    if (mode->waits && mode->discovery != NULL)
        control_move(mode); /* a stream anew brings what was refused once more */
}

/* Of files that came into force with a configuration: what is wrong with them now is told. */
static void control_begin_files(struct control_mode *mode)
{
    int64_t refused = 0;

    for (size_t i = 0; i < mode->keystores.num; i++) {
        if (mode->keystores.wrong[i] == NULL)
            continue;
        refused++;
        log_warn("config", "keystore_refused",
                 LOG_STR("keystore", mode->config->keystores[i]->name),
                 LOG_STR("reason", mode->keystores.wrong[i]));
    }
    stats_set(mode->params.stats, STAT_KEYSTORES_REFUSED, refused);
}

static err_t control_apply(void *arg, const Mortise__V1__DiscoveryResponse *response,
                           struct faults *faults)
{
    struct control_mode *mode = arg;
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    CLEANUP(keystores_fini) struct keystores keystores = {.num = 0};
    struct keystores_source source;
    err_t err = control_roots_of(mode, response, faults, &roots);

    if (err_is_ok(err) && control_is_in_force(mode, response, roots)) {
        control_is_fresh(mode);
        mode->waits = false;
        if (control_see(mode, response))
            control_save_soon(mode, false);
        return OK; /* the stream was opened again and nothing had changed */
    }
    control_watch_files(mode, response->config);
    source = control_source(mode, response->keystore_keys, response->n_keystore_keys);
    if (err_is_ok(err))
        err = keystores_of(response->config, &source, faults, &keystores);
    if (err_is_ok(err))
        err = control_publish(mode, response->config, &keystores, mode->svid, roots,
                              response->version, faults);
    mode->waits = !err_is_ok(err) && keystores_has_files(response->config);
    if (!err_is_ok(err)) {
        if (mode->config != NULL && !timer_is_on(&mode->reread)) /* the watch began anew */
            timer_start(mode->params.loop, &mode->reread, CONTROL_SETTLE_MS / 4, control_on_reread,
                        mode);
        control_rejected(mode, faults);
        return err;
    }
    control_keep(mode, response, &keystores, roots);
    control_begin_files(mode);
    return OK;
}

/* ---- questions ---- */

static err_t control_candidate(void *arg, const Mortise__V1__DiscoveryResponse *response,
                               struct faults *faults, struct snapshot **out)
{
    struct control_mode *mode = arg;
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    CLEANUP(keystores_fini) struct keystores keystores = {.num = 0};
    const struct keystores_source source =
        control_source(mode, response->keystore_keys, response->n_keystore_keys);
    struct snapshot_input in;

    if (response->config == NULL)
        faults_add(faults, "config", "is missing");
    TRY(faults_err(faults));
    TRY(control_roots_of(mode, response, faults, &roots));
    TRY(keystores_of(response->config, &source, faults, &keystores));
    in = control_input(mode, response->config, &keystores, mode->svid, roots, mode->version);
    return mode->params.candidate(mode->params.arg, &in, faults, out);
}

static void control_on_question(void *arg, const Mortise__V1__Question *question)
{
    struct control_mode *mode = arg;

    questions_take(mode->questions, question);
}

static void control_send_answer(void *arg, const Mortise__V1__Answer *answer)
{
    struct control_mode *mode = arg;

    discovery_send_answer_part(mode->discovery, answer);
}

/* ---- telling ---- */

static void control_tell_failures(struct control_mode *mode, bool all)
{
    Mortise__V1__FailedConnection *list[FAILURES_SEND_MAX];
    size_t num;

    if (mode->discovery == NULL || !discovery_is_connected(mode->discovery))
        return;
    num = failures_due(mode->params.failures, all, loop_now_ms(mode->params.loop),
                       FAILURES_SEND_MAX, list);
    if (num > 0)
        (void)discovery_send_failures(mode->discovery, list, num);
    for (size_t i = 0; i < num; i++)
        pb_free(&list[i]->base);
}

static void control_send_failures(void *arg)
{
    control_tell_failures(arg, true);
}

/* A batch at a time: the next when this one was taken, the same again when the stream ended before.
 */
static void control_tell_access(struct control_mode *mode)
{
    Mortise__V1__AccessLogBatch *batch;

    if (mode->access_under_way || timer_is_on(&mode->access_rest) || mode->discovery == NULL ||
        !discovery_is_connected(mode->discovery))
        return;
    batch = access_share_next(mode->params.access_share);
    if (batch != NULL)
        mode->access_under_way = discovery_send_access_log(mode->discovery, batch);
}

static void control_on_rested(void *arg)
{
    control_tell_access(arg);
}

static void control_on_access_ack(void *arg, uint64_t number, uint32_t wait_ms)
{
    struct control_mode *mode = arg;
    struct access_share *share = mode->params.access_share;
    uint64_t rest_ms = wait_ms < CONTROL_ACCESS_MAX_MS ? wait_ms : CONTROL_ACCESS_MAX_MS;

    mode->access_under_way = false;
    stats_add(mode->params.stats, STAT_ACCESS_TOLD, (int64_t)access_share_taken(share, number));
    if (rest_ms < CONTROL_ACCESS_MS && !access_share_is_full(share))
        rest_ms = CONTROL_ACCESS_MS;
    timer_start(mode->params.loop, &mode->access_rest, rest_ms, control_on_rested, mode);
}

static void control_on_open(void *arg)
{
    struct control_mode *mode = arg;

    failures_untold(mode->params.failures);
    mode->access_under_way = false;
}

static struct snapshot *control_current(void *arg)
{
    struct control_mode *mode = arg;

    return mode->params.current(mode->params.arg);
}

/* The reasons for which any has ended. */
static uint64_t control_count_ended(struct control_mode *mode)
{
    uint64_t sum = 0;

    mode->num_ended = 0;
    for (unsigned i = 0; i < SURVEY_NUM_ENDS; i++) {
        enum survey_end end = (enum survey_end)i;
        uint64_t number = stats_ended_total(mode->params.stats, survey_end_reason(end));

        if (number == 0)
            continue;
        mortise__v1__reason_count__init(&mode->ended[i]);
        mode->ended[i].reason = (char *)(uintptr_t)survey_end_name(end); /* read only */
        mode->ended[i].number = number;
        mode->ended_list[mode->num_ended++] = &mode->ended[i];
        sum += number;
    }
    return sum;
}

static void control_status(void *arg, Mortise__V1__SidecarStatus *out)
{
    struct control_mode *mode = arg;
    const struct snapshot *current = mode->params.current(mode->params.arg);
    const struct svid *svid;

    out->ready = mode->params.ready(mode->params.arg);
    out->generation = current != NULL ? current->generation : 0;
    svid = current != NULL ? current->svid : mode->svid; /* the one that peers see */
    if (svid != NULL) {
        out->certificate_serial = svid->serial;
        out->certificate_not_before = svid->not_before;
        out->certificate_not_after = svid->not_after;
    }
    mode->plaintext_told = plaintext_total(stats_plaintext_uses(mode->params.stats));
    plaintext_release(&mode->plaintext);
    plaintext_fill(stats_plaintext_uses(mode->params.stats), clock_wall_s(mode->params.clock),
                   &mode->plaintext);
    mode->plaintext_told_us = clock_mono_us();
    out->plaintext = mode->plaintext.plaintext;
    out->n_plaintext = mode->plaintext.n_plaintext;
    keystores_status_free(mode->files_told, mode->num_files_told);
    mode->files_told = NULL;
    mode->num_files_told = 0;
    if (mode->config != NULL)
        mode->files_told = keystores_status(&mode->keystores, mode->config, &mode->num_files_told);
    out->keystores = mode->files_told;
    out->n_keystores = mode->num_files_told;
    mode->ended_told = control_count_ended(mode);
    out->ended = mode->ended_list;
    out->n_ended = mode->num_ended;
    out->certificate_epoch = identity_epoch(mode->identity);
    out->renewal_error = (char *)(uintptr_t)identity_error(mode->identity); /* read only */
}

void control_mode_changed(struct control_mode *mode)
{
    if (mode->discovery != NULL)
        discovery_send_status(mode->discovery);
}

/* Who stays uses it all the time, though nobody comes and nobody goes. */
static bool control_has_plaintext(const struct control_mode *mode)
{
    struct plaintext *plaintext = stats_plaintext_uses(mode->params.stats);

    return plaintext_total(plaintext) != mode->plaintext_told ||
           (clock_mono_us() >= mode->plaintext_told_us + CONTROL_PLAINTEXT_US &&
            plaintext_is_open(plaintext));
}

void control_mode_tick(struct control_mode *mode)
{
    const struct svid *svid = mode->svid;
    unsigned alarm;

    if (control_count_ended(mode) != mode->ended_told || control_has_plaintext(mode))
        control_mode_changed(mode);
    control_tell_failures(mode, false);
    control_tell_access(mode);
    if (svid == NULL)
        return;
    alarm = renew_alarm(svid->not_before, svid->not_after, clock_wall_s(mode->params.clock));
    if (alarm > mode->alarm)
        log_event(alarm >= CONTROL_ALARM_ERROR ? LOG_ERROR : LOG_WARN, "identity",
                  "certificate_alarm",
                  (const struct log_field[]){LOG_UINT("percent", alarm),
                                             LOG_INT("not_after", svid->not_after),
                                             LOG_STR("reason", identity_error(mode->identity))},
                  3);
    mode->alarm = alarm;
    stats_set(mode->params.stats, STAT_CERT_ALARM, alarm);
}

static void control_move(void *arg)
{
    struct control_mode *mode = arg;

    timer_stop(mode->params.loop, &mode->moving);
    uplink_reconnect(mode->uplink);
    if (mode->discovery != NULL)
        discovery_reopen(mode->discovery);
}

static void control_on_epoch(void *arg, uint64_t epoch, uint32_t spread_ms)
{
    struct control_mode *mode = arg;

    /* What is renewed is the certificate that the connection rests on. */
    if (epoch > identity_epoch(mode->identity) && timer_is_on(&mode->moving))
        control_move(mode);
    identity_renew(mode->identity, epoch, spread_ms);
}

static void control_on_error(void *arg)
{
    control_mode_changed(arg);
}

/* ---------------------------------------------------------------------------------------
 * advertising */

static const Mortise__V1__SidecarConfig *control_in_force(void *arg)
{
    const struct control_mode *mode = arg;

    return mode->config;
}

static void control_start_discovery(struct control_mode *mode)
{
    const struct discovery_params params = {
        .loop = mode->params.loop,
        .uplink = mode->uplink,
        .stats = mode->params.stats,
        .instance = mode->instance,
        .advertise = mode->advertise,
        .state = {.version = mode->version, .seen = mode->seen},
        .in_force = control_in_force,
        .apply = control_apply,
        .status = control_status,
        .on_epoch = control_on_epoch,
        .on_open = control_on_open,
        .on_question = control_on_question,
        .on_access_ack = control_on_access_ack,
        .arg = mode,
    };

    mode->discovery = discovery_new(&params);
    discovery_start(mode->discovery);
}

/* Our address on the way to `to`: what the kernel would send from. No packet leaves. */
static bool control_address_towards(const struct addr *to, struct addr *out)
{
    int fd = socket(to->sa.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found;

    if (fd < 0)
        return false;
    found = connect(fd, &to->sa.any, to->len) == 0 && err_is_ok(addr_of_local(fd, out));
    (void)close(fd);
    return found;
}

static void control_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct control_mode *mode = arg;
    struct addr own;
    char text[ADDR_TEXT_MAX];

    mode->resolving = NULL;
    if (err_is_ok(err) && num > 0 && control_address_towards(&addrs[0], &own)) {
        addr_set_port(&own, addr_port(&mode->inbound_listen));
        addr_format(&own, text);
        mem_free(mode->advertise);
        mode->advertise = mem_strdup(text);
        log_info("discovery", "advertise", LOG_STR("address", text));
    } else {
        log_warn("discovery", "advertise_unknown", LOG_ERR("error", err));
    }
    control_start_discovery(mode);
}

static bool control_is_any(const struct addr *addr)
{
    if (addr->sa.any.sa_family == AF_INET)
        return addr->sa.in4.sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&addr->sa.in6.sin6_addr);
}

/* The first certificate is there. */
static void control_begin_discovery(struct control_mode *mode)
{
    const struct config *settings = mode->params.settings;

    if (settings->advertise == NULL && control_is_any(&mode->inbound_listen)) {
        mode->resolving = resolve_start(mode->params.loop, settings->control, CONTROL_RESOLVE_MS,
                                        control_on_resolved, mode);
        return;
    }
    mem_free(mode->advertise);
    mode->advertise =
        mem_strdup(settings->advertise != NULL ? settings->advertise : settings->inbound_listen);
    control_start_discovery(mode);
}

/* The control plane has just made a certificate for us, and perhaps makes them for all of a fleet:
 * the handshake that shows it need not come now as well. It comes in time for the one that the
 * connection rests on, which has ended if it is one that we had to join again for. */
static uint64_t control_move_ms(const struct control_mode *mode, const struct svid *old)
{
    int64_t left_s = old->not_after - clock_wall_s(mode->params.clock);
    uint64_t most_ms = left_s <= 0 ? 0 : (uint64_t)left_s * 1000 / 4;

    if (most_ms > CONTROL_MOVE_MAX_MS)
        most_ms = CONTROL_MOVE_MAX_MS;
    return most_ms / 4 + random_u32() % (most_ms - most_ms / 4 + 1);
}

/* By what is in force or, before that, what the cache had: without either nothing is. */
static bool control_is_revoked(void *arg, const struct peer *peer)
{
    const struct control_mode *mode = arg;
    const struct snapshot *current = mode->params.current(mode->params.arg);
    const struct revoke_set *revoked = current != NULL ? current->revoked : mode->cached_revoked;
    uint32_t grace_ms;

    return revoked != NULL && revoke_find(revoked, peer, &grace_ms);
}

/* What was in force goes on, with the old certificate to its end. */
static void control_refused_with_svid(struct control_mode *mode, const struct faults *faults)
{
    control_rejected(mode, faults);
    if (mode->params.current(mode->params.arg) == NULL) /* it was a cached one */
        control_forget_config(mode);
}

static void control_on_svid(void *arg, struct svid *svid, struct bundle *roots)
{
    struct control_mode *mode = arg;
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    uint64_t move_ms = mode->svid != NULL ? control_move_ms(mode, mode->svid) : 0;

    if (mode->svid != NULL)
        svid_unref(mode->svid);
    mode->svid = svid_ref(svid);
    bundle_unref(mode->roots);
    mode->roots = bundle_ref(roots);
    uplink_set_roots(mode->uplink, roots);
    if (mode->config != NULL && !err_is_ok(control_publish(mode, mode->config, &mode->keystores,
                                                           svid, roots, mode->version, &faults)))
        control_refused_with_svid(mode, &faults);
    control_save_soon(mode, false);

    if (mode->discovery == NULL && mode->resolving == NULL) {
        uplink_set_svid(mode->uplink, svid);
        uplink_reconnect(mode->uplink);
        control_begin_discovery(mode);
        return;
    }
    /* The stream in use tells it; later one under the new certificate takes over. */
    control_mode_changed(mode);
    uplink_set_svid(mode->uplink, svid);
    if (move_ms == 0)
        control_move(mode);
    else if (!timer_is_on(&mode->moving))
        timer_start(mode->params.loop, &mode->moving, move_ms, control_move, mode);
}

/* ---- restoring ---- */

/* What was seen of the control plane, and what it said last. With an expired certificate nothing is
 * in force by it until there is another one, as if we had not been restarted. */
static void control_remember(struct control_mode *mode, const Mortise__V1__SidecarCache *msg)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct keystores_source source;
    err_t err;

    if (msg->seen != NULL)
        mode->seen = (struct discovery_point){msg->seen->era, msg->seen->run, msg->seen->revision};
    if (msg->config == NULL)
        return;
    source = control_source(mode, msg->keystore_keys, msg->n_keystore_keys);
    control_watch_files(mode, msg->config);
    err = keystores_of(msg->config, &source, &faults, &mode->keystores);
    if (!err_is_ok(err)) { /* of another version: as if no configuration had been kept */
        control_rejected(mode, &faults);
        keystores_fini(&mode->keystores);
        return;
    }
    mode->config = (Mortise__V1__SidecarConfig *)pb_clone(&msg->config->base);
    mode->version = msg->version;
    control_set_cached_at(mode, msg->saved_at);
    err = revoke_set_new(mode->config->revocations, mode->config->n_revocations, &faults,
                         &mode->cached_revoked);
    if (!err_is_ok(err)) /* of another version; what it makes of the whole is told with it */
        log_warn("cache", "revocations_refused", LOG_ERR("reason", err));
}

/* Puts the cached configuration into force. */
static void control_restore_config(struct control_mode *mode, const struct cache_content *content)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    int64_t age_s = clock_wall_s(mode->params.clock) - content->msg->saved_at;

    if (!err_is_ok(control_publish(mode, mode->config, &mode->keystores, content->svid,
                                   content->roots, mode->version, &faults))) {
        control_rejected(mode, &faults);
        control_forget_config(mode);
        return;
    }
    log_warn("cache", "in_force", LOG_STR("id", content->svid->spiffe_id),
             LOG_UINT("version", mode->version), LOG_INT("age_s", age_s),
             LOG_INT("not_after", content->svid->not_after));
}

static void control_restore(struct control_mode *mode)
{
    CLEANUP(cache_content_fini) struct cache_content content = {.svid = NULL};
    err_t err = cache_load(mode->cache, mode->params.settings->identity,
                           clock_wall_s(mode->params.clock), &content);

    if (err_is(err, E_NOT_FOUND))
        return;
    if (!err_is_ok(err)) {
        log_warn(
            "cache", "refused", LOG_ERR("reason", err),
            LOG_STR("detail", err_is(err, E_FILE_OPEN) ? strerror(err.sub) : err_text(err.code)));
        return;
    }
    identity_resume(mode->identity, content.svid, content.msg->certificate_epoch);
    control_remember(mode, content.msg);
    if (content.expired) { /* it may bring us a new one, and is for nothing else */
        log_warn("cache", "refused", LOG_ERR("reason", FAIL(CERT_EXPIRED, 0)),
                 LOG_INT("not_after", content.svid->not_after));
        return;
    }
    mode->svid = svid_ref(content.svid);
    bundle_unref(mode->roots);
    mode->roots = bundle_ref(content.roots);
    uplink_set_roots(mode->uplink, content.roots);
    uplink_set_svid(mode->uplink, content.svid);
    if (mode->config != NULL)
        control_restore_config(mode, &content);
    control_begin_discovery(mode);
}

/* ---- life cycle ---- */

static char *control_new_instance(void)
{
    uint8_t bytes[8];
    char hex[2 * sizeof(bytes) + 1];

    random_fill(bytes, sizeof(bytes));
    bytes_to_hex(bytes_of(bytes, sizeof(bytes)), hex);
    return mem_strdup(hex);
}

struct control_mode *control_mode_new(const struct source_params *params, struct bundle *roots,
                                      struct cache *cache)
{
    const struct config *settings = params->settings;
    struct control_mode *mode = mem_zalloc(sizeof(*mode));

    mode->params = *params;
    mode->instance = control_new_instance();
    mode->advertise = mem_strdup("");
    mode->roots = bundle_ref(roots);
    mode->probes = probes_new(params->loop);
    mode->questions = questions_new(&(struct questions_params){
        .surveys = params->surveys,
        .probes = mode->probes,
        .current = control_current,
        .send_failures = control_send_failures,
        .candidate = control_candidate,
        .send = control_send_answer,
        .arg = mode,
    });
    CHECK(err_is_ok(addr_parse(settings->inbound_listen, &mode->inbound_listen)));
    mode->uplink = uplink_new(&(struct uplink_params){
        .loop = params->loop,
        .clock = params->clock,
        .target = settings->control,
        .trust_domain = settings->trust_domain,
        .roots = roots,
        .is_revoked = control_is_revoked,
        .arg = mode,
    });
    mode->identity = identity_new(&(struct identity_params){
        .loop = params->loop,
        .clock = params->clock,
        .uplink = mode->uplink,
        .stats = params->stats,
        .token_file = settings->service_account_token_file != NULL
                          ? settings->service_account_token_file
                          : settings->join_token_file,
        .token_is_platforms = settings->service_account_token_file != NULL,
        .token = settings->join_token,
        .expect_id = settings->identity,
        .on_svid = control_on_svid,
        .on_error = control_on_error,
        .arg = mode,
    });
    mode->cache = cache;
    if (cache != NULL)
        control_restore(mode);
    mode->watch = watch_new(params->loop, &mode->files, control_on_files, mode);
    identity_start(mode->identity);
    return mode;
}

void control_mode_free(struct control_mode *mode)
{
    if (timer_is_on(&mode->save))
        control_save(mode);
    if (mode->resolving != NULL)
        resolve_cancel(mode->resolving);
    timer_stop(mode->params.loop, &mode->moving);
    timer_stop(mode->params.loop, &mode->reread);
    watch_free(mode->watch);
    watch_files_clear(&mode->files);
    timer_stop(mode->params.loop, &mode->access_rest);
    if (mode->discovery != NULL)
        discovery_free(mode->discovery);
    keystores_status_free(mode->files_told, mode->num_files_told);
    questions_free(mode->questions);
    probes_free(mode->probes);
    identity_free(mode->identity);
    plaintext_release(&mode->plaintext);
    uplink_free(mode->uplink);
    revoke_set_free(mode->cached_revoked);
    if (mode->svid != NULL)
        svid_unref(mode->svid);
    bundle_unref(mode->roots);
    if (mode->config != NULL)
        pb_free(&mode->config->base);
    keystores_fini(&mode->keystores);
    mem_free(mode->instance);
    mem_free(mode->advertise);
    mem_free(mode->rejected);
    mem_free(mode);
}

struct control_mode_facts control_mode_facts(const struct control_mode *mode)
{
    return (struct control_mode_facts){
        .joined = mode->svid != NULL,
        .connected = mode->discovery != NULL && discovery_is_connected(mode->discovery),
        .version = mode->version,
        .cached_at = mode->cached_at,
        .certificate_epoch = identity_epoch(mode->identity),
        .renewal_error = identity_error(mode->identity),
        .rejected = mode->rejected,
        .skew = mode->discovery != NULL ? discovery_skew(mode->discovery) : (struct skew){0},
    };
}
