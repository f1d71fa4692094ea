#include "proxy/survey.h"

#include <stdatomic.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proxy/authz.h"
#include "proxy/worker.h"

struct survey_part {
    struct mail mail;
    struct survey_part *next; /* in the worker's row */
    struct survey *survey;
    uint64_t total;
    uint64_t ends[SURVEY_NUM_ENDS];
    Mortise__V1__LiveConnection **connections;
    size_t num_connections;
};

struct survey {
    struct surveys *owner;
    char *link, *peer;
    struct snapshot *candidate;
    atomic_uint room; /* for descriptions, of all workers together */
    size_t num_out;   /* parts that are with workers */
    survey_cb cb;     /* NULL: cancelled */
    void *arg;
    struct survey_result result;
};

struct surveys {
    struct mailbox *mailbox;
    const struct worker_shared *workers;
};

enum close_reason survey_end_reason(enum survey_end end)
{
    static const enum close_reason reasons[SURVEY_NUM_ENDS] = {
        [SURVEY_POLICY] = CLOSE_POLICY,
        [SURVEY_TRUST] = CLOSE_TRUST,
        [SURVEY_REVOKED] = CLOSE_REVOKED,
    };

    CHECK((unsigned)end < SURVEY_NUM_ENDS);
    return reasons[end];
}

const char *survey_end_name(enum survey_end end)
{
    return close_reason_name(survey_end_reason(end));
}

/* ---- on the worker's thread ---- */

struct survey_part **survey_part_next(struct survey_part *part)
{
    return &part->next;
}

static const char *survey_peer_id(const struct peer *peer)
{
    if (peer == NULL)
        return "";
    if (peer->spiffe_id[0] != '\0' || peer->dns_names[0] == NULL)
        return peer->spiffe_id;
    return peer->dns_names[0];
}

static bool survey_matches(const struct survey *survey, const struct conn *conn)
{
    if (survey->link[0] != '\0' && strcmp(survey->link, conn->link->name) != 0)
        return false;
    return survey->peer[0] == '\0' || strcmp(survey->peer, survey_peer_id(conn->peer)) == 0 ||
           (conn->peer != NULL && strcmp(survey->peer, conn->peer->serial) == 0);
}

static enum survey_end survey_end_of(err_t err)
{
    if (err_is(err, E_PEER_REVOKED))
        return SURVEY_REVOKED;
    return err_is(err, E_TRUST_CHANGED) ? SURVEY_TRUST : SURVEY_POLICY;
}

/* Room for one more description, taken; false: there is none. */
static bool survey_take_room(struct survey *survey)
{
    unsigned room = atomic_load_explicit(&survey->room, memory_order_relaxed);

    while (room > 0) {
        if (atomic_compare_exchange_weak_explicit(&survey->room, &room, room - 1,
                                                  memory_order_relaxed, memory_order_relaxed))
            return true;
    }
    return false;
}

static char *survey_text(const char *text)
{
    return mem_strdup(text != NULL ? text : "");
}

static Mortise__V1__LiveConnection *survey_describe(const struct conn *conn)
{
    Mortise__V1__LiveConnection *out = mem_alloc(sizeof(*out));
    struct addr addr =
        conn_addr_get(conn->direction == DIRECTION_OUTBOUND ? &conn->destination : &conn->source);
    char address[ADDR_TEXT_MAX] = "";

    if (addr.len != 0)
        addr_format(&addr, address);
    mortise__v1__live_connection__init(out);
    out->link = mem_strdup(conn->link->name);
    out->direction = mem_strdup(direction_name((enum direction)conn->direction));
    out->peer_id = mem_strdup(survey_peer_id(conn->peer));
    out->peer_serial = mem_strdup(conn->peer != NULL ? conn->peer->serial : "");
    out->peer_address = mem_strdup(address);
    out->tls_version = survey_text(conn->tls.version);
    out->cipher = survey_text(conn->tls.cipher);
    out->group = survey_text(conn->tls.group);
    out->age_ms = loop_now_ms(conn->worker->loop) - conn->began_ms;
    out->bytes_to_mesh = relay_bytes(&conn->relay, RELAY_APP);
    out->bytes_to_app = relay_bytes(&conn->relay, RELAY_MESH);
    out->generation = conn->snapshot->generation;
    return out;
}

