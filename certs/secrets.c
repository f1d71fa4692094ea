#include "certs/secrets.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/command.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

#define SECRETS_PREFIX_LEN (sizeof(SECRETS_PREFIX) - 1)
#define SECRETS_FLAGS "--secrets-key-file, MORTISE_SECRETS_KEY or --secrets-key-command"

/* What opens encrypted values in this process. */
static struct {
    char *file;
    char **command;
    struct seal_keys keys;
} secrets_now;

/* ---- one source ---- */

bool secret_source_is_given(const struct secret_source *source)
{
    return source->file != NULL || source->value != NULL ||
           (source->command != NULL && source->command->num > 0);
}

/* MORTISE_CACHE_KEY of "cache-key". */
static void secret_variable(const char *name, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "MORTISE_%s", name);

    CHECK(len < size);
    for (char *c = out; *c != '\0'; c++)
        *c = (char)(*c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
}

bool secret_source_check(const struct secret_source *source, struct faults *faults)
{
    const size_t words = source->command != NULL ? source->command->num : 0;
    CLEANUP(mem_freep) char *file = mem_printf("--%s-file", source->name);
    CLEANUP(mem_freep) char *command = mem_printf("--%s-command", source->name);
    char variable[64];

    secret_variable(source->name, variable, sizeof(variable));
    if (source->file != NULL && source->value != NULL) {
        faults_add(faults, file, "and %s are both given: one of them", variable);
        return false;
    }
    if (words > 0 && (source->file != NULL || source->value != NULL)) {
        faults_add(faults, command, "and %s are both given: one of them",
                   source->file != NULL ? file : variable);
        return false;
    }
    if (words > 0 && source->command->items[0][0] != '/') {
        faults_add(faults, command,
                   "\"%s\" is not the path of a program: wanted is one that begins with /, then "
                   "its arguments, each with the flag again; there is no shell",
                   source->command->items[0]);
        return false;
    }
    return true;
}

static void secret_command_why(const struct secret_source *source, err_t err, char *why)
{
    const char *program = source->command->items[0];
    const char *flag = source->name;

    if (err_is(err, E_COMMAND_START))
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: cannot start: %s", flag, program,
                       strerror(err.sub));
    else if (err_is(err, E_TIMEOUT))
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: has not ended after %d s", flag,
                       program, SECRETS_COMMAND_MS / 1000);
    else if (err_is(err, E_TOO_LARGE))
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: writes more than %d bytes", flag,
                       program, (int)err.sub);
    else if (err_is(err, E_COMMAND_FAILED) && err.sub < 0)
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: was ended by signal %d", flag,
                       program, -(int)err.sub);
    else if (err_is(err, E_COMMAND_FAILED))
        (void)snprintf(why, SECRETS_WHY_MAX,
                       "--%s-command: %s: ended with status %d; run it by hand to see why", flag,
                       program, (int)err.sub);
    else
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: %s: %s", flag, program,
                       err_text(err.code), strerror(err.sub));
}

static err_t secret_run(const struct secret_source *source, size_t max, struct buf *out, char *why)
{
    const struct option_list *words = source->command;
    const char **argv = mem_array(words->num + 1, sizeof(*argv));
    err_t err;

    for (size_t i = 0; i < words->num; i++)
        argv[i] = words->items[i];
    err = command_read(argv, environ, max, SECRETS_COMMAND_MS, out);
    mem_free(argv);
    if (!err_is_ok(err))
        secret_command_why(source, err, why);
    return err;
}

/* Puts the source's name in front of what is wrong. */
static void secret_place_why(const struct secret_source *source, char *why)
{
    CLEANUP(mem_freep) char *more = mem_strdup(why);
    char variable[64];

    secret_variable(source->name, variable, sizeof(variable));
    if (source->value != NULL)
        (void)snprintf(why, SECRETS_WHY_MAX, "%s: %s", variable, more);
    else if (source->file != NULL)
        (void)snprintf(why, SECRETS_WHY_MAX, "%s: %s", source->file, more);
    else
        (void)snprintf(why, SECRETS_WHY_MAX, "--%s-command: %s: what it writes %s%s", source->name,
                       source->command->items[0], strncmp(more, "is ", 3) == 0 ? "" : "is ", more);
}

