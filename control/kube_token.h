/* kube_token is what a Kubernetes service account token says of the pod that it was given to. Pure;
 * the token was verified (certs/jwt.h). Source: Kubernetes' "bound service account tokens" (private
 * claims of pkg/serviceaccount), reliability R43, F51. */
#ifndef MORTISE_CONTROL_KUBE_TOKEN_H
#define MORTISE_CONTROL_KUBE_TOKEN_H

#include "lib/base/buf.h"
#include "lib/base/err.h"

/* Strings are owned. */
struct kube_token {
    char *namespace;
    char *service_account;
    char *pod;
    char *pod_uid;
};

/* kube_token_is: text that may be one, and is no token of ours ("mjt1.…"). */
bool kube_token_is(const char *text);

/* kube_token_read reads the claims, JSON; release with kube_token_fini even on error. Errors:
 * JWT_CLAIM (a claim is missing, of another type, no name of Kubernetes', or contradicts `sub`);
 * TOKEN_UNBOUND (a token of a service account, as `kubectl create token` makes it, and not of one
 * of its pods: it is good wherever somebody took it). */
MUST_CHECK err_t kube_token_read(struct bytes claims, struct kube_token *out);
void kube_token_fini(struct kube_token *token);

#endif
