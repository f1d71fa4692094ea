/* What control/operator_service.h has about revisions of the mesh: looking at them, going back to
 * one, and telling who was faster. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define OPERATOR_RACE_TOLD 5 /* changes of others */
#define OPERATOR_RACE_MESSAGE_MAX 200

static void operator_revision(const Mortise__Control__Revision *item, Mortise__V1__Revision *out)
{
    *out = (Mortise__V1__Revision)MORTISE__V1__REVISION__INIT;
    out->version = item->version;
    out->changed_at = item->changed_at;
    out->author = item->author;
    out->message = item->message;
    out->changes = item->changes;
    out->n_changes = item->n_changes;
    out->num_changes = item->num_changes;
}

void operator_on_list_revisions(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const struct revisions *revisions = registry_revisions(service->registry);
    const Mortise__V1__ListRevisionsRequest *request = MSG_AS_CONST(
        Mortise__V1__ListRevisionsRequest, mortise__v1__list_revisions_request__descriptor, msg);
    Mortise__V1__ListRevisionsResponse reply = MORTISE__V1__LIST_REVISIONS_RESPONSE__INIT;
    Mortise__V1__Revision items[REVISIONS_KEPT], *pointers[REVISIONS_KEPT];
    char next[OPERATOR_NUMBER_MAX];
    size_t max = operator_page_size(request->page_size);
    uint64_t before;

    if (!operator_read_token(call, request->page_token, &before))
        return;
    reply.revisions = pointers;
    for (size_t i = revisions->num; i-- > 0;) {
        const Mortise__Control__Revision *item = revisions->items[i];

        if (before != 0 && item->version >= before)
            continue;
        if (reply.n_revisions == max || reply.n_revisions == ARRAY_LEN(items)) {
            reply.next_page_token = next;
            break;
        }
        operator_revision(item, &items[reply.n_revisions]);
        pointers[reply.n_revisions] = &items[reply.n_revisions];
        reply.n_revisions++;
        (void)snprintf(next, sizeof(next), "%" PRIu64, item->version);
    }
    grpc_call_reply(call, &reply.base);
}

static void operator_refuse_revision(const struct operator_service *service, struct grpc_call *call,
                                     uint64_t version)
{
    const struct revisions *revisions = registry_revisions(service->registry);

    reply_text(call, GRPC_NOT_FOUND,
               "no revision %" PRIu64 " is kept; there are %zu, from %" PRIu64 " to %" PRIu64
               ": mortisectl history",
               version, revisions->num, revisions->num > 0 ? revisions->items[0]->version : 0,
               revisions_newest(revisions));
}

/* Its mesh, owned (pb_free); NULL: the call was refused. */
static Mortise__Control__MeshRecord *
operator_revision_mesh(struct operator_service *service, struct grpc_call *call, uint64_t version)
{
    const struct revisions *revisions = registry_revisions(service->registry);
    Mortise__Control__MeshRecord *record = NULL;
    err_t err;

    if (revisions_find(revisions, version) == NULL) {
        operator_refuse_revision(service, call, version);
        return NULL;
    }
    err = revisions_mesh(revisions, version, &record);
    if (err_is_ok(err))
        return record;
    reply_error(call, err);
    return NULL;
}

void operator_on_get_revision(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__GetRevisionRequest *request = MSG_AS_CONST(
        Mortise__V1__GetRevisionRequest, mortise__v1__get_revision_request__descriptor, msg);
    Mortise__Control__MeshRecord *record = operator_revision_mesh(service, call, request->version);
    Mortise__V1__GetRevisionResponse reply = MORTISE__V1__GET_REVISION_RESPONSE__INIT;
    Mortise__V1__Revision item;

    if (record == NULL)
        return;
    operator_revision(revisions_find(registry_revisions(service->registry), request->version),
                      &item);
    reply.revision = &item;
    reply.mesh = record->mesh;
    grpc_call_reply(call, &reply.base);
    pb_free(&record->base);
}

