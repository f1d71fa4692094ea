/* load is the benchmark's load generator: it plays the client application in front of a pair of
 * relays and the server application behind it, in one process with one epoll descriptor.
 *
 *     load COMMAND --to PORT --at PORT [--side PID[,PID...]]... [options]
 *
 * `--to` is the port where the first relay listens, `--at` the port that the second one connects
 * to; both on 127.0.0.1. Each `--side` names the processes of one relay, whose CPU time
 * (/proc/PID/task/TID/schedstat) is read at both edges of the measured window, so bytes and CPU
 * always belong to the same instant.
 *
 *     bulk    --streams N --down      256 KiB blocks; the sink discards (MSG_TRUNC) and counts
 *     ping    --size BYTES --crowd N  one request at a time on one connection, beside N silent ones
 *     stall   --connections N         sends on each what it takes while nobody reads, says so, and
 *                                     holds; a line on standard input closes them, and says so
 *     churn   --parallel N            connect, one byte there and back, close
 *     idle    --connections N         opens N, echoes --size bytes on each, says so, and holds
 * them; a number on standard input asks for one more echo of that many bytes on each; end of input
 * closes verify  --streams N --bytes N   pseudo-random bytes there and back, every one compared
 *     http    --at PORT               HTTP/1.1 keep-alive server until SIGTERM; answers have a
 *                                     body of --size bytes
 *
 * Prints one JSON object a line; idle one for each echo and one at the end. `errors` counts
 * everything that was lost, changed, refused or reset; `faults` has the first few in words. Exit
 * status: 0 when it ran (with or without errors), 2 for a wrong command line, 1 when it could not
 * run at all. */

#include <arpa/inet.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (256 * 1024)    /* what the source sends at once and an echo reads at once */
#define DISCARD (1024 * 1024) /* what the sink drops at once */
#define EVENTS 256            /* per epoll_wait */
#define BACKLOG 4096          /* listen; the kernel's somaxconn caps it */
#define FAULTS_KEPT 3         /* messages kept; the count goes on */
#define SIDES_MAX 2           /* relays of a pair */
#define PIDS_MAX 16           /* processes of one relay */
#define OPEN_AT_ONCE 16       /* idle: handshakes in flight, so that nobody's deadline is met */
#define SETTLE_NS 5000000000L /* how long bytes on their way may take to arrive: 5 s */
#define SECOND_NS 1000000000L

static_assert(BLOCK % 8 == 0, "pattern_fill writes words");

struct conn {
    struct conn *prev, *next; /* all open ones */
    int fd;
    uint32_t armed; /* events asked of epoll */
    void (*ready)(struct conn *c, uint32_t events);
    unsigned id;            /* client side: number of the stream */
    uint64_t sent, got;     /* bytes */
    uint64_t want;          /* client side: bytes still to come of the present echo */
    int64_t began_ns;       /* client side: connect or request */
    unsigned char *pending; /* owned; what the socket did not take */
    size_t pending_len, pending_off;
    unsigned blank_line; /* http: bytes of CR LF CR LF matched */
};

struct side {
    pid_t pid[PIDS_MAX];
    size_t pids;
};

struct samples {
    int64_t *ns; /* owned */
    size_t len, cap;
};

/* mark is one edge of the measured window. */
struct mark {
    int64_t at_ns;
    uint64_t side_ns[SIDES_MAX]; /* CPU time of each relay since it began */
    uint64_t own_ns;             /* CPU time of this process */
};

static struct {
    uint16_t to, at;
    double seconds, warm;
    unsigned streams, parallel, connections, crowd;
    size_t size;
    uint64_t bytes;
    bool down;
    struct side side[SIDES_MAX];
    size_t sides;
} opt = {.seconds = 1.0,
         .warm = 0.3,
         .streams = 1,
         .parallel = 16,
         .connections = 1000,
         .size = 64,
         .bytes = 1u << 20};

static struct {
    int epoll;
    struct conn *open;
    void (*serve)(struct conn *c, uint32_t events); /* handler of accepted connections */
    uint64_t errors;
    char faults[FAULTS_KEPT][160];
    uint64_t sent, got, done; /* bytes put in, bytes come out, whole operations */
    unsigned opened;          /* client connections made so far */
    unsigned active;          /* client connections with something under way */
    bool stopping;            /* nothing new is begun */
    bool told_to_stop;        /* SIGTERM */
    struct samples times;
    unsigned char block[BLOCK];     /* what is sent; ping and verify write their pattern here */
    unsigned char in[BLOCK];        /* what was received, for the length of one handler */
    unsigned char dropped[DISCARD]; /* never written: MSG_TRUNC copies nothing */
    char *answer;                   /* http: owned; head and body */
    size_t answer_len;
} run;

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

