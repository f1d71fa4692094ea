/* The log: one event is one line that no value can break, in text or JSON; levels change whole or
 * not at all; what peers cause is limited and the rest counted; any thread may write at any time.
 *
 * Drives: R25, R63. */
#include "lib/base/log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "lib/base/mem.h"

/* Lines as they came, one behind the other. */
struct capture {
    struct buf text;
    size_t num;
    char last[LOG_LINE_MAX + 1];
};

static void capture_on_line(void *arg, const char *line, size_t len)
{
    struct capture *capture = arg;

    CHECK(len > 0 && len <= LOG_LINE_MAX && line[len - 1] == '\n');
    CHECK(memchr(line, '\n', len) == line + len - 1);
    CHECK(err_is_ok(buf_add(&capture->text, line, len)));
    memcpy(capture->last, line, len - 1);
    capture->last[len - 1] = '\0';
    capture->num++;
}

static int capture_begin(void **state)
{
    struct capture *capture = mem_zalloc(sizeof(*capture));

    log_set_sink(capture_on_line, capture);
    *state = capture;
    return 0;
}

static int capture_end(void **state)
{
    struct capture *capture = *state;
    err_t err = log_set_spec("info", NULL);

    log_set_sink(NULL, NULL);
    log_set_format(LOG_FORMAT_TEXT);
    log_set_clock(NULL);
    buf_fini(&capture->text);
    mem_free(capture);
    return err_is_ok(err) ? 0 : -1;
}

/* What stands behind the time, which is checked on the way. */
static const char *after_time(const char *line)
{
    unsigned part[7];
    int len = 0;

    assert_int_equal(sscanf(line, "time=%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &part[0], &part[1],
                            &part[2], &part[3], &part[4], &part[5], &part[6], &len),
                     7);
    assert_int_equal(len, 30);
    return line + len;
}

static json_t *last_json(const struct capture *capture)
{
    json_error_t error;
    json_t *json = json_loads(capture->last, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);

    if (json == NULL)
        fail_msg("%s: %s", error.text, capture->last);
    return json;
}

/* ---- a line ---- */

static void test_a_text_line_has_all_fields_in_order(void **state)
{
    struct capture *capture = *state;

    log_info("identity", "renewed", LOG_STR("id", "spiffe://mesh/ns/a/sa/b"), LOG_STR("none", NULL),
             LOG_INT("left_s", -5), LOG_UINT("bytes", UINT64_MAX), LOG_BOOL("new", true),
             LOG_BYTES("raw", bytes_of("a b", 3)));
    assert_int_equal(capture->num, 1);
    assert_string_equal(after_time(capture->last),
                        "level=info component=identity event=renewed id=spiffe://mesh/ns/a/sa/b "
                        "left_s=-5 bytes=18446744073709551615 new=true raw=\"a b\"");
}

static void test_a_json_line_has_the_same(void **state)
{
    struct capture *capture = *state;
    json_t *json;

    log_set_format(LOG_FORMAT_JSON);
    log_error("identity", "lost", LOG_STR("id", "x"), LOG_STR("none", NULL),
              LOG_INT("least", INT64_MIN), LOG_BOOL("new", false));
    json = last_json(capture);
    assert_int_equal(json_object_size(json), 7);
    assert_string_equal(json_string_value(json_object_get(json, "level")), "error");
    assert_string_equal(json_string_value(json_object_get(json, "component")), "identity");
    assert_string_equal(json_string_value(json_object_get(json, "event")), "lost");
    assert_int_equal(json_integer_value(json_object_get(json, "least")), INT64_MIN);
    assert_true(json_is_false(json_object_get(json, "new")));
    assert_int_equal(strlen(json_string_value(json_object_get(json, "time"))), 24);
    json_decref(json);
}

static void test_an_event_without_fields(void **state)
{
    struct capture *capture = *state;

    log_warn("main", "started");
    assert_string_equal(after_time(capture->last), "level=warn component=main event=started");
}

static void test_an_error_has_name_number_and_place(void **state)
{
    struct capture *capture = *state;
    err_t err = {E_TLS_ALERT, 42, "lib/net/tls.c:7"};
    json_t *json;

    log_info("tls", "closed", LOG_ERR("error", err), LOG_ERR("other", OK));
    assert_string_equal(after_time(capture->last),
                        "level=info component=tls event=closed error=tls_alert error_sub=42 "
                        "error_at=lib/net/tls.c:7 other=ok");
    log_set_format(LOG_FORMAT_JSON);
    log_info("tls", "closed", LOG_ERR("error", err));
    json = last_json(capture);
    assert_int_equal(json_integer_value(json_object_get(json, "error_sub")), 42);
    json_decref(json);
}

