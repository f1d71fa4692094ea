/* Buffers: the maximum holds to the byte, content survives growing and reading in any order,
 * nothing of a secret stays behind; base64 has one text for one value.
 *
 * Drives: R14, R23. */
#include "lib/base/buf.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/base/death.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define assert_err(expr, want) assert_int_equal((expr).code, (want))

static void assert_content(const struct buf *buf, const char *want)
{
    assert_int_equal(buf_size(buf), strlen(want));
    assert_memory_equal(buf_view(buf).ptr, want, strlen(want));
}

static void test_bytes_compare_by_content(void **state)
{
    (void)state;
    assert_true(bytes_equal(bytes_of(NULL, 0), bytes_of("x", 0)));
    assert_true(bytes_equal_str(bytes_of("abc", 3), "abc"));
    assert_false(bytes_equal_str(bytes_of("abc", 3), "abcd"));
    assert_false(bytes_equal_str(bytes_of("ab\0d", 4), "ab"));
    assert_false(bytes_equal(bytes_of("ab\0d", 4), bytes_of("ab\0e", 4)));
}

static void test_zeroed_memory_is_an_empty_buffer(void **state)
{
    struct buf buf = {0};

    (void)state;
    assert_int_equal(buf_size(&buf), 0);
    assert_null(buf_view(&buf).ptr);
    buf_consume(&buf, 0);
    buf_truncate(&buf, 0);
    buf_clear(&buf);
    assert_ok(buf_add(&buf, NULL, 0));
    assert_ok(buf_add_str(&buf, "x"));
    assert_content(&buf, "x");
    buf_fini(&buf);
    buf_fini(&buf);
    assert_int_equal(buf_size(&buf), 0);
}

static void test_maximum_counts_what_is_not_yet_read(void **state)
{
    struct buf buf;
    char big[101];

    (void)state;
    memset(big, 'a', sizeof(big));
    buf_init(&buf, 100);
    assert_ok(buf_add(&buf, big, 99));
    assert_ok(buf_add(&buf, big, 1));
    assert_err(buf_add(&buf, big, 1), E_TOO_LARGE);
    assert_int_equal(buf_add(&buf, big, 1).sub, 100);
    assert_int_equal(buf_size(&buf), 100);
    buf_consume(&buf, 1);
    assert_err(buf_add(&buf, big, 2), E_TOO_LARGE);
    assert_ok(buf_add(&buf, "z", 1));
    assert_int_equal(buf_view(&buf).ptr[99], 'z');
    buf_clear(&buf);
    assert_err(buf_add(&buf, big, 101), E_TOO_LARGE);
    assert_int_equal(buf_size(&buf), 0);
    assert_ok(buf_add(&buf, big, 100));
    buf_fini(&buf);
    assert_int_equal(buf.max, 100);
}

static void test_a_length_that_would_overflow_is_too_large(void **state)
{
    struct buf buf = {0};
    uint8_t *to = NULL;

    (void)state;
    assert_ok(buf_add_str(&buf, "abc"));
    assert_err(buf_add(&buf, "x", SIZE_MAX), E_TOO_LARGE);
    assert_err(buf_add(&buf, "x", SIZE_MAX - 2), E_TOO_LARGE);
    assert_err(buf_reserve(&buf, BUF_MAX_DEFAULT - 2, &to), E_TOO_LARGE);
    assert_null(to);
    assert_content(&buf, "abc");
    buf_fini(&buf);
}

static void test_memory_stays_within_the_maximum_however_it_is_used(void **state)
{
    struct buf buf;
    uint8_t next_in = 0, next_out = 0;
    unsigned seed = 7;

    (void)state;
    buf_init(&buf, 1000);
    for (int i = 0; i < 20000; i++) {
        size_t want = (unsigned)rand_r(&seed) % 400;

        for (size_t j = 0; j < want && buf_size(&buf) < 1000; j++) {
            assert_ok(buf_add(&buf, &next_in, 1));
            next_in++;
        }
        want = (unsigned)rand_r(&seed) % 400;
        for (size_t j = 0; j < want && buf_size(&buf) > 0; j++) {
            assert_int_equal(buf_view(&buf).ptr[0], next_out);
            next_out++;
            buf_consume(&buf, 1);
        }
        assert_true(buf.cap <= 1000);
    }
    buf_fini(&buf);
}

