// Package api holds the verbs that people and tests ask of the agent: barrier,
// show, counters, status, why, verify and trace, each answered with one JSON
// document. It reads the agent through agent.View and asks the host through
// agent.AskShim; it decides nothing about forwarding.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"antiphon/agent"
	"antiphon/transport"
)

const (
	// DefaultTimeout is how long barrier and verify wait unless told.
	DefaultTimeout = 30 * time.Second
)

// Verbs answers questions about one agent.
type Verbs struct {
	agent *agent.Agent
}

// New returns the verbs of an agent.
func New(a *agent.Agent) *Verbs { return &Verbs{agent: a} }

// usageError is a question that makes no sense: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errNegative ends a verb with exit status 1 and its document alone.
var errNegative = errors.New("negative answer")

// Call answers one question; it is a transport.Handler.
func (v *Verbs) Call(ctx context.Context, verb string, args []byte) ([]byte, int, error) {
	doc, err := v.dispatch(ctx, verb, args)
	var body []byte
	if doc != nil {
		var merr error
		if body, merr = json.Marshal(doc); merr != nil {
			return nil, transport.ExitNegative, fmt.Errorf("write the answer of %s: %w", verb, merr)
		}
	}
	var gone *agent.UnreachableError
	var wrong usageError
	switch {
	case err == nil:
		return body, transport.ExitOK, nil
	case errors.Is(err, errNegative):
		return body, transport.ExitNegative, nil
	case errors.As(err, &wrong):
		return body, transport.ExitUsage, err
	case errors.As(err, &gone), errors.Is(err, agent.ErrNoSession), errors.Is(err, agent.ErrStopped):
		return body, transport.ExitUnreachable, err
	}
	return body, transport.ExitNegative, err
}

func (v *Verbs) dispatch(ctx context.Context, verb string, raw []byte) (any, error) {
	switch verb {
	case transport.VerbBarrier:
		return answer(ctx, raw, v.barrier)
	case transport.VerbShow:
		return answer(ctx, raw, v.show)
	case transport.VerbCounters:
		return answer(ctx, raw, v.counters)
	case transport.VerbStatus:
		return answer(ctx, raw, v.status)
	case transport.VerbWhy:
		return answer(ctx, raw, v.why)
	case transport.VerbVerify:
		return answer(ctx, raw, v.verify)
	case transport.VerbTrace:
		return answer(ctx, raw, v.trace)
	}
	return nil, usage("unknown verb %.32q: want barrier, show, counters, status, why, verify or trace", verb)
}

// answer reads a verb's arguments and calls it. Arguments it does not know are
// an error: a newer CLI means something by them.
func answer[A any](ctx context.Context, raw []byte, f func(context.Context, A) (any, error)) (any, error) {
	var args A
	if len(bytes.TrimSpace(raw)) > 0 {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&args); err != nil {
			return nil, usage("arguments: %w", err)
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, usage("arguments: more than one JSON document")
		}
	}
	return f(ctx, args)
}

// noArgs are the arguments of verbs without any.
type noArgs struct{}

func timeout(ms uint32) time.Duration {
	if ms == 0 {
		return DefaultTimeout
	}
	return time.Duration(ms) * time.Millisecond
}

// BarrierAnswer is what barrier answers.
type BarrierAnswer struct {
	OK      bool     `json:"ok"`
	Pending []string `json:"pending,omitempty"`
}

func (v *Verbs) barrier(ctx context.Context, args transport.BarrierArgs) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(args.TimeoutMS))
	defer cancel()
	err := v.agent.Barrier(ctx, args.Audit)
	var pending *agent.PendingError
	if errors.As(err, &pending) {
		return BarrierAnswer{Pending: pending.Pending}, fmt.Errorf("barrier: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("barrier: %w", err)
	}
	return BarrierAnswer{OK: true}, nil
}
