#include "lib/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

#define LOG_COMPONENT_MAX 32 /* bytes with NUL */
#define LOG_OVERRIDES_MAX 32 /* components with a level of their own */
#define LOG_LIMITERS_MAX 256 /* (component, event) pairs; the rest share the last */
#define LOG_TAIL_MAX 96      /* kept free for truncated, suppressed and lost, and the end */

/* How long the whole process waits for all its readers: so much, then not at all for a second. */
#define LOG_PATIENCE_US 20000
#define LOG_PATIENCE_BACK_US 1000000
#define LOG_PATIENCE_END_US 200000

static const char *const log_level_names[LOG_NUM_LEVELS] = {"error", "warn", "info", "debug"};

struct log_levels {
    enum log_level base;
    size_t num;
    struct {
        char component[LOG_COMPONENT_MAX];
        enum log_level level;
    } overrides[LOG_OVERRIDES_MAX];
};

/* log_bounds is (least << 8 | most) of the levels in force: nearly every question is answered by
 * it, and only what lies between takes the lock. */
static atomic_uint log_bounds = LOG_INFO << 8 | LOG_INFO;
static pthread_rwlock_t log_levels_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct log_levels log_levels = {.base = LOG_INFO};

static atomic_int log_format = LOG_FORMAT_TEXT;
static _Atomic(const struct clock *) log_clock = &clock_system;

struct log_out {
    int fd;        /* -1: none */
    bool torn;     /* the last line ended in its middle */
    bool stuck;    /* its reader let the last line wait in vain */
    uint64_t lost; /* lines, since the last that could be written */
};

/* Where lines go; the lock also keeps long lines whole. */
static pthread_mutex_t log_out_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_out log_main = {.fd = STDERR_FILENO};
static struct log_out log_routed = {.fd = -1}; /* for the lines of log_routed_component */
static const char *log_routed_component;
static void (*log_sink)(void *arg, const char *line, size_t len);
static void *log_sink_arg;
static uint64_t log_lost; /* lines that could not be written, in all */

/* What is left of the time that may be spent on waiting for readers, and when some was last. */
static struct {
    uint64_t left_us;
    uint64_t last_us;
    bool ending;
} log_patience = {.left_us = LOG_PATIENCE_US};

struct log_limiter {
    const char *component;
    const char *event;
    uint64_t filled_ms; /* when tokens was right */
    uint64_t tokens;    /* thousandths of a line */
    uint64_t suppressed;
};

static pthread_mutex_t log_limit_lock = PTHREAD_MUTEX_INITIALIZER;
static struct log_limiter log_limiters[LOG_LIMITERS_MAX];
static size_t log_num_limiters;

/* ---- levels ---- */

bool log_enabled(enum log_level level, const char *component)
{
    unsigned bounds = atomic_load_explicit(&log_bounds, memory_order_relaxed);
    enum log_level in_force;

    if ((unsigned)level <= bounds >> 8)
        return true;
    if ((unsigned)level > (bounds & 0xff))
        return false;

    (void)pthread_rwlock_rdlock(&log_levels_lock);
    in_force = log_levels.base;
    for (size_t i = 0; i < log_levels.num; i++) {
        if (strcmp(log_levels.overrides[i].component, component) == 0)
            in_force = log_levels.overrides[i].level;
    }
    (void)pthread_rwlock_unlock(&log_levels_lock);
    return level <= in_force;
}

