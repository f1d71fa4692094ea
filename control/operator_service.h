/* operator_service is what operators call: look, apply a document, make tokens, rotate, watch.
 * Reading and writing calls are in operator_service.c, the lists that come in pages in
 * operator_lists.c, what the mesh was in operator_revisions.c, the two that stream progress in
 * operator_watch.c, those about roots in operator_trust.c, about revocations in operator_revoke.c,
 * the examination in operator_check.c, why a link fails in operator_why.c, about a store that was
 * put back in operator_rollback.c, the backup in operator_backup.c, those that ask sidecars in
 * operator_inspect.c, the audit log in operator_audit.c, keystores in operator_keystore.c, Watch in
 * operator_events.c, Logs in operator_logs.c, the revocation lists in operator_crl.c. */
#ifndef MORTISE_CONTROL_OPERATOR_SERVICE_H
#define MORTISE_CONTROL_OPERATOR_SERVICE_H

#include "control/access.h"
#include "control/admins.h"
#include "control/audit_call.h"
#include "control/ca.h"
#include "control/caller.h"
#include "control/conn_log.h"
#include "control/crls.h"
#include "control/discovery_service.h"
#include "control/elevations.h"
#include "control/events.h"
#include "control/mesh_merge.h"
#include "control/registry.h"
#include "control/rekey.h"
#include "control/root_rotation.h"
#include "control/server_cert.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_server.h"
#include "proto/mesh/operator.pb-c.h"

#define OPERATOR_WAIT_DEFAULT_S 60
#define OPERATOR_WAIT_MAX_S 3600
#define OPERATOR_SPREAD_MAX_MS 3600000
#define OPERATOR_TEXT_MAX 4096 /* of a name to be looked for */

struct operator_service {
    struct loop *loop; /* all borrowed */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct root_rotation *root_rotation;
    struct crls *crls;
    struct rekey *rekey;
    struct admins *admins;
    struct access *access;
    const struct caller_rules *rules;
    struct plaintext_uses *plaintext_uses;
    const struct elevations *elevations;
    struct server_cert *cert;
    const struct clock *clock;
    int64_t started_at_s;
    uint32_t process; /* at random: this one, and no other before or after it */
    struct discovery_service *discovery;
    struct events *events;
    struct audit *audit;
    struct list watches; /* streams that are open */
    struct list surveys; /* likewise */
    struct list watchers;
    struct list whys; /* that wait for trials */
    struct list logs; /* streams of Logs */
    struct conn_log *conn_log;
};

void operator_service_init(struct operator_service *service);
/* operator_service_stop ends the streams with UNAVAILABLE. */
void operator_service_stop(struct operator_service *service);

const struct grpc_method *operator_service_methods(size_t *out_num);

/* Between these files. operator_fresh gives the registry with what a change still owes computed:
 * nobody is told "in sync" of what he has not seen. operator_workload fills a message that borrows
 * from the workload. */
struct registry *operator_fresh(struct operator_service *service);
void operator_workload(const struct workload *workload, Mortise__V1__Workload *out);
/* operator_read_token reads the number of a workload or a revision, as it stands in a token; 0 when
 * there is none. False: it is no number, and the call was refused. */
