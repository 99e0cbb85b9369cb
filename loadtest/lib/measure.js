// One row of figures a phase: records what an answer says, and reads the rows back at the end of the run.
//
// k6 keeps one value a metric and a set of tags, and shows handleSummary only those sets that a threshold names. An
// empty list of thresholds names a set without promising anything, which is how a table by phase is possible at all.

import { check } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { readFacts, RESULTS } from './answer.js';
import { TRENDING_POSTS } from './slo.js';

const dbRoundTrips = new Trend('db_round_trips');
const redisRoundTrips = new Trend('redis_round_trips');
const hitDuration = new Trend('hit_duration', true);
const cacheResults = new Counter('cache_results');
const freshHit = new Rate('fresh_hit');
const fills = new Counter('fills');
const renewals = new Counter('renewals');

// The labels that somebody reads. Each further one is paid for with every sample, on the cores of the service. The
// group is always empty, and without it k6 does not say which check failed.
export const SYSTEM_TAGS = [
  'scenario', 'name', 'method', 'status', 'expected_response', 'error_code', 'check', 'group',
];

// The statistics that a row needs of every trend.
export const TREND_STATS = ['avg', 'min', 'med', 'p(95)', 'p(99)', 'max', 'count'];

// Records one answer of a phase, and checks what must be true of every answer at any speed. A failure is counted by k6
// itself (http_req_failed) and says nothing about the cache.
export function record(response, phase, strategy) {
  if (response.status !== 200) return;
  const facts = readFacts(response);
  const tags = { phase, strategy, result: facts.result || 'unknown' };

  recordCost(facts, tags);
  cacheResults.add(1, tags);
  // Whoever got something stale has waited a moment for something fresh; only a hit has waited for nothing.
  freshHit.add(facts.result === 'hit', tags);
  if (facts.result === 'hit') hitDuration.add(response.timings.duration, tags);
  // Whoever misses runs the query for all who wait; a strategy that bypasses the cache runs it every time.
  if (facts.result === 'miss' || facts.result === 'bypass') fills.add(1, tags);

  check(response, {
    'Cache-Status and Server-Timing agree': () => facts.consistent,
  }, { phase, strategy });

  // Parsing a body costs more than the service spends on a hit, on the same cores. Hits all come from one stored value,
  // so one in ten of them is read.
  if (facts.result === 'hit' && Math.random() >= 0.1) return;
  const body = response.json();
  check(response, {
    'the strategy asked for answered': () => body.strategy === strategy,
    'ten posts, best first': () => body.posts.length === TRENDING_POSTS && isSortedByScore(body.posts),
  }, { phase, strategy });
}

// Records what any answer cost the stores.
export function recordCost({ dbRoundTrips: db, redisRoundTrips: redis }, tags) {
  if (db !== null) dbRoundTrips.add(db, tags);
  if (redis !== null) redisRoundTrips.add(redis, tags);
  check(null, { 'round-trips are stated': () => db !== null && redis !== null }, { phase: tags.phase });
}

// Counts how often the answer was computed anew, as one observer sees it: for one virtual user, who asks often enough
// to miss none.
let lastMade = null;
export function observed(response, phase) {
  if (response.status !== 200) return;
  const made = response.json('generated_at');
  if (lastMade !== null && made !== lastMade) renewals.add(1, { phase });
  lastMade = made;
}

function isSortedByScore(posts) {
  return posts.every((post, i) => i === 0 || posts[i - 1].score >= post.score);
}

// Returns the entries of `options.thresholds` that make a phase's figures readable in handleSummary.
export function readable(phase) {
  return Object.fromEntries(Object.values(slices(phase)).map((name) => [name, []]));
}

function slices(phase) {
  const results = RESULTS.map((result) => [result, `cache_results{phase:${phase},result:${result}}`]);
  return {
    requests: `http_reqs{phase:${phase}}`,
    failed: `http_req_failed{phase:${phase}}`,
    answered: `http_req_duration{phase:${phase},expected_response:true}`,
    hitDuration: `hit_duration{phase:${phase}}`,
    fills: `fills{phase:${phase}}`,
    renewals: `renewals{phase:${phase}}`,
    dbRoundTrips: `db_round_trips{phase:${phase}}`,
    dbRoundTripsOfHits: `db_round_trips{phase:${phase},result:hit}`,
    redisRoundTrips: `redis_round_trips{phase:${phase}}`,
    ...Object.fromEntries(results),
  };
}

// Reads one phase's row out of the data that k6 hands to handleSummary: durations in milliseconds over the answers
// (a request that failed has none), null where there is no sample.
export function row(data, phase, strategy) {
  const names = slices(phase);
  const values = (name) => (data.metrics[names[name]] || { values: {} }).values;
  const count = (name) => values(name).count || 0;
  const stat = (name, which) => (count(name) > 0 ? values(name)[which] : null);

  const answers = count('answered');
  return {
    strategy,
    requests: count('requests'),
    failed: values('failed').passes || 0,
    p50_ms: stat('answered', 'med'),
    p95_ms: stat('answered', 'p(95)'),
    p99_ms: stat('answered', 'p(99)'),
    max_ms: stat('answered', 'max'),
    hits: count('hit'),
    waits: count('wait'),
    stale: count('stale'),
    misses: count('miss'),
    bypass: count('bypass'),
    errors: count('error'),
    hit_p50_ms: stat('hitDuration', 'med'),
    hit_p95_ms: stat('hitDuration', 'p(95)'),
    hit_p99_ms: stat('hitDuration', 'p(99)'),
    hit_ratio: answers > 0 ? (count('hit') + count('stale')) / answers : null,
    fills: count('fills'),
    renewals: count('renewals'),
    db_round_trips_total: count('dbRoundTrips') > 0
      ? Math.round(values('dbRoundTrips').avg * count('dbRoundTrips'))
      : null,
    db_round_trips_median: stat('dbRoundTrips', 'med'),
    db_round_trips_median_hit: stat('dbRoundTripsOfHits', 'med'),
    redis_round_trips_median: stat('redisRoundTrips', 'med'),
  };
}