/* A queue that is never quite empty: moving down must be paid for by what was read. */
static void test_a_long_stream_through_a_short_queue_needs_little_memory(void **state)
{
    struct buf buf = {0};
    char block[64] = {0};

    (void)state;
    assert_ok(buf_add(&buf, block, 10));
    for (int i = 0; i < 100000; i++) {
        assert_ok(buf_add(&buf, block, sizeof(block)));
        buf_consume(&buf, sizeof(block));
    }
    assert_int_equal(buf_size(&buf), 10);
    assert_true(buf.cap <= 1024);
    buf_fini(&buf);
}

/* Full but for a byte, read and written a byte at a time: moving all for each would be quadratic.
 */
static void test_a_full_buffer_grows_rather_than_move_for_every_byte(void **state)
{
    struct buf buf = {0};
    size_t cap;

    (void)state;
    assert_ok(buf_add_str(&buf, "x"));
    cap = buf.cap;
    while (buf_size(&buf) < cap)
        assert_ok(buf_add_str(&buf, "x"));
    buf_consume(&buf, 1);
    assert_ok(buf_add_str(&buf, "x"));
    assert_true(buf.cap > cap);
    buf_fini(&buf);
}

static void test_reserve_and_commit(void **state)
{
    struct buf buf = {0};
    uint8_t *to = NULL;

    (void)state;
    assert_ok(buf_reserve(&buf, 0, &to));
    assert_non_null(to);
    assert_ok(buf_reserve(&buf, 3, &to));
    memcpy(to, "abc", 3);
    assert_int_equal(buf_size(&buf), 0);
    buf_commit(&buf, 2);
    assert_content(&buf, "ab");
    buf_fini(&buf);
}

static void commit_too_much(void *arg)
{
    struct buf buf = {0};
    uint8_t *to;

    (void)arg;
    CHECK(err_is_ok(buf_reserve(&buf, 3, &to)));
    buf_commit(&buf, buf.cap + 1);
}

static void consume_too_much(void *arg)
{
    struct buf buf = {0};

    (void)arg;
    CHECK(err_is_ok(buf_add_str(&buf, "abc")));
    buf_consume(&buf, 4);
}

static void test_reading_or_writing_past_the_end_stops_the_process(void **state)
{
    (void)state;
    assert_true(death_aborts(commit_too_much, NULL));
    assert_true(death_aborts(consume_too_much, NULL));
}

static void test_printf_to_the_last_byte_of_the_maximum(void **state)
{
    struct buf buf;

    (void)state;
    for (size_t max = 1; max < 200; max++) {
        buf_init(&buf, max);
        assert_err(buf_printf(&buf, "%0*d", (int)max + 1, 5), E_TOO_LARGE);
        assert_int_equal(buf_size(&buf), 0);
        assert_ok(buf_printf(&buf, "%0*d", (int)max, 5));
        assert_int_equal(buf_size(&buf), max);
        assert_int_equal(buf_view(&buf).ptr[max - 1], '5');
        assert_err(buf_printf(&buf, "x"), E_TOO_LARGE);
        assert_ok(buf_printf(&buf, "%s", ""));
        assert_int_equal(buf_view(&buf).ptr[max - 1], '5');
        buf_fini(&buf);
    }
}

static void test_printf_appends_across_growth(void **state)
{
    struct buf buf = {0};
    char *all;

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_ok(buf_printf(&buf, "%d,", i));
    buf_consume(&buf, 4);
    all = buf_take_str(&buf);
    assert_int_equal(strlen(all), 3890 - 4);
    assert_memory_equal(all, "2,3,", 4);
    assert_string_equal(all + strlen(all) - 8, "998,999,");
    assert_int_equal(buf_size(&buf), 0);
    mem_free(all);
}

