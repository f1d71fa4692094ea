#include "lib/base/faults.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

#define FAULT_TEXT_MAX 512

static const char fault_cut[] = "\xe2\x80\xa6"; /* what stands where a text was cut: an ellipsis */

/* An owned copy on one line: path and message may quote what a peer or a file said. */
static char *fault_copy(const char *text, bool was_cut)
{
    char out[FAULT_TEXT_MAX];
    size_t len = 0;

    out[0] = '\0';
    if (!str_escape(out, sizeof(out) - (sizeof(fault_cut) - 1), &len, bytes_of_str(text), false) ||
        was_cut)
        memcpy(out + len, fault_cut, sizeof(fault_cut));
    return mem_strdup(out);
}

void faults_fini(struct faults *faults)
{
    for (size_t i = 0; i < faults->num; i++) {
        mem_free(faults->items[i].path);
        mem_free(faults->items[i].message);
    }
    faults->num = 0;
    faults->total = 0;
}

void faults_add(struct faults *faults, const char *path, const char *format, ...)
{
    char text[FAULT_TEXT_MAX];
    va_list args;
    int len;

    faults->total++;
    if (faults->num == FAULTS_MAX)
        return;
    va_start(args, format);
    len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    CHECK(len >= 0);
    if ((size_t)len >= sizeof(text)) /* not in the middle of a character */
        text[str_utf8_cut(bytes_of(text, sizeof(text) - 1), sizeof(text) - 4)] = '\0';
    faults->items[faults->num++] = (struct fault){
        .path = fault_copy(path, false),
        .message = fault_copy(text, (size_t)len >= sizeof(text)),
    };
}

err_t faults_err(const struct faults *faults)
{
    if (faults->total == 0)
        return OK;
    return FAIL(CONFIG_INVALID, faults->total > INT32_MAX ? INT32_MAX : faults->total);
}

void faults_text(const struct faults *faults, struct buf *out)
{
    err_t err = OK;

    /* A reader with a small buffer gets the first faults whole. */
    for (size_t i = 0; i < faults->num && err_is_ok(err); i++) {
        const struct fault *fault = &faults->items[i];

        if (fault->path[0] == '\0')
            err = buf_printf(out, "%s\n", fault->message);
        else
            err = buf_printf(out, "%s: %s\n", fault->path, fault->message);
    }
    if (faults->total > faults->num && err_is_ok(err))
        err = buf_printf(out, "and %zu more\n", faults->total - faults->num);
    (void)err;
}

/* Appends what fits. */
static size_t fault_path_add(struct fault_path *path, const char *text)
{
    size_t mark = path->len;
    size_t room = sizeof(path->text) - 1 - path->len;
    size_t len = strlen(text);

    if (len > room)
        len = str_utf8_cut(bytes_of(text, len), room);
    memcpy(path->text + path->len, text, len);
    path->len += len;
    path->text[path->len] = '\0';
    return mark;
}

size_t fault_path_field(struct fault_path *path, const char *name)
{
    size_t mark = path->len;

    if (path->len != 0)
        fault_path_add(path, ".");
    fault_path_add(path, name);
    return mark;
}

size_t fault_path_index(struct fault_path *path, size_t index)
{
    char text[32];

    (void)snprintf(text, sizeof(text), "[%zu]", index);
    return fault_path_add(path, text);
}

void fault_path_pop(struct fault_path *path, size_t mark)
{
    CHECK(mark <= path->len);
    path->len = mark;
    path->text[mark] = '\0';
}
