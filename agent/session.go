package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"antiphon/transport"
)

// protocolVersion is the one version of the session protocol.
const protocolVersion = 1

// errFenced is why a session ends when a newer one takes its place.
var errFenced = errors.New("a newer shim holds the session")

// session is one live stream.
type session struct {
	hello *transport.Hello
	peer  string
	since time.Time
	// ctx ends with the session; its cause says why.
	ctx  context.Context
	end  context.CancelCauseFunc
	send chan *transport.FromAgent

	mu   sync.Mutex
	asks map[uint64]chan<- *transport.Answer
}

// Session serves one shim: it returns when the stream ends, or a newer shim
// takes over.
func (a *Agent) Session(stream grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]) error {
	hello, err := transport.ReceiveHello(stream)
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	s := &session{hello: hello, since: time.Now(), send: make(chan *transport.FromAgent), asks: map[uint64]chan<- *transport.Answer{}}
	if p, ok := peer.FromContext(stream.Context()); ok {
		s.peer = p.Addr.Network()
		if at := p.Addr.String(); at != "" && at != "@" { // unix clients have no name
			s.peer += " " + at
		}
	}
	s.ctx, s.end = context.WithCancelCause(stream.Context())
	defer s.end(nil)

	var welcome *transport.Welcome
	var refused error
	if err := a.do(s.ctx, func(c *core) { welcome, refused = c.admit(s) }); err != nil {
		return err
	}
	if refused != nil {
		return stream.Send(&transport.FromAgent{Msg: &transport.FromAgent_Fenced{Fenced: &transport.Fenced{Reason: refused.Error()}}})
	}
	defer a.post(context.WithoutCancel(s.ctx), func(c *core) { c.lost(s) })
	if err := stream.Send(&transport.FromAgent{Msg: &transport.FromAgent_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	// Recv returns when this handler does.
	go func() { s.end(a.receive(s, stream)) }()
	for {
		select {
		case m := <-s.send:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-s.ctx.Done():
			err := context.Cause(s.ctx)
			if errors.Is(err, errFenced) {
				return stream.Send(&transport.FromAgent{Msg: &transport.FromAgent_Fenced{Fenced: &transport.Fenced{Reason: err.Error()}}})
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// receive passes on what the shim sends until the stream ends.
func (a *Agent) receive(s *session, stream grpc.BidiStreamingServer[transport.FromShim, transport.FromAgent]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch msg := m.GetMsg().(type) {
		case *transport.FromShim_Ask:
			a.answer(s, msg.Ask)
		case *transport.FromShim_Answer:
			s.deliver(msg.Answer)
		default:
			if err := a.post(s.ctx, func(c *core) { c.receive(s, m) }); err != nil {
				return err
			}
		}
	}
}

// answer lets the verbs answer a question of the host, in its own goroutine,
// which ends with the session.
func (a *Agent) answer(s *session, ask *transport.Ask) {
	reply := func(m *transport.Answer) bool {
		m.Id = ask.GetId()
		select {
		case s.send <- &transport.FromAgent{Msg: &transport.FromAgent_Answer{Answer: m}}:
			return true
		case <-s.ctx.Done():
			return false
		}
	}
	fail := func(exit uint32, why string) { reply(&transport.Answer{Error: why, Exit: exit}) }
	select {
	case a.relays <- struct{}{}:
	default:
		// Not in a goroutine: who asks without reading the answers must wait.
		fail(transport.ExitNegative, fmt.Sprintf("the agent answers %d questions already: ask again", maxRelayed))
		return
	}
	go func() {
		defer func() { <-a.relays }()
		if a.relay == nil {
			fail(transport.ExitSkew, "the agent answers no questions")
			return
		}
		body, exit, err := a.relay(s.ctx, ask.GetVerb(), ask.GetBody())
		last := &transport.Answer{Exit: uint32(exit)}
		if err != nil {
			last.Error = err.Error()
		}
		for len(body) > transport.MaxAnswer {
			if !reply(&transport.Answer{Body: body[:transport.MaxAnswer], More: true}) {
				return
			}
			body = body[transport.MaxAnswer:]
		}
		last.Body = body
		reply(last)
	}()
}

// expect registers for the answers to a question; forget must be called.
func (s *session) expect(id uint64, answers chan<- *transport.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks[id] = answers
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asks, id)
}

// deliver hands an answer to whoever asked. It never blocks: a channel that is
// full belongs to an asker who falls behind, which ends the session's receiver
// for as long as askWait at most.
func (s *session) deliver(m *transport.Answer) {
	s.mu.Lock()
	answers := s.asks[m.GetId()]
	s.mu.Unlock()
	if answers == nil {
		return // nobody waits any more
	}
	stalled := time.NewTimer(askStall)
	defer stalled.Stop()
	select {
	case answers <- m:
	case <-s.ctx.Done():
	case <-stalled.C:
		s.end(fmt.Errorf("answers to question %d are not taken", m.GetId()))
	}
}

// askStall is how long an answer may wait for the one who asked.
const askStall = 5 * time.Second

// ErrNoSession says that no shim is connected.
var ErrNoSession = errors.New("no shim is connected")

// AskShim sends a question to the shim and calls each with the body of every
// answer, in order.
func (a *Agent) AskShim(ctx context.Context, verb string, body []byte, each func(body []byte) error) error {
	answers := make(chan *transport.Answer, 4)
	var s *session
	var id uint64
	if err := a.do(ctx, func(c *core) {
		if s = c.session; s != nil {
			c.lastAsk++
			id = c.lastAsk
		}
	}); err != nil {
		return err
	}
	if s == nil {
		return ErrNoSession
	}
	s.expect(id, answers)
	defer s.forget(id)
	ask := &transport.FromAgent{Msg: &transport.FromAgent_Ask{Ask: &transport.Ask{Id: id, Verb: verb, Body: body}}}
	select {
	case s.send <- ask:
	case <-s.ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoSession, context.Cause(s.ctx))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		select {
		case m := <-answers:
			if m.GetError() != "" {
				return fmt.Errorf("the shim answers %s: %s", verb, m.GetError())
			}
			if len(m.GetBody()) > 0 {
				if err := each(m.GetBody()); err != nil {
					return err
				}
			}
			if !m.GetMore() {
				return nil
			}
		case <-s.ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoSession, context.Cause(s.ctx))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
