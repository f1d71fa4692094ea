/* mortisectl encrypt: secrets as values that may stand in files (certs/secrets.h). Asks no control
 * plane. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "certs/secrets.h"
#include "control/ctl/ctl.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

#define ENCRYPT_WORD_MAX 24 /* letters of a word behind "enc:" that is no value */
#define ENCRYPT_PLAIN_MAX 65536
#define ENCRYPT_FILE_MAX ((size_t)4 << 20)

static const struct option encrypt_options[] = {
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .flags = OPTION_FLAG_NO_FILE,
     .def = "-",
     .arg = "FILE",
     .help = "What to encrypt; - is standard input; -f for short. A newline at the end of a "
             "text is left out."},
    {.name = "rotate",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, rotate),
     .flags = OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "Instead: encrypt the values in FILE anew under the first key. All else in it stays, "
             "and it is replaced whole, or not at all."},
    CTL_SECRETS_ROWS,
    {.name = NULL},
};

static bool encrypt_keys(struct seal_keys *out)
{
    char why[SECRETS_WHY_MAX];

    if (err_is_ok(secrets_keys(out, why)))
        return true;
    ctl_tell("%s", why);
    return false;
}

static bool encrypt_one(const struct seal_keys *keys, const char *path)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};
    CLEANUP(buf_fini) struct buf text = {0};
    struct bytes view;
    err_t err;

    if (strcmp(path, "-") == 0 && isatty(STDIN_FILENO))
        ctl_tell("reading the secret from standard input; end with Ctrl-D");
    if (!ctl_read("--file", path, false, &plain))
        return false;
    view = buf_view(&plain);
    /* Not of what is no text: PKCS#12, for one. */
    if (view.len > 0 && view.ptr[view.len - 1] == '\n' && memchr(view.ptr, 0, view.len) == NULL)
        view.len--;
    if (view.len == 0 || view.len > ENCRYPT_PLAIN_MAX) {
        ctl_tell("--file: %s", view.len == 0 ? "is empty: there is nothing to encrypt"
                                             : "is larger than 65536 bytes");
        return false;
    }
    if (secrets_is_encrypted(view)) {
        ctl_tell("--file: is encrypted already; --rotate FILE encrypts it anew");
        return false;
    }
    err = secrets_close(&keys->keys[0], view, &text);
    CHECK(err_is_ok(err)); /* it is small enough */
    printf("%.*s\n", (int)buf_size(&text), (const char *)buf_view(&text).ptr);
    return true;
}

/* ---- a file's values under another key ---- */

struct encrypt_rotation {
    const char *path;
    const struct seal_keys *keys;
    size_t num, anew; /* values; those that were not under the first key */
    struct buf out;
};

static bool encrypt_is_base64(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/' || c == '=';
}

/* Where it is: the line, and the word that stands before the value on it, if there is one. */
static void encrypt_tell(const char *path, struct bytes text, size_t at, const char *why)
{
    size_t line = 1, begin = 0, end;

    for (size_t i = 0; i < at; i++) {
        if (text.ptr[i] == '\n') {
            line++;
            begin = i + 1;
        }
    }
    while (begin < at && strchr(" \t-\"'{", text.ptr[begin]) != NULL)
        begin++;
    for (end = begin; end < at && text.ptr[end] != ':' && text.ptr[end] != '"';)
        end++;
    if (end < at && end > begin) {
        CLEANUP(mem_freep)
        char *field = mem_strndup((const char *)text.ptr + begin, end - begin);

        ctl_tell("%s:%zu: %s: %s", path, line, field, why);
    } else {
        ctl_tell("%s:%zu: %s", path, line, why);
    }
}

/* Appends the value at text[at] under the first key; its length is *out_len. */
static bool encrypt_value(struct encrypt_rotation *rotation, struct bytes text, size_t at,
                          size_t *out_len)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};
    char first[SEAL_NAME], name[SEAL_NAME], why[SECRETS_WHY_MAX];
    size_t end = at + strlen(SECRETS_PREFIX);
    struct bytes value;
    err_t err;

    while (end < text.len && encrypt_is_base64(text.ptr[end]))
        end++;
    *out_len = end - at;
    value = bytes_of(text.ptr + at, end - at);
    if (!err_is_ok(secrets_open_with(rotation->keys, value, &plain, why))) {
        encrypt_tell(rotation->path, text, at, why);
        return false;
    }
    rotation->num++;
    secrets_name(value, name);
    seal_key_name(&rotation->keys->keys[0], first);
    if (strcmp(name, first) == 0) {
        err = buf_add(&rotation->out, value.ptr, value.len);
    } else {
        rotation->anew++;
        err = secrets_close(&rotation->keys->keys[0], buf_view(&plain), &rotation->out);
    }
    CHECK(err_is_ok(err)); /* as large as what was read */
    return true;
}

