/* access_service is what AccessService of the schemas answers: who I am, roles, and who has them.
 */
#ifndef MORTISE_CONTROL_ACCESS_SERVICE_H
#define MORTISE_CONTROL_ACCESS_SERVICE_H

#include "control/access.h"
#include "control/admins.h"
#include "control/audit.h"
#include "control/bucket.h"
#include "control/ca.h"
#include "control/caller.h"
#include "control/elevations.h"
#include "control/events.h"
#include "control/registry.h"
#include "lib/base/clock.h"
#include "lib/rpc/grpc_server.h"

struct access_service {
    struct access *access; /* all borrowed */
    struct elevations *elevations;
    const struct caller_rules *rules;
    const struct clock *clock;
    struct events *events;
    struct audit *audit; /* NULL: nobody listens */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct admins *admins;
    /* A token was used, by that administrator (may be NULL). */
    void (*on_login)(void *arg, const char *admin);
    void *arg;
    struct buckets sources; /* of Login */
    struct buckets all;
};

/* access_service_init is called when the rest is filled in. */
void access_service_init(struct access_service *service);
void access_service_fini(struct access_service *service);

const struct grpc_method *access_service_methods(size_t *out_num);

/* Between these files. access_log notes who did what; access_will what the audit log will say of
 * the change that follows; access_author is the caller. */
void access_log(const struct access_service *service, const struct grpc_call *call,
                const char *event, const char *what);
void access_will(const struct access_service *service, const struct grpc_call *call,
                 enum audit_action action, const char *path, const char *what);
struct access_author access_author(const struct access_service *service,
                                   const struct grpc_call *call, char name[CALLER_NAME_MAX]);
/* access_may_take: whether the caller may have `subject` get `role` ("": the one that it has, else
 * admin), which comes into `*out`. False: the call was refused. */
bool access_may_take(const struct access_service *service, struct grpc_call *call,
                     const char *subject, const char *role, struct role *out);
void access_on_create_login(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void access_on_login(struct grpc_call *call, void *service, const ProtobufCMessage *msg);

#endif
