package hostshim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"antiphon/hostshim/counters"
	"antiphon/hostshim/feedback"
	"antiphon/hostshim/netns"
	"antiphon/hostshim/presence"
	"antiphon/hostshim/rtnl"
	"antiphon/transport"
)

// Options are a Shim's fixed choices.
type Options struct {
	// Agent is the address of the agent, see transport.Dial.
	Agent string
	// API is the path of the control socket; "" serves none.
	API string
	// Netns is the namespace to mirror, see netns.Open.
	Netns string
	// BPFFS is the folder of the counter maps; "" writes none.
	BPFFS string
	// LiveBuffer is the notification socket's buffer in bytes; 0 is
	// rtnl.DefaultBuffer.
	LiveBuffer int
	// Connect makes the connection to the agent instead of transport.Dial.
	Connect func() (*grpc.ClientConn, error)
	Log     zerolog.Logger
}

// ErrFenced means that the agent refuses this shim for good, because a newer one
// has taken its place.
var ErrFenced = errors.New("fenced: a newer shim has taken over")

// NamespaceError says that the namespace cannot be mirrored.
type NamespaceError struct{ Err error }

func (e *NamespaceError) Error() string { return e.Err.Error() }
func (e *NamespaceError) Unwrap() error { return e.Err }

// Reconnection waits this long, doubling from the first to the last.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// Shim mirrors one network namespace to one agent.
type Shim struct {
	opt  Options
	log  zerolog.Logger
	asks chan *question

	// What follows belongs to Run.
	ns       *netns.NS
	live     *rtnl.Live
	dumper   *rtnl.Dumper
	survey   *surveyor
	use      *feedback.Neighbors
	counters *counters.Writer // nil without BPFFS
	changed  chan struct{}    // settings may have changed
	arm      chan struct{}    // wait for the notification socket once
	readable chan struct{}    // it has something
	block    []byte           // the one buffer of netlink bytes
	hello    *transport.Hello
}

// New makes a shim. It opens and starts nothing.
func New(opt Options) *Shim {
	if opt.LiveBuffer == 0 {
		opt.LiveBuffer = rtnl.DefaultBuffer
	}
	if opt.Connect == nil {
		url := opt.Agent
		opt.Connect = func() (*grpc.ClientConn, error) { return transport.Dial(url) }
	}
	return &Shim{
		opt:      opt,
		log:      opt.Log,
		asks:     make(chan *question),
		changed:  make(chan struct{}, 1),
		arm:      make(chan struct{}, 1),
		readable: make(chan struct{}, 1),
		block:    make([]byte, 0, transport.MaxBlock),
	}
}

// Run mirrors until ctx ends (nil), the shim is fenced (ErrFenced), or it cannot
// work here at all: *NamespaceError, ErrLocked, or what a socket says. It keeps
// trying to reach the agent.
func (s *Shim) Run(ctx context.Context) error {
	var err error
	if s.ns, err = netns.Open(s.opt.Netns); err != nil {
		return &NamespaceError{err}
	}
	defer s.ns.Close()
	if err := lock(s.ns); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)

	watches, err := s.open()
	defer s.close()
	if err != nil {
		return err
	}
	for _, w := range watches {
		defer w.Close()
		group.Go(func() { w.Run(func() { signal(s.changed) }) })
	}
	group.Go(func() { s.poll(ctx) })
	if s.opt.API != "" {
		listener, err := transport.Listen("unix://" + s.opt.API)
		if err != nil {
			return err
		}
		srv := transport.NewServer()
		transport.ServeControl(srv, s.relay)
		group.Go(func() {
			if err := srv.Serve(listener); err != nil {
				cancel(fmt.Errorf("control socket: %w", err))
			}
		})
		defer srv.Stop()
	}
	conn, err := s.opt.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	return s.sessions(ctx, conn)
}

// open opens everything that outlives a session.
func (s *Shim) open() (watches []*presence.Watch, err error) {
	features := []string{"rtnetlink", "strict-dump", "settings", "presences", "neighbour-use"}
	if s.live, err = rtnl.OpenLive(s.ns.Fd(), s.opt.LiveBuffer); err != nil {
		return nil, err
	}
	if s.dumper, err = rtnl.OpenDumper(s.ns.Fd()); err != nil {
		return nil, err
	}
	if s.survey, err = newSurveyor(s.ns); err != nil {
		return nil, err
	}
	if s.use, err = feedback.Open(s.ns.Fd()); err != nil {
		return nil, err
	}
	if s.opt.BPFFS != "" {
		if s.counters, err = counters.Open(s.opt.BPFFS); err != nil {
			return nil, err
		}
		features = append(features, "bpf-counters")
	}
	if s.hello, err = hello(s.ns, features); err != nil {
		return nil, err
	}
	return presence.Watches(s.ns.Fd())
}

func (s *Shim) close() {
	if s.live != nil {
		s.live.Close()
	}
	if s.dumper != nil {
		s.dumper.Close()
	}
	if s.survey != nil {
		s.survey.close()
	}
	if s.use != nil {
		s.use.Close()
	}
	if s.counters != nil {
		s.counters.Close()
	}
}

// signal leaves a token in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// poll waits for the notification socket each time it is armed.
func (s *Shim) poll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.arm:
		}
		if err := s.live.Wait(); err != nil && errors.Is(err, os.ErrClosed) {
			return
		}
		signal(s.readable)
	}
}

// sessions runs one session after the other.
func (s *Shim) sessions(ctx context.Context, conn *grpc.ClientConn) error {
	backoff := firstBackoff
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	quiet := false
	for {
		s.hello.Connection++
		granted, err := s.session(ctx, conn)
		switch {
		case ctx.Err() != nil:
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case errors.Is(err, ErrFenced), errors.Is(err, errLocal):
			return err
		}
		if granted {
			backoff, quiet = firstBackoff, false
		}
		if !quiet {
			s.log.Warn().Err(err).Msg("no session with the agent; trying again")
			quiet = true
		}
		timer.Reset(backoff)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		backoff = min(2*backoff, lastBackoff)
		// What failed to connect may be there now.
		conn.ResetConnectBackoff()
	}
}
