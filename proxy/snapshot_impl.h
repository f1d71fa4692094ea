/* snapshot_impl: what the files of snapshot.h share: snapshot_names.c (names, and how faults are
 * told), snapshot_trust.c (truststores, our own certificate under them, keystores),
 * snapshot_links.c (profiles and links), snapshot_routes.c (destinations), snapshot_policies.c
 * (policies), snapshot.c (the whole). */
#ifndef MORTISE_PROXY_SNAPSHOT_IMPL_H
#define MORTISE_PROXY_SNAPSHOT_IMPL_H

#include "proxy/snapshot.h"

typedef Mortise__V1__SidecarConfig config_msg;

/* What is known while a configuration is looked at. */
struct snapshot_store {
    const char *name;
    const char *trust_domain; /* "" : any */
    struct bundle *bundle;    /* NULL: faulty, told */
    struct crl_set *crls;     /* NULL: none, or faulty, told */
    bool own;                 /* see snapshot.h */
};

struct snapshot_profile {
    const char *name;
    const Mortise__V1__TlsProfile *msg; /* the configuration's, or a built-in one */
    bool server;
    struct tls_profile *profile; /* NULL: faulty, told */
};

struct snapshot_client {
    const struct snapshot_store *store;
    const struct snapshot_profile *profile;
    const struct svid *svid;
    struct tls_ctx *tls;
};

struct snapshot_builder {
    const struct snapshot_input *in;
    struct faults *faults;
    struct fault_path path;
    struct snapshot_store *stores;
    size_t num_stores;
    struct snapshot_profile *profiles;
    size_t num_profiles;
    Mortise__V1__TlsProfile *builtin[TLS_PROFILE_DEFAULTS];
    size_t num_builtin;
    struct snapshot_client *clients; /* made so far: links with one profile and store share */
    size_t num_clients;
    struct snapshot *snapshot;
};

/* ---- faults ---- */

/* snapshot_fault adds one at the current path. */
void snapshot_fault(struct snapshot_builder *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A fault of one field below the current path. */
#define FIELD_FAULT(b, field, ...)                                  \
    do {                                                            \
        size_t field_mark_ = fault_path_field(&(b)->path, (field)); \
        snapshot_fault((b), __VA_ARGS__);                           \
        fault_path_pop(&(b)->path, field_mark_);                    \
    } while (0)

/* ---- names ---- */

static inline bool snapshot_is_empty(const char *str)
{
    return str == NULL || str[0] == '\0';
}

bool snapshot_is_dns_name(const char *text);
/* snapshot_check_name checks the name of a member of a list; `name_of(i)` gives those before it. */
void snapshot_check_name(struct snapshot_builder *b, const char *what, const char *name,
                         const char *(*name_of)(const config_msg *config, size_t i), size_t index);
/* snapshot_known writes "there are: a, b" of what a reference may name. */
void snapshot_known(const char *const *names, size_t num, char *out, size_t size);

/* snapshot_log_permille is how much of the access log goes up, at the current path. */
unsigned snapshot_log_permille(struct snapshot_builder *b, uint32_t permille);

/* ---- truststores ---- */

void snapshot_build_stores(struct snapshot_builder *b);
/* snapshot_find_store is the truststore that a link names, which is noted with the link; NULL after
 * a fault. */
const struct snapshot_store *snapshot_find_store(struct snapshot_builder *b, const char *name,
                                                 struct link *link);
/* snapshot_check_identity: our certificate leads to the truststore of its own trust domain. */
void snapshot_check_identity(struct snapshot_builder *b);
/* snapshot_keep_trust hands what was built to the snapshot. */
void snapshot_keep_trust(struct snapshot_builder *b);

/* ---- keystores ---- */

void snapshot_check_keystores(struct snapshot_builder *b);
/* snapshot_find_keystore is what a link shows that names this one, the sidecar's own certificate
 * where it names none; NULL after a fault, and where there is no certificate yet. */
struct svid *snapshot_find_keystore(struct snapshot_builder *b, const char *name);

/* ---- profiles and links ---- */

void snapshot_build_profiles(struct snapshot_builder *b);
void snapshot_build_outbounds(struct snapshot_builder *b);
/* snapshot_build_routes comes behind the outbound links. */
void snapshot_build_routes(struct snapshot_builder *b);
void snapshot_build_inbounds(struct snapshot_builder *b);

/* ---- policies ---- */

/* snapshot_check_policies comes behind the links, which policies name. */
void snapshot_check_policies(struct snapshot_builder *b);

#endif
