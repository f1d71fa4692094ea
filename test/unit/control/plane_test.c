/* The control plane as a whole, in one loop with its callers: real sockets, real TLS.
 * Without it: each part keeps its rules and together they let a stranger in, or lose a sidecar.
 * Drives: R35, R36, R39, R44, R46, R48, R62, F2, F5, F6, R8, R15. */
#include "control/plane.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/renew.h"
#include "certs/spiffe_id.h"
#include "certs/tls_ctx.h"
#include "control/msg.h"
#include "control/revocations.h"
#include "control/store_sqlite.h"
#include "control/vault.h"
#include "lib/base/mem.h"
#include "lib/rpc/grpc_client.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/identity.pb-c.h"
#include "proto/mesh/operator.pb-c.h"
#include "test/testlib/recorder.h"
#include "test/unit/control/fixture.h"

#define PORTAL "spiffe://mesh.test/ns/default/sa/portal"
#define DEADLINE_MS 15000

struct world {
    struct loop *loop;
    struct config config;
    struct seal_keys key;
    struct faults faults;
    struct plane *plane;
    struct grpc_channel *operators; /* over the Unix socket */
    char folder[64];
};

/* ------------------------------------------------------------------ the plane */

static err_t world_start(struct world *world)
{
    faults_fini(&world->faults);
    return plane_new(world->loop, &world->config, &world->key, &world->faults, &world->plane);
}

static void world_end_plane(struct world *world)
{
    plane_free(world->plane);
    world->plane = NULL;
}

static void world_open_operators(struct world *world)
{
    CLEANUP(mem_freep) char *target = mem_printf("unix:%s", world->config.operator_socket);
    const struct grpc_channel_params params = {.target = target, .authority = "localhost"};

    world->operators = grpc_channel_new(world->loop, &params);
}

static int setup(void **state)
{
    struct world *world = mem_zalloc(sizeof(*world));
    struct bytes bad;
    CLEANUP(mem_freep) char *target = NULL;

    assert_ok(log_set_spec("error", &bad));
    world->loop = loop_new(&clock_system);
    world->key = fixture_key(3);
    (void)snprintf(world->folder, sizeof(world->folder), "/tmp/mortise-plane-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    world->config = (struct config){
        .data_dir = mem_strdup(world->folder),
        .trust_domain = mem_strdup("mesh.test"),
        .listen = mem_strdup("127.0.0.1:0"),
        .operator_socket = mem_printf("%s/operator.sock", world->folder),
        .store_max_size = 64 << 20,
        .max_connections = 64,
        .max_handshakes = 32,
        .max_handshakes_per_source = 32,
        .handshake_timeout_ms = 5000,
        .drain_timeout_ms = 2000,
        .log_level = mem_strdup("error"),
    };
    assert_ok(addr_parse(world->config.listen, &world->config.listen_addr));
    target = mem_printf("unix:%s", world->config.operator_socket);
    assert_ok(addr_parse(target, &world->config.operator_addr));
    assert_ok(world_start(world));
    world_open_operators(world);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    static const char *const names[] = {"store.db", "store.db-journal", "operator.sock",
                                        "admin-token"};

    if (world->operators != NULL)
        grpc_channel_close(world->operators);
    world_end_plane(world);
    loop_free(world->loop);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *path = mem_printf("%s/%s", world->folder, names[i]);

        (void)unlink(path);
    }
    assert_int_equal(rmdir(world->folder), 0);
    config_free(&world->config);
    faults_fini(&world->faults);
    mem_free(world);
    return 0;
}

/* ------------------------------------------------------------------ unary calls */

struct answer {
    bool done;
    enum grpc_status status;
    char message[5000];
    ProtobufCMessage *reply; /* owned */
};

static void on_answer(void *arg, const struct grpc_result *result, const ProtobufCMessage *reply)
{
    struct answer *answer = arg;

    answer->status = result->status;
    (void)snprintf(answer->message, sizeof(answer->message), "%s", result->message);
    answer->reply = reply != NULL ? pb_clone(reply) : NULL;
    answer->done = true;
}

static struct answer *ask(struct world *world, struct grpc_channel *channel, const char *method,
                          const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply)
{
    CLEANUP(mem_freep) char *path = mem_printf("/mortise.v1.%s", method);
    struct answer *answer = mem_zalloc(sizeof(*answer));

    assert_non_null(grpc_unary(channel, path, request, reply, DEADLINE_MS, on_answer, answer));
    LOOP_UNTIL(world->loop, answer->done);
    return answer;
}

static void answer_free(struct answer *answer)
{
    pb_free(answer->reply);
    mem_free(answer);
}

static void expect(struct answer *answer, enum grpc_status status, const char *text)
{
    if (answer->status != status || strstr(answer->message, text) == NULL)
        fail_msg("%s: %s; wanted %s with \"%s\"", grpc_status_name(answer->status), answer->message,
                 grpc_status_name(status), text);
    answer_free(answer);
}

static char *new_token(struct world *world, const char *subsystem)
{
    Mortise__V1__CreateTokenRequest request = MORTISE__V1__CREATE_TOKEN_REQUEST__INIT;
    struct answer *answer;
    char *token;

    request.subsystem = msg_lend(subsystem);
    answer = ask(world, world->operators, "OperatorService/CreateToken", &request.base,
                 &mortise__v1__create_token_response__descriptor);
    assert_int_equal(answer->status, GRPC_OK);
    token = mem_strdup(MSG_AS(Mortise__V1__CreateTokenResponse,
                              mortise__v1__create_token_response__descriptor, answer->reply)
                           ->token);
    answer_free(answer);
    return token;
}

static Mortise__V1__StatusResponse *status_of(struct world *world, struct answer **out)
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;

    *out = ask(world, world->operators, "OperatorService/Status", &request.base,
               &mortise__v1__status_response__descriptor);
    assert_int_equal((*out)->status, GRPC_OK);
    return MSG_AS(Mortise__V1__StatusResponse, mortise__v1__status_response__descriptor,
                  (*out)->reply);
}

static struct answer *apply(struct world *world, const char *yaml, bool prune, uint64_t if_version)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    struct answer *answer;

    request.mesh = fixture_mesh(yaml);
    request.prune = prune;
    request.if_version = if_version;
    answer = ask(world, world->operators, "OperatorService/Apply", &request.base,
                 &mortise__v1__apply_response__descriptor);
    pb_free(&request.mesh->base);
    return answer;
}

/* --------------------------------------------------------------------- sidecars */

/* A sidecar's end of things: a key, what it got for it, and a channel that shows it. */
struct sidecar {
    struct world *world;
    EVP_PKEY *key;
    struct svid *svid; /* NULL: shows nothing */
    struct bundle *roots;
    struct tls_profile *profile;
    struct tls_check check;
    bool checking;
    struct grpc_channel *channel;
    char *control_id;
    struct peer *control; /* whom it met last; NULL: nobody */
    err_t failed;
};

static SSL_CTX *sidecar_tls(void *arg)
{
    struct sidecar *sidecar = arg;
    struct tls_ctx *tls = NULL;
    SSL_CTX *ssl;

    assert_ok(tls_ctx_client(sidecar->svid, sidecar->roots, sidecar->profile, &tls));
    assert_ok(tls_ctx_set_alpn(tls, "h2"));
    ssl = tls_ctx_ssl(tls);
    SSL_CTX_up_ref(ssl);
    tls_ctx_unref(tls);
    return ssl;
}

