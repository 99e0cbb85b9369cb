package seed

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// payment is both what we believe and what the bank says; see settlements for where the two part.
type payment struct {
	reference string
	amount    int64 // in the currency's minor unit
	currency  string
	age       time.Duration // at newest
}

var currencies = []string{"EUR", "GBP", "USD"}

func nextPayment(r *rand.Rand, id int64) payment {
	return payment{
		reference: fmt.Sprintf("PAY-%08d", id),
		amount:    r.Int64N(500_00) + 1_00,
		currency:  pick(r, currencies),
		age:       time.Duration(r.Int64N(int64(postsReachBack))).Truncate(time.Microsecond),
	}
}

func payments(count int) batch {
	columns := []string{"id", "reference", "amount_minor", "currency", "created_at"}
	return batch{"payments", columns, count, func(newest time.Time) func() []any {
		r, row := randomness("payments", 0), make([]any, len(columns))
		id := int64(0)
		return func() []any {
			id++
			p := nextPayment(r, id)
			row[0], row[1], row[2], row[3], row[4] = id, p.reference, p.amount, p.currency, newest.Add(-p.age)
			return row
		}
	}}
}

// settlements are the bank's side of the same payments. Of each hundred one is missing, one is a cent short and one is
// in another currency: 97 agree, and exactly so, because reconciling is tested against these numbers.
func settlements(count int) batch {
	columns := []string{"reference", "amount_minor", "currency", "settled_at"}
	missing := (count + 20) / 100
	return batch{"settlements", columns, count - missing, func(newest time.Time) func() []any {
		r, row := randomness("payments", 0), make([]any, len(columns)) // the payments' own numbers
		id := int64(0)
		return func() []any {
			id++
			p := nextPayment(r, id)
			switch id % 100 {
			case 20:
				p.amount--
			case 50:
				p.currency = "CHF"
			case 80:
				id++
				p = nextPayment(r, id)
			}
			row[0], row[1], row[2], row[3] = p.reference, p.amount, p.currency, newest.Add(-p.age/2)
			return row
		}
	}}
}
