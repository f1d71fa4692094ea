#include "control/ctl/document.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "certs/secrets.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define DOCUMENT_BAD_MAX 10 /* are told */

static bool document_has_fault(const struct faults *faults, const char *path)
{
    for (size_t i = 0; i < faults->num; i++) {
        if (strcmp(faults->items[i].path, path) == 0)
            return true;
    }
    return false;
}

static bool document_parse_answer(const char *name, struct bytes text, struct faults *faults,
                                  struct document *out)
{
    Mortise__V1__GetMeshResponse *answer;

    if (!err_is_ok(json_pb_parse(JSON_PB_YAML, name, text,
                                 &mortise__v1__get_mesh_response__descriptor, faults, &out->whole)))
        return false;
    answer = MSG_AS(Mortise__V1__GetMeshResponse, mortise__v1__get_mesh_response__descriptor,
                    out->whole);
    if (answer->mesh == NULL) { /* "mesh:" with nothing behind it */
        faults_add(faults, "mesh", "must not be empty");
        return false;
    }
    out->mesh = answer->mesh;
    out->version = answer->version;
    return true;
}

static bool document_parse(const char *name, struct bytes text, struct faults *faults,
                           struct document *out)
{
    if (err_is_ok(json_pb_parse(JSON_PB_YAML, name, text, &mortise__v1__mesh__descriptor, faults,
                                &out->whole))) {
        out->mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, out->whole);
        return true;
    }
    if (!document_has_fault(faults, "mesh"))
        return false;
    faults_fini(faults);
    return document_parse_answer(name, text, faults, out);
}

/* ------------------------------------------------------------ several of them */

/* What has been read so far: the encodings of all documents, one behind the other, are the encoding
 * of what they are together (protobuf encoding specification, "last one wins"). */
struct document_parts {
    struct buf encoded;
    uint64_t version;
    size_t num;
    bool settings;
    unsigned bad;
};

static void document_tell(struct document_parts *parts, const char *name, size_t line,
                          struct faults *faults)
{
    if (line > 0)
        ctl_tell("%s: what begins in line %zu is not a mesh document:", name, line + 1);
    else
        ctl_tell("%s is not a mesh document:", name);
    ctl_tell_faults(faults);
    parts->bad++;
}

/* What one by itself may say, and several may not. */
static void document_check_together(struct document_parts *parts, const Mortise__V1__Mesh *mesh,
                                    uint64_t version, struct faults *faults)
{
    if (parts->num > 0 && (version != 0 || parts->version != 0))
        faults_add(faults, "version",
                   "a document that says at which version it was taken must be "
                   "the only one");
    if (mesh->settings != NULL && parts->settings)
        faults_add(faults, "settings", "must be in one document only; one before has them, too");
    parts->settings |= mesh->settings != NULL;
    parts->version = version;
    parts->num++;
}

/* Behind as many empty lines as there are before it, so that a fault's place is that in the file.
 */
static void document_parse_again(const char *name, size_t line, struct bytes text,
                                 struct faults *faults)
{
    CLEANUP(buf_fini) struct buf whole = {0};
    struct document none = {.mesh = NULL};
    err_t err = OK;

    while (line-- > 0 && err_is_ok(err))
        err = buf_add(&whole, "\n", 1);
    if (!err_is_ok(err) || !err_is_ok(buf_add(&whole, text.ptr, text.len)))
        return;
    faults_fini(faults);
    (void)document_parse(name, buf_view(&whole), faults, &none);
    document_fini(&none);
}

static void document_add(struct document_parts *parts, const char *name, size_t line,
                         struct bytes text)
{
    struct document part = {.mesh = NULL};
    struct faults faults = {0};

    if (!document_parse(name, text, &faults, &part)) {
        if (line > 0)
            document_parse_again(name, line, text, &faults);
    } else {
        document_check_together(parts, part.mesh, part.version, &faults);
        if (!err_is_ok(pb_pack(&part.mesh->base, &parts->encoded)))
            faults_add(&faults, "size", "is too large together with those before it");
    }
    if (faults.num > 0)
        document_tell(parts, name, line, &faults);
    faults_fini(&faults);
    document_fini(&part);
}

/* Where the line behind `at` begins; `end` when there is none. */
static const uint8_t *document_next_line(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *eol = memchr(at, '\n', (size_t)(end - at));

    return eol != NULL ? eol + 1 : end;
}

static bool document_is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* "---" at the beginning of a line begins a document, whatever stands before (YAML 1.1, 4.3.2). */
static bool document_is_mark(const uint8_t *at, const uint8_t *end)
{
    return end - at >= 3 && memcmp(at, "---", 3) == 0 &&
           (end - at == 3 || document_is_space(at[3]));
}

static bool document_is_blank(const uint8_t *at, const uint8_t *end)
{
    while (at < end && (document_is_space(*at) || *at == '#'))
        at = *at == '#' ? document_next_line(at, end) : at + 1;
    return at == end;
}

/* What may stand before a document's mark and is of it: comments, "%YAML 1.1", and the byte order
 * mark that some editors put there (YAML 1.1, 5.2 and 6.8). */
