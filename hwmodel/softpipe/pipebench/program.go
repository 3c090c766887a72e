package pipebench

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"antiphon/hwmodel"
	"antiphon/hwmodel/softpipe"
)

// programBatch is how many routes a batch programs at most.
const programBatch = 4096

// Program is routes to program, in the order of a kernel's dump: by prefix.
type Program struct {
	f      *Forward
	others hwmodel.Batch // all that is no route
	routes []hwmodel.Batch
	// ballast, which nobody touches, has Go's heap keep memory from round to round:
	// getting it from the system varies by more than all the rest.
	ballast []byte
}

// NewProgram makes random routes as NewForward does, and packets for them.
func NewProgram(routes int) (*Program, error) {
	f, err := NewForward(routes, HotPackets)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(f.routes, func(a, b feedRoute) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.bits, b.bits))
	})
	p := &Program{f: f, others: *f.batch(), ballast: make([]byte, 1<<30)}
	for some := range slices.Chunk(p.others.Set.Routes, programBatch) {
		p.routes = append(p.routes, hwmodel.Batch{Set: hwmodel.Entries{Routes: some}})
	}
	p.others.Set.Routes = nil
	return p, nil
}

// Run programs an empty pipe, batch by batch, while another thread forwards packets
// with it, and returns how many routes that were and the CPU time of the thread that
// programs. It fails if not all packets are forwarded afterwards.
func (p *Program) Run() (routes int, cpu time.Duration, err error) {
	runtime.GC() // so that the pipe before has left its memory
	pipe := softpipe.New(softpipe.Options{Ports: []hwmodel.PortInfo{{ID: 1}, {ID: 2}}})
	ctx := context.Background()
	if _, err := pipe.Apply(ctx, &p.others); err != nil {
		return 0, 0, err
	}
	p.f.pipe = pipe
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _, _ = p.f.Run(10) // loses packets until their routes are there
			}
		}
	})
	cpu = threadTime(func() {
		for i := range p.routes {
			var r hwmodel.Result
			if r, err = pipe.Apply(ctx, &p.routes[i]); err == nil && len(r.Refused) > 0 {
				err = fmt.Errorf("refused: %v", r.Refused[0])
			}
			if err != nil {
				return
			}
		}
	})
	close(stop)
	reader.Wait()
	if err == nil {
		_, _, err = p.f.Run(1)
	}
	runtime.KeepAlive(p.ballast)
	return len(p.f.routes), cpu, err
}

// Plain builds a DIR-24-8 table of the same prefixes in the same order and nothing
// else: no counters, no groups, no way to find or remove a prefix again. Its memory
// comes from Go's heap like softpipe's, and costs it likewise. It fails if a packet's
// destination is not found afterwards.
func (p *Program) Plain() (routes int, cpu time.Duration, err error) {
	var t dir24
	runtime.GC()
	cpu = threadTime(func() {
		t.root = make([]uint32, 1<<24)
		for i, r := range p.f.routes {
			t.add(r.addr, r.bits, uint32(i+1))
		}
	})
	for frame := range slices.Chunk(p.f.fresh, frameLen) {
		if t.lookup(binary.BigEndian.Uint32(frame[30:])) == 0 {
			return 0, 0, fmt.Errorf("no route to %x", frame[30:34])
		}
	}
	return len(p.f.routes), cpu, nil
}

// dir24 is a plain DIR-24-8 table. An entry is slot << 7 | length << 1, or the number
// of a block << 1 | 1; the lengths make the order of the prefixes free.
type dir24 struct {
	root, blocks []uint32
}

func (t *dir24) add(addr, bits, slot uint32) {
	e := slot<<7 | bits<<1
	if bits <= 24 {
		for i := range t.root[addr>>8:][:1<<(24-bits)] {
			at := &t.root[addr>>8:][i]
			if *at&1 != 0 {
				t.paint(t.blocks[*at>>1<<8:][:256], e)
			} else if *at>>1&63 <= bits {
				*at = e
			}
		}
		return
	}
	at := &t.root[addr>>8]
	if *at&1 == 0 {
		var block [256]uint32
		for i := range block {
			block[i] = *at
		}
		*at = uint32(len(t.blocks)/256)<<1 | 1
		t.blocks = append(t.blocks, block[:]...)
	}
	t.paint(t.blocks[*at>>1<<8|addr&255:][:1<<(32-bits)], e)
}

func (t *dir24) paint(entries []uint32, e uint32) {
	for i, old := range entries {
		if old>>1&63 <= e>>1&63 {
			entries[i] = e
		}
	}
}

func (t *dir24) lookup(a uint32) (slot uint32) {
	e := t.root[a>>8]
	if e&1 != 0 {
		e = t.blocks[e>>1<<8|a&255]
	}
	return e >> 7
}
