/* Settings of the control plane: flag over variable over file, all faults at once, and a key that
 * is wiped. Without it: an operator finds his mistakes one by one, or the key stays readable in the
 * environment. Drives: B6, E5, R25, R45, R61. */
#include "control/config.h"

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

#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "test/unit/control/fixture.h"

#define KEK "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

struct place {
    char folder[64];
    struct config config;
    struct options_result result;
    struct faults faults;
};

static int setup(void **state)
{
    struct place *place = mem_zalloc(sizeof(*place));

    (void)snprintf(place->folder, sizeof(place->folder), "/tmp/mortise-config-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    static const char *const names[] = {"control.yaml", "kek"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *path = mem_printf("%s/%s", place->folder, names[i]);

        (void)unlink(path);
    }
    assert_int_equal(rmdir(place->folder), 0);
    config_free(&place->config);
    faults_fini(&place->faults);
    mem_free(place);
    return 0;
}

static void write_file(struct place *place, const char *name, const char *text, unsigned mode)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/%s", place->folder, name);

    assert_ok(file_write_atomic(path, bytes_of_str(text), mode));
}

/* Loads with the given flags (NULL ends them) and variables. */
static err_t load(struct place *place, char *const *flags, char *const *environment)
{
    char *argv[16] = {mem_strdup("mortise-control")};
    int argc = 1;
    err_t err;

    for (; flags[argc - 1] != NULL; argc++)
        argv[argc] = flags[argc - 1];
    err = config_load(argc, argv, environment, &place->config, &place->result, &place->faults);
    mem_free(argv[0]);
    return err;
}

static void test_a_file_a_variable_and_a_flag(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *config = mem_printf("--config=%s/control.yaml", place->folder);
    char listen[] = "MORTISE_LISTEN=10.0.0.1:2";
    char domain[] = "MORTISE_TRUST_DOMAIN=variable.test";
    char flag[] = "--trust-domain=flag.test";
    char *flags[] = {config, flag, NULL};
    char *environment[] = {listen, domain, NULL};

    write_file(place, "control.yaml",
               "trust_domain: file.test\nlisten: 10.0.0.1:1\ndata_dir: .\nkek_file: kek\n"
               "max_connections: 7\nlog_level: warn\n",
               0600);
    assert_ok(load(place, flags, environment));
    assert_string_equal(place->config.trust_domain, "flag.test");
    assert_string_equal(place->config.listen, "10.0.0.1:2");
    assert_int_equal(addr_port(&place->config.listen_addr), 2);
    assert_int_equal(place->config.max_connections, 7);
    assert_string_equal(place->config.log_level, "warn");
    /* Names in the file are relative to it. */
    assert_string_equal(place->config.data_dir, place->folder);
    assert_int_equal(strncmp(place->config.kek_file, place->folder, strlen(place->folder)), 0);
    assert_int_equal(strncmp(place->config.operator_socket, place->folder, strlen(place->folder)),
                     0);
}

static void test_all_faults_come_at_once(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *config = mem_printf("--config=%s/control.yaml", place->folder);
    CLEANUP(mem_freep) char *key = mem_printf("%s/control.yaml: lisen", place->folder);
    CLEANUP(mem_freep) char *size = mem_printf("%s/control.yaml: store_max_size", place->folder);
    char listen[] = "--listen=nowhere";
    char level[] = "--log-level=loud";
    char wrong[] = "--nosuch";
    char limit[] = "MORTISE_MAX_CONNECTIONS=-1";
    char *flags[] = {config, listen, level, wrong, NULL};
    char *environment[] = {limit, NULL};

    write_file(place, "control.yaml", "lisen: 10.0.0.1:1\nstore_max_size: tiny\n", 0600);
    assert_code(load(place, flags, environment), CONFIG_INVALID);
    assert_true(fixture_has(&place->faults, "--listen", "nowhere"));
    assert_true(fixture_has(&place->faults, "--log-level", "loud"));
    assert_true(fixture_has(&place->faults, "--nosuch", "unknown flag"));
    assert_true(fixture_has(&place->faults, "MORTISE_MAX_CONNECTIONS", ""));
    assert_true(fixture_has(&place->faults, key, "meant was listen?"));
    assert_true(fixture_has(&place->faults, size, "tiny"));
    assert_true(fixture_has(&place->faults, "--data-dir", "required"));
    assert_true(fixture_has(&place->faults, "--kek-file", "kek_unavailable"));
}

