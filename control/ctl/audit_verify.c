/* mortisectl audit verify: whether a log, or an export of one, is what was written. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bytestring.h>

#include "certs/pem.h"
#include "control/audit_chain.h"
#include "control/ctl/audit.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define AUDIT_NOT_VERIFIED 3 /* exit status: nothing was found wrong, and nothing is proven */

static const struct option audit_verify_options[] = {
    CTL_OUTPUT_ROW,
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "An export, or an audit file, instead of a control plane's log; nobody is asked. - is "
             "standard input; -f for short."},
    {.name = "audit-key",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, audit_key),
     .arg = "FILE",
     .help = "The key that it is signed with (mortisectl audit key), kept from before. With --file "
             "--key says the same. Without, of a control plane the one that it names, of a file "
             "none: then signatures are not verified, and the exit code is 3."},
    {.name = "open",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, open),
     .def = "false",
     .help = "With --file: it is being written to and does not end as an export does."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static EVP_PKEY *audit_parse_key(struct bytes der)
{
    EVP_PKEY *key;
    CBS cbs;

    CBS_init(&cbs, der.ptr, der.len);
    key = EVP_parse_public_key(&cbs);
    if (key != NULL && (CBS_len(&cbs) != 0 || EVP_PKEY_id(key) != EVP_PKEY_EC)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

/* NULL: told. */
static EVP_PKEY *audit_read_key(const char *flag, const char *path)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct pem pem;
    EVP_PKEY *key = NULL;

    if (!ctl_read(flag, path, false, &text))
        return NULL;
    if (err_is_ok(pem_parse(buf_view(&text), &pem))) {
        if (pem.num == 1 && pem_is(&pem.blocks[0], "PUBLIC KEY"))
            key = audit_parse_key(bytes_of(pem.blocks[0].der, pem.blocks[0].der_len));
        pem_fini(&pem);
    }
    if (key == NULL)
        ctl_tell("%s: %s: is no public key of an audit log (mortisectl audit key)", flag, path);
    return key;
}

/* ---- the judgement ---- */

static bool audit_verify_one(void *arg, const Mortise__V1__AuditRecord *record)
{
    return audit_verifier_take(arg, record);
}

static int audit_say(const struct audit_verifier *verifier, const struct ctl_flags *flags)
{
    const bool ok = verifier->fault[0] == '\0';
    char sha256[2 * AUDIT_HASH + 1];
    char fault[6 * sizeof(verifier->fault) + 1] = "";
    size_t len = 0;

    (void)str_escape(fault, sizeof(fault), &len, bytes_of_str(verifier->fault), true);
    bytes_to_hex(bytes_of(verifier->last, AUDIT_HASH), sha256);
    if (flags->output == CTL_JSON) {
        printf("{\"ok\": %s, \"records\": %" PRIu64 ", \"first\": %" PRIu64 ", \"last\": %" PRIu64
               ", \"signed\": %" PRIu64 ", \"key\": %s, \"sha256\": \"%s\", \"bad\": %" PRIu64
               ", \"fault\": \"%s\"}\n",
               ok && verifier->key != NULL ? "true" : "false", verifier->num, verifier->first_seq,
               verifier->last_seq, verifier->signed_seq, verifier->key != NULL ? "true" : "false",
               sha256, verifier->bad_seq, fault);
    } else if (ok && verifier->key == NULL) {
        printf(
            "NOT VERIFIED: %" PRIu64 " records, %" PRIu64 " to %" PRIu64
            ", each follows the one before, but without the key whoever can write the file could "
            "have written all of it: --key FILE (mortisectl audit key, kept from before); the "
            "last has the hash %s\n",
            verifier->num, verifier->first_seq, verifier->last_seq, sha256);
    } else if (ok) {
        printf(
            "OK: %" PRIu64 " records, %" PRIu64 " to %" PRIu64
            ", each follows the one before; signed up to %" PRIu64 "; the last has the hash %s\n",
            verifier->num, verifier->first_seq, verifier->last_seq, verifier->signed_seq, sha256);
    }
    if (!ok) {
        fprintf(stderr, "mortisectl: audit log: ");
        ctl_print(stderr, verifier->fault);
        fprintf(stderr, "\n");
    }
    if (!ok)
        return CTL_FAILED;
    return verifier->key != NULL ? CTL_OK : AUDIT_NOT_VERIFIED;
}

static bool audit_verify_line(struct audit_verifier *verifier, const char *path, size_t line,
                              struct bytes text)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    CLEANUP(mem_freep) char *place = mem_printf("%s:%zu", path, line);
    ProtobufCMessage *msg = NULL;
    bool ok;

    if (!err_is_ok(json_pb_parse(JSON_PB_JSON, place, text, &mortise__v1__audit_record__descriptor,
                                 &faults, &msg))) {
        ctl_tell_faults(&faults);
        verifier->bad_seq = verifier->last_seq + 1;
        (void)snprintf(verifier->fault, sizeof(verifier->fault),
                       "record %" PRIu64 " (line %zu) is no record: it was changed",
                       verifier->last_seq + 1, line);
        return false;
    }
    ok = audit_verifier_take(verifier, MSG_AS_CONST(Mortise__V1__AuditRecord,
                                                    mortise__v1__audit_record__descriptor, msg));
    pb_free(msg);
    return ok;
}

