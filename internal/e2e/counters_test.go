package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"antiphon/internal/netnstest"
)

// patience bounds how long something that comes by itself may take.
const patience = 10 * time.Second

// amount is packets and bytes, from the destination MAC on.
type amount struct{ Packets, Bytes uint64 }

func (a amount) plus(b amount) amount { return amount{a.Packets + b.Packets, a.Bytes + b.Bytes} }

// portCounts is a port of `show counters -j`.
type portCounts struct {
	Name                                         string
	RX, TX, Forwarded, Trapped, Injected, Copied amount
	Dropped                                      []struct {
		Reason string
		amount
	}
}

func (p portCounts) dropped() (sum amount) {
	for _, d := range p.Dropped {
		sum = sum.plus(d.amount)
	}
	return sum
}

// linkCounts is what the kernel counted on a link.
type linkCounts struct{ rx, tx amount }

func kernelCounts(t testing.TB, ns *netnstest.NS, link string) linkCounts {
	t.Helper()
	var doc []struct {
		Stats64 struct{ RX, TX amount } `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(ns.IP(t, "-j -s link show dev "+link)), &doc); err != nil || len(doc) != 1 {
		t.Fatalf("ip -j -s link show dev %s: %v", link, err)
	}
	return linkCounts{doc[0].Stats64.RX, doc[0].Stats64.TX}
}

// account is the counters of one moment: the product's by port, and the kernel's
// of representors and wire ends.
type account struct {
	ports  map[string]portCounts
	total  portCounts
	kernel map[string]linkCounts
}

// rest reads all counters at a moment when no packet moves.
func (l *lab) rest() account {
	l.t.Helper()
	kernel := func() map[string]linkCounts {
		m := map[string]linkCounts{}
		for n := 1; n <= len(l.hosts); n++ {
			m[swp(n)] = kernelCounts(l.t, l.dut, swp(n))
			m[wireName(n)] = kernelCounts(l.t, l.host(n), wireName(n))
		}
		return m
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		before := kernel()
		var doc struct {
			Ports []portCounts
			Total portCounts
		}
		l.ask(&doc, "show", "counters")
		if after := kernel(); maps.Equal(before, after) {
			a := account{ports: map[string]portCounts{}, total: doc.Total, kernel: after}
			for _, p := range doc.Ports {
				a.ports[p.Name] = p
			}
			return a
		}
	}
	l.t.Fatal("packets never come to rest")
	return account{}
}

// agrees holds the product's counters against the kernel's, which saw the same
// packets at both ends of each port: what trapped came out of the representor,
// what was injected went into it, what was sent arrived at the wire end. merged
// says that a host may have handed over several packets as one.
func (a account) agrees(t testing.TB, merged bool) {
	t.Helper()
	var total portCounts
	for name, p := range a.ports {
		at, wire := a.kernel[name], a.kernel["w"+name[len("swp"):]]
		checks := []struct {
			what      string
			got, want amount
		}{
			{"rx = forwarded + trapped + dropped", p.RX, p.Forwarded.plus(p.Trapped).plus(p.dropped())},
			{"trapped = received by the representor", p.Trapped, at.rx},
			{"injected = sent by the representor", p.Injected, at.tx},
			{"tx = received by the wire end", p.TX, wire.rx},
			{"rx = sent by the wire end", p.RX, wire.tx},
		}
		if merged {
			checks = checks[:len(checks)-1]
		}
		for _, c := range checks {
			if c.got != c.want {
				t.Errorf("%s: %s: %+v, want %+v", name, c.what, c.got, c.want)
			}
		}
		total.RX, total.TX = total.RX.plus(p.RX), total.TX.plus(p.TX)
		total.Forwarded, total.Trapped = total.Forwarded.plus(p.Forwarded), total.Trapped.plus(p.Trapped)
	}
	if total.RX != a.total.RX || total.TX != a.total.TX || total.Forwarded != a.total.Forwarded || total.Trapped != a.total.Trapped {
		t.Errorf("total %+v, the ports come to %+v", a.total, total)
	}
}

// notBefore: no counter went back.
func (a account) notBefore(t testing.TB, b account) {
	t.Helper()
	for name, now := range a.ports {
		was := b.ports[name]
		for what, c := range map[string][2]amount{
			"rx": {now.RX, was.RX}, "tx": {now.TX, was.TX}, "forwarded": {now.Forwarded, was.Forwarded},
			"trapped": {now.Trapped, was.Trapped}, "injected": {now.Injected, was.Injected}, "dropped": {now.dropped(), was.dropped()},
		} {
			if c[0].Packets < c[1].Packets || c[0].Bytes < c[1].Bytes {
				t.Errorf("%s %s went back from %+v to %+v", name, what, c[1], c[0])
			}
		}
	}
}

// captured adds up what a test saw itself: by port of entry, the frames that the
// device alone forwarded, and those that trapped.
func (tr *traffic) captured() (forwarded, trapped map[string]amount) {
	forwarded, trapped = map[string]amount{}, map[string]amount{}
	for _, s := range tr.streams {
		f, t := s.captured()
		forwarded[swp(s.in)] = forwarded[swp(s.in)].plus(f)
		trapped[swp(s.in)] = trapped[swp(s.in)].plus(t)
	}
	return forwarded, trapped
}

func (s *stream) captured() (forwarded, trapped amount) {
	one := amount{1, uint64(len(s.before))}
	for n := range s.delivered {
		if s.trapped[n] > 0 {
			trapped = trapped.plus(one)
		} else if s.delivered[n] > 0 {
			forwarded = forwarded.plus(one)
		}
	}
	return forwarded, trapped
}

// accounted holds the counters against the test's own captures.
func (tr *traffic) accounted(a account) {
	tr.t.Helper()
	forwarded, trapped := tr.captured()
	for name, p := range a.ports {
		if p.Forwarded != forwarded[name] {
			tr.t.Errorf("%s forwarded %+v, captured %+v", name, p.Forwarded, forwarded[name])
		}
		// Sentinels trap as well, and are not streams'.
		if p.Trapped.Packets < trapped[name].Packets {
			tr.t.Errorf("%s trapped %+v, captured %+v", name, p.Trapped, trapped[name])
		}
	}
}

// rows is the kernel's state as iproute2 tells it, without statistics.
func (l *lab) rows() map[string]string {
	l.t.Helper()
	m := map[string]string{}
	for _, what := range []string{"link show", "addr show", "neigh show", "route show table all", "-6 route show table all", "rule show", "-6 rule show", "nexthop show"} {
		m[what] = l.dut.IP(l.t, "-j "+what)
	}
	return m
}

func (l *lab) sameRows(when string, before map[string]string) {
	l.t.Helper()
	for what, now := range l.rows() {
		if now != before[what] {
			l.t.Errorf("%s: ip -j %s was\n%s\nand is\n%s", when, what, before[what], now)
		}
	}
}

func (a amount) String() string { return fmt.Sprintf("%d packets %d bytes", a.Packets, a.Bytes) }
