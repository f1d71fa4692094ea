#include "control/weaker_trust.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/sha.h>
#include <openssl/x509.h>

#include "certs/cert.h"
#include "certs/pem.h"
#include "control/mesh.h"
#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define WEAKER_TOLD_MAX 3 /* of several; the rest is a number */

struct weaker_ca {
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    char *subject; /* owned */
};

/* In the order of their hashes. */
struct weaker_cas {
    struct weaker_ca *items;
    size_t num;
    bool read;
};

void weaker_trusts_open(const Mortise__V1__Mesh *mesh, struct weaker_trusts *out)
{
    *out = (struct weaker_trusts){.mesh = mesh};
    out->cas = mem_array(mesh->n_truststores, sizeof(*out->cas));
    for (size_t i = 0; i < mesh->n_truststores; i++)
        (void)map_put(&out->by_name, mesh->truststores[i]->name, (void *)(uintptr_t)(i + 1));
}

void weaker_trusts_close(struct weaker_trusts *trusts)
{
    for (size_t i = 0; i < trusts->mesh->n_truststores; i++) {
        for (size_t j = 0; j < trusts->cas[i].num; j++)
            mem_free(trusts->cas[i].items[j].subject);
        mem_free(trusts->cas[i].items);
    }
    mem_free(trusts->cas);
    map_fini(&trusts->by_name);
}

/* Its place plus one; 0: the mesh's own CAs alone. */
static size_t weaker_trust_index(const struct weaker_trusts *trusts,
                                 const Mortise__V1__TlsProfile *profile)
{
    return (uintptr_t)map_get(&trusts->by_name, profile->truststore);
}

static const Mortise__V1__MeshTruststore *weaker_trust_of(const struct weaker_trusts *trusts,
                                                          const Mortise__V1__TlsProfile *profile)
{
    size_t index = weaker_trust_index(trusts, profile);

    return index > 0 ? trusts->mesh->truststores[index - 1] : NULL;
}

/* ---- what a truststore has ---- */

static int weaker_ca_order(const void *a, const void *b)
{
    return memcmp(((const struct weaker_ca *)a)->sha256, ((const struct weaker_ca *)b)->sha256,
                  SHA256_DIGEST_LENGTH);
}

static void weaker_cas_add(struct weaker_cas *cas, const struct pem_block *block)
{
    struct weaker_ca *ca = &cas->items[cas->num];
    X509 *cert = NULL;

    if (!err_is_ok(cert_parse_bytes(bytes_of(block->der, block->der_len), &cert)))
        return;
    SHA256(block->der, block->der_len, ca->sha256);
    ca->subject = cert_subject(cert);
    X509_free(cert);
    cas->num++;
}

/* The mesh is checked: what cannot be read is not there. */
static void weaker_cas_read(const Mortise__V1__MeshTruststore *store, struct weaker_cas *out)
{
    for (size_t i = 0; i < store->n_pem; i++) {
        struct weaker_ca *wider;
        struct pem pem;

        if (!err_is_ok(pem_parse(bytes_of_str(store->pem[i]), &pem)))
            continue;
        wider = mem_array(out->num + pem.num, sizeof(*wider));
        if (out->num > 0)
            memcpy(wider, out->items, out->num * sizeof(*wider));
        mem_free(out->items);
        out->items = wider;
        for (size_t j = 0; j < pem.num; j++)
            weaker_cas_add(out, &pem.blocks[j]);
        pem_fini(&pem);
    }
    if (out->num > 1)
        qsort(out->items, out->num, sizeof(*out->items), weaker_ca_order);
    out->read = true;
}

static const struct weaker_cas *weaker_cas_of(struct weaker_trusts *trusts,
                                              const Mortise__V1__TlsProfile *profile)
{
    static const struct weaker_cas none = {.read = true};
    size_t index = weaker_trust_index(trusts, profile);

    if (index == 0)
        return &none;
    if (!trusts->cas[index - 1].read)
        weaker_cas_read(trusts->mesh->truststores[index - 1], &trusts->cas[index - 1]);
    return &trusts->cas[index - 1];
}

