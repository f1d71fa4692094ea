#include "proxy/capture.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/net/tcp.h"
#include "proxy/redirect/probe_port.h"

/* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of linux/netfilter*, which do not go with net/if.h. */
#define CAPTURE_ORIGINAL_DST 80

enum capture_result {
    CAPTURE_PENDING,
    CAPTURE_SEEN,   /* at our listener */
    CAPTURE_ABSENT, /* this host has no such addresses */
    CAPTURE_MISSED,
};

struct capture_trial {
    struct capture *capture;
    struct addr to;
    struct tcp_connect *connecting;
    enum capture_result result;
};

struct capture {
    struct loop *loop;
    atomic_int *state;
    struct capture_trial trials[2]; /* IPv4, IPv6 */
    struct timer timer;
    bool on;
    bool late; /* in the last round something did not come in time */
};

static void capture_begin(void *arg);

const char *capture_where(enum capture_state state)
{
    static const char *const texts[] = {
        [CAPTURE_NO_V4] = "IPv4",
        [CAPTURE_NO_V6] = "IPv6",
        [CAPTURE_NEITHER] = "IPv4 or IPv6",
    };

    CHECK(capture_is_broken(state));
    return texts[state];
}

const char *capture_name(enum capture_state state)
{
    static const char *const names[] = {
        [CAPTURE_OFF] = "off",
        [CAPTURE_UNKNOWN] = "not tried yet",
        [CAPTURE_WORKS] = "works",
        [CAPTURE_NO_V4] = "broken over IPv4",
        [CAPTURE_NO_V6] = "broken over IPv6",
        [CAPTURE_NEITHER] = "broken",
    };

    return names[state];
}

err_t capture_destination(int fd, struct addr *out)
{
    struct addr local, addr = {.len = sizeof(addr.sa.in6)};
    bool in6;

    if (!err_is_ok(addr_of_local(fd, &local)))
        return FAIL(LOOP_DETECTED, 0);
    in6 = local.sa.any.sa_family == AF_INET6;
    if (getsockopt(fd, in6 ? SOL_IPV6 : SOL_IP, CAPTURE_ORIGINAL_DST, &addr.sa.any, &addr.len) !=
            0 ||
        addr_equal(&addr, &local))
        return FAIL(LOOP_DETECTED, 0);
    *out = addr;
    return OK;
}

static void capture_tell(struct capture *capture, enum capture_state state)
{
    enum capture_state before = (enum capture_state)atomic_exchange(capture->state, (int)state);

    if (state == before)
        return;
    if (capture_is_broken(state))
        log_error("capture", "lost", LOG_STR("where", capture_where(state)),
                  LOG_STR("effect", "what the application sends may leave in plaintext, or "
                                    "nowhere: run mortise-redirect"));
    else if (state == CAPTURE_WORKS)
        log_info("capture", "works");
}

static void capture_conclude(void *arg)
{
    struct capture *capture = arg;
    bool missed[2], absent = true, late = false;

    for (size_t i = 0; i < ARRAY_LEN(missed); i++) {
        struct capture_trial *trial = &capture->trials[i];

        if (trial->connecting != NULL)
            tcp_connect_cancel(trial->connecting);
        trial->connecting = NULL;
        /* Our own listener may be behind: once is nothing. What the rules do not take is refused at
         * once. */
        late |= trial->result == CAPTURE_PENDING;
        missed[i] =
            trial->result == CAPTURE_MISSED || (trial->result == CAPTURE_PENDING && capture->late);
        absent &= trial->result == CAPTURE_ABSENT;
    }
    capture->late = late;
    timer_start(capture->loop, &capture->timer, CAPTURE_EVERY_MS, capture_begin, capture);
    if (late && !missed[0] && !missed[1] && atomic_load(capture->state) != CAPTURE_WORKS)
        return; /* and does not make it work, either */
    if ((missed[0] && missed[1]) || absent)
        capture_tell(capture, CAPTURE_NEITHER);
    else if (missed[0] || missed[1])
        capture_tell(capture, missed[0] ? CAPTURE_NO_V4 : CAPTURE_NO_V6);
    else
        capture_tell(capture, CAPTURE_WORKS);
}

