#include "control/audit_ship.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define AUDIT_SHIP_LINE_MAX ((size_t)1 << 20) /* a record is far smaller */

struct audit_ship {
    struct audit *audit;
    char *path;
    int fd;
    dev_t dev;
    ino_t ino;
    uint64_t shipped;
    bool failing;
};

/* Appends the end of the file, from the last but one of its line ends on, at most
 * AUDIT_SHIP_LINE_MAX. */
static err_t audit_ship_read_end(int fd, off_t size, struct buf *out)
{
    off_t from = size > (off_t)AUDIT_SHIP_LINE_MAX ? size - (off_t)AUDIT_SHIP_LINE_MAX : 0;
    uint8_t part[16384];
    ssize_t len = 0;

    while (from < size && (len = pread(fd, part, sizeof(part), from)) > 0) {
        TRY(buf_add(out, part, (size_t)len));
        from += len;
    }
    return len < 0 ? FAIL(IO, errno) : OK;
}

/* The number of the record in a line; 0: there is none. */
static uint64_t audit_ship_seq(struct bytes line)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    ProtobufCMessage *msg = NULL;
    uint64_t seq;

    if (!err_is_ok(json_pb_parse(JSON_PB_JSON, "line", line, &mortise__v1__audit_record__descriptor,
                                 &faults, &msg)))
        return 0;
    seq = MSG_AS(Mortise__V1__AuditRecord, mortise__v1__audit_record__descriptor, msg)->seq;
    pb_free(msg);
    return seq;
}

/* Whether the text begins as the record does that is written next. */
static bool audit_ship_is_next(const struct audit_ship *ship, struct bytes text)
{
    const Mortise__V1__AuditHead *head = audit_head(ship->audit);
    uint64_t next =
        head->shipped_seq + 1 > head->first_seq ? head->shipped_seq + 1 : head->first_seq;
    CLEANUP(buf_fini) struct buf line = {.max = AUDIT_SHIP_LINE_MAX};
    Mortise__V1__AuditRecord *record;
    bool same;

    if (!err_is_ok(audit_read(ship->audit, next, &record)))
        return false;
    same = err_is_ok(audit_json(record, &line)) && text.len <= buf_size(&line) &&
           memcmp(buf_view(&line).ptr, text.ptr, text.len) == 0;
    pb_free(&record->base);
    return same;
}

/* Where the file ends: its last whole line, behind which a half one is cut off. A file that is not
 * of records is somebody else's: nothing is cut off of it, and nothing put there. */
static err_t audit_ship_resume(struct audit_ship *ship, off_t size, uint64_t *out_seq)
{
    CLEANUP(buf_fini) struct buf text = {.max = 2 * AUDIT_SHIP_LINE_MAX};
    struct bytes end;
    size_t whole, begin;

    *out_seq = 0;
    if (size == 0)
        return OK;
    TRY(audit_ship_read_end(ship->fd, size, &text));
    end = buf_view(&text);
    for (whole = end.len; whole > 0 && end.ptr[whole - 1] != '\n';)
        whole--;
    for (begin = whole > 0 ? whole - 1 : 0; begin > 0 && end.ptr[begin - 1] != '\n';)
        begin--;
    if (whole > 0)
        *out_seq = audit_ship_seq(bytes_of(end.ptr + begin, whole - begin));
    /* Of one line that is half there is nothing but that to tell whose it is. */
    if (whole > 0 ? *out_seq == 0 : (off_t)end.len < size || !audit_ship_is_next(ship, end))
        return FAIL(AUDIT_FILE, 0);
    if (whole < end.len && ftruncate(ship->fd, size - (off_t)(end.len - whole)) != 0)
        return FAIL(IO, errno);
    return OK;
}

/* What is written next: behind what the file has, and of a new one behind what the log knows. */
static void audit_ship_begin(struct audit_ship *ship, uint64_t seq)
{
    const Mortise__V1__AuditHead *head = audit_head(ship->audit);

    if (seq > head->seq) {
        log_error("audit", "file_of_another_log", LOG_STR("path", ship->path),
                  LOG_UINT("file", seq), LOG_UINT("log", head->seq));
        seq = head->shipped_seq;
    }
    ship->shipped = seq != 0 ? seq : head->shipped_seq;
}

