/* What a call carried is gone from memory when it is released, in both programs. Without it: keys
 * that the mesh was entrusted with, and tokens, lie in freed memory long after, for whoever can
 * read that of one of the programs. Every release of this process is looked at. Drives: R23. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "lib/net/loop.h"
#include "lib/net/tcp.h"
#include "lib/rpc/grpc_client.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/pb.h"
#include "test/testlib/recorder.h"
#include "test/unit/rpc/sample.h"

#define SAMPLE (&mortise__test__sample__descriptor)
#define TEXT_LEN 40000 /* more than a frame, and than a first piece of any buffer */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOOKED_AT 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define LOOKED_AT 0
#endif
#endif
#ifndef LOOKED_AT
#define LOOKED_AT 1
#endif

/* In no text of the program itself, but for its parts. */
static char marker[17];
static volatile bool looking;
static volatile unsigned dirty;

#if LOOKED_AT
void __libc_free(void *ptr);
void free(void *ptr);

void free(void *ptr)
{
    if (looking && ptr != NULL && memmem(ptr, malloc_usable_size(ptr), marker, 16) != NULL)
        dirty++;
    __libc_free(ptr);
}
#endif

static struct loop *loop;
static struct grpc_server *server;
static char folder[] = "/tmp/mortise-wiped-XXXXXX";
static bool answered;

static enum grpc_status authorize(void *arg, const struct grpc_peer *peer,
                                  const struct grpc_method *method, const char **out_reason)
{
    (void)arg;
    (void)peer;
    (void)method;
    (void)out_reason;
    return GRPC_OK;
}

static void on_call(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)service;
    assert_int_equal(strlen(((const Mortise__Test__Sample *)msg)->text), TEXT_LEN);
    grpc_call_reply(call, msg); /* the same way back */
}

static const struct grpc_method methods[] = {
    {.path = "/t/Echo",
     .in = &mortise__test__sample__descriptor,
     .out = &mortise__test__sample__descriptor,
     .max_message = 1 << 20,
     .on_message = on_call},
};

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct grpc_peer who = {.uid = 1};
    struct stream *stream;

    (void)arg;
    (void)peer;
    assert_true(err_is_ok(tcp_new(loop, fd, &stream)));
    grpc_server_accept(server, stream, &who);
}

static void on_answer(void *arg, const struct grpc_result *result, const ProtobufCMessage *reply)
{
    (void)arg;
    assert_int_equal(result->status, GRPC_OK);
    assert_int_equal(strlen(((const Mortise__Test__Sample *)reply)->text), TEXT_LEN);
    answered = true;
}

static char *secret(void)
{
    char *text = mem_alloc(TEXT_LEN + 1);

    for (size_t i = 0; i < 16; i++)
        marker[i] = (char)('A' + (i * 7 + 3) % 26);
    for (size_t i = 0; i < TEXT_LEN; i++)
        text[i] = marker[i % 16];
    text[TEXT_LEN] = '\0';
    return text;
}

static void test_a_call_leaves_nothing_of_what_it_carried(void **state)
{
    char path[64], target[80];
    struct listener_params params = {.unix_mode = 0600, .on_accept = on_accept};
    Mortise__Test__Sample request = MORTISE__TEST__SAMPLE__INIT;
    struct grpc_channel *channel;
    struct listener *listener;
    char *text = secret();

    (void)state;
    if (!LOOKED_AT) {
        mem_free(text);
        skip();
    }
    (void)snprintf(path, sizeof(path), "%s/s", folder);
    (void)snprintf(target, sizeof(target), "unix:%s", path);
    server = grpc_server_new(loop, &(struct grpc_server_params){.authorize = authorize});
    grpc_server_add(server, methods, 1, NULL);
    assert_true(err_is_ok(addr_parse(target, &params.addr)));
    assert_true(err_is_ok(listener_new(loop, &params, &listener)));
    listener_start(listener);
    channel = grpc_channel_new(loop, &(struct grpc_channel_params){.target = target});
    request.text = text;
    looking = true;
    assert_non_null(grpc_unary(channel, "/t/Echo", &request.base, SAMPLE, 0, on_answer, NULL));
    for (int i = 0; i < 100 && !answered; i++)
        looptest_settle(loop);
    assert_true(answered);
    grpc_channel_close(channel);
    listener_close(listener);
    looptest_settle(loop);
    grpc_server_free(server);
    looptest_settle(loop);
    looking = false;
    assert_int_equal(dirty, 0);

    /* That it would be seen. */
    looking = true;
    mem_free(text);
    looking = false;
    assert_int_equal(dirty, 1);
}

static void test_a_message_leaves_nothing(void **state)
{
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    ProtobufCMessage *clone;
    char *text = secret();

    (void)state;
    if (!LOOKED_AT) {
        mem_free(text);
        skip();
    }
    msg.text = text;
    dirty = 0;
    looking = true;
    clone = pb_clone(&msg.base);
    assert_true(pb_equal(&msg.base, clone));
    pb_free(clone);
    looking = false;
    assert_int_equal(dirty, 0);
    mem_free(text);
}

static int group_setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    loop = loop_new(&clock_system);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    loop_free(loop);
    (void)rmdir(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_leaves_nothing_of_what_it_carried),
        cmocka_unit_test(test_a_message_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
