/* The pages of every program: all of them for its owner on a Unix socket, the public ones on TCP,
 * none for anybody else. Drives: R32. */
#include "lib/rpc/admin.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/net/tcp.h"
#include "test/unit/rpc/wire.h"

static struct loop *loop;
static char folder[] = "/tmp/mortise-admin-XXXXXX";

struct app {
    struct admin *admin;
    struct metrics *metrics;
    char socket[64], path[64];
    bool unready;
    unsigned num_handled;
};

static void app_ready(void *arg, struct faults *reasons)
{
    struct app *app = arg;

    if (!app->unready)
        return;
    faults_add(reasons, "certificate", "not yet issued");
    faults_add(reasons, "links", "no configuration yet");
}

static void app_page(void *arg, const struct http1_request *request,
                     struct http1_response *response)
{
    struct app *app = arg;

    app->num_handled++;
    assert_true(err_is_ok(buf_printf(
        &response->body, "%s %s?%s %.*s\n", request->method, request->path, request->query,
        (int)request->body.len, request->body.len != 0 ? (const char *)request->body.ptr : "")));
}

static const struct admin_page app_pages[] = {
    {"/config", false, false, app_page, "what is in force"},
    {"/drain", true, false, app_page, "stops accepting"},
    {"/open", false, true, app_page, "for everybody"},
    {NULL, false, false, NULL, NULL},
};

static const struct metric_family families[] = {
    {"mortise_test_total", METRIC_COUNTER, "For the test.", "", NULL, 0},
};

static struct app *app_new(void)
{
    static unsigned count;
    struct app *app = mem_zalloc(sizeof(*app));
    struct faults faults = {.num = 0};
    struct admin_params params = {
        .listen = app->socket,
        .http_listen = "127.0.0.1:0",
        .ready = app_ready,
        .pages = app_pages,
        .arg = app,
    };

    (void)snprintf(app->path, sizeof(app->path), "%s/%u", folder, count++);
    (void)snprintf(app->socket, sizeof(app->socket), "unix:%.50s", app->path);
    app->metrics = metrics_new(families, ARRAY_LEN(families));
    params.metrics = app->metrics;
    assert_true(err_is_ok(admin_new(loop, &params, &faults, &app->admin)));
    return app;
}

static void app_free(struct app *app)
{
    admin_free(app->admin);
    looptest_settle(loop);
    assert_int_equal(access(app->path, F_OK), -1); /* the socket's file is gone */
    metrics_free(app->metrics);
    mem_free(app);
}

/* Asks by one of the two doors; the answer as a text to be released. */
static char *ask(struct app *app, bool by_tcp, const char *text)
{
    struct recorder recorder = {.stream = NULL};
    struct stream *stream;
    struct addr addr;
    char *answer;
    int fd;

    if (by_tcp)
        addr = *admin_http_addr(app->admin);
    else
        assert_true(err_is_ok(addr_parse(app->socket, &addr)));
    fd = socket(addr.sa.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, &addr.sa.any, addr.len), 0);
    assert_true(err_is_ok(tcp_new(loop, fd, &stream)));
    recorder_attach(&recorder, stream);
    stream_read_start(stream);
    assert_true(err_is_ok(stream_write(stream, bytes_of_str(text))));
    LOOP_UNTIL(loop, recorder.num_bytes != 0 || recorder.num_eofs + recorder.num_errors != 0);
    stream_close(stream);
    looptest_settle(loop);
    answer = buf_take_str(&recorder.data);
    recorder_fini(&recorder);
    return answer;
}

static char *get(struct app *app, bool by_tcp, const char *path)
{
    char text[256];

    (void)snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    return ask(app, by_tcp, text);
}

static char *post(struct app *app, bool by_tcp, const char *path, const char *body)
{
    char text[256];

    (void)snprintf(text, sizeof(text),
                   "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", path,
                   strlen(body), body);
    return ask(app, by_tcp, text);
}

/* The answer has this status and contains this text. */
static void check(char *answer, int status, const char *part)
{
    char line[32];

    (void)snprintf(line, sizeof(line), "HTTP/1.1 %d ", status);
    if (strncmp(answer, line, strlen(line)) != 0 || strstr(answer, part) == NULL)
        print_error("%s\n", answer);
    assert_memory_equal(answer, line, strlen(line));
    assert_non_null(strstr(answer, part));
    mem_free(answer);
}