/* ---- what there is more of ---- */

struct weaker_more {
    struct buf text;
    size_t num;
};

static void weaker_more_add(struct weaker_more *more, const char *name, const char *detail)
{
    err_t err = OK;

    if (more->num++ < WEAKER_TOLD_MAX)
        err = buf_printf(&more->text, "%s%s%s", more->num > 1 ? ", " : "", name, detail);
    CHECK(err_is_ok(err));
}

/* Nothing is told of nothing. */
static void weaker_more_tell(struct weaker_more *more, const char *what, const char *end,
                             const char *says, const char *path, struct faults *out)
{
    CLEANUP(mem_freep) char *text = buf_take_str(&more->text);

    if (more->num > WEAKER_TOLD_MAX)
        faults_add(out, path, "%s of the %s profile: %s %s and %zu more", what, end, says, text,
                   more->num - WEAKER_TOLD_MAX);
    else if (more->num > 0)
        faults_add(out, path, "%s of the %s profile: %s %s", what, end, says, text);
}

static void weaker_more_cas(const struct weaker_cas *before, const struct weaker_cas *after,
                            struct weaker_more *more)
{
    size_t at = 0;

    for (size_t i = 0; i < after->num; i++) {
        const struct weaker_ca *ca = &after->items[i];
        char detail[32];

        while (at < before->num && weaker_ca_order(&before->items[at], ca) < 0)
            at++;
        if (at < before->num && weaker_ca_order(&before->items[at], ca) == 0)
            continue;
        if (i > 0 && weaker_ca_order(&after->items[i - 1], ca) == 0)
            continue; /* twice in the same store */
        (void)snprintf(detail, sizeof(detail), " (sha256 %02x%02x%02x%02x…)", ca->sha256[0],
                       ca->sha256[1], ca->sha256[2], ca->sha256[3]);
        weaker_more_add(more, ca->subject, detail);
    }
}

static bool weaker_has_name(const Mortise__V1__TlsProfile *profile, const char *name)
{
    for (size_t i = 0; i < profile->n_peer_names; i++) {
        if (strcasecmp(profile->peer_names[i], name) == 0)
            return true;
    }
    return false;
}

bool weaker_trust_is_same(const struct weaker_trusts *before, const Mortise__V1__TlsProfile *was,
                          const struct weaker_trusts *after, const Mortise__V1__TlsProfile *now)
{
    const Mortise__V1__MeshTruststore *old = weaker_trust_of(before, was);
    const Mortise__V1__MeshTruststore *new = weaker_trust_of(after, now);

    if (old == NULL || new == NULL)
        return old == new;
    return pb_equal(&was->base, &now->base) && pb_equal(&old->base, &new->base);
}

void weaker_trust_judge(struct weaker_trusts *before, const Mortise__V1__TlsProfile *was,
                        struct weaker_trusts *after, const Mortise__V1__TlsProfile *now,
                        const char *end, const char *path, struct faults *out)
{
    const Mortise__V1__MeshTruststore *old = weaker_trust_of(before, was);
    const Mortise__V1__MeshTruststore *new = weaker_trust_of(after, now);
    struct weaker_more cas = {.num = 0}, names = {.num = 0};

    if (weaker_trust_is_same(before, was, after, now))
        return;
    if (mesh_trusts_mesh(new) && !mesh_trusts_mesh(old))
        weaker_more_add(&cas, "the mesh's own CAs", "");
    weaker_more_cas(weaker_cas_of(before, was), weaker_cas_of(after, now), &cas);
    /* Names of a profile that had no CA of others let nobody in: its CA is what is told. */
    for (size_t i = 0; i < now->n_peer_names && mesh_trusts_others(old); i++) {
        if (mesh_trusts_others(new) && !weaker_has_name(was, now->peer_names[i]))
            weaker_more_add(&names, now->peer_names[i], "");
    }
    weaker_more_tell(&cas, "truststore", end, "peers are vouched for also by", path, out);
    weaker_more_tell(&names, "peer_names", end, "peers may be called also", path, out);
}
