#include "proxy/snapshot.h"

#include "lib/rpc/pb.h"
#include "proxy/snapshot_impl.h"

static void snapshot_builder_fini(struct snapshot_builder *b)
{
    for (size_t i = 0; i < b->num_clients; i++)
        tls_ctx_unref(b->clients[i].tls);
    for (size_t i = 0; i < b->num_stores; i++) {
        if (b->stores[i].bundle != NULL)
            bundle_unref(b->stores[i].bundle);
        crl_set_unref(b->stores[i].crls);
    }
    for (size_t i = 0; i < b->num_profiles; i++) {
        if (b->profiles[i].profile != NULL)
            tls_profile_unref(b->profiles[i].profile);
    }
    for (size_t i = 0; i < b->num_builtin; i++)
        mortise__v1__tls_profile__free_unpacked(b->builtin[i], NULL);
    mem_free(b->clients);
    mem_free(b->stores);
    mem_free(b->profiles);
    if (b->snapshot != NULL)
        snapshot_unref(b->snapshot);
}

static void snapshot_link_stats(struct stats *stats, struct link *links, size_t num)
{
    for (size_t i = 0; i < num && stats != NULL; i++) {
        stats_link_init(stats, links[i].direction, links[i].name, &links[i].stats);
        for (unsigned weak = 0; weak < WEAK_NUM; weak++) {
            if ((links[i].can_be_weak & 1U << weak) != 0)
                stats_weak(stats, links[i].direction, links[i].name, (enum weak)weak, 0);
        }
    }
}

err_t snapshot_build(const struct snapshot_input *in, struct faults *faults, struct snapshot **out)
{
    CLEANUP(snapshot_builder_fini) struct snapshot_builder b = {.in = in, .faults = faults};
    struct snapshot *snapshot = mem_zalloc(sizeof(*snapshot));
    err_t err;

    refs_init(&snapshot->refs);
    b.snapshot = snapshot;
    snapshot->generation = in->generation;
    snapshot->version = in->version;
    snapshot->since = in->now_s;
    snapshot->tunables = in->tunables;
    snapshot->config = (config_msg *)pb_clone(&in->config->base);
    if (in->svid != NULL)
        snapshot->svid = svid_ref(in->svid);

    snapshot->keystores = mem_array(in->config->n_keystores, sizeof(*snapshot->keystores));
    snapshot->num_keystores = in->config->n_keystores;
    for (size_t i = 0; in->keystores != NULL && i < in->config->n_keystores; i++)
        snapshot->keystores[i] = in->keystores[i] != NULL ? svid_ref(in->keystores[i]) : NULL;

    if (in->ca_files == NULL && in->config->identity != NULL)
        faults_add(faults, "identity", "is for static mode only: the sidecar makes its own key");
    snapshot->log_permille = snapshot_log_permille(&b, in->config->access_log_permille);
    snapshot_build_stores(&b);
    snapshot_check_identity(&b);
    snapshot_check_keystores(&b);
    snapshot_build_profiles(&b);
    snapshot_build_outbounds(&b);
    snapshot_build_routes(&b);
    snapshot_build_inbounds(&b);
    snapshot_check_policies(&b);
    err = revoke_set_new(in->config->revocations, in->config->n_revocations, faults,
                         &snapshot->revoked);
    TRY(faults_err(faults));
    TRY(err);
    if (in->svid == NULL) {
        *out = NULL;
        return OK;
    }

    if (snapshot->config->n_policies > 0)
        snapshot->policies =
            policy_set_new(snapshot->config->policies, snapshot->config->n_policies);
    snapshot_keep_trust(&b);
    snapshot_link_stats(in->stats, snapshot->outbound, snapshot->num_outbound);
    snapshot_link_stats(in->stats, snapshot->inbound, snapshot->num_inbound);
    *out = snapshot;
    b.snapshot = NULL; /* the caller's now */
    return OK;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    refs_take(&snapshot->refs);
    return snapshot;
}

static void snapshot_free_links(struct link *links, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (links[i].tls != NULL)
            tls_ctx_unref(links[i].tls);
        mem_free(links[i].endpoints);
        mem_free(links[i].server_name);
        mem_free(links[i].profile);
        mem_free(links[i].weak);
    }
    mem_free(links);
}

void snapshot_unref(struct snapshot *snapshot)
{
    if (!refs_drop(&snapshot->refs))
        return;
    mem_free(snapshot->routes);
    mem_free(snapshot->endpoints);
    snapshot_free_links(snapshot->outbound, snapshot->num_outbound);
    snapshot_free_links(snapshot->inbound, snapshot->num_inbound);
    for (size_t i = 0; i < snapshot->num_trust; i++) {
        bundle_unref(snapshot->trust[i].bundle);
        crl_set_unref(snapshot->trust[i].crls);
    }
    mem_free(snapshot->trust);
    revoke_set_free(snapshot->revoked);
    policy_set_free(snapshot->policies);
    if (snapshot->server != NULL)
        tls_ctx_unref(snapshot->server);
    for (size_t i = 0; i < snapshot->num_keystores; i++)
        svid_unref(snapshot->keystores[i]);
    mem_free(snapshot->keystores);
    if (snapshot->svid != NULL)
        svid_unref(snapshot->svid);
    pb_free(&snapshot->config->base);
    mem_free(snapshot);
}
