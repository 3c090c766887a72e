// Package agenttest is the host's side of a session without a kernel, for tests
// of the agent: a scripted shim that holds netlink messages and answers dumps,
// barriers and verifies from them over a real session. Nothing of it goes into a
// program.
package agenttest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"antiphon/netstate"
	"antiphon/transport"
)

// Host is a scripted shim. Its methods may be called concurrently.
type Host struct {
	stream grpc.BidiStreamingClient[transport.FromShim, transport.FromAgent]

	mu       sync.Mutex
	changed  *sync.Cond
	seq      uint64
	rows     map[netstate.Key][]byte
	settings *transport.Settings
	held     Hold
	late     []func()
	acked    uint64
	used     [][]byte
	counters []*transport.Counter
	answers  map[uint64][]*transport.Answer
	asked    uint64
	ended    error
	over     bool
}

// Hold says what the host keeps back.
type Hold struct{ Dumps, Markers bool }

// Hello is a first shim's.
func Hello() *transport.Hello {
	return &transport.Hello{
		VersionMin: 1, VersionMax: 1, HostId: "host", BootId: "boot", Ticket: 1, Connection: 1,
		KernelRelease: "6.18.0-test", Features: []string{"strict-dump", "settings", "presences", "neighbour-use"},
	}
}

// FencedError is how a session ends that the agent refuses.
type FencedError struct{ Reason string }

func (e *FencedError) Error() string { return "fenced: " + e.Reason }

// Connect begins a session and serves it until ctx ends; Wait says how it ended.
func Connect(ctx context.Context, conn *grpc.ClientConn, hello *transport.Hello, hold Hold, rows [][]byte) (*Host, error) {
	stream, err := transport.NewAgentClient(conn).Session(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&transport.FromShim{Msg: &transport.FromShim_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	m, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if f := m.GetFenced(); f != nil {
		return nil, &FencedError{f.GetReason()}
	}
	if m.GetWelcome().GetVersion() != 1 {
		return nil, fmt.Errorf("the agent answers %v to a hello", m)
	}
	h := &Host{stream: stream, rows: map[netstate.Key][]byte{}, settings: RouterSettings(), held: hold, answers: map[uint64][]*transport.Answer{}}
	h.changed = sync.NewCond(&h.mu)
	for _, raw := range rows {
		k, _, err := netstate.KeyOf(raw)
		if err != nil {
			return nil, err
		}
		h.rows[k] = raw
	}
	h.mu.Lock()
	h.order(&transport.FromShim{Msg: &transport.FromShim_Settings{Settings: h.settings}})
	h.mu.Unlock()
	go h.serve()
	return h, nil
}

func (h *Host) serve() {
	for {
		m, err := h.stream.Recv()
		h.mu.Lock()
		if err != nil {
			h.over = true
			if h.ended == nil {
				h.ended = err
			}
			h.changed.Broadcast()
			h.mu.Unlock()
			return
		}
		h.take(m)
		h.changed.Broadcast()
		h.mu.Unlock()
	}
}

func (h *Host) take(m *transport.FromAgent) {
	switch msg := m.GetMsg().(type) {
	case *transport.FromAgent_Fenced:
		h.ended = &FencedError{msg.Fenced.GetReason()}
	case *transport.FromAgent_Ack:
		h.acked = msg.Ack.GetProgrammed()
	case *transport.FromAgent_Use:
		h.used = append(h.used, msg.Use.GetNeighbors()...)
	case *transport.FromAgent_Counters:
		h.counters = append(h.counters, msg.Counters.GetCounters()...)
	case *transport.FromAgent_Dump:
		h.later(h.held.Dumps, func() { h.dump(msg.Dump) })
	case *transport.FromAgent_Answer:
		h.answers[msg.Answer.GetId()] = append(h.answers[msg.Answer.GetId()], msg.Answer)
	case *transport.FromAgent_Ask:
		switch id := msg.Ask.GetId(); msg.Ask.GetVerb() {
		case transport.VerbBarrier:
			h.later(h.held.Markers, func() {
				h.order(&transport.FromShim{Msg: &transport.FromShim_Marker{Marker: &transport.Marker{Id: id}}})
			})
		case transport.VerbVerify:
			h.verify(id)
		}
	}
}

// later does something now, or when Release is called.
func (h *Host) later(held bool, f func()) {
	if held {
		h.late = append(h.late, f)
		return
	}
	f()
}

// Release does what was kept back, and keeps nothing back any more.
func (h *Host) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = Hold{}
	for _, f := range h.late {
		f()
	}
	h.late = nil
}

// Hold keeps things back from now on.
func (h *Host) Hold(hold Hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = hold
}

// send sends a message; that the session has ended shows in Wait.
func (h *Host) send(m *transport.FromShim) { _ = h.stream.Send(m) }

// order sends a message that is part of the mirror.
func (h *Host) order(m *transport.FromShim) {
	h.seq++
	m.Seq = h.seq
	h.send(m)
}

// block is all rows of a dump, in the order of their keys.
func (h *Host) block(d *transport.Dump) (block []byte, rows uint64) {
	var keys []netstate.Key
	for k := range h.rows {
		if k.Kind == netstate.Kind(d.GetKind()) && wanted(k, h.rows[k], d) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b netstate.Key) int {
		return bytes.Compare(a.AppendCanonical(nil), b.AppendCanonical(nil))
	})
	for _, k := range keys {
		block = append(block, h.rows[k]...)
		block = append(block, make([]byte, -len(block)&3)...)
	}
	return block, uint64(len(keys))
}

