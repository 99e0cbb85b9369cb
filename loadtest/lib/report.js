// What a run prints: aligned tables in plain text, so that they survive a pipe and a README.

// Lays out rows (arrays of texts) under the headings; the first `left` columns are aligned left, figures right.
export function table(headings, rows, left) {
  const widths = headings.map((heading, i) => Math.max(heading.length, ...rows.map((row) => row[i].length)));
  const line = (cells) => cells
    .map((cell, i) => (i < left ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
    .join('  ')
    .trimEnd();
  return [line(headings), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}

// Formats a figure with its digits after the point; what was never measured is a dash, not a zero.
export function figure(value, digits = 0) {
  return value === null || value === undefined ? '-' : value.toFixed(digits);
}

// Judges one promise { says, metric, condition } by what k6 found: adds { ran, holds, measured }. To k6 a phase that
// never ran has no errors and hits of 0 ms; here nothing holds that was not tried.
export function verdict(data, promise, ran) {
  const { values = {}, thresholds = {} } = data.metrics[promise.metric] || {};
  const statistic = promise.condition.match(/^[a-z]+(\(\d+\))?/)[0];
  return {
    ...promise,
    ran,
    holds: ran && Boolean(thresholds[promise.condition] && thresholds[promise.condition].ok),
    measured: ran ? values[statistic] : null,
  };
}

// Lays out the verdicts: the words, whether they hold, what was measured and what k6 compared it with.
export function verdictTable(verdicts) {
  return table(['promise', 'verdict', 'k6 threshold', 'measured'], verdicts.map((verdict) => [
    verdict.says,
    verdict.holds ? 'holds' : (verdict.ran && 'BROKEN') || 'not run',
    `${verdict.metric} ${verdict.condition}`,
    figure(verdict.measured, Number.isInteger(verdict.measured) ? 0 : 3),
  ]), 3);
}

// Names the checks that failed, one a line: k6 prints none of them once a script has a summary of its own.
export function failedChecks(data) {
  const checksOf = (group) => [...group.checks, ...group.groups.flatMap(checksOf)];
  return checksOf(data.root_group)
    .filter(({ fails }) => fails > 0)
    .map(({ name, passes, fails }) => `check failed ${fails} of ${passes + fails} times: ${name}`);
}
