/* What becomes of access log lines beyond a file: those that go up to the control plane wait in
 * bounded memory, the same ones at both ends; those for syslog are sent or lost, never waited for;
 * and a file that was rotated away is followed. Without it a control plane or a syslog daemon that
 * is away fills a sidecar's memory or stops its traffic, or the log goes on in a file that nobody
 * reads. Drives: D6, R71, F18. */
#include "proxy/access_log.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "proxy/access_share.h"
#include "proxy/syslog.h"

/* ---- which ones ---- */

static void test_both_ends_pick_the_same(void **state)
{
    unsigned picked = 0;

    (void)state;
    for (uint64_t i = 1; i <= 10000; i++) {
        uint64_t key = i * UINT64_C(0x9e3779b97f4a7c15);

        assert_int_equal(access_share_picks(key, 500), access_share_picks(key, 500));
        /* Whoever takes more of them takes those as well. */
        assert_true(!access_share_picks(key, 100) || access_share_picks(key, 500));
        assert_true(access_share_picks(key, 1000));
        assert_false(access_share_picks(key, 0));
        picked += access_share_picks(key, 500);
    }
    assert_in_range(picked, 4800, 5200);
}

static void test_what_has_no_key_is_drawn(void **state)
{
    unsigned picked = 0;

    (void)state;
    for (int i = 0; i < 10000; i++)
        picked += access_share_picks(0, 500);
    assert_in_range(picked, 4500, 5500);
    assert_false(access_share_picks(0, 0));
    assert_true(access_share_picks(0, 1000));
}

static void test_a_peers_text_is_cut_and_cleaned(void **state)
{
    char out[ACCESS_SHARE_TEXT_MAX + 1], longer[2048];

    (void)state;
    assert_string_equal(access_share_text("spiffe://t/a\n\x1b[31m\xff", out),
                        "spiffe://t/a??[31m?");
    assert_string_equal(access_share_text(NULL, out), "");
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(strlen(access_share_text(longer, out)), ACCESS_SHARE_TEXT_MAX);
}

/* ---- what waits ---- */

static void add(struct access_share *share, size_t num, const char *peer_id, size_t *dropped)
{
    for (size_t i = 0; i < num; i++) {
        Mortise__V1__AccessLogEntry entry = MORTISE__V1__ACCESS_LOG_ENTRY__INIT;

        entry.peer_id = (char *)(uintptr_t)peer_id; /* only read */
        *dropped += access_share_add(share, &entry);
    }
}

/* Takes all that waits; `*next` is the number that comes first then. */
static size_t drain(struct access_share *share, uint64_t *next, uint64_t *dropped)
{
    Mortise__V1__AccessLogBatch *batch;
    size_t num = 0, here;

    while ((batch = access_share_next(share)) != NULL) {
        assert_true(batch->n_entries <= ACCESS_SHARE_BATCH_MAX);
        assert_true(protobuf_c_message_get_packed_size(&batch->base) < 64 << 10);
        *dropped += batch->dropped;
        for (size_t i = 0; i < batch->n_entries; i++) {
            assert_true(batch->entries[i]->seq >= *next);
            *next = batch->entries[i]->seq + 1;
        }
        here = batch->n_entries;
        num += here;
        assert_int_equal(access_share_taken(share, batch->number), here); /* it is gone then */
    }
    return num;
}

static void test_while_nobody_takes_them_the_oldest_go(void **state)
{
    struct access_share *share = access_share_new();
    size_t dropped = 0, num;
    uint64_t told = 0, next = 1;

    (void)state;
    add(share, 100000, "spiffe://t/a", &dropped);
    assert_int_equal(dropped, 100000 - ACCESS_SHARE_MAX);
    assert_true(access_share_is_full(share));
    next = dropped + 1; /* the newest are there, in their order */
    num = drain(share, &next, &told);
    assert_int_equal(num, ACCESS_SHARE_MAX);
    assert_int_equal(next, 100001);
    assert_int_equal(told, dropped);
    assert_null(access_share_next(share));
    assert_false(access_share_is_full(share));
    access_share_free(share);
}

static void test_large_ones_are_bounded_by_bytes(void **state)
{
    struct access_share *share = access_share_new();
    size_t dropped = 0, num;
    uint64_t told = 0, next = 1;
    char longer[ACCESS_SHARE_TEXT_MAX + 1];

    (void)state;
    memset(longer, 'x', ACCESS_SHARE_TEXT_MAX);
    longer[ACCESS_SHARE_TEXT_MAX] = '\0';
    add(share, 20000, longer, &dropped);
    num = drain(share, &next, &told);
    assert_true(num * ACCESS_SHARE_TEXT_MAX <= ACCESS_SHARE_BYTES_MAX);
    assert_true(num > ACCESS_SHARE_BYTES_MAX / (ACCESS_SHARE_TEXT_MAX + 64));
    assert_int_equal(num + dropped, 20000);
    access_share_free(share);
}

