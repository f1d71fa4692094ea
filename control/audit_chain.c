#include "control/audit_chain.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/sha.h>

#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

static const struct {
    const char *word;
    const char *method;
    const char *about;
} audit_actions[] = {
#define X(name, word, method, about) [AUDIT_##name] = {word, method, about},
#include "control/audit_tbl.h"
#undef X
};

const char *audit_word(enum audit_action action)
{
    CHECK(action < AUDIT_ACTION_NUM);
    return audit_actions[action].word;
}

const char *audit_about(enum audit_action action)
{
    CHECK(action < AUDIT_ACTION_NUM);
    return audit_actions[action].about;
}

enum audit_action audit_of_method(const char *path)
{
    for (unsigned i = 0; i < AUDIT_ACTION_NUM; i++) {
        if (audit_actions[i].method != NULL && strcmp(audit_actions[i].method, path) == 0)
            return (enum audit_action)i;
    }
    return AUDIT_ACTION_NUM;
}

/* ---- one record ---- */

err_t audit_hash(const Mortise__V1__AuditRecord *record, uint8_t out[AUDIT_HASH])
{
    CLEANUP(buf_fini) struct buf packed = {0};

    TRY(pb_pack(&record->base, &packed));
    SHA256(buf_view(&packed).ptr, buf_view(&packed).len, out);
    return OK;
}

/* What is signed: all but the signature. */
static err_t audit_to_sign(const Mortise__V1__AuditRecord *record, struct buf *out)
{
    Mortise__V1__AuditRecord bare = *record;

    bare.signature = (ProtobufCBinaryData){0, NULL};
    return pb_pack(&bare.base, out);
}

static err_t audit_sign_bytes(EVP_PKEY *key, struct bytes data, struct buf *out)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t signature[256];
    size_t len = sizeof(signature);
    bool ok = ctx != NULL && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
              EVP_DigestSign(ctx, signature, &len, data.ptr, data.len) == 1;

    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok ? buf_add(out, signature, len) : FAIL(CA_CANNOT_SIGN, 0);
}

err_t audit_sign(EVP_PKEY *key, Mortise__V1__AuditRecord *record, struct buf *out)
{
    CLEANUP(buf_fini) struct buf packed = {0};

    TRY(audit_to_sign(record, &packed));
    TRY(audit_sign_bytes(key, buf_view(&packed), out));
    record->signature = msg_bytes(buf_view(out));
    return OK;
}

bool audit_is_signed(EVP_PKEY *key, const Mortise__V1__AuditRecord *record)
{
    CLEANUP(buf_fini) struct buf packed = {0};
    EVP_MD_CTX *ctx;
    bool ok;

    if (record->signature.len == 0 || !err_is_ok(audit_to_sign(record, &packed)))
        return false;
    ctx = EVP_MD_CTX_new();
    ok = ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
         EVP_DigestVerify(ctx, record->signature.data, record->signature.len, buf_view(&packed).ptr,
                          buf_view(&packed).len) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

/* The ends of lines that json_pb writes are between the fields, never within a text. */
err_t audit_json(const Mortise__V1__AuditRecord *record, struct buf *out)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct bytes bytes;

    TRY(json_pb_write(JSON_PB_JSON, &record->base, &text));
    bytes = buf_view(&text);
    for (size_t i = 0; i < bytes.len; i++) {
        if (bytes.ptr[i] != '\n') {
            TRY(buf_add(out, &bytes.ptr[i], 1));
            continue;
        }
        while (i + 1 < bytes.len && bytes.ptr[i + 1] == ' ')
            i++;
        if (i > 0 && bytes.ptr[i] == ' ' && i + 1 < bytes.len && bytes.ptr[i + 1] != '}')
            TRY(buf_add(out, " ", 1));
    }
    return buf_add(out, "\n", 1);
}

/* ---- a chain ---- */

