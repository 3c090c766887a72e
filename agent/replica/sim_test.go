package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"antiphon/netstate"
	"antiphon/transport"
)

// world is one run: model kernel, a shim in between, and the Replica. Everything
// that the real road leaves open is drawn from the seed: how far each side lags,
// when a dump reads which row, what is lost.
type world struct {
	rng      *rand.Rand
	k        *kernel
	r        *Replica
	stream   []any // to the Replica: *transport.Block, DumpEnd, Overrun
	request  *transport.Dump
	dump     *mdump
	seq      uint64
	told     map[netstate.Key]*netstate.Row // what Changes added up to
	gone     map[netstate.Key]int
	fault    error
	calm     int  // one in so many chances to change something is taken: rush hides what later dumps repair
	faithful bool // the kernel has no silent deletions but those of the rules
}

// mdump is a dump in progress: keys are visited in order, each read when visited.
type mdump struct {
	req  *transport.Dump
	at   []byte // canonical key of the last row read
	rows uint64
	bad  bool
}

func newWorld(seed uint64, opt Options, wrong mutation) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{rng: rng, k: newKernel(rng), r: New(opt), told: map[netstate.Key]*netstate.Row{}, gone: map[netstate.Key]int{}}
	w.calm = []int{1, 2, 6, 20}[seed%4]
	w.r.wrong = wrong
	w.r.Settings(0, &transport.Settings{})
	return w
}

func canonical(k netstate.Key) []byte { return k.AppendCanonical(nil) }

// pump moves some notifications from the kernel into the stream.
func (w *world) pump(all bool) {
	n := len(w.k.queue)
	if !all && n > 0 {
		n = 1 + w.rng.IntN(n)
	}
	if n > 0 {
		w.stream = append(w.stream, &transport.Block{Bytes: bytes.Join(w.k.queue[:n], nil)})
		w.k.queue = w.k.queue[n:]
	}
}

// readDump lets the shim do one piece of its dump.
func (w *world) readDump() {
	d := w.dump
	if d == nil {
		if w.request == nil {
			return
		}
		w.dump = &mdump{req: w.request}
		w.stream = append(w.stream, &transport.Block{Dump: w.request.Id, Kind: w.request.Kind, First: true})
		w.request = nil
		return
	}
	if d.req.Kind == uint32(netstate.KindLink) {
		w.k.finish() // waits for RTNL
	}
	rows := w.k.rows()
	keys := make([]netstate.Key, 0, len(rows))
	for key := range rows {
		if uint32(key.Kind) == d.req.Kind && bytes.Compare(canonical(key), d.at) > 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b netstate.Key) int { return bytes.Compare(canonical(a), canonical(b)) })
	n := min(len(keys), 1+w.rng.IntN(12))
	var block []byte
	for _, key := range keys[:n] {
		d.at = canonical(key)
		if t := d.req.FilterTable; t != 0 && key.Kind == netstate.KindRoute && key.ID != t {
			continue
		}
		for _, raw := range rows[key] {
			if d.req.FilterOif != 0 && !w.shows(raw, d.req.FilterOif) {
				continue
			}
			d.rows++
			if w.rng.IntN(400) == 0 { // lost or interrupted: rows are missing
				d.bad = true
				if w.rng.IntN(2) == 0 {
					d.rows--
					d.bad = false
					w.stream = append(w.stream, &transport.DumpEnd{Id: d.req.Id, Kind: d.req.Kind, Rows: d.rows, Interrupted: true})
					w.dump = nil
					return
				}
				continue
			}
			block = append(block, raw...)
		}
	}
	w.stream = append(w.stream, &transport.Block{Dump: d.req.Id, Kind: d.req.Kind, Bytes: block})
	if n == len(keys) {
		w.pump(true)
		w.stream = append(w.stream, &transport.DumpEnd{Id: d.req.Id, Kind: d.req.Kind, Rows: d.rows, Interrupted: d.bad && w.rng.IntN(2) == 0})
		w.dump = nil
	}
}

func (w *world) shows(raw []byte, oif uint32) bool {
	var d netstate.Route
	if err := d.Decode(raw); err != nil {
		panic(err)
	}
	for _, l := range d.Legs {
		if l.OIF == oif {
			return true
		}
	}
	h := w.k.nexthops[d.NexthopID]
	return h != nil && h.oif == oif
}

// deliver gives the Replica its next message and checks what it answers.
func (w *world) deliver() {
	if len(w.stream) > 0 {
		w.seq++
		var err error
		switch m := w.stream[0].(type) {
		case *transport.Block:
			err = w.r.Block(w.seq, m)
		case *transport.DumpEnd:
			err = w.r.DumpEnd(w.seq, m)
		case *transport.Overrun:
			w.r.Overrun(w.seq, m)
		}
		if err != nil {
			w.fail("%v", err)
		}
		w.stream = w.stream[1:]
	}
	if w.rng.IntN(2) == 0 {
		w.check(w.r.Changes())
	}
}

func (w *world) fail(format string, args ...any) {
	if w.fault == nil {
		w.fault = fmt.Errorf(format, args...)
	}
}

// check holds changes against the invariants: no row is removed more often than
// the kernel removed it, and none of the bystander's rows is ever touched (I2).
func (w *world) check(changes []netstate.Change) {
	for _, c := range changes {
		old := w.told[c.Key]
		if c.Row == nil {
			delete(w.told, c.Key)
			if w.gone[c.Key]++; w.gone[c.Key] > w.k.deaths[c.Key] {
				w.fail("%v was removed, but not by the kernel", c.Key)
			}
		} else {
			w.told[c.Key] = c.Row
		}
		if c.Key.Kind == netstate.KindRoute && c.Key.Addr[3] >= 200 && (c.Row == nil || old != nil || c.Row.Suspect) {
			w.fail("bystander %v was touched", c.Key)
		}
		if old != nil && c.Row != nil && old.Suspect == c.Row.Suspect && len(diffRows(
			map[netstate.Key]*netstate.Row{c.Key: old}, map[netstate.Key]*netstate.Row{c.Key: c.Row})) == 0 {
			w.fail("%v changed to what it was", c.Key)
		}
	}
}

