/* Secrets from files, variables and commands, and values that are encrypted in files.
 * Without it: a file in a repository has its secrets in the clear, an encrypted value that was
 * changed is believed, or a command that hangs stops a start for ever.
 * Drives: C2, E6, R25, D1. */
#include "certs/secrets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/command.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

#define KEY_1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY_2 "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define SECRET "hunter2-and-more!!" /* a whole number of base64 groups: each digit counts */

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static char folder[] = "/tmp/secrets_test.XXXXXX";
static struct seal_key key_1, key_2;

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_ok(seal_key_parse(bytes_of_str(KEY_1), &key_1));
    assert_ok(seal_key_parse(bytes_of_str(KEY_2), &key_2));
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"keys", "secret", "run", NULL};

    (void)state;
    for (size_t i = 0; names[i] != NULL; i++) {
        char *path = mem_printf("%s/%s", folder, names[i]);

        (void)unlink(path);
        mem_free(path);
    }
    return rmdir(folder);
}

static int after_each(void **state)
{
    (void)state;
    secrets_end();
    return 0;
}

/* FOLDER/NAME with this text; owned. */
static char *put(const char *name, const char *text, mode_t mode)
{
    char *path = mem_printf("%s/%s", folder, name);

    assert_ok(file_write_atomic(path, bytes_of_str(text), mode));
    return path;
}

static char *closed(const struct seal_key *key, const char *plain)
{
    struct buf out = {0};

    assert_ok(secrets_close(key, bytes_of_str(plain), &out));
    return buf_take_str(&out);
}

static void use_file(const char *keys)
{
    struct faults faults = {0};
    CLEANUP(mem_freep) char *path = put("keys", keys, 0600);
    const struct secret_source source = {.name = "secrets-key", .file = path};

    assert_true(secrets_use(&source, &faults));
}

static void test_a_value_opens_under_its_key(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_1, SECRET);
    CLEANUP(mem_freep) char *again = closed(&key_1, SECRET);
    CLEANUP(mem_freep) char *spaced = mem_printf("%s \r\n", text);
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    char why[SECRETS_WHY_MAX], name[SEAL_NAME], wanted[SEAL_NAME];

    (void)state;
    assert_true(strncmp(text, "enc:", 4) == 0);
    assert_string_not_equal(text, again); /* nothing tells that they are the same */
    assert_null(strstr(text, SECRET));
    use_file(KEY_1 "\n");
    assert_ok(secrets_open(bytes_of_str(text), &out, why));
    assert_true(bytes_equal_str(buf_view(&out), SECRET));
    buf_clear(&out);
    assert_ok(secrets_open(bytes_of_str(spaced), &out, why));
    assert_true(bytes_equal_str(buf_view(&out), SECRET));
    secrets_name(bytes_of_str(text), name);
    seal_key_name(&key_1, wanted);
    assert_string_equal(name, wanted);
}

static void test_a_changed_value_does_not(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_1, SECRET);
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    char why[SECRETS_WHY_MAX];
    size_t len = strlen(text);

    (void)state;
    use_file(KEY_1);
    for (size_t i = 4; i < len; i++) {
        CLEANUP(mem_freep) char *bad = mem_strdup(text);

        bad[i] = bad[i] == 'A' ? 'B' : 'A';
        why[0] = '\0';
        assert_false(err_is_ok(secrets_open(bytes_of_str(bad), &out, why)));
        assert_int_equal(buf_size(&out), 0);
        assert_true(why[0] != '\0');
        assert_null(strstr(why, SECRET));
    }
    for (size_t cut = 4; cut < len; cut++)
        assert_false(err_is_ok(secrets_open(bytes_of(text, cut), &out, why)));
    assert_true(err_is(secrets_open(bytes_of_str("plain"), &out, why), E_SECRET_BROKEN));
}

static void test_a_record_of_another_purpose_is_no_value(void **state)
{
    CLEANUP(buf_fini) struct buf sealed = {0};
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    CLEANUP(mem_freep) char *base64 = NULL;
    CLEANUP(mem_freep) char *text = NULL;
    char why[SECRETS_WHY_MAX];

    (void)state;
    assert_ok(seal_close(&key_1, "ca/root", bytes_of_str(SECRET), &sealed));
    base64 = bytes_to_base64(buf_view(&sealed));
    text = mem_printf("enc:%s", base64);
    use_file(KEY_1);
    assert_true(err_is(secrets_open(bytes_of_str(text), &out, why), E_SECRET_BROKEN));
}