static err_t sidecar_authorize(void *arg, int entry, const struct peer *peer)
{
    struct sidecar *sidecar = arg;

    (void)entry;
    if (sidecar->control != NULL)
        peer_unref(sidecar->control);
    sidecar->control = peer_ref((struct peer *)(uintptr_t)peer);
    return strcmp(peer->spiffe_id, sidecar->control_id) == 0 ? OK : FAIL(PEER_IDENTITY, 0);
}

static void sidecar_drop_check(struct sidecar *sidecar)
{
    if (sidecar->checking)
        tls_check_fini(&sidecar->check);
    sidecar->checking = false;
}

static void sidecar_configure(void *arg, SSL *ssl)
{
    struct sidecar *sidecar = arg;

    sidecar_drop_check(sidecar);
    tls_check_init(&sidecar->check, &clock_system, NULL);
    sidecar->checking = true;
    sidecar->check.authorize = sidecar_authorize;
    sidecar->check.arg = sidecar;
    tls_check_attach(&sidecar->check, ssl);
}

static err_t sidecar_handshake_done(void *arg, SSL *ssl, err_t err)
{
    struct sidecar *sidecar = arg;

    if (!sidecar->checking)
        return err;
    if (!err_is_ok(sidecar->check.err))
        err = sidecar->check.err;
    if (err_is_ok(err))
        err = tls_check_finish(&sidecar->check, ssl);
    sidecar_drop_check(sidecar);
    return err;
}

static void sidecar_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    struct sidecar *sidecar = arg;

    (void)retry_ms;
    if (!connected)
        sidecar->failed = err;
}

static struct bundle *roots_of(struct world *world)
{
    struct answer *answer;
    const Mortise__V1__StatusResponse *status = status_of(world, &answer);
    struct bytes der = msg_view(status->trust_roots[0]);
    struct bundle *roots = NULL;

    assert_ok(bundle_of_der(&der, 1, "mesh.test", &roots));
    answer_free(answer);
    return roots;
}

static struct tls_profile *client_profile(void)
{
    Mortise__V1__TlsProfile msg = MORTISE__V1__TLS_PROFILE__INIT;
    struct tls_profile *profile = NULL;
    struct fault_path path = {.len = 0};
    struct faults faults = {0};

    msg.name = msg_lend("c");
    msg.role = MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    assert_ok(tls_profile_compile(&msg, &path, &faults, &profile));
    return profile;
}

static void sidecar_open(struct sidecar *sidecar)
{
    char target[ADDR_TEXT_MAX];
    const struct grpc_channel_params params = {
        .target = target,
        .tls = sidecar_tls,
        .configure = sidecar_configure,
        .handshake_done = sidecar_handshake_done,
        .on_state = sidecar_on_state,
        .arg = sidecar,
    };

    if (sidecar->channel != NULL)
        grpc_channel_close(sidecar->channel);
    addr_format(plane_addr(sidecar->world->plane), target);
    sidecar->channel = grpc_channel_new(sidecar->world->loop, &params);
}

static struct sidecar *sidecar_new(struct world *world)
{
    struct sidecar *sidecar = mem_zalloc(sizeof(*sidecar));

    sidecar->world = world;
    sidecar->roots = roots_of(world);
    sidecar->profile = client_profile();
    sidecar->control_id = spiffe_id_of_control("mesh.test");
    assert_ok(key_generate(&sidecar->key));
    sidecar_open(sidecar);
    return sidecar;
}

static void sidecar_free(struct sidecar *sidecar)
{
    grpc_channel_close(sidecar->channel);
    sidecar_drop_check(sidecar);
    if (sidecar->svid != NULL)
        svid_unref(sidecar->svid);
    if (sidecar->control != NULL)
        peer_unref(sidecar->control);
    bundle_unref(sidecar->roots);
    tls_profile_unref(sidecar->profile);
    EVP_PKEY_free(sidecar->key);
    mem_free(sidecar->control_id);
    mem_free(sidecar);
}

/* Asks and does not wait. */
static struct answer *attest_begin(struct sidecar *sidecar, const char *token, EVP_PKEY *key)
{
    CLEANUP(buf_fini) struct buf csr = {0};
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;
    struct answer *answer = mem_zalloc(sizeof(*answer));

    assert_ok(csr_build(key, NULL, &csr));
    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN;
    request.join_token = msg_lend(token);
    request.csr = msg_bytes(buf_view(&csr));
    assert_non_null(grpc_unary(sidecar->channel, "/mortise.v1.IdentityService/Attest",
                               &request.base, &mortise__v1__certificate_response__descriptor,
                               DEADLINE_MS, on_answer, answer));
    return answer;
}

static struct answer *attest_with(struct sidecar *sidecar, const char *token, struct bytes csr)
{
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;

    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN;
    request.join_token = msg_lend(token);
    request.csr = msg_bytes(csr);
    return ask(sidecar->world, sidecar->channel, "IdentityService/Attest", &request.base,
               &mortise__v1__certificate_response__descriptor);
}

static struct answer *attest(struct sidecar *sidecar, const char *token, const char *claimed_id)
{
    CLEANUP(buf_fini) struct buf csr = {0};

    assert_ok(csr_build(sidecar->key, claimed_id, &csr));
    return attest_with(sidecar, token, buf_view(&csr));
}

static struct answer *renew(struct sidecar *sidecar, EVP_PKEY *key, uint64_t epoch)
{
    CLEANUP(buf_fini) struct buf csr = {0};
    Mortise__V1__RenewRequest request = MORTISE__V1__RENEW_REQUEST__INIT;

    assert_ok(csr_build(key, NULL, &csr));
    request.csr = msg_bytes(buf_view(&csr));
    request.certificate_epoch = epoch;
    return ask(sidecar->world, sidecar->channel, "IdentityService/Renew", &request.base,
               &mortise__v1__certificate_response__descriptor);
}

/* Takes what was issued for `key` and shows it from now on. */
static void wear(struct sidecar *sidecar, struct answer *answer, EVP_PKEY *key)
{
    const Mortise__V1__CertificateResponse *reply;
    struct bytes chain[4];

    if (answer->status != GRPC_OK)
        fail_msg("%s: %s", grpc_status_name(answer->status), answer->message);
    reply = MSG_AS(Mortise__V1__CertificateResponse, mortise__v1__certificate_response__descriptor,
                   answer->reply);
    assert_int_equal(reply->n_chain, 2);
    for (size_t i = 0; i < reply->n_chain; i++)
        chain[i] = msg_view(reply->chain[i]);
    if (sidecar->svid != NULL)
        svid_unref(sidecar->svid);
    assert_ok(svid_of_der(chain, reply->n_chain, key, sidecar->roots, clock_wall_s(&clock_system),
                          &sidecar->svid));
    assert_string_equal(sidecar->svid->spiffe_id, reply->spiffe_id);
    /* Its renewal is planned, as certs/renew.h would have it. */
    assert_int_equal(renew_planned(reply->renew_at, sidecar->svid->not_before,
                                   sidecar->svid->not_after, clock_wall_s(&clock_system), 0),
                     reply->renew_at);
    answer_free(answer);
    grpc_channel_reconnect(sidecar->channel);
}

static struct sidecar *joined(struct world *world, const char *subsystem)
{
    struct sidecar *sidecar = sidecar_new(world);
    char *token = new_token(world, subsystem);

    wear(sidecar, attest(sidecar, token, NULL), sidecar->key);
    mem_free(token);
    return sidecar;
}

