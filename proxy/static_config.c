#include "proxy/static_config.h"

#include <errno.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "certs/key.h"
#include "certs/secrets.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"

struct static_setting {
    char *key;
    char *value;
};

struct static_reader {
    const char *path;             /* of the configuration */
    struct static_setting *pairs; /* of its settings, applied when all is parsed: their faults then
                                   * stand beside the others */
    size_t num_pairs;
    struct watch_files *files;
    struct faults *faults;
    struct static_config *out;
    struct options_result flags;
    SHA256_CTX digest;
};

/* ---- one file ---- */

static void static_file_fault(struct static_reader *reader, const char *field, const char *path,
                              err_t err)
{
    if (err_is(err, E_FILE_UNSAFE))
        faults_add(
            reader->faults, field,
            "%s: may be read or changed by others, or is not ours: chmod 600 (it is refused)",
            path);
    else if (err_is(err, E_TOO_LARGE))
        faults_add(reader->faults, field, "%s: larger than %d bytes", path, (int)err.sub);
    else
        faults_add(reader->faults, field, "%s: %s: %s", path, err_text(err.code),
                   strerror(err.sub));
}

/* Reads `path` for the field `field`; remembers it as one to watch. False: told. */
static bool static_read(struct static_reader *reader, const char *field, const char *path,
                        size_t max, bool private, struct buf *out)
{
    char why[SECRETS_WHY_MAX] = "";
    uint8_t length[8];
    struct bytes content;
    err_t err;

    if (path[0] == '\0') {
        faults_add(reader->faults, field, "is missing");
        return false;
    }
    watch_files_add(reader->files, path);
    err = private ? secrets_read_file(path, max, out, why) : file_read(path, max, out);
    if (!err_is_ok(err) && why[0] != '\0')
        faults_add(reader->faults, field, "%s: %s", path, why);
    else if (!err_is_ok(err))
        static_file_fault(reader, field, path, err);
    if (!err_is_ok(err))
        return false;
    content = buf_view(out);
    put_be64(length, content.len);
    SHA256_Update(&reader->digest, length, sizeof(length));
    SHA256_Update(&reader->digest, content.ptr, content.len);
    return true;
}

/* Relative names are relative to the folder of the configuration. */
static char *static_path(const struct static_reader *reader, const char *name)
{
    const char *slash = strrchr(reader->path, '/');

    if (name[0] == '/' || name[0] == '\0' || slash == NULL)
        return mem_strdup(name);
    return mem_printf("%.*s%s", (int)(slash - reader->path + 1), reader->path, name);
}

/* ---- configuration ---- */

static void static_on_setting(void *arg, const char *key, const char *value)
{
    struct static_reader *reader = arg;

    reader->pairs = mem_realloc(reader->pairs, (reader->num_pairs + 1) * sizeof(*reader->pairs));
    reader->pairs[reader->num_pairs++] =
        (struct static_setting){.key = mem_strdup(key), .value = mem_strdup(value)};
}

static void static_apply_setting(struct static_reader *reader, const struct static_setting *pair)
{
    CLEANUP(mem_freep) char *path = mem_printf("settings.%s", pair->key);
    CLEANUP(mem_freep) char *nearest = NULL;
    CLEANUP(mem_freep)
    char *value = strcmp(pair->key, "secrets_key_file") == 0 ? static_path(reader, pair->value)
                                                             : mem_strdup(pair->value);

    if (options_set_file(config_options, pair->key, value, path, &reader->out->settings,
                         &reader->flags.seen, reader->faults))
        return;
    nearest = options_nearest_key(config_options, pair->key);
    if (nearest != NULL)
        faults_add(reader->faults, path, "no such setting; meant was %s?", nearest);
    else
        faults_add(reader->faults, path, "no such setting (see --help)");
}

static void static_apply_settings(struct static_reader *reader)
{
    for (size_t i = 0; i < reader->num_pairs; i++) {
        static_apply_setting(reader, &reader->pairs[i]);
        mem_free(reader->pairs[i].key);
        mem_free(reader->pairs[i].value);
    }
    mem_free(reader->pairs);
}

static void static_read_message(struct static_reader *reader)
{
    const struct json_pb_aside aside = {
        .key = "settings", .on_member = static_on_setting, .arg = reader};
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    ProtobufCMessage *msg = NULL;

    if (!static_read(reader, "--config", reader->path, STATIC_CONFIG_MAX, false, &text))
        return;
    if (err_is_ok(json_pb_parse_aside(JSON_PB_YAML, reader->path, buf_view(&text),
                                      &mortise__v1__sidecar_config__descriptor, &aside,
                                      reader->faults, &msg)))
        reader->out->msg = (Mortise__V1__SidecarConfig *)msg;
    static_apply_settings(reader);
    if (reader->out->settings.secrets_key_file != NULL)
        watch_files_add(reader->files, reader->out->settings.secrets_key_file);
    (void)config_use_secrets(&reader->out->settings, reader->faults);
}

/* ---- identity ---- */

/* Which of the two files it is about. Both are PEM: when that is the fault, the key's is looked at
 * once more. */
