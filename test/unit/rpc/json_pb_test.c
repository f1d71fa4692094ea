/* Configuration texts: what is right becomes a message and comes back the same; what is wrong is
 * told with the path of the field, all at once, and nothing of it is taken. Drives: R14, R61.
 */
#include "lib/rpc/json_pb.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/resource.pb-c.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "test/unit/rpc/sample.h"

#define SAMPLE (&mortise__test__sample__descriptor)
#define MESH (&mortise__v1__mesh__descriptor)

static ProtobufCMessage *parse_ok(enum json_pb_format format, const char *text,
                                  const ProtobufCMessageDescriptor *desc)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    ProtobufCMessage *msg = NULL;
    err_t err = json_pb_parse(format, "t", bytes_of_str(text), desc, faults, &msg);

    for (size_t i = 0; i < faults->num; i++)
        print_error("%s: %s\n", faults->items[i].path, faults->items[i].message);
    assert_true(err_is_ok(err));
    assert_int_equal(faults->total, 0);
    mem_free(faults);
    return msg;
}

/* Parses what is wrong; the faults as one text, to be released. */
static char *parse_faults(enum json_pb_format format, struct bytes text,
                          const ProtobufCMessageDescriptor *desc, enum err_code code)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    struct buf out = {NULL, 0, 0, 0, 0};
    ProtobufCMessage *msg = NULL;
    err_t err = json_pb_parse(format, "t", text, desc, faults, &msg);

    assert_int_equal(err.code, code);
    assert_null(msg);
    faults_text(faults, &out);
    faults_fini(faults);
    mem_free(faults);
    return buf_take_str(&out);
}

static void check_faults(enum json_pb_format format, const char *text,
                         const ProtobufCMessageDescriptor *desc, enum err_code code,
                         const char *expected)
{
    char *faults = parse_faults(format, bytes_of_str(text), desc, code);

    assert_string_equal(faults, expected);
    mem_free(faults);
}

#define YAML_FAULT(text, expected) \
    check_faults(JSON_PB_YAML, (text), SAMPLE, E_CONFIG_INVALID, (expected "\n"))
#define JSON_FAULT(text, expected) \
    check_faults(JSON_PB_JSON, (text), SAMPLE, E_CONFIG_INVALID, (expected "\n"))

static char *write_text(enum json_pb_format format, const ProtobufCMessage *msg)
{
    struct buf out = {NULL, 0, 0, 0, 0};

    assert_true(err_is_ok(json_pb_write(format, msg, &out)));
    return buf_take_str(&out);
}

static void check_round(enum json_pb_format format, const ProtobufCMessage *msg)
{
    char *text = write_text(format, msg);
    ProtobufCMessage *back = parse_ok(format, text, msg->descriptor);

    assert_true(pb_equal(msg, back));
    pb_free(back);
    mem_free(text);
}

static void test_every_kind_of_field_comes_back(void **state)
{
    Mortise__Test__Sample empty = MORTISE__TEST__SAMPLE__INIT;

    (void)state;
    check_round(JSON_PB_JSON, sample_full());
    check_round(JSON_PB_YAML, sample_full());
    check_round(JSON_PB_JSON, &empty.base);
    check_round(JSON_PB_YAML, &empty.base);
}

static void test_json_is_yaml_too(void **state)
{
    char *text = write_text(JSON_PB_JSON, sample_full());
    ProtobufCMessage *msg = parse_ok(JSON_PB_YAML, text, SAMPLE);

    (void)state;
    assert_true(pb_equal(msg, sample_full()));
    pb_free(msg);
    mem_free(text);
}

static const char mesh_yaml[] =
    "settings: {leaf_ttl_s: 86400}\n"
    "subsystems:\n"
    "  - {name: portal, namespace: apim}\n"
    "  - name: management # the other one\n"
    "profiles:\n"
    "  - {name: modern-client, role: CLIENT, minVersion: TLS1_3}\n"
    "links:\n"
    "  - {name: management-portal, client: management, server: portal,\n"
    "     client_port: 15101, server_port: 8080,\n"
    "     client_profile: modern-client}\n";

static const char mesh_written[] = "settings:\n"
                                   "  leaf_ttl_s: 86400\n"
                                   "subsystems:\n"
                                   "  - name: portal\n"
                                   "    namespace: apim\n"
                                   "  - name: management\n"
                                   "profiles:\n"
                                   "  - name: modern-client\n"
                                   "    role: CLIENT\n"
                                   "    min_version: TLS1_3\n"
                                   "links:\n"
                                   "  - name: management-portal\n"
                                   "    client: management\n"
                                   "    server: portal\n"
                                   "    client_port: 15101\n"
                                   "    server_port: 8080\n"
                                   "    client_profile: modern-client\n";

