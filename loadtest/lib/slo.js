// The numbers that the load scripts hold the deployment to. What is promised stands in objectives.json, from which the
// alerts and the dashboards have it too; what makes a run a measurement at all stands here. A run that misses one ends
// with a non-zero exit status.

const objectives = JSON.parse(open(import.meta.resolve('./objectives.json')));

function promised(name) {
  if (!(name in objectives)) throw new Error(`objectives.json promises no ${name}`);
  return objectives[name].number;
}

// How many posts a trending answer lists.
export const TRENDING_POSTS = 10;

// 95 of 100 hits answer within this time, at 300 arrivals a second on two cores that also run the load generator.
export const HIT_P95_MS = promised('trending_latency_bound') * 1000;

// What one answer costs Postgres. Medians, because a new connection or a health check adds a round-trip now and then.
export const DB_ROUND_TRIPS = {
  n_plus_one: promised('n_plus_one_db_round_trips'),
  preload: promised('preload_db_round_trips'),
  hit: promised('hit_db_round_trips'),
  event: promised('event_db_round_trips'),
};

// And what it costs Redis: medians, for the same reason.
export const REDIS_ROUND_TRIPS = {
  hit: promised('hit_redis_round_trips'),
  check: promised('ratelimit_redis_round_trips'),
  remembered: 0, // a denial that the replica remembers
};

// However many requests find the cache cold together, over all replicas so many of them run the query.
export const LEASE_FILLS = promised('trending_fills');

// Without protection every one of them runs it. `more than one` is the flaw; the table shows how many it really was.
export const TTL_FILLS_MORE_THAN = 1;

// A script asks for minutes and not for a month: the objective of all requests would excuse some of these, and there is
// nothing to excuse. No request of the spike or of the cold thousand fails.
export const FAILED = 0;

// A burst tests the stampede only while its query runs. A request that finds the answer already there came too late to
// count, so at most this share of the cold thousand may.
export const LATE_SHARE = 0.1;

// An open model must keep its pace to mean anything: at least this share of the planned arrivals is really sent.
export const ARRIVALS_SENT = 0.99;

// A hot answer that is computed anew only once could have been lucky.
export const RENEWALS = 2;

// What one buffered job over all 50,000 payments may cost either store. The job's own records are counted apart.
export const BUFFERED_ROUND_TRIPS = {
  db: promised('buffered_db_round_trips'),
  redis: promised('buffered_redis_round_trips'),
};

// What collecting in Redis is worth, against a round-trip for every row ...
export const BUFFERED_SPEEDUP = promised('buffered_speedup');

// ... and what it costs against the one statement that needs no Redis, which is the honest control.
export const BUFFERED_TO_SINGLE_STATEMENT = promised('buffered_to_single_statement');

// Of each hundred seeded payments: the ones that must not be marked, by the reason that a job gives. The three are the
// remainders of their ids (app/seed/payments.go).
export const DISAGREE = { amount: 20, currency: 50, missing: 80 };

// How often one caller may ask, whichever replica answers (RATELIMIT_LIMIT, RATELIMIT_WINDOW): never once more within
// any so many seconds.
export const LIMIT = { requests: promised('ratelimit_requests'), windowSeconds: promised('ratelimit_window') };

// A window that begins with the clock's minute lets a caller spend two limits around it. `more than one` is the flaw;
// the table shows how much it really was.
export const FIXED_WINDOW_MORE_THAN = LIMIT.requests;

// Somebody who asks far too often is refused from memory. Each replica must learn of it once, and a few requests are on
// their way by then.
export const DENIED_WITHOUT_REDIS = promised('ratelimit_denied_without_redis');

// Whoever keeps to the limit must not notice him: their p95 stays below so many times what it is without him. Generous,
// because he, they and the service share two cores: it is meant to notice a queue that he fills, not the load.
export const CITIZENS_P95_RATIO = 5;
