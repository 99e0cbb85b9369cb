// One row of figures a phase: records what the rate limiter answers, and reads the rows back at the end of the run.

import { check } from 'k6';
import { Counter, Rate } from 'k6/metrics';
import { readFacts } from './answer.js';
import * as measure from './measure.js';
import { LIMIT } from './slo.js';

const limitResults = new Counter('limit_results');
const deniedWithoutRedis = new Rate('denied_without_redis');
const degraded = new Rate('degraded');

const POLICY = `"overall";q=${LIMIT.requests};w=${LIMIT.windowSeconds}`;
const SPENT = /^"overall";r=0;t=\d+$/;
const LEFT = /^"overall";r=\d+;t=\d+$/;

// Records one answer, and checks what must be true of every one; whether the request was admitted. Any status but 200
// and 429 is counted by k6 itself (http_req_failed), and admits nothing.
export function admitted(response, phase) {
  if (response.status !== 200 && response.status !== 429) return false;
  const allowed = response.status === 200;
  const facts = readFacts(response);
  const tags = { phase, result: allowed ? 'allowed' : 'denied' };
  limitResults.add(1, tags);
  measure.recordCost(facts, tags);
  degraded.add(facts.limit === 'fallback', { phase });
  if (!allowed) deniedWithoutRedis.add(facts.redisRoundTrips === 0, { phase });

  // Go's spelling of RateLimit and RateLimit-Policy, which k6 takes over.
  const { Ratelimit: left, 'Ratelimit-Policy': policy, 'Retry-After': retryAfter } = response.headers;
  check(response, {
    'every answer names the limit': () => policy === POLICY,
    'every answer says what is left of it': () => (allowed ? LEFT : SPENT).test(left),
    'a denial says when to come again': () => allowed
      || (Number(retryAfter) >= 1 && Number(retryAfter) <= LIMIT.windowSeconds),
  }, { phase });
  return allowed;
}

// Returns the entries of `options.thresholds` that make a phase's figures readable in handleSummary.
export function readable(phase) {
  return Object.fromEntries(Object.values(slices(phase)).map((name) => [name, []]).concat(
    Object.entries(measure.readable(phase)),
  ));
}

function slices(phase) {
  return {
    admitted: `limit_results{phase:${phase},result:allowed}`,
    denied: `limit_results{phase:${phase},result:denied}`,
    redisRoundTripsAdmitted: `redis_round_trips{phase:${phase},result:allowed}`,
    redisRoundTripsDenied: `redis_round_trips{phase:${phase},result:denied}`,
    deniedWithoutRedis: `denied_without_redis{phase:${phase}}`,
  };
}

// Reads one phase's row out of the data that k6 hands to handleSummary: null where there is no sample.
export function row(data, phase) {
  const names = slices(phase);
  const values = (name) => (data.metrics[names[name]] || { values: {} }).values;
  const count = (name) => values(name).count || 0;
  const { requests, failed, p50_ms, p95_ms, p99_ms } = measure.row(data, phase);
  return {
    requests,
    admitted: count('admitted'),
    denied: count('denied'),
    failed,
    p50_ms,
    p95_ms,
    p99_ms,
    redis_round_trips_median_admitted: count('admitted') > 0 ? values('redisRoundTripsAdmitted').med : null,
    redis_round_trips_median_denied: count('denied') > 0 ? values('redisRoundTripsDenied').med : null,
    denied_without_redis: count('denied') > 0 ? values('deniedWithoutRedis').rate : null,
  };
}