static void test_mesh_document(void **state)
{
    ProtobufCMessage *msg = parse_ok(JSON_PB_YAML, mesh_yaml, MESH);
    Mortise__V1__Mesh *mesh = (Mortise__V1__Mesh *)msg;
    char *text = write_text(JSON_PB_YAML, msg);

    (void)state;
    assert_int_equal(mesh->n_subsystems, 2);
    assert_int_equal(mesh->profiles[0]->min_version, MORTISE__V1__TLS_VERSION__TLS1_3);
    assert_int_equal(mesh->links[0]->client_port, 15101);
    assert_string_equal(mesh->links[0]->server_profile, "");
    assert_string_equal(text, mesh_written);
    mem_free(text);
    pb_free(msg);
}

static void test_json_is_written_as_documented(void **state)
{
    Mortise__Test__Sample child = MORTISE__TEST__SAMPLE__INIT;
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    char w0[] = "a\"\n", w1[] = "\xe2\x80\xa8\x7f\xe2\x80\xae";
    char *words[] = {w0, w1};
    uint8_t data[] = {1, 2};
    char *text;

    (void)state;
    msg.i64 = -5;
    msg.flag = 1;
    msg.color = MORTISE__TEST__SAMPLE__COLOR__RED;
    msg.data = (ProtobufCBinaryData){2, data};
    msg.child = &child;
    msg.words = words;
    msg.n_words = 2;
    text = write_text(JSON_PB_JSON, &msg.base);
    assert_string_equal(text, "{\n"
                              "  \"i64\": \"-5\",\n"
                              "  \"flag\": true,\n"
                              "  \"color\": \"RED\",\n"
                              "  \"data\": \"AQI=\",\n"
                              "  \"child\": {},\n"
                              "  \"words\": [\n"
                              "    \"a\\\"\\n\",\n"
                              "    \"\\u2028\\u007f\\u202e\"\n"
                              "  ]\n"
                              "}");
    mem_free(text);
}

/* A certificate in YAML stays readable; words that another reader would take for something else are
 * in quotes. */
static void test_yaml_is_written_for_people(void **state)
{
    static const char *const quoted[] = {"yes", "No", "null", "~",    "true", "15", "1.5", "0x1",
                                         "",    " a", "a ",   "a: b", "#a",   "-a", "a:",  "[a]",
                                         "a#b", "*a", "&a",   "!a",   "%a",   "@a", "`a",  "1e3"};
    static const char *const plain[] = {"a", "TLS1_3", "spiffe://a/b", "/run/x.sock", "a.b:80"};
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    char value[64], expected[96];
    char pem[] = "-----BEGIN X-----\nQUJD\n-----END X-----\n";
    char *text;

    (void)state;
    msg.text = value;
    for (size_t i = 0; i < ARRAY_LEN(quoted) + ARRAY_LEN(plain); i++) {
        bool quote = i < ARRAY_LEN(quoted);

        (void)snprintf(value, sizeof(value), "%s",
                       quote ? quoted[i] : plain[i - ARRAY_LEN(quoted)]);
        (void)snprintf(expected, sizeof(expected), quote ? "text: \"%s\"\n" : "text: %s\n", value);
        text = write_text(JSON_PB_YAML, &msg.base);
        assert_string_equal(text, value[0] == '\0' ? "{}\n" : expected);
        mem_free(text);
        check_round(JSON_PB_YAML, &msg.base);
    }
    msg.text = pem;
    text = write_text(JSON_PB_YAML, &msg.base);
    assert_string_equal(text, "text: |\n"
                              "  -----BEGIN X-----\n"
                              "  QUJD\n"
                              "  -----END X-----\n");
    mem_free(text);
    check_round(JSON_PB_YAML, &msg.base);
}

static void test_texts_of_all_sorts_come_back(void **state)
{
    static const char *const texts[] = {"\n",
                                        "\n\n",
                                        "a\n",
                                        " a\n",
                                        "a\n\n",
                                        "a\n \nb\n",
                                        "a\n  b\n",
                                        "\ta\n",
                                        "a\tb\n",
                                        "a \n",
                                        "\xc2\x85",
                                        "\xef\xbb\xbf",
                                        "\xf0\x9f\x98\x80",
                                        "'",
                                        "\"\\\"",
                                        "a\r\nb\n",
                                        "\x1f",
                                        "a\nb",
                                        "---\n",
                                        "...\n",
                                        "# a\n",
                                        "\xef\xbf\xbe",
                                        "- a\n",
                                        "a: b\n",
                                        "\xf3\xa0\x80\x81",
                                        "\xe2\x80\xae",
                                        "a\n   \n",
                                        "|\n"};
    Mortise__Test__Sample child = MORTISE__TEST__SAMPLE__INIT;
    Mortise__Test__Sample *children[] = {&child};
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    char value[64];
    char *words[] = {value, value};

    (void)state;
    msg.text = value;
    msg.words = words;
    msg.n_words = 2;
    child.text = value;
    msg.children = children;
    msg.n_children = 1;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        (void)snprintf(value, sizeof(value), "%s", texts[i]);
        check_round(JSON_PB_JSON, &msg.base);
        check_round(JSON_PB_YAML, &msg.base);
    }
}

