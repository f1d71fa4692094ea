/* pki: a small mesh's certificates for tests, made by the modules under test: a root, an
 * intermediate, identities; and TLS profiles in one line. What cannot be made stops the test. */
#ifndef MORTISE_TEST_UNIT_CERTS_PKI_H
#define MORTISE_TEST_UNIT_CERTS_PKI_H

#include "certs/bundle.h"
#include "certs/issue.h"
#include "certs/svid.h"
#include "certs/tls_profile.h"
#include "lib/base/clock.h"

#define PKI_NOW INT64_C(1780000000)
#define PKI_DOMAIN "example.org"

struct pki {
    struct issuer root;
    struct issuer intermediate;
    struct bytes root_der; /* owned */
    struct bytes intermediate_der;
    struct bundle *bundle;
};

/* pki_init makes a root and an intermediate of PKI_DOMAIN, valid for years around PKI_NOW. */
void pki_init(struct pki *pki);
void pki_fini(struct pki *pki);
/* pki_svid issues a leaf for a day; `spiffe_id` NULL: only `dns`. */
struct svid *pki_svid(const struct pki *pki, const char *spiffe_id, const char *dns);
X509 *pki_x509(struct bytes der);

/* A profile; lists are NULL-ended or NULL. */
struct pki_profile {
    bool server;
    Mortise__V1__TlsVersion min;
    Mortise__V1__TlsVersion max;
    const char *suites[8];
    const char *groups[4];
    const char *sigalgs[4];
    bool ignore_unavailable;
    bool allow_legacy;
    const char *server_name; /* NULL: none */
    Mortise__V1__TlsProfile__SendSni send_sni;
    bool skip_verify;
    Mortise__V1__TlsProfile__Renegotiation renegotiation;
    Mortise__V1__TlsProfile__ClientAuth client_auth;
    uint32_t handshake_timeout_ms;
    uint32_t idle_timeout_s;
};
#define PKI_TLS1_0 MORTISE__V1__TLS_VERSION__TLS1_0
#define PKI_TLS1_1 MORTISE__V1__TLS_VERSION__TLS1_1
#define PKI_TLS1_2 MORTISE__V1__TLS_VERSION__TLS1_2
#define PKI_TLS1_3 MORTISE__V1__TLS_VERSION__TLS1_3
/* pki_message fills `out` with borrowed strings; release its lists with pki_message_fini. */
void pki_message(const struct pki_profile *in, Mortise__V1__TlsProfile *out);
void pki_message_fini(Mortise__V1__TlsProfile *msg);
struct tls_profile *pki_profile(const struct pki_profile *in);

/* A clock that stands still. */
struct pki_clock {
    struct clock clock;
    int64_t now_s;
};
void pki_clock_init(struct pki_clock *clock, int64_t now_s);

#endif
