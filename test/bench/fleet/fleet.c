/* fleet speaks the control channel as many sidecars at once, from one process and one thread; run
 * drives and measures it (README.md).
 *
 *     fleet --sidecars 1000 --subsystems 8 --trust-domain fleet.test \
 *           --control 127.0.0.1:15010 --operator unix:/tmp/x/operator.sock --sources 16
 *
 * Commands are lines on standard input, answers are lines of JSON on standard output:
 *
 *     join            a token for each (operator API), then Attest; ends with {"done": "join", …}
 *     connect         each opens its discovery stream
 *     push VERSION    done when all have acknowledged that version or a later one; the time runs
 *                     from the last `begin`
 *     begin push|reissue|storm    the time runs from here; what happened before is forgotten. A
 *                     reissue is done when each has another certificate and is back under it, a
 *                     storm when each has lost its stream and has one again
 *     report          how far the phase is
 *     cpu             CPU time of this process
 *
 * It ends with the end of standard input. */
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "lib/base/map.h"
#include "lib/base/options.h"
#include "lib/base/process.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"
#include "test/bench/fleet/sidecar.h"

#define FLEET_KEYS 64
#define FLEET_TOKENS_AT_ONCE 32 /* calls of the operator API */
#define FLEET_STRANGERS 24      /* joining at once from one source: the control plane lets in 32 */
#define FLEET_STRANGERS_ALL 192 /* and 256 of all sources */
#define FLEET_CONNECTING 1000   /* connecting at once when all come for the first time */
#define FLEET_CALL_MS 60000
#define FLEET_LINE_MAX 128
#define FLEET_DESCRIPTORS 256 /* beside the connections */

enum fleet_phase { PHASE_NONE, PHASE_JOIN, PHASE_CONNECT, PHASE_PUSH, PHASE_REISSUE, PHASE_STORM };
static const char *const phase_names[] = {"none", "join", "connect", "push", "reissue", "storm"};

struct fleet_config {
    int64_t sidecars;
    int64_t subsystems;
    int64_t sources;
    char *trust_domain;
    char *control;
    char *operator_target;
};

static const struct option fleet_options[] = {
    {"sidecars", OPTION_INT, offsetof(struct fleet_config, sidecars), "10", 1, 1000000, NULL, 0,
     "N", "How many."},
    {"subsystems", OPTION_INT, offsetof(struct fleet_config, subsystems), "1", 1, 1000, NULL, 0,
     "M", "Their subsystems are s0 to s<M-1>, in turn."},
    {"sources", OPTION_INT, offsetof(struct fleet_config, sources), "16", 1, 250, NULL, 0, "S",
     "Connections come from 127.0.0.2 and so many addresses on, in turn."},
    {"trust-domain", OPTION_STR, offsetof(struct fleet_config, trust_domain), NULL, 0, 0, NULL,
     OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE, "NAME", "SPIFFE trust domain."},
    {"control", OPTION_STR, offsetof(struct fleet_config, control), NULL, 0, 0, NULL,
     OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE, "ADDR:PORT", "The control plane."},
    {"operator", OPTION_STR, offsetof(struct fleet_config, operator_target), NULL, 0, 0, NULL,
     OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE, "unix:PATH", "Its operator socket."},
    {.name = NULL},
};

/* What the phase in hand knows of one sidecar. Times are CLOCK_MONOTONIC, microseconds. */
struct mark {
    bool done;
    bool was_down;
    uint64_t done_us;
    uint64_t issued_us; /* 0: no certificate in this phase */
    uint64_t acked_us;  /* of the newest version; never forgotten */
};

struct fleet {
    struct fleet_config config;
    struct loop *loop;
    struct sidecar_world world;
    struct grpc_channel *operator_channel;
    struct sidecar *sidecars;
    struct mark *marks;
    unsigned num;
    enum fleet_phase phase;
    uint64_t began_us;
    uint64_t target; /* of PHASE_PUSH; 0: not known yet */
    unsigned num_done;
    unsigned num_down;
    bool told;
    struct map failures; /* "what reason" to a count, as a pointer */
    unsigned next_token; /* sidecars before it have theirs asked for */
    unsigned next_join;
    unsigned num_joining;
    unsigned num_joined;
    unsigned next_connect;
    char **tokens;
    uv_pipe_t input;
    char line[FLEET_LINE_MAX];
    size_t line_len;
};

/* ---- source addresses ---- */

static unsigned source_num = 1;

/* The linker gives every call of connect(2) in this program to us (--wrap): a connection to the
 * control plane comes from one of many loopback addresses. All of 127.0.0.0/8 is ours already. */