static void test_unknown_fields_name_the_nearest(void **state)
{
    (void)state;
    YAML_FAULT("txet: a", "txet: unknown field; did you mean \"text\"?");
    YAML_FAULT("child: {child: {colour: RED}}",
               "child.child.colour: unknown field; did you mean \"color\"?");
    YAML_FAULT("children: [{}, {qqqqqqqqq: 1}]", "children[1].qqqqqqqqq: unknown field");
    JSON_FAULT("{\"txet\": \"a\"}", "txet: unknown field; did you mean \"text\"?");
    JSON_FAULT("{\"\": 1}", "unknown field");
    YAML_FAULT("\"a\\nb\": 1", "a\\nb: unknown field");
    YAML_FAULT("\"text\\0\": a", "text: unknown field; did you mean \"text\"?");
}

static void test_wrong_types_are_told(void **state)
{
    (void)state;
    YAML_FAULT("i32: abc",
               "i32: expected a whole number from -2147483648 to 2147483647, found \"abc\"");
    YAML_FAULT("i32: true", "i32: expected a whole number, found true or false");
    YAML_FAULT("i32: [1]", "i32: expected a whole number, found a list");
    YAML_FAULT("i32: {}", "i32: expected a whole number, found a map");
    YAML_FAULT("flag: 1", "flag: expected true or false, found a number");
    YAML_FAULT("flag: \"true\"", "flag: expected true or false, found text");
    YAML_FAULT("flag: yes", "flag: expected true or false, found text");
    YAML_FAULT("text: [a]", "text: expected text, found a list");
    YAML_FAULT("data: 5", "data: expected base64 text, found a number");
    YAML_FAULT("data: \"A===\"", "data: not base64, from character 2 on");
    YAML_FAULT("data: \"AQ*=\"", "data: not base64, from character 3 on");
    YAML_FAULT("child: a", "child: expected a map, found text");
    YAML_FAULT("children: {}", "children: expected a list, found a map");
    YAML_FAULT("children: [1]", "children[0]: expected a map, found a number");
    YAML_FAULT("words: a", "words: expected a list, found text");
    YAML_FAULT("words: [a, null]", "words[1]: expected text, found nothing");
    YAML_FAULT("color: 1", "color: expected a name, found a number");
    YAML_FAULT("real: x", "real: expected a number, found \"x\"");
    YAML_FAULT("real: 1e39", "real: expected a number, found \"1e39\"");
    YAML_FAULT("- a", "t: expected a map, found a list");
    YAML_FAULT("a", "t: expected a map, found text");
    JSON_FAULT("[]", "t: expected a map, found a list");
}

/* What YAML would turn into something else must be in quotes where text is wanted. */
static void test_text_that_yaml_would_change_is_refused(void **state)
{
    (void)state;
    YAML_FAULT("text: 8080", "text: expected text, found a number; write \"8080\" in quotes");
    YAML_FAULT("text: 1.10", "text: expected text, found a number; write \"1.10\" in quotes");
    YAML_FAULT("text: True", "text: expected text, found true or false; write \"true\" in quotes");
    YAML_FAULT("text: no", "text: expected text, found true or false; write \"no\" in quotes");
    YAML_FAULT("words: [On]",
               "words[0]: expected text, found true or false; write \"On\" in quotes");
    pb_free(parse_ok(JSON_PB_YAML, "text: \"no\"\nwords: ['8080', 10.0.0.1:80, 1:2, 1_0]", SAMPLE));
}

static void test_names_of_enums_are_told(void **state)
{
    ProtobufCMessage *msg = parse_ok(JSON_PB_YAML, "color: NO", SAMPLE);

    (void)state;
    /* NO is a boolean in YAML 1.1, but where a name is wanted there is no doubt. */
    assert_int_equal(((Mortise__Test__Sample *)msg)->color, MORTISE__TEST__SAMPLE__COLOR__NO);
    pb_free(msg);
    YAML_FAULT("color: BLUE", "color: unknown value \"BLUE\"; there are: RED, GREEN, NO");
    YAML_FAULT("color: red", "color: unknown value \"red\"; there are: RED, GREEN, NO");
    YAML_FAULT("colors: [RED, \"GREEN\\0\"]",
               "colors[1]: unknown value \"GREEN\"; there are: RED, GREEN, NO");
}

