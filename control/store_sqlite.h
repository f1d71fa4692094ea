/* store_sqlite is the embedded store: one SQLite file, one writer.
 *
 * Rollback journal, synchronous=EXTRA (FULL, and the folder is synced when the journal goes:
 * without that a power cut could bring a finished journal back and undo a commit that was
 * acknowledged), exclusive lock for the life of the process, removed bytes overwritten. A write or
 * sync that fails leaves what was before; after a failed sync nothing is written any more until a
 * restart, because nobody can say what the disk holds. Source: sqlite.org (atomiccommit, pragma);
 * reliability R54, F38-F40. */
#ifndef MORTISE_CONTROL_STORE_SQLITE_H
#define MORTISE_CONTROL_STORE_SQLITE_H

#include "control/store.h"

/* store_sqlite_open opens or makes `path` (mode 0600; the folder must exist), takes the lock and
 * checks the integrity of all of it. `max_bytes` bounds the file, 0: no bound. Errors: FILE_OPEN
 * (sub: errno), STORE_BUSY (another process has it), STORE_CORRUPT (sub: SQLite's code),
 * STORE_SCHEMA (sub: the version found), STORE_UNWRITABLE. */
MUST_CHECK err_t store_sqlite_open(const char *path, int64_t max_bytes, struct store **out);

/* store_sqlite_forget removes what is under `prefix` and is no part of the history: the revision
 * stays, nobody is told. For a store that nobody uses yet. Errors: STORE_UNWRITABLE, STORE_CORRUPT.
 */
MUST_CHECK err_t store_sqlite_forget(struct store *store, const char *prefix);

/* store_sqlite_version is the library's, "3.40.1". */
const char *store_sqlite_version(void);

#endif
