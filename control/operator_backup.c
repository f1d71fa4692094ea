/* The call of control/operator_service.h that sends the store. */
#include <openssl/sha.h>

#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"

#define OPERATOR_CHUNK ((size_t)256 << 10)
#define OPERATOR_BACKUP_MAX ((size_t)1 << 30) /* of a store; it is in memory while it is sent */

struct operator_backup {
    struct buf image; /* what is still to be sent */
    uint64_t size;
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    bool over;
};

static void operator_backup_end(struct operator_backup *backup, struct grpc_call *call)
{
    Mortise__V1__BackupChunk last = MORTISE__V1__BACKUP_CHUNK__INIT;

    backup->over = true;
    last.size = backup->size;
    last.sha256 = msg_bytes(bytes_of(backup->sha256, sizeof(backup->sha256)));
    grpc_call_reply(call, &last.base);
}

/* A part each time that the reader has taken the one before. */
static void operator_backup_next(struct grpc_call *call, void *arg)
{
    struct operator_backup *backup = grpc_call_data(call);
    Mortise__V1__BackupChunk chunk = MORTISE__V1__BACKUP_CHUNK__INIT;
    struct bytes left = buf_view(&backup->image);
    err_t err;

    (void)arg;
    if (backup->over)
        return;
    if (left.len == 0) {
        operator_backup_end(backup, call);
        return;
    }
    if (left.len > OPERATOR_CHUNK)
        left.len = OPERATOR_CHUNK;
    chunk.data = msg_bytes(left);
    err = grpc_call_send(call, &chunk.base);
    if (!err_is_ok(err)) {
        backup->over = true;
        reply_error(call, err);
        return;
    }
    buf_consume(&backup->image, left.len);
}

/* The store as it is now, if all of it is whole: a backup that nobody could restore would take the
 * place of one that could be. */
static err_t operator_backup_take(struct operator_service *service, struct buf *out)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};

    TRY(vault_verify(service->vault, &faults));
    return store_backup(vault_store(service->vault), out);
}

void operator_on_backup(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    struct operator_backup *backup = mem_zalloc(sizeof(*backup));
    struct bytes image;
    err_t err;

    (void)msg;
    if (!operator_records(service, call,
                          &(struct audit_entry){.action = AUDIT_BACKUP, .object = "store"})) {
        mem_free(backup);
        return;
    }
    backup->image.max = OPERATOR_BACKUP_MAX;
    grpc_call_set_data(call, backup);
    err = operator_backup_take(service, &backup->image);
    if (!err_is_ok(err)) {
        backup->over = true;
        reply_error(call, err);
        return;
    }
    image = buf_view(&backup->image);
    backup->size = image.len;
    SHA256(image.ptr, image.len, backup->sha256);
    operator_log(service, call, "backed_up", "store", registry_mesh_version(service->registry));
    grpc_call_on_writable(call, operator_backup_next);
    operator_backup_next(call, service);
}

void operator_on_backup_done(struct grpc_call *call, void *arg)
{
    struct operator_backup *backup = grpc_call_data(call);

    (void)arg;
    if (backup == NULL)
        return;
    buf_fini(&backup->image);
    mem_free(backup);
}