/* A discovery stream and the last response on it. */
struct stream_of {
    struct sidecar *sidecar;
    struct grpc_client_call *call;
    Mortise__V1__DiscoveryResponse *response; /* owned; the last one */
    unsigned num;
    bool done;
    enum grpc_status status;
    char message[512];
};

static void stream_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct stream_of *stream = arg;

    if (stream->response != NULL)
        pb_free(&stream->response->base);
    stream->response = MSG_AS(Mortise__V1__DiscoveryResponse,
                              mortise__v1__discovery_response__descriptor, pb_clone(msg));
    stream->num++;
}

static void stream_on_done(void *arg, const struct grpc_result *result)
{
    struct stream_of *stream = arg;

    stream->done = true;
    stream->call = NULL;
    stream->status = result->status;
    (void)snprintf(stream->message, sizeof(stream->message), "%s", result->message);
}

static struct stream_of *stream_open(struct sidecar *sidecar)
{
    static const struct grpc_stream_events events = {.on_message = stream_on_message,
                                                     .on_done = stream_on_done};
    struct stream_of *stream = mem_zalloc(sizeof(*stream));

    stream->sidecar = sidecar;
    stream->call =
        grpc_stream_open(sidecar->channel, "/mortise.v1.DiscoveryService/Stream",
                         &mortise__v1__discovery_response__descriptor, 1 << 20, 0, &events, stream);
    return stream;
}

static void stream_close_free(struct stream_of *stream)
{
    if (stream->call != NULL)
        grpc_client_cancel(stream->call);
    if (stream->response != NULL)
        pb_free(&stream->response->base);
    mem_free(stream);
}

static void stream_begin(struct stream_of *stream, const char *instance, const char *advertise)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__Node node = MORTISE__V1__NODE__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    node.instance = msg_lend(instance);
    node.build = msg_lend("test");
    node.advertise = msg_lend(advertise);
    request.node = &node;
    request.status = &status;
    assert_ok(grpc_stream_send(stream->call, &request.base));
}

static void stream_answer(struct stream_of *stream, uint64_t version, const char *nonce,
                          const char *fault)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__ErrorDetail error = MORTISE__V1__ERROR_DETAIL__INIT;
    Mortise__V1__FieldFault field = MORTISE__V1__FIELD_FAULT__INIT;
    Mortise__V1__FieldFault *fields[] = {&field};

    request.version = version;
    request.nonce = msg_lend(nonce);
    if (fault != NULL) {
        error.code = msg_lend("config_invalid");
        field.path = msg_lend(fault);
        field.message = msg_lend("is taken");
        error.faults = fields;
        error.n_faults = 1;
        request.error = &error;
    }
    assert_ok(grpc_stream_send(stream->call, &request.base));
}

static void stream_ack(struct stream_of *stream)
{
    stream_answer(stream, stream->response->version, stream->response->nonce, NULL);
}

static void stream_report_epoch(struct stream_of *stream, uint64_t epoch)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    status.certificate_epoch = epoch;
    status.ready = true;
    request.status = &status;
    assert_ok(grpc_stream_send(stream->call, &request.base));
}

static struct stream_of *stream_started(struct sidecar *sidecar, const char *instance,
                                        const char *advertise)
{
    struct stream_of *stream = stream_open(sidecar);

    stream_begin(stream, instance, advertise);
    LOOP_UNTIL(sidecar->world->loop, stream->num == 1);
    return stream;
}

/* ----------------------------------------------------------------- start and stop */

static void test_a_second_start_finds_what_the_first_made(void **state)
{
    struct world *world = *state;
    struct answer *answer;
    char root[128];

    (void)snprintf(root, sizeof(root), "%s", status_of(world, &answer)->root_sha256);
    answer_free(answer);
    grpc_channel_close(world->operators);
    world_end_plane(world);
    mem_free(world->config.trust_domain);
    world->config.trust_domain = NULL; /* known by now */
    assert_ok(world_start(world));
    world_open_operators(world);
    assert_string_equal(status_of(world, &answer)->root_sha256, root);
    answer_free(answer);
}

static void test_starts_that_must_not_be(void **state)
{
    struct world *world = *state;
    struct plane *running = world->plane;
    char *domain = world->config.trust_domain;
    char other[] = "other.test";
    struct seal_keys key = world->key;

    world->plane = NULL;
    assert_code(world_start(world), STORE_BUSY);
    assert_true(strstr(world->faults.items[0].message, "store_busy") != NULL);
    plane_free(running);

    world->config.trust_domain = other;
    assert_code(world_start(world), CONFIG_INVALID);
    assert_true(fixture_has(&world->faults, "--trust-domain", "mesh.test"));
    world->config.trust_domain = domain;

    world->key = fixture_key(4);
    assert_code(world_start(world), KEK_UNAVAILABLE);
    assert_true(fixture_has(&world->faults, "--kek-file", "kek_unavailable"));
    world->key = key;

    assert_int_equal(chmod(world->folder, 0755), 0);
    assert_code(world_start(world), FILE_UNSAFE);
    assert_true(fixture_has(&world->faults, "--data-dir", "chmod 700"));
    assert_int_equal(chmod(world->folder, 0700), 0);
    assert_ok(world_start(world));
}

static void test_a_first_start_needs_a_name(void **state)
{
    struct world *world = *state;
    CLEANUP(mem_freep) char *db = mem_printf("%s/store.db", world->folder);
    char *domain = world->config.trust_domain;

    world_end_plane(world);
    assert_int_equal(unlink(db), 0);
    world->config.trust_domain = NULL;
    assert_code(world_start(world), CONFIG_INVALID);
    assert_true(fixture_has(&world->faults, "--trust-domain", "first start"));
    world->config.trust_domain = domain;
    assert_ok(world_start(world));
}

static void test_an_end_in_order_sends_everybody_away(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:15443");

    grpc_channel_close(world->operators);
    world->operators = NULL;
    plane_stop(world->plane);
    loop_run(world->loop); /* until the last connection is gone */
    assert_true(stream->done);
    assert_int_equal(stream->status, GRPC_UNAVAILABLE);
    stream_close_free(stream);
    sidecar_free(portal);
}

/* ------------------------------------------------------------------------- joining */

static void test_a_certificate_is_made_of_our_record(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);
    char *token = new_token(world, "portal");

    /* Whatever it claims. */
    wear(sidecar, attest(sidecar, token, "spiffe://mesh.test/mortise/control"), sidecar->key);
    assert_string_equal(sidecar->svid->spiffe_id, PORTAL);
    mem_free(token);
    sidecar_free(sidecar);
}

static void test_a_token_is_one_keys(void **state)
{
    struct world *world = *state;
    struct sidecar *one = sidecar_new(world);
    struct sidecar *two = sidecar_new(world);
    char *token = new_token(world, "portal");

    wear(one, attest(one, token, NULL), one->key);
    expect(attest(two, token, NULL), GRPC_PERMISSION_DENIED, "token_used");
    wear(one, attest(one, token, NULL), one->key); /* its answer was lost */
    expect(attest(two, "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", NULL),
           GRPC_PERMISSION_DENIED, "token_unknown");
    expect(attest(two, "", NULL), GRPC_PERMISSION_DENIED, "token_unknown");
    mem_free(token);
    sidecar_free(one);
    sidecar_free(two);
}

/* Calls that arrive together are signed one after the other and committed as one: each must still
 * get what it would have got alone. */
