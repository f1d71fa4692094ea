/* A pushed configuration, from its bytes to a snapshot: limits of the message, then the validator.
 * What is accepted must be whole, what is refused must say why, and nothing may be left behind.
 * Drives: R75, R10, R9. */
#include "proxy/discovery.h"

#include <string.h>

#include "lib/base/log.h"
#include "lib/rpc/pb.h"
#include "proxy/snapshot.h"
#include "test/unit/proxy/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct world fuzz_world;
static struct addr fuzz_listen;

static void fuzz_setup(void)
{
    if (fuzz_world.svid != NULL)
        return;
    CHECK(err_is_ok(log_set_spec("error", NULL)));
    CHECK(err_is_ok(addr_parse("0.0.0.0:15443", &fuzz_listen)));
    world_init(&fuzz_world);
}

/* Nothing half-made: every link has what a connection needs. */
static void fuzz_check_whole(const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        const struct link *link = &snapshot->outbound[i];

        CHECK(link->tls != NULL && link->listen.len != 0 && addr_is_loopback(&link->listen));
        CHECK(link->peers.num_spiffe_ids + link->peers.num_dns_names > 0);
        CHECK(link->server_name[0] != '\0' && link->name[0] != '\0');
        for (size_t j = 0; j < link->num_endpoints; j++)
            CHECK(link->endpoints[j].text[0] != '\0');
    }
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        const struct link *link = &snapshot->inbound[i];

        CHECK(link->target.len != 0 && addr_is_loopback(&link->target));
        CHECK(link->peers.num_spiffe_ids + link->peers.num_dns_names > 0);
        CHECK(snapshot_own_listener(snapshot, &link->target) == NULL);
    }
    CHECK((snapshot->num_inbound == 0) == (snapshot->server == NULL));
    CHECK((snapshot->num_inbound == 0) == (snapshot->inbound_listen.len == 0));
    for (size_t i = 0; i < snapshot->num_trust; i++)
        CHECK(snapshot->trust[i].bundle->num > 0);
    CHECK(snapshot->config->identity == NULL);
}

static err_t fuzz_apply(void *arg, const Mortise__V1__DiscoveryResponse *response,
                        struct faults *faults)
{
    struct snapshot **out = arg;
    const struct snapshot_input in = {
        .config = response->config,
        .svid = fuzz_world.svid,
        .roots = fuzz_world.roots,
        .inbound_listen = &fuzz_listen,
        .stats = fuzz_world.stats,
        .generation = 1,
        .version = response->version,
        .now_s = fuzz_world.now_s,
    };

    return snapshot_build(&in, faults, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct discovery_state state = {.version = 2};
    struct snapshot *snapshot = NULL;
    struct faults faults = {.num = 0};
    ProtobufCMessage *msg = NULL;
    struct discovery_answer answer;

    fuzz_setup();
    if (!err_is_ok(pb_unpack(&mortise__v1__discovery_response__descriptor, bytes_of(data, size),
                             DISCOVERY_MESSAGE_MAX, &msg)))
        return 0;
    answer = discovery_answer(&state, (const Mortise__V1__DiscoveryResponse *)(const void *)msg,
                              fuzz_apply, &snapshot, &faults);
    if (answer.code == NULL) {
        CHECK(snapshot != NULL && faults.total == 0 && state.version >= 2);
        fuzz_check_whole(snapshot);
        snapshot_unref(snapshot);
    } else {
        CHECK(snapshot == NULL && faults.total > 0 && state.version == 2);
        for (size_t i = 0; i < faults.num; i++)
            CHECK(faults.items[i].path[0] != '\0' && faults.items[i].message[0] != '\0');
    }
    faults_fini(&faults);
    pb_free(msg);
    return 0;
}
