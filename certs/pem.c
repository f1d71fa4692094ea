#include "certs/pem.h"

#include <openssl/base64.h>

#include "certs/boring.h"
#include "lib/base/mem.h"

#define PEM_BEGIN "-----BEGIN "
#define PEM_END "-----END "
#define PEM_DASHES "-----"
#define PEM_LINE 64 /* RFC 7468 section 2 */
#define PEM_LABEL_MAX 64

/* What pem_parse is in the middle of. */
struct pem_reader {
    struct bytes rest; /* not yet read */
    int line;          /* number of the line last read, from 1 */
    uint8_t *base64;   /* the current block's, without white space; as large as the input */
    size_t base64_len;
};

static bool pem_is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* pem_next_line returns the next line without the white space around it; false at the end. */
static bool pem_next_line(struct pem_reader *reader, struct bytes *out)
{
    struct bytes rest = reader->rest;
    size_t len = 0;

    if (rest.len == 0)
        return false;
    while (len < rest.len && rest.ptr[len] != '\n')
        len++;
    size_t taken = len < rest.len ? len + 1 : len;
    size_t start = 0;
    while (start < len && pem_is_space(rest.ptr[start]))
        start++;
    while (len > start && pem_is_space(rest.ptr[len - 1]))
        len--;

    *out = bytes_of(rest.ptr + start, len - start);
    reader->rest = bytes_of(rest.ptr + taken, rest.len - taken);
    reader->line++;
    return true;
}

static bool pem_starts(struct bytes line, const char *prefix)
{
    size_t len = strlen(prefix);

    return line.len >= len && memcmp(line.ptr, prefix, len) == 0;
}

/* pem_label takes the label out of a BEGIN or END line; false when it is not a whole one. */
static bool pem_label(struct bytes line, const char *prefix, struct bytes *out)
{
    size_t start = strlen(prefix);
    size_t dashes = sizeof PEM_DASHES - 1;

    if (line.len < start + dashes || memcmp(line.ptr + line.len - dashes, PEM_DASHES, dashes) != 0)
        return false;
    struct bytes label = bytes_of(line.ptr + start, line.len - start - dashes);
    if (label.len == 0 || label.len > PEM_LABEL_MAX)
        return false;
    for (size_t i = 0; i < label.len; i++) {
        if (label.ptr[i] < ' ' || label.ptr[i] > '~' || label.ptr[i] == '-')
            return false;
    }
    *out = label;
    return true;
}

static bool pem_has_colon(struct bytes line)
{
    return line.len > 0 && memchr(line.ptr, ':', line.len) != NULL;
}

/* pem_headers reads what old OpenSSL puts between BEGIN and the data: "Proc-Type: 4,ENCRYPTED" and
 * more, up to an empty line. `line` is the first line of the block and becomes the first of data.
 */
static err_t pem_headers(struct pem_reader *reader, struct bytes *line, bool *out_encrypted)
{
    if (!pem_has_colon(*line))
        return OK;
    while (line->len > 0) {
        if (!pem_has_colon(*line))
            return FAIL(PEM_SYNTAX, reader->line);
        if (pem_starts(*line, "Proc-Type:") && line->len >= 9 &&
            memcmp(line->ptr + line->len - 9, "ENCRYPTED", 9) == 0)
            *out_encrypted = true;
        if (!pem_next_line(reader, line))
            return FAIL(PEM_SYNTAX, reader->line);
    }
    if (!pem_next_line(reader, line))
        return FAIL(PEM_SYNTAX, reader->line);
    return OK;
}