static void test_tokens_presented_together_are_judged_one_by_one(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);
    char *token = new_token(world, "portal");
    char *other_token = new_token(world, "gateway");
    EVP_PKEY *other_key = NULL;
    struct answer *answers[6];

    assert_ok(key_generate(&other_key));
    answers[0] = attest_begin(sidecar, token, sidecar->key);
    answers[1] = attest_begin(sidecar, token, other_key); /* comes second: refused */
    answers[2] = attest_begin(sidecar, other_token, other_key);
    answers[3] = attest_begin(sidecar, token, sidecar->key); /* the owner's again */
    answers[4] = attest_begin(sidecar, "mjt1.", sidecar->key);
    answers[5] = attest_begin(sidecar, other_token, sidecar->key);
    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        LOOP_UNTIL(world->loop, answers[i]->done);
    expect(answers[1], GRPC_PERMISSION_DENIED, "token_used");
    expect(answers[4], GRPC_PERMISSION_DENIED, "token_unknown");
    expect(answers[5], GRPC_PERMISSION_DENIED, "token_used");
    wear(sidecar, answers[0], sidecar->key);
    assert_non_null(strstr(sidecar->svid->spiffe_id, "portal"));
    wear(sidecar, answers[3], sidecar->key);
    wear(sidecar, answers[2], other_key);
    assert_non_null(strstr(sidecar->svid->spiffe_id, "gateway"));
    EVP_PKEY_free(other_key);
    mem_free(token);
    mem_free(other_token);
    sidecar_free(sidecar);
}

static void test_a_bad_request_uses_no_token_up(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);
    CLEANUP(buf_fini) struct buf csr = {0};
    char *token = new_token(world, "portal");
    uint8_t broken[CSR_MAX];
    size_t len;

    assert_ok(csr_build(sidecar->key, NULL, &csr));
    len = buf_size(&csr);
    memcpy(broken, buf_view(&csr).ptr, len);
    broken[len - 1] ^= 1;
    expect(attest_with(sidecar, token, bytes_of(broken, len)), GRPC_INVALID_ARGUMENT, "csr_");
    expect(attest_with(sidecar, token, bytes_of(NULL, 0)), GRPC_INVALID_ARGUMENT, "csr_syntax");
    wear(sidecar, attest(sidecar, token, NULL), sidecar->key);
    mem_free(token);
    sidecar_free(sidecar);
}

/* As many silent connections as there may be handshakes: who comes then waits, and is served as
 * soon as one of them ends, without having been refused. */
static void test_a_crowd_waits_for_its_turn(void **state)
{
    struct world *world = *state;
    const struct addr *to = plane_addr(world->plane);
    struct sidecar *sidecar = sidecar_new(world);
    char *token = new_token(world, "portal");
    struct answer *answer;
    int silent[32];

    assert_int_equal(ARRAY_LEN(silent), world->config.max_handshakes);
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        silent[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(silent[i] >= 0);
        assert_int_equal(connect(silent[i], &to->sa.any, to->len), 0);
    }
    answer = attest_begin(sidecar, token, sidecar->key);
    /* An operator's call is served all the time, over another socket. */
    for (int i = 0; i < 5; i++) {
        struct answer *status_answer;

        (void)status_of(world, &status_answer);
        answer_free(status_answer);
    }
    assert_false(answer->done);
    assert_ok(sidecar->failed);
    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        close(silent[i]);
    LOOP_UNTIL(world->loop, answer->done);
    assert_ok(sidecar->failed);
    wear(sidecar, answer, sidecar->key);
    mem_free(token);
    sidecar_free(sidecar);
}

/* How many refusals an operator sees, until a token was made. */
struct refusals {
    struct grpc_client_call *call;
    unsigned num;
    bool end;
};

static void refusals_on_event(void *arg, const ProtobufCMessage *msg)
{
    const Mortise__V1__Event *event =
        MSG_AS_CONST(Mortise__V1__Event, mortise__v1__event__descriptor, msg);
    struct refusals *refusals = arg;

    refusals->num += strcmp(event->kind, "certificate_refused") == 0;
    refusals->end = strcmp(event->kind, "token_created") == 0;
}

static void refusals_on_done(void *arg, const struct grpc_result *result)
{
    (void)result;
    ((struct refusals *)arg)->call = NULL;
}

static unsigned num_refusals(struct world *world)
{
    static const struct grpc_stream_events events = {.on_message = refusals_on_event,
                                                     .on_done = refusals_on_done};
    Mortise__V1__WatchRequest request = MORTISE__V1__WATCH_REQUEST__INIT;
    struct refusals refusals = {.num = 0};
    char *token = new_token(world, "portal");

    refusals.call =
        grpc_stream_open(world->operators, "/mortise.v1.OperatorService/Watch",
                         &mortise__v1__event__descriptor, 1 << 20, 0, &events, &refusals);
    request.since_s = 3600;
    assert_ok(grpc_stream_send(refusals.call, &request.base));
    grpc_stream_half_close(refusals.call);
    LOOP_UNTIL(world->loop, refusals.end);
    grpc_client_cancel(refusals.call);
    mem_free(token);
    return refusals.num;
}

/* Nor does a stranger push out of sight what others did. */
static void test_floods_are_limited(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);
    unsigned denied = 0, limited = 0;

    for (int i = 0; i < 150; i++) {
        struct answer *answer = attest(sidecar, "mjt1.", NULL);

        denied += answer->status == GRPC_PERMISSION_DENIED;
        limited += answer->status == GRPC_RESOURCE_EXHAUSTED &&
                   strcmp(answer->message, "rate_limited") == 0;
        answer_free(answer);
    }
    assert_int_equal(denied + limited, 150);
    assert_true(denied >= 100 && limited > 0);
    assert_int_equal(num_refusals(world), denied);
    sidecar_free(sidecar);
}

static void test_a_renewal_needs_a_certificate_and_a_fresh_key(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);
    char *token = new_token(world, "portal");
    EVP_PKEY *fresh = NULL;
    char before[64];

    assert_ok(key_generate(&fresh));
    expect(renew(sidecar, fresh, 0), GRPC_UNAUTHENTICATED, "certificate");
    wear(sidecar, attest(sidecar, token, NULL), sidecar->key);
    expect(renew(sidecar, sidecar->key, 0), GRPC_INVALID_ARGUMENT, "key_reused");
    (void)snprintf(before, sizeof(before), "%s", sidecar->svid->serial);
    wear(sidecar, renew(sidecar, fresh, 0), fresh);
    assert_string_not_equal(before, sidecar->svid->serial);
    assert_string_equal(sidecar->svid->spiffe_id, PORTAL);
    mem_free(token);
    EVP_PKEY_free(fresh);
    sidecar_free(sidecar);
}

static void test_a_sidecar_may_not_do_an_operators_work(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = joined(world, "portal");
    Mortise__V1__CreateTokenRequest request = MORTISE__V1__CREATE_TOKEN_REQUEST__INIT;

    request.subsystem = msg_lend("gateway");
    expect(ask(world, sidecar->channel, "OperatorService/CreateToken", &request.base,
               &mortise__v1__create_token_response__descriptor),
           GRPC_PERMISSION_DENIED, "not an admin");
    sidecar_free(sidecar);
}

