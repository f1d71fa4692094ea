#include "certs/issuing.h"

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/issue.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "certs/svid.h"

/* A certificate's faults: `who` is "issuer" or "root". */
struct issuing_who {
    const char *who;
    X509 *cert;
    struct faults *faults;
};

static void issuing_tell(const struct issuing_who *who, const char *field, const char *text)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s.%s", who->who, field);

    faults_add(who->faults, path, "%s", text);
}

static void issuing_check_dates(const struct issuing_who *who, int64_t now_s)
{
    int64_t before = 0, after = 0;

    if (!err_is_ok(cert_times(who->cert, &before, &after)))
        issuing_tell(who, "validity", "cannot be read");
    else if (before > now_s)
        issuing_tell(who, "notBefore", "is in the future");
    else if (after <= now_s)
        issuing_tell(who, "notAfter", "has passed");
    else if (after < now_s + ISSUING_LEFT_MIN_S)
        issuing_tell(who, "notAfter", "is in less than an hour");
}

static void issuing_check_usage(const struct issuing_who *who, uint32_t wanted, const char *text)
{
    /* Without the extension all bits are set. */
    if (X509_get_ext_by_NID(who->cert, NID_key_usage, -1) < 0)
        issuing_tell(who, "keyUsage", "is missing");
    else if ((X509_get_key_usage(who->cert) & wanted) != wanted)
        issuing_tell(who, "keyUsage", text);
}

static bool issuing_is_ca(const struct issuing_who *who)
{
    if ((X509_get_extension_flags(who->cert) & EXFLAG_CA) != 0)
        return true;
    issuing_tell(who, "basicConstraints", "CA:TRUE is missing");
    return false;
}

static void issuing_check_eku(const struct issuing_who *who)
{
    if (!cert_has_eku(who->cert, XKU_SSL_SERVER | XKU_SSL_CLIENT))
        issuing_tell(who, "extendedKeyUsage",
                     "where it is there it must have serverAuth and clientAuth: certificates below "
                     "it are for both");
}

/* A CA that says which trust domain it is of, says this one. */
static void issuing_check_names(const struct issuing_who *who, const char *trust_domain)
{
    struct cert_names names;
    struct spiffe_id id;

    if (!err_is_ok(cert_names_get(who->cert, &names)))
        return;
    if (names.uri[0] != '\0' && (!err_is_ok(spiffe_id_parse(bytes_of_str(names.uri), &id)) ||
                                 !bytes_equal_str(id.trust_domain, trust_domain)))
        issuing_tell(who, "subjectAltName", "names another trust domain");
    cert_names_fini(&names);
}

static void issuing_constraints_freep(NAME_CONSTRAINTS **constraints)
{
    NAME_CONSTRAINTS_free(*constraints);
}

static bool issuing_is_domain(const GENERAL_SUBTREE *tree, const char *trust_domain)
{
    int type = 0;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(tree->base, &type);

    return type == GEN_URI && bytes_equal_str(bytes_of(ASN1_STRING_get0_data(value),
                                                       (size_t)ASN1_STRING_length(value)),
                                              trust_domain);
}

/* Just the trust domain, for URIs; what is said of other kinds of names is not ours to judge. */
static bool issuing_permits(const NAME_CONSTRAINTS *constraints, const char *trust_domain)
{
    size_t num = constraints->permittedSubtrees != NULL
                     ? sk_GENERAL_SUBTREE_num(constraints->permittedSubtrees)
                     : 0;
    bool permits = false;

    for (size_t i = 0; i < num; i++) {
        const GENERAL_SUBTREE *tree = sk_GENERAL_SUBTREE_value(constraints->permittedSubtrees, i);

        if (tree->base->type != GEN_URI)
            continue;
        if (!issuing_is_domain(tree, trust_domain))
            return false;
        permits = true;
    }
    return permits;
}

static void issuing_check_constraints(const struct issuing_who *who, const char *trust_domain)
{
    int critical = -1;
    CLEANUP(issuing_constraints_freep)
    NAME_CONSTRAINTS *constraints =
        X509_get_ext_d2i(who->cert, NID_name_constraints, &critical, NULL);

    if (constraints == NULL)
        issuing_tell(who, "nameConstraints",
                     critical == -1 ? "is missing: it has to permit URIs of the trust domain alone"
                                    : "cannot be read");
    else if (!issuing_permits(constraints, trust_domain))
        issuing_tell(who, "nameConstraints",
                     "has to permit URIs of this mesh's trust domain, and of no other");
    else if (critical != 1)
        issuing_tell(who, "nameConstraints", "is not critical");
}

static void issuing_check_key(const struct issuing *what, const struct issuing_who *who)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(what->cert);
    uint8_t have[32], want[32];

    if (key == NULL || !err_is_ok(key_spki_sha256(key, have)) ||
        !err_is_ok(key_spki_sha256(what->key, want)) || memcmp(have, want, sizeof(have)) != 0)
        issuing_tell(who, "subjectPublicKey",
                     "is not the key of the pending request (mortisectl ca csr shows it)");
}

