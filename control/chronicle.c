#include "control/chronicle.h"

#include <string.h>

#include "lib/base/clock.h"

static void chronicle_note(struct chronicle *chronicle, const struct event *event)
{
    events_add(chronicle->events, event, clock_wall_us() / 1000);
}

static void chronicle_note_sidecar(struct chronicle *chronicle, const char *kind,
                                   const struct workload *workload)
{
    chronicle_note(chronicle, &(struct event){
                                  .kind = kind,
                                  .subsystem = workload->subsystem,
                                  .instance = workload->instance,
                                  .id = workload->spiffe_id,
                                  .detail = workload->address,
                              });
}

static void chronicle_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct chronicle *chronicle = arg;
    uint64_t version = registry_mesh_version(chronicle->registry);

    if (event == REGISTRY_JOINED)
        chronicle_note_sidecar(chronicle, "sidecar_joined", workload);
    if (event == REGISTRY_LEFT)
        chronicle_note_sidecar(chronicle, "sidecar_left", workload);
    if (event != REGISTRY_MESH || version == chronicle->mesh_version)
        return;
    chronicle->mesh_version = version;
    chronicle_note(chronicle, &(struct event){.kind = "mesh_changed", .version = version});
}

void chronicle_start(struct chronicle *chronicle, struct events *events, struct registry *registry)
{
    *chronicle = (struct chronicle){
        .observer = {.fn = chronicle_on_event, .arg = chronicle},
        .events = events,
        .registry = registry,
        .mesh_version = registry_mesh_version(registry),
    };
    registry_observe(registry, &chronicle->observer);
}

void chronicle_stop(struct chronicle *chronicle)
{
    if (chronicle->registry != NULL)
        registry_unobserve(chronicle->registry, &chronicle->observer);
    chronicle->registry = NULL;
}

void chronicle_stage(struct chronicle *chronicle, const struct root_rotation_state *state)
{
    chronicle_note(chronicle, &(struct event){
                                  .kind = "rotation_stage",
                                  .id = rotation_kind_name(state->kind),
                                  .detail = rotation_name(state->stage),
                                  .number = state->number,
                              });
}

void chronicle_issued(struct chronicle *chronicle, const char *reason)
{
    /* Those of sidecars are told by who issues them, with the serial number. */
    if (strcmp(reason, "control") == 0 || strcmp(reason, "admin") == 0)
        chronicle_note(chronicle, &(struct event){.kind = "certificate_issued", .detail = reason});
}
