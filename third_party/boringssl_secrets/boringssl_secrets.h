/* boringssl_secrets: the C face of bssl::SSL_get_traffic_secrets, which BoringSSL offers to C++
 * alone. */
#ifndef MORTISE_THIRD_PARTY_BORINGSSL_SECRETS_H
#define MORTISE_THIRD_PARTY_BORINGSSL_SECRETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* boringssl_secrets gives the TLS 1.3 traffic secrets in force of a session whose handshake is
 * done; both are `*out_len` bytes, inside `ssl`. False: there are none. */
bool boringssl_secrets(const SSL *ssl, const uint8_t **out_read, const uint8_t **out_write,
                       size_t *out_len);

#ifdef __cplusplus
}
#endif

#endif
