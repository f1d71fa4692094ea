/* mortisectl import keystore: a chain with its key, out of files. */
#include <stdio.h>
#include <string.h>

#include "certs/key.h"
#include "certs/uploaded.h"
#include "control/ctl/apply.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

static const struct option import_options[] = {
    {.name = "chain",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, chain),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "Its certificates, PEM, in any order; the key may be in the same file."},
    {.name = "private-key",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, private_key),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "Its private key, PEM (PKCS#8, SEC1, PKCS#1), encrypted or not; readable by its owner "
             "only. Default: the file of --chain."},
    {.name = "pkcs12",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, pkcs12),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "Both in one PKCS#12 file instead (.p12, .pfx); readable by its owner only."},
    {.name = "password-file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, password_file),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help =
         "What opens the key or the PKCS#12 file: the first line; readable by its owner only. - "
         "is standard input."},
    {.name = "description",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, description),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "TEXT",
     .help = "What it is for."},
    {.name = "replace",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, replace),
     .def = "false",
     .help = "Take the place of the keystore of that name; its key is gone then."},
    CTL_DRY_RUN_ROW,
    CTL_WAIT_ROW,
    CTL_MESSAGE_ROW,
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* Everything that is read, wiped at the end. Zeroed memory is nothing. */
struct import {
    struct buf chain;
    struct buf key;
    struct buf password;
    char *word; /* the password; NULL: none */
    struct uploaded uploaded;
};

static void import_fini(struct import *import)
{
    buf_wipe_fini(&import->chain);
    buf_wipe_fini(&import->key);
    buf_wipe_fini(&import->password);
    if (import->word != NULL)
        mem_wipe(import->word, strlen(import->word));
    mem_free(import->word);
    uploaded_fini(&import->uploaded);
}

/* The first line. False: told. */
static bool import_read_password(const struct ctl_flags *flags, struct import *import)
{
    const char *text;
    size_t len = 0;

    if (flags->password_file == NULL)
        return true;
    if (!ctl_read("--password-file", flags->password_file, true, &import->password))
        return false;
    text = (const char *)buf_view(&import->password).ptr;
    while (len < buf_size(&import->password) && text[len] != '\n' && text[len] != '\r')
        len++;
    if (len > UPLOADED_PASSWORD_MAX) {
        ctl_tell("--password-file: longer than %d bytes", UPLOADED_PASSWORD_MAX);
        return false;
    }
    import->word = len > 0 ? mem_strndup(text, len) : mem_strdup("");
    return true;
}

static bool import_read_files(const struct ctl_flags *flags, struct import *import)
{
    struct faults faults = {.num = 0};
    bool good;
    err_t err;

    if (flags->pkcs12 != NULL) {
        if (!ctl_read("--pkcs12", flags->pkcs12, true, &import->key))
            return false;
        err = uploaded_pkcs12(buf_view(&import->key), import->word, &faults, &import->uploaded);
    } else {
        if (!ctl_read("--chain", flags->chain, flags->private_key == NULL, &import->chain) ||
            (flags->private_key != NULL &&
             !ctl_read("--private-key", flags->private_key, true, &import->key)))
            return false;
        err = uploaded_pem(buf_view(&import->chain),
                           buf_view(flags->private_key != NULL ? &import->key : &import->chain),
                           import->word, &faults, &import->uploaded);
    }
    good = err_is_ok(err);
    ctl_tell_faults(&faults);
    faults_fini(&faults);
    return good;
}

static int import_send(const struct ctl_flags *flags, const char *name, const struct import *import)
{
    Mortise__V1__ImportKeystoreRequest request = MORTISE__V1__IMPORT_KEYSTORE_REQUEST__INIT;
    CLEANUP(buf_wipe_fini) struct buf key = {.data = NULL};
    ProtobufCBinaryData certs[UPLOADED_CERTS_MAX];
    struct conn *conn;
    int status = CTL_FAILED;

    CHECK(err_is_ok(key_der(import->uploaded.key, &key)));
    for (size_t i = 0; i < import->uploaded.num; i++)
        certs[i] = msg_bytes(bytes_of(CRYPTO_BUFFER_data(import->uploaded.certs[i]),
                                      CRYPTO_BUFFER_len(import->uploaded.certs[i])));
    request.name = msg_lend(name);
    request.certificates = certs;
    request.n_certificates = import->uploaded.num;
    request.key = msg_bytes(buf_view(&key));
    request.replace = flags->replace;
    request.dry_run = flags->dry_run;
    if (flags->description != NULL)
        request.description = flags->description;
    if (flags->message != NULL)
        request.message = flags->message;
    conn = conn_open(flags);
    if (conn != NULL)
        status = apply_call(conn, flags, "OperatorService/ImportKeystore", &request.base);
    conn_close(conn);
    return status;
}

static int import_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct import import = {.word = NULL};
    int status = CTL_FAILED;

    (void)num;
    if ((flags->pkcs12 != NULL) == (flags->chain != NULL) ||
        (flags->pkcs12 != NULL && flags->private_key != NULL)) {
        ctl_tell("import keystore: either --pkcs12 FILE, or --chain FILE with --private-key FILE");
        return CTL_USAGE;
    }
    if (import_read_password(flags, &import) && import_read_files(flags, &import))
        status = import_send(flags, operands[0], &import);
    import_fini(&import);
    return status;
}

const struct ctl_command ctl_import_keystore = {
    .name = "import keystore",
    .operands = "NAME",
    .summary = "a certificate chain with its key, for links to show",
    .about =
        "Takes a chain and its private key into the mesh as the keystore NAME, which profiles may "
        "name then. All of it is judged first: the chain is put in order, the key belongs to it, "
        "dates, strength, usage and names are right. The key is sealed in the control plane's "
        "store "
        "and goes to the sidecars whose links show it; nothing gives it back. The chain is public: "
        "mortisectl get keystores NAME -o pem.\n\n"
        "Example: mortisectl import keystore portal --chain portal.pem --private-key portal.key\n"
        "         mortisectl import keystore portal --pkcs12 portal.p12 --password-file word "
        "--replace",
    .options = import_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = import_run,
};
