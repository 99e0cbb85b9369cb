// Bearer tokens for the routes that ask for a scope: minted here, so that a script can be as many users as it likes.

import { hmac } from 'k6/crypto';
import { b64encode } from 'k6/encoding';

// The published secret of the demo deployments; any other deployment has its own.
const TOKEN_SECRET = __ENV.TOKEN_SECRET || 'demo-secret-for-127.0.0.1-only--never-use-elsewhere';

// Longer than any run.
const LIFETIME_SECONDS = 24 * 3600;

// Returns a JWT (HS256) for a user, with scopes separated by spaces: what follows `Bearer ` in an Authorization header.
export function token(user, scope) {
  const unsigned = [
    { alg: 'HS256', typ: 'JWT' },
    { sub: String(user), exp: Math.floor(Date.now() / 1000) + LIFETIME_SECONDS, scope },
  ].map((part) => b64encode(JSON.stringify(part), 'rawurl')).join('.');
  return `${unsigned}.${hmac('sha256', TOKEN_SECRET, unsigned, 'base64rawurl')}`;
}