static int audit_verify_file(const struct ctl_flags *flags, struct audit_verifier *verifier)
{
    FILE *from = strcmp(flags->file, "-") == 0 ? stdin : fopen(flags->file, "re");
    char *text = NULL;
    size_t size = 0, line = 0;
    ssize_t len;
    bool ok = true;

    if (from == NULL) {
        ctl_tell("--file: %s: %s", flags->file, strerror(errno));
        return CTL_USAGE;
    }
    while (ok && (len = getline(&text, &size, from)) > 0)
        ok = audit_verify_line(verifier, flags->file, ++line,
                               bytes_of((const uint8_t *)text, (size_t)len));
    if (ok && ferror(from)) {
        ctl_tell("--file: %s: %s", flags->file, strerror(errno));
        ok = false;
    } else {
        (void)audit_verifier_end(verifier, NULL, flags->open);
        ok = true;
    }
    free(text); /* getline's */
    if (from != stdin)
        (void)fclose(from);
    return ok ? audit_say(verifier, flags) : CTL_FAILED;
}

static int audit_verify_log(const struct ctl_flags *flags, struct audit_verifier *verifier)
{
    Mortise__V1__ListAuditRecordsRequest request = MORTISE__V1__LIST_AUDIT_RECORDS_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    Mortise__V1__AuditState *state = conn != NULL ? audit_get(conn) : NULL;
    EVP_PKEY *its = NULL;
    int status = CTL_FAILED;

    if (state != NULL && verifier->key == NULL)
        verifier->key = its = audit_parse_key(msg_view(state->public_key));
    if (state != NULL) {
        request.last_seq = state->head->seq;
        if (audit_each(conn, &request, audit_verify_one, verifier)) {
            (void)audit_verifier_end(verifier, state->head, false);
            status = audit_say(verifier, flags);
        }
        pb_free(&state->base);
    }
    EVP_PKEY_free(its);
    conn_close(conn);
    return status;
}

static int audit_verify_run(const struct ctl_flags *flags, int num, char **operands)
{
    const char *path = flags->audit_key;
    const char *flag = "--audit-key";
    struct audit_verifier verifier = {.key = NULL};
    EVP_PKEY *key = NULL;
    int status;

    (void)num;
    (void)operands;
    if (path == NULL && flags->file != NULL) {
        path = flags->key;
        flag = "--key";
    }
    if (flags->open && flags->file == NULL) {
        ctl_tell("--open: goes with --file");
        return CTL_USAGE;
    }
    if (path != NULL) {
        key = audit_read_key(flag, path);
        if (key == NULL)
            return CTL_USAGE;
    }
    verifier.key = key;
    status = flags->file != NULL ? audit_verify_file(flags, &verifier)
                                 : audit_verify_log(flags, &verifier);
    EVP_PKEY_free(key);
    return status;
}

const struct ctl_command ctl_audit_verify = {
    .name = "audit verify",
    .operands = "",
    .summary = "whether the audit log is what was written",
    .about = "Goes through all records: each has the hash of the one before it, checkpoints are "
             "signed, and the last one is where the log says that it ends; of a file, that it ends "
             "as an export does. The first record that is wrong is named: changed, missing, or not "
             "in its place. Exit code 1 then; 3 when a file was judged without a key, which proves "
             "nothing.\n\n"
             "Example: mortisectl audit verify --audit-key audit-key.pem\n"
             "         mortisectl audit verify -f audit.jsonl --key audit-key.pem",
    .options = audit_verify_options,
    .run = audit_verify_run,
};