// wanted applies a dump's filter as the kernel does.
func wanted(k netstate.Key, raw []byte, d *transport.Dump) bool {
	if f := d.GetFilterFamily(); f != 0 && k.Family != 0 && uint32(k.Family) != f {
		return false
	}
	if t := d.GetFilterTable(); t != 0 && k.Kind == netstate.KindRoute && k.ID != t {
		return false
	}
	oif := d.GetFilterOif()
	if oif == 0 {
		return true
	}
	var r netstate.Route
	switch k.Kind {
	case netstate.KindRoute:
		return r.Decode(raw) == nil && slices.ContainsFunc(r.Legs, func(l netstate.Leg) bool { return l.OIF == oif })
	case netstate.KindAddr, netstate.KindNeighbor:
		return k.ID == oif
	}
	return true
}

func (h *Host) dump(d *transport.Dump) {
	block, n := h.block(d)
	h.order(&transport.FromShim{Msg: &transport.FromShim_Block{Block: &transport.Block{
		Dump: d.GetId(), Kind: d.GetKind(), First: true, Last: true, Bytes: block,
		FilterFamily: d.GetFilterFamily(), FilterTable: d.GetFilterTable(), FilterOif: d.GetFilterOif()}}})
	h.order(&transport.FromShim{Msg: &transport.FromShim_DumpEnd{DumpEnd: &transport.DumpEnd{Id: d.GetId(), Kind: d.GetKind(), Rows: n}}})
}

func (h *Host) verify(id uint64) {
	answer := func(m *transport.FromShim) {
		body, err := proto.Marshal(m)
		if err != nil {
			panic(err) // of messages of ours
		}
		h.send(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{Id: id, Body: body, More: true}}})
	}
	for i, kind := range netstate.Kinds {
		block, n := h.block(&transport.Dump{Kind: uint32(kind)})
		dump := uint64(i + 1)
		answer(&transport.FromShim{Msg: &transport.FromShim_Block{Block: &transport.Block{Dump: dump, Kind: uint32(kind), First: true, Last: true, Bytes: block}}})
		answer(&transport.FromShim{Msg: &transport.FromShim_DumpEnd{DumpEnd: &transport.DumpEnd{Id: dump, Kind: uint32(kind), Rows: n}}})
	}
	answer(&transport.FromShim{Msg: &transport.FromShim_Settings{Settings: h.settings}})
	h.send(&transport.FromShim{Msg: &transport.FromShim_Answer{Answer: &transport.Answer{Id: id}}})
}

// Put adds or replaces a row; told says whether a notification tells so.
func (h *Host) Put(raw []byte, told bool) error {
	k, _, err := netstate.KeyOf(raw)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows[k] = raw
	if told {
		h.order(&transport.FromShim{Msg: &transport.FromShim_Block{Block: &transport.Block{Bytes: raw}}})
	}
	return nil
}

// Remove takes a row away without a word.
func (h *Host) Remove(raw []byte) error {
	k, _, err := netstate.KeyOf(raw)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.rows, k)
	return nil
}

// Presences replaces the unmirrored kernel state.
func (h *Host) Presences(p ...*transport.Presence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settings = &transport.Settings{Settings: h.settings.GetSettings(), Presences: p}
	h.order(&transport.FromShim{Msg: &transport.FromShim_Settings{Settings: h.settings}})
}

// Overrun says that notifications were lost.
func (h *Host) Overrun() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order(&transport.FromShim{Msg: &transport.FromShim_Overrun{Overrun: &transport.Overrun{Count: 1}}})
}

// Send sends any message as it is.
func (h *Host) Send(m *transport.FromShim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.send(m)
}

// Ask relays a question to the agent and waits for the whole answer.
func (h *Host) Ask(verb string, args []byte) (body []byte, exit int, problem string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	id := h.asked
	h.send(&transport.FromShim{Msg: &transport.FromShim_Ask{Ask: &transport.Ask{Id: id, Verb: verb, Body: args}}})
	for {
		if list := h.answers[id]; len(list) > 0 && !list[len(list)-1].GetMore() {
			for _, a := range list {
				body = append(body, a.GetBody()...)
			}
			last := list[len(list)-1]
			return body, int(last.GetExit()), last.GetError()
		}
		if h.over {
			return nil, transport.ExitUnreachable, h.ended.Error()
		}
		h.changed.Wait()
	}
}

// Wait returns when the session has ended, and how.
func (h *Host) Wait() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.over {
		h.changed.Wait()
	}
	return h.ended
}

// Used waits for a neighbour that the agent says is in use.
func (h *Host) Used() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.used) == 0 {
		if h.over {
			return nil, h.ended
		}
		h.changed.Wait()
	}
	return h.used[0], nil
}

// Counter waits for the counter of a row that has counted packets.
func (h *Host) Counter(k netstate.Key, packets uint64) (*transport.Counter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		for _, c := range h.counters {
			if c.GetKind() == uint32(k.Kind) && c.GetDigest() == k.Digest() && c.GetPackets() >= packets {
				return c, nil
			}
		}
		if h.over {
			return nil, h.ended
		}
		h.changed.Wait()
	}
}

// Acked waits until the agent says that everything sent so far is programmed.
func (h *Host) Acked() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for want := h.seq; h.acked < want; {
		if h.over {
			return h.ended
		}
		h.changed.Wait()
	}
	return nil
}