static int64_t after(double seconds)
{
    return now_ns() + (int64_t)(seconds * (double)SECOND_NS);
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* fault counts an error of the relays under test and keeps the first few in words. */
__attribute__((format(printf, 1, 2))) static void fault(const char *format, ...)
{
    if (run.errors < FAULTS_KEPT) {
        va_list args;

        va_start(args, format);
        vsnprintf(run.faults[run.errors], sizeof run.faults[0], format, args);
        va_end(args);
    }
    run.errors++;
}

static void *must_alloc(void *old, size_t size)
{
    void *p = realloc(old, size);

    if (p == NULL)
        die("out of memory for %zu bytes", size);
    return p;
}

static void samples_add(struct samples *s, int64_t ns)
{
    if (s->len == s->cap) {
        s->cap = s->cap != 0 ? 2 * s->cap : 4096;
        s->ns = must_alloc(s->ns, s->cap * sizeof *s->ns);
    }
    s->ns[s->len++] = ns;
}

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* samples_us is the value below which `share` (0 to 1) of the samples lie, in microseconds. It
 * wants them sorted. */
static double samples_us(const struct samples *s, double share)
{
    if (s->len == 0)
        return 0.0;
    return (double)s->ns[(size_t)(share * (double)(s->len - 1))] / 1000.0;
}

/* ---- connections -------------------------------------------------------------------------- */

static void conn_arm(struct conn *c, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};

    if (events == c->armed)
        return;
    if (epoll_ctl(run.epoll, c->armed != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e) != 0)
        die("epoll_ctl: %s", strerror(errno));
    c->armed = events;
}

static struct conn *conn_new(int fd, void (*ready)(struct conn *, uint32_t), uint32_t events)
{
    struct conn *c = must_alloc(NULL, sizeof *c);
    int yes = 1;

    *c = (struct conn){.fd = fd, .ready = ready, .next = run.open};
    if (run.open != NULL)
        run.open->prev = c;
    run.open = c;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    conn_arm(c, events);
    return c;
}

static void conn_close(struct conn *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        run.open = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    close(c->fd); /* leaves epoll with it: nobody duplicates our descriptors */
    free(c->pending);
    free(c);
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof error;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error;
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* conn_open connects to the first relay without waiting; NULL and a fault when that failed. */
static struct conn *conn_open(void (*ready)(struct conn *, uint32_t), uint32_t events)
{
    struct sockaddr_in to = loopback(opt.to);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct conn *c;

    if (fd < 0)
        die("socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        fault("connect: %s", strerror(errno));
        close(fd);
        return NULL;
    }
    c = conn_new(fd, ready, events);
    c->id = run.opened++;
    c->began_ns = now_ns();
    return c;
}

static void accept_ready(struct conn *listener, uint32_t events)
{
    (void)events;
    for (;;) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
                die("accept: %s", strerror(errno));
            return;
        }
        run.serve(conn_new(fd, run.serve, EPOLLIN), 0);
    }
}

/* serve listens on `--at` and hands what arrives to `ready`, called once with no events first. */
static void serve(void (*ready)(struct conn *, uint32_t))
{
    struct sockaddr_in at = loopback(opt.at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int yes = 1;

    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (const struct sockaddr *)&at, sizeof at) != 0 || listen(fd, BACKLOG) != 0)
        die("port %u: %s", opt.at, strerror(errno));
    run.serve = ready;
    conn_new(fd, accept_ready, EPOLLIN);
}

/* loop_until handles events until `done` says so (true) or the time is there (false). */
static bool loop_until(int64_t deadline_ns, bool (*done)(void))
{
    struct epoll_event events[EVENTS];

    for (;;) {
        int64_t left_ns = deadline_ns - now_ns();
        int n;

        if (done != NULL && done())
            return true;
        if (left_ns <= 0 || run.told_to_stop)
            return false;
        n = epoll_wait(run.epoll, events, EVENTS, (int)((left_ns + 999999) / 1000000));
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            c->ready(c, events[i].events);
        }
    }
}

