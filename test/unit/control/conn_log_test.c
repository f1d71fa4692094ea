/* What the control plane keeps of the access logs that sidecars send up: each speaks for itself and
 * for its own ends of links, at a bounded rate, in files of a bounded size; a line is one line
 * whatever is in it. Without it one sidecar fills the disk, slows the control plane down, or writes
 * another's log. Drives: D6, R71. */
#include "control/conn_log.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/conn_log_line.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define NOW INT64_C(1800000000000)
#define LIMIT 131072 /* of the files here */

typedef Mortise__V1__AccessLogEntry entry_msg;

struct trial {
    char folder[64];
    struct meters *meters;
    struct conn_log_store *store;
    struct conn_log *log;
    Mortise__V1__Mesh *mesh;
    struct conn_log_from from;
    Mortise__V1__AccessLogAck ack;
};

static const char mesh_text[] =
    "{\"links\": [{\"name\": \"a-b\", \"client\": \"a\", \"server\": "
    "\"b\"}, {\"name\": \"b-c\", \"client\": \"b\", \"server\": \"c\"}]}";

static int setup(void **state)
{
    struct trial *t = mem_zalloc(sizeof(*t));
    struct faults faults = {.num = 0};
    ProtobufCMessage *msg;

    (void)snprintf(t->folder, sizeof(t->folder), "/tmp/conn-log-XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    assert_true(err_is_ok(json_pb_parse(JSON_PB_JSON, "mesh", bytes_of_str(mesh_text),
                                        &mortise__v1__mesh__descriptor, &faults, &msg)));
    t->mesh = (Mortise__V1__Mesh *)msg;
    t->meters = meters_new();
    t->store = conn_log_store_new(t->folder, LIMIT);
    t->log = conn_log_new(t->store, t->meters, 1000);
    t->from = (struct conn_log_from){.subsystem = "a",
                                     .id = "spiffe://t/a",
                                     .instance = "i1",
                                     .now_ms = NOW,
                                     .mono_ms = 1000000,
                                     .mesh = t->mesh};
    faults_fini(&faults);
    *state = t;
    return 0;
}

static void remove_files(const char *folder)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char path[400];

        (void)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        (void)unlink(path);
    }
    if (dir != NULL)
        (void)closedir(dir);
}

static int teardown(void **state)
{
    struct trial *t = *state;

    conn_log_free(t->log);
    conn_log_store_free(t->store);
    meters_free(t->meters);
    pb_free(&t->mesh->base);
    remove_files(t->folder);
    assert_int_equal(rmdir(t->folder), 0);
    mem_free(t);
    return 0;
}

static char out_direction[] = "outbound", in_direction[] = "inbound", done[] = "done",
            link_ab[] = "a-b", link_bc[] = "b-c", key[] = "00112233445566ff";

static entry_msg entry_of(uint64_t seq, char *link, char *direction)
{
    entry_msg entry = MORTISE__V1__ACCESS_LOG_ENTRY__INIT;

    entry.at_ms = NOW - 10;
    entry.seq = seq;
    entry.link = link;
    entry.direction = direction;
    entry.key = key;
    entry.reason = done;
    return entry;
}

/* A batch of that one entry, so often. */
static void take(struct trial *t, uint64_t number, entry_msg *entry, size_t times, uint64_t dropped)
{
    Mortise__V1__AccessLogBatch batch = MORTISE__V1__ACCESS_LOG_BATCH__INIT;
    entry_msg **list = mem_array(times + 1, sizeof(entry_msg *));

    for (size_t i = 0; i < times; i++)
        list[i] = entry;
    batch.number = number;
    batch.entries = list;
    batch.n_entries = times;
    batch.dropped = dropped;
    mortise__v1__access_log_ack__init(&t->ack);
    conn_log_take(t->log, &t->from, &batch, &t->ack);
    mem_free(list);
}

static void on_more(struct conn_log_reader *reader)
{
    (void)reader;
}

/* All that is kept, as text; owned. */
static char *kept(struct trial *t)
{
    struct conn_log_reader reader = {.fn = on_more};
    struct buf text = {.data = NULL};
    static uint8_t chunk[CONN_LOG_LINE_MAX * 2];
    struct bytes lines;

    conn_log_join(t->store, &reader, 0);
    for (;;) {
        conn_log_read(t->store, &reader, chunk, sizeof(chunk), &lines);
        if (lines.len == 0)
            break;
        assert_true(err_is_ok(buf_add(&text, lines.ptr, lines.len)));
        conn_log_seen(&reader, lines.len);
    }
    conn_log_leave(&reader);
    return buf_take_str(&text);
}