/* ---- hostile values ---- */

static void test_no_value_can_forge_a_field_or_a_line(void **state)
{
    static const struct {
        const char *value, *text;
    } rows[] = {
        {"", "v=\"\""},
        {"a b", "v=\"a b\""},
        {"x level=error", "v=\"x level=error\""},
        {"a=b", "v=\"a=b\""},
        {"say \"no\"", "v=\"say \\\"no\\\"\""},
        {"back\\slash", "v=\"back\\\\slash\""},
        {"\" level=error x=\"", "v=\"\\\" level=error x=\\\"\""},
        {"a\ntime=2026", "v=\"a\\ntime=2026\""},
        {"a\r\n\t", "v=\"a\\r\\n\\t\""},
        {"\x1b[2J\x07", "v=\"\\u001b[2J\\u0007\""},
        {"\xe2\x80\xaegpj", "v=\"\\u202egpj\""},
        {"\xff\xfe", "v=\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"caf\xc3\xa9", "v=\"caf\xc3\xa9\""},
    };
    struct capture *capture = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        log_info("t", "e", LOG_STR("v", rows[i].value));
        assert_string_equal(strstr(capture->last, "v="), rows[i].text);
        assert_int_equal(capture->num, i + 1);
    }
}

static void test_json_is_valid_for_any_bytes(void **state)
{
    struct capture *capture = *state;
    unsigned seed = 5;

    log_set_format(LOG_FORMAT_JSON);
    for (int i = 0; i < 3000; i++) {
        uint8_t raw[300];
        size_t len = (size_t)rand_r(&seed) % sizeof(raw);
        json_t *json;

        for (size_t j = 0; j < len; j++) {
            static const uint8_t edges[] = {0, '"', '\\', '\n', 0x7f, 0x80, 0xc3, 0xe2, 0xed, 0xf0};
            unsigned choice = (unsigned)rand_r(&seed);

            if (choice % 3 == 0)
                raw[j] = edges[choice / 3 % ARRAY_LEN(edges)];
            else
                raw[j] = (uint8_t)(choice / 3);
        }
        log_info("t", "e", LOG_BYTES("v", bytes_of(raw, len)), LOG_INT("after", i));
        json = last_json(capture);
        assert_int_equal(json_integer_value(json_object_get(json, "after")), i);
        json_decref(json);
    }
}

static void test_json_keeps_what_is_valid(void **state)
{
    static const char value[] = "q\"b\\n\nn\0z\x1f\xc3\xa9\xf0\x9f\x98\x80";
    struct capture *capture = *state;
    json_t *json, *string;

    log_set_format(LOG_FORMAT_JSON);
    log_info("t", "e", LOG_BYTES("v", bytes_of(value, sizeof(value) - 1)));
    json = last_json(capture);
    string = json_object_get(json, "v");
    assert_int_equal(json_string_length(string), sizeof(value) - 1);
    assert_memory_equal(json_string_value(string), value, sizeof(value) - 1);
    json_decref(json);
}

static void test_values_are_cut_at_the_limit(void **state)
{
    struct capture *capture = *state;
    char value[LOG_VALUE_MAX + 2];

    for (size_t len = LOG_VALUE_MAX - 1; len <= LOG_VALUE_MAX + 1; len++) {
        const char *shown;

        memset(value, 'v', sizeof(value));
        value[len] = '\0';
        log_info("t", "e", LOG_STR("v", value));
        shown = strstr(capture->last, "v=") + 2;
        if (len <= LOG_VALUE_MAX) {
            assert_string_equal(shown, value);
        } else {
            assert_int_equal(strlen(shown), LOG_VALUE_MAX + 5);
            assert_string_equal(shown + LOG_VALUE_MAX + 1, "\xe2\x80\xa6\"");
        }
    }
    /* A character across the limit goes whole. */
    memset(value, 'v', sizeof(value));
    memcpy(value + LOG_VALUE_MAX - 1, "\xc3\xa9", 3);
    log_info("t", "e", LOG_STR("v", value));
    assert_null(strstr(capture->last, "\xef\xbf\xbd"));
    assert_non_null(strstr(capture->last, "v\xe2\x80\xa6\""));
}

