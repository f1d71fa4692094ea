#include "control/ctl/mesh_text.h"

#include <stdlib.h>
#include <string.h>

#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

Mortise__V1__GetMeshResponse *mesh_get(struct conn *conn)
{
    Mortise__V1__GetMeshRequest request = MORTISE__V1__GET_MESH_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/GetMesh", &request.base,
                                      &mortise__v1__get_mesh_response__descriptor);
    Mortise__V1__GetMeshResponse *reply;

    if (msg == NULL)
        return NULL;
    reply = MSG_AS(Mortise__V1__GetMeshResponse, mortise__v1__get_mesh_response__descriptor, msg);
    if (reply->mesh != NULL)
        return reply;
    ctl_tell(
        "the control plane's answer has no mesh: is it of another version? (mortisectl status)");
    pb_free(msg);
    return NULL;
}

static int mesh_compare(const void *a, const void *b)
{
    const ProtobufCMessage *left, *right;

    memcpy(&left, a, sizeof(left));
    memcpy(&right, b, sizeof(right));
    return strcmp(mesh_name(left), mesh_name(right));
}

void mesh_sort(const Mortise__V1__Mesh *mesh, Mortise__V1__Mesh *out)
{
    static const Mortise__V1__MeshSettings none = MORTISE__V1__MESH_SETTINGS__INIT;

    *out = *mesh;
    if (mesh->settings != NULL && pb_equal(&mesh->settings->base, &none.base))
        out->settings = NULL;
    for (int i = 0; i < MESH_KINDS; i++) {
        const struct mesh_kind *kind = &mesh_kinds[i];
        size_t num = mesh_num(mesh, kind);
        const ProtobufCMessage **items = mem_array(num, sizeof(*items));

        for (size_t at = 0; at < num; at++)
            items[at] = mesh_item(mesh, kind, at);
        qsort(items, num, sizeof(*items), mesh_compare);
        memcpy((char *)out + kind->items_at, &items, sizeof(items));
    }
}

void mesh_sort_fini(Mortise__V1__Mesh *sorted)
{
    for (int i = 0; i < MESH_KINDS; i++) {
        void *items;

        memcpy(&items, (char *)sorted + mesh_kinds[i].items_at, sizeof(items));
        mem_free(items);
    }
}

void mesh_write(int output, const Mortise__V1__Mesh *mesh, struct buf *out)
{
    Mortise__V1__Mesh sorted;
    err_t err;

    mesh_sort(mesh, &sorted);
    err = json_pb_write(output == CTL_JSON ? JSON_PB_JSON : JSON_PB_YAML, &sorted.base, out);
    if (err_is_ok(err) && output == CTL_JSON)
        err = buf_add(out, "\n", 1);
    CHECK(err_is_ok(err)); /* a reply is far smaller than a buffer may be */
    mesh_sort_fini(&sorted);
}
