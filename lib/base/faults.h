/* faults collects everything that is wrong with an input, so that all of it is told at once:
 * "links[2].profile: no profile "x"; there are: default-tls-client, modern". */
#ifndef MORTISE_LIB_BASE_FAULTS_H
#define MORTISE_LIB_BASE_FAULTS_H

#include <stddef.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define FAULTS_MAX 64 /* more are counted, not kept */

struct fault {
    char *path;    /* "links[2].profile", "--workers", "mesh.yaml:12:3" */
    char *message; /* what is wrong and what would be right */
};

/* Zeroed memory is an empty list. */
struct faults {
    struct fault items[FAULTS_MAX];
    size_t num;   /* kept */
    size_t total; /* found */
};

void faults_fini(struct faults *faults);
/* faults_add copies path and the formatted message (cut at 512 bytes). */
void faults_add(struct faults *faults, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* faults_err is OK when there are none, else CONFIG_INVALID with sub = how many. */
err_t faults_err(const struct faults *faults);
/* faults_text appends a line each, "path: message\n". */
void faults_text(const struct faults *faults, struct buf *out);

/* fault_path builds paths while walking: push a field, an index; pop. */
struct fault_path {
    char text[512];
    size_t len;
};
size_t fault_path_field(struct fault_path *path, const char *name);
size_t fault_path_index(struct fault_path *path, size_t index);
/* fault_path_pop goes back to the length that the push returned. */
void fault_path_pop(struct fault_path *path, size_t mark);

#endif