static void test_the_wrong_key_is_named(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_1, SECRET);
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    char why[SECRETS_WHY_MAX], one[SEAL_NAME], two[SEAL_NAME];

    (void)state;
    seal_key_name(&key_1, one);
    seal_key_name(&key_2, two);
    assert_true(err_is(secrets_open(bytes_of_str(text), &out, why), E_SECRET_KEY));
    assert_non_null(strstr(why, one));
    assert_non_null(strstr(why, "no key is given: --secrets-key-file"));
    use_file(KEY_2);
    assert_true(err_is(secrets_open(bytes_of_str(text), &out, why), E_SECRET_KEY));
    assert_non_null(strstr(why, one));
    assert_non_null(strstr(why, two));
    assert_null(strstr(why, text + 4));
    use_file(KEY_2 "\n" KEY_1 "\n"); /* a new one in front: both open */
    assert_ok(secrets_open(bytes_of_str(text), &out, why));
    use_file("nothing");
    assert_true(err_is(secrets_open(bytes_of_str(text), &out, why), E_SECRET_KEY));
    assert_non_null(strstr(why, "not a key-encryption key"));
}

static void test_a_file_may_be_encrypted_as_a_whole(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_1, SECRET);
    CLEANUP(mem_freep) char *path = put("secret", text, 0600);
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    char why[SECRETS_WHY_MAX];

    (void)state;
    assert_ok(buf_add_str(&out, "before "));
    assert_true(err_is(secrets_read_file(path, 1000, &out, why), E_SECRET_KEY));
    assert_true(bytes_equal_str(buf_view(&out), "before "));
    use_file(KEY_1);
    assert_ok(secrets_read_file(path, 1000, &out, why));
    assert_true(bytes_equal_str(buf_view(&out), "before " SECRET));
    mem_free(put("secret", SECRET, 0600)); /* in the clear, as before */
    buf_clear(&out);
    assert_ok(secrets_read_file(path, 1000, &out, why));
    assert_true(bytes_equal_str(buf_view(&out), SECRET));
    assert_int_equal(chmod(path, 0644), 0);
    assert_true(err_is(secrets_read_file(path, 1000, &out, why), E_FILE_UNSAFE));
    assert_string_equal(why, "");
}

static void test_a_string_is_opened_in_its_place(void **state)
{
    struct faults faults = {0};
    char *value = closed(&key_1, SECRET);
    char *plain = mem_strdup("as it is");
    char *none = NULL;

    (void)state;
    assert_true(secrets_open_str(&plain, "x", &faults) && strcmp(plain, "as it is") == 0);
    assert_true(secrets_open_str(&none, "x", &faults));
    assert_false(secrets_open_str(&value, "control.yaml: kek", &faults));
    assert_string_equal(faults.items[0].path, "control.yaml: kek");
    faults_fini(&faults);
    use_file(KEY_1);
    assert_true(secrets_open_str(&value, "x", &faults));
    assert_string_equal(value, SECRET);
    mem_free(value);
    mem_free(plain);
}

/* ---- sources ---- */

static err_t run_script(const char *script, size_t max, uint64_t timeout_ms, struct buf *out)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};

    return command_read(argv, environ, max, timeout_ms, out);
}

static void test_what_a_command_writes_is_read(void **state)
{
    CLEANUP(buf_wipe_fini) struct buf out = {0};

    (void)state;
    assert_ok(buf_add_str(&out, "a"));
    assert_ok(run_script("echo one; echo two; echo no >&2", 100, 60000, &out));
    assert_true(bytes_equal_str(buf_view(&out), "aone\ntwo\n"));
    buf_clear(&out);
    assert_ok(run_script("exec 1>&-", 100, 60000, &out)); /* nothing at all */
    assert_int_equal(buf_size(&out), 0);
    assert_ok(run_script("printf %100s x", 100, 60000, &out));
    assert_int_equal(buf_size(&out), 100);
}

