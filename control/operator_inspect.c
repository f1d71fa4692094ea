/* The calls of control/operator_service.h that ask sidecars: ListConnections and Preview. One call
 * asks many, some at a time, and streams what each says as it comes. */
#include <stdlib.h>
#include <string.h>

#include "control/discovery_service.h"
#include "control/mesh_merge.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/rpc/pb.h"

#define OPERATOR_ASK_WINDOW 64 /* sidecars at a time: their questions hold a configuration each */
#define OPERATOR_ASK_DEFAULT_S 5
#define OPERATOR_ASK_MAX_S 60
#define OPERATOR_DESCRIBED_MAX 1000
#define OPERATOR_PREVIEW_DESCRIBED 5

struct operator_target {
    char *subsystem, *spiffe_id, *instance;
};

struct operator_survey {
    struct list link;
    struct operator_service *service;
    struct grpc_call *call;
    bool over; /* its status is sent; only on_done is left */
    char *link_name, *peer;
    unsigned limit;
    uint64_t timeout_ms;
    struct operator_target *targets; /* by subsystem */
    size_t num_targets;
    size_t next;       /* to be asked */
    struct list asked; /* that have not answered */
    size_t num_asked;
    /* Preview: what would be in force. */
    bool previews;
    struct mesh_merge merge;     /* mesh NULL: the one in force */
    struct policy_set *policies; /* of that mesh, likewise */
    Mortise__V1__Revocation *revocation;
    /* What the sidecars of the subsystem in hand would be given. */
    const char *subsystem;              /* a target's */
    Mortise__V1__SidecarConfig *config; /* NULL: they would leave the mesh */
};

struct operator_asked {
    struct question question;
    struct list link;
    struct operator_survey *survey;
    const struct operator_target *target;
};

static void operator_survey_finish(struct operator_survey *survey, enum grpc_status status,
                                   const char *text)
{
    if (survey->over)
        return;
    survey->over = true;
    grpc_call_finish(survey->call, status, text);
}

