// One row of figures a reconcile job: records what a job says of itself when it is over, beside what Postgres says, and
// reads the rows back at the end of the run. A job's phase is its strategy.

import { check } from 'k6';
import { Counter, Gauge, Trend } from 'k6/metrics';
import { agreeing, disagreeing } from './payments.js';

const jobs = new Counter('jobs');
const jobSeconds = new Trend('job_seconds');
const jobPayments = new Gauge('job_payments');
const jobReconciled = new Gauge('job_reconciled');
const dbRoundTrips = new Trend('job_db_round_trips');
const redisRoundTrips = new Trend('job_redis_round_trips');
const bookkeeping = new Trend('job_bookkeeping_round_trips');
const beyondRows = new Trend('job_db_round_trips_beyond_rows');
const pendingThatAgree = new Trend('pending_that_agree');
const reconciledThatDisagree = new Trend('reconciled_that_disagree');

// Records a job that is over, and what GET /payments said then; whether it is a job that may be compared.
export function record(job, truth) {
  const tags = { phase: job.strategy };
  const { reconciled, ...byReason } = job.counts;
  const trips = job.round_trips;

  jobs.add(1, tags);
  jobSeconds.add(job.seconds, tags);
  jobPayments.add(job.total, tags);
  jobReconciled.add(reconciled, tags);
  dbRoundTrips.add(trips.postgres, tags);
  redisRoundTrips.add(trips.redis, tags);
  bookkeeping.add(trips.bookkeeping, tags);
  beyondRows.add(trips.postgres - job.examined - reconciled, tags);

  const wanted = disagreeing(job.total);
  return check(job, {
    'the job is done, at its first attempt': () => job.state === 'done' && job.attempts === 1,
    'it examined every payment': () => job.examined === job.total && job.progress === 1,
    'it found what disagrees, by reason': () => Object.keys(wanted).every((why) => byReason[why] === wanted[why]),
    'it counted as many as Postgres has marked': () => reconciled === agreeing(job.total)
      && truth.reconciled === reconciled,
    'Redis refused nothing': () => job.degraded === 0,
  }, tags);
}

// Records what GET /payments says: whether somebody was forgotten, and whether somebody was marked who must not be.
export function recordTruth(truth, tags) {
  pendingThatAgree.add(truth.pending_that_agree, tags);
  reconciledThatDisagree.add(truth.reconciled_that_disagree, tags);
}

// Returns the entries of `options.thresholds` that make a strategy's figures readable in handleSummary.
export function readable(strategy) {
  return Object.fromEntries(Object.values(slices(strategy)).map((name) => [name, []]));
}

function slices(strategy) {
  return {
    jobs: `jobs{phase:${strategy}}`,
    seconds: `job_seconds{phase:${strategy}}`,
    payments: `job_payments{phase:${strategy}}`,
    reconciled: `job_reconciled{phase:${strategy}}`,
    dbRoundTrips: `job_db_round_trips{phase:${strategy}}`,
    redisRoundTrips: `job_redis_round_trips{phase:${strategy}}`,
    bookkeeping: `job_bookkeeping_round_trips{phase:${strategy}}`,
  };
}

// Reads one strategy's row out of the data that k6 hands to handleSummary; null where there was no job. The time is the
// median of the jobs and a cost is the most that any of them had. `of` is how many payments there are.
export function row(data, strategy, of) {
  const names = slices(strategy);
  const values = (name) => (data.metrics[names[name]] || { values: {} }).values;
  const ran = values('jobs').count || 0;
  const stat = (name, which) => (ran > 0 ? values(name)[which] : null);

  const measured = {
    payments: stat('payments', 'value'),
    seconds: stat('seconds', 'med'),
    rows_per_second: ran > 0 ? values('payments').value / values('seconds').med : null,
    db_round_trips: stat('dbRoundTrips', 'max'),
    redis_round_trips: stat('redisRoundTrips', 'max'),
  };
  return {
    strategy,
    jobs: ran,
    ...measured,
    bookkeeping: stat('bookkeeping', 'max'),
    reconciled: stat('reconciled', 'value'),
    scaled: ran > 0 && measured.payments < of ? scaled(measured, of) : null,
  };
}

// What a job on a part of the payments would have cost on all of them, along a straight line: reckoned, not measured.
function scaled({ payments, seconds, rows_per_second: rate, db_round_trips: db, redis_round_trips: redis }, of) {
  const factor = of / payments;
  return {
    payments: of,
    seconds: seconds * factor,
    rows_per_second: rate,
    db_round_trips: Math.round(db * factor),
    redis_round_trips: Math.round(redis * factor),
  };
}
