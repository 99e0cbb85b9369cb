// Where the requests of every script go, what each carries, and what must be so before the first.

import exec from 'k6/execution';
import http from 'k6/http';
import { traceparent } from './trace.js';
import { nextUser } from './users.js';

export const BASE_URL = (__ENV.BASE_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');

// The parameters of a request: somebody who asks, a trace of its own, and a name that keeps one time series a route
// whatever the id or the query.
export function tagged(name, tags = {}, authorization = nextUser()) {
  return {
    headers: { traceparent: traceparent(), Authorization: authorization },
    tags: { name, ...tags },
    timeout: '60s',
  };
}

// Refuses to start, in one sentence, where the run could only end in a thousand failures.
export function mustBeReady() {
  const ready = http.get(`${BASE_URL}/readyz`, tagged('GET /readyz'));
  if (ready.status === 0) exec.test.abort(`nothing answers at ${BASE_URL} (${ready.error}): start it, or set BASE_URL`);
  if (ready.status !== 200) exec.test.abort(`${BASE_URL} is not ready: /readyz says ${ready.status} ${ready.body}`);
  const known = http.get(`${BASE_URL}/`, tagged('GET /'));
  if (known.status === 401) exec.test.abort(`our token is refused (${known.body}): TOKEN_SECRET must be the service's`);
}
