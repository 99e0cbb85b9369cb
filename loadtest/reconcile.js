// The write buffer: what reconciling the same payments costs by each strategy, and live events while they are flushed.
//
//   k6 run loadtest/reconcile.js                              against http://127.0.0.1:8080
//   BASE_URL=http://caddy:8080 TOKEN_SECRET=... k6 run ...    elsewhere, where tokens are signed with another secret
//   SCENARIO=compare SLOW_PAYMENTS=0 k6 run ...               a part of it; the slow strategies on all payments, too
//   SCENARIO=live LIVE_RATE=1000 LIVE_SECONDS=30 k6 run ...   more events, for longer
//   RESULTS=/tmp/reconcile.json k6 run ...                    the table's figures as JSON as well
//   COMPARE_SECONDS=900 k6 run ...                            more patience on a slow machine
//
// `live` sends one event a request, as a payment provider would, while every replica's flusher drains the buffer, and
// then waits until Postgres has marked every payment that was named and agrees. `compare` runs one job of each strategy
// after another on the same payments, from the same start. The slow strategies make a round-trip for every row, so they
// get only the first SLOW_PAYMENTS; the table scales them to all and says so. Those that take about a second run
// several times: the table has the median of their times.
//
// It needs a deployment with DEMO=true and no other traffic: it makes every payment pending
// again.

import { check, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Gauge, Rate } from 'k6/metrics';
import { readFacts } from './lib/answer.js';
import * as jobs from './lib/jobs.js';
import { readable, recordCost, row, SYSTEM_TAGS, TREND_STATS } from './lib/measure.js';
import { agreeing } from './lib/payments.js';
import { phasesOf } from './lib/phases.js';
import { failedChecks, figure, table, verdict, verdictTable } from './lib/report.js';
import { BASE_URL, mustBeReady, tagged } from './lib/request.js';
import * as slo from './lib/slo.js';

const { begin, end } = phasesOf('reconcile');

const SCENARIO = __ENV.SCENARIO || 'all';
const COMPARE_SECONDS = Number(__ENV.COMPARE_SECONDS || 300);
const SLOW_PAYMENTS = Number(__ENV.SLOW_PAYMENTS || 5000);

const LIVE = {
  rate: Number(__ENV.LIVE_RATE || 300),
  seconds: Number(__ENV.LIVE_SECONDS || 20),
  drainSeconds: 30, // until the last event must be in Postgres: many times the age at which a flusher drains
};

// The last two run in turns, so that whatever the machine does meanwhile hits both alike. `limit` 0 is all payments.
const JOBS = 5;
const COMPARE = {
  n_plus_one: { limit: SLOW_PAYMENTS, jobs: 1 },
  batched_reads: { limit: SLOW_PAYMENTS, jobs: 1 },
  buffered: { limit: 0, jobs: JOBS },
  single_statement: { limit: 0, jobs: JOBS },
};
const TURNS = ['n_plus_one', 'batched_reads', ...Array(JOBS).fill(['buffered', 'single_statement']).flat()];

const SCENARIOS = {
  live: {
    executor: 'constant-arrival-rate',
    exec: 'live',
    rate: LIVE.rate,
    duration: `${LIVE.seconds}s`,
    preAllocatedVUs: 100,
    maxVUs: 600,
  },
  drain: {
    executor: 'per-vu-iterations',
    exec: 'drain',
    startTime: `${LIVE.seconds + 1}s`,
    vus: 1,
    iterations: 1,
    maxDuration: `${LIVE.drainSeconds + 10}s`,
  },
  compare: {
    executor: 'per-vu-iterations',
    exec: 'compare',
    startTime: SCENARIO === 'compare' ? '0s' : `${LIVE.seconds + 1}s`,
    vus: 1,
    iterations: 1,
    // A job that outlasts COMPARE_SECONDS is cancelled, and that must be seen to.
    maxDuration: `${COMPARE_SECONDS + LIVE.drainSeconds + 30}s`,
  },
};

// What runs, by SCENARIO, and what that measures. Where there is a comparison it waits for the live events itself.
const RUNS = {
  all: { scenarios: ['live', 'compare'], phases: ['live', ...Object.keys(COMPARE)] },
  compare: { scenarios: ['compare'], phases: Object.keys(COMPARE) },
  live: { scenarios: ['live', 'drain'], phases: ['live'] },
};

