/* Configuration texts: no text breaks the readers of JSON and YAML, what is refused says why, and
 * what is accepted comes back the same from both forms. The first byte chooses form and message.
 * Drives: R75, R76. */
#include "lib/rpc/json_pb.h"

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/resource.pb-c.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "test/unit/rpc/sample.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(enum json_pb_format format, const ProtobufCMessage *msg,
                       struct faults *faults)
{
    struct buf text = {NULL, 0, 0, 0, 0};
    ProtobufCMessage *back;

    CHECK(err_is_ok(json_pb_write(format, msg, &text)));
    CHECK(
        err_is_ok(json_pb_parse(format, "again", buf_view(&text), msg->descriptor, faults, &back)));
    CHECK(pb_equal(msg, back));
    pb_free(back);
    buf_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const descs[] = {
        &mortise__v1__mesh__descriptor,
        &mortise__v1__sidecar_config__descriptor,
        &mortise__test__sample__descriptor,
    };
    static struct faults faults;
    enum json_pb_format format;
    ProtobufCMessage *msg;
    err_t err;

    if (size == 0)
        return 0;
    format = data[0] % 2 == 0 ? JSON_PB_YAML : JSON_PB_JSON;
    err = json_pb_parse(format, "fuzz", bytes_of(data + 1, size - 1),
                        descs[data[0] / 2 % ARRAY_LEN(descs)], &faults, &msg);
    CHECK(err_is_ok(err) == (faults.total == 0));
    if (err_is_ok(err)) {
        round_trip(JSON_PB_JSON, msg, &faults);
        round_trip(JSON_PB_YAML, msg, &faults);
        pb_free(msg);
    }
    faults_fini(&faults);
    return 0;
}
