package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// series returns a measure that gives the values one after the other.
func series(values ...float64) measure {
	i := 0
	return func(context.Context) (float64, error) {
		i++
		return values[(i-1)%len(values)], nil
	}
}

func TestReport(t *testing.T) {
	pairOf := func(ref, product measure) func(context.Context) (*pair, error) {
		return func(context.Context) (*pair, error) { return &pair{reference: ref, product: product}, nil }
	}
	table := []row{
		{"good", "r", atLeast(0.8), atLeast(0.5), pairOf(series(100), series(90))},
		{"low", "r", atLeast(0.8), atLeast(0.5), pairOf(series(100), series(40))},
		{"dear", "r", atMost(2), atMost(4), pairOf(series(10), series(50))},
		{"restless", "r", atLeast(0.8), atLeast(0.5), pairOf(series(100, 200), series(1))},
		{"big", "–", bytesAtMost(250), bytesAtMost(500), pairOf(nil, series(240))},
		{"later", "r", atLeast(1), atLeast(1), nil},
		{"elsewhere", "r", atLeast(1), atLeast(1), func(context.Context) (*pair, error) {
			return nil, fmt.Errorf("%w: no C compiler", errLeftOut)
		}},
		{"broken", "r", atLeast(1), atLeast(1), pairOf(series(1), func(context.Context) (float64, error) {
			return 0, errors.New("3 packets lost")
		})},
	}
	var out bytes.Buffer
	err := report(context.Background(), &out, table, "", 5)
	if err == nil || err.Error() != "2 below the floor, 1 failed" {
		t.Errorf("error: %v", err)
	}
	for _, want := range []string{"0.90x\n", "0.40x  BELOW", "5.00x  BELOW", "noisy", "240 B\n", "not built", "no C compiler", "3 packets lost"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}
