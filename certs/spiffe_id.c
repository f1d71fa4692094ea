#include "certs/spiffe_id.h"

#include "lib/base/mem.h"

#define SPIFFE_SCHEME "spiffe://"
#define SPIFFE_SCHEME_LEN (sizeof SPIFFE_SCHEME - 1)

static bool spiffe_id_digit_or_lower(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool spiffe_id_domain_char(uint8_t c)
{
    return spiffe_id_digit_or_lower(c) || c == '.' || c == '-' || c == '_';
}

static bool spiffe_id_segment_char(uint8_t c)
{
    return spiffe_id_domain_char(c) || (c >= 'A' && c <= 'Z');
}

static bool spiffe_id_is_dots(struct bytes segment)
{
    return bytes_equal_str(segment, ".") || bytes_equal_str(segment, "..");
}

bool spiffe_trust_domain_valid(struct bytes text)
{
    if (text.len == 0 || text.len > SPIFFE_TRUST_DOMAIN_MAX)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (!spiffe_id_domain_char(text.ptr[i]))
            return false;
    }
    return true;
}

bool spiffe_segment_valid(struct bytes text)
{
    if (text.len == 0 || spiffe_id_is_dots(text))
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (!spiffe_id_segment_char(text.ptr[i]))
            return false;
    }
    return true;
}

/* spiffe_id_path checks text[at...], which begins with '/': segments, none empty, none of dots. */
static err_t spiffe_id_path(struct bytes text, size_t at)
{
    while (at < text.len) {
        size_t start = at + 1;
        size_t end = start;

        while (end < text.len && text.ptr[end] != '/') {
            if (!spiffe_id_segment_char(text.ptr[end]))
                return FAIL(SPIFFE_SYNTAX, end);
            end++;
        }
        if (end == start)
            return FAIL(SPIFFE_SYNTAX, end == text.len ? at : end);
        if (spiffe_id_is_dots(bytes_of(text.ptr + start, end - start)))
            return FAIL(SPIFFE_SYNTAX, start);
        at = end;
    }
    return OK;
}

err_t spiffe_id_parse(struct bytes text, struct spiffe_id *out)
{
    if (text.len > SPIFFE_ID_MAX)
        return FAIL(SPIFFE_SYNTAX, SPIFFE_ID_MAX);
    for (size_t i = 0; i < SPIFFE_SCHEME_LEN; i++) {
        if (i >= text.len || text.ptr[i] != (uint8_t)SPIFFE_SCHEME[i])
            return FAIL(SPIFFE_SYNTAX, i);
    }

    size_t end = SPIFFE_SCHEME_LEN;
    while (end < text.len && text.ptr[end] != '/') {
        if (end - SPIFFE_SCHEME_LEN == SPIFFE_TRUST_DOMAIN_MAX ||
            !spiffe_id_domain_char(text.ptr[end]))
            return FAIL(SPIFFE_SYNTAX, end);
        end++;
    }
    if (end == SPIFFE_SCHEME_LEN)
        return FAIL(SPIFFE_SYNTAX, end);
    TRY(spiffe_id_path(text, end));

    *out = (struct spiffe_id){
        .text = text,
        .trust_domain = bytes_of(text.ptr + SPIFFE_SCHEME_LEN, end - SPIFFE_SCHEME_LEN),
        .path = bytes_of(text.ptr + end, text.len - end),
    };
    return OK;
}

char *spiffe_id_of_workload(const char *trust_domain, const char *ns, const char *account)
{
    CHECK(spiffe_trust_domain_valid(bytes_of_str(trust_domain)));
    CHECK(spiffe_segment_valid(bytes_of_str(ns)));
    CHECK(spiffe_segment_valid(bytes_of_str(account)));
    return mem_printf(SPIFFE_SCHEME "%s/ns/%s/sa/%s", trust_domain, ns, account);
}

char *spiffe_id_of_control(const char *trust_domain)
{
    CHECK(spiffe_trust_domain_valid(bytes_of_str(trust_domain)));
    return mem_printf(SPIFFE_SCHEME "%s/mortise/control", trust_domain);
}

char *spiffe_id_of_admin(const char *trust_domain, const char *name)
{
    CHECK(spiffe_trust_domain_valid(bytes_of_str(trust_domain)));
    CHECK(spiffe_segment_valid(bytes_of_str(name)));
    return mem_printf(SPIFFE_SCHEME "%s/mortise/admin/%s", trust_domain, name);
}
