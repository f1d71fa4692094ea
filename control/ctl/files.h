/* files: what mortisectl writes for others: certificates, keys, folders. Nothing is ever
 * overwritten. */
#ifndef MORTISE_CONTROL_CTL_FILES_H
#define MORTISE_CONTROL_CTL_FILES_H

#include <stdbool.h>
#include <sys/types.h>

#include <openssl/evp.h>
#include <protobuf-c/protobuf-c.h>

#include "lib/base/buf.h"

/* files_make_folder makes `path` (0700), or takes one that is there, is ours and is closed to
 * others. False: told. */
bool files_make_folder(const char *path);
/* files_write makes the new file FOLDER/NAME with the bits `mode`. False: told (also when it
 * exists). */
bool files_write(const char *folder, const char *name, struct bytes content, mode_t mode);
/* files_are_free tells whether none of the NULL-ended `names` exists in `folder`. False: told. */
bool files_are_free(const char *folder, const char *const *names);

/* files_pem appends DER certificates as PEM. */
void files_pem(const ProtobufCBinaryData *ders, size_t num, struct buf *out);
/* files_write_svid writes key.pem (0600), cert.pem and roots.pem. False: told. */
bool files_write_svid(const char *folder, const EVP_PKEY *key, const ProtobufCBinaryData *chain,
                      size_t num_chain, const ProtobufCBinaryData *roots, size_t num_roots);
extern const char *const files_svid_names[];

/* files_csr makes a key and a request of it. Owned; they cannot fail but by a bug. */
EVP_PKEY *files_csr(struct buf *out_csr);

#endif