static void secret_file_why(const struct secret_source *source, err_t err, char *why)
{
    if (err_is(err, E_FILE_UNSAFE))
        (void)snprintf(why, SECRETS_WHY_MAX,
                       "%s: may be read or changed by others, or is not ours: chmod 600 it",
                       source->file);
    else if (err_is(err, E_TOO_LARGE))
        (void)snprintf(why, SECRETS_WHY_MAX, "%s: larger than %d bytes", source->file,
                       (int)err.sub);
    else
        (void)snprintf(why, SECRETS_WHY_MAX, "%s: %s: %s", source->file, err_text(err.code),
                       strerror(err.sub));
}

/* Puts what is in an encrypted value in the place of what was appended to `out` after `before`. */
static err_t secret_open_tail(struct buf *out, size_t before, char *why)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};
    struct bytes view = buf_view(out);

    if (view.len <= before || !secrets_is_encrypted(bytes_of(view.ptr + before, view.len - before)))
        return OK;
    TRY(secrets_open(bytes_of(view.ptr + before, view.len - before), &plain, why));
    buf_truncate(out, before);
    return buf_add(out, buf_view(&plain).ptr, buf_size(&plain));
}

/* As it is: what is encrypted stays so. */
static err_t secret_read_raw(const struct secret_source *source, size_t max, struct buf *out,
                             char *why)
{
    err_t err;

    why[0] = '\0';
    CHECK(secret_source_is_given(source));
    if (source->value != NULL)
        return buf_add_str(out, source->value);
    if (source->file == NULL)
        return secret_run(source, max, out, why);
    err = file_read_private(source->file, max, out);
    if (!err_is_ok(err))
        secret_file_why(source, err, why);
    return err;
}

err_t secret_source_read(const struct secret_source *source, size_t max, struct buf *out,
                         char why[SECRETS_WHY_MAX])
{
    const size_t before = buf_size(out);
    err_t err;

    TRY(secret_read_raw(source, max, out, why));
    err = secret_open_tail(out, before, why);
    if (!err_is_ok(err)) {
        buf_truncate(out, before);
        secret_place_why(source, why);
    }
    return err;
}

/* ---- keys ---- */

static err_t secrets_parse_keys(struct bytes text, struct seal_keys *out, char *why)
{
    err_t err = seal_keys_parse(text, out);

    if (!err_is_ok(err) && err.sub > 1)
        (void)snprintf(why, SECRETS_WHY_MAX,
                       "key %d of it is not a key-encryption key: wanted are 32 bytes as 64 "
                       "hexadecimal digits or "
                       "base64, a key a line",
                       (int)err.sub);
    else if (!err_is_ok(err))
        (void)snprintf(
            why, SECRETS_WHY_MAX,
            "not a key-encryption key: wanted are 32 bytes as 64 hexadecimal digits or base64; of "
            "several, at most %d, the first is the one that closes",
            SEAL_KEYS_MAX);
    return err;
}

/* `open`: the text may be encrypted. */
static err_t secrets_read_keys(const struct secret_source *source, bool open, struct seal_keys *out,
                               char *why)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    err_t err;

    TRY(open ? secret_source_read(source, SECRETS_KEY_MAX, &text, why)
             : secret_read_raw(source, SECRETS_KEY_MAX, &text, why));
    err = secrets_parse_keys(buf_view(&text), out, why);
    if (!err_is_ok(err))
        secret_place_why(source, why);
    return err;
}

err_t secret_source_keys(const struct secret_source *source, struct seal_keys *out,
                         char why[SECRETS_WHY_MAX])
{
    return secrets_read_keys(source, true, out, why);
}

/* ---- the keys of this process ---- */

static void secrets_drop_command(void)
{
    for (size_t i = 0; secrets_now.command != NULL && secrets_now.command[i] != NULL; i++)
        mem_free(secrets_now.command[i]);
    mem_free(secrets_now.command);
    secrets_now.command = NULL;
}

void secrets_end(void)
{
    mem_free(secrets_now.file);
    secrets_now.file = NULL;
    secrets_drop_command();
    seal_keys_fini(&secrets_now.keys);
}

