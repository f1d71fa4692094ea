/* tls_profile_impl: what the files of tls_profile share; nobody else includes it. */
#ifndef MORTISE_CERTS_TLS_PROFILE_IMPL_H
#define MORTISE_CERTS_TLS_PROFILE_IMPL_H

#include "certs/tls_names.h"
#include "certs/tls_profile.h"

struct tls_profile {
    struct refs refs;
    char *name;
    bool server;
    enum tls_client_auth client_auth;
    bool skip_verify;
    enum ssl_renegotiate_mode_t renegotiation;
    uint16_t min;
    uint16_t max;
    unsigned allowed13; /* TLS_13_ bits: what may be negotiated */
    unsigned offered13; /* what the library can be told to offer: not always the same */
    const struct tls_suite *suites[TLS_SUITES_NUM]; /* of TLS 1.2, by preference */
    size_t num_suites;
    const struct tls_group *groups[TLS_GROUPS_NUM];
    size_t num_groups;
    const struct tls_sigalg *sigalgs[TLS_SIGALGS_NUM];
    size_t num_sigalgs;
    /* The same as the library wants it. */
    char *suite_text; /* "A:B"; NULL: no suite of TLS 1.2 */
    char *group_text;
    uint16_t sigalg_ids[TLS_SIGALGS_NUM];
};

/* What a compilation hands around. */
struct tls_compile {
    struct tls_profile *profile;
    struct fault_path *path;
    struct faults *faults;
    bool ignore_unavailable;
};
/* tls_compile_fault adds a fault of one field. */
void tls_compile_fault(struct tls_compile *compile, const char *field, const char *text);
/* tls_compile_ends checks what is of one role only, and what concerns the connection and not what
 * is negotiated. */
void tls_compile_ends(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg);

/* tls_profile_serves, for a kind of key. */
enum tls_key { TLS_KEY_P256, TLS_KEY_P384, TLS_KEY_RSA };
bool tls_profile_serves_kind(const struct tls_profile *profile, enum tls_key key);

bool tls_profile_has_suite(const struct tls_profile *profile, uint16_t id);
bool tls_profile_has_group(const struct tls_profile *profile, uint16_t id);

/* Text, as describe and intersect write it. tls_text_add appends the separator before any but the
 * first; the others are made of it. */
MUST_CHECK err_t tls_text_add(struct buf *out, size_t *num, const char *separator,
                              const char *name);
MUST_CHECK err_t tls_text_suites13(unsigned mask, const char *separator, size_t *num,
                                   struct buf *out);
MUST_CHECK err_t tls_text_versions(uint16_t min, uint16_t max, struct buf *out);

#endif
