/* The call of control/operator_service.h that takes a keystore in. */
#include <string.h>

#include "certs/key.h"
#include "certs/uploaded.h"
#include "control/caller.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/base/mem.h"

/* What came, as the code that judges it wants it. False: told. */
static bool operator_read_keystore(const Mortise__V1__ImportKeystoreRequest *request,
                                   struct faults *faults, struct uploaded *out)
{
    err_t err = key_from_der(msg_view(request->key), &out->key);

    if (!err_is_ok(err))
        faults_add(faults, "key", "%s (%s)", err_text(err.code), err_name(err.code));
    if (request->n_certificates > UPLOADED_CERTS_MAX)
        faults_add(faults, "chain", "has more than %d certificates", UPLOADED_CERTS_MAX);
    for (size_t i = 0; i < request->n_certificates && out->num < UPLOADED_CERTS_MAX; i++) {
        struct bytes der = msg_view(request->certificates[i]);

        out->certs[out->num] = CRYPTO_BUFFER_new(der.ptr, der.len, NULL);
        CHECK(out->certs[out->num] != NULL);
        out->num++;
    }
    return faults->total == 0;
}

static struct svid *operator_judge_keystore(struct operator_service *service,
                                            struct grpc_call *call,
                                            const Mortise__V1__ImportKeystoreRequest *request)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct uploaded uploaded = {.num = 0};
    struct svid *svid = NULL;
    err_t err;

    if (operator_read_keystore(request, &faults, &uploaded)) {
        err = uploaded_keystore(&uploaded, clock_wall_s(service->clock), &faults, &svid);
        (void)err; /* in the list */
    }
    uploaded_fini(&uploaded);
    if (faults.total > 0)
        reply_faults(call, &faults);
    return svid;
}

static const Mortise__V1__MeshKeystore *operator_find_keystore(const struct operator_service *it,
                                                               const char *name)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(it->registry);

    for (size_t i = 0; i < mesh->n_keystores; i++) {
        if (strcmp(mesh->keystores[i]->name, name) == 0)
            return mesh->keystores[i];
    }
    return NULL;
}

/* A document of the keystore alone, merged as any other. */
static void operator_import(struct operator_service *service, struct grpc_call *call,
                            const Mortise__V1__ImportKeystoreRequest *request,
                            const struct svid *svid, const char *message)
{
    const Mortise__V1__MeshKeystore *before = operator_find_keystore(service, request->name);
    Mortise__V1__MeshKeystore keystore = MORTISE__V1__MESH_KEYSTORE__INIT, *list = &keystore;
    Mortise__V1__ApplyRequest apply = MORTISE__V1__APPLY_REQUEST__INIT;
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    CLEANUP(buf_fini) struct buf pem = {.data = NULL};
    CLEANUP(mem_freep) char *chain = NULL;
    char by[CALLER_NAME_MAX];
    uint8_t sha256[32];
    char hex[2 * sizeof(sha256) + 1];
    struct registry_key key = {.sha256 = hex, .pkcs8 = msg_view(request->key), .by = by};
    struct mesh_merge merge = {0};

    CHECK(err_is_ok(svid_write_pem(svid, &pem)) &&
          err_is_ok(key_spki_sha256(svid->key, sha256))); /* both were parsed */
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), hex);
    chain = buf_take_str(&pem);
    keystore.name = request->name;
    keystore.description = before != NULL && request->description[0] == '\0' ? before->description
                                                                             : request->description;
    if (before != NULL) {
        keystore.labels = before->labels;
        keystore.n_labels = before->n_labels;
    }
    keystore.chain_pem = chain;
    keystore.key_sha256 = hex;
    mesh.keystores = &list;
    mesh.n_keystores = 1;
    apply.mesh = &mesh;
    apply.dry_run = request->dry_run;
    apply.if_version = request->if_version;
    caller_name(grpc_call_peer(call), by);
    if (operator_plan(service, call, &apply, hex, &merge))
        operator_commit(service, call, &merge, &apply, message, &key);
    mesh_merge_fini(&merge);
}

void operator_on_import_keystore(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__ImportKeystoreRequest *request = MSG_AS_CONST(
        Mortise__V1__ImportKeystoreRequest, mortise__v1__import_keystore_request__descriptor, msg);
    Mortise__V1__ApplyRequest said = MORTISE__V1__APPLY_REQUEST__INIT;
    CLEANUP(mem_freep) char *message = NULL;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;

    if (request->dry_run)
        audit_only_asks(service->audit, call);
    said.message = request->message;
    message = operator_revision_message(call, &said);
    if (message != NULL && !request->replace &&
        operator_find_keystore(service, request->name) != NULL)
        reply_text(call, GRPC_ALREADY_EXISTS,
                   "there is a keystore \"%.64s\" already: say that it is to be replaced (replace; "
                   "mortisectl: --replace)",
                   request->name);
    else if (message != NULL)
        svid = operator_judge_keystore(service, call, request);
    if (svid != NULL &&
        (request->dry_run || operator_elevation(service, call, "importing a private key") != NULL))
        operator_import(service, call, request, svid, message);
    mem_wipe(request->key.data, request->key.len); /* the message's memory is given back as it is */
}