static void test_a_line_too_long_leaves_fields_out_and_says_so(void **state)
{
    struct capture *capture = *state;
    char value[LOG_VALUE_MAX + 1];

    memset(value, 1, LOG_VALUE_MAX); /* six bytes each when written */
    value[LOG_VALUE_MAX] = '\0';
    for (int json = 0; json < 2; json++) {
        log_set_format(json ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
        log_info("t", "e", LOG_STR("first", value), LOG_STR("second", value), LOG_INT("third", 3));
        assert_true(strlen(capture->last) < LOG_LINE_MAX);
        assert_non_null(strstr(capture->last, "first"));
        assert_null(strstr(capture->last, "second"));
        assert_non_null(strstr(capture->last, "third"));
        assert_non_null(strstr(capture->last, "truncated"));
        if (json)
            json_decref(last_json(capture));
    }
    log_info("t", "e", LOG_STR("first", value));
    assert_null(strstr(capture->last, "truncated"));
}

/* Every total length around the limit, so that no field just fits but its end does not. */
static void test_every_length_near_the_limit_is_one_valid_line(void **state)
{
    struct capture *capture = *state;
    struct log_field fields[12];
    char value[LOG_VALUE_MAX + 1];

    log_set_format(LOG_FORMAT_JSON);
    memset(value, 'v', LOG_VALUE_MAX);
    for (size_t i = 0; i < 8; i++)
        fields[i] = LOG_BYTES("k", bytes_of(value, i < 7 ? LOG_VALUE_MAX : 0));
    for (size_t len = 500; len < LOG_VALUE_MAX; len++) {
        json_error_t error;
        json_t *json;

        fields[7].value.str.len = len;
        log_event(LOG_INFO, "t", "e", fields, 8);
        json = json_loads(capture->last, 0, &error); /* the key is there many times */
        assert_non_null(json);
        json_decref(json);
        assert_true(strlen(capture->last) < LOG_LINE_MAX);
    }
    assert_non_null(strstr(capture->last, "truncated"));
}

/* ---- levels ---- */

static void test_levels_by_component(void **state)
{
    struct bytes bad = {NULL, 0};
    char spec[LOG_SPEC_MAX];

    (void)state;
    assert_int_equal(log_set_spec("info,tls=debug,identity=error", &bad).code, E_OK);
    assert_true(log_enabled(LOG_INFO, "main"));
    assert_false(log_enabled(LOG_DEBUG, "main"));
    assert_true(log_enabled(LOG_DEBUG, "tls"));
    assert_true(log_enabled(LOG_ERROR, "identity"));
    assert_false(log_enabled(LOG_WARN, "identity"));
    log_spec(spec, sizeof(spec));
    assert_string_equal(spec, "info,tls=debug,identity=error");
    log_spec(spec, 16);
    assert_string_equal(spec, "info,tls=debug");
    log_spec(spec, 15);
    assert_string_equal(spec, "info,tls=debug");
    log_spec(spec, 14);
    assert_string_equal(spec, "info");
    assert_int_equal(log_set_spec("tls=warn,error", &bad).code, E_OK);
    assert_true(log_enabled(LOG_WARN, "tls"));
    assert_false(log_enabled(LOG_WARN, "main"));
    assert_int_equal(log_set_spec("tls=debug", &bad).code, E_OK);
    assert_true(log_enabled(LOG_INFO, "main"));
    assert_false(log_enabled(LOG_DEBUG, "main"));
}

static void test_what_is_below_the_level_is_neither_written_nor_evaluated(void **state)
{
    struct capture *capture = *state;
    int evaluated = 0;

    log_debug("main", "quiet", LOG_INT("n", ++evaluated));
    assert_int_equal(capture->num, 0);
    assert_int_equal(evaluated, 0);
    log_event(LOG_DEBUG, "main", "quiet", NULL, 0);
    log_limited(LOG_DEBUG, "main", "quiet", NULL, 0);
    assert_int_equal(capture->num, 0);
    assert_int_equal(log_set_spec("debug", NULL).code, E_OK);
    log_debug("main", "loud", LOG_INT("n", ++evaluated));
    assert_int_equal(capture->num, 1);
    assert_int_equal(evaluated, 1);
}

static void test_a_wrong_spec_changes_nothing_and_names_the_word(void **state)
{
    static const struct {
        const char *spec, *bad;
        int32_t at;
    } rows[] = {
        {"", "", 0},
        {"loud", "loud", 0},
        {"INFO", "INFO", 0},
        {"debug,", "", 6},
        {",debug", "", 0},
        {"debug,,tls=info", "", 6},
        {"debug,info", "info", 6},
        {"debug,tls=", "tls=", 6},
        {"debug,=info", "=info", 6},
        {"debug,tls=loud", "tls=loud", 6},
        {"debug,tls=info,tls=warn", "tls=warn", 15},
        {"debug, tls=info", " tls=info", 6},
        {"debug,T=info", "T=info", 6},
        {"debug,a b=info", "a b=info", 6},
        {"debug,tls=info=warn", "tls=info=warn", 6},
        {"debug,abcdefghijklmnopqrstuvwxyzabcdef=info", "abcdefghijklmnopqrstuvwxyzabcdef=info", 6},
    };
    char spec[LOG_SPEC_MAX];

    (void)state;
    assert_int_equal(log_set_spec("warn,tls=error", NULL).code, E_OK);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bytes bad = {NULL, 99};
        err_t err = log_set_spec(rows[i].spec, &bad);

        assert_int_equal(err.code, E_SYNTAX);
        assert_int_equal(err.sub, rows[i].at);
        assert_true(bytes_equal_str(bad, rows[i].bad));
        assert_int_equal(log_set_spec(rows[i].spec, NULL).code, E_SYNTAX);
        log_spec(spec, sizeof(spec));
        assert_string_equal(spec, "warn,tls=error");
    }
    /* The longest component name there may be. */
    assert_int_equal(log_set_spec("abcdefghijklmnopqrstuvwxyzabcde=info", NULL).code, E_OK);
}

