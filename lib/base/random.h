/* random: bytes from the kernel's generator (getrandom), good for keys, seeds and jitter. */
#ifndef MORTISE_LIB_BASE_RANDOM_H
#define MORTISE_LIB_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* random_fill writes `len` random bytes; it stops the process if the kernel has none to give. */
void random_fill(void *out, size_t len);
uint32_t random_u32(void);

#endif
