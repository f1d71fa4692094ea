#include "certs/issue.h"

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

#define ISSUE_SERIAL_LEN 20
#define ISSUE_DNS_MAX 16 /* names of one leaf */
#define ISSUE_CA_TTL_MAX_S (INT64_C(30) * 365 * 86400)
#define ISSUE_ORGANIZATION "Mortise"

void issued_fini(struct issued *issued)
{
    mem_free(issued->der);
    *issued = (struct issued){0};
}

/* issue_add adds one extension and takes `value`, NULL when it could not be made. */
static bool issue_add(X509 *cert, int nid, bool critical, void *value, void (*release)(void *))
{
    bool done = value != NULL && X509_add1_ext_i2d(cert, nid, value, critical ? 1 : 0, 0) == 1;

    if (value != NULL)
        release(value);
    return done;
}

static void issue_free_basic(void *value)
{
    BASIC_CONSTRAINTS_free(value);
}

static void issue_free_bits(void *value)
{
    ASN1_BIT_STRING_free(value);
}

static void issue_free_octets(void *value)
{
    ASN1_OCTET_STRING_free(value);
}

static void issue_free_akid(void *value)
{
    AUTHORITY_KEYID_free(value);
}

static void issue_free_objects(void *value)
{
    sk_ASN1_OBJECT_pop_free(value, ASN1_OBJECT_free);
}

static void issue_free_names(void *value)
{
    GENERAL_NAMES_free(value);
}

static void issue_free_constraints(void *value)
{
    NAME_CONSTRAINTS_free(value);
}

/* issue_basic: CA or not; path_len below 0: none. */
static bool issue_basic(X509 *cert, bool ca, int path_len)
{
    BASIC_CONSTRAINTS *basic = BASIC_CONSTRAINTS_new();

    if (basic != NULL) {
        basic->ca = ca ? ASN1_BOOLEAN_TRUE : ASN1_BOOLEAN_FALSE;
        if (path_len >= 0) {
            basic->pathlen = ASN1_INTEGER_new();
            if (basic->pathlen == NULL ||
                !ASN1_INTEGER_set_uint64(basic->pathlen, (uint64_t)path_len)) {
                BASIC_CONSTRAINTS_free(basic);
                return false;
            }
        }
    }
    return issue_add(cert, NID_basic_constraints, true, basic, issue_free_basic);
}

/* Bits of KeyUsage (RFC 5280 section 4.2.1.3), bit 0 first. */
enum { ISSUE_KU_SIGN = 0, ISSUE_KU_CERT_SIGN = 5, ISSUE_KU_CRL_SIGN = 6 };

static bool issue_key_usage(X509 *cert, bool ca)
{
    ASN1_BIT_STRING *bits = ASN1_BIT_STRING_new();

    if (bits == NULL || (ca ? !ASN1_BIT_STRING_set_bit(bits, ISSUE_KU_CERT_SIGN, 1) ||
                                  !ASN1_BIT_STRING_set_bit(bits, ISSUE_KU_CRL_SIGN, 1)
                            : !ASN1_BIT_STRING_set_bit(bits, ISSUE_KU_SIGN, 1))) {
        ASN1_BIT_STRING_free(bits);
        return false;
    }
    return issue_add(cert, NID_key_usage, true, bits, issue_free_bits);
}

static bool issue_eku(X509 *cert)
{
    static const int nids[] = {NID_server_auth, NID_client_auth};
    STACK_OF(ASN1_OBJECT) *list = sk_ASN1_OBJECT_new_null();

    for (size_t i = 0; list != NULL && i < ARRAY_LEN(nids); i++) {
        ASN1_OBJECT *oid = OBJ_nid2obj(nids[i]); /* static: never freed */
        if (!sk_ASN1_OBJECT_push(list, oid)) {
            sk_ASN1_OBJECT_free(list);
            return false;
        }
    }
    return issue_add(cert, NID_ext_key_usage, false, list, issue_free_objects);
}