static bool static_is_key_fault(err_t err, struct bytes key_pem)
{
    bool key = err_is(err, E_KEY_SYNTAX) || err_is(err, E_KEY_ENCRYPTED) ||
               err_is(err, E_SVID_KEY_MISMATCH);

    if (err_is(err, E_PEM_SYNTAX) || err_is(err, E_PEM_EMPTY)) {
        EVP_PKEY *parsed = NULL;

        key = !err_is_ok(key_parse(key_pem, &parsed));
        EVP_PKEY_free(parsed);
    }
    return key;
}

static void static_svid_fault(struct static_reader *reader, const char *cert_field,
                              const char *key_field, err_t err, struct bytes key_pem)
{
    if (err_is(err, E_CERT_EXPIRED))
        faults_add(reader->faults, cert_field, "%s %d s ago", err_text(err.code), (int)err.sub);
    else if (err_is(err, E_SVID_KEY_MISMATCH))
        faults_add(reader->faults, key_field, "%s (%s)", err_text(err.code),
                   "was one of the two replaced alone?");
    else
        faults_add(reader->faults, static_is_key_fault(err, key_pem) ? key_field : cert_field,
                   "%s (%s)", err_text(err.code), err_name(err.code));
}

/* A chain and its key, as the two files of `field` have them; NULL: told. */
static struct svid *static_read_pair(struct static_reader *reader, const char *field,
                                     const char *cert_file, const char *key_file, int64_t now_s)
{
    CLEANUP(buf_fini) struct buf cert = {.data = NULL};
    CLEANUP(buf_wipe_fini) struct buf key = {.data = NULL};
    CLEANUP(mem_freep) char *cert_field = mem_printf("%s.cert_file", field);
    CLEANUP(mem_freep) char *key_field = mem_printf("%s.key_file", field);
    CLEANUP(mem_freep) char *cert_path = static_path(reader, cert_file);
    CLEANUP(mem_freep) char *key_path = static_path(reader, key_file);
    struct svid *svid = NULL;
    bool readable;
    err_t err;

    readable = static_read(reader, cert_field, cert_path, STATIC_CONFIG_CA_MAX, false, &cert);
    readable =
        static_read(reader, key_field, key_path, STATIC_CONFIG_KEY_MAX, true, &key) && readable;
    if (!readable)
        return NULL;
    err = svid_of_pem(buf_view(&cert), buf_view(&key), NULL, now_s, &svid);
    if (!err_is_ok(err))
        static_svid_fault(reader, cert_field, key_field, err, buf_view(&key));
    return svid;
}

static void static_read_identity(struct static_reader *reader, int64_t now_s)
{
    const Mortise__V1__Identity *msg = reader->out->msg->identity;

    if (msg == NULL)
        faults_add(reader->faults, "identity", "is missing: {cert_file: …, key_file: …}");
    else
        reader->out->svid =
            static_read_pair(reader, "identity", msg->cert_file, msg->key_file, now_s);
}

/* ---- keystores ---- */

static void static_read_keystores(struct static_reader *reader, int64_t now_s)
{
    struct static_config *out = reader->out;
    struct fault_path field = {.len = 0};

    if (out->msg->n_keystores > KEYSTORES_MAX) {
        faults_add(reader->faults, "keystores", "has %zu members; at most %d",
                   out->msg->n_keystores, KEYSTORES_MAX);
        return;
    }
    out->keystores.num = out->msg->n_keystores;
    out->keystores.items = mem_array(out->keystores.num, sizeof(*out->keystores.items));
    out->keystores.wrong = mem_array(out->keystores.num, sizeof(*out->keystores.wrong));
    for (size_t i = 0; i < out->keystores.num; i++) {
        const Mortise__V1__SidecarKeystore *msg = out->msg->keystores[i];
        size_t mark = fault_path_field(&field, "keystores");

        (void)fault_path_index(&field, i);
        if (msg->chain_pem[0] != '\0' || msg->key_sha256[0] != '\0' || msg->folder[0] != '\0')
            faults_add(reader->faults, field.text,
                       "chain_pem, key_sha256 and folder are for the control channel; here it is "
                       "cert_file and key_file");
        else
            out->keystores.items[i] =
                static_read_pair(reader, field.text, msg->cert_file, msg->key_file, now_s);
        fault_path_pop(&field, mark);
    }
}

/* ---- CAs ---- */

static void static_read_cas(struct static_reader *reader)
{
    struct static_config *out = reader->out;
    struct fault_path field = {.len = 0};

    out->num_cas = out->msg->n_truststores;
    out->ca_files = mem_array(out->num_cas, sizeof(*out->ca_files));
    out->cas = mem_array(out->num_cas, sizeof(*out->cas));
    for (size_t i = 0; i < out->num_cas; i++) {
        const char *name = out->msg->truststores[i]->ca_file;
        size_t mark = fault_path_field(&field, "truststores");
        char *path;

        (void)fault_path_index(&field, i);
        (void)fault_path_field(&field, "ca_file");
        if (name[0] != '\0') {
            path = static_path(reader, name);
            if (static_read(reader, field.text, path, STATIC_CONFIG_CA_MAX, false,
                            &out->ca_files[i]))
                out->cas[i] = bytes_of(out->ca_files[i].data != NULL ? out->ca_files[i].data
                                                                     : (const uint8_t *)"",
                                       buf_size(&out->ca_files[i]));
            mem_free(path);
        }
        fault_path_pop(&field, mark);
    }
}

