/* Messages of peers: pb_unpack never reads beyond its input, never takes memory out of proportion,
 * and what it accepts packs and unpacks to the same. The first byte chooses the message. Drives:
 * R75, R76. */
#include "lib/rpc/pb.h"

#include "lib/base/mem.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/operator.pb-c.h"
#include "test/unit/rpc/sample.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const descs[] = {
        &mortise__v1__discovery_response__descriptor,
        &mortise__v1__apply_request__descriptor,
        &mortise__v1__discovery_request__descriptor,
        &mortise__test__sample__descriptor,
    };
    const ProtobufCMessageDescriptor *desc;
    ProtobufCMessage *msg, *clone;

    if (size == 0)
        return 0;
    desc = descs[data[0] % ARRAY_LEN(descs)];
    if (!err_is_ok(pb_unpack(desc, bytes_of(data + 1, size - 1), 65536, &msg)))
        return 0;
    clone = pb_clone(msg);
    CHECK(pb_equal(msg, clone));
    pb_free(clone);
    pb_free(msg);
    return 0;
}
