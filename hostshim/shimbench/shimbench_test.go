package shimbench

import (
	"testing"

	"antiphon/hostshim/netns"
	"antiphon/hostshim/rtnl"
	"antiphon/internal/netnstest"
)

// TestRatios proves that both roads see the same, and prints what they cost; the
// floors are the harness's business.
func TestRatios(t *testing.T) {
	n := netnstest.New(t)
	ns, err := netns.Open(n.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	l, err := OpenLive(ns.Fd(), rtnl.DefaultBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const routes = 50_000
	if _, err := l.Bare(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Mirror(); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		if err := Fill(ns.Fd(), routes, round%2 == 1); err != nil {
			t.Fatal(err)
		}
		bare, err := l.Bare()
		if err != nil {
			t.Fatal(err)
		}
		mirror, err := l.Mirror()
		if err != nil {
			t.Fatal(err)
		}
		if bare.Items != routes || bare.Bytes != mirror.Bytes {
			t.Fatalf("bare %+v, mirror %+v", bare, mirror)
		}
		t.Logf("live: bare %.2f M/s, mirror %.2f of it", bare.PerSecond()/1e6, bare.CPU.Seconds()/mirror.CPU.Seconds())
	}
	for range 3 {
		raw, err := RawDump(ns.Fd())
		if err != nil {
			t.Fatal(err)
		}
		mirror, err := MirrorDump(ns.Fd())
		if err != nil {
			t.Fatal(err)
		}
		// The end of the dump is no row.
		if mirror.Items != routes || raw.Bytes-mirror.Bytes > 64 || raw.Bytes < mirror.Bytes {
			t.Fatalf("raw %+v, mirror %+v", raw, mirror)
		}
		t.Logf("dump: mirror %.2f M/s, %.2f of raw", mirror.PerSecond()/1e6, raw.CPU.Seconds()/mirror.CPU.Seconds())
	}
}
