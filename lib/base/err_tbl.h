/* X(CODE, FAULT, "text"): every error of the project. Included several times; no guard.
 * `sub` is noted where it is not 0. */
X(AGAIN, NONE, "would block")
/* general */
X(BUG, BUG, "internal error")
X(NO_MEMORY, SYSTEM, "out of memory")
X(LIMIT, PEER, "a limit was exceeded")
X(TIMEOUT, PEER, "a deadline passed")
X(CANCELLED, NONE, "cancelled")
X(CLOSED, PEER, "connection closed")
X(SYNTAX, PEER, "malformed input")        /* sub: byte offset where known */
X(TOO_LARGE, PEER, "larger than allowed") /* sub: the limit */
X(NOT_FOUND, OPERATOR, "not found")
X(EXISTS, OPERATOR, "exists already")
X(TOO_LATE, OPERATOR, "too late for that")
X(CONFIG_INVALID, OPERATOR, "configuration is not valid") /* sub: number of faults */
X(PERMISSION, OPERATOR, "permission denied")
/* system calls; sub: errno */
X(IO, SYSTEM, "input or output failed")
X(FILE_OPEN, OPERATOR, "cannot open file")
X(FILE_UNSAFE, OPERATOR, "file is readable by others")
X(COMMAND_START, OPERATOR, "cannot start the command") /* sub: errno */
X(COMMAND_FAILED, OPERATOR, "the command failed")      /* sub: exit status, or minus the signal */
X(FD_EXHAUSTED, SYSTEM, "no file descriptor left")
X(ADDR_IN_USE, OPERATOR, "address is in use")
X(ADDR_SYNTAX, OPERATOR, "not an address")
X(CONNECT_REFUSED, PEER, "connection refused")
X(CONNECT_TIMEOUT, PEER, "connecting took too long")
X(CONNECT_FAILED, PEER, "cannot connect")
X(RESOLVE_FAILED, PEER, "name cannot be resolved")
X(PEER_RESET, PEER, "connection reset by peer")
/* TLS */
X(TLS_PROTOCOL, PEER, "TLS protocol error") /* sub: BoringSSL reason */
X(TLS_ALERT, PEER, "TLS alert received")    /* sub: alert */
X(TLS_NOT_TLS, PEER, "not TLS")
X(TLS_TRUNCATED, PEER, "closed without close_notify")
X(TLS_NO_SHARED, PEER, "no shared version, cipher suite or group") /* sub: BoringSSL reason */
X(TLS_SNI_UNKNOWN, PEER, "server name selects no link")
X(TLS_CONFIG, OPERATOR, "TLS settings are not usable")
X(TLS_KEY_UPDATES, PEER, "too many key updates")
X(HANDSHAKE_TIMEOUT, PEER, "TLS handshake took too long")
/* identity and certificates */
X(PEM_SYNTAX, OPERATOR, "not valid PEM")
X(PEM_EMPTY, OPERATOR, "no PEM block of the wanted kind")
X(KEY_SYNTAX, OPERATOR, "not a private key")
X(KEY_ENCRYPTED, OPERATOR, "private key is encrypted: one without a passphrase is wanted")
X(KEY_WEAK, PEER, "key is too weak or of a kind not allowed") /* sub: bits */
X(KEY_REUSED, PEER, "key is not a fresh one")
X(CSR_SYNTAX, PEER, "not a valid certificate request")
X(CSR_SIGNATURE, PEER, "certificate request is not signed by its key")
X(CERT_SYNTAX, PEER, "not a valid certificate")
X(CERT_EXPIRED, PEER, "certificate expired")                /* sub: seconds since */
X(CERT_NOT_YET_VALID, PEER, "certificate is not yet valid") /* sub: seconds until */
X(CERT_MISSING, PEER, "peer sent no certificate")
X(CERT_USAGE, PEER, "certificate is not for this use")
X(CERT_WEAK_SIGNATURE, PEER, "certificate is signed with a weak algorithm")
X(CHAIN_UNTRUSTED, PEER, "certificate chain leads to no trusted root") /* sub: X509_V_ERR */
X(CHAIN_INVALID, PEER, "certificate chain is not valid")               /* sub: X509_V_ERR */
X(CHAIN_TOO_LONG, PEER, "certificate chain is too long")
X(SAN_NONE, PEER, "certificate has no identity")
X(SAN_MULTIPLE, PEER, "certificate has more than one URI identity")
X(SAN_TOO_MANY, PEER, "certificate has more names than allowed") /* sub: how many */
X(SAN_SYNTAX, PEER, "certificate identity is not a SPIFFE ID")
X(SPIFFE_SYNTAX, OPERATOR, "not a SPIFFE ID")
X(TRUST_DOMAIN, PEER, "identity is of another trust domain")
X(PEER_IDENTITY, PEER, "peer is not the one expected")
X(PEER_DENIED, PEER, "no link allows this peer")
X(POLICY_DENIED, PEER, "a policy denies this peer")
X(PEER_REVOKED, PEER, "peer is revoked")
X(PEER_EXPIRED, PEER, "peer's certificate expired while the connection lived")
X(MAX_AGE, OPERATOR, "connection reached the age that its profile allows")
X(POLICY_CHANGED, OPERATOR, "policy allows this connection no longer")
X(TRUST_CHANGED, OPERATOR, "the peer's CA is trusted no longer")
X(CRL_SYNTAX, OPERATOR, "not a valid certificate revocation list")
X(CRL_DELTA, OPERATOR, "revocation list is a delta: the whole list is wanted")
X(CRL_INDIRECT, OPERATOR, "revocation list speaks for certificates of other issuers")
X(CRL_PARTIAL, OPERATOR, "revocation list is for some of its issuer's certificates only")
X(CRL_EXTENSION, OPERATOR, "revocation list has an unknown critical extension") /* sub: NID */
X(CRL_ENDLESS, OPERATOR, "revocation list does not say when the next one comes (nextUpdate)")
X(CRL_SERIAL, OPERATOR, "revocation list names a serial number that no certificate may have")
X(CRL_ISSUER, OPERATOR, "revocation list is of an unknown issuer")
X(CRL_SIGNATURE, OPERATOR, "revocation list is not signed by the CA that it names")
X(CRL_NOT_YET_VALID, OPERATOR, "revocation list is of the future") /* sub: seconds until */
X(CRL_STALE, OPERATOR, "revocation list is stale: its nextUpdate has passed") /* sub: seconds */
X(CRL_MISSING, OPERATOR, "no revocation list of an issuer of the peer's certificate")
X(SVID_KEY_MISMATCH, OPERATOR, "certificate and key do not belong together")
X(SVID_MISSING, SYSTEM, "no certificate yet")
X(BUNDLE_EMPTY, OPERATOR, "trust bundle holds no CA certificate")
/* HTTP/2, gRPC, HTTP/1.1 */
X(HTTP1_SYNTAX, PEER, "malformed HTTP request")
X(HTTP1_HEAD_TOO_LARGE, PEER, "HTTP request head is too large")
X(HTTP1_STATUS, PEER, "HTTP answer is another than 200") /* sub: status */
X(H2_PROTOCOL, PEER, "HTTP/2 protocol error")            /* sub: nghttp2 error */
X(H2_FLOOD, PEER, "HTTP/2 flood")
X(H2_GOAWAY, PEER, "HTTP/2 connection is going away")
X(H2_STREAM_RESET, PEER, "HTTP/2 stream reset") /* sub: HTTP/2 error code */
X(GRPC_FRAME, PEER, "malformed gRPC frame")
X(GRPC_STATUS, PEER, "call failed") /* sub: gRPC status */
X(PB_SYNTAX, PEER, "malformed protobuf message")
X(PB_TOO_DEEP, PEER, "protobuf message is nested too deeply")
X(JSON_SYNTAX, OPERATOR, "not valid JSON")
X(YAML_SYNTAX, OPERATOR, "not valid YAML")
/* control plane */
X(TOKEN_UNKNOWN, PEER, "join token is unknown")
X(TOKEN_EXPIRED, PEER, "join token has expired")
X(TOKEN_USED, PEER, "join token was used by another key")
X(TOKEN_UNBOUND, PEER, "token of a service account that was not given to a pod")
X(REJOIN_UNKNOWN, PEER, "certificate is not on record")
X(REJOIN_REPLACED, PEER, "certificate has been renewed: its successor may come back, not it")
X(REJOIN_LATE, PEER, "certificate expired too long ago to come back with it") /* sub: seconds */
X(PROOF_INVALID, PEER, "request is not signed by the last certificate's key")
X(JWKS_SYNTAX, OPERATOR, "not a valid key set (JWKS)")
X(JWKS_EMPTY, OPERATOR, "key set has no key that can be used") /* sub: that were left out */
X(JWT_SYNTAX, PEER, "not a token (JWT)")
X(JWT_ALGORITHM, PEER, "token's algorithm is not allowed")
X(JWT_CRITICAL, PEER, "token's header has to be understood, and is not")
X(JWT_TYPE, PEER, "token is of another kind")
X(JWT_KEY_UNKNOWN, PEER, "token is signed with a key that its issuer does not publish")
X(JWT_SIGNATURE, PEER, "token's signature is wrong")
X(JWT_CLAIM, PEER, "token lacks a claim, or has one of another type")
X(JWT_ISSUER, PEER, "token is of another issuer")
X(JWT_AUDIENCE, PEER, "token is for somebody else")
X(JWT_EXPIRED, PEER, "token has expired")            /* sub: seconds since */
X(JWT_NOT_YET_VALID, PEER, "token is not valid yet") /* sub: seconds until */
X(JWT_UNWANTED, PEER, "a token is not taken here")
X(RATE_LIMITED, PEER, "too many requests")
X(STORE_CORRUPT, SYSTEM, "store is corrupt")
X(STORE_UNWRITABLE, SYSTEM, "store cannot be written")
X(STORE_CONFLICT, OPERATOR, "changed by somebody else meanwhile")
X(AUDIT_MISSING, OPERATOR, "the store has no audit log") /* sub: 1: but parts of one */
X(AUDIT_FILE, OPERATOR, "does not end with a record of an audit log, and stays as it is")
X(STORE_SCHEMA, OPERATOR, "store was made by another version of the program") /* sub: its schema */
X(STORE_BUSY, OPERATOR, "store is in use by another process")
X(KEK_UNAVAILABLE, OPERATOR, "key-encryption key is missing or wrong")
X(SEAL_BROKEN, SYSTEM, "sealed record does not open")
X(SECRET_KEY, OPERATOR, "encrypted value is under a key that is not given")
X(SECRET_BROKEN, OPERATOR, "encrypted value does not open: changed or damaged")
X(CA_CANNOT_SIGN, SYSTEM, "CA cannot sign now")
X(ROOT_ELSEWHERE, OPERATOR, "the root's key is kept elsewhere")
X(CLOCK_BACKWARDS, SYSTEM, "clock is behind the last issuance")
/* sidecar */
X(CACHE_STALE, OPERATOR, "is not the cache that was written here last")
X(LOOP_DETECTED, OPERATOR, "connection to the sidecar itself")
X(NO_ENDPOINT, OPERATOR, "link has no endpoint")
X(NO_ROUTE, OPERATOR, "captured connection's destination is no link's")
X(NOT_READY, SYSTEM, "not ready")
X(UNSUPPORTED, OPERATOR, "the other program is too old for it")
X(PROBED, NONE, "a trial that an operator asked for, and it went well")
X(IDLE, NONE, "idle too long")
X(SLOW_PEER, PEER, "peer reads too slowly")
X(DRAINING, NONE, "draining")
X(OVERLOAD, SYSTEM, "connection limit reached")