/* Nothing more is to come: no need to wait for the time to end. */
static void capture_look(struct capture *capture)
{
    if (capture->trials[0].result != CAPTURE_PENDING &&
        capture->trials[1].result != CAPTURE_PENDING)
        timer_start(capture->loop, &capture->timer, 0, capture_conclude, capture);
}

/* Whether this host speaks IPv6 with others. */
static bool capture_has_in6(void)
{
    struct ifaddrs *all = NULL;
    bool found = false;

    if (getifaddrs(&all) != 0)
        return true;
    for (const struct ifaddrs *one = all; one != NULL && !found; one = one->ifa_next)
        found = one->ifa_addr != NULL && one->ifa_addr->sa_family == AF_INET6 &&
                (one->ifa_flags & IFF_LOOPBACK) == 0;
    freeifaddrs(all);
    return found;
}

static void capture_failed(struct capture_trial *trial, err_t err)
{
    bool absent = err_is(err, E_CONNECT_FAILED) &&
                  (err.sub == EADDRNOTAVAIL || err.sub == EAFNOSUPPORT || err.sub == ENETUNREACH) &&
                  trial->to.sa.any.sa_family == AF_INET6 && !capture_has_in6();

    trial->result = absent ? CAPTURE_ABSENT : CAPTURE_MISSED;
    capture_look(trial->capture);
}

static void capture_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct capture_trial *trial = arg;

    trial->connecting = NULL;
    if (!err_is_ok(err))
        capture_failed(trial, err);
    else
        stream_close(stream); /* by whom it was taken, our listener says, or nobody does */
}

static void capture_begin(void *arg)
{
    struct capture *capture = arg;

    for (size_t i = 0; i < ARRAY_LEN(capture->trials); i++)
        capture->trials[i].result = CAPTURE_PENDING;
    timer_start(capture->loop, &capture->timer, CAPTURE_TRIAL_MS, capture_conclude, capture);
    for (size_t i = 0; i < ARRAY_LEN(capture->trials); i++) {
        struct capture_trial *trial = &capture->trials[i];
        err_t err = tcp_connect(capture->loop, &trial->to, CAPTURE_TRIAL_MS, capture_on_connected,
                                trial, &trial->connecting);

        if (!err_is_ok(err)) {
            trial->connecting = NULL;
            capture_failed(trial, err);
        }
    }
}

struct capture *capture_new(struct loop *loop, atomic_int *state)
{
    static const char *const texts[] = {"127.0.0.1:0", "[::1]:0"};
    struct capture *capture = mem_zalloc(sizeof(*capture));

    capture->loop = loop;
    capture->state = state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        capture->trials[i].capture = capture;
        CHECK(err_is_ok(addr_parse(texts[i], &capture->trials[i].to)));
        addr_set_port(&capture->trials[i].to, REDIRECT_PROBE_PORT);
    }
    return capture;
}

static void capture_stop(struct capture *capture)
{
    timer_stop(capture->loop, &capture->timer);
    for (size_t i = 0; i < ARRAY_LEN(capture->trials); i++) {
        if (capture->trials[i].connecting != NULL)
            tcp_connect_cancel(capture->trials[i].connecting);
        capture->trials[i].connecting = NULL;
    }
}

void capture_free(struct capture *capture)
{
    capture_stop(capture);
    mem_free(capture);
}

void capture_set(struct capture *capture, bool on)
{
    if (on == capture->on)
        return;
    capture->on = on;
    atomic_store(capture->state, on ? CAPTURE_UNKNOWN : CAPTURE_OFF);
    if (on)
        capture_begin(capture);
    else
        capture_stop(capture);
}

bool capture_takes(struct capture *capture, const struct addr *to)
{
    for (size_t i = 0; i < ARRAY_LEN(capture->trials); i++) {
        struct capture_trial *trial = &capture->trials[i];

        if (!addr_equal(&trial->to, to))
            continue;
        if (trial->result == CAPTURE_PENDING && capture->on) {
            trial->result = CAPTURE_SEEN;
            capture_look(capture);
        }
        return true;
    }
    return false;
}
