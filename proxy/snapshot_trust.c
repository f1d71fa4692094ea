#include <string.h>

#include "certs/spiffe_id.h"
#include "proxy/snapshot_impl.h"

static const char *snapshot_store_name(const config_msg *config, size_t i)
{
    return config->truststores[i]->name;
}

/* The CAs that vouch for identities; NULL: none, or told. */
static struct bundle *snapshot_inside(struct snapshot_builder *b,
                                      const Mortise__V1__Truststore *msg, struct bytes file)
{
    const char *field = "pem";
    struct bytes pem = bytes_of_str(msg->pem);
    struct bundle *bundle = NULL;
    err_t err;

    if (b->in->ca_files != NULL && !snapshot_is_empty(msg->ca_file)) {
        if (file.ptr == NULL)
            return NULL; /* told by who read it */
        field = "ca_file";
        pem = file;
    } else if (snapshot_is_empty(msg->pem)) {
        if (b->in->roots != NULL)
            return bundle_ref(b->in->roots);
        FIELD_FAULT(b, field, "is missing, and the control plane sent no roots");
        return NULL;
    }
    err = bundle_of_pem(pem, msg->trust_domain[0] != '\0' ? msg->trust_domain : NULL, &bundle);
    if (!err_is_ok(err))
        FIELD_FAULT(b, field, "%s (%s%s)", err_text(err.code), err_name(err.code),
                    field[0] == 'c' ? ", in the file" : "");
    return bundle;
}

static void snapshot_build_bundle(struct snapshot_builder *b, const Mortise__V1__Truststore *msg,
                                  struct bytes file, struct snapshot_store *store)
{
    CLEANUP(bundle_unrefp) struct bundle *inside = NULL;
    bool has_inside = !snapshot_is_empty(msg->ca_file) || !snapshot_is_empty(msg->pem);
    err_t err;

    /* A control plane changes roots by rotating them; distrust of one it says by revoking its key.
     */
    store->own = b->in->ca_files != NULL;
    if (snapshot_is_empty(msg->outside_pem)) {
        store->bundle = snapshot_inside(b, msg, file);
        return;
    }
    if (has_inside)
        inside = snapshot_inside(b, msg, file);
    if (has_inside && inside == NULL)
        return;
    err = bundle_of_both(inside, bytes_of_str(msg->outside_pem), &store->bundle);
    if (!err_is_ok(err))
        FIELD_FAULT(b, "outside_pem", "%s (%s)", err_text(err.code), err_name(err.code));
}

/* The lists that the truststore of that name has now. */
static const struct crl_set *snapshot_crls_before(const struct snapshot *before, const char *name)
{
    for (size_t i = 0; before != NULL && i < before->num_trust; i++) {
        if (strcmp(before->trust[i].name, name) == 0)
            return before->trust[i].crls;
    }
    return NULL;
}

static void snapshot_crl_fault(struct snapshot_builder *b, const Mortise__V1__Truststore *msg,
                               size_t text, err_t err)
{
    size_t mark = b->path.len;
    bool file = text < msg->n_crl_files;

    (void)fault_path_field(&b->path, file ? "crl_files" : "crl_pem");
    if (file)
        (void)fault_path_index(&b->path, text);
    if (err_is(err, E_CRL_STALE) || err_is(err, E_CRL_NOT_YET_VALID))
        snapshot_fault(b, "%s (%s, by %d s)", err_text(err.code), err_name(err.code), err.sub);
    else
        snapshot_fault(b, "%s (%s)", err_text(err.code), err_name(err.code));
    fault_path_pop(&b->path, mark);
}

