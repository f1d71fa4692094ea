#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proxy/access_share.h"
#include "proxy/snapshot_impl.h"

#define SNAPSHOT_NAMES_SHOWN 8 /* "there are: a, b, …" */

void snapshot_fault(struct snapshot_builder *b, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    faults_add(b->faults, b->path.text, "%s", text);
}

/* [a-z0-9]([-a-z0-9]{0,61}[a-z0-9])? */
static bool snapshot_is_label(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > 63 || text[0] == '-' || text[len - 1] == '-')
        return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

bool snapshot_is_dns_name(const char *text)
{
    size_t len = strlen(text), label = 0;

    if (len == 0 || len > 253)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c == '.') {
            if (label == 0 || text[i - 1] == '-')
                return false;
            label = 0;
            continue;
        }
        if (!(isalnum((unsigned char)c) || c == '_' || (c == '-' && label > 0)) || ++label > 63)
            return false;
    }
    return label > 0 && text[len - 1] != '-';
}

void snapshot_check_name(struct snapshot_builder *b, const char *what, const char *name,
                         const char *(*name_of)(const config_msg *config, size_t i), size_t index)
{
    if (snapshot_is_empty(name)) {
        FIELD_FAULT(b, "name", "is missing: each %s has one", what);
        return;
    }
    if (!snapshot_is_label(name)) {
        FIELD_FAULT(
            b, "name",
            "\"%s\" is not a name: wanted are at most 63 of a-z, 0-9 and '-', which neither "
            "begins nor ends it",
            name);
        return;
    }
    for (size_t i = 0; i < index; i++) {
        const char *other = name_of(b->in->config, i);

        if (other != NULL && strcmp(other, name) == 0) {
            FIELD_FAULT(b, "name", "\"%s\" is the name of another %s already", name, what);
            return;
        }
    }
}

void snapshot_known(const char *const *names, size_t num, char *out, size_t size)
{
    size_t len = 0, shown = 0;

    out[0] = '\0';
    if (num == 0) {
        (void)snprintf(out, size, "there are none");
        return;
    }
    for (size_t i = 0; i < num && len < size; i++) {
        const char *name = names[i];
        int more;

        if (shown == SNAPSHOT_NAMES_SHOWN)
            name = "…";
        more = snprintf(out + len, size - len, "%s%s", shown == 0 ? "there are: " : ", ", name);
        if (more < 0)
            return;
        len += (size_t)more;
        if (shown++ == SNAPSHOT_NAMES_SHOWN)
            return;
    }
}

unsigned snapshot_log_permille(struct snapshot_builder *b, uint32_t permille)
{
    if (permille != 0 && b->in->ca_files != NULL)
        FIELD_FAULT(b, "access_log_permille",
                    "is for sidecars with a control plane: there is none to tell");
    else if (permille > ACCESS_SHARE_ALL)
        FIELD_FAULT(b, "access_log_permille", "%u is more than 1000 of a thousand", permille);
    return permille;
}