/* conn_send sends what the socket takes and keeps the rest, which conn_flush sends later. */
static bool conn_send(struct conn *c, const void *bytes, size_t len)
{
    ssize_t n = send(c->fd, bytes, len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN)
        return false;
    n = n < 0 ? 0 : n;
    c->sent += (uint64_t)n;
    if ((size_t)n < len) {
        c->pending_len = len - (size_t)n;
        c->pending_off = 0;
        c->pending = must_alloc(c->pending, c->pending_len);
        memcpy(c->pending, (const unsigned char *)bytes + n, c->pending_len);
    }
    return true;
}

static bool conn_flush(struct conn *c)
{
    ssize_t n = send(c->fd, c->pending + c->pending_off, c->pending_len, MSG_NOSIGNAL);

    if (n < 0)
        return errno == EAGAIN;
    c->sent += (uint64_t)n;
    c->pending_off += (size_t)n;
    c->pending_len -= (size_t)n;
    return true;
}

/* ---- servers ------------------------------------------------------------------------------ */

/* A server ends its connection quietly: whether that was expected, the client side knows. */
static void echo_ready(struct conn *c, uint32_t events)
{
    if (events == 0)
        return;
    if (c->pending_len != 0) {
        if (!conn_flush(c)) {
            conn_close(c);
            return;
        }
    } else {
        ssize_t n = recv(c->fd, run.in, sizeof run.in, 0);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || !conn_send(c, run.in, (size_t)n)) {
            conn_close(c);
            return;
        }
    }
    conn_arm(c, c->pending_len != 0 ? EPOLLOUT : EPOLLIN);
}

/* heads_in counts the request heads that end in `len` bytes, over the borders of reads. */
static size_t heads_in(struct conn *c, const unsigned char *bytes, size_t len)
{
    static const char end[] = "\r\n\r\n";
    size_t heads = 0;

    for (size_t i = 0; i < len; i++) {
        if (bytes[i] == (unsigned char)end[c->blank_line])
            c->blank_line++;
        else
            c->blank_line = bytes[i] == '\r' ? 1 : 0;
        if (c->blank_line == 4) {
            c->blank_line = 0;
            heads++;
        }
    }
    return heads;
}

static void http_ready(struct conn *c, uint32_t events)
{
    if (events == 0)
        return;
    if (c->pending_len != 0) {
        if (!conn_flush(c)) {
            conn_close(c);
            return;
        }
    } else {
        ssize_t n = recv(c->fd, run.in, sizeof run.in, 0);
        size_t heads;

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            conn_close(c);
            return;
        }
        heads = heads_in(c, run.in, (size_t)n);
        run.done += heads;
        if (heads > 1) {
            fault("%zu requests at once on one connection: wrk does not pipeline", heads);
            conn_close(c);
            return;
        }
        if (heads == 1 && !conn_send(c, run.answer, run.answer_len)) {
            conn_close(c);
            return;
        }
    }
    conn_arm(c, c->pending_len != 0 ? EPOLLOUT : EPOLLIN);
}

/* ---- window and report -------------------------------------------------------------------- */

/* process_cpu_ns adds the run time of all threads of a process. A process that is gone is a
 * fault: half a pair's CPU time would look like a record. */
static uint64_t process_cpu_ns(pid_t pid)
{
    char path[64];
    uint64_t sum = 0;
    unsigned threads = 0;
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char file[sizeof path + sizeof entry->d_name + 16];
        uint64_t ns;
        FILE *f;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(file, sizeof file, "%s/%s/schedstat", path, entry->d_name);
        f = fopen(file, "re");
        if (f == NULL)
            continue;
        if (fscanf(f, "%" SCNu64, &ns) == 1) {
            sum += ns;
            threads++;
        }
        fclose(f);
    }
    if (dir != NULL)
        closedir(dir);
    if (threads == 0)
        fault("process %d is gone or has no schedstat", (int)pid);
    return sum;
}

static struct mark mark_now(void)
{
    struct mark m = {.at_ns = now_ns()};
    struct timespec t;

