/* Files: bounded reads to the byte, private files only when nobody else can read or change them,
 * writes that leave the old content or the new, never a part.
 *
 * Drives: R14, R24. */
#include "lib/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define assert_err(expr, want) assert_int_equal((expr).code, (want))

struct folder {
    char path[256];
    char file[300];
};

static int folder_make(void **state)
{
    struct folder *folder = mem_zalloc(sizeof(*folder));
    const char *tmp = getenv("TEST_TMPDIR");

    (void)snprintf(folder->path, sizeof(folder->path), "%s/file_test.XXXXXX",
                   tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(folder->path) == NULL)
        return -1;
    (void)snprintf(folder->file, sizeof(folder->file), "%s/f", folder->path);
    *state = folder;
    return 0;
}

static int folder_remove(void **state)
{
    struct folder *folder = *state;
    DIR *dir = opendir(folder->path);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir != NULL)
        (void)closedir(dir);
    (void)rmdir(folder->path);
    mem_free(folder);
    return 0;
}

static size_t folder_count(const struct folder *folder)
{
    DIR *dir = opendir(folder->path);
    struct dirent *entry;
    size_t num = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        num += entry->d_name[0] != '.';
    (void)closedir(dir);
    return num;
}

static void put(const char *path, const void *content, size_t len, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
}

static void test_read_takes_up_to_the_maximum(void **state)
{
    struct folder *folder = *state;
    char *content = mem_alloc(40000);
    struct buf out = {0};

    memset(content, 'x', 40000);
    content[39999] = '\0';
    put(folder->file, content, 40000, 0644);
    assert_ok(buf_add_str(&out, "before"));
    assert_err(file_read(folder->file, 39999, &out), E_TOO_LARGE);
    assert_int_equal(file_read(folder->file, 39999, &out).sub, 39999);
    assert_true(bytes_equal_str(buf_view(&out), "before"));
    assert_ok(file_read(folder->file, 40000, &out));
    assert_int_equal(buf_size(&out), 40006);
    assert_memory_equal(buf_view(&out).ptr + 6, content, 40000);
    buf_clear(&out);
    assert_ok(file_read(folder->file, 40001, &out));
    assert_int_equal(buf_size(&out), 40000);
    buf_fini(&out);
    mem_free(content);
}

static void test_the_buffers_own_maximum_holds_too(void **state)
{
    struct folder *folder = *state;
    struct buf out;

    put(folder->file, "0123456789", 10, 0600);
    buf_init(&out, 10);
    assert_ok(file_read(folder->file, 10, &out));
    assert_int_equal(buf_size(&out), 10);
    buf_fini(&out);
    buf_init(&out, 9);
    assert_err(file_read(folder->file, 10, &out), E_TOO_LARGE);
    assert_int_equal(buf_size(&out), 0);
    buf_fini(&out);
}

static void test_an_empty_file_is_empty(void **state)
{
    struct folder *folder = *state;
    struct buf out = {0};

    put(folder->file, "", 0, 0600);
    assert_ok(file_read(folder->file, 0, &out));
    assert_int_equal(buf_size(&out), 0);
    put(folder->file, "x", 1, 0600);
    assert_err(file_read(folder->file, 0, &out), E_TOO_LARGE);
    buf_fini(&out);
}

/* Its size in stat is 0. */
static void test_a_file_of_the_kernel_is_read_whole(void **state)
{
    struct buf out = {0};

    (void)state;
    assert_ok(file_read("/proc/self/status", 65536, &out));
    assert_true(buf_size(&out) > 100);
    assert_memory_equal(buf_view(&out).ptr, "Name:", 5);
    buf_fini(&out);
}

static void test_what_is_no_file_is_refused_at_once(void **state)
{
    struct folder *folder = *state;
    struct buf out = {0};

    assert_err(file_read(folder->file, 10, &out), E_FILE_OPEN);
    assert_int_equal(file_read(folder->file, 10, &out).sub, ENOENT);
    assert_err(file_read(folder->path, 10, &out), E_FILE_OPEN);
    assert_int_equal(file_read(folder->path, 10, &out).sub, EISDIR);
    /* A pipe without a writer: a plain open would wait for ever. */
    assert_int_equal(mkfifo(folder->file, 0600), 0);
    assert_err(file_read(folder->file, 10, &out), E_FILE_OPEN);
    assert_err(file_read_private(folder->file, 10, &out), E_FILE_OPEN);
    assert_err(file_read("/dev/zero", 10, &out), E_FILE_OPEN);
    assert_err(file_read("", 10, &out), E_FILE_OPEN);
    buf_fini(&out);
}