static bool audit_bad(struct audit_verifier *verifier, uint64_t seq, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool audit_bad(struct audit_verifier *verifier, uint64_t seq, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    verifier->bad_seq = seq;
    (void)vsnprintf(verifier->fault, sizeof(verifier->fault), format, args);
    va_end(args);
    return false;
}

static bool audit_is(const Mortise__V1__AuditRecord *record, enum audit_action action)
{
    return strcmp(record->action, audit_word(action)) == 0;
}

static bool audit_must_be_signed(const Mortise__V1__AuditRecord *record)
{
    return audit_is(record, AUDIT_CHECKPOINT) || audit_is(record, AUDIT_AUDIT_EXPORT) ||
           audit_is(record, AUDIT_AUDIT_PURGE);
}

static bool audit_is_hash(ProtobufCBinaryData data, const uint8_t hash[AUDIT_HASH])
{
    return bytes_equal(msg_view(data), bytes_of(hash, AUDIT_HASH));
}

static bool audit_take_first(struct audit_verifier *verifier,
                             const Mortise__V1__AuditRecord *record)
{
    verifier->first_seq = record->seq;
    if (record->seq == 0)
        return audit_bad(verifier, 0, "the first record has no number");
    if (record->seq == 1 && record->previous_sha256.len != 0)
        return audit_bad(verifier, 1, "record 1 says that there was one before it");
    if (record->seq == 1)
        return true;
    if (record->previous_sha256.len != AUDIT_HASH)
        return audit_bad(verifier, record->seq, "record %" PRIu64 " has no hash of the one before",
                         record->seq);
    memcpy(verifier->before_first, record->previous_sha256.data, AUDIT_HASH);
    return true;
}

static bool audit_take_next(struct audit_verifier *verifier, const Mortise__V1__AuditRecord *record)
{
    uint64_t due = verifier->last_seq + 1;

    if (record->seq > due)
        return audit_bad(verifier, due,
                         "record %" PRIu64 " is missing, or not in its place: after %" PRIu64
                         " comes %" PRIu64,
                         due, verifier->last_seq, record->seq);
    if (record->seq < due)
        return audit_bad(verifier, record->seq,
                         "record %" PRIu64 " is not in its place: it comes after %" PRIu64,
                         record->seq, verifier->last_seq);
    if (!audit_is_hash(record->previous_sha256, verifier->last))
        return audit_bad(verifier, verifier->last_seq,
                         "record %" PRIu64 " was changed: record %" PRIu64
                         " has the hash of another one",
                         verifier->last_seq, record->seq);
    return true;
}

static bool audit_take_signature(struct audit_verifier *verifier,
                                 const Mortise__V1__AuditRecord *record)
{
    if (record->signature.len == 0 && !audit_must_be_signed(record))
        return true;
    if (verifier->key != NULL && !audit_is_signed(verifier->key, record))
        return audit_bad(verifier, record->seq,
                         "record %" PRIu64
                         " (%s) is not signed by this key: it, or one after %" PRIu64
                         ", was changed",
                         record->seq, record->action, verifier->signed_seq);
    if (record->signature.len == 0)
        return audit_bad(verifier, record->seq, "record %" PRIu64 " (%s) is not signed",
                         record->seq, record->action);
    verifier->signed_seq = record->seq;
    if (audit_is(record, AUDIT_AUDIT_EXPORT)) {
        verifier->exported = record->seq;
        verifier->exported_ms = record->at_ms;
    }
    if (audit_is(record, AUDIT_AUDIT_PURGE) && record->purged_seq + 1 == verifier->first_seq &&
        audit_is_hash(record->purged_sha256, verifier->before_first))
        verifier->purge_told = true;
    return true;
}

bool audit_verifier_take(struct audit_verifier *verifier, const Mortise__V1__AuditRecord *record)
{
    if (verifier->fault[0] != '\0')
        return false;
    if (verifier->num == 0 ? !audit_take_first(verifier, record)
                           : !audit_take_next(verifier, record))
        return false;
    if (!audit_take_signature(verifier, record))
        return false;
    if (!err_is_ok(audit_hash(record, verifier->last)))
        return audit_bad(verifier, record->seq, "record %" PRIu64 " is too large", record->seq);
    verifier->last_seq = record->seq;
    verifier->num++;
    return true;
}

static bool audit_end_at_head(struct audit_verifier *verifier, const Mortise__V1__AuditHead *head)
{
    uint64_t due = verifier->last_seq + 1;

    if (verifier->first_seq != head->first_seq)
        return audit_bad(verifier, head->first_seq, "record %" PRIu64 " is missing: the first one",
                         head->first_seq);
    if (verifier->last_seq < head->seq)
        return audit_bad(verifier, due,
                         "record %" PRIu64 " is missing: there should be %" PRIu64
                         ", the end was cut off",
                         due, head->seq);
    if (verifier->last_seq > head->seq || !audit_is_hash(head->sha256, verifier->last))
        return audit_bad(verifier, verifier->last_seq,
                         "record %" PRIu64 ", the last, is not the one that was written",
                         verifier->last_seq);
    return true;
}

bool audit_verifier_end(struct audit_verifier *verifier, const Mortise__V1__AuditHead *head,
                        bool open)
{
    if (verifier->fault[0] != '\0')
        return false;
    if (verifier->num == 0)
        return audit_bad(verifier, 1, "there is no record");
    if (verifier->first_seq != 1 && !verifier->purge_told)
        return audit_bad(verifier, verifier->first_seq - 1,
                         "record %" PRIu64 " is missing: no purge is on record that ended with it",
                         verifier->first_seq - 1);
    if (head != NULL)
        return audit_end_at_head(verifier, head);
    if (!open && verifier->exported != verifier->last_seq)
        return audit_bad(verifier, verifier->last_seq + 1,
                         "record %" PRIu64
                         " is missing: an export ends with %s, the end was cut off",
                         verifier->last_seq + 1, audit_word(AUDIT_AUDIT_EXPORT));
    return true;
}