/* Whether it is the command of now. */
static bool secrets_is_command(const struct option_list *words)
{
    size_t i = 0;

    if (secrets_now.command == NULL || words == NULL)
        return false;
    while (i < words->num && secrets_now.command[i] != NULL &&
           strcmp(words->items[i], secrets_now.command[i]) == 0)
        i++;
    return i == words->num && secrets_now.command[i] == NULL;
}

/* Whether the source has keys to be judged before it is in force: what stands in a variable, and
 * whatever takes the place of another source, which would be lost. */
static bool secrets_is_to_judge(const struct secret_source *source)
{
    const bool replaces =
        secrets_now.file != NULL || secrets_now.command != NULL || secrets_now.keys.num > 0;

    return source->value != NULL || replaces;
}

/* Its keys, as far as they are to be kept; a file is read whenever a value is opened. */
static bool secrets_judge(const struct secret_source *source, struct faults *faults,
                          struct seal_keys *out)
{
    static const char prefix[] = "--secrets-key-command: "; /* where the fault is told anyway */
    char why[SECRETS_WHY_MAX];

    if (!secrets_is_to_judge(source))
        return true;
    if (err_is_ok(secrets_read_keys(source, false, out, why))) {
        if (source->file != NULL)
            seal_keys_fini(out);
        return true;
    }
    if (source->value != NULL)
        faults_add(faults, "MORTISE_SECRETS_KEY", "%s", why + strlen("MORTISE_SECRETS_KEY: "));
    else if (source->file != NULL)
        faults_add(faults, "--secrets-key-file", "%s", why);
    else
        faults_add(faults, "--secrets-key-command", "%s", why + strlen(prefix));
    return false;
}

bool secrets_use(const struct secret_source *source, struct faults *faults)
{
    CLEANUP(seal_keys_fini) struct seal_keys keys = {.num = 0};

    if (!secret_source_check(source, faults))
        return false;
    if (!secret_source_is_given(source) || secrets_is_command(source->command))
        return true;
    if (source->file != NULL && secrets_now.file != NULL &&
        strcmp(source->file, secrets_now.file) == 0)
        return true;
    if (!secrets_judge(source, faults, &keys))
        return false;
    secrets_end();
    secrets_now.keys = keys;
    if (source->file != NULL) {
        secrets_now.file = mem_strdup(source->file);
    } else if (source->value == NULL) {
        secrets_now.command = mem_array(source->command->num + 1, sizeof(*secrets_now.command));
        for (size_t i = 0; i < source->command->num; i++)
            secrets_now.command[i] = mem_strdup(source->command->items[i]);
    }
    return true;
}

err_t secrets_keys(struct seal_keys *out, char why[SECRETS_WHY_MAX])
{
    struct option_list words = {.items = secrets_now.command};
    const struct secret_source source = {
        .name = "secrets-key", .file = secrets_now.file, .command = &words};

    if (secrets_now.keys.num > 0) {
        *out = secrets_now.keys;
        return OK;
    }
    while (secrets_now.command != NULL && secrets_now.command[words.num] != NULL)
        words.num++;
    if (!secret_source_is_given(&source)) {
        (void)snprintf(why, SECRETS_WHY_MAX, "no key is given: " SECRETS_FLAGS);
        return FAIL(SECRET_KEY, 0);
    }
    if (!err_is_ok(secrets_read_keys(&source, false, out, why)))
        return FAIL(SECRET_KEY, 0);
    if (secrets_now.command != NULL)
        secrets_now.keys = *out; /* it is not run for each value */
    return OK;
}

/* ---- values ---- */

bool secrets_is_encrypted(struct bytes text)
{
    return text.len >= SECRETS_PREFIX_LEN &&
           memcmp(text.ptr, SECRETS_PREFIX, SECRETS_PREFIX_LEN) == 0;
}

/* The record in it. */
static err_t secrets_decode(struct bytes text, struct buf *out)
{
    while (text.len > 0 && strchr(" \t\r\n", text.ptr[text.len - 1]) != NULL)
        text.len--;
    if (!secrets_is_encrypted(text))
        return FAIL(SECRET_BROKEN, 0);
    return bytes_from_base64((const char *)text.ptr + SECRETS_PREFIX_LEN,
                             text.len - SECRETS_PREFIX_LEN, out);
}

