#include "lib/base/mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/err.h"

/* Nothing here may allocate. */
static _Noreturn void mem_stop(void)
{
    static const char text[] = "mortise: out of memory\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

    (void)ignored;
    abort();
}

void *mem_alloc(size_t size)
{
    void *ptr = malloc(size != 0 ? size : 1);

    if (ptr == NULL)
        mem_stop();
    return ptr;
}

void *mem_zalloc(size_t size)
{
    void *ptr = mem_try(size);

    if (ptr == NULL)
        mem_stop();
    return ptr;
}

void *mem_try(size_t size)
{
    return calloc(1, size != 0 ? size : 1);
}

void *mem_try_alloc(size_t size)
{
    return malloc(size != 0 ? size : 1);
}

void *mem_realloc(void *ptr, size_t size)
{
    void *moved = realloc(ptr, size != 0 ? size : 1);

    if (moved == NULL)
        mem_stop();
    return moved;
}

void *mem_array(size_t num, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(num, size, &total))
        mem_stop();
    return mem_zalloc(total);
}

void *mem_dup(const void *ptr, size_t size)
{
    void *copy = mem_alloc(size);

    if (size != 0)
        memcpy(copy, ptr, size);
    return copy;
}

char *mem_strdup(const char *str)
{
    return mem_dup(str, strlen(str) + 1);
}

char *mem_strndup(const char *str, size_t len)
{
    size_t used = strnlen(str, len);
    char *copy = mem_alloc(used + 1);

    memcpy(copy, str, used);
    copy[used] = '\0';
    return copy;
}

char *mem_printf(const char *format, ...)
{
    va_list args, again;
    int len;
    char *out;

    va_start(args, format);
    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    CHECK(len >= 0);
    out = mem_alloc((size_t)len + 1);
    (void)vsnprintf(out, (size_t)len + 1, format, again);
    va_end(again);
    return out;
}

void mem_trim(void)
{
    (void)malloc_trim(0);
}

void mem_wipe(void *ptr, size_t size)
{
    if (size != 0)
        explicit_bzero(ptr, size);
}

void mem_wipe_free(void *ptr)
{
    if (ptr != NULL)
        mem_wipe(ptr, malloc_usable_size(ptr));
    mem_free(ptr);
}

bool refs_drop(struct refs *refs)
{
    /* acq_rel on every drop: the last holder must see what the others wrote. A release with a fence
     * only for the last would do, but the thread sanitizer does not know fences. */
    unsigned before = atomic_fetch_sub_explicit(&refs->count, 1, memory_order_acq_rel);

    CHECK(before != 0);
    return before == 1;
}