    for (size_t i = 0; i < opt.sides; i++) {
        for (size_t k = 0; k < opt.side[i].pids; k++)
            m.side_ns[i] += process_cpu_ns(opt.side[i].pid[k]);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    m.own_ns = (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
    return m;
}

/* report_begin prints what every command has; report_end the errors. */
static void report_begin(const char *command, const struct mark *from, const struct mark *to)
{
    double seconds = (double)(to->at_ns - from->at_ns) / (double)SECOND_NS;

    printf("{\"command\": \"%s\", \"seconds\": %.6f, \"cpu_s\": [", command, seconds);
    for (size_t i = 0; i < opt.sides; i++)
        printf("%s%.6f", i != 0 ? ", " : "",
               (double)(to->side_ns[i] - from->side_ns[i]) / (double)SECOND_NS);
    printf("], \"load_busy\": %.3f",
           seconds > 0 ? (double)(to->own_ns - from->own_ns) / (double)SECOND_NS / seconds : 0.0);
}

static void report_times(void)
{
    struct samples *s = &run.times;

    qsort(s->ns, s->len, sizeof *s->ns, compare_ns);
    printf(", \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f", samples_us(s, 0.50),
           samples_us(s, 0.99), samples_us(s, 1.0));
}

static void report_end(void)
{
    uint64_t kept = run.errors < FAULTS_KEPT ? run.errors : FAULTS_KEPT;

    printf(", \"errors\": %" PRIu64 ", \"faults\": [", run.errors);
    for (uint64_t i = 0; i < kept; i++)
        printf("%s\"%s\"", i != 0 ? ", " : "", run.faults[i]); /* our words: nothing to escape */
    printf("]}\n");
    fflush(stdout);
}

/* ---- bulk --------------------------------------------------------------------------------- */

static void source_ready(struct conn *c, uint32_t events)
{
    ssize_t n;

    if (events == 0) { /* just accepted: the source is the server */
        conn_arm(c, EPOLLOUT | EPOLLRDHUP);
        return;
    }
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        fault("a sending stream was closed after %" PRIu64 " bytes: %s", c->sent,
              strerror(socket_error(c->fd)));
        conn_close(c);
        return;
    }
    if (run.stopping) {
        conn_arm(c, EPOLLRDHUP);
        return;
    }
    n = send(c->fd, run.block, sizeof run.block, MSG_NOSIGNAL);
    if (n < 0)
        return; /* EAGAIN, or an error that epoll reports next */
    c->sent += (uint64_t)n;
    run.sent += (uint64_t)n;
}

static void sink_ready(struct conn *c, uint32_t events)
{
    ssize_t n;

    if (events == 0)
        return;
    n = recv(c->fd, run.dropped, sizeof run.dropped, MSG_TRUNC);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        fault("a receiving stream ended after %" PRIu64 " bytes: %s", c->got,
              n < 0 ? strerror(errno) : "end of stream");
        conn_close(c);
        return;
    }
    if (c->got == 0)
        run.active++;
    c->got += (uint64_t)n;
    run.got += (uint64_t)n;
}

static bool bulk_all_flow(void)
{
    return run.active == opt.streams || run.errors != 0;
}

static bool bulk_all_arrived(void)
{
    return run.got == run.sent || run.errors != 0;
}

static void bulk(void)
{
    struct mark from, to;
    uint64_t got;

    serve(opt.down ? source_ready : sink_ready);
    for (unsigned i = 0; i < opt.streams; i++)
        conn_open(opt.down ? sink_ready : source_ready, opt.down ? EPOLLIN : EPOLLOUT | EPOLLRDHUP);
    if (!loop_until(now_ns() + SETTLE_NS, bulk_all_flow))
        fault("only %u of %u streams carry data", run.active, opt.streams);
    loop_until(after(opt.warm), NULL);

    from = mark_now();
    got = run.got;
    loop_until(after(opt.seconds), NULL);
    to = mark_now();
    got = run.got - got;

    /* Many streams can fill the memory that the kernel grants to TCP as a whole (tcp_mem). It then
     * drops what arrives, and the sender's timer, doubled each time, brings it a second time. */
    run.stopping = true;
    if (!loop_until(now_ns() + 12 * SETTLE_NS, bulk_all_arrived))
        fault("%" PRIu64 " bytes sent, %" PRIu64 " arrived", run.sent, run.got);
    report_begin("bulk", &from, &to);
    printf(", \"bytes\": %" PRIu64, got);
    report_end();
}

/* ---- stall -------------------------------------------------------------------------------- */

/* A server that never reads. */
static void deaf_ready(struct conn *c, uint32_t events)
{
    if (events == 0)
        conn_arm(c, EPOLLRDHUP | EPOLLET);
    else
        conn_close(c);
}

