#include "test/unit/control/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/msg.h"
#include "lib/rpc/json_pb.h"

static uint64_t fixture_mono_ms(const struct clock *clock)
{
    return ((const struct fixture_clock *)(const void *)clock)->mono_ms;
}

static int64_t fixture_wall_s(const struct clock *clock)
{
    return ((const struct fixture_clock *)(const void *)clock)->wall_s;
}

struct seal_keys fixture_key(uint8_t fill)
{
    struct seal_keys key;
    char hex[65];

    memset(hex, "0123456789abcdef"[fill % 16], 64);
    hex[64] = '\0';
    assert_ok(seal_keys_parse(bytes_of_str(hex), &key));
    return key;
}

const struct revisions_new fixture_about = {.author = "tester", .message = ""};

struct fixture *fixture_new(void)
{
    struct fixture *fixture = mem_zalloc(sizeof(*fixture));

    fixture->clock = (struct fixture_clock){
        .clock = {fixture_mono_ms, fixture_wall_s},
        .mono_ms = 1000000,
        .wall_s = FIXTURE_NOW_S,
    };
    fixture->key = fixture_key(1);
    fixture->store = store_mem_new();
    fixture->vault = vault_new(fixture->store, &fixture->key);
    return fixture;
}

static void fixture_create(struct fixture *fixture)
{
    struct vault_batch batch = {0};

    assert_ok(ca_create(fixture->vault, &batch, FIXTURE_TRUST_DOMAIN, fixture->clock.wall_s));
    assert_ok(registry_create(fixture->vault, &batch, fixture->clock.wall_s));
    assert_ok(vault_commit(fixture->vault, &batch, NULL));
    vault_batch_fini(&batch);
}

void fixture_start(struct fixture *fixture)
{
    struct ca_params ca = {
        .vault = fixture->vault,
        .clock = &fixture->clock.clock,
        .trust_domain = FIXTURE_TRUST_DOMAIN,
    };
    struct registry_params registry = {
        .vault = fixture->vault,
        .clock = &fixture->clock.clock,
        .trust_domain = FIXTURE_TRUST_DOMAIN,
    };
    struct faults faults = {0};
    struct buf sealed = {0};

    if (err_is(store_get(fixture->store, VAULT_ROOT, &sealed, NULL), E_NOT_FOUND))
        fixture_create(fixture);
    buf_fini(&sealed);
    assert_ok(ca_open(&ca, &fixture->ca));
    registry.roots_pem = ca_roots_pem(fixture->ca);
    assert_ok(registry_open(&registry, &faults, &fixture->registry));
    faults_fini(&faults);
}

void fixture_stop(struct fixture *fixture)
{
    registry_close(fixture->registry);
    ca_free(fixture->ca);
    fixture->registry = NULL;
    fixture->ca = NULL;
}

void fixture_free(struct fixture *fixture)
{
    fixture_stop(fixture);
    vault_free(fixture->vault);
    mem_free(fixture);
}

void fixture_pass(struct fixture *fixture, int64_t seconds)
{
    fixture->clock.wall_s += seconds;
    fixture->clock.mono_ms += (uint64_t)seconds * 1000;
}

Mortise__V1__Mesh *fixture_mesh(const char *yaml)
{
    struct faults faults = {0};
    ProtobufCMessage *msg = NULL;
    err_t err = json_pb_parse(JSON_PB_YAML, "test", bytes_of_str(yaml),
                              &mortise__v1__mesh__descriptor, &faults, &msg);

    for (size_t i = 0; i < faults.num; i++)
        print_error("%s: %s\n", faults.items[i].path, faults.items[i].message);
    assert_ok(err);
    faults_fini(&faults);
    return MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, msg);
}

bool fixture_has(const struct faults *faults, const char *path, const char *text)
{
    for (size_t i = 0; i < faults->num; i++) {
        if (strcmp(faults->items[i].path, path) == 0 &&
            strstr(faults->items[i].message, text) != NULL)
            return true;
    }
    for (size_t i = 0; i < faults->num; i++)
        print_error("there: %s: %s\n", faults->items[i].path, faults->items[i].message);
    return false;
}
