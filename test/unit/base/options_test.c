/* Options: flag before variable before file before default; every fault of every source told at
 * once with what would be right; secrets only where others cannot read them, and in no message.
 *
 * Drives: B6, E5, R25. */
#include "lib/base/options.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/base/death.h"

struct config {
    int64_t number, any, size, duration, free_size;
    char *config, *text, *token;
    struct option_list peers;
    int mode;
    bool verbose, color;
};

enum { MODE_STRICT, MODE_PERMISSIVE, MODE_OFF };
static const char *const modes[] = {"strict", "permissive", "off", NULL};

#define AT(member) offsetof(struct config, member)
static const struct option table[] = {
    {"config", OPTION_STR, AT(config), NULL, 0, 0, NULL, OPTION_FLAG_NO_FILE, "FILE",
     "The settings file."},
    {"", OPTION_STR, 0, NULL, 0, 0, NULL, 0, NULL, "Limits"},
    {"workers", OPTION_INT, AT(number), "4", 1, 256, NULL, 0, NULL, "Worker threads."},
    {"any-number", OPTION_INT, AT(any), NULL, 0, 0, NULL, 0, NULL, "Any number."},
    {"buffer-size", OPTION_SIZE, AT(size), "64k", 4096, 1 << 30, NULL, 0, NULL, "Buffer."},
    {"free-size", OPTION_SIZE, AT(free_size), NULL, 0, 0, NULL, 0, NULL, "Any size."},
    {"handshake-timeout", OPTION_MS, AT(duration), "10s", 100, 3600000, NULL, 0, NULL,
     "How long a handshake may take; a peer that is slower than this is told so with an alert "
     "and its connection closed."},
    {"", OPTION_STR, 0, NULL, 0, 0, NULL, 0, NULL, "Behaviour"},
    {"mode", OPTION_ENUM, AT(mode), "permissive", 0, 0, modes, 0, "MODE", "What to do."},
    {"peer", OPTION_LIST, AT(peers), "a,b", 0, 0, NULL, 0, "ADDR", "Peers."},
    {"text", OPTION_STR, AT(text), "default text", 0, 0, NULL, 0, NULL, "Some text."},
    {"verbose", OPTION_BOOL, AT(verbose), NULL, 0, 0, NULL, 0, NULL, "More words."},
    {"color", OPTION_BOOL, AT(color), "true", 0, 0, NULL, 0, NULL, "In color."},
    {"token", OPTION_STR, AT(token), NULL, 0, 0, NULL, OPTION_FLAG_NO_ARGV, NULL, "Join token."},
    {.name = NULL},
};

#define ARGV_MAX 32
struct run {
    struct config config;
    struct faults faults;
    struct options_result result;
    char *argv[ARGV_MAX + 1];
    int argc;
    err_t err;
    char *text; /* the faults */
};

static void run_finish(struct run *run)
{
    struct buf buf = {0};

    faults_text(&run->faults, &buf);
    mem_free(run->text);
    run->text = buf_take_str(&buf);
}

static void run_parse(struct run *run, const struct option *rows, const char *const *args,
                      const char *const *environment)
{
    char *copy[ARGV_MAX + 1] = {NULL};

    memset(run, 0, sizeof(*run));
    run->argv[run->argc++] = mem_strdup("prog");
    for (; args != NULL && *args != NULL; args++)
        run->argv[run->argc++] = mem_strdup(*args);
    for (size_t i = 0; environment != NULL && environment[i] != NULL; i++)
        copy[i] = mem_strdup(environment[i]);
    run->err =
        options_parse(rows, run->argc, run->argv, copy, &run->config, &run->result, &run->faults);
    for (size_t i = 0; copy[i] != NULL; i++)
        mem_free(copy[i]);
    run_finish(run);
}

static void run_free(struct run *run, const struct option *rows)
{
    for (int i = 0; i < run->argc; i++)
        mem_free(run->argv[i]);
    mem_free(run->text);
    faults_fini(&run->faults);
    options_free(rows, &run->config);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void assert_faults(const char *const *args, const char *const *environment, const char *want)
{
    struct run run;

    run_parse(&run, table, args, environment);
    assert_string_equal(run.text, want);
    assert_int_equal(run.err.code, E_CONFIG_INVALID);
    assert_int_equal(run.err.sub, run.faults.total);
    run_free(&run, table);
}

static void assert_good(struct run *run, const char *const *args, const char *const *environment)
{
    run_parse(run, table, args, environment);
    assert_string_equal(run->text, "");
    assert_int_equal(run->err.code, E_OK);
}

/* ---- sources ---- */

static void test_defaults(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, NULL, NULL);
    assert_int_equal(run.config.number, 4);
    assert_int_equal(run.config.any, 0);
    assert_int_equal(run.config.size, 65536);
    assert_int_equal(run.config.duration, 10000);
    assert_int_equal(run.config.mode, MODE_PERMISSIVE);
    assert_string_equal(run.config.text, "default text");
    assert_int_equal(run.config.peers.num, 2);
    assert_string_equal(run.config.peers.items[1], "b");
    assert_false(run.config.verbose);
    assert_true(run.config.color);
    assert_null(run.config.config);
    assert_null(run.config.token);
    assert_int_equal(run.result.first_operand, 1);
    assert_false(run.result.help || run.result.version);
    run_free(&run, table);
    assert_null(run.config.text);
    assert_int_equal(run.config.peers.num, 0);
    options_free(table, &run.config); /* twice does no harm */
}