static void test_an_admins_certificate_may(void **state)
{
    struct world *world = *state;
    struct sidecar *admin = sidecar_new(world);
    Mortise__V1__IssueAdminRequest request = MORTISE__V1__ISSUE_ADMIN_REQUEST__INIT;
    Mortise__V1__StatusRequest status = MORTISE__V1__STATUS_REQUEST__INIT;
    const Mortise__V1__IssueAdminResponse *reply;
    CLEANUP(buf_fini) struct buf csr = {0};
    struct answer *answer;
    struct bytes chain[2];

    assert_ok(csr_build(admin->key, NULL, &csr));
    request.name = msg_lend("alice/../root");
    request.csr = msg_bytes(buf_view(&csr));
    expect(ask(world, world->operators, "OperatorService/IssueAdmin", &request.base,
               &mortise__v1__issue_admin_response__descriptor),
           GRPC_INVALID_ARGUMENT, "name");
    request.name = msg_lend("alice");
    answer = ask(world, world->operators, "OperatorService/IssueAdmin", &request.base,
                 &mortise__v1__issue_admin_response__descriptor);
    assert_int_equal(answer->status, GRPC_OK);
    reply = MSG_AS(Mortise__V1__IssueAdminResponse, mortise__v1__issue_admin_response__descriptor,
                   answer->reply);
    for (size_t i = 0; i < 2; i++)
        chain[i] = msg_view(reply->chain[i]);
    assert_ok(
        svid_of_der(chain, 2, admin->key, admin->roots, clock_wall_s(&clock_system), &admin->svid));
    answer_free(answer);
    grpc_channel_reconnect(admin->channel);
    expect(ask(world, admin->channel, "OperatorService/Status", &status.base,
               &mortise__v1__status_response__descriptor),
           GRPC_OK, "");
    /* An admin is no workload. */
    expect(renew(admin, admin->key, 0), GRPC_PERMISSION_DENIED, "not a subsystem");
    sidecar_free(admin);
}

/* ----------------------------------------------------------------------- discovery */

static void test_push_ack_nack_and_push_again(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:15443");
    struct answer *answer;
    const Mortise__V1__StatusResponse *status;
    uint64_t version = stream->response->version;

    assert_int_equal(stream->response->config->inbound->n_links, 1);
    assert_int_equal(stream->response->n_trust_roots, 1);
    status = status_of(world, &answer);
    assert_int_equal(status->connected, 1);
    assert_int_equal(status->in_sync, 0);
    answer_free(answer);
    stream_ack(stream);
    do { /* the answer is on its way */
        status = status_of(world, &answer);
        version = status->in_sync;
        answer_free(answer);
    } while (version != 1);

    answer = apply(world,
                   "links: [{name: management-portal, client: management, server: portal, "
                   "client_port: 15101, server_port: 7777}]",
                   false, 0);
    expect(answer, GRPC_OK, "");
    LOOP_UNTIL(world->loop, stream->num == 2);
    assert_string_equal(stream->response->config->inbound->links[0]->target, "127.0.0.1:7777");
    stream_answer(stream, 1, stream->response->nonce, "inbound.links[0].target");
    /* The refused one does not come again; the next change does. */
    answer = apply(world,
                   "links: [{name: management-portal, client: management, server: portal, "
                   "client_port: 15101, server_port: 7778}]",
                   false, 0);
    expect(answer, GRPC_OK, "");
    LOOP_UNTIL(world->loop, stream->num == 3);
    assert_string_equal(stream->response->config->inbound->links[0]->target, "127.0.0.1:7778");
    stream_close_free(stream);
    sidecar_free(portal);
}

static void test_streams_that_break_the_rules_end(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    static const struct {
        const char *instance;
        const char *advertise;
        const char *text;
    } rows[] = {
        {"", "10.0.0.1:1", "node.instance"},    {"\x1b[2J", "10.0.0.1:1", "node.instance"},
        {"p q", "10.0.0.1:1", "node.instance"}, {"p", "0.0.0.0:15443", "node.advertise"},
        {"p", "nowhere", "node.advertise"},
    };
    struct stream_of *stream;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        stream = stream_open(portal);
        stream_begin(stream, rows[i].instance, rows[i].advertise);
        LOOP_UNTIL(world->loop, stream->done);
        assert_int_equal(stream->status, GRPC_INVALID_ARGUMENT);
        assert_non_null(strstr(stream->message, rows[i].text));
        stream_close_free(stream);
    }
    stream = stream_started(portal, "p", "10.0.0.1:1");
    stream_answer(stream, stream->response->version + 7, stream->response->nonce, NULL);
    LOOP_UNTIL(world->loop, stream->done);
    assert_int_equal(stream->status, GRPC_INVALID_ARGUMENT);
    stream_close_free(stream);
    sidecar_free(portal);
}

static void test_a_newer_stream_of_a_process_replaces_the_older(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *old = stream_started(portal, "same", "10.0.0.1:1");
    struct stream_of *new = stream_started(portal, "same", "10.0.0.1:1");
    struct stream_of *other = stream_started(portal, "another", "10.0.0.2:1");
    struct answer *answer;

    LOOP_UNTIL(world->loop, old->done);
    assert_int_equal(old->status, GRPC_ABORTED);
    assert_false(new->done);
    assert_false(other->done);
    assert_int_equal(status_of(world, &answer)->connected, 2);
    answer_free(answer);
    stream_close_free(old);
    stream_close_free(new);
    stream_close_free(other);
    sidecar_free(portal);
}

static void test_a_subsystem_that_leaves_is_cut_off(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:1");
    EVP_PKEY *fresh = NULL;

    assert_ok(key_generate(&fresh));
    expect(apply(world, "subsystems: [{name: gateway}]", true, 0), GRPC_OK, "");
    LOOP_UNTIL(world->loop, stream->done);
    /* Its certificate still chains to our root, and buys nothing. */
    expect(renew(portal, fresh, 0), GRPC_PERMISSION_DENIED, "not a subsystem");
    stream_close_free(stream);
    EVP_PKEY_free(fresh);
    sidecar_free(portal);
}

/* ------------------------------------------------------------------------ operators */

static void test_a_bad_document_is_told_whole_and_changes_nothing(void **state)
{
    struct world *world = *state;
    struct answer *answer = apply(world,
                                  "subsystems: [{name: UP}]\n"
                                  "links: [{name: l, client: nobody, server: portal, client_port: "
                                  "70000, server_port: 1, client_profile: zz}]",
                                  false, 0);
    Mortise__V1__GetMeshRequest request = MORTISE__V1__GET_MESH_REQUEST__INIT;

    assert_int_equal(answer->status, GRPC_INVALID_ARGUMENT);
    assert_non_null(strstr(answer->message, "subsystems[0].name: "));
    assert_non_null(strstr(answer->message, "\nlinks[0].client: no subsystem \"nobody\""));
    assert_non_null(strstr(answer->message, "\nlinks[0].client_port: 70000"));
    assert_non_null(strstr(answer->message, "\nlinks[0].client_profile: no profile \"zz\""));
    answer_free(answer);
    answer = ask(world, world->operators, "OperatorService/GetMesh", &request.base,
                 &mortise__v1__get_mesh_response__descriptor);
    assert_int_equal(MSG_AS(Mortise__V1__GetMeshResponse,
                            mortise__v1__get_mesh_response__descriptor, answer->reply)
                         ->mesh->n_links,
                     4);
    answer_free(answer);
}

static void test_more_faults_than_fit_are_counted(void **state)
{
    struct world *world = *state;
    CLEANUP(buf_fini) struct buf yaml = {0};
    CLEANUP(mem_freep) char *text = NULL;
    struct answer *answer;

    assert_ok(buf_add_str(&yaml, "subsystems:\n"));
    for (int i = 0; i < 200; i++)
        assert_ok(buf_printf(&yaml, "  - {name: 'WRONG NAME NUMBER %d'}\n", i));
    text = buf_take_str(&yaml);
    answer = apply(world, text, false, 0);
    assert_int_equal(answer->status, GRPC_INVALID_ARGUMENT);
    assert_non_null(strstr(answer->message, "subsystems[0].name"));
    assert_non_null(strstr(answer->message, "\nand "));
    assert_non_null(strstr(answer->message, " more"));
    answer_free(answer);
}