/* ---- revocation lists ---- */

static void static_read_crls_of(struct static_reader *reader, const Mortise__V1__Truststore *msg,
                                struct fault_path *field, size_t index)
{
    struct static_crls *crls = &reader->out->crl_files[index];
    struct snapshot_texts *texts = &reader->out->crl_texts[index];

    if (msg->n_crl_files > STATIC_CONFIG_CRL_FILES_MAX) {
        faults_add(reader->faults, field->text, "are %zu files; at most %d", msg->n_crl_files,
                   STATIC_CONFIG_CRL_FILES_MAX);
        return;
    }
    crls->num = texts->num = msg->n_crl_files;
    crls->files = mem_array(crls->num, sizeof(*crls->files));
    texts->items = mem_array(texts->num, sizeof(*texts->items));
    for (size_t i = 0; i < crls->num; i++) {
        size_t mark = fault_path_index(field, i);
        char *path = static_path(reader, msg->crl_files[i]);

        if (static_read(reader, field->text, path, STATIC_CONFIG_CRL_MAX, false, &crls->files[i]))
            texts->items[i] =
                bytes_of(crls->files[i].data != NULL ? crls->files[i].data : (const uint8_t *)"",
                         buf_size(&crls->files[i]));
        mem_free(path);
        fault_path_pop(field, mark);
    }
}

static void static_read_crls(struct static_reader *reader)
{
    struct static_config *out = reader->out;
    struct fault_path field = {.len = 0};

    out->crl_files = mem_array(out->num_cas, sizeof(*out->crl_files));
    out->crl_texts = mem_array(out->num_cas, sizeof(*out->crl_texts));
    for (size_t i = 0; i < out->num_cas; i++) {
        size_t mark = fault_path_field(&field, "truststores");

        (void)fault_path_index(&field, i);
        (void)fault_path_field(&field, "crl_files");
        static_read_crls_of(reader, out->msg->truststores[i], &field, i);
        fault_path_pop(&field, mark);
    }
}

static void static_crls_free(struct static_config *config, size_t index)
{
    struct static_crls *crls = &config->crl_files[index];

    for (size_t i = 0; i < crls->num; i++)
        buf_fini(&crls->files[i]);
    mem_free(crls->files);
    mem_free(config->crl_texts[index].items);
}

/* ---- whole ---- */

/* What is no time is told by whoever makes links of it. */
static void static_check_plaintext(struct static_reader *reader, int64_t now_s)
{
    const Mortise__V1__Inbound *inbound = reader->out->msg->inbound;
    char most[21];

    clock_format_utc(now_s + STATIC_CONFIG_PLAINTEXT_AHEAD_S, most);
    for (size_t i = 0; inbound != NULL && i < inbound->n_links; i++) {
        const Mortise__V1__Permissive *permissive = inbound->links[i]->permissive;
        char path[64];
        int64_t until_s;

        if (permissive == NULL || !clock_parse_utc(permissive->until, &until_s) ||
            until_s <= now_s + STATIC_CONFIG_PLAINTEXT_AHEAD_S)
            continue;
        (void)snprintf(path, sizeof(path), "inbound.links[%zu].permissive.until", i);
        faults_add(reader->faults, path, "%s is more than 90 days ahead; wanted is %s or before",
                   permissive->until, most);
    }
}

err_t static_config_load(const struct config_args *args, int64_t now_s, struct watch_files *files,
                         struct faults *faults, struct static_config *out)
{
    struct static_reader reader = {.files = files, .faults = faults, .out = out};

    *out = (struct static_config){.msg = NULL};
    (void)config_parse(args, &out->settings, &reader.flags, faults);
    reader.path = out->settings.config_file;
    CHECK(reader.path != NULL);
    watch_files_clear(files);
    SHA256_Init(&reader.digest);
    static_read_message(&reader);
    if (out->msg != NULL) {
        static_read_identity(&reader, now_s);
        static_read_keystores(&reader, now_s);
        static_read_cas(&reader);
        static_read_crls(&reader);
        static_check_plaintext(&reader, now_s);
    }
    SHA256_Final(out->digest, &reader.digest);
    (void)config_check(&out->settings, faults);
    return faults_err(faults);
}

void static_config_fini(struct static_config *config)
{
    config_free(&config->settings);
    if (config->msg != NULL)
        pb_free(&config->msg->base);
    if (config->svid != NULL)
        svid_unref(config->svid);
    keystores_fini(&config->keystores);
    for (size_t i = 0; i < config->num_cas; i++)
        buf_fini(&config->ca_files[i]);
    for (size_t i = 0; config->crl_files != NULL && i < config->num_cas; i++)
        static_crls_free(config, i);
    mem_free(config->crl_files);
    mem_free(config->crl_texts);
    mem_free(config->ca_files);
    mem_free(config->cas);
    *config = (struct static_config){.msg = NULL};
}
