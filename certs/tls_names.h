/* tls_names: the cipher suites, groups and signature algorithms that people name in profiles: what
 * each is good for, whether the TLS library has it, and what to take if it has not. Availability is
 * asked of the library itself, so that another one may have more or fewer. */
#ifndef MORTISE_CERTS_TLS_NAMES_H
#define MORTISE_CERTS_TLS_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tls_suite_flags {
    TLS_SUITE_13 = 1,    /* of TLS 1.3 */
    TLS_SUITE_ECDHE = 2, /* forward secrecy */
    TLS_SUITE_AEAD = 4,  /* no CBC, no RC4 */
    TLS_SUITE_ECDSA = 8, /* the server's certificate has an EC key */
    TLS_SUITE_RSA = 16,  /* ... an RSA key */
    TLS_SUITE_OLD = 32,  /* exists below TLS 1.2, too */
};
#define TLS_SUITE_GOOD (TLS_SUITE_ECDHE | TLS_SUITE_AEAD)

struct tls_suite {
    uint16_t id;
    const char *name; /* IANA */
    unsigned flags;
    const char *lacking; /* why the library may not have it; NULL: every one so far has it */
    const char *nearest; /* and what to take then */
};

/* By preference; the first TLS_13_NUM are those of TLS 1.3, and a set of them is a mask with their
 * bits: TLS_13_AES128 for the first. */
#define TLS_SUITES_NUM 25
extern const struct tls_suite tls_suites[TLS_SUITES_NUM];
#define TLS_13_NUM 3
enum { TLS_13_AES128 = 1, TLS_13_AES256 = 2, TLS_13_CHACHA = 4, TLS_13_ALL = 7 };

struct tls_group {
    uint16_t id;
    const char *name; /* as the library calls it */
    unsigned bits;    /* of strength against computers of today (NIST SP 800-57) */
    bool post_quantum;
};
#define TLS_GROUPS_NUM 4
extern const struct tls_group tls_groups[TLS_GROUPS_NUM];

enum tls_sigalg_kind {
    TLS_SIGALG_ECDSA,
    TLS_SIGALG_PSS,
    TLS_SIGALG_PKCS1,  /* TLS 1.2 only */
    TLS_SIGALG_REFUSED /* known, and why not */
};

struct tls_sigalg {
    uint16_t id;
    const char *name; /* IANA */
    enum tls_sigalg_kind kind;
    unsigned bits;   /* of its hash against collisions; 0: refused */
    const char *why; /* TLS_SIGALG_REFUSED */
};
#define TLS_SIGALGS_NUM 13
extern const struct tls_sigalg tls_sigalgs[TLS_SIGALGS_NUM];

/* Each finds a row by its name or one of its other spellings; NULL: unknown. */
const struct tls_suite *tls_suite_find(const char *name);
const struct tls_group *tls_group_find(const char *name);
const struct tls_sigalg *tls_sigalg_find(const char *name);
/* tls_suite_find_openssl: OpenSSL's names are what people have in their configurations. */
const struct tls_suite *tls_suite_find_openssl(const char *name);
bool tls_suite_available(const struct tls_suite *suite);
bool tls_group_available(const struct tls_group *group);

#endif
