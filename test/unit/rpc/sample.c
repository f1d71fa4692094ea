#include "test/unit/rpc/sample.h"

#include <float.h>

#include "lib/base/mem.h"

const ProtobufCMessage *sample_full(void)
{
    static int32_t numbers[] = {0, -1, INT32_MAX, INT32_MIN, 300};
    static char w0[] = "one", w1[] = "", w2[] = "tw\xc3\xb6", w3[] = "no", text[] = "spiffe://a/b";
    static char lines[] = "-----BEGIN X-----\nabc=\n\n-----END X-----\n", odd[] = "\x01\"\\\n\t ";
    static char *words[] = {w0, w1, w2, w3};
    static uint8_t bytes[] = {0, 0xff, 1, 2};
    static ProtobufCBinaryData blobs[] = {{4, bytes}, {0, NULL}, {1, bytes}};
    static Mortise__Test__Sample__Color colors[] = {
        MORTISE__TEST__SAMPLE__COLOR__RED,
        MORTISE__TEST__SAMPLE__COLOR__NO,
        MORTISE__TEST__SAMPLE__COLOR__COLOR_UNSPECIFIED,
    };
    static double reals[] = {0, -1.5, DBL_MAX, 1e-300};
    static protobuf_c_boolean flags[] = {1, 0};
    static uint32_t fixed[] = {0, UINT32_MAX};
    static Mortise__Test__Sample leaf = MORTISE__TEST__SAMPLE__INIT;
    static Mortise__Test__Sample empty = MORTISE__TEST__SAMPLE__INIT;
    static Mortise__Test__Sample *children[] = {&leaf, &empty};
    static Mortise__Test__Sample full = MORTISE__TEST__SAMPLE__INIT;

    leaf.text = lines;
    leaf.choice_case = MORTISE__TEST__SAMPLE__CHOICE_CHOICE_NUMBER; /* set, to its default */
    full.i32 = INT32_MIN;
    full.i64 = INT64_MIN;
    full.u32 = UINT32_MAX;
    full.u64 = UINT64_MAX;
    full.s32 = -2;
    full.s64 = INT64_MAX;
    full.f32 = 7;
    full.f64 = 8;
    full.sf32 = -9;
    full.sf64 = -10;
    full.real = 0.1F;
    full.precise = 0.1;
    full.flag = 1;
    full.color = MORTISE__TEST__SAMPLE__COLOR__GREEN;
    full.text = text;
    full.data = (ProtobufCBinaryData){4, bytes};
    full.child = &leaf;
    full.numbers = numbers;
    full.n_numbers = ARRAY_LEN(numbers);
    full.words = words;
    full.n_words = ARRAY_LEN(words);
    full.children = children;
    full.n_children = ARRAY_LEN(children);
    full.blobs = blobs;
    full.n_blobs = ARRAY_LEN(blobs);
    full.colors = colors;
    full.n_colors = ARRAY_LEN(colors);
    full.choice_case = MORTISE__TEST__SAMPLE__CHOICE_CHOICE_TEXT;
    full.choice_text = odd;
    full.two_words = w0;
    full.reals = reals;
    full.n_reals = ARRAY_LEN(reals);
    full.flags = flags;
    full.n_flags = ARRAY_LEN(flags);
    full.fixed = fixed;
    full.n_fixed = ARRAY_LEN(fixed);
    return &full.base;
}
