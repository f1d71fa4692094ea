/* probe_port: the address by which a sidecar sees that capture works (rules.h). */
#ifndef MORTISE_PROXY_REDIRECT_PROBE_PORT_H
#define MORTISE_PROXY_REDIRECT_PROBE_PORT_H

#define REDIRECT_PROBE_PORT 15999 /* on 127.0.0.1 and ::1; nobody listens there */

#endif
