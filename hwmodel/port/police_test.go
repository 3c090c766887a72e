package port

import (
	"testing"
	"time"

	"antiphon/hwmodel"
)

func TestBucket(t *testing.T) {
	p := DefaultPolicing()
	p[hwmodel.ReasonNoRoute] = Rate{PPS: 1000, Burst: 5}
	p[hwmodel.ReasonLocal] = Rate{}
	police := newPolicer(&p)
	passed := func(r hwmodel.Reason, at time.Duration, packets int) (n int) {
		for range packets {
			if police.buckets[r].passes(at) {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		reason            hwmodel.Reason
		at                time.Duration
		packets, expected int
	}{
		{hwmodel.ReasonNoRoute, 0, 100, 5},                               // a burst
		{hwmodel.ReasonNoRoute, 0, 1, 0},                                 // and nothing more
		{hwmodel.ReasonNoRoute, time.Millisecond, 10, 1},                 // one comes back
		{hwmodel.ReasonNoRoute, 3*time.Millisecond + 999_999, 10, 2},     // not yet the third
		{hwmodel.ReasonNoRoute, 4 * time.Millisecond, 10, 1},             // now
		{hwmodel.ReasonNoRoute, time.Hour, 100, 5},                       // no more than a burst is saved
		{hwmodel.ReasonLocal, time.Hour, 1_000_000, 1_000_000},           // off
		{hwmodel.ReasonNotIP, time.Hour, DefaultPPS + 7, DefaultPPS},     // others have theirs
		{hwmodel.ReasonNotIP, time.Hour + time.Second/10, 1e6, 1e5 / 10}, // a tenth of a second's
	} {
		if n := passed(step.reason, step.at, step.packets); n != step.expected {
			t.Errorf("%v at %v: %d of %d passed, expected %d", step.reason, step.at, n, step.packets, step.expected)
		}
	}
}

func TestParsePolicing(t *testing.T) {
	p, err := ParsePolicing([]string{"no-route=10", "default=200/50", "local=off"})
	if err != nil {
		t.Fatal(err)
	}
	for r, want := range map[hwmodel.Reason]Rate{
		hwmodel.ReasonNoRoute: {10, 10}, hwmodel.ReasonNotIP: {200, 50}, hwmodel.ReasonLocal: {},
	} {
		if p[r] != want {
			t.Errorf("%v: %+v, expected %+v", r, p[r], want)
		}
	}
	if p, err := ParsePolicing(nil); err != nil || p != DefaultPolicing() {
		t.Errorf("without values: %v", err)
	}
	for _, bad := range []string{"", "no-route", "no-route=", "no-route=-1", "no-route=1000000001", "no-route=1/", "no-route=1/4294967297", "=1", "tea=1"} {
		if _, err := ParsePolicing([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