static void test_health_pages_by_both_doors(void **state)
{
    struct app *app = app_new();

    (void)state;
    for (int by_tcp = 0; by_tcp < 2; by_tcp++) {
        app->unready = false;
        check(get(app, by_tcp != 0, "/livez"), 200, "\r\n\r\nok\n");
        check(get(app, by_tcp != 0, "/readyz"), 200, "\r\n\r\nok\n");
        check(get(app, by_tcp != 0, "/readyz?verbose"), 200, "ok\n");
        app->unready = true;
        check(get(app, by_tcp != 0, "/readyz"), 503,
              "\r\n\r\ncertificate: not yet issued\nlinks: no configuration yet\n");
        check(get(app, by_tcp != 0, "/livez"), 200, "ok\n");
        check(get(app, by_tcp != 0, "/metrics"), 200, "Content-Type: text/plain; version=0.0.4");
        check(get(app, by_tcp != 0, "/metrics"), 200, "# TYPE mortise_test_total counter");
        check(ask(app, by_tcp != 0, "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n"), 200,
              "Content-Length: 3\r\n");
    }
    app_free(app);
}

static void test_own_pages_by_the_socket(void **state)
{
    struct app *app = app_new();

    (void)state;
    check(get(app, false, "/config?a=b"), 200, "GET /config?a=b \n");
    check(post(app, false, "/drain", "now"), 200, "POST /drain? now\n");
    check(get(app, false, "/open"), 200, "GET /open? \n");
    check(get(app, false, "/drain"), 405, "Allow: POST\r\n");
    check(post(app, false, "/config", ""), 405, "Allow: GET, HEAD\r\n");
    check(ask(app, false, "DELETE /loglevel HTTP/1.1\r\nHost: x\r\n\r\n"), 405,
          "Allow: GET, HEAD, POST\r\n");
    check(get(app, false, "/nope"), 404, "no such page");
    check(get(app, false, "//config"), 404, "no such page");
    check(get(app, false, "/config/"), 404, "no such page");
    check(get(app, false, "/%63onfig"), 404, "no such page");
    check(get(app, false, "/"), 200, "GET  /config          what is in force\n");
    check(get(app, false, "/"), 200, "POST /drain           stops accepting\n");
    assert_int_equal(app->num_handled, 3);
    app_free(app);
}

/* By TCP the rest does not even exist. */
static void test_only_public_pages_by_tcp(void **state)
{
    struct app *app = app_new();
    char *index;

    (void)state;
    check(get(app, true, "/open"), 200, "GET /open? \n");
    check(get(app, true, "/config"), 404, "no such page");
    check(post(app, true, "/config", ""), 404, "no such page");
    check(post(app, true, "/drain", "now"), 404, "no such page");
    check(get(app, true, "/loglevel"), 404, "no such page");
    check(post(app, true, "/loglevel", "debug"), 404, "no such page");
    index = get(app, true, "/");
    assert_null(strstr(index, "config"));
    assert_null(strstr(index, "loglevel"));
    check(index, 200, "/metrics");
    assert_int_equal(app->num_handled, 1);
    app_free(app);
}

static void test_log_levels_are_changed_or_refused_whole(void **state)
{
    struct app *app = app_new();

    (void)state;
    log_set_sink(NULL, NULL);
    check(get(app, false, "/loglevel"), 200, "\r\n\r\ninfo\n");
    check(post(app, false, "/loglevel", "warn,tls=debug\n"), 200, "warn,tls=debug\n");
    check(get(app, false, "/loglevel"), 200, "warn,tls=debug\n");
    check(post(app, false, "/loglevel", "error,h2=loud"), 400, "cannot use \"");
    check(post(app, false, "/loglevel", ""), 400, "a level is error, warn, info or debug");
    check(get(app, false, "/loglevel"), 200, "warn,tls=debug\n");
    check(post(app, false, "/loglevel", "info"), 200, "info\n");
    app_free(app);
}

