/* mortisectl ca csr and ca import: an issuing certificate from a root that is kept elsewhere. */
#include <stdio.h>

#include "certs/pem.h"
#include "control/ctl/conn.h"
#include "control/ctl/rotate_root.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option ca_csr_options[] = {
    {.name = "new",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, fresh),
     .def = "false",
     .help = "With a new key; the request that was pending is worth nothing then."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static int ca_csr_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__CreateCsrRequest request = MORTISE__V1__CREATE_CSR_REQUEST__INIT;
    CLEANUP(buf_fini) struct buf pem = {0};
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;
    err_t err;

    (void)num;
    (void)operands;
    request.fresh = flags->fresh;
    if (conn != NULL)
        msg = conn_call(conn, "OperatorService/CreateCsr", &request.base,
                        &mortise__v1__create_csr_response__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return CTL_FAILED;
    err = pem_write("CERTIFICATE REQUEST",
                    msg_view(MSG_AS(Mortise__V1__CreateCsrResponse,
                                    mortise__v1__create_csr_response__descriptor, msg)
                                 ->request),
                    &pem);
    CHECK(err_is_ok(err)); /* it is small */
    printf("%.*s", (int)buf_size(&pem), (const char *)buf_view(&pem).ptr);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_ca_csr = {
    .name = "ca csr",
    .operands = "",
    .summary = "a request for an issuing certificate, for a root that is kept elsewhere",
    .about = "The control plane makes an issuing key, which stays there, and a request for it, "
             "which says all that the certificate has to: sign it with its extensions. Until the "
             "answer came it is the same request each time.\n\n"
             "Example: mortisectl ca csr > issuing.csr\n"
             "openssl x509 -req -in issuing.csr -CA root.pem -CAkey root.key -days 365 "
             "-copy_extensions copyall -out issuing.pem\n"
             "mortisectl ca import issuing.pem root.pem --wait",
    .options = ca_csr_options,
    .run = ca_csr_run,
};

#define CA_IMPORT_FILES_MAX 2

static const struct option ca_import_options[] = {
    CTL_SPREAD_ROW,
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Tell of each stage and wait for the end."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

struct ca_file {
    struct buf text;
    struct pem pem; /* within it */
};

static void ca_file_fini(struct ca_file *file)
{
    pem_fini(&file->pem);
    buf_wipe_fini(&file->text); /* somebody may have given a key */
}

/* False: told. */
static bool ca_read(const char *path, struct ca_file *file)
{
    err_t err;

    if (!ctl_read(path, path, false, &file->text))
        return false;
    err = pem_parse(buf_view(&file->text), &file->pem);
    if (err_is_ok(err))
        return true;
    ctl_tell("%s: %s", path, err_text(err.code));
    return false;
}

static ProtobufCMessage *ca_send(struct conn *conn, const struct ctl_flags *flags,
                                 const struct ca_file *files, size_t num_files)
{
    Mortise__V1__ImportIssuerRequest request = MORTISE__V1__IMPORT_ISSUER_REQUEST__INIT;
    ProtobufCMessage *msg;

    request.certificates =
        mem_array(CA_IMPORT_FILES_MAX * PEM_BLOCKS_MAX, sizeof(*request.certificates));
    for (size_t i = 0; i < num_files; i++) {
        for (size_t j = 0; j < files[i].pem.num; j++) {
            const struct pem_block *block = &files[i].pem.blocks[j];

            if (pem_is(block, "CERTIFICATE"))
                request.certificates[request.n_certificates++] =
                    msg_bytes(bytes_of(block->der, block->der_len));
        }
    }
    request.spread_ms = (uint32_t)flags->spread_ms;
    msg = conn_call(conn, "OperatorService/ImportIssuer", &request.base,
                    &mortise__v1__root_rotation__descriptor);
    mem_free(request.certificates);
    return msg;
}

static int ca_import_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct ca_file files[CA_IMPORT_FILES_MAX] = {{.pem = {.num = 0}}};
    struct conn *conn = NULL;
    bool read = true;
    int status = CTL_FAILED;

    for (int i = 0; i < num && read; i++)
        read = ca_read(operands[i], &files[i]);
    if (read)
        conn = conn_open(flags);
    if (conn != NULL)
        status = rotate_root_told(conn, flags, ca_send(conn, flags, files, (size_t)num));
    conn_close(conn);
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        ca_file_fini(&files[i]);
    return status;
}

const struct ctl_command ctl_ca_import = {
    .name = "ca import",
    .operands = "FILE [ROOT]",
    .summary = "the issuing certificate that was asked for with ca csr",
    .about = "FILE is the certificate, PEM, with its root behind it or in a file of its own; the "
             "root may be left out when it is the one that the mesh trusts. It is judged, and each "
             "fault told by its field; then it takes the place of what signs now, stage by stage "
             "as rotate root and rotate issuer do (rotate status tells how far). The root's key is "
             "never needed here.\n\n"
             "Example: mortisectl ca import issuing.pem root.pem --wait",
    .options = ca_import_options,
    .min_operands = 1,
    .max_operands = CA_IMPORT_FILES_MAX,
    .run = ca_import_run,
};
