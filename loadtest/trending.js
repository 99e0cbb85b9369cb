// The trending spike: what the same expensive question costs by each strategy, and what the protected one promises.
//
//   k6 run loadtest/trending.js                               against http://127.0.0.1:8080
//   BASE_URL=http://caddy:8080 SCENARIO=spike k6 run ...      elsewhere, and only a part (compare, spike or refresh)
//   RESULTS=/tmp/trending.json k6 run ...                     the table's figures as JSON as well
//   COMPARE_SECONDS=900 k6 run ...                            more patience on a slow machine
//   REFRESH_SECONDS=1500 SCENARIO=refresh k6 run ...          long enough for two refreshes at a TTL of ten minutes
//
// `spike` asks a protected, cold cache 300 times a second. `compare` then sends the same cold burst to each strategy,
// one after another, so that the difference is the strategy and nothing else, and ends with hits in turns with the rate
// limiter and without: what the limiter adds to an answer from memory. The spike goes first because its length is
// known; how long the naive strategies take is what the comparison finds out. `refresh` asks a hot answer steadily
// while it is computed anew, again and again, and counts who had to wait. It runs only when it is asked for, because it
// takes at least two TTLs: give the service a short one (TRENDING_TTL=12s), or the script much time.
//
// It needs a deployment with DEMO=true and no other traffic: it forgets the cached answers.

import exec from 'k6/execution';
import http from 'k6/http';
import { secondsFresh } from './lib/answer.js';
import { observed, readable, record, row, SYSTEM_TAGS, TREND_STATS } from './lib/measure.js';
import { phasesOf } from './lib/phases.js';
import { failedChecks, figure, table, verdict, verdictTable } from './lib/report.js';
import { BASE_URL, mustBeReady, tagged } from './lib/request.js';
import * as slo from './lib/slo.js';

const { begin, end } = phasesOf('trending');

const SCENARIO = __ENV.SCENARIO || 'all';
const COMPARE_SECONDS = Number(__ENV.COMPARE_SECONDS || 600);
const REFRESH_SECONDS = Number(__ENV.REFRESH_SECONDS || 30);

const SPIKE = { idleSeconds: 5, seconds: 20, rate: 300 };
const REFRESH = { seconds: REFRESH_SECONDS, rate: 50, observedPerSecond: 4 };

// The naive bursts are small on purpose: uncached, the query sustains little more than one answer a second.
const COMPARE = {
  alone: { strategy: 'preload', requests: 3 },
  n_plus_one: { strategy: 'n_plus_one', requests: 20 },
  preload: { strategy: 'preload', requests: 20 },
  ttl: { strategy: 'ttl', requests: 20 },
  lease: { strategy: 'lease', requests: 20 },
  lease_1000: { strategy: 'lease', requests: 1000 },
};

// Hits one at a time, so that each has the machine to itself, and in turns, so that whatever else the machine does hits
// both alike. `asks` is what a request asks of the rate limiter.
const HITS = 1500;
const LIMITER = {
  limiter_on: { strategy: 'lease', requests: HITS, asks: {} },
  limiter_off: { strategy: 'lease', requests: HITS, asks: { 'X-RateLimit-Strategy': 'off' } },
};

const SCENARIOS = {
  spike: {
    executor: 'constant-arrival-rate',
    exec: 'spike',
    startTime: `${SPIKE.idleSeconds}s`,
    rate: SPIKE.rate,
    duration: `${SPIKE.seconds}s`,
    // Everybody waits while the one query runs, so a second of it needs 300 users. All are made before, because making
    // one takes k6 longer than ten requests: a query that takes three seconds beside the load would lose the pace.
    preAllocatedVUs: 1200,
    maxVUs: 1200,
  },
  compare: {
    executor: 'per-vu-iterations',
    exec: 'compare',
    startTime: SCENARIO === 'compare' ? '0s' : `${SPIKE.idleSeconds + SPIKE.seconds + 5}s`,
    vus: 1,
    iterations: 1,
    maxDuration: `${COMPARE_SECONDS}s`,
    gracefulStop: '0s',
  },
  refresh: {
    executor: 'constant-arrival-rate',
    exec: 'refresh',
    rate: REFRESH.rate,
    duration: `${REFRESH.seconds}s`,
    preAllocatedVUs: 100,
    maxVUs: 400,
  },
  // One user beside them, because only somebody who sees every answer in turn can tell how often it changed.
  observe: {
    executor: 'constant-arrival-rate',
    exec: 'observe',
    rate: REFRESH.observedPerSecond,
    duration: `${REFRESH.seconds}s`,
    preAllocatedVUs: 1,
    maxVUs: 1,
  },
};