static void test_take_str_of_an_empty_and_of_a_full_buffer(void **state)
{
    struct buf buf = {0};
    char *str = buf_take_str(&buf);

    (void)state;
    assert_string_equal(str, "");
    mem_free(str);
    buf_init(&buf, 64);
    assert_ok(buf_printf(&buf, "%064d", 1));
    str = buf_take_str(&buf);
    assert_int_equal(strlen(str), 64);
    mem_free(str);
    assert_ok(buf_add_str(&buf, "again"));
    assert_content(&buf, "again");
    buf_fini(&buf);
}

static void test_truncate_takes_back_and_overwrites(void **state)
{
    struct buf buf = {0};

    (void)state;
    assert_ok(buf_add_str(&buf, "head:secret"));
    buf_consume(&buf, 2);
    buf_truncate(&buf, 3);
    assert_content(&buf, "ad:");
    assert_memory_equal(buf.data + 5, "\0\0\0\0\0\0", 6);
    buf_fini(&buf);
}

/* Linked in the place of free (--wrap): looks for a secret in what is given back. */
static const char *watched;
static int leaks;

void __real_free(void *ptr);
void __wrap_free(void *ptr);
void __wrap_free(void *ptr)
{
    if (ptr != NULL && watched != NULL &&
        memmem(ptr, malloc_usable_size(ptr), watched, strlen(watched)) != NULL)
        leaks++;
    __real_free(ptr);
}

static void fill_with_secret(struct buf *buf)
{
    char *coded = bytes_to_base64(bytes_of("BEGIN PRIVATE KEY", 17));

    for (int i = 0; i < 100; i++)
        assert_ok(buf_add_str(buf, "BEGIN PRIVATE KEY"));
    assert_ok(bytes_from_base64(coded, strlen(coded), buf));
    assert_ok(buf_printf(buf, "%2000s", "BEGIN PRIVATE KEY"));
    mem_free(coded);
}

static void test_growing_and_wiping_leave_no_copy_behind(void **state)
{
    struct buf buf = {0};

    (void)state;
    watched = "PRIVATE";
    leaks = 0;
    fill_with_secret(&buf);
    buf_consume(&buf, 17);
    fill_with_secret(&buf);
    buf_truncate(&buf, 20);
    buf_wipe_fini(&buf);
    assert_int_equal(leaks, 0);
    assert_null(buf.data);

    /* The twin: without wiping the same is seen. */
    fill_with_secret(&buf);
    buf_fini(&buf);
    assert_int_equal(leaks, 1);
    watched = NULL;
}

static void test_big_endian(void **state)
{
    uint8_t bytes[8];

    (void)state;
    put_be32(bytes, 0xfedcba98);
    assert_memory_equal(bytes, "\xfe\xdc\xba\x98", 4);
    assert_int_equal(get_be32(bytes), 0xfedcba98);
    put_be64(bytes, 0x0123456789abcdef);
    assert_memory_equal(bytes, "\x01\x23\x45\x67\x89\xab\xcd\xef", 8);
}

static void test_hex(void **state)
{
    char out[7] = "??????";

    (void)state;
    bytes_to_hex(bytes_of("\x00\x9f\xff", 3), out);
    assert_string_equal(out, "009fff");
    bytes_to_hex(bytes_of(NULL, 0), out);
    assert_string_equal(out, "");
}

/* RFC 4648 section 10. */
static const struct {
    const char *plain, *coded;
} base64_vectors[] = {{"", ""},
                      {"f", "Zg=="},
                      {"fo", "Zm8="},
                      {"foo", "Zm9v"},
                      {"foob", "Zm9vYg=="},
                      {"fooba", "Zm9vYmE="},
                      {"foobar", "Zm9vYmFy"}};

