/* audit_chain is what makes records of the audit log a chain: their hashes, signatures and form as
 * text, and the judgement of a chain, of a control plane or of a file. Pure. The record and how it
 * is hashed are in proto/mesh/audit.proto. Source: reliability R51. */
#ifndef MORTISE_CONTROL_AUDIT_CHAIN_H
#define MORTISE_CONTROL_AUDIT_CHAIN_H

#include <openssl/evp.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "proto/mesh/audit.pb-c.h"

#define AUDIT_HASH 32

/* What a record tells of; audit_tbl.h. */
enum audit_action {
#define X(name, word, method, about) AUDIT_##name,
#include "control/audit_tbl.h"
#undef X
    AUDIT_ACTION_NUM,
};
const char *audit_word(enum audit_action action);
const char *audit_about(enum audit_action action);
/* audit_of_method is what a call of that path asks for; AUDIT_ACTION_NUM: nothing that is told of.
 */
enum audit_action audit_of_method(const char *path);

/* audit_hash is what the next record has of this one. Errors: TOO_LARGE. */
MUST_CHECK err_t audit_hash(const Mortise__V1__AuditRecord *record, uint8_t out[AUDIT_HASH]);
/* audit_sign puts the signature into the record: `out` (owned by the caller) holds it. `key` is a
 * P-256 one. audit_is_signed: it is there, and of the private key that `key` belongs to. */
MUST_CHECK err_t audit_sign(EVP_PKEY *key, Mortise__V1__AuditRecord *record, struct buf *out);
bool audit_is_signed(EVP_PKEY *key, const Mortise__V1__AuditRecord *record);
/* audit_json appends the record as one line of JSON, with its end. Errors: TOO_LARGE. */
MUST_CHECK err_t audit_json(const Mortise__V1__AuditRecord *record, struct buf *out);

/* audit_verifier judges records that come one after the other. Zeroed memory with `key` set begins;
 * without a key, signatures are only counted. */
struct audit_verifier {
    EVP_PKEY *key;      /* borrowed; NULL: not known */
    uint64_t num;       /* records taken */
    uint64_t first_seq; /* of the first */
    uint64_t last_seq;
    uint8_t last[AUDIT_HASH];
    uint64_t signed_seq; /* of the last one that is signed; all before it is vouched for */
    uint64_t exported;   /* of the last one that ends an export; 0: there was none */
    int64_t exported_ms;
    /* What was before the first, and whether a signed record says that it was purged. */
    uint8_t before_first[AUDIT_HASH];
    bool purge_told;
    /* The first fault: of which record, and what. */
    uint64_t bad_seq;
    char fault[256];
};
/* audit_verifier_take is false when there is a fault; then the verifier is at its end. The first
 * record that is wrong is named; an altered record by the one behind it that does not fit. */
bool audit_verifier_take(struct audit_verifier *verifier, const Mortise__V1__AuditRecord *record);
/* audit_verifier_end judges the end: against what the log says of itself (`head`), or, of a file,
 * that it ends as an export does. `open`: neither; it is being written to. */
bool audit_verifier_end(struct audit_verifier *verifier, const Mortise__V1__AuditHead *head,
                        bool open);

#endif