static void test_wrong_addresses_are_told_at_once(void **state)
{
    static const struct {
        const char *listen, *http_listen, *faults;
    } rows[] = {
        {"127.0.0.1:80", "unix:/tmp/x",
         "admin-listen: expected unix:/path, found \"127.0.0.1:80\"\n"
         "admin-http-listen: expected an address and port like 127.0.0.1:15020, found "
         "\"unix:/tmp/x\"\n"},
        {"x", NULL, "admin-listen: expected unix:/path, found \"x\"\n"},
        {NULL, "localhost",
         "admin-http-listen: expected an address and port like 127.0.0.1:15020, "
         "found \"localhost\"\n"},
        {"unix:/nonexistent/folder/s", NULL,
         "admin-listen: cannot listen on unix:/nonexistent/folder/s: "},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct admin_params params = {.listen = rows[i].listen, .http_listen = rows[i].http_listen};
        struct faults faults = {.num = 0};
        struct buf text = {NULL, 0, 0, 0, 0};
        struct admin *admin = NULL;
        char *got;

        assert_false(err_is_ok(admin_new(loop, &params, &faults, &admin)));
        assert_null(admin);
        faults_text(&faults, &text);
        got = buf_take_str(&text);
        assert_memory_equal(got, rows[i].faults, strlen(rows[i].faults));
        mem_free(got);
        faults_fini(&faults);
    }
    looptest_settle(loop);
}

static void test_address_in_use_is_told_and_nothing_stays(void **state)
{
    struct app *app = app_new();
    struct addr addr = *admin_http_addr(app->admin);
    char text[ADDR_TEXT_MAX], path[64], socket[80];
    struct admin_params params = {.listen = socket, .http_listen = text};
    struct faults faults = {.num = 0};
    struct admin *second = NULL;

    (void)state;
    addr_format(&addr, text);
    (void)snprintf(path, sizeof(path), "%s/second", folder);
    (void)snprintf(socket, sizeof(socket), "unix:%s", path);
    assert_int_equal(admin_new(loop, &params, &faults, &second).code, E_ADDR_IN_USE);
    assert_int_equal(faults.num, 1);
    assert_string_equal(faults.items[0].path, "admin-http-listen");
    assert_int_equal(access(path, F_OK), -1);
    faults_fini(&faults);
    app_free(app);
}

static void test_without_addresses_there_is_no_door(void **state)
{
    struct admin_params params = {.listen = NULL};
    struct faults faults = {.num = 0};
    struct admin *admin = NULL;

    (void)state;
    assert_true(err_is_ok(admin_new(loop, &params, &faults, &admin)));
    assert_null(admin_http_addr(admin));
    admin_free(admin);
    looptest_settle(loop);
}

/* Connects in a child process that is somebody else. 0: connected and got nothing; else errno. */
static int dial_as_nobody(struct app *app)
{
    struct addr addr;
    int status = 0;
    pid_t pid;

    assert_true(err_is_ok(addr_parse(app->socket, &addr)));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const char text[] = "GET /config HTTP/1.1\r\nHost: x\r\n\r\n";
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char byte;

        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(255);
        if (connect(fd, &addr.sa.any, addr.len) != 0)
            _exit(errno);
        _exit(send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL) > 0 && recv(fd, &byte, 1, 0) > 0 ? 254
                                                                                              : 0);
    }
    while (waitpid(pid, &status, WNOHANG) == 0)
        loop_run_once(loop, false);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_others_are_kept_out(void **state)
{
    struct app *app = app_new();
    struct stat stat_buf;

    (void)state;
    assert_int_equal(stat(app->path, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0600);
    if (geteuid() != 0) {
        app_free(app);
        skip();
    }
    assert_int_equal(dial_as_nobody(app), EACCES);
    /* and if the file should have let them in */
    assert_int_equal(chmod(app->path, 0666), 0);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(dial_as_nobody(app), 0);
    assert_int_equal(app->num_handled, 0);
    app_free(app);
}

static int setup(void **state)
{
    (void)state;
    loop = loop_new(&clock_system);
    assert_non_null(mkdtemp(folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    (void)rmdir(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_health_pages_by_both_doors),
        cmocka_unit_test(test_own_pages_by_the_socket),
        cmocka_unit_test(test_only_public_pages_by_tcp),
        cmocka_unit_test(test_log_levels_are_changed_or_refused_whole),
        cmocka_unit_test(test_wrong_addresses_are_told_at_once),
        cmocka_unit_test(test_address_in_use_is_told_and_nothing_stays),
        cmocka_unit_test(test_without_addresses_there_is_no_door),
        cmocka_unit_test(test_others_are_kept_out),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
