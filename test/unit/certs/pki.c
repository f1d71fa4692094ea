#include "test/unit/certs/pki.h"

#include <stdio.h>
#include <string.h>

#include "certs/key.h"
#include "lib/base/mem.h"

#define PKI_YEARS (INT64_C(5) * 365 * 86400)

static void pki_must(err_t err, const char *what)
{
    if (!err_is_ok(err))
        (void)fprintf(stderr, "%s: %s %d at %s\n", what, err_name(err.code), (int)err.sub,
                      err.where);
    CHECK(err_is_ok(err));
}

X509 *pki_x509(struct bytes der)
{
    const uint8_t *p = der.ptr;
    X509 *cert = d2i_X509(NULL, &p, (long)der.len);

    CHECK(cert != NULL);
    return cert;
}

static struct bytes pki_take(struct issued *issued)
{
    struct bytes der = bytes_of(issued->der, issued->der_len);

    issued->der = NULL;
    return der;
}

void pki_init(struct pki *pki)
{
    struct issued issued;

    *pki = (struct pki){0};
    pki_must(key_generate(&pki->root.key), "root key");
    pki_must(issue_root(PKI_DOMAIN, pki->root.key, PKI_NOW - PKI_YEARS, 2 * PKI_YEARS, &issued),
             "root");
    pki->root_der = pki_take(&issued);
    pki->root.cert = pki_x509(pki->root_der);
    pki_must(key_generate(&pki->intermediate.key), "intermediate key");
    pki_must(issue_intermediate(&pki->root, PKI_DOMAIN, pki->intermediate.key, PKI_NOW - 86400,
                                PKI_YEARS, &issued),
             "intermediate");
    pki->intermediate_der = pki_take(&issued);
    pki->intermediate.cert = pki_x509(pki->intermediate_der);
    pki_must(bundle_of_der(&pki->root_der, 1, PKI_DOMAIN, &pki->bundle), "bundle");
}

static void pki_issuer_fini(struct issuer *issuer)
{
    X509_free(issuer->cert);
    EVP_PKEY_free(issuer->key);
}

static void pki_bytes_free(struct bytes der)
{
    mem_free((void *)(uintptr_t)der.ptr);
}

void pki_fini(struct pki *pki)
{
    pki_issuer_fini(&pki->root);
    pki_issuer_fini(&pki->intermediate);
    pki_bytes_free(pki->root_der);
    pki_bytes_free(pki->intermediate_der);
    bundle_unref(pki->bundle);
}

struct svid *pki_svid(const struct pki *pki, const char *spiffe_id, const char *dns)
{
    const char *names[] = {dns, NULL};
    struct issue_leaf leaf = {
        .spiffe_id = spiffe_id, .dns_names = names, .now_s = PKI_NOW, .ttl_s = 86400};
    struct svid *svid = NULL;
    struct issued issued;
    EVP_PKEY *key = NULL;

    pki_must(key_generate(&key), "leaf key");
    leaf.public_key = key;
    pki_must(issue_leaf(&pki->intermediate, &leaf, &issued), "leaf");
    struct bytes chain[] = {bytes_of(issued.der, issued.der_len), pki->intermediate_der};
    pki_must(svid_of_der(chain, 2, key, pki->bundle, PKI_NOW, &svid), "svid");
    issued_fini(&issued);
    EVP_PKEY_free(key);
    return svid;
}

static char **pki_list(const char *const *names, size_t max, size_t *out_num)
{
    char **list = mem_array(max, sizeof(char *));

    *out_num = 0;
    while (*out_num < max && names[*out_num] != NULL) {
        list[*out_num] = mem_strdup(names[*out_num]);
        (*out_num)++;
    }
    return list;
}

static void pki_list_free(char **list, size_t num)
{
    for (size_t i = 0; i < num; i++)
        mem_free(list[i]);
    mem_free(list);
}

void pki_message(const struct pki_profile *in, Mortise__V1__TlsProfile *out)
{
    static char name_client[] = "client-test";
    static char name_server[] = "server-test";

    mortise__v1__tls_profile__init(out);
    out->name = in->server ? name_server : name_client;
    out->role = in->server ? MORTISE__V1__TLS_PROFILE__ROLE__SERVER
                           : MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    out->min_version = in->min;
    out->max_version = in->max;
    out->ignore_unavailable = in->ignore_unavailable;
    if (in->server_name != NULL)
        out->server_name = (char *)(uintptr_t)in->server_name; /* borrowed */
    out->send_sni = in->send_sni;
    out->allow_legacy = in->allow_legacy;
    out->insecure_skip_verify = in->skip_verify;
    out->renegotiation = in->renegotiation;
    out->client_auth = in->client_auth;
    out->handshake_timeout_ms = in->handshake_timeout_ms;
    out->idle_timeout_s = in->idle_timeout_s;
    out->cipher_suites = pki_list(in->suites, ARRAY_LEN(in->suites), &out->n_cipher_suites);
    out->groups = pki_list(in->groups, ARRAY_LEN(in->groups), &out->n_groups);
    out->signature_algorithms =
        pki_list(in->sigalgs, ARRAY_LEN(in->sigalgs), &out->n_signature_algorithms);
}

void pki_message_fini(Mortise__V1__TlsProfile *msg)
{
    pki_list_free(msg->cipher_suites, msg->n_cipher_suites);
    pki_list_free(msg->groups, msg->n_groups);
    pki_list_free(msg->signature_algorithms, msg->n_signature_algorithms);
}

struct tls_profile *pki_profile(const struct pki_profile *in)
{
    Mortise__V1__TlsProfile msg;
    struct fault_path path = {0};
    struct faults faults = {0};
    struct tls_profile *profile = NULL;

    pki_message(in, &msg);
    err_t err = tls_profile_compile(&msg, &path, &faults, &profile);
    if (faults.num > 0)
        (void)fprintf(stderr, "%s: %s\n", faults.items[0].path, faults.items[0].message);
    pki_must(err, "profile");
    pki_message_fini(&msg);
    return profile;
}

static uint64_t pki_clock_mono_ms(const struct clock *clock)
{
    return (uint64_t)((const struct pki_clock *)(const void *)clock)->now_s * 1000;
}

static int64_t pki_clock_wall_s(const struct clock *clock)
{
    return ((const struct pki_clock *)(const void *)clock)->now_s;
}

void pki_clock_init(struct pki_clock *clock, int64_t now_s)
{
    clock->clock = (struct clock){.mono_ms = pki_clock_mono_ms, .wall_s = pki_clock_wall_s};
    clock->now_s = now_s;
}