/* Each integer type at its ends and one beyond. */
static void test_ranges(void **state)
{
    static const struct {
        const char *field, *low, *high, *too_low, *too_high;
    } rows[] = {
        {"i32", "-2147483648", "2147483647", "-2147483649", "2147483648"},
        {"s32", "-2147483648", "2147483647", "-2147483649", "2147483648"},
        {"sf32", "-2147483648", "2147483647", "-2147483649", "2147483648"},
        {"u32", "0", "4294967295", "-1", "4294967296"},
        {"f32", "0", "4294967295", "-1", "4294967296"},
        {"i64", "-9223372036854775808", "9223372036854775807", "-9223372036854775809",
         "9223372036854775808"},
        {"s64", "-9223372036854775808", "9223372036854775807", "-9223372036854775809",
         "99999999999999999999"},
        {"sf64", "-9223372036854775808", "9223372036854775807", "-9223372036854775809",
         "9223372036854775808"},
        {"u64", "0", "18446744073709551615", "-1", "18446744073709551616"},
        {"f64", "0", "18446744073709551615", "-1", "18446744073709551616"},
        {"choice_number", "0", "4294967295", "-1", "4294967296"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *good[] = {rows[i].low, rows[i].high};
        const char *bad[] = {rows[i].too_low, rows[i].too_high};
        char text[128];

        for (size_t k = 0; k < 2; k++) {
            (void)snprintf(text, sizeof(text), "%s: %s", rows[i].field, good[k]);
            pb_free(parse_ok(JSON_PB_YAML, text, SAMPLE));
            (void)snprintf(text, sizeof(text), "{\"%s\": \"%s\"}", rows[i].field, good[k]);
            pb_free(parse_ok(JSON_PB_JSON, text, SAMPLE));
            (void)snprintf(text, sizeof(text), "%s: %s", rows[i].field, bad[k]);
            mem_free(parse_faults(JSON_PB_YAML, bytes_of_str(text), SAMPLE, E_CONFIG_INVALID));
            (void)snprintf(text, sizeof(text), "{\"%s\": \"%s\"}", rows[i].field, bad[k]);
            mem_free(parse_faults(JSON_PB_JSON, bytes_of_str(text), SAMPLE, E_CONFIG_INVALID));
        }
    }
}

static void test_forms_of_numbers(void **state)
{
    static const char *const good[] = {"5", "5.0", "5e0", "50e-1", "\"5\"", "0.5e1"};
    static const char *const bad[] = {"5.5",      "05",     "0x5",  "+5",    "5.",
                                      "\" 5\"",   "\"5 \"", "\"\"", "5e400", "1e17",
                                      "\"5\\0\"", "0b1",    "5_0",  ".5e1"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        char text[64];
        ProtobufCMessage *msg;

        (void)snprintf(text, sizeof(text), "i64: %s", good[i]);
        msg = parse_ok(JSON_PB_YAML, text, SAMPLE);
        assert_int_equal(((Mortise__Test__Sample *)msg)->i64, 5);
        pb_free(msg);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64];

        (void)snprintf(text, sizeof(text), "i64: %s", bad[i]);
        mem_free(parse_faults(JSON_PB_YAML, bytes_of_str(text), SAMPLE, E_CONFIG_INVALID));
    }
}

static void test_duplicates_are_refused(void **state)
{
    (void)state;
    check_faults(JSON_PB_YAML, "text: a\ntext: b\n", SAMPLE, E_YAML_SYNTAX,
                 "t:2:1: duplicate key\n");
    check_faults(JSON_PB_YAML, "child: {i32: 1, i32: 1}", SAMPLE, E_YAML_SYNTAX,
                 "t:1:17: duplicate key\n");
    check_faults(JSON_PB_JSON, "{\"text\": \"a\",\n \"text\": \"a\"}", SAMPLE, E_JSON_SYNTAX,
                 "t:2:7: duplicate object key near '\"text\"'\n");
    YAML_FAULT("two_words: a\ntwoWords: b", "two_words: given twice");
    YAML_FAULT("choice_text: a\nchoice_number: 1",
               "choice_number: \"choice_text\" is set already; only one may be");
    YAML_FAULT("choice_number: 0\nchoice_text: \"\"",
               "choice_text: \"choice_number\" is set already; only one may be");
}

/* In the order of their keys, in both languages; entries are a list for protobuf-c alone. */
static void test_maps_are_maps(void **state)
{
    static const char json[] = "{\n"
                               "  \"tags\": {\n"
                               "    \"a\": \"\",\n"
                               "    \"b.example/c\": \"1\"\n"
                               "  },\n"
                               "  \"by_name\": {\n"
                               "    \"x\": {},\n"
                               "    \"yes\": {\n"
                               "      \"i32\": 7\n"
                               "    }\n"
                               "  }\n"
                               "}";
    ProtobufCMessage *msg =
        parse_ok(JSON_PB_YAML,
                 "tags: {b.example/c: \"1\", a: \"\"}\nbyName: {\"yes\": {i32: 7}, x: {}}", SAMPLE);
    char *text = write_text(JSON_PB_JSON, msg);

    (void)state;
    assert_string_equal(text, json);
    mem_free(text);
    text = write_text(JSON_PB_YAML, msg);
    assert_string_equal(text, "tags:\n"
                              "  a: \"\"\n"
                              "  b.example/c: \"1\"\n"
                              "by_name:\n"
                              "  x: {}\n"
                              "  \"yes\":\n"
                              "    i32: 7\n");
    mem_free(text);
    check_round(JSON_PB_YAML, msg);
    check_round(JSON_PB_JSON, msg);
    pb_free(msg);
    msg = parse_ok(JSON_PB_YAML, "tags: {}\nby_name: null", SAMPLE);
    text = write_text(JSON_PB_YAML, msg);
    assert_string_equal(text, "{}\n");
    mem_free(text);
    pb_free(msg);
}

