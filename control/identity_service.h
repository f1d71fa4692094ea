/* identity_service answers Attest and Renew: who asks, may he, is it his key, then one transaction
 * that uses up the token and records the certificate, then the answer. Those that are asked for in
 * one round of the loop share a transaction: a fleet that renews at once waits for the disk some
 * dozens of times, not ten thousand. Source: reliability R35-R37,
 * R39, R44, R62. */
#ifndef MORTISE_CONTROL_IDENTITY_SERVICE_H
#define MORTISE_CONTROL_IDENTITY_SERVICE_H

#include "control/audit_call.h"
#include "control/ca.h"
#include "control/events.h"
#include "control/meters.h"
#include "control/oidc.h"
#include "control/registry.h"
#include "lib/base/options.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_server.h"

struct identity_service;

struct identity_service_params {
    struct events *events; /* may be NULL */
    struct loop *loop;     /* all borrowed */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct meters *meters;
    struct audit *audit;     /* may be NULL */
    struct oidc *kubernetes; /* whose pods' tokens are taken; NULL: nobody's */
    const struct option_list *kubernetes_namespaces; /* of these; with the former */
    const struct clock *clock;
};

struct identity_service *identity_service_new(const struct identity_service_params *params);
void identity_service_free(struct identity_service *service);

/* The methods, for grpc_server_add with the service; static. */
const struct grpc_method *identity_service_methods(size_t *out_num);

#endif