static void stall_ready(struct conn *c, uint32_t events)
{
    ssize_t n = -1;

    if ((events & (EPOLLERR | EPOLLHUP)) == 0)
        n = send(c->fd, run.block, sizeof run.block, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        fault("connection %u was closed: %s", c->id, strerror(socket_error(c->fd)));
        conn_close(c);
        return;
    }
    if (c->sent == 0 && n > 0)
        run.active++;
    c->sent += n > 0 ? (uint64_t)n : 0;
    run.sent += n > 0 ? (uint64_t)n : 0;
}

static bool stall_all_began(void)
{
    return run.active == opt.connections || run.errors != 0;
}

static void stall_report(struct mark *from)
{
    struct mark to = mark_now();

    report_begin("stall", from, &to);
    printf(", \"connections\": %u, \"bytes\": %" PRIu64, run.active, run.sent);
    report_end();
}

static void stall(void)
{
    struct mark from = mark_now();
    uint64_t before;
    char line[8];

    serve(deaf_ready);
    for (unsigned i = 0; i < opt.connections; i++)
        conn_open(stall_ready, EPOLLOUT);
    if (!loop_until(now_ns() + 3 * SETTLE_NS, stall_all_began))
        fault("only %u of %u connections took a byte", run.active, opt.connections);
    do { /* until nothing moves */
        before = run.sent;
        loop_until(after(0.5), NULL);
    } while (run.sent != before);
    stall_report(&from);
    if (fgets(line, sizeof line, stdin) == NULL)
        return;
    for (struct conn *c = run.open, *next; c != NULL; c = next) {
        next = c->next;
        if (c->ready != accept_ready)
            conn_close(c);
    }
    stall_report(&from);
    (void)getchar(); /* until we are told, or end of input */
}

/* ---- ping --------------------------------------------------------------------------------- */

static bool ping_send(struct conn *c)
{
    uint64_t number = c->sent; /* bytes so far: no two requests look alike */

    memcpy(run.block, &number, opt.size < sizeof number ? opt.size : sizeof number);
    c->began_ns = now_ns();
    c->want = opt.size;
    if (!conn_send(c, run.block, opt.size) || c->pending_len != 0) {
        fault("a request of %zu bytes did not fit: %s", opt.size, strerror(errno));
        return false;
    }
    return true;
}

static void ping_ready(struct conn *c, uint32_t events)
{
    ssize_t n;

    if (c->sent == 0 && (events & (EPOLLERR | EPOLLHUP)) == 0) { /* connected */
        conn_arm(c, EPOLLIN);
        if (!ping_send(c))
            conn_close(c);
        return;
    }
    n = recv(c->fd, run.in, c->want, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        fault("the connection ended after %" PRIu64 " answers: %s", run.done,
              n < 0 ? strerror(errno) : "end of stream");
        conn_close(c);
        return;
    }
    if (memcmp(run.in, run.block + (opt.size - c->want), (size_t)n) != 0) {
        fault("answer %" PRIu64 " differs from its request", run.done);
        conn_close(c);
        return;
    }
    c->want -= (uint64_t)n;
    if (c->want != 0)
        return;
    samples_add(&run.times, now_ns() - c->began_ns);
    run.done++;
    if (!ping_send(c))
        conn_close(c);
}

static void crowd_open(void);

static void ping(void)
{
    struct mark from, to;

    serve(echo_ready);
    crowd_open();
    conn_open(ping_ready, EPOLLOUT);
    loop_until(after(opt.warm), NULL);

    run.times.len = 0;
    run.done = 0;
    from = mark_now();
    loop_until(after(opt.seconds), NULL);
    to = mark_now();

    if (run.done == 0)
        fault("not one answer");
    report_begin("ping", &from, &to);
    printf(", \"round_trips\": %" PRIu64, run.done);
    report_times();
    report_end();
}

/* ---- churn -------------------------------------------------------------------------------- */

static void churn_ready(struct conn *c, uint32_t events);

static void churn_open(void)
{
    if (run.stopping || run.errors > 1000) /* a dead relay must not make this spin */
        return;
    if (conn_open(churn_ready, EPOLLOUT) != NULL)
        run.active++;
}

static void churn_ready(struct conn *c, uint32_t events)
{
    unsigned char byte = (unsigned char)c->id;
    ssize_t n;

    if (c->sent == 0 && (events & (EPOLLERR | EPOLLHUP)) == 0) { /* connected */
        if (conn_send(c, &byte, 1) && c->sent == 1) {
            conn_arm(c, EPOLLIN);
            return;
        }
    }
    n = recv(c->fd, run.in, sizeof run.in, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n != 1 || run.in[0] != byte) {
        fault("connection %u: %s", c->id,
              n < 0 ? strerror(errno) : (n == 0 ? "closed without an answer" : "wrong answer"));
    } else {
        run.done++;
        samples_add(&run.times, now_ns() - c->began_ns);
    }
    conn_close(c);
    run.active--;
    churn_open();
}