static void issuing_check_cert(const struct issuing *what, const struct issuing_who *who)
{
    issuing_check_key(what, who);
    if (issuing_is_ca(who) && X509_get_pathlen(who->cert) != 0)
        issuing_tell(who, "basicConstraints",
                     "pathlen:0 is missing: it signs certificates of sidecars, no other CA's");
    issuing_check_usage(who, X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN,
                        "must have keyCertSign and cRLSign");
    issuing_check_eku(who);
    issuing_check_constraints(who, what->trust_domain);
    issuing_check_names(who, what->trust_domain);
    issuing_check_dates(who, what->now_s);
    if (X509_NAME_entry_count(X509_get_subject_name(who->cert)) == 0)
        issuing_tell(who, "subject", "is empty");
    if (!err_is_ok(cert_check_serial(who->cert)))
        issuing_tell(who, "serialNumber", "must be above 0, in at most 20 bytes");
    if (!err_is_ok(cert_check_signature(who->cert)))
        issuing_tell(who, "signatureAlgorithm", "must be ECDSA or RSA with SHA-256 or longer");
}

static bool issuing_signed_by(X509 *cert, X509 *by)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(by);

    return key != NULL && X509_verify(cert, key) == 1;
}

static bool issuing_named_by(X509 *cert, X509 *by)
{
    return X509_NAME_cmp(X509_get_issuer_name(cert), X509_get_subject_name(by)) == 0;
}

static void issuing_check_root(const struct issuing *what, const struct issuing_who *who)
{
    if (!issuing_named_by(who->cert, who->cert) || !issuing_signed_by(who->cert, who->cert))
        issuing_tell(who, "issuer",
                     "is another: give the root itself, which is signed by its own key");
    if (issuing_is_ca(who) && X509_get_pathlen(who->cert) == 0)
        issuing_tell(who, "basicConstraints", "pathlen:0 permits no issuing certificate below it");
    if (!err_is_ok(cert_check_ca(who->cert)) &&
        (X509_get_extension_flags(who->cert) & EXFLAG_CA) != 0)
        issuing_tell(who, "keyUsage", "must have keyCertSign");
    if (!err_is_ok(cert_check_key(who->cert)))
        issuing_tell(who, "subjectPublicKey", "must be P-256, P-384, or RSA of 2048 to 8192 bits");
    issuing_check_eku(who);
    issuing_check_names(who, what->trust_domain);
    issuing_check_dates(who, what->now_s);
}

/* All that no rule above has named: a certificate is made, and judged as a sidecar judges its own.
 */
static err_t issuing_try(const struct issuing *what)
{
    CLEANUP(mem_freep) char *id = spiffe_id_of_control(what->trust_domain);
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *cert = NULL;
    CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *root = NULL;
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;
    CLEANUP(issued_fini) struct issued leaf = {0};
    const struct issuer issuer = {.cert = what->cert, .key = what->key};
    struct bytes chain[2];

    TRY(key_generate(&key));
    TRY(issue_leaf(&issuer,
                   &(struct issue_leaf){
                       .spiffe_id = id,
                       .public_key = key,
                       .now_s = what->now_s,
                       .ttl_s = ISSUING_LEFT_MIN_S,
                   },
                   &leaf));
    TRY(cert_der(what->cert, &cert));
    TRY(cert_der(what->root, &root));
    chain[0] = bytes_of(CRYPTO_BUFFER_data(root), CRYPTO_BUFFER_len(root));
    TRY(bundle_of_der(chain, 1, what->trust_domain, &roots));
    chain[0] = bytes_of(leaf.der, leaf.der_len);
    chain[1] = bytes_of(CRYPTO_BUFFER_data(cert), CRYPTO_BUFFER_len(cert));
    return svid_of_der(chain, 2, key, roots, what->now_s, &svid);
}

err_t issuing_check(const struct issuing *what, struct faults *faults)
{
    BORING_SCOPE;
    const struct issuing_who cert = {"issuer", what->cert, faults};
    const struct issuing_who root = {"root", what->root, faults};
    size_t before = faults->total;
    err_t err;

    issuing_check_cert(what, &cert);
    issuing_check_root(what, &root);
    if (!issuing_named_by(what->cert, what->root))
        issuing_tell(&cert, "issuer", "is not the root's name: another root has signed it");
    else if (!issuing_signed_by(what->cert, what->root))
        issuing_tell(&cert, "signature", "is not of the root's key");
    if (faults->total > before)
        return FAIL(CONFIG_INVALID, faults->total - before);
    err = issuing_try(what);
    if (err_is_ok(err))
        return OK;
    faults_add(faults, "issuer", "a certificate made under it would be refused: %s (%s)",
               err_text(err.code), err_name(err.code));
    return FAIL(CONFIG_INVALID, 1);
}
