// The rate limit: how many requests of one caller get through around the end of a minute, by each strategy, and what
// callers who keep to their limit notice of one who does not.
//
//   k6 run loadtest/ratelimit.js                              against http://127.0.0.1:8080
//   BASE_URL=http://caddy:8080 TOKEN_SECRET=... k6 run ...    elsewhere, where tokens are signed with another secret
//   SCENARIO=abuser k6 run ...                                only a part (boundary, abuser or crowd)
//   RESULTS=/tmp/ratelimit.json k6 run ...                    the table's figures as JSON as well
//
// `boundary` is one user for each strategy, who asks far too often just before and just after a minute of the clock
// begins, and again when a minute has passed since. From the answers alone it finds the 60 seconds in which most were
// admitted. The minute is Redis's; a clock here that differs by less than a second does no harm. `abuser` compares the
// answer times of many good citizens, in turns, without and beside somebody who sends twice what they send together.
// `crowd` is many users at once, each of whom spends the last of his limit. The three have different users and, but for
// the few requests that `boundary` sends in the middle of its minute, take turns.
//
// It needs a deployment with DEMO=true, the default limit, and a Redis that answers a check within
// RATELIMIT_BUDGET: what is decided without it comes on top. It waits for the end of a minute; 70 s later it is done.

import { sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Gauge } from 'k6/metrics';
import { admitted, readable, row } from './lib/limiter.js';
import { SYSTEM_TAGS, TREND_STATS } from './lib/measure.js';
import { phasesOf } from './lib/phases.js';
import { failedChecks, figure, table, verdict, verdictTable } from './lib/report.js';
import { BASE_URL, mustBeReady, tagged } from './lib/request.js';
import * as slo from './lib/slo.js';
import { nextUser, user } from './lib/users.js';

const { begin, end } = phasesOf('ratelimit');

const SCENARIO = __ENV.SCENARIO || 'all';

const WINDOW = slo.LIMIT.windowSeconds * 1000;

// Setup leaves so much of the minute that the users of the boundary are there in time.
const LEAD_SECONDS = 5;

// Twice the limit in the two seconds before the minute, as much in the two after it. Until the window that begins with
// the first request has passed one asks now and then, so that nothing is missed, and then again as in the beginning.
const BOUNDARY = { strategies: ['fixed_window', 'exact'], before: 2000, after: 2000, rate: 100, between: 1 };

// The citizens' two phases take turns, so that whatever else the machine does hits both alike.
const CITIZENS = { rate: 100, turns: 4, seconds: 7, alone: 'citizens_alone', beside: 'citizens_beside_abuser' };
const ABUSER = { rate: 200 };
const CROWD = { users: 100, pauseSeconds: 0.15 };

// Where the boundary is crossed too, the others fit between its bursts.
const after = (seconds) => `${SCENARIO === 'all' ? LEAD_SECONDS + seconds : 0}s`;
const ONE = { executor: 'per-vu-iterations', vus: 1, iterations: 1, maxDuration: '60s' };
const SCENARIOS = {
  boundary: { ...ONE, exec: 'boundary', vus: BOUNDARY.strategies.length, maxDuration: '90s' },
  citizens: { ...ONE, exec: 'citizens', startTime: after(4) },
  abuser: { ...ONE, exec: 'abuser', startTime: after(4) },
  crowd: {
    executor: 'per-vu-iterations',
    exec: 'crowd',
    startTime: after(4 + CITIZENS.turns * CITIZENS.seconds + 1),
    vus: CROWD.users,
    iterations: slo.LIMIT.requests,
    maxDuration: '60s',
  },
};

// What runs, by SCENARIO, and what that measures.
const RUNS = {
  boundary: { scenarios: ['boundary'], phases: BOUNDARY.strategies },
  abuser: { scenarios: ['citizens', 'abuser'], phases: [CITIZENS.alone, CITIZENS.beside, 'abuser'] },
  crowd: { scenarios: ['crowd'], phases: ['crowd'] },
};
RUNS.all = {
  scenarios: Object.keys(SCENARIOS),
  phases: Object.values(RUNS).flatMap(({ phases }) => phases),
};

const citizensSent = slo.ARRIVALS_SENT * CITIZENS.rate * CITIZENS.seconds * (CITIZENS.turns / 2);
const nobodyDenied = (phase) => [{
  says: 'nobody is denied',
  metric: `limit_results{phase:${phase},result:denied}`, condition: 'count==0',
}, {
  says: 'and nobody failed',
  metric: `http_req_failed{phase:${phase}}`, condition: `rate<=${slo.FAILED}`,
}];

