package hostshim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"antiphon/transport"
)

// sessionGrace is how long a question waits for a session.
const sessionGrace = 2 * time.Second

// question is a control call on its way to the agent.
type question struct {
	verb string
	args []byte
	// taken gets the answers and the end of the session that took the question.
	taken chan taken
	// ctx is the caller's: when it ends, nobody takes answers any more.
	done <-chan struct{}
}

type taken struct {
	answers <-chan *transport.Answer
	ended   <-chan struct{}
	forget  func()
}

// relay asks the agent for the control socket.
func (s *Shim) relay(ctx context.Context, verb string, args []byte) ([]byte, int, error) {
	q := &question{verb: verb, args: args, taken: make(chan taken, 1), done: ctx.Done()}
	grace := time.NewTimer(sessionGrace)
	defer grace.Stop()
	select {
	case s.asks <- q:
	case <-grace.C:
		return nil, transport.ExitUnreachable, fmt.Errorf("%s: the shim has no session with the agent", verb)
	case <-ctx.Done():
		return nil, transport.ExitNegative, ctx.Err()
	}
	t := <-q.taken
	defer t.forget()
	var body []byte
	for {
		select {
		case a := <-t.answers:
			if len(body)+len(a.GetBody()) > transport.MaxControlBody {
				return nil, transport.ExitNegative, fmt.Errorf("%s: the answer has more than %d bytes: use a filter", verb, transport.MaxControlBody)
			}
			body = append(body, a.GetBody()...)
			if a.GetMore() {
				continue
			}
			var err error
			if a.GetError() != "" {
				err = errors.New(a.GetError())
			}
			return body, int(a.GetExit()), err
		case <-t.ended:
			return nil, transport.ExitUnreachable, fmt.Errorf("%s: the session with the agent ended before the answer", verb)
		case <-ctx.Done():
			return nil, transport.ExitNegative, ctx.Err()
		}
	}
}

// answers leads the agent's answers of one session back to who asked.
type answers struct {
	ended <-chan struct{}

	mu     sync.Mutex
	last   uint64
	asking map[uint64]asking
}

type asking struct {
	answers chan *transport.Answer
	done    <-chan struct{}
}

func newAnswers(session context.Context) *answers {
	return &answers{ended: session.Done(), asking: map[uint64]asking{}}
}

// ask takes a question and returns what to send. The number of open questions is
// bounded by that of control calls (transport.MaxStreams per connection).
func (a *answers) ask(q *question) *transport.FromShim {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	id := a.last
	w := asking{answers: make(chan *transport.Answer), done: q.done}
	a.asking[id] = w
	q.taken <- taken{answers: w.answers, ended: a.ended, forget: func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.asking, id)
	}}
	return &transport.FromShim{Msg: &transport.FromShim_Ask{Ask: &transport.Ask{Id: id, Verb: q.verb, Body: q.args}}}
}

// deliver hands an answer over; one that nobody waits for any more is dropped.
func (a *answers) deliver(m *transport.Answer) {
	a.mu.Lock()
	w, ok := a.asking[m.GetId()]
	a.mu.Unlock()
	if !ok {
		return
	}
	select {
	case w.answers <- m:
	case <-w.done:
	case <-a.ended:
	}
}
