package truth

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"antiphon/hwmodel"
	"antiphon/transport"
)

// gate stands between shim and agent. It watches markers and acknowledgements,
// and can hold the agent's dump requests back, so that a mirror has nothing but
// notifications and its own predictions to go by.
type gate struct {
	transport.AgentServer

	mu     sync.Mutex
	moved  chan struct{} // closed and replaced when marker or ack moves
	marker uint64        // sequence number of the last Marker
	ack    uint64        // the last Ack.programmed
	held   bool
	queue  []func() error // dump requests that wait
	dumps  int            // requests passed on
	broken int            // dumps that ended interrupted
}

func newGate(a transport.AgentServer) *gate {
	return &gate{AgentServer: a, moved: make(chan struct{})}
}

type agentStream = grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]

// Session implements transport.AgentServer.
func (g *gate) Session(s agentStream) error {
	g.mu.Lock()
	g.marker, g.ack = 0, 0
	g.mu.Unlock()
	return g.AgentServer.Session(&gated{agentStream: s, gate: g})
}

// gated is one session's stream.
type gated struct {
	agentStream
	gate *gate
}

func (s *gated) Send(m *transport.FromAgent) error {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if m.GetDump() != nil {
		s.gate.dumps++
		if s.gate.held {
			s.gate.queue = append(s.gate.queue, func() error { return s.agentStream.Send(m) })
			return nil
		}
	}
	if a := m.GetAck(); a != nil {
		s.gate.ack = a.GetProgrammed()
		s.gate.move()
	}
	return s.agentStream.Send(m)
}

func (s *gated) Recv() (*transport.FromShim, error) {
	m, err := s.agentStream.Recv()
	if err == nil && (m.GetMarker() != nil || m.GetDumpEnd().GetInterrupted()) {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		if m.GetMarker() != nil {
			s.gate.marker = m.GetSeq()
			s.gate.move()
		} else {
			s.gate.broken++
		}
	}
	return m, err
}

func (g *gate) move() {
	close(g.moved)
	g.moved = make(chan struct{})
}

// hold keeps dump requests back until release.
func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = true
}

func (g *gate) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	for _, send := range g.queue {
		if err := send(); err != nil {
			return err
		}
	}
	g.queue = nil
	return nil
}

// at is the last marker's sequence number.
func (g *gate) at() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.marker
}

// programmed waits until a marker later than after has come and everything before
// it is in the device.
func (g *gate) programmed(ctx context.Context, after uint64) error {
	for {
		g.mu.Lock()
		done, moved := g.marker > after && g.ack >= g.marker, g.moved
		g.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) counts() (dumps, broken int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dumps, g.broken
}

// recorder is a device that remembers that it was told to trap everything.
type recorder struct {
	hwmodel.Device
	mu      sync.Mutex
	resyncs int
	batches int
}

func (r *recorder) Apply(ctx context.Context, b *hwmodel.Batch) (hwmodel.Result, error) {
	r.mu.Lock()
	r.batches++
	if s := b.Set.Settings; s != nil && s.Trap4 == hwmodel.ReasonResync && s.Trap6 == hwmodel.ReasonResync {
		r.resyncs++
	}
	r.mu.Unlock()
	return r.Device.Apply(ctx, b)
}

func (r *recorder) resynced() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resyncs
}