static void test_what_is_no_map_is_told(void **state)
{
    (void)state;
    YAML_FAULT("tags: [{key: a, value: b}]", "tags: expected a map, found a list");
    YAML_FAULT("tags: a", "tags: expected a map, found text");
    YAML_FAULT("tags: {a: 1, b: c}",
               "tags.a: expected text, found a number; write \"1\" in quotes");
    YAML_FAULT("tags: {a: null}", "tags.a: expected text, found nothing");
    YAML_FAULT("tags: {a: {b: c}}", "tags.a: expected text, found a map");
    YAML_FAULT("by_name: {a: {i23: 1}}", "by_name.a.i23: unknown field; did you mean \"i32\"?");
    YAML_FAULT("tags: {\"a\\0b\": c}", "tags.a: a NUL character is not allowed");
    check_faults(JSON_PB_YAML, "tags: {a: b, a: c}", SAMPLE, E_YAML_SYNTAX,
                 "t:1:14: duplicate key\n");
}

static void test_all_faults_are_told_at_once(void **state)
{
    static const char yaml[] = "i32: x\ntext: 5\nnope: 1\nchildren: [{flag: 2}, {color: PINK}]";

    (void)state;
    YAML_FAULT(yaml, "i32: expected a whole number from -2147483648 to 2147483647, found \"x\"\n"
                     "text: expected text, found a number; write \"5\" in quotes\n"
                     "nope: unknown field\n"
                     "children[0].flag: expected true or false, found a number\n"
                     "children[1].color: unknown value \"PINK\"; there are: RED, GREEN, NO");
}

static void test_syntax_errors_have_a_place(void **state)
{
    (void)state;
    check_faults(JSON_PB_JSON, "{\n  \"text\": \"a\",\n}", SAMPLE, E_JSON_SYNTAX,
                 "t:3:1: string or '}' expected near '}'\n");
    check_faults(JSON_PB_JSON, "", SAMPLE, E_JSON_SYNTAX,
                 "t:1:1: '[' or '{' expected near end of file\n");
    check_faults(JSON_PB_JSON, "{} {}", SAMPLE, E_JSON_SYNTAX,
                 "t:1:4: end of file expected near '{'\n");
    check_faults(JSON_PB_YAML, "text: [a\n", SAMPLE, E_YAML_SYNTAX,
                 "t:2:1: did not find expected ',' or ']' while parsing a flow sequence\n");
    check_faults(JSON_PB_YAML, "text: a\n bad: b\n", SAMPLE, E_YAML_SYNTAX,
                 "t:2:5: mapping values are not allowed in this context\n");
    check_faults(JSON_PB_YAML, "text: \"a\xff\"", SAMPLE, E_YAML_SYNTAX,
                 "t: byte 8: invalid leading UTF-8 octet\n");
    mem_free(
        parse_faults(JSON_PB_JSON, bytes_of("{\"text\": \"\xff\"}", 13), SAMPLE, E_JSON_SYNTAX));
    mem_free(
        parse_faults(JSON_PB_JSON, bytes_of_str("{\"text\": \"\\u0000\"}"), SAMPLE, E_JSON_SYNTAX));
    mem_free(parse_faults(JSON_PB_YAML, bytes_of("text: a\0b", 9), SAMPLE, E_YAML_SYNTAX));
}

/* What YAML has beyond lists, maps and scalars is refused where it stands: references multiply,
 * tags choose types. */
static void test_yaml_specials_are_refused(void **state)
{
    (void)state;
    check_faults(JSON_PB_YAML, "text: &a b", SAMPLE, E_YAML_SYNTAX,
                 "t:1:7: anchors are not supported\n");
    check_faults(JSON_PB_YAML, "child: &a {}\nchildren: [*a, *a]", SAMPLE, E_YAML_SYNTAX,
                 "t:1:8: anchors are not supported\n");
    check_faults(JSON_PB_YAML, "words: [*a]", SAMPLE, E_YAML_SYNTAX,
                 "t:1:9: aliases are not supported\n");
    check_faults(JSON_PB_YAML, "text: !!str 5", SAMPLE, E_YAML_SYNTAX,
                 "t:1:7: tags are not supported\n");
    check_faults(JSON_PB_YAML, "words: !x [a]", SAMPLE, E_YAML_SYNTAX,
                 "t:1:8: tags are not supported\n");
    check_faults(JSON_PB_YAML, "&a text: b", SAMPLE, E_YAML_SYNTAX,
                 "t:1:1: anchors and tags are not supported\n");
    check_faults(JSON_PB_YAML, "*a : b", SAMPLE, E_YAML_SYNTAX, "t:1:1: a key must be a word\n");
    check_faults(JSON_PB_YAML, "? [a]\n: b", SAMPLE, E_YAML_SYNTAX,
                 "t:1:3: a key must be a word\n");
    check_faults(JSON_PB_YAML, "text: a\n---\ntext: b\n", SAMPLE, E_YAML_SYNTAX,
                 "t:2:1: only one document is allowed\n");
    YAML_FAULT("<<: {text: a}", "<<: unknown field");
    YAML_FAULT("text: \"a\\0b\"", "text: a NUL character is not allowed");
}

