/* gRPC's framing and texts: split anywhere, limits to the byte, saturation instead of overflow.
 * Drives: R14, F2. */
#include "lib/rpc/grpc_frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static const char three[] = "\0\0\0\0\x05hello\0\0\0\0\0\0\0\0\0\x02hi";
#define THREE_LEN (sizeof(three) - 1)

/* Takes all whole messages out, joined with commas. */
static void drain(struct grpc_decoder *decoder, struct buf *out)
{
    struct bytes message;
    err_t err;

    while (err_is_ok(err = grpc_decoder_next(decoder, &message))) {
        assert_true(err_is_ok(buf_add(out, message.ptr, message.len)));
        assert_true(err_is_ok(buf_add(out, ",", 1)));
    }
    assert_int_equal(err.code, E_AGAIN);
}

static void test_messages_come_out_wherever_frames_are_split(void **state)
{
    (void)state;
    for (size_t first = 0; first <= THREE_LEN; first++) {
        for (size_t second = first; second <= THREE_LEN; second++) {
            struct grpc_decoder decoder;
            struct buf out = {NULL, 0, 0, 0, 0};

            grpc_decoder_init(&decoder, 5);
            assert_true(err_is_ok(grpc_decoder_feed(&decoder, bytes_of(three, first))));
            drain(&decoder, &out);
            assert_true(
                err_is_ok(grpc_decoder_feed(&decoder, bytes_of(three + first, second - first))));
            drain(&decoder, &out);
            assert_true(err_is_ok(
                grpc_decoder_feed(&decoder, bytes_of(three + second, THREE_LEN - second))));
            drain(&decoder, &out);
            assert_true(bytes_equal_str(buf_view(&out), "hello,,hi,"));
            assert_true(grpc_decoder_idle(&decoder));
            grpc_decoder_fini(&decoder);
            buf_fini(&out);
        }
    }
}

static void test_half_a_message_is_not_idle(void **state)
{
    struct grpc_decoder decoder;
    struct bytes message;

    (void)state;
    grpc_decoder_init(&decoder, 100);
    assert_true(grpc_decoder_idle(&decoder));
    assert_true(err_is_ok(grpc_decoder_feed(&decoder, bytes_of(three, 3))));
    assert_int_equal(grpc_decoder_next(&decoder, &message).code, E_AGAIN);
    assert_false(grpc_decoder_idle(&decoder));
    assert_true(err_is_ok(grpc_decoder_feed(&decoder, bytes_of(three + 3, 7))));
    assert_true(err_is_ok(grpc_decoder_next(&decoder, &message)));
    assert_true(grpc_decoder_idle(&decoder)); /* though the message is still lent out */
    assert_true(bytes_equal_str(message, "hello"));
    grpc_decoder_fini(&decoder);
}

static void test_length_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (uint32_t len = 999; len <= 1001; len++) {
        uint8_t in[5 + 1001] = {0};
        struct grpc_decoder decoder;
        struct bytes message;
        err_t err;

        put_be32(in + 1, len);
        grpc_decoder_init(&decoder, 1000);
        err = grpc_decoder_feed(&decoder, bytes_of(in, 5 + len));
        if (err_is_ok(err))
            err = grpc_decoder_next(&decoder, &message);
        assert_int_equal(err.code, len <= 1000 ? E_OK : E_TOO_LARGE);
        grpc_decoder_fini(&decoder);
    }
}

/* The announced length is enough: nothing of the message is kept, whatever comes in one feed or
 * many. */
static void test_too_long_is_refused_by_its_announcement(void **state)
{
    static const uint8_t prefix[] = {0, 0xff, 0xff, 0xff, 0xff};

    (void)state;
    for (size_t split = 0; split < sizeof(prefix); split++) {
        struct grpc_decoder decoder;

        grpc_decoder_init(&decoder, 1000);
        assert_true(err_is_ok(grpc_decoder_feed(&decoder, bytes_of(prefix, split))));
        assert_int_equal(
            grpc_decoder_feed(&decoder, bytes_of(prefix + split, sizeof(prefix) - split)).code,
            E_TOO_LARGE);
        assert_true(decoder.buf.cap < 1000);
        grpc_decoder_fini(&decoder);
    }
}