static void test_variables_of_the_sister_programs_are_no_mistake(void **state)
{
    struct place *place = *state;
    char data[] = "--data-dir=/x";
    char kek[] = "--kek-file=/x/kek";
    char socket[] = "MORTISE_SOCKET=/run/x";
    char token[] = "MORTISE_JOIN_TOKEN=mjt1.x";
    char odd[] = "MORTISE_LISTN=1";
    char *flags[] = {data, kek, NULL};
    char *good[] = {socket, token, NULL};
    char *bad[] = {socket, odd, NULL};

    assert_ok(load(place, flags, good));
    config_free(&place->config);
    memset(&place->config, 0, sizeof(place->config));
    assert_code(load(place, flags, bad), CONFIG_INVALID);
    assert_true(fixture_has(&place->faults, "MORTISE_LISTN", "unknown"));
}

#define OTHER_KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_the_key_is_never_a_flag_nor_in_the_file(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *config = mem_printf("--config=%s/control.yaml", place->folder);
    CLEANUP(mem_freep) char *path = NULL;
    char flag[] = "--kek=" KEK;
    char *flags[] = {config, flag, NULL};
    char *environment[] = {NULL};

    write_file(place, "control.yaml", "data_dir: .\nkek: " KEK "\n", 0600);
    assert_code(load(place, flags, environment), CONFIG_INVALID);
    for (size_t i = 0; i < place->faults.num; i++)
        assert_null(strstr(place->faults.items[i].message, "0123456789abcdef"));
    assert_true(fixture_has(&place->faults, "--kek", "MORTISE_KEK"));
    path = mem_printf("%s/control.yaml: kek", place->folder);
    assert_true(fixture_has(&place->faults, path, "only encrypted"));
}

static void test_the_key_may_be_encrypted_in_the_file(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *config = mem_printf("--config=%s/control.yaml", place->folder);
    char variable[] = "MORTISE_SECRETS_KEY=" OTHER_KEY;
    CLEANUP(buf_fini) struct buf value = {0};
    CLEANUP(mem_freep) char *by_variable = NULL;
    char *flags[] = {config, NULL}, *first[] = {NULL, NULL};
    char *environment[] = {variable, NULL}, *nothing[] = {NULL};
    CLEANUP(mem_freep) char *path = NULL;
    CLEANUP(buf_fini) struct buf text = {0};
    struct seal_key other;
    struct seal_keys keys, same;

    assert_ok(seal_key_parse(bytes_of_str(OTHER_KEY), &other));
    assert_ok(buf_add_str(&text, "data_dir: .\nkek: "));
    assert_ok(secrets_close(&other, bytes_of_str(KEK), &text));
    assert_ok(buf_add(&text, "\n", 2));
    assert_ok(buf_add_str(&value, "MORTISE_KEK="));
    assert_ok(secrets_close(&other, bytes_of_str(KEK), &value));
    by_variable = buf_take_str(&value);
    first[0] = by_variable;
    write_file(place, "control.yaml", (const char *)text.data, 0644);
    assert_ok(load(place, flags, nothing));
    assert_code(config_kek(&place->config, nothing, &place->faults, &keys), KEK_UNAVAILABLE);
    path = mem_printf("%s/control.yaml: kek", place->folder);
    assert_true(fixture_has(&place->faults, path, "no key is given: --secrets-key-file"));
    assert_code(config_kek_again(&place->config, &place->faults, &keys), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, path, "was given in this setting"));
    faults_fini(&place->faults);
    config_free(&place->config);
    place->config = (struct config){0};
    assert_ok(load(place, flags, environment));
    assert_ok(config_kek(&place->config, environment, &place->faults, &keys));
    assert_ok(seal_keys_parse(bytes_of_str(KEK), &same));
    assert_memory_equal(keys.keys[0].key, same.keys[0].key, sizeof(same.keys[0].key));
    assert_null(memmem(variable, sizeof(variable), "00112233", 8));
    /* A variable, that is encrypted too, goes first, and is named then. */
    faults_fini(&place->faults);
    config_free(&place->config);
    place->config = (struct config){0};
    secrets_end();
    assert_ok(load(place, flags, first));
    assert_code(config_kek(&place->config, nothing, &place->faults, &keys), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, "MORTISE_KEK", "no key is given: --secrets-key-file"));
    secrets_end();
}

static void test_the_key_may_come_from_a_command(void **state)
{
    struct place *place = *state;
    char data[] = "--data-dir=/x", shell[] = "--kek-command=/bin/sh", c[] = "--kek-command=-c";
    char script[] = "--kek-command=echo " KEK, bad[] = "--kek-command=echo " KEK "; exit 3";
    char *flags[] = {data, shell, c, script, NULL}, *bad_flags[] = {data, shell, c, bad, NULL};
    char file[] = "--kek-file=/x/kek";
    char *both[] = {data, file, shell, NULL};
    char *environment[] = {NULL};
    struct seal_keys keys, same;

    assert_ok(load(place, flags, environment));
    assert_ok(config_kek(&place->config, environment, &place->faults, &keys));
    assert_ok(seal_keys_parse(bytes_of_str(KEK), &same));
    assert_memory_equal(keys.keys[0].key, same.keys[0].key, sizeof(same.keys[0].key));
    assert_code(config_kek_again(&place->config, &place->faults, &keys), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, "--kek-command", "the new one first"));
    faults_fini(&place->faults);
    config_free(&place->config);
    place->config = (struct config){0};
    assert_ok(load(place, bad_flags, environment));
    assert_code(config_kek(&place->config, environment, &place->faults, &keys), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, "--kek-command", "/bin/sh: ended with status 3"));
    faults_fini(&place->faults);
    config_free(&place->config);
    place->config = (struct config){0};
    assert_code(load(place, both, environment), CONFIG_INVALID);
    assert_true(fixture_has(&place->faults, "--kek-command", "and --kek-file are both given"));
}