static void test_a_command_gets_nothing_of_ours(void **state)
{
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    int fd = dup(STDOUT_FILENO); /* not closed at exec */

    (void)state;
    assert_true(fd > 2);
    assert_int_equal(setenv("MORTISE_KEK", SECRET, 1), 0);
    assert_int_equal(setenv("KMS_REGION", "here", 1), 0);
    /* Its three, and the one by which it reads that folder. */
    assert_ok(run_script("env; set -- /proc/$$/fd/*; echo; echo $#; cat", 65536, 60000, &out));
    assert_ok(buf_add(&out, "", 1));
    assert_null(strstr((char *)out.data, SECRET));
    assert_null(strstr((char *)out.data, "MORTISE_"));
    assert_non_null(strstr((char *)out.data, "KMS_REGION=here"));
    assert_non_null(strstr((char *)out.data, "\n4\n"));
    assert_int_equal(unsetenv("MORTISE_KEK"), 0);
    assert_int_equal(close(fd), 0);
}

static void test_a_command_that_fails_gives_nothing(void **state)
{
    static const char *const missing[] = {"/nonexistent/kms", NULL};
    static const char *const pathless[] = {"sh", NULL};
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    err_t err;

    (void)state;
    err = run_script("echo " SECRET "; exit 7", 100, 60000, &out);
    assert_true(err_is(err, E_COMMAND_FAILED) && err.sub == 7);
    err = run_script("echo " SECRET "; kill -9 $$", 100, 60000, &out);
    assert_true(err_is(err, E_COMMAND_FAILED) && err.sub == -9);
    err = run_script("printf %101s x", 100, 60000, &out);
    assert_true(err_is(err, E_TOO_LARGE) && err.sub == 100);
    assert_true(err_is(run_script("cat /dev/zero", 100, 60000, &out), E_TOO_LARGE));
    assert_true(err_is(run_script("echo x; exec tail -f /dev/null", 100, 200, &out), E_TIMEOUT));
    assert_true(
        err_is(run_script("exec >/dev/null; exec tail -f /dev/null", 100, 200, &out), E_TIMEOUT));
    /* A child of it that goes on holds the pipe. */
    assert_true(err_is(run_script("tail -f /dev/null & exit 0", 100, 200, &out), E_TIMEOUT));
    assert_true(err_is(command_read(missing, environ, 100, 1000, &out), E_COMMAND_START));
    assert_true(err_is(command_read(pathless, environ, 100, 1000, &out), E_COMMAND_START));
    assert_int_equal(buf_size(&out), 0);
}

static void test_a_command_is_run_once_for_many_values(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_1, SECRET);
    CLEANUP(mem_freep) char *mark = mem_printf("%s/run", folder);
    CLEANUP(mem_freep) char *script = mem_printf("echo x >>%s; echo " KEY_1, mark);
    char shell[] = "/bin/sh", flag[] = "-c";
    char *items[] = {shell, flag, script};
    const struct option_list words = {items, 3};
    const struct option_list fewer = {items, 1};
    const struct secret_source source = {.name = "secrets-key", .command = &words};
    const struct secret_source other = {.name = "secrets-key", .command = &fewer};
    const struct secret_source missing = {.name = "secrets-key", .file = "/nowhere/key"};
    const struct secret_source another = {.name = "secrets-key", .value = KEY_2};
    CLEANUP(buf_wipe_fini) struct buf out = {0};
    CLEANUP(buf_fini) struct buf runs = {0};
    struct faults faults = {0};
    char why[SECRETS_WHY_MAX];

    (void)state;
    assert_true(secrets_use(&source, &faults));
    assert_int_equal(access(mark, F_OK), -1); /* not before there is a use for it */
    for (int i = 0; i < 3; i++) {
        assert_ok(secrets_open(bytes_of_str(text), &out, why));
        assert_true(secrets_use(&source, &faults)); /* as when a file of settings is read again */
    }
    assert_ok(file_read(mark, 100, &runs));
    assert_true(bytes_equal_str(buf_view(&runs), "x\n"));
    /* Another source is judged before it takes the place of the one there is. */
    assert_false(secrets_use(&other, &faults));
    assert_string_equal(faults.items[0].path, "--secrets-key-command");
    assert_false(secrets_use(&missing, &faults));
    assert_string_equal(faults.items[1].path, "--secrets-key-file");
    assert_ok(secrets_open(bytes_of_str(text), &out, why));
    assert_true(secrets_use(&another, &faults));
    assert_true(err_is(secrets_open(bytes_of_str(text), &out, why), E_SECRET_KEY));
    assert_int_equal(faults.total, 2);
    faults_fini(&faults);
}

