/* The settings of mortise-control, in the order of --help. Included several times; no guard.
 *
 * HEADING(text)
 * ROW(flag, KIND, field, default, minimum, maximum, flags, argument, help)
 * Each gives the flag --FLAG, the variable MORTISE_FLAG and the key FLAG (with _ for -) of the
 * settings file; `field` is its place in struct config. */
HEADING("Where things are")
ROW("config", STR, config_file, NULL, 0, 0, OPTION_FLAG_NO_FILE, "FILE",
    "A YAML map of the settings below. Relative names in it are relative to its folder.")
ROW("data-dir", STR, data_dir, NULL, 0, 0, OPTION_FLAG_REQUIRED, "DIR",
    "The folder of the store (store.db); private to this program's user.")
ROW("kek-file", STR, kek_file, NULL, 0, 0, 0, "FILE",
    "The key-encryption key under which the store is sealed: 32 bytes as 64 hexadecimal digits or "
    "base64; readable by its owner only. Of several, a key a line, the first seals and all open "
    "(mortisectl rotate key).")
ROW("kek", STR, kek, NULL, 0, 0, OPTION_FLAG_NO_ARGV, "KEY",
    "The same key instead of its file; it is wiped once it was read. In the file of settings only "
    "as an encrypted value (mortisectl encrypt).")
ROW("kek-command", LIST, kek_command, NULL, 0, 0, OPTION_FLAG_NO_FILE, "WORD",
    "The same key as a program prints it, of a key-management service for one: its path, then its "
    "arguments, each with the flag again. Without a shell, within 10 s, at the start only; what it "
    "prints is shown to nobody.")
ROW("check", BOOL, check, "false", 0, 0, OPTION_FLAG_NO_FILE, NULL,
    "Check the settings, print OK and end. The store is not opened.")

HEADING("Encrypted values (enc:, mortisectl encrypt)")
ROW("secrets-key-file", STR, secrets_key_file, NULL, 0, 0, 0, "FILE",
    "The keys that open encrypted values, as in --kek-file; read whenever one is opened.")
ROW("secrets-key", STR, secrets_key, NULL, 0, 0, OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE, "KEY",
    "The same keys instead of their file; wiped once they were read.")
ROW("secrets-key-command", LIST, secrets_key_command, NULL, 0, 0, OPTION_FLAG_NO_FILE, "WORD",
    "The same keys as a program prints them, as with --kek-command; run when the first value is "
    "opened.")

HEADING("The mesh")
ROW("trust-domain", STR, trust_domain, NULL, 0, 0, 0, "NAME",
    "SPIFFE trust domain of the mesh. Needed at the first start; later it must be the same.")
ROW("external-root", BOOL, external_root, "false", 0, 0, 0, NULL,
    "At the first start: make no root, its key is kept elsewhere. Sidecars are taken once "
    "`mortisectl "
    "ca csr` was signed by it and imported with `ca import`.")
ROW("listen", STR, listen, "0.0.0.0:15010", 0, 0, 0, "ADDR:PORT",
    "gRPC over TLS for sidecars and administrators.")
ROW("operator-socket", STR, operator_socket, NULL, 0, 0, 0, "PATH",
    "Unix socket of mortisectl, for this program's user and root. Default: operator.sock in the "
    "data "
    "folder.")

ROW("operator-socket-access", ENUM, operator_socket_access, "owner", 0, 0, 0, "owner|everyone",
    "Who may connect to it. Of everyone just those stay who have a role (mortisectl admin bind "
    "uid:1000 --role viewer); the socket's folder must let them in, too.")

ROW("elevation-approval", BOOL, elevation_approval, "false", 0, 0, 0, NULL,
    "An elevation (mortisectl elevate) begins when another administrator has approved it.")

HEADING("Administrators by token (OpenID Connect)")
ROW("oidc-issuer", STR, oidc_issuer, NULL, 0, 0, 0, "URL",
    "Who signs in with a token of this issuer is oidc:URL#SUB (mortisectl admin bind gives him a "
    "role). Byte by byte what the tokens say (iss). Default: no token is taken.")
ROW("oidc-audience", STR, oidc_audience, NULL, 0, 0, 0, "NAME",
    "What tokens for this control plane have as their audience (aud).")
ROW("oidc-keys-file", STR, oidc_keys_file, NULL, 0, 0, 0, "FILE",
    "The issuer's public keys (JWKS); read again whenever the file has changed.")
ROW("oidc-keys-url", STR, oidc_keys_url, NULL, 0, 0, 0, "URL",
    "Where they are fetched instead, over HTTPS (jwks_uri in the issuer's "
    ".well-known/openid-configuration). What a token says of that is not looked at.")
ROW("oidc-ca-file", STR, oidc_ca_file, NULL, 0, 0, 0, "FILE",
    "CAs (PEM) one of which has to vouch for that server. Default: those of the system.")