static void test_flag_goes_before_variable_before_file_before_default(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--workers", "7", "--text=flag", "--peer", "f", "--no-color"),
                ARGS("MORTISE_WORKERS=8", "MORTISE_BUFFER_SIZE=1m", "MORTISE_TEXT=variable",
                     "MORTISE_PEER=v,w", "MORTISE_COLOR=true", "PATH=/bin", "MORTISEX=1"));
    assert_int_equal(run.config.number, 7);
    assert_int_equal(run.config.size, 1 << 20);
    assert_string_equal(run.config.text, "flag");
    assert_int_equal(run.config.peers.num, 1);
    assert_string_equal(run.config.peers.items[0], "f");
    assert_false(run.config.color);

#define FILE_SET(key, value) \
    options_set_file(table, key, value, "f.yaml:1", &run.config, &run.result.seen, &run.faults)
    assert_true(FILE_SET("workers", "9"));
    assert_true(FILE_SET("buffer_size", "2m"));
    assert_true(FILE_SET("peer", "x,y"));
    assert_true(FILE_SET("color", "true"));
    assert_true(FILE_SET("handshake_timeout", "3s"));
    assert_true(FILE_SET("mode", "off"));
    assert_true(FILE_SET("verbose", "true"));
    assert_true(FILE_SET("token", "s3cret"));
    run_finish(&run);
    assert_string_equal(run.text, "");
    assert_int_equal(run.config.number, 7);
    assert_int_equal(run.config.size, 1 << 20);
    assert_int_equal(run.config.peers.num, 1);
    assert_false(run.config.color);
    assert_int_equal(run.config.duration, 3000);
    assert_int_equal(run.config.mode, MODE_OFF);
    assert_true(run.config.verbose);
    assert_string_equal(run.config.token, "s3cret");
    run_free(&run, table);
}

static void test_a_file_is_judged_even_where_it_does_not_count(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--workers", "7"), NULL);
    assert_false(FILE_SET("unknown", "1"));
    assert_false(FILE_SET("handshake-timeout", "1s")); /* keys are written with _ */
    assert_false(FILE_SET("", "1"));
    assert_true(FILE_SET("workers", "many"));
    assert_true(FILE_SET("config", "other.yaml"));
    assert_true(FILE_SET("peer", "a,,b"));
    run_finish(&run);
    assert_string_equal(run.text, "f.yaml:1: \"many\" is not a number; 1 to 256\n"
                                  "f.yaml:1: cannot be set in a file; use the flag --config\n"
                                  "f.yaml:1: \"a,,b\" has an empty item between its commas\n");
    assert_int_equal(run.config.number, 7);
    assert_null(run.config.config);
    assert_int_equal(run.config.peers.num, 2);
    run_free(&run, table);
}

static void test_the_last_of_a_repeated_flag_counts_and_lists_add_up(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run,
                ARGS("--workers=1", "--peer=a", "--text", "x", "--workers", "2", "--peer", "b,c",
                     "--text=y", "--verbose", "--no-verbose", "--peer=d"),
                ARGS("MORTISE_PEER=v"));
    assert_int_equal(run.config.number, 2);
    assert_string_equal(run.config.text, "y");
    assert_false(run.config.verbose);
    assert_int_equal(run.config.peers.num, 3);
    assert_string_equal(run.config.peers.items[0], "a");
    assert_string_equal(run.config.peers.items[1], "b,c"); /* a flag's item is taken as it is */
    assert_string_equal(run.config.peers.items[2], "d");
    run_free(&run, table);
}

static void test_an_empty_variable_counts_as_absent_and_an_empty_text_unsets(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--text="),
                ARGS("MORTISE_WORKERS=", "MORTISE_MODE=", "MORTISE_PEER=", "MORTISE_COLOR="));
    assert_int_equal(run.config.number, 4);
    assert_int_equal(run.config.mode, MODE_PERMISSIVE);
    assert_int_equal(run.config.peers.num, 2);
    assert_true(run.config.color);
    assert_null(run.config.text);
    run_free(&run, table);
    assert_good(&run, ARGS("--peer", "x", "--peer=", "--peer", "y"), NULL);
    assert_int_equal(run.config.peers.num, 1);
    assert_string_equal(run.config.peers.items[0], "y");
    run_free(&run, table);
    assert_good(&run, ARGS("--text=", "--peer="), NULL);
    assert_int_equal(run.config.peers.num, 0);
    run_free(&run, table);

    /* Absent: the file may still say something. */
    assert_good(&run, ARGS("--text="), ARGS("MORTISE_WORKERS=", "MORTISE_PEER="));
    assert_true(FILE_SET("workers", "9"));
    assert_true(FILE_SET("peer", ""));
    assert_true(FILE_SET("text", "file"));
    assert_int_equal(run.config.number, 9);
    assert_int_equal(run.config.peers.num, 0);
    assert_null(run.config.text);
    assert_int_equal(run.faults.total, 0);
    run_free(&run, table);
}

