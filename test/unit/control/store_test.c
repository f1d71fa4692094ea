/* The store: both implementations keep the same rules, and SQLite's survives what happens to files.
 * Without it: two writers overwrite each other, half a transaction stays, a damaged or foreign file
 * is believed. Drives: R54, D1, F14. */
#include "control/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/store_mem.h"
#include "control/store_sqlite.h"
#include "lib/base/random.h"
#include "test/unit/control/fixture.h"

struct place {
    struct store *store;
    char folder[64];
    char path[96];
    bool is_sqlite;
};

static void place_open(struct place *place)
{
    assert_ok(store_sqlite_open(place->path, 0, &place->store));
}

static struct place *place_new(bool is_sqlite)
{
    struct place *place = mem_zalloc(sizeof(*place));

    place->is_sqlite = is_sqlite;
    if (!is_sqlite) {
        place->store = store_mem_new();
        return place;
    }
    (void)snprintf(place->folder, sizeof(place->folder), "/tmp/mortise-store-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    (void)snprintf(place->path, sizeof(place->path), "%s/store.db", place->folder);
    place_open(place);
    return place;
}

static int setup_mem(void **state)
{
    *state = place_new(false);
    return 0;
}

static int setup_sqlite(void **state)
{
    *state = place_new(true);
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    char journal[128];

    store_free(place->store);
    if (place->is_sqlite) {
        (void)snprintf(journal, sizeof(journal), "%s-journal", place->path);
        (void)unlink(journal);
        (void)unlink(place->path);
        assert_int_equal(rmdir(place->folder), 0);
    }
    mem_free(place);
    return 0;
}

static void assert_value(struct store *store, const char *key, const char *value)
{
    struct buf got = {0};

    assert_ok(store_get(store, key, &got, NULL));
    assert_int_equal(buf_size(&got), strlen(value));
    assert_memory_equal(buf_view(&got).ptr, value, strlen(value));
    buf_fini(&got);
}

static void assert_absent(struct store *store, const char *key)
{
    struct buf got = {0};

    assert_code(store_get(store, key, &got, NULL), NOT_FOUND);
    buf_fini(&got);
}

static uint64_t put(struct store *store, const char *key, const char *value, uint64_t expect)
{
    uint64_t version = 0;

    assert_ok(store_put_if(store, key, bytes_of_str(value), expect, &version));
    return version;
}

/* --------------------------------------------------------------- both of them */

static void test_put_get_and_delete(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    uint64_t first, second;

    assert_absent(store, "a");
    first = put(store, "a", "one", STORE_ABSENT);
    assert_value(store, "a", "one");
    second = put(store, "a", "two", first);
    assert_true(second > first);
    assert_value(store, "a", "two");
    assert_ok(store_delete_if(store, "a", second));
    assert_absent(store, "a");
}

static void test_values_may_be_empty_and_hold_any_byte(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    uint8_t all[256];
    struct buf got = {0};

    for (size_t i = 0; i < sizeof(all); i++)
        all[i] = (uint8_t)i;
    assert_ok(store_put_if(store, "all", bytes_of(all, sizeof(all)), STORE_ABSENT, NULL));
    assert_ok(store_put_if(store, "none", bytes_of(NULL, 0), STORE_ABSENT, NULL));
    assert_ok(store_get(store, "all", &got, NULL));
    assert_int_equal(buf_size(&got), sizeof(all));
    assert_memory_equal(buf_view(&got).ptr, all, sizeof(all));
    buf_clear(&got);
    assert_ok(store_get(store, "none", &got, NULL));
    assert_int_equal(buf_size(&got), 0);
    buf_fini(&got);
}

static void test_a_stale_version_changes_nothing(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    uint64_t first = put(store, "a", "one", STORE_ABSENT);

    put(store, "a", "two", first);
    assert_code(store_put_if(store, "a", bytes_of_str("lost"), first, NULL), STORE_CONFLICT);
    assert_code(store_put_if(store, "a", bytes_of_str("lost"), STORE_ABSENT, NULL), STORE_CONFLICT);
    assert_code(store_delete_if(store, "a", first), STORE_CONFLICT);
    assert_code(store_put_if(store, "b", bytes_of_str("lost"), 7, NULL), STORE_CONFLICT);
    assert_value(store, "a", "two");
    assert_absent(store, "b");
}

static void test_a_version_never_comes_back(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    uint64_t first = put(store, "a", "one", STORE_ABSENT);
    uint64_t again;

    assert_ok(store_delete_if(store, "a", first));
    again = put(store, "a", "one", STORE_ABSENT);
    assert_true(again > first);
    assert_code(store_put_if(store, "a", bytes_of_str("lost"), first, NULL), STORE_CONFLICT);
}

static void test_a_transaction_is_whole_or_nothing(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    uint64_t a = put(store, "a", "old", STORE_ABSENT);
    struct store_change changes[] = {
        {.key = "a", .value = bytes_of_str("new"), .expect = a},
        {.key = "b", .value = bytes_of_str("new"), .expect = STORE_ABSENT},
        {.key = "c", .value = bytes_of_str("new"), .expect = 99},
    };
    err_t err = store_commit(store, changes, 3, NULL);

    assert_code(err, STORE_CONFLICT);
    assert_int_equal(err.sub, 2); /* which one */
    assert_value(store, "a", "old");
    assert_absent(store, "b");

    changes[2].expect = STORE_ABSENT;
    assert_ok(store_commit(store, changes, 3, NULL));
    assert_value(store, "a", "new");
    assert_value(store, "b", "new");
    assert_value(store, "c", "new");
}

static int heard;

static void hear(void *arg, const struct store_change *change, uint64_t revision)
{
    (void)arg;
    (void)change;
    (void)revision;
    heard++;
}

/* The same content in another form: nobody's version is stale by it, and nobody hears of it. */
static void test_the_same_keeps_its_version(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    struct store_change change = {.key = "a", .value = bytes_of_str("2"), .same = true};
    struct store_watch watch = {.prefix = "", .fn = hear};
    CLEANUP(buf_fini) struct buf value = {0};
    uint64_t first, now;

    heard = 0;
    assert_ok(store_put_if(store, "a", bytes_of_str("1"), STORE_ABSENT, &first));
    store_watch(store, &watch);
    change.expect = first;
    assert_ok(store_commit(store, &change, 1, NULL));
    assert_ok(store_get(store, "a", &value, &now));
    assert_int_equal(now, first);
    assert_true(bytes_equal_str(buf_view(&value), "2"));
    assert_int_equal(heard, 0);
    assert_ok(store_put_if(store, "a", bytes_of_str("3"), first, &now));
    assert_true(now > first);
    assert_int_equal(heard, 1);
    assert_code(store_commit(store, &change, 1, NULL), STORE_CONFLICT);
    store_unwatch(&watch);
}

static void test_list_is_by_prefix_and_in_order(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    struct store_items items;

    put(store, "cert/b", "2", STORE_ABSENT);
    put(store, "cert/a", "1", STORE_ABSENT);
    put(store, "cert", "no", STORE_ABSENT);
    put(store, "certs/z", "no", STORE_ABSENT);
    put(store, "a", "no", STORE_ABSENT);
    assert_ok(store_list(store, "cert/", &items));
    assert_int_equal(items.num, 2);
    assert_string_equal(items.items[0].key, "cert/a");
    assert_string_equal(items.items[1].key, "cert/b");
    assert_memory_equal(items.items[1].value, "2", 1);
    store_items_fini(&items);
    assert_ok(store_list(store, "", &items));
    assert_int_equal(items.num, 5);
    store_items_fini(&items);
    /* A page at a time. */
    assert_ok(store_list_page(store, "cert/", "", 1, &items));
    assert_int_equal(items.num, 1);
    assert_string_equal(items.items[0].key, "cert/a");
    store_items_fini(&items);
    assert_ok(store_list_page(store, "cert/", "cert/a", 1, &items));
    assert_int_equal(items.num, 1);
    assert_string_equal(items.items[0].key, "cert/b");
    store_items_fini(&items);
    assert_ok(store_list_page(store, "cert/", "cert/b", 1, &items));
    assert_int_equal(items.num, 0); /* not what lies behind under another prefix */
    store_items_fini(&items);
    assert_ok(
        store_list_page(store, "", "cert/a0", 99, &items)); /* behind a key that is not there */
    assert_int_equal(items.num, 2);
    assert_string_equal(items.items[0].key, "cert/b");
    store_items_fini(&items);
    assert_ok(store_list(store, "nothing/", &items));
    assert_int_equal(items.num, 0);
    store_items_fini(&items);
}

struct seen {
    unsigned num;
    char last[64];
    uint64_t revision;
};

static void on_change(void *arg, const struct store_change *change, uint64_t revision)
{
    struct seen *seen = arg;

    seen->num++;
    seen->revision = revision;
    (void)snprintf(seen->last, sizeof(seen->last), "%s", change->key);
}

static void test_watchers_hear_of_what_is_durable_and_of_nothing_else(void **state)
{
    struct store *store = ((struct place *)*state)->store;
    struct seen seen = {0};
    struct store_watch watch = {.prefix = "mesh/", .fn = on_change, .arg = &seen};
    uint64_t version;

    store_watch(store, &watch);
    put(store, "other", "x", STORE_ABSENT);
    assert_int_equal(seen.num, 0);
    version = put(store, "mesh/current", "x", STORE_ABSENT);
    assert_int_equal(seen.num, 1);
    assert_string_equal(seen.last, "mesh/current");
    assert_int_equal(seen.revision, version);
    assert_code(store_put_if(store, "mesh/current", bytes_of_str("y"), 999, NULL), STORE_CONFLICT);
    assert_int_equal(seen.num, 1);
    store_unwatch(&watch);
    put(store, "mesh/current", "y", version);
    assert_int_equal(seen.num, 1);
}

/* ---------------------------------------------------------------- SQLite's own */

static void test_what_was_committed_is_there_after_reopening(void **state)
{
    struct place *place = *state;
    uint64_t version = put(place->store, "a", "kept", STORE_ABSENT);

    store_free(place->store);
    place_open(place);
    assert_value(place->store, "a", "kept");
    /* Revisions go on where they were. */
    assert_true(put(place->store, "a", "next", version) > version);
}

static void test_the_file_is_private(void **state)
{
    struct place *place = *state;
    struct stat st;

    assert_int_equal(stat(place->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_a_second_opener_is_told(void **state)
{
    struct place *place = *state;
    struct store *second = NULL;

    put(place->store, "a", "x", STORE_ABSENT);
    assert_code(store_sqlite_open(place->path, 0, &second), STORE_BUSY);
    assert_value(place->store, "a", "x");
}

/* What is written to a file that nobody will open again must not be confirmed. */
static void test_a_file_that_was_taken_away_takes_nothing(void **state)
{
    struct place *place = *state;
    char aside[128];

    put(place->store, "a", "kept", STORE_ABSENT);
    (void)snprintf(aside, sizeof(aside), "%s.aside", place->path);
    assert_int_equal(rename(place->path, aside), 0);
    assert_code(store_put_if(place->store, "b", bytes_of_str("x"), STORE_ABSENT, NULL),
                STORE_UNWRITABLE);
    assert_value(place->store, "a", "kept"); /* reading goes on */
    /* Back again, but what happened between is unknown: a restart decides. */
    assert_int_equal(rename(aside, place->path), 0);
    assert_code(store_put_if(place->store, "b", bytes_of_str("x"), STORE_ABSENT, NULL),
                STORE_UNWRITABLE);
    store_free(place->store);
    place_open(place);
    assert_value(place->store, "a", "kept");
    assert_absent(place->store, "b");
    put(place->store, "b", "x", STORE_ABSENT);
}

static void test_a_file_that_was_cut_takes_nothing(void **state)
{
    struct place *place = *state;
    struct stat st;

    put(place->store, "a", "kept", STORE_ABSENT);
    assert_int_equal(stat(place->path, &st), 0);
    assert_int_equal(truncate(place->path, st.st_size / 2), 0);
    assert_code(store_put_if(place->store, "b", bytes_of_str("x"), STORE_ABSENT, NULL),
                STORE_UNWRITABLE);
}

static void test_a_full_store_refuses_and_works_again(void **state)
{
    struct place *place = *state;
    uint8_t big[4096];
    err_t err = OK;
    unsigned num = 0;
    char key[16];

    random_fill(big, sizeof(big));
    store_free(place->store);
    assert_ok(store_sqlite_open(place->path, 128 << 10, &place->store));
    while (err_is_ok(err)) {
        (void)snprintf(key, sizeof(key), "k%u", num);
        err = store_put_if(place->store, key, bytes_of(big, sizeof(big)), STORE_ABSENT, NULL);
        num += err_is_ok(err);
        assert_true(num < 1000);
    }
    assert_code(err, STORE_UNWRITABLE);
    assert_absent(place->store, key);
    /* Reads go on, and so do writes once there is room. */
    assert_ok(store_check(place->store));
    for (unsigned i = 0; i < num; i++) {
        (void)snprintf(key, sizeof(key), "k%u", i);
        assert_ok(store_delete_if(place->store, key, STORE_ANY));
    }
    put(place->store, "small", "fits", STORE_ABSENT);
}

static size_t read_file(const char *path, uint8_t *out, size_t max)
{
    int fd = open(path, O_RDONLY);
    ssize_t len;

    assert_true(fd >= 0);
    len = read(fd, out, max);
    assert_true(len > 0);
    (void)close(fd);
    return (size_t)len;
}

static void write_file(const char *path, const uint8_t *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_TRUNC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    (void)close(fd);
}

/* Each byte of the first two pages broken in turn, and places all over the rest: refused, or
 * unharmed. What SQLite cannot see the seal will: here only structure is judged. */
static void test_a_damaged_file_is_refused_or_unharmed(void **state)
{
    struct place *place = *state;
    static uint8_t good[1 << 20], bad[1 << 20];
    unsigned refused = 0;
    size_t len;

    for (unsigned i = 0; i < 40; i++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "key%u", i);
        put(place->store, key, "a value that is some bytes long", STORE_ABSENT);
    }
    store_free(place->store);
    place->store = NULL;
    len = read_file(place->path, good, sizeof(good));
    for (size_t at = 0; at < len; at += at < 200 ? 7 : 211) {
        struct store *store = NULL;
        err_t err;

        memcpy(bad, good, len);
        bad[at] ^= 0xff;
        write_file(place->path, bad, len);
        err = store_sqlite_open(place->path, 0, &store);
        if (err_is_ok(err)) {
            struct store_items items;

            /* What can be read has the right shape. */
            if (err_is_ok(store_list(store, "key", &items)))
                store_items_fini(&items);
            store_free(store);
        } else {
            assert_true(err_is(err, E_STORE_CORRUPT) || err_is(err, E_STORE_SCHEMA));
            refused++;
        }
    }
    assert_true(refused > 5);
    write_file(place->path, good, len);
    place_open(place);
    assert_value(place->store, "key39", "a value that is some bytes long");
}

/* What only a later SQLite may write to is damaged here, and no disk is full or read-only. */
static void test_a_header_of_a_later_format_is_damage(void **state)
{
    struct place *place = *state;
    static uint8_t good[1 << 16];
    struct store *store;
    size_t len;

    store_free(place->store);
    place->store = NULL;
    len = read_file(place->path, good, sizeof(good));
    for (unsigned version = 3; version <= UINT8_MAX; version += 6) {
        good[18] = (uint8_t)version;
        write_file(place->path, good, len);
        assert_code(store_sqlite_open(place->path, 0, &store), STORE_CORRUPT);
    }
    good[18] = 1;
    write_file(place->path, good, len);
    place_open(place);
}

static void test_files_that_are_no_store_are_refused(void **state)
{
    struct place *place = *state;
    static const struct {
        const char *content;
        enum err_code code;
    } rows[] = {
        {"this is no database, it is a text that somebody put there, longer than a header is long, "
         "and longer still so that SQLite reads a whole header of one hundred bytes",
         E_STORE_CORRUPT},
    };
    struct store *store;

    store_free(place->store);
    place->store = NULL;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        write_file(place->path, (const uint8_t *)rows[i].content, strlen(rows[i].content));
        assert_int_equal(store_sqlite_open(place->path, 0, &store).code, rows[i].code);
    }
    (void)unlink(place->path);
    assert_int_equal(symlink("/etc/passwd", place->path), 0);
    assert_code(store_sqlite_open(place->path, 0, &store), FILE_OPEN);
    (void)unlink(place->path);
    place_open(place);
}

/* A writer of pairs that is killed: whatever was acknowledged is there, and no half of a pair. */
static void writer(const char *path, int acknowledge)
{
    struct store *store;
    unsigned number = 0;

    if (!err_is_ok(store_sqlite_open(path, 0, &store)))
        _exit(2);
    for (;;) {
        struct store_change changes[2];
        char value[16];

        (void)snprintf(value, sizeof(value), "%u", ++number);
        changes[0] =
            (struct store_change){.key = "left", .value = bytes_of_str(value), .expect = STORE_ANY};
        changes[1] = (struct store_change){
            .key = "right", .value = bytes_of_str(value), .expect = STORE_ANY};
        if (!err_is_ok(store_commit(store, changes, 2, NULL)))
            _exit(3);
        if (write(acknowledge, &number, sizeof(number)) != sizeof(number))
            _exit(4);
    }
}

static unsigned number_of(struct store *store, const char *key)
{
    struct buf got = {0};
    unsigned number = 0;

    if (err_is_ok(store_get(store, key, &got, NULL))) {
        char *text = buf_take_str(&got);

        number = (unsigned)strtoul(text, NULL, 10);
        mem_free(text);
    }
    buf_fini(&got);
    return number;
}

static void test_a_killed_writer_leaves_the_old_or_the_new(void **state)
{
    struct place *place = *state;

    store_free(place->store);
    place->store = NULL;
    for (unsigned round = 0; round < 20; round++) {
        unsigned wanted = 1 + random_u32() % 40, number = 0, acknowledged = 0;
        int pipes[2];
        pid_t child;

        assert_int_equal(pipe(pipes), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            (void)close(pipes[0]);
            writer(place->path, pipes[1]);
        }
        (void)close(pipes[1]);
        /* Killed in the middle of whatever it does after so many answers. */
        while (acknowledged < wanted && read(pipes[0], &number, sizeof(number)) == sizeof(number))
            acknowledged = number;
        assert_int_equal(kill(child, SIGKILL), 0);
        while (read(pipes[0], &number, sizeof(number)) == sizeof(number))
            acknowledged = number;
        assert_int_equal(waitpid(child, NULL, 0), child);
        (void)close(pipes[0]);

        place_open(place);
        number = number_of(place->store, "left");
        assert_int_equal(number, number_of(place->store, "right"));
        assert_true(number == acknowledged || number == acknowledged + 1);
        assert_ok(store_check(place->store));
        store_free(place->store);
        place->store = NULL;
    }
    place_open(place);
}

#define BOTH(name)                                              \
    cmocka_unit_test_setup_teardown(name, setup_mem, teardown), \
        cmocka_unit_test_setup_teardown(name, setup_sqlite, teardown)
#define SQLITE(name) cmocka_unit_test_setup_teardown(name, setup_sqlite, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_put_get_and_delete),
        BOTH(test_values_may_be_empty_and_hold_any_byte),
        BOTH(test_a_stale_version_changes_nothing),
        BOTH(test_a_version_never_comes_back),
        BOTH(test_a_transaction_is_whole_or_nothing),
        BOTH(test_list_is_by_prefix_and_in_order),
        BOTH(test_the_same_keeps_its_version),
        BOTH(test_watchers_hear_of_what_is_durable_and_of_nothing_else),
        SQLITE(test_what_was_committed_is_there_after_reopening),
        SQLITE(test_the_file_is_private),
        SQLITE(test_a_second_opener_is_told),
        SQLITE(test_a_file_that_was_taken_away_takes_nothing),
        SQLITE(test_a_file_that_was_cut_takes_nothing),
        SQLITE(test_a_full_store_refuses_and_works_again),
        SQLITE(test_a_damaged_file_is_refused_or_unharmed),
        SQLITE(test_a_header_of_a_later_format_is_damage),
        SQLITE(test_files_that_are_no_store_are_refused),
        SQLITE(test_a_killed_writer_leaves_the_old_or_the_new),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
