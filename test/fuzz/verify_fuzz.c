/* Certificate chains through the whole of verification, in both roles. The first byte says what
 * follows: 0, 1: chains as bytes: u16 length and DER of the anchor, then of each certificate sent;
 *   2, 3: the extensions of a leaf, which is then signed by a trusted root;
 *   4 and more: the extensions of an intermediate, likewise, above an ordinary leaf.
 * Signed here, because a fuzzer does not forge ECDSA: behind the signature is what the identity is
 * made of. The lowest bit is the role. Whatever is accepted must be an identity by the letter, and
 * the cache must be of the same opinion. Drives: R75, R5. */
#include "certs/verify.h"

#include <openssl/err.h>

#include "certs/boring.h"
#include "certs/spiffe_id.h"
#include "test/unit/certs/certgen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct certgen *verify_root;
static struct bundle *verify_bundle;

static void verify_setup(void)
{
    struct certgen_params params = {
        .ca = true, .subject = "root", .key = CERTGEN_P256_ROOT, .to_s = 864000};

    if (verify_root != NULL)
        return;
    verify_root = certgen_make(NULL, &params);
    struct bytes der = certgen_der(verify_root);
    CHECK(err_is_ok(bundle_of_der(&der, 1, NULL, &verify_bundle)));
}

/* What every accepted peer must be. An oracle of few words: the parser has its own. */
static void verify_check_peer(const struct peer *peer)
{
    struct spiffe_id id;

    CHECK(peer->not_after > CERTGEN_NOW && peer->not_before <= CERTGEN_NOW);
    CHECK(peer->spiffe_id[0] != '\0' || peer->dns_names[0] != NULL);
    if (peer->spiffe_id[0] != '\0') {
        CHECK(strlen(peer->spiffe_id) <= SPIFFE_ID_MAX);
        CHECK(strncmp(peer->spiffe_id, "spiffe://", 9) == 0);
        CHECK(strstr(peer->spiffe_id + 9, "//") == NULL && strstr(peer->spiffe_id, "/../") == NULL);
        CHECK(strpbrk(peer->spiffe_id, "%?#@*\\ ") == NULL);
        CHECK(err_is_ok(spiffe_id_parse(bytes_of_str(peer->spiffe_id), &id)) && id.path.len > 1);
    }
    for (char **name = peer->dns_names; *name != NULL; name++)
        CHECK((*name)[0] != '\0' && strchr(*name, '*') == NULL && strlen(*name) <= 253);
    CHECK(strlen(peer->serial) <= 40 && strlen(peer->issuer_cn) <= 64);
}

static void verify_run(const STACK_OF(CRYPTO_BUFFER) * chain, const struct bundle *bundle,
                       enum verify_role role)
{
    static struct verify_cache *kept; /* over all inputs: it knows issuers of leaves of before */
    struct verify_cache *cache = verify_cache_new(2);
    struct peer *peers[4] = {NULL, NULL, NULL, NULL};
    enum err_code codes[4];

    if (kept == NULL)
        kept = verify_cache_new(2);
    for (size_t i = 0; i < 4; i++) {
        err_t err = verify_chain(chain, bundle, role, CERTGEN_NOW,
                                 i == 0   ? NULL
                                 : i == 3 ? kept
                                          : cache,
                                 &peers[i]);
        codes[i] = err.code;
        CHECK(ERR_peek_error() == 0);
        CHECK(err_is_ok(err) == (peers[i] != NULL));
        if (err_is_ok(err))
            verify_check_peer(peers[i]);
        else
            CHECK(verify_alert(err) >= 40);
    }
    CHECK(codes[0] == codes[1] && codes[1] == codes[2] && codes[2] == codes[3]);
    CHECK(verify_cache_hits(cache) == (codes[0] == E_OK ? 1U : 0U));
    for (size_t i = 0; i < 4; i++)
        peer_unref(peers[i]);
    verify_cache_free(cache);
}

static void verify_push(STACK_OF(CRYPTO_BUFFER) * chain, struct bytes der)
{
    CHECK(sk_CRYPTO_BUFFER_push(chain, CRYPTO_BUFFER_new(der.ptr, der.len, NULL)));
}

/* verify_next takes one length-prefixed piece; false at the end. */
static bool verify_next(struct bytes *rest, struct bytes *out)
{
    if (rest->len < 2)
        return false;
    size_t len = (size_t)rest->ptr[0] << 8 | rest->ptr[1];
    if (len > rest->len - 2)
        len = rest->len - 2;
    *out = bytes_of(rest->ptr + 2, len);
    *rest = bytes_of(rest->ptr + 2 + len, rest->len - 2 - len);
    return true;
}

static void verify_bytes(struct bytes in, enum verify_role role)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    struct bundle *bundle = NULL;
    struct bytes piece;

    if (verify_next(&in, &piece)) {
        err_t err = bundle_of_der(&piece, 1, NULL, &bundle);
        CHECK(err_is_ok(err) == (bundle != NULL));
    }
    while (sk_CRYPTO_BUFFER_num(chain) < 8 && verify_next(&in, &piece)) {
        X509 *cert = NULL;
        struct cert_names names;
        char *serial = NULL;
        verify_push(chain, piece);
        /* Each certificate by itself too: signed or not, the parsers must stand it. */
        if (!err_is_ok(cert_parse_bytes(piece, &cert)))
            continue;
        if (err_is_ok(cert_names_get(cert, &names)))
            cert_names_fini(&names);
        if (err_is_ok(cert_serial(cert, &serial)))
            mem_free(serial);
        (void)err_is_ok(cert_check_key(cert));
        (void)err_is_ok(cert_check_leaf(cert));
        (void)err_is_ok(cert_check_ca(cert));
        mem_free(cert_issuer_cn(cert));
        X509_free(cert);
    }
    verify_setup();
    verify_run(chain, bundle != NULL ? bundle : verify_bundle, role);
    bundle_unref(bundle);
    sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
}

static void verify_extensions(struct bytes extensions, bool of_ca, enum verify_role role)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    struct certgen_params ca_params = {.ca = true, .key = CERTGEN_P256_CA, .to_s = 864000};
    struct certgen_params leaf_params = {0};
    struct certgen *ca = NULL;

    verify_setup();
    if (of_ca) {
        ca_params.raw_extensions = extensions;
        ca = certgen_make(verify_root, &ca_params);
    } else {
        leaf_params.raw_extensions = extensions;
    }
    struct certgen *leaf = certgen_make(ca != NULL ? ca : verify_root, &leaf_params);
    verify_push(chain, certgen_der(leaf));
    if (ca != NULL)
        verify_push(chain, certgen_der(ca));
    verify_run(chain, verify_bundle, role);
    certgen_free(leaf);
    certgen_free(ca);
    sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t empty[] = "";

    if (size == 0)
        return 0;
    enum verify_role role = (data[0] & 1) != 0 ? VERIFY_CLIENT_CERT : VERIFY_SERVER_CERT;
    struct bytes rest = bytes_of(size > 1 ? data + 1 : empty, size - 1);
    if (data[0] < 2)
        verify_bytes(rest, role);
    else
        verify_extensions(rest, data[0] >= 4, role);
    return 0;
}
