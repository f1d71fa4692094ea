#include "control/successors.h"

#include <string.h>

#include "lib/base/mem.h"

/* There is one for each renewal of the last days: of the key so much as nobody finds another for.
 */
struct successor {
    int64_t at_s;
    uint8_t key_sha256[16];
};

void successors_fini(struct successors *successors)
{
    size_t iter = 0;
    const char *serial;
    void *value;

    while (map_next(&successors->by_serial, &iter, &serial, &value))
        mem_free(value);
    map_fini(&successors->by_serial);
}

void successors_note(struct successors *successors, const char *serial,
                     const uint8_t key_sha256[32], int64_t at_s)
{
    struct successor *known = map_get(&successors->by_serial, serial);

    if (known == NULL) {
        known = mem_zalloc(sizeof(*known));
        (void)map_put(&successors->by_serial, serial, known);
    } else if (at_s < known->at_s) {
        return;
    }
    known->at_s = at_s;
    memcpy(known->key_sha256, key_sha256, sizeof(known->key_sha256));
}

bool successors_allow(const struct successors *successors, const char *serial,
                      const uint8_t key_sha256[32])
{
    const struct successor *known = map_get(&successors->by_serial, serial);

    return known == NULL || memcmp(known->key_sha256, key_sha256, sizeof(known->key_sha256)) == 0;
}

void successors_forget(struct successors *successors, const char *serial)
{
    mem_free(map_del(&successors->by_serial, serial));
}