static void test_nothing_is_an_empty_message(void **state)
{
    static const char *const texts[] = {
        "",   "\n", "# only a comment\n", "---\n",
        "{}", "~",  "---\n...\n",         "text:\nwords:\nchild: null\nflag: ~\n"};
    Mortise__Test__Sample empty = MORTISE__TEST__SAMPLE__INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        ProtobufCMessage *msg = parse_ok(JSON_PB_YAML, texts[i], SAMPLE);

        assert_true(pb_equal(msg, &empty.base));
        pb_free(msg);
    }
}

/* Texts of `depth` lists or maps inside each other. */
static err_t judge_depth(enum json_pb_format format, const char *open, const char *close,
                         unsigned depth)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    struct buf text = {NULL, 0, 0, 0, 0};
    ProtobufCMessage *msg = NULL;
    err_t err;

    for (unsigned i = 0; i < depth; i++)
        assert_true(err_is_ok(buf_add_str(&text, i + 1 == depth ? "{" : open)));
    for (unsigned i = 0; i < depth; i++)
        assert_true(err_is_ok(buf_add_str(&text, close)));
    err = json_pb_parse(format, "t", buf_view(&text), SAMPLE, faults, &msg);
    if (err_is_ok(err))
        pb_free(msg);
    faults_fini(faults);
    mem_free(faults);
    buf_fini(&text);
    return err;
}

static void test_depth_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (unsigned depth = JSON_PB_DEPTH_MAX - 1; depth <= JSON_PB_DEPTH_MAX + 1; depth++) {
        bool good = depth <= JSON_PB_DEPTH_MAX;

        assert_int_equal(judge_depth(JSON_PB_JSON, "{\"child\": ", "}", depth).code,
                         good ? E_OK : E_TOO_LARGE);
        assert_int_equal(judge_depth(JSON_PB_YAML, "{child: ", "}", depth).code,
                         good ? E_OK : E_YAML_SYNTAX);
    }
    assert_false(err_is_ok(judge_depth(JSON_PB_JSON, "{\"child\": ", "}", 100000)));
    assert_false(err_is_ok(judge_depth(JSON_PB_YAML, "{child: ", "}", 100000)));
}

/* A text of `num` bytes. */
static err_t judge_size(size_t len)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    char *text = mem_alloc(len);
    ProtobufCMessage *msg = NULL;
    err_t err;

    memset(text, ' ', len);
    memcpy(text, "{}", 2);
    err = json_pb_parse(JSON_PB_JSON, "t", bytes_of(text, len), SAMPLE, faults, &msg);
    if (err_is_ok(err))
        pb_free(msg);
    faults_fini(faults);
    mem_free(faults);
    mem_free(text);
    return err;
}

static void test_size_below_at_and_above_the_limit(void **state)
{
    (void)state;
    assert_int_equal(judge_size(JSON_PB_INPUT_MAX - 1).code, E_OK);
    assert_int_equal(judge_size(JSON_PB_INPUT_MAX).code, E_OK);
    assert_int_equal(judge_size(JSON_PB_INPUT_MAX + 1).code, E_TOO_LARGE);
}

static char *repeated(const char *text, size_t num)
{
    size_t len = strlen(text);
    char *out = mem_alloc(num * len + 1);

    for (size_t i = 0; i < num; i++)
        memcpy(out + i * len, text, len);
    out[num * len] = '\0';
    return out;
}

/* Inputs of full size that are cheap to write and must be cheap to refuse: the whole test has a
 * minute. */
static void test_bombs_are_refused_in_time(void **state)
{
    static const char *const pieces[] = {
        "[",  "{",    "[[],",    "- ", "? ", "a: ",   "- - ",  "&a ", "!a ",
        "\"", "{a: ", "a\n",     "#",  "%",  "---\n", "'",     "\\x", "|\n",
        "[{", "[a,",  "{\"a\":", "\t", ": ", "*a,",   "a: b\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        char *text = repeated(pieces[i], (256 << 10) / strlen(pieces[i]));
        struct faults *faults = mem_zalloc(sizeof(*faults));
        ProtobufCMessage *msg = NULL;

        for (int format = 0; format < 2; format++) {
            if (err_is_ok(json_pb_parse(format == 0 ? JSON_PB_JSON : JSON_PB_YAML, "t",
                                        bytes_of_str(text), SAMPLE, faults, &msg)))
                pb_free(msg);
        }
        faults_fini(faults);
        mem_free(faults);
        mem_free(text);
    }
}

