/* A call that brings credentials of its own is that caller's, and no other call on the connection
 * is. Without it: whoever shares a connection with an administrator is one.
 *
 * Drives: D5, R46, R48 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/grpc_server.h"
#include "test/unit/rpc/sample.h"
#include "test/unit/rpc/wire.h"

static struct loop *loop;

struct app {
    struct wire wire;
    struct grpc_server *server;
    char own[8];           /* the connection's identity */
    const char *no_longer; /* who may not any more */
    unsigned num_asked, num_freed;
};

static enum grpc_status app_identify(void *arg, const struct grpc_peer *peer,
                                     struct bytes credentials, void **out_identity,
                                     const char **out_reason)
{
    struct app *app = arg;

    assert_ptr_equal(peer->identity, app->own);
    app->num_asked++;
    *out_reason = "not known";
    if (!bytes_equal_str(credentials, "ann") && !bytes_equal_str(credentials, "ben"))
        return GRPC_UNAUTHENTICATED;
    *out_identity = mem_strndup((const char *)credentials.ptr, credentials.len);
    return GRPC_OK;
}

static enum grpc_status app_authorize(void *arg, const struct grpc_peer *peer,
                                      const struct grpc_method *method, const char **out_reason)
{
    struct app *app = arg;
    const char *who = peer->identity;

    (void)method;
    *out_reason = who;
    assert_true(peer->uid == 7);
    if (who == app->own || (app->no_longer != NULL && strcmp(who, app->no_longer) == 0))
        return GRPC_PERMISSION_DENIED;
    return GRPC_OK;
}

static void app_free_identity(void *arg, void *identity)
{
    struct app *app = arg;

    app->num_freed++;
    if (identity != app->own)
        mem_free(identity);
}

static void app_on_who(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)service;
    (void)msg;
    grpc_call_finish(call, GRPC_ABORTED, grpc_call_peer(call)->identity);
}

static void app_on_hold(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)call;
    (void)service;
    (void)msg;
}

#define METHOD(name, handler)                                                                  \
    {                                                                                          \
        .path = "/t/" name, .in = &mortise__test__sample__descriptor,                          \
        .out = &mortise__test__sample__descriptor, .max_message = 100, .on_message = (handler) \
    }

static const struct grpc_method app_methods[] = {
    METHOD("Who", app_on_who),
    METHOD("Hold", app_on_hold),
};

static int setup(void **state)
{
    struct app *app = mem_zalloc(sizeof(*app));
    struct grpc_peer peer = {.uid = 7, .identity = app->own};

    loop = loop_new(&wire_clock);
    (void)snprintf(app->own, sizeof(app->own), "own");
    app->server = grpc_server_new(loop, &(struct grpc_server_params){
                                            .identify = app_identify,
                                            .authorize = app_authorize,
                                            .free_identity = app_free_identity,
                                            .arg = app,
                                        });
    grpc_server_add(app->server, app_methods, ARRAY_LEN(app_methods), app);
    wire_init(&app->wire, loop);
    grpc_server_accept(app->server, app->wire.lower, &peer);
    wire_hello(&app->wire, true);
    wire_settle(&app->wire);
    *state = app;
    return 0;
}

static int teardown(void **state)
{
    struct app *app = *state;

    grpc_server_free(app->server);
    wire_fini(&app->wire);
    loop_free(loop);
    mem_free(app);
    return 0;
}

static void call(struct app *app, uint32_t stream, const char *const *headers)
{
    wire_headers(&app->wire, 0, stream, headers);
    wire_grpc(&app->wire, WIRE_END_STREAM, stream, "", 0);
    wire_settle(&app->wire);
}

static void test_each_call_is_its_own_callers(void **state)
{
    struct app *app = *state;

    call(app, 1, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: ann"));
    call(app, 3, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: ben"));
    call(app, 5, WIRE_LIST(WIRE_POST("/t/Who")));
    assert_true(wire_has(&app->wire, "1 grpc-message: ann"));
    assert_true(wire_has(&app->wire, "3 grpc-message: ben"));
    assert_true(wire_has(&app->wire, "5 grpc-status: 7")); /* the connection is nobody's still */
    assert_true(wire_has(&app->wire, "5 grpc-message: own"));
    assert_int_equal(app->num_asked, 2);
    assert_int_equal(app->num_freed, 2);
}

static void test_what_is_not_known_is_refused(void **state)
{
    struct app *app = *state;

    call(app, 1, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: eve"));
    call(app, 3, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: "));
    call(app, 5, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: ann", "authorization: ann"));
    call(app, 7, WIRE_LIST(WIRE_POST("/t/Who"), "authorization: ann", "authorization: eve"));
    call(app, 9, WIRE_LIST(WIRE_POST("/t/Nothing"), "authorization: ann"));
    for (unsigned stream = 1; stream <= 7; stream += 2) {
        char line[32];

        (void)snprintf(line, sizeof(line), "%u grpc-status: 16", stream);
        assert_true(wire_has(&app->wire, line));
    }
    assert_true(wire_has(&app->wire, "9 grpc-status: 12"));
    assert_int_equal(app->num_asked, 2); /* twice is not asked about, nor an unknown method */
    assert_int_equal(app->num_freed, 0);
}

static void test_a_recheck_judges_the_calls_caller(void **state)
{
    struct app *app = *state;

    call(app, 1, WIRE_LIST(WIRE_POST("/t/Hold"), "authorization: ann"));
    call(app, 3, WIRE_LIST(WIRE_POST("/t/Hold"), "authorization: ben"));
    grpc_server_recheck(app->server);
    wire_settle(&app->wire);
    assert_false(wire_has(&app->wire, "1 end"));
    app->no_longer = "ann";
    grpc_server_recheck(app->server);
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "1 grpc-status: 7"));
    assert_false(wire_has(&app->wire, "3 end"));
    assert_int_equal(app->num_freed, 1); /* the other's goes with his call */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_call_is_its_own_callers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_known_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_recheck_judges_the_calls_caller, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
