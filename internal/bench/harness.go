package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

const (
	// minRounds is how often reference and product are each measured.
	minRounds = 5
	// maxSpread is how much the reference may vary within a row.
	maxSpread = 1.5
	// maxTries is how often a noisy row is measured.
	maxTries = 3
)

// measure does a stage's work once and returns what it cost or achieved, in the
// row's unit. It fails if anything was lost on the way: a loop that drops is fast.
type measure func(ctx context.Context) (float64, error)

// pair is a product and its reference, set up and ready to be measured.
type pair struct {
	reference, product measure
	// note says under which circumstances: flows, packet memory, table size.
	note  string
	close func()
}

// errNotBuilt says that a stage does not exist yet.
var errNotBuilt = errors.New("not built")

// errLeftOut says that this machine cannot measure a row; wrap it with why.
var errLeftOut = errors.New("left out")

// goal is a bound on the ratio product / reference.
type goal struct {
	bound float64
	// atMost: smaller is better (costs); otherwise larger is better (rates).
	atMost bool
	// absolute: the bound is on the product itself, in the row's unit.
	absolute bool
}

func atLeast(x float64) goal { return goal{bound: x} }

func atMost(x float64) goal { return goal{bound: x, atMost: true} }

func bytesAtMost(x float64) goal { return goal{bound: x, atMost: true, absolute: true} }

func (g goal) met(x float64) bool {
	if g.atMost {
		return x <= g.bound
	}
	return x >= g.bound
}

func (g goal) String() string {
	sign, unit := "≥", "x"
	if g.atMost {
		sign = "≤"
	}
	if g.absolute {
		unit = " B"
	}
	return fmt.Sprintf("%s %g%s", sign, g.bound, unit)
}

// row is one line of the table.
type row struct {
	stage, reference string
	target, floor    goal
	// setUp builds the pair; nil means not built.
	setUp func(ctx context.Context) (*pair, error)
}

// outcome is a measured row.
type outcome struct {
	today string
	note  string
	// below is set if the floor was missed.
	below bool
}

// run measures a row.
func (r row) run(ctx context.Context, rounds int) (outcome, error) {
	if r.setUp == nil {
		return outcome{today: errNotBuilt.Error()}, nil
	}
	p, err := r.setUp(ctx)
	switch {
	case errors.Is(err, errNotBuilt):
		return outcome{today: errNotBuilt.Error()}, nil
	case errors.Is(err, errLeftOut):
		return outcome{today: errLeftOut.Error(), note: err.Error()}, nil
	case err != nil:
		return outcome{}, fmt.Errorf("set up: %w", err)
	}
	if p.close != nil {
		defer p.close()
	}
	for range maxTries {
		ratio, spread, err := alternate(ctx, p, rounds)
		if err != nil {
			return outcome{}, err
		}
		if spread > maxSpread {
			continue
		}
		if r.target.absolute {
			return outcome{today: fmt.Sprintf("%.0f B", ratio), note: p.note, below: !r.floor.met(ratio)}, nil
		}
		return outcome{today: fmt.Sprintf("%.2fx", ratio), note: p.note, below: !r.floor.met(ratio)}, nil
	}
	return outcome{today: "noisy", note: fmt.Sprintf("the reference varied by more than %gx in each of %d tries", maxSpread, maxTries)}, nil
}

// alternate measures reference and product in turn and returns the ratio of
// their medians and the spread of the reference. Without a reference the ratio
// is the product's median.
func alternate(ctx context.Context, p *pair, rounds int) (ratio, spread float64, err error) {
	var refs, products []float64
	for i := range max(rounds, minRounds) {
		if p.reference != nil {
			x, err := p.reference(ctx)
			if err != nil {
				return 0, 0, fmt.Errorf("reference, round %d: %w", i+1, err)
			}
			refs = append(refs, x)
		}
		x, err := p.product(ctx)
		if err != nil {
			return 0, 0, fmt.Errorf("product, round %d: %w", i+1, err)
		}
		products = append(products, x)
	}
	if p.reference == nil {
		return median(products), 1, nil
	}
	if slices.Min(refs) <= 0 {
		return 0, 0, fmt.Errorf("reference measured %g: nothing to compare with", slices.Min(refs))
	}
	return median(products) / median(refs), slices.Max(refs) / slices.Min(refs), nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	if n := len(x); n%2 == 1 {
		return x[n/2]
	}
	return (x[len(x)/2-1] + x[len(x)/2]) / 2
}