static void test_a_batch_is_the_same_until_it_was_taken(void **state)
{
    struct access_share *share = access_share_new();
    Mortise__V1__AccessLogBatch *batch;
    size_t dropped = 0;

    (void)state;
    add(share, 3, "a", &dropped);
    batch = access_share_next(share);
    assert_int_equal(batch->n_entries, 3);
    add(share, 2, "b", &dropped);
    assert_ptr_equal(access_share_next(share), batch);
    assert_int_equal(access_share_taken(share, batch->number - 1), 0); /* put off */
    assert_int_equal(access_share_taken(share, batch->number + 1), 0); /* nonsense */
    assert_ptr_equal(access_share_next(share), batch);
    assert_int_equal(access_share_taken(share, batch->number), 3);
    batch = access_share_next(share);
    assert_int_equal(batch->n_entries, 2);
    assert_int_equal(batch->number, 2);
    access_share_free(share); /* with one under way, and nothing leaks */
}

/* ---- syslog ---- */

struct receiver {
    char folder[64];
    char path[96];
    char target[128];
    int fd;
    struct addr addr;
};

static void receiver_open(struct receiver *r)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", r->path);
    (void)unlink(r->path);
    r->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(r->fd >= 0);
    assert_int_equal(bind(r->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

static int receiver_setup(void **state)
{
    struct receiver *r = mem_zalloc(sizeof(*r));

    (void)snprintf(r->folder, sizeof(r->folder), "/tmp/syslog-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    (void)snprintf(r->path, sizeof(r->path), "%s/log", r->folder);
    (void)snprintf(r->target, sizeof(r->target), "syslog:unix:%s", r->path);
    assert_true(err_is_ok(syslog_target(r->target, &r->addr)));
    receiver_open(r);
    *state = r;
    return 0;
}

static int receiver_teardown(void **state)
{
    struct receiver *r = *state;

    (void)close(r->fd);
    (void)unlink(r->path);
    (void)rmdir(r->folder);
    mem_free(r);
    return 0;
}

static size_t receive(struct receiver *r, char *out, size_t size)
{
    ssize_t len = recv(r->fd, out, size - 1, MSG_DONTWAIT);

    out[len > 0 ? len : 0] = '\0';
    return len > 0 ? (size_t)len : 0;
}

static void test_targets(void **state)
{
    static const char *const good[] = {"syslog", "syslog:unix:/run/log",
                                       "syslog:udp://10.0.0.1:514", "syslog:udp://[::1]:1514"};
    static const char *const bad[] = {"syslog:",
                                      "syslog:tcp://10.0.0.1:514",
                                      "syslog:udp://host:514",
                                      "syslog:udp://10.0.0.1",
                                      "syslog:udp://10.0.0.1:0",
                                      "syslog:udp://unix:/run/log",
                                      "syslog:unix:",
                                      "file"};
    struct addr addr;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(err_is_ok(syslog_target(good[i], &addr)));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(err_is_ok(syslog_target(bad[i], &addr)));
}

static void test_the_head_is_that_of_rfc_5424(void **state)
{
    char head[SYSLOG_HEAD_MAX];
    size_t len =
        syslog_head(30, INT64_C(1800000000000042), "host.example", 4711, "connection", head);

    (void)state;
    assert_int_equal(len, strlen(head));
    assert_string_equal(
        head, "<30>1 2027-01-15T08:00:00.000042Z host.example mortise-proxy 4711 connection - ");
}

static void test_a_line_is_a_datagram(void **state)
{
    struct receiver *r = *state;
    struct syslog_sender *sender = syslog_new(&r->addr, 3);
    char got[512];

    assert_true(syslog_send(sender, SYSLOG_INFO, "connection", "{\"a\":1}", 7));
    assert_true(receive(r, got, sizeof(got)) > 0);
    assert_int_equal(strncmp(got, "<30>1 ", 6), 0);
    assert_non_null(strstr(got, " connection - {\"a\":1}"));
    syslog_free(sender);
}

/* Were it to wait, this test would never end. */
static void test_a_receiver_that_takes_nothing_costs_lines(void **state)
{
    struct receiver *r = *state;
    struct syslog_sender *sender = syslog_new(&r->addr, 3);
    size_t sent = 0, got = 0;
    char line[1024];

    memset(line, 'x', sizeof(line));
    for (int i = 0; i < 10000; i++)
        sent += syslog_send(sender, SYSLOG_INFO, "connection", line, sizeof(line));
    assert_in_range(sent, 1, 9999);
    while (receive(r, line, sizeof(line)) > 0)
        got++;
    assert_int_equal(got, sent);
    assert_true(syslog_send(sender, SYSLOG_INFO, "connection", "again", 5)); /* it is there again */
    syslog_free(sender);
}

static void test_a_receiver_that_was_started_anew_is_found(void **state)
{
    struct receiver *r = *state;
    struct syslog_sender *sender = syslog_new(&r->addr, 3);
    bool sent = false;
    char got[512];

    assert_true(syslog_send(sender, SYSLOG_INFO, "connection", "1", 1));
    (void)close(r->fd);
    (void)unlink(r->path);
    assert_false(syslog_send(sender, SYSLOG_INFO, "connection", "2", 1));
    receiver_open(r);
    for (int i = 0; i < 400 && !sent; i++) { /* looked for once a second */
        sent = syslog_send(sender, SYSLOG_INFO, "connection", "3", 1);
        (void)poll(NULL, 0, 10);
    }
    assert_true(sent);
    assert_true(receive(r, got, sizeof(got)) > 0);
    syslog_free(sender);
}

/* ---- targets of the setting, and the file ---- */

static const char *fault_of(const char *targets)
{
    static char text[256];
    struct faults faults = {.num = 0};

    access_log_check("--access-log", targets, &faults);
    (void)snprintf(text, sizeof(text), "%s", faults.num > 0 ? faults.items[0].message : "");
    faults_fini(&faults);
    return text;
}

static void test_a_file_and_syslog_are_two_targets(void **state)
{
    (void)state;
    assert_string_equal(fault_of("off"), "");
    assert_string_equal(fault_of("-"), "");
    assert_string_equal(fault_of("/var/log/a.log"), "");
    assert_string_equal(fault_of("/var/log/a.log,syslog"), "");
    assert_string_equal(fault_of("syslog:udp://10.0.0.1:514,-"), "");
    assert_non_null(strstr(fault_of(""), "is empty"));
    assert_non_null(strstr(fault_of("a.log,"), "is empty"));
    assert_non_null(strstr(fault_of("off,a.log"), "off stands alone"));
    assert_non_null(strstr(fault_of("a.log,b.log"), "two files"));
    assert_non_null(strstr(fault_of("a.log,-"), "two files"));
    assert_non_null(strstr(fault_of("syslog,syslog:unix:/run/log"), "two syslog targets"));
    assert_non_null(strstr(fault_of("syslog:tcp://10.0.0.1:514"), "syslog:udp://ADDRESS:PORT"));
}

static void write_line(void)
{
    log_event(LOG_INFO, "access", "connection", NULL, 0);
}

static off_t size_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_size : -1;
}

static void test_a_file_that_was_renamed_is_followed(void **state)
{
    struct receiver *r = *state;
    char path[128], rotated[140], folder[160];
    off_t size;

    (void)snprintf(path, sizeof(path), "%s/access.log", r->folder);
    (void)snprintf(rotated, sizeof(rotated), "%s.1", path);
    assert_true(err_is_ok(access_log_open(path, 3)));
    write_line();
    assert_true(err_is_ok(access_log_follow(path, 3)));
    assert_int_equal(rename(path, rotated), 0);
    size = size_of(rotated);
    assert_true(size > 0);
    assert_true(err_is_ok(access_log_follow(path, 3)));
    write_line();
    assert_int_equal(size_of(rotated), size);
    assert_true(size_of(path) > 0);
    assert_int_equal(unlink(path), 0);
    assert_true(err_is_ok(access_log_follow(path, 3)));
    write_line();
    assert_true(size_of(path) > 0);

    /* Where none can be made the old one goes on, and it is told once. */
    (void)snprintf(folder, sizeof(folder), "%s/gone", r->folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(err_is(access_log_follow(path, 3), E_FILE_OPEN));
    assert_true(err_is_ok(access_log_follow(path, 3)));
    assert_int_equal(rmdir(path), 0);
    assert_true(err_is_ok(access_log_follow(path, 3)));
    write_line();
    assert_true(size_of(path) > 0);
    access_log_close();
    assert_int_equal(unlink(path), 0);
    assert_int_equal(unlink(rotated), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ends_pick_the_same),
        cmocka_unit_test(test_what_has_no_key_is_drawn),
        cmocka_unit_test(test_a_peers_text_is_cut_and_cleaned),
        cmocka_unit_test(test_while_nobody_takes_them_the_oldest_go),
        cmocka_unit_test(test_large_ones_are_bounded_by_bytes),
        cmocka_unit_test(test_a_batch_is_the_same_until_it_was_taken),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_the_head_is_that_of_rfc_5424),
        cmocka_unit_test_setup_teardown(test_a_line_is_a_datagram, receiver_setup,
                                        receiver_teardown),
        cmocka_unit_test_setup_teardown(test_a_receiver_that_takes_nothing_costs_lines,
                                        receiver_setup, receiver_teardown),
        cmocka_unit_test_setup_teardown(test_a_receiver_that_was_started_anew_is_found,
                                        receiver_setup, receiver_teardown),
        cmocka_unit_test(test_a_file_and_syslog_are_two_targets),
        cmocka_unit_test_setup_teardown(test_a_file_that_was_renamed_is_followed, receiver_setup,
                                        receiver_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