int __wrap_connect(int fd, const struct sockaddr *to, socklen_t len);
int __real_connect(int fd, const struct sockaddr *to, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *to, socklen_t len)
{
    static unsigned turn;
    static const int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};

    if (to->sa_family == AF_INET) {
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % source_num);
        /* The port is chosen by connect, which knows both ends: all of the range for each source.
         */
        if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) != 0 ||
            bind(fd, (const struct sockaddr *)(const void *)&from, sizeof(from)) != 0)
            return -1;
    }
    return __real_connect(fd, to, len);
}

/* ---- telling ---- */

static int fleet_compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

/* The quantiles of what took place, in seconds; sorts `values`. */
static void fleet_print_times(const char *name, uint64_t *values, size_t num)
{
    qsort(values, num, sizeof(*values), fleet_compare);
    printf(", \"%s\": {\"count\": %zu", name, num);
    if (num > 0)
        printf(", \"p50\": %.6f, \"p99\": %.6f, \"all\": %.6f", (double)values[(num - 1) / 2] / 1e6,
               (double)values[(num - 1) * 99 / 100] / 1e6, (double)values[num - 1] / 1e6);
    printf("}");
}

static void fleet_print_failures(struct fleet *fleet)
{
    size_t iter = 0;
    const char *key;
    void *value;
    const char *comma = "";

    printf(", \"failures\": {");
    while (map_next(&fleet->failures, &iter, &key, &value)) {
        printf("%s\"%s\": %zu", comma, key, (size_t)(uintptr_t)value);
        comma = ", ";
    }
    printf("}");
}

static void fleet_report(struct fleet *fleet, const char *key)
{
    uint64_t *done = mem_array(fleet->num, sizeof(*done));
    uint64_t *issued = mem_array(fleet->num, sizeof(*issued));
    uint64_t least = UINT64_MAX, most = 0;
    size_t num_done = 0, num_issued = 0;
    unsigned up = 0;

    for (unsigned i = 0; i < fleet->num; i++) {
        const struct mark *mark = &fleet->marks[i];
        const struct sidecar *sidecar = &fleet->sidecars[i];

        if (mark->done)
            done[num_done++] = mark->done_us - fleet->began_us;
        if (mark->issued_us != 0)
            issued[num_issued++] = mark->issued_us - fleet->began_us;
        least = sidecar->version < least ? sidecar->version : least;
        most = sidecar->version > most ? sidecar->version : most;
        up += sidecar->up;
    }
    printf(
        "{\"%s\": \"%s\", \"sidecars\": %u, \"up\": %u, \"down\": %u, \"least_version\": %" PRIu64
        ", \"most_version\": %" PRIu64,
        key, phase_names[fleet->phase], fleet->num, up, fleet->num_down, least, most);
    fleet_print_times("times", done, num_done);
    fleet_print_times("issued", issued, num_issued);
    fleet_print_failures(fleet);
    printf("}\n");
    mem_free(done);
    mem_free(issued);
}

