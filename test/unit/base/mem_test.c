/* Memory: allocation stops the process or, where it may fail, returns NULL; wiping overwrites; the
 * last of many threads to drop a reference is told so, and no other.
 *
 * Drives: R23. */
#include "lib/base/mem.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/base/death.h"

/* Sanitizers would end the process themselves instead of returning NULL as libc does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static volatile size_t far_too_much = SIZE_MAX / 2;

static void test_zero_bytes_give_a_pointer_of_their_own(void **state)
{
    void *a = mem_alloc(0), *b = mem_zalloc(0), *c = mem_try(0), *d = mem_realloc(NULL, 0);
    void *e = mem_dup(NULL, 0);

    (void)state;
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_non_null(d);
    assert_non_null(e);
    assert_ptr_not_equal(a, b);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(d);
    mem_free(e);
    mem_free(NULL);
}

static void test_zeroed_memory_is_zero(void **state)
{
    uint8_t *a = mem_zalloc(1000), *b = mem_try(1000), *c = mem_array(10, 100);

    (void)state;
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(a[i] | b[i] | c[i], 0);
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

static void test_copies_are_copies(void **state)
{
    char text[] = "mortise";
    char *dup = mem_dup(text, sizeof(text));
    char *str = mem_strdup(text);
    char *part = mem_strndup(text, 4);
    char *all = mem_strndup(text, 100);
    char *none = mem_strndup(text, 0);

    (void)state;
    text[0] = 'X';
    assert_string_equal(dup, "mortise");
    assert_string_equal(str, "mortise");
    assert_string_equal(part, "mort");
    assert_string_equal(all, "mortise");
    assert_string_equal(none, "");
    mem_free(dup);
    mem_free(str);
    mem_free(part);
    mem_free(all);
    mem_free(none);
}

static void test_printf_fits_any_length(void **state)
{
    char *big = mem_printf("%0*d|", 5000, 7);
    char *empty = mem_printf("%s", "");

    (void)state;
    assert_int_equal(strlen(big), 5001);
    assert_string_equal(big + 4999, "7|");
    assert_string_equal(empty, "");
    mem_free(big);
    mem_free(empty);
}

static void alloc_too_much(void *arg)
{
    (void)arg;
    mem_free(mem_alloc(far_too_much));
}

static void zalloc_too_much(void *arg)
{
    (void)arg;
    mem_free(mem_zalloc(far_too_much));
}

static void realloc_too_much(void *arg)
{
    (void)arg;
    mem_free(mem_realloc(mem_alloc(1), far_too_much));
}

/* The product is 0 in 64 bits: an unchecked one would hand out a block of nothing. */
static void array_overflows(void *arg)
{
    (void)arg;
    mem_free(mem_array((size_t)1 << 32, (size_t)1 << 32));
}

static void test_what_cannot_be_had_stops_the_process(void **state)
{
    (void)state;
    assert_true(death_aborts(alloc_too_much, NULL));
    assert_true(death_aborts(zalloc_too_much, NULL));
    assert_true(death_aborts(realloc_too_much, NULL));
    assert_true(death_aborts(array_overflows, NULL));
}

static void test_try_returns_null_for_what_cannot_be_had(void **state)
{
    (void)state;
    assert_null(mem_try(far_too_much));
    assert_null(mem_try_alloc(far_too_much));
}

static void test_wipe_overwrites_what_it_is_told_and_no_more(void **state)
{
    uint8_t secret[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    (void)state;
    mem_wipe(secret + 1, 6);
    assert_memory_equal(secret, "\1\0\0\0\0\0\0\10", 8);
    mem_wipe(NULL, 0);
}

struct thing {
    struct refs refs;
    int *freed;
};

static void thing_unref(struct thing *thing)
{
    if (refs_drop(&thing->refs)) {
        ++*thing->freed;
        mem_free(thing);
    }
}

MEM_CLEANUP_FN(thing_unrefp, struct thing, thing_unref)

static struct thing *thing_new(int *freed)
{
    struct thing *thing = mem_alloc(sizeof(*thing));

    refs_init(&thing->refs);
    thing->freed = freed;
    return thing;
}

static void test_cleanup_drops_at_the_end_of_scope_and_not_what_was_handed_over(void **state)
{
    struct thing *kept = NULL;
    int freed = 0;

    (void)state;
    {
        CLEANUP(thing_unrefp) struct thing *none = NULL;
        CLEANUP(thing_unrefp) struct thing *gone = thing_new(&freed);
        CLEANUP(thing_unrefp) struct thing *mine = thing_new(&freed);

        kept = mine;
        mine = NULL;
        (void)none;
        (void)gone;
    }
    assert_int_equal(freed, 1);
    thing_unref(kept);
    assert_int_equal(freed, 2);
}

static void drop_twice(void *arg)
{
    struct refs refs;

    (void)arg;
    refs_init(&refs);
    (void)refs_drop(&refs);
    (void)refs_drop(&refs);
}

static void test_one_drop_too_many_stops_the_process(void **state)
{
    (void)state;
    assert_true(death_aborts(drop_twice, NULL));
}

#define REF_THREADS 4
#define REF_ROUNDS 20000

struct shared {
    struct refs refs;
    uint64_t seen[REF_THREADS]; /* plain memory: only the order that refs_drop gives protects it */
    int *freed;
};

struct ref_thread {
    struct shared *shared;
    int index;
};

static void shared_unref(struct shared *shared)
{
    if (!refs_drop(&shared->refs))
        return;
    for (int i = 0; i < REF_THREADS; i++)
        CHECK(shared->seen[i] == REF_ROUNDS);
    ++*shared->freed;
    mem_free(shared);
}

static void *ref_run(void *arg)
{
    struct ref_thread *me = arg;

    for (int i = 0; i < REF_ROUNDS; i++) {
        refs_take(&me->shared->refs);
        me->shared->seen[me->index]++;
        CHECK(!refs_drop(&me->shared->refs)); /* this thread still holds its first one */
    }
    shared_unref(me->shared);
    return NULL;
}

static void test_the_last_thread_to_drop_frees_and_sees_what_others_wrote(void **state)
{
    struct shared *shared = mem_zalloc(sizeof(*shared));
    struct ref_thread threads[REF_THREADS];
    pthread_t ids[REF_THREADS];
    int freed = 0;

    (void)state;
    refs_init(&shared->refs);
    shared->freed = &freed;
    for (int i = 0; i < REF_THREADS; i++) {
        threads[i] = (struct ref_thread){shared, i};
        refs_take(&shared->refs);
    }
    for (int i = 0; i < REF_THREADS; i++)
        assert_int_equal(pthread_create(&ids[i], NULL, ref_run, &threads[i]), 0);
    shared_unref(shared);
    for (int i = 0; i < REF_THREADS; i++)
        assert_int_equal(pthread_join(ids[i], NULL), 0);
    assert_int_equal(freed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_bytes_give_a_pointer_of_their_own),
        cmocka_unit_test(test_zeroed_memory_is_zero),
        cmocka_unit_test(test_copies_are_copies),
        cmocka_unit_test(test_printf_fits_any_length),
        cmocka_unit_test(test_what_cannot_be_had_stops_the_process),
        cmocka_unit_test(test_try_returns_null_for_what_cannot_be_had),
        cmocka_unit_test(test_wipe_overwrites_what_it_is_told_and_no_more),
        cmocka_unit_test(test_cleanup_drops_at_the_end_of_scope_and_not_what_was_handed_over),
        cmocka_unit_test(test_one_drop_too_many_stops_the_process),
        cmocka_unit_test(test_the_last_thread_to_drop_frees_and_sees_what_others_wrote),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