static void test_a_stale_version_is_refused(void **state)
{
    struct world *world = *state;
    struct answer *answer;
    uint64_t version = status_of(world, &answer)->version;

    answer_free(answer);
    expect(apply(world, "subsystems: [{name: x1}]", false, version + 1), GRPC_ABORTED, "version");
    expect(apply(world, "subsystems: [{name: x1}]", false, version), GRPC_OK, "");
    expect(apply(world, "subsystems: [{name: x2}]", false, version), GRPC_ABORTED, "version");
}

struct progress {
    bool done;
    enum grpc_status status;
    char message[512];
    unsigned num;
    unsigned num_workloads;
    unsigned last_done, last_total;
    uint64_t epoch;
};

static void progress_on_message(void *arg, const ProtobufCMessage *msg)
{
    const Mortise__V1__RotateProgress *rotate =
        MSG_AS_CONST(Mortise__V1__RotateProgress, mortise__v1__rotate_progress__descriptor, msg);
    struct progress *progress = arg;

    progress->num++;
    progress->num_workloads += rotate->workload != NULL;
    progress->last_done = rotate->done;
    progress->last_total = rotate->total;
    progress->epoch = rotate->epoch;
}

static void progress_on_done(void *arg, const struct grpc_result *result)
{
    struct progress *progress = arg;

    progress->done = true;
    progress->status = result->status;
    (void)snprintf(progress->message, sizeof(progress->message), "%s", result->message);
}

static void rotate_begin_call(struct world *world, const char *subsystem, uint32_t timeout_s,
                              struct progress *progress)
{
    static const struct grpc_stream_events events = {.on_message = progress_on_message,
                                                     .on_done = progress_on_done};
    Mortise__V1__RotateRequest request = MORTISE__V1__ROTATE_REQUEST__INIT;
    char *names[] = {msg_lend(subsystem)};
    struct grpc_client_call *call =
        grpc_stream_open(world->operators, "/mortise.v1.OperatorService/Rotate",
                         &mortise__v1__rotate_progress__descriptor, 1 << 20, 0, &events, progress);

    request.subsystems = names;
    request.n_subsystems = subsystem != NULL;
    request.all = subsystem == NULL;
    request.wait = timeout_s != 0;
    request.timeout_s = timeout_s;
    assert_ok(grpc_stream_send(call, &request.base));
    grpc_stream_half_close(call);
}

/* A sidecar says that it has seen more than the store has; what it keeps is `id`'s, many times. */
static void stream_refuse_rollback(struct stream_of *stream, const char *id, size_t num)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__ErrorDetail error = MORTISE__V1__ERROR_DETAIL__INIT;
    Mortise__V1__Revocation kept = MORTISE__V1__REVOCATION__INIT;
    Mortise__V1__Revocation *all[2048];

    assert_true(num <= ARRAY_LEN(all));
    for (size_t i = 0; i < num; i++)
        all[i] = &kept;
    kept.spiffe_id = msg_lend(id);
    error.code = msg_lend("config_rollback");
    request.nonce = stream->response->nonce;
    request.error = &error;
    request.kept = all;
    request.n_kept = num;
    request.kept_total = (uint32_t)num;
    assert_ok(grpc_stream_send(stream->call, &request.base));
}

static Mortise__V1__Rollback *rollback_of(struct world *world, struct answer **out)
{
    Mortise__V1__GetRollbackRequest request = MORTISE__V1__GET_ROLLBACK_REQUEST__INIT;

    *out = ask(world, world->operators, "OperatorService/GetRollback", &request.base,
               &mortise__v1__rollback__descriptor);
    assert_int_equal((*out)->status, GRPC_OK);
    return MSG_AS(Mortise__V1__Rollback, mortise__v1__rollback__descriptor, (*out)->reply);
}

/* One sidecar's word is one word, and its numbers are not taken at face value: an epoch beyond all
 * others would leave no number for the next rotation. */
static void test_a_sidecar_that_lies_about_the_past(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:1");
    Mortise__V1__ConfirmRollbackRequest confirm = MORTISE__V1__CONFIRM_ROLLBACK_REQUEST__INIT;
    const Mortise__V1__Rollback *rollback;
    struct progress progress = {0};
    struct answer *answer;
    size_t num;

    stream_refuse_rollback(stream, "\x1b[2J", 3); /* nothing that could be revoked */
    do {
        rollback = rollback_of(world, &answer);
        num = rollback->n_witnesses;
        assert_int_equal(rollback->n_missing, 0);
        answer_free(answer);
    } while (num != 1);
    stream_close_free(stream);
    stream = stream_started(portal, "p", "10.0.0.1:1");
    stream_report_epoch(stream, UINT64_MAX - 1000);
    stream_refuse_rollback(stream, "spiffe://mesh.test/ns/default/sa/gateway", 3);
    do { /* it is on its way */
        rollback = rollback_of(world, &answer);
        num = rollback->n_missing;
        if (num > 0)
            assert_int_equal(rollback->missing[0]->witnesses, 1);
        answer_free(answer);
    } while (num == 0);
    assert_int_equal(num, 1);
    confirm.drop_revocations = true;
    expect(ask(world, world->operators, "OperatorService/ConfirmRollback", &confirm.base,
               &mortise__v1__rollback__descriptor),
           GRPC_OK, "");
    LOOP_UNTIL(world->loop, stream->done); /* it is to come again */
    stream_close_free(stream);
    rotate_begin_call(world, "portal", 0, &progress);
    LOOP_UNTIL(world->loop, progress.done);
    assert_int_equal(progress.status, GRPC_OK);
    assert_true(progress.epoch > 0 && progress.epoch < UINT64_C(1) << 33);
    /* And more than any sidecar tells is not listened to. */
    stream = stream_started(portal, "p", "10.0.0.1:1");
    stream_refuse_rollback(stream, "", 2048);
    LOOP_UNTIL(world->loop, stream->done);
    assert_int_equal(stream->status, GRPC_INVALID_ARGUMENT);
    assert_non_null(strstr(stream->message, "kept"));
    stream_close_free(stream);
    sidecar_free(portal);
}

static void test_a_rotation_waits_for_its_sidecar(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:1");
    struct progress progress = {0};
    EVP_PKEY *fresh = NULL;

    assert_ok(key_generate(&fresh));
    stream_ack(stream);
    rotate_begin_call(world, "portal", 10, &progress);
    LOOP_UNTIL(world->loop, stream->num == 2);
    assert_int_equal(stream->response->certificate_epoch, 1);
    stream_ack(stream);
    assert_false(progress.done);
    wear(portal, renew(portal, fresh, 1), fresh);
    stream_report_epoch(stream, 1);
    LOOP_UNTIL(world->loop, progress.done);
    assert_int_equal(progress.status, GRPC_OK);
    assert_int_equal(progress.last_done, 1);
    assert_int_equal(progress.last_total, 1);
    assert_int_equal(progress.num_workloads, 1);
    assert_int_equal(progress.num, 3);
    stream_close_free(stream);
    EVP_PKEY_free(fresh);
    sidecar_free(portal);
}

