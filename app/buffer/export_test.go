package buffer

import "time"

// Points are the steps of the protocol at which a process may die, in order.
var Points = []string{
	string(pointAdded), string(pointCut), string(pointClaimed),
	string(pointInTransaction), string(pointCommitted), string(pointAcknowledged),
}

// OnReached has a test told of each step that was done, before the next one is.
func (o Options[ID]) OnReached(tell func(point string)) Options[ID] {
	o.reached = func(p point) { tell(string(p)) }
	return o
}

// ForgetAfter changes how long a buffer that is empty stays in the index.
func (o Options[ID]) ForgetAfter(d time.Duration) Options[ID] {
	o.forgetAfter = d
	return o
}

// OrphanAfter changes how long nothing was added to a buffer before Run asks whose it is.
func (o Options[ID]) OrphanAfter(d time.Duration) Options[ID] {
	o.orphanAfter = d
	return o
}
