/* web_roots: the SSL_CTX with which a server on the web is asked: TLS 1.2 at least, its chain must
 * end at one of these CAs. Its name is the caller's to want (X509_VERIFY_PARAM_set1_host). Nothing
 * of the mesh's is in it. Source: RFC 5280, RFC 8446. */
#ifndef MORTISE_CERTS_WEB_ROOTS_H
#define MORTISE_CERTS_WEB_ROOTS_H

#include <openssl/ssl.h>

#include "lib/base/err.h"

#define WEB_ROOTS_MAX ((size_t)4 << 20) /* bytes; Debian's are 220 kB */

/* web_roots_ctx reads the CAs of a PEM file, NULL: those of the system. `*out` is owned
 * (SSL_CTX_free). Errors: those of file_read, PEM_EMPTY, CERT_SYNTAX, NO_MEMORY. */
MUST_CHECK err_t web_roots_ctx(const char *file, SSL_CTX **out);

#endif
