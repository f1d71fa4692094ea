/* X(REASON, "name"): why a connection ended; the names stand in the access log, in metric labels
 * and in docs/troubleshoot.md (test/lint/run compares). What is shed before it began has no reason
 * but is counted by its limit, see enum shed. Included several times; no guard. */
X(DONE, "done")                     /* both directions ended in order */
X(APP_RESET, "app_reset")           /* the local application aborted */
X(PEER_RESET, "peer_reset")         /* the other sidecar aborted, or the network did */
X(PEER_TRUNCATED, "peer_truncated") /* FIN without close_notify */
X(PEER_ALERT, "peer_alert")         /* the other side refused us, or gave up */
X(NOT_TLS, "not_tls")
X(TLS_FAILED, "tls_failed") /* protocol error, ours is the alert */
X(NO_SHARED_PARAMETERS, "no_shared_parameters")
X(PEER_CERTIFICATE, "peer_certificate") /* the certificate or its chain was refused */
X(PEER_IDENTITY, "peer_identity")       /* a good certificate of somebody else */
X(REVOKED, "revoked")                   /* the peer is, or it says that we are */
X(CRL_MISSING, "crl_missing") /* no revocation list of an issuer of the peer, where lists are */
X(CRL_STALE, "crl_stale")     /* there is one, but its nextUpdate has passed */
X(POLICY, "policy")   /* a policy denies the peer; or open when its link went, or named others */
X(TRUST, "trust")     /* open when its peer's CA left the truststore */
X(EXPIRED, "expired") /* open when its peer's certificate came to its end */
X(MAX_AGE, "max_age") /* as old as its profile allows */
X(SERVER_NAME, "server_name") /* selects no link */
X(HANDSHAKE_TIMEOUT, "handshake_timeout")
X(CONNECT_FAILED, "connect_failed")
X(CONNECT_TIMEOUT, "connect_timeout")
X(RESOLVE_FAILED, "resolve_failed")
X(NO_ENDPOINT, "no_endpoint")
X(NO_ROUTE, "no_route") /* captured, and where it was to go is no link's destination */
X(LOOP, "loop")
X(PROBE, "probe") /* a trial (mortisectl why): the handshake went well, and nothing was to follow */
X(IDLE, "idle")
X(STALLED, "stalled") /* the receiver took nothing for too long */
X(DRAINED, "drained") /* still open at the drain deadline */
X(SHUTDOWN, "shutdown")
X(RESOURCES, "resources") /* memory or descriptors */
X(INTERNAL, "internal")
