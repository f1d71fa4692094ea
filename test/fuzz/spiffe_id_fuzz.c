/* SPIFFE IDs: the parser against a second one that was written from the standard in another way;
 * what is accepted is whole, and what is refused is refused at a place within it. Drives: R75, R5.
 */
#include "certs/spiffe_id.h"

#include "lib/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Segment by segment with the library's own string functions; a NUL is refused first, so that they
 * may be used. */
static bool oracle(const uint8_t *data, size_t size)
{
    static const char domain[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    static const char segment[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    bool good = size <= 2048 && (size == 0 || memchr(data, '\0', size) == NULL);

    if (!good)
        return false;
    char *text = mem_strndup((const char *)data, size);
    good = strncmp(text, "spiffe://", 9) == 0;
    size_t len = good ? strspn(text + 9, domain) : 0;
    good = good && len >= 1 && len <= 255 && (text[9 + len] == '\0' || text[9 + len] == '/');
    for (char *at = text + 9 + len; good && *at != '\0';) {
        len = strspn(at + 1, segment);
        good =
            len > 0 && !(len == 1 && at[1] == '.') && !(len == 2 && strncmp(at + 1, "..", 2) == 0);
        at += 1 + len;
        good = good && (*at == '\0' || *at == '/');
    }
    mem_free(text);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct spiffe_id id;
    err_t err = spiffe_id_parse(bytes_of(data, size), &id);

    CHECK(err_is_ok(err) == oracle(data, size));
    if (err_is_ok(err)) {
        CHECK(id.text.ptr == data && id.text.len == size);
        CHECK(9 + id.trust_domain.len + id.path.len == size);
        CHECK(spiffe_trust_domain_valid(id.trust_domain));
    } else {
        CHECK(err.code == E_SPIFFE_SYNTAX);
        CHECK(err.sub >= 0 && (size_t)err.sub <= size);
    }
    return 0;
}