void survey_see(struct survey_part *part, const struct conn *conn)
{
    struct survey *survey = part->survey;
    Mortise__V1__LiveConnection *described;
    uint32_t grace_ms = 0;
    err_t err = OK;

    if (!survey_matches(survey, conn))
        return;
    if (survey->candidate != NULL) {
        err = conn_judge(conn, survey->candidate, &grace_ms);
        if (err_is_ok(err))
            return;
        part->ends[survey_end_of(err)]++;
    }
    part->total++;
    if (!survey_take_room(survey))
        return;
    described = survey_describe(conn);
    if (!err_is_ok(err)) {
        described->reason = mem_strdup(survey_end_name(survey_end_of(err)));
        described->grace_ms = grace_ms;
        if (err_is(err, E_POLICY_DENIED))
            described->policy =
                survey_text(authz_policy(survey->candidate, conn->link, conn->peer));
    }
    part->connections = mem_realloc(part->connections, (part->num_connections + 1) *
                                                           sizeof(Mortise__V1__LiveConnection *));
    part->connections[part->num_connections++] = described;
}

void survey_part_done(struct survey_part *part)
{
    mailbox_post(part->survey->owner->mailbox, &part->mail);
}

/* ---- on the main thread ---- */

static void survey_free(struct survey *survey)
{
    for (size_t i = 0; i < survey->result.num_connections; i++)
        pb_free(&survey->result.connections[i]->base);
    mem_free(survey->result.connections);
    if (survey->candidate != NULL)
        snapshot_unref(survey->candidate);
    mem_free(survey->link);
    mem_free(survey->peer);
    mem_free(survey);
}

/* Takes the part; true when it was the survey's last one. */
static bool survey_gather(struct survey_part *part)
{
    struct survey *survey = part->survey;
    struct survey_result *result = &survey->result;

    result->total += part->total;
    for (unsigned i = 0; i < SURVEY_NUM_ENDS; i++)
        result->ends[i] += part->ends[i];
    result->connections =
        mem_realloc(result->connections, (result->num_connections + part->num_connections + 1) *
                                             sizeof(Mortise__V1__LiveConnection *));
    for (size_t i = 0; i < part->num_connections; i++)
        result->connections[result->num_connections++] = part->connections[i];
    mem_free(part->connections);
    mem_free(part);
    return --survey->num_out == 0;
}

static void surveys_on_mail(void *arg, struct mail *mail)
{
    struct survey_part *part = CONTAINER_OF(mail, struct survey_part, mail);
    struct survey *survey = part->survey;

    (void)arg;
    if (!survey_gather(part))
        return;
    if (survey->cb != NULL)
        survey->cb(survey->arg, &survey->result);
    survey_free(survey);
}

static void surveys_drop_mail(struct mail *mail)
{
    struct survey_part *part = CONTAINER_OF(mail, struct survey_part, mail);
    struct survey *survey = part->survey;

    if (survey_gather(part))
        survey_free(survey);
}

struct surveys *surveys_new(struct loop *loop, const struct worker_shared *workers)
{
    struct surveys *surveys = mem_zalloc(sizeof(*surveys));

    surveys->mailbox = mailbox_new(loop, surveys_on_mail, surveys);
    surveys->workers = workers;
    return surveys;
}

void surveys_free(struct surveys *surveys)
{
    mailbox_close(surveys->mailbox, surveys_drop_mail);
    mem_free(surveys);
}

struct survey *survey_start(struct surveys *surveys, const struct survey_wish *wish, survey_cb cb,
                            void *arg)
{
    struct survey *survey = mem_zalloc(sizeof(*survey));

    survey->owner = surveys;
    survey->link = mem_strdup(wish->link);
    survey->peer = mem_strdup(wish->peer);
    if (wish->candidate != NULL)
        survey->candidate = snapshot_ref(wish->candidate);
    atomic_init(&survey->room,
                wish->limit < SURVEY_DESCRIBED_MAX ? wish->limit : SURVEY_DESCRIBED_MAX);
    survey->cb = cb;
    survey->arg = arg;
    survey->num_out = surveys->workers->num_workers;
    for (size_t i = 0; i < surveys->workers->num_workers; i++) {
        struct survey_part *part = mem_zalloc(sizeof(*part));

        part->survey = survey;
        worker_survey(surveys->workers->workers[i], part);
    }
    return survey;
}

void survey_cancel(struct survey *survey)
{
    survey->cb = NULL;
}