// Events that Redis did not take in time, so that they went to Postgres one by one: none, on a machine that keeps up.
const DIRECT = 'events{phase:live,path:direct}';

// What must hold, by phase: k6's metric and condition, and the same in words for the verdict.
const PROMISES = {
  live: [{
    says: 'every event is accepted',
    metric: 'events{phase:live,path:none}', condition: `count<=${slo.FAILED}`,
  }, {
    says: 'and they kept their pace',
    metric: 'http_reqs{phase:live}', condition: `count>=${slo.ARRIVALS_SENT * LIVE.rate * LIVE.seconds}`,
  }, {
    says: 'by Redis alone: a request does not ask Postgres (median)',
    metric: 'db_round_trips{phase:live}', condition: `med==${slo.DB_ROUND_TRIPS.event}`,
  }, {
    says: 'what was accepted and agrees is marked in Postgres: missing are',
    metric: 'events_lost{phase:live}', condition: 'value==0',
  }],
  n_plus_one: [{
    says: 'N+1 asks Postgres once a payment and once for each that agrees (round-trips beyond that)',
    metric: 'job_db_round_trips_beyond_rows{phase:n_plus_one}', condition: 'min>=0',
  }, {
    says: 'one job at a time: a second is refused, with the address of the first',
    metric: 'second_job_refused{phase:n_plus_one}', condition: 'rate==1',
  }],
  batched_reads: [],
  buffered: [{
    says: 'the buffer asks Postgres a few dozen times (at most)',
    metric: 'job_db_round_trips{phase:buffered}', condition: `max<=${slo.BUFFERED_ROUND_TRIPS.db}`,
  }, {
    says: 'and Redis about as often (at most)',
    metric: 'job_redis_round_trips{phase:buffered}', condition: `max<=${slo.BUFFERED_ROUND_TRIPS.redis}`,
  }, {
    says: 'it leaves nothing pending that agrees',
    metric: 'pending_that_agree{phase:buffered}', condition: 'max==0',
  }, {
    says: 'it is so many times as fast as N+1',
    metric: 'buffered_speedup_over_n_plus_one', condition: `value>=${slo.BUFFERED_SPEEDUP}`,
  }, {
    says: 'and takes so many times as long as a single statement',
    metric: 'buffered_ratio_to_single_statement', condition: `value<=${slo.BUFFERED_TO_SINGLE_STATEMENT}`,
  }],
  single_statement: [{
    says: 'the single statement leaves nothing pending that agrees',
    metric: 'pending_that_agree{phase:single_statement}', condition: 'max==0',
  }],
};
const EVERYWHERE = [
  { says: 'nothing is ever marked that disagrees', metric: 'reconciled_that_disagree', condition: 'max==0' },
  { says: 'every job and every answer is consistent', metric: 'checks', condition: 'rate==1' },
];

const selected = RUNS[SCENARIO];
if (!selected) throw new Error(`SCENARIO=${SCENARIO}: there are ${Object.keys(RUNS).join(', ')}`);
const compared = selected.phases.filter((phase) => phase in COMPARE);
const promises = selected.phases
  .flatMap((phase) => PROMISES[phase].map((promise) => ({ ...promise, phase })))
  .concat(EVERYWHERE);

export const options = {
  scenarios: Object.fromEntries(selected.scenarios.map((name) => [name, SCENARIOS[name]])),
  thresholds: thresholds(),
  summaryTrendStats: TREND_STATS,
  systemTags: SYSTEM_TAGS,
  setupTimeout: '90s',
};

function thresholds() {
  const byMetric = Object.assign({}, readable('live'), ...compared.map(jobs.readable));
  for (const name of ['payments_seeded', 'events_drained_seconds', DIRECT]) byMetric[name] = [];
  for (const { metric, condition } of promises) byMetric[metric] = [condition];
  return byMetric;
}

const seeded = new Gauge('payments_seeded');
const events = new Counter('events');
const eventsLost = new Gauge('events_lost');
const drainedSeconds = new Gauge('events_drained_seconds');
const secondJobRefused = new Rate('second_job_refused');
const speedup = new Gauge('buffered_speedup_over_n_plus_one');
const ratioToSingleStatement = new Gauge('buffered_ratio_to_single_statement');

