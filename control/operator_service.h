/* operator_service is what operators call: look, apply a document, make tokens, rotate, watch.
 * Reading and writing calls are in operator_service.c, the two that stream progress in
 * operator_watch.c, those about roots in operator_trust.c, about
 * revocations in operator_revoke.c, the backup in operator_backup.c. */
#ifndef MORTISE_CONTROL_OPERATOR_SERVICE_H
#define MORTISE_CONTROL_OPERATOR_SERVICE_H

#include "control/ca.h"
#include "control/registry.h"
#include "control/root_rotation.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_server.h"
#include "proto/mesh/operator.pb-c.h"

#define OPERATOR_WAIT_DEFAULT_S 60
#define OPERATOR_WAIT_MAX_S 3600
#define OPERATOR_SPREAD_MAX_MS 3600000
#define OPERATOR_CERTIFICATES_MAX 5000 /* newest first; what one answer holds */

struct operator_service {
    struct loop *loop; /* all borrowed */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct root_rotation *root_rotation;
    const struct clock *clock;
    int64_t started_at_s;
    struct list watches; /* streams that are open */
};

void operator_service_init(struct operator_service *service);
/* operator_service_stop ends the streams with UNAVAILABLE. */
void operator_service_stop(struct operator_service *service);

const struct grpc_method *operator_service_methods(size_t *out_num);

/* Between these files. operator_workload fills a message that borrows from the workload. */
void operator_workload(const struct workload *workload, Mortise__V1__Workload *out);
/* operator_log notes who did what. */
void operator_log(const struct grpc_call *call, const char *event, const char *what,
                  uint64_t version);
void operator_on_rotate(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rollout(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rotate_root(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_get_root_rotation(struct grpc_call *call, void *service,
                                   const ProtobufCMessage *msg);
void operator_on_revoke(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_lift(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_list_revocations(struct grpc_call *call, void *service,
                                  const ProtobufCMessage *msg);
void operator_on_backup(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_backup_done(struct grpc_call *call, void *service);
void operator_on_watch_done(struct grpc_call *call, void *service);
/* operator_names lists the subsystems: owned text. */
char *operator_names(const struct operator_service *service);

#endif
