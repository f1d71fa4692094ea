/* version: of the product, the same for all its programs. */
#ifndef MORTISE_LIB_BASE_VERSION_H
#define MORTISE_LIB_BASE_VERSION_H

#define MORTISE_VERSION "0.1.0"
#define MORTISE_DATE "2026-11-23" /* of that version, for manual pages */

#endif