static void snapshot_build_crls(struct snapshot_builder *b, const Mortise__V1__Truststore *msg,
                                const struct snapshot_texts *files, struct snapshot_store *store)
{
    size_t num = msg->n_crl_files, at = 0;
    struct bytes *texts;
    err_t err;

    if (num > 0 && files == NULL) {
        FIELD_FAULT(b, "crl_files", "are for static mode only; here the lists are in crl_pem");
        return;
    }
    if (store->bundle == NULL || (num == 0 && snapshot_is_empty(msg->crl_pem)))
        return;
    if (num > 0 && files->num != num)
        return; /* too many, told by who did not read them */
    texts = mem_array(num + 1, sizeof(*texts));
    for (size_t i = 0; i < num; i++) {
        texts[i] = files->items[i];
        if (texts[i].ptr == NULL) { /* told by who read it */
            mem_free(texts);
            return;
        }
    }
    if (!snapshot_is_empty(msg->crl_pem))
        texts[num++] = bytes_of_str(msg->crl_pem);
    err = crl_set_of(texts, num, store->bundle, b->in->now_s,
                     snapshot_crls_before(b->in->before, msg->name), &store->crls, &at);
    mem_free(texts);
    if (!err_is_ok(err))
        snapshot_crl_fault(b, msg, at, err);
}

static void snapshot_build_store(struct snapshot_builder *b, size_t index)
{
    const Mortise__V1__Truststore *msg = b->in->config->truststores[index];
    struct snapshot_store *store = &b->stores[index];
    bool has_file = !snapshot_is_empty(msg->ca_file), has_pem = !snapshot_is_empty(msg->pem);

    store->name = msg->name;
    store->trust_domain = msg->trust_domain;
    snapshot_check_name(b, "truststore", msg->name, snapshot_store_name, index);
    if (!snapshot_is_empty(msg->trust_domain) &&
        !spiffe_trust_domain_valid(bytes_of_str(msg->trust_domain))) {
        FIELD_FAULT(b, "trust_domain",
                    "\"%s\" is not a trust domain: wanted are a-z, 0-9, '.', '-' and '_'",
                    msg->trust_domain);
        return;
    }
    if (has_file && has_pem) {
        FIELD_FAULT(b, "pem", "and ca_file are both given: one of the two");
        return;
    }
    if (has_file && b->in->ca_files == NULL) {
        FIELD_FAULT(b, "ca_file", "is for static mode only; here the certificates are in pem");
        return;
    }
    if (!has_file && !has_pem && snapshot_is_empty(msg->outside_pem) && b->in->ca_files != NULL) {
        FIELD_FAULT(b, "ca_file", "is missing: the file with the CA certificates (or pem)");
        return;
    }
    snapshot_build_bundle(
        b, msg, b->in->ca_files != NULL ? b->in->ca_files[index] : bytes_of(NULL, 0), store);
    snapshot_build_crls(b, msg, b->in->crl_files != NULL ? &b->in->crl_files[index] : NULL, store);
}

