/* Sealed records: open only under their own key, at their own path, unchanged to the bit.
 * Without it: a record that somebody with write access to the store moved or changed is believed.
 * Drives: R45, R53. */
#include "certs/seal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define HEX_KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define SEAL_TEST_OVERHEAD (3 + 8 + 12 + 48 + 12 + 16)

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct seal_key key;
static struct seal_key other;

static int setup(void **state)
{
    (void)state;
    assert_ok(seal_key_parse(bytes_of_str(HEX_KEY), &key));
    assert_ok(seal_key_parse(
        bytes_of_str("ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"), &other));
    return 0;
}

static void test_round_trip(void **state)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 1000, 1 << 20};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct buf sealed = {0};
        struct buf plain = {0};
        uint8_t *data = mem_zalloc(sizes[i] + 1);
        memset(data, (int)i + 1, sizes[i]);
        assert_ok(buf_add_str(&sealed, "before"));
        assert_ok(seal_close(&key, "ca/root/7", bytes_of(data, sizes[i]), &sealed));
        buf_consume(&sealed, 6);
        assert_int_equal(buf_size(&sealed), sizes[i] + SEAL_TEST_OVERHEAD);
        assert_ok(seal_open(&key, "ca/root/7", buf_view(&sealed), &plain));
        assert_int_equal(buf_size(&plain), sizes[i]);
        assert_memory_equal(buf_view(&plain).ptr != NULL ? buf_view(&plain).ptr : data, data,
                            sizes[i]);
        buf_fini(&sealed);
        buf_wipe_fini(&plain);
        mem_free(data);
    }
}

static void test_layout_is_as_documented(void **state)
{
    struct buf sealed = {0};

    (void)state;
    assert_ok(seal_close(&key, "p", bytes_of_str("x"), &sealed));
    assert_memory_equal(buf_view(&sealed).ptr, "MS1", 3);
    assert_memory_equal(buf_view(&sealed).ptr + 3, key.id, 8);
    buf_fini(&sealed);
}

/* Equal records do not look equal, nor do their keys. */
static void test_nothing_repeats(void **state)
{
    struct buf a = {0};
    struct buf b = {0};

    (void)state;
    assert_ok(seal_close(&key, "p", bytes_of_str("the same text"), &a));
    assert_ok(seal_close(&key, "p", bytes_of_str("the same text"), &b));
    assert_memory_not_equal(a.data + 11, b.data + 11, 12);
    assert_memory_not_equal(a.data + 23, b.data + 23, 48);
    assert_memory_not_equal(a.data + 71, b.data + 71, 12);
    assert_memory_not_equal(a.data + 83, b.data + 83, 13);
    assert_null(memmem(a.data, a.len, "the same", 8));
    buf_fini(&a);
    buf_fini(&b);
}

static void test_every_bit_counts(void **state)
{
    struct buf sealed = {0};
    size_t broken = 0;

    (void)state;
    assert_ok(seal_close(&key, "tokens/abc", bytes_of_str("secret content"), &sealed));
    for (size_t bit = 0; bit < 8 * sealed.len; bit++) {
        struct buf plain = {0};
        sealed.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
        err_t err = seal_open(&key, "tokens/abc", buf_view(&sealed), &plain);
        bool in_id = bit / 8 >= 3 && bit / 8 < 11; /* then it is of another key */
        assert_int_equal(err.code, in_id ? E_KEK_UNAVAILABLE : E_SEAL_BROKEN);
        assert_int_equal(buf_size(&plain), 0);
        broken++;
        buf_fini(&plain);
        sealed.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
    }
    assert_int_equal(broken, 8 * (14 + SEAL_TEST_OVERHEAD));
    buf_fini(&sealed);
}

static void test_every_length_counts(void **state)
{
    struct buf sealed = {0};
    struct buf plain = {0};

    (void)state;
    assert_ok(seal_close(&key, "p", bytes_of_str("secret"), &sealed));
    for (size_t len = 0; len < sealed.len; len++) {
        /* A copy of the length, so that ASan sees a byte too far. */
        uint8_t *copy = mem_dup(sealed.data, len);
        assert_int_equal(seal_open(&key, "p", bytes_of(copy, len), &plain).code, E_SEAL_BROKEN);
        mem_free(copy);
    }
    assert_ok(buf_add(&sealed, "", 1));
    assert_int_equal(seal_open(&key, "p", buf_view(&sealed), &plain).code, E_SEAL_BROKEN);
    buf_fini(&sealed);
    buf_fini(&plain);
}

/* A record cannot stand in for another: B-side of "blob swap". */
static void test_path_counts(void **state)
{
    static const char *const others[] = {"",         "ca/root",    "ca/root/1",  "ca/root/13",
                                         "ca/root/", "ca/Root/12", "ca/root/12/"};
    struct buf sealed = {0};
    struct buf plain = {0};

    (void)state;
    assert_ok(seal_close(&key, "ca/root/12", bytes_of_str("key"), &sealed));
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_int_equal(seal_open(&key, others[i], buf_view(&sealed), &plain).code, E_SEAL_BROKEN);
    assert_ok(seal_open(&key, "ca/root/12", buf_view(&sealed), &plain));
    buf_fini(&sealed);
    buf_wipe_fini(&plain);
}

