/** What the client must know of routes before it sends anything. A test compares it with the OpenAPI document. */

const PUBLIC =
  /^\/(api\/v1\/(auth\/(register|login|refresh|email\/verify|password\/(forgot|reset))|subscription\/tiers)|health|openapi\.json|docs(\/.*)?|\.well-known\/jwks\.json|webhooks\/stripe)$/;
const CREATING =
  /^\/api\/v1\/(projects|subscription\/checkout|admin\/subscriptions|(?!(auth|user|projects|subscription|admin)(\/|$)).+)$/;

/** Whether a route needs no token; what it refuses says nothing of the session. */
export function isPublic(path: string): boolean {
  return PUBLIC.test(path);
}

/** Whether a POST honours an `Idempotency-Key`: some of the platform's own, and all that the gateway passes on, those that
 * an operator has added too. */
export function isCreating(path: string): boolean {
  return CREATING.test(path);
}
