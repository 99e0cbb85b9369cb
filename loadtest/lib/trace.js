// A W3C trace context for each request, so that the load generator's request and the service's spans share one trace.

// Returns a `traceparent` with random ids. The flag is 01 (sampled): a service that trusts its caller's decision would
// otherwise record nothing. Ids of zeroes are invalid, but 64 random bits do not come out as zeroes.
export function traceparent() {
  return `00-${word()}${word()}${word()}${word()}-${word()}${word()}-01`;
}

// Not crypto: ids need to be different and not secret, and this is done for every request, on the cores of the service.
function word() {
  return Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, '0');
}