static void operator_survey_send(struct operator_survey *survey,
                                 const struct operator_target *target,
                                 Mortise__V1__SidecarConnections *msg)
{
    err_t err;

    if (survey->over)
        return;
    msg->subsystem = target->subsystem;
    msg->instance = target->instance;
    err = grpc_call_send(survey->call, &msg->base);
    if (!err_is_ok(err)) /* a reader that does not read is given up */
        operator_survey_finish(survey, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
}

static void operator_survey_fail(struct operator_survey *survey,
                                 const struct operator_target *target, const char *why)
{
    Mortise__V1__SidecarConnections msg = MORTISE__V1__SIDECAR_CONNECTIONS__INIT;

    msg.error = msg_lend(why);
    operator_survey_send(survey, target, &msg);
}

/* ------------------------------------------------------------------- asking */

static void operator_survey_go_on(struct operator_survey *survey);

static void operator_asked_on_part(struct question *question, const Mortise__V1__Answer *answer)
{
    struct operator_asked *asked = CONTAINER_OF(question, struct operator_asked, question);
    Mortise__V1__SidecarConnections msg = MORTISE__V1__SIDECAR_CONNECTIONS__INIT;

    msg.connections = answer->connections;
    msg.n_connections = answer->n_connections;
    msg.more = answer->more;
    msg.total = answer->total;
    msg.would_end = answer->would_end;
    msg.n_would_end = answer->n_would_end;
    msg.refused = answer->refused;
    operator_survey_send(asked->survey, asked->target, &msg);
}

static void operator_asked_free(struct operator_asked *asked)
{
    list_del(&asked->link);
    asked->survey->num_asked--;
    mem_free(asked);
}

static void operator_asked_on_end(struct question *question, enum questions_end end)
{
    struct operator_asked *asked = CONTAINER_OF(question, struct operator_asked, question);
    struct operator_survey *survey = asked->survey;
    const struct operator_target *target = asked->target;

    operator_asked_free(asked);
    if (end == QUESTIONS_TIMEOUT)
        operator_survey_fail(survey, target, "no answer in time");
    else if (end == QUESTIONS_LEFT)
        operator_survey_fail(survey, target, "it disconnected before it answered");
    else if (end == QUESTIONS_GARBAGE)
        operator_survey_fail(survey, target, "its answer was more than was asked for");
    operator_survey_go_on(survey);
}

static const char *operator_why_not_asked(err_t err)
{
    switch ((int)err.code) {
    case E_UNSUPPORTED:
        return "its program is too old to be asked";
    case E_CLOSED:
        return "it is not connected now";
    case E_LIMIT:
        return "too much is asked of it, or it does not read";
    default:
        return err_text(err.code);
    }
}

static void operator_ask(struct operator_survey *survey, const struct operator_target *target,
                         struct workload *workload, Mortise__V1__Question *msg)
{
    struct operator_asked *asked = mem_zalloc(sizeof(*asked));
    err_t err;

    asked->survey = survey;
    asked->target = target;
    asked->question.limit = survey->limit;
    asked->question.on_part = operator_asked_on_part;
    asked->question.on_end = operator_asked_on_end;
    msg->link = survey->link_name;
    msg->peer = survey->peer;
    msg->limit = survey->limit;
    list_add_tail(&survey->asked, &asked->link);
    survey->num_asked++;
    err = discovery_ask(survey->service->discovery, workload, msg, survey->timeout_ms,
                        &asked->question);
    if (err_is_ok(err))
        return;
    operator_asked_free(asked);
    operator_survey_fail(survey, target, operator_why_not_asked(err));
}

/* Computes what the subsystem would be given, unless that was done. */
static void operator_survey_compute(struct operator_survey *survey, const char *subsystem)
{
    struct registry *registry = survey->service->registry;

    if (survey->subsystem != NULL && strcmp(survey->subsystem, subsystem) == 0)
        return;
    if (survey->config != NULL)
        pb_free(&survey->config->base);
    survey->subsystem = subsystem;
    survey->config = registry_candidate(
        registry, subsystem,
        survey->merge.mesh != NULL ? survey->merge.mesh : registry_mesh(registry),
        survey->merge.mesh != NULL ? survey->policies : registry_policies(registry),
        survey->revocation);
}

static bool operator_holds(const Mortise__V1__SidecarConfig *has,
                           const Mortise__V1__SidecarKeystore *keystore)
{
    if (keystore->key_sha256[0] == '\0')
        return true; /* its key is nowhere but there */
    for (size_t i = 0; i < has->n_keystores; i++) {
        if (strcmp(has->keystores[i]->key_sha256, keystore->key_sha256) == 0)
            return true;
    }
    return false;
}

/* Links that would show it show the sidecar's own certificate instead. */
static void operator_forget_keystore(Mortise__V1__SidecarConfig *config, size_t at)
{
    const char *name = config->keystores[at]->name;

    for (size_t i = 0; i < config->n_outbound; i++) {
        if (strcmp(config->outbound[i]->keystore, name) == 0)
            config->outbound[i]->keystore[0] = '\0';
    }
    for (size_t i = 0; config->inbound != NULL && i < config->inbound->n_links; i++) {
        if (strcmp(config->inbound->links[i]->keystore, name) == 0)
            config->inbound->links[i]->keystore[0] = '\0';
    }
    pb_free(&config->keystores[at]->base);
    config->keystores[at] = config->keystores[--config->n_keystores];
}

/* A look at what would happen brings no private key to where it is not: that takes a change, with
 * its permission and its record. What a sidecar would show ends none of its connections. Owned. */
static Mortise__V1__SidecarConfig *operator_without_keys(const Mortise__V1__SidecarConfig *config,
                                                         const Mortise__V1__SidecarConfig *has)
{
    Mortise__V1__SidecarConfig *some =
        MSG_AS(Mortise__V1__SidecarConfig, mortise__v1__sidecar_config__descriptor,
               pb_clone(&config->base));

    for (size_t i = some->n_keystores; i > 0; i--) {
        if (!operator_holds(has, some->keystores[i - 1]))
            operator_forget_keystore(some, i - 1);
    }
    return some;
}

static void operator_preview(struct operator_survey *survey, const struct operator_target *target,
                             struct workload *workload)
{
    Mortise__V1__Question msg = MORTISE__V1__QUESTION__INIT;
    Mortise__V1__DiscoveryResponse candidate;
    Mortise__V1__SidecarConnections leaves = MORTISE__V1__SIDECAR_CONNECTIONS__INIT;
    Mortise__V1__SidecarConfig *shown;
    struct discovery_load load;

    if (workload->content == NULL)
        return; /* it has left the mesh already, and is told nothing */
    operator_survey_compute(survey, target->subsystem);
    if (survey->config == NULL) {
        leaves.leaves = true;
        operator_survey_send(survey, target, &leaves);
        return;
    }
    if (pb_equal(&survey->config->base, &workload->content->config->base))
        return; /* nothing would be pushed to it */
    shown = operator_without_keys(survey->config, workload->content->config);
    discovery_candidate(survey->service->discovery, workload->content, shown, &candidate, &load);
    msg.candidate = &candidate;
    operator_ask(survey, target, workload, &msg);
    discovery_load_fini(&load);
    pb_free(&shown->base);
}

static void operator_survey_next(struct operator_survey *survey)
{
    const struct operator_target *target = &survey->targets[survey->next++];
    struct workload *workload =
        registry_workload(survey->service->registry, target->spiffe_id, target->instance);
    Mortise__V1__Question msg = MORTISE__V1__QUESTION__INIT;

    if (workload == NULL)
        operator_survey_fail(survey, target, "it is not connected now");
    else if (survey->previews)
        operator_preview(survey, target, workload);
    else
        operator_ask(survey, target, workload, &msg);
}

static void operator_survey_go_on(struct operator_survey *survey)
{
    while (!survey->over && survey->next < survey->num_targets &&
           survey->num_asked < OPERATOR_ASK_WINDOW)
        operator_survey_next(survey);
    if (survey->num_asked == 0)
        operator_survey_finish(survey, GRPC_OK, NULL);
}

/* ----------------------------------------------------------------- beginning */

static int operator_compare_targets(const void *a, const void *b)
{
    const struct operator_target *one = a, *two = b;
    int order = strcmp(one->subsystem, two->subsystem);

    return order != 0 ? order : strcmp(one->instance, two->instance);
}

/* Who is to be asked: the sidecars of `subsystem`, or all (NULL). */
static void operator_survey_targets(struct operator_survey *survey, const char *subsystem)
{
    struct list *pos, *tmp, *all = registry_workloads(survey->service->registry);
    size_t num = 0;

    LIST_EACH (pos, tmp, all)
        num++;
    survey->targets = mem_array(num, sizeof(*survey->targets));
    LIST_EACH (pos, tmp, all) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (subsystem != NULL && strcmp(subsystem, workload->subsystem) != 0)
            continue;
        survey->targets[survey->num_targets++] = (struct operator_target){
            .subsystem = mem_strdup(workload->subsystem),
            .spiffe_id = mem_strdup(workload->spiffe_id),
            .instance = mem_strdup(workload->instance),
        };
    }
    if (survey->num_targets > 0)
        qsort(survey->targets, survey->num_targets, sizeof(*survey->targets),
              operator_compare_targets);
}

