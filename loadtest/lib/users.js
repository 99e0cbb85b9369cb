// Who asks. The service lets a caller ask 100 times a minute, and a spike is over that in a third of a second: it comes
// from many people, and so must a script's, or it would measure how fast it is refused.

import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { token } from './token.js';

// Taking turns they may ask 100,000 times a minute, which is 1,600 a second: five times what any script does unless it
// is told to do more.
const USERS = 1000;

// Minted once and shared by all virtual users: a signature for each request would be load that nobody asked for. Objects
// and not strings, because k6 freezes what it hands out, a string letter by letter.
const minted = new SharedArray('users', () => (
  Array.from({ length: USERS }, (_, n) => ({ authorization: user(`loadtest-${n}`) }))
));

// Returns the Authorization header of a user by name, who may do whatever a script does.
export function user(name) {
  return `Bearer ${token(name, 'reconcile')}`;
}

let turn = null;

// Returns the Authorization header of one of the many, another for each request. Each virtual user begins with another
// one, so that all take part about equally often.
export function nextUser() {
  if (turn === null) turn = exec.vu.idInTest;
  turn += 1;
  return minted[turn % USERS].authorization;
}
