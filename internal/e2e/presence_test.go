package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"antiphon/internal/netnstest"
)

// Phases are this many bursts long.
const steady = 12

// The streams of the presence tests.
const (
	four   = iota // IPv4 from port 1 to port 2, by a route
	six           // IPv6 likewise
	beside        // IPv4 from port 3 to port 4
	streamCount
)

// trapCase is something of the kernel's that is not mirrored.
type trapCase struct {
	name string
	// add and remove are shell lines in the router. A case that cannot be
	// written so has an attach instead: it returns what takes it away again.
	add, remove string
	attach      func(*presenceLab) (detach func() error, err error)
	// while is what becomes of each stream as long as it is there.
	while [streamCount]fate
	// gap: the kernel itself may lose packets while it comes and goes.
	gap bool
	// object is what `why` is asked about; reason and detail what it must say.
	object, reason, detail string
}

// presenceLab is a simulation of four ports with three streams.
type presenceLab struct {
	*lab
	*traffic
	// swallowed counts packets that a program dropped before they could be
	// captured, nil if there is none.
	swallowed func() (int, error)
}

const routed4, routed6 = "198.51.100.0/24", "2001:db8:100::/48"

func newPresenceLab(t *testing.T) *presenceLab {
	l := newLab(t, 4)
	l.up()
	l.bare()
	l.route()
	l.dut.IP(t, "route add "+routed4+" via "+host4(2))
	l.dut.IP(t, "-6 route add "+routed6+" via "+host6(2))
	l.barrier()
	tr := newTraffic(l,
		newStream(1, 2, host4(1), "198.51.100.7"),
		newStream(1, 2, host6(1), "2001:db8:100::7"),
		newStream(3, 4, host4(3), host4(4)))
	return &presenceLab{lab: l, traffic: tr}
}

// TestPresences puts each thing into the middle of a flow: what was the device's
// becomes the kernel's, and is the device's again when it is gone.
func TestPresences(t *testing.T) {
	p := newPresenceLab(t)
	for _, c := range trapCases() {
		t.Run(c.name, func(t *testing.T) {
			// What goes wrong is the subtest's.
			p.lab.t, p.traffic.t = t, t
			defer func() { p.lab.t, p.traffic.t, p.swallowed = p.parent, p.parent, nil }()
			p.run(&c)
		})
	}
}

func (p *presenceLab) t() *testing.T { return p.lab.t }

// run plays one case.
func (p *presenceLab) run(c *trapCase) {
	t := p.t()
	p.phase("before", p.steps(steady), [streamCount]fate{})

	before := p.next
	detach, here := p.bring(c)
	if !here {
		return
	}
	removed := false
	defer func() {
		if !removed { // the test failed half-way
			if err := errors.Join(detach(), p.lab.run("barrier")); err != nil {
				t.Errorf("take it away: %v", err)
			}
		}
	}()
	p.phase("as it comes", span{before, p.next}, c.changing())
	p.phase("while it is there", p.steps(steady), c.while)
	p.explained(c)
	if detach == nil {
		removed = true
		return
	}
	going := p.during(func() error {
		if err := detach(); err != nil {
			return err
		}
		return p.lab.run("barrier")
	})
	removed = true
	p.phase("as it goes", going, c.changing())
	p.phase("after", p.steps(steady), [streamCount]fate{})
	if p.swallowed != nil {
		s := p.streams[four]
		n, err := p.swallowed()
		if all := (span{before, p.next}); err != nil || n+s.deliveredIn(all) != all.to-all.from || n < steady*burst {
			t.Errorf("%s: %d sent, %d delivered, %d swallowed (%v)", s.name, all.to-all.from, s.deliveredIn(all), n, err)
		}
	}
}

// changing is what may become of frames while the case comes or goes.
func (c *trapCase) changing() (f [streamCount]fate) {
	for i, w := range c.while {
		switch {
		case w == drops || w == vanishes || c.gap && w == kernel:
			f[i] = maybe
		case w == kernel:
			f[i] = moving
		}
	}
	return f
}