ROW("oidc-refresh", MS, oidc_refresh_ms, "5m", 5000, 86400000, 0, "TIME",
    "How often the keys are fetched. For a key that is not known, at once, but not more often than "
    "each minute, or than this where it is shorter.")
ROW("oidc-groups-claim", STR, oidc_groups_claim, "groups", 0, 0, 0, "NAME",
    "The claim with the groups of who signs in (oidc-group:URL#NAME). Empty: none.")

HEADING("Sidecars by the token of their pod (Kubernetes)")
ROW("kubernetes-issuer", STR, kubernetes_issuer, NULL, 0, 0, 0, "URL",
    "A pod with a service account token of this issuer gets the certificate of the subsystem of "
    "its namespace and service account. Byte by byte what the tokens say (kube-apiserver's "
    "--service-account-issuer). Default: no such token is taken.")
ROW("kubernetes-audience", STR, kubernetes_audience, "mortise", 0, 0, 0, "NAME",
    "The audience that these tokens are for (serviceAccountToken.audience of the pod's volume).")
ROW("kubernetes-namespace", LIST, kubernetes_namespace, NULL, 0, 0, 0, "NAME",
    "A namespace whose pods may be subsystems; needed with the issuer. Whoever can make pods "
    "there, "
    "under an account of his choice, is each subsystem of that namespace.")
ROW("kubernetes-keys-file", STR, kubernetes_keys_file, NULL, 0, 0, 0, "FILE",
    "The cluster's public keys (kubectl get --raw /openid/v1/jwks); read again whenever the file "
    "has changed.")
ROW("kubernetes-keys-url", STR, kubernetes_keys_url, NULL, 0, 0, 0, "URL",
    "Where they are fetched instead, over HTTPS, every five minutes.")
ROW("kubernetes-ca-file", STR, kubernetes_ca_file, NULL, 0, 0, 0, "FILE",
    "CAs (PEM) one of which has to vouch for that server. Default: those of the system.")

HEADING("Limits")
ROW("store-max-size", SIZE, store_max_size, "1g", 65536, 1099511627776, 0, "SIZE",
    "The store grows no larger; then changes are refused and what is in force goes on.")
ROW("max-connections", INT, max_connections, "4096", 1, 100000, 0, "N",
    "Connections over TLS at once; more are closed.")
ROW("max-handshakes", INT, max_handshakes, "512", 1, 100000, 0, "N",
    "TLS handshakes at once; more connections wait to be accepted.")
ROW("max-handshakes-per-source", INT, max_handshakes_per_source, "128", 1, 100000, 0, "N",
    "TLS handshakes at once of one source address (IPv6: of one /64); more are closed.")
ROW("handshake-timeout", MS, handshake_timeout_ms, "10s", 100, 300000, 0, "TIME",
    "A TLS handshake takes no longer.")
ROW("drain-timeout", MS, drain_timeout_ms, "5s", 0, 600000, 0, "TIME",
    "After SIGTERM, calls that are under way may take this time to end.")

HEADING("The audit log")
ROW("audit-file", STR, audit_file, NULL, 0, 0, 0, "FILE",
    "Records are appended to it, too, as JSON lines: for what carries them elsewhere. It may be "
    "renamed at any time, a new one is made then. What it has not is not removed from the store.")
ROW("audit-keep", INT, audit_keep, "250000", 100, 100000000, 0, "N",
    "So many records are kept in the store; the oldest go, a signed record says so.")
ROW("audit-keep-for", MS, audit_keep_ms, "9600h", 0, 315360000000, 0, "TIME",
    "Records older than this go, too, a thousand at a time. 0: only as many as audit-keep says.")

HEADING("The access logs of sidecars (settings.access_log of the mesh)")
ROW("access-log-dir", STR, access_log_dir, NULL, 0, 0, 0, "DIR",
    "What they send up is kept here, as lines of JSON in files access-NUMBER.jsonl. Default: "
    "access-log in the data folder.")
ROW("access-log-max-size", SIZE, access_log_max_size, "256m", 65536, 1099511627776, 0, "SIZE",
    "Those files together grow no larger: the oldest one goes.")
ROW("access-log-rate", INT, access_log_rate, "1000", 1, 10000, 0, "N",
    "Entries a second that one sidecar may send; what is more it throws away, and tells how many.")

HEADING("Administration")
ROW("admin-listen", STR, admin_listen, NULL, 0, 0, 0, "unix:PATH",
    "All administration pages, for the owner of the process and root. Default: none.")
ROW("metrics-listen", STR, metrics_listen, NULL, 0, 0, 0, "ADDR:PORT",
    "/livez, /readyz and /metrics over plain HTTP, read-only. Default: none.")
ROW("log-level", STR, log_level, "info", 0, 0, 0, "SPEC",
    "error, warn, info or debug; also by component: info,discovery=debug.")
ROW("log-format", ENUM, log_format, "text", 0, 0, 0, "text|json", "Form of log lines.")