static bool log_parse_level(struct bytes word, enum log_level *out)
{
    for (unsigned i = 0; i < LOG_NUM_LEVELS; i++) {
        if (bytes_equal_str(word, log_level_names[i])) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool log_is_component(struct bytes word)
{
    if (word.len == 0 || word.len >= LOG_COMPONENT_MAX)
        return false;
    for (size_t i = 0; i < word.len; i++) {
        uint8_t c = word.ptr[i];

        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'))
            return false;
    }
    return true;
}

/* One word of a spec: "info", or "tls=debug". */
static bool log_parse_word(struct bytes word, struct log_levels *levels, bool *has_base)
{
    const uint8_t *equals = word.len != 0 ? memchr(word.ptr, '=', word.len) : NULL;
    struct bytes component;
    enum log_level level;

    if (equals == NULL) {
        if (*has_base || !log_parse_level(word, &levels->base))
            return false;
        *has_base = true;
        return true;
    }
    component = bytes_of(word.ptr, (size_t)(equals - word.ptr));
    if (!log_is_component(component) || levels->num == LOG_OVERRIDES_MAX ||
        !log_parse_level(bytes_of(equals + 1, word.len - component.len - 1), &level))
        return false;
    for (size_t i = 0; i < levels->num; i++) {
        if (bytes_equal_str(component, levels->overrides[i].component))
            return false;
    }
    memcpy(levels->overrides[levels->num].component, component.ptr, component.len);
    levels->overrides[levels->num].component[component.len] = '\0';
    levels->overrides[levels->num++].level = level;
    return true;
}

err_t log_set_spec(const char *spec, struct bytes *out_bad)
{
    struct log_levels levels = {.base = LOG_INFO};
    bool has_base = false;
    unsigned least, most;

    for (const char *at = spec;; at++) {
        size_t len = strcspn(at, ",");

        if (!log_parse_word(bytes_of(at, len), &levels, &has_base)) {
            if (out_bad != NULL)
                *out_bad = bytes_of(at, len);
            return FAIL(SYNTAX, at - spec);
        }
        at += len;
        if (*at == '\0')
            break;
    }

    least = most = levels.base;
    for (size_t i = 0; i < levels.num; i++) {
        if (levels.overrides[i].level < least)
            least = levels.overrides[i].level;
        if (levels.overrides[i].level > most)
            most = levels.overrides[i].level;
    }
    (void)pthread_rwlock_wrlock(&log_levels_lock);
    log_levels = levels;
    atomic_store_explicit(&log_bounds, least << 8 | most, memory_order_relaxed);
    (void)pthread_rwlock_unlock(&log_levels_lock);
    return OK;
}

void log_spec(char *out, size_t out_size)
{
    size_t len;

    CHECK(out_size >= sizeof("error"));
    (void)pthread_rwlock_rdlock(&log_levels_lock);
    len = (size_t)snprintf(out, out_size, "%s", log_level_names[log_levels.base]);
    for (size_t i = 0; i < log_levels.num; i++) {
        int more = snprintf(out + len, out_size - len, ",%s=%s", log_levels.overrides[i].component,
                            log_level_names[log_levels.overrides[i].level]);

        if (more < 0 || (size_t)more >= out_size - len) {
            out[len] = '\0'; /* whole words only */
            break;
        }
        len += (size_t)more;
    }
    (void)pthread_rwlock_unlock(&log_levels_lock);
}

/* ---- output ---- */

void log_set_format(enum log_format format)
{
    atomic_store_explicit(&log_format, (int)format, memory_order_relaxed);
}

void log_set_fd(int fd)
{
    (void)pthread_mutex_lock(&log_out_lock);
    log_main = (struct log_out){.fd = fd};
    (void)pthread_mutex_unlock(&log_out_lock);
}

void log_route(const char *component, int fd)
{
    (void)pthread_mutex_lock(&log_out_lock);
    /* A fresh file tells what its predecessor lost. */
    log_routed = (struct log_out){.fd = fd, .lost = fd >= 0 ? log_routed.lost : 0};
    log_routed_component = component;
    (void)pthread_mutex_unlock(&log_out_lock);
}

void log_set_sink(void (*sink)(void *arg, const char *line, size_t len), void *arg)
{
    (void)pthread_mutex_lock(&log_out_lock);
    log_sink = sink;
    log_sink_arg = arg;
    (void)pthread_mutex_unlock(&log_out_lock);
}

void log_set_clock(const struct clock *clock)
{
    atomic_store(&log_clock, clock != NULL ? clock : &clock_system);
}

void log_ending(void)
{
    (void)pthread_mutex_lock(&log_out_lock);
    log_patience.left_us = LOG_PATIENCE_END_US;
    log_patience.ending = true;
    (void)pthread_mutex_unlock(&log_out_lock);
}

static int log_poll(const struct log_out *out, uint64_t wait_us)
{
    struct timespec wait = {0, (long)(wait_us * 1000)};
    struct pollfd fd = {.fd = out->fd, .events = POLLOUT};

    return ppoll(&fd, 1, &wait, NULL);
}

/* Whether a write of at most PIPE_BUF bytes will not block. The time is one for all threads and
 * outputs: they wait for each other at the lock, so that a reader who takes a page now and then
 * would else hold all of them for all of the time. */
static bool log_may_write(struct log_out *out)
{
    uint64_t began_us, now_us, end_us;

    if (log_poll(out, 0) > 0) {
        out->stuck = false;
        return true;
    }
    began_us = now_us = clock_mono_us();
    if (!log_patience.ending && now_us - log_patience.last_us >= LOG_PATIENCE_BACK_US)
        log_patience.left_us = LOG_PATIENCE_US;
    if (out->fd < 0 || out->stuck || log_patience.left_us == 0)
        return false;
    end_us = began_us + log_patience.left_us;
    out->stuck = true;
    do { /* again after a signal */
        if (log_poll(out, end_us - now_us) > 0)
            out->stuck = false;
        now_us = clock_mono_us();
    } while (out->stuck && now_us < end_us);
    log_patience.left_us = now_us < end_us ? end_us - now_us : 0;
    log_patience.last_us = now_us;
    return !out->stuck;
}

/* Under the lock, which every thread that logs waits for: a reader that has stopped or is slow, of
 * a blocking pipe too, costs a little time and then lines, which are counted, never the program. */
static bool log_write_all(struct log_out *out, const char *line, size_t len)
{
    size_t done = 0;

    while (done < len && log_may_write(out)) {
        size_t num = len - done < PIPE_BUF ? len - done : PIPE_BUF;
        ssize_t wrote = write(out->fd, line + done, num);

        if (wrote >= 0)
            done += (size_t)wrote;
        else if (errno != EINTR)
            break;
    }
    out->torn = out->torn || (done > 0 && done < len);
    return done == len;
}

/* ---- a line ---- */

struct log_line {
    bool json;
    bool truncated;
    size_t len;
    char text[LOG_LINE_MAX];
};

/* Appends if it fits before `limit`. */
static bool log_put(struct log_line *line, size_t limit, const char *text)
{
    size_t len = strlen(text);

    if (len >= limit - line->len)
        return false;
    memcpy(line->text + line->len, text, len);
    line->len += len;
    return true;
}

static bool log_put_key(struct log_line *line, size_t limit, const char *key, const char *suffix)
{
    if (line->json)
        return log_put(line, limit, line->len > 1 ? ",\"" : "\"") && log_put(line, limit, key) &&
               log_put(line, limit, suffix) && log_put(line, limit, "\":");
    return log_put(line, limit, line->len > 0 ? " " : "") && log_put(line, limit, key) &&
           log_put(line, limit, suffix) && log_put(line, limit, "=");
}

static bool log_put_str(struct log_line *line, size_t limit, struct bytes value)
{
    size_t max = str_utf8_cut(value, LOG_VALUE_MAX);
    bool is_cut = max < value.len;

    value.len = max;
    if (!line->json && !is_cut && str_is_plain(value)) {
        if (value.len >= limit - line->len)
            return false;
        memcpy(line->text + line->len, value.ptr, value.len);
        line->len += value.len;
        return true;
    }
    return log_put(line, limit, "\"") && str_escape(line->text, limit, &line->len, value, true) &&
           log_put(line, limit, is_cut ? "\xe2\x80\xa6\"" : "\"");
}

static bool log_put_number(struct log_line *line, size_t limit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool log_put_number(struct log_line *line, size_t limit, const char *format, ...)
{
    char text[32];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return log_put(line, limit, text);
}

static bool log_put_err(struct log_line *line, size_t limit, const char *key, err_t err)
{
    if (!log_put_key(line, limit, key, "") ||
        !log_put_str(line, limit, bytes_of_str(err_name(err.code))))
        return false;
    if (err_is_ok(err))
        return true;
    if (!log_put_key(line, limit, key, "_sub") || !log_put_number(line, limit, "%" PRId32, err.sub))
        return false;
    return err.where == NULL || (log_put_key(line, limit, key, "_at") &&
                                 log_put_str(line, limit, bytes_of_str(err.where)));
}

static bool log_put_value(struct log_line *line, size_t limit, const struct log_field *field)
{
    if (field->kind == LOG_FIELD_ERR)
        return log_put_err(line, limit, field->key, field->value.err);
    if (!log_put_key(line, limit, field->key, ""))
        return false;
    switch (field->kind) {
    case LOG_FIELD_STR:
        return log_put_str(line, limit, field->value.str);
    case LOG_FIELD_INT:
        return log_put_number(line, limit, "%" PRId64, field->value.i);
    case LOG_FIELD_UINT:
        return log_put_number(line, limit, "%" PRIu64, field->value.u);
    case LOG_FIELD_BOOL:
        return log_put(line, limit, field->value.b ? "true" : "false");
    case LOG_FIELD_ERR:
        break;
    }
    return true;
}

/* A field stands whole in the line or not at all. */
static void log_put_field(struct log_line *line, const struct log_field *field)
{
    size_t before = line->len;

    if (field->key == NULL)
        return;
    if (!log_put_value(line, LOG_LINE_MAX - LOG_TAIL_MAX, field)) {
        line->len = before;
        line->truncated = true;
    }
}

static void log_put_const(struct log_line *line, const char *key, const char *value)
{
    struct log_field field = log_field_str(key, value);

    log_put_field(line, &field);
}

static void log_put_time(struct log_line *line)
{
    int64_t now_us = clock_wall_us();
    char text[32];

    clock_format_utc(now_us / 1000000, text);
    (void)snprintf(text + 19, sizeof(text) - 19, ".%03uZ", (unsigned)(now_us / 1000 % 1000));
    log_put_const(line, "time", text);
}

/* The tail has its own room, LOG_TAIL_MAX, so these always fit: 17, 34 and 28 bytes at most, then
 * 2. */
static void log_put_count(struct log_line *line, const char *key, uint64_t num)
{
    if (num != 0)
        CHECK(log_put_key(line, LOG_LINE_MAX, key, "") &&
              log_put_number(line, LOG_LINE_MAX, "%" PRIu64, num));
}

/* Ends a line that was begun and given up. */
static void log_mend(struct log_out *out)
{
    if (out->torn)
        out->torn = !log_write_all(out, "\n", 1);
}

/* The end of the line and the line itself, under the lock. */
static void log_write(struct log_out *out, struct log_line *line)
{
    log_put_count(line, "lost", out->lost);
    CHECK(log_put(line, LOG_LINE_MAX, line->json ? "}\n" : "\n"));
    log_mend(&log_main); /* both: standard output and error are one file, often */
    log_mend(&log_routed);
    if (!out->torn && log_write_all(out, line->text, line->len)) {
        out->lost = 0;
    } else {
        out->lost++;
        log_lost++;
    }
}

/* All of it but the end. */
static void log_compose(struct log_line *line, bool json, enum log_level level,
                        const char *component, const char *event, const struct log_field *fields,
                        size_t num_fields)
{
    line->json = json;
    line->truncated = false;
    line->len = 0;
    if (json)
        line->text[line->len++] = '{';
    log_put_time(line);
    log_put_const(line, "level", log_level_names[level]);
    log_put_const(line, "component", component);
    log_put_const(line, "event", event);
    for (size_t i = 0; i < num_fields; i++)
        log_put_field(line, &fields[i]);
    if (line->truncated)
        CHECK(log_put_key(line, LOG_LINE_MAX, "truncated", "") &&
              log_put(line, LOG_LINE_MAX, "true"));
}

size_t log_json(enum log_level level, const char *component, const char *event,
                const struct log_field *fields, size_t num_fields, char out[LOG_LINE_MAX])
{
    struct log_line line;

    log_compose(&line, true, level, component, event, fields, num_fields);
    CHECK(log_put(&line, LOG_LINE_MAX, "}"));
    memcpy(out, line.text, line.len);
    return line.len;
}

static void log_emit(enum log_level level, const char *component, const char *event,
                     const struct log_field *fields, size_t num_fields, uint64_t suppressed)
{
    struct log_line line;

    log_compose(&line, atomic_load_explicit(&log_format, memory_order_relaxed) == LOG_FORMAT_JSON,
                level, component, event, fields, num_fields);
    log_put_count(&line, "suppressed", suppressed);

    (void)pthread_mutex_lock(&log_out_lock);
    if (log_sink != NULL) {
        CHECK(log_put(&line, LOG_LINE_MAX, line.json ? "}\n" : "\n"));
        log_sink(log_sink_arg, line.text, line.len);
    } else if (log_routed.fd >= 0 && strcmp(component, log_routed_component) == 0) {
        log_write(&log_routed, &line);
    } else {
        log_write(&log_main, &line);
    }
    (void)pthread_mutex_unlock(&log_out_lock);
}

void log_event(enum log_level level, const char *component, const char *event,
               const struct log_field *fields, size_t num_fields)
{
    if (log_enabled(level, component))
        log_emit(level, component, event, fields, num_fields, 0);
}

uint64_t log_lines_lost(void)
{
    uint64_t lost;

    (void)pthread_mutex_lock(&log_out_lock);
    lost = log_lost;
    (void)pthread_mutex_unlock(&log_out_lock);
    return lost;
}

/* ---- limited events ---- */

static struct log_limiter *log_limiter_of(const char *component, const char *event, uint64_t now_ms)
{
    struct log_limiter *limiter;

    for (size_t i = 0; i < log_num_limiters; i++) {
        limiter = &log_limiters[i];
        if (strcmp(limiter->component, component) == 0 && strcmp(limiter->event, event) == 0)
            return limiter;
    }
    if (log_num_limiters == LOG_LIMITERS_MAX)
        return &log_limiters[LOG_LIMITERS_MAX - 1];
    limiter = &log_limiters[log_num_limiters++];
    *limiter = (struct log_limiter){component, event, now_ms, LOG_LIMIT_BURST * 1000, 0};
    return limiter;
}

bool log_limit(const char *component, const char *event, uint64_t *out_suppressed)
{
    const struct clock *clock = atomic_load(&log_clock);
    uint64_t now_ms = clock_mono_ms(clock);
    struct log_limiter *limiter;
    bool pass;

    (void)pthread_mutex_lock(&log_limit_lock);
    limiter = log_limiter_of(component, event, now_ms);
    if (now_ms > limiter->filled_ms) {
        uint64_t since_ms = now_ms - limiter->filled_ms;

        /* A token a line: LOG_LIMIT_PER_S thousandths come in each millisecond. */
        if (since_ms >= LOG_LIMIT_BURST * 1000 / LOG_LIMIT_PER_S)
            limiter->tokens = LOG_LIMIT_BURST * 1000;
        else
            limiter->tokens += since_ms * LOG_LIMIT_PER_S;
        if (limiter->tokens > LOG_LIMIT_BURST * 1000)
            limiter->tokens = LOG_LIMIT_BURST * 1000;
        limiter->filled_ms = now_ms;
    }
    pass = limiter->tokens >= 1000;
    *out_suppressed = 0;
    if (pass) {
        limiter->tokens -= 1000;
        *out_suppressed = limiter->suppressed;
        limiter->suppressed = 0;
    } else {
        limiter->suppressed++;
    }
    (void)pthread_mutex_unlock(&log_limit_lock);
    return pass;
}

void log_limited(enum log_level level, const char *component, const char *event,
                 const struct log_field *fields, size_t num_fields)
{
    uint64_t suppressed;

    if (log_enabled(level, component) && log_limit(component, event, &suppressed))
        log_emit(level, component, event, fields, num_fields, suppressed);
}
