package difflab

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"antiphon/agent/resolve"
	"antiphon/hwmodel"
	"antiphon/hwmodel/refpipe"
	"antiphon/hwmodel/softpipe"
	"antiphon/internal/netnstest"
)

// lane is a device and the resolver that fills it.
type lane struct {
	name string
	pipe hwmodel.Pipe
	res  *resolve.Resolver
	// What it did with the frames of the volley.
	verdict []hwmodel.Verdict
	reason  []hwmodel.Reason
	out     []hwmodel.PortID
	frame   [][]byte
}

func newLane(t testing.TB, name string) *lane {
	var p hwmodel.Pipe
	if name == "softpipe" {
		p = softpipe.New(softpipe.Options{Ports: portInfo(genPorts)})
	} else {
		p = refpipe.New(refpipe.Options{Ports: portInfo(genPorts)})
	}
	caps, err := p.Capabilities(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &lane{name: name, pipe: p, res: resolve.New(caps)}
}

// take brings the device from one state of the router to another.
func (l *lane) take(old, now state) error {
	l.res.Settings(now.settings)
	for _, c := range now.since(old) {
		if err := l.res.Change(c); err != nil {
			return err
		}
	}
	for b := l.res.Next(); b != nil; b = l.res.Next() {
		res, err := l.pipe.Apply(context.Background(), b)
		if err != nil {
			return err
		}
		if len(res.Refused) != 0 {
			return fmt.Errorf("refused %+v", res.Refused)
		}
		l.res.Applied(res)
	}
	return nil
}

// forward runs a volley.
func (l *lane) forward(shots []shot) {
	l.verdict, l.reason, l.out, l.frame = nil, nil, nil, nil
	for part := range slices.Chunk(shots, hwmodel.VectorSize) {
		var v hwmodel.Vector
		v.N = len(part)
		for i, s := range part {
			v.In[i], v.Frame[i] = hwmodel.PortID(s.in), bytes.Clone(s.frame)
		}
		l.pipe.Run(&v)
		l.verdict = append(l.verdict, v.Verdict[:v.N]...)
		l.reason = append(l.reason, v.Reason[:v.N]...)
		l.out = append(l.out, v.Out[:v.N]...)
		l.frame = append(l.frame, v.Frame[:v.N]...)
	}
}

// exit is a frame that left the kernel's router.
type exit struct {
	port  int
	frame []byte
}

func (e exit) String() string { return fmt.Sprintf("w%d: %x", e.port, e.frame) }

// fire sends the shots whose ports are live, one fence for all of them, and
// returns them tagged, with what each of them led to.
func (w *world) fire(t testing.TB, s state, shots []shot) (sent []shot, number []int, exits [][]exit) {
	t.Helper()
	live, cables, ports := w.wired(s)
	w.run++
	for _, c := range w.cables {
		c.Wire.Drain(t)
		c.Port.Drain(t)
	}
	byWire := map[int][][]byte{}
	for i, x := range shots {
		// veth refuses what is longer than the receiving end takes.
		if live[x.in] && len(x.frame) <= s.links[swp(x.in)].mtu+18 {
			x.frame = tagged(x.frame, w.run, uint16(len(sent)))
			sent, number = append(sent, x), append(number, i)
			byWire[x.in] = append(byWire[x.in], x.frame)
		}
	}
	exits = make([][]exit, len(sent))
	if len(sent) == 0 {
		return nil, nil, nil
	}
	for n := 1; n <= genPorts; n++ {
		w.cables[n-1].Wire.Send(t, byWire[n]...)
	}
	for i, frames := range netnstest.Fence(t, cables...) {
		for _, f := range frames {
			// What bears no tag of this run was not led to by its frames, or is
			// a part of one that the kernel fragmented or answered.
			if run, k, ok := tagOf(f); ok && run == w.run && int(k) < len(exits) {
				exits[k] = append(exits[k], exit{ports[i], f})
			}
		}
	}
	return sent, number, exits
}

// difference is one frame that was not treated alike.
type difference struct {
	round, shot int
	lane        string
	what        string
}

func (d difference) String() string {
	return fmt.Sprintf("round %d, frame %d, %s: %s", d.round, d.shot, d.lane, d.what)
}

// play runs a scenario and returns what differed. tally may be nil.
func (w *world) play(t testing.TB, s *scenario, tally *tally) (differences []difference) {
	t.Helper()
	lanes := []*lane{newLane(t, "refpipe"), newLane(t, "softpipe")}
	var now state
	grouped := false // there are nexthop groups
	for i, r := range s.rounds {
		w.change(t, r.lines)
		grouped = grouped || slices.ContainsFunc(r.lines, func(l string) bool { return strings.Contains(l, " group ") })
		for try := 0; ; try++ {
			old := now
			now = w.settle(t)
			all := lanes
			if i > 0 || try > 0 {
				all = append(slices.Clip(all), newLane(t, "fresh refpipe"))
			}
			var found []difference
			for k, l := range all {
				from := old
				if k == 2 {
					from = state{}
				}
				if err := l.take(from, now); err != nil {
					return append(differences, difference{i, -1, l.name, err.Error()})
				}
			}
			sent, number, exits := w.fire(t, now, r.shots)
			for _, l := range all {
				l.forward(sent)
			}
			for k := range sent {
				for _, d := range judge(all, sent[k], k, exits[k], grouped) {
					d.round, d.shot = i, number[k]
					found = append(found, d)
				}
			}
			// The kernel may have done something by itself meanwhile.
			if len(found) > 0 && try < 3 && !w.settle(t).same(now) {
				continue
			}
			if tally != nil {
				tally.add(s, i, all, sent, exits)
			}
			differences = append(differences, found...)
			break
		}
	}
	return differences
}

// judge holds the lanes' verdicts on a frame against what the kernel did and
// against each other. grouped says that there may be nexthop groups.
func judge(lanes []*lane, s shot, k int, exits []exit, grouped bool) (found []difference) {
	say := func(l *lane, format string, args ...any) {
		found = append(found, difference{lane: l.name, what: fmt.Sprintf(format, args...) + fmt.Sprintf("\n  in  w%d: %x", s.in, s.frame)})
	}
	first := lanes[0]
	for _, l := range lanes {
		switch l.verdict[k] {
		case hwmodel.Forward:
			if len(exits) != 1 || exits[0].port != int(l.out[k]) || !bytes.Equal(exits[0].frame, l.frame[k]) {
				say(l, "forwards\n  %v, kernel\n  %v", exit{int(l.out[k]), l.frame[k]}, exits)
			}
		case hwmodel.Drop:
			if len(exits) != 0 {
				say(l, "drops (%v), kernel sends\n  %v", l.reason[k], exits)
			}
		case hwmodel.Trap:
			if !bytes.Equal(l.frame[k], s.frame) {
				say(l, "changes a frame that it traps (%v)\n  %x", l.reason[k], l.frame[k])
			}
			if len(exits) == 1 && plain(s, exits[0]) && !allowed(l.reason[k], grouped) {
				say(l, "traps (%v) what the kernel just forwards\n  %v", l.reason[k], exits)
			}
		}
		if l.verdict[k] != first.verdict[k] || l.reason[k] != first.reason[k] ||
			l.verdict[k] == hwmodel.Forward && (l.out[k] != first.out[k] || !bytes.Equal(l.frame[k], first.frame[k])) {
			say(l, "%v (%v) w%d, %s %v (%v) w%d", l.verdict[k], l.reason[k], l.out[k], first.name, first.verdict[k], first.reason[k], first.out[k])
		}
	}
	return found
}

// plain reports whether the kernel forwarded the frame as a device would: no
// more than a rewrite, and to a neighbour (not a link's broadcast).
func plain(s shot, e exit) bool {
	in, out := s.frame[12:], e.frame[12:]
	if len(in) >= 6 && in[0] == 0x81 && in[1] == 0 {
		in = in[4:]
	}
	if e.frame[0]&1 != 0 || len(out) > len(in) || len(out) < 22 || !bytes.Equal(in[:2], out[:2]) {
		return false
	}
	masked := func(b []byte) []byte {
		b = bytes.Clone(b[:len(out)])
		switch b[0] {
		case 0x08:
			b[2+8], b[2+10], b[2+11] = 0, 0, 0
		case 0x86:
			b[2+7] = 0
		}
		return b
	}
	return bytes.Equal(masked(in), masked(out))
}

// left reports whether the packet itself, and no answer to it, left a port.
func left(s shot, exits []exit) bool {
	for _, e := range exits {
		a, b := sourceOf(s.frame), sourceOf(e.frame)
		if a != nil && bytes.Equal(a, b) {
			return true
		}
	}
	return false
}

func sourceOf(f []byte) []byte {
	if len(f) > 18 && f[12] == 0x81 && f[13] == 0 {
		f = f[4:]
	}
	switch {
	case len(f) >= 34 && f[12] == 0x08 && f[13] == 0:
		return f[26:30]
	case len(f) >= 54 && f[12] == 0x86 && f[13] == 0xdd:
		return f[22:38]
	}
	return nil
}