static void test_a_private_file_is_nobody_elses_to_read_or_change(void **state)
{
    static const struct {
        mode_t mode;
        bool good;
    } rows[] = {{0600, true},  {0400, true},  {0700, true},  {0711, true},  {0640, false},
                {0604, false}, {0620, false}, {0602, false}, {0644, false}, {0666, false}};
    struct folder *folder = *state;
    struct buf out = {0};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err_t err;

        put(folder->file, "key", 3, 0600);
        assert_int_equal(chmod(folder->file, rows[i].mode), 0);
        buf_clear(&out);
        err = file_read_private(folder->file, 100, &out);
        assert_int_equal(err.code, rows[i].good ? E_OK : E_FILE_UNSAFE);
        assert_int_equal(err.sub, rows[i].good ? 0 : (int)rows[i].mode);
        assert_int_equal(buf_size(&out), rows[i].good ? 3 : 0);
        assert_int_equal(file_check_private(folder->file).code,
                         rows[i].good ? E_OK : E_FILE_UNSAFE);
        assert_ok(file_read(folder->file, 100, &out));
        assert_int_equal(unlink(folder->file), 0);
    }
    assert_err(file_check_private(folder->file), E_FILE_OPEN);
    buf_wipe_fini(&out);
}

/* The file that the link leads to is judged, not the link, whose own mode is always 0777. */
static void test_a_link_to_a_private_file_is_as_private(void **state)
{
    struct folder *folder = *state;
    struct buf out = {0};
    char *link = mem_printf("%s/link", folder->path);

    put(folder->file, "key", 3, 0600);
    assert_int_equal(symlink(folder->file, link), 0);
    assert_ok(file_read_private(link, 100, &out));
    assert_int_equal(chmod(folder->file, 0644), 0);
    assert_err(file_read_private(link, 100, &out), E_FILE_UNSAFE);
    mem_free(link);
    buf_wipe_fini(&out);
}

static void test_our_own_file_is_no_link_and_nobody_elses(void **state)
{
    struct folder *folder = *state;
    struct buf out = {0};
    char *link = mem_printf("%s/link", folder->path);

    put(folder->file, "key", 3, 0600);
    assert_ok(file_read_own(folder->file, 3, &out));
    assert_int_equal(chmod(folder->file, 0640), 0);
    assert_err(file_read_own(folder->file, 3, &out), E_FILE_UNSAFE);
    assert_int_equal(chmod(folder->file, 0600), 0);
    assert_int_equal(symlink(folder->file, link), 0);
    assert_ok(file_read_private(link, 3, &out));
    assert_err(file_read_own(link, 3, &out), E_FILE_OPEN);
    assert_int_equal(file_read_own(link, 3, &out).sub, ELOOP);
    mem_free(link);
    buf_wipe_fini(&out);
}

static void test_a_file_of_another_user_is_unsafe_but_roots_is_not(void **state)
{
    struct folder *folder = *state;

    if (geteuid() != 0)
        skip();
    put(folder->file, "key", 3, 0600);
    assert_ok(file_check_private(folder->file));
    assert_int_equal(chown(folder->file, 12345, 0), 0);
    assert_err(file_check_private(folder->file), E_FILE_UNSAFE);
    assert_int_equal(file_check_private(folder->file).sub, 0);
}

static void assert_holds(const char *path, const char *want, mode_t mode)
{
    struct buf out = {0};
    struct stat stat_;

    assert_ok(file_read(path, 100, &out));
    assert_true(bytes_equal_str(buf_view(&out), want));
    assert_int_equal(lstat(path, &stat_), 0);
    assert_int_equal(stat_.st_mode & 07777, mode);
    buf_fini(&out);
}

static void test_write_makes_and_replaces_with_the_mode_given(void **state)
{
    struct folder *folder = *state;
    mode_t umask_before = umask(077);

    assert_ok(file_write_atomic(folder->file, bytes_of_str("one"), 0600));
    assert_holds(folder->file, "one", 0600);
    assert_ok(
        file_write_atomic(folder->file, bytes_of_str("other"), 0644)); /* not what umask says */
    assert_holds(folder->file, "other", 0644);
    assert_ok(file_write_atomic(folder->file, bytes_of(NULL, 0), 0400));
    assert_holds(folder->file, "", 0400);
    assert_int_equal(folder_count(folder), 1);
    (void)umask(umask_before);
}

static void test_write_in_the_folder_one_is_in(void **state)
{
    struct folder *folder = *state;
    char before[4096];

    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(folder->path), 0);
    assert_ok(file_write_atomic("f", bytes_of_str("here"), 0600));
    assert_int_equal(chdir(before), 0);
    assert_holds(folder->file, "here", 0600);
}

static void test_write_replaces_a_link_and_not_what_it_leads_to(void **state)
{
    struct folder *folder = *state;
    char *victim = mem_printf("%s/victim", folder->path);

    put(victim, "precious", 8, 0600);
    assert_int_equal(symlink(victim, folder->file), 0);
    assert_ok(file_write_atomic(folder->file, bytes_of_str("new"), 0600));
    assert_holds(victim, "precious", 0600);
    assert_holds(folder->file, "new", 0600);
    mem_free(victim);
}

