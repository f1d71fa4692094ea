#include "control/ctl/show.h"

#include <stdio.h>

#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"

void show_message(int output, const ProtobufCMessage *msg)
{
    CLEANUP(buf_fini) struct buf text = {0};
    bool json = output == CTL_JSON;
    err_t err = json_pb_write(json ? JSON_PB_JSON : JSON_PB_YAML, msg, &text);

    CHECK(err_is_ok(err)); /* replies are far smaller than a buffer may be */
    printf("%.*s%s", (int)buf_size(&text), (const char *)buf_view(&text).ptr, json ? "\n" : "");
}

/* The ends of lines that json_pb writes are between the fields, never within a text. */
void show_line(const ProtobufCMessage *msg)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = json_pb_write(JSON_PB_JSON, msg, &text);
    struct bytes bytes = buf_view(&text);

    CHECK(err_is_ok(err)); /* as above */
    for (size_t i = 0; i < bytes.len; i++) {
        if (bytes.ptr[i] != '\n') {
            putchar(bytes.ptr[i]);
            continue;
        }
        while (i + 1 < bytes.len && bytes.ptr[i + 1] == ' ')
            i++;
    }
}