static bool churn_all_closed(void)
{
    return run.active == 0;
}

static void churn(void)
{
    struct mark from, to;
    uint64_t done;

    serve(echo_ready);
    for (unsigned i = 0; i < opt.parallel; i++)
        churn_open();
    loop_until(after(opt.warm), NULL);

    run.times.len = 0;
    run.done = 0;
    from = mark_now();
    loop_until(after(opt.seconds), NULL);
    to = mark_now();
    done = run.done;

    run.stopping = true;
    if (!loop_until(now_ns() + SETTLE_NS, churn_all_closed))
        fault("%u connections got no answer", run.active);
    if (done == 0)
        fault("not one connection");
    report_begin("churn", &from, &to);
    printf(", \"connections\": %" PRIu64, done);
    report_times();
    report_end();
}

/* ---- idle --------------------------------------------------------------------------------- */

static struct {
    struct conn **conn; /* owned; the client side, by id */
    unsigned echoed;    /* connections done with the present echo */
    size_t size;
} idle_state;

static void idle_ready(struct conn *c, uint32_t events);

static void idle_request(struct conn *c)
{
    c->want = idle_state.size;
    if (!conn_send(c, run.block, idle_state.size) || c->pending_len != 0)
        fault("connection %u: %zu bytes did not fit", c->id, idle_state.size);
    conn_arm(c, EPOLLIN);
}

/* idle_next starts the echo on the next connection, which is made first if it has to be. */
static void idle_next(void)
{
    if (idle_state.echoed + run.active >= opt.connections)
        return;
    run.active++;
    if (run.opened < opt.connections) {
        struct conn *c = conn_open(idle_ready, EPOLLOUT);

        if (c == NULL)
            die("cannot connect: %s", run.faults[0]);
        idle_state.conn[c->id] = c;
    } else {
        idle_request(idle_state.conn[idle_state.echoed + run.active - 1]);
    }
}

static void idle_ready(struct conn *c, uint32_t events)
{
    ssize_t n;

    if (c->sent == 0 && (events & (EPOLLERR | EPOLLHUP)) == 0) {
        idle_request(c);
        return;
    }
    n = recv(c->fd, run.in, sizeof run.in, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || (uint64_t)n > c->want) {
        fault("connection %u: %s", c->id,
              n < 0 ? strerror(errno) : (n == 0 ? "closed while idle" : "too long an answer"));
        conn_arm(c, EPOLLET); /* stays as it is: the count of open connections must not move */
        if (c->want == 0)
            return;
        n = (ssize_t)c->want;
    } else if (memcmp(run.in, run.block + (idle_state.size - c->want), (size_t)n) != 0) {
        fault("connection %u: the answer differs", c->id);
    }
    c->want -= (uint64_t)n;
    if (c->want != 0)
        return;
    run.active--;
    idle_state.echoed++;
    idle_next();
}

static bool idle_all_echoed(void)
{
    return idle_state.echoed == opt.connections;
}

static void idle_round(size_t size)
{
    idle_state.size = size;
    idle_state.echoed = 0;
    for (unsigned i = 0; i < OPEN_AT_ONCE; i++)
        idle_next();
    if (!loop_until(now_ns() + 12 * SETTLE_NS, idle_all_echoed))
        fault("%u of %u connections got their answer", idle_state.echoed, opt.connections);
}

/* The silent neighbours of a ping: one byte each, then nothing. */
static void crowd_open(void)
{
    opt.connections = opt.crowd;
    if (opt.crowd == 0)
        return;
    idle_state.conn = must_alloc(NULL, opt.crowd * sizeof(struct conn *));
    idle_round(1);
}

static void idle_echo(size_t size)
{
    struct mark from = mark_now(), to;

    idle_round(size);
    to = mark_now();
    report_begin("idle", &from, &to);
    printf(", \"connections\": %u, \"size\": %zu", idle_state.echoed, size);
    report_end();
}

