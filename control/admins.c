#include "control/admins.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

struct admins {
    struct vault *vault;
    uint64_t epoch;
    uint64_t version; /* of its record; STORE_ABSENT: never rotated */
};

static err_t admins_load(struct admins *admins)
{
    ProtobufCMessage *msg = NULL;
    err_t err = vault_get(admins->vault, VAULT_ADMINS, &msg, &admins->version);

    if (err_is(err, E_NOT_FOUND)) {
        admins->version = STORE_ABSENT;
        return OK;
    }
    TRY(err);
    admins->epoch =
        MSG_AS(Mortise__Control__AdminEpoch, mortise__control__admin_epoch__descriptor, msg)->epoch;
    pb_free(msg);
    return OK;
}

err_t admins_open(struct vault *vault, struct admins **out)
{
    struct admins *admins = mem_zalloc(sizeof(*admins));
    err_t err;

    admins->vault = vault;
    err = admins_load(admins);
    if (!err_is_ok(err)) {
        admins_free(admins);
        return err;
    }
    *out = admins;
    return OK;
}

void admins_free(struct admins *admins)
{
    mem_free(admins);
}

uint64_t admins_epoch(const struct admins *admins)
{
    return admins->epoch;
}

err_t admins_rotate(struct admins *admins, int64_t now_s)
{
    Mortise__Control__AdminEpoch record = MORTISE__CONTROL__ADMIN_EPOCH__INIT;
    uint64_t version;

    record.epoch = admins->epoch + 1;
    record.raised_at = now_s;
    TRY(vault_put(admins->vault, VAULT_ADMINS, &record.base, admins->version, &version));
    admins->epoch = record.epoch;
    admins->version = version;
    return OK;
}

bool admins_accepts(const struct admins *admins, const struct peer *peer)
{
    const Mortise__Control__Issuance *record;
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    bool accepted;

    if (peer->serial[0] == '\0' || strlen(peer->serial) >= VAULT_PATH_MAX - sizeof(VAULT_CERTS))
        return false;
    vault_path(VAULT_CERTS, peer->serial, path);
    if (!err_is_ok(vault_get(admins->vault, path, &msg, NULL)))
        return false;
    record = MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    /* The very certificate: a serial number is no more than what it says of itself. */
    accepted = strcmp(record->reason, "admin") == 0 && record->epoch == admins->epoch &&
               strcmp(record->spiffe_id, peer->spiffe_id) == 0 &&
               bytes_equal(msg_view(record->sha256),
                           bytes_of(peer->leaf_sha256, sizeof(peer->leaf_sha256)));
    pb_free(msg);
    return accepted;
}
