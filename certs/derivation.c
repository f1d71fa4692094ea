#include "certs/derivation.h"

#include <string.h>

#include <openssl/bytestring.h>

#include "lib/base/mem.h"

#define DERIVATION_DEPTH_MAX 32 /* of what has no length of its own */
#define DERIVATION_CONTEXT_0 (CBS_ASN1_CONTEXT_SPECIFIC | 0)

struct derivation {
    uint64_t max;
    unsigned num; /* so many were found */
};

/* ---- BER ---- */

static bool derivation_at_end(const CBS *cbs)
{
    return CBS_len(cbs) >= 2 && CBS_data(cbs)[0] == 0 && CBS_data(cbs)[1] == 0;
}

static bool derivation_next(CBS *cbs, CBS *out, CBS_ASN1_TAG *out_tag, unsigned depth);

/* The content of an element without a length, which `cbs` stands at the beginning of. */
static bool derivation_indefinite(CBS *cbs, CBS *out, unsigned depth)
{
    const uint8_t *begin = CBS_data(cbs);
    CBS inner;

    while (!derivation_at_end(cbs)) {
        if (depth == DERIVATION_DEPTH_MAX || !derivation_next(cbs, &inner, NULL, depth + 1))
            return false;
    }
    CBS_init(out, begin, (size_t)(CBS_data(cbs) - begin));
    return CBS_skip(cbs, 2) != 0;
}

/* The next element's content. */
static bool derivation_next(CBS *cbs, CBS *out, CBS_ASN1_TAG *out_tag, unsigned depth)
{
    CBS_ASN1_TAG tag;
    size_t header;
    int ber, indefinite;
    CBS element;

    if (!CBS_get_any_ber_asn1_element(cbs, &element, &tag, &header, &ber, &indefinite))
        return false;
    if (out_tag != NULL)
        *out_tag = tag;
    if (indefinite)
        return derivation_indefinite(cbs, out, depth);
    *out = element;
    return CBS_skip(out, header) != 0;
}

static bool derivation_get(CBS *cbs, CBS_ASN1_TAG tag, CBS *out)
{
    CBS_ASN1_TAG found;

    return derivation_next(cbs, out, &found, 0) && found == tag;
}

static bool derivation_get_number(CBS *cbs, uint64_t *out)
{
    CBS number;

    if (!derivation_get(cbs, CBS_ASN1_INTEGER, &number) || CBS_len(&number) == 0 ||
        (CBS_data(&number)[0] & 0x80) != 0)
        return false;
    *out = 0;
    for (size_t i = 0; i < CBS_len(&number); i++) {
        if (*out > UINT64_MAX >> 8)
            return false;
        *out = *out << 8 | CBS_data(&number)[i];
    }
    return true;
}

/* A string of bytes, of which BER knows one in parts: those are put together in `store`. */
static bool derivation_get_string(CBS *cbs, CBS_ASN1_TAG tag, CBS_ASN1_TAG part, struct buf *store,
                                  CBS *out)
{
    CBS_ASN1_TAG found;
    CBS parts, one;

    if (!derivation_next(cbs, out, &found, 0))
        return false;
    if (found == tag)
        return true;
    if (found != (tag | CBS_ASN1_CONSTRUCTED))
        return false;
    parts = *out;
    while (CBS_len(&parts) > 0) {
        if (!derivation_get(&parts, part, &one) ||
            !err_is_ok(buf_add(store, CBS_data(&one), CBS_len(&one))))
            return false;
    }
    CBS_init(out, buf_view(store).ptr, buf_size(store));
    return true;
}

/* ---- counting ---- */

static bool derivation_count(struct derivation *it, uint64_t rounds)
{
    return ++it->num <= DERIVATION_NUM_MAX && rounds <= it->max;
}

/* `salt OCTET STRING, iterationCount INTEGER`. */
static bool derivation_salted(struct derivation *it, CBS params)
{
    uint64_t rounds;
    CBS salt;

    return derivation_get(&params, CBS_ASN1_OCTETSTRING, &salt) &&
           derivation_get_number(&params, &rounds) && derivation_count(it, rounds);
}

/* An AlgorithmIdentifier of PKCS#12, PKCS#5 of old, or PBES2. */
static bool derivation_algorithm(struct derivation *it, CBS algorithm)
{
    CBS oid, params, kdf, inner;

    if (!derivation_get(&algorithm, CBS_ASN1_OBJECT, &oid) ||
        !derivation_get(&algorithm, CBS_ASN1_SEQUENCE, &params))
        return false;
    if (CBS_peek_asn1_tag(&params, CBS_ASN1_OCTETSTRING))
        return derivation_salted(it, params);
    return derivation_get(&params, CBS_ASN1_SEQUENCE, &kdf) &&
           derivation_get(&kdf, CBS_ASN1_OBJECT, &oid) &&
           derivation_get(&kdf, CBS_ASN1_SEQUENCE, &inner) && derivation_salted(it, inner);
}