func (p *presenceLab) phase(when string, s span, f [streamCount]fate) {
	p.t().Helper()
	for i, want := range f {
		p.want(when, p.streams[i], s, want)
	}
}

// bring adds the thing while the streams flow. here is false if this kernel, or
// this machine, does not have it.
func (p *presenceLab) bring(c *trapCase) (detach func() error, here bool) {
	p.t().Helper()
	shell := func(line string) error {
		_, err := p.dut.Try("sh", "-ec", line)
		return err
	}
	var missing error
	p.during(func() error {
		if c.attach != nil {
			detach, missing = c.attach(p)
		} else {
			detach = func() error { return shell(c.remove) }
			if missing = shell(c.add); missing != nil {
				// Half of it may be there.
				_ = detach()
			}
		}
		return p.lab.run("barrier")
	})
	if missing != nil {
		p.t().Skip("not here: ", missing)
	}
	return detach, true
}

// trap is how status and why name unmirrored kernel state.
type trap struct{ Reason, Scope, Detail string }

// explanation is an object of why's answer.
type explanation struct {
	Object, Says, Fate, Reason, Detail string
	Traps                              []trap
	Packets                            uint64
}

func (l *lab) why(object string) []explanation {
	l.t.Helper()
	var doc struct{ Objects []explanation }
	l.ask(&doc, append([]string{"why"}, strings.Fields(object)...)...)
	if len(doc.Objects) == 0 {
		l.t.Errorf("why %s: no object", object)
	}
	return doc.Objects
}

// explained: why names the reason, with a detail that a person can act on, and
// show says the same of the row.
func (p *presenceLab) explained(c *trapCase) {
	p.t().Helper()
	var rows []struct{ Fate, Reason string }
	kind, object := "route", c.object
	if dev, ok := strings.CutPrefix(object, "dev "); ok {
		kind, object = "link", dev
	}
	p.ask(&rows, "show", kind, object)
	var said []string
	for _, e := range p.why(c.object) {
		if len(rows) == 0 || rows[0].Fate != e.Fate || rows[0].Reason != e.Reason {
			p.t().Errorf("show %s %s: %+v, why: %s %s", kind, object, rows, e.Fate, e.Reason)
		}
		traps := append(e.Traps, trap{Reason: e.Reason, Detail: e.Detail})
		if slices.ContainsFunc(traps, func(t trap) bool {
			return t.Reason == c.reason && (t.Detail != "" || !strings.HasPrefix(c.reason, "unmirrored-")) && strings.Contains(t.Detail, c.detail)
		}) {
			return
		}
		said = append(said, fmt.Sprintf("%+v", e))
	}
	p.t().Errorf("why %s names no %s with a detail %q: %s", c.object, c.reason, c.detail, said)
}

// TestIptables: a legacy table stays for as long as its namespace, so only its
// coming can be seen.
func TestIptables(t *testing.T) {
	netnstest.Require(t)
	for _, c := range []trapCase{
		{name: "accept", add: "iptables-legacy -A FORWARD -p tcp -j ACCEPT", while: [streamCount]fate{kernel, forwards, kernel}, detail: "filter"},
		{name: "drop", add: "iptables-legacy -P FORWARD DROP", while: [streamCount]fate{drops, forwards, drops}, detail: "filter"},
		{name: "ip6tables", add: "ip6tables-legacy -P FORWARD DROP", while: [streamCount]fate{forwards, drops, forwards}, detail: "filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPresenceLab(t)
			c.object, c.reason = routed4, "unmirrored-iptables"
			if c.while[four] == forwards {
				c.object = routed6
			}
			c.attach = func(p *presenceLab) (func() error, error) {
				_, err := p.dut.Try("sh", "-ec", c.add)
				return nil, err
			}
			p.run(&c)
		})
	}
}