// What must hold, by phase: k6's metric and condition, and the same in words for the verdict.
const PROMISES = {
  fixed_window: [{
    says: 'a window that begins with the minute lets more than the limit through in 60 s',
    metric: 'worst_window{phase:fixed_window}', condition: `value>${slo.FIXED_WINDOW_MORE_THAN}`,
  }],
  exact: [{
    says: 'the exact one lets the limit through, and never one more',
    metric: 'worst_window{phase:exact}', condition: `value==${slo.LIMIT.requests}`,
  }, {
    says: 'and Redis was never too late to decide, or more would be let through',
    metric: 'degraded{phase:exact}', condition: 'rate==0',
  }],
  [CITIZENS.alone]: [...nobodyDenied(CITIZENS.alone), {
    says: 'the citizens kept their pace',
    metric: `http_reqs{phase:${CITIZENS.alone}}`, condition: `count>=${citizensSent}`,
  }],
  [CITIZENS.beside]: [...nobodyDenied(CITIZENS.beside), {
    says: 'the citizens kept their pace',
    metric: `http_reqs{phase:${CITIZENS.beside}}`, condition: `count>=${citizensSent}`,
  }, {
    says: 'and their p95 is so many times what it is without him',
    metric: 'citizens_p95_ratio', condition: `value<=${slo.CITIZENS_P95_RATIO}`,
  }],
  abuser: [{
    says: 'the abuser gets his limit and no more',
    metric: 'limit_results{phase:abuser,result:allowed}', condition: `count==${slo.LIMIT.requests}`,
  }, {
    says: 'and his denials ask nobody, not even Redis',
    metric: 'denied_without_redis{phase:abuser}', condition: `rate>=${slo.DENIED_WITHOUT_REDIS}`,
  }],
  crowd: [...nobodyDenied('crowd'), {
    says: 'each of the many users spends all of his limit',
    metric: 'limit_results{phase:crowd,result:allowed}', condition: `count==${CROWD.users * slo.LIMIT.requests}`,
  }, {
    says: 'for so many questions to Redis a request (median)',
    metric: 'redis_round_trips{phase:crowd,result:allowed}', condition: `med==${slo.REDIS_ROUND_TRIPS.check}`,
  }],
};
const EVERY_ANSWER = { says: 'every answer is consistent', metric: 'checks', condition: 'rate==1' };

const selected = RUNS[SCENARIO];
if (!selected) throw new Error(`SCENARIO=${SCENARIO}: there are ${Object.keys(RUNS).join(', ')}`);
const promises = selected.phases
  .flatMap((phase) => PROMISES[phase].map((promise) => ({ ...promise, phase })))
  .concat(EVERY_ANSWER);

export const options = {
  scenarios: Object.fromEntries(selected.scenarios.map((name) => [name, SCENARIOS[name]])),
  thresholds: thresholds(),
  summaryTrendStats: TREND_STATS,
  systemTags: SYSTEM_TAGS,
  setupTimeout: '120s',
};

function thresholds() {
  const byMetric = Object.assign({}, ...selected.phases.map(readable));
  for (const { metric, condition } of promises) byMetric[metric] = [condition];
  return byMetric;
}

const worst = new Gauge('worst_window');
const citizensP95Ratio = new Gauge('citizens_p95_ratio');

// Returns a name that no earlier run has used, so that every user of this one is new to the limiter.
export function setup() {
  mustBeReady();
  const { url, params } = asking('setup', nextUser(), 'exact');
  const answer = http.get(url, params);
  if (answer.status !== 200) {
    exec.test.abort(`a strategy was asked for, and answered with ${answer.status} ${answer.body}: `
      + 'this needs DEMO=true');
  }
  if (SCENARIO === 'all' || SCENARIO === 'boundary') waitForTheEndOfAMinute();
  return { run: `ratelimit-${Date.now()}` };
}

function waitForTheEndOfAMinute() {
  const seconds = (minuteAfter(Date.now() + LEAD_SECONDS * 1000) - Date.now()) / 1000 - LEAD_SECONDS;
  console.log(`waiting ${Math.ceil(seconds)} s for the end of a minute`);
  sleep(seconds);
}

function minuteAfter(time) {
  return Math.ceil(time / WINDOW) * WINDOW;
}

export async function boundary({ run }) {
  const strategy = BOUNDARY.strategies[exec.scenario.iterationInTest];
  const minute = minuteAfter(Date.now());
  const me = user(`${run}-${strategy}`);
  const got = [];
  const ask = async () => {
    const { url, params } = asking(strategy, me, strategy);
    const sent = Date.now();
    const response = await http.asyncRequest('GET', url, null, params);
    const received = Date.now();
    if (admitted(response, strategy)) got.push({ sent, received });
  };
  begin(strategy);
  const { before, after: beyond, rate, between } = BOUNDARY;
  await steadily(rate, minute - before, minute + beyond, ask);
  await steadily(between, minute + beyond, minute - 2 * before + WINDOW, ask);
  await steadily(rate, minute - 2 * before + WINDOW, minute + beyond + WINDOW, ask);
  end(strategy);
  worst.add(worstWindow(got), { phase: strategy });
}

