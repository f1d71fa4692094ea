/* pem reads and writes PEM blocks within bounds. Source: RFC 7468. */
#ifndef MORTISE_CERTS_PEM_H
#define MORTISE_CERTS_PEM_H

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define PEM_INPUT_MAX ((size_t)1 << 20)
#define PEM_BLOCKS_MAX 256

struct pem_block {
    struct bytes label; /* "CERTIFICATE"; within the input */
    uint8_t *der;       /* owned */
    size_t der_len;
    bool encrypted; /* by the old "Proc-Type: 4,ENCRYPTED" header: `der` is ciphertext */
};
struct pem {
    struct pem_block *blocks;
    size_t num;
};
static inline bool pem_is(const struct pem_block *block, const char *label)
{
    return bytes_equal_str(block->label, label);
}

/* pem_parse reads all blocks; text outside of blocks, CR LF and comments are passed over. DER of
 * keys is wiped by pem_fini. Errors: PEM_SYNTAX (sub: line), TOO_LARGE. */
MUST_CHECK err_t pem_parse(struct bytes text, struct pem *out);
/* pem_parse_within is the same of a text of at most `max` bytes instead of PEM_INPUT_MAX. */
MUST_CHECK err_t pem_parse_within(struct bytes text, size_t max, struct pem *out);
void pem_fini(struct pem *pem);
MUST_CHECK err_t pem_write(const char *label, struct bytes der, struct buf *out);

#endif