static void test_items_of_a_variable_are_trimmed(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, NULL, ARGS("MORTISE_PEER= a ,b c,  d"));
    assert_int_equal(run.config.peers.num, 3);
    assert_string_equal(run.config.peers.items[0], "a");
    assert_string_equal(run.config.peers.items[1], "b c");
    assert_string_equal(run.config.peers.items[2], "d");
    run_free(&run, table);
    assert_good(&run, NULL, ARGS("MORTISE_PEER= "));
    assert_int_equal(run.config.peers.num, 0);
    run_free(&run, table);
}

/* ---- values ---- */

static void test_numbers_at_the_edges(void **state)
{
    static const struct {
        const char *arg;
        int64_t value;
        const char *fault; /* NULL: good */
    } rows[] = {
        {"--workers=1", 1, NULL},
        {"--workers=256", 256, NULL},
        {"--workers=007", 7, NULL},
        {"--workers=0", 4, "\"0\" is out of range; 1 to 256"},
        {"--workers=257", 4, "\"257\" is out of range; 1 to 256"},
        {"--workers=-1", 4, "\"-1\" is out of range; 1 to 256"},
        {"--workers=18446744073709551620", 4, "\"18446744073709551620\" is out of range; 1 to 256"},
        {"--workers=99999999999999999999999999", 4,
         "\"99999999999999999999999999\" is out of range; 1 to 256"},
        {"--workers=", 4, "\"\" is not a number; 1 to 256"},
        {"--workers=abc", 4, "\"abc\" is not a number; 1 to 256"},
        {"--workers=-", 4, "\"-\" is not a number; 1 to 256"},
        {"--workers=+4", 4, "\"+4\" is not a number; 1 to 256"},
        {"--workers= 4", 4, "\" 4\" is not a number; 1 to 256"},
        {"--workers=4 ", 4, "\"4 \" is not a number; 1 to 256"},
        {"--workers=0x4", 4, "\"0x4\" is not a number; 1 to 256"},
        {"--workers=4.5", 4, "\"4.5\" is not a number; 1 to 256"},
        {"--workers=1e2", 4, "\"1e2\" is not a number; 1 to 256"},
        {"--workers=99999999999999999999x", 4,
         "\"99999999999999999999x\" is not a number; 1 to 256"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct run run;

        run_parse(&run, table, ARGS(rows[i].arg), NULL);
        assert_int_equal(run.config.number, rows[i].value);
        assert_int_equal(run.faults.total, rows[i].fault != NULL);
        if (rows[i].fault != NULL) {
            assert_string_equal(run.faults.items[0].path, "--workers");
            assert_string_equal(run.faults.items[0].message, rows[i].fault);
        }
        run_free(&run, table);
    }
}

static void test_a_number_without_a_range_takes_all_that_fit(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--any-number", "9223372036854775807"), NULL);
    assert_int_equal(run.config.any, INT64_MAX);
    run_free(&run, table);
    assert_good(&run, ARGS("--any-number", "-9223372036854775808"), NULL);
    assert_int_equal(run.config.any, INT64_MIN);
    run_free(&run, table);
    assert_faults(ARGS("--any-number=9223372036854775808", "--any-number=-9223372036854775809"),
                  NULL,
                  "--any-number: \"9223372036854775808\" is out of range\n"
                  "--any-number: \"-9223372036854775809\" is out of range\n");
}

static void test_sizes(void **state)
{
    static const struct {
        const char *arg;
        int64_t value;
    } good[] = {{"4096", 4096},    {"4k", 4096},       {"64K", 65536},
                {"16m", 16777216}, {"1g", 1073741824}, {"1024M", 1073741824}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct run run;

        assert_good(&run, ARGS("--buffer-size", good[i].arg), NULL);
        assert_int_equal(run.config.size, good[i].value);
        run_free(&run, table);
    }
    assert_faults(ARGS("--buffer-size=4095", "--buffer-size=1073741825", "--buffer-size=2g",
                       "--buffer-size=9007199254740993k", "--buffer-size=8589934592g",
                       "--buffer-size=-4k", "--buffer-size=4kb", "--buffer-size=k",
                       "--buffer-size=4 k", "--buffer-size=4.5k", "--free-size=-1"),
                  NULL,
                  "--buffer-size: \"4095\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"1073741825\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"2g\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"9007199254740993k\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"8589934592g\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"-4k\" is out of range; 4k to 1g\n"
                  "--buffer-size: \"4kb\" is not a size such as 65536, 64k, 16m or 1g; 4k to 1g\n"
                  "--buffer-size: \"k\" is not a size such as 65536, 64k, 16m or 1g; 4k to 1g\n"
                  "--buffer-size: \"4 k\" is not a size such as 65536, 64k, 16m or 1g; 4k to 1g\n"
                  "--buffer-size: \"4.5k\" is not a size such as 65536, 64k, 16m or 1g; 4k to 1g\n"
                  "--free-size: \"-1\" is out of range\n");
}

static void test_durations(void **state)
{
    static const struct {
        const char *arg;
        int64_t value;
    } good[] = {{"100ms", 100}, {"1s", 1000}, {"90s", 90000}, {"5m", 300000}, {"1h", 3600000}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct run run;

        assert_good(&run, ARGS("--handshake-timeout", good[i].arg), NULL);
        assert_int_equal(run.config.duration, good[i].value);
        run_free(&run, table);
    }
    assert_faults(
        ARGS("--handshake-timeout=99ms", "--handshake-timeout=3600001ms", "--handshake-timeout=1d",
             "--handshake-timeout=106751991168d", "--handshake-timeout=10",
             "--handshake-timeout=5M", "--handshake-timeout=1h30m", "--handshake-timeout=soon",
             "--handshake-timeout="),
        NULL,
        "--handshake-timeout: \"99ms\" is out of range; 100ms to 1h\n"
        "--handshake-timeout: \"3600001ms\" is out of range; 100ms to 1h\n"
        "--handshake-timeout: \"1d\" is out of range; 100ms to 1h\n"
        "--handshake-timeout: \"106751991168d\" is out of range; 100ms to 1h\n"
        "--handshake-timeout: \"10\" has no unit; write ms, s, m, h or d behind it; 100ms to 1h\n"
        "--handshake-timeout: \"5M\" is not a duration such as 500ms, 10s, 5m, 1h or 1d; "
        "100ms to 1h\n"
        "--handshake-timeout: \"1h30m\" is not a duration such as 500ms, 10s, 5m, 1h or 1d; "
        "100ms to 1h\n"
        "--handshake-timeout: \"soon\" is not a duration such as 500ms, 10s, 5m, 1h or 1d; "
        "100ms to 1h\n"
        "--handshake-timeout: \"\" is not a duration such as 500ms, 10s, 5m, 1h or 1d; "
        "100ms to 1h\n");
}

static void test_a_range_without_an_end(void **state)
{
    static const struct option rows[] = {
        {"rate", OPTION_INT, AT(number), NULL, 1, INT64_MAX, NULL, 0, NULL, "h"},
        {"mode", OPTION_ENUM, AT(mode), NULL, 0, 0, modes, 0, NULL, "h"},
        {.name = NULL},
    };
    struct run run;

    (void)state;
    run_parse(&run, rows, ARGS("--rate=0", "--rate=9223372036854775807", "--mode"), NULL);
    assert_string_equal(run.text, "--rate: \"0\" is out of range; at least 1\n"
                                  "--mode: needs a value: --mode WORD; strict, permissive, off\n");
    assert_int_equal(run.config.number, INT64_MAX);
    run_free(&run, rows);
}

static void test_words_and_truth(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--mode", "strict", "--verbose=1", "--color=0"), NULL);
    assert_int_equal(run.config.mode, MODE_STRICT);
    assert_true(run.config.verbose);
    assert_false(run.config.color);
    run_free(&run, table);
    assert_good(&run, ARGS("--verbose", "false", "--color=false"), NULL);
    assert_true(run.config.verbose); /* "false" is an operand: a switch takes its value after = */
    assert_false(run.config.color);
    assert_int_equal(run.result.first_operand, 3);
    run_free(&run, table);
    assert_faults(ARGS("--mode=strct", "--mode=STRICT", "--mode=", "--mode=banana",
                       "--verbose=maybe", "--verbose=TRUE", "--color=", "--no-verbose=true"),
                  NULL,
                  "--mode: \"strct\" is not one of strict, permissive, off; did you mean strict?\n"
                  "--mode: \"STRICT\" is not one of strict, permissive, off\n"
                  "--mode: \"\" is not one of strict, permissive, off\n"
                  "--mode: \"banana\" is not one of strict, permissive, off\n"
                  "--verbose: \"maybe\" is neither true nor false\n"
                  "--verbose: \"TRUE\" is neither true nor false\n"
                  "--color: \"\" is neither true nor false\n"
                  "--no-verbose: takes no value\n");
}

/* ---- faults ---- */

static void test_all_faults_of_all_sources_at_once(void **state)
{
    struct run run;

    (void)state;
    run_parse(&run, table,
              ARGS("--wrokers", "4", "--workers", "abc", "-v", "operand", "--mode=strct", "--peer"),
              ARGS("MORTISE_WORKRES=1", "MORTISE_BUFFER_SIZE=12q"));
    assert_true(FILE_SET("handshake_timeout", "10"));
    options_check_required(table, &run.config, &run.faults);
    run_finish(&run);
    assert_string_equal(
        run.text,
        "MORTISE_WORKRES: unknown variable; did you mean MORTISE_WORKERS?\n"
        "MORTISE_BUFFER_SIZE: \"12q\" is not a size such as 65536, 64k, 16m or 1g; 4k to 1g\n"
        "--wrokers: unknown flag; did you mean --workers?\n"
        "--workers: \"abc\" is not a number; 1 to 256\n"
        "-v: unknown flag; --help lists those there are\n"
        "--mode: \"strct\" is not one of strict, permissive, off; did you mean strict?\n"
        "--peer: needs a value: --peer ADDR\n"
        "f.yaml:1: \"10\" has no unit; write ms, s, m, h or d behind it; 100ms to 1h\n");
    assert_int_equal(faults_err(&run.faults).sub, 8);
    run_free(&run, table);
}

static void test_unknown_flags_are_told_without_their_value(void **state)
{
    (void)state;
    assert_faults(ARGS("--tokn=s3cret", "--banana=s3cret", "-workers", "--hepl", "--no-workers",
                       "--no-color-at-all", "--=x", "--Workers", "---workers"),
                  NULL,
                  "--tokn: unknown flag; --help lists those there are\n"
                  "--banana: unknown flag; --help lists those there are\n"
                  "-workers: unknown flag; did you mean --workers?\n"
                  "--hepl: unknown flag; did you mean --help?\n"
                  "--no-workers: unknown flag; did you mean --workers?\n"
                  "--no-color-at-all: unknown flag; --help lists those there are\n"
                  "--: unknown flag; --help lists those there are\n"
                  "--Workers: unknown flag; did you mean --workers?\n"
                  "---workers: unknown flag; did you mean --workers?\n");
}

static void test_a_value_that_is_missing_does_not_eat_the_next_flag(void **state)
{
    struct run run;

    (void)state;
    run_parse(&run, table, ARGS("--workers", "--text", "x", "--buffer-size", "--"), NULL);
    assert_string_equal(run.text, "--workers: needs a value: --workers NUMBER; 1 to 256\n"
                                  "--buffer-size: needs a value: --buffer-size SIZE; 4k to 1g\n");
    assert_string_equal(run.config.text, "x");
    run_free(&run, table);
    assert_good(&run, ARGS("--text=--workers", "--any-number", "-5", "--config", "-"), NULL);
    assert_string_equal(run.config.text, "--workers");
    assert_int_equal(run.config.any, -5);
    assert_string_equal(run.config.config, "-");
    run_free(&run, table);
}

static void test_hostile_values_are_shown_harmless_and_short(void **state)
{
    struct run run;
    char arg[3000];

    (void)state;
    assert_faults(ARGS("--workers=\x1b[2J\n\"x\xff"), NULL,
                  "--workers: \"\\u001b[2J\\n\\\"x\xef\xbf\xbd\" is not a number; 1 to 256\n");
    assert_faults(ARGS("--wor\nkers"), NULL,
                  "--wor\\nkers: unknown flag; did you mean --workers?\n");
    memset(arg, 'x', sizeof(arg));
    memcpy(arg, "--workers=", 10);
    arg[sizeof(arg) - 1] = '\0';
    run_parse(&run, table, ARGS(arg), NULL);
    assert_true(strlen(run.text) < 130);
    assert_non_null(strstr(run.text, "x\xe2\x80\xa6\" is not a number; 1 to 256\n"));
    run_free(&run, table);
    memset(arg, '-', 10);
    run_parse(&run, table, ARGS(arg), NULL); /* a long unknown name */
    assert_int_equal(run.faults.total, 1);
    run_free(&run, table);
}

static void test_more_faults_than_are_kept(void **state)
{
    struct run run;
    const char *args[30];

    (void)state;
    for (size_t i = 0; i < 29; i++)
        args[i] = "--workers=x";
    args[29] = NULL;
    run_parse(&run, table, args, NULL);
    assert_int_equal(run.err.sub, 29);
    run_free(&run, table);
}

/* ---- environment ---- */

static void test_only_names_with_our_prefix_are_looked_at(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, NULL,
                ARGS("WORKERS=x", "mortise_workers=x", "XMORTISE_WORKERS=x", "MORTISEWORKERS=x",
                     "MORTISE_WORKERS", "=MORTISE_WORKERS", ""));
    run_free(&run, table);
    /* Another program's of the family. */
    assert_good(&run, NULL, ARGS("MORTISE_=1", "MORTISE_BANANA=a=b", "MORTISE_SOCKET=/run/x"));
    run_free(&run, table);
    assert_good(&run, NULL, ARGS("MORTISE_TEXT=a=b"));
    assert_string_equal(run.config.text, "a=b");
    run_free(&run, table);
}