static err_t pem_data_line(struct pem_reader *reader, struct bytes line)
{
    for (size_t i = 0; i < line.len; i++) {
        uint8_t c = line.ptr[i];

        if (pem_is_space(c))
            continue;
        if (!(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') &&
            c != '+' && c != '/' && c != '=')
            return FAIL(PEM_SYNTAX, reader->line);
        reader->base64[reader->base64_len++] = c;
    }
    return OK;
}

/* pem_block reads what follows a BEGIN line. */
static err_t pem_block(struct pem_reader *reader, struct pem_block *block)
{
    int begin = reader->line;
    struct bytes line;
    struct bytes label;

    reader->base64_len = 0;
    if (!pem_next_line(reader, &line))
        return FAIL(PEM_SYNTAX, begin);
    TRY(pem_headers(reader, &line, &block->encrypted));
    while (!pem_starts(line, PEM_DASHES)) {
        TRY(pem_data_line(reader, line));
        if (!pem_next_line(reader, &line))
            return FAIL(PEM_SYNTAX, begin);
    }
    if (!pem_starts(line, PEM_END) || !pem_label(line, PEM_END, &label) ||
        !bytes_equal(label, block->label))
        return FAIL(PEM_SYNTAX, reader->line);

    size_t max = 0;
    size_t len = 0;
    if (reader->base64_len == 0 || !EVP_DecodedLength(&max, reader->base64_len))
        return FAIL(PEM_SYNTAX, begin);
    block->der = mem_zalloc(max);
    block->der_len = max; /* so that all of it is wiped if this fails half-way */
    if (!EVP_DecodeBase64(block->der, &len, max, reader->base64, reader->base64_len))
        return FAIL(PEM_SYNTAX, begin);
    block->der_len = len;
    return OK;
}

static err_t pem_read(struct pem_reader *reader, struct pem *pem)
{
    struct bytes line;

    while (pem_next_line(reader, &line)) {
        if (pem_starts(line, PEM_END))
            return FAIL(PEM_SYNTAX, reader->line);
        if (!pem_starts(line, PEM_BEGIN))
            continue;
        if (pem->num == PEM_BLOCKS_MAX)
            return FAIL(TOO_LARGE, PEM_BLOCKS_MAX);

        struct pem_block *block = &pem->blocks[pem->num];
        if (!pem_label(line, PEM_BEGIN, &block->label))
            return FAIL(PEM_SYNTAX, reader->line);
        pem->num++; /* before it is read: what it holds by then is released */
        TRY(pem_block(reader, block));
    }
    return OK;
}

err_t pem_parse(struct bytes text, struct pem *out)
{
    return pem_parse_within(text, PEM_INPUT_MAX, out);
}

err_t pem_parse_within(struct bytes text, size_t max, struct pem *out)
{
    BORING_SCOPE;

    if (text.len > max)
        return FAIL(TOO_LARGE, max);
    if (text.len >= 3 && memcmp(text.ptr, "\xef\xbb\xbf", 3) == 0)
        text = bytes_of(text.ptr + 3, text.len - 3); /* an editor's byte order mark */

    struct pem pem = {.blocks = mem_array(PEM_BLOCKS_MAX, sizeof(struct pem_block))};
    struct pem_reader reader = {.rest = text, .base64 = mem_alloc(text.len)};
    err_t err = pem_read(&reader, &pem);
    mem_wipe(reader.base64, text.len); /* may have been a key */
    mem_free(reader.base64);
    if (!err_is_ok(err)) {
        pem_fini(&pem);
        return err;
    }
    *out = pem;
    return OK;
}

void pem_fini(struct pem *pem)
{
    for (size_t i = 0; i < pem->num; i++) {
        if (pem->blocks[i].der != NULL)
            mem_wipe(pem->blocks[i].der, pem->blocks[i].der_len);
        mem_free(pem->blocks[i].der);
    }
    mem_free(pem->blocks);
    *pem = (struct pem){0};
}

err_t pem_write(const char *label, struct bytes der, struct buf *out)
{
    size_t max = 0;

    CHECK(EVP_EncodedLength(&max, der.len));
    uint8_t *base64 = mem_alloc(max);
    size_t len = EVP_EncodeBlock(base64, der.ptr, der.len);
    err_t err = buf_printf(out, PEM_BEGIN "%s" PEM_DASHES "\n", label);
    for (size_t at = 0; err_is_ok(err) && at < len; at += PEM_LINE) {
        err = buf_add(out, base64 + at, len - at < PEM_LINE ? len - at : PEM_LINE);
        if (err_is_ok(err))
            err = buf_add_str(out, "\n");
    }
    if (err_is_ok(err))
        err = buf_printf(out, PEM_END "%s" PEM_DASHES "\n", label);
    mem_wipe(base64, max);
    mem_free(base64);
    return err;
}
