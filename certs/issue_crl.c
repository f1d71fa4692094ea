/* The revocation lists of issue.h. */
#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/issue.h"
#include "certs/key.h"

MEM_CLEANUP_FN(issue_crl_freep, X509_CRL, X509_CRL_free)
MEM_CLEANUP_FN(issue_time_freep, ASN1_TIME, ASN1_TIME_free)
MEM_CLEANUP_FN(issue_integer_freep, ASN1_INTEGER, ASN1_INTEGER_free)
MEM_CLEANUP_FN(issue_revoked_freep, X509_REVOKED, X509_REVOKED_free)
MEM_CLEANUP_FN(issue_keyid_freep, AUTHORITY_KEYID, AUTHORITY_KEYID_free)

static bool issue_crl_dates(X509_CRL *list, const struct issue_crl *crl)
{
    CLEANUP(issue_time_freep)
    ASN1_TIME *from = ASN1_TIME_set_posix(NULL, crl->now_s - ISSUE_BACKDATE_S);
    CLEANUP(issue_time_freep) ASN1_TIME *to = ASN1_TIME_set_posix(NULL, crl->now_s + crl->ttl_s);

    return from != NULL && to != NULL && X509_CRL_set1_lastUpdate(list, from) &&
           X509_CRL_set1_nextUpdate(list, to);
}

static bool issue_crl_add(X509_CRL *list, const struct issue_crl_entry *entry)
{
    CLEANUP(issue_revoked_freep) X509_REVOKED *revoked = X509_REVOKED_new();
    CLEANUP(issue_time_freep) ASN1_TIME *when = ASN1_TIME_set_posix(NULL, entry->revoked_at);
    CLEANUP(issue_integer_freep) ASN1_INTEGER *serial = NULL;
    CLEANUP(boring_bn_freep) BIGNUM *number = NULL;

    if (revoked == NULL || when == NULL || BN_hex2bn(&number, entry->serial) == 0)
        return false;
    serial = BN_to_ASN1_INTEGER(number, NULL);
    if (serial == NULL || !X509_REVOKED_set_serialNumber(revoked, serial) ||
        !X509_REVOKED_set_revocationDate(revoked, when) || !X509_CRL_add0_revoked(list, revoked))
        return false;
    revoked = NULL;
    return true;
}

static bool issue_crl_authority(X509_CRL *list, X509 *issuer)
{
    CLEANUP(issue_keyid_freep) AUTHORITY_KEYID *id = cert_authority_id(issuer);

    return id != NULL && X509_CRL_add1_ext_i2d(list, NID_authority_key_identifier, id, 0, 0) == 1;
}

static bool issue_crl_number(X509_CRL *list, uint64_t number)
{
    CLEANUP(issue_integer_freep) ASN1_INTEGER *value = ASN1_INTEGER_new();

    return value != NULL && ASN1_INTEGER_set_uint64(value, number) &&
           X509_CRL_add1_ext_i2d(list, NID_crl_number, value, 0, 0) == 1;
}

static bool issue_crl_fill(X509_CRL *list, const struct issuer *issuer, const struct issue_crl *crl)
{
    if (!X509_CRL_set_version(list, X509_CRL_VERSION_2) ||
        !X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer->cert)) ||
        !issue_crl_dates(list, crl))
        return false;
    for (size_t i = 0; i < crl->num; i++) {
        if (!issue_crl_add(list, &crl->entries[i]))
            return false;
    }
    return issue_crl_authority(list, issuer->cert) && issue_crl_number(list, crl->number) &&
           X509_CRL_sort(list);
}

err_t issue_crl(const struct issuer *issuer, const struct issue_crl *crl, struct buf *out)
{
    BORING_SCOPE;
    CLEANUP(issue_crl_freep) X509_CRL *list = X509_CRL_new();
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    int len;

    if (!err_is_ok(cert_check_time(issuer->cert, crl->now_s)) ||
        !X509_check_private_key(issuer->cert, issuer->key))
        return FAIL(CA_CANNOT_SIGN, 0);
    if (list == NULL || !issue_crl_fill(list, issuer, crl))
        return FAIL(NO_MEMORY, 0);
    if (!X509_CRL_sign(list, issuer->key, key_digest(issuer->key)))
        return FAIL(CA_CANNOT_SIGN, 0);
    len = i2d_X509_CRL(list, &der);
    if (len <= 0)
        return FAIL(NO_MEMORY, 0);
    return buf_add(out, der, (size_t)len);
}