/* A Service called mortise-control in the namespace must not keep every sidecar from starting. */
static void test_variables_that_kubernetes_makes_of_a_service_are_passed_over(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, NULL,
                ARGS("MORTISE_CONTROL_SERVICE_HOST=10.0.0.1", "MORTISE_CONTROL_SERVICE_PORT=15012",
                     "MORTISE_CONTROL_SERVICE_PORT_GRPC_XDS=15012",
                     "MORTISE_CONTROL_PORT=tcp://10.0.0.1:15012",
                     "MORTISE_CONTROL_PORT_15012_TCP=tcp://10.0.0.1:15012",
                     "MORTISE_CONTROL_PORT_15012_TCP_PROTO=tcp",
                     "MORTISE_CONTROL_PORT_15012_TCP_PORT=15012",
                     "MORTISE_CONTROL_PORT_53_UDP_ADDR=10.0.0.1", "MORTISE_SERVICE_HOST=10.0.0.2"));
    run_free(&run, table);
}

/* ---- secrets ---- */

static const struct option secrets[] = {
    {"token", OPTION_STR, AT(token), NULL, 0, 0, NULL, OPTION_FLAG_NO_ARGV | OPTION_FLAG_REQUIRED,
     NULL, "Join token."},
    {"pin", OPTION_INT, AT(number), NULL, 1000, 9999, NULL,
     OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE, NULL, "Number."},
    {.name = NULL},
};

