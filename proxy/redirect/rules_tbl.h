/* The settings of mortise-redirect, in the order of --help; columns as in proxy/config_tbl.h. Flags
 * alone: a variable that is meant for the sidecar must not weaken or undo the rules.
 * Included several times; no guard. */
HEADING("What to do (default: put the rules in force)")
ROW("check", BOOL, check, "false", 0, 0, OPTION_FLAG_NO_ENV, NULL,
    "Say whether the rules of these settings are in force, all of them and as they were made.")
ROW("dry-run", BOOL, dry_run, "false", 0, 0, OPTION_FLAG_NO_ENV, NULL, "Print the rules and end.")
ROW("remove", BOOL, remove, "false", 0, 0, OPTION_FLAG_NO_ENV, NULL, "Take the rules away.")

HEADING("The sidecar")
ROW("uid", LIST, uid, "1337", 0, 0, OPTION_FLAG_NO_ENV, "NUMBER",
    "The user whom the sidecar runs as, whose connections are not captured: nobody else may run "
    "as that.")
ROW("gid", LIST, gid, NULL, 0, 0, OPTION_FLAG_NO_ENV, "NUMBER", "The same by group.")
ROW("capture-port", INT, capture_port, "15001", 1, 65535, OPTION_FLAG_NO_ENV, "PORT",
    "Where the sidecar takes what is captured: its --capture-port.")
ROW("inbound-port", LIST, inbound_port, "15443", 0, 0, OPTION_FLAG_NO_ENV, "PORT",
    "Where the sidecar takes mTLS from peers, and whatever else of its own is open to others.")

HEADING("What leaves")
ROW("capture-cidr", LIST, capture_cidr, NULL, 0, 0, OPTION_FLAG_NO_ENV, "RANGE",
    "Only TCP connections to these addresses are captured, the mesh's own: 10.0.0.0/8, fd00::/8, "
    "or one address. Default: all.")
ROW("exclude-cidr", LIST, exclude_cidr, NULL, 0, 0, OPTION_FLAG_NO_ENV, "RANGE",
    "TCP connections to these addresses are left alone.")
ROW("exclude-port", LIST, exclude_port, NULL, 0, 0, OPTION_FLAG_NO_ENV, "PORT",
    "TCP connections to these ports are left alone.")
ROW("not-tcp", ENUM, not_tcp, "allow", 0, 0, OPTION_FLAG_NO_ENV, "allow|dns|deny",
    "What is not TCP cannot be carried. allow: it is left alone, in both directions; dns: only UDP "
    "to port 53 and its answers; deny: none. ICMP, and what stays on this host, always passes.")

HEADING("What arrives")
ROW("inbound", ENUM, inbound, "strict", 0, 0, OPTION_FLAG_NO_ENV, "strict|open",
    "strict: TCP from other hosts reaches --inbound-port and --open-port, and nothing else of this "
    "host; open: whatever listens.")
ROW("open-port", LIST, open_port, NULL, 0, 0, OPTION_FLAG_NO_ENV, "PORT",
    "A port that others may reach without mTLS, of a health check or of metrics.")
ROW("take-port", LIST, take_port, NULL, 0, 0, OPTION_FLAG_NO_ENV, "PORT:PORT",
    "What others send to the first port, the application's, arrives at the second, which is the "
    "permissive port of a link: mTLS and, as long as that lasts, plaintext.")

HEADING("This machine")
ROW("nft", STR, nft, "/usr/sbin/nft", 0, 0, OPTION_FLAG_NO_ENV, "FILE",
    "The program that talks to the kernel.")
