#include "control/version.h"

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

err_t version_create(struct vault *vault, struct vault_batch *batch, uint64_t value)
{
    Mortise__Control__VersionBlock record = MORTISE__CONTROL__VERSION_BLOCK__INIT;

    record.reserved = value;
    return vault_batch_put(vault, batch, VAULT_VERSION, &record.base, STORE_ANY);
}

err_t version_open(struct version *version, struct vault *vault)
{
    ProtobufCMessage *msg = NULL;
    const Mortise__Control__VersionBlock *record;

    TRY(vault_get(vault, VAULT_VERSION, &msg, NULL));
    record =
        MSG_AS(Mortise__Control__VersionBlock, mortise__control__version_block__descriptor, msg);
    *version = (struct version){
        .vault = vault,
        .value = record->reserved,
        .reserved = record->reserved,
        .pending = record->reserved,
    };
    pb_free(msg);
    return OK;
}

err_t version_prepare(struct version *version, struct vault_batch *batch)
{
    version->pending = version->reserved;
    if (version->reserved - version->value > VERSION_AHEAD)
        return OK;
    version->pending = version->value + VERSION_BLOCK;
    return version_create(version->vault, batch, version->pending);
}

void version_prepared(struct version *version)
{
    version->reserved = version->pending;
}

bool version_has_next(const struct version *version)
{
    return version->value < version->reserved;
}

void version_close(struct version *version)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    err_t err;

    if (version->value == version->reserved)
        return;
    err = version_create(version->vault, &batch, version->value);
    if (err_is_ok(err))
        err = vault_commit(version->vault, &batch, NULL);
    if (!err_is_ok(err)) /* the next start skips the rest of the block */
        log_warn("registry", "version_not_noted", LOG_ERR("error", err));
}