static size_t count(const char *text, const char *what)
{
    size_t num = 0;

    for (; (text = strstr(text, what)) != NULL; text += strlen(what))
        num++;
    return num;
}

static uint64_t files_bytes(const struct trial *t, size_t *out_num)
{
    DIR *dir = opendir(t->folder);
    const struct dirent *entry;
    uint64_t bytes = 0;

    *out_num = 0;
    while ((entry = readdir(dir)) != NULL) {
        char path[400];
        struct stat st;

        (void)snprintf(path, sizeof(path), "%s/%s", t->folder, entry->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            bytes += (uint64_t)st.st_size;
            (*out_num)++;
        }
    }
    (void)closedir(dir);
    return bytes;
}

static int64_t counted(struct trial *t, const char *result)
{
    struct buf text = {.data = NULL};
    char line[128];
    const char *at;
    int64_t value;

    assert_true(err_is_ok(metrics_write(t->meters->metrics, &text)));
    assert_true(err_is_ok(buf_add(&text, "", 1)));
    (void)snprintf(line, sizeof(line), "mortise_control_access_log_entries_total{result=\"%s\"} ",
                   result);
    at = strstr((const char *)buf_view(&text).ptr, line);
    value = at != NULL ? strtoll(at + strlen(line), NULL, 10) : -1;
    buf_fini(&text);
    return value;
}

static void test_what_is_told_is_kept_with_who_tells_it(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(7, link_ab, out_direction);
    char other[] = "b", other_id[] = "spiffe://t/b";
    char *text;

    entry.subsystem = other; /* who it says to be does not count */
    entry.id = other_id;
    entry.dropped = 9;
    entry.bytes_to_mesh = 12;
    t->from.ahead_ms = 3600000;
    entry.at_ms = NOW + 3600000 - 500;
    take(t, 1, &entry, 1, 0);
    assert_int_equal(t->ack.number, 1);
    text = kept(t);
    assert_string_equal(text,
                        "{\"at_ms\":1799999999500,\"subsystem\":\"a\",\"id\":\"spiffe://t/a\","
                        "\"instance\":\"i1\",\"seq\":7,\"link\":\"a-b\",\"direction\":"
                        "\"outbound\",\"key\":\"00112233445566ff\",\"bytes_to_mesh\":12,"
                        "\"reason\":\"done\"}\n");
    mem_free(text);
}

static void test_what_a_sidecar_threw_away_is_told(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);
    char *text;

    take(t, 1, &entry, 1, 41);
    text = kept(t);
    assert_non_null(strstr(text, "\"instance\":\"i1\",\"dropped\":41}\n{"));
    assert_int_equal(counted(t, "missing"), 41);
    mem_free(text);
}

static void test_a_sidecar_speaks_for_its_own_ends_alone(void **state)
{
    struct trial *t = *state;
    entry_msg forged[] = {entry_of(1, link_ab, in_direction), entry_of(2, link_bc, out_direction),
                          entry_of(3, link_bc, in_direction)};
    char gone[] = "was-there";
    entry_msg removed = entry_of(4, gone, in_direction);
    char *text;

    for (size_t i = 0; i < ARRAY_LEN(forged); i++) {
        take(t, i + 1, &forged[i], 1, 0);
        t->from.mono_ms += 1000;
    }
    take(t, 9, &removed, 1, 0);
    assert_int_equal(counted(t, "foreign"), 3);
    text = kept(t);
    assert_int_equal(count(text, "\n"), 1);
    assert_non_null(strstr(text, "\"subsystem\":\"a\""));
    assert_non_null(strstr(text, "was-there"));
    mem_free(text);
}

static void test_what_is_no_entry_is_refused(void **state)
{
    struct trial *t = *state;
    char line_end[] = "spiffe://t/x\nforged", escape[] = "\033[2J", no_key[] = "XYZ",
         sideways[] = "up";
    char *longer = mem_alloc(CONN_LOG_TEXT_MAX + 2);
    entry_msg bad[7];

    memset(longer, 'x', CONN_LOG_TEXT_MAX + 1);
    longer[CONN_LOG_TEXT_MAX + 1] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        bad[i] = entry_of(i, link_ab, out_direction);
    bad[0].peer_id = line_end;
    bad[1].claimed_id = escape;
    bad[2].peer_serial = longer;
    bad[3].key = no_key;
    bad[4].direction = sideways;
    bad[5].at_ms = -1;
    bad[6].bytes_to_app = UINT64_MAX;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        take(t, i + 1, &bad[i], 1, 0);
        t->from.mono_ms += 1000;
    }
    assert_int_equal(counted(t, "malformed"), ARRAY_LEN(bad));
    assert_int_equal(counted(t, "kept"), 0);
    mem_free(longer);
}

