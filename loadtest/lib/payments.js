// What reconciling must find among the seeded payments, by their ids: 1 and up, without gaps. A second way to the same
// numbers, beside what the service counts.

import { DISAGREE } from './slo.js';

// How many of the first n payments disagree with the bank, by reason.
export function disagreeing(n) {
  return Object.fromEntries(Object.entries(DISAGREE).map(([why, id]) => [why, Math.floor((n + 100 - id) / 100)]));
}

// How many of the first n payments agree with the bank, so that they are to be marked.
export function agreeing(n) {
  return Object.values(disagreeing(n)).reduce((rest, count) => rest - count, n);
}
