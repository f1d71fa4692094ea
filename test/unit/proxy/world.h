/* world: what tests of snapshots need: a CA, certificates, configurations from YAML text. */
#ifndef MORTISE_TEST_UNIT_PROXY_WORLD_H
#define MORTISE_TEST_UNIT_PROXY_WORLD_H

#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "proxy/snapshot.h"
#include "test/testlib/testca.h"

#define WORLD_DOMAIN "mesh.test"
#define WORLD_ID "spiffe://mesh.test/ns/apim/sa/portal"
#define WORLD_CLIENT_ID "spiffe://mesh.test/ns/apim/sa/management"

struct world {
    struct testca *root;
    struct testca *leaf;   /* WORLD_ID */
    struct testca *client; /* WORLD_CLIENT_ID */
    struct svid *svid;     /* of leaf */
    struct bundle *roots;
    struct stats *stats;
    struct faults faults; /* of the last world_build */
    int64_t now_s;
};

void world_init(struct world *world);
void world_fini(struct world *world);

/* world_config parses YAML; it stops the test on a fault. Released with pb_free. */
Mortise__V1__SidecarConfig *world_config(const char *yaml);

/* world_build builds a snapshot of YAML as a control plane would send it (`control`) or as static
 * mode reads it; a truststore's ca_file "root" is the CA's. NULL: the faults say why. */
struct snapshot *world_build(struct world *world, const char *yaml, bool control);

/* world_has_fault: one of the faults has that path and a message with `text` in it. */
bool world_has_fault(const struct world *world, const char *path, const char *text);

/* A configuration with one link in each direction, right in every way. */
extern const char world_good_static[];
extern const char world_good_control[];

#endif