const PHASES = {
  compare: { ...COMPARE, ...LIMITER },
  spike: { spike: { strategy: 'lease', requests: SPIKE.rate * SPIKE.seconds } },
  refresh: { refresh: { strategy: 'lease', requests: REFRESH.rate * REFRESH.seconds } },
  observe: {}, // it is part of the phase that it observes
};

const RUNS = {
  all: ['compare', 'spike'],
  compare: ['compare'],
  spike: ['spike'],
  refresh: ['refresh', 'observe'],
};

// What must hold, by phase: k6's metric and condition, and the same in words for the verdict.
const PROMISES = {
  alone: [],
  n_plus_one: [{
    says: 'N+1 asks Postgres once for the list and once a post (median)',
    metric: 'db_round_trips{phase:n_plus_one}', condition: `med==${slo.DB_ROUND_TRIPS.n_plus_one}`,
  }],
  preload: [{
    says: 'preloading asks it twice (median)',
    metric: 'db_round_trips{phase:preload}', condition: `med==${slo.DB_ROUND_TRIPS.preload}`,
  }],
  ttl: [{
    says: 'an unprotected cache runs the query many times in a cold burst',
    metric: 'fills{phase:ttl}', condition: `count>${slo.TTL_FILLS_MORE_THAN}`,
  }],
  lease: [{
    says: 'the lease runs it once for the same burst',
    metric: 'fills{phase:lease}', condition: `count==${slo.LEASE_FILLS}`,
  }, {
    says: 'and fails nobody',
    metric: 'http_req_failed{phase:lease}', condition: `rate<=${slo.FAILED}`,
  }],
  lease_1000: [{
    says: 'the lease runs it once for a thousand',
    metric: 'fills{phase:lease_1000}', condition: `count==${slo.LEASE_FILLS}`,
  }, {
    says: 'and fails nobody',
    metric: 'http_req_failed{phase:lease_1000}', condition: `rate<=${slo.FAILED}`,
  }, {
    says: 'all thousand were sent',
    metric: 'http_reqs{phase:lease_1000}', condition: `count==${COMPARE.lease_1000.requests}`,
  }, {
    says: 'and hardly one came after the query had ended',
    metric: 'cache_results{phase:lease_1000,result:hit}',
    condition: `count<=${slo.LATE_SHARE * COMPARE.lease_1000.requests}`,
  }],
  limiter_on: [{
    says: 'a hit asks Redis for the answer, and once more for the limit (median)',
    metric: 'redis_round_trips{phase:limiter_on}',
    condition: `med==${slo.REDIS_ROUND_TRIPS.hit + slo.REDIS_ROUND_TRIPS.check}`,
  }],
  limiter_off: [{
    says: 'and where nothing is limited only for the answer (median)',
    metric: 'redis_round_trips{phase:limiter_off}', condition: `med==${slo.REDIS_ROUND_TRIPS.hit}`,
  }],
  spike: [{
    says: 'hits of the spike answer in time (ms)',
    metric: 'hit_duration{phase:spike}', condition: `p(95)<${slo.HIT_P95_MS}`,
  }, {
    says: 'and never ask Postgres (median)',
    metric: 'db_round_trips{phase:spike,result:hit}', condition: `med==${slo.DB_ROUND_TRIPS.hit}`,
  }, {
    says: 'there were hits to say this of',
    metric: 'cache_results{phase:spike,result:hit}', condition: 'count>0',
  }, {
    says: 'the cold start of the spike ran the query once',
    metric: 'fills{phase:spike}', condition: `count==${slo.LEASE_FILLS}`,
  }, {
    says: 'and nobody failed',
    metric: 'http_req_failed{phase:spike}', condition: `rate<=${slo.FAILED}`,
  }, {
    says: 'the spike kept its pace',
    metric: 'http_reqs{phase:spike}', condition: `count>=${slo.ARRIVALS_SENT * SPIKE.rate * SPIKE.seconds}`,
  }],
  refresh: [{
    says: 'a hot answer is computed anew more than once',
    metric: 'renewals{phase:refresh}', condition: `count>=${slo.RENEWALS}`,
  }, {
    says: 'and nobody waits for it: every answer is a fresh hit',
    metric: 'fresh_hit{phase:refresh}', condition: 'rate==1',
  }, {
    says: 'or fails',
    metric: 'http_req_failed{phase:refresh}', condition: `rate<=${slo.FAILED}`,
  }, {
    says: 'the load stayed steady',
    metric: 'http_reqs{phase:refresh}', condition: `count>=${slo.ARRIVALS_SENT * REFRESH.rate * REFRESH.seconds}`,
  }],
};
const EVERY_ANSWER = { says: 'every answer is consistent', metric: 'checks', condition: 'rate==1' };