static bool issue_authority(X509 *cert, X509 *issuer)
{
    return issue_add(cert, NID_authority_key_identifier, false, cert_authority_id(issuer),
                     issue_free_akid);
}

/* issue_name makes a GeneralName of type GEN_URI or GEN_DNS. */
static GENERAL_NAME *issue_name(int type, const char *text, size_t len)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();

    if (name == NULL || value == NULL || !ASN1_STRING_set(value, text, (ossl_ssize_t)len)) {
        GENERAL_NAME_free(name);
        ASN1_IA5STRING_free(value);
        return NULL;
    }
    GENERAL_NAME_set0_value(name, type, value);
    return name;
}

static bool issue_push_name(GENERAL_NAMES *names, int type, const char *text)
{
    GENERAL_NAME *name = issue_name(type, text, strlen(text));

    if (name == NULL)
        return false;
    if (!sk_GENERAL_NAME_push(names, name)) {
        GENERAL_NAME_free(name);
        return false;
    }
    return true;
}

/* issue_sans: critical where the subject says nothing (RFC 5280 section 4.1.2.6), which is not
 * here. */
static bool issue_sans(X509 *cert, const char *uri, const char *const *dns)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool done = names != NULL && (uri == NULL || issue_push_name(names, GEN_URI, uri));

    for (; done && dns != NULL && *dns != NULL; dns++)
        done = issue_push_name(names, GEN_DNS, *dns);
    if (!done) {
        GENERAL_NAMES_free(names);
        return false;
    }
    return issue_add(cert, NID_subject_alt_name, false, names, issue_free_names);
}

/* issue_constraints permits URIs of the trust domain alone below this CA. The constraint of a URI
 * is on its host (RFC 5280 section 4.2.1.10), which a SPIFFE ID's trust domain is. */
static bool issue_constraints(X509 *cert, const char *trust_domain)
{
    NAME_CONSTRAINTS *constraints = NAME_CONSTRAINTS_new();
    GENERAL_SUBTREE *tree = GENERAL_SUBTREE_new();
    GENERAL_NAME *name = issue_name(GEN_URI, trust_domain, strlen(trust_domain));

    if (tree != NULL && name != NULL) {
        GENERAL_NAME_free(tree->base);
        tree->base = name;
        name = NULL;
    }
    GENERAL_NAME_free(name);
    if (constraints != NULL)
        constraints->permittedSubtrees = sk_GENERAL_SUBTREE_new_null();
    if (tree == NULL || tree->base == NULL || constraints == NULL ||
        constraints->permittedSubtrees == NULL ||
        !sk_GENERAL_SUBTREE_push(constraints->permittedSubtrees, tree)) {
        GENERAL_SUBTREE_free(tree);
        NAME_CONSTRAINTS_free(constraints);
        return false;
    }
    return issue_add(cert, NID_name_constraints, true, constraints, issue_free_constraints);
}

static bool issue_serial(X509 *cert)
{
    uint8_t raw[ISSUE_SERIAL_LEN];

    random_fill(raw, sizeof raw);
    raw[0] &= 0x7f; /* positive in 20 bytes */
    /* A first byte of zero would be left out of the DER; the whole being zero is not to be feared.
     */
    CLEANUP(boring_bn_freep) BIGNUM *number = BN_bin2bn(raw, sizeof raw, NULL);
    return number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
}

static bool issue_add_entry(X509_NAME *name, int nid, const char *text)
{
    return X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8, (const uint8_t *)text,
                                      (ossl_ssize_t)strlen(text), -1, 0) == 1;
}

/* issue_subject: O=Mortise, and for a CA a CN that differs from one key to the next, so that logs
 * and people can tell two generations apart. `kind` NULL: a leaf, whose name is in its SAN. */