static void test_as_many_components_as_fit_and_no_more(void **state)
{
    struct buf text = {0};
    char spec[LOG_SPEC_MAX];
    char *full;

    (void)state;
    for (int i = 0; i < 32; i++)
        assert_int_equal(
            buf_printf(&text, "%scomponent-with-a-long-nam-%03d=debug", i > 0 ? "," : "", i).code,
            E_OK);
    full = buf_take_str(&text);
    assert_int_equal(log_set_spec(full, NULL).code, E_OK);
    log_spec(spec, sizeof(spec));
    assert_memory_equal(spec, "info,", 5);
    assert_string_equal(spec + 5, full);
    assert_int_equal(buf_printf(&text, "%s,more=debug", full).code, E_OK);
    mem_free(full);
    full = buf_take_str(&text);
    assert_int_equal(log_set_spec(full, NULL).code, E_SYNTAX);
    mem_free(full);
}

/* ---- limits ---- */

struct fake {
    struct clock clock;
    uint64_t ms;
};

static uint64_t fake_mono_ms(const struct clock *clock)
{
    return ((const struct fake *)(const void *)clock)->ms;
}

static int64_t fake_wall_s(const struct clock *clock)
{
    return (int64_t)fake_mono_ms(clock) / 1000;
}

static void flood(size_t num, const char *event)
{
    const struct log_field field = LOG_STR("peer", "10.0.0.1");

    for (size_t i = 0; i < num; i++)
        log_limited(LOG_WARN, "tls", event, &field, 1);
}

static void test_a_burst_passes_and_the_rest_is_counted(void **state)
{
    struct capture *capture = *state;
    struct fake fake = {{fake_mono_ms, fake_wall_s}, 1000000};

    log_set_clock(&fake.clock);
    flood(LOG_LIMIT_BURST, "burst");
    assert_int_equal(capture->num, LOG_LIMIT_BURST);
    assert_null(strstr(capture->last, "suppressed"));
    flood(1, "burst");
    flood(999, "burst");
    assert_int_equal(capture->num, LOG_LIMIT_BURST);

    fake.ms += 1000 / LOG_LIMIT_PER_S - 1; /* a line's worth less a millisecond */
    flood(1, "burst");
    assert_int_equal(capture->num, LOG_LIMIT_BURST);
    fake.ms += 1;
    flood(1, "burst");
    assert_int_equal(capture->num, LOG_LIMIT_BURST + 1);
    assert_non_null(strstr(capture->last, " peer=10.0.0.1 suppressed=1001"));
    fake.ms += 1000;
    flood(LOG_LIMIT_PER_S + 5, "burst");
    assert_int_equal(capture->num, LOG_LIMIT_BURST + 1 + LOG_LIMIT_PER_S);
    assert_null(strstr(capture->last, "suppressed"));
}

static void test_one_events_flood_does_not_hide_another(void **state)
{
    struct capture *capture = *state;
    struct fake fake = {{fake_mono_ms, fake_wall_s}, 2000000};

    log_set_clock(&fake.clock);
    flood(LOG_LIMIT_BURST + 10, "loud");
    capture->num = 0;
    flood(1, "rare");
    assert_int_equal(capture->num, 1);
    log_limited(LOG_WARN, "other", "loud", NULL, 0);
    assert_int_equal(capture->num, 2);
}

static void test_a_long_silence_gives_one_burst_and_no_more(void **state)
{
    struct capture *capture = *state;
    struct fake fake = {{fake_mono_ms, fake_wall_s}, 3000000};

    log_set_clock(&fake.clock);
    flood(LOG_LIMIT_BURST + 1, "silence");
    /* Times LOG_LIMIT_PER_S this is 2^64 + 4: it must not come out as 4. */
    fake.ms += UINT64_MAX / LOG_LIMIT_PER_S + 1;
    capture->num = 0;
    flood(LOG_LIMIT_BURST + 100, "silence");
    assert_int_equal(capture->num, LOG_LIMIT_BURST);
    fake.ms = 0; /* a clock that goes back gives nothing and breaks nothing */
    flood(10, "silence");
    assert_int_equal(capture->num, LOG_LIMIT_BURST);
}