// overrun loses what is on the socket.
func (w *world) overrun() {
	w.k.queue = w.k.queue[:w.rng.IntN(len(w.k.queue)+1)]
	w.pump(true)
	w.stream = append(w.stream, &transport.Overrun{Count: 1})
}

func (w *world) ask() {
	if w.request == nil && w.dump == nil {
		if d := w.r.Dumps(); len(d) > 0 {
			w.request = d[0]
		}
	}
}

// vanish adds a route that dies at once for no reason, ahead of where the dump of
// routes is: no rule predicts it, only the touch without a dump shows it.
func (w *world) vanish() {
	d := w.dump
	if d == nil || w.faithful || d.req.Kind != uint32(netstate.KindRoute) || d.req.FilterOif != 0 || d.req.FilterTable == 77 {
		return
	}
	raw := routeMsg(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 254, byte(150+w.rng.IntN(20)), []uint32{bystander}, 1, 0)
	if bytes.Compare(canonical(keyOf(raw)), d.at) > 0 && len(w.k.routes[keyOf(raw)]) == 0 {
		w.k.say(raw)
		w.k.deaths[keyOf(raw)]++
	}
}

// run performs steps and lets everything come to rest.
func (w *world) run(steps int) error {
	for range steps {
		switch n := w.rng.IntN(100); {
		case n < 15:
			if w.rng.IntN(w.calm) == 0 {
				w.k.step()
			}
		case n < 20:
			w.k.finish()
		case n < 35:
			w.pump(false)
		case n < 55:
			w.readDump()
		case n < 56 && w.rng.IntN(3*w.calm) == 0:
			w.overrun()
		case n < 58 && w.rng.IntN(w.calm) == 0:
			w.vanish()
		case n < 59 && w.rng.IntN(4*w.calm) == 0:
			w.r.RequestAudit()
		case n < 70:
			w.ask()
		default:
			w.deliver()
		}
	}
	w.k.finish()
	for range 20000 {
		w.pump(true)
		w.ask()
		w.readDump()
		w.deliver()
		if len(w.stream) == 0 && w.r.Settled() {
			w.check(w.r.Changes())
			return w.end()
		}
	}
	w.fail("not settled: %q", w.r.Pending())
	return w.fault
}

// end compares the Replica, and what its changes add up to, with the kernel.
func (w *world) end() error {
	want := map[netstate.Key]*netstate.Row{}
	for k, group := range w.k.rows() {
		want[k] = &netstate.Row{Key: k, Group: group}
	}
	for _, have := range []map[netstate.Key]*netstate.Row{rowsOf(w.r), w.told} {
		if d := diffRows(have, want); len(d) > 0 {
			w.fail("%d rows differ, first %s", len(d), d[0])
		}
	}
	if s := w.r.Stats(); s.Stranded > 0 {
		w.fail("%d dumps were asked for only because suspects were left over", s.Stranded)
	}
	return w.fault
}

// steps varies how long runs are: audits of a long one hide what went wrong early.
func steps(seed uint64) int { return 150 + 150*int(seed%10) }

func TestSimulation(t *testing.T) {
	for _, opt := range []Options{{Predict: true}, {Predict: false}} {
		var sum Stats
		for seed := range uint64(1000) {
			w := newWorld(seed, opt, mutation{})
			w.faithful = seed%3 == 0
			if err := w.run(steps(seed)); err != nil {
				t.Fatalf("seed %d, predict %t: %v", seed, opt.Predict, err)
			}
			for i, s := range w.r.Stats().Rules {
				sum.Rules[i].Suspects += s.Suspects
				sum.Rules[i].Right += s.Right
				sum.Rules[i].Wrong += s.Wrong
				sum.Rules[i].Told += s.Told
			}
			sum.Silent += w.r.Stats().Silent
			if n := w.r.Stats().Silent; n > 0 && w.faithful && opt.Predict {
				t.Errorf("seed %d: %d silent deletions no rule predicted", seed, n)
			}
		}
		for i, s := range sum.Rules {
			t.Logf("predict %t %-16s %+v", opt.Predict, Rule(i), s)
		}
		t.Logf("predict %t silent %d", opt.Predict, sum.Silent)
	}
}

// TestMutations breaks one rule at a time: some seed must notice.
func TestMutations(t *testing.T) {
	for name, wrong := range map[string]mutation{
		"a dump row wins over a notification": {dumpWins: true},
		"sweep after a failed dump":           {sweepFailed: true},
		"flush when a snapshot begins":        {flushOnSnapshot: true},
		"touched but not dumped is kept":      {keepUndumped: true},
		"a prediction deletes":                {predictDeletes: true},
		"no wait for RTNL":                    {noBarrier: true},
		"events are not replayed":             {noReplay: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(2000) {
				if err := newWorld(seed, Options{Predict: true}, wrong).run(steps(seed)); err != nil {
					t.Logf("seed %d catches it: %v", seed, err)
					if err := newWorld(seed, Options{Predict: true}, mutation{}).run(steps(seed)); err != nil {
						t.Errorf("but so does it without the mutation: %v", err)
					}
					return
				}
			}
			t.Error("no seed catches it")
		})
	}
}