static bool issue_subject(X509 *cert, const char *kind)
{
    X509_NAME *name = X509_get_subject_name(cert);

    if (!issue_add_entry(name, NID_organizationName, ISSUE_ORGANIZATION))
        return false;
    if (kind == NULL)
        return true;
    ASN1_OCTET_STRING *id = cert_key_id(cert);
    if (id == NULL)
        return false;
    char hex[2 * 4 + 1];
    bytes_to_hex(bytes_of(ASN1_STRING_get0_data(id), 4), hex);
    ASN1_OCTET_STRING_free(id);
    CLEANUP(mem_freep) char *text = mem_printf(ISSUE_ORGANIZATION " %s %s", kind, hex);
    return issue_add_entry(name, NID_commonName, text);
}

static bool issue_subject_key_id(X509 *cert)
{
    return issue_add(cert, NID_subject_key_identifier, false, cert_key_id(cert), issue_free_octets);
}

/* issue_begin makes what all have in common: version, serial, dates, key. */
static err_t issue_begin(EVP_PKEY *public_key, int64_t not_before, int64_t not_after, X509 **out)
{
    CLEANUP(boring_x509_freep) X509 *cert = X509_new();

    TRY(key_check_strength(public_key));
    if (cert == NULL || !X509_set_version(cert, X509_VERSION_3) || !issue_serial(cert) ||
        !ASN1_TIME_set_posix(X509_getm_notBefore(cert), not_before) ||
        !ASN1_TIME_set_posix(X509_getm_notAfter(cert), not_after) ||
        !X509_set_pubkey(cert, public_key))
        return FAIL(NO_MEMORY, 0);
    *out = cert;
    cert = NULL;
    return OK;
}

/* issue_finish signs and fills `out`. */
static err_t issue_finish(X509 *cert, EVP_PKEY *key, struct issued *out)
{
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    CLEANUP(mem_freep) char *serial = NULL;
    struct issued issued = {0};

    if (!X509_sign(cert, key, key_digest(key)))
        return FAIL(CA_CANNOT_SIGN, 0);
    int len = i2d_X509(cert, &der);
    if (len <= 0)
        return FAIL(NO_MEMORY, 0);
    TRY(cert_serial(cert, &serial));
    TRY(cert_times(cert, &issued.not_before, &issued.not_after));
    CHECK(strlen(serial) < sizeof issued.serial);
    memcpy(issued.serial, serial, strlen(serial) + 1);
    issued.der = mem_dup(der, (size_t)len);
    issued.der_len = (size_t)len;
    *out = issued;
    return OK;
}

static err_t issue_check_trust_domain(const char *trust_domain)
{
    return spiffe_trust_domain_valid(bytes_of_str(trust_domain)) ? OK : FAIL(SPIFFE_SYNTAX, 0);
}

/* A CA that says which trust domain it is of signs for no other. */
static err_t issue_check_trust_domain_of(X509 *ca, struct bytes trust_domain)
{
    struct cert_names names;
    struct spiffe_id id;

    if (trust_domain.len == 0 || !err_is_ok(cert_names_get(ca, &names)))
        return OK;
    bool foreign =
        names.uri[0] != '\0' && (!err_is_ok(spiffe_id_parse(bytes_of_str(names.uri), &id)) ||
                                 !bytes_equal(id.trust_domain, trust_domain));
    cert_names_fini(&names);
    return foreign ? FAIL(TRUST_DOMAIN, 0) : OK;
}

/* issue_check_issuer: it may sign at now_s, with that key, within that trust domain. `out_*` are
 * its dates. */
static err_t issue_check_issuer(const struct issuer *issuer, struct bytes trust_domain,
                                int64_t now_s, int64_t *out_not_before, int64_t *out_not_after)
{
    TRY(cert_times(issuer->cert, out_not_before, out_not_after));
    if (!err_is_ok(cert_check_time(issuer->cert, now_s)) ||
        !err_is_ok(cert_check_ca(issuer->cert)) ||
        !X509_check_private_key(issuer->cert, issuer->key))
        return FAIL(CA_CANNOT_SIGN, 0);
    return issue_check_trust_domain_of(issuer->cert, trust_domain);
}