static struct operator_survey *operator_survey_new(struct operator_service *service,
                                                   struct grpc_call *call, uint32_t limit,
                                                   uint32_t timeout_s)
{
    struct operator_survey *survey = mem_zalloc(sizeof(*survey));
    uint64_t seconds = timeout_s != 0 ? timeout_s : OPERATOR_ASK_DEFAULT_S;

    survey->service = service;
    survey->call = call;
    survey->link_name = mem_strdup("");
    survey->peer = mem_strdup("");
    survey->limit = limit < OPERATOR_DESCRIBED_MAX ? limit : OPERATOR_DESCRIBED_MAX;
    survey->timeout_ms = 1000 * (seconds < OPERATOR_ASK_MAX_S ? seconds : OPERATOR_ASK_MAX_S);
    list_init(&survey->asked);
    list_add_tail(&service->surveys, &survey->link);
    grpc_call_set_data(call, survey);
    return survey;
}

void operator_on_survey_done(struct grpc_call *call, void *arg)
{
    struct operator_survey *survey = grpc_call_data(call);

    (void)arg;
    if (survey == NULL)
        return; /* it was refused */
    while (!list_empty(&survey->asked)) {
        struct operator_asked *asked = LIST_ITEM(survey->asked.next, struct operator_asked, link);

        discovery_ask_no_more(survey->service->discovery, &asked->question);
        operator_asked_free(asked);
    }
    list_del(&survey->link);
    for (size_t i = 0; i < survey->num_targets; i++) {
        mem_free(survey->targets[i].subsystem);
        mem_free(survey->targets[i].spiffe_id);
        mem_free(survey->targets[i].instance);
    }
    mem_free(survey->targets);
    policy_set_free(survey->policies); /* it borrows from the mesh */
    mesh_merge_fini(&survey->merge);
    if (survey->revocation != NULL)
        pb_free(&survey->revocation->base);
    if (survey->config != NULL)
        pb_free(&survey->config->base);
    mem_free(survey->link_name);
    mem_free(survey->peer);
    mem_free(survey);
}