#define OPERATOR_NUMBER_MAX 21 /* digits of a uint64_t and a NUL */
bool operator_read_token(struct grpc_call *call, const char *token, uint64_t *out);
size_t operator_page_size(uint32_t wanted);
void operator_on_why(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_why_done(struct grpc_call *call, void *service);
void operator_whys_stop(struct operator_service *service);
void operator_on_check(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_list_workloads(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_list_certificates(struct grpc_call *call, void *service,
                                   const ProtobufCMessage *msg);
/* operator_will announces the change of a record under `path` for the audit log: the transaction
 * that changes it carries `entry`, to which the caller is added. operator_records writes one of its
 * own, before what it tells of is done; false: it could not, and the call was refused. */
void operator_will(const struct operator_service *service, const struct grpc_call *call,
                   const char *path, const struct audit_entry *entry);
bool operator_records(struct operator_service *service, struct grpc_call *call,
                      const struct audit_entry *entry);
/* operator_log notes who did what, for those who watch, too. `event` is a constant. */
void operator_log(const struct operator_service *service, const struct grpc_call *call,
                  const char *event, const char *what, uint64_t version);
void operator_on_list_revisions(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_get_revision(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
/* operator_take_revision puts the mesh of the revision that is asked for into the request, owned by
 * `*out` (pb_free). False: the call was refused. */
bool operator_take_revision(struct operator_service *service, struct grpc_call *call,
                            Mortise__V1__ApplyRequest *request, ProtobufCMessage **out);
/* operator_revision_message is what the revision of the change will say, owned; NULL: the call was
 * refused. */
char *operator_revision_message(struct grpc_call *call, const Mortise__V1__ApplyRequest *request);
/* operator_refuse_race tells who has changed what since the version that the request was made at.
 */
void operator_refuse_race(struct operator_service *service, struct grpc_call *call, uint64_t since);
void operator_on_rotate(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rollout(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rotate_root(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_get_root_rotation(struct grpc_call *call, void *service,
                                   const ProtobufCMessage *msg);
void operator_on_rotate_control(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rotate_admin(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_create_csr(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_import_issuer(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_rotate_key(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_revoke(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_lift(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_list_revocations(struct grpc_call *call, void *service,
                                  const ProtobufCMessage *msg);
void operator_on_list_crls(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_get_rollback(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_confirm_rollback(struct grpc_call *call, void *service,
                                  const ProtobufCMessage *msg);
void operator_on_backup(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_backup_done(struct grpc_call *call, void *service);
void operator_on_list_connections(struct grpc_call *call, void *service,
                                  const ProtobufCMessage *msg);
void operator_on_preview(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_survey_done(struct grpc_call *call, void *service);
void operator_surveys_stop(struct operator_service *service);
void operator_on_list_audit(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_get_audit(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_export_audit(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_purge_audit(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_watch(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_watcher_done(struct grpc_call *call, void *service);
void operator_watchers_stop(struct operator_service *service);
void operator_on_logs(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
void operator_on_logs_done(struct grpc_call *call, void *service);
void operator_logs_stop(struct operator_service *service);
/* operator_plan_apply merges and checks; false when the call was refused. `out` is to be ended with
 * mesh_merge_fini either way. */
bool operator_plan_apply(struct operator_service *service, struct grpc_call *call,
                         const Mortise__V1__ApplyRequest *request, struct mesh_merge *out);
/* operator_plan is the same of a change that brings the key with that fingerprint (NULL: none). */
bool operator_plan(struct operator_service *service, struct grpc_call *call,
                   const Mortise__V1__ApplyRequest *request, const char *key_sha256,
                   struct mesh_merge *out);
/* operator_commit makes what was planned the mesh, with the key (NULL: none), and answers; with
 * `dry_run` it only answers. */
void operator_commit(struct operator_service *service, struct grpc_call *call,
                     const struct mesh_merge *merge, const Mortise__V1__ApplyRequest *request,
                     const char *message, const struct registry_key *key);
void operator_on_import_keystore(struct grpc_call *call, void *service,
                                 const ProtobufCMessage *msg);
/* operator_may_revoke: false when the call was refused. */
bool operator_may_revoke(struct operator_service *service, struct grpc_call *call,
                         const Mortise__V1__Revocation *revocation);
void operator_on_watch_done(struct grpc_call *call, void *service);
/* operator_elevation is the caller's; NULL: he has none, and the call was refused with what to do
 * about it. `what` begins a sentence: "rotating the root". */
const struct elevation *operator_elevation(const struct operator_service *service,
                                           struct grpc_call *call, const char *what);
/* operator_names lists the subsystems: owned text. */
char *operator_names(const struct operator_service *service);

#endif
