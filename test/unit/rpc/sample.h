/* sample: a filled Sample message for the tests of lib/rpc. */
#ifndef MORTISE_TEST_UNIT_RPC_SAMPLE_H
#define MORTISE_TEST_UNIT_RPC_SAMPLE_H

#include "test/unit/rpc/sample.pb-c.h"

/* sample_full returns a message with every field set, and two more inside it. Static. */
const ProtobufCMessage *sample_full(void);

#endif