static bool document_is_head(const uint8_t *at, const uint8_t *end)
{
    if (end - at >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    while (at < end && (document_is_space(*at) || *at == '#' || *at == '%'))
        at = document_is_space(*at) ? at + 1 : document_next_line(at, end);
    return at == end;
}

/* Who wrote a mark meant to write something behind it. */
static void document_tell_nothing(struct document_parts *parts, const char *name)
{
    struct faults faults = {0};

    faults_add(&faults, "",
               "nothing stands behind its \"---\": wanted are subsystems, profiles, links or "
               "another field of a mesh");
    document_tell(parts, name, 0, &faults);
    faults_fini(&faults);
}

/* Every document of `text`. One that is nothing but comments is none, unless all are. */
static void document_add_all(struct document_parts *parts, const char *name, struct bytes text)
{
    const uint8_t *end = text.ptr + text.len;
    const uint8_t *at = text.ptr;
    size_t before = parts->num + parts->bad;
    size_t line = 0;
    bool marked = false;

    while (at < end && parts->bad < DOCUMENT_BAD_MAX) {
        const uint8_t *to = document_next_line(at, end);
        size_t lines = 1;

        for (; to < end && (!document_is_mark(to, end) || document_is_head(at, to)); lines++)
            to = document_next_line(to, end);
        marked |= document_is_mark(at, end);
        if (!document_is_blank(document_is_mark(at, end) ? at + 3 : at, to))
            document_add(parts, name, line, bytes_of(at, (size_t)(to - at)));
        at = to;
        line += lines;
    }
    if (parts->num + parts->bad > before)
        return;
    if (marked)
        document_tell_nothing(parts, name);
    else
        document_add(parts, name, 0, text);
}

/* -------------------------------------------------------------------- folders */

static int document_is_listed(const struct dirent *entry)
{
    static const char *const endings[] = {".yaml", ".yml", ".json"};
    size_t len = strlen(entry->d_name);

    for (size_t i = 0; i < ARRAY_LEN(endings); i++) {
        size_t tail = strlen(endings[i]);

        if (entry->d_name[0] != '.' && len > tail &&
            strcmp(entry->d_name + len - tail, endings[i]) == 0)
            return 1;
    }
    return 0;
}

/* No field of a mesh is a secret: an encrypted value would be taken for what it looks like, and
 * shown to everybody. True: told. */
static bool document_has_secret(const char *name, struct bytes text)
{
    const uint8_t *found = memmem(text.ptr, text.len, SECRETS_BEGIN, strlen(SECRETS_BEGIN));
    size_t line = 1;

    if (found == NULL)
        return false;
    for (const uint8_t *at = text.ptr; at < found; at++)
        line += *at == '\n';
    ctl_tell("%s:%zu: an encrypted value (enc:), and no field of a mesh document is a secret; "
             "mortisectl encrypt --help says where one may stand",
             name, line);
    return true;
}

static bool document_read_file(const char *flag, const char *path, struct document_parts *parts)
{
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    CLEANUP(buf_fini) struct buf text = {0};

    if (!ctl_read(flag, path, false, &text) ||
        (buf_size(&text) > 0 && document_has_secret(name, buf_view(&text))))
        return false;
    document_add_all(parts, name, buf_view(&text));
    return true;
}

/* Its documents by name, without those of folders in it. */
static bool document_read_folder(const char *flag, const char *path, struct document_parts *parts)
{
    struct dirent **entries;
    int num = scandir(path, &entries, document_is_listed, alphasort);
    bool done = num > 0;

    if (num < 0) {
        ctl_tell("%s: %s: %s", flag, path, strerror(errno));
        return false;
    }
    if (num == 0)
        ctl_tell("%s: %s: there is no .yaml, .yml or .json in that folder", flag, path);
    for (int i = 0; i < num; i++) {
        CLEANUP(mem_freep) char *file = mem_printf("%s/%s", path, entries[i]->d_name);

        done = done && document_read_file(flag, file, parts);
        free(entries[i]); /* scandir's */
    }
    free(entries);
    return done;
}

bool document_read(const char *flag, const char *path, struct document *out)
{
    struct document_parts parts = {.num = 0};
    struct stat what;
    bool done;

    *out = (struct document){.mesh = NULL};
    if (strcmp(path, "-") != 0 && stat(path, &what) == 0 && S_ISDIR(what.st_mode))
        done = document_read_folder(flag, path, &parts);
    else
        done = document_read_file(flag, path, &parts);
    done = done && parts.bad == 0;
    if (done && !err_is_ok(pb_unpack(&mortise__v1__mesh__descriptor, buf_view(&parts.encoded),
                                     buf_size(&parts.encoded), &out->whole))) {
        ctl_tell("%s: is too large", path);
        done = false;
    }
    if (done) {
        out->mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, out->whole);
        out->version = parts.version;
    }
    buf_fini(&parts.encoded);
    return done;
}

void document_fini(struct document *document)
{
    if (document->whole != NULL)
        pb_free(document->whole);
    *document = (struct document){.mesh = NULL};
}