static void test_keys_of_the_three_sources(void **state)
{
    CLEANUP(mem_freep) char *text = closed(&key_2, KEY_1);
    CLEANUP(mem_freep) char *path = put("secret", text, 0600);
    char shell[] = "/bin/sh", flag[] = "-c", script[] = "echo " KEY_2 "; echo " KEY_1;
    char bad[] = "echo not a key " SECRET;
    char *items[] = {shell, flag, script}, *bad_items[] = {shell, flag, bad};
    const struct option_list words = {items, 3}, bad_words = {bad_items, 3};
    struct secret_source source = {.name = "kek", .command = &words};
    struct seal_keys keys;
    char why[SECRETS_WHY_MAX];

    (void)state;
    assert_ok(secret_source_keys(&source, &keys, why));
    assert_int_equal(keys.num, 2);
    assert_memory_equal(keys.keys[0].key, key_2.key, 32);
    source = (struct secret_source){.name = "kek", .value = KEY_1 "," KEY_2};
    assert_ok(secret_source_keys(&source, &keys, why));
    assert_memory_equal(keys.keys[0].key, key_1.key, 32);
    /* A file, and a variable, that are encrypted themselves. */
    source = (struct secret_source){.name = "kek", .file = path};
    assert_true(err_is(secret_source_keys(&source, &keys, why), E_SECRET_KEY));
    assert_true(strncmp(why, path, strlen(path)) == 0);
    use_file(KEY_2);
    assert_ok(secret_source_keys(&source, &keys, why));
    assert_memory_equal(keys.keys[0].key, key_1.key, 32);
    source = (struct secret_source){.name = "kek", .value = text};
    assert_ok(secret_source_keys(&source, &keys, why));
    assert_memory_equal(keys.keys[0].key, key_1.key, 32);
    source = (struct secret_source){.name = "kek", .command = &bad_words};
    assert_false(err_is_ok(secret_source_keys(&source, &keys, why)));
    assert_non_null(strstr(why, "--kek-command: /bin/sh: what it writes is"));
    assert_null(strstr(why, SECRET));
    source = (struct secret_source){.name = "cache-key", .value = SECRET};
    assert_false(err_is_ok(secret_source_keys(&source, &keys, why)));
    assert_true(strncmp(why, "MORTISE_CACHE_KEY: not a key-encryption key", 42) == 0);
    assert_null(strstr(why, SECRET));
    seal_keys_fini(&keys);
}

static void test_one_source_and_no_more(void **state)
{
    char shell[] = "/bin/sh", pathless[] = "sh";
    char *items[] = {shell}, *bad_items[] = {pathless};
    const struct option_list words = {items, 1}, bad_words = {bad_items, 1};
    const struct secret_source bad[] = {
        {.name = "kek", .file = "f", .value = "v"},
        {.name = "kek", .file = "f", .command = &words},
        {.name = "kek", .value = "v", .command = &words},
        {.name = "kek", .command = &bad_words},
    };
    static const char *const said[] = {
        "and MORTISE_KEK are both given",
        "and --kek-file are both given",
        "and MORTISE_KEK are both given",
        "\"sh\" is not the path of a program",
    };
    const struct secret_source none = {.name = "kek"};
    struct faults faults = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(secret_source_check(&bad[i], &faults));
        assert_non_null(strstr(faults.items[0].message, said[i]));
        assert_string_equal(faults.items[0].path, i == 0 ? "--kek-file" : "--kek-command");
        faults_fini(&faults);
    }
    assert_true(secret_source_check(&none, &faults));
    assert_false(secret_source_is_given(&none));
    assert_true(secrets_use(&none, &faults));
    assert_int_equal(faults.total, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_value_opens_under_its_key, after_each),
        cmocka_unit_test_teardown(test_a_changed_value_does_not, after_each),
        cmocka_unit_test_teardown(test_a_record_of_another_purpose_is_no_value, after_each),
        cmocka_unit_test_teardown(test_the_wrong_key_is_named, after_each),
        cmocka_unit_test_teardown(test_a_file_may_be_encrypted_as_a_whole, after_each),
        cmocka_unit_test_teardown(test_a_string_is_opened_in_its_place, after_each),
        cmocka_unit_test(test_what_a_command_writes_is_read),
        cmocka_unit_test(test_a_command_gets_nothing_of_ours),
        cmocka_unit_test(test_a_command_that_fails_gives_nothing),
        cmocka_unit_test_teardown(test_a_command_is_run_once_for_many_values, after_each),
        cmocka_unit_test_teardown(test_keys_of_the_three_sources, after_each),
        cmocka_unit_test(test_one_source_and_no_more),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
