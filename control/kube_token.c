#include "control/kube_token.h"

#include <string.h>

#include <jansson.h>

#include "lib/base/mem.h"

#define KUBE_NAME_MAX 253 /* RFC 1123 subdomain */
#define KUBE_UID_MAX 64
#define KUBE_SUBJECT "system:serviceaccount:"

bool kube_token_is(const char *text)
{
    const char *first = strchr(text, '.');

    return strncmp(text, "ey", 2) == 0 && first != NULL && strchr(first + 1, '.') != NULL;
}

/* Lower-case letters, digits, '-' and '.'; it becomes a part of a SPIFFE ID. */
static bool kube_is_name(const char *text)
{
    size_t len = strlen(text);

    return len > 0 && len <= KUBE_NAME_MAX &&
           strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == len && text[0] != '-' &&
           text[0] != '.' && text[len - 1] != '-' && text[len - 1] != '.';
}

static bool kube_is_uid(const char *text)
{
    size_t len = strlen(text);

    return len > 0 && len <= KUBE_UID_MAX &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static err_t kube_take(const json_t *object, const char *name, bool (*valid)(const char *text),
                       char **out)
{
    const json_t *value = json_object_get(object, name);

    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value) ||
        !valid(json_string_value(value)))
        return FAIL(JWT_CLAIM, 0);
    *out = mem_strdup(json_string_value(value));
    return OK;
}

static err_t kube_read(const json_t *claims, struct kube_token *out)
{
    const json_t *own = json_object_get(claims, "kubernetes.io");
    const json_t *account = json_object_get(own, "serviceaccount");
    const json_t *pod = json_object_get(own, "pod");
    const char *subject = json_string_value(json_object_get(claims, "sub"));
    CLEANUP(mem_freep) char *expected = NULL;

    TRY(kube_take(own, "namespace", kube_is_name, &out->namespace));
    TRY(kube_take(account, "name", kube_is_name, &out->service_account));
    expected = mem_printf(KUBE_SUBJECT "%s:%s", out->namespace, out->service_account);
    if (subject == NULL || strcmp(subject, expected) != 0)
        return FAIL(JWT_CLAIM, 0);
    if (pod == NULL)
        return FAIL(TOKEN_UNBOUND, 0);
    TRY(kube_take(pod, "name", kube_is_name, &out->pod));
    return kube_take(pod, "uid", kube_is_uid, &out->pod_uid);
}

err_t kube_token_read(struct bytes claims, struct kube_token *out)
{
    json_t *root = json_loadb((const char *)claims.ptr, claims.len, JSON_REJECT_DUPLICATES, NULL);
    err_t err;

    *out = (struct kube_token){.namespace = NULL};
    err = json_is_object(root) ? kube_read(root, out) : FAIL(JWT_SYNTAX, 0);
    json_decref(root);
    return err;
}

void kube_token_fini(struct kube_token *token)
{
    mem_free(token->namespace);
    mem_free(token->service_account);
    mem_free(token->pod);
    mem_free(token->pod_uid);
    *token = (struct kube_token){.namespace = NULL};
}
