/* The settings of mortise-proxy, in the order of --help. Included several times; no guard.
 *
 * HEADING(text)
 * ROW(flag, KIND, field, default, minimum, maximum, flags, argument, help)
 * Each gives the flag --FLAG, the variable MORTISE_FLAG and, in the static file, settings.flag;
 * `field` is its place in struct config. Ranges hold for INT and MS (milliseconds). */
HEADING("Where the configuration comes from (one of the two)")
ROW("config", STR, config_file, NULL, 0, 0, OPTION_FLAG_NO_FILE, "FILE",
    "Static mode: a sidecar configuration in YAML or JSON. It and the files it names are read "
    "again "
    "when they change, and on SIGHUP.")
ROW("control", STR, control, NULL, 0, 0, OPTION_FLAG_NO_FILE, "HOST:PORT",
    "The control plane that gives this sidecar its certificate and its configuration.")
ROW("check", BOOL, check, "false", 0, 0, OPTION_FLAG_NO_FILE, NULL,
    "Check the settings and, in static mode, the configuration with all its files; print OK and "
    "end.")

HEADING("With a control plane")
ROW("trust-domain", STR, trust_domain, NULL, 0, 0, OPTION_FLAG_NO_FILE, "NAME",
    "The mesh's SPIFFE trust domain; the control plane must be spiffe://NAME/mortise/control.")
ROW("trust-bundle", STR, trust_bundle, NULL, 0, 0, OPTION_FLAG_NO_FILE, "FILE",
    "The mesh's root certificates (PEM), for the first contact.")
ROW("join-token-file", STR, join_token_file, NULL, 0, 0, OPTION_FLAG_NO_FILE, "FILE",
    "One-time join token; readable by its owner only. Read at each attempt to join.")
ROW("join-token", STR, join_token, NULL, 0, 0, OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE, "TOKEN",
    "The join token itself, as MORTISE_JOIN_TOKEN; it is wiped once it was used.")
ROW("service-account-token-file", STR, service_account_token_file, NULL, 0, 0, OPTION_FLAG_NO_FILE,
    "FILE",
    "Instead of a join token: the token that the platform gives to this workload, as Kubernetes "
    "does "
    "to a pod (a projected service account token for the control plane's audience). Read at each "
    "attempt; good for as long as the platform says.")
ROW("identity", STR, identity, NULL, 0, 0, OPTION_FLAG_NO_FILE, "SPIFFE-ID",
    "Who this sidecar must be: a certificate or a cache of another identity is refused. Default: "
    "who the join token is for.")
ROW("cache-dir", STR, cache_dir, NULL, 0, 0, OPTION_FLAG_NO_FILE, "DIR",
    "A folder of this sidecar's own for its last good certificate and configuration, sealed, so "
    "that it can begin with them while the control plane is away. Default: none, all is in memory.")
ROW("cache-key-file", STR, cache_key_file, NULL, 0, 0, OPTION_FLAG_NO_FILE, "FILE",
    "The key of --cache-dir: 32 random bytes in hexadecimal or base64; readable by its owner only.")
ROW("keystore-dir", STR, keystore_dir, NULL, 0, 0, OPTION_FLAG_NO_FILE, "DIR",
    "A folder of this sidecar's own in which the control plane may name keystores, each a folder "
    "with tls.crt and tls.key (readable by its owner only), which are read again when they change. "
    "Default: none, and no file is read.")
ROW("advertise", STR, advertise, NULL, 0, 0, OPTION_FLAG_NO_FILE, "ADDR:PORT",
    "Where peers reach the inbound listener. Default: the address that leads to the control plane.")
ROW("inbound-listen", STR, inbound_listen, "0.0.0.0:15443", 0, 0, OPTION_FLAG_NO_FILE, "ADDR:PORT",
    "Where this sidecar takes mTLS from peers. In static mode inbound.listen of the file says it.")

ROW("cache-key", STR, cache_key, NULL, 0, 0, OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE, "KEY",
    "The same key instead of its file; it is wiped once it was read.")
ROW("cache-key-command", LIST, cache_key_command, NULL, 0, 0, OPTION_FLAG_NO_FILE, "WORD",
    "The same key as a program prints it, of a key-management service for one: its path, then its "
    "arguments, each with the flag again. Without a shell, within 10 s; what it prints is shown to "
    "nobody.")