const selected = RUNS[SCENARIO];
if (!selected) throw new Error(`SCENARIO=${SCENARIO}: there are ${Object.keys(RUNS).join(', ')}`);
const phases = Object.assign({}, ...selected.map((name) => PHASES[name]));
const promises = Object.keys(phases)
  .flatMap((phase) => PROMISES[phase].map((promise) => ({ ...promise, phase })))
  .concat(EVERY_ANSWER);

export const options = {
  scenarios: Object.fromEntries(selected.map((name) => [name, SCENARIOS[name]])),
  thresholds: thresholds(),
  summaryTrendStats: TREND_STATS,
  systemTags: SYSTEM_TAGS,
  // A burst is one http.batch: as wide as the widest phase, or k6 would queue what must arrive at once.
  batch: COMPARE.lease_1000.requests,
  batchPerHost: COMPARE.lease_1000.requests,
  setupTimeout: '90s',
};

function thresholds() {
  const byMetric = Object.assign({}, ...Object.keys(phases).map(readable));
  for (const { metric, condition } of promises) byMetric[metric] = [condition];
  return byMetric;
}

// The last step leaves the cache cold, which is how the spike wants it, or warm for the refresh.
export function setup() {
  mustBeReady();
  const answer = http.get(`${BASE_URL}/posts/trending?strategy=preload`, tagged('GET /posts/trending'));
  const chosen = answer.status === 200 ? answer.json('strategy') : `${answer.status} ${answer.body}`;
  if (chosen !== 'preload') {
    exec.test.abort(`?strategy=preload was answered with ${chosen}: this needs DEMO=true`);
  }
  const posts = answer.json('posts').length;
  if (posts < slo.TRENDING_POSTS) exec.test.abort(`only ${posts} posts are trending: load the data with \`app seed\``);
  forget();
  if (selected.includes('refresh')) warm();
}

// Without a refresh nobody waits for one, so a run in which none can fall would prove nothing.
function warm() {
  const answer = http.get(`${BASE_URL}/posts/trending?strategy=lease`, tagged('GET /posts/trending'));
  const freshFor = secondsFresh(answer);
  if (freshFor === null) exec.test.abort(`the first answer says nothing of its TTL: ${answer.status} ${answer.body}`);
  if (slo.RENEWALS * freshFor > REFRESH.seconds) {
    exec.test.abort(`skipped: an answer stays fresh for ${freshFor} s, so ${slo.RENEWALS} refreshes do not fall into `
      + `${REFRESH.seconds} s. Start the service with TRENDING_TTL=12s, or set REFRESH_SECONDS`);
  }
}

export function spike() {
  if (exec.scenario.iterationInTest === 0) begin('spike');
  const { url, params } = question('spike', 'lease');
  record(http.get(url, params), 'spike', 'lease');
}

export function refresh() {
  if (exec.scenario.iterationInTest === 0) begin('refresh');
  const { url, params } = question('refresh', 'lease');
  record(http.get(url, params), 'refresh', 'lease');
}