static void test_second_message_too_long_is_refused_behind_the_first(void **state)
{
    static const char in[] = "\0\0\0\0\x01x\0\0\0\0\x06";
    struct grpc_decoder decoder;
    struct bytes message;

    (void)state;
    grpc_decoder_init(&decoder, 5);
    assert_true(err_is_ok(grpc_decoder_feed(&decoder, bytes_of(in, sizeof(in) - 1))));
    assert_true(err_is_ok(grpc_decoder_next(&decoder, &message)));
    assert_int_equal(grpc_decoder_next(&decoder, &message).code, E_TOO_LARGE);
    grpc_decoder_fini(&decoder);
}

static void test_compressed_messages_are_refused(void **state)
{
    (void)state;
    for (unsigned flag = 1; flag < 256; flag++) {
        uint8_t in[] = {(uint8_t)flag, 0, 0, 0, 0};
        struct grpc_decoder decoder;

        grpc_decoder_init(&decoder, 100);
        assert_int_equal(grpc_decoder_feed(&decoder, bytes_of(in, 5)).code, E_GRPC_FRAME);
        grpc_decoder_fini(&decoder);
    }
}

static void test_undrained_decoder_does_not_grow_without_bound(void **state)
{
    static uint8_t zeros[1 << 16];
    struct grpc_decoder decoder;
    err_t err = OK;
    size_t fed = 0;

    (void)state;
    grpc_decoder_init(&decoder, 10);
    while (err_is_ok(err) && fed < 100u << 20) {
        err = grpc_decoder_feed(&decoder, bytes_of(zeros, sizeof(zeros)));
        fed += sizeof(zeros);
    }
    assert_int_equal(err.code, E_TOO_LARGE);
    assert_true(fed <= 2u << 20);
    grpc_decoder_fini(&decoder);
}

static void test_frame_add_is_what_the_decoder_reads(void **state)
{
    struct buf out = {NULL, 0, 0, 0, 0};

    (void)state;
    assert_true(err_is_ok(grpc_frame_add(&out, bytes_of_str("hello"))));
    assert_true(err_is_ok(grpc_frame_add(&out, bytes_of(NULL, 0))));
    assert_true(err_is_ok(grpc_frame_add(&out, bytes_of_str("hi"))));
    assert_true(bytes_equal(buf_view(&out), bytes_of(three, THREE_LEN)));
    buf_fini(&out);
}

static uint64_t timeout_of(const char *text)
{
    uint64_t ms = 0;

    assert_true(err_is_ok(grpc_timeout_parse(bytes_of_str(text), &ms)));
    return ms;
}

static void test_timeouts_are_read(void **state)
{
    (void)state;
    assert_int_equal(timeout_of("1H"), 3600000);
    assert_int_equal(timeout_of("2M"), 120000);
    assert_int_equal(timeout_of("3S"), 3000);
    assert_int_equal(timeout_of("4m"), 4);
    assert_int_equal(timeout_of("1000u"), 1);
    assert_int_equal(timeout_of("1001u"), 2);
    assert_int_equal(timeout_of("1n"), 1);
    assert_int_equal(timeout_of("0S"), 0);
    assert_int_equal(timeout_of("99999999H"), (uint64_t)99999999 * 3600000);
}

static void test_malformed_timeouts_are_refused(void **state)
{
    static const char *const bad[] = {"",    "S",   "1",   "123456789S", "1s", "-1S", "+1S",
                                      " 1S", "1 S", "1S ", "1.5S",       "1h", "0x1S"};
    uint64_t ms;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(grpc_timeout_parse(bytes_of_str(bad[i]), &ms).code, E_SYNTAX);
    assert_int_equal(grpc_timeout_parse(bytes_of("1\0S", 3), &ms).code, E_SYNTAX);
}