void snapshot_build_stores(struct snapshot_builder *b)
{
    size_t top = fault_path_field(&b->path, "truststores");

    b->num_stores = b->in->config->n_truststores;
    b->stores = mem_array(b->num_stores, sizeof(*b->stores));
    for (size_t i = 0; i < b->num_stores; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_build_store(b, i);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

/* The text of lists that have been parsed is of no more use, and may be long. */
static void snapshot_drop_crl_text(Mortise__V1__Truststore *msg)
{
    if (snapshot_is_empty(msg->crl_pem))
        return;
    mem_free(msg->crl_pem);
    msg->crl_pem = (char *)(uintptr_t)protobuf_c_empty_string;
}

void snapshot_keep_trust(struct snapshot_builder *b)
{
    struct snapshot *snapshot = b->snapshot;

    snapshot->num_trust = b->num_stores;
    snapshot->trust = mem_array(b->num_stores, sizeof(*snapshot->trust));
    for (size_t i = 0; i < b->num_stores; i++) {
        snapshot_drop_crl_text(snapshot->config->truststores[i]);
        snapshot->trust[i] = (struct trust){
            .name = snapshot->config->truststores[i]->name,
            .bundle = bundle_ref(b->stores[i].bundle),
            .crls = b->stores[i].crls != NULL ? crl_set_ref(b->stores[i].crls) : NULL};
    }
}

const struct snapshot_store *snapshot_find_store(struct snapshot_builder *b, const char *name,
                                                 struct link *link)
{
    char known[256];
    const char **names;

    for (size_t i = 0; i < b->num_stores; i++) {
        if (snapshot_is_empty(name) || strcmp(b->stores[i].name, name) != 0)
            continue;
        link->bundle = b->stores[i].bundle;
        link->own_trust = b->stores[i].own;
        link->crls = b->stores[i].crls;
        return &b->stores[i];
    }
    names = mem_array(b->num_stores, sizeof(*names));
    for (size_t i = 0; i < b->num_stores; i++)
        names[i] = b->stores[i].name;
    snapshot_known(names, b->num_stores, known, sizeof(known));
    mem_free(names);
    if (snapshot_is_empty(name))
        FIELD_FAULT(b, "truststore", "is missing; %s", known);
    else
        FIELD_FAULT(b, "truststore", "no truststore \"%s\"; %s", name, known);
    return NULL;
}

/* ---- our own identity ---- */

static err_t snapshot_verify_own(const struct svid *svid, const struct bundle *bundle,
                                 int64_t now_s)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    struct peer *peer = NULL;
    err_t err;

    CHECK(chain != NULL);
    for (size_t i = 0; i < svid->num_chain; i++)
        CHECK(sk_CRYPTO_BUFFER_push(chain, svid->chain[i]) != 0);
    err = verify_chain(chain, bundle, VERIFY_CLIENT_CERT, now_s, NULL, &peer);
    sk_CRYPTO_BUFFER_free(chain);
    if (err_is_ok(err))
        peer_unref(peer);
    return err;
}

/* A SPIFFE ID is vouched for by its own trust domain's CAs alone: where a truststore is those, our
 * certificate must lead to it. Without, every peer would refuse us, one after the other. */
void snapshot_check_identity(struct snapshot_builder *b)
{
    const struct svid *svid = b->in->svid;
    const struct snapshot_store *store = NULL;
    struct spiffe_id id;
    err_t err = OK;

    if (b->in->ca_files == NULL || svid == NULL || svid->spiffe_id[0] == '\0' ||
        !err_is_ok(spiffe_id_parse(bytes_of_str(svid->spiffe_id), &id)))
        return;
    for (size_t i = 0; i < b->num_stores; i++) {
        if (b->stores[i].bundle == NULL ||
            !bytes_equal_str(id.trust_domain, b->stores[i].trust_domain))
            continue;
        store = &b->stores[i];
        err = snapshot_verify_own(svid, store->bundle, b->in->now_s);
        if (err_is_ok(err))
            return;
    }
    if (store != NULL)
        faults_add(b->faults, "identity.cert_file",
                   "%s is of the trust domain of truststore \"%s\", but: %s (%s)", svid->spiffe_id,
                   store->name, err_text(err.code), err_name(err.code));
}

/* ---- keystores ---- */

static const char *snapshot_keystore_name(const config_msg *config, size_t i)
{
    return config->keystores[i]->name;
}

void snapshot_check_keystores(struct snapshot_builder *b)
{
    size_t top = fault_path_field(&b->path, "keystores");

    for (size_t i = 0; i < b->in->config->n_keystores; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_check_name(b, "keystore", b->in->config->keystores[i]->name,
                            snapshot_keystore_name, i);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

struct svid *snapshot_find_keystore(struct snapshot_builder *b, const char *name)
{
    const config_msg *config = b->in->config;
    const char **names;
    char known[256];

    if (snapshot_is_empty(name))
        return b->in->svid;
    for (size_t i = 0; i < config->n_keystores; i++) {
        if (strcmp(config->keystores[i]->name, name) == 0)
            return b->snapshot->keystores[i];
    }
    names = mem_array(config->n_keystores, sizeof(*names));
    for (size_t i = 0; i < config->n_keystores; i++)
        names[i] = config->keystores[i]->name;
    snapshot_known(names, config->n_keystores, known, sizeof(known));
    mem_free(names);
    FIELD_FAULT(b, "keystore", "no keystore \"%s\"; %s", name, known);
    return NULL;
}
