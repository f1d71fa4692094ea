#include "proxy/crl_alarm.h"

#include <string.h>

#include "lib/base/log.h"

/* Of lists, also of those that were replaced; then it begins anew. */
#define CRL_ALARM_TOLD_MAX 1024

enum crl_age { CRL_FRESH, CRL_OLD, CRL_STALE };

/* What a map can point at instead of keeping numbers. */
static char crl_ages[CRL_STALE + 1];

static enum crl_age crl_age(const struct crl *crl, int64_t now_s)
{
    if (now_s >= crl->next_update)
        return CRL_STALE;
    return now_s - crl->this_update >= (crl->next_update - crl->this_update) / 2 ? CRL_OLD
                                                                                 : CRL_FRESH;
}

/* A list may be in two truststores: told of each. */
static void crl_alarm_tell(struct crl_alarm *alarm, const char *truststore, const struct crl *crl,
                           int64_t now_s)
{
    CLEANUP(mem_freep) char *key = NULL;
    enum crl_age age = crl_age(crl, now_s);
    char hex[2 * sizeof(crl->sha256) + 1];
    const char *told;

    if (age == CRL_FRESH)
        return;
    bytes_to_hex(bytes_of(crl->sha256, sizeof(crl->sha256)), hex);
    key = mem_printf("%s %s", hex, truststore);
    told = map_get(&alarm->told, key);
    if (told != NULL && told >= &crl_ages[age])
        return;
    if (map_num(&alarm->told) >= CRL_ALARM_TOLD_MAX)
        map_fini(&alarm->told);
    (void)map_put(&alarm->told, key, &crl_ages[age]);
    log_warn("crl", age == CRL_STALE ? "stale" : "not_renewed", LOG_STR("truststore", truststore),
             LOG_STR("issuer", crl->issuer), LOG_INT("this_update", crl->this_update),
             LOG_INT("next_update", crl->next_update),
             LOG_STR("effect", age == CRL_STALE ? "new connections to certificates of that issuer "
                                                  "are refused"
                                                : "none yet: half of its life is over"));
}

static void crl_alarm_show(struct crl_alarm *alarm, const struct trust *trust, struct stats *stats)
{
    if (trust->crls == NULL && map_get(&alarm->shown, trust->name) == NULL)
        return;
    (void)map_put(&alarm->shown, trust->name, crl_ages);
    stats_crls(stats, trust->name, trust->crls != NULL ? crl_set_this_update(trust->crls) : 0,
               trust->crls != NULL ? crl_set_next_update(trust->crls) : 0);
}

static bool crl_alarm_has(const struct snapshot *snapshot, const char *truststore)
{
    for (size_t i = 0; i < snapshot->num_trust; i++) {
        if (strcmp(snapshot->trust[i].name, truststore) == 0)
            return true;
    }
    return false;
}

void crl_alarm_look(struct crl_alarm *alarm, const struct snapshot *snapshot, struct stats *stats,
                    int64_t now_s)
{
    size_t iter = 0;
    const char *name;
    void *value;

    for (size_t i = 0; i < snapshot->num_trust; i++) {
        const struct trust *trust = &snapshot->trust[i];

        crl_alarm_show(alarm, trust, stats);
        for (size_t j = 0; trust->crls != NULL && j < trust->crls->num; j++)
            crl_alarm_tell(alarm, trust->name, trust->crls->lists[j], now_s);
    }
    while (map_next(&alarm->shown, &iter, &name, &value)) {
        if (!crl_alarm_has(snapshot, name))
            stats_crls(stats, name, 0, 0);
    }
}

void crl_alarm_fini(struct crl_alarm *alarm)
{
    map_fini(&alarm->told);
    map_fini(&alarm->shown);
}
