// A W3C trace context for each request, so that the load generator's request and the service's spans share one trace.

// Returns a `traceparent` with random ids. The flag is 01 (sampled): a service that trusts its caller's decision would
// otherwise record nothing. Ids of zeroes are invalid, but 16 random bytes do not come out as zeroes.
export function traceparent() {
  return `00-${randomHex(16)}-${randomHex(8)}-01`;
}

function randomHex(bytes) {
  const random = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
