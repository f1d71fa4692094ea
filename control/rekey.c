#include "control/rekey.h"

#include <string.h>

#include "lib/base/log.h"

#define REKEY_RECORDS 16    /* of one transaction: no call waits long for it */
#define REKEY_PAUSE_MS 2    /* others have their turn; 100,000 records take a minute */
#define REKEY_RETRY_MS 1000 /* the store could not be written */

struct rekey {
    struct rekey_params params;
    struct timer timer;
    bool failing; /* and that was told */
};

static void rekey_log(const struct rekey *rekey, const char *event)
{
    char name[SEAL_NAME];

    vault_key_name(rekey->params.vault, name);
    log_info("rekey", event, LOG_STR("key", name),
             LOG_UINT("stale", vault_stale(rekey->params.vault)));
}

static void rekey_on_timer(void *arg)
{
    struct rekey *rekey = arg;
    err_t err = vault_rewrap(rekey->params.vault, REKEY_RECORDS);

    if (!err_is_ok(err) && !rekey->failing)
        log_error("rekey", "cannot_go_on", LOG_ERR("error", err));
    rekey->failing = !err_is_ok(err);
    if (vault_is_rewrapped(rekey->params.vault)) {
        rekey_log(rekey, "done");
        return;
    }
    timer_start(rekey->params.loop, &rekey->timer, rekey->failing ? REKEY_RETRY_MS : REKEY_PAUSE_MS,
                rekey_on_timer, rekey);
}

static void rekey_go(struct rekey *rekey, const char *event)
{
    rekey_log(rekey, event);
    timer_start(rekey->params.loop, &rekey->timer, REKEY_PAUSE_MS, rekey_on_timer, rekey);
}

struct rekey *rekey_new(const struct rekey_params *params)
{
    struct rekey *rekey = mem_zalloc(sizeof(*rekey));

    rekey->params = *params;
    if (!vault_is_rewrapped(params->vault))
        rekey_go(rekey, "goes_on");
    return rekey;
}

void rekey_free(struct rekey *rekey)
{
    if (rekey == NULL)
        return;
    timer_stop(rekey->params.loop, &rekey->timer);
    mem_free(rekey);
}

err_t rekey_begin(struct rekey *rekey, struct faults *faults)
{
    CLEANUP(seal_keys_fini) struct seal_keys keys = {.num = 0};
    char now[SEAL_NAME], first[SEAL_NAME];

    TRY(rekey->params.read_keys(rekey->params.arg, faults, &keys));
    vault_key_name(rekey->params.vault, now);
    seal_key_name(&keys.keys[0], first);
    if (strcmp(now, first) == 0 && vault_is_rewrapped(rekey->params.vault))
        return FAIL(EXISTS, 0);
    TRY(vault_rekey(rekey->params.vault, &keys, faults));
    rekey_go(rekey, "begun");
    return OK;
}