static void test_a_line_is_one_line_whatever_is_in_it(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);
    char bad[] = "a\n\"},{\"\\\x1b[31m\t\x7f";
    char *longer = mem_alloc(5001);
    struct buf text = {.data = NULL};
    struct faults faults = {.num = 0};
    ProtobufCMessage *msg;

    (void)t;
    memset(longer, '\n', 5000);
    longer[5000] = '\0';
    entry.peer_id = bad;
    entry.claimed_id = longer;
    assert_true(err_is_ok(conn_log_line(&entry, &text)));
    assert_true(buf_size(&text) < CONN_LOG_LINE_MAX);
    assert_ptr_equal(memchr(buf_view(&text).ptr, '\n', buf_size(&text)),
                     buf_view(&text).ptr + buf_size(&text) - 1);
    assert_true(
        err_is_ok(json_pb_parse(JSON_PB_JSON, "line", buf_view(&text),
                                &mortise__v1__access_log_entry__descriptor, &faults, &msg)));
    assert_string_equal(((entry_msg *)msg)->peer_id, bad);
    pb_free(msg);
    faults_fini(&faults);
    buf_fini(&text);
    mem_free(longer);
}

static void test_a_batch_comes_when_it_may(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);

    take(t, 1, &entry, 100, 0);
    assert_int_equal(t->ack.wait_ms, 101); /* 1,000 a second */
    take(t, 2, &entry, 100, 0);
    assert_int_equal(t->ack.number, 1); /* not looked at: the same again, later */
    assert_int_equal(t->ack.wait_ms, 101);
    t->from.mono_ms += 101;
    take(t, 2, &entry, 100, 0);
    assert_int_equal(t->ack.number, 2);
    assert_int_equal(counted(t, "kept"), 200);
    assert_int_equal(counted(t, "put_off"), 100);
    t->from.mono_ms += 101;
    take(t, 2, &entry, 100, 0); /* its answer was lost on the way */
    assert_int_equal(t->ack.number, 2);
    assert_int_equal(counted(t, "kept"), 200);
}

/* A million entries, as fast as they come, of a hundred instances of one identity. */
static void test_a_flood_is_bounded(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);
    char instance[16];
    size_t num;

    t->from.instance = instance;
    for (uint64_t i = 0; i < 10000; i++) {
        (void)snprintf(instance, sizeof(instance), "i%u", (unsigned)(i % 100));
        take(t, i / 100 + 1, &entry, 100, 0);
        t->from.mono_ms += i % 20 == 0; /* half a second in all */
    }
    /* What a subsystem may owe, and what half a second is worth. */
    assert_in_range(counted(t, "kept"), 2 * CONN_LOG_ONE_PER_S, 3 * CONN_LOG_ONE_PER_S);
    assert_int_equal(counted(t, "kept") + counted(t, "put_off"), 1000000);
    assert_true(files_bytes(t, &num) <= LIMIT);
    /* Others are heard meanwhile. */
    t->from.subsystem = "b";
    entry = entry_of(1, link_bc, out_direction);
    take(t, 77, &entry, 1, 0);
    assert_int_equal(t->ack.number, 77);
    assert_int_equal(counted(t, "put_off"), 1000000 - counted(t, "kept") + 1);
    take(t, 1000000, &entry, 5000, 0); /* no batch of ours is so large */
    assert_true(t->ack.wait_ms > 0);
}

static void test_many_instances_are_forgotten(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);
    char instance[16];

    t->from.instance = instance;
    for (unsigned i = 0; i < 3 * CONN_LOG_TELLERS_MAX; i++) {
        (void)snprintf(instance, sizeof(instance), "i%u", i);
        take(t, 1, &entry, 1, 0);
        t->from.mono_ms += 10;
    }
    assert_int_equal(counted(t, "kept"), 3 * CONN_LOG_TELLERS_MAX);
}

/* ---- the store ---- */

static void append(struct trial *t, unsigned first, unsigned num)
{
    for (unsigned i = first; i < first + num; i++) {
        char line[256];
        int len = snprintf(line, sizeof(line), "%0199u\n", i);

        assert_true(err_is_ok(conn_log_append(t->store, bytes_of(line, (size_t)len))));
    }
}