static void test_base64_vectors_both_ways_with_and_without_padding(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(base64_vectors); i++) {
        const char *coded = base64_vectors[i].coded;
        char *made = bytes_to_base64(bytes_of_str(base64_vectors[i].plain));
        struct buf out = {0};

        assert_string_equal(made, coded);
        mem_free(made);
        assert_ok(bytes_from_base64(coded, strlen(coded), &out));
        assert_content(&out, base64_vectors[i].plain);
        buf_clear(&out);
        assert_ok(bytes_from_base64(coded, strcspn(coded, "="), &out));
        assert_content(&out, base64_vectors[i].plain);
        buf_fini(&out);
    }
}

static void test_base64_round_trip_of_all_bytes_and_lengths(void **state)
{
    uint8_t all[256];

    (void)state;
    for (size_t i = 0; i < 256; i++)
        all[i] = (uint8_t)(i * 167 + 13);
    for (size_t len = 0; len <= 256; len++) {
        char *coded = bytes_to_base64(bytes_of(all, len));
        struct buf out = {0};

        assert_ok(bytes_from_base64(coded, strlen(coded), &out));
        assert_true(bytes_equal(buf_view(&out), bytes_of(all, len)));
        mem_free(coded);
        buf_fini(&out);
    }
}

static void test_base64_refuses_every_other_text_for_a_value(void **state)
{
    static const char *const bad[] = {"Z",     "Zg=",      "Zg===",    "Z===",       "=",
                                      "==",    "====",     "Zm9v=",    "Zm9v==",     "Zm9v====",
                                      "Zm=v",  "Zg==Zg==", "Zh==",     "Zm9=",       "Zm9vYh",
                                      "Zm 9v", "Zm9v\n",   "Zm9v-_==", "Zm\xc3\xa4", " Zm9v",
                                      "Zm9vY"};
    struct buf out = {0};

    (void)state;
    assert_ok(buf_add_str(&out, "kept"));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_err(bytes_from_base64(bad[i], strlen(bad[i]), &out), E_SYNTAX);
        assert_content(&out, "kept");
    }
    assert_err(bytes_from_base64("Zm\0v", 4, &out), E_SYNTAX);
    assert_int_equal(bytes_from_base64("Zm9vZm*v", 8, &out).sub, 6);
    buf_fini(&out);
    buf_init(&out, 2);
    assert_err(bytes_from_base64("Zm9v", 4, &out), E_TOO_LARGE);
    assert_ok(bytes_from_base64("Zm8", 3, &out));
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_compare_by_content),
        cmocka_unit_test(test_zeroed_memory_is_an_empty_buffer),
        cmocka_unit_test(test_maximum_counts_what_is_not_yet_read),
        cmocka_unit_test(test_a_length_that_would_overflow_is_too_large),
        cmocka_unit_test(test_memory_stays_within_the_maximum_however_it_is_used),
        cmocka_unit_test(test_a_long_stream_through_a_short_queue_needs_little_memory),
        cmocka_unit_test(test_a_full_buffer_grows_rather_than_move_for_every_byte),
        cmocka_unit_test(test_reserve_and_commit),
        cmocka_unit_test(test_reading_or_writing_past_the_end_stops_the_process),
        cmocka_unit_test(test_printf_to_the_last_byte_of_the_maximum),
        cmocka_unit_test(test_printf_appends_across_growth),
        cmocka_unit_test(test_take_str_of_an_empty_and_of_a_full_buffer),
        cmocka_unit_test(test_truncate_takes_back_and_overwrites),
        cmocka_unit_test(test_growing_and_wiping_leave_no_copy_behind),
        cmocka_unit_test(test_big_endian),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_base64_vectors_both_ways_with_and_without_padding),
        cmocka_unit_test(test_base64_round_trip_of_all_bytes_and_lengths),
        cmocka_unit_test(test_base64_refuses_every_other_text_for_a_value),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