static void test_the_key_of_a_variable_is_wiped_there(void **state)
{
    struct place *place = *state;
    char data[] = "--data-dir=/x";
    char variable[] = "MORTISE_KEK=" KEK;
    char *flags[] = {data, NULL};
    char *environment[] = {variable, NULL};
    struct seal_keys key, same, again;

    assert_ok(load(place, flags, environment));
    assert_ok(config_kek(&place->config, environment, &place->faults, &key));
    assert_ok(seal_keys_parse(bytes_of_str(KEK), &same));
    assert_int_equal(key.num, 1);
    assert_memory_equal(key.keys[0].key, same.keys[0].key, sizeof(key.keys[0].key));
    assert_null(place->config.kek);
    /* It is gone: there is nothing that could be read again. */
    assert_code(config_kek_again(&place->config, &place->faults, &again), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, "MORTISE_KEK", "the new one first"));
    assert_null(memmem(variable, sizeof(variable), "0123456789abcdef", 16));
    assert_memory_equal(variable, "MORTISE_KEK=", 12);
}

#define KEK2 "ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

struct kek_row {
    const char *content; /* NULL: no file */
    unsigned mode;
    const char *text; /* of the fault; NULL: good */
    size_t num;       /* keys */
};

static void test_key_files(void **state)
{
    static const struct kek_row rows[] = {
        {KEK "\n", 0600, NULL, 1},
        {KEK, 0400, NULL, 1},
        {KEK2 "\n" KEK "\n", 0600, NULL, 2},
        {KEK "\n" KEK "\n", 0600, NULL, 1},
        {KEK, 0644, "read or changed by others", 0},
        {KEK, 0660, "read or changed by others", 0},
        {NULL, 0, "cannot open", 0},
        {"", 0600, "not a key-encryption key", 0},
        {"abcd", 0600, "not a key-encryption key", 0},
        {KEK KEK, 0600, "not a key-encryption key", 0},
        {KEK "\n# the old one\n", 0600, "key 2 of it is not a key-encryption key", 0},
    };
    struct place *place = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(mem_freep) char *path = mem_printf("%s/kek", place->folder);
        struct config config = {.kek_file = path};
        char *environment[] = {NULL};
        struct faults faults = {0};
        struct seal_keys key;
        err_t err;

        (void)unlink(path);
        if (rows[i].content != NULL)
            write_file(place, "kek", rows[i].content, rows[i].mode);
        err = config_kek(&config, environment, &faults, &key);
        if (rows[i].text == NULL) {
            assert_ok(err);
            assert_int_equal(key.num, rows[i].num);
            assert_ok(config_kek_again(&config, &faults, &key));
            assert_int_equal(key.num, rows[i].num);
        } else {
            assert_null(strstr(faults.items[0].message, "0123456789abcdef"));
            assert_code(err, KEK_UNAVAILABLE);
            assert_true(fixture_has(&faults, path, rows[i].text));
            assert_true(fixture_has(&faults, path, "kek_unavailable"));
        }
        faults_fini(&faults);
    }
}

static void test_a_socket_path_that_is_too_long_is_told(void **state)
{
    struct place *place = *state;
    CLEANUP(mem_freep) char *data = mem_printf("--data-dir=/%0150d", 7);
    char kek[] = "--kek-file=/x/kek";
    char *flags[] = {data, kek, NULL};
    char *environment[] = {NULL};

    assert_code(load(place, flags, environment), CONFIG_INVALID);
    assert_true(fixture_has(&place->faults, "--operator-socket", "too long"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_file_a_variable_and_a_flag),
        TEST(test_all_faults_come_at_once),
        TEST(test_variables_of_the_sister_programs_are_no_mistake),
        TEST(test_the_key_is_never_a_flag_nor_in_the_file),
        TEST(test_the_key_may_be_encrypted_in_the_file),
        TEST(test_the_key_may_come_from_a_command),
        TEST(test_the_key_of_a_variable_is_wiped_there),
        TEST(test_key_files),
        TEST(test_a_socket_path_that_is_too_long_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
