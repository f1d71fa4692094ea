/* fixture: a vault in memory under a known key, and a clock that the test sets. */
#ifndef MORTISE_TEST_UNIT_CONTROL_FIXTURE_H
#define MORTISE_TEST_UNIT_CONTROL_FIXTURE_H

#include "control/ca.h"
#include "control/registry.h"
#include "control/store_mem.h"
#include "control/vault.h"
#include "lib/base/clock.h"

#define FIXTURE_TRUST_DOMAIN "mesh.test"
#define FIXTURE_NOW_S INT64_C(1800000000)

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define assert_code(expr, name) assert_int_equal((expr).code, E_##name)

struct fixture_clock {
    struct clock clock;
    uint64_t mono_ms;
    int64_t wall_s;
};

struct fixture {
    struct fixture_clock clock;
    struct seal_keys key;
    struct store *store; /* the vault's */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
};

/* fixture_new has the vault; fixture_start makes CA and default mesh in it and opens them. */
struct fixture *fixture_new(void);
void fixture_start(struct fixture *fixture);
/* fixture_stop closes CA and registry, as the end of the process would; fixture_free everything. */
void fixture_stop(struct fixture *fixture);
void fixture_free(struct fixture *fixture);

struct seal_keys fixture_key(uint8_t fill);
/* fixture_about is by "tester", of no message and no changes. */
extern const struct revisions_new fixture_about;

/* fixture_pass lets time go by. */
void fixture_pass(struct fixture *fixture, int64_t seconds);

/* fixture_mesh parses YAML; the test fails when it has a fault. Owned (pb_free). */
Mortise__V1__Mesh *fixture_mesh(const char *yaml);

/* fixture_has tells whether the faults have one at `path` with `text` in its message. */
bool fixture_has(const struct faults *faults, const char *path, const char *text);

#endif
