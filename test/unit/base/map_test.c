/* The map: what a simple array would answer, under any order of calls; keys are copies; many equal
 * beginnings or deletions do not slow it down.
 *
 * Drives: none of its own. */
#include "lib/base/map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_zeroed_memory_is_an_empty_map(void **state)
{
    struct map map = {0};
    size_t iter = 0;

    (void)state;
    assert_null(map_get(&map, "a"));
    assert_null(map_del(&map, "a"));
    assert_int_equal(map_num(&map), 0);
    assert_false(map_next(&map, &iter, NULL, NULL));
    map_fini(&map);
}

static void test_put_get_replace_delete(void **state)
{
    struct map map = {0};
    char key[] = "alpha";
    int one = 1, two = 2;

    (void)state;
    assert_null(map_put(&map, key, &one));
    key[0] = 'X'; /* the map has its own copy */
    assert_ptr_equal(map_get(&map, "alpha"), &one);
    assert_null(map_get(&map, "Xlpha"));
    assert_null(map_get(&map, "alph"));
    assert_null(map_get(&map, ""));
    assert_ptr_equal(map_put(&map, "alpha", &two), &one);
    assert_int_equal(map_num(&map), 1);
    assert_null(map_put(&map, "", &one));
    assert_ptr_equal(map_get(&map, ""), &one);
    assert_ptr_equal(map_del(&map, "alpha"), &two);
    assert_null(map_del(&map, "alpha"));
    assert_null(map_get(&map, "alpha"));
    assert_int_equal(map_num(&map), 1);
    map_fini(&map);
    assert_int_equal(map_num(&map), 0);
    assert_null(map_put(&map, "again", &one));
    map_fini(&map);
}

static void test_keys_of_every_length_are_told_apart(void **state)
{
    struct map map = {0};
    char key[64];
    int values[64];

    (void)state;
    memset(key, 'k', sizeof(key));
    for (size_t len = 0; len < 63; len++) {
        key[len] = '\0';
        assert_null(map_put(&map, key, &values[len]));
        key[len] = 'k';
    }
    for (size_t len = 0; len < 63; len++) {
        key[len] = '\0';
        assert_ptr_equal(map_get(&map, key), &values[len]);
        key[len] = 'k';
    }
    map_fini(&map);
}

#define MODEL_KEYS 500

/* Random calls against an array that says what the answers must be. */
static void test_random_calls_agree_with_a_model(void **state)
{
    static int values[MODEL_KEYS][3];
    void *model[MODEL_KEYS] = {NULL};
    struct map map = {0};
    unsigned seed = 11;
    size_t num = 0;
    char key[32];

    (void)state;
    for (int i = 0; i < 100000; i++) {
        int at = rand_r(&seed) % MODEL_KEYS;
        int what = rand_r(&seed) % 10;

        (void)snprintf(key, sizeof(key), "key-%d", at);
        if (what < 4) {
            void *value = &values[at][rand_r(&seed) % 3];

            assert_ptr_equal(map_put(&map, key, value), model[at]);
            num += model[at] == NULL;
            model[at] = value;
        } else if (what < 8) {
            assert_ptr_equal(map_del(&map, key), model[at]);
            num -= model[at] != NULL;
            model[at] = NULL;
        } else {
            assert_ptr_equal(map_get(&map, key), model[at]);
        }
        assert_int_equal(map_num(&map), num);
    }
    map_fini(&map);
}

static void test_walk_meets_each_once_and_may_delete_the_current(void **state)
{
    struct map map = {0};
    int seen[100] = {0};
    const char *key;
    void *value;
    size_t iter = 0, met = 0;
    char text[16];

    (void)state;
    for (int i = 0; i < 100; i++) {
        (void)snprintf(text, sizeof(text), "%d", i);
        assert_null(map_put(&map, text, &seen[i]));
    }
    while (map_next(&map, &iter, &key, &value)) {
        int at = atoi(key);

        assert_ptr_equal(value, &seen[at]);
        seen[at]++;
        met++;
        if (at % 2 == 0)
            assert_ptr_equal(map_del(&map, key), value);
    }
    assert_int_equal(met, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(seen[i], 1);
    assert_int_equal(map_num(&map), 50);
    iter = 0;
    met = 0;
    while (map_next(&map, &iter, &key, NULL)) {
        assert_int_equal(atoi(key) % 2, 1);
        met++;
    }
    assert_int_equal(met, 50);
    map_fini(&map);
}

/* Deleted entries are reused: a map that always holds one key stays small and lookups end. */
static void test_coming_and_going_for_ever_needs_no_more_memory(void **state)
{
    struct map map = {0};
    char key[32];
    int value;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        (void)snprintf(key, sizeof(key), "session-%d", i);
        assert_null(map_put(&map, key, &value));
        assert_ptr_equal(map_del(&map, key), &value);
        assert_null(map_get(&map, key));
    }
    assert_true(map.cap <= 16);
    assert_true(map.used <= map.cap); /* what was given back is counted as free again */
    map_fini(&map);
}

static void test_a_shrunken_map_is_rebuilt_to_its_size(void **state)
{
    struct map map = {0};
    char key[32];
    int value;

    (void)state;
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(key, sizeof(key), "%d", i);
        assert_null(map_put(&map, key, &value));
    }
    assert_true(map.cap <= 32768);
    for (int i = 0; i < 10000; i++) {
        (void)snprintf(key, sizeof(key), "%d", i);
        assert_ptr_equal(map_del(&map, key), &value);
    }
    for (int i = 0; i < 40000; i++) {
        (void)snprintf(key, sizeof(key), "new-%d", i);
        assert_null(map_put(&map, key, &value));
        assert_ptr_equal(map_del(&map, key), &value);
    }
    assert_true(map.cap <= 64);
    map_fini(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroed_memory_is_an_empty_map),
        cmocka_unit_test(test_put_get_replace_delete),
        cmocka_unit_test(test_keys_of_every_length_are_told_apart),
        cmocka_unit_test(test_random_calls_agree_with_a_model),
        cmocka_unit_test(test_walk_meets_each_once_and_may_delete_the_current),
        cmocka_unit_test(test_coming_and_going_for_ever_needs_no_more_memory),
        cmocka_unit_test(test_a_shrunken_map_is_rebuilt_to_its_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