/* ----------------------------------------------------------------- going back */

/* A document without settings leaves them as they are; the mesh of a revision without any has the
 * defaults. */
static void operator_reset_settings(const struct operator_service *service, Mortise__V1__Mesh *mesh)
{
    static const Mortise__V1__MeshSettings none = MORTISE__V1__MESH_SETTINGS__INIT;

    if (mesh->settings == NULL && registry_mesh(service->registry)->settings != NULL)
        mesh->settings = MSG_AS(Mortise__V1__MeshSettings, mortise__v1__mesh_settings__descriptor,
                                pb_clone(&none.base));
}

bool operator_take_revision(struct operator_service *service, struct grpc_call *call,
                            Mortise__V1__ApplyRequest *request, ProtobufCMessage **out)
{
    Mortise__Control__MeshRecord *record;

    if (request->mesh != NULL) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "revision: goes without a mesh");
        return false;
    }
    record = operator_revision_mesh(service, call, request->revision);
    if (record == NULL)
        return false;
    operator_reset_settings(service, record->mesh);
    request->mesh = record->mesh;
    request->prune = true;
    *out = &record->base;
    return true;
}

/* Whether a text shows on a screen as what it is. */
static bool operator_is_printable(const char *text)
{
    char shown[REVISIONS_MESSAGE_MAX * 6 + 1];
    size_t len = 0;

    shown[0] = '\0';
    return str_escape(shown, sizeof(shown), &len, bytes_of_str(text), false) &&
           strcmp(shown, text) == 0;
}

char *operator_revision_message(struct grpc_call *call, const Mortise__V1__ApplyRequest *request)
{
    const char *message = request->message;

    if (strlen(message) > REVISIONS_MESSAGE_MAX || !operator_is_printable(message)) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "message: one line of printable characters (UTF-8), at most %d bytes",
                   REVISIONS_MESSAGE_MAX);
        return NULL;
    }
    if (request->revision == 0)
        return mem_strdup(message);
    return mem_printf("back to revision %" PRIu64 "%s%s", request->revision,
                      message[0] != '\0' ? ": " : "", message);
}

/* ------------------------------------------------------------------- a lost race */

/* "  12 2026-11-23T01:35:24Z uid:0: link a-b: changed server_port (and 3 more): "why"" */
static err_t operator_tell_revision(const Mortise__Control__Revision *item, struct buf *out)
{
    size_t len = str_utf8_cut(bytes_of_str(item->message), OPERATOR_RACE_MESSAGE_MAX);
    char utc[21];

    clock_format_utc(item->changed_at, utc);
    TRY(buf_printf(out, "\n  %" PRIu64 " %s %s: %s", item->version, utc, item->author,
                   item->n_changes > 0 ? item->changes[0] : "the first one"));
    if (item->num_changes > 1)
        TRY(buf_printf(out, " (and %u more)", item->num_changes - 1));
    if (len > 0)
        TRY(buf_printf(out, ": \"%.*s\"", (int)len, item->message));
    return OK;
}

void operator_refuse_race(struct operator_service *service, struct grpc_call *call, uint64_t since)
{
    const struct revisions *revisions = registry_revisions(service->registry);
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *whole = NULL;
    size_t told = 0;
    err_t err;

    err = buf_printf(&text,
                     "store_conflict: the mesh is at version %" PRIu64 ", not %" PRIu64
                     ": get it again and put your change in there",
                     registry_mesh_version(service->registry), since);
    for (size_t i = revisions->num; i-- > 0 && revisions->items[i]->version > since;) {
        if (told++ == OPERATOR_RACE_TOLD && err_is_ok(err)) {
            err = buf_add_str(&text, "\n  and more: mortisectl history");
            break;
        }
        if (err_is_ok(err))
            err = operator_tell_revision(revisions->items[i], &text);
    }
    CHECK(err_is_ok(err)); /* a few lines */
    whole = buf_take_str(&text);
    reply_text(call, GRPC_ABORTED, "%s", whole);
}