static void fleet_report_cpu(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) == 0)
        printf("{\"cpu_s\": %.6f}\n",
               (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

/* ---- phases ---- */

static void fleet_begin(struct fleet *fleet, enum fleet_phase phase)
{
    size_t iter = 0;
    const char *key;
    void *value;

    while (map_next(&fleet->failures, &iter, &key, &value))
        map_del(&fleet->failures, key);
    for (unsigned i = 0; i < fleet->num; i++)
        fleet->marks[i] = (struct mark){.acked_us = fleet->marks[i].acked_us};
    fleet->phase = phase;
    fleet->num_done = 0;
    fleet->num_down = 0;
    fleet->target = 0;
    fleet->told = false;
    fleet->began_us = clock_mono_us();
    printf("{\"began\": \"%s\"}\n", phase_names[phase]);
}

static void fleet_done(struct fleet *fleet, unsigned index, uint64_t at_us)
{
    struct mark *mark = &fleet->marks[index];

    if (mark->done)
        return;
    mark->done = true;
    mark->done_us = at_us;
    fleet->num_done++;
}

static void fleet_look(struct fleet *fleet)
{
    if (fleet->num_done < fleet->num || fleet->told)
        return;
    fleet->told = true;
    fleet_report(fleet, "done");
}

static void fleet_join_next(struct fleet *fleet);

static void fleet_connect_next(struct fleet *fleet)
{
    if (fleet->next_connect < fleet->num)
        sidecar_connect(&fleet->sidecars[fleet->next_connect++]);
}

static void fleet_on_event(void *arg, unsigned index, enum sidecar_event event)
{
    struct fleet *fleet = arg;
    struct mark *mark = &fleet->marks[index];
    uint64_t now_us = clock_mono_us();

    switch (event) {
    case SIDECAR_JOINED:
        fleet->num_joining--;
        fleet->num_joined++;
        fleet_done(fleet, index, now_us);
        fleet_join_next(fleet);
        break;
    case SIDECAR_ACKED:
        mark->acked_us = now_us;
        if (fleet->phase == PHASE_PUSH && fleet->target != 0 &&
            fleet->sidecars[index].version >= fleet->target)
            fleet_done(fleet, index, now_us);
        break;
    case SIDECAR_ISSUED:
        mark->issued_us = now_us;
        break;
    case SIDECAR_DOWN:
        mark->was_down = true;
        fleet->num_down++;
        break;
    case SIDECAR_UP:
        if (fleet->phase == PHASE_CONNECT && !mark->done)
            fleet_connect_next(fleet);
        if (fleet->phase == PHASE_CONNECT || (fleet->phase == PHASE_STORM && mark->was_down) ||
            (fleet->phase == PHASE_REISSUE && mark->issued_us != 0))
            fleet_done(fleet, index, now_us);
        break;
    }
    fleet_look(fleet);
}

static void fleet_on_failure(void *arg, const char *what, const char *reason)
{
    CLEANUP(mem_freep) char *key = mem_printf("%s %s", what, reason);
    struct fleet *fleet = arg;
    uintptr_t num = (uintptr_t)map_get(&fleet->failures, key);

    map_put(&fleet->failures, key, (void *)(num + 1));
}

static void fleet_push(struct fleet *fleet, uint64_t version)
{
    fleet->target = version;
    for (unsigned i = 0; i < fleet->num; i++) {
        if (fleet->sidecars[i].version >= version)
            fleet_done(fleet, i,
                       fleet->marks[i].acked_us > fleet->began_us ? fleet->marks[i].acked_us
                                                                  : fleet->began_us);
    }
    fleet_look(fleet);
}

/* ---- joining ---- */

static void fleet_token_next(struct fleet *fleet);

struct token_call {
    struct fleet *fleet;
    unsigned index;
};

static void fleet_on_token(void *arg, const struct grpc_result *result,
                           const ProtobufCMessage *reply)
{
    struct token_call *call = arg;
    struct fleet *fleet = call->fleet;

    if (result->status != GRPC_OK) {
        (void)fprintf(stderr, "fleet: CreateToken: %s: %s\n", grpc_status_name(result->status),
                      result->message);
        exit(1);
    }
    fleet->tokens[call->index] =
        mem_strdup(((const Mortise__V1__CreateTokenResponse *)(const void *)reply)->token);
    mem_free(call);
    fleet_token_next(fleet);
    fleet_join_next(fleet);
}

static void fleet_token_next(struct fleet *fleet)
{
    Mortise__V1__CreateTokenRequest request = MORTISE__V1__CREATE_TOKEN_REQUEST__INIT;
    struct token_call *call;
    char name[16];

    if (fleet->next_token >= fleet->num)
        return;
    call = mem_zalloc(sizeof(*call));
    call->fleet = fleet;
    call->index = fleet->next_token++;
    (void)snprintf(name, sizeof(name), "s%u", call->index % (unsigned)fleet->config.subsystems);
    request.subsystem = name;
    request.ttl_s = 3600;
    grpc_unary(fleet->operator_channel, "/mortise.v1.OperatorService/CreateToken", &request.base,
               &mortise__v1__create_token_response__descriptor, FLEET_CALL_MS, fleet_on_token,
               call);
}

static void fleet_join_next(struct fleet *fleet)
{
    unsigned window = FLEET_STRANGERS * source_num;

    if (window > FLEET_STRANGERS_ALL)
        window = FLEET_STRANGERS_ALL;
    while (fleet->num_joining < window && fleet->next_join < fleet->num &&
           fleet->tokens[fleet->next_join] != NULL) {
        unsigned index = fleet->next_join++;

        fleet->num_joining++;
        sidecar_join(&fleet->sidecars[index], fleet->tokens[index]);
        fleet->tokens[index] = NULL; /* the sidecar's now */
    }
}

/* The trust bundle, from the operator: a sidecar has it from its file. */
static void fleet_on_status(void *arg, const struct grpc_result *result,
                            const ProtobufCMessage *reply)
{
    const Mortise__V1__StatusResponse *status =
        (const Mortise__V1__StatusResponse *)(const void *)reply;
    struct fleet *fleet = arg;
    struct bytes root;

    if (result->status != GRPC_OK || status->n_trust_roots != 1) {
        (void)fprintf(stderr, "fleet: Status: %s: %s\n", grpc_status_name(result->status),
                      result->message);
        exit(1);
    }
    root = bytes_of(status->trust_roots[0].data, status->trust_roots[0].len);
    if (!err_is_ok(bundle_of_der(&root, 1, fleet->config.trust_domain, &fleet->world.roots))) {
        (void)fprintf(stderr, "fleet: the control plane's root is none\n");
        exit(1);
    }
    for (unsigned i = 0; i < FLEET_TOKENS_AT_ONCE; i++)
        fleet_token_next(fleet);
}

static void fleet_join(struct fleet *fleet)
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;

    if (fleet->world.roots != NULL)
        return; /* joined already */
    grpc_unary(fleet->operator_channel, "/mortise.v1.OperatorService/Status", &request.base,
               &mortise__v1__status_response__descriptor, FLEET_CALL_MS, fleet_on_status, fleet);
}

/* ---- commands ---- */

static void fleet_command(struct fleet *fleet, const char *line)
{
    uint64_t version;

    if (strcmp(line, "join") == 0) {
        fleet_begin(fleet, PHASE_JOIN);
        fleet_join(fleet);
    } else if (strcmp(line, "connect") == 0 && fleet->num_joined == fleet->num) {
        fleet_begin(fleet, PHASE_CONNECT);
        for (unsigned i = 0; i < FLEET_CONNECTING; i++)
            fleet_connect_next(fleet);
    } else if (strcmp(line, "begin push") == 0) {
        fleet_begin(fleet, PHASE_PUSH);
    } else if (strcmp(line, "begin reissue") == 0) {
        fleet_begin(fleet, PHASE_REISSUE);
    } else if (strcmp(line, "begin storm") == 0) {
        fleet_begin(fleet, PHASE_STORM);
    } else if (sscanf(line, "push %" SCNu64, &version) == 1 && fleet->phase == PHASE_PUSH) {
        fleet_push(fleet, version);
    } else if (strcmp(line, "report") == 0) {
        fleet_report(fleet, "report");
    } else if (strcmp(line, "cpu") == 0) {
        fleet_report_cpu();
    } else {
        printf("{\"error\": \"no such command, or not now\"}\n");
    }
}

static void fleet_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct fleet *fleet = handle->data;

    (void)suggested;
    out->base = fleet->line + fleet->line_len;
    out->len = sizeof(fleet->line) - fleet->line_len;
}