/* Whether what begins with "enc:" is, or was, a value: no word of a text is as long. */
static bool encrypt_is_value(struct bytes text)
{
    const size_t prefix = strlen(SECRETS_PREFIX), begin = strlen(SECRETS_BEGIN);
    size_t len = prefix;

    while (len < text.len && encrypt_is_base64(text.ptr[len]))
        len++;
    return len >= prefix + ENCRYPT_WORD_MAX ||
           (len >= begin && memcmp(text.ptr, SECRETS_BEGIN, begin) == 0);
}

/* The whole text with its values under the first key; every one that does not open is told. */
static bool encrypt_text(struct encrypt_rotation *rotation, struct bytes text)
{
    bool good = true;
    size_t at = 0;

    while (at < text.len) {
        const uint8_t *found =
            memmem(text.ptr + at, text.len - at, SECRETS_PREFIX, strlen(SECRETS_PREFIX));
        size_t next = found != NULL ? (size_t)(found - text.ptr) : text.len;
        size_t len = 0;
        err_t err = buf_add(&rotation->out, text.ptr + at, next - at);

        CHECK(err_is_ok(err));
        if (found != NULL && encrypt_is_value(bytes_of(found, text.len - next))) {
            good = encrypt_value(rotation, text, next, &len) && good;
        } else if (found != NULL) {
            len = strlen(SECRETS_PREFIX);
            err = buf_add(&rotation->out, found, len);
            CHECK(err_is_ok(err));
        }
        at = next + len;
    }
    return good;
}

static bool encrypt_rotate(const struct seal_keys *keys, const char *path)
{
    struct encrypt_rotation rotation = {.path = path, .keys = keys};
    CLEANUP(buf_fini) struct buf text = {0};
    char name[SEAL_NAME], whole[PATH_MAX];
    struct stat st;
    bool good;
    err_t err = OK;

    if (!ctl_read("--rotate", path, false, &text))
        return false;
    /* The file itself and not a link to it is replaced, with its mode; its owner must be us. */
    if (realpath(path, whole) == NULL || stat(whole, &st) != 0 || st.st_uid != geteuid()) {
        ctl_tell("--rotate: %s: belongs to another user: run this as that user", path);
        return false;
    }
    good = encrypt_text(&rotation, buf_view(&text));
    if (good && rotation.anew > 0)
        err = file_write_atomic(whole, buf_view(&rotation.out), st.st_mode & 07777);
    if (!err_is_ok(err)) {
        ctl_tell("--rotate: %s: %s: %s; it is as it was", path, err_text(err.code),
                 strerror(err.sub));
        good = false;
    } else if (good) {
        seal_key_name(&keys->keys[0], name);
        ctl_print(stdout, path);
        printf(": %zu of %zu encrypted values were encrypted anew, under key %s\n", rotation.anew,
               rotation.num, name);
    } else {
        ctl_tell("%s: is as it was", path);
    }
    buf_fini(&rotation.out);
    return good;
}

static int encrypt_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(seal_keys_fini) struct seal_keys keys = {.num = 0};
    bool done;

    (void)num;
    (void)operands;
    if (flags->rotate != NULL && (flags->file == NULL || strcmp(flags->file, "-") != 0)) {
        ctl_tell("--rotate: and --file are both given: one of them");
        return CTL_USAGE;
    }
    if (!encrypt_keys(&keys))
        return CTL_USAGE;
    done = flags->rotate != NULL ? encrypt_rotate(&keys, flags->rotate)
                                 : encrypt_one(&keys, flags->file != NULL ? flags->file : "-");
    return done ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_encrypt = {
    .name = "encrypt",
    .operands = "",
    .summary = "a secret as a value that may stand in a file",
    .about =
        "Writes \"enc:…\": AES-256-GCM under the first of your keys, whose name is in it. It may "
        "stand as kek in the settings of mortise-control, and as the whole content of any file "
        "that is a key or a token: kek_file, --cache-key-file, --join-token-file, "
        "identity.key_file of a static sidecar, --key and --token-file of mortisectl. Who reads "
        "the file needs the key: --secrets-key-file, MORTISE_SECRETS_KEY or "
        "--secrets-key-command. To change the key, put the new one in front of it, encrypt every "
        "file anew with --rotate, then take the old one out.\n\n"
        "Example: (umask 077; openssl rand -hex 32 >secrets.key)\n"
        "         mortisectl encrypt -f kek --secrets-key-file secrets.key >kek.enc\n"
        "         mortisectl encrypt --rotate control.yaml --secrets-key-file secrets.key",
    .options = encrypt_options,
    .run = encrypt_run,
};
