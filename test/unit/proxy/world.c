#include "test/unit/proxy/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define WORLD_LINKS                                                                     \
    "outbound:\n"                                                                       \
    "  - {name: portal-db, listen: '127.0.0.1:15101', endpoints: ['10.0.0.7:15443'],\n" \
    "     peers: {spiffe_ids: ['spiffe://mesh.test/ns/apim/sa/db']},\n"                 \
    "     profile: client, truststore: mesh}\n"                                         \
    "profiles:\n"                                                                       \
    "  - {name: client, role: CLIENT, min_version: TLS1_3}\n"                           \
    "  - {name: server, role: SERVER, min_version: TLS1_3}\n"
#define WORLD_INBOUND                                                             \
    "  links:\n"                                                                  \
    "    - {name: management-portal, target: '127.0.0.1:8080',\n"                 \
    "       peers: {spiffe_ids: ['spiffe://mesh.test/ns/apim/sa/management']},\n" \
    "       profile: server, truststore: mesh}\n"

const char world_good_static[] =
    "truststores: [{name: mesh, ca_file: root, trust_domain: mesh.test}]\n" WORLD_LINKS
    "inbound:\n  listen: '127.0.0.1:15443'\n" WORLD_INBOUND;
const char world_good_control[] =
    "truststores: [{name: mesh, trust_domain: mesh.test}]\n" WORLD_LINKS "inbound:\n" WORLD_INBOUND;

static void world_check(bool good, const char *what)
{
    if (good)
        return;
    (void)fprintf(stderr, "world: %s\n", what);
    abort();
}

void world_init(struct world *world)
{
    memset(world, 0, sizeof(*world));
    world->now_s = clock_wall_s(&clock_system);
    world->root = testca_new(&(struct testca_params){.name = "root"});
    world->leaf =
        testca_issue(world->root, &(struct testca_params){.uri_sans = TESTCA_LIST(WORLD_ID)});
    world->client = testca_issue(world->root,
                                 &(struct testca_params){.uri_sans = TESTCA_LIST(WORLD_CLIENT_ID)});
    world_check(err_is_ok(svid_of_pem(bytes_of_str(world->leaf->cert_pem),
                                      bytes_of_str(world->leaf->key_pem), NULL, world->now_s,
                                      &world->svid)),
                "svid");
    world_check(
        err_is_ok(bundle_of_pem(bytes_of_str(world->root->cert_pem), WORLD_DOMAIN, &world->roots)),
        "roots");
    world->stats = stats_new();
}

void world_fini(struct world *world)
{
    faults_fini(&world->faults);
    stats_free(world->stats);
    bundle_unref(world->roots);
    svid_unref(world->svid);
    testca_free(world->client);
    testca_free(world->leaf);
    testca_free(world->root);
}

Mortise__V1__SidecarConfig *world_config(const char *yaml)
{
    struct faults faults = {.num = 0};
    ProtobufCMessage *msg = NULL;
    err_t err = json_pb_parse(JSON_PB_YAML, "test.yaml", bytes_of_str(yaml),
                              &mortise__v1__sidecar_config__descriptor, &faults, &msg);

    for (size_t i = 0; i < faults.num; i++)
        (void)fprintf(stderr, "%s: %s\n", faults.items[i].path, faults.items[i].message);
    world_check(err_is_ok(err), "YAML");
    return (Mortise__V1__SidecarConfig *)msg;
}

struct snapshot *world_build(struct world *world, const char *yaml, bool control)
{
    Mortise__V1__SidecarConfig *config = world_config(yaml);
    struct bytes *files = mem_array(config->n_truststores, sizeof(*files));
    struct snapshot *snapshot = NULL;
    struct addr inbound;
    struct snapshot_input in = {
        .config = config,
        .svid = world->svid,
        .stats = world->stats,
        .generation = 7,
        .version = control ? 42 : 0,
        .now_s = world->now_s,
    };

    world_check(err_is_ok(addr_parse("0.0.0.0:15443", &inbound)), "address");
    for (size_t i = 0; i < config->n_truststores; i++) {
        if (strcmp(config->truststores[i]->ca_file, "root") == 0)
            files[i] = bytes_of_str(world->root->cert_pem);
        else if (strcmp(config->truststores[i]->ca_file, "rubbish") == 0)
            files[i] = bytes_of_str("not PEM");
    }
    if (control) {
        in.roots = world->roots;
        in.inbound_listen = &inbound;
    } else {
        in.ca_files = files;
    }
    faults_fini(&world->faults);
    memset(&world->faults, 0, sizeof(world->faults));
    if (!err_is_ok(snapshot_build(&in, &world->faults, &snapshot)))
        snapshot = NULL;
    mem_free(files);
    pb_free(&config->base);
    return snapshot;
}

bool world_has_fault(const struct world *world, const char *path, const char *text)
{
    for (size_t i = 0; i < world->faults.num; i++) {
        if (strcmp(world->faults.items[i].path, path) == 0 &&
            strstr(world->faults.items[i].message, text) != NULL)
            return true;
    }
    for (size_t i = 0; i < world->faults.num; i++)
        (void)fprintf(stderr, "there is: %s: %s\n", world->faults.items[i].path,
                      world->faults.items[i].message);
    return false;
}
