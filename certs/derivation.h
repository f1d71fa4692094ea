/* derivation says how much work a file wants done before its password is known to be right: the
 * rounds of key derivation that stand in what is encrypted with a passphrase. A library that is
 * given such a file does them all. */
#ifndef MORTISE_CERTS_DERIVATION_H
#define MORTISE_CERTS_DERIVATION_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/buf.h"

#define DERIVATION_ROUNDS_MAX 2000000 /* of each; OpenSSL makes 2,048 to 600,000 */
#define DERIVATION_NUM_MAX 4 /* of a PKCS#12: the MAC, certificates, the key, and one over */

/* derivation_pkcs8_bounded is for an EncryptedPrivateKeyInfo (DER), derivation_pkcs12_bounded for a
 * PFX with a MAC by a password (DER, or BER with indefinite lengths and strings in parts, as
 * browsers write it). False: one wants
 * more than `max` rounds, there are too many, or it is none. What stands in an encrypted
 * part of a PKCS#12 cannot be seen beforehand: there the library allows one key, of at most a
 * hundred million rounds. Both look only; memory is at most some times the file. */
bool derivation_pkcs8_bounded(struct bytes der, uint64_t max);
bool derivation_pkcs12_bounded(struct bytes file, uint64_t max);

#endif
