#include "lib/base/random.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

#include "lib/base/err.h"

void random_fill(void *out, size_t len)
{
    uint8_t *to = out;

    while (len > 0) {
        ssize_t got = getrandom(to, len, 0);

        if (got < 0) {
            CHECK(errno == EINTR);
            continue;
        }
        to += got;
        len -= (size_t)got;
    }
}

uint32_t random_u32(void)
{
    uint32_t value;

    random_fill(&value, sizeof(value));
    return value;
}