static char *issue_trust_domain_uri(const char *trust_domain)
{
    return mem_printf("spiffe://%s", trust_domain);
}

err_t issue_root(const char *trust_domain, EVP_PKEY *key, int64_t now_s, int64_t ttl_s,
                 struct issued *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *cert = NULL;

    TRY(issue_check_trust_domain(trust_domain));
    if (ttl_s < ISSUE_TTL_MIN_S || ttl_s > ISSUE_CA_TTL_MAX_S)
        return FAIL(CONFIG_INVALID, 1);
    CLEANUP(mem_freep) char *uri = issue_trust_domain_uri(trust_domain);
    TRY(issue_begin(key, now_s - ISSUE_BACKDATE_S, now_s + ttl_s, &cert));
    if (!issue_subject(cert, "Root") || !X509_set_issuer_name(cert, X509_get_subject_name(cert)) ||
        !issue_basic(cert, true, -1) || !issue_key_usage(cert, true) ||
        !issue_subject_key_id(cert) || !issue_sans(cert, uri, NULL))
        return FAIL(NO_MEMORY, 0);
    return issue_finish(cert, key, out);
}

err_t issue_intermediate(const struct issuer *root, const char *trust_domain, EVP_PKEY *public_key,
                         int64_t now_s, int64_t ttl_s, struct issued *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    int64_t root_before = 0;
    int64_t root_after = 0;

    TRY(issue_check_trust_domain(trust_domain));
    if (ttl_s < ISSUE_TTL_MIN_S || ttl_s > ISSUE_CA_TTL_MAX_S)
        return FAIL(CONFIG_INVALID, 1);
    TRY(issue_check_issuer(root, bytes_of_str(trust_domain), now_s, &root_before, &root_after));
    int64_t before =
        now_s - ISSUE_BACKDATE_S > root_before ? now_s - ISSUE_BACKDATE_S : root_before;
    int64_t after = now_s + ttl_s < root_after ? now_s + ttl_s : root_after;
    CLEANUP(mem_freep) char *uri = issue_trust_domain_uri(trust_domain);
    TRY(issue_begin(public_key, before, after, &cert));
    if (!issue_subject(cert, "Issuing") ||
        !X509_set_issuer_name(cert, X509_get_subject_name(root->cert)) ||
        !issue_basic(cert, true, 0) || !issue_key_usage(cert, true) ||
        !issue_subject_key_id(cert) || !issue_authority(cert, root->cert) ||
        !issue_sans(cert, uri, NULL) || !issue_constraints(cert, trust_domain))
        return FAIL(NO_MEMORY, 0);
    return issue_finish(cert, root->key, out);
}

err_t issue_request(const char *trust_domain, EVP_PKEY *key, struct buf *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *like = NULL;
    CLEANUP(boring_req_freep) X509_REQ *req = X509_REQ_new();
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    CLEANUP(mem_freep) char *uri = issue_trust_domain_uri(trust_domain);

    TRY(issue_check_trust_domain(trust_domain));
    TRY(issue_begin(key, 0, 1, &like)); /* a request has no dates */
    if (!issue_subject(like, "Issuing") || !issue_basic(like, true, 0) ||
        !issue_key_usage(like, true) || !issue_sans(like, uri, NULL) ||
        !issue_constraints(like, trust_domain) || req == NULL ||
        !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !X509_REQ_set_subject_name(req, X509_get_subject_name(like)) ||
        !X509_REQ_set_pubkey(req, key) ||
        !X509_REQ_add_extensions(req, X509_get0_extensions(like)) ||
        !X509_REQ_sign(req, key, key_digest(key)))
        return FAIL(NO_MEMORY, 0);
    int len = i2d_X509_REQ(req, &der);
    if (len <= 0)
        return FAIL(NO_MEMORY, 0);
    return buf_add(out, der, (size_t)len);
}

