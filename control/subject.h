/* subject: how bindings call those whom an OIDC issuer vouches for: "oidc:https://id.example#4711",
 * "oidc-group:https://id.example#ops". An issuer has no '#' in it, so the first one ends it. */
#ifndef MORTISE_CONTROL_SUBJECT_H
#define MORTISE_CONTROL_SUBJECT_H

#define SUBJECT_TOKEN "oidc:"
#define SUBJECT_GROUP "oidc-group:"
#define SUBJECT_ISSUER_MAX 200 /* bytes: with the longest group a subject has 467 */

#endif
