/* What the audit log tells of. Included several times; no guard.
 *
 * X(NAME, word, method, what it says)
 * `method` is the call that asks for it: one that is refused is told of under this word. NULL:
 * there is none, or more than one word for it. */
X(CONTROL_CREATE, "control.create", NULL, "the mesh, its CA and this log were made")
X(CONTROL_START, "control.start", NULL, "the control plane has started")
X(CHECKPOINT, "checkpoint", NULL, "a signature over all that is before it")
X(AUDIT_EXPORT, "audit.export", "/mortise.v1.OperatorService/ExportAudit",
  "the log was exported; signed, the last record of the export")
X(AUDIT_PURGE, "audit.purge", "/mortise.v1.OperatorService/PurgeAudit",
  "the oldest records were removed; signed")
X(LOGIN, "login", NULL, "first call of an administrator's connection")
X(CALL, "call", NULL, "a call that its caller may not make")
X(MESH_APPLY, "mesh.apply", "/mortise.v1.OperatorService/Apply", "the mesh was changed")
X(MESH_ROLLBACK, "mesh.rollback", NULL, "the mesh went back to an earlier revision")
X(KEYSTORE_IMPORT, "keystore.import", "/mortise.v1.OperatorService/ImportKeystore",
  "a keystore was brought with its key, or replaced")
X(MESH_CHANGE, "mesh.change", NULL, "the control plane itself has changed the mesh")
X(TOKEN_CREATE, "token.create", "/mortise.v1.OperatorService/CreateToken", "a join token was made")
X(CERTIFICATE_ISSUE, "certificate.issue", "/mortise.v1.IdentityService/Attest",
  "a certificate was issued for a token or an expired certificate, or for the control plane")
X(CERTIFICATE_RENEW, "certificate.renew", "/mortise.v1.IdentityService/Renew",
  "a certificate was issued for the one before")
X(ADMIN_ISSUE, "admin.issue", "/mortise.v1.OperatorService/IssueAdmin",
  "an administrator's certificate was issued")
X(ADMIN_ROTATE, "admin.rotate", "/mortise.v1.OperatorService/RotateAdmin",
  "every administrator's certificate of before was refused")
X(ACCESS_BIND, "access.bind", "/mortise.v1.AccessService/Bind", "somebody was given a role")
X(ACCESS_UNBIND, "access.unbind", "/mortise.v1.AccessService/Unbind",
  "somebody's role was taken away")
X(ACCESS_ROLE, "access.role", "/mortise.v1.AccessService/SetRole", "a role was made, or changed")
X(ACCESS_ROLE_DELETE, "access.role_delete", "/mortise.v1.AccessService/DeleteRole",
  "a role was deleted")
X(ELEVATE, "elevate", "/mortise.v1.AccessService/Elevate",
  "somebody may do for a time what is refused otherwise, or asks for it")
X(ELEVATE_APPROVE, "elevate.approve", "/mortise.v1.AccessService/ApproveElevation",
  "another one has approved it")
X(ELEVATE_END, "elevate.end", "/mortise.v1.AccessService/EndElevation",
  "an elevation was ended before its time")
X(ADMIN_INVITE, "admin.invite", "/mortise.v1.AccessService/CreateLogin",
  "a one-time token for an administrator was made")
X(ADMIN_LOGIN, "admin.login", "/mortise.v1.AccessService/Login", "it was turned into a certificate")
X(CONTROL_ROTATE, "control.rotate", "/mortise.v1.OperatorService/RotateControl",
  "the control plane's own certificate was made anew")
X(ROTATE, "rotate", "/mortise.v1.OperatorService/Rotate", "sidecars have to renew")
X(REVOKE, "revoke", "/mortise.v1.OperatorService/Revoke", "an identity, key or CA was denied")
X(REVOKE_LIFT, "revoke.lift", "/mortise.v1.OperatorService/Lift", "it is let in again")
X(REVOKE_CHANGE, "revoke.change", NULL, "revocations of what has expired went")
X(ROOT_ROTATE, "root.rotate", "/mortise.v1.OperatorService/RotateRoot",
  "a rotation of the root was begun or turned back")
X(ISSUER_ROTATE, "issuer.rotate", NULL, "a rotation of the issuer was begun or turned back")
X(CA_CHANGE, "ca.change", NULL,
  "the control plane itself has changed its CA: a stage of a rotation")
X(CA_CSR, "ca.csr", "/mortise.v1.OperatorService/CreateCsr",
  "a certificate was asked of a root that is elsewhere")
X(CA_IMPORT, "ca.import", "/mortise.v1.OperatorService/ImportIssuer", "its answer was taken")
X(KEY_ROTATE, "key.rotate", "/mortise.v1.OperatorService/RotateKey",
  "the store is sealed anew under another key")
X(BACKUP, "backup", "/mortise.v1.OperatorService/Backup", "the store was copied")
X(RESTORE_ACCEPT, "restore.accept", "/mortise.v1.OperatorService/ConfirmRollback",
  "sidecars were made to obey an older store")