/* Keys of one map and values of a whole text. */
static void test_numbers_of_keys_and_values_have_limits(void **state)
{
    struct buf keys = {NULL, 0, 0, 0, 0};
    char *values = repeated("a,", 1 << 20), *text = mem_printf("{\"words\": [%s]}", values);
    char *faults;

    (void)state;
    for (int i = 0; i < 1024; i++)
        assert_true(err_is_ok(buf_printf(&keys, "k%d: 1\n", i)));
    mem_free(parse_faults(JSON_PB_YAML, buf_view(&keys), SAMPLE, E_CONFIG_INVALID)); /* unknown */
    assert_true(err_is_ok(buf_add_str(&keys, "more: 1\n")));
    faults = parse_faults(JSON_PB_YAML, buf_view(&keys), SAMPLE, E_YAML_SYNTAX);
    assert_string_equal(faults, "t:1025:1: too many keys\n");
    mem_free(faults);
    faults = parse_faults(JSON_PB_YAML, bytes_of_str(text), SAMPLE, E_TOO_LARGE);
    assert_string_equal(faults, "t: more than 1048576 values\n");
    mem_free(faults);
    mem_free(text);
    mem_free(values);
    values = repeated("0,", 1 << 20);
    text = mem_printf("{\"numbers\": [%s0]}", values);
    faults = parse_faults(JSON_PB_JSON, bytes_of_str(text), SAMPLE, E_TOO_LARGE);
    assert_string_equal(faults, "t: more than 1048576 values\n");
    mem_free(faults);
    mem_free(text);
    mem_free(values);
    buf_fini(&keys);
}

static void test_more_faults_than_are_kept_are_counted(void **state)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    char *items = repeated("{nope: 1},", 1000);
    char *text = mem_printf("children: [%s]", items);
    ProtobufCMessage *msg = NULL;

    (void)state;
    assert_int_equal(json_pb_parse(JSON_PB_YAML, "t", bytes_of_str(text), SAMPLE, faults, &msg).sub,
                     1000);
    assert_int_equal(faults->num, FAULTS_MAX);
    faults_fini(faults);
    mem_free(faults);
    mem_free(items);
    mem_free(text);
}

/* A message of a newer schema has numbers that ours does not name: shown, not lost. */
static void test_unknown_enum_numbers_are_shown(void **state)
{
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    char *text;

    (void)state;
    msg.color = (Mortise__Test__Sample__Color)77;
    text = write_text(JSON_PB_JSON, &msg.base);
    assert_string_equal(text, "{\n  \"color\": 77\n}");
    mem_free(text);
}

static void test_numbers_that_are_none_are_written_by_name(void **state)
{
    double reals[] = {__builtin_nan(""), __builtin_inf(), -__builtin_inf()};
    Mortise__Test__Sample msg = MORTISE__TEST__SAMPLE__INIT;
    ProtobufCMessage *back;
    char *text;

    (void)state;
    msg.reals = reals;
    msg.n_reals = 3;
    text = write_text(JSON_PB_YAML, &msg.base);
    assert_string_equal(text, "reals:\n  - \"NaN\"\n  - \"Infinity\"\n  - \"-Infinity\"\n");
    back = parse_ok(JSON_PB_YAML, text, SAMPLE);
    assert_true(((Mortise__Test__Sample *)back)->reals[0] !=
                ((Mortise__Test__Sample *)back)->reals[0]);
    assert_true(((Mortise__Test__Sample *)back)->reals[2] == -__builtin_inf());
    pb_free(back);
    mem_free(text);
    YAML_FAULT("precise: .inf", "precise: expected a number, found \".inf\"");
    YAML_FAULT("precise: nan", "precise: expected a number, found \"nan\"");
}

/* ---- settings beside a message, and alone ---- */

static void note_member(void *arg, const char *member, const char *value)
{
    assert_true(err_is_ok(buf_printf(arg, "%s=%s\n", member, value)));
}

/* Parses with a map "settings" aside (`desc` NULL: alone); members and then faults as one text. */
static char *parse_aside(const char *text, const ProtobufCMessageDescriptor *desc)
{
    struct faults *faults = mem_zalloc(sizeof(*faults));
    struct buf out = {NULL, 0, 0, 0, 0};
    struct json_pb_aside aside = {"settings", note_member, &out};
    ProtobufCMessage *msg = NULL;
    err_t err = desc == NULL
                    ? json_pb_parse_map(JSON_PB_YAML, "t", bytes_of_str(text), &aside, faults)
                    : json_pb_parse_aside(JSON_PB_YAML, "t", bytes_of_str(text), desc, &aside,
                                          faults, &msg);

    assert_true(err_is_ok(err) == (faults->total == 0));
    assert_true((msg != NULL) == (desc != NULL && err_is_ok(err)));
    if (msg != NULL)
        assert_true(
            err_is_ok(buf_printf(&out, "text is %s\n", ((Mortise__Test__Sample *)msg)->text)));
    pb_free(msg);
    faults_text(faults, &out);
    faults_fini(faults);
    mem_free(faults);
    return buf_take_str(&out);
}

