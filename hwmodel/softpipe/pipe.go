package softpipe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"antiphon/hwmodel"

	"golang.org/x/sys/unix"
)

// Options configure a pipe. The zero value is a device without ports.
type Options struct {
	// Name is Capabilities.Name; "softpipe" if empty.
	Name string
	// Instance is Capabilities.Instance; random if 0.
	Instance uint64
	Ports    []hwmodel.PortInfo
	// Sizes are the entries each table takes; 0 means the default (DefaultSizes).
	// TableRules bounds the rules of one family's list.
	Sizes [hwmodel.TableCount]uint32
}

// DefaultSizes are the table sizes of a pipe that is not told otherwise.
func DefaultSizes() [hwmodel.TableCount]uint32 {
	var s [hwmodel.TableCount]uint32
	s[hwmodel.TableSettings] = 1
	s[hwmodel.TableInterface] = 4096
	s[hwmodel.TableNeighbor] = 1 << 18
	s[hwmodel.TableNextHop] = 1 << 18
	s[hwmodel.TableGroup] = 1 << 18
	s[hwmodel.TableRoute] = 1<<20 + 1<<16 // a full IPv4 and some of an IPv6 table
	s[hwmodel.TableRules] = 4096
	s[hwmodel.TableOwnAddress] = 1 << 16
	return s
}

// hashPolicies are the multipath hash policies computed as the kernel does: 0 and 1.
const hashPolicies = 1<<0 | 1<<1

// Pipe is the device. It implements hwmodel.Pipe.
type Pipe struct {
	caps  hwmodel.Capabilities
	clock clock

	// ctl serialises everything that changes or reads back entries. It is never
	// taken by Run.
	ctl sync.Mutex
	// mu keeps t still while a vector runs. Writers hold ctl as well, so a
	// holder of ctl may read t without mu.
	mu sync.RWMutex
	t  tables

	// pool guards the workers: idle is a stack (the warmest first), all is
	// every worker ever made, as many as Run was ever called at one time.
	pool sync.Mutex
	idle []*worker
	all  []*worker
}

var _ hwmodel.Pipe = (*Pipe)(nil)

// New returns an empty pipe: it holds no settings, so it traps everything.
func New(o Options) *Pipe {
	p := &Pipe{clock: newClock()}
	p.caps = hwmodel.Capabilities{
		Name: o.Name, Instance: o.Instance, Ports: slices.Clone(o.Ports), Sizes: DefaultSizes(),
		HashPolicies4: hashPolicies, HashPolicies6: hashPolicies, MaxLegs: hwmodel.MaxGroupLegs,
	}
	if p.caps.Name == "" {
		p.caps.Name = "softpipe"
	}
	for p.caps.Instance == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		p.caps.Instance = binary.NativeEndian.Uint64(b[:])
	}
	for i, n := range o.Sizes {
		if n != 0 {
			p.caps.Sizes[i] = n
		}
	}
	// A slot of a route is a field of a lookup entry.
	p.caps.Sizes[hwmodel.TableRoute] = min(p.caps.Sizes[hwmodel.TableRoute], maxRoutes6)
	p.t = newTables(p.caps.Ports)
	return p
}

// Capabilities implements hwmodel.Device.
func (p *Pipe) Capabilities(context.Context) (hwmodel.Capabilities, error) {
	c := p.caps
	c.Ports = slices.Clone(c.Ports)
	return c, nil
}

// Run implements hwmodel.Pipe. Port counts are the caller's.
func (p *Pipe) Run(v *hwmodel.Vector) {
	w := p.take()
	p.mu.RLock()
	w.now = p.clock.now() // after the lock: see Counters
	w.run(&p.t, v)
	p.mu.RUnlock()
	w.v = nil
	p.give(w)
}

// take gets a worker nobody uses.
func (p *Pipe) take() *worker {
	p.pool.Lock()
	defer p.pool.Unlock()
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return w
	}
	w := new(worker)
	p.all = append(p.all, w)
	return w
}

func (p *Pipe) give(w *worker) {
	p.pool.Lock()
	p.idle = append(p.idle, w)
	p.pool.Unlock()
}

// workers returns every worker so far. A later one has counted nothing yet while
// the caller holds mu.
func (p *Pipe) workers() []*worker {
	p.pool.Lock()
	defer p.pool.Unlock()
	return p.all
}

// clock reads CLOCK_MONOTONIC without a system call: Go's own monotonic clock is
// the same one, known here only as a difference.
type clock struct {
	start time.Time
	base  uint64 // CLOCK_MONOTONIC nanoseconds at start
}

func newClock() clock {
	c := clock{start: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("softpipe: CLOCK_MONOTONIC: " + err.Error())
	}
	c.base = uint64(ts.Nano())
	return c
}

func (c clock) now() uint64 { return c.base + uint64(time.Since(c.start)) }