/* The inner parts of two records of one key and path swapped. */
static void test_parts_of_two_records_do_not_mix(void **state)
{
    struct buf a = {0};
    struct buf b = {0};
    struct buf plain = {0};

    (void)state;
    assert_ok(seal_close(&key, "p", bytes_of_str("old password"), &a));
    assert_ok(seal_close(&key, "p", bytes_of_str("new password"), &b));
    memcpy(a.data + 71, b.data + 71, a.len - 71); /* the data of b under the data key of a */
    assert_int_equal(seal_open(&key, "p", buf_view(&a), &plain).code, E_SEAL_BROKEN);
    buf_fini(&a);
    buf_fini(&b);
    buf_fini(&plain);
}

static void test_wrong_key_is_told(void **state)
{
    struct buf sealed = {0};
    struct buf plain = {0};
    struct seal_key forged = other;

    (void)state;
    assert_ok(seal_close(&key, "p", bytes_of_str("x"), &sealed));
    assert_int_equal(seal_open(&other, "p", buf_view(&sealed), &plain).code, E_KEK_UNAVAILABLE);
    memcpy(forged.id, key.id, sizeof forged.id); /* claims to be it */
    assert_int_equal(seal_open(&forged, "p", buf_view(&sealed), &plain).code, E_SEAL_BROKEN);
    buf_fini(&sealed);
    buf_fini(&plain);
}

static void test_key_forms(void **state)
{
    static const char *const good[] = {
        HEX_KEY,
        " \t\r\n" HEX_KEY "\n\n",
        "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
    };
    static const char *const bad[] = {
        "",
        " ",
        "00",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00",
        "000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
        "g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gIQ==",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh!=",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct seal_key parsed;
        assert_ok(seal_key_parse(bytes_of_str(good[i]), &parsed));
        assert_memory_equal(parsed.key, key.key, 32);
        assert_memory_equal(parsed.id, key.id, 8);
        seal_key_fini(&parsed);
        assert_int_equal(parsed.key[1], 0); /* wiped */
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct seal_key parsed;
        if (err_is_ok(seal_key_parse(bytes_of_str(bad[i]), &parsed)))
            print_error("taken: \"%s\"\n", bad[i]);
        assert_int_equal(seal_key_parse(bytes_of_str(bad[i]), &parsed).code, E_KEK_UNAVAILABLE);
    }
}

#define HEX_OTHER "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

/* The first closes, all open; what is no key is told by its place, and nothing is taken then. */
static void test_several_keys(void **state)
{
    static const struct {
        const char *text;
        size_t num; /* 0: refused */
        int sub;
    } rows[] = {
        {HEX_KEY, 1, 0},
        {HEX_KEY "\n" HEX_OTHER "\n", 2, 0},
        {" " HEX_KEY ",\t" HEX_OTHER ",", 2, 0},
        {HEX_KEY "\n" HEX_KEY "\n" HEX_OTHER, 2, 0},
        {HEX_KEY "\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 1,
         0}, /* the same, in base64 */
        {"", 0, 0},
        {" \n,\n", 0, 0},
        {HEX_KEY " x", 0, 2},
        {"x " HEX_KEY, 0, 1},
        {HEX_KEY HEX_OTHER, 0, 1},
    };
    struct seal_keys keys;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err_t err = seal_keys_parse(bytes_of_str(rows[i].text), &keys);

        assert_int_equal(err.code, rows[i].num > 0 ? E_OK : E_KEK_UNAVAILABLE);
        assert_int_equal(err.sub, rows[i].sub);
        if (rows[i].num == 0)
            continue;
        assert_int_equal(keys.num, rows[i].num);
        assert_memory_equal(keys.keys[0].key, key.key, 32);
    }
    assert_ok(seal_keys_parse(bytes_of_str(HEX_KEY " " HEX_OTHER), &keys));
    for (size_t i = 0; i < 2; i++) {
        CLEANUP(buf_fini) struct buf sealed = {0};
        char name[SEAL_NAME], again[SEAL_NAME];

        assert_ok(seal_close(i == 0 ? &key : &other, "a", bytes_of_str("x"), &sealed));
        assert_ptr_equal(seal_keys_of(&keys, buf_view(&sealed)), &keys.keys[i]);
        seal_name(buf_view(&sealed), name);
        seal_key_name(&keys.keys[i], again);
        assert_string_equal(name, again);
        seal_name(bytes_of(buf_view(&sealed).ptr, 20), name);
        assert_string_equal(name, "?");
        keys.num = 1;
        assert_true((seal_keys_of(&keys, buf_view(&sealed)) != NULL) == (i == 0));
        keys.num = 2;
    }
    seal_keys_fini(&keys);
    assert_int_equal(keys.keys[1].key[0], 0); /* wiped */
}

static void test_five_keys_are_too_many(void **state)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct seal_keys keys;

    (void)state;
    for (int i = 0; i < SEAL_KEYS_MAX; i++)
        assert_ok(buf_printf(&text, "%064d\n", i));
    assert_ok(seal_keys_parse(buf_view(&text), &keys));
    assert_ok(buf_printf(&text, "%064d\n", 9));
    assert_int_equal(seal_keys_parse(buf_view(&text), &keys).code, E_KEK_UNAVAILABLE);
    seal_keys_fini(&keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_layout_is_as_documented),
        cmocka_unit_test(test_nothing_repeats),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_every_length_counts),
        cmocka_unit_test(test_path_counts),
        cmocka_unit_test(test_parts_of_two_records_do_not_mix),
        cmocka_unit_test(test_wrong_key_is_told),
        cmocka_unit_test(test_key_forms),
        cmocka_unit_test(test_several_keys),
        cmocka_unit_test(test_five_keys_are_too_many),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
