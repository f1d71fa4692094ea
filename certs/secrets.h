/* secrets: where a secret comes from, and values that are kept encrypted in files.
 *
 * A secret has one of three sources: a private file, a variable, or what a command prints (no
 * shell). A secret that stands in a file of ours may be encrypted: "enc:" and the base64 of a
 * record of seal.h, sealed under a key of the user with the label SECRETS_LABEL authenticated.
 * Which keys open such values is told once, at the start (secrets_use), before there is a second
 * thread; only the main thread calls anything here. What opens an encrypted value needs no other
 * word about it: secrets_read_file is file_read_private that opens what it finds. */
#ifndef MORTISE_CERTS_SECRETS_H
#define MORTISE_CERTS_SECRETS_H

#include "certs/seal.h"
#include "lib/base/faults.h"
#include "lib/base/options.h"

#define SECRETS_PREFIX "enc:"
#define SECRETS_BEGIN "enc:TVMx" /* how each begins: base64 of what a record begins with */
#define SECRETS_LABEL "mortise/enc/1"
#define SECRETS_KEY_MAX 4096 /* of a text that is a key or several */
#define SECRETS_COMMAND_MS 10000
#define SECRETS_WHY_MAX 512

/* Where a secret is, by the names of the flags: `name` "kek" stands for --kek-file, MORTISE_KEK and
 * --kek-command. All borrowed. */
struct secret_source {
    const char *name;
    const char *file;
    const char *value;
    const struct option_list *command; /* NULL or empty: none */
};

bool secret_source_is_given(const struct secret_source *source);
/* secret_source_check adds a fault when more than one is given, or a command has no path. False:
 * told. Starts and reads nothing. */
bool secret_source_check(const struct secret_source *source, struct faults *faults);
/* secret_source_read appends the text of the one that is given (CHECKed), at most `max` bytes;
 * what is encrypted is opened. On error `why` says what is wrong, "NAME: …", without the secret.
 * Errors: those of file_read_private, of command_read, and of secrets_open. */
MUST_CHECK err_t secret_source_read(const struct secret_source *source, size_t max, struct buf *out,
                                    char why[SECRETS_WHY_MAX]);
/* secret_source_keys reads one key or several as seal_keys_parse has them. */
MUST_CHECK err_t secret_source_keys(const struct secret_source *source, struct seal_keys *out,
                                    char why[SECRETS_WHY_MAX]);

/* secrets_use says with which keys encrypted values are opened from now on. A variable is parsed
 * now; a file is read whenever a value is opened, so that other keys need no restart; a command is
 * run when the first is opened, and its keys are kept. The three settings are called
 * "secrets-key". `--secrets-key-file` itself may not be encrypted. Called again, it takes the place
 * of the one before, once its keys are read: one that has none leaves that in force, as do the same
 * file, the same command, and a source that gives nothing. False: a fault is told. */
bool secrets_use(const struct secret_source *source, struct faults *faults);
/* secrets_keys copies them. Errors: SECRET_KEY, with `why`. */
MUST_CHECK err_t secrets_keys(struct seal_keys *out, char why[SECRETS_WHY_MAX]);
/* secrets_end wipes the keys. */
void secrets_end(void);

bool secrets_is_encrypted(struct bytes text);
/* secrets_close appends `plain` as such a value. */
MUST_CHECK err_t secrets_close(const struct seal_key *key, struct bytes plain, struct buf *out);
/* secrets_open appends what is in the value `text`, white space behind it allowed. On error `why`
 * says what is wrong: names of keys, never a value. Errors: SECRET_KEY, SECRET_BROKEN. */
MUST_CHECK err_t secrets_open(struct bytes text, struct buf *out, char why[SECRETS_WHY_MAX]);
/* secrets_open_with is the same by given keys. */
MUST_CHECK err_t secrets_open_with(const struct seal_keys *keys, struct bytes text, struct buf *out,
                                   char why[SECRETS_WHY_MAX]);
/* secrets_name is the name of the key that a value was closed with, "?" when it is none. */
void secrets_name(struct bytes text, char out[SEAL_NAME]);

/* secrets_read_file is file_read_private; if the content is an encrypted value, it gives what is in
 * it. Errors: also those of secrets_open, with `why`, which is empty for the others. */
MUST_CHECK err_t secrets_read_file(const char *path, size_t max, struct buf *out,
                                   char why[SECRETS_WHY_MAX]);
/* secrets_open_str puts what is in it in the place of the owned string `*value`, which is wiped, if
 * it is encrypted. `path` is for the fault. False: told. */
bool secrets_open_str(char **value, const char *path, struct faults *faults);

#endif