ROW("capture-port", INT, capture_port, "0", 0, 65535, 0, "PORT",
    "Where captured connections arrive, on loopback (mortise-redirect: 15001). They go by the link "
    "that names their destination, or nowhere. 0: nothing is captured.")

HEADING("Encrypted values (enc:, mortisectl encrypt) in files that are keys or tokens")
ROW("secrets-key-file", STR, secrets_key_file, NULL, 0, 0, 0, "FILE",
    "The keys that open encrypted values, a key a line: 32 bytes as 64 hexadecimal digits or "
    "base64; readable by its owner only; read whenever a value is opened.")
ROW("secrets-key", STR, secrets_key, NULL, 0, 0, OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE, "KEY",
    "The same keys instead of their file; wiped once they were read.")
ROW("secrets-key-command", LIST, secrets_key_command, NULL, 0, 0, OPTION_FLAG_NO_FILE, "WORD",
    "The same keys as a program prints them, as with --cache-key-command; run when the first value "
    "is opened.")

HEADING("Traffic")
ROW("workers", INT, workers, "0", 0, 256, 0, "N",
    "Threads that carry traffic. 0: one on up to two cores, else one a core.")
ROW("max-connections", INT, max_connections, "16384", 1, 1000000, 0, "N",
    "Connections at once; more are reset.")
ROW("max-handshakes", INT, max_handshakes, "4096", 1, 1000000, 0, "N",
    "Inbound TLS handshakes at once; more are reset.")
ROW("max-handshakes-per-source", INT, max_handshakes_per_source, "1024", 1, 1000000, 0, "N",
    "Inbound TLS handshakes at once of one source address; more are reset.")
ROW("handshake-timeout", MS, handshake_timeout_ms, "10s", 100, 300000, 0, "TIME",
    "A TLS handshake takes no longer.")
ROW("connect-timeout", MS, connect_timeout_ms, "5s", 100, 300000, 0, "TIME",
    "Connecting takes no longer, all endpoints of a link together.")
ROW("idle-timeout", MS, idle_timeout_ms, "1h", 1000, 2592000000, 0, "TIME",
    "A connection without a byte in either direction is ended after this time.")
ROW("stall-timeout", MS, stall_timeout_ms, "30s", 1000, 86400000, 0, "TIME",
    "A connection whose receiver takes no byte of what waits for it is ended after this time.")
ROW("record-layer", ENUM, record_layer, "auto", 0, 0, 0, "auto|portable|library",
    "Who protects the records of TLS 1.3 between sidecars after the handshake. auto: our record "
    "layer with the "
    "fastest ciphers of this processor; portable: the same with BoringSSL's ciphers; library: "
    "BoringSSL's record layer. New connections obey.")
ROW("drain-timeout", MS, drain_timeout_ms, "30s", 0, 86400000, 0, "TIME",
    "After SIGTERM, open connections may go on for this time.")

HEADING("Administration")
ROW("admin-listen", STR, admin_listen, NULL, 0, 0, 0, "unix:PATH",
    "All administration pages, for the owner of the process and root. Default: none.")
ROW("metrics-listen", STR, metrics_listen, NULL, 0, 0, 0, "ADDR:PORT",
    "/livez, /readyz and /metrics over plain HTTP, read-only. Default: none.")
ROW("log-level", STR, log_level, "info", 0, 0, 0, "SPEC",
    "error, warn, info or debug; also by component: info,identity=debug.")
ROW("log-format", ENUM, log_format, "text", 0, 0, 0, "text|json",
    "Form of log lines and of the access log.")
ROW("access-log", STR, access_log, "-", 0, 0, 0, "FILE|-|off|syslog",
    "A line for each connection when it ends; - is standard output. A file is opened again on "
    "SIGHUP "
    "and when it was renamed. syslog is /dev/log; others are syslog:unix:PATH and "
    "syslog:udp://ADDRESS:PORT. A file and syslog: both, with a comma between them.")
ROW("access-log-facility", ENUM, access_log_facility, "daemon", 0, 0, 0,
    "user|daemon|local0|local1|local2|local3|local4|local5|local6|local7",
    "The facility of those lines at syslog.")
