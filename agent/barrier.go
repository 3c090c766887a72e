package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"antiphon/transport"
)

// barrier is one that waits. done gets nil or why it never will be.
type barrier struct {
	id     uint64
	since  time.Time
	asked  bool   // of the shim of this session
	marked bool   // the shim's marker has come
	seq    uint64 // its sequence number
	done   chan error
}

// UnreachableError says that a part is gone that a barrier needs.
type UnreachableError struct{ Part, Why string }

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the %s cannot be reached: %s", e.Part, e.Why)
}

// PendingError says what a barrier was still waiting for.
type PendingError struct{ Pending []string }

func (e *PendingError) Error() string {
	return "timeout, still pending: " + strings.Join(e.Pending, "; ")
}

// errBusy: more barriers than maxBarriers.
var errBusy = fmt.Errorf("%d barriers wait already: ask again", maxBarriers)

// Barrier returns nil when every change that the kernel made before the call is
// in the device, or refused with a reason. With audit the whole kernel state is
// read again first. When ctx ends first, the error is a *PendingError; when shim
// or device are gone for longer than a restart takes, an *UnreachableError.
func (a *Agent) Barrier(ctx context.Context, audit bool) error {
	b := &barrier{done: make(chan error, 1)}
	for first := true; ; first = false {
		var full bool
		if err := a.do(ctx, func(c *core) { full = !c.enter(b, audit && first) }); err != nil {
			return a.notDone(ctx, b, err)
		}
		if full {
			return errBusy
		}
		select {
		case err := <-b.done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return a.notDone(ctx, b, context.Cause(ctx))
		case <-a.stopped:
			return ErrStopped
		}
		// The device may have been restarted a moment ago, by itself.
		if err := a.device.poll(ctx); err != nil {
			return a.notDone(ctx, b, err)
		}
		var good bool
		if err := a.do(ctx, func(c *core) {
			if good = c.passed(b); good {
				delete(c.barriers, b.id)
			}
		}); err != nil {
			return a.notDone(ctx, b, err)
		}
		if good {
			return nil
		}
	}
}

// notDone takes the barrier away and says what it waited for.
func (a *Agent) notDone(ctx context.Context, b *barrier, err error) error {
	if ctx.Err() == nil {
		return err
	}
	var pending []string
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := a.do(late, func(c *core) {
		pending = c.pending(b)
		delete(c.barriers, b.id)
	}); err != nil {
		return err
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	return &PendingError{Pending: pending}
}

// enter registers a barrier, or registers it again.
func (c *core) enter(b *barrier, audit bool) bool {
	if b.id == 0 {
		if len(c.barriers) >= maxBarriers {
			return false
		}
		c.lastAsk++
		b.id, b.since = c.lastAsk, c.now
		c.replica.RequestUnannounced()
	}
	c.barriers[b.id] = b
	if audit {
		c.replica.RequestAudit()
	}
	return true
}

// askBarriers asks the shim for the markers it does not know of yet.
func (c *core) askBarriers() {
	for _, b := range c.barriers {
		if !b.asked {
			b.asked = true
			c.out.asks = append(c.out.asks, &transport.Ask{Id: b.id, Verb: transport.VerbBarrier})
		}
	}
}

// passed says whether everything before the marker is in the device.
func (c *core) passed(b *barrier) bool {
	return c.session != nil && c.device.up && c.released && b.marked &&
		c.replica.Settled() && c.programmed >= b.seq &&
		c.batch == nil && c.inFlight == nil && !c.resolver.Pending()
}

func (c *core) checkBarriers() {
	for _, b := range c.barriers {
		if c.passed(b) {
			b.finish(nil)
		}
	}
}

// finish answers a barrier that has not been answered yet.
func (b *barrier) finish(err error) {
	select {
	case b.done <- err:
	default:
	}
}

// expireBarriers fails the barriers that wait for a part that is gone.
func (c *core) expireBarriers() {
	for id, b := range c.barriers {
		var err error
		switch {
		case c.session == nil && c.goneFor(b, c.sessionLost):
			err = &UnreachableError{"shim", ErrNoSession.Error()}
		case !c.device.up && c.goneFor(b, c.device.lost):
			err = &UnreachableError{"device", c.device.err.Error()}
		default:
			continue
		}
		delete(c.barriers, id)
		b.finish(err)
	}
}

func (c *core) goneFor(b *barrier, since time.Time) bool {
	if b.since.After(since) {
		since = b.since
	}
	return c.now.Sub(since) > reconnectGrace
}

// pending says for people what a barrier waits for.
func (c *core) pending(b *barrier) []string {
	var p []string
	switch {
	case c.session == nil:
		p = append(p, "shim: "+ErrNoSession.Error())
	case !b.marked:
		p = append(p, fmt.Sprintf("shim: has not sent the marker; last message %d", c.lastSeq))
	}
	if c.session != nil {
		p = append(p, c.replica.Pending()...)
	}
	if c.session != nil && c.replica.LastSettings() == nil {
		p = append(p, "shim: has not sent the settings")
	}
	switch {
	case !c.device.up:
		p = append(p, "device: "+c.device.err.Error())
	case c.batch != nil || c.inFlight != nil || c.resolver.Pending():
		p = append(p, fmt.Sprintf("device: programmed %d of %d", c.programmed, c.lastSeq))
	}
	if len(p) == 0 {
		p = append(p, "nothing any more: changes keep coming")
	}
	return p
}