static void test_events_beyond_the_table_share_one_limit(void **state)
{
    static char names[300][16];
    struct capture *capture = *state;
    struct fake fake = {{fake_mono_ms, fake_wall_s}, 4000000};

    log_set_clock(&fake.clock);
    for (size_t i = 0; i < 300; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "event-%zu", i);
        flood(1, names[i]);
    }
    capture->num = 0;
    flood(LOG_LIMIT_BURST * 2, names[298]);
    flood(LOG_LIMIT_BURST * 2, names[299]);
    assert_true(capture->num <= LOG_LIMIT_BURST);
    capture->num = 0;
    flood(LOG_LIMIT_BURST * 2, names[0]);
    assert_int_equal(capture->num, LOG_LIMIT_BURST - 1);
}

/* ---- descriptors ---- */

static void test_lines_go_to_the_descriptor(void **state)
{
    int fds[2];
    char text[512];
    ssize_t len;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    log_info("main", "started");
    log_set_fd(STDERR_FILENO);
    len = read(fds[0], text, sizeof(text) - 1);
    assert_true(len > 0);
    text[len] = '\0';
    assert_string_equal(after_time(text), "level=info component=main event=started\n");
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void test_a_full_pipe_loses_whole_lines_and_counts_them(void **state)
{
    uint64_t lost = log_lines_lost();
    char text[4096], last;
    int fds[2];
    size_t num = 0, total = 0;
    ssize_t len;

    (void)state;
    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    while (log_lines_lost() == lost) {
        log_info("main", "filling", LOG_UINT("n", num));
        num++;
        assert_true(num < 100000);
    }
    log_set_fd(STDERR_FILENO);
    assert_int_equal(log_lines_lost(), lost + 1);
    last = 0;
    while ((len = read(fds[0], text, sizeof(text))) > 0) {
        for (ssize_t i = 0; i < len; i++)
            total += text[i] == '\n';
        last = text[len - 1];
    }
    assert_int_equal(last, '\n');
    assert_int_equal(total, num - 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* The reader of standard output's pipe stops, and the pipe blocks: that stopped every thread that
 * logs. SIGALRM ends the test if it does so again. */
static void test_a_blocking_pipe_without_reader_stops_nobody(void **state)
{
    uint64_t lost = log_lines_lost();
    char text[4096], wanted[128];
    int fds[2];
    ssize_t len;

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    (void)alarm(20);
    for (unsigned i = 0; i < 20000; i++)
        log_info("main", "filling", LOG_UINT("n", i));
    (void)alarm(0);
    assert_true(log_lines_lost() > lost + 1000);

    /* It reads again: lines come again, whole, and say how many are missing. */
    (void)snprintf(wanted, sizeof(wanted),
                   "level=info component=main event=again lost=%" PRIu64 "\n",
                   log_lines_lost() - lost);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    while (read(fds[0], text, sizeof(text)) > 0)
        continue;
    lost = log_lines_lost();
    log_info("main", "again");
    log_set_fd(STDERR_FILENO);
    assert_int_equal(log_lines_lost(), lost);
    len = read(fds[0], text, sizeof(text) - 1);
    assert_true(len > 0);
    text[len] = '\0';
    assert_string_equal(after_time(text), wanted);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* Takes a little now and then, until it is told to take all there is. */
struct slow_reader {
    int fd;
    atomic_bool fast;
    size_t lines, whole;
    uint64_t told; /* as lost */
    char text[2 * LOG_LINE_MAX];
    size_t len;
};

static void slow_reader_take(struct slow_reader *reader)
{
    char *end;

    while ((end = memchr(reader->text, '\n', reader->len)) != NULL) {
        const char *lost;

        *end = '\0';
        lost = strstr(reader->text, " lost=");
        reader->lines++;
        reader->whole +=
            strncmp(reader->text, "time=", 5) == 0 && strstr(reader->text, " event=slow ") != NULL;
        reader->told += lost != NULL ? strtoull(lost + 6, NULL, 10) : 0;
        reader->len -= (size_t)(end + 1 - reader->text);
        memmove(reader->text, end + 1, reader->len);
    }
}

static void *read_slowly(void *arg)
{
    struct slow_reader *reader = arg;
    ssize_t got;

    for (;;) {
        if (!atomic_load(&reader->fast))
            (void)poll(NULL, 0, 10);
        got = read(reader->fd, reader->text + reader->len, 512);
        if (got <= 0)
            return NULL;
        reader->len += (size_t)got;
        slow_reader_take(reader);
        CHECK(reader->len < LOG_LINE_MAX);
    }
}

/* The reader of the pipe is alive and slow: each line found room a few milliseconds later, so that
 * all threads of the program went at the reader's pace. */
static void test_a_slow_reader_slows_nobody_down(void **state)
{
    struct slow_reader reader = {.fast = false};
    uint64_t lost = log_lines_lost(), before, num = 0, began_us;
    char value[151];
    pthread_t thread;
    int fds[2];

    (void)state;
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 16384) >= 0);
    reader.fd = fds[0];
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    began_us = clock_mono_us();
    for (; num < 5000; num++)
        log_info("main", "slow", LOG_STR("v", value), LOG_UINT("n", num));
    /* A megabyte, of which the reader takes 50 kB a second. */
    assert_in_range(clock_mono_us() - began_us, 0, 5000000);
    assert_true(log_lines_lost() > lost + 1000);

    atomic_store(&reader.fast, true);
    do {
        (void)poll(NULL, 0, 1);
        before = log_lines_lost();
        log_info("main", "slow", LOG_UINT("n", num));
        num++;
    } while (log_lines_lost() > before && num < 20000);
    log_set_fd(STDERR_FILENO);
    (void)close(fds[1]);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(reader.whole, reader.lines);
    assert_int_equal(reader.told, log_lines_lost() - lost);
    assert_int_equal(reader.lines + reader.told, num); /* each is there, or told as lost */
    (void)close(fds[0]);
}

static long times_waited(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nvcsw;
}

/* One reader after the other stops, and time passes: what is waited in a second is little. */
static void test_what_is_waited_for_all_readers_is_bounded(void **state)
{
    uint64_t began_us = clock_mono_us(), num = 0;
    long waited = times_waited();
    char filling[4096];
    int fds[2];

    (void)state;
    memset(filling, '#', sizeof(filling));
    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    while (write(fds[1], filling, sizeof(filling)) > 0)
        continue;
    log_set_sink(NULL, NULL);
    while (clock_mono_us() - began_us < 2500000) {
        log_set_fd(fds[1]); /* a new one, of which nothing is known */
        log_info("main", "nobody takes this");
        num++;
    }
    log_set_fd(STDERR_FILENO);
    assert_true(num > 1000);
    assert_in_range(times_waited() - waited, 1, 20); /* once a second; 20 ms each are 125 times */
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* The last of all, for it cannot be taken back. */
static void test_the_last_lines_may_wait_longer(void **state)
{
    struct slow_reader reader = {.fast = false};
    uint64_t lost;
    char filling[4096];
    pthread_t thread;
    int fds[2];

    (void)state;
    memset(filling, '\n', sizeof(filling));
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 4096), 4096);
    assert_int_equal(write(fds[1], filling, sizeof(filling)), (int)sizeof(filling));
    reader.fd = fds[0];
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    log_info("main", "slow", LOG_UINT("n", 1)); /* uses up what there is */
    log_set_fd(fds[1]);
    lost = log_lines_lost();
    log_info("main", "slow", LOG_UINT("n", 2));
    assert_int_equal(log_lines_lost(), lost + 1);
    log_ending();
    log_set_fd(fds[1]);
    assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
    log_info("main", "slow", LOG_UINT("n", 3)); /* when eight times 10 ms have passed */
    assert_int_equal(log_lines_lost(), lost + 1);
    log_set_fd(STDERR_FILENO);
    (void)close(fds[1]);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(reader.whole, 1);
    (void)close(fds[0]);
}

static size_t read_all(int fd, char *out, size_t size)
{
    size_t len = 0;
    ssize_t got;

    while (len + 1 < size && (got = read(fd, out + len, size - 1 - len)) > 0)
        len += (size_t)got;
    out[len] = '\0';
    return len;
}

/* A line longer than what a pipe takes at once is begun, and its reader never comes: the writer
 * must give up, and the next line must not be the rest of that one. */
static void test_a_line_that_was_begun_and_given_up_ends_before_the_next(void **state)
{
    static char text[1 << 20];
    uint64_t lost = log_lines_lost();
    char value[LOG_VALUE_MAX + 1];
    const char *last;
    int fds[2];

    (void)state;
    memset(value, 2, LOG_VALUE_MAX); /* six bytes each when written: more than a page in all */
    value[LOG_VALUE_MAX] = '\0';
    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    memset(text, '#', 4096);
    while (write(fds[1], text, 4096) == 4096)
        continue;
    assert_int_equal(read(fds[0], text, 4096), 4096); /* room for one page of two */
    log_info("main", "begun", LOG_STR("v", value));
    assert_int_equal(log_lines_lost(), lost + 1);
    assert_true(read_all(fds[0], text, sizeof(text)) > 0);
    assert_int_not_equal(text[strlen(text) - 1], '\n'); /* else nothing was torn */
    log_info("main", "after");
    log_set_fd(STDERR_FILENO);
    assert_true(read_all(fds[0], text, sizeof(text)) > 0);
    last = text;
    assert_int_equal(*last, '\n');
    assert_string_equal(after_time(last + 1), "level=info component=main event=after lost=1\n");
    assert_int_equal(log_lines_lost(), lost + 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* Standard output and error are one pipe: the access log's line must not continue the torn one. */
static void test_a_torn_line_ends_before_a_line_of_the_other_descriptor(void **state)
{
    static char text[1 << 20];
    char value[LOG_VALUE_MAX + 1];
    int fds[2];

    (void)state;
    memset(value, 2, LOG_VALUE_MAX);
    value[LOG_VALUE_MAX] = '\0';
    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    log_route("access", fds[1]);
    memset(text, '#', 4096);
    while (write(fds[1], text, 4096) == 4096)
        continue;
    assert_int_equal(read(fds[0], text, 4096), 4096);
    log_info("main", "begun", LOG_STR("v", value));
    assert_true(read_all(fds[0], text, sizeof(text)) > 0);
    assert_int_not_equal(text[strlen(text) - 1], '\n'); /* else nothing was torn */
    log_info("access", "after");
    log_info("main", "after");
    log_route("access", -1);
    log_set_fd(STDERR_FILENO);
    assert_true(read_all(fds[0], text, sizeof(text)) > 0);
    assert_int_equal(strncmp(text, "\ntime=", 6), 0);
    assert_non_null(strstr(text, "level=info component=access event=after\ntime="));
    assert_non_null(strstr(text, "level=info component=main event=after lost=1\n"));
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void test_one_component_may_have_a_descriptor_of_its_own(void **state)
{
    int own[2], common[2];
    char text[1024];

    (void)state;
    assert_int_equal(pipe2(own, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(pipe2(common, O_NONBLOCK | O_CLOEXEC), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(common[1]);
    log_route("access", own[1]);
    log_info("access", "closed");
    log_info("access2", "other");
    log_route("access", -1);
    log_info("access", "again");
    log_set_fd(STDERR_FILENO);
    assert_true(read_all(own[0], text, sizeof(text)) > 0);
    assert_string_equal(after_time(text), "level=info component=access event=closed\n");
    assert_true(read_all(common[0], text, sizeof(text)) > 0);
    assert_null(strstr(text, "event=closed"));
    assert_non_null(strstr(text, "component=access2 event=other\n"));
    assert_non_null(strstr(text, "component=access event=again\n"));
    for (int i = 0; i < 2; i++) {
        (void)close(own[i]);
        (void)close(common[i]);
    }
}

static void test_a_closed_descriptor_loses_lines_but_not_the_program(void **state)
{
    uint64_t lost = log_lines_lost();

    (void)state;
    log_set_sink(NULL, NULL);
    log_set_fd(-1);
    log_error("main", "nobody reads this");
    log_set_fd(STDERR_FILENO);
    assert_int_equal(log_lines_lost(), lost + 1);
}

/* ---- threads ---- */

#define LOG_THREADS 4
#define LOG_ROUNDS 2000

static atomic_bool stop;

static void *write_lines(void *arg)
{
    int me = *(const int *)arg;

    for (int i = 0; i < LOG_ROUNDS; i++) {
        const struct log_field field = LOG_STR("peer", "x");

        log_error("worker", "counted", LOG_INT("thread", me), LOG_INT("n", i));
        log_debug("tls", "maybe", LOG_INT("n", i));
        log_limited(LOG_DEBUG, "tls", "limited", &field, 1);
    }
    return NULL;
}

static void *change_settings(void *arg)
{
    (void)arg;
    for (int i = 0; !atomic_load(&stop); i++) {
        char spec[LOG_SPEC_MAX];

        log_set_format(i % 2 == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
        CHECK(err_is_ok(log_set_spec(i % 3 == 0 ? "info,tls=debug" : "error,worker=info", NULL)));
        log_spec(spec, sizeof(spec));
    }
    return NULL;
}

static void test_threads_write_whole_lines_while_settings_change(void **state)
{
    struct capture *capture = *state;
    pthread_t threads[LOG_THREADS], changer;
    int me[LOG_THREADS];
    size_t counted = 0;
    char *text, *line, *next;

    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&changer, NULL, change_settings, NULL), 0);
    for (int i = 0; i < LOG_THREADS; i++) {
        me[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &me[i]), 0);
    }
    for (int i = 0; i < LOG_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(changer, NULL), 0);

    text = buf_take_str(&capture->text);
    for (line = text; *line != '\0'; line = next + 1) {
        next = strchr(line, '\n');
        *next = '\0';
        if (line[0] == '{') {
            json_t *json = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

            assert_non_null(json);
            json_decref(json);
        } else {
            assert_memory_equal(after_time(line), "level=", 6);
        }
        counted += strstr(line, "counted") != NULL;
    }
    mem_free(text);
    assert_int_equal(counted, LOG_THREADS * LOG_ROUNDS);
}

struct pipe_reader {
    int fd;
    size_t lines;
    size_t whole;
};

static void *read_lines(void *arg)
{
    struct pipe_reader *reader = arg;
    FILE *in = fdopen(reader->fd, "r");
    char *line = NULL;
    size_t size = 0;

    CHECK(in != NULL);
    while (getline(&line, &size, in) > 0) {
        size_t len = strlen(line);

        reader->lines++;
        reader->whole +=
            strncmp(line, "time=", 5) == 0 && len > 6000 && strcmp(line + len - 5, " z=1\n") == 0;
    }
    free(line);
    (void)fclose(in);
    return NULL;
}

#define LOG_LONG_LINES                                                        \
    60 /* of two threads: all have room in a pipe of a megabyte, none is lost \
        */

static void *write_long_lines(void *arg)
{
    const char *value = arg;

    for (int i = 0; i < LOG_LONG_LINES; i++)
        log_info("worker", "long", LOG_STR("v", value), LOG_INT("z", 1));
    return NULL;
}

/* Longer than a pipe keeps in one piece (4096 bytes): the lock must keep them apart. */
static void test_long_lines_of_two_threads_do_not_mix_in_a_pipe(void **state)
{
    struct pipe_reader reader = {0};
    pthread_t threads[2], reading;
    char value[LOG_VALUE_MAX + 1];
    int fds[2];

    (void)state;
    memset(value, 2, LOG_VALUE_MAX);
    value[LOG_VALUE_MAX] = '\0';
    assert_int_equal(pipe(fds), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) >= 0);
    reader.fd = fds[0];
    assert_int_equal(pthread_create(&reading, NULL, read_lines, &reader), 0);
    log_set_sink(NULL, NULL);
    log_set_fd(fds[1]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_long_lines, value), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    log_set_fd(STDERR_FILENO);
    (void)close(fds[1]);
    assert_int_equal(pthread_join(reading, NULL), 0);
    assert_int_equal(reader.lines, 2 * LOG_LONG_LINES);
    assert_int_equal(reader.whole, 2 * LOG_LONG_LINES);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, capture_begin, capture_end)
    const struct CMUnitTest tests[] = {
        TEST(test_a_text_line_has_all_fields_in_order),
        TEST(test_a_json_line_has_the_same),
        TEST(test_an_event_without_fields),
        TEST(test_an_error_has_name_number_and_place),
        TEST(test_no_value_can_forge_a_field_or_a_line),
        TEST(test_json_is_valid_for_any_bytes),
        TEST(test_json_keeps_what_is_valid),
        TEST(test_values_are_cut_at_the_limit),
        TEST(test_a_line_too_long_leaves_fields_out_and_says_so),
        TEST(test_every_length_near_the_limit_is_one_valid_line),
        TEST(test_levels_by_component),
        TEST(test_what_is_below_the_level_is_neither_written_nor_evaluated),
        TEST(test_a_wrong_spec_changes_nothing_and_names_the_word),
        TEST(test_as_many_components_as_fit_and_no_more),
        TEST(test_a_burst_passes_and_the_rest_is_counted),
        TEST(test_one_events_flood_does_not_hide_another),
        TEST(test_a_long_silence_gives_one_burst_and_no_more),
        TEST(test_events_beyond_the_table_share_one_limit),
        TEST(test_lines_go_to_the_descriptor),
        TEST(test_a_full_pipe_loses_whole_lines_and_counts_them),
        TEST(test_a_blocking_pipe_without_reader_stops_nobody),
        TEST(test_a_slow_reader_slows_nobody_down),
        TEST(test_what_is_waited_for_all_readers_is_bounded),
        TEST(test_a_line_that_was_begun_and_given_up_ends_before_the_next),
        TEST(test_a_torn_line_ends_before_a_line_of_the_other_descriptor),
        TEST(test_one_component_may_have_a_descriptor_of_its_own),
        TEST(test_a_closed_descriptor_loses_lines_but_not_the_program),
        TEST(test_threads_write_whole_lines_while_settings_change),
        TEST(test_long_lines_of_two_threads_do_not_mix_in_a_pipe),
        TEST(test_the_last_lines_may_wait_longer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