static void fleet_on_input(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    struct fleet *fleet = stream->data;
    char *end;

    (void)buf;
    if (len < 0) {
        loop_stop(fleet->loop);
        return;
    }
    fleet->line_len += (size_t)len;
    while ((end = memchr(fleet->line, '\n', fleet->line_len)) != NULL) {
        size_t used = (size_t)(end - fleet->line) + 1;

        *end = '\0';
        fleet_command(fleet, fleet->line);
        fleet->line_len -= used;
        memmove(fleet->line, fleet->line + used, fleet->line_len);
    }
    if (fleet->line_len == sizeof(fleet->line))
        fleet->line_len = 0; /* no command is so long */
}

/* ---- whole ---- */

static void fleet_make_keys(struct fleet *fleet)
{
    struct shared_key *keys = mem_array((size_t)2 * FLEET_KEYS, sizeof(*keys));

    for (size_t i = 0; i < (size_t)2 * FLEET_KEYS; i++) {
        CLEANUP(buf_fini) struct buf csr = {.data = NULL};

        CHECK(err_is_ok(key_generate(&keys[i].key)));
        CHECK(err_is_ok(csr_build(keys[i].key, NULL, &csr)));
        keys[i].csr = mem_dup(csr.data + csr.pos, buf_size(&csr));
        keys[i].csr_len = buf_size(&csr);
    }
    fleet->world.keys = keys;
    fleet->world.num_keys = FLEET_KEYS;
}

static struct tls_profile *fleet_profile(void)
{
    Mortise__V1__TlsProfile *msg = tls_profile_builtin("default-tls-client");
    struct tls_profile *profile = NULL;
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};

    CHECK(err_is_ok(tls_profile_compile(msg, &path, &faults, &profile)));
    mortise__v1__tls_profile__free_unpacked(msg, NULL);
    return profile;
}

