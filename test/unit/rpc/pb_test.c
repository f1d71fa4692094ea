/* Messages of peers: what is sound is unpacked, what is not is refused before protobuf-c sees it,
 * and no message costs memory or stack out of proportion. Drives: R14, R16, F2. */
#include "lib/rpc/pb.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "proto/mesh/discovery.pb-c.h"
#include "test/unit/rpc/sample.h"

#define SAMPLE (&mortise__test__sample__descriptor)

static err_t unpack_bytes(const void *ptr, size_t len, ProtobufCMessage **out)
{
    return pb_unpack(SAMPLE, bytes_of(ptr, len), 1 << 20, out);
}

/* Unpacks and throws away. */
static err_t judge(const void *ptr, size_t len)
{
    ProtobufCMessage *msg = NULL;
    err_t err = unpack_bytes(ptr, len, &msg);

    assert_true(err_is_ok(err) == (msg != NULL));
    pb_free(msg);
    return err;
}

#define JUDGE(literal) judge((literal), sizeof(literal) - 1)

static struct buf packed_sample(void)
{
    struct buf packed = {NULL, 0, 0, 0, 0};

    assert_true(err_is_ok(pb_pack(sample_full(), &packed)));
    return packed;
}

static void test_every_kind_of_field_survives(void **state)
{
    struct buf packed = packed_sample();
    ProtobufCMessage *msg = NULL;

    (void)state;
    assert_true(err_is_ok(unpack_bytes(buf_view(&packed).ptr, buf_size(&packed), &msg)));
    assert_true(pb_equal(msg, sample_full()));
    pb_free(msg);
    buf_fini(&packed);
}

static void test_nothing_is_a_message_with_defaults(void **state)
{
    ProtobufCMessage *msg = NULL;

    (void)state;
    assert_true(err_is_ok(pb_unpack(SAMPLE, bytes_of(NULL, 0), 0, &msg)));
    assert_string_equal(((Mortise__Test__Sample *)msg)->text, "");
    pb_free(msg);
    pb_free(NULL);
}

static void test_clone_is_equal_and_apart(void **state)
{
    ProtobufCMessage *clone = pb_clone(sample_full());
    Mortise__Test__Sample other = MORTISE__TEST__SAMPLE__INIT;
    Mortise__V1__Node node = MORTISE__V1__NODE__INIT;

    (void)state;
    assert_true(pb_equal(clone, sample_full()));
    ((Mortise__Test__Sample *)clone)->i32++;
    assert_false(pb_equal(clone, sample_full()));
    assert_false(pb_equal(&other.base, &node.base)); /* both encode to nothing */
    pb_free(clone);
}

/* A cut message is refused, or is whole fields; never read beyond its end (ASan sees to that). */
static void test_cut_at_every_byte(void **state)
{
    struct buf packed = packed_sample();
    size_t refused = 0;

    (void)state;
    for (size_t len = 0; len < buf_size(&packed); len++) {
        uint8_t *copy = mem_dup(buf_view(&packed).ptr, len); /* exactly sized */

        refused += !err_is_ok(judge(copy, len));
        mem_free(copy);
    }
    assert_true(refused > buf_size(&packed) / 2);
    buf_fini(&packed);
}

static void test_every_byte_changed_to_every_value(void **state)
{
    struct buf packed = packed_sample();
    uint8_t *copy = mem_dup(buf_view(&packed).ptr, buf_size(&packed));
    size_t refused = 0;

    (void)state;
    for (size_t at = 0; at < buf_size(&packed); at++) {
        uint8_t kept = copy[at];

        for (unsigned value = 0; value < 256; value++) {
            copy[at] = (uint8_t)value;
            refused += !err_is_ok(judge(copy, buf_size(&packed)));
        }
        copy[at] = kept;
    }
    assert_true(refused > 0);
    mem_free(copy);
    buf_fini(&packed);
}

/* `depth` messages inside each other, the innermost empty. */
static struct buf nested(unsigned depth)
{
    struct buf out = {NULL, 0, 0, 0, 0};

    for (unsigned i = 1; i < depth; i++) {
        uint8_t prefix[4] = {0x8a, 0x01}; /* field 17, length-prefixed */
        size_t len = buf_size(&out), prefix_len = 3;
        struct buf outer = {NULL, 0, 0, 0, 0};

        prefix[2] = (uint8_t)(len & 0x7f);
        if (len > 0x7f) {
            prefix[2] |= 0x80;
            prefix[3] = (uint8_t)(len >> 7);
            prefix_len = 4;
        }
        assert_true(err_is_ok(buf_add(&outer, prefix, prefix_len)));
        assert_true(err_is_ok(buf_add(&outer, buf_view(&out).ptr, len)));
        buf_fini(&out);
        out = outer;
    }
    return out;
}

