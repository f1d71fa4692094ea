/* msg: the three casts that protobuf-c's C needs, in one place. */
#ifndef MORTISE_CONTROL_MSG_H
#define MORTISE_CONTROL_MSG_H

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

/* msg_lend and msg_bytes put borrowed text and bytes into a message that is only read (packed,
 * sent): its fields are not const. Such a message is never given to pb_free. */
static inline char *msg_lend(const char *text)
{
    return (char *)(uintptr_t)text;
}

static inline ProtobufCBinaryData msg_bytes(struct bytes bytes)
{
    return (ProtobufCBinaryData){bytes.len, (uint8_t *)(uintptr_t)bytes.ptr};
}

static inline struct bytes msg_view(ProtobufCBinaryData data)
{
    return bytes_of(data.data, data.len);
}

/* MSG_AS(type, desc, msg) is the message as the type that its descriptor says. */
#define MSG_AS(type, desc, msg) ((type *)msg_checked((msg), &(desc)))
#define MSG_AS_CONST(type, desc, msg) ((const type *)msg_checked_const((msg), &(desc)))

static inline void *msg_checked(ProtobufCMessage *msg, const ProtobufCMessageDescriptor *desc)
{
    CHECK(msg->descriptor == desc);
    return msg;
}

static inline const void *msg_checked_const(const ProtobufCMessage *msg,
                                            const ProtobufCMessageDescriptor *desc)
{
    CHECK(msg->descriptor == desc);
    return msg;
}

#endif