static void check_aside(const char *text, const ProtobufCMessageDescriptor *desc,
                        const char *expected)
{
    char *got = parse_aside(text, desc);

    assert_string_equal(got, expected);
    mem_free(got);
}

static void test_settings_beside_a_message(void **state)
{
    (void)state;
    check_aside("settings: {a: 10s, b: 5, c: true, \"d\": \"\"}\ntext: x\n", SAMPLE,
                "a=10s\nb=5\nc=true\nd=\ntext is x\n");
    check_aside("text: x\nsettings: {a: b}\n", SAMPLE, "a=b\ntext is x\n");
    check_aside("settings:\ntext: x\n", SAMPLE, "text is x\n");
    check_aside("text: x\n", SAMPLE, "text is x\n");
    check_aside("settings: {a: [1], b: {}, c: , d: \"x\\0y\", \"e\\0f\": g}\ntxt: x\n", SAMPLE,
                "settings.a: expected a text, a number or a boolean, found a list\n"
                "settings.b: expected a text, a number or a boolean, found a map\n"
                "settings.c: expected a text, a number or a boolean, found nothing\n"
                "settings.d: NUL is not allowed\n"
                "settings.e: NUL is not allowed\n"
                "txt: unknown field; did you mean \"text\"?\n");
    check_aside("settings: [a]\n", SAMPLE, "settings: expected a map, found a list\n");
    check_aside("settings: {a: b}\nsettings: {c: d}\n", SAMPLE, "t:2:1: duplicate key\n");
    check_aside("settings: {a: b, a: c}\n", SAMPLE, "t:1:18: duplicate key\n");
}

static void test_settings_alone(void **state)
{
    (void)state;
    check_aside("a: 10s\nb: -5\n", NULL, "a=10s\nb=-5\n");
    check_aside("", NULL, "");
    check_aside("- a\n", NULL, "t: expected a map, found a list\n");
    check_aside("a: {b: c}\n", NULL, "a: expected a text, a number or a boolean, found a map\n");
    check_aside("a: b\na: c\n", NULL, "t:2:1: duplicate key\n");
}

static void add_key(void *arg, const char *key)
{
    assert_true(err_is_ok(buf_printf(arg, "%s ", key)));
}

static void check_keys(const char *text, unsigned code, const char *expected)
{
    struct buf keys = {NULL, 0, 0, 0, 0};
    struct faults faults = {0};
    err_t err = json_pb_keys(JSON_PB_YAML, "t", bytes_of_str(text), add_key, &keys, &faults);
    char *got = buf_take_str(&keys);

    assert_int_equal(err.code, code);
    assert_int_equal(faults.total == 0, err_is_ok(err));
    assert_string_equal(got, expected);
    mem_free(got);
    faults_fini(&faults);
}

static void test_keys_of_a_text(void **state)
{
    (void)state;
    check_keys("b: {x: 1}\na: [c]\n\"d\\0e\": 1\n", E_OK, "b a ");
    check_keys("{}", E_OK, "");
    check_keys("[a]", E_CONFIG_INVALID, "");
    check_keys("a: [", E_YAML_SYNTAX, "");
    check_keys("a: 1\na: 2", E_YAML_SYNTAX, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_field_comes_back),
        cmocka_unit_test(test_json_is_yaml_too),
        cmocka_unit_test(test_mesh_document),
        cmocka_unit_test(test_json_is_written_as_documented),
        cmocka_unit_test(test_yaml_is_written_for_people),
        cmocka_unit_test(test_texts_of_all_sorts_come_back),
        cmocka_unit_test(test_unknown_fields_name_the_nearest),
        cmocka_unit_test(test_wrong_types_are_told),
        cmocka_unit_test(test_text_that_yaml_would_change_is_refused),
        cmocka_unit_test(test_names_of_enums_are_told),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_forms_of_numbers),
        cmocka_unit_test(test_duplicates_are_refused),
        cmocka_unit_test(test_maps_are_maps),
        cmocka_unit_test(test_what_is_no_map_is_told),
        cmocka_unit_test(test_all_faults_are_told_at_once),
        cmocka_unit_test(test_syntax_errors_have_a_place),
        cmocka_unit_test(test_yaml_specials_are_refused),
        cmocka_unit_test(test_nothing_is_an_empty_message),
        cmocka_unit_test(test_depth_below_at_and_above_the_limit),
        cmocka_unit_test(test_size_below_at_and_above_the_limit),
        cmocka_unit_test(test_bombs_are_refused_in_time),
        cmocka_unit_test(test_numbers_of_keys_and_values_have_limits),
        cmocka_unit_test(test_more_faults_than_are_kept_are_counted),
        cmocka_unit_test(test_unknown_enum_numbers_are_shown),
        cmocka_unit_test(test_numbers_that_are_none_are_written_by_name),
        cmocka_unit_test(test_settings_beside_a_message),
        cmocka_unit_test(test_settings_alone),
        cmocka_unit_test(test_keys_of_a_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