static void test_depth_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (unsigned depth = PB_DEPTH_MAX - 1; depth <= PB_DEPTH_MAX + 1; depth++) {
        struct buf in = nested(depth);
        err_t err = judge(buf_view(&in).ptr, buf_size(&in));

        assert_int_equal(err.code, depth <= PB_DEPTH_MAX ? E_OK : E_PB_TOO_DEEP);
        buf_fini(&in);
    }
}

static void test_a_thousand_deep_is_refused_on_little_stack(void **state)
{
    struct buf in = nested(1000);

    (void)state;
    assert_int_equal(judge(buf_view(&in).ptr, buf_size(&in)).code, E_PB_TOO_DEEP);
    buf_fini(&in);
}

static void test_size_below_at_and_above_the_limit(void **state)
{
    static const char in[] = "\x7a\x05hello"; /* field 15 */
    ProtobufCMessage *msg;

    (void)state;
    for (size_t max = 6; max <= 8; max++) {
        err_t err = pb_unpack(SAMPLE, bytes_of(in, 7), max, &msg);

        assert_int_equal(err.code, max >= 7 ? E_OK : E_TOO_LARGE);
        if (err_is_ok(err))
            pb_free(msg);
    }
}

static void test_malformed_encodings_are_refused(void **state)
{
    (void)state;
    /* tags */
    assert_int_equal(JUDGE("\x00").code, E_PB_SYNTAX);                     /* field 0 */
    assert_int_equal(JUDGE("\x02\x00").code, E_PB_SYNTAX);                 /* field 0, bytes */
    assert_int_equal(JUDGE("\x80").code, E_PB_SYNTAX);                     /* cut */
    assert_int_equal(JUDGE("\xf8\xff\xff\xff\x1f\x00").code, E_PB_SYNTAX); /* 2^30 - 1 */
    assert_int_equal(JUDGE("\x80\x80\x80\x80\x80\x80\x01\x00").code, E_PB_SYNTAX);
    /* groups and wire types that do not exist */
    assert_int_equal(JUDGE("\x0b\x0c").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\xeb\x07\xec\x07").code, E_PB_SYNTAX); /* unknown field */
    assert_int_equal(JUDGE("\x0e\x00").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x0f\x00").code, E_PB_SYNTAX);
    /* varints */
    assert_int_equal(JUDGE("\x08").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").code, E_OK);
    assert_int_equal(JUDGE("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").code, E_PB_SYNTAX);
    /* fixed sizes */
    assert_int_equal(JUDGE("\x3d\x01\x02\x03").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x41\x01\x02\x03\x04\x05\x06\x07").code, E_PB_SYNTAX);
    /* lengths */
    assert_int_equal(JUDGE("\x7a\x05hell").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x7a\xff\xff\xff\xff\x0fhell").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hell").code, E_PB_SYNTAX);
}

static void test_wrong_wire_types_are_refused(void **state)
{
    (void)state;
    assert_int_equal(JUDGE("\x0d\x01\x02\x03\x04").code, E_PB_SYNTAX); /* int32 as fixed */
    assert_int_equal(JUDGE("\x0a\x01\x01").code, E_PB_SYNTAX);         /* int32 as bytes */
    assert_int_equal(JUDGE("\x78\x01").code, E_PB_SYNTAX);             /* string as number */
    assert_int_equal(JUDGE("\x88\x01\x01").code, E_PB_SYNTAX);         /* message as number */
    assert_int_equal(JUDGE("\x92\x01\x02\x01\x80").code, E_PB_SYNTAX); /* packed, cut inside */
    assert_int_equal(JUDGE("\xda\x01\x07"
                           "1234567")
                         .code,
                     E_PB_SYNTAX); /* packed doubles, not a multiple of 8 */
    /* repeated numbers come packed or not */
    assert_int_equal(JUDGE("\x90\x01\x05\x90\x01\x06").code, E_OK);
    assert_int_equal(JUDGE("\x92\x01\x02\x05\x06").code, E_OK);
    assert_int_equal(JUDGE("\x92\x01\x00").code, E_OK);
}

static void test_strings_must_be_text(void **state)
{
    (void)state;
    assert_int_equal(JUDGE("\x7a\x03h\xc3\xa4").code, E_OK);
    assert_int_equal(JUDGE("\x7a\x03h\xc3x").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x7a\x02\xc0\x80").code, E_PB_SYNTAX);         /* overlong NUL */
    assert_int_equal(JUDGE("\x7a\x03\xed\xa0\x80").code, E_PB_SYNTAX);     /* surrogate */
    assert_int_equal(JUDGE("\x7a\x04\xf4\x90\x80\x80").code, E_PB_SYNTAX); /* > U+10FFFF */
    assert_int_equal(JUDGE("\x7a\x03"
                           "a\0b")
                         .code,
                     E_PB_SYNTAX);
    assert_int_equal(JUDGE("\x9a\x01\x01\xff").code, E_PB_SYNTAX); /* repeated string */
    assert_int_equal(JUDGE("\x82\x01\x03"
                           "a\0\xff")
                         .code,
                     E_OK); /* bytes may be anything */
}

static void test_unknown_fields_are_carried(void **state)
{
    static const char in[] = "\xa0\x06\x01\xaa\x06\x02hi\xb5\x06\x01\x02\x03\x04";
    ProtobufCMessage *msg = NULL;
    struct buf packed = {NULL, 0, 0, 0, 0};

    (void)state;
    assert_true(err_is_ok(unpack_bytes(in, sizeof(in) - 1, &msg)));
    assert_int_equal(msg->n_unknown_fields, 3);
    assert_true(err_is_ok(pb_pack(msg, &packed)));
    assert_true(bytes_equal(buf_view(&packed), bytes_of(in, sizeof(in) - 1)));
    pb_free(msg);
    buf_fini(&packed);
}

/* protobuf-c merges them, at a cost that grows with the square of their number. */
static void test_a_message_field_that_comes_twice_is_refused(void **state)
{
    (void)state;
    assert_int_equal(JUDGE("\x8a\x01\x00").code, E_OK);
    assert_int_equal(JUDGE("\x8a\x01\x00\x8a\x01\x00").code, E_PB_SYNTAX);
    assert_int_equal(JUDGE("\xca\x01\x00\xca\x01\x00").code, E_PB_SYNTAX); /* in a oneof */
    assert_int_equal(JUDGE("\xa2\x01\x00\xa2\x01\x00").code, E_OK);        /* repeated */
    assert_int_equal(JUDGE("\x08\x01\x08\x02").code, E_OK);                /* scalar: the last */
}

static void test_the_last_member_of_a_oneof_stays(void **state)
{
    static const char in[] = "\xba\x01\x01x\xca\x01\x03\x7a\x01y\xc0\x01\x05";
    ProtobufCMessage *msg = NULL;

    (void)state;
    assert_true(err_is_ok(unpack_bytes(in, sizeof(in) - 1, &msg)));
    assert_int_equal(((Mortise__Test__Sample *)msg)->choice_case,
                     MORTISE__TEST__SAMPLE__CHOICE_CHOICE_NUMBER);
    pb_free(msg);
}

/* Two bytes on the wire make a struct of some 400: the budget ends that. */
static void test_memory_is_bounded_by_the_input(void **state)
{
    size_t num = 1 << 16;
    uint8_t *in = mem_alloc(num * 3);
    ProtobufCMessage *msg = NULL;
    size_t before;

    (void)state;
    for (size_t i = 0; i < num; i++)
        memcpy(in + i * 3, "\xa2\x01\x00", 3);
    before = mallinfo2().uordblks;
    assert_int_equal(pb_unpack(SAMPLE, bytes_of(in, num * 3), num * 3, &msg).code, E_TOO_LARGE);
    assert_int_equal(mallinfo2().uordblks, before); /* and nothing of it stays */
    /* a message that honest peers could send */
    assert_true(err_is_ok(pb_unpack(SAMPLE, bytes_of(in, 300), 300, &msg)));
    pb_free(msg);
    mem_free(in);
}

static void test_budget_fails_at_every_allocation(void **state)
{
    (void)state;
    /* Different numbers of children end the budget in different places of protobuf-c's clean-up. */
    for (size_t num = 200; num < 1200; num += 7) {
        uint8_t *in = mem_alloc(num * 8);
        ProtobufCMessage *msg = NULL;

        for (size_t i = 0; i < num; i++)
            memcpy(in + i * 8, "\xa2\x01\x05\x9a\x01\x02hi", 8);
        if (err_is_ok(pb_unpack(SAMPLE, bytes_of(in, num * 8), num * 8, &msg)))
            pb_free(msg);
        mem_free(in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_field_survives),
        cmocka_unit_test(test_nothing_is_a_message_with_defaults),
        cmocka_unit_test(test_clone_is_equal_and_apart),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_every_byte_changed_to_every_value),
        cmocka_unit_test(test_depth_below_at_and_above_the_limit),
        cmocka_unit_test(test_a_thousand_deep_is_refused_on_little_stack),
        cmocka_unit_test(test_size_below_at_and_above_the_limit),
        cmocka_unit_test(test_malformed_encodings_are_refused),
        cmocka_unit_test(test_wrong_wire_types_are_refused),
        cmocka_unit_test(test_strings_must_be_text),
        cmocka_unit_test(test_unknown_fields_are_carried),
        cmocka_unit_test(test_a_message_field_that_comes_twice_is_refused),
        cmocka_unit_test(test_the_last_member_of_a_oneof_stays),
        cmocka_unit_test(test_memory_is_bounded_by_the_input),
        cmocka_unit_test(test_budget_fails_at_every_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