static void fleet_start(struct fleet *fleet)
{
    const struct grpc_channel_params channel = {.target = fleet->config.operator_target};

    fleet->loop = loop_new(&clock_system);
    fleet->num = (unsigned)fleet->config.sidecars;
    source_num = (unsigned)fleet->config.sources;
    fleet->world = (struct sidecar_world){
        .loop = fleet->loop,
        .target = fleet->config.control,
        .trust_domain = fleet->config.trust_domain,
        .control_id = spiffe_id_of_control(fleet->config.trust_domain),
        .profile = fleet_profile(),
        .cache = verify_cache_new(16),
        .on_event = fleet_on_event,
        .on_failure = fleet_on_failure,
        .arg = fleet,
    };
    fleet_make_keys(fleet);
    fleet->operator_channel = grpc_channel_new(fleet->loop, &channel);
    fleet->marks = mem_array(fleet->num, sizeof(*fleet->marks));
    fleet->tokens = mem_array(fleet->num, sizeof(*fleet->tokens));
    fleet->sidecars = mem_array(fleet->num, sizeof(*fleet->sidecars));
    for (unsigned i = 0; i < fleet->num; i++)
        sidecar_init(&fleet->sidecars[i], &fleet->world, i);
    CHECK(uv_pipe_init(loop_uv(fleet->loop), &fleet->input, 0) == 0);
    fleet->input.data = fleet;
    CHECK(uv_pipe_open(&fleet->input, 0) == 0);
    CHECK(uv_read_start((uv_stream_t *)&fleet->input, fleet_on_alloc, fleet_on_input) == 0);
}

static void fleet_stop(struct fleet *fleet)
{
    for (unsigned i = 0; i < fleet->num; i++) {
        sidecar_fini(&fleet->sidecars[i]);
        mem_free(fleet->tokens[i]);
    }
    grpc_channel_close(fleet->operator_channel);
    uv_close((uv_handle_t *)&fleet->input, NULL);
    loop_free(fleet->loop);
    for (size_t i = 0; i < (size_t)2 * FLEET_KEYS; i++) {
        EVP_PKEY_free(fleet->world.keys[i].key);
        mem_free(fleet->world.keys[i].csr);
    }
    mem_free(fleet->world.keys);
    map_fini(&fleet->failures);
    verify_cache_free(fleet->world.cache);
    tls_profile_unref(fleet->world.profile);
    if (fleet->world.roots != NULL)
        bundle_unref(fleet->world.roots);
    mem_free((char *)(uintptr_t)fleet->world.control_id);
    mem_free(fleet->sidecars);
    mem_free(fleet->marks);
    mem_free(fleet->tokens);
}

/* As many descriptors as the sidecars need: one each, and two while they come back under a new
 * certificate; the second one is waited for if need be. */
static bool fleet_raise_descriptors(int64_t sidecars)
{
    rlim_t need = (rlim_t)sidecars + FLEET_DESCRIPTORS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return false;
    if (limit.rlim_max < need + (rlim_t)sidecars) {
        struct rlimit more = {need + (rlim_t)sidecars, need + (rlim_t)sidecars};

        if (setrlimit(RLIMIT_NOFILE, &more) == 0) /* root may, unless the machine says no */
            return true;
    }
    limit.rlim_cur = limit.rlim_max;
    return limit.rlim_max >= need && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

int main(int argc, char **argv)
{
    struct fleet fleet = {.phase = PHASE_NONE};
    struct options_result result;
    struct faults faults = {.num = 0};
    char *none[] = {NULL};
    int status = 0;

    process_begin();
    process_ignore_signals();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!err_is_ok(
            options_parse(fleet_options, argc, argv, none, &fleet.config, &result, &faults))) {
        for (size_t i = 0; i < faults.num; i++)
            (void)fprintf(stderr, "fleet: %s: %s\n", faults.items[i].path, faults.items[i].message);
        status = 2;
    } else if (result.help) {
        options_help(fleet_options,
                     &(struct options_page){.usage = "fleet OPTIONS",
                                            .about = "Many sidecars' control channels."},
                     false, stdout);
    } else if (!fleet_raise_descriptors(fleet.config.sidecars)) {
        (void)fprintf(stderr, "fleet: too few descriptors for so many (ulimit -n)\n");
        status = 2;
    } else {
        fleet_start(&fleet);
        loop_run(fleet.loop);
        fleet_stop(&fleet);
    }
    faults_fini(&faults);
    options_free(fleet_options, &fleet.config);
    return process_end("fleet", status);
}