// Returns how many payments there are, all of them pending.
export function setup() {
  mustBeReady();
  reset();
  const { pending } = truth();
  if (!pending) exec.test.abort('there are no payments: load the data with `app seed`');
  return { payments: pending };
}

export function live({ payments }) {
  const sent = exec.scenario.iterationInTest;
  if (sent === 0) begin('live');
  const id = (sent % payments) + 1;
  const response = http.post(`${BASE_URL}/payments/${id}/settled`, null,
    tagged('POST /payments/:id/settled', { phase: 'live' }));
  const path = response.status === 202 ? response.json('path') : 'none';
  events.add(1, { phase: 'live', path });
  if (path !== 'none') recordCost(readFacts(response), { phase: 'live' });
}

// Waits until Postgres has marked what it was told of, and records what is missing if it never has. Only the live
// events have run before it, so every iteration that has ended was one of them.
export function drain({ payments }) {
  end('live');
  const wanted = agreeing(Math.min(exec.instance.iterationsCompleted, payments));
  const started = Date.now();
  const seconds = () => (Date.now() - started) / 1000;
  let now = truth();
  while (now.reconciled < wanted && seconds() < LIVE.drainSeconds) {
    sleep(0.25);
    now = truth();
  }
  drainedSeconds.add(seconds());
  eventsLost.add(wanted - now.reconciled, { phase: 'live' });
  jobs.recordTruth(now, { phase: 'live' });
}

// One virtual user runs every job, waits for its end and asks Postgres, before the next starts from the same state.
export function compare({ payments }) {
  seeded.add(payments);
  if (selected.phases.includes('live')) drain({ payments });
  const deadline = Date.now() + COMPARE_SECONDS * 1000;
  const seconds = Object.fromEntries(compared.map((strategy) => [strategy, []])); // for all payments

  for (const strategy of TURNS) {
    reset();
    begin(strategy);
    const job = run(strategy, Math.min(COMPARE[strategy].limit, payments), deadline);
    end(strategy);
    if (!job) return;
    const now = truth();
    jobs.recordTruth(now, { phase: strategy });
    if (!jobs.record(job, now)) return;
    seconds[strategy].push(job.seconds * (payments / job.total));
  }
  speedup.add(median(seconds.n_plus_one) / median(seconds.buffered));
  ratioToSingleStatement.add(median(seconds.buffered) / median(seconds.single_statement));
}

// Runs one job to its end and returns what it says of itself then; null if it did not start or did not end in time.
function run(strategy, limit, deadline) {
  const response = order({ strategy, limit: limit || undefined }, strategy, 202);
  const started = check(response, {
    'a job is accepted, and says where it is': ({ status, headers }) => status === 202 && Boolean(headers.Location),
  }, { phase: strategy });
  if (!started) return null;
  const address = `${BASE_URL}${response.headers.Location}`;
  if (strategy === 'n_plus_one') startSecond(response.headers.Location);

  let job = response.json();
  while (['running', 'cancelling'].includes(job.state)) {
    if (Date.now() > deadline) {
      http.del(address, null, tagged('DELETE /reconcile/:id'));
      check(job, { [`the comparison ends within ${COMPARE_SECONDS} s (COMPARE_SECONDS)`]: () => false });
      return null;
    }
    sleep(0.25);
    const told = http.get(address, tagged('GET /reconcile/:id'));
    if (!check(told, { 'a job can be watched': ({ status }) => status === 200 }, { phase: strategy })) return null;
    job = told.json();
  }
  return job;
}

function startSecond(first) {
  const response = order({ strategy: 'buffered' }, 'n_plus_one', 409);
  secondJobRefused.add(response.status === 409 && response.headers.Location === first, { phase: 'n_plus_one' });
}

// Asks for a job; any status but the expected one counts as a failure.
function order(job, phase, expected) {
  const params = tagged('POST /reconcile', { phase });
  params.headers['Content-Type'] = 'application/json';
  params.responseCallback = http.expectedStatuses(expected);
  return http.post(`${BASE_URL}/reconcile`, JSON.stringify(job), params);
}

// Makes every payment pending again.
function reset() {
  const response = http.del(`${BASE_URL}/reconcile`, null, tagged('DELETE /reconcile'));
  switch (response.status) {
    case 204: return;
    case 409: exec.test.abort(`a job is running: wait for its end, or cancel it (${response.headers.Location})`); break;
    default:
      exec.test.abort(`DELETE /reconcile: ${response.status}, not 204: this needs DEMO=true`);
  }
}

