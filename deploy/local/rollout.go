package main

import "context"

// rollout replaces the replicas one after another, as an orchestrator would, with such that have the settings added to
// their environment. The front door sends meanwhile to those that are there; what a graph shows then is marked as a
// fault's, because connections end and what a process remembers goes with it.
func (d *deployment) rollout(ctx context.Context, settings ...string) error {
	defer d.faults.begin(ctx, "rollout")()
	for i := range d.at.replicas {
		replica := d.replica(i)
		replica.env = append(replica.env, settings...)
		if err := d.parts.end(replica.name); err != nil {
			return err
		}
		if err := d.parts.start(ctx, replica); err != nil {
			return err
		}
	}
	return nil
}
