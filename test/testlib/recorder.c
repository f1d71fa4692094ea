#include "test/testlib/recorder.h"

#include "lib/base/mem.h"

static void recorder_on_read(void *arg, struct bytes data)
{
    struct recorder *recorder = arg;

    CHECK(data.len > 0);
    CHECK(recorder->num_eofs == 0 && recorder->num_errors == 0);
    recorder->num_reads++;
    recorder->num_bytes += data.len;
    if (data.len > recorder->largest)
        recorder->largest = data.len;
    if (!recorder->count_only) {
        err_t err = buf_add(&recorder->data, data.ptr, data.len);

        CHECK(err_is_ok(err));
    }
    if (recorder->on_read != NULL)
        recorder->on_read(recorder, data);
}

static void recorder_on_eof(void *arg)
{
    struct recorder *recorder = arg;

    CHECK(recorder->num_eofs == 0 && recorder->num_errors == 0);
    recorder->num_eofs++;
    if (recorder->on_eof != NULL)
        recorder->on_eof(recorder);
}

static void recorder_on_drained(void *arg)
{
    struct recorder *recorder = arg;

    CHECK(recorder->stream->queued == 0);
    recorder->num_drained++;
    if (recorder->on_drained != NULL)
        recorder->on_drained(recorder);
}

static void recorder_on_error(void *arg, err_t err)
{
    struct recorder *recorder = arg;

    CHECK(recorder->num_errors == 0 && !err_is_ok(err) && !err_is(err, E_AGAIN));
    recorder->num_errors++;
    recorder->err = err;
    if (recorder->on_error != NULL)
        recorder->on_error(recorder);
}

static const struct stream_events recorder_events = {
    .on_read = recorder_on_read,
    .on_eof = recorder_on_eof,
    .on_drained = recorder_on_drained,
    .on_error = recorder_on_error,
};

void recorder_attach(struct recorder *recorder, struct stream *stream)
{
    recorder->stream = stream;
    stream_set_events(stream, &recorder_events, recorder);
}

void recorder_fini(struct recorder *recorder)
{
    buf_fini(&recorder->data);
}

void looptest_late(void *arg)
{
    *(bool *)arg = true;
}

void looptest_settle(struct loop *loop)
{

    for (int i = 0; i < 64; i++)
        loop_run_once(loop, false);
}