static err_t audit_ship_reopen(struct audit_ship *ship)
{
    struct stat st;
    uint64_t seq;
    err_t err;

    if (ship->fd >= 0)
        (void)close(ship->fd);
    ship->fd =
        open(ship->path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
    if (ship->fd < 0)
        return FAIL(FILE_OPEN, errno);
    if (fstat(ship->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return FAIL(FILE_OPEN, EINVAL);
    ship->dev = st.st_dev;
    ship->ino = st.st_ino;
    err = audit_ship_resume(ship, st.st_size, &seq);
    if (!err_is_ok(err)) { /* looked at again with the next record */
        (void)close(ship->fd);
        ship->fd = -1;
    }
    TRY(err);
    audit_ship_begin(ship, seq > ship->shipped ? seq : ship->shipped);
    return OK;
}

/* The name may stand for another file by now, or for none. */
static err_t audit_ship_follow(struct audit_ship *ship)
{
    struct stat st;

    if (ship->fd >= 0 && lstat(ship->path, &st) == 0 && st.st_dev == ship->dev &&
        st.st_ino == ship->ino)
        return OK;
    return audit_ship_reopen(ship);
}

/* The next records as text; `*last` is the last that was looked at. */
static err_t audit_ship_gather(struct audit_ship *ship, struct buf *out, uint64_t *last)
{
    const Mortise__V1__AuditHead *head = audit_head(ship->audit);
    uint64_t from = ship->shipped + 1 > head->first_seq ? ship->shipped + 1 : head->first_seq;

    *last = ship->shipped;
    for (uint64_t seq = from; seq <= head->seq && seq - from < AUDIT_SHIP_MAX; seq++) {
        Mortise__V1__AuditRecord *record;
        err_t err = audit_read(ship->audit, seq, &record);

        *last = seq;
        if (err_is(err, E_NOT_FOUND))
            continue; /* who verifies sees it */
        TRY(err);
        err = audit_json(record, out);
        pb_free(&record->base);
        TRY(err);
    }
    return OK;
}

/* All of it, or nothing that counts: a half line is taken back. */
static err_t audit_ship_write(struct audit_ship *ship, struct bytes text)
{
    off_t size = lseek(ship->fd, 0, SEEK_END);
    size_t done = 0;
    int error;

    while (done < text.len) {
        ssize_t len = write(ship->fd, text.ptr + done, text.len - done);

        if (len > 0)
            done += (size_t)len;
        else if (len == 0 || errno != EINTR)
            break;
    }
    if (done == text.len && fdatasync(ship->fd) == 0)
        return OK;
    error = errno;
    if (size >= 0 && ftruncate(ship->fd, size) != 0) {
        (void)close(ship->fd); /* opened anew, its end is looked for */
        ship->fd = -1;
    }
    return FAIL(IO, error);
}

static err_t audit_ship_turn(struct audit_ship *ship)
{
    CLEANUP(buf_fini) struct buf text = {.max = (size_t)64 << 20};
    uint64_t last;

    TRY(audit_ship_follow(ship));
    TRY(audit_ship_gather(ship, &text, &last));
    if (buf_size(&text) > 0)
        TRY(audit_ship_write(ship, buf_view(&text)));
    ship->shipped = last;
    audit_note_shipped(ship->audit, last);
    return OK;
}

void audit_ship_tick(struct audit_ship *ship)
{
    err_t err;

    if (ship == NULL)
        return;
    err = audit_ship_turn(ship);
    if (err_is_ok(err) && ship->failing)
        log_info("audit", "file_writable_again", LOG_STR("path", ship->path));
    if (!err_is_ok(err) && !ship->failing)
        log_error("audit", "file_not_written", LOG_STR("path", ship->path), LOG_ERR("error", err));
    ship->failing = !err_is_ok(err);
}

err_t audit_ship_open(struct audit *audit, const char *flag, const char *path,
                      struct faults *faults, struct audit_ship **out)
{
    struct audit_ship *ship = mem_zalloc(sizeof(*ship));
    err_t err;

    ship->audit = audit;
    ship->path = mem_strdup(path);
    ship->fd = -1;
    err = audit_ship_reopen(ship);
    if (!err_is_ok(err)) {
        if (err_is(err, E_AUDIT_FILE))
            faults_add(faults, flag,
                       "%s: %s: wanted is a file of its own, new or as this control plane left it",
                       path, err_text(err.code));
        else
            faults_add(faults, flag, "%s: %s: %s", path, err_text(err.code), strerror(err.sub));
        audit_ship_close(ship);
        return err;
    }
    audit_set_ships(audit, true);
    *out = ship;
    return OK;
}

void audit_ship_close(struct audit_ship *ship)
{
    if (ship == NULL)
        return;
    if (ship->fd >= 0)
        (void)close(ship->fd);
    mem_free(ship->path);
    mem_free(ship);
}
