#include "certs/jose.h"

/* 0 to 63, or -1. */
static int jose_digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '-')
        return 62;
    return c == '_' ? 63 : -1;
}

err_t jose_base64url(struct bytes text, struct buf *out)
{
    size_t len = text.len / 4 * 3 + (text.len % 4 == 0 ? 0 : text.len % 4 - 1);
    uint8_t *room;
    uint32_t bits = 0;
    unsigned num = 0;
    size_t at = 0;

    if (text.len % 4 == 1)
        return FAIL(SYNTAX, text.len);
    TRY(buf_reserve(out, len, &room));
    for (size_t i = 0; i < text.len; i++) {
        int digit = jose_digit(text.ptr[i]);

        if (digit < 0)
            return FAIL(SYNTAX, i);
        bits = bits << 6 | (uint32_t)digit;
        num += 6;
        if (num >= 8) {
            num -= 8;
            room[at++] = (uint8_t)(bits >> num);
            bits &= ((uint32_t)1 << num) - 1;
        }
    }
    if (bits != 0)
        return FAIL(SYNTAX, text.len);
    buf_commit(out, len);
    return OK;
}

err_t jose_object(struct bytes text, json_t **out)
{
    json_error_t why;
    json_t *json;

    if (text.len == 0)
        return FAIL(SYNTAX, 0);
    json = json_loadb((const char *)text.ptr, text.len, JSON_REJECT_DUPLICATES, &why);
    if (json == NULL)
        return FAIL(SYNTAX, why.position);
    if (!json_is_object(json)) {
        json_decref(json);
        return FAIL(SYNTAX, 0);
    }
    *out = json;
    return OK;
}

const char *jose_string(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

bool jose_has(const json_t *object, const char *name)
{
    return json_object_get(object, name) != NULL;
}
