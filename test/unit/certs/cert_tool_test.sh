#!/bin/sh
# mortise-cert end to end, with OpenSSL as the judge of what it issues: chains verify, strictly and for
# both purposes; name constraints hold; keys are private; wrong arguments and bad files are told.
# Drives: R37, R41, R35.
set -eu

tool=$PWD/$1
work=${TEST_TMPDIR:-$(mktemp -d)}/cert_tool
mkdir -p "$work"
cd "$work"
rm -f ./*
failed=0

ok() {
    what=$1
    shift
    if ! "$@" >out 2>err; then
        echo "FAILED: $what"
        cat out err
        failed=1
    fi
}

# refused WHAT STATUS TEXT COMMAND...: it must end with that status and say TEXT
refused() {
    what=$1
    status=$2
    text=$3
    shift 3
    got=0
    "$@" >out 2>err || got=$?
    if [ "$got" != "$status" ] || ! grep -q -e "$text" err; then
        echo "FAILED: $what: status $got, expected $status and \"$text\""
        cat out err
        failed=1
    fi
}

verifies() {
    openssl verify -x509_strict -check_ss_sig -CAfile root.pem -untrusted "$1" -purpose "$2" "$1"
}

ok "new-root" "$tool" new-root --trust-domain example.org --cert root.pem --key root.key
ok "new-intermediate" "$tool" new-intermediate --issuer-cert root.pem --issuer-key root.key \
    --trust-domain example.org --cert ca.pem --key ca.key
ok "issue" "$tool" issue --issuer-cert ca.pem --issuer-key ca.key \
    --spiffe-id spiffe://example.org/ns/apim/sa/portal --dns portal.example.org \
    --cert portal.pem --key portal.key
for purpose in sslserver sslclient; do
    ok "openssl verifies for $purpose" verifies portal.pem "$purpose"
done
ok "openssl finds the key's certificate" sh -c \
    'test "$(openssl pkey -in portal.key -pubout)" = "$(openssl x509 -in portal.pem -noout -pubkey)"'
for key in root.key ca.key portal.key; do
    ok "$key is private" sh -c "test \"\$(stat -c %a $key)\" = 600"
done
openssl x509 -in portal.pem -noout -text >text
for word in 'URI:spiffe://example.org/ns/apim/sa/portal' 'DNS:portal.example.org' 'CA:FALSE' \
    'Digital Signature' 'TLS Web Server Authentication, TLS Web Client Authentication'; do
    ok "the leaf says $word" grep -q "$word" text
done
openssl x509 -in ca.pem -noout -text >text
for word in 'CA:TRUE, pathlen:0' 'Certificate Sign, CRL Sign' 'X509v3 Name Constraints: critical' \
    'URI:example.org'; do
    ok "the intermediate says $word" grep -q "$word" text
done

# A request of OpenSSL's: its key is taken, what it asks for is not.
ok "openssl req" openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout req.key \
    -out req.pem -subj "/CN=evil" -addext "subjectAltName=URI:spiffe://example.org/ns/apim/sa/evil" \
    -addext "basicConstraints=critical,CA:TRUE"
ok "issue for a request" "$tool" issue --issuer-cert ca.pem --issuer-key ca.key --csr req.pem \
    --spiffe-id spiffe://example.org/ns/apim/sa/good --cert good.pem
ok "openssl verifies that" verifies good.pem sslclient
openssl x509 -in good.pem -noout -text >text
ok "the request's wishes are ignored" sh -c '! grep -q -e evil -e CA:TRUE text'
ok "our requests are good for openssl" openssl req -in req.pem -noout -verify

# R41: what the stolen intermediate signs for another trust domain OpenSSL refuses too.
cat >ext <<'EOF'
subjectAltName = URI:spiffe://example.com/ns/apim/sa/portal
keyUsage = critical, digitalSignature
basicConstraints = critical, CA:FALSE
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
EOF
ok "openssl signs a stranger" openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -days 1 \
    -extfile ext -out stranger.pem
cat ca.pem >>stranger.pem
refused "a stranger's trust domain" 2 'permitted subtree violation' verifies stranger.pem sslclient

refused "another trust domain" 1 'trust_domain' "$tool" issue --issuer-cert ca.pem \
    --issuer-key ca.key --spiffe-id spiffe://example.com/a --cert no.pem --key no.key
ok "nothing was left behind" sh -c '! test -e no.pem && ! test -e no.key'
refused "a leaf as issuer" 1 'ca_cannot_sign' "$tool" issue --issuer-cert portal.pem \
    --issuer-key portal.key --spiffe-id spiffe://example.org/a --cert no.pem --key no.key
refused "the wrong key" 1 'ca_cannot_sign' "$tool" issue --issuer-cert ca.pem --issuer-key root.key \
    --spiffe-id spiffe://example.org/a --cert no.pem --key no.key
refused "a file that is there" 1 'exists' "$tool" new-root --trust-domain example.org \
    --cert root.pem --key root.key
chmod 644 ca.key
refused "a key that others can read" 1 'file_unsafe' "$tool" issue --issuer-cert ca.pem \
    --issuer-key ca.key --spiffe-id spiffe://example.org/a --cert no.pem --key no.key
refused "no issuer" 1 'no-such.pem' "$tool" new-intermediate --issuer-cert no-such.pem \
    --issuer-key root.key --trust-domain example.org --cert no.pem --key no.key
refused "a key in the place of a certificate" 1 'pem_empty' "$tool" new-intermediate \
    --issuer-cert root.key --issuer-key root.key --trust-domain example.org --cert no.pem --key no.key
refused "an intermediate of another trust domain" 1 'trust_domain' "$tool" new-intermediate \
    --issuer-cert root.pem --issuer-key root.key --trust-domain example.com --cert no.pem --key no.key
refused "an intermediate's key that is there" 1 'exists' "$tool" new-intermediate \
    --issuer-cert root.pem --issuer-key root.key --trust-domain example.org --cert no.pem --key root.key
chmod 600 ca.key
refused "a certificate as a request" 1 'pem_empty' "$tool" issue --issuer-cert ca.pem \
    --issuer-key ca.key --csr ca.pem --spiffe-id spiffe://example.org/a --cert no.pem
refused "a leaf's key that is there" 1 'exists' "$tool" issue --issuer-cert ca.pem \
    --issuer-key ca.key --spiffe-id spiffe://example.org/a --cert no.pem --key root.key
refused "a key and a request" 2 'one of --key and --csr' "$tool" issue --issuer-cert ca.pem \
    --issuer-key ca.key --csr req.pem --spiffe-id spiffe://example.org/a --cert no.pem --key no.key
refused "nobody" 2 '--spiffe-id or --dns' "$tool" issue --issuer-cert ca.pem --issuer-key ca.key \
    --cert no.pem --key no.key
refused "too many names" 2 'too many --dns' sh -c 'for i in $(seq 64); do set -- "$@" --dns "n$i"; done
    exec "$@"' sh "$tool" issue
ok "nothing was left behind by these, either" sh -c '! test -e no.pem && ! test -e no.key'
refused "no such file" 1 'file_open' "$tool" show missing.pem
refused "nothing to show" 2 'show needs files' "$tool" show
refused "one word too many" 2 'one argument too many: twice' "$tool" new-root twice
refused "no version" 2 'not a version' "$tool" profile --min TLS9
refused "no role" 2 '--role is client or server' "$tool" profile --role both
refused "no profile" 2 'no built-in profile is called' "$tool" profile --name none
refused "no PEM" 1 'pem_empty' "$tool" show ext
refused "no command" 2 'a command is missing' "$tool"
refused "an unknown command" 2 'no such command: sing' "$tool" sing
refused "an unknown option" 2 'unrecognized option' "$tool" issue --wish x
refused "a missing option" 2 'needs --trust-domain' "$tool" new-root
refused "no number" 2 '--ttl is a number' "$tool" new-root --trust-domain a --cert b --key c --ttl x
refused "a bad trust domain" 1 'spiffe_syntax' "$tool" new-root --trust-domain Example.org \
    --cert b --key c
refused "a bad suite" 1 'did you mean' "$tool" profile --suites TLS_AES_128_GCM_SHA25

ok "show" "$tool" show portal.pem portal.key req.pem
cp out shown
ok "it shows the identity" grep -q 'spiffe id: spiffe://example.org/ns/apim/sa/portal' shown
# B25: nothing of the private key is in what is shown.
ok "it shows no secret" sh -c 'for line in $(grep -v -e ----- portal.key); do
    ! grep -q -F -e "$line" shown || exit 1; done'
# What others made: a key of another kind, no name that would do here, something else altogether.
ok "openssl makes another" openssl req -x509 -newkey rsa:2048 -nodes -keyout rsa.key -out rsa.pem \
    -subj /CN=old -days 1
ok "openssl makes its public key" openssl pkey -in rsa.key -pubout -out rsa.pub
ok "show others'" "$tool" show rsa.pem rsa.pub
cp out others
ok "it shows an RSA key" grep -q 'RSA 2048' others
ok "it shows that there is no name" grep -q 'names: none that can be used (san_none)' others
ok "it shows what it does not know" grep -q 'PUBLIC KEY: [0-9]* bytes' others
ok "another root" "$tool" new-root --trust-domain example.org --cert root2.pem \
    --key root2.key
cp root2.pem before
ok "another one in its place" "$tool" new-root --trust-domain example.org --cert root2.pem --key root2.key --force
ok "it is another one" sh -c '! cmp -s root2.pem before'
ok "version" "$tool" --version
cp out version
ok "it says its name" grep -q '^mortise-cert ' version
ok "profile" "$tool" profile --name default-tls-server
ok "help" "$tool" --help

exit $failed
