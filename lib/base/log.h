/* log writes one line an event: key=value pairs or JSON, to standard error by default.
 *
 *   log_info("identity", "renewed", LOG_STR("id", id), LOG_INT("not_after", t));
 *   -> time=2026-11-23T01:35:24.123Z level=info component=identity event=renewed id=… not_after=…
 *
 * Values are escaped (control characters, quotes, bytes that are not UTF-8) and cut at
 * LOG_VALUE_MAX bytes. Any thread may log; a line is one write. Never a secret: nothing here can
 * know. */
#ifndef MORTISE_LIB_BASE_LOG_H
#define MORTISE_LIB_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/clock.h"
#include "lib/base/err.h"

#define LOG_VALUE_MAX 1024 /* a SPIFFE ID of 2048 bytes is cut; nothing honest is longer */
#define LOG_LINE_MAX 8192

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_NUM_LEVELS };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_field {
    const char *key; /* a constant, [a-z0-9_]+ */
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_UINT, LOG_FIELD_ERR, LOG_FIELD_BOOL } kind;
    union {
        struct bytes str;
        int64_t i;
        uint64_t u;
        err_t err;
        bool b;
    } value;
};

/* LOG_STR takes a C string or NULL (the field is then left out); LOG_BYTES a struct bytes. LOG_ERR
 * writes the error's name, and its sub and where as <key>_sub and <key>_at. */
#define LOG_STR(k, v) log_field_str((k), (v))
#define LOG_BYTES(k, v) ((struct log_field){(k), LOG_FIELD_STR, {.str = (v)}})
#define LOG_INT(k, v) ((struct log_field){(k), LOG_FIELD_INT, {.i = (int64_t)(v)}})
#define LOG_UINT(k, v) ((struct log_field){(k), LOG_FIELD_UINT, {.u = (uint64_t)(v)}})
#define LOG_BOOL(k, v) ((struct log_field){(k), LOG_FIELD_BOOL, {.b = (v)}})
#define LOG_ERR(k, v) ((struct log_field){(k), LOG_FIELD_ERR, {.err = (v)}})
static inline struct log_field log_field_str(const char *key, const char *value)
{
    struct bytes str = {NULL, 0};

    if (value != NULL)
        str = bytes_of_str(value);
    return (struct log_field){value != NULL ? key : NULL, LOG_FIELD_STR, {.str = str}};
}

/* log_event writes a line if the component's level allows it. `component` and `event` are
 * constants. A field with a NULL key is left out. */
void log_event(enum log_level level, const char *component, const char *event,
               const struct log_field *fields, size_t num_fields);

#define LOG_AT(level, component, event, ...)                                       \
    do {                                                                           \
        if (log_enabled((level), (component))) {                                   \
            const struct log_field log_fields_[] = {{.key = NULL}, ##__VA_ARGS__}; \
            log_event((level), (component), (event), log_fields_,                  \
                      sizeof(log_fields_) / sizeof(log_fields_[0]));               \
        }                                                                          \
    } while (0)
#define log_error(component, event, ...) LOG_AT(LOG_ERROR, component, event, ##__VA_ARGS__)
#define log_warn(component, event, ...) LOG_AT(LOG_WARN, component, event, ##__VA_ARGS__)
#define log_info(component, event, ...) LOG_AT(LOG_INFO, component, event, ##__VA_ARGS__)
#define log_debug(component, event, ...) LOG_AT(LOG_DEBUG, component, event, ##__VA_ARGS__)

/* log_limited is log_event for lines that a peer can cause: at most `LOG_LIMIT_BURST` lines at once
 * and LOG_LIMIT_PER_S a second per (component, event); what was left out is counted in the next
 * line that passes as suppressed=N. */
#define LOG_LIMIT_BURST 50
#define LOG_LIMIT_PER_S 20
void log_limited(enum log_level level, const char *component, const char *event,
                 const struct log_field *fields, size_t num_fields);

/* log_limit is the leave that log_limited asks for, for who writes a line in several places: true,
 * and how many were left out before it. */
bool log_limit(const char *component, const char *event, uint64_t *out_suppressed);
/* log_json writes what log_event would, in JSON and without an end of line or NUL, whatever the
 * format and the level, and returns its length. */
size_t log_json(enum log_level level, const char *component, const char *event,
                const struct log_field *fields, size_t num_fields, char out[LOG_LINE_MAX]);

bool log_enabled(enum log_level level, const char *component);

/* log_set_spec sets levels from text: "info" for all, "info,tls=debug,identity=warn". The whole
 * text is checked first. Errors: SYNTAX; levels are then unchanged and *out_bad (a borrowed part of
 * spec, not NUL-ended) and its length say which word is wrong. */
MUST_CHECK err_t log_set_spec(const char *spec, struct bytes *out_bad);
/* log_spec writes the spec in force, as log_set_spec takes it; whole words that fit `out_size`. */
#define LOG_SPEC_MAX 1280
void log_spec(char *out, size_t out_size);
void log_set_format(enum log_format format);
/* log_set_fd sends lines to `fd` (borrowed). Default 2. What was lost before is not told there. */
void log_set_fd(int fd);
/* log_route sends the lines of one component (a constant) to a descriptor of their own (borrowed);
 * fd -1 ends that. */
void log_route(const char *component, int fd);
/* log_set_sink is for tests: every line goes to the callback instead; NULL ends it. One call at a
 * time; it must not log. */
void log_set_sink(void (*sink)(void *arg, const char *line, size_t len), void *arg);
/* log_set_clock is for tests: the time that log_limited goes by (borrowed); NULL is the system's.
 */
void log_set_clock(const struct clock *clock);
/* log_lines_lost counts the lines that could not be written: disk full, or a pipe or socket whose
 * reader has stopped or is slow. The whole process waits for such readers no longer than 20 ms in
 * any second: they must not stop the program, nor slow it down. The next line that can be written
 * there tells how many are missing before it: lost=N. */
uint64_t log_lines_lost(void);
/* log_ending is called when nothing is left to be slowed down: the last lines may wait, 200 ms in
 * all. */
void log_ending(void);

#endif