/* idle_check sees whether all connections are still open; nobody looked while we held them. */
static void idle_check(void)
{
    for (unsigned i = 0; i < opt.connections; i++) {
        unsigned char byte;
        ssize_t n = recv(idle_state.conn[i]->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

        if (n >= 0 || errno != EAGAIN)
            fault("connection %u: %s", i, n < 0 ? strerror(errno) : "not idle");
    }
}

static void idle(void)
{
    struct mark now;
    char line[32];

    idle_state.conn = must_alloc(NULL, opt.connections * sizeof(struct conn *));
    serve(echo_ready);
    idle_echo(opt.size);
    while (fgets(line, sizeof line, stdin) != NULL) {
        unsigned long size = strtoul(line, NULL, 10);

        if (size == 0 || size > BLOCK)
            die("standard input: a number of bytes from 1 to %d, not %s", BLOCK, line);
        idle_check();
        idle_echo(size);
    }
    idle_check();
    now = mark_now();
    report_begin("idle", &now, &now);
    report_end();
    free(idle_state.conn);
}

/* ---- verify ------------------------------------------------------------------------------- */

/* pattern_fill writes the bytes that stream `id` has at `offset`, a multiple of 8: a different
 * word everywhere, so lost, doubled, moved and crossed bytes all show. */
static void pattern_fill(unsigned char *out, unsigned id, uint64_t offset, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t x = ((uint64_t)id << 48) + (offset + i) / 8;

        x = (x + 1) * 0x9e3779b97f4a7c15u; /* splitmix64 */
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
        memcpy(out + i, &x, sizeof x);
    }
}

static bool verify_bytes(struct conn *c, const unsigned char *bytes, size_t len)
{
    size_t lead = (size_t)(c->got % 8);

    /* run.block is free here: the sender fills it anew each time. */
    pattern_fill(run.block, c->id, c->got - lead, (lead + len + 7) / 8 * 8);
    return memcmp(run.block + lead, bytes, len) == 0;
}

static void verify_ready(struct conn *c, uint32_t events)
{
    if (events & EPOLLOUT && c->sent < opt.bytes) {
        size_t lead = (size_t)(c->sent % 8);
        /* Odd sizes from 1 byte to 64 KiB, by position, so record borders fall everywhere. */
        size_t len = (size_t)((c->sent * 2654435761u >> 7) % 65536) + 1;
        ssize_t n;

        len = len < opt.bytes - c->sent ? len : (size_t)(opt.bytes - c->sent);
        pattern_fill(run.block, c->id, c->sent - lead, (lead + len + 7) / 8 * 8);
        n = send(c->fd, run.block + lead, len, MSG_NOSIGNAL);
        if (n > 0)
            c->sent += (uint64_t)n;
        if (c->sent == opt.bytes)
            conn_arm(c, EPOLLIN);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        ssize_t n = recv(c->fd, run.in, sizeof run.in - 16, 0);

        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || c->got + (uint64_t)n > c->sent || !verify_bytes(c, run.in, (size_t)n)) {
            fault("stream %u after %" PRIu64 " bytes: %s", c->id, c->got,
                  n < 0 ? strerror(errno) : (n == 0 ? "end of stream" : "wrong bytes"));
            conn_close(c);
            run.active--;
            return;
        }
        c->got += (uint64_t)n;
        run.got += (uint64_t)n;
        if (c->got == opt.bytes) {
            conn_close(c);
            run.active--;
        }
    }
}

static void verify(void)
{
    struct mark from, to;

    serve(echo_ready);
    from = mark_now();
    for (unsigned i = 0; i < opt.streams; i++)
        run.active += conn_open(verify_ready, EPOLLIN | EPOLLOUT) != NULL;
    if (!loop_until(now_ns() + 3 * SETTLE_NS, churn_all_closed))
        fault("%u streams did not end", run.active);
    to = mark_now();
    report_begin("verify", &from, &to);
    printf(", \"bytes\": %" PRIu64, run.got);
    report_end();
}

/* ---- http --------------------------------------------------------------------------------- */

static void signal_ready(struct conn *c, uint32_t events)
{
    (void)events;
    run.told_to_stop = true;
    conn_close(c);
}

static void signals_watch(void)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        die("signalfd: %s", strerror(errno));
    conn_new(fd, signal_ready, EPOLLIN);
}

static void http(void)
{
    struct mark from, to;
    int head;

    run.answer = must_alloc(NULL, opt.size + 128);
    head = snprintf(run.answer, 128,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n",
                    opt.size);
    memset(run.answer + head, 'm', opt.size);
    run.answer_len = (size_t)head + opt.size;
    signals_watch();
    serve(http_ready);
    puts("{\"command\": \"http\", \"listening\": true}");
    fflush(stdout);

    from = mark_now();
    while (!run.told_to_stop)
        loop_until(after(60.0), NULL);
    to = mark_now();
    report_begin("http", &from, &to);
    printf(", \"requests\": %" PRIu64, run.done);
    report_end();
    free(run.answer);
}

