/* The call Logs of control/operator_service.h: the access log entries that are kept, and those to
 * come. A file's chunk a turn of the loop: many readers of much hold nobody up. */
#include <string.h>

#include "control/conn_log.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

#define OPERATOR_LOGS_MAX 16
#define OPERATOR_LOGS_QUEUED 65536 /* bytes that wait for one who reads slowly */
#define OPERATOR_LOGS_CHUNK ((size_t)65536)

struct operator_logs {
    struct list link;
    struct conn_log_reader reader;
    struct operator_service *service;
    struct grpc_call *call;
    struct timer timer; /* the next chunk */
    char *name;         /* "": all */
    char *key;          /* likewise */
    int64_t since_ms;
    bool follow;
    bool over;
    bool pumping;
    uint8_t chunk[OPERATOR_LOGS_CHUNK];
};

static void operator_logs_finish(struct operator_logs *logs, enum grpc_status status,
                                 const char *text)
{
    if (logs->over)
        return;
    logs->over = true;
    timer_stop(logs->service->loop, &logs->timer);
    grpc_call_finish(logs->call, status, text);
}

static bool operator_logs_wants(const struct operator_logs *logs,
                                const Mortise__V1__AccessLogEntry *entry)
{
    bool of_nobody = entry->subsystem[0] == '\0'; /* what is missing of everybody's */

    return entry->at_ms >= logs->since_ms &&
           (logs->name[0] == '\0' || of_nobody || strcmp(entry->subsystem, logs->name) == 0 ||
            strcmp(entry->link, logs->name) == 0) &&
           (logs->key[0] == '\0' || strcmp(entry->key, logs->key) == 0);
}

/* Reading JSON is most of the work: a line that does not even have the word in it is left alone. */
static bool operator_logs_may_want(const struct operator_logs *logs, struct bytes line)
{
    const char *word = logs->key[0] != '\0' ? logs->key : logs->name;

    return word[0] == '\0' || memmem(line.ptr, line.len, word, strlen(word)) != NULL ||
           (logs->key[0] == '\0' && memmem(line.ptr, line.len, "\"dropped\"", 9) != NULL);
}

static void operator_logs_line(struct operator_logs *logs, struct bytes line)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    ProtobufCMessage *msg = NULL;
    err_t err;

    if (!operator_logs_may_want(logs, line) ||
        !err_is_ok(json_pb_parse(JSON_PB_JSON, "line", line,
                                 &mortise__v1__access_log_entry__descriptor, &faults, &msg)))
        return; /* a torn one, or one that somebody else has written */
    if (operator_logs_wants(logs, MSG_AS_CONST(Mortise__V1__AccessLogEntry,
                                               mortise__v1__access_log_entry__descriptor, msg))) {
        err = grpc_call_send(logs->call, msg);
        if (!err_is_ok(err))
            operator_logs_finish(logs, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
    }
    pb_free(msg);
}

static bool operator_logs_may_send(const struct operator_logs *logs)
{
    return !logs->over && grpc_call_queued(logs->call) < OPERATOR_LOGS_QUEUED;
}

static void operator_logs_pump(void *arg);

/* The lines of a chunk, as far as there is room for them on the way. */
static void operator_logs_send(struct operator_logs *logs, struct bytes chunk)
{
    size_t done = 0;

    while (done < chunk.len && operator_logs_may_send(logs)) {
        const uint8_t *line = chunk.ptr + done, *end = memchr(line, '\n', chunk.len - done);
        size_t len = end != NULL ? (size_t)(end - line) : chunk.len - done;

        operator_logs_line(logs, bytes_of(line, len));
        done += len + (end != NULL);
    }
    conn_log_seen(&logs->reader, done);
    if (operator_logs_may_send(logs))
        timer_start(logs->service->loop, &logs->timer, 1, operator_logs_pump, logs);
}

static void operator_logs_pump(void *arg)
{
    struct operator_logs *logs = arg;
    struct bytes chunk;

    if (logs->pumping || !operator_logs_may_send(logs))
        return;
    logs->pumping = true;
    conn_log_read(conn_log_kept(logs->service->conn_log), &logs->reader, logs->chunk,
                  sizeof(logs->chunk), &chunk);
    if (chunk.len > 0)
        operator_logs_send(logs, chunk);
    else if (!logs->follow)
        operator_logs_finish(logs, GRPC_OK, NULL);
    logs->pumping = false;
}

/* Those that come together are read together. */
static void operator_logs_on_more(struct conn_log_reader *reader)
{
    struct operator_logs *logs = CONTAINER_OF(reader, struct operator_logs, reader);

    if (!logs->over && !timer_is_on(&logs->timer))
        timer_start(logs->service->loop, &logs->timer, 1, operator_logs_pump, logs);
}

static void operator_logs_on_writable(struct grpc_call *call, void *service)
{
    (void)service;
    operator_logs_pump(grpc_call_data(call));
}

void operator_on_logs(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__LogsRequest *request =
        MSG_AS_CONST(Mortise__V1__LogsRequest, mortise__v1__logs_request__descriptor, msg);
    struct operator_logs *logs;
    struct list *pos, *tmp;
    size_t num = 0;

    LIST_EACH (pos, tmp, &service->logs)
        num++;
    if (num >= OPERATOR_LOGS_MAX) {
        reply_text(call, GRPC_RESOURCE_EXHAUSTED, "%d read the access log already",
                   OPERATOR_LOGS_MAX);
        return;
    }
    logs = mem_zalloc(sizeof(*logs));
    logs->service = service;
    logs->call = call;
    logs->name = mem_strndup(request->name, OPERATOR_TEXT_MAX);
    logs->key = mem_strndup(request->key, OPERATOR_TEXT_MAX);
    logs->since_ms = request->since_ms;
    logs->follow = request->follow;
    logs->reader.fn = operator_logs_on_more;
    list_add_tail(&service->logs, &logs->link);
    conn_log_join(conn_log_kept(service->conn_log), &logs->reader, request->since_ms / 1000);
    grpc_call_set_data(call, logs);
    grpc_call_on_writable(call, operator_logs_on_writable);
    operator_logs_pump(logs);
}

void operator_on_logs_done(struct grpc_call *call, void *arg)
{
    struct operator_logs *logs = grpc_call_data(call);

    (void)arg;
    if (logs == NULL)
        return; /* it was refused */
    timer_stop(logs->service->loop, &logs->timer);
    conn_log_leave(&logs->reader);
    list_del(&logs->link);
    mem_free(logs->name);
    mem_free(logs->key);
    mem_free(logs);
}

void operator_logs_stop(struct operator_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->logs)
        operator_logs_finish(LIST_ITEM(pos, struct operator_logs, link), GRPC_UNAVAILABLE,
                             "control plane is shutting down");
}
