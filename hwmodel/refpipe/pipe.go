package refpipe

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"antiphon/hwmodel"
)

// Options configure a Pipe. The zero value is a device without ports.
type Options struct {
	// Ports are declared as they are.
	Ports []hwmodel.PortInfo
	// Sizes limits the tables; a table with size 0 takes DefaultSize entries.
	Sizes [hwmodel.TableCount]uint32
	// MaxLegs limits groups; 0 means hwmodel.MaxGroupLegs.
	MaxLegs int
	// Instance tells lives apart; 0 means "take the time of New".
	Instance uint64
}

// DefaultSize is what a table takes unless Options say otherwise: far more than
// naive lookups are good for.
const DefaultSize = 1 << 20

// chunkEntries bounds what one call of an Entries yield function gets.
const chunkEntries = 1024

// Pipe is the reference device. Its methods may be called concurrently.
type Pipe struct {
	caps hwmodel.Capabilities

	mu       sync.Mutex // held for a whole vector and a whole batch
	tables   tables
	counters map[hwmodel.CounterID]*counter
	panics   uint64
}

// counter is one counter's reading and the number of entries that name it.
type counter struct {
	packets, bytes, lastUsed uint64
	entries                  int
}

func (c *counter) reading(id hwmodel.CounterID) hwmodel.Counter {
	return hwmodel.Counter{ID: id, Packets: c.packets, Bytes: c.bytes, LastUsed: c.lastUsed}
}

var _ hwmodel.Pipe = (*Pipe)(nil)

// New returns an empty device: it traps everything until it is programmed.
func New(o Options) *Pipe {
	p := &Pipe{
		caps: hwmodel.Capabilities{
			Name:          "refpipe",
			Instance:      o.Instance,
			Ports:         slices.Clone(o.Ports),
			Sizes:         o.Sizes,
			HashPolicies4: 1<<0 | 1<<1,
			HashPolicies6: 1<<0 | 1<<1,
			MaxLegs:       o.MaxLegs,
		},
		tables:   newTables(),
		counters: map[hwmodel.CounterID]*counter{},
	}
	if p.caps.Instance == 0 {
		p.caps.Instance = now()
	}
	if p.caps.MaxLegs == 0 {
		p.caps.MaxLegs = hwmodel.MaxGroupLegs
	}
	for t := range p.caps.Sizes {
		if p.caps.Sizes[t] == 0 {
			p.caps.Sizes[t] = DefaultSize
		}
	}
	p.caps.Sizes[0] = 0 // no table has number 0
	p.caps.Sizes[hwmodel.TableSettings] = 1
	return p
}

// now is the device clock: CLOCK_MONOTONIC in nanoseconds.
func now() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(fmt.Sprintf("CLOCK_MONOTONIC: %v", err)) // cannot fail on Linux
	}
	return uint64(ts.Nano())
}

// Capabilities implements hwmodel.Device.
func (p *Pipe) Capabilities(context.Context) (hwmodel.Capabilities, error) {
	c := p.caps
	c.Ports = slices.Clone(c.Ports)
	return c, nil
}

// Run implements hwmodel.Pipe.
func (p *Pipe) Run(v *hwmodel.Vector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := now()
	for i := range v.N {
		o := p.process(v.In[i], v.Frame[i], nil)
		v.Verdict[i], v.Reason[i], v.Out[i] = o.verdict, o.reason, o.out
		p.count(o.counters, len(v.Frame[i]), at)
		if o.verdict == hwmodel.Forward {
			// In place: a forwarded frame is never longer than it came.
			v.Frame[i] = v.Frame[i][:copy(v.Frame[i], o.frame)]
		}
	}
}

func (p *Pipe) count(ids []hwmodel.CounterID, bytes int, at uint64) {
	for _, id := range ids {
		if c := p.counters[id]; c != nil {
			c.packets++
			c.bytes += uint64(bytes)
			c.lastUsed = at
		}
	}
}

// Trace implements hwmodel.Device.
func (p *Pipe) Trace(_ context.Context, in hwmodel.PortID, frame []byte) (hwmodel.TraceResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r hwmodel.TraceResult
	o := p.process(in, slices.Clone(frame), &r.Steps)
	r.Verdict, r.Reason = o.verdict, o.reason
	if o.verdict == hwmodel.Forward {
		r.Out, r.Frame = o.out, o.frame
	}
	return r, nil
}

// process decides about one frame and leaves it as it is. A panic below, which
// gopacket is known for on hostile frames, is a trap.
func (p *Pipe) process(in hwmodel.PortID, frame []byte, steps *[]hwmodel.TraceStep) (o outcome) {
	defer func() {
		if e := recover(); e != nil {
			p.panics++
			o = outcome{reason: hwmodel.ReasonMalformed}
			if steps != nil {
				*steps = append(*steps, hwmodel.TraceStep{Stage: "parse", Detail: fmt.Sprintf("parser panicked: %v", e)})
			}
		}
	}()
	w := walk{tables: &p.tables, caps: &p.caps, steps: steps}
	return w.run(in, frame)
}

// Panics is how often a parser panic was caught. It is for tests and bug reports.
func (p *Pipe) Panics() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.panics
}

// Counters implements hwmodel.Device. A Pipe has no port counters: whoever moves
// the frames counts on ports.
func (p *Pipe) Counters(_ context.Context, since uint64) (hwmodel.CounterReport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := hwmodel.CounterReport{Now: now()}
	for id, c := range p.counters {
		if c.packets != 0 && c.lastUsed >= since {
			r.Counters = append(r.Counters, c.reading(id))
		}
	}
	slices.SortFunc(r.Counters, func(a, b hwmodel.Counter) int { return compare(a.ID, b.ID) })
	return r, nil
}
