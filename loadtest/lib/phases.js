// Says when the phases of a script begin and end; dashboards draw them as regions behind every graph.

import { Gauge } from 'k6/metrics';

const phaseRunning = new Gauge('phase_running');

export function phasesOf(script) {
  return {
    begin: (phase) => phaseRunning.add(1, { script, phase }),
    end: (phase) => phaseRunning.add(0, { script, phase }),
  };
}
