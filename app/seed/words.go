package seed

import (
	"math/rand/v2"
	"strings"
)

var (
	givenNames = []string{"Ada", "Alan", "Barbara", "Dennis", "Edsger", "Frances", "Grace", "Hedy", "Jean", "John",
		"Katherine", "Ken", "Leslie", "Margaret", "Niklaus", "Radia", "Sophie", "Tim", "Tony"}
	familyNames = []string{"Allen", "Berners", "Dijkstra", "Hamilton", "Hoare", "Hopper", "Johnson", "Kernighan",
		"Lamarr", "Lamport", "Liskov", "Lovelace", "McCarthy", "Perlman", "Ritchie", "Sammet", "Thompson", "Turing",
		"Wilson", "Wirth"}

	openings = []string{"What we learned from", "Nobody told me about", "The quiet cost of", "A short history of",
		"Ten years with", "How we got rid of", "In praise of", "Notes on", "The night of", "Please stop fearing"}
	subjects = []string{"caches", "slow queries", "a full disk", "two-phase commits", "leap seconds", "retries",
		"the thundering herd", "monoliths", "clock skew", "backpressure", "connection pools", "dead letters"}
	endings = []string{"", "in production", "at three in the morning", "on a small machine", "without downtime",
		"in twelve diagrams"}

	remarks = []string{"This.", "Has anybody measured it?", "We tried the same and went back.", "Saved for later.",
		"The second paragraph is the important one.", "I was on call that night.", "Thank you for writing this down.",
		"It depends.", "And what does the memory cost?", "Same here, on a much smaller scale."}
)

func name(r *rand.Rand) string { return pick(r, givenNames) + " " + pick(r, familyNames) }

func title(r *rand.Rand) string {
	return strings.TrimSpace(pick(r, openings) + " " + pick(r, subjects) + " " + pick(r, endings))
}

func remark(r *rand.Rand) string { return pick(r, remarks) }

func pick(r *rand.Rand, words []string) string { return words[r.IntN(len(words))] }
