#include "control/ctl/ctl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "certs/secrets.h"
#include "lib/base/buf.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define CTL_FILE_MAX ((size_t)4 << 20)

const char *const ctl_outputs[] = {"table", "wide", "json", "yaml", NULL};

void ctl_print(FILE *to, const char *text)
{
    size_t size = strlen(text) * 6 + 1, len = 0;
    char *escaped = mem_alloc(size);

    CHECK(str_escape(escaped, size, &len, bytes_of_str(text), false));
    fputs(escaped, to);
    mem_free(escaped);
}

void ctl_print_lines(FILE *to, const char *text)
{
    for (const char *end; (end = strchr(text, '\n')) != NULL; text = end + 1) {
        CLEANUP(mem_freep) char *line = mem_strndup(text, (size_t)(end - text));

        ctl_print(to, line);
        fputc('\n', to);
    }
    ctl_print(to, text);
}

void ctl_tell(const char *format, ...)
{
    CLEANUP(mem_freep) char *text = NULL;
    va_list args, again;
    int len;

    va_start(args, format);
    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    CHECK(len >= 0);
    text = mem_alloc((size_t)len + 1);
    (void)vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    fprintf(stderr, "mortisectl: ");
    ctl_print_lines(stderr, text);
    fputc('\n', stderr);
}

void ctl_tell_faults(const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *lines = NULL;

    faults_text(faults, &text);
    lines = buf_take_str(&text);
    ctl_print_lines(stderr, lines);
}

static bool ctl_read_stdin(struct buf *out)
{
    uint8_t chunk[65536];
    size_t len;

    while ((len = fread(chunk, 1, sizeof(chunk), stdin)) > 0) {
        if (buf_size(out) + len > CTL_FILE_MAX || !err_is_ok(buf_add(out, chunk, len))) {
            ctl_tell("standard input is larger than %zu bytes", CTL_FILE_MAX);
            return false;
        }
    }
    return ferror(stdin) == 0;
}

bool ctl_read(const char *flag, const char *path, bool private, struct buf *out)
{
    char why[SECRETS_WHY_MAX] = "";
    err_t err;

    if (strcmp(path, "-") == 0)
        return ctl_read_stdin(out);
    err = private ? secrets_read_file(path, CTL_FILE_MAX, out, why)
                  : file_read(path, CTL_FILE_MAX, out);
    if (err_is_ok(err))
        return true;
    if (why[0] != '\0')
        ctl_tell("%s: %s: %s", flag, path, why);
    else if (err_is(err, E_FILE_UNSAFE))
        ctl_tell("%s: %s: may be read or changed by others, or is not yours: chmod 600 it", flag,
                 path);
    else if (err_is(err, E_TOO_LARGE))
        ctl_tell("%s: %s: larger than %zu bytes", flag, path, CTL_FILE_MAX);
    else
        ctl_tell("%s: %s: %s: %s", flag, path, err_text(err.code), strerror(err.sub));
    return false;
}
