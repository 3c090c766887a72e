package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"antiphon/hwmodel"
	"antiphon/transport"
)

// Limits of the agent, each with its reason.
const (
	// maxTasks bounds what waits for the core: a few blocks per sender; beyond
	// that senders block, and with them the session's flow control.
	maxTasks = 64
	// maxRelayed bounds the questions of a host that are answered at once.
	maxRelayed = 16
	// maxBarriers bounds the barriers that wait at once.
	maxBarriers = 64
	// reconnectGrace is how long a barrier waits for a shim or a device that is
	// not there: a restart takes less.
	reconnectGrace = 2 * time.Second
	// tickInterval is how often the core looks at the clock.
	tickInterval = 100 * time.Millisecond
	// useInterval is how often the host is told again that a neighbour which stays
	// stale is in use. The kernel's delay_first_probe_time, for which it looks
	// stale to the mirror although it is not any more, is 5 s.
	useInterval = 3 * time.Second
)

// Config is what an Agent needs. Zero durations mean the defaults.
type Config struct {
	Log zerolog.Logger
	// Device is programmed by this agent alone.
	Device hwmodel.Device
	// DeviceAddress is for people: where the device is.
	DeviceAddress string
	// Grace is how long the device goes on without a shim, or with shims that give
	// no complete snapshot; then everything traps.
	Grace time.Duration
	// AuditInterval is the time between whole dumps that nothing asked for;
	// negative: never.
	AuditInterval time.Duration
	// Predict makes rows that the kernel may have deleted in silence trap at once.
	Predict bool
}

// Defaults of Config.
const (
	DefaultGrace         = 120 * time.Second
	DefaultAuditInterval = 60 * time.Second
)

// Agent is the DPU's half of Antiphon. It implements transport.AgentServer.
type Agent struct {
	transport.UnimplementedAgentServer
	cfg   Config
	tasks chan func(*core)
	// stopped is closed when Run has returned: nobody takes tasks any more.
	stopped chan struct{}
	relay   transport.Handler
	device  *deviceLoop
	relays  chan struct{} // tokens of maxRelayed
}

// New returns an agent that does nothing before Run.
func New(cfg Config) *Agent {
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.AuditInterval == 0 {
		cfg.AuditInterval = DefaultAuditInterval
	}
	a := &Agent{
		cfg:     cfg,
		tasks:   make(chan func(*core), maxTasks),
		stopped: make(chan struct{}),
		relays:  make(chan struct{}, maxRelayed),
	}
	a.device = newDeviceLoop(cfg.Device, cfg.Log, a.post)
	return a
}

// ErrStopped says that the agent does not run any more.
var ErrStopped = errors.New("agent stopped")

// Run keeps the device in line with the mirror until ctx ends. relay answers the
// questions that the shim passes on; nil refuses them.
func (a *Agent) Run(ctx context.Context, relay transport.Handler) error {
	defer close(a.stopped)
	a.relay = relay
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.device.run(ctx) })
	group.Go(func() error { return a.loop(ctx) })
	return group.Wait()
}

// loop is the goroutine that owns the core.
func (a *Agent) loop(ctx context.Context) error {
	c := newCore(a.cfg, time.Now())
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	defer c.dropSession(ErrStopped)
	for {
		c.advance()
		var send chan<- *transport.FromAgent
		if c.outgoing != nil {
			send = c.session.send
		}
		var work chan<- *hwmodel.Batch
		if c.batch != nil {
			work = a.device.work
		}
		select {
		case <-ctx.Done():
			return nil
		case task := <-a.tasks:
			task(c)
		case send <- c.outgoing:
			c.outgoing = nil
		case work <- c.batch:
			c.handedOver()
		case now := <-tick.C:
			c.tick(now)
		}
	}
}

// post hands a task to the core and does not wait for it.
func (a *Agent) post(ctx context.Context, task func(*core)) error {
	select {
	case a.tasks <- task:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.stopped:
		return ErrStopped
	}
}

// do runs a task in the core and waits until it is done.
func (a *Agent) do(ctx context.Context, task func(*core)) error {
	done := make(chan struct{})
	if err := a.post(ctx, func(c *core) { defer close(done); task(c) }); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.stopped:
		return ErrStopped
	}
}

// Device is the device, for questions that change nothing (Trace, Entries).
func (a *Agent) Device() hwmodel.Device { return a.cfg.Device }

// Refresh reads the device's counters now, so that a View shows them.
func (a *Agent) Refresh(ctx context.Context) error {
	if err := a.device.poll(ctx); err != nil {
		return fmt.Errorf("read device counters: %w", err)
	}
	return nil
}