export function observe() {
  const { url, params } = question('refresh', 'lease');
  const response = http.get(url, params);
  record(response, 'refresh', 'lease');
  observed(response, 'refresh');
}

// One virtual user sends every burst and waits for its last answer before the next, so Postgres is idle in between.
// The connections are opened before: a thousand at once take half a second, which would blur the burst.
export function compare() {
  end('spike');
  const { alone, ...bursts } = COMPARE;
  begin('alone');
  for (let i = 0; i < alone.requests; i++) {
    const { url, params } = question('alone', alone.strategy);
    record(http.get(url, params), 'alone', alone.strategy);
  }
  end('alone');
  for (const [phase, { strategy, requests }] of Object.entries(bursts)) {
    http.batch(Array.from({ length: requests }, () => ['GET', `${BASE_URL}/healthz`, null, tagged('GET /healthz')]));
    forget();
    const burst = Array.from({ length: requests }, () => question(phase, strategy));
    begin(phase);
    for (const response of http.batch(burst)) record(response, phase, strategy);
    end(phase);
  }
  priceOfTheLimiter();
}

function priceOfTheLimiter() {
  const phases = Object.entries(LIMITER);
  for (const [phase] of phases) begin(phase);
  for (let i = 0; i < HITS; i++) {
    for (const [phase, { strategy, asks }] of phases) {
      const { url, params } = question(phase, strategy);
      Object.assign(params.headers, asks);
      record(http.get(url, params), phase, strategy);
    }
  }
  for (const [phase] of phases) end(phase);
}

// Users who come at a rate end one by one, so nobody knows that he is the last: whoever comes next says that it is
// over.
export function teardown() {
  for (const phase of ['spike', 'refresh']) if (phase in phases) end(phase);
}

function question(phase, strategy) {
  return {
    method: 'GET',
    url: `${BASE_URL}/posts/trending?strategy=${strategy}`,
    params: tagged('GET /posts/trending', { phase, strategy }),
  };
}

function forget() {
  const response = http.del(`${BASE_URL}/posts/trending`, null, tagged('DELETE /posts/trending'));
  if (response.status !== 204) {
    exec.test.abort(`DELETE /posts/trending: ${response.status}, not 204: this needs DEMO=true`);
  }
}

export function handleSummary(data) {
  const rows = Object.entries(phases).map(([phase, { strategy }]) => [phase, row(data, phase, strategy)]);
  const ran = rows.filter(([, { requests }]) => requests > 0).map(([phase]) => phase);
  if (ran.length === 0) return { stdout: '\nNothing was measured: k6 names the reason beside this line.\n' };

  const verdicts = promises.map((promise) => verdict(data, promise, !promise.phase || ran.includes(promise.phase)));
  const results = {
    script: 'trending',
    phases: Object.fromEntries(rows),
    thresholds_passed: verdicts.every(({ holds }) => holds),
  };
  const unfinished = rows.some(([phase, { requests }]) => phase in PHASES.compare && requests < phases[phase].requests);
  const notes = failedChecks(data)
    .concat(unfinished ? `compare did not end within ${COMPARE_SECONDS} s: give it more by COMPARE_SECONDS` : []);
  const output = { stdout: ['', summary(rows), '', verdictTable(verdicts), ...notes, ''].join('\n') };
  if (__ENV.RESULTS) output[__ENV.RESULTS] = `${JSON.stringify(results, null, 2)}\n`;
  return output;
}

function summary(rows) {
  const headings = ['phase', 'strategy', 'requests', 'failed', 'p50 ms', 'p95 ms', 'p99 ms', 'hit ratio', 'waits',
    'DB trips/req', 'DB trips', 'fills'];
  return table(headings, rows.map(([phase, r]) => [
    phase, r.strategy, figure(r.requests), figure(r.failed), figure(r.p50_ms, 1), figure(r.p95_ms, 1),
    figure(r.p99_ms, 1), r.hit_ratio === null ? '-' : `${figure(100 * r.hit_ratio, 1)} %`, figure(r.waits),
    figure(r.db_round_trips_median), figure(r.db_round_trips_total), figure(r.fills),
  ]), 2);
}
