// What the service itself says about an answer, read from the response headers. Thresholds on these facts hold whatever
// the machine's speed is: a laptop may be slow, but a hit that asks Postgres is wrong everywhere.

// How each result of the cache (the `desc` of Server-Timing) must look in Cache-Status (RFC 9211). Two headers that are
// written by different lines of code and must tell the same story.
const CACHE_STATUS = {
  hit: /; hit(?!.*detail=stale)/,
  stale: /; hit;.*detail=stale/,
  miss: /; fwd=miss(?!.*(collapsed|detail=error))/,
  wait: /; fwd=miss; collapsed/,
  bypass: /; fwd=bypass/,
  error: /; fwd=miss; detail=error/,
};

// The bounded set of results, for tags and tables.
export const RESULTS = Object.keys(CACHE_STATUS);

// Reads `limit;desc="redis", cache;desc="hit";dur=0.412, redis;desc="2 round-trips";dur=0.310, db;desc="0 round-trips"`.
// Returns { limit, result, redisRoundTrips, dbRoundTrips, consistent }, of which the first says who decided about the
// limit (redis, memory or fallback); a fact that the answer does not state is null.
export function readFacts(response) {
  const timing = response.headers['Server-Timing'] || '';
  const result = description(timing, 'cache');
  return {
    limit: description(timing, 'limit'),
    result: RESULTS.includes(result) ? result : null,
    redisRoundTrips: leadingNumber(description(timing, 'redis')),
    dbRoundTrips: leadingNumber(description(timing, 'db')),
    consistent: result in CACHE_STATUS && CACHE_STATUS[result].test(response.headers['Cache-Status'] || ''),
  };
}

// Returns for how many more seconds an answer says that it is fresh (`; ttl=540` of Cache-Status), or null.
export function secondsFresh(response) {
  const stated = (response.headers['Cache-Status'] || '').match(/; ttl=(-?\d+)/);
  return stated ? Number(stated[1]) : null;
}

// Made once: this is read of every answer, on the cores of the service.
const DESCRIPTIONS = Object.fromEntries(['limit', 'cache', 'redis', 'db']
  .map((metric) => [metric, new RegExp(`(?:^|,\\s*)${metric};desc="([^"]*)"`)]));

function description(timing, metric) {
  const found = timing.match(DESCRIPTIONS[metric]);
  return found ? found[1] : null;
}

function leadingNumber(text) {
  const number = parseInt(text, 10);
  return Number.isNaN(number) ? null : number;
}
