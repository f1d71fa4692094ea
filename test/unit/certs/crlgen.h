/* crlgen: revocation lists as no CA would sign them, written byte by byte, for the issuers of
 * certgen. Zeroed parameters make an ordinary list without entries: version 2, with a number and an
 * authority key identifier. What cannot be made stops the test. */
#ifndef MORTISE_TEST_UNIT_CERTS_CRLGEN_H
#define MORTISE_TEST_UNIT_CERTS_CRLGEN_H

#include "test/unit/certs/certgen.h"

/* The content of an INTEGER. */
#define CRLGEN_SERIAL(literal)                          \
    {                                                   \
        (const uint8_t *)(literal), sizeof(literal) - 1 \
    }

struct crlgen_params {
    const char *issuer_name; /* CN, instead of the issuer's */
    EVP_PKEY *key;           /* signs, instead of the issuer's */
    int64_t this_s;          /* thisUpdate is CERTGEN_NOW - 3600 + this_s */
    int64_t next_s;          /* nextUpdate is CERTGEN_NOW + 86400 + next_s */
    bool no_next;
    const char *raw_this; /* UTCTime with this text */
    int version;          /* 0: v2; 1: v1 without extensions; n: as it is */
    bool sha1;
    bool sha384;

    struct bytes serials[6]; /* ptr NULL ends */
    size_t many;             /* so many entries more: 4 bytes, 0x10000000 + i * 7 */
    const char *raw_when;    /* UTCTime of each entry */
    int reason;              /* of each entry; 0: none */
    bool entry_issuer;       /* each entry names another issuer */
    bool entry_unknown_critical;
    bool entry_unknown_plain;

    struct bytes number; /* INTEGER content; ptr NULL: 1 */
    bool delta;
    bool indirect;
    bool partial; /* an issuingDistributionPoint for user certificates only */
    bool unknown_critical;
    bool unknown_plain;
    bool twice;       /* the number */
    bool v1_extended; /* extensions in version 1 */

    /* Content written instead of the usual; ptr NULL: the usual. */
    struct bytes raw_name;             /* of the issuer, all of its element */
    struct bytes raw_parameters;       /* of the algorithm */
    struct bytes raw_revoked;          /* the element of the entries */
    struct bytes raw_entry_extensions; /* all that follows the date of each entry */
    struct bytes raw_extensions;       /* of the list, within its SEQUENCE */
    size_t num_extensions;             /* so many unknown ones more */

    bool inner_differs; /* the inner algorithm is not the outer one */
    bool bad_signature; /* a bit of it turned */
    bool trailing;      /* bytes behind the list */
};

/* crlgen_make: owned, released with OPENSSL_free. */
struct bytes crlgen_make(const struct certgen *issuer, const struct crlgen_params *params);
void crlgen_free(struct bytes der);

#endif