static void test_the_files_never_exceed_the_limit(void **state)
{
    struct trial *t = *state;
    char *text, newest[16];
    size_t num;

    append(t, 0, 3000);
    assert_true(files_bytes(t, &num) <= LIMIT);
    assert_in_range(num, 2, CONN_LOG_FILES);
    text = kept(t);
    (void)snprintf(newest, sizeof(newest), "%010u\n", 2999U);
    assert_non_null(strstr(text, newest));
    assert_in_range(count(text, "\n"), LIMIT / 200 * 3 / 4, LIMIT / 200);
    mem_free(text);

    /* Another start goes on there, also with a smaller limit. */
    conn_log_store_free(t->store);
    t->store = conn_log_store_new(t->folder, LIMIT / 2);
    append(t, 3000, 100);
    assert_true(files_bytes(t, &num) <= LIMIT / 2);
    text = kept(t);
    (void)snprintf(newest, sizeof(newest), "%010u\n", 3099U);
    assert_non_null(strstr(text, newest));
    mem_free(text);
}

static void test_a_torn_line_costs_itself_alone(void **state)
{
    struct trial *t = *state;
    char path[128], *text;
    FILE *file;

    append(t, 1, 1);
    (void)snprintf(path, sizeof(path), "%s/access-0000000001.jsonl", t->folder);
    file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs("{\"at_ms\":1,\"li", file) >= 0);
    assert_int_equal(fclose(file), 0);
    conn_log_store_free(t->store);
    t->store = conn_log_store_new(t->folder, LIMIT);
    append(t, 2, 1);
    text = kept(t);
    assert_int_equal(count(text, "\n"), 3);
    assert_non_null(strstr(text, "{\"at_ms\":1,\"li\n00"));
    mem_free(text);
}

static void test_a_file_that_is_gone_is_not_missed(void **state)
{
    struct trial *t = *state;
    char *text;
    size_t num;

    append(t, 1, 1);
    remove_files(t->folder);
    append(t, 2, 1);
    (void)files_bytes(t, &num);
    assert_int_equal(num, 1);
    text = kept(t);
    assert_int_equal(count(text, "\n"), 1);
    mem_free(text);
}

static void test_what_cannot_be_written_is_counted_and_told_later(void **state)
{
    struct trial *t = *state;
    entry_msg entry = entry_of(1, link_ab, out_direction);
    char *text;
    FILE *file;

    /* No folder there, but a file. */
    assert_int_equal(rmdir(t->folder), 0);
    file = fopen(t->folder, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    take(t, 1, &entry, 3, 0);
    assert_int_equal(t->ack.number, 1); /* the sidecar is not held up by our disk */
    assert_int_equal(counted(t, "unwritable"), 3);
    assert_int_equal(unlink(t->folder), 0);
    t->from.mono_ms += 1000;
    take(t, 2, &entry, 1, 0);
    assert_int_equal(counted(t, "kept"), 1);
    text = kept(t);
    assert_non_null(strstr(text, "{\"at_ms\":1800000000000,\"dropped\":3}\n{"));
    mem_free(text);
}

static void test_readers_go_on_from_file_to_file(void **state)
{
    struct trial *t = *state;
    struct conn_log_reader reader = {.fn = on_more};
    static uint8_t chunk[CONN_LOG_LINE_MAX];
    struct bytes lines;
    unsigned next = 0;

    conn_log_join(t->store, &reader, 0);
    for (unsigned i = 0; i < 2000; i += 50) {
        append(t, i, 50);
        for (;;) {
            conn_log_read(t->store, &reader, chunk, sizeof(chunk), &lines);
            if (lines.len == 0)
                break;
            assert_int_equal(lines.len % 200, 0);
            assert_int_equal(strtoul((const char *)lines.ptr, NULL, 10), next);
            next++;
            conn_log_seen(&reader, 200); /* a line of it: the rest comes again */
        }
    }
    assert_int_equal(next, 2000);
    conn_log_leave(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_told_is_kept_with_who_tells_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_a_sidecar_threw_away_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_sidecar_speaks_for_its_own_ends_alone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_entry_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_line_is_one_line_whatever_is_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_batch_comes_when_it_may, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_flood_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_instances_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_files_never_exceed_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_torn_line_costs_itself_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_is_gone_is_not_missed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_written_is_counted_and_told_later,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_go_on_from_file_to_file, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
