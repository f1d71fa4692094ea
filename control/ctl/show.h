/* show writes a message as JSON or YAML to standard output. */
#ifndef MORTISE_CONTROL_CTL_SHOW_H
#define MORTISE_CONTROL_CTL_SHOW_H

#include <protobuf-c/protobuf-c.h>

#include "control/ctl/ctl.h"

void show_message(int output, const ProtobufCMessage *msg);
/* show_line writes it as JSON in one line, without its end. */
void show_line(const ProtobufCMessage *msg);

#endif