// How many were admitted, at most, within one window. When the service admitted a request is not known here, only that
// it was between sending and receiving. So a window is full of those that were surely in it: from the first one sent
// to the last one received it took less than its length.
function worstWindow(got) {
  const within = (first) => got.filter(({ sent, received }) => sent >= first && received < first + WINDOW);
  return Math.max(0, ...got.map(({ sent }) => within(sent).length));
}

// One virtual user sends for all citizens, because only who has seen every answer can compare two percentiles.
export async function citizens() {
  const took = { [CITIZENS.alone]: [], [CITIZENS.beside]: [] };
  for (const { phase, from, until } of turns()) {
    begin(phase);
    await steadily(CITIZENS.rate, from, until, async () => {
      const { url, params } = asking(phase, nextUser());
      const response = await http.asyncRequest('GET', url, null, params);
      admitted(response, phase);
      took[phase].push(response.timings.duration);
    });
    end(phase);
  }
  citizensP95Ratio.add(p95(took[CITIZENS.beside]) / p95(took[CITIZENS.alone]));
}

export async function abuser({ run }) {
  const me = user(`${run}-abuser`);
  for (const { from, until } of turns().filter(({ phase }) => phase === CITIZENS.beside)) {
    begin('abuser');
    await steadily(ABUSER.rate, from, until, async () => {
      const { url, params } = asking('abuser', me);
      admitted(await http.asyncRequest('GET', url, null, params), 'abuser');
    });
    end('abuser');
  }
}

// The turns from now on: the citizens alone, then beside the abuser, and so on.
function turns() {
  const now = Date.now();
  const length = CITIZENS.seconds * 1000;
  return Array.from({ length: CITIZENS.turns }, (_, i) => ({
    phase: i % 2 === 0 ? CITIZENS.alone : CITIZENS.beside,
    from: now + i * length,
    until: now + (i + 1) * length,
  }));
}

// Asks so many times a second from one time to another, however long the answers take, and returns when all are there.
async function steadily(perSecond, from, until, ask) {
  const asked = [];
  for (let due = from; due < until; due += 1000 / perSecond) {
    const wait = due - Date.now();
    if (wait > 0) await new Promise((resolve) => { setTimeout(resolve, wait); });
    asked.push(ask());
  }
  await Promise.all(asked);
}

let me = null;
export function crowd({ run }) {
  if (exec.scenario.iterationInTest === 0) begin('crowd');
  if (me === null) me = user(`${run}-crowd-${exec.vu.idInTest}`);
  const { url, params } = asking('crowd', me);
  admitted(http.get(url, params), 'crowd');
  sleep(CROWD.pauseSeconds);
}

export function teardown() {
  if (selected.phases.includes('crowd')) end('crowd');
}

// The cheapest thing that is limited: it asks no store but for the limit.
function asking(phase, authorization, strategy) {
  const params = tagged('GET /', { phase }, authorization);
  if (strategy) params.headers['X-RateLimit-Strategy'] = strategy;
  params.responseCallback = http.expectedStatuses(200, 429);
  return { url: `${BASE_URL}/`, params };
}

function p95(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.ceil(0.95 * sorted.length) - 1];
}

export function handleSummary(data) {
  const value = (name) => (data.metrics[name] ? data.metrics[name].values.value : null);
  const rows = selected.phases.map((phase) => [phase, {
    ...row(data, phase),
    worst_window: BOUNDARY.strategies.includes(phase) ? value(`worst_window{phase:${phase}}`) : null,
  }]);
  const ran = rows.filter(([, { requests }]) => requests > 0).map(([phase]) => phase);
  if (ran.length === 0) return { stdout: '\nNothing was measured: k6 names the reason beside this line.\n' };

  const verdicts = promises.map((promise) => verdict(data, promise, !promise.phase || ran.includes(promise.phase)));
  const results = {
    script: 'ratelimit',
    phases: Object.fromEntries(rows),
    citizens_p95_ratio: value('citizens_p95_ratio'),
    thresholds_passed: verdicts.every(({ holds }) => holds),
  };
  const output = { stdout: ['', summary(rows), '', verdictTable(verdicts), ...failedChecks(data), ''].join('\n') };
  if (__ENV.RESULTS) output[__ENV.RESULTS] = `${JSON.stringify(results, null, 2)}\n`;
  return output;
}

function summary(rows) {
  const headings = ['phase', 'requests', 'failed', 'admitted', 'denied', 'worst 60 s', 'p50 ms', 'p95 ms', 'p99 ms',
    'Redis trips/admitted', 'Redis trips/denied', 'denied without Redis'];
  return table(headings, rows.map(([phase, r]) => [
    phase, figure(r.requests), figure(r.failed), figure(r.admitted), figure(r.denied), figure(r.worst_window),
    figure(r.p50_ms, 1), figure(r.p95_ms, 1), figure(r.p99_ms, 1), figure(r.redis_round_trips_median_admitted),
    figure(r.redis_round_trips_median_denied),
    r.denied_without_redis === null ? '-' : `${figure(100 * r.denied_without_redis, 1)} %`,
  ]), 1);
}