void secrets_name(struct bytes text, char out[SEAL_NAME])
{
    CLEANUP(buf_fini) struct buf sealed = {0};

    if (!err_is_ok(secrets_decode(text, &sealed)))
        buf_clear(&sealed);
    seal_name(buf_view(&sealed), out);
}

err_t secrets_close(const struct seal_key *key, struct bytes plain, struct buf *out)
{
    CLEANUP(buf_fini) struct buf sealed = {0};
    CLEANUP(mem_freep) char *text = NULL;

    TRY(seal_close(key, SECRETS_LABEL, plain, &sealed));
    text = bytes_to_base64(buf_view(&sealed));
    TRY(buf_add_str(out, SECRETS_PREFIX));
    return buf_add_str(out, text);
}

static void secrets_wrong_key(const struct seal_keys *keys, struct bytes sealed, char *why)
{
    char wanted[SEAL_NAME], name[SEAL_NAME];
    size_t len;

    seal_name(sealed, wanted);
    len = (size_t)snprintf(why, SECRETS_WHY_MAX, "is encrypted under key %s; given:", wanted);
    for (size_t i = 0; i < keys->num && len < SECRETS_WHY_MAX; i++) {
        seal_key_name(&keys->keys[i], name);
        len += (size_t)snprintf(why + len, SECRETS_WHY_MAX - len, "%s %s", i > 0 ? "," : "", name);
    }
}

err_t secrets_open_with(const struct seal_keys *keys, struct bytes text, struct buf *out,
                        char why[SECRETS_WHY_MAX])
{
    CLEANUP(buf_fini) struct buf sealed = {0};
    const struct seal_key *key;
    char name[SEAL_NAME];
    err_t err = secrets_decode(text, &sealed);

    if (err_is_ok(err)) {
        seal_name(buf_view(&sealed), name);
        key = seal_keys_of(keys, buf_view(&sealed));
        if (key == NULL && strcmp(name, "?") != 0) {
            secrets_wrong_key(keys, buf_view(&sealed), why);
            return FAIL(SECRET_KEY, 0);
        }
        err = key != NULL ? seal_open(key, SECRETS_LABEL, buf_view(&sealed), out)
                          : FAIL(SECRET_BROKEN, 0);
    }
    if (err_is_ok(err))
        return OK;
    (void)snprintf(why, SECRETS_WHY_MAX,
                   "the value behind " SECRETS_PREFIX
                   " does not open: changed, cut off, or not made by mortisectl encrypt");
    return FAIL(SECRET_BROKEN, 0);
}

err_t secrets_open(struct bytes text, struct buf *out, char why[SECRETS_WHY_MAX])
{
    CLEANUP(seal_keys_fini) struct seal_keys keys = {.num = 0};
    char name[SEAL_NAME];
    err_t err = secrets_keys(&keys, why);

    if (err_is_ok(err))
        return secrets_open_with(&keys, text, out, why);
    secrets_name(text, name);
    if (strcmp(name, "?") != 0) {
        CLEANUP(mem_freep) char *more = mem_strdup(why);

        (void)snprintf(why, SECRETS_WHY_MAX, "is encrypted under key %s; %s", name, more);
    }
    return err;
}

err_t secrets_read_file(const char *path, size_t max, struct buf *out, char why[SECRETS_WHY_MAX])
{
    const size_t before = buf_size(out);
    err_t err;

    why[0] = '\0';
    TRY(file_read_private(path, max, out));
    err = secret_open_tail(out, before, why);
    if (!err_is_ok(err))
        buf_truncate(out, before);
    return err;
}

bool secrets_open_str(char **value, const char *path, struct faults *faults)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};
    char why[SECRETS_WHY_MAX];

    if (*value == NULL || !secrets_is_encrypted(bytes_of_str(*value)))
        return true;
    if (!err_is_ok(secrets_open(bytes_of_str(*value), &plain, why))) {
        faults_add(faults, path, "%s", why);
        return false;
    }
    mem_wipe(*value, strlen(*value));
    mem_free(*value);
    *value = mem_strndup((const char *)buf_view(&plain).ptr, buf_size(&plain));
    return true;
}
