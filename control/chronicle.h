/* chronicle notes in events what the registry and the rotation of the root go through. */
#ifndef MORTISE_CONTROL_CHRONICLE_H
#define MORTISE_CONTROL_CHRONICLE_H

#include "control/events.h"
#include "control/registry.h"
#include "control/root_rotation.h"

struct chronicle {
    struct registry_observer observer;
    struct events *events; /* borrowed, as what follows */
    struct registry *registry;
    uint64_t mesh_version; /* told */
};

/* chronicle_start begins with what is in force now, which is no news. */
void chronicle_start(struct chronicle *chronicle, struct events *events, struct registry *registry);
void chronicle_stop(struct chronicle *chronicle);
/* What the registry does not know. Before chronicle_start nothing is noted. */
void chronicle_stage(struct chronicle *chronicle, const struct root_rotation_state *state);
void chronicle_issued(struct chronicle *chronicle, const char *reason);

#endif