static void test_a_sidecar_that_does_not_renew_is_named(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "lazy-one", "10.0.0.1:1");
    struct progress progress = {0};

    rotate_begin_call(world, NULL, 1, &progress);
    LOOP_UNTIL(world->loop, progress.done);
    assert_int_equal(progress.status, GRPC_DEADLINE_EXCEEDED);
    assert_non_null(strstr(progress.message, "portal (lazy-one): no answer"));
    stream_close_free(stream);
    sidecar_free(portal);
}

static void test_rotations_of_nobody_and_of_strangers(void **state)
{
    struct world *world = *state;
    struct progress nobody = {0}, stranger = {0}, all = {0};

    rotate_begin_call(world, "nosuch", 1, &stranger);
    LOOP_UNTIL(world->loop, stranger.done);
    assert_int_equal(stranger.status, GRPC_NOT_FOUND);
    assert_non_null(strstr(stranger.message, "nosuch"));
    assert_non_null(strstr(stranger.message, "portal"));
    rotate_begin_call(world, "portal", 5, &nobody);
    LOOP_UNTIL(world->loop, nobody.done);
    assert_int_equal(nobody.status, GRPC_OK);
    assert_int_equal(nobody.last_total, 0);
    rotate_begin_call(world, NULL, 0, &all);
    LOOP_UNTIL(world->loop, all.done);
    assert_int_equal(all.status, GRPC_OK);
    assert_true(all.epoch > nobody.epoch);
}

/* ---------------------------------------------------------------------- revocations */

static struct answer *deny(struct world *world, const Mortise__V1__Revocation *revocation,
                           const char *reason)
{
    Mortise__V1__RevokeRequest request = MORTISE__V1__REVOKE_REQUEST__INIT;

    request.revocation = (Mortise__V1__Revocation *)(uintptr_t)revocation;
    request.reason = msg_lend(reason);
    return ask(world, world->operators, "OperatorService/Revoke", &request.base,
               &mortise__v1__revoke_response__descriptor);
}

static struct answer *revoke_serial(struct world *world, const char *serial)
{
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;

    revocation.serial = msg_lend(serial);
    return deny(world, &revocation, "");
}

static struct answer *revoke_id(struct world *world, const char *id)
{
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;

    revocation.spiffe_id = msg_lend(id);
    return deny(world, &revocation, "");
}

static struct answer *revoke_key(struct world *world, const uint8_t sha256[32], bool issuer)
{
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;
    char hex[2 * 32 + 1];

    bytes_to_hex(bytes_of(sha256, 32), hex);
    if (issuer)
        revocation.issuer_key_sha256 = hex;
    else
        revocation.key_sha256 = hex;
    return deny(world, &revocation, "");
}

static uint64_t revoked(struct answer *answer)
{
    uint64_t id;

    if (answer->status != GRPC_OK)
        fail_msg("%s: %s", grpc_status_name(answer->status), answer->message);
    id =
        MSG_AS(Mortise__V1__RevokeResponse, mortise__v1__revoke_response__descriptor, answer->reply)
            ->id;
    answer_free(answer);
    return id;
}

static struct answer *lift(struct world *world, uint64_t id)
{
    Mortise__V1__LiftRequest request = MORTISE__V1__LIFT_REQUEST__INIT;

    request.id = id;
    return ask(world, world->operators, "OperatorService/Lift", &request.base,
               &mortise__v1__revoke_response__descriptor);
}

static const Mortise__V1__ListRevocationsResponse *revocations(struct world *world,
                                                               struct answer **out)
{
    Mortise__V1__ListRevocationsRequest request = MORTISE__V1__LIST_REVOCATIONS_REQUEST__INIT;

    *out = ask(world, world->operators, "OperatorService/ListRevocations", &request.base,
               &mortise__v1__list_revocations_response__descriptor);
    assert_int_equal((*out)->status, GRPC_OK);
    return MSG_AS(Mortise__V1__ListRevocationsResponse,
                  mortise__v1__list_revocations_response__descriptor, (*out)->reply);
}

static size_t num_revocations(struct world *world)
{
    struct answer *answer;
    size_t num = revocations(world, &answer)->n_revocations;

    answer_free(answer);
    return num;
}

/* A slip of an operator's hand must not end the mesh, himself included. */
static void test_what_all_rest_on_cannot_be_denied(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    struct stream_of *stream = stream_started(portal, "p", "10.0.0.1:1");
    Mortise__V1__RotateControlRequest rotate = MORTISE__V1__ROTATE_CONTROL_REQUEST__INIT;
    char reason[258] = {0};
    Mortise__V1__Revocation other = MORTISE__V1__REVOCATION__INIT;
    struct peer *control = peer_ref(portal->control);
    uint64_t id;

    assert_true(control->num_issuers >= 2);
    for (size_t i = 0; i < 2; i++) /* the issuer's and the root's */
        expect(revoke_key(world, control->issuers[i].key_sha256, true), GRPC_FAILED_PRECONDITION,
               "certificates of this mesh rest on that key");
    expect(revoke_serial(world, control->serial), GRPC_FAILED_PRECONDITION, "rotate control");
    expect(revoke_key(world, control->key_sha256, false), GRPC_FAILED_PRECONDITION,
           "rotate control");
    expect(revoke_id(world, "spiffe://mesh.test/mortise/control"), GRPC_FAILED_PRECONDITION,
           "that is this control plane");
    /* Nor is anything guessed from what says nothing. */
    expect(deny(world, NULL, ""), GRPC_INVALID_ARGUMENT, "revocation: is missing");
    expect(revoke_id(world, "portal"), GRPC_INVALID_ARGUMENT, "");
    other.spiffe_id = msg_lend(PORTAL);
    memset(reason, 'x', sizeof(reason) - 1);
    expect(deny(world, &other, reason), GRPC_INVALID_ARGUMENT, "reason: at most 256 bytes");
    assert_int_equal(num_revocations(world), 0);
    assert_false(stream->done);

    /* With another one in its place the old certificate may be denied. */
    expect(ask(world, world->operators, "OperatorService/RotateControl", &rotate.base,
               &mortise__v1__rotate_control_response__descriptor),
           GRPC_OK, "");
    id = revoked(revoke_serial(world, control->serial));
    expect(lift(world, id), GRPC_OK, "");
    peer_unref(control);
    stream_close_free(stream);
    sidecar_free(portal);
}

/* Of one of our certificates the revocation ends with it; asked for twice it is one. */
static void test_a_revocation_is_told_as_it_is(void **state)
{
    struct world *world = *state;
    struct sidecar *portal = joined(world, "portal");
    Mortise__V1__Revocation strange = MORTISE__V1__REVOCATION__INIT;
    const Mortise__V1__ListRevocationsResponse *list;
    struct answer *answer;
    uint64_t id, other;

    id = revoked(revoke_serial(world, portal->svid->serial));
    assert_int_equal(revoked(revoke_serial(world, portal->svid->serial)), id);
    strange.serial = msg_lend("0badc0de"); /* of somebody else, or of a backup's time */
    other = revoked(deny(world, &strange, "found on a disk"));
    assert_int_not_equal(other, id);
    list = revocations(world, &answer);
    assert_int_equal(list->n_revocations, 2);
    assert_int_equal(list->revocations[0]->id, id);
    assert_int_equal(list->revocations[0]->until, portal->svid->not_after);
    assert_string_equal(list->revocations[0]->revocation->serial, portal->svid->serial);
    assert_int_equal(list->revocations[1]->id, other);
    assert_int_equal(list->revocations[1]->until, 0);
    assert_string_equal(list->revocations[1]->reason, "found on a disk");
    assert_non_null(strstr(list->revocations[1]->by, "uid:"));
    assert_true(list->revocations[1]->revoked_at > 0);
    answer_free(answer);
    expect(lift(world, id), GRPC_OK, "");
    expect(lift(world, id), GRPC_NOT_FOUND, "there is no revocation");
    expect(lift(world, 999), GRPC_NOT_FOUND, "999");
    assert_int_equal(num_revocations(world), 1);
    sidecar_free(portal);
}