static void test_timeouts_are_written_so_that_they_are_not_shortened(void **state)
{
    static const uint64_t values[] = {0,         1,          99999999,          100000000,
                                      100000001, 9999999999, 5999999940000,     359999996400000,
                                      1u << 31,  UINT64_MAX, UINT64_MAX / 1000, 360000000000001};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char text[16];
        uint64_t ms;

        grpc_timeout_format(values[i], text);
        ms = timeout_of(text);
        if (values[i] <= (uint64_t)99999999 * 3600000)
            assert_true(ms >= values[i] && ms - values[i] < 3600000);
        else
            assert_int_equal(ms, (uint64_t)99999999 * 3600000);
    }
}

static void test_messages_are_escaped_and_back(void **state)
{
    static const char text[] = "100% n\xc3\xb6\ttest\n~\x7f";
    struct buf encoded = {NULL, 0, 0, 0, 0}, decoded = {NULL, 0, 0, 0, 0};

    (void)state;
    assert_true(err_is_ok(grpc_message_encode(text, &encoded)));
    assert_true(bytes_equal_str(buf_view(&encoded), "100%25 n%C3%B6%09test%0A~%7F"));
    assert_true(err_is_ok(grpc_message_decode(buf_view(&encoded), &decoded)));
    assert_true(bytes_equal_str(buf_view(&decoded), text));
    buf_fini(&encoded);
    buf_fini(&decoded);
}

static void test_bad_escapes_stay_as_they_are(void **state)
{
    struct buf out = {NULL, 0, 0, 0, 0};

    (void)state;
    assert_true(err_is_ok(grpc_message_decode(bytes_of_str("%4a%4A %zz %4 %"), &out)));
    assert_true(bytes_equal_str(buf_view(&out), "JJ %zz %4 %"));
    buf_fini(&out);
}

static void test_names_and_mappings(void **state)
{
    (void)state;
    assert_string_equal(grpc_status_name(GRPC_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(grpc_status_name((enum grpc_status)17), "UNKNOWN");
    assert_string_equal(grpc_status_name((enum grpc_status) - 1), "UNKNOWN");
    assert_int_equal(grpc_status_of_http(400), GRPC_INTERNAL);
    assert_int_equal(grpc_status_of_http(401), GRPC_UNAUTHENTICATED);
    assert_int_equal(grpc_status_of_http(403), GRPC_PERMISSION_DENIED);
    assert_int_equal(grpc_status_of_http(404), GRPC_UNIMPLEMENTED);
    assert_int_equal(grpc_status_of_http(429), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_http(431), GRPC_INTERNAL);
    assert_int_equal(grpc_status_of_http(502), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_http(503), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_http(504), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_http(200), GRPC_UNKNOWN);
    assert_int_equal(grpc_status_of_http(-1), GRPC_UNKNOWN);
    assert_int_equal(grpc_status_of_rst(0x7), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_rst(0x8), GRPC_CANCELLED);
    assert_int_equal(grpc_status_of_rst(0xb), GRPC_RESOURCE_EXHAUSTED);
    assert_int_equal(grpc_status_of_rst(0xc), GRPC_PERMISSION_DENIED);
    assert_int_equal(grpc_status_of_rst(0x0), GRPC_INTERNAL);
    assert_int_equal(grpc_status_of_rst(0xffffffff), GRPC_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_come_out_wherever_frames_are_split),
        cmocka_unit_test(test_half_a_message_is_not_idle),
        cmocka_unit_test(test_length_below_at_and_above_the_limit),
        cmocka_unit_test(test_too_long_is_refused_by_its_announcement),
        cmocka_unit_test(test_second_message_too_long_is_refused_behind_the_first),
        cmocka_unit_test(test_compressed_messages_are_refused),
        cmocka_unit_test(test_undrained_decoder_does_not_grow_without_bound),
        cmocka_unit_test(test_frame_add_is_what_the_decoder_reads),
        cmocka_unit_test(test_timeouts_are_read),
        cmocka_unit_test(test_malformed_timeouts_are_refused),
        cmocka_unit_test(test_timeouts_are_written_so_that_they_are_not_shortened),
        cmocka_unit_test(test_messages_are_escaped_and_back),
        cmocka_unit_test(test_bad_escapes_stay_as_they_are),
        cmocka_unit_test(test_names_and_mappings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