void operator_surveys_stop(struct operator_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->surveys)
        operator_survey_finish(LIST_ITEM(pos, struct operator_survey, link), GRPC_UNAVAILABLE,
                               "control plane is shutting down");
}

void operator_on_list_connections(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__ListConnectionsRequest *request =
        MSG_AS_CONST(Mortise__V1__ListConnectionsRequest,
                     mortise__v1__list_connections_request__descriptor, msg);
    struct operator_survey *survey;

    if (registry_spiffe_id(service->registry, request->subsystem) == NULL) {
        CLEANUP(mem_freep) char *names = operator_names(service);

        reply_text(call, GRPC_NOT_FOUND, "no subsystem \"%.64s\"; there are: %s",
                   request->subsystem, names);
        return;
    }
    survey = operator_survey_new(service, call,
                                 request->limit != 0 ? request->limit : OPERATOR_DESCRIBED_MAX,
                                 request->timeout_s);
    mem_free(survey->link_name);
    mem_free(survey->peer);
    survey->link_name = mem_strndup(request->link, OPERATOR_TEXT_MAX);
    survey->peer = mem_strndup(request->peer, OPERATOR_TEXT_MAX);
    operator_survey_targets(survey, request->subsystem);
    operator_survey_go_on(survey);
}

void operator_on_preview(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__PreviewRequest *request =
        MSG_AS_CONST(Mortise__V1__PreviewRequest, mortise__v1__preview_request__descriptor, msg);
    struct mesh_merge merge = {0};
    struct operator_survey *survey;

    if ((request->apply != NULL) == (request->revocation != NULL)) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "just one of apply and revocation is wanted");
        return;
    }
    registry_refresh(service->registry); /* what is pushed anyway is no part of it */
    if (request->apply != NULL && !operator_plan_apply(service, call, request->apply, &merge)) {
        mesh_merge_fini(&merge);
        return;
    }
    if (request->revocation != NULL && !operator_may_revoke(service, call, request->revocation))
        return;
    survey = operator_survey_new(service, call,
                                 request->limit != 0 ? request->limit : OPERATOR_PREVIEW_DESCRIBED,
                                 request->timeout_s);
    survey->previews = true;
    survey->merge = merge;
    if (merge.mesh != NULL)
        survey->policies = policy_set_new(merge.mesh->policies, merge.mesh->n_policies);
    if (request->revocation != NULL)
        survey->revocation = MSG_AS(Mortise__V1__Revocation, mortise__v1__revocation__descriptor,
                                    pb_clone(&request->revocation->base));
    operator_survey_targets(survey, NULL);
    operator_survey_go_on(survey);
}