static void test_write_where_nothing_can_be_made(void **state)
{
    struct folder *folder = *state;
    char *path = mem_printf("%s/no/such/folder", folder->path);

    assert_err(file_write_atomic(path, bytes_of_str("x"), 0600), E_FILE_OPEN);
    assert_int_equal(file_write_atomic(path, bytes_of_str("x"), 0600).sub, ENOENT);
    /* A folder stands there: the rename fails, and the temporary file goes. */
    assert_int_equal(mkdir(folder->file, 0700), 0);
    assert_err(file_write_atomic(folder->file, bytes_of_str("x"), 0600), E_IO);
    assert_int_equal(folder_count(folder), 1);
    assert_int_equal(rmdir(folder->file), 0);
    mem_free(path);
}

/* A file size limit stands for the full disk: in a child, since it cannot be raised again. */
static void test_write_on_a_full_disk_keeps_the_old_content(void **state)
{
    struct folder *folder = *state;
    int status = 0;
    pid_t pid;

    assert_ok(file_write_atomic(folder->file, bytes_of_str("old"), 0600));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {4096, 4096};
        char *content = mem_zalloc(10000);
        err_t err;

        (void)signal(SIGXFSZ, SIG_IGN);
        (void)setrlimit(RLIMIT_FSIZE, &limit);
        err = file_write_atomic(folder->file, bytes_of(content, 10000), 0600);
        _exit(err_is(err, E_IO) && err.sub == EFBIG ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_holds(folder->file, "old", 0600);
    assert_int_equal(folder_count(folder), 1);
}

/* A reader beside many writes sees one content or the other, whole. */
static void test_a_reader_never_sees_a_part(void **state)
{
    struct folder *folder = *state;
    char *contents[2];
    int status = 0;
    pid_t pid;

    for (int i = 0; i < 2; i++) {
        contents[i] = mem_alloc(50000);
        memset(contents[i], 'a' + i, 50000);
    }
    assert_ok(file_write_atomic(folder->file, bytes_of(contents[0], 50000), 0600));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < 100; i++) {
            if (!err_is_ok(file_write_atomic(folder->file, bytes_of(contents[i % 2], 50000), 0600)))
                _exit(1);
        }
        _exit(0);
    }
    while (waitpid(pid, &status, WNOHANG) == 0) {
        struct buf out = {0};
        struct bytes view;

        assert_ok(file_read(folder->file, 50000, &out));
        view = buf_view(&out);
        assert_true(bytes_equal(view, bytes_of(contents[0], 50000)) ||
                    bytes_equal(view, bytes_of(contents[1], 50000)));
        buf_fini(&out);
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    mem_free(contents[0]);
    mem_free(contents[1]);
}

static int num_open(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int num = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        num++;
    (void)closedir(dir);
    return num;
}

static void test_no_call_leaves_a_descriptor_open(void **state)
{
    struct folder *folder = *state;
    struct buf out = {0};
    int before = num_open();

    put(folder->file, "key", 3, 0644);
    for (int i = 0; i < 10; i++) {
        assert_ok(file_read(folder->file, 3, &out));
        buf_clear(&out);
        assert_err(file_read(folder->file, 2, &out), E_TOO_LARGE);
        assert_err(file_read_private(folder->file, 3, &out), E_FILE_UNSAFE);
        assert_err(file_read(folder->path, 3, &out), E_FILE_OPEN);
        assert_err(file_check_private(folder->file), E_FILE_UNSAFE);
        assert_ok(file_write_atomic(folder->file, bytes_of_str("abc"), 0644));
        assert_err(file_write_atomic(folder->path, bytes_of_str("abc"), 0644), E_IO);
    }
    assert_int_equal(num_open(), before);
    buf_fini(&out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)
    const struct CMUnitTest tests[] = {
        TEST(test_read_takes_up_to_the_maximum),
        TEST(test_the_buffers_own_maximum_holds_too),
        TEST(test_an_empty_file_is_empty),
        TEST(test_a_file_of_the_kernel_is_read_whole),
        TEST(test_what_is_no_file_is_refused_at_once),
        TEST(test_a_private_file_is_nobody_elses_to_read_or_change),
        TEST(test_a_link_to_a_private_file_is_as_private),
        TEST(test_our_own_file_is_no_link_and_nobody_elses),
        TEST(test_a_file_of_another_user_is_unsafe_but_roots_is_not),
        TEST(test_write_makes_and_replaces_with_the_mode_given),
        TEST(test_write_in_the_folder_one_is_in),
        TEST(test_write_replaces_a_link_and_not_what_it_leads_to),
        TEST(test_write_where_nothing_can_be_made),
        TEST(test_write_on_a_full_disk_keeps_the_old_content),
        TEST(test_a_reader_never_sees_a_part),
        TEST(test_no_call_leaves_a_descriptor_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