/* Nothing is said to be in force that the disk has not taken, nor lifted. */
static void test_a_disk_that_is_full_denies_nothing_by_halves(void **state)
{
    struct world *world = *state;
    struct rlimit was, none = {.rlim_cur = 0};
    uint64_t id = revoked(revoke_id(world, PORTAL));

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    none.rlim_max = was.rlim_max;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    {
        struct answer *denied = revoke_serial(world, "0badc0de"), *lifted = lift(world, id);
        size_t num = num_revocations(world);

        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0); /* cmocka writes, too */
        expect(denied, GRPC_FAILED_PRECONDITION, "store_unwritable");
        expect(lifted, GRPC_FAILED_PRECONDITION, "store_unwritable");
        assert_int_equal(num, 1);
    }
    expect(lift(world, id), GRPC_OK, "");
    assert_int_equal(num_revocations(world), 0);
}

/* So many as there may be, as if they had been asked for. */
static void fill_revocations(struct world *world)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/store.db", world->folder);
    static char serials[REVOCATIONS_MAX][16];
    Mortise__Control__Revocations record = MORTISE__CONTROL__REVOCATIONS__INIT;
    Mortise__Control__RevocationRecord *entries = mem_array(REVOCATIONS_MAX, sizeof(*entries));
    Mortise__Control__RevocationRecord **list = mem_array(REVOCATIONS_MAX, sizeof(*list));
    Mortise__V1__Revocation *whom = mem_array(REVOCATIONS_MAX, sizeof(*whom));
    struct store *store = NULL;
    struct vault *vault;

    for (size_t i = 0; i < REVOCATIONS_MAX; i++) {
        mortise__v1__revocation__init(&whom[i]);
        mortise__control__revocation_record__init(&entries[i]);
        (void)snprintf(serials[i], sizeof(serials[i]), "7f%06zx", i);
        whom[i].serial = serials[i];
        entries[i].revocation = &whom[i];
        entries[i].id = ++record.last;
        list[i] = &entries[i];
    }
    record.entries = list;
    record.n_entries = REVOCATIONS_MAX;
    assert_ok(store_sqlite_open(path, 0, &store));
    vault = vault_new(store, &world->key);
    assert_ok(vault_put(vault, VAULT_REVOCATIONS, &record.base, STORE_ABSENT, NULL));
    vault_free(vault);
    mem_free(list);
    mem_free(entries);
    mem_free(whom);
}

static void test_no_more_are_denied_than_sidecars_take(void **state)
{
    struct world *world = *state;

    grpc_channel_close(world->operators);
    world_end_plane(world);
    fill_revocations(world);
    assert_ok(world_start(world));
    world_open_operators(world);
    expect(revoke_id(world, PORTAL), GRPC_RESOURCE_EXHAUSTED, "lift some");
    assert_int_equal(num_revocations(world), REVOCATIONS_MAX);
    expect(lift(world, 7), GRPC_OK, "");
    (void)revoked(revoke_id(world, PORTAL));
    assert_int_equal(num_revocations(world), REVOCATIONS_MAX);
}

/* -------------------------------------------------------------------------- wrong ends */

static void test_a_sidecar_meets_only_the_control_plane(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = sidecar_new(world);

    /* Had the server any other identity of this very mesh, the token would not be sent. */
    mem_free(sidecar->control_id);
    sidecar->control_id = mem_strdup(PORTAL);
    {
        Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
        struct answer answer = {0};
        struct grpc_client_call *call =
            grpc_unary(sidecar->channel, "/mortise.v1.OperatorService/Status", &request.base,
                       &mortise__v1__status_response__descriptor, DEADLINE_MS, on_answer, &answer);

        LOOP_UNTIL(world->loop, !err_is_ok(sidecar->failed));
        assert_code(sidecar->failed, PEER_IDENTITY);
        grpc_client_cancel(call);
    }
    sidecar_free(sidecar);
}

static void test_a_certificate_of_another_mesh_is_refused_at_the_handshake(void **state)
{
    struct world *world = *state;
    struct sidecar *sidecar = joined(world, "portal");
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
    CLEANUP(mem_freep) char *db = mem_printf("%s/store.db", world->folder);
    struct bundle *roots;
    struct answer answer = {0};
    struct grpc_client_call *call;

    /* The same names, another root: the mesh was made anew. */
    grpc_channel_close(world->operators);
    world_end_plane(world);
    assert_int_equal(unlink(db), 0);
    assert_ok(world_start(world));
    world_open_operators(world);
    roots = roots_of(world);
    bundle_unref(sidecar->roots);
    sidecar->roots = roots; /* it trusts the new server, and shows its old certificate */
    sidecar->failed = OK;
    sidecar_open(sidecar);
    call = grpc_unary(sidecar->channel, "/mortise.v1.OperatorService/Status", &request.base,
                      &mortise__v1__status_response__descriptor, DEADLINE_MS, on_answer, &answer);
    LOOP_UNTIL(world->loop, !err_is_ok(sidecar->failed) || answer.done);
    assert_false(answer.done && answer.status == GRPC_OK);
    assert_code(sidecar->failed, TLS_ALERT);
    if (!answer.done)
        grpc_client_cancel(call);
    pb_free(answer.reply);
    sidecar_free(sidecar);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_second_start_finds_what_the_first_made),
        TEST(test_starts_that_must_not_be),
        TEST(test_a_first_start_needs_a_name),
        TEST(test_an_end_in_order_sends_everybody_away),
        TEST(test_a_certificate_is_made_of_our_record),
        TEST(test_a_token_is_one_keys),
        TEST(test_tokens_presented_together_are_judged_one_by_one),
        TEST(test_a_bad_request_uses_no_token_up),
        TEST(test_floods_are_limited),
        TEST(test_a_sidecar_that_lies_about_the_past),
        TEST(test_a_crowd_waits_for_its_turn),
        TEST(test_a_renewal_needs_a_certificate_and_a_fresh_key),
        TEST(test_a_sidecar_may_not_do_an_operators_work),
        TEST(test_an_admins_certificate_may),
        TEST(test_push_ack_nack_and_push_again),
        TEST(test_streams_that_break_the_rules_end),
        TEST(test_a_newer_stream_of_a_process_replaces_the_older),
        TEST(test_a_subsystem_that_leaves_is_cut_off),
        TEST(test_a_bad_document_is_told_whole_and_changes_nothing),
        TEST(test_more_faults_than_fit_are_counted),
        TEST(test_a_stale_version_is_refused),
        TEST(test_a_rotation_waits_for_its_sidecar),
        TEST(test_a_sidecar_that_does_not_renew_is_named),
        TEST(test_rotations_of_nobody_and_of_strangers),
        TEST(test_what_all_rest_on_cannot_be_denied),
        TEST(test_a_revocation_is_told_as_it_is),
        TEST(test_a_disk_that_is_full_denies_nothing_by_halves),
        TEST(test_no_more_are_denied_than_sidecars_take),
        TEST(test_a_sidecar_meets_only_the_control_plane),
        TEST(test_a_certificate_of_another_mesh_is_refused_at_the_handshake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