// What Postgres has, counted now.
function truth() {
  const response = http.get(`${BASE_URL}/payments`, tagged('GET /payments'));
  if (response.status !== 200) exec.test.abort(`GET /payments: ${response.status} ${response.body}`);
  return response.json();
}

function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function handleSummary(data) {
  const value = (name) => (data.metrics[name] ? data.metrics[name].values.value : null);
  const rows = compared.map((strategy) => jobs.row(data, strategy, value('payments_seeded')));
  const ran = rows.filter((r) => r.jobs > 0).map(({ strategy }) => strategy);
  const sent = selected.phases.includes('live') ? liveRow(data, value) : null;
  if (sent && sent.requests > 0) ran.push('live');
  if (ran.length === 0) {
    const why = failedChecks(data);
    return { stdout: ['', ...why, 'Nothing was measured: k6 names the reason beside this line.', ''].join('\n') };
  }

  const verdicts = promises.map((promise) => verdict(data, promise, !promise.phase || ran.includes(promise.phase)));
  const results = {
    script: 'reconcile',
    phases: Object.fromEntries(rows.map((r) => [r.strategy, r])),
    live: sent,
    buffered_speedup_over_n_plus_one: value('buffered_speedup_over_n_plus_one'),
    buffered_ratio_to_single_statement: value('buffered_ratio_to_single_statement'),
    thresholds_passed: verdicts.every(({ holds }) => holds),
  };
  const parts = [];
  if (sent) parts.push(liveSummary(sent));
  if (compared.length > 0) parts.push(comparison(rows));
  parts.push([verdictTable(verdicts), ...failedChecks(data)].join('\n'));
  const output = { stdout: `\n${parts.join('\n\n')}\n` };
  if (__ENV.RESULTS) output[__ENV.RESULTS] = `${JSON.stringify(results, null, 2)}\n`;
  return output;
}

function liveRow(data, value) {
  const r = row(data, 'live');
  return {
    requests: r.requests,
    failed: r.failed,
    direct: data.metrics[DIRECT].values.count || 0,
    seconds: LIVE.seconds,
    events_per_second: r.requests / LIVE.seconds,
    p50_ms: r.p50_ms,
    p95_ms: r.p95_ms,
    p99_ms: r.p99_ms,
    db_round_trips_total: r.db_round_trips_total,
    redis_round_trips_median: r.redis_round_trips_median,
    drained_seconds: value('events_drained_seconds'),
    lost: value('events_lost{phase:live}'),
  };
}

function liveSummary(r) {
  const headings = ['live events', 'failed', 'direct', 'events/s', 'p50 ms', 'p95 ms', 'p99 ms', 'DB trips',
    'Redis trips/event', 'marked after s', 'lost'];
  return table(headings, [[
    figure(r.requests), figure(r.failed), figure(r.direct), figure(r.events_per_second), figure(r.p50_ms, 1),
    figure(r.p95_ms, 1), figure(r.p99_ms, 1), figure(r.db_round_trips_total), figure(r.redis_round_trips_median),
    figure(r.drained_seconds, 1), figure(r.lost),
  ]], 0);
}

function comparison(rows) {
  const headings = ['strategy', 'jobs', 'payments', 'seconds', 'rows/s', 'DB round-trips', 'Redis round-trips',
    'bookkeeping'];
  const line = (name, count, r) => [
    name, figure(count), figure(r.payments), figure(r.seconds, 2), figure(r.rows_per_second),
    figure(r.db_round_trips), figure(r.redis_round_trips), figure(r.bookkeeping),
  ];
  const lines = rows.flatMap((r) => [
    line(r.strategy, r.jobs, r),
    ...(r.scaled ? [line(`  scaled to all ${r.scaled.payments}, not run`, null, r.scaled)] : []),
  ]);
  const notes = [
    'Seconds are the median of the jobs, round-trips the most of any. Bookkeeping is what a job\'s own record costs.',
  ];
  if (rows.some((r) => r.scaled)) {
    notes.push('What is scaled is reckoned along a straight line, and so is what is compared with it.');
  }
  return [table(headings, lines, 1), ...notes].join('\n');
}
