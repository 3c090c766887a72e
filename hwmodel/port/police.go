package port

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"antiphon/hwmodel"
)

// Rate is what a policer lets through.
type Rate struct {
	// PPS is packets a second, 0 for no limit.
	PPS uint64
	// Burst is packets at once, after a while without any.
	Burst uint64
}

// Limits of a Rate: an interval is at least a nanosecond, and no burst is longer
// than the clock can say.
const (
	maxPPS   = uint64(time.Second)
	maxBurst = 1 << 32
)

// DefaultPPS is what each reason lets through at each port unless it is told
// otherwise, also at once: more than a core of the host takes in through a
// representor, so that only a flood exceeds it.
const DefaultPPS = 100_000

// Policing is what the host takes of trapped packets, by port and reason: each
// port has a policer for each reason, so that a flood of one kind costs neither the
// other kinds nor the other ports anything.
type Policing [hwmodel.ReasonCount]Rate

// DefaultPolicing lets DefaultPPS through for every reason.
func DefaultPolicing() (p Policing) {
	for r := range p {
		p[r] = Rate{PPS: DefaultPPS, Burst: DefaultPPS}
	}
	return p
}

// ParsePolicing reads REASON=RATE values; the reason "default" stands for all that
// no other value names. RATE is PPS, PPS/BURST or "off"; without a burst it is what
// comes in a second.
func ParsePolicing(values []string) (Policing, error) {
	p := DefaultPolicing()
	named := map[string]Rate{}
	for _, value := range values {
		name, text, _ := strings.Cut(value, "=")
		rate, err := parseRate(text)
		if err != nil {
			return p, fmt.Errorf("%s: %w", value, err)
		}
		if _, err := hwmodel.ParseReason(name); err != nil && name != defaultReason {
			return p, fmt.Errorf("%s: no reason %q, expected default or a reason that `antiphon show counters` prints", value, name)
		}
		if _, twice := named[name]; twice {
			return p, fmt.Errorf("%s: %s is given twice", value, name)
		}
		named[name] = rate
	}
	if rate, ok := named[defaultReason]; ok {
		for r := range p {
			p[r] = rate
		}
		delete(named, defaultReason)
	}
	for name, rate := range named {
		r, _ := hwmodel.ParseReason(name) // it was one a moment ago
		p[r] = rate
	}
	return p, nil
}

// defaultReason stands for all reasons not named.
const defaultReason = "default"

func parseRate(text string) (Rate, error) {
	if text == "off" {
		return Rate{}, nil
	}
	number, burst, hasBurst := strings.Cut(text, "/")
	pps, err := strconv.ParseUint(number, 10, 64)
	if err != nil || pps == 0 || pps > maxPPS {
		return Rate{}, fmt.Errorf("expected PPS, PPS/BURST or off, with PPS from 1 to %d", maxPPS)
	}
	r := Rate{PPS: pps, Burst: pps}
	if hasBurst {
		if r.Burst, err = strconv.ParseUint(burst, 10, 64); err != nil || r.Burst == 0 || r.Burst > maxBurst {
			return Rate{}, fmt.Errorf("expected a burst from 1 to %d", uint64(maxBurst))
		}
	}
	return r, nil
}

// policer holds the token buckets of one port. It belongs to one loop: it takes no
// lock and no memory per packet.
type policer struct {
	began   time.Time
	buckets [hwmodel.ReasonCount]bucket
}

// bucket is a token bucket told in time (the generic cell rate algorithm, ITU-T
// I.371): each packet takes interval, and full is when the last one taken has come
// back. It is empty when full is more than depth ahead.
type bucket struct {
	interval, depth, full time.Duration
}

func newPolicer(p *Policing) *policer {
	out := &policer{began: time.Now()}
	for r, rate := range p {
		if rate.PPS > 0 {
			interval := time.Second / time.Duration(rate.PPS)
			out.buckets[r] = bucket{interval: interval, depth: interval * time.Duration(rate.Burst)}
		}
	}
	return out
}

// now is the policer's clock.
func (p *policer) now() time.Duration { return time.Since(p.began) }

// passes takes a token for a packet if there is one.
func (b *bucket) passes(now time.Duration) bool {
	full := max(b.full, now) + b.interval
	if full-now > b.depth {
		return false
	}
	b.full = full
	return true
}