bool derivation_pkcs8_bounded(struct bytes der, uint64_t max)
{
    struct derivation it = {.max = max};
    CBS cbs, info, algorithm;

    CBS_init(&cbs, der.ptr, der.len);
    return derivation_get(&cbs, CBS_ASN1_SEQUENCE, &info) &&
           derivation_get(&info, CBS_ASN1_SEQUENCE, &algorithm) &&
           derivation_algorithm(&it, algorithm);
}

/* ---- PKCS#12 (RFC 7292) ---- */

/* Bags that are plain to see: of those one that is encrypted is a key. */
static bool derivation_bags(struct derivation *it, CBS cbs)
{
    static const uint8_t shrouded[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d,
                                       0x01, 0x0c, 0x0a, 0x01, 0x02};
    CBS bags, bag, oid, value, info, algorithm;

    if (!derivation_get(&cbs, CBS_ASN1_SEQUENCE, &bags))
        return false;
    while (CBS_len(&bags) > 0) {
        if (!derivation_get(&bags, CBS_ASN1_SEQUENCE, &bag) ||
            !derivation_get(&bag, CBS_ASN1_OBJECT, &oid) ||
            !derivation_get(&bag, DERIVATION_CONTEXT_0 | CBS_ASN1_CONSTRUCTED, &value))
            return false;
        if (!CBS_mem_equal(&oid, shrouded, sizeof(shrouded)))
            continue;
        if (!derivation_get(&value, CBS_ASN1_SEQUENCE, &info) ||
            !derivation_get(&info, CBS_ASN1_SEQUENCE, &algorithm) ||
            !derivation_algorithm(it, algorithm))
            return false;
    }
    return true;
}

/* EncryptedData { version, { type, algorithm, content } } */
static bool derivation_encrypted(struct derivation *it, CBS data)
{
    CBS info, oid, algorithm;
    uint64_t version;

    return derivation_get_number(&data, &version) &&
           derivation_get(&data, CBS_ASN1_SEQUENCE, &info) &&
           derivation_get(&info, CBS_ASN1_OBJECT, &oid) &&
           derivation_get(&info, CBS_ASN1_SEQUENCE, &algorithm) &&
           derivation_algorithm(it, algorithm);
}

/* ContentInfo { type, [0] content } */
static bool derivation_content(struct derivation *it, CBS info)
{
    CLEANUP(buf_fini) struct buf store = {.data = NULL};
    CBS oid, wrapped, content;

    if (!derivation_get(&info, CBS_ASN1_OBJECT, &oid) ||
        !derivation_get(&info, DERIVATION_CONTEXT_0 | CBS_ASN1_CONSTRUCTED, &wrapped))
        return false;
    if (CBS_peek_asn1_tag(&wrapped, CBS_ASN1_SEQUENCE))
        return derivation_get(&wrapped, CBS_ASN1_SEQUENCE, &content) &&
               derivation_encrypted(it, content);
    return derivation_get_string(&wrapped, CBS_ASN1_OCTETSTRING, CBS_ASN1_OCTETSTRING, &store,
                                 &content) &&
           derivation_bags(it, content);
}

static bool derivation_contents(struct derivation *it, CBS safe)
{
    CLEANUP(buf_fini) struct buf store = {.data = NULL};
    CBS oid, wrapped, content, list, info;

    if (!derivation_get(&safe, CBS_ASN1_OBJECT, &oid) ||
        !derivation_get(&safe, DERIVATION_CONTEXT_0 | CBS_ASN1_CONSTRUCTED, &wrapped) ||
        !derivation_get_string(&wrapped, CBS_ASN1_OCTETSTRING, CBS_ASN1_OCTETSTRING, &store,
                               &content) ||
        !derivation_get(&content, CBS_ASN1_SEQUENCE, &list))
        return false;
    while (CBS_len(&list) > 0) {
        if (!derivation_get(&list, CBS_ASN1_SEQUENCE, &info) || !derivation_content(it, info))
            return false;
    }
    return true;
}

/* MacData { DigestInfo, salt, iterations DEFAULT 1 } */
static bool derivation_mac(struct derivation *it, CBS mac)
{
    uint64_t rounds = 1;
    CBS digest, salt;

    return derivation_get(&mac, CBS_ASN1_SEQUENCE, &digest) &&
           derivation_get(&mac, CBS_ASN1_OCTETSTRING, &salt) &&
           (CBS_len(&mac) == 0 || derivation_get_number(&mac, &rounds)) &&
           derivation_count(it, rounds);
}

bool derivation_pkcs12_bounded(struct bytes file, uint64_t max)
{
    struct derivation it = {.max = max};
    CBS cbs, pfx, safe, mac;
    uint64_t version;

    CBS_init(&cbs, file.ptr, file.len);
    return derivation_get(&cbs, CBS_ASN1_SEQUENCE, &pfx) && derivation_get_number(&pfx, &version) &&
           derivation_get(&pfx, CBS_ASN1_SEQUENCE, &safe) &&
           derivation_get(&pfx, CBS_ASN1_SEQUENCE, &mac) && derivation_mac(&it, mac) &&
           derivation_contents(&it, safe);
}