static void test_a_secret_is_refused_as_a_flag_and_never_repeated(void **state)
{
    struct run run;

    (void)state;
    run_parse(&run, secrets, ARGS("--token", "s3cret", "--pin=123456", "operand"),
              ARGS("MORTISE_PIN=77777", "MORTISE_TOKEN=other"));
    assert_string_equal(
        run.text, "MORTISE_PIN: the value is out of range; 1000 to 9999\n"
                  "--token: not taken from the command line, where others can read it; set the "
                  "variable MORTISE_TOKEN or the key token in the file\n"
                  "--pin: not taken from the command line, where others can read it; set the "
                  "variable MORTISE_PIN\n");
    assert_string_equal(run.config.token, "other");
    /* It is not taken for an operand either, which the program would echo. */
    assert_int_equal(run.result.first_operand, 4);
    assert_string_equal(run.argv[4], "operand");
    run_free(&run, secrets);
}

static void test_a_secret_comes_by_variable_or_file(void **state)
{
    struct run run;

    (void)state;
    run_parse(&run, secrets, NULL, ARGS("MORTISE_TOKEN=s3cret"));
    assert_int_equal(run.err.code, E_OK);
    assert_string_equal(run.config.token, "s3cret");
    run_free(&run, secrets);
    run_parse(&run, secrets, NULL, NULL);
    assert_true(options_set_file(secrets, "token", "from-file", "f", &run.config, &run.result.seen,
                                 &run.faults));
    assert_true(
        options_set_file(secrets, "pin", "1234", "f", &run.config, &run.result.seen, &run.faults));
    options_check_required(secrets, &run.config, &run.faults);
    run_finish(&run);
    assert_string_equal(run.text, "f: cannot be set in a file; set the variable MORTISE_PIN\n");
    assert_string_equal(run.config.token, "from-file");
    run_free(&run, secrets);
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

static void test_a_secret_is_overwritten_before_it_is_given_back(void **state)
{
    static const char key[] = "token";
    char *argv[] = {NULL};
    char *const environment[] = {(char[]){"MORTISE_TOKEN=one s3cret"}, NULL};
    struct faults faults = {.num = 0};
    struct options_result result;
    struct config config = {0};

    (void)state;
    watched = "s3cret";
    leaks = 0;
    assert_int_equal(options_parse(secrets, 0, argv, environment, &config, &result, &faults).code,
                     E_OK);
    assert_string_equal(config.token, "one s3cret");
    assert_true(options_set_file(secrets, key, "other s3cret", "f", &config, NULL, &faults));
    assert_string_equal(config.token, "other s3cret");
    options_free(secrets, &config);
    assert_int_equal(leaks, 0);

    /* The twin: of a text that is no secret it is seen. */
    config.text = mem_strdup("s3cret");
    options_free(table, &config);
    assert_int_equal(leaks, 1);
    watched = NULL;
}

static const struct option required[] = {
    {"config", OPTION_STR, AT(config), NULL, 0, 0, NULL, OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     NULL, "h"},
    {"text", OPTION_STR, AT(text), NULL, 0, 0, NULL, OPTION_FLAG_REQUIRED, NULL, "h"},
    {"peer", OPTION_LIST, AT(peers), NULL, 0, 0, NULL, OPTION_FLAG_REQUIRED, NULL, "h"},
    {"token", OPTION_STR, AT(token), NULL, 0, 0, NULL, OPTION_FLAG_NO_ARGV | OPTION_FLAG_REQUIRED,
     NULL, "h"},
    {.name = NULL},
};

static void test_what_is_required_is_asked_for_when_all_sources_are_read(void **state)
{
    struct run run;

    (void)state;
    run_parse(&run, required, NULL, NULL);
    assert_string_equal(run.text,
                        "--config: is required; give this flag or the variable MORTISE_CONFIG\n");
    options_check_required(required, &run.config, &run.faults);
    run_finish(&run);
    assert_string_equal(
        run.text,
        "--config: is required; give this flag or the variable MORTISE_CONFIG\n"
        "--text: is required; give this flag, the variable MORTISE_TEXT or the key text in the "
        "file\n"
        "--peer: is required; give this flag, the variable MORTISE_PEER or the key peer in the "
        "file\n"
        "MORTISE_TOKEN: is required; set this variable or the key token in the file\n");
    run_free(&run, required);

    run_parse(&run, required, ARGS("--config=c", "--text=t"), ARGS("MORTISE_TOKEN=x"));
    assert_true(
        options_set_file(required, "peer", "p", "f", &run.config, &run.result.seen, &run.faults));
    options_check_required(required, &run.config, &run.faults);
    assert_int_equal(run.faults.total, 0);
    run_free(&run, required);

    run_parse(&run, required, ARGS("--config="), NULL); /* unset again */
    assert_int_equal(run.faults.total, 1);
    run_free(&run, required);
}

/* ---- argv ---- */

static void test_operands_are_moved_behind_the_flags_in_order(void **state)
{
    static const char *const want[] = {"prog", "--workers", "2",     "--verbose", "--",
                                       "get",  "-",         "links", "--text",    "--"};
    struct run run;

    (void)state;
    assert_good(
        &run, ARGS("get", "--workers", "2", "-", "--verbose", "links", "--", "--text", "--"), NULL);
    assert_int_equal(run.result.first_operand, 5);
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        assert_string_equal(run.argv[i], want[i]);
    assert_int_equal(run.config.number, 2);
    assert_string_equal(run.config.text, "default text");
    run_free(&run, table);

    assert_good(&run, ARGS("--workers=2"), NULL);
    assert_int_equal(run.result.first_operand, run.argc);
    run_free(&run, table);
}

static void test_no_arguments_at_all(void **state)
{
    struct faults faults = {.num = 0};
    struct options_result result;
    struct config config = {0};
    char *argv[] = {NULL};

    (void)state;
    assert_int_equal(options_parse(table, 0, argv, NULL, &config, &result, &faults).code, E_OK);
    assert_int_equal(result.first_operand, 0);
    options_free(table, &config);
}

static void test_help_and_version_come_before_all_faults(void **state)
{
    struct run run;

    (void)state;
    assert_good(&run, ARGS("--workers=x", "--help", "--banana"), ARGS("MORTISE_BANANA=1"));
    assert_true(run.result.help);
    assert_false(run.result.version);
    assert_int_equal(run.config.number, 4);
    run_free(&run, table);
    assert_good(&run, ARGS("-h"), NULL);
    assert_true(run.result.help);
    run_free(&run, table);
    assert_good(&run, ARGS("--version"), NULL);
    assert_true(run.result.version);
    run_free(&run, table);
    assert_good(&run, ARGS("--", "--help"), NULL);
    assert_false(run.result.help);
    assert_int_equal(run.result.first_operand, 2);
    run_free(&run, table);
}

/* ---- help ---- */

static char *help_as(const struct option *rows, bool man)
{
    const struct options_page page = {
        .name = "prog",
        .section = 8,
        .summary = "does this",
        .usage = "prog [FLAGS] [COMMAND]",
        .about = man ? "Does this.\nAnd that\\.\n\nExample: prog -x 1\n         .prog"
                     : "Does this.\nAnd that.",
        .exit_status = "0 done.",
    };
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    options_help(rows, &page, man, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static char *help_of(const struct option *rows)
{
    return help_as(rows, false);
}

/* Its rows are those of --help; what has a meaning to the formatter is escaped. */
static void test_help_as_a_manual_page(void **state)
{
    static const char *const parts[] = {
        ".TH PROG 8 ",
        "\n.SH NAME\nprog \\- does this\n.SH SYNOPSIS\nprog [FLAGS] [COMMAND]\n",
        ".SH DESCRIPTION\nDoes this.\n.br\nAnd that\\e.\n.SH OPTIONS\n",
        ".TP\n.B \"\\-\\-config FILE\"\nThe settings file. (MORTISE_CONFIG)\n",
        ".SS \"Limits\"\n.TP\n.B \"\\-\\-workers NUMBER\"\n",
        ".SH EXIT STATUS\n0 done.\n",
        ".SH EXAMPLES\n.nf\nprog \\-x 1\n\\&.prog\n.fi\n",
    };
    char *text = help_as(table, true);
    const char *at = text;
    struct run run;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        at = strstr(at, parts[i]);
        if (at == NULL)
            fail_msg("%s is not there, or too early, in:\n%s", parts[i], text);
    }
    free(text);
    assert_good(&run, ARGS("--help=man"), NULL);
    assert_true(run.result.help && run.result.man);
    run_free(&run, table);
}

static void test_help_is_exactly_this(void **state)
{
    char *text = help_of(table);

    (void)state;
    assert_string_equal(
        text,
        "Usage: prog [FLAGS] [COMMAND]\n"
        "\n"
        "Does this.\n"
        "And that.\n"
        "\n"
        "Options:\n"
        "  --config FILE\n"
        "        The settings file. (MORTISE_CONFIG)\n"
        "\n"
        "Limits:\n"
        "  --workers NUMBER\n"
        "        Worker threads. (default 4; 1 to 256; MORTISE_WORKERS)\n"
        "  --any-number NUMBER\n"
        "        Any number. (MORTISE_ANY_NUMBER)\n"
        "  --buffer-size SIZE\n"
        "        Buffer. (default 64k; 4k to 1g; MORTISE_BUFFER_SIZE)\n"
        "  --free-size SIZE\n"
        "        Any size. (MORTISE_FREE_SIZE)\n"
        "  --handshake-timeout DURATION\n"
        "        How long a handshake may take; a peer that is slower than this is told so with "
        "an\n"
        "        alert and its connection closed. (default 10s; 100ms to 1h;\n"
        "        MORTISE_HANDSHAKE_TIMEOUT)\n"
        "\n"
        "Behaviour:\n"
        "  --mode MODE\n"
        "        What to do. (default permissive; one of strict, permissive, off; MORTISE_MODE)\n"
        "  --peer ADDR \xe2\x80\xa6\n"
        "        Peers. (default a,b; MORTISE_PEER)\n"
        "  --text TEXT\n"
        "        Some text. (default default text; MORTISE_TEXT)\n"
        "  --[no-]verbose\n"
        "        More words. (MORTISE_VERBOSE)\n"
        "  --[no-]color\n"
        "        In color. (default true; MORTISE_COLOR)\n"
        "  MORTISE_TOKEN=TEXT\n"
        "        Join token. (variable, or key in the file)\n"
        "\n"
        "Help:\n"
        "  --help\n"
        "        Show this and exit; --help=man as a manual page.\n"
        "  --version\n"
        "        Show the version and exit.\n"
        "\n"
        "A flag wins over its variable, the variable over the file, the file over the default. In "
        "a\n"
        "file a key is the flag's name with _ for -.\n");
    free(text);
}

static void test_help_stays_within_90_columns(void **state)
{
    struct option rows[2] = {{"x", OPTION_STR, AT(text), NULL, 0, 0, NULL, 0, NULL, NULL},
                             {.name = NULL}};
    char sentence[400];

    (void)state;
    for (size_t word = 1; word <= 82; word++) {
        char *text, *line, *rest;

        for (size_t i = 0; i < sizeof(sentence) - 1; i++)
            sentence[i] = i % (word + 1) == word ? ' ' : 'w';
        sentence[sizeof(sentence) - 1] = '\0';
        rows[0].help = sentence;
        text = help_of(rows);
        for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
            assert_true(strlen(line) <= 90);
            assert_int_not_equal(line[strlen(line) - 1], ' ');
        }
        free(text);
    }
}

/* ---- broken tables ---- */

static void parse_table(void *arg)
{
    struct run run;

    run_parse(&run, arg, NULL, NULL);
    run_free(&run, arg);
}

static void test_a_table_that_makes_no_sense_stops_the_process(void **state)
{
    static const struct option bad[] = {
        {"a", OPTION_INT, AT(number), "0", 1, 2, NULL, 0, NULL, "default out of range"},
        {"a", OPTION_INT, AT(number), "x", 0, 0, NULL, 0, NULL, "default of the wrong kind"},
        {"a", OPTION_ENUM, AT(mode), NULL, 0, 0, NULL, 0, NULL, "no words"},
        {"a", OPTION_ENUM, AT(mode), "none", 0, 0, modes, 0, NULL, "default is no word"},
        {"help", OPTION_BOOL, AT(verbose), NULL, 0, 0, NULL, 0, NULL, "taken"},
        {"no-a", OPTION_BOOL, AT(verbose), NULL, 0, 0, NULL, 0, NULL, "reads as the other"},
        {"a", OPTION_STR, AT(text), "x", 0, 0, NULL, OPTION_FLAG_REQUIRED, NULL, "both"},
        {"a", OPTION_INT, AT(number), NULL, 0, 0, NULL, OPTION_FLAG_REQUIRED, NULL, "unseen"},
        {"b", OPTION_INT, AT(number), NULL, 0, 0, NULL, 0, NULL, "twice"},
        {"a", OPTION_INT, AT(number), NULL, 0, 0, NULL, 0, NULL, "good"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct option rows[] = {
            bad[i],
            {"b", OPTION_INT, AT(any), NULL, 0, 0, NULL, 0, NULL, "another"},
            {.name = NULL},
        };

        assert_int_equal(death_aborts(parse_table, rows), i + 1 < ARRAY_LEN(bad));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_flag_goes_before_variable_before_file_before_default),
        cmocka_unit_test(test_a_file_is_judged_even_where_it_does_not_count),
        cmocka_unit_test(test_the_last_of_a_repeated_flag_counts_and_lists_add_up),
        cmocka_unit_test(test_an_empty_variable_counts_as_absent_and_an_empty_text_unsets),
        cmocka_unit_test(test_items_of_a_variable_are_trimmed),
        cmocka_unit_test(test_numbers_at_the_edges),
        cmocka_unit_test(test_a_number_without_a_range_takes_all_that_fit),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_a_range_without_an_end),
        cmocka_unit_test(test_words_and_truth),
        cmocka_unit_test(test_all_faults_of_all_sources_at_once),
        cmocka_unit_test(test_unknown_flags_are_told_without_their_value),
        cmocka_unit_test(test_a_value_that_is_missing_does_not_eat_the_next_flag),
        cmocka_unit_test(test_hostile_values_are_shown_harmless_and_short),
        cmocka_unit_test(test_more_faults_than_are_kept),
        cmocka_unit_test(test_only_names_with_our_prefix_are_looked_at),
        cmocka_unit_test(test_variables_that_kubernetes_makes_of_a_service_are_passed_over),
        cmocka_unit_test(test_a_secret_is_refused_as_a_flag_and_never_repeated),
        cmocka_unit_test(test_a_secret_comes_by_variable_or_file),
        cmocka_unit_test(test_a_secret_is_overwritten_before_it_is_given_back),
        cmocka_unit_test(test_what_is_required_is_asked_for_when_all_sources_are_read),
        cmocka_unit_test(test_operands_are_moved_behind_the_flags_in_order),
        cmocka_unit_test(test_no_arguments_at_all),
        cmocka_unit_test(test_help_and_version_come_before_all_faults),
        cmocka_unit_test(test_help_as_a_manual_page),
        cmocka_unit_test(test_help_is_exactly_this),
        cmocka_unit_test(test_help_stays_within_90_columns),
        cmocka_unit_test(test_a_table_that_makes_no_sense_stops_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