/* ---- command line ------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} commands[] = {
    {"bulk", bulk},     {"ping", ping}, {"churn", churn}, {"idle", idle},
    {"verify", verify}, {"http", http}, {"stall", stall},
};

__attribute__((noreturn)) static void usage(const char *what, const char *value)
{
    fprintf(stderr,
            "load: %s: %s\n"
            "usage: load bulk|ping|churn|idle|verify|http --to PORT --at PORT [--side PID,...]...\n"
            "            [--seconds S] [--warm S] [--streams N] [--parallel N] [--connections N]\n"
            "            [--size BYTES] [--bytes N] [--down]\n",
            what, value);
    exit(2);
}

static uint64_t number(const char *name, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || n < min || n > max)
        usage(name, text);
    return n;
}

static double seconds(const char *name, const char *text)
{
    char *end;
    double s = strtod(text, &end);

    if (end == text || *end != '\0' || !(s >= 0.0 && s <= 3600.0))
        usage(name, text);
    return s;
}

static void side_add(char *text)
{
    struct side *side = &opt.side[opt.sides];

    if (opt.sides == SIDES_MAX)
        usage("--side", "more than two");
    for (char *rest, *one = strtok_r(text, ",", &rest); one != NULL;
         one = strtok_r(NULL, ",", &rest)) {
        if (side->pids == PIDS_MAX)
            usage("--side", "too many processes");
        side->pid[side->pids++] = (pid_t)number("--side", one, 1, INT32_MAX);
    }
    opt.sides++;
}

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"to", required_argument, NULL, 't'},
        {"at", required_argument, NULL, 'a'},
        {"side", required_argument, NULL, 'p'},
        {"seconds", required_argument, NULL, 's'},
        {"warm", required_argument, NULL, 'w'},
        {"streams", required_argument, NULL, 'n'},
        {"parallel", required_argument, NULL, 'l'},
        {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 'z'},
        {"bytes", required_argument, NULL, 'b'},
        {"crowd", required_argument, NULL, 'r'},
        {"down", no_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 't':
            opt.to = (uint16_t)number("--to", optarg, 1, UINT16_MAX);
            break;
        case 'a':
            opt.at = (uint16_t)number("--at", optarg, 1, UINT16_MAX);
            break;
        case 'p':
            side_add(optarg);
            break;
        case 's':
            opt.seconds = seconds("--seconds", optarg);
            break;
        case 'w':
            opt.warm = seconds("--warm", optarg);
            break;
        case 'n':
            opt.streams = (unsigned)number("--streams", optarg, 1, 1000);
            break;
        case 'l':
            opt.parallel = (unsigned)number("--parallel", optarg, 1, 1000);
            break;
        case 'c':
            opt.connections = (unsigned)number("--connections", optarg, 1, 20000);
            break;
        case 'z':
            opt.size = (size_t)number("--size", optarg, 1, BLOCK);
            break;
        case 'b':
            opt.bytes = number("--bytes", optarg, 1, UINT64_C(1) << 40);
            break;
        case 'r':
            opt.crowd = (unsigned)number("--crowd", optarg, 1, 20000);
            break;
        case 'd':
            opt.down = true;
            break;
        default:
            usage("unknown option", argv[optind - 1]);
        }
    }
    if (optind != argc)
        usage("not an option", argv[optind]);
    if (opt.at == 0)
        usage("--at", "missing");
}

/* descriptors_raise takes what the hard limit allows: idle needs two for each connection. */
static void descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    size_t i = 0;

    while (i < sizeof commands / sizeof commands[0] && strcmp(commands[i].name, name) != 0)
        i++;
    if (i == sizeof commands / sizeof commands[0])
        usage("unknown command", name);
    parse(argc - 1, argv + 1);
    if (opt.to == 0 && commands[i].run != http)
        usage("--to", "missing");

    descriptors_raise();
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.epoll < 0)
        die("epoll_create1: %s", strerror(errno));
    pattern_fill(run.block, 0, 0, sizeof run.block);
    commands[i].run();

    while (run.open != NULL)
        conn_close(run.open);
    free(run.times.ns);
    close(run.epoll);
    return 0;
}