err_t issue_cross(const struct issuer *root, X509 *other, const char *trust_domain, int64_t now_s,
                  struct issued *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    int64_t before = 0;
    int64_t after = 0;
    int64_t other_before = 0;
    int64_t other_after = 0;

    TRY(issue_check_trust_domain(trust_domain));
    TRY(issue_check_issuer(root, bytes_of_str(trust_domain), now_s, &before, &after));
    TRY(issue_check_trust_domain_of(other, bytes_of_str(trust_domain)));
    TRY(cert_times(other, &other_before, &other_after));
    if (other_before > before)
        before = other_before;
    if (other_after < after)
        after = other_after;
    CLEANUP(mem_freep) char *uri = issue_trust_domain_uri(trust_domain);
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(other);
    if (key == NULL)
        return FAIL(KEY_WEAK, 0); /* of no kind that we know */
    TRY(issue_begin(key, before, after, &cert));
    if (!X509_set_subject_name(cert, X509_get_subject_name(other)) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(root->cert)) ||
        !issue_basic(cert, true, -1) || !issue_key_usage(cert, true) ||
        !issue_subject_key_id(cert) || !issue_authority(cert, root->cert) ||
        !issue_sans(cert, uri, NULL) || !issue_constraints(cert, trust_domain))
        return FAIL(NO_MEMORY, 0);
    return issue_finish(cert, root->key, out);
}

/* issue_check_names: an ID with a path or DNS names or both; `out` is the ID's trust domain. */
static err_t issue_check_names(const struct issue_leaf *leaf, struct bytes *out_trust_domain)
{
    struct spiffe_id id;
    size_t num = 0;

    *out_trust_domain = bytes_of(NULL, 0);
    if (leaf->spiffe_id != NULL) {
        TRY(spiffe_id_parse(bytes_of_str(leaf->spiffe_id), &id));
        if (id.path.len == 0)
            return FAIL(SPIFFE_SYNTAX, id.text.len);
        *out_trust_domain = id.trust_domain;
    }
    for (const char *const *dns = leaf->dns_names; dns != NULL && *dns != NULL; dns++) {
        if (++num > ISSUE_DNS_MAX || !cert_dns_valid(bytes_of_str(*dns)))
            return FAIL(CONFIG_INVALID, num);
    }
    if (leaf->spiffe_id == NULL && num == 0)
        return FAIL(CONFIG_INVALID, 0);
    return OK;
}

err_t issue_leaf(const struct issuer *issuer, const struct issue_leaf *leaf, struct issued *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    struct bytes trust_domain;
    int64_t issuer_before = 0;
    int64_t issuer_after = 0;

    TRY(issue_check_names(leaf, &trust_domain));
    if (leaf->ttl_s < ISSUE_TTL_MIN_S || leaf->ttl_s > ISSUE_TTL_MAX_S)
        return FAIL(CONFIG_INVALID, 1);
    TRY(issue_check_issuer(issuer, trust_domain, leaf->now_s, &issuer_before, &issuer_after));
    int64_t before = leaf->now_s - ISSUE_BACKDATE_S;
    int64_t after = leaf->now_s + leaf->ttl_s;
    TRY(issue_begin(leaf->public_key, before > issuer_before ? before : issuer_before,
                    after < issuer_after ? after : issuer_after, &cert));
    if (!issue_subject(cert, NULL) ||
        !X509_set_issuer_name(cert, X509_get_subject_name(issuer->cert)) ||
        !issue_basic(cert, false, -1) || !issue_key_usage(cert, false) || !issue_eku(cert) ||
        !issue_subject_key_id(cert) || !issue_authority(cert, issuer->cert) ||
        !issue_sans(cert, leaf->spiffe_id, leaf->dns_names))
        return FAIL(NO_MEMORY, 0);
    return issue_finish(cert, issuer->key, out);
}
